//! `cvt`: between integers, between floating-point formats, and from one kind to the other.
//!
//! Integers saturate when they come from floating point (NaN becomes 0, or the lowest value for 64-bit results and F64
//! sources, as the ISA says), wrap otherwise unless `.sat`. Packed results take their low half from the second operand.

use crate::convert::{self, Clamp, Rounding};
use crate::ir::{Arith, Round, Type};

fn rounding(round: Round) -> Rounding {
    match round {
        Round::Rz | Round::Rzi => Rounding::Zero,
        Round::Rm | Round::Rmi => Rounding::Down,
        Round::Rp | Round::Rpi => Rounding::Up,
        Round::Rna => Rounding::NearestAway,
        _ => Rounding::Nearest,
    }
}

/// A floating-point source as F64, exactly.
fn float(bits: u64, ty: Type, ftz: bool) -> Option<f64> {
    Some(match ty {
        Type::F32 | Type::TF32 => {
            let bits = bits as u32;
            f32::from_bits(if ftz && bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }) as f64
        }
        Type::F64 => f64::from_bits(bits),
        Type::F16 => convert::f16_to_f32(bits as u16) as f64,
        Type::BF16 => convert::bf16_to_f32(bits as u16) as f64,
        Type::E4M3 => convert::e4m3_to_f32(bits as u8) as f64,
        Type::E5M2 => convert::e5m2_to_f32(bits as u8) as f64,
        _ => return None,
    })
}

/// An integer source, extended by its type.
fn integer(bits: u64, ty: Type) -> i128 {
    match ty {
        Type::S8 => bits as i8 as i128,
        Type::S16 => bits as i16 as i128,
        Type::S32 => bits as i32 as i128,
        Type::S64 => bits as i64 as i128,
        Type::U8 | Type::B8 => bits as u8 as i128,
        Type::U16 | Type::B16 => bits as u16 as i128,
        Type::U32 | Type::B32 => bits as u32 as i128,
        _ => bits as i128,
    }
}

/// The range of an integer type.
fn range(ty: Type) -> (i128, i128) {
    let bits = ty.bytes() * 8;
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// An integer result: sign-extended or zero-extended to the register.
fn place(value: i128, ty: Type) -> u64 {
    match ty {
        Type::S8 => value as i8 as i32 as u32 as u64,
        Type::S16 => value as i16 as i32 as u32 as u64,
        Type::U8 | Type::B8 => value as u8 as u64,
        Type::U16 | Type::B16 => value as u16 as u64,
        Type::S32 | Type::U32 | Type::B32 => value as u32 as u64,
        _ => value as u64,
    }
}

/// An integer as F64, rounded to odd where 53 bits do not hold it.
fn odd_float(value: i128) -> f64 {
    let near = value as f64;
    let back = near as i128;
    if back == value || near.to_bits() & 1 == 1 {
        near
    } else if value > back {
        near.next_up()
    } else {
        near.next_down()
    }
}

/// An integer as F64, rounded as named.
fn to_f64(value: i128, round: Rounding) -> f64 {
    let near = value as f64;
    let back = near as i128;
    match round {
        Rounding::Down if back > value => near.next_down(),
        Rounding::Up if back < value => near.next_up(),
        Rounding::Zero if back.unsigned_abs() > value.unsigned_abs() => {
            if value > 0 {
                near.next_down()
            } else {
                near.next_up()
            }
        }
        _ => near,
    }
}

/// A finite or infinite value to the integer the rounding names, still as F64.
fn integral(value: f64, round: Round) -> f64 {
    match round {
        Round::Rzi | Round::Rz => value.trunc(),
        Round::Rmi | Round::Rm => value.floor(),
        Round::Rpi | Round::Rp => value.ceil(),
        _ => value.round_ties_even(),
    }
}

/// F64 to a floating-point result.
fn to_float(value: f64, to: Type, mods: Arith) -> Option<u64> {
    let round = rounding(mods.round);
    let clamp = Clamp { satfinite: mods.satfinite, relu: mods.relu };
    let value = if mods.sat { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
    Some(match to {
        Type::F64 => value.to_bits(),
        Type::F32 => {
            let bits = convert::f64_to_f32(value, round, clamp);
            (if mods.ftz && bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }) as u64
        }
        Type::F16 => convert::f64_to_f16(value, round, clamp) as u64,
        Type::BF16 => convert::f64_to_bf16(value, round, clamp) as u64,
        Type::TF32 => convert::f32_to_tf32(value as f32, round, clamp) as u64,
        Type::E4M3 => convert::f32_to_e4m3(value as f32, round, clamp) as u64,
        Type::E5M2 => convert::f32_to_e5m2(value as f32, round, clamp) as u64,
        _ => return None,
    })
}

/// The element type of a packed pair.
fn half_of(ty: Type) -> Option<Type> {
    Some(match ty {
        Type::F16x2 => Type::F16,
        Type::BF16x2 => Type::BF16,
        Type::E4M3x2 => Type::E4M3,
        Type::E5M2x2 => Type::E5M2,
        _ => return None,
    })
}

/// One lane of `cvt`. `None`: no such conversion.
pub(crate) fn convert_lane(to: Type, from: Type, mods: Arith, a: u64, b: Option<u64>) -> Option<u64> {
    if let Some(half) = half_of(to) {
        let width = half.bytes() * 8;
        let (high, low, source) = match (b, half_of(from)) {
            (Some(b), _) => (a, b, from),
            (None, Some(source)) => (a >> (source.bytes() * 8), a, source),
            (None, None) => return None,
        };
        let one = |bits| to_float(float(bits, source, mods.ftz)?, half, mods);
        return Some(one(high)? << width | one(low)?);
    }
    match (from.is_float(), to.is_float()) {
        (false, false) => {
            let value = integer(a, from);
            let (low, high) = range(to);
            Some(place(if mods.sat { value.clamp(low, high) } else { value }, to))
        }
        (false, true) if to == Type::F64 => Some(to_f64(integer(a, from), rounding(mods.round)).to_bits()),
        (false, true) => to_float(odd_float(integer(a, from)), to, mods),
        (true, false) => {
            let value = float(a, from, mods.ftz)?;
            let (low, high) = range(to);
            if value.is_nan() {
                let wide = to.bytes() == 8 || from == Type::F64;
                return Some(if wide { 1 << (to.bytes() * 8 - 1) } else { 0 });
            }
            // `as` saturates to the range of i128, which holds every target.
            Some(place((integral(value, mods.round) as i128).clamp(low, high), to))
        }
        (true, true) => {
            let value = float(a, from, mods.ftz)?;
            let whole = matches!(mods.round, Round::Rni | Round::Rzi | Round::Rmi | Round::Rpi);
            if to == Type::F32 && from == Type::F32 && value.is_nan() && !mods.sat {
                return Some(0x7fff_ffff);
            }
            let value =
                if whole && value.is_finite() { integral(value, mods.round).copysign(value) } else { value };
            to_float(value, to, mods)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(round: Round) -> Arith {
        Arith { round, ..Arith::default() }
    }

    #[test]
    fn integers() {
        let plain = Arith::default();
        assert_eq!(convert_lane(Type::S64, Type::S32, plain, 0xffff_fffe, None), Some((-2i64) as u64));
        assert_eq!(convert_lane(Type::U64, Type::U32, plain, 0xffff_fffe, None), Some(0xffff_fffe));
        assert_eq!(convert_lane(Type::S32, Type::S8, plain, 0x80, None), Some(0xffff_ff80));
        let sat = Arith { sat: true, ..plain };
        assert_eq!(convert_lane(Type::U8, Type::S32, sat, (-5i32) as u32 as u64, None), Some(0));
        assert_eq!(convert_lane(Type::U8, Type::S32, sat, 300, None), Some(255));
        assert_eq!(convert_lane(Type::U8, Type::S32, plain, 300, None), Some(44));
    }

    #[test]
    fn between_kinds() {
        let f = |x: f32| x.to_bits() as u64;
        assert_eq!(convert_lane(Type::S32, Type::F32, with(Round::Rni), f(2.5), None), Some(2));
        assert_eq!(
            convert_lane(Type::S32, Type::F32, with(Round::Rzi), f(-2.9), None),
            Some(-2i32 as u32 as u64)
        );
        assert_eq!(
            convert_lane(Type::S32, Type::F32, with(Round::Rmi), f(-2.1), None),
            Some(-3i32 as u32 as u64)
        );
        assert_eq!(convert_lane(Type::S32, Type::F32, with(Round::Rzi), f(1e20), None), Some(0x7fff_ffff));
        assert_eq!(convert_lane(Type::U32, Type::F32, with(Round::Rzi), f(-1.0), None), Some(0));
        assert_eq!(convert_lane(Type::S32, Type::F32, with(Round::Rzi), f(f32::NAN), None), Some(0));
        assert_eq!(convert_lane(Type::S64, Type::F32, with(Round::Rzi), f(f32::NAN), None), Some(1 << 63));
        assert_eq!(
            convert_lane(Type::F32, Type::U32, with(Round::Rn), 0xffff_ffff, None),
            Some(f(4294967296.0))
        );
        assert_eq!(convert_lane(Type::F32, Type::U32, with(Round::Rz), 0xffff_ffff, None), Some(0x4f7f_ffff));
        let f64_of = |round, v| convert_lane(Type::F64, Type::U64, with(round), v, None).map(f64::from_bits);
        assert_eq!(f64_of(Round::Rn, (1 << 53) + 1), Some(9007199254740992.0));
        assert_eq!(f64_of(Round::Rn, (1 << 53) + 3), Some(9007199254740996.0));
        assert_eq!(f64_of(Round::Rz, u64::MAX), Some(18446744073709549568.0));
        assert_eq!(f64_of(Round::Rp, (1 << 53) + 1), Some(9007199254740994.0));
        assert_eq!(
            convert_lane(Type::F32, Type::U64, with(Round::Rp), u64::MAX - 7, None),
            Some(f(2f32.powi(64)))
        );
    }

    #[test]
    fn packed() {
        let f = |x: f32| x.to_bits() as u64;
        let rn = with(Round::Rn);
        assert_eq!(convert_lane(Type::BF16x2, Type::F32, rn, f(1.0), Some(f(-2.0))), Some(0x3f80_c000));
        assert_eq!(convert_lane(Type::F16x2, Type::F32, rn, f(1.0), Some(f(-2.0))), Some(0x3c00_c000));
        let fin = Arith { satfinite: true, ..rn };
        assert_eq!(convert_lane(Type::E4M3x2, Type::F32, fin, f(1e9), Some(f(1.0))), Some(0x7e38));
        assert_eq!(convert_lane(Type::BF16x2, Type::F32, fin, f(-2.0), Some(f(f32::MAX))), Some(0xc000_7f7f));
        assert_eq!(convert_lane(Type::F16, Type::F32, fin, f(-1e9), None), Some(0xfbff));
        assert_eq!(convert_lane(Type::F16x2, Type::E4M3x2, rn, 0x3840, None), Some(0x3c00_4000));
        assert_eq!(convert_lane(Type::F32, Type::F32, with(Round::Rni), f(-0.3), None), Some(f(-0.0)));
    }
}
