//! The short way for plain arithmetic: one function per operation, chosen when a kernel is prepared, straight on the registers.
//!
//! An operation takes it when its operands are registers or constants of one width, without modifiers, and the CPU has AVX2.
//! Constants become columns behind the warp's own registers, so an operand is always a column. Everything else goes the long way
//! ([`super::alu`]), which gives the same results; `cargo test` compares the two.

use std::collections::HashMap;

use super::float;
use super::lanes::fast_cpu;
use crate::ir::{Arith, BinOp, Cmp, Instr, Kernel, Op, Reg, Round, Src, TernOp, Type};
use crate::machine::warp::{Col32, Col64, Warp};

/// An operation on columns for the lanes of a mask.
type Run = unsafe fn(&mut Warp, &Operands, u32);

/// Columns of an operation: destination and sources.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Operands {
    d: u32,
    a: u32,
    b: u32,
    c: u32,
}

/// One instruction's short way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Quick {
    /// None.
    No,
    /// Arithmetic.
    Run(Run, Operands),
    /// A branch.
    Bra(usize),
}

impl Quick {
    /// Does arithmetic.
    #[inline(always)]
    pub(crate) fn run(run: Run, operands: &Operands, warp: &mut Warp, mask: u32) {
        // SAFETY: `Builder` hands such functions out only if `fast_cpu` found every feature they are compiled for.
        unsafe { run(warp, operands, mask) }
    }
}

/// Collects the constants of a kernel while its instructions are looked at.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    regs32: u32,
    regs64: u32,
    /// The constants, in the order of their columns.
    pub(crate) constants32: Vec<u32>,
    /// As `constants32`.
    pub(crate) constants64: Vec<u64>,
    known32: HashMap<u32, u32>,
    known64: HashMap<u64, u32>,
}

/// Constants of one kernel that get columns; the rest goes the long way.
const MAX_CONSTANTS: usize = 64;

impl Builder {
    pub(crate) fn new(kernel: &Kernel) -> Builder {
        Builder { regs32: kernel.regs32, regs64: kernel.regs64, ..Builder::default() }
    }

    fn col32(&mut self, src: &Src) -> Option<u32> {
        match src {
            Src::Reg(Reg::B32(r)) => Some(*r),
            Src::Imm(value) => {
                let value = *value as u32;
                if let Some(at) = self.known32.get(&value) {
                    return Some(*at);
                }
                if self.constants32.len() == MAX_CONSTANTS {
                    return None;
                }
                let at = self.regs32 + self.constants32.len() as u32;
                self.constants32.push(value);
                self.known32.insert(value, at);
                Some(at)
            }
            _ => None,
        }
    }

    fn col64(&mut self, src: &Src) -> Option<u32> {
        match src {
            Src::Reg(Reg::B64(r)) => Some(*r),
            Src::Imm(value) => {
                if let Some(at) = self.known64.get(value) {
                    return Some(*at);
                }
                if self.constants64.len() == MAX_CONSTANTS {
                    return None;
                }
                let at = self.regs64 + self.constants64.len() as u32;
                self.constants64.push(*value);
                self.known64.insert(*value, at);
                Some(at)
            }
            _ => None,
        }
    }

    /// The short way of an instruction.
    pub(crate) fn quick(&mut self, instr: &Instr) -> Quick {
        if let Op::Bra { target, .. } = &instr.op {
            return Quick::Bra(*target);
        }
        if !fast_cpu() {
            return Quick::No;
        }
        match self.choose(&instr.op) {
            Some((run, operands)) => Quick::Run(run, operands),
            None => Quick::No,
        }
    }

    fn choose(&mut self, op: &Op) -> Option<(Run, Operands)> {
        match op {
            Op::Mov { dst: Reg::B32(d), src, .. } => {
                Some((mov32, Operands { d: *d, a: self.col32(src)?, ..Operands::default() }))
            }
            Op::Mov { dst: Reg::B64(d), src, .. } => {
                Some((mov64, Operands { d: *d, a: self.col64(src)?, ..Operands::default() }))
            }
            Op::Bin { op, ty, mods, dst, a, b } => self.bin(*op, *ty, *mods, *dst, a, b),
            Op::Tern { op, ty, mods, dst, a, b, c } => {
                let plain = *mods == Arith::default() || rounds_to_nearest(*mods);
                match (op, ty, dst) {
                    (TernOp::MadLo, Type::U32 | Type::S32 | Type::B32, Reg::B32(d)) if plain => {
                        let (a, b, c) = (self.col32(a)?, self.col32(b)?, self.col32(c)?);
                        Some((mad_lo, Operands { d: *d, a, b, c }))
                    }
                    (op, Type::F32, Reg::B32(d)) if plain && float::is_fma(*op) => {
                        let (a, b, c) = (self.col32(a)?, self.col32(b)?, self.col32(c)?);
                        Some((fma_f32, Operands { d: *d, a, b, c }))
                    }
                    (TernOp::MadWide, Type::U32 | Type::S32, Reg::B64(d)) if plain => {
                        let (a, b, c) = (self.col32(a)?, self.col32(b)?, self.col64(c)?);
                        let run: Run = if ty.is_signed() { mad_wide_s } else { mad_wide_u };
                        Some((run, Operands { d: *d, a, b, c }))
                    }
                    _ => None,
                }
            }
            Op::Setp { cmp, ty, ftz: false, p: Some(p), q: None, a, b, combine: None } => {
                let run = compare(*cmp, *ty)?;
                Some((run, Operands { d: *p, a: self.col32(a)?, b: self.col32(b)?, c: 0 }))
            }
            Op::Selp { ty, dst: Reg::B32(d), a, b, pred } if ty.bytes() <= 4 => {
                let (yes, no) = if pred.negated { (b, a) } else { (a, b) };
                Some((selp, Operands { d: *d, a: self.col32(yes)?, b: self.col32(no)?, c: pred.reg }))
            }
            _ => None,
        }
    }

    fn bin(
        &mut self,
        op: BinOp,
        ty: Type,
        mods: Arith,
        dst: Reg,
        a: &Src,
        b: &Src,
    ) -> Option<(Run, Operands)> {
        use BinOp::*;
        let signed = ty.is_signed();
        if mods != Arith::default() && !rounds_to_nearest(mods) {
            return None;
        }
        match (ty, dst) {
            (Type::F32, Reg::B32(d)) => {
                let run: Run = match op {
                    Add => add_f32,
                    Sub => sub_f32,
                    Mul | MulLo => mul_f32,
                    Min => min_f32,
                    Max => max_f32,
                    _ => return None,
                };
                Some((run, Operands { d, a: self.col32(a)?, b: self.col32(b)?, c: 0 }))
            }
            (Type::U32 | Type::S32 | Type::B32, Reg::B32(d)) => {
                let run: Run = match op {
                    Add => add,
                    Sub => sub,
                    MulLo => mul_lo,
                    And => and,
                    Or => or,
                    Xor => xor,
                    Shl => shl,
                    Shr if signed => shr_s,
                    Shr => shr_u,
                    Min if signed => min_s,
                    Min => min_u,
                    Max if signed => max_s,
                    Max => max_u,
                    _ => return None,
                };
                Some((run, Operands { d, a: self.col32(a)?, b: self.col32(b)?, c: 0 }))
            }
            (Type::U32 | Type::S32, Reg::B64(d)) if op == MulWide => {
                let run: Run = if signed { mul_wide_s } else { mul_wide_u };
                Some((run, Operands { d, a: self.col32(a)?, b: self.col32(b)?, c: 0 }))
            }
            (Type::U64 | Type::S64 | Type::B64, Reg::B64(d)) => {
                let run: Run = match op {
                    Add => add64,
                    Sub => sub64,
                    And => and64,
                    Or => or64,
                    _ => return None,
                };
                Some((run, Operands { d, a: self.col64(a)?, b: self.col64(b)?, c: 0 }))
            }
            _ => None,
        }
    }
}

/// Nothing but `.rn`.
fn rounds_to_nearest(mods: Arith) -> bool {
    mods == Arith { round: Round::Rn, ..Arith::default() }
}

/// Eight lanes of a column.
#[inline(always)]
fn eight<T: Copy>(column: &[T; 32], i: usize) -> [T; 8] {
    column[8 * i..8 * i + 8].try_into().expect("eight lanes")
}

/// Puts eight lanes back, those of the mask.
#[inline(always)]
fn put<T: Copy>(column: &mut [T; 32], i: usize, value: [T; 8], mask: u32) {
    let to: &mut [T; 8] = (&mut column[8 * i..8 * i + 8]).try_into().expect("eight lanes");
    if mask == u32::MAX {
        *to = value;
    } else {
        *to = std::array::from_fn(|j| if mask >> (8 * i + j) & 1 == 1 { value[j] } else { to[j] });
    }
}

#[inline(always)]
fn apply1<T: Copy>(columns: &mut [[T; 32]], o: &Operands, mask: u32, f: impl Fn(T) -> T) {
    let (d, a) = (o.d as usize, o.a as usize);
    for i in 0..4 {
        let a = eight(&columns[a], i);
        put(&mut columns[d], i, std::array::from_fn(|j| f(a[j])), mask);
    }
}

#[inline(always)]
fn apply2<T: Copy>(columns: &mut [[T; 32]], o: &Operands, mask: u32, f: impl Fn(T, T) -> T) {
    let (d, a, b) = (o.d as usize, o.a as usize, o.b as usize);
    for i in 0..4 {
        let (a, b) = (eight(&columns[a], i), eight(&columns[b], i));
        put(&mut columns[d], i, std::array::from_fn(|j| f(a[j], b[j])), mask);
    }
}

#[inline(always)]
fn apply3(columns: &mut [Col32], o: &Operands, mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
    let (d, a, b, c) = (o.d as usize, o.a as usize, o.b as usize, o.c as usize);
    for i in 0..4 {
        let (a, b, c) = (eight(&columns[a], i), eight(&columns[b], i), eight(&columns[c], i));
        put(&mut columns[d], i, std::array::from_fn(|j| f(a[j], b[j], c[j])), mask);
    }
}

/// Two 32-bit columns and, for `mad.wide`, a 64-bit one, to a 64-bit column.
#[inline(always)]
fn widen(warp: &mut Warp, o: &Operands, mask: u32, mad: bool, f: impl Fn(u32, u32) -> u64) {
    let (a, b) = (&warp.r32[o.a as usize], &warp.r32[o.b as usize]);
    let columns: &mut [Col64] = &mut warp.r64;
    for i in 0..4 {
        let (a, b) = (eight(a, i), eight(b, i));
        let c = if mad { eight(&columns[o.c as usize], i) } else { [0; 8] };
        put(&mut columns[o.d as usize], i, std::array::from_fn(|j| f(a[j], b[j]).wrapping_add(c[j])), mask);
    }
}

#[inline(always)]
fn test(warp: &mut Warp, o: &Operands, mask: u32, f: impl Fn(u32, u32) -> bool) {
    let (a, b) = (&warp.r32[o.a as usize], &warp.r32[o.b as usize]);
    let mut bits = [0u32; 8];
    for i in 0..4 {
        let (a, b) = (eight(a, i), eight(b, i));
        for j in 0..8 {
            bits[j] |= if f(a[j], b[j]) { 1 << (8 * i + j) } else { 0 };
        }
    }
    let lanes = bits.iter().fold(0, |m, b| m | b);
    let pred = &mut warp.preds[o.d as usize];
    *pred = *pred & !mask | lanes & mask;
}

/// Functions of one shape, compiled for AVX2.
macro_rules! runs {
    ($($name:ident: |$warp:ident, $o:ident, $mask:ident| $body:expr;)*) => {
        $(
            #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt"))]
            fn $name($warp: &mut Warp, $o: &Operands, $mask: u32) {
                $body
            }
        )*
    };
}

runs! {
    mov32: |w, o, mask| apply1(&mut w.r32, o, mask, |a| a);
    mov64: |w, o, mask| apply1(&mut w.r64, o, mask, |a| a);
    add: |w, o, mask| apply2(&mut w.r32, o, mask, u32::wrapping_add);
    sub: |w, o, mask| apply2(&mut w.r32, o, mask, u32::wrapping_sub);
    mul_lo: |w, o, mask| apply2(&mut w.r32, o, mask, u32::wrapping_mul);
    and: |w, o, mask| apply2(&mut w.r32, o, mask, |a, b| a & b);
    or: |w, o, mask| apply2(&mut w.r32, o, mask, |a, b| a | b);
    xor: |w, o, mask| apply2(&mut w.r32, o, mask, |a, b| a ^ b);
    shl: |w, o, mask| apply2(&mut w.r32, o, mask, |a, b| if b > 31 { 0 } else { a << (b & 31) });
    shr_u: |w, o, mask| apply2(&mut w.r32, o, mask, |a, b| if b > 31 { 0 } else { a >> (b & 31) });
    shr_s: |w, o, mask| apply2(&mut w.r32, o, mask, |a, b| (a as i32 >> b.min(31)) as u32);
    min_u: |w, o, mask| apply2(&mut w.r32, o, mask, u32::min);
    max_u: |w, o, mask| apply2(&mut w.r32, o, mask, u32::max);
    min_s: |w, o, mask| apply2(&mut w.r32, o, mask, |a, b| (a as i32).min(b as i32) as u32);
    max_s: |w, o, mask| apply2(&mut w.r32, o, mask, |a, b| (a as i32).max(b as i32) as u32);
    add_f32: |w, o, mask| apply2(&mut w.r32, o, mask, float::plain_add);
    sub_f32: |w, o, mask| apply2(&mut w.r32, o, mask, float::plain_sub);
    mul_f32: |w, o, mask| apply2(&mut w.r32, o, mask, float::plain_mul);
    min_f32: |w, o, mask| apply2(&mut w.r32, o, mask, float::plain_min);
    max_f32: |w, o, mask| apply2(&mut w.r32, o, mask, float::plain_max);
    fma_f32: |w, o, mask| apply3(&mut w.r32, o, mask, float::plain_fma);
    mad_lo: |w, o, mask| apply3(&mut w.r32, o, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    add64: |w, o, mask| apply2(&mut w.r64, o, mask, u64::wrapping_add);
    sub64: |w, o, mask| apply2(&mut w.r64, o, mask, u64::wrapping_sub);
    and64: |w, o, mask| apply2(&mut w.r64, o, mask, |a, b| a & b);
    or64: |w, o, mask| apply2(&mut w.r64, o, mask, |a, b| a | b);
    mul_wide_u: |w, o, mask| widen(w, o, mask, false, |a, b| u64::from(a) * u64::from(b));
    mul_wide_s: |w, o, mask| widen(w, o, mask, false, |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64);
    mad_wide_u: |w, o, mask| widen(w, o, mask, true, |a, b| u64::from(a) * u64::from(b));
    mad_wide_s: |w, o, mask| widen(w, o, mask, true, |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64);
    eq: |w, o, mask| test(w, o, mask, |a, b| a == b);
    ne: |w, o, mask| test(w, o, mask, |a, b| a != b);
    lt_u: |w, o, mask| test(w, o, mask, |a, b| a < b);
    le_u: |w, o, mask| test(w, o, mask, |a, b| a <= b);
    gt_u: |w, o, mask| test(w, o, mask, |a, b| a > b);
    ge_u: |w, o, mask| test(w, o, mask, |a, b| a >= b);
    lt_s: |w, o, mask| test(w, o, mask, |a, b| (a as i32) < b as i32);
    le_s: |w, o, mask| test(w, o, mask, |a, b| a as i32 <= b as i32);
    gt_s: |w, o, mask| test(w, o, mask, |a, b| a as i32 > b as i32);
    ge_s: |w, o, mask| test(w, o, mask, |a, b| a as i32 >= b as i32);
    selp: |w, o, mask| {
        let lanes = w.preds[o.c as usize];
        let columns: &mut [Col32] = &mut w.r32;
        for i in 0..4 {
            let (a, b) = (eight(&columns[o.a as usize], i), eight(&columns[o.b as usize], i));
            let value = std::array::from_fn(|j| if lanes >> (8 * i + j) & 1 == 1 { a[j] } else { b[j] });
            put(&mut columns[o.d as usize], i, value, mask);
        }
    };
}

fn compare(cmp: Cmp, ty: Type) -> Option<Run> {
    Some(match (cmp, ty) {
        (Cmp::Eq, Type::U32 | Type::S32 | Type::B32) => eq,
        (Cmp::Ne, Type::U32 | Type::S32 | Type::B32) => ne,
        (Cmp::Lt, Type::S32) => lt_s,
        (Cmp::Le, Type::S32) => le_s,
        (Cmp::Gt, Type::S32) => gt_s,
        (Cmp::Ge, Type::S32) => ge_s,
        (Cmp::Lt | Cmp::Lo, Type::U32) => lt_u,
        (Cmp::Le | Cmp::Ls, Type::U32) => le_u,
        (Cmp::Gt | Cmp::Hi, Type::U32) => gt_u,
        (Cmp::Ge | Cmp::Hs, Type::U32) => ge_u,
        _ => return None,
    })
}
