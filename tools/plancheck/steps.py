"""Splits and steps by docs/STEPS.md."""

from tracefile import NONE

M = 2**64 - 1


class StepError(Exception):
    """The plan's split or batching cannot be rebuilt on this trace."""


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & M
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M
    return x ^ (x >> 31)


class Rng:
    def __init__(self, seed):
        self.s = [mix((seed + i * 0x9E3779B97F4A7C15) & M) for i in range(4)]

    def next(self):
        s = self.s
        x = (s[1] * 5) & M
        out = (((x << 7) | (x >> 57)) & M) * 9 & M
        t = (s[1] << 17) & M
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = ((s[3] << 45) | (s[3] >> 19)) & M
        return out

    def below(self, n):
        while True:
            x = self.next()
            if x >= 2**64 % n:
                return x % n


def planning_part(trace, split):
    is_tokens = trace.kind == "tokens"
    n = len(trace.requests) if is_tokens else trace.n_iterations

    def category(i):
        if is_tokens:
            c = trace.requests[i][5]
        else:
            c = trace.iteration_category[i] if trace.iteration_category else NONE
        return c if c < len(trace.categories) else len(trace.categories)

    kind, ppm = split["kind"], split["planning_ppm"]
    if n == 0:
        raise StepError("the trace is empty")
    if kind == "none":
        return list(range(n))
    if kind == "time":
        part = list(range((n * ppm + 500000) // 1000000))
        if not is_tokens and not trace.is_time_ordered:
            raise StepError("iterations do not stand in time order")
    elif kind == "category":
        wanted = split["categories"].split(",")
        if not trace.categories or any(w not in trace.categories for w in wanted):
            raise StepError("a category is not in the trace")
        part = [i for i in range(n) if category(i) < len(trace.categories) and trace.categories[category(i)] in wanted]
    else:
        seed = mix(split["seed"])
        groups = {}
        for i in range(n):
            groups.setdefault(category(i), []).append((mix((trace.requests[i][0] if is_tokens else i) ^ seed), i))
        part, total, taken = [], 0, 0
        for c in sorted(groups):
            total += len(groups[c]) * ppm
            take = (total + 500000) // 1000000 - taken
            part += [i for _, i in sorted(groups[c])[:take]]
            taken += take
        part.sort()
    if not part or len(part) == n:
        raise StepError("a part is empty")
    return part


class Step:
    """rows: [(row, source rank)]; padding[rank]. For counts: iteration."""

    def __init__(self, rows, padding, iteration=None):
        self.rows, self.padding, self.iteration = rows, padding, iteration


def _weights(n, skew_ppm):
    # Halves away from zero. The power is the only floating-point number; glibc and Python share it.
    out = []
    for r in range(n):
        x = float(r + 1) ** (-(skew_ppm / 1e6)) * 1048576.0
        out.append(int(x + 0.5) if skew_ppm else 1048576)
    return out


def _padding(used, pad):
    return [-u % pad if u and pad > 1 else 0 for u in used]


def home_ranks(trace, members, b, homes, gpu_nodes):
    """{member: rank} by docs/HOMES.md part 2."""
    n_nodes = max(gpu_nodes) + 1
    gpus = [gpu_nodes.count(v) for v in range(n_nodes)]
    units, on_rank, out = [0] * n_nodes, [0] * len(gpu_nodes), {}
    reach = 1000 * homes["tolerance"]
    if b["source_skew_ppm"] or len(gpu_nodes) != b["ranks"] or trace.kind == "counts" or min(gpus) == 0:
        raise StepError("the rule of homes does not fit the batching")
    for m in members:
        _, first, rows, *_ = trace.requests[m]
        out[m] = 0
        if rows == 0:
            continue
        seen = min(rows, homes["prefix_rows"] or rows)
        score = [0] * n_nodes
        for layer in range(trace.n_layers):
            table = homes["weights"][layer]
            for row in range(first, first + seen):
                for e in trace.row(layer, row):
                    for v in range(1, n_nodes):
                        score[v] += table[v - 1][e]
        load = [1000 * u // g for u, g in zip(units, gpus)]
        ahead = [x - min(load) for x in load]
        v = max((v for v in range(n_nodes) if ahead[v] <= reach),
                key=lambda v: (reach * (1000 * score[v] - seen * homes["bias_milli"][v]) - seen * homes["price_milli"] * ahead[v], -load[v], -v))
        r = min((g for g in range(len(gpu_nodes)) if gpu_nodes[g] == v), key=lambda g: (on_rank[g], g))
        size = 1 if b["phase"] == "decode" else rows
        units[v] += size
        on_rank[r] += size
        out[m] = r
    return out


def _by_node(members, home, gpu_nodes):
    out = [[m for m in members if gpu_nodes[home[m]] == v] for v in range(max(gpu_nodes) + 1)]
    if not all(out):
        raise StepError("a node is the home of no request")
    return out


def _decode(trace, members, b, home, gpu_nodes):
    n = b["ranks"]
    C = b["batch_per_rank"] * n
    w = _weights(n, b["source_skew_ppm"])
    W = sum(w)
    share = [C * x // W for x in w]
    for r in sorted(range(n), key=lambda r: (-(C * w[r] % W), r))[:C - sum(share)]:
        share[r] += 1
    rank_of = [r for j in range(max(share, default=0)) for r in range(n) if share[r] > j]
    by_rank = sorted(range(C), key=lambda s: (rank_of[s], s))
    padding = _padding(share, b["pad_tokens"])
    usable = [m for m in members if trace.requests[m][2] > 0]
    if b["resample"]:
        rng = Rng(b["seed"])
        pool = [usable] * n if home is None else [_by_node(usable, home, gpu_nodes)[v] for v in gpu_nodes]
        for _ in range(b["steps_max"] or 64):
            row = [0] * C
            for s in range(C):
                of = pool[rank_of[s]]
                q = trace.requests[of[rng.below(len(of))]]
                row[s] = q[1] + rng.below(q[2])
            yield Step([(row[s], rank_of[s]) for s in by_rank], padding)
        return
    free, named = [], {}
    for m in usable:  # queues by the rank they may run on, in file order
        source = trace.requests[m][4] if home is None else home[m]
        (free if source == NONE else named.setdefault(source % n, [])).append(m)
    free.reverse()
    for q in named.values():
        q.reverse()
    at, end = [0] * C, [0] * C
    while C > 0:
        for s in range(C):
            if at[s] < end[s]:
                continue
            mine = named.get(rank_of[s], [])
            queue = mine if mine and (not free or mine[-1] < free[-1]) else free
            if not queue:
                return
            q = trace.requests[queue.pop()]
            at[s], end[s] = q[1], q[1] + q[2]
        yield Step([(at[s], rank_of[s]) for s in by_rank], padding)
        at = [x + 1 for x in at]


def _prefill(trace, members, b, home, gpu_nodes):
    n, T = b["ranks"], b["tokens_per_rank"]
    w = _weights(n, b["source_skew_ppm"])
    budget = [max(1, T * n * x // sum(w)) for x in w]
    usable = [m for m in members if trace.requests[m][2] > 0]
    requests = [trace.requests[m] for m in usable]

    def deal(parts, cursor, length, source=None):
        """The rank of the head and how much of it runs in this step, or None."""
        ranks = [(cursor + i) % n for i in range(n)] if source is None else [source]
        room = {r: budget[r] - sum(x for _, x in parts[r]) for r in ranks}
        with_room = [r for r in ranks if room[r] >= 1]
        for r in with_room:
            if room[r] >= length:
                return r, length
        return (with_room[0], room[with_room[0]]) if with_room else None

    def step(parts):
        rows = [(first + i, r) for r in range(n) for first, length in parts[r] for i in range(length)]
        return Step(rows, _padding([sum(x for _, x in p) for p in parts], b["pad_tokens"]))

    if b["resample"]:
        def pieces(of):
            return [(q[1] + at, min(T, q[2] - at)) for q in of for at in range(0, q[2], T)]

        every = pieces(requests)
        rng = Rng(b["seed"])
        pool = home and [pieces(trace.requests[m] for m in of) for of in _by_node(usable, home, gpu_nodes)]
        for _ in range(b["steps_max"] or 64):
            if pool:
                parts = [[] for _ in range(n)]
                for r in range(n):
                    left, of = budget[r], pool[gpu_nodes[r]]
                    while left > 0:
                        first, length = of[rng.below(len(of))]
                        parts[r].append((first, min(length, left)))
                        left -= parts[r][-1][1]
                yield step(parts)
                continue
            cursor, parts, left = 0, [[] for _ in range(n)], sum(budget)
            while left > 0:
                first, length = every[rng.below(len(every))]
                r, length = deal(parts, cursor, length)
                parts[r].append((first, length))
                cursor, left = (r + 1) % n, left - length
            yield step(parts)
        return
    if home is not None:  # a queue for each rank
        queues = [[list(trace.requests[m][1:3]) for m in reversed(usable) if home[m] == r] for r in range(n)]
        while True:
            parts = [[] for _ in range(n)]
            for r, queue in enumerate(queues):
                left = budget[r]
                while queue and left > 0:
                    length = min(queue[-1][1], left)
                    parts[r].append((queue[-1][0], length))
                    left -= length
                    queue[-1] = [queue[-1][0] + length, queue[-1][1] - length]
                    if queue[-1][1] == 0:
                        queue.pop()
            if 2 * sum(x for p in parts for _, x in p) < n * T or not any(parts):
                return
            yield step(parts)
    cursor, head, begun = 0, 0, [(0, 0)] * n  # begun[r]: (next row, rows left) of the request rank r has not finished
    while True:
        parts = [[] for _ in range(n)]
        for r, (first, left) in enumerate(begun):
            if left > 0:
                length = min(left, budget[r])
                parts[r].append((first, length))
                begun[r] = (first + length, left - length)
        is_closed = False
        while head < len(requests) and not is_closed:
            (_, first, rows, _, source, _) = requests[head]
            dealt = deal(parts, cursor, rows, None if source == NONE else source % n)
            if dealt is None:
                is_closed = True
                continue
            r, length = dealt
            parts[r].append((first, length))
            begun[r] = (first + length, rows - length)
            cursor, head = (r + 1) % n, head + 1
        filled = sum(x for p in parts for _, x in p)
        if not is_closed and (filled == 0 or 2 * filled < n * T):
            return
        yield step(parts)


def build(trace, members, b, homes=None, gpu_nodes=()):
    """The planning steps, as a list. homes, gpu_nodes: of a plan with a rule of homes."""
    home = home_ranks(trace, members, b, homes, gpu_nodes) if homes else None
    if trace.kind != "counts":
        rows = b["ranks"] * (b["batch_per_rank"] if b["phase"] == "decode" else b["tokens_per_rank"])
        if b["resample"] and (b["steps_max"] or 64) * rows > 2**24:
            raise StepError("more than 2^24 rows are drawn")
        if b["phase"] == "decode" and not b["resample"] and rows > len(members):
            raise StepError(f"{len(members)} requests do not fill {rows} slots")
    try:
        if trace.kind == "counts":
            per = trace.n_sources * trace.n_layers * trace.n_experts
            steps = [Step([], [0] * b["ranks"], i) for i in members if any(trace.counts[i * per:(i + 1) * per])]
        elif b["phase"] == "decode":
            steps = list(_decode(trace, members, b, home, gpu_nodes))
        else:
            steps = list(_prefill(trace, members, b, home, gpu_nodes))
    except (IndexError, ZeroDivisionError, ValueError) as e:
        raise StepError(f"the batching rule cannot be used on this trace ({e})") from e
    if not steps:
        raise StepError("the batching rule gives no step")
    most = b["steps_max"]
    is_recorded = trace.kind == "counts" or not b["resample"]
    if most and is_recorded and len(steps) > most:
        steps = [steps[(2 * i + 1) * len(steps) // (2 * most)] for i in range(most)]
    return steps


def counts_by_rank(trace, iteration, layer, n_ranks):
    """c[rank][expert] of a counts step."""
    c = [[0] * trace.n_experts for _ in range(n_ranks)]
    for q in range(trace.n_sources):
        for e in range(trace.n_experts):
            x = trace.count(iteration, q, layer, e)
            if trace.source_known:
                c[q % n_ranks][e] += x
                continue
            for r in range(n_ranks):
                c[r][e] += x // n_ranks
            for j in range(x % n_ranks):
                c[(e + j) % n_ranks][e] += 1
    return c


