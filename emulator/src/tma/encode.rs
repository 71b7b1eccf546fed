//! The opaque 128 bytes of a tensor map.
//!
//! The chip's encoding is not documented and nothing may depend on it; ours only has to fit, to survive being copied as
//! kernel parameter or through global memory, and to be told apart from bytes that are no tensor map. Word 0 holds a magic
//! number and the enumerations, word 15 a checksum over the rest.

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
        };
        map.dims.copy_from_slice(&words[2..7]);
        map.strides.copy_from_slice(&words[7..11]);
        for i in 0..MAX_RANK {
            map.box_dims[i] = (words[11] >> (12 * i)) as u32 & 0xfff;
            map.element_strides[i] = (words[12] >> (8 * i)) as u32 & 0xff;
        }
        map.check()?;
        Ok(map)
    }
}

fn no_map(words: &[u64; 16]) -> Result<TensorMap, TensorMapError> {
    refuse(
        "tensorMap",
        "128 bytes made by the tensor map encoder",
        format!("other bytes (they begin {:#018x} {:#018x})", words[0], words[1]),
    )
}
