"""Paths, checks and the second reader of native traces, for the tests of tools/record."""
import os
import subprocess
import sys

SKIP = 77
SOURCE = os.environ.get("MOEPLAN_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(SOURCE, "tools", "record"))
sys.path.insert(0, os.path.join(SOURCE, "tools", "plancheck"))

from tracefile import Trace  # noqa: E402

failures = []


def check(condition, text):
    if not condition:
        failures.append(text)
        print(f"FAIL {text}")
    return condition


def raises(kind, part, call):
    """The call is refused with a sentence that has this part."""
    try:
        call()
    except kind as error:
        return check(part in str(error), f"{part!r} in {str(error)!r}")
    return check(False, f"refused, saying {part!r}")


class Moeplan:
    def __init__(self, path):
        self.path = os.path.abspath(path)

    def run(self, *arguments, rc=0):
        done = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True, check=False)
        check(done.returncode == rc, f"moeplan {' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def facts(self, path):
        """What inspect says of a recording: {fact: value}."""
        lines = self.run("inspect", path).splitlines()
        return {name.strip(): value.strip() for name, _, value in (line.partition("  ") for line in lines[2:]) if value}


def rows_of(trace, request):
    """rows[row][layer] of the request with this number, as tuples of ids."""
    first, n = next((r[1], r[2]) for r in trace.requests if r[0] == request)
    return [[tuple(trace.row(layer, row)) for layer in range(trace.n_layers)] for row in range(first, first + n)]


def weights_of(trace, layer, row):
    """The stored weights of a list: chunks of weights stand behind those of ids."""
    import struct
    n_id_chunks = len(trace.chunks) // 2
    chunk, at = divmod(row, 65536)
    n = min(65536, trace.n_rows - chunk * 65536)
    return struct.unpack_from(f"<{trace.top_k}H", trace.data, trace.chunks[n_id_chunks + chunk] + (layer * n + at) * trace.top_k * 2)


def nothing_left(folder, wanted):
    """The folder holds these files and no other."""
    left = sorted(os.listdir(folder))
    return check(left == sorted(wanted), f"files {left} are {sorted(wanted)}")


def done():
    print(f"{len(failures)} failures")
    return 1 if failures else 0


__all__ = ["SKIP", "SOURCE", "Trace", "Moeplan", "check", "raises", "rows_of", "weights_of", "nothing_left", "done"]
