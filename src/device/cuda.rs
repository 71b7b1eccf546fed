//! GPUs, through the CUDA driver.
//!
//! A thin backend: each method is one driver call with the device's primary context pushed before it and popped after it,
//! so that an embedding engine's own context is left as it was. The driver is opened once per process. Contexts are
//! retained for the life of the process, since views and streams of an engine may outlive any [`Device`](super::Device).
//!
//! No machine this is tested on has a GPU. What is tested is everything up to the driver's door: that its absence is an
//! error that says what was tried, and that the structures passed through have the driver's layout.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::cuda_table::{self as table, Code, Handle, Table};
use super::driver::{
    Attribute, Driver, Image, RawEvent, RawFunction, RawGraph, RawGraphExec, RawModule, RawStream,
};
use super::launch::{LaunchConfig, ParamBuffer};
use super::map::{TensorMap, TensorMapSpec};
use crate::error::{Error, Result};

/// Bytes of each log the driver's assembler may write.
const LOG: usize = 16 << 10;
/// A launch's parameters: more than any row of the table has.
const MOST_PARAMS: usize = 32;

/// The CUDA driver.
pub(super) struct CudaDriver {
    table: Table,
    /// Primary contexts by device, retained on first use. Addresses, because a raw pointer is not `Send`.
    contexts: Mutex<HashMap<u32, usize>>,
}

/// Pops the context that was pushed, whatever happens in between.
struct Pushed<'a>(&'a Table);

impl Drop for Pushed<'_> {
    fn drop(&mut self) {
        let mut old = std::ptr::null_mut();
        // SAFETY: `old` is a valid place for a handle; a context was pushed when this guard was made.
        let _ = unsafe { (self.0.pop)(&mut old) };
    }
}

impl CudaDriver {
    /// The process's driver, opened on first use.
    pub(super) fn load() -> Result<Arc<dyn Driver>> {
        static DRIVER: OnceLock<Result<Arc<CudaDriver>>> = OnceLock::new();
        let driver = DRIVER.get_or_init(|| CudaDriver::open(table::NAMES).map(Arc::new));
        driver.clone().map(|driver| driver as Arc<dyn Driver>)
    }

    fn open(names: &[&str]) -> Result<CudaDriver> {
        let driver = CudaDriver { table: Table::open(names)?, contexts: Mutex::default() };
        // SAFETY: cuInit takes a flags word that must be 0.
        driver.check("cuInit", unsafe { (driver.table.init)(0) })?;
        Ok(driver)
    }

    fn check(&self, call: &'static str, code: Code) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let word = |get: unsafe extern "C" fn(Code, *mut *const c_char) -> Code| {
            let mut text = std::ptr::null();
            // SAFETY: `text` is a valid place for a pointer; the driver's strings are static.
            unsafe {
                if get(code, &mut text) != 0 || text.is_null() {
                    return String::from("unknown");
                }
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
        };
        let detail = format!("{} ({})", word(self.table.error_name), word(self.table.error_text));
        Err(Error::Driver { call, code, detail })
    }

    fn ordinal(&self, device: u32) -> Result<table::Ordinal> {
        let mut ordinal = 0;
        // SAFETY: `ordinal` is a valid place for a device.
        self.check("cuDeviceGet", unsafe { (self.table.device)(&mut ordinal, device as c_int) })?;
        Ok(ordinal)
    }

    /// The device's primary context, retained on first use and never released.
    fn context(&self, device: u32) -> Result<usize> {
        // A panic while the map was locked leaves at worst a context retained twice.
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        match contexts.get(&device) {
            Some(&context) => Ok(context),
            None => {
                let mut context: Handle = std::ptr::null_mut();
                let ordinal = self.ordinal(device)?;
                // SAFETY: `context` is a valid place for a handle.
                let code = unsafe { (self.table.retain)(&mut context, ordinal) };
                self.check("cuDevicePrimaryCtxRetain", code)?;
                contexts.insert(device, context as usize);
                Ok(context as usize)
            }
        }
    }

    /// Makes the device's primary context current until the guard goes.
    fn enter(&self, device: u32) -> Result<Pushed<'_>> {
        let context = self.context(device)?;
        // SAFETY: the context was retained and is never released.
        self.check("cuCtxPushCurrent", unsafe { (self.table.push)(context as Handle) })?;
        Ok(Pushed(&self.table))
    }

    /// Loads an image with the assembler's log. The current context takes the module.
    fn load_image(&self, image: &[u8]) -> std::result::Result<Handle, String> {
        let mut errors = vec![0u8; LOG];
        let mut notes = vec![0u8; LOG];
        let options = [table::JIT_ERROR[0], table::JIT_ERROR[1], table::JIT_INFO[0], table::JIT_INFO[1]];
        // Option values travel in pointer-sized slots, sizes included.
        let values: [*mut c_void; 4] =
            [errors.as_mut_ptr().cast(), LOG as *mut c_void, notes.as_mut_ptr().cast(), LOG as *mut c_void];
        let mut module: Handle = std::ptr::null_mut();
        // SAFETY: the image is a cubin or NUL-terminated PTX; the logs live, with the sizes given, during the call.
        let code = unsafe {
            (self.table.load)(
                &mut module,
                image.as_ptr().cast(),
                options.len() as c_uint,
                options.as_ptr(),
                values.as_ptr(),
            )
        };
        self.check("cuModuleLoadDataEx", code).map(|()| module).map_err(|error| {
            let log = CStr::from_bytes_until_nul(&errors).map(CStr::to_string_lossy).unwrap_or_default();
            format!("{error}\n{log}").trim_end().to_owned()
        })
    }
}

/// A raw handle as the driver knows it.
fn handle(raw: u64) -> Handle {
    raw as usize as Handle
}

impl Driver for CudaDriver {
    fn backend(&self) -> &'static str {
        "cuda"
    }

    fn device_count(&self) -> Result<u32> {
        let mut count = 0;
        // SAFETY: `count` is a valid place for an int.
        self.check("cuDeviceGetCount", unsafe { (self.table.device_count)(&mut count) })?;
        Ok(count.max(0) as u32)
    }

    fn device_name(&self, device: u32) -> Result<String> {
        let mut name = [0u8; 256];
        let ordinal = self.ordinal(device)?;
        // SAFETY: the buffer has the length given.
        let code =
            unsafe { (self.table.device_name)(name.as_mut_ptr().cast(), name.len() as c_int, ordinal) };
        self.check("cuDeviceGetName", code)?;
        Ok(CStr::from_bytes_until_nul(&name).map(CStr::to_string_lossy).unwrap_or_default().into_owned())
    }

    fn attribute(&self, device: u32, attribute: Attribute) -> Result<i32> {
        let (mut value, ordinal) = (0, self.ordinal(device)?);
        // SAFETY: `value` is a valid place for an int; the enum holds the driver's numbers.
        let code = unsafe { (self.table.attribute)(&mut value, attribute as c_int, ordinal) };
        self.check("cuDeviceGetAttribute", code)?;
        Ok(value)
    }

    fn alloc(&self, device: u32, bytes: u64) -> Result<u64> {
        let _context = self.enter(device)?;
        let mut address = 0;
        // SAFETY: `address` is a valid place for a device pointer.
        self.check("cuMemAlloc", unsafe { (self.table.alloc)(&mut address, bytes as usize) })?;
        Ok(address)
    }

    unsafe fn free(&self, device: u32, address: u64) -> Result<()> {
        let _context = self.enter(device)?;
        // cuMemFree waits on its own today; that it does is not promised.
        // SAFETY: takes nothing.
        self.check("cuCtxSynchronize", unsafe { (self.table.wait_all)() })?;
        // Where waiting was refused, something may still use the memory, and it stays.
        // SAFETY: the caller vouches for the address.
        self.check("cuMemFree", unsafe { (self.table.free)(address) })
    }

    unsafe fn copy_to_device(&self, device: u32, to: u64, from: &[u8], stream: RawStream) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the slice is readable and the caller vouches for the device side and the stream.
        let code = unsafe { (self.table.to_device)(to, from.as_ptr().cast(), from.len(), handle(stream.0)) };
        self.check("cuMemcpyHtoDAsync", code)?;
        // The bytes may belong to the caller again only when they have been read.
        // SAFETY: the caller vouches for the stream.
        self.check("cuStreamSynchronize", unsafe { (self.table.stream_wait)(handle(stream.0)) })
    }

    unsafe fn copy_to_host(&self, device: u32, to: &mut [u8], from: u64, stream: RawStream) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the slice is writable until the wait below is over; the caller vouches for the rest.
        let code = unsafe { (self.table.to_host)(to.as_mut_ptr().cast(), from, to.len(), handle(stream.0)) };
        let copied = self.check("cuMemcpyDtoHAsync", code);
        // SAFETY: the caller vouches for the stream.
        copied.and(self.check("cuStreamSynchronize", unsafe { (self.table.stream_wait)(handle(stream.0)) }))
    }

    unsafe fn fill(&self, device: u32, to: u64, value: u8, bytes: u64, stream: RawStream) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for the memory and the stream.
        let code = unsafe { (self.table.fill)(to, value, bytes as usize, handle(stream.0)) };
        self.check("cuMemsetD8Async", code)
    }

    fn load_module(&self, device: u32, image: &Image<'_>) -> Result<RawModule> {
        let _context = self.enter(device)?;
        let mut log = String::new();
        if let Some(cubin) = image.cubin {
            match self.load_image(cubin) {
                Ok(module) => return Ok(RawModule(module as u64)),
                Err(why) => log = format!("machine code: {why}\n"),
            }
        }
        let refused =
            |why: &str| Error::Module { kernel: image.name.into(), log: format!("{log}PTX: {why}") };
        let ptx = CString::new(image.ptx).map_err(|_| refused("the text holds a NUL"))?;
        let module = self.load_image(ptx.as_bytes_with_nul()).map_err(|why| refused(&why))?;
        Ok(RawModule(module as u64))
    }

    fn function(&self, device: u32, module: RawModule, entry: &str) -> Result<RawFunction> {
        let _context = self.enter(device)?;
        let name = CString::new(entry).map_err(|_| {
            let log = "the entry's name holds a NUL".into();
            Error::Module { kernel: entry.into(), log }
        })?;
        let mut function: Handle = std::ptr::null_mut();
        // SAFETY: `function` is a valid place for a handle, and the module came from `load_module`.
        let code = unsafe { (self.table.function)(&mut function, handle(module.0), name.as_ptr()) };
        self.check("cuModuleGetFunction", code)?;
        Ok(RawFunction(function as u64))
    }

    fn allow_dynamic_shared(&self, device: u32, function: RawFunction, bytes: u32) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the function came from `function`.
        let code = unsafe {
            (self.table.set_function)(handle(function.0), table::MAX_DYNAMIC_SHARED, bytes as c_int)
        };
        self.check("cuFuncSetAttribute", code)
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        let mut map = TensorMap([0; 16]);
        // SAFETY: the map is 128 bytes at 128-byte alignment, the arrays have as many dimensions (and one stride less) as the
        // rank announces, which is at most four.
        let code = unsafe {
            (self.table.encode)(
                (&raw mut map).cast(),
                spec.element as c_int,
                spec.dims().len() as u32,
                spec.address,
                spec.dims().as_ptr(),
                spec.strides().as_ptr(),
                spec.tile().as_ptr(),
                [1u32; 4].as_ptr(),
                0,
                spec.swizzle as c_int,
                table::L2_256B,
                0,
            )
        };
        self.check("cuTensorMapEncodeTiled", code).map(|()| map).map_err(|error| match error {
            Error::Driver { call, code, detail } => Error::Driver {
                call,
                code,
                detail: format!("map of `{}`: {detail}: {spec:?}", spec.argument),
            },
            other => other,
        })
    }

    unsafe fn launch(
        &self,
        device: u32,
        function: RawFunction,
        config: &LaunchConfig,
        params: &ParamBuffer,
    ) -> Result<()> {
        let _context = self.enter(device)?;
        let mut pointers = [std::ptr::null::<c_void>(); MOST_PARAMS];
        for (pointer, start) in pointers.iter_mut().zip(params.starts()) {
            *pointer = params.bytes()[start..].as_ptr().cast();
        }
        let mut attributes = [table::Attribute { id: 0, pad: 0, value: [0; 16] }; 3];
        let mut count = 0;
        let mut add = |id, words: &[u32]| {
            attributes[count].id = id;
            attributes[count].value[..words.len()].copy_from_slice(words);
            count += 1;
        };
        if let Some(cluster) = config.cluster {
            add(table::CLUSTER, &cluster);
        }
        if config.programmatic {
            add(table::PROGRAMMATIC, &[1]);
        }
        if config.cooperative {
            add(table::COOPERATIVE, &[1]);
        }
        let launch = table::Config {
            grid: config.grid,
            block: config.block,
            dynamic_shared: config.dynamic_shared,
            stream: handle(config.stream.0),
            attributes: attributes.as_ptr(),
            attribute_count: count as c_uint,
        };
        // SAFETY: the configuration, its attributes and the parameters live during the call, which copies them; the caller
        // vouches for the function, the stream and what the parameters mean.
        let code =
            unsafe { (self.table.launch)(&launch, handle(function.0), pointers.as_ptr(), std::ptr::null()) };
        self.check("cuLaunchKernelEx", code)
    }

    fn enable_peer_access(&self, device: u32, peer: u32) -> Result<()> {
        let theirs = self.context(peer)?;
        let _context = self.enter(device)?;
        // SAFETY: the peer's context was retained and is never released; no flags are defined.
        let code = unsafe { (self.table.enable_peer)(theirs as Handle, 0) };
        if code == table::PEER_ALREADY_ENABLED {
            return Ok(());
        }
        self.check("cuCtxEnablePeerAccess", code)
    }

    fn create_stream(&self, device: u32) -> Result<RawStream> {
        let _context = self.enter(device)?;
        let mut stream: Handle = std::ptr::null_mut();
        // SAFETY: `stream` is a valid place for a handle.
        let code = unsafe { (self.table.stream_create)(&mut stream, table::NON_BLOCKING) };
        self.check("cuStreamCreate", code)?;
        Ok(RawStream(stream as u64))
    }

    unsafe fn destroy_stream(&self, device: u32, stream: RawStream) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for the stream.
        self.check("cuStreamDestroy", unsafe { (self.table.stream_destroy)(handle(stream.0)) })
    }

    unsafe fn synchronize(&self, device: u32, stream: RawStream) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for the stream.
        self.check("cuStreamSynchronize", unsafe { (self.table.stream_wait)(handle(stream.0)) })
    }

    fn create_event(&self, device: u32) -> Result<RawEvent> {
        let _context = self.enter(device)?;
        let mut event: Handle = std::ptr::null_mut();
        // SAFETY: `event` is a valid place for a handle.
        self.check("cuEventCreate", unsafe { (self.table.event_create)(&mut event, 0) })?;
        Ok(RawEvent(event as u64))
    }

    unsafe fn destroy_event(&self, device: u32, event: RawEvent) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for the event.
        self.check("cuEventDestroy", unsafe { (self.table.event_destroy)(handle(event.0)) })
    }

    unsafe fn record_event(&self, device: u32, event: RawEvent, stream: RawStream) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for both.
        let code = unsafe { (self.table.event_record)(handle(event.0), handle(stream.0)) };
        self.check("cuEventRecord", code)
    }

    unsafe fn wait_event(&self, device: u32, stream: RawStream, event: RawEvent) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for both; no flags are defined.
        let code = unsafe { (self.table.stream_wait_event)(handle(stream.0), handle(event.0), 0) };
        self.check("cuStreamWaitEvent", code)
    }

    unsafe fn elapsed_ms(&self, device: u32, start: RawEvent, end: RawEvent) -> Result<f32> {
        let _context = self.enter(device)?;
        let mut milliseconds = 0f32;
        // SAFETY: the caller vouches for both events.
        self.check("cuEventSynchronize", unsafe { (self.table.event_wait)(handle(end.0)) })?;
        // SAFETY: `milliseconds` is a valid place for a float, and the events are as above.
        let code = unsafe { (self.table.event_elapsed)(&mut milliseconds, handle(start.0), handle(end.0)) };
        self.check("cuEventElapsedTime", code)?;
        Ok(milliseconds)
    }

    unsafe fn begin_capture(&self, device: u32, stream: RawStream) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for the stream.
        let code = unsafe { (self.table.capture_begin)(handle(stream.0), table::CAPTURE_THREAD_LOCAL) };
        self.check("cuStreamBeginCapture", code)
    }

    unsafe fn end_capture(&self, device: u32, stream: RawStream) -> Result<RawGraph> {
        let _context = self.enter(device)?;
        let mut graph: Handle = std::ptr::null_mut();
        // SAFETY: `graph` is a valid place for a handle, and the caller vouches for the stream.
        let code = unsafe { (self.table.capture_end)(handle(stream.0), &mut graph) };
        self.check("cuStreamEndCapture", code)?;
        Ok(RawGraph(graph as u64))
    }

    unsafe fn instantiate_graph(&self, device: u32, graph: RawGraph) -> Result<RawGraphExec> {
        let _context = self.enter(device)?;
        let mut exec: Handle = std::ptr::null_mut();
        // SAFETY: `exec` is a valid place for a handle, and the caller vouches for the graph; no flags are set.
        let code = unsafe { (self.table.graph_instantiate)(&mut exec, handle(graph.0), 0) };
        self.check("cuGraphInstantiate", code)?;
        Ok(RawGraphExec(exec as u64))
    }

    unsafe fn launch_graph(&self, device: u32, graph: RawGraphExec, stream: RawStream) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for the graph, what it captured, and the stream.
        let code = unsafe { (self.table.graph_launch)(handle(graph.0), handle(stream.0)) };
        self.check("cuGraphLaunch", code)
    }

    unsafe fn destroy_graph(&self, device: u32, graph: RawGraph) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for the graph.
        self.check("cuGraphDestroy", unsafe { (self.table.graph_destroy)(handle(graph.0)) })
    }

    unsafe fn destroy_graph_exec(&self, device: u32, graph: RawGraphExec) -> Result<()> {
        let _context = self.enter(device)?;
        // SAFETY: the caller vouches for the graph.
        self.check("cuGraphExecDestroy", unsafe { (self.table.graph_exec_destroy)(handle(graph.0)) })
    }
}

impl fmt::Debug for CudaDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CudaDriver")
    }
}
