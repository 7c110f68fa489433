"""The network of docs/COST.md parts 4 and 5 in exact fractions: progressive filling at every event, nothing kept between events."""
from fractions import Fraction
from math import ceil

from nodes import falls_back, relay_bound, shots, turned
from traffic import DISPATCHERS


class TooLong(Exception):
    """Past the operations that a simulation may take."""


def spend(topology, n):
    topology.operations += n
    if topology.operations > topology.operations_max:
        raise TooLong


class Flow:
    __slots__ = ("src", "dst", "stage", "left", "ids", "latency", "cap", "state", "at")

    def __init__(self, topology, src, dst, size, stage, cap):
        self.src, self.dst, self.stage, self.left = src, dst, stage, Fraction(size)
        self.ids, self.latency, pair = topology.path(src, dst)
        caps = [x for x in (pair, cap) if x]
        self.cap = Fraction(min(caps), 10**9) if caps else None
        self.state, self.at = "waiting", None


def rates(topology, flows):
    """Max-min fair rates in bytes per ns."""
    users, room, out = {}, {}, {}
    for f in flows:
        for r in f.ids:
            users.setdefault(r, set()).add(f)
    for r, fs in users.items():
        port = topology.resources[r]
        room[r] = Fraction(port["rate"], 10**9)
        curve = topology.levels[port["level"]]["incast"]
        if port["is_in"] and not port["is_uplink"] and curve:
            room[r] *= Fraction(curve[min(len(fs), len(curve)) - 1], 10**6)
    loose = set(flows)
    spend(topology, sum(len(f.ids) for f in flows) + len(room))
    while loose:
        spend(topology, len(room) + len(loose))
        level = min(room[r] / len(fs) for r, fs in users.items() if fs)
        caps = [f.cap for f in loose if f.cap is not None]
        if caps:
            level = min(level, min(caps))
        stopped = {f for f in loose if f.cap == level}
        for r, fs in users.items():
            if fs and room[r] == level * len(fs):
                stopped |= fs
        for f in stopped:
            out[f] = level
            for r in f.ids:
                room[r] -= level
                users[r].discard(f)
        loose -= stopped
    return out


def concurrent(topology, copies, size):
    flows = [Flow(topology, i, j, x * size, 0, 0) for (i, j), x in copies.items() if x * size]
    now, end = Fraction(0), 0
    while flows:
        rate = rates(topology, flows)
        now_next = min(now + f.left / rate[f] for f in flows)
        rest = []
        for f in flows:
            f.left -= rate[f] * (now_next - now)
            if f.left == 0:
                end = max(end, ceil(now_next) + f.latency)
            else:
                rest.append(f)
        now, flows = now_next, rest
    return end


def pieces(order, copies, size, is_combine, way):
    """`way`: forward for a dispatch. The flows of an order on a dispatch matrix of copies: (stage as it runs, src, dst, bytes, cap)."""
    sent, out, n = {}, [], len(order["stages"])
    for s, stage in enumerate(order["stages"]):
        for src, dst, share, width in stage:
            x = copies.get((dst, src) if is_combine and way == "forward" else (src, dst), 0) * size
            before = sent.get((src, dst), 0)
            sent[src, dst] = before + share
            piece = x * (before + share) // order["unit"] - x * before // order["unit"]
            if piece:
                a, b = (src, dst) if way == "forward" else (dst, src)
                cap = 0 if s in order["flushes"] else width * order["port_bytes_per_s"]
                out.append((n - 1 - s if way == "reversed" else s, a, b, piece, cap))
    return out


def order_of(plan, topology, index, copies, size, is_combine):
    """The order that one direction of a layer goes by, None for one shot. `copies`: of the dispatch."""
    layer = plan["layer_list"][index]
    if layer["order"] is None:
        return None
    order = plan["orders"][layer["order"]]
    if not plan["pacing"]:
        order = dict(order, port_bytes_per_s=0)
    way = layer["combine"] if is_combine else "forward"
    matrix = {(i, j): x * size for (i, j), x in (turned(copies) if is_combine else copies).items() if x * size}
    flows = pieces(order, copies, size, is_combine, way) if order["between"] == "gpus" else None
    return None if falls_back(topology, order, plan["fallback_ppm"], matrix, flows, way) else order


def ordered(topology, plan, order, copies, size, is_combine, way):
    """Time of the first phase under an order."""
    if order["between"] == "gpus":
        flows = pieces(order, copies, size, is_combine, way)
        return staged(topology, [Flow(topology, a, b, piece, s, cap) for s, a, b, piece, cap in flows], plan["stages"])
    matrix = {(i, j): x * size for (i, j), x in (turned(copies) if is_combine else copies).items() if x * size}
    times = [topology.stage_launch + concurrent(topology, m, 1) for m in shots(topology, order, matrix, way)]
    return max(min(sum(times), 2**52), relay_bound(topology, matrix, 1))


def staged(topology, flows, mode, come=None, gone=None):
    """Time of the stages. come: when each GPU's queues may begin; gone gets when each GPU's last flow ended."""
    def queues(f):
        return {"free": (("out", f.src), ("in", f.dst)), "coupled": (f.src, f.dst), "barrier": ("all",)}[mode]

    groups = {}
    for f in flows:
        for q in set(queues(f)):
            groups.setdefault(q, {}).setdefault(f.stage, set()).add(f)
    line = {q: sorted(stages, reverse=True) for q, stages in groups.items()}
    since = {q: Fraction(come[q[1] if mode == "free" else q] if come else 0) for q in groups}
    now, end, active, reached = Fraction(0), Fraction(0), set(), list(groups)
    while active or reached:
        spend(topology, len(active) * (1 + now.denominator.bit_length() // 64))  # long fractions take longer
        for q in reached:
            for f in groups[q][line[q][-1]]:
                if f.state == "waiting" and all(line[k] and line[k][-1] == f.stage for k in queues(f)):
                    f.state, f.at = "launching", max(since[k] for k in queues(f)) + topology.stage_launch
                    active.add(f)
        reached = []
        for f in active:
            if f.state == "launching" and f.at <= now:
                f.state = "flowing"
        flowing = [f for f in active if f.state == "flowing"]
        rate = rates(topology, flowing) if flowing else {}
        then = min([now + f.left / rate[f] for f in flowing] + [f.at for f in active if f.state != "flowing"])
        for f in flowing:
            f.left -= rate[f] * (then - now)
            if f.left == 0:
                f.state, f.at = "landing", then + f.latency
        now = then
        for f in [f for f in active if f.state == "landing" and f.at <= now]:
            active.discard(f)
            end = max(end, f.at)
            if gone is not None:
                gone.update((g, max(gone.get(g, 0), f.at)) for g in (f.src, f.dst))
            for q in set(queues(f)):
                members = groups[q][f.stage]
                members.discard(f)
                if not members:
                    line[q].pop()
                    since[q] = now
                    if line[q]:
                        reached.append(q)
    return ceil(end)


def first_phase(plan, topology, index, copies, size, is_combine):
    """ns of the first phase of one direction, and how many collective launches its stages stand for."""
    order = order_of(plan, topology, index, copies, size, is_combine)
    if order is None:
        return concurrent(topology, turned(copies) if is_combine else copies, size), 0
    way = plan["layer_list"][index]["combine"] if is_combine else "forward"
    return ordered(topology, plan, order, copies, size, is_combine, way), 1


def direction(setup, index, f, is_combine):
    """ns of one direction of one layer, launches included."""
    plan, topology, model = setup.plan, setup.topology, setup.model
    if topology.n < 2:
        return 0
    size = model.combine_bytes if is_combine else model.dispatch_bytes
    copies, launches, is_overlapped = DISPATCHERS[plan["provenance"]["dispatcher"]]
    first, staged_launches = first_phase(plan, topology, index, f.first, size, is_combine)
    launches -= staged_launches
    second = concurrent(topology, turned(f.second) if is_combine else f.second, size) if copies == "node" else 0
    return (max(first, second) if is_overlapped else first + second) + launches * topology.launch
