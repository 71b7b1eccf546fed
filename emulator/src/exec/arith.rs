//! Arithmetic and logic: choosing the loop by operation and type, fetching columns, writing back.
//!
//! Results go through [`Out`], which lives as long as a warp's turn: the loops overwrite it entirely, so it need not be
//! cleared for each instruction, and a source may be the destination.

use super::alu::{Width, buffer, half, width};
use super::{Core, float, int};
use crate::ir::{Arith, BinOp, Reg, Src, TernOp, Type, UnOp};
use crate::machine::warp::{Col32, Col64};

/// Results on their way to a register.
pub(crate) struct Out {
    w32: Col32,
    w64: Col64,
}

impl Out {
    pub(crate) fn new() -> Self {
        Out { w32: [0; 32], w64: [0; 32] }
    }

    /// `.relu` of `min` and `max`. True, to end a chain of conditions.
    fn relu(&mut self, relu: bool) -> bool {
        if relu {
            self.w32.iter_mut().for_each(|v| *v = (*v as i32).max(0) as u32);
        }
        true
    }

    /// Keeps the low bits of narrow results.
    fn cut(&mut self, bits: u32) {
        let cut = (1u32 << bits) - 1;
        self.w32.iter_mut().for_each(|v| *v &= cut);
    }
}

impl Core<'_> {
    /// Two operands. False: no such operation.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn bin(
        &mut self,
        op: BinOp,
        ty: Type,
        mods: Arith,
        dst: Reg,
        [a, b]: [&Src; 2],
        mask: u32,
        out: &mut Out,
    ) -> bool {
        use BinOp::*;
        if matches!(op, AddCc | AddC | AddCCc | SubCc | SubC | SubCCc) {
            return self.carry(op, ty, dst, a, b, mask);
        }
        let signed = ty.is_signed();
        match dst {
            Reg::B32(r) => {
                let (mut ba, mut bb) = (buffer(), buffer());
                let known = if ty == Type::F32 {
                    let (x, y) = (self.ref32(a, &mut ba), self.ref32(b, &mut bb));
                    float::bin_f32(op, mods, x, y, &mut out.w32)
                } else if ty.is_float() {
                    let Some((bf, packed)) = half(ty) else { return false };
                    let (x, y) = (self.ref32(a, &mut ba), self.ref32(b, &mut bb));
                    float::bin_half(op, bf, packed, mods, x, y, &mut out.w32)
                } else {
                    match width(ty) {
                        Width::Single => {
                            let (x, y) = (self.ref32(a, &mut ba), self.ref32(b, &mut bb));
                            int::bin32(op, signed, mods.sat, x, y, &mut out.w32) && out.relu(mods.relu)
                        }
                        Width::Narrow(bits) => self.bin_narrow(op, bits, signed, mods.relu, [a, b], out),
                        Width::Double => false,
                    }
                };
                if known {
                    self.set32(r, &out.w32, mask);
                }
                known
            }
            Reg::B64(r) => {
                let known = if op == MulWide {
                    let (mut ba, mut bb) = (buffer(), buffer());
                    int::wide32(signed, self.ref32(a, &mut ba), self.ref32(b, &mut bb), &mut out.w64)
                } else {
                    let (mut ba, mut bb) = (buffer(), buffer());
                    let (x, y) = (self.ref64(a, &mut ba), self.ref64(b, &mut bb));
                    if ty == Type::F64 {
                        float::bin_f64(op, mods, x, y, &mut out.w64)
                    } else {
                        width(ty) == Width::Double && int::bin64(op, signed, x, y, &mut out.w64)
                    }
                };
                if known {
                    self.set64(r, &out.w64, mask);
                }
                known
            }
            Reg::Pred(_) => false,
        }
    }

    /// Operands of 8 or 16 bits: extended, computed in 32, cut back (a wide product is not).
    fn bin_narrow(
        &self,
        op: BinOp,
        bits: u32,
        signed: bool,
        relu: bool,
        [a, b]: [&Src; 2],
        out: &mut Out,
    ) -> bool {
        use BinOp::*;
        let x = self.get_extended(a, bits, signed);
        // Shift amounts are 32-bit values.
        let y = if matches!(op, Shl | Shr) { self.get32(b) } else { self.get_extended(b, bits, signed) };
        let plain = if matches!(op, MulWide | MulHi) { MulLo } else { op };
        if !int::bin32(plain, signed, false, &x, &y, &mut out.w32) {
            return false;
        }
        if op == MulHi {
            out.w32.iter_mut().for_each(|v| *v >>= bits);
        }
        out.relu(relu);
        if op != MulWide {
            out.cut(bits);
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
            // A subtraction adds the complement and 1, and so leaves 1 in the flag where nothing was borrowed: what nvcc's own
            // division of 128 bits reads with `addc`, and what ptxas folds.
            let flag = if uses { (self.warp.carry >> i & 1) as u128 } else { subtract as u128 };
            let (x, y) = (x[i] & full, y[i] & full);
            let y = if subtract { !y & full } else { y };
            let value = x as u128 + y as u128 + flag;
            out[i] = value as u64 & full;
            carry |= ((value >> width & 1) as u32) << i;
        }
        self.set(dst, &out, mask);
        if sets {
            self.warp.carry = self.warp.carry & !mask | carry & mask;
        }
        true
    }

    /// Three operands. False: no such operation.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn tern(
        &mut self,
        op: TernOp,
        ty: Type,
        mods: Arith,
        dst: Reg,
        [a, b, c]: [&Src; 3],
        mask: u32,
        out: &mut Out,
    ) -> bool {
        let signed = ty.is_signed();
        if ty.is_float() && !float::is_fma(op) {
            return false;
        }
        match dst {
            Reg::B32(r) => {
                let narrow = !ty.is_float() && matches!(width(ty), Width::Narrow(_));
                let known = if narrow {
                    self.tern_narrow(op, ty, [a, b, c], out)
                } else {
                    let (mut ba, mut bb, mut bc) = (buffer(), buffer(), buffer());
                    let (x, y, z) = (self.ref32(a, &mut ba), self.ref32(b, &mut bb), self.ref32(c, &mut bc));
                    match (ty, half(ty)) {
                        (Type::F32, _) => float::fma_f32(mods, x, y, z, &mut out.w32),
                        (_, Some((bf, packed))) => float::fma_half(bf, packed, mods, x, y, z, &mut out.w32),
                        _ => !ty.is_float() && int::tern32(op, signed, mods.sat, x, y, z, &mut out.w32),
                    }
                };
                if known {
                    self.set32(r, &out.w32, mask);
                }
                known
            }
            Reg::B64(r) => {
                let mut bc = buffer();
                let known = if op == TernOp::MadWide {
                    let (mut ba, mut bb) = (buffer(), buffer());
                    let mut product = [0; 32];
                    int::wide32(signed, self.ref32(a, &mut ba), self.ref32(b, &mut bb), &mut product);
                    int::bin64(BinOp::Add, signed, &product, self.ref64(c, &mut bc), &mut out.w64)
                } else {
                    let (mut ba, mut bb) = (buffer(), buffer());
                    let (x, y, z) = (self.ref64(a, &mut ba), self.ref64(b, &mut bb), self.ref64(c, &mut bc));
                    if ty == Type::F64 {
                        float::fma_f64(mods, x, y, z, &mut out.w64)
                    } else {
                        width(ty) == Width::Double && int::tern64(op, signed, x, y, z, &mut out.w64)
                    }
                };
                if known {
                    self.set64(r, &out.w64, mask);
                }
                known
            }
            Reg::Pred(_) => false,
        }
    }

    /// `mad` and `sad` of 8 or 16 bits. A wide `mad` adds 32 bits and keeps them.
    fn tern_narrow(&self, op: TernOp, ty: Type, [a, b, c]: [&Src; 3], out: &mut Out) -> bool {
        let (bits, signed) = (ty.bytes() * 8, ty.is_signed());
        let (x, y) = (self.get_extended(a, bits, signed), self.get_extended(b, bits, signed));
        let z = self.get32(c);
        match op {
            TernOp::MadWide => int::tern32(TernOp::MadLo, signed, false, &x, &y, &z, &mut out.w32),
            TernOp::MadLo | TernOp::Sad => {
                let known = int::tern32(op, signed, false, &x, &y, &z, &mut out.w32);
                out.cut(bits);
                known
            }
            TernOp::MadHi => {
                let known = int::bin32(BinOp::MulLo, signed, false, &x, &y, &mut out.w32);
                for (d, z) in out.w32.iter_mut().zip(z) {
                    *d = (*d >> bits).wrapping_add(z);
                }
                out.cut(bits);
                known
            }
            _ => false,
        }
    }

    /// One operand. False: no such operation.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn un(
        &mut self,
        op: UnOp,
        ty: Type,
        mods: Arith,
        dst: Reg,
        a: &Src,
        mask: u32,
        out: &mut Out,
    ) -> bool {
        let signed = ty.is_signed();
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
        if ty == Type::F64 || (!ty.is_float() && width(ty) == Width::Double) {
            let mut ba = buffer();
            let x = self.ref64(a, &mut ba);
            let known = if ty == Type::F64 {
                float::un_f64(op, mods, x, &mut out.w64)
            } else {
                int::un64(op, signed, x, &mut out.w64)
            };
            if known {
                // `popc`, `clz` and `bfind` of 64 bits have 32-bit results.
                self.set(dst, &out.w64, mask);
            }
            return known;
        }
        let Reg::B32(r) = dst else { return false };
        let mut ba = buffer();
        let known = match (ty, half(ty)) {
            (Type::F32, _) => float::un_f32(op, mods, self.ref32(a, &mut ba), &mut out.w32),
            (_, Some((bf, packed))) => {
                float::un_half(op, bf, packed, mods, self.ref32(a, &mut ba), &mut out.w32)
            }
            _ if ty.is_float() => false,
            _ => match width(ty) {
                Width::Narrow(bits) => {
                    let known = int::un32(op, signed, &self.get_extended(a, bits, signed), &mut out.w32);
                    out.cut(bits);
                    known
                }
                _ => int::un32(op, signed, self.ref32(a, &mut ba), &mut out.w32),
            },
        };
        if known {
            self.set32(r, &out.w32, mask);
        }
        known
    }
}
