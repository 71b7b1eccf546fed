//! `cp.async`: copies of 4, 8 or 16 bytes by threads, their groups and their mbarrier arrivals.

use crate::ir::{Op, Space, Type};
use crate::ptx::Result;
use crate::ptx::ast::OperandKind;

use super::family::Line;

use Type::*;

/// Every `cp.async` that is not bulk; `.async` is taken.
pub(super) fn cp_async(l: &mut Line<'_, '_>) -> Result<()> {
    if l.m.take("commit_group") {
        let [] = l.fixed()?;
        return l.emit(Op::CpAsyncCommit);
    }
    if l.m.take("wait_all") {
        let [] = l.fixed()?;
        return l.emit(Op::CpAsyncWait { groups: None });
    }
    if l.m.take("wait_group") {
        let [groups] = l.fixed()?;
        let groups = l.integer_in(groups, 0..=i64::from(u32::MAX))?;
        return l.emit(Op::CpAsyncWait { groups: Some(groups as u32) });
    }
    if l.m.take("mbarrier") {
        return arrive(l);
    }
    copy(l)
}

/// `cp.async.mbarrier.arrive[.noinc][.space].b64 [addr]`
fn arrive(l: &mut Line<'_, '_>) -> Result<()> {
    if !l.m.take("arrive") {
        return l.m.missing(".arrive");
    }
    let noinc = l.m.take("noinc");
    let space = l.m.shared_space();
    l.m.ty_of(&[B64])?;
    let [addr] = l.fixed()?;
    let (addr, space) = l.addr_in(addr, space)?;
    l.emit(Op::CpAsyncMbarArrive { addr, space, noinc })
}

/// `cp.async.ca|cg.shared.global [dst], [src], bytes [, src_bytes | ignore] [, policy]`
fn copy(l: &mut Line<'_, '_>) -> Result<()> {
    let around = l.m.need(".ca or .cg", |word| match word {
        "ca" => Some(false),
        "cg" => Some(true),
        _ => None,
    })?;
    let hint = l.m.cache();
    if l.m.shared_space() != Space::Shared || !l.m.take("global") {
        return l.m.missing(".shared.global");
    }
    let operands = l.between(3 + usize::from(hint), 4 + usize::from(hint))?;
    let (dst, _) = l.addr_in(&operands[0], Space::Shared)?;
    let (src, _) = l.addr_in(&operands[1], Space::Global)?;
    let bytes = l.integer(&operands[2])?;
    let good = if around { bytes == 16 } else { matches!(bytes, 4 | 8 | 16) };
    if !good {
        return l.refuse(format!("a copy of {bytes} bytes: .ca takes 4, 8 or 16, .cg takes 16"));
    }
    let mut rest = &operands[3..];
    if hint && let Some((policy, before)) = rest.split_last() {
        l.policy(policy)?;
        rest = before;
    }
    let (mut src_bytes, mut ignore) = (None, None);
    if let Some(extra) = rest.first() {
        // A predicate ignores the source; a number says how much of it is real.
        if matches!(extra.kind, OperandKind::Not(_)) || l.is_predicate(extra) {
            ignore = Some(l.pred_src(extra)?);
        } else {
            src_bytes = Some(l.src(extra, U32)?);
        }
    }
    l.emit(Op::CpAsync { dst, src, bytes: bytes as u32, src_bytes, ignore })
}
