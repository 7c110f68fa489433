#!/usr/bin/env python3
"""moeplan report: the page and its data. Its comparison is compare's, its parts are the verbs' own, no name breaks out of it, the same inputs give the
same bytes. (What a browser makes of it: tests/report.)

usage: report.py MOEPLAN SOURCE [TEST...]
"""
import base64
import hashlib
import html.parser
import json
import math
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

MOEPLAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
SAMPLES = SOURCE / "traces" / "samples"
SHARED = pathlib.Path(os.environ.get("MOEPLAN_SHARED_DATA", SOURCE / ".." / "shared" / "data"))
TOP = ["schema", "version", "tool", "verdict", "subject", "layers", "gpus", "comparison", "plans", "sweep", "drift", "measured", "limits", "notes",
       "provenance"]
SECTIONS = ["verdict", "comparison", "load", "traffic", "timeline", "sweep", "drift", "certificates", "limits", "provenance"]
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'.yaml"
VOID = {"meta", "br", "img", "hr", "link", "input", "wbr"}


def run(*arguments, cwd=None):
    return subprocess.run([MOEPLAN, *map(str, arguments)], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">\n(.*?)\n</script>', page, re.S).group(1))


def unpack(a):
    width, letter = {"u8": (1, "B"), "u16": (2, "H"), "u32": (4, "I")}[a["type"]]
    raw = base64.b64decode(a["base64"], validate=True)
    n = math.prod(a["shape"])
    assert len(raw) == n * width, (a["shape"], len(raw))
    return [x * a["scale"] for x in struct.unpack(f"<{n}{letter}", raw)]


class Elements(html.parser.HTMLParser):
    """Every element is closed where it should be; remembers ids, elements and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.tags, self.problems, self.text = [], [], [], [], {}
        self.feed(page)
        self.close()
        self.problems += [f"not closed: {t}" for t in self.open]

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"{tag} closed out of place, line {self.getpos()[0]}")

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data


class Report(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="moeplan-report-")
        self.addCleanup(shutil.rmtree, self.folder)

    def expect(self, code, *arguments):
        done = run(*arguments, cwd=self.folder)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stderr.decode()}")
        return done

    def plan(self, name, trace, topology, *more):
        strategy = [] if "--strategy" in more else ["--strategy", "lpt"]
        self.expect(0, "plan", trace, topology, "-q", "-o", name, *strategy, *more)
        return name

    def report(self, *arguments):
        self.expect(0, "report", *arguments, "-q", "-o", "r.html")
        page = pathlib.Path(self.folder, "r.html").read_text(encoding="utf-8")
        self.check(page)
        return page, data_of(page)

    def check(self, page):
        """What holds of every page, whatever is in it."""
        data = data_of(page)
        elements = Elements(page)
        self.assertEqual(elements.problems, [])
        self.assertEqual(len(elements.ids), len(set(elements.ids)))
        at = [elements.ids.index(s) for s in SECTIONS]
        self.assertEqual(at, sorted(at))
        self.assertFalse([a for t, a in elements.tags for k in ("src", "href") if a.get(k, "#")[0] != "#"], "nothing is fetched")
        self.assertFalse([t for t, a in elements.tags if t == "img" or any(k.startswith("on") for k in a)])
        self.assertEqual(list(data), TOP)
        self.assertEqual((data["schema"], data["version"]), ("moeplan.report", 1))
        n_layers, n_gpus = len(data["layers"]), len(data["gpus"]["node"])
        self.assertEqual(len(data["plans"]), len(data["comparison"]["results"]))
        self.assertNotIn("plan_seconds", page)
        for i, (plan, result) in enumerate(zip(data["plans"], data["comparison"]["results"])):
            self.assertEqual(plan["name"], result["strategy"])
            self.assertEqual(plan["role"], "plan" if i else "baseline")
            self.assertEqual(plan["hosts"]["shape"], [n_layers, n_gpus])
            if result["step_time_ns"] is None:
                self.assertIsNone(plan["load"])
                continue
            self.check_plan(plan, result, n_layers, n_gpus)

    def check_plan(self, plan, result, n_layers, n_gpus):
        load, traffic, timeline = plan["load"], plan["traffic"], plan["timeline"]
        mean, most = unpack(load["mean_rows"]), unpack(load["max_rows"])
        half = (load["mean_rows"]["scale"] + load["max_rows"]["scale"]) / 2
        self.assertTrue(all(a <= b + half + 1e-9 for a, b in zip(mean, most)))
        self.assertEqual(len(load["max_over_mean"]), n_layers)
        self.assertLess(abs(sum(plan["layer_ns"]) - result["moe_ns"]), 2 * n_layers)
        if traffic is not None:
            sums = unpack(traffic["dispatch_sum_bytes"])
            self.assertTrue(all(sums[g * n_gpus + g] == 0 for g in range(n_gpus)))
            both = sum(sums) + sum(unpack(traffic["combine_sum_bytes"]))
            want = result["bytes"]["intra_node"] + result["bytes"]["inter_node"]
            if traffic["n_steps"] == result["n_steps"]:
                self.assertLessEqual(abs(both - want), n_gpus * n_gpus * (traffic["dispatch_sum_bytes"]["scale"] + traffic["combine_sum_bytes"]["scale"]))
            if traffic["dispatch_bytes"] is not None:
                self.assertEqual(traffic["dispatch_bytes"]["shape"], [n_layers, n_gpus, n_gpus])
                cells = unpack(traffic["dispatch_bytes"])
                error = n_layers * traffic["dispatch_bytes"]["scale"] + traffic["dispatch_sum_bytes"]["scale"]
                for k in range(n_gpus * n_gpus):
                    self.assertLessEqual(abs(sum(cells[k::n_gpus * n_gpus]) - sums[k]), error)
                self.assertNotEqual(traffic["combine_bytes"] is None, traffic["combine_of_dispatch"] is None)
        if timeline is not None:
            self.assertEqual(timeline["bars_ns"]["shape"], [n_layers, n_gpus, 8, 2])
            bars, scale = unpack(timeline["bars_ns"]), timeline["bars_ns"]["scale"]
            for layer in range(n_layers):
                own = bars[layer * n_gpus * 16:(layer + 1) * n_gpus * 16]
                self.assertTrue(all(a <= b for a, b in zip(own[::2], own[1::2])))
                self.assertLessEqual(abs(max(own) - timeline["layer_length_ns"][layer]), scale)
            if timeline["reading"] == "barrier":
                parts = [sum(p) for p in timeline["parts_ns"]]
                starts = timeline["layer_start_ns"] + [None]
                for layer in range(n_layers - 1):
                    self.assertLessEqual(abs(starts[layer] + parts[layer] - starts[layer + 1]), 1)
                self.assertLessEqual(sum(parts), timeline["step_ns"])

    # ---- against the other verbs ----

    def same_as_compare(self, trace, topology, plans, *more):
        split = ["--split", "0.5"]
        page, data = self.report(plans[0], trace, topology, *plans[1:], *split, *more)
        done = self.expect(0, "compare", trace, topology, "--strategy", "contiguous", "--incumbent", ",".join(plans), "--json", "-q", *split, *more)
        want = json.loads(done.stdout)["results"]
        # A report plans nothing: these two alone are compare's, and the second only of what compare planned itself.
        self.assertEqual([r["strategy"] for r in want if "planning_step_ns" in r], ["contiguous"])
        self.assertFalse([r for r in data["comparison"]["results"] if "plan_seconds" in r or "planning_step_ns" in r])
        for r in want:
            r.pop("plan_seconds")
            r.pop("planning_step_ns", None)
        self.assertEqual(data["comparison"]["results"], want)
        return page, data

    def test_its_comparison_is_the_one_of_compare(self):
        for sample, topology, more in (("decode.mpt", "2x2:h100", ["--batch", "2"]), ("prefill.mpt", "4:a100", ["--tokens-per-rank", "64"]),
                                       ("signed.mpt", "2:h100+2:l40s", ["--tokens-per-rank", "16"]), ("decode.mpt", "4:h100", ["--batch", "2", "--resample"])):
            with self.subTest(sample=sample, topology=topology):
                a = self.plan("a.yaml", SAMPLES / sample, topology, "--split", "0.5", *more)
                b = self.plan("b.yaml", SAMPLES / sample, topology, "--split", "0.5", "--redundant", "4", "--strategy", "eplb",
                              *more) if sample != "signed.mpt" else "a.yaml"
                self.same_as_compare(SAMPLES / sample, topology, [a, b] if a != b else [a], *more)

    def test_its_comparison_is_the_one_of_compare_on_real_recordings(self):
        cases = (("gpt-oss-20b", "traces/gpt-oss-20b/mmlu_test.npz", "8:h100"), ("deepseek-v2-lite", "traces/deepseek-v2-lite/chat_prefill.npz", "2x8:h100"))
        for model, file, topology in cases:
            if not (SHARED / file).exists():
                print(f"no {file} in the shared data: not looked at")
                continue
            with self.subTest(model=model):
                base = "0" if model == "gpt-oss-20b" else "1"
                self.expect(0, "convert", SHARED / file, "t.mpt", "-m", model, "--phase", "prefill", "--ids", "logical", "--layer-base", base, "-q")
                steps = ["--tokens-per-rank", "256", "--interval-groups", "4"]
                plan = self.plan("p.yaml", "t.mpt", topology, "--split", "0.5", "--tokens-per-rank", "256", "--interval-groups", "0")
                page, data = self.same_as_compare("t.mpt", topology, [plan], *steps)
                self.assertEqual(data["subject"]["model"], model)
                self.assertTrue(data["plans"][1]["verified"]["accepted"])
                self.assertLess(len(page), 2000000)

    def skewed(self):
        """A recording where planning is worth it."""
        self.expect(0, "generate", "--layers", "4", "--experts", "16", "--top-k", "2", "--n-requests", "400", "--tokens-per-request", "32", "--phase", "prefill",
                    "--zipf", "1.2", "-q", "-o", "skewed.mpt")
        return "skewed.mpt"

    def test_the_verdict_is_of_the_numbers(self):
        trace = self.skewed()
        self.plan("p.yaml", trace, "4:h100", "--tokens-per-rank", "128", "--split", "0.5")
        page, data = self.report("p.yaml", trace, "4:h100")
        verdict, results = data["verdict"], data["comparison"]["results"]
        self.assertEqual((verdict["kind"], verdict["worth"]), ("real", True))
        self.assertAlmostEqual(verdict["step_change"], results[1]["step_time_ns"]["mean"] / results[0]["step_time_ns"]["mean"] - 1, places=12)
        self.assertAlmostEqual(verdict["moe_change"], results[1]["moe_ns"] / results[0]["moe_ns"] - 1, places=12)
        self.assertIn(f'<p class="headline {verdict["kind"].replace("too ", "")}">', page)
        self.assertIn(f"{-100 * verdict['step_change']:.1f} % of the step", verdict["headline"])
        saved = sorted((data["plans"][0]["layer_ns"][i] - data["plans"][1]["layer_ns"][i] for i in range(len(data["layers"]))), reverse=True)
        named = [layer["saved_ns"] for layer in verdict["layers"]]
        self.assertTrue(all(abs(a - b) < 2 for a, b in zip(saved, named)))
        self.assertGreaterEqual(2 * sum(named) + 2 * len(named), sum(saved))
        self.assertLess(2 * sum(named[:-1]) - 2 * len(named), sum(saved))
        self.assertIn(f"{len(named)} of 4 layers carr", verdict["where_text"])
        self.assertIn(f"L{verdict['layers'][0]['layer']}", verdict["where_text"])

    def test_the_same_plan_as_the_baseline_is_not_worth_it(self):
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "4:h100", "--tokens-per-rank", "64", "--split", "0.5")
        page, data = self.report("p.yaml", trace, "4:h100", "--incumbent", "p.yaml")
        self.assertEqual((data["verdict"]["kind"], data["verdict"]["worth"], data["verdict"]["step_change"]), ("tie", False, 0))
        self.assertIn("Not worth it", page)

    def test_on_the_data_it_was_made_from_the_verdict_says_so(self):
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "4:h100", "--tokens-per-rank", "64")
        _, data = self.report("p.yaml", trace, "4:h100")
        self.assertEqual(data["verdict"]["evaluated_on"], "planning data")
        self.assertIn("on the data it was made from", data["verdict"]["headline"])

    def test_without_an_interval_nothing_is_worth_it(self):
        trace = self.skewed()
        self.plan("p.yaml", trace, "4:h100", "--tokens-per-rank", "128", "--split", "0.5")
        _, data = self.report("p.yaml", trace, "4:h100", "--interval-groups", "0")
        self.assertLess(data["verdict"]["step_change"], -0.001)
        self.assertEqual((data["verdict"]["kind"], data["verdict"]["worth"]), ("too few", False))
        self.assertEqual(data["verdict"]["interval_text"], "no interval was asked for")
        _, data = self.report("p.yaml", trace, "4:h100")
        self.assertTrue(data["verdict"]["worth"])
        self.assertIn("held out, over the contiguous placement", data["verdict"]["headline"])

    def test_a_plan_that_lies_is_not_to_be_used(self):
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "4:h100", "--tokens-per-rank", "64", "--split", "0.5")
        text = pathlib.Path(self.folder, "p.yaml").read_text(encoding="ascii")
        lie = re.sub(r"(rows_max_sum: )(\d+)", lambda m: m.group(1) + str(int(m.group(2)) - 1), text, count=1)
        self.assertNotEqual(lie, text)
        body = lie[:lie.rindex("checksum:")]
        last = lie[lie.rindex("checksum:"):]
        digest = hashlib.sha256(body.encode()).hexdigest()
        pathlib.Path(self.folder, "lie.yaml").write_text(body + re.sub(r"[0-9a-f]{64}", digest, last), encoding="ascii")
        page, data = self.report("lie.yaml", trace, "4:h100")
        self.assertEqual((data["verdict"]["kind"], data["verdict"]["worth"]), ("none", False))
        self.assertIn("the verifier refuses it", data["verdict"]["headline"])
        self.assertFalse(data["plans"][1]["verified"]["accepted"])
        self.assertIn('class="verified no"', page)

    def test_a_refused_plan_further_down_is_not_recommended(self):
        trace, steps = self.skewed(), ["--tokens-per-rank", "128", "--split", "0.5"]
        self.plan("p.yaml", trace, "4:h100", *steps)
        self.plan("elsewhere.yaml", trace, "2x2:h100", *steps)
        self.plan("slow.yaml", trace, "4:h100", "--strategy", "contiguous", *steps)
        _, data = self.report("slow.yaml", trace, "4:h100", "p.yaml")
        self.assertIn("p.yaml came out shorter", data["verdict"]["other_text"])
        _, data = self.report("slow.yaml", trace, "4:h100", "elsewhere.yaml")
        times = [r["step_time_ns"]["mean"] for r in data["comparison"]["results"]]
        self.assertLess(times[2], times[1])
        self.assertFalse(data["plans"][2]["verified"]["accepted"])
        self.assertEqual(data["verdict"]["other_text"], "")

    def test_a_refused_plan_is_marked_in_the_comparison(self):
        trace, steps = self.skewed(), ["--tokens-per-rank", "128", "--split", "0.5"]
        self.plan("p.yaml", trace, "4:h100", *steps)
        self.plan("elsewhere.yaml", trace, "2x2:h100", *steps)
        mark = '<span class="refused">refused by the verifier</span></th>'
        page, data = self.report("p.yaml", trace, "4:h100", "elsewhere.yaml", "--interval-groups", "0")
        self.assertEqual(page.count(mark), 1)
        self.assertIn('<tr><th scope="row">elsewhere.yaml ' + mark, page)
        notes = [r["note"] for r in data["comparison"]["results"]]
        self.assertEqual(notes[:2], [None, None])
        self.assertEqual(notes[2], f"refused by the verifier ({data['plans'][2]['verified']['violations'][0]})")
        self.assertIn(f"<li>elsewhere.yaml: {notes[2]}</li>", page)
        self.assertIsNotNone(data["comparison"]["results"][2]["step_time_ns"])
        page, data = self.report("elsewhere.yaml", trace, "4:h100", "--incumbent", "elsewhere.yaml", "--interval-groups", "0")
        self.assertEqual(page.count(mark), 2)

    def test_the_sweep_is_the_one_of_sweep(self):
        trace, steps = SAMPLES / "prefill.mpt", ["--tokens-per-rank", "64"]
        self.plan("p.yaml", trace, "4:h100", "--split", "0.5", *steps)
        _, run_here = self.report("p.yaml", trace, "4:h100", "--redundant", "0,4,8", "--strategy", "eplb", *steps)
        done = self.expect(0, "sweep", trace, "4:h100", "--redundant", "0,4,8", "--strategy", "eplb", "--json", "-q", *steps)
        pathlib.Path(self.folder, "s.json").write_bytes(done.stdout)
        _, read = self.report("p.yaml", trace, "4:h100", "--sweep", "s.json", *steps)
        self.assertEqual((run_here["sweep"].pop("source"), read["sweep"].pop("source")), (None, "s.json"))
        for d in (run_here, read):
            self.assertIn(d["sweep"].pop("split"), ("0.5", "0.500000"))
        self.assertEqual(run_here["sweep"], read["sweep"])
        self.assertEqual([p["at"]["redundant"] for p in read["sweep"]["points"]], [0, 4, 8])

    def test_the_drift_of_a_recording_is_the_one_of_check(self):
        trace, steps = SAMPLES / "prefill.mpt", ["--tokens-per-rank", "64"]
        self.plan("p.yaml", trace, "4:h100", "--split", "0.5", *steps)
        self.expect(0, "generate", "--preset", "deepseek-v2-lite-like", "--layers", "8", "--n-requests", "120", "--tokens-per-request", "48", "--seed", "5", "-q",
                    "-o", "new.mpt")
        _, data = self.report("p.yaml", trace, "4:h100", "--drift", "new.mpt", *steps)
        want = json.loads(self.expect(0, "check", "p.yaml", "new.mpt", "4:h100", "--json", "-q", *steps).stdout)
        got = data["drift"]["recording"]
        self.assertEqual(got.pop("name"), "new.mpt")
        for side in ("old", "new"):
            want[side].pop("plan_seconds")
        self.assertEqual(got, want)
        windows = data["drift"]["windows"]
        self.assertEqual(sum(windows["n_members"]), 120)
        self.assertEqual(windows["against"], "planning data")
        distance = unpack(windows["distance"])
        for i, mean in enumerate(windows["mean"]):
            self.assertLess(abs(sum(distance[i * 8:i * 8 + 8]) / 8 - mean), windows["distance"]["scale"])

    def test_what_was_measured_is_what_the_executor_says(self):
        executor = pathlib.Path(MOEPLAN).with_name("moeplan-exec")
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "2:h100", "--tokens-per-rank", "16", "--split", "0.5", "--strategy", "contiguous")
        done = subprocess.run([executor, "p.yaml", trace, "2:h100", "--transport", "loop", "--steps", "2", "--iterations", "2", "--chunk-scale", "1000", "--json",
                               "--timeline", "t.json", "-q"], cwd=self.folder, capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        pathlib.Path(self.folder, "e.json").write_bytes(done.stdout)
        _, data = self.report("p.yaml", trace, "2:h100", "--measured", "e.json,t.json", "--interval-groups", "0")
        said, shown = json.loads(done.stdout), data["measured"]
        self.assertEqual((shown["source"], shown["transport"], shown["iterations"]), ("e.json", "loop", 2))
        for part in shown["parts"]:
            own = [p for p in said["parts"] if (p["layer"], p["part"]) == (part["layer"], part["part"])]
            self.assertEqual(part["n_steps"], len(own))
            self.assertLessEqual(abs(part["median_ns"] - sum(p["measured_ns"]["median"] for p in own) / len(own)), 0.5)
            self.assertLessEqual(abs(part["predicted_ns"] - sum(p["predicted_ns"] for p in own) / len(own)), 0.5)
        self.assertEqual(len(shown["parts"]), len({(p["layer"], p["part"]) for p in said["parts"]}))
        bars, shape = unpack(shown["timeline"]["bars_ns"]), shown["timeline"]["bars_ns"]["shape"]
        self.assertEqual(shape, [8, 2, 8, 2])
        events = [e for e in json.loads(pathlib.Path(self.folder, "t.json").read_bytes())["traceEvents"]
                  if e["ph"] == "X" and e["pid"] % 2 == 1 and " to GPU " in e["name"]]
        for index, layer in enumerate(data["layers"]):
            own = [e for e in events if f" L{layer} " in e["name"]]
            first = min(e["ts"] for e in own)
            for gpu in range(2):
                sends = [e for e in own if e["pid"] // 2 == gpu and e["name"].startswith("dispatch")]
                want = (1000 * (min(e["ts"] for e in sends) - first), 1000 * (max(e["ts"] + e["dur"] for e in sends) - first)) if sends else (0, 0)
                at = ((index * 2 + gpu) * 8 + 2) * 2
                for a, b in zip(bars[at:at + 2], want):
                    self.assertLessEqual(abs(a - b), shown["timeline"]["bars_ns"]["scale"] + 2)

    def executed(self, plan, trace, topology):
        executor = pathlib.Path(MOEPLAN).with_name("moeplan-exec")
        done = subprocess.run([executor, plan, trace, topology, "--transport", "loop", "--steps", "1", "--iterations", "1", "--chunk-scale", "1000", "--json",
                               "--timeline", "t.json", "-q"], cwd=self.folder, capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        pathlib.Path(self.folder, "e.json").write_bytes(done.stdout)

    def test_a_predicted_timeline_is_not_a_measurement(self):
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "2:h100", "--tokens-per-rank", "16", "--split", "0.5", "--strategy", "contiguous")
        self.expect(0, "export", "p.yaml", trace, "2:h100", "--to", "chrome-trace", "-o", "ct.json", "-q")
        done = self.expect(3, "report", "p.yaml", trace, "2:h100", "--measured", "ct.json", "-o", "r.html", "-q")
        self.assertIn(b"is a prediction of moeplan's, nothing in it was measured (give what moeplan-exec --timeline wrote)", done.stderr)
        self.assertFalse(os.path.exists(os.path.join(self.folder, "r.html")))

    def test_what_was_measured_elsewhere_is_refused_or_said(self):
        trace, steps = SAMPLES / "prefill.mpt", ["--tokens-per-rank", "16", "--split", "0.5", "--strategy", "contiguous"]
        self.plan("two.yaml", trace, "2:h100", *steps)
        self.plan("four.yaml", trace, "4:h100", *steps)
        self.executed("two.yaml", trace, "2:h100")
        for file in ("e.json", "t.json"):
            with self.subTest(file=file):
                done = self.expect(3, "report", "four.yaml", trace, "4:h100", "--measured", file, "-o", "r.html", "-q")
                self.assertIn(b"was measured on 2 GPUs, the topology has 4", done.stderr)
                _, data = self.report("two.yaml", trace, "2:h100", "--measured", file, "--interval-groups", "0")
                self.assertEqual(data["notes"], [])
                page, data = self.report("two.yaml", trace, "2:a100", "--measured", file, "--dispatcher", "a2av", "--interval-groups", "0")
                self.assertEqual(data["notes"], [f"{file}: measured with topology 2:h100, this report is of 2:a100",
                                                 f"{file}: measured with dispatcher deepep-normal, this report is of a2av"])
                self.assertIn(data["notes"][0], page)

    def test_a_sweep_of_something_else_is_refused_or_said(self):
        trace, steps = SAMPLES / "decode.mpt", ["--batch", "2", "--steps", "4"]
        self.plan("p.yaml", trace, "4:h100", "--split", "0.5", *steps)
        self.expect(0, "generate", "--phase", "decode", "--layers", "24", "--experts", "32", "--top-k", "4", "--n-requests", "60", "--tokens-per-request", "16",
                    "-q", "-o", "new.mpt")

        def sweep(*arguments):
            done = self.expect(0, "sweep", *arguments, "--redundant", "0,4", "--strategy", "lpt", "--steps", "4", "--json", "-q", "--interval-groups", "0")
            pathlib.Path(self.folder, "s.json").write_bytes(done.stdout)
        more = ["--sweep", "s.json", "--interval-groups", "0"]
        for arguments, reason in (([trace, "4:h100", "--batch", "4"], "another batch: 4, this report is of 2"),
                                  ([trace, "2:h100", "--batch", "2"], "another number of GPUs: 2, this report is of 4"),
                                  (["new.mpt", "4:h100", "--batch", "2"], "another recording: "),
                                  ([trace, "4:h100", "--batch", "2", "--dispatcher", "a2av"], "another dispatcher: a2av, this report is of deepep-"),
                                  ([trace, "4:h100", "--batch", "2", "--timeline", "pipelined"], "another reading of a step: pipelined, this report is of barrier"),
                                  ([trace, "4:h100", "--batch", "2", "-m", "gpt-oss-20b"], "another model: ")):
            with self.subTest(reason=reason):
                sweep(*arguments)
                done = self.expect(3, "report", "p.yaml", trace, "4:h100", *more, "-o", "r.html", "-q")
                self.assertIn("s.json: is a sweep of " + reason, done.stderr.decode())
        sweep(trace, "4:a100", "--batch", "2", "--context", "100")
        page, data = self.report("p.yaml", trace, "4:h100", *more)
        self.assertEqual(data["notes"], ["s.json: swept on topology 4:a100, this report is of 4:h100",
                                         "s.json: swept with a context of 100 tokens, this report has 4096"])
        self.assertIn(data["notes"][0], page)
        sweep(trace, "4:h100", "--batch", "2", "--split", "0.4")
        self.assertEqual(self.report("p.yaml", trace, "4:h100", *more)[1]["notes"],
                         ["s.json: swept with --split 0.4 --seed 1, so on other requests than this report"])
        sweep(trace, "4:h100", "--batch", "2")
        self.assertEqual(self.report("p.yaml", trace, "4:h100", *more)[1]["notes"], [])

    # ---- kinds of inputs ----

    def test_counts_pipelines_and_placements(self):
        counts = self.counts()
        for arguments in ([counts, "2x2:h100"], [SAMPLES / "decode.mpt", "2x2:h100", "--batch", "2", "--timeline", "pipelined"],
                          [SAMPLES / "signed.mpt", "2:h100+2:l40s", "--tokens-per-rank", "16"]):
            with self.subTest(arguments=arguments):
                self.plan("p.yaml", *arguments, "--strategy", "eplb", "--split", "0.5")
                _, data = self.report("p.yaml", arguments[0], arguments[1])
                limits = " ".join(data["limits"])
                if arguments[0] == counts:
                    self.assertEqual(data["subject"]["kind"], "counts")
                    self.assertIn("counts of experts and not the experts of each token", limits)
                if "--timeline" in arguments:
                    self.assertEqual((data["subject"]["timeline"], data["plans"][1]["timeline"]["reading"]), ("pipelined", "pipelined"))
                    self.assertIsNone(data["comparison"]["results"][1]["lower_bound_ns"])
                if "signed.mpt" in str(arguments[0]):
                    self.assertEqual(data["subject"]["phase"], "train")
                    self.assertIn("only the forward pass", limits)
                    self.assertEqual(sorted(set(data["gpus"]["type"])), [0, 1])

    def counts(self):
        rows = ["iteration,source,layer,expert,count"]
        rows += [f"{i},{s},{layer},{e},{1 + (i * 7 + s * 3 + layer + e * e) % 23}" for i in range(24) for s in range(4) for layer in range(3) for e in range(8)]
        path = pathlib.Path(self.folder, "counts.csv")
        path.write_text("\n".join(rows) + "\n", encoding="ascii")
        done = run("convert", "counts.csv", "counts.mpt", "--phase", "prefill", "--layer-base", "0", "--ids", "logical", "--top-k", "2", "--experts", "8", "-q",
                   cwd=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return "counts.mpt"

    def test_one_of_two_plans_that_belong_together_is_refused(self):
        self.expect(0, "generate", "-o", "a.mpt", "--n-requests", "80", "--layers", "2", "--experts", "16", "--phase", "prefill", "--tokens-per-request", "64",
                    "-q")
        self.expect(0, "plan", "a.mpt", "a.mpt", "2:h100", "--colocate", "--tokens-per-rank", "64", "-o", "a.yaml", "--out-b", "b.yaml", "-q")
        done = self.expect(2, "report", "a.yaml", "a.mpt", "2:h100", "-o", "r.html")
        self.assertIn(b"is one of two plans that were made together", done.stderr)
        self.assertFalse(os.path.exists(os.path.join(self.folder, "r.html")))

    def test_a_topology_that_is_too_large_for_matrices_says_so(self):
        self.expect(0, "generate", "-o", "t.mpt", "--n-requests", "500", "--layers", "2", "--experts", "512", "--top-k", "2", "--phase", "prefill",
                    "--tokens-per-request", "16", "-q")
        self.plan("p.yaml", "t.mpt", "40x8:h100", "--tokens-per-rank", "4", "--strategy", "contiguous", "--split", "0.5")
        _, data = self.report("p.yaml", "t.mpt", "40x8:h100", "--interval-groups", "0")
        self.assertIsNone(data["plans"][1]["traffic"])
        self.assertIn("no traffic from rank to rank", data["plans"][1]["detail_note"])
        self.assertTrue([n for n in data["notes"] if "p.yaml" in n])

    def test_plans_of_one_name_are_told_apart(self):
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "4:h100", "--tokens-per-rank", "64", "--split", "0.5")
        os.mkdir(os.path.join(self.folder, "b"))
        shutil.copy(os.path.join(self.folder, "p.yaml"), os.path.join(self.folder, "b", "p.yaml"))
        _, data = self.report("p.yaml", trace, "4:h100", "b/p.yaml", "p.yaml", "--interval-groups", "0")
        self.assertEqual([p["name"] for p in data["plans"]], ["contiguous", "p.yaml", "b/p.yaml", "p.yaml (2)"])

    def test_placements_of_stacks_and_pipes(self):
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "4:h100", "--tokens-per-rank", "64", "--split", "0.5")
        self.expect(0, "export", "p.yaml", "--to", "sglang", "--hidden-layers", "9", "-o", "live.json", "-q")
        _, data = self.report("p.yaml", trace, "4:h100", "--incumbent", "live.json")
        self.assertEqual(data["plans"][0]["verified"]["note"], "a placement of a serving stack: it claims nothing")
        self.assertEqual((data["plans"][0]["name"], data["verdict"]["kind"]), ("live.json", "tie"))
        self.assertIn("live.json is a stack's placement", " ".join(data["limits"]))
        _, data = self.report("live.json", trace, "4:h100", "--split", "0.5", "--tokens-per-rank", "64")
        self.assertEqual((data["verdict"]["evaluated_on"], data["drift"]["windows"]["against"]), ("unknown origin", "recording"))
        piped = subprocess.run(f"cat p.yaml | {MOEPLAN} report - {trace} 4:h100 -q -o - --json", shell=True, cwd=self.folder, capture_output=True, check=True)
        plan = json.loads(piped.stdout)["plans"][1]
        self.assertEqual(plan["verified"]["accepted"], None)
        self.assertIn("came from a pipe", plan["verified"]["note"])

    def test_what_does_not_fit_is_left_out_and_said(self):
        self.expect(0, "generate", "-o", "t.mpt", "--n-requests", "160", "--layers", "80", "--experts", "64", "--top-k", "2", "--phase", "prefill",
                    "--tokens-per-request", "8", "-q")
        self.plan("p.yaml", "t.mpt", "8x8:h100", "--tokens-per-rank", "4", "--strategy", "contiguous", "--split", "0.5")
        arguments = ["t.mpt", "8x8:h100", "--interval-groups", "0"]
        page, data = self.report("p.yaml", *arguments[:2], "p.yaml", "p.yaml", *arguments[2:])
        self.assertLess(len(page), 2000000)
        self.assertEqual(data["plans"][1]["traffic"]["dispatch_bytes"]["type"], "u8")
        self.assertTrue([n for n in data["notes"] if "is rounded" in n])
        self.assertEqual([p["traffic"]["dispatch_bytes"] is None for p in data["plans"]], [False, False, True, True])
        self.assertIn("traffic layer by layer left out", data["plans"][3]["detail_note"])
        self.assertIsNotNone(data["plans"][3]["traffic"]["dispatch_sum_bytes"])
        self.assertIn("p.yaml (3): traffic layer by layer left out to keep the page below 2 MB", data["notes"])

    # ---- text that is not trusted ----

    def test_no_name_breaks_out_of_the_page(self):
        folder = pathlib.Path(self.folder, "in")
        folder.mkdir()
        evil = "</script><img src=x onerror=alert(1)>"
        self.expect(0, "convert", "4:h100", "t.yaml", "-q")
        topology = pathlib.Path(self.folder, "t.yaml").read_text(encoding="ascii")
        named = re.sub(r'(?m)^name: .*$', f"name: '{evil}<!--'", topology, count=1)
        self.assertIn(evil, named)
        pathlib.Path(self.folder, "t.yaml").write_text(named, encoding="ascii")
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "t.yaml", "--tokens-per-rank", "64", "--split", "0.5")
        name = HOSTILE.replace("/", "_") + "\x01\xff"
        shutil.copy(pathlib.Path(self.folder, "p.yaml"), os.fsencode(folder) + b"/" + name.encode("latin-1"))
        done = subprocess.run([MOEPLAN, "report", "p.yaml", str(trace), "t.yaml", b"in/" + name.encode("latin-1"), "-q", "-o", "r.html"], cwd=self.folder,
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        page = pathlib.Path(self.folder, "r.html").read_text(encoding="utf-8")
        self.check(page)
        self.assertNotIn("<img", page)
        self.assertEqual(page.count("</script>"), len([1 for t, _ in Elements(page).tags if t == "script"]))
        data = data_of(page)
        self.assertEqual(data["subject"]["topology"], evil + "<!--")
        self.assertIn("onerror", data["plans"][2]["name"])

    # ---- the file ----

    def test_the_same_inputs_give_the_same_bytes(self):
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "2x2:h100", "--tokens-per-rank", "64", "--split", "0.5")
        pages = set()
        for threads in ("1", "2", "8", "2"):
            page, _ = self.report("p.yaml", trace, "2x2:h100", "--threads", threads)
            pages.add(page.replace(f"--threads {threads}", "").replace(f'"--threads","{threads}"', ""))
        self.assertEqual(len(pages), 1)
        done = self.expect(0, "report", "p.yaml", trace, "2x2:h100", "-o", "-", "--json", "-q")
        data = json.loads(done.stdout)
        page, of_page = self.report("p.yaml", trace, "2x2:h100")
        for d in (data, of_page):
            d["provenance"].pop("command")
        self.assertEqual(data, of_page)
        self.assertEqual(self.expect(0, "report", "p.yaml", trace, "2x2:h100", "-q", "-o", "-").stdout.decode().count("<h2"), page.count("<h2"))

    def test_without_a_place_or_with_a_bad_one_nothing_is_written(self):
        trace = SAMPLES / "prefill.mpt"
        self.plan("p.yaml", trace, "4:h100", "--tokens-per-rank", "64", "--split", "0.5")
        self.assertIn(b"where to?", self.expect(2, "report", "p.yaml", trace, "4:h100").stderr)
        self.assertIn(b"no tables to print as CSV", self.expect(2, "report", "p.yaml", trace, "4:h100", "-o", "r.html", "--format", "csv").stderr)
        self.assertIn(b"writes a page", self.expect(2, "report", "p.yaml", trace, "4:h100", "-o", "r.html", "--format", "markdown").stderr)
        self.expect(4, "report", "p.yaml", trace, "4:h100", "-o", "nowhere/r.html")
        self.assertIn(b"replace its own input", self.expect(2, "report", "p.yaml", trace, "4:h100", "-o", "p.yaml").stderr)
        old = pathlib.Path(self.folder, "old.html")
        old.write_text("old", encoding="ascii")
        self.assertIn(b"replace its own input", self.expect(2, "report", "p.yaml", trace, "4:h100", "--sweep", "old.html", "-o", "old.html").stderr)
        self.expect(3, "report", "p.yaml", trace, "4:h100", "--measured", "p.yaml", "-o", "old.html")
        self.assertIn(b"exclude each other", self.expect(2, "report", "p.yaml", trace, "4:h100", "--sweep", "a", "-r", "0:8:8", "-o", "old.html").stderr)
        self.assertEqual(old.read_text(encoding="ascii"), "old")
        self.assertEqual(sorted(os.listdir(self.folder)), ["old.html", "p.yaml"])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
