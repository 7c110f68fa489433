#!/usr/bin/env python3
"""Runs every libFuzzer target of a build for a number of executions, several at once; one line per target.

usage: fuzz.py [--runs N] [--seconds S] [--jobs J] [--only NAME] BUILD_FOLDER... CORPUS_FOLDER
New inputs go to a scratch corpus, not to the repository; an input that fails is kept beside the build and named.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# Long inputs slow every execution down and find little that short ones do not.
MAX_LEN = 4096


def run_target(target, options):
    name = target.name[len("fuzz_"):]
    corpus = pathlib.Path(options.corpus) / name
    with tempfile.TemporaryDirectory(prefix="moeplan-fuzz-") as scratch:
        command = [str(target), scratch] + ([str(corpus)] if corpus.is_dir() else [])
        command += [f"-runs={options.runs}", f"-max_total_time={options.seconds}", f"-max_len={MAX_LEN}", "-reduce_inputs=0", "-entropic=0",
                    "-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=512", "-seed=1", "-print_final_stats=1", "-verbosity=1",
                    f"-artifact_prefix={target.parent}/{name}-failed-"]
        environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=1:allocator_may_return_null=1:quarantine_size_mb=16:malloc_context_size=8", TMPDIR=scratch)
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, check=False)
    log = done.stderr.decode("utf-8", "replace")
    runs = re.search(r"stat::number_of_executed_units: (\d+)", log)
    n = int(runs.group(1)) if runs else 0
    coverage = re.findall(r"cov: (\d+)", log)
    text = f"{name}: {n} executions, coverage {coverage[-1] if coverage else '?'}"
    if done.returncode != 0:
        where = re.search(r"Test unit written to (\S+)", log)
        reasons = [line for line in log.splitlines() if "ERROR" in line or "runtime error" in line or "Assert" in line][:4]
        return False, f"FAIL {text}: {'; '.join(reasons) or log[-300:]} (input: {where.group(1) if where else 'none'})"
    if n < options.runs:
        text += f" (stopped after {options.seconds} s)"
    return True, f"ok {text}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only")
    parser.add_argument("build", nargs="+")
    parser.add_argument("corpus")
    options = parser.parse_args()
    found = [p for folder in options.build for p in sorted(pathlib.Path(folder).glob("fuzz_*"))]
    targets = [p for p in found if p.is_file() and os.access(p, os.X_OK)]
    targets = [t for t in targets if options.only in (None, t.name, t.name[len("fuzz_"):])]
    if not targets:
        print(f"FAIL no target in {options.build}")
        return 1
    all_ok = True
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for is_ok, line in pool.map(lambda t: run_target(t, options), targets):
            print(line, flush=True)
            all_ok &= is_ok
    return 0 if all_ok else 1


if __name__ == "__main__":
    sys.exit(main())
