#!/usr/bin/env python3
"""What tools/emulate would build, and what it refuses: no namespace is made here.

usage: layout.py MOEPLAN SOURCE
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

MOEPLAN, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
EMULATE = str(SOURCE / "tools" / "emulate")
# link-classes.yaml, beside them, is a table of rates.
BUILT_IN = sorted(p.stem for p in (SOURCE / "topologies").glob("*.yaml") if "schema: moeplan.topology" in p.read_text(encoding="utf-8"))
HEAD = "schema: moeplan.topology\nversion: 1\nname: t\nlaunch: 10 us\n"
TWO_LEVELS = HEAD + "levels: [{name: up, latency: 1 us}, {name: nic, latency: 2 us}]\n"


def emulate(*arguments):
    return subprocess.run([EMULATE, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
                          env={**os.environ, "MOEPLAN": MOEPLAN}, text=True)


def inspect(topology):
    done = subprocess.run([MOEPLAN, "inspect", topology, "--json"], capture_output=True, check=True)
    return json.loads(done.stdout)["topology"]


class Layout(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="moeplan-emulate-")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def file(self, text):
        path = self.folder / "t.yaml"
        path.write_text(text)
        return path

    def expect(self, code, *arguments):
        done = emulate(*arguments)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        return done

    def dry_run(self, *arguments):
        """(hosts file, lines by namespace and program)"""
        hosts, commands = [], {}
        for line in self.expect(0, *arguments, "--dry-run").stdout.splitlines():
            match = re.match(r"(switch|rank\d+): (ip|tc) (.*)", line)
            if match:
                commands.setdefault(match.groups()[:2], []).append(match.group(3))
            else:
                hosts.append(line)
        return hosts, commands

    def test_hosts_file(self):
        hosts, _ = self.dry_run("2x2:h100")
        self.assertEqual(hosts, ["0 0 10.64.0.1 10.65.0.1", "1 0 10.64.0.2 10.65.0.2", "2 1 10.64.0.3 10.65.0.3", "3 1 10.64.0.4 10.65.0.4"])

    def test_a_level_without_peers_has_no_address(self):
        hosts, _ = self.dry_run("1x2:h100+1x1:h100")
        self.assertEqual([h.split()[2] for h in hosts], ["10.64.0.1", "10.64.0.2", "-"])
        hosts, _ = self.dry_run("2x1:h100")
        self.assertEqual([h.split()[2] for h in hosts], ["-", "-"])

    def test_a_level_that_uses_the_port_below_has_its_address(self):
        for line in self.dry_run("rack-two-tier")[0]:
            self.assertEqual(line.split()[3], line.split()[4])

    def test_names_fit_and_differ(self):
        for topology in BUILT_IN + ["16x8:h100"]:
            _, commands = self.dry_run(topology)
            names = [w for line in commands["switch", "ip"] for w in re.findall(r"link add name (\S+)", line)]
            names += [w for line in commands["switch", "ip"] for w in re.findall(r"peer name (\S+) (?!netns)", line + " ")]
            self.assertEqual(len(names), len(set(names)), topology)
            self.assertLessEqual(max(map(len, names)), 15, topology)
            addresses = [line.split()[2] for key, lines in commands.items() if key[1] == "ip" for line in lines if line.startswith("addr")]
            self.assertEqual(len(addresses), len(set(addresses)), topology)

    def test_every_port_is_shaped_once_at_its_rate(self):
        for topology in BUILT_IN:
            t, scale = inspect(topology), 20000
            _, commands = self.dry_run(topology, "--scale", scale)
            used = {r for g in t["gpus"] for k in range(len(t["levels"])) for r in (g["out_port"][k], g["in_port"][k])}
            if topology == "nvl72":
                self.assertEqual(len(t["levels"]), 1)
            uplinks = {r for v in t["levels"] for k in ("uplink_out", "uplink_in") for r in v[k] or []}
            n_users = {r: len({i for i, g in enumerate(t["gpus"]) if r in g["out_port"] + g["in_port"]}) for r in used}
            want = {}
            for r in used | uplinks:
                payload = t["resources"][r]["bytes_per_s"] // scale
                wire = -(-payload * 8 * 1514 // 1448)
                # A shared out port is shaped at each rank too, so that a sender feels it at once.
                n = 1 + n_users[r] if r in used and n_users[r] > 1 and t["resources"][r]["direction"] == "out" else 1
                want[wire] = want.get(wire, 0) + n
            got = {}
            for (_, program), lines in commands.items():
                for line in lines if program == "tc" else []:
                    match = re.search(r"classid 1:1 htb rate (\d+)bit", line)
                    if match:
                        got[int(match.group(1))] = got.get(int(match.group(1)), 0) + 1
            self.assertEqual(got, want, topology)

    def test_automatic_scale(self):
        for topology in BUILT_IN + ["2:h100", "4x8:h100"]:
            scale = int(re.search(r"rates divided by (\d+)", self.expect(0, topology, "--describe").stdout).group(1))
            ports = [r for r in inspect(topology)["resources"] if not r["is_uplink"]]
            fastest = max(r["bytes_per_s"] for r in ports) * 8
            total = max(sum(r["bytes_per_s"] * 8 for r in ports if r["direction"] == "out" and r["level"] == level) for level in range(4))
            self.assertTrue(fastest / scale <= 1e9 and total / scale <= 4e9, topology)
            smaller = scale / 2.5
            self.assertTrue(scale == 1 or fastest / smaller > 1e9 or total / smaller > 4e9, topology)
            self.assertRegex(str(scale), "^[125]0*$")

    def test_a_mesh_limits_every_pair(self):
        _, commands = self.dry_run("mi300x-n1g8", "--scale", "1000")
        for rank in range(8):
            peers = [line for line in commands[f"rank{rank}", "tc"] if "match ip dst" in line]
            self.assertEqual(len(peers), 7)
            self.assertFalse(any(f"dst 10.64.0.{rank + 1}/" in line for line in peers))

    def test_no_window_but_the_receivers_and_room_for_all_of_them_in_every_queue(self):
        """TCP that probed for a rate left slow start on the first of sixteen flows at sixteen packets, which then was the last by far."""
        for topology in BUILT_IN:
            _, commands = self.dry_run(topology)
            routes = [line for (_, program), lines in commands.items() if program == "ip" for line in lines if line.startswith("route")]
            ports = [line for (_, program), lines in commands.items() if program == "ip" for line in lines if line.startswith("addr")]
            self.assertEqual(len(routes), len(ports), topology)
            window = max(int(re.search(r" window (\d+)", line).group(1)) for line in routes)
            self.assertTrue(all(int(re.search(r" initcwnd (\d+)", line).group(1)) * 1448 > window for line in routes), topology)
            limits = [int(n) for (_, program), lines in commands.items() if program == "tc" for line in lines if " parent 1:10 " not in line
                      for n in re.findall(r"bfifo limit (\d+)", line)]
            self.assertGreaterEqual(min(limits), 2 * window, topology)

    def test_ports_serve_their_peers_in_turn(self):
        _, commands = self.dry_run("8:h100", "--scale", "1000")
        for rank in range(8):
            for lines, byte in ((commands[f"rank{rank}", "tc"], 19), ([x for x in commands["switch", "tc"] if f"dev r{rank}l0 " in x], 15)):
                turns = [re.search(r"match u8 (\d+) 0x1f at (\d+) flowid (\S+)", x) for x in lines if "match u8" in x]
                self.assertEqual({m.group(1) for m in turns}, {str(k + 1) for k in range(8)})
                self.assertEqual({m.group(2) for m in turns}, {str(byte)})
                self.assertEqual(len({m.group(3) for m in turns}), 8)

    def test_scaled_topology(self):
        out = self.folder / "scaled.yaml"
        for topology in BUILT_IN:
            self.expect(0, topology, "--scale", "1000", "--topology-out", out)
            before, after = inspect(topology), inspect(str(out))
            self.assertEqual(after["gpus"], before["gpus"], topology)
            for a, b in zip(after["resources"], before["resources"], strict=True):
                self.assertEqual(a, {**b, "bytes_per_s": b["bytes_per_s"] // 1000}, topology)
            self.assertEqual([v["pair_bytes_per_s"] for v in after["levels"]], [v["pair_bytes_per_s"] // 1000 for v in before["levels"]])
            text = {p: subprocess.run([MOEPLAN, "inspect", p], capture_output=True, check=True).stdout.decode() for p in (topology, str(out))}
            types = [re.findall(r"^type.*", t, re.M) for t in text.values()]
            self.assertEqual(types[0], types[1])

    def test_incast_is_said_not_to_be_emulated(self):
        path = self.file(HEAD + "levels: [{name: a, latency: 1 us, incast: [1.0, 0.9]}]\ngpus: [{repeat: 2, type: h100, ports: {a: 1 MB/s}}]\n")
        self.assertIn("not emulated: incast", self.expect(0, path, "--describe").stdout)

    def test_refused_arguments(self):
        self.assertIn("no COMMAND", self.expect(2, "2:h100").stderr)
        self.assertIn("a TOPOLOGY, or --inside", self.expect(2, "--", "true").stderr)
        self.assertIn("whole number", self.expect(2, "2:h100", "--scale", "0", "--", "true").stderr)
        self.assertIn("number of seconds", self.expect(2, "2:h100", "--timeout", "soon", "--", "true").stderr)
        self.assertIn("RANK:SIGNAL:SECONDS", self.expect(2, "2:h100", "--inject", "1:NOTHING:1", "--", "true").stderr)
        self.assertIn("--driver excludes", self.expect(2, "2:h100", "--driver", "--only", "1", "--", "true").stderr)
        self.assertIn("on every rank", self.expect(2, "2:h100", "--driver", "--log", "x", "--", "true").stderr)
        self.assertIn("no emulated cluster", self.expect(2, "--inside", "--", "true").stderr)

    def test_refused_topologies(self):
        path = self.file(TWO_LEVELS + "groups: []\n")
        self.assertIn(f"{path}:6:9:", self.expect(3, path, "--", "true").stderr)
        self.assertIn("is a model", self.expect(3, "mixtral-8x7b", "--", "true").stderr)
        self.assertIn("256 GPUs are more ranks", self.expect(3, "32x8:h100", "--", "true").stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
