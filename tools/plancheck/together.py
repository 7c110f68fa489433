"""Two plans of two models on the same GPUs, by docs/COLOCATION.md parts 1 to 3 and 6. Whole numbers only."""
from steps import build, planning_part
from traffic import NS, Layer, attention_ns, ceil, compute_ns, flows_of, shared_ns

LAYERS = 8
WORDS = ("first", "second")


class Alone:
    """One of the two: its plan, and what it asks of GPUs and ports in the mean planning step."""

    def __init__(self, setup):
        self.setup = setup
        plan = setup.plan
        # Whatever travels when the model is alone, here it is one copy for each (token, expert).
        self.plan = {**plan, "provenance": {**plan["provenance"], "dispatcher": "a2av"}}
        v = plan["provenance"]
        self.steps = build(setup.trace, planning_part(setup.trace, v["split"]), v["batching"])

    def load(self, index):
        """gate, experts [GPU]; dispatch, combine [port]. A layer past the last asks for nothing."""
        s, topology, model = self.setup, self.setup.topology, self.setup.model
        n, ports, k = topology.n, len(topology.resources), len(self.steps)
        gate, experts, moved = [0] * n, [0] * n, ([0] * ports, [0] * ports)
        if index >= self.plan["layers"]:
            return gate, experts, moved[0], moved[1]
        own = type(s)(self.plan, s.slot_gpu, s.trace, topology, model)
        layer = Layer(self.plan, index, s.slot_gpu, topology.node)
        tile = topology.gpus[0]["type"]["tile_tokens"]
        starts, active, padded, copies = [0] * n, [0] * n, [0] * n, {}
        for step in self.steps:
            f = flows_of(own, layer, step)
            for slot, x in enumerate(f.slot_rows):
                active[s.slot_gpu[slot]] += x > 0
                padded[s.slot_gpu[slot]] += ceil(x, tile) * tile
            for g in range(n):
                starts[g] += f.starts[g]
            for pair, x in f.first.items():
                copies[pair] = copies.get(pair, 0) + x
        for g in range(n):
            gate[g] = attention_ns(topology, g, model, ceil(starts[g], k))
            experts[g] = shared_ns(topology, g, model, ceil(starts[g], k)) + compute_ns(topology, g, model, ceil(active[g], k), ceil(padded[g], k))
        for (i, j), x in copies.items():
            for way, (ends, size) in enumerate((((i, j), model.dispatch_bytes), ((j, i), model.combine_bytes))):
                for r in topology.path(*ends)[0]:
                    moved[way][r] += ceil(x * size, k)
        return (gate, experts) + tuple([ceil(x * NS, topology.resources[r]["rate"]) for r, x in enumerate(way)] for way in moved)


def closed_form(a, b, extra):
    def shot(*ways):
        most = max(map(sum, zip(*ways)))
        return most + extra if most else 0

    (g_a, f_a), (g_b, f_b) = ((max(x[0]), max(x[1])) for x in (a, b))
    n_a, n_b, c_a, c_b, nn, cc = shot(a[2]), shot(b[2]), shot(a[3]), shot(b[3]), shot(a[2], b[2]), shot(a[3], b[3])
    e_fa, e_nb = max(g_b, n_a) + f_a, max(nn, g_b + n_b)
    e_fb, e_ca = max(e_fa, e_nb) + f_b, max(nn, e_fa) + c_a
    return max(e_fb, e_ca, nn + cc, e_fb + c_b) + g_a


def timeline(a, b, extra):
    """Each model: gate, dispatch, experts, combine, over and over; a resource serves one phase at a time, in order of release."""
    free = {"gpu": [0] * len(a[0]), "port": [0] * len(a[2])}
    chains = [[work for _ in range(LAYERS) for work in (("gpu", x[0]), ("port", x[2]), ("gpu", x[1]), ("port", x[3]))] for x in (a, b)]
    release = [0, 0]
    while chains[0] or chains[1]:
        m = min((m for m in (0, 1) if chains[m]), key=lambda m: (release[m], m))
        kind, work = chains[m].pop(0)
        ends = [release[m]]
        for r, x in enumerate(work):
            if x:
                free[kind][r] = max(free[kind][r], release[m]) + x
                ends.append(free[kind][r])
        release[m] = max(ends) + (extra if kind == "port" and any(work) else 0)
    return ceil(max(release), LAYERS)


def lists(c, plans, slot_gpus):
    pairs = [sorted((x["layer"], x["gpu"]) + ((x["expert_a"], x["expert_b"]) if m == 0 else (x["expert_b"], x["expert_a"]))
                    for x in p["colocation"]) for m, p in enumerate(plans)]
    if not c.expect(pairs[0] == pairs[1], "colocation", f"the lists of {len(pairs[0])} and {len(pairs[1])} pairs do not mirror each other"):
        return
    listed = [{(layer, gpu, experts[m]) for layer, gpu, *experts in pairs[0]} for m in (0, 1)]
    for l in range(min(p["layers"] for p in plans)):
        held = [{(gpu[s], e) for s, e in enumerate(p["layer_list"][l]["slots"]) if e >= 0} for p, gpu in zip(plans, slot_gpus)]
        shared = {g for g, _ in held[0]} & {g for g, _ in held[1]}
        for m in (0, 1):
            for g, e in sorted(held[m]):
                c.expect((g not in shared) or (l, g, e) in listed[m], "colocation", f"entry {l}: expert {e} of the {WORDS[m]} model shares GPU {g} unpaired")
        for layer, g, *experts in (x for x in pairs[0] if x[0] == l):
            c.expect((g, experts[1]) in held[1], "colocation", f"entry {l}: expert {experts[1]} of the second model is not on GPU {g}")


def check(c, plans, slot_gpus, setups, topology):
    """setups: of both, or None for the structure alone."""
    a, b = plans
    same = c.expect(a["gpus"] == b["gpus"], "shape", f"{a['gpus']} GPUs in the first plan, {b['gpus']} in the second")
    for m, (p, other) in enumerate(((a, b), (b, a))):
        t = p["together"]
        if not c.expect(t is not None, "colocation", f"the {WORDS[m]} plan is not one of two"):
            return
        c.expect(t["role"] == WORDS[m], "colocation", f"the plan given {WORDS[m]} is the {t['role']} one")
        for what in ("trace", "model"):
            c.expect(t[f"other_{what}_sha256"] == other["provenance"][f"{what}_sha256"], "provenance", f"the {WORDS[m]} plan's partner has another {what}")
    c.expect(a["provenance"]["topology_sha256"] == b["provenance"]["topology_sha256"], "provenance", "the two plans are for different topologies")
    for key in ("timeline_ns", "closed_form_ns"):
        c.expect(a["together"][key] == b["together"][key], "prediction", f"{key} differs: {a['together'][key]} and {b['together'][key]}")
    if same:
        lists(c, plans, slot_gpus)
    if setups is None or not same:
        return
    for g in range(topology.n):
        need = sum((s.model.expert_bytes * s.plan["gpu_slots"][g] + s.model.shared_bytes) * max(s.plan["layers"], len(s.model.layer_ids)) +
                   s.model.dense_bytes for s in setups)
        has = topology.gpus[g]["type"]["memory"]
        c.expect(need <= has, "capacity", f"GPU {g}: the weights of both models are {need} bytes, and it has {has}")
    if c.violations:
        return
    extra = max(v["latency"] for v in topology.levels) + topology.launch
    own = {"timeline_ns": 0, "closed_form_ns": 0}
    both = [Alone(s) for s in setups]
    for l in range(max(a["layers"], b["layers"])):
        x, y = both[0].load(l), both[1].load(l)
        own["timeline_ns"] += timeline(x, y, extra)
        own["closed_form_ns"] += closed_form(x, y, extra)
    for key, value in own.items():
        c.expect(a["together"][key] == value, "prediction", f"{key} is {a['together'][key]}, and the loads give {value}")
