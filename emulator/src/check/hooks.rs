//! Accesses, judged: of threads, of copies, of tensor cores; and the reports.

use super::clock::{Kind, agent, block_of};
use super::shadow::{
    ASYNC, CELL, Entry, Gather, Judge, Met, SCOPE_SHIFT, SILENT, SPREAD, STRONG, SWIZZLE_SHIFT, TENSOR,
    Wrong, describe, threads,
};
use super::sync::check_of;
use super::{BlockCheck, Strand, SystemCheck};
use crate::exec::{Core, lanes};
use crate::ir::{Scope, Semantics, Wgmma, WgmmaA};
use crate::machine::block::{LoadOp, Origin, StoreOp, Transfer};
use crate::machine::warp::Col64;
use crate::memory::RANK_SHIFT;
use crate::report::{Class, Report};
use crate::tensor::SharedDescriptor;

const OFFSET_MASK: u32 = (1 << RANK_SHIFT) - 1;

/// Flags of an access with some semantics.
pub(crate) fn strength(sem: Semantics, scope: Scope) -> u32 {
    match sem {
        Semantics::Weak => 0,
        Semantics::Volatile | Semantics::Mmio => STRONG | 3 << SCOPE_SHIFT,
        _ => STRONG | super::sync::width(scope) << SCOPE_SHIFT,
    }
}

/// Who accesses, and what it knows.
struct Actor<'a> {
    strand: &'a Strand,
    entry: Entry,
    lanes: u32,
    own: u32,
    proxies: bool,
    lint: bool,
    met: Option<&'a Gather>,
}

/// One access to shared memory (`peer`: of another block) or global memory. `Some`: an access before it (true: a write) that only the
/// chip puts in order.
fn access(
    sys: &mut SystemCheck,
    own: &mut BlockCheck,
    peer: Option<&mut BlockCheck>,
    actor: &Actor,
    (global, from, len): (bool, u64, u64),
    write: bool,
) -> Result<Option<(bool, Entry)>, (u64, Wrong, Entry)> {
    let judge = Judge {
        know: &actor.strand.know,
        view: &own.view,
        blocks: &sys.blocks,
        own: actor.own,
        global,
        proxies: actor.proxies,
        lint: actor.lint,
        lanes: actor.lanes,
        leaned: Default::default(),
        met: actor.met,
    };
    let outcome = if global {
        sys.pages.access(from, len, actor.entry, write, &judge)
    } else {
        let shadow = match peer {
            Some(peer) => &mut peer.shadow,
            None => &mut own.shadow,
        };
        shadow.access(from & OFFSET_MASK as u64, len, actor.entry, write, &judge)
    };
    outcome.map(|()| judge.leaned.take()).map_err(|(at, wrong)| (at, wrong, actor.entry))
}

impl Core<'_> {
    /// One access by lanes that share a strand, as one entry.
    fn touch_entry(
        &mut self,
        global: bool,
        from: u64,
        len: u64,
        (mask, flags): (u32, u32),
        write: bool,
    ) -> Result<(), Box<Report>> {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return Ok(()) };
        let own = threads(id, self.warp.index);
        self.warp.check.dirty = true;
        let entry = Entry { agent: own, epoch: self.warp.check.epoch, mask, info: self.pc as u32 | flags };
        self.touch_as(global, from, len, entry, mask, write)
    }

    /// One access of any agent on behalf of lanes of this warp.
    fn touch_as(
        &mut self,
        global: bool,
        from: u64,
        len: u64,
        entry: Entry,
        lanes: u32,
        write: bool,
    ) -> Result<(), Box<Report>> {
        self.touch_gathering(global, (from, len), entry, lanes, write, None)
    }

    /// One access of any agent, judged, or merely put down with what it meets.
    fn touch_gathering(
        &mut self,
        global: bool,
        (from, len): (u64, u64),
        entry: Entry,
        lanes: u32,
        write: bool,
        met: Option<&Gather>,
    ) -> Result<(), Box<Report>> {
        let checks = self.sys.config.checks;
        let rank = if global { self.block.rank } else { (from as u32) >> RANK_SHIFT };
        if self.block.check.is_none() {
            return Ok(());
        }
        let peer = if rank == self.block.rank {
            None
        } else {
            if let Some(report) = self.peer_trouble(rank, from, lanes) {
                return Err(report);
            }
            let slot = self.block.peers.get(rank as usize).copied();
            let peer = slot.and_then(|s| self.others.get_mut(s)).and_then(|b| b.as_deref_mut());
            match peer.and_then(|b| b.check.as_deref_mut()) {
                Some(peer) => Some(peer),
                None => return Ok(()),
            }
        };
        let Some(own) = self.block.check.as_deref_mut() else { return Ok(()) };
        let Some(strand) = self.warp.check.strands.iter().find(|s| s.mask & lanes != 0) else {
            return Ok(());
        };
        let actor = Actor {
            strand,
            entry,
            lanes,
            own: threads(own.id, self.warp.index),
            proxies: checks.proxies,
            lint: checks.proxy_reuse,
            met,
        };
        match access(&mut self.sys.check, own, peer, &actor, (global, from, len), write) {
            Ok(None) => Ok(()),
            Ok(Some((wrote, before))) => {
                self.lean(global, from, (entry, write), (before, wrote), lanes);
                Ok(())
            }
            Err((at, wrong, entry)) => Err(self.convict(global, at, len, entry, lanes, write, wrong)),
        }
    }

    /// A peer's shared memory is there from the moment it is known to have started until it ends.
    fn peer_trouble(&self, rank: u32, address: u64, lanes: u32) -> Option<Box<Report>> {
        let slot = *self.block.peers.get(rank as usize)?;
        let peer = self.others.get(slot)?.as_deref()?;
        let check = peer.check.as_ref()?;
        let (message, pc, hint) = if peer.done() {
            (
                "has ended",
                check.end.map_or(0, |o| o.pc),
                "a cluster barrier at the end: no block may leave before its peers are done with its memory",
            )
        } else if !self
            .warp
            .check
            .strands
            .iter()
            .any(|s| s.mask & lanes != 0 && (s.know.seen.knows(check.id) || s.know.trusted.knows(check.id)))
        {
            ("need not have started", 0, "a cluster barrier before the first access to a peer")
        } else {
            return None;
        };
        let [x, y, z] = peer.ctaid;
        let message = format!("access to shared memory of block ({x},{y},{z}), rank {rank}, which {message}");
        let mut report = self.report(Class::Lifetime, lanes, message);
        report.address = Some(address);
        report.other = Some(format!("block ({x},{y},{z}) at {}", self.sys.describe(&peer.program, pc)));
        report.hint = Some(hint.into());
        Some(report)
    }

    /// One access of one lane.
    pub(crate) fn touch_lane(
        &mut self,
        global: bool,
        from: u64,
        len: u64,
        lane: u32,
        write: bool,
        flags: u32,
    ) -> Result<(), Box<Report>> {
        self.touch_entry(global, from, len, (1 << lane, flags), write)
    }

    /// An access of `size` bytes per lane.
    pub(crate) fn touch(
        &mut self,
        global: bool,
        col: &Col64,
        size: u64,
        mask: u32,
        write: bool,
        flags: u32,
    ) -> Result<(), Box<Report>> {
        if self.block.check.is_none() || mask == 0 {
            return Ok(());
        }
        let one_strand = self.warp.check.strands.len() == 1;
        let first = col[mask.trailing_zeros() as usize & 31];
        if one_strand && size <= CELL && first.is_multiple_of(CELL) {
            let mut differs = 0u64;
            for (i, a) in col.iter().enumerate() {
                differs |=
                    (a ^ col[0].wrapping_add(i as u64 * size)) & 0u64.wrapping_sub((mask >> i & 1) as u64);
            }
            let low = mask & 1 == 1 && (mask == u32::MAX || mask.wrapping_add(1).is_power_of_two());
            let each = (CELL / size) as u32;
            if differs == 0 && low && mask.count_ones().is_multiple_of(each) {
                let group = ((1u64 << each) - 1) as u32;
                let spread = if each > 1 { SPREAD } else { 0 };
                for i in 0..mask.count_ones() / each {
                    let from = first + i as u64 * CELL;
                    self.touch_entry(global, from, CELL, (group << (i * each), flags | spread), write)?;
                }
                return Ok(());
            }
        }
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            let mut same = 1u32 << l;
            if one_strand && !write {
                // Lanes that read the same bytes are one reader.
                lanes::each(rest & !same, |k| same |= ((col[k] == col[l]) as u32) << k);
            }
            rest &= !same;
            self.touch_entry(global, col[l], size, (same, flags), write)?;
        }
        Ok(())
    }

    /// Judges by what the lanes know, and by nothing else.
    fn plain_judge<'j>(&'j self, own: &'j BlockCheck, global: bool, lanes: u32) -> Option<Judge<'j>> {
        let strand = self.warp.check.strands.iter().find(|s| s.mask & lanes != 0)?;
        Some(Judge {
            know: &strand.know,
            view: &own.view,
            blocks: &self.sys.check.blocks,
            own: threads(own.id, self.warp.index),
            global,
            proxies: !global && self.sys.config.checks.proxies,
            lint: false,
            lanes,
            leaned: Default::default(),
            met: None,
        })
    }

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

    /// A non-coherent load must not see bytes written by grids that still run.
    pub(crate) fn touch_non_coherent(
        &mut self,
        col: &Col64,
        size: u64,
        mask: u32,
    ) -> Result<(), Box<Report>> {
        let Some(own) = self.block.check.as_deref() else { return Ok(()) };
        if !self.sys.config.checks.non_coherent {
            return Ok(());
        }
        let Some(judge) = self.plain_judge(own, true, mask) else { return Ok(()) };
        let mut found = None;
        lanes::each(mask, |l| {
            if found.is_none() {
                found = self.sys.check.pages.written_lately(col[l], size, &judge, |_| true).map(|e| (l, e));
            }
        });
        let Some((l, entry)) = found else { return Ok(()) };
        let other = self.party(entry);
        let mut report = self.report(
            Class::NonCoherent,
            1 << l,
            format!("non-coherent load of {size} bytes at {:#x}, written while the kernel runs", col[l]),
        );
        report.address = Some(col[l]);
        report.other = Some(format!("written by {other}"));
        report.hint = Some("ld.global without .nc: the non-coherent cache is never told of writes".into());
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

    /// An access comes after another only by what the chip does: advice.
    #[cold]
    fn lean(
        &mut self,
        global: bool,
        address: u64,
        (entry, write): (Entry, bool),
        (before, wrote): (Entry, bool),
        lanes: u32,
    ) {
        let space = if global { "global" } else { "shared" };
        let verb = |write| if write { "write" } else { "read" };
        let access = format!("{} at {space} address {address:#x}", verb(write));
        let (why, hint) = if entry.is(SILENT) {
            (
                "puts there what is there already, and is not ordered after another access: a race to the letter, whatever the value",
                "let one thread write it, or a barrier between the two",
            )
        } else if before.reads_map() {
            (
                "edits a tensor map while a copy through it may still be on its way",
                "wait for the copy (its mbarrier, or its bulk group) before the map is edited again",
            )
        } else if before.of(Kind::Wgmma) {
            (
                "rests on one warp's wgmma.wait_group for another warp's share of the wgmma, which the manual does not promise",
                "an arrival by each of the four warps, or a barrier of the warpgroup, behind wgmma.wait_group",
            )
        } else {
            (
                "rests on a volatile access, which is relaxed: nothing was released or acquired",
                "fence.acq_rel of a scope that holds both before the store of the flag and after the loop that polls it, or st.release and ld.acquire",
            )
        };
        self.advise(Class::Race, lanes, |core| {
            (format!("{access} {why}"), Some(format!("{} by {}", verb(wrote), core.party(before))), hint)
        });
    }

    /// Who a remembered access was, in words.
    pub(super) fn party(&self, entry: Entry) -> String {
        let number = block_of(entry.agent);
        let Some(info) = self.sys.check.blocks.get(number as usize) else { return describe(entry) };
        let at = self.sys.describe(&info.program, entry.pc());
        let own = self.block.check.as_ref().is_some_and(|c| c.id == number);
        if own {
            return format!("{} at {at}", describe(entry));
        }
        let [x, y, z] = info.ctaid;
        let place =
            if info.device == self.block.device { String::new() } else { format!("device {} ", info.device) };
        format!("{place}block ({x},{y},{z}) {} at {at}", describe(entry))
    }

    #[cold]
    #[allow(clippy::too_many_arguments)]
    fn convict(
        &self,
        global: bool,
        at: u64,
        len: u64,
        entry: Entry,
        lanes: u32,
        write: bool,
        wrong: Wrong,
    ) -> Box<Report> {
        let space = if global { "global" } else { "shared" };
        let rank = self.block.rank;
        let at = if global { at } else { (rank << RANK_SHIFT) as u64 | at };
        let who = if entry.is(ASYNC) { "asynchronous " } else { "" };
        let what = if write { "write" } else { "read" };
        let len = if entry.is(SPREAD) { CELL / lanes.count_ones() as u64 } else { len };
        let access = format!("{who}{what} of {len} bytes at {space} address {at:#x}");
        let own = self.block.check.as_ref().map(|c| c.id);
        let grid_of =
            |e: Entry| self.sys.check.blocks.get(block_of(e.agent) as usize).map(|b| (b.stream, b.grid));
        let streams_of_one_device = |e: Entry, id: u32| {
            let blocks = &self.sys.check.blocks;
            let both = blocks.get(block_of(e.agent) as usize).zip(blocks.get(id as usize));
            both.is_some_and(|(a, b)| a.device == b.device && a.stream != b.stream)
        };
        let branches_of_a_graph = |e: Entry, id: u32| {
            let blocks = &self.sys.check.blocks;
            let both = blocks.get(block_of(e.agent) as usize).zip(blocks.get(id as usize));
            let lanes = &self.sys.lanes;
            both.is_some_and(|(a, b)| {
                a.stream != b.stream && lanes.contains(&a.stream) && lanes.contains(&b.stream)
            })
        };
        let mine = own.and_then(|id| self.sys.check.blocks.get(id as usize)).map(|b| (b.stream, b.grid));
        let finding = |class, message: String, other: Option<String>, hint: &str| {
            let mut report = self.report(class, lanes, message);
            report.address = Some(at);
            report.other = other;
            report.hint = Some(hint.into());
            report
        };
        let (before, verb) = match wrong {
            Wrong::AfterWrite(e) => (e, "write"),
            Wrong::AfterRead(e) => (e, "read"),
            Wrong::Unfenced(e) => {
                return finding(
                    Class::ProxyFence,
                    format!(
                        "{access}: an ordinary write to it need not be visible to the asynchronous proxy"
                    ),
                    Some(format!("written by {}", self.party(e))),
                    "fence.proxy.async by the writer (or by somebody ordered after it), then a barrier, then the asynchronous operation",
                );
            }
            Wrong::UnfencedReuse(e) => {
                return finding(
                    Class::ProxyFence,
                    format!("{access}: no proxy fence since an ordinary access to it (lint)"),
                    Some(format!("accessed by {}", self.party(e))),
                    "to the letter of the memory model a reuse across proxies needs fence.proxy.async; shipping kernels rely on the barrier alone",
                );
            }
            Wrong::Swizzle(e) => {
                let names =
                    ["no swizzle", "the 128-byte swizzle", "the 64-byte swizzle", "the 32-byte swizzle"];
                let name = |e: Entry| names[(e.info >> SWIZZLE_SHIFT) as usize];
                return finding(
                    Class::WgmmaOperand,
                    format!(
                        "{access} with {} in its descriptor: a tensor copy wrote it with {}",
                        name(entry),
                        name(e)
                    ),
                    Some(format!("written by {}", self.party(e))),
                    "bits 62-63 of the descriptor must name the swizzle of the tensor map",
                );
            }
            Wrong::Trailing(e) => {
                return finding(
                    Class::Race,
                    format!(
                        "{access} beside a tensor store that may write all of these sixteen bytes again, and nothing orders the two (lint)"
                    ),
                    Some(format!("write by {}", self.party(e))),
                    "wait for the store (cp.async.bulk.wait_group without .read, then a barrier), or end rows at multiples of 16 bytes",
                );
            }
            Wrong::Mbarrier => {
                let inside = at as u32 & OFFSET_MASK & !7;
                let init = self.block.check.as_ref().and_then(|c| c.mbarriers.get(&inside)?.init);
                return finding(
                    Class::Mbarrier,
                    format!("{access}, where a live mbarrier is"),
                    init.map(|e| format!("initialised by {}", self.party(e))),
                    "only mbarrier instructions may touch it until mbarrier.inval",
                );
            }
        };
        let other = Some(format!("{verb} by {}", self.party(before)));
        let message = format!("{access} is not ordered after a {verb} of it");
        if let (Some((stream, grid)), Some((theirs, earlier))) = (mine, grid_of(before))
            && stream == theirs
            && earlier != grid
        {
            return finding(
                Class::GridDependency,
                format!("{message} by a grid of the same stream"),
                other,
                "griddepcontrol.wait before the first access to what the grid before it reads or writes",
            );
        }
        if let Some((pc, block, told_at)) = self.warp.check.narrow
            && block == block_of(before.agent)
        {
            let there = self.sys.check.blocks.get(block as usize);
            let there = there.map(|b| self.sys.describe(&b.program, told_at)).unwrap_or_default();
            return finding(
                Class::Scope,
                format!("{message}: the signal between the two has too narrow a scope"),
                other,
                &format!("widen the scope of {there} and of {}", self.describe(pc)),
            );
        }
        let (kind, _) = super::clock::inner_of(before.agent);
        let tried = self.warp.check.tried.map(|(pc, _)| {
            format!(
                "{} returned false and was not repeated: it may do so at any time, and must loop",
                self.describe(pc)
            )
        });
        let hint = match (kind, verb) {
            (k, _) if k == Kind::Mbarrier as u32 => {
                tried.as_deref().unwrap_or("wait for the mbarrier of the copy before touching its bytes")
            }
            (k, _) if k == Kind::CpAsync as u32 => {
                "cp.async.wait_group by the thread that copied, then a barrier"
            }
            (k, "read") if k == Kind::BulkRead as u32 => {
                "cp.async.bulk.wait_group.read by the thread that stored, then a barrier"
            }
            (k, _) if k == Kind::BulkWrite as u32 => {
                "cp.async.bulk.wait_group (without .read) by the thread that stored, then a barrier"
            }
            (k, _) if k == Kind::Wgmma as u32 => "wgmma.wait_group before the operands are given back",
            _ if own.is_some_and(|id| branches_of_a_graph(before, id)) => {
                "an edge between the two nodes of the graph: when it is captured, an event recorded behind the one and waited for \
                 before the other"
            }
            _ if own.is_some_and(|id| streams_of_one_device(before, id)) => {
                "an event, recorded behind the one grid and waited for before the other"
            }
            _ => "a barrier, or a release and an acquire, between the two",
        };
        if kind == Kind::BulkRead as u32 {
            return finding(Class::BulkSourceOverwritten, message, other, hint);
        }
        finding(Class::Race, message, other, hint)
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
