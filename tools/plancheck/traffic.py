"""Replica choice, copies, rows, computation and bounds of one step and layer, by docs/COST.md parts 2, 3, docs/BOUNDS.md and
include/moeplan/plan.h. Whole numbers only."""
from math import gcd

from steps import counts_by_rank, mix

# copies, launches, overlapped
DISPATCHERS = {"a2av": ("expert", 1, False), "deepep-normal": ("node", 1, True), "deepep-ll": ("expert", 1, False),
               "hierarchical": ("node", 2, False), "agrs": ("all", 1, False), "hsc": ("node", 2, False)}
NS = 10**9


def ceil(a, b):
    return -(-a // b)


class Layer:
    """Replica choice in one layer of the plan."""

    def __init__(self, plan, index, slot_gpu, node):
        self.index, self.rule, self.slot_gpu, self.node = index, plan["route"], slot_gpu, node
        entry = plan["layer_list"][index]
        self.replicas = {}
        for s, e in enumerate(entry["slots"]):
            if e >= 0:
                self.replicas.setdefault(e, []).append(s)
        self.weight, self.by_source, self.by = entry["weights"], entry["by_source"], plan["by"]
        self._nearest = {}

    def _closest(self, slots, source):
        near = [s for s in slots if self.slot_gpu[s] == source]
        near = near or [s for s in slots if self.node[self.slot_gpu[s]] == self.node[source]]
        return near or slots

    def _nearest_of(self, e):
        if e not in self._nearest:
            seen, table = {}, []
            for source in range(len(self.node)):
                near = self._closest(self.replicas[e], source)
                number = seen.get(tuple(near), 0)
                seen[tuple(near)] = number + 1
                table.append(near[(number + e) % len(near)])
            self._nearest[e] = table
        return self._nearest[e]

    def _weighted(self, e, source):
        """[(slot, weight)] of those with a weight above 0."""
        if self.rule == "sourced":
            weights = self.by_source[e][source if self.by == "gpu" else self.node[source]]
            return [(s, w) for s, w in zip(self.replicas[e], weights) if w > 0]
        slots = [s for s in self.replicas[e] if self.weight[s] > 0]
        return [(s, self.weight[s]) for s in (self._closest(slots, source) if self.rule == "tiered" else slots)]

    def choose(self, e, source, row):
        slots = self.replicas[e]
        if len(slots) == 1:
            return slots[0]
        if self.rule == "nearest":
            return self._nearest_of(e)[source]
        h = mix(mix(row) ^ (self.index << 32 | e))
        if self.rule == "even":
            return slots[h % len(slots)]
        weighted = self._weighted(e, source)
        left = h % sum(w for _, w in weighted)
        for s, w in weighted:
            if left < w:
                return s
            left -= w
        raise AssertionError

    def split(self, e, source, count):
        """{slot: tokens} of a count."""
        slots = self.replicas[e]
        r = len(slots)
        if r == 1:
            return {slots[0]: count}
        if self.rule == "nearest":
            return {self._nearest_of(e)[source]: count}
        if self.rule == "even":
            share = {s: count // r for s in slots}
            for j in range(count % r):
                share[slots[(source + j) % r]] += 1
            return share
        weighted = self._weighted(e, source)
        total = sum(w for _, w in weighted)
        share = {s: count * w // total for s, w in weighted}
        rest = count - sum(share.values())
        for s, _ in weighted[:rest]:
            share[s] += 1
        return share


class Flows:
    """first, second: {(i, j): copies}; rows, padded, active, starts: per GPU (starts with padding tokens)."""


def flows_of(setup, layer, step):
    """What one step sends and computes in one layer."""
    plan, topology, trace = setup.plan, setup.topology, setup.trace
    n, node = topology.n, topology.node
    copies = DISPATCHERS[plan["provenance"]["dispatcher"]][0]
    is_coupled = plan["provenance"]["sources"] == "coupled"
    f = Flows()
    f.first, f.second, f.starts = {}, {}, [0] * n
    slot_rows = [0] * plan["slots"]

    def add(d, i, j, x=1):
        d[i, j] = d.get((i, j), 0) + x

    if trace.kind == "tokens":
        for row, source in step.rows:
            if is_coupled:
                source = setup.slot_gpu[layer.choose(row % plan["experts"], source, row)]
            f.starts[source] += 1
            gpus = []
            for e in trace.row(layer.index, row):
                slot = layer.choose(e, source, row)
                slot_rows[slot] += 1
                gpus.append(setup.slot_gpu[slot])
            if copies == "all":
                for g in range(n):
                    if g != source:
                        add(f.first, source, g)
            elif copies == "expert":
                for g in gpus:
                    if g != source:
                        add(f.first, source, g)
            else:
                others = {}
                for g in set(gpus) - {source}:
                    if node[g] == node[source]:
                        add(f.first, source, g)
                    else:
                        others.setdefault(node[g], []).append(g)
                for v, there in others.items():
                    inside = setup.nodes[v]
                    gateway = inside[setup.nodes[node[source]].index(source) % len(inside)]
                    add(f.first, source, gateway)
                    for g in there:
                        if g != gateway:
                            add(f.second, gateway, g)
        for r, x in enumerate(step.padding):
            f.starts[r] += x
        f.pairs = None
    else:
        f.pairs = counts_by_rank(trace, step.iteration, layer.index, plan["provenance"]["batching"]["ranks"])
        for source, of_expert in enumerate(f.pairs):
            for e, count in enumerate(of_expert):
                if not count:
                    continue
                for slot, x in layer.split(e, source, count).items():
                    slot_rows[slot] += x
                    if x and setup.slot_gpu[slot] != source and copies == "expert":
                        add(f.first, source, setup.slot_gpu[slot], x)
            f.starts[source] += ceil(sum(of_expert), setup.model.top_k or 1)
            if copies == "all" and f.starts[source]:
                for g in range(n):
                    if g != source:
                        add(f.first, source, g, f.starts[source])
    f.rows, f.padded, f.active, f.slot_rows = [0] * n, [0] * n, [0] * n, slot_rows
    for s, x in enumerate(slot_rows):
        if x:
            g = setup.slot_gpu[s]
            tile = topology.gpus[g]["type"]["tile_tokens"]
            f.rows[g] += x
            f.padded[g] += ceil(x, tile) * tile
            f.active[g] += 1
    return f


def pairs_by_rank(setup, layer, step, f):
    """c[rank][expert] of docs/BOUNDS.md."""
    if f.pairs is not None:
        return f.pairs
    c = [[0] * setup.plan["experts"] for _ in range(setup.plan["provenance"]["batching"]["ranks"])]
    for row, source in step.rows:
        for e in setup.trace.row(layer.index, row):
            c[source][e] += 1
    return c


def port_bound(topology, copies, size):
    through, bound = [0] * len(topology.resources), 0
    for (i, j), x in copies.items():
        ids, _, cap = topology.path(i, j)
        for r in ids:
            through[r] += x * size
        if cap:
            bound = max(bound, ceil(x * size * NS, cap))
    for r, x in enumerate(through):
        bound = max(bound, ceil(x * NS, topology.resources[r]["rate"]))
    return bound


# ---- computation ----

def _ps(units, peak, efficiency):
    return ceil(units * 10**18, peak * efficiency)


def _flops(gpu_type, model):
    return gpu_type["flops_8bit"] if model.is_8bit and gpu_type["flops_8bit"] else gpu_type["flops_16bit"]


def coefficients(topology, g, model):
    """a, b, c, beta in ps."""
    t = topology.gpus[g]["type"]
    for own in t["compute"]:
        if own["model"] == model.name:
            return tuple(int(own[k]["value"] if isinstance(own[k], dict) else own[k]) for k in ("a_ps", "b_ps", "c_ps", "beta_ps"))
    kernel = 1000 * t["kernel"]
    return (kernel, _ps(model.expert_bytes, t["hbm"], t["hbm_efficiency"]), kernel,
            _ps(model.expert_flops, _flops(t, model), t["flops_efficiency"]))


def compute_ns(topology, g, model, active, rows):
    if active == 0:
        return 0
    a, b, c, beta = coefficients(topology, g, model)
    return ceil(max(a + b * active, c + beta * rows) * 1000, topology.gpus[g]["speed"])


def _dense_ns(topology, g, model, rows, size, flops):
    t = topology.gpus[g]["type"]
    if rows == 0 or (size == 0 and flops == 0):
        return 0
    work = max(_ps(size, t["hbm"], t["hbm_efficiency"]), rows * _ps(flops, _flops(t, model), t["flops_efficiency"]))
    return ceil((1000 * t["kernel"] + work) * 1000, topology.gpus[g]["speed"])


def attention_ns(topology, g, model, rows):
    return _dense_ns(topology, g, model, rows, model.attention_bytes, model.attention_flops)


def shared_ns(topology, g, model, rows):
    return _dense_ns(topology, g, model, rows, model.shared_bytes, model.shared_flops) if model.shared_experts else 0


# ---- bounds ----

def _top(k, x):
    return sum(sorted(x, reverse=True)[:k])


def compute_bound(setup, c, any_slots=False):
    plan, topology = setup.plan, setup.topology
    n, S, E = topology.n, plan["slots"], plan["experts"]
    if S < E:
        return 0
    load = [sum(row[e] for row in c) for e in range(E)]
    tiles = [topology.gpus[g]["type"]["tile_tokens"] for g in range(n)]
    t = 0
    for x in tiles:
        t = gcd(t, x)
    m = sorted((ceil(x, t) * t for x in load), reverse=True)
    M, A = sum(m), sum(x > 0 for x in load)
    if A == 0:
        return 0
    k = [coefficients(topology, g, setup.model) for g in range(n)]

    def is_possible(T, any_slots):
        rows, experts = [], 0
        slots = [max(x, E) if any_slots else x for x in plan["gpu_slots"]]
        for g in range(n):
            a, b, fixed, beta = k[g]
            P = T * topology.gpus[g]["speed"] // 1000
            most = room = 0
            if P >= a and P >= fixed:
                most = min(slots[g], (P - a) // b) if b else slots[g]
                room = (P - fixed) // beta // tiles[g] * tiles[g] if beta else M
            if most and room:
                experts += most
                rows.append(min(room, M))
            else:
                rows.append(0)
        if sum(rows) < M or experts < A:
            return False
        if any_slots:
            return True
        rows.sort(reverse=True)
        need, room = 0, sum(rows[:S - E])
        for q in range(1, E + 1):
            if S - E + q >= n:
                break
            need += m[q - 1]
            room += rows[S - E + q - 1]
            if room < need:
                return False
        return True

    low, high = 0, 2**52
    if not is_possible(high, False):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        if is_possible(middle, any_slots):
            high = middle
        else:
            low = middle
    return high


def _rate(topology, gpus, side, lowest):
    ids = {topology.gpus[g][side][level] for g in gpus for level in range(lowest, len(topology.levels))}
    return sum(topology.resources[r]["rate"] for r in ids)


def transfer_bound(setup, c, starts, is_combine):
    plan, topology, model = setup.plan, setup.topology, setup.model
    n = topology.n
    if n < 2 or plan["provenance"]["sources"] == "coupled":
        return 0
    size = model.combine_bytes if is_combine else model.dispatch_bytes
    copies = DISPATCHERS[plan["provenance"]["dispatcher"]][0]
    source_side, host_side = ("in", "out") if is_combine else ("out", "in")
    largest = 0

    def term(x, rate):
        nonlocal largest
        if x > 0 and size and rate:
            largest = max(largest, ceil(x * size * NS, rate))

    source = [_rate(topology, [g], source_side, 0) for g in range(n)]
    host = [_rate(topology, [g], host_side, 0) for g in range(n)]
    if copies == "all":
        for i in range(n):
            term(starts[i] * (n - 1), source[i])
            term(sum(starts) - starts[i], host[i])
    else:
        S_v = [sum(plan["gpu_slots"][g] for g in inside) for inside in setup.nodes]
        k = max(1, setup.trace.top_k) if setup.trace.kind == "tokens" else 1
        K = max([1] + [min(k, s) for s in S_v]) if copies == "node" else 1
        for i in range(len(c)):
            term(ceil(sum(c[i]) - _top(plan["gpu_slots"][i], c[i]), K), source[i])
        for v, inside in enumerate(setup.nodes):
            c_v = [sum(c[r][e] for r in inside if r < len(c)) for e in range(plan["experts"])]
            if len(topology.levels) > 1:
                rate = _rate(topology, inside, source_side, 1)
                if topology.levels[0]["uplinks"]:
                    rate = min(rate, topology.resources[topology.levels[0]["uplinks"][v][source_side == "in"]]["rate"])
                term(ceil(sum(c_v) - _top(S_v[v], c_v), K), rate)
        W = plan["slots"] - plan["experts"] + 1
        if copies != "node" and W < n:
            load = [sum(row[e] for row in c) for e in range(plan["experts"])]
            hot = load.index(max(load))
            term(load[hot] - _top(W, [row[hot] for row in c]), _top(W, host))
    if largest == 0:
        return 0
    return largest + launch_floor(plan, topology)


def launch_floor(plan, topology):
    """Latency and launch that any copy pays at least; a matrix has one launch."""
    is_matrix = plan["provenance"]["matrix"] is not None
    launches = 1 if is_matrix else DISPATCHERS[plan["provenance"]["dispatcher"]][1]
    return min(v["latency"] for v in topology.levels) + min(launches * topology.launch, topology.stage_launch)
