/* The charts of the report, from the object in #data (docs/REPORT.md). No library, no network, no storage but the
 * theme. base.js, charts.js and steps.js are one script, joined in this order (tools/dev/join_page.py).
 *
 * Every chart is a figure: a title that says what the data say, a line on units, controls, plots, and the same numbers
 * as a table that is made when it is opened. A plot is an SVG with one overlay, a grid of cells for pointer, touch,
 * keyboard and screen reader alike. Names are untrusted: they go in as text, never as HTML. */
(function () {
"use strict";

/* ---- elements ---- */

const SVG = "http://www.w3.org/2000/svg";
const byId = id => document.getElementById(id);

function fill(node, attributes, kids) {
    for (const [name, value] of Object.entries(attributes || {})) {
        if (value === null || value === undefined || value === false)
            continue;
        if (name.startsWith("on"))
            node.addEventListener(name.slice(2), value);
        else if (name === "vars")
            for (const [key, v] of Object.entries(value))
                node.style.setProperty(key, v);
        else
            node.setAttribute(name, value === true ? "" : value);
    }
    for (const kid of kids.flat(Infinity))
        if (kid !== null && kid !== undefined)
            node.append(kid);
    return node;
}

const el = (tag, attributes, ...kids) => fill(document.createElement(tag), attributes, kids);
const svg = (tag, attributes, ...kids) => fill(document.createElementNS(SVG, tag), attributes, kids);
const label = (x, y, text, attributes) => svg("text", {x, y, ...attributes}, String(text));

/* ---- numbers ---- */

const NBSP = "\u00a0", MINUS = "\u2212";
const isNumber = v => typeof v === "number" && Number.isFinite(v);

function plain(v, digits) {
    if (!isNumber(v))
        return "\u2013";
    const text = Math.abs(v).toLocaleString("en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits});
    return (v < 0 && /[1-9]/.test(text) ? MINUS : "") + text.replace(/,/g, "\u202f");
}

/* Three significant digits, or whole numbers from 100 on. */
function short(v) {
    const a = Math.abs(v);
    return plain(v, a === 0 || a >= 99.95 ? 0 : a >= 9.995 ? 1 : a >= 0.9995 ? 2 : 3);
}

function scaled(v, units) {
    let u = 0;
    if (!isNumber(v))
        return "\u2013";
    for (; u + 1 < units.length && Math.abs(v) >= 999.5; u++)
        v /= 1000;
    return (u === 0 ? plain(v, Math.abs(v) < 9.95 && v !== Math.floor(v) ? 1 : 0) : short(v)) + NBSP + units[u];
}

const TIME = ["ns", "\u00b5s", "ms", "s"], BYTES = ["B", "kB", "MB", "GB", "TB", "PB"], COUNT = ["", "k", "M", "G"];
const time = ns => scaled(ns, TIME);
const bytes = b => scaled(b, BYTES);
const count = v => scaled(v, COUNT).trim();
const percent = (v, digits = 1) => plain(v * 100, digits) + NBSP + "%";
const signed = v => (v > 0 ? "+" : "") + percent(v);
const times = v => plain(v, 2) + NBSP + "\u00d7";
const shorter = v => percent(Math.abs(v)) + (v <= 0 ? " shorter" : " longer");
const mean = list => list.reduce((a, b) => a + b, 0) / list.length;
/* Least and largest of arrays of any length. */
const extent = arrays => arrays.reduce((e, a) => a.reduce((f, v) => [Math.min(f[0], v), Math.max(f[1], v)], e),
    [Infinity, -Infinity]);

/* Text of the marks of one axis: one unit and as many digits as tell them apart. units: a list, or what to multiply by
 * and write behind. */
function axisText(list, units) {
    const most = Math.max(...list.map(Math.abs));
    let u = 0, f = 1, digits = 0;
    for (; Array.isArray(units) && u + 1 < units.length && most / f >= 999.5; u++)
        f *= 1000;
    const name = Array.isArray(units) ? units[u] : units.name, by = Array.isArray(units) ? 1 / f : units.by;
    while (digits < 4 && list.some(v => Math.abs(v * by - Number((v * by).toFixed(digits))) > 1e-6 * Math.max(1e-9,
        most * by)))
        digits++;
    return v => plain(v * by, digits) + (name ? NBSP + name : "");
}

const PERCENT = {by: 100, name: "%"}, TIMES = {by: 1, name: "\u00d7"};

/* Marks of an axis over [low, high], at 1, 2, 2.5 or 5 times a power of ten. */
function ticks(low, high, most) {
    const raw = (high - low) / Math.max(1, most), power = 10 ** Math.floor(Math.log10(raw || 1));
    const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(s => s >= raw * 0.999) || 1;
    const list = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && list.length < 50; i++)
        list.push(i * step);
    return list;
}

/* ---- the data ---- */

const data = JSON.parse(byId("data").textContent);
const layers = data.layers, nodes = data.gpus.node, nL = layers.length, nG = nodes.length;
const results = data.comparison.results, plans = data.plans;
const nNodes = new Set(nodes).size;
const decoded = new WeakMap();

/* A packed array as Float64Array, the last index fastest; null stays null. */
function unpack(packed) {
    if (!packed)
        return null;
    if (!decoded.has(packed)) {
        const raw = atob(packed.base64), size = {u8: 1, u16: 2, u32: 4}[packed.type];
        const values = new Float64Array(raw.length / size);
        for (let i = 0, at = 0; i < values.length; i++, at += size) {
            let n = 0;
            for (let b = size; b-- > 0;)
                n = n * 256 + raw.charCodeAt(at + b);
            values[i] = n * packed.scale;
        }
        decoded.set(packed, values);
    }
    return decoded.get(packed);
}

const baseline = data.verdict.baseline !== null ? data.verdict.baseline : data.comparison.baseline;
const candidates = plans.map((p, i) => i).filter(i => i !== baseline);
const firstPlan = data.verdict.plan !== null && data.verdict.plan !== baseline ? data.verdict.plan : candidates[0];
const L = i => "L" + layers[i];
const gpu = g => "GPU " + g + (nNodes > 1 ? " (node " + nodes[g] + ")" : "");

/* Two plans beside each other; alone where there is only one. */
function shown() {
    const list = [{plan: plans[baseline], word: "before", index: baseline}];
    if (state.plan !== undefined)
        list.push({plan: plans[state.plan], word: "after", index: state.plan});
    return list;
}

/* ---- state: what is looked at, in the address behind # ---- */

const state = {layer: 0, plan: firstPlan, traffic: {part: "dispatch", scope: "all", scale: "linear"},
    load: "ratio", layers: null};
const watchers = [];
const changed = () => watchers.forEach(f => f());

function worstLayer() {
    const first = data.verdict.layers[0], load = (plans[baseline] || {}).load;
    if (first)
        return first.index;
    return load ? load.max_over_mean.indexOf(Math.max(...load.max_over_mean)) : 0;
}

function address() {
    const words = ["layer=" + layers[state.layer]];
    if (state.plan !== firstPlan)
        words.push("plan=" + state.plan);
    try {
        history.replaceState(null, "", "#" + words.join("&"));
    } catch (e) {
        location.hash = words.join("&"); /* where documents may not change their history */
    }
}

/* True when the address named a layer or a plan of this report. */
function readAddress() {
    const words = new Map(location.hash.slice(1).split("&").map(w => w.split("=")));
    const layer = layers.indexOf(Number(words.get("layer"))), plan = Number(words.get("plan"));
    const hasLayer = words.get("layer") !== undefined && layer >= 0;
    if (hasLayer) {
        state.layer = layer;
        state.traffic.scope = "layer";
    }
    if (words.get("plan") !== undefined && candidates.includes(plan))
        state.plan = plan;
    else if (hasLayer)
        state.plan = firstPlan;
    return hasLayer;
}

function pickLayer(i) {
    state.layer = Math.max(0, Math.min(nL - 1, i));
    state.traffic.scope = "layer";
    address();
    changed();
}

/* ---- theme ---- */

function theme() {
    const remembered = () => {
        try {
            return localStorage.getItem("moeplan-theme");
        } catch (e) {
            return null; /* storage may be forbidden, as for files in some browsers */
        }
    };
    const apply = name => {
        if (name === "light" || name === "dark")
            document.documentElement.dataset.theme = name;
        else
            delete document.documentElement.dataset.theme;
    };
    const now = ["light", "dark"].includes(remembered()) ? remembered() : "auto";
    apply(now);
    const remember = name => {
        apply(name);
        try {
            localStorage.setItem("moeplan-theme", name);
        } catch (e) {
            /* then for this visit only */
        }
    };
    byId("theme").append(choice("Theme", "theme", [["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]], now,
        remember));
}

/* ---- controls ---- */

function choice(title, name, options, now, act) {
    return el("fieldset", {class: "choice"}, el("legend", {}, title), options.map(([value, text]) =>
        el("label", {}, el("input", {type: "radio", name, value, checked: value === now, onchange: () => act(value)}),
            text)));
}

function picker() {
    const move = by => pickLayer(state.layer + by);
    const select = el("select", {id: "layer", onchange: () => pickLayer(select.selectedIndex)},
        layers.map((id, i) => el("option", {value: i}, L(i) + savedText(i))));
    const back = el("button", {type: "button", "aria-label": "Previous layer", onclick: () => move(-1)}, "\u2039");
    const next = el("button", {type: "button", "aria-label": "Next layer", onclick: () => move(1)}, "\u203a");
    const box = byId("picker");
    box.className = "controls screen-only";
    box.append(el("span", {class: "field"}, el("label", {for: "layer"}, "Layer"), back, select, next));
    if (candidates.length > 1) {
        const plan = el("select", {id: "plan", onchange: () => {
            state.plan = candidates[plan.selectedIndex];
            address();
            changed();
        }}, candidates.map(i => el("option", {value: i}, plans[i].name)));
        box.append(el("span", {class: "field"}, el("label", {for: "plan"}, "Plan"), plan));
        watchers.push(() => { plan.selectedIndex = candidates.indexOf(state.plan); });
    }
    const picked = el("span", {id: "picked", "aria-live": "polite"});
    box.append(picked);
    watchers.push(() => {
        select.selectedIndex = state.layer;
        Array.from(select.options).forEach((o, i) => { o.textContent = L(i) + savedText(i); });
        back.disabled = state.layer === 0;
        next.disabled = state.layer === nL - 1;
        const [a, b] = shown().map(s => s.plan.layer_ns);
        picked.textContent = a && b ? "MoE time " + time(a[state.layer]) + " \u2192 " + time(b[state.layer]) : "";
    });
}

function saved(i) {
    const [a, b] = shown().map(s => s.plan.layer_ns);
    return a && b ? a[i] - b[i] : null;
}

function savedText(i) {
    const s = saved(i);
    return s === null ? "" : s >= 0 ? " \u00b7 saves " + time(s) : " \u00b7 costs " + time(-s);
}

/* ---- figures ---- */

const figures = [];
let printing = false;
let ids = 0;

/* A sentence in which options and programs stand as code, so that none breaks at its hyphens. */
const prose = text => text.split(/(--[a-z]+(?: [A-Z][A-Z-]+| [\d:,]+)?|moeplan[ -][a-z]+)/).map((part, i) =>
    i % 2 ? el("code", {class: "whole"}, part) : part);

const say = (id, sentence) => {
    byId(id).hidden = false;
    if (sentence)
        byId(id).append(el("p", {class: "missing"}, prose(sentence)));
};

/* Under a chart, why one of the plans beside each other is not in it. */
const sayWhatIsMissing = (f, part) => shown().filter(s => !s.plan[part]).forEach(s => f.plots.append(
    el("p", {class: "missing"}, s.plan.name + " is not shown: " + (s.plan.detail_note || "not in this report"))));

const leaveOut = (id, sentence) => {
    say(id, sentence);
    byId(id).classList.add("missing-part");
};

/* o: {section, name, draw(figure, width), table() -> [head, rows], controls: [elements]}; draw sets title and sub. */
function figure(o) {
    const id = o.section + "-" + o.name;
    const f = {id, draw: o.draw, title: el("h3", {id: id + "-t"}), sub: el("p", {class: "sub", id: id + "-s"}),
        plots: el("div", {class: "plots"})};
    const numbers = el("details", {class: "numbers"}, el("summary", {}, "The numbers as a table"));
    f.node = el("figure", {id, role: "group", "aria-labelledby": id + "-t", "aria-describedby": id + "-s"},
        el("figcaption", {}, f.title, f.sub),
        o.controls ? el("div", {class: "controls screen-only"}, o.controls) : null,
        f.plots, o.table ? numbers : null);
    f.tabulate = () => {
        if (o.table && numbers.open)
            numbers.replaceChildren(numbers.firstChild, el("div", {class: "scroll", tabindex: "0", role: "region",
                "aria-label": "Numbers of: " + f.title.textContent}, table(...o.table())));
    };
    numbers.addEventListener("toggle", f.tabulate);
    byId(o.section).hidden = false;
    byId(o.section).append(f.node);
    figures.push(f);
}

const PAPER_WIDTH = 684; /* A4 less its margins, in CSS pixels */

function drawFigure(f) {
    const width = printing ? PAPER_WIDTH : Math.floor(f.node.parentNode.clientWidth);
    const held = document.activeElement, again = held && f.plots.contains(held) ? held.dataset.key : null;
    const scrolled = Array.from(f.plots.querySelectorAll(".box"), box => box.scrollLeft);
    f.width = width;
    f.plots.replaceChildren();
    f.draw(f, width);
    f.tabulate();
    f.plots.querySelectorAll(".box").forEach((box, i) => { box.scrollLeft = scrolled[i] || 0; });
    if (again !== null) {
        const overlay = f.plots.querySelector("[data-key=\"" + again + "\"]");
        if (overlay)
            overlay.focus({preventScroll: true});
    }
}

function table(head, rows) {
    const cell = (v, i) => i === 0 ? el("th", {scope: "row"}, v) : el("td", {class: "n"}, v);
    const top = head.map((h, i) => el("th", {scope: "col", class: i ? "n" : null}, h));
    return el("table", {}, el("thead", {}, el("tr", {}, top)),
        el("tbody", {}, rows.map(r => el("tr", {}, r.map(cell)))));
}

const keys = list => el("ul", {class: "keys"}, list.map(([name, text]) =>
    el("li", {}, el("span", {class: "key " + name, "aria-hidden": "true"}), text)));
const pairKeys = () => keys(shown().map(s => [s.word, s.word + ": " + s.plan.name]));

/* A plot of its own scroll box: the SVG, and where the overlay goes. */
function plot(parent, title, width, height, drawing) {
    const root = svg("svg", {width, height, viewBox: "0 0 " + width + " " + height, "aria-hidden": "true",
        focusable: "false"},
        drawing);
    const node = el("div", {class: "plot"}, root);
    parent.append(el("div", {class: "panel"}, title, el("div", {class: "box"}, node)));
    return node;
}

/* ---- the cells of a plot: hover, tap, arrow keys and screen reader ---- */

const tip = el("div", {id: "tip", hidden: true, "aria-hidden": "true"});

/* Where each chart's cell was, by the chart's key; the cell whose value is shown, and its chart's key. */
const places = new Map(), charts = new Map();
let pointed = null;

function showTip(lines, cell, key) {
    tip.replaceChildren(el("b", {}, lines[0]), ...lines.slice(1).map(t => el("span", {}, t)));
    tip.hidden = false;
    pointed = {cell, key};
    placeTip();
}

function hideTip() {
    tip.hidden = true;
    pointed = null;
}

function placeTip() {
    const box = pointed.cell.getBoundingClientRect();
    const w = tip.offsetWidth, h = tip.offsetHeight, gap = 10;
    const x = Math.min(Math.max(8, box.left + box.width / 2 - w / 2), document.documentElement.clientWidth - w - 8);
    const above = box.top - h - gap;
    tip.style.left = x + "px";
    tip.style.top = (above > 4 ? above : Math.min(box.bottom + gap, window.innerHeight - h - 4)) + "px";
}

/* o: {key, name, rows, columns, start: [i, j], rect(i, j) -> [x, y, w, h], hit(x, y) -> [i, j] | null,
 * text(i, j) -> [lines], pick(i, j)}. group: the plots that show the same cells; they mark each other's. */
function cells(node, o, group) {
    const overlay = el("div", {class: "overlay", role: "grid", tabindex: "0", "data-key": o.key, "aria-label": o.name,
        "aria-rowcount": o.rows, "aria-colcount": o.columns});
    const me = {overlay, mark, clear};
    const at = () => {
        const [i, j] = places.get(o.key) || o.start; /* another layer may have fewer */
        return [Math.min(i, o.rows - 1), Math.min(j, o.columns - 1)];
    };
    group.push(me);
    charts.set(o.key, () => mark(...at(), true));
    node.append(overlay);
    clear();

    function mark(i, j, isMine) {
        const [x, y, w, h] = o.rect(i, j), id = "cell" + ++ids;
        const cell = el("div", {class: "cell", role: "gridcell", id, "aria-colindex": j + 1,
            "aria-selected": "true"});
        cell.style.left = x + "px";
        cell.style.top = y + "px";
        cell.style.width = Math.max(2, w) + "px";
        cell.style.height = Math.max(2, h) + "px";
        places.set(o.key, [i, j]);
        overlay.replaceChildren(el("div", {role: "row", "aria-rowindex": i + 1}, cell));
        if (!isMine)
            return;
        const lines = o.text(i, j);
        cell.setAttribute("aria-label", lines.join("; "));
        overlay.setAttribute("aria-activedescendant", id);
        group.forEach(other => { if (other !== me) other.mark(i, j, false); });
        showTip(lines, cell, o.key);
    }
    function clear() { /* a grid is never without a cell */
        overlay.replaceChildren(el("div", {role: "row"}, el("div", {role: "gridcell", "aria-label":
            "arrow keys show values"})));
        overlay.removeAttribute("aria-activedescendant");
    }
    function clearAll() {
        group.forEach(other => other.clear());
        hideTip();
    }
    function of(event) {
        const box = overlay.getBoundingClientRect();
        return o.hit(event.clientX - box.left, event.clientY - box.top);
    }
    overlay.addEventListener("pointermove", event => {
        const cell = of(event);
        if (cell)
            mark(cell[0], cell[1], true);
        else if (document.activeElement !== overlay)
            clearAll();
    });
    overlay.addEventListener("pointerleave", event => {
        if (event.pointerType === "mouse" && !(document.activeElement === overlay &&
            overlay.matches(":focus-visible")))
            clearAll();
    });
    overlay.addEventListener("click", event => {
        const cell = of(event);
        if (!cell)
            return;
        mark(cell[0], cell[1], true);
        if (o.pick)
            o.pick(cell[0], cell[1]);
    });
    overlay.addEventListener("focus", () => {
        if (overlay.matches(":focus-visible"))
            mark(...at(), true);
    });
    overlay.addEventListener("blur", clearAll);
    overlay.addEventListener("keydown", event => {
        if (event.ctrlKey || event.altKey || event.metaKey)
            return;
        const [i, j] = at(), many = Math.max(5, Math.round(o.rows / 6));
        const to = {ArrowUp: [i - 1, j], ArrowDown: [i + 1, j], ArrowLeft: [i, j - 1], ArrowRight: [i, j + 1],
            Home: [i, 0], End: [i, o.columns - 1], PageUp: [i - many, j], PageDown: [i + many, j]}[event.key];
        if (to) {
            const inside = [Math.max(0, Math.min(o.rows - 1, to[0])), Math.max(0, Math.min(o.columns - 1, to[1]))];
            const [x, , w] = o.rect(...inside), box = overlay.closest(".box");
            box.scrollLeft = Math.min(Math.max(box.scrollLeft, x + w + 8 - box.clientWidth), Math.max(0, x - 8));
            mark(inside[0], inside[1], true);
            pointed.cell.scrollIntoView({block: "nearest", inline: "nearest", behavior: "instant"});
            placeTip();
        } else if ((event.key === "Enter" || event.key === " ") && o.pick) {
            mark(i, j, true);
            o.pick(i, j);
        } else if (event.key === "Escape") {
            clearAll();
        } else {
            return;
        }
        event.preventDefault();
    });
}

/* ---- heat maps ---- */

const LEVELS = 40;

/* A scale of colours: from values to levels, -1 where there is none. */
function colours(kind, low, high, isLog) {
    const f = isLog ? Math.log : v => v, a = f(low), b = f(high);
    const place = v => b > a ? Math.min(1, Math.max(0, (f(v) - a) / (b - a))) : 0;
    return {kind, low, high, isLog, place,
        level: v => (isLog ? v > 0 : v >= low) ? Math.min(LEVELS - 1, Math.floor(place(v) * LEVELS)) : -1};
}

/* All cells of one level are one path, so that thousands of cells are forty elements. */
function heatCells(rows, columns, value, scale, x0, y0, w, h) {
    const paths = Array.from({length: LEVELS}, () => []), seam = printing ? 0.4 :
        0; /* paper shows seams between cells */
    for (let i = 0; i < rows; i++)
        for (let j = 0, level; j < columns; j++)
            if ((level = scale.level(value(i, j))) >= 0)
                paths[level].push("M" + (x0 + j * w) + " " + (y0 + i * h) + "h" + (w + seam) + "v" + (h + seam) +
                    "h" + -(w + seam) + "z");
    return svg("g", {class: "cells"}, paths.map((d, k) =>
        d.length ? svg("path", {class: scale.kind, d: d.join(""), vars: {"--t": ((k + 0.5) / LEVELS).toFixed(4)}}) :
            null));
}

function legend(scale, width, text, units, mark) {
    const w = Math.min(340, width - 20), h = 12, x0 = 10;
    const at = v => x0 + scale.place(v) * w;
    const list = scale.isLog ? logTicks(scale.low, scale.high) : ticks(scale.low, scale.high, 5);
    const out = [], format = scale.isLog ? v => scaled(v, units) : axisText(list, units);
    for (let k = 0; k < LEVELS; k++)
        out.push(svg("rect", {class: scale.kind, x: x0 + k * w / LEVELS, y: 0, width: w / LEVELS + 0.5, height: h,
            vars: {"--t": ((k + 0.5) / LEVELS).toFixed(4)}}));
    out.push(svg("rect", {class: "frame", x: x0, y: 0, width: w, height: h}));
    let last = -99;
    for (const v of list) {
        const words = format(v);
        if (at(v) - last < words.length * 7 + 6)
            continue;
        last = at(v);
        const end = words.length * 3.4;
        out.push(svg("path", {class: "zero", d: "M" + last + " " + h + "v4"}),
            label(Math.min(Math.max(last, end), x0 + w + 10 - end), h + 16, words, {"text-anchor": "middle"}));
    }
    if (mark !== undefined && mark > scale.low && mark < scale.high)
        out.push(svg("path", {class: "zero", d: "M" + at(mark) + " -1v" + (h + 2), "stroke-dasharray": "2 2"}));
    return el("div", {class: "legend"}, el("p", {class: "keys"}, text),
        svg("svg", {width: w + 20, height: h + 20, role: "img", "aria-label": "Colours: " + text + ", from " +
            format(scale.low) + " to " + format(scale.high)}, svg("g", {class: "cells"}, out)));
}

function logTicks(low, high) {
    const list = [];
    for (let p = Math.ceil(Math.log10(low) - 1e-9); p <= Math.log10(high) + 1e-9; p++)
        list.push(10 ** p);
    return list.length > 1 ? list : [low, high];
}

const GUTTER = 40, HEAD = 20;

/* Widths of `n` panels of `columns` cells: beside each other where that leaves each its least width. */
function panelWidths(width, n, columns, least, most) {
    const beside = Math.floor((width - 28 * (n - 1)) / n) - 1, room = beside - GUTTER - 2 >= columns * least ?
        beside : width;
    const fitting = Math.floor((room - GUTTER - 2) / columns);
    return Math.max(least, Math.min(most, fitting));
}

/* Marks along an axis: every k-th, so that none is closer than `least` pixels to the next. */
function every(n, size, least) {
    const k = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 256, 512].find(s => s * size >= least) || n;
    return Array.from({length: Math.ceil(n / k)}, (_, i) => i * k);
}

/* Where the node changes between GPU g - 1 and g. */
const nodeBorders = nNodes > 1 ? nodes.map((n, g) => g).filter(g => g > 0 && nodes[g] !== nodes[g - 1]) : [];

/* o: {key, title, name, rows, columns, w, h, value, scale, rowName, text, pick, start, chosenRow, rowNodes,
 * marginals: {rows, columns, most}} */
function heat(parent, o, group) {
    const top = nodeBorders.length ? HEAD * 2 - 4 : HEAD, wide = GUTTER + o.columns * o.w + 2;
    const extra = o.marginals ? 30 : 0, tall = top + o.rows * o.h + 2, out = [];
    const inner = {x: GUTTER, y: top, w: o.columns * o.w, h: o.rows * o.h};
    out.push(svg("rect", {class: "frame", x: inner.x - 0.5, y: inner.y - 0.5, width: inner.w + 1, height: inner.h +
        1}));
    out.push(heatCells(o.rows, o.columns, o.value, o.scale, inner.x, inner.y, o.w, o.h));
    for (const g of nodeBorders) {
        out.push(svg("path", {class: "node", d: "M" + (inner.x + g * o.w) + " " + (inner.y - 5) + "v" +
            (inner.h + 5)}));
        if (o.rowNodes)
            out.push(svg("path", {class: "node", d: "M" + (inner.x - 5) + " " + (inner.y + g * o.h) + "h" +
                (inner.w + 5)}));
    }
    [0, ...nodeBorders].forEach((g, k, list) => {
        const room = ((list[k + 1] || nG) - g) * o.w;
        if (nodeBorders.length)
            out.push(label(inner.x + g * o.w + 3, 12, (room > 52 ? "node " : room > 20 ? "n" : "") +
                (room > 12 ? nodes[g] : "")));
    });
    for (const j of every(o.columns, o.w, o.columns > 99 ? 26 : 20))
        out.push(label(inner.x + (j + 0.5) * o.w, top - 6, j, {"text-anchor": "middle"}));
    for (const i of every(o.rows, o.h, 14))
        out.push(label(GUTTER - 7, inner.y + (i + 0.5) * o.h + 4, o.rowName(i), {"text-anchor": "end"}));
    if (o.marginals) {
        const most = o.marginals.most, bar = v => Math.max(v > 0 ? 1 : 0, v / most * (extra - 6));
        o.marginals.rows.forEach((v, i) => out.push(svg("rect", {class: "bar-after", x: inner.x + inner.w + 5,
            y: inner.y + i * o.h + (o.h > 4 ? 1 : 0), width: bar(v), height: Math.max(1, o.h - (o.h > 4 ? 2 : 0))})));
        o.marginals.columns.forEach((v, j) => out.push(svg("rect", {class: "bar-after", x: inner.x + j * o.w +
            (o.w > 4 ? 1 : 0),
            y: inner.y + inner.h + 5, width: Math.max(1, o.w - (o.w > 4 ? 2 : 0)), height: bar(v)})));
    }
    if (o.chosenRow !== undefined) {
        const y = inner.y + o.chosenRow * o.h;
        out.push(svg("rect", {class: "chosen", x: inner.x - 1, y: y - 1, width: inner.w + 2, height: o.h + 2}),
            svg("path", {class: "chosen-mark", d: "M" + (inner.x - 6) + " " + (y + o.h / 2 - 4) + "l5 4l-5 4z"}));
    }
    const node = plot(parent, o.title, wide + extra, tall + extra, out);
    cells(node, {key: o.key, name: o.name, rows: o.rows, columns: o.columns, start: o.start, text: o.text,
        pick: o.pick,
        rect: (i, j) => [inner.x + j * o.w, inner.y + i * o.h, o.w, o.h],
        hit: (x, y) => {
            const i = Math.floor((y - inner.y) / o.h), j = Math.floor((x - inner.x) / o.w);
            return i >= 0 && j >= 0 && i < o.rows && j < o.columns ? [i, j] : null;
        }}, group);
}

const panelTitle = s => el("h4", {}, s.word === "before" ? "Before " : "After ", el("span", {}, s.plan.name));
