//! Every way this library can say no.
//!
//! One enum for the whole crate, so an engine matches in one place. Mistakes in what a caller passed come in the
//! variants that carry `argument`, `expected` and `got`: they are found before anything is launched, and they name the
//! thing the caller can change. What the machine refuses comes in [`Error::Driver`], [`Error::Module`] and
//! [`Error::Fault`]; the last of these surfaces at the first wait after the launch that caused it and stays until the
//! device is reset, as on CUDA.
//!
//! The enum is `#[non_exhaustive]`: new kernels may find new ways to refuse.

use std::fmt;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// One name that was tried when looking for a shared library, and why it did not load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The file name or symbol that was asked for.
    pub name: String,
    /// The loader's own words.
    pub reason: String,
}

/// Why a call was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A dimension of an argument is not what the plan needs.
    Shape {
        /// The argument, by its name in the API.
        argument: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// An argument has the right shape but cannot be walked the way it is laid out.
    Stride {
        /// The argument, by its name in the API.
        argument: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// An address is not a multiple of what the hardware needs.
    Alignment {
        /// The argument, by its name in the API.
        argument: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// An argument holds another element type than the plan was made for.
    Dtype {
        /// The argument, by its name in the API.
        argument: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// An argument lives on another device than the plan.
    Device {
        /// The argument, by its name in the API.
        argument: &'static str,
        /// The plan's device.
        expected: String,
        /// The argument's device.
        got: String,
    },
    /// An output shares memory with another argument.
    Overlap {
        /// The output, by its name in the API.
        argument: &'static str,
        /// The argument it must stay clear of, and where that lies.
        expected: String,
        /// Where the output lies.
        got: String,
    },
    /// The workspace is smaller than [`Workspace::bytes`](crate::Workspace::bytes).
    Workspace {
        /// Always `workspace`.
        argument: &'static str,
        /// The size the plan asked for.
        expected: String,
        /// The size that came.
        got: String,
    },
    /// A length or range does not fit the buffer it is applied to.
    Bounds {
        /// The argument, by its name in the API.
        argument: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// An element of an argument read on the host has a value that means nothing there.
    Value {
        /// The argument, by its name in the API.
        argument: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came, and where.
        got: String,
    },
    /// An option has a value no kernel can honour.
    Option {
        /// The option's setter.
        argument: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// A device name (`HADAL_DEVICE`) that means nothing.
    DeviceName {
        /// Where the name came from.
        argument: &'static str,
        /// The forms that are understood.
        expected: String,
        /// The name that came.
        got: String,
    },
    /// No kernel for this device or shape is in this build.
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it cannot be had.
        why: String,
    },
    /// No CUDA driver could be loaded on this machine.
    NoDriver {
        /// Every library name that was tried, with the loader's answer.
        tried: Vec<Tried>,
    },
    /// There is a driver but no device of this number.
    NoDevice {
        /// The number asked for.
        ordinal: u32,
        /// How many devices there are.
        count: u32,
    },
    /// A driver call failed.
    Driver {
        /// The driver function.
        call: &'static str,
        /// Its return code.
        code: i32,
        /// The code's name and the driver's explanation.
        detail: String,
    },
    /// A kernel could not be loaded.
    Module {
        /// The kernel's entry name.
        kernel: String,
        /// What the driver, its assembler or the emulator's front end said.
        log: String,
    },
    /// A kernel went wrong while it ran. Sticky: every later wait on the device repeats it.
    Fault {
        /// The report: kernel, source line, block, warp and what happened.
        report: String,
    },
}

/// Constructors for the variants that carry `argument`, `expected`, `got`.
macro_rules! argument_errors {
    ($($function:ident => $variant:ident),* $(,)?) => {
        impl Error {
            $(pub(crate) fn $function(
                argument: &'static str,
                expected: impl fmt::Display,
                got: impl fmt::Display,
            ) -> Error {
                Error::$variant { argument, expected: expected.to_string(), got: got.to_string() }
            })*
        }
    };
}

argument_errors! {
    shape => Shape,
    stride => Stride,
    alignment => Alignment,
    dtype => Dtype,
    device => Device,
    overlap => Overlap,
    workspace => Workspace,
    bounds => Bounds,
    value => Value,
    option => Option,
    device_name => DeviceName,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, argument, expected, got) = match self {
            Error::Shape { argument, expected, got } => ("shape of", argument, expected, got),
            Error::Stride { argument, expected, got } => ("layout of", argument, expected, got),
            Error::Alignment { argument, expected, got } => ("alignment of", argument, expected, got),
            Error::Dtype { argument, expected, got } => ("element type of", argument, expected, got),
            Error::Device { argument, expected, got } => ("device of", argument, expected, got),
            Error::Overlap { argument, expected, got } => ("memory of", argument, expected, got),
            Error::Workspace { argument, expected, got } => ("size of", argument, expected, got),
            Error::Bounds { argument, expected, got } => ("extent of", argument, expected, got),
            Error::Value { argument, expected, got } => ("value in", argument, expected, got),
            Error::Option { argument, expected, got } => ("option", argument, expected, got),
            Error::DeviceName { argument, expected, got } => ("value of", argument, expected, got),
            Error::Unsupported { what, why } => return write!(f, "{what} is not supported: {why}"),
            Error::NoDriver { tried } => {
                write!(f, "no CUDA driver could be loaded; tried")?;
                for (i, Tried { name, reason }) in tried.iter().enumerate() {
                    write!(f, "{} {name} ({reason})", if i == 0 { "" } else { "," })?;
                }
                return Ok(());
            }
            Error::NoDevice { ordinal, count } => {
                return write!(f, "no device {ordinal}: this machine has {count}, numbered from 0");
            }
            Error::Driver { call, code, detail } => return write!(f, "{call} failed with {code}: {detail}"),
            Error::Module { kernel, log } => return write!(f, "kernel {kernel} did not load: {log}"),
            Error::Fault { report } => return write!(f, "a kernel failed: {report}"),
        };
        write!(f, "{what} `{argument}`: expected {expected}, got {got}")
    }
}

impl std::error::Error for Error {}

/// That a slice of `len` elements is `[rows, cols]`.
pub(crate) fn expect_rows(argument: &'static str, len: usize, rows: usize, cols: usize) -> Result<()> {
    if rows.checked_mul(cols) == Some(len) {
        return Ok(());
    }
    Err(Error::shape(argument, format_args!("[{rows}, {cols}]"), format_args!("{len} elements")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_argument_expected_and_got() {
        let text = Error::shape("weight", "[2112, 7168]", "[2112, 7169]").to_string();
        assert_eq!(text, "shape of `weight`: expected [2112, 7168], got [2112, 7169]");
        let tried = vec![
            Tried { name: "libcuda.so.1".into(), reason: "not found".into() },
            Tried { name: "libcuda.so".into(), reason: "not found".into() },
        ];
        assert_eq!(
            Error::NoDriver { tried }.to_string(),
            "no CUDA driver could be loaded; tried libcuda.so.1 (not found), libcuda.so (not found)"
        );
    }
}
