//! Values of the instruction tests and their bits.
//!
//! A value is an integer, a float, or bits as they stand (a hexadecimal literal). Encoding is exact or an error: a table of
//! expected results that were themselves rounded would say nothing, so 0.1 has to be written as the bits that are meant.
//! Nothing here is shared with the emulator's own conversions.

/// What an expression evaluates to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// An integer.
    Int(i128),
    /// A float; NaN stands for the format's canonical NaN.
    Float(f64),
    /// A hexadecimal literal: these very bits, whatever the type.
    Bits(u128),
}

impl Value {
    /// As a float, for arithmetic.
    pub fn float(self) -> f64 {
        match self {
            Value::Int(v) => v as f64,
            Value::Float(v) => v,
            Value::Bits(v) => v as f64,
        }
    }

    /// As an integer, for arithmetic.
    pub fn int(self) -> Result<i128, String> {
        match self {
            Value::Int(v) => Ok(v),
            Value::Bits(v) => Ok(v as i128),
            Value::Float(v) if v.fract() == 0.0 && v.abs() < 1e30 => Ok(v as i128),
            Value::Float(v) => Err(format!("{v} is not an integer")),
        }
    }
}

/// How a type is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unsigned,
    Signed,
    /// Untyped bits: integers of either sign that fit.
    Bits,
    /// Exponent bits, fraction bits; `finite`: no infinities, the all-ones pattern is the NaN.
    Float {
        exponent: u32,
        fraction: u32,
        finite: bool,
        nan: u64,
    },
    Pred,
}

/// A type of the tables: PTX's name, how wide, how many elements in one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ty {
    /// `s32`, `bf16x2`, …
    pub name: &'static str,
    /// Bits of one element.
    pub bits: u32,
    /// Elements packed in one value.
    pub lanes: u32,
    kind: Kind,
}

const fn float(exponent: u32, fraction: u32, finite: bool, nan: u64) -> Kind {
    Kind::Float { exponent, fraction, finite, nan }
}

const F16: Kind = float(5, 10, false, 0x7fff);
const BF16: Kind = float(8, 7, false, 0x7fff);
const F32: Kind = float(8, 23, false, 0x7fff_ffff);
const E4M3: Kind = float(4, 3, true, 0x7f);
const E5M2: Kind = float(5, 2, false, 0x7f);

const TYPES: &[(&str, u32, u32, Kind)] = &[
    ("pred", 1, 1, Kind::Pred),
    ("u8", 8, 1, Kind::Unsigned),
    ("u16", 16, 1, Kind::Unsigned),
    ("u32", 32, 1, Kind::Unsigned),
    ("u64", 64, 1, Kind::Unsigned),
    ("s8", 8, 1, Kind::Signed),
    ("s16", 16, 1, Kind::Signed),
    ("s32", 32, 1, Kind::Signed),
    ("s64", 64, 1, Kind::Signed),
    ("b8", 8, 1, Kind::Bits),
    ("b16", 16, 1, Kind::Bits),
    ("b32", 32, 1, Kind::Bits),
    ("b64", 64, 1, Kind::Bits),
    ("b128", 128, 1, Kind::Bits),
    ("u16x2", 16, 2, Kind::Unsigned),
    ("s16x2", 16, 2, Kind::Signed),
    ("f16", 16, 1, F16),
    ("f16x2", 16, 2, F16),
    ("bf16", 16, 1, BF16),
    ("bf16x2", 16, 2, BF16),
    ("f32", 32, 1, F32),
    // A TF32 operand is an F32 of which the tensor core reads the upper 19 bits.
    ("tf32", 32, 1, F32),
    ("f64", 64, 1, float(11, 52, false, 0xfff8_0000_0000_0000)),
    ("e4m3", 8, 1, E4M3),
    ("e5m2", 8, 1, E5M2),
    ("e4m3x2", 8, 2, E4M3),
    ("e5m2x2", 8, 2, E5M2),
];

impl Ty {
    /// The type of that name.
    pub fn named(name: &str) -> Option<Ty> {
        let &(name, bits, lanes, kind) = TYPES.iter().find(|t| t.0 == name)?;
        Some(Ty { name, bits, lanes, kind })
    }

    /// Bytes in memory.
    pub fn bytes(self) -> usize {
        (self.bits * self.lanes).div_ceil(8) as usize
    }

    /// The element type of a packed type.
    pub fn element(self) -> Ty {
        Ty { lanes: 1, ..self }
    }

    /// The bits of one element.
    pub fn encode(self, value: Value) -> Result<u128, String> {
        let wrong = || format!("{value:?} is not a value of {}: give its bits in hexadecimal", self.name);
        let mask = if self.bits == 128 { u128::MAX } else { (1 << self.bits) - 1 };
        if let Value::Bits(bits) = value {
            return if bits & !mask == 0 { Ok(bits) } else { Err(wrong()) };
        }
        match self.kind {
            Kind::Float { exponent, fraction, finite, nan } => {
                encode_float(value.float(), exponent, fraction, finite, nan).map(u128::from).ok_or_else(wrong)
            }
            Kind::Unsigned | Kind::Pred => {
                let v = value.int()?;
                if v >= 0 && v as u128 <= mask { Ok(v as u128) } else { Err(wrong()) }
            }
            Kind::Signed => {
                let (v, half) = (value.int()?, 1i128 << (self.bits - 1));
                if (-half..half).contains(&v) { Ok(v as u128 & mask) } else { Err(wrong()) }
            }
            Kind::Bits => {
                let v = value.int()?;
                let fits = self.bits == 128 || v >= -(1 << (self.bits - 1)) && v <= mask as i128;
                if fits { Ok(v as u128 & mask) } else { Err(wrong()) }
            }
        }
    }

    /// The element of a stored input, for expressions that use it.
    pub fn decode(self, bits: u128) -> Value {
        match self.kind {
            Kind::Unsigned | Kind::Bits | Kind::Pred => Value::Int(bits as i128),
            Kind::Signed => {
                let half = 1i128 << (self.bits - 1);
                Value::Int((bits as i128 ^ half) - half)
            }
            Kind::Float { exponent, fraction, finite, .. } => {
                Value::Float(decode_float(bits as u64, exponent, fraction, finite))
            }
        }
    }

    /// A value in a 16-bit or wider register: narrow types extended by their sign, packed ones complete.
    pub fn extend(self, bits: u128) -> u128 {
        if self.bits == 8 && self.lanes == 1 && self.kind == Kind::Signed && bits & 0x80 != 0 {
            bits | 0xff00
        } else {
            bits
        }
    }

    /// The widest of 16, 32, 64 and 128 bits that holds it: the register to declare.
    pub fn register(self) -> &'static str {
        match self.bits * self.lanes {
            1 => ".pred",
            2..=16 => ".b16",
            17..=32 => ".b32",
            33..=64 => ".b64",
            _ => ".b128",
        }
    }
}

/// The bits of `value` if the format has it exactly.
fn encode_float(value: f64, exponent: u32, fraction: u32, finite: bool, nan: u64) -> Option<u64> {
    let sign = (value.to_bits() >> 63) << (exponent + fraction);
    let all = (1u64 << exponent) - 1;
    if value.is_nan() {
        return Some(nan);
    }
    if value.is_infinite() {
        return (!finite).then_some(sign | all << fraction);
    }
    if value == 0.0 {
        return Some(sign);
    }
    let bias = (1i64 << (exponent - 1)) - 1;
    let magnitude = value.abs();
    // Floor of the binary logarithm, by bits; F64 subnormals only matter to F64 itself.
    let log = if magnitude.to_bits() >> 52 == 0 {
        -1075 + 64 - i64::from(magnitude.to_bits().leading_zeros())
    } else {
        (magnitude.to_bits() >> 52) as i64 - 1023
    };
    let field = (log + bias).max(1);
    // The significand in units of the last place.
    let unit = field - bias - i64::from(fraction);
    let mut significand = magnitude;
    let mut shift = -unit;
    while shift != 0 {
        let step = shift.clamp(-1000, 1000);
        significand *= 2f64.powi(step as i32);
        shift -= step;
    }
    if significand.fract() != 0.0 || significand >= (1u64 << (fraction + 1)) as f64 {
        return None;
    }
    let significand = significand as u64;
    let hidden = significand >> fraction;
    let bits = (if hidden == 1 { field as u64 } else { 0 }) << fraction | significand & ((1 << fraction) - 1);
    let top = bits >> fraction;
    let fits = if finite { bits < nan } else { top < all };
    (log + bias <= all as i64 && fits).then_some(sign | bits)
}

fn decode_float(bits: u64, exponent: u32, fraction: u32, finite: bool) -> f64 {
    let all = (1u64 << exponent) - 1;
    let field = bits >> fraction & all;
    let tail = bits & ((1 << fraction) - 1);
    let sign = if bits >> (exponent + fraction) & 1 == 1 { -1.0 } else { 1.0 };
    let bias = (1i32 << (exponent - 1)) - 1;
    let last = (1u64 << fraction) - 1;
    if field == all && (!finite || tail == last) {
        return if tail == 0 { sign * f64::INFINITY } else { f64::NAN };
    }
    let (significand, field) = if field == 0 { (tail, 1) } else { (tail | 1 << fraction, field as i32) };
    let unit = field - bias - fraction as i32;
    // Two steps, so that neither factor leaves the range.
    sign * significand as f64 * 2f64.powi(unit / 2) * 2f64.powi(unit - unit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_encode_exactly_or_not_at_all() {
        let bits = |ty: &str, v: f64| Ty::named(ty).unwrap().encode(Value::Float(v)).ok();
        for v in [0.0, -0.0, 1.0, -1.5, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::INFINITY] {
            assert_eq!(bits("f64", v), Some(u128::from(v.to_bits())), "{v}");
        }
        for v in [1.0f32, -0.375, f32::MIN_POSITIVE, f32::from_bits(1), f32::MAX, f32::NEG_INFINITY] {
            assert_eq!(bits("f32", v.into()), Some(u128::from(v.to_bits())), "{v}");
        }
        assert_eq!(bits("f32", 0.1), None);
        assert_eq!(bits("f16", 65504.0), Some(0x7bff));
        assert_eq!(bits("f16", 65536.0), None);
        assert_eq!(bits("bf16", -2.0), Some(0xc000));
        assert_eq!(bits("e4m3", 448.0), Some(0x7e));
        assert_eq!(bits("e4m3", 480.0), None);
        assert_eq!(bits("e5m2", 57344.0), Some(0x7b));
        assert_eq!(bits("e4m3", 0.001953125), Some(1));
    }

    #[test]
    fn decoding_undoes_encoding() {
        for name in ["f16", "bf16", "e4m3", "e5m2"] {
            let ty = Ty::named(name).unwrap();
            for bits in 0..1u128 << ty.bits {
                let Value::Float(v) = ty.decode(bits) else { panic!() };
                if !v.is_nan() {
                    assert_eq!(ty.encode(Value::Float(v)), Ok(bits), "{name} {bits:#x}");
                }
            }
        }
    }
}
