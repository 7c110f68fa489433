#!/usr/bin/env python3
"""What replicas are worth, held out, on real recordings: auto and its parts beside EPLB with the same redundancy and with none.

usage: replicate_results.py MOEPLAN DATA [--cells TEXT] [--threads N] [--strategies A,B,...] [--set STRATEGY.OPTION=N,...] [--steps N] [--ablation]

Cells are recordings x redundancy {8, 32} x {8, 16} GPUs x {1, 2, 4} nodes, as in issue 6, with 1,024 decode requests or 16,384 prefill tokens a step
spread over the GPUs (--size gives another number); --cells keeps those whose label holds the text. Half of the requests plan, the other half scores. Prints
a markdown table: mean step against the best of {eplb, eplb-nearest, eplb-split, EPLB without redundancy, its slots left empty}; a strategy that cannot run is
n/a. --ablation adds `auto` with one stage held: `- place` (EPLB's placement), `- replicate` (EPLB's replicas, placed and routed by auto), `- route`
(replicas drawn evenly), and `none` (auto with no replicas). Ends with geometric mean and worst cell per recording."""
import argparse
import json
import math
import subprocess
import sys

REFERENCES = ["eplb", "eplb-nearest", "eplb-split"]
# What the column is called, and what holds the stage.
ABLATION = [("auto - place", ["--place", "eplb"]), ("auto - replicate", ["--replicate", "eplb"]), ("auto - route", ["--route", "even"]),
            ("auto, none", ["--replicate", "none"])]


def cells():
    for model in ("gpt-oss-20b", "gpt-oss-20b prefill", "deepseek-v2-lite"):
        for redundant in (8, 32):
            for gpus in (8, 16):
                for nodes in (1, 2, 4):
                    yield model, redundant, gpus, nodes


def arguments(data, model, size, gpus, nodes):
    topology = f"{nodes}x{gpus // nodes}:h100"
    decode = model == "gpt-oss-20b"
    phase = ["--phase", "decode", "--batch", str((size or 1024) // gpus)] if decode else \
            ["--phase", "prefill", "--tokens-per-rank", str((size or 8192) // gpus)]
    if model.startswith("gpt-oss-20b"):
        return [f"{data}/traces/gpt-oss-20b/mmlu_test.npz", topology, "--layer-base", "0", "--ids", "logical", "-m", "gpt-oss-20b", "--experts", "32", *phase]
    return [f"{data}/traces/deepseek-v2-lite/chat_prefill.npz", topology, "--layer-base", "1", "--ids", "logical", "-m", model, "--experts", "64", *phase]


def compare(options, args, strategies):
    base = [options.moeplan, "compare", *args, "--split", "0.5", "--steps", options.steps, "--threads", options.threads, "--interval-groups", "0",
            "--strategy", strategies, "--json", "--quiet", *(["--set", options.set] if options.set else [])]
    for extra in ([], ["--resample"]):
        done = subprocess.run(base + extra, capture_output=True, text=True)
        if done.returncode == 0:
            return {r["strategy"]: r["step_time_ns"]["mean"] for r in json.loads(done.stdout)["results"] if "step_time_ns" in r}
        if done.returncode == 1: # infeasible, or no strategy applies
            return {}
    sys.exit(done.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("moeplan")
    parser.add_argument("data")
    parser.add_argument("--cells", default="")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--steps", default="64")
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--strategies", default="search,search-replicated,auto")
    parser.add_argument("--set", default="")
    parser.add_argument("--ablation", action="store_true")
    options = parser.parse_args()
    names = options.strategies.split(",")
    ablation = ABLATION if options.ablation else []
    columns = REFERENCES + ["empty"] + names + [name for name, _ in ablation]
    sums = {}
    print("| recording | redundant | GPUs | " + " | ".join("EPLB, empty slots" if c == "empty" else c for c in columns) + " |")
    print("|---" * (3 + len(columns)) + "|")
    for model, redundant, gpus, nodes in cells():
        label = f"{model} {redundant} {nodes}x{gpus // nodes}"
        if options.cells not in label:
            continue
        args = arguments(options.data, model, options.size, gpus, nodes)
        redundancy = [*args, "--redundant", str(redundant)]
        times = compare(options, redundancy, ",".join(REFERENCES + names))
        times["empty"] = compare(options, args, "eplb")["eplb"]
        for name, held in ablation:
            times[name] = compare(options, [*redundancy, *held], "auto").get("auto")
        best = min(times[r] for r in REFERENCES + ["empty"] if r in times)
        row = []
        for name in columns:
            time = times.get(name)
            row.append("n/a" if time is None else f"{100 * (time / best - 1):+.2f} %")
            if time is not None:
                for group in (model, "all"):
                    sums.setdefault((group, name), []).append(math.log(time / best))
        print(f"| {model} | {redundant} | {nodes} x {gpus // nodes} | " + " | ".join(row) + " |", flush=True)
    for (group, name), logs in sums.items():
        mean, worst = (100 * (math.exp(x) - 1) for x in (sum(logs) / len(logs), max(logs)))
        print(f"{group}, {name}: {mean:+.2f} % (geometric mean of {len(logs)}), at worst {worst:+.2f} %")


main()
