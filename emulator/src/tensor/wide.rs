//! Exact F16, BF16 and TF32 products: 16 (TF32: 8) terms, 25 fraction bits, in 32-bit lanes.
//!
//! A product shifted to 25 fraction bits stays below 2^27, and sixteen of them, at their largest (2047² · 2^5 each), below 2^31: the
//! sum of products fits 32 bits exactly; only the addend needs more, and joins in binary64 (`sweep`). Significands are
//! pre-shifted so that one 16 × 16-bit multiplication yields the aligned product.

use super::sweep::{Accumulator, Path, Specials, sweep};
use super::{Format, Host, Mma};

/// Columns of a strip.
pub(super) const WIDTH: usize = 8;
/// Most elements of K.
const K: usize = 16;
/// Exponent of a zero operand: with any partner below every non-zero product.
const ZERO: i32 = -500;

/// A row of A.
pub(super) struct Row {
    k: usize,
    exponents: [i32; K],
    /// Signed significand, shifted, in the lower half-word.
    significands: [i32; K],
    specials: Specials,
}

/// Eight rows of B.
#[repr(align(32))]
pub(super) struct Strip {
    exponents: [[i32; WIDTH]; K],
    significands: [[i32; WIDTH]; K],
    specials: Specials,
}

/// How far the significands of A and of B are shifted: together from 2m to 25 fraction bits, each within 15 bits.
fn shifts(format: Format) -> (u32, u32) {
    match format {
        Format::BF16 => (4, 7),
        _ => (1, 4),
    }
}

/// Exponent and shifted, signed significand as a zero-extended half-word.
fn decode(format: Format, bits: u32, shift: u32, specials: &mut Specials) -> (i32, i32) {
    let operand = format.decode(bits);
    let mut own = Specials::default();
    own.note(operand.class);
    if own != Specials::default() || operand.significand == 0 {
        specials.nan |= own.nan;
        specials.infinite |= own.infinite;
        return (ZERO, 0);
    }
    let magnitude = (operand.significand << shift) as i16;
    let signed = if operand.negative { -magnitude } else { magnitude };
    (operand.exponent, i32::from(signed as u16))
}

pub(super) fn run<A: Accumulator>(mma: &Mma<'_>, host: Host, acc: &mut [A]) {
    let (a_shift, b_shift) = shifts(mma.a_format);
    let rows: Vec<Row> = (0..mma.m)
        .map(|i| {
            let mut row =
                Row { k: mma.k(), exponents: [ZERO; K], significands: [0; K], specials: Specials::default() };
            for (k, bits) in mma.a_row(i).enumerate() {
                (row.exponents[k], row.significands[k]) =
                    decode(mma.a_format, bits, a_shift, &mut row.specials);
            }
            row
        })
        .collect();
    let strips: Vec<Strip> = (0..mma.n)
        .step_by(WIDTH)
        .map(|first| {
            let mut strip = Strip {
                exponents: [[ZERO; WIDTH]; K],
                significands: [[0; WIDTH]; K],
                specials: Specials::default(),
            };
            for column in 0..WIDTH.min(mma.n - first) {
                for (k, bits) in mma.b_row(first + column).enumerate() {
                    (strip.exponents[k][column], strip.significands[k][column]) =
                        decode(mma.b_format, bits, b_shift, &mut strip.specials);
                }
            }
            strip
        })
        .collect();
    match host {
        Host::Portable => sweep(mma, &Lanes, &rows, &strips, acc),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this host was chosen because it has AVX2.
        Host::Avx2 => unsafe { avx2(mma, &rows, &strips, acc) },
    }
}

/// The same source, compiled for AVX2: its loops vectorise as they stand.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<A: Accumulator>(mma: &Mma<'_>, rows: &[Row], strips: &[Strip], acc: &mut [A]) {
    sweep(mma, &Lanes, rows, strips, acc);
}

struct Lanes;

impl Path<WIDTH> for Lanes {
    const FRACTION: u32 = 25;
    const LOWEST: i32 = -252;
    const REACH: i32 = i16::MAX as i32;
    type Row = Row;
    type Strip = Strip;

    #[inline(always)]
    fn largest(&self, row: &Row, strip: &Strip) -> [i32; WIDTH] {
        let mut largest = [2 * ZERO; WIDTH];
        for k in 0..row.k {
            for (largest, b) in largest.iter_mut().zip(&strip.exponents[k]) {
                *largest = (*largest).max(row.exponents[k] + b);
            }
        }
        largest
    }

    #[inline(always)]
    fn sum(&self, row: &Row, strip: &Strip, to: &[i32; WIDTH]) -> [i32; WIDTH] {
        let mut sum = [0; WIDTH];
        for k in 0..row.k {
            let a = i32::from(row.significands[k] as i16);
            for c in 0..WIDTH {
                let product = a * i32::from(strip.significands[k][c] as i16);
                // Zero terms may lie above `to`; any shift leaves them zero.
                let down = (to[c] - row.exponents[k] - strip.exponents[k][c]) as u32;
                let term = (product.unsigned_abs() >> down.min(31)) as i32;
                sum[c] += if product < 0 { -term } else { term };
            }
        }
        sum
    }

    #[inline(always)]
    fn row_specials(row: &Row) -> Specials {
        row.specials
    }

    #[inline(always)]
    fn strip_specials(strip: &Strip) -> Specials {
        strip.specials
    }
}
