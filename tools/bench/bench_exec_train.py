#!/usr/bin/env python3
"""Training steps on real links: what each policy takes, and what was predicted, side by side.

    tools/bench/bench_exec_train.py [--build build] [--ranks 4] [--rate 100] [--iterations 3] [--steps 2] [--policies fair,...] [--json]

Builds an emulated cluster (tools/emulate: a namespace for each rank, ports of --rate Mbit/s, real TCP), a recording and a model whose all-to-alls,
computation and gradients stand to each other about as in Lina's figure 7, and runs every step under every policy in one run of moeplan-exec; then the
same with replicated experts. Prints measured and predicted step times, their ratio, what each policy gains over the first, and whether the order of
policies is the predicted one. Chunks are as many times smaller than published as links are slower than 6 Gbit/s.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

TOPOLOGY = """schema: moeplan.topology
version: 1
name: "{ranks} at {rate} Mbit/s"
launch: 300000 ns
stage_launch: 300000 ns
gpu_types:
  slow:
    source: an emulated rank, which only waits
    memory: 85899345920 B
    hbm: 5000000000 B/s
    flops_16bit: {flops} FLOPS
    flops_8bit: {flops} FLOPS
    hbm_efficiency: 900000 ppm
    flops_efficiency: 900000 ppm
    kernel: 3000 ns
    tile_tokens: 1
levels:
  - name: net
    latency: 100000 ns
gpus:
  - repeat: {ranks}
    type: slow
    speed: 1000000 ppm
    ports:
      net: {{out: {rate} Mbit/s, in: {rate} Mbit/s}}
"""
MODEL = """schema: moeplan.model
version: 1
name: bench
hidden_layers: {layers}
experts: 32
top_k: 4
hidden_size: 512
expert_size: 512
weight_bits: 16
attention: {{heads: 8, kv_heads: 8, head_dim: 64}}
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rate", type=int, default=100, help="Mbit/s of a port, each way")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--policies", default="fair,priority,deferred,lina,searched")
    parser.add_argument("--json", action="store_true")
    o = parser.parse_args()
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    programs = os.path.join(os.path.abspath(o.build), "tools", "moeplan")
    moeplan, execute = (os.path.join(programs, name) for name in ("moeplan", "moeplan-exec"))
    environment = dict(os.environ, MOEPLAN=moeplan)

    def must(*words):
        done = subprocess.run(list(map(str, words)), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, words))}: {done.returncode}: {done.stderr}")
        return done.stdout

    results = []
    with tempfile.TemporaryDirectory(prefix="moeplan-bench-") as folder:
        os.chdir(folder)
        with open("cluster.yaml", "w", encoding="utf-8") as f:
            f.write(TOPOLOGY.format(ranks=o.ranks, rate=o.rate, flops=o.rate * 200000000))
        with open("model.yaml", "w", encoding="utf-8") as f:
            f.write(MODEL.format(layers=o.layers))
        must(moeplan, "generate", "-q", "--phase", "train", "--layers", o.layers, "--n-requests", 256, "--tokens-per-request", 64, "-o", "t.mpt")
        for case, more in (("every expert once", ["--strategy", "contiguous"]), ("a quarter of the experts twice", ["--strategy", "eplb", "--redundant", 8])):
            must(moeplan, "plan", "t.mpt", "cluster.yaml", "-m", "model.yaml", "--tokens-per-rank", 256, "--steps", 4, "--dispatcher", "deepep-ll", *more,
                 "-q", "-o", "p.yaml")
            begin = time.monotonic()
            out = must(os.path.join(root, "tools", "emulate"), "cluster.yaml", "-q", "--", execute, "p.yaml", "t.mpt", "cluster.yaml", "-m", "model.yaml",
                       "--transport", "socket", "--steps", o.steps, "--iterations", o.iterations, "--train", o.policies, "--chunk-scale",
                       max(1, 6000 // o.rate), "-q", "--json")
            lines = [line.removeprefix("[0] ") for line in out.splitlines() if line.startswith("[0]")]
            r = json.loads("\n".join(lines) if lines else out)
            results.append({"case": case, "load": os.getloadavg()[0], "seconds": time.monotonic() - begin, "result": r})
            if o.json:
                continue
            steps = {t["policy"]: (t["step_ns"]["median"], t["predicted_ns"]) for t in r["training"]}
            first = r["training"][0]["policy"]
            print(f"{case}: {o.ranks} ranks at {o.rate} Mbit/s, {o.layers} layers, {o.steps} step(s) x {o.iterations}, load {os.getloadavg()[0]:.1f}")
            print(f"{'policy':10} {'measured':>10} {'min':>10} {'max':>10} {'predicted':>10} {'error':>8} {'x ' + first:>8} {'predicted':>10} {'late':>9}")
            for t in r["training"]:
                measured, predicted = steps[t["policy"]]
                print(f"{t['policy']:10} {measured / 1e6:8.1f}ms {t['step_ns']['min'] / 1e6:8.1f}ms {t['step_ns']['max'] / 1e6:8.1f}ms {predicted / 1e6:8.1f}ms "
                      f"{100 * (predicted / measured - 1):+7.2f}% {steps[first][0] / measured:8.3f} {steps[first][1] / predicted:10.3f} {t['late_ns'] / 1e6:7.1f}ms")
            errors = sorted(abs(p / m - 1) for m, p in steps.values())
            by_time = [sorted(steps, key=lambda name, k=k: steps[name][k]) for k in (0, 1)]
            print(f"prediction error: median {100 * errors[len(errors) // 2]:.2f} %, most {100 * errors[-1]:.2f} %")
            print(f"order measured: {' < '.join(by_time[0])}; predicted: {'the same' if by_time[0] == by_time[1] else ' < '.join(by_time[1])}")
            v = r["verified"]
            print(f"verified: {v['tokens']} tokens back home, {v['copies']} copies, {v['gradient_bytes'] / 1e6:.1f} MB of gradients; "
                  f"{time.monotonic() - begin:.0f} s\n", flush=True)
    if o.json:
        json.dump(results, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
