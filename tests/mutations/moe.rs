//! The kernels of the mixture of experts.

use hadal::emulator::Machine;
use hadal::kernel::Kernel;

use super::setup::{Setup, Survivor, bytes, floats, put};

/// Mutants that nothing can notice: none.
pub const SURVIVORS: &[Survivor] = &[];

/// Operands, and one block: its warps end one by one, and the next launch begins between them.
pub fn setup(kernel: &Kernel, machine: &mut Machine) -> Setup {
    match kernel.row.template {
        "swiglu_fp8.ptx" => swiglu(kernel, machine),
        "moe_gate.ptx" => gate(kernel, machine),
        "group_ends.ptx" => group_ends(kernel, machine),
        other => panic!("no mutants of {other}"),
    }
}

fn gate(kernel: &Kernel, machine: &mut Machine) -> Setup {
    let (tokens, experts, k) = (9usize, 64usize, 4usize);
    let logits = put(machine, bytes(tokens * experts * 4, 3));
    let bias = put(machine, floats(experts));
    let idx = put(machine, vec![0; tokens * k * 4]);
    let weight = put(machine, vec![0; tokens * k * 4]);
    let counts = put(machine, vec![0; experts * 4]);
    let mut params = Vec::new();
    for value in [logits, bias, idx, weight, counts, experts as u64] {
        params.extend(value.to_le_bytes());
    }
    for value in [tokens, experts, k, 8, 4, 1] {
        params.extend((value as u32).to_le_bytes());
    }
    params.extend(2.5f32.to_le_bytes());
    Setup::one(kernel.row, 1, params, (idx, tokens * k * 4))
}

fn group_ends(kernel: &Kernel, machine: &mut Machine) -> Setup {
    // More rows than threads, more groups than lanes, a group without rows, padding.
    let (rows, groups) = (1500usize, 40usize);
    let group = |row: usize| if row % 40 < 30 && row / 40 != 7 { (row / 40) as i32 } else { -1 };
    let map = put(machine, (0..rows).flat_map(|row| group(row).to_le_bytes()).collect());
    let ends = put(machine, vec![0; groups * 4]);
    let mut params = Vec::new();
    for value in [map, ends] {
        params.extend(value.to_le_bytes());
    }
    for value in [rows, groups] {
        params.extend((value as u32).to_le_bytes());
    }
    Setup::one(kernel.row, 1, params, (ends, groups * 4))
}

fn swiglu(kernel: &Kernel, machine: &mut Machine) -> Setup {
    let row = kernel.row;
    let masked = row.text("LAYOUT") == Some("masked");
    // More groups than a warp has lanes, so that two warps read sizes.
    // Wide enough that a warp of the one block has several turns of work.
    let (groups, span, rows, cols) = (40usize, if masked { 4usize } else { 2 }, 160usize, 2048usize);
    let sizes: Vec<i32> = match masked {
        true => (0..40).map(|g| [3, 0, 0, 4, 0][g % 5]).collect(),
        false => (0..40).map(|g| [3, 3, 4, 7, 7][g % 5] + 8 * (g as i32 / 5)).collect(),
    };
    let x = put(machine, bytes(rows * cols * 4, 3));
    let sizes = put(machine, sizes.iter().flat_map(|s| s.to_le_bytes()).collect());
    let q = put(machine, vec![0; rows * cols]);
    let scales = put(machine, vec![0; rows * cols / 128 * 4]);
    let mut params = Vec::new();
    for value in [x, sizes, q, scales] {
        params.extend(value.to_le_bytes());
    }
    for value in [groups, span, rows, cols] {
        params.extend((value as u32).to_le_bytes());
    }
    for value in [2 * cols, cols, 1, rows] {
        params.extend((value as u64).to_le_bytes());
    }
    params.extend(0u32.to_le_bytes());
    Setup::one(row, 1, params, (q, rows * cols))
}
