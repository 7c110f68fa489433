"""Topologies (topologies/FORMAT.md) and models (docs/MODELS.md): YAML files, built-in ones, short strings."""
import hashlib
import os
import re
from fractions import Fraction

import yaml

# Built-in ones: beside this folder where moeplan is installed (share/moeplan), else in the source tree.
SHARE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
TOPOLOGIES, MODELS = (next((p for p in (os.path.join(SHARE, one), os.path.join(SHARE, "..", *many)) if os.path.isdir(p)), SHARE)
                      for one, many in (("topologies", ["topologies"]), ("models", ["src", "model", "presets"])))
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
         "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "FLOPS": 1, "GFLOPS": 10**9, "TFLOPS": 10**12, "PFLOPS": 10**15, "ppm": 1,
         "%": 10000}
UNITS.update({f"{k}/s": UNITS[k] for k in ("B", "kB", "MB", "GB", "TB", "MiB", "GiB")})
UNITS.update({"kbit/s": Fraction(10**3, 8), "Mbit/s": Fraction(10**6, 8), "Gbit/s": Fraction(10**9, 8), "Tbit/s": Fraction(10**12, 8)})


class InputError(Exception):
    pass


def load_yaml(text):
    return yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))


def bare(node):
    """The scalar of a figure: itself, or the value of {value, source}."""
    return node["value"] if isinstance(node, dict) else node


def amount(node, ratio=False):
    text = bare(node)
    m = re.fullmatch(r"([0-9]+)(\.[0-9]{1,9})? ?(.*)", text)
    if not m or m.group(3) and m.group(3) not in UNITS:
        raise InputError(f'"{text}" is not a quantity')
    scale = UNITS[m.group(3)] if m.group(3) else 10**6 if ratio and m.group(2) else 1
    value = Fraction(m.group(1) + (m.group(2) or "")) * scale
    if value.denominator != 1:
        raise InputError(f'"{text}" is not a whole number of its base unit')
    return int(value)


def ratio(node):
    return amount(node, ratio=True)


class Topology:
    """resources: dicts rate, level, is_in, is_uplink. path(i, j) -> (resource ids, latency, cap)."""

    def __init__(self, data, sha256):
        self.sha256 = sha256
        self.name = data["name"]
        self.launch = amount(data["launch"])
        self.stage_launch = amount(data["stage_launch"]) if "stage_launch" in data else self.launch
        self.levels = [{"name": v["name"], "latency": amount(v["latency"]), "pair": amount(v["pair"]) if "pair" in v else 0,
                        "incast": [ratio(x) for x in v.get("incast", [])], "uplinks": {}} for v in data["levels"]]
        self.own_types = data.get("gpu_types", {})
        self.types, self.resources, self.gpus = {}, [], []
        self._groups = [0] * len(self.levels)
        self._now = [0] * len(self.levels)
        last = len(self.levels) - 1
        if last == 0:
            self._shared = {}
            for entry in data["gpus"]:
                self._add_gpus(entry)
        else:
            self._add_groups(data["groups"], last - 1)
        self._groups[last] = 1
        self.n = len(self.gpus)
        self.n_nodes = self._groups[0]
        self.node = [g["group"][0] for g in self.gpus]
        self._paths = {}
        self.operations, self.operations_max = 0, float("inf")  # of simulating, counted so that it can stop

    def _resource(self, rate, level, is_in, is_uplink=False):
        self.resources.append({"rate": rate, "level": level, "is_in": is_in, "is_uplink": is_uplink})
        return len(self.resources) - 1

    @staticmethod
    def _rates(node):
        if isinstance(node, dict) and "value" not in node:
            if "rate" in node:
                return amount(node["rate"]), amount(node["rate"])
            return amount(node["out"]), amount(node["in"])
        return amount(node), amount(node)

    def _type(self, name):
        if name not in self.types:
            own = self.own_types.get(name)
            t = {}
            if own is None or "preset" in own:
                t.update(gpu_preset(name if own is None else own["preset"]))
            for key in ("memory", "hbm", "flops_16bit", "flops_8bit", "kernel"):
                if own is not None and key in own:
                    t[key] = amount(own[key])
            for key in ("hbm_efficiency", "flops_efficiency"):
                if own is not None and key in own:
                    t[key] = ratio(own[key])
            if own is not None and "tile_tokens" in own:
                t["tile_tokens"] = int(bare(own["tile_tokens"]))
            if own is not None and "compute" in own:
                t["compute"] = own["compute"]
            t.setdefault("flops_8bit", 0)
            t.setdefault("compute", [])
            self.types[name] = t
        return self.types[name]

    def _add_gpus(self, entry):
        repeat = int(entry.get("repeat", "1"))
        gpu_type = self._type(entry["type"])
        for i in range(repeat):
            g = {"type": gpu_type, "speed": ratio(entry["speed"]) if "speed" in entry else 10**6, "group": list(self._now), "out": [],
                 "in": []}
            for level, v in enumerate(self.levels):
                node = entry["ports"].get(v["name"])
                if node is None:
                    g["out"].append(g["out"][level - 1])
                    g["in"].append(g["in"][level - 1])
                    continue
                is_map = isinstance(node, dict) and "value" not in node
                key = (level, node["shared"]) if is_map and "shared" in node else None
                by = int(node.get("shared_by", "1")) if is_map else 1
                if key in self._shared:
                    pair = self._shared[key]
                elif i % by:
                    pair = (self.gpus[-1]["out"][level], self.gpus[-1]["in"][level])
                else:
                    out, into = self._rates(node)
                    pair = (self._resource(out, level, False), self._resource(into, level, True))
                    if key:
                        self._shared[key] = pair
                g["out"].append(pair[0])
                g["in"].append(pair[1])
            self.gpus.append(g)

    def _add_groups(self, entries, level):
        for entry in entries:
            for _ in range(int(entry.get("repeat", "1"))):
                number = self._groups[level]
                self._groups[level] += 1
                self._now[level] = number
                if "uplink" in entry:
                    out, into = self._rates(entry["uplink"])
                    self.levels[level]["uplinks"][number] = (self._resource(out, level, False, True), self._resource(into, level, True, True))
                if level > 0:
                    self._add_groups(entry["groups"], level - 1)
                    continue
                self._shared = {}
                for gpus in entry["gpus"]:
                    self._add_gpus(gpus)

    def path(self, i, j):
        if (i, j) not in self._paths:
            s, d = self.gpus[i], self.gpus[j]
            level = next(v for v in range(len(self.levels)) if s["group"][v] == d["group"][v])
            ids = [s["out"][level]]
            for v in range(level):
                uplinks = self.levels[v]["uplinks"]
                if uplinks:
                    ids += [uplinks[s["group"][v]][0], uplinks[d["group"][v]][1]]
            ids.append(d["in"][level])
            self._paths[i, j] = (tuple(ids), self.levels[level]["latency"], self.levels[level]["pair"])
        return self._paths[i, j]


def gpu_preset(name):
    path = os.path.join(TOPOLOGIES, "gpus", f"{name}.yaml")
    if not os.path.isfile(path):
        raise InputError(f'"{name}" is not a built-in GPU')
    with open(path, "rb") as f:
        d = load_yaml(f.read())
    t = {k: amount(d[k]) for k in ("memory", "hbm", "flops_16bit", "kernel")}
    t["flops_8bit"] = amount(d["flops_8bit"]) if "flops_8bit" in d else 0
    t.update(hbm_efficiency=ratio(d["hbm_efficiency"]), flops_efficiency=ratio(d["flops_efficiency"]),
             tile_tokens=int(bare(d["tile_tokens"])), compute=d.get("compute", []))
    up, nic = d["scale_up"], d["nic"]
    t["usual"] = {"level": up["name"], "rate": amount(up["rate"]), "latency": amount(up["latency"]),
                  "pair": amount(up["pair"]) if "pair" in up else 0, "nic": amount(nic["rate"]), "nic_latency": amount(nic["latency"]),
                  "launch": amount(d["launch"]), "stage_launch": amount(d["stage_launch"])}
    return t


def from_short(spec):
    parts = []
    for text in spec.split("+"):
        m = re.fullmatch(r"(?:([1-9][0-9]*)x)?([1-9][0-9]*):(.+)", text)
        if not m:
            raise InputError(f'"{spec}" is neither a file, a built-in topology nor a short string such as 4x8:h100')
        parts.append((int(m.group(1) or 1), int(m.group(2)), m.group(3), gpu_preset(m.group(3))["usual"]))
    names = {u["level"] for _, _, _, u in parts}
    level = names.pop() if len(names) == 1 else "scale-up"

    def most(key):
        return str(max(u[key] for _, _, _, u in parts)) + " ns"

    has_nic = sum(p[0] for p in parts) > 1
    data = {"name": spec, "launch": most("launch"), "stage_launch": most("stage_launch"), "levels": [{"name": level, "latency": most("latency")}]}
    if parts[0][3]["pair"]:
        data["levels"][0]["pair"] = str(parts[0][3]["pair"])
    groups = []
    for nodes, gpus, name, usual in parts:
        ports = {level: str(usual["rate"])}
        if has_nic:
            ports["nic"] = str(usual["nic"])
        groups.append({"repeat": str(nodes), "gpus": [{"repeat": str(gpus), "type": name, "ports": ports}]})
    if has_nic:
        data["levels"].append({"name": "nic", "latency": most("nic_latency")})
        data["groups"] = groups
    else:
        data["gpus"] = groups[0]["gpus"]
    return Topology(data, hashlib.sha256(spec.encode()).hexdigest())


def _text_of(spec, folder):
    path = spec if os.path.isfile(spec) else os.path.join(folder, f"{spec}.yaml")
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as f:
        return f.read()


def of_another_program(spec):
    """The file in "[N x]FILE[:GPU]" that is not a moeplan topology, or None."""
    for rest in (spec, re.sub("^[0-9]+x", "", spec)):
        for path in (rest, *(rest[:i] for i in range(len(rest) - 1, 0, -1) if rest[i] == ":")):
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    if path == spec and re.search(rb"^schema:", f.read(65536), re.MULTILINE):
                        return None
                return path
    return None


def load_topology(spec):
    is_short = re.match("[0-9]+(x[0-9]+)?:", spec) and not os.path.isfile(spec)
    if not is_short and of_another_program(spec):
        # This program shares no code with moeplan, its readers included: what they make of the file is checked as what it is, a topology.
        raise InputError(f'"{spec}" is not a moeplan topology (write "moeplan convert {spec} topology.yaml", which has the same '
                         "SHA-256, and give topology.yaml)")
    text = _text_of(spec, TOPOLOGIES)
    return from_short(spec) if text is None else Topology(load_yaml(text), hashlib.sha256(text).hexdigest())


def _ceil(a, b):
    return -(-a // b)


class Model:
    def __init__(self, d, sha256):
        def num(key, default=None):
            if key not in d:
                if default is None:
                    raise InputError(f"model: {key} is missing")
                return default
            return amount(d[key])

        def bits(key, default):
            return int(Fraction(bare(d[key])) * 100) if key in d else default * 100

        self.sha256, self.name = sha256, d["name"]
        self.hidden_layers, h, self.experts, self.top_k = num("hidden_layers"), num("hidden_size"), num("experts"), num("top_k")
        moe = d.get("moe_layers", {"first": "0"})
        if isinstance(moe, list):
            self.layer_ids = [int(x) for x in moe]
        else:
            self.layer_ids = list(range(amount(moe["first"]), self.hidden_layers, amount(moe.get("every", "1"))))
        self.shared_experts = num("shared_experts", 0)
        size = num("expert_size")
        shared_size = num("shared_size", self.shared_experts * size)
        mats = 3 if bare(d.get("ffn", "gated")) == "gated" else 2
        weight_bits, dense_bits = bits("weight_bits", 16), num("dense_bits", 16)
        self.is_8bit = num("compute_bits", 16) == 8
        attention = 0
        if "attention" in d:
            a = {k: v for k, v in d["attention"].items() if k != "source"}
            a = {k: amount(v) for k, v in a.items()}
            heads = a["heads"]
            if "kv_lora_rank" in a:
                key = a["nope_dim"] + a["rope_dim"]
                q = a.get("q_lora_rank", 0)
                attention = h * q + q * heads * key if q else h * heads * key
                attention += h * (a["kv_lora_rank"] + a["rope_dim"])
                attention += a["kv_lora_rank"] * heads * (a["nope_dim"] + a["value_dim"]) + heads * a["value_dim"] * h
            else:
                attention = 2 * h * heads * a["head_dim"] + 2 * h * a["kv_heads"] * a["head_dim"]
        self.weight_bits_x100, self.dense_bits_x100 = weight_bits, 100 * dense_bits
        self.expert_bytes = num("expert_bytes", _ceil(mats * h * size * weight_bits, 800))
        self.expert_flops = num("expert_flops", 2 * mats * h * size)
        self.shared_bytes = num("shared_bytes", _ceil(mats * h * shared_size * weight_bits, 800))
        self.shared_flops = num("shared_flops", 2 * mats * h * shared_size)
        self.dispatch_bytes, self.combine_bytes = num("dispatch_bytes", 2 * h), num("combine_bytes", 2 * h)
        self.attention_bytes = num("attention_bytes", _ceil(attention * dense_bits, 8))
        self.attention_flops = num("attention_flops", 2 * attention)
        self.other = num("other", 0)
        # Beside experts, on every GPU: attention of all layers, embeddings, dense FFNs.
        tables = 1 if bare(d.get("tied_embeddings", "false")) == "true" else 2
        dense_layers = self.hidden_layers - len(self.layer_ids)
        weights = tables * num("vocabulary", 0) * h * num("embedding_bits", 16) + dense_layers * mats * h * num("dense_size", 0) * dense_bits
        self.dense_bytes = num("dense_bytes", self.attention_bytes * self.hidden_layers + _ceil(weights, 8))


def load_model(spec):
    text = _text_of(spec, MODELS)
    if text is None:
        raise InputError(f'"{spec}" is neither a file nor a built-in model')
    return Model(load_yaml(text), hashlib.sha256(text).hexdigest())


def generic_model(trace):
    """The stand-in for traces without a model: bf16, hidden 4096, expert 2048, four square attention matrices."""
    k = trace.top_k or 1
    hidden = trace.layer_ids[-1] + 1
    layers = f"{trace.n_layers}" if hidden == trace.n_layers else f"{trace.n_layers} of {hidden}"
    name = f"generic stand-in ({layers} layers, {trace.n_experts} experts, top-{k})"
    d = {"name": name, "hidden_layers": str(hidden), "moe_layers": [str(i) for i in trace.layer_ids], "hidden_size": "4096",
         "experts": str(trace.n_experts), "top_k": str(k),
         "expert_size": "2048", "attention_bytes": str(4 * 4096 * 4096 * 2), "attention_flops": str(4 * 4096 * 4096 * 2)}
    return Model(d, hashlib.sha256(name.encode()).hexdigest())
