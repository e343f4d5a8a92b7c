// What pages do in the browser: sort rows, draw charts, keep a filtered table as it is, say when the line is cut.
"use strict";

// Sorting: numbers and times by their exact value, texts as people read them.
const valueOf = (cell) => {
  const exact = cell.querySelector("data, time");
  if (!exact) return cell.textContent.trim();
  return exact.tagName === "DATA" ? BigInt(exact.value) : exact.dateTime;
};
const compare = (a, b) =>
  typeof a === "string" && typeof b === "string"
    ? a.localeCompare(b, undefined, { numeric: true })
    : typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "bigint" ? 1 : -1;

function sort(button) {
  const heading = button.closest("th");
  const body = heading.closest("table").tBodies[0];
  const at = heading.cellIndex;
  const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of heading.parentElement.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows].map((row) => [valueOf(row.cells[at]), row]);
  rows.sort(([a], [b]) => sign * compare(a, b));
  body.append(...rows.map(([, row]) => row));
}

// Charts
const INK = ["#0b6e75", "#b3541e", "#5b5bd6", "#7a8b1f", "#a83279"];

function draw(figure) {
  const { form, names, kinds, x, y } = JSON.parse(figure.dataset.chart);
  const parts = kinds.map((kind) => (kind === "amount" ? 10 ** Number(figure.dataset.scale) : kind === "rate" ? 100 : 1));
  const drawn = y.map((line, i) => line.map((value) => (value === null ? null : value / parts[i])));
  const unit = kinds.every((kind) => kind === "rate") ? " %" : "";
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--pico-color").trim() || "#444";
  const grid = { stroke: style.getPropertyValue("--pico-muted-border-color").trim() || "#ddd", width: 1 };
  const axis = { stroke: ink, grid, ticks: grid };
  const series = names.map((label, i) => ({
    label, stroke: INK[i % INK.length], width: 2, points: { show: x.length < 40 },
    ...(form === "candles" ? { paths: () => null, points: { show: false } } : {}),
    ...(form === "bars" ? { paths: uPlot.paths.bars({ size: [0.7, 60] }), fill: INK[i % INK.length] + "66" } : {}),
  }));
  figure.replaceChildren();
  const width = Math.max(figure.clientWidth, 200);
  const plot = new uPlot(
    { width, height: 220, series: [{}, ...series], hooks: form === "candles" ? { draw: [candles] } : {}, axes: [axis, { ...axis, size: 76, values: (_, ticks) => ticks.map((tick) => tick.toLocaleString() + unit) }], cursor: { y: false } },
    [x, ...drawn], figure,
  );
  figure.plot = plot;
}

// Open, high, low and close of each bucket, as a body and its wick.
function candles(plot) {
  const { ctx, data: [x, open, high, low, close] } = plot;
  const at = (value) => plot.valToPos(value, "y", true);
  ctx.save();
  for (let i = 0; i < x.length; i++) {
    if (open[i] === null) continue;
    const middle = Math.round(plot.valToPos(x[i], "x", true));
    ctx.fillStyle = close[i] >= open[i] ? INK[0] : INK[1];
    ctx.fillRect(middle - 0.5, at(high[i]), 1, Math.max(at(low[i]) - at(high[i]), 1));
    const top = Math.min(at(open[i]), at(close[i]));
    ctx.fillRect(middle - 3, top, 7, Math.max(Math.abs(at(open[i]) - at(close[i])), 2));
  }
  ctx.restore();
}

const drawAll = (root) => root.querySelectorAll("[data-chart]").forEach(draw);

// A table that somebody filtered or paged through is his: news do not take it away.
const held = new Set();

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.sort");
  if (button) sort(button);
  const holder = event.target.closest("[data-holds]");
  if (holder && holder.tagName === "A") held.add(holder.dataset.holds);
  const freer = event.target.closest("[data-frees]");
  if (freer) held.delete(freer.dataset.frees);
  if (event.target.closest("#theme")) {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("fogbook-theme", root.dataset.theme);
    drawAll(document);
  }
});
document.addEventListener("htmx:beforeRequest", (event) => {
  const form = event.target.closest("form[data-holds]");
  if (form) held.add(form.dataset.holds);
});
document.addEventListener("htmx:sseBeforeMessage", (event) => {
  const panel = event.target.closest(".panel");
  if (panel && (held.has(panel.id) || panel.contains(document.activeElement))) {
    event.preventDefault();
    panel.classList.add("news");
  } else if (panel) panel.classList.remove("news");
});
document.addEventListener("htmx:afterSwap", (event) => drawAll(event.target));
document.addEventListener("htmx:responseError", (event) => {
  const panel = event.target.closest(".panel");
  if (panel && event.detail.xhr.responseText) panel.insertAdjacentHTML("afterbegin", event.detail.xhr.responseText);
});
const connection = (lost) => { const line = document.getElementById("connection"); if (line) line.hidden = !lost; };
document.addEventListener("htmx:sseError", () => connection(true));
document.addEventListener("htmx:sseOpen", () => connection(false));

// Keys: g and a letter go to a screen; / goes to the first filter.
let went = 0;
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { document.querySelector(".filters input:not([type=hidden])")?.focus(); event.preventDefault(); }
  if (event.key === "g") { went = Date.now(); return; }
  if (Date.now() - went < 1000) {
    const link = [...document.querySelectorAll("header nav a:not(.brand)")].find((a) => a.textContent.toLowerCase().startsWith(event.key));
    if (link) link.click();
  }
});
addEventListener("resize", () => document.querySelectorAll("[data-chart]").forEach((f) => f.plot?.setSize({ width: Math.max(f.clientWidth, 200), height: 220 })));
document.addEventListener("DOMContentLoaded", () => drawAll(document));
