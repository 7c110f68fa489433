#!/usr/bin/env python3
"""Libraries of plan variants on real recordings, in blocks of one domain each: moeplan variants on every cell below, held out.

usage: variants_results.py MOEPLAN DATA [--cells TEXT] [--threads N] [--strategy NAME] [--seeds A,B,...] [--beside none]

gpt-oss-20b: the three MMLU recordings as one, its 57 subjects in four groups of like experts, or in MMLU's own four areas, or the other recording
(tulu_polyglot, 8 requests) as a second domain. OLMoE: the published counts of six domains; steps are drawn from them multinomially and marked SYNTHETIC, since
tokens were not published. Prints a Markdown table of times against the static plan, one row for each cell and length of blocks. Used by tools/results."""
import argparse
import csv
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile

import robust_results

BLOCKS = (10, 100, 1000, 10000)
GPT = "traces/gpt-oss-20b"
HINTS = ["--phase", "decode", "--layer-base", "0", "--ids", "logical", "-m", "gpt-oss-20b"]
AREAS = {  # MMLU's own (Hendrycks et al., 2021)
    "STEM": "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science college_mathematics college_physics computer_security "
            "conceptual_physics electrical_engineering elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
            "high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law jurisprudence logical_fallacies "
                  "moral_disputes moral_scenarios philosophy prehistory professional_law world_religions",
    "social sciences": "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_microeconomics "
                       "high_school_psychology human_sexuality professional_psychology public_relations security_studies sociology us_foreign_policy"}


def area_of(subject):
    return next((area for area, subjects in AREAS.items() if subject in subjects.split()), "other")


def joined(data, names, category_of):
    """Recordings behind one another, as <stem>.npz with its requests table; category_of(row) names the domains."""
    body, rows, at, shape = b"", [], 0, None
    for name in names:
        with zipfile.ZipFile(f"{data}/{GPT}/{name}.npz") as z:
            array = z.read("topk_ids.npy")
        (n_header,) = struct.unpack("<H", array[8:10])
        header, cells = array[10:10 + n_header].decode(), array[10 + n_header:]
        n_rows, layers, k = (int(x) for x in header[header.index("(") + 1:header.index(")")].split(",")[:3])
        assert "'|u1'" in header and len(cells) == n_rows * layers * k
        shape = (layers, k)
        with open(f"{data}/{GPT}/{name}.requests.csv", encoding="utf-8") as f:
            for r in csv.DictReader(f):
                rows.append({**r, "request": len(rows), "first_row": at + int(r["first_row"]), "category": category_of(r)})
        body, at = body + cells, at + n_rows
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({at}, {shape[0]}, {shape[1]}), }}"
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body, rows


def write(options, stem, names, category_of):
    array, rows = joined(options.data, names, category_of)
    with zipfile.ZipFile(f"{stem}.npz", "w") as z:
        z.writestr("topk_ids.npy", array)
    with open(f"{stem}.requests.csv", "w", encoding="utf-8", newline="") as f:
        out = csv.DictWriter(f, rows[0].keys())
        out.writeheader()
        out.writerows(rows)
    subprocess.run([options.moeplan, "convert", f"{stem}.npz", f"{stem}.mpt", *HINTS, "-q"], check=True, stdout=subprocess.DEVNULL)
    return f"{stem}.mpt"


def cells(options):
    """(name, arguments) of every cell that is asked for; its recordings are made in the current folder."""
    mmlu = ["mmlu_dev", "mmlu_test", "mmlu_validation"]
    made = {}

    def recording(how):
        if how not in made:
            if how == "tulu":
                made[how] = write(options, how, ["tulu_polyglot"], lambda r: r["category"])
            else:
                made[how] = write(options, how, mmlu, {"subjects": lambda r: r["category"], "areas": lambda r: area_of(r["category"])}[how])
        return made[how]

    for how, domains, what in (("subjects", "categories:4", "MMLU, 57 subjects in four groups of like experts"), ("areas", "categories:4", "MMLU's four areas"),
                               ("subjects", "tulu", "MMLU and Tulu/Polyglot (8 requests)")):
        for topology, batch in (("8:h100", 16), ("8:h100", 128), ("2x4:h100", 128)):
            name = f"gpt-oss-20b, {what}; decode, {batch} requests per GPU, {topology}"
            if options.cells not in name or (what != "MMLU, 57 subjects in four groups of like experts" and (topology, batch) != ("8:h100", 128)):
                continue
            yield name, [recording(how), topology, "-m", "gpt-oss-20b", "--batch", batch, "--resample", "--domains",
                         recording("tulu") if domains == "tulu" else domains]
    for tokens in (1024, 8192):
        name = f"OLMoE, six domains (SYNTHETIC steps); prefill, {tokens} tokens a step, 8:h100"
        if options.cells in name:
            paths = robust_results.olmoe_domains(options, tokens, 48)
            yield name, [paths[0], "8:h100", "-m", "olmoe", "--phase", "prefill", "--layer-base", 0, "--ids", "logical", "--domains", ",".join(paths[1:])]


def rows_of(name, seed, answer):
    out = []
    for i, c in enumerate(answer["blocks"]):
        change = {k: 100 * (c[k] / c["static_ns"] - 1) for k in ("variants_ns", "best_variant_ns", "domain_oracle_ns", "step_oracle_ns")}
        lina = {k: f"{100 * (v / c['static_ns'] - 1):+,.1f} %" for k, v in c["policies_ns"].items()}
        share = "-" if c["share_of_gap"] is None else f"{100 * c['share_of_gap']:.0f} %"
        out.append(f"| {name if i == 0 else ''} | {seed if i == 0 else ''} | {answer['k'] if i == 0 else ''} | {c['block_steps']:,} | {c['static_ns'] / 1e6:.3f} | "
                   f"{change['variants_ns']:+.2f} % | {lina.get('lina-online', '-')} | {lina.get('lina-free', '-')} | {change['best_variant_ns']:+.2f} % | "
                   f"{change['domain_oracle_ns']:+.2f} % | {change['step_oracle_ns']:+.1f} % | {share} | {c['n_switches']:,} | {c['moved_bytes'] / 1e9:,.0f} | "
                   f"{100 * c['worst_at_a_block']:+.2f} % | {(answer['break_even_steps'] or '-') if i == 0 else ''} |")
    return out


HEAD = ["| domains | seed | K | blocks of | static plan (ms) | K variants | Lina, published cost | Lina, free | best variant, free | per-domain oracle, free "
        "| per-step oracle (bound) | of the gap | switches of a group | GB moved | most behind | break-even |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]


def table(options, run, seeds):
    """run(arguments) -> what moeplan prints."""
    out = list(HEAD)
    for name, arguments in cells(options):
        for seed in seeds:
            given = {"--strategy": options.strategy, "--beside": options.beside, "--threads": options.threads, "--seed": seed,
                     "--blocks": ",".join(map(str, BLOCKS))}
            answer = json.loads(run(["variants", *map(str, arguments), *(str(x) for pair in given.items() for x in pair), "--json", "-q"]))
            out += rows_of(name, seed, answer)
            print("\n".join(out[-len(answer["blocks"]):]), file=sys.stderr, flush=True)
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("moeplan")
    parser.add_argument("data")
    parser.add_argument("--cells", default="")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--beside", default="lina-online,lina-free")
    options = parser.parse_args()
    options.moeplan, options.data = os.path.abspath(options.moeplan), os.path.abspath(options.data)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print("\n".join(table(options, lambda arguments: robust_results.run(options, *arguments), options.seeds.split(","))))


if __name__ == "__main__":
    main()
