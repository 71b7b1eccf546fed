"""FlashInfer's quantisation kernels (headers of its wheel, nvcc of NVIDIA's), launched in the shapes its host code chooses."""

import ctypes
import importlib.util
import pathlib
import subprocess
import sys

import host
import numpy as np

NVCC = pathlib.Path(importlib.util.find_spec("nvidia.cu13").submodule_search_locations[0]) / "bin/nvcc"
DATA = pathlib.Path(importlib.util.find_spec("flashinfer").submodule_search_locations[0]) / "data"

folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
# Included, of no use to these kernels, and in wheels of hundreds of megabytes.
for name in ("cublasLt.h", "cublas_v2.h", "curand_kernel.h"):
    (folder / name).touch()
output = folder / "flashinfer.ptx"
subprocess.run([NVCC, "-ptx", "-std=c++17", "-O3", "-arch=sm_90a", f"-I{DATA}/include", f"-I{DATA}/spdlog/include", f"-I{folder}", "-o", output,
                pathlib.Path(__file__).with_suffix(".cu")], check=True)
ptx = output.read_text()


def entry(part):
    return next(e.split("(")[0] for e in ptx.split(".entry ")[1:] if part in e.split("(")[0])


u32, f32 = ctypes.c_uint32, ctypes.c_float
address = lambda buffer: ctypes.c_uint64(buffer.address)
rng = np.random.default_rng(4)

n = 5000
bits = rng.integers(0, 2, n, dtype=np.uint8)
source, packed = host.Buffer(bits), host.Buffer(np.zeros(n // 8, np.uint8))
host.launch(ptx, entry("PackBits"), (-(-n // 2048), 1, 1), (256, 1, 1), 0, [address(source), address(packed), ctypes.c_int64(n)])
np.testing.assert_array_equal(packed.get(), np.packbits(bits))
print("agrees  flashinfer PackBits, to the bit")

rows, d = 5, 1032
words, x = host.random_bf16(rng, rows, d)
weight_words, weight = host.random_bf16(rng, d)
x_at, weight_at = host.Buffer(words), host.Buffer(weight_words)
block, shared = (32, -(-(d // 8) // 32), 1), -(-(d // 8) // 32) * 4
normal = x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5) * weight

y = host.Buffer(np.zeros((rows, d), np.uint16))
host.launch(ptx, entry("13RMSNormKernel"), (rows, 1, 1), block, shared,
            [address(x_at), address(weight_at), address(y), u32(d), u32(d), u32(d), f32(0), f32(1e-5)])
np.testing.assert_allclose(host.from_bf16(y.get()), normal, rtol=2**-8 + 1e-5)
print("agrees  flashinfer RMSNorm")

q, scale = host.Buffer(np.zeros((rows, d), np.uint8)), host.Buffer(np.array([0.02], np.float32))
host.launch(ptx, entry("18RMSNormQuantKernel"), (rows, 1, 1), block, shared,
            [address(x_at), address(weight_at), address(q), u32(d), u32(d), u32(d), f32(0), address(scale), f32(1e-5)])
want = np.clip(normal / np.float32(0.02), -448, 448)
# Half a unit of E4M3, or of its subnormals.
np.testing.assert_allclose(host.E4M3[q.get()], want, rtol=2**-4 + 1e-5, atol=2**-10)
print("agrees  flashinfer RMSNorm to E4M3")
