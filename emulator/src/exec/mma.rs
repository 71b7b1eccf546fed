//! `mma.sync`: a 16×8 matrix product by one warp, fragments in registers.
//!
//! Measured in bytes, all shapes have one layout: lane l holds bytes 4(l mod 4)..+4 of row l/4; of A, odd registers hold row l/4 + 8
//! and registers 2 and 3 the bytes from 16 on; of B (columns of K bytes), register 1 does. Results and addends: lane l holds
//! columns 2(l mod 4) and the next of row l/4, then of row l/4 + 8. Shapes of half the depth have half the registers: the rest of
//! each row counts as zeros, which a tensor core's sum does not see.
//!
//! The arithmetic is that of `wgmma` ([`crate::tensor`]), except FP8: sm_90 has no such instruction. The assembler converts to F16
//! and chains two products from zero, first of the elements whose index modulo 4 is below 2, then of the rest, and adds C at the
//! end, rounded to nearest. Seen in SASS; the F16 form agrees with every vector recorded on an H100.

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
}
