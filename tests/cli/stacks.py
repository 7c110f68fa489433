#!/usr/bin/env python3
"""Plans to the files of serving stacks and back, through the program: layer ids, refusals, routing.

usage: stacks.py MOEPLAN
"""
import os
import pathlib
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
