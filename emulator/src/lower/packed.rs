//! Pairs of 16-bit integers in one register (`.u16x2`, `.s16x2`): taken apart, worked on, put together again.

use crate::ir::{Arith, BinOp, Op, Reg, Src, Type};
use crate::ptx::Result;

use super::family::Line;

use Type::*;

/// The element type, if one of these instructions works on pairs.
pub(super) fn element(l: &mut Line<'_, '_>) -> Option<Type> {
    if !matches!(l.instruction.opcode.text, "add" | "min" | "max") {
        return None;
    }
    l.m.one_of(|word| match word {
        "u16x2" => Some(U16),
        "s16x2" => Some(S16),
        _ => None,
    })
}

/// `add`, `min`, `max` of pairs.
pub(super) fn two(l: &mut Line<'_, '_>, ty: Type) -> Result<()> {
    let op = match l.instruction.opcode.text {
        "add" => BinOp::Add,
        "min" => BinOp::Min,
        _ => BinOp::Max,
    };
    let mods = Arith { relu: ty == S16 && op != BinOp::Add && l.m.take("relu"), ..Arith::default() };
    let [dst, a, b] = l.fixed()?;
    let (dst, a, b) = (l.dst(dst, B32)?, l.src(a, B32)?, l.src(b, B32)?);
    if matches!((a, b), (Src::Imm(_), _) | (_, Src::Imm(_))) {
        return l.refuse("pairs of integers come from registers");
    }
    let (a, b) = (apart(l, a)?, apart(l, b)?);
    for (a, b) in a.into_iter().zip(b) {
        l.emit(Op::Bin { op, ty, mods, dst: a, a: Src::Reg(a), b: Src::Reg(b) })?;
    }
    l.emit(Op::Pack { ty: B32, dst, srcs: a.map(Src::Reg).to_vec() })
}

fn apart(l: &mut Line<'_, '_>, src: Src) -> Result<[Reg; 2]> {
    let halves = [l.temporary(B16, "low")?, l.temporary(B16, "high")?];
    l.emit(Op::Unpack { ty: B32, dsts: halves.map(Some).to_vec(), src })?;
    Ok(halves)
}
