"""Compiles the kernels of this folder to PTX for sm_90a, without a GPU: `pip install triton==3.9.0`, `python compile.py [FOLDER]`.

Each file begins with what a launcher has to know: threads, cluster, dynamic shared memory, bytes of scratch per block,
and for each tensor descriptor the box that one block copies.
"""

import pathlib
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import attention
import matmul
import rows

HERE = pathlib.Path(__file__).parent


def pointers(a, c, block, acc="fp32", precision="ieee"):
    signature = dict(a_ptr="*" + a, b_ptr="*" + a, c_ptr="*" + c, M="i32", N="i32", K="i32", lda="i32", ldb="i32", ldc="i32")
    import triton.language as tl
    constants = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), block), ACC={"fp32": tl.float32, "int32": tl.int32}[acc], PRECISION=precision)
    # Pointers and leading dimensions are multiples of 16, as Triton's launcher would find.
    return matmul.matmul_pointers, signature, constants, (0, 1, 2, 6, 7, 8)


def descriptors(ty, out, block):
    m, n, k = block
    signature = dict(a_desc=f"tensordesc<{ty}[{m},{k}]>", b_desc=f"tensordesc<{ty}[{n},{k}]>",
                     c_desc=f"tensordesc<{out}[{m},{n}]>", K="i32")
    return matmul.matmul_descriptors, signature, dict(BLOCK_M=m, BLOCK_N=n, BLOCK_K=k), ()


def device_descriptors(ty, block):
    m, n, k = block
    signature = dict(a_ptr="*" + ty, b_ptr="*" + ty, c_ptr="*fp32", M="i32", N="i32", K="i32")
    return matmul.matmul_device_descriptors, signature, dict(BLOCK_M=m, BLOCK_N=n, BLOCK_K=k), (0, 1, 2, 3, 4, 5)


def plain(fn, signature, constants, aligned=()):
    return fn, signature, constants, aligned


KERNELS = {
    "matmul_e4m3": (pointers("fp8e4nv", "fp32", (128, 128, 128)), dict(num_warps=8, num_stages=3)),
    "matmul_e5m2": (pointers("fp8e5", "fp32", (64, 64, 64)), dict(num_warps=4, num_stages=3)),
    "matmul_bf16": (pointers("bf16", "bf16", (128, 128, 64)), dict(num_warps=4, num_stages=3)),
    "matmul_f16_ragged": (pointers("fp16", "fp32", (64, 32, 32)), dict(num_warps=4, num_stages=2)),
    "matmul_tf32": (pointers("fp32", "fp32", (64, 64, 32), precision="tf32"), dict(num_warps=4, num_stages=2)),
    "matmul_f32": (pointers("fp32", "fp32", (32, 32, 16)), dict(num_warps=4, num_stages=2)),
    "matmul_s8": (pointers("i8", "i32", (64, 64, 64), acc="int32"), dict(num_warps=4, num_stages=2)),
    "matmul_bf16_mma_sync": (pointers("bf16", "fp32", (32, 32, 32)), dict(num_warps=2, num_stages=2)),
    "matmul_e4m3_mma_sync": (pointers("fp8e4nv", "fp32", (32, 32, 32)), dict(num_warps=2, num_stages=2)),
    "matmul_bf16_cluster": (pointers("bf16", "fp32", (128, 128, 64)), dict(num_warps=4, num_stages=3, num_ctas=2)),
    "matmul_e4m3_tma": (descriptors("fp8e4nv", "bf16", (128, 128, 128)), dict(num_warps=8, num_stages=3)),
    "matmul_bf16_tma": (descriptors("bf16", "bf16", (128, 64, 64)), dict(num_warps=4, num_stages=4)),
    "matmul_bf16_tma_cluster": (descriptors("bf16", "bf16", (128, 128, 64)), dict(num_warps=4, num_stages=3, num_ctas=2)),
    "matmul_e4m3_device_tma": (device_descriptors("fp8e4nv", (64, 64, 128)), dict(num_warps=4, num_stages=3)),
    "attention_bf16": (plain(attention.attention, dict(q_ptr="*bf16", k_ptr="*bf16", v_ptr="*bf16", o_ptr="*bf16", tokens="i32", scale="fp32"),
                             dict(BLOCK_M=128, BLOCK_N=64, DIM=64), (0, 1, 2, 3)), dict(num_warps=8, num_stages=2)),
    "softmax": (plain(rows.softmax, dict(x_ptr="*fp32", y_ptr="*fp32", cols="i32", stride="i32"), dict(BLOCK=1024), (0, 1, 3)), dict(num_warps=4)),
    "layer_norm": (plain(rows.layer_norm, dict(x_ptr="*bf16", weight_ptr="*bf16", bias_ptr="*bf16", y_ptr="*bf16", cols="i32", eps="fp32"),
                         dict(BLOCK=512), (0, 1, 2, 3)), dict(num_warps=4)),
    "argmax_cumsum": (plain(rows.argmax_cumsum, dict(x_ptr="*i32", argmax_ptr="*i32", cumsum_ptr="*i32", cols="i32"), dict(BLOCK=256)), dict(num_warps=4)),
    "histogram": (plain(rows.histogram, dict(x_ptr="*i32", counts_ptr="*i32", n="i32"), dict(BINS=64, BLOCK=512)), dict(num_warps=4)),
    "sort_rows": (plain(rows.sort_rows, dict(x_ptr="*i32", y_ptr="*i32"), dict(BLOCK=128), (0, 1)), dict(num_warps=2)),
    "quantize_groups": (plain(rows.quantize_groups, dict(x_ptr="*bf16", q_ptr="*fp8e4nv", scale_ptr="*fp32"), dict(GROUP=128, GROUPS=8), (0, 1, 2)),
                        dict(num_warps=4)),
}


def compile_one(name, kernel, options):
    fn, signature, constants, aligned = kernel
    signature = {**signature, **{name: "constexpr" for name in constants}}
    source = ASTSource(fn, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    meta = compiled.metadata
    # Lines of debug information name folders of the machine that compiled.
    ptx = re.sub(r"\n\s*\.section\s+\.debug.*", "\n", compiled.asm["ptx"], flags=re.S)
    ptx = re.sub(r'(\.file\s+\d+\s+)"[^"]*/', r'\1"', ptx)
    head = (f"// {name}: Triton {triton.__version__}, {fn.__name__} of {fn.fn.__module__}.py\n"
            f"// launch: threads {meta.num_warps * 32} ctas {meta.num_ctas} shared {meta.shared} "
            f"global_scratch {meta.global_scratch_size} align {meta.global_scratch_align}\n")
    descs = getattr(meta, "tensordesc_meta", None) or []
    for d in descs:
        rows, cols = d["block_size"]
        head += f"// tensordesc: box {rows} {cols} swizzle {d['swizzle']}\n"
    return head + ptx


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, (kernel, options) in KERNELS.items():
        try:
            (folder / f"{name}.ptx").write_text(compile_one(name, kernel, options))
            print("compiled", name)
        except Exception as error:
            print(f"FAILED {name}: {type(error).__name__}: {str(error)[:500]}")
