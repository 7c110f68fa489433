#!/usr/bin/env python3
"""Reads native recordings from traces/FORMAT.md alone, standard library only, and compares the toy sample with the lines it was made from.
usage: check_format.py SAMPLES_FOLDER"""
import hashlib
import json
import pathlib
import struct
import sys
import zlib

NONE = 0xFFFFFFFF


def read_native(path):
    data = path.read_bytes()
    magic, version, flags, file_bytes, header_bytes, kind, phase, id_bytes, zero, n_layers, n_experts, top_k = struct.unpack_from("<8sIIQQBBBBIII", data)
    n_rows, n_requests, n_iterations, n_sources, n_pairs, n_chunks, strings_bytes, n_categories = struct.unpack_from("<QQIIQQQI", data, 48)
    assert magic == b"\x89MPT\r\n\x1a\n" and version == 1 and file_bytes == len(data) and zero == 0 and header_bytes % 64 == 0
    header = bytearray(data[:header_bytes])
    crc, = struct.unpack_from("<I", header, 124)
    header[124:128] = bytes(4)
    assert zlib.crc32(bytes(header)) == crc and not any(header[100:124])
    at = 128
    layer_ids = struct.unpack_from(f"<{n_layers}I", data, at)
    at += (n_layers * 4 + 7) // 8 * 8
    if flags & 32:
        at += (n_iterations * 4 + 7) // 8 * 8
    requests = [struct.unpack_from("<QQQQII", data, at + 40 * i) for i in range(n_requests)]
    at += 40 * n_requests
    chunks, end = [], header_bytes
    for i in range(n_chunks):
        offset, size, chunk_crc, reserved = struct.unpack_from("<QQII", data, at + 24 * i)
        assert offset == (end + 63) // 64 * 64 and not any(data[end:offset]) and reserved == 0
        assert zlib.crc32(data[offset:offset + size]) == chunk_crc
        chunks.append(data[offset:offset + size])
        end = offset + size
    assert end == len(data)
    at += 24 * n_chunks
    names = data[at:at + strings_bytes].split(b"\0")
    assert names.pop() == b"" and len(names) == 2 + n_categories and (at + strings_bytes + 63) // 64 * 64 == header_bytes
    assert kind == 1 and n_iterations == n_sources == n_pairs == 0
    n_id_chunks = (n_rows + 65535) // 65536
    ids, weights, signatures = [], [], []
    n_kinds = 1 + (flags >> 3 & 1) + (flags >> 6 & 1)
    for row in range(n_rows):
        c, inside = divmod(row, 65536)
        rows = min(65536, n_rows - c * 65536)
        place = [((layer * rows + inside) * top_k) for layer in range(n_layers)]
        form = "B" if id_bytes == 1 else "H"
        ids.append([struct.unpack_from(f"<{top_k}{form}", chunks[c], p * id_bytes) for p in place])
        if flags & 8:
            weights.append([struct.unpack_from(f"<{top_k}H", chunks[n_id_chunks + c], p * 2) for p in place])
        if flags & 64:
            place = [((layer * rows + inside) * 8) for layer in range(n_layers)]
            signatures.append([struct.unpack_from("<Q", chunks[n_id_chunks * (n_kinds - 1) + c], p)[0] for p in place])
    assert len(chunks) == n_id_chunks * n_kinds
    return dict(flags=flags, phase=phase, layer_ids=layer_ids, n_experts=n_experts, top_k=top_k, requests=requests, ids=ids, weights=weights, signatures=signatures,
                names=[n.decode() for n in names], sha256=hashlib.sha256(data[:header_bytes]).hexdigest())


def main():
    folder = pathlib.Path(sys.argv[1])
    toy = read_native(folder / "lines.mpt")
    lines = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
    about, lines = lines[0], lines[1:]
    assert toy["names"][:2] == [about["model"], ""] and toy["phase"] == 2 and toy["n_experts"] == about["n_experts"]
    assert toy["flags"] == 1 + 2 + 4 + 8 and toy["layer_ids"] == (about["layer_base"], about["layer_base"] + 1)
    seen = 0
    for request, first_row, n_rows, first_position, source, category in toy["requests"]:
        for i in range(n_rows):
            for layer in range(2):
                line, = [x for x in lines if (x["request"], x["position"], x["layer"]) == (request, first_position + i, layer)]
                assert list(toy["ids"][first_row + i][layer]) == line["experts"], line
                assert list(toy["weights"][first_row + i][layer]) == [int(w * 65535 + 0.5) for w in line["weights"]], line
                assert toy["names"][2 + category] == line["category"] and source == NONE
                seen += 1
    assert seen == len(lines)
    for path in sorted(folder.glob("*.mpt")):
        t = read_native(path)
        row = 0
        for _, first_row, n_rows, *_ in t["requests"]:
            assert first_row == row and n_rows > 0
            row += n_rows
        assert row == len(t["ids"]) > 0, path
        assert all(len(set(experts)) == t["top_k"] and max(experts) < t["n_experts"] for token in t["ids"] for experts in token), path
    print("the samples read as traces/FORMAT.md says")


main()
