//! Moves, comparisons, selections and conversions: fetching columns, choosing the loop, writing back. Arithmetic is in
//! [`super::arith`].

use std::mem::MaybeUninit;

use super::convert::convert_lane;
use super::{Core, Flow, Out, Step, float, int};
use crate::ir::{BoolOp, Cmp, Op, PredSrc, Reg, Src, Type};
use crate::machine::warp::Col32;

/// How the operands of a type are held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// 8 or 16 bits in a 32-bit column.
    Narrow(u32),
    Single,
    Double,
}

#[inline(always)]
pub(super) fn width(ty: Type) -> Width {
    match ty.bytes() {
        1 => Width::Narrow(8),
        2 => Width::Narrow(16),
        8 => Width::Double,
        _ => Width::Single,
    }
}

/// `Some((bf16, packed))` for 16-bit floating-point types.
pub(super) fn half(ty: Type) -> Option<(bool, bool)> {
    match ty {
        Type::F16 => Some((false, false)),
        Type::F16x2 => Some((false, true)),
        Type::BF16 => Some((true, false)),
        Type::BF16x2 => Some((true, true)),
        _ => None,
    }
}

/// Room for a constant operand.
#[inline(always)]
pub(super) fn buffer<T>() -> MaybeUninit<T> {
    MaybeUninit::uninit()
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
    pub(super) fn get_extended(&self, src: &Src, bits: u32, signed: bool) -> Col32 {
        let mut d = [0; 32];
        int::extend(bits, signed, self.ref32(src, &mut buffer()), &mut d);
        d
    }

    /// Executes one of the operations of this file.
    #[inline]
    pub(super) fn alu(&mut self, op: &Op, mask: u32, out: &mut Out) -> Step {
        let known = match op {
            Op::Mov { ty: _, dst, src } => self.mov(*dst, src, mask),
            Op::Bin { op, ty, mods, dst, a, b } => self.bin(*op, *ty, *mods, *dst, [a, b], mask, out),
            Op::Tern { op, ty, mods, dst, a, b, c } => self.tern(*op, *ty, *mods, *dst, [a, b, c], mask, out),
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
            Op::Un { op, ty, mods, dst, a } => self.un(*op, *ty, *mods, *dst, a, mask, out),
            Op::Cvt { to, from, mods, dst, a, b } => self.cvt(*to, *from, *mods, *dst, a, b.as_ref(), mask),
            Op::Pack { ty, .. } | Op::Unpack { ty, .. } if ty.bytes() > 8 => false,
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
            Op::Slct { ty: _, cond_ty, ftz, dst, a, b, c } => {
                let (x, y, c) = (self.get64(a), self.get64(b), self.get32(c));
                let first = |v: u32| match cond_ty {
                    // A subnormal becomes a zero of its sign, and -0 is not below 0.
                    Type::F32 => f32::from_bits(v) >= 0.0 || *ftz && v & 0x7f80_0000 == 0,
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

    /// The lanes where a comparison holds.
    #[inline(always)]
    fn compare(&self, cmp: Cmp, ty: Type, ftz: bool, a: &Src, b: &Src) -> Option<u32> {
        let signed = ty.is_signed();
        Some(match ty {
            Type::F32 => float::cmp_f32(cmp, ftz, self.ref32(a, &mut buffer()), self.ref32(b, &mut buffer())),
            Type::F64 => float::cmp_f64(cmp, self.ref64(a, &mut buffer()), self.ref64(b, &mut buffer())),
            Type::F16 | Type::BF16 => float::cmp_half(
                cmp,
                ty == Type::BF16,
                ftz,
                self.ref32(a, &mut buffer()),
                self.ref32(b, &mut buffer()),
            ),
            Type::Pred => int::cmp32(cmp, false, self.ref32(a, &mut buffer()), self.ref32(b, &mut buffer())),
            ty if ty.is_float() => return None,
            ty => match width(ty) {
                Width::Double => {
                    int::cmp64(cmp, signed, self.ref64(a, &mut buffer()), self.ref64(b, &mut buffer()))
                }
                Width::Single => {
                    int::cmp32(cmp, signed, self.ref32(a, &mut buffer()), self.ref32(b, &mut buffer()))
                }
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
