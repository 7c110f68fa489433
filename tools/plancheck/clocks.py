"""A step with a clock per GPU (docs/COST.md part 6): every GPU waits only for its own transfers."""
from fractions import Fraction
from math import ceil

from fluid import Flow, order_of, ordered, pieces, rates, spend, staged
from nodes import turned
from traffic import DISPATCHERS, attention_ns, compute_ns, shared_ns


def together(topology, copies, size, clock):
    """All flows, each from when both its ends have come; the clocks go on to where their GPU's last one ended."""
    waiting = [Flow(topology, i, j, x * size, 0, 0) for (i, j), x in copies.items() if x * size]
    gone, active = {}, []
    for f in waiting:
        f.at = max(clock[f.src], clock[f.dst])
    now = Fraction(min((f.at for f in waiting), default=0))
    while waiting or active:
        spend(topology, len(active) * (1 + now.denominator.bit_length() // 64))
        active += [f for f in waiting if f.at <= now]
        waiting = [f for f in waiting if f.at > now]
        rate = rates(topology, active) if active else {}
        then = min([now + f.left / rate[f] for f in active] + [f.at for f in waiting])
        for f in active:
            f.left -= rate[f] * (then - now)
            if f.left == 0:
                for g in (f.src, f.dst):
                    gone[g] = max(gone.get(g, 0), then + f.latency)
        active = [f for f in active if f.left]
        now = then
    for g, at in gone.items():
        clock[g] = max(clock[g], ceil(at))


def in_order(topology, plan, order, copies, size, is_combine, way, clock):
    """The first phase under its order, in one shot without one."""
    if order is None:
        together(topology, turned(copies) if is_combine else copies, size, clock)
        return
    if order["between"] == "nodes" or plan["stages"] == "barrier":
        took = ordered(topology, plan, order, copies, size, is_combine, way)
        clock[:] = [max(clock) + took] * len(clock)
        return
    gone = {}
    flows = [Flow(topology, a, b, piece, s, cap) for s, a, b, piece, cap in pieces(order, copies, size, is_combine, way)]
    staged(topology, flows, plan["stages"], clock, gone)
    for g, at in gone.items():
        clock[g] = max(clock[g], ceil(at))


def direction(setup, index, f, is_combine, clock):
    plan, topology, model = setup.plan, setup.topology, setup.model
    if topology.n < 2:
        return
    size = model.combine_bytes if is_combine else model.dispatch_bytes
    copies, launches, is_overlapped = DISPATCHERS[plan["provenance"]["dispatcher"]]
    way = plan["layer_list"][index]["combine"] if is_combine else "forward"
    order = order_of(plan, topology, index, f.first, size, is_combine)
    clock[:] = [at + (launches - (order is not None)) * topology.launch for at in clock]

    def first(clock):
        in_order(topology, plan, order, f.first, size, is_combine, way, clock)

    def second(clock):
        if copies == "node":
            together(topology, turned(f.second) if is_combine else f.second, size, clock)

    if is_overlapped:
        other = list(clock)
        first(clock)
        second(other)
        clock[:] = [max(a, b) for a, b in zip(clock, other)]
    elif is_combine:
        second(clock)
        first(clock)
    else:
        first(clock)
        second(clock)


def step_ns(setup, s):
    topology, model = setup.topology, setup.model
    gpus, at = range(topology.n), [0] * topology.n
    for l, f, times, *_ in s.flows:
        at = [at[g] + attention_ns(topology, g, model, f.starts[g]) * times for g in gpus]
        shared = [at[g] + shared_ns(topology, g, model, f.starts[g]) for g in gpus]
        direction(setup, l, f, False, at)
        at = [max(at[g], shared[g]) + compute_ns(topology, g, model, f.active[g], f.padded[g]) for g in gpus]
        direction(setup, l, f, True, at)
    return max(at) + model.other
