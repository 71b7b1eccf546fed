//! Exact FP8 products: 32 terms, 13 fraction bits, in 8- and 16-bit lanes.
//!
//! Everything the model asks for fits small integers. An exponent of a product lies in −28…30 (E5M2; E4M3 −12…16), so the search for
//! the largest runs on bytes. A product of significands has at most 8 bits, and shifted to 13 fraction bits still fits 15: the
//! aligned terms are 16-bit, and shifting right by `d` is the upper half of a multiplication by 2^(16 − d). Signs enter with the
//! multiply-add that sums pairs.
//!
//! Operands are laid out once per instruction. K goes in pairs; a strip of 16 columns holds, for each pair, 32 exponents (bytes) and
//! twice 16 significands and signs (half-words), even and odd k of a column side by side. Bytes stand in the column order that
//! `unpack` of two 128-bit halves turns into ascending half-words.
//!
//! A zero has an exponent so low (−44) that with any partner it stays below every non-zero product, and within a byte when two zeros
//! meet the largest alignment.

use super::sweep::{Accumulator, Path, Specials, sweep};
use super::{Format, Host, K_BYTES, Mma};

/// Columns of a strip.
pub(super) const WIDTH: usize = 16;
/// Pairs of K.
pub(super) const PAIRS: usize = K_BYTES / 2;
/// Exponent of a zero operand.
const ZERO: i8 = -44;
/// Smallest exponent of a non-zero product (E5M2 subnormals).
const LOWEST: i32 = -28;

/// A row of A; both elements of a pair in one word, ready to be broadcast.
pub(super) struct Row {
    /// Exponents of the pair as bytes, twice.
    pub exponents: [u32; PAIRS],
    /// Significands as half-words.
    pub magnitudes: [u32; PAIRS],
    /// Signed significands as half-words: only their signs are used.
    pub signs: [u32; PAIRS],
    pub specials: Specials,
}

/// Sixteen rows of B, columns of the result.
#[repr(align(32))]
pub(super) struct Strip {
    /// Per pair: the exponents of column c at `2 * place(c)`, even k first.
    pub exponents: [[i8; 2 * WIDTH]; PAIRS],
    /// Per pair: significands shifted left as far as products fit 16 bits, column c at `2 * c`.
    pub magnitudes: [[u16; 2 * WIDTH]; PAIRS],
    /// 1 or −1, likewise.
    pub signs: [[i16; 2 * WIDTH]; PAIRS],
    pub specials: Specials,
}

/// Where the bytes of a column stand: groups of four in the order 0, 2, 1, 3.
pub(super) const fn place(column: usize) -> usize {
    match column / 4 {
        1 => column + 4,
        2 => column - 4,
        _ => column,
    }
}

/// An element as the lanes want it.
#[derive(Clone, Copy)]
struct Decoded {
    exponent: i8,
    significand: u8,
    negative: bool,
    specials: Specials,
}

/// All 256 elements of a format.
fn table(format: Format) -> [Decoded; 256] {
    std::array::from_fn(|bits| {
        let operand = format.decode(bits as u32);
        let mut specials = Specials::default();
        specials.note(operand.class);
        let significand = if specials == Specials::default() { operand.significand as u8 } else { 0 };
        Decoded {
            exponent: if significand == 0 { ZERO } else { operand.exponent as i8 },
            significand,
            negative: operand.negative,
            specials,
        }
    })
}

fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

impl Row {
    fn new(elements: impl Iterator<Item = u32>, table: &[Decoded; 256]) -> Row {
        let mut row = Row {
            exponents: [0; PAIRS],
            magnitudes: [0; PAIRS],
            signs: [0; PAIRS],
            specials: Specials::default(),
        };
        let mut decoded = elements.map(|bits| table[bits as usize]);
        for p in 0..PAIRS {
            let (Some(x), Some(y)) = (decoded.next(), decoded.next()) else { break };
            let bytes = u16::from_le_bytes([x.exponent as u8, y.exponent as u8]);
            row.exponents[p] = pair(bytes, bytes);
            row.magnitudes[p] = pair(u16::from(x.significand), u16::from(y.significand));
            let signed = |d: Decoded| {
                let s = i16::from(d.significand);
                (if d.negative { -s } else { s }) as u16
            };
            row.signs[p] = pair(signed(x), signed(y));
            for d in [x, y] {
                row.specials.nan |= d.specials.nan;
                row.specials.infinite |= d.specials.infinite;
            }
        }
        row
    }
}

impl Strip {
    fn new(mma: &Mma<'_>, first: usize, table: &[Decoded; 256], shift: u32) -> Strip {
        // Columns beyond the last are zero.
        let mut strip = Strip {
            exponents: [[ZERO; 2 * WIDTH]; PAIRS],
            magnitudes: [[0; 2 * WIDTH]; PAIRS],
            signs: [[1; 2 * WIDTH]; PAIRS],
            specials: Specials::default(),
        };
        for column in 0..WIDTH.min(mma.n - first) {
            for (k, bits) in mma.b_row(first + column).enumerate() {
                let d = table[bits as usize];
                strip.exponents[k / 2][2 * place(column) + k % 2] = d.exponent;
                strip.magnitudes[k / 2][2 * column + k % 2] = u16::from(d.significand) << shift;
                strip.signs[k / 2][2 * column + k % 2] = if d.negative { -1 } else { 1 };
                strip.specials.nan |= d.specials.nan;
                strip.specials.infinite |= d.specials.infinite;
            }
        }
        strip
    }
}

pub(super) fn run<A: Accumulator>(mma: &Mma<'_>, host: Host, acc: &mut [A]) {
    let a_table = table(mma.a_format);
    let b_table = table(mma.b_format);
    let fraction = mma.a_format.fraction_bits() + mma.b_format.fraction_bits();
    let rows: Vec<Row> = (0..mma.m).map(|i| Row::new(mma.a_row(i), &a_table)).collect();
    // Products come out with one bit more than 13 fraction bits, so that every right shift is at least one.
    let strips: Vec<Strip> =
        (0..mma.n).step_by(WIDTH).map(|first| Strip::new(mma, first, &b_table, 14 - fraction)).collect();
    match host {
        Host::Portable => sweep(mma, &Portable, &rows, &strips, acc),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this host was chosen because it has AVX2.
        Host::Avx2 => unsafe { avx2::run(mma, &rows, &strips, acc) },
    }
}

struct Portable;

impl Path<WIDTH> for Portable {
    const FRACTION: u32 = 13;
    const LOWEST: i32 = LOWEST;
    const REACH: i32 = 16;
    type Row = Row;
    type Strip = Strip;

    #[inline(always)]
    fn largest(&self, row: &Row, strip: &Strip) -> [i32; WIDTH] {
        let mut largest = [i8::MIN; 2 * WIDTH];
        for (a, b) in row.exponents.iter().zip(&strip.exponents) {
            let a = a.to_le_bytes();
            for (j, largest) in largest.iter_mut().enumerate() {
                *largest = (*largest).max(b[j] + a[j % 2] as i8);
            }
        }
        std::array::from_fn(|c| i32::from(largest[2 * place(c)].max(largest[2 * place(c) + 1])))
    }

    #[inline(always)]
    fn sum(&self, row: &Row, strip: &Strip, to: &[i32; WIDTH]) -> [i32; WIDTH] {
        let mut sum = [0; WIDTH];
        for p in 0..PAIRS {
            let exponents = row.exponents[p].to_le_bytes();
            for (odd, exponent) in exponents.into_iter().take(2).enumerate() {
                let magnitude = row.magnitudes[p] >> (16 * odd) & 0xffff;
                let sign = i32::from((row.signs[p] >> (16 * odd)) as i16).signum();
                for (c, sum) in sum.iter_mut().enumerate() {
                    let product = u32::from(strip.magnitudes[p][2 * c + odd]) * magnitude;
                    let e = i32::from(strip.exponents[p][2 * place(c) + odd] + exponent as i8);
                    // Zero terms may lie above `to`; any shift leaves them zero.
                    let term = product >> (to[c] + 1 - e).clamp(0, 31);
                    *sum += sign * i32::from(strip.signs[p][2 * c + odd]) * term as i32;
                }
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
#[path = "fp8_avx2.rs"]
mod avx2;
