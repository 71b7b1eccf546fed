"""The emulated driver's calls and error codes, as a C program sees them. Standard library only; two devices."""

import ctypes
import threading
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

WAIT = b"""
.version 8.0
.target sm_90a
.address_size 64
.visible .entry answer(.param .u64 to, .param .u64 from)
{
    .reg .u64 t, f;
    .reg .u32 x;
    .reg .pred none;
    ld.param.u64 t, [to];
    ld.param.u64 f, [from];
again:
    ld.acquire.sys.global.u32 x, [f];
    setp.eq.u32 none, x, 0;
    @none bra again;
    add.u32 x, x, 1;
    st.release.sys.global.u32 [t], x;
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

# Capture: two streams fork and join, nothing runs until the graph is launched, and it runs as often as that happens.
def capture(stream, mode=0):
    call("cuStreamBeginCapture_v2", stream, mode)


def end(stream, code=0):
    graph = c_void_p(1)
    call("cuStreamEndCapture", stream, byref(graph), code=code)
    assert (graph.value is None) == (code != 0)
    return graph


def status(stream):
    out = c_int()
    call("cuStreamIsCapturing", stream, byref(out))
    return out.value


def follow(to, source):
    call("cuEventRecord", event, source)
    call("cuStreamWaitEvent", to, event, 0)


def instantiate(graph):
    return handle("cuGraphInstantiateWithFlags", graph, c_uint64(0))


s, t = (handle("cuStreamCreate", 1) for _ in range(2))
blocking = handle("cuStreamCreate", 0)
a, b, c, d = alloc(0), alloc(0), alloc(0), alloc(0)
capture(s)
call("cuMemsetD32Async", a, c_uint(10), c_size_t(1), s)
launch(function, s, b, a)
follow(t, s)
launch(function, t, c, b)
launch(function, s, d, b)
follow(s, t)
call("cuMemcpyDtoDAsync_v2", a, c, c_size_t(4), s)
assert (status(s), status(t), status(blocking)) == (1, 1, 0)
state, number = c_int(), c_uint64()
call("cuStreamGetCaptureInfo_v2", s, byref(state), byref(number), None, None, None)
assert state.value == 1 and number.value > 0
graph = end(s)
assert (status(s), status(t)) == (0, 0)
call("cuStreamSynchronize", s)
assert [read(x) for x in (a, b, c, d)] == [0, 0, 0, 0]
runs = instantiate(graph)
call("cuGraphUpload", runs, s)
for stream in (s, t, blocking, None):
    for x in (a, b, c, d):
        call("cuMemsetD32_v2", x, c_uint(0), c_size_t(1))
    call("cuGraphLaunch", runs, stream)
    call("cuGraphLaunch", runs, stream)
    call("cuStreamSynchronize", stream)
    assert [read(x) for x in (a, b, c, d)] == [20, 15, 20, 20]
nodes, kinds, many = (c_void_p * 8)(), [], c_size_t(8)
call("cuGraphGetNodes", graph, nodes, byref(many))
for node in nodes[: many.value]:
    call("cuGraphNodeGetType", c_void_p(node), byref(state))
    kinds.append(state.value)
assert sorted(kinds) == [0, 0, 0, 1, 2], kinds
call("cuGraphGetRootNodes", graph, None, byref(many))
assert many.value == 1

# What breaks a capture, by the driver's codes; afterwards the streams are free again.
pageable = c_uint32(3)


def unjoined():
    follow(t, s)
    launch(function, t, b, a)


def merge():
    capture(t)
    call("cuEventRecord", event, t)
    call("cuStreamWaitEvent", s, event, 0, code=902)
    end(t, code=901)


def captured_event():
    call("cuEventRecord", event, s)
    call("cuEventSynchronize", event, code=907)
    call("cuEventQuery", event, code=907)


def elsewhere():
    follow(t, s)
    call("cuStreamEndCapture", t, byref(c_void_p()), code=903)


for wrong, code in [
    (lambda: call("cuStreamSynchronize", s, code=900), 901),
    (lambda: call("cuStreamQuery", s, code=900), 901),
    (lambda: call("cuCtxSynchronize", code=900), 901),
    (lambda: call("cuMemAlloc_v2", byref(c_uint64()), c_size_t(4), code=900), 901),
    (lambda: call("cuMemcpyHtoDAsync_v2", a, byref(pageable), c_size_t(4), s, code=900), 901),
    (lambda: call("cuStreamWaitEvent", s, handle("cuEventCreate", 2), 0, code=905), 901),
    (lambda: call("cuStreamBeginCapture_v2", s, 0, code=401), 0),
    (captured_event, 901),
    (merge, 901),
    (elsewhere, 901),
    (unjoined, 904),
]:
    capture(s)
    wrong()
    if code == 901:
        assert status(s) == 2
        launch(function, s, b, a, code=901)
    end(s, code=code)
    assert (status(s), status(t)) == (0, 0)
end(s, code=401)
call("cuStreamBeginCapture_v2", None, 0, code=900)
# The legacy stream would wait for a blocking stream, not for others.
capture(s)
launch(function, None, b, a)
end(s)
capture(blocking)
launch(function, None, b, a, code=906)
end(blocking, code=901)
# In relaxed mode, or for a thread in relaxed mode, allocating is allowed.
capture(s, mode=2)
alloc(1)
end(s)
mode = c_int(2)
call("cuThreadExchangeStreamCaptureMode", byref(mode))
assert mode.value == 0
capture(s)
alloc(1)
end(s)
call("cuThreadExchangeStreamCaptureMode", byref(mode))
assert mode.value == 2
# Another thread's capture forbids it in global mode only, and ends on its own thread.
for mode, code in [(0, 900), (1, 0)]:
    capture(s, mode)
    thread = threading.Thread(target=lambda: (
        call("cuCtxSetCurrent", contexts[0]),
        call("cuStreamEndCapture", s, byref(c_void_p()), code=908),
        call("cuMemAlloc_v2", byref(c_uint64()), c_size_t(4), code=code),
    ))
    thread.start()
    thread.join()
    end(s, code=901 if code else 0)


# A graph made by hand, and changed.
class KernelNode(ctypes.Structure):
    _fields_ = [("function", c_void_p), ("dims", c_uint * 7), ("params", c_void_p), ("extra", c_void_p),
                ("kernel", c_void_p), ("context", c_void_p)]


def kernel_node(to, source):
    params = (c_void_p * 2)(ctypes.addressof(to), ctypes.addressof(source))
    node = KernelNode(function, (c_uint * 7)(1, 1, 1, 1, 1, 1, 0), ctypes.addressof(params), None, None, None)
    node.keep = params
    return node


def add(*args):
    return handle("cuGraphAddKernelNode_v2", graph, *args)


for x, value in zip((a, b, c), (1, 0, 0)):
    call("cuMemsetD32_v2", x, c_uint(value), c_size_t(1))
graph = handle("cuGraphCreate", 0)
first = add(None, c_size_t(0), byref(kernel_node(b, a)))
meeting = handle("cuGraphAddEmptyNode", graph, byref(first), c_size_t(1))
second = add(byref(meeting), c_size_t(1), byref(kernel_node(c, b)))
runs, updated = instantiate(graph), (c_uint64 * 3)()
call("cuGraphLaunch", runs, s)
call("cuStreamSynchronize", s)
assert read(c) == 11
call("cuGraphExecKernelNodeSetParams_v2", runs, second, byref(kernel_node(c, a)))
call("cuGraphLaunch", runs, s)
call("cuStreamSynchronize", s)
assert read(c) == 6
call("cuGraphExecUpdate_v2", runs, graph, updated)
call("cuGraphLaunch", runs, s)
call("cuStreamSynchronize", s)
assert read(c) == 11
add(None, c_size_t(0), byref(kernel_node(b, a)))
call("cuGraphExecUpdate_v2", runs, graph, updated, code=910)
assert updated[0] & 0xFFFFFFFF == 1
library = handle("cuLibraryLoadData", PTX, None, None, 0, None, None, 0)
by_kernel = kernel_node(c, a)
by_kernel.function, by_kernel.kernel = None, handle("cuLibraryGetKernel", library, b"add")
call("cuGraphExecKernelNodeSetParams_v2", runs, second, byref(by_kernel))
call("cuGraphLaunch", runs, s)
call("cuStreamSynchronize", s)
assert read(c) == 6
call("cuGraphDestroy", graph)
call("cuGraphExecDestroy", runs)
call("cuGraphLaunch", runs, s, code=400)

# Host memory at its own address: pinned, registered, managed. A node of a graph reads it when the graph runs.
pinned, own = c_void_p(), (c_uint32 * 4)(0, 40, 0, 0)
call("cuMemHostAlloc", byref(pinned), c_size_t(8), 3)
call("cuMemHostGetDevicePointer_v2", byref(address := c_uint64()), pinned, 0)
assert address.value == pinned.value
words = ctypes.cast(pinned, ctypes.POINTER(c_uint32))
words[0] = 30
launch(function, s, c_uint64(pinned.value + 4), c_uint64(pinned.value))
call("cuStreamSynchronize", s)
assert words[1] == 35
capture(s)
call("cuMemcpyHtoDAsync_v2", a, pinned, c_size_t(4), s)
launch(function, s, b, a)
call("cuMemcpyDtoHAsync_v2", c_void_p(pinned.value + 4), b, c_size_t(4), s)
runs = instantiate(end(s))
for value in (100, 200):
    words[0] = value
    call("cuGraphLaunch", runs, s)
    call("cuStreamSynchronize", s)
    assert words[1] == value + 5
here = ctypes.addressof(own)
call("cuMemHostRegister_v2", c_void_p(here), c_size_t(16), 2)
call("cuMemHostRegister_v2", c_void_p(here), c_size_t(16), 2, code=712)
launch(function, s, c_uint64(here), c_uint64(here + 4))
call("cuStreamSynchronize", s)
assert own[0] == 45
call("cuMemHostGetFlags", byref(flags := c_uint()), c_void_p(here + 8))
assert flags.value == 2
managed = c_uint64()
call("cuMemAllocManaged", byref(managed), c_size_t(8), 1)
for pointer, kind, is_managed in [(pinned.value + 4, 1, 0), (here, 1, 0), (managed.value, 2, 1), (a.value, 2, 0)]:
    got, yes, base = c_uint(), c_uint(), c_uint64()
    call("cuPointerGetAttribute", byref(got), 2, c_uint64(pointer))
    call("cuPointerGetAttribute", byref(yes), 8, c_uint64(pointer))
    call("cuPointerGetAttribute", byref(base), 11, c_uint64(pointer))
    assert (got.value, yes.value) == (kind, is_managed) and base.value in (pinned.value, here, managed.value, a.value)
call("cuMemHostUnregister", c_void_p(here))
call("cuMemHostUnregister", c_void_p(here), code=713)
call("cuMemFreeHost", pinned)
call("cuMemFreeHost", pinned, code=1)
call("cuMemFree_v2", managed)
call("cuPointerGetAttribute", byref(c_uint()), 2, managed, code=1)

# A kernel waits for a flag of the host's and answers; it gets on while the host asks.
waiting = handle("cuModuleLoadData", WAIT)
wait = handle("cuModuleGetFunction", waiting, b"answer")
call("cuMemAllocHost_v2", byref(pinned), c_size_t(8))
words = ctypes.cast(pinned, ctypes.POINTER(c_uint32))
launch(wait, s, c_uint64(pinned.value + 4), c_uint64(pinned.value))
for _ in range(3):
    call("cuStreamQuery", s, code=600)
words[0] = 7
while cuda.cuStreamQuery(s) != 0:
    pass
assert words[1] == 8

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
