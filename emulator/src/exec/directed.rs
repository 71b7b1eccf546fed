//! F64 arithmetic rounded towards zero, down or up, which hosts do not offer by operation.
//!
//! A finite value is a sign, a 128-bit magnitude and an exponent. Results are computed exactly, or with one sticky bit far below
//! the last place that counts, and rounded once. Infinities, NaN and zeros are left to the host: no rounding happens there.

use crate::ir::Round;

/// `(-1)^negative · magnitude · 2^exponent`
#[derive(Clone, Copy)]
struct Wide {
    negative: bool,
    magnitude: u128,
    exponent: i32,
}

impl Wide {
    /// Of a finite value.
    fn new(value: f64) -> Wide {
        let bits = value.to_bits();
        let (field, fraction) = ((bits >> 52 & 0x7ff) as i32, u128::from(bits & ((1 << 52) - 1)));
        let magnitude = if field == 0 { fraction } else { fraction | 1 << 52 };
        Wide { negative: bits >> 63 == 1, magnitude, exponent: field.max(1) - 1075 }
    }

    fn times(self, other: Wide) -> Wide {
        Wide {
            negative: self.negative != other.negative,
            magnitude: self.magnitude * other.magnitude,
            exponent: self.exponent + other.exponent,
        }
    }

    /// The magnitude's top bit moved to bit 125: two bits of headroom for a sum.
    fn normal(self) -> Wide {
        let by = self.magnitude.leading_zeros() as i32 - 2;
        Wide { magnitude: self.magnitude << by, exponent: self.exponent - by, ..self }
    }

    /// The sum of two values that are not zero; exact but for a sticky last bit.
    fn plus(self, other: Wide) -> Wide {
        let (a, b) = (self.normal(), other.normal());
        let (a, b) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
        let by = (a.exponent - b.exponent) as u32;
        let lost = by > 0 && (by >= 126 || b.magnitude << (128 - by) != 0);
        let low = if by >= 126 { 0 } else { b.magnitude >> by } | u128::from(lost);
        if a.negative == b.negative {
            return Wide { magnitude: a.magnitude + low, ..a };
        }
        if a.magnitude >= low {
            Wide { magnitude: a.magnitude - low, ..a }
        } else {
            Wide { magnitude: low - a.magnitude, negative: b.negative, ..a }
        }
    }

    /// Rounds; an exact zero is positive unless rounding is downwards.
    fn round(self, round: Round) -> f64 {
        let away = match round {
            Round::Rm => self.negative,
            Round::Rp => !self.negative,
            _ => false,
        };
        let sign = |bits: u64, negative: bool| f64::from_bits(bits | u64::from(negative) << 63);
        if self.magnitude == 0 {
            return sign(0, round == Round::Rm);
        }
        let bits = 128 - self.magnitude.leading_zeros() as i32;
        // The unit of the last place: 53 bits, or the subnormals' unit.
        let unit = (self.exponent + bits - 53).max(-1074);
        let by = unit - self.exponent;
        let (mut kept, exact) = match by {
            ..=0 => (self.magnitude << -by, true),
            1..=127 => (self.magnitude >> by, self.magnitude << (128 - by) == 0),
            _ => (0, false),
        };
        kept += u128::from(away && !exact);
        // A carry into the 54th bit moves to the next exponent by itself, as does one out of the subnormals.
        let field = if unit == -1074 && kept < 1 << 52 { 0 } else { unit + 1075 };
        if field >= 0x7ff || field == 0x7fe && kept >> 53 != 0 {
            return sign(if away { 0x7ff << 52 } else { (0x7ff << 52) - 1 }, self.negative);
        }
        sign(if field == 0 { kept as u64 } else { ((field as u64 - 1) << 52) + kept as u64 }, self.negative)
    }
}

/// `a * b + c`
pub(super) fn fma(a: f64, b: f64, c: f64, round: Round) -> f64 {
    let host = a.mul_add(b, c);
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return host;
    }
    let product = Wide::new(a).times(Wide::new(b));
    let addend = Wide::new(c);
    match (product.magnitude, addend.magnitude) {
        (0, 0) if product.negative != addend.negative => addend.plus_zero(round),
        (0, _) => c,
        (_, 0) => product.round(round),
        _ => product.plus(addend).round(round),
    }
}

impl Wide {
    /// The sum of zeros of different sign.
    fn plus_zero(self, round: Round) -> f64 {
        Wide { magnitude: 0, ..self }.round(round)
    }
}

/// `a + b`
pub(super) fn add(a: f64, b: f64, round: Round) -> f64 {
    fma(a, 1.0, b, round)
}

/// `a * b`
pub(super) fn mul(a: f64, b: f64, round: Round) -> f64 {
    let exact = !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0;
    if exact { a * b } else { Wide::new(a).times(Wide::new(b)).round(round) }
}

/// `a / b`
pub(super) fn div(a: f64, b: f64, round: Round) -> f64 {
    if !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return a / b;
    }
    let (a, b) = (Wide::new(a).normal(), Wide::new(b));
    let sticky = u128::from(a.magnitude % b.magnitude != 0);
    Wide {
        negative: a.negative != b.negative,
        magnitude: (a.magnitude / b.magnitude) << 1 | sticky,
        exponent: a.exponent - b.exponent - 1,
    }
    .round(round)
}

/// The square root.
pub(super) fn sqrt(a: f64, round: Round) -> f64 {
    if !a.is_finite() || a <= 0.0 {
        return a.sqrt();
    }
    let mut a = Wide::new(a).normal();
    if a.exponent % 2 != 0 {
        a = Wide { magnitude: a.magnitude << 1, exponent: a.exponent - 1, ..a };
    }
    let root = a.magnitude.isqrt();
    let sticky = u128::from(root * root != a.magnitude);
    Wide { negative: false, magnitude: root << 1 | sticky, exponent: a.exponent / 2 - 1 }.round(round)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The neighbour that a rounding picks, from the value to nearest and on which side of it the exact one lies.
    fn pick(near: f64, below: bool, exact: bool, round: Round) -> f64 {
        match round {
            _ if exact => near,
            Round::Rm => {
                if below {
                    near.next_down()
                } else {
                    near
                }
            }
            Round::Rp => {
                if below {
                    near
                } else {
                    near.next_up()
                }
            }
            _ if (near > 0.0) == below => {
                if below {
                    near.next_down()
                } else {
                    near.next_up()
                }
            }
            _ => near,
        }
    }

    #[test]
    fn sums_and_products_agree_with_exact_errors() {
        let mut state = 1u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let exponent = 1023 - 20 + (state >> 58) % 40;
            f64::from_bits(state >> 12 | exponent << 52 | state << 63)
        };
        for _ in 0..20_000 {
            let (a, b) = (draw(), draw());
            for round in [Round::Rz, Round::Rm, Round::Rp] {
                // Error-free transformations: what rounding to nearest lost is a float itself.
                let sum = a + b;
                let part = sum - a;
                let lost = (a - (sum - part)) + (b - part);
                assert_eq!(add(a, b, round), pick(sum, lost < 0.0, lost == 0.0, round), "{a:e} + {b:e}");
                let product = a * b;
                let lost = a.mul_add(b, -product);
                assert_eq!(mul(a, b, round), pick(product, lost < 0.0, lost == 0.0, round), "{a:e} * {b:e}");
                let quotient = a / b;
                let lost = -quotient.mul_add(b, -a) * b.signum();
                assert_eq!(div(a, b, round), pick(quotient, lost < 0.0, lost == 0.0, round), "{a:e} / {b:e}");
                let root = a.abs().sqrt();
                let lost = -root.mul_add(root, -a.abs());
                assert_eq!(sqrt(a.abs(), round), pick(root, lost < 0.0, lost == 0.0, round), "sqrt {a:e}");
            }
        }
    }

    #[test]
    fn edges() {
        let (tiny, huge) = (f64::from_bits(1), f64::MAX);
        assert_eq!(mul(tiny, 0.5, Round::Rp), tiny);
        assert_eq!(mul(tiny, 0.5, Round::Rz).to_bits(), 0);
        assert_eq!(mul(-tiny, 0.5, Round::Rm), -tiny);
        assert_eq!(mul(-tiny, tiny, Round::Rp).to_bits(), 1 << 63);
        assert_eq!(add(huge, huge, Round::Rz), huge);
        assert_eq!(add(huge, huge, Round::Rp), f64::INFINITY);
        assert_eq!(add(-huge, -huge, Round::Rp), -huge);
        assert_eq!(add(1.0, -1.0, Round::Rm).to_bits(), 1 << 63);
        assert_eq!(add(1.0, -1.0, Round::Rp).to_bits(), 0);
        assert_eq!(add(0.0, -0.0, Round::Rm).to_bits(), 1 << 63);
        assert_eq!(add(-0.0, -0.0, Round::Rp).to_bits(), 1 << 63);
        assert_eq!(fma(huge, tiny, -1.0, Round::Rp), f64::from_bits(0xbfef_ffff_ffff_fff8));
        assert_eq!(add(1.0, tiny, Round::Rp), 1.0f64.next_up());
        assert_eq!(add(1.0, -tiny, Round::Rz), 1.0f64.next_down());
        assert_eq!(add(f64::MIN_POSITIVE, -tiny, Round::Rz), f64::from_bits((1 << 52) - 1));
    }
}
