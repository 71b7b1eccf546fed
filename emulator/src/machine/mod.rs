//! The machine: devices with memories and SMs, modules, streams, and the calls a driver would make.
//!
//! Everything runs on the calling thread and only inside [`Machine::synchronize`] and [`Machine::query`]; between two calls
//! nothing moves. A fault stops the machine as an error does a CUDA context: it comes back from every call until
//! [`Machine::reset`].

pub(crate) mod block;
mod capture;
mod config;
mod counters;
pub(crate) mod flow;
mod graph;
mod halt;
pub(crate) mod launch;
pub(crate) mod program;
pub(crate) mod rng;
mod scheduler;
mod share;
pub(crate) mod stream;
pub(crate) mod system;
pub(crate) mod warp;

pub use capture::CaptureInfo;
pub use config::{Checks, Completion, DeviceConfig, MachineConfig, Schedule, SharedPlacement, UnknownName};
use counters::Tallies;
pub use counters::{Counters, InstructionClass, KernelCounters};
pub use graph::GraphNode;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::ir;
use crate::memory::Trouble;
use crate::memory::global::GlobalMemory;
use crate::report::{Fault, MachineError, Report};
use block::Block;
use capture::Capture;
use graph::{Exec, Graph};
use launch::Sm;
use program::Program;
use rng::Rng;
use stream::{Event, Order, Stream, Work};
use system::System;

/// A module loaded on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(pub(crate) u32);

/// A stream of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub(crate) u32);

/// An event of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub(crate) u32);

/// A graph of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub(crate) u32);

/// A graph made ready to be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphExecId(pub(crate) u32);

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

/// A module on a device.
#[derive(Debug)]
struct Loaded {
    device: usize,
    module: Arc<ir::Module>,
    globals: Arc<[u64]>,
    /// By kernel; made when first launched.
    programs: Vec<Option<Arc<Program>>>,
}

/// Devices, their memory and their streams.
#[derive(Debug)]
pub struct Machine {
    sys: System,
    /// By device.
    sms: Vec<Vec<Sm>>,
    /// Resident blocks of all devices.
    blocks: Vec<Option<Box<Block>>>,
    streams: Vec<Stream>,
    events: Vec<Event>,
    graphs: Vec<Option<Graph>>,
    execs: Vec<Option<Exec>>,
    /// Of graphs that are gone.
    idle_lanes: Vec<StreamId>,
    /// Captures going on, by number, and the last number.
    captures: HashMap<u64, Capture>,
    last_capture: u64,
    modules: Vec<Loaded>,
    grids: usize,
    /// What the host has waited for.
    host: Order,
    /// By device: what each kernel did.
    tallies: Vec<Tallies>,
    /// By device: blocks of two streams are resident.
    crowded: Vec<bool>,
    reports: Vec<Report>,
    fault: Option<Fault>,
    /// Passes since anything but polling happened.
    idle: u32,
    /// The clock when only polling was left.
    idle_since: u64,
    /// Times that everybody was watched polling.
    watches: u64,
    /// Time-outs since anything happened.
    time_outs: u32,
    /// Under an uneven schedule, by device: how many times slower than the fastest it may be, as a power of two.
    pace: Vec<u32>,
    /// Passes until that changes.
    paces: u32,
}

impl Machine {
    /// A machine with empty memories.
    pub fn new(config: MachineConfig) -> Machine {
        let devices = config.devices.len();
        Machine {
            sms: config.devices.iter().map(|d| scheduler::empty_sms(d.sms)).collect(),
            blocks: Vec::new(),
            streams: Vec::new(),
            events: Vec::new(),
            graphs: Vec::new(),
            execs: Vec::new(),
            idle_lanes: Vec::new(),
            captures: HashMap::new(),
            last_capture: 0,
            modules: Vec::new(),
            grids: 0,
            host: Order::new(),
            tallies: vec![Tallies::new(); devices],
            crowded: vec![false; devices],
            reports: Vec::new(),
            fault: None,
            idle: 0,
            idle_since: 0,
            watches: 0,
            time_outs: 0,
            pace: Vec::new(),
            paces: 0,
            sys: System {
                global: GlobalMemory::new(devices),
                counters: vec![Counters::default(); devices],
                rng: Rng::new(config.seed),
                progress: 0,
                clock: 0,
                halts: vec![u64::MAX; devices],
                steps: 0,
                limit: u64::MAX,
                limit_size: 0,
                time_out: false,
                watch: 0,
                counting: false,
                grids: HashMap::new(),
                lanes: HashSet::new(),
                scratch: Default::default(),
                check: Default::default(),
                advice: Vec::new(),
                reach: (0..devices).map(|d| 1 << (d & 63)).collect(),
                config,
            },
        }
    }

    fn device(&self, device: usize) -> Result<&DeviceConfig, MachineError> {
        self.sys
            .config
            .devices
            .get(device)
            .ok_or_else(|| MachineError::NoSuch { what: "device", name: device.to_string() })
    }

    /// Allocates device memory; its bytes count as never written. `align` is a power of two; 256 at least is given.
    pub fn alloc(&mut self, device: usize, bytes: u64, align: u64) -> Result<u64, MachineError> {
        let capacity = self.device(device)?.memory_bytes;
        if !align.is_power_of_two() || align > 1 << 30 {
            return Err(MachineError::InvalidArgument {
                argument: "align",
                expected: "a power of two up to 2^30".into(),
                got: align.to_string(),
            });
        }
        let available = capacity.saturating_sub(self.sys.global.used(device));
        if bytes > available {
            return Err(MachineError::OutOfMemory { requested: bytes, available });
        }
        Ok(self.sys.global.alloc(device, bytes, align))
    }

    /// Frees an allocation. Its addresses are never given out again.
    pub fn free(&mut self, address: u64) -> Result<(), MachineError> {
        if self.sys.global.free(address) {
            Ok(())
        } else {
            Err(MachineError::BadAddress { address, bytes: 0 })
        }
    }

    /// Host to device.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MachineError> {
        let len = bytes.len() as u64;
        let to = self
            .sys
            .global
            .write(address, len)
            .map_err(|_| MachineError::BadAddress { address, bytes: len })?;
        to.copy_from_slice(bytes);
        Ok(())
    }

    /// Device to host. Bytes that were never written come back as zeros.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        let len = bytes.len() as u64;
        match self.sys.global.read(address, len, false) {
            Ok(from) => {
                bytes.copy_from_slice(from);
                Ok(())
            }
            Err(Trouble::OutOfBounds | Trouble::Uninitialised(_)) => {
                Err(MachineError::BadAddress { address, bytes: len })
            }
        }
    }

    /// Sets `len` bytes.
    pub fn fill(&mut self, address: u64, byte: u8, len: u64) -> Result<(), MachineError> {
        let to = self
            .sys
            .global
            .write(address, len)
            .map_err(|_| MachineError::BadAddress { address, bytes: len })?;
        to.fill(byte);
        Ok(())
    }

    /// Were all these bytes written, by the host or by a kernel?
    pub fn is_written(&self, address: u64, len: u64) -> Result<bool, MachineError> {
        match self.sys.global.read(address, len, true) {
            Ok(_) => Ok(true),
            Err(Trouble::Uninitialised(_)) => Ok(false),
            Err(Trouble::OutOfBounds) => Err(MachineError::BadAddress { address, bytes: len }),
        }
    }

    /// Loads a module: places and initialises its variables.
    pub fn load_module(&mut self, device: usize, module: Arc<ir::Module>) -> Result<ModuleId, MachineError> {
        self.load_module_with(device, module, &HashMap::new())
    }

    /// The same, for a module some of whose managed variables are at these addresses already, with their contents.
    pub fn load_module_with(
        &mut self,
        device: usize,
        module: Arc<ir::Module>,
        managed: &HashMap<String, u64>,
    ) -> Result<ModuleId, MachineError> {
        self.device(device)?;
        let there =
            |variable: &ir::GlobalVar| variable.managed.then(|| managed.get(&variable.name)).flatten();
        let mut globals = Vec::with_capacity(module.globals.len());
        for variable in &module.globals {
            let align = (variable.align.max(1) as u64).next_power_of_two();
            let bytes = variable.init.len() as u64;
            globals.push(match there(variable) {
                Some(address) => *address,
                None if variable.managed => self.sys.global.alloc_host(bytes, align),
                None => self.alloc(device, bytes, align)?,
            });
        }
        for (variable, address) in module.globals.iter().zip(&globals).filter(|(v, _)| there(v).is_none()) {
            let mut init = variable.init.clone();
            for relocation in &variable.relocations {
                let at = relocation.at as usize;
                let target = globals.get(relocation.symbol.index as usize);
                if let (Some(bytes), Some(target)) = (init.get_mut(at..at + 8), target) {
                    let value = target.wrapping_add_signed(relocation.symbol.offset);
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }
            self.write(*address, &init)?;
            if variable.space == ir::Space::Const {
                self.sys.global.protect(*address);
            }
        }
        let programs = vec![None; module.kernels.len()];
        self.modules.push(Loaded { device, module, globals: globals.into(), programs });
        Ok(ModuleId(self.modules.len() as u32 - 1))
    }

    /// Address and size of a module's `.global` or `.const` variable.
    pub fn global(&self, module: ModuleId, name: &str) -> Option<(u64, u64)> {
        let loaded = self.modules.get(module.0 as usize)?;
        let at = loaded.module.globals.iter().position(|g| g.name == name)?;
        Some((loaded.globals[at], loaded.module.globals[at].init.len() as u64))
    }

    /// A new, empty stream. A device that does not exist shows at the first launch.
    pub fn create_stream(&mut self, device: usize) -> StreamId {
        self.streams.push(Stream::new(device));
        StreamId(self.streams.len() as u32 - 1)
    }

    /// A kernel of a loaded module, and the module's device.
    fn program(&mut self, module: ModuleId, entry: &str) -> Result<(usize, Arc<Program>), MachineError> {
        let missing = |what, name: String| MachineError::NoSuch { what, name };
        let loaded =
            self.modules.get_mut(module.0 as usize).ok_or_else(|| missing("module", module.0.to_string()))?;
        let index = loaded
            .module
            .kernels
            .iter()
            .position(|k| k.name == entry)
            .ok_or_else(|| missing("kernel", entry.to_string()))?;
        let program = loaded.programs[index]
            .get_or_insert_with(|| {
                Arc::new(Program::new(loaded.module.clone(), index, loaded.globals.clone()))
            })
            .clone();
        Ok((loaded.device, program))
    }

    /// Validates a launch and enqueues its grid.
    fn launch_now(
        &mut self,
        stream: StreamId,
        module: ModuleId,
        entry: &str,
        launch: &Launch,
    ) -> Result<(), MachineError> {
        if let Some(fault) = &self.fault {
            return Err(MachineError::Faulted(fault.clone()));
        }
        let missing = |what, name: String| MachineError::NoSuch { what, name };
        let queue =
            self.streams.get(stream.0 as usize).ok_or_else(|| missing("stream", stream.0.to_string()))?;
        let device = queue.device;
        self.device(device)?;
        let (owner, program) = self.program(module, entry)?;
        if owner != device {
            return Err(missing("module on this device", module.0.to_string()));
        }
        let id = self.grids;
        let mut grid = launch::prepare(&self.sys, id, (stream.0 as usize, device), program, launch)?;
        if launch.cooperative {
            grid.workspace = self.sys.global.alloc(device, launch::WORKSPACE_BYTES, 256);
            self.fill(grid.workspace, 0, launch::WORKSPACE_BYTES)?;
        }
        self.grids += 1;
        grid.after = self.next_in_order(stream, id);
        self.sys.grids.insert(id, grid);
        self.streams[stream.0 as usize].queue.push_back(Work::Grid(id));
        Ok(())
    }

    /// Runs until the stream is empty. Grids of other streams go on meanwhile. An error if that never happens, because a device was
    /// halted; such an error stops nothing else.
    pub fn synchronize(&mut self, stream: StreamId) -> Result<(), Fault> {
        self.set_limit();
        while self.pending(stream) {
            if !self.turn()? {
                return Err(self.never(Some(stream)));
            }
        }
        self.outcome()?;
        self.host_saw_stream(stream);
        Ok(())
    }

    /// Drops what the checker remembers, if nothing runs and the host has waited for all that did: nothing is left that could race.
    fn forget(&mut self) {
        if self.sys.grids.is_empty() && self.sys.check.all_seen(&self.host) {
            self.sys.check.quiesce();
        }
    }

    /// The fault that stopped the machine, if any.
    fn outcome(&self) -> Result<(), Fault> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    /// Runs a little; true when the stream is empty.
    pub fn query(&mut self, stream: StreamId) -> Result<bool, Fault> {
        self.set_limit();
        if self.pending(stream) {
            self.turn()?;
        }
        self.outcome()?;
        let empty = !self.pending(stream);
        if empty {
            self.host_saw_stream(stream);
        }
        Ok(empty)
    }

    fn pending(&self, stream: StreamId) -> bool {
        self.fault.is_none() && self.streams.get(stream.0 as usize).is_some_and(|s| !s.queue.is_empty())
    }

    fn set_limit(&mut self) {
        let limit = self.sys.config.instruction_limit;
        self.sys.limit = limit.map_or(u64::MAX, |n| self.sys.clock.saturating_add(n));
        self.sys.limit_size = limit.unwrap_or(u64::MAX);
    }

    /// One pass of the scheduler; a report becomes the fault. False: nothing moves, and nothing will.
    fn turn(&mut self) -> Result<bool, Fault> {
        match self.pass() {
            Ok(moved) => Ok(moved),
            Err(report) => {
                self.reports.push((*report).clone());
                let fault = Fault { report };
                self.fault = Some(fault.clone());
                Err(fault)
            }
        }
    }

    /// What a device did. Zeros for a device that does not exist.
    pub fn counters(&self, device: usize) -> Counters {
        self.sys.counters.get(device).copied().unwrap_or_default()
    }

    /// What a device did, by kernel, in the order of their names. Empty for a device that does not exist.
    pub fn kernel_counters(&self, device: usize) -> Vec<KernelCounters> {
        self.tallies.get(device).map(counters::by_kernel).unwrap_or_default()
    }

    /// What works on the chip, yet against the letter of the manual ([`Checks::letter`]): one for each instruction, at most 100.
    pub fn advice(&self) -> &[Report] {
        &self.sys.advice
    }

    /// Every finding since the last reset.
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// Clears a fault, the queues, the reports and the counters, resumes halted devices and starts the random numbers over. Memory and
    /// modules stay.
    pub fn reset(&mut self) {
        self.blocks.clear();
        self.sys.grids.clear();
        self.sys.check.quiesce();
        self.reports.clear();
        self.sys.advice.clear();
        self.fault = None;
        self.idle = 0;
        self.time_outs = 0;
        self.sys.halts.fill(u64::MAX);
        self.pace.clear();
        self.sys.rng = Rng::new(self.sys.config.seed);
        self.sys.counters.fill(Counters::default());
        self.tallies.fill(Tallies::new());
        self.clear_streams();
        for (sms, device) in self.sms.iter_mut().zip(&self.sys.config.devices) {
            *sms = scheduler::empty_sms(device.sms);
        }
    }

    /// The configuration.
    pub fn config(&self) -> &MachineConfig {
        &self.sys.config
    }

    /// Changes schedule, completion, seed or checks between launches. Devices stay as they are.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut MachineConfig)) {
        let devices = self.sys.config.devices.clone();
        change(&mut self.sys.config);
        self.sys.config.devices = devices;
        self.sys.rng = Rng::new(self.sys.config.seed);
    }
}
