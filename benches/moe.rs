//! Dispatch, expansion and combine on the shapes of DeepSeek-V3: 7168 columns, 256 experts, 8 of them a token.
//!
//! On GPUs this is time: on each rank from the event before an operation's launches to the event after them, the slowest rank counts.
//! One thread enqueues for all ranks, one after the other, so the first ranks' times hold some of that. Needs as many GPUs as ranks.
//!
//! On the emulator it is not time and does not pretend to be: the values are warp instructions, bytes over the links and bytes stored to
//! memory, of rank 0, for each of its tokens, counted while all ranks exchange a few. They are exact and the same on every machine, so a
//! change between two commits is a change of the kernels. Nobody has measured time on GPUs yet.
//!
//! ```text
//! cargo bench --bench moe                   # HADAL_DEVICE chooses, as everywhere
//! cargo bench --bench moe -- dispatch/8
//! ```

#[cfg(feature = "emulator")]
#[path = "support/counted.rs"]
mod counted;

#[cfg(feature = "emulator")]
use std::collections::HashMap;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use hadal::comm::{SymmetricBuffer, Team};
#[cfg(feature = "emulator")]
use hadal::emulator::{Checks, Counters, DeviceConfig, MachineConfig};
use hadal::moe::exchange::{Combine, Dispatch, Expand, Options, Plan, Shape};
use hadal::{Buffer, DType, Device, Matrix, MatrixMut, Result, Stream, bf16};

const HIDDEN: usize = 7168;
const EXPERTS: usize = 256;
const TOPK: usize = 8;
const PAYLOADS: [DType; 2] = [DType::BF16, DType::E4M3];
/// The operations, in order.
const STEPS: [&str; 3] = ["dispatch", "expand", "combine"];

fn main() {
    let device = Device::open_default().unwrap_or_else(|error| panic!("no device: {error}"));
    eprintln!("{device}, because {}", device.reason());
    #[cfg(feature = "emulator")]
    if device.emulated().is_some() {
        return count_all();
    }
    // The emulated CUDA driver answers to `cuda` and its events order things, but they are no clock.
    assert!(!device.properties().name.contains("emulated"), "{device} has no time to measure");
    time(&device);
}

/// What one rank works with.
struct Rank {
    plan: Plan,
    stream: Stream,
    x: Buffer<u8>,
    scales: Buffer<f32>,
    ids: Buffer<i32>,
    weights: Buffer<f32>,
    handle: Buffer<u8>,
    expanded: Buffer<u8>,
    expanded_scales: Buffer<f32>,
    map: Buffer<i32>,
    ends: Buffer<i32>,
    y: Buffer<bf16>,
    out: Buffer<bf16>,
}

/// All ranks, each with `tokens` tokens.
struct Exchange {
    tokens: usize,
    payload: DType,
    ranks: Vec<Rank>,
    _memory: SymmetricBuffer,
}

impl Exchange {
    fn new(devices: Vec<Device>, tokens: usize, payload: DType, options: Options) -> Result<Exchange> {
        let count = devices.len();
        let team = Team::new(devices)?;
        let shape = Shape::new(EXPERTS, TOPK, HIDDEN, tokens, count * tokens);
        let options = options.payload(payload);
        let memory = SymmetricBuffer::new(&team, Plan::window_bytes(count, shape, options)?)?;
        let words = if payload == DType::E4M3 { HIDDEN / 128 } else { 0 };
        // Twice what an even spread brings, and padding.
        let rows = 2 * tokens * TOPK + EXPERTS / count * 128;
        let mut ranks = Vec::new();
        for (rank, window) in memory.windows().iter().enumerate() {
            let device = window.device();
            let stream = device.default_stream();
            let plan = Plan::new(window, shape, options)?;
            // Eight different experts a token, spread evenly.
            let ids: Vec<i32> = (0..tokens * TOPK)
                .map(|at| ((at / TOPK * 37 + at % TOPK * 53 + rank * 101) * 7 % EXPERTS) as i32)
                .collect();
            let mut parts = Rank {
                x: device.alloc(tokens * HIDDEN * payload.size())?,
                scales: device.upload(&stream, &vec![1f32; tokens * words])?,
                ids: device.upload(&stream, &ids)?,
                weights: device.upload(&stream, &vec![0.125f32; tokens * TOPK])?,
                handle: device.alloc(plan.handle().bytes)?,
                expanded: device.alloc(rows * HIDDEN * payload.size())?,
                expanded_scales: device.alloc(rows * words)?,
                map: device.alloc(rows)?,
                ends: device.alloc(EXPERTS / count)?,
                y: device.alloc(rows * HIDDEN)?,
                out: device.alloc(tokens * HIDDEN)?,
                stream,
                plan,
            };
            // Ones, or nearly.
            parts.x.fill_bytes(&parts.stream, 0x3f)?;
            parts.y.fill_bytes(&parts.stream, 0x3f)?;
            ranks.push(parts);
        }
        Ok(Exchange { tokens, payload, ranks, _memory: memory })
    }

    /// Enqueues an operation on every rank.
    fn enqueue(&mut self, step: usize) -> Result<()> {
        let (tokens, payload) = (self.tokens, self.payload);
        self.ranks.iter_mut().try_for_each(|rank| rank.enqueue(step, tokens, payload))
    }

    fn synchronize(&self) -> Result<()> {
        self.ranks.iter().try_for_each(|rank| rank.stream.synchronize())
    }
}

impl Rank {
    fn enqueue(&mut self, step: usize, tokens: usize, payload: DType) -> Result<()> {
        let (plan, stream) = (&self.plan, &self.stream);
        let device = plan.window().device();
        let (rows, bytes, experts) = (self.map.len(), self.handle.len(), self.ends.len());
        let words = if payload == DType::E4M3 { HIDDEN / 128 } else { 0 };
        match step {
            0 => {
                // SAFETY: the buffer holds exactly these rows.
                let x = unsafe {
                    Matrix::from_raw(device, payload, self.x.address(), [tokens, HIDDEN], [HIDDEN, 1])
                };
                let (ids, weights) = (self.ids.matrix(tokens, TOPK)?, self.weights.matrix(tokens, TOPK)?);
                let args = Dispatch::new(x, ids, weights, self.handle.matrix_mut(1, bytes)?);
                let with_scales = words > 0;
                let args = if with_scales { args.scales(self.scales.matrix(tokens, words)?) } else { args };
                plan.dispatch(stream, args)
            }
            1 => {
                // SAFETY: the buffer holds exactly these rows, and nothing else uses it.
                let x = unsafe {
                    MatrixMut::from_raw(device, payload, self.expanded.address(), [rows, HIDDEN], [HIDDEN, 1])
                };
                let mut args =
                    Expand::new(x, self.map.matrix_mut(1, rows)?, self.ends.matrix_mut(1, experts)?);
                if words > 0 {
                    args = args.scales(self.expanded_scales.view_mut(0, [rows, words], [1, rows])?);
                }
                plan.expand(stream, args)
            }
            _ => {
                let (y, handle) = (self.y.matrix(rows, HIDDEN)?, self.handle.matrix(1, bytes)?);
                plan.combine(stream, Combine::new(y, handle, self.out.matrix_mut(tokens, HIDDEN)?))
            }
        }
    }
}

/// Times every operation with as many GPUs as there are.
fn time(first: &Device) {
    let gpus = first.driver().device_count().unwrap_or_else(|error| panic!("{error}"));
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("time");
    for ranks in [2, 8].into_iter().filter(|ranks| *ranks <= gpus) {
        for payload in PAYLOADS {
            for tokens in [128, 4096] {
                for (step, name) in STEPS.iter().enumerate() {
                    group.throughput(Throughput::Elements(tokens as u64));
                    group.bench_function(format!("{name}/{ranks}/{payload}/{tokens}"), |bencher| {
                        bencher.iter_custom(|times| {
                            timed(first, ranks, payload, tokens, step, times)
                                .unwrap_or_else(|error| panic!("{error}"))
                        });
                    });
                }
            }
        }
    }
    group.finish();
    criterion.final_summary();
}

/// The time an operation takes on the slowest rank, `times` times.
fn timed(
    first: &Device,
    ranks: u32,
    payload: DType,
    tokens: usize,
    step: usize,
    times: u64,
) -> Result<Duration> {
    let devices = (0..ranks).map(|rank| first.sibling(rank)).collect::<Result<Vec<_>>>()?;
    let mut exchange = Exchange::new(devices, tokens, payload, Options::new())?;
    let mut milliseconds = 0f64;
    for _ in 0..times {
        for before in 0..step {
            exchange.enqueue(before)?;
        }
        exchange.synchronize()?;
        let mark = |exchange: &Exchange| {
            exchange.ranks.iter().map(|r| r.stream.record()).collect::<Result<Vec<_>>>()
        };
        let before = mark(&exchange)?;
        exchange.enqueue(step)?;
        let after = mark(&exchange)?;
        let mut slowest = 0f64;
        for (before, after) in before.iter().zip(&after) {
            slowest = slowest.max(before.elapsed_ms(after)?.into());
        }
        milliseconds += slowest;
    }
    Ok(Duration::from_secs_f64(milliseconds / 1e3))
}

/// Tokens of each rank, where things are counted.
#[cfg(feature = "emulator")]
const FEW: usize = 32;

#[cfg(feature = "emulator")]
type Seen = HashMap<(usize, DType), [Counters; 4]>;

#[cfg(feature = "emulator")]
fn count_all() {
    let mut seen = Seen::new();
    let mut count = |title: &str, unit, pick: fn(&Counters) -> u64| count(title, unit, pick, &mut seen);
    count("instructions per token (emulated, not time)", "instructions", |c| c.instructions);
    count("bytes over the links per token (emulated, not time)", "bytes", |c| {
        c.link_store_bytes + c.link_load_bytes
    });
    count("bytes stored per token (emulated, not time)", "bytes", |c| {
        c.global_store_bytes + c.tma_store_bytes
    });
}

/// Counts one thing for every operation, payload and number of ranks.
#[cfg(feature = "emulator")]
fn count(title: &str, unit: &'static str, pick: fn(&Counters) -> u64, seen: &mut Seen) {
    let mut criterion = counted::criterion(unit);
    let mut group = criterion.benchmark_group(title);
    for ranks in [2, 8] {
        for payload in PAYLOADS {
            for (step, name) in STEPS.iter().enumerate() {
                if *name == "expand" && title.starts_with("bytes over the links") {
                    continue; // There are none, and criterion cannot show nothing.
                }
                group.bench_function(format!("{name}/{ranks}/{payload}"), |bencher| {
                    // Only now: this benchmark was not filtered out.
                    let counters = seen
                        .entry((ranks, payload))
                        .or_insert_with(|| counted(ranks, payload).unwrap_or_else(|error| panic!("{error}")));
                    let value = pick(&counters[step + 1]) - pick(&counters[step]);
                    counted::answer(bencher, value as f64 / FEW as f64);
                });
            }
        }
    }
    group.finish();
    criterion.final_summary();
}

/// What rank 0 has done before and after each operation.
#[cfg(feature = "emulator")]
fn counted(ranks: usize, payload: DType) -> Result<[Counters; 4]> {
    let first = Device::emulate(MachineConfig {
        devices: vec![DeviceConfig::h100(); ranks],
        // The tests check; this counts.
        checks: Checks::none(),
        ..MachineConfig::default()
    })?;
    let devices = (0..ranks).map(|rank| first.sibling(rank as u32)).collect::<Result<Vec<_>>>()?;
    let mut exchange = Exchange::new(devices, FEW, payload, Options::new().sms(16))?;
    let counters = || first.emulated().map(|machine| machine.counters()).unwrap_or_default();
    let mut all = [counters(); 4];
    for step in 0..STEPS.len() {
        exchange.enqueue(step)?;
        exchange.synchronize()?;
        all[step + 1] = counters();
    }
    Ok(all)
}
