//! Devices, streams and buffers: the boundary between the library and whatever runs its kernels.
//!
//! A [`Device`] is one GPU, or one emulated GPU, seen through a [`Driver`]. Engines call `Device::cuda`, which never
//! falls back. Examples and tools call [`Device::open_default`], which obeys `HADAL_DEVICE` and otherwise takes a GPU we
//! have kernels for if there is one and the emulator if not, and says which and why ([`Device::reason`]). Tests call
//! `Device::emulator` or, with seeds and schedules of their own, `Device::emulate`.
//!
//! Everything is ordered by streams and nothing else: the library records no events and waits for nothing on its own,
//! except that copies to and from the host return when the host memory may be touched again.
//!
//! | file | what |
//! | --- | --- |
//! | `driver` | the trait a backend implements, one method per driver call |
//! | `launch`, `map` | what a launch and a tensor copy are described with |
//! | `choose` | `HADAL_DEVICE` |
//! | `buffer`, `stream` | owned memory, streams and events |
//! | `graph` | work that is captured once and launched often |
//! | `loader` | kernels loaded on first use, one copy per device |
//! | `emulator`, `cuda`, `cuda_table` | the backends |
//! | `emulated` | what no GPU can tell |

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

mod buffer;
mod choose;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_table;
pub mod driver;
#[cfg(feature = "emulator")]
mod emulated;
#[cfg(feature = "emulator")]
mod emulator;
mod graph;
pub mod launch;
mod loader;
pub mod map;
mod stream;

pub use buffer::Buffer;
pub use choose::{DeviceSpec, HADAL_DEVICE};
pub use driver::Driver;
#[cfg(feature = "emulator")]
pub use emulated::Emulated;
#[cfg(feature = "emulator")]
pub use emulator::EmulatorDriver;
pub use graph::{Capture, Graph};
pub(crate) use loader::LoadedKernel;
pub use stream::{Event, Stream};

use crate::error::{Error, Result};
use driver::Attribute;

/// Which device something lives on: comparable, printable, and cheap to carry in every view.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceId {
    backend: &'static str,
    ordinal: u32,
    /// Tells apart two emulators (or two recorders around one driver) in a process.
    instance: usize,
}

impl DeviceId {
    /// Whether the two belong to one driver: only then can they share pointers.
    pub(crate) fn same_driver(self, other: DeviceId) -> bool {
        (self.backend, self.instance) == (other.backend, other.instance)
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> DeviceId {
        DeviceId { backend: "test", ordinal: 0, instance: 0 }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.backend, self.ordinal)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} of driver {:#x}", self.backend, self.ordinal, self.instance)
    }
}

/// What a device can do, read once when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Properties {
    /// The driver's name for the device.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Bytes of shared memory one block may use.
    pub shared_per_block: u32,
}

/// A GPU, or an emulated one. Cloning is cheap; clones are the same device.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

/// A driver, and the emulator in it if it is one.
#[derive(Clone)]
struct Backend {
    driver: Arc<dyn Driver>,
    #[cfg(feature = "emulator")]
    emulator: Option<Arc<EmulatorDriver>>,
}

impl Backend {
    fn new(driver: Arc<dyn Driver>) -> Backend {
        Backend {
            driver,
            #[cfg(feature = "emulator")]
            emulator: None,
        }
    }

    #[cfg(feature = "emulator")]
    fn emulator(config: hadal_emulator::MachineConfig) -> Backend {
        let emulator = Arc::new(EmulatorDriver::new(config));
        Backend { driver: emulator.clone(), emulator: Some(emulator) }
    }
}

struct Inner {
    backend: Backend,
    ordinal: u32,
    properties: Properties,
    reason: String,
    kernels: Mutex<HashMap<&'static str, LoadedKernel>>,
}

impl Device {
    /// GPU number `ordinal`. Never falls back to anything else: without a driver this is [`Error::NoDriver`], without
    /// such a GPU [`Error::NoDevice`].
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: u32) -> Result<Device> {
        Device::from_driver(cuda::CudaDriver::load()?, ordinal)
    }

    /// A fresh emulated H100 with every check on. Each call makes a machine of its own.
    #[cfg(feature = "emulator")]
    pub fn emulator() -> Result<Device> {
        Device::emulate(hadal_emulator::MachineConfig::default())
    }

    /// Device 0 of a fresh emulated machine; [`Device::sibling`] gives the others.
    #[cfg(feature = "emulator")]
    pub fn emulate(config: hadal_emulator::MachineConfig) -> Result<Device> {
        Device::open_backend(Backend::emulator(config), 0, "emulator:0 was asked for")
    }

    /// A device of any driver.
    pub fn from_driver(driver: Arc<dyn Driver>, ordinal: u32) -> Result<Device> {
        let reason = format!("{}:{ordinal} was asked for", driver.backend());
        Device::open_backend(Backend::new(driver), ordinal, &reason)
    }

    fn open_backend(backend: Backend, ordinal: u32, reason: &str) -> Result<Device> {
        let driver = &backend.driver;
        let count = driver.device_count()?;
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        let number = |attribute| driver.attribute(ordinal, attribute).map(|value| value.max(0) as u32);
        let properties = Properties {
            name: driver.device_name(ordinal)?,
            capability: (number(Attribute::CapabilityMajor)?, number(Attribute::CapabilityMinor)?),
            sms: number(Attribute::Multiprocessors)?.max(1),
            shared_per_block: number(Attribute::SharedPerBlock)?,
        };
        let (reason, kernels) = (reason.to_owned(), Mutex::default());
        Ok(Device(Arc::new(Inner { backend, ordinal, properties, reason, kernels })))
    }

    /// Another device of the same driver: one that can share pointers with this one.
    pub fn sibling(&self, ordinal: u32) -> Result<Device> {
        let reason = format!("it sits beside {}", self.id());
        Device::open_backend(self.0.backend.clone(), ordinal, &reason)
    }

    /// This device's identity, as carried by views.
    pub fn id(&self) -> DeviceId {
        DeviceId {
            backend: self.0.backend.driver.backend(),
            ordinal: self.0.ordinal,
            instance: Arc::as_ptr(&self.0.backend.driver).cast::<()>() as usize,
        }
    }

    /// The number of this device among its driver's.
    pub fn ordinal(&self) -> u32 {
        self.0.ordinal
    }

    /// What the device can do.
    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }

    /// Why it is this device: set by whoever chose it.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The driver underneath.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.0.backend.driver
    }

    /// Seeds, counters and reports of the machine behind an emulated device; `None` on a GPU.
    #[cfg(feature = "emulator")]
    pub fn emulated(&self) -> Option<Emulated<'_>> {
        Some(Emulated::new(self.0.backend.emulator.as_deref()?, self.0.ordinal))
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}, {:?})", self.id(), self.0.properties.name)
    }
}

/// `emulator:0 (NVIDIA H100 …)`.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id(), self.0.properties.name)
    }
}
