#!/usr/bin/env python3
"""What recording costs a Hugging Face model: tokens per second without the Recorder, with it, and with transformers' own output_router_logits.

    tools/bench/bench_record.py [--layers 8] [--passes 12] [--device cpu] [--dtype float32]

A randomly initialised OLMoE (64 experts, top-8) of width 256. Runs of the three kinds alternate, so that a busy machine slows all; the median counts. On the
CPU seconds are processor time of one thread, on a GPU they are of the clock.
The Recorder's cost is a nearly fixed time per pass and layer. It is also measured directly, inside the hooks, since a difference of two runs is as
noisy as the machine: on a model whose layer takes a millisecond it is that much of it.
Skips (77) where torch or transformers is missing; MOEPLAN_TORCH_PYTHON names a python that has them.
"""
import argparse
import os
import statistics
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools", "record"))
try:
    import torch
    import transformers
except ImportError as error:
    wanted = os.environ.get("MOEPLAN_TORCH_PYTHON")
    if wanted and "MOEPLAN_TORCH_TRIED" not in os.environ:
        os.execve(wanted, [wanted, *sys.argv], {**os.environ, "MOEPLAN_TORCH_TRIED": "1"})
    print(f"skipped: {error.name} cannot be imported by {wanted or sys.executable}; set MOEPLAN_TORCH_PYTHON to a python that has torch and transformers")
    sys.exit(77)
from moeplan_record import Recorder  # noqa: E402


class Timed(Recorder):
    """Counts the time inside its own hooks."""
    inside_s = 0.0

    def inside(self, what, *arguments):
        start = time.process_time()
        try:
            return what(*arguments)
        finally:
            self.inside_s += time.process_time() - start

    def _before(self, *arguments):
        return self.inside(super()._before, *arguments)

    def _gate(self, *arguments):
        return self.inside(super()._gate, *arguments)

    def _after(self, *arguments):
        return self.inside(super()._after, *arguments)


def prefill(model, tokens, passes, **more):
    for _ in range(passes):
        model(input_ids=tokens, use_cache=False, **more)


def decode(model, tokens, passes, **more):
    """A loop of one token per sequence over the cache."""
    out = model(input_ids=tokens[:, :8], use_cache=True, **more)
    for i in range(passes - 1):
        out = model(input_ids=tokens[:, 8 + i % 8:9 + i % 8], past_key_values=out.past_key_values, use_cache=True, **more)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--passes", type=int, default=4, help="passes of prefill; ten times as many of decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    config = transformers.OlmoeConfig(vocab_size=1000, hidden_size=options.width, intermediate_size=options.width // 2, num_hidden_layers=options.layers,
                                      num_attention_heads=8, num_key_value_heads=8, num_experts=64, num_experts_per_tok=8,
                                      max_position_embeddings=4096, eos_token_id=None, pad_token_id=None)
    model = transformers.AutoModelForCausalLM.from_config(config).to(device=options.device, dtype=getattr(torch, options.dtype)).eval()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {options.device}, {torch.get_num_threads()} threads; "
          f"OLMoE of {options.layers} layers, width {options.width}, 64 experts, top-8")
    print(f"{'':>8}  {'tokens of a pass':>16}  {'alone':>10}  {'recorded':>10}  {'cost':>6}  {'router_logits':>13}  {'cost':>6}   in hooks, per pass and layer")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name, run, batch, columns, passes in (("prefill", prefill, 4, 128, options.passes), ("decode", decode, 16, 1, 10 * options.passes)):
            tokens = torch.randint(0, 1000, (batch, max(columns, 16)), device=options.device)
            seconds = {"alone": [], "recorded": [], "router_logits": []}

            def timed(kind, **more):
                clock = time.process_time if options.device == "cpu" else time.perf_counter
                start = clock()
                run(model, tokens[:, :columns] if name == "prefill" else tokens, passes, **more)
                if kind == "recorded":
                    recorder.flush()  # the tokens are on their way to the disk
                if options.device != "cpu":
                    torch.cuda.synchronize()
                seconds[kind].append(clock() - start)
            timed("alone")
            seconds["alone"].clear()
            for i in range(options.rounds):
                timed("alone")
                recorder = Recorder(model, os.path.join(folder, f"{name}{i}.mpt"), progress=False)
                recorder.attach()
                timed("recorded")
                recorder.discard()
                timed("router_logits", output_router_logits=True)
            t = {kind: statistics.median(s) for kind, s in seconds.items()}
            n = batch * columns * passes
            recorder = Timed(model, os.path.join(folder, f"{name}.mpt"), progress=False)
            recorder.attach()
            run(model, tokens[:, :columns] if name == "prefill" else tokens, 1)
            recorder.flush()
            recorder.inside_s = 0.0
            timed("recorded")
            recorder.discard()
            extra = recorder.inside_s / passes / options.layers
            of_it = 100 * extra * options.layers * passes / t["alone"]
            print(f"{name:>8}  {batch * columns:>16}  {n / t['alone']:>8,.0f}/s  {n / t['recorded']:>8,.0f}/s  {100 * (t['recorded'] / t['alone'] - 1):>5.1f}%"
                  f"  {n / t['router_logits']:>11,.0f}/s  {100 * (t['router_logits'] / t['alone'] - 1):>5.1f}%   {extra * 1e6:.0f} us = {of_it:.1f}%", flush=True)


if __name__ == "__main__":
    main()
