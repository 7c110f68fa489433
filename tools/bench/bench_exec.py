#!/usr/bin/env python3
"""Every token of a million verified: moeplan-exec over a transport, with every order and dispatcher that it knows.

    tools/bench/bench_exec.py [--build build] [--transport loop] [--tokens 1000000] [--only WORD] [-- options of moeplan-exec]

For each case (recording, cluster, order, dispatcher): tokens verified back home, copies verified where they arrived, how many stages, bytes moved, the
seconds of the whole run and the tokens a second; beside it, as reference, what the same tokens take when nothing is sent (one GPU): what packing,
computing and checking alone cost. Ends when --tokens tokens are verified, and with the faults: each must be caught.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

ORDERS = "spread-out rcs sjf aurora bvn matchings nested list hybrid two-level sub-ports single".split()
DISPATCHERS = "deepep-ll deepep-normal hierarchical agrs a2av".split()
# Eight ranks over TCP, full duplex (docs/EXECUTOR.md part 2).
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "btl", "self,tcp", "--mca", "btl_tcp_flags", "1", "--mca", "btl_tcp_if_include", "lo",
          "--mca", "mpi_yield_when_idle", "1", "--bind-to", "none", "-np", "8"]
# MPI_Alltoallv has no stages, nor messages of its own to swap, drop or cut.
COLLECTIVE = "mpi-alltoallv"
FAULTS = "corrupt@0/0/0 swap@0/0/0 drop@0/0/0 lie@0/0/0 stop@0/0/0 kill@0/0/0 slow@0/0/0".split()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build")
    parser.add_argument("--transport", default="loop")
    parser.add_argument("--tokens", type=int, default=1000000)
    parser.add_argument("--only", default="")
    parser.add_argument("more", nargs="*")
    o = parser.parse_args()
    launch = MPIRUN if o.transport.startswith("mpi") else []
    programs = os.path.join(os.path.abspath(o.build), "tools", "moeplan")
    moeplan, execute = (os.path.join(programs, name) for name in ("moeplan", "moeplan-exec"))

    def run(*words):
        return subprocess.run(list(map(str, words)), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def must(*words):
        done = run(*words)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    with tempfile.TemporaryDirectory(prefix="moeplan-bench-") as folder:
        os.chdir(folder)
        must(moeplan, "generate", "-q", "--preset", "gpt-oss-20b-like", "--layers", 4, "--n-requests", 1024, "--tokens-per-request", 64, "-o", "t.mpt")
        must(moeplan, "convert", "-q", "2x4:h100", "slow.yaml")
        with open("slow.yaml", encoding="utf-8") as f:
            text = f.read().replace("380000000000", "56000000").replace("48850000000", "6250000").replace("10000 ns", "100 ns")
            for latency in ("936 ns", "2600 ns"):  # receivers that suffer: orders pay
                text = text.replace(f"latency: {latency}\n", f"latency: {latency}\n    incast: [1000000 ppm, 700000 ppm, 500000 ppm, 400000 ppm]\n")
        with open("slow.yaml", "w", encoding="utf-8") as f:
            f.write(text)
        with open("model.yaml", "w", encoding="utf-8") as f:
            f.write("schema: moeplan.model\nversion: 1\nname: bench\nhidden_layers: 4\nexperts: 32\ntop_k: 4\nhidden_size: 2880\nexpert_size: 2880\n"
                    "weight_bits: 4.25\nattention: {heads: 64, kv_heads: 8, head_dim: 64}\n")
        model = ["-m", "model.yaml"]
        print(f"{'case':44} {'tokens':>9} {'copies':>9} {'stages':>6} {'GB':>7} {'s':>7} {'tokens/s':>9}  not sent: tokens/s")
        must(moeplan, "plan", "t.mpt", "1:h100", "--batch", 256, "--steps", 4, "--strategy", "contiguous", "-q", "-o", "one.yaml", *model)
        begin = time.monotonic()
        alone = json.loads(must(execute, "one.yaml", "t.mpt", "1:h100", "--iterations", 4, "--warmup", 0, "--json", "-q", *model))
        reference = alone["verified"]["tokens"] / (time.monotonic() - begin)
        tokens = copies = moved = 0
        while tokens < o.tokens:
            for i, order in enumerate(["single"] * 5 if o.transport == COLLECTIVE else ORDERS):
                for dispatcher in DISPATCHERS[i % 5:i % 5 + 1] if tokens > 0 else DISPATCHERS[i % 5:] + DISPATCHERS[:i % 5]:
                    case = f"{order}, {dispatcher}"
                    if o.only not in case or tokens >= o.tokens:
                        continue
                    must(moeplan, "plan", "t.mpt", "slow.yaml", "--batch", 64, "--steps", 8, "--strategy", "contiguous", "--order", order, "--pacing",
                         "--dispatcher", dispatcher, "-q", "-o", "p.yaml", *model)
                    begin = time.monotonic()
                    r = json.loads(must(*launch, execute, "p.yaml", "t.mpt", "slow.yaml", "--transport", o.transport, "--iterations", 1, "--warmup", 0, "--json",
                                        "-q", *model, *o.more))
                    seconds = time.monotonic() - begin
                    v = r["verified"]
                    stages = max(p["stages"] for p in r["parts"])
                    print(f"{case:44} {v['tokens']:9} {v['copies']:9} {stages:6} {v['bytes_moved'] / 1e9:7.2f} {seconds:7.2f} {v['tokens'] / seconds:9.0f}  "
                          f"{reference:.0f}", flush=True)
                    tokens, copies, moved = tokens + v["tokens"], copies + v["copies"], moved + v["bytes_moved"]
        print(f"{'all verified':44} {tokens:9} {copies:9} {'':6} {moved / 1e9:7.2f}")
        order = "single" if o.transport == COLLECTIVE else "spread-out"
        must(moeplan, "plan", "t.mpt", "slow.yaml", "--batch", 64, "--steps", 1, "--strategy", "contiguous", "--order", order, "--dispatcher", "deepep-ll",
             "-q", "-o", "p.yaml", *model)
        for fault in FAULTS:
            if o.transport == COLLECTIVE and fault[:4] in ("swap", "drop", "lie@"):
                continue
            begin = time.monotonic()
            done = run(*launch, execute, "p.yaml", "t.mpt", "slow.yaml", "--transport", o.transport, "--iterations", 1, "--warmup", 0,
                       "--fault", fault, "--deadline", 1000, "-q", *model, *o.more)
            ms = 1000 * (time.monotonic() - begin)
            caught = done.returncode == 5 or (launch and fault.startswith("kill") and done.returncode == 128 + signal.SIGKILL)  # mpirun's own
            print(f"{fault:16} {'caught' if caught else 'NOT CAUGHT'} {ms:6.0f} ms  {done.stderr.strip()[:150]}")


if __name__ == "__main__":
    main()
