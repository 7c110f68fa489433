#!/usr/bin/env python3
"""What moeplan-exec promises: its help in every shape lists the options of its table and the committed page is current; the report, its
JSON and the timeline agree with each other and with moeplan simulate; faults end it with exit code 5 in time and in words.

usage: exec.py MOEPLAN SOURCE
"""
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

MOEPLAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
EXEC = os.path.join(os.path.dirname(MOEPLAN), "moeplan-exec")
SCRATCH = tempfile.TemporaryDirectory(prefix="moeplan-exec-")
FOLDER = pathlib.Path(SCRATCH.name)
LINES = str(SOURCE / "traces/samples/lines.mpt")
DECODE = str(SOURCE / "traces/samples/decode.mpt")
# Unequal links, slow enough that an order between nodes pays.
SLOW = FOLDER / "slow.yaml"
QUICK = ["--iterations", "2", "--warmup", "0", "--steps", "1"]


def run(program, *arguments, check=True):
    done = subprocess.run([program, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=FOLDER, timeout=120,
                          check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{arguments}: {done.returncode}: {done.stderr}")
    return done


def free_port():
    """One below the range the kernel hands to connections, so that no test running beside this one is given it meanwhile."""
    ports = list(range(20000, 32000))
    random.shuffle(ports)
    for port in ports:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port")


def setUpModule():
    run(MOEPLAN, "convert", "-q", "2x4:h100", SLOW)
    text = SLOW.read_text(encoding="utf-8").replace("380000000000", "56000000").replace("48850000000", "6250000")
    SLOW.write_text(text, encoding="utf-8")
    run(MOEPLAN, "plan", DECODE, SLOW, "--batch", "4", "--steps", "1", "--strategy", "contiguous", "--order", "two-level", "-q", "-o", "nodes.yaml")
    run(MOEPLAN, "plan", DECODE, "8:h100", "--batch", "4", "--steps", "2", "--strategy", "lpt", "-q", "-o", "single.yaml")


class Itself(unittest.TestCase):
    def test_help_in_every_shape_has_every_option(self):
        text, page, markdown = run(EXEC, "--help").stdout, run(EXEC, "--man").stdout, run(EXEC, "--markdown").stdout
        bash, zsh, fish = (run(EXEC, "--completion", shell).stdout for shell in ("bash", "zsh", "fish"))
        options = re.findall(r"^  (?:-\w, )?--([a-z-]+)", text, re.M)
        self.assertGreater(len(options), 30)
        self.assertEqual(len(options), len(set(options)))
        names = bash.split('[[ $cur == -* ]]')[1].split('-W "')[1].split('"')[0].split()
        self.assertEqual(names, [f"--{o}" for o in options])
        for option in options:
            self.assertIn(f"--{option}".replace("-", "\\-"), page)
            self.assertRegex(markdown, rf"`(-\w, )?--{option}\b")
            self.assertRegex(zsh, rf"'--{option}=?\[")
            self.assertIn(f"complete -c moeplan-exec -l {option} ", fish)
        for hidden in (text, page, markdown, bash, zsh, fish):
            self.assertNotIn("KIND@STEP", hidden)
        self.assertLessEqual(max(map(len, text.splitlines())), 110)

    def test_the_committed_page_is_current(self):
        self.assertEqual((SOURCE / "docs/CLI_EXEC.md").read_text(encoding="utf-8"), run(EXEC, "--markdown").stdout,
                         "docs/CLI_EXEC.md: moeplan-exec --markdown > docs/CLI_EXEC.md")

    def test_completions_are_valid_and_complete(self):
        script = FOLDER / "exec.bash"
        script.write_text(run(EXEC, "--completion", "bash").stdout, encoding="utf-8")
        run("bash", "-n", script)

        def complete(*words):
            quoted = " ".join(f"'{w}'" for w in words)
            command = (f"source {script}; COMP_WORDS=(moeplan-exec {quoted}); COMP_CWORD={len(words)}; _moeplan_exec; "
                       "printf '%s\\n' \"${COMPREPLY[@]}\"")
            return run("bash", "-c", command).stdout.split()

        self.assertIn("loop", complete("--transport", ""))
        self.assertEqual(complete("--iter"), ["--iterations"])
        self.assertEqual(complete("nod"), ["nodes.yaml"])
        if shutil.which("man"):
            page = FOLDER / "exec.1"
            page.write_text(run(EXEC, "--man").stdout, encoding="utf-8")
            done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, check=False,
                                  env=dict(os.environ, MANPAGER="cat", MANWIDTH="100"))
            self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_transports_are_listed(self):
        listed = json.loads(run(EXEC, "--list", "transports", "--json").stdout)
        self.assertEqual((listed["schema"], listed["version"]), ("moeplan.transports", 1))
        text = run(EXEC, "--list", "transports").stdout
        for transport in listed["transports"]:
            self.assertIn(transport["name"], text)
        self.assertEqual(listed["transports"][0]["name"], "loop")
        self.assertRegex(run(EXEC, "--version").stdout, r"^moeplan-exec \d+\.\d+\.\d+\n$")


class Gpus(unittest.TestCase):
    """Where this build has the transport and this machine no GPU: exit code 4 and what is missing, never a crash."""

    def setUp(self):
        self.built = [t["name"] for t in json.loads(run(EXEC, "--list", "transports", "--json").stdout)["transports"]]
        if any(pathlib.Path("/dev").glob("nvidia[0-9]*")):
            self.skipTest("this machine has a GPU: tools/gpu-tests runs the transports")

    def test_cuda_says_that_there_is_no_driver(self):
        if "cuda" not in self.built:
            self.skipTest("built without cuda")
        done = run(EXEC, "single.yaml", DECODE, "8:h100", "--transport", "cuda", *QUICK, check=False)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertIn("moeplan-exec: transport cuda: no CUDA driver or no GPU on this machine (", done.stderr)


    def test_real_experts_need_a_gpu(self):
        done = run(EXEC, "single.yaml", DECODE, "8:h100", "--compute", "gemm", *QUICK, check=False)
        self.assertEqual((done.returncode, done.stderr), (2, "moeplan-exec: --compute gemm: transport loop has no GPU (take cuda or nccl)\n"))
        if "cuda" in self.built:
            done = run(EXEC, "single.yaml", DECODE, "8:h100", "--compute", "gemm", "--transport", "cuda", *QUICK, check=False)
            self.assertEqual(done.returncode, 4, done.stderr)

    def test_nccl_says_which_rank_lacks_a_driver(self):
        if "nccl" not in self.built:
            self.skipTest("built without nccl")
        done = run(EXEC, "single.yaml", DECODE, "8:h100", "--transport", "nccl", *QUICK, check=False)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertIn("moeplan-exec: rank 0: transport nccl: no CUDA driver or no GPU on this machine (", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)


    def test_the_tests_of_gpus_skip_and_say_why(self):
        done = run(sys.executable, SOURCE / "tools/gpu-tests", "--build", os.path.dirname(os.path.dirname(os.path.dirname(EXEC))))
        self.assertRegex(done.stdout, r"^skipped: (bench_gpu: transport cuda: no CUDA driver or no GPU|.* is not built)")


class Mpi(unittest.TestCase):
    """Four ranks by mpirun, over its TCP, a plan for a matrix and a plan for steps."""

    MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "btl", "self,tcp", "--mca", "btl_tcp_flags", "1",
              "--mca", "btl_tcp_if_include", "lo", "-np", "4"]

    def setUp(self):
        built = [t["name"] for t in json.loads(run(EXEC, "--list", "transports", "--json").stdout)["transports"]]
        if "mpi" not in built:
            self.skipTest("built without mpi")
        if shutil.which("mpirun") is None:
            self.fail("this build has transport mpi, but mpirun is not installed (apt-get install openmpi-bin, or tools/check, which does it)")
        run(MOEPLAN, "convert", "-q", "2x2:h100", "four.yaml")
        text = (FOLDER / "four.yaml").read_text(encoding="utf-8").replace("380000000000", "56000000").replace("48850000000", "6250000")
        (FOLDER / "four.yaml").write_text(text, encoding="utf-8")
        run(MOEPLAN, "plan", DECODE, "four.yaml", "--batch", "4", "--steps", "1", "--strategy", "contiguous", "--order", "two-level", "-q", "-o", "relays.yaml")
        run(MOEPLAN, "plan", DECODE, "4:h100", "--batch", "4", "--steps", "1", "--strategy", "lpt", "-q", "-o", "shot.yaml")
        rows = [[0, 500, 300, 250], [200, 0, 650, 200], [450, 150, 0, 450], [400, 400, 100, 0]]
        (FOLDER / "four.csv").write_text("".join(",".join(str(1000 * v) for v in row) + "\n" for row in rows), encoding="utf-8")
        run(MOEPLAN, "convert", "-q", "4:h100", "level.yaml")
        text = (FOLDER / "level.yaml").read_text(encoding="utf-8").replace("380000000000", "56000000")
        (FOLDER / "level.yaml").write_text(text, encoding="utf-8")
        run(MOEPLAN, "order", "four.csv", "level.yaml", "--strategy", "bvn", "-q", "-o", "stages.yaml")

    def mpi(self, *arguments, transport="mpi", check=True):
        # Leaks of MPI itself are not ours to judge.
        environment = dict(os.environ, ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0", TMPDIR=SCRATCH.name)
        for _ in range(4):
            done = subprocess.run([*self.MPIRUN, EXEC, *map(str, arguments), "--transport", transport, "--iterations", "2", "--warmup", "0"],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=FOLDER, timeout=120, env=environment, check=False)
            if done.returncode >= 0 and "ORTE_ERROR_LOG" not in done.stderr:
                break  # else mpirun itself died, which Open MPI 4.1's does now and then when ranks end at once
        if check:
            self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def test_stages_bring_everything_home_in_every_mode(self):
        for mode in ([], ["--stage-barrier"], ["--stage-coupled"]):
            result = json.loads(self.mpi("stages.yaml", "four.csv", "level.yaml", "--matrix", "--json", *mode).stdout)
            self.assertGreater(result["parts"][0]["stages"], 2)
            self.assertEqual(result["verified"]["copies"], 24)

    def test_relays_between_nodes(self):
        arguments = ["relays.yaml", DECODE, "four.yaml", "--steps", "1"]
        loop = json.loads(run(EXEC, *arguments, "--iterations", "2", "--warmup", "0", "--json").stdout)
        self.assertEqual(json.loads(self.mpi(*arguments, "--json").stdout)["verified"], loop["verified"])
        self.assertTrue(any(p["staged"] for p in loop["parts"]))

    def test_its_own_exchange_is_a_baseline_of_one_shot(self):
        done = self.mpi("shot.yaml", DECODE, "4:h100", "--steps", "1", transport="mpi-alltoallv")
        self.assertIn("verified: 768 tokens back home", done.stdout)
        done = self.mpi("stages.yaml", "four.csv", "level.yaml", "--matrix", transport="mpi-alltoallv", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("MPI_Alltoallv knows no stages", done.stderr)

    def test_faults(self):
        # Whoever is first says it and ends the others: mostly who waits for bytes of it, on a busy machine maybe who is at the barrier.
        waited = r"dispatch of step 0, layer 0, .*rank \d(, with 0 bytes outstanding,)? waited 500 ms for .*rank 2, which showed no sign of life"
        for fault, words in (("corrupt@0/0/0/1", "came wrong: byte"), ("swap@0/0/0/1", "came wrong: byte"), ("drop@0/0/1/1", "came wrong: byte"),
                             ("lie@0/0/0/1", r"rank 1 sends \d+ bytes to rank \d where \d+ were agreed"),
                             ("stop@0/0/0/2", waited), ("slow@0/0/0/2", waited)):
            more = ["--deadline", "500"] if fault[:4] in ("stop", "slow") else []
            done = self.mpi("stages.yaml", "four.csv", "level.yaml", "--matrix", "--fault", fault, *more, check=False)
            self.assertEqual(done.returncode, 5, done.stderr)
            self.assertRegex(done.stderr, words)

    def test_a_late_rank_ends_its_own_exchange_too(self):
        done = self.mpi("shot.yaml", DECODE, "4:h100", "--steps", "1", "--fault", "stop@0/0/0/2", "--deadline", "500", transport="mpi-alltoallv", check=False)
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertRegex(done.stderr, r"dispatch of step 0, layer 0, stage 0: rank \d waited 500 ms for MPI_Alltoallv, \d+ bytes to go out and "
                         r"\d+ to come from ranks? \d(, \d)* \(MPI does not say which is missing")

    def test_who_is_at_a_barrier_knows_who_does_not_come(self):
        # Ranks 0 and 1 are done and wait for 2, as 3 does in its stage: whoever is first says so and ends the others.
        (FOLDER / "pairs.csv").write_text("0,50000,0,0\n20000,0,0,0\n0,0,0,20000\n0,0,30000,0\n", encoding="utf-8")
        run(MOEPLAN, "order", "pairs.csv", "level.yaml", "--strategy", "single", "-q", "-o", "pairs.yaml")
        done = self.mpi("pairs.yaml", "pairs.csv", "level.yaml", "--matrix", "--fault", "stop@0/0/0/2", "--deadline", "400", check=False)
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertRegex(done.stderr, r"dispatch of step 0, layer 0, .*rank \d(, with 0 bytes outstanding,)? waited 400 ms for .*rank 2, which showed no sign")

    def test_without_mpirun_it_says_how(self):
        done = run(EXEC, "shot.yaml", DECODE, "4:h100", "--transport", "mpi", *QUICK, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("mpirun -np 4 moeplan-exec", done.stderr)


class Runs(unittest.TestCase):
    def result(self, *arguments):
        done = run(EXEC, *arguments, "--json", "-q")
        result = json.loads(done.stdout)
        self.assertEqual((result["schema"], result["version"]), ("moeplan.exec", 1))
        return result

    def test_counts_and_predictions_are_those_of_simulate(self):
        result = self.result("single.yaml", DECODE, "8:h100", "--iterations", "3", "--warmup", "1")
        simulated = json.loads(run(MOEPLAN, "simulate", "single.yaml", DECODE, "8:h100", "--json", "-q", "--interval-groups", "0").stdout)
        steps, layers = result["steps"], result["layers"]
        self.assertEqual(result["verified"]["tokens"], steps * 32 * layers * 4)
        self.assertEqual(len(result["parts"]), steps * layers * 2)
        moved = sum(p["bytes"] for p in result["parts"]) * 4
        self.assertEqual(result["verified"]["bytes_moved"], moved)
        predicted = {k: sum(p["predicted_ns"] for p in result["parts"] if p["part"] == k) / steps for k in ("dispatch", "combine")}
        text = json.dumps(simulated)
        for part, ns in predicted.items():
            self.assertIn(str(round(ns)), text, part)
        for part in result["parts"]:
            times = part["measured_ns"]
            self.assertEqual(times["samples"], 3)
            self.assertTrue(0 < times["min"] <= times["median"] <= times["p95"] <= times["max"])

    def test_orders_between_nodes_are_staged(self):
        result = self.result("nodes.yaml", DECODE, SLOW, *QUICK)
        self.assertTrue(all(p["staged"] and p["stages"] > 1 for p in result["parts"]), [p["stages"] for p in result["parts"]])
        self.assertGreater(result["verified"]["bytes_moved"], 2 * sum(p["bytes"] for p in result["parts"]))  # what is passed on moves again

    def test_every_dispatcher(self):
        copies = {}
        for name in ("a2av", "deepep-ll", "deepep-normal", "hierarchical", "agrs"):
            result = self.result("nodes.yaml", DECODE, SLOW, *QUICK, "--dispatcher", name)
            copies[name] = result["verified"]["copies"]
            kinds = {p["part"] for p in result["parts"]}
            self.assertEqual(len(kinds), 4 if name in ("deepep-normal", "hierarchical") else 2)
        self.assertEqual(copies["a2av"], copies["deepep-ll"])
        self.assertEqual(copies["agrs"], 32 * 7 * 24 * 2)
        self.assertEqual(copies["deepep-normal"], copies["hierarchical"])

    def test_the_timeline_has_every_transfer_twice_in_both_halves(self):
        result = self.result("nodes.yaml", DECODE, SLOW, *QUICK, "--timeline", "t.json")
        events = json.loads((FOLDER / "t.json").read_text(encoding="utf-8"))["traceEvents"]
        halves = {0: [], 1: []}
        for event in events:
            if event["ph"] == "X":
                halves[event["pid"] % 2].append(event)
                self.assertGreaterEqual(event["dur"], 0)
        messages = sum(p["messages"] for p in result["parts"])
        self.assertEqual(len(halves[1]), 2 * messages)
        moved = sum(e["args"]["bytes"] for e in halves[1]) / 2
        self.assertEqual(moved, result["verified"]["bytes_moved"] / 2)  # two iterations
        self.assertEqual(sum(e["args"]["bytes"] for e in halves[0]) / 2, moved)
        tracks = {}
        for event in sorted((e for e in events if e["ph"] == "X"), key=lambda e: e["ts"]):
            key = (event["pid"], event["tid"])
            self.assertGreaterEqual(round(event["ts"] * 1000), tracks.get(key, 0))
            tracks[key] = round((event["ts"] + event["dur"]) * 1000)
        names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
        self.assertEqual(names, {f"GPU {g} {kind}" for g in range(8) for kind in ("predicted", "measured")})

    def test_matrices(self):
        cells = [[0 if i == j else 1000 + 37 * i + j + 60000 * (j == (i + 3) % 8) for j in range(8)] for i in range(8)]
        (FOLDER / "m.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in cells), encoding="utf-8")
        run(MOEPLAN, "order", "m.csv", SLOW, "--strategy", "two-level", "-q", "-o", "m.yaml")
        result = self.result("m.yaml", "m.csv", SLOW, "--matrix", "--iterations", "2", "--warmup", "0")
        self.assertEqual([p["bytes"] for p in result["parts"]], 2 * [sum(map(sum, cells))])
        self.assertEqual(result["verified"]["copies"], 8 * 7 * 2)
        self.assertTrue(all(p["staged"] for p in result["parts"]))
        self.assertIsNone(result["model"])
        tokens = self.result("m.yaml", "m.csv", SLOW, "--matrix", "--token-bytes", "10", "--iterations", "1", "--warmup", "0")
        self.assertEqual(tokens["parts"][0]["bytes"], 10 * result["parts"][0]["bytes"])
        self.assertIn("a traffic matrix, there and back", run(EXEC, "m.yaml", "m.csv", SLOW, "--matrix").stdout)

    def test_the_report_says_what_was_verified(self):
        text = run(EXEC, "single.yaml", DECODE, "8:h100", *QUICK).stdout
        self.assertIn("verified: 1536 tokens back home", text)
        self.assertRegex(text, r"(?m)^step +all +one shot ")
        self.assertEqual(len(re.findall(r"(?m)^\d+ +(?:dispatch|combine) ", text)), 48)

    def test_the_result_does_not_depend_on_threads(self):
        def fixed(n):
            result = self.result("nodes.yaml", DECODE, SLOW, *QUICK, "--threads", n)
            for part in result["parts"]:
                del part["measured_ns"]
            del result["step_ns"]
            return result

        self.assertEqual(fixed(1), fixed(3))


class Faults(unittest.TestCase):
    def fails(self, fault, words, *more):
        done = run(EXEC, "nodes.yaml", DECODE, SLOW, *QUICK, "--fault", fault, *more, check=False)
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, rf"^moeplan-exec: .*{words}")

    def test_wrong_bytes(self):
        self.fails("corrupt@0/3/1/2", r"dispatch of step 0, layer 3: token \d+ of rank \d+, .*expert.* byte \d+ of 8192 is 0x.. and should be 0x..")
        self.fails("swap@0/0/0/1", "token .* came wrong from rank")
        self.fails("drop@0/0/2", "token .* came wrong from rank")

    def test_bad_ranks(self):
        self.fails("lie@0/2/1/3", r"layer 2, stage 1: rank 3 sends \d+ bytes to rank \d+ where \d+ were agreed")
        for kind in ("stop", "kill", "slow"):
            self.fails(f"{kind}@0/1/1/5", r"layer 1, stage 1: rank \d+ waited 300 ms for \d+ bytes \S+ .*rank 5", "--deadline", "300")


class Deadlines(unittest.TestCase):
    """Four ranks, of which 0 sends to 1 for long, capped; 2 and 3 have done all of theirs at once. Nothing here measures the machine: times allowed
    lie between the deadline and what the long flow takes, far from both."""
    RATE = 2000000

    @classmethod
    def setUpClass(cls):
        (FOLDER / "capped.yaml").write_text("schema: moeplan.topology\nversion: 1\nname: capped\nlaunch: 10 us\nlevels: [{name: nic, latency: 50 us}]\n"
                                            "gpus: [{repeat: 4, type: h100, ports: {nic: 16 Mbit/s}}]\n", encoding="utf-8")

    def order(self, seconds, stages):
        size = int(self.RATE * seconds)
        (FOLDER / "long.csv").write_text(f"0,{size},0,0\n0,0,0,9000\n9000,0,0,9000\n0,0,9000,0\n", encoding="utf-8")
        run(MOEPLAN, "order", "long.csv", "capped.yaml", "--strategy", "sub-ports", "--set", "sub-ports.stages=65536", "--pacing", "--stages", stages, "-q",
            "-o", "long.yaml")

    def start(self, deadline_ms, *more):
        return [subprocess.Popen([EXEC, "long.yaml", "long.csv", "capped.yaml", "--matrix", "--transport", "socket", "--rank", str(r), "--nranks", "4",
                                  "--rendezvous", f"file://{FOLDER}/meet", "--iterations", "1", "--warmup", "0", "-q", "--deadline", str(deadline_ms), *more],
                                 cwd=FOLDER, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(4)]

    def test_a_stopped_rank_is_found_while_others_move_a_long_flow(self):
        for stages in ("free", "barrier", "coupled"):
            for victim in (0, 2):
                self.order(20, stages)
                ranks = self.start(800)
                while not all(self.has_met(p) or p.poll() is not None for p in ranks):
                    time.sleep(0.01)
                time.sleep(0.3)  # into the flow
                os.kill(ranks[victim].pid, signal.SIGSTOP)
                stopped = time.monotonic()
                said = [ranks[r].communicate(timeout=60) for r in range(4) if r != victim]
                took = time.monotonic() - stopped
                ranks[victim].kill()
                ranks[victim].communicate()
                for r, (out, err) in zip([r for r in range(4) if r != victim], said):
                    self.assertEqual((ranks[r].returncode, out), (5, ""), err)
                self.assertRegex(said[0][1], rf"dispatch of step 0, layer 0, .* bytes .*rank {victim}, which showed no sign of life")
                self.assertLess(took, 10)  # 0.9 on an idle machine; behind the flow it would be 20

    def test_a_killed_rank_is_named_with_the_bytes_outstanding(self):
        self.order(20, "free")
        ranks = self.start(20000)
        while not all(self.has_met(p) or p.poll() is not None for p in ranks):
            time.sleep(0.01)
        time.sleep(0.3)  # into the flow
        ranks[1].kill()
        for r, (out, err) in [(r, ranks[r].communicate(timeout=60)) for r in (0, 1, 2, 3)]:
            self.assertEqual((ranks[r].returncode, out), (-9 if r == 1 else 5, ""), err)
            if r != 1:
                self.assertRegex(err, r"layer 0, (stage \d+: [1-9]\d* bytes (from|to) rank 1 are|with 0 bytes) outstanding: rank 1 is gone")

    @staticmethod
    def has_met(process):
        """Three descriptors as ever, one to wait at, and two connections with each of three ranks."""
        return len(os.listdir(f"/proc/{process.pid}/fd")) >= 3 + 1 + 2 * 3

    def test_a_rank_that_waits_at_a_barrier_for_longer_than_the_deadline_goes_on(self):
        for stages in ("free", "barrier", "coupled"):
            self.order(2.5, stages)
            for process in self.start(1000):
                out, err = process.communicate(timeout=60)
                self.assertEqual((process.returncode, err), (0, ""), out)


class Sockets(unittest.TestCase):
    """The same with a process for each rank."""

    def result(self, *arguments):
        return json.loads(run(EXEC, *arguments, "--transport", "socket", "--json", "-q").stdout)

    def test_every_dispatcher_and_order_brings_every_token_home(self):
        for name in ("a2av", "deepep-normal", "hierarchical", "agrs"):
            loop = json.loads(run(EXEC, "nodes.yaml", DECODE, SLOW, *QUICK, "--dispatcher", name, "--json", "-q").stdout)
            self.assertEqual(self.result("nodes.yaml", DECODE, SLOW, *QUICK, "--dispatcher", name)["verified"], loop["verified"])
        for mode in ([], ["--stage-barrier"], ["--stage-coupled"]):
            self.assertEqual(self.result("single.yaml", DECODE, "8:h100", *QUICK, *mode)["verified"]["tokens"], 32 * 24 * 2)

    def test_the_timeline_has_every_transfer(self):
        result = self.result("nodes.yaml", DECODE, SLOW, *QUICK, "--timeline", "s.json")
        events = [e for e in json.loads((FOLDER / "s.json").read_text(encoding="utf-8"))["traceEvents"] if e["ph"] == "X" and e["pid"] % 2]
        self.assertEqual(len(events), 2 * sum(p["messages"] for p in result["parts"]))

    def test_ranks_started_one_by_one(self):
        def start(*more, environment=None):
            return [subprocess.Popen([EXEC, "single.yaml", DECODE, "8:h100", *QUICK, "--transport", "socket", "--deadline", "20000", *words], cwd=FOLDER,
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ, **env))
                    for words, env in ((more and [w.replace("RANK", str(r)) for w in more], (environment or (lambda _: {}))(r)) for r in range(8))]

        def check(ranks):
            for r, process in enumerate(ranks):
                out, err = process.communicate(timeout=60)
                self.assertEqual((process.returncode, err), (0, ""))
                self.assertEqual("verified: 1536 tokens" in out, r == 0)

        where = f"file://{FOLDER}/meet"
        (FOLDER / "meet").write_text("moeplan-exec 127.0.0.1 9\n", encoding="utf-8")  # left from a run that was killed
        check(start("--rank", "RANK", "--nranks", "8", "--rendezvous", where))
        self.assertFalse((FOLDER / "meet").exists())
        check(start("--rendezvous", where, environment=lambda r: {"OMPI_COMM_WORLD_RANK": str(r), "OMPI_COMM_WORLD_SIZE": "8"}))
        check(start("--rendezvous", where, environment=lambda r: {"SLURM_PROCID": str(r), "SLURM_NTASKS": "8"}))
        check(start("--rendezvous", f"tcp://127.0.0.1:{free_port()}", environment=lambda r: {"PMI_RANK": str(r), "PMI_SIZE": "8"}))
        port = str(free_port())
        check(start(environment=lambda r: {"RANK": str(r), "WORLD_SIZE": "8", "LOCAL_RANK": str(r), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}))

    def test_a_rank_with_another_plan_is_named(self):
        run(MOEPLAN, "plan", DECODE, "8:h100", "--batch", "4", "--steps", "2", "--strategy", "contiguous", "-q", "-o", "other.yaml")
        ranks = [subprocess.Popen([EXEC, "other.yaml" if r == 5 else "single.yaml", DECODE, "8:h100", *QUICK, "--transport", "socket", "--rank", str(r),
                                   "--nranks", "8", "--rendezvous", f"file://{FOLDER}/meet", "--deadline", "20000"], cwd=FOLDER,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(8)]
        for process in ranks:
            out, err = process.communicate(timeout=60)
            self.assertEqual((process.returncode, out), (5, ""), err)
            self.assertRegex(err, r"^moeplan-exec: rank 5 is about to run something else")

    def test_faults(self):
        for fault, words in (("corrupt@0/3/1/2", r"dispatch of step 0, layer 3: token \d+ of rank \d+"), ("swap@0/0/0/1", "came wrong from rank"),
                             ("drop@0/0/2", "came wrong from rank"), ("lie@0/2/1/3", r"rank 3 sends \d+ bytes to rank \d+ where \d+ were agreed"),
                             ("kill@0/1/1/5", "rank 5 was ended by Killed"), ("stop@0/1/1/5", r"layer 1, .* bytes .*rank 5"),
                             ("slow@0/1/1/5", r"layer 1, .* bytes .*rank 5")):
            done = run(EXEC, "nodes.yaml", DECODE, SLOW, *QUICK, "--transport", "socket", "--fault", fault, "--deadline", "600", check=False)
            self.assertEqual((done.returncode, done.stdout), (5, ""), done.stderr)
            self.assertRegex(done.stderr, rf"^moeplan-exec: .*{words}")

    def test_usage(self):
        for words, message in ((["--rank", "1", "--nranks", "8"], "must meet somewhere"),
                               (["--rank", "1", "--nranks", "8", "--rendezvous", "udp://x"], 'neither file:///PATH nor tcp://HOST:PORT')):
            done = run(EXEC, "single.yaml", DECODE, "8:h100", *QUICK, "--transport", "socket", *words, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)

    def test_a_name_that_nobody_knows_is_named(self):
        for rank, code, words in ((0, 2, '--rendezvous: rank 0 cannot listen at "a.invalid": '), (1, 5, 'within 300 ms: "a.invalid": ')):
            done = run(EXEC, "single.yaml", DECODE, "8:h100", *QUICK, "--transport", "socket", "--rank", str(rank), "--nranks", "8",
                       "--rendezvous", "tcp://a.invalid:5", "--deadline", "300", check=False)
            self.assertEqual((done.returncode, done.stdout), (code, ""), done.stderr)
            self.assertIn(words, done.stderr)


class Training(unittest.TestCase):
    """Whole training steps: tokens both ways, gradients summed beside them, what goes wrong in a sum."""
    SIZES = ("schema: moeplan.model\nversion: 1\nname: small\nhidden_layers: 3\nexperts: 16\ntop_k: 2\nhidden_size: 128\nexpert_size: 64\n"
             "weight_bits: 16\nattention: {heads: 4, kv_heads: 4, head_dim: 32}\n")
    SHORT = ["--steps", "1", "--iterations", "1", "--warmup", "1", "-q"]

    @classmethod
    def setUpClass(cls):
        (FOLDER / "small.yaml").write_text(cls.SIZES, encoding="utf-8")
        run(MOEPLAN, "generate", "-q", "--phase", "train", "--layers", "3", "--experts", "16", "--top-k", "2", "--n-requests", "64",
            "--tokens-per-request", "32", "-o", "train.mpt")
        run(MOEPLAN, "plan", "train.mpt", "4:h100", "-m", "small.yaml", "--tokens-per-rank", "64", "--steps", "2", "--strategy", "eplb", "--redundant", "8",
            "--dispatcher", "deepep-ll", "-q", "-o", "train.yaml")

    def arguments(self, *more):
        return ["train.yaml", "train.mpt", "4:h100", "-m", "small.yaml", *self.SHORT, *more]

    def test_loop_and_socket_verify_the_same(self):
        for policies in ([], ["--train", "fair,priority,deferred,lina,searched,plan", "--chunk-scale", "2000"]):
            loop, tcp = (json.loads(run(EXEC, *self.arguments("--transport", transport, "--json", *policies)).stdout) for transport in ("loop", "socket"))
            self.assertEqual(loop["verified"], tcp["verified"])
            self.assertGreater(loop["verified"]["gradient_bytes"], 1000000)
            self.assertEqual([t["policy"] for t in tcp["training"]], policies[1].split(",") if policies else ["plan"])
            for a, b in zip(loop["training"], tcp["training"]):
                self.assertEqual(a["predicted_ns"], b["predicted_ns"])
                self.assertGreater(b["gradients_ns"], 0)
                self.assertTrue(all(x > 0 for layer in b["layers"] for x in layer["a2a_ns"]))
            if policies:
                self.assertGreater({t["policy"]: t["a2a_chunks"] for t in tcp["training"]}["lina"], 12)

    def test_the_report_has_every_policy_measured_and_predicted(self):
        out = run(EXEC, *self.arguments("--train", "fair,lina")).stdout
        self.assertRegex(out, r"(?m)^fair +\S+ \ws +\S+ \ws +\S+ \ws +\S+ \ws +\d\.\d{3} ")
        self.assertRegex(out, r"(?m)^lina +2 +\S+ \ws \(\S+ \ws\)")
        self.assertRegex(out, r"\d of 1 pairs of policies stand in the order that was predicted")
        self.assertRegex(out, r"MB of gradients, on every rank the sum of all holders' own")

    def test_without_training_it_is_forward_passes(self):
        result = json.loads(run(EXEC, *self.arguments("--train", "none", "--json")).stdout)
        self.assertIn("parts", result)
        self.assertNotIn("training", result)

    def test_what_goes_wrong_in_a_sum_ends_all(self):
        for kind, says in (("corrupt", r"allreduce of step 0: word \d+ of \d+ of the gradients of .* on rank \d and should be"),
                           ("lie", r"allreduce of step 0, chunk 0 .*rank 1 sends rank 2 \d+ bytes"),
                           ("kill", r"rank 1 is gone|rank 1 was ended by signal 9|rank 1 .*no sign of life"),
                           ("stop", r"rank 1, which showed no sign of life"),
                           ("slow", r"rank 1, which showed no sign of life")):
            begin = time.monotonic()
            done = run(EXEC, *self.arguments("--train", "lina", "--transport", "socket", "--deadline", "1000", "--fault", f"sum-{kind}@0/1/0/1"), check=False)
            self.assertEqual((done.returncode, done.stdout), (5, ""), (kind, done.stderr))
            self.assertRegex(done.stderr, says)
            self.assertLess(time.monotonic() - begin, 30, kind)  # the deadline, and what a busy machine adds

    def test_a_rank_killed_in_a_sum_is_named_by_all(self):
        ranks = [subprocess.Popen([EXEC, *self.arguments("--train", "deferred", "--transport", "socket", "--rank", str(r), "--nranks", "4", "--rendezvous",
                                                         f"file://{FOLDER}/meet", "--fault", "sum-kill@0/1/0/2")],
                                  cwd=FOLDER, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(4)]
        said = [process.communicate(timeout=60) for process in ranks]
        self.assertEqual([process.returncode for process in ranks], [5, 5, -9, 5], said)
        for rank in (0, 1, 3):  # who has its part of the sum already knows nothing of bytes
            self.assertRegex(said[rank][1], r"(allreduce of step 0, .*: [1-9]\d* bytes are outstanding, \d+ of them from rank 2|with 0 bytes "
                                            r"outstanding): rank 2 is gone")

    def test_usage(self):
        for more, says in ((["--train", "fastest"], 'unknown policy "fastest"'),
                           (["--train", "lina,fair,lina"], '"lina" is there twice'), (["--train", "lina", "--timeline", "x.json"], "without --timeline"),
                           (["--train", "lina", "--transport", "mpi-alltoallv"], "sums no gradients|unknown")):
            done = run(EXEC, *self.arguments(*more), check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertRegex(done.stderr, says)


class Moves(unittest.TestCase):
    """Sequences that move between layers and tokens that stand for others, over memory and over TCP."""

    @classmethod
    def setUpClass(cls):
        (FOLDER / "small.yaml").write_text(Training.SIZES, encoding="utf-8")
        run(MOEPLAN, "generate", "-q", "--phase", "train", "--layers", "3", "--experts", "16", "--top-k", "2", "--n-requests", "64",
            "--tokens-per-request", "32", "--signatures", "txl", "-o", "moves.mpt")
        run(MOEPLAN, "plan", "moves.mpt", "2x2:h100", "-m", "small.yaml", "--tokens-per-rank", "64", "--steps", "2", "--strategy", "contiguous", "--dispatcher",
            "deepep-ll", "-q", "-o", "moves.yaml")

    def results(self, *more):
        arguments = ["moves.yaml", "moves.mpt", "2x2:h100", "-m", "small.yaml", "--steps", "2", "--iterations", "1", "--warmup", "0", "-q", "--json", *more]
        loop, tcp = (json.loads(run(EXEC, *arguments, "--transport", transport).stdout) for transport in ("loop", "socket"))
        self.assertEqual(loop["verified"], tcp["verified"])
        self.assertEqual([(p["bytes"], p["predicted_ns"]) for p in loop["parts"]], [(p["bytes"], p["predicted_ns"]) for p in tcp["parts"]])
        return tcp

    def test_every_token_is_somewhere_once(self):
        still = self.results("--train", "none")
        for more in (["--rehome", "luffy", "--rehome-slack", "0.4"], ["--rehome", "matching", "--rehome-slack", "0.4"], ["--condense", "0.5"],
                     ["--rehome", "matching", "--rehome-slack", "0.4", "--condense", "0.5"]):
            moved = self.results(*more)
            self.assertEqual(moved["verified"]["tokens"], still["verified"]["tokens"])
            self.assertEqual("LOSSY" in moved["tokens_between_layers"], "--condense" in more)
            self.assertEqual(moved.get("lossy", False), "--condense" in more)
            if "--condense" in more:
                self.assertLess(moved["verified"]["copies"], still["verified"]["copies"])

    def test_a_wrong_byte_is_named(self):
        done = run(EXEC, "moves.yaml", "moves.mpt", "2x2:h100", "-m", "small.yaml", *QUICK, "--transport", "socket", "--rehome", "matching", "--fault",
                   "corrupt@0/1/0/1", "-q", check=False)
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertRegex(done.stderr, r"dispatch of step 0, layer 1: token \d+ of rank 1 came wrong to rank \d")

    def test_what_it_cannot_do_it_says(self):
        for more, says in ((["--dispatcher", "agrs", "--rehome", "luffy"], "--dispatcher deepep-ll"),
                           (["--train", "lina", "--rehome", "luffy"], "leave out --train"),
                           (["--dispatcher", "deepep-normal", "--rehome", "luffy"], "--dispatcher deepep-ll")):
            done = run(EXEC, "moves.yaml", "moves.mpt", "2x2:h100", "-m", "small.yaml", *QUICK, "-q", *more, check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(says, done.stderr)


class Replicas(unittest.TestCase):
    """Plans whose experts have several slots: every rule of choosing among them, under every way of moving copies. What the executor
    moves is what the simulator says, and every token comes home."""

    @classmethod
    def setUpClass(cls):
        run(MOEPLAN, "convert", "-q", "2x4:h100", "replicas.topology.yaml")
        for route, name in (("even", "even"), ("nearest", "nearest"), ("wrr", "weighted"), ("tar", "tiered")):
            run(MOEPLAN, "plan", DECODE, "replicas.topology.yaml", "--batch", "4", "--steps", "1", "--strategy", "lpt-replicated", "--redundant", "16",
                "--route", route, "-q", "-o", f"{name}.yaml")
        for by in ("gpu", "node"):
            cls.write_sourced(by)

    @staticmethod
    def write_sourced(by):
        """The placement of weighted.yaml under weights by source, as a file that claims nothing: an executor does not need more."""
        n, out, keep = (8 if by == "gpu" else 2), [], True
        for line in (FOLDER / "weighted.yaml").read_text(encoding="ascii").split("\n")[:-2]:
            if not line.startswith("    "):  # sections that only a planned plan has
                keep = not re.match(r"  split:|  batching:|prediction:|samples:|certificates:|  (planning_steps|step_ns):|  - (kind|step):", line)
            if not keep or re.match(r"    (rows_max_sum|dispatch_int(ra|er)_bytes|port_bound_ns|expert_rows):", line):
                continue
            line = line.replace("  planned: true", "  planned: false").replace('  route: "wrr"', '  route: "sourced"')
            line = line.replace("  route: weighted", f"  route: sourced\n  route_sources: {by}")
            if line.startswith("    slots: "):
                slots = line[len("    slots: ["):-1].split(", ")
            elif line.startswith("    weights: "):
                entries = []
                for e in sorted({int(e) for e in slots if e != "-1" and slots.count(e) > 1}):
                    # Each class has a favourite, and weights of 0; no two neighbours are equal, which would have to be a run.
                    rows = [" ".join(str(20 + c if i == c % slots.count(str(e)) else (c + i) % 3) for i in range(slots.count(str(e)))) for c in range(n)]
                    entries.append(f'      - {{expert: {e}, weights: "{"|".join(rows)}"}}')
                line = "\n".join(["    weights_by_source:", *entries])
            out.append(line)
        body = "\n".join(out) + "\n"
        (FOLDER / f"sourced-{by}.yaml").write_text(body + f'checksum: "{hashlib.sha256(body.encode()).hexdigest()}"\n', encoding="ascii")

    def replay(self, plan, dispatcher, *more):
        return json.loads(run(EXEC, f"{plan}.yaml", DECODE, "replicas.topology.yaml", "--iterations", "1", "--warmup", "0", "--batch", "4", "--steps", "1",
                              "--dispatcher", dispatcher, "--json", "-q", *more).stdout)

    RULES = ("even", "nearest", "weighted", "tiered", "sourced-gpu", "sourced-node")

    def test_plans_by_source_are_plans(self):
        for by in ("gpu", "node"):
            text = (FOLDER / f"sourced-{by}.yaml").read_text(encoding="ascii")
            self.assertIn("route: sourced\n", text)
            self.assertGreater(text.count("      - {expert: "), 24)
            self.assertIn("accepted", run(MOEPLAN, "verify", f"sourced-{by}.yaml").stdout)
            done = run(sys.executable, SOURCE / "tools/plancheck/plancheck", f"sourced-{by}.yaml")
            self.assertEqual(done.returncode, 0, done.stdout)

    def test_every_rule_and_dispatcher_brings_every_token_home(self):
        seen = {}
        for dispatcher in ("a2av", "deepep-normal", "hierarchical", "agrs"):
            for rule in self.RULES:
                result = self.replay(rule, dispatcher)
                n_steps = result["steps"]
                self.assertEqual(result["verified"]["tokens"], n_steps * 32 * result["layers"], (rule, dispatcher))
                seen[rule, dispatcher] = tuple((p["bytes"], p["predicted_ns"]) for p in result["parts"])
                simulated = json.loads(run(MOEPLAN, "simulate", f"{rule}.yaml", DECODE, "replicas.topology.yaml", "--batch", "4", "--steps", "1",
                                           "--dispatcher", dispatcher, "--json", "-q", "--interval-groups", "0").stdout)
                self.assertEqual(sum(n for n, _ in seen[rule, dispatcher]) / n_steps, sum(simulated["bytes"].values()), (rule, dispatcher))
        for dispatcher in ("a2av", "deepep-normal", "hierarchical"):  # the rules do choose differently; of an all-gather nothing depends on them
            self.assertEqual(len({seen[rule, dispatcher] for rule in self.RULES}), len(self.RULES), dispatcher)
        self.assertEqual(len({seen[rule, "agrs"] for rule in self.RULES}), 1)

    def test_the_same_with_a_process_for_each_rank(self):
        for rule, dispatcher in (("weighted", "hierarchical"), ("tiered", "deepep-normal"), ("sourced-gpu", "hierarchical"), ("sourced-node", "hsc")):
            loop, sockets = (self.replay(rule, dispatcher, "--transport", t) for t in ("loop", "socket"))
            self.assertGreater(loop["verified"]["tokens"], 0)
            self.assertEqual(sockets["verified"], loop["verified"], (rule, dispatcher))


class Calibration(unittest.TestCase):
    """--calibrate: a topology that can be read comes out, whatever the times were; no time is judged."""

    def calibrated(self, *arguments, check=True):
        (FOLDER / "measured.yaml").unlink(missing_ok=True)
        done = run(EXEC, "--calibrate", *arguments, "--probe", "2", "--iterations", "2", "-o", "measured.yaml", "--json", check=check)
        return done, json.loads(done.stdout)

    def check_file(self, result, n_ranks):
        seen = json.loads(run(MOEPLAN, "inspect", "measured.yaml", "--json").stdout)
        self.assertEqual(seen["facts"]["gpus"], n_ranks)
        text = (FOLDER / "measured.yaml").read_text(encoding="utf-8")
        for fit in result["fits"]:
            self.assertIn(f"# {fit['what']}: ", text)
        self.assertIn(f"\nlaunch: {result['launch_ns']} ns\nstage_launch: {result['stage_launch_ns']} ns\n", text)
        for fit in result["fits"]:
            if "bytes_per_s" in fit:
                self.assertIn(f"{fit['bytes_per_s']} B/s", text)

    def test_threads_and_processes(self):
        for transport in ("loop", "socket"):
            _, result = self.calibrated("2x2:h100", "--transport", transport)
            self.assertEqual((result["schema"], result["version"], result["transport"], result["ranks"]), ("moeplan.calibration", 1, transport, 4))
            self.assertEqual([f["kind"] for f in result["fits"]], ["rate", "rate", "launch", "launch", "incast", "incast", "stage"])
            for fit in result["fits"]:
                if fit["known"]:
                    self.assertGreaterEqual(fit["residual"], 0)
                    self.assertGreater(len(fit["points"]), 1)
                else:
                    self.assertRegex(fit["note"], "^kept: ")
            self.check_file(result, 4)
            run(MOEPLAN, "plan", DECODE, "measured.yaml", "--batch", "4", "--steps", "1", "--strategy", "lpt", "-q", "-o", "of-measured.yaml")

    def test_the_number_of_ranks_is_enough(self):
        _, result = self.calibrated("--transport", "socket", "--local", "3", "--stage-coupled")
        self.check_file(result, 3)

    def test_computation_of_a_model(self):
        model = FOLDER / "tiny.yaml"
        model.write_text("schema: moeplan.model\nversion: 1\nname: tiny\nhidden_layers: 2\nexperts: 16\ntop_k: 2\nhidden_size: 64\nexpert_size: 32\n"
                         "weight_bits: 16\nattention: {heads: 4, kv_heads: 4, head_dim: 16}\n", encoding="utf-8")
        _, result = self.calibrated("2:h100", "--model", model)
        fit = result["fits"][-1]
        self.assertEqual((fit["kind"], fit["type"], fit["known"]), ("compute", "h100", True))
        text = (FOLDER / "measured.yaml").read_text(encoding="utf-8")
        self.assertRegex(text, rf'model: "?tiny"?\n +a_ps: {fit["coefficients_ps"]["a"]}\n')
        self.check_file(result, 2)
        big = self.calibrated("2:h100", "--model", "deepseek-v3")[1]["fits"][-1]
        self.assertFalse(big["known"])
        self.assertIn("too large for a processor", big["note"])

    def test_strict_writes_only_what_is_good(self):
        for transport in ("loop", "socket"):
            done, result = self.calibrated("3:h100", "--transport", transport, "--strict", check=False)
            self.assertEqual(done.returncode, int(result["bad_fits"] > 0), done.stderr)
            self.assertEqual((FOLDER / "measured.yaml").exists(), result["bad_fits"] == 0)

    def test_a_rank_that_dies_ends_all(self):
        done = run(EXEC, "--calibrate", "3:h100", "--transport", "socket", "--probe", "2", "-o", "never.yaml", "--deadline", "400", "--fault", "kill@2/0/0/1",
                   check=False)
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertFalse((FOLDER / "never.yaml").exists())

    def test_usage(self):
        for words, message in ((["--calibrate", "2:h100"], "add -o FILE, or --json"), (["--calibrate", "-o", "x.yaml"], "how many ranks"),
                               (["single.yaml", DECODE, "8:h100", "--strict"], "--strict is for calibration"),
                               (["--calibrate", "2:h100", "-o", "x.yaml", "--matrix"], "leave out --matrix"),
                               (["--calibrate", "single.yaml", DECODE, "-o", "x.yaml"], "takes a topology only"),
                               (["--calibrate", "4:h100", "--local", "3", "-o", "x.yaml"], "4"),
                               (["--calibrate", "2:h100", "-o", "nowhere/x.yaml"], "nowhere"), (["single.yaml"], "TRACE is missing"), ([], "PLAN is missing")):
            done = run(EXEC, *words, check=False)
            self.assertEqual((done.returncode, message in done.stderr), (2 if "nowhere" not in message else 4, True), (words, done.returncode, done.stderr))


if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    unittest.main()
