//! Kernels loaded on first use, one copy per device.
//!
//! A plan asks for a kernel by its name in the table; the device loads it (machine code where the build had an
//! assembler, else PTX), lets it have the shared memory its row asks for, and keeps it until the device is closed.

use super::driver::{Image, RawFunction};
use super::launch::{LaunchConfig, ParamBuffer};
use super::{Device, Stream};
use crate::error::{Error, Result};
use crate::kernel::{self, Kernel};

/// A kernel of the table, loaded on one device.
#[derive(Clone, Copy)]
pub(crate) struct LoadedKernel {
    pub(crate) kernel: &'static Kernel,
    function: RawFunction,
}

impl Device {
    /// The kernel of this name, loading it if this is its first use on the device.
    pub(crate) fn kernel(&self, name: &str) -> Result<LoadedKernel> {
        let Some(kernel) = kernel::find(name) else {
            let why = "no kernel of that name is in this build".into();
            return Err(Error::Unsupported { what: name.into(), why });
        };
        if !self.supported() {
            let (major, minor) = self.properties().capability;
            let why = format!("it is built for {} and {self} is {major}.{minor}", kernel.row.arch);
            return Err(Error::Unsupported { what: name.into(), why });
        }
        // A panic while the map was locked leaves at worst a kernel to be loaded again.
        let mut loaded = self.0.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(&known) = loaded.get(kernel.row.name) {
            return Ok(known);
        }
        let image = Image { name: kernel.row.name, cubin: kernel.cubin, ptx: kernel.ptx };
        let module = self.driver().load_module(self.ordinal(), &image)?;
        let function = self.driver().function(self.ordinal(), module, kernel.row.name)?;
        if kernel.row.dynamic_shared > 0 {
            self.driver().allow_dynamic_shared(self.ordinal(), function, kernel.row.dynamic_shared)?;
        }
        let fresh = LoadedKernel { kernel, function };
        loaded.insert(kernel.row.name, fresh);
        Ok(fresh)
    }
}

/// Threads an SM has room for, and the most blocks of a walking kernel it is given.
const THREADS_PER_SM: u32 = 2048;
const WALKERS_PER_SM: u32 = 8;

impl LoadedKernel {
    /// Blocks for a kernel whose blocks walk whatever work there is, and that would like `wanted` of them: at most as many as `sms` SMs hold.
    /// Within a budget one for each SM, because the chip spreads blocks over all SMs it has, and more would land on those of others.
    pub(crate) fn walkers(&self, wanted: usize, sms: u32, budget: bool) -> u32 {
        let per_sm =
            if budget { 1 } else { (THREADS_PER_SM / self.kernel.row.threads).clamp(1, WALKERS_PER_SM) };
        wanted.min(per_sm as usize * sms as usize) as u32
    }

    /// Enqueues the kernel with its row's threads, cluster and shared memory.
    ///
    /// # Safety
    /// The kernel was loaded on the stream's device, the parameters match its row's list, and every address in them is
    /// valid for what the kernel does until it has run.
    pub(crate) unsafe fn launch(
        &self,
        stream: &Stream,
        blocks: u32,
        programmatic: bool,
        params: &ParamBuffer,
    ) -> Result<()> {
        let row = self.kernel.row;
        let mut config = LaunchConfig::new(blocks, row.threads, row.dynamic_shared, stream.raw());
        config.cluster = (row.cluster > 1).then_some([row.cluster, 1, 1]);
        config.programmatic = programmatic;
        let device = stream.device();
        // SAFETY: handed on to the caller.
        unsafe { device.driver().launch(device.ordinal(), self.function, &config, params) }
    }
}
