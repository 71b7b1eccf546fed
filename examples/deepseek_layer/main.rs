//! One decoding step of a DeepSeek-V3-shaped layer over several GPUs, emulated where there are none: every kernel family of this
//! library at work on one result.
//!
//! Each rank decodes a few requests. Per rank and micro-batch: the new token's latent goes into the paged cache, MLA reads the cache, the
//! gate chooses experts, tokens are quantised and dispatched to the ranks that hold them, expanded, multiplied (GEMM, SwiGLU,
//! GEMM) and combined. There are two micro-batches on two streams a rank, held together by events alone: while one computes on its share
//! of the SMs, the other's exchange runs on the rest. Norms and projections, which an engine owns, run on the host (`model.rs`); what to copy is in `rank.rs`.
//!
//! ```text
//! cargo run --release --example deepseek_layer -- --ranks 8
//! ```

mod model;
mod rank;

use std::process::ExitCode;
use std::time::Instant;

use hadal::comm::{Partition, SymmetricBuffer, Team};
use hadal::emulator::{DeviceConfig, KernelCounters, MachineConfig};
use hadal::gemm::reference::calc_diff;
use hadal::moe::exchange;
use hadal::{DType, Device, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use model::{Model, Sizes};
use rank::{MICRO_BATCHES, Rank};

/// What `calc_diff` stays below against the layer in F64: each of the two products with FP8 activations costs about 4.5e-4.
const MOST_DIFF: f64 = 2e-3;

/// What one kernel did on one device.
#[derive(Serialize)]
struct Kernel {
    device: usize,
    kernel: String,
    exchange: bool,
    /// That its blocks ran on.
    sms: u32,
    launches: u64,
    instructions: u64,
    /// Of these, issued while a block of the other stream was on the device.
    beside_instructions: u64,
    shared_bytes: u64,
    /// Links included.
    global_bytes: u64,
    link_bytes: u64,
}

impl Kernel {
    fn new(device: usize, exchange: &[&str], tally: KernelCounters) -> Kernel {
        let c = tally.counters;
        Kernel {
            device,
            exchange: exchange.contains(&tally.kernel.as_str()),
            kernel: tally.kernel,
            sms: c.sms_used,
            launches: c.launches,
            instructions: c.instructions,
            beside_instructions: c.beside_instructions,
            shared_bytes: c.shared_load_bytes + c.shared_store_bytes + c.wgmma_shared_bytes,
            global_bytes: c.global_load_bytes + c.global_store_bytes + c.tma_load_bytes + c.tma_store_bytes,
            link_bytes: c.link_load_bytes + c.link_store_bytes,
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Summary {
    ranks: usize,
    heads: usize,
    experts: usize,
    topk: usize,
    tokens: usize,
    comm_sms: u32,
    compute_sms: u32,
    /// Against the layer in F64 with the same choice of experts.
    diff: f64,
    max_abs_error: f64,
    max_abs: f64,
    link_bytes: u64,
    link_floor_bytes: u64,
    instructions: u64,
    /// Of the exchange's instructions, the part issued while a block of a compute kernel was on the same device.
    exchange_beside_compute: f64,
    kernels: Vec<Kernel>,
    seconds: f64,
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut ranks, mut full, mut json) = (8, false, false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--full" => full = true,
            "--json" => json = true,
            "--ranks" => match args.next().and_then(|n| n.parse().ok()).filter(|n| (1..=8).contains(n)) {
                Some(n) => ranks = n,
                None => return usage("--ranks wants a number from 1 to 8"),
            },
            other => return usage(&format!("unknown argument `{other}`")),
        }
    }
    match layer(Sizes::new(ranks, full), json) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("deepseek_layer: {error}");
            ExitCode::from(1)
        }
    }
}

fn usage(what: &str) -> ExitCode {
    eprintln!("deepseek_layer: {what}\nusage: deepseek_layer [--ranks N] [--full] [--json]");
    ExitCode::from(2)
}

/// The step on all ranks. Whether the result is close enough.
fn layer(sizes: Sizes, json: bool) -> Result<bool> {
    let started = Instant::now();
    let progress = ProgressBar::with_draw_target(Some(6), ProgressDrawTarget::stderr());
    progress.set_style(ProgressStyle::with_template("{bar:30} {msg}").expect("the template is fixed"));
    let step = |what: &str| {
        progress.inc(1);
        progress.set_message(what.to_owned());
    };
    step("weights and caches");
    let model = Model::new(sizes)?;
    let first = Device::emulate(MachineConfig {
        devices: vec![DeviceConfig::h100(); sizes.ranks],
        ..MachineConfig::default()
    })?;
    let mut devices = vec![first.clone()];
    for rank in 1..sizes.ranks {
        devices.push(first.sibling(rank as u32)?);
    }
    let partition = Partition::by_default(&first)?;
    let team = Team::new(devices)?;
    let shape = exchange::Shape::new(
        sizes.experts,
        sizes.topk,
        model::HIDDEN,
        sizes.tokens,
        sizes.ranks * sizes.tokens,
    );
    let options =
        exchange::Options::new().payload(DType::E4M3).alignment(rank::ALIGNMENT).sms(partition.comm_sms());
    let bytes = exchange::Plan::window_bytes(sizes.ranks, shape, options)?;
    let mut memories = Vec::new();
    for _ in 0..MICRO_BATCHES {
        memories.push(SymmetricBuffer::new(&team, bytes)?);
    }
    let mut ranks = Vec::new();
    for rank in 0..sizes.ranks {
        let windows = memories.iter().map(|memory| &memory.windows()[rank]);
        let plans = windows.map(|window| exchange::Plan::new(window, shape, options));
        ranks.push(Rank::new(&team.devices()[rank], rank, &model, partition, plans.collect::<Result<_>>()?)?);
    }

    // Two micro-batches, one behind the other. What stands together may run at the same time: the dispatch of the first beside attention of
    // the second, the dispatch of the second beside the experts of the first, the combine of the first beside the experts of the second.
    step("attention of the first half");
    each(&mut ranks, |rank| rank.attend(&model, 0))?;
    each(&mut ranks, |rank| rank.route(&model, 0))?;
    step("dispatch of the first half beside attention of the second");
    each(&mut ranks, |rank| rank.dispatch(0))?;
    each(&mut ranks, |rank| rank.attend(&model, 1))?;
    each(&mut ranks, |rank| rank.route(&model, 1))?;
    step("experts of both halves beside the exchange of the other");
    each(&mut ranks, |rank| rank.dispatch(1))?;
    each(&mut ranks, |rank| rank.experts(0))?;
    each(&mut ranks, |rank| rank.combine(0))?;
    each(&mut ranks, |rank| rank.experts(1))?;
    each(&mut ranks, |rank| rank.combine(1))?;
    wait(&ranks)?;

    step("the same in F64");
    let (mut got, mut want, mut floor) = (Vec::new(), Vec::new(), 0);
    for rank in &ranks {
        for half in 0..MICRO_BATCHES {
            let status = rank.status(half)?;
            assert!(status.is_clean(), "rank {}: {status:?}", rank.rank);
            let routed = rank.routed(half)?;
            floor += model.link_floor(rank.rank, &routed);
            got.extend(rank.result(&model, half)?);
            want.extend(model.reference(rank.rank, half, &routed));
        }
    }
    step("done");
    progress.finish_and_clear();

    let diff = calc_diff(got.iter().copied(), want.iter().copied());
    let error = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
    let counters: Vec<_> = team.devices().iter().filter_map(|d| d.emulated()).map(|e| e.counters()).collect();
    let exchange = ranks[0].exchange_kernels();
    let kernels: Vec<Kernel> = (team.devices().iter().enumerate())
        .filter_map(|(at, device)| Some((at, device.emulated()?.kernel_counters())))
        .flat_map(|(at, tallies)| tallies.into_iter().map(move |tally| (at, tally)))
        .map(|(at, tally)| Kernel::new(at, &exchange, tally))
        .collect();
    let of_exchange =
        |pick: fn(&Kernel) -> u64| kernels.iter().filter(|k| k.exchange).map(pick).sum::<u64>() as f64;
    let summary = Summary {
        ranks: sizes.ranks,
        heads: sizes.heads,
        experts: sizes.experts,
        topk: sizes.topk,
        tokens: sizes.tokens * sizes.ranks * MICRO_BATCHES,
        comm_sms: partition.comm_sms(),
        compute_sms: partition.compute_sms(),
        diff,
        max_abs_error: error,
        max_abs: want.iter().fold(0.0, |m, w| m.max(w.abs())),
        link_bytes: counters.iter().map(|c| c.link_load_bytes + c.link_store_bytes).sum(),
        link_floor_bytes: floor,
        instructions: counters.iter().map(|c| c.instructions).sum(),
        exchange_beside_compute: of_exchange(|k| k.beside_instructions)
            / of_exchange(|k| k.instructions).max(1.0),
        kernels,
        seconds: started.elapsed().as_secs_f64(),
    };
    if json {
        println!("{}", serde_json::to_string(&summary).expect("plain numbers"));
    } else {
        print(&summary);
    }
    Ok(diff < MOST_DIFF)
}

/// Does the same on every rank, in order: only enqueues, but where the host has to see something.
fn each(ranks: &mut [Rank], mut work: impl FnMut(&mut Rank) -> Result<()>) -> Result<()> {
    ranks.iter_mut().try_for_each(&mut work)
}

/// Waits for both streams of every rank.
fn wait(ranks: &[Rank]) -> Result<()> {
    ranks.iter().try_for_each(Rank::wait)
}

fn print(s: &Summary) {
    println!(
        "layer     {} ranks, {} heads, {} experts, top {}, {} tokens in all in {MICRO_BATCHES} halves, emulated",
        s.ranks, s.heads, s.experts, s.topk, s.tokens
    );
    println!(
        "SMs       {} of {} for the exchange, {} for the rest",
        s.comm_sms,
        s.comm_sms + s.compute_sms,
        s.compute_sms
    );
    println!();
    println!("{:<52} device  SMs  launches  instructions  beside  MB shared  MB global  MB links", "kernel");
    for k in &s.kernels {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "{:<52} {:>6} {:>4} {:>9} {:>13} {:>5.0} % {:>10.2} {:>10.2} {:>9.2}",
            k.kernel,
            k.device,
            k.sms,
            k.launches,
            k.instructions,
            100.0 * k.beside_instructions as f64 / k.instructions.max(1) as f64,
            mb(k.shared_bytes),
            mb(k.global_bytes),
            mb(k.link_bytes)
        );
    }
    println!();
    println!("work      {} warp instructions issued by all ranks", s.instructions);
    println!(
        "links     {} bytes, {:.1} % over the floor of one row out and one back for each token and rank",
        s.link_bytes,
        100.0 * (s.link_bytes as f64 / s.link_floor_bytes.max(1) as f64 - 1.0)
    );
    println!(
        "overlap   {:.1} % of the exchange's instructions were issued while a compute kernel ran on the same device",
        100.0 * s.exchange_beside_compute
    );
    println!("checked   as it ran: every check of the emulator, on all ranks");
    println!(
        "error     {:.2e} against the layer in F64 with the same choice of experts (calc_diff; at most {MOST_DIFF:e})",
        s.diff
    );
    println!(
        "          {:.3} at most in any element, where the largest is {:.1}",
        s.max_abs_error, s.max_abs
    );
    println!("time      {:.0} s of wall time, the reference included", s.seconds);
}
