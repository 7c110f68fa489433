"""Pages made from data alone, as moeplan report makes them from a plan: the template filled, the static parts in the shape that
docs/REPORT.md part 4 describes. And data of any size, made up, for what a sample cannot show.

usage: pages.py [LAYERS GPUS NODES | DATA.json] OUT.html
"""
import base64
import html
import json
import math
import pathlib
import random
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "src" / "report" / "page"
SCRIPTS = ("base.js", "charts.js", "steps.js")
sys.path.insert(0, str(ROOT / "tools" / "dev"))
import join_page  # noqa: E402


def static(data):
    """The parts that the program writes."""
    esc, verdict, subject = html.escape, data["verdict"], data["subject"]
    few = {"too few": "few"}.get(verdict["kind"], verdict["kind"])
    notes = "".join(f"<li>{esc(n)}</li>" for n in data["notes"])
    rows = "".join(
        f'<tr class="{"baseline" if i == data["comparison"]["baseline"] else "judged" if i == verdict["plan"] else ""}"><th scope="row">'
        f'{esc(r["strategy"])}</th><td class="n">{r["step_time_ns"]["mean"] / 1e6:.3f} ms</td><td class="n">{r["change"] * 100:+.1f} %</td>'
        f'<td class="n">{r["imbalance"]["max_over_mean"]:.2f}</td><td class="n">{r["gap"] * 100:.1f} %</td></tr>'
        for i, r in enumerate(data["comparison"]["results"]))
    certificates = "".join(
        f'<h3>{esc(p["name"])}</h3><div class="scroll"><table><thead><tr><th>what</th><th class="n">value</th><th class="n">bound</th></tr></thead><tbody>' +
        "".join(f'<tr><th scope="row">{esc(c["kind"])}: {esc(c["scope"])}</th><td class="n">{c["value_ns"]}</td><td class="n">{c["bound_ns"]}</td></tr>'
                for c in p["certificates"]) + '</tbody></table></div><p class="verified yes">accepted</p>' for p in data["plans"])
    provenance = data["provenance"]
    return {
        "TITLE": "moeplan report: " + esc(subject["model"] or ""),
        "VERDICT": f'<p class="headline {few}">{esc(verdict["headline"])}</p><p class="interval">{esc(verdict["interval_text"])}</p>'
                   f'<p class="where">{esc(verdict["where_text"])}</p><p class="subject">{esc(subject["steps_text"])}</p><ul class="notes">{notes}</ul>',
        "COMPARISON": '<div class="scroll"><table><caption>On the same held-out steps</caption><thead><tr><th scope="col">plan</th><th scope="col" class="n">'
                      'step</th><th scope="col" class="n">change</th><th scope="col" class="n">max/mean</th><th scope="col" class="n">gap</th></tr></thead>'
                      f'<tbody>{rows}</tbody></table></div>',
        "CERTIFICATES": certificates,
        "LIMITS": "<ul>" + "".join(f"<li>{esc(x)}</li>" for x in data["limits"]) + "</ul>",
        "PROVENANCE": f'<dl><dt>command</dt><dd><code>{esc(" ".join(provenance["command"]))}</code></dd><dt>trace</dt><dd>{esc(provenance["trace"]["name"])} '
                      f'<code>{esc(provenance["trace"]["sha256"] or "")}</code></dd></dl>',
        "DATA": json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
    }


def page(data):
    parts = static(data)
    parts["STYLE"] = (PAGE / "page.css").read_text()
    template, parts["SCRIPT"] = join_page.join((PAGE / "page.html").read_text(), parts["STYLE"], [(PAGE / name).read_text() for name in SCRIPTS])
    out = []
    for line in template.split("\n"):
        bare = line.strip()
        name = bare[4:-3] if bare.startswith("<!--") and bare.endswith("-->") else None
        out.append(parts[name].rstrip("\n") if name in parts else line)
    return "\n".join(out)


def packed(values, shape, kind="u16"):
    """As the program packs: the finest scale of 1, 2, 5 times a power of ten that fits."""
    most, top = max(values, default=0), {"u8": 255, "u16": 65535, "u32": 4294967295}[kind]
    scale = 1
    if most > 0:
        power = 10.0 ** math.floor(math.log10(most / top))
        scale = next(m * power for m in (1, 2, 5, 10, 20) if most / (m * power) <= top)
    raw = struct.pack("<%d%s" % (len(values), {"u8": "B", "u16": "H", "u32": "I"}[kind]), *(round(v / scale) for v in values))
    return {"type": kind, "shape": list(shape), "scale": scale, "base64": base64.b64encode(raw).decode()}


def invented(n_layers, n_gpus, n_nodes, seed=1):
    """The sample's object for another machine: made up, so that every chart has something to show."""
    data, rng = json.loads((HERE / "sample.json").read_text()), random.Random(seed)
    data["layers"] = [3 + i for i in range(n_layers)]
    per_node = n_gpus // n_nodes
    data["gpus"] = {"node": [g // per_node for g in range(n_gpus)], "type": [0] * n_gpus, "types": ["h100"]}
    data["subject"].update(n_layers=n_layers, n_gpus=n_gpus, n_nodes=n_nodes, topology=f"{n_nodes}x{per_node}:h100", model="made-up")
    heat = [1 + 1.5 * rng.random() ** 6 for _ in range(n_layers)]
    for number, plan in enumerate(data["plans"]):
        spread = (1.0, 0.22, 0.45)[number % 3]
        ratio = [[max(0.05, 1 + spread * heat[i] * rng.gauss(0, 0.33)) for _ in range(n_gpus)] for i in range(n_layers)]
        ratio = [[v / (sum(row) / n_gpus) for v in row] for row in ratio]
        flat = [v for row in ratio for v in row]
        plan["hosts"] = packed([4] * len(flat), (n_layers, n_gpus), "u8")
        plan["load"] = {"n_steps": 24, "mean_rows": packed([v * 1024 for v in flat], (n_layers, n_gpus)),
                        "max_rows": packed([v * 1024 * 1.3 for v in flat], (n_layers, n_gpus)), "max_over_mean": [max(row) * 1.05 for row in ratio]}
        plan["layer_ns"] = [round(30000 * max(row) + 22000) for row in ratio]
        traffic = [0.0 if a == b else ratio[i][b] * (90000 if a // per_node == b // per_node else 30000 * (1.2 if number == 0 else 0.8)) * rng.uniform(0.6, 1.4)
                   for i in range(n_layers) for a in range(n_gpus) for b in range(n_gpus)]
        n = n_gpus * n_gpus
        total = [sum(traffic[k::n]) for k in range(n)]
        plan["traffic"] = {"n_steps": 24, "dispatch_bytes": packed(traffic, (n_layers, n_gpus, n_gpus)), "combine_bytes": None, "combine_of_dispatch": 2,
                           "dispatch_sum_bytes": packed(total, (n_gpus, n_gpus), "u32"),
                           "combine_sum_bytes": packed([2 * total[k % n_gpus * n_gpus + k // n_gpus] for k in range(n)], (n_gpus, n_gpus), "u32")}
        bars, start, starts, lengths = [], 0, [], []
        for row in ratio:
            done = 9000 + 14000 + 26000 * max(row)
            for v in row:
                first, sent, got = 9000, 9000 + 11000 * rng.uniform(0.8, 1.2), 9000 + 9000 + 5000 * v
                bars += [0, 0, 0, first, first, sent, first + 600, got, first + 500, first + 5500, got, got + 26000 * v, done, done + 9000 + 4000 * v, done + 400,
                         done + 12000 * rng.uniform(0.9, 1.1)]
            starts.append(start)
            lengths.append(round(done + 16000))
            start += lengths[-1]
        plan["timeline"] = {"step": 12, "step_ns": start, "reading": "barrier", "layer_start_ns": starts, "layer_length_ns": lengths,
                            "parts_ns": [[9000, 14000, 5000, 26000, 12000]] * n_layers, "bars_ns": packed(bars, (n_layers, n_gpus, 8, 2)),
                            "send_bytes": packed([1.2e6] * n_layers * n_gpus * 2, (n_layers, n_gpus, 2)),
                            "receive_bytes": packed([1.3e6] * n_layers * n_gpus * 2, (n_layers, n_gpus, 2))}
    data["verdict"]["layers"] = [{"layer": 3 + i, "index": i, "saved_ns": 9000} for i in sorted(range(n_layers), key=lambda i: -heat[i])[:3]]
    data["verdict"]["where_text"] = f"3 of {n_layers} layers carry most of it: " + ", ".join(f"L{x['layer']}" for x in data["verdict"]["layers"])
    windows = data["drift"]["windows"]
    if windows:
        windows["distance"] = packed([0.03] * windows["n"] * n_layers, (windows["n"], n_layers))
    recording = data["drift"]["recording"]
    if recording:
        recording["drift"]["layers"] = [{"layer": 3 + i, "distance": abs(rng.gauss(0.05, 0.02)), "noise": 0.022, "beyond": True} for i in range(n_layers)]
    data["measured"]["parts"] = [{"layer": 3 + i, "step": 0, "part": part, "predicted_ns": at, "min_ns": round(at * 0.97), "median_ns": round(at * 1.06),
                                  "p95_ns": round(at * 1.3), "max_ns": round(at * 1.4)}
                                 for i in range(n_layers) for part, at in (("dispatch", 14000), ("experts", 26000), ("combine", 14000))]
    return data


if __name__ == "__main__":
    data = json.loads(pathlib.Path(sys.argv[1]).read_text()) if len(sys.argv) == 3 else invented(*map(int, sys.argv[1:4]))
    pathlib.Path(sys.argv[-1]).write_text(page(data))
