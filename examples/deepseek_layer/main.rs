//! One decoding step of a DeepSeek-V3-shaped layer over several GPUs, emulated where there are none: every kernel family of this
//! library at work on one result.
//!
//! Each rank decodes a few requests. Per rank and micro-batch: the new token's latent goes into the paged cache, MLA reads the cache, the
//! gate chooses experts, tokens are quantised and dispatched to the ranks that hold them, expanded, multiplied (GEMM, SwiGLU,
//! GEMM) and combined. There are two micro-batches on two streams a rank: while one computes on its share of the SMs, the other's exchange
//! runs on the rest. Norms and projections, which an engine owns, run on the host (`model.rs`); what to copy is in `rank.rs`.
//!
//! ```text
//! cargo run --release --example deepseek_layer -- --ranks 8
//! ```

mod model;
mod rank;

use std::process::ExitCode;
use std::time::Instant;

use hadal::comm::{Partition, SymmetricBuffer, Team};
use hadal::emulator::{DeviceConfig, MachineConfig};
use hadal::gemm::reference::calc_diff;
use hadal::moe::exchange;
use hadal::{DType, Device, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use model::{Model, Sizes};
use rank::{MICRO_BATCHES, Rank};

/// What `calc_diff` stays below against the layer in F64: each of the two products with FP8 activations costs about 4.5e-4.
const MOST_DIFF: f64 = 2e-3;

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
    let progress = ProgressBar::with_draw_target(Some(9), ProgressDrawTarget::stderr());
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

    // Two micro-batches, one behind the other: what stands together in a step may run at the same time. On the emulated device a wait
    // for an event still runs everything its stream holds first, so there only the first pair does.
    step("attention of the first half");
    each(&mut ranks, |rank| rank.attend(&model, 0))?;
    each(&mut ranks, |rank| rank.route(&model, 0))?;
    step("dispatch of the first half beside attention of the second");
    each(&mut ranks, |rank| rank.dispatch(0))?;
    each(&mut ranks, |rank| rank.attend(&model, 1))?;
    each(&mut ranks, |rank| rank.route(&model, 1))?;
    step("experts of the first half beside dispatch of the second");
    each(&mut ranks, |rank| rank.dispatch(1))?;
    each(&mut ranks, |rank| rank.experts(0))?;
    wait(&ranks)?;
    step("combine of the first half beside experts of the second");
    each(&mut ranks, |rank| rank.combine(0))?;
    each(&mut ranks, |rank| rank.experts(1))?;
    wait(&ranks)?;
    step("combine of the second half");
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
        seconds: started.elapsed().as_secs_f64(),
    };
    if json {
        println!("{}", serde_json::to_string(&summary).expect("plain numbers"));
    } else {
        print(&summary, &ranks);
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

fn print(s: &Summary, ranks: &[Rank]) {
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
    for (what, kernels) in ranks[0].kernels() {
        println!("{what:<10}{kernels}");
    }
    println!("work      {} warp instructions issued by all ranks", s.instructions);
    println!(
        "links     {} bytes, {:.1} % over the floor of one row out and one back for each token and rank",
        s.link_bytes,
        100.0 * (s.link_bytes as f64 / s.link_floor_bytes.max(1) as f64 - 1.0)
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
