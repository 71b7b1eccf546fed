//! `multimem.*`: loads, stores and reductions on multicast addresses.

use crate::ir::{AtomOp, Op, Scope, Semantics, Space, Type};
use crate::ptx::Result;

use super::family::Line;
use super::reduce::operation;

use Type::*;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    LdReduce,
    St,
    Red,
}

/// Every `multimem` instruction.
pub(super) fn multimem(l: &mut Line<'_, '_>) -> Result<()> {
    let kind = l.m.need(".ld_reduce, .st or .red", |word| match word {
        "ld_reduce" => Some(Kind::LdReduce),
        "st" => Some(Kind::St),
        "red" => Some(Kind::Red),
        _ => None,
    })?;
    let (sem, scope) = (l.m.semantics().unwrap_or_default(), l.m.scope().unwrap_or_default());
    if (sem == Semantics::Weak) != (scope == Scope::None) {
        return l.refuse("an ordering other than .weak comes with a scope");
    }
    // A reduction without an ordering is relaxed.
    let sem = if kind == Kind::Red && sem == Semantics::Weak { Semantics::Relaxed } else { sem };
    let global = l.m.take("global");
    let space = if global { Space::Global } else { Space::Generic };
    let wide = l.m.take("acc::f32");
    let count = l.m.vector();
    let op = match kind {
        Kind::St => AtomOp::Exch,
        _ => l.m.need("an operation such as .add", |word| {
            operation(word).filter(|op| {
                matches!(op, AtomOp::Add | AtomOp::Min | AtomOp::Max | AtomOp::And | AtomOp::Or | AtomOp::Xor)
            })
        })?,
    };
    let ty = l.m.ty_of(&[B32, B64, U32, U64, S32, S64, F16, F16x2, BF16, BF16x2, F32, F64])?;
    if count as u32 * ty.bytes() > 16 {
        return l.refuse("an access has at most 16 bytes");
    }
    if matches!(ty, F16 | BF16) && count == 1 || ty == S64 && op == AtomOp::Add {
        return l.refuse(
            "unsupported instruction: multimem of this type (16-bit floats come in pairs or vectors)",
        );
    }
    if wide && !matches!(ty, F16 | F16x2 | BF16 | BF16x2) {
        return l.refuse("`.acc::f32` goes with 16-bit floats");
    }
    let [first, second] = l.fixed()?;
    if kind == Kind::LdReduce {
        let mut dsts = Vec::with_capacity(count);
        for element in l.vector(first, count)? {
            dsts.push(l.dst_or_sink(element, ty)?);
        }
        let (addr, _) = l.addr_in(second, space)?;
        return l.emit(Op::MultimemLdReduce { op, ty, wide, dsts, addr, sem, scope });
    }
    let (addr, _) = l.addr_in(first, space)?;
    let mut srcs = Vec::with_capacity(count);
    for element in l.vector(second, count)? {
        srcs.push(l.src(element, ty)?);
    }
    match kind {
        Kind::Red => l.emit(Op::MultimemRed { op, ty, srcs, addr, sem, scope }),
        _ => l.emit(Op::MultimemSt { ty, srcs, addr, sem, scope }),
    }
}
