//! The opaque 128 bytes of a tensor map.
//!
//! The chip's encoding is not documented and nothing may depend on it; ours only has to fit, to survive being copied as
//! kernel parameter or through global memory, and to be told apart from bytes that are no tensor map. Word 0 holds a magic
//! number and the enumerations, word 15 a checksum over the rest.
//!
//! `tensormap.replace` edits one field of the bytes at a time ([`edit`]); what the fields may be together is only checked when the
//! map is used, because on the way from one map to another some do not fit.

use super::im2col::{SPATIAL, Walk};
use super::{DataType, L2Promotion, MAX_RANK, OobFill, Swizzle, TensorMap, TensorMapError, refuse};

/// "hadalTM1" in ASCII, upper four bytes.
const MAGIC: u64 = 0x6861_6454;

fn checksum(words: &[u64; 16]) -> u64 {
    words[..15].iter().fold(0x9e37_79b9_7f4a_7c15, |sum, &word| {
        (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
    })
}

impl TensorMap {
    /// Packs the map.
    pub fn encode(&self) -> [u64; 16] {
        let mut words = [0_u64; 16];
        words[0] = MAGIC << 32
            | u64::from(self.rank)
            | (self.data_type as u64) << 4
            | (self.swizzle as u64) << 12
            | (self.l2_promotion as u64) << 16
            | (self.oob_fill as u64) << 20;
        words[1] = self.address;
        words[2..7].copy_from_slice(&self.dims);
        words[7..11].copy_from_slice(&self.strides);
        for i in 0..MAX_RANK {
            words[11] |= u64::from(self.box_dims[i]) << (12 * i);
            words[12] |= u64::from(self.element_strides[i]) << (8 * i);
        }
        if let Some(walk) = &self.walk {
            words[0] |= 1 << 24;
            for i in 0..SPATIAL {
                words[13] |= u64::from(walk.lower[i] as u16) << (16 * i);
                words[14] |= u64::from(walk.upper[i] as u16) << (16 * i);
            }
        }
        words[15] = checksum(&words);
        words
    }

    /// Unpacks a map; an error if these bytes were not made by [`TensorMap::encode`].
    pub fn decode(words: &[u64; 16]) -> Result<TensorMap, TensorMapError> {
        let field = |shift: u32, bits: u32| (words[0] >> shift) as u32 & ((1 << bits) - 1);
        let enums = (
            DataType::from_driver(field(4, 8)),
            Swizzle::from_driver(field(12, 4)),
            L2Promotion::from_driver(field(16, 4)),
            OobFill::from_driver(field(20, 4)),
        );
        let rank = field(0, 4) as usize;
        let (Some(data_type), Some(swizzle), Some(l2_promotion), Some(oob_fill)) = enums else {
            return no_map(words);
        };
        if words[0] >> 32 != MAGIC || words[15] != checksum(words) || rank == 0 || rank > MAX_RANK {
            return no_map(words);
        }
        let mut map = TensorMap {
            data_type,
            rank: rank as u8,
            address: words[1],
            dims: [0; 5],
            strides: [0; 4],
            box_dims: [0; 5],
            element_strides: [0; 5],
            swizzle,
            l2_promotion,
            oob_fill,
            walk: None,
        };
        map.dims.copy_from_slice(&words[2..7]);
        map.strides.copy_from_slice(&words[7..11]);
        for i in 0..MAX_RANK {
            map.box_dims[i] = (words[11] >> (12 * i)) as u32 & 0xfff;
            map.element_strides[i] = (words[12] >> (8 * i)) as u32 & 0xff;
        }
        if field(24, 1) == 1 {
            let corner = |word: u64| std::array::from_fn(|i| (word >> (16 * i)) as i16);
            let (lower, upper) = (corner(words[13]), corner(words[14]));
            map.walk = Some(Walk { lower, upper, ..Walk::default() });
        }
        if let Some(i) = (0..rank).find(|i| !(1..=8).contains(&map.element_strides[*i])) {
            return refuse(format!("elementStrides[{i}]"), "1 to 8", map.element_strides[i]);
        }
        map.check()?;
        Ok(map)
    }
}

/// One change by `tensormap.replace`, with the instruction's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// `.global_address`
    Address(u64),
    /// `.rank`, as a rank (the instruction's operand is one less).
    Rank(u32),
    /// `.box_dim`
    BoxDim(u32, u32),
    /// `.global_dim`
    Dim(u32, u32),
    /// `.global_stride`, in bytes; index 0 is the stride of dimension 1.
    Stride(u32, u64),
    /// `.element_stride`
    ElementStride(u32, u32),
    /// `.elemtype`: numbered otherwise than the driver does.
    ElementType(u32),
    /// `.interleave_layout`
    Interleave(u32),
    /// `.swizzle_mode`
    Swizzle(u32),
    /// `.fill_mode`
    Fill(u32),
}

/// Changes one field of an encoded map. All zeros count as a map nobody has filled in yet: kernels build maps from cleared memory.
pub fn edit(words: &mut [u64; 16], edit: Edit) -> Result<(), TensorMapError> {
    if *words == [0; 16] {
        words[0] = MAGIC << 32 | 1;
        words[12] = 0x01_0101_0101;
    } else if words[0] >> 32 != MAGIC || words[15] != checksum(words) {
        return no_map(words).map(|_| ());
    }
    let mut set = |word: usize, shift: u32, bits: u32, value: u64| {
        let mask = (u64::MAX >> (64 - bits)) << shift;
        words[word] = words[word] & !mask | value << shift & mask;
    };
    let index = |i: u32, end: u32| if i < end { Ok(i) } else { refuse("index", format!("below {end}"), i) };
    match edit {
        Edit::Address(address) => set(1, 0, 64, address),
        Edit::Rank(rank @ 1..=5) => set(0, 0, 4, rank.into()),
        Edit::Rank(rank) => return refuse("tensorRank", "1 to 5", rank),
        Edit::BoxDim(i, extent) => {
            if extent == 0 || extent > 256 {
                return refuse(format!("boxDim[{i}]"), "1 to 256", extent);
            }
            set(11, 12 * index(i, 5)?, 12, extent.into());
        }
        Edit::Dim(i, extent) => set(2 + index(i, 5)? as usize, 0, 64, extent.into()),
        Edit::Stride(i, stride) => set(7 + index(i, 4)? as usize, 0, 64, stride),
        // Without interleaving the copy engine has no step for dimension 0.
        Edit::ElementStride(0, _) => {}
        Edit::ElementStride(i, step @ 1..=8) => set(12, 8 * index(i, 5)?, 8, step.into()),
        Edit::ElementStride(i, step) => return refuse(format!("elementStrides[{i}]"), "1 to 8", step),
        Edit::ElementType(number) => {
            use DataType::*;
            let types = [U8, U16, U32, S32, U64, S64, F16, F32, F32Ftz, F64, BF16, TF32, TF32Ftz];
            match types.get(number as usize) {
                Some(ty) => set(0, 4, 8, *ty as u64),
                None => return refuse("elemtype", "0 to 12", number),
            }
        }
        Edit::Interleave(0) => {}
        Edit::Interleave(layout) => {
            return refuse("interleave", "none (interleaved layouts are not emulated)", layout);
        }
        Edit::Swizzle(mode @ 0..=3) => set(0, 12, 4, mode.into()),
        Edit::Swizzle(mode) => return refuse("swizzle", "0 to 3", mode),
        Edit::Fill(mode @ 0..=1) => set(0, 20, 4, mode.into()),
        Edit::Fill(mode) => return refuse("oobFill", "0 or 1", mode),
    }
    words[15] = checksum(words);
    Ok(())
}

fn no_map(words: &[u64; 16]) -> Result<TensorMap, TensorMapError> {
    refuse(
        "tensorMap",
        "128 bytes made by the tensor map encoder",
        format!("other bytes (they begin {:#018x} {:#018x})", words[0], words[1]),
    )
}
