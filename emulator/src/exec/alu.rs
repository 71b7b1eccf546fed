//! Moves, arithmetic, comparisons, selections and conversions: fetching columns, choosing the loop, writing back.

use super::convert::convert_lane;
use super::{Core, Flow, Step, float, int};
use crate::ir::{BinOp, BoolOp, Cmp, Op, PredSrc, Reg, Src, TernOp, Type, UnOp};
use crate::machine::warp::{Col32, Col64};

/// How the operands of a type are held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    /// 8 or 16 bits in a 32-bit column.
    Narrow(u32),
    Single,
    Double,
}

fn width(ty: Type) -> Width {
    match ty.bytes() {
        1 => Width::Narrow(8),
        2 => Width::Narrow(16),
        8 => Width::Double,
        _ => Width::Single,
    }
}

/// `Some((bf16, packed))` for 16-bit floating-point types.
fn half(ty: Type) -> Option<(bool, bool)> {
    match ty {
        Type::F16 => Some((false, false)),
        Type::F16x2 => Some((false, true)),
        Type::BF16 => Some((true, false)),
        Type::BF16x2 => Some((true, true)),
        _ => None,
    }
}

fn combine(op: BoolOp, a: u32, b: u32) -> u32 {
    match op {
        BoolOp::And => a & b,
        BoolOp::Or => a | b,
        BoolOp::Xor => a ^ b,
    }
}

impl Core<'_> {
    /// A source extended from the narrow width.
    #[inline(always)]
    fn get_extended(&self, src: &Src, bits: u32, signed: bool) -> Col32 {
        let mut d = [0; 32];
        int::extend(bits, signed, &self.get32(src), &mut d);
        d
    }

    /// Executes one of the operations of this file.
    #[inline]
    pub(super) fn alu(&mut self, op: &Op, mask: u32) -> Step {
        let known = match op {
            Op::Mov { ty: _, dst, src } => self.mov(*dst, src, mask),
            Op::Bin { op, ty, mods, dst, a, b } => {
                if ty.is_float() {
                    self.bin_float(*op, *ty, *mods, *dst, a, b, mask)
                } else {
                    self.bin_int(*op, *ty, mods.sat, *dst, a, b, mask)
                }
            }
            Op::Tern { op, ty, mods, dst, a, b, c } => self.tern(*op, *ty, *mods, *dst, [a, b, c], mask),
            Op::Setp { cmp, ty, ftz, p, q, a, b, combine: with } => {
                self.setp(*cmp, *ty, *ftz, (*p, *q), a, b, *with, mask)
            }
            Op::Selp { ty, dst, a, b, pred } => {
                let lanes = self.pred(*pred);
                if ty.bytes() == 8 {
                    let (x, mut out) = (self.get64(a), self.get64(b));
                    super::lanes::blend64(&mut out, &x, lanes);
                    self.set(*dst, &out, mask);
                } else if let Reg::B32(r) = dst {
                    let (x, mut out) = (self.get32(a), self.get32(b));
                    super::lanes::blend32(&mut out, &x, lanes);
                    self.set32(*r, &out, mask);
                } else {
                    return Err(self.unsupported(mask));
                }
                true
            }
            Op::Un { op, ty, mods, dst, a } => self.un(*op, *ty, *mods, *dst, a, mask),
            Op::Cvt { to, from, mods, dst, a, b } => self.cvt(*to, *from, *mods, *dst, a, b.as_ref(), mask),
            Op::Pack { ty, dst, srcs } => {
                let bits = ty.bytes() * 8 / srcs.len() as u32;
                let part = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
                let mut out = [0u64; 32];
                for (i, src) in srcs.iter().enumerate() {
                    let col = self.get64(src);
                    for lane in 0..32 {
                        out[lane] |= (col[lane] & part) << (bits * i as u32);
                    }
                }
                self.set(*dst, &out, mask);
                true
            }
            Op::Unpack { ty, dsts, src } => {
                let bits = ty.bytes() * 8 / dsts.len() as u32;
                let part = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
                let col = self.get64(src);
                for (i, dst) in dsts.iter().enumerate() {
                    if let Some(dst) = dst {
                        self.set(*dst, &col.map(|v| v >> (bits * i as u32) & part), mask);
                    }
                }
                true
            }
            Op::Bfi { ty, dst, a, b, pos, len } => {
                let (a, b, pos, len) = (self.get64(a), self.get64(b), self.get32(pos), self.get32(len));
                let width = ty.bytes() * 8;
                self.set(*dst, &std::array::from_fn(|i| int::bfi(a[i], b[i], pos[i], len[i], width)), mask);
                true
            }
            Op::Set { cmp, dst_ty, ty, ftz, dst, a, b, combine: with } => match self
                .compare(*cmp, *ty, *ftz, a, b)
            {
                None => false,
                Some(mut lanes) => {
                    if let Some((op, pred)) = with {
                        lanes = combine(*op, lanes, self.pred(*pred));
                    }
                    let yes = match dst_ty {
                        Type::F32 => 1f32.to_bits() as u64,
                        Type::F16 => 0x3c00,
                        Type::BF16 => 0x3f80,
                        _ => u64::MAX >> (64 - dst_ty.bytes() * 8),
                    };
                    self.set(*dst, &std::array::from_fn(|i| if lanes >> i & 1 == 1 { yes } else { 0 }), mask);
                    true
                }
            },
            Op::PredBin { op, dst, a, b } => {
                let value = combine(*op, self.pred_src(a), self.pred_src(b));
                self.set_pred(*dst, value, mask);
                true
            }
            Op::PredNot { dst, a } => {
                let value = !self.pred_src(a);
                self.set_pred(*dst, value, mask);
                true
            }
            Op::Slct { ty: _, cond_ty, dst, a, b, c } => {
                let (x, y, c) = (self.get64(a), self.get64(b), self.get32(c));
                let first = |v: u32| match cond_ty {
                    Type::F32 => f32::from_bits(v) >= 0.0,
                    _ => v as i32 >= 0,
                };
                self.set(*dst, &std::array::from_fn(|i| if first(c[i]) { x[i] } else { y[i] }), mask);
                true
            }
            _ => false,
        };
        if known { Ok(Flow::Next) } else { Err(self.unsupported(mask)) }
    }

    #[inline(always)]
    fn mov(&mut self, dst: Reg, src: &Src, mask: u32) -> bool {
        match dst {
            Reg::B32(r) => {
                let value = self.get32(src);
                self.set32(r, &value, mask);
            }
            Reg::B64(r) => {
                let value = self.get64(src);
                self.set64(r, &value, mask);
            }
            Reg::Pred(p) => {
                let value = self.pred_src(src);
                self.set_pred(p, value, mask);
            }
        }
        true
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn bin_int(&mut self, op: BinOp, ty: Type, sat: bool, dst: Reg, a: &Src, b: &Src, mask: u32) -> bool {
        use BinOp::*;
        let signed = ty.is_signed();
        if matches!(op, AddCc | AddC | AddCCc | SubCc | SubC | SubCCc) {
            return self.carry(op, ty, dst, a, b, mask);
        }
        match (width(ty), dst) {
            (Width::Single, Reg::B32(r)) => {
                let mut d = [0; 32];
                if !int::bin32(op, signed, sat, &self.get32(a), &self.get32(b), &mut d) {
                    return false;
                }
                self.set32(r, &d, mask);
            }
            (Width::Single, Reg::B64(r)) if op == MulWide => {
                let mut d = [0; 32];
                int::wide32(signed, &self.get32(a), &self.get32(b), &mut d);
                self.set64(r, &d, mask);
            }
            (Width::Double, Reg::B64(r)) => {
                let mut d = [0; 32];
                if !int::bin64(op, signed, &self.get64(a), &self.get64(b), &mut d) {
                    return false;
                }
                self.set64(r, &d, mask);
            }
            (Width::Narrow(bits), Reg::B32(r)) => {
                let x = self.get_extended(a, bits, signed);
                let y =
                    if matches!(op, Shl | Shr) { self.get32(b) } else { self.get_extended(b, bits, signed) };
                let mut d = [0; 32];
                match op {
                    MulWide => {
                        int::bin32(MulLo, signed, false, &x, &y, &mut d);
                        self.set32(r, &d, mask);
                        return true;
                    }
                    MulHi => {
                        int::bin32(MulLo, signed, false, &x, &y, &mut d);
                        d = d.map(|v| v >> bits);
                    }
                    _ => {
                        if !int::bin32(op, signed, false, &x, &y, &mut d) {
                            return false;
                        }
                    }
                }
                let cut = (1u32 << bits) - 1;
                self.set32(r, &d.map(|v| v & cut), mask);
            }
            _ => return false,
        }
        true
    }

    /// Addition and subtraction through the carry flag.
    fn carry(&mut self, op: BinOp, ty: Type, dst: Reg, a: &Src, b: &Src, mask: u32) -> bool {
        use BinOp::*;
        let width = ty.bytes() * 8;
        let full = u64::MAX >> (64 - width);
        let subtract = matches!(op, SubCc | SubC | SubCCc);
        let uses = matches!(op, AddC | AddCCc | SubC | SubCCc);
        let sets = matches!(op, AddCc | AddCCc | SubCc | SubCCc);
        let (x, y) = (self.get64(a), self.get64(b));
        let mut out = [0u64; 32];
        let mut carry = 0u32;
        for i in 0..32 {
            let flag = (uses && self.warp.carry >> i & 1 == 1) as u128;
            let (x, y) = ((x[i] & full) as u128, (y[i] & full) as u128);
            // The flag of a subtraction is the borrow.
            let value = if subtract { x.wrapping_sub(y).wrapping_sub(flag) } else { x + y + flag };
            out[i] = value as u64 & full;
            carry |= ((value >> width & 1) as u32) << i;
        }
        self.set(dst, &out, mask);
        if sets {
            self.warp.carry = self.warp.carry & !mask | carry & mask;
        }
        true
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn bin_float(
        &mut self,
        op: BinOp,
        ty: Type,
        mods: crate::ir::Arith,
        dst: Reg,
        a: &Src,
        b: &Src,
        mask: u32,
    ) -> bool {
        match (ty, dst) {
            (Type::F32, Reg::B32(r)) => {
                let mut d = [0; 32];
                if !float::bin_f32(op, mods, &self.get32(a), &self.get32(b), &mut d) {
                    return false;
                }
                self.set32(r, &d, mask);
            }
            (Type::F64, Reg::B64(r)) => {
                let mut d = [0; 32];
                if !float::bin_f64(op, mods, &self.get64(a), &self.get64(b), &mut d) {
                    return false;
                }
                self.set64(r, &d, mask);
            }
            (ty, Reg::B32(r)) => {
                let Some((bf, packed)) = half(ty) else { return false };
                let mut d = [0; 32];
                if !float::bin_half(op, bf, packed, mods, &self.get32(a), &self.get32(b), &mut d) {
                    return false;
                }
                self.set32(r, &d, mask);
            }
            _ => return false,
        }
        true
    }

    #[inline(always)]
    fn tern(
        &mut self,
        op: TernOp,
        ty: Type,
        mods: crate::ir::Arith,
        dst: Reg,
        [a, b, c]: [&Src; 3],
        mask: u32,
    ) -> bool {
        let signed = ty.is_signed();
        if ty.is_float() {
            if !float::is_fma(op) {
                return false;
            }
            return match (ty, dst) {
                (Type::F32, Reg::B32(r)) => {
                    let mut d = [0; 32];
                    float::fma_f32(mods, &self.get32(a), &self.get32(b), &self.get32(c), &mut d);
                    self.set32(r, &d, mask);
                    true
                }
                (Type::F64, Reg::B64(r)) => {
                    let mut d = [0; 32];
                    let known = float::fma_f64(mods, &self.get64(a), &self.get64(b), &self.get64(c), &mut d);
                    self.set64(r, &d, mask);
                    known
                }
                (ty, Reg::B32(r)) => {
                    let Some((bf, packed)) = half(ty) else { return false };
                    let mut d = [0; 32];
                    float::fma_half(bf, packed, mods, &self.get32(a), &self.get32(b), &self.get32(c), &mut d);
                    self.set32(r, &d, mask);
                    true
                }
                _ => false,
            };
        }
        match (width(ty), op, dst) {
            (Width::Single, TernOp::MadWide, Reg::B64(r)) => {
                let mut product = [0; 32];
                int::wide32(signed, &self.get32(a), &self.get32(b), &mut product);
                let mut d: Col64 = [0; 32];
                int::bin64(BinOp::Add, signed, &product, &self.get64(c), &mut d);
                self.set64(r, &d, mask);
            }
            (Width::Narrow(bits), TernOp::MadWide, Reg::B32(r)) => {
                let (x, y) = (self.get_extended(a, bits, signed), self.get_extended(b, bits, signed));
                let mut d = [0; 32];
                int::tern32(TernOp::MadLo, signed, false, &x, &y, &self.get32(c), &mut d);
                self.set32(r, &d, mask);
            }
            (Width::Narrow(bits), TernOp::MadLo | TernOp::Sad, Reg::B32(r)) => {
                let x = self.get_extended(a, bits, signed);
                let y = self.get_extended(b, bits, signed);
                let mut d = [0; 32];
                int::tern32(op, signed, false, &x, &y, &self.get32(c), &mut d);
                let cut = (1u32 << bits) - 1;
                self.set32(r, &d.map(|v| v & cut), mask);
            }
            (Width::Single, _, Reg::B32(r)) => {
                let mut d = [0; 32];
                let (x, y, z) = (self.get32(a), self.get32(b), self.get32(c));
                if !int::tern32(op, signed, mods.sat, &x, &y, &z, &mut d) {
                    return false;
                }
                self.set32(r, &d, mask);
            }
            (Width::Double, _, Reg::B64(r)) => {
                let mut d = [0; 32];
                if !int::tern64(op, signed, &self.get64(a), &self.get64(b), &self.get64(c), &mut d) {
                    return false;
                }
                self.set64(r, &d, mask);
            }
            _ => return false,
        }
        true
    }

    /// The lanes where a comparison holds.
    #[inline(always)]
    fn compare(&self, cmp: Cmp, ty: Type, ftz: bool, a: &Src, b: &Src) -> Option<u32> {
        let signed = ty.is_signed();
        Some(match ty {
            Type::F32 => float::cmp_f32(cmp, ftz, &self.get32(a), &self.get32(b)),
            Type::F64 => float::cmp_f64(cmp, &self.get64(a), &self.get64(b)),
            Type::F16 | Type::BF16 => {
                float::cmp_half(cmp, ty == Type::BF16, ftz, &self.get32(a), &self.get32(b))
            }
            Type::Pred => int::cmp32(cmp, false, &self.get32(a), &self.get32(b)),
            ty if ty.is_float() => return None,
            ty => match width(ty) {
                Width::Double => int::cmp64(cmp, signed, &self.get64(a), &self.get64(b)),
                Width::Single => int::cmp32(cmp, signed, &self.get32(a), &self.get32(b)),
                Width::Narrow(bits) => int::cmp32(
                    cmp,
                    signed,
                    &self.get_extended(a, bits, signed),
                    &self.get_extended(b, bits, signed),
                ),
            },
        })
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn setp(
        &mut self,
        cmp: Cmp,
        ty: Type,
        ftz: bool,
        (p, q): (Option<u32>, Option<u32>),
        a: &Src,
        b: &Src,
        with: Option<(BoolOp, PredSrc)>,
        mask: u32,
    ) -> bool {
        if matches!(ty, Type::F16x2 | Type::BF16x2) {
            return self.setp_pair(cmp, ty, ftz, (p, q), a, b, with, mask);
        }
        let Some(lanes) = self.compare(cmp, ty, ftz, a, b) else { return false };
        let (yes, no) = match with {
            None => (lanes, !lanes),
            Some((op, pred)) => {
                let third = self.pred(pred);
                (combine(op, lanes, third), combine(op, !lanes, third))
            }
        };
        if let Some(p) = p {
            self.set_pred(p, yes, mask);
        }
        if let Some(q) = q {
            self.set_pred(q, no, mask);
        }
        true
    }

    /// `setp.f16x2 p|q`: `p` compares the low halves, `q` the high ones.
    #[allow(clippy::too_many_arguments)]
    fn setp_pair(
        &mut self,
        cmp: Cmp,
        ty: Type,
        ftz: bool,
        (p, q): (Option<u32>, Option<u32>),
        a: &Src,
        b: &Src,
        with: Option<(BoolOp, PredSrc)>,
        mask: u32,
    ) -> bool {
        let (a, b, bf) = (self.get32(a), self.get32(b), ty == Type::BF16x2);
        let third = with.map(|(op, pred)| (op, self.pred(pred)));
        let finish = |lanes: u32| third.map_or(lanes, |(op, other)| combine(op, lanes, other));
        let low = finish(float::cmp_half(cmp, bf, ftz, &a, &b));
        let high = finish(float::cmp_half(cmp, bf, ftz, &a.map(|v| v >> 16), &b.map(|v| v >> 16)));
        if let Some(p) = p {
            self.set_pred(p, low, mask);
        }
        if let Some(q) = q {
            self.set_pred(q, high, mask);
        }
        true
    }

    fn un(&mut self, op: UnOp, ty: Type, mods: crate::ir::Arith, dst: Reg, a: &Src, mask: u32) -> bool {
        if let Reg::Pred(p) = dst {
            let lanes = match ty {
                Type::F32 => float::testp_f32(op, &self.get32(a)),
                Type::F64 => float::testp_f64(op, &self.get64(a)),
                _ => None,
            };
            let Some(lanes) = lanes else { return false };
            self.set_pred(p, lanes, mask);
            return true;
        }
        match (ty, dst) {
            (Type::F32, Reg::B32(r)) => {
                let mut d = [0; 32];
                if !float::un_f32(op, mods, &self.get32(a), &mut d) {
                    return false;
                }
                self.set32(r, &d, mask);
            }
            (Type::F64, Reg::B64(r)) => {
                let mut d = [0; 32];
                if !float::un_f64(op, mods, &self.get64(a), &mut d) {
                    return false;
                }
                self.set64(r, &d, mask);
            }
            (ty, Reg::B32(r)) if ty.is_float() => {
                let Some((bf, packed)) = half(ty) else { return false };
                let mut d = [0; 32];
                if !float::un_half(op, bf, packed, mods, &self.get32(a), &mut d) {
                    return false;
                }
                self.set32(r, &d, mask);
            }
            (ty, dst) => match width(ty) {
                Width::Double => {
                    let mut d = [0; 32];
                    if !int::un64(op, ty.is_signed(), &self.get64(a), &mut d) {
                        return false;
                    }
                    self.set(dst, &d, mask);
                }
                Width::Single => {
                    let Reg::B32(r) = dst else { return false };
                    let mut d = [0; 32];
                    if !int::un32(op, ty.is_signed(), &self.get32(a), &mut d) {
                        return false;
                    }
                    self.set32(r, &d, mask);
                }
                Width::Narrow(bits) => {
                    let Reg::B32(r) = dst else { return false };
                    let mut d = [0; 32];
                    let x = self.get_extended(a, bits, ty.is_signed());
                    if !int::un32(op, ty.is_signed(), &x, &mut d) {
                        return false;
                    }
                    let cut = (1u32 << bits) - 1;
                    self.set32(r, &d.map(|v| v & cut), mask);
                }
            },
        }
        true
    }

    #[allow(clippy::too_many_arguments)]
    fn cvt(
        &mut self,
        to: Type,
        from: Type,
        mods: crate::ir::Arith,
        dst: Reg,
        a: &Src,
        b: Option<&Src>,
        mask: u32,
    ) -> bool {
        let x = self.get64(a);
        let y = b.map(|b| self.get64(b));
        let mut out = [0u64; 32];
        let mut known = true;
        super::lanes::each(mask, |i| match convert_lane(to, from, mods, x[i], y.map(|y| y[i])) {
            Some(value) => out[i] = value,
            None => known = false,
        });
        if known {
            // A signed narrow result extends to whatever register receives it.
            if let (Reg::B64(_), Type::S8 | Type::S16 | Type::S32) = (dst, to) {
                out = out.map(|v| v as i32 as i64 as u64);
            }
            self.set(dst, &out, mask);
        }
        known
    }
}
