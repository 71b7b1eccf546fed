//! MLA decoding at DeepSeek-V3's sizes.
//!
//! On a GPU this is time: from the event before a run to the event after it, with the L2 emptied in between.
//!
//! On the emulator it is not time and does not pretend to be: the values are warp instructions and bytes of one 64-token
//! block of the cache under one tile of 64 rows, from the difference between a long and a short request on one SM, so that
//! start and end drop out. They are exact and the same on every machine, so a change between two commits is a change of the
//! kernel.
//!
//! ```text
//! cargo bench --bench mla                  # HADAL_DEVICE chooses, as everywhere
//! cargo bench --bench mla -- 128x2
//! ```

#[cfg(feature = "emulator")]
#[path = "support/counted.rs"]
mod counted;

use std::time::Duration;

use criterion::{Criterion, Throughput};
#[cfg(feature = "emulator")]
use hadal::emulator::Counters;
use hadal::{Buffer, Device, Result, Stream, bf16, mla};

/// Query heads and query tokens.
const ROWS: &[(usize, usize)] = &[(16, 1), (128, 1), (128, 2)];
const PAGE: usize = 64;

fn main() {
    let device = Device::open_default().unwrap_or_else(|error| panic!("no device: {error}"));
    eprintln!("{device}, because {}", device.reason());
    #[cfg(feature = "emulator")]
    if device.emulated().is_some() {
        count(&device, "instructions per block (emulated, not time)", "instructions", |c| c.instructions);
        count(&device, "bytes copied per block (emulated, not time)", "bytes", |c| {
            c.tma_load_bytes + c.tma_store_bytes + c.global_load_bytes + c.global_store_bytes
        });
        return;
    }
    // The emulated CUDA driver answers to `cuda` and its events order things, but they are no clock.
    assert!(!device.properties().name.contains("emulated"), "{device} has no time to measure");
    time(&device);
}

/// Every operand of one step, filled with small numbers; pages in order.
struct Operands {
    rows: usize,
    requests: usize,
    pages: usize,
    tokens_rows: usize,
    heads: usize,
    q: Buffer<bf16>,
    cache: Buffer<bf16>,
    table: Buffer<i32>,
    lengths: Buffer<i32>,
    out: Buffer<bf16>,
    lse: Buffer<f32>,
    workspace: Buffer<u8>,
}

impl Operands {
    fn new(
        device: &Device,
        stream: &Stream,
        (heads, query_tokens): (usize, usize),
        requests: usize,
        tokens: usize,
        plan: &mla::Plan,
    ) -> Result<Operands> {
        let (rows, pages) = (requests * heads * query_tokens, tokens.div_ceil(PAGE));
        let table: Vec<i32> = (0..(requests * pages) as i32).collect();
        let mut operands = Operands {
            rows,
            requests,
            pages,
            tokens_rows: requests * query_tokens,
            heads,
            q: device.alloc(rows * mla::HEAD)?,
            cache: device.alloc(requests * pages * PAGE * mla::HEAD)?,
            table: device.upload(stream, &table)?,
            lengths: device.upload(stream, &vec![tokens as i32; requests])?,
            out: device.alloc(rows * mla::LATENT)?,
            lse: device.alloc(rows)?,
            workspace: device.alloc(plan.workspace().bytes.max(16))?,
        };
        operands.q.fill_bytes(stream, 0x3c)?;
        operands.cache.fill_bytes(stream, 0x3c)?;
        Ok(operands)
    }

    fn run(&mut self, plan: &mla::Plan, stream: &Stream) -> Result<()> {
        let bytes = plan.workspace().bytes.max(16);
        let args = mla::Args::new(
            self.q.matrix(self.rows, mla::HEAD)?,
            self.cache.matrix(self.requests * self.pages * PAGE, mla::HEAD)?,
            self.table.matrix(self.requests, self.pages)?,
            self.lengths.matrix(1, self.requests)?,
            self.out.matrix_mut(self.rows, mla::LATENT)?,
            self.lse.matrix_mut(self.tokens_rows, self.heads)?,
        );
        plan.run(stream, args.workspace(self.workspace.matrix_mut(1, bytes)?))
    }
}

fn plan(
    device: &Device,
    (heads, query_tokens): (usize, usize),
    requests: usize,
    tokens: usize,
    sms: u32,
) -> Result<mla::Plan> {
    let shape = mla::Shape::new(requests, heads, tokens).query_tokens(query_tokens).page(PAGE);
    mla::Plan::new(device, shape, mla::Options::new(192f32.sqrt().recip()).causal(true).sms(sms))
}

/// Counts one thing for every shape.
#[cfg(feature = "emulator")]
fn count(device: &Device, title: &str, unit: &'static str, pick: fn(&Counters) -> u64) {
    let mut criterion = counted::criterion(unit);
    let mut group = criterion.benchmark_group(title);
    for &rows in ROWS {
        let mut value = None;
        group.bench_function(format!("{}x{}", rows.0, rows.1), |bencher| {
            // Only now: this benchmark was not filtered out.
            let value = *value.get_or_insert_with(|| {
                per_block(device, rows, pick).unwrap_or_else(|error| panic!("{error}"))
            });
            counted::answer(bencher, value);
        });
    }
    group.finish();
    criterion.final_summary();
}

/// What one more block costs a tile of rows.
#[cfg(feature = "emulator")]
fn per_block(device: &Device, rows: (usize, usize), pick: fn(&Counters) -> u64) -> Result<f64> {
    let machine = device.emulated().expect("the caller found an emulator");
    let counted = |tokens: usize| -> Result<u64> {
        let stream = device.new_stream()?;
        let plan = plan(device, rows, 1, tokens, 1)?;
        let mut operands = Operands::new(device, &stream, rows, 1, tokens, &plan)?;
        machine.reset();
        operands.run(&plan, &stream)?;
        stream.synchronize()?;
        Ok(pick(&machine.counters()))
    };
    let blocks = (512 / 64 * (rows.0 * rows.1).div_ceil(64)) as f64;
    Ok((counted(1024)? - counted(512)?) as f64 / blocks)
}

/// Times a batch of 128 on a GPU, at several lengths.
fn time(device: &Device) {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("time");
    for &rows in ROWS {
        for tokens in [1024, 4096, 16384] {
            // Multiply-adds count as two.
            let products = 128 * rows.0 * rows.1 * tokens * (mla::HEAD + mla::LATENT);
            group.throughput(Throughput::Elements(2 * products as u64));
            group.bench_function(format!("{}x{}/128x{tokens}", rows.0, rows.1), |bencher| {
                bencher.iter_custom(|times| {
                    timed(device, rows, tokens, times).unwrap_or_else(|error| panic!("{error}"))
                });
            });
        }
    }
    group.finish();
    criterion.final_summary();
}

/// The time `times` runs take on the GPU, each with an L2 that holds none of its operands.
fn timed(device: &Device, rows: (usize, usize), tokens: usize, times: u64) -> Result<Duration> {
    const MORE_THAN_L2: usize = 256 << 20;
    let plan = plan(device, rows, 128, tokens, device.properties().sms)?;
    let stream = device.new_stream()?;
    let mut operands = Operands::new(device, &stream, rows, 128, tokens, &plan)?;
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
