#!/usr/bin/env python3
"""Kills, stops and slows ranks of moeplan-exec in the middle of runs, and lets them lie; all others must end with exit code 5, in time, in words.

    tools/dev/fault_drills.py [--build build] [--kills 1000] [--stops 200] [--flows 50] [--slow 20] [--lies 20] [--aborts 20] [--ranks 4]
                              [--deadline 300] [--seed 1]

A drill starts one process per rank (transport socket, meeting at a file) for orders of a matrix or, in a quarter of those with signals, for training
steps with sums of gradients beside their all-to-alls, waits a random moment, from the start of the processes to well into the
transfers, and does one thing to one rank: `kill` (SIGKILL), `stop` (SIGSTOP; killed when the drill is over), `slow` (SIGSTOP, and SIGCONT after
twice the deadline: it too must then end with 5), `flow` (SIGSTOP, while a flow between two ranks moves on for half a minute); or one was started
with a fault: `lie` (a byte less than agreed), `corrupt` (a wrong bit: an abort with its reason).
For every kind it prints how long the last survivor took from the event to its end, beside the time allowed (deadline + 100 ms): a measure of the
machine as much as of the program, so only twice that and --loose seconds more fails, and for `flow` half the time of the flow, whatever is less. The
event of `lie` and `corrupt` is the moment when all have met, just before. Nothing may be left: no process, no file.
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
MODEL = """schema: moeplan.model
version: 1
name: drills
hidden_layers: 3
experts: 16
top_k: 2
hidden_size: 128
expert_size: 64
weight_bits: 16
attention: {heads: 4, kv_heads: 4, head_dim: 32}
"""
NAMES_A_PEER = re.compile(r"ranks? \d+")
GIVE_UP_S = 60
FLOW_S, FLOW_BYTES_PER_S = 30, 500000


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
        with open(os.path.join(folder, "capped.yaml"), "w", encoding="ascii") as f:
            f.write(TOPOLOGY.replace("RANKS", str(n)).replace("1 Gbit/s", f"{8 * FLOW_BYTES_PER_S // 1000000} Mbit/s"))
        with open(os.path.join(folder, "flow.csv"), "w", encoding="ascii") as f:
            for i in range(n):
                f.write(",".join("0" if i == j else str(FLOW_S * FLOW_BYTES_PER_S if (i, j) == (0, 1) else 1000) for j in range(n)) + "\n")
        for stages in ("free", "barrier", "coupled"):
            subprocess.run([os.path.join(programs, "moeplan"), "order", "flow.csv", "capped.yaml", "--strategy", "sub-ports", "--set",
                            "sub-ports.stages=65536", "--pacing", "--stages", stages, "-q", "-o", f"flow-{stages}.yaml"], cwd=folder, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(os.path.join(folder, "model.yaml"), "w", encoding="ascii") as f:
            f.write(MODEL)
        for words in ("generate --phase train --layers 3 --experts 16 --top-k 2 --n-requests 64 --tokens-per-request 32 -q -o train.mpt",
                      "plan train.mpt t.yaml -m model.yaml --tokens-per-rank 32 --steps 2 --strategy contiguous --dispatcher deepep-ll -q -o train.yaml"):
            subprocess.run([os.path.join(programs, "moeplan"), *words.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.ours = set(os.listdir(folder))
        self.late_ms, self.problems = {}, []

    def start(self, plan, more):
        o = self.o
        matrix, topology = ("flow.csv", "capped.yaml") if plan.startswith("flow") else ("m.csv", "t.yaml")
        inputs = [plan, matrix, topology, "--matrix"]
        if plan == "train.yaml":
            inputs = [plan, "train.mpt", topology, "-m", "model.yaml", "--steps", "1", "--train", "fair,lina,deferred", "--chunk-scale", "2000"]
        return [subprocess.Popen([self.execute, *inputs, "--transport", "socket", "--rank", str(r), "--nranks",
                                  str(o.ranks), "--rendezvous", f"file://{self.folder}/meet", "--deadline", str(o.deadline), "--iterations",
                                  "100000", "--warmup", "0", "-q", *more], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True) for r in range(o.ranks)]

    def has_met(self, ranks):
        """The moment when the meeting's file was there and is gone; now, when somebody has ended before."""
        was_there = False
        while not any(p.poll() is not None for p in ranks):
            is_there = os.path.exists(os.path.join(self.folder, "meet"))
            # It may have come and gone between two looks: then rank 0 has its connections, and two descriptors for each.
            if not is_there and (was_there or len(os.listdir(f"/proc/{ranks[0].pid}/fd")) >= 4 + 2 * (self.o.ranks - 1)):
                break
            was_there = is_there
            time.sleep(0.002)
        return time.monotonic()

    def drill(self, kind):
        r = self.random
        plans = ("free", "barrier", "coupled") + (("train",) if kind in ("kill", "stop", "slow") else ())
        victim, plan = r.randrange(self.o.ranks), ("flow-" if kind == "flow" else "") + r.choice(plans) + ".yaml"
        is_signal = kind in ("kill", "stop", "slow", "flow")
        more = [] if is_signal else ["--fault", f"{kind}@0/0/0/{victim}"]
        ranks = self.start(plan, more)
        began = self.has_met(ranks) if kind in ("flow", "lie", "corrupt") else time.monotonic()
        if is_signal:
            time.sleep(r.uniform(0.0, 0.25))
            began = time.monotonic()
            os.kill(ranks[victim].pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        # A lying rank ends like the others; one that was killed or stopped does not count, a slow one only ends with the right code.
        survivors = [p for i, p in enumerate(ranks) if not is_signal or i != victim]
        ended, is_slow = {}, kind == "slow"
        while (len(ended) < len(survivors) or is_slow or (kind == "slow" and ranks[victim].poll() is None)) and time.monotonic() - began < GIVE_UP_S:
            for i, p in enumerate(survivors):
                if i not in ended and p.poll() is not None:
                    ended[i] = time.monotonic()
            if is_slow and time.monotonic() - began > 2 * self.o.deadline / 1000:
                os.kill(ranks[victim].pid, signal.SIGCONT)
                is_slow = False
            time.sleep(0.002)
        for p in ranks:
            if p.poll() is None:
                p.kill()
        texts = [p.communicate() for p in ranks]
        what = f"{kind} of rank {victim}, {plan}"
        if len(ended) < len(survivors):
            self.problems.append(f"{what}: {len(survivors) - len(ended)} ranks hang: {[t[1] for t in texts]}")
            return
        for p in ranks if kind == "slow" else survivors:
            out, err = texts[ranks.index(p)]
            if p.returncode != 5 or out or not NAMES_A_PEER.search(err) or not err.startswith("moeplan-exec: "):
                self.problems.append(f"{what}: rank {ranks.index(p)} ended with {p.returncode}: {err.strip()[:300]}")
        self.late_ms.setdefault(kind, []).append(1000 * (max(ended.values()) - began))
        if kind in ("stop", "kill", "flow"):  # who was to remove the meeting's file may be the victim
            try:
                os.remove(os.path.join(self.folder, "meet"))
            except FileNotFoundError:
                pass
        left = sorted(set(os.listdir(self.folder)) - self.ours)
        if left and not (kind in ("stop", "kill", "flow") and all(name.startswith("meet") for name in left)):
            self.problems.append(f"{what}: left behind: {left}")
        for name in left:
            os.remove(os.path.join(self.folder, name))

    def run(self):
        o = self.o
        todo = ["kill"] * o.kills + ["stop"] * o.stops + ["flow"] * o.flows + ["slow"] * o.slow + ["lie"] * o.lies + ["corrupt"] * o.aborts
        self.random.shuffle(todo)
        for kind in todo:
            self.drill(kind)
        allowed = o.deadline + 100
        print(f"{o.ranks} ranks, deadline {o.deadline} ms, load {os.getloadavg()[0]:.1f}")
        print(f"{'drill':8} {'n':>5} {'median':>8} {'p95':>8} {'p99':>8} {'most':>8}  allowed {allowed} ms from the event")
        for kind, late in sorted(self.late_ms.items()):
            late.sort()
            at = [late[min(len(late) - 1, int(q * len(late)))] for q in (0.5, 0.95, 0.99)]
            in_time = sum(ms <= allowed for ms in late)
            print(f"{kind:8} {len(late):5} " + " ".join(f"{ms:8.0f}" for ms in at + [late[-1]]) + f"  {in_time} of {len(late)} in time")
            if late[-1] > min(2 * allowed + 1000 * o.loose, 500 * FLOW_S if kind == "flow" else 1000 * GIVE_UP_S):
                self.problems.append(f"{kind}: a survivor took {late[-1]:.0f} ms")
        for problem in self.problems[:20]:
            print("WRONG:", problem)
        print(f"{len(todo)} drills, {len(self.problems)} problems")
        return 1 if self.problems else 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    for name, default in (("kills", 1000), ("stops", 200), ("flows", 50), ("slow", 20), ("lies", 20), ("aborts", 20), ("ranks", 4), ("deadline", 300), ("seed", 1)):
        p.add_argument("--" + name, type=int, default=default)
    p.add_argument("--loose", type=float, default=1.0, help="seconds beyond twice the time allowed before it is a failure")
    with tempfile.TemporaryDirectory(prefix="moeplan-drills-") as folder:
        return Drills(p.parse_args(), folder).run()


if __name__ == "__main__":
    sys.exit(main())
