//! Shadow memory: for every sixteen bytes who wrote them last and who has read them since.
//!
//! One cell stands for sixteen bytes. Lanes that lie side by side share one entry ("spread": the lanes of the mask own equal
//! pieces in order), so code that walks memory warp by warp needs one cell per sixteen bytes. An access that fits neither
//! splits the cell into words and, if it must, a word into bytes. A write forgets the readers before it; a reader forgets
//! readers it comes after. At most [`READERS`] unordered readers are kept: beyond that the oldest is forgotten, so a race
//! against it may be missed, never invented.

use std::cell::{Cell as Slot, RefCell};

use super::clock::{Agent, Clock, Kind, Know, agent, block_of, inner_of};

/// Readers remembered of one cell.
const READERS: usize = 40;
/// Bytes of a cell.
pub(crate) const CELL: u64 = 16;

const NOBODY: Agent = 0;
/// The cell's children hold the truth: index in `epoch`.
const SPLIT: Agent = u32::MAX;
/// The readers are a list: index in `epoch`.
const MANY: Agent = u32::MAX - 1;
/// An mbarrier lives here.
const LIVE: Agent = u32::MAX - 2;

/// The access was made by the asynchronous proxy.
pub(crate) const ASYNC: u32 = 1 << 24;
/// The access is atomic or otherwise strong.
pub(crate) const STRONG: u32 = 1 << 25;
/// Two bits: scope of a strong access (0 block, 1 cluster, 2 device, 3 system).
pub(crate) const SCOPE_SHIFT: u32 = 26;
/// The lanes of the mask own equal pieces, in order.
pub(crate) const SPREAD: u32 = 1 << 28;
/// The write changes nothing: what is there already is written again.
pub(crate) const SILENT: u32 = 1 << 29;
/// Of a tensor copy into shared memory: its swizzle is known ([`SWIZZLE_SHIFT`]). Of a tensor store: the bytes lie beside the
/// store's own, in the sixteen that it may write again.
pub(crate) const TENSOR: u32 = 1 << 23;
/// Two bits: the swizzle a tensor copy wrote with, or a `wgmma` reads with, as descriptors encode it.
pub(crate) const SWIZZLE_SHIFT: u32 = 30;
/// Bits of the instruction's index.
const PC: u32 = (1 << 23) - 1;

/// An access, remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) agent: Agent,
    pub(crate) epoch: u32,
    pub(crate) mask: u32,
    /// Instruction index and flags.
    pub(crate) info: u32,
}

impl Entry {
    const NONE: Entry = Entry { agent: NOBODY, epoch: 0, mask: 0, info: 0 };

    pub(crate) fn pc(self) -> usize {
        (self.info & PC) as usize
    }

    pub(crate) fn is(self, flag: u32) -> bool {
        self.info & flag != 0
    }

    /// Of this kind of agent?
    pub(crate) fn of(self, kind: Kind) -> bool {
        inner_of(self.agent).0 == kind as u32
    }

    /// A copy in flight that reads its tensor map.
    pub(crate) fn reads_map(self) -> bool {
        self.is(TENSOR) && !self.is(ASYNC)
    }

    /// The entry for one of `parts` equal pieces.
    fn piece(self, index: u32, parts: u32) -> Entry {
        if !self.is(SPREAD) || self.agent >= LIVE {
            return self;
        }
        let (first, lanes) = (self.mask.trailing_zeros(), self.mask.count_ones());
        if lanes >= parts {
            let each = lanes / parts;
            let mask = ((1u64 << each) - 1) as u32;
            let info = if each == 1 { self.info & !SPREAD } else { self.info };
            Entry { mask: mask << (first + index * each), info, ..self }
        } else {
            let lane = first + index * lanes / parts;
            Entry { mask: 1 << lane, info: self.info & !SPREAD, ..self }
        }
    }
}

/// Sixteen bytes, or four, or one.
#[derive(Clone, Copy, Debug)]
struct Cell {
    write: Entry,
    read: Entry,
}

impl Cell {
    const EMPTY: Cell = Cell { write: Entry::NONE, read: Entry::NONE };
}

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
    pub(crate) leaned: Slot<Option<(bool, Entry)>>,
    /// Judge nothing, and put down the writes met here.
    pub(crate) met: Option<&'a Gather>,
}

/// Collects what reads meet.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// Where the reading has come.
    pub(crate) at: Slot<u64>,
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
    fn ordered(&self, entry: Entry, new: Entry) -> bool {
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
    fn ended(&self, block: u32) -> bool {
        self.blocks.get(block as usize).is_none_or(|b| self.view.ended(b.grid, self.know))
    }

    /// Is it right that one access comes after another (`write`: a write)? Puts down what only the chip puts in order.
    fn comes_after(&self, write: bool, entry: Entry, new: Entry) -> bool {
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
    fn both_strong(&self, entry: Entry, new: Entry) -> bool {
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
    fn other_swizzle(before: Entry, new: Entry) -> bool {
        new.of(Kind::Wgmma)
            && before.of(Kind::Mbarrier)
            && before.is(TENSOR)
            && before.info >> SWIZZLE_SHIFT != new.info >> SWIZZLE_SHIFT
    }

    /// Is this the part of a tensor store that is not its own?
    fn trailing(entry: Entry) -> bool {
        entry.is(TENSOR) && entry.of(Kind::BulkWrite)
    }

    /// Has a proxy fence passed this generic access on?
    fn fenced(&self, entry: Entry) -> bool {
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
    fn note(&self, before: Entry, new: Entry) {
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

/// Words and bytes of split cells, and long lists of readers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    children: Vec<[Cell; 4]>,
    free: Vec<u32>,
    lists: Vec<Vec<Entry>>,
    free_lists: Vec<u32>,
}

impl Pool {
    fn split(&mut self, cell: &mut Cell, size: u64) -> u32 {
        if cell.write.agent == SPLIT {
            return cell.write.epoch;
        }
        let mut pieces = [Cell::EMPTY; 4];
        for (i, piece) in pieces.iter_mut().enumerate() {
            piece.write = cell.write.piece(i as u32, 4);
            piece.read = match cell.read.agent {
                MANY => {
                    let list: Vec<Entry> =
                        self.lists[cell.read.epoch as usize].iter().map(|e| e.piece(i as u32, 4)).collect();
                    self.list(list)
                }
                _ => cell.read.piece(i as u32, 4),
            };
        }
        debug_assert!(size > 1, "a byte is not split");
        self.drop_readers(cell);
        let at = match self.free.pop() {
            Some(at) => {
                self.children[at as usize] = pieces;
                at
            }
            None => {
                self.children.push(pieces);
                self.children.len() as u32 - 1
            }
        };
        *cell = Cell { write: Entry { agent: SPLIT, epoch: at, ..Entry::NONE }, read: Entry::NONE };
        at
    }

    fn list(&mut self, list: Vec<Entry>) -> Entry {
        let at = match self.free_lists.pop() {
            Some(at) => {
                self.lists[at as usize] = list;
                at
            }
            None => {
                self.lists.push(list);
                self.lists.len() as u32 - 1
            }
        };
        Entry { agent: MANY, epoch: at, ..Entry::NONE }
    }

    fn drop_readers(&mut self, cell: &mut Cell) {
        if cell.read.agent == MANY {
            self.lists[cell.read.epoch as usize].clear();
            self.free_lists.push(cell.read.epoch);
        }
        cell.read = Entry::NONE;
    }

    /// Makes a split cell whole again.
    fn gather(&mut self, cell: &mut Cell) {
        if cell.write.agent == SPLIT {
            let at = cell.write.epoch;
            let mut pieces = self.children[at as usize];
            for piece in &mut pieces {
                self.gather(piece);
            }
            self.free.push(at);
        }
        self.drop_readers(cell);
        cell.write = Entry::NONE;
    }

    fn access(
        &mut self,
        cell: &mut Cell,
        size: u64,
        (from, to): (u64, u64),
        new: Entry,
        write: bool,
        judge: &Judge,
    ) -> Result<(), Wrong> {
        let whole = from == 0 && to == size;
        if cell.write.agent == SPLIT || !whole {
            let at = self.split(cell, size) as usize;
            let piece = size / 4;
            let mut pieces = self.children[at];
            let mut outcome = Ok(());
            for (i, child) in pieces.iter_mut().enumerate() {
                let start = i as u64 * piece;
                let (a, b) = (from.max(start), to.min(start + piece));
                if a >= b {
                    continue;
                }
                let part = if whole { new.piece(i as u32, 4) } else { new };
                outcome = self.access(child, piece, (a - start, b - start), part, write, judge);
                if outcome.is_err() {
                    break;
                }
            }
            self.children[at] = pieces;
            outcome?;
            if whole && write {
                self.gather(cell);
                cell.write = new;
            }
            return Ok(());
        }
        let before = cell.write;
        if before.agent != NOBODY {
            if before.agent == LIVE {
                return Err(Wrong::Mbarrier);
            }
            if !write {
                match judge.met {
                    Some(gather) => gather.note(before, new),
                    None => judge.judge_read(before, new)?,
                }
                self.add_reader(cell, new, judge);
                return Ok(());
            }
            if !judge.comes_after(true, before, new) {
                let beside = Judge::trailing(before) || Judge::trailing(new);
                let wrong = if beside { Wrong::Trailing } else { Wrong::AfterWrite };
                return Err(wrong(before));
            }
            let generic = new.is(ASYNC) && !before.is(ASYNC);
            if generic && judge.proxies && new.is(STRONG) && !judge.fenced(before) {
                return Err(Wrong::Unfenced(before));
            }
            if generic && judge.lint && !judge.fenced(before) {
                return Err(Wrong::UnfencedReuse(before));
            }
        }
        if write && Judge::trailing(new) {
            // Writes what was there: only other writers mind.
            cell.write = new;
            return Ok(());
        }
        if write {
            let readers = match cell.read.agent {
                NOBODY => &[][..],
                MANY => &self.lists[cell.read.epoch as usize][..],
                _ => std::slice::from_ref(&cell.read),
            };
            for reader in readers {
                if !judge.comes_after(false, *reader, new) {
                    return Err(Wrong::AfterRead(*reader));
                }
                if judge.lint && new.is(ASYNC) && !reader.is(ASYNC) && !judge.fenced(*reader) {
                    return Err(Wrong::UnfencedReuse(*reader));
                }
            }
            self.drop_readers(cell);
            cell.write = new;
            return Ok(());
        }
        self.add_reader(cell, new, judge);
        Ok(())
    }

    #[inline]
    fn add_reader(&mut self, cell: &mut Cell, new: Entry, judge: &Judge) {
        let same = |e: &Entry| e.agent == new.agent && e.epoch == new.epoch && e.info == new.info;
        match cell.read.agent {
            NOBODY => cell.read = new,
            MANY => {
                let list = &mut self.lists[cell.read.epoch as usize];
                if let Some(known) = list.iter_mut().find(|e| same(e) && !new.is(SPREAD)) {
                    known.mask |= new.mask;
                    return;
                }
                list.retain(|e| !judge.ordered(*e, new));
                if list.len() >= READERS {
                    list.remove(0);
                }
                list.push(new);
            }
            _ => {
                let known = cell.read;
                if known == new {
                    return;
                }
                if same(&known) && !new.is(SPREAD) {
                    cell.read.mask |= new.mask;
                } else if judge.ordered(known, new) {
                    cell.read = new;
                } else {
                    cell.read = self.list(vec![known, new]);
                }
            }
        }
    }

    /// A write (true) or a read of a cell that `unknown` objects to.
    fn find(&self, cell: &Cell, unknown: &impl Fn(bool, &Entry) -> bool) -> Option<(bool, Entry)> {
        match cell.write.agent {
            SPLIT => {
                let pieces = &self.children[cell.write.epoch as usize];
                return pieces.iter().find_map(|c| self.find(c, unknown));
            }
            NOBODY | LIVE => {}
            _ if unknown(true, &cell.write) => return Some((true, cell.write)),
            _ => {}
        }
        let readers = match cell.read.agent {
            NOBODY => &[][..],
            MANY => &self.lists[cell.read.epoch as usize][..],
            _ => std::slice::from_ref(&cell.read),
        };
        readers.iter().find(|r| unknown(false, r)).map(|r| (false, *r))
    }

    fn mark(&mut self, cell: &mut Cell, size: u64, (from, to): (u64, u64), live: bool) {
        if from == 0 && to == size {
            self.gather(cell);
            if live {
                cell.write = Entry { agent: LIVE, ..Entry::NONE };
            }
            return;
        }
        let at = self.split(cell, size) as usize;
        let piece = size / 4;
        let mut pieces = self.children[at];
        for (i, child) in pieces.iter_mut().enumerate() {
            let start = i as u64 * piece;
            let (a, b) = (from.max(start), to.min(start + piece));
            if a < b {
                self.mark(child, piece, (a - start, b - start), live);
            }
        }
        self.children[at] = pieces;
    }
}

/// The cells of a range that begins at address 0: a block's shared memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shadow {
    cells: Vec<Cell>,
    pool: Pool,
}

impl Shadow {
    pub(crate) fn new(bytes: u32) -> Self {
        Shadow { cells: vec![Cell::EMPTY; (bytes as u64).div_ceil(CELL) as usize], pool: Pool::default() }
    }

    /// Judges and remembers an access. `Err`: what is wrong, and where.
    #[inline]
    pub(crate) fn access(
        &mut self,
        from: u64,
        len: u64,
        new: Entry,
        write: bool,
        judge: &Judge,
    ) -> Result<(), (u64, Wrong)> {
        let to = from + len;
        let mut at = from;
        while at < to {
            let base = at / CELL * CELL;
            let stop = to.min(base + CELL);
            let Some(cell) = self.cells.get_mut((base / CELL) as usize) else { return Ok(()) };
            self.pool
                .access(cell, CELL, (at - base, stop - base), new, write, judge)
                .map_err(|wrong| (at, wrong))?;
            at = stop;
        }
        Ok(())
    }

    /// The first access, by address, that `unknown` objects to (true: a write).
    pub(crate) fn find(&self, unknown: impl Fn(bool, &Entry) -> bool) -> Option<(u64, bool, Entry)> {
        self.cells.iter().enumerate().find_map(|(i, cell)| {
            let (write, entry) = self.pool.find(cell, &unknown)?;
            Some((i as u64 * CELL, write, entry))
        })
    }

    /// A range becomes an mbarrier, or none any more.
    pub(crate) fn mbarrier(&mut self, from: u64, live: bool) {
        let base = from / CELL * CELL;
        if let Some(cell) = self.cells.get_mut((base / CELL) as usize) {
            self.pool.mark(cell, CELL, (from - base, (from - base + 8).min(CELL)), live);
        }
    }
}

/// Bytes of a page of [`Pages`].
const PAGE: u64 = 4096;

/// The cells of global memory, made when first touched.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pages: std::collections::HashMap<u64, Box<[Cell; (PAGE / CELL) as usize]>>,
    pool: Pool,
}

impl Pages {
    pub(crate) fn access(
        &mut self,
        from: u64,
        len: u64,
        new: Entry,
        write: bool,
        judge: &Judge,
    ) -> Result<(), (u64, Wrong)> {
        let to = from.saturating_add(len);
        let mut at = from;
        while at < to {
            let end = to.min((at / PAGE + 1).saturating_mul(PAGE));
            let page = self
                .pages
                .entry(at / PAGE)
                .or_insert_with(|| Box::new([Cell::EMPTY; (PAGE / CELL) as usize]));
            while at < end {
                let base = at / CELL * CELL;
                let stop = end.min(base.saturating_add(CELL));
                let cell = &mut page[(base % PAGE / CELL) as usize];
                self.pool
                    .access(cell, CELL, (at - base, stop - base), new, write, judge)
                    .map_err(|wrong| (at, wrong))?;
                at = stop;
            }
        }
        Ok(())
    }

    /// Was the last write to any of these bytes made by a grid that has not ended for this reader, and is one that `wanted` wants?
    pub(crate) fn written_lately(
        &self,
        from: u64,
        len: u64,
        judge: &Judge,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Option<Entry> {
        let lately = |_: bool, e: &Entry| {
            let writer = judge.blocks.get(block_of(e.agent) as usize);
            writer.is_some_and(|b| !judge.view.ended(b.grid, judge.know)) && wanted(e)
        };
        let mut at = from / CELL * CELL;
        while at < from + len {
            let page = self.pages.get(&(at / PAGE));
            let found = page.and_then(|page| {
                let cell = Cell { read: Entry::NONE, ..page[(at % PAGE / CELL) as usize] };
                self.pool.find(&cell, &lately)
            });
            if let Some((true, entry)) = found {
                return Some(entry);
            }
            at += CELL;
        }
        None
    }

    /// Forgets everything: nothing is left that could race.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.pool = Pool::default();
    }
}

/// "warp 3 lanes 0-31", "a bulk store of warp 1 lane 0" for a remembered access.
pub(crate) fn describe(entry: Entry) -> String {
    let (kind, index) = inner_of(entry.agent);
    let lanes = crate::report::lane_list(entry.mask);
    let warp = index / 32;
    match kind {
        k if k == Kind::Thread as u32 => format!("warp {warp} lanes {lanes}"),
        k if k == Kind::CpAsync as u32 => format!("a cp.async of warp {warp} lanes {lanes}"),
        k if k == Kind::BulkRead as u32 || k == Kind::BulkWrite as u32 => {
            format!("a bulk store of warp {warp} lanes {lanes}")
        }
        k if k == Kind::Mbarrier as u32 => "an asynchronous copy that completes on an mbarrier".into(),
        _ => format!(
            "a wgmma of warps {} of warpgroup {}",
            crate::report::lane_list(entry.mask << (index & 31)),
            index / 4
        ),
    }
}

/// The agent of a warp's threads.
pub(crate) fn threads(block: u32, warp: u32) -> Agent {
    agent(block, Kind::Thread, warp * 32)
}
