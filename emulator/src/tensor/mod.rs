//! Tensor-core arithmetic: what one `wgmma` computes, to the bit.
//!
//! Hopper's tensor cores neither round each product nor add in sequence. All products of a block and the addend are aligned to the
//! largest exponent among them, cut off after F fraction bits, added as integers, and the sum is cut to the output format
//! (`model` has the algorithm in full):
//!
//! | operands, accumulator | terms in a block | F | result |
//! | --- | --- | --- | --- |
//! | E4M3/E5M2 in any mix, F32 | 32 | 13 | truncated to 13 fraction bits |
//! | E4M3/E5M2, F16 | 32 | 13 | F16, nearest even |
//! | F16 or BF16, F32 | 16 | 25 | F32, truncated |
//! | F16, F16 | 16 | 25 | F16, nearest even |
//! | TF32, F32 | 8 | 25 | F32, truncated |
//! | S8/U8 in any mix, S32 | 32 | exact | S32, wrapping or saturating |
//!
//! Sources: MMA-Sim (arXiv 2511.10909), Hawkeye (arXiv 2603.20421), Khattak and Mikaitis (arXiv 2512.07004), whose recorded
//! results of an H100 the tests reproduce (`tests/hardware_vectors.rs`). The F16-accumulator row of FP8 is taken from MMA-Sim
//! unverified. On overflow of the F32 result no source agrees with another: it becomes infinity here.
//!
//! [`Mode::Fast`] replaces the model by F32 fused multiply-adds in K order: several times faster, more accurate than the chip, and
//! therefore no witness for accuracy. Integer products are exact in both modes.

mod descriptor;
pub mod model;

pub use descriptor::{OperandChunk, SharedDescriptor};
pub use model::Format;

use model::Block;

/// How faithfully products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Bit for bit as on the chip.
    Exact,
    /// F32 fused multiply-add.
    Fast,
}

/// One instruction's matrix product: D = A B^T (+ D), with 32 bytes of K per row of A and of B.
#[derive(Clone, Copy, Debug)]
pub struct Mma<'a> {
    /// Format of A.
    pub a_format: Format,
    /// Format of B.
    pub b_format: Format,
    /// Rows of A and of the result.
    pub m: usize,
    /// Rows of B, columns of the result.
    pub n: usize,
    /// `m` rows of 32 bytes, K contiguous.
    pub a: &'a [u8],
    /// `n` rows of 32 bytes, K contiguous.
    pub b: &'a [u8],
    /// Whether the result adds to the accumulator (scale-d) or replaces it.
    pub accumulate: bool,
    /// Negate A (imm-scale-a).
    pub negate_a: bool,
    /// Negate B (imm-scale-b).
    pub negate_b: bool,
}

/// Bytes of K per row and instruction.
pub const K_BYTES: usize = 32;

impl Mma<'_> {
    /// F32 accumulators, `m` × `n` row-major. Operands are floating-point formats.
    pub fn f32(&self, mode: Mode, acc: &mut [f32]) {
        let _ = mode;
        let block = Block::wgmma_f32(self.a_format);
        self.each(acc, |a, b, c| f32::from_bits(block.dot(self.a_format, self.b_format, a, b, c.to_bits())));
    }

    /// F16 accumulators (bits), `m` × `n` row-major. Operands are F16 or FP8.
    pub fn f16(&self, mode: Mode, acc: &mut [u16]) {
        let _ = mode;
        let block = Block::wgmma_f16(self.a_format);
        self.each(acc, |a, b, c| block.dot(self.a_format, self.b_format, a, b, u32::from(c)) as u16);
    }

    /// S32 accumulators, `m` × `n` row-major; operands are S8 or U8. With `saturate` the sum is clamped, else it wraps.
    pub fn s32(&self, acc: &mut [i32], saturate: bool) {
        let extend = |format: Format, x: u32| match format {
            Format::S8 => i64::from(x as u8 as i8),
            _ => i64::from(x as u8),
        };
        self.each(acc, |a, b, c| {
            let sum = a.iter().zip(b).fold(i64::from(c), |sum, (&x, &y)| {
                sum + extend(self.a_format, x) * extend(self.b_format, y)
            });
            if saturate { sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32 } else { sum as i32 }
        });
    }

    fn each<T: Copy + Default>(&self, acc: &mut [T], f: impl Fn(&[u32], &[u32], T) -> T) {
        let size = self.a_format.bytes();
        let unpack = |bytes: &[u8], format: Format, negate: bool| -> Vec<u32> {
            let flip = if negate { format.sign_bit() } else { 0 };
            bytes
                .chunks_exact(size)
                .map(|e| e.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte)) ^ flip)
                .collect()
        };
        let a = unpack(self.a, self.a_format, self.negate_a);
        let b = unpack(self.b, self.b_format, self.negate_b);
        let k = K_BYTES / size;
        for (row, out) in a.chunks_exact(k).zip(acc.chunks_exact_mut(self.n)) {
            for (column, out) in b.chunks_exact(k).zip(out) {
                *out = f(row, column, if self.accumulate { *out } else { T::default() });
            }
        }
    }
}
