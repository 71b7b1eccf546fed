//! One decoding step of a DeepSeek-V3-shaped layer over several emulated GPUs: every kernel family of this library at work on one
//! result.
//!
//! Each rank decodes a few requests. Per rank and micro-batch: the new token's latent goes into the paged cache, MLA reads the cache, the
//! gate chooses experts, tokens are quantised and dispatched to the ranks that hold them, expanded, multiplied (GEMM, SwiGLU, GEMM) and
//! combined; the shared expert sees every token where it is. Norms and projections, which an engine owns, run on the host (`model.rs`);
//! what to copy is in `rank.rs`. Where the ranks do not divide the experts, the busiest experts have replicas (`moe::balance`).
//!
//! # What runs beside what
//!
//! There are two micro-batches on two streams a rank, held together by events alone: while one computes on its share of the SMs, the
//! other's exchange runs on the rest. The shared expert needs nothing from anybody, so it is put where no other half is there to cover:
//! that of the first half at the beginning, that of the second at the end.
//!
//! ```text
//! compute   attention 0, gate 0   shared 0, attention 1, gate 1   experts 0    experts 1   shared 1
//! exchange                        dispatch 0, expand 0            dispatch 1   combine 0   combine 1
//! ```
//!
//! `overlap` counts what of the exchange's instructions were issued while a block of the compute stream was on the same device: three
//! quarters at 8 ranks (a third when only the two halves covered each other). It is a count on the emulator, which has no clock and gives
//! each block turns of up to 65,536 instructions a warp, so that a GEMM is over in as few turns as a copy. What is not covered follows
//! from that: the end of `expand 1`, after `experts 0` is through, and the reduction of `combine 0`, whose event comes a turn before
//! the one that `experts 1` waits for.
//!
//! # What is checked
//!
//! Every kernel of rank 0 against the reference of its family on the inputs it had (`verify.rs`), and the whole against the layer in F64,
//! which chooses experts for itself (`reference.rs`).
//!
//! ```text
//! cargo run --release --example deepseek_layer -- --ranks 8
//! ```

mod half;
mod model;
mod options;
mod rank;
mod reference;
mod report;
#[cfg(test)]
mod tests;
mod verify;

use std::process::ExitCode;
use std::time::Instant;

use hadal::comm::{Partition, SymmetricBuffer, Team};
use hadal::emulator::{Checks, DeviceConfig, MachineConfig};
use hadal::gemm::reference::calc_diff;
use hadal::moe::exchange;
use hadal::{DType, Device, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use model::Model;
use options::{ALIGNMENT, MICRO_BATCHES, Options, Sizes, USAGE};
use rank::Rank;
use report::{Kernel, Summary};

/// What `calc_diff` stays below against the layer in F64: each of the two products with FP8 activations costs about 4.5e-4.
const MOST_DIFF: f64 = 2e-3;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("deepseek_layer: {wrong}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let sizes = options.sizes();
    if let Err(no_room) = options::expect_memory(&sizes, options.unchecked, options::available_memory()) {
        eprintln!("deepseek_layer: {no_room}");
        return ExitCode::from(1);
    }
    let progress = ProgressBar::with_draw_target(Some(8), ProgressDrawTarget::stderr());
    progress.set_style(ProgressStyle::with_template("{bar:30} {msg}").expect("the template is fixed"));
    let summary = layer(sizes, options.unchecked, &|what| {
        progress.inc(1);
        progress.set_message(what.to_owned());
    });
    progress.finish_and_clear();
    match summary {
        Ok(summary) => {
            match options.json {
                true => println!("{}", serde_json::to_string(&summary).expect("plain numbers")),
                false => summary.print(),
            }
            ExitCode::from(!summary.failures.is_empty() as u8)
        }
        Err(error) => {
            eprintln!("deepseek_layer: {error}");
            ExitCode::from(1)
        }
    }
}

/// The step on all ranks, and what came of it.
fn layer(sizes: Sizes, unchecked: bool, step: &dyn Fn(&str)) -> Result<Summary> {
    let started = Instant::now();
    step("weights and caches");
    let model = Model::new(sizes)?;
    let (team, partition, mut ranks) = team(&model, unchecked)?;
    enqueue(&mut ranks, &model, step)?;
    step("experts, and the exchange beside them");
    ranks.iter().try_for_each(Rank::wait)?;

    let (mut got, mut routed, mut failures, mut floor) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for rank in &ranks {
        for half in 0..MICRO_BATCHES {
            let status = rank.status(half)?;
            if !status.is_clean() {
                failures.push(format!("the exchange of rank {}: {status:?}", rank.rank));
            }
            let tokens = rank.routed(half)?;
            let experts: Vec<_> = tokens.iter().map(|token| token.experts.clone()).collect();
            floor += model.link_floor(rank.rank, &experts);
            routed.extend(tokens);
            got.extend(rank.result(&model, half)?);
        }
    }
    step("every kernel of rank 0 against its reference");
    let errors = verify::rank_0(&ranks, &model)?;
    failures.extend(errors.failures);
    step("the layer in F64");
    let reference = reference::layer(&model, &routed);
    failures.extend(reference.wrong_choices);
    let want = &reference.added;
    let diff = calc_diff(got.iter().copied(), want.iter().copied());
    if diff.is_nan() || diff >= MOST_DIFF {
        failures.push(format!("calc_diff is {diff:.2e} against the layer in F64, at most {MOST_DIFF:e}"));
    }

    let emulated: Vec<_> = team.devices().iter().filter_map(|device| device.emulated()).collect();
    let counters: Vec<_> = emulated.iter().map(|machine| machine.counters()).collect();
    let of_exchange = ranks[0].exchange_kernels();
    let tallies = emulated.iter().map(|machine| machine.kernel_counters()).enumerate();
    let kernels: Vec<Kernel> = tallies
        .flat_map(|(device, tallies)| tallies.into_iter().map(move |tally| (device, tally)))
        .map(|(device, tally)| {
            let name = tally.kernel.as_str();
            let error = (device == 0).then(|| errors.of.get(name).copied()).flatten();
            Kernel::new(device, of_exchange.contains(&name), error, tally)
        })
        .collect();
    let sum = |pick: fn(&Kernel) -> u64| kernels.iter().filter(|k| k.exchange).map(pick).sum::<u64>() as f64;
    Ok(Summary {
        ranks: sizes.ranks,
        heads: sizes.heads,
        experts: sizes.experts,
        slots: sizes.slots(),
        topk: sizes.topk,
        tokens: sizes.tokens * sizes.ranks * MICRO_BATCHES,
        comm_sms: partition.comm_sms(),
        compute_sms: partition.compute_sms(),
        checked: !unchecked,
        diff,
        max_abs_error: got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max),
        max_abs: want.iter().fold(0.0, |m, w| m.max(w.abs())),
        max_score_error: reference.score_error,
        near_ties: reference.near_ties,
        near_tie: reference::NEAR_TIE,
        link_bytes: counters.iter().map(|c| c.link_load_bytes + c.link_store_bytes).sum(),
        link_floor_bytes: floor,
        instructions: counters.iter().map(|c| c.instructions).sum(),
        exchange_beside_compute: sum(|k| k.beside_instructions) / sum(|k| k.instructions).max(1.0),
        kernels,
        failures,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The devices, how their SMs are shared, and a rank on each.
fn team(model: &Model, unchecked: bool) -> Result<(Team, Partition, Vec<Rank>)> {
    let sizes = model.sizes;
    let first = Device::emulate(MachineConfig {
        devices: vec![DeviceConfig::h100(); sizes.ranks],
        checks: if unchecked { Checks::none() } else { Checks::all() },
        ..MachineConfig::default()
    })?;
    let mut devices = vec![first.clone()];
    for rank in 1..sizes.ranks {
        devices.push(first.sibling(rank as u32)?);
    }
    let partition = Partition::by_default(&first)?;
    let team = Team::new(devices)?;
    let capacity = sizes.ranks * sizes.tokens;
    let shape = exchange::Shape::new(sizes.slots(), sizes.topk, sizes.hidden, sizes.tokens, capacity);
    let options =
        exchange::Options::new().payload(DType::E4M3).alignment(ALIGNMENT).sms(partition.comm_sms());
    let bytes = exchange::Plan::window_bytes(sizes.ranks, shape, options)?;
    let mut memories = Vec::new();
    for _ in 0..MICRO_BATCHES {
        memories.push(SymmetricBuffer::new(&team, bytes)?);
    }
    let mut ranks = Vec::new();
    for rank in 0..sizes.ranks {
        let windows = memories.iter().map(|memory| &memory.windows()[rank]);
        let plans = windows.map(|window| exchange::Plan::new(window, shape, options));
        ranks.push(Rank::new(&team.devices()[rank], rank, model, partition, plans.collect::<Result<_>>()?)?);
    }
    Ok((team, partition, ranks))
}

/// Everything onto the streams, in the order that the head of this file draws. The host waits only where its own part needs results:
/// before a projection, and after the gate.
fn enqueue(ranks: &mut [Rank], model: &Model, step: &dyn Fn(&str)) -> Result<()> {
    let mut each =
        |work: &dyn Fn(&mut Rank) -> Result<()>| -> Result<()> { ranks.iter_mut().try_for_each(work) };
    step("attention of the first half");
    each(&|rank| rank.attend(model, 0))?;
    each(&|rank| rank.route(model, 0))?;
    step("dispatch of the first half beside its shared expert");
    each(&|rank| rank.dispatch(0))?;
    each(&|rank| rank.shared_expert(0))?;
    step("attention of the second half");
    each(&|rank| rank.attend(model, 1))?;
    each(&|rank| rank.route(model, 1))?;
    each(&|rank| rank.dispatch(1))?;
    each(&|rank| rank.experts(0))?;
    each(&|rank| rank.combine(0))?;
    each(&|rank| rank.experts(1))?;
    each(&|rank| rank.combine(1))?;
    each(&|rank| rank.shared_expert(1))
}
