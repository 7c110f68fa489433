#!/usr/bin/env python3
"""Writes the binary bad recordings of this folder: .pt files (a pickle by hand inside a ZIP) and safetensors folders. Same bytes every time."""
import json
import pathlib
import struct
import zlib

HERE = pathlib.Path(__file__).parent


def unicode(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def whole(v):
    return b"K" + bytes([v]) if 0 <= v < 256 else b"J" + struct.pack("<i", v)


def tensor(key, sizes, storage="IntStorage", strides=None, offset=0, numbers=None):
    n = 1
    for s in sizes:
        n *= s
    if strides is None:
        strides, left = [], n
        for s in sizes:
            left = left // s if s else 0
            strides.append(left)
    numbers = n if numbers is None else numbers
    tup = lambda v: b"(" + b"".join(map(whole, v)) + b"t"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n((" + unicode("storage") + b"ctorch\n" + storage.encode() + b"\n" + unicode(key) +
            unicode("cpu") + whole(numbers) + b"tQ" + whole(offset) + tup(sizes) + tup(strides) + b"\x89ccollections\nOrderedDict\n)RtR")


def mapping(pairs):
    return b"}(" + b"".join(unicode(k) + v for k, v in pairs) + b"u"


def sequence(items):
    return b"](" + b"".join(items) + b"e"


def archive(members, method=0, crc_of=None, extra_size=0, names=None):
    """members: [(name, bytes)]; method and the lies apply to the last one."""
    out, directory = b"", b""
    for i, (name, data) in enumerate(members):
        last = i == len(members) - 1
        packed, how = data, 0
        if last and method == 8:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed, how = packer.compress(data) + packer.flush(), 8
        elif last and method:
            how = method
        crc = zlib.crc32(data) if not (last and crc_of is not None) else crc_of
        size = len(data) + (extra_size if last else 0)
        at = len(out)
        fields = struct.pack("<HHHHIII", 0, how, 0, 0x21, crc, len(packed) + (extra_size if last and not how else 0), size)
        out += b"PK\3\4" + struct.pack("<H", 20) + fields + struct.pack("<HH", len(name), 0) + name.encode() + packed
        directory += (b"PK\1\2" + struct.pack("<HH", 20, 20) + fields + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, at) + name.encode())
    return out + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(out), 0)


def ints(*v):
    return struct.pack(f"<{len(v)}i", *v)


def longs(*v):
    return struct.pack(f"<{len(v)}q", *v)


def pt(pickle, *storages, **lies):
    body = b"\x80\x02" + pickle + b"."
    return archive([("dump/data.pkl", body)] + [(f"dump/data/{i}", s) for i, s in enumerate(storages)], **lies)


def stat(sizes, storage="IntStorage", **k):
    return mapping([("rank", whole(0)), ("logical_count", tensor("0", sizes, storage, **k))])


def record(number, passes=1, rank=0, sizes=(1, 3)):
    return mapping([("forward_pass_id", whole(passes)), ("rank", whole(rank)), ("global_physical_count", tensor(str(number), sizes))])


def per_pass(records, key):
    return mapping([("records", sequence(records)), ("last_physical_to_logical_map", tensor(str(key), (1, 3), "LongStorage"))])


def per_token(mode, positions, lengths, sizes=(1, 2, 2)):
    lengths = b"N" if lengths is None else sequence(map(whole, lengths))
    r = mapping([("forward_pass_id", whole(1)), ("rank", whole(0)), ("forward_mode", whole(mode)), ("positions", sequence(map(whole, positions))),
                 ("extend_seq_lens", lengths), ("topk_ids_of_layer", tensor("0", sizes))])
    return per_pass([r], 1)


good = ints(1, 2, 3, 4)
FILES = {
    "os-system.pt": pt(b"cos\nsystem\n" + unicode("id") + b"\x85R", good),
    "build-opcode.pt": pt(b"}}b", good),
    "protocol-4.pt": archive([("dump/data.pkl", b"\x80\x04N.")]),
    "cut-pickle.pt": archive([("dump/data.pkl", b"\x80\x02}(" + unicode("rank"))]),
    "huge-long.pt": pt(b"\x8a\xff" + b"\1" * 255, good),
    "memo-nothing.pt": pt(b"h\5", good),
    "deep-marks.pt": pt(b"(" * 5000, good),
    "deep-tuples.pt": archive([("dump/data.pkl", b"\x80\x02)" + b"\x85" * 3000000 + b".")], method=8),
    "opcode-flood.pt": archive([("dump/data.pkl", b"\x80\x02N" + b"q\0" * 5000000 + b".")], method=8),
    "list-of-itself.pt": archive([("dump/data.pkl", b"\x80\x02]q\0" + (b"(" + b"h\0" * 90000 + b"e") * 40 + b".")], method=8),
    "no-recording.pt": pt(mapping([("weight", whole(1))]), good),
    "no-pickle.pt": archive([("dump/data.pkl.txt", b"x"), ("dump/data/0", good)]),
    "float-counts.pt": pt(stat((1, 2, 2), "FloatStorage"), good),
    "flat-counts.pt": pt(stat((4,)), good),
    "transposed.pt": pt(stat((1, 2, 2), strides=(4, 1, 2)), good),
    "past-storage.pt": pt(stat((1, 2, 2), offset=1), good),
    "storage-missing.pt": pt(stat((1, 2, 2))),
    "storage-short.pt": pt(stat((1, 2, 2)), ints(1, 2, 3)),
    "negative-count.pt": pt(stat((1, 2, 2)), ints(1, 2, -3, 4)),
    "all-zero.pt": pt(stat((1, 2, 2)), ints(0, 0, 0, 0)),
    "wrong-checksum.pt": pt(stat((1, 2, 2)), good, crc_of=1),
    "size-lie.pt": pt(stat((1, 2, 2)), good, extra_size=1000),
    "bzip2-member.pt": pt(stat((1, 2, 2)), good, method=12),
    "no-records.pt": pt(per_pass([], 0), longs(0, 1, 1)),
    "pass-twice.pt": pt(per_pass([record(0), record(1)], 2), ints(1, 2, 3), ints(1, 2, 3), longs(0, 1, 1)),
    "record-shape.pt": pt(per_pass([record(0, sizes=(3, 1))], 1), ints(1, 2, 3), longs(0, 1, 1)),
    "map-negative.pt": pt(per_pass([record(0)], 1), ints(1, 2, 3), longs(0, -1, 1)),
    "mixed-mode.pt": pt(per_token(3, (0, 1), (2,)), good, longs(0, 1, 1)),
    "lengths-too-long.pt": pt(per_token(1, (0, 1), (3,)), ints(0, 1, 1, 2), longs(0, 1, 1)),
    "positions-jump.pt": pt(per_token(1, (0, 5), (2,)), ints(0, 1, 1, 2), longs(0, 1, 1)),
    "slot-outside.pt": pt(per_token(2, (0, 1), None), ints(0, 1, 1, 7), longs(0, 1, 1)),
}


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(sizes, start, end, dtype="I32"):
    return {"dtype": dtype, "shape": list(sizes), "data_offsets": [start, end]}


FOLDERS = {
    "st-header-lie": {"rank0.safetensors": safetensors(b"{}", length=1 << 40)},
    "st-header-cut": {"rank0.safetensors": safetensors(b"{}", length=99)},
    "st-overlap": {"rank0.safetensors": safetensors({"1_0": entry([2], 0, 8), "1_1": entry([2], 4, 12)}, ints(1, 2, 3))},
    "st-past-end": {"rank0.safetensors": safetensors({"1_0": entry([2], 0, 8)}, ints(1))},
    "st-shape-bomb": {"rank0.safetensors": safetensors({"1_0": entry([1 << 62, 4], 0, 0)})},
    "st-bf16": {"rank0.safetensors": safetensors({"1_0": entry([2], 0, 4, "BF16")}, b"abcd")},
    "st-name": {"rank0.safetensors": safetensors({"layer0": entry([2], 0, 8)}, ints(1, 2))},
    "st-gap": {"rank0.safetensors": safetensors({"1_0": entry([2], 0, 8), "3_0": entry([2], 8, 16)}, good)},
    "st-rank-missing": {"rank1.safetensors": safetensors({"1_0": entry([2], 0, 8)}, ints(1, 2))},
    "st-experts": {"rank0.safetensors": safetensors({"1_0": entry([3], 0, 12)}, ints(1, 2, 3))},
}

if __name__ == "__main__":
    for name, data in FILES.items():
        (HERE / name).write_bytes(data)
    for name, files in FOLDERS.items():
        (HERE / name).mkdir(exist_ok=True)
        (HERE / name / "meta_info.json").write_text('{"num_experts": 2, "num_experts_per_token": 1}')
        for file, data in files.items():
            (HERE / name / file).write_bytes(data)
