//! Tensor-core arithmetic: what one `wgmma` computes, to the bit.
//!
//! Hopper's tensor cores neither round each product nor add in sequence. All products of a block and the addend are aligned to the
//! largest exponent among them, cut off after F fraction bits, added as integers, and the sum is cut to the output format
//! ([`model`] has the algorithm in full):
//!
//! | operands, accumulator | terms in a block | F | result |
//! | --- | --- | --- | --- |
//! | E4M3/E5M2 in any mix, F32 | 32 | 13 | truncated to 13 fraction bits |
//! | E4M3/E5M2, F16 | 32 | 13 | F16, nearest even |
//! | F16 or BF16, F32 | 16 | 25 | F32, truncated |
//! | F16, F16 | 16 | 25 | F16, nearest even |
//! | TF32, F32 | 8 | 25 | F32, truncated |
//! | S8/U8 in any mix, S32 | 32 | exact | S32, wrapping or saturating |
//! | single bits (and, popc), S32 | 256 | exact | S32, wrapping |
//!
//! Sources: MMA-Sim (arXiv 2511.10909), Hawkeye (arXiv 2603.20421), Khattak and Mikaitis (arXiv 2512.07004), whose recorded
//! results of an H100 the tests reproduce (`tests/hardware_vectors.rs`). The F16-accumulator row of FP8 is taken from MMA-Sim
//! unverified. On overflow of the F32 result no source agrees with another: it becomes infinity here.
//!
//! [`Mode::Fast`] replaces the model by F32 fused multiply-adds in K order: faster, more accurate than the chip, and therefore no
//! witness for accuracy. Integer products are exact in both modes.
//!
//! The exact mode runs on AVX2 where the host has it and on plain Rust elsewhere, with the same bits (`fp8`, `wide`).

mod descriptor;
mod fast;
mod fp8;
pub mod model;
mod sweep;
mod wide;

pub use descriptor::{OperandChunk, SharedDescriptor};
pub use model::Format;

use model::Block;
use sweep::Accumulator;

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
    /// Format of B: the same size of element as A's.
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

/// Which instructions of the host to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Host {
    fn detect() -> Host {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Host::Avx2;
        }
        Host::Portable
    }
}

impl Mma<'_> {
    /// F32 accumulators, `m` × `n` row-major. Operands are floating-point formats.
    pub fn f32(&self, mode: Mode, acc: &mut [f32]) {
        self.check(acc.len());
        match mode {
            Mode::Exact => self.exact(Host::detect(), acc),
            Mode::Fast => fast::f32(self, Host::detect(), acc),
        }
    }

    /// F16 accumulators (bits), `m` × `n` row-major. Operands are F16 or FP8.
    pub fn f16(&self, mode: Mode, acc: &mut [u16]) {
        self.check(acc.len());
        match mode {
            Mode::Exact => self.exact(Host::detect(), acc),
            Mode::Fast => fast::f16(self, Host::detect(), acc),
        }
    }

    /// S32 accumulators, `m` × `n` row-major; operands are S8 or U8, or B1 both. With `saturate` the sum is clamped, else it wraps.
    pub fn s32(&self, acc: &mut [i32], saturate: bool) {
        self.check(acc.len());
        fast::s32(self, Host::detect(), acc, saturate);
    }

    fn check(&self, results: usize) {
        assert_eq!(self.a.len(), self.m * K_BYTES, "A has m rows of 32 bytes");
        assert_eq!(self.b.len(), self.n * K_BYTES, "B has n rows of 32 bytes");
        assert_eq!(results, self.m * self.n, "the accumulator has m x n elements");
        assert_eq!(self.a_format.bytes(), self.b_format.bytes(), "A and B have elements of one size");
    }

    fn exact<A: Accumulator>(&self, host: Host, acc: &mut [A]) {
        match self.a_format {
            Format::E4M3 | Format::E5M2 => fp8::run(self, host, acc),
            Format::F16 | Format::BF16 | Format::TF32 => wide::run(self, host, acc),
            Format::S8 | Format::U8 | Format::B1 => {
                unreachable!("integer operands accumulate in S32: Mma::s32")
            }
        }
    }

    /// Elements of K.
    fn k(&self) -> usize {
        K_BYTES / self.a_format.bytes()
    }

    /// Element bits of row `i` of A, sign flipped where A is negated.
    fn a_row(&self, i: usize) -> impl Iterator<Item = u32> + '_ {
        elements(self.a_format, &self.a[i * K_BYTES..(i + 1) * K_BYTES], self.negate_a)
    }

    /// Element bits of row `i` of B.
    fn b_row(&self, i: usize) -> impl Iterator<Item = u32> + '_ {
        elements(self.b_format, &self.b[i * K_BYTES..(i + 1) * K_BYTES], self.negate_b)
    }

    /// One element of the result by the model, for what the fast paths do not cover.
    fn by_model<A: Accumulator>(&self, block: Block, i: usize, j: usize, addend: A) -> A {
        let mut a = [0; K_BYTES];
        let mut b = [0; K_BYTES];
        let k = self.k();
        a.iter_mut().zip(self.a_row(i)).for_each(|(to, from)| *to = from);
        b.iter_mut().zip(self.b_row(j)).for_each(|(to, from)| *to = from);
        A::from_bits(block.dot(self.a_format, self.b_format, &a[..k], &b[..k], addend.bits()))
    }
}

fn elements(format: Format, bytes: &[u8], negate: bool) -> impl Iterator<Item = u32> + '_ {
    let flip = if negate { format.sign_bit() } else { 0 };
    bytes
        .chunks_exact(format.bytes())
        .map(move |e| e.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte)) ^ flip)
}

#[cfg(test)]
mod tests;
