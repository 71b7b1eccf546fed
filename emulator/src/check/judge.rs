//! What an access is judged by: what its lanes know, which grids have ended, and the rules of proxies and of strong accesses.

use std::cell::{Cell, RefCell};

use super::clock::{Agent, Clock, Kind, Know, block_of};
use super::shadow::{ASYNC, Entry, PC, SCOPE_SHIFT, SILENT, SPREAD, STRONG, SWIZZLE_SHIFT, TENSOR};

/// Which grids had ended when this block's grid began (or when it waited for them).
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Grids below this number, except those in `open`.
    pub(crate) next: u32,
    pub(crate) open: Vec<u32>,
    /// Grids that a `griddepcontrol.wait` has seen end: for those who know of that wait.
    pub(crate) waited: Vec<u32>,
    /// Stands for that wait.
    pub(crate) wait: Agent,
}

impl View {
    /// Has the grid ended, for somebody who knows this?
    pub(crate) fn ended(&self, grid: u32, know: &Know) -> bool {
        grid < self.next
            && !self.open.contains(&grid)
            && (!self.waited.contains(&grid) || know.unordered(self.wait, 1, 1) == 0)
    }
}

/// Who a block is.
#[derive(Clone, Debug)]
pub(crate) struct BlockInfo {
    pub(crate) grid: u32,
    pub(crate) stream: usize,
    pub(crate) device: usize,
    /// Number of the cluster's first block.
    pub(crate) cluster: u32,
    pub(crate) ctaid: [u32; 3],
    pub(crate) program: std::sync::Arc<crate::machine::program::Program>,
}

/// What an access is judged by.
pub(crate) struct Judge<'a> {
    pub(crate) know: &'a Know,
    pub(crate) view: &'a View,
    /// Every block there was, by number.
    pub(crate) blocks: &'a [BlockInfo],
    /// The warp's own threads, for program order.
    pub(crate) own: Agent,
    pub(crate) global: bool,
    /// Look for missing proxy fences.
    pub(crate) proxies: bool,
    /// Take asynchronous writes after generic accesses for a lint.
    pub(crate) lint: bool,
    /// The lanes that access (or issue the asynchronous access).
    pub(crate) lanes: u32,
    /// An access that comes before the one judged only by what the chip does (true: a write).
    pub(crate) leaned: Cell<Option<(bool, Entry)>>,
    /// Judge nothing, and put down the writes met here.
    pub(crate) met: Option<&'a Gather>,
}

/// Collects what reads meet.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// Where the reading has come.
    pub(crate) at: Cell<u64>,
    pub(crate) met: RefCell<Vec<Met>>,
}

/// Writes that a `wgmma` reads, to be judged for each warp.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Met {
    /// Where the first of them is.
    pub(crate) at: u64,
    pub(crate) before: Entry,
    /// The read; its mask is the warps that read this.
    pub(crate) new: Entry,
}

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Not ordered after this write.
    AfterWrite(Entry),
    /// A write not ordered after this read.
    AfterRead(Entry),
    /// Ordered, but the asynchronous proxy need not see this write.
    Unfenced(Entry),
    /// Lint: an asynchronous write after a generic access with no proxy fence between.
    UnfencedReuse(Entry),
    /// A `wgmma` reads with another swizzle than these bytes were written with.
    Swizzle(Entry),
    /// Lint: a write beside a tensor store, in the sixteen bytes that the store may write again.
    Trailing(Entry),
    /// An ordinary access to a live mbarrier.
    Mbarrier,
}

impl Judge<'_> {
    /// Does the access remembered come before this one?
    #[inline]
    pub(super) fn ordered(&self, entry: Entry, new: Entry) -> bool {
        let mask = if entry.mask == 0 { 1 } else { entry.mask };
        let missing = self.know.seen.missing(entry.agent, mask, entry.epoch);
        if missing == 0 {
            return true;
        }
        self.ordered_slow(entry, new, missing)
    }

    fn ordered_slow(&self, entry: Entry, new: Entry, missing: u32) -> bool {
        let block = block_of(entry.agent);
        if block != block_of(self.own) {
            return self.ended(block);
        }
        // One asynchronous agent keeps its own order, or its operations are the same instruction's.
        if entry.agent == new.agent && entry.agent != self.own {
            return !entry.of(Kind::Wgmma) || entry.mask & !new.mask == 0;
        }
        if entry.agent != self.own {
            return false;
        }
        // Lanes of one warp: the same lane is in program order, other lanes must have met.
        let same_shape = entry.mask == new.mask && (entry.info ^ new.info) & SPREAD == 0;
        let same_lane = same_shape && (entry.mask.is_power_of_two() || entry.is(SPREAD));
        let same_instruction = entry.info & PC == new.info & PC && entry.epoch == new.epoch;
        let only_mine = self.lanes.is_power_of_two() && missing == self.lanes;
        same_lane || same_instruction || only_mine
    }

    /// Has the grid of a block ended, and do these lanes know?
    pub(super) fn ended(&self, block: u32) -> bool {
        self.blocks.get(block as usize).is_none_or(|b| {
            self.view.ended(b.grid, self.know) || self.know.grids.ended(b.stream, b.grid as usize)
        })
    }

    /// Is it right that one access comes after another (`write`: a write)? Puts down what only the chip puts in order.
    pub(super) fn comes_after(&self, write: bool, entry: Entry, new: Entry) -> bool {
        if self.ordered(entry, new) || self.both_strong(entry, new) {
            return true;
        }
        let unordered = self.know.unordered(entry.agent, entry.mask.max(1), entry.epoch);
        let leans = unordered == 0 || new.is(SILENT) || entry.reads_map();
        if leans {
            self.leaned.set(Some((write, entry)));
        }
        leans
    }

    /// Judges a read of what a write left.
    pub(crate) fn judge_read(&self, before: Entry, new: Entry) -> Result<(), Wrong> {
        if !Judge::trailing(before) && !self.comes_after(true, before, new) {
            return Err(Wrong::AfterWrite(before));
        }
        if Judge::other_swizzle(before, new) {
            return Err(Wrong::Swizzle(before));
        }
        if new.is(ASYNC) && !before.is(ASYNC) && self.proxies && !self.fenced(before) {
            return Err(Wrong::Unfenced(before));
        }
        Ok(())
    }

    /// May two strong accesses meet unordered?
    pub(super) fn both_strong(&self, entry: Entry, new: Entry) -> bool {
        if !entry.is(STRONG) || !new.is(STRONG) {
            return false;
        }
        let scope = (entry.info >> SCOPE_SHIFT & 3).min(new.info >> SCOPE_SHIFT & 3);
        self.within(block_of(entry.agent), scope)
    }

    /// Is a block inside a scope around this one?
    pub(crate) fn within(&self, block: u32, scope: u32) -> bool {
        let own = block_of(self.own) as usize;
        let block = block as usize;
        match scope {
            0 => block == own,
            1 => self.blocks.get(block).map(|b| b.cluster) == self.blocks.get(own).map(|b| b.cluster),
            2 => self.blocks.get(block).map(|b| b.device) == self.blocks.get(own).map(|b| b.device),
            _ => true,
        }
    }

    /// Did a tensor copy write these bytes with another swizzle than the `wgmma` that reads them has?
    pub(super) fn other_swizzle(before: Entry, new: Entry) -> bool {
        new.of(Kind::Wgmma)
            && before.of(Kind::Mbarrier)
            && before.is(TENSOR)
            && before.info >> SWIZZLE_SHIFT != new.info >> SWIZZLE_SHIFT
    }

    /// Is this the part of a tensor store that is not its own?
    pub(super) fn trailing(entry: Entry) -> bool {
        entry.is(TENSOR) && entry.of(Kind::BulkWrite)
    }

    /// Has a proxy fence passed this generic access on?
    pub(super) fn fenced(&self, entry: Entry) -> bool {
        let block = block_of(entry.agent);
        if block != block_of(self.own) && self.ended(block) {
            return true;
        }
        let clock: &Clock = if self.global { &self.know.global } else { &self.know.shared };
        clock.missing(entry.agent, if entry.mask == 0 { 1 } else { entry.mask }, entry.epoch) == 0
    }
}

impl Gather {
    /// Puts a write down that a read has met, with those of the same moment that the same warps read.
    pub(super) fn note(&self, before: Entry, new: Entry) {
        let mut met = self.met.borrow_mut();
        let same = |m: &&mut Met| {
            let b = m.before;
            (b.agent, b.epoch, b.info, m.new) == (before.agent, before.epoch, before.info, new)
        };
        match met.iter_mut().rev().find(same) {
            Some(known) => known.before.mask |= before.mask,
            None => met.push(Met { at: self.at.get(), before, new }),
        }
    }
}
