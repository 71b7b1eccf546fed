//! The GEMMs, dense and grouped.

use hadal::emulator::Machine;
use hadal::emulator::tma::{DataType, Swizzle};
use hadal::kernel::Kernel;
use hadal::kernel::table::KernelRow;

use super::setup::{Setup, Survivor, bytes, floats, map, put, volume};

/// Mutants that nothing can notice.
pub const SURVIVORS: &[Survivor] = &[(
    "bar.warp.sync",
    "deleted",
    "before the arrival: wgmma.wait_group.sync.aligned has just brought the lanes together (the one before the next tile is \
         noticed)",
)];

/// Operands, and two launches' worth of work.
pub fn setup(kernel: &Kernel, machine: &mut Machine) -> Setup {
    let row = kernel.row;
    let mut params = Vec::new();
    let (bm, bn) = (row.int("BLOCK_M").unwrap() as usize, row.int("BLOCK_N").unwrap() as usize);
    let stages = row.int("STAGES").unwrap() as usize;
    if let Some(layout @ ("contiguous" | "masked")) = row.text("GROUPING") {
        return grouped(row, machine, layout == "masked", [bm, bn, stages]);
    }
    // Five tiles for two blocks, the last of them cut off on both sides; K wraps the ring.
    let (m, n, k) = (4 * bm + 8, bn - 8, 128 * stages + 256);
    let groups = k / 128;
    let float = row.text("OUT") == Some("f32");
    let (out_type, size) = if float { (DataType::F32, 4) } else { (DataType::BF16, 2) };
    let a = put(machine, bytes(m * k, 1));
    let b = put(machine, bytes(n * k, 2));
    let a_scales = put(machine, floats(m * groups));
    let b_scales = put(machine, floats(groups));
    let d = put(machine, vec![0; m * n * size]);
    params.extend(map(DataType::U8, a, [k, m], k, [128, bm], Swizzle::B128));
    params.extend(map(DataType::U8, b, [k, n], k, [128, bn], Swizzle::B128));
    params.extend(map(DataType::F32, a_scales, [m, groups], m * 4, [bm, 1], Swizzle::None));
    params.extend(map(out_type, d, [n, m], n * size, [128 / size, 64], Swizzle::B128));
    params.extend(b_scales.to_le_bytes());
    for value in [m, n, k, groups, 8] {
        params.extend((value as u32).to_le_bytes());
    }
    Setup::one(row, 2, params, (d, m * n * size))
}

/// Five tiles in four groups for two blocks: an empty group, a tile cut off by its group's end, one of a single row; K wraps the ring.
/// There are more groups than lanes, so that two warps read their sizes.
fn grouped(row: &KernelRow, machine: &mut Machine, masked: bool, [bm, bn, stages]: [usize; 3]) -> Setup {
    let mut counts = vec![0i32; 36];
    for (group, count) in [(0, bm as i32 + 8), (2, 1), (33, bm as i32), (35, 9)] {
        counts[group] = count;
    }
    let (groups, slab) = (counts.len(), bm + 8);
    let mut end = 0;
    let ends = counts.iter().map(|count| {
        end += count;
        end
    });
    let (sizes, m, span) = match masked {
        true => (counts.clone(), groups * slab, slab),
        false => (ends.collect(), 3 * slab, 1),
    };
    let (n, k) = (bn - 8, 128 * stages + 256);
    let blocks = k / 128;
    let a = put(machine, bytes(m * k, 1));
    let b = put(machine, bytes(groups * n * k, 2));
    let a_scales = put(machine, floats(m * blocks));
    let b_scales = put(machine, floats(groups * blocks));
    let sizes = put(machine, sizes.iter().flat_map(|s| s.to_le_bytes()).collect());
    let d = put(machine, vec![0; m * n * 2]);
    let ragged = |address: u64, cols: usize, pitch: usize, tile: usize, element: DataType, boxed: usize| {
        let before = address - (tile * pitch) as u64;
        volume(element, before, [cols, tile, m + 1], [pitch, pitch], [boxed, tile, 1])
    };
    let mut params = ragged(a, k, k, bm, DataType::U8, 128);
    params.extend(volume(DataType::U8, b, [k, n, groups], [k, n * k], [128, bn, 1]));
    params.extend(ragged(d, n, n * 2, 64, DataType::BF16, 64));
    for value in [a_scales, sizes, b_scales] {
        params.extend(value.to_le_bytes());
    }
    for value in [m, n, k, blocks, m, blocks, span, groups] {
        params.extend((value as u32).to_le_bytes());
    }
    Setup::one(row, 2, params, (d, m * n * 2))
}
