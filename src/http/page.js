"use strict";
const $ = id => document.getElementById(id);
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const PERIOD = () => CALM.matches ? 5000 : 1000;
/// An answer that is later than this after the last one leaves the page stale.
const LATE = () => PERIOD() + 4000;

// --- elements and words ---------------------------------------------------------------------------

function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  return element;
}
function el(tag, properties, ...children) {
  const element = set(document.createElement(tag), properties ?? {});
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}
const SVG = "http://www.w3.org/2000/svg";
function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
function say(element, text) { if (element.textContent !== text) element.textContent = text; }
/// Replaces the children only if `key` changed, so that focus and selection survive a refresh.
const keys = new WeakMap();
function fill(element, key, children) {
  if (keys.get(element) === key) return;
  keys.set(element, key);
  element.replaceChildren(...children());
}

function time(ns) {
  const s = Math.floor(ns / 1e9), two = n => String(n).padStart(2, "0");
  const three = v => v < 9.995 ? v.toFixed(2) : v < 99.95 ? v.toFixed(1) : v.toFixed(0);
  // No line ends between a number and its unit.
  const unit = (n, name) => n + "\u00a0" + name;
  if (ns < 1e3) return unit(Math.round(ns), "ns");
  if (ns < 1e6) return unit(three(ns / 1e3), "µs");
  if (ns < 1e9) return unit(three(ns / 1e6), "ms");
  if (s < 60) return unit(three(ns / 1e9), "s");
  if (s < 3600) return unit(Math.floor(s / 60) + "m", two(s % 60) + "s");
  if (s < 86400) return unit(Math.floor(s / 3600) + "h", two(Math.floor(s / 60) % 60) + "m");
  return unit(Math.floor(s / 86400) + "d", two(Math.floor(s / 3600) % 24) + "h");
}
/// A length of time without digits that nobody needs.
const about = ns => ns >= 1e9 && ns < 60e9 ? Math.round(ns / 1e9) + "\u00a0s" : ns >= 1e6 && ns < 1e9 ? Math.round(ns / 1e6) + "\u00a0ms" : time(ns);
const amount = n => n < 1e4 ? String(Math.round(n)) : n < 1e6 ? (n / 1e3).toPrecision(3) + "k"
  : n < 1e9 ? (n / 1e6).toPrecision(3) + "M" : (n / 1e9).toPrecision(3) + "G";
const counted = (n, what) => amount(n) + " " + what + (n === 1 ? "" : "s");
/// The time of day, here.
const clock = ms => new Date(ms).toTimeString().slice(0, 8);
const day = ms => new Date(ms).toDateString();
/// Text from a process: what could move the cursor or turn the writing round is escaped.
const DECEPTIVE = /[\p{Cc}\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu;
const shown = text => text.replace(DECEPTIVE, c => ({ "\n": "\\n", "\r": "\\r", "\t": "\\t" })[c] ?? "\\u{" + c.codePointAt(0).toString(16) + "}");
/// The name without what counts instances: names that differ only in that are told of together.
const stem = name => name.replace(/@.*(?=\.)/, "@*").replace(/\d+/g, "*");
/// The beginning and the end of a long name.
const brief = name => name.length > 48 ? name.slice(0, 30) + "…" + name.slice(-14) : name;
/// Who it is: the unit if it has the name in it, else both.
function called(agent) {
  const { comm, unit } = agent;
  if (!unit) return comm ? shown(comm) : "";
  return !comm || unit.includes(comm) ? shown(unit) : shown(comm) + " (" + shown(unit) + ")";
}
/// Counts names; those that differ only in numbers are one.
function name(names, who, times) {
  const alike = stem(who), kin = names.get(alike) ?? { name: who, times: 0 };
  if (!who) return;
  if (kin.name !== who) kin.name = alike;
  kin.times += times;
  names.set(alike, kin);
}
/// No line ends before the name.
const each = ({ name, times }) => times + "\u00a0×\u00a0" + name;
const ranked = names => [...names.values()].sort((one, other) => other.times - one.times);
const CLEAN = [1, 2, 13, 15];
const SIGNALS = { 1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM" };

// --- answers --------------------------------------------------------------------------------------

class NoAnswer extends Error {
  constructor(code) {
    super(code ? "HTTP " + code : "no answer");
    this.code = code;
  }
}
async function get(path) {
  let answer;
  try {
    answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
    if (answer.ok) return await answer.json();
  } catch {
    throw new NoAnswer();
  }
  throw new NoAnswer(answer.status);
}
/// `null` if this observer has no such path, or does not know this agent.
const find = path => get(path).catch(error => { if (error.code === 404) return null; throw error; });

let fleet = null, before = null, groups = [], stalled = { agents: [], total: 0 };
const isLarge = () => fleet.up + fleet.stalled > 20000;
const now = () => Date.parse(fleet.now);
const sum = (of, what) => of.shards.reduce((all, shard) => all + shard[what], 0);
/// The change of a count since the last answer; `null` if there was none of this run.
function grown(what) {
  const same = before && before.pid === fleet.pid && before.mono_ns < fleet.mono_ns;
  return same ? Math.max(0, sum(fleet, what) - sum(before, what)) : null;
}

// --- headline: what, to whom, since when, what to do ------------------------------------------------

const KIND = { ok: "good", warning: "warn", critical: "bad" };
function showHeadline() {
  const { text, level } = fleet.headline;
  // No line ends before the number of a signal.
  say($("health"), text.replaceAll("signal ", "signal\u00a0"));
  say($("age"), "");
  $("headline").className = KIND[level];
  document.title = (level === "ok" ? "" : "! ") + text;
  // Of those that differ in numbers only, the first stands for all.
  const alike = new Map();
  for (const problem of fleet.problems) { const key = problem.replace(/\d+/g, "*"); alike.set(key, [...alike.get(key) ?? [], problem]); }
  const shownProblems = [...alike.values()].slice(0, 3).map(([first, ...rest]) => first + (rest.length ? " (and " + rest.length + " like this)" : ""));
  const more = alike.size - 3;
  fill($("problems"), fleet.problems.join("\n"), () => [
    ...shownProblems.map(problem => el("li", {}, ...shown(problem).split("`").map((part, i) => i % 2 ? el("code", {}, part) : part))),
    more > 0 ? el("li", {}, "and " + more + " more: varta-fleet status lists them") : "",
  ]);
}
function showContext() {
  const parts = [], hit = groups.filter(group => group.stalled > 0).slice(0, 2);
  if (fleet.stalled > 0 && hit.length)
    parts.push(["Most: ", hit.map(group => brief(label(group)) + (group.agents > 1 ? " (" + group.stalled + " of " + group.agents + ")" : "")).join(", ")]);
  const [first] = stalled.agents, one = stalled.agents.find(agent => hit.some(group => isOf(agent, group))) ?? first;
  if (fleet.stalled > 0 && first) parts.push(["Silent since ", clock(now() - first.silent_ns / 1e6), ", " + about(first.silent_ns) + " ago"]);
  const died = recent();
  if (died.length) {
    const names = new Map();
    for (const one of died) name(names, brief(called(one)), 1);
    const [most] = ranked(names);
    if (most) parts.push(["Died most: ", most.times > 1 ? each(most) : most.name]);
    const [last, first] = [died[0], died.at(-1)].map(one => Date.parse(one.at));
    parts.push(["Since ", clock(first), last - first > 2000 ? ", the last at " + clock(last) : ""]);
  }
  const section = fleet.headline.runbook, has = (...sections) => sections.includes(section);
  const what = has("VartaStallWave", "VartaAgentsStalled") && one ? "varta-fleet explain " + one.pid
    : has("VartaExitWave", "VartaCrashLoop") ? "varta-fleet agents --state dead" : has("VartaBrakeEngaged") ? "varta-fleet act list" : section ? "varta-fleet status" : null;
  const calm = "A silence of " + time(fleet.threshold_ns) + " is a stall · observing for " + about((now() - Date.parse(fleet.started)) * 1e6);
  fill($("facts"), JSON.stringify([parts, section, calm]), () => [
    ...parts.map(([before, what, after]) => el("span", {}, before, el("b", {}, what), after)),
    section ? "" : el("span", { id: "summary" }, calm),
  ]);
  // Apart from what changes each second: nobody loses a button that he is about to press.
  fill($("ask"), JSON.stringify([what, section]), () => [
    what ? command(what + at()) : null,
    section ? el("a", { href: "/runbook#" + section.toLowerCase() }, "What to do") : null,
  ].filter(Boolean));
}
const at = () => fleet.dir === "/run/varta" ? "" : " --dir " + quoted(fleet.dir);
const quoted = text => /^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'";

/// A command to copy.
function command(text, isBlock) {
  // Many lines keep their indentation, and scroll.
  const isLong = text.includes("\n"), code = el("code", isLong ? { className: "many", tabIndex: 0, role: "group", "aria-label": "Lines to copy" } : {}, text), button = el("button", { type: "button", className: "copy", "aria-label": "Copy " + text }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without TLS a browser lends its clipboard to pages of this host only.
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return isBlock ? el("div", { className: "line copied" }, code, button) : el("span", {}, code, button);
}

// --- four numbers over time -----------------------------------------------------------------------

const SPAN = 900, STEP = 4;
/// By second: what the history of the observer has, else what this page saw.
const samples = new Map();
const TILES = [
  ["up", "up", values => values[values.length - 1]],
  ["stalled", "stalled", values => Math.max(...values)],
  ["died", "died", values => values.reduce((all, one) => all + one, 0)],
  ["beats", "beats", values => values.reduce((all, one) => all + one, 0) / values.length],
];
let lastSecond = 0;
function sample() {
  const second = Math.floor(now() / 1000), died = grown("deaths"), beats = grown("beats");
  const passed = before ? (fleet.mono_ns - before.mono_ns) / 1e9 : 0;
  const rate = beats === null ? null : beats / passed;
  // A look now and then stands for the seconds before it; a longer time without one is a gap.
  const from = second - lastSecond > PERIOD() / 1000 + 2 ? second : lastSecond + 1;
  for (let s = from; s <= second; s++)
    if (!samples.has(s)) samples.set(s, { up: fleet.up, stalled: fleet.stalled, died: s === second ? died : 0, beats: rate });
  lastSecond = second;
  for (const s of samples.keys()) if (s <= second - SPAN) samples.delete(s);
  return rate;
}
let learnt = 0;
async function learn() {
  if (Date.now() - learnt < 60e3 && Date.now() >= learnt) return;
  learnt = Date.now();
  const history = await get("/api/v1/history?step=1s");
  const from = Math.floor(history.from_unix_ms / 1000), { up, stalled, died, beats } = history.series;
  up.forEach((value, i) => {
    if (value !== null) samples.set(from + i, { up: value, stalled: stalled[i], died: died[i], beats: beats[i] });
    else if (i < up.length - 5) samples.delete(from + i);
  });
}
function showTiles(rate) {
  const values = { up: amount(fleet.up), stalled: amount(fleet.stalled), died: amount(fleet.died.agents), beats: rate === null ? "–" : amount(rate) };
  const alarms = { stalled: fleet.stalled > 0, died: fleet.died.agents > 0 };
  const last = Math.floor(now() / 1000 / STEP), count = SPAN / STEP;
  const steps = Array.from({ length: count }, () => []);
  for (const [second, value] of samples) {
    const i = Math.floor(second / STEP) - last + count - 1;
    if (i >= 0 && i < count) steps[i].push(value);
  }
  for (const [name, key, fold] of TILES) {
    const tile = $("tile-" + name), number = tile.querySelector(".value");
    say(number, values[name]);
    number.className = "value " + (alarms[name] ? "bad" : values[name] === "0" || values[name] === "–" ? "quiet" : "");
    tile.classList.toggle("alarm", alarms[name] ?? false);
    const line = steps.map(step => {
      const known = step.map(value => value[key]).filter(value => value !== null && value !== undefined);
      return known.length ? fold(known) : null;
    });
    sparkline(tile, name, line, last);
  }
}
const HIGH = 44;
function sparkline(tile, name, line, last) {
  let svg = tile.querySelector("svg");
  if (!svg) {
    svg = draw(tile, "svg", { class: "spark", viewBox: "0 0 " + (SPAN / STEP - 1) + " " + HIGH, preserveAspectRatio: "none", role: "img" });
    draw(svg, "line", { x1: 0, y1: HIGH, x2: SPAN / STEP - 1, y2: HIGH });
    draw(svg, "path", { class: "area" });
    draw(svg, "path", { class: "line" });
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect();
      point(Math.round((event.clientX - box.left) / box.width * (SPAN / STEP - 1)));
    });
    svg.addEventListener("pointerleave", () => point(null));
  }
  const known = line.filter(value => value !== null), most = Math.max(1, ...known) * 1.04;
  const y = value => (HIGH - value / most * (HIGH - 2)).toFixed(1);
  let path = "", area = "", from = null;
  line.forEach((value, x) => {
    if (value === null) return;
    const begins = x === 0 || line[x - 1] === null, ends = x === line.length - 1 || line[x + 1] === null;
    if (begins) from = x;
    path += (begins ? "M" : "L") + x + " " + y(value);
    area += (begins ? "M" + x + " " + HIGH + "L" : "L") + x + " " + y(value);
    // A step between two gaps is a dash.
    if (begins && ends) path += "h.6";
    if (ends) area += "V" + HIGH + "H" + from + "Z";
  });
  svg.querySelector(".line").setAttribute("d", path);
  svg.querySelector(".area").setAttribute("d", area);
  const title = tile.querySelector("h2").textContent;
  svg.setAttribute("aria-label", title + ", the last fifteen minutes: " + (known.length
    ? "lowest " + amount(Math.min(...known)) + ", highest " + amount(Math.max(...known)) : "nothing known"));
  svg.line = line;
  svg.from = (last - SPAN / STEP + 1) * STEP;
}
/// Shows, in all four, what was at one place of the time axis.
function point(x) {
  for (const [name] of TILES) {
    const tile = $("tile-" + name), svg = tile.querySelector("svg");
    tile.querySelector(".was")?.remove();
    svg.querySelector(".at")?.remove();
    if (x === null) continue;
    const value = svg.line[x];
    draw(svg, "line", { class: "at", x1: x, y1: 0, x2: x, y2: HIGH });
    tile.append(el("span", { className: "was" }, (value === null || value === undefined ? "unknown" : amount(value)) + " at " + clock((svg.from + x * STEP) * 1000)));
  }
}

// --- map ------------------------------------------------------------------------------------------

const BY = [["unit", "Unit"], ["comm", "Name"], ["uid", "User"], ["shard", "Shard"]];
/// Agents are grouped by unit if they have any, unless somebody chose.
let usual = "unit";
const grouping = () => place().by ?? usual;
let cells = [], per = 1, chosen = -1, boxes = [], pitch = 10, by = null;
const label = group => group.name === null ? "all others" : { comm: shown(group.name) || "no name yet", unit: shown(group.name) || "in no unit", uid: "user " + group.name, shard: "shard " + group.name }[by];
/// Whether an agent is in this group.
const isOf = (agent, group) => { const value = String(agent[by] ?? ""); return group.name === value || group.name === stem(value); };
function showCells(answer) {
  ({ cells, groups, by, agents_per_cell: per } = answer);
  if (chosen >= cells.length) chosen = -1;
  const total = groups.reduce((all, group) => all + group.agents, 0);
  $("live").hidden = total === 0 && entries.length === 0;
  $("heat").hidden = total === 0;
  say($("heat-title"), counted(total, "agent"));
  say($("per"), per === 1 ? "" : "up to " + per + " agents a cell, filled as far as they stall");
  lay();
}
/// Where there are many groups, their names need the room of the word.
const howMany = ({ agents, stalled }) => !stalled ? "" : agents === 1 ? "stalled" : (stalled === agents ? "all " : stalled + " of ") + amount(agents) + (groups.length < 9 ? " stalled" : "");
/// Between two boxes of a row, pixels.
const GAP = 24;
/// Columns and size of the box of a group.
function box({ cells: count, stalled }, pitch, width) {
  // Boxes of the least width fill their row.
  const room = stalled || groups.length < 9 ? 184 : 128, beside = Math.max(1, Math.floor((width + GAP) / (room + GAP)));
  const least = Math.floor((width + GAP) / beside) - GAP, most = Math.floor(width / pitch);
  let columns = Math.max(Math.floor(least / pitch), Math.ceil(Math.sqrt(count * 3)));
  if (groups.length === 1 || columns > most * .62) columns = most;
  columns = Math.max(1, Math.min(columns, count));
  const rows = Math.ceil(count / columns);
  return { columns, rows, width: Math.max(least, columns * pitch), height: rows * pitch + 27 };
}
function heightOf(pitch, width) {
  let x = 0, row = 0, all = 0;
  for (const group of groups) {
    const one = box(group, pitch, width);
    if (x > 0 && x + one.width > width) { all += row + 18; x = row = 0; }
    x += one.width + GAP;
    row = Math.max(row, one.height);
  }
  return all + row;
}
function lay() {
  const map = $("map"), width = map.clientWidth;
  if (!width || !groups.length) return;
  const high = innerWidth > 1100 ? 400 : 360;
  pitch = cells.length > 60 ? 24 : 30;
  // Smaller cells make no room where names take it.
  const least = cells.length <= 300 || groups.length > 24 ? 10 : cells.length <= 1000 ? 8 : 5;
  // Below 8 they are hard to see: rather a map as high as it may be.
  while (pitch > least && heightOf(pitch, width) > (pitch > 8 ? high : 640)) pitch -= 1;
  let from = 0;
  boxes = groups.map((group, i) => {
    const size = box(group, pitch, width), old = boxes[i];
    const element = old?.element ?? newBox();
    const one = { ...size, from, count: group.cells, element, group };
    from += group.cells;
    element.box = one;
    element.style.width = size.width + "px";
    const [name, count, bad] = element.firstChild.children, whole = label(group);
    // Where room is short, what most of them have in common says nothing.
    say(name, by === "unit" ? whole.replace(/\.service$/, "") : whole); say(count, group.stalled ? "" : amount(group.agents)); say(bad, howMany(group));
    bad.title = "stalled";
    element.firstChild.title = whole;
    // No filter asks for what has no name.
    element.firstChild.disabled = !group.name;
    return one;
  });
  while (map.childElementCount > boxes.length) map.lastElementChild.remove();
  boxes.forEach(({ element }, i) => { if (map.children[i] !== element) map.append(element); });
  boxes.forEach(paint);
  map.setAttribute("aria-label", $("heat-title").textContent + ", " + counted(cells.filter(cell => cell.stalled).length, "cell") + " with stalled agents");
}
function newBox() {
  const head = el("button", { type: "button", tabIndex: -1 }, el("span"), el("span"), el("span", { className: "bad" }));
  const canvas = el("canvas", { "aria-hidden": "true" }), element = el("div", { className: "group" }, head, canvas);
  head.addEventListener("click", () => search(asked(by, element.box.group.name)));
  const cellAt = event => {
    const place = canvas.getBoundingClientRect(), { columns, from, count } = element.box;
    const x = Math.floor((event.clientX - place.left) / pitch), y = Math.floor((event.clientY - place.top) / pitch);
    const i = y * columns + x;
    return x >= 0 && x < columns && y >= 0 && i < count ? from + i : -1;
  };
  canvas.addEventListener("pointermove", event => { if (event.pointerType === "mouse") choose(cellAt(event)); });
  canvas.addEventListener("pointerleave", () => choose(-1));
  canvas.addEventListener("click", event => { choose(cellAt(event)); enter(); });
  return element;
}
function paint({ element, columns, rows, from, count }) {
  const canvas = element.lastChild, scale = devicePixelRatio || 1, width = columns * pitch, height = rows * pitch;
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const [up, late, bad, held, fg] = ["--up", "--late", "--stalled", "--held", "--fg"].map(name => style.getPropertyValue(name));
  pen.scale(scale, scale);
  const size = pitch - (pitch >= 14 ? 3 : pitch >= 8 ? 2 : 1);
  const dot = pitch >= 8 ? size * .72 : 2, frame = pitch >= 10 ? 2 : 1, bar = Math.max(1, Math.round(size / 4));
  // Each state has a shape of its own: a dot, a frame, a full square, a bar.
  for (let i = 0; i < count; i++) {
    const cell = cells[from + i], x = i % columns * pitch, y = Math.floor(i / columns) * pitch;
    if (cell.stalled + cell.standstill) {
      const part = Math.max(2, Math.round(size * Math.max(.35, (cell.stalled + cell.standstill) / cell.agents)));
      pen.fillStyle = pen.strokeStyle = bad;
      pen.lineWidth = 1;
      if (part < size) pen.strokeRect(x + .5, y + .5, size - 1, size - 1);
      pen.fillRect(x, y + size - part, size, part);
    } else if (cell.waiting + cell.frozen === cell.agents) {
      pen.fillStyle = held;
      pen.fillRect(x, y + Math.round((size - bar) / 2), size, bar);
    } else if (cell.silent_permille >= 667) {
      pen.strokeStyle = late;
      pen.lineWidth = frame;
      pen.strokeRect(x + frame / 2, y + frame / 2, size - frame, size - frame);
    } else if (pitch >= 8) {
      pen.fillStyle = up;
      pen.beginPath();
      pen.arc(x + size / 2, y + size / 2, dot / 2, 0, 7);
      pen.fill();
    } else {
      pen.fillStyle = up;
      pen.fillRect(x + Math.round((size - dot) / 2), y + Math.round((size - dot) / 2), dot, dot);
    }
    if (from + i === chosen) {
      pen.strokeStyle = fg;
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 1, Math.max(3, size - 2), Math.max(3, size - 2));
    }
  }
}
const boxOf = i => boxes.find(({ from, count }) => i >= from && i < from + count);
let hovering = 0;
function choose(i) {
  if (i === chosen) return;
  const old = boxOf(chosen), box = boxOf(i);
  chosen = box ? i : -1;
  clearTimeout(hovering);
  if (old) paint(old);
  $("cell").hidden = !box;
  if (!box) return;
  if (old !== box) paint(box); else paint(old);
  describe();
  // Whoever passes over a cell asks nothing of the observer.
  if (cells[i].agents === 1) hovering = setTimeout(detail, 150, i, cells[i].pid_from);
}
function describe(agent) {
  const cell = cells[chosen], { group } = boxOf(chosen), card = $("cell");
  const state = cell.stalled ? (cell.agents === 1 ? "stalled" : cell.stalled + " of them stalled") : cell.standstill ? (cell.agents === 1 ? "at a standstill" : cell.standstill + " of them at a standstill") : cell.frozen === cell.agents ? "frozen, which is no stall"
    : cell.waiting === cell.agents ? "sent crash reports only" : cell.silent_permille >= 667 ? "late" : "beats";
  const lines = [cell.agents === 1 ? "pid " + cell.pid_from : counted(cell.agents, "agent") + ", pid " + cell.pid_from + " to " + cell.pid_to];
  if (agent) {
    lines[0] = (called(agent) || "pid") + " " + agent.pid;
    lines.push(state + ", last beat " + time(agent.silent_ns) + " ago" + (agent.period_ns ? ", usually every " + time(agent.period_ns) : ""),
      "user " + agent.uid + ", shard " + agent.shard + ", says " + agent.status,
      counted(agent.beats, "beat") + ", " + amount(agent.lost) + " lost, " + counted(agent.stalls, "stall"));
  } else {
    lines.push(state + ", silent for " + Math.round(cell.silent_permille / 10) + " % of the threshold", label(group));
  }
  say(card, lines.join("\n"));
  placeCard();
}
function placeCard() {
  const card = $("cell"), box = boxOf(chosen);
  if (!box) return;
  const { element, from, columns } = box;
  const home = $("heat").getBoundingClientRect(), place = element.lastChild.getBoundingClientRect(), i = chosen - from;
  const x = place.left - home.left + i % columns * pitch, y = place.top - home.top + Math.floor(i / columns) * pitch;
  card.style.left = Math.max(8, Math.min(x, home.width - card.offsetWidth - 8)) + "px";
  card.style.top = y + pitch + 8 + "px";
}
async function detail(i, pid) {
  const agent = await find("/api/v1/agents/" + pid).catch(() => null);
  if (agent && agent.state !== "exited" && chosen === i && cells[i]?.pid_from === pid) describe(agent);
}
function enter() {
  const cell = cells[chosen];
  if (!cell) return;
  if (cell.agents === 1) return go("/agents/" + cell.pid_from);
  const { group } = boxOf(chosen);
  search([group.name ? asked(by, group.name) : "", "pid:" + cell.pid_from + "-" + cell.pid_to].join(" ").trim());
}
$("map").addEventListener("keydown", event => {
  if (!cells.length || event.target !== $("map")) return;
  const { columns } = boxOf(chosen) ?? boxes[0];
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -chosen, End: cells.length }[event.key];
  if (event.key === "Enter") enter();
  else if (event.key === "Escape" && chosen >= 0) { choose(-1); event.stopPropagation(); }
  else if (step !== undefined) {
    const next = chosen < 0 && event.key !== "End" ? 0 : Math.max(0, Math.min(cells.length - 1, chosen + step));
    boxOf(next).element.scrollIntoView({ block: "nearest" });
    choose(next);
  }
  else return;
  event.preventDefault();
});
$("map").addEventListener("blur", () => choose(-1));
$("map").addEventListener("scroll", placeCard);
new ResizeObserver(lay).observe($("map"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => boxes.forEach(paint));

// The choice is kept in the address.
const BUTTONS = BY.map(([value, name]) => el("button", { type: "button", role: "radio", value }, name));
$("by").replaceChildren(...BUTTONS);
function showBy() {
  for (const button of BUTTONS) {
    const isIt = button.value === grouping();
    button.setAttribute("aria-checked", isIt);
    button.tabIndex = isIt ? 0 : -1;
  }
}
$("by").addEventListener("click", event => { if (event.target.value) choice(event.target); });
$("by").addEventListener("keydown", event => {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  choice(BUTTONS[(BUTTONS.indexOf(event.target) + step + BUTTONS.length) % BUTTONS.length]);
});
function choice(button) {
  go(place().pid ? "/agents/" + place().pid : "/", { by: button.value }, true);
  button.focus();
  chosen = -1;
  $("cell").hidden = true;
  answerOf(refresh());
}

// --- what happened --------------------------------------------------------------------------------

const KINDS = ["up", "stall", "resume", "frozen", "standstill", "advance", "exit", "terminal", "status", "phase", "session", "mixed", "decode", "auth", "blind", "full", "flood", "churn", "moved", "io", "start", "restart", "reload", "missing", "action", "brake", "stop", "lost"];
const PHASES = { due: "is due", held: "is held", ended: "succeeded", cancelled: "is not needed any more", refused: "is refused" };
const WHY = { brake: "a brake is engaged", hand: "an operator holds it", "dry-run": "dry-run is set", blind: "the observer is blind", running: "as many run as may", starts: "as many were started lately as may be", backoff: "it was tried a short time ago", spawner: "there is no spawner at the moment", tries: "it was tried as often as it may be", queue: "too many actions wait", text: "a text it needs is not known or not safe", protected: "the process is protected", unit: "the unit may not be acted upon", resumed: "the agent beats again", gone: "the process is gone", removed: "the configuration has it no more", stopped: "the observer stops", start: "it could not be started", status: "it ended with a failure", timeout: "it took too long and was killed", lost: "the spawner ended" };
const isDeath = event => event.signal === undefined ? event.code > 0 : !CLEAN.includes(event.signal);
const signal = n => SIGNALS[n] ?? "signal " + n;
/// How much an event matters, what many such have in common, and the words for one. `{}`: which shards.
function worded(event) {
  const shard = "{}", user = event.uid === null ? "many users" : "user " + event.uid;
  switch (event.kind) {
    case "up": return ["quiet", "began to beat"];
    case "stall": return ["bad", "stalled", (event.phase === "stopping" ? "stops, and has not ended after " : "stalled after a silence of ") + time(event.silent_ns) + ({ start: " at its start", payload: " in the phase that its payload says" }[event.phase] ?? "") + (event.process && event.process !== "sleeping" ? ", its process is " + event.process : "") + (event.used_cpu ? " and used CPU" : event.used_cpu === false ? " and used no CPU" : "") + (event.certain ? "" : ", not certain")];
    case "resume": return ["good", "beats again", "beats again after " + time(event.silent_ns)];
    case "standstill": return ["bad", "beats, but stands still", (event.origin === "notify" ? "beats, but its status line" : "beats, but its payload " + event.payload) + " has stood still for " + time(event.still_ns) + (event.certain ? "" : ", not certain")];
    case "advance": return ["good", "stands still no more", "stands still no more, after " + time(event.still_ns)];
    case "frozen": return event.phase === "begin" ? ["warn", "frozen by its control group"] : ["good", "no longer frozen"];
    case "exit": {
      if (event.oom) return ["bad", "ended by SIGKILL, out of memory"];
      if (event.panicked) return ["bad", "died of a panic"];
      if (event.signal !== undefined) return isDeath(event) ? ["bad", "died by " + signal(event.signal)] : ["quiet", "stopped by " + signal(event.signal)];
      return event.code > 0 ? ["bad", "died with exit status " + event.code] : ["quiet", event.code === 0 ? "ended" : "ended, cause unknown"];
    }
    case "terminal": return ["bad", "panicked"];
    case "status": return [event.status === "ok" ? "quiet" : "warn", "says " + event.status];
    case "phase": return [event.phase === "up" ? "good" : "quiet", { starting: "starts", up: "is ready", reloading: "reloads", stopping: "stops" }[event.phase] ?? event.phase];
    case "session": return ["quiet", { "new-process": "is another process now", exec: "runs another program", version: "changed its wire version", uid: "changed its user" }[event.why] ?? "connected anew"];
    case "mixed": return ["warn", "has streams that alternate"];
    case "decode": return ["warn", "sent what is no frame (" + event.error + ")"];
    case "auth": return ["warn", "claimed to be another pid"];
    case "moved": return ["quiet", "moved to shard " + event.shard];
    case "missing": return ["warn", "lives, but does not beat to this observer"];
    case "action": {
      const rank = { failed: "bad", refused: "warn", held: "warn", ended: "good" }[event.phase] ?? "quiet", said = "action " + event.action + " " + (PHASES[event.phase] ?? event.phase) + (event.why ? ": " + (WHY[event.why] ?? event.why) : "");
      const how = event.signal !== undefined ? ", by " + signal(event.signal) : event.code > 0 ? ", exit status " + event.code : "";
      return [rank, said, said + (event.phase === "failed" ? how : event.child && event.phase === "started" ? " as process " + event.child : "") + (event.attempt > 1 ? " (attempt " + event.attempt + ")" : "")];
    }
    case "brake": {
      const of = event.scope === "unit" ? event.unit ?? "a unit" : event.scope === "uid" ? user : "all agents";
      return event.phase !== "engaged" ? ["good", "actions for " + of + " are no longer held"]
        : event.by_hand ? ["warn", "an operator holds actions for " + of]
        : ["bad", "actions for " + of + " are held: " + event.stalls + " of " + counted(event.agents, "agent") + " stalled at once"];
    }
    case "blind": return event.phase === "begin" ? ["warn", shard + " cannot see: " + ({ full: "full queue", paused: "paused", restart: "no observer ran" }[event.why] ?? event.why)]
      : ["good", shard + " sees again", shard + " sees again after " + time(event.for_ns)];
    case "full": return ["bad", shard + " has no room for agents", shard + " has no room: " + counted(event.refused, "frame") + " refused"];
    case "flood": return ["warn", user + " floods " + shard, user + " sent " + counted(event.frames, "frame") + " to " + shard + " in " + about(event.for_ns)];
    case "churn": return ["warn", user + " starts and ends agents in a hurry", user + ": " + counted(event.ups, "agent") + " came, " + event.exits + " ended in " + about(event.for_ns)];
    case "io": return ["bad", (event.shard === undefined ? "" : shard + " ") + "failed: " + event.place + (event.error ? ", " + event.error : "")];
    case "start": return ["quiet", "the observer started with " + counted(event.shards, "shard")];
    case "restart": return ["warn", "the observer goes on for one that " + (event.why === "crash" ? "crashed" : "stopped") + ", with " + counted(event.adopted, "agent")];
    case "reload": return event.outcome === "refused" ? ["bad", "the new configuration was refused"] : ["quiet", "the configuration was read again"];
    case "stop": return ["warn", "the observer stopped"];
    case "lost": {
      const count = event.to_seq - event.from_seq + 1;
      return ["warn", counted(count, "event") + (count === 1 ? " is" : " are") + " no longer remembered"];
    }
    default: return ["quiet", event.kind];
  }
}
const ABOUT_AGENTS = ["up", "stall", "resume", "frozen", "standstill", "advance", "exit", "terminal", "status", "phase", "session", "mixed", "decode", "auth", "moved", "missing"];
const ABOUT_QUEUES = ["blind", "full", "flood", "churn"];
const PLURAL = { beats: "beat", starts: "start", reloads: "reload", stops: "stop", says: "say", has: "have", is: "are", runs: "run", lives: "live", stands: "stand" };
const plural = words => words.replace(/^\w+/, verb => PLURAL[verb] ?? verb).replace("does not", "do not").replace(/\bits\b/g, "their");
/// Trouble and the rest have room of their own, so that agents that come and go push out no stall.
const ROOM = 60, PIDS = 200;
const entries = [], latest = new Map();
let wasTold = 0, telling = false;
/// On which line the blindness of a shard began.
const blinded = new Map();
function hear(event) {
  const began = event.kind === "blind" && event.phase === "end" ? blinded.get(event.shard) : null;
  // One of less than a second is over on that line.
  if (began && !began.isGone && event.for_ns < 1e9) {
    blinded.delete(event.shard);
    Object.assign(began, { isNew: true, blind: began.blind - 1, blindFor: began.blindFor + event.for_ns });
    return tellSoon();
  }
  const [rank, common, alone] = worded(event), isAgent = ABOUT_AGENTS.includes(event.kind);
  const mono = event.mono_ns ?? latest.get(common)?.until ?? 0, ms = event.ts ? Date.parse(event.ts) : Date.now();
  const times = event.coalesced ?? 1, who = isAgent ? brief(called(event)) : "";
  let entry = latest.get(common);
  // What follows within two seconds belongs to it, for a minute at most; a queue that is short fills again and again.
  const [gap, longest] = ABOUT_QUEUES.includes(event.kind) ? [60e9, 600e9] : [2e9, 60e9];
  if (entry && !entry.isGone && mono - entry.until <= gap && mono - entry.since <= longest) {
    entry.times += times;
    entry.until = Math.max(entry.until, mono);
  } else {
    // The first of what is remembered here may have begun before.
    entry = { rank, common, isCut: heard === null && begins > 0, alone: alone ?? common, times, since: mono, until: mono, ms, pids: new Set(), names: new Map(), shards: new Set(), blind: 0, blindFor: 0, isAgent };
    latest.set(common, entry);
    entries.unshift(entry);
    const isTrouble = rank === "bad" || rank === "warn", alike = entries.filter(one => (one.rank === "bad" || one.rank === "warn") === isTrouble);
    for (const old of alike.slice(ROOM)) { old.isGone = true; old.element?.remove(); entries.splice(entries.indexOf(old), 1); }
    if (latest.size > 4 * ROOM) for (const [key, one] of latest) if (one.isGone) latest.delete(key);
  }
  name(entry.names, who, times);
  if (isAgent && event.pid !== undefined && entry.pids.size < PIDS) entry.pids.add(event.pid);
  entry.shards.add(event.shard);
  entry.isNew = true;
  if (event.kind === "blind" && event.phase === "begin") { blinded.set(event.shard, entry); entry.blind += 1; }
  tellSoon();
}
function tellSoon() {
  if (!telling) { telling = true; setTimeout(tell, Date.now() - wasTold > 300 ? 0 : 300); }
}
function tell() {
  telling = false;
  wasTold = Date.now();
  const list = $("events");
  $("live").hidden = cells.length === 0 && entries.length === 0;
  for (const entry of [...entries].reverse()) {
    if (!entry.isNew) continue;
    entry.isNew = false;
    if (!entry.element) list.prepend(entry.element = newEntry(entry));
    const [, , told] = entry.element.children, { pids, times, shards } = entry, count = (entry.isCut ? "at least " : "") + times;
    const which = words => (entry.blindFor && !entry.blind ? words.replace("cannot see", "could not see for " + about(entry.blindFor)) : words)
      .replace("{}", shards.size > 1 ? shards.size + " shards" : "shard " + [...shards][0]), common = which(entry.common);
    // An agent is looked up after its first beat: its first event may have no name yet.
    const named = ranked(entry.names), isWhole = named.reduce((all, one) => all + one.times, 0) === times;
    const names = isWhole ? named : [], [kin] = names;
    if (times === 1) {
      const [pid] = pids;
      told.replaceChildren(...pid === undefined ? [] : [link(pid, (kin?.name ?? "pid") + " " + pid), " "], which(entry.alone));
      continue;
    }
    const span = entry.until - entry.since, length = span >= 1e6 ? " within " + about(span) : " at once", within = plural(common) + length;
    if (!entry.isAgent || pids.size === 0) { say(told, common + ", " + (entry.isCut ? "at least " : "") + counted(times, "time") + length); continue; }
    const details = told.querySelector("details") ?? el("details", {}, el("summary"), el("div", { className: "pids" }));
    if (!details.isConnected) told.replaceChildren(details, el("div", { className: "names" }));
    say(details.firstChild, names.length === 1 ? each({ name: kin.name, times: count }) + " " + within
      : pids.size === 1 ? each({ name: "pid " + [...pids][0], times: count }) + " " + within : count + " agents " + within);
    details.lastChild.replaceChildren(...[...pids].map(pid => link(pid, String(pid))), pids.size === PIDS ? "and more" : "");
    const most = names.slice(0, 3).map(each).join(", ");
    say(told.lastChild, names.length < 2 ? "" : most + (names.length > 3 ? " and " + counted(names.length - 3, "name") + " more" : ""));
  }
  const [none] = list.getElementsByClassName("nothing");
  if (none) none.remove();
}
const link = (pid, text) => el("a", { href: "/agents/" + pid }, text);
function newEntry({ rank, ms }) {
  const utc = new Date(ms).toISOString(), isToday = day(ms) === day(Date.now());
  return el("li", {}, el("time", { dateTime: utc, title: day(ms) + ", " + utc }, isToday ? clock(ms) : day(ms).slice(4, 10)),
    el("i", { className: "mark " + rank, "aria-hidden": "true" }), el("span", { className: "told " + rank }));
}

let source = null, heard = null, begins = 0, seq = 0, isBehind = 0;
function listen() {
  source?.close();
  if (heard === null) begins = Math.max(0, fleet.events - 2000);
  source = new EventSource("/api/v1/events?after=" + (heard ?? begins));
  for (const kind of KINDS)
    source.addEventListener(kind, message => {
      const event = JSON.parse(message.data);
      hear(event);
      heard = message.lastEventId || heard;
      seq = event.seq ?? event.to_seq ?? seq;
    });
}
/// A browser gives up a stream that was refused, and does not notice one that died in its sleep.
function keepListening() {
  isBehind = seq < fleet.events ? isBehind + 1 : 0;
  if (!source || source.readyState === EventSource.CLOSED || isBehind > 5) { isBehind = 0; listen(); }
}

// --- stalled and dead -----------------------------------------------------------------------------

function row(values, kind) {
  const tr = el("tr", { className: kind ?? "" });
  for (const value of values) tr.append(value.left ? el("td", { className: "l " + (value.kind ?? ""), title: value.title }, value.left) : el("td", {}, value));
  return tr;
}
const nothing = (text, columns) => el("tr", {}, el("td", { className: "l nothing", colSpan: columns }, text));
function showStalled() {
  const { agents, total } = stalled;
  say($("stalled-title"), total ? counted(total, "stalled agent") : "Stalled agents");
  const body = $("stalled"), old = new Map([...body.rows].map(tr => [tr.pid, tr]));
  const rows = agents.map(agent => {
    const texts = [String(agent.pid), time(agent.silent_ns), time(agent.threshold_ns), String(agent.uid), String(agent.shard), amount(agent.lost)];
    const tr = old.get(agent.pid) ?? Object.assign(row([{ left: link(agent.pid, ""), title: called(agent) }, ...texts], "bad"), { pid: agent.pid });
    say(tr.querySelector("a"), called(agent) || "pid " + agent.pid);
    texts.forEach((text, i) => say(tr.cells[i + 1], text));
    return tr;
  });
  // Rows that stay keep their elements, and the focus.
  fill(body, JSON.stringify([total, agents.map(agent => agent.pid)]), () => [...rows,
    ...(total === 0 ? [nothing("None. An agent stalls when its silence reaches its threshold: " + time(fleet.threshold_ns) + " unless a rule says otherwise.", 7)]
      : total > agents.length ? [nothing("and " + amount(total - agents.length) + " more: search for state:stalled", 7)] : [])]);
}
/// Those who died, as of so many exits.
let dead = null, exitsKnown = null;
/// Those who died in the last minute, as the headline counts them, the latest first.
const recent = () => (dead?.dead ?? []).filter(one => one.death !== "unknown" && now() - Date.parse(one.at) < 60e3);
function showDead() {
  $("dead-agents").hidden = !dead;
  if (!dead) return;
  const ends = dead.dead.slice(0, 100);
  say($("dead-title"), "Recently dead");
  fill($("dead"), JSON.stringify([ends, fleet.crash_loops]), () => [
    ...fleet.crash_loops.map(loop => el("tr", { className: "bad" }, el("td", { className: "l", colSpan: 6 }, el("b", {}, shown(loop.unit ?? loop.exe ?? loop.comm ?? "user " + loop.uid)), " dies again and again: " + loop.deaths + " times in the last minute"))),
    ...ends.map(one => row([{ left: link(one.pid, called(one) || "pid " + one.pid), title: called(one) }, String(one.pid), { left: one.death, kind: "bad" }, el("time", { dateTime: one.at, title: one.at }, (day(Date.parse(one.at)) === day(now()) ? "" : day(Date.parse(one.at)).slice(4, 10) + " ") + clock(Date.parse(one.at))),
      time(one.lived_ns), String(one.deaths_before)])),
    ...dead.total > ends.length ? [nothing("and " + amount(dead.total - ends.length) + " more", 6)] : [],
    ...ends.length ? [] : [nothing("None. Processes that end by themselves, or are stopped by SIGTERM, are not counted as dead.", 6)],
  ]);
}

// --- observer -------------------------------------------------------------------------------------

function showObserver() {
  const passed = before ? (fleet.mono_ns - before.mono_ns) / 1e9 : 0, same = grown("beats") !== null;
  const wait = fleet.latencies.queue_ns;
  const blind = fleet.shards.filter(shard => shard.is_blind).length, deaf = fleet.shards.filter(shard => !shard.is_alive).length;
  say($("observer-says"), [counted(fleet.shards.length, "shard") + (deaf ? ", " + deaf + " dead" : blind ? ", " + blind + " blind" : ""),
    wait.count ? "99 % of beats wait less than " + time(wait.p99) : null, amount(sum(fleet, "lost")) + " beats lost", "version " + fleet.version, "pid " + fleet.pid].filter(Boolean).join(" · "));
  if (!$("observer").open) return;
  $("shards").replaceChildren(...fleet.shards.map((shard, i) => {
    const refused = Object.values(shard.refused).reduce((a, b) => a + b, 0);
    const state = !shard.is_alive ? "dead" : shard.is_blind ? "blind" : !shard.is_reachable ? "not reachable" : "sees";
    return row([{ left: String(shard.shard) }, amount(shard.up), amount(shard.stalled), same ? amount((shard.beats - before.shards[i].beats) / passed) : "–",
      amount(shard.beats), amount(shard.lost), amount(refused), shard.latencies.queue_ns.count ? time(shard.latencies.queue_ns.p99) : "–",
      time(shard.tick_age_ns), time(shard.blind_ns), amount(shard.queue_limit), { left: state }], state === "dead" ? "bad" : state === "sees" ? "" : "old");
  }));
  $("plots").replaceChildren(
    plot("To decode and track a frame", fleet.latencies.decode_ns),
    plot("In the kernel's queue", fleet.latencies.queue_ns),
    plot("From a stall's deadline to its report", fleet.latencies.lateness_ns));
}
$("observer").addEventListener("toggle", () => { if (fleet) showObserver(); });
function plot(title, of) {
  const caption = el("figcaption", {}, el("b", {}, title), of.count ? ": median " + time(of.p50) + ", 99 % " + time(of.p99) + ", most " + time(of.max) : ": nothing yet");
  const figure = el("figure", {}, caption), width = 360, height = 92, base = 74, bars = of.buckets.length;
  const svg = draw(figure, "svg", { viewBox: "0 0 " + width + " " + height, role: "img", "aria-label": caption.textContent + "; heights are logarithmic" });
  const counts = of.buckets.map(([, n], i) => n - (i ? of.buckets[i - 1][1] : 0));
  const most = Math.log1p(Math.max(1, ...counts)), step = width / bars;
  draw(svg, "line", { x1: 0, y1: base, x2: width, y2: base });
  counts.forEach((n, i) => {
    const high = Math.log1p(n) / most * (base - 4), bound = of.buckets[i][0];
    const bar = draw(svg, "rect", { x: i * step + 1, y: base - high, width: step - 2, height: high });
    draw(bar, "title", {}, n + (bound === null ? " above" : " up to " + time(bound)));
    if ([1e3, 1e6, 1e9].includes(bound))
      draw(svg, "text", { x: (i + 1) * step, y: height - 4, "text-anchor": "middle" }, time(bound).replace(".00", ""));
  });
  return figure;
}

// --- address: /agents/PID#by=comm&q=worker ----------------------------------------------------------

function place() {
  const hash = new URLSearchParams(location.hash.slice(1)), pid = /^\/agents\/(\d+)$/.exec(location.pathname)?.[1];
  return { pid: pid ? Number(pid) : null, by: BY.some(([value]) => value === hash.get("by")) ? hash.get("by") : null, q: hash.get("q") ?? "" };
}
function go(path, changes = {}, isReplaced = false) {
  const { by, q } = { ...place(), ...changes }, hash = new URLSearchParams();
  if (by) hash.set("by", by);
  if (q) hash.set("q", q);
  const url = path + (String(hash) ? "#" + hash : "");
  if (url !== location.pathname + location.hash) history[isReplaced ? "replaceState" : "pushState"](null, "", url);
  follow();
}
let opener = null;
function follow() {
  const { pid, q } = place(), drawer = $("drawer");
  showBy();
  if (document.activeElement !== $("q")) $("q").value = q;
  if (!pid && !q) {
    if (drawer.contains(document.activeElement)) (opener?.isConnected ? opener : $("q")).focus();
    drawer.hidden = true;
    drawer.replaceChildren();
    drawer.shows = drawer.pid = null;
    return;
  }
  const isOpening = drawer.hidden, { activeElement } = document;
  if (isOpening || !drawer.contains(activeElement)) opener = activeElement;
  drawer.hidden = false;
  open(true);
}
addEventListener("popstate", follow);
addEventListener("hashchange", () => { follow(); answerOf(refresh()); });
document.addEventListener("click", event => {
  const a = event.target.closest?.("a[href^='/agents/']");
  if (!a || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(a.getAttribute("href"));
});
document.addEventListener("keydown", event => {
  const isTyping = event.target === $("q");
  if (event.key === "Escape" && !$("drawer").hidden) go("/", { q: "" });
  else if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) { event.preventDefault(); $("q").select(); $("q").focus(); }
});

// --- search -----------------------------------------------------------------------------------------

/// The words by which a group is asked for.
const asked = (key, value) => key + ":" + (/^[^\s"]+$/.test(value) ? value : JSON.stringify(value));
const KEYS = ["comm", "unit", "uid", "shard", "state", "pid"];
function parsed(q) {
  const wanted = { words: [] };
  for (const [token] of q.matchAll(/(?:\w+:)?"(?:[^"\\]|\\.)*"|\S+/g)) {
    const [, key, value] = /^(\w+):(.*)$/s.exec(token) ?? [];
    if (!KEYS.includes(key)) { wanted.words.push(token); continue; }
    try { wanted[key] = value.startsWith("\"") ? JSON.parse(value) : value; } catch { wanted[key] = value; }
  }
  return wanted;
}
function search(q) { $("q").value = q; go("/", { q }); }
let typing = 0;
$("q").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => go("/", { q: $("q").value.trim() }, place().q !== ""), 200);
});
$("q").addEventListener("keydown", event => {
  const [first] = $("drawer").querySelectorAll(".found a");
  if (event.key === "Enter" && first) first.click();
  else if (event.key === "ArrowDown" && first) first.focus();
  else return;
  event.preventDefault();
});
$("drawer").addEventListener("keydown", event => {
  const links = [...$("drawer").querySelectorAll(".found a")], i = links.indexOf(document.activeElement);
  if (i < 0 || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
  event.preventDefault();
  (event.key === "ArrowDown" ? links[i + 1] ?? links[i] : links[i - 1] ?? $("q")).focus();
});
const FOUND = 50;
/// What the observer finds: each word is part of a name; digits alone may be a pid.
async function found(q) {
  const { words, pid, ...filters } = parsed(q), query = { limit: FOUND, ...filters };
  const [from, to] = (pid ?? "").split("-").map(Number);
  if (pid && to) Object.assign(query, { limit: Math.min(1000, to - from + 1), after: "0." + Math.max(0, from - 1) });
  // No name is longer.
  const text = words.join(" ").slice(0, 170), single = pid && !to ? from : /^\d+$/.test(text) ? Number(text) : null;
  const ask = more => get("/api/v1/agents?" + new URLSearchParams({ ...query, ...more }));
  const page = single !== null && pid ? { agents: [], total: 0 } : await ask(text ? { name: "*" + text + "*" } : {});
  let { agents, total } = page;
  if (to) { agents = agents.filter(agent => agent.pid <= to); total = agents.length; }
  if (single !== null && single < 2 ** 32) {
    const agent = await find("/api/v1/agents/" + single);
    if (agent && !agents.some(one => one.pid === single)) { agents = [agent, ...agents]; total += 1; }
  }
  return { agents, total };
}

// --- drawer: one agent, or those found --------------------------------------------------------------

let opening = 0;
async function open(isNew) {
  const { pid, q } = place(), mine = ++opening;
  try {
    if (pid) {
      const agent = await find("/api/v1/agents/" + pid);
      if (mine === opening) showAgent(pid, agent, isNew);
    } else if (q) {
      const those = await found(q);
      if (mine === opening) showFound(q, those, isNew);
    }
  } catch (error) {
    if (!(error instanceof NoAnswer)) throw error;
    if (mine === opening && isNew) frame(pid ? "pid " + pid : "Search", el("p", { className: "verdict dim" }, "The observer has no answer to this: " + error.message));
  }
}
function frame(title, ...children) {
  const { pid, q } = place();
  const close = el("button", { type: "button", className: "close", "aria-label": "Close" }, "×");
  close.addEventListener("click", () => go("/", { q: "" }));
  const back = pid && q ? el("p", {}, el("a", { href: "#" }, "← those found")) : null;
  back?.addEventListener("click", event => { event.preventDefault(); go("/"); });
  $("drawer").replaceChildren(...[back, el("div", { className: "top" }, el("h2", { id: "drawer-title" }, title), close), ...children].filter(Boolean));
}
function showFound(q, { agents, total }, isNew) {
  const drawer = $("drawer"), key = JSON.stringify([q, total, agents.map(agent => agent.pid)]);
  const silence = agent => agent.state === "up" ? time(agent.silent_ns) + " ago" : agent.state;
  const show = (state, agent) => { say(state, agent ? silence(agent) : agents.length < total ? "" : "no longer found"); state.className = ["stalled", "standstill"].includes(agent?.state) ? "bad" : ""; };
  // Whoever walks through the list keeps it; what it says of each is of now.
  if (drawer.shows === key || drawer.q === q && drawer.shows && drawer.contains(document.activeElement) && !isNew) {
    const known = new Map(agents.map(agent => [agent.pid, agent]));
    for (const state of drawer.querySelectorAll(".found a > [data-pid]")) show(state, known.get(Number(state.dataset.pid)));
    return;
  }
  Object.assign(drawer, { q, shows: key, pid: null });
  const stateOf = agent => { const state = el("span", { "data-pid": agent.pid }); show(state, agent); return state; };
  frame(total ? counted(total, "agent") : "Nobody", el("ul", { className: "found" }, ...agents.map(agent => el("li", {},
    el("a", { href: "/agents/" + agent.pid }, el("b", {}, called(agent) || "pid " + agent.pid), stateOf(agent),
      el("span", {}, "pid " + agent.pid + (agent.uid === undefined ? "" : " · user " + agent.uid + " · shard " + agent.shard)))))),
    agents.length < total ? el("p", { className: "dim" }, "and " + amount(total - agents.length) + " more; write more of the name") : null,
    total ? null : el("p", { className: "verdict dim" }, "No agent has “" + shown(q) + "” in its name or unit, and no pid is it. Write a pid, a part of a name, or filters: unit:web@* comm:web* uid:1000 shard:0 state:stalled"));
  if (isNew && document.activeElement !== $("q")) drawer.focus();
}
const REFUSED = { uid: "its user may not beat on that shard (allow-uids)", budget: "its user had spent its budget (uid-frames-max)", table: "there was no room for another agent (agents-max)", share: "its user had used up its share of agents (uid-agents-max)" };
const identity = ({ unit, container, exe }) => [unit && ["Unit", shown(unit)], container && ["Container", container.slice(0, 12)], exe && ["Program", shown(exe)]];
/// By which rule it stalls.
const LONGER = { start: ", until it has started", payload: ", in the phase that its payload says" };

const PHASE = { starting: "starts", up: "is up", reloading: "reloads", stopping: "stops" };
const THRESHOLD_OF = { message: ", which it asked for", environment: ", which it was started with", nothing: ", the longest there is: it asked for none, and no rule gives it one" };
/// What a daemon says of itself, in words.
const saying = ({ phase, name, text, errno, exit_status }) => [phase && "that it " + (PHASE[phase] ?? phase), name && "that its name is " + shown(name), text && "“" + shown(text) + "”", errno !== undefined && "error " + errno, exit_status !== undefined && "exit status " + exit_status].filter(Boolean).join(", ") || "nothing yet";
function stallsAfter(agent) {
  const { daemon } = agent;
  if (daemon && !daemon.beats) return daemon.phase === "stopping" ? "no silence: it stops, and must end in time" : "no silence: it never sent a beat";
  return time(agent.threshold_ns) + (THRESHOLD_OF[daemon?.threshold_of] ?? rule(agent)) + (LONGER[agent.phase] ?? "");
}
function rule(agent) {
  const rule = fleet.rules[agent.rule];
  if (!rule) return fleet.rules.length ? ", as no rule matches" : "";
  const parts = [rule.comm && "name " + shown(rule.comm), rule.uid !== null && rule.uid !== undefined && "user " + rule.uid, rule.exe && "program " + shown(rule.exe), rule.unit && "unit " + shown(rule.unit)];
  return ", by rule " + agent.rule + (parts.some(Boolean) ? ": " + parts.filter(Boolean).join(" and ") : "") + (agent.program_unreadable && fleet.rules.some(rule => rule.exe) ? "; its program cannot be read, so the largest threshold of such rules holds" : "");
}
const STATES = { up: ["good", "beats"], stalled: ["bad", "is stalled"], frozen: ["warn", "is frozen by its control group, which is no stall"], standstill: ["bad", "beats and is at a standstill"], waiting: ["warn", "has sent nothing but crash reports"], exited: ["quiet", "is no longer there"], refused: ["warn", "was never let in"] };
function showAgent(pid, agent, isNew) {
  if (!agent) {
    frame("pid " + pid, el("p", { className: "verdict" }, "No agent with this pid has beaten, as far as is remembered."));
    $("drawer").pid = $("drawer").shows = null;
    if (isNew) $("drawer").focus();
    return;
  }
  const end = agent.history.findLast(event => event.kind === "exit");
  const known = agent.comm || agent.unit ? agent : agent.history.findLast(event => event.comm || event.unit) ?? {}, { unit } = known;
  const name = called(known) || "pid";
  const isOverdue = agent.state === "up" && (agent.daemon?.beats ?? true) && agent.silent_ns > agent.threshold_ns;
  const [rank, state] = isOverdue ? ["warn", "is silent, which is not reported as a stall yet"] : STATES[agent.state] ?? ["quiet", agent.state], isThere = agent.beats !== undefined;
  const facts = isThere ? [
    ["Last beat", time(agent.silent_ns) + " ago" + (agent.period_ns ? ", usually every " + time(agent.period_ns) : "")],
    ["Stalls after", stallsAfter(agent)],
    ["Beats", amount(agent.beats) + " in " + time(agent.as_of - agent.first_ns) + ", " + (agent.mixed ? "its streams alternate: what is lost cannot be counted" : amount(agent.lost) + " lost")],
    ["Stalls", agent.stall ? counted(agent.stalls, "time").replace(/^1 time$/, "once") + ", the last " + time(agent.as_of - agent.stall.at_ns) + " ago" + (agent.stall.certain ? "" : ", not certain: the observer could not see all of it") : "none"],
    agent.resume && ["Last silence", time(agent.resume.silent_ns) + ", ended " + time(agent.as_of - agent.resume.at_ns) + " ago" + (agent.resume.lost ? ", " + counted(agent.resume.lost, "beat") + " lost in it" : "")],
    ...acting(agent),
    agent.process && ["Process", agent.process],
    agent.daemon && ["Says", saying(agent.daemon)],
    !agent.daemon && ["Says", agent.status + (agent.payload ? ", payload " + agent.payload : "")],
    agent.terminals && ["Crash reports", String(agent.terminals)],
    agent.refused && ["Refused", "a frame " + time(agent.refused.ago_ns) + " ago: " + (REFUSED[agent.refused.why] ?? agent.refused.why)],
    ["User", String(agent.uid)], ...identity(agent),
    agent.ns_pid && ["Inner pid", agent.ns_pid + ", in its own pid namespace"],
    agent.daemon && ["Speaks", "sd_notify"],
    ["Shard", agent.shard + (agent.off_hash ? ", not where its pid hashes to" : "") + (agent.blind.is_blind ? ", which cannot see now" : agent.blind.total_ns ? ", blind for " + time(agent.blind.total_ns) + " in all, last " + time(agent.as_of - agent.blind.last_end_ns) + " ago" : ", never blind")],
  ].filter(Boolean) : [
    end && ["Ended", day(Date.parse(end.ts)) + ", " + clock(Date.parse(end.ts))],
    end?.lived_ns && ["Lived", time(end.lived_ns)],
    end && ["Last beat", time(end.silent_ns) + " before its end"],
    ...acting(agent),
    end?.uid !== undefined && ["User", String(end.uid)], ...identity(known),
    agent.refused && ["Refused", "a frame " + time(agent.refused.ago_ns) + " ago: " + (REFUSED[agent.refused.why] ?? agent.refused.why)],
  ].filter(Boolean);
  const verdict = isThere ? name + " " + state + (agent.state === "stalled" ? ": silent for " + time(agent.silent_ns) + ", and " + time(agent.threshold_ns) + " is a stall for it." : ".")
    : end ? name + " " + worded(end)[1] + " at " + clock(Date.parse(end.ts)) + ", " + time(end.silent_ns) + " after its last beat." : name + " " + state + ".";
  const commands = ["varta-fleet explain " + pid + at(), ...unit && !/\p{Cc}/u.test(unit) ? ["systemctl status " + quoted(unit)] : [],
    ...agent.act?.cases.length || agent.act?.holds.length ? ["varta-fleet act list" + at()] : []];
  const past = agent.history.slice(-20).reverse();
  const isSame = $("drawer").pid === pid && $("drawer").commands === commands.join();
  const body = [
    el("p", { className: "verdict " + rank }, verdict),
    strip(agent),
    el("dl", { className: "facts" }, ...facts.flatMap(([term, fact]) => [el("dt", {}, term), el("dd", {}, fact)])),
    el("h3", {}, "Ask more"), ...commands.map(text => command(text, true)),
    el("h3", {}, "Its events"),
    past.length ? el("ol", { className: "past" }, ...past.map(event => {
      const ms = Date.parse(event.ts), [rank, common, alone] = worded(event);
      return el("li", {}, el("time", { dateTime: event.ts, title: day(ms) + ", " + event.ts }, clock(ms) + event.ts.slice(19, 21)), el("span", { className: rank }, alone ?? common));
    })) : el("p", { className: "past dim" }, "None is remembered."),
  ];
  // The commands stay for whoever is about to copy them.
  if (isSame) {
    say($("drawer-title"), name + " " + pid);
    for (const part of [".verdict", ".strip", ".facts", ".past"])
      $("drawer").querySelector(part).replaceWith(body.find(element => element.matches(part)));
  } else {
    frame(name + " " + pid, ...body);
    Object.assign($("drawer"), { pid, shows: null, commands: commands.join() });
  }
  if (isNew) $("drawer").focus();
}
/// What is done about it.
const acting = ({ act }) => !act ? [] : [
  ...act.cases.map(one => ["Action", one.action + ({ due: " is due", started: " runs now" }[one.phase] ?? " is " + one.phase) + (one.due_in_ns ? (one.phase === "due" ? " in " : " for ") + time(one.due_in_ns) : "") + (one.why ? ": " + (WHY[one.why] ?? one.why) : "") + (one.attempt ? " (attempt " + one.attempt + ")" : "")]),
  ...act.holds.map(one => ["Held", "actions for " + one.of + " for another " + time(one.ends_in_ns) + (one.text ? ": " + one.text : "")]),
  ...act.evidence ? [["Evidence", act.evidence + "; varta-fleet explain sums it up"]] : [],
];
/// Its last quarter of an hour, or what there is of it: silences as bars, events as ticks.
function strip(agent) {
  const { history } = agent, end = agent.as_of ?? history.at(-1)?.mono_ns ?? 0, wide = 400, base = 24;
  const first = agent.first_ns ?? history.find(event => event.kind === "up")?.mono_ns ?? 0;
  const from = Math.max(end - SPAN * 1e9, Math.min(first, end - 60e9)), long = Math.round((end - from) / 1e9);
  const x = ns => Math.max(0, Math.min(wide, (ns - from) / (end - from) * wide));
  const svg = draw(document.createDocumentFragment(), "svg", { class: "strip", viewBox: "0 0 " + wide + " 40", role: "img" });
  draw(svg, "line", { class: "base", x1: agent.first_ns ? x(agent.first_ns) : 0, y1: base, x2: wide, y2: base });
  let silences = 0;
  history.forEach((event, i) => {
    if (event.kind === "stall") {
      const over = history.slice(i).find(later => ["resume", "exit"].includes(later.kind))?.mono_ns ?? end;
      if (over < from) return;
      silences += 1;
      const left = x(event.mono_ns - event.silent_ns);
      draw(draw(svg, "rect", { class: "silence", x: left, y: base - 14, width: Math.max(2, x(over) - left), height: 14 }), "title", {}, "silent for " + time(over - event.mono_ns + event.silent_ns));
    } else if (event.mono_ns >= from) {
      const [rank, common, alone] = worded(event);
      draw(draw(svg, "line", { class: "tick " + rank, x1: x(event.mono_ns), y1: base - 10, x2: x(event.mono_ns), y2: base + 3 }), "title", {}, clock(Date.parse(event.ts)) + " " + (alone ?? common));
    }
  });
  draw(svg, "text", { x: 0, y: 38 }, (long < 120 ? long + " s" : Math.round(long / 60) + " min") + " before");
  draw(svg, "text", { x: wide, y: 38, "text-anchor": "end" }, agent.as_of ? "now" : "its end");
  svg.setAttribute("aria-label", counted(silences, "silence") + " and " + counted(history.length, "event") + " before " + (agent.as_of ? "now" : "its end"));
  return svg;
}

// --- when to look ---------------------------------------------------------------------------------

let answered = Date.now(), woke = Date.now(), ticked = Date.now(), why = "", isLooking = false, looked = 0;
async function look() {
  if (document.hidden || isLooking) return;
  isLooking = true;
  try {
    const asked = Date.now(), answer = await answerOf(get("/api/v1/fleet"));
    // An answer that came while this page slept is as old as its question.
    if (!answer || Date.now() - asked > LATE()) return;
    [before, fleet] = [fleet, answer];
    answered = asked;
    // What is old stays grey until all of it is new.
    const { classList } = document.documentElement, isOld = classList.contains("stale");
    if (isOld) learnt = looked = 0;
    if (!before) follow();
    showHeadline();
    await answerOf(learn());
    const rate = sample();
    showTiles(rate);
    showObserver();
    keepListening();
    const since = Date.now() - looked;
    const isDue = since >= (isLarge() ? 5000 : 2000) - 200 || since < 0;
    if (isDue && !await answerOf(refresh()) && isOld) return;
    classList.remove("stale");
    $("empty").classList.toggle("gone", fleet.up + fleet.stalled + sum(fleet, "exits") > 0 || cells.length > 0);
    showContext();
  } finally {
    isLooking = false;
  }
}
/// `undefined` without an answer: its age tells.
async function answerOf(asked) {
  try {
    return await asked;
  } catch (error) {
    if (!(error instanceof NoAnswer)) throw error;
    why = error.code ? ": " + error.message : "";
  }
}
/// All that takes a scan of the fleet, at once, so that one scan does for all. True once it is shown.
let refreshing = 0;
async function refresh() {
  looked = Date.now();
  const turn = ++refreshing, isOpen = !$("drawer").hidden;
  const exits = sum(fleet, "exits"), isKnown = exitsKnown === exits;
  const [answer, page, ends] = await Promise.all([
    get("/api/v1/cells?by=" + grouping() + "&max=" + (isLarge() ? 2048 : 4096)),
    fleet.stalled || stalled.total ? get("/api/v1/agents?state=stalled&sort=silent&limit=100") : stalled,
    isKnown ? dead : get("/api/v1/dead?limit=" + Math.max(100, Math.min(1000, fleet.died.agents))),
    isOpen ? open(false) : null,
  ]);
  // A later one asked for another grouping, and is shown.
  if (turn !== refreshing) return true;
  [stalled, dead, exitsKnown] = [page, ends, exits];
  if (answer.by === "unit" && usual === "unit" && !place().by && answer.groups.length && answer.groups.every(group => group.name === "")) {
    usual = "comm";
    showBy();
    return refresh();
  }
  showCells(answer);
  showStalled();
  showDead();
  return true;
}
function tick() {
  const time = Date.now();
  const isAwake = time - ticked <= 5000 && time >= ticked;
  ticked = time;
  if (!isAwake) { learnt = 0; return wake(); }
  answered = Math.min(answered, time);
  if (document.hidden || time - answered <= LATE()) return;
  // Whoever comes back sees at once that this is old, and is alarmed only if there is no answer.
  const age = about((time - answered) * 1e6), isAsking = time - woke <= LATE();
  document.documentElement.classList.add("stale");
  $("headline").className = isAsking ? "warn" : "bad";
  say($("health"), isAsking ? "Asking again" : "No answer");
  say($("age"), isAsking ? "after " + age : "for " + age + why);
  document.title = isAsking ? "varta-fleet" : "! no answer";
}
function wake() {
  woke = Date.now();
  tick();
  look();
}
async function watch() { await look(); setTimeout(watch, PERIOD()); }
for (const event of ["visibilitychange", "resume"]) document.addEventListener(event, wake);
setInterval(tick, 1000);
$("search").hidden = false;
for (const line of document.querySelectorAll("#empty .line")) line.replaceWith(command(line.textContent, true));
showBy();
watch();
