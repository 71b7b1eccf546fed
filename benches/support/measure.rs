//! A bench in the two ways there are: time on a GPU, counts on the emulator.
//!
//! On a GPU a row's whole work is timed, from the event before a launch to the event after it, with the L2 emptied in between. On the emulator
//! a part of it is run once, and what it counts is divided by the units that the part has; these are exact, the same on every
//! machine, and not time.
#![cfg_attr(not(feature = "emulator"), allow(dead_code))] // Then nothing is counted.

#[cfg(feature = "emulator")]
use std::collections::HashMap;
use std::time::Duration;

use criterion::{Criterion, Throughput};
#[cfg(feature = "emulator")]
use hadal::emulator::{Checks, Counters, MachineConfig};
use hadal::{Device, Result, Stream};

#[cfg(feature = "emulator")]
#[path = "counted.rs"]
mod counted;

/// How much of a row's work is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it, as an engine would run it.
    Whole,
    /// As much as shows what a unit takes.
    Part,
}

/// Enqueues a row's work, operands prepared.
pub type Launch = Box<dyn FnMut(&Stream) -> Result<()>>;

/// Allocates and fills operands, and plans.
pub type Prepare = Box<dyn Fn(&Device, &Stream, Extent) -> Result<Launch>>;

/// One line of a bench.
pub struct Row {
    /// To filter by.
    pub name: String,
    /// What the whole work is, for GPUs.
    pub whole: Throughput,
    /// Units in the part that is counted.
    pub units: usize,
    /// Everything before the launch.
    pub prepare: Prepare,
}

/// Takes every row on the device that `HADAL_DEVICE` or what there is chooses. `unit` is what counts are for each of.
pub fn run(unit: &str, rows: &[Row]) {
    let device = Device::open_default().unwrap_or_else(|error| panic!("no device: {error}"));
    eprintln!("{device}, because {}", device.reason());
    #[cfg(feature = "emulator")]
    if device.emulated().is_some() {
        let mut seen = HashMap::new();
        let mut count = |what, name, pick: fn(&Counters) -> u64| {
            count(&format!("{what} per {unit} (emulated, not time)"), name, pick, rows, &mut seen);
        };
        count("instructions", "instructions", |c| c.instructions);
        count("bytes moved", "bytes", |c| {
            c.tma_load_bytes + c.tma_store_bytes + c.global_load_bytes + c.global_store_bytes
        });
        return;
    }
    #[cfg(not(feature = "emulator"))]
    let _ = unit;
    // The emulated CUDA driver answers to `cuda` and its events order things, but they are no clock.
    assert!(!device.properties().name.contains("emulated"), "{device} has no time to measure");
    time(&device, rows);
}

/// Counts one thing for every row; `seen` keeps what was counted for the next.
#[cfg(feature = "emulator")]
fn count(
    title: &str,
    unit: &'static str,
    pick: fn(&Counters) -> u64,
    rows: &[Row],
    seen: &mut HashMap<String, Counters>,
) {
    let mut criterion = counted::criterion(unit);
    let mut group = criterion.benchmark_group(title);
    for row in rows {
        group.bench_function(&row.name, |bencher| {
            // Only now: this benchmark was not filtered out.
            let counters = seen
                .entry(row.name.clone())
                .or_insert_with(|| part(row).unwrap_or_else(|error| panic!("{}: {error}", row.name)));
            let value = pick(counters) as f64 / row.units as f64;
            counted::answer(bencher, value);
        });
    }
    group.finish();
    criterion.final_summary();
}

/// What a row's part counts, without checks: the tests check.
#[cfg(feature = "emulator")]
fn part(row: &Row) -> Result<Counters> {
    let device = Device::emulate(MachineConfig { checks: Checks::none(), ..MachineConfig::default() })?;
    let stream = device.new_stream()?;
    let mut launch = (row.prepare)(&device, &stream, Extent::Part)?;
    stream.synchronize()?;
    let machine = device.emulated().expect("it was made so");
    machine.reset();
    launch(&stream)?;
    stream.synchronize()?;
    Ok(machine.counters())
}

/// Times every row on a GPU.
fn time(device: &Device, rows: &[Row]) {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("time");
    for row in rows {
        group.throughput(row.whole.clone());
        group.bench_function(&row.name, |bencher| {
            bencher.iter_custom(|times| timed(device, row, times).unwrap_or_else(|error| panic!("{error}")));
        });
    }
    group.finish();
    criterion.final_summary();
}

/// The time `times` launches take on the GPU, each with an L2 that holds none of its operands.
fn timed(device: &Device, row: &Row, times: u64) -> Result<Duration> {
    const MORE_THAN_L2: usize = 256 << 20;
    let stream = device.new_stream()?;
    let mut launch = (row.prepare)(device, &stream, Extent::Whole)?;
    let mut scratch = device.alloc::<u8>(MORE_THAN_L2)?;
    let mut milliseconds = 0.0;
    for _ in 0..times {
        scratch.fill_bytes(&stream, 0)?;
        let before = stream.record()?;
        launch(&stream)?;
        milliseconds += before.elapsed_ms(&stream.record()?)? as f64;
    }
    Ok(Duration::from_secs_f64(milliseconds / 1e3))
}
