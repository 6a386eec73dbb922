#include "report/html_assets.h"

namespace weighbridge {

// Blue, vermillion and amber of Okabe and Ito stay apart for every kind of colour vision; words and
// signs carry the meaning all the same.
const char kHtmlStyle[] = R"css(
:root {
  color-scheme: light dark;
  --bg: #ffffff; --fg: #1c2024; --muted: #5b6570; --line: #d9dee3; --soft: #f4f6f8;
  --good: #00588f; --good-bg: #e4f1fa; --bad: #a83c00; --bad-bg: #fdeee5;
  --warn: #7a5200; --warn-bg: #fdf4de; --link: #00588f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #14171a; --fg: #e6e9ec; --muted: #9aa5b0; --line: #333a41; --soft: #1d2226;
    --good: #6bbcf0; --good-bg: #12293a; --bad: #ff9a5c; --bad-bg: #3a2012;
    --warn: #f0c04a; --warn-bg: #352a10; --link: #6bbcf0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem clamp(0.75rem, 3vw, 2.5rem) 4rem; max-width: 110rem;
  background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
code, pre, td.name, td.num { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code, pre { font-size: 0.92em; }
h1 { font-size: 1.25rem; margin: 0; font-weight: 600; }
h2 { font-size: 1.05rem; margin: 2rem 0 0.6rem; }
p { margin: 0.3rem 0; }
a { color: var(--link); }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 0.6rem 1rem; }
.badge {
  font-weight: 700; letter-spacing: 0.03em; padding: 0.25rem 0.8rem; border-radius: 0.4rem;
  border: 2px solid currentColor; white-space: nowrap;
}
.pass { color: var(--good); } .fail { color: var(--bad); } .undecided { color: var(--warn); }
.badge.pass { background: var(--good-bg); }
.badge.fail { background: var(--bad-bg); }
.badge.undecided { background: var(--warn-bg); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: 0.6rem;
  margin: 1.2rem 0; padding: 0; list-style: none;
}
.tiles li { background: var(--soft); border-radius: 0.4rem; padding: 0.55rem 0.8rem; }
.tiles b { display: block; font-size: 1.2rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--muted); font-size: 0.85rem; }
pre {
  background: var(--soft); border-radius: 0.4rem; padding: 0.7rem 0.9rem; margin: 0.4rem 0;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
}
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.15rem 1rem; margin: 0.5rem 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
dl.files { grid-template-columns: minmax(0, max-content) minmax(0, 1fr); }
dl.files dt { overflow-wrap: anywhere; }
@media (max-width: 45rem) {
  dl.files { grid-template-columns: minmax(0, 1fr); }
  td.name { min-width: 14rem; }
}
summary { cursor: pointer; color: var(--muted); margin-top: 0.4rem; }
.cause {
  border: 1px solid var(--line); border-left: 0.3rem solid var(--bad); border-radius: 0.4rem;
  padding: 0.7rem 1rem; margin: 0.6rem 0;
}
.cause h3 { margin: 0 0 0.2rem; font-size: 1rem; color: var(--bad); }
.cause h3 small { color: var(--muted); font-weight: 400; margin-left: 0.5rem; }
ul.plain { margin: 0.3rem 0; padding-left: 1.2rem; }
.controls { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; margin: 0.5rem 0; }
.controls input[type=search] {
  font: inherit; color: inherit; background: var(--bg); border: 1px solid var(--line);
  border-radius: 0.4rem; padding: 0.35rem 0.6rem; width: min(26rem, 100%);
}
.controls[hidden] { display: none; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 0.4rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.87rem; }
th, td { text-align: left; padding: 0.4rem 0.7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
th { background: var(--soft); white-space: nowrap; font-weight: 600; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th button::after { content: " \2195"; color: var(--muted); }
th[aria-sort=ascending] button::after { content: " \2191"; }
th[aria-sort=descending] button::after { content: " \2193"; }
td.name { min-width: 22rem; overflow-wrap: anywhere; }
td.shape { white-space: nowrap; }
td.name small { display: block; color: var(--muted); overflow-wrap: anywhere; }
td.name small.why { color: var(--fg); font-family: system-ui, sans-serif; margin-top: 0.15rem; }
td.num, th.num { text-align: right; white-space: nowrap; }
td.state { white-space: nowrap; font-weight: 600; }
tr.bad td.state { color: var(--bad); } tr.good td.state { color: var(--good); }
tr.warn td.state { color: var(--warn); }
.muted { color: var(--muted); }
@media print { .controls { display: none; } .scroll { overflow: visible; } }
)css";

const char kHtmlScript[] = R"js(
(function () {
  "use strict";
  var table = document.getElementById("tensors");
  if (!table) return;
  var body = table.tBodies[0];
  var rows = Array.prototype.slice.call(body.rows);
  var controls = document.getElementById("controls");
  var search = document.getElementById("search");
  var failed = document.getElementById("failed");
  var shown = document.getElementById("shown");
  controls.hidden = false;
  var texts = rows.map(function (row) { return row.textContent.toLowerCase(); });
  rows.forEach(function (row, i) { row.dataset.at = i; });
  function filter() {
    var words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    var count = 0;
    rows.forEach(function (row) {
      var text = texts[row.dataset.at];
      var keep = words.every(function (word) { return text.indexOf(word) >= 0; });
      if (failed.checked && !row.classList.contains("bad")) keep = false;
      row.hidden = !keep;
      if (keep) count += 1;
    });
    shown.textContent = count + " of " + rows.length + " rows shown";
  }
  function key(row, column, numeric) {
    var cell = row.cells[column];
    if (!numeric) return cell.textContent.toLowerCase();
    var value = parseFloat(cell.dataset.value);
    return isNaN(value) ? (cell.dataset.value === "inf" ? Infinity : -Infinity) : value;
  }
  function sort(header, column) {
    var up = header.getAttribute("aria-sort") === "descending";
    var numeric = header.classList.contains("num");
    var keys = rows.map(function (row) { return key(row, column, numeric); });
    var order = rows.map(function (_, i) { return i; });
    order.sort(function (a, b) {
      var c = keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : 0;
      return c !== 0 ? (up ? c : -c) : rows[a].dataset.at - rows[b].dataset.at;
    });
    rows = order.map(function (i) { return rows[i]; });
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (cell) {
      cell.removeAttribute("aria-sort");
    });
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    rows.forEach(function (row) { body.appendChild(row); });
  }
  Array.prototype.forEach.call(table.tHead.rows[0].cells, function (header, column) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.textContent = "";
    header.appendChild(button);
    button.addEventListener("click", function () { sort(header, column); });
  });
  search.addEventListener("input", filter);
  failed.addEventListener("change", filter);
  filter();
})();
)js";

}  // namespace weighbridge
