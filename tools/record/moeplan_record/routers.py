"""Finds the routers of a Hugging Face model and reads what they chose.

Where the ids come from, first that applies, settled for each layer on the first pass and printed by the program:
  gate      the module `gate` or `router` returns the chosen ids (transformers 5: all; 4: DeepSeek, gpt-oss, ...)
  experts   the module `experts` is handed them
  rule      the gate returns logits only, and the block chooses (transformers 4: Mixtral, Qwen-MoE, OLMoE): its rule is computed again, in
            the same order of operations on the same logits, and compared on the first pass with what the experts were given
Where gate and experts both know ids, they must agree on the first pass.
"""
import re

import torch

from .errors import RecordError

GATES, EXPERTS = ("gate", "router"), ("experts",)
MAX_TOP_K = 64
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def softmax_topk(block, gate, logits):
    """softmax in float32, then the k largest; normalised where the block does."""
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.float)
    weights, ids = torch.topk(probabilities, block.top_k, dim=-1)
    if getattr(block, "norm_topk_prob", True):
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return ids, weights


def llama4(block, gate, logits):
    """The k largest logits; the weight is their sigmoid."""
    values, ids = torch.topk(logits, getattr(block, "top_k", None) or gate.top_k, dim=1)
    return ids, torch.sigmoid(values.float())


# Blocks that choose themselves, by class: read in transformers 4.57 (and, Llama 4, 5.23). (rule, name)
SOFTMAX = (softmax_topk, "softmax, top-k")
RULES = {name: SOFTMAX for name in ("MixtralSparseMoeBlock", "Qwen2MoeSparseMoeBlock", "Qwen3MoeSparseMoeBlock", "OlmoeSparseMoeBlock",
                                    "FlexOlmoSparseMoeBlock", "Qwen3NextSparseMoeBlock", "MiniMaxSparseMoeBlock",
                                    "Qwen3OmniMoeThinkerTextSparseMoeBlock")}
RULES["Llama4TextMoe"] = (llama4, "top-k of the logits")


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [t for v in value for t in tensors_in(v)]


def chosen_in(value, n_rows, n_experts):
    """(ids, weights or None, logits or None) among tensors, as [n_rows, k]; ids None when there are none."""
    ids = weights = logits = dense = None
    found = tensors_in(value)
    for t in found:
        if t.dtype in INTEGERS and t.dim() >= 2 and t.shape[-1] <= MAX_TOP_K and t.numel() == n_rows * t.shape[-1]:
            ids = t.detach().reshape(n_rows, t.shape[-1])
            break
    for t in found:
        if not t.is_floating_point() or t.dim() < 2:
            continue
        if ids is not None and t.numel() == ids.numel() and t.shape[-1] == ids.shape[-1] and t.shape[-1] != n_experts:
            weights = t.detach().reshape(ids.shape) if weights is None else weights
        elif t.shape[-1] == n_experts and t.numel() == n_rows * n_experts:
            dense = t if dense is None else dense  # gpt-oss of transformers 4 returns the scores of all experts
            logits = t  # the last one: Llama 4 returns (scores, logits)
    if ids is not None and weights is None and dense is not None:
        weights = dense.detach().reshape(n_rows, n_experts).gather(1, ids.long())
    return ids, weights, None if logits is None else logits.detach().reshape(n_rows, n_experts)


def places_of(output, ids, weights):
    """Where a gate's ids and weights stand in what it returns, so that later passes need not look; None when they cannot be named so."""
    if not isinstance(output, tuple) or not all(isinstance(t, torch.Tensor) for t in output):
        return None
    at = {t.data_ptr(): i for i, t in reversed(list(enumerate(output))) if t.is_contiguous()}
    i, w = at.get(ids.data_ptr()), None if weights is None else at.get(weights.data_ptr())
    return None if i is None or (weights is not None and w is None) else (i, w)


class Router:
    """One MoE layer: its block, gate and experts, and how its ids are read."""

    def __init__(self, name, block, gate, experts, layer):
        self.name, self.block, self.gate, self.experts, self.layer = name, block, gate, experts, layer
        self.source = None          # "gate", "experts", "rule"
        self.places = None          # of ids and weights in the tuple that the gate returns
        self.output = None          # of the first pass
        self.rule = None
        self.rule_name = ""
        self.scale = float(getattr(gate, "routed_scaling_factor", None) or getattr(block, "routed_scaling_factor", None) or 1.0)
        # LongCat: ids above the experts with weights stand for handing the input back.
        self.n_zero = int(getattr(experts, "zero_expert_num", 0) or 0)
        self.n_experts = experts.num_routed_experts if self.n_zero else experts_of(block, gate, experts)

    def describe(self):
        return {"gate": f"ids of {self.name}'s {type(self.gate).__name__}", "experts": f"ids handed to {type(self.experts).__name__}",
                "rule": f"{self.rule_name} on the logits of {type(self.gate).__name__}, as {type(self.block).__name__} does"}[self.source]


def experts_of(block, gate, experts):
    """How many routed experts a layer has. What the gate says first: its weight may have rows for shared ones (Inkling), the experts' own number may be
    that of this rank (expert parallelism)."""
    if isinstance(experts, torch.nn.ModuleList):
        return len(experts)

    def said(owner):
        return next((n for n in (getattr(owner, name, None) for name in ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"))
                     if isinstance(n, int) and n > 0), None)
    weight = getattr(gate, "weight", None)
    if said(gate) is None and isinstance(weight, torch.Tensor) and weight.dim() == 2:
        return int(weight.shape[0])
    inner = [m for m in gate.modules() if isinstance(m, torch.nn.Linear)]
    return said(gate) or said(experts) or said(block) or (int(inner[-1].weight.shape[0]) if inner else 0)


def layer_of(name):
    """The absolute layer index of a module's name: the number after `layers`, `h` or `blocks`, else its last number."""
    numbers = re.findall(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d+)(?=\.|$)", name) or re.findall(r"(?:^|\.)(\d+)(?=\.|$)", name)
    return int(numbers[-1]) if numbers else None


def find_routers(model, only="", rule=None):
    """The MoE layers of a model, by layer. `only`: modules whose name starts with it."""
    routers = []
    for name, block in model.named_modules():
        if not name.startswith(only):
            continue
        gate = next((m for m in (getattr(block, g, None) for g in GATES) if isinstance(m, torch.nn.Module)), None)
        experts = next((m for m in (getattr(block, e, None) for e in EXPERTS) if isinstance(m, torch.nn.Module)), None)
        if gate is None or experts is None:
            continue
        layer = layer_of(name)
        if layer is None:
            raise RecordError(f"{name}: the layer's index is not in the name of the module")
        router = Router(name, block, gate, experts, layer)
        if not 1 <= router.n_experts <= 4096:
            raise RecordError(f"{name}: {router.n_experts} experts are not in [1, 4096]")
        if rule is not None:
            router.rule, router.rule_name = (lambda b, g, logits: (rule(b, logits), None)), "your rule"
        elif type(block).__name__ in RULES:
            router.rule, router.rule_name = RULES[type(block).__name__]
        routers.append(router)
    if not routers:
        raise RecordError(f"{type(model).__name__} has no module with a gate (or router) and experts{' under ' + only if only else ''}: "
                          "is it a mixture of experts of the transformers library?")
    routers.sort(key=lambda r: r.layer)
    for before, after in zip(routers, routers[1:]):
        if before.layer == after.layer:
            raise RecordError(f"{before.name} and {after.name} are both layer {after.layer} (say which part of the model: only=\"...\", --only)")
    n = {r.n_experts for r in routers}
    if len(n) > 1:
        raise RecordError(f"layers have {sorted(n)} experts: a recording has the same number in all (record a part: only=\"...\", --only)")
    return routers
