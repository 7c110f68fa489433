"""The section of docs/RESULTS.md on transfer orders: what they gain over a single shot and over the papers' baselines.

Every figure is one `moeplan order MATRIX TOPOLOGY --json`. Matrices are made here from a seed, or exported from a plan of a real
recording with `moeplan export --to nccl-tests`. Used by tools/results; alone it prints the section:
usage: order_results.py PROGRAM DATA_FOLDER
"""
import glob
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile

SEEDS = range(5)
INCAST = [1.0, 0.95, 0.9, 0.86, 0.82, 0.79, 0.76, 0.73]  # goodput by flows at once: 1 / (1 + 0.05 (k - 1)), an assumption
BASELINES = ["RCS", "SJF", "spread-out"]
ZIPF = [0.4, 0.6, 0.8, 1.0, 1.2]


def cluster(path, gpus, rate, launch, latency, incast):
    """A big switch: `gpus` GPUs on one level, each with one port of this rate."""
    with open(path, "w", encoding="ascii") as f:
        curve = f", incast: {INCAST}" if incast else ""
        f.write(f"schema: moeplan.topology\nversion: 1\nname: \"switch of {gpus}\"\nlaunch: {launch}\nstage_launch: {launch}\n"
                f"levels:\n  - {{name: switch, latency: {latency}{curve}}}\n"
                f"gpus:\n  - {{repeat: {gpus}, type: h100, ports: {{switch: {rate}}}}}\n")
    return path


def skewed(rng, n, balanced):
    m = [[0.0 if i == j else math.exp(1.5 * rng.gauss(0, 1)) for j in range(n)] for i in range(n)]
    for _ in range(300 if balanced else 0):
        m = [[x / sum(row) for x in row] for row in m]
        sums = [sum(m[i][j] for i in range(n)) for j in range(n)]
        m = [[x / sums[j] for j, x in enumerate(row)] for row in m]
    return m if balanced else [[x * (1 + j) ** -0.8 for j, x in enumerate(row)] for row in m]


def top1(rng, n, exponent):
    """Tokens of n equal sources to n experts of Zipf popularity, top-1, one expert a GPU; shares differ a little by source (LIMoE-like)."""
    weight = [(1 + e) ** -exponent for e in range(n)]
    rng.shuffle(weight)
    rows = [[w * math.exp(0.3 * rng.gauss(0, 1)) for w in weight] for _ in range(n)]
    return [[0 if i == j else x / sum(row) for j, x in enumerate(row)] for i, row in enumerate(rows)]


def write_matrix(path, m, bytes_per_gpu):
    scale = bytes_per_gpu * len(m) / sum(map(sum, m))
    with open(path, "w", encoding="ascii") as f:
        f.writelines(",".join(str(int(x * scale)) for x in row) + "\n" for row in m)
    return path


def order(program, matrix, topology, *options):
    done = subprocess.run([program, "order", matrix, topology, "--json", *options], capture_output=True, text=True, check=True, timeout=600)
    answer = json.loads(done.stdout)
    times = {}
    for r in answer["results"]:
        if r.get("time_ns"):
            times[("baseline " if r["kind"] == "baseline" else "") + r["order"]] = r["time_ns"]
    return answer, times


def mean_change(pairs):
    return f"{100 * (statistics.fmean(a / b for a, b in pairs) - 1):+.1f}"


def gain_row(name, answers):
    """answers: [(answer, times)] of one kind of matrix."""
    bound = [a["port_bound_ns"] for a, _ in answers]
    best = [t["auto"] for _, t in answers]
    cells = [f"{statistics.fmean(t['single'] / b for (_, t), b in zip(answers, bound)):.3f}",
             f"{statistics.fmean(x / b for x, b in zip(best, bound)):.3f}", mean_change([(x, t["single"]) for x, (_, t) in zip(best, answers)])]
    cells += [mean_change([(x, t["baseline " + name_]) for x, (_, t) in zip(best, answers)]) for name_ in BASELINES]
    return f"| {name} | {len(answers)} | " + " | ".join(cells) + " |"


GAIN_HEAD = ["| matrices | n | single shot / bound | auto / bound | auto vs single shot, % | vs RCS, % | vs SJF, % | vs spread-out, % |",
             "|---|---|---|---|---|---|---|---|"]


def recorded_matrices(program, data, folder):
    trace = os.path.join(data, "traces", "qwen1.5-moe-6ranks", "dispatch_counts.csv")
    of_trace = ["--phase", "prefill", "--layer-base", "0", "--ids", "logical"]
    plan = os.path.join(folder, "plan.yaml")
    subprocess.run([program, "plan", trace, "6:h100", "-m", "qwen1.5-moe-a2.7b", *of_trace, "--strategy", "contiguous", "-o", plan],
                   check=True, capture_output=True, timeout=600)
    out = os.path.join(folder, "recorded")
    os.makedirs(out, exist_ok=True)
    subprocess.run([program, "export", plan, trace, "6:h100", "--to", "nccl-tests", *of_trace, "-o", out], check=True, capture_output=True,
                   timeout=600)
    return sorted(glob.glob(os.path.join(out, "*dispatch*")))


def section(program, data):
    out = ["## Transfer orders", "",
           "What an order gains, `moeplan order MATRIX TOPOLOGY` (tools/dev/order_results.py makes the matrices): times over the largest port load,",
           "launches included, negative = the order is faster. `auto` is the best strategy under the simulator, single shot among them. RCS, SJF and",
           "spread-out are the papers' baselines, one flow at a time from each sender; the single shot is what one grouped NCCL launch does, and the honest",
           "comparison. Big switch, 50 GB/s a port, 10 us a launch and a stage, stages coupled as NCCL runs them; lognormal(1.5) entries, five seeds.",
           f"Incast (an assumption, not a measurement): goodput of a receiver with 1, 2, .. flows at once {INCAST}.", ""]
    with tempfile.TemporaryDirectory(prefix="moeplan-orders-") as folder:
        matrix = os.path.join(folder, "m.csv")
        recorded = recorded_matrices(program, data, folder)
        for incast in (False, True):
            out += [f"### {'with' if incast else 'without'} an incast curve", ""] + GAIN_HEAD
            for n in (8, 16):
                switch = cluster(os.path.join(folder, "t.yaml"), n, "50 GB/s", "10 us", "1 us", incast)
                for size in (16e6, 256e6):
                    for kind in ("balanced, skewed pairs", "hot ports"):
                        answers = []
                        for seed in SEEDS:
                            write_matrix(matrix, skewed(random.Random(seed), n, kind.startswith("balanced")), size)
                            answers.append(order(program, matrix, switch, "--strategy", "single,auto"))
                        out.append(gain_row(f"{kind}, {n} GPUs, {size / 1e6:.0f} MB each", answers))
            switch = cluster(os.path.join(folder, "t.yaml"), 6, "50 GB/s", "10 us", "1 us", incast)
            out += [gain_row("recorded: qwen1.5-moe-6ranks, all layers, 6 GPUs", [order(program, m, switch, "--strategy", "single,auto") for m in recorded]), ""]
        out += ["### Aurora's exclusive setting, equal ports", "",
                "Its conditions: 8 GPUs on a big switch of 100 Gbps, no launch or latency cost, top-1 with one expert a GPU; LIMoE-like matrices from a seed",
                "(the paper's are not published), 4 layers. The paper: up to 1.38x over SJF. Last column: what that order is worth against all flows at once.", "",
                "| Zipf exponent | Aurora over RCS, mean (max) | over SJF, mean (max) | BvN over SJF, mean (max) | Aurora over single shot | BvN over single shot |",
                "|---|---|---|---|---|---|"]
        switch = cluster(os.path.join(folder, "t.yaml"), 8, "100 Gbit/s", "0 ns", "0 ns", False)
        for exponent in ZIPF:
            times = []
            for seed in range(4):
                write_matrix(matrix, top1(random.Random(1000 + seed), 8, exponent), 64e6)
                times.append(order(program, matrix, switch, "--strategy", "single,aurora,bvn")[1])

            def ratio(slow, fast, with_max=True, times=times):
                r = [t[slow] / t[fast] for t in times]
                return f"{statistics.fmean(r):.3f}x" + (f" ({max(r):.2f}x)" if with_max else "")
            out.append(f"| {exponent} | {ratio('baseline RCS', 'aurora')} | {ratio('baseline SJF', 'aurora')} | {ratio('baseline SJF', 'bvn')} | "
                       f"{ratio('single', 'aurora', False)} | {ratio('single', 'bvn', False)} |")
        out.append("")
    return out


if __name__ == "__main__":
    print("\n".join(section(os.path.abspath(sys.argv[1]), sys.argv[2])))
