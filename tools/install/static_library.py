#!/usr/bin/env python3
"""Makes one static library of many: its global symbols are those that the shared one exports, so that a program may have functions called
`match` or `net_cut` of its own. (In a plain archive what is hidden is hidden from other shared objects only.)

usage: static_library.py OUT.a OBJCOPY AR COMPILER... -- LIBRARY.a...
"""
import os
import subprocess
import sys


def main(args):
    at = args.index("--")
    (out, objcopy, ar, *compiler), libraries = args[:at], args[at + 1:]
    whole = out.removesuffix(".a") + ".o"
    subprocess.run([*compiler, "-r", "-nostdlib", "-Wl,--whole-archive", *libraries, "-Wl,--no-whole-archive", "-o", whole], check=True)
    subprocess.run([objcopy, "--localize-hidden", whole], check=True)
    if os.path.exists(out):
        os.unlink(out)
    subprocess.run([ar, "rcsD", out, whole], check=True)
    os.unlink(whole)


if __name__ == "__main__":
    main(sys.argv[1:])
