//! Matrix descriptors of `wgmma`: where the rows of an operand lie in shared memory.
//!
//! | bits | field |
//! | --- | --- |
//! | 0–13 | start address >> 4 |
//! | 16–29 | leading dimension byte offset (LBO) >> 4 |
//! | 32–45 | stride dimension byte offset (SBO) >> 4 |
//! | 49–51 | base offset, for swizzle patterns that do not start on their natural boundary |
//! | 62–63 | 0 no swizzle, 1 128 B, 2 64 B, 3 32 B |
//!
//! One instruction reads 32 bytes of K. With T elements in 16 bytes and W chunks of 16 bytes in a swizzled row, the canonical
//! layouts of the PTX ISA (9.7.15.5.1.2.1.3) say where chunks lie before swizzling:
//!
//! * K-major: row r, chunk c of K at `(r mod 8) * 16 W + (r / 8) * SBO + c * (no swizzle: LBO, else 16)`.
//! * MN-major, no swizzle: rows `8j…`, column k at `j * SBO + (k mod 8) * 16 + (k / 8) * LBO`.
//! * MN-major, swizzled: rows `T (w + W m)…`, column k at `w * 16 + m * LBO + (k mod 8) * 16 W + (k / 8) * SBO`.
//!
//! Swizzling is then the XOR of [`Swizzle::apply`] on the absolute address, which is why a kernel may step through K inside a
//! swizzle row by adding to the start address. A base offset b says that the pattern starts b rows of 128 bytes after its natural
//! boundary; no shipping kernel we know sets it, and the manual's one sentence is all that stands behind our reading.

use crate::tma::Swizzle;

/// A decoded matrix descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharedDescriptor {
    /// Start address, in the 18-bit window of the block's shared memory.
    pub start: u32,
    /// Leading dimension byte offset.
    pub leading: u32,
    /// Stride dimension byte offset.
    pub stride: u32,
    /// Base offset, 0 to 7.
    pub base_offset: u32,
    /// Swizzle mode.
    pub swizzle: Swizzle,
}

/// Sixteen bytes of an operand in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperandChunk {
    /// Byte address in the 18-bit window, swizzled, a multiple of 16.
    pub address: u32,
    /// K-major: the row. MN-major: the first of the rows whose elements lie in the chunk.
    pub row: u32,
    /// Byte offset along K in the operand's 32 bytes, of every element in the chunk (MN-major) or of the first (K-major).
    pub k_byte: u32,
}

/// Addresses of a descriptor have 18 bits.
const WINDOW: u32 = (1 << 18) - 1;

impl SharedDescriptor {
    /// Takes a descriptor apart. Every 64-bit value is some descriptor; reserved bits are ignored, as by the chip.
    pub fn decode(bits: u64) -> SharedDescriptor {
        let field = |shift: u32| (bits >> shift) as u32 & 0x3fff;
        SharedDescriptor {
            start: field(0) << 4,
            leading: field(16) << 4,
            stride: field(32) << 4,
            base_offset: (bits >> 49) as u32 & 7,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::B128,
                2 => Swizzle::B64,
                _ => Swizzle::B32,
            },
        }
    }

    /// The bits of a descriptor; addresses and offsets lose what does not fit their fields.
    pub fn encode(&self) -> u64 {
        let field = |value: u32| ((value & WINDOW) >> 4) as u64;
        field(self.start)
            | field(self.leading) << 16
            | field(self.stride) << 32
            | ((self.base_offset & 7) as u64) << 49
            | (Self::mode(self.swizzle) as u64) << 62
    }

    /// The two bits that name a swizzle.
    pub(crate) fn mode(swizzle: Swizzle) -> u32 {
        match swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        }
    }

    fn swizzled(&self, linear: u32) -> u32 {
        let linear = linear & WINDOW;
        if self.base_offset == 0 {
            return self.swizzle.apply(linear);
        }
        // The pattern's rows count from its own start.
        let shifted = linear.wrapping_sub(self.base_offset << 7);
        linear ^ (self.swizzle.apply(shifted) ^ shifted)
    }

    /// Calls `f` for every 16-byte chunk of an operand of `rows` rows and 32 bytes of K. Row-by-row when K-major, column by column
    /// when MN-major. `elem_bytes` is the element size; only 2-byte elements can be MN-major on the chip.
    pub fn for_each_chunk(
        &self,
        rows: u32,
        mn_major: bool,
        elem_bytes: u32,
        mut f: impl FnMut(OperandChunk),
    ) {
        let width = self.swizzle.span().unwrap_or(16);
        if !mn_major {
            let step = if self.swizzle == Swizzle::None { self.leading } else { 16 };
            for row in 0..rows {
                let at = self.start + row % 8 * width + row / 8 * self.stride;
                for chunk in 0..2 {
                    let address = self.swizzled(at + chunk * step);
                    f(OperandChunk { address, row, k_byte: 16 * chunk });
                }
            }
            return;
        }
        let per_chunk = 16 / elem_bytes;
        let chunks_per_row = width / 16;
        let (across_rows, across_k) = match self.swizzle {
            Swizzle::None => (self.stride, self.leading),
            _ => (self.leading, self.stride),
        };
        for k in 0..32 / elem_bytes {
            for block in 0..rows.div_ceil(per_chunk) {
                let linear = self.start
                    + block % chunks_per_row * 16
                    + block / chunks_per_row * across_rows
                    + k % 8 * width
                    + k / 8 * across_k;
                let address = self.swizzled(linear);
                f(OperandChunk { address, row: block * per_chunk, k_byte: k * elem_bytes });
            }
        }
    }

    /// Collects an operand as [`super::Mma`] wants it: `rows` × 32 bytes, K contiguous. `read` returns the 16 bytes at a
    /// shared-memory address.
    pub fn gather(
        &self,
        rows: u32,
        mn_major: bool,
        elem_bytes: u32,
        out: &mut [u8],
        mut read: impl FnMut(u32) -> [u8; 16],
    ) {
        self.for_each_chunk(rows, mn_major, elem_bytes, |chunk| {
            let bytes = read(chunk.address);
            let at = (chunk.row * 32 + chunk.k_byte) as usize;
            if !mn_major {
                out[at..at + 16].copy_from_slice(&bytes);
                return;
            }
            let size = elem_bytes as usize;
            for (i, element) in bytes.chunks_exact(size).enumerate() {
                if chunk.row as usize + i < rows as usize {
                    out[at + 32 * i..at + 32 * i + size].copy_from_slice(element);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(swizzle: Swizzle, start: u32, leading: u32, stride: u32) -> SharedDescriptor {
        SharedDescriptor { start, leading, stride, base_offset: 0, swizzle }
    }

    #[test]
    fn bits() {
        let d = SharedDescriptor::decode(0x4000_0040_0001_0100);
        assert_eq!(d, descriptor(Swizzle::B128, 0x1000, 16, 1024));
        assert_eq!(d.encode(), 0x4000_0040_0001_0100);
        let d = SharedDescriptor { base_offset: 5, ..descriptor(Swizzle::B32, 0x3fff0, 0x3fff0, 16) };
        assert_eq!(SharedDescriptor::decode(d.encode()), d);
    }

    /// The manual's layouts, in its own terms: shapes and strides in elements, then the XOR on chunk indices.
    fn layout(
        shape: [u32; 3],
        strides: [u32; 3],
        k_shape: [u32; 2],
        k_strides: [u32; 2],
        mn: u32,
        k: u32,
    ) -> u32 {
        let [a, b, _] = shape;
        let mn_offset = mn % a * strides[0] + mn / a % b * strides[1] + mn / (a * b) * strides[2];
        mn_offset + k % k_shape[0] * k_strides[0] + k / k_shape[0] * k_strides[1]
    }

    /// Puts a matrix of distinct 16-bit values into memory by the manual's layout and gathers it again.
    fn round_trip(d: SharedDescriptor, rows: u32, mn_major: bool, place: impl Fn(u32, u32) -> u32) {
        let mut memory = vec![0_u8; 1 << 18];
        for row in 0..rows {
            for k in 0..16 {
                let address = d.swizzle.apply(d.start + 2 * place(row, k)) as usize;
                memory[address..address + 2].copy_from_slice(&((row * 16 + k + 1) as u16).to_le_bytes());
            }
        }
        let mut out = vec![0; rows as usize * 32];
        d.gather(rows, mn_major, 2, &mut out, |address| {
            assert_eq!(address % 16, 0);
            memory[address as usize..address as usize + 16].try_into().unwrap()
        });
        for (i, pair) in out.chunks_exact(2).enumerate() {
            assert_eq!(u16::from_le_bytes([pair[0], pair[1]]) as usize, i + 1);
        }
    }

    #[test]
    fn k_major_layouts_of_the_manual() {
        // bf16: T = 8 elements. ((8,m),(T,2)):((W T,SBO),(1,LBO or T)).
        for (swizzle, w) in [(Swizzle::None, 1), (Swizzle::B32, 2), (Swizzle::B64, 4), (Swizzle::B128, 8)] {
            for start in [0, 0x4000] {
                let stride = 8 * 16 * w * 2;
                let d = descriptor(swizzle, start, 0x80, stride);
                let next = if w == 1 { 0x80 / 2 } else { 8 };
                round_trip(d, 64, false, |row, k| {
                    layout([8, 99, 1], [8 * w, stride / 2, 0], [8, 2], [1, next], row, k)
                });
            }
        }
    }

    #[test]
    fn stepping_through_k_inside_a_swizzled_row() {
        // The second 32 bytes of each 128-byte row: start + 32, same pattern.
        let d = descriptor(Swizzle::B128, 0x2020, 16, 1024);
        round_trip(d, 128, false, |row, k| row % 8 * 64 + row / 8 * 512 + k);
        // The tile's place inside the pattern: an odd multiple of 256.
        let d = descriptor(Swizzle::B128, 0x2320, 16, 1024);
        round_trip(d, 128, false, |row, k| row % 8 * 64 + row / 8 * 512 + k);
    }

    #[test]
    fn mn_major_layouts_of_the_manual() {
        // The manual's bf16 examples: m = 2 repeats across rows, k = 2 across columns.
        let none = descriptor(Swizzle::None, 0, 128 * 2, 64 * 2);
        round_trip(none, 16, true, |r, k| layout([8, 1, 2], [1, 8, 64], [8, 2], [8, 128], r, k));
        let b32 = descriptor(Swizzle::B32, 0, 128 * 2, 256 * 2);
        round_trip(b32, 32, true, |r, k| layout([8, 2, 2], [1, 8, 128], [8, 2], [16, 256], r, k));
        let b64 = descriptor(Swizzle::B64, 0, 256 * 2, 512 * 2);
        round_trip(b64, 64, true, |r, k| layout([8, 4, 2], [1, 8, 256], [8, 2], [32, 512], r, k));
        let b128 = descriptor(Swizzle::B128, 0x400, 2048, 1024);
        round_trip(b128, 128, true, |r, k| layout([8, 8, 2], [1, 8, 1024], [8, 2], [64, 512], r, k));
    }

    #[test]
    fn base_offset_moves_the_pattern() {
        // A pattern that starts three rows after its boundary: row 0 is then unswizzled.
        let d = SharedDescriptor { base_offset: 3, ..descriptor(Swizzle::B128, 0x180, 16, 1024) };
        let mut first = Vec::new();
        d.for_each_chunk(2, false, 1, |chunk| first.push(chunk.address));
        assert_eq!(first, [0x180, 0x190, 0x200 ^ 0x10, 0x200]);
    }
}
