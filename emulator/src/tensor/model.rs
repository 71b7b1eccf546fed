//! The tensor core's fused dot product, written as plainly as it can be said: the definition the fast paths are tested against,
//! and what they fall back to for NaN and infinity.
//!
//! 1. An operand is sign, integer significand and exponent; subnormals keep the smallest exponent and are not normalised.
//! 2. A product is the exact product of significands with the sum of exponents; it is not renormalised, so 1.5 × 1.5 keeps the
//!    exponent of 1.0.
//! 3. The addend is one more term.
//! 4. The largest exponent among non-zero terms is the block's.
//! 5. Every magnitude is shifted to F fraction bits below that exponent, bits beyond cut off, then the sign applied.
//! 6. The integers are added exactly, and
//! 7. the sum is converted to the output format. An exact zero is +0.
//! 8. If the sum of exact products and addend is NaN by IEEE rules, the result is the canonical NaN; infinities pass through.
//!
//! A dot product longer than the block is a chain: the result of one block is the addend of the next.

use crate::convert::{self, Clamp, Rounding};

/// Operand formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 8-bit float, 4 exponent and 3 fraction bits, no infinity.
    E4M3,
    /// 8-bit float, 5 exponent and 2 fraction bits.
    E5M2,
    /// binary16.
    F16,
    /// bfloat16.
    BF16,
    /// The upper 19 bits of an F32 word; the rest is ignored.
    TF32,
    /// Signed 8-bit integer.
    S8,
    /// Unsigned 8-bit integer.
    U8,
    /// Single bits, eight to an element; a product of two elements counts the bits they share.
    B1,
}

impl Format {
    /// Bytes of an element in memory.
    pub const fn bytes(self) -> usize {
        match self {
            Format::E4M3 | Format::E5M2 | Format::S8 | Format::U8 | Format::B1 => 1,
            Format::F16 | Format::BF16 => 2,
            Format::TF32 => 4,
        }
    }

    /// Fraction bits; integers have none.
    pub const fn fraction_bits(self) -> u32 {
        match self {
            Format::E4M3 => 3,
            Format::E5M2 => 2,
            Format::F16 | Format::TF32 => 10,
            Format::BF16 => 7,
            Format::S8 | Format::U8 | Format::B1 => 0,
        }
    }

    const fn exponent_bits(self) -> u32 {
        match self {
            Format::E4M3 => 4,
            Format::E5M2 | Format::F16 => 5,
            Format::BF16 | Format::TF32 => 8,
            Format::S8 | Format::U8 | Format::B1 => 0,
        }
    }

    /// The sign in an element's bits; 0 for integers, which cannot be negated.
    pub const fn sign_bit(self) -> u32 {
        match self {
            Format::S8 | Format::U8 | Format::B1 => 0,
            _ => 1 << (8 * self.bytes() - 1),
        }
    }

    /// Takes an element apart. Integers are not [`Operand`]s; they come out as zero.
    pub const fn decode(self, bits: u32) -> Operand {
        let (e, f) = (self.exponent_bits(), self.fraction_bits());
        if e == 0 {
            return Operand { class: Class::Finite, negative: false, significand: 0, exponent: 0 };
        }
        let bits = if matches!(self, Format::TF32) { bits >> 13 } else { bits };
        let negative = bits >> (e + f) & 1 == 1;
        let exponent = bits >> f & ((1 << e) - 1);
        let fraction = bits & ((1 << f) - 1);
        let top = (1 << e) - 1;
        let class = if matches!(self, Format::E4M3) {
            if exponent == top && fraction == 7 { Class::Nan } else { Class::Finite }
        } else if exponent == top {
            if fraction == 0 { Class::Infinite } else { Class::Nan }
        } else {
            Class::Finite
        };
        let bias = (1 << (e - 1)) - 1;
        if exponent == 0 {
            Operand { class, negative, significand: fraction, exponent: 1 - bias }
        } else {
            Operand { class, negative, significand: fraction | 1 << f, exponent: exponent as i32 - bias }
        }
    }
}

/// What kind of value an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A number.
    Finite,
    /// An infinity.
    Infinite,
    /// Not a number.
    Nan,
}

/// An element taken apart: ±significand · 2^(exponent − fraction bits of its format).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Kind of value; the other fields describe finite values.
    pub class: Class,
    /// Sign.
    pub negative: bool,
    /// Integer significand, the hidden bit included.
    pub significand: u32,
    /// Exponent; of subnormals, the smallest one.
    pub exponent: i32,
}

/// The format of addend and result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// F32 truncated to this many fraction bits; 23 keeps all.
    F32 {
        /// Fraction bits kept.
        fraction: u32,
    },
    /// F16, rounded to nearest even.
    F16,
}

/// The parameters of a tensor core's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Products added at once.
    pub length: usize,
    /// Fraction bits kept below the largest exponent.
    pub fraction: u32,
    /// Conversion of the sum.
    pub output: Output,
}

struct Term {
    negative: bool,
    significand: u64,
    exponent: i32,
    fraction: u32,
}

impl Block {
    /// `wgmma` of sm_90 on this operand format, accumulating in F32.
    pub const fn wgmma_f32(format: Format) -> Block {
        match format {
            Format::E4M3 | Format::E5M2 | Format::S8 | Format::U8 | Format::B1 => {
                Block { length: 32, fraction: 13, output: Output::F32 { fraction: 13 } }
            }
            Format::F16 | Format::BF16 => {
                Block { length: 16, fraction: 25, output: Output::F32 { fraction: 23 } }
            }
            Format::TF32 => Block { length: 8, fraction: 25, output: Output::F32 { fraction: 23 } },
        }
    }

    /// `wgmma` of sm_90 on this operand format, accumulating in F16.
    pub const fn wgmma_f16(format: Format) -> Block {
        Block { output: Output::F16, ..Block::wgmma_f32(format) }
    }

    /// The dot product of `a` and `b` (element bits) plus `c` (bits in the output format); result bits likewise.
    pub fn dot(&self, a_format: Format, b_format: Format, a: &[u32], b: &[u32], c: u32) -> u32 {
        let mut sum = c;
        for (a, b) in a.chunks(self.length).zip(b.chunks(self.length)) {
            sum = self.one(a_format, b_format, a, b, sum);
        }
        sum
    }

    fn one(&self, a_format: Format, b_format: Format, a: &[u32], b: &[u32], c: u32) -> u32 {
        let mut terms = Vec::with_capacity(a.len() + 1);
        // Infinite terms by sign; NaN if they cancel or anything was NaN.
        let (mut plus, mut minus, mut nan) = (false, false, false);
        for (&x, &y) in a.iter().zip(b) {
            let (x, y) = (a_format.decode(x), b_format.decode(y));
            let negative = x.negative != y.negative;
            match (x.class, y.class) {
                (Class::Nan, _) | (_, Class::Nan) => nan = true,
                (Class::Finite, Class::Finite) => terms.push(Term {
                    negative,
                    significand: u64::from(x.significand) * u64::from(y.significand),
                    exponent: x.exponent + y.exponent,
                    fraction: a_format.fraction_bits() + b_format.fraction_bits(),
                }),
                (Class::Finite, Class::Infinite) if x.significand == 0 => nan = true,
                (Class::Infinite, Class::Finite) if y.significand == 0 => nan = true,
                _ if negative => minus = true,
                _ => plus = true,
            }
        }
        let value = self.addend(c);
        if value.is_nan() {
            nan = true;
        } else if value.is_infinite() {
            plus |= value > 0.0;
            minus |= value < 0.0;
        } else {
            terms.push(self.addend_term(c));
        }
        if nan || (plus && minus) {
            return self.convert(f64::NAN);
        }
        if plus || minus {
            return self.convert(if plus { f64::INFINITY } else { f64::NEG_INFINITY });
        }
        let Some(largest) = terms.iter().filter(|t| t.significand != 0).map(|t| t.exponent).max() else {
            return 0;
        };
        let mut sum = 0_i64;
        for term in &terms {
            let shift = self.fraction as i32 - term.fraction as i32 + (term.exponent - largest);
            let magnitude = if term.significand == 0 {
                0
            } else if shift >= 0 {
                (term.significand << shift) as i64
            } else {
                (term.significand >> (-shift).min(63)) as i64
            };
            sum += if term.negative { -magnitude } else { magnitude };
        }
        // |sum| < 2^40 and the exponent is above -300: both factors and the product are exact in binary64.
        self.convert(sum as f64 * 2_f64.powi(largest - self.fraction as i32))
    }

    fn addend(&self, c: u32) -> f32 {
        match self.output {
            Output::F32 { .. } => f32::from_bits(c),
            Output::F16 => convert::f16_to_f32(c as u16),
        }
    }

    /// The addend as a term, in its own format: subnormals are not normalised.
    fn addend_term(&self, c: u32) -> Term {
        let (exponent_bits, fraction) = match self.output {
            Output::F32 { .. } => (8, 23),
            Output::F16 => (5, 10),
        };
        let exponent = (c >> fraction & ((1 << exponent_bits) - 1)) as i32;
        let bits = u64::from(c & ((1 << fraction) - 1));
        let bias = (1 << (exponent_bits - 1)) - 1;
        Term {
            negative: c >> (exponent_bits + fraction) & 1 == 1,
            significand: if exponent == 0 { bits } else { bits | 1 << fraction },
            exponent: exponent.max(1) - bias,
            fraction,
        }
    }

    fn convert(&self, value: f64) -> u32 {
        match self.output {
            Output::F16 => {
                // An exact zero is +0 because no integer is -0.
                u32::from(convert::f64_to_f16(value, Rounding::Nearest, Clamp::NONE))
            }
            Output::F32 { fraction } => {
                if value.is_nan() {
                    return 0x7fff_ffff;
                }
                if value.abs() >= 2_f64.powi(128) {
                    return if value > 0.0 { 0x7f80_0000 } else { 0xff80_0000 };
                }
                convert::f64_to_f32(value, Rounding::Zero, Clamp::NONE) & (u32::MAX << (23 - fraction))
            }
        }
    }
}
