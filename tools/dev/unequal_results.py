"""The section of docs/RESULTS.md on unequal GPUs: types of different memory, bandwidth and FLOPS, which decode and prefill rank differently,
and GPUs of one type at different speeds. Real recordings, held out. Used by tools/results."""
import collections
import shlex

SHOWN = ["lpt", "eplb", "sorted", "bottleneck", "auto"]
TOPOLOGIES = ["4:a100+4:l40s", "4:h100+4:l40s", "h100-n1g8-uneven"]
LOGICAL = ["--ids", "logical"]
RECORDINGS = [
    ("gpt-oss-20b decode", 32, ["traces/gpt-oss-20b/mmlu_test.npz"],
     ["--phase", "decode", "--layer-base", "0", *LOGICAL, "--experts", "32", "-m", "gpt-oss-20b", "--batch", "32", "--resample"]),
    ("deepseek-v2-lite prefill", 64, ["traces/deepseek-v2-lite/chat_prefill.npz"],
     ["--phase", "prefill", "--layer-base", "1", *LOGICAL, "--experts", "64", "-m", "deepseek-v2-lite", "--tokens-per-rank", "512"]),
]


def percent(r):
    i = r.get("change_interval")
    return f"{100 * r['change']:+.1f}" + (f" ({100 * i['low']:+.1f} .. {100 * i['high']:+.1f})" if i else "")


def experts_by_gpu(text):
    """Experts on each GPU, mean over layers, of a plan file."""
    slots = next(line for line in text.splitlines() if line.startswith("  gpu_slots: "))
    sizes = [int(x) for x in slots[len("  gpu_slots: ["):-1].split(", ")]
    gpu = [g for g, n in enumerate(sizes) for _ in range(n)]
    count, layers = collections.Counter(), 0
    for line in text.splitlines():
        if line.startswith("    slots: "):
            layers += 1
            count.update(gpu[s] for s, e in enumerate(line[len("    slots: ["):-1].split(", ")) if e != "-1")
    return [count[g] / layers for g in range(len(sizes))]


def grouped(counts):
    """Means of what is alike: the two halves, or each GPU of the uneven node."""
    half = len(counts) // 2
    return f"{sum(counts[:half]) / half:.1f}, {sum(counts[half:]) / half:.1f}"


def section(ask, printed):
    """ask(arguments) -> the answer of moeplan --json in the data folder; printed(arguments) -> standard output."""
    out = ["Change of the mean step against `contiguous` in %, planned on half of the requests and scored on the other, with 95 % intervals. Each GPU has as",
           "many slots as it needs for an equal share, or twice as many, so that fast GPUs can take more experts (the memory is there). Last column: experts a",
           "layer on each GPU of the first four and of the last four in the plan of `lpt`, twice the slots. Speeds of h100-n1g8-uneven: 1, 1, 1, 0.96, 0.96,",
           "0.96, 0.92, 0.8.", ""]
    table = ["| GPUs | recording | slots a GPU | contiguous, ms | " + " | ".join(SHOWN) + " | experts a GPU |", "|---" * (5 + len(SHOWN)) + "|"]
    first = None
    for topology in TOPOLOGIES:
        for name, experts, trace, hints in RECORDINGS:
            for slots in (experts // 8, experts // 4):
                shape = [*trace, topology, *hints, "--steps", "32", "--split", "0.5", "--slots-per-gpu", str(slots)]
                arguments = ["compare", *shape, "--strategy", ",".join(["contiguous", *SHOWN])]
                first = first or arguments
                rows = {r["strategy"]: r for r in ask(arguments)["results"] if r.get("step_time_ns")}
                cells = [percent(rows[s]) if s in rows else "n/a" for s in SHOWN]
                where = ""
                if slots > experts // 8:
                    where = grouped(experts_by_gpu(printed(["plan", *shape, "--strategy", "lpt", "--interval-groups", "0", "-o", "-"])))
                table.append(f"| {topology} | {name} | {slots} | {rows['contiguous']['step_time_ns']['mean'] / 1e6:.3f} | " + " | ".join(cells) + f" | {where} |")
    return out + ["    moeplan " + shlex.join(first), ""] + table + [""]
