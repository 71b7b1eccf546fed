//! One budget of SMs for computing and one for communicating.

use crate::device::Device;
use crate::error::{Error, Result};

/// What a GPU's links to its peers can do, in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Bytes a second that transfers reach in practice.
    pub bytes_per_second: f64,
    /// Seconds from issuing a store to a peer until its buffers are free again.
    pub latency: f64,
}

impl Link {
    /// NVLink 4 of H100 and H200: 390 of 450 GB/s, the rate that is commonly seen.
    pub const NVLINK4: Link = Link { bytes_per_second: 390e9, latency: 1e-6 };
    /// NVLink of H800: 160 of 200 GB/s, as DeepEP reports it.
    pub const NVLINK4_H800: Link = Link { bytes_per_second: 160e9, latency: 1e-6 };

    /// The links of a device, by its name: H100, H200 and GH200 (but for PCIe cards, whose links depend on bridges), and H800.
    pub fn of(device: &Device) -> Option<Link> {
        let name = &device.properties().name;
        let is = |model: &str| name.split([' ', '-', '_']).any(|word| word == model);
        match () {
            () if is("PCIe") || is("NVL") => None,
            () if is("H100") || is("H200") || is("GH200") => Some(Link::NVLINK4),
            () if is("H800") => Some(Link::NVLINK4_H800),
            () => None,
        }
    }
}

/// Bytes that one SM keeps in flight to its peers: an assumption, as the latencies above are, chosen so that their ratio is plausible. With a
/// microsecond of latency that is 49 GB/s an SM; DeepEP's own model counts on 50, and 28 to 35 were seen of its first version.
const IN_FLIGHT: f64 = 24.0 * 2048.0;

/// How the SMs of a device are shared between kernels that compute and kernels that communicate.
///
/// Give [`Partition::compute_sms`] to the plans of one stream (`Options::sms`) and [`Partition::comm_sms`] to those of another: no kernel takes
/// more than its budget, so neither has to wait for the other's blocks to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Partition {
    compute: u32,
    comm: u32,
}

impl Partition {
    /// Gives `comm_sms` SMs to communication and the others to computing; at least one to each.
    pub fn new(device: &Device, comm_sms: u32) -> Result<Partition> {
        let all = device.properties().sms;
        if comm_sms == 0 || comm_sms >= all {
            return Err(Error::option("comm_sms", format_args!("1 to {}", all.saturating_sub(1)), comm_sms));
        }
        Ok(Partition { compute: all - comm_sms, comm: comm_sms })
    }

    /// As many SMs for communication as fill the link: by Little's law, rate times latency has to be in flight, and each SM brings
    /// its share. An estimate from published rates, not a measurement; at most half of the device.
    pub fn for_link(device: &Device, link: Link) -> Result<Partition> {
        let wanted = link.bytes_per_second * link.latency / IN_FLIGHT;
        if !(wanted.is_finite() && wanted > 0.0) {
            let got = format!("{} B/s, {} s", link.bytes_per_second, link.latency);
            return Err(Error::option("link", "a positive rate and latency", got));
        }
        let half = (device.properties().sms / 2).max(1);
        Partition::new(device, (wanted.ceil() as u32).clamp(1, half))
    }

    /// [`Partition::for_link`] with the links the device's name stands for.
    pub fn by_default(device: &Device) -> Result<Partition> {
        let link = Link::of(device).ok_or_else(|| Error::Unsupported {
            what: "a default partition".into(),
            why: format!(
                "the links of {} are not known; Partition::for_link takes their rate and latency",
                device.properties().name
            ),
        })?;
        Partition::for_link(device, link)
    }

    /// SMs for kernels that compute.
    pub const fn compute_sms(&self) -> u32 {
        self.compute
    }

    /// SMs for kernels that communicate.
    pub const fn comm_sms(&self) -> u32 {
        self.comm
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use hadal_emulator::{DeviceConfig, MachineConfig};

    fn named(name: &str, sms: u32) -> Device {
        let device = DeviceConfig { name: name.into(), sms, ..DeviceConfig::h100() };
        Device::emulate(MachineConfig { devices: vec![device], ..MachineConfig::default() }).unwrap()
    }

    #[test]
    fn the_links_of_hopper() {
        for (name, comm) in [
            ("NVIDIA H100 SXM (emulated)", 8),
            ("NVIDIA H100 80GB HBM3", 8),
            ("NVIDIA H200", 8),
            ("NVIDIA GH200 480GB", 8),
            ("NVIDIA H800", 4),
        ] {
            let partition = Partition::by_default(&named(name, 132)).unwrap();
            assert_eq!((partition.comm_sms(), partition.compute_sms()), (comm, 132 - comm), "{name}");
        }
        for name in ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H20", "NVIDIA A100-SXM4-80GB"] {
            let refused = Partition::by_default(&named(name, 78));
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{name}");
        }
    }

    #[test]
    fn budgets_are_checked() {
        let device = named("NVIDIA H100", 4);
        assert_eq!(Partition::new(&device, 3).unwrap().compute_sms(), 1);
        for comm in [0, 4, 5] {
            let refused = Partition::new(&device, comm);
            assert!(matches!(refused, Err(Error::Option { argument: "comm_sms", .. })));
        }
        assert_eq!(Partition::for_link(&device, Link::NVLINK4).unwrap().comm_sms(), 2);
        let nonsense = Link { bytes_per_second: f64::NAN, latency: 1e-6 };
        assert!(matches!(
            Partition::for_link(&device, nonsense),
            Err(Error::Option { argument: "link", .. })
        ));
    }
}
