//! Devices: their properties, limits, peers; and what a stream or function may be asked or told besides.

use std::ffi::{c_char, c_int, c_uint, c_void};

use hadal_emulator::Launch;

use crate::abi::{Handle, In, Out};
use crate::context::{
    cuCtxDisablePeerAccess, cuCtxEnablePeerAccess, cuCtxGetLimit, cuCtxGetStreamPriorityRange, cuCtxSetLimit,
    cuCtxSynchronize,
};
use crate::device::{cuDeviceCanAccessPeer, cuDeviceGetAttribute, cuDeviceGetName, cuDeviceTotalMem_v2};
use crate::error::{Code, Error, Result, answered};
use crate::function::cuFuncGetParamInfo;
use crate::launch::Config;
use crate::runtime::registry::kernel;
use crate::runtime::runtime;
use crate::state::{self, Kind, handle};
use crate::stream::{cuStreamGetFlags, cuStreamGetPriority, cuStreamSynchronize};

/// Fields of a C structure, one after the other, each at its alignment.
struct Fields {
    bytes: Vec<u8>,
    device: c_int,
}

impl Fields {
    fn value(&self, attribute: c_int) -> Result<c_int> {
        let mut value = 0;
        answered(cuDeviceGetAttribute(Out::of(&mut value), attribute, self.device))?;
        Ok(value)
    }

    /// `int`s that are attributes of these numbers; 0 is one that is 0 for want of a texture, a display or a board.
    fn ints(&mut self, attributes: &[c_int]) -> Result<()> {
        for attribute in attributes {
            let value = if *attribute == 0 { 0 } else { self.value(*attribute)? };
            self.bytes.extend(value.to_ne_bytes());
        }
        Ok(())
    }

    fn size(&mut self, value: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.bytes.extend(value.to_ne_bytes());
    }

    /// A `size_t` that is an attribute.
    fn size_of(&mut self, attribute: c_int) -> Result<()> {
        let value = self.value(attribute)?;
        self.size(value as usize);
        Ok(())
    }
}

/// `cudaDeviceProp` of CUDA 13, and that of 12, which has what 13 left out.
fn properties(device: c_int, twelve: bool) -> Result<Vec<u8>> {
    let mut name = [0 as c_char; 256];
    answered(cuDeviceGetName(Out::of(&mut name[0]), 256, device))?;
    let mut total = 0;
    answered(cuDeviceTotalMem_v2(Out::of(&mut total), device))?;
    let mut p = Fields { bytes: name.iter().map(|c| *c as u8).collect(), device };
    let only12 = |attributes: &'static [c_int]| if twelve { attributes } else { &[] };

    // The UUID is that of the driver; no LUID.
    p.bytes.extend(b"hadal-emulator\0");
    p.bytes.push(device as u8);
    p.bytes.extend([0; 12]);
    p.size(total);
    p.size_of(8)?;
    p.ints(&[12, 10])?;
    p.size_of(11)?;
    p.ints(&[1, 2, 3, 4, 5, 6, 7])?;
    p.ints(only12(&[13]))?;
    p.size_of(9)?;
    p.ints(&[75, 76])?;
    p.size_of(14)?;
    p.size(32);
    p.ints(only12(&[15]))?;
    p.ints(&[16])?;
    p.ints(only12(&[0]))?;
    p.ints(&[18, 19])?;
    p.ints(only12(&[0]))?;
    // Texture and surface extents, and a linear one of the old.
    p.ints(&[0; 39])?;
    p.ints(only12(&[0]))?;
    p.size(0);
    p.ints(&[31, 32, 33, 34, 50, 35, 40, 41])?;
    p.ints(only12(&[36]))?;
    p.ints(&[37, 38, 108, 39, 78, 79, 80])?;
    p.size_of(81)?;
    p.ints(&[82, 83, 84, 85, 86])?;
    p.ints(only12(&[87]))?;
    p.ints(&[88, 89, 90, 91, 95])?;
    p.ints(only12(&[0]))?;
    p.size_of(97)?;
    p.ints(&[100, 101, 106, 109])?;
    p.size_of(111)?;
    p.ints(&[99, 112, 113, 114, 115, 116, 117, 118, 119, 121, 125, 120, 129])?;
    // 13: NUMA, MPS, identifiers. Then room for what is to come.
    p.bytes.resize(if twelve { 1032 } else { 1008 }, 0);
    Ok(p.bytes)
}

/// The clusters of that many blocks that run together.
fn clusters(function: Handle, config: &Config, blocks: u32) -> Result<u32> {
    let mut state = state::lock()?;
    let function = state.function(function)?.clone();
    let launch = Launch {
        block: config.block,
        cluster: Some([blocks, 1, 1]),
        dynamic_shared: config.dynamic_shared,
        ..Launch::default()
    };
    let name = &function.kernel().name;
    Ok(state.machine.max_active_clusters(function.module, name, &launch)?)
}

runtime! {
    fn cudaGetDeviceProperties(properties_of: Out<c_void>, device: c_int) {
        properties_of.fill_from(&properties(device, false)?)
    }

    /// What `cudaGetDeviceProperties` means in the headers of CUDA 12.
    fn cudaGetDeviceProperties_v2(properties_of: Out<c_void>, device: c_int) {
        properties_of.fill_from(&properties(device, true)?)
    }

    /// All devices are alike.
    fn cudaChooseDevice(device: Out<c_int>, _wanted: In<c_void>) {
        device.put(0)
    }

    fn cudaInitDevice(device: c_int, _device_flags: c_uint, _flags: c_uint) {
        state::lock()?.device(device).map(|_| ())
    }

    fn cudaSetDeviceFlags(_flags: c_uint) {
        Ok(())
    }

    fn cudaGetDeviceFlags(flags: Out<c_uint>) {
        // Mapped host memory, always.
        flags.put(8)
    }

    /// Waits, and keeps what there is: the program ends next, as a rule.
    fn cudaDeviceReset() {
        answered(cuCtxSynchronize())
    }

    fn cudaDeviceGetLimit(value: Out<usize>, limit: c_uint) {
        answered(cuCtxGetLimit(value, limit))
    }

    fn cudaDeviceSetLimit(limit: c_uint, value: usize) {
        answered(cuCtxSetLimit(limit, value))
    }

    fn cudaDeviceGetCacheConfig(config: Out<c_int>) {
        config.put(0)
    }

    fn cudaDeviceSetCacheConfig(_config: c_int) {
        Ok(())
    }

    fn cudaDeviceGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        answered(cuCtxGetStreamPriorityRange(least, greatest))
    }

    fn cudaDeviceGetPCIBusId(text: Out<u8>, room: c_int, device: c_int) {
        let device = state::lock()?.device(device)?;
        let id = format!("0000:{:02x}:00.0\0", device + 1);
        if room < id.len() as c_int {
            return Err(Error::invalid(format!("room for {room} characters, {} wanted", id.len())));
        }
        text.put_all(id.as_bytes())
    }

    fn cudaDeviceCanAccessPeer(can: Out<c_int>, device: c_int, peer: c_int) {
        answered(cuDeviceCanAccessPeer(can, device, peer))
    }

    fn cudaDeviceEnablePeerAccess(peer: c_int, flags: c_uint) {
        let peer = state::lock()?.device(peer)?;
        answered(cuCtxEnablePeerAccess(handle(Kind::Context, peer), flags))
    }

    fn cudaDeviceDisablePeerAccess(peer: c_int) {
        let peer = state::lock()?.device(peer)?;
        answered(cuCtxDisablePeerAccess(handle(Kind::Context, peer)))
    }

    fn cudaFuncSetCacheConfig(symbol: usize, _config: c_int) {
        kernel(symbol).map(|_| ())
    }

    fn cudaFuncGetParamInfo(symbol: usize, parameter: usize, offset: Out<usize>, size: Out<usize>) {
        answered(cuFuncGetParamInfo(kernel(symbol)?, parameter, offset, size))
    }

    fn cudaOccupancyMaxPotentialClusterSize(size: Out<c_int>, symbol: usize, config: In<Config>) {
        let (function, config) = (kernel(symbol)?, config.get()?);
        let most = if state::lock()?.function(function)?.large_clusters { 16 } else { 8 };
        // Those that the scheduler places: powers of two.
        let fitting = (0..5).rev().map(|n| 1 << n).filter(|n| *n <= most);
        for blocks in fitting {
            if clusters(function, &config, blocks)? > 0 {
                return size.put(blocks as c_int);
            }
        }
        size.put(0)
    }

    /// What a block may have if so many are to fit into an SM.
    fn cudaOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, symbol: usize, blocks: c_int, _threads: c_int) {
        let function = kernel(symbol)?;
        let mut state = state::lock()?;
        let function = state.function(function)?.clone();
        let device = &state.config.devices[function.device];
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks > 0);
        let share = device.shared_per_sm / blocks.ok_or_else(|| Error::quiet(Code::InvalidValue))?;
        let most = (share / 128 * 128).saturating_sub(device.shared_reserved_per_block).min(device.shared_per_block);
        bytes.put(most.saturating_sub(function.kernel().static_shared) as usize)
    }

    fn cudaStreamGetFlags(stream: Handle, flags: Out<c_uint>) {
        answered(cuStreamGetFlags(stream, flags))
    }

    fn cudaStreamGetPriority(stream: Handle, priority: Out<c_int>) {
        answered(cuStreamGetPriority(stream, priority))
    }

    fn cudaStreamGetDevice(stream: Handle, device: Out<c_int>) {
        let state = state::lock()?;
        let stream = state.stream(stream)?;
        device.put(state.streams[stream].device as c_int)
    }

    /// Windows and policies of caches are hints.
    fn cudaStreamSetAttribute(stream: Handle, _attribute: c_int, _value: In<c_void>) {
        state::lock()?.stream(stream).map(|_| ())
    }

    fn cudaCtxResetPersistingL2Cache() {
        Ok(())
    }

    /// Managed memory is where it is.
    fn cudaStreamAttachMemAsync(stream: Handle, _address: usize, _bytes: usize, _flags: c_uint) {
        state::lock()?.stream(stream).map(|_| ())
    }

    /// What follows the address differs between CUDA 12 and 13, and has no effect in either.
    fn cudaMemPrefetchAsync(address: u64) {
        let known = state::lock()?.host_range(address);
        known.map(|_| ()).ok_or_else(|| Error::invalid(format!("{address:#x} is not managed")))
    }

    /// As above.
    fn cudaMemAdvise(address: u64) {
        let known = state::lock()?.host_range(address);
        known.map(|_| ()).ok_or_else(|| Error::invalid(format!("{address:#x} is not managed")))
    }

    /// Called when the stream has got there, which it does at once.
    fn cudaStreamAddCallback(stream: Handle, callback: Option<extern "C" fn(Handle, c_int, *mut c_void)>,
                             data: *mut c_void, _flags: c_uint) {
        let callback = callback.ok_or_else(|| Error::invalid("a null callback"))?;
        answered(cuStreamSynchronize(stream))?;
        callback(stream, 0, data);
        Ok(())
    }

    fn cudaProfilerStart() {
        Ok(())
    }

    fn cudaProfilerStop() {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_stand_where_the_headers_have_them() {
        // Offsets by a C compiler, of 13.5's header; of 12's, by hand.
        let [new, old] = [false, true].map(|twelve| {
            let mut bytes = vec![0u8; 1032];
            let to = Out::at_address(bytes.as_mut_ptr() as usize);
            let ask = if twelve { cudaGetDeviceProperties_v2 } else { cudaGetDeviceProperties };
            assert_eq!(ask(to, 0), 0);
            bytes
        });
        let word = |bytes: &[u8], at: usize| i32::from_ne_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let at = |offset: usize| word(&new, offset);
        assert_eq!((at(360), at(384), at(604)), (9, 132, 2048));
        assert_eq!((at(672), at(320), at(748), at(304)), (232_448, 1024, 1, 65_536));
        assert_eq!((word(&old, 360), word(&old, 388), word(&old, 624)), (9, 132, 2048));
    }
}
