//! Instructions that compilers for this chip seldom write. Those with no operation of their own in [`crate::ir`] become a few that
//! have.

use crate::ir::{Arith, BinOp, BoolOp, Cmp, Op, PredSrc, Reg, Special, Src, TernOp, Type, Video, VideoOp};
use crate::ptx::Result;
use crate::ptx::ast::OperandKind;

use super::family::Line;

use Type::*;

/// `szext`, `bmsk`, `mad24`, `dp2a`, `fns`
pub(super) fn integer(l: &mut Line<'_, '_>) -> Result<()> {
    match l.instruction.opcode.text {
        "szext" => {
            let op = mode(l, BinOp::SzextClamp, BinOp::SzextWrap)?;
            let ty = l.m.ty_of(&[U32, S32])?;
            two(l, op, ty)
        }
        "bmsk" => {
            let op = mode(l, BinOp::BmskClamp, BinOp::BmskWrap)?;
            l.m.ty_of(&[B32])?;
            two(l, op, B32)
        }
        "mad24" => mad24(l),
        "dp2a" => {
            let hi = l.m.need(".lo or .hi", high)?;
            let signed = |ty: Type| matches!(ty, U32 | S32).then_some(ty == S32);
            let types: Vec<_> = l.m.types().into_iter().map(signed).collect();
            let &[Some(a_signed), Some(b_signed)] = types.as_slice() else {
                return l.m.missing("two types out of .u32 and .s32");
            };
            three(l, TernOp::Dp2a { hi, a_signed, b_signed })
        }
        _ => {
            l.m.ty_of(&[B32])?;
            three(l, TernOp::Fns)
        }
    }
}

fn high(word: &str) -> Option<bool> {
    match word {
        "lo" => Some(false),
        "hi" => Some(true),
        _ => None,
    }
}

fn mode(l: &mut Line<'_, '_>, clamp: BinOp, wrap: BinOp) -> Result<BinOp> {
    l.m.need(".clamp or .wrap", |word| match word {
        "clamp" => Some(clamp),
        "wrap" => Some(wrap),
        _ => None,
    })
}

fn two(l: &mut Line<'_, '_>, op: BinOp, ty: Type) -> Result<()> {
    let [dst, a, b] = l.fixed()?;
    let (dst, a, b) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(b, B32)?);
    l.emit(Op::Bin { op, ty, mods: Arith::default(), dst, a, b })
}

fn three(l: &mut Line<'_, '_>, op: TernOp) -> Result<()> {
    let [dst, a, b, c] = l.fixed()?;
    let (dst, a, b, c) = (l.dst(dst, B32)?, l.src(a, B32)?, l.src(b, B32)?, l.src(c, B32)?);
    l.emit(Op::Tern { op, ty: B32, mods: Arith::default(), dst, a, b, c })
}

/// `vadd2` … `vmax4`, as compilers write them: whole registers, no masks or selectors.
pub(super) fn video(l: &mut Line<'_, '_>) -> Result<()> {
    let (name, lanes) = l.instruction.opcode.text.split_at(l.instruction.opcode.text.len() - 1);
    let op = match name {
        "vadd" => VideoOp::Add,
        "vsub" => VideoOp::Sub,
        "vavrg" => VideoOp::Avrg,
        "vabsdiff" => VideoOp::AbsDiff,
        "vmin" => VideoOp::Min,
        _ => VideoOp::Max,
    };
    let signed = |ty: &Type| matches!(ty, U32 | S32).then_some(*ty == S32);
    let types: Vec<_> = l.m.types().iter().map(signed).collect();
    let &[Some(d_signed), Some(a_signed), Some(b_signed)] = types.as_slice() else {
        return l.m.missing("three types out of .u32 and .s32");
    };
    let (sat, add) = (l.m.take("sat"), l.m.take("add"));
    if sat && add {
        return l.refuse("`.sat` does not go with `.add`");
    }
    let bits = if lanes == "2" { 16 } else { 8 };
    three(l, TernOp::Video(Video { op, bits, a_signed, b_signed, d_signed, sat, add }))
}

/// `mad24.lo|hi[.sat]`: the product into a register of its own, then the sum.
fn mad24(l: &mut Line<'_, '_>) -> Result<()> {
    let hi = l.m.need(".lo or .hi", high)?;
    let ty = l.m.ty_of(&[U32, S32])?;
    let sat = hi && ty == S32 && l.m.take("sat");
    let [dst, a, b, c] = l.fixed()?;
    let (dst, a, b, c) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(b, ty)?, l.src(c, ty)?);
    let product = l.temporary(ty, "product")?;
    let op = if hi { BinOp::Mul24Hi } else { BinOp::Mul24Lo };
    let mods = Arith::default();
    l.emit(Op::Bin { op, ty, mods, dst: product, a, b })?;
    let mods = Arith { sat, ..mods };
    l.emit(Op::Bin { op: BinOp::Add, ty, mods, dst, a: Src::Reg(product), b: c })
}

/// `lop3.and|or.b32 d|p, a, b, c, table, q`: the predicate says whether the result has any bit, combined with `q`.
pub(super) fn lop3(l: &mut Line<'_, '_>, combine: BoolOp) -> Result<()> {
    if combine == BoolOp::Xor {
        return l.refuse("the predicate is combined by .and or .or");
    }
    let [to, a, b, c, table, with] = l.fixed()?;
    let (dst, Some(p)) = l.pair(to) else {
        return l.refuse("the destination is `d|p`");
    };
    let op = TernOp::Lop3(l.integer_in(table, 0..=255)? as u8);
    let dst = match dst.kind {
        OperandKind::Sink => l.temporary(B32, "lop3")?,
        _ => l.dst(dst, B32)?,
    };
    let p = Some(l.pred(p)?);
    let (a, b, c, with) = (l.src(a, B32)?, l.src(b, B32)?, l.src(c, B32)?, l.pred_src(with)?);
    l.emit(Op::Tern { op, ty: B32, mods: Arith::default(), dst, a, b, c })?;
    let (a, b) = (Src::Reg(dst), Src::Imm(0));
    let combine = Some((combine, with));
    l.emit(Op::Setp { cmp: Cmp::Ne, ty: B32, ftz: false, p, q: None, a, b, combine })
}

/// `cvt.pack.sat.to.s32[.b32] d, a, b[, c]`: `b` lowest, `a` above it, the low bits of `c` above both. Each is clamped, then joined by
/// shifts and masks.
pub(super) fn cvt_pack(l: &mut Line<'_, '_>) -> Result<()> {
    if !l.m.take("sat") {
        return l.m.missing(".sat");
    }
    let (bits, signed) = l.m.need("a narrow type", |word| {
        Some(match word {
            "u16" => (16, false),
            "s16" => (16, true),
            "u8" => (8, false),
            "s8" => (8, true),
            "u4" => (4, false),
            "s4" => (4, true),
            "u2" => (2, false),
            "s2" => (2, true),
            _ => return None,
        })
    })?;
    let types: &[Type] = if bits == 16 { &[S32] } else { &[S32, B32] };
    if l.m.types() != types {
        return l.m.missing("the type .s32, and .b32 for a third operand");
    }
    let count = 2 + types.len();
    let operands = l.between(count, count)?;
    let dst = l.dst(&operands[0], B32)?;
    let (a, b) = (l.src(&operands[1], S32)?, l.src(&operands[2], S32)?);
    let above = match operands.get(3) {
        Some(c) => Some(l.src(c, B32)?),
        None => None,
    };
    let (least, most) =
        if signed { (-(1i64 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    let narrow = l.temporary(B32, "low")?;
    let packed = l.temporary(B32, "packed")?;
    let mods = Arith::default();
    let word = |value: i64| Src::Imm(u64::from(value as u32));
    let mut emit = |op, ty, dst, a, b| l.emit(Op::Bin { op, ty, mods, dst, a, b });
    for (to, from) in [(packed, a), (narrow, b)] {
        emit(BinOp::Max, S32, to, from, word(least))?;
        emit(BinOp::Min, S32, to, Src::Reg(to), word(most))?;
    }
    emit(BinOp::And, B32, narrow, Src::Reg(narrow), word((1 << bits) - 1))?;
    emit(BinOp::Shl, B32, packed, Src::Reg(packed), word(bits))?;
    if let Some(c) = above {
        emit(BinOp::And, B32, packed, Src::Reg(packed), word((1 << (2 * bits)) - 1))?;
        emit(BinOp::Or, B32, narrow, Src::Reg(narrow), Src::Reg(packed))?;
        emit(BinOp::Shl, B32, packed, c, word(2 * bits))?;
    }
    emit(BinOp::Or, B32, dst, Src::Reg(narrow), Src::Reg(packed))
}

/// `mov.pred p, %is_explicit_cluster`
pub(super) fn explicit_cluster(l: &mut Line<'_, '_>, dst: Reg) -> Result<()> {
    let word = l.temporary(B32, "explicit cluster")?;
    let Reg::Pred(p) = dst else { return l.refuse("expected a predicate") };
    l.emit(Op::Mov { ty: B32, dst: word, src: Src::Special(Special::IsExplicitCluster) })?;
    let (a, b) = (Src::Reg(word), Src::Imm(0));
    l.emit(Op::Setp { cmp: Cmp::Ne, ty: B32, ftz: false, p: Some(p), q: None, a, b, combine: None })
}

/// `set` of a pair of 16-bit floats to a pair: half by half.
pub(super) fn set_pair(
    l: &mut Line<'_, '_>,
    cmp: Cmp,
    (dst_ty, ty): (Type, Type),
    ftz: bool,
    dst: Reg,
    sources: [Src; 2],
    combine: Option<(BoolOp, PredSrc)>,
) -> Result<()> {
    let half = |ty: Type| match ty {
        F16x2 => F16,
        BF16x2 => BF16,
        // A mask of all ones or none for each half.
        _ => U16,
    };
    let (dst_ty, ty) = (half(dst_ty), half(ty));
    let mut halves = [[Src::Imm(0); 2]; 2];
    for (halves, src) in halves.iter_mut().zip(sources) {
        let parts = [l.temporary(B16, "low")?, l.temporary(B16, "high")?];
        l.emit(Op::Unpack { ty: B32, dsts: parts.map(Some).to_vec(), src })?;
        *halves = parts.map(Src::Reg);
    }
    let results = [l.temporary(B16, "low")?, l.temporary(B16, "high")?];
    for ((dst, a), b) in results.into_iter().zip(halves[0]).zip(halves[1]) {
        l.emit(Op::Set { cmp, dst_ty, ty, ftz, dst, a, b, combine })?;
    }
    l.emit(Op::Pack { ty: B32, dst, srcs: results.map(Src::Reg).to_vec() })
}
