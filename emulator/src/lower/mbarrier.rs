//! `mbarrier.*`
//!
//! Defaults are made explicit here: an arrival releases at block scope, a wait acquires at block scope. The suspend-time hint
//! of `try_wait` is checked and dropped.

use crate::ir::{MbarArrive, MbarWait, Op, Scope, Semantics, Space, Src, Type};
use crate::ptx::Result;
use crate::ptx::ast::{Operand, OperandKind};

use super::family::Line;

use Type::*;

/// Every `mbarrier` instruction.
pub(super) fn mbarrier(l: &mut Line<'_, '_>) -> Result<()> {
    if l.m.take("arrive") {
        return arrive(l, false);
    }
    if l.m.take("arrive_drop") {
        return arrive(l, true);
    }
    for (word, try_wait) in [("try_wait", true), ("test_wait", false)] {
        if l.m.take(word) {
            return wait(l, try_wait);
        }
    }
    if l.m.take("pending_count") {
        l.m.ty_of(&[B64])?;
        let [dst, state] = l.fixed()?;
        let (dst, state) = (l.dst(dst, U32)?, l.src(state, B64)?);
        return l.emit(Op::MbarPendingCount { dst, state });
    }
    for (word, complete) in [("expect_tx", false), ("complete_tx", true)] {
        if l.m.take(word) {
            return tx(l, complete);
        }
    }
    let init = l.m.take("init");
    if !init && !l.m.take("inval") {
        return l.m.missing("an operation such as .init, .arrive or .try_wait");
    }
    let space = l.m.shared_space();
    l.m.ty_of(&[B64])?;
    let operands = l.between(1, 2)?;
    let (addr, space) = l.addr_in(&operands[0], space)?;
    match (init, &operands[1..]) {
        (true, [count]) => {
            let count = l.src(count, U32)?;
            if matches!(count, Src::Imm(n) if !(1..=(1 << 20) - 1).contains(&n)) {
                return l.refuse("an arrival count is 1 to 2^20-1");
            }
            l.emit(Op::MbarInit { addr, space, count })
        }
        (false, []) => l.emit(Op::MbarInval { addr, space }),
        _ => l.refuse("wrong number of operands"),
    }
}

/// `mbarrier.expect_tx[.relaxed][.scope][.space].b64 [addr], bytes`
fn tx(l: &mut Line<'_, '_>, complete: bool) -> Result<()> {
    let space = l.m.shared_space();
    let relaxed = l.m.take("relaxed");
    match (relaxed, l.m.scope()) {
        (false, None) | (true, Some(Scope::Cta | Scope::Cluster)) => {}
        _ => return l.refuse("`.relaxed` and a scope, .cta or .cluster, come together"),
    }
    l.m.ty_of(&[B64])?;
    let [addr, bytes] = l.fixed()?;
    let ((addr, space), bytes) = (l.addr_in(addr, space)?, l.src(bytes, U32)?);
    l.emit(Op::MbarTx { addr, space, bytes, complete })
}

/// `mbarrier.arrive[_drop][.expect_tx][.noComplete][.sem.scope][.space].b64 [state,] [addr] [, count]`
fn arrive(l: &mut Line<'_, '_>, drop: bool) -> Result<()> {
    let expects = l.m.take("expect_tx");
    let no_complete = l.m.take("noComplete");
    let space = l.m.shared_space();
    let written = l.m.semantics();
    let sem = match written {
        None | Some(Semantics::Release) => Semantics::Release,
        Some(Semantics::Relaxed) => Semantics::Relaxed,
        Some(_) => return l.refuse("an arrival is .release or .relaxed"),
    };
    let scope = scope(l, written)?;
    l.m.ty_of(&[B64])?;
    let operands = l.between(1, 3)?;
    let (state, rest) = match &operands[0].kind {
        OperandKind::Address(_) => (None, operands),
        OperandKind::Sink => (None, &operands[1..]),
        _ => (Some(l.dst(&operands[0], B64)?), &operands[1..]),
    };
    let Some((addr, rest)) = rest.split_first() else {
        return l.refuse("the address of the mbarrier is missing");
    };
    let (addr, space) = l.addr_in(addr, space)?;
    if state.is_some() && space == Space::SharedCluster {
        return l.refuse("an arrival at another block's mbarrier returns no state");
    }
    let number = match rest {
        [] => None,
        [number] => Some(l.src(number, U32)?),
        _ => return l.refuse("too many operands"),
    };
    let (count, expect_tx) = match (expects, number) {
        (true, None) => return l.refuse("the number of bytes to expect is missing"),
        (true, bytes) => (Src::Imm(1), bytes),
        (false, None) if no_complete => return l.refuse("`.noComplete` takes a count"),
        (false, count) => (count.unwrap_or(Src::Imm(1)), None),
    };
    l.emit(Op::MbarArrive(MbarArrive { addr, space, state, count, expect_tx, drop, no_complete, sem, scope }))
}

/// An ordering comes with a scope, and a scope with an ordering.
fn scope(l: &mut Line<'_, '_>, sem: Option<Semantics>) -> Result<Scope> {
    match (sem, l.m.scope()) {
        (None, None) | (Some(_), Some(Scope::Cta)) => Ok(Scope::Cta),
        (Some(_), Some(Scope::Cluster)) => Ok(Scope::Cluster),
        (Some(_), None) => l.m.missing("a scope: .cta or .cluster"),
        _ => l.refuse("a scope here is .cta or .cluster, after an ordering"),
    }
}

/// `mbarrier.test_wait|try_wait[.parity][.sem.scope][.space].b64 p, [addr], state|parity [, hint]`
fn wait(l: &mut Line<'_, '_>, try_wait: bool) -> Result<()> {
    let parity = l.m.take("parity");
    let space = l.m.shared_space();
    let written = l.m.semantics();
    let sem = match written {
        None | Some(Semantics::Acquire) => Semantics::Acquire,
        Some(Semantics::Relaxed) => Semantics::Relaxed,
        Some(_) => return l.refuse("a wait is .acquire or .relaxed"),
    };
    let scope = scope(l, written)?;
    l.m.ty_of(&[B64])?;
    let operands: &[Operand<'_>] = l.between(3, if try_wait { 4 } else { 3 })?;
    let dst = l.pred(&operands[0])?;
    let (addr, space) = l.addr_in(&operands[1], space)?;
    let phase = l.src(&operands[2], if parity { U32 } else { B64 })?;
    if parity && matches!(phase, Src::Imm(2..)) {
        l.integer_in(&operands[2], 0..=1)?;
    }
    if let Some(hint) = operands.get(3) {
        l.src(hint, U32)?;
    }
    l.emit(Op::MbarWait(MbarWait { dst, addr, space, phase, parity, try_wait, sem, scope }))
}
