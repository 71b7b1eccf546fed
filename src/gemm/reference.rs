//! What the FP8 GEMM computes, written plainly: every rounding of the kernel, one output at a time.
//!
//! The tensor core of Hopper does not add FP8 products in FP32. One `wgmma` takes 32 products and the running sum,
//! aligns all 33 to the largest exponent among them, keeps 13 fraction bits of each (truncating the magnitudes), adds
//! exactly, and truncates the result to 13 fraction bits again. Products are not renormalised before alignment and a
//! zero never sets the largest exponent. This is the model of MMA-Sim (arXiv 2511.10909) and Hawkeye (arXiv 2603.20421),
//! and it reproduces recorded H100 and H200 results bit for bit (Khattak and Mikaitis, arXiv 2512.07004).
//!
//! The kernel lets the tensor core run over 128 elements of K from zero (four `wgmma`s), then promotes in FP32:
//! `acc = fma(part, a_scale · b_scale, acc)` with the product of scales rounded once and the blocks of K in order. The
//! result is stored as FP32 or rounded to BF16, ties to even. NaNs are those of the chip: 0x7fffffff in FP32, 0x7fff in
//! BF16. Elements past the end of K are zeros.
//!
//! This is an oracle: it shares no code with the emulator or the kernels, and it is slow.

use crate::dtype::{E4M3, bf16};
use crate::error::{Error, Result, expect_rows};

/// Elements of K under one scale.
const GROUP: usize = 128;
/// Products of one `wgmma`.
const DOT: usize = 32;
/// Fraction bits kept when terms are aligned, and in the sum.
const FRACTION: i32 = 13;
/// The NaN that FP32 instructions produce.
const NAN: u32 = 0x7fff_ffff;

/// One GEMM on the host: `D[M,N] = (A · A's scales) · (weight · its scales)ᵀ`, all matrices row-major without gaps.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: &'a [E4M3],
    a_scales: &'a [f32],
    weight: &'a [E4M3],
    weight_scale_inv: &'a [f32],
}

impl<'a> Problem<'a> {
    /// `a` is `[M, K]`, `a_scales` `[M, ⌈K/128⌉]`, `weight` `[N, K]`, `weight_scale_inv` `[⌈N/128⌉, ⌈K/128⌉]`.
    pub fn new(
        [m, n, k]: [usize; 3],
        a: &'a [E4M3],
        a_scales: &'a [f32],
        weight: &'a [E4M3],
        weight_scale_inv: &'a [f32],
    ) -> Result<Problem<'a>> {
        let groups = k.div_ceil(GROUP);
        if k == 0 {
            return Err(Error::shape("shape", "K at least 1", 0));
        }
        for (argument, rows, cols, got) in [
            ("a", m, k, a.len()),
            ("a_scales", m, groups, a_scales.len()),
            ("weight", n, k, weight.len()),
            ("weight_scale_inv", n.div_ceil(GROUP), groups, weight_scale_inv.len()),
        ] {
            expect_rows(argument, got, rows, cols)?;
        }
        Ok(Problem { m, n, k, a, a_scales, weight, weight_scale_inv })
    }

    /// The kernel's result before it is stored, bit for bit, row-major.
    pub fn results(&self) -> Vec<f32> {
        let codes = codes();
        let decode = |row: &[E4M3]| -> Vec<Code> { row.iter().map(|x| codes[x.0 as usize]).collect() };
        let a: Vec<Vec<Code>> = self.a.chunks(self.k).map(decode).collect();
        let weight: Vec<Vec<Code>> = self.weight.chunks(self.k).map(decode).collect();
        let groups = self.k.div_ceil(GROUP);
        let mut out = Vec::with_capacity(self.m * self.n);
        for (row, a) in a.iter().enumerate() {
            for (col, b) in weight.iter().enumerate() {
                let mut acc = 0f32;
                for (group, (a, b)) in a.chunks(GROUP).zip(b.chunks(GROUP)).enumerate() {
                    let part = a.chunks(DOT).zip(b.chunks(DOT)).fold(0f32, |sum, (a, b)| dot(a, b, sum));
                    let a_scale = self.a_scales[row * groups + group];
                    let b_scale = self.weight_scale_inv[col / GROUP * groups + group];
                    acc = canonical(part.mul_add(canonical(a_scale * b_scale), acc));
                }
                out.push(acc);
            }
        }
        out
    }

    /// The result stored as BF16, bit for bit, row-major.
    pub fn results_bf16(&self) -> Vec<bf16> {
        self.results().into_iter().map(round_bf16).collect()
    }

    /// The product of the quantised values in F64: what the arithmetic above approximates.
    pub fn exact(&self) -> Vec<f64> {
        let groups = self.k.div_ceil(GROUP);
        let scaled = |values: &[E4M3], scales: &dyn Fn(usize, usize) -> f32| -> Vec<f64> {
            let value =
                |(i, x): (usize, &E4M3)| x.to_f32() as f64 * scales(i / self.k, i % self.k / GROUP) as f64;
            values.iter().enumerate().map(value).collect()
        };
        let a = scaled(self.a, &|row, group| self.a_scales[row * groups + group]);
        let b = scaled(self.weight, &|row, group| self.weight_scale_inv[row / GROUP * groups + group]);
        product([self.m, self.n, self.k], &a, &b)
    }
}

/// `A · Bᵀ` in F64, for `a` `[M, K]` and `b` `[N, K]`; missing elements count as absent terms.
pub fn product([m, n, k]: [usize; 3], a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut out = Vec::new();
    for a in a.chunks(k.max(1)).take(m) {
        for b in b.chunks(k.max(1)).take(n) {
            // Eight sums at a time: rounding in F64 is far below anything measured, and this keeps pace with memory.
            let mut sums = [0f64; 8];
            for (a, b) in a.chunks(8).zip(b.chunks(8)) {
                for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                    *sum += a * b;
                }
            }
            out.push(sums.iter().sum());
        }
    }
    out
}

/// DeepGEMM's measure of error, `1 − 2·Σxy / Σ(x² + y²)`: 0 for equal matrices. It averages over the whole matrix and
/// forgives a wrong column, so it stands beside comparisons of every element and never in their place.
pub fn calc_diff(x: impl IntoIterator<Item = f64>, y: impl IntoIterator<Item = f64>) -> f64 {
    let (mut xy, mut squares) = (0f64, 0f64);
    for (x, y) in x.into_iter().zip(y) {
        xy += x * y;
        squares += x * x + y * y;
    }
    if squares == 0.0 { 0.0 } else { 1.0 - 2.0 * xy / squares }
}

/// Rounds to BF16, ties to even; every NaN becomes 0x7fff, as `cvt.rn.bf16.f32` has it.
pub fn round_bf16(value: f32) -> bf16 {
    if value.is_nan() {
        return bf16::from_bits(0x7fff);
    }
    let bits = value.to_bits();
    bf16::from_bits(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
}

fn canonical(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(NAN) } else { value }
}

/// An E4M3 number taken apart: value = significand · 2^(exponent − 3).
#[derive(Clone, Copy, Default)]
struct Code {
    significand: i64,
    exponent: i32,
    nan: bool,
}

fn codes() -> [Code; 256] {
    std::array::from_fn(|bits| {
        let (field, mantissa) = (bits as i32 >> 3 & 15, bits as i64 & 7);
        let magnitude = if field == 0 { mantissa } else { mantissa | 8 };
        Code {
            significand: if bits & 0x80 == 0 { magnitude } else { -magnitude },
            exponent: field.max(1) - 7,
            nan: bits & 0x7f == 0x7f,
        }
    })
}

/// One `wgmma` for one output: up to 32 products and the running sum.
fn dot(a: &[Code], b: &[Code], sum: f32) -> f32 {
    if sum.is_nan() || a.iter().chain(b).any(|x| x.nan) {
        return f32::from_bits(NAN);
    }
    // (significand, exponent of its last bit): exact.
    let mut terms = [(0i64, 0i32); DOT + 1];
    let mut largest = None;
    let mut add = |at: usize, significand: i64, exponent: i32, fraction_bits: i32| {
        terms[at] = (significand, exponent - fraction_bits);
        if significand != 0 {
            largest = Some(largest.map_or(exponent, |e: i32| e.max(exponent)));
        }
    };
    for (at, (a, b)) in a.iter().zip(b).enumerate() {
        add(at, a.significand * b.significand, a.exponent + b.exponent, 6);
    }
    let bits = sum.to_bits();
    let field = (bits >> 23 & 255) as i32;
    let magnitude = (bits & 0x7f_ffff) as i64 | if field == 0 { 0 } else { 1 << 23 };
    add(DOT, if sum < 0.0 { -magnitude } else { magnitude }, field.max(1) - 127, 23);

    let Some(largest) = largest else { return 0.0 };
    // Every term in units of 2^(largest − 13), its magnitude truncated.
    let unit = largest - FRACTION;
    let total: i64 = terms.iter().map(|&(significand, last)| scale(significand, last - unit)).sum();
    if total == 0 {
        return 0.0;
    }
    let surplus = (63 - total.unsigned_abs().leading_zeros() as i32 - FRACTION).max(0);
    let kept = scale(total, -surplus);
    // At most 14 bits, and FP8 products keep the exponent far inside FP32: exact.
    (kept as f64 * 2f64.powi(unit + surplus)) as f32
}

/// `value · 2^power`, the magnitude truncated.
fn scale(value: i64, power: i32) -> i64 {
    let magnitude = value.abs();
    let scaled =
        if power >= 0 { magnitude << power } else { magnitude.checked_shr(-power as u32).unwrap_or(0) };
    if value < 0 { -scaled } else { scaled }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot_of(a: &[f32], b: &[f32], sum: f32) -> f32 {
        let codes = codes();
        let code = |x: &f32| {
            let value = E4M3::from_f32(*x);
            assert_eq!(value.to_f32(), *x, "test input is not an E4M3 number");
            codes[value.0 as usize]
        };
        let (a, b): (Vec<_>, Vec<_>) = (a.iter().map(code).collect(), b.iter().map(code).collect());
        dot(&a, &b, sum)
    }

    #[test]
    fn the_model_loses_what_the_chip_loses() {
        assert_eq!(dot_of(&[2.0, -3.0], &[4.0, 0.5], 1.0), 7.5);
        // A sum of 4096 stops growing under products below half.
        assert_eq!(dot_of(&[1.0], &[0.5], 4096.0), 4096.5);
        assert_eq!(dot_of(&[1.0], &[0.4375], 4096.0), 4096.0);
        assert_eq!(dot_of(&[-1.0], &[0.4375], 4096.0), 4096.0);
        // 1.875 · 1.875 keeps exponent 0: a term 2^-13 below it still counts, though the value exceeds 2.
        assert_eq!(dot_of(&[1.875, 0.015625], &[1.875, 0.0078125], 0.0), 3.515625);
        assert_eq!(dot_of(&[1.0, 0.015625], &[1.0, 0.0078125], 0.0), 1.0 + 1.0 / 8192.0);
        // Cancellation gives +0, and zeros do not set the largest exponent.
        assert_eq!(dot_of(&[1.0, -1.0], &[1.0, 1.0], 0.0).to_bits(), 0);
        assert_eq!(dot_of(&[0.0, 0.001953125], &[448.0, 0.001953125], 0.0), 2f32.powi(-18));
    }

    /// The recordings the emulator answers to as well (`emulator/tests/data/h100/README.md`): 5000 times 32 pairs and
    /// what an H100 made of them. An addend stands beside them that was not applied.
    #[test]
    fn the_model_is_the_chip() {
        let recorded = include_bytes!("../../emulator/tests/data/h100/e4m3.bin");
        let codes = codes();
        let mut count = 0;
        for record in recorded.chunks_exact(2 * DOT + 8) {
            let code = |byte: &u8| codes[*byte as usize];
            let a: Vec<Code> = record[..DOT].iter().map(code).collect();
            let b: Vec<Code> = record[DOT..2 * DOT].iter().map(code).collect();
            let want = &record[2 * DOT + 4..];
            assert_eq!(dot(&a, &b, 0.0).to_bits().to_le_bytes(), want, "record {count}");
            count += 1;
        }
        assert_eq!(count, 5000);
    }

    #[test]
    fn truncation_is_one_sided() {
        let (a, b) = ([1.125; 32], [1.0; 32]);
        assert_eq!(dot_of(&a, &b, 0.0), 36.0);
        // Under a sum of 8192 each product keeps its integer part alone: 32 and not 36.
        assert_eq!(dot_of(&a, &b, 8192.0), 8224.0);
        assert_eq!(dot_of(&a, &b.map(|b: f32| -b), -8192.0), -8224.0);
        // And the result keeps 13 fraction bits: 16384 + 36 loses its low bits.
        assert_eq!(dot_of(&a, &b, 16384.0), 16384.0);
        assert_eq!(dot_of(&[1.5; 32], &[1.0; 32], 4096.0).to_bits() & 0x3ff, 0);
    }

    #[test]
    fn a_scale_that_is_nan_is_data() {
        let one = [E4M3(0x38); 32];
        let problem = Problem::new([2, 1, 16], &one, &[f32::NAN, 2.0], &one[..16], &[1.0]).unwrap();
        assert_eq!(problem.results()[0].to_bits(), NAN);
        assert_eq!(problem.results()[1], 32.0);
        assert_eq!(problem.results_bf16()[0].to_bits(), 0x7fff);
        assert_eq!(problem.exact()[1], 32.0);
    }

    #[test]
    fn bf16_rounds_to_even() {
        for bits in
            [0x3f80_8000u32, 0x3f81_8000, 0x3f80_7fff, 0x3f80_8001, 0x7f7f_ffff, 0x8000_8000, 0x0000_8001]
        {
            let value = f32::from_bits(bits);
            assert_eq!(round_bf16(value), bf16::from_f32(value), "{bits:#x}");
        }
    }

    #[test]
    fn calc_diff_is_zero_for_equal_and_two_for_opposite() {
        assert_eq!(calc_diff([1.0, 2.0], [1.0, 2.0]), 0.0);
        assert_eq!(calc_diff([1.0, 2.0], [-1.0, -2.0]), 2.0);
        assert_eq!(calc_diff([0.0], [0.0]), 0.0);
    }
}
