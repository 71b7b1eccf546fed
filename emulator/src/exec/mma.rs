//! `mma.sync`: a 16×8 matrix product by one warp, fragments in registers.
//!
//! Measured in bytes, all shapes have one layout: lane l holds bytes 4(l mod 4)..+4 of row l/4; of A, odd registers hold row l/4 + 8
//! and registers 2 and 3 the bytes from 16 on; of B (columns of K bytes), register 1 does. Results and addends: lane l holds
//! columns 2(l mod 4) and the next of row l/4, then of row l/4 + 8. Shapes of half the depth or half the rows have half the registers:
//! the rest counts as zeros, which a tensor core's sum does not see.
//!
//! The arithmetic is that of `wgmma` ([`crate::tensor`]), except FP8: sm_90 has no such instruction. The assembler converts to F16
//! and chains two products from zero, first of the elements whose index modulo 4 is below 2, then of the rest, and adds C at the
//! end, rounded to nearest. Seen in SASS; the F16 form agrees with every vector recorded on an H100. F64 is a chain of fused
//! multiply-adds in K order; an element takes a register there.

use super::{Core, Flow, Step};
use crate::convert::{self, Clamp, Rounding};
use crate::ir::{self, Src, Type};
use crate::machine::warp::Col32;
use crate::tensor::{Format, K_BYTES, Mma, Mode};

const M: usize = 16;
const N: usize = 8;
type Rows<const R: usize> = [[u8; K_BYTES]; R];

/// Row and first column of element pair `pair` (0 or 1) of a lane.
fn place(lane: usize, pair: usize) -> usize {
    (lane / 4 + 8 * pair) * N + 2 * (lane % 4)
}

/// FP8 rows as two products of F16 rows, as the assembler splits them.
fn halves<const R: usize>(rows: &Rows<R>, e5m2: bool, part: usize) -> Rows<R> {
    let mut out = [[0; K_BYTES]; R];
    for (to, from) in out.iter_mut().zip(rows) {
        for (k, byte) in (0..K_BYTES).filter(|k| k % 4 / 2 == part).zip(0..) {
            let wide = if e5m2 { convert::e5m2_to_f16(from[k]) } else { convert::e4m3_to_f16(from[k]) };
            to[2 * byte..2 * byte + 2].copy_from_slice(&wide.to_le_bytes());
        }
    }
    out
}

fn product<'a>(format: (Format, Format), a: &'a Rows<M>, b: &'a Rows<N>, accumulate: bool) -> Mma<'a> {
    Mma {
        a_format: format.0,
        b_format: format.1,
        m: M,
        n: N,
        a: a.as_flattened(),
        b: b.as_flattened(),
        accumulate,
        negate_a: false,
        negate_b: false,
    }
}

/// F32 addition with the chip's NaN.
fn add_f32(a: f32, b: f32) -> f32 {
    let sum = a + b;
    if sum.is_nan() { f32::from_bits(0x7fff_ffff) } else { sum }
}

fn add_f16(a: u16, b: u16) -> u16 {
    // The sum of two F16 is exact in F64.
    let sum = f64::from(convert::f16_to_f32(a)) + f64::from(convert::f16_to_f32(b));
    convert::f64_to_f16(sum, Rounding::Nearest, Clamp::NONE)
}

fn f32_product(mode: Mode, format: (Format, Format), a: &Rows<M>, b: &Rows<N>, acc: &mut [f32; M * N]) {
    let (Format::E4M3 | Format::E5M2, _) = format else {
        return product(format, a, b, true).f32(mode, acc);
    };
    let mut sum = [0f32; M * N];
    for part in 0..2 {
        let a = halves(a, format.0 == Format::E5M2, part);
        let b = halves(b, format.1 == Format::E5M2, part);
        product((Format::F16, Format::F16), &a, &b, part == 1).f32(mode, &mut sum);
    }
    acc.iter_mut().zip(sum).for_each(|(c, s)| *c = add_f32(s, *c));
}

fn f16_product(mode: Mode, format: (Format, Format), a: &Rows<M>, b: &Rows<N>, acc: &mut [u16; M * N]) {
    let (Format::E4M3 | Format::E5M2, _) = format else {
        return product(format, a, b, true).f16(mode, acc);
    };
    let mut sum = [0u16; M * N];
    for part in 0..2 {
        let a = halves(a, format.0 == Format::E5M2, part);
        let b = halves(b, format.1 == Format::E5M2, part);
        product((Format::F16, Format::F16), &a, &b, part == 1).f16(mode, &mut sum);
    }
    acc.iter_mut().zip(sum).for_each(|(c, s)| *c = add_f16(s, *c));
}

/// Four-bit integers as bytes: the elements with even index, or those with odd.
fn nibbles<const R: usize>(rows: &Rows<R>, signed: bool, part: u32) -> Rows<R> {
    rows.map(|row| {
        row.map(|byte| {
            let high = byte << (4 - 4 * part) & 0xf0;
            if signed { (high as i8 >> 4) as u8 } else { high >> 4 }
        })
    })
}

/// Counts the bits that rows share, or in which they differ.
fn count_bits(a: &Rows<M>, b: &Rows<N>, xor: bool) -> [i32; M * N] {
    std::array::from_fn(|at| {
        let pairs = a[at / N].iter().zip(&b[at % N]);
        pairs.map(|(a, b)| if xor { a ^ b } else { a & b }.count_ones() as i32).sum()
    })
}

impl Core<'_> {
    /// Gathers a fragment into rows.
    fn fragment<const R: usize>(&self, registers: &[Src]) -> Rows<R> {
        let mut rows = [[0; K_BYTES]; R];
        for (r, src) in registers.iter().enumerate() {
            let column = self.get32(src);
            // A has two registers for each 16 bytes, of rows 8 apart; B has one.
            let (row, bytes) = if R == M { (8 * (r & 1), 16 * (r >> 1)) } else { (0, 16 * r) };
            for (lane, word) in column.iter().enumerate() {
                let at = bytes + 4 * (lane % 4);
                rows[row + lane / 4][at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        rows
    }

    /// Four 32-bit elements per lane, as a matrix.
    fn addend(&self, registers: &[Src]) -> [u32; M * N] {
        let mut out = [0; M * N];
        for (i, src) in registers.iter().enumerate() {
            let column = self.get32(src);
            for (lane, value) in column.iter().enumerate() {
                out[place(lane, i / 2) + i % 2] = *value;
            }
        }
        out
    }

    fn deal(&mut self, mma: &ir::Mma, value: impl Fn(usize, usize) -> u32, mask: u32) {
        for (i, dst) in mma.d.iter().enumerate() {
            let column: Col32 = std::array::from_fn(|lane| value(lane, i));
            self.set(*dst, &column.map(u64::from), mask);
        }
    }

    /// `mma.sync`
    pub(super) fn mma(&mut self, mma: &ir::Mma, mask: u32) -> Step {
        if let Some(flow) = self.whole_warp(mask, "mma.sync")? {
            return Ok(flow);
        }
        if mma.d_type == Type::F64 {
            self.mma_f64(mma, mask);
            return Ok(Flow::Next);
        }
        if matches!(mma.a_type, Type::S4 | Type::U4 | Type::B1) {
            self.mma_narrow(mma, mask);
            return Ok(Flow::Next);
        }
        let formats = (super::product::format(mma.a_type), super::product::format(mma.b_type));
        let (Some(a_format), Some(b_format)) = formats else { return Err(self.unsupported(mask)) };
        let format = (a_format, b_format);
        let (a, b) = (self.fragment::<M>(&mma.a), self.fragment::<N>(&mma.b));
        let mode = self.sys.config.tensor_mode;
        match (mma.d_type, mma.c_type) {
            (Type::F32, Type::F32) => {
                let mut acc = self.addend(&mma.c).map(f32::from_bits);
                f32_product(mode, format, &a, &b, &mut acc);
                self.deal(mma, |lane, i| acc[place(lane, i / 2) + i % 2].to_bits(), mask);
            }
            (Type::S32, Type::S32) => {
                let mut acc = self.addend(&mma.c).map(|c| c as i32);
                product(format, &a, &b, true).s32(&mut acc, mma.satfinite);
                self.deal(mma, |lane, i| acc[place(lane, i / 2) + i % 2] as u32, mask);
            }
            (Type::F16, Type::F16) => {
                let mut acc = [0u16; M * N];
                for (i, src) in mma.c.iter().enumerate() {
                    for (lane, pair) in self.get32(src).iter().enumerate() {
                        let at = place(lane, i);
                        (acc[at], acc[at + 1]) = (*pair as u16, (*pair >> 16) as u16);
                    }
                }
                f16_product(mode, format, &a, &b, &mut acc);
                let pair = |lane, i| {
                    let at = place(lane, i);
                    u32::from(acc[at]) | u32::from(acc[at + 1]) << 16
                };
                self.deal(mma, pair, mask);
            }
            _ => return Err(self.unsupported(mask)),
        }
        Ok(Flow::Next)
    }

    /// Operands of less than a byte.
    fn mma_narrow(&mut self, mma: &ir::Mma, mask: u32) {
        let (a, b) = (self.fragment::<M>(&mma.a), self.fragment::<N>(&mma.b));
        let mut sum = [0; M * N];
        if mma.a_type == Type::B1 {
            sum = count_bits(&a, &b, mma.xor);
        } else {
            for part in 0..2 {
                let a = nibbles(&a, mma.a_type == Type::S4, part);
                let b = nibbles(&b, mma.b_type == Type::S4, part);
                product((Format::S8, Format::S8), &a, &b, true).s32(&mut sum, false);
            }
        }
        for (sum, c) in sum.iter_mut().zip(self.addend(&mma.c)) {
            let c = c as i32;
            *sum = if mma.satfinite { c.saturating_add(*sum) } else { c.wrapping_add(*sum) };
        }
        self.deal(mma, |lane, i| sum[place(lane, i / 2) + i % 2] as u32, mask);
    }

    fn mma_f64(&mut self, mma: &ir::Mma, mask: u32) {
        let depth = mma.k as usize;
        let element = |lane: usize, k: usize| 4 * k + lane % 4;
        // Registers of A alternate between rows l/4 and l/4 + 8 where there are sixteen.
        let halves = mma.m as usize / 8;
        let mut a = [[0f64; 16]; M];
        for (i, src) in mma.a.iter().enumerate() {
            for (lane, bits) in self.get64(src).into_iter().enumerate() {
                a[lane / 4 + 8 * (i % halves)][element(lane, i / halves)] = f64::from_bits(bits);
            }
        }
        let mut b = [[0f64; 16]; N];
        for (i, src) in mma.b.iter().enumerate() {
            for (lane, bits) in self.get64(src).into_iter().enumerate() {
                b[lane / 4][element(lane, i)] = f64::from_bits(bits);
            }
        }
        let addends: Vec<_> = mma.c.iter().map(|src| self.get64(src)).collect();
        for (i, (dst, c)) in mma.d.iter().zip(addends).enumerate() {
            let value = std::array::from_fn(|lane| {
                let at = place(lane, i / 2) + i % 2;
                let pairs = a[at / N][..depth].iter().zip(&b[at % N]);
                let sum = pairs.fold(f64::from_bits(c[lane]), |sum, (a, b)| a.mul_add(*b, sum));
                sum.to_bits()
            });
            self.set(*dst, &value, mask);
        }
    }
}
