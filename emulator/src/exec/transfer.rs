//! Moving the bytes of asynchronous copies: landing loads, reading and writing stores, and the arrivals that follow.
//!
//! These work on a block that need not be running: a copy may land in a peer of the cluster, or when its block has ended.

use std::sync::Arc;

use super::Core;
use super::atomic;
use crate::ir::{AtomOp, Type};
use crate::machine::block::{Block, CpOp, LoadOp, Origin, StoreOp, StoreStage, Transfer};
use crate::machine::system::System;
use crate::mbarrier::{MbarError, Mbarrier};
use crate::memory::Trouble;
use crate::report::{Class, Report};
use crate::tma::Chunk;

type Outcome = Result<(), Box<Report>>;

/// A copy that met a bad byte.
#[cold]
fn copy_report(
    sys: &System,
    block: &Block,
    origin: Origin,
    side: &str,
    address: u64,
    trouble: Trouble,
) -> Box<Report> {
    let (class, what) = match trouble {
        Trouble::OutOfBounds => (Class::OutOfBounds, "outside every allocation".to_string()),
        Trouble::Uninitialised(at) => (Class::Uninitialised, format!("byte {at:#x} was never written")),
    };
    let message = format!("asynchronous copy {side} {address:#x}: {what}");
    let mut report = sys.report(block, class, origin, message);
    report.address = Some(address);
    if class == Class::OutOfBounds
        && let Some((base, len)) = sys.global.nearest(address)
    {
        report.other = Some(format!("the nearest allocation is {len} bytes at {base:#x}"));
    }
    report
}

/// Changes an mbarrier of a block on behalf of an asynchronous operation.
fn update(
    sys: &mut System,
    block: &mut Block,
    offset: u32,
    origin: Origin,
    change: impl FnOnce(&mut Mbarrier) -> Result<(), MbarError>,
) -> Outcome {
    let mut flipped = false;
    let result = match block.shared.word64(offset) {
        Err(_) => Err("it lies outside shared memory".to_string()),
        Ok(word) => {
            let mut mbarrier = Mbarrier(word);
            match change(&mut mbarrier) {
                Ok(()) => {
                    flipped = Mbarrier(word).phase() != mbarrier.phase();
                    // Cannot fail: the same eight bytes were just read.
                    let _ = block.shared.set_word64(offset, mbarrier.0);
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            }
        }
    };
    sys.progress += 1;
    result.map_err(|error| {
        let message = format!("completion of an asynchronous copy on the mbarrier at {offset:#x}: {error}");
        let mut report = sys.report(block, Class::Mbarrier, origin, message);
        report.address = Some(offset as u64);
        report
    })?;
    if flipped { crate::check::completed_outside(sys, block, offset, origin) } else { Ok(()) }
}

/// Lands a copy into a block's shared memory.
pub(crate) fn land_load(sys: &mut System, block: &mut Block, op: LoadOp) -> Outcome {
    let check = sys.config.checks.uninitialised;
    let mut trouble: Option<(&str, u64, Trouble)> = None;
    let bytes = match &op.transfer {
        Transfer::Linear { global, bytes } => {
            match (sys.global.read(*global, *bytes as u64, check), block.shared.write(op.shared, *bytes)) {
                (Ok(from), Ok(to)) => to.copy_from_slice(from),
                (Err(t), _) => trouble = Some(("from global", *global, t)),
                (_, Err(t)) => trouble = Some(("to shared", op.shared as u64, t)),
            }
            *bytes
        }
        Transfer::Bytes(from) => {
            let len = from.len() as u32;
            let old = match op.reduce {
                // What is combined with must be there.
                Some(_) => block.shared.read(op.shared, len, check).map(|_| ()),
                None => Ok(()),
            };
            match old.and_then(|()| block.shared.write(op.shared, len)) {
                Ok(to) => match op.reduce {
                    None => to.copy_from_slice(from),
                    Some((kind, ty)) => combine_all(to, from, kind, ty),
                },
                Err(t) => trouble = Some(("to shared", op.shared as u64, t)),
            }
            len
        }
        Transfer::Tensor { map, coords } => {
            let (global, shared) = (&sys.global, &mut block.shared);
            let converts = map.converts();
            let walk = map.tile(&coords[..map.rank()], op.shared, |chunk: Chunk| {
                let to = match shared.write(chunk.shared, chunk.len) {
                    Ok(to) => to,
                    Err(t) => {
                        trouble.get_or_insert(("to shared", chunk.shared as u64, t));
                        return;
                    }
                };
                match chunk.global {
                    None => map.fill(to),
                    Some(address) => match global.read(address, chunk.len as u64, check) {
                        Ok(from) => {
                            to.copy_from_slice(from);
                            if converts {
                                map.convert_loaded(to);
                            }
                        }
                        Err(t) => {
                            trouble.get_or_insert(("from global", address, t));
                        }
                    },
                }
            });
            if let Err(error) = walk {
                return Err(sys.report(block, Class::TensorMap, op.origin, error.to_string()));
            }
            map.box_bytes()
        }
    };
    if let Some((side, address, t)) = trouble {
        return Err(copy_report(sys, block, op.origin, side, address, t));
    }
    sys.counters[block.device].tma_load_bytes += bytes as u64;
    if let Some(check) = &mut block.check {
        check.landed(op.mbarrier, op.origin);
    }
    update(sys, block, op.mbarrier, op.origin, |m| m.complete_tx(bytes))
}

/// Reads the source of a store.
pub(crate) fn read_store(sys: &mut System, block: &mut Block, op: &mut StoreOp) -> Outcome {
    if !matches!(op.stage, StoreStage::Issued) {
        return Ok(());
    }
    let check = sys.config.checks.uninitialised;
    let mut pieces = Vec::new();
    let mut trouble: Option<(u64, Trouble)> = None;
    match &op.transfer {
        Transfer::Linear { global, bytes } => match block.shared.read(op.shared, *bytes, check) {
            Ok(from) => pieces.push((*global, from.to_vec())),
            Err(t) => trouble = Some((op.shared as u64, t)),
        },
        Transfer::Bytes(_) => {}
        Transfer::Tensor { map, coords } => {
            let shared = &block.shared;
            let walk = map.tile(&coords[..map.rank()], op.shared, |chunk: Chunk| {
                let Some(address) = chunk.global else { return };
                match shared.read(chunk.shared, chunk.len, check) {
                    Ok(from) => pieces.push((address, from.to_vec())),
                    Err(t) => {
                        trouble.get_or_insert((chunk.shared as u64, t));
                    }
                }
            });
            if let Err(error) = walk {
                return Err(sys.report(block, Class::TensorMap, op.origin, error.to_string()));
            }
        }
    }
    if let Some((address, t)) = trouble {
        return Err(copy_report(sys, block, op.origin, "from shared", address, t));
    }
    op.stage = StoreStage::Read(pieces);
    Ok(())
}

/// Writes what a store has read.
pub(crate) fn write_store(sys: &mut System, block: &mut Block, op: &mut StoreOp) -> Outcome {
    read_store(sys, block, op)?;
    let StoreStage::Read(pieces) = std::mem::replace(&mut op.stage, StoreStage::Written) else {
        return Ok(());
    };
    for (address, bytes) in pieces {
        sys.counters[block.device].tma_store_bytes += bytes.len() as u64;
        if sys.global.is_of_peer(block.device, address) {
            sys.counters[block.device].link_store_bytes += bytes.len() as u64;
        }
        if let Some((range, _)) = sys.global.find(address, bytes.len() as u64)
            && sys.global.read_only(range)
        {
            return Err(sys.report(
                block,
                Class::ReadOnly,
                op.origin,
                "bulk store to a .const variable".into(),
            ));
        }
        let result = match op.reduce {
            None => sys.global.write(address, bytes.len() as u64).map(|to| to.copy_from_slice(&bytes)),
            Some((kind, ty)) => reduce(sys, address, &bytes, kind, ty),
        };
        if let Err(t) = result {
            return Err(copy_report(sys, block, op.origin, "to global", address, t));
        }
    }
    sys.progress += 1;
    Ok(())
}

/// Combines bytes with global memory.
fn reduce(sys: &mut System, address: u64, bytes: &[u8], kind: AtomOp, ty: Type) -> Result<(), Trouble> {
    sys.global.read(address, bytes.len() as u64, sys.config.checks.uninitialised)?;
    combine_all(sys.global.write(address, bytes.len() as u64)?, bytes, kind, ty);
    Ok(())
}

/// Combines bytes with what is in memory, element by element.
fn combine_all(to: &mut [u8], bytes: &[u8], kind: AtomOp, ty: Type) {
    let size = ty.bytes() as usize;
    let value = |b: &[u8]| b.iter().rev().fold(0u64, |v, byte| v << 8 | *byte as u64);
    for (old, new) in to.chunks_exact_mut(size).zip(bytes.chunks_exact(size)) {
        // Operation and type were checked when the copy was issued.
        let result = atomic::combine(kind, ty, value(old), value(new), 0).unwrap_or(0);
        old.copy_from_slice(&result.to_le_bytes()[..size]);
    }
}

/// Copies of one lane of a `cp.async`.
fn land_lane(sys: &mut System, block: &mut Block, copy: &CpOp, lane: usize) -> Outcome {
    let CpOp::Copy { origin, dst, src, size, bytes, .. } = copy else { return Ok(()) };
    let check = sys.config.checks.uninitialised;
    let origin = Origin { lanes: 1 << lane, ..*origin };
    let (taken, bytes) = (size[lane], *bytes);
    // A size of zero never touches its source.
    let from = if taken == 0 { Ok(&[][..]) } else { sys.global.read(src[lane], taken as u64, check) };
    let from = from.map_err(|t| copy_report(sys, block, origin, "from global", src[lane], t))?;
    match block.shared.write(dst[lane], bytes) {
        Ok(to) => {
            to[..taken as usize].copy_from_slice(from);
            to[taken as usize..].fill(0);
        }
        Err(t) => return Err(copy_report(sys, block, origin, "to shared", dst[lane] as u64, t)),
    }
    sys.progress += 1;
    Ok(())
}

/// Lands the `cp.async`s before position `end` that `wanted` chooses by warp, lane and group.
pub(crate) fn land_copies(
    sys: &mut System,
    block: &mut Block,
    end: usize,
    wanted: impl Fn(u32, usize, u32) -> bool,
) -> Outcome {
    let mut copies = std::mem::take(&mut block.copies);
    let mut outcome = Ok(());
    for copy in copies.iter_mut().take(end) {
        let mut landed = 0;
        if let CpOp::Copy { origin, lanes, group, .. } = copy {
            super::lanes::each(*lanes, |l| landed |= (wanted(origin.warp, l, group[l]) as u32) << l);
        }
        let mut rest = landed;
        while rest != 0 && outcome.is_ok() {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            outcome = land_lane(sys, block, copy, l);
        }
        if let CpOp::Copy { lanes, .. } = copy {
            *lanes &= !landed;
        }
    }
    copies.retain(|c| match c {
        CpOp::Copy { lanes, .. } | CpOp::Arrive { lanes, .. } => *lanes != 0,
    });
    block.copies = copies;
    outcome
}

/// Lands the first arrival that `wanted` chooses by its mbarrier, and the copies it follows.
fn land_arrival(
    sys: &mut System,
    block: &mut Block,
    wanted: impl Fn(u32) -> bool,
) -> Result<bool, Box<Report>> {
    let found = block.copies.iter().enumerate().find_map(|(i, op)| match op {
        CpOp::Arrive { origin, lanes, mbarrier } => {
            let lane = (0..32).find(|l| lanes >> l & 1 == 1 && wanted(mbarrier[*l]))?;
            Some((i, *origin, lane, mbarrier[lane]))
        }
        CpOp::Copy { .. } => None,
    });
    let Some((at, origin, lane, mbarrier)) = found else { return Ok(false) };
    if let CpOp::Arrive { lanes, .. } = &mut block.copies[at] {
        *lanes &= !(1 << lane);
    }
    land_copies(sys, block, at, |warp, l, _| warp == origin.warp && l == lane)?;
    let origin = Origin { lanes: 1 << lane, ..origin };
    update(sys, block, mbarrier, origin, |m| m.arrive(1).map(|_| ()))?;
    Ok(true)
}

/// Lands one operation of a block, chosen by `pick` among so many. False: none was pending.
pub(crate) fn land_any(
    sys: &mut System,
    block: &mut Block,
    pick: impl Fn(usize) -> usize,
) -> Result<bool, Box<Report>> {
    if !block.loads.is_empty() {
        let op = block.loads.remove(pick(block.loads.len()));
        land_load(sys, block, op)?;
        return Ok(true);
    }
    if land_arrival(sys, block, |_| true)? {
        return Ok(true);
    }
    let pending: Vec<usize> =
        (0..block.stores.len()).filter(|i| !matches!(block.stores[*i].stage, StoreStage::Written)).collect();
    if pending.is_empty() {
        return Ok(false);
    }
    let at = pending[pick(pending.len())];
    let mut op = block.stores[at].clone();
    write_store(sys, block, &mut op)?;
    block.stores[at] = op;
    Ok(true)
}

/// Nothing may be on its way into a block that ends, and no bytes still expected.
fn end_of_block(sys: &System, block: &Block) -> Outcome {
    if !sys.config.checks.transactions {
        return Ok(());
    }
    if let Some(op) = block.loads.first() {
        let message = "the block ends while this copy into its shared memory is in flight".into();
        let mut report = sys.report(block, Class::Lifetime, op.origin, message);
        report.address = Some(op.shared as u64);
        report.hint = Some("wait for the mbarrier of every copy before the last thread exits".into());
        return Err(report);
    }
    let Some(check) = &block.check else { return Ok(()) };
    if let Some(report) = crate::check::left_behind(sys, block, check) {
        return Err(report);
    }
    let tx = |offset| block.shared.word64(offset).ok().map(Mbarrier).filter(|m| m.is_valid()).map(|m| m.tx());
    let Some((offset, tx, Some(origin))) = crate::check::unmet(check, tx) else { return Ok(()) };
    let what = if tx > 0 { "were expected and never came" } else { "came and were never expected" };
    let message =
        format!("the block ends with {} bytes of the mbarrier at {offset:#x} that {what}", tx.unsigned_abs());
    let mut report = sys.report(block, Class::Mbarrier, origin, message);
    report.address = Some(offset as u64);
    report.hint = Some("expect exactly the bytes that the copies of each phase bring".into());
    Err(report)
}

/// What a block's end completes: its stores. Copies into memory that is gone are dropped.
pub(crate) fn finish(sys: &mut System, block: &mut Block) -> Outcome {
    for mut op in std::mem::take(&mut block.stores) {
        write_store(sys, block, &mut op)?;
    }
    let wasted = block.check.as_ref().and_then(|c| c.registers_wasted());
    if let Some(origin) = wasted
        && sys.config.checks.letter
    {
        let message = "setmaxnreg.dec gives registers that no warpgroup of the block takes".into();
        let report = sys.report(block, Class::Registers, origin, message);
        sys.advise(report);
    }
    let left = end_of_block(sys, block);
    block.loads.clear();
    block.copies.clear();
    left
}

impl Core<'_> {
    /// Lands one copy that the mbarrier at `offset` waits for.
    pub(super) fn land_one_for(&mut self, offset: u32) -> Result<bool, Box<Report>> {
        if let Some(at) = self.block.loads.iter().position(|op| op.mbarrier == offset) {
            let op = self.block.loads.remove(at);
            land_load(self.sys, self.block, op)?;
            return Ok(true);
        }
        if self.block.copies.is_empty() {
            return Ok(false);
        }
        land_arrival(self.sys, self.block, |m| m == offset)
    }

    /// The bytes of a bulk copy's source in this block, taken now.
    pub(super) fn take_bytes(&self, offset: u32, bytes: u32) -> Result<Arc<[u8]>, Trouble> {
        Ok(self.block.shared.read(offset, bytes, self.sys.config.checks.uninitialised)?.into())
    }
}
