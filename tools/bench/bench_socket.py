#!/usr/bin/env python3
"""What the socket transport of moeplan-exec makes of links: loopback beside iperf3, and planned orders beside single shots and the bound on emulated clusters.

    tools/bench/bench_socket.py [--build build] [--runs 3] [--iterations 5] [--ranks 8,16] [--only loopback|orders]

loopback: two ranks, one flow, no shaping: payload a second, median and best, beside iperf3 (one stream, cubic), which sends and receives the same 128 KB
again and again, and beside a plain loop of blocking send and recv through as much memory as the transport's, all in turn.
orders: balanced matrices with skewed pairs (Sinkhorn of lognormal(1.5), 8 MB for each port, 100 Mbit/s ports, tools/emulate): time over the port bound
of a single shot and of orders, each run `--runs` times in turn; the median of the runs' medians, least and most; what the simulator says; processor time of a rank
while it moves data, in % of a core; the load of the machine, which is part of the result. Run it with `nice -n -18` where other work must not count.
"""
import argparse
import json
import mmap
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EMULATE = os.path.join(ROOT, "tools", "emulate")
HEAD = "schema: moeplan.topology\nversion: 1\nname: bench\nlaunch: 10 us\nlevels: [{name: nic, latency: 50 us}]\n"
PORT_BYTES = 8_000_000
PLAIN_CALL = 128 * 1024
LOOPBACK_MB = (1, 4, 16, 64)
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
    end = {}
    for _ in range(50):
        done = subprocess.run(["iperf3", "-c", "127.0.0.1", "-p", "5997", "-t", "2", "-C", "cubic", "-J"], capture_output=True, text=True, check=False)
        end = json.loads(done.stdout or "{}").get("end", {})
        if "sum_received" in end:
            break
        time.sleep(0.1)  # it does not listen yet
    server.terminate()  # one that has served does not always end
    server.wait()
    if "sum_received" not in end:
        sys.exit("iperf3 measures nothing here")
    return end["sum_received"]["bits_per_second"] / 1e9


def plain(total, working, runs):
    """Gbit/s of each run: the least program there can be. Blocking send and recv of `total` bytes, 128 KB a call, each end going through
    `working` bytes of memory of its own again and again; cubic and a send buffer of 128 KB, as the transport has them."""
    def memory():
        m = mmap.mmap(-1, working, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, working, 4096):
            m[at] = 1
        return memoryview(m)

    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        end, v = listener.accept()[0], memory()
        for _ in range(runs):
            n = 0
            while n < total:
                at = n % working
                n += end.recv_into(v[at:at + min(PLAIN_CALL, working - at, total - n)])
            end.send(b"x")
        os._exit(0)
    end, rates, v = socket.socket(), [], memory()
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PLAIN_CALL)
    end.connect(listener.getsockname())
    for _ in range(runs):
        since, n = time.perf_counter(), 0
        while n < total:
            at = n % working
            n += end.send(v[at:at + min(PLAIN_CALL, working - at, total - n)])
        end.recv(1)
        rates.append(8 * total / (time.perf_counter() - since) / 1e9)
    os.waitpid(child, 0)
    return rates[2:]


def of_transport(moeplan, execute, megabytes, runs):
    """Its median run and its best."""
    write("m.csv", f"0,{megabytes}000000\n0,0\n")
    subprocess.run([moeplan, "order", "m.csv", "t.yaml", "--strategy", "single", "-q", "-o", "p.yaml"], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    out = subprocess.run([execute, "p.yaml", "m.csv", "t.yaml", "--matrix", "--transport", "socket", "--iterations", str(runs), "--warmup", "2", "--json",
                          "-q"], check=True, stdout=subprocess.PIPE, text=True).stdout
    part = json.loads(out)["parts"][0]
    return [8 * part["bytes"] / part["measured_ns"][k] for k in ("median", "min")]


def loopback(moeplan, execute, o):
    write("t.yaml", HEAD + "gpus: [{repeat: 2, type: h100, ports: {nic: 400 Gbit/s}}]\n")
    names = ["iperf3, 2 s", "plain, 64 MB through 128 KB"] + [f"{who}, {size} MB" for size in LOOPBACK_MB for who in ("plain", "transport")]
    rates = {name: [] for name in names}
    if not shutil.which("iperf3"):
        sys.exit("bench_socket: iperf3, the reference, is not installed (apt-get install iperf3, or tools/check, which does it)")
    for _ in range(o.runs):  # in turn, so that what else the machine does meets all of them
        rates[names[0]].append(iperf3())
        rates[names[1]] += plain(64_000_000, PLAIN_CALL, 2 * o.iterations)
        for size in LOOPBACK_MB:
            rates[f"plain, {size} MB"] += plain(size * 1_000_000, size * 1_000_000, 2 * o.iterations)
            rates[f"transport, {size} MB"] += of_transport(moeplan, execute, size, 2 * o.iterations)
    print(f"{'loopback, one flow, Gbit/s':30} {'median':>8} {'best':>8} {'best / plain':>13} {'best / iperf3':>13}   load {os.getloadavg()[0]:.1f}")
    best = {name: max(found) for name, found in rates.items() if found}
    for name in best:
        ratios = [f"{best[name] / best[other]:13.2f}" if other in best and name.startswith("transport") else f"{'':13}"
                  for other in (name.replace("transport", "plain"), names[0])]
        print(f"{name:30} {statistics.median(rates[name]):8.1f} {best[name]:8.1f} {' '.join(ratios)}".rstrip(), flush=True)
    print()


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
            loopback(moeplan, execute, o)
        if o.only != "loopback":
            orders(moeplan, execute, o)
        os.chdir("/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
