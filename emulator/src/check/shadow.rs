//! Shadow memory: for every sixteen bytes who wrote them last and who has read them since.
//!
//! One cell stands for sixteen bytes. Lanes that lie side by side share one entry ("spread": the lanes of the mask own equal
//! pieces in order), so code that walks memory warp by warp needs one cell per sixteen bytes. An access that fits neither
//! splits the cell into words and, if it must, a word into bytes. A write forgets the readers before it; a reader forgets
//! readers it comes after. At most [`READERS`] unordered readers are kept: beyond that the oldest is forgotten, so a race
//! against it may be missed, never invented.

use super::clock::{Agent, Kind, agent, block_of, inner_of};
use super::judge::{Judge, Wrong};

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
pub(super) const PC: u32 = (1 << 23) - 1;

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
        let lately = |_: bool, e: &Entry| !judge.ended(block_of(e.agent)) && wanted(e);
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
