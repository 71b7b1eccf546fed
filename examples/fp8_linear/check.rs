//! Whether the result is right: F64 products over every element, and the documented arithmetic bit for bit.
//!
//! `calc_diff` averages over the matrix and would forgive a wrong row, so the bits stand beside it: every quantised
//! value and scale, and whole rows of the output, equal the scalar references in `hadal::quant::reference` and
//! `hadal::gemm::reference`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hadal::gemm::reference::{Problem, product};
use hadal::quant::reference::quantize;
use hadal::{E4M3, bf16};
use indicatif::ProgressBar;

use super::device::{Computed, GROUP};

/// Rows of the weight multiplied at a time: few enough to stay in a core's cache, also widened to F64.
const BLOCK: usize = 16;
/// Rows of the output compared bit for bit.
const ROWS: usize = 16;

/// Steps [`product_f64`] makes, for the progress bar.
pub fn steps(n: usize) -> u64 {
    n.div_ceil(BLOCK) as u64
}

/// `x · weightᵀ` in F64, every element, on `threads` threads. `weight` gives a row.
pub fn product_f64<W: Iterator<Item = f64>>(
    [m, n, k]: [usize; 3],
    x: &[f64],
    weight: &(impl Fn(usize) -> W + Sync),
    threads: usize,
    bar: &ProgressBar,
) -> Vec<f64> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut parts = Vec::new();
        loop {
            let top = next.fetch_add(BLOCK, Ordering::Relaxed);
            if top >= n {
                return parts;
            }
            let rows = top..n.min(top + BLOCK);
            let block: Vec<f64> = rows.clone().flat_map(weight).collect();
            parts.push((rows.clone(), product([m, rows.len(), k], x, &block)));
            bar.inc(1);
        }
    };
    let parts: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("adding numbers does not panic")).collect()
    });
    let mut out = vec![0.0; m * n];
    for (rows, part) in parts {
        for (row, values) in part.chunks(rows.len()).enumerate() {
            out[row * n..][rows.clone()].copy_from_slice(values);
        }
    }
    out
}

impl Computed {
    /// The product of the quantised values in F64.
    pub fn product_f64(&self, shape: [usize; 3], threads: usize, bar: &ProgressBar) -> Vec<f64> {
        let k = shape[2];
        let groups = k.div_ceil(GROUP);
        let value = |q: E4M3, scale: f32| q.to_f32() as f64 * scale as f64;
        let x: Vec<f64> = (0..self.x.values.len())
            .map(|at| value(self.x.values[at], self.x.scales[at / k * groups + at % k / GROUP]))
            .collect();
        let row = |row: usize| {
            let scales = &self.weight.scales[row / GROUP * groups..];
            let values = self.weight.values[row * k..][..k].iter().enumerate();
            values.map(move |(at, &q)| value(q, scales[at / GROUP]))
        };
        product_f64(shape, &x, &row, threads, bar)
    }

    /// Compares every quantised value and scale with the reference; the error says which differs first.
    pub fn quantized_bits(&self, x: &[bf16], weight: &[f32], [m, n, k]: [usize; 3]) -> Result<(), String> {
        let x: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        for (name, got, values, rows, group_rows) in
            [("x", &self.x, &x[..], m, 1), ("weight", &self.weight, weight, n, GROUP)]
        {
            let want = quantize(values, [rows, k], group_rows, false).map_err(|e| e.to_string())?;
            if let Some(at) = (0..values.len()).find(|&at| got.values[at] != want.values[at]) {
                let (got, want) = (got.values[at], want.values[at]);
                return Err(format!(
                    "quantised {name}[{}, {}] is {got}, the reference says {want}",
                    at / k,
                    at % k
                ));
            }
            let differs = |at: &usize| got.scales[*at].to_bits() != want.scales[*at].to_bits();
            if let Some(at) = (0..want.scales.len()).find(differs) {
                let (got, want) = (got.scales[at], want.scales[at]);
                return Err(format!("scale {at} of {name} is {got:e}, the reference says {want:e}"));
            }
        }
        Ok(())
    }

    /// Compares some whole rows of the output with the reference, and says how many.
    pub fn output_bits(&self, [m, n, k]: [usize; 3]) -> Result<usize, String> {
        let groups = k.div_ceil(GROUP);
        let mut rows: Vec<usize> = (0..ROWS).map(|i| i * (m - 1) / (ROWS - 1)).collect();
        rows.dedup();
        let a: Vec<E4M3> = rows.iter().flat_map(|row| &self.x.values[row * k..][..k]).copied().collect();
        let a_scales: Vec<f32> =
            rows.iter().flat_map(|row| &self.x.scales[row * groups..][..groups]).copied().collect();
        // One row of weight scales at a time keeps the reference's working set small.
        for (block, weight) in self.weight.values.chunks(GROUP * k).enumerate() {
            let columns = weight.len() / k;
            let scales = &self.weight.scales[block * groups..][..groups];
            let problem = Problem::new([rows.len(), columns, k], &a, &a_scales, weight, scales);
            let want = problem.map_err(|e| e.to_string())?.results_bf16();
            for (at, want) in want.into_iter().enumerate() {
                let (row, col) = (rows[at / columns], block * GROUP + at % columns);
                let got = self.out[row * n + col];
                if got.to_bits() != want.to_bits() {
                    return Err(format!("out[{row}, {col}] is {got}, the reference says {want}"));
                }
            }
        }
        Ok(rows.len())
    }
}
