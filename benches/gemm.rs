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

mod support;

use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{Criterion, Throughput};
use hadal::{Device, Result, gemm};

use support::{BATCHES, LAYERS, Operands};

fn main() {
    let device = Device::open_default().unwrap_or_else(|error| panic!("no device: {error}"));
    eprintln!("{device}, because {}", device.reason());
    #[cfg(feature = "emulator")]
    if device.emulated().is_some() {
        count(&device, "instructions per tile (emulated, not time)", "instructions", |c| c.instructions);
        count(&device, "bytes copied per tile (emulated, not time)", "bytes", |c| {
            c.tma_load_bytes + c.tma_store_bytes + c.global_load_bytes + c.global_store_bytes
        });
        return;
    }
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

/// Counts one thing for every shape.
#[cfg(feature = "emulator")]
fn count(device: &Device, title: &str, unit: &'static str, pick: fn(&hadal::emulator::Counters) -> u64) {
    let short = Duration::from_millis(1);
    let mut criterion = Criterion::default()
        .with_measurement(Counted { unit })
        // Nothing varies, so nothing is gained by looking longer.
        .warm_up_time(short)
        .measurement_time(short)
        .sample_size(10)
        .configure_from_args();
    let mut group = criterion.benchmark_group(title);
    for (name, shape) in shapes() {
        let mut counted = None;
        group.bench_function(name, |bencher| {
            // Run once, and only if this benchmark was not filtered out.
            let value = *counted.get_or_insert_with(|| {
                let counters = two_tiles(device, shape).unwrap_or_else(|error| panic!("{error}"));
                pick(&counters) / 2
            });
            bencher.iter_custom(|times| times as f64 * value as f64);
        });
    }
    group.finish();
    criterion.final_summary();
}

/// Two tiles of the kernel that is chosen for `shape`, on one SM.
#[cfg(feature = "emulator")]
fn two_tiles(device: &Device, shape: gemm::Shape) -> Result<hadal::emulator::Counters> {
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

/// A measurement that is a count.
struct Counted {
    unit: &'static str,
}

impl Measurement for Counted {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {}

    fn end(&self, (): ()) -> f64 {
        0.0
    }

    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Counted {
    /// The whole number: this is the point of counting.
    fn format_value(&self, value: f64) -> String {
        format!("{value:.0} {}", self.unit)
    }

    fn scale_values(&self, _typical: f64, _values: &mut [f64]) -> &'static str {
        self.unit
    }

    fn scale_throughputs(
        &self,
        _typical: f64,
        _throughput: &Throughput,
        _values: &mut [f64],
    ) -> &'static str {
        self.unit
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        self.unit
    }
}
