#!/usr/bin/env python3
"""The picture of a report in README.md, from the shipped sample.

usage: screenshot.py MOEPLAN SOURCE OUT.png [WIDTH [light|dark]]
The page from its top to the maps of the GPUs' load; plans and figures are those of README.md's example.
"""
import pathlib
import subprocess
import sys
import tempfile

import chromium


def main():
    moeplan, source, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(sys.argv[3]).resolve()
    width = int(sys.argv[4]) if len(sys.argv) > 4 else 1040
    common = [str(source / "traces" / "samples" / "decode.mpt"), "2x4:h100", "-m", "gpt-oss-20b", "--batch", "4", "--quiet"]
    with tempfile.TemporaryDirectory() as folder, chromium.Browser() as browser:
        def run(*arguments):
            subprocess.run([str(moeplan), *arguments], cwd=folder, check=True, timeout=300, stdout=subprocess.DEVNULL)
        for strategy in ("auto", "eplb"):
            run("plan", *common, "--redundant", "8", "--split", "0.5", "--strategy", strategy, "-o", strategy + ".yaml")
        run("report", "auto.yaml", *common[:2], "eplb.yaml", *common[2:], "-o", "report.html")
        page = browser.page()
        page.media(sys.argv[5] if len(sys.argv) > 5 else "light")
        page.size(width, 900)
        page.send("Emulation.setScrollbarsHidden", hidden=True)
        page.open(pathlib.Path(folder) / "report.html")
        page.settle()
        height = page.evaluate("Math.ceil(document.querySelector('#load .legend').getBoundingClientRect().bottom + scrollY) + 2")
        page.picture(out, whole=True, x=0, y=0, width=width, height=height)
    print(f"{out}: {width} x {height}, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
