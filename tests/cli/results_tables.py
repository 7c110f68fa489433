#!/usr/bin/env python3
"""tools/results makes tables of what bench_aurora, bench_coloc and bench_lina print: every row that it names must be there, every cell filled.

usage: results_tables.py BENCH_AURORA BENCH_COLOC SOURCE"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(sys.argv[3], "tools", "dev"))
sys.dont_write_bytecode = True
import coloc_results  # noqa: E402
import lina_results  # noqa: E402


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
    # Figures become rows, blank cells of names and rows without a verdict included; all else stays as it was printed.
    head, row = "Share".ljust(52), "{:52} {:9.2f} {:9.2f} {} {:9.2f} {}".format
    lines = ["Fitted", head + f" {'paper':>9} {'derived':>9}     {'slowed':>9}    ", row("one", 39.5, 39.7, "yes", 33.66, "no "),
             row("", 589, 588.5, "   ", -1, "   "), "", "  plain 1 2"]
    made = lina_results.tables("\n".join(lines))
    assert cells(made)[0] == ["Share", "paper", "derived", "slowed"] and cells(made)[1] == ["one", "39.50", "39.70, within", "33.66, not"], made
    assert cells(made)[2] == ["", "589.00", "588.50", "-1.00"] and made[0] == "    Fitted" and made[-1] == "      plain 1 2", made
    print(f"{len(aurora) - 1} rows of Aurora's evaluation, {len(gaps) - 1} of distances")


main()
