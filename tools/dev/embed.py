#!/usr/bin/env python3
"""Turns text files into a C table, so that presets and pages travel inside the library.

usage: embed.py OUT.c SYMBOL [--plain] FILE...
Each entry is {name, summary, text, length}: name is the file's stem, summary the value of its top-level `summary:` line. Sorted by name.
--plain: any files; name is the file's whole name, and there is no summary.
"""
import pathlib
import re
import sys


def c_string(data: bytes) -> str:
    out = []
    for byte in data:
        if byte in (0x22, 0x5C):
            out.append("\\" + chr(byte))
        elif 0x20 <= byte < 0x7F:
            out.append(chr(byte))
        else:
            out.append("\\%03o" % byte)
    return '"' + "".join(out) + '"'


def main() -> int:
    out, symbol, *files = sys.argv[1:]
    is_plain = files[0] == "--plain"
    files = files[1:] if is_plain else files
    lines = ["/* Made by tools/dev/embed.py from the files named below; change those. */",
             "#include <moeplan/embedded.h>", ""]
    entries = []
    for path in sorted((pathlib.Path(f) for f in files), key=lambda p: p.stem):
        data = path.read_bytes()
        if is_plain:
            lines.append("static const char text_%d[] = {%s};" % (len(entries), ",".join("%d" % (b - 256 * (b > 127)) for b in data + b"\0")))
            entries.append("    {%s, \"\", text_%d, %d}," % (c_string(path.name.encode()), len(entries), len(data)))
            continue
        summary = re.search(rb'^summary: *"?(.*?)"? *$', data, re.M)
        if summary is None:
            print(f"{path}: no top-level summary: line", file=sys.stderr)
            return 1
        pieces = "\n".join("        " + c_string(line) for line in data.splitlines(keepends=True))
        entries.append("    {%s, %s,\n%s,\n        %d},"
                       % (c_string(path.stem.encode()), c_string(summary.group(1)), pieces, len(data)))
    lines.append("const struct mp_embedded %s[] = {" % symbol)
    lines += entries
    lines += ["    {NULL, NULL, NULL, 0},", "};", ""]
    pathlib.Path(out).write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
