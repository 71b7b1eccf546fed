//! `hadal doctor`: what this machine has, and what it would need.

use std::fmt::Write;

use hadal::device::{Device, DeviceSpec};
use hadal::kernel::{self, ptxas};

/// Devices, driver and tools, found or why not.
pub fn doctor() -> String {
    let mut text = format!("hadal {}\n", env!("CARGO_PKG_VERSION"));
    for spec in [DeviceSpec::Cuda(0), DeviceSpec::Emulator(0)] {
        let said = Device::open(spec, "asked for")
            .map_or_else(|error| error.to_string(), |device| described(&device));
        entry(&mut text, &spec.to_string(), &said);
    }
    let chosen = Device::open_default();
    let said =
        chosen.map_or_else(|error| error.to_string(), |device| format!("{device}: {}", device.reason()));
    entry(&mut text, "default", &said);

    let kernels = kernel::all();
    let cubins = kernels.iter().filter(|kernel| kernel.cubin.is_some()).count();
    let by =
        kernel::assembler().map_or("no ptxas at build time".to_owned(), |version| format!("ptxas {version}"));
    entry(&mut text, "kernels", &format!("{} built, {cubins} with a cubin ({by})", kernels.len()));
    for wanted in [ptxas::PTXAS, ptxas::NVDISASM] {
        let found = ptxas::find(wanted, &ptxas::environment).and_then(|found| found.or_missing(wanted));
        let said = found.map_or_else(|why| format!("{why} (optional)"), |tool| tool.to_string());
        entry(&mut text, wanted.program, &said);
    }
    text
}

fn entry(text: &mut String, name: &str, said: &str) {
    let _ = writeln!(text, "{name:<12} {}", said.replace('\n', "\n             "));
}

fn described(device: &Device) -> String {
    let properties = device.properties();
    let (major, minor) = properties.capability;
    let support = if device.supported() { "supported" } else { "no kernel was built for it" };
    format!("{device}: compute capability {major}.{minor}, {} SMs, {support}", properties.sms)
}
