#!/usr/bin/env python3
"""The worst case of a plan for several kinds of traffic (moeplan plan --robust) beside that of a plan from one of them, held out.

usage: robust_results.py MOEPLAN DATA [--cells TEXT] [--threads N] [--strategy NAME] [--steps N] [--all] [--unseen]

gpt-oss-20b: half of the 57 MMLU categories is one recording, the others are another. OLMoE: the published counts of six domains; steps are drawn from them
multinomially and marked SYNTHETIC, since tokens were not published. Every plan is made from half of the requests
(iterations) of a kind and scored on the other half of every kind. Prints a Markdown table: the longest of the kinds' mean steps for the plan from the first alone
and for the robust plan, and the change of their mean.
With --unseen another: planned on groups of one half of the categories, scored on the half that neither plan has seen."""
import argparse
import bisect
import csv
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import zipfile


def run(options, *arguments):
    done = subprocess.run([options.moeplan, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def halves_of_categories(options, name, how):
    """Two recordings of one: the categories alphabetically first and last, or every other one."""
    with zipfile.ZipFile(f"{options.data}/traces/gpt-oss-20b/{name}.npz") as z:
        array = z.read("topk_ids.npy")
    (n_header,) = struct.unpack("<H", array[8:10])
    header, cells = array[10:10 + n_header].decode(), array[10 + n_header:]
    rows, layers, k = (int(x) for x in header[header.index("(") + 1:header.index(")")].split(",")[:3])
    assert "'|u1'" in header and len(cells) == rows * layers * k
    with open(f"{options.data}/traces/gpt-oss-20b/{name}.requests.csv", encoding="utf-8") as f:
        requests = list(csv.DictReader(f))
    categories = sorted({r["category"] for r in requests})
    science = "abstract_algebra astronomy chemistry biology physics mathematics computer electrical machine statistics medic anatomy genetics virology nutrition " \
              "clinical aging security".split()
    sides = {"alphabet": lambda c: categories.index(c) < len(categories) // 2, "every other": lambda c: categories.index(c) % 2 == 0,
             "science, other": lambda c: any(word in c for word in science)}
    paths = []
    for side in (True, False):
        stem, at, body = f"{name}-{how.replace(' ', '-').replace(',', '')}-{int(side)}", 0, b""
        with open(f"{stem}.requests.csv", "w", encoding="utf-8", newline="") as f:
            out = csv.DictWriter(f, requests[0].keys())
            out.writeheader()
            for r in requests:
                if sides[how](r["category"]) == side:
                    first, n = int(r["first_row"]), int(r["tokens"])
                    body += cells[first * layers * k:(first + n) * layers * k]
                    out.writerow({**r, "first_row": at})
                    at += n
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({at}, {layers}, {k}), }}"
        text += " " * (-(10 + len(text) + 1) % 64) + "\n"
        with zipfile.ZipFile(f"{stem}.npz", "w") as z:
            z.writestr("topk_ids.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body)
        paths.append(f"{stem}.mpt")
        run(options, "convert", f"{stem}.npz", paths[-1], "--phase", "decode", "--layer-base", 0, "--ids", "logical", "-m", "gpt-oss-20b", "-q")
    return paths


def olmoe_domains(options, tokens, steps):
    """A recording of counts for each domain: steps drawn from its published shares."""
    shares = {}
    with open(f"{options.data}/traces/olmoe/expert_counts.csv", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            shares.setdefault(r["domain"], {})[int(r["layer"])] = [int(r[f"e{e}"]) for e in range(64)]
    paths = []
    for number, (domain, layers) in enumerate(sorted(shares.items())):
        draw = random.Random(number)
        with open(f"{domain}.csv", "w", encoding="utf-8") as f:
            f.write("iteration,layer," + ",".join(f"e{e}" for e in range(64)) + "\n")
            for step, (layer, counts) in itertools.product(range(steps), layers.items()):
                sums, drawn = list(itertools.accumulate(counts)), [0] * 64
                for _ in range(8 * tokens):
                    drawn[bisect.bisect(sums, draw.randrange(sums[-1]))] += 1
                f.write(f"{step},{layer}," + ",".join(map(str, drawn)) + "\n")
        paths.append(f"{domain}.csv")
    return paths


def cell(options, name, paths, topology, *more):
    """Plans from each alone and the robust one, all on the same held-out steps."""
    common = [*more, "--threads", options.threads, "--split", "0.5", "--steps", options.steps, "--strategy", options.strategy, "-q"]
    hints = ("--phase", "--layer-base", "--ids", "-m")
    verified = [word for i in range(0, len(more) - 1) if more[i] in hints for word in more[i:i + 2]]
    worst = []
    for first in range(len(paths)):
        order = [paths[first], *paths[:first], *paths[first + 1:]]
        if first > 0 and not options.all:
            break
        made = json.loads(run(options, "plan", order[0], topology, *common, "--robust", ",".join(order[1:]), "-o", "plan.yaml", "--json"))["robust"]
        run(options, "verify", "plan.yaml", order[0], topology, *verified)
        worst.append((made["plain_worst_ns"], made["worst_ns"], made["plain_mean_ns"], made["mean_ns"]))
    for plain, robust, plain_mean, robust_mean in worst:
        print(f"| {name} | {topology} | {plain / 1e6:.3f} | {robust / 1e6:.3f} | {100 * (robust / plain - 1):+.1f} % | "
              f"{100 * (robust_mean / plain_mean - 1):+.1f} % |",
              flush=True)


def unseen(options):
    """Robust over groups of half of the categories, scored on the others."""
    print("\n| planned on | requests per GPU, redundant | other half, without --robust (ms) | robust (ms) | change |\n|---|---|--:|--:|--:|")
    run(options, "convert", f"{options.data}/traces/gpt-oss-20b/mmlu_test.npz", "all.mpt", "--phase", "decode", "--layer-base", 0, "--ids", "logical", "-m",
        "gpt-oss-20b", "-q")
    with open(f"{options.data}/traces/gpt-oss-20b/mmlu_test.requests.csv", encoding="utf-8") as f:
        categories = sorted({r["category"] for r in csv.DictReader(f)})
    for half in (categories[:len(categories) // 2], categories[len(categories) // 2:], categories[::2]):
        for batch, redundant in ((128, 0), (128, 8)):
            made = json.loads(run(options, "plan", "all.mpt", "8:h100", "-m", "gpt-oss-20b", "--batch", batch, "--resample", "--redundant", redundant, "--split",
                                  "category:" + ",".join(half), "--robust", "categories:3", "--threads", options.threads, "--steps", options.steps, "--strategy",
                                  options.strategy, "-q", "-o", "plan.yaml", "--json"))["robust"]
            plain, robust = made["plain_scored_ns"], made["scored_ns"]
            print(f"| {half[0]} ... {half[-1]} | {batch}, {redundant} | {plain / 1e6:.3f} | {robust / 1e6:.3f} | {100 * (robust / plain - 1):+.1f} % |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("moeplan")
    parser.add_argument("data")
    parser.add_argument("--cells", default="")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--steps", default="64")
    parser.add_argument("--strategy", default="search")
    parser.add_argument("--all", action="store_true", help="each kind in turn as the one that is planned on alone")
    parser.add_argument("--unseen", action="store_true", help="the second table instead of the first")
    options = parser.parse_args()
    options.moeplan, options.data = os.path.abspath(options.moeplan), os.path.abspath(options.data)
    if options.unseen:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            unseen(options)
        return
    print("| recordings | cluster | worst case, planned on the first alone (ms) | robust (ms) | change | mean |")
    print("|---|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for how in ("alphabet", "every other", "science, other"):
            for gpus, batch, redundant in ((8, 16, 0), (8, 128, 0), (4, 128, 0), (8, 128, 8)):
                name = f"gpt-oss-20b MMLU, categories: {how}; decode, {batch} requests per GPU, {redundant} redundant"
                if options.cells in name + f" {gpus}:h100":
                    cell(options, name, halves_of_categories(options, "mmlu_test", how), f"{gpus}:h100", "-m", "gpt-oss-20b", "--batch", batch, "--resample",
                         "--redundant", redundant)
        for gpus, tokens, redundant in ((8, 1024, 0), (8, 8192, 0), (8, 8192, 8), (16, 8192, 0)):
            name = f"OLMoE, six domains (SYNTHETIC steps); prefill, {tokens} tokens a step, {redundant} redundant"
            if options.cells in name + f" {gpus}:h100":
                cell(options, name, olmoe_domains(options, tokens, 24), f"{gpus}:h100", "-m", "olmoe", "--phase", "prefill", "--layer-base", 0, "--ids", "logical",
                     "--redundant", redundant)


if __name__ == "__main__":
    main()
