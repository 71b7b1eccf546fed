"""Matrix products: C = A · Bᵀ over blocks of K, operands through pointers (cp.async) and through tensor descriptors (TMA)."""

import triton
import triton.language as tl


@triton.jit
def matmul_pointers(a_ptr, b_ptr, c_ptr, M, N, K, lda, ldb, ldc, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                    BLOCK_K: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr):
    """A is M×K and B is N×K, both with K innermost; edges are masked."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    a_at = a_ptr + row[:, None] * lda + k[None, :]
    b_at = b_ptr + col[None, :] * ldb + k[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    for start in range(0, K, BLOCK_K):
        a = tl.load(a_at, mask=(row[:, None] < M) & (k[None, :] < K - start), other=0.0)
        b = tl.load(b_at, mask=(col[None, :] < N) & (k[:, None] < K - start), other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
        a_at += BLOCK_K
        b_at += BLOCK_K
    c_at = c_ptr + row[:, None] * ldc + col[None, :]
    tl.store(c_at, acc.to(c_ptr.dtype.element_ty), mask=(row[:, None] < M) & (col[None, :] < N))


@triton.jit
def matmul_descriptors(a_desc, b_desc, c_desc, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                       BLOCK_K: tl.constexpr):
    """The same through tensor maps made by the host."""
    row = tl.program_id(0) * BLOCK_M
    col = tl.program_id(1) * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        a = a_desc.load([row, start])
        b = b_desc.load([col, start])
        acc = tl.dot(a, b.T, acc)
    c_desc.store([row, col], acc.to(c_desc.dtype))


@triton.jit
def matmul_device_descriptors(a_ptr, b_ptr, c_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                              BLOCK_K: tl.constexpr):
    """The same through tensor maps the kernel builds itself in scratch memory (tensormap.replace)."""
    a_desc = tl.make_tensor_descriptor(a_ptr, [M, K], [K, 1], [BLOCK_M, BLOCK_K])
    b_desc = tl.make_tensor_descriptor(b_ptr, [N, K], [K, 1], [BLOCK_N, BLOCK_K])
    row = tl.program_id(0) * BLOCK_M
    col = tl.program_id(1) * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        a = a_desc.load([row, start])
        b = b_desc.load([col, start])
        acc = tl.dot(a, b.T, acc)
    rows = row + tl.arange(0, BLOCK_M)
    cols = col + tl.arange(0, BLOCK_N)
    c_at = c_ptr + rows[:, None] * N + cols[None, :]
    tl.store(c_at, acc, mask=(rows[:, None] < M) & (cols[None, :] < N))
