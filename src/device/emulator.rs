//! The emulated device: `hadal_emulator::Machine` behind the [`Driver`] trait.
//!
//! The machine runs on the calling thread and only inside calls that wait, so a launch costs nothing until somebody
//! looks. Streams map one to one; the default stream of a device is made with it. Host copies wait for their stream
//! first, which is what stream order means when nothing runs by itself. Events are the machine's own: a wait for one holds
//! its stream only, so that streams overlap as far as their events let them. A thread that captures a stream may neither allocate nor
//! wait meanwhile, as the driver has it for captures of the thread-local mode.
//!
//! [`Emulated`](super::Emulated) is the part no GPU has.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use hadal_emulator::{
    EventId, GraphError, GraphExecId, GraphId, Launch, Machine, MachineConfig, MachineError, ModuleId,
    StreamId, ir,
};

use super::driver::{
    Attribute, Driver, Image, RawEvent, RawFunction, RawGraph, RawGraphExec, RawModule, RawStream,
};
use super::launch::{LaunchConfig, ParamBuffer};
use super::map::{MapType, Swizzle, TensorMap, TensorMapSpec};
use crate::error::{Error, Result};

/// An emulated machine as a driver. Each has its own devices, memories and streams.
pub struct EmulatorDriver {
    pub(super) config: MachineConfig,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) machine: Machine,
    /// Stream 0 of each device.
    default_streams: Vec<StreamId>,
    /// The streams handed out, by device; a handle is an index into this, plus one.
    streams: Vec<(u32, StreamId)>,
    /// Handles that were destroyed and may be handed out again.
    idle_streams: Vec<u64>,
    /// Entries handed out; a handle is an index into this.
    functions: Vec<(ModuleId, String)>,
    modules: Vec<ModuleId>,
    /// The machine's events; a handle is an index into this.
    events: Vec<EventId>,
    /// The machine's graphs, and those that can be launched; a handle is an index into these.
    graphs: Vec<GraphId>,
    execs: Vec<GraphExecId>,
    /// Where captures began, and on which threads.
    pub(super) captures: Vec<(StreamId, ThreadId)>,
}

impl EmulatorDriver {
    /// A machine of this configuration.
    pub fn new(config: MachineConfig) -> EmulatorDriver {
        let mut machine = Machine::new(config.clone());
        let default_streams = (0..config.devices.len()).map(|device| machine.create_stream(device)).collect();
        let state = State {
            machine,
            default_streams,
            streams: Vec::new(),
            idle_streams: Vec::new(),
            functions: Vec::new(),
            modules: Vec::new(),
            events: Vec::new(),
            graphs: Vec::new(),
            execs: Vec::new(),
            captures: Vec::new(),
        };
        EmulatorDriver { config, state: Mutex::new(state) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // The machine is deterministic data; a panic elsewhere while it was locked does not make it less valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device(&self, device: u32) -> Result<&hadal_emulator::DeviceConfig> {
        let count = self.config.devices.len() as u32;
        self.config.devices.get(device as usize).ok_or(Error::NoDevice { ordinal: device, count })
    }
}

impl State {
    fn stream(&self, call: &'static str, device: u32, stream: RawStream) -> Result<StreamId> {
        let found = match stream.0.checked_sub(1) {
            None => self.default_streams.get(device as usize).copied(),
            Some(index) => {
                self.streams.get(index as usize).filter(|(owner, _)| *owner == device).map(|(_, id)| *id)
            }
        };
        found.ok_or_else(|| unknown_handle(call, stream.0))
    }

    fn event(&self, call: &'static str, event: RawEvent) -> Result<EventId> {
        self.events.get(event.0 as usize).copied().ok_or_else(|| unknown_handle(call, event.0))
    }

    fn graph(&self, call: &'static str, graph: RawGraph) -> Result<GraphId> {
        self.graphs.get(graph.0 as usize).copied().ok_or_else(|| unknown_handle(call, graph.0))
    }

    fn exec(&self, call: &'static str, exec: RawGraphExec) -> Result<GraphExecId> {
        self.execs.get(exec.0 as usize).copied().ok_or_else(|| unknown_handle(call, exec.0))
    }

    /// Refuses a call that allocates or waits while this thread captures, and breaks its captures.
    fn not_capturing(&mut self, call: &'static str) -> Result<()> {
        let thread = thread::current().id();
        let mine = self.captures.iter().filter(|(_, by)| *by == thread);
        let mut broken = mine.map(|(stream, _)| self.machine.break_capture(*stream));
        match broken.next() {
            None => Ok(()),
            Some(()) => {
                broken.for_each(drop);
                Err(driver_error(call, GraphError::Unsupported.into()))
            }
        }
    }

    fn wait(&mut self, call: &'static str, device: u32, stream: RawStream) -> Result<()> {
        let stream = self.stream(call, device, stream)?;
        self.not_capturing(call)?;
        self.machine.check_wait(stream).map_err(|e| driver_error(call, e))?;
        self.machine.synchronize(stream).map_err(|fault| Error::Fault { report: fault.to_string() })
    }

    /// Waits for everything on a device.
    fn wait_device(&mut self, device: u32) -> Result<()> {
        let others = self.streams.iter().enumerate().filter(|(_, (owner, _))| *owner == device);
        let handles: Vec<_> = others.map(|(index, _)| RawStream(index as u64 + 1)).collect();
        self.wait("cuMemFree", device, RawStream(0))?;
        handles.into_iter().try_for_each(|stream| self.wait("cuMemFree", device, stream))
    }
}

/// The error for a handle that was never given out. 400 is CUDA_ERROR_INVALID_HANDLE, the driver's own answer.
fn unknown_handle(call: &'static str, handle: u64) -> Error {
    Error::Driver { call, code: 400, detail: format!("invalid handle {handle:#x}") }
}

/// What the driver would have called it.
fn driver_error(call: &'static str, error: MachineError) -> Error {
    let code = match &error {
        MachineError::Faulted(fault) => return Error::Fault { report: fault.to_string() },
        MachineError::OutOfMemory { .. } => 2,
        MachineError::NoSuch { .. } => 400,
        MachineError::TooLarge { .. } => 701,
        MachineError::Graph(error) => match error {
            GraphError::AlreadyCapturing | GraphError::NotCapturing => 401,
            GraphError::Unsupported => 900,
            GraphError::Invalidated => 901,
            GraphError::Merge => 902,
            GraphError::Unmatched => 903,
            GraphError::Unjoined => 904,
            GraphError::Isolation => 905,
            GraphError::CapturedEvent => 907,
            _ => 1,
        },
        _ => 1,
    };
    Error::Driver { call, code, detail: error.to_string() }
}

impl Driver for EmulatorDriver {
    fn backend(&self) -> &'static str {
        "emulator"
    }

    fn device_count(&self) -> Result<u32> {
        Ok(self.config.devices.len() as u32)
    }

    fn device_name(&self, device: u32) -> Result<String> {
        Ok(self.device(device)?.name.clone())
    }

    fn attribute(&self, device: u32, attribute: Attribute) -> Result<i32> {
        let device = self.device(device)?;
        Ok(match attribute {
            Attribute::Multiprocessors => device.sms as i32,
            Attribute::CapabilityMajor => 9,
            Attribute::CapabilityMinor => 0,
            Attribute::SharedPerBlock => device.shared_per_block as i32,
        })
    }

    fn alloc(&self, device: u32, bytes: u64) -> Result<u64> {
        self.device(device)?;
        let mut state = self.lock();
        state.not_capturing("cuMemAlloc")?;
        state.machine.alloc(device as usize, bytes, 256).map_err(|e| driver_error("cuMemAlloc", e))
    }

    unsafe fn free(&self, device: u32, address: u64) -> Result<()> {
        let mut state = self.lock();
        let waited = state.wait_device(device);
        // After a fault nothing runs any more; where waiting was refused, something may, and the memory stays.
        if matches!(waited, Ok(()) | Err(Error::Fault { .. })) {
            state.machine.free(address).map_err(|e| driver_error("cuMemFree", e))?;
        }
        waited
    }

    unsafe fn copy_to_device(&self, device: u32, to: u64, from: &[u8], stream: RawStream) -> Result<()> {
        let mut state = self.lock();
        state.wait("cuMemcpyHtoDAsync", device, stream)?;
        state.machine.write(to, from).map_err(|e| driver_error("cuMemcpyHtoDAsync", e))
    }

    unsafe fn copy_to_host(&self, device: u32, to: &mut [u8], from: u64, stream: RawStream) -> Result<()> {
        let mut state = self.lock();
        state.wait("cuMemcpyDtoHAsync", device, stream)?;
        state.machine.read(from, to).map_err(|e| driver_error("cuMemcpyDtoHAsync", e))
    }

    unsafe fn fill(&self, device: u32, to: u64, value: u8, bytes: u64, stream: RawStream) -> Result<()> {
        let mut state = self.lock();
        let stream = state.stream("cuMemsetD8Async", device, stream)?;
        state.machine.fill_async(stream, to, value, bytes).map_err(|e| driver_error("cuMemsetD8Async", e))
    }

    fn load_module(&self, device: u32, image: &Image<'_>) -> Result<RawModule> {
        self.device(device)?;
        let refused = |log: String| Error::Module { kernel: image.name.into(), log };
        let module = ir::Module::parse(image.name, image.ptx).map_err(|e| refused(e.to_string()))?;
        let mut state = self.lock();
        let loaded = state.machine.load_module(device as usize, Arc::new(module));
        let id = loaded.map_err(|e| refused(e.to_string()))?;
        state.modules.push(id);
        Ok(RawModule(state.modules.len() as u64 - 1))
    }

    fn function(&self, _device: u32, module: RawModule, entry: &str) -> Result<RawFunction> {
        let mut state = self.lock();
        let known = state.modules.get(module.0 as usize).copied();
        let id = known.ok_or_else(|| unknown_handle("cuModuleGetFunction", module.0))?;
        state.functions.push((id, entry.to_owned()));
        Ok(RawFunction(state.functions.len() as u64 - 1))
    }

    fn allow_dynamic_shared(&self, device: u32, _function: RawFunction, bytes: u32) -> Result<()> {
        let most = self.device(device)?.shared_per_block;
        if bytes > most {
            let detail = format!("{bytes} bytes of dynamic shared memory, a block has {most}");
            return Err(Error::Driver { call: "cuFuncSetAttribute", code: 1, detail });
        }
        Ok(())
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        encode(spec)
    }

    unsafe fn launch(
        &self,
        device: u32,
        function: RawFunction,
        config: &LaunchConfig,
        params: &ParamBuffer,
    ) -> Result<()> {
        let mut state = self.lock();
        let stream = state.stream("cuLaunchKernelEx", device, config.stream)?;
        let known = state.functions.get(function.0 as usize).cloned();
        let (module, entry) = known.ok_or_else(|| unknown_handle("cuLaunchKernelEx", function.0))?;
        let launch = Launch {
            grid: config.grid,
            block: config.block,
            cluster: config.cluster,
            dynamic_shared: config.dynamic_shared,
            params: params.bytes().to_vec(),
            programmatic: config.programmatic,
            cooperative: config.cooperative,
            registers: None,
        };
        let enqueued = state.machine.launch(stream, module, &entry, &launch);
        enqueued.map_err(|e| driver_error("cuLaunchKernelEx", e))
    }

    fn enable_peer_access(&self, device: u32, peer: u32) -> Result<()> {
        self.device(device)?;
        self.device(peer)?;
        let enabled = self.lock().machine.enable_peer_access(device as usize, peer as usize);
        enabled.map_err(|e| driver_error("cuCtxEnablePeerAccess", e))
    }

    fn create_stream(&self, device: u32) -> Result<RawStream> {
        self.device(device)?;
        let mut state = self.lock();
        let mine = |handle: &u64| state.streams[*handle as usize - 1].0 == device;
        if let Some(at) = state.idle_streams.iter().position(mine) {
            return Ok(RawStream(state.idle_streams.swap_remove(at)));
        }
        let id = state.machine.create_stream(device as usize);
        state.streams.push((device, id));
        Ok(RawStream(state.streams.len() as u64))
    }

    unsafe fn destroy_stream(&self, device: u32, stream: RawStream) -> Result<()> {
        let mut state = self.lock();
        let id = state.stream("cuStreamDestroy", device, stream)?;
        state.machine.break_capture(id);
        // What is left in it runs with the next user of the handle, or when the device is waited for.
        state.idle_streams.push(stream.0);
        Ok(())
    }

    unsafe fn synchronize(&self, device: u32, stream: RawStream) -> Result<()> {
        self.lock().wait("cuStreamSynchronize", device, stream)
    }

    fn create_event(&self, device: u32) -> Result<RawEvent> {
        self.device(device)?;
        let mut state = self.lock();
        let event = state.machine.create_event();
        state.events.push(event);
        Ok(RawEvent(state.events.len() as u64 - 1))
    }

    unsafe fn destroy_event(&self, _device: u32, _event: RawEvent) -> Result<()> {
        Ok(())
    }

    unsafe fn record_event(&self, device: u32, event: RawEvent, stream: RawStream) -> Result<()> {
        let mut state = self.lock();
        let stream = state.stream("cuEventRecord", device, stream)?;
        let event = state.event("cuEventRecord", event)?;
        state.machine.record_event(stream, event).map_err(|error| driver_error("cuEventRecord", error))
    }

    unsafe fn wait_event(&self, device: u32, stream: RawStream, event: RawEvent) -> Result<()> {
        let mut state = self.lock();
        let stream = state.stream("cuStreamWaitEvent", device, stream)?;
        let event = state.event("cuStreamWaitEvent", event)?;
        state.machine.wait_event(stream, event).map_err(|error| driver_error("cuStreamWaitEvent", error))
    }

    unsafe fn elapsed_ms(&self, _device: u32, _start: RawEvent, _end: RawEvent) -> Result<f32> {
        let why = "the emulator has no clock; its counters say what was done".into();
        Err(Error::Unsupported { what: "elapsed time".into(), why })
    }

    unsafe fn begin_capture(&self, device: u32, stream: RawStream) -> Result<()> {
        let call = "cuStreamBeginCapture";
        let mut state = self.lock();
        if stream.0 == 0 {
            let detail = "the default stream cannot be captured".into();
            return Err(Error::Driver { call, code: 900, detail });
        }
        let stream = state.stream(call, device, stream)?;
        state.machine.begin_capture(stream).map_err(|e| driver_error(call, e))?;
        state.captures.push((stream, thread::current().id()));
        Ok(())
    }

    unsafe fn end_capture(&self, device: u32, stream: RawStream) -> Result<RawGraph> {
        let call = "cuStreamEndCapture";
        let mut state = self.lock();
        let stream = state.stream(call, device, stream)?;
        let began = state.captures.iter().find(|(began, _)| *began == stream);
        if began.is_some_and(|(_, thread)| *thread != thread::current().id()) {
            let detail = "the capture began on another thread".into();
            return Err(Error::Driver { call, code: 908, detail });
        }
        let graph = state.machine.end_capture(stream).map_err(|e| driver_error(call, e));
        state.captures.retain(|(began, _)| *began != stream);
        state.graphs.push(graph?);
        Ok(RawGraph(state.graphs.len() as u64 - 1))
    }

    unsafe fn instantiate_graph(&self, _device: u32, graph: RawGraph) -> Result<RawGraphExec> {
        let call = "cuGraphInstantiate";
        let mut state = self.lock();
        let graph = state.graph(call, graph)?;
        let exec = state.machine.instantiate(graph).map_err(|e| driver_error(call, e))?;
        state.execs.push(exec);
        Ok(RawGraphExec(state.execs.len() as u64 - 1))
    }

    unsafe fn launch_graph(&self, device: u32, graph: RawGraphExec, stream: RawStream) -> Result<()> {
        let call = "cuGraphLaunch";
        let mut state = self.lock();
        let (exec, stream) = (state.exec(call, graph)?, state.stream(call, device, stream)?);
        state.machine.launch_graph(stream, exec).map_err(|e| driver_error(call, e))
    }

    unsafe fn destroy_graph(&self, _device: u32, graph: RawGraph) -> Result<()> {
        let mut state = self.lock();
        let graph = state.graph("cuGraphDestroy", graph)?;
        state.machine.destroy_graph(graph).map_err(|e| driver_error("cuGraphDestroy", e))
    }

    unsafe fn destroy_graph_exec(&self, _device: u32, graph: RawGraphExec) -> Result<()> {
        let mut state = self.lock();
        let exec = state.exec("cuGraphExecDestroy", graph)?;
        state.machine.destroy_exec(exec).map_err(|e| driver_error("cuGraphExecDestroy", e))
    }
}

impl fmt::Debug for EmulatorDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmulatorDriver({} devices, seed {})", self.config.devices.len(), self.config.seed)
    }
}

/// Turns the arguments into the emulator's own tensor map, which refuses what the driver refuses.
fn encode(spec: &TensorMapSpec) -> Result<TensorMap> {
    use hadal_emulator::tma;
    let refused = |error: tma::TensorMapError| Error::Driver {
        call: "cuTensorMapEncodeTiled",
        code: 1,
        detail: format!("map of `{}`: {error}", spec.argument),
    };
    let element = match spec.element {
        MapType::U8 => tma::DataType::U8,
        MapType::F16 => tma::DataType::F16,
        MapType::F32 => tma::DataType::F32,
        MapType::BF16 => tma::DataType::BF16,
    };
    let swizzle = match spec.swizzle {
        Swizzle::None => tma::Swizzle::None,
        Swizzle::B128 => tma::Swizzle::B128,
    };
    let map = tma::TensorMap::new(&tma::Tiled {
        data_type: element,
        address: spec.address,
        dims: spec.dims(),
        strides: spec.strides(),
        box_dims: spec.tile(),
        element_strides: &[1; 4][..spec.dims().len()],
        interleave: tma::Interleave::None,
        swizzle,
        l2_promotion: tma::L2Promotion::B256,
        oob_fill: tma::OobFill::Zero,
    });
    Ok(TensorMap(map.map_err(refused)?.encode()))
}
