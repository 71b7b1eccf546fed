"""CUTLASS's Hopper GEMMs (headers of the `nvidia-cutlass` wheel, nvcc of NVIDIA's), launched by its own GemmUniversalAdapter."""

import ctypes
import importlib.util
import pathlib
import sys

import host
import numpy as np
import nvcc

SOURCE = pathlib.Path(importlib.util.find_spec("cutlass_library").submodule_search_locations[0]) / "source"


def build(name, defines):
    flags = [f"-I{SOURCE}/include", f"-I{SOURCE}/tools/util/include", *(f"-D{d}" for d in defines)]
    return nvcc.start(folder / f"libcutlass_{name}.so", pathlib.Path(__file__).with_suffix(".cu"), flags)


def gemm(started, name, m, n, k, blockwise):
    library = nvcc.loaded(started)
    rng = np.random.default_rng(3)
    (raw_a, a), (raw_b, b) = ((host.random_e4m3 if blockwise else host.random_bf16)(rng, s, k) for s in (m, n))
    if blockwise:
        # Scales are stored with rows (of A, or of blocks of B) innermost.
        scales_a = rng.uniform(0.5, 2, (k // 128, m)).astype(np.float32)
        scales_b = rng.uniform(0.5, 2, (k // 128, n // 128)).astype(np.float32)
        a = a * np.repeat(scales_a.T.astype(np.float64), 128, 1)
        b = b * np.repeat(np.repeat(scales_b.T.astype(np.float64), 128, 0), 128, 1)
    else:
        scales_a = scales_b = np.zeros(1, np.float32)
    buffers = [host.Buffer(x) for x in (raw_a, raw_b, np.zeros((m, n), np.uint16), scales_a, scales_b)]
    assert library.gemm(m, n, k, 4, *(ctypes.c_uint64(x.address) for x in buffers)) == 0, name
    bound = 2**-8 if blockwise else 2**-16
    host.check_product(f"cutlass {name}", host.from_bf16(buffers[2].get()), a, b, bound, 2**-8)


folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
cases = [("fp8_blockwise_cluster", 256, 256, 384, ["FP8_BLOCKWISE", "CLUSTER_M=2"]),
         ("bf16_pingpong", 384, 256, 192, ["CLUSTER_M=1"]),
         ("bf16_cooperative_cluster", 256, 256, 192, ["COOPERATIVE", "CLUSTER_M=2"])]
builds = [build(name, defines) for name, *_, defines in cases]
for started, (name, m, n, k, defines) in zip(builds, cases):
    gemm(started, name, m, n, k, "FP8_BLOCKWISE" in defines)
