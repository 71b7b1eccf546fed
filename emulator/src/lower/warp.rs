//! Exchanges between the lanes of a warp.

use crate::ir::{Op, Redux, Shfl, Type, Vote};
use crate::ptx::Result;

use super::family::Line;

use Type::*;

fn sync(l: &mut Line<'_, '_>) -> Result<()> {
    if l.m.take("sync") { Ok(()) } else { l.m.missing(".sync") }
}

/// `shfl.sync.mode.b32 d[|p], a, b, c, mask`
pub(super) fn shfl(l: &mut Line<'_, '_>) -> Result<()> {
    sync(l)?;
    let mode = l.m.need(".up, .down, .bfly or .idx", |word| {
        Some(match word {
            "up" => Shfl::Up,
            "down" => Shfl::Down,
            "bfly" => Shfl::Bfly,
            "idx" => Shfl::Idx,
            _ => return None,
        })
    })?;
    l.m.ty_of(&[B32])?;
    let [dst, a, b, c, mask] = l.fixed()?;
    let (dst, pred) = l.pair(dst);
    let dst = l.dst(dst, B32)?;
    let pred = match pred {
        Some(pred) => l.pred_or_sink(pred)?,
        None => None,
    };
    let (a, b, c, mask) = (l.src(a, B32)?, l.src(b, B32)?, l.src(c, B32)?, l.src(mask, B32)?);
    l.emit(Op::Shfl { mode, dst, pred, a, b, c, mask })
}

/// `vote.sync.mode d, [!]p, mask`
pub(super) fn vote(l: &mut Line<'_, '_>) -> Result<()> {
    sync(l)?;
    let mode = l.m.need(".all, .any, .uni or .ballot", |word| {
        Some(match word {
            "all" => Vote::All,
            "any" => Vote::Any,
            "uni" => Vote::Uni,
            "ballot" => Vote::Ballot,
            _ => return None,
        })
    })?;
    let ty = l.m.ty_of(if mode == Vote::Ballot { &[B32] } else { &[Pred] })?;
    let [dst, pred, mask] = l.fixed()?;
    let (dst, pred, mask) = (l.dst(dst, ty)?, l.pred_src(pred)?, l.src(mask, B32)?);
    l.emit(Op::Vote { mode, dst, pred, mask })
}

/// `match.any.sync.ty d, a, mask`, `match.all.sync.ty d[|p], a, mask`
pub(super) fn matching(l: &mut Line<'_, '_>) -> Result<()> {
    sync(l)?;
    let all = l.m.need(".any or .all", |word| match word {
        "all" => Some(true),
        "any" => Some(false),
        _ => None,
    })?;
    let ty = l.m.ty_of(&[B32, B64])?;
    let [dst, a, mask] = l.fixed()?;
    let (dst, pred) = l.pair(dst);
    let pred = match pred {
        Some(_) if !all => return l.refuse("match.any has no predicate result"),
        Some(pred) => l.pred_or_sink(pred)?,
        None => None,
    };
    let (dst, a, mask) = (l.dst(dst, B32)?, l.src(a, ty)?, l.src(mask, B32)?);
    l.emit(Op::Match { all, ty, dst, pred, a, mask })
}

/// `activemask.b32 d`
pub(super) fn activemask(l: &mut Line<'_, '_>) -> Result<()> {
    l.m.ty_of(&[B32])?;
    let [dst] = l.fixed()?;
    let dst = l.dst(dst, B32)?;
    l.emit(Op::ActiveMask { dst })
}

/// `elect.sync d|p, mask`
pub(super) fn elect(l: &mut Line<'_, '_>) -> Result<()> {
    sync(l)?;
    let [dst, mask] = l.fixed()?;
    let (first, second) = l.pair(dst);
    let Some(pred) = second else { return l.refuse("the result is a pair such as _|p") };
    let (dst, pred, mask) = (l.dst_or_sink(first, B32)?, l.pred(pred)?, l.src(mask, B32)?);
    l.emit(Op::Elect { dst, pred, mask })
}

/// `redux.sync.op.ty d, a, mask`
pub(super) fn redux(l: &mut Line<'_, '_>) -> Result<()> {
    sync(l)?;
    let op = l.m.need("an operation such as .add", |word| {
        Some(match word {
            "add" => Redux::Add,
            "min" => Redux::Min,
            "max" => Redux::Max,
            "and" => Redux::And,
            "or" => Redux::Or,
            "xor" => Redux::Xor,
            _ => return None,
        })
    })?;
    let bits = matches!(op, Redux::And | Redux::Or | Redux::Xor);
    let ty = l.m.ty_of(if bits { &[B32] } else { &[U32, S32] })?;
    let [dst, a, mask] = l.fixed()?;
    let (dst, a, mask) = (l.dst(dst, ty)?, l.src(a, ty)?, l.src(mask, B32)?);
    l.emit(Op::Redux { op, ty, dst, a, mask })
}
