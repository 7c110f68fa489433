#!/usr/bin/env python3
"""Emulated clusters as they run: rates, isolation, exit codes, and that nothing is left. Exit 77 (skipped) where the kernel refuses
them, and only there: a program that is not installed fails.

usage: clusters.py MOEPLAN SOURCE
"""
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

MOEPLAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
EMULATE = str(SOURCE / "tools" / "emulate")
FLOWS = str(SOURCE / "tools" / "bench" / "flows.py")
ENVIRONMENT = {**os.environ, "MOEPLAN": MOEPLAN}
HEAD = "schema: moeplan.topology\nversion: 1\nname: t\nlaunch: 10 us\n"
ONE_LEVEL = HEAD + "levels: [{name: nic, latency: 50 us}]\n"
TWO_LEVELS = HEAD + "levels: [{name: up, latency: 50 us}, {name: nic, latency: 50 us}]\n"
# Slow enough for a machine that has other things to do.
UNEQUAL = ONE_LEVEL + """gpus:
  - {repeat: 2, type: h100, ports: {nic: 48 Mbit/s}}
  - {type: h100, ports: {nic: {out: 24 Mbit/s, in: 12 Mbit/s}}}
  - {type: h100, ports: {nic: 12 Mbit/s}}
"""
TWO_TIERS = TWO_LEVELS + "groups: [{repeat: 2, gpus: [{repeat: 2, type: h100, ports: {up: 60 Mbit/s, nic: 12 Mbit/s}}]}]\n"
SHARED = TWO_LEVELS + "groups: [{repeat: 2, gpus: [{repeat: 2, type: h100, ports: {up: 60 Mbit/s, nic: {rate: 16 Mbit/s, shared_by: 2}}}]}]\n"
UPLINKS = TWO_LEVELS + "groups: [{repeat: 2, uplink: 16 Mbit/s, gpus: [{repeat: 2, type: h100, ports: {up: 60 Mbit/s, nic: 24 Mbit/s}}]}]\n"
MESH = HEAD + "levels: [{name: m, latency: 1 us, pair: 8 Mbit/s}]\ngpus: [{repeat: 3, type: h100, ports: {m: 40 Mbit/s}}]\n"
RACKS = HEAD + """levels: [{name: up, latency: 1 us}, {name: leaf, latency: 1 us}, {name: spine, latency: 1 us}]
groups:
  - repeat: 2
    uplink: 10 Mbit/s
    groups: [{repeat: 2, gpus: [{type: h100, ports: {up: 60 Mbit/s, leaf: 24 Mbit/s}}]}]
"""
MEGABIT = 125000
PATIENCE_S = 60


def networks_of_processes():
    """The network namespaces that some process is in, as far as we may see."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            pass
    return found


def outside():
    """What must be the same before and after: our devices, mounts, settings and memory files."""
    settings = {}
    for folder, pattern in (("/proc/sys/net/ipv4", "tcp_[a-ln-z]*"), ("/proc/sys/net/bridge", "*"), ("/proc/sys/net/ipv4/conf/all", "*"),
                            ("/proc/sys/net/ipv6/conf/all", "*"), ("/proc/sys/kernel", "hostname")):
        for path in sorted(pathlib.Path(folder).glob(pattern)):
            try:
                settings[str(path)] = path.read_text()
            except OSError:
                pass
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}).stdout
    return {"links": sorted(re.findall(r"^\d+: (\S+):", links, re.M)), "settings": settings,
            "mounts": [m for m in pathlib.Path("/proc/self/mounts").read_text().splitlines() if "moeplan" in m or "nsfs" in m],
            "memory": sorted(p.name for p in pathlib.Path("/dev/shm").glob("moeplan*")), "named": sorted(os.listdir("/run/netns"))
            if os.path.isdir("/run/netns") else []}


class Case(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="moeplan-emulate-")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.folder.chmod(0o755)

    def file(self, text, name="t.yaml"):
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *arguments, prefix=(), **more):
        process = subprocess.Popen([*prefix, EMULATE, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **more)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        """For tests that failed: theirs may still run."""
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            stream.close()

    def expect(self, code, *arguments, prefix=()):
        process = self.start(*arguments, prefix=prefix)
        out, err = process.communicate(timeout=PATIENCE_S)
        self.assertEqual(process.returncode, code, f"{arguments}: {out}{err}")
        return out, err


class Rates(Case):
    def measure(self, topology, *flows):
        """{(src, dst): Mbit/s of payload}"""
        out, _ = self.expect(0, self.file(topology), "--timeout", "40", "--", FLOWS, "1.5", *flows)
        found = {}
        for line in out.splitlines():
            word = line.split()
            found[int(word[2]), int(word[3])] = int(word[5]) / MEGABIT
        self.assertEqual(len(found), len(flows))
        return found

    def check(self, topology, flows, sums):
        """Each of `sums` ((pairs), Mbit/s) holds within 25 %. A machine that has no time for us makes it try again; wrong wiring stays wrong."""
        problems = []
        for _ in range(3):
            rates = self.measure(topology, *flows)
            problems = [(pairs, want, rates) for pairs, want in sums if not 0.75 * want < sum(rates[p] for p in pairs) < 1.25 * want]
            if not problems:
                return
        self.fail(problems)

    def test_two_ranks_both_ways_at_once(self):
        self.check(ONE_LEVEL + "gpus: [{repeat: 2, type: h100, ports: {nic: 40 Mbit/s}}]\n", ["0-1@0", "1-0@0"],
                   [([(0, 1)], 40), ([(1, 0)], 40)])

    def test_scale_divides(self):
        path = self.file(ONE_LEVEL + "gpus: [{repeat: 2, type: h100, ports: {nic: 50 GB/s}}]\n")
        out, _ = self.expect(0, path, "--scale", "20000", "--", FLOWS, "1.5", "0-1@0")
        self.assertTrue(0.6 * 20 < int(out.split()[-1]) / MEGABIT < 1.25 * 20, out)

    def test_four_unequal_ranks(self):
        self.check(UNEQUAL, ["0-1@0", "1-2@0", "2-3@0", "3-0@0"], [([(0, 1)], 48), ([(1, 2)], 12), ([(2, 3)], 12), ([(3, 0)], 12)])
        self.check(UNEQUAL, ["2-0@0"], [([(2, 0)], 24)])

    def test_receivers_share_their_in_port(self):
        self.check(UNEQUAL, ["0-3@0", "1-3@0", "2-3@0"], [([(0, 3), (1, 3), (2, 3)], 12)])

    def test_two_tiers(self):
        self.check(TWO_TIERS, ["0-1@0", "3-2@0", "1-2@1", "2-0@1"], [([(0, 1)], 60), ([(3, 2)], 60), ([(1, 2)], 12), ([(2, 0)], 12)])

    def test_a_shared_nic_limits_both_its_ranks(self):
        self.check(SHARED, ["0-2@1", "1-3@1"], [([(0, 2), (1, 3)], 16)])
        self.check(SHARED, ["3-0@1"], [([(3, 0)], 16)])

    def test_an_uplink_limits_its_node(self):
        self.check(UPLINKS, ["0-2@1", "1-3@1", "0-1@0"], [([(0, 2), (1, 3)], 16), ([(0, 1)], 60)])

    def test_a_mesh_limits_pairs_not_ports(self):
        self.check(MESH, ["0-1@0", "0-2@0"], [([(0, 1)], 8), ([(0, 2)], 8)])

    def test_racks_leave_through_their_uplink_only(self):
        self.check(RACKS, ["0-1@1", "2-0@2", "3-1@2"], [([(0, 1)], 24), ([(2, 0), (3, 1)], 10)])

    def test_a_port_that_16_ranks_share_drops_nothing(self):
        """All to all, then all into one port: it lost packets where the windows of its senders were longer than its queue (docs/EMULATION.md)."""
        path = self.file(ONE_LEVEL + "gpus: [{repeat: 16, type: h100, ports: {nic: 30 Mbit/s}}]\n")
        everyone = " ".join(f"{a}-{b}@0" for a in range(16) for b in range(16) if a != b)
        into_one = " ".join(f"{a}-0@0" for a in range(1, 16))
        inside = f"{EMULATE} --inside -q --"
        out, _ = self.expect(0, path, "--timeout", "100", "--driver", "--", "sh", "-ec", f"{inside} {FLOWS} 0.8 {everyone} >/dev/null; "
                             f"{inside} {FLOWS} 0.8 {into_one} > /dev/null; {inside} cat /proc/self/net/snmp; {inside} tc -s qdisc; tc -s qdisc")
        drops = [int(n) for n in re.findall(r"\(dropped (\d+)", out)]
        self.assertGreater(len(drops), 100)
        self.assertEqual(sum(drops), 0)
        tcp = [line.split()[2:] for line in out.splitlines() if re.match(r"\[\d+\] Tcp:", line)]
        sent, again = (sum(int(values[names.index(name)]) for names, values in zip(tcp[::2], tcp[1::2], strict=True)) for name in ("OutSegs", "RetransSegs"))
        self.assertEqual(len(tcp), 32)
        self.assertLess(1000 * again, sent, again)  # a short packet may overtake longer ones, which TCP may take for a loss

    def test_nodes_have_scale_up_domains_of_their_own(self):
        probe = 'import os,socket; s=socket.socket(); s.settimeout(0.5); print(s.connect_ex(("10.64.0.3", 9)) in (111,))'
        out, _ = self.expect(0, self.file(TWO_TIERS), "--only", "0", "--", sys.executable, "-c", probe)
        self.assertEqual(out, "False\n")  # nobody there
        out, _ = self.expect(0, self.file(TWO_TIERS), "--only", "3", "--", sys.executable, "-c", probe)
        self.assertEqual(out, "True\n")  # refused: somebody is there


class Commands(Case):
    def setUp(self):
        super().setUp()
        self.path = self.file(TWO_TIERS)

    def test_environment(self):
        names = "MOEPLAN_RANK MOEPLAN_NRANKS MOEPLAN_NODE RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR"
        out, _ = self.expect(0, self.path, "--", "sh", "-c", "echo " + " ".join("$" + n for n in names.split()) + " $(uname -n)")
        self.assertEqual(sorted(out.splitlines()), ["[0] 0 4 0 0 4 0 2 10.65.0.1 rank0", "[1] 1 4 0 1 4 1 2 10.65.0.1 rank1",
                                                    "[2] 2 4 1 2 4 0 2 10.65.0.1 rank2", "[3] 3 4 1 3 4 1 2 10.65.0.1 rank3"])

    def test_files(self):
        out, _ = self.expect(0, self.path, "--scale", "2", "--only", "1", "--", "cat", "/proc/self/environ")
        self.assertEqual(out.count("MOEPLAN_HOSTS="), 1)
        out, _ = self.expect(0, self.path, "--only", "1", "--", "sh", "-c", "cat $MOEPLAN_HOSTS")
        self.assertEqual(out.splitlines()[2], "2 1 10.64.0.3 10.65.0.3")
        out, _ = self.expect(0, self.path, "--scale", "2", "--only", "1", "--", "sh", "-c", "cat $MOEPLAN_TOPOLOGY")
        self.assertIn("out: 750000 B/s", out)

    def test_settings_inside_are_ours_alone(self):
        path = "/proc/sys/net/ipv4/tcp_slow_start_after_idle"
        before = pathlib.Path(path).read_text()
        out, _ = self.expect(0, self.path, "--only", "2", "--", "cat", path)
        self.assertEqual(out, "0\n")
        self.assertEqual(pathlib.Path(path).read_text(), before)

    def test_a_socket_may_choose_its_congestion_control(self):
        code = 'import socket; s=socket.socket(); s.setsockopt(6, 13, b"cubic"); print(s.getsockopt(6, 13, 16).rstrip(b"\\0"))'
        out, _ = self.expect(0, self.path, "--only", "0", "--", sys.executable, "-c", code)
        self.assertEqual(out, "b'cubic'\n")

    def test_output_is_prefixed_whole_lines_and_the_rest(self):
        out, err = self.expect(0, self.path, "--", "sh", "-c", "printf 'a\\nb'; echo c >&2")
        self.assertEqual(sorted(out.splitlines()), [f"[{r}] {x}" for r in range(4) for x in "ab"])
        self.assertEqual(sorted(err.splitlines()), [f"[{r}] c" for r in range(4)])

    def test_much_output_is_whole(self):
        out, _ = self.expect(0, self.path, "--", "sh", "-c", "seq 20000")
        for r in range(4):
            mine = [line[4:] for line in out.splitlines() if line.startswith(f"[{r}] ")]
            self.assertEqual(mine, [str(k) for k in range(1, 20001)])

    def test_log_folder(self):
        out, _ = self.expect(0, self.path, "--log", self.folder / "log", "--", "sh", "-c", "echo $RANK; echo e >&2")
        self.assertEqual(out, "")
        self.assertEqual((self.folder / "log" / "rank-3.log").read_text(), "3\ne\n")

    def test_only_passes_stdin(self):
        process = subprocess.run([EMULATE, self.path, "--only", "1", "--", "tr", "a", "b"], input=b"aa", capture_output=True, env=ENVIRONMENT,
                                 timeout=PATIENCE_S, check=False)
        self.assertEqual((process.returncode, process.stdout), (0, b"bb"))

    def test_ranks_see_only_themselves(self):
        out, _ = self.expect(0, self.path, "--", "sh", "-c", "ls -d /proc/[0-9]* | wc -l")
        self.assertTrue(all(int(line.split()[1]) < 20 for line in out.splitlines()), out)

    def test_one_rank_without_any_network(self):
        out, _ = self.expect(0, "1:h100", "--", "sh", "-c", "cat $MOEPLAN_HOSTS")
        self.assertEqual(out, "[0] 0 0 -\n")


class Endings(Case):
    def setUp(self):
        super().setUp()
        self.path = self.file(TWO_TIERS)

    def ranks(self, code, *arguments):
        """{rank: its part of the report}"""
        report = self.folder / "report.json"
        self.expect(code, self.path, "--report", report, *arguments)
        value = json.loads(report.read_text())
        self.assertEqual(value["exit"], code)
        return {r["rank"]: r for r in value["ranks"]}

    def test_the_first_failure_gives_the_code_and_ends_the_rest(self):
        ranks = self.ranks(5, "--grace", "0.2", "--", "sh", "-c", "[ $RANK = 2 ] && exit 5; exec sleep 100")
        self.assertEqual([ranks[r]["told"] for r in range(4)], ["TERM", "TERM", None, "TERM"])
        self.assertEqual(ranks[0]["exit"], 128 + signal.SIGTERM)

    def test_who_does_not_listen_is_killed(self):
        ranks = self.ranks(5, "--grace", "0.2", "--", "sh", "-c", "[ $RANK = 2 ] && exit 5; trap '' TERM; sleep 100 & wait; sleep 100")
        self.assertEqual(ranks[0]["told"], "KILL")

    def test_within_the_grace_others_end_by_themselves(self):
        ranks = self.ranks(7, "--grace", "30", "--", "sh", "-c", "[ $RANK = 2 ] && exit 7; sleep 1; exit 5")
        self.assertEqual([ranks[r]["exit"] for r in range(4)], [5, 5, 7, 5])
        self.assertTrue(all(r["told"] is None for r in ranks.values()))

    def test_keep_going_waits_for_survivors(self):
        ranks = self.ranks(137, "--keep-going", "--grace", "0.1", "--inject", "1:KILL:0.1", "--", "sh", "-c", "sleep 1.5; exit 5")
        self.assertEqual([ranks[r]["exit"] for r in range(4)], [5, 137, 5, 5])
        self.assertTrue(all(r["told"] is None for r in ranks.values()))

    def test_a_stopped_rank_is_ended_too(self):
        ranks = self.ranks(124, "--inject", "1:STOP:0.1", "--timeout", "1", "--", "sh", "-c", "[ $RANK = 1 ] || exit 0; exec sleep 100")
        self.assertEqual([ranks[r]["exit"] for r in range(4)], [0, 143, 0, 0])

    def test_timeout(self):
        process = self.start(self.path, "--timeout", "0.5", "--", "sleep", "100")
        _, err = process.communicate(timeout=PATIENCE_S)
        self.assertEqual(process.returncode, 124)
        self.assertIn("timeout after 0.5 s: ranks 0, 1, 2, 3 still running", err)

    def test_a_command_that_does_not_exist(self):
        _, err = self.expect(127, self.path, "--", "no-such-command")
        self.assertIn("cannot run no-such-command", err)

    def test_signals_reach_the_ranks(self):
        program = "trap 'echo got; exit 0' USR1; echo ready; while :; do sleep 0.1; done"
        process = self.start(self.path, "--", "sh", "-c", program)
        seen = "".join(process.stdout.readline() for _ in range(4))
        self.assertEqual(seen.count("ready"), 4)
        process.send_signal(signal.SIGUSR1)
        out, _ = process.communicate(timeout=PATIENCE_S)
        self.assertEqual((process.returncode, out.count("got")), (0, 4))

    def test_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start(self.path, "--grace", "0.3", "--", "sh", "-c", "echo ready; exec sleep 100")
            for _ in range(4):
                process.stdout.readline()
            process.send_signal(number)
            process.communicate(timeout=PATIENCE_S)
            self.assertEqual(process.returncode, 128 + number)

    def test_a_reader_that_goes_away_ends_the_run(self):
        process = self.start(self.path, "-q", "--", "sh", "-c", "while :; do echo much; done")
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(timeout=PATIENCE_S), 128 + signal.SIGPIPE)

    def test_a_reader_that_reads_nothing_does_not_stop_the_clock(self):
        process = self.start(self.path, "--timeout", "0.5", "--grace", "0.2", "--", "sh", "-c", "while :; do echo much of it; done")
        self.assertEqual(process.wait(timeout=PATIENCE_S), 124)

    def test_closed_streams(self):
        for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
            done = subprocess.run(["sh", "-c", f'exec "$0" "$@" {closed}', EMULATE, self.path, "--", "sh", "-c", "echo a; echo b >&2; exit 6"],
                                  env=ENVIRONMENT, capture_output=True, timeout=PATIENCE_S, check=False)
            self.assertEqual(done.returncode, 6, done.stderr)

    def test_an_orphan_does_not_keep_us(self):
        out, _ = self.expect(0, self.path, "--", "sh", "-c", "setsid sleep 1000 & echo left")
        self.assertEqual(out.count("left"), 4)


class Driver(Case):
    def test_many_runs_in_one_cluster(self):
        script = self.folder / "drill.sh"
        script.write_text(f"""set -u
{EMULATE} --inside -- sh -c 'exit 0'; echo $?
{EMULATE} --inside -q -- sh -c 'exit $((RANK == 1 ? 5 : 0))'; echo $?
{EMULATE} --inside --only 3 -- sh -c 'echo $RANK $(uname -n)'
{EMULATE} --inside -q --timeout 0.3 -- sleep 100; echo $?
grep -lsx sleep /proc/[0-9]*/comm | wc -l
""")
        out, _ = self.expect(0, self.file(TWO_TIERS), "--driver", "--", "sh", script)
        self.assertEqual(out.splitlines(), ["0", "5", "3 rank3", "124", "0"])

    def test_a_killed_inner_tool_leaves_no_rank(self):
        script = self.folder / "drill.py"
        script.write_text(f"""import os, subprocess
read, write = os.pipe()
p = subprocess.Popen([{EMULATE!r}, "--inside", "--", "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE, pass_fds=[write])
os.close(write)
p.stdout.readline()
p.kill()
print(os.read(read, 1))  # returns once all that held the other end are gone
""")
        out, _ = self.expect(0, self.file(TWO_TIERS), "--driver", "--", sys.executable, script)
        self.assertEqual(out, "b''\n")

    def test_exit_code_of_the_driver(self):
        self.expect(9, self.file(TWO_TIERS), "--driver", "--", "sh", "-c", "exit 9")
        self.expect(124, self.file(TWO_TIERS), "--driver", "--timeout", "0.3", "--", "sleep", "100")
        self.expect(2, self.file(TWO_TIERS), "--only", "4", "--", "true")

    def test_remote_shell(self):
        # What mpirun does: options, a host, one string; and a daemon that is to outlive the shell.
        script = "$MOEPLAN_RSH -x rank3 'uname -n; echo $RANK; setsid sleep 30 >/dev/null 2>&1 &'; sleep 0.2; grep -lsx sleep /proc/[0-9]*/comm | wc -l"
        out, _ = self.expect(0, self.file(TWO_TIERS), "--only", "0", "--", "sh", "-c", script)
        self.assertEqual(out.splitlines(), ["rank3", "3", "1"])


class NothingIsLeft(Case):
    def setUp(self):
        super().setUp()
        self.path = self.file(SHARED)
        self.before = outside()

    def gone(self, process, read, networks):
        """Nobody holds the pipe that all of them inherited, nor a network of theirs; outside nothing changed."""
        process.communicate(timeout=PATIENCE_S)
        ready, _, _ = select.select([read], [], [], PATIENCE_S)
        self.assertTrue(ready, "processes are left")
        self.assertEqual(os.read(read, 1), b"")
        os.close(read)
        self.assertFalse(networks & networks_of_processes())
        self.assertEqual(outside(), self.before)

    def begin(self, command, *arguments, prefix=()):
        read, write = os.pipe()
        process = self.start(self.path, *arguments, "--", "sh", "-c", "readlink /proc/self/ns/net; " + command, prefix=prefix, pass_fds=[write])
        os.close(write)
        networks = {process.stdout.readline().split()[1] for _ in range(4)}
        self.assertEqual(len(networks), 4)
        return process, read, networks

    def test_after_a_run(self):
        self.gone(*self.begin("exit 0"))

    def test_after_a_failure(self):
        self.gone(*self.begin("sleep 1000 & exit 3"))

    def test_after_a_kill_of_the_tool(self):
        process, read, networks = self.begin("sleep 1000")
        self.assertTrue(networks <= networks_of_processes())
        process.kill()
        self.gone(process, read, networks)

    def test_after_a_kill_of_the_tool_for_a_driver(self):
        read, write = os.pipe()
        process = self.start(self.path, "--driver", "--", "sh", "-c", "echo ready; setsid sleep 1000", pass_fds=[write])
        os.close(write)
        process.stdout.readline()
        process.kill()
        self.gone(process, read, set())

    def test_after_a_kill_while_it_is_built(self):
        for delay_ms in range(20, 340, 40):
            read, write = os.pipe()
            process = self.start(self.path, "--", "sleep", "1000", pass_fds=[write])
            os.close(write)
            time.sleep(delay_ms / 1000)
            process.kill()
            self.gone(process, read, set())

    def test_as_nobody(self):
        prefix = ()
        if os.geteuid() == 0:
            prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
            reads = subprocess.run([*prefix, EMULATE, self.path, "--describe"], env=ENVIRONMENT, capture_output=True, check=False)
            if reads.returncode != 0:
                self.skipTest(f"nobody cannot read the build: {reads.stderr.decode()}")
        if subprocess.run([*prefix, EMULATE, "--probe"], env=ENVIRONMENT, capture_output=True, check=False).returncode == 4:
            self.skipTest("user namespaces are not for everybody here")
        process, read, networks = self.begin("sleep 1000", prefix=prefix)
        process.kill()
        self.gone(process, read, networks)
        self.gone(*self.begin("exit 0", prefix=prefix))
        out, _ = self.expect(0, self.path, "--", FLOWS, "1", "0-2@1", prefix=prefix)
        self.assertLess(int(out.split()[-1]), 1.25 * 16 * MEGABIT)


class Refusals(Case):
    def test_no_user_namespace(self):
        # A user without an id here may not make one.
        process = self.start("--probe", prefix=("unshare", "--user"))
        _, err = process.communicate(timeout=PATIENCE_S)
        self.assertEqual((process.returncode, err), (4, "emulate: refused: create a user namespace: Operation not permitted\n"))

    def test_root_goes_without_a_user_namespace(self):
        # Root of a namespace in which no further ones are allowed.
        script = f"echo 0 > /proc/sys/user/max_user_namespaces && {EMULATE} {self.file(UPLINKS)} -- readlink /proc/self/ns/user; readlink /proc/self/ns/user"
        done = subprocess.run(["unshare", "--user", "--map-root-user", "sh", "-c", script], env=ENVIRONMENT, capture_output=True, text=True,
                              timeout=PATIENCE_S, check=False)
        users = [line.split()[-1] for line in done.stdout.splitlines()]
        self.assertEqual((len(users), len(set(users))), (5, 1), done.stderr)

    def test_no_traffic_shaper(self):
        tc = self.folder / "tc"
        tc.write_text("#!/bin/sh\necho 'Error: Specified qdisc kind is unknown.' >&2\necho 'Command failed -:2' >&2\nexit 1\n")
        tc.chmod(0o755)
        process = subprocess.run([EMULATE, self.file(UPLINKS), "--", "true"], env={**ENVIRONMENT, "PATH": f"{self.folder}:{os.environ['PATH']}"},
                                 capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        self.assertEqual(process.returncode, 4)
        self.assertRegex(process.stderr, "^emulate: refused: tc class add dev .*: Specified qdisc kind is unknown.\n$")

    def test_a_program_that_is_missing_is_no_refusal_of_the_kernel(self):
        # Neither --probe nor those who ask it may take it for one, and skip.
        words = "the program {} is not installed (apt-get install iproute2, or tools/check, which does it)"
        hide = ("import os, runpy, shutil, sys; which = shutil.which\n"  # /usr/sbin is looked at too, and it is there
                "shutil.which = lambda name, **more: None if name == os.environ['HIDDEN'] else which(name, **more)\n"
                "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')")
        for hidden in ("ip", "tc"):
            process = subprocess.run([sys.executable, "-c", hide, EMULATE, "--probe"], env={**ENVIRONMENT, "HIDDEN": hidden}, capture_output=True, text=True,
                                     timeout=PATIENCE_S, check=False)
            self.assertEqual((process.returncode, process.stderr), (127, f"emulate: {words.format(hidden)}\n"))

    def test_tests_fail_where_a_program_is_missing(self):
        fake = self.folder / "tools" / "emulate"
        fake.parent.mkdir()
        fake.write_text("#!/bin/sh\necho 'emulate: the program tc is not installed' >&2\nexit 127\n")
        fake.chmod(0o755)
        process = subprocess.run([sys.executable, __file__, MOEPLAN, self.folder], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        self.assertEqual((process.returncode, process.stderr), (1, "FAILED: emulate: the program tc is not installed\n"))


if __name__ == "__main__":
    probe = subprocess.run([EMULATE, "--probe"], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if probe.returncode == 4:
        print(f"skipped: {probe.stderr.strip()}")
        sys.exit(77)
    if probe.returncode != 0:
        sys.exit(f"FAILED: {probe.stderr.strip()}")
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:])
