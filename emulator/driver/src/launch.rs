//! Launches: three forms of the call, one way to the machine.
//!
//! Parameters come as pointers, one for each parameter the PTX declares, or as one buffer. What a driver refuses is refused
//! here: dynamic shared memory that was never allowed, clusters too large to be portable.

use std::ffi::{c_uint, c_void};

use hadal_emulator::Launch;

use crate::abi::{Handle, In, exports};
use crate::error::{Code, Error, Result};
use crate::function::DEFAULT_SHARED;
use crate::keep;
use crate::state::{self, Function, State};

/// `CUlaunchAttribute`: an identifier, padding, and a union of 64 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Attribute {
    id: c_uint,
    pad: c_uint,
    value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub dynamic_shared: c_uint,
    pub stream: Handle,
    attributes: In<Attribute>,
    count: c_uint,
}

/// What the attributes of a launch say.
#[derive(Default)]
pub struct Attributes {
    pub cluster: Option<[u32; 3]>,
    cooperative: bool,
    programmatic: bool,
}

impl Config {
    pub fn attributes(&self) -> Result<Attributes> {
        let mut said = Attributes::default();
        for i in 0..self.count as usize {
            let Attribute { id, value, .. } = self.attributes.at(i)?;
            match id {
                2 => said.cooperative = value[0] != 0,
                4 => said.cluster = Some([value[0], value[1], value[2]]),
                6 => said.programmatic = value[0] != 0,
                // Nothing; hints: access policy, synchronisation policy, cluster placement, priority, domains, preferred
                // cluster, carve-out, link use.
                0 | 1 | 3 | 5 | 8 | 9 | 10 | 11 | 14 | 16 => {}
                _ => return Err(Error::new(Code::NotSupported, format!("launch attribute {id}"))),
            }
        }
        Ok(said)
    }
}

/// `CU_LAUNCH_PARAM_END`, `…_BUFFER_POINTER`, `…_BUFFER_SIZE`.
const EXTRA: [usize; 3] = [0, 1, 2];

/// A launch as the machine takes it, and the function.
pub fn prepare(
    state: &mut State,
    config: &Config,
    handle: Handle,
    params: In<In<u8>>,
    extra: In<usize>,
) -> Result<(Function, Launch)> {
    let Attributes { cluster, cooperative, programmatic } = config.attributes()?;
    let function = state.function(handle)?.clone();
    let kernel = function.kernel();

    let allowed = function.max_dynamic_shared.max(DEFAULT_SHARED.saturating_sub(kernel.static_shared));
    if config.dynamic_shared > allowed {
        return Err(Error::invalid(format!(
            "`{}`: {} bytes of dynamic shared memory, {allowed} allowed: raise \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES first",
            kernel.name, config.dynamic_shared
        )));
    }
    let blocks: u64 =
        cluster.or(kernel.cluster).map_or(1, |c| c.iter().map(|d| (*d).max(1) as u64).product());
    if blocks > 8 && !function.large_clusters {
        return Err(Error::new(
            Code::InvalidClusterSize,
            format!(
                "`{}`: clusters of {blocks} blocks need CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED",
                kernel.name
            ),
        ));
    }

    let mut bytes = vec![0; kernel.param_bytes as usize];
    if !extra.is_null() {
        let given = buffer(extra)?;
        // A buffer may be padded at its end, not shorter than the parameters.
        let part = given.get(..bytes.len()).ok_or_else(|| {
            Error::invalid(format!(
                "`{}`: {} bytes of parameters, got {}",
                kernel.name,
                bytes.len(),
                given.len()
            ))
        })?;
        bytes.copy_from_slice(part);
    } else {
        for (i, param) in kernel.params.iter().enumerate() {
            let value = params.at(i)?.slice(param.size as usize)?;
            bytes[param.offset as usize..][..value.len()].copy_from_slice(value);
        }
    }

    let launch = Launch {
        grid: config.grid,
        block: config.block,
        cluster,
        dynamic_shared: config.dynamic_shared,
        params: bytes,
        programmatic,
        cooperative,
        registers: None,
    };
    Ok((function, launch))
}

fn launch(config: &Config, handle: Handle, params: In<In<u8>>, extra: In<usize>) -> Result<()> {
    let mut state = state::lock()?;
    let (function, launch) = prepare(&mut state, config, handle, params, extra)?;
    let name = &function.kernel().name;
    let stream = state.stream(config.stream)?;
    if state.streams[stream].device != function.device {
        return Err(Error::new(Code::InvalidHandle, format!("`{name}` is loaded on another device")));
    }
    state.order(stream)?;
    let id = state.streams[stream].id;
    state.machine.launch(id, function.module, name, &launch)?;
    keep::launched(&function.ir, name, &launch)
}

/// The parameter buffer of an `extra` list.
fn buffer<'a>(extra: In<usize>) -> Result<&'a [u8]> {
    let (mut start, mut size) = (None, None);
    let mut at = 0;
    while extra.at(at)? != EXTRA[0] {
        match extra.at(at)? {
            id if id == EXTRA[1] => start = Some(extra.pointer(at + 1)?),
            id if id == EXTRA[2] => size = Some(extra.size_behind(at + 1)?),
            id => return Err(Error::invalid(format!("`extra` holds {id}"))),
        }
        at += 2;
    }
    match (start, size) {
        (Some(start), Some(size)) => start.slice(size),
        _ => Err(Error::invalid("`extra` lacks the buffer or its size")),
    }
}

exports! {
    fn cuLaunchKernel(function: Handle, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint,
                      dynamic_shared: c_uint, stream: Handle, params: In<In<u8>>, extra: In<usize>) {
        launch(&plain([gx, gy, gz], [bx, by, bz], dynamic_shared, stream, In::null(), 0), function, params, extra)
    }

    fn cuLaunchCooperativeKernel(function: Handle, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint,
                                 bz: c_uint, dynamic_shared: c_uint, stream: Handle, params: In<In<u8>>) {
        let cooperative = Attribute { id: 2, pad: 0, value: [1; 16] };
        let config = plain([gx, gy, gz], [bx, by, bz], dynamic_shared, stream, In::of(&cooperative), 1);
        launch(&config, function, params, In::null())
    }

    fn cuLaunchKernelEx(config: In<Config>, function: Handle, params: In<In<u8>>, extra: In<usize>) {
        launch(&config.get()?, function, params, extra)
    }

    fn cuLaunchHostFunc(stream: Handle, function: Option<extern "C" fn(*mut c_void)>, data: *mut c_void) {
        let function = function.ok_or_else(|| Error::invalid("a null function"))?;
        let mut state = state::lock()?;
        let stream = state.stream(stream)?;
        state.refuse_capture(stream, "a host function is no node here")?;
        state.order(stream)?;
        state.wait(stream)?;
        // It may call anything but this library; still, it does not run under our lock.
        drop(state);
        function(data);
        Ok(())
    }
}

pub fn plain(
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: Handle,
    attributes: In<Attribute>,
    count: c_uint,
) -> Config {
    Config { grid, block, dynamic_shared, stream, attributes, count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_driver_s_layout() {
        assert_eq!((size_of::<Attribute>(), align_of::<Attribute>()), (72, 8));
        assert_eq!(size_of::<Config>(), 56);
        assert_eq!(std::mem::offset_of!(Config, attributes), 40);
    }
}
