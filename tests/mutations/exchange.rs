//! The exchange between ranks: two devices run all of it, one kernel of it broken.

use hadal::emulator::{Launch, Machine};
use hadal::kernel::Kernel;
use hadal::kernel::table::{self, KernelRow};

use super::setup::{Setup, Step, Survivor, bytes};

/// Mutants that nothing notices.
pub const SURVIVORS: &[Survivor] = &[];

/// Memory of a device that holds `bytes`.
fn put(machine: &mut Machine, device: usize, bytes: Vec<u8>) -> u64 {
    let address = machine.alloc(device, bytes.len() as u64, 1024).unwrap();
    machine.write(address, &bytes).unwrap();
    address
}

/// A value of a parameter list.
enum Value {
    Wide(u64),
    Word(u32),
}
use Value::{Wide, Word};

/// A programmatic launch of a kernel of the table.
fn step(device: usize, kernel: &Kernel, name: &'static str, grid: u32, values: &[Value]) -> Step {
    let row: &KernelRow = table::row(name).unwrap();
    let mut params = Vec::new();
    for value in values {
        match value {
            Wide(value) => {
                params.resize(params.len().next_multiple_of(8), 0);
                params.extend(value.to_le_bytes());
            }
            Word(value) => params.extend(value.to_le_bytes()),
        }
    }
    assert_eq!(params.len(), row.param_layout().1, "{name}");
    let launch = Launch {
        grid: [grid, 1, 1],
        block: [row.threads, 1, 1],
        dynamic_shared: row.dynamic_shared,
        params,
        programmatic: true,
        ..Launch::default()
    };
    Step { device, entry: (name != kernel.row.name).then_some(name), launch }
}

/// Tokens of both ranks, everything twice, with other rows and weights; outputs are the windows, the expanded rows and what comes back.
pub fn setup(kernel: &Kernel, machine: &mut Machine) -> Setup {
    let (ranks, local, topk) = (2u32, 3u32, 3u32);
    // The layout takes 1024 tokens at a time, a warp of the expansion's 32 choices: several times, but narrow ones.
    let (hidden, tokens, rows) = match kernel.row.template {
        "moe_layout.ptx" | "moe_expand_layout.ptx" => (16u32, 1030u32, 6200u32),
        _ => (272, 21, 150),
    };
    let (capacity, patience, grid) = (2 * tokens, 1 << 20, 2);
    let row_bytes = 2 * hidden;
    let parts = [row_bytes, topk * 4, topk * 4, topk * 4, row_bytes].map(|each| u64::from(each * capacity));
    let mut offsets = [1024u64; 6];
    for part in 0..5 {
        offsets[part + 1] = (offsets[part] + parts[part]).next_multiple_of(256);
    }
    let [rows_at, ids_at, weights_at, positions_at, reduced_at, counts_at] = offsets;
    let window_bytes = counts_at as usize + 256;
    machine.enable_peer_access(0, 1).unwrap();
    machine.enable_peer_access(1, 0).unwrap();
    let windows = [0, 1].map(|device| put(machine, device, vec![0; window_bytes]));
    let (mut launches, mut outputs) = (Vec::new(), Vec::new());
    for rank in 0..2u32 {
        let device = rank as usize;
        let mut put = |bytes| put(machine, device, bytes);
        let table = put(windows.iter().flat_map(|w| w.to_le_bytes()).collect());
        let choice = |at: u32| (at * 7 + at / 5 + rank) % 8;
        let ids = (0..tokens * topk).flat_map(|at| match choice(at) {
            id @ 0..6 => (id as i32).to_le_bytes(),
            _ => (-1i32).to_le_bytes(),
        });
        let ids = put(ids.collect());
        let handle = put(vec![0xff; (64 + tokens * ranks * 4) as usize]);
        let out = put(vec![0; (tokens * row_bytes) as usize]);
        let window = windows[device];
        // Twice, with no combine between that would order the readers of the first rows before the second, which are others.
        let mut expanded = 0;
        for cached in [0, 1] {
            let x = put(bytes((tokens * row_bytes) as usize, 3 + u64::from(2 * cached + rank)));
            let weights =
                (0..tokens * topk).flat_map(|at| (0.5 + (at + 9 * cached) as f32 / 64.0).to_le_bytes());
            let weights = put(weights.collect());
            expanded = put(vec![0; (rows * row_bytes) as usize]);
            let map = put(vec![0; 4 * rows as usize]);
            let ends = put(vec![0; 4 * local as usize]);
            outputs.push((expanded, (rows * row_bytes) as usize));
            outputs.push((map, 4 * rows as usize));
            launches.push(step(
                device,
                kernel,
                "hadal_moe_layout_sm90a",
                1,
                &[
                    Wide(ids),
                    Wide(handle),
                    Wide(table),
                    Word(tokens),
                    Word(topk),
                    Word(ranks),
                    Word(rank),
                    Word(ranks * local),
                    Word(local),
                    Word(cached),
                ],
            ));
            launches.push(step(
                device,
                kernel,
                "hadal_moe_dispatch_sm90a",
                grid,
                &[
                    Wide(x),
                    Wide(0),
                    Wide(ids),
                    Wide(weights),
                    Wide(handle),
                    Wide(table),
                    Wide(row_bytes.into()),
                    Wide(0),
                    Wide(rows_at),
                    Wide(0),
                    Wide(ids_at),
                    Wide(weights_at),
                    Word(tokens),
                    Word(row_bytes),
                    Word(0),
                    Word(topk),
                    Word(ranks),
                    Word(rank),
                    Word(local),
                    Word(capacity),
                    Word(patience),
                ],
            ));
            for name in ["hadal_moe_expand_count_sm90a", "hadal_moe_expand_place_sm90a"] {
                launches.push(step(
                    device,
                    kernel,
                    name,
                    grid,
                    &[
                        Wide(window),
                        Wide(ids_at),
                        Wide(counts_at),
                        Wide(positions_at),
                        Wide(map),
                        Wide(ends),
                        Word(topk),
                        Word(local),
                        Word(rows),
                        Word(4),
                        Word(capacity),
                    ],
                ));
            }
            launches.push(step(
                device,
                kernel,
                "hadal_moe_expand_sm90a",
                1, // So that each warp has several rows, and uses its buffers again.
                &[
                    Wide(window),
                    Wide(rows_at),
                    Wide(0),
                    Wide(ids_at),
                    Wide(positions_at),
                    Wide(expanded),
                    Wide(0),
                    Wide(row_bytes.into()),
                    Wide(0),
                    Wide(0),
                    Word(row_bytes),
                    Word(0),
                    Word(topk),
                    Word(capacity),
                    Word(rows),
                ],
            ));
        }
        // Twice, with nothing between that would order the readers of the first before the second.
        for _ in 0..2 {
            launches.push(step(
                device,
                kernel,
                "hadal_moe_reduce_sm90a",
                grid,
                &[
                    Wide(expanded),
                    Wide(table),
                    Wide(row_bytes.into()),
                    Wide(ids_at),
                    Wide(weights_at),
                    Wide(positions_at),
                    Wide(reduced_at),
                    Word(row_bytes),
                    Word(rows),
                    Word(capacity),
                    Word(topk),
                    Word(ranks),
                    Word(rank),
                    Word(patience),
                ],
            ));
            launches.push(step(
                device,
                kernel,
                "hadal_moe_combine_sm90a",
                grid,
                &[
                    Wide(out),
                    Wide(handle),
                    Wide(table),
                    Wide(row_bytes.into()),
                    Wide(reduced_at),
                    Word(tokens),
                    Word(row_bytes),
                    Word(ranks),
                    Word(rank),
                    Word(capacity),
                    Word(patience),
                ],
            ));
        }
        outputs.push((window, window_bytes));
        outputs.push((out, (tokens * row_bytes) as usize));
    }
    Setup { launches, outputs }
}
