"""The section of docs/RESULTS.md on Lina's training figures: bench_lina's tables as tables, and what bench_train says. Used by tools/results."""
import re

CELLS = re.compile(r"(.{52})((?: +[-+]?[0-9.]+(?: (?:yes|no))?)+)\s*$")


def is_heading(line):
    return line[52:].split()[:1] == ["paper"] and len(line[52:].split()) >= 3


def tables(text):
    """Lines of bench_lina: its tables of figures as tables, all else as it is printed."""
    out, is_open, is_plain = [], False, False
    for line in text.splitlines():
        row = CELLS.match(line) if is_open else None
        if is_heading(line):
            names = re.split(r"\s{2,}", line[52:].strip())
            out += ["", f"| {line[:52].strip()} | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
            is_open = True
        elif row:
            cells = re.sub(r" (yes|no)", lambda m: ", within" if m[1] == "yes" else ", not", row[2])
            out.append(f"| {row[1].strip()} | {' | '.join(x.strip() for x in re.split(r' {2,}', cells.strip()))} |")
        else:
            if is_open or not is_plain:
                out.append("")
            is_open = False
            out.append("    " + line if line else "")
        is_plain = not is_open
    return [x for i, x in enumerate(out) if x or (i > 0 and out[i - 1])]


def section(lina, train):
    lines = [x for x in train.splitlines() if x]
    rows = [i for i, x in enumerate(lines) if x.startswith("layers ranks") or re.match(r" +\d+ +\d+ +[\d.]+ +[\d.]+ +\d+ %", x)]
    return ["`bench_lina` and `bench_train`; conditions, what is fitted and why figures miss: docs/LINA.md. *Within*: 10 % of the",
            "paper's figure. *Derived* and *slowed*: the two readings of its gradients.", "", *tables(lina), "",
            "`bench_train`: a whole step of its figure 7's durations, and the searched policy against Lina's in 48 conditions around it (each: *Benchmarks*).", "",
            *("    " + x for i, x in enumerate(lines) if i not in rows), ""]
