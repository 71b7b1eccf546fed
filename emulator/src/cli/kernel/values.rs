//! Numbers as people write them on a command line, and the bytes a kernel sees.
//!
//! A list is what stands between commas: `1.5` one value, `0*64` a value sixty-four times, `0..64` the integers from 0 to 63, and
//! `random*64` values in [-1, 1) for floating types, any bits for integers, the same ones at every run. Integers may be
//! hexadecimal; a hexadecimal number for a floating type is its bits.

use hadal_emulator::convert::{
    Clamp, Rounding, bf16_to_f32, e4m3_to_f32, e5m2_to_f32, f16_to_f32, f32_to_e4m3, f32_to_e5m2,
    f64_to_bf16, f64_to_f16,
};

/// The longest list an argument may make, in values: what a slip of the finger should not exceed.
const LONGEST: u64 = 1 << 30;

/// Type of a scalar argument or of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Unsigned(u8),
    Signed(u8),
    /// Integers printed in hexadecimal.
    Bits(u8),
    F16,
    Bf16,
    F32,
    F64,
    E4m3,
    E5m2,
}

impl Type {
    /// By its PTX name.
    pub fn named(name: &str) -> Option<Type> {
        Some(match name {
            "f16" => Type::F16,
            "bf16" => Type::Bf16,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "e4m3" => Type::E4m3,
            "e5m2" => Type::E5m2,
            _ => {
                let bytes = match name.get(1..)? {
                    "8" => 1,
                    "16" => 2,
                    "32" => 4,
                    "64" => 8,
                    _ => return None,
                };
                match name.get(..1)? {
                    "u" => Type::Unsigned(bytes),
                    "s" => Type::Signed(bytes),
                    "b" => Type::Bits(bytes),
                    _ => return None,
                }
            }
        })
    }

    /// Its name.
    pub fn name(self) -> String {
        let (letter, bytes) = match self {
            Type::Unsigned(n) => ("u", n),
            Type::Signed(n) => ("s", n),
            Type::Bits(n) => ("b", n),
            Type::F16 | Type::F32 | Type::F64 => ("f", self.bytes() as u8),
            Type::Bf16 => return "bf16".into(),
            Type::E4m3 => return "e4m3".into(),
            Type::E5m2 => return "e5m2".into(),
        };
        format!("{letter}{}", u32::from(bytes) * 8)
    }

    /// Size of a value.
    pub fn bytes(self) -> usize {
        match self {
            Type::Unsigned(n) | Type::Signed(n) | Type::Bits(n) => n.into(),
            Type::E4m3 | Type::E5m2 => 1,
            Type::F16 | Type::Bf16 => 2,
            Type::F32 => 4,
            Type::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        !matches!(self, Type::Unsigned(_) | Type::Signed(_) | Type::Bits(_))
    }

    /// One value's bytes, little-endian.
    pub fn parse(self, text: &str) -> Result<Vec<u8>, String> {
        let wrong = || format!("`{text}` is no {}", self.name());
        let size = self.bytes();
        if let Some(digits) = text.strip_prefix("0x") {
            let bits = u64::from_str_radix(digits, 16).map_err(|_| wrong())?;
            if size < 8 && bits >> (8 * size) != 0 {
                return Err(wrong());
            }
            return Ok(bits.to_le_bytes()[..size].to_vec());
        }
        if self.is_float() {
            if self == Type::F32 {
                // Rounded once.
                return Ok(text.parse::<f32>().map_err(|_| wrong())?.to_le_bytes().to_vec());
            }
            return Ok(self.round(text.parse().map_err(|_| wrong())?));
        }
        let value: i128 = text.parse().map_err(|_| wrong())?;
        let bits = 8 * size as u32;
        let range = match self {
            Type::Unsigned(_) => 0..1_i128 << bits,
            Type::Signed(_) => -(1_i128 << (bits - 1))..1_i128 << (bits - 1),
            _ => -(1_i128 << (bits - 1))..1_i128 << bits,
        };
        if !range.contains(&value) {
            return Err(wrong());
        }
        Ok(value.to_le_bytes()[..size].to_vec())
    }

    fn round(self, value: f64) -> Vec<u8> {
        let (round, clamp) = (Rounding::Nearest, Clamp::NONE);
        let single = value as f32;
        match self {
            Type::F16 => f64_to_f16(value, round, clamp).to_le_bytes().to_vec(),
            Type::Bf16 => f64_to_bf16(value, round, clamp).to_le_bytes().to_vec(),
            Type::E4m3 => vec![f32_to_e4m3(single, round, clamp)],
            Type::E5m2 => vec![f32_to_e5m2(single, round, clamp)],
            Type::F32 => single.to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        }
    }

    /// A value, as [`Type::parse`] reads it.
    pub fn show(self, bytes: &[u8]) -> String {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        let unused = 64 - 8 * bytes.len() as u32;
        match self {
            Type::Unsigned(_) => bits.to_string(),
            Type::Signed(_) => ((bits << unused) as i64 >> unused).to_string(),
            Type::Bits(_) => format!("{bits:#0width$x}", width = 2 + 2 * bytes.len()),
            Type::F16 => f16_to_f32(bits as u16).to_string(),
            Type::Bf16 => bf16_to_f32(bits as u16).to_string(),
            Type::E4m3 => e4m3_to_f32(bits as u8).to_string(),
            Type::E5m2 => e5m2_to_f32(bits as u8).to_string(),
            Type::F32 => f32::from_bits(bits as u32).to_string(),
            Type::F64 => f64::from_bits(bits).to_string(),
        }
    }

    /// The bytes of a list.
    pub fn parse_list(self, text: &str) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let room = |count: u64| match count {
            0..=LONGEST => Ok(count),
            _ => Err(format!("`{text}`: more than {LONGEST} values")),
        };
        for item in text.split(',').map(str::trim) {
            if let Some((from, to)) = item.split_once("..") {
                let (Ok(from), Ok(to)) = (from.parse::<i64>(), to.parse::<i64>()) else {
                    return Err(format!("`{item}`: a range is FROM..TO, integers"));
                };
                room(u64::try_from(to.saturating_sub(from)).unwrap_or(0))?;
                for value in from..to {
                    bytes.extend(self.parse(&value.to_string())?);
                }
            } else if let Some((value, count)) = item.split_once('*') {
                let count = count.parse().map_err(|_| format!("`{item}`: repetition is VALUE*COUNT"))?;
                let count = room(count)?;
                if value == "random" {
                    self.random(count, &mut bytes);
                } else {
                    let one = self.parse(value)?;
                    bytes.extend(one.iter().copied().cycle().take(one.len() * count as usize));
                }
            } else {
                bytes.extend(self.parse(item)?);
            }
        }
        Ok(bytes)
    }

    /// Numbers of a fixed SplitMix64.
    fn random(self, count: u64, bytes: &mut Vec<u8>) {
        let mut state = bytes.len() as u64;
        for _ in 0..count {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            if self.is_float() {
                bytes.extend(self.round((z >> 11) as f64 / (1_u64 << 52) as f64 - 1.0));
            } else {
                bytes.extend(&z.to_le_bytes()[..self.bytes()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went_in() {
        for (name, text) in [
            ("u8", "255"),
            ("s16", "-32768"),
            ("u64", "18446744073709551615"),
            ("b32", "0xdeadbeef"),
            ("f16", "-0.5"),
            ("bf16", "1.5"),
            ("f32", "0.1"),
            ("f64", "0.1"),
            ("e4m3", "448"),
            ("e5m2", "-57344"),
        ] {
            let ty = Type::named(name).unwrap();
            assert_eq!((ty.show(&ty.parse(text).unwrap()), ty.name()), (text.into(), name.into()));
        }
    }

    #[test]
    fn lists_repeat_count_and_refuse() {
        let u8 = Type::named("u8").unwrap();
        assert_eq!(u8.parse_list("7, 1*3,2..4").unwrap(), [7, 1, 1, 1, 2, 3]);
        assert_eq!(u8.parse_list("random*5").unwrap(), u8.parse_list("random*5").unwrap());
        for wrong in ["256", "-1", "", "1*x", "0..x", "0*9999999999", "0x100", "1.5"] {
            assert!(u8.parse_list(wrong).is_err(), "{wrong}");
        }
    }
}
