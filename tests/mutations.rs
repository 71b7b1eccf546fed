//! Breaks every shipped kernel on purpose: each fence, wait, arrival, commit, expectation, `setmaxnreg`, `griddepcontrol` and
//! barrier is deleted in turn, and weakened where there is a weaker form. The emulator has to notice: by a finding, by advice,
//! by a wrong result, by a deadlock, or by an overlap of two launches that is gone.
//!
//! A mutant is one instruction of a template: all its copies in unrolled loops change together. Each runs twice in a row, as
//! programmatic launches that write the same output, on a shape with several tiles per block and more blocks of K than the ring
//! has stages, under a few schedules, completion orders and seeds; its results are compared with the unbroken kernel's.
//!
//! `a_sample_is_noticed` runs with every `cargo test`; `every_mutant_of_every_kernel` is for `.ci/run`. Mutants known to survive are
//! listed in [`SURVIVORS`] with the reason.

#![cfg(feature = "emulator")]

use std::sync::Arc;

use hadal::emulator::tensor::Mode;
use hadal::emulator::tma::{DataType, Interleave, L2Promotion, OobFill, Swizzle, TensorMap, Tiled};
use hadal::emulator::{
    Completion, DeviceConfig, Launch, Machine, MachineConfig, Schedule, SharedPlacement, ir,
};
use hadal::kernel::{self, Kernel};

/// Mutants that nothing can notice: family, what the mutated line holds, what is done to it, and why.
const SURVIVORS: &[(&str, &str, &str, &str)] = &[
    (
        "gemm",
        "fence.mbarrier_init",
        "deleted",
        "it shows the mbarriers to other blocks of a cluster, and these kernels have none; fence.proxy.async, which stands beside it, \
         shows them to the copies",
    ),
    (
        "gemm",
        "bar.warp.sync",
        "deleted",
        "before the arrival: wgmma.wait_group.sync.aligned has just brought the lanes together (the one before the next tile is \
         noticed)",
    ),
];

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
    output: Vec<u8>,
    advice: usize,
    resident: u32,
}

/// Bytes that look like data: finite E4M3 codes, or finite BF16, F16 and F32.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Exponents around one in every type that reads this.
            0x38 + (state >> 60) as u8 % 8 + ((state >> 40) as u8 & 0x80)
        })
        .collect()
}

fn floats(len: usize) -> Vec<u8> {
    (0..len).flat_map(|i| (1.0 + (i % 7) as f32 * 0.25).to_le_bytes()).collect()
}

fn map(
    data_type: DataType,
    address: u64,
    [cols, rows]: [usize; 2],
    pitch: usize,
    boxed: [usize; 2],
    swizzle: Swizzle,
) -> Vec<u8> {
    let map = TensorMap::new(&Tiled {
        data_type,
        address,
        dims: &[cols as u64, rows as u64],
        strides: &[pitch as u64],
        box_dims: &boxed.map(|b| b as u32),
        element_strides: &[1, 1],
        interleave: Interleave::None,
        swizzle,
        l2_promotion: L2Promotion::B256,
        oob_fill: OobFill::Zero,
    })
    .unwrap();
    map.encode().iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// A machine with the kernel's operands in place.
struct Stage {
    machine: Machine,
    launch: Launch,
    output: (u64, usize),
}

impl Stage {
    fn new(kernel: &Kernel, which: (Schedule, Completion, u64)) -> Stage {
        let mut device = DeviceConfig::h100();
        device.sms = 3;
        let mut machine = Machine::new(MachineConfig {
            devices: vec![device],
            tensor_mode: Mode::Fast,
            schedule: which.0,
            completion: which.1,
            seed: which.2,
            shared_placement: SharedPlacement::Driver,
            instruction_limit: Some(20_000_000),
            ..MachineConfig::default()
        });
        let row = kernel.row;
        let mut put = |bytes: Vec<u8>| {
            let address = machine.alloc(0, bytes.len() as u64, 1024).unwrap();
            machine.write(address, &bytes).unwrap();
            address
        };
        let mut params = Vec::new();
        let (grid, output);
        if row.family == "gemm" {
            let (bm, bn) = (row.int("BLOCK_M").unwrap() as usize, row.int("BLOCK_N").unwrap() as usize);
            let stages = row.int("STAGES").unwrap() as usize;
            // Five tiles for two blocks, the last of them cut off on both sides; K wraps the ring.
            let (m, n, k) = (4 * bm + 8, bn - 8, 128 * stages + 256);
            let groups = k / 128;
            let float = row.text("OUT") == Some("f32");
            let (out_type, size) = if float { (DataType::F32, 4) } else { (DataType::BF16, 2) };
            let a = put(bytes(m * k, 1));
            let b = put(bytes(n * k, 2));
            let a_scales = put(floats(m * groups));
            let b_scales = put(floats(groups));
            let d = put(vec![0; m * n * size]);
            params.extend(map(DataType::U8, a, [k, m], k, [128, bm], Swizzle::B128));
            params.extend(map(DataType::U8, b, [k, n], k, [128, bn], Swizzle::B128));
            params.extend(map(DataType::F32, a_scales, [m, groups], m * 4, [bm, 1], Swizzle::None));
            params.extend(map(out_type, d, [n, m], n * size, [128 / size, 64], Swizzle::B128));
            params.extend(b_scales.to_le_bytes());
            for value in [m, n, k, groups, 8] {
                params.extend((value as u32).to_le_bytes());
            }
            grid = 2;
            output = (d, m * n * size);
        } else {
            let size = if row.text("IN") == Some("f32") { 4 } else { 2 };
            let rows_per = row.int("GROUP_ROWS").unwrap() as usize;
            let (rows, cols) = if rows_per == 1 { (9, 300) } else { (200, 300) };
            let x = put(bytes(rows * cols * size, 3));
            let q = put(vec![0; rows * cols]);
            let scales = put(vec![0; rows.div_ceil(rows_per) * 3 * 4]);
            for value in [x, q, scales] {
                params.extend(value.to_le_bytes());
            }
            params.extend((rows as u32).to_le_bytes());
            params.extend((cols as u32).to_le_bytes());
            for value in [cols, cols, 3, 1] {
                params.extend((value as u64).to_le_bytes());
            }
            params.extend(0u32.to_le_bytes());
            // One block: its warps end one by one, and the next launch begins between them.
            grid = 1;
            output = (q, rows * cols);
        }
        params.resize(row.param_layout().1, 0);
        let launch = Launch {
            grid: [grid, 1, 1],
            block: [row.threads, 1, 1],
            dynamic_shared: row.dynamic_shared,
            params,
            programmatic: true,
            ..Launch::default()
        };
        Stage { machine, launch, output }
    }

    /// Two launches in a row. `Err`: what stopped them.
    fn run(mut self, kernel: &Kernel, text: &str) -> Result<Outcome, String> {
        let module = ir::Module::parse(kernel.row.name, text).map_err(|e| e.to_string())?;
        let mut module = module;
        for entry in &mut module.kernels {
            entry.param_bytes = self.launch.params.len() as u32;
        }
        let id = self.machine.load_module(0, Arc::new(module)).map_err(|e| e.to_string())?;
        let stream = self.machine.create_stream(0);
        for _ in 0..2 {
            self.machine.launch(stream, id, kernel.row.name, &self.launch).map_err(|e| e.to_string())?;
        }
        self.machine.synchronize(stream).map_err(|f| f.report.class.to_string())?;
        let mut output = vec![0; self.output.1];
        self.machine.read(self.output.0, &mut output).unwrap();
        let resident = self.machine.counters(0).max_resident_blocks;
        Ok(Outcome { output, advice: self.machine.advice().len(), resident })
    }
}

/// A way to break a kernel.
struct Mutant {
    text: String,
    line: String,
    change: String,
}

/// The number at the end of an instruction.
fn last_number(code: &str) -> Option<(usize, usize, i64)> {
    let end = code.rfind(';')?;
    let start = code[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |i| i + 1);
    Some((start, end, code[start..end].parse().ok()?))
}

/// What can be done to an instruction: its weaker forms, with a word for each.
fn changes(code: &str) -> Vec<(String, String)> {
    let op = code.trim_start();
    let op = op.strip_prefix('@').map_or(op, |rest| rest.split_once(' ').map_or(rest, |(_, op)| op));
    let number = |by: i64, what: &str| {
        let (start, end, value) = last_number(code)?;
        let value = value + by;
        (value >= 0).then(|| (format!("{}{value}{}", &code[..start], &code[end..]), what.to_string()))
    };
    let mut all: Vec<(String, String)> = Vec::new();
    let deleted = (String::new(), "deleted".to_string());
    if op.starts_with("mbarrier.try_wait") {
        // The predicate it would have set: true.
        let ready = op.split_whitespace().nth(1).unwrap_or_default().trim_end_matches(',');
        all.push((format!("setp.eq.u32 {ready}, 0, 0;"), "deleted".into()));
        if let Some((start, parity)) = code.rsplit_once(", ") {
            let parity = parity.trim_end().trim_end_matches(';');
            let other = format!("{{ .reg .b32 other; xor.b32 other, {parity}, 1; {start}, other; }}");
            all.push((other, "for the other parity".into()));
        }
        return all;
    }
    if op.starts_with("mbarrier.init") {
        all.push(deleted);
        all.extend(number(1, "one arrival more"));
        all.extend(number(-1, "one arrival less"));
    } else if op.starts_with("mbarrier.arrive") {
        all.push(deleted);
        if op.contains("expect_tx") {
            all.extend(number(16, "16 bytes more"));
            all.extend(number(-16, "16 bytes less"));
            let only = code.replace(".arrive.expect_tx", ".expect_tx.relaxed.cta").replace(" _,", "");
            all.push((only, "expecting without arriving".into()));
        } else {
            all.push((format!("{code}\n{code}"), "twice".into()));
        }
    } else if op.starts_with("wgmma.wait_group") || op.starts_with("cp.async.bulk.wait_group") {
        all.push(deleted);
        all.extend(number(1, "one group less"));
    } else if op.starts_with("fence.proxy.async") {
        all.push(deleted);
        all.push((code.replace(".shared::cta", ".global"), "for global memory only".into()));
    } else if op.starts_with("setmaxnreg") {
        all.push(deleted);
        if op.contains(".dec") {
            // More than the launch leaves over.
            all.extend(number(72, "72 registers less"));
        }
    } else if op.starts_with("cp.async.mbarrier.arrive.noinc") {
        all.push(deleted);
        all.push((code.replace(".noinc", ""), "with an arrival of its own".into()));
    } else if op.starts_with("griddepcontrol.wait") {
        all.push(deleted);
        all.push((code.replace(".wait", ".launch_dependents"), "releasing instead of waiting".into()));
    } else if op.starts_with("bar.sync") && op.contains(',') {
        all.push(deleted);
        all.extend(number(-64, "for half the warps"));
    } else if [
        "fence.",
        "membar.",
        "bar.",
        "barrier.",
        "griddepcontrol.",
        "wgmma.fence",
        "wgmma.commit_group",
        "cp.async.bulk.commit_group",
        "cp.async.commit_group",
        "cp.async.wait_",
        "cp.async.mbarrier.arrive",
    ]
    .iter()
    .any(|p| op.starts_with(p))
    {
        all.push(deleted);
    }
    all
}

/// Every mutant of a kernel.
fn mutants(kernel: &Kernel) -> Vec<Mutant> {
    let lines: Vec<&str> = kernel.ptx.lines().collect();
    // Copies of one template line, made by one chain of includes and macro calls, change together.
    /// Template lines, innermost first, and the PTX lines they made.
    type Group = (Vec<(String, u32)>, Vec<usize>);
    let mut groups: Vec<Group> = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if changes(code).is_empty() {
            continue;
        }
        let chain = kernel.line_map().origin(i + 1).map_or(vec![(String::new(), i as u32)], |o| o.chain);
        match groups.iter_mut().find(|g| g.0 == chain) {
            Some(group) => group.1.push(i),
            None => groups.push((chain, vec![i])),
        }
    }
    let mut all = Vec::new();
    for (_, members) in groups {
        let first = lines[members[0]].split("//").next().unwrap_or_default();
        for (n, (_, change)) in changes(first).into_iter().enumerate() {
            let mut text: Vec<String> = lines.iter().map(|l| l.to_string()).collect();
            for i in &members {
                let code = lines[*i].split("//").next().unwrap_or_default();
                text[*i] = changes(code).into_iter().nth(n).map(|(code, _)| code).unwrap_or_default();
            }
            all.push(Mutant { text: text.join("\n"), line: first.trim().into(), change });
        }
    }
    all
}

/// How a mutant was noticed, if it was.
fn noticed(kernel: &Kernel, mutant: &Mutant, goods: &[Outcome]) -> Option<String> {
    for (which, good) in MACHINES.into_iter().zip(goods) {
        match Stage::new(kernel, which).run(kernel, &mutant.text) {
            Err(finding) => return Some(finding),
            Ok(outcome) if outcome.output != good.output => return Some("wrong result".into()),
            Ok(outcome) if outcome.advice > good.advice => return Some("advice".into()),
            Ok(outcome) if outcome.resident < good.resident => return Some("lost overlap".into()),
            Ok(_) => {}
        }
    }
    None
}

/// Tries the mutants of some kernels; says how many there were, and the survivors nobody expected.
fn score(kernels: &[&Kernel], pick: impl Fn(usize) -> bool) -> (usize, usize, Vec<String>) {
    let (mut total, mut survived, mut surprises) = (0, 0, Vec::new());
    for kernel in kernels {
        let good = Stage::new(kernel, MACHINES[0]).run(kernel, kernel.ptx).unwrap();
        let goods = MACHINES.map(|which| {
            let again = Stage::new(kernel, which).run(kernel, kernel.ptx).unwrap();
            assert_eq!(again.output, good.output, "{} under {which:?}", kernel.row.name);
            println!("{} {which:?}: {} blocks resident", kernel.row.name, again.resident);
            again
        });
        for (_, mutant) in mutants(kernel).iter().enumerate().filter(|(i, _)| pick(*i)) {
            total += 1;
            let how = noticed(kernel, mutant, &goods);
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
            survived += 1;
            let known = SURVIVORS.iter().any(|(family, line, change, _)| {
                *family == kernel.row.family && mutant.line.contains(line) && mutant.change == *change
            });
            if !known {
                surprises.push(format!("{}: {} {}", kernel.row.name, mutant.line, mutant.change));
            }
        }
    }
    (total, survived, surprises)
}

#[test]
fn a_sample_is_noticed() {
    let small = ["hadal_gemm_e4m3_bf16_dense_m64n64_sm90a", "hadal_quantize_bf16_e4m3_128x128_sm90a"];
    let kernels: Vec<&Kernel> = small.iter().map(|name| kernel::find(name).unwrap()).collect();
    let (total, survived, surprises) = score(&kernels, |_| true);
    println!("{} of {total} noticed", total - survived);
    assert_eq!(surprises, Vec::<String>::new());
    assert!(total > 40, "{total} mutants");
}

#[test]
#[ignore = "half a minute of broken kernels: run by .ci/run"]
fn every_mutant_of_every_kernel() {
    let kernels: Vec<&Kernel> = kernel::all().iter().collect();
    let (total, survived, surprises) = score(&kernels, |_| true);
    println!("{} of {total} noticed", total - survived);
    assert_eq!(surprises, Vec::<String>::new());
    assert!(survived * 20 <= total, "{survived} of {total} mutants survive");
}
