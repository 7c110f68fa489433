"""Clusters and matrices that tools/fidelity measures. Rates in Mbit/s of payload; matrices are scaled so that the port bound is a given time."""
import math
import random

HEAD = "schema: moeplan.topology\nversion: 1\nname: fidelity\n"
MEGABIT = 125000  # bytes


class Cluster:
    """Nodes of GPUs with a NIC each, and with several nodes a faster port inside them; or, with an uplink, one port for all and a link of the node
    that its GPUs share."""

    def __init__(self, name, nics, gpus_of_node=0, up=0, uplink=0):
        self.name, self.nics, self.gpus_of_node, self.up, self.uplink = name, nics, gpus_of_node, up, uplink
        self.n = len(nics)

    def yaml(self, efficiency=1.0, launch_ns=0, stage_ns=0, latency_ns=0):
        def rate(megabits):
            return f"{int(megabits * MEGABIT * efficiency)} B/s"
        text = HEAD + f"launch: {launch_ns} ns\nstage_launch: {stage_ns} ns\n"
        if not self.gpus_of_node:
            return text + f"levels: [{{name: nic, latency: {latency_ns} ns}}]\ngpus:\n" + "".join(
                f"  - {{type: h100, ports: {{nic: {rate(r)}}}}}\n" for r in self.nics)
        text += f"levels: [{{name: up, latency: {latency_ns} ns}}, {{name: nic, latency: {latency_ns} ns}}]\ngroups:\n"
        for first in range(0, self.n, self.gpus_of_node):
            if self.uplink:
                text += f"  - uplink: {rate(self.uplink)}\n    gpus:\n" + "".join(
                    f"      - {{type: h100, ports: {{up: {rate(r)}}}}}\n" for r in self.nics[first:first + self.gpus_of_node])
                continue
            text += "  - gpus:\n" + "".join(
                f"      - {{type: h100, ports: {{up: {rate(self.up)}, nic: {rate(r)}}}}}\n" for r in self.nics[first:first + self.gpus_of_node])
        return text

    def bound_s(self, m):
        """The busiest port's time."""
        worst = 0
        if self.uplink:
            node = [g // self.gpus_of_node for g in range(self.n)]
            for v in set(node):
                pairs = [(i, j) for i in range(self.n) for j in range(self.n) if (node[i] == v) != (node[j] == v)]
                for side in (0, 1):
                    worst = max(worst, sum(m[i][j] for i, j in pairs if node[(i, j)[side]] == v) / (self.uplink * MEGABIT))
            for g in range(self.n):
                worst = max(worst, *(sum(m[g][j] if out else m[j][g] for j in range(self.n) if j != g) / (self.nics[g] * MEGABIT) for out in (0, 1)))
            return worst
        for g in range(self.n):
            for level in (0, 1):
                inside = [j for j in range(self.n) if j != g and (self.gpus_of_node and j // self.gpus_of_node == g // self.gpus_of_node) == (level == 0)]
                rate = (self.up if level == 0 else self.nics[g]) * MEGABIT
                for load in (sum(m[g][j] for j in inside), sum(m[j][g] for j in inside)):
                    worst = max(worst, load / rate) if load else worst
        return worst

    def matrix(self, kind, seed, seconds):
        m = [[0.0 if i == j else v for j, v in enumerate(row)] for i, row in enumerate(KINDS[kind](self, random.Random(f"{kind} {seed}")))]
        factor = seconds / self.bound_s(m)
        return [[int(v * factor) for v in row] for row in m]


def uniform(c, _):
    return [[1.0] * c.n for _ in range(c.n)]


def shift(c, _):
    """Everyone sends to the next one only: no flow meets another."""
    return [[float(j == (i + 1) % c.n) for j in range(c.n)] for i in range(c.n)]


def skewed(c, rng):
    """Pairs differ, and so do loads."""
    return [[rng.lognormvariate(0, 1) for _ in range(c.n)] for _ in range(c.n)]


def hot_port(c, rng):
    """One receiver gets as much as all the others together."""
    return [[rng.uniform(0.5, 1.5) * (c.n - 1 if j == c.n // 2 else 1) for j in range(c.n)] for _ in range(c.n)]


def incast(c, _):
    """All to one, and on the way back one to all."""
    return [[float(j == 0) for j in range(c.n)] for _ in range(c.n)]


def balanced(c, rng):
    """Pairs differ much, loads not at all: rows and columns of lognormal(1.5) are scaled in turn until all are equal."""
    m = [[0.0 if i == j else rng.lognormvariate(0, 1.5) for j in range(c.n)] for i in range(c.n)]
    for _ in range(2000):
        for i in range(c.n):
            total = sum(m[i])
            m[i] = [v / total for v in m[i]]
        for j in range(c.n):
            total = math.fsum(m[i][j] for i in range(c.n))
            for i in range(c.n):
                m[i][j] /= total
    return m


def popular(c, rng):
    """Receivers by Zipf's law, exponent 0.8: what experts of different popularity make of a two-tier cluster."""
    weights = [(k + 1) ** -0.8 for k in range(c.n)]
    rng.shuffle(weights)
    return [[w * rng.uniform(0.8, 1.2) for w in weights] for _ in range(c.n)]


KINDS = {"uniform": uniform, "shift": shift, "skewed": skewed, "hot port": hot_port, "incast": incast, "balanced": balanced, "popular": popular}

CALIBRATION = Cluster("4 x 80", [80] * 4)
# cluster, (kind of matrix, seed, orders that are measured)
# MPI_Alltoallv is not one of our orders: the single shot's matrix over transport mpi-alltoallv, under mpirun.
MPI = "MPI_Alltoallv"
FLAT = [("uniform", 1, "single spread-out hybrid"), ("skewed", 1, "single bvn hybrid"), ("hot port", 1, "single matchings list"),
        ("incast", 1, "single"), ("balanced", 1, f"single bvn matchings hybrid auto {MPI}"), ("balanced", 2, f"single auto {MPI}")]
CASES = [
    (Cluster("4 x 100", [100] * 4), FLAT),
    (Cluster("8 x 100", [100] * 8), FLAT),
    (Cluster("16 x 50", [50] * 16), FLAT),
    (Cluster("4 x 100 + 4 x 50", [100] * 4 + [50] * 4),
     [("uniform", 1, "single hybrid"), ("skewed", 1, "single sub-ports hybrid"), ("skewed", 2, "single sub-ports")]),
    (Cluster("4 x 2, 450 up, 50 nic", [50] * 8, 2, 450),
     [("uniform", 1, "single two-level"), ("popular", 1, "single two-level"), ("popular", 2, "single two-level"), ("popular", 3, "single two-level")]),
    (Cluster("2 x 4, 100, uplink 200", [100] * 8, 4, uplink=200),
     [("uniform", 1, "single spread-out"), ("skewed", 1, "single hybrid"), ("popular", 1, "single list")]),
]
QUICK = [(Cluster("3 x 40", [40] * 3), [("skewed", 1, "single bvn")]),
         (Cluster("2 x 2, 80 up, 20 nic", [20] * 4, 2, 80), [("popular", 1, "single two-level")]),
         (Cluster("2 x 2, 40, uplink 40", [40] * 4, 2, uplink=40), [("incast", 1, f"single {MPI}")])]


def few(clusters):
    """A third of them: of each cluster the first matrix of each kind, in the first and the last order, and by MPI."""
    for cluster, matrices in clusters:
        chosen = []
        for kind, seed, orders in matrices:
            ours = [order for order in orders.split() if order != MPI]
            if seed == 1:
                chosen.append((kind, seed, " ".join(dict.fromkeys([ours[0], ours[-1]])) + f" {MPI}" * (MPI in orders)))
        yield cluster, chosen
