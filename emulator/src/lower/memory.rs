//! Loads, stores and what only advises the caches.
//!
//! Cache operators, eviction priorities, prefetch sizes and policies are checked for spelling and dropped.

use crate::ir::{Hint, Op, Scope, Semantics, Space, Src, Type};
use crate::ptx::Result;
use crate::ptx::ast::{Operand, OperandKind};

use super::family::Line;

use Type::*;

const STORED: &[Type] = &[B8, B16, B32, B64, B128, U8, U16, U32, U64, S8, S16, S32, S64, F32, F64];

struct Access {
    space: Space,
    ty: Type,
    count: usize,
    sem: Semantics,
    scope: Scope,
    hint: bool,
}

/// The modifiers that `ld` and `st` share.
fn access(l: &mut Line<'_, '_>) -> Result<Access> {
    let hint = l.m.cache();
    let space = l.m.space();
    // `.mmio` comes with `.relaxed` and says more than it does.
    let mmio = l.m.take("mmio");
    let sem = l.m.semantics().unwrap_or_default();
    if matches!(sem, Semantics::AcqRel | Semantics::Sc) {
        return l.refuse("one access cannot be .acq_rel or .sc");
    }
    let sem = match (mmio, sem) {
        (true, Semantics::Relaxed) => Semantics::Mmio,
        (true, _) => return l.m.missing(".relaxed beside .mmio"),
        (false, sem) => sem,
    };
    let scope = l.m.scope().unwrap_or_default();
    let scoped =
        matches!(sem, Semantics::Relaxed | Semantics::Acquire | Semantics::Release | Semantics::Mmio);
    if scoped && scope == Scope::None {
        return l.m.missing("a scope: .cta, .cluster, .gpu or .sys");
    }
    if !scoped && scope != Scope::None {
        return l.refuse("a scope needs .relaxed, .acquire or .release");
    }
    let count = l.m.vector();
    let ty = l.m.ty_of(STORED)?;
    if count as u32 * ty.bytes() > 16 {
        return l.refuse("an access has at most 16 bytes");
    }
    Ok(Access { space, ty, count, sem, scope, hint })
}

/// `ld`
pub(super) fn ld(l: &mut Line<'_, '_>) -> Result<()> {
    let ldu = l.instruction.opcode.text == "ldu";
    let mut nc = l.m.take("nc") || ldu;
    l.m.take("unified");
    let mut a = access(l)?;
    if matches!(a.sem, Semantics::Release) {
        return l.refuse("a load cannot release");
    }
    if ldu && a.count == 8 {
        return l.refuse("ldu has vectors of two and four");
    }
    if ldu && a.space == Space::Generic {
        nc = false;
    }
    if nc && (a.space != Space::Global || a.sem != Semantics::Weak) {
        return l.refuse("`.nc` goes with plain loads of global memory");
    }
    let operands = operands(l, a.hint)?;
    let (addr, space) = l.addr_in(&operands[1], a.space)?;
    let mut dsts = Vec::with_capacity(a.count);
    if a.ty == B128 {
        let (low, high) = l.wide_register(&operands[0])?;
        dsts = vec![Some(low), Some(high)];
        a.ty = B64;
    } else {
        for element in l.vector(&operands[0], a.count)? {
            // Only an element of a vector can be thrown away.
            dsts.push(match element.kind {
                OperandKind::Sink if a.count > 1 => None,
                _ => Some(l.wide_dst(element, a.ty)?),
            });
        }
    }
    l.emit(Op::Ld { space, ty: a.ty, dsts, addr, sem: a.sem, scope: a.scope, nc })
}

/// `st`, and `st.async`
pub(super) fn st(l: &mut Line<'_, '_>) -> Result<()> {
    if l.m.take("async") {
        return st_async(l);
    }
    let mut a = access(l)?;
    if matches!(a.sem, Semantics::Acquire) {
        return l.refuse("a store cannot acquire");
    }
    let operands = operands(l, a.hint)?;
    let (addr, space) = l.addr_in(&operands[0], a.space)?;
    let mut srcs: Vec<Src> = Vec::with_capacity(a.count);
    if a.ty == B128 {
        let (low, high) = l.wide_register(&operands[1])?;
        srcs = vec![Src::Reg(low), Src::Reg(high)];
        a.ty = B64;
    } else {
        for element in l.vector(&operands[1], a.count)? {
            srcs.push(l.wide_src(element, a.ty)?);
        }
    }
    l.emit(Op::St { space, ty: a.ty, srcs, addr, sem: a.sem, scope: a.scope })
}

/// Two operands, and a cache policy behind them if there is a hint.
fn operands<'a>(l: &mut Line<'_, 'a>, hint: bool) -> Result<&'a [Operand<'a>]> {
    let count = 2 + usize::from(hint);
    let operands = l.between(count, count)?;
    if hint {
        l.policy(&operands[2])?;
    }
    Ok(operands)
}

/// `st.async[.weak].shared::cluster.mbarrier::complete_tx::bytes[.vec].ty [addr], value, [mbar]`
fn st_async(l: &mut Line<'_, '_>) -> Result<()> {
    l.m.take("weak");
    l.m.take("shared::cluster");
    if !l.m.take("mbarrier::complete_tx::bytes") {
        return l.m.missing(".mbarrier::complete_tx::bytes");
    }
    let count = l.m.vector();
    let ty = l.m.ty_of(&[B32, U32, S32, F32, B64, U64, S64, F64])?;
    let [addr, value, mbar] = l.fixed()?;
    let (addr, _) = l.addr_in(addr, Space::SharedCluster)?;
    let (mbar, _) = l.addr_in(mbar, Space::SharedCluster)?;
    let mut srcs = Vec::with_capacity(count);
    for element in l.vector(value, count)? {
        srcs.push(l.src(element, ty)?);
    }
    l.emit(Op::StAsync { ty, srcs, addr, mbar })
}

/// `prefetch`, `prefetchu`, `discard`, `applypriority`
pub(super) fn hint(l: &mut Line<'_, '_>) -> Result<()> {
    let opcode = l.instruction.opcode.text;
    let space = l.m.space();
    let hint = match opcode {
        "prefetch" if l.m.take("tensormap") => Hint::PrefetchTensorMap,
        "prefetch" | "prefetchu" => l.m.need("a level: .L1 or .L2", |word| match word {
            "L1" => Some(Hint::PrefetchL1),
            "L2" | "L2::evict_last" | "L2::evict_normal" => Some(Hint::PrefetchL2),
            _ => None,
        })?,
        "discard" if l.m.take("L2") => Hint::Discard,
        "applypriority" if l.m.take("L2::evict_normal") => Hint::ApplyPriority,
        _ => return l.m.missing("a level of cache"),
    };
    let count = if opcode.starts_with("prefetch") { 1 } else { 2 };
    let operands = l.between(count, count)?;
    l.addr_in(&operands[0], space)?;
    if let Some(size) = operands.get(1) {
        l.integer_in(size, 128..=128)?;
    }
    l.emit(Op::Hint(hint))
}

/// `createpolicy`: the modifiers are checked, the value has no effect.
pub(super) fn createpolicy(l: &mut Line<'_, '_>) -> Result<()> {
    let kind = l.m.need(".fractional, .range or .cvt", |word| match word {
        "fractional" => Some((2, 1..=2)),
        "range" => Some((2, 4..=4)),
        "cvt" => Some((0, 2..=2)),
        _ => None,
    })?;
    let (mut levels, counts) = kind;
    while levels > 0 && l.m.one_of(|word| word.starts_with("L2::evict_").then_some(())).is_some() {
        levels -= 1;
    }
    if levels == 0 && counts == (2..=2) && !l.m.take("L2") {
        return l.m.missing(".L2");
    }
    l.m.take("global");
    l.m.ty_of(&[B64])?;
    let operands = l.between(*counts.start(), 4)?;
    let dst = l.dst(&operands[0], B64)?;
    l.emit(Op::CreatePolicy { dst })
}
