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

/// Exponent and significand of an element; a special one counts as zero and is noted.
#[inline(always)]
fn decode<const E4M3: bool>(bits: u8, specials: &mut Specials) -> (i8, u8) {
    let magnitude = bits & 0x7f;
    let (biased, fraction, hidden, bias) =
        if E4M3 { (magnitude >> 3, magnitude & 7, 8, 7) } else { (magnitude >> 2, magnitude & 3, 4, 15) };
    let infinite = !E4M3 & (magnitude == 0x7c);
    let nan = if E4M3 { magnitude == 0x7f } else { magnitude > 0x7c };
    specials.nan |= nan;
    specials.infinite |= infinite;
    let significand = if biased == 0 { fraction } else { fraction | hidden };
    if magnitude == 0 || infinite || nan { (ZERO, 0) } else { (biased.max(1) as i8 - bias, significand) }
}

impl Row {
    #[inline(always)]
    fn new<const E4M3: bool>(elements: &[u8], flip: u8) -> Row {
        let mut row = Row {
            exponents: [0; PAIRS],
            magnitudes: [0; PAIRS],
            signs: [0; PAIRS],
            specials: Specials::default(),
        };
        for (p, two) in elements.chunks_exact(2).enumerate() {
            let (x, y) = (two[0] ^ flip, two[1] ^ flip);
            let (x_exponent, x_significand) = decode::<E4M3>(x, &mut row.specials);
            let (y_exponent, y_significand) = decode::<E4M3>(y, &mut row.specials);
            let signed =
                |bits: u8, s: u8| (if bits & 0x80 != 0 { -i16::from(s) } else { i16::from(s) }) as u16;
            row.exponents[p] = u32::from(u16::from_le_bytes([x_exponent as u8, y_exponent as u8])) * 0x1_0001;
            row.magnitudes[p] = u32::from(x_significand) | u32::from(y_significand) << 16;
            row.signs[p] = u32::from(signed(x, x_significand)) | u32::from(signed(y, y_significand)) << 16;
        }
        row
    }
}

impl Strip {
    #[inline(always)]
    fn new<const E4M3: bool>(rows: &[u8], flip: u8, shift: u32) -> Strip {
        // Columns beyond the last are zero. Element (k, column) goes to pair k / 2, place 2 * column + k % 2.
        let mut bits = [[0_u8; 2 * WIDTH]; PAIRS];
        for (column, row) in rows.chunks_exact(K_BYTES).enumerate() {
            for (p, two) in row.chunks_exact(2).enumerate() {
                bits[p][2 * column] = two[0] ^ flip;
                bits[p][2 * column + 1] = two[1] ^ flip;
            }
        }
        let mut strip = Strip {
            exponents: [[ZERO; 2 * WIDTH]; PAIRS],
            magnitudes: [[0; 2 * WIDTH]; PAIRS],
            signs: [[1; 2 * WIDTH]; PAIRS],
            specials: Specials::default(),
        };
        for (p, bits) in bits.iter().enumerate() {
            let mut exponents = [0; 2 * WIDTH];
            for (j, &bits) in bits.iter().enumerate() {
                let (exponent, significand) = decode::<E4M3>(bits, &mut strip.specials);
                exponents[j] = exponent;
                strip.magnitudes[p][j] = u16::from(significand) << shift;
                strip.signs[p][j] = 1 - i16::from(bits >> 7) * 2;
            }
            for column in (0..WIDTH).step_by(4) {
                let to = 2 * place(column);
                strip.exponents[p][to..to + 8].copy_from_slice(&exponents[2 * column..2 * column + 8]);
            }
        }
        strip
    }
}

pub(super) fn run<A: Accumulator>(mma: &Mma<'_>, host: Host, acc: &mut [A]) {
    match host {
        Host::Portable => lay_and_sweep(mma, &Portable, acc),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this host was chosen because it has AVX2.
        Host::Avx2 => unsafe { avx2::run(mma, acc) },
    }
}

#[inline(always)]
fn lay_and_sweep<A: Accumulator>(
    mma: &Mma<'_>,
    path: &impl Path<WIDTH, Row = Row, Strip = Strip>,
    acc: &mut [A],
) {
    let flip = |negate: bool| if negate { 0x80 } else { 0 };
    let rows = mma.a.chunks_exact(K_BYTES);
    let rows: Vec<Row> = match mma.a_format {
        Format::E4M3 => rows.map(|row| Row::new::<true>(row, flip(mma.negate_a))).collect(),
        _ => rows.map(|row| Row::new::<false>(row, flip(mma.negate_a))).collect(),
    };
    // Products come out with one bit more than 13 fraction bits, so that every right shift is at least one.
    let shift = 14 - mma.a_format.fraction_bits() - mma.b_format.fraction_bits();
    let strips = mma.b.chunks(WIDTH * K_BYTES);
    let strips: Vec<Strip> = match mma.b_format {
        Format::E4M3 => strips.map(|rows| Strip::new::<true>(rows, flip(mma.negate_b), shift)).collect(),
        _ => strips.map(|rows| Strip::new::<false>(rows, flip(mma.negate_b), shift)).collect(),
    };
    sweep(mma, path, &rows, &strips, acc);
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
mod avx2;
