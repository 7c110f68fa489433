#!/usr/bin/env python3
"""tools/cluster-acceptance: its part without a GPU passes and writes a whole result file; an executor that counts wrong, lets a fault pass or
writes no topology makes it fail.

usage: acceptance.py MOEPLAN SOURCE
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

MOEPLAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
TOOL = SOURCE / "tools/cluster-acceptance"
# Both started by the very Python that runs this: what finds another one may take longer than the work.
# In the place of moeplan-exec: passes everything on, and changes one thing.
FAKE = """#!{python}
import subprocess, sys
words = sys.argv[1:]
done = subprocess.run([{real!r}, *words], capture_output=True, text=True)
{change}
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""


# A launcher that reads a file by the relative name it was given.
LAUNCHER = """#!{python}
import subprocess, sys
open(sys.argv[1], encoding="utf-8").close()
sys.exit(subprocess.run(sys.argv[2:], check=False).returncode)
"""


def accept(folder, *words, cwd=None):
    """(exit code, result file, output)"""
    out = pathlib.Path(folder) / "result.json"
    done = subprocess.run([sys.executable, TOOL, "--quick", "-o", out, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, cwd=cwd,
                          check=False)
    return done.returncode, json.loads(out.read_text(encoding="utf-8")) if out.exists() else None, done.stdout + done.stderr


class Acceptance(unittest.TestCase):
    def test_the_part_without_a_gpu(self):
        with tempfile.TemporaryDirectory(prefix="moeplan-accept-") as folder:
            code, result, text = accept(folder, "--build", pathlib.Path(MOEPLAN).parent.parent.parent, "--transports", "loop,socket")
        self.assertEqual(code, 0, text)
        self.assertEqual((result["schema"], result["version"], result["failed"], result["quick"]), ("moeplan.acceptance", 1, 0, True))
        self.assertEqual(result["passed"] + result["skipped"], len(result["tests"]))
        self.assertGreaterEqual(result["passed"], 14)
        for key in ("date", "moeplan", "cores", "processor", "system", "load", "gpus", "load_after"):
            self.assertIn(key, result["machine"])
        self.assertEqual([t["name"] for t in result["targets"]], ["loop", "socket"])
        for target in result["targets"]:
            self.assertEqual(target["calibration"]["schema"], "moeplan.calibration")
            self.assertIn("schema: moeplan.topology", target["calibrated_topology"])
            rates = [fit for fit in target["calibration"]["fits"] if fit["kind"] == "rate" and fit["known"]]
            if not rates:  # on a machine so busy that more bytes took no longer
                self.assertEqual(target["cases"], [])
                continue
            self.assertEqual(len(target["cases"]), 4)
            for case in target["cases"]:
                self.assertGreater(min(case["predicted_ns"], case["median_ns"], case["min_ns"], case["bound_ns"]), 0)
            self.assertGreaterEqual(target["error_p95"], target["error_median"])

    def broken(self, change):
        with tempfile.TemporaryDirectory(prefix="moeplan-accept-") as folder:
            os.symlink(MOEPLAN, os.path.join(folder, "moeplan"))
            program = pathlib.Path(folder) / "moeplan-exec"
            program.write_text(FAKE.format(python=sys.executable, real=os.path.join(os.path.dirname(MOEPLAN), "moeplan-exec"), change=change), encoding="utf-8")
            program.chmod(0o755)
            code, result, text = accept(folder, "--build", folder, "--transports", "socket")
        self.assertEqual(code, 1, text)
        return [t["name"] for t in result["tests"] if t["ok"] is False]

    def test_what_is_wrong_is_seen(self):
        counts = self.broken("if 'socket' in words: done.stdout = done.stdout.replace('\"tokens\": ', '\"tokens\": 1')")
        self.assertEqual(counts, [f"socket: plan {plan}, counts of verified tokens and bytes" for plan in ("lpt", "staged")])
        faults = self.broken("done.returncode = done.returncode if '--fault' not in words else 0")
        self.assertEqual(faults, ["socket: corrupt ends all ranks", "socket: kill ends all ranks"])
        self.assertEqual(self.broken("if '--calibrate' in words: done.stdout, done.returncode = '', 5"), ["socket: calibration"])

    def test_relative_paths_are_of_the_folder_where_it_is_started(self):
        with tempfile.TemporaryDirectory(prefix="moeplan-accept-") as folder:
            (pathlib.Path(folder) / "two.yaml").write_text("schema: moeplan.topology\nversion: 1\nname: two\nlaunch: 10 us\nlevels: [{name: nic, latency: 1 us}]\n"
                                                           "gpus: [{repeat: 2, type: h100, ports: {nic: 10 GB/s}}]\n", encoding="utf-8")
            launcher = pathlib.Path(folder) / "launch"
            launcher.write_text(LAUNCHER.format(python=sys.executable), encoding="utf-8")
            launcher.chmod(0o755)
            code, result, text = accept(folder, "--build", pathlib.Path(MOEPLAN).parent.parent.parent, "--launch", "./launch two.yaml", "--topology", "two.yaml",
                                        "--transport", "loop", "--work", "work", cwd=folder)
            self.assertEqual((code, result and result["failed"]), (0, 0), text)
            self.assertEqual(result["targets"][0]["topology"], "two.yaml")
            self.assertTrue((pathlib.Path(folder) / "work" / "launched-loop-measured.yaml").is_file(), text)

    def test_a_result_that_cannot_be_written_is_refused_before_anything_runs(self):
        for name in ("no/such/folder.json", "."):
            with tempfile.TemporaryDirectory(prefix="moeplan-accept-") as folder:
                done = subprocess.run([sys.executable, TOOL, "--quick", "-o", name], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                      check=False)
                self.assertEqual((done.returncode, done.stdout, os.listdir(folder)), (4, "", []), done.stderr)
            self.assertRegex(done.stderr, rf"^cluster-acceptance: {name}: cannot write: .* \(give -o another path\)\n$")

    def test_what_cannot_run_is_skipped_and_said(self):
        with tempfile.TemporaryDirectory(prefix="moeplan-accept-") as folder:
            code, result, text = accept(folder, "--build", pathlib.Path(MOEPLAN).parent.parent.parent, "--transports", "cuda")
        if result["machine"]["gpus"]:
            self.skipTest("this machine has a GPU")
        self.assertEqual((code, result["skipped"], result["targets"]), (0, 1, []), text)


if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    unittest.main()
