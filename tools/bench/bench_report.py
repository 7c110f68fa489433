#!/usr/bin/env python3
"""What a report costs: its bytes, the seconds to write it beside those of `moeplan compare` for the same plans, and, where there is a Chromium, the time
from opening the file to the drawn page, with the errors that the browser told.

    tools/bench/bench_report.py [--build build] [--runs 3] [--layers 58] [--topology 8x8:h100] [--plans 1,2,5] [--keep FOLDER]

The recording is synthetic (deepseek-v3 sizes: 256 experts, top-8). Asked for: at most 2,000,000 bytes and less than a second to open for 58 layers on
64 GPUs, no console errors (docs/REPORT.md part 3).
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "report"))
import chromium  # noqa: E402


def run(*arguments, cwd):
    begun, before = time.monotonic(), os.times().children_user
    subprocess.run([str(a) for a in arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun, os.times().children_user - before


def load(path, runs):
    """Seconds to the page's load event and to its first drawn frame after it, medians; complaints of the page."""
    loads, drawn, errors = [], [], []
    with chromium.Browser() as browser:
        for _ in range(runs):
            page = browser.page()
            page.open(path)
            page.settle()
            loads.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
            drawn.append(page.evaluate("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(() => f(performance.now()))))") / 1000)
            errors += page.errors()
    return statistics.median(loads), statistics.median(drawn), errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, kind, default in (("build", str, "build"), ("runs", int, 3), ("layers", int, 58), ("topology", str, "8x8:h100"), ("plans", str, "1,2,5"),
                                  ("keep", str, None)):
        parser.add_argument("--" + option, type=kind, default=default)
    o = parser.parse_args()
    moeplan = pathlib.Path(o.build).resolve() / "tools" / "moeplan" / "moeplan"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(o.keep or folder)
        run(moeplan, "generate", "--layers", o.layers, "--experts", 256, "--top-k", 8, "--first-layer", 3, "--n-requests", 240, "--tokens-per-request", 64,
            "--phase", "prefill", "-q", "-o", "t.mpt", cwd=folder)
        steps = ["--tokens-per-rank", "32", "--interval-groups", "4"]
        most = max(int(n) for n in o.plans.split(","))
        for i in range(most):
            run(moeplan, "plan", "t.mpt", o.topology, "--strategy", ("eplb", "lpt")[i % 2], "--redundant", 64, "--split", "0.5", "--seed", i + 1, *steps, "-q", "-o",
                f"p{i}.yaml", cwd=folder)
        print(f"{o.layers} layers of 256 experts on {o.topology}, {os.getloadavg()[0]:.1f} processes ready to run beside")
        print(f"{'plans':>5} {'bytes':>10} {'limit':>10} {'write s':>8} {'CPU s':>7} {'compare CPU s':>14} {'load s':>7} {'drawn s':>8} {'limit':>6} {'errors':>7}")
        for n in (int(n) for n in o.plans.split(",")):
            plans = [f"p{i}.yaml" for i in range(n)]
            out = folder / f"r{n}.html"
            wall, cpu = run(moeplan, "report", plans[0], "t.mpt", o.topology, *plans[1:], *steps, "-q", "-o", out, cwd=folder)
            _, compare = run(moeplan, "compare", "t.mpt", o.topology, "--strategy", "contiguous", "--incumbent", ",".join(plans), *steps, "-q", cwd=folder)
            line = f"{n:5} {out.stat().st_size:10} {2000000:10} {wall:8.2f} {cpu:7.2f} {compare:14.2f}"
            if chromium.find() is None:
                print(line, "(no Chromium)")
                continue
            loaded, drawn, errors = load(out, o.runs)
            print(line, f"{loaded:7.2f} {drawn:8.2f} {1.0:6.1f} {len(errors):7}")
            for e in errors[:3]:
                print("   ", e)


if __name__ == "__main__":
    main()
