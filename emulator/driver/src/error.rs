//! Error codes by the driver's numbers, names and words; and what the emulator knows beyond them, on standard error.

use std::ffi::c_int;

use hadal_emulator::{Class, Fault, GraphError, MachineError};

use crate::abi::{Out, Text, exports};

pub type Result<T> = std::result::Result<T, Error>;

macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $runtime:literal, $words:literal;)*) => {
        /// `CUresult`, as far as this library says it; and `cudaError_t`, which has the same numbers under other names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i32)]
        pub enum Code { $($variant = $number),* }

        impl Code {
            /// The code of that number; none is success.
            pub fn of(number: c_int) -> Option<Code> {
                match number {
                    0 => None,
                    $($number => Some(Code::$variant),)*
                    _ => Some(Code::Unknown),
                }
            }
        }

        /// The C strings of a code: the driver's name, the runtime's, words.
        pub fn strings(code: c_int) -> Option<[&'static str; 3]> {
            match code {
                0 => Some(["CUDA_SUCCESS\0", "cudaSuccess\0", "no error\0"]),
                $($number => Some([concat!($name, "\0"), concat!($runtime, "\0"), concat!($words, "\0")]),)*
                _ => None,
            }
        }
    };
}

codes! {
    InvalidValue = 1, "CUDA_ERROR_INVALID_VALUE", "cudaErrorInvalidValue", "invalid argument";
    OutOfMemory = 2, "CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation", "out of memory";
    NotInitialized = 3, "CUDA_ERROR_NOT_INITIALIZED", "cudaErrorInitializationError", "initialization error";
    InvalidConfiguration = 9, "CUDA_ERROR_UNKNOWN", "cudaErrorInvalidConfiguration", "invalid configuration argument";
    InvalidSymbol = 13, "CUDA_ERROR_UNKNOWN", "cudaErrorInvalidSymbol", "invalid device symbol";
    InvalidPitch = 12, "CUDA_ERROR_UNKNOWN", "cudaErrorInvalidPitchValue", "invalid pitch argument";
    InvalidFunction = 98, "CUDA_ERROR_INVALID_DEVICE_FUNCTION", "cudaErrorInvalidDeviceFunction", "invalid device function";
    InvalidDevice = 101, "CUDA_ERROR_INVALID_DEVICE", "cudaErrorInvalidDevice", "invalid device ordinal";
    InvalidContext = 201, "CUDA_ERROR_INVALID_CONTEXT", "cudaErrorDeviceUninitialized", "invalid device context";
    NoBinary = 209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "cudaErrorNoKernelImageForDevice", "no kernel image is available for execution on the device";
    InvalidPtx = 218, "CUDA_ERROR_INVALID_PTX", "cudaErrorInvalidPtx", "a PTX JIT compilation failed";
    InvalidHandle = 400, "CUDA_ERROR_INVALID_HANDLE", "cudaErrorInvalidResourceHandle", "invalid resource handle";
    IllegalState = 401, "CUDA_ERROR_ILLEGAL_STATE", "cudaErrorIllegalState", "the operation cannot be performed in the present state";
    NotFound = 500, "CUDA_ERROR_NOT_FOUND", "cudaErrorSymbolNotFound", "named symbol not found";
    NotReady = 600, "CUDA_ERROR_NOT_READY", "cudaErrorNotReady", "device not ready";
    IllegalAddress = 700, "CUDA_ERROR_ILLEGAL_ADDRESS", "cudaErrorIllegalAddress", "an illegal memory access was encountered";
    OutOfResources = 701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "cudaErrorLaunchOutOfResources", "too many resources requested for launch";
    Timeout = 702, "CUDA_ERROR_LAUNCH_TIMEOUT", "cudaErrorLaunchTimeout", "the launch timed out and was terminated";
    PeerAlreadyEnabled = 704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "cudaErrorPeerAccessAlreadyEnabled", "peer access is already enabled";
    PeerNotEnabled = 705, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", "cudaErrorPeerAccessNotEnabled", "peer access has not been enabled";
    HostRegistered = 712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "cudaErrorHostMemoryAlreadyRegistered", "part or all of the requested memory range is already mapped";
    HostNotRegistered = 713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "cudaErrorHostMemoryNotRegistered", "pointer does not correspond to a registered memory region";
    IllegalInstruction = 715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "cudaErrorIllegalInstruction", "an illegal instruction was encountered";
    Misaligned = 716, "CUDA_ERROR_MISALIGNED_ADDRESS", "cudaErrorMisalignedAddress", "misaligned address";
    LaunchFailed = 719, "CUDA_ERROR_LAUNCH_FAILED", "cudaErrorLaunchFailure", "unspecified launch failure";
    CooperativeTooLarge = 720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "cudaErrorCooperativeLaunchTooLarge", "too many blocks in cooperative launch";
    NotSupported = 801, "CUDA_ERROR_NOT_SUPPORTED", "cudaErrorNotSupported", "operation not supported";
    CaptureUnsupported = 900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing";
    CaptureInvalidated = 901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture";
    CaptureMerge = 902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "cudaErrorStreamCaptureMerge", "operation would result in a merge of separate capture sequences";
    CaptureUnmatched = 903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "cudaErrorStreamCaptureUnmatched", "capture was not ended in the same stream as it began";
    CaptureUnjoined = 904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work";
    CaptureIsolation = 905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream";
    CaptureImplicit = 906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "cudaErrorStreamCaptureImplicit", "operation would make the legacy stream depend on a capturing blocking stream";
    CapturedEvent = 907, "CUDA_ERROR_CAPTURED_EVENT", "cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream";
    CaptureWrongThread = 908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "cudaErrorStreamCaptureWrongThread", "attempt to terminate a thread-local capture sequence from another thread";
    GraphUpdate = 910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "cudaErrorGraphExecUpdateFailure", "the graph update was not performed";
    InvalidClusterSize = 912, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "cudaErrorInvalidClusterSize", "invalid cluster size";
    Unknown = 999, "CUDA_ERROR_UNKNOWN", "cudaErrorUnknown", "unknown error";
}

/// A code, and for a person what the code does not say.
#[derive(Debug)]
pub struct Error {
    pub code: Code,
    /// Printed once on standard error. Empty: the code says it all, as when a caller only asks.
    pub detail: String,
}

impl Error {
    pub fn new(code: Code, detail: impl Into<String>) -> Error {
        Error { code, detail: detail.into() }
    }

    /// A code that is an answer rather than a mistake.
    pub fn quiet(code: Code) -> Error {
        Error::new(code, "")
    }

    pub fn invalid(detail: impl Into<String>) -> Error {
        Error::new(Code::InvalidValue, detail)
    }
}

impl From<MachineError> for Error {
    fn from(error: MachineError) -> Error {
        let code = match &error {
            // Said when it happened.
            MachineError::Faulted(fault) => return Error::quiet(fault_code(fault)),
            MachineError::OutOfMemory { .. } => Code::OutOfMemory,
            MachineError::NoSuch { .. } => Code::InvalidHandle,
            MachineError::TooLarge { resource: "resident blocks", .. } => Code::CooperativeTooLarge,
            MachineError::TooLarge { .. } => Code::OutOfResources,
            MachineError::Graph(error) => graph_code(*error),
            _ => Code::InvalidValue,
        };
        Error::new(code, error.to_string())
    }
}

/// What the driver says of a wrong use of captures and graphs.
fn graph_code(error: GraphError) -> Code {
    match error {
        GraphError::AlreadyCapturing | GraphError::NotCapturing => Code::IllegalState,
        GraphError::Unsupported => Code::CaptureUnsupported,
        GraphError::Invalidated => Code::CaptureInvalidated,
        GraphError::Merge => Code::CaptureMerge,
        GraphError::Unmatched => Code::CaptureUnmatched,
        GraphError::Unjoined => Code::CaptureUnjoined,
        GraphError::Isolation => Code::CaptureIsolation,
        GraphError::CapturedEvent => Code::CapturedEvent,
        GraphError::Update { .. } => Code::GraphUpdate,
        _ => Code::InvalidValue,
    }
}

/// What a GPU would have said.
pub fn fault_code(fault: &Fault) -> Code {
    match fault.report.class {
        Class::OutOfBounds => Code::IllegalAddress,
        Class::Misaligned => Code::Misaligned,
        Class::InstructionLimit => Code::Timeout,
        Class::Unsupported => Code::IllegalInstruction,
        _ => Code::LaunchFailed,
    }
}

/// What one of this library's own functions answered to another.
pub fn answered(code: c_int) -> Result<()> {
    Code::of(code).map_or(Ok(()), |code| Err(Error::quiet(code)))
}

/// The code for C, after the detail for the person.
pub fn report(call: &'static str, error: Error) -> c_int {
    if !error.detail.is_empty() {
        eprintln!("hadal emulator: {call}: {}", error.detail);
    }
    error.code as c_int
}

exports! {
    fn cuGetErrorName(code: c_int, text: Out<*const u8>) {
        let [name, ..] = strings(code).ok_or_else(|| Error::quiet(Code::InvalidValue))?;
        text.put(name.as_ptr())
    }

    fn cuGetErrorString(code: c_int, text: Out<*const u8>) {
        let [.., words] = strings(code).ok_or_else(|| Error::quiet(Code::InvalidValue))?;
        text.put(words.as_ptr())
    }

    /// Tables of private functions, by identifier: there are none.
    fn cuGetExportTable(table: Out<*const u8>, _identifier: Text) {
        table.put_if_wanted(std::ptr::null());
        Err(Error::quiet(Code::NotFound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_words() {
        for code in [Code::InvalidValue, Code::NoBinary, Code::LaunchFailed, Code::Unknown] {
            let [name, runtime, words] = strings(code as c_int).unwrap();
            assert!(
                runtime.starts_with("cudaError")
                    && runtime.ends_with('\0')
                    && Code::of(code as c_int) == Some(code)
            );
            assert!(name.starts_with("CUDA_ERROR_") && name.ends_with('\0') && words.ends_with('\0'));
        }
        assert!(strings(12_345).is_none());
    }
}
