#!/usr/bin/env python3
"""Bytes that `moeplan migrate` moves on 20 pairs of real placements, against matching slots by index and GPUs by number.

Pairs: plans of gpt-oss-20b and DeepSeek-V2-Lite made from two recordings (or two halves of one), plans of two strategies from one recording, and the two deployed
DeepSeek-V3 placements that omni-infer publishes, coming from experts in id order. Prints a Markdown table and the geometric mean.
usage: migrate_results.py MOEPLAN SHARED_DATA
"""
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

MOEPLAN, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])


def run(*arguments):
    done = subprocess.run([MOEPLAN, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def contiguous_npy(path, devices, layers, experts):
    """omni-infer's pattern of experts in id order."""
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({devices}, {layers}, {experts}), }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    cells = bytearray(4 * devices * layers * experts)
    for d in range(devices):
        for l in range(layers):
            for e in range(d * experts // devices, (d + 1) * experts // devices):
                cells[4 * ((d * layers + l) * experts + e)] = 1
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + cells)


def main():
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)

        def convert(name, source, model, phase, base):
            run("convert", f"{DATA}/traces/{source}.npz", f"{name}.mpt", "--phase", phase, "--layer-base", base, "--ids", "logical", "-m", model, "-q",
                *([] if phase == "decode" else ["--ranked", "no"]))

        made = {}

        def plan(trace, model, cluster, strategy, redundant, *more):
            key = (trace, cluster, strategy, redundant, *more)
            if key not in made:
                made[key] = f"p{len(made)}.yaml"
                steps = ["--batch", 8] if model.startswith("gpt") else ["--tokens-per-rank", 512]
                run("plan", f"{trace}.mpt", cluster, "-m", model, "--strategy", strategy, "--redundant", redundant, *steps, "--resample", "--steps", 64,
                    "--interval-groups", 0, "-q", "-o", made[key], *more)
            return made[key]

        def pair(name, old, new, cluster, *more):
            result = json.loads(run("migrate", old, new, cluster, "--json", "-q", *more))
            rows.append((name, cluster, result["experts"], result["bytes_moved"]))

        for name in ("dev", "test", "validation"):
            convert(name, f"gpt-oss-20b/mmlu_{name}", "gpt-oss-20b", "decode", 0)
        convert("chat", "deepseek-v2-lite/chat_prefill", "deepseek-v2-lite", "prefill", 1)
        gpt = "gpt-oss-20b"
        for strategy, redundant in (("lpt", 0), ("eplb", 8), ("search", 0)):
            for cluster in ("4:h100", "8:h100", "2x4:h100"):
                pair(f"{gpt}, {strategy}, {redundant} redundant: dev to test", plan("dev", gpt, cluster, strategy, redundant),
                     plan("test", gpt, cluster, strategy, redundant), cluster)
        pair(f"{gpt}, lpt: test to validation", plan("test", gpt, "2x4:h100", "lpt", 0), plan("validation", gpt, "2x4:h100", "lpt", 0), "2x4:h100")
        pair(f"{gpt}, eplb to search, test", plan("test", gpt, "8:h100", "eplb", 8), plan("test", gpt, "8:h100", "search", 8), "8:h100")
        pair(f"{gpt}, contiguous to search, test", plan("test", gpt, "2x4:h100", "contiguous", 0), plan("test", gpt, "2x4:h100", "search", 0), "2x4:h100")
        lite = "deepseek-v2-lite"
        halves = ("--split", "0.5", "--seed", 1), ("--split", "0.5", "--seed", 2)
        for strategy, redundant in (("lpt", 0), ("eplb", 16)):
            for cluster in ("8:h100", "2x4:h100", "2x8:h100"):
                pair(f"{lite}, {strategy}, {redundant} redundant: half to half", plan("chat", lite, cluster, strategy, redundant, *halves[0]),
                     plan("chat", lite, cluster, strategy, redundant, *halves[1]), cluster)
        contiguous_npy("c16.npy", 16, 58, 256)
        contiguous_npy("c32.npy", 32, 58, 256)
        deployed = f"{DATA}/placements/deepseek-v3"
        pair("deepseek-v3, id order to rearranged_16ranks", "c16.npy", f"{deployed}/rearranged_16ranks.npy", "2x8:h100", "-m", "deepseek-v3")
        pair("deepseek-v3, id order to gsm8k_decode_32dies", "c32.npy", f"{deployed}/gsm8k_decode_32dies.npy", "4x8:h100", "-m", "deepseek-v3",
             "--dispatcher", "deepep-ll")
    print("| from, to | cluster | slot by slot | GPU by GPU | fewest | bytes | of slot by slot | of GPU by GPU |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    log_slot = log_gpu = 0
    for name, cluster, n, moved in rows:
        slot, gpu = n["moved"] / max(1, n["by_slot"]), n["moved"] / max(1, n["by_gpu"])
        log_slot, log_gpu = log_slot + math.log(slot), log_gpu + math.log(gpu)
        print(f"| {name} | {cluster} | {n['by_slot']} | {n['by_gpu']} | {n['moved']} | {moved / 1e9:.2f} GB | {100 * slot - 100:+.1f} % "
              f"| {100 * gpu - 100:+.1f} % |")
    k = len(rows)
    below = sum(n["moved"] <= 0.7 * n["by_slot"] for _, _, n, _ in rows)
    print(f"\n{k} pairs; geometric mean {100 * math.exp(log_slot / k) - 100:+.1f} % of slot by slot (reference: -30 %), "
          f"{100 * math.exp(log_gpu / k) - 100:+.1f} % of GPU by GPU;"
          f" {below} pairs at -30 % or below; never more: {all(n['moved'] <= n['by_gpu'] <= n['by_slot'] for _, _, n, _ in rows)}")


if __name__ == "__main__":
    main()
