#!/usr/bin/env python3
"""Writes the bad path tables of this folder. Same bytes every time (with one zlib)."""
import pathlib
import struct
import zlib

HERE = pathlib.Path(__file__).parent
LAYERS, EXPERTS, TOP_K, LENGTH = 24, 32, 4, 1  # as traces/samples/decode.mpt


def tables(layers=LAYERS, experts=EXPERTS, top_k=TOP_K, length=LENGTH, places=3, entry_bytes=1, ids=None, popularity=2560, hint=0, raw_bytes=None,
           version=1, payload=None, magic=b"\x89MPP\r\n\x1a\n"):
    n_hints = sum(min(l, length) for l in range(layers)) * experts * experts
    raw = struct.pack("<H", popularity) * (layers * experts) + struct.pack("<b" if entry_bytes == 1 else "<h", hint) * n_hints
    packed = zlib.compress(raw, 9) if payload is None else payload
    ids = list(range(layers)) if ids is None else ids
    head = bytearray(128 + 4 * layers)
    struct.pack_into("<8sIIQIIIIQQQI", head, 0, magic, version, places, len(head) + len(packed), layers, experts, top_k, length, 1000, 0,
                     len(raw) if raw_bytes is None else raw_bytes, entry_bytes)
    struct.pack_into(f"<{layers}I", head, 128, *ids)
    struct.pack_into("<I", head, 120, zlib.crc32(packed))
    struct.pack_into("<I", head, 124, zlib.crc32(bytes(head)))
    return bytes(head) + packed


good = tables()
flipped = bytearray(good)
flipped[30] ^= 1
payload = bytearray(good)
payload[-1] ^= 1
FILES = {
    "text.paths": b"popularity of experts, by layer\n",
    "text-mode.paths": good.replace(b"\r\n", b"\n"),
    "header-cut.paths": good[:100],
    "cut.paths": good[:-7],
    "trailing.paths": good + b"\0",
    "version.paths": tables(version=2),
    "header-bit.paths": bytes(flipped),
    "entries-bit.paths": bytes(payload),
    "no-layers.paths": tables(layers=0),
    "layers-past-file.paths": good[:24] + struct.pack("<I", 1024) + good[28:],
    "layers-hostile.paths": good[:24] + struct.pack("<I", 0xFFFFFFFF) + good[28:],
    "experts-hostile.paths": tables(experts=1, top_k=1)[:28] + struct.pack("<I", 4097) + tables(experts=1, top_k=1)[32:],
    "top-k.paths": tables(experts=2, top_k=3),
    "length.paths": tables(layers=4, length=4),
    "places.paths": tables(places=9),
    "entry-bytes.paths": tables(entry_bytes=2)[:64] + struct.pack("<I", 4) + tables(entry_bytes=2)[68:],
    "size-lie.paths": tables(raw_bytes=1),
    "ids-twice.paths": tables(ids=[0, 1, 1, *range(3, LAYERS)]),
    "ids-high.paths": tables(ids=[*range(LAYERS - 1), 1024]),
    "not-packed.paths": tables(payload=b"\x00" * 200),
    "packed-short.paths": tables(payload=zlib.compress(b"\0" * 100)),
    "packed-larger.paths": tables(payload=b"\0" * 27000),
    "packed-more.paths": tables(payload=zlib.compress(b"\0" * 100000)),
    "packed-trailing.paths": tables(payload=zlib.compress(struct.pack("<H", 2560) * (LAYERS * EXPERTS) + bytes((LAYERS - 1) * EXPERTS ** 2)) + b"more"),
    "popularity.paths": tables(popularity=65535),
    "hint.paths": tables(places=0, hint=65),
    "other-experts.paths": tables(experts=64),
    "other-layers.paths": tables(layers=23),
    "other-top-k.paths": tables(top_k=2),
    "other-ids.paths": tables(ids=range(1, LAYERS + 1)),
}


def seal(data):
    """The header's checksum right again: what is behind it is what is wrong."""
    data = bytearray(data)
    layers = struct.unpack_from("<I", data, 24)[0]
    struct.pack_into("<I", data, 124, 0)
    struct.pack_into("<I", data, 124, zlib.crc32(bytes(data[:128 + 4 * layers])))
    return bytes(data)


for name in ("experts-hostile.paths", "entry-bytes.paths"):
    FILES[name] = seal(FILES[name])


def bomb():
    """Entries of 350 MB by the shape, from a hundred bytes."""
    data = bytearray(tables(layers=7, experts=64, top_k=1, length=6, payload=b"\0" * 100))
    struct.pack_into("<I", data, 28, 4096)
    struct.pack_into("<Q", data, 56, 2 * 7 * 4096 + 21 * 4096 * 4096)
    return seal(data)


FILES["bomb.paths"] = bomb()
for name, data in FILES.items():
    (HERE / name).write_bytes(data)
