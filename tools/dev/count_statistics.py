#!/usr/bin/env python3
"""Statistics of the recordings that have only counts, for `fit_presets counts`.

usage: count_statistics.py TRACES_FOLDER      (../shared/data/traces)
"""
import csv
import json
import pathlib
import sys


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def shares(counts):
    total = sum(counts)
    return [c / total for c in counts]


def max_over_mean(share):
    return max(share) * len(share)


def distance(a, b):
    return sum(abs(x - y) for x, y in zip(a, b)) / 2


def mix(parts):
    """Weighted mean of shares: [(weight, shares)]."""
    total = sum(w for w, _ in parts)
    return [sum(w * s[e] for w, s in parts) / total for e in range(len(parts[0][1]))]


def halves(sets):
    """Shares of the two halves when equally large sets stand one after the other."""
    n = len(sets)
    first = [(max(0.0, min(1.0, n / 2 - i)), s) for i, s in enumerate(sets)]
    second = [(1 - w, s) for w, s in first]
    return mix(first), mix(second)


def qwen3(folder):
    layers = json.loads((folder / "qwen3-30b-a3b/coactivation.json").read_text())["layers"]
    lifts = []
    for layer in layers:
        heat = layer["heat"]
        tokens = sum(heat) / 8
        weighted = sum(n * n * tokens / (heat[i] * heat[j]) for i, j, n, _ in layer["pairs"])
        lifts.append(weighted / sum(pair[2] for pair in layer["pairs"]))
    print(f"qwen3-30b-a3b: max/mean {mean(max_over_mean(shares(x['heat'])) for x in layers):.3f}, "
          f"lift of the listed pairs {mean(lifts):.3f}")


def sets_of(name, by_layer):
    whole = [max_over_mean(mix([(1, s) for s in sets])) for sets in by_layer]
    shift = [distance(*halves(sets)) for sets in by_layer]
    print(f"{name}: max/mean {mean(whole):.3f}, category shift {mean(shift):.3f}")


def olmoe(folder):
    rows = list(csv.reader((folder / "olmoe/expert_counts.csv").open()))[1:]
    by_layer = {}
    for row in sorted(rows):
        by_layer.setdefault(row[1], []).append(shares([int(x) for x in row[2:]]))
    sets_of("olmoe", by_layer.values())


def switch(folder):
    """Layers 0 to 5 (the others are not natural routing), without the random set."""
    sums = {}
    for row in list(csv.reader((folder / "qwen1.5-moe-6ranks/expert_freq_switch128.csv").open()))[1:]:
        if row[1] != "random" and int(row[3]) < 6:
            counts = [int(float(x)) for x in row[4:]]
            old = sums.get((row[1], int(row[3])), [0] * len(counts))
            sums[row[1], int(row[3])] = [a + b for a, b in zip(old, counts)]
    names = sorted({name for name, _ in sums})
    sets_of("switch-128", [[shares(sums[name, layer]) for name in names] for layer in range(6)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1])
    qwen3(root)
    olmoe(root)
    switch(root)
