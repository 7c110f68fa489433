"""The sections of docs/RESULTS.md on two models on one cluster: does sharing pay on real recordings, how far the strategies are from the
optimum (bench_coloc), and Aurora's evaluation beside the paper's figures (bench_aurora). Used by tools/results."""
import re
import shlex

GPT = ["traces/gpt-oss-20b/mmlu_test.npz", "gpt-oss-20b"]
LITE = ["traces/deepseek-v2-lite/chat_prefill.npz", "deepseek-v2-lite"]
# Both need hints that differ, so they are converted first.
CONVERTED = {GPT[0]: ["--phase", "decode", "--layer-base", "0", "--ids", "logical", "--experts", "32"],
             LITE[0]: ["--phase", "prefill", "--layer-base", "1", "--ids", "logical", "--experts", "64"]}
PAIRS = [("deepseek-v2-lite prefill, gpt-oss-20b decode", LITE, GPT), ("deepseek-v2-lite prefill twice", LITE, LITE), ("gpt-oss-20b decode twice", GPT, GPT)]
TOPOLOGIES = ["4:h100", "8:h100", "2x4:h100", "4:h100+4:l40s"]
STRATEGIES = ["random", "lina", "sorted", "bottleneck", "decoupled", "search"]


def steps_of(first, second):
    return (["--batch", "12"] if GPT in (first, second) else []) + (["--tokens-per-rank", "512"] if LITE in (first, second) else [])


def sharing(ask, native):
    """ask(arguments) -> the answer of moeplan --json; native(recording, hints) -> path of its conversion."""
    out = ["`moeplan compare A B TOPOLOGY --colocate`: a step of both in the MoE layers, planned on half of the requests and scored on the other. *In",
           "turn*: each model alone on all GPUs, one after the other. *Own shares*: the best split of the GPUs between the two, the longer of the two steps",
           "(its shorter model could take more steps meanwhile). Same cluster, so equal memory; `weights` is what both layouts keep of it, the rest is for KV",
           "cache. `best` and the split are picked on the scored steps.", ""]
    first = None
    table = ["| models | GPUs | best | step, ms | closed form, ms | against in turn | against own shares | their split | utilisation, shared and own | "
             "weights, shared and own |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    by_strategy = ["| models | GPUs | " + " | ".join(STRATEGIES) + " |", "|---" * (2 + len(STRATEGIES)) + "|"]
    for name, a, b in PAIRS:
        for topology in TOPOLOGIES:
            arguments = ["compare", native(a[0], CONVERTED[a[0]]), native(b[0], CONVERTED[b[0]]), topology, "--colocate", "-m", a[1], "--model-b", b[1],
                         *steps_of(a, b), "--steps", "20", "--colocation", ",".join(STRATEGIES)]
            first = first or arguments
            answer = ask(arguments)
            if answer.get("outcome") == "infeasible":
                table.append(f"| {name} | {topology} | {answer['note']} |" + " |" * 7)
                continue
            rows = {r["colocation"]: r for r in answer["results"] if r["outcome"] == "found"}
            best = rows[answer["best"]]
            share = min(answer["own_shares"], key=lambda s: max(s["step_a_ns"], s["step_b_ns"]), default=None)
            cells = [f"{best['timeline_ns'] / 1e6:.3f}", f"{best['closed_form_ns'] / 1e6:.3f}", f"{100 * (best['timeline_ns'] / best['in_turn_ns'] - 1):+.1f} %"]
            if share is None:
                cells += ["no split has room", "", f"{100 * best['utilization']:.0f} %", f"{answer['weights_bytes'] / 1e9:.0f} GB"]
            else:
                own = max(share["step_a_ns"], share["step_b_ns"])
                cells += [f"{100 * (best['timeline_ns'] / own - 1):+.1f} %", f"{share['gpus_a']} + {share['gpus_b']}",
                          f"{100 * best['utilization']:.0f} %, {100 * share['utilization']:.0f} %",
                          f"{answer['weights_bytes'] / 1e9:.0f}, {share['weights_bytes'] / 1e9:.0f} of {answer['memory_bytes'] / 1e9:.0f} GB"]
            table.append(f"| {name} | {topology} | {answer['best']} | " + " | ".join(cells) + " |")
            low = min(r["timeline_ns"] for r in rows.values())
            by_strategy.append(f"| {name} | {topology} | " + " | ".join(
                f"{100 * (rows[s]['timeline_ns'] / low - 1):+.2f} %" if s in rows else "n/a" for s in STRATEGIES) + " |")
    shown = [word.rsplit("/", 1)[-1] for word in first]
    out += ["    moeplan " + shlex.join(shown), "", "(recordings converted to the native format first: their hints differ)", ""]
    return out + table + ["", "Timeline of each strategy above the best of the row, held out:", ""] + by_strategy + [""]


def gaps(texts):
    """bench_coloc's figures as a table; texts: what its runs printed."""
    rows, names = [], []
    for text in texts:
        for line in text.splitlines():
            head = re.match(r"(\d+) GPUs of \d+ types, (\d+) instances, ([a-z ]+): (\d+) proven optimal, certified gap ([\d.]+) % mean ([\d.]+) % most.* "
                            r"([\d.]+) s at most", line)
            own = re.match(r"    (\S+) +([\d.]+) mean ([\d.]+) most of", line)
            if head:
                n, instances, evaluator, proven, mean, most, seconds = head.groups()
                rows.append(([n, evaluator, instances, proven, f"{float(mean):.2f} %, {float(most):.2f} %", f"{seconds} s"], {}))
            elif own:
                rows[-1][1][own.group(1)] = f"{own.group(2)}, {own.group(3)}"
                names += [own.group(1)] if own.group(1) not in names else []
    out = ["Pairs of models with one expert of each on a GPU; GPUs of 100, 80, 50 and 40 Gbps; Zipf 0.4 to 1.2. Mean and largest quotient over the optimum",
           "(over the best known where not all are proven), and how far the proven bound is from the best. To reach: `search` 1.001 and 1.02 on 4 and 8 GPUs,",
           "certified gap 2 % mean on 16; `decoupled`: the paper has 1.07.", "",
           "| GPUs | evaluator | instances | proven | certified gap, mean and most | exact at most | " + " | ".join(names) + " |", "|---" * (6 + len(names)) + "|"]
    return out + ["| " + " | ".join(head + [cells.get(s, "n/a") for s in names]) + " |" for head, cells in rows] + [""]


# Row of bench_aurora, its honest row (or None), what the figure hangs on.
AURORA = [
    ("alone, equal GPUs: SJF / ordered", "  honest: single shot / ordered", "transfers one flow at a time; all at once is at the port bound already"),
    ("alone, equal GPUs: RCS / ordered", "  honest: single shot / ordered", "the same"),
    ("alone, unequal: random / sorted GPUs", "  honest: both in a single shot", "a source as busy as its expert; less with equal sources"),
    ("together, equal: Lina in RCS order / case II", "  honest: Lina with our order", "Lina's transfers one flow at a time: the paper does not say their order"),
    ("together, equal: Lina in SJF order / case II", "  honest: Lina with our order",
     "the same; the upper end needs a Lina slower than each model on half of the GPUs"),
    ("together, unequal: Lina in RCS order / decoupled", "  honest: Lina with our order", "that, and random GPUs for Lina"),
    ("together, unequal: Lina in SJF order / decoupled", "  honest: Lina with our order", "the same"),
    ("utilisation alone, equal GPUs", None, "80 ns of computation a token, which the paper does not give"),
    ("utilisation: together / alone", None, ""),
    ("utilisation: together / Lina in RCS order", "  honest: Lina with our order", "Lina's order"),
    ("unequal: decoupled / best known", None, "sources as busy as their experts are harder than the paper's; `search` is the row below"),
    ("unequal: search / best known", None, "ours"),
    ("random / decoupled, no noise", None, ""),
    ("random / decoupled, 25 % noise", None, "each layer's hot experts are its own here, so what is mixed in is all noise"),
    ("random / decoupled, 50 % noise", None, "the same"),
    ("random / decoupled, 75 % noise", None, "the same"),
    ("speed-up lost to noise, most of all", None, "the same"),
    ("  layers alike: random / decoupled, 25 % noise", None, "layers share their hot experts: the paper's figures need this"),
    ("  layers alike: random / decoupled, 50 % noise", None, "the same"),
    ("  layers alike: random / decoupled, 75 % noise", None, "the same"),
    ("  layers alike: speed-up lost", None, "the same"),
]


def aurora(text):
    blocks, at = [], None
    for line in text.splitlines():
        own = re.match(r"(.{52}) (.{14}) (\S+) (\S+) ;", line)
        if own:
            blocks[-1][1].append((own.group(1).rstrip(), own.group(2).strip(), float(own.group(3)), float(own.group(4))))
        elif "Zipf" in line:
            blocks.append((line.split(", Zipf")[0], []))
    out = ["Its conditions: 8 GPUs on one switch, 100 Gbps each or two each of 100, 80, 50 and 40; two models of 8 experts and 4 layers, top-1, one expert of",
           "each on a GPU, sources that move with their experts; times by its table 2 with the maxima left out there. Its matrices, token counts and FLOPS are not",
           "published: these are LIMoE-like, Zipf 0.4 to 1.2, least and most over the exponents. *Honest*: the same against a single shot, or against Lina with",
           "the same order as ours.", ""]
    names = [name for name, _ in blocks]
    out += ["| what | paper | " + " | ".join(f"{kind}, {name}" for kind in ("ours", "honest") for name in names) + " | hangs on |",
            "|---" * (3 + 2 * len(blocks)) + "|"]
    for name, honest, hangs in AURORA:
        cells, honest_cells, paper = [], [], ""
        for _, rows in blocks:
            at = next((i for i, r in enumerate(rows) if r[0] == name.rstrip() or r[0] == name), None)
            if at is None:
                return ["bench_aurora prints no row \"" + name.strip() + "\": tools/dev/coloc_results.py is of another version.", ""]
            paper = rows[at][1]
            cells.append(f"{rows[at][2]:.2f}-{rows[at][3]:.2f}")
            below = next((r for r in rows[at:] if honest is not None and r[0].strip() == honest.strip()), None)
            honest_cells.append(f"{below[2]:.2f}-{below[3]:.2f}" if below else "-")
        out.append(f"| {name.strip()} | {paper} | " + " | ".join(cells + honest_cells) + f" | {hangs} |")
    return out + [""]


