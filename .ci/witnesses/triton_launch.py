"""Triton's own launcher, unchanged, on the emulator: compile, load machine code, launch. Run under `hadal-emulator exec`."""

import pathlib
import sys

import host
import numpy as np
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "emulator/tests/data/witnesses/triton"))
import matmul
import rows

rng = np.random.default_rng(1)

x = host.Buffer(rng.standard_normal((9, 784)).astype(np.float32), "fp32")
y = host.Buffer(np.zeros((9, 784), np.float32), "fp32")
rows.softmax[(9,)](x, y, 777, 784, BLOCK=1024)
e = np.exp(x.array[:, :777].astype(np.float64))
np.testing.assert_allclose(y.get()[:, :777], e / e.sum(1, keepdims=True), rtol=2e-6)
print("agrees  triton softmax")

m, n, k = 256, 128, 512
codes_a, a = host.random_e4m3(rng, m, k)
codes_b, b = host.random_e4m3(rng, n, k)
operands = [host.Buffer(codes_a, "fp8e4nv"), host.Buffer(codes_b, "fp8e4nv"), host.Buffer(np.zeros((m, n), np.uint16), "bf16")]
descriptors = [TensorDescriptor(t, list(t.shape), list(t.strides), [128, 128]) for t in operands]
matmul.matmul_descriptors[(m // 128, n // 128)](*descriptors, k, BLOCK_M=128, BLOCK_N=128, BLOCK_K=128, num_warps=8)
host.check_product("triton FP8 matmul, tensor descriptors", host.from_bf16(operands[2].get()), a, b, 2**-8, 2**-8)
