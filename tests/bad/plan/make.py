#!/usr/bin/env python3
"""Makes the bad plan files of this folder out of the good ones in tests/fuzz/corpus/plan: one real mistake each. Where the mistake is not
about the checksum, the checksum is put right again, as a careful editor would."""
import hashlib
import os

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = os.path.join(HERE, "..", "..", "fuzz", "corpus", "plan")


def replace(old, new, count=1):
    return lambda text: text.replace(old, new, count)


def cut(start, end):
    """Leaves out from the line that starts with `start` to before the one that starts with `end`."""
    def change(text):
        i = text.index("\n" + start) + 1
        return text[:i] + text[text.index("\n" + end, i) + 1:]
    return change


def condense(old="", new="", shares="480000 770308"):
    section = f'condense:\n  lossy: true\n  threshold_ppm: 800000\n  sure_ppm: 900000\n  never_ppm: 200000\n  condensed_ppm: "{shares}"\n'
    return replace("prediction:\n", section.replace(old, new, 1) + "prediction:\n")


STAMPED = {
    "condense-lossless": condense("lossy: true", "lossy: false"),
    "condense-unmarked": condense("  lossy: true\n", ""),
    "condense-threshold": condense("threshold_ppm: 800000", "threshold_ppm: 0.8"),
    "condense-history": condense("never_ppm: 200000", "never_ppm: 950000"),
    "condense-share-huge": condense(shares="480000 1000001"),
    "condense-share-missing": condense(shares="480000"),
    "condense-share-blanks": condense(shares="480000  770308"),
    "condense-share-too-many": condense(shares="480000 770308 1"),
    "condense-unknown-key": condense("  sure_ppm", "  loss: 0\n  sure_ppm"),
    "expert-rows-short": replace("    port_bound_ns: ", "    expert_rows: [1, 2]\n    port_bound_ns: "),
    "expert-rows-word": replace("    port_bound_ns: ", "    expert_rows: [%s]\n    port_bound_ns: " % ", ".join(["many"] * 8)),
    "expert-rows-huge": replace("    port_bound_ns: ", "    expert_rows: [%s]\n    port_bound_ns: " % ", ".join(["18446744073709551615"] * 8)),
    "expert-rows-early": replace("    port_bound_ns: ", "    expert_rows: [%s]\n    port_bound_ns: " % ", ".join("11111111")),
    "unknown-key": replace("  seed: 1\n", "  seed: 1\n  comment: hello\n"),
    "unknown-section": replace("orders:\n", "notes: []\norders:\n"),
    "missing-section": cut("rules:", "layers:"),
    "missing-key": cut("  stages: free", "  pacing"),
    "duplicate-key": replace("  gpus: 4\n", "  gpus: 4\n  gpus: 4\n"),
    "anchor": replace("rules:\n", "rules: &r\n"),
    "two-documents": replace("rules:\n", "---\nrules:\n"),
    "zero-gpus": replace("  gpus: 4\n", "  gpus: 0\n"),
    "float-count": replace("  experts: 8\n", "  experts: 8.0\n"),
    "huge-count": replace("  layers: 2\n", "  layers: 99999999999999999999\n"),
    "layer-dropped": cut("  - layer: 1", "orders:"),
    "slots-short": replace("slots: [4, 6, 2, 7, 1, 3, 0, 5]", "slots: [4, 6, 2, 7, 1, 3, 0]"),
    "slots-total": replace("  slots: 8\n", "  slots: 9\n"),
    "slot-range": replace("slots: [4, 6,", "slots: [4, 8,"),
    "slot-negative": replace("slots: [4, 6,", "slots: [4, -2,"),
    "slot-word": replace("slots: [4, 6,", "slots: [4, six,"),
    "weight-negative": replace("weights: [1, 1,", "weights: [1, -1,"),
    "weights-missing": cut("    weights:", "    order:"),
    "weights-unused": replace("route: weighted", "route: even"),
    "pacing-word": replace("  pacing: false", "  pacing: never"),
    "route-unknown": replace("route: weighted", "route: fastest"),
    "order-index": replace("    order: concurrent", "    order: 1"),
    "stage-self-range": replace('"+3"', '"+4"'),
    "stage-syntax": replace('3>0*2"', '3-0*2"'),
    "stage-gpu": replace("2>3*2", "2>4*2"),
    "stage-blanks": replace("1>2*2 2>3*2", "1>2*2  2>3*2"),
    "stage-share": replace("1>2*2", "1>2*-2"),
    "bucket-range": replace("first_layer: 1, last_layer: 1", "first_layer: 1, last_layer: 2"),
    "bucket-backwards": replace("first_layer: 1, last_layer: 1", "first_layer: 1, last_layer: 0"),
    "bucket-of-nothing": replace("bytes: 65536", "bytes: 0"),
    "bucket-of-what": replace("gradients: common", "gradients: dense"),
    "bucket-unknown-key": replace("first_layer: 1, last", "layer: 1, last"),
    "buckets-too-many": replace("  buckets:\n", "  buckets:\n" + "    - {gradients: experts, first_layer: 0, last_layer: 0, bytes: 1}\n" * 2),
    "buckets-a-number": lambda text: cut("  buckets:", "prediction:")(text).replace("prediction:\n", "  buckets: 3\nprediction:\n", 1),
    "training-name-missing": cut("  policy:", "  share_network:"),
    "training-name-empty": replace('policy: "searched"', 'policy: ""'),
    "training-waits-unknown": replace("allreduce_waits: fits", "allreduce_waits: always"),
    "training-order-unknown": replace("gradient_order: listed", "gradient_order: random"),
    "training-share-word": replace("share_network: false", "share_network: no"),
    "training-chunk-negative": replace("a2a_chunk_bytes: 4096", "a2a_chunk_bytes: -1"),
    "training-chunk-unit": replace("a2a_chunk_bytes: 4096", "a2a_chunk_bytes: 4 KiB"),
    "training-bits-zero": replace("gradient_bits: 16", "gradient_bits: 0"),
    "training-packing-huge": replace("experts_per_gpu: 0", "experts_per_gpu: 9"),
    "training-offload-unknown": replace("offload: none", "offload: disk"),
    "training-old-keys": replace("  bucket_bytes: 0\n", "  bucket_order: [0, 1]\n"),
    "colocation-gpu": replace("expert_b: 1, gpu: 0", "expert_b: 1, gpu: 4"),
    "sample-step": replace("  - step: 26", "  - step: 27"),
    "proof-unknown": replace("proof: closed-form", "proof: obvious"),
    "not-canonical-blank": replace("gpu_slots: [2, 2", "gpu_slots: [2,  2"),
    "not-canonical-order": lambda text: text.replace("  seed: 1\n  work_used: 0\n", "  work_used: 0\n  seed: 1\n", 1),
    "not-canonical-rotation": replace('"+2"', '"0>2 1>3 2>0 3>1"'),
}
# Of the plan with sub-ports, an order between nodes and flushes.
ORDERS = {
    "between-missing": replace("    between: nodes\n", ""),
    "between-unknown": replace("between: nodes", "between: racks"),
    "between-gpus": replace("  - name: \"hybrid\"\n    between: gpus", "  - name: \"hybrid\"\n    between: nodes"),
    "node-range": replace('"0>1*1"', '"0>2*1"'),
    "node-rotation": replace('"0>1*1 1>0"', '"+2"'),
    "flush-early": replace('"0>1*2x2 1>2*2"', '"*"'),
    "flush-twice": replace('      - "*"\n', '      - "*"\n      - "*"\n'),
    "flush-and-more": replace('"*"', '"* 0>1"'),
    "flush-of-a-share": replace('"*"', '"*2"'),
    "flush-inside-stage": replace('"0>1 2>3"', '"0>1 *"'),
    "flush-of-nothing": replace('"0>1 2>3"\n', '"+1"\n      - "+3"\n'),
    "ports-zero": replace("ports: 3", "ports: 0"),
    "ports-huge": replace("ports: 3", "ports: 65536"),
    "unit-zero": replace("unit: 2", "unit: 0"),
    "width-one": replace("1>2*2x2", "1>2*2x1"),
    "width-zero": replace("1>2*2x2", "1>2*2x0"),
    "width-huge": replace("1>2*2x2", "1>2*2x65536"),
    "width-word": replace("1>2*2x2", "1>2*2xtwo"),
    "width-missing": replace("2>3 3>0x3", "2>3x 3>0x3"),
    "width-twice": replace("3>0x3", "3>0x3x2"),
    "width-before-share": replace("1>2*2x2", "1>2x2*2"),
    "width-of-a-rotation": replace('"+2"', '"+2x2"'),
    "not-canonical-share": replace("2>3 3>0x3", "2>3*4 3>0x3"),
    "combine-unknown": replace("combine: swapped", "combine: sideways"),
    "order-past-last": replace("    order: 2", "    order: 3"),
}
# Of the plan with weights for each source.
SOURCED = {
    "sources-missing": replace("  route_sources: gpu\n", ""),
    "sources-unknown": replace("route_sources: gpu", "route_sources: rack"),
    "sources-of-even": replace("route: sourced\n", "route: even\n"),
    "by-source-missing": cut("    weights_by_source:", "    order:"),
    "by-source-of-even": replace("route: sourced\n  route_sources: gpu\n", "route: even\n"),
    "by-source-a-list": replace("    weights_by_source: []", "    weights_by_source: 3"),
    "by-source-no-entry": replace('      - {expert: 0, weights: "3 1|0 1|2*1 7"}\n', ""),
    "by-source-no-last-entry": replace('      - {expert: 4, weights: "4*64 0 2"}\n', ""),
    "by-source-of-one-slot": replace('"4*64 0 2"}\n', '"4*64 0 2"}\n      - {expert: 5, weights: "4*1"}\n'),
    "by-source-twice": replace('"4*64 0 2"}\n', '"4*64 0 2"}\n      - {expert: 4, weights: "4*64 0 2"}\n'),
    "by-source-expert-range": replace("{expert: 4,", "{expert: 8,"),
    "by-source-unknown-key": replace("{expert: 4,", "{expert: 4, gpu: 0,"),
    "by-source-a-number": replace('"4*64 0 2"', "[64, 0, 2]"),
    "by-source-word": replace("3 1|0 1", "three 1|0 1"),
    "by-source-negative": replace("3 1|0 1", "3 -1|0 1"),
    "by-source-huge": replace("3 1|0 1", "3 4294967296|0 1"),
    "by-source-weight-missing": replace("3 1|0 1", "3|0 1"),
    "by-source-weight-too-many": replace("3 1|0 1", "3 1 2|0 1"),
    "by-source-classes-missing": replace("3 1|0 1|2*1 7", "3 1|0 1|1 7"),
    "by-source-classes-too-many": replace("3 1|0 1|2*1 7", "3 1|0 1|2*1 7|1 1"),
    "by-source-run-of-one": replace("3 1|0 1", "1*3 1|0 1"),
    "by-source-run-too-long": replace("2*1 7", "3*1 7"),
    "by-source-run-twice": replace("2*1 7", "2*2*1 7"),
    "by-source-blanks": replace("3 1|0 1", "3  1|0 1"),
    "by-source-not-a-run": replace("2*1 7", "1 7|1 7"),
}
# Of the order of one traffic matrix.
MATRIX = {
    "matrix-with-expert-rows": replace("    combine: reversed\n", "    combine: reversed\n    expert_rows: [1, 1, 1, 1]\n"),
    "matrix-planned": replace("  planned: false\n", "  planned: true\n"),
    "matrix-without-hash": cut("    sha256:", "    token_bytes:"),
    "matrix-without-format": cut("    format:", "    sha256:"),
    "matrix-is-a-name": lambda text: cut("    format:", "shape:")(text).replace("  matrix:\n", '  matrix: "traffic.txt"\n', 1),
    "matrix-unknown-key": replace("    token_bytes: 0\n", '    token_bytes: 0\n    file: "traffic.txt"\n'),
    "matrix-token-bytes-word": replace("token_bytes: 0", "token_bytes: none"),
    "matrix-token-bytes-huge": replace("token_bytes: 0", "token_bytes: 16777217"),
    "matrix-format-plain": replace('format: "nccl-tests"', "format: nccl-tests"),
    "matrix-before-planned": lambda text: cut("  planned:", "  matrix:")(text).replace("shape:\n", "  planned: false\nshape:\n", 1),
    "matrix-without-certificates": cut("certificates:", "checksum:"),
    "matrix-with-prediction": replace("certificates:\n", "prediction:\n  planning_steps: 1\n  step_ns: 1\nsamples: []\ncertificates:\n"),
    "matrix-with-evidence": replace("    combine: reversed\n", "    combine: reversed\n    rows_max_sum: 1\n"),
    "matrix-value-negative": replace("    value_ns: ", "    value_ns: -"),
    "certificates-without-matrix": cut("  matrix:", "shape:"),
}
# Of the plan whose requests have homes.
HOMES = {
    "homes-method-unknown": replace("method: codesign", "method: nearest"),
    "homes-method-missing": cut("  method:", "  prefix_rows:"),
    "homes-prefix-negative": replace("prefix_rows: 64", "prefix_rows: -1"),
    "homes-tolerance-zero": replace("tolerance: 12", "tolerance: 0"),
    "homes-tolerance-huge": replace("tolerance: 12", "tolerance: 1099511627777"),
    "homes-price-huge": replace("price_milli: 394", "price_milli: 1000000001"),
    "homes-bias-missing": replace('"0 666"', '"0"'),
    "homes-bias-too-many": replace('"0 666"', '"0 666 1"'),
    "homes-bias-word": replace('"0 666"', '"0 some"'),
    "homes-bias-a-list": replace('"0 666"', "[0, 666]"),
    "homes-bias-minus-zero": replace('"0 666"', '"-0 666"'),
    "homes-weight-range": replace('"1 1 1 1 -1 -1"', '"1 1 1 1 -1 -128"'),
    "homes-weight-missing": replace('"1 1 1 1 -1 -1"', '"1 1 1 1 -1"'),
    "homes-weight-too-many": replace('"1 1 1 1 -1 -1"', '"1 1 1 1 -1 -1 0"'),
    "homes-weight-blanks": replace('"1 1 1 1 -1 -1"', '"1  1 1 1 -1 -1"'),
    "homes-weight-word": replace('"1 1 1 1 -1 -1"', '"1 one 1 1 -1 -1"'),
    "homes-third-node": replace('"1 1 1 1 -1 -1"', '"1 1 1 1 -1 -1|1 1 1 1 -1 -1"'),
    "homes-layer-missing": replace('    - "1 1 1 1 -1 -1"\n', ""),
    "homes-weights-a-number": lambda text: text[:text.index("  weights:\n    - \"1")] + "  weights: 1\n" + text[text.index("prediction:"):],
    "homes-unknown-key": replace("  price_milli: 394\n", "  price_milli: 394\n  price: 2\n"),
    "homes-of-one-node": lambda text: text.replace("  nodes: 2\n", "  nodes: 1\n", 1).replace("gpu_nodes: [0, 0, 1, 1]", "gpu_nodes: [0, 0, 0, 0]", 1),
    "homes-not-canonical": replace('"1 1 1 1 -1 -1"', "'1 1 1 1 -1 -1'"),
}
RAW = {
    "edited": replace("rows_max_sum: 168", "rows_max_sum: 167"),
    "torn": lambda text: text[:len(text) // 2],
    "torn-checksum": lambda text: text[:-20],
    "crlf": replace("\n", "\r\n", -1),
    "other-version": replace("version: 1", "version: 2"),
    "not-a-plan": lambda text: "schema: moeplan.topology\nversion: 1\n",
    "trailing-line": lambda text: text + "\n",
    "empty": lambda text: "",
}


def stamp(text):
    body = text[:text.rindex('checksum: "')]
    return body + f'checksum: "{hashlib.sha256(body.encode()).hexdigest()}"\n'


def main():
    for table, base, finish in ((STAMPED, "base", stamp), (ORDERS, "orders", stamp), (SOURCED, "sourced", stamp),
                                 (MATRIX, "matrix", stamp), (HOMES, "homes", stamp), (RAW, "base", lambda text: text)):
        with open(os.path.join(CORPUS, base + ".yaml"), newline="") as f:
            good = f.read()
        for name, change in table.items():
            text = change(good)
            assert text != good, name
            with open(os.path.join(HERE, name + ".yaml"), "w", newline="") as f:
                f.write(finish(text))


if __name__ == "__main__":
    main()
