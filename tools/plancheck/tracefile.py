"""Reads a native trace (traces/FORMAT.md): header, requests, ids by chunk; counts. Checksums are verified."""
import array
import hashlib
import struct
import sys
import zlib

NONE = 0xFFFFFFFF
CHUNK = 65536


class TraceError(Exception):
    pass


MAGIC = b"\x89MPT\r\n\x1a\n"


def is_trace(path):
    with open(path, "rb") as f:
        return f.read(len(MAGIC)) == MAGIC


class Trace:
    """kind "tokens" or "counts"; rows are read by row(layer, row) -> tuple of expert ids in use."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = data = f.read()
        if data[:8] != MAGIC or len(data) < 128:
            raise TraceError(f"{path}: not a native trace (write one with moeplan convert)")
        (version, flags, size, head) = struct.unpack_from("<IIQQ", data, 8)
        (kind, phase, self.id_bytes) = data[32], data[33], data[34]
        (self.n_layers, self.n_experts, self.top_k) = struct.unpack_from("<III", data, 36)
        (self.n_rows, n_requests, self.n_iterations, self.n_sources, n_pairs, n_chunks, n_strings, n_categories) = struct.unpack_from(
            "<QQIIQQQI", data, 48)
        if version != 1 or size != len(data) or head % 64 != 0 or not 128 <= head <= size:
            raise TraceError(f"{path}: header of version {version} with {head} bytes in a file of {len(data)}, said to have {size}")
        stored = struct.unpack_from("<I", data, 124)[0]
        if zlib.crc32(data[:124] + b"\0\0\0\0" + data[128:head]) != stored:
            raise TraceError(f"{path}: the header's checksum is wrong")
        self.sha256 = hashlib.sha256(data[:head]).hexdigest()
        self.kind = {1: "tokens", 2: "counts"}.get(kind)
        if self.kind is None:
            raise TraceError(f"{path}: kind {kind}")
        self.phase = phase
        self.is_synthetic, self.is_time_ordered = bool(flags & 1), bool(flags & 4)
        self.source_known = bool(flags & 16)
        at = 128
        self.layer_ids = list(struct.unpack_from(f"<{self.n_layers}I", data, at))
        at += (self.n_layers * 4 + 7) // 8 * 8
        self.iteration_category = None
        if flags & 32:
            self.iteration_category = list(struct.unpack_from(f"<{self.n_iterations}I", data, at))
            at += (self.n_iterations * 4 + 7) // 8 * 8
        # (id, first row, rows, first position, source, category)
        self.requests = list(struct.iter_unpack("<QQQQII", data[at:at + 40 * n_requests]))
        at += 40 * n_requests
        self.chunks = []
        for i in range(n_chunks):
            (offset, length, crc, zero) = struct.unpack_from("<QQII", data, at + 24 * i)
            if zero != 0 or offset + length > size or zlib.crc32(data[offset:offset + length]) != crc:
                raise TraceError(f"{path}: chunk {i} is damaged")
            self.chunks.append(offset)
        names = data[at + 24 * n_chunks:at + 24 * n_chunks + n_strings].split(b"\0")
        self.model, self.format = names[0].decode(), names[1].decode()
        self.categories = [n.decode() for n in names[2:2 + n_categories]]
        self.unused = 255 if self.id_bytes == 1 else 65535
        self.counts = None
        if self.kind == "counts":
            n = self.n_iterations * self.n_sources * self.n_layers * self.n_experts
            self.counts = array.array("Q")
            self.counts.frombytes(data[self.chunks[0]:self.chunks[0] + 8 * n])
            if sys.byteorder != "little":
                self.counts.byteswap()

    def row(self, layer, row):
        chunk, at = divmod(row, CHUNK)
        rows = min(CHUNK, self.n_rows - chunk * CHUNK)
        start = self.chunks[chunk] + (layer * rows + at) * self.top_k * self.id_bytes
        raw = self.data[start:start + self.top_k * self.id_bytes]
        ids = raw if self.id_bytes == 1 else struct.unpack(f"<{self.top_k}H", raw)
        return [e for e in ids if e < self.n_experts]

    def count(self, iteration, source, layer, expert):
        return self.counts[((iteration * self.n_sources + source) * self.n_layers + layer) * self.n_experts + expert]
