//! Exact F16, BF16 and TF32 products: 16 (TF32: 8) terms, 25 fraction bits, in 32-bit lanes.
//!
//! A product shifted to 25 fraction bits stays below 2^27, and sixteen of them, at their largest (2047² · 2^5 each), below 2^31: the
//! sum of products fits 32 bits exactly; only the addend needs more, and joins in binary64 (`sweep`). Significands are
//! pre-shifted so that one 16 × 16-bit multiplication yields the aligned product.

use super::sweep::{Accumulator, Path, Specials, sweep};
use super::{Format, Host, K_BYTES, Mma};

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

/// A format's exponent and fraction bits, the unused low bits of an element, and how far the significands of A and of B are shifted:
/// together from 2m to 25 fraction bits, each within 15 bits.
trait Layout {
    const EXPONENT: u32;
    const FRACTION: u32;
    const UNUSED: u32;
    const A_SHIFT: u32;
    const B_SHIFT: u32;
}

struct F16;
impl Layout for F16 {
    const EXPONENT: u32 = 5;
    const FRACTION: u32 = 10;
    const UNUSED: u32 = 0;
    const A_SHIFT: u32 = 1;
    const B_SHIFT: u32 = 4;
}

struct Bf16;
impl Layout for Bf16 {
    const EXPONENT: u32 = 8;
    const FRACTION: u32 = 7;
    const UNUSED: u32 = 0;
    const A_SHIFT: u32 = 4;
    const B_SHIFT: u32 = 7;
}

struct Tf32;
impl Layout for Tf32 {
    const EXPONENT: u32 = 8;
    const FRACTION: u32 = 10;
    const UNUSED: u32 = 13;
    const A_SHIFT: u32 = 1;
    const B_SHIFT: u32 = 4;
}

/// Exponent and shifted, signed significand as a zero-extended half-word; a special element counts as zero and is noted.
#[inline(always)]
fn decode<L: Layout>(bits: u32, shift: u32, specials: &mut Specials) -> (i32, i32) {
    let bits = bits >> L::UNUSED;
    let top = (1 << L::EXPONENT) - 1;
    let biased = (bits >> L::FRACTION & top) as i32;
    let fraction = (bits & ((1 << L::FRACTION) - 1)) as i32;
    let special = biased == top as i32;
    specials.nan |= special & (fraction != 0);
    specials.infinite |= special & (fraction == 0);
    let significand = if biased == 0 { fraction } else { fraction | 1 << L::FRACTION };
    let negative = bits >> (L::FRACTION + L::EXPONENT) & 1 == 1;
    let signed = (if negative { -significand } else { significand }) << shift & 0xffff;
    let exponent = biased.max(1) - ((1 << (L::EXPONENT - 1)) - 1);
    if special | (significand == 0) { (ZERO, 0) } else { (exponent, signed) }
}

#[inline(always)]
fn element(bytes: &[u8], at: usize, size: usize, flip: u32) -> u32 {
    let bits = match size {
        2 => u32::from(u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]])),
        _ => u32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]]),
    };
    bits ^ flip
}

#[inline(always)]
fn lay_and_sweep<L: Layout, A: Accumulator>(
    mma: &Mma<'_>,
    path: &impl Path<WIDTH, Row = Row, Strip = Strip>,
    acc: &mut [A],
) {
    let size = if L::UNUSED == 0 { 2 } else { 4 };
    let k = K_BYTES / size;
    let flip = |negate: bool| if negate { mma.a_format.sign_bit() } else { 0 };
    let (a_flip, b_flip) = (flip(mma.negate_a), flip(mma.negate_b));
    let mut rows = Vec::with_capacity(mma.m);
    for bytes in mma.a.chunks_exact(K_BYTES) {
        let mut row = Row { k, exponents: [ZERO; K], significands: [0; K], specials: Specials::default() };
        for at in 0..k {
            let bits = element(bytes, at, size, a_flip);
            (row.exponents[at], row.significands[at]) = decode::<L>(bits, L::A_SHIFT, &mut row.specials);
        }
        rows.push(row);
    }
    let mut strips = Vec::with_capacity(mma.n.div_ceil(WIDTH));
    for columns in mma.b.chunks(WIDTH * K_BYTES) {
        let mut bits = [[0; WIDTH]; K];
        for (column, bytes) in columns.chunks_exact(K_BYTES).enumerate() {
            for (at, bits) in bits.iter_mut().enumerate().take(k) {
                bits[column] = element(bytes, at, size, b_flip);
            }
        }
        let mut strip = Strip {
            exponents: [[ZERO; WIDTH]; K],
            significands: [[0; WIDTH]; K],
            specials: Specials::default(),
        };
        for (at, bits) in bits.iter().enumerate().take(k) {
            for (column, &bits) in bits.iter().enumerate() {
                (strip.exponents[at][column], strip.significands[at][column]) =
                    decode::<L>(bits, L::B_SHIFT, &mut strip.specials);
            }
        }
        strips.push(strip);
    }
    sweep(mma, path, &rows, &strips, acc);
}

#[inline(always)]
fn any_format<A: Accumulator>(
    mma: &Mma<'_>,
    path: &impl Path<WIDTH, Row = Row, Strip = Strip>,
    acc: &mut [A],
) {
    match mma.a_format {
        Format::F16 => lay_and_sweep::<F16, A>(mma, path, acc),
        Format::BF16 => lay_and_sweep::<Bf16, A>(mma, path, acc),
        _ => lay_and_sweep::<Tf32, A>(mma, path, acc),
    }
}

pub(super) fn run<A: Accumulator>(mma: &Mma<'_>, host: Host, acc: &mut [A]) {
    match host {
        Host::Portable => any_format(mma, &Portable, acc),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this host was chosen because it has AVX2.
        Host::Avx2 => unsafe { avx2::run(mma, acc) },
    }
}

struct Portable;

impl Path<WIDTH> for Portable {
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

#[cfg(target_arch = "x86_64")]
mod avx2;
