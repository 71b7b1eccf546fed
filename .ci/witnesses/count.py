"""Counts what was really launched: `count.py FOLDER`, a folder that HADAL_EMULATOR_KEEP named while the witnesses ran.

Prints a line for each kernel with the instructions present in its PTX, by the class the issue asks for, and fails if the witnesses
have become fewer than the table in README.md says.
"""

import collections
import pathlib
import re
import sys

# At least so many different kernels, and among them so many with ...
LEAST = {"kernels": 12, "producers": 4, "wgmma": 8, "tensor copies": 6, "FP8": 3, "cluster": 2}
# A producer's name in its kernels' names or, where they have none of it, in its PTX.
PRODUCERS = {"flashinfer": "FlashInfer", "cutlass6device_kernel": "CUTLASS", "HopperWgmmaGemmKernel": "CuTe DSL", "triton": "Triton"}


def body(ptx, entry):
    """The text of an entry: from its name to the first line that closes it."""
    text = re.search(rf"\.entry {re.escape(entry)}\b.*?^}}", ptx, re.S | re.M)
    assert text, f"no entry {entry}"
    return re.sub(r"//[^\n]*", "", text[0])


def producer(ptx, entry):
    return next((name for part, name in PRODUCERS.items() if part in entry or part in ptx), "unknown")


folder = pathlib.Path(sys.argv[1])
launches = collections.defaultdict(set)
for line in (folder / "launches").read_text().splitlines():
    file, entry, _grid, _block, cluster = line.split()
    launches[file, entry].add(cluster)

found = collections.Counter()
producers = collections.Counter()
for (file, entry), clusters in sorted(launches.items(), key=lambda launch: launch[0][::-1]):
    ptx = (folder / file).read_text()
    text = body(ptx, entry)
    count = {"wgmma": len(re.findall(r"\bwgmma\.mma_async", text)),
             "tensor copies": len(re.findall(r"\bcp\.async\.bulk\.tensor", text)),
             "FP8": len(re.findall(r"\b(?:wgmma|mma|cvt)\.[\w.:]*(?:e4m3|e5m2)", text))}
    declared = re.search(r"\.reqnctapercluster\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", text)
    if declared:
        clusters = {"x".join(extent or "1" for extent in declared.groups())}
    clusters = sorted(cluster for cluster in clusters if cluster != "1x1x1")
    found.update({"kernels": 1, "cluster": bool(clusters), **{name: n > 0 for name, n in count.items()}})
    producers[producer(ptx, entry)] += 1
    words = ", ".join([f"{n} {name}" for name, n in count.items() if n] + [f"cluster {c}" for c in clusters])
    print(f"{producer(ptx, entry):10} {file[:8]} {entry[:60]}: {words or 'none of these'}")
found["producers"] = len(producers)
print(", ".join(f"{name} {n}" for name, n in sorted(producers.items())))
print("; ".join(f"{name} {found[name]} (at least {least})" for name, least in LEAST.items()))
assert "unknown" not in producers and all(found[name] >= least for name, least in LEAST.items())
