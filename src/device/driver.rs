//! The narrow waist: what the library asks of a device, one to one with driver calls.
//!
//! Handles are raw 64-bit numbers, parameters are bytes, tensor maps are 128 opaque bytes. Nothing here knows what a
//! GEMM is, and nothing here is specific to the emulator: seeds, counters, schedules and reports sit behind
//! `Device::emulated`. Two implementations come with the crate, `cuda` and `emulator`; a
//! third can be handed to [`Device::from_driver`](super::Device::from_driver), which is how the tests record what a
//! plan asks of a device.
//!
//! Virtual memory joins when the first kernel needs it.

use std::fmt::Debug;

use super::launch::{LaunchConfig, ParamBuffer};
use super::map::{TensorMap, TensorMapSpec};
use crate::error::{Error, Result};

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub u64);)*
    };
}

handles! {
    /// A driver's stream. 0 is the device's default stream.
    RawStream,
    /// A driver's event.
    RawEvent,
    /// A loaded module.
    RawModule,
    /// An entry of a loaded module.
    RawFunction,
    /// A captured graph.
    RawGraph,
    /// A graph that can be launched.
    RawGraphExec,
}

/// What [`Driver::attribute`] can be asked. The values are the driver's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Attribute {
    /// Streaming multiprocessors.
    Multiprocessors = 16,
    /// Major compute capability: 9 for Hopper.
    CapabilityMajor = 75,
    /// Minor compute capability: 0 for Hopper.
    CapabilityMinor = 76,
    /// Bytes of shared memory a block may opt in to.
    SharedPerBlock = 97,
}

/// The two forms of one kernel: machine code where the build had an assembler, and the text it came from.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// The kernel's entry name, for messages.
    pub name: &'a str,
    /// Machine code for exactly one architecture.
    pub cubin: Option<&'a [u8]>,
    /// The PTX, which the driver assembles when there is no machine code or it does not load.
    pub ptx: &'a str,
}

/// A device API. Every method is one driver call; none keeps state between calls but the driver's own.
///
/// Launch errors surface at the next call that waits and stay until the device is reset.
pub trait Driver: Send + Sync + Debug {
    /// `cuda` or `emulator`: the word `HADAL_DEVICE` uses.
    fn backend(&self) -> &'static str;

    /// How many devices there are.
    fn device_count(&self) -> Result<u32>;

    /// A device's marketing name.
    fn device_name(&self, device: u32) -> Result<String>;

    /// One number about a device.
    fn attribute(&self, device: u32, attribute: Attribute) -> Result<i32>;

    /// Allocates device memory, aligned to 256 bytes.
    fn alloc(&self, device: u32, bytes: u64) -> Result<u64>;

    /// Frees what [`Driver::alloc`] returned, after waiting for the device's work. If the wait is refused (this thread captures, say) the
    /// memory is not freed.
    ///
    /// # Safety
    /// `address` came from `alloc` on this device, was not freed before and is not used afterwards.
    unsafe fn free(&self, device: u32, address: u64) -> Result<()>;

    /// Copies host bytes to the device, in stream order. The bytes may be reused when the call returns.
    ///
    /// # Safety
    /// `to` is device memory of at least `from.len()` bytes, and `stream` is a stream of `device`.
    unsafe fn copy_to_device(&self, device: u32, to: u64, from: &[u8], stream: RawStream) -> Result<()>;

    /// Copies device bytes to the host, in stream order, and waits for them.
    ///
    /// # Safety
    /// `from` is device memory of at least `to.len()` bytes, and `stream` is a stream of `device`.
    unsafe fn copy_to_host(&self, device: u32, to: &mut [u8], from: u64, stream: RawStream) -> Result<()>;

    /// Sets `bytes` bytes of device memory to `value`, in stream order.
    ///
    /// # Safety
    /// `to` is device memory of at least `bytes` bytes, and `stream` is a stream of `device`.
    unsafe fn fill(&self, device: u32, to: u64, value: u8, bytes: u64, stream: RawStream) -> Result<()>;

    /// Loads a kernel: the machine code if it is there and loads, else the PTX.
    fn load_module(&self, device: u32, image: &Image<'_>) -> Result<RawModule>;

    /// Finds an entry of a module.
    fn function(&self, device: u32, module: RawModule, entry: &str) -> Result<RawFunction>;

    /// Lets an entry be launched with up to `bytes` of dynamic shared memory.
    fn allow_dynamic_shared(&self, device: u32, function: RawFunction, bytes: u32) -> Result<()>;

    /// Describes a tile of global memory for tensor copies. Host work.
    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap>;

    /// Enqueues a kernel.
    ///
    /// # Safety
    /// `function` and `config.stream` belong to `device`, the parameters match the entry's, and every address in them
    /// is valid for what the kernel does until it has run.
    unsafe fn launch(
        &self,
        device: u32,
        function: RawFunction,
        config: &LaunchConfig,
        params: &ParamBuffer,
    ) -> Result<()>;

    /// Lets kernels of `device` load from and store to the memory of `peer`. Access that was given before is fine.
    fn enable_peer_access(&self, device: u32, peer: u32) -> Result<()>;

    /// Makes a stream that does not wait for the default one.
    fn create_stream(&self, device: u32) -> Result<RawStream>;

    /// Destroys a stream; work already in it still runs.
    ///
    /// # Safety
    /// `stream` came from `create_stream` on this device and is not used afterwards.
    unsafe fn destroy_stream(&self, device: u32, stream: RawStream) -> Result<()>;

    /// Waits for everything in a stream.
    ///
    /// # Safety
    /// `stream` is a live stream of `device`.
    unsafe fn synchronize(&self, device: u32, stream: RawStream) -> Result<()>;

    /// Makes an event.
    fn create_event(&self, device: u32) -> Result<RawEvent>;

    /// Destroys an event.
    ///
    /// # Safety
    /// `event` came from `create_event` on this device and is not used afterwards.
    unsafe fn destroy_event(&self, device: u32, event: RawEvent) -> Result<()>;

    /// Marks the present end of a stream.
    ///
    /// # Safety
    /// `event` and `stream` are live and of `device`.
    unsafe fn record_event(&self, device: u32, event: RawEvent, stream: RawStream) -> Result<()>;

    /// Makes later work of a stream wait for an event.
    ///
    /// # Safety
    /// `event` and `stream` are live and of `device`.
    unsafe fn wait_event(&self, device: u32, stream: RawStream, event: RawEvent) -> Result<()>;

    /// Milliseconds between two recorded events, after waiting for the second.
    ///
    /// # Safety
    /// Both events are live, recorded and of `device`.
    unsafe fn elapsed_ms(&self, device: u32, start: RawEvent, end: RawEvent) -> Result<f32>;

    /// From now on keeps what is enqueued on a stream for a graph. Other threads may allocate and wait meanwhile, this one may not
    /// (`CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`).
    ///
    /// A driver without graphs need not implement this and the five methods below: they refuse.
    ///
    /// # Safety
    /// `stream` is a live stream of `device`.
    unsafe fn begin_capture(&self, _device: u32, _stream: RawStream) -> Result<()> {
        Err(no_graphs())
    }

    /// Ends a capture, on the thread and the stream where it began.
    ///
    /// # Safety
    /// `stream` is a live stream of `device`.
    unsafe fn end_capture(&self, _device: u32, _stream: RawStream) -> Result<RawGraph> {
        Err(no_graphs())
    }

    /// Makes a graph ready to be launched.
    ///
    /// # Safety
    /// `graph` came from `end_capture` on this device and was not destroyed.
    unsafe fn instantiate_graph(&self, _device: u32, _graph: RawGraph) -> Result<RawGraphExec> {
        Err(no_graphs())
    }

    /// Enqueues all of a graph.
    ///
    /// # Safety
    /// `graph` came from `instantiate_graph` on this device and was not destroyed, no other thread uses it now, `stream` is a live stream
    /// of `device`, and all that was captured is still valid: what the kernels reach, the events, the modules.
    unsafe fn launch_graph(&self, _device: u32, _graph: RawGraphExec, _stream: RawStream) -> Result<()> {
        Err(no_graphs())
    }

    /// Destroys a graph. What was instantiated from it stays.
    ///
    /// # Safety
    /// `graph` came from `end_capture` on this device and is not used afterwards.
    unsafe fn destroy_graph(&self, _device: u32, _graph: RawGraph) -> Result<()> {
        Err(no_graphs())
    }

    /// Destroys an executable graph; launches under way go on.
    ///
    /// # Safety
    /// `graph` came from `instantiate_graph` on this device and is not used afterwards.
    unsafe fn destroy_graph_exec(&self, _device: u32, _graph: RawGraphExec) -> Result<()> {
        Err(no_graphs())
    }
}

fn no_graphs() -> Error {
    Error::Unsupported { what: "graphs".into(), why: "this driver has none".into() }
}
