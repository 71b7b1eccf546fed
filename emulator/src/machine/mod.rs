//! The machine.
mod config;
mod counters;

pub use config::{Checks, Completion, DeviceConfig, MachineConfig, Schedule, SharedPlacement};
pub use counters::{Counters, InstructionClass};

use std::sync::Arc;

use crate::ir;
use crate::report::{Fault, MachineError, Report};

/// A module loaded on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(pub(crate) u32);

/// A stream of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub(crate) u32);

/// One kernel launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster; must agree with `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// The parameter block, as laid out by [`ir::Kernel::params`].
    pub params: Vec<u8>,
    /// Programmatic stream serialisation: may start before the preceding grid of the stream has finished.
    pub programmatic: bool,
    /// All blocks must be resident together.
    pub cooperative: bool,
    /// Registers per thread the assembled kernel takes. `None`: `.maxnreg`, or what `.reqntid`/`.maxntid` leaves.
    pub registers: Option<u32>,
}

/// Devices, their memory and their streams.
pub struct Machine {
    config: MachineConfig,
    reports: Vec<Report>,
}

impl Machine {
    /// A machine with empty memories.
    pub fn new(config: MachineConfig) -> Machine {
        Machine { config, reports: Vec::new() }
    }

    /// Allocates device memory; its bytes count as never written.
    pub fn alloc(&mut self, _device: usize, _bytes: u64, _align: u64) -> Result<u64, MachineError> {
        unimplemented!()
    }

    /// Frees an allocation.
    pub fn free(&mut self, _address: u64) -> Result<(), MachineError> {
        unimplemented!()
    }

    /// Host to device.
    pub fn write(&mut self, _address: u64, _bytes: &[u8]) -> Result<(), MachineError> {
        unimplemented!()
    }

    /// Device to host.
    pub fn read(&self, _address: u64, _bytes: &mut [u8]) -> Result<(), MachineError> {
        unimplemented!()
    }

    /// Sets `len` bytes.
    pub fn fill(&mut self, _address: u64, _byte: u8, _len: u64) -> Result<(), MachineError> {
        unimplemented!()
    }

    /// Loads a module: places its global variables, prepares its kernels.
    pub fn load_module(
        &mut self,
        _device: usize,
        _module: Arc<ir::Module>,
    ) -> Result<ModuleId, MachineError> {
        unimplemented!()
    }

    /// Address and size of a module's `.global` or `.const` variable.
    pub fn global(&self, _module: ModuleId, _name: &str) -> Option<(u64, u64)> {
        unimplemented!()
    }

    /// A new, empty stream.
    pub fn create_stream(&mut self, _device: usize) -> StreamId {
        unimplemented!()
    }

    /// Validates and enqueues. Nothing runs until something waits.
    pub fn launch(
        &mut self,
        _stream: StreamId,
        _module: ModuleId,
        _entry: &str,
        _launch: &Launch,
    ) -> Result<(), MachineError> {
        unimplemented!()
    }

    /// Runs until the stream is empty.
    pub fn synchronize(&mut self, _stream: StreamId) -> Result<(), Fault> {
        unimplemented!()
    }

    /// Runs a little; true when the stream is empty.
    pub fn query(&mut self, _stream: StreamId) -> Result<bool, Fault> {
        unimplemented!()
    }

    /// What a device did.
    pub fn counters(&self, _device: usize) -> Counters {
        unimplemented!()
    }

    /// Every finding since the last reset.
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// Clears a fault, the queues, the reports and the counters. Memory and modules stay.
    pub fn reset(&mut self) {
        unimplemented!()
    }

    /// The configuration.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }
}
