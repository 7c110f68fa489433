#!/usr/bin/env python3
"""tools/record on tiny randomly initialised models: what is recorded is what the models' routers chose.

usage: models.py MOEPLAN [TEST]     skips (77) where torch or transformers is missing; MOEPLAN_TORCH_PYTHON names a python that has them
"""
import os
import signal
import subprocess
import sys
import tempfile

from support import SKIP, SOURCE, Moeplan, Trace, check, done, nothing_left, raises, rows_of, weights_of

try:
    import torch
    import transformers
except ImportError as error:
    wanted = os.environ.get("MOEPLAN_TORCH_PYTHON")
    if wanted and "MOEPLAN_TORCH_TRIED" not in os.environ:
        os.execve(wanted, [wanted, *sys.argv], {**os.environ, "MOEPLAN_TORCH_TRIED": "1"})
    print(f"skipped: {error.name} cannot be imported by {wanted or sys.executable}; set MOEPLAN_TORCH_PYTHON to a python that has torch and transformers")
    sys.exit(SKIP)

from moeplan_record import Recorder, RecordError
from moeplan_record.recorder import unwrapped

torch.set_num_threads(1)
END, PAD, VOCABULARY = 1, 0, 96
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4,
          "max_position_embeddings": 512, "tie_word_embeddings": False}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 8}


# ---- the models, and how each chooses, written down again from its paper or code in plain Python numbers ----
def softmax(x):
    x = x.double()
    return (x - x.max(dim=-1, keepdim=True).values).exp() / (x - x.max(dim=-1, keepdim=True).values).exp().sum(dim=-1, keepdim=True)


def largest(scores, k):
    """Indexes of the k largest, falling, and the gap between the last in and the first out."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return order[:k], scores[order[k - 1]] - scores[order[k]]


def by_softmax(gate, x, c):
    return [largest(p, c.num_experts_per_tok) for p in softmax(x @ gate.weight.double().T).tolist()]


def by_logits(gate, x, c):
    return [largest(p, c.num_experts_per_tok) for p in (x @ gate.weight.double().T + gate.bias.double()).tolist()]


def by_groups(scores, c, n_best):
    """Groups by the sum of their n_best scores; then the k largest of the best groups."""
    size = len(scores) // c.n_group
    groups = [scores[g * size:(g + 1) * size] for g in range(c.n_group)]
    best, gap = largest([sum(sorted(g)[-n_best:]) for g in groups] + ([-1e9] if c.topk_group == c.n_group else []), c.topk_group)
    inside = [s if i // size in best else -1e9 for i, s in enumerate(scores)]
    ids, gap2 = largest(inside, c.num_experts_per_tok)
    return ids, min(gap, gap2)


def deepseek_v2(gate, x, c):
    return [by_groups(p, c, 1) for p in softmax(x @ gate.weight.double().T).tolist()]


def deepseek_v3(gate, x, c):
    scores = (x @ gate.weight.double().T).sigmoid() + gate.e_score_correction_bias.double()
    return [by_groups(p, c, 2) for p in scores.tolist()]


def mixtral():
    return transformers.MixtralConfig(num_hidden_layers=3, num_local_experts=8, num_experts_per_tok=2, **COMMON), by_softmax


def qwen2_moe():
    # Layers 0 and 2 are dense.
    return transformers.Qwen2MoeConfig(num_hidden_layers=4, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=16,
                                       shared_expert_intermediate_size=16, decoder_sparse_step=2, **COMMON), by_softmax


def qwen3_moe():
    return transformers.Qwen3MoeConfig(num_hidden_layers=3, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=16, head_dim=8,
                                       mlp_only_layers=[0], norm_topk_prob=True, **COMMON), by_softmax


def olmoe():
    return transformers.OlmoeConfig(num_hidden_layers=2, num_experts=64, num_experts_per_tok=8, **COMMON), by_softmax


def deepseek2():
    return transformers.DeepseekV2Config(num_hidden_layers=3, first_k_dense_replace=1, n_routed_experts=16, num_experts_per_tok=3, n_shared_experts=1,
                                         moe_intermediate_size=16, topk_method="group_limited_greedy", n_group=4, topk_group=2,
                                         routed_scaling_factor=1.0, **{**COMMON, **LATENT}), deepseek_v2


def deepseek3():
    return transformers.DeepseekV3Config(num_hidden_layers=4, first_k_dense_replace=2, n_routed_experts=32, num_experts_per_tok=4, n_shared_experts=1,
                                         moe_intermediate_size=16, n_group=4, topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=True,
                                         **{**COMMON, **LATENT}), deepseek_v3


def gpt_oss():
    return transformers.GptOssConfig(num_hidden_layers=2, num_local_experts=16, num_experts_per_tok=4, head_dim=8, sliding_window=16,
                                     layer_types=["sliding_attention", "full_attention"], **COMMON), by_logits


MODELS = {"mixtral": mixtral, "qwen2_moe": qwen2_moe, "qwen3_moe": qwen3_moe, "olmoe": olmoe, "deepseek_v2": deepseek2, "deepseek_v3": deepseek3,
          "gpt_oss": gpt_oss}
LAYERS = {"mixtral": "0-2", "qwen2_moe": "1, 3", "qwen3_moe": "1-2", "olmoe": "0-1", "deepseek_v2": "1-2", "deepseek_v3": "2-3", "gpt_oss": "0-1"}


def make(name, seed=0):
    torch.manual_seed(seed)
    config, rule = MODELS[name]()
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for p in (*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith("correction_bias"))):
        if p.dim() >= 1 and p.is_floating_point() and not (p.dim() == 1 and bool((p == 1).all())):
            p.data.normal_(0.0, 0.3)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, END
    return model, config, rule


def prompts_of(lengths, seed=3):
    """Random prompts as rows, and padded on the left with their mask."""
    g = torch.Generator().manual_seed(seed)
    rows = [torch.randint(2, VOCABULARY, (n,), generator=g).tolist() for n in lengths]
    longest = max(lengths)
    tokens = torch.tensor([[PAD] * (longest - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    return rows, tokens, mask


def recomputed(model, config, rule, row):
    """[token][layer] -> (ids, gap) of one sequence alone, without padding and cache, from the inputs of its gates."""
    inputs, handles = {}, []
    gates = [(n, m) for n, m in model.named_modules() if n.endswith((".gate", ".router")) and hasattr(m, "weight")]
    for name, gate in gates:
        handles.append(gate.register_forward_pre_hook(lambda m, a, name=name: inputs.__setitem__(name, a[0].detach().reshape(-1, a[0].shape[-1]).double())))
    with torch.no_grad():
        model(input_ids=torch.tensor([row]), use_cache=False)
    for h in handles:
        h.remove()
    by_layer = [rule(gate, inputs[name], config) for name, gate in gates]
    return [[layer[t] for layer in by_layer] for t in range(len(row))]


def agree(what, got, expected):
    """Same sets; where the last expert in and the first out are as good as equal, batch and sequence may round differently."""
    close = wrong = 0
    check(len(got) == len(expected), f"{what}: {len(got)} tokens are {len(expected)}")
    for g, e in zip(got, expected):
        for ids, (want, gap) in zip(g, e):
            if set(ids) != set(want):
                close += gap < 1e-4
                wrong += gap >= 1e-4
    check(wrong == 0 and close <= 2, f"{what}: {wrong} lists differ, {close} nearly equal ones")


# ---- tests ----
def test_ids_are_the_models(moeplan, folder, name):
    """generate() with left padding: every recorded list is what the paper's rule makes of that sequence run alone; prefill and decode apart."""
    model, config, rule = make(name)
    rows, tokens, mask = prompts_of([9, 4, 12, 1])
    path = os.path.join(folder, f"{name}.mpt")
    with Recorder(model, path, weights=True, model_name=f"tiny/{name}", source=3) as r:
        r.requests(ids=[10, 11, 12, 13], categories=["math", "code", "math", "chat"])
        made = model.generate(tokens, attention_mask=mask, max_new_tokens=8, do_sample=False)
    print(f"{name}: {'; '.join(r.summary.notes)}")
    again = model.generate(tokens, attention_mask=mask, max_new_tokens=8, do_sample=False)
    check(torch.equal(made, again) and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()), f"{name}: the model is as it was")
    check("generate" not in model.__dict__, f"{name}: generate() is its own again")
    prefill, decode = (Trace(os.path.join(folder, f"{name}.{p}.mpt")) for p in ("prefill", "decode"))
    n_decoded = 0
    for s, row in enumerate(rows):
        new = made[s, tokens.shape[1]:].tolist()
        new = new[:new.index(END)] if END in new else new[:-1]  # neither the end nor the last one is ever computed for
        n_decoded += len(new)
        expected = recomputed(model, config, rule, row + new)
        agree(f"{name}: prompt {s}", rows_of(prefill, 10 + s), expected[:len(row)])
        if new:
            agree(f"{name}: response {s}", rows_of(decode, 10 + s), expected[len(row):])
            check(next(x[3] for x in decode.requests if x[0] == 10 + s) == len(row), f"{name}: decoding starts behind the prompt")
    experts = config.num_local_experts if hasattr(config, "num_local_experts") else getattr(config, "num_experts", 0)
    for phase, n_rows in (("prefill", 26), ("decode", n_decoded)):
        facts = moeplan.facts(os.path.join(folder, f"{name}.{phase}.mpt"))
        for fact, value in (("tokens", str(n_rows)), ("phase", phase), ("layer ids", LAYERS[name]), ("top_k", str(config.num_experts_per_tok)),
                            ("ranked", "yes"), ("weights", "yes"), ("model", f"tiny/{name}"), ("experts", str(experts or config.n_routed_experts))):
            check(facts.get(fact) == value, f"{name}, {phase}: {fact} {facts.get(fact)} is {value}")
    check([r[4] for r in prefill.requests] == [3] * 4 and prefill.categories == ["math", "code", "chat"], f"{name}: sources and categories")
    for layer in range(prefill.n_layers):
        for row in range(prefill.n_rows):
            w = weights_of(prefill, layer, row)
            check(list(w) == sorted(w, reverse=True) and w[0] > 0, f"{name}: weights {w} fall")
            if name in ("mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"):
                check(abs(sum(w) - 65535) <= len(w), f"{name}: weights {w} add up to 1 (a scaling factor is taken out)")


def test_router_logits(folder):
    """What output_router_logits says of the same pass."""
    for name in ("mixtral", "qwen2_moe", "olmoe"):
        model, config, _ = make(name, 5)
        rows, tokens, mask = prompts_of([7, 5])
        path = os.path.join(folder, name + ".mpt")
        with Recorder(model, path, phase="prefill"), torch.no_grad():
            out = model(input_ids=tokens, attention_mask=mask, output_router_logits=True, use_cache=False)
        t = Trace(path)
        for layer, logits in enumerate(out.router_logits):
            ids = logits.float().topk(config.num_experts_per_tok, dim=-1).indices.reshape(2, 7, -1)
            for s, row in enumerate(rows):
                check([r[layer] for r in rows_of(t, s)] == [tuple(i) for i in ids[s, 7 - len(row):].tolist()], f"{name}: router_logits of layer {layer}")


def test_right_padding(folder):
    model, config, rule = make("mixtral")
    rows, _, _ = prompts_of([3, 8, 5])
    tokens = torch.tensor([r + [PAD] * (8 - len(r)) for r in rows])
    mask = (torch.arange(8)[None] < torch.tensor([[len(r)] for r in rows])).long()
    path = os.path.join(folder, "right.mpt")
    with Recorder(model, path, phase="prefill"), torch.no_grad():
        model(tokens, mask)
    t = Trace(path)
    check([r[2] for r in t.requests] == [3, 8, 5], "padding on the right is not recorded")
    for s, row in enumerate(rows):
        agree(f"right padding {s}", rows_of(t, s), recomputed(model, config, rule, row))


def test_own_loop(folder):
    """A loop of one's own over the cache, then a second turn: requests of their own, at their positions."""
    model, config, rule = make("deepseek_v3")
    rows, tokens, mask = prompts_of([6, 4])
    path = os.path.join(folder, "loop.mpt")
    fed = [list(r) for r in rows]
    with Recorder(model, path) as r, torch.no_grad():
        out = model(input_ids=tokens, attention_mask=mask, use_cache=True)
        for _ in range(5):
            new = torch.randint(2, VOCABULARY, (2, 1))
            mask = torch.cat([mask, torch.ones_like(new)], dim=1)
            out = model(input_ids=new, attention_mask=mask, past_key_values=out.past_key_values, use_cache=True)
            for s in range(2):
                fed[s].append(int(new[s]))
        turn = torch.randint(2, VOCABULARY, (2, 3))
        mask = torch.cat([mask, torch.ones_like(turn)], dim=1)
        model(input_ids=turn, attention_mask=mask, past_key_values=out.past_key_values, use_cache=True)
    prefill, decode = Trace(os.path.join(folder, "loop.prefill.mpt")), Trace(os.path.join(folder, "loop.decode.mpt"))
    check([(q[0], q[2], q[3]) for q in prefill.requests] == [(0, 6, 0), (1, 4, 0), (2, 3, 11), (3, 3, 9)], f"turns {prefill.requests}")
    check([(q[0], q[2], q[3]) for q in decode.requests] == [(0, 5, 6), (1, 5, 4)], f"decoded {decode.requests}")
    for s in range(2):
        expected = recomputed(model, config, rule, fed[s] + turn[s].tolist())
        agree("own loop, prompt", rows_of(prefill, s), expected[:len(rows[s])])
        agree("own loop, decoded", rows_of(decode, s), expected[len(rows[s]):-3])
        agree("own loop, second turn", rows_of(prefill, 2 + s), expected[-3:])


def test_ends(folder):
    """A sequence that ends while others go on: its end and the padding fed behind it are not recorded."""
    model, _, _ = make("olmoe")
    rows, tokens, mask = prompts_of([5, 5, 5])

    class Script(transformers.LogitsProcessor):
        """Sequence 0 ends after 2 tokens, 1 after 4, 2 never."""
        step = 0

        def __call__(self, input_ids, scores):
            wanted = [END if self.step == 2 else 40, END if self.step == 4 else 41, 42]
            self.step += 1
            forced = torch.full_like(scores, -1e9)
            forced[torch.arange(3), torch.tensor(wanted)] = 0
            return forced
    path = os.path.join(folder, "ends.mpt")
    with Recorder(model, path, phase="decode") as r:
        model.generate(tokens, attention_mask=mask, max_new_tokens=9, do_sample=False, logits_processor=transformers.LogitsProcessorList([Script()]))
    check([q[2] for q in Trace(path).requests] == [2, 4, 8], f"rows {[q[2] for q in Trace(path).requests]} are 2, 4, 8")
    for name, more, expected in (("none", {"eos_token_id": None}, [8, 8, 8]), ("other", {"eos_token_id": 41}, [8, 8])):
        with Recorder(model, path, phase="decode") as r:
            model.generate(tokens, attention_mask=mask, max_new_tokens=9, do_sample=False, logits_processor=transformers.LogitsProcessorList([Script()]), **more)
        check([q[2] for q in Trace(path).requests] == expected, f"eos {name}: rows {[q[2] for q in Trace(path).requests]} are {expected}")
    check(len(r.summary.files) == 1 and r.summary.files[0][2] == 16, "the summary counts")


def test_sampling_and_static_cache(folder):
    """num_return_sequences makes a request of each; a static cache hands forward() masks of its own shape."""
    model, config, rule = make("qwen3_moe")
    rows, tokens, mask = prompts_of([6, 3])
    path = os.path.join(folder, "sampled.mpt")
    torch.manual_seed(1)
    with Recorder(model, path) as r:
        made = model.generate(tokens, attention_mask=mask, max_new_tokens=5, do_sample=True, num_return_sequences=3, eos_token_id=None)
    prefill, decode = (Trace(os.path.join(folder, f"sampled.{p}.mpt")) for p in ("prefill", "decode"))
    check([q[2] for q in prefill.requests] == [6, 6, 6, 3, 3, 3] and [q[2] for q in decode.requests] == [4] * 6, "six requests of two prompts")
    agree("sampled", rows_of(decode, 4), recomputed(model, config, rule, rows[1] + made[4, 6:-1].tolist())[3:])
    with Recorder(model, path) as r:
        made = model.generate(tokens, attention_mask=mask, max_new_tokens=5, do_sample=False, cache_implementation="static", eos_token_id=None, disable_compile=True)
    prefill, decode = (Trace(os.path.join(folder, f"sampled.{p}.mpt")) for p in ("prefill", "decode"))
    check([q[2] for q in prefill.requests] == [6, 3], f"static cache: prompts {[q[2] for q in prefill.requests]}")
    for s in range(2):
        expected = recomputed(model, config, rule, rows[s] + made[s, 6:-1].tolist())
        agree("static cache, prompt", rows_of(prefill, s), expected[:len(rows[s])])
        agree("static cache, decoded", rows_of(decode, s), expected[len(rows[s]):])


def test_known_responses(folder):
    """Prompt and response in one pass are the rows that generating gave."""
    model, _, _ = make("deepseek_v2")
    rows, tokens, mask = prompts_of([6, 3])
    a, b = os.path.join(folder, "a.mpt"), os.path.join(folder, "b.mpt")
    with Recorder(model, a) as r:
        made = model.generate(tokens, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None)
    whole = [r + made[s, 6:-1].tolist() for s, r in enumerate(rows)]
    with Recorder(model, b, eos_token_id=()) as r, torch.no_grad():
        r.requests(prompt_tokens=[6, 3])
        mask = (torch.arange(11)[None] < torch.tensor([[len(w)] for w in whole])).long()
        model(input_ids=torch.tensor([w + [PAD] * (11 - len(w)) for w in whole]), attention_mask=mask)
    for phase in ("prefill", "decode"):
        x, y = (Trace(os.path.join(folder, f"{n}.{phase}.mpt")) for n in "ab")
        check(x.requests == y.requests and all(rows_of(x, s) == rows_of(y, s) for s in range(2)), f"known responses: {phase}")


def record_generate(model, path, tokens, **arguments):
    with Recorder(model, path) as r:
        model.generate(tokens, **arguments)
    return r.summary


def test_chunked_prefill_and_conversation(folder):
    """generate() with prefill in chunks; a second generate() that continues the cache of the first."""
    model, config, rule = make("mixtral")
    rows, tokens, mask = prompts_of([11, 11])
    path = os.path.join(folder, "chunked.mpt")
    chunks = {"prefill_chunk_size": 4}
    if transformers.__version__.startswith("4."):
        raises(RecordError, "around its hooks", lambda: record_generate(model, path, tokens, attention_mask=mask, max_new_tokens=4, **chunks))
        chunks = {}
    with Recorder(model, path):
        out = model.generate(tokens, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None, return_dict_in_generate=True, **chunks)
        first = out.sequences
        turn = torch.cat([first, torch.randint(2, VOCABULARY, (2, 3))], dim=1)
        model.generate(turn, attention_mask=torch.ones_like(turn), past_key_values=out.past_key_values, max_new_tokens=3, do_sample=False, eos_token_id=None)
    prefill, decode = (Trace(os.path.join(folder, f"chunked.{p}.mpt")) for p in ("prefill", "decode"))
    # The last token of the first answer is computed in the second turn.
    check([(q[2], q[3]) for q in prefill.requests] == [(11, 0), (11, 0), (4, 14), (4, 14)], f"prompts {prefill.requests}")
    check([(q[2], q[3]) for q in decode.requests] == [(3, 11), (3, 11), (2, 18), (2, 18)], f"decoded {decode.requests}")
    for s in range(2):
        expected = recomputed(model, config, rule, turn[s].tolist())
        agree("chunked", rows_of(prefill, s), expected[:11])
        agree("conversation", rows_of(prefill, 2 + s), expected[14:])


def test_refusals(folder):
    model, _, _ = make("mixtral")
    _, tokens, mask = prompts_of([5, 3])
    path = os.path.join(folder, "refused.mpt")

    def generate(**more):
        with Recorder(model, path):
            model.generate(tokens, attention_mask=mask, max_new_tokens=3, **more)

    def forward(**more):
        with Recorder(model, path), torch.no_grad():
            model(input_ids=tokens, **more)
    raises(RecordError, "beam search", lambda: generate(num_beams=2))
    raises(RecordError, "guessed tokens", lambda: generate(prompt_lookup_num_tokens=2))
    raises(RecordError, "packed", lambda: forward(position_ids=torch.tensor([[0, 1, 2, 0, 1]] * 2)))
    raises(RecordError, "all padding", lambda: forward(attention_mask=torch.tensor([[1] * 5, [0] * 5])))
    raises(RecordError, "does not say which tokens are padding", lambda: forward(attention_mask=torch.zeros(2, 1, 5, 5)))
    raises(RecordError, "nothing was recorded: no forward pass", lambda: Recorder(model, path).close())

    def inner():
        with Recorder(model, path), torch.no_grad():
            model.model(input_ids=tokens)
    raises(RecordError, "router calls came from elsewhere", inner)

    def cropped():
        with Recorder(model, path), torch.no_grad():
            out = model(input_ids=tokens, use_cache=True)
            out.past_key_values.crop(-2)
            model(input_ids=tokens[:, :1], past_key_values=out.past_key_values)
    raises(RecordError, "cropped or reordered", cropped)

    def wrong_number():
        with Recorder(model, path) as r:
            r.requests(ids=[1, 2, 3])
            model(input_ids=tokens)
    raises(RecordError, "told of 3 sequences and the batch has 2", wrong_number)
    raises(RecordError, "no module with a gate", lambda: Recorder(torch.nn.Linear(2, 2), path))
    raises(RecordError, "not both, prefill, decode or train", lambda: Recorder(model, path, phase="mixed"))

    class Block(torch.nn.Module):
        """Chooses by a rule of its own."""
        def __init__(self):
            super().__init__()
            self.gate, self.experts = torch.nn.Linear(8, 4), torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))

        def forward(self, x):
            ids = (-self.gate(x)).topk(2, dim=-1).indices
            return sum(torch.where((ids == e).any(dim=-1, keepdim=True), expert(x), 0) for e, expert in enumerate(self.experts))

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([Block(), Block()])

        def forward(self, inputs_embeds):
            for layer in self.layers:
                inputs_embeds = layer(inputs_embeds.reshape(-1, 8)).reshape(inputs_embeds.shape)
            return inputs_embeds
    odd, x = Odd(), torch.randn(2, 5, 8)

    def unknown(**more):
        with Recorder(odd, path, phase="prefill", **more):
            odd(inputs_embeds=x)
    raises(RecordError, "how Block chooses by them is not known here (give rule=...)", unknown)
    nothing_left(folder, [])
    unknown(rule=lambda block, logits: (-logits).topk(2, dim=-1).indices)
    expected = (-odd.layers[0].gate(x[1])).topk(2, dim=-1).indices.tolist()
    check([list(r[0]) for r in rows_of(Trace(path), 1)] == expected, "a rule of the caller")


def test_disagreement(folder):
    """A block that gives its experts other ids than the gate returned: refused, or as said."""
    model, _, _ = make("mixtral")
    if isinstance(model.model.layers[0].mlp.experts if hasattr(model.model.layers[0], "mlp") else torch.nn.ModuleList(), torch.nn.ModuleList):
        return  # transformers 4: the experts are a list
    _, tokens, _ = prompts_of([5, 5])
    path = os.path.join(folder, "d.mpt")
    experts = model.model.layers[1].mlp.experts

    def shift(module, args, kwargs):
        return (args[0], (args[1] + 1) % 8, *args[2:]), kwargs
    handle = experts.register_forward_pre_hook(shift, with_kwargs=True)
    seen = {}

    def run(which):
        with Recorder(model, path, phase="prefill", ids_from=which), torch.no_grad():
            model(input_ids=tokens)
        seen[which] = [r[1] for r in rows_of(Trace(path), 0)]
    raises(RecordError, "differ (say which count", lambda: run(None))
    run("gate")
    run("experts")
    check([tuple((i + 1) % 8 for i in ids) for ids in seen["gate"]] == seen["experts"], "gate or experts, as said")
    handle.remove()


def test_interrupted(folder):
    """An exception in the block leaves nothing, or, where that was asked for, what was recorded so far."""
    model, _, _ = make("olmoe")
    _, tokens, mask = prompts_of([5, 4])

    def run(path, keep):
        with Recorder(model, path, phase="prefill", keep_partial=keep), torch.no_grad():
            model(input_ids=tokens, attention_mask=mask)
            raise KeyboardInterrupt

    def nothing_yet():
        with Recorder(model, os.path.join(folder, "empty.mpt"), keep_partial=True):
            raise KeyboardInterrupt
    raises(KeyboardInterrupt, "", lambda: run(os.path.join(folder, "none.mpt"), False))
    nothing_left(folder, [])
    raises(KeyboardInterrupt, "", lambda: run(os.path.join(folder, "some.mpt"), True))
    nothing_left(folder, ["some.mpt"])
    check(Trace(os.path.join(folder, "some.mpt")).n_rows == 9, "what was recorded so far")
    raises(KeyboardInterrupt, "", nothing_yet)
    nothing_left(folder, ["some.mpt"])


def test_training(moeplan, folder):
    """Passes of training, with gradients: one phase, and the backward pass does not mind."""
    model, config, rule = make("qwen2_moe")
    rows, tokens, mask = prompts_of([7, 7])
    path = os.path.join(folder, "train.mpt")
    with Recorder(model.train(), path, phase="train"):
        model(input_ids=tokens, attention_mask=mask, labels=tokens).loss.backward()
    check(model.model.layers[1].mlp.gate.weight.grad is not None and moeplan.facts(path)["phase"] == "train", "a training recording")
    agree("training", rows_of(Trace(path), 1), recomputed(model.eval(), config, rule, rows[1]))


def test_memory(folder):
    """Many passes: what is held does not grow with the tokens. What waits for the unnamed file is limited to 1 MiB here, not 16."""
    import tracemalloc
    from moeplan_record import native
    model, _, _ = make("olmoe")
    tokens = torch.randint(2, VOCABULARY, (8, 64))
    path, usual = os.path.join(folder, "long.mpt"), native.WAITING_BYTES
    native.WAITING_BYTES = 1 << 20
    with Recorder(model, path, phase="prefill", weights=True) as r, torch.no_grad():
        for i in range(400):
            model(input_ids=tokens, use_cache=False)
            if i == 128:  # two times the most passes that wait
                tracemalloc.start()
        check(len(r.pending) <= 64, f"{len(r.pending)} passes wait")
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    native.WAITING_BYTES = usual
    n_rows = r.summary.files[0][2]
    bytes_ = n_rows * 2 * 8 * 3
    print(f"{n_rows:,} tokens, {bytes_ / 1e6:.1f} MB of ids and weights: Python holds {held / 1e6:.1f} MB after the last of 400 passes (peak {peak / 1e6:.1f})")
    check(n_rows == 400 * 512 and peak < 3 << 20, f"{peak} bytes held")


def test_compiled_and_wrapped(folder):
    """torch.compile, before or after the Recorder; PEFT-like and DataParallel wrappers are looked through."""
    model, config, rule = make("olmoe")
    rows, tokens, mask = prompts_of([6, 4])
    path = os.path.join(folder, "compiled.mpt")
    check(unwrapped(torch.nn.DataParallel(model)) is model, "DataParallel is looked through")
    plain = os.path.join(folder, "plain.mpt")
    with Recorder(model, plain, phase="prefill"), torch.no_grad():
        model(input_ids=tokens, attention_mask=mask, use_cache=False)
    for when in ("before", "after", "run before"):
        torch.compiler.reset()
        with torch.no_grad():
            compiled = torch.compile(model, backend="eager") if when != "after" else None
            if when == "run before":
                compiled(input_ids=tokens, attention_mask=mask, use_cache=False)
            try:
                with Recorder(compiled if compiled is not None else model, path, phase="prefill"):
                    compiled = compiled if compiled is not None else torch.compile(model, backend="eager")
                    for _ in range(2):
                        compiled(input_ids=tokens, attention_mask=mask, use_cache=False)
            except RecordError as error:
                check(when == "run before", f"compiled {when}: {error}")
                print(f"compiled and run before the Recorder: {error}")
                continue
        t, p = Trace(path), Trace(plain)
        check(t.n_rows == 20 and all(rows_of(t, s) == rows_of(p, s % 2) for s in range(4)), f"compiled {when}: the same rows as uncompiled, twice")


def test_program(moeplan, folder):
    """The program on a saved model: prompts as token numbers; the same bytes twice; responses that are known; interrupted."""
    import json
    model, _, _ = make("qwen2_moe")
    model.save_pretrained(os.path.join(folder, "model"))
    rows, _, _ = prompts_of([6, 3, 9, 2, 5])
    prompts = os.path.join(folder, "prompts.jsonl")
    with open(prompts, "w", encoding="utf-8") as f:
        for i, row in enumerate(rows):
            f.write(json.dumps({"input_ids": row, "request": 50 + i, "category": "ab"[i % 2]}) + "\n")
    out = os.path.join(folder, "out")
    os.mkdir(out)

    def run(*arguments, rc=0, started=None):
        command = [sys.executable, os.path.join(SOURCE, "tools", "record", "record.py"), "--model", os.path.join(folder, "model"), "--prompts", prompts,
                   "--device", "cpu", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if started is not None:
            started(process)
        text, errors = process.communicate()
        check(process.returncode == rc and text == "", f"record.py {arguments}: exit {process.returncode}: {text} {errors[-600:]}")
        return errors
    said = run("-o", os.path.join(out, "a.mpt"), "--batch", "2", "--max-new-tokens", "4", "--ignore-eos", "--source", "1")
    check("a.decode.mpt: 20 decode tokens of 5 requests, sha256 " in said and "ids of the block's" in said or "softmax" in said, f"summary {said!r}")
    nothing_left(out, ["a.decode.mpt", "a.prefill.mpt"])
    decode = Trace(os.path.join(out, "a.decode.mpt"))
    check([(q[0], q[2], q[4]) for q in decode.requests] == [(50 + i, 4, 1) for i in range(5)] and decode.categories == ["a", "b"] and decode.model == "model",
          f"requests {decode.requests}")
    table = moeplan.run("compare", os.path.join(out, "a.decode.mpt"), "2:h100", "--resample", "--batch", "2", "--steps", "4", "--strategy", "trivial,eplb")
    check("trivial" in table and "eplb" in table, f"compare {table!r}")
    again = os.path.join(folder, "again.mpt")
    moeplan.run("convert", os.path.join(out, "a.decode.mpt"), again)
    check(Trace(again).sha256 == decode.sha256, "convert keeps the sha256")
    run("-o", os.path.join(folder, "c.mpt"), "--batch", "2", "--max-new-tokens", "4", "--ignore-eos", "--source", "1", "--phase", "decode", "--quiet")
    check(Trace(os.path.join(folder, "c.mpt")).sha256 == decode.sha256, "recorded again: the same sha256")
    run("-o", os.path.join(out, "b.mpt"), "--phase", "prefill", "--quiet")
    check(Trace(os.path.join(out, "b.mpt")).n_rows == 25, "prefill alone")

    def interrupt(process):
        import time
        while process.poll() is None and not any(n.startswith("x") for n in os.listdir(out)):
            time.sleep(0.01)
            if os.path.exists(f"/proc/{process.pid}/fd") and any("(deleted)" in link(process.pid, n) and out in link(process.pid, n)
                                                                  for n in os.listdir(f"/proc/{process.pid}/fd")):
                process.send_signal(signal.SIGTERM)  # SIGINT is ignored where a shell started all this in the background
                return

    def link(pid, n):
        try:
            return os.readlink(f"/proc/{pid}/fd/{n}")
        except OSError:
            return ""
    known = os.path.join(folder, "known.jsonl")
    with open(known, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps({"input_ids": row, "response_ids": [5, 6, 7]}) + "\n")
    plain, prompts = prompts, known
    run("-o", os.path.join(out, "k.mpt"), "--batch", "3", "--quiet", "--weights")
    prompts = plain
    check([q[2] for q in Trace(os.path.join(out, "k.decode.mpt")).requests] == [3] * 5 and Trace(os.path.join(out, "k.prefill.mpt")).n_rows == 25, "known responses")
    said = run("-o", os.path.join(out, "x.mpt"), "--max-new-tokens", "400", "--ignore-eos", "--batch", "1", rc=130, started=interrupt)
    check("interrupted: no file is left" in said, f"{said[-300:]!r}")
    nothing_left(out, ["a.decode.mpt", "a.prefill.mpt", "b.mpt", "k.decode.mpt", "k.prefill.mpt"])


def main():
    moeplan = Moeplan(sys.argv[1])
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    transformers.logging.set_verbosity_error()
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            if only in "test_ids_are_the_models_" + name:
                test_ids_are_the_models(moeplan, folder, name)
    for test in (test_router_logits, test_right_padding, test_own_loop, test_ends, test_sampling_and_static_cache, test_known_responses,
                 test_chunked_prefill_and_conversation, test_refusals, test_disagreement, test_interrupted, test_memory, test_compiled_and_wrapped):
        if only in test.__name__:
            with tempfile.TemporaryDirectory() as folder:
                test(folder)
    for test in (test_training, test_program):
        if only in test.__name__:
            with tempfile.TemporaryDirectory() as folder:
                test(moeplan, folder)
    return done()


if __name__ == "__main__":
    sys.exit(main())
