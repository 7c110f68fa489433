#!/usr/bin/env python3
"""Writes the broken NumPy arrays of this folder."""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent


def npy(name, descr, shape, data, order="False", version=1):
    head = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    (HERE / name).write_bytes(b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(head)) + head + data)


npy("flat.npy", "'<u8'", "(4,)", struct.pack("<4Q", 0, 1, 2, 0))
npy("not-square.npy", "'<u8'", "(1, 2)", struct.pack("<2Q", 0, 1))
npy("cube.npy", "'<u1'", "(2, 2, 2)", bytes(8))
npy("cut.npy", "'<u8'", "(2, 2)", struct.pack("<3Q", 0, 1, 2))
npy("longer.npy", "'<u1'", "(2, 2)", bytes(5))
npy("negative.npy", "'<i8'", "(2, 2)", struct.pack("<4q", 0, 1, -2, 0))
npy("fraction.npy", "'<f8'", "(2, 2)", struct.pack("<4d", 0, 1, 2.5, 0))
npy("nan.npy", "'<f4'", "(2, 2)", struct.pack("<4f", 0, float("nan"), 2, 0), order="True")
npy("infinite.npy", "'<f8'", "(2, 2)", struct.pack("<4d", 0, float("inf"), 2, 0))
npy("half.npy", "'<f2'", "(2, 2)", bytes(8))
npy("complex.npy", "'<c16'", "(2, 2)", bytes(64))
npy("big-endian.npy", "'>u8'", "(2, 2)", bytes(32))
npy("object.npy", "'|O'", "(2, 2)", bytes(32))
npy("bomb.npy", "'<u8'", "(4000000000, 4000000000)", b"")
npy("too-wide.npy", "'|u1'", "(4097, 4097)", b"")
npy("version-9.npy", "'<u8'", "(2, 2)", bytes(32), version=9)
