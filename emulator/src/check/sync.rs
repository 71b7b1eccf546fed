//! How knowledge travels between threads: the lanes of a warp, barriers of blocks and clusters.

use super::clock::Know;
use super::shadow::threads;
use super::{BlockCheck, Strand, WarpCheck};
use crate::exec::Core;
use crate::ir::Scope;
use crate::machine::block::Block;
use crate::memory::RANK_SHIFT;
use crate::report::Class;

pub(super) const OFFSET_MASK: u32 = (1 << RANK_SHIFT) - 1;

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
    pub(super) fn split(&mut self, mask: u32) {
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
    pub(super) fn close(&mut self) -> u32 {
        if self.dirty {
            self.dirty = false;
            self.epoch += 1;
        }
        self.epoch - 1
    }

    /// Tells what the lanes of a mask know and have done.
    pub(super) fn tell(&mut self, block: u32, warp: u32, mask: u32, to: &mut Know) {
        let moment = self.close();
        for strand in self.strands.iter().filter(|s| s.mask & mask != 0) {
            to.join(&strand.know);
        }
        to.seen.raise(threads(block, warp), mask, self.whole, moment);
    }

    /// The lanes of a mask learn.
    pub(super) fn learn(&mut self, mask: u32, from: &Know) {
        if self.strands.iter().filter(|s| s.mask & mask != 0).all(|s| s.know.covers(from)) {
            return;
        }
        self.split(mask);
        for strand in self.strands.iter_mut().filter(|s| s.mask & mask != 0) {
            strand.know.join(from);
        }
    }

    /// The lanes of a mask learn from each other, on trust: what they know and what they have done.
    fn share(&mut self, block: u32, warp: u32, mask: u32) {
        if !self.dirty && self.strands.len() == 1 && self.shared == self.epoch {
            return;
        }
        let moment = self.close();
        self.shared = self.epoch;
        let mut all = Know::default();
        all.trusted.raise(threads(block, warp), mask, self.whole, moment);
        for strand in self.strands.iter().filter(|s| s.mask & mask != 0) {
            all.join_trusting(&strand.know);
        }
        self.split(mask);
        for strand in self.strands.iter_mut().filter(|s| s.mask & mask != 0) {
            strand.know.join_trusting(&all);
        }
    }

    /// The lanes of a mask meet.
    pub(super) fn meet(&mut self, block: u32, warp: u32, mask: u32) {
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

    /// A shuffle, vote, match or reduction: what comes before it in one lane is, on trust, before what comes after it in others.
    #[inline]
    pub(crate) fn lanes_tell(&mut self, mask: u32) {
        if let Some(check) = &self.block.check {
            self.warp.check.share(check.id, self.warp.index, mask);
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

    pub(super) fn cluster_id(&self) -> Option<u32> {
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
}
