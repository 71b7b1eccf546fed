//! Accesses of what is asynchronous, judged when it is issued: copies of every kind, and the operands of `wgmma`.

use super::BlockCheck;
use super::clock::{Kind, agent};
use super::judge::{Gather, Met};
use super::shadow::{ASYNC, CELL, Entry, SCOPE_SHIFT, STRONG, SWIZZLE_SHIFT, TENSOR};
use super::sync::{OFFSET_MASK, check_of};
use crate::exec::Core;
use crate::ir::{Wgmma, WgmmaA};
use crate::machine::block::{LoadOp, Origin, StoreOp, Transfer};
use crate::memory::RANK_SHIFT;
use crate::report::{Class, Report};
use crate::tensor::SharedDescriptor;

impl Core<'_> {
    /// A tensor copy reads its map from global memory: what wrote it there in this kernel must have been released and acquired for
    /// the tensor map proxy.
    pub(crate) fn touch_map(&mut self, global: bool, address: u64, lanes: u32) -> Result<(), Box<Report>> {
        self.warp.check.map_read = if global { address } else { 0 };
        if !global {
            return Ok(());
        }
        self.touch_lane(true, address, 128, lanes.trailing_zeros(), false, 0)?;
        let Some(own) = self.block.check.as_deref() else { return Ok(()) };
        let Some(judge) = self.plain_judge(own, true, lanes).filter(|_| self.sys.config.checks.proxies)
        else {
            return Ok(());
        };
        let unfenced = |e: &Entry| {
            let mask = e.mask.max(1);
            judge.know.map_acquired.of(address).map_or(mask, |known| known.missing(e.agent, mask, e.epoch))
                != 0
        };
        let found = self.sys.check.pages.written_lately(address, 128, &judge, unfenced);
        let Some(entry) = found else { return Ok(()) };
        let other = self.party(entry);
        let message = format!(
            "the tensor map at {address:#x} was written in this kernel and need not be visible to the copy"
        );
        let mut report = self.report(Class::ProxyFence, lanes, message);
        report.address = Some(address);
        report.other = Some(format!("written by {other}"));
        report.hint = Some(
            "tensormap.cp_fenceproxy or fence.proxy.tensormap::generic.release by the writer, then fence.proxy.tensormap::generic.acquire [map], 128 by who copies"
                .into(),
        );
        Err(report)
    }

    /// A copy into shared memory of the block of a rank is issued.
    pub(crate) fn touch_load(&mut self, rank: u32, op: &LoadOp, span: u32) -> Result<(), Box<Report>> {
        if self.block.check.is_none() {
            return Ok(());
        }
        let lanes = op.origin.lanes;
        let signal = rank << RANK_SHIFT | op.mbarrier;
        self.mbar_known(signal, lanes, true)?;
        let bytes = match &op.transfer {
            Transfer::Tensor { map, .. } => map.box_bytes(),
            _ => span,
        };
        let origin = op.origin;
        // The manual: st.async and red.async are performed in the generic proxy.
        let generic = matches!(
            self.program.kernel().code[self.pc].op,
            crate::ir::Op::StAsync { .. } | crate::ir::Op::RedAsync { .. }
        );
        let proxy = if generic { 0 } else { ASYNC };
        let layout = match &op.transfer {
            Transfer::Tensor { map, .. } => TENSOR | SharedDescriptor::mode(map.swizzle()) << SWIZZLE_SHIFT,
            _ => 0,
        };
        let atomic = if op.reduce.is_some() { STRONG | 1 << SCOPE_SHIFT } else { 0 };
        let Some(check) = check_of(self.block, self.others, signal) else { return Ok(()) };
        let id = check.id;
        let Some(mbar) = check.mbarriers.get_mut(&op.mbarrier) else { return Ok(()) };
        mbar.pending.push((origin, bytes));
        let entry = Entry {
            agent: agent(id, Kind::Mbarrier, mbar.number),
            epoch: mbar.phase + 1,
            mask: 0,
            info: self.pc as u32 | proxy | layout | atomic,
        };
        self.touch_as(false, (rank << RANK_SHIFT | op.shared) as u64, span as u64, entry, lanes, true)?;
        if let Transfer::Tensor { .. } = &op.transfer {
            self.reads_map(entry, lanes)?;
        }
        match &op.transfer {
            Transfer::Linear { global, bytes } => {
                self.touch_as(true, *global, *bytes as u64, entry, lanes, false)?;
            }
            Transfer::Tensor { map, coords } => {
                let mut runs: Vec<(u64, u64)> = Vec::new();
                // The map was walked or will be: its errors are reported there.
                let _ = map.tile(&coords[..map.rank()], op.shared, |chunk| {
                    let Some(at) = chunk.global else { return };
                    match runs.last_mut() {
                        Some((from, len)) if *from + *len == at => *len += chunk.len as u64,
                        _ => runs.push((at, chunk.len as u64)),
                    }
                });
                for (from, len) in runs {
                    self.touch_as(true, from, len, entry, lanes, false)?;
                }
            }
            Transfer::Bytes(_) => {}
        }
        Ok(())
    }

    /// Bytes of this block's shared memory are read by a copy to a peer, told to an mbarrier there.
    pub(crate) fn touch_taken(
        &mut self,
        from: u32,
        len: u32,
        signal: u32,
        lanes: u32,
    ) -> Result<(), Box<Report>> {
        let Some(check) = check_of(self.block, self.others, signal) else { return Ok(()) };
        let id = check.id;
        let Some(mbar) = check.mbarriers.get(&(signal & OFFSET_MASK)) else { return Ok(()) };
        let entry = Entry {
            agent: agent(id, Kind::Mbarrier, mbar.number),
            epoch: mbar.phase + 1,
            mask: 0,
            info: self.pc as u32 | ASYNC,
        };
        self.touch_as(false, from as u64, len as u64, entry, lanes, false)
    }

    /// A bulk store is issued.
    pub(crate) fn touch_store(&mut self, op: &StoreOp) -> Result<(), Box<Report>> {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return Ok(()) };
        let lanes = op.origin.lanes;
        let entry = |kind, flags| Entry {
            agent: agent(id, kind, op.origin.warp * 32),
            epoch: op.group + 1,
            mask: lanes,
            info: op.origin.pc as u32 | ASYNC | flags,
        };
        self.warp.check.bulk_open |= lanes;
        self.warp.check.bulk_pc = self.pc;
        self.warp.check.bulk_fresh |= lanes;
        let base = self.block.rank << RANK_SHIFT;
        let reading = entry(Kind::BulkRead, 0);
        let writing = entry(Kind::BulkWrite, if op.reduce.is_some() { STRONG | 2 << SCOPE_SHIFT } else { 0 });
        if let Transfer::Tensor { .. } = &op.transfer {
            self.reads_map(reading, lanes)?;
        }
        match &op.transfer {
            Transfer::Linear { global, bytes } => {
                let from = (base | op.shared) as u64;
                self.touch_as(false, from, *bytes as u64, reading, lanes, false)?;
                self.touch_as(true, *global, *bytes as u64, writing, lanes, true)?;
            }
            Transfer::Tensor { map, coords } => {
                let mut runs: Vec<(u64, u64)> = Vec::new();
                let mut sources: Vec<(u64, u64)> = Vec::new();
                // As above.
                let _ = map.tile(&coords[..map.rank()], op.shared, |chunk| {
                    let Some(at) = chunk.global else { return };
                    sources.push(((base | chunk.shared) as u64, chunk.len as u64));
                    match runs.last_mut() {
                        Some((from, len)) if *from + *len == at => *len += chunk.len as u64,
                        _ => runs.push((at, chunk.len as u64)),
                    }
                });
                for (from, len) in sources {
                    self.touch_as(false, from, len, reading, lanes, false)?;
                }
                let beside = Entry { info: writing.info | TENSOR, ..writing };
                for (from, len) in runs {
                    self.touch_as(true, from, len, writing, lanes, true)?;
                    let rest = (from + len).next_multiple_of(CELL) - (from + len);
                    if rest != 0 && self.sys.config.checks.trailing_sector {
                        self.touch_as(true, from + len, rest, beside, lanes, true)?;
                    }
                }
            }
            Transfer::Bytes(_) => {}
        }
        Ok(())
    }

    /// A `cp.async` of one lane is issued.
    pub(crate) fn touch_cp(
        &mut self,
        lane: u32,
        (dst, bytes): (u32, u32),
        (src, size): (u64, u32),
    ) -> Result<(), Box<Report>> {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return Ok(()) };
        let entry = Entry {
            agent: agent(id, Kind::CpAsync, self.warp.index * 32),
            epoch: self.warp.check.cp_epoch,
            mask: 1 << lane,
            info: self.pc as u32,
        };
        self.warp.check.cp_open |= 1 << lane;
        self.warp.check.cp_last[lane as usize] = entry.epoch;
        self.warp.check.cp_pc = self.pc;
        self.touch_as(false, dst as u64, bytes as u64, entry, 1 << lane, true)?;
        if size > 0 {
            self.touch_as(true, src, size as u64, entry, 1 << lane, false)?;
        }
        Ok(())
    }

    /// A warp issues a `wgmma`: from now on its rows of A are read, and B. What they come from it has to know of.
    ///
    /// The first of the four warps puts B down for all. Until the last has issued, a write of B races with the first one's read, so
    /// that what the others meet is what the first has met.
    pub(crate) fn touch_wgmma(
        &mut self,
        wgmma: &Wgmma,
        (a_desc, b_desc): (u64, u64),
        seq: u64,
        (at, first): (usize, bool),
    ) -> Result<(), Box<Report>> {
        let (group, warp) = (self.warp.index as usize / 4, self.warp.index % 4);
        let size = wgmma.a_type.bytes();
        if first {
            let rows = 0..wgmma.n;
            let met = self.touch_operand(b_desc, (rows, wgmma.transpose_b, size), 15, seq)?;
            self.block.warpgroups[group].ops[at].met = met;
        }
        if let WgmmaA::Desc(_) = wgmma.a {
            let rows = 16 * warp..16 * warp + 16;
            let met = self.touch_operand(a_desc, (rows, wgmma.transpose_a, size), 1 << warp, seq)?;
            self.judge_met(&met)?;
        }
        let met = std::mem::take(&mut self.block.warpgroups[group].ops[at].met);
        self.judge_met(&met)?;
        self.block.warpgroups[group].ops[at].met = met;
        Ok(())
    }

    /// Some rows of an operand are read by some warps of the warpgroup. The writes they come from.
    fn touch_operand(
        &mut self,
        descriptor: u64,
        (rows, mn_major, size): (std::ops::Range<u32>, bool, u32),
        warps: u32,
        seq: u64,
    ) -> Result<Vec<Met>, Box<Report>> {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return Ok(Vec::new()) };
        let descriptor = SharedDescriptor::decode(descriptor);
        let layout = SharedDescriptor::mode(descriptor.swizzle) << SWIZZLE_SHIFT;
        let entry = Entry {
            agent: agent(id, Kind::Wgmma, self.warp.index / 4 * 4),
            epoch: seq as u32 + 1,
            mask: warps,
            info: self.pc as u32 | ASYNC | layout,
        };
        let mut runs: Vec<(u32, u32)> = Vec::with_capacity(64);
        descriptor.for_each_chunk(rows.end, mn_major, size, |chunk| {
            if chunk.row < rows.start {
                return;
            }
            match runs.last_mut() {
                Some((from, len)) if *from + *len == chunk.address => *len += 16,
                _ => runs.push((chunk.address, 16)),
            }
        });
        let base = self.block.rank << RANK_SHIFT;
        let gather = Gather::default();
        for (from, len) in runs {
            let from = (base | from) as u64;
            gather.at.set(from);
            self.touch_gathering(false, (from, len as u64), entry, u32::MAX, false, Some(&gather))?;
        }
        Ok(gather.met.into_inner())
    }

    /// This warp has to know of the writes that its operands come from.
    fn judge_met(&mut self, met: &[Met]) -> Result<(), Box<Report>> {
        let mut trust = None;
        let mut wrong = None;
        if let Some(own) = self.block.check.as_deref()
            && let Some(judge) = self.plain_judge(own, false, u32::MAX)
        {
            for m in met {
                if let Err(found) = judge.judge_read(m.before, m.new) {
                    wrong = Some((*m, found));
                    break;
                }
                trust = judge.leaned.take().map(|lean| (*m, lean)).or(trust);
            }
        }
        if let Some((m, wrong)) = wrong {
            let offset = m.at & OFFSET_MASK as u64;
            return Err(self.convict(false, offset, CELL, m.new, u32::MAX, false, wrong));
        }
        if let Some((m, (wrote, before))) = trust {
            self.lean(false, m.at, (m.new, false), (before, wrote), u32::MAX);
        }
        Ok(())
    }

    /// A tensor copy reads its map until it is done.
    fn reads_map(&mut self, copy: Entry, lanes: u32) -> Result<(), Box<Report>> {
        let address = std::mem::take(&mut self.warp.check.map_read);
        if address == 0 {
            return Ok(());
        }
        let flags = ASYNC | STRONG | 3 << SCOPE_SHIFT | 3 << SWIZZLE_SHIFT;
        let entry = Entry { info: copy.info & !flags | TENSOR, ..copy };
        self.touch_as(true, address, 128, entry, lanes, false)
    }
}

/// The origin of an expectation that was never met, at the end of a block.
pub(crate) fn unmet(
    check: &BlockCheck,
    tx: impl Fn(u32) -> Option<i32>,
) -> Option<(u32, i32, Option<Origin>)> {
    let mut all: Vec<_> = check
        .expecting()
        .filter_map(|(offset, origin)| Some((offset, tx(offset).filter(|t| *t != 0)?, origin)))
        .collect();
    all.sort_by_key(|(offset, ..)| *offset);
    all.first().copied()
}
