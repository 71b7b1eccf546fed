//! Element types, and the eight-bit float the tensor cores multiply.
//!
//! E4M3 here is the variant of NVIDIA, Arm and Intel (arXiv 2209.05433): sign, four exponent bits with bias 7, three
//! mantissa bits, subnormals down to 2^-9, no infinities, the single NaN magnitude 0x7f, largest value 448. Conversion
//! from wider floats rounds to nearest even and saturates, which is what PTX calls `cvt.rn.satfinite.e4m3x2.f32`: 464
//! and above, infinity included, become 448, and every NaN becomes 0x7f.
//!
//! [`E4M3`] is a plain byte so that it converts freely to and from whatever FP8 type an engine already has.

use std::fmt;

pub use half::{bf16, f16};

/// The element types kernels read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// Eight-bit float, four exponent and three mantissa bits ([`E4M3`]).
    E4M3,
    /// Bytes without a meaning to the kernel: workspaces.
    U8,
    /// Sixteen-bit float with eight exponent bits.
    BF16,
    /// IEEE sixteen-bit float.
    F16,
    /// IEEE single.
    F32,
    /// Signed 32-bit integer: counts, lengths, offsets, indices, page numbers.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::E4M3 | DType::U8 => 1,
            DType::BF16 | DType::F16 => 2,
            DType::F32 | DType::I32 => 4,
        }
    }

    /// The name used in kernel names and messages.
    pub const fn name(self) -> &'static str {
        match self {
            DType::E4M3 => "e4m3",
            DType::U8 => "u8",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::F32 => "f32",
            DType::I32 => "i32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A host type that may be copied to and from a device as it stands.
///
/// # Safety
///
/// The type has no padding, every bit pattern is a value, and its layout is that of [`Element::DTYPE`] on the device.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// The type's name on the device.
    const DTYPE: DType;
}

// SAFETY: each is a plain number (or a transparent wrapper of one) of the size DTYPE says; all bit patterns are values.
unsafe impl Element for u8 {
    const DTYPE: DType = DType::U8;
}
// SAFETY: as above.
unsafe impl Element for E4M3 {
    const DTYPE: DType = DType::E4M3;
}
// SAFETY: as above.
unsafe impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
// SAFETY: as above.
unsafe impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
// SAFETY: as above.
unsafe impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
// SAFETY: as above.
unsafe impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

/// The bytes of a slice of elements.
pub(crate) fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    // SAFETY: Element promises no padding, so every byte is initialised; the lifetime is that of the borrow.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

/// The bytes of a slice of elements, to be overwritten.
pub(crate) fn bytes_of_mut<T: Element>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: Element promises that every bit pattern is a value, so any bytes may be written; the borrow is unique.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), std::mem::size_of_val(values)) }
}

/// An eight-bit float: one sign, four exponent (bias 7) and three mantissa bits, no infinities, NaN is 0x7f.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct E4M3(
    /// The bits.
    pub u8,
);

impl E4M3 {
    /// The NaN that conversions produce.
    pub const NAN: E4M3 = E4M3(0x7f);
    /// The largest finite value, 448.
    pub const MAX: E4M3 = E4M3(0x7e);
    /// The smallest positive value, 2^-9.
    pub const MIN_POSITIVE: E4M3 = E4M3(0x01);

    /// Rounds to nearest, ties to even, saturating at ±448; NaN gives [`E4M3::NAN`].
    pub const fn from_f32(value: f32) -> E4M3 {
        let bits = value.to_bits();
        let sign = (bits >> 24) as u8 & 0x80;
        let magnitude = bits & 0x7fff_ffff;
        if magnitude > 0x7f80_0000 {
            return E4M3::NAN;
        }
        let exponent = (magnitude >> 23) as i32 - 127;
        if exponent >= 9 || magnitude >= 448f32.to_bits() {
            return E4M3(sign | E4M3::MAX.0);
        }
        let code = if exponent >= -6 {
            // Drop 20 of 23 mantissa bits, to even; a carry runs into the exponent, as it should. Then move the bias.
            let rounded = magnitude + 0x7_ffff + ((magnitude >> 20) & 1);
            (rounded >> 20) - ((127 - 7) << 3)
        } else if exponent < -10 {
            // Below half of 2^-9.
            0
        } else {
            // A count of 2^-9: the 24-bit significand times 2^(exponent - 23 + 9).
            let significand = (magnitude & 0x7f_ffff) | 0x80_0000;
            let shift = (14 - exponent) as u32;
            let kept = significand >> shift;
            let half = 1 << (shift - 1);
            let rest = significand & ((1 << shift) - 1);
            kept + (rest > half || (rest == half && kept & 1 == 1)) as u32
        };
        E4M3(sign | code as u8)
    }

    /// The exact value. The sign of a NaN is lost.
    pub const fn to_f32(self) -> f32 {
        let sign = if self.0 & 0x80 == 0 { 1.0 } else { -1.0 };
        let exponent = (self.0 >> 3 & 15) as u32;
        let mantissa = (self.0 & 7) as u32;
        if exponent == 15 && mantissa == 7 {
            return f32::NAN;
        }
        if exponent == 0 {
            return sign * (mantissa as f32) / 512.0;
        }
        sign * f32::from_bits((exponent + 127 - 7) << 23 | mantissa << 20)
    }

    /// Whether this is one of the two NaN codes, 0x7f and 0xff.
    pub const fn is_nan(self) -> bool {
        self.0 & 0x7f == 0x7f
    }
}

impl fmt::Debug for E4M3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_f32())
    }
}

impl fmt::Display for E4M3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_f32(), f)
    }
}

impl From<E4M3> for f32 {
    fn from(value: E4M3) -> f32 {
        value.to_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The finite non-negative codes in order of value; codes 0..=0x7e are already sorted.
    fn nearest(value: f64) -> u8 {
        let mut best = 0u8;
        for code in 0..=0x7eu8 {
            let (old, new) = (E4M3(best).to_f32() as f64, E4M3(code).to_f32() as f64);
            let (old, new) = ((old - value).abs(), (new - value).abs());
            if new < old || (new == old && code & 1 == 0) {
                best = code;
            }
        }
        best
    }

    #[test]
    fn every_code_survives_the_round_trip() {
        for code in 0..=255u8 {
            let value = E4M3(code);
            if !value.is_nan() {
                assert_eq!(E4M3::from_f32(value.to_f32()), value, "code {code:#04x}");
            }
        }
        assert_eq!(E4M3::MAX.to_f32(), 448.0);
        assert_eq!(E4M3::MIN_POSITIVE.to_f32(), 1.0 / 512.0);
    }

    #[test]
    fn rounding_is_to_nearest_even_everywhere() {
        // Every code, every midpoint between two codes, and their f32 neighbours.
        for code in 0..0x7eu8 {
            let low = E4M3(code).to_f32();
            let middle = (low + E4M3(code + 1).to_f32()) / 2.0;
            for base in [low, middle] {
                for bits in base.to_bits().saturating_sub(1)..=base.to_bits() + 1 {
                    let value = f32::from_bits(bits);
                    let want = nearest(value as f64);
                    assert_eq!(E4M3::from_f32(value).0, want, "{value:e}");
                    assert_eq!(E4M3::from_f32(-value).0, want | 0x80, "{:e}", -value);
                }
            }
        }
    }

    #[test]
    fn the_ends_saturate() {
        for value in [448.0, 449.0, 464.0, 480.0, 1e30, f32::INFINITY] {
            assert_eq!(E4M3::from_f32(value), E4M3::MAX);
            assert_eq!(E4M3::from_f32(-value).0, 0xfe);
        }
        assert_eq!(E4M3::from_f32(f32::NAN), E4M3::NAN);
        assert_eq!(E4M3::from_f32(-f32::NAN), E4M3::NAN);
        assert_eq!(E4M3::from_f32(f32::from_bits(1)).0, 0);
        assert!(E4M3::NAN.to_f32().is_nan());
    }
}
