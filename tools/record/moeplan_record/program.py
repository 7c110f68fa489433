"""The program: loads a model, runs prompts through it, writes the recording. python3 tools/record/record.py --help"""
import argparse
import inspect
import os
import signal
import sys

from .errors import RecordError
from .progress import Progress
from .prompts import read_prompts

EPILOG = """
prompts:  one prompt a line, or (.jsonl) one object a line with prompt, messages (chat template) or input_ids; optional: request (number),
          category, and response or response_ids: a response that is known already is run through in one pass and recorded as decode, which is
          much quicker than generating it.
output:   OUT.prefill.mpt and OUT.decode.mpt for -o OUT.mpt (a recording has one phase); OUT.mpt itself with --phase prefill or decode.
          Then: moeplan inspect OUT.decode.mpt; moeplan plan OUT.decode.mpt TOPOLOGY. docs/RECORDING.md says more.
exit:     0 done, 2 usage, 3 the model or the prompts cannot be recorded (a sentence says why), 4 no torch or transformers, or a file could not
          be written, 130 interrupted (no file, or what was recorded so far with --keep-partial)
"""

# As it was called: record.py in the tree, moeplan-record where it is installed.
NAME = "moeplan-record" if os.path.basename(sys.argv[0]) == "moeplan-record" else "record.py"


def parser():
    p = argparse.ArgumentParser(prog=NAME, description="Records the expert routing of a Hugging Face MoE model into moeplan's native format.",
                                epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, metavar="NAME", help="model of the Hugging Face hub, or a folder with one")
    p.add_argument("--prompts", required=True, metavar="FILE")
    p.add_argument("-o", "--output", required=True, metavar="OUT.mpt")
    p.add_argument("--phase", choices=["both", "prefill", "decode"], default="both", help="which tokens are kept (default both, a file each)")
    p.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="tokens generated per request at most (default 128)")
    p.add_argument("--batch", type=int, default=8, metavar="N", help="requests run together (default 8)")
    p.add_argument("--limit", type=int, metavar="N", help="the first N prompts only")
    p.add_argument("--max-prompt-tokens", type=int, metavar="N", help="longer prompts are cut at their beginning")
    p.add_argument("--weights", action="store_true", help="keep the gate weights too")
    p.add_argument("--sample", action="store_true", help="sample as the model's generation config says instead of taking the likeliest token")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of --sample (default 0)")
    p.add_argument("--ignore-eos", action="store_true", help="every request decodes --max-new-tokens tokens")
    p.add_argument("--source", type=int, metavar="RANK", help="data-parallel rank of this process, written to every request")
    p.add_argument("--model-name", metavar="NAME", help="name written to the recording (default: the model's)")
    p.add_argument("--only", default="", metavar="PREFIX", help="routers of modules whose name starts so (multimodal models)")
    p.add_argument("--dtype", default="auto", metavar="TYPE", help="auto, bfloat16, float16, float32 (default auto)")
    p.add_argument("--device", default="auto", metavar="WHERE", help="auto (all GPUs, else the CPU), cpu, cuda:0 ... (default auto)")
    p.add_argument("--revision", metavar="R")
    p.add_argument("--trust-remote-code", action="store_true", help="run the model's own code from the hub")
    p.add_argument("--keep-partial", action="store_true", help="when interrupted, write what was recorded so far")
    p.add_argument("--quiet", action="store_true", help="no progress, no summary on stderr")
    return p


def load(options):
    import torch
    import transformers
    common = {"trust_remote_code": options.trust_remote_code}
    if options.revision:
        common["revision"] = options.revision
    dtype = "auto" if options.dtype == "auto" else getattr(torch, options.dtype, None)
    if dtype is None:
        raise RecordError(f"--dtype {options.dtype} is not a type of torch (write bfloat16)")
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    device = options.device
    if device == "auto":
        n_gpus = torch.cuda.device_count()
        device = "cpu" if n_gpus == 0 else "cuda:0" if n_gpus == 1 else "several"
    if device == "several":
        common["device_map"] = "auto"
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, **{name: dtype}, **common)
    if device != "several":
        model.to(device)
    return model.eval()


def tokenizer_of(options):
    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model, trust_remote_code=options.trust_remote_code,
                                                           **({"revision": options.revision} if options.revision else {}))
    return tokenizer


def ids_of(prompt, options, tokenizer):
    """(tokens of the prompt, tokens of its response or None)"""
    if prompt.ids is not None:
        ids = list(prompt.ids)
    elif prompt.messages is not None:
        made = tokenizer().apply_chat_template(prompt.messages, add_generation_prompt=True)
        ids = list(made["input_ids"] if hasattr(made, "keys") else made)
    else:
        ids = list(tokenizer()(prompt.text)["input_ids"])
    if options.max_prompt_tokens is not None:
        ids = ids[-options.max_prompt_tokens:]
    response = prompt.response_ids
    if prompt.response is not None:
        response = list(tokenizer()(prompt.response, add_special_tokens=False)["input_ids"])
    if not ids:
        raise RecordError("a prompt without tokens")
    return ids, response


def run(options):
    import torch
    from .recorder import Recorder
    for name, least in (("batch", 1), ("max_new_tokens", 1), ("limit", 1), ("max_prompt_tokens", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise RecordError(f"--{name.replace('_', '-')} {value} is below {least}")
    prompts = read_prompts(options.prompts, options.limit)
    model = load(options)
    loaded = []

    def tokenizer():
        if not loaded:
            loaded.append(tokenizer_of(options))
        return loaded[0]
    generation = model.generation_config
    pad = generation.pad_token_id if generation.pad_token_id is not None else generation.eos_token_id
    pad = pad[0] if isinstance(pad, (list, tuple)) else 0 if pad is None else pad
    torch.manual_seed(options.seed)
    progress = Progress(len(prompts), wanted=not options.quiet)
    # Of one pass over whole prompts only the routing is wanted: logits of the last token do.
    one_pass = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        one_pass["logits_to_keep"] = 1
    recorder = Recorder(model, options.output, phase=options.phase, weights=options.weights, model_name=options.model_name, source=options.source,
                        keep_partial=options.keep_partial, only=options.only, eos_token_id=() if options.ignore_eos else None, progress=progress)
    try:
        with recorder, torch.no_grad():
            for start in range(0, len(prompts), options.batch):
                some = prompts[start:start + options.batch]
                made = [ids_of(p, options, tokenizer) for p in some]
                numbers = [p.request if p.request is not None else start + i for i, p in enumerate(some)]
                categories = [p.category for p in some]
                if made[0][1] is not None:
                    run_known(model, recorder, made, numbers, categories, pad, one_pass)
                    recorder.requests_done += len(some)
                    continue
                longest = max(len(ids) for ids, _ in made)
                tokens = torch.tensor([[pad] * (longest - len(ids)) + ids for ids, _ in made], device=model.device)
                mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in made], device=model.device)
                recorder.requests(ids=numbers, categories=categories)
                more = {"eos_token_id": None} if options.ignore_eos else {}
                if options.phase == "prefill":
                    model(input_ids=tokens, attention_mask=mask, **one_pass)
                    recorder.requests_done += len(some)
                    continue
                # The last token that is generated is never fed, so one more gives N rows of decode.
                model.generate(tokens, attention_mask=mask, max_new_tokens=options.max_new_tokens + 1, do_sample=options.sample, pad_token_id=pad, **more)
    except KeyboardInterrupt:
        if recorder.summary.files:
            print(f"{recorder.summary}", file=sys.stderr)
        raise
    return recorder.summary


def run_known(model, recorder, made, numbers, categories, pad, one_pass):
    """Prompts and responses in one pass: causal, so that each token is routed as if it had been generated. Padded on the right."""
    import torch
    rows = [ids + response for ids, response in made]
    longest = max(map(len, rows))
    tokens = torch.tensor([r + [pad] * (longest - len(r)) for r in rows], device=model.device)
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows], device=model.device)
    recorder.requests(ids=numbers, categories=categories, prompt_tokens=[len(ids) for ids, _ in made])
    model(input_ids=tokens, attention_mask=mask, **one_pass)


def stop(*_):
    raise KeyboardInterrupt


def main(arguments=None):
    options = parser().parse_args(arguments)
    try:
        import torch
        import transformers  # noqa: F401
        del torch
    except ImportError as error:
        print(f"{NAME}: {error.name} cannot be imported: install torch and transformers (pip install torch transformers numpy)", file=sys.stderr)
        return 4
    signal.signal(signal.SIGTERM, stop)
    try:
        summary = run(options)
    except RecordError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        print(f"{NAME}: interrupted: " + ("what was recorded so far is written, if anything" if options.keep_partial else "no file is left"), file=sys.stderr)
        return 130
    if not options.quiet:
        print(summary, file=sys.stderr)
    return 0
