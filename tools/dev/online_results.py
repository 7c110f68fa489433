#!/usr/bin/env python3
"""Placements that stay against EPLB planned anew while serving, held out by time on real recordings: the table of docs/ONLINE.md.

usage: online_results.py MOEPLAN DATA [--cells TEXT] [--threads N] [--without-auto]

The first half of a recording in file order plans, the second is replayed in order. mmlu files are sorted by category, so that their halves
share one of 57; the chats of deepseek-v2-lite are in no such order. Columns: mean step of EPLB's plan of the first half, and against it
eplb-online: moves free, beside the steps, steps waiting for them (docs/ONLINE.md, all else at its default); then auto's plan, with
replicas, and what eplb-online moved. --cells keeps the rows whose label holds the text."""
import argparse
import json
import subprocess
import sys

CELLS = [
    ("gpt-oss-20b mmlu_test", "gpt-oss-20b/mmlu_test.npz", "gpt-oss-20b", "decode", 32, 0, ["--batch", "4"], "4 requests a GPU", ("8:h100", "2x4:h100")),
    ("gpt-oss-20b mmlu_validation", "gpt-oss-20b/mmlu_validation.npz", "gpt-oss-20b", "decode", 32, 0, ["--batch", "4"], "4 requests a GPU",
     ("8:h100", "2x4:h100")),
    ("deepseek-v2-lite chat", "deepseek-v2-lite/chat_prefill.npz", "deepseek-v2-lite", "prefill", 64, 1, ["--tokens-per-rank", "128"], "128 tokens a GPU",
     ("8:h100", "2x4:h100")),
]
VARIANTS = [("free", ["move-percent=0"]), ("beside", ["synchronous=0"]), ("waiting", [])]


def compare(options, arguments, strategies, settings=()):
    done = subprocess.run([options.moeplan, "compare", *arguments, "--strategy", strategies, "--split", "time:0.5", "--interval-groups", "0", "--threads",
                           options.threads, "--json", "-q", *(["--set", ",".join("eplb-online." + s for s in settings)] if settings else [])],
                          capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    return {r["strategy"]: r for r in json.loads(done.stdout)["results"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("moeplan")
    parser.add_argument("data")
    parser.add_argument("--cells", default="")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--without-auto", action="store_true")
    options = parser.parse_args()
    print("| recording, GPUs | steps | eplb | eplb-online, free | beside steps | steps wait | auto | rebalances, moved | max/mean eplb, online, auto |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, file, model, phase, experts, base, size, what, topologies in CELLS:
        for topology in topologies:
            label = f"{name}, {topology}, {what}"
            if options.cells not in label:
                continue
            arguments = [f"{options.data}/traces/{file}", topology, "-m", model, "--phase", phase, "--layer-base", str(base), "--ids", "logical",
                         "--experts", str(experts), "--redundant", "8", *size]
            first = compare(options, arguments, "eplb" if options.without_auto else "eplb,auto")
            step = {k: r["step_time_ns"]["mean"] for k, r in first.items()}
            change = lambda ns: f"{100 * (ns / step['eplb'] - 1):+.2f} %"
            online = [compare(options, arguments, "eplb-online", settings)["eplb-online"] for _, settings in VARIANTS]
            moved = online[2]["online"]
            balance = [r["imbalance"]["max_over_mean"] for r in (first["eplb"], online[2], *([first["auto"]] if "auto" in first else []))]
            print(f"| {label} | {first['eplb']['n_steps']} | {step['eplb'] / 1e6:.3f} ms | {' | '.join(change(r['step_time_ns']['mean']) for r in online)} | "
                  f"{change(step['auto']) if 'auto' in step else '-'} | {moved['n_rebalances']}, {moved['moved_bytes'] / 1e9:.0f} GB | "
                  f"{', '.join(f'{b:.2f}' for b in balance)} |", flush=True)


if __name__ == "__main__":
    main()
