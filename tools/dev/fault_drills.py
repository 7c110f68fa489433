#!/usr/bin/env python3
"""Kills, stops and slows ranks of moeplan-exec in the middle of runs, and lets them lie; all others must end with exit code 5, in time, in words.

    tools/dev/fault_drills.py [--build build] [--kills 1000] [--stops 200] [--slow 20] [--lies 20] [--aborts 20] [--ranks 4] [--deadline 300] [--seed 1]

A drill starts one process per rank (transport socket, meeting at a file), waits a random moment, from the start of the processes to well into the
transfers, and does one thing to one rank: SIGKILL; SIGSTOP (killed when the drill is over); or it was started with a fault at a random step and
stage: `slow` (twice the deadline), `lie` (a byte less than agreed), `stop` (says nothing more), `corrupt` (a wrong bit: an abort with its reason).
For every kind it prints how long the last survivor took from the event to its end, beside the time allowed (deadline + 100 ms): a measure
of the machine as much as of the program, so only twice that and a second more fails. Nothing may be left: no process, no file.
"""
import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOPOLOGY = """schema: moeplan.topology
version: 1
name: drills
launch: 10 us
levels: [{name: nic, latency: 50 us}]
gpus: [{repeat: RANKS, type: h100, ports: {nic: 1 Gbit/s}}]
"""
NAMES_A_PEER = re.compile(r"rank \d+")
GIVE_UP_S = 30


class Drills:
    def __init__(self, o, folder):
        self.o, self.folder, self.random = o, folder, random.Random(o.seed)
        programs = os.path.join(os.path.abspath(o.build), "tools", "moeplan")
        self.execute = os.path.join(programs, "moeplan-exec")
        n = o.ranks
        with open(os.path.join(folder, "t.yaml"), "w", encoding="ascii") as f:
            f.write(TOPOLOGY.replace("RANKS", str(n)))
        with open(os.path.join(folder, "m.csv"), "w", encoding="ascii") as f:
            for i in range(n):
                f.write(",".join("0" if i == j else str(20000 + 150000 * ((j - i) % n == 1 + i % 2)) for j in range(n)) + "\n")
        # The modes take turns, so that every kind of wait is struck.
        for stages in ("free", "barrier", "coupled"):
            subprocess.run([os.path.join(programs, "moeplan"), "order", "m.csv", "t.yaml", "--strategy", "bvn", "--stages", stages, "-q", "-o",
                            f"{stages}.yaml"], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.late_ms, self.problems = {}, []

    def start(self, plan, more):
        o = self.o
        return [subprocess.Popen([self.execute, plan, "m.csv", "t.yaml", "--matrix", "--transport", "socket", "--rank", str(r), "--nranks",
                                  str(o.ranks), "--rendezvous", f"file://{self.folder}/meet", "--deadline", str(o.deadline), "--iterations",
                                  "100000", "--warmup", "0", "-q", *more], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True) for r in range(o.ranks)]

    def drill(self, kind):
        r = self.random
        victim, plan = r.randrange(self.o.ranks), r.choice(("free.yaml", "barrier.yaml", "coupled.yaml"))
        more = ["--fault", f"{kind}@0/0/0/{victim}"] if kind not in ("kill", "stop") else []
        ranks = self.start(plan, more)
        began = time.monotonic()
        if not more:
            time.sleep(r.uniform(0.0, 0.25))
            began = time.monotonic()
            os.kill(ranks[victim].pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        # A slow or lying rank ends like the others; one that was killed or stopped does not count.
        survivors = [p for i, p in enumerate(ranks) if more or i != victim]
        ended = {}
        while len(ended) < len(survivors) and time.monotonic() - began < GIVE_UP_S:
            for i, p in enumerate(survivors):
                if i not in ended and p.poll() is not None:
                    ended[i] = time.monotonic()
            time.sleep(0.002)
        for p in ranks:
            if p.poll() is None:
                p.kill()
        texts = [p.communicate() for p in ranks]
        what = f"{kind} of rank {victim}, {plan}"
        if len(ended) < len(survivors):
            self.problems.append(f"{what}: {len(survivors) - len(ended)} ranks hang: {[t[1] for t in texts]}")
            return
        for p in survivors:
            out, err = texts[ranks.index(p)]
            if p.returncode != 5 or out or not NAMES_A_PEER.search(err) or not err.startswith("moeplan-exec: "):
                self.problems.append(f"{what}: rank {ranks.index(p)} ended with {p.returncode}: {err.strip()[:300]}")
        self.late_ms.setdefault(kind, []).append(1000 * (max(ended.values()) - began))
        if kind == "stop" or kind == "kill":  # who was to remove the meeting's file may be the victim
            try:
                os.remove(os.path.join(self.folder, "meet"))
            except FileNotFoundError:
                pass
        left = sorted(set(os.listdir(self.folder)) - {"t.yaml", "m.csv", "free.yaml", "barrier.yaml", "coupled.yaml"})
        if left and not (kind in ("stop", "kill") and all(name.startswith("meet") for name in left)):
            self.problems.append(f"{what}: left behind: {left}")
        for name in left:
            os.remove(os.path.join(self.folder, name))

    def run(self):
        o = self.o
        todo = ["kill"] * o.kills + ["stop"] * o.stops + ["slow"] * o.slow + ["lie"] * o.lies + ["corrupt"] * o.aborts
        self.random.shuffle(todo)
        for kind in todo:
            self.drill(kind)
        allowed = o.deadline + 100
        print(f"{o.ranks} ranks, deadline {o.deadline} ms, load {os.getloadavg()[0]:.1f}")
        print(f"{'drill':8} {'n':>5} {'median':>8} {'p95':>8} {'p99':>8} {'most':>8}  allowed {allowed} ms from the event (slow, lie and corrupt: from the start)")
        for kind, late in sorted(self.late_ms.items()):
            late.sort()
            at = [late[min(len(late) - 1, int(q * len(late)))] for q in (0.5, 0.95, 0.99)]
            in_time = sum(ms <= allowed for ms in late)
            print(f"{kind:8} {len(late):5} " + " ".join(f"{ms:8.0f}" for ms in at + [late[-1]]) + f"  {in_time} of {len(late)} in time")
            if kind in ("kill", "stop") and late[-1] > 2 * allowed + 1000 * o.loose:
                self.problems.append(f"{kind}: a survivor took {late[-1]:.0f} ms")
        for problem in self.problems[:20]:
            print("WRONG:", problem)
        print(f"{len(todo)} drills, {len(self.problems)} problems")
        return 1 if self.problems else 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    for name, default in (("kills", 1000), ("stops", 200), ("slow", 20), ("lies", 20), ("aborts", 20), ("ranks", 4), ("deadline", 300), ("seed", 1)):
        p.add_argument("--" + name, type=int, default=default)
    p.add_argument("--loose", type=float, default=1.0, help="seconds beyond twice the time allowed before it is a failure")
    with tempfile.TemporaryDirectory(prefix="moeplan-drills-") as folder:
        return Drills(p.parse_args(), folder).run()


if __name__ == "__main__":
    sys.exit(main())
