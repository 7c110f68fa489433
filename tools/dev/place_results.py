#!/usr/bin/env python3
"""What placement is worth without redundancy, held out, on real recordings: auto beside every named placement.

usage: place_results.py MOEPLAN DATA [--cells TEXT] [--threads N] [--set STRATEGY.OPTION=N,...] [--split SPLIT] [--resample] [--also NAME,...]
       [--oracle PROGRAM]

Cells are recordings x step sizes x {8, 16} GPUs x {1, 2, 4} nodes, as in issue 4; --cells keeps those whose label holds the text. Prints
a markdown table: mean step against EPLB, the best named strategy, and the points by which the gain over contiguous is smaller held out
than on the planning steps (over-fitting), of EPLB's plan and of auto's. --split: how much to plan on (0.5). --resample: steps drawn
from both halves also where they fill recorded ones, so that a few steps' accidents are in neither. --also: further strategies, and a line
with their figures under each cell. A strategy that cannot run is n/a, with the reason below the table. With --oracle (tools/dev/place_oracle, built by
ninja tools/dev/place_oracle): how far below EPLB a placement searched on the held-out steps themselves is, which none that has not seen
them can be expected to reach. Ends with geometric means."""
import argparse
import json
import math
import subprocess
import sys

NAMED = ["contiguous", "round-robin", "lpt", "eplb", "eplb-hierarchical"]


def cells():
    for model, sizes in (("gpt-oss-20b", (256, 1024)), ("deepseek-v2-lite", (4096, 16384))):
        for size in sizes:
            for gpus in (8, 16):
                for nodes in (1, 2, 4):
                    yield model, size, gpus, nodes


def arguments(data, model, size, gpus, nodes):
    topology = f"{nodes}x{gpus // nodes}:h100"
    if model == "gpt-oss-20b":
        return [f"{data}/traces/gpt-oss-20b/mmlu_test.npz", topology, "--phase", "decode", "--layer-base", "0", "--ids", "logical",
                "-m", model, "--experts", "32", "--batch", str(size // gpus)]
    return [f"{data}/traces/deepseek-v2-lite/chat_prefill.npz", topology, "--phase", "prefill", "--layer-base", "1", "--ids", "logical",
            "-m", model, "--experts", "64", "--tokens-per-rank", str(size // gpus)]


def compare(options, args, strategies):
    base = [options.moeplan, "compare", *args, "--split", options.split, "--steps", "64", "--threads", options.threads, "--interval-groups", "0",
            "--strategy", strategies, "--json", "--quiet", *(["--set", options.set] if options.set else [])]
    for extra in [["--resample"]] if options.resample else [[], ["--resample"]]:
        done = subprocess.run(base + extra, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout)
    sys.exit(done.stderr)


def oracle(options, cell):
    """Mean step of a placement that has seen the held-out steps, against EPLB."""
    model, size, gpus, nodes = cell
    decode = model == "gpt-oss-20b"
    trace = "gpt-oss-20b/mmlu_test.npz" if decode else "deepseek-v2-lite/chat_prefill.npz"
    done = subprocess.run([options.oracle, f"{options.data}/traces/{trace}", model, "decode" if decode else "prefill", str(size),
                           f"{nodes}x{gpus // nodes}:h100", "0" if decode else "1"], capture_output=True, text=True, check=True)
    eplb, best = map(float, done.stdout.split())
    return 100 * (best / eplb - 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("moeplan")
    parser.add_argument("data")
    parser.add_argument("--cells", default="")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--set", default="")
    parser.add_argument("--split", default="0.5")
    parser.add_argument("--resample", action="store_true")
    parser.add_argument("--also", default="")
    parser.add_argument("--oracle")
    options = parser.parse_args()
    also = options.also.split(",") if options.also else []
    ratios, bound, worst, missing = [], [], 0.0, []
    print("| model | size | GPUs | nodes | steps | contiguous, ms | eplb | best named | auto | auto vs eplb | auto vs best | "
          "over-fit, points: eplb, auto | plan s | oracle vs eplb |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for cell in cells():
        if options.cells not in "{}-{}-{}x{}".format(*cell):
            continue
        found = compare(options, arguments(options.data, *cell), ",".join(NAMED + also + ["auto"]))
        by = {r["strategy"]: r for r in found["results"] if r.get("step_time_ns")}
        mean = {s: r["step_time_ns"]["mean"] for s, r in by.items()}
        best = min((s for s in NAMED if s in mean), key=lambda s: mean[s])
        lost = {s: 100 * (mean[s] / by[s]["planning_step_ns"] - 1) for s in mean}
        points = {s: f"{lost[s] - lost['contiguous']:+.1f}" if s in mean else "n/a" for s in mean | {"eplb": 0}}
        eplb = mean["auto"] / mean["eplb"] - 1 if "eplb" in mean else math.nan
        ratios.append(1 + eplb)
        if cell[3] > 1:
            bound.append(1 + eplb)
        worst = max(worst, mean["auto"] / mean[best] - 1)
        seen = f"{oracle(options, cell):+.2f} %" if options.oracle else "-"
        percent = {s: f"{100 * (mean[s] / mean['contiguous'] - 1):+.1f}" if s in mean else "n/a" for s in NAMED + also + ["auto"]}
        print(f"| {cell[0]} | {cell[1]:,} | {cell[2]} | {cell[3]} | {found['n_steps']} {found['steps']} | {mean['contiguous'] / 1e6:.3f} | "
              f"{percent['eplb']} | {best} {percent[best]} | {percent['auto']} | {100 * eplb:+.2f} % | "
              f"{100 * (mean['auto'] / mean[best] - 1):+.2f} % | {points['eplb']}, {points['auto']} | {by['auto']['plan_seconds']:.1f} | {seen} |", flush=True)
        for s in also:
            if s in mean:
                print(f"  {s}: {percent[s]} % against contiguous, {100 * (mean[s] / mean['eplb'] - 1):+.2f} % against eplb, over-fit {points[s]} points; "
                      f"auto against it {100 * (mean['auto'] / mean[s] - 1):+.2f} %", flush=True)
        missing += [f"{'-'.join(map(str, cell))}: {r['strategy']} n/a: {r.get('note') or 'no reason given'}"
                    for r in found["results"] if not r.get("step_time_ns")]
    print("\n".join(missing), end="\n" if missing else "")
    for name, values in (("all cells", ratios), ("2 and 4 nodes", bound)):
        values = [v for v in values if not math.isnan(v)]
        if values:
            print(f"{name}: auto is {100 * (1 - math.exp(sum(map(math.log, values)) / len(values))):.2f} % below eplb (geometric mean)")
    print(f"auto is at most {100 * worst:.2f} % above the best named strategy of its cell")


main()
