#!/usr/bin/env python3
"""What the socket transport of moeplan-exec makes of links: loopback beside iperf3, and planned orders beside single shots and the bound on emulated clusters.

    tools/bench/bench_socket.py [--build build] [--runs 3] [--iterations 5] [--ranks 8,16] [--only loopback|orders]

loopback: two ranks, one flow, no shaping: payload a second of the best and the median iteration, beside iperf3 (one stream, cubic) before and after.
orders: balanced matrices with skewed pairs (Sinkhorn of lognormal(1.5), 8 MB for each port, 100 Mbit/s ports, tools/emulate): time over the port bound
of a single shot and of orders, each run `--runs` times in turn; the median of the runs' medians, least and most; what the simulator says; processor time of a rank
while it moves data, in % of a core; the load of the machine, which is part of the result. Run it with `nice -n -18` where other work must not count.
"""
import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EMULATE = os.path.join(ROOT, "tools", "emulate")
HEAD = "schema: moeplan.topology\nversion: 1\nname: bench\nlaunch: 10 us\nlevels: [{name: nic, latency: 50 us}]\n"
PORT_BYTES = 8_000_000
ORDERS = [("single", ()), ("bvn", ("--stages", "free")), ("hybrid", ("--stages", "free")), ("bvn", ("--stages", "barrier"))]


def balanced(n, seed):
    r = random.Random(seed)
    cells = [[0 if i == j else r.lognormvariate(0, 1.5) for j in range(n)] for i in range(n)]
    for _ in range(500):
        cells = [[x / sum(row) for x in row] for row in cells]
        sums = [sum(row[j] for row in cells) for j in range(n)]
        cells = [[x / sums[j] for j, x in enumerate(row)] for row in cells]
    return "".join(",".join(str(round(PORT_BYTES * x)) for x in row) + "\n" for row in cells)


def write(name, text):
    with open(name, "w", encoding="ascii") as f:
        f.write(text)


def iperf3():
    server = subprocess.Popen(["iperf3", "-s", "-1", "-p", "5997", "-B", "127.0.0.1"], stdout=subprocess.DEVNULL)
    done = None
    for _ in range(50):
        done = subprocess.run(["iperf3", "-c", "127.0.0.1", "-p", "5997", "-t", "2", "-C", "cubic", "-J"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        time.sleep(0.1)  # it does not listen yet
    server.terminate()  # one that has served does not always end
    server.wait()
    return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e9


def loopback(moeplan, execute, iterations):
    write("t.yaml", HEAD + "gpus: [{repeat: 2, type: h100, ports: {nic: 400 Gbit/s}}]\n")
    reference = [iperf3()] if shutil.which("iperf3") else []
    print(f"{'loopback, one flow':24} {'median':>8} {'best':>8} Gbit/s")
    for megabytes in (4, 16, 64):
        write("m.csv", f"0,{megabytes}000000\n0,0\n")
        subprocess.run([moeplan, "order", "m.csv", "t.yaml", "--strategy", "single", "-q", "-o", "p.yaml"], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        out = subprocess.run([execute, "p.yaml", "m.csv", "t.yaml", "--matrix", "--transport", "socket", "--iterations", str(4 * iterations), "--warmup",
                              "2", "--json", "-q"], check=True, stdout=subprocess.PIPE, text=True).stdout
        part = json.loads(out)["parts"][0]
        rates = [8 * part["bytes"] / part["measured_ns"][k] for k in ("median", "min")]
        print(f"{megabytes:4} MB {'':17}{rates[0]:8.1f} {rates[1]:8.1f}", flush=True)
    if reference:
        print(f"iperf3, before and after {reference[0]:7.1f} {iperf3():8.1f}  load {os.getloadavg()[0]:.1f}\n")


def orders(moeplan, execute, o):
    """Called again by itself, inside the cluster, with its cases in a file."""
    print(f"{'ranks':5} {'matrix':6} {'order':14} {'median':>7} {'least':>7} {'most':>7} {'predicted':>9} {'x single':>8} {'cpu/rank':>8} {'load':>5}"
          "   (times over the port bound)")
    for n, seed in [(n, seed) for n in o.ranks for seed in range(o.matrices)]:
        write("m.csv", balanced(n, 11 + seed))
        write("t.yaml", HEAD + f"gpus: [{{repeat: {n}, type: h100, ports: {{nic: 100 Mbit/s}}}}]\n")
        for k, (order, stages) in enumerate(ORDERS):
            subprocess.run([moeplan, "order", "m.csv", "t.yaml", "--strategy", order, *stages, "-q", "-o", f"p{k}.yaml"], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = [sys.executable, os.path.abspath(__file__), "--inside", execute, str(o.runs), str(o.iterations)]
        out = subprocess.run([EMULATE, "t.yaml", "--scale", "1", "-q", "--driver", "--", *command], check=True, stdout=subprocess.PIPE, text=True,
                             env=dict(os.environ, MOEPLAN=moeplan)).stdout
        single = None
        for (order, stages), line in zip(ORDERS, out.splitlines()):
            r = json.loads(line)
            single = single or statistics.median(r["times"])
            name = order + (", " + stages[1] if stages else "")
            print(f"{n:5} {seed:6} {name:14} {statistics.median(r['times']):7.4f} {min(r['least']):7.4f} {max(r['times']):7.4f} {r['predicted']:9.4f} "
                  f"{statistics.median(r['times']) / single:8.4f} {100 * statistics.median(r['cpu']):6.1f} % {os.getloadavg()[0]:5.1f}", flush=True)


def inside(execute, runs, iterations):
    """A line of JSON for each order: all in turn, `runs` times, so that what else the machine does meets all of them."""
    found = [{"times": [], "least": [], "cpu": []} for _ in ORDERS]
    for _ in range(runs):
        for k, case in enumerate(found):
            done = subprocess.run([EMULATE, "--inside", "-q", "--report", "report.json", "--", execute, f"p{k}.yaml", "m.csv", "t.yaml", "--matrix",
                                   "--transport", "socket", "--json", "-q", "--iterations", str(iterations), "--warmup", "1"], capture_output=True,
                                  text=True, check=False)
            if done.returncode != 0:
                sys.exit(done.stdout + done.stderr)
            part = json.loads("\n".join(line.split("] ", 1)[1] for line in done.stdout.splitlines()))["parts"]
            with open("report.json", encoding="ascii") as f:
                cpu = statistics.mean(rank["cpu_s"] for rank in json.load(f)["ranks"])
            moving_s = (iterations + 1) * sum(p["measured_ns"]["median"] for p in part) / 1e9
            case["times"].append(part[0]["measured_ns"]["median"] / part[0]["bound_ns"])
            case["least"].append(part[0]["measured_ns"]["min"] / part[0]["bound_ns"])
            case["cpu"].append(cpu / moving_s)
            case["predicted"] = part[0]["predicted_ns"] / part[0]["bound_ns"]
    for case in found:
        print(json.dumps(case))


def main():
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    p = argparse.ArgumentParser()
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--iterations", type=int, default=5)
    p.add_argument("--matrices", type=int, default=1)
    p.add_argument("--ranks", type=lambda text: [int(word) for word in text.split(",")], default=[8, 16])
    p.add_argument("--only", choices=("loopback", "orders"))
    o = p.parse_args()
    moeplan, execute = (os.path.join(os.path.abspath(o.build), "tools", "moeplan", name) for name in ("moeplan", "moeplan-exec"))
    with tempfile.TemporaryDirectory(prefix="moeplan-bench-") as folder:
        os.chdir(folder)
        if o.only != "orders":
            loopback(moeplan, execute, o.iterations)
        if o.only != "loopback":
            orders(moeplan, execute, o)
        os.chdir("/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
