#!/usr/bin/env python3
"""Writes the binary files of this folder anew."""
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent


def npy(shape, values):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }" % (shape,)
    return b"\x93NUMPY\x01\x00\x76\x00" + header.encode().ljust(117) + b"\n" + struct.pack("<%dd" % len(values), *values)


def main():
    square = npy((2, 2), [0, 370, 370, 0])
    (HERE / "matrix-unit-not-in-the-name.npy").write_bytes(square)
    (HERE / "matrix-cut.GBps.npy").write_bytes(square[:-5])
    (HERE / "matrix-not-square.GBps.npy").write_bytes(npy((2, 3), [0, 370, 370, 0, 1, 1]))


if __name__ == "__main__":
    main()
