//! Breaks every shipped kernel on purpose: each fence, wait, arrival, commit, expectation, `setmaxnreg`, `griddepcontrol` and
//! barrier is deleted in turn, and weakened where there is a weaker form. The emulator has to notice: by a finding, by advice,
//! by a wrong result, by a deadlock, or by an overlap of two launches that is gone.
//!
//! A mutant is one instruction of a template: all its copies in unrolled loops change together. Each runs twice in a row, as
//! programmatic launches that write the same output, on a shape with several tiles per block and more blocks of K than the ring
//! has stages, under a few schedules, completion orders and seeds; its results are compared with the unbroken kernel's.
//!
//! `a_sample_is_noticed` runs with every `cargo test`; `every_mutant_of_every_kernel` is for `.ci/run`. Mutants known to survive are
//! listed with the reason in the family's file.

#![cfg(feature = "emulator")]

mod bounded;
mod exchange;
mod gemm;
mod mla;
mod moe;
mod mutate;
mod quant;
mod setup;

/// The table and the renderer, to render kernels with other constants.
#[allow(dead_code)]
#[path = "../../src/kernel"]
mod source {
    pub mod line_map;
    pub mod render;
    pub mod scan;
    pub mod table;
}

use std::collections::HashMap;
use std::sync::Arc;

use hadal::emulator::tensor::Mode;
use hadal::emulator::{Completion, DeviceConfig, Machine, MachineConfig, Schedule, SharedPlacement, ir};
use hadal::kernel::{self, Kernel};

use mutate::{Mutant, mutants};
use setup::{Setup, Step, Survivor};

/// Ways to run a mutant, cheapest first.
const MACHINES: [(Schedule, Completion, u64); 6] = [
    (Schedule::RoundRobin, Completion::Latest, 0),
    (Schedule::RoundRobin, Completion::Eager, 0),
    (Schedule::Random, Completion::Random, 1),
    (Schedule::Random, Completion::Latest, 2),
    (Schedule::Random, Completion::Eager, 3),
    (Schedule::Random, Completion::Random, 4),
];

/// What a run left behind.
#[derive(Debug, PartialEq)]
struct Outcome {
    outputs: Vec<Vec<u8>>,
    advice: usize,
    resident: u32,
    /// Launches that began before the one ahead of them had ended.
    overlapping: u64,
}

/// How a family sets its kernels up, and its survivors.
struct Family {
    setup: fn(&Kernel, &mut Machine) -> Setup,
    survivors: &'static [Survivor],
}

fn family(kernel: &Kernel) -> Family {
    match kernel.row.family {
        "exchange" => Family { setup: exchange::setup, survivors: exchange::SURVIVORS },
        "gemm" => Family { setup: gemm::setup, survivors: gemm::SURVIVORS },
        "mla" => Family { setup: mla::setup, survivors: mla::SURVIVORS },
        "moe" => Family { setup: moe::setup, survivors: moe::SURVIVORS },
        "quant" => Family { setup: quant::setup, survivors: quant::SURVIVORS },
        other => panic!("no mutants of family {other}"),
    }
}

/// Runs a kernel, or a mutant of it, twice in a row. `Err`: what stopped it.
fn run(kernel: &Kernel, text: &str, which: (Schedule, Completion, u64)) -> Result<Outcome, String> {
    let mut device = DeviceConfig::h100();
    device.sms = 3;
    let mut machine = Machine::new(MachineConfig {
        devices: vec![device; 2],
        tensor_mode: Mode::Fast,
        schedule: which.0,
        completion: which.1,
        seed: which.2,
        shared_placement: SharedPlacement::Driver,
        instruction_limit: Some(20_000_000),
        ..MachineConfig::default()
    });
    let setup = (family(kernel).setup)(kernel, &mut machine);
    let mut module = ir::Module::parse(kernel.row.name, text).map_err(|e| e.to_string())?;
    for entry in &mut module.kernels {
        entry.param_bytes = kernel.row.param_layout().1 as u32;
    }
    let module = Arc::new(module);
    let mut streams = Vec::new();
    for device in 0..2 {
        let id = machine.load_module(device, module.clone()).map_err(|e| e.to_string())?;
        streams.push((machine.create_stream(device), id));
    }
    let mut others = HashMap::new();
    for Step { device, entry, launch } in setup.launches.iter().chain(&setup.launches) {
        let (stream, mut id) = streams[*device];
        if let Some(name) = entry {
            let load = || {
                let module = ir::Module::parse(name, kernel::find(name).unwrap().ptx).unwrap();
                machine.load_module(*device, Arc::new(module)).unwrap()
            };
            id = *others.entry((*device, *name)).or_insert_with(load);
        }
        machine.launch(stream, id, entry.unwrap_or(kernel.row.name), launch).map_err(|e| e.to_string())?;
    }
    for (stream, _) in streams {
        machine.synchronize(stream).map_err(|f| f.report.class.to_string())?;
    }
    let read = |&(address, len): &(u64, usize)| {
        let mut bytes = vec![0; len];
        machine.read(address, &mut bytes).unwrap();
        bytes
    };
    let outputs = setup.outputs.iter().map(read).collect();
    let resident = machine.counters(0).max_resident_blocks;
    let overlapping = machine.counters(0).overlapping_launches;
    Ok(Outcome { outputs, advice: machine.advice().len(), resident, overlapping })
}

/// How a mutant was noticed, if it was.
fn noticed(kernel: &Kernel, mutant: &Mutant, goods: &[Outcome]) -> Option<String> {
    let mut overlapping = 0;
    for (which, good) in MACHINES.into_iter().zip(goods) {
        match run(kernel, &mutant.text, which) {
            Err(finding) => return Some(finding),
            Ok(outcome) if outcome.outputs != good.outputs => return Some("wrong result".into()),
            Ok(outcome) if outcome.advice > good.advice => return Some("advice".into()),
            Ok(outcome) if outcome.resident < good.resident => return Some("lost overlap".into()),
            // In turns: at random, launches overlap or not by chance.
            Ok(outcome) if which.0 == Schedule::RoundRobin && outcome.overlapping < good.overlapping => {
                return Some("lost overlap".into());
            }
            Ok(outcome) => overlapping += outcome.overlapping,
        }
    }
    (overlapping == 0 && goods.iter().any(|good| good.overlapping > 0)).then(|| "lost overlap".into())
}

/// How the mutants of some kernels fared.
#[derive(Debug, Default)]
struct Score {
    total: usize,
    survived: usize,
    /// Survivors that are not listed.
    surprises: Vec<String>,
    /// Listed survivors that survived.
    listed: Vec<Survivor>,
}

/// Tries the mutants of some kernels.
fn score(kernels: &[&Kernel]) -> Score {
    let mut all = Score::default();
    for kernel in kernels {
        let good = run(kernel, kernel.ptx, MACHINES[0]).unwrap();
        let goods = MACHINES.map(|which| {
            let again = run(kernel, kernel.ptx, which).unwrap();
            assert_eq!(again.outputs, good.outputs, "{} under {which:?}", kernel.row.name);
            println!(
                "{} {which:?}: {} blocks resident, {} overlap",
                kernel.row.name, again.resident, again.overlapping
            );
            again
        });
        for mutant in mutants(kernel) {
            all.total += 1;
            let how = noticed(kernel, &mutant, &goods);
            println!(
                "{}: {} {}: {}",
                kernel.row.name,
                mutant.line,
                mutant.change,
                how.as_deref().unwrap_or("SURVIVED")
            );
            if how.is_some() {
                continue;
            }
            all.survived += 1;
            let survivors = family(kernel).survivors;
            let known = survivors
                .iter()
                .find(|(line, change, _)| mutant.line.contains(line) && mutant.change == *change);
            match known {
                Some(entry) => all.listed.push(*entry),
                None => {
                    all.surprises.push(format!("{}: {} {}", kernel.row.name, mutant.line, mutant.change));
                }
            }
        }
    }
    all
}

#[test]
fn a_sample_is_noticed() {
    let small = ["hadal_gemm_e4m3_bf16_dense_m64n64_sm90a", "hadal_quantize_bf16_e4m3_128x128_sm90a"];
    let kernels: Vec<&Kernel> = small.iter().map(|name| kernel::find(name).unwrap()).collect();
    let all = score(&kernels);
    println!("{} of {} noticed", all.total - all.survived, all.total);
    assert_eq!(all.surprises, Vec::<String>::new());
    assert!(all.total > 40, "{} mutants", all.total);
}

#[test]
#[ignore = "minutes of broken kernels: run by .ci/run; HADAL_MUTANTS=moe takes the kernels with that in their name"]
fn every_mutant_of_every_kernel() {
    let part = std::env::var("HADAL_MUTANTS").unwrap_or_default();
    let kernels: Vec<&Kernel> = kernel::all().iter().filter(|k| k.row.name.contains(&part)).collect();
    let all = score(&kernels);
    println!("{} of {} noticed", all.total - all.survived, all.total);
    assert_eq!(all.surprises, Vec::<String>::new());
    assert!(all.survived * 20 <= all.total, "{} of {} mutants survive", all.survived, all.total);
    for kernel in kernels.iter().filter(|_| part.is_empty()) {
        for entry in family(kernel).survivors {
            assert!(all.listed.contains(entry), "listed as a survivor, and noticed: {entry:?}");
        }
    }
}
