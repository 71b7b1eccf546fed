//! The process's machine and everything handed out to the program: one lock around all of it.
//!
//! Handles are small numbers with a kind in their upper half, so that a stale or foreign one is recognised instead of
//! followed. Nothing handed out is ever given a second meaning.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hadal_emulator::{EventId, Fault, Machine, MachineConfig, ModuleId, StreamId, ir};

use crate::abi::Handle;
use crate::capture::Capture;
use crate::error::{self, Code, Error, Result};
use crate::graph::Graphs;
use crate::host::Host;
use crate::library::{Kernel, Library};
use crate::settings;

/// What a handle is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Context = 1,
    Module,
    Function,
    Stream,
    Event,
    Library,
    Kernel,
    Graph,
    GraphNode,
    GraphExec,
    Pool,
}

/// The handle of number `index`.
pub fn handle(kind: Kind, index: usize) -> Handle {
    // Never 0, and never 1 or 2, which stand for the default streams.
    (kind as usize) << 32 | (index + 1) << 4
}

/// The number behind a handle of this kind.
pub fn index(kind: Kind, handle: Handle) -> Result<usize> {
    let number = (handle & 0xffff_ffff) >> 4;
    if handle >> 32 != kind as usize || number == 0 || handle & 0xf != 0 {
        return Err(Error::new(Code::InvalidHandle, format!("{handle:#x} is no {kind:?} of this driver")));
    }
    Ok(number - 1)
}

/// A loaded module.
pub struct Module {
    pub device: usize,
    pub id: ModuleId,
    pub ir: Arc<ir::Module>,
    pub unloaded: bool,
}

/// An entry of a module.
#[derive(Clone)]
pub struct Function {
    pub device: usize,
    pub module: ModuleId,
    pub ir: Arc<ir::Module>,
    pub kernel: usize,
    /// What `cuFuncSetAttribute` allowed.
    pub max_dynamic_shared: u32,
    pub large_clusters: bool,
}

impl Function {
    pub fn kernel(&self) -> &ir::Kernel {
        &self.ir.kernels[self.kernel]
    }
}

/// A stream. The first of each device is its default stream.
#[derive(Clone)]
pub struct Stream {
    pub device: usize,
    pub id: StreamId,
    pub non_blocking: bool,
    pub destroyed: bool,
}

/// An event.
#[derive(Clone, Copy)]
pub struct Event {
    pub id: EventId,
    /// When it was last recorded; a timed one had then been reached.
    pub recorded: Option<std::time::Instant>,
    pub timed: bool,
}

/// Everything.
pub struct State {
    pub config: MachineConfig,
    pub machine: Machine,
    pub modules: Vec<Module>,
    pub functions: Vec<Function>,
    pub libraries: Vec<Library>,
    pub kernels: Vec<Kernel>,
    pub streams: Vec<Stream>,
    pub events: Vec<Event>,
    /// Device memory: first address to length and device.
    pub allocations: BTreeMap<u64, (u64, usize)>,
    /// Variables of modules, in the same way. Nobody frees them.
    pub variables: BTreeMap<u64, (u64, usize)>,
    /// Host memory that kernels reach, by its first address.
    pub host: BTreeMap<usize, Host>,
    /// Captures going on, by the machine's number.
    pub captures: HashMap<u64, Capture>,
    pub graphs: Graphs,
    /// How often each device's primary context is retained.
    pub retained: Vec<u32>,
}

static STATE: OnceLock<Mutex<State>> = OnceLock::new();

thread_local! {
    /// The thread's contexts, the current one last.
    pub static CONTEXTS: RefCell<Vec<Option<usize>>> = const { RefCell::new(Vec::new()) };
}

/// Makes the machine, once.
pub fn initialise() -> Result<()> {
    if STATE.get().is_none() {
        let config = settings::machine()?;
        // Another thread may have been quicker; both machines are the same.
        let _ = STATE.set(Mutex::new(State::new(config)));
    }
    Ok(())
}

/// The machine, for the length of a call.
pub fn lock() -> Result<MutexGuard<'static, State>> {
    let state = STATE.get().ok_or_else(|| Error::quiet(Code::NotInitialized))?;
    // A panic while it was locked came back as an error; the machine is plain data and goes on from there.
    Ok(state.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The device of the thread's current context.
pub fn current() -> Result<usize> {
    CONTEXTS
        .with_borrow(|stack| stack.last().copied().flatten())
        .ok_or_else(|| Error::quiet(Code::InvalidContext))
}

impl State {
    fn new(config: MachineConfig) -> State {
        let mut machine = Machine::new(config.clone());
        let devices = config.devices.len();
        let default = |device| Stream {
            device,
            id: machine.create_stream(device),
            non_blocking: false,
            destroyed: false,
        };
        let streams = (0..devices).map(default).collect();
        State {
            config,
            machine,
            modules: Vec::new(),
            functions: Vec::new(),
            libraries: Vec::new(),
            kernels: Vec::new(),
            streams,
            events: Vec::new(),
            allocations: BTreeMap::new(),
            variables: BTreeMap::new(),
            host: BTreeMap::new(),
            captures: HashMap::new(),
            graphs: Graphs::default(),
            retained: vec![0; devices],
        }
    }

    /// The device of that ordinal.
    pub fn device(&self, ordinal: i32) -> Result<usize> {
        usize::try_from(ordinal)
            .ok()
            .filter(|device| *device < self.config.devices.len())
            .ok_or_else(|| Error::quiet(Code::InvalidDevice))
    }

    /// The stream behind a handle; 0, 1 and 2 are the current device's default stream.
    pub fn stream(&self, handle: Handle) -> Result<usize> {
        if handle <= 2 {
            return current();
        }
        let found = index(Kind::Stream, handle)?;
        match self.streams.get(found) {
            Some(stream) if !stream.destroyed => Ok(found),
            _ => Err(Error::new(Code::InvalidHandle, "the stream was destroyed")),
        }
    }

    /// The function behind a handle; a library's kernel is one of the current device.
    pub fn function(&mut self, handle: Handle) -> Result<&mut Function> {
        let found = match index(Kind::Kernel, handle) {
            Ok(_) => self.function_of(handle, current()?)?,
            Err(_) => index(Kind::Function, handle)?,
        };
        self.functions.get_mut(found).ok_or_else(|| Error::quiet(Code::InvalidHandle))
    }

    /// Runs a stream until it is empty.
    pub fn wait(&mut self, stream: usize) -> Result<()> {
        let id = self.streams[stream].id;
        self.run(|machine| machine.synchronize(id))
    }

    /// Lets the machine run. A fault is told once and then returned for ever.
    pub fn run<T>(&mut self, turn: impl FnOnce(&mut Machine) -> std::result::Result<T, Fault>) -> Result<T> {
        let known = self.machine.reports().len();
        turn(&mut self.machine).map_err(|fault| {
            let new = self.machine.reports().len() > known;
            Error::new(error::fault_code(&fault), if new { format!("\n{fault}") } else { String::new() })
        })
    }

    /// Waits for all streams of a device.
    pub fn wait_device(&mut self, device: usize) -> Result<()> {
        (0..self.streams.len())
            .filter(|s| self.streams[*s].device == device)
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|s| self.wait(s))
    }

    /// Work in the default stream begins after what is in the blocking streams of its device, and theirs after its. What is captured
    /// does not begin.
    pub fn order(&mut self, stream: usize) -> Result<()> {
        let Stream { device, non_blocking, .. } = self.streams[stream];
        if self.is_capturing(stream) {
            return Ok(());
        }
        self.refuse_implicit(stream)?;
        if stream != device {
            return if non_blocking { Ok(()) } else { self.wait(device) };
        }
        for other in 0..self.streams.len() {
            if other != stream && self.streams[other].device == device && !self.streams[other].non_blocking {
                self.wait(other)?;
            }
        }
        Ok(())
    }

    /// The allocation or variable an address lies in: its first byte, length, device.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64, usize)> {
        [&self.allocations, &self.variables].into_iter().find_map(|ranges| {
            let (&start, &(len, device)) = ranges.range(..=address).next_back()?;
            (address - start < len).then_some((start, len, device))
        })
    }

    /// Loads a module on a device, its managed variables where they are; its place.
    pub fn load_module(
        &mut self,
        device: usize,
        ir: Arc<ir::Module>,
        managed: &HashMap<String, u64>,
    ) -> Result<usize> {
        let id = self.machine.load_module_with(device, ir.clone(), managed)?;
        for variable in ir.globals.iter().filter(|variable| !variable.managed) {
            if let Some((address, bytes)) = self.machine.global(id, &variable.name) {
                self.variables.insert(address, (bytes, device));
            }
        }
        self.modules.push(Module { device, id, ir, unloaded: false });
        Ok(self.modules.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_of_another_kind_is_refused() {
        assert_eq!(index(Kind::Stream, handle(Kind::Stream, 5)).unwrap(), 5);
        assert_eq!(index(Kind::Event, handle(Kind::Stream, 5)).unwrap_err().code, Code::InvalidHandle);
        for wild in [0, 1, 2, 3, 0x10, 0xdead_beef, usize::MAX, handle(Kind::Stream, 0) + 1] {
            assert!(index(Kind::Stream, wild).is_err(), "{wild:#x}");
        }
    }
}
