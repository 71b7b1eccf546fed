//! Number formats: exact conversions between F32/F64 and the narrow formats of the tensor cores.
//!
//! Narrowing goes through one integer routine (`narrow`): take the binary64 apart, align its significand to the target's
//! grid, round the discarded bits by the chosen rule, and put the result together; no floating-point operation takes part,
//! so the host's rounding mode and flush settings do not matter. Every format narrower than binary64 converts *to* binary64
//! exactly, which makes one routine enough and spares double rounding.
//!
//! Semantics are those of `cvt` in the PTX ISA: NaN becomes the target's canonical NaN; `satfinite` clamps to the largest
//! finite value; `relu` turns negative results into +0.
//!
//! | format | exponent bits | fraction bits | bias | infinity | canonical NaN |
//! | --- | --- | --- | --- | --- | --- |
//! | E4M3 | 4 | 3 | 7 | none | 0x7f |
//! | E5M2 | 5 | 2 | 15 | 0x7c | 0x7f |
//! | F16 | 5 | 10 | 15 | 0x7c00 | 0x7fff |
//! | BF16 | 8 | 7 | 127 | 0x7f80 | 0x7fff |
//! | TF32 (in 32 bits, low 13 zero) | 8 | 10 | 127 | 0x7f800000 | 0x7fffffff |

/// Rounding rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even (`.rn`).
    Nearest,
    /// To nearest, ties away from zero (`.rna`).
    NearestAway,
    /// Toward zero (`.rz`).
    Zero,
    /// Toward negative infinity (`.rm`).
    Down,
    /// Toward positive infinity (`.rp`).
    Up,
}

/// What happens beside rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Clamp {
    /// Values beyond the largest finite one, infinities included, become the largest finite one.
    pub satfinite: bool,
    /// Negative values become +0.
    pub relu: bool,
}

impl Clamp {
    /// Neither.
    pub const NONE: Clamp = Clamp { satfinite: false, relu: false };
    /// `.satfinite`.
    pub const SATFINITE: Clamp = Clamp { satfinite: true, relu: false };
}

/// A binary floating-point format of sign, `exponent` bits and `fraction` bits, the sign on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    exponent: u32,
    fraction: u32,
    bias: i32,
    /// Magnitude of the largest finite value.
    max: u64,
    /// Magnitude of infinity; `None` where the format has none (overflow then gives NaN).
    infinity: Option<u64>,
    nan: u64,
}

const E4M3: Layout = Layout { exponent: 4, fraction: 3, bias: 7, max: 0x7e, infinity: None, nan: 0x7f };
const E5M2: Layout =
    Layout { exponent: 5, fraction: 2, bias: 15, max: 0x7b, infinity: Some(0x7c), nan: 0x7f };
const F16: Layout =
    Layout { exponent: 5, fraction: 10, bias: 15, max: 0x7bff, infinity: Some(0x7c00), nan: 0x7fff };
const BF16: Layout =
    Layout { exponent: 8, fraction: 7, bias: 127, max: 0x7f7f, infinity: Some(0x7f80), nan: 0x7fff };
/// TF32 without its 13 trailing zero bits.
const TF32: Layout =
    Layout { exponent: 8, fraction: 10, bias: 127, max: 0x3fbff, infinity: Some(0x3fc00), nan: 0x3ffff };
const F32: Layout = Layout {
    exponent: 8,
    fraction: 23,
    bias: 127,
    max: 0x7f7f_ffff,
    infinity: Some(0x7f80_0000),
    nan: 0x7fff_ffff,
};

/// Shifts `significand` right by `shift` and rounds what falls off.
fn shift_round(significand: u64, shift: u32, negative: bool, rounding: Rounding) -> u64 {
    if shift == 0 {
        return significand;
    }
    if shift > 63 {
        // All of it falls off, and it is below half a unit.
        let away = match rounding {
            Rounding::Up => !negative,
            Rounding::Down => negative,
            _ => false,
        };
        return u64::from(away && significand != 0);
    }
    let kept = significand >> shift;
    let rest = significand & ((1 << shift) - 1);
    let half = 1_u64 << (shift - 1);
    let away = match rounding {
        Rounding::Nearest => rest > half || (rest == half && kept & 1 == 1),
        Rounding::NearestAway => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    kept + u64::from(away)
}

fn narrow(bits: u64, to: Layout, rounding: Rounding, clamp: Clamp) -> u64 {
    let negative = bits >> 63 == 1;
    let exponent = (bits >> 52) as i32 & 0x7ff;
    let fraction = bits & ((1 << 52) - 1);
    if exponent == 0x7ff && fraction != 0 {
        return to.nan;
    }
    if clamp.relu && negative {
        return 0;
    }
    let sign = u64::from(negative) << (to.exponent + to.fraction);
    let overflow = |toward_zero: bool| match to.infinity {
        _ if clamp.satfinite || toward_zero => sign | to.max,
        Some(infinity) => sign | infinity,
        None => to.nan,
    };
    if exponent == 0x7ff {
        return overflow(false);
    }
    if exponent == 0 && fraction == 0 {
        return sign;
    }
    let (significand, exponent) =
        if exponent == 0 { (fraction, -1022) } else { (fraction | 1 << 52, exponent - 1023) };
    // Bits to drop: down to the target's fraction, and further below its smallest normal exponent.
    let below_normal = (1 - to.bias - exponent).max(0) as u32;
    let kept = shift_round(significand, 52 - to.fraction + below_normal, negative, rounding);
    // With the hidden bit as part of the sum, a carry out of the fraction raises the exponent by itself.
    let magnitude =
        if below_normal > 0 { kept } else { (((exponent + to.bias - 1) as u64) << to.fraction) + kept };
    if magnitude > to.max {
        let toward_zero = match rounding {
            Rounding::Zero => true,
            Rounding::Down => !negative,
            Rounding::Up => negative,
            Rounding::Nearest | Rounding::NearestAway => false,
        };
        return overflow(toward_zero);
    }
    sign | magnitude
}

fn widen(bits: u64, from: Layout) -> f64 {
    let magnitude = bits & ((1 << (from.exponent + from.fraction)) - 1);
    let negative = bits >> (from.exponent + from.fraction) & 1 == 1;
    let exponent = (magnitude >> from.fraction) as i32;
    let fraction = magnitude & ((1 << from.fraction) - 1);
    let value = match from.infinity {
        Some(infinity) if magnitude == infinity => f64::INFINITY,
        _ if magnitude > from.max => f64::NAN,
        // Below 2^53 and scaled by a power of two in range: both steps are exact.
        _ if exponent == 0 => fraction as f64 * power_of_two(1 - from.bias - from.fraction as i32),
        _ => {
            (fraction | 1 << from.fraction) as f64 * power_of_two(exponent - from.bias - from.fraction as i32)
        }
    };
    if negative { -value } else { value }
}

/// 2^exponent for exponents of normal binary64 numbers.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// F32 → E4M3. `cvt` has only `.rn.satfinite` for it; other choices are here for completeness.
pub fn f32_to_e4m3(x: f32, rounding: Rounding, clamp: Clamp) -> u8 {
    narrow(f64::from(x).to_bits(), E4M3, rounding, clamp) as u8
}

/// F32 → E5M2.
pub fn f32_to_e5m2(x: f32, rounding: Rounding, clamp: Clamp) -> u8 {
    narrow(f64::from(x).to_bits(), E5M2, rounding, clamp) as u8
}

/// F32 → F16.
pub fn f32_to_f16(x: f32, rounding: Rounding, clamp: Clamp) -> u16 {
    f64_to_f16(f64::from(x), rounding, clamp)
}

/// F32 → BF16.
pub fn f32_to_bf16(x: f32, rounding: Rounding, clamp: Clamp) -> u16 {
    f64_to_bf16(f64::from(x), rounding, clamp)
}

/// F32 → TF32, as the 32-bit pattern with 13 trailing zeros (canonical NaN: 0x7fffffff).
pub fn f32_to_tf32(x: f32, rounding: Rounding, clamp: Clamp) -> u32 {
    if x.is_nan() {
        return 0x7fff_ffff;
    }
    (narrow(f64::from(x).to_bits(), TF32, rounding, clamp) as u32) << 13
}

/// F64 → F16, rounded once.
pub fn f64_to_f16(x: f64, rounding: Rounding, clamp: Clamp) -> u16 {
    narrow(x.to_bits(), F16, rounding, clamp) as u16
}

/// F64 → BF16, rounded once.
pub fn f64_to_bf16(x: f64, rounding: Rounding, clamp: Clamp) -> u16 {
    narrow(x.to_bits(), BF16, rounding, clamp) as u16
}

/// F64 → F32 bits with any rounding (canonical NaN: 0x7fffffff).
pub fn f64_to_f32(x: f64, rounding: Rounding, clamp: Clamp) -> u32 {
    narrow(x.to_bits(), F32, rounding, clamp) as u32
}

/// E4M3 → F32, exact.
pub fn e4m3_to_f32(bits: u8) -> f32 {
    widen(u64::from(bits), E4M3) as f32
}

/// E5M2 → F32, exact.
pub fn e5m2_to_f32(bits: u8) -> f32 {
    widen(u64::from(bits), E5M2) as f32
}

/// F16 → F32, exact.
pub fn f16_to_f32(bits: u16) -> f32 {
    widen(u64::from(bits), F16) as f32
}

/// BF16 → F32: the upper half of the word, NaN payloads included.
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// E4M3 → F16, exact (`cvt.rn.f16x2.e4m3x2` lane).
pub fn e4m3_to_f16(bits: u8) -> u16 {
    f32_to_f16(e4m3_to_f32(bits), Rounding::Nearest, Clamp::NONE)
}

/// E5M2 → F16, exact (`cvt.rn.f16x2.e5m2x2` lane).
pub fn e5m2_to_f16(bits: u8) -> u16 {
    f32_to_f16(e5m2_to_f32(bits), Rounding::Nearest, Clamp::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: [Layout; 5] = [E4M3, E5M2, F16, BF16, TF32];

    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    #[test]
    fn every_value_survives_the_round_trip() {
        for layout in NARROW {
            let sign = 1_u64 << (layout.exponent + layout.fraction);
            let mut last = -1.0;
            for magnitude in 0..=layout.max {
                let value = widen(magnitude, layout);
                assert!(value > last, "values ascend with their bits");
                last = value;
                for bits in [magnitude, magnitude | sign] {
                    for rounding in [Rounding::Nearest, Rounding::Zero, Rounding::Up, Rounding::Down] {
                        let back = narrow(widen(bits, layout).to_bits(), layout, rounding, Clamp::NONE);
                        assert_eq!(back, bits, "{layout:?}");
                    }
                }
            }
            assert!(widen(layout.nan, layout).is_nan());
        }
        for bits in 0..=u16::MAX {
            let (wide, direct) = (widen(u64::from(bits), BF16), bf16_to_f32(bits));
            assert!(wide == f64::from(direct) || wide.is_nan() && direct.is_nan());
        }
    }

    /// Between neighbours: below, at and above the middle, by every rule and both signs.
    #[test]
    fn rounding_between_neighbours() {
        for layout in NARROW {
            let sign = 1_u64 << (layout.exponent + layout.fraction);
            for low in 0..layout.max {
                let (a, b) = (widen(low, layout), widen(low + 1, layout));
                let middle = (a + b) / 2.0;
                let even = low + (low & 1);
                let cases = [
                    (middle.next_down(), low, low),
                    (middle, even, low + 1),
                    (middle.next_up(), low + 1, low + 1),
                    (a.next_up(), low, low),
                ];
                for (value, nearest, away) in cases {
                    for negative in [false, true] {
                        let (x, s) = if negative { (-value, sign) } else { (value, 0) };
                        let to = |rounding| narrow(x.to_bits(), layout, rounding, Clamp::NONE);
                        assert_eq!(to(Rounding::Nearest), s | nearest);
                        assert_eq!(to(Rounding::NearestAway), s | away);
                        assert_eq!(to(Rounding::Zero), s | low);
                        assert_eq!(to(Rounding::Up), s | if negative { low } else { low + 1 });
                        assert_eq!(to(Rounding::Down), s | if negative { low + 1 } else { low });
                    }
                }
            }
        }
    }

    #[test]
    fn beyond_the_largest() {
        let satfinite = Clamp::SATFINITE;
        assert_eq!(f32_to_e4m3(448.0, Rounding::Nearest, satfinite), 0x7e);
        assert_eq!(f32_to_e4m3(464.0, Rounding::Nearest, Clamp::NONE), 0x7e);
        assert_eq!(f32_to_e4m3(464.1, Rounding::Nearest, Clamp::NONE), 0x7f);
        assert_eq!(f32_to_e4m3(1e30, Rounding::Nearest, satfinite), 0x7e);
        assert_eq!(f32_to_e4m3(f32::NEG_INFINITY, Rounding::Nearest, satfinite), 0xfe);
        assert_eq!(f32_to_e4m3(f32::NAN, Rounding::Nearest, satfinite), 0x7f);
        assert_eq!(f32_to_e5m2(f32::INFINITY, Rounding::Nearest, satfinite), 0x7b);
        assert_eq!(f32_to_e5m2(1e30, Rounding::Nearest, Clamp::NONE), 0x7c);
        assert_eq!(f32_to_f16(65_520.0, Rounding::Nearest, Clamp::NONE), 0x7c00);
        assert_eq!(f32_to_f16(65_519.9, Rounding::Nearest, Clamp::NONE), 0x7bff);
        assert_eq!(f32_to_f16(1e9, Rounding::Zero, Clamp::NONE), 0x7bff);
        assert_eq!(f32_to_f16(f32::INFINITY, Rounding::Zero, Clamp::NONE), 0x7c00);
        assert_eq!(f32_to_f16(-1e9, Rounding::Up, Clamp::NONE), 0xfbff);
        assert_eq!(f32_to_bf16(f32::MAX, Rounding::Nearest, Clamp::NONE), 0x7f80);
        assert_eq!(f32_to_bf16(f32::MAX, Rounding::Nearest, satfinite), 0x7f7f);
        assert_eq!(f32_to_bf16(f32::NAN, Rounding::Zero, Clamp::NONE), 0x7fff);
        assert_eq!(f32_to_tf32(f32::NAN, Rounding::NearestAway, Clamp::NONE), 0x7fff_ffff);
        assert_eq!(f64_to_f32(1e300, Rounding::Nearest, Clamp::NONE), 0x7f80_0000);
    }

    #[test]
    fn negative_values_under_relu() {
        let relu = Clamp { satfinite: true, relu: true };
        assert_eq!(f32_to_e4m3(-3.0, Rounding::Nearest, relu), 0);
        assert_eq!(f32_to_bf16(f32::NEG_INFINITY, Rounding::Nearest, relu), 0);
        assert_eq!(f32_to_f16(2.0, Rounding::Nearest, relu), 0x4000);
        assert_eq!(f32_to_e5m2(f32::NAN, Rounding::Nearest, relu), 0x7f);
    }

    #[test]
    fn nearest_f32_is_the_hosts() {
        let mut seed = 0x0ddb_1a5e_5bad_5eed;
        for _ in 0..1_000_000 {
            let wide = f64::from_bits(random(&mut seed));
            let ours = f32::from_bits(f64_to_f32(wide, Rounding::Nearest, Clamp::NONE));
            assert!(ours.to_bits() == (wide as f32).to_bits() || wide.is_nan() && ours.is_nan());
            // Exponents that F32 has.
            let near = f64::from(f32::from_bits(random(&mut seed) as u32)) * (1.0 + 1e-9);
            if !near.is_nan() {
                assert_eq!(
                    f64_to_f32(near, Rounding::Nearest, Clamp::NONE),
                    (near as f32).to_bits(),
                    "{near:e}"
                );
            }
        }
    }

    #[test]
    fn fp8_widens_to_f16() {
        for bits in 0..=u8::MAX {
            let (x, y) = (e4m3_to_f32(bits), f16_to_f32(e4m3_to_f16(bits)));
            assert!(x == y || x.is_nan() && y.is_nan());
            let (x, y) = (e5m2_to_f32(bits), f16_to_f32(e5m2_to_f16(bits)));
            assert!(x == y || x.is_nan() && y.is_nan());
        }
    }
}
