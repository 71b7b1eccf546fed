//! Devices, memory, streams, events, libraries and errors: each the driver's, under the runtime's name.

use std::ffi::{c_int, c_uint, c_void};

use crate::abi::{DevicePtr, Handle, In, Out, Text};
use crate::capture::cuStreamIsCapturing;
use crate::context::cuCtxSynchronize;
use crate::device::{VERSION, cuDeviceGetAttribute, cuDeviceGetCount};
use crate::error::{self, Error, Result, answered};
use crate::event::*;
use crate::host::*;
use crate::library::*;
use crate::memory::*;
use crate::runtime::{LAST, runtime, use_device};
use crate::state;
use crate::stream::*;
use crate::symbols::cuGetProcAddress_v2;

/// `cudaMemcpyKind`; the last finds out by the addresses.
const HOST_TO_HOST: c_int = 0;
const HOST_TO_DEVICE: c_int = 1;
const DEVICE_TO_HOST: c_int = 2;
const DEVICE_TO_DEVICE: c_int = 3;
const DEFAULT: c_int = 4;

pub fn copy(to: Out<c_void>, from: In<c_void>, bytes: usize, kind: c_int, stream: Handle) -> Result<()> {
    let kind = if kind == DEFAULT {
        let state = state::lock()?;
        let on_device = |address: usize| state.allocation(address as u64).is_some() as c_int;
        on_device(from.address()) * DEVICE_TO_HOST + on_device(to.address()) * HOST_TO_DEVICE
    } else {
        kind
    };
    let (device_to, device_from) = (to.address() as DevicePtr, from.address() as DevicePtr);
    match kind {
        HOST_TO_HOST => {
            answered(cuStreamSynchronize(stream))?;
            to.fill_from(from.bytes().slice(bytes)?)
        }
        HOST_TO_DEVICE => answered(cuMemcpyHtoDAsync_v2(device_to, from, bytes, stream)),
        DEVICE_TO_HOST => answered(cuMemcpyDtoHAsync_v2(to, device_from, bytes, stream)),
        DEVICE_TO_DEVICE => answered(cuMemcpyDtoDAsync_v2(device_to, device_from, bytes, stream)),
        _ => Err(Error::invalid(format!("a copy of kind {kind}"))),
    }
}

fn alloc(address: Out<DevicePtr>, bytes: usize) -> Result<()> {
    // Nothing is a valid amount for the runtime.
    if bytes == 0 { address.put(0) } else { answered(cuMemAlloc_v2(address, bytes)) }
}

runtime! {
    fn cudaDriverGetVersion(version: Out<c_int>) {
        version.put(VERSION)
    }

    fn cudaRuntimeGetVersion(version: Out<c_int>) {
        version.put(VERSION)
    }

    fn cudaGetDeviceCount(count: Out<c_int>) {
        answered(cuDeviceGetCount(count))
    }

    fn cudaGetDevice(device: Out<c_int>) {
        device.put(state::current()? as c_int)
    }

    fn cudaSetDevice(device: c_int) {
        use_device(device)
    }

    fn cudaDeviceGetAttribute(value: Out<c_int>, attribute: c_int, device: c_int) {
        answered(cuDeviceGetAttribute(value, attribute, device))
    }

    fn cudaDeviceSynchronize() {
        answered(cuCtxSynchronize())
    }

    fn cudaMalloc(address: Out<DevicePtr>, bytes: usize) {
        alloc(address, bytes)
    }

    fn cudaFree(address: DevicePtr) {
        answered(cuMemFree_v2(address))
    }

    fn cudaMallocHost(address: Out<usize>, bytes: usize) {
        answered(cuMemAllocHost_v2(address, bytes))
    }

    fn cudaHostAlloc(address: Out<usize>, bytes: usize, flags: c_uint) {
        answered(cuMemHostAlloc(address, bytes, flags))
    }

    fn cudaFreeHost(address: usize) {
        answered(cuMemFreeHost(address))
    }

    fn cudaMemGetInfo(free: Out<usize>, total: Out<usize>) {
        answered(cuMemGetInfo_v2(free, total))
    }

    fn cudaMemcpy(to: Out<c_void>, from: In<c_void>, bytes: usize, kind: c_int) {
        copy(to, from, bytes, kind, 0)
    }

    fn cudaMemcpyAsync(to: Out<c_void>, from: In<c_void>, bytes: usize, kind: c_int, stream: Handle) {
        copy(to, from, bytes, kind, stream)
    }

    fn cudaMemset(to: DevicePtr, value: c_int, bytes: usize) {
        answered(cuMemsetD8_v2(to, value as u8, bytes))
    }

    fn cudaMemsetAsync(to: DevicePtr, value: c_int, bytes: usize, stream: Handle) {
        answered(cuMemsetD8Async(to, value as u8, bytes, stream))
    }

    fn cudaStreamCreate(stream: Out<Handle>) {
        answered(cuStreamCreate(stream, 0))
    }

    fn cudaStreamCreateWithFlags(stream: Out<Handle>, flags: c_uint) {
        answered(cuStreamCreate(stream, flags))
    }

    fn cudaStreamCreateWithPriority(stream: Out<Handle>, flags: c_uint, priority: c_int) {
        answered(cuStreamCreateWithPriority(stream, flags, priority))
    }

    fn cudaStreamDestroy(stream: Handle) {
        answered(cuStreamDestroy_v2(stream))
    }

    fn cudaStreamSynchronize(stream: Handle) {
        answered(cuStreamSynchronize(stream))
    }

    fn cudaStreamQuery(stream: Handle) {
        answered(cuStreamQuery(stream))
    }

    fn cudaStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) {
        answered(cuStreamWaitEvent(stream, event, flags))
    }

    fn cudaStreamIsCapturing(stream: Handle, status: Out<c_int>) {
        answered(cuStreamIsCapturing(stream, status))
    }

    fn cudaEventCreate(event: Out<Handle>) {
        answered(cuEventCreate(event, 0))
    }

    fn cudaEventCreateWithFlags(event: Out<Handle>, flags: c_uint) {
        answered(cuEventCreate(event, flags))
    }

    fn cudaEventDestroy(event: Handle) {
        answered(cuEventDestroy_v2(event))
    }

    fn cudaEventRecord(event: Handle, stream: Handle) {
        answered(cuEventRecord(event, stream))
    }

    fn cudaEventSynchronize(event: Handle) {
        answered(cuEventSynchronize(event))
    }

    fn cudaEventQuery(event: Handle) {
        answered(cuEventQuery(event))
    }

    fn cudaEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        answered(cuEventElapsedTime(milliseconds, start, end))
    }

    fn cudaLibraryLoadData(library: Out<Handle>, image: In<c_void>, options: In<c_uint>, values: In<Out<c_void>>,
                           count: c_uint, library_options: In<c_uint>, library_values: In<Out<c_void>>,
                           library_count: c_uint) {
        answered(cuLibraryLoadData(library, image, options, values, count, library_options, library_values, library_count))
    }

    fn cudaLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) {
        answered(cuLibraryGetKernel(kernel, library, name))
    }

    fn cudaLibraryGetKernelCount(count: Out<c_uint>, library: Handle) {
        answered(cuLibraryGetKernelCount(count, library))
    }

    fn cudaLibraryUnload(library: Handle) {
        answered(cuLibraryUnload(library))
    }

    fn cudaKernelSetAttributeForDevice(kernel: Handle, attribute: c_int, value: c_int, device: c_int) {
        answered(cuKernelSetAttribute(attribute, value, kernel, device))
    }

    fn cudaGetDriverEntryPoint(name: Text, function: Out<*const c_void>, flags: u64, status: Out<c_int>) {
        answered(cuGetProcAddress_v2(name, function, VERSION, flags, status))
    }

    fn cudaGetDriverEntryPointByVersion(name: Text, function: Out<*const c_void>, version: c_uint, flags: u64,
                                        status: Out<c_int>) {
        answered(cuGetProcAddress_v2(name, function, version as c_int, flags, status))
    }
}

/// The last error, which is then forgotten; but what a kernel did wrong stays with every call.
// SAFETY: the name is the CUDA runtime's own.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetLastError() -> c_int {
    LAST.replace(0)
}

// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn cudaPeekAtLastError() -> c_int {
    LAST.get()
}

fn text(code: c_int, which: usize) -> *const u8 {
    error::strings(code).map_or(c"unrecognized error code".as_ptr().cast(), |strings| strings[which].as_ptr())
}

// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorName(code: c_int) -> *const u8 {
    text(code, 1)
}

// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetErrorString(code: c_int) -> *const u8 {
    text(code, 2)
}
