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
//! | a grid, and what it had learned of others | the grids after it in its stream, and whom they tell; a programmatic one only from `griddepcontrol.wait` on |
//! | a tensor or bulk copy: its own bytes only, by `complete_tx` | who sees the phase complete |
//! | `cp.async`, bulk stores, a warp's share of a `wgmma` | who waits for their group (or for the mbarrier they arrive on) |
//!
//! Grids of different streams are ordered by events, by what the host has waited for and by what their kernels tell each other, never by
//! having ended. `griddepcontrol.wait` tells the threads that execute it, and whom they tell.
//!
//! An asynchronous operation begins with what its issuer knows and its bytes are its own from that moment until the wait:
//! whether the machine has moved them already plays no part, so one run judges all completion orders.
//!
//! An ordinary ("generic") write reaches the asynchronous proxy only through a proxy fence by somebody who knows of the
//! write; two more clocks hold what has been fenced, for shared and for global memory. Completion of an asynchronous
//! operation carries the fence the other way.
//!
//! # What is taken on trust
//!
//! Some order the chip keeps and the manual does not promise, and shipping kernels lean on it. Knowledge that rests on such order is kept
//! apart ([`clock::Know::trusted`]); an access that needs it is advice ([`letter`](crate::Checks::letter)) with both parties named, not a race:
//!
//! * volatile accesses are relaxed at system scope (PTX ISA, `ld`); without fences around them they tell nothing;
//! * a `wgmma` starts for each warp when that warp issues it: the warp reads its sixteen rows of A and all of B. A wait covers that
//!   warp's share; that the other three warps' are done, too, is trust;
//! * an unordered write of the value that is there already: a race to the letter, whatever the value;
//! * shuffles, votes, matches and reductions between the lanes of a warp: they order no memory, yet NVIDIA's cooperative groups of several
//!   warps have lane 0 look at their barrier for all, and store over what other lanes have read;
//! * a tensor map edited while a copy through it may still be on its way.
//!
//! # Lanes
//!
//! The lanes of a warp share one clock until some of them learn something alone; they meet again at `bar.warp.sync` and at
//! any `.aligned` instruction, which also orders their accesses. Shuffles, votes and elections order nothing
//! (but see above).
//!
//! # The twenty classes
//!
//! The classes of bugs that Hopper kernels have, what is reported, and the tests (`tests/bug_classes/`) that hold a kernel with the bug
//! and its mended twin. A report names kernel, line, block, warp, lanes, address (where there is one) and the other party (where there
//! is one: a wrong count or a misaligned address needs nobody else).
//!
//! | | bug | reported as | tests |
//! | --- | --- | --- | --- |
//! | 1 | ordinary (or `cp.async`, `st.async`) write, then `wgmma`, bulk or tensor store, no `fence.proxy.async` | `ProxyFence` at the asynchronous operation | `class_01_and_10_bulk_stores`, `class_01_tensor_stores`, `class_01_and_05_operands_of_wgmma`, `class_01_operands_by_cp_async` |
//! | 2 | lint: ordinary access, then an asynchronous write, a barrier but no proxy fence between | `ProxyFence`, with [`proxy_reuse`](crate::Checks::proxy_reuse) | `class_02_reuse_across_proxies_is_a_lint` |
//! | 3 | no `wgmma.fence` after a register was touched | `WgmmaFence` | `class_03_missing_fence` |
//! | 4 | accumulators or A registers touched before `wait_group` covers them, or never committed | `WgmmaInFlight` | `class_04_registers_before_the_wait` |
//! | 5 | warps of a warpgroup that differ; operand overwritten while it is read; accumulators used by another shape | `PartialWarpgroup`, `WgmmaOperand`, `Race`, `WgmmaInFlight` | `class_05_warps_that_differ`, `class_05_each_warp_starts_by_itself`, `class_01_and_05_operands_of_wgmma` |
//! | | operands given back after one warp's wait, for all four | advice `Race` | `class_05_each_warp_waits_for_itself` |
//! | 6 | mbarrier before init, after inval, twice initialised, ordinarily accessed, misaligned, count out of range, used by who need not know of init, waited for in a peer | `Mbarrier`, `Race`, `Misaligned`, `OutOfBounds` | `class_06_*` |
//! | | no fence between init and a copy that completes on it | advice `ProxyFence` ([`letter`](crate::Checks::letter)): Triton's kernels have none | `class_06_initialised_without_a_fence` |
//! | 7 | more arrivals than expected; an arrival in a phase although nobody has waited for the one before; `try_wait` that does not loop; wrong parity | `Mbarrier`; `Race` or `Uninitialised` where the bytes are touched (the hint names the wait), or `Deadlock` | `class_07_*` |
//! | 8 | bytes expected that do not come, or come unexpected; a phase that ends before its copies; bytes touched before the wait | `Mbarrier`, `Deadlock`, `Race` | `class_08_*` |
//! | 9 | sizes, alignments, maps that are none; a map edited on the device without `fence.proxy.tensormap` | `AsyncCopy`, `Misaligned`, `TensorMap`; `ProxyFence` | `class_08_and_09_tensor_copies`, `class_09_*` |
//! | | a map edited before the copies through it are done | advice `Race` | `class_09_maps_edited_before_the_copy_is_done` |
//! | 10 | source of a bulk store overwritten before `wait_group.read` and a barrier; result read after `.read` only | `BulkSourceOverwritten`, `Race` | `class_10_*`, `class_01_and_10_bulk_stores` |
//! | | threads that exit without a wait for their bulk stores or `cp.async`s | advice `Lifetime`: the chip waits, and shipping kernels lean on it | `advice` |
//! | 11 | a peer's memory touched before it has started, or although it may have ended; cluster barrier arrived at twice, or relaxed without a fence; copies and arrivals still on their way when a block ends | `Lifetime`, `Barrier`, `Race` | `class_11_*` |
//! | 12 | `setmaxnreg` out of range, in part of a warpgroup, from the wrong side, twice without meeting, or a pool that does not suffice | `Registers`, `PartialWarpgroup`, `Deadlock` | `class_12_*` |
//! | | registers given that nobody takes | advice `Registers`: legal, and pointless | |
//! | 13 | named barriers: number, count, counts that differ, two arrivals of a thread in one phase, `.red` with others, part of a warp | `Barrier`, `PartialWarp`, `Deadlock` | `class_13_*` |
//! | 14 | `griddepcontrol.wait` missing before a read or an overwrite; or in the grid between | `GridDependency` | `class_14_*` |
//! | 15 | flags between blocks and devices: relaxed, weak, or of too narrow a scope; copies not waited for before the flag; events and waits of the host that are missing | `Race`, `Scope` | `class_15_*` |
//! | | flags by volatile accesses, without fences | advice `Race` | `class_15_volatile_flags` |
//! | 16 | descriptor whose rows leave shared memory, or whose swizzle is not the one a tensor copy wrote with | `OutOfBounds`, `WgmmaOperand` | `class_16_*` |
//! | 17 | bounds, alignment, registers and bytes never written | `OutOfBounds`, `Misaligned`, `Uninitialised` | `class_17_*` |
//! | 18 | `.sync` and `.aligned` with lanes absent; lanes that have not met; leaders; rows of `ldmatrix`; threads that left | `PartialWarp`, `Race`, `Misaligned`, `Deadlock` | `class_18_*` |
//! | 19 | `st.async`, `red.async`, `cp.async` and its arrivals: bytes touched before their mbarrier or group, counts of `.noinc` | `Race`, `Uninitialised`, `Mbarrier`, `Deadlock` | `class_19_*` |
//! | 20 | lint: a write beside a tensor store whose row ends inside sixteen bytes | `Race`, with [`trailing_sector`](crate::Checks::trailing_sector) | `class_20_trailing_sectors_are_a_lint` |
//!
//! `st.async` and `red.async` are performed in the generic proxy (PTX ISA, `st.async`): what they bring needs a proxy fence before the
//! asynchronous proxy reads it. What a wrong leading or stride offset of a descriptor, or a base offset, reads is bytes of somewhere
//! else: that shows in the result, and only sometimes here. That registers `setmaxnreg.inc` brings hold nothing cannot show in PTX, whose
//! registers are not the chip's.
//!
//! # Limits
//!
//! An mbarrier's agent stands for all copies of a phase: two copies that overlap in one phase are not told apart, and
//! neither are the `wgmma`s of one warp. Host copies do not race. Of a peer's mbarrier it is only seen
//! whether a wait for the last phase has happened, not whether the arrival comes after it: multicast copies order, but tell nothing.
//!
//! # Cost
//!
//! Memory: 32 bytes for every 16 of shared memory of a resident block, and of every page of global memory that kernels touched;
//! up to ten times that where lanes do not walk memory side by side. The machine forgets global memory when no grid is
//! left and the host has waited for all there were. Nothing is done for instructions on registers only.

pub(crate) mod clock;
mod copies;
mod fences;
mod grids;
mod groups;
mod hooks;
mod judge;
mod mbarriers;
pub(crate) mod shadow;
mod sync;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;

use crate::machine::block::Origin;
use crate::machine::stream::Order;
use crate::report::Class;
use clock::{Clock, Kind, Know, agent};
use grids::Carried;
use judge::{BlockInfo, View};
use shadow::{Pages, Shadow};

pub(crate) use copies::unmet;
pub(crate) use grids::{end_block, inherit, start_block};
pub(crate) use groups::left_behind;
pub(crate) use hooks::strength;
pub(crate) use judge::Met;
pub(crate) use mbarriers::completed_outside;
pub(crate) use shadow::SILENT;

/// Scopes: block, cluster, device, system.
const SCOPES: usize = 4;

/// Lanes that know the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strand {
    mask: u32,
    know: Know,
    /// What a fence allows the next strong store to tell, and its scope.
    release: Option<(Know, u32)>,
    /// What strong loads have seen, by the scope that reaches whoever told it: known after the next fence of that scope.
    pending: [Option<Know>; SCOPES],
}

/// A warp's part.
#[derive(Clone, Debug, Default)]
pub(crate) struct WarpCheck {
    /// The present moment.
    epoch: u32,
    /// Something was accessed in it.
    dirty: bool,
    /// The last moment of which all lanes know, when they have met.
    met: u32,
    /// The moment that began with the last shuffle.
    shared: u32,
    /// Every lane the warp began with.
    whole: u32,
    strands: Vec<Strand>,
    /// Moment of the `cp.async`s, and the lanes and moments of commits not waited for.
    cp_epoch: u32,
    cp_commits: Vec<(u32, u32)>,
    /// Lanes with `cp.async`s, and the moment of each lane's last.
    cp_open: u32,
    cp_last: [u32; 32],
    /// Lanes with bulk stores that they have not waited for. And the last `cp.async` and bulk store.
    bulk_open: u32,
    cp_pc: usize,
    bulk_pc: usize,
    /// Lanes whose last bulk stores no commit has covered.
    bulk_fresh: u32,
    /// Lanes took different ways since they last met, and where.
    apart: bool,
    parted: usize,
    /// A release that was seen by an acquire outside its scope: here, and there (block number, instruction).
    narrow: Option<(usize, u32, usize)>,
    /// Address of the tensor map in global memory of the copy that is being issued, or 0.
    map_read: u64,
    /// A wait for an mbarrier that returned false and has not been repeated with success: its instruction and the offset.
    tried: Option<(usize, u32)>,
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
    /// Phases completed, and how many of them were of an object here before.
    phase: u32,
    born: u32,
    /// A wait has seen the last phase complete, and who completed it.
    observed: bool,
    ended_by: shadow::Entry,
    /// Last arrivals of warps of peers.
    remote: Vec<shadow::Entry>,
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
    /// Who has arrived without telling anything: what these read, they have read.
    reading: Clock,
    read: Clock,
}

impl Gate {
    fn complete(&mut self) {
        self.done = std::mem::take(&mut self.arriving);
        self.read = std::mem::take(&mut self.reading);
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
    /// Each warp's last `setmaxnreg`s, numbered.
    registers_moved: Vec<(u64, shadow::Entry)>,
    /// What the threads that have exited knew, and the last of them to exit.
    ended: Know,
    end: Option<Origin>,
    /// What peers had read when they arrived at a cluster barrier that this block has passed, relaxed or not.
    read: Clock,
}

impl BlockCheck {
    /// Who gave registers that nobody took.
    pub(crate) fn registers_wasted(&self) -> Option<Origin> {
        self.registers_given.filter(|_| !self.registers_taken)
    }

    /// A named barrier's phase has ended.
    pub(crate) fn barrier_complete(&mut self, id: usize) {
        self.gates[id].complete();
    }

    /// Who was the first to arrive, expect or initialise, for an mbarrier somebody waits for.
    pub(crate) fn owes(&self, offset: u32) -> Option<Result<Origin, shadow::Entry>> {
        let mbar = self.mbarriers.get(&offset)?;
        mbar.expected.map(Ok).or(mbar.init.map(Err))
    }

    /// A phase of an mbarrier has ended, by whom. `Some`: a copy of that phase that has not landed.
    pub(crate) fn phase_complete(&mut self, offset: u32, by: shadow::Entry) -> Option<(Origin, u32)> {
        let id = self.id;
        let mbar = self.mbarriers.get_mut(&offset)?;
        mbar.phase += 1;
        (mbar.observed, mbar.ended_by) = (false, by);
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
    /// Programmatic grids, and those of which a block has executed `griddepcontrol.wait`.
    early: std::collections::HashSet<u32>,
    waited: std::collections::HashSet<u32>,
    /// What advice was given of already: kernel, instruction, class.
    advised: std::collections::HashSet<(usize, usize, Class)>,
    /// Grids of each stream, as they began.
    streams: HashMap<usize, Vec<u32>>,
    carried: Carried,
}

impl SystemCheck {
    /// Has the host waited for every grid there was? `host`: the last grid of each stream that it has.
    pub(crate) fn all_seen(&self, host: &Order) -> bool {
        let seen = |(stream, line): (&usize, &Vec<u32>)| {
            line.last().is_none_or(|last| host.get(stream).is_some_and(|grid| *grid >= *last as usize))
        };
        self.streams.iter().all(seen)
    }

    /// Forgets memory: nothing is left that could race.
    pub(crate) fn quiesce(&mut self) {
        self.pages.clear();
        self.told.clear();
        self.clusters.clear();
        self.streams.clear();
        self.carried.0.clear();
        self.early.clear();
        self.waited.clear();
        self.blocks.clear();
    }
}
