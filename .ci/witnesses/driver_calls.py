"""The emulated driver's calls and error codes, as a C program sees them. Standard library only; two devices."""

import ctypes
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p

cuda = ctypes.CDLL("libcuda.so.1")

PTX = b"""
.version 8.0
.target sm_90a
.address_size 64
.global .u32 added = 5;
.visible .entry add(.param .u64 to, .param .u64 from)
{
    .reg .u64 t, f;
    .reg .u32 x, a;
    ld.param.u64 t, [to];
    ld.param.u64 f, [from];
    ld.global.u32 x, [f];
    ld.global.u32 a, [added];
    add.u32 x, x, a;
    st.global.u32 [t], x;
    ret;
}
"""


def call(name, *args, code=0):
    got = getattr(cuda, name)(*args)
    assert got == code, f"{name}: {got}, expected {code}"


def handle(name, *args):
    out = c_void_p()
    call(name, byref(out), *args)
    return out


def alloc(value):
    address = c_uint64()
    call("cuMemAlloc_v2", byref(address), c_size_t(4))
    call("cuMemsetD32_v2", address, c_uint(value), c_size_t(1))
    return address


def read(address):
    out = c_uint32()
    call("cuMemcpyDtoH_v2", byref(out), address, c_size_t(4))
    return out.value


def launch(function, stream, to, source, shared=0, code=0):
    params = (c_void_p * 2)(ctypes.addressof(to), ctypes.addressof(source))
    call("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, shared, stream, params, None, code=code)


count = c_int()
call("cuDeviceGetCount", byref(count), code=3)
call("cuInit", 1, code=1)
call("cuInit", 0)
call("cuDeviceGetCount", byref(count))
assert count.value == 2
call("cuDeviceGet", byref(count), 2, code=101)
call("cuMemAlloc_v2", byref(c_uint64()), c_size_t(4), code=201)

contexts = [handle("cuDevicePrimaryCtxRetain", device) for device in range(2)]
call("cuCtxSetCurrent", contexts[0])
call("cuMemAlloc_v2", byref(c_uint64()), c_size_t(0), code=1)
call("cuMemFree_v2", c_uint64(0x1234), code=1)

# PTX that is wrong: the log says where.
log = ctypes.create_string_buffer(4096)
options, values = (c_uint * 2)(5, 6), (c_void_p * 2)(ctypes.addressof(log), 4096)
call("cuModuleLoadDataEx", byref(c_void_p()), PTX.replace(b"add.u32 x", b"add.x32 x"), 2, options, values, code=218)
assert b":14:" in log.value and b"add.x32" in log.value, log.value
call("cuModuleLoadData", byref(c_void_p()), b"\x50\xed\x55\xba and so on", code=209)

module = handle("cuModuleLoadData", PTX)
call("cuModuleGetFunction", byref(c_void_p()), module, b"subtract", code=500)
function = handle("cuModuleGetFunction", module, b"add")
variable, size = c_uint64(), c_size_t()
call("cuModuleGetGlobal_v2", byref(variable), byref(size), module, b"added")
assert size.value == 4 and read(variable) == 5

# One stream goes on where another got to.
streams = [handle("cuStreamCreate", 1) for _ in range(2)]
event = handle("cuEventCreate", 2)
a, b, c = alloc(10), alloc(0), alloc(0)
launch(function, streams[0], b, a)
call("cuEventRecord", event, streams[0])
call("cuStreamWaitEvent", streams[1], event, 0)
launch(function, streams[1], c, b)
call("cuStreamSynchronize", streams[1])
assert read(c) == 20, read(c)
call("cuEventQuery", event)
call("cuEventElapsedTime", byref(c_float()), event, event, code=400)
call("cuStreamSynchronize", c_void_p(0xdead0000), code=400)
call("cuStreamDestroy_v2", streams[1])
call("cuStreamSynchronize", streams[1], code=400)

# What a launch may not ask for.
launch(function, None, b, a, shared=100_000, code=1)
call("cuFuncSetAttribute", function, 8, 300_000, code=1)
call("cuFuncSetAttribute", function, 8, 200_000)
launch(function, None, b, a, shared=100_000)
call("cuCtxSynchronize")

# Names found at run time are the same functions.
found, status = c_void_p(), c_int()
call("cuGetProcAddress_v2", b"cuMemAlloc", byref(found), 12000, c_uint64(0), byref(status))
assert found.value == ctypes.cast(cuda.cuMemAlloc_v2, c_void_p).value and status.value == 0
call("cuGetProcAddress_v2", b"cuNothing", byref(found), 12000, c_uint64(0), byref(status), code=500)
assert found.value is None and status.value == 1

# Another device's memory: out of reach until access is enabled. The fault stays, so that comes last.
call("cuCtxEnablePeerAccess", contexts[1], 0)
call("cuCtxEnablePeerAccess", contexts[1], 0, code=704)
call("cuCtxPushCurrent_v2", contexts[1])
theirs = alloc(30)
call("cuCtxPopCurrent_v2", byref(c_void_p()))
launch(function, streams[0], c, theirs)
call("cuStreamSynchronize", streams[0])
assert read(c) == 35
call("cuCtxDisablePeerAccess", contexts[1])
launch(function, streams[0], c, theirs)
call("cuStreamSynchronize", streams[0], code=700)
call("cuMemAlloc_v2", byref(c_uint64()), c_size_t(4))
call("cuCtxSynchronize", code=700)
text = c_char_p()
call("cuGetErrorName", 700, byref(text))
assert text.value == b"CUDA_ERROR_ILLEGAL_ADDRESS"
print("agrees  driver calls")
