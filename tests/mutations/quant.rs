//! The quantisers.

use hadal::emulator::Machine;
use hadal::kernel::Kernel;

use super::setup::{Setup, Survivor, bytes, put};

/// Mutants that nothing can notice: none.
pub const SURVIVORS: &[Survivor] = &[];

/// Operands, and one block: its warps end one by one, most of them without a row of the last item, and the next launch begins between them.
pub fn setup(kernel: &Kernel, machine: &mut Machine) -> Setup {
    let row = kernel.row;
    let mut params = Vec::new();
    let size = if row.text("IN") == Some("f32") { 4 } else { 2 };
    let rows_per = row.int("GROUP_ROWS").unwrap() as usize;
    let (rows, cols) = if rows_per == 1 { (40, 300) } else { (131, 300) };
    let x = put(machine, bytes(rows * cols * size, 3));
    let q = put(machine, vec![0; rows * cols]);
    let scales = put(machine, vec![0; rows.div_ceil(rows_per) * 3 * 4]);
    for value in [x, q, scales] {
        params.extend(value.to_le_bytes());
    }
    params.extend((rows as u32).to_le_bytes());
    params.extend((cols as u32).to_le_bytes());
    for value in [cols, cols, 3, 1] {
        params.extend((value as u64).to_le_bytes());
    }
    params.extend(0u32.to_le_bytes());
    Setup::one(row, 1, params, (q, rows * cols))
}
