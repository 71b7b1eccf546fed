//! What is known of a function, what may be allowed to it, and how many of its blocks fit.

use std::ffi::{c_int, c_uint};

use hadal_emulator::{DeviceConfig, Launch};

use crate::abi::{Handle, In, Out, exports};
use crate::error::{Code, Error, Result};
use crate::launch::Config;
use crate::state::{self, Function};

/// Shared memory a block may have before anything is allowed to it.
pub const DEFAULT_SHARED: u32 = 48 << 10;

/// `CU_FUNC_ATTRIBUTE_…`
const MAX_DYNAMIC_SHARED: c_int = 8;
const PREFERRED_CARVEOUT: c_int = 9;
const LARGE_CLUSTERS: c_int = 14;
const CLUSTER_POLICY: c_int = 15;

/// Threads a block of this kernel may have at most.
fn most_threads(function: &Function, device: &DeviceConfig) -> u32 {
    let kernel = function.kernel();
    let declared = kernel.reqntid.or(kernel.maxntid);
    declared.map_or(device.threads_per_block, |dims| dims.iter().map(|d| (*d).max(1)).product())
}

/// Registers of a thread: what the kernel declares, or the most its block leaves. Nobody assembled it.
fn registers(function: &Function, device: &DeviceConfig, threads: u32) -> u32 {
    let kernel = function.kernel();
    let share = device.registers_per_sm / threads.max(1).next_multiple_of(128) / 8 * 8;
    kernel.maxnreg.unwrap_or(255).min(share).clamp(8, 255)
}

/// Blocks of one SM.
fn per_sm(function: &Function, device: &DeviceConfig, threads: u32, dynamic: u64) -> u32 {
    let warps = threads.div_ceil(32).max(1);
    let shared = function.kernel().static_shared as u64 + dynamic;
    if threads == 0 || threads > device.threads_per_block || shared > device.shared_per_block as u64 {
        return 0;
    }
    let registers = warps * (registers(function, device, threads) * 32).next_multiple_of(256);
    let by_shared = device.shared_per_sm as u64 / (shared + device.shared_reserved_per_block as u64);
    (device.threads_per_sm / (warps * 32))
        .min(device.registers_per_sm / registers)
        .min(by_shared as u32)
        .min(device.blocks_per_sm)
}

fn occupancy(handle: Handle, threads: c_int, dynamic: usize) -> Result<c_int> {
    let mut state = state::lock()?;
    let function = state.function(handle)?.clone();
    let threads =
        u32::try_from(threads).map_err(|_| Error::invalid(format!("a block of {threads} threads")))?;
    Ok(per_sm(&function, &state.config.devices[function.device], threads, dynamic as u64) as c_int)
}

exports! {
    fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_int, handle: Handle) {
        let mut state = state::lock()?;
        let function = state.function(handle)?.clone();
        let device = &state.config.devices[function.device];
        let kernel = function.kernel();
        let threads = most_threads(&function, device);
        let cluster = |axis: usize| kernel.cluster.map_or(0, |cluster| cluster[axis] as c_int);
        value.put(match attribute {
            0 => threads as c_int,
            1 => kernel.static_shared as c_int,
            // Constant memory of the user's.
            2 => 0,
            3 => kernel.local_bytes as c_int,
            4 => registers(&function, device, threads) as c_int,
            // PTX and machine code for 9.0.
            5 | 6 => 90,
            7 => 0,
            MAX_DYNAMIC_SHARED => {
                function.max_dynamic_shared.max(DEFAULT_SHARED.saturating_sub(kernel.static_shared)) as c_int
            }
            PREFERRED_CARVEOUT => -1,
            10 => kernel.cluster.is_some() as c_int,
            11 => cluster(0),
            12 => cluster(1),
            13 => cluster(2),
            LARGE_CLUSTERS => function.large_clusters as c_int,
            CLUSTER_POLICY => 0,
            _ => return Err(Error::quiet(Code::InvalidValue)),
        })
    }

    fn cuFuncSetAttribute(handle: Handle, attribute: c_int, value: c_int) {
        let mut state = state::lock()?;
        let device = state.function(handle)?.device;
        let most = state.config.devices[device].shared_per_block;
        let function = state.function(handle)?;
        match attribute {
            MAX_DYNAMIC_SHARED => {
                let fixed = function.kernel().static_shared;
                let bytes = u32::try_from(value).ok().filter(|bytes| bytes.saturating_add(fixed) <= most);
                function.max_dynamic_shared = bytes.ok_or_else(|| {
                    Error::invalid(format!(
                        "{value} bytes of dynamic shared memory beside {fixed} static ones; a block has {most}"
                    ))
                })?;
                Ok(())
            }
            LARGE_CLUSTERS => {
                function.large_clusters = value != 0;
                Ok(())
            }
            PREFERRED_CARVEOUT | CLUSTER_POLICY => Ok(()),
            // Later chips' attributes: callers try and fall back.
            _ => Err(Error::quiet(Code::InvalidValue)),
        }
    }

    fn cuFuncSetCacheConfig(handle: Handle, _config: c_uint) {
        state::lock()?.function(handle).map(|_| ())
    }

    fn cuFuncGetParamInfo(handle: Handle, parameter: usize, offset: Out<usize>, size: Out<usize>) {
        let mut state = state::lock()?;
        let kernel = state.function(handle)?.kernel();
        // Callers count parameters by asking until this.
        let found = kernel.params.get(parameter).ok_or_else(|| Error::quiet(Code::InvalidValue))?;
        offset.put_if_wanted(found.offset as usize);
        size.put_if_wanted(found.size as usize);
        Ok(())
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<c_int>, function: Handle, threads: c_int, dynamic: usize) {
        blocks.put(occupancy(function, threads, dynamic)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: Out<c_int>, function: Handle, threads: c_int,
                                                            dynamic: usize, _flags: c_uint) {
        blocks.put(occupancy(function, threads, dynamic)?)
    }

    fn cuOccupancyMaxActiveClusters(clusters: Out<c_int>, handle: Handle, config: In<Config>) {
        let config = config.get()?;
        let mut state = state::lock()?;
        let function = state.function(handle)?.clone();
        let launch = Launch {
            block: config.block,
            cluster: config.attributes()?.cluster,
            dynamic_shared: config.dynamic_shared,
            ..Launch::default()
        };
        let name = &function.kernel().name;
        clusters.put(state.machine.max_active_clusters(function.module, name, &launch)? as c_int)
    }
}
