import { $, Failure, build, call, element, recall, remember, takeKey } from "./page.js";

const DEAF_MS = 300; // after a new item appears: a key pressed twice must not answer what nobody has read
const SAID_MS = { kept: 1800, more: 8000 }; // then it is out of the way of the texts
const LOOK_AGAIN_MS = 20000; // when nothing is left: what somebody else gives back may come here
const SAID = { 1: "Answer 1", 2: "Answer 2", tie: "Tie", both_bad: "Both bad", skip: "Skipped" };
const STRENGTHS = { 1: "slightly", 2: "clearly", 3: "much" };

const me = { key: recall("key"), join: recall("join"), alone: false, rubric: null, keys: recall("single keys") !== false };
const now = { item: null, strength: null, busy: false, shownAt: 0, written: recall("written") === true, timer: 0, hush: 0 };
const clock = { spent: 0, since: null };

begin();

async function begin() {
  const join = takeKey("join");
  const own = takeKey("me");
  if (join) remember("join", (me.join = join));
  if (own) remember("key", (me.key = own));
  $("keys").checked = me.keys;
  listen();
  showWritten();
  if (!me.key) return askName();
  const unsent = recall(`unsent ${me.key}`);
  if (unsent) return send(unsent);
  await load();
}

// --- who ----------------------------------------------------------------------------------------------

async function askName() {
  let problem = "";
  try {
    const door = await call("/api/door");
    if (door.alone) {
      await join(""); // the server knows who it is
      return load();
    }
    if (!door.local && !me.join) problem = "To take part, open the link that you were sent.";
  } catch (failure) {
    problem = failure.message;
  }
  only("join");
  $("join-problem").textContent = problem;
  $("name").focus();
}

async function join(name) {
  const joined = await call("/api/join", null, { name, key: me.join ?? "" });
  remember("key", (me.key = joined.key));
}

async function submitName(event) {
  event.preventDefault();
  try {
    await join($("name").value);
    await load();
  } catch (failure) {
    $("join-problem").textContent = failure.message;
  }
}

function leave() {
  $("help").close();
  remember("key", (me.key = null));
  now.item = null;
  only("join");
  $("join-problem").textContent = "";
  $("name").value = "";
  $("name").focus();
}

// --- items --------------------------------------------------------------------------------------------

async function load() {
  try {
    const work = await call("/api/work", me.key);
    me.alone = work.alone;
    $("who").textContent = `You are ${work.name}.`;
    $("leave").hidden = work.alone;
    showRubric(work);
    show(work);
  } catch (failure) {
    if (failure.status === 401) return leave();
    tellDone("Nothing can be shown", `${failure.message} This page tries again.`, false);
    clearTimeout(now.timer);
    now.timer = setTimeout(load, 3000);
  }
}

function show(work) {
  clearTimeout(now.timer);
  now.item = work.item;
  now.busy = false;
  showStanding(work);
  if (!work.item) return showDone();
  only("work");
  const { answer } = work.item;
  const draft = takeDraft(work.item.number);
  showTexts();
  setStrength(draft?.strength ?? answer?.strength ?? null);
  $("reason").value = draft?.reason ?? answer?.reason ?? "";
  for (const button of document.querySelectorAll(".choice"))
    button.setAttribute("aria-pressed", String(button.dataset.choice === answer?.choice));
  $("banner").hidden = !answer;
  if (answer) $("said-before").textContent = `You said: ${SAID[answer.choice]}. Choose again to change it.`;
  scrollTo(0, 0);
  $("ask").focus({ preventScroll: true });
  now.shownAt = performance.now();
  clock.spent = draft?.spent ?? 0;
  clock.since = null;
  runClock();
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches)
    $("work").animate([{ opacity: 0.25 }, { opacity: 1 }], { duration: 160, easing: "ease-out" });
}

function showTexts() {
  const { prompt, answers } = now.item;
  fill($("prompt"), prompt, "user");
  fill($("answer-1"), answers[0], "assistant");
  fill($("answer-2"), answers[1], "assistant");
  const box = $("prompt");
  box.classList.remove("whole");
  $("whole").setAttribute("aria-expanded", "false");
  const isLong = box.scrollHeight > box.clientHeight + 24;
  $("whole").hidden = !isLong;
  box.classList.toggle("whole", !isLong);
  if (isLong) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
  $("work").classList.toggle("is-long", $("work").scrollHeight > 1.5 * innerHeight);
  if (prompt.length > 1) box.scrollTop = box.scrollHeight; // of a dialogue, what is to be answered stands last
}

function fill(box, turns, usual) {
  const named = turns.length > 1 || turns.some((turn) => turn.role !== usual);
  const parts = turns.flatMap((turn) => {
    const isWritten = now.written || turn.tree === null;
    const text = isWritten ? [element("div", "written", turn.written)] : build(turn.tree);
    if (isWritten) text[0].dir = "auto";
    const body = element("div", "turn", ...text);
    return named ? [element("p", "role", turn.role), body] : [body];
  });
  box.replaceChildren(...parts);
  if (!turns.some((turn) => turn.written.trim())) box.replaceChildren(element("p", "nothing", "(empty)"));
}

function showDone() {
  pauseClock();
  const text = me.alone
    ? "Every item is judged. Go back to change an answer, or finish."
    : "Nothing is left for you at the moment. Your answers are kept; you can close this page.";
  tellDone("That is all", text, me.alone);
  if (!me.alone) now.timer = setTimeout(load, LOOK_AGAIN_MS);
}

function tellDone(title, text, canFinish) {
  const wasThere = !$("done").hidden;
  only("done");
  $("done-title").textContent = title;
  $("done-text").textContent = text;
  $("finish").hidden = !canFinish;
  if (!wasThere) (canFinish ? $("finish") : $("done")).focus(); // and does not take it away at every look
}

function showStanding(work) {
  const all = me.alone ? `, ${work.percent}%` : ` by you, ${work.percent}% of all votes`;
  $("standing").replaceChildren(`${work.answered} answered`, element("span", "all", all));
  $("track").hidden = false;
  $("track").setAttribute("aria-valuenow", work.percent);
  $("bar").value = work.percent;
}

function only(part) {
  for (const each of ["join", "done", "work"]) $(each).hidden = each !== part;
  $("tools").hidden = part === "join";
  $("desk").hidden = part === "join";
  $("desk").classList.toggle("only-back", part === "done");
  unfoldRubric();
  if (part !== "work") $("rubric").hidden = true;
}

// --- answers ------------------------------------------------------------------------------------------

async function vote(choice) {
  if (!now.item || now.busy || performance.now() - now.shownAt < DEAF_MS) return;
  pauseClock();
  const given = {
    item: now.item.number,
    choice,
    seconds: Math.round(clock.spent / 100) / 10,
    request: name(),
    strength: now.strength,
    reason: $("reason").value.trim() || null,
  };
  for (const button of document.querySelectorAll(".choice"))
    button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
  await send(given);
}

async function send(given, tried = 0) {
  const strength = given.strength && ["1", "2"].includes(given.choice) ? `, ${STRENGTHS[given.strength]}` : "";
  now.busy = true;
  const slot = `unsent ${me.key}`; // a place of each person's own
  remember(slot, given);
  try {
    const work = await call("/api/vote", me.key, given);
    remember(slot, null);
    remember("draft", null);
    foldRubric();
    if ($("who").textContent) show(work);
    else await load(); // what an earlier page had not sent
    say(`${SAID[given.choice]}${strength}: kept.`, work.label);
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.status === 0 || failure.status >= 500) return sendAgain(given, tried, failure);
    remember(slot, null);
    now.busy = false;
    if (failure.status === 401) return leave();
    await load();
    say(failure.message);
  }
}

// The answer waits in the browser's storage, so that it outlives the page too.
function sendAgain(given, tried, failure) {
  const seconds = Math.min(2 ** (tried + 1), 30);
  $("said").classList.add("is-waiting");
  say(`${failure.message} Your answer is kept here and sent again in ${seconds} s.`);
  setTimeout(() => {
    $("said").classList.remove("is-waiting");
    send(given, tried + 1);
  }, 1000 * seconds);
  $("desk").hidden = false;
}

async function back() {
  if (now.busy) return;
  pauseClock();
  keepDraft();
  const before = now.item?.answer ? `?before=${now.item.number}` : "";
  try {
    const work = await call(`/api/back${before}`, me.key);
    if (work.item) return show(work);
    say("This is the first that you answered.");
  } catch (failure) {
    say(failure.message);
  }
  runClock();
}

function goOn() {
  if (now.item?.answer && !now.busy) load();
}

async function finish() {
  try {
    await call("/api/finish", me.key, {});
    tellDone("Thank you", "You can close this page; the terminal shows the result.", false);
    $("desk").hidden = $("tools").hidden = true;
  } catch (failure) {
    say(failure.message);
  }
}

function say(text, label) {
  const isPlain = !label && text.endsWith("kept.");
  $("said").textContent = label ? `${text} Known answer: ${SAID[label]}.` : text;
  clearTimeout(now.hush);
  if (!$("said").classList.contains("is-waiting")) now.hush = setTimeout(() => ($("said").textContent = ""), SAID_MS[isPlain ? "kept" : "more"]);
}

function setStrength(strength) {
  now.strength = strength;
  for (const button of document.querySelectorAll(".strength"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.strength) === strength));
}

// A name for one answer, so that sent twice it counts once; randomUUID is missing where the page has no TLS.
function name() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- time and drafts ----------------------------------------------------------------------------------

function runClock() {
  if (now.item && clock.since === null && !document.hidden) clock.since = performance.now();
}

function pauseClock() {
  if (clock.since !== null) clock.spent += performance.now() - clock.since;
  clock.since = null;
}

function keepDraft() {
  if (!now.item || now.item.answer || now.busy) return;
  const { number } = now.item;
  remember("draft", { number, spent: clock.spent, strength: now.strength, reason: $("reason").value });
}

function takeDraft(number) {
  const draft = recall("draft");
  return draft?.number === number ? draft : null;
}

function onVisibility() {
  if (document.hidden) {
    pauseClock();
    keepDraft();
  } else if (!now.busy) runClock();
}

// --- the page -----------------------------------------------------------------------------------------

// Guidelines are open until the first answer, and then as they were last left; new ones are open again.
function showRubric(work) {
  me.rubric = work.rubric_version;
  $("rubric-button").hidden = !work.rubric;
  $("rubric").replaceChildren(...build(work.rubric ?? []));
}

function isRubricOpen() {
  return me.rubric !== null && recall("rubric folded") !== me.rubric;
}

function toggleRubric() {
  if (me.rubric === null) return;
  const folded = isRubricOpen() ? me.rubric : "never";
  remember("rubric folded", folded);
  unfoldRubric();
  if (isRubricOpen()) scrollTo(0, 0);
}

function foldRubric() {
  if (isRubricOpen() && recall("rubric folded") !== "never") remember("rubric folded", me.rubric);
}

function unfoldRubric() {
  $("rubric").hidden = !isRubricOpen();
  $("rubric-button").setAttribute("aria-expanded", String(isRubricOpen()));
}

function toggleWritten() {
  remember("written", (now.written = !now.written));
  showWritten();
  if (now.item) showTexts();
}

function showWritten() {
  $("written-button").setAttribute("aria-pressed", String(now.written));
}

function toggleWhole() {
  if ($("whole").hidden) return;
  const isWhole = $("prompt").classList.toggle("whole");
  $("whole").setAttribute("aria-expanded", String(isWhole));
  $("whole").firstChild.textContent = isWhole ? "Show less " : "Show all ";
}

function toggleExtra() {
  const isOpen = $("extra").classList.toggle("is-open");
  $("more").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) $("reason").focus();
}

function writeReason(event) {
  event?.preventDefault();
  if (getComputedStyle($("extra")).display === "none") return toggleExtra();
  $("reason").focus();
}

const KEYS = {
  t: () => vote("tie"),
  b: () => vote("both_bad"),
  s: () => vote("skip"),
  u: back,
  q: () => setStrength(now.strength === 1 ? null : 1),
  w: () => setStrength(now.strength === 2 ? null : 2),
  e: () => setStrength(now.strength === 3 ? null : 3),
  n: writeReason,
  p: toggleWhole,
  m: toggleWritten,
  g: toggleRubric,
  "?": () => $("help").showModal(),
};
// By place on the keyboard, for on some the digits need Shift.
const DIGITS = { 1: () => vote("1"), 2: () => vote("2"), 3: () => vote("tie"), 4: () => vote("both_bad") };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if ($("help").open) return;
  if (event.target.closest("input, textarea")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target === $("reason"))) {
      event.preventDefault();
      event.target.blur();
    }
    return;
  }
  if (event.key === "Escape") return goOn();
  if (!me.keys || $("desk").hidden) return;
  const digit = /^(?:Digit|Numpad)([1-4])$/.exec(event.code)?.[1];
  const action = (digit && DIGITS[digit]) ?? KEYS[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action(event);
}

function listen() {
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", onVisibility);
  addEventListener("pagehide", () => {
    pauseClock();
    keepDraft();
  });
  addEventListener("pageshow", runClock);
  $("join").addEventListener("submit", submitName);
  $("leave").addEventListener("click", leave);
  $("back").addEventListener("click", back);
  $("go-on").addEventListener("click", goOn);
  for (const button of document.querySelectorAll("[data-side]"))
    button.addEventListener("click", () => $(`side-${button.dataset.side}`).scrollIntoView());
  $("finish").addEventListener("click", finish);
  $("more").addEventListener("click", toggleExtra);
  $("whole").addEventListener("click", toggleWhole);
  $("rubric-button").addEventListener("click", toggleRubric);
  $("written-button").addEventListener("click", toggleWritten);
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("help-close").addEventListener("click", () => $("help").close());
  $("keys").addEventListener("change", () => remember("single keys", (me.keys = $("keys").checked) ? null : false));
  for (const button of document.querySelectorAll("[data-choice]"))
    button.addEventListener("click", () => vote(button.dataset.choice));
  for (const button of document.querySelectorAll(".strength"))
    button.addEventListener("click", () => {
      const strength = Number(button.dataset.strength);
      setStrength(now.strength === strength ? null : strength);
    });
}
