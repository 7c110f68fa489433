#!/usr/bin/env python3
"""Makes the sweeps and measurements of this folder that a report refuses, each with one mistake.

usage: make.py [FOLDER]
"""
import copy
import json
import pathlib
import sys

HERE = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__)
FOLDER = HERE if HERE.is_dir() else HERE.parent
POINT = {"at": {"redundant": 0}, "topology": "2:h100", "feasible": True, "note": None, "n_gpus": 2, "step_time_ns": {"mean": 100, "p95": 120},
         "step_time_interval_ns": None, "change_interval": None, "tokens_per_step": 2.0, "ns_per_token": 50.0, "moe_ns": 60, "dispatch_ns": 20, "compute_ns": 20,
         "combine_ns": 20, "moe_share": 0.6, "bytes": {"remote": 1.0, "inter_node": 0.0}, "max_over_mean": 1.2, "memory_bytes_max": 1000, "kv_tokens_min": None,
         "requests_max": None}
SWEEP = {"schema": "moeplan.sweep", "version": 1, "model": "m", "strategy": "lpt", "split": "0.5", "evaluated_on": "held-out", "context": 4096, "synthetic": False,
         "seed": 1, "along": "redundant", "interval_note": None, "points": [POINT],
         "curves": [{"of": {}, "knee": "none", "at": None, "within_noise": False, "verdict": "no knee"}]}
OURS = dict(SWEEP, model="generic stand-in (2 of 3 layers, 8 experts, top-2)")  # of lines.mpt
PART = {"step": 0, "layer": 1, "part": "dispatch", "predicted_ns": 10, "measured_ns": {"min": 8, "median": 9, "p95": 10, "max": 11}}
EXEC = {"schema": "moeplan.exec", "version": 1, "transport": "loop", "iterations": 2, "parts": [PART]}
EVENT = {"name": "dispatch L1 to GPU 1", "cat": "dispatch", "ph": "X", "ts": 1.0, "dur": 2.0, "pid": 1, "tid": 0}
BY_EXEC = {"source": "moeplan-exec", "transport": "loop"}
NAMED = {"name": "process_name", "ph": "M", "pid": 7, "args": {"name": "GPU 3 measured"}}
GONE = object()


def change(document, path, value):
    out = copy.deepcopy(document)
    at = out
    for key in path[:-1]:
        at = at[key]
    if value is GONE:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return out


def main():
    sweep = {
        "schema": change(SWEEP, ["schema"], "moeplan.compare"), "version": change(SWEEP, ["version"], 2), "no-strategy": change(SWEEP, ["strategy"], GONE),
        "seed-text": change(SWEEP, ["seed"], "1"), "along-batch": change(SWEEP, ["along"], "batch"), "no-points": change(SWEEP, ["points"], []),
        "many-points": change(SWEEP, ["points"], [0] * 513), "two-curves": change(SWEEP, ["curves"], SWEEP["curves"] * 2),
        "point-a-number": change(SWEEP, ["points", 0], 7), "at-missing": change(SWEEP, ["points", 0, "at"], GONE),
        "redundant-negative": change(SWEEP, ["points", 0, "at", "redundant"], -1), "redundant-fraction": change(SWEEP, ["points", 0, "at", "redundant"], 0.5),
        "feasible-text": change(SWEEP, ["points", 0, "feasible"], "yes"), "mean-missing": change(SWEEP, ["points", 0, "step_time_ns", "mean"], GONE),
        "mean-null": change(SWEEP, ["points", 0, "step_time_ns", "mean"], None), "interval-half": change(SWEEP, ["points", 0, "step_time_interval_ns"], {"low": 1}),
        "kv-text": change(SWEEP, ["points", 0, "kv_tokens_min"], "many"), "share-text": change(SWEEP, ["points", 0, "moe_share"], "0.6"),
        "bytes-a-list": change(SWEEP, ["points", 0, "bytes"], [1, 2]), "verdict-missing": change(SWEEP, ["curves", 0, "verdict"], GONE),
        "noise-null": change(SWEEP, ["curves", 0, "within_noise"], None), "a-list": [SWEEP],
        "other-model": SWEEP, "other-phase": dict(OURS, phase="prefill"), "other-recording": dict(OURS, trace_sha256="12ab"),
        "other-dispatcher": dict(OURS, dispatcher="hierarchical"), "other-gpus": change(OURS, ["points", 0, "n_gpus"], 4),
        "other-batch": change(OURS, ["points", 0, "batch"], 3)}
    measured = {
        "schema": change(EXEC, ["schema"], "moeplan.sweep"), "no-parts": change(EXEC, ["parts"], []), "training": change(EXEC, ["parts"], GONE),
        "transport-missing": change(EXEC, ["transport"], GONE), "iterations-text": change(EXEC, ["iterations"], "2"),
        "part-unknown": change(EXEC, ["parts", 0, "part"], "gossip"), "step-negative": change(EXEC, ["parts", 0, "step"], -1),
        "layer-foreign": change(EXEC, ["parts", 0, "layer"], 77), "layer-text": change(EXEC, ["parts", 0, "layer"], "L1"),
        "median-missing": change(EXEC, ["parts", 0, "measured_ns", "median"], GONE), "predicted-negative": change(EXEC, ["parts", 0, "predicted_ns"], -5),
        "measured-a-number": change(EXEC, ["parts", 0, "measured_ns"], 5), "part-a-number": change(EXEC, ["parts", 0], 3),
        "other-gpus": dict(EXEC, ranks=4), "timeline-of-other-gpus": {"otherData": BY_EXEC, "traceEvents": [NAMED, EVENT]},
        "predicted-by-moeplan": {"otherData": {"source": "predicted by moeplan", "topology": "2:h100"}, "traceEvents": [EVENT]},
        "by-another-program": {"traceEvents": [EVENT]}, "source-a-number": {"otherData": {"source": 7}, "traceEvents": [EVENT]},
        "events-a-text": {"traceEvents": "none"}, "no-events": {"otherData": BY_EXEC, "traceEvents": []},
        "predicted-only": {"otherData": BY_EXEC, "traceEvents": [dict(EVENT, pid=0)]},
        "gpu-foreign": {"otherData": BY_EXEC, "traceEvents": [dict(EVENT, pid=99)]},
        "event-odd": {"otherData": BY_EXEC, "traceEvents": [dict(EVENT, ts="1"), dict(EVENT, dur=-4), dict(EVENT, name="dispatch L to GPU 1"),
                                                            dict(EVENT, ts=1e300), 5]}}
    for prefix, documents in (("sweep", sweep), ("measured", measured)):
        for name, document in documents.items():
            (FOLDER / f"{prefix}-{name}.json").write_text(json.dumps(document) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
