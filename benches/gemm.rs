//! The dense FP8 GEMM on the shapes of DeepSeek-V3.
//!
//! On a GPU this is time: from the event before a launch to the event after it, with the L2 emptied in between.
//!
//! On the emulator it is not time and does not pretend to be: the values are warp instructions and bytes of one tile, the
//! main loop over the whole of K included, counted while the kernel that the cost model picks for the whole shape computes
//! two tiles, one after the other, on one SM. They are exact and the same on every machine, so a change between two commits
//! is a change of the kernel.
//!
//! ```text
//! cargo bench --bench gemm                  # HADAL_DEVICE chooses, as everywhere
//! cargo bench --bench gemm -- prefill/o
//! ```

#[cfg(feature = "emulator")]
#[path = "support/counted.rs"]
mod counted;
mod support;

#[cfg(feature = "emulator")]
use std::collections::HashMap;
use std::time::Duration;

use criterion::{Criterion, Throughput};
#[cfg(feature = "emulator")]
use hadal::emulator::Counters;
use hadal::{Device, Result, gemm};

#[cfg(feature = "emulator")]
use counted::Counted;
use support::{BATCHES, LAYERS, Operands};

fn main() {
    let device = Device::open_default().unwrap_or_else(|error| panic!("no device: {error}"));
    eprintln!("{device}, because {}", device.reason());
    #[cfg(feature = "emulator")]
    if device.emulated().is_some() {
        let mut seen = HashMap::new();
        let mut count =
            |title, unit, pick: fn(&Counters) -> u64| count(&device, title, unit, pick, &mut seen);
        count("instructions per tile (emulated, not time)", "instructions", |c| c.instructions);
        count("bytes copied per tile (emulated, not time)", "bytes", |c| {
            c.tma_load_bytes + c.tma_store_bytes + c.global_load_bytes + c.global_store_bytes
        });
        return;
    }
    // The emulated CUDA driver answers to `cuda` and its events order things, but they are no clock.
    assert!(!device.properties().name.contains("emulated"), "{device} has no time to measure");
    time(&device);
}

/// Every shape, with a name to filter by.
fn shapes() -> impl Iterator<Item = (String, gemm::Shape)> {
    let step = |m: usize| if m > 512 { "prefill" } else { "decode" };
    BATCHES.iter().flat_map(move |&m| {
        LAYERS.iter().map(move |&(layer, n, k)| {
            (format!("{}/{layer}/{m}x{n}x{k}", step(m)), gemm::Shape::new(m, n, k))
        })
    })
}

/// Counts one thing for every shape; `seen` keeps what was counted for the next.
#[cfg(feature = "emulator")]
fn count(
    device: &Device,
    title: &str,
    unit: &'static str,
    pick: fn(&Counters) -> u64,
    seen: &mut HashMap<String, Counters>,
) {
    // Criterion plans by the clock, so each answer takes a millisecond.
    let answer = Duration::from_millis(1);
    let mut criterion = Criterion::default()
        .with_measurement(Counted { unit })
        .warm_up_time(answer)
        .measurement_time(400 * answer)
        .sample_size(10)
        .configure_from_args();
    let mut group = criterion.benchmark_group(title);
    for (name, shape) in shapes() {
        group.bench_function(&name, |bencher| {
            // Only now: this benchmark was not filtered out.
            let counters = seen
                .entry(name.clone())
                .or_insert_with(|| two_tiles(device, shape).unwrap_or_else(|error| panic!("{error}")));
            let value = pick(counters) as f64 / 2.0;
            bencher.iter_custom(|times| {
                std::thread::sleep(answer);
                times as f64 * value
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

/// Two tiles of the kernel that is chosen for `shape`, on one SM.
#[cfg(feature = "emulator")]
fn two_tiles(device: &Device, shape: gemm::Shape) -> Result<Counters> {
    let machine = device.emulated().expect("the caller found an emulator");
    let whole = gemm::Plan::new(device, shape, gemm::Options::new())?;
    let (block_m, block_n) = whole.explain().chosen().tile;
    let cut = gemm::Shape::new(shape.m().min(block_m), 2 * block_n, shape.k());
    let plan = gemm::Plan::new(device, cut, gemm::Options::new().tile(block_m, block_n).sms(1))?;
    let stream = device.new_stream()?;
    let mut operands = Operands::new(device, &stream, cut)?;
    machine.reset();
    operands.run(&plan, &stream)?;
    stream.synchronize()?;
    Ok(machine.counters())
}

/// Times every shape on a GPU.
fn time(device: &Device) {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("time");
    for (name, shape) in shapes() {
        // Multiply-adds count as two.
        group.throughput(Throughput::Elements(2 * (shape.m() * shape.n() * shape.k()) as u64));
        group.bench_function(name, |bencher| {
            bencher
                .iter_custom(|times| timed(device, shape, times).unwrap_or_else(|error| panic!("{error}")));
        });
    }
    group.finish();
    criterion.final_summary();
}

/// The time `times` launches take on the GPU, each with an L2 that holds none of its operands.
fn timed(device: &Device, shape: gemm::Shape, times: u64) -> Result<Duration> {
    const MORE_THAN_L2: usize = 256 << 20;
    let plan = gemm::Plan::new(device, shape, gemm::Options::new())?;
    let stream = device.new_stream()?;
    let mut operands = Operands::new(device, &stream, shape)?;
    let mut scratch = device.alloc::<u8>(MORE_THAN_L2)?;
    let mut milliseconds = 0.0;
    for _ in 0..times {
        scratch.fill_bytes(&stream, 0)?;
        let before = stream.record()?;
        operands.run(&plan, &stream)?;
        milliseconds += before.elapsed_ms(&stream.record()?)? as f64;
    }
    Ok(Duration::from_secs_f64(milliseconds / 1e3))
}
