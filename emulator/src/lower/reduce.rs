//! Read-modify-write: `atom`, `red`, `red.async`.

use crate::ir::{AtomOp, Op, Scope, Semantics, Space, Src, Type};
use crate::ptx::Result;
use crate::ptx::ast::{Operand, OperandKind};

use super::family::Line;

use Type::*;

/// The operation of an atomic, a reduction or a bulk reduction.
pub(super) fn operation(word: &str) -> Option<AtomOp> {
    Some(match word {
        "add" => AtomOp::Add,
        "min" => AtomOp::Min,
        "max" => AtomOp::Max,
        "inc" => AtomOp::Inc,
        "dec" => AtomOp::Dec,
        "and" => AtomOp::And,
        "or" => AtomOp::Or,
        "xor" => AtomOp::Xor,
        "exch" => AtomOp::Exch,
        "cas" => AtomOp::Cas,
        _ => return None,
    })
}

/// `atom` and `red`
pub(super) fn atom(l: &mut Line<'_, '_>) -> Result<()> {
    let red = l.instruction.opcode.text == "red";
    if red && l.m.take("async") {
        return red_async(l);
    }
    let hint = l.m.cache();
    let op = l.m.need("an operation such as .add", operation)?;
    let space = l.m.space();
    let sem = l.m.semantics().unwrap_or(Semantics::Relaxed);
    if !matches!(sem, Semantics::Relaxed | Semantics::Acquire | Semantics::Release | Semantics::AcqRel) {
        return l.refuse("an atomic is .relaxed, .acquire, .release or .acq_rel");
    }
    let scope = l.m.scope().unwrap_or(Scope::Gpu);
    let noftz = l.m.take("noftz");
    let count = l.m.vector();
    let mut ty = l.m.ty()?;
    let allowed: &[Type] = match op {
        AtomOp::Add if count > 1 => &[F32, F16, F16x2, BF16, BF16x2],
        AtomOp::Add => &[U32, S32, U64, S64, F32, F64, F16, F16x2, BF16, BF16x2],
        AtomOp::Min | AtomOp::Max if count > 1 => &[F16, F16x2, BF16, BF16x2],
        AtomOp::Min | AtomOp::Max => &[U32, S32, U64, S64, F16, F16x2, BF16, BF16x2],
        AtomOp::Inc | AtomOp::Dec => &[U32],
        AtomOp::And | AtomOp::Or | AtomOp::Xor => &[B32, B64],
        AtomOp::Exch => &[B32, B64, B128],
        AtomOp::Cas => &[B16, B32, B64, B128],
    };
    l.m.check(ty, allowed)?;
    if noftz != matches!(ty, F16 | F16x2 | BF16 | BF16x2) {
        return l.refuse("`.noftz` goes with 16-bit floats, and they need it");
    }
    if hint && op == AtomOp::Cas && ty != B128 {
        return l.refuse("a compare-and-swap takes no cache policy but for .b128");
    }
    if count == 8 && ty.bytes() > 2 {
        return l.refuse("an access has at most 16 bytes");
    }
    if count == 1 && op != AtomOp::Add && matches!(ty, F16 | F16x2 | BF16 | BF16x2) {
        return l.refuse("16-bit floats are compared in vectors only");
    }
    if count > 1 && !matches!(op, AtomOp::Add | AtomOp::Min | AtomOp::Max) {
        return l.refuse("vectors can be added and compared only");
    }
    if red && matches!(op, AtomOp::Exch | AtomOp::Cas) {
        return l.refuse("a reduction returns nothing to exchange");
    }
    if !matches!(space, Space::Generic | Space::Global | Space::Shared | Space::SharedCluster) {
        return l.refuse("atomics act on global and shared memory");
    }
    let skip = usize::from(!red);
    let cas = op == AtomOp::Cas;
    let plain = skip + 2 + usize::from(cas);
    let operands = l.between(plain, plain + usize::from(hint))?;
    if hint && operands.len() == plain {
        return l.refuse("the cache policy is missing");
    }
    let mut dsts = Vec::new();
    if ty == B128 {
        if let OperandKind::Sink = operands[0].kind {
            dsts = vec![None, None];
        } else {
            let (low, high) = l.wide_register(&operands[0])?;
            dsts = vec![Some(low), Some(high)];
        }
    } else if !red {
        for element in l.vector(&operands[0], count)? {
            dsts.push(l.dst_or_sink(element, ty)?);
        }
    }
    let (addr, space) = l.addr_in(&operands[skip], space)?;
    let mut b = Vec::with_capacity(count);
    let mut c = Vec::new();
    if ty == B128 {
        b = halves(l, &operands[skip + 1])?;
        if cas {
            c = halves(l, &operands[skip + 2])?;
        }
        ty = B64;
    } else {
        for element in l.vector(&operands[skip + 1], count)? {
            b.push(l.src(element, ty)?);
        }
        if cas {
            c.push(l.src(&operands[skip + 2], ty)?);
        }
    }
    if hint {
        l.policy(&operands[plain])?;
    }
    l.emit(Op::Atom { space, op, ty, dsts, addr, b, c, sem, scope, red })
}

/// Low and high half of a `.b128` register.
fn halves<'a>(l: &mut Line<'_, 'a>, operand: &'a Operand<'a>) -> Result<Vec<Src>> {
    let (low, high) = l.wide_register(operand)?;
    Ok(vec![Src::Reg(low), Src::Reg(high)])
}

/// `red.async.relaxed.cluster[.shared::cluster.mbarrier::complete_tx::bytes.op.ty [addr], value, [mbar]`
fn red_async(l: &mut Line<'_, '_>) -> Result<()> {
    for word in ["relaxed", "cluster"] {
        if !l.m.take(word) {
            return l.m.missing(".relaxed.cluster");
        }
    }
    l.m.take("shared::cluster");
    if !l.m.take("mbarrier::complete_tx::bytes") {
        return l.m.missing(".mbarrier::complete_tx::bytes");
    }
    let op = l.m.need("an operation such as .add", operation)?;
    let allowed: &[Type] = match op {
        AtomOp::Add => &[U32, S32, U64],
        AtomOp::Min | AtomOp::Max => &[U32, S32],
        AtomOp::Inc | AtomOp::Dec => &[U32],
        AtomOp::And | AtomOp::Or | AtomOp::Xor => &[B32],
        AtomOp::Exch | AtomOp::Cas => return l.refuse("a reduction returns nothing to exchange"),
    };
    let ty = l.m.ty_of(allowed)?;
    let [addr, value, mbar] = l.fixed()?;
    let (addr, _) = l.addr_in(addr, Space::SharedCluster)?;
    let (mbar, _) = l.addr_in(mbar, Space::SharedCluster)?;
    let src = l.src(value, ty)?;
    l.emit(Op::RedAsync { op, ty, src, addr, mbar })
}
