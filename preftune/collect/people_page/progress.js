import { $, call, element, recall, remember, takeKey } from "./page.js";

const EVERY_MS = 6000;
const key = takeKey("admin") ?? recall("admin");
if (key) remember("admin", key);
refresh();

async function refresh() {
  try {
    if (!document.hidden) show(await call("/api/progress", key));
    $("problem").textContent = "";
  } catch (failure) {
    $("problem").textContent = failure.message;
  }
  setTimeout(refresh, EVERY_MS);
}

function show(figures) {
  const { votes, wanted, items, complete, begun, skips } = figures;
  $("standing").textContent = `${count(votes)} of ${count(wanted)} votes`;
  $("bar").value = wanted ? Math.min(votes / wanted, 1) : 0;
  $("facts").replaceChildren(
    ...fact("Items with all votes", `${count(complete)} of ${count(items)}`),
    ...fact("Items with any", count(begun)),
    ...fact("Skipped", count(skips)),
    ...fact("Annotators", count(figures.annotators.length)),
  );
  if (figures.trouble) $("problem").textContent = `The file of votes was not written: ${figures.trouble} No vote is lost.`;
  $("shares").replaceChildren(...figures.agreement.map(agreement));
  $("note").textContent = figures.note ?? "";
  $("table").replaceChildren(head(figures), ...figures.annotators.map((person) => row(person, figures.keys)));
}

function fact(name, value) {
  return [element("div", "", element("dt", "", name), element("dd", "", value))];
}

function agreement(share) {
  const title = element("strong", "", share.title);
  return element("p", "share", title, ` ${shown(share)}, ${count(share.n)} items `, element("span", "note", share.explanation));
}

function head(figures) {
  const names = ["Name", "Votes", "Skipped", "Median time", "Right on gold", "With the others", "First one"];
  if (Object.keys(figures.keys).length) names.push("Personal link");
  return element("thead", "", element("tr", "", ...names.map((name) => element("th", "", name))));
}

function row(person, keys) {
  const cells = [
    person.name,
    count(person.votes),
    count(person.skipped),
    person.median_seconds === null ? "" : `${person.median_seconds.toFixed(1)} s`,
    ...[person.right_on_gold, person.with_the_others, person.shown_first].map((share) => (share.n ? `${shown(share)}, n = ${count(share.n)}` : "")),
  ].map((text) => element("td", "", text));
  if (keys[person.name]) cells.push(element("td", "", copyButton(keys[person.name])));
  return element("tr", "", ...cells);
}

function copyButton(own) {
  const link = `${location.origin}/#me=${own}`;
  const button = element("button", "quiet", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(link);
      button.textContent = "Copied";
    } catch {
      button.replaceWith(element("code", "", link)); // no clipboard without TLS: to be copied by hand
    }
  });
  return button;
}

function shown(share) {
  const figure = (value) => (share.unit === "share" ? `${(100 * value).toFixed(1)}%` : value.toFixed(3));
  const interval = share.low === null ? "" : ` (${figure(share.low)} to ${figure(share.high)})`;
  return share.value === null ? "not known" : `${figure(share.value)}${interval}`;
}

function count(number) {
  return number.toLocaleString("en");
}
