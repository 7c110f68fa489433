"""Reads a traffic matrix (docs/EXPORTS.md, Files): alltoallv_perf's text, CSV or NumPy, told apart by their content."""
import ast
import hashlib
import re
import struct

MAGIC = b"\x93NUMPY"
BLANKS = " \t\v\f"
MOST = 2**53
WHOLE = re.compile(r"[0-9]+\Z")
REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
TYPES = {f"{kind}{size}": kind for kind, sizes in (("i", "1248"), ("u", "1248"), ("f", "48")) for size in sizes}
CODES = {"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f4": "f", "f8": "d"}


class MatrixError(Exception):
    pass


class Matrix:
    """n, cells[i][j], format, sha256 of the file."""


def _whole(text):
    """The amount that a text says, or None."""
    if WHOLE.match(text):
        value = int(text)
    elif REAL.match(text) and float(text).is_integer():
        value = int(float(text))
    else:
        return None
    return value if 0 <= value <= MOST else None


def _rows(path, text, separator):
    is_csv = separator == ","
    may_be_header, out = is_csv, []
    for number, line in enumerate(text.split("\n"), 1):
        line = (line[:-1] if line.endswith("\r") else line).strip(BLANKS)
        if not line or (is_csv and line.startswith("#")):
            continue
        fields = [x.strip(BLANKS) for x in line.split(",")] if is_csv else re.split(f"[{BLANKS}]+", line)
        is_header = may_be_header and fields[0] != "" and line[0] not in "0123456789+-." and _whole(fields[0]) is None
        may_be_header = False
        if is_header:
            continue
        row = [_whole(x) for x in fields]
        if None in row:
            raise MatrixError(f'{path}:{number}: "{fields[row.index(None)][:40]}" is not a whole number in [0, 2^53]')
        out.append(row)
    return out


def _array(path, data):
    try:
        size = struct.unpack_from("<H" if data[6] == 1 else "<I", data, 8)[0]
        start = (10 if data[6] == 1 else 12) + size
        head = ast.literal_eval(data[start - size:start].decode("latin-1").strip())
        kind, shape, is_fortran = head["descr"], head["shape"], head["fortran_order"]
    except (struct.error, IndexError, KeyError, ValueError, SyntaxError, TypeError):
        raise MatrixError(f"{path}: the array's header is damaged") from None
    if not isinstance(kind, str) or kind[1:] not in TYPES or kind[0] not in "<|=" and kind[1:] not in ("i1", "u1"):
        raise MatrixError(f"{path}: {kind} is no type of numbers that is read")
    if len(shape) != 2 or shape[0] != shape[1]:
        raise MatrixError(f"{path}: the array is not square")
    n = shape[0]
    if len(data) - start != n * n * int(kind[2]):
        raise MatrixError(f"{path}: {len(data) - start} bytes follow the header of {n} x {n} {kind}")
    flat = struct.unpack_from(f"<{n * n}{CODES[kind[1:]]}", data, start)
    if any(not 0 <= x <= MOST or x != int(x) for x in flat):
        raise MatrixError(f"{path}: a cell is not a whole number in [0, 2^53]")
    return [[int(flat[j * n + i] if is_fortran else flat[i * n + j]) for j in range(n)] for i in range(n)]


def read(path, usual=None):
    """`usual`: the format where the content does not say."""
    with open(path, "rb") as f:
        data = f.read()
    m = Matrix()
    m.sha256 = hashlib.sha256(data).hexdigest()
    if data.startswith(MAGIC):
        m.format, m.cells = "npy", _array(path, data)
    else:
        text = data.decode("latin-1")
        lines = [line.strip(BLANKS + "\r") for line in text.split("\n")]
        first = next((line for line in lines if line and not line.startswith("#")), "")
        if "," in first and first[0] not in "{[":
            m.format = "csv"
        elif first[:1].isdigit():
            m.format = "nccl-tests"
        elif usual in ("csv", "nccl-tests"):
            m.format = usual
        else:
            raise MatrixError(f"{path}: neither a native trace (write one with moeplan convert) nor a traffic matrix")
        m.cells = _rows(path, text, "," if m.format == "csv" else " ")
    m.n = len(m.cells)
    if m.n < 2 or any(len(row) != m.n for row in m.cells):
        raise MatrixError(f"{path}: not a square of 2 rows or more")
    if sum(map(sum, m.cells)) > MOST:
        raise MatrixError(f"{path}: the cells add up to more than 2^53")
    return m
