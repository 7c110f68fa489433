#!/usr/bin/env python3
"""Writes the broken recordings of this folder. Each file is one real mistake. The native files are written from traces/FORMAT.md alone (struct and
zlib), so this is a second writer of the format too. usage: make.py [FOLDER]"""
import io
import pathlib
import struct
import sys
import zipfile
import zlib

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
NONE = 0xFFFFFFFF


def write(name, data):
    (OUT / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def native(rows=None, layer_ids=(0, 1), experts=4, requests=None, categories=(), flags=4, model="toy", edit=None):
    """A TOKENS recording: rows[token][layer] is a list of ids. edit(header) may change the header before its checksum is made."""
    rows = rows or [[[0, 1], [2, 3]], [[1, 2], [3, 0]], [[2, 0], [1, 3]]]
    requests = requests or [(7, 0, len(rows), 0, NONE, NONE)]
    k = len(rows[0][0])
    chunk = bytes(e for layer in range(len(layer_ids)) for row in rows for e in row[layer])
    strings = b"".join(s.encode() + b"\0" for s in (model, "make.py", *categories))
    layers = struct.pack(f"<{len(layer_ids)}I", *layer_ids).ljust((len(layer_ids) * 4 + 7) // 8 * 8, b"\0")
    table = b"".join(struct.pack("<QQQQII", *r) for r in requests)
    header_bytes = (128 + len(layers) + len(table) + 24 + len(strings) + 63) // 64 * 64
    entry = struct.pack("<QQII", header_bytes, len(chunk), zlib.crc32(chunk), 0)
    fixed = b"\x89MPT\r\n\x1a\n" + struct.pack("<IIQQBBBBIIIQQIIQQQI", 1, flags, header_bytes + len(chunk), header_bytes, 1, 2, 1, 0, len(layer_ids), experts, k,
                                                len(rows), len(requests), 0, 0, 0, 1, len(strings), len(categories))
    header = bytearray((fixed.ljust(128, b"\0") + layers + table + entry + strings).ljust(header_bytes, b"\0"))
    if edit:
        edit(header)
    header[124:128] = struct.pack("<I", zlib.crc32(bytes(header)))
    return bytes(header) + chunk


def put(at, fmt, value):
    return lambda header: struct.pack_into(fmt, header, at, value)


def npy(data, descr="|u1", shape="(5, 2, 2)", order="False", version=1):
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text = text + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + data


def npz(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, method)
    return buffer.getvalue()


IDS = bytes([0, 1, 2, 3, 1, 2, 3, 0, 2, 1, 0, 3, 3, 2, 1, 0, 0, 3, 2, 1])
TABLE = "request,first_row,tokens\n0,0,2\n1,2,3\n"


def array(name, data, table=TABLE):
    """An array and its requests table. Where the table is what is wrong the array has no ending, so that its path is the start of the table's."""
    write(name, data)
    if table is not None:
        write(name.split(".")[0] + ".requests.csv", table)


def natives():
    good = native()
    write("native-cut.mpt", good[:-5])
    write("native-text-mode.mpt", good.replace(b"\r\n", b"\n"))
    write("native-version.mpt", native(edit=put(8, "<I", 2)))
    write("native-header-bit.mpt", good[:44] + bytes([good[44] ^ 8]) + good[45:])
    write("native-chunk-bit.mpt", good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
    write("native-longer.mpt", good + b"\n")
    write("native-expert.mpt", native(rows=[[[0, 1], [2, 3]], [[1, 9], [3, 0]]]))
    write("native-twice.mpt", native(rows=[[[0, 1], [2, 3]], [[1, 2], [3, 3]]]))
    write("native-request-gap.mpt", native(requests=[(7, 0, 1, 0, NONE, NONE), (8, 2, 1, 0, NONE, NONE)]))
    write("native-request-cover.mpt", native(requests=[(7, 0, 2, 0, NONE, NONE)]))
    write("native-request-category.mpt", native(requests=[(7, 0, 3, 0, NONE, 5)], categories=("a",)))
    write("native-tokens-huge.mpt", native(edit=put(48, "<Q", 10**12)))
    write("native-layers.mpt", native(layer_ids=(4, 3)))
    write("native-flag.mpt", native(flags=128))
    write("native-signatures.mpt", native(flags=4 + 64))
    write("native-phase.mpt", native(edit=put(33, "<B", 9)))
    write("native-name.mpt", native(model="to\ny"))
    write("native-experts.mpt", native(experts=5000))
    write("native-reserved.mpt", native(edit=put(104, "<I", 1)))


def arrays():
    write("not-an-archive.npz", b"this was a web page, not a download\n")
    array("cut.npz", npz([("topk_ids.npy", npy(IDS))])[:-30])
    array("fortran.npy", npy(IDS, order="True"))
    array("float.npy", npy(IDS * 4, descr="<f4"))
    array("big-endian.npy", npy(IDS * 2, descr=">u2"))
    array("object.npy", npy(IDS, descr="|O"))
    array("header-bomb.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{")
    array("header-version.npy", npy(IDS, version=9))
    array("header-cut.npy", npy(IDS)[:40])
    array("shape-bomb.npy", npy(IDS, shape="(1000000000000, 58, 8)"))
    array("shape-overflow.npy", npy(IDS, shape="(18446744073709551615, 58, 8)"))
    array("short-data.npy", npy(IDS[:-1]))
    array("four-dims.npy", npy(IDS, shape="(5, 2, 2, 1)"))
    array("axes-swapped.npy", npy(bytes(2000 * 2 * 2), shape="(2, 2000, 2)"))
    array("no-axes.npy", npy(IDS))
    array("other-members.npz", npz([("loads.npy", npy(IDS)), ("names.npy", npy(IDS))]))
    array("says-nothing.npz", npz([("topk_ids.npy", npy(IDS))]))
    array("expert-too-large.npz", npz([("topk_ids.npy", npy(IDS[:-1] + b"\x04"))]))
    array("expert-twice.npz", npz([("topk_ids.npy", npy(IDS[:-1] + b"\x02"))]))
    array("no-requests", npz([("topk_ids.npy", npy(IDS))]), None)
    array("requests-short", npz([("topk_ids.npy", npy(IDS))]), "request,first_row,tokens\n0,0,2\n1,2,2\n")
    array("requests-long", npz([("topk_ids.npy", npy(IDS))]), "request,first_row,tokens\n0,0,2\n1,2,300\n")
    array("requests-unsorted", npz([("topk_ids.npy", npy(IDS))]), "request,first_row,tokens\n1,2,3\n0,0,2\n")
    array("requests-empty", npz([("topk_ids.npy", npy(IDS))]), "request,first_row,tokens\n0,0,5\n1,5,0\n")
    stored = npz([("topk_ids.npy", npy(IDS))], zipfile.ZIP_STORED)
    array("member-bit.npz", stored.replace(IDS, IDS[:-1] + b"\x00"))
    packed = bytearray(npz([("topk_ids.npy", npy(IDS))]))
    entry = packed.rindex(b"PK\1\2")
    locked = bytearray(packed)
    locked[entry + 8] |= 1
    array("encrypted.npz", bytes(locked))
    bomb = bytearray(packed)
    struct.pack_into("<I", bomb, entry + 24, 0xFFFFFFF0)
    array("zip-bomb.npz", bytes(bomb))
    method = bytearray(packed)
    struct.pack_into("<H", method, entry + 10, 14)
    array("lzma.npz", bytes(method))


def main():
    natives()
    arrays()
    line = '{"request": 1, "position": 0, "layer": 0, "experts": [0, 1]}\n'
    write("unfinished.jsonl", line + line[:30])
    write("line-twice.jsonl", line + '{"request": 1, "position": 0, "layer": 1, "experts": [2]}\n' + line)
    write("layer-missing.jsonl", line + line.replace('"layer": 0', '"layer": 1') + line.replace('"position": 0', '"position": 1'))
    write("position-jump.jsonl", line + line.replace('"position": 0', '"position": 3'))
    write("expert-large.jsonl", line.replace("[0, 1]", "[0, 4]"))
    write("expert-same.jsonl", line.replace("[0, 1]", "[3, 3]"))
    write("weight-percent.jsonl", line.replace("}", ', "weights": [60, 40]}'))
    write("request-text.jsonl", line.replace('"request": 1', '"request": "1"'))
    write("key-unknown.jsonl", line.replace('"experts"', '"expert_ids": [1], "experts"'))
    write("deep.jsonl", '{"request": 1, "experts": ' + "[" * 100000 + "\n")
    write("meta-late.jsonl", line + '{"moeplan_trace": 1, "phase": "decode"}\n')
    write("meta-phase.jsonl", '{"moeplan_trace": 1, "phase": "generation"}\n' + line)
    write("meta-contradicts.jsonl", '{"moeplan_trace": 1, "phase": "prefill", "layer_base": 0, "ids": "logical", "n_experts": 4}\n' + line)
    wide = "rank,layer,iteration,e0,e1\n0,0,0,5,6\n1,0,0,7,8\n"
    write("bom.csv", b"\xef\xbb\xbf" + wide.encode())
    write("no-layer.csv", wide.replace("layer", "block").replace("rank", "layers"))
    write("no-experts.csv", "layer,load\n0,5\n")
    write("line-short.csv", wide[:-3])
    write("negative.csv", wide.replace("7", "-7"))
    write("fraction.csv", wide.replace("8", "8.5"))
    write("row-twice.csv", wide + "0,0,0,1,1\n")
    write("rank-missing.csv", wide + "0,0,1,9,9\n")
    write("column-gap.csv", wide.replace("e1", "e2"))
    write("header-only.csv", "layer,expert,count\n")
    write("quoted.csv", 'domain,layer,e0\n"a, b",0,1\n'.replace(", ", ""))
    write("expert-past-end.csv", "layer,expert,count\n0,0,5\n0,4,5\n")
    write("count-overflow.csv", "layer,expert,count\n0,0,18446744073709551616\n")
    heat = '{"n_layers": 2, "n_expert_per_layer": 3, "n_decode_tokens": 9, "layers": [{"heat": [1, 2, 3]}, %s]}\n'
    write("heat-short.json", heat % '{"heat": [1, 2]}')
    write("heat-negative.json", heat % '{"heat": [1, 2, -3]}')
    write("layer-order.json", heat % '{"layer": 2, "heat": [1, 2, 3]}')
    write("pair-range.json", heat % '{"heat": [1, 2, 3], "pairs": [[1, 3, 5, 1.5]]}')
    write("pair-twice.json", heat % '{"heat": [1, 2, 3], "pairs": [[1, 2, 5, 1.5], [2, 1, 5, 1.5]]}')
    write("layers-lost.json", (heat % '{"heat": [1, 2, 3]}').replace('"n_layers": 2', '"n_layers": 3'))
    write("comma.json", heat % '{"heat": [1, 2, 3,]}')
    write("ragged.json", '{"logical_count": [[[1, 2], [3]]]}\n')
    write("empty.jsonl", "")
    write("unknown.bin", bytes(range(64)))


main()
