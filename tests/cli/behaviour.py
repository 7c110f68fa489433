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


class Hints(Case):
    """Options that say what a recording is: what the recording already says is not ignored, it wins or it is refused."""
    CSV = ["--phase", "decode", "--layer-base", "0", "--ids", "logical"]

    def refused(self, code, text, *arguments):
        self.assertIn(text, self.expect(code, *arguments).stderr.decode())

    def counts(self, n_ranks=0, scale=1):
        lines = ["layer,rank,e0,e1,e2,e3"] + [f"{layer},{r},{4 * scale},{3 * scale},{2 * scale},{scale}" for layer in (0, 1) for r in range(n_ranks)]
        if n_ranks == 0:
            lines = ["layer,e0,e1,e2,e3"] + [f"{layer},{4 * scale},{3 * scale},{2 * scale},{scale}" for layer in (0, 1)]
        (self.folder / "c.csv").write_text("\n".join(lines) + "\n")
        self.expect(0, "convert", "c.csv", "c.mpt", *self.CSV)

    def test_hints_that_contradict_a_native_recording_are_refused(self):
        plan = ["plan", DECODE, "4:h100", *STEPS, "-o", "p.yaml", "--strategy", "lpt"]
        for option, value, text in (("--layer-base", "5", "layer base 0"), ("--experts", "40", "16 experts"), ("--top-k", "3", "top-"),
                                    ("--axes", "layers,experts", "no bare array"), ("--requests", "other.csv", "its requests"),
                                    ("--ids", "physical", "logical ids"), ("--phase", "prefill", "phase decode"), ("--ranked", "no", "ranked")):
            self.refused(2, text, *plan, option, value)
            self.refused(2, f"(leave out {option})", *plan, option, value)
        self.refused(2, "phase decode", "inspect", DECODE, "--phase", "train")
        self.expect(0, *plan, "--layer-base", "0", "--experts", "16", "--top-k", "4", "--ids", "logical", "--phase", "decode", "--ranked", "yes")

    def test_convert_changes_phase_and_layer_base_on_purpose(self):
        done = self.expect(0, "convert", DECODE, "k.mpt", "--phase", "prefill", "--layer-base", "5")
        self.assertIn(b"written as prefill from layer 5 on", done.stderr)
        facts = json.loads(self.expect(0, "inspect", "k.mpt", "--json").stdout)["facts"]
        self.assertEqual((facts["phase"], facts["layer ids"]), ("prefill", "5-6"))
        self.assertNotEqual(facts["sha256"], json.loads(self.expect(0, "inspect", DECODE, "--json").stdout)["facts"]["sha256"])

    def test_step_options_on_counts_are_refused(self):
        self.counts()
        for option in (["--batch", "999"], ["--resample"], ["--pad", "64"], ["--source-skew", "3"], ["--tokens-per-rank", "8"]):
            for verb in (["plan", "c.mpt", "2:h100", "-o", "p.yaml"], ["compare", "c.mpt", "2:h100", "--split", "none"]):
                self.refused(2, f"one step is one recorded iteration here (leave out {option[0]})", *verb, *option)

    def test_a_total_is_not_called_a_step(self):
        self.counts(scale=1000)
        done = self.expect(0, "plan", "c.mpt", "2:h100", "--strategy", "lpt", "-o", "p.yaml")
        self.assertIn(b"1 recorded iteration holding about 5000 tokens per rank: a total, not a step", done.stderr)
        self.assertIn(b"1 recorded decode iteration;", done.stdout)
        self.assertIn(b"a total, not a step", self.expect(0, "simulate", "p.yaml", "c.mpt", "2:h100").stderr)
        done = self.expect(0, "compare", "c.mpt", "2:h100", "--split", "none", "--strategy", "lpt")
        self.assertNotIn(b"top-0", done.stdout)
        self.assertIn(b"a total, not a step", done.stderr)
        self.counts()
        self.assertNotIn(b"a total", self.expect(0, "plan", "c.mpt", "2:h100", "--strategy", "lpt", "-o", "p.yaml").stderr)

    def test_source_ranks_that_are_not_the_gpus_are_noted(self):
        self.counts(n_ranks=3)
        for topology, text in (("4:h100", b"the last 1 send no tokens"), ("2:h100", b"folded onto GPU r mod 2")):
            self.assertIn(text, self.expect(0, "plan", "c.mpt", topology, "--strategy", "contiguous", "-o", "p.yaml").stderr)

    def test_a_model_of_other_layers_or_top_k_is_refused(self):
        lite = SOURCE / "traces/samples/prefill.mpt"
        self.expect(0, "convert", lite, "zero.mpt", "--layer-base", "0")
        self.refused(3, "layer 0, which is no MoE layer of model deepseek-v2-lite: its 26 MoE layers are from 1 to 26 (write --layer-base 1",
                     "plan", "zero.mpt", "8:h100", "-m", "deepseek-v2-lite", "-o", "p.yaml")
        self.refused(3, "name the model that was recorded", "plan", DECODE, "4:h100", *STEPS, "-m", "deepseek-v2-lite", "-o", "p.yaml")

    def test_a_model_that_is_named_generic_was_given_all_the_same(self):
        text = (SOURCE / "src/model/presets/gpt-oss-20b.yaml").read_text()
        lines = ["name: generic-mine" if line.startswith("name:") else line for line in text.splitlines()]
        (self.folder / "m.yaml").write_text("\n".join(lines) + "\n")
        done = self.expect(0, "plan", SOURCE / "traces/samples/decode.mpt", "4:h100", *STEPS, "-m", "m.yaml", "--strategy", "lpt", "-o", "p.yaml")
        self.assertNotIn(b"no model given", done.stderr)


class Gaps(Case):
    def test_inspect_names_the_facts_that_a_recording_lacks(self):
        (self.folder / "c.csv").write_text("layer,expert,count\n0,3,4\n1,5,6\n")
        (self.folder / "c.json").write_text('{"model": "m", "n_layers": 1, "n_expert_per_layer": 2, "k": 1, "layers": [{"layer": 0, "heat": [1, 2]}]}\n')
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 2), }"
        header += b" " * (53 + 64 - len(header)) + b"\n"
        (self.folder / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes([0, 1, 2, 3] * 3))
        for name, more, options in (("c.csv", [], ["--phase", "--layer-base", "--ids", "--experts"]), ("c.json", [], ["--phase", "--layer-base", "--ids"]),
                                    ("a.npy", ["--axes", "tokens,layers,k"], ["--phase", "--layer-base", "--ids", "--experts", "--requests"])):
            out = self.expect(0, "inspect", name, *more).stdout.decode()
            for option in options:
                self.assertIn(f"not recorded (give {option}", out)
            self.expect(2, "convert", name, "o.mpt", *more)


class Pipes(Case):
    def test_what_a_pipe_holds_is_read_once(self):
        plan = self.plan()
        for path in (DECODE, plan, SOURCE / "src/model/presets/gpt-oss-20b.yaml"):
            want = json.loads(self.expect(0, "inspect", path, "--json").stdout)["facts"]
            for command in (f"inspect --json <(cat '{path}')", f"inspect --json - < '{path}'", f"inspect --json - < <(cat '{path}')",
                            f"inspect --json /dev/stdin < <(cat '{path}')"):
                done = subprocess.run(["bash", "-c", f"'{MOEPLAN}' {command}"], capture_output=True, check=False)
                self.assertEqual(done.returncode, 0, f"{command}: {done.stderr.decode()}")
                self.assertEqual(json.loads(done.stdout)["facts"], want)
        done = subprocess.run(["bash", "-c", f"'{MOEPLAN}' convert <(cat '{DECODE}') '{self.folder}/o.mpt'"], capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertEqual((self.folder / "o.mpt").read_bytes(), pathlib.Path(DECODE).read_bytes())

    def test_topologies_of_other_programs_are_read(self):
        (self.folder / "t.xml").write_text('<system version="1">\n  <cpu numaid="0">\n')
        for arguments in (["inspect", "t.xml"], ["inspect", "4xt.xml:h100"], ["plan", DECODE, "4xt.xml", *STEPS, "-o", "p.yaml"]):
            self.assertIn("moeplan: t.xml:3:1: not well-formed XML", self.expect(3, *arguments).stderr.decode())
        self.assertIn("moeplan: none.xml: cannot open", self.expect(4, "inspect", "4xnone.xml:h100").stderr.decode())
        # The result does not replace its input, whatever stands around the name.
        (self.folder / "t.xml").write_text('<system version="1"><cpu><pci busid="0:1:0.0" class="0x0302"/></cpu></system>')
        self.assertIn("would replace its own input", self.expect(2, "plan", DECODE, "4xt.xml:h100", *STEPS, "-o", "t.xml").stderr.decode())
        self.expect(0, "convert", "4xt.xml:h100", "t.yaml")
        want = json.loads(self.expect(0, "inspect", "4xt.xml:h100", "--json").stdout)["facts"]
        self.assertEqual(json.loads(self.expect(0, "inspect", "t.yaml", "--json").stdout)["facts"], want)

    def test_xml_bombs_are_refused_fast_and_small(self):
        laughs = '<!DOCTYPE system [\n' + "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">\n' for i in range(9)) + ']>\n'
        pci = "".join(f'<pci busid="0:{i:x}:0.0" class="0x0604">' for i in range(1, 120))
        cards = "".join(f'<pci busid="1:{i:x}:0.0" class="0x{"03" if i % 2 else "02"}0000"/>' for i in range(2, 2000))
        bombs = {"laughs.xml": (laughs + '<system version="1"><cpu>&l9;</cpu></system>', 1, "a DOCTYPE with declarations inside"),
                 "deep.xml": ('<system version="1"><cpu>' + '<pci busid="0:1:0.0">' * 10**5, 1, "more than 128 levels of nesting"),
                 "levels.xml": ("<system version='1'><cpu>" + "<a>" * 10**6, 1, "more than 128 levels of nesting"),
                 "wide.xml": ('<system version="1">\n<cpu>' + "<pci/>" * 600000 + "</cpu></system>", 2, "more than 100000 elements"),
                 "attributes.xml": ('<system version="1">\n<cpu ' + "".join(f"a{i:x}='' " for i in range(300000)) + "/></system>", 2,
                                    "more than 1024 attributes of one element"),
                 "long.xml": ('<system version="1"><cpu numaid="' + "0" * (5 << 20) + '"/></system>', 0, "more than 4194304 bytes"),
                 "names.xml": ("<system version='1'>\n<cpu>" + "".join(f"<n{i:x} m{i:x}='' o{i:x}=''/>" for i in range(130000)) + "</cpu></system>",
                               2, "more than 1024 different names"),
                 "chain.xml": (f'<system version="1">\n<cpu>{pci}{cards}{"</pci>" * 119}</cpu></system>', 0, "which GPUs these are")}
        for name, (text, line, message) in bombs.items():
            (self.folder / name).write_text(text)
            process = subprocess.Popen([MOEPLAN, "inspect", f"4x{name}"], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            said = process.stderr.read().decode()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            process.stderr.close()
            self.assertEqual(process.returncode, 3, said)
            self.assertIn(message, said)
            self.assertIn(f"{name}:{line}:" if line else f"{name}: ", said)
            if not IS_SANITIZED:
                self.assertLess(usage.ru_utime + usage.ru_stime, 1)
                self.assertLess(usage.ru_maxrss, 64 * 1024)


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

    def test_a_result_does_not_replace_its_own_input(self):
        path = self.folder / "m.csv"
        path.write_text("0,1000\n1000,0\n")
        for out in ("m.csv", "./m.csv"):
            self.expect(2, "order", "m.csv", "2:h100", "-o", out)
        self.assertEqual(path.read_text(), "0,1000\n1000,0\n")
        self.expect(0, "order", "m.csv", "2:h100", "-o", "plan.yaml")

    def test_places_that_cannot_be_written_are_exit_4_before_any_work(self):
        (self.folder / "noise.mpt").write_bytes(b"\x00\xff" * 100)
        self.expect(3, "plan", "noise.mpt", "4:h100", *STEPS, "-o", "plan.yaml")
        for path in ("missing/plan.yaml", ".", "/dev/null"):
            self.expect(4, "plan", "noise.mpt", "4:h100", *STEPS, "-o", path)  # not 3: the recording was not even read
        self.assertFalse(os.path.isfile("/dev/null"))

    def test_a_place_that_only_writing_finds_closed_is_exit_4(self):
        self.expect(4, "plan", DECODE, "4:h100", *STEPS, "-o", "/proc/plan.yaml", "--strategy", "lpt")

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
        for option in ("--forecast", "--chunk-bytes"):
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


class Orders(Case):
    """moeplan order, and the exports of steps."""
    ROWS = [[0, 40000001, 9000000, 3], [1000000, 0, 30000000, 7000000], [20000000, 5, 0, 33333333], [12345678, 8000000, 0, 0]]

    def matrix(self, rows=None, name="m.txt", separator=" "):
        text = "\n".join(separator.join(map(str, row)) for row in rows or self.ROWS) + "\n"
        (self.folder / name).write_text(text)
        return name

    def stages_of(self, path, n):
        """Pieces in bytes of the only order of a plan, replayed on ROWS as docs/ORDERS.md part 1 says."""
        lines = (self.folder / path).read_text().splitlines()
        unit = int(next(line.split()[1] for line in lines if line.startswith("    unit: ")))
        done, stages = {}, []
        for line in lines[lines.index("    stages:") + 1:]:
            if not line.startswith("      - "):
                break
            code, pieces = line[8:].strip('"'), []
            words = [f"{i}>{(i + int(code[1:])) % n}" for i in range(n)] if code[0] == "+" else code.split()
            for word in words:
                src, rest = word.split(">")
                dst, share = (rest.split("*") + [unit])[:2]
                pair, before = (int(src), int(dst)), done.get((int(src), int(dst)), 0)
                done[pair] = before + int(share)
                size = self.ROWS[pair[0]][pair[1]]
                pieces.append((*pair, done[pair] * size // unit - before * size // unit))
            stages.append(pieces)
        self.assertEqual(set(done.values()), {unit})
        return stages

    def test_the_best_order_is_a_plan_that_replays_the_matrix_to_the_byte(self):
        self.expect(0, "order", self.matrix(), "4:h100", "--strategy", "bvn", "--stages", "barrier", "-o", "p.yaml")
        self.expect(0, "verify", "p.yaml")
        stages, sums = self.stages_of("p.yaml", 4), {}
        for pieces in stages:
            sends = [src for src, _, size in pieces if size > 0]
            self.assertEqual(len(sends), len(set(sends)))
            for src, dst, size in pieces:
                sums[src, dst] = sums.get((src, dst), 0) + size
        self.assertEqual(sums, {(i, j): self.ROWS[i][j] for i in range(4) for j in range(4) if i != j})
        # An exact order takes the busiest port's bytes: only when the pieces are those that were planned.
        busiest = max(max(map(sum, self.ROWS)), max(map(sum, zip(*self.ROWS))))
        self.assertEqual(sum(max(size for _, _, size in pieces) for pieces in stages), busiest)

    def test_a_plan_that_could_not_be_read_again_is_not_written(self):
        rows = [[((i * 1000003) ^ (j * 998244353)) * 2654435761 % 99999989 if i != j else 0 for j in range(128)] for i in range(128)]
        done = self.expect(3, "order", self.matrix(rows), "16x8:h100", "--strategy", "bvn", "-q", "-o", "p.yaml")
        self.assertRegex(done.stderr.decode(), r"the plan of bvn has \d+ bytes, and a plan file may have 16777216: nothing is written")
        self.assertFalse((self.folder / "p.yaml").exists())

    def test_the_certificate_is_of_this_matrix_and_this_topology(self):
        formats = {"m.txt": " ", "m.csv": ","}
        for name, separator in formats.items():
            self.matrix(name=name, separator=separator)
        flat = [cell for column in zip(*self.ROWS) for cell in column]
        header = "{'descr': '<u8', 'fortran_order': True, 'shape': (4, 4), }".ljust(117) + "\n"
        (self.folder / "m.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + struct.pack("<16Q", *flat))
        names = [*formats, "m.npy"]
        for made in names:
            value = json.loads(self.expect(0, "order", made, "2x2:h100", "--json", "-q", "-o", "p.yaml").stdout)
            best = next(r for r in value["results"] if r["order"] == value["best"])
            certificate = value["certificate"]
            self.assertEqual(certificate["value_ns"], best["time_ns"])
            self.assertGreater(certificate["bound_ns"], best["bound_ns"])
            self.assertTrue(certificate["value_simulated_again"])
            lines = (self.folder / "p.yaml").read_text().splitlines()
            self.assertIn(f'    sha256: "{hashlib.sha256((self.folder / made).read_bytes()).hexdigest()}"', lines)
            self.assertIn(f"    value_ns: {certificate['value_ns']}", lines)
            self.assertIn(f"    bound_ns: {certificate['bound_ns']}", lines)
            for given in names:
                done = self.expect(0 if given == made else 1, "verify", "p.yaml", given, "2x2:h100", "--json")
                kinds = {v["kind"] for v in json.loads(done.stdout)["violations"]}
                self.assertEqual(kinds, set() if given == made else {"provenance"})
            for how in ("-", "/dev/stdin"):
                with open(self.folder / made, "rb") as f:
                    self.expect(0, "verify", "p.yaml", how, "2x2:h100", stdin=f)
        self.expect(3, "verify", "p.yaml", "p.yaml", "2x2:h100")
        self.expect(4, "verify", "p.yaml", "missing.txt", "2x2:h100")

    def test_formats_and_units_say_the_same(self):
        want = json.loads(self.expect(0, "order", self.matrix(), "4:h100", "--json", "-q", "--strategy", "spread-out,single").stdout)
        self.matrix(name="m.csv", separator=",")
        flat = [cell for column in zip(*self.ROWS) for cell in column]
        header = "{'descr': '<f8', 'fortran_order': True, 'shape': (4, 4), }".ljust(117) + "\n"
        (self.folder / "m.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + struct.pack("<16d", *flat))
        half = [[cell * 2 for cell in row] for row in self.ROWS]
        self.matrix(rows=half, name="twice.txt")
        got = []
        for arguments in (["m.csv"], ["m.npy"], ["-"]):
            with open(self.folder / "m.csv", "rb") as f:
                got.append(json.loads(self.expect(0, "order", *arguments, "4:h100", "--json", "-q", "--strategy", "spread-out,single", stdin=f).stdout))
        doubled = [json.loads(self.expect(0, "order", *a, "4:h100", "--json", "-q", "--strategy", "single").stdout)
                   for a in (["twice.txt"], ["m.txt", "--token-bytes", "2"])]
        for value in [want, *got, *doubled]:
            for r in value["results"]:
                r["plan_seconds"] = 0
            value["format"] = ""
        self.assertEqual([want] * 3, got)
        self.assertEqual(doubled[0], doubled[1])
        self.assertEqual(doubled[0]["bytes"], 2 * want["bytes"])

    def test_every_order_has_a_row_and_no_time_is_below_the_bound(self):
        names = [r["name"] for r in json.loads(self.expect(0, "list", "strategies", "--json").stdout)["lists"]["strategies"] if r["kind"] == "order"]
        for topology in ("4:h100", "2x2:h100", "1x2:a100+1x2:l40s"):
            for stages in ("free", "barrier", "coupled"):
                value = json.loads(self.expect(0, "order", self.matrix(), topology, "--json", "-q", "--stages", stages).stdout)
                self.assertEqual([r["order"] for r in value["results"] if r["kind"] == "order"], names)
                self.assertEqual([r["order"] for r in value["results"] if r["kind"] == "baseline"], ["RCS", "SJF", "spread-out"])
                best = None
                for r in value["results"]:
                    if r["time_ns"] is None:
                        self.assertTrue(r["note"])
                        continue
                    self.assertGreaterEqual(r["time_ns"], r["bound_ns"])
                    self.assertLessEqual(r["launches_ns"], r["time_ns"])
                    if r["kind"] == "order" and (best is None or r["time_ns"] < best):
                        best = r["time_ns"]
                self.assertEqual(best, next(r["time_ns"] for r in value["results"] if r["order"] == value["best"]))

    def test_limits_stop_orders_and_the_plan_says_so(self):
        run = lambda *limit: (json.loads(self.expect(0, "order", self.matrix(), "2x2:h100", "--json", "-q", "-o", "p.yaml",
                                                     *limit).stdout), (self.folder / "p.yaml").read_text())
        value, plan = run()
        self.assertEqual(value["stopped_by"], "done")
        self.assertIn("stopped_by: done\n", plan)
        for limit, word, reproducible in (("--work-limit=2", "work_limit", "true"), ("--time-limit=0.000001", "wall_clock", "false")):
            value, plan = run(limit)
            self.assertEqual(value["stopped_by"], word)
            self.assertIn(f"stopped_by: {word}\n", plan)
            self.assertIn(f"reproducible: {reproducible}\n", plan)
            self.expect(0, "verify", "p.yaml")
            untried = [r for r in value["results"] if r["note"] and r["note"].startswith("stopped")]
            self.assertGreater(len(untried), 5)
            self.assertIn("auto", [r["order"] for r in untried])
            text = self.expect(0, "order", self.matrix(), "2x2:h100", "-q", limit).stdout.decode()
            self.assertRegex(text, r"(?m)^auto +stopped +- ")
            self.assertIn("was stopped by its " + ("work limit" if word == "work_limit" else "time limit"), text)

    def test_rounding_is_no_gain_and_no_minus_zero(self):
        text = self.expect(0, "order", self.matrix([[0, 2 ** 53], [0, 0]]), "2:h100", "-q").stdout.decode()
        self.assertNotIn("-0.0 %", text)
        self.assertRegex(text, r"(?m)^single \*")
        self.assertRegex(text, r"(?m)^auto +0 ")

    def test_same_matrix_and_seed_same_bytes(self):
        plans = set()
        for threads in ("1", "2", "7"):
            self.expect(0, "order", self.matrix(), "2x2:h100", "-o", "p.yaml", "--threads", threads, "--seed", "5")
            plans.add((self.folder / "p.yaml").read_bytes())
        self.assertEqual(len(plans), 1)

    def test_trouble_with_the_output_is_exit_4_and_leaves_the_old_file(self):
        (self.folder / "p.yaml").write_text("old")
        with open("/dev/full", "wb") as full:
            self.expect(4, "order", self.matrix(), "4:h100", "--strategy", "single", stdout=full)
            self.expect(4, "order", "m.txt", "4:h100", "--strategy", "single", "-o", "-", stdout=full)
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            self.expect(4, "order", "m.txt", "4:h100", "--strategy", "single", "--json", stdout=pipe)

        def small():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        self.expect(4, "order", "m.txt", "4:h100", "--strategy", "spread-out", "-o", "p.yaml", limit=small)
        self.expect(3, "order", "m.txt", "8:h100", "-o", "p.yaml")
        self.expect(4, "order", "m.txt", "4:h100", "-o", "nowhere/p.yaml")
        self.assertEqual((self.folder / "p.yaml").read_text(), "old")
        self.assertEqual(sorted(os.listdir(self.folder)), ["m.txt", "p.yaml"])

    def trace_of(self, *arguments):
        self.expect(0, "export", "plan.yaml", DECODE, "2x2:h100", "--to", "chrome-trace", "-o", "t.json", *arguments)
        root = json.loads((self.folder / "t.json").read_text())
        tracks = {}
        for e in root["traceEvents"]:
            if e["ph"] == "X":
                start, length = round(e["ts"] * 1000), round(e["dur"] * 1000)
                tracks.setdefault((e["pid"], e["tid"]), []).append((start, start + length, e))
        return root["otherData"], tracks

    def test_a_timeline_agrees_with_simulate(self):
        for order in ("single", "spread-out"):
            self.expect(0, "plan", DECODE, "2x2:h100", "--batch", "2", "--strategy", "lpt", "--order", order, "-q", "-o", "plan.yaml")
            for dispatcher in ("a2av", "deepep-normal", "hierarchical"):
                more = ["--steps", "1", "--dispatcher", dispatcher]
                simulated = json.loads(self.expect(0, "simulate", "plan.yaml", DECODE, "2x2:h100", "--json", "-q", *more).stdout)
                head, tracks = self.trace_of(*more)
                self.assertEqual(head["step_ns"], simulated["step_time_ns"]["mean"])
                self.assertEqual(max(end for events in tracks.values() for _, end, _ in events), head["step_ns"])
                for part in ("dispatch", "combine"):
                    self.assertEqual(head[part + "_ns"], simulated[part + "_ns"])
                    self.assertEqual(head[part + "_ns"], sum(end - start for start, end, e in tracks[0, 0] if e["name"].startswith(part)))
                for events in tracks.values():
                    events.sort(key=lambda e: e[:2])
                    self.assertTrue(all(a[1] <= b[0] for a, b in zip(events, events[1:])))
                sent = sum(e["args"]["bytes"] for (_, tid), events in tracks.items() if 0 < tid < 10001 for _, _, e in events)
                self.assertEqual(sent, simulated["bytes"]["intra_node"] + simulated["bytes"]["inter_node"])

    def test_matrices_hold_the_bytes_that_simulate_counts(self):
        self.expect(0, "plan", DECODE, "2x2:h100", "--batch", "2", "--strategy", "lpt", "-q", "-o", "plan.yaml")
        for dispatcher in ("a2av", "hierarchical"):
            more = ["--steps", "3", "--dispatcher", dispatcher]
            simulated = json.loads(self.expect(0, "simulate", "plan.yaml", DECODE, "2x2:h100", "--json", "-q", *more).stdout)
            total = 0
            for step in range(3):
                self.expect(0, "export", "plan.yaml", DECODE, "2x2:h100", "--to", "nccl-tests", "-o", f"s{step}-", "--step", step, *more)
            for path in self.folder.glob("s?-*.txt"):
                total += sum(int(cell) for line in path.read_text().splitlines() for cell in line.split())
            bytes_of = simulated["bytes"]
            self.assertAlmostEqual(total / 3, bytes_of["intra_node"] + bytes_of["inter_node"], delta=1)
            self.expect(0, "order", "s0-layer-0-dispatch.txt", "2x2:h100", "--strategy", "single")
            for path in self.folder.glob("s?-*.txt"):
                path.unlink()


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


class Gain(Case):
    """`plan` says what the plan gains over contiguous, and when that is no more than noise."""
    SKEWED = ["--n-requests", "160", "--layers", "2", "--experts", "16", "--top-k", "1", "--zipf", "1.2", "--tokens-per-request", "32", "--phase", "prefill"]

    def recording(self, *more):
        self.expect(0, "generate", "-o", "r.mpt", *more, "-q")
        return "r.mpt"

    def gain(self, *arguments, code=0):
        return json.loads(self.expect(code, "plan", *arguments, "-o", "p.yaml", "--json", "-q").stdout)["gain"]

    def test_it_is_what_compare_finds_with_its_default_split(self):
        for more in (["--strategy", "lpt"], ["--strategy", "eplb", "--redundant", "4"]):
            for batch in (STEPS, ["--batch", "2", "--resample"]):
                arguments = [DECODE, "4:h100", *batch, "--steps", "20", *more]
                gain = self.gain(*arguments)
                arguments[arguments.index("--strategy") + 1] += ",contiguous"
                rows = json.loads(self.expect(0, "compare", *arguments, "--json", "-q").stdout)["results"]
                row = next(r for r in rows if r["strategy"] != "contiguous")
                self.assertEqual((gain["change"], gain["change_interval"]), (row["change"], row["change_interval"]))
                self.assertIsNotNone(gain["change_interval"])

    def test_what_was_held_out_is_scored_when_there_is_such_a_part(self):
        gain = self.gain(DECODE, "4:h100", *STEPS, "--steps", "20", "--strategy", "lpt", "--split", "time:0.5")
        self.assertEqual(gain["evaluated_on"], "held-out")
        rows = json.loads(self.expect(0, "compare", DECODE, "4:h100", *STEPS, "--steps", "20", "--strategy", "lpt,contiguous", "--split", "time:0.5",
                                      "--json", "-q").stdout)["results"]
        self.assertEqual(gain["change"], rows[0]["change"])

    def test_a_gain_is_worth_it_and_strict_lets_it_pass(self):
        arguments = (self.recording(*self.SKEWED), "4:h100", "--tokens-per-rank", "256", "--strategy", "lpt")
        gain = self.gain(*arguments, "--strict")
        self.assertEqual((gain["kind"], gain["worth"]), ("real", True))
        self.assertLess(gain["change_interval"]["high"], 0)
        done = self.expect(0, "plan", *arguments, "-o", "p.yaml")
        self.assertIn(b"shorter than contiguous's (95 % interval", done.stderr)
        self.assertNotIn(b"do not bother", done.stderr)

    def test_noise_is_not_worth_it_and_strict_refuses(self):
        recording = self.recording("--n-requests", "60", "--layers", "2", "--experts", "8", "--top-k", "1", "--zipf", "0.2", "--stickiness", "0.2",
                                   "--tokens-per-request", "256", "--phase", "prefill")
        arguments = ("plan", recording, "4:h100", "--tokens-per-rank", "1024", "--strategy", "lpt", "-o", "p.yaml")
        done = self.expect(0, *arguments)
        self.assertRegex(done.stderr.decode(), "do not bother: lpt's steps are .* within the noise .* requests would tell .the recording has 60.")
        (self.folder / "p.yaml").write_text("the old plan")
        done = self.expect(1, *arguments, "--strict", "-q")
        self.assertIn(b"moeplan: plan: do not bother: ", done.stderr)
        self.assertEqual((self.folder / "p.yaml").read_text(), "the old plan")
        answer = json.loads(self.expect(1, *arguments, "--strict", "--json").stdout)
        self.assertEqual(answer["outcome"], "refused")
        self.assertIn("do not bother", answer["note"])
        compare = self.expect(1, "compare", *arguments[1:5], "--strategy", "contiguous,lpt", "--strict", "-q")
        self.assertIn(b"verdict: do not bother: lpt's steps are", compare.stdout)

    def test_too_few_requests_say_how_many_would_do(self):
        recording = self.recording("--n-requests", "12", "--layers", "2", "--experts", "8", "--top-k", "1", "--zipf", "1.5")
        arguments = (recording, "2:h100", "--batch", "1", "--strategy", "lpt")
        done = self.expect(0, "plan", *arguments, "-o", "p.yaml")
        self.assertRegex(done.stderr.decode(), "do not bother: .* nothing says whether that is noise .no interval: too few requests; .*; at least "
                                               "[0-9]+ requests would tell .the recording has 12.")
        self.assertEqual(self.gain(*arguments)["kind"], "too few")
        done = self.expect(0, "compare", *arguments[:4], "--strategy", "contiguous,lpt", "-q")
        self.assertRegex(done.stdout.decode(), "verdict: do not bother: .* nothing says whether that is noise .no interval: too few .*; .*the recording has 12")
        self.expect(0, "generate", "-o", "one.mpt", "--n-requests", "1", "--layers", "2", "--experts", "8", "-q")
        done = self.expect(0, "plan", "one.mpt", "1:h100", "--batch", "1", "--strategy", "lpt", "-o", "p.yaml")
        self.assertIn(b"do not bother: nothing says what the plan gains over contiguous: ", done.stderr)

    def test_it_can_be_switched_off_and_strict_needs_it(self):
        arguments = (DECODE, "4:h100", *STEPS, "--strategy", "lpt")
        self.assertIsNone(self.gain(*arguments, "--interval-groups", "0"))
        self.assertNotIn(b"contiguous", self.expect(0, "plan", *arguments, "--interval-groups", "0", "-o", "p.yaml").stderr)
        self.assertIn(b"--strict: ", self.expect(2, "plan", *arguments, "--interval-groups", "1", "--strict", "-o", "q.yaml").stderr)
        self.assertIn(b"--strict: ", self.expect(2, "compare", *arguments, "--interval-groups", "0", "--strict").stderr)
        self.assertFalse((self.folder / "q.yaml").exists())

    def test_contiguous_itself_has_nothing_to_say(self):
        done = self.expect(0, "plan", DECODE, "4:h100", *STEPS, "--strategy", "contiguous", "-o", "p.yaml")
        self.assertNotIn(b"bother", done.stderr)
        self.assertEqual(self.gain(DECODE, "4:h100", *STEPS, "--strategy", "contiguous")["kind"], "tie")

    def test_the_plan_is_the_same_with_and_without_it(self):
        arguments = ("plan", DECODE, "4:h100", *STEPS, "--redundant", "4", "--strategy", "eplb", "-q", "-o")
        self.expect(0, *arguments, "with.yaml", "--strict" if self.gain(*arguments[1:-2])["worth"] else "--json")
        self.expect(0, *arguments, "without.yaml", "--interval-groups", "0")
        self.assertEqual((self.folder / "with.yaml").read_bytes(), (self.folder / "without.yaml").read_bytes())


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
        self.json("export", "p.yaml", DECODE, "4:h100", "--to", "chrome-trace", "-o", "t.json")
        (self.folder / "m.txt").write_text("0 5\n6 0\n")
        self.json("order", "m.txt", "2:h100")

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

    def test_beside_names_the_list_that_has_its_policies(self):
        listed = self.expect(0, "list", "strategies").stdout.decode()
        self.assertRegex(listed, r"(?m)^lina-online  .*")
        error = self.expect(2, "variants", DECODE, "4:h100", "-b", "2", "--beside", "foo").stderr.decode()
        self.assertIn("moeplan list strategies", error)
        self.assertIn("moeplan list strategies", " ".join(self.expect(0, "help", "variants").stdout.decode().split("--beside")[1][:300].split()))

    def test_names_in_a_library_of_variants_are_quoted(self):
        self.expect(0, "generate", "-o", "v.mpt", "--layers", "2", "--experts", "16", "--n-requests", "60", "-q")
        self.expect(0, "variants", "v.mpt", "4:h100", "-b", "2", "--blocks", "10", "--strategy", "eplb", "-k", "1", "--beside", "none", "-o", 'a"b\\c.yaml')
        text = (self.folder / 'a"b\\c.yaml').read_text(encoding="utf-8")
        self.assertIn('  - plan: "a\\"b\\\\c.0.yaml"\n', text)

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

    def labels(self, *arguments, code=0):
        return {r["strategy"]: r["evaluated_on"] for r in self.json("compare", *arguments, code=code)["results"]}

    def placement(self, name="s.json"):
        row = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 5, 6, 1]
        (self.folder / name).write_text(json.dumps({"physical_to_logical_map": [row, row]}))
        return name

    def test_scoring_on_the_recording_that_is_planned_on_is_planning_data(self):
        (self.folder / "copy.mpt").write_bytes(pathlib.Path(DECODE).read_bytes())
        for other in (DECODE, "copy.mpt"):
            self.assertEqual(self.labels(DECODE, "4:h100", *STEPS, "--strategy", "lpt", "--score-on", other), {"lpt": "planning data"})
        done = self.expect(0, "compare", DECODE, "4:h100", *STEPS, "--strategy", "lpt", "--score-on", "copy.mpt", "-q")
        self.assertIn(b"scored on the planning data: copy.mpt is the recording", done.stdout)
        # Under another model's name the digest is another, and the requests are the same.
        for name in ("one", "two"):
            lines = [{"moeplan_trace": 1, "model": name, "phase": "decode", "ids": "logical", "layer_base": 0, "n_experts": 8, "ranked": True}]
            lines += [{"request": i, "position": 0, "layer": 0, "experts": [i * i % 8]} for i in range(60)]
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        digests = {self.json("inspect", f"{name}.jsonl")["facts"]["sha256"] for name in ("one", "two")}
        self.assertEqual(len(digests), 2)
        self.assertEqual(self.labels("one.jsonl", "4:h100", *STEPS, "--strategy", "lpt", "--score-on", "two.jsonl"), {"lpt": "planning data"})

    def test_incumbents_are_held_out_only_with_the_very_split_that_is_scored(self):
        self.plan("all.yaml")
        self.plan("half.yaml", "--split", "0.5")
        self.plan("seed.yaml", "--split", "0.5", "--seed", "2")
        self.plan("fifth.yaml", "--split", "0.2")
        self.plan("time.yaml", "--split", "time:0.5")
        self.expect(0, "generate", "-o", "other.mpt", "--n-requests", "60", "--layers", "2", "--experts", "16", "--seed", "7", "-q")
        self.expect(0, "plan", "other.mpt", "4:h100", *STEPS, "--strategy", "lpt", "-o", "other.yaml", "-q")
        stack = self.placement()
        given = f"all.yaml,half.yaml,seed.yaml,fifth.yaml,time.yaml,other.yaml,{stack}"
        arguments = (DECODE, "4:h100", *STEPS, "--strategy", "lpt", "--incumbent", given)
        self.assertEqual(self.labels(*arguments), {
            "lpt": "held-out", "all.yaml": "planning data", "half.yaml": "held-out", "seed.yaml": "planning data",
            "fifth.yaml": "planning data", "time.yaml": "planning data", "other.yaml": "held-out", "s.json": "unknown origin"})
        self.assertEqual(self.labels(*arguments, "--split", "time:0.5")["time.yaml"], "held-out")
        self.assertEqual(self.labels(*arguments, "--score-on", DECODE)["half.yaml"], "planning data")
        self.assertEqual(self.labels(*arguments, "--score-on", "other.mpt")["other.yaml"], "planning data")
        text = self.expect(0, "compare", *arguments, "-q").stdout.decode()
        self.assertRegex(text, r"(?m)^all\.yaml \* ")
        self.assertRegex(text, r"(?m)^half\.yaml  ")
        self.assertRegex(text, r"(?m)^s\.json \(route even\) \? ")
        self.assertIn("\n* planning data: ", text)
        self.assertIn("\n? unknown origin: ", text)

    def test_simulate_with_another_split_than_the_plans_is_planning_data(self):
        self.plan("h.yaml", "--split", "0.5")
        for split in (["--split", "time:0.5"], ["--split", "0.5", "--seed", "2"], ["--split", "0.2"], ["--split", "category:domain-0"]):
            with self.subTest(split=split):
                value = self.json("simulate", "h.yaml", DECODE, "4:h100", *split)
                self.assertEqual(value["evaluated_on"], "planning data")
        self.assertEqual(self.json("simulate", "h.yaml", DECODE, "4:h100", "--split", "0.5")["evaluated_on"], "held-out")
        done = self.expect(0, "simulate", "h.yaml", DECODE, "4:h100", "--split", "0.2")
        self.assertIn(b"planning data: the plan was made from this recording", done.stdout)

    def test_a_placement_without_provenance_is_of_unknown_origin(self):
        value = self.json("simulate", self.placement(), DECODE, "4:h100", *STEPS)
        self.assertEqual(value["evaluated_on"], "unknown origin")

    def test_no_interval_when_a_replicate_cannot_fill_recorded_steps(self):
        self.expect(0, "generate", "-o", "few.mpt", "--n-requests", "34", "--layers", "2", "--experts", "16", "-q")
        arguments = ("compare", "few.mpt", "4:h100", "--batch", "8", "--split", "none", "--strategy", "contiguous,lpt")
        value = self.json(*arguments)
        self.assertEqual(value["steps"], "recorded")
        for r in value["results"]:
            self.assertIsNone(r["step_time_interval_ns"])
            self.assertIsNone(r["change_interval"])
            self.assertIn("no recorded step is full", r["interval_note"])
        text = self.expect(0, *arguments, "-q").stdout.decode()
        self.assertIn("no interval: without a tenth of the requests no recorded step is full; --resample gives one", text)
        for r in self.json(*arguments, "--resample")["results"]:
            self.assertIsNotNone(r["step_time_interval_ns"])
            self.assertIsNone(r["interval_note"])

    def test_a_placements_route_is_given_and_named(self):
        stack, plan = self.placement(), self.plan("p.yaml")
        seen = set()
        for route in ("even", "nearest"):
            value = self.json("compare", DECODE, "4:h100", *STEPS, "--strategy", "lpt", "--incumbent", f"{stack},p.yaml", "--incumbent-route", route)
            self.assertEqual(value["results"][1]["route"], route)
            self.assertIn(f"route: {value['results'][2]['route']}", plan.read_text())  # its own
            value = self.json("simulate", stack, DECODE, "4:h100", *STEPS, "--incumbent-route", route)
            self.assertEqual(value["route"], route)
            seen.add(value["copies"]["per_gpu"])
            done = self.expect(0, "simulate", stack, DECODE, "4:h100", *STEPS, "--incumbent-route", route)
            self.assertIn(f", route {route}\n".encode(), done.stdout)
            self.assertEqual(done.stderr, b"")
        done = self.expect(0, "simulate", stack, DECODE, "4:h100", *STEPS)
        self.assertIn(b"--ep-dispatch-algorithm static add --incumbent-route nearest", done.stderr)

    def test_what_does_not_fit_is_said_and_never_wins(self):
        self.expect(0, "generate", "-o", "big.mpt", "--layers", "32", "--experts", "8", "--top-k", "2", "--n-requests", "60",
                    "--tokens-per-request", "8", "-q")
        (self.folder / "six.json").write_text(json.dumps({"physical_to_logical_map": [[i % 8 for i in range(24)]] * 32}))
        steps = ("big.mpt", "4:l40s", *STEPS, "-m", "mixtral-8x7b", "--steps", "2", "--incumbent", "six.json", "--interval-groups", "0")
        value = self.json("compare", *steps, "--strategy", "contiguous,lpt")
        self.assertEqual(value["baseline"], "contiguous")
        self.assertRegex(value["results"][2]["note"], r"^does not fit: 70\.85 GB of weights on 48\.31 GB")
        self.assertNotIn("six.json", value["verdict"])
        # Nothing else is there: no winner and no baseline, and the infeasible ones have no figures.
        value = self.json("compare", *steps, "--strategy", "contiguous,lpt", "--redundant", "16", code=1)
        self.assertIsNone(value["baseline"])
        self.assertIn("no strategy gives a plan", value["verdict"])
        for r in value["results"][:2]:
            self.assertIn("not feasible", r["note"])
            for key in ("step_time_ns", "dispatch_ns", "bytes", "imbalance", "gap", "memory_bytes_max"):
                self.assertIsNone(r[key])
        self.expect(1, "compare", *steps, "--strategy", "lpt", "--redundant", "16", "-q")
        value = self.json("simulate", "six.json", *steps[:-4])
        self.assertTrue(value["note"].startswith("does not fit"))
        self.assertIn(b"does not fit", self.expect(0, "simulate", "six.json", *steps[:-4], "-q").stdout)

    def test_a_model_without_kv_cache_has_no_tokens_of_it(self):
        self.assertGreater(self.json("simulate", self.plan(), DECODE, "4:h100")["kv_tokens_min"], 0)
        self.expect(0, "generate", "-o", "image.mpt", "--layers", "1", "--first-layer", "5", "--experts", "8", "--top-k", "1", "--n-requests", "60", "-q")
        plan = ("plan", "image.mpt", "4:h100", *STEPS, "-m", "limoe-b16", "--strategy", "lpt", "-o", "i.yaml")
        self.assertIsNone(self.json(*plan)["result"]["kv_tokens_min"])
        self.assertIn(b", - tokens of KV cache", self.expect(0, *plan, "-q").stdout)
        self.assertIn(b", - tokens of KV cache", self.expect(0, "simulate", "i.yaml", "image.mpt", "4:h100", "-m", "limoe-b16").stdout)

    def test_no_is_an_object_too(self):
        value = self.json("plan", DECODE, "4:h100", *STEPS, "--slots-per-gpu", "1", "-o", "p.yaml", code=1)
        self.assertEqual(value["outcome"], "infeasible")
        self.assertIn("not feasible", value["note"])
        self.plan("d.yaml", "--redundant", "3")
        value = self.json("export", "d.yaml", "--to", "vllm-ascend", "-o", "v.json", code=1)
        self.assertEqual(value["outcome"], "refused")
        self.assertIn("vllm-ascend cannot load this plan", value["note"])
        self.assertFalse((self.folder / "v.json").exists())

    def test_a_seed_fits_json(self):
        value = self.json("compare", DECODE, "4:h100", *STEPS, "--strategy", "lpt", "--seed", str(2**63 - 1))
        self.assertEqual(value["seed"], 2**63 - 1)
        self.expect(2, "compare", DECODE, "4:h100", *STEPS, "--seed", str(2**63))

    def test_a_name_given_twice_is_one_row(self):
        value = self.json("compare", DECODE, "4:h100", *STEPS, "--strategy", "contiguous,lpt,contiguous,lpt")
        self.assertEqual([r["strategy"] for r in value["results"]], ["contiguous", "lpt"])
        value = self.json("compare", DECODE, "4:h100", *STEPS, "--strategy", "contiguous,contiguous")
        self.assertIn("no strategy has shorter steps than contiguous", value["verdict"])

    def test_ties_are_ties(self):
        self.plan("a.yaml", "--split", "0.5")
        (self.folder / "b.yaml").write_bytes((self.folder / "a.yaml").read_bytes())
        value = self.json("compare", DECODE, "4:h100", *STEPS, "--strategy", "lpt", "--incumbent", "a.yaml,b.yaml")
        self.assertNotIn("0.0 %", value["verdict"])
        self.expect(0, "compare", DECODE, "1:h100", *STEPS, "--strategy", "contiguous,auto", "-q")
        value = self.json("compare", DECODE, "1:h100", *STEPS, "--strategy", "contiguous,auto")
        self.assertEqual(value["results"][0]["step_time_ns"], value["results"][1]["step_time_ns"])
        self.assertIn("do not bother: auto's steps are as long as contiguous's", value["verdict"])

    def test_score_on_and_split_exclude_each_other(self):
        for verb in (["compare"], ["plan", "-o", "p.yaml"]):
            done = self.expect(2, verb[0], DECODE, "4:h100", *STEPS, *verb[1:], "--score-on", DECODE, "--split", "0.5")
            self.assertIn(b"--score-on and --split exclude each other", done.stderr)
        value = self.json("compare", DECODE, "4:h100", *STEPS, "--strategy", "lpt", "--score-on", DECODE)
        self.assertEqual(value["split"], {"kind": "score-on"})

    def test_what_the_stack_refuses_does_not_win(self):
        row = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 5, 9]
        (self.folder / "twice.json").write_text(json.dumps({"physical_to_logical_map": [row, row]}))
        arguments = (DECODE, "4:h100", *STEPS, "--strategy", "eplb", "--redundant", "4", "--incumbent", "twice.json")
        self.assertIsNone(self.json("compare", *arguments)["results"][1]["note"])
        value = self.json("compare", *arguments, "--for", "omni")
        self.assertIn("omni cannot load this", value["results"][1]["note"])
        self.assertIsNotNone(value["results"][1]["step_time_ns"])
        self.assertNotIn("twice.json:", value["verdict"])
        self.assertEqual(value["baseline"], "eplb")

    def test_compare_shows_the_usual_strategies_or_all(self):
        named = [r["strategy"] for r in self.json("compare", DECODE, "4:h100", *STEPS, "--interval-groups", "0")["results"]]
        self.assertEqual(named, ["auto", "contiguous", "round-robin", "lpt", "eplb", "eplb-nearest", "eplb-hierarchical",
                                 "contiguous-ordered", "search"])
        every = self.json("compare", DECODE, "4:h100", *STEPS, "--interval-groups", "0", "--strategy", "all", "--work-limit", "5000")["results"]
        every = [r["strategy"] for r in every]
        self.assertLess(set(named), set(every))
        self.assertTrue({"random", "exact", "sorted", "spread-out"} <= set(every))

    def test_a_plan_that_fails_leaves_the_old_file(self):
        n_failed = 0
        self.expect(0, "generate", "-o", "large.mpt", "--layers", "4", "--experts", "64", "--top-k", "4", "--n-requests", "1000", "-q")
        for limit in [f"{1024 + 128 * i}KiB" for i in range(24)]:
            (self.folder / "p.yaml").write_text("old")
            done = run("plan", "large.mpt", "4:h100", *STEPS, "--strategy", "lpt", "-o", "p.yaml", "--mem-limit", limit, "-q", cwd=self.folder)
            self.assertIn(done.returncode, (0, 4))
            self.assertEqual((self.folder / "p.yaml").read_text() == "old", done.returncode != 0, done.stderr)
            n_failed += done.returncode != 0
        self.assertGreater(n_failed, 0)

    def test_mean_step_of_the_network_modes_is_never_below_the_bound(self):
        plan = self.plan()
        for mode in ("plan", "concurrent", "rcs", "sjf", "spread-out"):
            value = self.json("simulate", plan, DECODE, "4:h100", "--network", mode)
            self.assertLessEqual(value["lower_bound_ns"], value["step_time_ns"]["mean"])


class Operations(Case):
    def test_a_point_of_a_sweep_is_what_compare_says(self):
        more = ["--strategy", "eplb", "--interval-groups", "0", "--quiet", "--json"]
        points = json.loads(self.expect(0, "sweep", DECODE, "4:h100", *STEPS, "--redundant", "0,8", *more).stdout)["points"]
        for point in points:
            own = json.loads(self.expect(0, "compare", DECODE, "4:h100", *STEPS, "--redundant", point["at"]["redundant"], *more).stdout)["results"][0]
            for key in ("moe_ns", "compute_ns", "kv_tokens_min", "memory_bytes_max"):
                self.assertEqual(point[key], own[key])
            self.assertEqual(point["step_time_ns"]["mean"], own["step_time_ns"]["mean"])

    def test_a_larger_budget_never_gains_less_and_no_budget_is_passed(self):
        self.plan("old.yaml", "--seed", "3", "--place", "random", "--interval-groups", "0")
        before, largest = None, 0
        for experts in (0, 2, 4, 8, 12, 16, 24, 1000):
            done = self.expect(0, "plan", DECODE, "4:h100", *STEPS, "--strategy", "lpt", "--from", "old.yaml", "--move-budget",
                               experts * 50331648, "-o", "new.yaml", "--json", "--quiet", "--interval-groups", "0")
            moved = json.loads(done.stdout)["from"]
            self.assertLessEqual(moved["experts_moved"], experts)
            self.assertEqual(moved["bytes_moved"], moved["experts_moved"] * 50331648)
            own = json.loads(self.expect(0, "migrate", "old.yaml", "new.yaml", "--keep-labels", "--json", "--quiet").stdout)["experts"]["moved"]
            self.assertEqual(own, moved["experts_moved"])
            self.assertTrue(before is None or moved["step_ns"] <= before * 1.001, (experts, moved, before))
            before, largest = moved["step_ns"], max(largest, moved["experts_moved"])
        self.assertGreater(largest, 8)

    def test_a_plan_from_another_routing_is_not_slower_than_what_is_in_use(self):
        where = ("plan", DECODE, "2x2:h100", *STEPS, "--redundant", "8", "--interval-groups", "0", "--quiet")
        self.expect(0, *where, "--strategy", "eplb", "-o", "old.yaml")
        for strategy, budget, more in (("eplb-nearest", 0, []), ("eplb-nearest", 4 * 50331648, []), ("eplb-tar", 0, []), ("eplb", 0, ["--route", "nearest"])):
            moved = json.loads(self.expect(0, *where, "--strategy", strategy, "--from", "old.yaml", "--move-budget", budget, "-o", "new.yaml", "--json",
                                           *more).stdout)
            if more:  # what was asked for is done, whatever it costs
                self.assertEqual(moved["route"], "nearest")
                self.assertGreater(moved["from"]["step_ns"], moved["from"]["old_step_ns"])
            else:
                self.assertLessEqual(moved["from"]["step_ns"], moved["from"]["old_step_ns"], (strategy, budget))
            self.assertIn(b"accepted", self.expect(0, "verify", "new.yaml", DECODE, "2x2:h100").stdout)

    def test_a_gain_within_the_noise_has_no_break_even(self):
        sample, seen = SOURCE / "traces/samples/decode.mpt", set()
        for name, place in (("old.yaml", "contiguous"), ("new.yaml", "random"), ("best.yaml", "lpt")):
            self.expect(0, "plan", sample, "2x2:h100", "-m", "gpt-oss-20b", "--batch", "4", "--steps", "8", "--strategy", place, "--interval-groups", "0",
                        "-o", name, "--quiet")
        for old, new in (("old.yaml", "new.yaml"), ("new.yaml", "old.yaml"), ("old.yaml", "best.yaml"), ("new.yaml", "best.yaml")):
            where = ("migrate", old, new, "2x2:h100", "--score-on", sample, "--resample", "--quiet")
            told, text = json.loads(self.expect(0, *where, "--json").stdout), self.expect(0, *where).stdout.decode()
            interval, gain = told["change_interval"], told["step_gain_ns"]
            is_noise = interval["low"] <= 0 <= interval["high"]
            self.assertEqual(told["break_even_steps"] is None, gain <= 0 or is_noise, told)
            self.assertEqual("break-even     not known: the gain is within the noise" in text, gain > 0 and is_noise, text)
            seen.add((gain > 0, is_noise))
        self.assertIn((True, True), seen)

    def test_migrate_between_two_topologies_says_so(self):
        for name, topology in (("old.yaml", "4:h100"), ("new.yaml", "2x2:h100")):
            self.expect(0, "plan", DECODE, topology, *STEPS, "--strategy", "lpt", "--interval-groups", "0", "-o", name, "--quiet")
        for more, is_said in (([], True), (["2x2:h100"], False)):
            error = self.expect(0, "migrate", "old.yaml", "new.yaml", *more).stderr.decode()
            self.assertEqual("OLD was made for 4:h100 and NEW for 2x2:h100: moved on 2x2:h100" in error, is_said, error)


if __name__ == "__main__":
    subprocess.run([MOEPLAN, "generate", "-o", DECODE, "--n-requests", "120", "--tokens-per-request", "16", "--layers", "2", "--experts", "16",
                    "--zipf", "1", "-q"], stdout=subprocess.DEVNULL, check=True)
    unittest.main(argv=[sys.argv[0]])
