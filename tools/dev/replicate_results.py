#!/usr/bin/env python3
"""What replicas are worth, held out, on real recordings: auto and its parts beside EPLB with the same redundancy and with none.

usage: replicate_results.py MOEPLAN DATA [--cells TEXT] [--threads N] [--strategies A,B,...] [--set STRATEGY.OPTION=N,...] [--steps N]

Cells are recordings x redundancy {8, 32} x {8, 16} GPUs x {1, 2, 4} nodes, as in issue 6, with 1,024 decode requests or 16,384 prefill tokens a step
spread over the GPUs (--size gives another number); --cells keeps those whose label holds the text. Half of the requests plan, the other half scores. Prints
a markdown table: mean step against the best of {eplb, eplb-nearest, EPLB without redundancy, its slots left empty}; a strategy that cannot run is n/a. Ends
with geometric means per phase."""
import argparse
import json
import math
import subprocess
import sys

REFERENCES = ["eplb", "eplb-nearest"]


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
    options = parser.parse_args()
    names = options.strategies.split(",")
    sums = {}
    print("| recording | redundant | GPUs | " + " | ".join(REFERENCES + ["EPLB, empty slots"] + names) + " |")
    print("|---" * (6 + len(names)) + "|")
    for model, redundant, gpus, nodes in cells():
        label = f"{model} {redundant} {nodes}x{gpus // nodes}"
        if options.cells not in label:
            continue
        args = arguments(options.data, model, options.size, gpus, nodes)
        none = compare(options, args, "eplb")["eplb"]
        times = compare(options, [*args, "--redundant", str(redundant)], ",".join(REFERENCES + names))
        best = min([none] + [times[r] for r in REFERENCES if r in times])
        row = []
        for name in REFERENCES + ["empty"] + names:
            time = none if name == "empty" else times.get(name)
            row.append("n/a" if time is None else f"{100 * (time / best - 1):+.2f} %")
            if time is not None:
                for group in (model, "all"):
                    sums.setdefault((group, name), []).append(math.log(time / best))
        print(f"| {model} | {redundant} | {nodes} x {gpus // nodes} | " + " | ".join(row) + " |", flush=True)
    for (group, name), logs in sums.items():
        print(f"{group}, {name}: {100 * (math.exp(sum(logs) / len(logs)) - 1):+.2f} % (geometric mean of {len(logs)})")


main()
