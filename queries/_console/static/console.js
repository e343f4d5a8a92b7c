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

// How the reader wants to see each panel's rows: by which column, and what is in them. It outlives renewals.
const wishes = new Map();
const wishOf = (panel) => { if (!wishes.has(panel.id)) wishes.set(panel.id, { at: -1, order: "", find: "" }); return wishes.get(panel.id); };

function sort(table, at, order) {
  const [body] = table.tBodies;
  [...table.tHead.rows[0].cells].forEach((cell, i) => { if (cell.hasAttribute("aria-sort")) cell.setAttribute("aria-sort", i === at ? order : "none"); });
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows].map((row) => [valueOf(row.cells[at]), row]);
  rows.sort(([a], [b]) => sign * compare(a, b));
  body.append(...rows.map(([, row]) => row));
}

function find(panel, text) {
  const wanted = text.trim().toLowerCase();
  for (const row of panel.querySelectorAll("table.rows > tbody > tr")) row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
}

function arrange(panel) {
  const { at, order, find: text } = wishes.get(panel.id) ?? {};
  const table = panel.querySelector("table.rows"), input = panel.querySelector("input.find");
  if (table && order && table.tHead.rows[0].cells[at]?.hasAttribute("aria-sort")) sort(table, at, order);
  if (input && text) { input.value = text; find(panel, text); }
}

// Charts
const HEIGHT = 220;
const PARTS = { rate: 100, milliseconds: 3_600_000, seconds: 3_600 };
const inks = (style) => [1, 2, 3, 4, 5].map((i) => style.getPropertyValue(`--chart-${i}`).trim());
const widthOf = (figure) => Math.max(figure.clientWidth, 160);

function draw(figure) {
  const { form, names, kinds, x, y } = JSON.parse(figure.dataset.chart);
  const parts = kinds.map((kind) => (kind === "amount" ? 10 ** Number(figure.dataset.scale) : PARTS[kind] ?? 1));
  const drawn = y.map((line, i) => line.map((value) => (value === null ? null : value / parts[i])));
  const unit = kinds.every((kind) => kind === "rate") ? " %" : "";
  const style = getComputedStyle(document.documentElement);
  const ink = inks(style);
  const grid = { stroke: style.getPropertyValue("--line").trim(), width: 1 };
  const axis = { stroke: style.getPropertyValue("--muted").trim(), grid, ticks: grid, font: "12px system-ui, sans-serif" };
  const shown = (value) => (value === null || value === undefined ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: 6 }) + unit);
  const series = names.map((label, i) => ({
    label, stroke: ink[i % ink.length], width: 2, dash: i % 2 ? [6, 3] : [], points: { show: x.length < 40, size: 5 }, value: (_, value) => shown(value),
    ...(form === "candles" ? { paths: () => null, points: { show: false } } : {}),
    ...(form === "bars" ? { paths: uPlot.paths.bars({ size: [0.7, 40] }), points: { show: false }, fill: ink[i % ink.length] + "99" } : {}),
  }));
  figure.plot?.destroy();
  figure.replaceChildren();
  const ahead = form === "line" ? 0 : (x.length > 1 ? (x[1] - x[0]) / 2 : 43_200);
  figure.plot = new uPlot(
    {
      width: widthOf(figure), height: HEIGHT, hooks: form === "candles" ? { draw: [(plot) => candles(plot, ink)] } : {},
      series: [{ value: (_, at) => (at === null ? "–" : new Date(at * 1000).toISOString().slice(0, 16).replace("T", " ")) }, ...series],
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "UTC"), cursor: { y: false },
      scales: { x: { range: (_, from, to) => [from - ahead, to + ahead] }, y: { range: (_, low, high) => [Math.min(low ?? 0, 0), high > 0 ? high * 1.08 : 1] } },
      axes: [{ ...axis, values: SHORT_TIMES }, { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => tick.toLocaleString(undefined, { notation: Math.abs(tick) >= 1e6 ? "compact" : "standard" }) + unit) }],
    },
    [x, ...drawn], figure,
  );
}

// Times as the log's: 24 hours, UTC, and a day as the rest of the page writes it.
const SHORT_TIMES = [
  [86_400 * 365, "{YYYY}", null, null, null, null, null, null, 1],
  [86_400 * 28, "{YYYY}-{MM}", null, null, null, null, null, null, 1],
  [86_400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
];

// Open, high, low and close of each bucket, as a body and its wick.
function candles(plot, ink) {
  const { ctx, data: [x, open, high, low, close] } = plot;
  const at = (value) => plot.valToPos(value, "y", true);
  ctx.save();
  for (let i = 0; i < x.length; i++) {
    if (open[i] === null) continue;
    const middle = Math.round(plot.valToPos(x[i], "x", true));
    ctx.fillStyle = close[i] >= open[i] ? ink[0] : ink[1];
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
  if (button) {
    const heading = button.closest("th"), panel = button.closest(".panel");
    const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    Object.assign(wishOf(panel), { at: heading.cellIndex, order });
    sort(heading.closest("table"), heading.cellIndex, order);
  }
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
document.addEventListener("input", (event) => {
  if (!event.target.matches("input.find")) return;
  const panel = event.target.closest(".panel");
  wishOf(panel).find = event.target.value;
  find(panel, event.target.value);
});
document.addEventListener("htmx:beforeRequest", (event) => {
  const form = event.target.closest("form[data-holds]");
  if (form) held.add(form.dataset.holds);
});
document.addEventListener("htmx:sseBeforeMessage", (event) => {
  const panel = event.target.closest(".panel");
  if (event.detail.type === "over") { event.preventDefault(); location.reload(); return; }
  if (panel && (held.has(panel.id) || (panel.contains(document.activeElement) && document.activeElement !== panel))) {
    event.preventDefault();
    panel.classList.add("news");
  } else if (panel) panel.classList.remove("news");
});
document.addEventListener("htmx:afterSwap", (event) => {
  drawAll(event.target);
  const panel = event.target.closest(".panel");
  if (panel) arrange(panel);
  document.getElementById("version")?.focus();
});
document.addEventListener("htmx:responseError", (event) => {
  const panel = event.target.closest(".panel"), text = event.detail.xhr.responseText;
  panel?.querySelectorAll(":scope > .refused").forEach((old) => old.remove());
  if (panel && text) { const said = document.createElement("div"); said.className = "refused"; said.innerHTML = text; panel.prepend(said); }
});
document.addEventListener("htmx:sendError", (event) => event.target.closest(".panel") && connection(true));
const connection = (lost) => { const line = document.getElementById("connection"); if (line) line.hidden = !lost; };
document.addEventListener("htmx:sseError", () => connection(true));
document.addEventListener("htmx:sseOpen", () => connection(false));

// Keys: g and a letter go to a screen; / goes to the first field to find something in.
let went = 0;
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { document.querySelector("input.find, .filters input:not([type=hidden])")?.focus(); event.preventDefault(); }
  if (event.key === "g") { went = Date.now(); return; }
  if (Date.now() - went < 1000) [...document.querySelectorAll("header nav a")].find((a) => a.textContent.trim().toLowerCase().startsWith(event.key))?.click();
});
addEventListener("resize", () => document.querySelectorAll("[data-chart]").forEach((figure) => figure.plot?.setSize({ width: widthOf(figure), height: HEIGHT })));
document.addEventListener("DOMContentLoaded", () => drawAll(document));
