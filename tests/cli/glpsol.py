#!/usr/bin/env python3
"""Another solver from end to end: glpsol on what --export-lp writes, its answer back through --import-solution, and held against moeplan's
own exact search. Needs glpsol (Debian: glpk-utils); without it every test is skipped and says so.

usage: glpsol.py MOEPLAN
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

MOEPLAN = os.path.abspath(sys.argv[1])
GLPSOL = shutil.which("glpsol")
PLAN = ["plan", "t.mpt", "3:h100", "--batch", "3", "--dispatcher", "a2av", "--steps", "4", "--interval-groups", "0", "--quiet"]


@unittest.skipIf(GLPSOL is None, "glpsol is not installed (apt-get install glpk-utils)")
class Glpsol(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="moeplan-glpsol-")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.run_in(0, MOEPLAN, "generate", "-o", "t.mpt", "--n-requests", "60", "--tokens-per-request", "12", "--layers", "2", "--experts", "8",
                    "--top-k", "2", "--zipf", "0.9", "--phase", "decode", "--quiet")

    def run_in(self, code, *command):
        done = subprocess.run(list(map(str, command)), cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, code, f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def solve(self, program):
        """glpsol's answer, and what it says that the least cost is."""
        answer = program + ".txt"
        said = self.run_in(0, GLPSOL, "--freemps" if program.endswith(".mps") else "--lp", program, "-w", answer, "--tmlim", "60")
        self.assertIn("INTEGER OPTIMAL SOLUTION FOUND", said)
        return answer, float(re.search(r"^s mip \d+ \d+ o (\S+)$", (self.folder / answer).read_text(encoding="ascii"), re.M).group(1))

    def value(self, plan, objective):
        """Of the plan, as simulated on all of its steps: rows of the fullest GPU in all 4 steps of both layers (9 tokens of 2 experts on 3 GPUs each), or ns."""
        said = json.loads(self.run_in(0, MOEPLAN, "simulate", plan, "t.mpt", "3:h100", "--batch", "3", "--dispatcher", "a2av", "--steps", "4",
                                      "--interval-groups", "0", "--json", "--quiet"))
        return round(said["imbalance"]["max_over_mean"] * 4 * 2 * 9 * 2 / 3, 6) if objective == "peak" else said["step_time_ns"]["mean"]

    def come_back(self, objective):
        """Every format's answer as a plan that the verifier accepts; its value, and that of `exact`."""
        more, values, costs = ["--objective", objective], [], []
        self.run_in(0, MOEPLAN, *PLAN, *more, "--strategy", "exact", "-o", "own.yaml")
        for suffix in ("lp", "mps"):
            self.run_in(0, MOEPLAN, *PLAN, *more, "--strategy", "exact", "--export-lp", f"p.{suffix}", "-o", "first.yaml")
            answer, cost = self.solve(f"p.{suffix}")
            self.run_in(0, MOEPLAN, *PLAN, *more, "--strategy", "exact", "--import-solution", answer, "-o", f"{suffix}.yaml")
            self.run_in(0, MOEPLAN, "verify", f"{suffix}.yaml", "t.mpt", "3:h100")
            values.append(self.value(f"{suffix}.yaml", objective))
            costs.append(cost)
        self.assertEqual(costs[0], costs[1], "the program's optimum depends on the format it is written in")
        return values, costs[0], self.value("own.yaml", objective)

    def test_rows_of_the_fullest_gpu_are_those_of_our_own_proof(self):
        values, cost, own = self.come_back("peak")
        self.assertEqual(values, [own, own])
        self.assertEqual(cost, own)

    def test_step_times_are_near_and_never_below_our_own_proof(self):
        """The program leaves out latencies: its optimum can be a little longer when simulated, and not shorter than a proven one."""
        values, _, own = self.come_back("step")
        for value in values:
            self.assertGreaterEqual(value, own)
            self.assertLess(value, 1.02 * own)

    def test_an_answer_that_was_changed_is_refused(self):
        self.run_in(0, MOEPLAN, *PLAN, "--strategy", "exact", "--export-lp", "p.lp", "-o", "first.yaml")
        answer, _ = self.solve("p.lp")
        text = (self.folder / answer).read_text(encoding="ascii")
        taken = next(m for m in re.finditer(r"^j (\d+) 1$", text, re.M))
        (self.folder / answer).write_text(text[:taken.start()] + f"j {taken.group(1)} 0" + text[taken.end():], encoding="ascii")
        done = subprocess.run([MOEPLAN, *PLAN, "--strategy", "exact", "--import-solution", answer, "-o", "p.yaml"], cwd=self.folder,
                              capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("does not hold", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
