//! Matrix fragments in registers: `ldmatrix`, `stmatrix`, `mma.sync`.

use crate::ir::{Mma, Op, Reg, Src, Type};
use crate::ptx::Result;
use crate::ptx::ast::Operand;

use super::family::Line;

use Type::*;

/// `m64n128k32`
pub(super) fn shape(word: &str) -> Option<(u32, u32, u32)> {
    let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

/// Modifiers of `ldmatrix` and `stmatrix`: matrices and transposition.
fn matrices(l: &mut Line<'_, '_>) -> Result<(usize, bool)> {
    for word in ["sync", "aligned"] {
        if !l.m.take(word) {
            return l.m.missing(".sync.aligned");
        }
    }
    if !l.m.take("m8n8") {
        return l.m.missing(".m8n8");
    }
    let count = l.m.need(".x1, .x2 or .x4", |word| match word {
        "x1" => Some(1),
        "x2" => Some(2),
        "x4" => Some(4),
        _ => None,
    })?;
    let trans = l.m.take("trans");
    l.m.ty_of(&[B16])?;
    Ok((count, trans))
}

/// `ldmatrix.sync.aligned.m8n8.xN[.trans][.shared].b16 {d}, [a]`
pub(super) fn ldmatrix(l: &mut Line<'_, '_>) -> Result<()> {
    let space = l.m.shared_space();
    let (count, trans) = matrices(l)?;
    let [to, addr] = l.fixed()?;
    let mut dsts = Vec::with_capacity(count);
    for element in l.vector(to, count)? {
        dsts.push(l.dst(element, B32)?);
    }
    let (addr, space) = l.addr_in(addr, space)?;
    l.emit(Op::LdMatrix { dsts, addr, trans, space })
}

/// `stmatrix.sync.aligned.m8n8.xN[.trans][.shared].b16 [a], {s}`
pub(super) fn stmatrix(l: &mut Line<'_, '_>) -> Result<()> {
    let space = l.m.shared_space();
    let (count, trans) = matrices(l)?;
    let [addr, from] = l.fixed()?;
    let mut srcs = Vec::with_capacity(count);
    for element in l.vector(from, count)? {
        srcs.push(l.src(element, B32)?);
    }
    let (addr, space) = l.addr_in(addr, space)?;
    l.emit(Op::StMatrix { srcs, addr, trans, space })
}

/// `mma.sync.aligned.mMnNkK.row.col[.satfinite].d.a.b.c d, a, b, c`
pub(super) fn mma(l: &mut Line<'_, '_>) -> Result<()> {
    for word in ["sync", "aligned"] {
        if !l.m.take(word) {
            return l.m.missing(".sync.aligned");
        }
    }
    if l.m.take("sp") || l.m.take("sp::ordered_metadata") {
        return l.refuse("unsupported instruction: sparse mma");
    }
    let (m, n, k) = l.m.need("a shape such as .m16n8k16", shape)?;
    // The order of these two says which operand each is about.
    let layout = |word: &str| matches!(word, "row" | "col").then(|| word.to_owned());
    let layouts = (l.m.one_of(layout), l.m.one_of(layout));
    if (layouts.0.as_deref(), layouts.1.as_deref()) != (Some("row"), Some("col")) {
        return l.m.missing(".row.col");
    }
    let satfinite = l.m.take("satfinite");
    let types = l.m.types();
    let &[d_type, a_type, b_type, c_type] = types.as_slice() else {
        return l.m.missing("four types: result, A, B and addend");
    };
    // Bits of one row of A that one lane quad holds say which depths exist.
    let bits = match (d_type, a_type, b_type, c_type) {
        (F16, F16, F16, F16) | (F32, F16, F16, F32) | (F32, BF16, BF16, F32) => 16,
        (F32, TF32, TF32, F32) => 32,
        (F16, E4M3 | E5M2, E4M3 | E5M2, F16)
        | (F32, E4M3 | E5M2, E4M3 | E5M2, F32)
        | (S32, S8 | U8, S8 | U8, S32) => 8,
        _ => return l.refuse("unsupported instruction: mma of these types"),
    };
    if m != 16 || n != 8 || !matches!(k * bits, 128 | 256) {
        return l.refuse("unsupported instruction: mma of this shape");
    }
    if satfinite && d_type != S32 {
        return l.refuse("`.satfinite` goes with integer products");
    }
    let [d, a, b, c] = l.fixed()?;
    // A is 16 rows, B 8 columns of k·bits/8 bytes, spread over 32 lanes of 4-byte registers.
    let row = (k * bits / 8) as usize;
    let addend = |ty: Type| if ty == F16 { 2 } else { 4 };
    let held = |ty: Type| if ty == F16 { B32 } else { ty };
    let mut results: Vec<Reg> = Vec::with_capacity(4);
    for element in l.vector(d, addend(d_type))? {
        results.push(l.dst(element, held(d_type))?);
    }
    let a = fragment(l, a, row * 16 / 128, B32)?;
    let b = fragment(l, b, row * 8 / 128, B32)?;
    let c = fragment(l, c, addend(c_type), held(c_type))?;
    l.emit(Op::Mma(Box::new(Mma { m, n, k, d_type, a_type, b_type, c_type, d: results, a, b, c, satfinite })))
}

fn fragment<'a>(l: &mut Line<'_, 'a>, operand: &'a Operand<'a>, count: usize, ty: Type) -> Result<Vec<Src>> {
    let mut list = Vec::with_capacity(count);
    for element in l.vector(operand, count)? {
        list.push(l.src(element, ty)?);
    }
    Ok(list)
}
