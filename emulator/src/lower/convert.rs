//! Moves and conversions: between registers, types, and address windows.

use crate::ir::{Arith, Op, Reg, Round, Space, Src, Type};
use crate::ptx::Result;
use crate::ptx::ast::{Expr, Operand, OperandKind};

use super::family::Line;
use super::modifiers::{float_round, space};
use super::types;

use Type::*;

/// `mov`, plain, packing or unpacking.
pub(super) fn mov(l: &mut Line<'_, '_>) -> Result<()> {
    let ty = l.m.ty()?;
    if ty == B128 {
        return mov128(l);
    }
    l.m.check(ty, &[Pred, B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64])?;
    let [to, from] = l.fixed()?;
    match (&to.kind, &from.kind) {
        (OperandKind::Vector(list), _) => {
            let part = part(l, ty, list.len())?;
            let mut dsts = Vec::with_capacity(list.len());
            for element in list {
                dsts.push(l.dst_or_sink(element, part)?);
            }
            let src = l.src(from, ty)?;
            l.emit(Op::Unpack { ty, dsts, src })
        }
        (_, OperandKind::Vector(list)) => {
            let part = part(l, ty, list.len())?;
            let mut srcs = Vec::with_capacity(list.len());
            for element in list {
                srcs.push(l.src(element, part)?);
            }
            let dst = l.dst(to, ty)?;
            l.emit(Op::Pack { ty, dst, srcs })
        }
        _ => {
            let dst = l.dst(to, ty)?;
            if ty == Pred
                && let OperandKind::Expr(Expr::Name(word)) = &from.kind
                && word.text == "%is_explicit_cluster"
            {
                return super::rare::explicit_cluster(l, dst);
            }
            let src = if ty == Pred { l.pred_value(from)? } else { l.moved(from, ty)? };
            l.emit(Op::Mov { ty, dst, src })
        }
    }
}

/// The type of one element of a packed register.
fn part(l: &Line<'_, '_>, ty: Type, count: usize) -> Result<Type> {
    let part = match count {
        2 | 4 => types::bits(ty.bytes() / count as u32),
        _ => None,
    };
    match part {
        Some(part) if matches!(ty, B16 | B32 | B64) => Ok(part),
        _ => l.refuse("this type cannot be taken apart into that many elements"),
    }
}

/// `.b128` registers are two 64-bit ones, so each form is two moves.
fn mov128(l: &mut Line<'_, '_>) -> Result<()> {
    fn mov(l: &mut Line<'_, '_>, dst: Reg, src: Src) -> Result<()> {
        l.emit(Op::Mov { ty: B64, dst, src })
    }
    let [to, from] = l.fixed()?;
    match (&to.kind, &from.kind) {
        (OperandKind::Vector(list), _) => {
            let [low, high] = two(l, list)?;
            let from = l.wide_register(from)?;
            for (part, src) in [(low, from.0), (high, from.1)] {
                if let Some(dst) = l.dst_or_sink(part, B64)? {
                    mov(l, dst, Src::Reg(src))?;
                }
            }
            Ok(())
        }
        (_, OperandKind::Vector(list)) => {
            let [low, high] = two(l, list)?;
            let to = l.wide_register(to)?;
            let (low, high) = (l.src(low, B64)?, l.src(high, B64)?);
            mov(l, to.0, low)?;
            mov(l, to.1, high)
        }
        _ => {
            let (to, from) = (l.wide_register(to)?, l.wide_register(from)?);
            mov(l, to.0, Src::Reg(from.0))?;
            mov(l, to.1, Src::Reg(from.1))
        }
    }
}

fn two<'a>(l: &Line<'_, '_>, list: &'a [Operand<'a>]) -> Result<&'a [Operand<'a>; 2]> {
    match list.try_into() {
        Ok(two) => Ok(two),
        Err(_) => l.refuse("a .b128 register has two 64-bit halves"),
    }
}

/// `cvt`
pub(super) fn cvt(l: &mut Line<'_, '_>) -> Result<()> {
    let round = l.m.one_of(|word| {
        Some(match word {
            "rni" => Round::Rni,
            "rzi" => Round::Rzi,
            "rmi" => Round::Rmi,
            "rpi" => Round::Rpi,
            _ => float_round(word).filter(|round| !matches!(round, Round::Approx | Round::Full))?,
        })
    });
    if l.m.take("pack") {
        return super::rare::cvt_pack(l);
    }
    let mods = Arith {
        round: round.unwrap_or_default(),
        ftz: l.m.take("ftz"),
        relu: l.m.take("relu"),
        sat: l.m.take("sat"),
        satfinite: l.m.take("satfinite"),
        ..Arith::default()
    };
    let (to, from) = match l.m.types().as_slice() {
        [to, from] => (*to, *from),
        _ => return l.m.missing("two types"),
    };
    let scalar = |ty: Type| matches!(ty, F16 | BF16 | F32 | F64) || INTEGERS.contains(&ty);
    let known = match (to, from) {
        (F16x2 | BF16x2, F32) | (E4M3x2 | E5M2x2, F32 | F16x2) | (F16x2, E4M3x2 | E5M2x2) | (TF32, F32) => {
            true
        }
        _ => scalar(to) && scalar(from),
    };
    if matches!(to, E4M3x2 | E5M2x2) && !mods.satfinite {
        return l.m.missing(".satfinite");
    }
    if !known {
        return l.refuse(format!("there is no conversion from {} to {}", types::name(from), types::name(to)));
    }
    rounding(l, mods.round, to, from)?;
    modifiers(l, mods, to, from)?;
    if from == F32 && matches!(to, F16x2 | BF16x2 | E4M3x2 | E5M2x2) {
        let [dst, a, b] = l.fixed()?;
        let (dst, a, b) = (l.dst(dst, to)?, l.src(a, F32)?, Some(l.src(b, F32)?));
        return l.emit(Op::Cvt { to, from, mods, dst, a, b });
    }
    let [dst, a] = l.fixed()?;
    // Only bf16 insists on a register of its own size, and beside it a byte does.
    let exact = |ty: Type, other: Type| ty == BF16 || other == BF16 && ty.bytes() == 1;
    let dst = if exact(to, from) { l.dst(dst, to)? } else { l.wide_dst(dst, to)? };
    let a = if exact(from, to) { l.src(a, from)? } else { l.wide_src(a, from)? };
    l.emit(Op::Cvt { to, from, mods, dst, a, b: None })
}

const INTEGERS: &[Type] = &[U8, S8, U16, S16, U32, S32, U64, S64];

/// A conversion that loses bits must say how it rounds; one that cannot must not.
fn rounding(l: &Line<'_, '_>, round: Round, to: Type, from: Type) -> Result<()> {
    let integral = matches!(round, Round::Rni | Round::Rzi | Round::Rmi | Round::Rpi);
    let (int_to, int_from) = (INTEGERS.contains(&to), INTEGERS.contains(&from));
    if int_to && !int_from && !integral {
        return l.m.missing("an integer rounding: .rni, .rzi, .rmi or .rpi");
    }
    if int_to && int_from && round != Round::None {
        return l.refuse("a conversion between integers does not round");
    }
    if int_from && !int_to && (integral || round == Round::None) {
        return l.m.missing("a rounding: .rn, .rz, .rm or .rp");
    }
    let narrows = !int_to && !int_from && to.bytes() < from.bytes();
    if !int_to && !int_from && to.bytes() >= from.bytes() && to == from && !integral && round != Round::None {
        return l.refuse("this conversion loses nothing, so it takes no such rounding");
    }
    let packed = matches!(to, F16x2 | BF16x2 | E4M3x2 | E5M2x2 | TF32);
    if (narrows || packed) && (integral || round == Round::None) {
        return l.m.missing("a rounding such as .rn");
    }
    Ok(())
}

/// What may stand beside the rounding, by the manual's table and as ptxas has it.
fn modifiers(l: &Line<'_, '_>, mods: Arith, to: Type, from: Type) -> Result<()> {
    let (int_to, int_from) = (INTEGERS.contains(&to), INTEGERS.contains(&from));
    let either = |ty: Type| to == ty || from == ty;
    let packed = matches!(to, F16x2 | BF16x2 | E4M3x2 | E5M2x2 | TF32);
    let flushes = from == F32 && !packed || to == F32 && !int_from && from != F16 && from != BF16;
    // Widening from 16 bits to F32 flushes too, though nothing there is subnormal.
    if mods.ftz && !(flushes || to == F32 && matches!(from, F16 | BF16)) {
        return l.refuse("`.ftz` goes with .f32, unpacked");
    }
    let saturates = match (int_to, int_from) {
        // Only where the target does not hold every value.
        (true, true) => {
            let wider = to.bytes() > from.bytes() && (to.is_signed() || !from.is_signed());
            !(wider || to == from)
        }
        _ => !packed && !either(BF16),
    };
    if mods.sat && !saturates {
        return l.refuse("`.sat` does not go with these types");
    }
    let short = from == F32 && matches!(to, F16 | BF16 | F16x2 | BF16x2);
    let near_or_zero = matches!(mods.round, Round::Rn | Round::Rz);
    let eight = matches!(to, E4M3x2 | E5M2x2);
    let good = match to {
        _ if short => near_or_zero && !mods.ftz && !mods.sat,
        TF32 => !mods.satfinite || mods.round == Round::Rna,
        F16x2 => !mods.satfinite,
        _ => eight,
    };
    if (mods.relu || mods.satfinite) && !good || mods.relu && mods.round == Round::Rna {
        return l.refuse("`.relu` and `.satfinite` do not go with this conversion");
    }
    let nearest = match to {
        TF32 => matches!(mods.round, Round::Rn | Round::Rz | Round::Rna),
        F16x2 | BF16x2 if from == F32 => near_or_zero,
        F16x2 => mods.round == Round::Rn,
        _ => !eight || mods.round == Round::Rn,
    };
    let float = !int_to && !int_from;
    let integral = matches!(mods.round, Round::Rni | Round::Rzi | Round::Rmi | Round::Rpi);
    let rounds = match mods.round {
        Round::None => true,
        Round::Rna => to == TF32,
        _ if integral && float => to == from,
        // Widening rounds nothing; bf16 may say so all the same.
        _ => !float || packed || to.bytes() < from.bytes() || either(BF16),
    };
    if !nearest || !rounds {
        return l.refuse("this rounding does not go with this conversion");
    }
    Ok(())
}

/// `cvta[.to].space`
pub(super) fn cvta(l: &mut Line<'_, '_>) -> Result<()> {
    let to = l.m.take("to");
    let space = l.m.need("a state space", space)?;
    let ty = l.m.ty_of(&[U32, U64])?;
    let [dst, src] = l.fixed()?;
    let (dst, src) = (l.dst(dst, ty)?, l.moved(src, ty)?);
    l.emit(Op::Cvta { space, to, dst, src })
}

/// `isspacep.space p, a`
pub(super) fn isspacep(l: &mut Line<'_, '_>) -> Result<()> {
    let space = l.m.need("a state space", space)?;
    let [dst, src] = l.fixed()?;
    let (dst, src) = (l.pred(dst)?, l.src(src, U64)?);
    l.emit(Op::Isspacep { space, dst, src })
}

/// `mapa[.shared::cluster].ty d, a, rank`
pub(super) fn mapa(l: &mut Line<'_, '_>) -> Result<()> {
    let space = if l.m.take("shared::cluster") { Space::SharedCluster } else { Space::Generic };
    let ty = l.m.ty_of(&[U32, U64])?;
    let [dst, addr, rank] = l.fixed()?;
    let (dst, addr, rank) = (l.dst(dst, ty)?, l.moved(addr, ty)?, l.src(rank, U32)?);
    l.emit(Op::Mapa { dst, addr, rank, space })
}

/// `getctarank[.shared::cluster].ty d, a`
pub(super) fn getctarank(l: &mut Line<'_, '_>) -> Result<()> {
    let space = if l.m.take("shared::cluster") { Space::SharedCluster } else { Space::Generic };
    let ty = l.m.ty_of(&[U32, U64])?;
    let [dst, addr] = l.fixed()?;
    let (dst, addr) = (l.dst(dst, U32)?, l.moved(addr, ty)?);
    l.emit(Op::GetCtaRank { dst, addr, space })
}
