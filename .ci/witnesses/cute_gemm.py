"""CuTe DSL's Hopper dense GEMM (the example in FlashInfer's wheel): BF16, and FP8 with a cluster of two.

Its own host code cannot run here (README.md says why); so the PTX it compiles is launched from here, with the tensor maps its
host code would make.
"""

import importlib.util
import os
import sys

os.environ.update(CUTE_DSL_ARCH="sm_90a", CUTE_DSL_KEEP="ptx", CUTE_DSL_NO_CACHE="1")

import cutlass
import cutlass.cute as cute
import host
import numpy as np
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

package = importlib.util.find_spec("flashinfer").submodule_search_locations[0]
sys.path.insert(0, f"{package}/data/cutlass/examples/python/CuTeDSL/hopper")
import dense_gemm


def gemm(name, kind, map_type, tile, cluster, m, n, k):
    fake = lambda ty, rows, cols: make_fake_compact_tensor(ty, (rows, cols, 1), stride_order=(1, 0, 2), assumed_align=16)
    kernel = dense_gemm.HopperWgmmaGemmKernel(cutlass.Float32, tile, cluster)
    compiled = cute.compile(kernel, fake(kind, m, k), fake(kind, n, k), fake(cutlass.BFloat16, m, n), make_fake_stream())
    ptx = compiled.__ptx__
    ptx = ptx if ptx.lstrip().startswith("//") else open(ptx).read()
    entry = ptx.split(".visible .entry ")[1].split("(")[0]

    rng = np.random.default_rng(2)
    draw = host.random_e4m3 if kind.width == 8 else host.random_bf16
    (raw_a, a), (raw_b, b) = draw(rng, m, k), draw(rng, n, k)
    buffers = [host.Buffer(raw_a), host.Buffer(raw_b), host.Buffer(np.zeros((m, n), np.uint16))]
    # Rows of 128 bytes; a block of a cluster loads its share of what it multicasts.
    inner = 128 * 8 // kind.width
    epilogue = [int(e) for e in kernel.epi_tile]
    swizzle = {32: 1, 64: 2, 128: 3}[epilogue[1] * 2]
    def tensor_map(buffer, ty, rows, cols, box, swizzle):
        size = buffer.array.itemsize
        return host.TensorMap(buffer, ty, [cols, rows], [cols * size], box, swizzle)
    maps = [tensor_map(buffers[0], map_type, m, k, [inner, tile[0] // cluster[1]], 3),
            tensor_map(buffers[1], map_type, n, k, [inner, tile[1] // cluster[0]], 3),
            tensor_map(buffers[2], host.BF16, m, n, [epilogue[1], epilogue[0]], swizzle)]
    shared = kernel.shared_storage.size_in_bytes()
    host.launch(ptx, entry, (m // tile[0], n // tile[1], 1), (kernel.threads_per_cta, 1, 1), shared, [*maps, b"\0"], (*cluster, 1))
    bound = 2**-8 if kind.width == 8 else 2**-16
    host.check_product(f"cute {name}", host.from_bf16(buffers[2].get()), a, b, bound, 2**-8)


gemm("BF16 dense GEMM", cutlass.BFloat16, host.BF16, (128, 128), (1, 1), 256, 256, 192)
gemm("BF16 dense GEMM, tile 128x256, cluster 2x1", cutlass.BFloat16, host.BF16, (128, 256), (2, 1), 256, 256, 128)
gemm("FP8 dense GEMM, cluster 2x1", cutlass.Float8E4M3FN, host.U8, (128, 128), (2, 1), 256, 256, 384)
gemm("FP8 dense GEMM, cluster 2x2", cutlass.Float8E4M3FN, host.U8, (64, 128), (2, 2), 128, 256, 384)
