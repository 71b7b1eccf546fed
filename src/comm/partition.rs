//! One budget of SMs for computing and one for communicating.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::kernel::table;

/// What a GPU's links to its peers can do, in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Bytes a second that transfers reach in practice.
    pub bytes_per_second: f64,
    /// Seconds from issuing a load of a peer's memory until its bytes are here.
    pub latency: f64,
}

impl Link {
    /// NVLink 4 of H100 and H200 through NVSwitch: 386 of 450 GB/s, 827 ns. Sources at [`Partition`].
    pub const NVLINK4: Link = Link { bytes_per_second: 386e9, latency: 827e-9 };
    /// NVLink of H800: 160 of 200 GB/s, and the latency of H100. Sources at [`Partition`].
    pub const NVLINK4_H800: Link = Link { bytes_per_second: 160e9, latency: 827e-9 };

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

/// The kernel whose loads cross the links.
const PULLS: &str = "hadal_moe_combine_sm90a";
/// Bytes of it that a thread waits for at once: four vectors.
const PULLED_BY_A_THREAD: u32 = 64;

/// Bytes that an SM keeps in flight from its peers while the combine runs on it, a block an SM.
fn in_flight() -> f64 {
    table::row(PULLS).map_or(0.0, |row| f64::from(row.threads * PULLED_BY_A_THREAD))
}

/// How the SMs of a device are shared between kernels that compute and kernels that communicate.
///
/// Give [`Partition::compute_sms`] to the plans of one stream (`Options::sms`) and [`Partition::comm_sms`] to those of another: no kernel takes
/// more than its budget, so neither has to wait for the other's blocks to end.
///
/// The default is modelled, not measured: Little's law on numbers that others measured and on what our own kernels keep in flight.
///
/// | quantity | value | source |
/// | --- | --- | --- |
/// | NVLink 4 of H100, H200, GH200, one direction | 386 GB/s of 450 | middle of the 375 to 397 GB/s in published logs of copies between H100 SXM |
/// | NVLink of H800, one direction | 160 GB/s of 200 | DeepEP's README |
/// | round trip of a load through NVSwitch | 827 ns | middle of the 823 to 830 ns between all pairs of 8 H100 SXM in a published log of nvbandwidth's pointer chase |
/// | bytes in flight of an SM | 32 KiB | the combine: a block of 512 threads an SM, four loads of 16 bytes each |
///
/// The combine decides because it pulls: its loads wait for the round trip. The dispatch pushes as much a thread, to several ranks, and
/// its stores wait for nobody. That H800 has the latency of H100 is an assumption: nobody has
/// published it.
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

    /// As many SMs for communication as fill the link: by Little's law, rate times latency has to be in flight, and each SM brings its
    /// share. Modelled, from the sources above; at most half of the device.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for a rate or latency that is not a positive number, [`Error::Unsupported`] on a device of one SM.
    pub fn for_link(device: &Device, link: Link) -> Result<Partition> {
        let Link { bytes_per_second, latency } = link;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(bytes_per_second) || !positive(latency) {
            let got = format!("{bytes_per_second} B/s, {latency} s");
            return Err(Error::option("link", "a positive rate and latency", got));
        }
        let all = device.properties().sms;
        if all < 2 {
            return Err(Error::Unsupported {
                what: "a partition".into(),
                why: format!("{device} has {all} SM, and two kernels at a time want one each"),
            });
        }
        // The cast saturates.
        let wanted = (bytes_per_second * latency / in_flight()).ceil() as u32;
        Partition::new(device, wanted.clamp(1, all / 2))
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
        // 386e9 * 827e-9 = 319,222 bytes are 9.7 times 32,768; 160e9 * 827e-9 = 132,320 are 4.04 times.
        for (name, comm) in [
            ("NVIDIA H100 SXM (emulated)", 10),
            ("NVIDIA H100 80GB HBM3", 10),
            ("NVIDIA H200", 10),
            ("NVIDIA GH200 480GB", 10),
            ("NVIDIA H800", 5),
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
    fn the_kernel_keeps_in_flight_what_the_model_says() {
        let kernel = crate::kernel::find(PULLS).unwrap();
        // The loads stand there twice: for the first row, and for those added to it.
        let loads = kernel.ptx.matches("ld.global.v4.b32").count();
        assert_eq!(loads / 2 * 16, PULLED_BY_A_THREAD as usize);
        assert_eq!(in_flight(), 32768.0);
    }

    #[test]
    fn more_rate_or_latency_never_takes_fewer_sms() {
        let device = named("NVIDIA H100", 132);
        let steps = [1e-3, 0.1, 0.5, 1.0, 1.5, 2.0, 4.0, 1e6, 1e100];
        let mut most = 0;
        for rate in steps {
            let mut before = 0;
            for latency in steps {
                let link = Link { bytes_per_second: 386e9 * rate, latency: 827e-9 * latency };
                let sms = Partition::for_link(&device, link).unwrap().comm_sms();
                assert!((1..=66).contains(&sms) && sms >= before, "{link:?}: {sms} after {before}");
                before = sms;
            }
            assert!(before >= most);
            most = before;
        }
        assert_eq!(most, 66);
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
        for wrong in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            for link in
                [Link { bytes_per_second: wrong, ..Link::NVLINK4 }, Link { latency: wrong, ..Link::NVLINK4 }]
            {
                let refused = Partition::for_link(&device, link);
                assert!(matches!(refused, Err(Error::Option { argument: "link", .. })), "{link:?}");
            }
        }
        let refused = Partition::for_link(&named("NVIDIA H100", 1), Link::NVLINK4);
        assert!(matches!(refused, Err(Error::Unsupported { .. })));
    }
}
