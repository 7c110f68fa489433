#!/usr/bin/env python3
"""Every real recording to native, from there to every form that carries it, plain and packed, and back: the same bytes?

usage: bench_round_trips.py MOEPLAN SHARED_DATA [NAME...]     names limit the recordings (a part of their path)
Asked for: native -> each lossless format -> native identical on every real trace.
"""
import filecmp
import os
import pathlib
import subprocess
import sys
import tempfile
import time

TOKENS = {"gpt-oss-20b": "--phase decode --layer-base 0 --ids logical --experts 32 --ranked yes",
          "deepseek-v2-lite": "--phase prefill --layer-base 1 --ids logical --experts 64"}
COUNTS = {"olmoe/expert_counts.csv": "--phase prefill --layer-base 0 --ids logical --experts 64",
          "qwen1.5-moe-6ranks/dispatch_counts.csv": "--phase prefill --layer-base 0 --ids logical",
          "qwen1.5-moe-6ranks/expert_freq_qwen_policy.csv": "--phase prefill --layer-base 0 --ids logical --experts 60",
          "qwen1.5-moe-6ranks/expert_freq_switch128.csv": "--phase prefill --layer-base 0 --ids logical --experts 128",
          "qwen3-30b-a3b/coactivation.json": "--layer-base 0 --ids logical"}
FORMATS = {"load_megatron_rank0.jsonl": "--experts 2", "load_mcore_fork.npz": "--phase train --ids logical",
           "load_sglang_logical_count.json": "--phase decode --layer-base 3", "load_vllm_pr41141.jsonl": "--phase decode --layer-base 3",
           "sglang_per_pass.pt": "--phase decode --layer-base 0", "sglang_per_token.pt": "--layer-base 0 --phase prefill",
           "sglang_stat.pt": "--phase decode --layer-base 0", "trtllm_expert_statistic": "--phase decode"}
FORMS = ("npz", "jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "csv.zst", "json", "json.zst")


def recordings(shared):
    for folder, options in TOKENS.items():
        for path in sorted((shared / "traces" / folder).glob("*.npz")):
            yield path, options
    for name, options in COUNTS.items():
        yield shared / "traces" / name, options
    for name, options in FORMATS.items():
        yield shared / "formats" / name, options


def run(moeplan, *words):
    start = time.monotonic()
    done = subprocess.run([moeplan, "convert", "-q", *map(str, words)], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip(), time.monotonic() - start


def main():
    moeplan, shared, wanted = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
    n_same = n_refused = n_wrong = 0
    print(f"{'recording':48} {'form':10} {'bytes':>12} {'native':>12}  {'out s':>6} {'back s':>6}  outcome")
    with tempfile.TemporaryDirectory(prefix="moeplan-round-") as scratch:
        scratch = pathlib.Path(scratch)
        for path, options in recordings(shared):
            name = f"{path.parent.name}/{path.name}"
            if not path.exists() or (wanted and not any(w in name for w in wanted)):
                continue
            native, back = scratch / "native.mpt", scratch / "back.mpt"
            code, text, seconds = run(moeplan, path, native, *options.split())
            if code != 0:
                print(f"{name:48} cannot be read: {text}")
                n_wrong += 1
                continue
            for form in FORMS:
                out = scratch / f"form.{form}"
                code, text, seconds = run(moeplan, native, out, "--to", form.split(".")[0])
                if code != 0:
                    if "." not in form:
                        print(f"{name:48} {form:10} {'-':>12} {native.stat().st_size:12}  {'-':>6} {'-':>6}  refused: "
                              f"{text.split('native.mpt: ')[-1]}")
                        n_refused += 1
                    continue
                size = out.stat().st_size
                code, text, again = run(moeplan, out, back)
                same = code == 0 and filecmp.cmp(native, back, shallow=False)
                n_same, n_wrong = n_same + same, n_wrong + (not same)
                print(f"{name:48} {form:10} {size:12} {native.stat().st_size:12}  {seconds:6.2f} {again:6.2f}  "
                      f"{'identical' if same else 'DIFFERS ' + text}", flush=True)
                out.unlink()
    print(f"{n_same} identical (asked: all), {n_wrong} not; {n_refused} refused with what would be lost")
    return 1 if n_wrong or not n_same else 0


if __name__ == "__main__":
    sys.exit(main())
