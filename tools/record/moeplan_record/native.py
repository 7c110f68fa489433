"""Writes moeplan's native trace format (traces/FORMAT.md, section 1) with the standard library alone.

Rows come in blocks of one request; requests may grow side by side. Blocks go to an unnamed file beside the output as they fill and
are put into chunks when the recording is closed, so that memory is one chunk and a little per request, whatever the length of the
recording. The file appears under its name at once, complete, or not at all.
"""
import array
import hashlib
import os
import struct
import sys
import tempfile
import zlib

from .errors import RecordError

MAGIC = b"\x89MPT\r\n\x1a\n"
CHUNK_ROWS = 65536
ALIGN = 64
NONE = 0xFFFFFFFF
PHASES = {"unknown": 0, "prefill": 1, "decode": 2, "train": 3, "mixed": 4}
MAX_LAYERS, MAX_EXPERTS, MAX_TOP_K, MAX_SOURCES, MAX_NAME = 1024, 4096, 64, 4096, 128
RANKED, TIME_ORDERED, WEIGHTS = 2, 4, 8
# Rows of one request that wait in memory to become one block of the unnamed file, and bytes of all requests together.
BLOCK_ROWS = 256
WAITING_BYTES = 16 << 20
if sys.byteorder != "little":
    raise ImportError("moeplan_record writes little-endian arrays as they lie in memory: run it on a little-endian machine")


def check_name(name, what):
    """UTF-8 of at most 128 bytes without control characters, as readers want it."""
    raw = name.encode("utf-8")
    if len(raw) > MAX_NAME or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise RecordError(f"{what} {name[:40]!r} is not text of at most {MAX_NAME} bytes without control characters")
    return raw


def pad(n, to):
    return (n + to - 1) // to * to


class _Request:
    """One request: what waits, and where its blocks lie."""
    __slots__ = ("id", "first_position", "category", "source", "n_rows", "pieces", "n_waiting", "extents")

    def __init__(self, id_, first_position, category, source):
        self.id, self.first_position, self.category, self.source = id_, first_position, category, source
        self.n_rows, self.pieces, self.n_waiting = 0, [], 0
        self.extents = array.array("Q")  # offset, rows, offset, rows, ...


class TraceWriter:
    """One recording of tokens.

    path        where the file appears on close()
    layer_ids   absolute layer indexes, ascending
    n_experts   experts of a layer; ids are below it
    top_k       places of a token's list; unused ones hold `unused` and stand last
    phase       "prefill", "decode", "train", "mixed" or "unknown"
    is_ranked   the ids of a list stand by falling gate weight
    weights     gate weights are given too
    """

    def __init__(self, path, layer_ids, n_experts, top_k, phase, model="", is_ranked=False, weights=False):
        layer_ids = list(layer_ids)
        if not 1 <= len(layer_ids) <= MAX_LAYERS or layer_ids != sorted(set(layer_ids)) or not 0 <= layer_ids[0] <= layer_ids[-1] < MAX_LAYERS:
            raise RecordError(f"layers {layer_ids} are not 1 to {MAX_LAYERS} ascending indexes below {MAX_LAYERS}")
        if not 1 <= n_experts <= MAX_EXPERTS or not 1 <= top_k <= min(MAX_TOP_K, n_experts):
            raise RecordError(f"top-{top_k} of {n_experts} experts is not possible (at most {MAX_TOP_K} of {MAX_EXPERTS})")
        self.path, self.layer_ids, self.n_experts, self.top_k = os.fspath(path), layer_ids, n_experts, top_k
        self.phase, self.is_ranked, self.has_weights = PHASES[phase], bool(is_ranked), bool(weights)
        self.model = check_name(model, "the model's name")
        # 256 experts fit one byte if no place is unused, which is known at the end.
        self.id_bytes = 1 if n_experts <= 255 else 2
        self.unused = 0xFF if self.id_bytes == 1 else 0xFFFF
        self._any_unused = False
        self._in_range = bytes(range(min(n_experts, 256)))
        self.n_rows, self._waiting_bytes, self._spool_bytes = 0, 0, 0
        self._requests, self._open, self._categories = [], {}, {}
        self._cells = len(layer_ids) * top_k
        self._row_bytes = self._cells * (self.id_bytes + (2 if weights else 0))
        # Without a name: the kernel removes it whatever ends this process.
        self._spool = tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(self.path)))

    @property
    def n_requests(self):
        return sum(r.n_rows > 0 for r in self._requests)

    def request(self, id_, first_position=0, category=None, source=None):
        """Starts a request; requests stand in the file in the order of their first row's request() call. Returns its handle."""
        if not 0 <= id_ < 1 << 64:
            raise RecordError(f"request {id_} is not a number of 64 bits")
        if source is not None and not 0 <= source < MAX_SOURCES:
            raise RecordError(f"source rank {source} is not below {MAX_SOURCES}")
        if category is not None and category not in self._categories:
            if not check_name(category, "category"):
                category = None
            else:
                self._categories[category] = len(self._categories)
        r = _Request(id_, first_position, NONE if category is None else self._categories[category], NONE if source is None else source)
        self._requests.append(r)
        return r

    def add(self, r, n_rows, ids, weights=None):
        """n_rows more rows of a request: ids[n_layers][n_rows][top_k], id_bytes each, as bytes; weights in the same shape, u16 each."""
        n_weights = n_rows * self._cells if self.has_weights else 0
        if len(ids) != n_rows * self._cells * self.id_bytes or len(weights or b"") != 2 * n_weights:
            raise RecordError(f"{len(ids)} bytes of ids are not those of {n_rows} rows of {len(self.layer_ids)} layers and top-{self.top_k}")
        self._check(ids)
        r.pieces.append((n_rows, bytes(ids), bytes(weights) if self.has_weights else b""))
        r.n_waiting += n_rows
        r.n_rows += n_rows
        self.n_rows += n_rows
        self._waiting_bytes += n_rows * self._row_bytes
        if r.n_waiting >= BLOCK_ROWS:
            self._flush(r)
        else:
            self._open[id(r)] = r
        if self._waiting_bytes > WAITING_BYTES:
            for waiting in list(self._open.values()):
                self._flush(waiting)

    def add_lists(self, r, rows, weights=None):
        """The same from plain lists: rows[row][layer] is a list of at most top_k expert ids, weights likewise with numbers in [0, 1]."""
        n = len(rows)
        ids = array.array("B" if self.id_bytes == 1 else "H", bytes([0xFF]) * (n * self._cells * self.id_bytes))
        scaled = array.array("H", bytes(n * self._cells * 2)) if self.has_weights else None
        for row, layers in enumerate(rows):
            for l, experts in enumerate(layers):
                if len(set(experts)) != len(experts) or any(not 0 <= e < self.n_experts for e in experts) or len(experts) > self.top_k:
                    raise RecordError(f"row {row}, layer {self.layer_ids[l]}: {experts} is not a list of at most {self.top_k} different "
                                      f"experts below {self.n_experts}")
                at = (l * n + row) * self.top_k
                for i, e in enumerate(experts):
                    ids[at + i] = e
                    if scaled is not None:
                        scaled[at + i] = int(weights[row][l][i] * 65535.0 + 0.5)
        self.add(r, n, ids.tobytes(), scaled.tobytes() if scaled is not None else None)

    def _check(self, ids):
        """Every id is an expert or an unused place. That a list's ids differ is for the caller; readers check all of it again."""
        if self.id_bytes == 1:
            others = ids.translate(None, self._in_range)
            if not others:
                return
            self._any_unused = True
            bad = others.strip(b"\xff")
            if not bad:
                return
            worst = bad[0]
        else:
            values = set(memoryview(ids).cast("H"))
            self._any_unused = self._any_unused or self.unused in values
            values.discard(self.unused)
            worst = max(values, default=0)
            if worst < self.n_experts:
                return
        raise RecordError(f"id {worst} is not an expert in [0, {self.n_experts})")

    def _flush(self, r):
        """Joins the pieces of a request to one block, layer by layer, and appends it to the unnamed file."""
        self._open.pop(id(r), None)
        if not r.pieces:
            return
        n = r.n_waiting
        if len(r.pieces) == 1:
            block = r.pieces[0][1] + r.pieces[0][2]
        else:
            parts = []
            for which, size in ((1, self.id_bytes), (2, 2)) if self.has_weights else ((1, self.id_bytes),):
                line = self.top_k * size
                for l in range(len(self.layer_ids)):
                    parts.extend(piece[which][l * piece[0] * line:(l + 1) * piece[0] * line] for piece in r.pieces)
            block = b"".join(parts)
        self._spool.write(block)
        r.extents.extend((self._spool_bytes, n))
        self._spool_bytes += len(block)
        self._waiting_bytes -= len(block)
        r.pieces, r.n_waiting = [], 0

    def _pieces(self):
        """(offset, rows of the block, first row, rows taken) of all rows in file order, cut at chunk borders; one list per chunk."""
        chunk, room = [], CHUNK_ROWS
        for r in self._requests:
            for i in range(0, len(r.extents), 2):
                offset, rows = r.extents[i], r.extents[i + 1]
                at = 0
                while at < rows:
                    taken = min(room, rows - at)
                    chunk.append((offset, rows, at, taken))
                    at += taken
                    room -= taken
                    if room == 0:
                        yield chunk
                        chunk, room = [], CHUNK_ROWS
        if chunk:
            yield chunk

    def _chunk(self, pieces, skip, size):
        """One chunk: ids (skip 0) or weights (skip = bytes of a row's ids), size bytes per place. The block's layers are cut apart."""
        n_rows = sum(p[3] for p in pieces)
        line = self.top_k * size
        out = bytearray(n_rows * len(self.layer_ids) * line)
        row = 0
        for offset, rows, first, taken in pieces:
            length = rows * len(self.layer_ids) * line
            block = os.pread(self._spool.fileno(), length, offset + rows * skip)
            if len(block) != length:
                raise RecordError(f"{self.path}: the unnamed file of {self._spool_bytes} bytes ends early (is the disk full?)")
            for l in range(len(self.layer_ids)):
                start, to = (l * rows + first) * line, (l * n_rows + row) * line
                out[to:to + taken * line] = block[start:start + taken * line]
            row += taken
        return out

    def close(self, report=None):
        """Writes the file and puts it in place. Returns its sha256, the one moeplan prints, or None when no row was recorded (no file)."""
        for r in list(self._open.values()):
            self._flush(r)
        self._requests = [r for r in self._requests if r.n_rows > 0]
        if not self._requests:
            self.discard()
            return None
        self._spool.flush()
        narrow = self.id_bytes == 2 and self.n_experts == 256 and not self._any_unused
        id_bytes = 1 if narrow else self.id_bytes
        # Categories in order of first appearance in the file; those of requests without rows are not listed.
        names, used = list(self._categories), {}
        for r in self._requests:
            if r.category != NONE:
                used.setdefault(r.category, len(used))
        categories = [names[c] for c in used]
        n_id_chunks = (self.n_rows + CHUNK_ROWS - 1) // CHUNK_ROWS
        n_chunks = n_id_chunks * (2 if self.has_weights else 1)
        strings = b"".join(name + b"\0" for name in [self.model, b""] + [c.encode() for c in categories])
        layers = struct.pack(f"<{len(self.layer_ids)}I", *self.layer_ids)
        layers += bytes(pad(len(layers), 8) - len(layers))
        header_bytes = pad(128 + len(layers) + 40 * len(self._requests) + 24 * n_chunks + len(strings), ALIGN)
        folder, name = os.path.split(os.path.abspath(self.path))
        descriptor, part = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as f:
                f.write(bytes(header_bytes))
                entries, at = bytearray(), header_bytes
                for which in ("ids", "weights") if self.has_weights else ("ids",):
                    for pieces in self._pieces():
                        if which == "ids":
                            data = self._chunk(pieces, 0, self.id_bytes)
                            data = data[0::2] if narrow else data
                        else:
                            data = self._chunk(pieces, self._cells * self.id_bytes, 2)
                        f.write(bytes(pad(at, ALIGN) - at))
                        at = pad(at, ALIGN)
                        entries += struct.pack("<QQII", at, len(data), zlib.crc32(data), 0)
                        f.write(data)
                        at += len(data)
                        del data  # one chunk at a time
                        if report is not None:
                            report(len(entries) // 24, n_chunks)
                flags = TIME_ORDERED | (RANKED if self.is_ranked else 0) | (WEIGHTS if self.has_weights else 0)
                head = bytearray(MAGIC + struct.pack("<IIQQBBBBIIIQQIIQQQI", 1, flags, at, header_bytes, 1, self.phase, id_bytes, 0,
                                                     len(self.layer_ids), self.n_experts, self.top_k, self.n_rows, len(self._requests), 0, 0, 0,
                                                     n_chunks, len(strings), len(categories)))
                head += bytes(128 - len(head)) + layers
                row = 0
                for r in self._requests:
                    category = NONE if r.category == NONE else used[r.category]
                    head += struct.pack("<QQQQII", r.id, row, r.n_rows, r.first_position, r.source, category)
                    row += r.n_rows
                head += entries + strings
                head += bytes(header_bytes - len(head))
                struct.pack_into("<I", head, 124, zlib.crc32(head))
                f.seek(0)
                f.write(head)
                f.flush()
                os.fsync(f.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(part, 0o666 & ~mask)
            os.replace(part, self.path)
        except BaseException:
            if os.path.exists(part):
                os.unlink(part)
            raise
        self.discard()
        return hashlib.sha256(head).hexdigest()

    def discard(self):
        """Forgets everything; no file."""
        self._spool.close()
        self._requests, self._open = [], {}
