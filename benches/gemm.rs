//! The dense FP8 GEMM on the shapes of DeepSeek-V3.
//!
//! On a GPU this is time. On the emulator it is not time and does not pretend to be: the values are warp instructions and bytes of one
//! tile, the main loop over the whole of K included, counted while the kernel that the cost model picks for the whole shape
//! computes two tiles, one after the other, on one SM. See `support/measure.rs`.
//!
//! ```text
//! cargo bench --bench gemm                  # HADAL_DEVICE chooses, as everywhere
//! cargo bench --bench gemm -- prefill/o
//! ```

#[path = "support/measure.rs"]
mod measure;
mod support;

use criterion::Throughput;
use hadal::gemm;
use measure::{Extent, Row};
use support::{BATCHES, LAYERS, Operands};

fn main() {
    let rows: Vec<Row> =
        BATCHES.iter().flat_map(|&m| LAYERS.iter().map(move |&layer| row(m, layer))).collect();
    measure::run("tile", &rows);
}

fn row(m: usize, (layer, n, k): (&str, usize, usize)) -> Row {
    let step = if m > 512 { "prefill" } else { "decode" };
    Row {
        name: format!("{step}/{layer}/{m}x{n}x{k}"),
        // Multiply-adds count as two.
        whole: Throughput::Elements(2 * (m * n * k) as u64),
        units: 2,
        prepare: Box::new(move |device, stream, extent| {
            let shape = gemm::Shape::new(m, n, k);
            let whole = gemm::Plan::new(device, shape, gemm::Options::new())?;
            let (shape, plan) = match extent {
                Extent::Whole => (shape, whole),
                // Two tiles of the kernel that is chosen for the whole, on one SM.
                Extent::Part => {
                    let (block_m, block_n) = whole.explain().chosen().tile;
                    let cut = gemm::Shape::new(m.min(block_m), 2 * block_n, k);
                    let options = gemm::Options::new().tile(block_m, block_n).sms(1);
                    (cut, gemm::Plan::new(device, cut, options)?)
                }
            };
            let mut operands = Operands::new(device, stream, shape)?;
            Ok(Box::new(move |stream| operands.run(&plan, stream)))
        }),
    }
}
