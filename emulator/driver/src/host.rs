//! Host memory that kernels reach at its own address: pinned, registered, and managed.
//!
//! All of it is memory of this process that the machine sees directly, so a host that writes a flag is heard by a kernel that polls
//! it, and the other way round; but kernels advance only inside calls that wait or ask (`cuStreamQuery` in a loop), and one that
//! polls for a flag that nobody can set during a `cuStreamSynchronize` is a deadlock, and reported. Managed memory never moves.

use std::alloc::Layout;
use std::collections::HashMap;
use std::ffi::{c_int, c_uint};

use hadal_emulator::ir;

use crate::abi::{DevicePtr, Handle, Out, exports};
use crate::error::{Code, Error, Result};
use crate::state::{self, State};

/// Alignment of pinned memory: a page.
const PAGE: usize = 4096;
/// `CU_MEMHOSTALLOC_DEVICEMAP`, `CU_MEMHOSTREGISTER_DEVICEMAP`: with one address space, all of it is.
const MAPPED: c_uint = 2;
/// Portable, mapped, write-combined; portable, mapped, I/O, read-only.
const ALLOC_FLAGS: c_uint = 7;
const REGISTER_FLAGS: c_uint = 15;
/// `CU_MEM_ATTACH_GLOBAL`, `…_HOST`.
const ATTACH: [c_uint; 2] = [1, 2];

/// Where host memory came from, and so how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Allocated,
    Registered,
    Managed,
}

/// A range of host memory that kernels reach.
#[derive(Clone, Copy)]
pub struct Host {
    pub bytes: usize,
    pub device: usize,
    pub kind: Kind,
    flags: c_uint,
}

impl State {
    /// The range an address lies in, and its first byte.
    pub fn host_range(&self, address: u64) -> Option<(u64, Host)> {
        let (start, host) = self.host.range(..=address as usize).next_back()?;
        ((address as usize - start) < host.bytes).then_some((*start as u64, *host))
    }

    pub fn is_managed(&self, address: u64) -> bool {
        self.host.get(&(address as usize)).is_some_and(|host| host.kind == Kind::Managed)
    }

    /// Frees memory that was allocated here, after all work of all devices.
    pub fn free_host(&mut self, address: usize) -> Result<()> {
        let Some(&host) = self.host.get(&address).filter(|host| host.kind != Kind::Registered) else {
            return Err(Error::invalid(format!("{address:#x} is no pinned memory of this driver")));
        };
        let waited = self.forget_host(address);
        let layout = Layout::from_size_align(host.bytes, PAGE).map_err(|_| Error::quiet(Code::Unknown))?;
        // SAFETY: the address was allocated with this layout, and leaving the table it cannot be freed again.
        unsafe { std::alloc::dealloc(address as *mut u8, layout) };
        waited
    }

    /// Takes a range away from the machine.
    fn forget_host(&mut self, address: usize) -> Result<()> {
        let waited = (0..self.config.devices.len()).try_for_each(|device| self.wait_device(device));
        self.machine.free(address as u64)?;
        self.host.remove(&address);
        waited
    }
}

fn check_flags(flags: c_uint, known: c_uint) -> Result<()> {
    if flags & !known == 0 { Ok(()) } else { Err(Error::invalid(format!("flags {flags:#x}"))) }
}

/// Shows memory of this process to the machine.
fn map(address: usize, host: Host) -> Result<()> {
    let mut state = state::lock()?;
    // SAFETY: the range is ours until `forget_host`, or the C caller promised by registering it that it stays until it is unregistered.
    // What the program's other threads do with it while a call runs the machine is theirs to order, as with a GPU.
    let mapped = unsafe { state.machine.map_host(address as *mut u8, host.bytes) };
    mapped.map_err(|_| {
        let (bytes, end) = (host.bytes, address.wrapping_add(host.bytes));
        Error::new(
            Code::HostRegistered,
            format!("{bytes} bytes from {address:#x} to {end:#x} overlap known memory"),
        )
    })?;
    state.host.insert(address, host);
    Ok(())
}

/// Managed memory for a module's managed variables, by name, with their first contents.
pub fn place_managed(ir: &ir::Module) -> Result<HashMap<String, u64>> {
    let mut places = HashMap::new();
    for variable in ir.globals.iter().filter(|variable| variable.managed && !variable.init.is_empty()) {
        // Loading is no allocation of the program's: it may happen while a stream captures.
        let address = place(variable.init.len(), Kind::Managed, 0)? as u64;
        state::lock()?.machine.write(address, &variable.init)?;
        places.insert(variable.name.clone(), address);
    }
    Ok(places)
}

fn alloc(bytes: usize, kind: Kind, flags: c_uint) -> Result<usize> {
    state::lock()?.potentially_unsafe()?;
    place(bytes, kind, flags)
}

fn place(bytes: usize, kind: Kind, flags: c_uint) -> Result<usize> {
    let device = state::current()?;
    let wrong = || Error::invalid(format!("{bytes} bytes of host memory"));
    let layout = Layout::from_size_align(bytes, PAGE).ok().filter(|l| l.size() > 0).ok_or_else(wrong)?;
    // SAFETY: the layout's size is not 0.
    let address = unsafe { std::alloc::alloc_zeroed(layout) } as usize;
    if address == 0 {
        return Err(Error::new(Code::OutOfMemory, format!("{bytes} bytes of host memory")));
    }
    map(address, Host { bytes, device, kind, flags: flags | MAPPED }).inspect_err(|_| {
        // SAFETY: just allocated with this layout, and nobody knows of it.
        unsafe { std::alloc::dealloc(address as *mut u8, layout) }
    })?;
    Ok(address)
}

exports! {
    fn cuMemAllocHost_v2(address: Out<usize>, bytes: usize) {
        address.put(alloc(bytes, Kind::Allocated, 0)?)
    }

    fn cuMemHostAlloc(address: Out<usize>, bytes: usize, flags: c_uint) {
        check_flags(flags, ALLOC_FLAGS)?;
        address.put(alloc(bytes, Kind::Allocated, flags)?)
    }

    fn cuMemFreeHost(address: usize) {
        let mut state = state::lock()?;
        state.potentially_unsafe()?;
        if state.is_managed(address as u64) {
            return Err(Error::invalid("managed memory goes with cuMemFree"));
        }
        state.free_host(address)
    }

    fn cuMemHostRegister_v2(address: usize, bytes: usize, flags: c_uint) {
        check_flags(flags, REGISTER_FLAGS)?;
        if address == 0 || bytes == 0 || address.checked_add(bytes).is_none() {
            return Err(Error::invalid(format!("{bytes} bytes at {address:#x}")));
        }
        let device = state::current()?;
        state::lock()?.potentially_unsafe()?;
        map(address, Host { bytes, device, kind: Kind::Registered, flags: flags | MAPPED })
    }

    fn cuMemHostUnregister(address: usize) {
        let mut state = state::lock()?;
        state.potentially_unsafe()?;
        if state.host.get(&address).is_none_or(|host| host.kind != Kind::Registered) {
            return Err(Error::new(Code::HostNotRegistered, format!("{address:#x} does not begin a registered range")));
        }
        state.forget_host(address)
    }

    fn cuMemHostGetDevicePointer_v2(device: Out<DevicePtr>, address: usize, _flags: c_uint) {
        let known = state::lock()?.host_range(address as u64);
        known.ok_or_else(|| Error::invalid(format!("{address:#x} is no pinned memory")))?;
        device.put(address as u64)
    }

    fn cuMemHostGetFlags(flags: Out<c_uint>, address: usize) {
        let known = state::lock()?.host_range(address as u64);
        let (_, host) = known.ok_or_else(|| Error::invalid(format!("{address:#x} is no pinned memory")))?;
        flags.put(host.flags)
    }

    fn cuMemAllocManaged(address: Out<DevicePtr>, bytes: usize, flags: c_uint) {
        if !ATTACH.contains(&flags) {
            return Err(Error::invalid(format!("flags {flags:#x}")));
        }
        address.put(alloc(bytes, Kind::Managed, 0)? as u64)
    }

    /// Managed memory is where it is.
    fn cuMemPrefetchAsync(address: DevicePtr, _bytes: usize, _device: c_int, stream: Handle) {
        let state = state::lock()?;
        state.stream(stream)?;
        state.host_range(address).map(|_| ()).ok_or_else(|| Error::invalid(format!("{address:#x} is not managed")))
    }

    /// Advice has no effect here.
    fn cuMemAdvise(address: DevicePtr, _bytes: usize, _advice: c_int, _device: c_int) {
        let known = state::lock()?.host_range(address);
        known.map(|_| ()).ok_or_else(|| Error::invalid(format!("{address:#x} is not managed")))
    }
}
