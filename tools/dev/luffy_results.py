"""The section of docs/RESULTS.md on Luffy's table III: bench_luffy's tables as it prints them. Used by tools/results."""


def section(luffy):
    return ["`bench_luffy`; what is printed in the paper, fitted and assumed, and why figures miss: docs/LUFFY.md, \"Table III\".",
            "Milliseconds of computation and communication of a training step; each pair of columns is ours and the paper's. Vanilla's figures",
            "for two GPUs are fitted, and one figure of the network.", "",
            *("    " + line if line else "" for line in luffy.splitlines()), ""]
