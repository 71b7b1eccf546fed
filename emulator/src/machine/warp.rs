//! A warp: 32 lanes, their registers as columns, and the paths they are on.
//!
//! Lanes that stand at the same instruction form a [`Path`]. The path with the lowest program counter runs first and paths
//! that meet become one again, so code that was compiled to reconverge does. A path that spins gives way to the others
//! (independent thread scheduling): lanes may wait for each other.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::memory::init::InitMap;

/// A 32-bit register of all lanes.
pub(crate) type Col32 = [u32; 32];
/// A 64-bit register of all lanes.
pub(crate) type Col64 = [u64; 32];

/// What a path that cannot go on waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wait {
    /// The other live lanes of `need` at this very instruction.
    Lanes { need: u32 },
    /// The other lanes of `mask` at a `bar.warp.sync`.
    WarpSync { mask: u32 },
    /// The end of a phase of a named barrier.
    Barrier { id: u32, phase: u64 },
    /// A phase of an mbarrier (offset in the block's shared memory).
    Mbarrier { offset: u32, phase: u64, parity: bool },
    /// Enough registers in the block's pool for each lane's warp.
    Registers { count: u32 },
    /// The other warps of the warpgroup to issue every `wgmma` before this one.
    Wgmma { before: u64 },
    /// The grids before this one in its stream.
    Grid,
    /// The end of a phase of the cluster's barrier.
    Cluster { phase: u64 },
}

/// Lanes that stand at the same instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) pc: usize,
    pub(crate) mask: u32,
    pub(crate) wait: Option<Wait>,
    /// Gave way to the other paths of the warp.
    pub(crate) yielded: bool,
    /// Backward branches since it was last chosen.
    pub(crate) spins: u32,
    /// The instruction was begun before: it is not counted again.
    pub(crate) resumed: bool,
    /// The phase of the barrier at which it has arrived already.
    pub(crate) arrived: Option<u64>,
}

impl Path {
    pub(crate) fn new(pc: usize, mask: u32) -> Self {
        Path { pc, mask, wait: None, yielded: false, spins: 0, resumed: false, arrived: None }
    }
}

/// Partings that are remembered: no compiled code has more at once.
const PARTINGS: usize = 64;

/// Instructions after a poll from which on a warp no longer counts as polling.
const SPIN: u64 = 1024;

/// Registers an unfinished `wgmma` of this warp owns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    /// Sequence number in the warpgroup.
    pub(crate) seq: u64,
    /// Its instruction.
    pub(crate) pc: usize,
}

/// Bits of the instruction in what [`touch`] makes.
const TOUCH_PC: u32 = 24;

/// An access of a register, remembered: the moment above the instruction.
#[inline]
pub(crate) fn touch(moment: u64, pc: usize) -> u64 {
    moment << TOUCH_PC | pc as u64
}

/// Moment and instruction of what [`touch`] made.
pub(crate) fn touched(at: u64) -> (u64, usize) {
    (at >> TOUCH_PC, (at & ((1 << TOUCH_PC) - 1)) as usize)
}

/// One warp.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    /// Index in the block.
    pub(crate) index: u32,
    /// Columns of the 32-bit file.
    pub(crate) r32: Vec<Col32>,
    /// Columns of the 64-bit file.
    pub(crate) r64: Vec<Col64>,
    /// Predicates.
    pub(crate) preds: Vec<u32>,
    /// Lanes in which each register was written: 32-bit file, 64-bit file, predicates, in this order.
    pub(crate) written: Vec<u32>,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    /// Where they are.
    pub(crate) paths: Vec<Path>,
    /// The path that runs.
    pub(crate) current: usize,
    /// Branches at which lanes parted that have not met since, and those who came to them.
    pub(crate) partings: Vec<(usize, u32)>,
    /// `%tid`
    pub(crate) tid: [Col32; 3],
    /// Carry flag of each lane.
    pub(crate) carry: u32,
    /// Local memory, lane after lane.
    pub(crate) local: Vec<u8>,
    /// Which of its bytes were written.
    pub(crate) local_init: InitMap,
    /// Registers per thread held now.
    pub(crate) registers: u32,
    /// Where the last `setmaxnreg` of this warp stood, and how many there were.
    pub(crate) setmaxnreg: (u64, usize),
    /// Open group of `cp.async` of each lane.
    pub(crate) cp_group: Col32,
    /// Open bulk group of each lane.
    pub(crate) bulk_group: Col32,
    /// Phase of the cluster barrier each lane arrived in, plus one; 0: never.
    pub(crate) cluster_phases: Col64,
    /// Its last arrival there.
    pub(crate) cluster_pc: usize,
    /// `wgmma`s issued.
    pub(crate) wgmma_issued: u64,
    /// Issue counts at each uncovered `wgmma.commit_group`.
    pub(crate) wgmma_groups: VecDeque<u64>,
    /// Operations whose registers are not ours.
    pub(crate) in_flight: VecDeque<InFlight>,
    /// How many operations in flight own each 32-bit register.
    pub(crate) busy: Vec<u16>,
    /// The last access of each 32-bit register by anything but `wgmma` ([`touch`]).
    pub(crate) touched: Vec<u64>,
    /// Moment of the last `wgmma.fence`.
    pub(crate) fenced: u64,
    /// Instructions this warp issued.
    pub(crate) clock: u64,
    /// Polls (strong loads, failed tests) since the machine last changed.
    pub(crate) polls: u32,
    /// The machine's progress count at the last poll.
    pub(crate) poll_epoch: u64,
    /// Its own clock at the last poll.
    pub(crate) polled_at: u64,
    /// While the machine watches: where it polled, and what its registers held there; and which watch that was.
    pub(crate) looks: Vec<(usize, u64)>,
    pub(crate) watch: u64,
    /// What the happens-before checker knows of it.
    pub(crate) check: crate::check::WarpCheck,
}

impl Warp {
    /// Has exited.
    pub(crate) fn done(&self) -> bool {
        self.live == 0
    }

    /// Has it polled since the machine last changed, and done little else?
    pub(crate) fn polls_since(&self, progress: u64) -> bool {
        self.poll_epoch == progress && self.polled_at + SPIN > self.clock && self.polled_at != 0
    }

    /// A poll while the machine watches: do its registers hold something else than at the last poll here?
    pub(crate) fn looks_differ(&mut self, watch: u64, pc: usize) -> bool {
        if self.watch != watch {
            self.watch = watch;
            self.looks.clear();
        }
        let mut state = DefaultHasher::new();
        (&self.r32, &self.r64, &self.preds).hash(&mut state);
        let state = state.finish();
        match self.looks.iter_mut().find(|look| look.0 == pc) {
            Some(look) => std::mem::replace(&mut look.1, state) != state,
            None => {
                self.looks.push((pc, state));
                false
            }
        }
    }

    /// Merges paths that stand at the same instruction, wakes those whose convergence is complete, and chooses the path
    /// to run. False when all wait.
    pub(crate) fn choose(&mut self) -> bool {
        if self.paths.len() > 1 {
            self.merge();
        }
        if let Some(at) = self.lowest(false) {
            self.current = at;
            return true;
        }
        for path in &mut self.paths {
            path.yielded = false;
            path.spins = 0;
        }
        match self.lowest(true) {
            Some(at) => {
                self.current = at;
                true
            }
            None => false,
        }
    }

    fn lowest(&self, any: bool) -> Option<usize> {
        let mut best: Option<usize> = None;
        for (i, path) in self.paths.iter().enumerate() {
            if path.wait.is_none()
                && (any || !path.yielded)
                && best.is_none_or(|b| path.pc < self.paths[b].pc)
            {
                best = Some(i);
            }
        }
        best
    }

    /// The path's lanes take different ways at the branch `pc`.
    pub(crate) fn part(&mut self, pc: usize, mask: u32) {
        if self.partings.len() == PARTINGS {
            self.partings.remove(0);
        }
        self.partings.push((pc, mask));
    }

    fn merge(&mut self) {
        let mut i = 0;
        while i < self.paths.len() {
            let mut j = i + 1;
            while j < self.paths.len() {
                let (a, b) = (self.paths[i], self.paths[j]);
                let mergeable =
                    |p: Path| matches!(p.wait, None | Some(Wait::Lanes { .. })) && p.arrived.is_none();
                let meets = a.pc == b.pc && mergeable(a) && mergeable(b);
                if meets {
                    // The merged path tries the instruction again: it may have all its lanes now.
                    let begun = a.wait.is_some() || b.wait.is_some();
                    self.paths[i] = Path {
                        yielded: a.yielded && b.yielded,
                        resumed: begun,
                        ..Path::new(a.pc, a.mask | b.mask)
                    };
                    self.paths.remove(j);
                    let (met, live) = (a.mask | b.mask, self.live);
                    self.partings.retain(|(_, mask)| mask & live & !met != 0);
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
    }
}
