#!/usr/bin/env python3
"""Runs the command-line cases: each NAME.cmd is a shell script; NAME.out, NAME.err and NAME.rc hold what it must print and return.

A script runs in an empty folder with `moeplan` on its PATH, SOURCE = the source folder, SAMPLES = its traces/samples. Absent .out or .err
means empty, absent .rc means 0. Times that differ from run to run are replaced by N before comparing.
MOEPLAN_UPDATE_GOLDEN=1 writes the golden files instead (review the difference like code).
usage: run.py MOEPLAN SOURCE [CASE...]
"""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

SECONDS = float(os.environ.get("MOEPLAN_CLI_SECONDS", "60"))
VOLATILE = [(re.compile(r'("plan_seconds": )[0-9.eE+-]+'), r"\1N"), (re.compile(r"\b\d+\.\d\d s\b"), "N s"),
            (re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{16}\.\.\."), "HASH"), (re.compile(r"\b\d+ checks"), "N checks")]


def normal(data, folder, source):
    text = data.decode("utf-8", "backslashreplace").replace(folder, "$FOLDER").replace(source, "$SOURCE")
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def run_case(case, moeplan, source):
    with tempfile.TemporaryDirectory(prefix="moeplan-cli-") as folder:
        environment = {k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}
        environment.update(PATH=f"{os.path.dirname(moeplan)}:{os.environ['PATH']}", SOURCE=source, SAMPLES=f"{source}/traces/samples",
                           HOME=folder, LC_ALL="C")
        try:
            done = subprocess.run(["bash", "-u", str(case)], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return {"rc": "timeout\n", "out": "", "err": ""}
        return {"rc": f"{done.returncode}\n", "out": normal(done.stdout, folder, source), "err": normal(done.stderr, folder, source)}


def main():
    moeplan, source = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    cases = sorted((pathlib.Path(source) / "tests/cli/cases").glob("*.cmd"))
    if sys.argv[3:]:
        cases = [c for c in cases if c.stem in sys.argv[3:]]
    update = os.environ.get("MOEPLAN_UPDATE_GOLDEN") == "1"
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for case, got in zip(cases, pool.map(lambda c: run_case(c, moeplan, source), cases)):
            for kind, default in (("rc", "0\n"), ("out", ""), ("err", "")):
                golden = case.with_suffix("." + kind)
                want = golden.read_text(encoding="utf-8") if golden.exists() else default
                if got[kind] == want:
                    continue
                if update and got["rc"] != "timeout\n":  # a case that did not end has nothing to keep
                    if got[kind] == default:
                        golden.unlink(missing_ok=True)
                    else:
                        golden.write_text(got[kind], encoding="utf-8")
                    continue
                failures += 1
                print(f"FAIL {case.stem}.{kind}\n  is:  {got[kind]!r}\n  not: {want!r}")
    print(f"{len(cases)} cases, {failures} differences")
    return 1 if failures or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
