#!/usr/bin/env python3
"""What foreseeing experts buys in step time, held out by request on real recordings: section 5 of docs/PREDICTION.md and a section of docs/RESULTS.md.

usage: predict_results.py MOEPLAN DATA [--cells TEXT] [--threads N]

First table: one static plan (auto) beside Lina's two-phase scheduling in all its variants (docs/ONLINE.md). Second: the same policy by what it foresees
with. All times are means over the held-out steps against auto's, and the p95. --cells keeps the rows whose label holds the text."""
import argparse
import json
import subprocess
import sys

GPT = ["traces/gpt-oss-20b/mmlu_test.npz", "8:h100", "-m", "gpt-oss-20b", "--phase", "decode", "--layer-base", "0", "--ids", "logical", "--experts", "32"]
LITE = ["traces/deepseek-v2-lite/chat_prefill.npz", "8:h100", "-m", "deepseek-v2-lite", "--phase", "prefill", "--layer-base", "1", "--ids", "logical",
        "--experts", "64"]
CELLS = [("gpt-oss-20b, decode of 64", [*GPT, "--batch", "8"]), ("gpt-oss-20b, decode of 256", [*GPT, "--batch", "32"]),
         ("deepseek-v2-lite, prefill of 4,096", [*LITE, "--tokens-per-rank", "512"]),
         ("deepseek-v2-lite, prefill of 16,384", [*LITE, "--tokens-per-rank", "2048"])]
COMMON = ["--redundant", "8", "--steps", "32", "--split", "0.5", "--interval-groups", "0"]
FREE = ["schedule-us=0", "check-us=0", "swap-percent=0"]
ESTIMATES = [("popularity of the planning data", ["estimate=1"]), ("pairs, 1 layer", ["estimate=2", "path-length=1", "early=1"]),
             ("pairs, 6 layers", ["estimate=2", "path-length=6", "early=1"]), ("Lina's paths, 3 layers, as published", ["estimate=3"]),
             ("Lina's paths, 3 layers, first layers too", ["estimate=3", "early=1"]),
             ("the same, whole distributions", ["estimate=3", "early=1", "keep=0"]),
             ("what it will be", ["estimate=4"])]


def compare(ask, arguments, strategies, settings):
    for extra in ([], ["--resample"]):
        try:
            answer = ask(["compare", *arguments, *COMMON, *extra, "--strategy", strategies,
                          *(["--set", ",".join("lina-online." + s for s in settings)] if settings else [])])
            return {r["strategy"]: r for r in answer["results"]}, answer
        except (RuntimeError, ValueError):
            if extra:
                raise
    return {}, {}


def section(ask, inference="", cells=""):
    first = ["| recording, 8 GPUs | policy | step | against auto | p95 | max/mean | placed after the gate | swapped in, a step | break-even, a layer |",
             "|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    second = ["| recording, 8 GPUs | foreseen by | without fine-tuning | max/mean | fine-tuned | swapped in, a step | with fine-tuning | max/mean |",
              "|---|---|--:|--:|--:|--:|--:|--:|"]
    for label, arguments in CELLS:
        if cells not in label:
            continue
        plain, answer = compare(ask, arguments, "auto,eplb,lina-online,lina-free,lina-actual,lina-blind,lina-once", [])
        published, _ = compare(ask, arguments, "contiguous,lina-online", ["swap-percent=0", "hide=2"])
        step = plain["auto"]["step_time_ns"]["mean"]
        rows = [("auto, one static plan", plain["auto"]), ("eplb, one static plan", plain["eplb"]),
                ("Lina at the published cost (phase 1 hidden, no swaps)", published["lina-online"]),
                ("the same, hidden behind a layer, swaps", plain["lina-online"]), ("the same, without fine-tuning", plain["lina-once"]),
                ("the same, without estimation", plain["lina-blind"]), ("Lina at no cost", plain["lina-free"]),
                ("Lina at no cost, actual popularity", plain["lina-actual"])]
        for name, r in rows:
            t, o = r["step_time_ns"], r.get("online")
            n = o["n_steps"] * o["n_layers"] if o else 1
            even = (step - (t["mean"] - o["move_ns"])) / o["n_layers"] / 1e3 if o else 0
            first.append(f"| {label} | {name} | {t['mean'] / 1e6:.3f} ms | {100 * (t['mean'] / step - 1):+.1f} % | {t['p95'] / 1e6:.3f} ms | "
                         f"{r['imbalance']['max_over_mean']:.2f} | " +
                         (f"{100 * o['n_fine_tuned'] / n:.0f} % | {o['moved_bytes'] / o['n_steps'] / 1e9:.1f} GB | {even:.1f} us |" if o else " | | |"))
            label = ""
        label = next(x for x, a in CELLS if a is arguments)
        for name, settings in ESTIMATES:
            found, _ = compare(ask, arguments, "contiguous,lina-free,lina-once", [*settings, *FREE])
            once, tuned = found["lina-once"], found["lina-free"]
            n = tuned["online"]["n_steps"] * tuned["online"]["n_layers"]
            cell = lambda r: f"{100 * (r['step_time_ns']['mean'] / step - 1):+.1f} % | {r['imbalance']['max_over_mean']:.2f}"
            second.append(f"| {label} | {name} | {cell(once)} | {100 * tuned['online']['n_fine_tuned'] / n:.0f} % | "
                          f"{once['online']['moved_bytes'] / once['online']['n_steps'] / 1e9:.1f} GB | {cell(tuned)} |")
            label = ""
        print(f"{answer.get('n_steps')} {answer.get('steps')} steps", file=sys.stderr, flush=True)
    return ["`moeplan compare` with `--redundant 8 --steps 32`, held out by request (tools/dev/predict_results.py). Break-even: what a scheduling of one layer may",
            "cost, of every layer and not hidden, before the policy's steps are as long as auto's.", "", *first, "",
            "The same policy at no cost, by what it foresees with; steps against auto's:", "", *second, "",
            *(["### Lina's conditions (docs/LINA.md, Inference)", "", "`bench_lina_inference`", ""] if inference else []),
            *("    " + line if line else "" for line in inference.splitlines()), ""]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("moeplan")
    parser.add_argument("data")
    parser.add_argument("--cells", default="")
    parser.add_argument("--threads", default="2")
    options = parser.parse_args()

    def ask(arguments):
        done = subprocess.run([options.moeplan, *arguments, "--json", "-q", "--threads", options.threads], capture_output=True, text=True, cwd=options.data)
        if done.returncode not in (0, 1):
            raise ValueError(done.stderr)
        return json.loads(done.stdout)

    print("\n".join(section(ask, cells=options.cells)))


if __name__ == "__main__":
    main()
