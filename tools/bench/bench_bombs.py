#!/usr/bin/env python3
"""Files made to take all time or memory, each through the program: seconds and peak memory beside the limits asked for.

usage: bench_bombs.py MOEPLAN [--seconds S] [--mib M] [--only NAME] [--no-seconds]
Asked for: refused in < 1 s and < 64 MB. To add one: a line in BOMBS (name, file name, maker, arguments with {} for the file).
--no-seconds judges exit code and memory only (for tests). Exit code 1 when a file is not refused (3), or past a limit.
"""
import argparse
import gzip
import io
import os
import pathlib
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib

ARRAY = "--phase decode --layer-base 0 --ids logical --experts 4 --axes tokens,layers,k"
MIB = 1 << 20


def text(*parts):
    """A file of (bytes, times) pairs."""
    return lambda path: pathlib.Path(path).write_bytes(b"".join(part * times for part, times in parts))


def long_line(start, part, size):
    """A line of `size` bytes: 8 MiB of `part`, which is further than anybody looks, and then a hole."""
    return lambda path: hole(start + part * (8 * MIB // len(part)), size - 8 * MIB)(path)


def hole(start, size, end=b""):
    """A file of `size` zero bytes that takes no room on the disk."""
    def make(path):
        with open(path, "wb") as f:
            f.write(start)
            f.truncate(len(start) + size)
            f.seek(0, io.SEEK_END)
            f.write(end)
    return make


def gzipped(start, block, times, members=1):
    """Members of `times` equal blocks; the sum at the end is wrong, but nobody gets there."""
    def make(path):
        z = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = z.compress(block) + z.flush(zlib.Z_FULL_FLUSH)
        z = zlib.compressobj(9, zlib.DEFLATED, -15)
        first = z.compress(start) + z.flush(zlib.Z_FULL_FLUSH)
        member = b"\x1f\x8b\x08\0\0\0\0\0\2\3" + first + packed * times + b"\3\0"
        if times == 1:
            member += struct.pack("<II", zlib.crc32(start + block), len(start + block))
        pathlib.Path(path).write_bytes(member * members)
    return make


def zstd(block, blocks, declared=None, window=27):
    """A frame of RLE blocks: 4 bytes each, up to 128 KiB unpacked."""
    def make(path):
        with open(path, "wb") as f:
            size = b"" if declared is None else struct.pack("<Q", declared)
            f.write(b"\x28\xb5\x2f\xfd" + bytes([0 if declared is None else 0xc0]) + bytes([(window - 10) << 3]) + size)
            one = struct.pack("<I", 1 << 1 | (128 << 10) << 3)[:3] + block
            for _ in range(blocks // 4096):
                f.write(one * 4096)
            f.write(one * (blocks % 4096) + b"\x01\x00\x00")
    return make


def npy(shape, data=b"", descr="|u1", version=1, length=None):
    header = ("{'descr': '%s', 'fortran_order': False, 'shape': %s, }" % (descr, shape)).encode()
    prefix = b"\x93NUMPY" + bytes([version, 0])
    n = len(header) if length is None else length
    return prefix + (struct.pack("<H", n) if version == 1 else struct.pack("<I", n)) + header + data


def raw(data):
    return lambda path: pathlib.Path(path).write_bytes(data)


def archive(*members, level=1):
    def make(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as z:
            for name, data, times in members:
                with z.open(name, "w", force_zip64=True) as f:
                    for _ in range(times):
                        f.write(data)
    return make


def claims(size):
    """A stored member whose directory says that it unpacks to `size` bytes."""
    def make(path):
        b = io.BytesIO()
        with zipfile.ZipFile(b, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("topk_ids.npy", npy("(5, 2, 2)", bytes(20)))
        data = bytearray(b.getvalue())
        at = data.index(b"PK\x01\x02")
        data[at + 24:at + 28] = struct.pack("<I", size & 0xffffffff)
        pathlib.Path(path).write_bytes(bytes(data))
    return make


def overlapping(path):
    """Many directory entries over the same packed bytes."""
    b = io.BytesIO()
    with zipfile.ZipFile(b, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        z.writestr("topk_ids.npy", npy("(5, 2, 2)", bytes(20)))
    data = b.getvalue()
    at = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[at:end]
    n = 1000
    tail = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, n, n, len(entry) * n, at, 0)
    pathlib.Path(path).write_bytes(data[:at] + entry * n + tail)


LINE = b'{"request": 1, "position": 0, "layer": 0, "experts": ['
META = b'{"moeplan_trace": 1, "phase": "decode", "ids": "logical", "layer_base": 0, "n_experts": 4}\n'
TPE = b'{"iter": 1, "block": "decoder", "layer": 0, "tpe": ['

# name, file name, maker, arguments
BOMBS = [
    ("text: a line of 10^9 bytes", "line.jsonl", hole(META + LINE, 10**9), "inspect {}"),
    ("text: a line of 10^9 digits", "digits.csv", long_line(b"layer,expert,count\n0,0,", b"9", 10**9), f"inspect {{}} {ARRAY}"),
    ("text: a file of 10^12 zero bytes", "zeros.csv", hole(b"", 10**12), "inspect {} --input-format csv"),
    ("text: 10^8 commas in the header", "commas.csv", long_line(b"layer,e0", b",", 10**8), "inspect {} --input-format csv"),
    ("text: 3 * 10^6 commas in the header", "fewer.csv", text((b"layer,e0", 1), (b",", 3 * 10**6)), "inspect {} --input-format csv"),
    ("text: omni-infer, a line of 10^9 tabs", "tabs.txt", long_line(b"1", b"\t", 10**9), "inspect {} --input-format omni_counts"),
    ("text: omni-infer, 4 * 10^6 counts in a line", "counts.txt", text((b"1\t", 2 * 10**6)), "inspect {} --input-format omni_counts"),
    ("text: vLLM, a line of 10^9 blanks", "blanks.jsonl", long_line(b'{"record_type": "eplb_load_meta"', b" ", 10**9), "inspect {}"),
    ("text: Megatron, a line of 10^9 bytes", "tpe.jsonl", long_line(TPE, b"[1,2],", 10**9), "inspect {} --experts 2"),
    ("text: Megatron, 4 MB of counts in a line", "tpe4.jsonl", text((TPE, 1), (b"[1,2],", 690000), (b"[1,2]]}\n", 1)), "inspect {} --experts 4"),
    ("JSON: 10^6 brackets", "deep.jsonl", text((META + LINE, 1), (b"[", 10**6)), "inspect {}"),
    ("JSON: 4 * 10^6 brackets in one document", "deep.json", text((b'{"logical_count": ', 1), (b"[", 4 * 10**6)), "inspect {}"),
    ("JSON: a document of 10^9 bytes", "large.json", hole(b'{"logical_count": [[', 10**9), "inspect {}"),
    ("JSON: a document of 47 MiB of small lists", "lists.json", text((b'{"logical_count": [', 1), (b"[],", 47 * MIB // 3)), "inspect {}"),
    ("JSON: a document of 63 MiB of zeros", "long.json", text((b'{"logical_count": [[', 1), (b"0,", 63 * MIB // 2)), "inspect {}"),
    ("JSON: 10^5 keys of one object in a line", "keys.jsonl", text((META + b'{"a":1', 1), (b',"b":1', 600000)), "inspect {}"),
    ("npy: a shape of 464 TB", "shape.npy", raw(npy("(4000000000000, 58, 2)", bytes(20))), f"inspect {{}} {ARRAY}"),
    ("npy: a shape past 64 bits", "shape64.npy", raw(npy("(9999999999, 9999999999, 9999999999)", bytes(20))), f"inspect {{}} {ARRAY}"),
    ("npy: a header of 4 GiB", "header.npy", raw(npy("(5, 2, 2)", bytes(20), version=2, length=0xffffffff)), f"inspect {{}} {ARRAY}"),
    ("npy: 10^11 tokens of zeros, no disk", "hole.npy", hole(npy("(100000000000, 1, 2)"), 2 * 10**11), f"inspect {{}} {ARRAY}"),
    ("zip: a member of 10^10 zero bytes", "zeros.npz", archive(("topk_ids.npy", npy("(2500000000, 2, 2)"), 1), ("other.npy", bytes(MIB), 500)),
     f"inspect {{}} {ARRAY}"),
    ("zip: ids of 512 MiB of zeros", "ids.npz", archive(("topk_ids.npy", bytes(MIB), 512)), f"inspect {{}} {ARRAY}"),
    ("zip: a member that claims 4 GiB", "claims.npz", claims(0xfffffff0), f"inspect {{}} {ARRAY}"),
    ("zip: 1,000 members over the same bytes", "overlap.npz", overlapping, f"inspect {{}} {ARRAY}"),
    ("zip: Megatron Core, loads of 512 MiB of zeros", "mcore.npz",
     archive(("dump_version.npy", npy("()", bytes("mcore_ep_load_dump_v1", "utf-32-le"), "<U21"), 1), ("loads.npy", bytes(MIB), 512)),
     "inspect {} --phase train --ids logical"),
    ("gzip: 10^9 zero bytes", "zeros.jsonl.gz", gzipped(b"", bytes(MIB), 1000), "inspect {}"),
    ("gzip: 10^9 bytes of lines", "lines.jsonl.gz", gzipped(META, (LINE + b"1]}\n") * 16384, 1000), "inspect {}"),
    ("gzip: 1,000 members of 10^6 zero bytes", "members.csv.gz", gzipped(b"", bytes(10**6), 1, 1000), "inspect {}"),
    ("gzip: gzip in gzip", "twice.csv.gz", lambda path: path.write_bytes(gzip.compress(gzip.compress(bytes(10**6)))), "inspect {}"),
    ("zstd: a frame of 1 TB of zeros", "zeros.csv.zst", zstd(b"\0", 8 * 10**6), "inspect {}"),
    ("zstd: a frame that says it holds 2^60 bytes", "says.csv.zst", zstd(b"\0", 1000, declared=1 << 60), "inspect {}"),
    ("zstd: a window of 2 TB", "window.csv.zst", zstd(b"\0", 1000, window=41), "inspect {}"),
    ("zstd: a window of 128 MiB, used", "wide.csv.zst", zstd(b"1", 100000), "inspect {}"),
    ("native: tables of 10^12 requests", "requests.mpt",
     raw(b"\x89MPT\r\n\x1a\n" + struct.pack("<IIQQBBBBIIIQQIIQQQI", 1, 0, 264, 128, 1, 2, 1, 0, 2, 4, 2, 10**13, 10**12, 0, 0, 0, 1, 2, 0) + bytes(160)),
     "inspect {}"),
]


def in_child(make, path):
    """Makes the file in a process of its own: what this one has resident counts for the programs that it starts."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            make(path)
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit(f"cannot make {path.name}")


def limit():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 61))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moeplan")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--mib", type=float, default=64e6 / MIB)
    parser.add_argument("--only", default="")
    parser.add_argument("--no-seconds", action="store_true")
    options = parser.parse_args()
    moeplan = os.path.abspath(options.moeplan)
    if os.environ.get("MOEPLAN_BAD_RSS_MIB") == "0":  # sanitizers take far more
        options.mib = 1 << 20
    n = n_bad = 0
    worst_seconds = worst_mib = 0.0
    print(f"{'bomb':50} {'file bytes':>14} {'s':>6} {'MiB':>6}  outcome (asked: refused, < {options.seconds:g} s, < {options.mib:.0f} MiB)")
    with tempfile.TemporaryDirectory(prefix="moeplan-bombs-") as folder:
        table = pathlib.Path(folder) / "table.csv"
        for name, file, make, arguments in BOMBS:
            if options.only not in name:
                continue
            path = pathlib.Path(folder) / file
            in_child(make, path)
            size = path.stat().st_size
            if path.suffix in (".npy", ".npz"):
                table.write_text("request,first_row,tokens\n0,0,1\n")
                arguments += f" --requests {table}" if "mcore" not in file else ""
            start = time.monotonic()
            with tempfile.TemporaryFile() as err:
                # Memory that the allocator was told to fill (meson tells it) would be resident without being used.
                environment = {k: v for k, v in os.environ.items() if k != "MALLOC_PERTURB_"}
                process = subprocess.Popen([moeplan, *arguments.replace("{}", str(path)).split()], stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=err, env=environment, preexec_fn=limit)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = 0
                seconds, mib = time.monotonic() - start, usage.ru_maxrss / 1024
                err.seek(0)
                message = err.read().decode("utf-8", "replace").strip().replace(str(path), file)
            code = os.waitstatus_to_exitcode(status)
            path.unlink()
            problems = [] if code == 3 else [f"EXIT CODE {code}"]
            if mib > options.mib:
                problems.append("TOO MUCH MEMORY")
            if seconds > options.seconds and not options.no_seconds:
                problems.append("TOO LONG")
            n, n_bad = n + 1, n_bad + bool(problems)
            worst_seconds, worst_mib = max(worst_seconds, seconds), max(worst_mib, mib)
            print(f"{name:50} {size:14} {seconds:6.2f} {mib:6.1f}  {' '.join(problems)}{' ' if problems else ''}{message[:150]}", flush=True)
    print(f"{n} bombs, {n_bad} not refused within the limits; longest {worst_seconds:.2f} s (asked: < {options.seconds:g}), "
          f"most memory {worst_mib:.1f} MiB (asked: < {options.mib:.0f})")
    return 1 if n_bad or not n else 0


if __name__ == "__main__":
    sys.exit(main())
