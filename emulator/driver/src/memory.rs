//! Device memory, copies, fills, and what a pointer is.
//!
//! A copy waits for its stream and then happens: nothing runs by itself, so that is what stream order means here. In a stream that
//! captures it becomes a node, for which host memory must be pinned (`host`): what it holds is read when the graph runs.

use std::ffi::{c_int, c_uint, c_void};

use hadal_emulator::StreamId;

use crate::abi::{DevicePtr, Handle, In, Out, exports};
use crate::error::{Code, Error, Result};
use crate::host;
use crate::state::{self, Kind, State, handle};

/// Waits for a stream and whatever orders itself with it. `Some`: it captures, and the machine knows it by this name.
fn arrive(state: &mut State, stream: Handle) -> Result<Option<StreamId>> {
    let stream = state.stream(stream)?;
    if state.is_capturing(stream) {
        return Ok(Some(state.streams[stream].id));
    }
    state.order(stream)?;
    state.wait(stream)?;
    Ok(None)
}

/// A copy as a node.
fn capture(state: &mut State, stream: StreamId, to: u64, from: u64, bytes: usize) -> Result<()> {
    for address in [to, from] {
        if state.allocation(address).is_none() && !state.machine.is_host_memory(address, bytes as u64) {
            state.machine.break_capture(stream);
            let why = format!(
                "{bytes} bytes at {address:#x} are not pinned: a copy of a graph needs memory that stays"
            );
            return Err(Error::new(Code::CaptureUnsupported, why));
        }
    }
    Ok(state.machine.copy_async(stream, to, from, bytes as u64)?)
}

fn to_device(to: DevicePtr, from: In<c_void>, bytes: usize, stream: Handle) -> Result<()> {
    let mut state = state::lock()?;
    if let Some(captured) = arrive(&mut state, stream)? {
        return capture(&mut state, captured, to, from.address() as u64, bytes);
    }
    Ok(state.machine.write(to, from.bytes().slice(bytes)?)?)
}

fn to_host(to: Out<c_void>, from: DevicePtr, bytes: usize, stream: Handle) -> Result<()> {
    let mut state = state::lock()?;
    if let Some(captured) = arrive(&mut state, stream)? {
        return capture(&mut state, captured, to.address() as u64, from, bytes);
    }
    let mut copy = vec![0; bytes];
    state.machine.read(from, &mut copy)?;
    to.fill_from(&copy)
}

fn within(to: DevicePtr, from: DevicePtr, bytes: usize, stream: Handle) -> Result<()> {
    let mut state = state::lock()?;
    if let Some(captured) = arrive(&mut state, stream)? {
        return capture(&mut state, captured, to, from, bytes);
    }
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
    if let Some(captured) = arrive(&mut state, stream)? {
        let mut word = [0; 4];
        word[..value.len()].copy_from_slice(value);
        let (word, width) = (u32::from_le_bytes(word), value.len() as u8);
        return Ok(state.machine.fill_words_async(captured, to, word, width, count as u64)?);
    }
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
    state.potentially_unsafe()?;
    let address = state.machine.alloc(device, bytes as u64, 256)?;
    state.allocations.insert(address, (bytes as u64, device));
    Ok(address)
}

fn free(address: DevicePtr) -> Result<()> {
    if address == 0 {
        return Ok(());
    }
    let mut state = state::lock()?;
    state.potentially_unsafe()?;
    if state.is_managed(address) {
        return state.free_host(address as usize);
    }
    let Some(&(_, device)) = state.allocations.get(&address) else {
        return Err(Error::invalid(format!("{address:#x} was not allocated, or was freed before")));
    };
    let waited = state.wait_device(device);
    state.machine.free(address)?;
    state.allocations.remove(&address);
    waited
}

/// An allocation in stream order, which is made at once.
fn ordered(stream: Handle) -> Result<()> {
    let mut state = state::lock()?;
    let stream = state.stream(stream)?;
    state.refuse_capture(stream, "an allocation or a release in stream order is no node here")
}

/// One answer about a pointer, as the bytes the attribute has.
fn about(state: &State, attribute: c_int, pointer: DevicePtr) -> Result<Vec<u8>> {
    let (start, len, device, host) = match (state.allocation(pointer), state.host_range(pointer)) {
        (Some((start, len, device)), _) => (start, len, device, None),
        (None, Some((start, host))) => (start, host.bytes as u64, host.device, Some(host)),
        // Not ours: an ordinary host pointer. Callers tell the two apart by this very code.
        (None, None) => return Err(Error::quiet(Code::InvalidValue)),
    };
    let managed = host.is_some_and(|host| host.kind == host::Kind::Managed);
    let word = |value: u64| Ok(value.to_ne_bytes().to_vec());
    let small = |value: u32| Ok(value.to_ne_bytes().to_vec());
    match attribute {
        1 => word(handle(Kind::Context, device) as u64),
        // Host memory, or device memory; managed memory counts as the latter.
        2 => small(if host.is_some() && !managed { 1 } else { 2 }),
        3 => word(pointer),
        4 if host.is_some() => word(pointer),
        7 => word(start),
        8 => Ok(vec![managed as u8]),
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

    fn cuMemAllocAsync(address: Out<DevicePtr>, bytes: usize, stream: Handle) {
        ordered(stream)?;
        address.put(alloc(bytes)?)
    }

    fn cuMemFree_v2(address: DevicePtr) {
        free(address)
    }

    fn cuMemFreeAsync(address: DevicePtr, stream: Handle) {
        ordered(stream)?;
        free(address)
    }

    fn cuMemGetAddressRange_v2(base: Out<DevicePtr>, size: Out<usize>, pointer: DevicePtr) {
        let found = state::lock()?.allocation(pointer).ok_or_else(|| Error::quiet(Code::InvalidValue))?;
        base.put_if_wanted(found.0);
        size.put_if_wanted(found.1 as usize);
        Ok(())
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
