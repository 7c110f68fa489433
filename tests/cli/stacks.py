#!/usr/bin/env python3
"""Plans to the files of serving stacks and back, through the program: layer ids, refusals, routing.

usage: stacks.py MOEPLAN
"""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

MOEPLAN = os.path.abspath(sys.argv[1])
EXPERTS = 8


class Case(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="moeplan-stacks-")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def run_it(self, code, *arguments):
        done = subprocess.run([MOEPLAN, *map(str, arguments)], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=120, check=False)
        error = done.stderr.decode()
        self.assertEqual(done.returncode, code, f"{arguments}: {error}")
        return done.stdout.decode(), error

    def record(self, layers, name="r.mpt", iterations=4):
        """Counts of the layers with these ids; the load of an expert differs from layer to layer."""
        rows = ["iteration,layer," + ",".join(f"e{e}" for e in range(EXPERTS))]
        for i in range(iterations):
            for l in layers:
                rows.append(f"{i},{l}," + ",".join(str(100 + 37 * ((e + l + i) % EXPERTS) ** 2) for e in range(EXPERTS)))
        (self.folder / "r.csv").write_text("\n".join(rows) + "\n")
        self.run_it(0, "convert", "r.csv", name, "--phase", "decode", "--layer-base", "0", "--ids", "logical")
        return name

    def plan(self, recording, *more, out="p.plan"):
        self.run_it(0, "plan", recording, "4:h100", "--phase", "decode", "--quiet", "-o", out, *more)
        return out


class LayerIds(Case):
    """A recording without a model keeps its layer ids on the way to a stack's file and back."""

    def test_trtllm_there_and_back_without_a_model(self):
        recording = self.record([3, 4])
        self.plan(recording, "--for", "trtllm", "-r", "4")
        self.run_it(0, "export", "p.plan", "--to", "trtllm", "-o", "tp4.yaml")
        text = (self.folder / "tp4.yaml").read_text()
        self.assertIn("\n  3: [", text)
        self.assertIn("\n  4: [", text)
        self.run_it(0, "simulate", "tp4.yaml", recording, "4:h100", "--phase", "decode")
        out, _ = self.run_it(0, "compare", recording, "4:h100", "--phase", "decode", "--incumbent", "tp4.yaml", "--split", "none")
        self.assertIn("tp4.yaml", out)

    def test_vllm_there_and_back_without_a_model(self):
        recording = self.record([3, 4])
        self.plan(recording)
        self.run_it(0, "export", "p.plan", "--to", "vllm", "-o", "v.json")
        self.run_it(0, "simulate", "v.json", recording, "4:h100", "--phase", "decode")

    def test_trtllm_file_of_more_layers_than_were_recorded(self):
        self.plan(self.record([3, 4, 5]))
        self.run_it(0, "export", "p.plan", "--to", "trtllm", "-o", "tp4.yaml")
        self.run_it(0, "simulate", "tp4.yaml", self.record([3, 5], "part.mpt"), "4:h100", "--phase", "decode")

    def test_partial_recording_is_refused(self):
        """Layers 0, 7, 15 of a model must not become its first, second and third MoE layer."""
        recording = self.record([0, 7, 15])
        self.plan(recording)
        for stack, name in (("vllm", "v.json"), ("vllm-ascend", "a.json"), ("omni", "o.npy"), ("trtllm", "t.yaml")):
            _, error = self.run_it(1, "export", "p.plan", "--to", stack, "-o", name)
            self.assertIn("layers 0, 7, 15 are not consecutive", error)
            self.assertIn("give -m MODEL", error)
            self.assertFalse((self.folder / name).exists())
            self.run_it(1, "plan", recording, "4:h100", "--phase", "decode", "-o", "q.plan", "--for", stack)
        _, error = self.run_it(1, "export", "p.plan", "--to", "sglang", "--hidden-layers", "16", "-o", "s.json")
        self.assertIn("layers 0, 7, 15 are not consecutive", error)

    def test_layers_after_the_last_recorded_one(self):
        """Rows that nobody recorded would be placed as dense layers are: by rote."""
        self.plan(self.record([0, 1]))
        for stack, name in (("sglang", "s.json"), ("trtllm", "t.yaml")):
            _, error = self.run_it(1, "export", "p.plan", "--to", stack, "--hidden-layers", "16", "-o", name)
            self.assertIn("the plan ends with layer 1 and the model with layer 15", error)
            self.run_it(0, "export", "p.plan", "--to", stack, "--hidden-layers", "2", "-o", name)


class Routing(Case):
    """--for keeps to the replica choice that the stack's servers make."""

    def test_auto_keeps_to_the_routing_of_the_stack(self):
        recording = self.record([0, 1])
        for stack in ("trtllm", "vllm", "vllm-ascend", "omni"):
            self.plan(recording, "-r", "4", "--for", stack)
            self.assertIn("route: even", (self.folder / "p.plan").read_text())

    def test_explicit_routing_that_the_stack_lacks(self):
        recording = self.record([0, 1])
        for verb, *more in (("plan", "-o", "q.plan"), ("compare", "--split", "none")):
            _, error = self.run_it(2, verb, recording, "4:h100", "--phase", "decode", "--route", "nearest", "--for", "trtllm", *more)
            self.assertIn("--route nearest: the servers of trtllm do not choose replicas so", error)
        self.plan(recording, "-r", "4", "--route", "nearest", "--for", "sglang", "--strategy", "eplb")

    def test_recipe_with_a_routing_that_the_stack_lacks(self):
        recording = self.record([0, 1])
        _, error = self.run_it(1, "plan", recording, "4:h100", "--phase", "decode", "-r", "4", "--strategy", "eplb-nearest", "--for", "vllm",
                               "-o", "q.plan")
        self.assertIn("not applicable: nearest: the target does not choose replicas by the rule nearest", error)

    def test_export_of_another_routing_warns(self):
        self.plan(self.record([0, 1]), "-r", "4", "--strategy", "eplb-nearest")
        out, _ = self.run_it(0, "export", "p.plan", "--to", "vllm", "-o", "v.json")
        self.assertIn("# warning: vLLM spreads tokens evenly over replicas, the plan's nearest routing is lost", out)


class Served(Case):
    """What the stack's servers make of a placement: --for, and the prediction of an export."""

    def tokens(self):
        self.run_it(0, "generate", "-o", "t.mpt", "-q", "--n-requests", "60", "--layers", "2", "--experts", "8", "--top-k", "2", "--zipf", "1")
        self.run_it(0, "plan", "t.mpt", "2x2:h100", "--batch", "2", "-r", "4", "--strategy", "eplb-nearest", "-q", "-o", "p.plan")

    def step_of(self, *arguments):
        out, _ = self.run_it(0, "simulate", "p.plan", "t.mpt", "2x2:h100", "-q", "--json", *arguments)
        return json.loads(out)

    def test_export_predicts_under_the_rule_of_the_stack(self):
        self.tokens()
        more = ("--hidden-layers", "2", "-o")
        for stack, name in (("sglang", "s.json"), ("vllm", "v.json"), ("trtllm", "t.yaml")):
            out, _ = self.run_it(0, "export", "p.plan", "t.mpt", "2x2:h100", "--to", stack, *more, name, "--json", "-q")
            told, same = json.loads(out)["prediction"], self.step_of("--for", stack)
            self.assertEqual(told["step_ns"], same["step_time_ns"]["mean"])
            self.assertEqual(told["replica_choice"], same["replica_choice"])
            self.assertTrue(told["replica_choice"]["exact"])
        # vLLM does not do what the plan does: nothing that needs it is told
        self.assertIsNone(told["own_step_ns"])
        self.assertIsNone(told["planning_step_ns"])
        _, error = self.run_it(0, "export", "p.plan", "t.mpt", "2x2:h100", "--to", "vllm", "-o", "v.json")
        self.assertIn("predicted step on vllm: ", error)
        self.assertIn("what the plan predicts needs its nearest routing, which vllm does not do", error)
        self.assertNotIn("the plan itself on these steps", error)
        # SGLang does
        out, error = self.run_it(0, "export", "p.plan", "t.mpt", "2x2:h100", "--to", "sglang", *more, "s.json")
        self.assertIn("the plan itself on these steps, routing nearest", error)
        self.assertIn("the plan's prediction for its planning data", error)
        # Without steps there is nothing to predict with
        _, error = self.run_it(0, "export", "p.plan", "--to", "vllm", "-o", "v.json")
        self.assertIn("no step time is predicted for vllm (moeplan export PLAN TRACE TOPOLOGY --to vllm predicts it)", error)
        self.run_it(2, "export", "p.plan", "t.mpt", "--to", "vllm", "-o", "v.json")

    def with_table(self, rule):
        """p.plan with a table of weights that sends every token to the first replica, its checksum put right."""
        lines = (self.folder / "p.plan").read_text().splitlines(keepends=True)[:-1]
        body = ""
        for line in lines:
            slots = re.match(r"    slots: \[(.*)\]", line)
            if line == "  route: even\n":
                line = f"  route: {rule}\n" + ("  route_sources: gpu\n" if rule == "sourced" else "")
            body += line.replace('  route: "even"', f'  route: "{rule}"')
            if slots and rule == "sourced":
                of = [int(x) for x in slots[1].split(", ")]
                rows = "".join(f'\n      - {{expert: {e}, weights: "4*1{" 0" * (of.count(e) - 1)}"}}' for e in sorted(set(of)) if of.count(e) > 1)
                body += f"    weights_by_source:{rows}\n"
            elif slots:
                of = slots[1].split(", ")
                body += f"    weights: [{', '.join('1' if of.index(e) == i else '0' for i, e in enumerate(of))}]\n"
        (self.folder / "p.plan").write_text(body + f'checksum: "{hashlib.sha256(body.encode()).hexdigest()}"\n')

    def test_a_routing_table_gains_nothing_in_an_export(self):
        """No stack does what our tables say: the placement is scored anew, and neither figure of the plan is told."""
        for rule in ("weighted", "tiered", "sourced"):
            self.tokens()
            self.run_it(0, "plan", "t.mpt", "2x2:h100", "--batch", "2", "-r", "4", "--strategy", "eplb", "-q", "-o", "p.plan")
            even, served = self.step_of(), {s: self.step_of("--for", s) for s in ("sglang", "trtllm", "vllm")}
            self.with_table(rule)
            own = self.step_of()
            self.assertEqual(own["route"], rule)
            self.assertGreater(own["imbalance"]["max_over_mean"], even["imbalance"]["max_over_mean"])
            for stack, name in (("sglang", "s.json"), ("trtllm", "t.yaml"), ("vllm", "v.json")):
                self.assertEqual(self.step_of("--for", stack)["step_time_ns"], served[stack]["step_time_ns"])
                arguments = ("export", "p.plan", "t.mpt", "2x2:h100", "--to", stack, "--hidden-layers", "2", "-o", name)
                told = json.loads(self.run_it(0, *arguments, "--json", "-q")[0])["prediction"]
                self.assertEqual(told["step_ns"], served[stack]["step_time_ns"]["mean"])
                self.assertIsNone(told["own_step_ns"])
                self.assertIsNone(told["planning_step_ns"])
                out, error = self.run_it(0, *arguments)
                self.assertIn(f"what the plan predicts needs its {rule} routing, which {stack} does not do", error)
                self.assertIn(f"the plan's {rule} routing is lost", out)
                self.assertNotIn("the plan itself on these steps", error)
                self.assertNotIn("planning data:", error)
            self.assertEqual(self.step_of("--for", "sglang")["replica_choice"]["name"], "dynamic")

    def test_every_choice_has_its_own_score_and_dynamic_is_even(self):
        self.tokens()
        static = self.step_of("--for", "sglang")
        self.assertEqual(static["replica_choice"]["name"], "static")
        first = self.step_of("--for", "sglang", "--replica-choice", "static-2025")
        dynamic = self.step_of("--for", "sglang", "--replica-choice", "dynamic")
        self.assertEqual(len({json.dumps(r["copies"]) for r in (static, first, dynamic)}), 3)
        self.assertFalse(dynamic["replica_choice"]["exact"])
        self.run_it(0, "plan", "t.mpt", "2x2:h100", "--batch", "2", "-r", "4", "--strategy", "eplb", "-q", "-o", "p.plan")
        self.assertEqual(self.step_of("--for", "sglang")["step_time_ns"], self.step_of()["step_time_ns"])

    def test_what_cannot_be_scored(self):
        self.tokens()
        for arguments, text in ((("--for", "sglang", "--replica-choice", "fake"), "it replaces the router's experts by random ones"),
                                (("--for", "sglang", "--replica-choice", "lp"), "it solves a linear program for every batch"),
                                (("--for", "vllm", "--replica-choice", "static"), 'vllm has no "static" (write row-hash or position)'),
                                (("--replica-choice", "static"), "of which stack? (add --for STACK)")):
            _, error = self.run_it(2, "simulate", "p.plan", "t.mpt", "2x2:h100", *arguments)
            self.assertIn(text, error)

    def test_compare_scores_every_row_as_the_stack_routes(self):
        self.tokens()
        arguments = ("compare", "t.mpt", "2x2:h100", "--batch", "2", "-r", "4", "--strategy", "eplb", "--incumbent", "p.plan", "--split", "none",
                     "--interval-groups", "0", "-q", "--for", "vllm", "--replica-choice", "position")
        out, _ = self.run_it(0, *arguments)
        self.assertIn("replicas as vllm position: ", out)
        self.assertIn("p.plan: scored as vllm routes; its own routing, nearest, is not among what those servers do", out)
        a, b = json.loads(self.run_it(0, *arguments, "--json")[0])["results"]
        self.assertEqual(a["step_time_ns"], b["step_time_ns"])
        self.assertNotEqual(a["step_time_ns"], json.loads(self.run_it(0, *arguments[:-4], "--json")[0])["results"][1]["step_time_ns"])


class Online(Case):
    """eplb-online: a row of compare, and no plan."""

    def compare(self, settings, *more):
        out, _ = self.run_it(0, "compare", "t.mpt", "2x2:h100", "--batch", "2", "-r", "4", "--strategy", "eplb,eplb-online", "--split", "time:0.5",
                             "--interval-groups", "0", "--json", "-q", "--set", ",".join(f"eplb-online.{s}" for s in settings), *more)
        return json.loads(out)["results"]

    def setUp(self):
        super().setUp()
        self.run_it(0, "generate", "-o", "t.mpt", "-q", "--n-requests", "80", "--layers", "2", "--experts", "8", "--top-k", "2", "--zipf", "1", "--drift", "1")

    def test_a_row_with_what_it_moved(self):
        eplb, online = self.compare(["interval=640", "window=640"])
        self.assertEqual(online["kind"], "policy")
        self.assertGreater(online["online"]["n_rebalances"], 2)
        self.assertGreater(online["online"]["moved_bytes"], 0)
        self.assertGreater(online["online"]["move_ns"], 0)
        self.assertGreater(online["plan_seconds"], 0)
        self.assertNotIn("planning_step_ns", online)
        self.assertEqual(online["n_steps"], eplb["n_steps"])
        _, beside = self.compare(["interval=640", "window=640", "synchronous=0"])
        self.assertLess(beside["online"]["move_ns"], online["online"]["move_ns"])
        _, free = self.compare(["interval=640", "window=640", "move-percent=0"])
        self.assertEqual(free["online"]["move_ns"], 0)
        self.assertEqual(free["online"]["moved_bytes"], online["online"]["moved_bytes"])
        # a step that stands for twice as many costs half as much
        _, twice = self.compare(["interval=1280", "window=1280", "stretch=128"])
        self.assertEqual(twice["online"]["moved_bytes"], online["online"]["moved_bytes"])
        self.assertAlmostEqual(2 * twice["online"]["move_ns"], online["online"]["move_ns"], delta=4)

    def test_without_an_interval_it_is_eplb(self):
        for more in ([], ["--for", "vllm"], ["--for", "sglang", "--replica-choice", "dynamic"], ["--timeline", "pipelined"]):
            eplb, online = self.compare(["interval=0"], *more)
            self.assertEqual(online["step_time_ns"], eplb["step_time_ns"])
            self.assertEqual(online["imbalance"], eplb["imbalance"])

    def test_as_servers_start(self):
        _, online = self.compare(["interval=0", "start=1"])
        out, _ = self.run_it(0, "compare", "t.mpt", "2x2:h100", "--batch", "2", "-r", "4", "--strategy", "trivial", "--split", "time:0.5",
                             "--interval-groups", "0", "--json", "-q")
        self.assertEqual(online["step_time_ns"], json.loads(out)["results"][0]["step_time_ns"])

    def test_it_is_no_plan_and_its_options_are_checked(self):
        _, error = self.run_it(2, "plan", "t.mpt", "2x2:h100", "--batch", "2", "--strategy", "eplb-online", "-o", "p.plan")
        self.assertIn("plan: eplb-online moves experts while the model is served, and a plan does not", error)
        _, error = self.run_it(2, "compare", "t.mpt", "2x2:h100", "--batch", "2", "--strategy", "eplb-online", "--set", "eplb-online.share-percent=100")
        self.assertIn("eplb-online.share-percent: 100 is not in [1, 99]", error)
        _, error = self.run_it(2, "compare", "t.mpt", "2x2:h100", "--batch", "2", "--strategy", "eplb-onlin")
        self.assertIn("nearest: eplb-online", error)
        out, _ = self.run_it(0, "compare", "t.mpt", "2x2:h100", "--batch", "2", "-r", "3", "--strategy", "lpt,eplb-online", "--interval-groups", "0")
        self.assertIn("eplb-online: not applicable: eplb: 11 slots do not divide by 4 GPUs", out)

    def test_an_interval_over_requests_and_a_footnote(self):
        out, _ = self.run_it(0, "compare", "t.mpt", "2x2:h100", "--batch", "2", "-r", "4", "--strategy", "eplb,eplb-online", "--split", "time:0.5",
                             "--set", "eplb-online.interval=640", "--interval-groups", "4")
        self.assertRegex(out, r"\neplb-online: \d+ rebalances in \d+ steps; \d+ experts moved, .* which cost .* per step\n")
        row = next(line for line in out.splitlines() if line.startswith("eplb-online ") and " .. " in line)
        self.assertIn("us", row)


class FileNames(Case):
    """Servers that know the file by the end of its name."""

    def test_json_is_asked_for_before_anything_is_written(self):
        self.plan(self.record([0, 1]))
        for stack, more in (("vllm-ascend", []), ("sglang", ["--hidden-layers", "2"])):
            _, error = self.run_it(2, "export", "p.plan", "--to", stack, "-o", "map", *more)
            self.assertIn(f"{stack} takes only a file whose name ends in .json (write -o map.json)", error)
            self.assertFalse((self.folder / "map").exists())
            self.run_it(0, "export", "p.plan", "--to", stack, "-o", "map.json", *more)
            self.run_it(0, "export", "p.plan", "--to", stack, *more)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
