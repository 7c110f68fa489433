#!/usr/bin/env python3
"""tools/record without torch: the native writer against the C tool and the second reader, padding and phases from plain lists, prompts.

usage: native.py MOEPLAN
"""
import io
import os
import random
import subprocess
import sys
import tempfile
import tracemalloc

from support import Moeplan, SOURCE, Trace, check, done, nothing_left, raises, rows_of, weights_of

from moeplan_record.batches import Batch, Sequence, check_positions
from moeplan_record.errors import RecordError
from moeplan_record.native import CHUNK_ROWS, TraceWriter
from moeplan_record.progress import Progress
from moeplan_record.prompts import read_prompts


def lists(random_, n_rows, n_layers, n_experts, k, shorter=False):
    return [[random_.sample(range(n_experts), random_.randrange(1, k + 1) if shorter else k) for _ in range(n_layers)] for _ in range(n_rows)]


def test_same_bytes_as_convert(moeplan, folder):
    """What moeplan writes of what it read here is the same file; the sha256 is the one moeplan prints; every id is where it was put."""
    random_ = random.Random(1)
    for n_experts, k, shorter, weights in ((8, 2, False, False), (255, 4, True, False), (256, 8, False, True), (256, 8, True, True), (300, 3, True, False)):
        name = f"{n_experts}-{k}-{shorter}-{weights}"
        path = os.path.join(folder, name + ".mpt")
        w = TraceWriter(path, [1, 2, 5], n_experts, k, "decode", "tiny/model", is_ranked=True, weights=weights)
        requests = [w.request(100 + i, 10 * i, ["math", "code", None, "math"][i % 4], [None, 3, 0][i % 3]) for i in range(7)]
        w.request(999, 0, "never used")
        given = [[] for _ in requests]
        for _ in range(40):  # requests grow side by side, as in a batch
            i = random_.randrange(7)
            rows = lists(random_, random_.randrange(1, 30), 3, n_experts, k, shorter)
            values = [[[random_.randrange(65536) / 65535 for _ in e] for e in row] for row in rows] if weights else None
            w.add_lists(requests[i], rows, values)
            given[i].extend(zip(rows, values or rows))
        sha = w.close()
        again = os.path.join(folder, name + ".again.mpt")
        moeplan.run("convert", path, again)
        with open(path, "rb") as a, open(again, "rb") as b:
            check(a.read() == b.read(), f"{name}: convert writes the same bytes")
        facts = moeplan.facts(path)
        for fact, value in (("sha256", sha), ("layer ids", "1, 2, 5"), ("experts", str(n_experts)), ("top_k", str(k)), ("model", "tiny/model"),
                            ("phase", "decode"), ("ranked", "yes"), ("weights", "yes" if weights else "no"), ("categories", "2"),
                            ("requests", str(sum(bool(g) for g in given))), ("tokens", str(sum(map(len, given))))):
            check(value in (facts.get(fact), facts.get(fact, "").replace(",", " ")), f"{name}: {fact} {facts.get(fact)} is {value}")
        t = Trace(path)
        check(t.sha256 == sha, f"{name}: the second reader's sha256")
        check(t.id_bytes == (1 if n_experts <= 255 or (n_experts == 256 and not shorter) else 2), f"{name}: {t.id_bytes} bytes per id")
        for i, r in enumerate(requests):
            if not given[i]:
                continue
            check(rows_of(t, r.id) == [[tuple(e) for e in row] for row, _ in given[i]], f"{name}: ids of request {r.id}")
            id_, first, _, position, source, category = next(x for x in t.requests if x[0] == r.id)
            check(position == 10 * i and source == [0xFFFFFFFF, 3, 0][i % 3], f"{name}: position and source of {id_}")
            check((t.categories[category] if category != 0xFFFFFFFF else None) == ["math", "code", None, "math"][i % 4], f"{name}: category of {id_}")
            for row, (_, values) in enumerate(given[i]) if weights else ():
                for layer in range(3):
                    got = weights_of(t, layer, first + row)[:len(values[layer])]
                    check(got == tuple(round(v * 65535) for v in values[layer]), f"{name}: weights {got}")
    return True


def test_lossless_round_trip(moeplan, folder):
    """native -> JSON lines -> native is the same content."""
    random_ = random.Random(2)
    path, text, back = (os.path.join(folder, n) for n in ("a.mpt", "a.jsonl", "b.mpt"))
    w = TraceWriter(path, [0, 1], 16, 4, "prefill", "m")
    for i in range(5):
        w.add_lists(w.request(i, 3 * i, "c", 1), lists(random_, 20, 2, 16, 4))
    sha = w.close()
    moeplan.run("convert", path, text)
    moeplan.run("convert", text, back)
    check(Trace(back).sha256 == sha, "through JSON lines and back: the same sha256")


def test_chunks(moeplan, folder):
    """Requests and blocks across chunk borders, in bounded memory: three chunks, one and a bit in memory."""
    path = os.path.join(folder, "large.mpt")
    n_layers, k, n_rows = 16, 4, 3 * CHUNK_ROWS - 1000
    chunk_bytes = n_layers * k * CHUNK_ROWS
    tracemalloc.start()
    w = TraceWriter(path, range(n_layers), 64, k, "prefill", "large")
    row = bytes(range(k)) * 500 * n_layers
    peak_writing = 0
    requests = [w.request(i) for i in range(4)]
    for i in range(n_rows // 500):
        w.add(requests[i % 4], 500, row)
        if i == 200:
            peak_writing = tracemalloc.get_traced_memory()[1]
    w.add(requests[0], n_rows % 500, bytes(range(k)) * (n_rows % 500) * n_layers)
    grown = tracemalloc.get_traced_memory()[0]
    w.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{n_rows:,} rows, {n_layers * k * n_rows / 1e6:.1f} MB in chunks of {chunk_bytes / 1e6:.1f} MB: "
          f"{grown / 1e6:.2f} MB held while recording, peak {peak / 1e6:.1f} MB when writing")
    check(grown < 1 << 20, f"{grown} bytes held while recording (blocks are on disk)")
    check(peak_writing < 20 << 20, f"peak {peak_writing} bytes while recording")
    check(peak < 1.25 * chunk_bytes + (1 << 20), f"peak {peak} bytes when writing, chunks are {chunk_bytes}")
    facts = moeplan.facts(path)
    check(facts["tokens"].replace(",", "").replace(" ", "") == str(n_rows), f"tokens {facts['tokens']}")
    check(facts["requests"] == "4" and facts["experts never used"] == str((64 - k) * n_layers), f"facts {facts}")


def test_small_pieces_are_bounded(folder):
    """One row at a time for many requests: what waits stays below its limit."""
    n_layers, k = 32, 8
    tracemalloc.start()
    w = TraceWriter(os.path.join(folder, "small.mpt"), range(n_layers), 64, k, "decode")
    requests = [w.request(i) for i in range(600)]
    line = bytes(range(k)) * n_layers
    for _ in range(120):
        for r in requests:
            w.add(r, 1, line)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    w.discard()
    given = 600 * 120 * n_layers * k
    print(f"{given / 1e6:.1f} MB given one row at a time to 600 requests: peak {peak / 1e6:.1f} MB")
    check(peak < 40 << 20, f"peak {peak} bytes of {given}")


def test_refusals(folder):
    path = os.path.join(folder, "refused.mpt")
    raises(RecordError, "ascending", lambda: TraceWriter(path, [2, 1], 8, 2, "decode"))
    raises(RecordError, "top-9 of 8", lambda: TraceWriter(path, [0], 8, 9, "decode"))
    raises(RecordError, "the model's name", lambda: TraceWriter(path, [0], 8, 2, "decode", "a\nb"))
    w = TraceWriter(path, [0, 1], 8, 2, "decode")
    raises(RecordError, "64 bits", lambda: w.request(-1))
    raises(RecordError, "source rank", lambda: w.request(1, source=4096))
    raises(RecordError, "category", lambda: w.request(1, category="x" * 129))
    r = w.request(1)
    raises(RecordError, "id 8 is not an expert", lambda: w.add(r, 1, bytes([0, 1, 8, 2])))
    raises(RecordError, "bytes of ids", lambda: w.add(r, 2, bytes([0, 1, 8, 2])))
    raises(RecordError, "different experts", lambda: w.add_lists(r, [[[0, 0], [1, 2]]]))
    raises(RecordError, "different experts", lambda: w.add_lists(r, [[[0, 1], [1, 8]]]))
    wide = TraceWriter(path, [0], 300, 2, "decode")
    raises(RecordError, "id 300 is not", lambda: wide.add(wide.request(0), 1, b"\x2c\x01\x00\x00"))
    wide.discard()
    check(w.close() is None, "nothing recorded: no file")
    nothing_left(folder, [])


def test_interrupted(folder):
    """Killed in the middle, or failing while the file is written: nothing is left; an older recording of that name stays."""
    old = os.path.join(folder, "old.mpt")
    with open(old, "wb") as f:
        f.write(b"older")
    program = ("import os, signal, sys; sys.path.insert(0, sys.argv[1]); from moeplan_record import TraceWriter\n"
               "w = TraceWriter(sys.argv[2], [0], 8, 2, 'decode'); r = w.request(0)\n"
               "for i in range(1000): w.add(r, 1, bytes([1, 2]))\n"
               "os.kill(os.getpid(), signal.SIGKILL)")
    ended = subprocess.run([sys.executable, "-c", program, os.path.join(SOURCE, "tools", "record"), old], check=False).returncode
    check(ended == -9, f"killed: {ended}")
    w = TraceWriter(old, [0], 8, 2, "decode")
    w.add(w.request(0), 300, bytes([1, 2]) * 300)

    def stop(*_):
        raise KeyboardInterrupt
    raises(KeyboardInterrupt, "", lambda: w.close(stop))
    with open(old, "rb") as f:
        check(f.read() == b"older", "the older file is untouched")
    nothing_left(folder, ["old.mpt"])


def columns_of(taken):
    return {phase: (position, list(columns)) for phase, (position, columns) in taken.items()}


def test_padding_and_phases():
    ends = frozenset([2])
    s = Sequence(0)  # left padding, then two tokens, an end, and what is fed after it
    check(columns_of(s.take(5, 5, [0, 0, 1, 1, 1])) == {"prefill": (0, [2, 3, 4])}, "left padding")
    check(columns_of(s.take(1, 0, None, [7], ends)) == {"decode": (3, [0])}, "first decoded token at its position")
    check(columns_of(s.take(3, 0, None, [8, 2, 0], ends)) == {"decode": (4, [0])} and s.is_finished, "the end is not recorded, nor what follows")
    check(s.take(4, 0, None, [9, 9, 9, 9], ends) == {}, "a sequence that ended stays ended")
    s = Sequence(0)  # right padding; an end token inside the prompt is the prompt's
    check(columns_of(s.take(5, 5, [1, 1, 1, 0, 0], [2, 2, 2, 0, 0], ends)) == {"prefill": (0, [0, 1, 2])}, "right padding, end tokens in the prompt")
    s = Sequence(0, None, 40)  # a later turn of a conversation
    check(columns_of(s.take(3, 3)) == {"prefill": (40, [0, 1, 2])}, "a turn starts at its position")
    s = Sequence(0, None, 0, 3)  # prompt and known response in one pass
    check(columns_of(s.take(6, 6, [1, 1, 1, 1, 1, 0], [5] * 6, ends)) == {"prefill": (0, [0, 1, 2]), "decode": (3, [3, 4])}, "a known response is decode")
    s = Sequence(0)
    check(columns_of(s.take(4, 2)) == {"prefill": (0, [0, 1]), "decode": (2, [2, 3])}, "passes that were joined")
    b = Batch([Sequence(0)], 0, 7)
    check(b.prompt_columns_of(4) == 4, "a chunk of a prompt")
    b.advance(4, 4)
    check(b.prompt_columns_of(4) == 3 and not b.has_decoded, "the chunk that ends it")
    b = Batch([Sequence(0)])
    check(b.prompt_columns_of(1) == 1, "a prompt of one token")
    b.advance(1, 1)
    check(b.prompt_columns_of(1) == 0 and b.prompt_columns_of(5) == 5, "one more is decoded, several are a prompt")
    raises(RecordError, "packed", lambda: check_positions([[0, 1, 2, 0, 1]], None, "position_ids"))
    check_positions([[0, 0, 0, 1, 2]], [[0, 0, 1, 1, 1]], "position_ids")


def test_prompts(folder):
    def written(name, text):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path
    check([p.text for p in read_prompts(written("a.txt", "one\n\n two\r\nthree\n"))] == ["one", " two", "three"], "lines")
    check(len(read_prompts(os.path.join(folder, "a.txt"), 2)) == 2, "a limit")
    p = read_prompts(written("b.jsonl", '{"input_ids": [1, 2], "request": 7, "category": "math"}\n{"prompt": "x", "request": 8}\n'))
    check((p[0].ids, p[0].request, p[0].category, p[1].text) == ([1, 2], 7, "math", "x"), "objects")
    for text, part in (("", "no prompts"), ("[1]\n", "not an object"), ("{\n", "c.jsonl:1: not JSON"), ('{"promt": "x"}\n', "'promt' is not known"),
                       ('{"prompt": "x", "input_ids": [1]}\n', "needs one of"), ('{"input_ids": []}\n', "list of token numbers"),
                       ('{"prompt": ""}\n', "prompt is not a text"), ('{"messages": "hi"}\n', "messages is not"),
                       ('{"prompt": "x", "request": -1}\n', "whole number"), ('{"prompt": "x", "request": 1}\n{"prompt": "y"}\n', "all or none"),
                       ('{"prompt": "x", "request": 1}\n{"prompt": "y", "request": 1}\n', "given twice"),
                       ('{"prompt": "x", "response": "y"}\n{"prompt": "y"}\n', "have a response"),
                       ('{"prompt": "x", "response": "y", "response_ids": [1]}\n', "response and response_ids")):
        path = written("c.jsonl", text)
        raises(RecordError, part, lambda: read_prompts(path))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress():
    silent = io.StringIO()
    p = Progress(10, silent)
    p.show(100, 1)
    p.end()
    check(silent.getvalue() == "", "no progress where stderr is no terminal")
    shown = Terminal()
    p = Progress(10, shown)
    p.show(1000, 5, p.start + 10)
    p.show(1001, 5, p.start + 10.1)
    check(shown.getvalue() == "\rrecorded 1,000 tokens, 100 tokens/s, 5 of 10 requests, 10 s left", repr(shown.getvalue()))
    p.end()
    check(shown.getvalue().endswith("\r"), "the line is taken away at the end")


def test_without_torch(folder):
    """The program says what is missing."""
    path = os.path.join(folder, "torch.py")
    with open(path, "w", encoding="utf-8") as f:
        f.write("raise ImportError('no torch here', name='torch')\n")
    done_ = subprocess.run([sys.executable, os.path.join(SOURCE, "tools", "record", "record.py"), "--model", "x", "--prompts", "x", "-o", "x.mpt"],
                           capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": folder})
    check(done_.returncode == 4 and done_.stderr == "record.py: torch cannot be imported: install torch and transformers (pip install torch transformers numpy)\n",
          f"{done_.returncode} {done_.stderr!r}")


def main():
    moeplan = Moeplan(sys.argv[1])
    test_padding_and_phases()
    test_progress()
    for test, arguments in ((test_same_bytes_as_convert, (moeplan,)), (test_lossless_round_trip, (moeplan,)), (test_chunks, (moeplan,)),
                            (test_small_pieces_are_bounded, ()), (test_refusals, ()), (test_interrupted, ()), (test_prompts, ()),
                            (test_without_torch, ())):
        with tempfile.TemporaryDirectory() as folder:
            test(*arguments, folder)
    return done()


if __name__ == "__main__":
    sys.exit(main())
