// What both pages share: elements without HTML, the key of who is asking, and calls to the server.

const ELEMENTS = new Set([
  "p", "ul", "ol", "li", "strong", "em", "del", "code", "pre", "blockquote", "hr", "br", "span",
  "table", "thead", "tbody", "tr", "th", "td", "h3", "h4", "h5", "h6",
]);
const BLOCKS = new Set(["p", "li", "pre", "blockquote", "td", "th", "h3", "h4", "h5", "h6"]);

export const $ = (id) => document.getElementById(id);

// An element of our own; text is only ever a text node.
export function element(name, classes = "", ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.append(...children);
  return made;
}

// The nodes of a tree that the server read out of a text; whatever is not on the list becomes a span.
export function build(tree) {
  return tree.map((node) => {
    if (typeof node === "string") return document.createTextNode(node);
    const [name, attributes, children] = node;
    const made = document.createElement(ELEMENTS.has(name) ? name : "span");
    made.append(...build(children));
    if (BLOCKS.has(name)) made.dir = "auto"; // each block finds its own direction, and keeps it to itself
    if (name === "ol" && Number.isInteger(attributes.start)) made.start = attributes.start;
    if (attributes.class === "link") {
      // Shown, never followed: where a link leads is part of what is judged.
      made.className = "link";
      made.append(element("span", "where", ` <${attributes.where}>`));
    }
    if (name !== "table") return made;
    const frame = element("div", "wide", made);
    frame.tabIndex = 0;
    return frame;
  });
}

// --- what the browser keeps; where it keeps nothing, this page's memory does ---------------------------

const memory = new Map();

export function recall(name) {
  try {
    const kept = localStorage.getItem(`preftune ${name}`);
    return kept === null ? memory.get(name) ?? null : JSON.parse(kept);
  } catch {
    return memory.get(name) ?? null;
  }
}

export function remember(name, value) {
  memory.set(name, value);
  try {
    if (value === null) localStorage.removeItem(`preftune ${name}`);
    else localStorage.setItem(`preftune ${name}`, JSON.stringify(value));
  } catch {
    // full or forbidden: memory has it
  }
}

// The key after the # of a link, taken out of the address so that it is not passed on with it.
export function takeKey(name) {
  const found = new RegExp(`^#${name}=([\\w.-]+)$`).exec(location.hash);
  if (!found) return null;
  history.replaceState(null, "", location.pathname);
  return found[1];
}

// --- calls ---------------------------------------------------------------------------------------------

export class Failure extends Error {
  // status 0: the server was not reached
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export async function call(path, key, body) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response, document;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit",
      signal: AbortSignal.timeout(30000),
    });
    document = await response.json().catch(() => ({}));
  } catch {
    throw new Failure(0, "The server does not answer.");
  }
  if (!response.ok) {
    const text = [document.error, document.mend].filter(Boolean).join(" ");
    throw new Failure(response.status, text || `The server answers ${response.status}.`);
  }
  return document;
}
