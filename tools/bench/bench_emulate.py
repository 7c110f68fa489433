#!/usr/bin/env python3
"""What emulated links give, beside what they should give, and what an idle cluster costs.

    tools/bench/bench_emulate.py [--seconds 4] [--only WORD]

For each cluster: seconds to build it and take it down, then, with all flows at the same time, payload received by each port over its rate in the
topology (least, mean, most of the ports), ports of both directions full where a case says so; the same by iperf3, one
pair at a time (its payload over the same rate); processor time of a rank while it moves data, and of the whole idle cluster, in % of one core.
"""
import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EMULATE, FLOWS = (os.path.join(ROOT, "tools", *name) for name in (("emulate",), ("bench", "flows.py")))
HEAD = "schema: moeplan.topology\nversion: 1\nname: bench\nlaunch: 10 us\n"
IDLE_S = 2


def flat(*ports):
    """One level: (how many, Mbit/s) of each kind of port."""
    return HEAD + "levels: [{name: nic, latency: 50 us}]\ngpus:\n" + "".join(
        f"  - {{repeat: {n}, type: h100, ports: {{nic: {rate} Mbit/s}}}}\n" for n, rate in ports)


def tiers(nodes, gpus, up, nic, more=""):
    return HEAD + f"""levels: [{{name: up, latency: 50 us}}, {{name: nic, latency: 50 us}}]
groups: [{{repeat: {nodes}, {more}gpus: [{{repeat: {gpus}, type: h100, ports: {{up: {up} Mbit/s, nic: {nic} Mbit/s}}}}]}}]
"""


def shift(n, by, level=0):
    return [(r, (r + by) % n, level) for r in range(n)]


def everyone(n):
    return [(a, b, 0) for a in range(n) for b in range(n) if a != b]


# name, topology, flows, {(rank, "out" or "in", level): Mbit/s} of the ports that must be full
CASES = [
    ("4 x 200, shift", flat((4, 200)), shift(4, 1), lambda: full(4, 200)),
    ("8 x 100, shift", flat((8, 100)), shift(8, 3), lambda: full(8, 100)),
    ("8 x 100, all to all", flat((8, 100)), everyone(8), lambda: full(8, 100)),
    ("16 x 100, shift", flat((16, 100)), shift(16, 5), lambda: full(16, 100)),
    ("16 x 100, all to all", flat((16, 100)), everyone(16), lambda: full(16, 100)),
    ("16 x 50, all to all", flat((16, 50)), everyone(16), lambda: full(16, 50)),
    ("2 x 800 + 400 + 200, into the next", flat((2, 800), (1, 400), (1, 200)), shift(4, 1),
     lambda: {(1, "in", 0): 800, (2, "in", 0): 400, (3, "in", 0): 200, (0, "in", 0): 200}),
    ("7 into 1, 8 x 100", flat((8, 100)), [(r, 0, 0) for r in range(1, 8)], lambda: {(0, "in", 0): 100}),
    ("4 x 1000, shift", flat((4, 1000)), shift(4, 1), lambda: full(4, 1000)),
    ("4 x 2, 450 up, 50 nic", tiers(4, 2, 450, 50), [(r, r ^ 1, 0) for r in range(8)] + shift(8, 2, 1), lambda: {**full(8, 450), **full(8, 50, 1)}),
]


def full(n, rate, level=0):
    return {(r, side, level): rate for r in range(n) for side in ("out", "in")}


def emulate(path, command, *options):
    """(seconds, output, processor seconds of all processes)"""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    out = subprocess.run([EMULATE, path, "--scale", "1", *options, "--", *command], stdout=subprocess.PIPE, check=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - start, out, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def by_iperf3(path, topology_rates, seconds):
    """Payload over rate of single pairs, rank 0 to each of the next three."""
    script = """cat $MOEPLAN_HOSTS | while read rank node address rest; do [ $rank = 0 ] || [ $rank -gt 3 ] && continue
  %s --inside -q --only $rank -- iperf3 -s -1 -B $address >/dev/null & sleep 0.5
  echo $rank $(%s --inside -q --only 0 -- iperf3 -c $address -t %g -O 1 -C cubic -J | tr -d ' \\n\\t')
  wait; done""" % (EMULATE, EMULATE, seconds)
    out = subprocess.run([EMULATE, path, "--scale", "1", "--driver", "--", "sh", "-c", script], stdout=subprocess.PIPE, check=True, text=True).stdout
    ratios = []
    for line in out.splitlines():
        rank, text = line.split(" ", 1)
        ratios.append(json.loads(text)["end"]["sum_received"]["bits_per_second"] / 1e6 / min(topology_rates[0], topology_rates[int(rank)]))
    return statistics.mean(ratios)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=4)
    p.add_argument("--only", default="")
    o = p.parse_args()
    if not shutil.which("iperf3"):
        sys.exit("bench_emulate: iperf3, the reference, is not installed (apt-get install iperf3, or tools/check, which does it)")
    head = f"{'cluster, Mbit/s':36} {'up+down':>8} {'least':>7} {'mean':>7} {'most':>7} {'iperf3':>7} {'cpu/rank':>9} {'idle':>6}"
    print(head, "-" * len(head), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "t.yaml")
        for name, text, flows, ports in CASES:
            if o.only not in name:
                continue
            with open(path, "w", encoding="ascii") as f:
                f.write(text)
            build_s = min(emulate(path, ["true"], "-q")[0] for _ in range(3))
            _, _, base_cpu = emulate(path, ["true"], "-q")
            report = os.path.join(folder, "report.json")
            out = emulate(path, [FLOWS, str(o.seconds), *(f"{a}-{b}@{k}" for a, b, k in flows)], "-q", "--report", report)[1]
            moved = {}
            for a, b, k, rate in (map(int, line.split()[2:]) for line in out.splitlines()):
                moved[a, "out", k] = moved.get((a, "out", k), 0) + rate
                moved[b, "in", k] = moved.get((b, "in", k), 0) + rate
            ratios = [moved[port] * 8e-6 / rate for port, rate in ports().items()]
            with open(report, encoding="ascii") as f:
                cpu = statistics.mean(r["cpu_s"] for r in json.load(f)["ranks"])
            _, _, idle_cpu = emulate(path, ["sleep", str(IDLE_S)], "-q")
            rates = {r: float(rate) for (r, side, k), rate in ports().items() if k == 0}
            reference = f"{by_iperf3(path, rates, 2):7.4f}" if len(rates) > 1 and "shift" in name else "      -"
            print(f"{name:36} {build_s:6.2f} s {min(ratios):7.4f} {statistics.mean(ratios):7.4f} {max(ratios):7.4f} {reference} "
                  f"{cpu / o.seconds * 100:7.1f} % {max(0, idle_cpu - base_cpu) / IDLE_S * 100:4.1f} %", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
