#!/usr/bin/env python3
"""tools/results makes tables of what bench_aurora and bench_coloc print: every row that it names must be there, every cell filled.

usage: results_tables.py BENCH_AURORA BENCH_COLOC SOURCE"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(sys.argv[3], "tools", "dev"))
sys.dont_write_bytecode = True
import coloc_results  # noqa: E402


def printed(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout


def cells(lines):
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def main():
    aurora = cells(coloc_results.aurora(printed(sys.argv[1], "1")))
    assert len(aurora) == 1 + len(coloc_results.AURORA), len(aurora)
    for row, (name, honest, _) in zip(aurora[1:], coloc_results.AURORA):
        assert row[0] == name.strip() and len(row) == len(aurora[0]), row
        assert all("-" in x for x in row[2:4]) and all((x == "-") == (honest is None) for x in row[4:6]), row
    gaps = cells(coloc_results.gaps([printed(sys.argv[2], "2", "4"), printed(sys.argv[2], "1", "8")]))
    assert [row[:3] for row in gaps[1:]] == [[n, e, k] for n, k in (("4", "2"), ("8", "1")) for e in ("timeline", "closed form")], gaps
    assert gaps[0][6:] == ["random", "lina", "sorted", "bottleneck", "decoupled", "search", "exact"], gaps[0]
    assert not any("n/a" in row for row in gaps), gaps
    # One that is not there is said, not left out.
    assert "prints no row" in coloc_results.aurora("equal sources, Zipf 0.4 to 1.2, 1 seeds\n")[0]
    print(f"{len(aurora) - 1} rows of Aurora's evaluation, {len(gaps) - 1} of distances")


main()
