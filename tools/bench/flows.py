#!/usr/bin/env python3
"""Measures what TCP flows between the ranks of an emulated cluster get, all at the same time.

    tools/emulate TOPOLOGY -- tools/bench/flows.py SECONDS FLOW...       FLOW: SRC-DST@LEVEL, such as 0-1@0

Run by every rank. The receiver of a flow prints "flow SRC DST LEVEL BYTES_PER_SECOND", counted over the last three quarters of the time.
"""
import os
import re
import selectors
import socket
import sys
import time

CHUNK = bytes(1 << 16)
PORT = 21000
PATIENCE_S = 30


def hosts():
    with open(os.environ["MOEPLAN_HOSTS"], encoding="ascii") as f:
        return [line.split()[2:] for line in f]


class Sender:
    def __init__(self, number, address, to):
        until = time.monotonic() + PATIENCE_S
        while True:  # the other rank may not listen yet
            self.socket = socket.socket()
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
            self.socket.bind((address, 0))
            try:
                self.socket.connect((to, PORT))
                break
            except ConnectionRefusedError:
                self.socket.close()
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        self.socket.sendall(b"%4d" % number)
        self.socket.setblocking(False)

    def step(self):
        try:
            self.socket.send(CHUNK)
        except (BlockingIOError, ConnectionError):  # the receiver's time may be up before ours
            pass


class Receiver:
    def __init__(self, accepted):
        self.socket = accepted
        self.number = int(accepted.recv(4, socket.MSG_WAITALL))
        accepted.setblocking(False)
        self.n = 0

    def step(self):
        try:
            got = self.socket.recv(1 << 18)
        except BlockingIOError:
            return True
        self.n += len(got)
        return bool(got)


def main():
    seconds, rank, table = float(sys.argv[1]), int(os.environ["MOEPLAN_RANK"]), hosts()
    flows = [tuple(map(int, re.fullmatch(r"(\d+)-(\d+)@(\d+)", word).groups())) for word in sys.argv[2:]]
    listeners = {}
    for _, dst, level in flows:
        if dst == rank and table[rank][level] not in listeners:
            listeners[table[rank][level]] = socket.create_server((table[rank][level], PORT), backlog=256)
    # First everybody connects, whose order cannot matter: a connection is accepted by the kernel.
    senders = [Sender(k, table[rank][level], table[dst][level]) for k, (src, dst, level) in enumerate(flows) if src == rank]
    receivers = []
    for address, listener in listeners.items():
        listener.settimeout(PATIENCE_S)
        for _ in range(sum(dst == rank and table[rank][level] == address for _, dst, level in flows)):
            receivers.append(Receiver(listener.accept()[0]))
    selector = selectors.DefaultSelector()
    for s in senders:
        selector.register(s.socket, selectors.EVENT_WRITE, s)
    for r in receivers:
        selector.register(r.socket, selectors.EVENT_READ, r)
    start = time.monotonic()
    end, marked = start + seconds, None
    while time.monotonic() < end:
        for key, _ in selector.select(0.05):
            key.data.step()
        now = time.monotonic()
        if marked is None and now - start > seconds / 4:
            marked = now
            first = [r.n for r in receivers]
    window = time.monotonic() - marked
    for k, r in enumerate(receivers):
        src, dst, level = flows[r.number]
        print(f"flow {src} {dst} {level} {(r.n - first[k]) / window:.0f}", flush=True)
    # Nobody closes while others still send: that would free a port early.
    os._exit(0)


if __name__ == "__main__":
    main()
