#!/usr/bin/env python3
"""Writes the binary bad placements of this folder: omni-infer patterns. Same bytes every time."""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent


def npy(shape, cells, descr="<i4", order="False", item="i", version=b"\1\0"):
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode() + struct.pack(f"<{len(cells)}{item}", *cells)


FILES = {
    "omni-cell-2.npy": npy("(2, 1, 2)", (1, 0, 0, 2)),
    "omni-float.npy": npy("(2, 1, 2)", (1, 0, 0, 1), "<f4", item="f"),
    "omni-fortran.npy": npy("(2, 1, 2)", (1, 0, 0, 1), order="True"),
    "omni-flat.npy": npy("(4,)", (1, 0, 0, 1)),
    "omni-cut.npy": npy("(2, 1, 2)", (1, 0, 0)),
    "omni-expert-missing.npy": npy("(2, 1, 2)", (1, 0, 1, 0)),
    "omni-shape-bomb.npy": npy("(9999999999, 9999999999, 2)", (1, 0, 0, 1)),
    "omni-empty-layer.npy": npy("(2, 1, 2)", (0, 0, 0, 0)),
}

if __name__ == "__main__":
    for name, data in FILES.items():
        (HERE / name).write_bytes(data)
