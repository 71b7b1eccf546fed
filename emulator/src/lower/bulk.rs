//! `cp.async.bulk` and `cp.reduce.async.bulk`, tensor or not, their prefetches and groups.
//!
//! The direction is the two spaces in the order written. Optional operands come last and in the manual's order: im2col
//! offsets, multicast mask, cache policy; each is announced by a modifier.

use crate::ir::{Addr, AtomOp, BulkCopy, Completion, Op, Space, Src, TensorAccess, Type};
use crate::ptx::ast::{Operand, OperandKind};
use crate::ptx::{Error, Result};

use super::family::Line;
use super::modifiers::space;
use super::reduce::operation;

use Type::*;

const UNUSED: Addr = Addr { base: Src::Imm(0), offset: 0 };

/// `cp.async.bulk…`, `cp.reduce.async.bulk…`; `.async` and `.bulk` are taken.
pub(super) fn cp(l: &mut Line<'_, '_>) -> Result<()> {
    let words = &l.instruction.modifiers;
    if !words.iter().any(|word| word.text == "async") || !words.iter().any(|word| word.text == "bulk") {
        return l.refuse("unsupported instruction");
    }
    if l.m.take("commit_group") {
        let [] = l.fixed()?;
        return l.emit(Op::BulkCommit);
    }
    if l.m.take("wait_group") {
        let read = l.m.take("read");
        let [groups] = l.fixed()?;
        let groups = l.integer_in(groups, 0..=i64::from(u32::MAX))? as u32;
        return l.emit(Op::BulkWait { groups, read });
    }
    let shape = shape(l)?;
    let copy = if shape.rank.is_some() { tensor(l, &shape)? } else { flat(l, &shape)? };
    l.emit(Op::Bulk(Box::new(copy)))
}

/// What the modifiers say.
struct Shape {
    prefetch: bool,
    reduce: Option<(AtomOp, Option<Type>)>,
    /// Dimensions of a tensor copy.
    rank: Option<usize>,
    im2col: bool,
    dst: Space,
    src: Space,
    mbarrier: bool,
    multicast: bool,
    hint: bool,
}

fn shape(l: &mut Line<'_, '_>) -> Result<Shape> {
    let reduces = l.m.take("reduce");
    let prefetch = l.m.take("prefetch");
    let tensor = l.m.take("tensor");
    let rank = l.m.one_of(|word| match word {
        "1d" => Some(1),
        "2d" => Some(2),
        "3d" => Some(3),
        "4d" => Some(4),
        "5d" => Some(5),
        _ => None,
    });
    if tensor != rank.is_some() {
        return l.m.missing(".tensor and its dimensions, .1d to .5d");
    }
    let im2col = l.m.take("im2col") || l.m.take("im2col_no_offs");
    if !im2col {
        l.m.take("tile");
    }
    let (dst, src) = if prefetch {
        if !l.m.take("L2") || !l.m.take("global") {
            return l.m.missing(".L2.global");
        }
        (Space::Generic, Space::Global)
    } else {
        let dst = l.m.need("the space of the destination", space)?;
        (dst, l.m.need("the space of the source", space)?)
    };
    let loads = matches!((dst, src), (Space::Shared | Space::SharedCluster, Space::Global));
    let stores = matches!((dst, src), (Space::Global, Space::Shared));
    let between = !tensor && matches!((dst, src), (Space::SharedCluster, Space::Shared));
    let good = match (prefetch, reduces) {
        (true, _) => true,
        (_, true) => stores || between,
        _ => loads || stores || between,
    };
    if !good {
        return l.refuse(format!("there is no bulk copy from {src:?} to {dst:?} memory"));
    }
    let mbarrier = l.m.take("mbarrier::complete_tx::bytes");
    let group = l.m.take("bulk_group");
    if mbarrier != (loads || between) && !prefetch || group != (stores && !prefetch) {
        let needs = if stores { ".bulk_group" } else { ".mbarrier::complete_tx::bytes" };
        return l.m.missing(&format!("{needs}, and only that, for this direction"));
    }
    let multicast = l.m.take("multicast::cluster");
    if multicast && !loads {
        return l.refuse("only loads can be multicast");
    }
    let hint = l.m.take("L2::cache_hint");
    let reduce = if reduces { Some(reduction(l, tensor, between)?) } else { None };
    Ok(Shape { prefetch, reduce, rank, im2col, dst, src, mbarrier, multicast, hint })
}

/// The operation and type of a bulk reduction; `between` blocks fewer exist.
fn reduction(l: &mut Line<'_, '_>, tensor: bool, between: bool) -> Result<(AtomOp, Option<Type>)> {
    let op = l.m.need("an operation such as .add", operation)?;
    if matches!(op, AtomOp::Exch | AtomOp::Cas) {
        return l.refuse("a reduction returns nothing to exchange");
    }
    if tensor {
        return Ok((op, None));
    }
    let noftz = l.m.take("noftz");
    let allowed: &[Type] = match op {
        AtomOp::Add if between => &[U32, S32, U64],
        AtomOp::Min | AtomOp::Max if between => &[U32, S32],
        AtomOp::And | AtomOp::Or | AtomOp::Xor if between => &[B32],
        AtomOp::Add => &[U32, S32, U64, F16, BF16, F32, F64],
        AtomOp::Min | AtomOp::Max => &[U32, S32, U64, S64, F16, BF16],
        AtomOp::Inc | AtomOp::Dec => &[U32],
        _ => &[B32, B64],
    };
    let ty = l.m.ty_of(allowed)?;
    if noftz != (op == AtomOp::Add && matches!(ty, F16 | BF16)) {
        return l.refuse("`.noftz` goes with sums of 16-bit floats, and they need it");
    }
    Ok((op, Some(ty)))
}

impl Shape {
    fn copy(&self) -> BulkCopy {
        BulkCopy {
            dst_space: self.dst,
            dst: UNUSED,
            src_space: self.src,
            src: UNUSED,
            size: None,
            tensor: None,
            completion: (!self.prefetch && !self.mbarrier).then_some(Completion::BulkGroup),
            multicast: None,
            reduce: self.reduce,
            cache_hint: None,
            prefetch: self.prefetch,
        }
    }

    /// The operands behind the fixed ones: multicast mask, cache policy.
    fn tail<'a>(&self, l: &mut Line<'_, 'a>, rest: &'a [Operand<'a>], copy: &mut BulkCopy) -> Result<()> {
        let mut rest = rest.iter();
        let mut next = |wanted: bool| if wanted { rest.next() } else { None };
        let (mask, policy) = (next(self.multicast), next(self.hint));
        if let Some(mask) = mask {
            copy.multicast = Some(l.src(mask, B16)?);
        }
        if let Some(policy) = policy {
            copy.cache_hint = Some(l.policy(policy)?);
        }
        Ok(())
    }

    fn tail_len(&self) -> usize {
        usize::from(self.multicast) + usize::from(self.hint)
    }
}

/// `[dst], [src], size [, [mbar]] …`; prefetch: `[src], size …`
fn flat(l: &mut Line<'_, '_>, shape: &Shape) -> Result<BulkCopy> {
    let fixed = 2 + usize::from(!shape.prefetch) + usize::from(shape.mbarrier);
    let count = fixed + shape.tail_len();
    let operands = l.between(count, count)?;
    let mut copy = shape.copy();
    let from = if shape.prefetch {
        0
    } else {
        (copy.dst, _) = l.addr_in(&operands[0], shape.dst)?;
        1
    };
    (copy.src, _) = l.addr_in(&operands[from], shape.src)?;
    let size = l.src(&operands[from + 1], U32)?;
    if matches!(size, Src::Imm(n) if n % 16 != 0) {
        return Error::err(operands[from + 1].span, "the size of a bulk copy is a multiple of 16 bytes");
    }
    copy.size = Some(size);
    if shape.mbarrier {
        copy.completion = Some(Completion::Mbarrier(mbarrier(l, &operands[3])?));
    }
    shape.tail(l, &operands[fixed..], &mut copy)?;
    Ok(copy)
}

fn mbarrier<'a>(l: &mut Line<'_, 'a>, operand: &'a Operand<'a>) -> Result<Addr> {
    Ok(l.addr_in(operand, Space::SharedCluster)?.0)
}

/// Load: `[dst], [map, {coords}], [mbar] [, {offsets}] …`; store: `[map, {coords}], [src] …`; prefetch: `[map, {coords}]
/// [, {offsets}] …`
fn tensor(l: &mut Line<'_, '_>, shape: &Shape) -> Result<BulkCopy> {
    let load = shape.dst != Space::Global && !shape.prefetch;
    let offsets = usize::from(shape.im2col && (load || shape.prefetch));
    let fixed = if shape.prefetch { 1 } else { 2 + usize::from(load) };
    let count = fixed + offsets + shape.tail_len();
    let operands = l.between(count, count)?;
    let mut copy = shape.copy();
    let map = if load {
        (copy.dst, _) = l.addr_in(&operands[0], shape.dst)?;
        copy.completion = Some(Completion::Mbarrier(mbarrier(l, &operands[2])?));
        &operands[1]
    } else {
        if !shape.prefetch {
            (copy.src, _) = l.addr_in(&operands[1], shape.src)?;
        }
        &operands[0]
    };
    let mut access = self::map(l, map, shape.rank.unwrap_or(1))?;
    if shape.im2col {
        let mut list = Vec::new();
        if offsets == 1 {
            for element in l.elements(&operands[fixed]) {
                list.push(l.src(element, U16)?);
            }
        }
        access.im2col = Some(list);
    }
    copy.tensor = Some(access);
    shape.tail(l, &operands[fixed + offsets..], &mut copy)?;
    Ok(copy)
}

/// `[map, {c0, c1}]`
fn map<'a>(l: &mut Line<'_, 'a>, operand: &'a Operand<'a>, rank: usize) -> Result<TensorAccess> {
    let OperandKind::Address(parts) = &operand.kind else {
        return Error::err(operand.span, "expected a tensor map and coordinates, such as [map, {x, y}]");
    };
    let [map, coordinates] = parts.as_slice() else {
        return Error::err(operand.span, "expected a tensor map and coordinates, such as [map, {x, y}]");
    };
    let at = map.span;
    let map = l.base(map)?;
    if matches!(map.base, Src::Symbol(symbol) if symbol.space != Space::Global) {
        return Error::err(at, "a tensor map is named by its generic address (cvta.param makes one)");
    }
    let mut coords = Vec::with_capacity(rank);
    for element in l.vector(coordinates, rank)? {
        coords.push(l.src(element, S32)?);
    }
    Ok(TensorAccess { map, coords, im2col: None })
}
