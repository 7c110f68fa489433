#!/usr/bin/env python3
"""Same input and seed, same bytes: recordings and plans of every strategy from each given program, for 1, 2 and 8 threads, other locales, folders and
environments, and twice.

usage: determinism.py MOEPLAN [MOEPLAN...]
"""
import concurrent.futures
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

# Parameters of the recording, then of the plans.
CASES = [
    (["--phase", "decode"], ["2x4:h100", "--batch", "2", "--redundant", "8"]),
    (["--phase", "decode"], ["4:a100", "--batch", "4", "--resample", "--steps", "6", "--split", "0.5", "--objective", "p95", "--seed", "9"]),
    (["--phase", "prefill"], ["2x2:h100+1x2:l40s", "--tokens-per-rank", "32", "--redundant", "2", "--objective", "peak"]),
]


def plan_bytes(moeplan, trace, arguments, strategy, threads, variant):
    with tempfile.TemporaryDirectory(prefix="moeplan-same-" + "x" * variant) as folder:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": ["C", "de_DE.UTF-8", "tr_TR.UTF-8"][variant % 3], "UNRELATED": "x" * 100 * variant}
        environment.update({k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")})
        done = subprocess.run([moeplan, "plan", trace, *arguments, "--strategy", strategy, "--threads", str(threads), "-o", "p.yaml", "-q"],
                              cwd=folder, env=environment, capture_output=True, check=False)
        if done.returncode != 0:
            return f"exit code {done.returncode}: {done.stderr.decode()}"
        return hashlib.sha256(pathlib.Path(folder, "p.yaml").read_bytes()).hexdigest()


def results_of(strategy, programs, trace, arguments):
    """How many runs, and who gave each of the different results."""
    seen = {}
    # exact's search is stopped soon: the first case would take it eight seconds each time.
    more = ["--work-limit", "20000"] if strategy == "exact" else []
    runs = [(p, t) for p in programs for t in ((1, 2, 8) if strategy == "auto" or p == programs[0] else (2,))] + [(programs[0], 1)]
    for variant, (program, threads) in enumerate(runs):
        key = plan_bytes(program, trace, arguments + more, strategy, threads, variant)
        seen.setdefault(key, []).append(f"{program} with {threads} threads")
    return len(runs), seen


def search_of_two_models(programs, folder):
    """Draws of a search as arguments of one call were made in another order by clang than by gcc."""
    def run(*words):
        return subprocess.run(words, cwd=folder, capture_output=True, check=True).stdout
    run(programs[0], "generate", "-o", "a.mpt", "--n-requests", "80", "--layers", "2", "--experts", "16", "--phase", "prefill", "--tokens-per-request", "64",
        "--seed", "3", "-q")
    run(programs[0], "generate", "-o", "b.mpt", "--n-requests", "80", "--layers", "1", "--experts", "8", "--top-k", "2", "--seed", "4", "-q")
    words = ["a.mpt", "b.mpt", "2:h100+2:l40s", "--colocate", "--batch", "2", "--tokens-per-rank", "128", "--steps", "3", "-q", "--colocation", "search"]
    return len({run(p, "compare", *words, "--json").split(b'"own_shares"')[1] for p in programs})


def pages(programs, folder):
    """Different pages of one report, its command line aside: there stands the program's name."""
    def run(*words):
        return subprocess.run(words, cwd=folder, capture_output=True, check=True).stdout
    run(programs[0], "plan", "0-0.mpt", "2x4:h100", "--batch", "2", "--split", "0.5", "--strategy", "eplb", "--redundant", "8", "-q", "-o", "r.yaml")
    words = ["report", "r.yaml", "0-0.mpt", "2x4:h100", "--redundant", "0,8", "--strategy", "lpt", "--drift", "1-0.mpt", "-q", "-o", "-"]
    return len({run(p, *words, "--threads", "1").replace(p.encode(), b"moeplan") for p in programs})


def main():
    programs = [os.path.abspath(p) for p in sys.argv[1:]]
    listed = subprocess.run([programs[0], "list", "strategies"], capture_output=True, text=True, check=True).stdout.splitlines()
    strategies = [line.split()[0] for line in listed[3:] if line.split()[1:2] == ["strategy"]]
    failures = n = 0
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    scratch = tempfile.TemporaryDirectory(prefix="moeplan-same-")
    for number, (parameters, arguments) in enumerate(CASES):
        recordings = set()
        for i, program in enumerate(programs):
            path = os.path.join(scratch.name, f"{number}-{i}.mpt")
            subprocess.run([program, "generate", "-o", path, "--n-requests", "100", "--tokens-per-request", "16", "--layers", "2", "--experts", "16",
                            "--zipf", "0.9", "-q", *parameters], stdout=subprocess.DEVNULL, check=True)
            recordings.add(hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest())
        n += 1
        if len(recordings) != 1:
            failures += 1
            print(f"FAIL generate {parameters}: the programs write different bytes")
        for strategy, n_runs, seen in pool.map(lambda s: (s, *results_of(s, programs, path, arguments)), strategies):
            n += n_runs
            wordings = tuple(f"exit code 1: moeplan: plan: not applicable: {name}" for name in ("exact", "moetuner", "metis: this", "group: "))
            declined = next(iter(seen)).startswith(wordings)
            if len(seen) != 1 or (next(iter(seen)).startswith("exit") and not declined):
                failures += 1
                print(f"FAIL {' '.join(arguments)} --strategy {strategy}: {len(seen)} different results: {seen}")
    n += 2 * len(programs)
    if pages(programs, scratch.name) != 1:
        failures += 1
        print("FAIL report: the programs write different pages")
    if search_of_two_models(programs, scratch.name) != 1:
        failures += 1
        print("FAIL compare --colocate: the programs find different shares")
    print(f"{n} plans, {failures} failures")
    return 1 if failures or not strategies else 0


if __name__ == "__main__":
    sys.exit(main())
