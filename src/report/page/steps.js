
/* ---- timeline of a layer ---- */

const KINDS = ["attention of layers without experts", "attention", "dispatch sends", "dispatch receives",
    "shared experts", "experts", "combine sends", "combine receives"];
/* Where a kind lies in its GPU's lane: top and height as shares. Sends above, receives below. */
const LANES = [[0.04, 0.92], [0.04, 0.92], [0.04, 0.45], [0.51, 0.45], [0.36, 0.28], [0.04, 0.92], [0.04, 0.45],
    [0.51, 0.45]];

/* Which bytes a kind moves. */
const MOVES = {2: ["send_bytes", 0], 3: ["receive_bytes", 0], 6: ["send_bytes", 1], 7: ["receive_bytes", 1]};

/* Start and end of a kind's bar on a GPU, from the start of the layer; null where there is none. */
function barOf(bars, layer, g, kind) {
    const at = ((layer * nG + g) * 8 + kind) * 2;
    return bars[at + 1] > bars[at] ? [bars[at], bars[at + 1]] : null;
}

function timelines() {
    const list = shown().filter(s => s.plan.timeline).map(s => ({word: s.word, name: s.plan.name,
        bars: unpack(s.plan.timeline.bars_ns), of: s.plan.timeline}));
    const m = data.measured && data.measured.timeline;
    if (m)
        list.push({word: "measured", name: measuredNote(data.measured), bars: unpack(m.bars_ns), of: null});
    return list;
}

function endOf(s, layer) {
    let last = 0;
    for (let k = layer * nG * 16 + 1; k < (layer + 1) * nG * 16; k += 2)
        last = Math.max(last, s.bars[k]);
    return last;
}

function timeline() {
    if (!timelines().length)
        return leaveOut("timeline", (plans[0] && plans[0].detail_note) || "The timeline is not in this report.");
    figure({section: "timeline", name: "bars", draw(f, width) {
        const list = timelines(), layer = state.layer, ends = list.map(s => endOf(s, layer));
        const high = Math.max(...ends, 1);
        sayWhatIsMissing(f, "timeline");
        if (!list.length) {
            f.title.textContent = f.sub.textContent = "";
            return;
        }
        const after = list.filter(s => s.of).pop() || list[0], step = after.of ? after.of.step : null;
        const lane = nG <= 8 ? 22 : nG <= 16 ? 16 : nG <= 32 ? 12 : 8, gutter = 58, top = 6, foot = 24;
        const wide = Math.max(width, 300), x = ns => gutter + ns / high * (wide - gutter - 34);
        f.title.textContent = L(layer) + " is done after " + time(endOf(after, layer)) +
            (list.length > 1 && list[0] !== after ? " instead of " + time(ends[0]) : "") + criticalText(after, layer);
        f.sub.replaceChildren(...prose("Each GPU's share of layer " + L(layer) +
            (step === null ? "" : " in step " + step) +
            ", on one time axis from the layer's start" + (list.some(s => !s.of) ?
                "; predicted, and measured: transfers alone, from the first byte" : ", predicted") +
            (after.of && after.of.reading === "pipelined" ? "; GPUs may be in different layers at one time." : ".") +
            " Between the bars: gate, launches, latency and waiting." +
            (data.measured ? "" : " With --measured, what moeplan-exec measured stands beside.")));
        const isUsed = k => list.some(s => nodes.some((n, g) => barOf(s.bars, layer, g, k)));
        const used = KINDS.map((n, k) => k).filter(isUsed);
        f.plots.append(keys(used.map(k => ["k" + k, KINDS[k]])));
        const group = [], panels = el("div", {class: "panels"});
        f.plots.append(panels);
        list.forEach((s, n) => {
            const out = [], paths = KINDS.map(() => []), h = nG * lane;
            const marks = ticks(0, high, Math.max(3, Math.floor(wide / 130))), xText = axisText(marks, TIME);
            for (const t of marks)
                out.push(svg("path", {class: "axis", d: "M" + x(t) + " " + top + "v" + (h + 4)}),
                    label(x(t), top + h + 18, xText(t), {"text-anchor": "middle"}));
            for (let g = 0; g < nG; g++)
                for (const k of used) {
                    const bar = barOf(s.bars, layer, g, k);
                    if (bar)
                        paths[k].push("M" + x(bar[0]).toFixed(1) + " " + (top + (g + LANES[k][0]) * lane).toFixed(1) +
                            "H" + x(bar[1]).toFixed(1) + "v" + (LANES[k][1] * lane).toFixed(1) +
                            "H" + x(bar[0]).toFixed(1) + "z");
                }
            for (const k of [0, 1, 2, 3, 5, 6, 7, 4])
                out.push(svg("path", {class: "bars k" + k, d: paths[k].join("")}));
            for (const g of nodeBorders)
                out.push(svg("path", {class: "node", d: "M" + (gutter - 8) + " " + (top + g * lane) + "H" + x(high)}));
            out.push(svg("path", {class: "zero", "stroke-dasharray": "3 2",
                d: "M" + x(ends[n]) + " " + top + "v" + h}));
            for (const g of every(nG, lane, 14))
                out.push(label(gutter - 8, top + (g + 0.5) * lane + 4, (nG <= 32 ? "GPU " : "") + g,
                    {"text-anchor": "end"}));
            const word = {before: "Before ", after: "After ", measured: "Measured "}[s.word];
            const title = el("h4", {}, word, el("span", {}, s.name + ", " + time(ends[n])));
            const node = plot(panels, title, wide, top + h + foot, out);
            const text = (g, c) => {
                const k = used[c], bar = barOf(s.bars, layer, g, k);
                const lines = [gpu(g) + " \u00b7 " + L(layer) + ", " + s.word];
                lines.push(bar ? KINDS[k] + ": " + time(bar[0]) + " to " + time(bar[1]) + " (" +
                    time(bar[1] - bar[0]) + ")" : "no " + KINDS[k]);
                if (k in MOVES && s.of)
                    lines.push(bytes(unpack(s.of[MOVES[k][0]])[(layer * nG + g) * 2 + MOVES[k][1]]));
                return lines;
            };
            cells(node, {key: "timeline-" + s.word, name: "Timeline of " + L(layer) + " by GPU and kind of work, " +
                s.word, rows: nG, columns: used.length, start: [0, 0], text, rect: (g, c) => {
                    const bar = barOf(s.bars, layer, g, used[c]), [y, t] = LANES[used[c]];
                    return bar ? [x(bar[0]), top + (g + y) * lane, x(bar[1]) - x(bar[0]), t * lane] :
                        [gutter, top + g * lane, 4, lane];
                }, hit: (px, py) => {
                    const g = Math.floor((py - top) / lane), inside = (py - top) / lane - g;
                    if (g < 0 || g >= nG)
                        return null;
                    const found = [4, 2, 3, 6, 7, 5, 1, 0].find(k => {
                        const bar = barOf(s.bars, layer, g, k);
                        return bar && px >= x(bar[0]) && px <= x(bar[1]) && inside >= LANES[k][0] &&
                            inside <= LANES[k][0] + LANES[k][1];
                    });
                    return found === undefined ? null : [g, used.indexOf(found)];
                }}, group);
        });
    }, table: () => {
        const rows = [];
        for (const s of timelines())
            for (let g = 0; g < nG; g++)
                rows.push([s.word + ", GPU " + g, ...KINDS.map((n, k) => {
                    const bar = barOf(s.bars, state.layer, g, k);
                    return bar ? time(bar[0]) + " \u2013 " + time(bar[1]) : "\u2013";
                })]);
        return [["GPU", ...KINDS], rows];
    }});
}

/* What holds the layer up: the GPU whose experts are done last, and how far behind the next; "" where several are. */
function criticalText(s, layer) {
    const ends = nodes.map((n, g) => (barOf(s.bars, layer, g, 5) || [0, 0])[1]), [last, next] = worst(ends, 2);
    if (next === undefined || ends[last] - ends[next] < 0.005 * ends[last])
        return "";
    return "; experts of GPU " + last + " are done last, " + time(ends[last] - ends[next]) + " after the next";
}

/* ---- measured beside predicted ---- */

function measuredNote(m) {
    return (m.transport || m.source) + (m.iterations === null ? "" : ", " + m.iterations + " iterations");
}

function measured() {
    const m = data.measured;
    if (!m || !m.parts.length)
        return;
    const known = m.parts.filter(p => p.predicted_ns > 0);
    const over = known.map(p => p.median_ns / p.predicted_ns).sort((a, b) => a - b);
    const text = p => [p.part + " of L" + p.layer, "predicted " + time(p.predicted_ns), "measured " +
        time(p.median_ns) + " (" + time(p.min_ns) + " to " + time(p.p95_ns) + ")"];
    figure({section: "timeline", name: "measured", draw(f, width) {
        const list = m.parts.filter(p => p.layer === layers[state.layer]), row = 26, top = 6;
        const gutter = 16 + 6.4 * Math.max(8, ...list.map(p => p.part.length)), tall = top + list.length * row + 24;
        f.title.textContent = over.length ? "Measured are " + times(over[over.length >> 1]) +
            " of the predicted times in the median, from " + times(over[0]) + " to " + times(over[over.length - 1]) :
            "Measured times, without a prediction beside";
        f.sub.textContent = "Layer " + L(state.layer) + ", " + measuredNote(m) + ", slowest rank: median (dot), " +
            "fastest to 95th percentile (line), predicted (bar).";
        if (!list.length) {
            f.plots.append(el("p", {class: "missing"}, "This layer was not measured."));
            return;
        }
        const high = Math.max(...list.map(p => Math.max(p.p95_ns, p.predicted_ns)), 1);
        const x = v => gutter + v / high * (width - gutter - 40), out = [];
        const marks = ticks(0, high, Math.max(2, Math.floor((width - gutter) / 110))), xText = axisText(marks, TIME);
        for (const t of marks)
            out.push(svg("path", {class: "axis", d: "M" + x(t) + " " + top + "v" + list.length * row}),
                label(x(t), tall - 8, xText(t), {"text-anchor": "middle"}));
        list.forEach((p, i) => {
            const y = top + i * row + row / 2;
            out.push(label(0, y + 4, p.part),
                svg("path", {class: "whisker", d: "M" + x(p.min_ns) + " " + y + "H" + x(p.p95_ns)}),
                svg("circle", {class: "dot-after", cx: x(p.median_ns), cy: y, r: 5}),
                svg("path", {class: "chosen", d: "M" + x(p.predicted_ns) + " " + (y - 9) + "v18"}));
        });
        cells(plot(f.plots, null, width, tall, out), {key: "measured", name: "Measured and predicted, " +
            L(state.layer), rows: list.length, columns: 1, start: [0, 0], text: i => text(list[i]),
            rect: i => [0, top + i * row, width, row], hit: (px, y) => {
                const i = Math.floor((y - top) / row);
                return i >= 0 && i < list.length ? [i, 0] : null;
            }}, []);
    }, table: () => [["Part", "predicted", "fastest", "median", "95th percentile", "slowest"],
        m.parts.map(p => ["L" + p.layer + " " + p.part, time(p.predicted_ns), time(p.min_ns), time(p.median_ns),
            time(p.p95_ns), time(p.max_ns)])]});
}

/* ---- curves ---- */

/* o: {key, name, width, height, xs, xName, xText, units, zero, lines: [{name, ys, kind, low, high, dots}], band: [ys],
 * at: x of the knee, text(i) -> [lines], pick, group} */
function curves(parent, title, o) {
    const gutter = 72, top = 10, foot = 40, w = o.width - gutter - 24, h = o.height - top - foot, out = [];
    const all = [...o.lines.flatMap(l => [...l.ys, ...(l.low || []), ...(l.high || [])]), ...(o.band || [])]
        .filter(isNumber);
    const from = o.zero ? 0 : Math.min(...all), span = Math.max(...all) - from || Math.abs(from) * 0.1 || 1;
    const low = o.zero ? 0 : from - span * 0.08, high = from + span * 1.06;
    const x0 = o.xs[0], x1 = o.xs[o.xs.length - 1];
    const x = v => gutter + (x1 > x0 ? (v - x0) / (x1 - x0) : 0.5) * w, y = v => top + (high - v) / (high - low) * h;
    const marks = ticks(low, high, 4), yText = axisText(marks, o.units);
    for (const t of marks)
        out.push(svg("path", {class: "axis", d: "M" + gutter + " " + y(t) + "h" + w}),
            label(gutter - 8, y(t) + 4, yText(t), {"text-anchor": "end"}));
    const least = 12 + 7 * Math.max(...o.xs.map(v => String(o.xText(v)).length));
    let last = -99;
    o.xs.forEach(v => {
        if (x(v) - last < least)
            return;
        last = x(v);
        out.push(svg("path", {class: "axis", d: "M" + last + " " + (top + h) + "v4"}),
            label(last, top + h + 17, o.xText(v), {"text-anchor": "middle"}));
    });
    out.push(label(gutter + w / 2, top + h + 34, o.xName, {"text-anchor": "middle"}));
    const point = (v, i, ys) => (i > 0 && isNumber(ys[i - 1]) ? "L" : "M") + x(v) + " " + y(ys[i]);
    const path = ys => o.xs.map((v, i) => isNumber(ys[i]) ? point(v, i, ys) : "").join("");
    if (o.band)
        out.push(svg("path", {class: "band", d: "M" + x(x0) + " " + y(low) +
            o.xs.map((v, i) => "L" + x(v) + " " + y(o.band[i])).join("") + "L" + x(x1) + " " + y(low) + "z"}));
    if (o.at !== undefined && o.at !== null)
        out.push(svg("path", {class: "knee", d: "M" + x(o.at) + " " + top + "v" + h}));
    if (o.at !== undefined && o.at !== null && !o.zero) { /* a curve from zero may run where the word would stand */
        const isLate = x(o.at) > gutter + w - 50;
        out.push(label(x(o.at) + (isLate ? -5 : 5), top + 11, "knee",
            {"text-anchor": isLate ? "end" : "start", class: "strong"}));
    }
    for (const l of o.lines) {
        if (!l.dots)
            out.push(svg("path", {class: "line-" + l.kind, d: path(l.ys)}));
        o.xs.forEach((v, i) => {
            if (l.low && isNumber(l.low[i]))
                out.push(svg("path", {class: "whisker", d: "M" + (x(v) - 4) + " " + y(l.low[i]) + "h8m-4 0V" +
                    y(l.high[i]) + "m-4 0h8"}));
            if (isNumber(l.ys[i]) && l.kind === "after")
                out.push(svg("circle", {class: "dot-after", cx: x(v), cy: y(l.ys[i]), r: o.xs.length > 30 ? 3 : 4.5}));
        });
    }
    const n = o.xs.length, half = n > 1 ? w / (n - 1) / 2 : 12;
    cells(plot(parent, title, o.width, o.height, out), {key: o.key, name: o.name, rows: 1, columns: n, start: [0, 0],
        text: (i, j) => o.text(j), pick: o.pick,
        rect: (i, j) => [x(o.xs[j]) - 7, top, 14, h], hit: px => {
            const j = o.xs.reduce((b, v, k) => Math.abs(x(v) - px) < Math.abs(x(o.xs[b]) - px) ? k : b, 0);
            return Math.abs(x(o.xs[j]) - px) <= half + 8 ? [0, j] : null;
        }}, o.group || []);
}

const sentence = s => s ? s.charAt(0).toUpperCase() + s.slice(1) : "";

function sweep() {
    const s = data.sweep;
    if (!s || !s.points || !s.points.length)
        return leaveOut("sweep", "No other number of redundant experts was tried for this report: " +
            "--redundant 0:32:8 tries some, --sweep FILE takes what moeplan sweep has found.");
    s.curves.forEach((curve, c) => {
        const at = p => p.at[s.along], isOf = p => Object.entries(curve.of || {}).every(([k, v]) => p.at[k] === v);
        const points = s.points.filter(p => p.feasible && p.step_time_ns && isOf(p)).sort((a, b) => at(a) - at(b));
        const range = p => p.step_time_interval_ns, end = (p, which) => range(p) ? time(range(p)[which]) : "\u2013";
        const refused = s.points.filter(p => !p.feasible);
        if (points.length < 2)
            return leaveOut("sweep", "The sweep has fewer than two points that fit: " +
                (refused.length ? refused[0].note || "" : ""));
        const text = j => ["redundant " + at(points[j]), "step " + time(points[j].step_time_ns.mean) +
            (range(points[j]) ? " (" + end(points[j], "low") + " to " + end(points[j], "high") + ")" : ""),
            "room for " + count(points[j].kv_tokens_min) + " tokens of KV cache"];
        figure({section: "sweep", name: "curve" + c, draw(f, width) {
            const of = Object.entries(curve.of || {}).map(([k, v]) => k + " " + v).join(", "), beside = width >= 860;
            const w = beside ? Math.floor((width - 28) / 2) : width, panels = el("div", {class: "panels"});
            const interval = which => points.map(p => range(p) ? range(p)[which] : null);
            const verdict = (curve.verdict || "").replace(/^--[\w-]+: /, "").replace(/(\d) us\b/g, "$1 \u00b5s");
            const [finding, ...more] = verdict.split("; ");
            f.title.textContent = sentence(finding) + (of ? " (" + of + ")" : "");
            f.sub.textContent = (more.length ? sentence(more.join("; ")) + ". " : "") +
                "Mean step with its 95\u00a0% interval over requests, and the tokens of KV cache that the fullest " +
                "GPU has room for, against redundant experts in every layer. " + sentence(s.evaluated_on) +
                ", planned with " + s.strategy + "." +
                (refused.length ? " Without a plan: " + refused.map(at).join(", ") +
                (refused[0].note ? " (" + refused[0].note + ")." : ".") : "");
            f.plots.append(panels);
            const both = {width: w, height: 250, xs: points.map(at), xName: "redundant experts", xText: String,
                at: curve.at, text, group: []};
            curves(panels, el("h4", {}, "Step time"), {...both, key: "sweep-step-" + c,
                name: "Step time by redundant experts" + (of ? ", " + of : ""), units: TIME, lines: [{kind: "after",
                    ys: points.map(p => p.step_time_ns.mean), low: interval("low"), high: interval("high")}]});
            curves(panels, el("h4", {}, "Room for KV cache ", el("span", {}, "tokens")), {...both, key: "sweep-kv-" + c,
                name: "Room for KV cache by redundant experts" + (of ? ", " + of : ""), units: COUNT, zero: true,
                lines: [{kind: "after", ys: points.map(p => p.kv_tokens_min)}]});
        }, table: () => [["Redundant", "step", "low", "high", "KV tokens", "fullest / mean"],
            points.map(p => [String(at(p)), time(p.step_time_ns.mean), end(p, "low"), end(p, "high"),
                count(p.kv_tokens_min), times(p.max_over_mean)])]});
    });
}

/* ---- drift ---- */

function drift() {
    const d = data.drift || {}, w = d.windows;
    if (w) {
        figure({section: "drift", name: "windows", draw(f, width) {
            const beyond = w.noise ? w.mean.filter((v, i) => v > w.noise[i]).length : null;
            f.title.textContent = beyond === null ?
                "Windows differ by up to " + percent(Math.max(...w.mean)) + " of the pairs" : beyond === 0 ?
                "No drift within the recording: every window stays within noise" :
                beyond + " of " + w.n + " windows differ beyond noise; the last by " + percent(w.mean[w.n - 1]) +
                " of the pairs";
            f.sub.textContent = "Share of (token, expert) pairs that use other experts than the " + w.against +
                ", mean over layers" +
                (w.noise ? "; shaded: what samples of that size differ by anyway (95\u00a0%)." : ".") +
                (w.ordered ? "" : " The recording does not say in which order it was made.");
            const text = j => ["Window " + (j + 1) + ", from request " + w.first[j],
                percent(w.mean[j], 2) + " of the pairs" + (w.noise ? ", noise " + percent(w.noise[j], 2) : ""),
                ...(w.beyond ? [w.beyond[j] + " of " + nL + " layers beyond noise"] : []),
                w.n_members[j] + " requests"];
            curves(f.plots, null, {key: "drift-windows", name: "Drift by window", width, height: 220,
                xs: w.mean.map((v, i) => i), xName: "window, by its first request", xText: v => String(w.first[v]),
                units: PERCENT, zero: true, band: w.noise, text, lines: [{kind: "after", ys: w.mean}]});
        }, table: () => [["First request", "requests", "pairs", "noise", "layers beyond"],
            w.mean.map((v, i) => [String(w.first[i]), String(w.n_members[i]), percent(v, 2),
                w.noise ? percent(w.noise[i], 2) : "\u2013", w.beyond ? String(w.beyond[i]) : "\u2013"])]});
    } else {
        say("drift", d.windows_note || "Drift within the recording is not in this report.");
    }
    const r = d.recording, all = r && r.drift && r.drift.layers;
    if (all && all.length) {
        figure({section: "drift", name: "recording", draw(f, width) {
            const [finding, ...more] = (r.verdict || r.answer || "").split("; ");
            f.title.textContent = sentence(finding) || "The experts' use in the new recording";
            f.sub.textContent = (more.length ? sentence(more.join("; ")) + ". " : "") + "Recording " + r.name +
                ": share of (token, expert) pairs that use other experts than the plan was made for, " +
                "by layer; shaded: noise.";
            curves(f.plots, null, {key: "drift-recording", name: "Drift of the new recording by layer", width,
                height: 220, xs: all.map((l, i) => i), xName: "layer",
                xText: v => "L" + all[v].layer, units: PERCENT, zero: true, band: all.map(l => l.noise),
                pick: (i, j) => pickLayer(Math.max(0, layers.indexOf(all[j].layer))),
                text: j => ["L" + all[j].layer, percent(all[j].distance, 2) + " of the pairs, noise " +
                    percent(all[j].noise, 2)],
                lines: [{kind: "after", dots: true, ys: all.map(l => l.distance)}]});
        }, table: () => [["Layer", "pairs", "noise"], all.map(l => ["L" + l.layer, percent(l.distance, 2),
            percent(l.noise, 2)])]});
    } else if (w) {
        say("drift", "How far newer traffic has moved is not in this report: --drift NEW-RECORDING tells.");
    } else {
        byId("drift").classList.add("missing-part");
    }
}

/* ---- all of it ---- */

function contents() {
    const heads = Array.from(document.querySelectorAll("main section:not([hidden]) > h2"));
    byId("contents").append(el("ul", {}, heads.map(h =>
        el("li", {}, el("a", {href: "#" + h.parentNode.id}, h.textContent)))));
}

function draw() {
    const key = pointed && pointed.key; /* what is pointed at stays so */
    hideTip();
    figures.forEach(f => drawFigure(f));
    if (key && charts.has(key) && !printing)
        charts.get(key)();
}

function paper() {
    const folded = [];
    const on = () => {
        if (printing)
            return;
        printing = true;
        document.querySelectorAll("details:not(.numbers):not([open])").forEach(d => {
            folded.push(d);
            d.open = true;
        });
        draw();
    };
    const off = () => {
        printing = false;
        folded.splice(0).forEach(d => { d.open = false; });
        draw();
    };
    window.addEventListener("beforeprint", on);
    window.addEventListener("afterprint", off);
}

document.body.append(tip);
document.querySelectorAll("section > .scroll").forEach(box => fill(box, {tabindex: "0", role: "region",
    "aria-label": (box.querySelector("caption") || box).textContent.slice(0, 120)}, []));
theme();
if (plans.length) {
    state.layer = Math.max(0, worstLayer());
    readAddress();
    picker();
    comparison();
    layersChart();
    load();
    traffic();
    timeline();
    measured();
    sweep();
    drift();
    watchers.push(draw);
    const line = el("p", {class: "print-only sub"});
    byId("layers").prepend(line);
    watchers.unshift(() => {
        line.textContent = "Charts of a layer show " + L(state.layer) + "; " +
            shown().map(s => s.word + ": " + s.plan.name).join(", ") + ".";
    });
    contents();
    changed();
    window.addEventListener("hashchange", () => { if (readAddress()) changed(); });
    let waiting = 0;
    new ResizeObserver(() => {
        cancelAnimationFrame(waiting);
        waiting = requestAnimationFrame(() => {
            if (!printing && figures.some(f => f.width !== Math.floor(f.node.parentNode.clientWidth)))
                draw();
        });
    }).observe(byId("main"));
    window.addEventListener("scroll", () => { if (pointed) placeTip(); }, {capture: true, passive: true});
    paper();
} else {
    contents();
}
}());
