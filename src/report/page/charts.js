
/* ---- comparison: change with its interval, and what a step is made of ---- */

const PARTS = [["dispatch_ns", "dispatch", "k2"], ["compute_ns", "experts", "k5"], ["combine_ns", "combine", "k6"],
    ["other_ns", "everything else", "k0"]];
const isScored = r => r.step_time_ns && isNumber(r.step_time_ns.mean);

function changeText(r) {
    const i = r.change_interval, isKnown = i && i.low !== i.high;
    return signed(r.change) + (isKnown ? " (95\u00a0% interval " + signed(i.low) + " to " + signed(i.high) + ")" : "");
}

function comparison() {
    const list = results.filter(isScored), base = results[data.comparison.baseline];
    if (list.length < 2)
        return;
    figure({section: "comparison", name: "steps", draw(f, width) {
        const best = list.reduce((a, b) => b.step_time_ns.mean < a.step_time_ns.mean ? b : a);
        const beside = width >= 860, w = beside ? Math.floor((width - 28) / 2) : width;
        const row = 30, top = 8, tall = top + list.length * row + 40;
        const gutter = Math.min(150, 14 + 7.2 * Math.max(...list.map(r => Math.min(20, r.strategy.length))));
        f.title.textContent = best === base ? "No plan has shorter steps than " + base.strategy :
            best.strategy + " has the shortest steps: " + time(best.step_time_ns.mean) + ", " + changeText(best);
        f.sub.textContent = (beside ? "Left" : "Above") + ": mean step against " + base.strategy +
            ", with 95\u00a0% intervals over requests. " + (beside ? "Right" : "Below") +
            ": what the mean step is made of.";
        f.plots.append(keys(PARTS.map(p => [p[2], p[1]])));
        const panels = el("div", {class: "panels"}), group = [];
        f.plots.append(panels);
        const brief = name => name.length > 20 ? name.slice(0, 19) + "\u2026" : name;
        const names = list.map((r, i) =>
            label(0, top + i * row + row / 2 + 4, brief(r.strategy), {class: r === base ? null : "strong"}));
        const low = Math.min(0, ...list.map(r => r.change_interval ? r.change_interval.low : r.change));
        const high = Math.max(0, ...list.map(r => r.change_interval ? r.change_interval.high : r.change));
        const room = Math.max(high - low, 1e-4) * 0.08, a = low - room, b = high + room;
        const x = v => gutter + (v - a) / (b - a) * (w - gutter - 16);
        const out = [names];
        const xs = ticks(a, b, Math.max(2, Math.floor((w - gutter) / 85))), xText = axisText(xs, PERCENT);
        for (const t of xs)
            out.push(svg("path", {class: Math.abs(t) < 1e-12 ? "zero" : "axis",
                d: "M" + x(t) + " " + top + "v" + list.length * row}),
                label(x(t), tall - 22, xText(t), {"text-anchor": "middle"}));
        out.push(label(x(0) + (x(0) > w / 2 ? -6 : 6), tall - 4, "change of the step",
            {"text-anchor": x(0) > w / 2 ? "end" : "start"}));
        list.forEach((r, i) => {
            const y = top + i * row + row / 2, interval = r.change_interval;
            if (interval && r !== base)
                out.push(svg("path", {class: "whisker", d: "M" + x(interval.low) + " " + (y - 5) + "v10m0 -5H" +
                    x(interval.high) + "m0 -5v10"}));
            out.push(svg("circle", {class: r === base ? "dot-before" : "dot-after", cx: x(r.change), cy: y, r: 5}));
        });
        const most = Math.max(...list.map(r => r.step_time_ns.mean)), bars = [names.map(n => n.cloneNode(true))];
        const bx = v => gutter + v / most * (w - gutter - 60);
        list.forEach((r, i) => {
            let at = 0;
            for (const [key, , kind] of PARTS) {
                bars.push(svg("rect", {class: kind, x: bx(at), y: top + i * row + 6,
                    width: Math.max(0, bx(at + r[key]) - bx(at)), height: row - 12}));
                at += r[key];
            }
            bars.push(label(bx(at) + 6, top + i * row + row / 2 + 4, time(r.step_time_ns.mean)));
        });
        const marks = ticks(0, most, Math.min(4, Math.floor((w - gutter) / 80))), text = axisText(marks, TIME);
        for (const t of marks.filter(v => bx(v) < w - 30))
            bars.push(svg("path", {class: "axis", d: "M" + bx(t) + " " + (top + list.length * row) + "v5"}),
                label(bx(t), tall - 22, text(t), {"text-anchor": "middle"}));
        const lines = i => [list[i].strategy, "step " + time(list[i].step_time_ns.mean) + ", " +
            (list[i] === base ? "the baseline" : changeText(list[i])),
            ...PARTS.map(p => p[1] + " " + time(list[i][p[0]]))];
        const rows = {rows: list.length, columns: 1, start: [0, 0], text: lines,
            rect: i => [0, top + i * row, w, row], hit: (px, y) => {
                const i = Math.floor((y - top) / row);
                return i >= 0 && i < list.length ? [i, 0] : null;
            }};
        [["change", out], ["parts", bars]].forEach(([key, drawing]) => cells(plot(panels, null, w, tall, drawing),
            {...rows, key: "comparison-" + key, name: "Plans, " + key + " of their steps"}, group));
    }, table: () => {
        const end = (r, which) => r.change_interval ? signed(r.change_interval[which]) : "\u2013";
        return [["Plan", "Change", "Interval, low", "Interval, high", "Step", ...PARTS.map(p => p[1])],
            list.map(r => [r.strategy, signed(r.change), end(r, "low"), end(r, "high"), time(r.step_time_ns.mean),
                ...PARTS.map(p => time(r[p[0]]))])];
    }});
}

/* ---- layer by layer ---- */

function layerText(i) {
    const of = s => s.word + ": " + (s.plan.layer_ns ? time(s.plan.layer_ns[i]) : "\u2013");
    const lines = [L(i), ...shown().map(of)], s = saved(i);
    if (s !== null)
        lines.push((s >= 0 ? "saves " : "costs ") + time(Math.abs(s)) + " (" +
            signed(-s / shown()[0].plan.layer_ns[i]) + ")");
    return lines;
}

function layersChart() {
    const known = shown().filter(s => s.plan.layer_ns);
    if (!known.length)
        return leaveOut("layers", (plans[0] && plans[0].detail_note) ||
            "Times of single layers are not in this report.");
    /* Bars that look alike say nothing: then what is saved. */
    const [first, second] = known.map(s => s.plan.layer_ns);
    const most = second ? Math.max(...first.map((v, i) => Math.abs(v - second[i]))) : Infinity;
    state.layers = most < 0.1 * Math.max(...first) ? "saved" : "time";
    const what = choice("What is shown", "layers-what", [["time", "MoE time"], ["saved", "Saved"]], state.layers,
        v => { state.layers = v; changed(); });
    figure({section: "layers", name: "time", controls: known.length > 1 ? [what] : null, draw(f, width) {
        const list = shown().filter(s => s.plan.layer_ns), both = list.length > 1;
        const isSaved = both && state.layers === "saved";
        const a = list[0].plan.layer_ns, b = both ? list[1].plan.layer_ns : a;
        const gutter = 62, top = 12, h = printing ? 200 : 220, foot = 36;
        const col = Math.max(5, Math.min(64, (width - gutter - 8) / nL)), wide = gutter + col * nL + 8;
        const low = isSaved ? Math.min(0, ...a.map((v, i) => v - b[i])) : 0;
        const high = isSaved ? Math.max(1, ...a.map((v, i) => v - b[i])) : Math.max(...a, ...b);
        const y = v => top + (high - v) / (high - low) * h, out = [];
        if (both) {
            const gains = a.map((v, i) => Math.max(0, v - b[i])), all = gains.reduce((p, v) => p + v, 0);
            const top3 = worst(gains, 3), share = top3.reduce((p, i) => p + gains[i], 0) / all;
            const net = a.reduce((p, v, i) => p + v - b[i], 0);
            f.title.textContent = net <= 0 ? "The layers' MoE time is " + time(-net) + " longer in sum" :
                share > 0.5 && nL > 3 ? top3.map(L).join(", ") + " carry " + percent(share, 0) + " of what is saved" :
                "The saving of " + time(net) + " is spread over the layers: the largest three carry " +
                    percent(share, 0);
        } else {
            f.title.textContent = "Slowest layer: " + L(a.indexOf(Math.max(...a))) + ", " + time(Math.max(...a));
        }
        f.sub.textContent = (isSaved ? "MoE time saved in each layer" : "MoE time of each layer") +
            ", mean over the steps. Choosing a layer chooses it in all charts.";
        f.plots.append(both && !isSaved ? pairKeys() : "");
        const marks = ticks(low, high, 4), yText = axisText(marks, TIME);
        for (const t of marks)
            out.push(svg("path", {class: t === 0 ? "zero" : "axis", d: "M" + gutter + " " + y(t) + "h" + col * nL}),
                label(gutter - 8, y(t) + 4, yText(t), {"text-anchor": "end"}));
        for (let i = 0; i < nL; i++) {
            const x = gutter + i * col, gap = col > 12 ? 2 : 1, w = Math.max(1, col - 2 * gap);
            if (isSaved) {
                const s = a[i] - b[i];
                out.push(svg("rect", {class: s >= 0 ? "bar-after" : "bar-loss", x: x + gap, y: Math.min(y(0), y(s)),
                    width: w, height: Math.abs(y(0) - y(s))}));
                continue;
            }
            const inset = both ? w * 0.22 : 0;
            if (both)
                out.push(svg("rect", {class: "bar-before", x: x + gap, y: y(a[i]), width: w,
                    height: y(0) - y(a[i])}));
            out.push(svg("rect", {class: "bar-after", x: x + gap + inset, y: y(b[i]), width: w - 2 * inset,
                height: y(0) - y(b[i])}));
        }
        out.push(svg("rect", {class: "chosen", x: gutter + state.layer * col - 0.5, y: top - 6, width: col + 1,
            height: h + 8}));
        for (const i of every(nL, col, 26))
            out.push(label(gutter + (i + 0.5) * col, top + h + 17, L(i), {"text-anchor": "middle"}));
        const panels = el("div", {class: "panels"});
        f.plots.append(panels);
        sayWhatIsMissing(f, "layer_ns");
        cells(plot(panels, null, wide, top + h + foot - 10, out), {key: "layers", name: "MoE time by layer", rows: 1,
            columns: nL, start: [0, state.layer], text: (i, j) => layerText(j), pick: (i, j) => pickLayer(j),
            rect: (i, j) => [gutter + j * col, top - 6, col, h + 8], hit: x => {
                const j = Math.floor((x - gutter) / col);
                return j >= 0 && j < nL ? [0, j] : null;
            }}, []);
    }, table: () => {
        const list = shown().filter(s => s.plan.layer_ns);
        const both = list.length > 1;
        return [["Layer", ...list.map(s => s.word), ...(both ? ["saved"] : [])], layers.map((id, i) => [L(i),
            ...list.map(s => time(s.plan.layer_ns[i])), ...(both ? [time(saved(i))] : [])])];
    }});
}

/* Indexes of the n largest, largest first. */
const worst = (list, n) => list.map((v, i) => i).sort((a, b) => list[b] - list[a] || a - b).slice(0, n);

/* ---- load of the GPUs ---- */

const LOADS = {
    ratio: {text: "Over the layer's mean", unit: "rows of a GPU over its layer's mean, mean of the steps",
        format: times, units: TIMES},
    rows: {text: "Rows", unit: "rows (token, expert pairs) a GPU computes in a step, mean of the steps",
        format: count, units: COUNT},
    peak: {text: "Fullest step", unit: "rows of a GPU in its fullest step over its layer's mean", format: times,
        units: TIMES},
};

/* [L, G] of what is shown of a plan's load. */
function loadOf(plan, kind) {
    const rows = unpack(plan.load.mean_rows);
    if (kind === "rows")
        return rows;
    const from = kind === "peak" ? unpack(plan.load.max_rows) : rows;
    const means = layers.map((id, i) => mean(rows.subarray(i * nG, i * nG + nG)));
    return from.map((v, k) => {
        const m = means[Math.floor(k / nG)];
        return m > 0 ? v / m : 0;
    });
}

function load() {
    const known = shown().filter(s => s.plan.load);
    if (!known.length)
        return leaveOut("load", (plans[0] && plans[0].detail_note) ||
            "The load of single GPUs is not in this report.");
    const what = choice("What is shown", "load-what", Object.entries(LOADS).map(([v, o]) => [v, o.text]), state.load,
        v => { state.load = v; changed(); });
    figure({section: "load", name: "map", controls: [what], draw(f, width) {
        const list = shown().filter(s => s.plan.load), kind = LOADS[state.load];
        const values = list.map(s => loadOf(s.plan, state.load));
        const over = list.map(s => mean(s.plan.load.max_over_mean));
        sayWhatIsMissing(f, "load");
        if (!list.length) {
            f.title.textContent = f.sub.textContent = "";
            return;
        }
        const [low, high] = extent(values);
        const scale = colours("warm", state.load === "rows" ? 0 : Math.min(low, Math.max(0, high - 0.5)), high || 1);
        const last = list[list.length - 1], at = last.plan.load.max_over_mean, where = worst(at, 1)[0];
        f.title.textContent = "In a step, the fullest GPU carries " + times(over[over.length - 1]) +
            " the mean load" + (over.length > 1 ? " instead of " + times(over[0]) : "") +
            "; worst is " + L(where) + ", " + times(at[where]);
        f.sub.textContent = "Layers down, GPUs across" + (nNodes > 1 ? ", lines between nodes" : "") +
            (list.length > 1 ? ". Both on one scale: " : ". Colour: ") + kind.unit + ".";
        const panels = el("div", {class: "panels"}), group = [];
        f.plots.append(panels);
        const isBelow = printing && nG > 24; /* on paper both of many GPUs stand below each other, on one sheet */
        const least = isBelow ? 5 : 7, room = isBelow ? 345 : printing ? 380 : 500;
        const w = panelWidths(width, list.length, nG, 5, 64), h = Math.max(least, Math.min(18, Math.floor(room / nL)));
        const text = (i, j) => [L(i) + " \u00b7 " + gpu(j), ...list.map((s, k) => {
            const rows = unpack(s.plan.load.mean_rows)[i * nG + j], hosts = unpack(s.plan.hosts);
            const of = {ratio: " mean, " + count(rows) + " rows", rows: " rows", peak: " mean in its fullest step"};
            return s.word + ": " + kind.format(values[k][i * nG + j]) + of[state.load] +
                (hosts ? ", " + hosts[i * nG + j] + " experts" : "");
        })];
        list.forEach((s, k) => heat(panels, {key: "load-" + s.word, title: panelTitle(s),
            name: "Load by layer and GPU, " + s.word + ", " + s.plan.name, rows: nL, columns: nG, w, h,
            value: (i, j) => values[k][i * nG + j], scale, rowName: L, text, start: [state.layer, 0],
            pick: i => pickLayer(i), chosenRow: state.layer}, group));
        f.plots.append(legend(scale, width, kind.unit, kind.units, state.load === "ratio" ? 1 : undefined));
    }, table: () => {
        const list = shown().filter(s => s.plan.load), values = list.map(s => loadOf(s.plan, state.load)), rows = [];
        for (let i = 0; i < nL; i++)
            list.forEach((s, k) => rows.push([L(i) + " " + s.word, times(s.plan.load.max_over_mean[i]),
                ...Array.from(values[k].subarray(i * nG, (i + 1) * nG), LOADS[state.load].format)]));
        return [["Layer", "fullest / mean", ...nodes.map((n, g) => "GPU " + g)], rows];
    }});
}

/* ---- traffic between ranks ---- */

/* [G, G] bytes of a step, of one layer or (layer null) of all; null where it is not in the report. */
function trafficOf(plan, part, layer) {
    const t = plan.traffic, n = nG * nG;
    if (!t)
        return null;
    if (layer === null)
        return unpack(part === "dispatch" ? t.dispatch_sum_bytes : t.combine_sum_bytes);
    const dispatch = t.dispatch_bytes ? unpack(t.dispatch_bytes).subarray(layer * n, layer * n + n) : null;
    if (part === "dispatch")
        return dispatch;
    if (t.combine_bytes)
        return unpack(t.combine_bytes).subarray(layer * n, layer * n + n);
    if (!dispatch || !isNumber(t.combine_of_dispatch))
        return null;
    return dispatch.map((v, k) => dispatch[k % nG * nG + Math.floor(k / nG)] * t.combine_of_dispatch);
}

/* Bytes out of and into each rank, and those that leave their node. */
function flows(m) {
    const out = {sent: new Float64Array(nG), received: new Float64Array(nG), between: 0, all: 0, most: 0,
        least: Infinity, isSparse: false};
    m.forEach((v, k) => {
        const i = Math.floor(k / nG), j = k % nG;
        if (i === j)
            return;
        out.sent[i] += v;
        out.received[j] += v;
        out.all += v;
        out.between += nodes[i] !== nodes[j] ? v : 0;
        out.most = Math.max(out.most, v);
        out.least = v > 0 ? Math.min(out.least, v) : out.least;
        out.isSparse = out.isSparse || v === 0;
    });
    return out;
}

function traffic() {
    const t = state.traffic, known = shown().filter(s => s.plan.traffic);
    if (!known.length)
        return leaveOut("traffic", (plans[0] && plans[0].detail_note) ||
            "Traffic between ranks is not in this report.");
    const perLayer = known.some(s => s.plan.traffic.dispatch_bytes || s.plan.traffic.combine_bytes);
    const set = key => value => {
        t[key] = value;
        changed();
    };
    const scope = choice("Layers", "traffic-scope", [["all", "All layers"], ["layer", L(0)]], t.scope, set("scope"));
    const part = choice("Part", "traffic-part", [["dispatch", "Dispatch"], ["combine", "Combine"]], t.part,
        set("part"));
    const ramp = choice("Scale", "traffic-scale", [["linear", "Linear"], ["log", "Logarithmic"]], t.scale,
        set("scale"));
    const matrices = () => shown().map(s => ({...s, m: trafficOf(s.plan, t.part, t.scope === "all" ? null :
        state.layer)})).filter(s => s.m);
    watchers.push(() => {
        const [all, one] = scope.querySelectorAll("input");
        one.disabled = !perLayer;
        t.scope = perLayer ? t.scope : "all";
        (t.scope === "all" ? all : one).checked = true;
        one.nextSibling.textContent = "Layer " + L(state.layer);
    });
    figure({section: "traffic", name: "matrix", controls: [scope, part, ramp], draw(f, width) {
        const what = t.part + (t.scope === "all" ? ", all layers" : ", layer " + L(state.layer));
        const list = matrices();
        list.forEach(s => { s.sum = flows(s.m); });
        if (!list.length) {
            f.title.textContent = "Not in this report for " + L(state.layer);
            f.sub.textContent = shown().map(s => s.plan.detail_note).find(n => n) || "";
            return;
        }
        const high = Math.max(...list.map(s => s.sum.most), 1), least = Math.min(...list.map(s => s.sum.least));
        const scale = t.scale === "log" ? colours("cool", Math.max(least, high / 1e4), high, true) :
            colours("cool", least > high / 2 ? least : 0, high);
        f.title.textContent = trafficTitle(list);
        f.sub.textContent = "Bytes of a step from rank (down) to rank (across), " + what +
            ". Bars: what a rank sends (right) and receives (below)" +
            (nNodes > 1 ? "; lines are borders of nodes." : ".") +
            (list.some(s => s.sum.isSparse) ? " Where it is blank nothing is sent." : "");
        shown().filter(s => !list.some(l => l.word === s.word)).forEach(s => f.plots.append(el("p", {class: "missing"},
            s.plan.name + " is not shown: " + (s.plan.detail_note || "not in this report"))));
        const panels = el("div", {class: "panels"}), group = [];
        f.plots.append(panels);
        const w = panelWidths(width - 32 * list.length, list.length, nG, 5, 54);
        const most = extent(list.flatMap(s => [s.sum.sent, s.sum.received]))[1];
        const amount = (s, i, j) => bytes(s.m[i * nG + j]) + " a step; of " + bytes(s.sum.sent[i]) + " sent, " +
            bytes(s.sum.received[j]) + " received";
        const text = (i, j) => [gpu(i) + " \u2192 " + gpu(j),
            ...list.map(s => s.word + ": " + (i === j ? "stays on the GPU" : amount(s, i, j)))];
        list.forEach(s => heat(panels, {key: "traffic-" + s.word, title: panelTitle(s),
            name: "Bytes from rank to rank, " + what + ", " + s.word + ", " + s.plan.name, rows: nG, columns: nG, w,
            h: w, scale, rowName: i => i, text, start: [0, Math.min(1, nG - 1)], rowNodes: true,
            value: (i, j) => i !== j && s.m[i * nG + j] > 0 ? s.m[i * nG + j] : NaN,
            marginals: {rows: s.sum.sent, columns: s.sum.received, most}}, group));
        f.plots.append(legend(scale, width, "bytes of a step from one rank to another", BYTES));
    }, table: () => {
        const list = matrices(), rows = [];
        for (let i = 0; i < nG; i++)
            for (const s of list)
                rows.push(["from " + i + ", " + s.word, ...Array.from(s.m.subarray(i * nG, (i + 1) * nG), bytes)]);
        return [["Rank", ...nodes.map((n, g) => "to " + g)], rows];
    }});
}

function trafficTitle(list) {
    const [a, b] = [list[0].sum, list[list.length - 1].sum], both = list.length > 1;
    const change = (x, y) => x > 0 ? " (" + signed(y / x - 1) + ")" : "";
    if (b.all === 0)
        return "Nothing is sent between ranks";
    if (nNodes > 1)
        return bytes(b.between) + " a step cross between nodes" +
            (both ? ", before " + bytes(a.between) + change(a.between, b.between) : "") + "; " +
            percent(b.between / b.all, 0) + " of what is sent";
    const top = s => Math.max(...s.received), who = b.received.indexOf(top(b));
    return "GPU " + who + " receives most, " + bytes(top(b)) + " a step" +
        (both ? "; before, the fullest port took " + bytes(top(a)) + change(top(a), top(b)) : "");
}
