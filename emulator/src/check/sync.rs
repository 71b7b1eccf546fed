//! How knowledge travels: releases and acquires of threads, and the hooks of every instruction that orders.

use std::sync::Arc;

use super::clock::{Kind, Know, agent, block_of};
use super::shadow::{Entry, threads};
use super::{BlockCheck, Strand, Told, WarpCheck};
use crate::exec::{Core, lanes};
use crate::ir::{Scope, Semantics};
use crate::machine::block::{Block, Origin};
use crate::memory::RANK_SHIFT;
use crate::report::{Class, Report};

const OFFSET_MASK: u32 = (1 << RANK_SHIFT) - 1;

/// The scope of a strong access: volatile ones reach the system.
fn reach(sem: Semantics, scope: Scope) -> u32 {
    if matches!(sem, Semantics::Volatile | Semantics::Mmio) { 3 } else { width(scope) }
}

/// A scope as a number that grows.
pub(super) fn width(scope: Scope) -> u32 {
    match scope {
        Scope::Cta => 0,
        Scope::Cluster => 1,
        Scope::None | Scope::Gpu => 2,
        Scope::Sys => 3,
    }
}

/// The check of the block behind a shared address.
pub(super) fn check_of<'b>(
    block: &'b mut Block,
    others: &'b mut [Option<Box<Block>>],
    shared: u32,
) -> Option<&'b mut BlockCheck> {
    let rank = shared >> RANK_SHIFT;
    if rank == block.rank {
        return block.check.as_deref_mut();
    }
    let slot = *block.peers.get(rank as usize)?;
    others.get_mut(slot)?.as_deref_mut()?.check.as_deref_mut()
}

impl WarpCheck {
    /// Makes every strand lie inside or outside a mask.
    fn split(&mut self, mask: u32) {
        for i in 0..self.strands.len() {
            let outside = self.strands[i].mask & !mask;
            if outside != 0 && outside != self.strands[i].mask {
                let mut other = self.strands[i].clone();
                other.mask = outside;
                self.strands[i].mask &= mask;
                self.strands.push(other);
            }
        }
    }

    /// The moment that now ends: later accesses are not part of it.
    fn close(&mut self) -> u32 {
        if self.dirty {
            self.dirty = false;
            self.epoch += 1;
        }
        self.epoch - 1
    }

    /// Tells what the lanes of a mask know and have done.
    fn tell(&mut self, block: u32, warp: u32, mask: u32, to: &mut Know) {
        let moment = self.close();
        for strand in self.strands.iter().filter(|s| s.mask & mask != 0) {
            to.join(&strand.know);
        }
        to.seen.raise(threads(block, warp), mask, self.whole, moment);
    }

    /// The lanes of a mask learn.
    fn learn(&mut self, mask: u32, from: &Know) {
        if self.strands.iter().filter(|s| s.mask & mask != 0).all(|s| s.know.covers(from)) {
            return;
        }
        self.split(mask);
        for strand in self.strands.iter_mut().filter(|s| s.mask & mask != 0) {
            strand.know.join(from);
        }
    }

    /// The lanes of a mask meet.
    fn meet(&mut self, block: u32, warp: u32, mask: u32) {
        if !self.dirty && self.strands.len() == 1 && self.met == self.epoch - 1 {
            return;
        }
        let moment = self.close();
        if self.strands.len() > 1 {
            self.split(mask);
            let mut met = Strand { mask: 0, ..Strand::default() };
            self.strands.retain(|s| {
                if s.mask & mask == 0 {
                    return true;
                }
                met.mask |= s.mask;
                met.know.join(&s.know);
                if let Some((know, scope)) = &s.release {
                    let (all, widest) = met.release.get_or_insert_with(|| (Know::default(), *scope));
                    all.join(know);
                    *widest = (*widest).min(*scope);
                }
                for (all, know) in met.pending.iter_mut().zip(&s.pending) {
                    if let Some(know) = know {
                        all.get_or_insert_with(Know::default).join(know);
                    }
                }
                false
            });
            self.strands.insert(0, met);
        }
        self.strands[0].know.seen.raise(threads(block, warp), mask, self.whole, moment);
        if mask == self.whole {
            self.met = moment;
        }
    }
}

impl Core<'_> {
    /// Are races looked for?
    #[inline(always)]
    pub(crate) fn checking(&self) -> bool {
        self.block.check.is_some()
    }

    /// Advice of this class for this instruction, unless it was given before.
    pub(super) fn advise(
        &mut self,
        class: Class,
        lanes: u32,
        words: impl FnOnce(&Self) -> (String, Option<String>, &'static str),
    ) {
        if !self.sys.config.checks.letter {
            return;
        }
        let program: *const _ = self.program;
        if self.sys.check.advised.insert((program as usize, self.pc, class)) {
            let (message, other, hint) = words(self);
            let mut report = self.report(class, lanes, message);
            (report.other, report.hint) = (other, Some(hint.into()));
            self.sys.advise(report);
        }
    }

    /// Lanes execute what their own member mask leaves them out of.
    pub(crate) fn not_members(&mut self, lanes: u32, message: String) {
        self.advise(Class::PartialWarp, lanes, |_| {
            (message, None, "name every lane that executes it: undefined otherwise, says the manual")
        });
    }

    /// Lanes take different ways.
    #[inline]
    pub(crate) fn lanes_part(&mut self) {
        self.warp.check.apart = true;
        self.warp.check.parted = self.pc;
    }

    /// A converging instruction that is no barrier of the warp: have the lanes been brought together?
    #[inline]
    pub(crate) fn lanes_expected(&mut self, mask: u32) {
        if self.warp.check.apart && self.checking() {
            let parted = self.warp.check.parted;
            self.advise(Class::PartialWarp, mask, |core| {
                (
                    "lanes that took different ways come to an .aligned instruction, and nothing but the compiler brings them together".into(),
                    Some(format!("they parted at {}", core.describe(parted))),
                    "bar.warp.sync where the ways meet",
                )
            });
        }
    }

    /// Lanes that execute a converging instruction together are ordered.
    #[inline]
    pub(crate) fn lanes_meet(&mut self, mask: u32) {
        if mask == self.warp.live {
            self.warp.check.apart = false;
        }
        if let Some(check) = &self.block.check {
            self.warp.check.meet(check.id, self.warp.index, mask);
        }
    }

    /// An arrival at a named barrier.
    pub(crate) fn gate_arrive(&mut self, id: usize, mask: u32) {
        if let Some(check) = &mut self.block.check {
            self.warp.check.tell(check.id, self.warp.index, mask, &mut check.gates[id].arriving);
        }
    }

    /// A named barrier lets lanes go on.
    pub(crate) fn gate_pass(&mut self, id: usize, mask: u32) {
        if let Some(check) = &self.block.check {
            self.warp.check.learn(mask, &check.gates[id & 15].done);
        }
    }

    fn cluster_id(&self) -> Option<u32> {
        let id = self.block.check.as_ref()?.id;
        Some(self.sys.check.blocks.get(id as usize)?.cluster)
    }

    /// An arrival at the cluster barrier.
    pub(crate) fn cluster_tell(&mut self, mask: u32) {
        let Some(cluster) = self.cluster_id() else { return };
        if let Some(check) = &self.block.check {
            let gate = self.sys.check.clusters.entry(cluster).or_default();
            self.warp.check.tell(check.id, self.warp.index, mask, &mut gate.arriving);
        }
    }

    /// A relaxed arrival at the cluster barrier: it passes on what fences before it released, and nothing else.
    pub(crate) fn cluster_tell_released(&mut self, mask: u32) {
        let Some(cluster) = self.cluster_id() else { return };
        let Some(check) = &self.block.check else { return };
        let gate = self.sys.check.clusters.entry(cluster).or_default();
        let moment = self.warp.check.close();
        gate.reading.raise(threads(check.id, self.warp.index), mask, self.warp.check.whole, moment);
        for strand in self.warp.check.strands.iter().filter(|s| s.mask & mask != 0) {
            if let Some((released, _)) = &strand.release {
                gate.arriving.join(released);
            }
        }
    }

    /// The cluster barrier's phase has ended.
    pub(crate) fn cluster_complete(&mut self) {
        if let Some(cluster) = self.cluster_id()
            && let Some(gate) = self.sys.check.clusters.get_mut(&cluster)
        {
            gate.complete();
        }
    }

    /// The cluster barrier lets lanes go on.
    pub(crate) fn cluster_learn(&mut self, mask: u32) {
        if let Some(cluster) = self.cluster_id()
            && let Some(gate) = self.sys.check.clusters.get(&cluster)
        {
            self.warp.check.learn(mask, &gate.done);
            if let Some(check) = &mut self.block.check {
                check.read.join(&gate.read);
            }
        }
    }

    /// `fence.proxy.async`, for shared memory, global memory or both.
    pub(crate) fn proxy_fence(&mut self, shared: bool, global: bool, mask: u32) {
        let Some(check) = &mut self.block.check else { return };
        let own = threads(check.id, self.warp.index);
        let warp = &mut self.warp.check;
        let moment = warp.close();
        warp.split(mask);
        let whole = warp.whole;
        for strand in warp.strands.iter_mut().filter(|s| s.mask & mask != 0) {
            let know = &mut strand.know;
            // Lanes that fence together fence each other's accesses too; whether they are ordered is another question.
            if shared {
                know.shared.join(&know.seen);
                know.shared.join(&know.trusted);
                know.shared.raise(own, mask, whole, moment);
            }
            if global {
                know.global.join(&know.seen);
                know.global.join(&know.trusted);
                know.global.raise(own, mask, whole, moment);
            }
        }
        if shared {
            self.show_mbarriers(mask);
        }
    }

    /// `fence.proxy.tensormap` that releases: what was written, for the tensor map proxy.
    pub(crate) fn map_release(&mut self, mask: u32) {
        let Some(check) = &self.block.check else { return };
        let own = threads(check.id, self.warp.index);
        let warp = &mut self.warp.check;
        let moment = warp.close();
        warp.split(mask);
        let whole = warp.whole;
        for strand in warp.strands.iter_mut().filter(|s| s.mask & mask != 0) {
            let know = &mut strand.know;
            know.map_released.join(&know.seen);
            know.map_released.join(&know.trusted);
            know.map_released.raise(own, mask, whole, moment);
            if let Some((released, _)) = &mut strand.release {
                released.map_released.join(&know.map_released);
            }
        }
    }

    /// `fence.proxy.tensormap` that acquires the map at a global address.
    pub(crate) fn map_acquire(&mut self, address: u64, mask: u32) {
        if !self.checking() {
            return;
        }
        self.warp.check.split(mask);
        for strand in self.warp.check.strands.iter_mut().filter(|s| s.mask & mask != 0) {
            let know = &mut strand.know;
            know.map_acquired.acquire(address, &know.map_released);
        }
    }

    /// A fence that shows initialised mbarriers to the asynchronous proxy.
    pub(crate) fn show_mbarriers(&mut self, mask: u32) {
        let Some(check) = &mut self.block.check else { return };
        if check.unfenced == 0 {
            return;
        }
        let own = threads(check.id, self.warp.index);
        let strand = self.warp.check.strands.iter().find(|s| s.mask & mask != 0);
        for mbar in check.mbarriers.values_mut().filter(|m| !m.fenced) {
            let Some(init) = mbar.init else { continue };
            let mine = init.agent == own && init.mask & !mask == 0;
            let known = strand.is_some_and(|s| s.know.unordered(init.agent, init.mask, init.epoch) == 0);
            if mine || known {
                mbar.fenced = true;
                check.unfenced -= 1;
            }
        }
    }

    /// `fence.mbarrier_init`: a relaxed arrival after it tells that mbarriers were initialised. (The manual releases nothing
    /// but that; telling apart what else was written would be a second kind of knowledge.)
    pub(crate) fn fence_releases(&mut self, scope: Scope, mask: u32) {
        let Some(check) = &self.block.check else { return };
        let own = threads(check.id, self.warp.index);
        let warp = &mut self.warp.check;
        let moment = warp.close();
        warp.split(mask);
        let whole = warp.whole;
        for strand in warp.strands.iter_mut().filter(|s| s.mask & mask != 0) {
            let mut know = strand.know.clone();
            know.seen.raise(own, strand.mask, whole, moment);
            strand.release = Some((know, width(scope)));
        }
    }

    /// `fence` and `membar`.
    pub(crate) fn memory_fence(&mut self, scope: Scope, mask: u32) {
        let Some(check) = &self.block.check else { return };
        let own = threads(check.id, self.warp.index);
        let warp = &mut self.warp.check;
        let moment = warp.close();
        warp.split(mask);
        let whole = warp.whole;
        for strand in warp.strands.iter_mut().filter(|s| s.mask & mask != 0) {
            for seen in strand.pending[..=width(scope) as usize].iter_mut() {
                if let Some(seen) = seen.take() {
                    strand.know.join(&seen);
                }
            }
            let mut know = strand.know.clone();
            know.seen.raise(own, strand.mask, whole, moment);
            strand.release = Some((know, width(scope)));
        }
    }

    /// Where what is told by a strong access is kept.
    pub(crate) fn told_at(&self, global: bool, address: u64) -> u64 {
        match self.cluster_id() {
            Some(cluster) if !global => (cluster as u64) << 32 | address & 0xffff_ffff,
            _ => address,
        }
    }

    /// A strong store (or the storing half of an atomic) of some lanes to one address.
    pub(crate) fn strong_store(
        &mut self,
        (global, address): (bool, u64),
        sem: Semantics,
        scope: Scope,
        atomic: bool,
        lanes: u32,
    ) {
        let Some(check) = &self.block.check else { return };
        let scope = reach(sem, scope);
        let releases = matches!(sem, Semantics::Release | Semantics::AcqRel | Semantics::Sc);
        let mut know = Know::default();
        let mut widest = scope;
        if releases {
            self.warp.check.tell(check.id, self.warp.index, lanes, &mut know);
        } else {
            if sem == Semantics::Volatile {
                let mut all = Know::default();
                self.warp.check.tell(check.id, self.warp.index, lanes, &mut all);
                know.join_trusting(&all);
            }
            for strand in self.warp.check.strands.iter().filter(|s| s.mask & lanes != 0) {
                if let Some((told, fence)) = &strand.release {
                    know.join(told);
                    widest = widest.min(*fence);
                }
            }
        }
        let key = key(global, address);
        let told = self.sys.check.told.entry(key);
        let (block, pc) = (check.id, self.pc);
        match told {
            std::collections::hash_map::Entry::Occupied(mut known) if atomic => {
                // A read-modify-write carries on what was released before it.
                let known = known.get_mut();
                known.know.join(&know);
                if releases || !know_is_empty(&know) {
                    known.scope = known.scope.min(widest);
                    (known.block, known.pc) = (block, pc);
                }
            }
            std::collections::hash_map::Entry::Occupied(mut known) => {
                known.insert(Told { know, scope: widest, block, pc });
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(Told { know, scope: widest, block, pc });
            }
        }
    }

    /// A strong load (or the loading half of an atomic) of some lanes from one address.
    pub(crate) fn strong_load(
        &mut self,
        (global, address): (bool, u64),
        sem: Semantics,
        scope: Scope,
        lanes: u32,
    ) {
        let Some(check) = &self.block.check else { return };
        let Some(told) = self.sys.check.told.get(&key(global, address)) else { return };
        let scope = reach(sem, scope);
        let both = scope.min(told.scope);
        let blocks = &self.sys.check.blocks;
        let (own, other) = (blocks.get(check.id as usize), blocks.get(told.block as usize));
        // The narrowest scope that holds both.
        let between = if told.block == check.id {
            0
        } else if own.map(|b| b.cluster) == other.map(|b| b.cluster) {
            1
        } else if own.map(|b| b.device) == other.map(|b| b.device) {
            2
        } else {
            3
        };
        if between > both {
            self.warp.check.narrow = Some((self.pc, told.block, told.pc));
            return;
        }
        if matches!(sem, Semantics::Relaxed | Semantics::Release | Semantics::Volatile | Semantics::Mmio) {
            let know = told.know.clone();
            if sem == Semantics::Volatile {
                let mut trusting = Know::default();
                trusting.join_trusting(&know);
                self.warp.check.learn(lanes, &trusting);
            }
            self.warp.check.split(lanes);
            for strand in self.warp.check.strands.iter_mut().filter(|s| s.mask & lanes != 0) {
                strand.pending[between as usize].get_or_insert_with(Know::default).join(&know);
            }
        } else {
            self.warp.check.learn(lanes, &told.know);
        }
    }

    /// `griddepcontrol.wait` has returned, for some lanes: they know that the grids before have ended, and whom they tell.
    pub(crate) fn grids_before_ended(&mut self, mask: u32) {
        let Some(check) = &mut self.block.check else { return };
        let infos = &self.sys.check.blocks;
        let Some(own) = infos.get(check.id as usize) else { return };
        let line = self.sys.check.streams.get(&own.stream);
        // A grid that never waited may have ended before the grid before it: then this wait has not seen that one end either.
        let mut ended: Vec<u32> = Vec::new();
        for before in line.into_iter().flatten().rev().filter(|g| **g < own.grid) {
            ended.push(*before);
            if self.sys.check.early.contains(before) && !self.sys.check.waited.contains(before) {
                break;
            }
        }
        self.sys.check.waited.insert(own.grid);
        if ended.iter().any(|g| check.view.open.contains(g)) {
            let view = Arc::make_mut(&mut check.view);
            view.waited.extend(view.open.iter().filter(|g| ended.contains(g)));
            view.open.retain(|g| !ended.contains(g));
        }
        let mut know = Know::default();
        know.seen.raise(check.view.wait, 0, 1, 1);
        if let Some(carried) = self.sys.check.carried.before(own.stream, own.grid) {
            know.join(carried);
        }
        self.warp.check.learn(mask, &know);
    }

    // Mbarriers.

    /// `mbarrier.init`: the object comes to life.
    pub(crate) fn mbar_created(&mut self, shared: u32, lane: u32) -> Result<(), Box<Report>> {
        let id = match &self.block.check {
            Some(check) => check.id,
            None => return Ok(()),
        };
        self.touch_lane(false, shared as u64, 8, lane, true, 0)?;
        let init = Entry {
            agent: threads(id, self.warp.index),
            epoch: self.warp.check.epoch,
            mask: 1 << lane,
            info: self.pc as u32,
        };
        self.warp.check.dirty = true;
        if let Some(check) = check_of(self.block, self.others, shared) {
            let number = check.mbarriers.len() as u32;
            let mbar = check.mbarriers.entry(shared & OFFSET_MASK).or_default();
            if mbar.init.is_none() {
                mbar.number = number;
            } else if !mbar.fenced {
                check.unfenced -= 1;
            }
            let (number, phase) = (mbar.number, mbar.phase);
            *mbar = super::Mbar { number, phase, born: phase, init: Some(init), ..super::Mbar::default() };
            check.unfenced += 1;
            check.shadow.mbarrier((shared & OFFSET_MASK) as u64, true);
        }
        Ok(())
    }

    /// `mbarrier.inval`: the bytes are ordinary again.
    pub(crate) fn mbar_ended(&mut self, shared: u32) {
        if let Some(check) = check_of(self.block, self.others, shared) {
            check.shadow.mbarrier((shared & OFFSET_MASK) as u64, false);
        }
    }

    /// Whoever uses an mbarrier must know that it was initialised.
    pub(crate) fn mbar_known(
        &mut self,
        shared: u32,
        lanes: u32,
        asynchronous: bool,
    ) -> Result<(), Box<Report>> {
        let Some(own) = self.block.check.as_ref().map(|c| threads(c.id, self.warp.index)) else {
            return Ok(());
        };
        let letter = self.sys.config.checks.letter;
        let Some(check) = check_of(self.block, self.others, shared) else { return Ok(()) };
        let Some(mbar) = check.mbarriers.get(&(shared & OFFSET_MASK)) else { return Ok(()) };
        let Some(init) = mbar.init else { return Ok(()) };
        let mine = init.agent == own && init.mask == lanes;
        let ordered = mine
            || self
                .warp
                .check
                .strands
                .iter()
                .filter(|s| s.mask & lanes != 0)
                .all(|s| s.know.unordered(init.agent, init.mask, init.epoch) == 0);
        let unfenced = asynchronous && letter && !mbar.fenced;
        if ordered && !unfenced {
            return Ok(());
        }
        let other = self.party(init);
        let (class, message, hint) = if ordered {
            (
                Class::ProxyFence,
                format!(
                    "an asynchronous copy completes on the mbarrier at {shared:#x}, whose initialisation no fence has shown to the asynchronous proxy"
                ),
                "fence.proxy.async (in a cluster fence.mbarrier_init.release.cluster) after mbarrier.init, then a barrier",
            )
        } else {
            (
                Class::Race,
                format!("the mbarrier at {shared:#x} is used without knowing that it was initialised"),
                "a barrier between mbarrier.init and every use by other threads",
            )
        };
        let mut report = self.report(class, lanes, message);
        report.address = Some(shared as u64);
        report.other = Some(format!("initialised by {other}"));
        report.hint = Some(hint.into());
        if ordered {
            // Triton's kernels do without. Once is enough.
            if let Some(check) = check_of(self.block, self.others, shared)
                && let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK))
                && !mbar.fenced
            {
                mbar.fenced = true;
                check.unfenced -= 1;
            }
            self.sys.advise(report);
            return Ok(());
        }
        Err(report)
    }

    /// An arrival: somebody must have waited for the phase before, and the arrival must come after that wait.
    pub(crate) fn mbar_arrives(&mut self, shared: u32, lanes: u32) -> Result<(), Box<Report>> {
        let Some(own) = self.block.check.as_ref().map(|c| threads(c.id, self.warp.index)) else {
            return Ok(());
        };
        // The arrival itself is something that a peer's end has to know of.
        let remote = shared >> RANK_SHIFT != self.block.rank;
        self.warp.check.dirty |= remote;
        let entry = Entry { agent: own, epoch: self.warp.check.epoch, mask: lanes, info: self.pc as u32 };
        let Some(check) = check_of(self.block, self.others, shared) else { return Ok(()) };
        let id = check.id;
        let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK)) else { return Ok(()) };
        if remote {
            mbar.remote.retain(|e| e.agent != entry.agent || e.mask & !lanes != 0);
            mbar.remote.push(entry);
        }
        let phase = mbar.phase - mbar.born;
        if phase == 0 {
            return Ok(());
        }
        // Multicast copies tell nothing of what their issuer knew: of a peer's mbarrier the wait must merely have been.
        let waited = if remote {
            mbar.observed
        } else {
            let end = agent(id, Kind::Mbarrier, mbar.number);
            let mut here = self.warp.check.strands.iter().filter(|s| s.mask & lanes != 0);
            here.all(|s| s.know.seen.missing(end, 1, mbar.phase) == 0)
        };
        if waited {
            return Ok(());
        }
        let ended_by = mbar.ended_by;
        let message = format!(
            "arrival in phase {phase} of the mbarrier at {shared:#x}, not ordered after any wait for phase {}: whoever waits by parity may miss that phase",
            phase - 1
        );
        let mut report = self.report(Class::Mbarrier, lanes, message);
        report.address = Some(shared as u64);
        report.other = Some(format!("phase {} was completed by {}", phase - 1, self.party(ended_by)));
        report.hint = Some("wait for each phase of an mbarrier before arriving in the next".into());
        Err(report)
    }

    /// A wait for an mbarrier has returned false.
    pub(crate) fn mbar_tried(&mut self, offset: u32) {
        self.warp.check.tried = Some((self.pc, offset));
    }

    /// An arrival with release semantics, about to be counted.
    pub(crate) fn mbar_tell(&mut self, shared: u32, lanes: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        if let Some(check) = check_of(self.block, self.others, shared)
            && let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK))
        {
            self.warp.check.tell(id, self.warp.index, lanes, &mut mbar.arriving);
        }
    }

    /// Bytes are expected.
    pub(crate) fn mbar_expects(&mut self, shared: u32, lanes: u32) {
        let origin = self.origin(lanes);
        if let Some(check) = check_of(self.block, self.others, shared)
            && let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK))
        {
            mbar.expected = Some(origin);
        }
    }

    /// Lanes have seen a phase of an mbarrier of this block complete.
    pub(crate) fn mbar_learn(&mut self, offset: u32, lanes: u32) {
        if let Some(check) = &mut self.block.check
            && let Some(mbar) = check.mbarriers.get_mut(&offset)
        {
            mbar.observed = true;
            self.warp.check.learn(lanes, &mbar.completed);
            self.warp.check.tried.take_if(|(_, at)| *at == offset);
        }
    }

    /// A phase of an mbarrier may have ended: tells it on, and convicts a phase that ended before its copies landed.
    pub(crate) fn mbar_changed(
        &mut self,
        shared: u32,
        origin: Origin,
        flipped: bool,
    ) -> Result<(), Box<Report>> {
        let Some(own) = self.block.check.as_ref().filter(|_| flipped).map(|c| c.id) else { return Ok(()) };
        let Some(check) = check_of(self.block, self.others, shared) else { return Ok(()) };
        match check.phase_complete(shared & OFFSET_MASK, by(own, origin)) {
            Some((copy, bytes)) if self.sys.config.checks.transactions => {
                let at = self.describe(copy.pc);
                let mut report = self.report(Class::Mbarrier, 0, ended_early(shared, bytes));
                report.address = Some(shared as u64);
                report.other = Some(format!("the copy of warp {} at {at}", copy.warp));
                report.hint = Some(EXPECT.into());
                Err(report)
            }
            _ => Ok(()),
        }
    }

    // Groups.

    /// The agent and moment of this instruction's `cp.async`s.
    pub(crate) fn cp_commit(&mut self, mask: u32) {
        if self.checking() {
            let warp = &mut self.warp.check;
            warp.cp_commits.push((mask, warp.cp_epoch));
            warp.cp_epoch += 1;
        }
    }

    /// `cp.async.wait_group n`, `wait_all`.
    pub(crate) fn cp_learn(&mut self, groups: Option<u32>, mask: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        let who = agent(id, Kind::CpAsync, self.warp.index * 32);
        let warp = &mut self.warp.check;
        let mut moments = [0u32; 32];
        let mut last = 0;
        match groups {
            None => {
                moments = [warp.cp_epoch; 32];
                warp.cp_epoch += 1;
                warp.cp_commits.clear();
            }
            Some(n) => lanes::each(mask, |l| {
                let mine = warp.cp_commits.iter().rev().filter(|(m, _)| m >> l & 1 == 1);
                moments[l] = mine.skip(n as usize).map(|(_, at)| *at).next().unwrap_or(0);
            }),
        }
        let mut know = Know::default();
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            let same =
                (l..32).fold(0, |m, k| m | ((rest >> k & 1 == 1 && moments[k] == moments[l]) as u32) << k);
            rest &= !same;
            last = last.max(moments[l]);
            know.seen.raise(who, same, warp.whole, moments[l]);
        }
        warp.learn(mask, &know);
        if groups.is_some() && warp.cp_commits.len() > 64 {
            warp.cp_commits.drain(..32);
        }
    }

    /// `cp.async.mbarrier.arrive`: the mbarrier will tell of the `cp.async`s before it.
    pub(crate) fn cp_tell(&mut self, shared: u32, lanes: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        let who = agent(id, Kind::CpAsync, self.warp.index * 32);
        let (moment, whole) = (self.warp.check.cp_epoch, self.warp.check.whole);
        if let Some(check) = check_of(self.block, self.others, shared)
            && let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK))
        {
            mbar.arriving.seen.raise(who, lanes, whole, moment);
        }
    }

    /// The `cp.async`s before this are told of; later ones are not.
    pub(crate) fn cp_close(&mut self) {
        self.warp.check.cp_epoch += 1;
    }

    /// `cp.async.bulk.commit_group`
    pub(crate) fn bulk_commits(&mut self, mask: u32) {
        self.warp.check.bulk_fresh &= !mask;
    }

    /// `cp.async.bulk.wait_group[.read]`: groups before `open - groups` are done.
    pub(crate) fn bulk_learn(&mut self, groups: u32, read: bool, mask: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        let open = self.warp.bulk_group;
        if groups == 0 {
            self.warp.check.bulk_open &= !mask | self.warp.check.bulk_fresh;
        }
        let mut know = Know::default();
        lanes::each(mask, |l| {
            let done = open[l].saturating_sub(groups);
            if done > 0 {
                know.seen.raise(agent(id, Kind::BulkRead, self.warp.index * 32), 1 << l, 0, done);
                if !read {
                    know.seen.raise(agent(id, Kind::BulkWrite, self.warp.index * 32), 1 << l, 0, done);
                }
            }
        });
        self.warp.check.learn(mask, &know);
    }

    /// Threads exit: nothing of theirs should be left unwaited for.
    pub(crate) fn threads_end(&mut self, mask: u32) {
        let origin = self.origin(mask);
        if let Some(check) = &mut self.block.check {
            check.end = Some(origin);
            for strand in self.warp.check.strands.iter().filter(|s| s.mask & mask != 0) {
                check.ended.join(&strand.know);
            }
        }
        let stores = self.warp.check.bulk_open & mask;
        let copies = self.cp_unknown(mask);
        if copies | stores == 0 {
            return;
        }
        let (lanes, what, pc, hint) = if stores != 0 {
            let hint = "cp.async.bulk.wait_group 0 before the end: the chip waits by itself, the manual does not promise it";
            (stores, "bulk stores", self.warp.check.bulk_pc, hint)
        } else {
            let hint =
                "cp.async.wait_all before the end: the chip waits by itself, the manual does not promise it";
            (copies, "cp.asyncs", self.warp.check.cp_pc, hint)
        };
        self.advise(Class::Lifetime, lanes, |core| {
            let last = format!("the last was issued by warp {} at {}", core.warp.index, core.describe(pc));
            (format!("threads exit without having waited for their {what}"), Some(last), hint)
        });
    }

    /// Lanes that do not know that their last `cp.async` is done.
    fn cp_unknown(&self, mask: u32) -> u32 {
        let warp = &self.warp.check;
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return 0 };
        let who = agent(id, Kind::CpAsync, self.warp.index * 32);
        let mut unknown = 0;
        lanes::each(warp.cp_open & mask, |l| {
            let strand = warp.strands.iter().find(|s| s.mask >> l & 1 == 1);
            let lane = 1 << l;
            let known = strand.is_some_and(|s| s.know.seen.missing(who, lane, warp.cp_last[l]) == 0);
            unknown |= if known { 0 } else { lane };
        });
        unknown
    }

    /// `setmaxnreg` was executed.
    pub(crate) fn registers_moved(&mut self, inc: bool, mask: u32) {
        let origin = self.origin(mask);
        let epoch = self.warp.check.epoch;
        let Some(check) = &mut self.block.check else { return };
        self.warp.check.dirty = true;
        check.registers_taken |= inc;
        if !inc {
            check.registers_given.get_or_insert(origin);
        }
        let entry = Entry { epoch, ..by(check.id, origin) };
        let number = self.warp.setmaxnreg.0;
        // Other warps may be one behind.
        check.registers_moved.retain(|(n, e)| e.agent != entry.agent || n + 1 >= number);
        check.registers_moved.push((number, entry));
    }

    /// Another `setmaxnreg`: the warps of the warpgroup must have met since the last.
    pub(crate) fn registers_met(&self, mask: u32) -> Result<(), Box<Report>> {
        let Some(check) = &self.block.check else { return Ok(()) };
        let Some(number) = self.warp.setmaxnreg.0.checked_sub(1) else { return Ok(()) };
        let group = self.warp.index / 4 * 4;
        let known = |e: &Entry| {
            self.warp.check.strands.iter().all(|s| s.know.seen.missing(e.agent, e.mask, e.epoch) == 0)
        };
        for peer in (group..group + 4).filter(|w| *w != self.warp.index) {
            let mut before = check.registers_moved.iter();
            let before = before.find(|(n, e)| *n == number && e.agent == threads(check.id, peer));
            let before = before.map(|(_, e)| e);
            if before.is_some_and(known) {
                continue;
            }
            let other = match before {
                Some(e) => format!("the setmaxnreg of {}", self.party(*e)),
                None => format!("warp {peer}, which has executed none"),
            };
            let message =
                "a second setmaxnreg although the warps of the warpgroup have not met since the first";
            let mut report = self.report(Class::Registers, mask, message);
            report.other = Some(other);
            report.hint = Some("a barrier of the warpgroup's four warps between two setmaxnreg".into());
            return Err(report);
        }
        Ok(())
    }

    /// `wgmma.wait_group`: this warp's share of operations before a sequence number is done. The manual promises no more; that the other
    /// warps' shares are done as well is taken on trust, as shipping kernels take it that let one thread of a warpgroup arrive for all.
    pub(crate) fn wgmma_learn(&mut self, before: u64, mask: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        let mut know = Know::default();
        let own = self.warp.index;
        for warp in own / 4 * 4..own / 4 * 4 + 4 {
            let clock = if warp == own { &mut know.seen } else { &mut know.trusted };
            clock.raise(agent(id, Kind::Wgmma, warp), 0, 1, before as u32);
        }
        self.warp.check.learn(mask, &know);
    }
}

/// Who did something in a block.
fn by(block: u32, origin: Origin) -> Entry {
    Entry { agent: threads(block, origin.warp), epoch: 0, mask: origin.lanes, info: origin.pc as u32 }
}

const EXPECT: &str = "expect_tx must count every byte of the phase's copies (whole boxes, filled elements included) before the last arrival";

/// The finding for a phase that ended before its copies.
pub(crate) fn ended_early(shared: u32, bytes: u32) -> String {
    format!(
        "the phase of the mbarrier at {shared:#x} ends although a copy of {bytes} bytes issued in it has not landed: too few bytes were expected"
    )
}

fn key(global: bool, address: u64) -> u64 {
    address | (!global as u64) << 63
}

fn know_is_empty(know: &Know) -> bool {
    know.seen.len() == 0 && know.trusted.len() == 0
}

/// The other half of [`Core::mbar_changed`], for completions that happen outside any instruction.
pub(crate) fn completed_outside(
    sys: &crate::machine::system::System,
    block: &mut Block,
    offset: u32,
    origin: Origin,
) -> Result<(), Box<Report>> {
    let Some(check) = block.check.as_deref_mut() else { return Ok(()) };
    match check.phase_complete(offset, by(check.id, origin)) {
        Some((copy, bytes)) if sys.config.checks.transactions => {
            let mut report = sys.report(block, Class::Mbarrier, copy, ended_early(offset, bytes));
            report.address = Some(offset as u64);
            report.other =
                Some(format!("the phase was completed by {}", sys.describe(&block.program, origin.pc)));
            report.hint = Some(EXPECT.into());
            Err(report)
        }
        _ => Ok(()),
    }
}

/// A block ends: what others did to its shared memory, copies included, must be known to one of its threads, or it may still
/// happen. The finding for the first that is not.
pub(crate) fn left_behind(
    sys: &crate::machine::system::System,
    block: &Block,
    check: &BlockCheck,
) -> Option<Box<Report>> {
    let missing = |e: &Entry| check.ended.unordered(e.agent, e.mask.max(1), e.epoch) != 0;
    let copy = |e: &Entry| super::clock::inner_of(e.agent).0 == Kind::Mbarrier as u32;
    let arrival = check.mbarriers.iter().find_map(|(offset, mbar)| {
        let entry = mbar.remote.iter().find(|e| missing(e))?;
        Some((*offset as u64, "an arrival at its mbarrier", *entry))
    });
    let access = || {
        let read = |e: &Entry| check.read.missing(e.agent, e.mask.max(1), e.epoch) == 0;
        let foreign = |write: bool, e: &Entry| {
            (block_of(e.agent) != check.id || copy(e)) && missing(e) && (write || !read(e))
        };
        if block.peers.len() == 1 && check.mbarriers.is_empty() {
            return None;
        }
        let (at, write, entry) = check.shadow.find(foreign)?;
        let what = match (copy(&entry), write) {
            (true, true) => "a copy into its shared memory",
            (true, false) => "a copy out of its shared memory",
            (false, true) => "a write to its shared memory",
            (false, false) => "a read of its shared memory",
        };
        Some((at, what, entry))
    };
    let (at, what, entry) = arrival.or_else(access)?;
    let info = sys.check.blocks.get(block_of(entry.agent) as usize)?;
    let [x, y, z] = info.ctaid;
    let line = sys.describe(&info.program, entry.pc());
    let message = format!("the block may end before {what}: none of its threads has waited for that");
    let mut report = sys.report(block, Class::Lifetime, check.end?, message);
    report.address = Some((block.rank << RANK_SHIFT) as u64 | at);
    report.other = Some(format!("block ({x},{y},{z}) {} at {line}", super::shadow::describe(entry)));
    report.hint = Some(
        if copy(&entry) {
            "wait for the mbarrier of every copy before the last thread exits"
        } else {
            "a cluster barrier at the end, or a wait for the mbarrier that the peer arrives on"
        }
        .into(),
    );
    Some(report)
}
