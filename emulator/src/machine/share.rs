//! Memory that is shared: peer access between devices, host memory that kernels reach, multicast objects.

use super::{Launch, Machine, ModuleId, launch};
use crate::memory::backing::HostBytes;
use crate::report::MachineError;

fn bad(address: u64, bytes: u64) -> MachineError {
    MachineError::BadAddress { address, bytes }
}

impl Machine {
    /// Lets kernels of a device reach the memory of another. Until then an access is out of bounds, as on the chip.
    pub fn enable_peer_access(&mut self, device: usize, peer: usize) -> Result<(), MachineError> {
        self.device(device)?;
        self.device(peer)?;
        self.sys.reach[device] |= 1 << (peer & 63);
        Ok(())
    }

    /// Takes [`Machine::enable_peer_access`] back.
    pub fn disable_peer_access(&mut self, device: usize, peer: usize) -> Result<(), MachineError> {
        self.device(device)?;
        self.device(peer)?;
        if device != peer {
            self.sys.reach[device] &= !(1 << (peer & 63));
        }
        Ok(())
    }

    /// Was access enabled?
    pub fn can_reach(&self, device: usize, peer: usize) -> bool {
        self.sys.reach.get(device).is_some_and(|reach| reach >> (peer & 63) & 1 == 1)
    }

    /// Host memory that every device reaches. It begins as zeros; the host reads and writes it with [`Machine::read`] and
    /// [`Machine::write`], also while kernels run.
    pub fn alloc_host(&mut self, bytes: u64, align: u64) -> Result<u64, MachineError> {
        if !align.is_power_of_two() || align > 1 << 30 {
            return Err(MachineError::InvalidArgument {
                argument: "align",
                expected: "a power of two up to 2^30".into(),
                got: align.to_string(),
            });
        }
        Ok(self.sys.global.alloc_host(bytes, align))
    }

    /// Makes memory of this process visible to every device, at its own address. [`Machine::free`] ends that.
    ///
    /// # Safety
    ///
    /// The range must stay valid for reads and writes, from any thread that runs the machine, until it is freed or the machine is
    /// dropped, and nothing else may access it while a call that runs the machine is in progress.
    pub unsafe fn map_host(&mut self, start: *mut u8, bytes: usize) -> Result<u64, MachineError> {
        let address = start as u64;
        // SAFETY: the caller promises what `HostBytes` asks for.
        let host = unsafe { HostBytes::new(start, bytes) };
        if self.sys.global.map_host(address, host) { Ok(address) } else { Err(bad(address, bytes as u64)) }
    }

    /// Is this host memory known to the machine?
    pub fn is_host_memory(&self, address: u64, bytes: u64) -> bool {
        self.sys.global.is_host(address, bytes)
    }

    /// A multicast object: addresses for `multimem` instructions, behind which memory of several devices is bound.
    pub fn create_multicast(&mut self, bytes: u64) -> u64 {
        self.sys.global.create_multicast(bytes)
    }

    /// Binds memory of a device at an offset of a multicast object.
    pub fn bind_multicast(
        &mut self,
        multicast: u64,
        offset: u64,
        memory: u64,
        bytes: u64,
    ) -> Result<(), MachineError> {
        if self.sys.global.bind_multicast(multicast, offset, memory, bytes) {
            Ok(())
        } else {
            Err(bad(memory, bytes))
        }
    }

    /// Ends a multicast object; the memory behind it stays.
    pub fn free_multicast(&mut self, multicast: u64) -> Result<(), MachineError> {
        if self.sys.global.free_multicast(multicast) { Ok(()) } else { Err(bad(multicast, 0)) }
    }

    /// Clusters of this launch that the empty device holds at once, from the layout of its GPCs. Grid and parameters do not matter.
    pub fn max_active_clusters(
        &mut self,
        module: ModuleId,
        entry: &str,
        launch: &Launch,
    ) -> Result<u32, MachineError> {
        let (device, program) = self.program(module, entry)?;
        let launch = Launch {
            grid: launch.cluster.or(program.kernel().cluster).unwrap_or([1; 3]),
            params: vec![0; program.kernel().param_bytes as usize],
            cooperative: false,
            ..launch.clone()
        };
        let grid = match launch::prepare(&self.sys, usize::MAX, (usize::MAX, device), program, &launch) {
            Ok(grid) => grid,
            // Too large to run at all: none.
            Err(MachineError::TooLarge { .. }) => return Ok(0),
            Err(other) => return Err(other),
        };
        let config = &self.sys.config.devices[device];
        Ok(launch::active_clusters(&grid.needs, grid.cluster_size() as u32, config))
    }
}
