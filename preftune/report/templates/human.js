"use strict";
// Texts enter the page as text nodes only.
const material = JSON.parse(document.getElementById("material").textContent);
const items = material.items;
const place = `preftune ${material.check}`;
const by = (id) => document.getElementById(id);
const buttons = [...by("choices").children];
let choices = recalled();
let current = Math.max(0, items.findIndex((item) => !(item.id in choices)));
if (items.every((item) => item.id in choices)) current = items.length;

function recalled() {
  try {
    const kept = JSON.parse(localStorage.getItem(place)) ?? {};
    const known = new Set(items.map((item) => item.id));
    return Object.fromEntries(Object.entries(kept).filter(([id]) => known.has(id)));
  } catch {
    return {}; // storage is off: choices last as long as the page
  }
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(choices));
  } catch {
    // the same
  }
}

function show() {
  const made = Object.keys(choices).length;
  by("standing").textContent = `${made} of ${items.length} chosen` + (current < items.length ? `; this is number ${current + 1}` : "");
  by("track").style.width = `${(100 * made) / items.length}%`;
  const isOver = current >= items.length;
  by("work").hidden = isOver;
  by("done").hidden = !isOver;
  by("save").disabled = made === 0;
  by("back").disabled = current === 0;
  by("next").disabled = isOver;
  if (isOver) return;
  const item = items[current];
  for (const part of ["prompt", "left", "right"]) by(part).textContent = item[part];
  for (const button of buttons) button.setAttribute("aria-pressed", String(choices[item.id] === button.dataset.choice));
}

function choose(choice) {
  if (current >= items.length) return;
  choices[items[current].id] = choice;
  keep();
  current += 1;
  show();
  window.scrollTo(0, 0);
}

function exported() {
  return JSON.stringify({ format: material.format, check: material.check, choices }, null, 2);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([exported()], { type: "application/json" }));
  link.download = `choices-${material.check}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.choice));
by("back").addEventListener("click", () => { current -= 1; show(); });
by("next").addEventListener("click", () => { current += 1; show(); });
by("save").addEventListener("click", save);
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const choice = { 1: "left", 2: "tie", 3: "right" }[event.key];
  if (choice) choose(choice);
});
show();
