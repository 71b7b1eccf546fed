//! Attention over latent caches, and the writer of the cache.

use hadal::emulator::Machine;
use hadal::emulator::tma::{DataType, Swizzle};
use hadal::kernel::Kernel;

use super::setup::{Setup, Survivor, bytes, floats, map, put};

/// Mutants that nothing can notice.
pub const SURVIVORS: &[Survivor] = &[(
    "wgmma.fence",
    "deleted",
    "before scores that run behind a product: its fence has put their registers in order too, and tiles after the first follow a product \
     into the same ones. ptxas wants a fence in every stretch of code all the same (C7519)",
)];

/// Tokens of the two requests: the first is cut in two, both end inside a block.
const LENGTHS: [i32; 2] = [500, 150];
const PAGE: usize = 64;
const TABLE: [i32; 16] = [3, 0, 5, 1, 6, 8, 7, 9, 2, 4, 10, -1, -1, -1, -1, -1];
const HEADS: usize = 8;
const CACHE_ROWS: usize = 12 * PAGE;

/// Operands, and two launches' worth of work.
pub fn setup(kernel: &Kernel, machine: &mut Machine) -> Setup {
    match kernel.row.template {
        "mla_decode.ptx" => decode(kernel, machine),
        "mla_combine.ptx" => combine(kernel, machine),
        _ => append(kernel, machine),
    }
}

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn decode(kernel: &Kernel, machine: &mut Machine) -> Setup {
    let row = kernel.row;
    let mut params = Vec::new();
    let q = put(machine, bytes(2 * HEADS * 1152, 1));
    // What lies behind a request's end in its last page is NaN.
    let mut tokens = bytes(CACHE_ROWS * 1152, 2);
    for (last_page, length) in [(9, LENGTHS[0]), (10, LENGTHS[1])] {
        let end = last_page * PAGE + length as usize % PAGE;
        tokens[end * 1152..(last_page + 1) * PAGE * 1152].fill(0xff);
    }
    let cache = put(machine, tokens);
    let table = put(machine, words(&TABLE));
    let lengths = put(machine, words(&LENGTHS));
    let out = put(machine, vec![0; 2 * HEADS * 1024]);
    let lse = put(machine, vec![0; 2 * HEADS * 4]);
    let partial = put(machine, vec![0; 4 * 64 * 2048]);
    let partial_lse = put(machine, vec![0; 4 * 64 * 4]);
    params.extend(map(DataType::BF16, q, [576, 2 * HEADS], 1152, [64, 64], Swizzle::B128));
    params.extend(map(DataType::BF16, cache, [576, CACHE_ROWS], 1152, [64, 64], Swizzle::B128));
    for value in [table, lengths, out, lse, partial, partial_lse, 512, 8] {
        params.extend(value.to_le_bytes());
    }
    // Two parts of the line, every unit a block. The rows are the first of 200 query tokens, so that several turns are masked.
    for value in [2, HEADS, 1, 200, 1, 2, PAGE, 64, CACHE_ROWS, 512, 0, 0] {
        params.extend((value as u32).to_le_bytes());
    }
    params.extend(0.1f32.to_le_bytes());
    params.extend(1f32.to_le_bytes());
    let mut setup = Setup::one(row, 2, params, (out, 2 * HEADS * 1024));
    setup.outputs.extend([(lse, 2 * HEADS * 4), (partial, 4 * 64 * 2048), (partial_lse, 4 * 64 * 4)]);
    setup
}

fn combine(kernel: &Kernel, machine: &mut Machine) -> Setup {
    let lengths = put(machine, words(&LENGTHS));
    let out = put(machine, vec![0; 2 * HEADS * 1024]);
    let lse = put(machine, vec![0; 2 * HEADS * 4]);
    let partial = put(machine, floats(4 * 64 * 512));
    let partial_lse = put(machine, floats(4 * 64));
    let mut params = Vec::new();
    for value in [lengths, out, lse, partial, partial_lse, 512] {
        params.extend(value.to_le_bytes());
    }
    for value in [2, HEADS, 1, 2, 512, 0, 0] {
        params.extend((value as u32).to_le_bytes());
    }
    params.extend(1f32.to_le_bytes());
    let mut setup = Setup::one(kernel.row, 2, params, (out, 2 * HEADS * 1024));
    setup.outputs.push((lse, 2 * HEADS * 4));
    setup
}

fn append(kernel: &Kernel, machine: &mut Machine) -> Setup {
    let latent = put(machine, bytes(18 * 1024, 1));
    let rope = put(machine, bytes(18 * 128, 2));
    let cache = put(machine, vec![0; CACHE_ROWS * 1152]);
    let table = put(machine, words(&TABLE));
    let lengths = put(machine, words(&LENGTHS));
    let mut params = Vec::new();
    for value in [latent, rope, cache, 0, table, lengths, 512, 64, 576, 8] {
        params.extend(value.to_le_bytes());
    }
    for value in [18, 9, PAGE, CACHE_ROWS, 512] {
        params.extend((value as u32).to_le_bytes());
    }
    Setup::one(kernel.row, 2, params, (cache, CACHE_ROWS * 1152))
}
