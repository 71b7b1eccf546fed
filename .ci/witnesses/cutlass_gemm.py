"""CUTLASS's Hopper GEMMs (headers of the `nvidia-cutlass` wheel, nvcc of NVIDIA's), parameters made by its own host code."""

import ctypes
import importlib.util
import pathlib
import subprocess
import sys

import host
import numpy as np

HERE = pathlib.Path(__file__).parent
NVCC = pathlib.Path(importlib.util.find_spec("nvidia.cu13").submodule_search_locations[0]) / "bin/nvcc"
SOURCE = pathlib.Path(importlib.util.find_spec("cutlass_library").submodule_search_locations[0]) / "source"


def build(folder, name, defines):
    """The kernel's PTX and the host library, both at once."""
    flags = ["-std=c++17", "-O2", "-arch=sm_90a", f"-I{SOURCE}/include", f"-I{SOURCE}/tools/util/include",
             "--expt-relaxed-constexpr", "-DNDEBUG", *(f"-D{d}" for d in defines)]
    ptx, library = folder / f"{name}.ptx", folder / f"lib{name}.so"
    commands = [[NVCC, *flags, "-ptx", "-DKERNEL", "-o", ptx, HERE / "cutlass_gemm.cu"],
                [NVCC, *flags, "-shared", "-Xcompiler", "-fPIC", "-cudart", "none", "-o", library, HERE / "cutlass_gemm.cu",
                 HERE / "runtime.c"]]
    running = [subprocess.Popen(command) for command in commands]
    assert not any([process.wait() for process in running]), f"nvcc failed on {name}"
    return ptx.read_text(), ctypes.CDLL(str(library))


def gemm(folder, name, m, n, k, defines):
    ptx, library = build(folder, name, defines)
    rng = np.random.default_rng(3)
    blockwise = "FP8_BLOCKWISE" in defines
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
    params, shape = (ctypes.c_byte * 4096)(), (ctypes.c_int * 10)()
    size = library.arguments(params, 4096, shape, m, n, k, 4, *(ctypes.c_uint64(x.address) for x in buffers))
    assert size > 0, f"CUTLASS cannot implement {name}"
    entry = ptx.split(".entry ")[1].split("(")[0]
    host.launch(ptx, entry, shape[0:3], shape[3:6], shape[9], [bytes(params)[:size]], shape[6:9])
    bound = 2**-8 if blockwise else 2**-16
    host.check_product(f"cutlass {name}", host.from_bf16(buffers[2].get()), a, b, bound, 2**-8)


folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
gemm(folder, "fp8_blockwise_cluster", 256, 256, 384, ["FP8_BLOCKWISE", "CLUSTER_M=2"])
gemm(folder, "bf16_pingpong", 384, 256, 192, ["CLUSTER_M=1"])
gemm(folder, "bf16_cooperative_cluster", 256, 256, 192, ["COOPERATIVE", "CLUSTER_M=2"])
