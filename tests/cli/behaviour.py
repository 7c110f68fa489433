#!/usr/bin/env python3
"""What the program promises around its verbs: exit codes, streams, atomic output, signals, JSON that parses, limits.

usage: behaviour.py MOEPLAN SOURCE
"""
import hashlib
import json
import math
import os
import pathlib
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

MOEPLAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
SCRATCH = tempfile.TemporaryDirectory(prefix="moeplan-behaviour-")
DECODE = str(pathlib.Path(SCRATCH.name) / "decode.mpt")
STEPS = ["--batch", "2"]
IS_SANITIZED = "ASAN_OPTIONS" in os.environ


def run(*arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=None, env=None, limit=None):
    return subprocess.run([MOEPLAN, *map(str, arguments)], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, cwd=cwd, env=env, timeout=120,
                          preexec_fn=limit, check=False)


def no_nan(value):
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(no_nan(v) for v in value.values())
    return all(no_nan(v) for v in value) if isinstance(value, list) else True


class Case(unittest.TestCase):
    def setUp(self):
        self.holder = tempfile.TemporaryDirectory(prefix="moeplan-behaviour-")
        self.addCleanup(self.holder.cleanup)
        self.folder = pathlib.Path(self.holder.name)

    def expect(self, code, *arguments, **more):
        done = run(*arguments, cwd=self.folder, **more)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stderr.decode()}")
        if code not in (0, 1):
            error = done.stderr.decode()
            self.assertTrue(error.splitlines()[-1].startswith("moeplan: "), error)
        return done

    def plan(self, name="plan.yaml", *more):
        self.expect(0, "plan", DECODE, "4:h100", *STEPS, "-o", name, "--strategy", "lpt", "--quiet", *more)
        return self.folder / name


class Identity(Case):
    def sha256(self, path, *hints):
        return json.loads(self.expect(0, "inspect", path, "--json", *hints).stdout)["facts"]["sha256"]

    def test_the_sha256_names_the_content_and_not_the_container(self):
        samples = SOURCE / "traces/samples"
        (self.folder / "c.csv").write_text("layer,e0,e1\n0,3,4\n1,5,6\n")
        for path, hints in ((samples / "lines.jsonl", []), ("c.csv", ["--phase", "decode", "--layer-base", "2", "--ids", "logical"])):
            self.expect(0, "convert", path, "o.mpt", *hints)
            own = self.sha256(path, *hints)
            self.assertEqual(own, self.sha256("o.mpt"))
            data = (self.folder / "o.mpt").read_bytes()
            self.assertEqual(own, hashlib.sha256(data[:struct.unpack_from("<Q", data, 24)[0]]).hexdigest())
        self.assertNotEqual(self.sha256("c.csv", *hints), self.sha256("c.csv", "--phase", "prefill", *hints[2:]))

    def test_a_plan_of_a_recording_is_verified_against_its_conversion(self):
        lines = SOURCE / "traces/samples/lines.jsonl"
        self.expect(0, "convert", lines, "o.mpt")
        self.expect(0, "plan", lines, "2:h100", "--batch", "1", "--resample", "-o", "p.yaml")
        self.expect(0, "verify", "p.yaml", "o.mpt", "2:h100")
        self.expect(0, "verify", "p.yaml", lines, "2:h100")


class Streams(Case):
    def test_results_go_to_stdout_and_talk_to_stderr(self):
        done = self.expect(0, "list", "dispatchers")
        self.assertIn(b"deepep-ll", done.stdout)
        self.assertEqual(done.stderr, b"")
        done = self.expect(2, "list", "nothing")
        self.assertEqual(done.stdout, b"")

    def test_quiet_is_silent_on_stderr(self):
        done = self.expect(0, "compare", DECODE, "4:h100", *STEPS, "--strategy", "contiguous,lpt", "--quiet", "--interval-groups", "0")
        self.assertEqual(done.stderr, b"")

    def test_a_full_device_is_exit_4(self):
        for arguments in (["list"], ["help"], ["inspect", DECODE], ["--version"]):
            with open("/dev/full", "wb") as full:
                done = self.expect(4, *arguments, stdout=full)
            self.assertIn(b"cannot write", done.stderr)

    def test_a_closed_stdout_is_exit_4(self):
        done = subprocess.run(["bash", "-c", f"'{MOEPLAN}' list >&-"], stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 4)
        self.assertTrue(done.stderr.startswith(b"moeplan: "), done.stderr)

    def test_a_reader_that_goes_away_is_exit_4_and_no_signal(self):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            self.expect(4, "help", "--markdown", stdout=pipe)

    def test_a_closed_stdout_does_not_swallow_the_output_file(self):
        # Descriptor 1 is free then: the plan file must not be opened as it and receive the summary.
        command = f"'{MOEPLAN}' plan '{DECODE}' 4:h100 --batch 2 --strategy lpt -q -o plan.yaml >&-"
        done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, cwd=self.folder, check=False)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.expect(0, "verify", "plan.yaml", DECODE, "4:h100")

    def test_the_plan_can_go_to_standard_output(self):
        plan = self.plan()
        done = self.expect(0, "plan", DECODE, "4:h100", *STEPS, "-o", "-", "--strategy", "lpt", "--quiet")
        self.assertEqual(done.stdout, plan.read_bytes())

    def test_a_recording_can_come_from_standard_input(self):
        with open(DECODE, "rb") as f:
            done = self.expect(0, "inspect", "-", stdin=f)
        self.assertIn(b"decode", done.stdout)


class Output(Case):
    def test_an_existing_file_is_replaced_whole(self):
        path = self.folder / "plan.yaml"
        path.write_text("old")
        self.plan()
        self.assertTrue(path.read_text().startswith("schema: moeplan.plan\n"))
        self.assertEqual(os.listdir(self.folder), ["plan.yaml"])

    def test_a_failure_leaves_the_old_file(self):
        path = self.folder / "trace.mpt"
        path.write_text("old")
        (self.folder / "bad.jsonl").write_text("{}\n{")
        self.expect(3, "convert", "bad.jsonl", "trace.mpt", "--phase", "decode")
        self.assertEqual(path.read_text(), "old")
        self.assertEqual(sorted(os.listdir(self.folder)), ["bad.jsonl", "trace.mpt"])

    def test_places_that_cannot_be_written_are_exit_4_before_any_work(self):
        for path in ("missing/plan.yaml", ".", "/dev/null", "/proc/plan.yaml"):
            start = time.monotonic()
            self.expect(4, "plan", DECODE, "4:h100", *STEPS, "-o", path)
            self.assertLess(time.monotonic() - start, 5)
        self.assertFalse(os.path.isfile("/dev/null"))

    def test_a_file_size_limit_leaves_nothing(self):
        def small():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        (self.folder / "trace.mpt").write_text("old")
        self.expect(4, "convert", DECODE, "trace.mpt", limit=small)
        self.assertEqual((self.folder / "trace.mpt").read_text(), "old")
        self.assertEqual(os.listdir(self.folder), ["trace.mpt"])

    def test_signals_remove_the_temporary_file(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            n_caught = 0
            for delay in (0.002, 0.01, 0.03, 0.1, 0.2, 0.3):
                command = [MOEPLAN, "generate", "-o", "big.mpt", "--n-requests", "4000", "--layers", "24", "--tokens-per-request", "64", "-q"]
                process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                time.sleep(delay)
                process.send_signal(number)
                process.communicate()
                # A signal before main has set its handlers ends the process the system's way.
                self.assertIn(process.returncode, (0, code, -number))
                n_caught += process.returncode == code
                left = os.listdir(self.folder)
                self.assertIn(left, ([], ["big.mpt"]))
                for name in left:
                    os.remove(self.folder / name)
            self.assertGreater(n_caught, 0)

    def test_kill_leaves_no_torn_file(self):
        for delay in (0.02, 0.05, 0.1, 0.2, 0.4):
            process = subprocess.Popen([MOEPLAN, "plan", DECODE, "4:h100", *STEPS, "-o", "plan.yaml", "-q"], cwd=self.folder,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay)
            process.kill()
            process.wait()
            if (self.folder / "plan.yaml").exists():
                self.expect(0, "verify", "plan.yaml")


class ExitCodes(Case):
    def test_done_is_0_and_no_is_1(self):
        plan = self.plan()
        self.expect(0, "verify", plan)
        text = plan.read_text().splitlines()
        row = next(i for i, line in enumerate(text) if line.strip().startswith("slots: ["))
        slots = text[row].split("[")[1].split("]")[0].split(", ")
        slots[0] = slots[1]
        text[row] = text[row].split("[")[0] + "[" + ", ".join(slots) + "]"
        plan.write_text("\n".join(text) + "\n")
        done = run("verify", plan)
        self.assertIn(done.returncode, (1, 3))  # the checksum may refuse it first

    def test_no_plan_fits_is_1_and_writes_nothing(self):
        done = self.expect(1, "plan", DECODE, "4:h100", *STEPS, "--slots-per-gpu", "1", "-o", "plan.yaml")
        self.assertIn(b"not feasible", done.stderr)
        self.assertEqual(os.listdir(self.folder), [])

    def test_usage_is_2(self):
        for arguments in ([], ["plna"], ["plan"], ["plan", DECODE], ["plan", DECODE, "4:h100"], ["inspect"], ["inspect", "a", "b"],
                          ["list", "--no-such"], ["generate"], ["export", "x"], ["verify", "a", "b"], ["compare", DECODE, "4:h100", "--batch"],
                          ["compare", DECODE, "4:h100", "--batch", "x"], ["compare", DECODE, "4:h100", "--batch", "0"],
                          ["compare", DECODE, "4:h100", "--batch", "08"], ["compare", DECODE, "4:h100", "--batch", "-1"],
                          ["compare", DECODE, "4:h100", "--batch", "2", "--batch", "3"], ["compare", DECODE, "4:h100", "--strategy", "best"],
                          ["compare", DECODE, "4:h100", "--strategy", "lpt,,eplb"], ["list", "--json=yes"],
                          ["compare", DECODE, "4:h100", "--tokens-per-rank", "5"], ["compare", DECODE, "4:h100", "--split", "half"],
                          ["list", "--mem-limit", "7"], ["list", "--seed", "18446744073709551616"], ["list", "--threads", "1000"],
                          ["simulate", "p", "t", "x", "--stage-barrier", "--stage-coupled"], ["list", "--time-limit", "nan"]):
            with self.subTest(arguments=arguments):
                done = self.expect(2, *arguments)
                self.assertEqual(done.stdout, b"")
                self.assertEqual(done.stderr.count(b"\n"), 1, done.stderr)

    def test_options_of_later_work_are_not_accepted_yet(self):
        for option in ("--colocate", "--solver", "--from", "--move-budget", "--robust"):
            done = self.expect(2, "plan", DECODE, "4:h100", option, "x", "-o", "plan.yaml")
            self.assertIn(f'unknown option "{option}" (nearest: --'.encode(), done.stderr)

    def test_bad_input_is_3(self):
        (self.folder / "empty.yaml").write_text("")
        (self.folder / "noise.mpt").write_bytes(b"\x00\xff" * 100)
        for arguments in (["inspect", "empty.yaml"], ["inspect", "noise.mpt"], ["verify", "empty.yaml"], ["verify", "noise.mpt"],
                          ["compare", DECODE, "empty.yaml"], ["inspect", "4:h101"], ["inspect", "0:h100"]):
            with self.subTest(arguments=arguments):
                self.expect(3, *arguments)

    def test_a_missing_file_is_4(self):
        for arguments in (["inspect", "missing.npz"], ["verify", "missing.yaml"], ["compare", "missing.npz", "4:h100"],
                          ["compare", DECODE, "missing.yaml"], ["simulate", "missing.yaml", DECODE, "4:h100"]):
            with self.subTest(arguments=arguments):
                done = self.expect(4, *arguments)
                self.assertIn(b"missing", done.stderr)

    def test_too_little_memory_is_4(self):
        done = self.expect(4, "generate", "-o", "t.mpt", "--n-requests", "100000", "--mem-limit", "8MiB")
        self.assertIn(b"--mem-limit", done.stderr)
        self.assertEqual(os.listdir(self.folder), [])


class Detection(Case):
    def array(self, name, shape, values):
        header = repr({"descr": "<i4", "fortran_order": False, "shape": shape}).encode()
        header += b" " * (-(len(header) + 11) % 64) + b"\n"
        data = b"".join(v.to_bytes(4, "little") for v in values)
        (self.folder / name).write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)

    def test_a_mask_of_zeros_and_ones_is_a_placement(self):
        self.array("mask.npy", (2, 1, 4), [1, 1, 0, 0, 0, 0, 1, 1])
        done = self.expect(0, "inspect", "mask.npy")
        self.assertIn(b"placement", done.stdout)

    def test_an_array_of_ids_is_a_recording(self):
        self.array("ids.npy", (2, 1, 4), [5, 1, 2, 3, 4, 7, 6, 1])
        done = self.expect(2, "inspect", "ids.npy")
        self.assertIn(b"--axes", done.stderr)

    def test_presets_short_strings_and_files_are_told_apart(self):
        for word, kind in (("4:h100", b"topology"), ("mixtral-8x7b", b"model"), (DECODE, b"recording"), (self.plan(), b"plan")):
            self.assertIn(kind, self.expect(0, "inspect", word).stdout.splitlines()[2])


class Results(Case):
    def json(self, *arguments, code=0):
        value = json.loads(self.expect(code, *arguments, "--json", "--quiet").stdout)
        self.assertEqual(value["schema"], "moeplan." + arguments[0])
        self.assertEqual(value["version"], 1)
        self.assertTrue(no_nan(value), value)
        return value

    def check_result(self, r):
        for key in ("strategy", "dispatch_ns", "compute_ns", "combine_ns", "utilization", "lower_bound_ns", "gap", "plan_seconds",
                    "evaluated_on"):
            self.assertIn(key, r)
        self.assertEqual(set(r["step_time_ns"]), {"mean", "p50", "p95", "max"})
        self.assertEqual(set(r["bytes"]), {"intra_node", "inter_node"})
        self.assertLessEqual({"max_over_mean", "mean_over_max"}, set(r["imbalance"]))
        times = r["step_time_ns"]
        self.assertLessEqual(times["p50"], times["p95"])
        self.assertLessEqual(times["p95"], times["max"])
        self.assertLessEqual(times["mean"], times["max"])
        self.assertGreaterEqual(r["imbalance"]["max_over_mean"], 1)
        self.assertLessEqual(r["lower_bound_ns"], times["mean"])
        self.assertTrue(0 < r["utilization"] <= 1)

    def test_every_verb_has_json_with_schema_and_version(self):
        self.json("list")
        self.json("inspect", DECODE)
        self.json("inspect", "4:h100")
        self.json("inspect", "deepseek-v3")
        self.json("generate", "-o", "g.mpt", "--n-requests", "20")
        self.json("convert", "g.mpt", "h.mpt")
        self.assertEqual((self.folder / "g.mpt").read_bytes(), (self.folder / "h.mpt").read_bytes())
        self.json("plan", DECODE, "4:h100", *STEPS, "-o", "p.yaml", "--strategy", "lpt")
        self.assertTrue(self.json("verify", "p.yaml", DECODE, "4:h100")["accepted"])
        self.json("inspect", "p.yaml")
        self.json("export", "p.yaml", "--to", "sglang", "-o", "s.json", "--hidden-layers", "2")

    def test_compare_prints_the_object_of_the_design(self):
        value = self.json("compare", DECODE, "2x2:h100", *STEPS, "--strategy", "contiguous,lpt,eplb", "--redundant", "4")
        self.assertEqual([r["strategy"] for r in value["results"]], ["contiguous", "lpt", "eplb"])
        for r in value["results"]:
            self.check_result(r)
            self.assertEqual(r["evaluated_on"], "held-out")
        self.assertEqual(value["results"][0]["change"], 0)
        self.assertIsNotNone(value["results"][1]["change_interval"])
        self.assertLess(value["results"][1]["change_interval"]["low"], value["results"][1]["change_interval"]["high"])

    def test_compare_does_not_depend_on_the_number_of_threads(self):
        seen = set()
        for threads in ("1", "2", "5"):
            value = self.json("compare", DECODE, "2x2:h100", *STEPS, "--strategy", "contiguous,eplb,auto", "--redundant", "4", "--threads", threads)
            for r in value["results"]:
                r["plan_seconds"] = 0
            seen.add(json.dumps(value))
        self.assertEqual(len(seen), 1)

    def test_a_category_split_plans_on_the_listed_ones(self):
        value = self.json("compare", DECODE, "2:h100", *STEPS, "--strategy", "lpt", "--split", "category:domain-0,domain-1")
        self.assertEqual(value["split"]["kind"], "category")
        self.assertLess(value["n_requests"], 120)

    def test_baselines_are_never_faster_than_all_flows_at_once_by_much(self):
        plan = self.plan()
        fast = self.json("simulate", plan, DECODE, "4:h100", "--network", "concurrent")["dispatch_ns"]
        for mode in ("rcs", "sjf", "spread-out"):
            self.assertGreaterEqual(self.json("simulate", plan, DECODE, "4:h100", "--network", mode)["dispatch_ns"], fast * 0.95)

    def test_simulate_prints_one_such_result(self):
        plan = self.plan("p.yaml", "--split", "0.5")
        value = self.json("simulate", plan, DECODE, "4:h100")
        self.check_result(value)
        self.assertEqual(value["evaluated_on"], "held-out")
        whole = self.plan("w.yaml")
        self.assertEqual(self.json("simulate", whole, DECODE, "4:h100")["evaluated_on"], "planning data")

    def test_simulate_says_on_what_it_scored(self):
        self.plan("p.yaml")
        self.plan("h.yaml", "--split", "0.5")
        self.expect(0, "generate", "-o", "other.mpt", "--n-requests", "60", "--layers", "2", "--experts", "16", "--seed", "7", "-q")
        self.assertIn(b"scored on the planning data", self.expect(0, "simulate", "p.yaml", DECODE, "4:h100").stdout)
        self.assertIn(b"held-out: 50 % of the requests", self.expect(0, "simulate", "h.yaml", DECODE, "4:h100").stdout)
        self.assertIn(b"not made from this recording", self.expect(0, "simulate", "p.yaml", "other.mpt", "4:h100").stdout)
        # Whatever is split off now, a plan made from everything has seen it.
        value = self.json("simulate", "p.yaml", DECODE, "4:h100", "--split", "0.5")
        self.assertEqual(value["evaluated_on"], "planning data")

    def test_simulate_agrees_with_what_the_plan_predicts(self):
        made = self.json("plan", DECODE, "4:h100", *STEPS, "-o", "p.yaml", "--strategy", "lpt")
        value = self.json("simulate", "p.yaml", DECODE, "4:h100")
        self.assertEqual(value["step_time_ns"]["mean"], made["predicted_step_ns"])

    def test_planning_data_is_labelled(self):
        value = self.json("compare", DECODE, "4:h100", *STEPS, "--strategy", "lpt", "--split", "none")
        self.assertEqual(value["results"][0]["evaluated_on"], "planning data")

    def test_an_exported_placement_is_an_incumbent_with_the_same_score(self):
        self.plan("p.yaml")
        self.expect(0, "export", "p.yaml", "--to", "sglang", "-o", "s.json", "--hidden-layers", "2")
        value = self.json("compare", DECODE, "4:h100", *STEPS, "--strategy", "contiguous", "--incumbent", "s.json,p.yaml")
        self.assertEqual([r["kind"] for r in value["results"]], ["strategy", "incumbent", "incumbent"])
        self.assertEqual(value["results"][1]["step_time_ns"], value["results"][2]["step_time_ns"])

    def test_a_placement_of_more_layers_than_were_recorded_is_fitted_by_layer_id(self):
        for name, more in (("four.mpt", ["--layers", "4"]), ("two.mpt", ["--layers", "2", "--first-layer", "1"]),
                           ("late.mpt", ["--layers", "2", "--first-layer", "3"])):
            self.expect(0, "generate", "-o", name, "--experts", "16", "--n-requests", "60", "-q", *more)
        self.expect(0, "plan", "four.mpt", "4:h100", *STEPS, "-o", "p.yaml", "--strategy", "lpt", "-q")
        self.check_result(self.json("simulate", "p.yaml", "two.mpt", "4:h100"))
        done = self.expect(3, "simulate", "p.yaml", "late.mpt", "4:h100")
        self.assertIn(b"has no layer 4", done.stderr)

    def test_another_recording_can_be_scored_on(self):
        self.expect(0, "generate", "-o", "a.mpt", "--seed", "1", "-q")
        self.expect(0, "generate", "-o", "b.mpt", "--seed", "2", "-q")
        value = self.json("compare", "a.mpt", "4:h100", *STEPS, "--strategy", "lpt", "--score-on", "b.mpt")
        self.assertEqual(value["split"]["kind"], "score-on")
        self.assertEqual(value["results"][0]["evaluated_on"], "held-out")
        self.expect(0, "generate", "-o", "c.mpt", "--layers", "2", "-q")
        self.expect(3, "compare", "a.mpt", "4:h100", *STEPS, "--score-on", "c.mpt")

    def test_the_table_is_aligned_and_has_a_verdict(self):
        done = self.expect(0, "compare", DECODE, "2x2:h100", *STEPS, "--strategy", "contiguous,lpt", "--quiet")
        lines = done.stdout.decode().splitlines()
        rule = next(i for i, line in enumerate(lines) if set(line) == {"-", " "})
        self.assertEqual(len(lines[rule]), len(lines[rule + 1]))
        self.assertEqual(len(lines[rule]), len(lines[rule - 1]))
        self.assertTrue(lines[-1].startswith("verdict: "))

    def test_mean_step_of_the_network_modes_is_never_below_the_bound(self):
        plan = self.plan()
        for mode in ("plan", "concurrent", "rcs", "sjf", "spread-out"):
            value = self.json("simulate", plan, DECODE, "4:h100", "--network", mode)
            self.assertLessEqual(value["lower_bound_ns"], value["step_time_ns"]["mean"])


if __name__ == "__main__":
    subprocess.run([MOEPLAN, "generate", "-o", DECODE, "--n-requests", "120", "--tokens-per-request", "16", "--layers", "2", "--experts", "16",
                    "--zipf", "1", "-q"], stdout=subprocess.DEVNULL, check=True)
    unittest.main(argv=[sys.argv[0]])
