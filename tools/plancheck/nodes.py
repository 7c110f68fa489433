"""Orders between nodes and falling back to one shot, by docs/ORDERS.md parts 4 and 5. Matrices are {(src, dst): bytes}, without zeros."""
from traffic import NS, _rate, ceil, port_bound

MOST = 2**52


def turned(matrix):
    return {(j, i): x for (i, j), x in matrix.items()}


def relay_bound(topology, copies, size):
    """What no schedule goes below, whoever passes the bytes on."""
    n, inside = topology.n, [[g for g in range(topology.n) if topology.node[g] == v] for v in range(topology.n_nodes)]
    out, into, node_out, node_in = [0] * n, [0] * n, [0] * len(inside), [0] * len(inside)
    uplinks = {}
    for (i, j), x in copies.items():
        out[i] += x * size
        into[j] += x * size
        a, b = topology.node[i], topology.node[j]
        if a != b:
            node_out[a] += x * size
            node_in[b] += x * size
        for r in topology.path(i, j)[0]:
            if topology.resources[r]["is_uplink"]:
                uplinks[r] = uplinks.get(r, 0) + x * size
    bound = 0
    for g in range(n):
        for x, side in ((out[g], "out"), (into[g], "in")):
            if x:
                bound = max(bound, ceil(x * NS, _rate(topology, [g], side, 0)))
    for v, gpus in enumerate(inside):
        for x, side in ((node_out[v], "out"), (node_in[v], "in")):
            if x:
                rate = _rate(topology, gpus, side, 1)
                if topology.levels[0]["uplinks"]:
                    rate = min(rate, topology.resources[topology.levels[0]["uplinks"][v][side == "in"]]["rate"])
                bound = max(bound, ceil(x * NS, rate))
    for r, x in uplinks.items():
        bound = max(bound, ceil(x * NS, topology.resources[r]["rate"]))
    return bound


def _quotas(topology, gpus, side, total):
    """How many of `total` bytes each GPU of a node carries."""
    ports = [topology.gpus[g][side][1] for g in gpus]
    weights = [max(1, topology.resources[p]["rate"] // ports.count(p)) for p in ports]
    before, out = 0, []
    for w in weights:
        out.append(total * (before + w) // sum(weights) - total * before // sum(weights))
        before += w
    return out


def _take(queue, amount):
    """The first `amount` bytes of [[destination, bytes]], taken off."""
    out = []
    while amount:
        j, x = queue[0]
        now = min(x, amount)
        out.append([j, now])
        amount -= now
        if now == x:
            queue.pop(0)
        else:
            queue[0][1] -= now
    return out


def _add(matrix, i, j, x):
    if x and i != j:
        matrix[i, j] = matrix.get((i, j), 0) + x


def _transfer(topology, demand, a, b, balance, rail, forward):
    """One transfer from the GPUs `a` to the GPUs `b`; demand[i, j] bytes."""
    own = {i: [[j, demand[i, j]] for j in b if demand.get((i, j))] for i in a}
    size = {i: sum(x for _, x in own[i]) for i in a}
    total = sum(size.values())
    if not total:
        return
    quota = dict(zip(a, _quotas(topology, a, "out", total)))
    sequence = {i: _take(own[i], min(size[i], quota[i])) for i in a}
    over = [[(i, j), x] for i in a for j, x in own[i]]
    for x in a:
        for (i, j), moved in _take(over, max(0, quota[x] - size[x])):
            _add(balance, i, x, moved)
            sequence[x].append([j, moved])
    line = [[(x, j), n] for x in a for j, n in sequence[x]]
    for y, r in zip(b, _quotas(topology, b, "in", total)):
        for (x, j), n in _take(line, r):
            _add(rail, x, y, n)
            _add(forward, y, j, n)


def shots(topology, order, matrix, way):
    """The single shots of the order on a matrix, as they travel; their sequence where it is not reversed; empty ones left out."""
    if way != "forward":
        matrix = turned(matrix)
    inside = [[g for g in range(topology.n) if topology.node[g] == v] for v in range(topology.n_nodes)]
    n = len(order["stages"])
    out = [{} for _ in range(max(n, 1) + 2)]
    sent, rails = {}, []
    for s, stage in enumerate(order["stages"]):
        rail = {}
        for a, b, share, _ in stage:
            before = sent.get((a, b), 0)
            sent[a, b] = before + share
            demand = {(i, j): matrix[i, j] * (before + share) // order["unit"] - matrix[i, j] * before // order["unit"]
                      for i in inside[a] for j in inside[b] if (i, j) in matrix}
            early, late = (out[s + 2], out[s]) if way == "swapped" else (out[s], out[s + 2])
            _transfer(topology, demand, inside[a], inside[b], early, rail, late)
        rails.append(rail)
    times = [port_bound(topology, rail, 1) for rail in rails] or [0]
    so_far, every = 0, min(sum(times), MOST)
    for s, t in enumerate(times):
        for (i, j), x in matrix.items():
            if topology.node[i] == topology.node[j]:
                piece = x * min(so_far + t, MOST) // every - x * so_far // every if every else x if s == 0 else 0
                _add(out[s + 1], i, j, piece)
        so_far = min(so_far + t, MOST)
    for s, rail in enumerate(rails):
        for (i, j), x in rail.items():
            _add(out[s + 1], i, j, x)
    return [m if way == "forward" else turned(m) for m in out if m]


def stage_sum(topology, order, flows, latency):
    """The staged side of the fallback rule: flows by stage, each with a cap or 0."""
    stages = {}
    for s, i, j, x, cap in flows:
        stages.setdefault(s, []).append((i, j, x, cap))
    total = 0
    for members in stages.values():
        matrix, longest = {}, 0
        for i, j, x, cap in members:
            _add(matrix, i, j, x)
            if cap:
                longest = max(longest, ceil(x * NS, cap))
        total += topology.stage_launch + latency + max(longest, port_bound(topology, matrix, 1))
    return min(total, MOST)


def falls_back(topology, order, ppm, matrix, flows, way):
    """`matrix` as it travels; `flows` of an order between GPUs: (stage, src, dst, bytes, cap)."""
    if not ppm or not matrix:
        return False
    latency = max(v["latency"] for v in topology.levels)
    single = min(MOST, topology.launch + latency + port_bound(topology, matrix, 1))
    if order["between"] == "gpus":
        staged = stage_sum(topology, order, flows, latency)
    else:
        staged = sum(topology.stage_launch + latency + port_bound(topology, m, 1) for m in shots(topology, order, matrix, way))
    return min(staged, MOST) * 10**6 > single * (10**6 + ppm)
