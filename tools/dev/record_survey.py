#!/usr/bin/env python3
"""Tries tools/record on every mixture of experts of the installed transformers whose default configuration can be made small.

    tools/dev/record_survey.py [MODEL_TYPE ...]

One line each: recorded (layers, experts, tokens of prefill and decode, where the ids come from), refused (the recorder's sentence), or not built (the
model or its generate() does not take these sizes; says nothing about the recorder). Minutes; some models are left out because they stay large.
"""
import glob
import os
import re
import sys
import tempfile
import warnings

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "record"))
from moeplan_record import Recorder, RecordError  # noqa: E402

WIDTHS = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "head_dim": 8,
          "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
          "qk_nope_head_dim": 8, "v_head_dim": 8, "num_hidden_layers": 4, "expert_ffn_size": 16, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 16}
EXPERTS = {"num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "moe_num_experts": 8, "num_experts_per_tok": 2, "moe_topk": 2, "moe_k": 2,
           "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "num_shared_experts": 1, "zero_expert_num": 4, "first_k_dense_replace": 1,
           "num_dense_layers": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
LARGE = {"gemma4", "llama4"}


def has_experts(model_type):
    stem = model_type.removesuffix("_text")
    found = glob.glob(os.path.join(os.path.dirname(transformers.__file__), "models", stem, f"modeling_{stem}.py"))
    if not found:
        return False
    with open(found[0], encoding="utf-8") as f:
        return re.search(r"class \w*(Experts|SparseMoe|MoE|Moe)\w*\(", f.read()) is not None


def attempt(model_type):
    torch.manual_seed(0)
    kind = CONFIG_MAPPING[model_type]
    usual = kind()
    sizes = {k: v for k, v in {**WIDTHS, **EXPERTS}.items() if getattr(usual, k, None) is not None or k in ("vocab_size", "num_hidden_layers")}
    model = transformers.AutoModelForCausalLM.from_config(kind(**sizes)).eval()
    tokens = torch.randint(3, 90, (2, 6))
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    with tempfile.TemporaryDirectory() as folder:
        with Recorder(model, os.path.join(folder, "a.mpt"), progress=False) as r:
            model.generate(tokens, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None)
        tokens = " and ".join(str(f[2]) for f in r.summary.files)
        return f"{len(r.layers)} layers of {r.n_experts} experts, top-{r.top_k}, {tokens} tokens; {'; '.join(r.summary.notes)}"


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    counts = {"recorded": 0, "refused": 0, "not built": 0}
    for model_type in sys.argv[1:] or sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - LARGE):
        if not has_experts(model_type):
            continue
        try:
            outcome, text = "recorded", attempt(model_type)
        except RecordError as error:
            outcome, text = "refused", str(error)
        except Exception as error:  # pylint: disable=broad-except
            outcome, text = "not built", f"{type(error).__name__}: {str(error)[:120]!r}"
        counts[outcome] += 1
        print(f"{outcome:<9}  {model_type}: {text}", flush=True)
    print(", ".join(f"{n} {outcome}" for outcome, n in counts.items()))


if __name__ == "__main__":
    main()
