#!/usr/bin/env python3
"""Writes the broken recordings of this folder: Megatron's, Megatron Core's, omni-infer's, routed experts, packed files, described files.
Each is one real mistake. usage: make.py [FOLDER]"""
import gzip
import io
import pathlib
import struct
import sys
import zipfile

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)


def write(name, data):
    (OUT / name).parent.mkdir(exist_ok=True)
    (OUT / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def npy(data, descr="<i4", shape="(2,)"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def i4(*v):
    return struct.pack(f"<{len(v)}i", *v)


def npz(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name + ".npy", (2020, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


# ---- Megatron-LM
def tpe(iteration=100, layer=3, counts="[[128, 64], [96, 80]]", block="decoder", more=""):
    return f'{{"iter": {iteration}, "block": "{block}", {more}"layer": {layer}, "tpe": {counts}}}\n'


write("megatron-block.jsonl", tpe(block="encoder"))
write("megatron-local.jsonl", tpe() + tpe(layer=4, counts="[[1, 2], [3, 4, 5]]"))
write("megatron-negative.jsonl", tpe(counts="[[128, 64], [96, -80]]"))
write("megatron-flat.jsonl", tpe(counts="[128, 64]"))
write("megatron-no-iter.jsonl", tpe().replace('"iter": 100, ', ""))
write("megatron-twice.jsonl", tpe() + tpe(200) + tpe())
write("megatron-microbatches.jsonl", tpe() + tpe(layer=4, counts="[[1, 2]]"))
write("megatron-layer-lost.jsonl", tpe() + tpe(layer=4) + tpe(200))
write("megatron-only-mtp.jsonl", tpe(block="mtp", more='"mtp_idx": 0, '))
write("megatron-mtp-index.jsonl", tpe() + tpe(block="mtp"))
write("megatron-cut.jsonl", tpe() + tpe(200)[:40])
write("megatron-one-rank.jsonl", tpe())
write("megatron-rank-lost/rank0.jsonl", tpe())
write("megatron-rank-lost/rank2.jsonl", tpe())
write("megatron-rank-layers/rank0.jsonl", tpe() + tpe(layer=4))
write("megatron-rank-layers/rank1.jsonl", tpe())
write("megatron-groups/rank0.jsonl", tpe())
write("megatron-groups/rank1.jsonl", tpe())


# ---- Megatron Core
def dump(without=(), **other):
    members = {"dump_version": npy("mcore_ep_load_dump_v1".encode("utf-32-le"), "<U21", "()"), "loads": npy(i4(*range(1, 9)), shape="(2, 1, 4)"),
               "layer_numbers": npy(i4(4, 5)), "forward_counts": npy(i4(1, 1)), "ep_rank": npy(i4(0), shape="()"), "ep_size": npy(i4(2), shape="()")}
    members.update(other)
    return npz({k: v for k, v in members.items() if k not in without})


write("mcore-version.npz", dump(dump_version=npy("mcore_ep_load_dump_v2".encode("utf-32-le"), "<U21", "()")))
write("mcore-no-layers.npz", dump(without=["layer_numbers"]))
write("mcore-flat.npz", dump(loads=npy(i4(*range(8)), shape="(2, 4)")))
write("mcore-short.npz", dump(layer_numbers=npy(i4(4), shape="(1,)")))
write("mcore-layer-zero.npz", dump(layer_numbers=npy(i4(0, 5))))
write("mcore-layer-order.npz", dump(layer_numbers=npy(i4(5, 4))))
write("mcore-forwards.npz", dump(forward_counts=npy(i4(1, 2))))
write("mcore-no-forward.npz", dump(forward_counts=npy(i4(1, 0))))
write("mcore-rank.npz", dump(ep_rank=npy(i4(2), shape="()")))
write("mcore-negative.npz", dump(loads=npy(i4(1, 2, 3, 4, 5, -6, 7, 8), shape="(2, 1, 4)")))
write("mcore-float.npz", dump(loads=npy(bytes(32), "<f4", "(2, 1, 4)")))
write("mcore-shape-bomb.npz", dump(loads=npy(bytes(32), shape="(2, 1000000000, 4)")))
write("mcore-rank-lost/mcore_ep_loads_rank0_20260101_000000_pid1.npz", dump())

# ---- omni-infer
write("omni-ragged.txt", "1\t2\t3\t4\t\n5\t6\t7\t\n")
write("omni-word.txt", "1\t2\t3\t4\t\n5\tsix\t7\t8\t\n")
write("omni-negative.txt", "1\t2\t3\t4\n5\t-6\t7\t8\n")
write("omni-spaces.txt", "1\t2\t3 \t4\n")
write("omni-one-rank.txt", "1\t2\n3\t4\n")
LINE = "[dump activation] decode step 0 in rank {} for layer {} get 2 experts data: {}\n"
write("omni-log-count.log", LINE.format(0, 0, "1\t2\t3"))
write("omni-log-cut.log", LINE.format(0, 0, "1\t2") + LINE.format(1, 0, "1\t2")[:40] + "\n")
write("omni-log-twice.log", LINE.format(0, 0, "1\t2") * 2)
write("omni-log-rank-lost.log", LINE.format(0, 0, "1\t2") + LINE.format(1, 0, "1\t2") + LINE.format(0, 1, "1\t2"))
write("omni-step-lost/activation_counts_recordstep_1_rank_0.txt", "1\t2\n")
write("omni-step-lost/activation_counts_recordstep_1_rank_1.txt", "1\t2\n")
write("omni-step-lost/activation_counts_recordstep_2_rank_0.txt", "1\t2\n")

# ---- routed experts, a file per request
IDS = struct.pack("<8h", 0, 1, 2, 3, 1, 0, 3, 2)
write("routed-expert/1.npy", npy(struct.pack("<8h", 0, 1, 2, 3, 1, 0, 9, 2), "<i2", "(2, 2, 2)"))
write("routed-twice/1.npy", npy(struct.pack("<8h", 0, 1, 2, 3, 1, 1, 3, 2), "<i2", "(2, 2, 2)"))
write("routed-hole/1.npy", npy(struct.pack("<8h", 0, 1, 2, 3, -1, 1, 3, 2), "<i2", "(2, 2, 2)"))
write("routed-shapes/1.npy", npy(IDS, "<i2", "(2, 2, 2)"))
write("routed-shapes/2.npy", npy(IDS, "<i2", "(1, 4, 2)"))
write("routed-empty/1.npy", npy(b"", "<i2", "(0, 2, 2)"))
write("routed-flat/1.npy", npy(IDS, "<i2", "(4, 2)"))
write("routed-cut/1.npy", npy(IDS, "<i2", "(2, 2, 2)")[:-4])
write("routed-float/1.npy", npy(bytes(16), "<f2", "(2, 2, 2)"))
write("routed-dense/1.npy", npy(b"\xff" * 16, "<i2", "(2, 2, 2)"))

# ---- packed files
TEXT = b"layer,expert,count\n" + b"".join(b"0,%d,%d\n" % (e, e * e % 97) for e in range(64))
PACKED = gzip.compress(TEXT, mtime=0)
write("packed-cut.csv.gz", PACKED[:-20])
write("packed-bit.csv.gz", PACKED[:60] + bytes([PACKED[60] ^ 0x40]) + PACKED[61:])
write("packed-checksum.csv.gz", PACKED[:-8] + bytes(4) + PACKED[-4:])
write("packed-trailing.csv.gz", PACKED + b"trailing")
write("packed-twice.csv.gz", gzip.compress(PACKED, mtime=0))
write("packed-bomb.csv.gz", gzip.compress(bytes(32 << 20), mtime=0))
write("packed-cut.csv.zst", b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hel")
write("packed-block.csv.zst", b"\x28\xb5\x2f\xfd\x20\x05\x2f\x00\x00hello")
write("packed-window.csv.zst", b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00")
write("packed-trailing.csv.zst", b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hello" + b"more")
write("packed-bomb.csv.zst", b"\x28\xb5\x2f\xfd\x00\x88" + b"\x02\x00\x10\x00" * 8000)
write("packed-empty.jsonl.gz", gzip.compress(b"", mtime=0))

# ---- recordings that say what they are
GOOD = '# {"moeplan_trace": 1, "phase": "decode", "ids": "logical", "layer_base": 0, "categories": ["a"]}\n'
write("described-key.csv", '# {"moeplan_trace": 1, "layer": 0}\nlayer,iteration,e0\n0,0,1\n')
write("described-cut.csv", '# {"moeplan_trace": 1, "phase"\nlayer,iteration,e0\n0,0,1\n')
write("described-category.csv", GOOD + "layer,iteration,category,e0\n0,0,a,1\n1,0,b,1\n")
write("described-layers.json", '{"moeplan_trace": 1, "phase": "decode", "ids": "logical", "layer_base": 0, "n_layers": 2, "n_expert_per_layer": 1, '
      '"layers": [{"layer": 5, "heat": [1]}, {"layer": 4, "heat": [1]}]}\n')
write("described-twice.jsonl", '{"moeplan_trace": 1, "categories": ["a", "a"]}\n')
