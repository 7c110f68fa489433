"""Every check of docs/VERIFY.md. A violation is (kind, message); kinds are the words of mp_violation_name."""
import re

import clocks
from fluid import TooLong, direction, first_phase
from nodes import relay_bound, turned
import together
from steps import StepError, build, planning_part
from traffic import (DISPATCHERS, Layer, attention_ns, compute_bound, compute_ns, flows_of, launch_floor, pairs_by_rank, port_bound, shared_ns,
                     transfer_bound)

ORDER_SCOPES = {"dispatch, all layers, planning steps": "dispatch", "combine, all layers, planning steps": "combine"}
MOST_FLOWS = 120
# About a microsecond each, or a few where an order's stages run free: then fractions grow.
SAMPLE_OPERATIONS, ALL_OPERATIONS = 2 * 10**6, 2 * 10**6
MATRIX_SCOPE = "one dispatch of the matrix"
PLACEMENT_SCOPE = "step, every static plan with these slots, planning steps"
RESIDUAL_SCOPE = "step, a plan for each step with any slots, planning steps"
SINGLE_SCOPE = "step, single shots, every placement of one copy per expert in these slots, planning steps"
REPLICA_SCOPE = "step, single shots, every placement of these replicas in these slots, planning steps"


class Check:
    def __init__(self, plan):
        self.plan = plan
        self.violations = []
        self.n = 0

    def expect(self, holds, kind, message):
        self.n += 1
        if not holds and len(self.violations) < 1000:
            self.violations.append((kind, message))
        return holds


def structure(c):
    p = c.plan
    ok = c.expect(p["nodes"] <= p["gpus"], "shape", f"{p['gpus']} GPUs on {p['nodes']} nodes")
    ok &= c.expect(len(p["gpu_slots"]) == p["gpus"], "shape", f"gpu_slots has {len(p['gpu_slots'])} entries for {p['gpus']} GPUs")
    ok &= c.expect(len(p["gpu_nodes"]) == p["gpus"], "shape", f"gpu_nodes has {len(p['gpu_nodes'])} entries for {p['gpus']} GPUs")
    if not ok:
        return False
    for g, v in enumerate(p["gpu_nodes"]):
        ok &= c.expect(0 <= v < p["nodes"], "shape", f"GPU {g} is on node {v} of {p['nodes']}")
    ok &= c.expect(min(p["gpu_slots"]) >= 0 and sum(p["gpu_slots"]) == p["slots"], "slots",
                   f"the GPUs have {sum(p['gpu_slots'])} slots in all, and the plan says {p['slots']}")
    ok &= c.expect(len(p["layer_list"]) == p["layers"], "layer-missing",
                   f"{len(p['layer_list'])} layers are listed, and the plan says {p['layers']}")
    if not ok:
        return False
    gpu = c.slot_gpu = [g for g, n in enumerate(p["gpu_slots"]) for _ in range(n)]
    before = -1
    for layer in p["layer_list"]:
        name = f"layer {layer['layer']}"
        c.expect(layer["layer"] > before, "layer-id", f"{name} follows layer {before} (ids must rise)")
        before = layer["layer"]
        ok &= c.expect(layer["order"] is None or layer["order"] < len(p["orders"]), "shape",
                       f"{name}: order {layer['order']}, and there are {len(p['orders'])}")
        c.expect(layer["combine"] == "forward" or layer["order"] is not None, "shape", f"{name}: combine {layer['combine']} without an order")
        if not c.expect(len(layer["slots"]) == p["slots"], "slots", f"{name}: {len(layer['slots'])} slots, and the plan has {p['slots']}"):
            ok = False
            continue
        needs = p["route"] in ("weighted", "tiered")
        weights = layer["weights"]
        good = c.expect(needs == (weights is not None), "route-weights",
                        f"{name}: route rule {p['route']} {'needs' if needs else 'has no use for'} weights")
        if weights is not None:
            good &= c.expect(len(weights) == p["slots"] and all(0 <= w < 2**32 for w in weights), "route-weights",
                             f"{name}: the weights are not {p['slots']} numbers in [0, 2^32)")
        known = layer.get("expert_rows")
        if known is not None:
            good &= c.expect(len(known) == p["experts"] and min(known) >= 0 and sum(known) < 2**64, "shape",
                             f"{name}: expert_rows are not {p['experts']} numbers with a sum below 2^64")
        is_sourced = p["route"] == "sourced"
        good &= c.expect(is_sourced == (layer["by_source"] is not None), "route-weights",
                         f"{name}: route rule {p['route']} {'needs' if is_sourced else 'has no use for'} weights by source")
        if is_sourced and good:
            of, wanted = list(layer["by_source"]), sorted(e for e in {*layer["slots"]} if e >= 0 and layer["slots"].count(e) > 1)
            good &= c.expect(of == wanted, "route-weights",
                             f"{name}: weights by source of the experts {of[:20]}, and those with two slots are {wanted[:20]}")
        for e, rows in (layer["by_source"] or {}).items():
            for k, row in enumerate(rows):
                c.expect(any(row), "route-weights", f"{name}: the weights of expert {e} for class {k} of sources are all 0")
        ok &= good
        seen = {}
        for s, e in enumerate(layer["slots"]):
            if e == -1:
                continue
            if not c.expect(0 <= e < p["experts"], "expert-range", f"{name} slot {s} (GPU {gpu[s]}): expert {e}, and there are {p['experts']}"):
                ok = False
                continue
            others = seen.setdefault(e, [])
            if others and not p["allow_same_gpu_replicas"]:
                c.expect(gpu[others[-1]] != gpu[s], "replica-same-gpu",
                         f"{name}: expert {e} is in slot {others[-1]} and slot {s} of GPU {gpu[s]}")
            others.append(s)
        for e in range(p["experts"]):
            if c.expect(e in seen, "expert-missing", f"{name}: expert {e} has 0 slots of {p['slots']}") and good and weights is not None:
                c.expect(any(weights[s] for s in seen[e]), "route-weights", f"{name}: the weights of expert {e} are all 0")
    return ok


def training(c):
    p, t = c.plan, c.plan["training"]
    c.expect(t["gradient_bits"] > 0, "training", "gradients of 0 bits")
    c.expect(t["policy"] != "", "training", "the policy has no name")
    c.expect(not t["share_network"] or t["allreduce_waits"] == "none", "training", "allreduces wait although they travel beside all-to-alls")
    for i, (_, first, last, n) in enumerate(t["buckets"]):
        c.expect(first <= last < p["layers"] and n > 0, "training", f"bucket {i}: layers {first} to {last} of {p['layers']}, {n} bytes")
    for kind in ("common", "experts"):
        seen = [l for k, first, last, _ in t["buckets"] if k == kind for l in range(first, last + 1)]
        c.expect(len(seen) == len(set(seen)), "training", f"a layer's gradients, {kind}, are in two buckets")
    for layer in p["layer_list"] if t["experts_per_gpu"] else []:
        for g in range(p["gpus"]):
            n = sum(1 for s, e in enumerate(layer["slots"]) if e != -1 and c.slot_gpu[s] == g)
            c.expect(n == t["experts_per_gpu"], "training",
                     f"layer {layer['layer']}: GPU {g} has {n} experts, and packing puts {t['experts_per_gpu']} on each")


def training_bytes(c, model):
    """Every layer's gradients are in a bucket, and the buckets say what the model's weights make."""
    p, t = c.plan, c.plan["training"]

    def at_bits(weight_bytes, own_bits_x100=model.weight_bits_x100):
        return -(-weight_bytes * t["gradient_bits"] * 100 // own_bits_x100)

    own = {"common": [], "experts": []}
    for l, layer in enumerate(p["layer_list"]):
        weights = model.attention_bytes
        if l == 0:
            weights += max(0, model.dense_bytes - model.attention_bytes * len(model.layer_ids))
        own["common"].append(at_bits(weights, model.dense_bits_x100) + at_bits(model.shared_bytes) if p["gpus"] > 1 else 0)
        gpus = {}
        for s, e in enumerate(layer["slots"]):
            gpus.setdefault(e, set()).add(c.slot_gpu[s])
        own["experts"].append(at_bits(model.expert_bytes) * sum(len(g) > 1 for e, g in gpus.items() if e != -1))
    for kind, first, last, n in t["buckets"]:
        has = sum(own[kind][first:last + 1])
        c.expect(n == has, "training", f"a bucket, {kind}, layers {first} to {last}, says {n} bytes, and they have {has}")
    for kind, layers in own.items():
        for l, n in enumerate(layers):
            c.expect(n == 0 or any(k == kind and first <= l <= last for k, first, last, _ in t["buckets"]), "training",
                     f"gradients of layer {l}, {kind}, are in no bucket")


def sections(c):
    p = c.plan
    for i, x in enumerate(p["colocation"]):
        if not c.expect(x["layer"] < p["layers"] and x["expert_a"] < p["experts"] and x["expert_b"] < 4096 and x["gpu"] < p["gpus"],
                        "colocation", f"entry {i}: {x} is out of range"):
            continue
        layer = p["layer_list"][x["layer"]]
        c.expect(any(e == x["expert_a"] and c.slot_gpu[s] == x["gpu"] for s, e in enumerate(layer["slots"])), "colocation",
                 f"entry {i}: expert {x['expert_a']} has no slot on GPU {x['gpu']} in layer {layer['layer']}")
    if p["training"] is not None:
        training(c)
    v = p["provenance"]
    c.expect(v["reproducible"] != (v["stopped_by"] == "wall_clock"), "provenance",
             f"stopped_by is {v['stopped_by']}, and yet reproducible is {v['reproducible']}")
    options = re.findall(r"([a-z0-9_-]+\.[a-z0-9_-]+)=(0|-?[1-9][0-9]*)(?:,|\Z)", v["options"])
    c.expect(v["options"] == ",".join(f"{name}={value}" for name, value in options) and [x for x, _ in options] == sorted({x for x, _ in options}),
             "provenance", f"options: \"{v['options'][:200]}\" is not strategy.option=number by rising names")
    if v["planned"] or v["matrix"] is not None:
        for key in ("strategy", "replicate", "place", "route", "order"):
            c.expect(v[key] != "", "provenance", f"{key} is not named")
        # Strategies that choose among rules have names of their own.
        c.expect(v["route"] == p["route"] or v["route"] not in ("even", "nearest", "weighted", "tiered", "sourced"), "provenance",
                 f"planned with route \"{v['route']}\", and the rule is {p['route']}")
        for i, x in enumerate(p["certificates"]):
            c.expect(x["bound_ns"] <= x["value_ns"], "certificate", f"certificate {i}: bound {x['bound_ns']} above value {x['value_ns']}")
            c.expect(x["proof"] != "closed-form" or x["nodes"] == 0, "certificate", f"certificate {i}: a closed form with search nodes")
    if v["matrix"] is not None:
        matrix_sections(c)
    if not v["planned"]:
        return
    c.expect(v["selected_on"] in ("planning data", "validation part"), "provenance", f"selected_on is \"{v['selected_on']}\"")
    split = v["split"]
    c.expect((split["kind"] == "category") == (split["categories"] != ""), "provenance",
             f"categories \"{split['categories']}\" of a split by {split['kind']}")
    has_share = split["kind"] in ("hash", "time")
    c.expect(0 < split["planning_ppm"] < 10**6 if has_share else split["planning_ppm"] == 0, "provenance",
             f"planning_ppm {split['planning_ppm']} of a split by {split['kind']}")
    c.expect(v["batching"]["ranks"] == p["gpus"], "provenance", f"steps of {v['batching']['ranks']} ranks on {p['gpus']} GPUs")
    before = -1
    for s in p["samples"]:
        c.expect(before < s["step"] < p["planning_steps"], "sample",
                 f"step {s['step']} after step {before}, and there are {p['planning_steps']}")
        before = s["step"]
        c.expect(s["dispatch_ns"] + s["compute_ns"] + s["combine_ns"] <= s["step_ns"], "sample",
                 f"step {s['step']}: its parts are more than its {s['step_ns']} ns")
    if p["gpus"] < 2:
        return
    c.expect(p["samples"] != [], "sample", "the plan was planned and has no sample")
    carried = {(x["kind"], x["scope"]) for x in p["certificates"] if x["proof"] == "closed-form"}
    for kind, scope in [("order", scope) for scope in ORDER_SCOPES] + [("placement", PLACEMENT_SCOPE), ("residual", RESIDUAL_SCOPE)]:
        c.expect((kind, scope) in carried, "certificate",
                 f"the plan was planned and has no {kind} certificate in closed form of scope \"{scope}\"")


def matrix_sections(c):
    """A plan of one matrix: which one it is, and the one kind of certificate that can be derived from it."""
    p, m = c.plan, c.plan["provenance"]["matrix"]
    c.expect(re.fullmatch("[a-z0-9_-]+", m["format"]), "provenance", f"matrix: format \"{m['format'][:40]}\" is no format's name")
    c.expect(re.fullmatch("[0-9a-f]{64}", m["sha256"]), "provenance", f"matrix: sha256 \"{m['sha256'][:70]}\" is not 64 hex digits")
    c.expect(p["layers"] == 1 and p["gpus"] > 1, "shape", f"the plan of one matrix has {p['layers']} layers on {p['gpus']} GPUs")
    for i, x in enumerate(p["certificates"]):
        c.expect((x["kind"], x["proof"], x["scope"]) == ("order", "closed-form", MATRIX_SCOPE), "certificate",
                 f"certificate {i}: not of an order, in closed form, of the scope \"{MATRIX_SCOPE}\", but of \"{x['scope'][:80]}\"")
    c.expect(p["certificates"] != [], "certificate", "the plan was made for a matrix and has no certificate")


def orders(c, topology):
    for o, order in enumerate(c.plan["orders"]):
        unit, ports, rate, n = order["unit"], order["ports"], order["port_bytes_per_s"], order["ends"]
        is_nodes = order["between"] == "nodes"
        end = "node" if is_nodes else "GPU"
        c.expect(unit > 0 and ports > 0, "order-share", f"order {o}: unit {unit}, {ports} ports")
        c.expect(not is_nodes or rate == 0, "order-rate", f"order {o}: a cap of {rate} bytes/s between nodes")
        for s in order["flushes"]:
            c.expect(s == len(order["stages"]) - 1, "order-flush", f"order {o} stage {s}: a flush is not the last stage")
            c.expect(not is_nodes, "order-flush", f"order {o} stage {s}: a flush between nodes")
            c.expect(order["stages"][s] != [], "order-flush", f"order {o} stage {s}: a flush, and nothing is left to send")
        sums = {}
        for s, stage in enumerate(order["stages"]):
            where = f"order {o} stage {s}"
            sends, takes, through, before = {}, {}, {}, (-1, -1)
            for src, dst, share, width in stage:
                if not c.expect(src < n and dst < n, "shape", f"{where}: transfer {src}>{dst}, and there are {n} {end}s"):
                    continue
                c.expect(src != dst, "order-self", f"{where}: {end} {src} sends to itself")
                c.expect(share > 0, "order-share", f"{where}: transfer {src}>{dst} has share 0 of {unit}")
                c.expect((src, dst) > before, "order-share", f"{where}: transfer {src}>{dst} is listed after {before[0]}>{before[1]}")
                c.expect(width == 1 or not is_nodes, "order-port", f"{where}: transfer {src}>{dst} between nodes has width {width}")
                c.expect(width == 1 or s in order["flushes"] or is_nodes or rate > 0, "order-rate",
                         f"{where}: transfer {src}>{dst} has width {width} and no rate cap")
                before = (src, dst)
                sums[src, dst] = sums.get((src, dst), 0) + share
                sends[src] = sends.get(src, 0) + width
                takes[dst] = takes.get(dst, 0) + width
                if topology is not None and rate and not is_nodes and src != dst:
                    for r in topology.path(src, dst)[0]:
                        through[r] = through.get(r, 0) + rate * width
            if s in order["flushes"]:
                continue
            for table, verb in ((sends, "sends"), (takes, "receives")):
                for g, k in table.items():
                    c.expect(k <= ports, "order-port", f"{where}: {end} {g} {verb} over {k} ports of {ports}")
            for r, x in through.items():
                c.expect(x <= topology.resources[r]["rate"], "order-rate",
                         f"{where}: {x} bytes/s through a port of {topology.resources[r]['rate']}")
        for i in range(n):
            for j in range(n):
                if i != j:
                    c.expect(sums.get((i, j), 0) == unit, "order-share", f"order {o}: the shares of {i}>{j} sum to {sums.get((i, j), 0)} of {unit}")


def against_topology(c, topology):
    """Whether they have equally many GPUs."""
    p, v = c.plan, c.plan["provenance"]
    is_as_large = c.expect(p["gpus"] == topology.n, "shape", f"the plan has {p['gpus']} GPUs and the topology {topology.n}")
    if is_as_large:
        c.expect(p["nodes"] == topology.n_nodes, "shape", f"the plan has {p['nodes']} nodes and the topology {topology.n_nodes}")
        for g in range(p["gpus"]):
            c.expect(p["gpu_nodes"][g] == topology.node[g], "shape",
                     f"GPU {g} is on node {p['gpu_nodes'][g]} in the plan and {topology.node[g]} in the topology")
    if v["planned"] or v["matrix"] is not None:
        c.expect(v["topology_sha256"] == topology.sha256, "provenance",
                 f"planned for the topology with SHA-256 {v['topology_sha256'][:16]}..., and this one has {topology.sha256[:16]}...")
        c.expect(v["topology"] == topology.name, "provenance", f"planned for topology \"{v['topology']}\", and this one is \"{topology.name}\"")
    return is_as_large


def against_matrix(c, matrix):
    named = c.plan["provenance"]["matrix"]
    if not c.expect(named is not None, "provenance", "the plan names no matrix, and one is given"):
        return
    c.expect(c.plan["gpus"] == matrix.n, "shape", f"the plan has {c.plan['gpus']} GPUs and the matrix is for {matrix.n}")
    c.expect(named["sha256"] == matrix.sha256, "provenance",
             f"made for the matrix with SHA-256 {named['sha256'][:16]}..., and this one has {matrix.sha256[:16]}...")
    c.expect(named["format"] == matrix.format, "provenance",
             f"made for a matrix of format \"{named['format'][:40]}\", and this one is {matrix.format}")


def against(c, trace, topology, model):
    p = c.plan
    v = p["provenance"]
    c.expect(p["experts"] == trace.n_experts, "shape", f"the plan has {p['experts']} experts and the trace {trace.n_experts}")
    if c.expect(p["layers"] == trace.n_layers, "layer-missing", f"the plan has {p['layers']} layers and the trace {trace.n_layers}"):
        for l, layer in enumerate(p["layer_list"]):
            c.expect(layer["layer"] == trace.layer_ids[l], "layer-id", f"entry {l} is layer {layer['layer']} and the trace's {trace.layer_ids[l]}")
    if against_topology(c, topology):
        for g in range(p["gpus"]):
            held = max(p["layers"], len(model.layer_ids))
            need, has = (model.expert_bytes * p["gpu_slots"][g] + model.shared_bytes) * held + model.dense_bytes, topology.gpus[g]["type"]["memory"]
            c.expect(need <= has, "capacity",
                     f"GPU {g}: {p['gpu_slots'][g]} slots in {held} layers are {need} bytes with the other weights, and it has {has}")
    c.expect(p["experts"] == model.experts, "shape", f"the plan has {p['experts']} experts and the model {model.experts}")
    if p["training"] is not None:
        training_bytes(c, model)
    if v["planned"]:
        for what, own in (("trace", trace.sha256), ("model", model.sha256)):
            c.expect(v[f"{what}_sha256"] == own, "provenance",
                     f"planned on the {what} with SHA-256 {v[f'{what}_sha256'][:16]}..., and this one has {own[:16]}...")
        c.expect(v["model"] == model.name, "provenance", f"planned for model \"{v['model']}\", and this one is \"{model.name}\"")
        c.expect(v["synthetic"] == trace.is_synthetic, "provenance", f"the plan says synthetic: {v['synthetic']}, the trace {trace.is_synthetic}")


class Setup:
    def __init__(self, plan, slot_gpu, trace, topology, model):
        self.plan, self.slot_gpu, self.trace, self.topology, self.model = plan, slot_gpu, trace, topology, model
        self.nodes = [[g for g in range(topology.n) if topology.node[g] == v] for v in range(topology.n_nodes)]


class Step:
    """Sums of one planning step over the layers."""

    def __init__(self, other):
        self.other = self.lower = self.residual = other
        self.dispatch_bound = self.combine_bound = self.compute = self.copying = self.combining = 0
        self.flows = []


def evidence(c, setup):
    """Compares each layer's sums; returns the steps' own sums, or None when the steps cannot be rebuilt."""
    p, topology, model, trace = c.plan, setup.topology, setup.model, setup.trace
    v = p["provenance"]
    if not c.expect(v["dispatcher"] in DISPATCHERS, "provenance", f"dispatcher \"{v['dispatcher']}\" is not known"):
        return None
    is_node = DISPATCHERS[v["dispatcher"]][0] == "node"
    if not c.expect(trace.kind == "tokens" or (v["sources"] == "dp" and not is_node), "provenance",
                    f"dispatcher {v['dispatcher']} and sources {v['sources']} need tokens, and the trace has counts"):
        return None
    b = v["batching"]
    drawn = b["steps_max"] or 64
    if trace.kind == "tokens" and b["resample"]:
        if not c.expect(drawn == p["planning_steps"], "prediction", f"the plan says {p['planning_steps']} planning steps, and {drawn} are drawn"):
            return None
    try:
        steps = build(trace, planning_part(trace, v["split"]), v["batching"], c.plan["homes"], c.plan["gpu_nodes"])
    except StepError as e:
        c.expect(False, "provenance", f"the planning steps cannot be built again: {e}")
        return None
    if not c.expect(len(steps) == p["planning_steps"], "prediction",
                    f"the plan says {p['planning_steps']} planning steps, and the trace gives {len(steps)}"):
        return None
    wants_bound = any(x["kind"] != "order" for x in p["certificates"])
    kept = {s["step"] for s in p["samples"]} if len(steps) * p["layers"] > 2000 else set(range(len(steps)))
    sums = [Step(model.other) for _ in steps]
    dense = model.hidden_layers - len(model.layer_ids)
    for l in range(p["layers"]):
        entry = p["layer_list"][l]
        layer = Layer(p, l, setup.slot_gpu, topology.node)
        rows = intra = inter = bound = 0
        of_expert = [0] * p["experts"]
        for i, step in enumerate(steps):
            f = flows_of(setup, layer, step)
            rows += max(f.rows)
            for slot, x in enumerate(f.slot_rows):
                if x:
                    of_expert[entry["slots"][slot]] += x
            for flows in (f.first, f.second):
                for (a, b), x in flows.items():
                    if topology.node[a] == topology.node[b]:
                        intra += x * model.dispatch_bytes
                    else:
                        inter += x * model.dispatch_bytes
            ports, back = port_bound(topology, f.first, model.dispatch_bytes), port_bound(topology, turned(f.first), model.combine_bytes)
            bound += ports
            s = sums[i]
            s.copying += ports > 0
            s.combining += back > 0
            if entry["order"] is not None and p["orders"][entry["order"]]["between"] == "nodes":
                ports = relay_bound(topology, f.first, model.dispatch_bytes)
                back = relay_bound(topology, turned(f.first), model.combine_bytes)
            s.dispatch_bound += ports
            s.combine_bound += back
            gpus = range(topology.n)
            attention = max(attention_ns(topology, g, model, f.starts[g]) for g in gpus)
            shared = max(shared_ns(topology, g, model, f.starts[g]) for g in gpus)
            compute = max(compute_ns(topology, g, model, f.active[g], f.padded[g]) for g in gpus)
            times = 1 + max(0, dense) if l == 0 else 1
            s.compute += compute
            s.other += attention * times
            if i in kept:
                s.flows.append((l, f, times, attention * times, shared, compute))
            if wants_bound:
                pairs = pairs_by_rank(setup, layer, step, f)
                starts = [0] * topology.n
                if f.pairs is None:
                    for _, source in step.rows:
                        starts[source] += 1
                else:
                    starts = f.starts
                if v["sources"] == "coupled":
                    even = -(-sum(f.starts) // topology.n)
                    attention = min(attention_ns(topology, g, model, even) for g in gpus)
                    shared = min(shared_ns(topology, g, model, even) for g in gpus)
                out, back = transfer_bound(setup, pairs, starts, False), transfer_bound(setup, pairs, starts, True)
                s.lower += attention * times + max(shared, out) + compute_bound(setup, pairs) + back
                if DISPATCHERS[v["dispatcher"]][0] != "all":
                    out = back = 0
                s.residual += attention * times + max(shared, out) + compute_bound(setup, pairs, True) + back
        where = f"layer {entry['layer']}"
        for kind, key, own in (("evidence-rows", "rows_max_sum", rows), ("evidence-bytes", "dispatch_intra_bytes", intra),
                               ("evidence-bytes", "dispatch_inter_bytes", inter), ("evidence-bound", "port_bound_ns", bound)):
            c.expect(entry[key] == own, kind, f"{where}: {key} is {entry[key]}, and the steps give {own}")
        for e, x in enumerate(entry["expert_rows"] or []):
            c.expect(x == of_expert[e], "evidence-rows", f"{where}: expert_rows of expert {e} is {x}, and the steps give {of_expert[e]}")
        if c.violations and sum(len(s.rows) for s in steps) > 2**17:
            break
    return sums


def simulate(setup, s):
    dispatch = compute = combine = 0
    step = setup.model.other
    for l, f, _, attention, shared, own in s.flows:
        out = direction(setup, l, f, False)
        back = direction(setup, l, f, True)
        dispatch += out
        compute += own
        combine += back
        step += attention + out + own + back + max(0, shared - out)
    times = {"step_ns": step, "dispatch_ns": dispatch, "compute_ns": compute, "combine_ns": combine}
    if setup.plan["pipelined"]:
        times["pipelined_step_ns"] = clocks.step_ns(setup, s)
    return times


def searched(c, i, x, lower):
    """What can be said of a search without running it again."""
    p = c.plan
    if not c.expect(x["kind"] == "placement" and x["scope"] in (SINGLE_SCOPE, REPLICA_SCOPE), "certificate",
                    f"certificate {i}: no search is known for the scope \"{x['scope']}\""):
        return
    single = x["scope"] == SINGLE_SCOPE
    c.expect(all(e["order"] is None for e in p["layer_list"]), "certificate", f"certificate {i}: single shots, and a layer has an order")
    filled = max(sum(e >= 0 for e in entry["slots"]) for entry in p["layer_list"])
    c.expect(not single or filled <= p["experts"], "certificate", f"certificate {i}: one copy per expert, and an expert has more")
    c.expect(single or p["route"] == "even", "certificate", f"certificate {i}: searched under the rule even, and the rule is {p['route']}")
    c.expect(p["provenance"]["sources"] == "dp", "certificate", f"certificate {i}: searched for sources dp")
    c.expect(x["nodes"] > 0, "certificate", f"certificate {i}: a search of no nodes")
    c.expect(x["value_ns"] == p["step_ns"], "certificate",
             f"certificate {i}: value_ns is {x['value_ns']}, and the predicted step {p['step_ns']}")
    c.expect(x["bound_ns"] >= lower, "certificate", f"certificate {i}: bound_ns is {x['bound_ns']}, and the closed form gives {lower} already")
    c.expect(x["proof"] != "search" or x["bound_ns"] + 1 >= x["value_ns"], "certificate",
             f"certificate {i}: a search that ended at bound {x['bound_ns']}, and the value is {x['value_ns']}")


def claims(c, setup, sums, is_all):
    p = c.plan
    n = len(sums)
    by = p["layers"] * (2 if DISPATCHERS[p["provenance"]["dispatcher"]][0] == "node" else 1)
    used = [p["orders"][layer["order"]] for layer in p["layer_list"] if layer["order"] is not None]
    by += sum(len(order["stages"]) + 1 for order in used if order["between"] == "nodes")

    def work(s):
        return max((len(f.first) for _, f, *_ in s.flows), default=0)

    topology, simulated, notes, most = setup.topology, 0, [], 0
    topology.operations, topology.operations_max = 0, float("inf") if is_all else SAMPLE_OPERATIONS
    for x in p["samples"]:
        s, before, own, why = sums[x["step"]], topology.operations, None, f"{work(sums[x['step']])} transfers at once"
        if is_all or work(s) <= MOST_FLOWS:
            try:
                own = simulate(setup, s)
            except TooLong:
                why = f"the samples take more than {SAMPLE_OPERATIONS} operations"
        most = max(most, topology.operations - before)
        if own is None:
            notes.append(f"network times of step {x['step']}: {why}")
            c.expect(x["compute_ns"] == s.compute, "sample", f"step {x['step']}: compute_ns is {x['compute_ns']}, and the loads give {s.compute}")
            c.expect(x["dispatch_ns"] >= s.dispatch_bound and x["combine_ns"] >= s.combine_bound, "sample",
                     f"step {x['step']}: a direction is below the ports' {s.dispatch_bound} and {s.combine_bound} ns")
            c.expect(x["step_ns"] >= x["dispatch_ns"] + x["compute_ns"] + x["combine_ns"] + s.other, "sample",
                     f"step {x['step']}: step_ns is below its parts with attention")
            continue
        simulated += 1
        for key, tolerance in (("dispatch_ns", by), ("compute_ns", 0), ("combine_ns", by), ("step_ns", 2 * by),
                               ("pipelined_step_ns", 4 * by))[:len(own)]:
            c.expect(abs(x[key] - own[key]) <= tolerance, "sample", f"step {x['step']}: {key} is {x[key]}, and simulating it gives {own[key]}")
    mean = None
    topology.operations_max = float("inf")
    is_tiny = sum(len(s.flows) * work(s)**2 for s in sums) <= 100000 and most * n <= ALL_OPERATIONS
    if simulated and simulated == len(p["samples"]) and all(s.flows for s in sums) and is_tiny:
        all_steps = [simulate(setup, s) for s in sums]
        mean = {k: (sum(s[k] for s in all_steps) + n // 2) // n for k in all_steps[0]}
        if p["pipelined"]:
            c.expect(abs(p["pipelined_step_ns"] - mean["pipelined_step_ns"]) <= 4 * by + 1, "prediction",
                     f"pipelined_step_ns is {p['pipelined_step_ns']}, and simulating all {n} steps gives {mean['pipelined_step_ns']}")
        c.expect(abs(p["step_ns"] - mean["step_ns"]) <= 2 * by + 1, "prediction",
                 f"step_ns is {p['step_ns']}, and simulating all {n} steps gives {mean['step_ns']}")
    else:
        least = sum(s.dispatch_bound + s.combine_bound + s.compute + s.other for s in sums) // n
        c.expect(p["step_ns"] >= least, "prediction", f"step_ns is {p['step_ns']}, and ports and computation alone need {least}")
    for i, x in enumerate(p["certificates"]):
        if x["proof"] != "closed-form":
            searched(c, i, x, sum(s.lower for s in sums) // n)
            continue
        if x["kind"] == "order" and x["scope"] in ORDER_SCOPES:
            way = ORDER_SCOPES[x["scope"]]
            bound = sum(s.dispatch_bound if way == "dispatch" else s.combine_bound for s in sums)
            bound += sum(s.copying if way == "dispatch" else s.combining for s in sums) * launch_floor(p, setup.topology)
            bound //= n
            if mean is not None:
                own = mean[f"{way}_ns"]
                c.expect(abs(x["value_ns"] - own) <= by + 1, "certificate",
                         f"certificate {i}: value_ns is {x['value_ns']}, and simulating all steps gives {own}")
            else:
                c.expect(x["value_ns"] <= p["step_ns"], "certificate", f"certificate {i}: value_ns {x['value_ns']} is above the step's")
        elif (x["kind"], x["scope"]) in (("placement", PLACEMENT_SCOPE), ("residual", RESIDUAL_SCOPE)):
            bound = sum(s.lower if x["kind"] == "placement" else s.residual for s in sums) // n
            c.expect(x["value_ns"] == p["step_ns"], "certificate",
                     f"certificate {i}: value_ns is {x['value_ns']}, and the predicted step {p['step_ns']}")
        else:
            c.expect(False, "certificate", f"certificate {i}: no closed form is known for the scope \"{x['scope']}\"")
            continue
        c.expect(x["bound_ns"] == bound, "certificate", f"certificate {i}: bound_ns is {x['bound_ns']}, and the steps give {bound}")
    return simulated, notes


def matrix_claims(c, matrix, topology, is_all):
    """The certificate of a plan of one matrix, derived again: (1 where the dispatch was simulated, notes)."""
    p = c.plan
    scale = p["provenance"]["matrix"]["token_bytes"] or 1
    if not c.expect(sum(map(sum, matrix.cells)) * scale <= 2**53, "provenance",
                    f"the matrix with {scale} bytes a token holds more than 2^53 bytes"):
        return 0, []
    copies = {(i, j): x * scale for i, row in enumerate(matrix.cells) for j, x in enumerate(row) if x and i != j}
    index = p["layer_list"][0]["order"]
    is_relayed = index is not None and p["orders"][index]["between"] == "nodes"
    bound = own = 0
    if copies:
        bound = (relay_bound if is_relayed else port_bound)(topology, copies, 1) + launch_floor(p, topology)
    notes, simulated = [], 1
    if copies:
        try:
            topology.operations, topology.operations_max = 0, float("inf") if is_all else SAMPLE_OPERATIONS
            if index is None and len(copies) > MOST_FLOWS and not is_all:
                raise TooLong
            own, staged = first_phase(p, topology, 0, copies, 1, False)
            own += (1 - staged) * topology.launch
        except TooLong:
            simulated = 0
            notes.append(f"the time of the dispatch: {len(copies)} transfers at once, or more than {SAMPLE_OPERATIONS} operations")
    top = 2**64 - 1
    by = 1 + (len(p["orders"][index]["stages"]) + 1 if is_relayed else 0) + own // 10**10
    for i, x in enumerate(p["certificates"]):
        c.expect(x["bound_ns"] == min(bound, top), "certificate", f"certificate {i}: bound_ns is {x['bound_ns']}, and the matrix gives {bound}")
        if simulated:
            c.expect(abs(x["value_ns"] - min(own, top)) <= by, "certificate",
                     f"certificate {i}: value_ns is {x['value_ns']}, and simulating the dispatch gives {own}")
    return simulated, notes


def check(plan, trace=None, topology=None, model=None, is_all=False, matrix=None):
    """(violations, facts compared, samples simulated, what was only bounded and why)."""
    c = Check(plan)
    simulated, notes = 0, []
    if structure(c):
        sections(c)
        if trace is not None:
            against(c, trace, topology, model)
        if matrix is not None:
            against_topology(c, topology)
            against_matrix(c, matrix)
        fits = topology is not None and topology.n == plan["gpus"]
        orders(c, topology if fits else None)
        if trace is not None and plan["provenance"]["planned"] and not c.violations:
            setup = Setup(plan, c.slot_gpu, trace, topology, model)
            sums = evidence(c, setup)
            if sums is not None and not c.violations:
                simulated, notes = claims(c, setup, sums, is_all)
        if matrix is not None and not c.violations:
            simulated, notes = matrix_claims(c, matrix, topology, is_all)
    return c.violations, c.n, simulated, notes


def check_together(plans, traces, topology, models):
    """(violations, facts compared) of two plans that are good by themselves."""
    c = Check(plans[0])
    gpus = [[g for g, n in enumerate(p["gpu_slots"]) for _ in range(n)] for p in plans]
    setups = None if topology is None else [Setup(p, g, t, topology, m) for p, g, t, m in zip(plans, gpus, traces, models)]
    together.check(c, plans, gpus, setups, topology)
    return c.violations, c.n
