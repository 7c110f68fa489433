"""The simulator against published tables: coefficients fitted on some configurations, scored on whole others (another number of GPUs, nodes, or ranks).

Fitted are only figures that a topology or model file has: a launch, rates of ports, coefficients of compute. They are found by closed form (a balanced
matrix takes launch + bytes of a port / rate; docs/COST.md), least sum of |log(predicted / measured)|. Transfers are scored by the simulator itself,
`moeplan order --strategy single` on a topology with these figures, which has to agree with the closed form; compute by the formula of docs/COST.md part 3.
"""
import csv
import json
import math
import os
import statistics

TOP_K, HIDDEN, EXPERTS, NODE_GPUS = 8, 7168, 256, 8
DISPATCH_BYTES, COMBINE_BYTES = HIDDEN + HIDDEN // 128 * 4, HIDDEN * 2  # FP8 with a scale for each 128; BF16
NODES_OF_TOKEN = 4                                                      # DeepSeek-V3: experts of a token are on at most four nodes


def rows_of(folder, name):
    with open(os.path.join(folder, "measured", name), encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def fit(formula, start, points):
    """Coefficients that make the sum of |log(formula / measured)| least (rounded off below 2 %): one at a time by smaller and smaller factors."""
    def loss(c):
        return sum(math.hypot(math.log(formula(c, x) / y), 0.02) for x, y in points)
    best, least, step = list(start), loss(start), 1.0
    while step > 0.001:
        moved = False
        for k in range(len(best)):
            for factor in (math.exp(step), math.exp(-step)):
                tried = best[:k] + [best[k] * factor] + best[k + 1:]
                now = loss(tried)
                if now < least * (1 - 1e-9):
                    best, least, moved = tried, now, True
        if not moved:
            step /= 2
    return best


def misses(n_total, n_own, k):
    """None of k different things out of n_total is among n_own of them."""
    return math.prod((n_total - n_own - i) / (n_total - i) for i in range(k)) if n_total - n_own >= k else 0.0


class Transfers:
    """Balanced matrices on nodes of GPUs.
    x = (nodes, GPUs of a node, bytes to each other GPU of the node, bytes to all other nodes together, bytes fanned out to each other GPU of the node)"""
    START = (10e-6, 200e9, 40e9)

    @staticmethod
    def seconds(c, x):
        """c = launch, rate inside nodes, rate between them"""
        _, gpus, inside, across, fan_out = x
        return c[0] + max(inside * (gpus - 1) / c[1], across / c[2], fan_out * (gpus - 1) / c[1])

    @staticmethod
    def simulated(bench, c, x):
        nodes, gpus, inside, across, fan_out = x
        n = nodes * gpus
        text = f"schema: moeplan.topology\nversion: 1\nname: fitted\nlaunch: {max(1, round(c[0] * 1e9))} ns\n"
        ports = f"up: {round(c[1])} B/s" + (f", nic: {round(c[2])} B/s" if nodes > 1 else "")
        if nodes > 1:
            text += "levels: [{name: up, latency: 0 ns}, {name: nic, latency: 0 ns}]\n"
            text += f"groups: [{{repeat: {nodes}, gpus: [{{repeat: {gpus}, type: h100, ports: {{{ports}}}}}]}}]\n"
        else:
            text += f"levels: [{{name: up, latency: 0 ns}}]\ngpus: [{{repeat: {gpus}, type: h100, ports: {{{ports}}}}}]\n"
        topology, times = bench.file(text, "yaml"), []
        for a, b in ((inside, across), (fan_out, 0)):
            to_each = b / max(n - gpus, 1)
            if a + b < 1:
                continue
            def cell(i, j, inside_bytes=a, across_bytes=to_each):
                n_bytes = inside_bytes if i // gpus == j // gpus else across_bytes
                return 0 if i == j or n_bytes == 0 else max(1, round(n_bytes))
            m = "".join(",".join(str(cell(i, j)) for j in range(n)) + "\n" for i in range(n))
            made = json.loads(bench.must(bench.moeplan, "order", bench.file(m, "csv"), topology, "--strategy", "single", "--json", "-q"))
            times.append(next(r["time_ns"] for r in made["results"] if r["order"] == "single") * 1e-9)
        return max(times)


class Gemm:
    """Grouped GEMM: x = (active experts, padded rows, tokens of all ranks); c = a, b, c, beta"""
    START = (30e-6, 10e-6, 30e-6, 20e-9)

    @staticmethod
    def seconds(c, x):
        return max(c[0] + c[1] * x[0], c[2] + c[3] * x[1])

    @staticmethod
    def simulated(_, c, x):
        return Gemm.seconds(c, x)


class TwoProtocols:
    """Not in the simulator. The faster of two ways, which a library chooses itself: one that costs each pair its bytes over a low rate, at once for all
    peers, and one that costs the port its bytes over a high rate, with a longer launch. c = launch and rate of the first, launch and rate of the second"""
    START = (6e-6, 8e9, 14e-6, 300e9)
    FORM = "the shorter of launch + pair's bytes / rate and launch + port's bytes / rate"

    @staticmethod
    def seconds(c, x):
        _, gpus, inside, _, _ = x
        return min(c[0] + inside / c[1], c[2] + inside * (gpus - 1) / c[3])


class GemmOfAllTokens:
    """Not in the simulator. Grouped GEMM that also looks at every token of every rank. c = a, b, c, beta, time of such a token"""
    START = (30e-6, 10e-6, 30e-6, 20e-9, 7e-9)
    FORM = "and a time for each token of all ranks"

    @staticmethod
    def seconds(c, x):
        return Gemm.seconds(c, x) + c[4] * x[2]


def nccl(folder, name):
    for r in rows_of(folder, name):
        n, size = int(r["num_gpus"]), int(r["message_size"]) * {"half": 2, "int8": 1}[r["nccl_dtype"]]
        yield n, (1, n, size / n, 0, 0), float(r["latency"]) * 1e-3, size >= 1 << 20


def low_latency(folder, direction):
    for r in rows_of(folder, "deepep_lowlatency_h200.csv"):
        nodes, tokens = int(r["node_num"]), int(r["num_token"])
        each = tokens * TOP_K / (nodes * NODE_GPUS) * (DISPATCH_BYTES if direction == "dispatch" else COMBINE_BYTES)
        yield nodes, (nodes, NODE_GPUS, each, each * (nodes - 1) * NODE_GPUS, 0), float(r[direction + "_avg_t_us"]) * 1e-6, tokens >= 64


def normal(folder, direction):
    for r in rows_of(folder, "deepep_normal_h100.csv"):
        nodes, tokens = int(r["node_num"]), int(r["num_token"])
        if int(r[direction + "_sms"]) != (24 if nodes > 1 else 20):
            continue
        chosen = min(nodes, NODES_OF_TOKEN)
        pool = EXPERTS * chosen // nodes
        on_node = chosen / nodes * (1 - misses(pool, EXPERTS // nodes, TOP_K))
        on_gpu = chosen / nodes * (1 - misses(pool, EXPERTS // (nodes * NODE_GPUS), TOP_K))
        size = tokens * (DISPATCH_BYTES if direction == "dispatch" else COMBINE_BYTES)
        x = (nodes, NODE_GPUS, size * on_gpu, size * on_node * (nodes - 1), size * on_gpu * (nodes - 1))
        yield nodes, x, float(r[direction + "_transmit_us"]) * 1e-6, tokens >= 1024


def gemm(folder, name):
    for r in rows_of(folder, name):
        if r["distribution"] != "uniform":
            continue
        ranks, tokens = int(r["moe_ep_size"]), int(r["num_tokens"])
        pairs = tokens * TOP_K / ranks
        active = min(EXPERTS / ranks, max(pairs, 1))
        yield ranks, (active, active * math.ceil(pairs / active / 64) * 64, tokens), float(r["latency"]) * 1e-3, pairs >= 512


# table, model, rows, what a configuration is, always in the fit, what counts as large
TABLES = [
    ("NCCL all-to-all, H100", Transfers, lambda f: nccl(f, "nccl_h100.csv"), "GPUs", (), "1 MiB a rank and more"),
    ("NCCL all-to-all, H200", Transfers, lambda f: nccl(f, "nccl_h200.csv"), "GPUs", (), "1 MiB a rank and more"),
    ("DeepEP low latency, H200, dispatch", Transfers, lambda f: low_latency(f, "dispatch"), "nodes", (1,), "64 tokens and more"),
    ("DeepEP low latency, H200, combine", Transfers, lambda f: low_latency(f, "combine"), "nodes", (1,), "64 tokens and more"),
    ("DeepEP normal, H100, dispatch", Transfers, lambda f: normal(f, "dispatch"), "nodes", (1,), "1,024 tokens and more"),
    ("DeepEP normal, H100, combine", Transfers, lambda f: normal(f, "combine"), "nodes", (1,), "1,024 tokens and more"),
    ("MoE GEMM, H200, generation, uniform", Gemm, lambda f: gemm(f, "moe_gemm_generation_h200.csv"), "ranks", (), "512 rows a rank and more"),
    ("MoE GEMM, H200, context, uniform", Gemm, lambda f: gemm(f, "moe_gemm_context_h200.csv"), "ranks", (), "512 rows a rank and more"),
]


# Other forms for a table of TABLES: what would they gain?
FORMS = [("NCCL all-to-all, H100", TwoProtocols), ("NCCL all-to-all, H200", TwoProtocols),
         ("MoE GEMM, H200, generation, uniform", GemmOfAllTokens), ("MoE GEMM, H200, context, uniform", GemmOfAllTokens)]


def summary(sizes, percentile):
    return (f"{statistics.median(sizes) * 100:.1f} %", f"{percentile(sizes, 95) * 100:.1f} %") if sizes else ("", "")


def score(bench, folder, table, percentile):
    """Two kinds of lines: the table's, and one for each configuration that was left out of the fit."""
    label, model, rows, unit, always, large = table
    points = list(rows(folder))
    whole, whole_large, lines = [], [], []
    for left_out in sorted({p[0] for p in points} - set(always)):
        c = fit(model.seconds, model.START, [(x, y) for k, x, y, _ in points if k != left_out])
        errors = []
        for _, x, y, is_large in (p for p in points if p[0] == left_out):
            simulated, closed = model.simulated(bench, c, x), model.seconds(c, x)
            if abs(simulated - closed) > 0.005 * closed:
                raise ValueError(f"{label}: the simulator says {simulated:g} s of {x} with {c}, the closed form {closed:g} s")
            errors.append((abs(simulated / y - 1), is_large))
        size = [e for e, _ in errors]
        whole += size
        whole_large += [e for e, is_large in errors if is_large]
        lines.append((label, f"{left_out} {unit}", figures(model, c), len(size), *summary(size, percentile)))
    total = (label, len(whole), *summary(whole, percentile), f"{len(whole_large)}: {large}", *summary(whole_large, percentile))
    return total, lines


def try_form(folder, label, model, percentile):
    """A line: the form, fitted and scored as score() does, and how far single values of a table are from the median of all that measure the same."""
    points = list(next(rows for name, _, rows, *_ in TABLES if name == label)(folder))
    errors, same = [], {}
    for left_out in {p[0] for p in points}:
        c = fit(model.seconds, model.START, [(x, y) for k, x, y, _ in points if k != left_out])
        errors += [abs(model.seconds(c, x) / y - 1) for k, x, y, _ in points if k == left_out]
    for _, x, y, _ in points:
        same.setdefault(x, []).append(y)
    scatter = [abs(statistics.median(found) / y - 1) for found in same.values() if len(found) > 1 for y in found] if model is TwoProtocols else []
    return (label, model.FORM, len(errors), *summary(errors, percentile), *(summary(scatter, percentile) or ("", "")))


def figures(model, c):
    if model is Gemm:
        return f"a {c[0] * 1e6:.0f} us, b {c[1] * 1e6:.1f} us, c {c[2] * 1e6:.0f} us, beta {c[3] * 1e9:.1f} ns"
    return f"launch {c[0] * 1e6:.1f} us, {c[1] / 1e9:.0f} GB/s" + ("" if c[2] == Transfers.START[2] else f", {c[2] / 1e9:.1f} GB/s between nodes")
