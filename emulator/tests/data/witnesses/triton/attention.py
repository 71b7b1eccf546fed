"""Attention forward for one head: a second matrix product whose left operand stays in registers."""

import triton
import triton.language as tl


@triton.jit
def attention(q_ptr, k_ptr, v_ptr, o_ptr, tokens, scale, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
              DIM: tl.constexpr):
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    dim = tl.arange(0, DIM)
    q = tl.load(q_ptr + row[:, None] * DIM + dim[None, :])
    largest = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, DIM), tl.float32)
    for start in range(0, tokens, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        k = tl.load(k_ptr + token[None, :] * DIM + dim[:, None])
        score = tl.dot(q, k) * scale
        new = tl.maximum(largest, tl.max(score, 1))
        p = tl.math.exp2(score - new[:, None])
        shrink = tl.math.exp2(largest - new)
        total = total * shrink + tl.sum(p, 1)
        v = tl.load(v_ptr + token[:, None] * DIM + dim[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        largest = new
    tl.store(o_ptr + row[:, None] * DIM + dim[None, :], (acc / total[:, None]).to(tl.bfloat16))
