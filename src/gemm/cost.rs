//! Which tile: a model of the time each candidate would take, and the argmin.
//!
//! Per tile and per 128 of K, cycles of one SM:
//!
//! * **tensor**: a 64×N×32 `wgmma` takes N/2 cycles, four of them make 128 of K, one chain for every 64 rows;
//! * **promote**: N/2 FMAs a thread for every 64 rows and about 40 instructions around them, one warp of each consumer
//!   warpgroup on each scheduler. Two warpgroups hide it under each other's tensor work; one alone adds it to its own;
//! * **port**: shared memory moves 128 bytes a cycle. Each `wgmma` reads its 64×32 and N×32 operands, and the copies
//!   write both once;
//! * **L2**: the copies, at 64 bytes a cycle and SM but no more than the L2 gives all SMs together.
//!
//! The slowest of these is the pace of the main loop. A wave runs one tile on each SM: the loop, then the part of the
//! epilogue that the next tile cannot hide. Beside that stands the time memory needs to deliver every operand once. What
//! is hidden is never hidden well, so an eighth of the shorter of the two is added to the longer.
//!
//! Equal costs go to the larger tile, which moves fewer bytes. The constants are published microbenchmarks of H100 and
//! H800 (Luo et al., arXiv 2501.12084; DeepGEMM's fitted per-tile cost); the numbers rank tiles and are not times.

use std::fmt;

use crate::dtype::DType;
use crate::kernel::{KernelRow, table};

/// Cycles until the first tile's operands have arrived: launch, map fetch, one trip to memory.
const FILL: u64 = 1600;
/// Cycles of a tile that the next one does not hide, besides storing.
const EPILOGUE: u64 = 300;
/// Instructions of a warp and 128 of K that are not FMAs or `wgmma`s.
const OVERHEAD: u64 = 40;
/// Cycles from the end of a chain of `wgmma`s to its results.
const DRAIN: u64 = 64;
/// Bytes a cycle that one SM takes from the L2.
const L2_PER_SM: u64 = 64;
/// Bytes a cycle that the L2 gives to all SMs.
const L2_TOTAL: u64 = 5600;
/// Bytes a cycle from HBM: 90 % of 3.35 TB/s at 1.755 GHz.
const HBM: u64 = 1700;
/// Bytes a cycle through the shared-memory port of one SM.
const PORT: u64 = 128;

/// A kernel of the family and what the model thinks of it for one shape.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Estimate {
    /// The kernel's row.
    pub kernel: &'static KernelRow,
    /// Rows and columns of its tile.
    pub tile: (usize, usize),
    /// Tiles of the output.
    pub tiles: u64,
    /// Times every SM gets a tile.
    pub waves: u64,
    /// Cycles per 128 of K on the tensor cores, with the promotion where nothing hides it.
    pub tensor: u64,
    /// Cycles per 128 of K through the shared-memory port.
    pub port: u64,
    /// Cycles per 128 of K waiting for the L2.
    pub l2: u64,
    /// Cycles of all waves.
    pub compute: u64,
    /// Cycles memory needs to deliver everything once.
    pub memory: u64,
    /// The model's total.
    pub cycles: u64,
}

/// Shape and circumstances of one problem.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Groups of M rows each, with a weight of their own; 1 for a dense product.
    pub(super) groups: usize,
    /// The constant of that name in the kernel's row.
    pub(super) grouping: &'static str,
    pub(super) output: DType,
    pub(super) sms: u32,
}

/// The kernels of the table for a grouping and an output type.
pub(super) fn candidates(grouping: &'static str, output: DType) -> impl Iterator<Item = &'static KernelRow> {
    table::TABLE.iter().filter(move |row| {
        row.family == "gemm"
            && row.text("GROUPING") == Some(grouping)
            && row.text("OUT") == Some(output.name())
    })
}

/// Every kernel of the table for this problem, the best first.
pub(super) fn rank(problem: &Problem) -> Vec<Estimate> {
    let rows = candidates(problem.grouping, problem.output);
    let mut all: Vec<Estimate> = rows.filter_map(|row| estimate(row, problem)).collect();
    all.sort_by_key(|e| (e.cycles, std::cmp::Reverse(e.tile.0 * e.tile.1)));
    all
}

fn estimate(kernel: &'static KernelRow, p: &Problem) -> Option<Estimate> {
    let (block_m, block_n) = (kernel.int("BLOCK_M")? as u64, kernel.int("BLOCK_N")? as u64);
    let consumers = (kernel.threads as u64 / 128).saturating_sub(1).max(1);
    let (m, n, k, groups) = (p.m as u64, p.n as u64, p.k as u64, p.groups as u64);
    let (sms, out) = (p.sms.max(1) as u64, p.output.size() as u64);
    let tiles = groups.saturating_mul(m.div_ceil(block_m)).saturating_mul(n.div_ceil(block_n));
    let waves = tiles.div_ceil(sms);
    let steps = k.div_ceil(128);

    let chains = block_m.div_ceil(64);
    let mma = chains * 4 * block_n / 2;
    let promote = chains * block_n / 2 + consumers * OVERHEAD;
    let tensor = if consumers == 1 { mma + promote + DRAIN } else { mma.max(promote) };
    let operands = (block_m + block_n) * 128;
    let port = (chains * 4 * (64 + block_n) * 32 + operands).div_ceil(PORT);
    let l2 = operands.div_ceil(L2_PER_SM.min(L2_TOTAL / tiles.min(sms).max(1)).max(1));
    let epilogue = EPILOGUE + block_m * block_n * out / (consumers * PORT);
    // Shapes may be as large as the kernels can count, which no memory holds: then a cost is the largest number.
    let wide = |x: u64| u128::from(x);
    let narrow = |x: u128| u64::try_from(x).unwrap_or(u64::MAX);
    let tile = steps * tensor.max(port).max(l2) + epilogue;
    let compute = narrow(wide(FILL) + wide(waves) * wide(tile));

    let scales = wide(4 * steps) * wide(m + n.div_ceil(128));
    let bytes = wide(m) * wide(k) + wide(n) * wide(k) + scales + wide(m) * wide(n) * wide(out);
    let memory = narrow(wide(FILL) + (wide(groups) * bytes).div_ceil(wide(HBM)));
    let cycles = compute.max(memory).saturating_add(compute.min(memory) / 8);
    let tile = (block_m as usize, block_n as usize);
    Some(Estimate { kernel, tile, tiles, waves, tensor, port, l2, compute, memory, cycles })
}

/// Tiles of M that are walked before stepping in N, so that the tiles running together share the most operands: the
/// `g` with the smallest `g` row panels plus `⌈together / g⌉` column panels.
pub(super) fn group(tiles_m: u64, together: u64, (block_m, block_n): (usize, usize)) -> u32 {
    let bytes = |g: &u64| g * block_m as u64 + together.max(1).div_ceil(*g) * block_n as u64;
    (1..=tiles_m.min(together).max(1)).min_by_key(bytes).unwrap_or(1) as u32
}

/// Why a plan uses the kernel it uses: every candidate with the model's numbers.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub(super) problem: Problem,
    pub(super) candidates: Vec<Estimate>,
    pub(super) chosen: usize,
    pub(super) forced: bool,
}

impl Explanation {
    /// The candidates, the cheapest first.
    pub fn candidates(&self) -> &[Estimate] {
        &self.candidates
    }

    /// The kernel the plan runs.
    pub fn chosen(&self) -> &Estimate {
        &self.candidates[self.chosen]
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { m, n, k, groups, output, sms, .. } = self.problem;
        if groups > 1 {
            write!(f, "{groups} groups of ")?;
        }
        writeln!(f, "e4m3 [{m}, {k}] x [{n}, {k}]ᵀ -> {output} [{m}, {n}] on {sms} SMs; modelled cycles")?;
        writeln!(
            f,
            "  {:>9} {:>7} {:>6} {:>7} {:>6} {:>6} {:>11} {:>11} {:>11}",
            "tile", "tiles", "waves", "tensor", "port", "L2", "compute", "memory", "total"
        )?;
        for (at, e) in self.candidates.iter().enumerate() {
            let mark = if at == self.chosen { '*' } else { ' ' };
            let tile = format!("{}x{}", e.tile.0, e.tile.1);
            writeln!(
                f,
                "{mark} {tile:>9} {:>7} {:>6} {:>7} {:>6} {:>6} {:>11} {:>11} {:>11}",
                e.tiles, e.waves, e.tensor, e.port, e.l2, e.compute, e.memory, e.cycles
            )?;
        }
        let why =
            if self.forced { "forced by Options::tile" } else { "the cheapest; ties go to the larger tile" };
        write!(f, "* {}: {why}", self.chosen().kernel.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(m: usize, n: usize, k: usize, output: DType) -> Problem {
        Problem { m, n, k, groups: 1, grouping: "dense", output, sms: 132 }
    }

    fn best(m: usize, n: usize, k: usize, output: DType) -> (usize, usize) {
        rank(&dense(m, n, k, output))[0].tile
    }

    #[test]
    fn every_row_is_the_best_for_a_shape_of_deepseek_v3() {
        for (name, m, n, k, output, tile) in [
            ("q_a and kv_a, decode", 64, 2112, 7168, DType::BF16, (64, 64)),
            ("q_b, decode", 64, 24576, 1536, DType::BF16, (64, 128)),
            ("gate and up, small prefill", 512, 4096, 7168, DType::BF16, (128, 128)),
            ("gate and up, prefill", 4096, 4096, 7168, DType::BF16, (256, 128)),
            ("q_a and kv_a, decode", 64, 2112, 7168, DType::F32, (64, 64)),
            ("q_b, decode", 64, 24576, 1536, DType::F32, (64, 128)),
            ("gate and up, prefill", 4096, 4096, 7168, DType::F32, (128, 128)),
        ] {
            let ranking = rank(&dense(m, n, k, output));
            assert_eq!(ranking[0].tile, tile, "{name}: {m}x{n}x{k} {output}: {ranking:#?}");
        }
    }

    #[test]
    fn every_grouped_row_is_the_best_for_the_experts_of_deepseek_v3() {
        for (name, grouping, groups, m, n, k, tile) in [
            ("gate and up, decode", "masked", 32, 16, 4096, 7168, (64, 128)),
            ("down, decode", "contiguous", 32, 16, 7168, 2048, (64, 128)),
            ("gate and up, prefill", "masked", 8, 128, 4096, 7168, (128, 128)),
            ("gate and up, prefill", "contiguous", 8, 128, 4096, 7168, (128, 128)),
            ("gate and up, large prefill", "contiguous", 8, 4096, 4096, 7168, (256, 128)),
        ] {
            let ranking = rank(&Problem { m, n, k, groups, grouping, output: DType::BF16, sms: 132 });
            assert_eq!(ranking[0].tile, tile, "{name}: {grouping} {groups}x{m}x{n}x{k}: {ranking:#?}");
        }
    }

    #[test]
    fn the_port_figure_of_the_largest_tile_is_the_published_one() {
        let ranking = rank(&dense(4096, 4096, 7168, DType::BF16));
        let largest = ranking.iter().find(|e| e.tile == (256, 128)).unwrap();
        // 143 B/clk wanted of a 128 B/clk port.
        assert_eq!((largest.tensor, largest.port), (1024, 1152));
    }

    #[test]
    fn equal_costs_go_to_the_larger_tile() {
        let ranking = rank(&dense(0, 64, 128, DType::BF16));
        assert!(ranking.is_sorted_by_key(|e| e.cycles));
        for pair in ranking.windows(2).filter(|pair| pair[0].cycles == pair[1].cycles) {
            assert!(pair[0].tile.0 * pair[0].tile.1 >= pair[1].tile.0 * pair[1].tile.1);
        }
        assert_eq!(best(1, 64, 128, DType::BF16), (64, 64));
    }

    #[test]
    fn groups_balance_the_panels_of_a_wave() {
        assert_eq!(group(1, 132, (64, 64)), 1);
        assert_eq!(group(0, 0, (64, 64)), 1);
        assert_eq!(group(64, 132, (128, 128)), 11);
        assert!(group(64, 132, (256, 128)) < 11);
    }
}
