//! The GEMMs, dense.

use hadal::emulator::Machine;
use hadal::emulator::tma::{DataType, Swizzle};
use hadal::kernel::Kernel;

use super::setup::{Setup, Survivor, bytes, floats, map, put};

/// Mutants that nothing can notice.
pub const SURVIVORS: &[Survivor] = &[
    (
        "fence.mbarrier_init",
        "deleted",
        "it shows the mbarriers to other blocks of a cluster, and these kernels have none; fence.proxy.async, which stands beside it, \
         shows them to the copies",
    ),
    (
        "bar.warp.sync",
        "deleted",
        "before the arrival: wgmma.wait_group.sync.aligned has just brought the lanes together (the one before the next tile is \
         noticed)",
    ),
];

/// Operands, and two launches' worth of work.
pub fn setup(kernel: &Kernel, machine: &mut Machine) -> Setup {
    let row = kernel.row;
    let mut params = Vec::new();
    let (bm, bn) = (row.int("BLOCK_M").unwrap() as usize, row.int("BLOCK_N").unwrap() as usize);
    let stages = row.int("STAGES").unwrap() as usize;
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
