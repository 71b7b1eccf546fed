//! The happens-before checker: who may touch which bytes when, and who must first be told.
//!
//! # What it knows
//!
//! Every thread, and every asynchronous operation, is an agent with a clock ([`clock`]). An access is remembered with its
//! agent and that agent's moment ([`shadow`]); a later access to the same bytes, one of the two a write, must know that
//! moment, or it is a race. Knowledge travels as PTX lets it:
//!
//! | from | to |
//! | --- | --- |
//! | `bar`, `barrier.cluster`, `bar.warp.sync`: everything the arriving threads know | those who wait |
//! | `mbarrier.arrive` (release) | who sees that phase complete |
//! | a release or a fence, then a strong store or atomic, scopes permitting | an acquire, or a strong load and then a fence, of that value |
//! | a grid, and what it had learned of others that still run | the grids after it in its stream; a programmatic one only from `griddepcontrol.wait` on |
//! | a tensor or bulk copy: its own bytes only, by `complete_tx` | who sees the phase complete |
//! | `cp.async`, bulk stores, `wgmma` | who waits for their group (or for the mbarrier they arrive on) |
//!
//! An asynchronous operation begins with what its issuer knows and its bytes are its own from that moment until the wait:
//! whether the machine has moved them already plays no part, so one run judges all completion orders.
//!
//! An ordinary ("generic") write reaches the asynchronous proxy only through a proxy fence by somebody who knows of the
//! write; two more clocks hold what has been fenced, for shared and for global memory. Completion of an asynchronous
//! operation carries the fence the other way.
//!
//! # Lanes
//!
//! The lanes of a warp share one clock until some of them learn something alone; they meet again at `bar.warp.sync` and at
//! any `.aligned` instruction, which also orders their accesses. Shuffles, votes and elections order nothing.
//!
//! # Limits
//!
//! An mbarrier's agent stands for all copies of a phase: two copies that overlap in one phase are not told apart, and
//! neither are `wgmma`s of one warpgroup. A wait of any warp for its `wgmma`s covers the warpgroup's. Volatile loads count as
//! acquires and volatile stores as releases, as shipping code has it. Grids of other streams that have ended count as
//! ordered. `griddepcontrol.wait` by any thread counts for its block. Host copies do not race.
//!
//! # Cost
//!
//! Memory: 32 bytes for every 16 of shared memory of a resident block, and of every page of global memory that kernels touched;
//! up to ten times that where lanes do not walk memory side by side. The machine forgets global memory whenever no grid is
//! left. Nothing is done for instructions on registers only.

pub(crate) mod clock;
mod hooks;
pub(crate) mod shadow;
mod sync;

use std::collections::HashMap;
use std::sync::Arc;

use crate::machine::block::{Block, Origin};
use crate::machine::system::System;
use crate::report::Class;
use clock::{Kind, Know, agent};
use shadow::{BlockInfo, Pages, Shadow, View};

pub(crate) use hooks::{strength, unmet};
pub(crate) use shadow::SILENT;
pub(crate) use sync::completed_outside;

/// Lanes that know the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strand {
    mask: u32,
    know: Know,
    /// What a fence allows the next strong store to tell, and its scope.
    release: Option<(Know, u32)>,
    /// What strong loads have seen: known after the next fence.
    pending: Option<Know>,
}

/// A warp's part.
#[derive(Clone, Debug, Default)]
pub(crate) struct WarpCheck {
    /// The present moment.
    epoch: u32,
    /// Something was accessed in it.
    dirty: bool,
    /// Every lane the warp began with.
    whole: u32,
    strands: Vec<Strand>,
    /// Moment of the `cp.async`s, and the lanes and moments of commits not waited for.
    cp_epoch: u32,
    cp_commits: Vec<(u32, u32)>,
    /// Lanes with `cp.async`s, and with bulk stores, that they have not waited for.
    cp_open: u32,
    bulk_open: u32,
    /// Lanes whose last bulk stores no commit has covered.
    bulk_fresh: u32,
    /// Lanes took different ways since they last met.
    apart: bool,
    /// A release that was seen by an acquire outside its scope: here, and there (block number, instruction).
    narrow: Option<(usize, u32, usize)>,
}

impl WarpCheck {
    /// A warp about to start.
    pub(crate) fn new(lanes: u32) -> Self {
        WarpCheck {
            epoch: 1,
            whole: lanes,
            strands: vec![Strand { mask: lanes, ..Strand::default() }],
            cp_epoch: 1,
            ..WarpCheck::default()
        }
    }
}

/// An mbarrier's part.
#[derive(Clone, Debug, Default)]
struct Mbar {
    number: u32,
    /// Phases completed.
    phase: u32,
    arriving: Know,
    completed: Know,
    /// Who initialised it, and whether a fence has shown that to the asynchronous proxy.
    init: Option<shadow::Entry>,
    fenced: bool,
    /// Copies issued for the open phase that have not landed.
    pending: Vec<(Origin, u32)>,
    /// Who last expected bytes.
    expected: Option<Origin>,
}

/// A named or cluster barrier's part.
#[derive(Clone, Debug, Default)]
struct Gate {
    arriving: Know,
    done: Know,
}

impl Gate {
    fn complete(&mut self) {
        self.done = std::mem::take(&mut self.arriving);
    }
}

/// A block's part.
#[derive(Debug)]
pub(crate) struct BlockCheck {
    /// Its number.
    id: u32,
    view: Arc<View>,
    shadow: Shadow,
    mbarriers: HashMap<u32, Mbar>,
    /// Mbarriers whose initialisation no fence has shown yet.
    unfenced: u32,
    gates: [Gate; 16],
    /// Where registers were first given back, and whether anybody took any.
    registers_given: Option<Origin>,
    registers_taken: bool,
}

impl BlockCheck {
    /// `setmaxnreg` was executed.
    pub(crate) fn registers_moved(&mut self, inc: bool, origin: Origin) {
        self.registers_taken |= inc;
        if !inc {
            self.registers_given.get_or_insert(origin);
        }
    }

    /// Who gave registers that nobody took.
    pub(crate) fn registers_wasted(&self) -> Option<Origin> {
        self.registers_given.filter(|_| !self.registers_taken)
    }

    /// A named barrier's phase has ended.
    pub(crate) fn barrier_complete(&mut self, id: usize) {
        self.gates[id].complete();
    }

    /// A phase of an mbarrier has ended. `Some`: a copy of that phase that has not landed.
    pub(crate) fn phase_complete(&mut self, offset: u32) -> Option<(Origin, u32)> {
        let id = self.id;
        let mbar = self.mbarriers.get_mut(&offset)?;
        mbar.phase += 1;
        let mut know = std::mem::take(&mut mbar.arriving);
        know.seen.raise(agent(id, Kind::Mbarrier, mbar.number), 0, 1, mbar.phase);
        mbar.completed = know;
        mbar.pending.first().copied()
    }

    /// A copy has landed (its bytes are about to be counted).
    pub(crate) fn landed(&mut self, offset: u32, origin: Origin) {
        if let Some(mbar) = self.mbarriers.get_mut(&offset)
            && let Some(at) = mbar.pending.iter().position(|(o, _)| *o == origin)
        {
            mbar.pending.remove(at);
        }
    }

    /// The first mbarrier with bytes outstanding, for the end of a block: who expected them.
    pub(crate) fn expecting(&self) -> impl Iterator<Item = (u32, Option<Origin>)> + '_ {
        self.mbarriers.iter().map(|(offset, mbar)| (*offset, mbar.expected))
    }
}

/// What a strong store left for those who read it.
#[derive(Clone, Debug)]
struct Told {
    know: Know,
    scope: u32,
    block: u32,
    pc: usize,
}

/// What all blocks share.
#[derive(Debug, Default)]
pub(crate) struct SystemCheck {
    pages: Pages,
    /// Every block there was, by number.
    blocks: Vec<BlockInfo>,
    /// Strong stores, by address.
    told: HashMap<u64, Told>,
    /// Cluster barriers, by the number of the cluster's first block.
    clusters: HashMap<u32, Gate>,
    /// What advice was given of already: kernel, instruction, class.
    advised: std::collections::HashSet<(usize, usize, Class)>,
    /// Grids of each stream, as they began.
    streams: HashMap<usize, Vec<u32>>,
    /// What ended blocks of each stream knew of grids of other streams: the next grid of the stream knows it too.
    carried: HashMap<usize, Know>,
}

/// Numbers of blocks that fit in an agent.
const BLOCKS: usize = 1 << 18;

impl SystemCheck {
    /// Forgets memory when nothing runs that could race.
    pub(crate) fn quiesce(&mut self) {
        self.pages.clear();
        self.told.clear();
        self.clusters.clear();
        self.streams.clear();
        self.carried.clear();
        self.blocks.clear();
    }
}

/// A block's part, if checks are on. `open`: grids that have not ended; `rank` and `ctaid`: which block of the grid.
pub(crate) fn start_block(
    sys: &mut System,
    grid: &crate::machine::launch::Grid,
    mut open: Vec<u32>,
    rank: u32,
    ctaid: [u32; 3],
) -> Option<Box<BlockCheck>> {
    if !sys.config.checks.races {
        return None;
    }
    let own = grid.id as u32;
    let check = &mut sys.check;
    if check.blocks.is_empty() || check.blocks.len() >= BLOCKS {
        // Number 0 is nobody.
        check.pages.clear();
        check.told.clear();
        check.carried.clear();
        let nobody = BlockInfo {
            grid: u32::MAX,
            stream: usize::MAX,
            device: usize::MAX,
            cluster: 0,
            ctaid: [0; 3],
            program: grid.program.clone(),
        };
        check.blocks.clear();
        check.blocks.push(nobody);
    }
    let id = check.blocks.len() as u32;
    let cluster = id - rank;
    check.blocks.push(BlockInfo {
        grid: own,
        stream: grid.stream,
        device: grid.device,
        cluster,
        ctaid,
        program: grid.program.clone(),
    });
    let line = check.streams.entry(grid.stream).or_default();
    if line.last() != Some(&own) {
        line.push(own);
    }
    if !open.contains(&own) {
        open.push(own);
    }
    if grid.programmatic
        && let Some(before) = line.iter().rev().find(|g| **g < own)
        && !open.contains(before)
    {
        open.push(*before);
    }
    Some(Box::new(BlockCheck {
        id,
        view: Arc::new(View { next: own + 1, open }),
        shadow: Shadow::new(grid.layout.end),
        mbarriers: HashMap::new(),
        unfenced: 0,
        gates: Default::default(),
        registers_given: None,
        registers_taken: false,
    }))
}

/// A block has ended: what it learned of grids that still run, the next grid of its stream will know.
pub(crate) fn end_block(sys: &mut System, block: &Block) {
    let Some(own) = block.check.as_ref().and_then(|c| sys.check.blocks.get(c.id as usize)) else { return };
    let stream = own.stream;
    if sys.check.streams.len() < 2 {
        return;
    }
    let blocks = &sys.check.blocks;
    let wanted = |id: u32| blocks.get(id as usize).is_some_and(|b| b.stream != stream);
    let carried = sys.check.carried.entry(stream).or_default();
    for strand in block.warps.iter().flat_map(|warp| &warp.check.strands) {
        carried.join_of(&strand.know, wanted);
    }
}

/// A block begins after the grids before it: it knows what they knew.
pub(crate) fn inherit(sys: &System, block: &mut Block) {
    let Some(own) = block.check.as_ref().and_then(|c| sys.check.blocks.get(c.id as usize)) else { return };
    let Some(carried) = sys.check.carried.get(&own.stream) else { return };
    for strand in block.warps.iter_mut().flat_map(|warp| &mut warp.check.strands) {
        strand.know.join(carried);
    }
}
