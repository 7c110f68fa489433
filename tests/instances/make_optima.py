#!/usr/bin/env python3
"""Writes placement_optima.txt: tiny placement problems with their optimum by brute force.

One problem a line: name ; expert loads ; gpus ; slots per GPU ; optimum (the least possible load of the fullest GPU, one slot per expert).
The search tries every assignment of experts to equal GPUs, numbered so that an empty GPU is only opened after the ones before it.
Run without arguments to write the file beside this script; --check compares instead.
"""
import os
import random
import sys


def optimum(loads, gpus, slots):
    best = sum(loads) + 1
    sums, used = [0] * gpus, [0] * gpus
    order = sorted(loads, reverse=True)

    def place(i):
        nonlocal best
        if i == len(order):
            best = min(best, max(sums))
            return
        for g in range(gpus):
            if used[g] < slots and sums[g] + order[i] < best:
                sums[g] += order[i]
                used[g] += 1
                place(i + 1)
                sums[g] -= order[i]
                used[g] -= 1
            if used[g] == 0:
                break

    place(0)
    return best


def problems():
    # Graham's worst cases: 2m + 1 loads 2m-1, 2m-1, ..., m+1, m+1, m, m, m on m GPUs; LPT gives (4m - 1) against 3m.
    for m in range(2, 6):
        yield f"graham-{m}", sorted(list(range(m + 1, 2 * m)) * 2 + [m] * 3, reverse=True), m, 2 * m + 1
    yield "published-example-of-eplb-layer-0", [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], 4, 3
    yield "published-example-of-eplb-layer-1", [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27], 4, 3
    yield "all-equal", [7] * 8, 4, 2
    yield "one-hot", [0, 0, 0, 0, 5, 0, 0, 0], 4, 2
    yield "all-idle", [0] * 6, 3, 2
    yield "one-gpu", [3, 1, 4, 1, 5], 1, 5
    yield "as-many-gpus-as-experts", [3, 1, 4, 1, 5], 5, 1
    yield "slots-force-a-bad-pair", [10, 10, 1, 1, 1, 1], 2, 3
    rng = random.Random(20260101)
    for i in range(120):
        gpus = rng.randint(2, 4)
        n = rng.randint(gpus, 9)
        kind = i % 4
        if kind == 0:
            loads = [rng.randint(1, 20) for _ in range(n)]
        elif kind == 1:
            loads = [rng.randint(0, 1000) for _ in range(n)]
        elif kind == 2:
            loads = [int(1000 / (r + 1)) for r in range(n)]
        else:
            loads = [rng.choice([1, 2, 3, 50, 100]) for _ in range(n)]
        slots = rng.choice([-(-n // gpus), -(-n // gpus) + 1, n])
        yield f"random-{i}", loads, gpus, slots


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "placement_optima.txt")
    text = "# name ; expert loads ; gpus ; slots per GPU ; optimum. Written by make_optima.py.\n"
    for name, loads, gpus, slots in problems():
        text += f"{name} ; {' '.join(map(str, loads))} ; {gpus} ; {slots} ; {optimum(loads, gpus, slots)}\n"
    if sys.argv[1:] == ["--check"]:
        with open(path, encoding="ascii") as f:
            if f.read() != text:
                sys.exit("placement_optima.txt differs from what make_optima.py writes")
        return
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


if __name__ == "__main__":
    main()
