//! The CUDA driver's functions, found at run time.
//!
//! Nothing of CUDA is needed to build or link: the library is opened by name when the first GPU is asked for, and each
//! function is looked up then. What is missing is an error that lists every name tried and the loader's reason. Types and
//! numbers are the driver's stable C interface (`cuda.h`, CUDA 12), written out here because only a handful are needed
//! and because bindings that follow a toolkit's version would put that version into every dependent's build.

use std::ffi::{c_char, c_int, c_uint, c_void};

use libloading::Library;

use crate::error::{Error, Result, Tried};

/// `CUresult`.
pub(super) type Code = c_int;
/// `CUdevice`.
pub(super) type Ordinal = c_int;
/// `CUcontext`, `CUmodule`, `CUfunction`, `CUstream`, `CUevent`, `CUgraph`, `CUgraphExec`: opaque pointers.
pub(super) type Handle = *mut c_void;

/// `CUlaunchAttribute`: an identifier, padding, and a union of 64 bytes that may hold pointers.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Attribute {
    pub(super) id: c_uint,
    pub(super) pad: c_uint,
    pub(super) value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
pub(super) struct Config {
    pub(super) grid: [c_uint; 3],
    pub(super) block: [c_uint; 3],
    pub(super) dynamic_shared: c_uint,
    pub(super) stream: Handle,
    pub(super) attributes: *const Attribute,
    pub(super) attribute_count: c_uint,
}

/// `CU_LAUNCH_ATTRIBUTE_COOPERATIVE`.
pub(super) const COOPERATIVE: c_uint = 2;
/// `CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION`.
pub(super) const CLUSTER: c_uint = 4;
/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`.
pub(super) const PROGRAMMATIC: c_uint = 6;
/// `CU_JIT_INFO_LOG_BUFFER` and its size in bytes.
pub(super) const JIT_INFO: [c_uint; 2] = [3, 4];
/// `CU_JIT_ERROR_LOG_BUFFER` and its size in bytes.
pub(super) const JIT_ERROR: [c_uint; 2] = [5, 6];
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(super) const MAX_DYNAMIC_SHARED: c_int = 8;
/// `CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED`.
pub(super) const PEER_ALREADY_ENABLED: Code = 704;
/// `CU_STREAM_NON_BLOCKING`.
pub(super) const NON_BLOCKING: c_uint = 1;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`.
pub(super) const CAPTURE_THREAD_LOCAL: c_int = 1;
/// `CU_TENSOR_MAP_L2_PROMOTION_L2_256B`.
pub(super) const L2_256B: c_int = 3;

macro_rules! table {
    ($($field:ident = $symbol:literal: fn($($argument:ty),* $(,)?);)*) => {
        /// The functions, and the library that keeps them in place.
        pub(super) struct Table {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> Code,)*
            _library: Library,
        }

        impl Table {
            /// Looks every function up, and lists all that are missing.
            fn bind(library: Library) -> std::result::Result<Table, Vec<Tried>> {
                let mut missing = Vec::new();
                $(
                    // SAFETY: the type is the driver's C declaration of this symbol.
                    let $field = unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) -> Code>($symbol)
                    }
                    .map(|symbol| *symbol)
                    .map_err(|error| {
                        let name = String::from_utf8_lossy($symbol).trim_end_matches('\0').to_owned();
                        missing.push(Tried { name, reason: chain(&error) });
                    });
                )*
                match ($($field,)*) {
                    ($(Ok($field),)*) => Ok(Table { $($field,)* _library: library }),
                    _ => Err(missing),
                }
            }
        }
    };
}

table! {
    init = b"cuInit\0": fn(c_uint);
    device_count = b"cuDeviceGetCount\0": fn(*mut c_int);
    device = b"cuDeviceGet\0": fn(*mut Ordinal, c_int);
    device_name = b"cuDeviceGetName\0": fn(*mut c_char, c_int, Ordinal);
    attribute = b"cuDeviceGetAttribute\0": fn(*mut c_int, c_int, Ordinal);
    retain = b"cuDevicePrimaryCtxRetain\0": fn(*mut Handle, Ordinal);
    push = b"cuCtxPushCurrent_v2\0": fn(Handle);
    pop = b"cuCtxPopCurrent_v2\0": fn(*mut Handle);
    enable_peer = b"cuCtxEnablePeerAccess\0": fn(Handle, c_uint);
    wait_all = b"cuCtxSynchronize\0": fn();
    alloc = b"cuMemAlloc_v2\0": fn(*mut u64, usize);
    free = b"cuMemFree_v2\0": fn(u64);
    to_device = b"cuMemcpyHtoDAsync_v2\0": fn(u64, *const c_void, usize, Handle);
    to_host = b"cuMemcpyDtoHAsync_v2\0": fn(*mut c_void, u64, usize, Handle);
    fill = b"cuMemsetD8Async\0": fn(u64, u8, usize, Handle);
    load = b"cuModuleLoadDataEx\0": fn(*mut Handle, *const c_void, c_uint, *const c_uint, *const *mut c_void);
    function = b"cuModuleGetFunction\0": fn(*mut Handle, Handle, *const c_char);
    set_function = b"cuFuncSetAttribute\0": fn(Handle, c_int, c_int);
    launch = b"cuLaunchKernelEx\0": fn(*const Config, Handle, *const *const c_void, *const *const c_void);
    encode = b"cuTensorMapEncodeTiled\0": fn(
        *mut c_void, c_int, c_uint, u64, *const u64, *const u64, *const u32, *const u32, c_int, c_int, c_int, c_int,
    );
    stream_create = b"cuStreamCreate\0": fn(*mut Handle, c_uint);
    stream_destroy = b"cuStreamDestroy_v2\0": fn(Handle);
    stream_wait = b"cuStreamSynchronize\0": fn(Handle);
    stream_wait_event = b"cuStreamWaitEvent\0": fn(Handle, Handle, c_uint);
    event_create = b"cuEventCreate\0": fn(*mut Handle, c_uint);
    event_destroy = b"cuEventDestroy_v2\0": fn(Handle);
    event_record = b"cuEventRecord\0": fn(Handle, Handle);
    event_wait = b"cuEventSynchronize\0": fn(Handle);
    event_elapsed = b"cuEventElapsedTime\0": fn(*mut f32, Handle, Handle);
    capture_begin = b"cuStreamBeginCapture_v2\0": fn(Handle, c_int);
    capture_end = b"cuStreamEndCapture\0": fn(Handle, *mut Handle);
    graph_instantiate = b"cuGraphInstantiateWithFlags\0": fn(*mut Handle, Handle, u64);
    graph_launch = b"cuGraphLaunch\0": fn(Handle, Handle);
    graph_destroy = b"cuGraphDestroy\0": fn(Handle);
    graph_exec_destroy = b"cuGraphExecDestroy\0": fn(Handle);
    error_name = b"cuGetErrorName\0": fn(Code, *mut *const c_char);
    error_text = b"cuGetErrorString\0": fn(Code, *mut *const c_char);
}

/// The names the driver goes by.
#[cfg(windows)]
pub(super) const NAMES: &[&str] = &["nvcuda.dll"];
/// The names the driver goes by. The second is what some containers have.
#[cfg(not(windows))]
pub(super) const NAMES: &[&str] = &["libcuda.so.1", "libcuda.so"];

impl Table {
    /// Opens the first library that loads and has every function.
    pub(super) fn open(names: &[&str]) -> Result<Table> {
        let mut tried = Vec::new();
        for &name in names {
            // SAFETY: loading runs the library's initialisers; these names are the CUDA driver's, which is made for it.
            match unsafe { Library::new(name) } {
                Err(error) => tried.push(Tried { name: name.into(), reason: chain(&error) }),
                Ok(library) => match Table::bind(library) {
                    Ok(table) => return Ok(table),
                    Err(missing) => {
                        let symbols: Vec<_> = missing.into_iter().map(|symbol| symbol.name).collect();
                        let reason = format!("older than CUDA 12, it lacks {}", symbols.join(", "));
                        tried.push(Tried { name: name.into(), reason });
                    }
                },
            }
        }
        Err(Error::NoDriver { tried })
    }
}

/// An error with all its causes: the loader's own reason is in the source and not in the message.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_library_is_an_error_that_lists_what_was_tried() {
        let names = ["libhadal-no-such-driver.so.1", "libhadal-no-such-driver.so"];
        let Err(Error::NoDriver { tried }) = Table::open(&names) else {
            panic!("found a driver that is not there")
        };
        assert_eq!(tried.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), names);
        assert!(tried.iter().all(|t| t.reason.contains("libhadal-no-such-driver")), "{tried:?}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_library_that_is_not_the_driver_is_refused_by_what_it_lacks() {
        let Err(Error::NoDriver { tried }) = Table::open(&["libc.so.6"]) else { panic!("libc is no driver") };
        assert!(tried[0].reason.contains("cuLaunchKernelEx"), "{tried:?}");
    }

    /// Against bindings that others made from the driver's headers.
    #[test]
    #[cfg(feature = "cudarc")]
    fn numbers_and_layouts_are_those_of_the_headers() {
        use cudarc::driver::sys;
        assert_eq!(size_of::<Attribute>(), size_of::<sys::CUlaunchAttribute>());
        assert_eq!(align_of::<Attribute>(), align_of::<sys::CUlaunchAttribute>());
        assert_eq!(size_of::<Config>(), size_of::<sys::CUlaunchConfig>());
        for (ours, theirs) in [
            (COOPERATIVE, sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE as u32),
            (CLUSTER, sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION as u32),
            (
                PROGRAMMATIC,
                sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION as u32,
            ),
            (JIT_INFO[0], sys::CUjit_option::CU_JIT_INFO_LOG_BUFFER as u32),
            (JIT_INFO[1], sys::CUjit_option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES as u32),
            (JIT_ERROR[0], sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER as u32),
            (JIT_ERROR[1], sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as u32),
            (
                MAX_DYNAMIC_SHARED as u32,
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as u32,
            ),
            (NON_BLOCKING, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32),
            (
                CAPTURE_THREAD_LOCAL as u32,
                sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as u32,
            ),
            (L2_256B as u32, sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B as u32),
        ] {
            assert_eq!(ours, theirs);
        }
        // Our functions against their declarations: the compiler compares where the types have one name, the sizes do else.
        assert_eq!(size_of::<Code>(), size_of::<sys::CUresult>());
        assert_eq!(size_of::<Ordinal>(), size_of::<sys::CUdevice>());
        assert_eq!(size_of::<Handle>(), size_of::<sys::CUstream>());
        assert_eq!(size_of::<u64>(), size_of::<sys::CUdeviceptr>());
    }

    #[test]
    fn structures_have_the_driver_s_layout() {
        assert_eq!((size_of::<Attribute>(), align_of::<Attribute>()), (72, 8));
        assert_eq!(size_of::<Config>(), 56);
        assert_eq!(std::mem::offset_of!(Config, attributes), 40);
    }
}
