"""A host in a page: what the witnesses need of the CUDA driver, through ctypes, and number formats through numpy.

Runs on whatever `libcuda.so.1` the loader finds; under `hadal-emulator exec` that is the emulator's.
"""

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p

import numpy as np

cuda = ctypes.CDLL("libcuda.so.1")
CLUSTER, MAX_DYNAMIC_SHARED = 4, 8
U8, F16, F32, BF16 = 0, 6, 7, 9


def call(name, *args):
    code = getattr(cuda, name)(*args)
    if code:
        text = c_char_p()
        cuda.cuGetErrorName(code, byref(text))
        raise RuntimeError(f"{name}: {text.value.decode()}")


call("cuInit", 0)
context = c_void_p()
call("cuDevicePrimaryCtxRetain", byref(context), 0)
call("cuCtxSetCurrent", context)


class Type(str):
    """Triton's word for an element type, with the size a tensor library's type would have."""

    itemsize = 1


class Buffer:
    """Device memory that begins as an array; `dtype` is Triton's word for its elements."""

    def __init__(self, array, dtype=""):
        self.array, self.dtype, address = np.ascontiguousarray(array), Type(dtype), c_uint64()
        self.dtype.itemsize = self.array.itemsize
        self.shape, self.strides = self.array.shape, [s // self.array.itemsize for s in self.array.strides]
        call("cuMemAlloc_v2", byref(address), c_size_t(self.array.nbytes))
        self.address = address.value
        call("cuMemcpyHtoD_v2", address, self.array.ctypes.data_as(c_void_p), c_size_t(self.array.nbytes))

    def data_ptr(self):
        return self.address

    def stride(self):
        return self.strides

    def get(self):
        out = np.empty_like(self.array)
        call("cuMemcpyDtoH_v2", out.ctypes.data_as(c_void_p), c_uint64(self.address), c_size_t(out.nbytes))
        return out


class TensorMap:
    """A tiled map of a buffer; dimensions and box innermost first."""

    def __init__(self, buffer, kind, dims, strides, box, swizzle):
        self.memory = (ctypes.c_byte * 192)()
        start = ctypes.addressof(self.memory)
        self.address = start + (-start) % 64
        n = len(dims)
        call("cuTensorMapEncodeTiled", c_void_p(self.address), c_int(kind), c_uint(n), c_uint64(buffer.address),
             (c_uint64 * n)(*dims), (c_uint64 * max(1, n - 1))(*strides), (c_uint32 * n)(*box), (c_uint32 * n)(*[1] * n),
             c_int(0), c_int(swizzle), c_int(2), c_int(0))


class Attribute(ctypes.Structure):
    _fields_ = [("id", c_uint), ("pad", c_uint), ("value", c_uint32 * 16)]


class Config(ctypes.Structure):
    _fields_ = [("grid", c_uint * 3), ("block", c_uint * 3), ("shared", c_uint), ("stream", c_void_p),
                ("attributes", ctypes.POINTER(Attribute)), ("count", c_uint)]


def launch(ptx, entry, grid, block, shared, args, cluster=None):
    """Loads PTX and runs one kernel; an argument is a ctypes value, a TensorMap or bytes."""
    module, function = c_void_p(), c_void_p()
    call("cuModuleLoadData", byref(module), c_char_p(ptx.encode()))
    call("cuModuleGetFunction", byref(function), module, c_char_p(entry.encode()))
    call("cuFuncSetAttribute", function, c_int(MAX_DYNAMIC_SHARED), c_int(shared))
    keep = [ctypes.create_string_buffer(a, len(a)) if isinstance(a, bytes) else a for a in args]
    params = (c_void_p * len(keep))(*[a.address if isinstance(a, TensorMap) else ctypes.addressof(a) for a in keep])
    config = Config((c_uint * 3)(*grid), (c_uint * 3)(*block), shared, None)
    if cluster:
        attribute = Attribute(CLUSTER, 0, (c_uint32 * 16)(*cluster))
        config.attributes, config.count = ctypes.pointer(attribute), 1
    call("cuLaunchKernelEx", byref(config), function, params, None)
    call("cuCtxSynchronize")


def e4m3_values():
    code = np.arange(256)
    field, fraction = code >> 3 & 15, code & 7
    size = np.where(field == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (field - 10.0))
    return np.where(code & 127 == 127, np.nan, np.where(code & 128, -size, size))


E4M3 = e4m3_values()


def random_e4m3(rng, *shape):
    """Codes of finite values up to 4, and the values."""
    codes = rng.integers(0, 256, shape, dtype=np.uint8)
    codes = np.where((codes & 127) > 0x48, codes & 0xBF, codes).astype(np.uint8)
    return codes, E4M3[codes]


def random_bf16(rng, *shape):
    words = (rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return words, from_bf16(words)


def from_bf16(words):
    return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def check_product(name, got, a, b, accumulate, store):
    """Every element of A·Bᵀ against F64, each within a bound from its own terms; returns the largest share of it."""
    want, size = a @ b.T, np.abs(a) @ np.abs(b).T
    allowed = size * accumulate + (np.abs(want) + size * accumulate) * store
    share = float(np.max(np.abs(got - want) / np.maximum(allowed, 1e-300)))
    assert np.isfinite(got).all() and share <= 1, f"{name}: an element is off by {share:.3g} times what is allowed"
    print(f"agrees  {name}: {got.size} elements, worst {share:.3f} of its bound")
