//! Integer, floating-point and logic instructions.
//!
//! Each opcode has its operations by kind of type, the modifiers that kind takes, and the types the manual lists. A type or
//! modifier outside its row is refused, as ptxas does.

use crate::ir::{Arith, BinOp, BoolOp, Op, Round, Src, TernOp, Type, UnOp};
use crate::ptx::Result;
use crate::ptx::ast::Operand;

use super::family::Line;
use super::{packed, types};

use Type::*;

const INT: &[Type] = &[U16, S16, U32, S32, U64, S64];
const INT32: &[Type] = &[U32, S32];
const BITS: &[Type] = &[B16, B32, B64];
const FLOAT: &[Type] = &[F32, F64, F16, F16x2, BF16, BF16x2];

/// `add`, `mul`, `and`, `shl` and the other instructions of two sources.
pub(super) fn two(l: &mut Line<'_, '_>) -> Result<()> {
    let opcode = l.instruction.opcode.text;
    if matches!(opcode, "addc" | "subc") || (matches!(opcode, "add" | "sub") && l.m.take("cc")) {
        return carry(l, opcode);
    }
    if matches!(opcode, "mul" | "mul24") {
        return mul(l, opcode);
    }
    if let Some(ty) = packed::element(l) {
        return packed::two(l, ty);
    }
    let ty = l.m.ty()?;
    if ty == Pred {
        return pred_two(l, opcode);
    }
    let mut mods = Arith::default();
    let op = match opcode {
        "add" | "sub" => {
            if ty.is_float() {
                mods = float_mods(l, ty)?;
            } else {
                l.m.check(ty, INT)?;
                mods.sat = ty == S32 && l.m.take("sat");
            }
            if opcode == "add" { BinOp::Add } else { BinOp::Sub }
        }
        "div" if ty.is_float() => {
            mods = float_mods(l, ty)?;
            l.m.check(ty, &[F32, F64])?;
            if mods.round == Round::None {
                return l.m.missing("a rounding: .rn, .rz, .rm, .rp, .full or .approx");
            }
            BinOp::Div
        }
        "div" | "rem" => {
            l.m.check(ty, INT)?;
            if opcode == "div" { BinOp::Div } else { BinOp::Rem }
        }
        "min" | "max" => {
            if ty.is_float() {
                l.m.check(ty, FLOAT)?;
                mods = Arith { ftz: l.m.take("ftz"), nan: l.m.take("NaN"), ..mods };
                mods.xorsign_abs = l.m.take("xorsign") && l.m.take("abs");
            } else {
                l.m.check(ty, INT)?;
                mods.relu = ty == S32 && l.m.take("relu");
            }
            if opcode == "min" { BinOp::Min } else { BinOp::Max }
        }
        "and" | "or" | "xor" => {
            l.m.check(ty, BITS)?;
            match opcode {
                "and" => BinOp::And,
                "or" => BinOp::Or,
                _ => BinOp::Xor,
            }
        }
        "copysign" => {
            l.m.check(ty, &[F32, F64])?;
            BinOp::CopySign
        }
        _ => {
            l.m.check(
                ty,
                if opcode == "shl" { BITS } else { &[B16, B32, B64, U16, U32, U64, S16, S32, S64] },
            )?;
            let [dst, a, b] = l.fixed()?;
            let op = if opcode == "shl" { BinOp::Shl } else { BinOp::Shr };
            let (dst, a, b) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(b, U32)?);
            return l.emit(Op::Bin { op, ty, mods, dst, a, b });
        }
    };
    let [dst, a, b] = l.fixed()?;
    let (dst, a, b) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(b, ty)?);
    l.emit(Op::Bin { op, ty, mods, dst, a, b })
}

/// Rounding, `.ftz`, `.sat` of the arithmetic that has them, inside what the type allows.
fn float_mods(l: &mut Line<'_, '_>, ty: Type) -> Result<Arith> {
    l.m.check(ty, FLOAT)?;
    let mods = l.m.arith();
    if mods.relu && l.instruction.opcode.text != "fma" {
        return l.refuse("of the floating-point arithmetic only fma has `.relu`");
    }
    if matches!(mods.round, Round::Rna) {
        return l.refuse("`.rna` rounds conversions only");
    }
    if ty == F64 && (mods.ftz || mods.sat || mods.relu) {
        return l.refuse("a .f64 instruction takes only a rounding");
    }
    Ok(mods)
}

fn mul(l: &mut Line<'_, '_>, opcode: &str) -> Result<()> {
    let ty = l.m.ty()?;
    let mut mods = Arith::default();
    let (op, wide) = if opcode == "mul24" {
        l.m.check(ty, INT32)?;
        let op = l.m.need(".lo or .hi", |word| match word {
            "lo" => Some(BinOp::Mul24Lo),
            "hi" => Some(BinOp::Mul24Hi),
            _ => None,
        })?;
        (op, ty)
    } else if ty.is_float() {
        mods = float_mods(l, ty)?;
        (BinOp::Mul, ty)
    } else {
        l.m.check(ty, INT)?;
        match l.m.need(".lo, .hi or .wide", product)? {
            Product::Lo => (BinOp::MulLo, ty),
            Product::Hi => (BinOp::MulHi, ty),
            Product::Wide => match types::doubled(ty) {
                Some(wide) => (BinOp::MulWide, wide),
                None => return l.refuse("there is no wide product of 64-bit integers"),
            },
        }
    };
    let [dst, a, b] = l.fixed()?;
    let (dst, a, b) = (l.dst(dst, wide)?, l.src(a, ty)?, l.src(b, ty)?);
    l.emit(Op::Bin { op, ty, mods, dst, a, b })
}

#[derive(Clone, Copy)]
enum Product {
    Lo,
    Hi,
    Wide,
}

fn product(word: &str) -> Option<Product> {
    Some(match word {
        "lo" => Product::Lo,
        "hi" => Product::Hi,
        "wide" => Product::Wide,
        _ => return None,
    })
}

/// The extended-precision family, which goes through the carry flag.
fn carry(l: &mut Line<'_, '_>, opcode: &str) -> Result<()> {
    let ty = l.m.ty_of(&[U32, S32, U64, S64])?;
    let op = match (opcode, l.m.take("cc")) {
        ("add", _) => BinOp::AddCc,
        ("sub", _) => BinOp::SubCc,
        ("addc", false) => BinOp::AddC,
        ("addc", true) => BinOp::AddCCc,
        (_, false) => BinOp::SubC,
        (_, true) => BinOp::SubCCc,
    };
    let [dst, a, b] = l.fixed()?;
    let (dst, a, b) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(b, ty)?);
    l.emit(Op::Bin { op, ty, mods: Arith::default(), dst, a, b })
}

fn pred_two(l: &mut Line<'_, '_>, opcode: &str) -> Result<()> {
    let op = match opcode {
        "and" => BoolOp::And,
        "or" => BoolOp::Or,
        "xor" => BoolOp::Xor,
        _ => return l.refuse("this instruction does not take predicates"),
    };
    let [dst, a, b] = l.fixed()?;
    let (dst, a, b) = (l.pred(dst)?, l.pred_value(a)?, l.pred_value(b)?);
    l.emit(Op::PredBin { op, dst, a, b })
}

/// Instructions of one source.
pub(super) fn one(l: &mut Line<'_, '_>) -> Result<()> {
    let opcode = l.instruction.opcode.text;
    let ty = l.m.ty()?;
    let mut mods = Arith::default();
    let mut result = ty;
    let op = match opcode {
        "not" if ty == Pred => {
            let [dst, a] = l.fixed()?;
            let (dst, a) = (l.pred(dst)?, l.pred_value(a)?);
            return l.emit(Op::PredNot { dst, a });
        }
        "neg" | "abs" => {
            l.m.check(ty, &[S16, S32, S64, F32, F64, F16, F16x2, BF16, BF16x2])?;
            mods.ftz = ty.is_float() && l.m.take("ftz");
            if opcode == "neg" { UnOp::Neg } else { UnOp::Abs }
        }
        "not" | "cnot" => {
            l.m.check(ty, BITS)?;
            if opcode == "not" { UnOp::Not } else { UnOp::Cnot }
        }
        "popc" | "clz" => {
            l.m.check(ty, &[B32, B64])?;
            result = U32;
            if opcode == "popc" { UnOp::Popc } else { UnOp::Clz }
        }
        "brev" => {
            l.m.check(ty, &[B32, B64])?;
            UnOp::Brev
        }
        "bfind" => {
            l.m.check(ty, &[U32, S32, U64, S64])?;
            result = U32;
            if l.m.take("shiftamt") { UnOp::BfindShiftamt } else { UnOp::Bfind }
        }
        "testp" => {
            l.m.check(ty, &[F32, F64])?;
            let op = l.m.need("a test such as .finite", |word| {
                Some(match word {
                    "finite" => UnOp::TestpFinite,
                    "infinite" => UnOp::TestpInfinite,
                    "number" => UnOp::TestpNumber,
                    "notanumber" => UnOp::TestpNotANumber,
                    "normal" => UnOp::TestpNormal,
                    "subnormal" => UnOp::TestpSubnormal,
                    _ => return None,
                })
            })?;
            result = Pred;
            op
        }
        _ => {
            let (op, allowed, exact): (_, &[Type], _) = match opcode {
                "rcp" => (UnOp::Rcp, &[F32, F64], true),
                "sqrt" => (UnOp::Sqrt, &[F32, F64], true),
                "rsqrt" => (UnOp::Rsqrt, &[F32, F64], false),
                "ex2" => (UnOp::Ex2, &[F32, F16, F16x2, BF16, BF16x2], false),
                "tanh" => (UnOp::Tanh, &[F32, F16, F16x2, BF16, BF16x2], false),
                "lg2" => (UnOp::Lg2, &[F32], false),
                "sin" => (UnOp::Sin, &[F32], false),
                _ => (UnOp::Cos, &[F32], false),
            };
            l.m.check(ty, allowed)?;
            mods = l.m.arith();
            match mods.round {
                Round::Approx => {}
                Round::Rn | Round::Rz | Round::Rm | Round::Rp if exact => {}
                _ if exact => return l.m.missing("a rounding: .approx, .rn, .rz, .rm or .rp"),
                _ => return l.m.missing(".approx"),
            }
            if mods.sat || mods.relu {
                return l.refuse("neither .sat nor .relu can stand here");
            }
            op
        }
    };
    let [dst, a] = l.fixed()?;
    let (dst, a) = (l.dst(dst, result)?, l.src(a, ty)?);
    l.emit(Op::Un { op, ty, mods, dst, a })
}

/// Instructions of three sources.
pub(super) fn three(l: &mut Line<'_, '_>) -> Result<()> {
    match l.instruction.opcode.text {
        "fma" | "mad" | "madc" => fused(l),
        "lop3" => {
            l.m.ty_of(&[B32])?;
            if let Some(op) = l.m.one_of(super::compare::bool_op) {
                return super::rare::lop3(l, op);
            }
            let [dst, a, b, c, table] = l.fixed()?;
            let op = TernOp::Lop3(l.integer_in(table, 0..=255)? as u8);
            let (dst, a, b, c) = (l.dst(dst, B32)?, l.src(a, B32)?, l.src(b, B32)?, l.src(c, B32)?);
            l.emit(Op::Tern { op, ty: B32, mods: Arith::default(), dst, a, b, c })
        }
        "shf" => {
            let left = l.m.need(".l or .r", |word| match word {
                "l" => Some(true),
                "r" => Some(false),
                _ => None,
            })?;
            let wrap = l.m.need(".wrap or .clamp", |word| match word {
                "wrap" => Some(true),
                "clamp" => Some(false),
                _ => None,
            })?;
            let op = match (left, wrap) {
                (true, true) => TernOp::ShfLWrap,
                (true, false) => TernOp::ShfLClamp,
                (false, true) => TernOp::ShfRWrap,
                (false, false) => TernOp::ShfRClamp,
            };
            l.m.ty_of(&[B32])?;
            plain_three(l, op, B32, B32, B32, U32)
        }
        "prmt" => {
            l.m.ty_of(&[B32])?;
            let op = l.m.one_of(|word| {
                Some(match word {
                    "f4e" => TernOp::PrmtF4e,
                    "b4e" => TernOp::PrmtB4e,
                    "rc8" => TernOp::PrmtRc8,
                    "ecl" => TernOp::PrmtEcl,
                    "ecr" => TernOp::PrmtEcr,
                    "rc16" => TernOp::PrmtRc16,
                    _ => return None,
                })
            });
            plain_three(l, op.unwrap_or(TernOp::PrmtDefault), B32, B32, B32, B32)
        }
        "bfe" => {
            let ty = l.m.ty_of(&[U32, S32, U64, S64])?;
            let [dst, a, pos, len] = l.fixed()?;
            let (dst, a, b, c) = (l.dst(dst, ty)?, l.src(a, ty)?, field(l, pos)?, field(l, len)?);
            l.emit(Op::Tern { op: TernOp::Bfe, ty, mods: Arith::default(), dst, a, b, c })
        }
        "sad" => {
            let ty = l.m.ty_of(INT)?;
            plain_three(l, TernOp::Sad, ty, ty, ty, ty)
        }
        _ => {
            let op = match l.m.types().as_slice() {
                [U32, U32] => TernOp::Dp4aUU,
                [U32, S32] => TernOp::Dp4aUS,
                [S32, U32] => TernOp::Dp4aSU,
                [S32, S32] => TernOp::Dp4aSS,
                _ => return l.m.missing("two types out of .u32 and .s32"),
            };
            plain_three(l, op, B32, B32, B32, B32)
        }
    }
}

/// Three sources of the given types, the destination of the instruction's.
fn plain_three(l: &mut Line<'_, '_>, op: TernOp, ty: Type, ta: Type, tb: Type, tc: Type) -> Result<()> {
    let [dst, a, b, c] = l.fixed()?;
    let (dst, a, b, c) = (l.dst(dst, ty)?, l.src(a, ta)?, l.src(b, tb)?, l.src(c, tc)?);
    l.emit(Op::Tern { op, ty, mods: Arith::default(), dst, a, b, c })
}

fn fused(l: &mut Line<'_, '_>) -> Result<()> {
    let fma = l.instruction.opcode.text == "fma";
    let ty = l.m.ty()?;
    if !fma && !ty.is_float() {
        match (l.instruction.opcode.text, l.m.take("cc")) {
            ("madc", out) => return mad_carry(l, ty, if out { BinOp::AddCCc } else { BinOp::AddC }),
            (_, true) => return mad_carry(l, ty, BinOp::AddCc),
            _ => {}
        }
    }
    let mut mods = Arith::default();
    let (op, wide) = if ty.is_float() {
        mods = float_mods(l, ty)?;
        if !matches!(mods.round, Round::Rn | Round::Rz | Round::Rm | Round::Rp) {
            return l.m.missing("a rounding: .rn, .rz, .rm or .rp");
        }
        (TernOp::Fma, ty)
    } else if fma {
        return l.refuse("fma takes floating-point types");
    } else {
        l.m.check(ty, INT)?;
        match l.m.need(".lo, .hi or .wide", product)? {
            Product::Lo => (TernOp::MadLo, ty),
            Product::Hi => {
                mods.sat = ty == S32 && l.m.take("sat");
                (TernOp::MadHi, ty)
            }
            Product::Wide => match types::doubled(ty) {
                Some(wide) => (TernOp::MadWide, wide),
                None => return l.refuse("there is no wide product of 64-bit integers"),
            },
        }
    };
    let [dst, a, b, c] = l.fixed()?;
    let (dst, a, b, c) = (l.dst(dst, wide)?, l.src(a, ty)?, l.src(b, ty)?, l.src(c, wide)?);
    l.emit(Op::Tern { op, ty, mods, dst, a, b, c })
}

/// `mad.cc`, `madc`, `madc.cc`: a product into a register of its own, then the addition that carries.
fn mad_carry(l: &mut Line<'_, '_>, ty: Type, add: BinOp) -> Result<()> {
    l.m.check(ty, &[U32, S32, U64, S64])?;
    let mul = l.m.need(".lo or .hi", |word| match word {
        "lo" => Some(BinOp::MulLo),
        "hi" => Some(BinOp::MulHi),
        _ => None,
    })?;
    let [dst, a, b, c] = l.fixed()?;
    let (dst, a, b, c) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(b, ty)?, l.src(c, ty)?);
    let product = l.temporary(ty, "product")?;
    let mods = Arith::default();
    l.emit(Op::Bin { op: mul, ty, mods, dst: product, a, b })?;
    l.emit(Op::Bin { op: add, ty, mods, dst, a: Src::Reg(product), b: c })
}

/// Position or length of a bit field: 0 to 255.
fn field<'a>(l: &mut Line<'_, 'a>, operand: &'a Operand<'a>) -> Result<Src> {
    let src = l.src(operand, U32)?;
    if matches!(src, Src::Imm(256..)) {
        l.integer_in(operand, 0..=255)?;
    }
    Ok(src)
}

/// `bfi`
pub(super) fn bfi(l: &mut Line<'_, '_>) -> Result<()> {
    let ty = l.m.ty_of(&[B32, B64])?;
    let [dst, a, b, pos, len] = l.fixed()?;
    let (dst, a, b) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(b, ty)?);
    let (pos, len) = (field(l, pos)?, field(l, len)?);
    l.emit(Op::Bfi { ty, dst, a, b, pos, len })
}
