"""FlashInfer's Hopper MLA decode, planned and launched by its own host code: ragged lengths, shuffled pages, split KV.

Every output element and log-sum-exp is checked against attention in F64 over the same numbers.

    flashinfer_mla.py FOLDER [shipped]

As shipped, the kernel is against the manual (flashinfer_mla.cu says where): the emulator convicts it, rightly, and it runs
without the checks `proxies` and `races`. Mended it runs with all.
"""

import ctypes
import importlib.util
import pathlib
import sys
from ctypes import c_float, c_int, c_void_p

import host
import numpy as np
import nvcc

CKV, KPE = 512, 64


class Problem(ctypes.Structure):
    _fields_ = [(name, c_int) for name in ("batch", "heads", "page_size")]
    _fields_ += [(name, c_float) for name in ("sm_scale", "ckv_scale", "kpe_scale")]
    _fields_ += [(name, c_void_p) for name in
                 ("qo_indptr", "kv_indptr", "kv_len", "q_nope", "q_pe", "ckv", "kpe", "kv_indices", "out", "lse")]


def decode(library, name, heads, page_size, q_lens, kv_lens, fp8):
    rng = np.random.default_rng(5)
    total_q, pages = sum(q_lens), [-(-n // page_size) for n in kv_lens]
    table = rng.permutation(sum(pages) + 3)[: sum(pages)].astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(pages)]).astype(np.int32)
    qo_starts = np.concatenate([[0], np.cumsum(q_lens)]).astype(np.int32)

    q_nope_raw, q_nope = host.random_bf16(rng, total_q, heads, CKV)
    q_pe_raw, q_pe = host.random_bf16(rng, total_q, heads, KPE)
    draw = host.random_e4m3 if fp8 else host.random_bf16
    slots = (sum(pages) + 3, page_size)
    (ckv_raw, ckv), (kpe_raw, kpe) = draw(rng, *slots, CKV), draw(rng, *slots, KPE)
    # What lies behind a sequence's end, and pages of nobody, must not be looked at.
    unused = np.ones(slots, bool)
    for start, length in zip(starts, kv_lens):
        for at in range(length):
            unused[table[start + at // page_size], at % page_size] = False
    nan = 0x7F if fp8 else 0x7FC0
    ckv_raw[unused], kpe_raw[unused] = nan, nan
    # Powers of two: the kernel multiplies in BF16.
    ckv_scale, kpe_scale = (0.5, 2.0) if fp8 else (1.0, 1.0)
    scale = np.float32(1 / np.sqrt(128 + 64))

    buffers = [host.Buffer(a) for a in (q_nope_raw, q_pe_raw, ckv_raw, kpe_raw, table,
                                        np.full((total_q, heads, CKV), 0x7FC0, np.uint16),
                                        np.full((total_q, heads), np.nan, np.float32))]
    lengths = np.array(kv_lens, np.int32)
    problem = Problem(len(q_lens), heads, page_size, scale, ckv_scale, kpe_scale, qo_starts.ctypes.data, starts.ctypes.data,
                      lengths.ctypes.data, *[b.address for b in buffers])
    blocks = (c_int * 2)()
    run = library.mla_e4m3 if fp8 else library.mla_bf16
    assert run(ctypes.byref(problem), blocks) == 0
    out, lse = host.from_bf16(buffers[5].get()), buffers[6].get().astype(np.float64)

    worst = 0.0
    for request, (q_len, kv_len) in enumerate(zip(q_lens, kv_lens)):
        at = np.arange(kv_len)
        where = table[starts[request] + at // page_size], at % page_size
        keys, key_pe = ckv[where] * ckv_scale, kpe[where] * kpe_scale
        for i in range(q_len):
            row, seen = qo_starts[request] + i, kv_len - q_len + i + 1
            logits = (q_nope[row] @ keys[:seen].T + q_pe[row] @ key_pe[:seen].T) * np.float64(scale)
            top = logits.max(1, keepdims=True)
            e = np.exp(logits - top)
            p = e / e.sum(1, keepdims=True)
            want, size = p @ keys[:seen], p @ np.abs(keys[:seen])
            # BF16 thrice: the probabilities, the partial and the final output.
            allowed = size * (3 * 2**-9 + 2**-11)
            share = float((np.abs(out[row] - want) / allowed).max())
            assert np.isfinite(out[row]).all() and share <= 1, f"{name}: request {request}, query {i}: {share:.3g} of its bound"
            # To the base of two.
            want = (top + np.log(e.sum(1, keepdims=True)))[:, 0] / np.log(2)
            np.testing.assert_allclose(lse[row], want, rtol=1e-4, atol=1e-4)
            worst = max(worst, share)
    print(f"agrees  flashinfer {name}: {out.size} elements, worst {worst:.3f} of its bound, grid {blocks[0]}x{blocks[1]}")


folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
# Included, of no use to this kernel, and in wheels of hundreds of megabytes.
for header in ("cublasLt.h", "cublas_v2.h", "curand_kernel.h"):
    (folder / header).touch()
data = pathlib.Path(importlib.util.find_spec("flashinfer").submodule_search_locations[0]) / "data"
includes = [f"-I{data}/{part}/include" for part in (".", "spdlog", "cutlass")]
variants = {"shipped": [], "mended": ["-DMENDED"]}
variant = (sys.argv[2:] or ["mended"])[0]
library = nvcc.loaded(nvcc.start(folder / f"libflashinfer_mla_{variant}.so", pathlib.Path(__file__).with_suffix(".cu"),
                                 [*includes, f"-I{folder}", *variants[variant]]))
decode(library, f"MLA decode ({variant}), BF16 cache, 16 heads", 16, 16, [1, 2, 1, 3], [37, 130, 1, 257], False)
decode(library, f"MLA decode ({variant}), E4M3 cache, 128 heads", 128, 64, [1, 1], [100, 70], True)
