//! `wgmma.*`: warpgroup matrix products.

use crate::ir::{Op, ScaleD, Type, Wgmma, WgmmaA};
use crate::ptx::ast::{Expr, Operand, OperandKind};
use crate::ptx::{Error, Result};

use super::family::Line;
use super::matrix::shape;

use Type::*;

/// Every `wgmma` instruction.
pub(super) fn wgmma(l: &mut Line<'_, '_>) -> Result<()> {
    for word in ["sync", "aligned"] {
        if !l.m.take(word) {
            return l.m.missing(".sync.aligned");
        }
    }
    if l.m.take("fence") {
        let [] = l.fixed()?;
        return l.emit(Op::WgmmaFence);
    }
    if l.m.take("commit_group") {
        let [] = l.fixed()?;
        return l.emit(Op::WgmmaCommit);
    }
    if l.m.take("wait_group") {
        let [groups] = l.fixed()?;
        let groups = l.integer_in(groups, 0..=7)? as u32;
        return l.emit(Op::WgmmaWait { groups });
    }
    if !l.m.take("mma_async") {
        return l.m.missing(".mma_async, .fence, .commit_group or .wait_group");
    }
    product(l)
}

fn product(l: &mut Line<'_, '_>) -> Result<()> {
    if l.m.take("sp") {
        return l.refuse("unsupported instruction: sparse wgmma");
    }
    let (m, n, k) = l.m.need("a shape such as .m64n128k32", shape)?;
    let satfinite = l.m.take("satfinite");
    let bits = ["b1", "b1", "and", "popc"].map(|word| l.m.take(word));
    let mut types = l.m.types();
    if bits == [true; 4] {
        types.extend([B1, B1]);
    }
    let &[d_type, a_type, b_type] = types.as_slice() else {
        return l.m.missing("three types: result, A and B");
    };
    let depth = match (d_type, a_type, b_type) {
        (F16 | F32, F16, F16) | (F32, BF16, BF16) => 16,
        (F32, TF32, TF32) => 8,
        (F16 | F32, E4M3 | E5M2, E4M3 | E5M2) | (S32, S8 | U8, S8 | U8) => 32,
        (S32, B1, B1) => 256,
        _ => return l.refuse("there is no product of these types"),
    };
    let integer = d_type == S32;
    // Integer products come at fewer widths.
    let width = n % 8 == 0 && (8..=256).contains(&n) && (!integer || n <= 32 && n != 40 || n % 16 == 0);
    if m != 64 || k != depth || !width {
        return l.refuse(format!(
            "there is no such shape for these types (m64, n a multiple of 8 up to 256, k{depth})"
        ));
    }
    if satfinite && !(integer && a_type != B1) {
        return l.refuse("`.satfinite` goes with 8-bit integer products");
    }
    let scales = if integer { 0 } else { 2 };
    let narrow = matches!(a_type, F16 | BF16);
    let operands = l.between(4 + scales, 4 + scales + if narrow { 2 } else { 0 })?;
    let count = n as usize / if d_type == F16 { 4 } else { 2 };
    let element = if d_type == F16 { B32 } else { d_type };
    let mut d = Vec::with_capacity(count);
    for register in l.vector(&operands[0], count)? {
        d.push(l.reg32(register, element)?);
    }
    let a = match &operands[1].kind {
        OperandKind::Vector(_) => {
            let mut list = Vec::with_capacity(4);
            for register in l.vector(&operands[1], 4)? {
                list.push(l.reg32(register, B32)?);
            }
            WgmmaA::Regs(list)
        }
        _ => WgmmaA::Desc(l.src(&operands[1], B64)?),
    };
    let transposes = match (narrow, &a) {
        (false, _) => 0,
        (true, WgmmaA::Desc(_)) => 2,
        (true, WgmmaA::Regs(_)) => 1,
    };
    let operands = l.between(4 + scales + transposes, 4 + scales + transposes)?;
    let b_desc = l.src(&operands[2], B64)?;
    let scale_d = scale_d(l, &operands[3])?;
    let (mut negate_a, mut negate_b) = (false, false);
    if !integer {
        negate_a = negated(l, &operands[4])?;
        negate_b = negated(l, &operands[5])?;
    }
    let flags = &operands[4 + scales..];
    let (mut transpose_a, mut transpose_b) = (false, false);
    if let Some((last, before)) = flags.split_last() {
        transpose_b = l.integer_in(last, 0..=1)? == 1;
        if let Some(first) = before.first() {
            transpose_a = l.integer_in(first, 0..=1)? == 1;
        }
    }
    l.emit(Op::Wgmma(Box::new(Wgmma {
        n,
        k,
        d_type,
        a_type,
        b_type,
        d,
        a,
        b_desc,
        scale_d,
        negate_a,
        negate_b,
        transpose_a,
        transpose_b,
        satfinite,
    })))
}

fn scale_d<'a>(l: &mut Line<'_, 'a>, operand: &'a Operand<'a>) -> Result<ScaleD> {
    match &operand.kind {
        OperandKind::Not(_) | OperandKind::Expr(Expr::Name(_)) => Ok(ScaleD::Pred(l.pred_src(operand)?)),
        _ => Ok(ScaleD::Imm(l.integer_in(operand, 0..=1)? == 1)),
    }
}

fn negated<'a>(l: &mut Line<'_, 'a>, operand: &'a Operand<'a>) -> Result<bool> {
    match l.integer(operand)? {
        1 => Ok(false),
        -1 => Ok(true),
        other => Error::err(operand.span, format!("a scale is 1 or -1, not {other}")),
    }
}
