//! Fences of memory and of proxies, and what strong accesses tell each other.

use super::Told;
use super::clock::Know;
use super::shadow::threads;
use super::sync::width;
use crate::exec::Core;
use crate::ir::{Scope, Semantics};

/// The scope of a strong access: volatile ones reach the system.
fn reach(sem: Semantics, scope: Scope) -> u32 {
    if matches!(sem, Semantics::Volatile | Semantics::Mmio) { 3 } else { width(scope) }
}

impl Core<'_> {
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

    /// `fence` and `membar`: what was seen is known from now on, and what is known may be told.
    pub(crate) fn memory_fence(&mut self, scope: Scope, mask: u32) {
        if self.block.check.is_none() {
            return;
        }
        let warp = &mut self.warp.check;
        warp.split(mask);
        for strand in warp.strands.iter_mut().filter(|s| s.mask & mask != 0) {
            for seen in strand.pending[..=width(scope) as usize].iter_mut() {
                if let Some(seen) = seen.take() {
                    strand.know.join(&seen);
                }
            }
        }
        self.fence_releases(scope, mask);
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
}

fn key(global: bool, address: u64) -> u64 {
    address | (!global as u64) << 63
}

fn know_is_empty(know: &Know) -> bool {
    know.seen.len() == 0 && know.trusted.len() == 0
}
