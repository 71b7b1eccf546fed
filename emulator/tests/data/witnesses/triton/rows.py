"""What is computed row by row: softmax, layer norm, argmax, prefix sums; and a histogram through atomics."""

import triton
import triton.language as tl


@triton.jit
def softmax(x_ptr, y_ptr, cols, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + at, mask=at < cols, other=-float("inf"))
    x = tl.exp(x - tl.max(x, axis=0))
    tl.store(y_ptr + row * stride + at, x / tl.sum(x, axis=0), mask=at < cols)


@triton.jit
def layer_norm(x_ptr, weight_ptr, bias_ptr, y_ptr, cols, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * cols + at, mask=at < cols, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / cols
    centred = tl.where(at < cols, x - mean, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, axis=0) / cols + eps)
    weight = tl.load(weight_ptr + at, mask=at < cols).to(tl.float32)
    bias = tl.load(bias_ptr + at, mask=at < cols).to(tl.float32)
    tl.store(y_ptr + row * cols + at, (centred * inverse * weight + bias).to(tl.bfloat16), mask=at < cols)


@triton.jit
def argmax_cumsum(x_ptr, argmax_ptr, cumsum_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * cols + at, mask=at < cols, other=-(2**31))
    tl.store(argmax_ptr + row, tl.argmax(x, axis=0))
    tl.store(cumsum_ptr + row * cols + at, tl.cumsum(tl.where(at < cols, x, 0), axis=0), mask=at < cols)


@triton.jit
def histogram(x_ptr, counts_ptr, n, BINS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=BINS)
    counts = tl.histogram(x, BINS, mask=at < n)
    tl.atomic_add(counts_ptr + tl.arange(0, BINS), counts)


@triton.jit
def sort_rows(x_ptr, y_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.sort(tl.load(x_ptr + at)))


@triton.jit
def quantize_groups(x_ptr, q_ptr, scale_ptr, GROUP: tl.constexpr, GROUPS: tl.constexpr):
    """Groups of GROUP elements to E4M3 with one F32 scale each."""
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    at = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = tl.load(x_ptr + at).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), axis=1), 1e-4) / 448.0
    tl.store(q_ptr + at, (x / scale[:, None]).to(tl.float8e4nv))
    tl.store(scale_ptr + group, scale)
