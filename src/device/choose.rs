//! `HADAL_DEVICE`: which device examples, tools and tests run on.
//!
//! `cuda`, `cuda:N`, `emulator` or `emulator:N`, nothing else; a value that means nothing is an error and never a silent
//! default. Unset, a GPU that this build has kernels for is taken if there is one, else the emulator, and
//! [`Device::reason`] says why. Engines do not come here: they call [`Device::cuda`].

use std::fmt;
use std::str::FromStr;

use super::Device;
use crate::error::{Error, Result};

/// The environment variable that names the default device.
pub const HADAL_DEVICE: &str = "HADAL_DEVICE";

/// Devices an emulated machine asked for by name can have: one NVLink domain.
const EMULATED_DEVICES: u32 = 8;

/// A device by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceSpec {
    /// A GPU, through the CUDA driver.
    Cuda(u32),
    /// A device of a fresh emulated machine, one of eight.
    Emulator(u32),
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceSpec> {
        let wrong = || {
            let forms = format!("`cuda`, `cuda:N`, `emulator` or `emulator:N` with N < {EMULATED_DEVICES}");
            Error::device_name(HADAL_DEVICE, forms, format_args!("`{text}`"))
        };
        let (kind, number) = text.split_once(':').unwrap_or((text, "0"));
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u32 = number.parse().map_err(|_| wrong())?;
        match kind {
            "cuda" => Ok(DeviceSpec::Cuda(number)),
            "emulator" if number < EMULATED_DEVICES => Ok(DeviceSpec::Emulator(number)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceSpec::Emulator(n) => write!(f, "emulator:{n}"),
        }
    }
}

impl Device {
    /// The device `HADAL_DEVICE` names; unset, a supported GPU, else the emulator.
    pub fn open_default() -> Result<Device> {
        match std::env::var_os(HADAL_DEVICE) {
            Some(value) => Device::open(value.to_string_lossy().parse()?, "HADAL_DEVICE asks for it"),
            None => Device::open_best(),
        }
    }

    /// The device a name stands for, with the reason it was chosen.
    pub fn open(spec: DeviceSpec, reason: &str) -> Result<Device> {
        match spec {
            DeviceSpec::Cuda(ordinal) => open_cuda(ordinal, reason),
            DeviceSpec::Emulator(ordinal) => open_emulator(ordinal, reason),
        }
    }

    fn open_best() -> Result<Device> {
        let why = match open_cuda(0, "it is a supported GPU and HADAL_DEVICE is not set") {
            Ok(device) if device.supported() => return Ok(device),
            Ok(device) => {
                let (major, minor) = device.properties().capability;
                format!("{device} has compute capability {major}.{minor}, which no kernel here was built for")
            }
            // The loader's full answers are for those who ask for `cuda`.
            Err(Error::NoDriver { tried }) => {
                let names: Vec<&str> = tried.iter().map(|tried| tried.name.as_str()).collect();
                format!("no CUDA driver could be loaded ({})", names.join(", "))
            }
            Err(error) => error.to_string(),
        };
        open_emulator(0, &format!("HADAL_DEVICE is not set, and {why}"))
    }

    /// Whether this build has kernels for the device.
    pub fn supported(&self) -> bool {
        // Kernels use `sm_90a` instructions, which exist on 9.0 and nowhere else.
        self.properties().capability == (9, 0)
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: u32, reason: &str) -> Result<Device> {
    Device::open_backend(super::Backend::new(super::cuda::CudaDriver::load()?), ordinal, reason)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_ordinal: u32, _reason: &str) -> Result<Device> {
    Err(Error::Unsupported { what: "device `cuda`".into(), why: "built without the feature `cuda`".into() })
}

#[cfg(feature = "emulator")]
fn open_emulator(ordinal: u32, reason: &str) -> Result<Device> {
    if ordinal >= EMULATED_DEVICES {
        return Err(Error::NoDevice { ordinal, count: EMULATED_DEVICES });
    }
    let one = hadal_emulator::DeviceConfig::h100();
    let config = hadal_emulator::MachineConfig {
        devices: vec![one; ordinal as usize + 1],
        ..hadal_emulator::MachineConfig::default()
    };
    Device::open_backend(super::Backend::emulator(config), ordinal, reason)
}

#[cfg(not(feature = "emulator"))]
fn open_emulator(_ordinal: u32, _reason: &str) -> Result<Device> {
    Err(Error::Unsupported {
        what: "device `emulator`".into(),
        why: "built without the feature `emulator`".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_or_refused_by_name() {
        assert_eq!("cuda".parse(), Ok(DeviceSpec::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceSpec::Cuda(3)));
        assert_eq!("emulator".parse(), Ok(DeviceSpec::Emulator(0)));
        assert_eq!("emulator:7".parse(), Ok(DeviceSpec::Emulator(7)));
        for text in [
            "",
            "nonsense",
            "cuda:",
            "cuda:x",
            "cuda:-1",
            "cuda:+1",
            "cuda:99999999999",
            "CUDA",
            " cuda",
            "emulator:8",
            "emulator:0:1",
            ":",
            "gpu:0",
        ] {
            let error = text.parse::<DeviceSpec>().unwrap_err();
            let Error::DeviceName { argument, expected, got } = &error else { panic!("{text:?}: {error:?}") };
            assert_eq!(*argument, "HADAL_DEVICE");
            assert!(expected.contains("cuda:N") && got.contains(text), "{error}");
        }
    }
}
