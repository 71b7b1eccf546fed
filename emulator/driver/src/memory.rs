//! Device memory, copies, fills, pinned host memory, and what a pointer is.
//!
//! A copy waits for its stream and then happens: nothing runs by itself, so that is what stream order means here.

use std::alloc::Layout;
use std::ffi::{c_int, c_uint, c_void};

use crate::abi::{DevicePtr, Handle, In, Out, exports};
use crate::error::{Code, Error, Result};
use crate::state::{self, Kind, State, handle};

/// Alignment of pinned memory: a page.
const PAGE: usize = 4096;

/// Waits for a stream and whatever orders itself with it.
fn arrive(state: &mut State, stream: Handle) -> Result<()> {
    let stream = state.stream(stream)?;
    state.order(stream)?;
    state.wait(stream)
}

fn to_device(to: DevicePtr, from: In<c_void>, bytes: usize, stream: Handle) -> Result<()> {
    let mut state = state::lock()?;
    arrive(&mut state, stream)?;
    Ok(state.machine.write(to, from.bytes().slice(bytes)?)?)
}

fn to_host(to: Out<c_void>, from: DevicePtr, bytes: usize, stream: Handle) -> Result<()> {
    let mut state = state::lock()?;
    arrive(&mut state, stream)?;
    let mut copy = vec![0; bytes];
    state.machine.read(from, &mut copy)?;
    to.fill_from(&copy)
}

fn within(to: DevicePtr, from: DevicePtr, bytes: usize, stream: Handle) -> Result<()> {
    let mut state = state::lock()?;
    arrive(&mut state, stream)?;
    let mut copy = vec![0; bytes];
    state.machine.read(from, &mut copy)?;
    Ok(state.machine.write(to, &copy)?)
}

fn fill(to: DevicePtr, value: &[u8], count: usize, stream: Handle) -> Result<()> {
    let mut state = state::lock()?;
    if !to.is_multiple_of(value.len() as u64) {
        return Err(Error::invalid(format!(
            "{to:#x} is not a multiple of the {} bytes filled with",
            value.len()
        )));
    }
    arrive(&mut state, stream)?;
    match value {
        [byte] => Ok(state.machine.fill(to, *byte, count as u64)?),
        _ => Ok(state.machine.write(to, &value.repeat(count))?),
    }
}

fn alloc(bytes: usize) -> Result<DevicePtr> {
    if bytes == 0 {
        return Err(Error::invalid("an allocation of 0 bytes"));
    }
    let device = state::current()?;
    let mut state = state::lock()?;
    let address = state.machine.alloc(device, bytes as u64, 256)?;
    state.allocations.insert(address, (bytes as u64, device));
    Ok(address)
}

fn free(address: DevicePtr) -> Result<()> {
    if address == 0 {
        return Ok(());
    }
    let mut state = state::lock()?;
    let Some(&(_, device)) = state.allocations.get(&address) else {
        return Err(Error::invalid(format!("{address:#x} was not allocated, or was freed before")));
    };
    let waited = state.wait_device(device);
    state.machine.free(address)?;
    state.allocations.remove(&address);
    waited
}

fn host_alloc(bytes: usize) -> Result<usize> {
    let wrong = |_| Error::invalid(format!("{bytes} bytes of host memory"));
    let layout = Layout::from_size_align(bytes.max(1), PAGE).map_err(wrong)?;
    // SAFETY: the layout's size is not 0.
    let address = unsafe { std::alloc::alloc_zeroed(layout) } as usize;
    if address == 0 {
        return Err(Error::new(Code::OutOfMemory, format!("{bytes} bytes of host memory")));
    }
    state::lock()?.host.insert(address, layout.size());
    Ok(address)
}

/// One answer about a pointer, as the bytes the attribute has.
fn about(state: &State, attribute: c_int, pointer: DevicePtr) -> Result<Vec<u8>> {
    let Some((start, len, device)) = state.allocation(pointer) else {
        // Not ours: an ordinary host pointer. Callers tell the two apart by this very code.
        return Err(Error::quiet(Code::InvalidValue));
    };
    let word = |value: u64| Ok(value.to_ne_bytes().to_vec());
    let small = |value: u32| Ok(value.to_ne_bytes().to_vec());
    match attribute {
        1 => word(handle(Kind::Context, device) as u64),
        // Device memory.
        2 => small(2),
        3 => word(pointer),
        7 => word(start),
        8 => Ok(vec![0]),
        9 => small(device as u32),
        11 => word(start),
        12 => word(len),
        13 => Ok(vec![1]),
        _ => Err(Error::quiet(Code::InvalidValue)),
    }
}

exports! {
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let device = state::current()?;
        let state = state::lock()?;
        let all = state.config.devices[device].memory_bytes;
        let used: u64 = state.allocations.values().filter(|a| a.1 == device).map(|a| a.0).sum();
        free.put_if_wanted(all.saturating_sub(used) as usize);
        total.put_if_wanted(all as usize);
        Ok(())
    }

    fn cuMemAlloc_v2(address: Out<DevicePtr>, bytes: usize) {
        address.put(alloc(bytes)?)
    }

    fn cuMemAllocAsync(address: Out<DevicePtr>, bytes: usize, _stream: Handle) {
        address.put(alloc(bytes)?)
    }

    fn cuMemFree_v2(address: DevicePtr) {
        free(address)
    }

    fn cuMemFreeAsync(address: DevicePtr, _stream: Handle) {
        free(address)
    }

    fn cuMemGetAddressRange_v2(base: Out<DevicePtr>, size: Out<usize>, pointer: DevicePtr) {
        let found = state::lock()?.allocation(pointer).ok_or_else(|| Error::quiet(Code::InvalidValue))?;
        base.put_if_wanted(found.0);
        size.put_if_wanted(found.1 as usize);
        Ok(())
    }

    fn cuMemAllocHost_v2(address: Out<usize>, bytes: usize) {
        address.put(host_alloc(bytes)?)
    }

    fn cuMemHostAlloc(address: Out<usize>, bytes: usize, _flags: c_uint) {
        address.put(host_alloc(bytes)?)
    }

    fn cuMemFreeHost(address: usize) {
        let Some(bytes) = state::lock()?.host.remove(&address) else {
            return Err(Error::invalid(format!("{address:#x} is no pinned memory of this driver")));
        };
        let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Error::quiet(Code::Unknown))?;
        // SAFETY: the address was allocated with this layout, and leaving the table it cannot be freed again.
        unsafe { std::alloc::dealloc(address as *mut u8, layout) };
        Ok(())
    }

    fn cuMemHostGetDevicePointer_v2(_address: Out<DevicePtr>, _host: usize, _flags: c_uint) {
        Err(Error::new(Code::NotSupported, "host memory is not mapped into the emulated device"))
    }

    fn cuMemcpyHtoD_v2(to: DevicePtr, from: In<c_void>, bytes: usize) {
        to_device(to, from, bytes, 0)
    }

    fn cuMemcpyHtoDAsync_v2(to: DevicePtr, from: In<c_void>, bytes: usize, stream: Handle) {
        to_device(to, from, bytes, stream)
    }

    fn cuMemcpyDtoH_v2(to: Out<c_void>, from: DevicePtr, bytes: usize) {
        to_host(to, from, bytes, 0)
    }

    fn cuMemcpyDtoHAsync_v2(to: Out<c_void>, from: DevicePtr, bytes: usize, stream: Handle) {
        to_host(to, from, bytes, stream)
    }

    fn cuMemcpyDtoD_v2(to: DevicePtr, from: DevicePtr, bytes: usize) {
        within(to, from, bytes, 0)
    }

    fn cuMemcpyDtoDAsync_v2(to: DevicePtr, from: DevicePtr, bytes: usize, stream: Handle) {
        within(to, from, bytes, stream)
    }

    fn cuMemcpyPeerAsync(to: DevicePtr, _to_context: Handle, from: DevicePtr, _from_context: Handle, bytes: usize,
                         stream: Handle) {
        within(to, from, bytes, stream)
    }

    fn cuMemsetD8_v2(to: DevicePtr, value: u8, count: usize) {
        fill(to, &[value], count, 0)
    }

    fn cuMemsetD8Async(to: DevicePtr, value: u8, count: usize, stream: Handle) {
        fill(to, &[value], count, stream)
    }

    fn cuMemsetD16_v2(to: DevicePtr, value: u16, count: usize) {
        fill(to, &value.to_le_bytes(), count, 0)
    }

    fn cuMemsetD16Async(to: DevicePtr, value: u16, count: usize, stream: Handle) {
        fill(to, &value.to_le_bytes(), count, stream)
    }

    fn cuMemsetD32_v2(to: DevicePtr, value: u32, count: usize) {
        fill(to, &value.to_le_bytes(), count, 0)
    }

    fn cuMemsetD32Async(to: DevicePtr, value: u32, count: usize, stream: Handle) {
        fill(to, &value.to_le_bytes(), count, stream)
    }

    fn cuPointerGetAttribute(data: Out<c_void>, attribute: c_int, pointer: DevicePtr) {
        data.fill_from(&about(&*state::lock()?, attribute, pointer)?)
    }

    /// Like the single one, but what does not apply is 0 and no error.
    fn cuPointerGetAttributes(count: c_uint, attributes: In<c_int>, data: In<Out<c_void>>, pointer: DevicePtr) {
        let state = state::lock()?;
        for i in 0..count as usize {
            let place = data.at(i)?;
            let attribute = attributes.at(i)?;
            let none = match attribute {
                8 | 13 => vec![0],
                2 | 9 => vec![0; 4],
                _ => vec![0; 8],
            };
            place.fill_from(&about(&state, attribute, pointer).unwrap_or(none))?;
        }
        Ok(())
    }
}
