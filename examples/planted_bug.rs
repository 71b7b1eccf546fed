//! A planted bug, and what the emulator says about it.
//!
//! Takes the text of a kernel that ships, takes out one line, and runs what is left on the emulator: first as things usually
//! go, then under random schedules until one brings it out. By default that line is the branch that makes a wait for data
//! wait: `mbarrier.try_wait` gives up after a while and has to be tried again. `ptxas` has nothing to say about the kernel
//! without it, and the chip will give the right answer on most days.
//!
//! ```text
//! cargo run --release --example planted_bug
//! cargo run --release --example planted_bug -- wgmma.wait_group
//! cargo run --release --example planted_bug -- mbarrier.arrive.expect_tx
//! ```
//!
//! This is also how to launch PTX of your own: through `Device::driver`, which takes any module.

use std::process::ExitCode;

use hadal::device::driver::Image;
use hadal::device::launch::{LaunchConfig, ParamBuffer};
use hadal::device::map::{MapType, Swizzle, TensorMapSpec};
use hadal::emulator::{Completion, MachineConfig, Schedule};
use hadal::{Device, E4M3, Error, bf16, kernel};

const KERNEL: &str = "hadal_gemm_e4m3_bf16_dense_m64n64_sm90a";
/// Random schedules that are tried.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=64;
/// Two tiles, one after the other, and twice around the ring of eight stages for each.
const M: usize = 64;
const N: usize = 128;
const K: usize = 2048;

fn main() -> ExitCode {
    let instruction = std::env::args().nth(1).unwrap_or("@!ready bra".into());
    let Some((ptx, place)) = without(&instruction) else {
        eprintln!("planted_bug: no line of {KERNEL} has `{instruction}`");
        return ExitCode::from(2);
    };
    println!("taken out  {place}\n");
    match convict(&ptx) {
        Ok(Some(report)) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Ok(None) => {
            eprintln!("planted_bug: the emulator has nothing against it");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("planted_bug: {error}");
            ExitCode::from(1)
        }
    }
}

/// The first report about a kernel, if there is one.
fn convict(ptx: &str) -> hadal::Result<Option<String>> {
    let random = |seed| MachineConfig {
        schedule: Schedule::Random,
        completion: Completion::Random,
        seed,
        ..MachineConfig::default()
    };
    for config in std::iter::once(MachineConfig::default()).chain(SEEDS.map(random)) {
        match run(ptx, config) {
            Ok(()) => {}
            Err(Error::Fault { report }) => return Ok(Some(report)),
            Err(other) => return Err(other),
        }
    }
    Ok(None)
}

/// The kernel with the first line that has this instruction turned into a comment, and that line with where it is from.
fn without(instruction: &str) -> Option<(String, String)> {
    let shipped = kernel::find(KERNEL)?;
    let code = |line: &str| line.split("//").next().is_some_and(|code| code.contains(instruction));
    let taken = shipped.ptx.lines().position(code)?;
    let line =
        |(at, line): (usize, &str)| if at == taken { format!("//{line}\n") } else { format!("{line}\n") };
    let origin =
        shipped.line_map().origin(taken + 1).map_or("the kernel".into(), |origin| origin.to_string());
    let place = format!("{origin}: {}", shipped.ptx.lines().nth(taken)?.trim());
    Some((shipped.ptx.lines().enumerate().map(line).collect(), place))
}

/// Runs the GEMM's text on an emulated device, over matrices of ones.
fn run(ptx: &str, config: MachineConfig) -> hadal::Result<()> {
    let device = Device::emulate(config)?;
    let stream = device.new_stream()?;
    let (driver, ordinal) = (device.driver(), device.ordinal());
    let row = kernel::find(KERNEL).expect("the kernel was found before").row;

    let module = driver.load_module(ordinal, &Image { name: KERNEL, cubin: None, ptx })?;
    let function = driver.function(ordinal, module, KERNEL)?;
    driver.allow_dynamic_shared(ordinal, function, row.dynamic_shared)?;

    let a = device.upload(&stream, &[E4M3::from_f32(1.0); M * K])?;
    let weight = device.upload(&stream, &[E4M3::from_f32(1.0); N * K])?;
    let a_scales = device.upload(&stream, &[1f32; M * K / 128])?;
    let weight_scales = device.upload(&stream, &[1f32; K / 128])?;
    let out = device.alloc::<bf16>(M * N)?;

    let map = |argument, element: MapType, address, dims: [usize; 2], tile: [u32; 2], swizzle| {
        let size = element.size() as u64;
        let (along, down) =
            ((dims[0] as u64, size, tile[0]), (dims[1] as u64, dims[0] as u64 * size, tile[1]));
        let spec = TensorMapSpec::new(argument, element, swizzle, address, [along, down]);
        driver.encode_tensor_map(&spec)
    };
    let params = ParamBuffer::new()
        .map(&map("a", MapType::U8, a.address(), [K, M], [128, 64], Swizzle::B128)?)
        .map(&map("weight", MapType::U8, weight.address(), [K, N], [128, 64], Swizzle::B128)?)
        .map(&map("a_scales", MapType::F32, a_scales.address(), [M, K / 128], [64, 1], Swizzle::None)?)
        .map(&map("out", MapType::BF16, out.address(), [N, M], [64, 64], Swizzle::B128)?)
        .u64(weight_scales.address())
        .u32(M as u32)
        .u32(N as u32)
        .u32(K as u32)
        .u32(K as u32 / 128)
        .u32(1);
    let config = LaunchConfig::new(1, row.threads, row.dynamic_shared, stream.raw());
    // SAFETY: function and stream are this device's, the parameters are the row's list in order, and the buffers they point
    // to live until after the wait. What the kernel does wrong, the emulator catches.
    unsafe { driver.launch(ordinal, function, &config, &params)? };
    stream.synchronize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_passes() {
        assert_eq!(convict(kernel::find(KERNEL).unwrap().ptx), Ok(None));
    }

    #[test]
    fn the_planted_bugs_do_not() {
        // Which of two rules speaks first depends on the schedule.
        for (instruction, rules, at) in [
            ("@!ready bra", ["use before write", "data race"], "ptx/gemm_fp8.ptx:"),
            ("wgmma.wait_group", ["register of an unfinished wgmma"; 2], "ptx/gemm_fp8.ptx:"),
            ("mbarrier.arrive.expect_tx", ["deadlock"; 2], "ptx/lib/mbarrier.ptx:"),
        ] {
            let (ptx, place) = without(instruction).unwrap();
            let report = convict(&ptx).unwrap().unwrap_or_else(|| panic!("not convicted without {place}"));
            assert!(
                rules.iter().any(|rule| report.starts_with(rule)) && report.contains(at),
                "{instruction}: {report}"
            );
        }
    }
}
