#!/usr/bin/env python3
"""How large the report of 58 layers on 64 GPUs is, and how long Chromium takes to open it.

usage: bench_report.py MOEPLAN [OUT.html]
Asked: at most 2,000,000 bytes, open in less than 1 s, no complaints and no requests. Open = from the call to navigate until everything is
drawn (two frames after the load event), the fastest and the median of five; the browser is running already.
"""
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "report"))
import chromium  # noqa: E402


def write(moeplan, folder, out):
    """A made-up recording of DeepSeek-V3's shape, a plan of half of it, and the report; seconds of the last."""
    trace, plan = str(folder / "trace.mpt"), str(folder / "plan.yaml")
    common = [trace, "8x8:h100", "-m", "deepseek-v3", "--batch", "8", "--quiet"]
    for arguments in (["generate", "--layers", "58", "--experts", "256", "--top-k", "8", "--first-layer", "3", "--n-requests", "1100",
                       "--tokens-per-request", "12", "--phase", "decode", "--quiet", "-o", trace],
                      ["plan", *common, "--strategy", "eplb", "--redundant", "64", "--split", "0.5", "-o", plan],
                      ["report", plan, *common, "-o", str(out)]):
        start = time.monotonic()
        subprocess.run([moeplan, *arguments], check=True, timeout=300, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main():
    moeplan = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "report.html"
        seconds = write(moeplan, folder, out)
        print(f"report of 58 layers x 64 GPUs: written in {seconds:.1f} s")
        print(f"size: {out.stat().st_size} bytes (asked: at most 2000000)")
        if not chromium.find():
            print("open: not measured, no Chromium here")
            return 0
        with chromium.Browser() as browser:
            page, took, complaints = browser.page(), [], 0
            page.size(1280, 900)
            for _ in range(5):
                page.send("Page.navigate", url="about:blank")
                start = time.monotonic()
                page.open(out)
                page.settle()
                took.append(time.monotonic() - start)
                complaints += len(page.errors()) + len(page.requests())
            print(f"open: {min(took):.2f} s fastest, {statistics.median(took):.2f} s median of {len(took)} (asked: less than 1)")
            print(f"console errors, warnings and requests: {complaints} (asked: 0)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
