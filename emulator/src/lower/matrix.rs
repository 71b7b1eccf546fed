//! Matrix fragments in registers: `ldmatrix`, `stmatrix`, `movmatrix`, `mma.sync`.

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

/// `movmatrix.sync.aligned.m8n8.trans.b16 d, a`
pub(super) fn movmatrix(l: &mut Line<'_, '_>) -> Result<()> {
    for word in ["sync", "aligned", "m8n8", "trans"] {
        if !l.m.take(word) {
            return l.m.missing(".sync.aligned.m8n8.trans");
        }
    }
    l.m.ty_of(&[B16])?;
    let [dst, src] = l.fixed()?;
    let (dst, src) = (l.dst(dst, B32)?, l.src(src, B32)?);
    l.emit(Op::MovMatrix { dst, src })
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
    // Rounding of .f64 products: to nearest, said or not.
    l.m.take("rn");
    let (types, xor) = mma_types(l)?;
    let &[d_type, a_type, b_type, c_type] = types.as_slice() else {
        return l.m.missing("four types: result, A, B and addend");
    };
    if d_type == F64 {
        return mma_f64(l, (m, n, k), &types);
    }
    // Bits of one row of A that one lane quad holds say which depths exist.
    let bits = match (d_type, a_type, b_type, c_type) {
        (F16, F16, F16, F16) | (F32, F16, F16, F32) | (F32, BF16, BF16, F32) => 16,
        (F32, TF32, TF32, F32) => 32,
        (F16, E4M3 | E5M2, E4M3 | E5M2, F16)
        | (F32, E4M3 | E5M2, E4M3 | E5M2, F32)
        | (S32, S8 | U8, S8 | U8, S32) => 8,
        (S32, S4 | U4, S4 | U4, S32) => 4,
        (S32, B1, B1, S32) => 1,
        _ => return l.refuse("unsupported instruction: mma of these types"),
    };
    let integer = d_type == S32;
    let shapes: &[u32] = if m == 8 && integer { &[128] } else { &[128, 256] };
    if !(m == 16 || m == 8 && integer) || n != 8 || !shapes.contains(&(k * bits)) {
        return l.refuse("unsupported instruction: mma of this shape");
    }
    if satfinite && !(integer && a_type != B1) {
        return l.refuse("`.satfinite` goes with products of 8-bit and 4-bit integers");
    }
    let [d, a, b, c] = l.fixed()?;
    // A is m rows, B 8 columns of k·bits/8 bytes, spread over 32 lanes of 4-byte registers.
    let row = (k * bits / 8) as usize;
    let rows = m as usize;
    let addend = |ty: Type| rows / if ty == F16 { 8 } else { 4 };
    let held = |ty: Type| if ty == F16 { B32 } else { ty };
    let mut results: Vec<Reg> = Vec::with_capacity(4);
    for element in l.vector(d, addend(d_type))? {
        results.push(l.dst(element, held(d_type))?);
    }
    let a = fragment(l, a, row * rows / 128, B32)?;
    let b = fragment(l, b, row * 8 / 128, B32)?;
    let c = fragment(l, c, addend(c_type), held(c_type))?;
    let d = results;
    l.emit(Op::Mma(Box::new(Mma { m, n, k, d_type, a_type, b_type, c_type, d, a, b, c, satfinite, xor })))
}

/// The four types of an `mma`, those of four bits and one included, and whether single bits go through `.xor`.
fn mma_types(l: &mut Line<'_, '_>) -> Result<(Vec<Type>, bool)> {
    let word = |word: &str| match word {
        "s4" => Some(S4),
        "u4" => Some(U4),
        "b1" => Some(B1),
        _ => None,
    };
    let narrow = (l.m.one_of(word), l.m.one_of(word));
    let mut types = l.m.types();
    let mut xor = false;
    if let (Some(a), Some(b)) = narrow
        && types.len() == 2
    {
        types.splice(1..1, [a, b]);
        if (a, b) == (B1, B1) {
            xor = l.m.take("xor");
            if xor == l.m.take("and") || !l.m.take("popc") {
                return l.m.missing(".xor.popc or .and.popc");
            }
        }
    }
    Ok((types, xor))
}

/// `.f64`: one register holds one element, and a lane quad four of a row.
fn mma_f64(l: &mut Line<'_, '_>, (m, n, k): (u32, u32, u32), types: &[Type]) -> Result<()> {
    if types.iter().any(|ty| *ty != F64) {
        return l.refuse("unsupported instruction: mma of these types");
    }
    if !matches!((m, n, k), (8, 8, 4) | (16, 8, 4 | 8 | 16)) {
        return l.refuse("unsupported instruction: mma of this shape");
    }
    let [d, a, b, c] = l.fixed()?;
    let (rows, depth) = (m as usize, k as usize);
    let mut results: Vec<Reg> = Vec::with_capacity(4);
    for element in l.vector(d, rows / 4)? {
        results.push(l.dst(element, F64)?);
    }
    let a = fragment(l, a, rows * depth / 32, F64)?;
    let b = fragment(l, b, depth / 4, F64)?;
    let c = fragment(l, c, rows / 4, F64)?;
    l.emit(Op::Mma(Box::new(Mma {
        m,
        n,
        k,
        d_type: F64,
        a_type: F64,
        b_type: F64,
        c_type: F64,
        d: results,
        a,
        b,
        c,
        satfinite: false,
        xor: false,
    })))
}

fn fragment<'a>(l: &mut Line<'_, 'a>, operand: &'a Operand<'a>, count: usize, ty: Type) -> Result<Vec<Src>> {
    let mut list = Vec::with_capacity(count);
    for element in l.vector(operand, count)? {
        list.push(l.src(element, ty)?);
    }
    Ok(list)
}
