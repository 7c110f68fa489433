"""Reads a plan by the grammar of docs/PLAN.md, line by line: what is not canonical does not parse."""
import hashlib
import re


class PlanError(Exception):
    """The file is not a plan: message with line and column."""


NUMBER = re.compile(r"-?(0|[1-9][0-9]*)\Z")
ESCAPE = re.compile(r'\\(["\\t]|u[0-9A-F]{4}|U[0-9A-F]{8})')
SCALAR_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\.[^"\\]*?)*)"\Z')


class Lines:
    """A cursor over the lines; every read names what it wants."""

    def __init__(self, path, lines):
        self.path, self.lines, self.at = path, lines, 0

    def fail(self, column, what):
        raise PlanError(f"{self.path}:{self.at + 1}:{column}: {what}")

    def peek(self):
        return self.lines[self.at] if self.at < len(self.lines) else ""

    def take(self, prefix):
        line = self.peek()
        if not line.startswith(prefix):
            self.fail(1, f'"{prefix.strip()}" is expected here, not "{line.strip()[:40]}"')
        self.at += 1
        return line[len(prefix):]

    def back(self, prefix, what):
        self.at -= 1
        self.fail(len(prefix) + 1, what)

    def number(self, prefix, top=2**64 - 1, negative=False):
        text = self.take(prefix)
        if not NUMBER.match(text) or (text.startswith("-") and not negative) or text == "-0" or int(text) > top:
            self.back(prefix, f'"{text[:40]}" is not a whole number in [0, {top}]')
        return int(text)

    def numbers(self, prefix):
        text = self.take(prefix)
        if not (text.startswith("[") and text.endswith("]")):
            self.back(prefix, "a list in brackets is expected")
        items = text[1:-1].split(", ") if text != "[]" else []
        for item in items:
            if not NUMBER.match(item) or item == "-0":
                self.back(prefix, f'"{item[:40]}" is not a whole number')
        return [int(item) for item in items]

    def word(self, prefix, words):
        text = self.take(prefix)
        if text not in words:
            self.back(prefix, f'"{text[:40]}" is not one of {", ".join(words)}')
        return text

    def truth(self, prefix):
        return self.word(prefix, ("true", "false")) == "true"

    def string(self, prefix):
        text = self.take(prefix)
        if len(text) < 2 or text[0] != '"' or text[-1] != '"':
            self.back(prefix, "a text in double quotes is expected")
        out, i, inner = [], 0, text[1:-1]
        while i < len(inner):
            c = inner[i]
            if c == "\\":
                m = ESCAPE.match(inner, i)
                if not m:
                    self.back(prefix, "an escape is not one of docs/PLAN.md")
                code = m.group(1)
                out.append({'"': '"', "\\": "\\", "t": "\t"}[code] if len(code) == 1 else chr(int(code[1:], 16)))
                i = m.end()
            elif c == '"' or not " " <= c <= "~":
                self.back(prefix, "a character must be escaped")
            else:
                out.append(c)
                i += 1
        value = "".join(out)
        if quote(value) != text:
            self.back(prefix, "the text is not written canonically")
        return value


def quote(value):
    out = ['"']
    for c in value:
        code = ord(c)
        if c in '"\\':
            out.append("\\" + c)
        elif c == "\t":
            out.append("\\t")
        elif 32 <= code < 127:
            out.append(c)
        else:
            out.append(f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}")
    return "".join(out) + '"'


def _provenance(r):
    p = {}
    r.take("provenance:")
    for key in ("tool", "strategy", "replicate", "place", "route", "order", "options", "selected_on"):
        p[key] = r.string(f"  {key}: ")
    p["seed"] = r.number("  seed: ")
    p["work_used"] = r.number("  work_used: ")
    p["stopped_by"] = r.word("  stopped_by: ", ("done", "work_limit", "wall_clock"))
    p["reproducible"] = r.truth("  reproducible: ")
    p["synthetic"] = r.truth("  synthetic: ")
    for key in ("trace_format", "trace_model", "trace_sha256", "topology", "topology_sha256", "model", "model_sha256", "dispatcher"):
        p[key] = r.string(f"  {key}: ")
    p["sources"] = r.word("  sources: ", ("dp", "coupled"))
    p["planned"] = r.truth("  planned: ")
    p["matrix"] = None
    if not p["planned"]:
        if r.peek() == "  matrix:":
            r.at += 1
            p["matrix"] = {"format": r.string("    format: "), "sha256": r.string("    sha256: "),
                           "token_bytes": r.number("    token_bytes: ", 2**24)}
        return p
    r.take("  split:")
    p["split"] = {"kind": r.word("    kind: ", ("none", "hash", "time", "category")),
                  "planning_ppm": r.number("    planning_ppm: ", 1000000), "seed": r.number("    seed: "),
                  "categories": r.string("    categories: ")}
    r.take("  batching:")
    b = {"phase": r.word("    phase: ", ("unknown", "prefill", "decode", "train", "mixed")), "ranks": r.number("    ranks: ", 4096)}
    for key, top in (("batch_per_rank", 2**32 - 1), ("tokens_per_rank", 2**53), ("source_skew_ppm", 2**32 - 1),
                     ("pad_tokens", 2**32 - 1), ("steps_max", 2**32 - 1)):
        b[key] = r.number(f"    {key}: ", top)
    b["resample"] = r.truth("    resample: ")
    b["seed"] = r.number("    seed: ")
    p["batching"] = b
    return p


TRANSFER = re.compile(r"(0|[1-9][0-9]*)>(0|[1-9][0-9]*)(?:\*(0|[1-9][0-9]*))?(?:x([2-9]|[1-9][0-9]+))?")


def _stage(r, text, n, unit):
    """[(src, dst, share, width)] of a stage that is no flush."""
    if text.startswith("+"):
        if not NUMBER.match(text[1:]) or not 1 <= int(text[1:]) < n:
            r.back("      - ", "a rotation is not in [+1, + ends - 1]")
        by = int(text[1:])
        return [(i, (i + by) % n, unit, 1) for i in range(n)]
    out = []
    for item in text.split(" ") if text else []:
        m = TRANSFER.fullmatch(item)
        if not m:
            r.back("      - ", f'"{item[:40]}" is not of the form src>dst, src>dst*share or one of them with a width')
        share = unit if m.group(3) is None else int(m.group(3))
        width = 1 if m.group(4) is None else int(m.group(4))
        if m.group(3) is not None and share == unit:
            r.back("      - ", f'"{item[:40]}": a whole share is written without *')
        if share >= 2**32 or width >= 2**16:
            r.back("      - ", f'"{item[:40]}": share or width is too large')
        out.append((int(m.group(1)), int(m.group(2)), share, width))
    if n > 1 and len(out) == n:
        by = out[0][1]
        if 0 < by < n and out == [(i, (i + by) % n, unit, 1) for i in range(n)]:
            r.back("      - ", f"a rotation is written +{by}")
    return out


def _flush(stages, n, unit):
    """What the stages so far leave of every pair."""
    left = [unit] * (n * n)
    for stage in stages:
        for src, dst, share, _ in stage:
            if src < n and dst < n:
                left[src * n + dst] -= min(share, left[src * n + dst])
    return [(i // n, i % n, x, 1) for i, x in enumerate(left) if x and i // n != i % n]


def _layer(r, plan):
    layer = {"layer": r.number("  - layer: ", 2**32 - 2), "slots": r.numbers("    slots: ")}
    layer["weights"] = r.numbers("    weights: ") if r.peek().startswith("    weights: ") else None
    layer["by_source"] = _by_source(r, plan, layer["slots"]) if r.peek().startswith("    weights_by_source:") else None
    text = r.take("    order: ")
    if text != "concurrent" and not NUMBER.match(text):
        r.back("    order: ", f'"{text[:40]}" is neither concurrent nor an index')
    layer["order"] = None if text == "concurrent" else int(text)
    layer["combine"] = r.word("    combine: ", ("forward", "reversed", "swapped"))
    if plan["provenance"]["planned"]:
        for key in ("rows_max_sum", "dispatch_intra_bytes", "dispatch_inter_bytes", "port_bound_ns"):
            layer[key] = r.number(f"    {key}: ")
        layer["expert_rows"] = r.numbers("    expert_rows: ") if r.peek().startswith("    expert_rows: ") else None
    return layer


BY_SOURCE = re.compile(r'\{expert: (0|[1-9][0-9]*), weights: "([0-9 |*]*)"\}')


def _by_source(r, plan, slots):
    """{expert: [class] -> weights of its slots}, runs of equal classes counted."""
    n_classes = plan["gpus"] if plan["by"] == "gpu" else plan["nodes"]
    if r.peek() == "    weights_by_source: []":
        r.at += 1
        return {}
    r.take("    weights_by_source:")
    table = {}
    if plan["route"] != "sourced":
        while r.peek().startswith("      - "):
            r.at += 1
        return table
    while r.peek().startswith("      - "):
        m = BY_SOURCE.fullmatch(r.take("      - "))
        if not m or int(m.group(1)) in table:
            r.back("      - ", 'not {expert: , weights: "..."}, or there twice')
        rows = []
        for text in m.group(2).split("|"):
            run, star, numbers = text.rpartition("*")
            if not all(NUMBER.match(x) for x in ([run] if star else []) + numbers.split(" ")):
                r.back("      - ", f'"{text[:40]}" is not a list of weights')
            row = tuple(map(int, numbers.split(" ")))
            run = int(run) if star else 1
            if (star and run < 2) or run > n_classes or len(row) != slots.count(int(m.group(1))) or max(row) >= 2**32:
                r.back("      - ", f'"{text[:40]}" is not one weight for each slot, or a run of several classes')
            if rows and rows[-1] == row:
                r.back("      - ", "equal neighbouring classes are written as a run")
            rows += [row] * run
        if len(rows) != n_classes:
            r.back("      - ", f"{len(rows)} classes of sources, and there are {n_classes}")
        table[int(m.group(1))] = rows
    if not table:
        r.fail(1, "weights_by_source is empty: it is written []")
    return table


def _list(r, key, first, read):
    if r.peek() == f"{key}: []":
        r.at += 1
        return []
    r.take(f"{key}:")
    out = []
    while r.peek().startswith(first):
        out.append(read())
    if not out:
        r.fail(1, f"{key} is empty: it is written []")
    return out


def _order(r, plan):
    """`flushes`: the stages written `*`; `ends`: what transfers run between, so many GPUs or nodes."""
    o = {"name": r.string("  - name: "), "between": r.word("    between: ", ("gpus", "nodes")), "unit": r.number("    unit: ", 2**32 - 1),
         "ports": r.number("    ports: ", 65535), "port_bytes_per_s": r.number("    port_bytes_per_s: "), "flushes": [], "stages": []}
    o["ends"] = plan["nodes"] if o["between"] == "nodes" else plan["gpus"]
    if r.peek() == "    stages: []":
        r.at += 1
        return o
    r.take("    stages:")
    while r.peek().startswith("      - "):
        text = r.string("      - ")
        if text == "*":
            o["flushes"].append(len(o["stages"]))
            o["stages"].append(_flush(o["stages"], o["ends"], o["unit"]))
        else:
            o["stages"].append(_stage(r, text, o["ends"], o["unit"]))
    return o


def _colocation(r):
    text = r.take("  - ")
    m = re.fullmatch(r"\{layer: ([0-9]+), expert_a: ([0-9]+), expert_b: ([0-9]+), gpu: ([0-9]+)\}", text)
    if not m or any(str(int(g)) != g for g in m.groups()):
        r.back("  - ", "a pair is not {layer: , expert_a: , expert_b: , gpu: }")
    return dict(zip(("layer", "expert_a", "expert_b", "gpu"), map(int, m.groups())))


BUCKET = re.compile(r"\{gradients: (common|experts), first_layer: (0|[1-9][0-9]*), last_layer: (0|[1-9][0-9]*), bytes: (0|[1-9][0-9]*)\}")


def _training(r, plan):
    t = {"policy": r.string("  policy: "), "share_network": r.truth("  share_network: "),
         "allreduce_waits": r.word("  allreduce_waits: ", ("none", "near", "fits", "behind")),
         "gradient_order": r.word("  gradient_order: ", ("first_ready", "first_needed", "shortest", "listed")), "pipelined": r.truth("  pipelined: ")}
    for key in ("a2a_chunk_bytes", "allreduce_chunk_bytes", "bucket_bytes"):
        t[key] = r.number(f"  {key}: ")
    t["gradient_bits"] = r.number("  gradient_bits: ", 64)
    t["experts_per_gpu"] = r.number("  experts_per_gpu: ", plan["experts"])
    t["offload"] = r.word("  offload: ", ("none", "state", "experts"))
    t["buckets"] = []
    if r.peek() == "  buckets: []":
        r.at += 1
        return t
    r.take("  buckets:")
    while r.peek().startswith("    - "):
        m = BUCKET.fullmatch(r.take("    - "))
        if not m or int(m.group(4)) >= 2**64:
            r.back("    - ", "a bucket is not {gradients: , first_layer: , last_layer: , bytes: }")
        t["buckets"].append((m.group(1), int(m.group(2)), int(m.group(3)), int(m.group(4))))
    if not t["buckets"]:
        r.fail(1, "buckets is empty: it is written []")
    return t


def _outlook(r, plan):
    r.take("prediction:")
    plan["planning_steps"] = r.number("  planning_steps: ", 2**32 - 1)
    plan["step_ns"] = r.number("  step_ns: ")
    pipelined = ("pipelined_step_ns",) if plan["pipelined"] else ()
    for key in pipelined:
        plan[key] = r.number(f"  {key}: ")

    def sample():
        s = {"step": r.number("  - step: ", 2**32 - 1)}
        for key in ("step_ns", "dispatch_ns", "compute_ns", "combine_ns") + pipelined:
            s[key] = r.number(f"    {key}: ")
        return s

    plan["samples"] = _list(r, "samples", "  - ", sample)


def _certificates(r, plan):
    def certificate():
        c = {"kind": r.word("  - kind: ", ("order", "placement", "residual")),
             "proof": r.word("    proof: ", ("closed-form", "search", "stopped")), "scope": r.string("    scope: ")}
        for key in ("value_ns", "bound_ns", "nodes"):
            c[key] = r.number(f"    {key}: ")
        return c

    plan["certificates"] = _list(r, "certificates", "  - ", certificate)


def _packed(r, prefix, shape, top):
    """Whole numbers in [-top, top]: shape[0] groups separated by |, of shape[1] numbers separated by one blank."""
    groups = [part.split(" ") for part in r.string(prefix).split("|")]
    if len(groups) != shape[0] or any(len(g) != shape[1] for g in groups):
        r.back(prefix, f"not {shape[0]} groups of {shape[1]} numbers")
    if not all(NUMBER.match(x) and x != "-0" and abs(int(x)) <= top for g in groups for x in g):
        r.back(prefix, f"a number is not in [-{top}, {top}]")
    return [[int(x) for x in g] for g in groups]


def _homes(r, plan):
    """`weights`: [layer][node from 1 on][expert]."""
    r.at += 1
    h = {"method": r.word("  method: ", ("affinity", "codesign")), "prefix_rows": r.number("  prefix_rows: ", 2**32 - 1),
         "tolerance": r.number("  tolerance: ", 2**40), "price_milli": r.number("  price_milli: ", 10**9)}
    if h["tolerance"] == 0 or not 2 <= plan["nodes"] <= 64:
        r.fail(1, "homes need a tolerance above 0 and 2 to 64 nodes")
    h["bias_milli"] = _packed(r, "  bias_milli: ", (1, plan["nodes"]), 10**9)[0]
    r.take("  weights:")
    h["weights"] = [_packed(r, "    - ", (plan["nodes"] - 1, plan["experts"]), 127) for _ in range(plan["layers"])]
    return h


def _condense(r, plan):
    r.at += 1
    r.take("  lossy: true")
    c = {"threshold": r.number("  threshold_ppm: ", 10**6), "sure": r.number("  sure_ppm: ", 2 * 10**6), "never": r.number("  never_ppm: ", 10**6)}
    c["shares"] = _packed(r, "  condensed_ppm: ", (1, plan["layers"]), 10**6)[0]
    if c["never"] > c["sure"] or min(c["shares"]) < 0:
        r.fail(1, "condense: never_ppm is above sure_ppm, or a share is negative")
    return c


def read(path):
    with open(path, "rb") as f:
        data = f.read()
    head = b"schema: moeplan.plan\nversion: 1\n"
    if not data.startswith(head):
        raise PlanError(f"{path}:1:1: does not start with the first two lines of a plan")
    tail = re.search(rb'\nchecksum: "([0-9a-f]{64})"\n\Z', data)
    if not tail:
        raise PlanError(f"{path}: does not end in a checksum: the file is torn")
    body = data[:tail.start() + 1]
    if hashlib.sha256(body).hexdigest() != tail.group(1).decode():
        raise PlanError(f"{path}: the checksum is not that of the lines above: the file is torn or was edited")
    if any(b != 10 and not 32 <= b <= 126 for b in body):
        raise PlanError(f"{path}: a byte is not printable ASCII")
    r = Lines(path, body.decode("ascii").split("\n")[:-1])
    r.at = 2
    plan = {"provenance": _provenance(r)}
    r.take("shape:")
    for key, top in (("layers", 1024), ("experts", 4096), ("gpus", 4096), ("nodes", 4096), ("slots", 2**20)):
        plan[key] = r.number(f"  {key}: ", top)
        if plan[key] == 0:
            r.back(f"  {key}: ", "0 is not possible")
    plan["gpu_slots"] = r.numbers("  gpu_slots: ")
    plan["gpu_nodes"] = r.numbers("  gpu_nodes: ")
    r.take("rules:")
    plan["route"] = r.word("  route: ", ("even", "nearest", "weighted", "tiered", "sourced"))
    plan["by"] = r.word("  route_sources: ", ("gpu", "node")) if plan["route"] == "sourced" else None
    plan["stages"] = r.word("  stages: ", ("free", "barrier", "coupled"))
    plan["pipelined"] = r.peek().startswith("  timeline: ") and r.word("  timeline: ", ("pipelined",)) == "pipelined"
    plan["pacing"] = r.truth("  pacing: ")
    plan["fallback_ppm"] = r.number("  fallback_ppm: ", 2**32 - 1)
    plan["allow_same_gpu_replicas"] = r.truth("  allow_same_gpu_replicas: ")
    plan["layer_list"] = _list(r, "layers", "  - ", lambda: _layer(r, plan))
    plan["orders"] = _list(r, "orders", "  - ", lambda: _order(r, plan))
    plan["colocation"] = _list(r, "colocation", "  - ", lambda: _colocation(r))
    plan["together"] = None
    if r.peek() == "together:":
        r.at += 1
        plan["together"] = {"role": r.word("  role: ", ("first", "second")), "other_trace_sha256": r.string("  other_trace_sha256: "),
                            "other_model_sha256": r.string("  other_model_sha256: "), "timeline_ns": r.number("  timeline_ns: "),
                            "closed_form_ns": r.number("  closed_form_ns: ")}
    plan["training"] = None
    if r.peek() == "training:":
        r.at += 1
        plan["training"] = _training(r, plan)
    plan["homes"] = _homes(r, plan) if r.peek() == "homes:" else None
    plan["condense"] = _condense(r, plan) if r.peek() == "condense:" else None
    plan.update(planning_steps=0, step_ns=0, samples=[], certificates=[])
    if plan["provenance"]["planned"]:
        _outlook(r, plan)
    if plan["provenance"]["planned"] or plan["provenance"]["matrix"] is not None:
        _certificates(r, plan)
    if r.at != len(r.lines):
        r.fail(1, f'"{r.peek()[:40]}" is not expected here')
    return plan
