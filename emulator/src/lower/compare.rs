//! Comparisons and selections.

use crate::ir::{BoolOp, Cmp, Op, PredSrc, Type};
use crate::ptx::Result;
use crate::ptx::ast::Operand;

use super::family::Line;

use Type::*;

fn cmp(word: &str) -> Option<Cmp> {
    Some(match word {
        "eq" => Cmp::Eq,
        "ne" => Cmp::Ne,
        "lt" => Cmp::Lt,
        "le" => Cmp::Le,
        "gt" => Cmp::Gt,
        "ge" => Cmp::Ge,
        "lo" => Cmp::Lo,
        "ls" => Cmp::Ls,
        "hi" => Cmp::Hi,
        "hs" => Cmp::Hs,
        "equ" => Cmp::Equ,
        "neu" => Cmp::Neu,
        "ltu" => Cmp::Ltu,
        "leu" => Cmp::Leu,
        "gtu" => Cmp::Gtu,
        "geu" => Cmp::Geu,
        "num" => Cmp::Num,
        "nan" => Cmp::Nan,
        _ => return None,
    })
}

pub(super) fn bool_op(word: &str) -> Option<BoolOp> {
    Some(match word {
        "and" => BoolOp::And,
        "or" => BoolOp::Or,
        "xor" => BoolOp::Xor,
        _ => return None,
    })
}

/// Refuses a comparison that the type does not have.
fn check(l: &Line<'_, '_>, cmp: Cmp, ty: Type) -> Result<()> {
    use Cmp::*;
    let good = match ty {
        Pred | B1 | S4 | U4 | B8 | U8 | S8 | B128 | TF32 | E4M3 | E5M2 | E4M3x2 | E5M2x2 => false,
        B16 | B32 | B64 => matches!(cmp, Eq | Ne),
        U16 | U32 | U64 => matches!(cmp, Eq | Ne | Lt | Le | Gt | Ge | Lo | Ls | Hi | Hs),
        S16 | S32 | S64 => matches!(cmp, Eq | Ne | Lt | Le | Gt | Ge),
        _ => !matches!(cmp, Lo | Ls | Hi | Hs),
    };
    if good { Ok(()) } else { l.refuse("this comparison does not go with this type") }
}

fn combine<'a>(
    l: &mut Line<'_, 'a>,
    op: Option<BoolOp>,
    rest: &'a [Operand<'a>],
) -> Result<Option<(BoolOp, PredSrc)>> {
    match (op, rest) {
        (Some(op), [pred]) => Ok(Some((op, l.pred_src(pred)?))),
        (None, []) => Ok(None),
        (Some(_), _) => l.refuse("a combining predicate is missing"),
        (None, _) => l.refuse("one operand too many, or .and, .or, .xor is missing"),
    }
}

/// `setp.cmp[.bool].ty p[|q], a, b[, c]`
pub(super) fn setp(l: &mut Line<'_, '_>) -> Result<()> {
    let cmp = l.m.need("a comparison", cmp)?;
    let op = l.m.one_of(bool_op);
    let ftz = l.m.take("ftz");
    let ty = l.m.ty()?;
    check(l, cmp, ty)?;
    if ftz && !ty.is_float() {
        return l.refuse("`.ftz` goes with floating point");
    }
    let operands = l.between(3, 4)?;
    let (first, second) = l.pair(&operands[0]);
    let p = l.pred_or_sink(first)?;
    let q = match second {
        Some(second) => l.pred_or_sink(second)?,
        None => None,
    };
    let (a, b) = (l.src(&operands[1], ty)?, l.src(&operands[2], ty)?);
    let combine = combine(l, op, &operands[3..])?;
    l.emit(Op::Setp { cmp, ty, ftz, p, q, a, b, combine })
}

/// `set.cmp[.bool].dty.sty d, a, b[, c]`
pub(super) fn set(l: &mut Line<'_, '_>) -> Result<()> {
    let cmp = l.m.need("a comparison", cmp)?;
    let op = l.m.one_of(bool_op);
    let ftz = l.m.take("ftz");
    let (dst_ty, ty) = match l.m.types().as_slice() {
        [dst, src] => (*dst, *src),
        _ => return l.m.missing("two types"),
    };
    l.m.check(dst_ty, &[U32, S32, F32, U16, S16, F16, BF16, F16x2, BF16x2])?;
    check(l, cmp, ty)?;
    let pair = |ty: Type| matches!(ty, F16x2 | BF16x2);
    if pair(dst_ty) && dst_ty != ty || pair(ty) && dst_ty != ty && !matches!(dst_ty, U32 | S32) {
        return l.refuse("comparing pairs gives a pair of the same type, .u32 or .s32");
    }
    let operands = l.between(3, 4)?;
    let dst = l.dst(&operands[0], dst_ty)?;
    let (a, b) = (l.src(&operands[1], ty)?, l.src(&operands[2], ty)?);
    let combine = combine(l, op, &operands[3..])?;
    if pair(ty) {
        return super::rare::set_pair(l, cmp, (dst_ty, ty), ftz, dst, [a, b], combine);
    }
    l.emit(Op::Set { cmp, dst_ty, ty, ftz, dst, a, b, combine })
}

const SELECTED: &[Type] = &[B16, B32, B64, U16, U32, U64, S16, S32, S64, F32, F64];

/// `selp`
pub(super) fn selp(l: &mut Line<'_, '_>) -> Result<()> {
    let ty = l.m.ty_of(SELECTED)?;
    let [dst, a, b, pred] = l.fixed()?;
    let (dst, a, b, pred) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(b, ty)?, l.pred_src(pred)?);
    l.emit(Op::Selp { ty, dst, a, b, pred })
}

/// `slct`
pub(super) fn slct(l: &mut Line<'_, '_>) -> Result<()> {
    let ftz = l.m.take("ftz");
    let (ty, cond_ty) = match l.m.types().as_slice() {
        [ty, cond] => (*ty, *cond),
        _ => return l.m.missing("two types"),
    };
    l.m.check(ty, SELECTED)?;
    l.m.check(cond_ty, &[S32, F32])?;
    if ftz && cond_ty != F32 {
        return l.refuse(".ftz wants a condition of type .f32");
    }
    let [dst, a, b, c] = l.fixed()?;
    let (dst, a, b, c) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(b, ty)?, l.src(c, cond_ty)?);
    l.emit(Op::Slct { ty, cond_ty, ftz, dst, a, b, c })
}
