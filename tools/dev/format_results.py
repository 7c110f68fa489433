"""The section of docs/RESULTS.md on formats, topologies and the report: every topology file of the data folder through the program, and the benchmarks' tables."""
import os
import re

# What the GPUs of a file are, where it cannot say: by a word of its path, as those who wrote the file have them.
TYPES = [("v100", "v100"), ("p5.", "h100"), ("ndv4", "a100"), ("ndv5", "h100"), ("a800", "a100"), ("ndv2", "v100"), ("dgx2", "v100"), ("DGX2", "v100"), ("", "h100")]


def of_topology(ask, spec):
    """(whether it went through, what it is or the reason why not)."""
    try:
        answer = ask(["inspect", spec])
    except (RuntimeError, ValueError) as refused:
        return False, " ".join(str(refused).split()).split("moeplan: ")[-1]
    t = answer["topology"]
    levels = [f"{v['name']} ({v['groups']} group{'s' if v['groups'] > 1 else ''}, {v['latency_ns']} ns)" for v in t["levels"]]
    return True, f"{len(t['gpus'])} x {t['gpus'][0]['type']}: " + ", ".join(levels)


def topologies(ask, data):
    rows = ["| file | as | what it is, or why it is refused |", "|---|---|---|"]
    found = []
    for folder, _, names in os.walk(os.path.join(data, "topologies")):
        found += [os.path.relpath(os.path.join(folder, n), data) for n in names if not n.endswith(".md")]
    for path in [*sorted(found), "formats/topo_sglang_eplb_topology.json"]:
        went, what = of_topology(ask, path)
        spec = path
        if not went and "behind a colon" in what:
            spec = path + ":" + next(gpu for word, gpu in TYPES if word in path)
            if "power8" not in path:  # a P100 is none of the built-in GPUs: the refusal stands
                went, what = of_topology(ask, spec)
            else:
                spec = path
        what = re.sub(re.escape(path) + r":(?=\d)", "line ", what).replace(path + ": ", "").replace(path, "FILE").strip().replace("|", "/")
        rows.append(f"| `{path.removeprefix('topologies/')}` | `{os.path.basename(spec)}` | {'' if went else 'refused: '}{what} |")
    return rows


def section(ask, data, script):
    out = ["Every topology file of the data folder, `moeplan inspect FILE`, with the GPU behind a colon where the file cannot say it.", "", *topologies(ask, data)]
    for name, arguments, what in (
            ("bench_round_trips.py", ["MOEPLAN", "DATA"], "Recordings to every form that carries them and back, byte for byte."),
            ("bench_bombs.py", ["MOEPLAN"], "Files made to take all time or memory (asked: refused in less than 1 s and 64 MB)."),
            ("bench_report.py", ["--build", "BUILD"], "The report of 58 layers on 64 GPUs (asked: 2,000,000 bytes, open in less than 1 s, no complaints)."),
            ("bench_record.py", [], "What recording costs a Hugging Face model.")):
        out += ["", f"{what} `tools/bench/{name} {' '.join(arguments)}`".rstrip("` ") + "`:", "",
                *("    " + line if line else "" for line in script(name, arguments).strip().splitlines())]
    return out
