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


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
