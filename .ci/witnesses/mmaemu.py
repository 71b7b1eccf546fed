"""Compares dot products of the emulator's exact FP8 tensor core with PyPI's mmaemu (preset `hopper`), bit for bit.

    python mmaemu.py FILE

FILE is what `emulator/examples/dot_vectors.rs` writes; the record is described there. mmaemu's model was validated by its author
against an H100's cuBLAS. Limits: finite operands and sums, F32 accumulators, and nothing but FP8: mmaemu has no other format.
"""
import struct
import sys

# This file has the package's name: its folder must not be looked into first.
sys.path.pop(0)

import torch
from mmaemu.model.chain import dot

NAMES = ("e4m3", "e5m2")
TYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


def groups(data):
    """(K, A's format, B's format) to (start, result, A, B) of each record, as bytes."""
    found = {}
    at = 0
    while at < len(data):
        k, a_format, b_format = struct.unpack_from("<IBB", data, at)
        ends = (at + 8, at + 12, at + 16, at + 16 + k, at + 16 + 2 * k)
        record = [data[begin:end] for begin, end in zip(ends, ends[1:])]
        found.setdefault((k, a_format, b_format), []).append(record)
        at = ends[-1]
    return found


def column(records, index, dtype):
    return torch.frombuffer(bytearray(b"".join(r[index] for r in records)), dtype=dtype)


total = wrong = chained = 0
for (k, a_format, b_format), records in sorted(groups(open(sys.argv[1], "rb").read()).items()):
    start, ours = column(records, 0, torch.float32), column(records, 1, torch.int32)
    a = column(records, 2, torch.uint8).view(TYPES[a_format]).reshape(-1, k)
    b = column(records, 3, torch.uint8).view(TYPES[b_format]).reshape(-1, k)
    theirs = dot(a, b, start, preset="hopper").view(torch.int32)
    differ = torch.nonzero(ours != theirs).flatten().tolist()
    total, wrong, chained = total + len(records), wrong + len(differ), chained + int((start != 0).sum())
    print(f"K = {k}, {NAMES[a_format]} x {NAMES[b_format]}: {len(differ)} of {len(records)} differ")
    for i in differ[:3]:
        print(f"  from {start[i]:g}: {ours[i] & 0xFFFFFFFF:#010x}, mmaemu says {theirs[i] & 0xFFFFFFFF:#010x}")
print(f"{total - wrong} of {total} dot products are mmaemu's to the bit; {chained} start from an accumulator other than 0")
sys.exit(wrong != 0 or chained < 1000)
