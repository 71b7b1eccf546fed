//! Accesses of threads, judged; the others go through the same gate.

use super::judge::{Gather, Judge, Wrong};
use super::shadow::{CELL, Entry, SCOPE_SHIFT, SPREAD, STRONG, threads};
use super::sync::OFFSET_MASK;
use super::{BlockCheck, Strand, SystemCheck};
use crate::exec::{Core, lanes};
use crate::ir::{Scope, Semantics};
use crate::machine::warp::Col64;
use crate::memory::RANK_SHIFT;
use crate::report::{Class, Report};

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
    pub(super) fn touch_as(
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
    pub(super) fn touch_gathering(
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
    pub(super) fn plain_judge<'j>(
        &'j self,
        own: &'j BlockCheck,
        global: bool,
        lanes: u32,
    ) -> Option<Judge<'j>> {
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
}
