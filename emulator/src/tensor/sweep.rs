//! What the exact paths share: the walk over the result, the addend, and the conversion of sums.
//!
//! A result is computed in strips of W columns. For each strip a path finds the largest exponent among the products of every
//! element ([`Path::largest`]); the addend joins in here; the path then aligns and adds the products ([`Path::sum`]); the sum with
//! the aligned addend becomes the result here. These loops over W lanes are plain Rust: they are inlined into functions
//! compiled for the host's vector unit and vectorise there.
//!
//! NaN, infinities, and results or addends near the bottom of the F32 range leave the fast way and are done by the model.

use super::{Format, Mma, model};
use crate::convert::{self, Clamp, Rounding};
use model::Block;

/// Exponent of "no term": below every exponent that occurs, far enough from the edge of binary64 to be scaled by.
pub(super) const NONE: i32 = -600;

/// Bits of an F32 or F16 accumulator.
pub(super) trait Accumulator: Copy + Default {
    const FRACTION: u32;
    const EXPONENT: u32;
    fn bits(self) -> u32;
    fn from_bits(bits: u32) -> Self;
    fn block(format: Format) -> Block;
    const NAN: u32;
}

impl Accumulator for f32 {
    const FRACTION: u32 = 23;
    const EXPONENT: u32 = 8;
    const NAN: u32 = 0x7fff_ffff;
    #[inline(always)]
    fn bits(self) -> u32 {
        self.to_bits()
    }
    #[inline(always)]
    fn from_bits(bits: u32) -> f32 {
        f32::from_bits(bits)
    }
    fn block(format: Format) -> Block {
        Block::wgmma_f32(format)
    }
}

impl Accumulator for u16 {
    const FRACTION: u32 = 10;
    const EXPONENT: u32 = 5;
    const NAN: u32 = 0x7fff;
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self)
    }
    #[inline(always)]
    fn from_bits(bits: u32) -> u16 {
        bits as u16
    }
    fn block(format: Format) -> Block {
        Block::wgmma_f16(format)
    }
}

/// Rows of A, or columns of a strip, that hold something else than numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Specials {
    pub nan: bool,
    pub infinite: bool,
}

/// A way to compute the products of a row of A with a strip of W columns.
pub(super) trait Path<const W: usize> {
    /// F of the block.
    const FRACTION: u32;
    /// Smallest exponent of a non-zero product. Products that are zero may report any exponent below it.
    const LOWEST: i32;
    /// A product this far below the block's exponent leaves nothing: exponents to align to are capped there.
    const REACH: i32;
    type Row;
    type Strip;
    /// Largest exponent of the products of each column.
    fn largest(&self, row: &Self::Row, strip: &Self::Strip) -> [i32; W];
    /// Sum of the products of each column, aligned to the exponents given.
    fn sum(&self, row: &Self::Row, strip: &Self::Strip, to: &[i32; W]) -> [i32; W];
    fn row_specials(row: &Self::Row) -> Specials;
    fn strip_specials(strip: &Self::Strip) -> Specials;
}

/// Computes the whole result.
#[inline(always)]
pub(super) fn sweep<const W: usize, P: Path<W>, A: Accumulator>(
    mma: &Mma<'_>,
    path: &P,
    rows: &[P::Row],
    strips: &[P::Strip],
    acc: &mut [A],
) {
    let special = (1 << A::EXPONENT) - 1;
    let bias = (1 << (A::EXPONENT - 1)) - 1;
    for (s, strip) in strips.iter().enumerate() {
        let first = s * W;
        let width = W.min(mma.n - first);
        for (i, row) in rows.iter().enumerate() {
            let out = &mut acc[i * mma.n + first..][..width];
            let mut c = [0_u32; W];
            if mma.accumulate {
                for (c, out) in c.iter_mut().zip(out.iter()) {
                    *c = out.bits();
                }
            }
            let products = path.largest(row, strip);
            let mut odd = 0;
            let mut to = [0; W];
            let mut capped = [0; W];
            let mut addend = [0; W];
            for l in 0..W {
                let biased = (c[l] >> A::FRACTION & special) as i32;
                let fraction = (c[l] & ((1 << A::FRACTION) - 1)) as i32;
                let significand = if biased != 0 { fraction | 1 << A::FRACTION } else { fraction };
                let own = if significand == 0 { NONE } else { biased.max(1) - bias };
                let others = if products[l] < P::LOWEST { NONE } else { products[l] };
                to[l] = own.max(others);
                capped[l] = to[l].min(products[l] + P::REACH);
                let down = (to[l] - own).min(31) as u32;
                let aligned = if P::FRACTION >= A::FRACTION {
                    (significand << (P::FRACTION - A::FRACTION)) >> down
                } else {
                    significand >> (A::FRACTION - P::FRACTION) >> down
                };
                addend[l] = if (c[l] >> (A::FRACTION + A::EXPONENT)) & 1 == 1 { -aligned } else { aligned };
                odd |= i32::from(biased == special as i32);
                // An addend alone near the bottom of the range: its result may be subnormal.
                odd |= i32::from(to[l] < -100) & i32::from(to[l] != NONE);
            }
            let sum = path.sum(row, strip, &capped);
            let mut result = [0; W];
            finish::<W, P, A>(&sum, &addend, &to, &mut result);
            let (x, y) = (P::row_specials(row), P::strip_specials(strip));
            if odd != 0 || x != Specials::default() || y != Specials::default() {
                by_model::<W, A>(mma, i, first, width, &c, x.nan, &mut result);
            }
            for (out, bits) in out.iter_mut().zip(result) {
                *out = A::from_bits(bits);
            }
        }
    }
}

/// Sum and addend, in units of 2^(to − F), to result bits.
#[inline(always)]
fn finish<const W: usize, P: Path<W>, A: Accumulator>(
    sum: &[i32; W],
    addend: &[i32; W],
    to: &[i32; W],
    result: &mut [u32; W],
) {
    if A::FRACTION == 10 {
        for l in 0..W {
            // Below 2^33: exact in binary64, as is the scaling.
            let value = f64::from(sum[l]) + f64::from(addend[l]);
            let scaled = value * power_of_two(to[l] - P::FRACTION as i32);
            result[l] = u32::from(convert::f64_to_f16(scaled, Rounding::Nearest, Clamp::NONE));
        }
    } else if P::FRACTION == 13 {
        for l in 0..W {
            // Below 2^24: exact in binary32; then the lower ten fraction bits are cut.
            let total = sum[l] + addend[l];
            let cut = f32::from_bits((total.abs() as f32).to_bits() & !0x3ff);
            let scale = f32::from_bits(((to[l].max(-100) - 13 + 127) as u32) << 23);
            result[l] = (cut * scale).to_bits() | (total as u32 & 1 << 31);
        }
    } else {
        for l in 0..W {
            let value = f64::from(sum[l]) + f64::from(addend[l]);
            let scaled = value * power_of_two(to[l] - P::FRACTION as i32);
            // Cut to 23 fraction bits; the conversion is then exact, except to infinity.
            result[l] = (f64::from_bits(scaled.to_bits() & !0x1fff_ffff) as f32).to_bits();
        }
    }
}

#[inline(always)]
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The strip again, element by element.
#[cold]
fn by_model<const W: usize, A: Accumulator>(
    mma: &Mma<'_>,
    i: usize,
    first: usize,
    width: usize,
    c: &[u32; W],
    nan: bool,
    result: &mut [u32; W],
) {
    let block = A::block(mma.a_format);
    for l in 0..width {
        result[l] = if nan { A::NAN } else { mma.by_model(block, i, first + l, A::from_bits(c[l])).bits() };
    }
}
