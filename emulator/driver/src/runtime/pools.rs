//! Memory pools. Allocations in stream order are made at once and releases wait, so a pool has nothing to keep: all pools of a device
//! are the same one, and its attributes are remembered by nobody.

use std::ffi::{c_int, c_void};

use crate::abi::{DevicePtr, Handle, In, Out};
use crate::error::{Code, Error, Result, answered};
use crate::memory::{cuMemAllocAsync, cuMemFreeAsync};
use crate::runtime::runtime;
use crate::state::{self, Kind, handle, index};

/// The start of `cudaMemPoolProps`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Props {
    allocation: c_int,
    handles: c_int,
    location: c_int,
    device: c_int,
}

fn pool_of(device: c_int) -> Result<Handle> {
    Ok(handle(Kind::Pool, state::lock()?.device(device)?))
}

fn alloc(address: Out<DevicePtr>, bytes: usize, stream: Handle) -> Result<()> {
    // Nothing is a valid amount for the runtime.
    if bytes == 0 { address.put(0) } else { answered(cuMemAllocAsync(address, bytes, stream)) }
}

/// `cudaMemPoolReuse…` are numbers of 4 bytes, the others of 8.
fn wide(attribute: c_int) -> Result<bool> {
    match attribute {
        1..=3 => Ok(false),
        4..=8 => Ok(true),
        _ => Err(Error::quiet(Code::InvalidValue)),
    }
}

runtime! {
    fn cudaMallocAsync(address: Out<DevicePtr>, bytes: usize, stream: Handle) {
        alloc(address, bytes, stream)
    }

    fn cudaMallocFromPoolAsync(address: Out<DevicePtr>, bytes: usize, pool: Handle, stream: Handle) {
        index(Kind::Pool, pool)?;
        alloc(address, bytes, stream)
    }

    fn cudaFreeAsync(address: DevicePtr, stream: Handle) {
        answered(cuMemFreeAsync(address, stream))
    }

    fn cudaDeviceGetDefaultMemPool(pool: Out<Handle>, device: c_int) {
        pool.put(pool_of(device)?)
    }

    fn cudaDeviceGetMemPool(pool: Out<Handle>, device: c_int) {
        pool.put(pool_of(device)?)
    }

    fn cudaDeviceSetMemPool(_device: c_int, pool: Handle) {
        index(Kind::Pool, pool).map(|_| ())
    }

    fn cudaMemPoolCreate(pool: Out<Handle>, props: In<Props>) {
        pool.put(pool_of(props.get()?.device)?)
    }

    fn cudaMemPoolDestroy(pool: Handle) {
        index(Kind::Pool, pool).map(|_| ())
    }

    fn cudaMemPoolTrimTo(pool: Handle, _bytes: usize) {
        index(Kind::Pool, pool).map(|_| ())
    }

    fn cudaMemPoolSetAttribute(pool: Handle, attribute: c_int, _value: In<c_void>) {
        index(Kind::Pool, pool)?;
        wide(attribute).map(|_| ())
    }

    fn cudaMemPoolGetAttribute(pool: Handle, attribute: c_int, value: Out<c_void>) {
        index(Kind::Pool, pool)?;
        value.fill_from(if wide(attribute)? { &[0; 8] } else { &[0; 4] })
    }

    /// Who may reach a device's memory is said device by device, by `cudaDeviceEnablePeerAccess`.
    fn cudaMemPoolSetAccess(pool: Handle, _access: In<c_void>, _count: usize) {
        index(Kind::Pool, pool).map(|_| ())
    }
}
