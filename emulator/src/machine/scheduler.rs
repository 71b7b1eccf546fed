//! Who runs next, what lands when, and what to say when nothing can.
//!
//! A pass visits the resident blocks: all of them in order, or as many picks at random. A block runs its warps in turns
//! until none gets on. When a whole pass moves nothing, pending asynchronous operations land; when there are none, waits
//! that may time out do; when that moves nothing either, it is a deadlock.
//!
//! Polling is not moving: a machine that only polls for long is watched, and is dead if every look finds the registers as the look before
//! did. A wait that counts its looks is on the way to its bound, and is let go on, if not for ever: a count need not have a bound.

use super::block::Block;
use super::counters::Counters;
use super::launch::{Sm, place};
use super::program::Program;
use super::stream::Work;
use super::system::System;
use super::warp::Wait;
use super::{Completion, Machine, Schedule};
use crate::exec::Core;
use crate::exec::step::Stop;
use crate::exec::transfer;
use crate::mbarrier::Mbarrier;
use crate::memory::RANK_SHIFT;
use crate::report::{Class, Report, lane_list};

/// Instructions of a warp's turn, round robin.
const TURN: u32 = 2048;
/// Turns of a block's warps before the next block.
const ROUNDS: usize = 32;
/// Passes in which everybody only polls, before they are watched.
const IDLE_PASSES: u32 = 1024;
/// Turns in which everybody is watched.
const WATCHED: u32 = 8;
/// Warp instructions of polls that count, before they count as a deadlock.
const IDLE_INSTRUCTIONS: u64 = 1 << 24;
/// Time-outs without any change before they count as a deadlock.
const TIME_OUTS: u32 = 4;
/// Lines of a deadlock report that say where warps stand.
const POSITIONS: usize = 64;

impl Machine {
    /// One pass. False: nothing is left that could run.
    pub(super) fn pass(&mut self) -> Result<bool, Box<Report>> {
        let before = self.sys.progress;
        self.start_grids();
        let runs = |block: &Block| !block.done() && self.sys.may_run(block.device) > 0;
        let live: Vec<usize> =
            (0..self.blocks.len()).filter(|i| self.blocks[*i].as_deref().is_some_and(runs)).collect();
        if live.is_empty() {
            return Ok(self.sys.progress != before);
        }
        self.note_crowds(&live);
        let (steps, progress) = (self.sys.steps, self.sys.progress);
        let mut worked = false;
        match self.sys.config.schedule {
            Schedule::RoundRobin => {
                for slot in &live {
                    worked |= self.visit(*slot, None)?;
                }
            }
            Schedule::Random | Schedule::Starve | Schedule::Uneven => {
                // A victim runs when all others wait, poll or have ended.
                let victim = self.victim(&live);
                self.change_pace();
                for _ in 0..live.len() {
                    let slot = self.pick(&live);
                    if self.blocks[slot].as_ref().is_some_and(|b| !b.done()) {
                        let pick = self.sys.rng.next() as usize;
                        if victim.as_ref().is_some_and(|v| self.starves(v, slot, pick)) {
                            continue;
                        }
                        worked |= self.visit(slot, Some(pick))?;
                    }
                }
                if let Some(victim) = victim.filter(|_| !worked && self.sys.progress == progress) {
                    // Chance may have picked only the victim: all the others first.
                    for slot in &live {
                        let warps = self.blocks[*slot].as_ref().map_or(0, |b| b.warps.len());
                        for warp in 0..warps {
                            if !self.starves(&victim, *slot, warp) {
                                worked |= self.visit(*slot, Some(warp))?;
                            }
                        }
                    }
                    if !worked && self.sys.progress == progress {
                        for slot in victim.0 {
                            worked |= self.visit(slot, victim.1)?;
                        }
                    }
                }
                if self.sys.steps == steps && self.sys.progress == progress {
                    // Nobody who was picked could move: ask everybody before drawing conclusions. Each for a few instructions only, or a
                    // block whose warps meet often would mostly run in order.
                    for slot in &live {
                        let warps = self.blocks[*slot].as_ref().map_or(0, |b| b.warps.len());
                        for warp in 0..warps {
                            worked |= self.visit(*slot, Some(warp))?;
                        }
                    }
                }
            }
        }
        if self.sys.progress != progress {
            self.idle = 0;
            self.time_outs = 0;
            return Ok(true);
        }
        if self.sys.steps == steps {
            return self.stuck();
        }
        if worked {
            self.idle = 0;
            return Ok(true);
        }
        if self.idle == 0 {
            self.idle_since = self.sys.clock;
        }
        self.idle += 1;
        if self.idle.is_multiple_of(64) {
            self.land_anything()?;
        }
        if self.idle.is_multiple_of(IDLE_PASSES) {
            return self.only_polls(&live);
        }
        Ok(true)
    }

    /// Everybody has only polled for long, those that chance has picked: does everybody, and does any look find other registers than the
    /// one before it?
    fn only_polls(&mut self, live: &[usize]) -> Result<bool, Box<Report>> {
        let progress = self.sys.progress;
        self.watches += 1;
        (self.sys.watch, self.sys.counting) = (self.watches, false);
        let mut outcome: Result<bool, Box<Report>> = Ok(false);
        for _ in 0..WATCHED {
            for slot in live {
                outcome = outcome.and_then(|worked| Ok(worked | self.visit(*slot, None)?));
            }
        }
        self.sys.watch = 0;
        if outcome? || self.sys.progress != progress {
            self.idle = 0;
        } else if !self.sys.counting {
            return Err(self.deadlock("every warp only polls, and nothing changes"));
        } else if self.sys.clock - self.idle_since > IDLE_INSTRUCTIONS {
            return Err(self.deadlock("every warp only polls, and nothing changes but what they count"));
        }
        Ok(true)
    }

    /// Which devices have blocks of two streams.
    fn note_crowds(&mut self, live: &[usize]) {
        let mut streams: Vec<Option<usize>> = vec![None; self.crowded.len()];
        self.crowded.fill(false);
        for block in live.iter().filter_map(|slot| self.blocks[*slot].as_ref()) {
            let Some(grid) = self.sys.grids.get(&block.grid) else { continue };
            let first = *streams[block.device].get_or_insert(grid.stream);
            self.crowded[block.device] |= first != grid.stream;
        }
    }

    /// Puts what a device counted since `before` down to a kernel.
    fn attribute(&mut self, device: usize, program: &Program, before: Counters, sm: Option<u32>) {
        let now = self.sys.counters[device];
        let name = &program.kernel().name;
        let tallies = &mut self.tallies[device];
        match tallies.get_mut(name.as_str()) {
            Some(tally) => tally.add(now, before, sm),
            None => tallies.entry(name.to_string()).or_default().add(now, before, sm),
        }
    }

    /// Who is starved: a block, one of its warps, or all blocks of a device.
    fn victim(&self, live: &[usize]) -> Option<(Vec<usize>, Option<usize>)> {
        if self.sys.config.schedule != Schedule::Starve {
            return None;
        }
        // The seed decides; its low bits also drive the random numbers, which does no harm.
        let seed = self.sys.config.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let slot = live[seed as usize / 2 % live.len()];
        let device_of = |slot: usize| self.blocks[slot].as_ref().map(|b| b.device);
        let device = device_of(slot);
        if seed % 8 < 3 && live.iter().any(|other| device_of(*other) != device) {
            return Some((live.iter().copied().filter(|other| device_of(*other) == device).collect(), None));
        }
        let warps = self.blocks[slot].as_ref().map_or(1, |b| b.warps.len());
        Some((vec![slot], seed.is_multiple_of(2).then_some(seed as usize / 64 % warps)))
    }

    /// Would this pick run the victim?
    fn starves(&self, (victims, warp): &(Vec<usize>, Option<usize>), slot: usize, pick: usize) -> bool {
        let warps = self.blocks[slot].as_ref().map_or(1, |b| b.warps.len());
        victims.contains(&slot) && warp.is_none_or(|w| w == pick % warps)
    }

    /// Nothing moved in a whole pass.
    fn stuck(&mut self) -> Result<bool, Box<Report>> {
        if self.land_anything()? {
            return Ok(true);
        }
        let runs = self.blocks.iter().flatten().filter(|b| self.sys.may_run(b.device) > 0);
        let waits = runs.flat_map(|b| &b.warps).flat_map(|w| &w.paths);
        let may_time_out = waits.into_iter().any(|p| matches!(p.wait, Some(Wait::Mbarrier { .. })));
        if !may_time_out || self.time_outs >= TIME_OUTS {
            return Err(self.deadlock("no warp can go on, and no copy is in flight"));
        }
        self.time_outs += 1;
        self.sys.time_out = true;
        let mut outcome = Ok(true);
        for slot in 0..self.blocks.len() {
            if self.blocks[slot].as_ref().is_some_and(|b| !b.done())
                && let Err(report) = self.visit(slot, None)
            {
                outcome = Err(report);
                break;
            }
        }
        self.sys.time_out = false;
        outcome
    }

    /// Lands one asynchronous operation of each block that has any.
    fn land_anything(&mut self) -> Result<bool, Box<Report>> {
        let mut landed = false;
        for slot in 0..self.blocks.len() {
            let Some(block) = &mut self.blocks[slot] else { continue };
            let (device, program) = (block.device, block.program.clone());
            if self.sys.may_run(device) == 0 {
                continue;
            }
            let before = self.sys.counters[device];
            self.sys.global.set_reach(self.sys.reach[device]);
            let outcome = transfer::land_any(&mut self.sys, block, |_| 0);
            self.sys.global.set_reach(u64::MAX);
            self.attribute(device, &program, before, None);
            landed |= outcome?;
        }
        Ok(landed)
    }

    /// Lets grids begin that may, and blocks become resident.
    fn start_grids(&mut self) {
        for stream in 0..self.streams.len() {
            self.advance(stream);
            let device = self.streams[stream].device;
            if device < self.sms.len() && self.sys.may_run(device) == 0 {
                continue;
            }
            let queue = self.front_grids(stream);
            for (at, id) in queue.iter().copied().enumerate() {
                if at > 0 && !self.may_overlap(queue[at - 1], id) {
                    break;
                }
                let counted = self.sys.counters[device];
                let before = self.sys.grids.get(&id).map(|g| g.next);
                if place(&mut self.sys, &mut self.sms[device], &mut self.blocks, id) {
                    let counters = &mut self.sys.counters[device];
                    counters.launches += (before == Some(0)) as u64;
                    counters.overlapping_launches += (before == Some(0) && at > 0) as u64;
                    counters.sms_used = self.sms[device].iter().filter(|s| s.ever).count() as u32;
                    let resident = self.sms[device].iter().map(|s| s.blocks).sum();
                    counters.max_resident_blocks = counters.max_resident_blocks.max(resident);
                    if let Some(program) = self.sys.grids.get(&id).map(|grid| grid.program.clone()) {
                        self.attribute(device, &program, counted, None);
                    }
                }
            }
        }
    }

    /// May a grid begin while the one before it still runs?
    fn may_overlap(&self, before: usize, id: usize) -> bool {
        let (Some(first), Some(second)) = (self.sys.grids.get(&before), self.sys.grids.get(&id)) else {
            return false;
        };
        second.programmatic
            && first.started()
            && self.blocks.iter().flatten().all(|b| b.grid != before || b.released_dependents || b.done())
    }

    /// Runs the warps of a block: all in turns, or the one picked. True if any did more than poll.
    fn visit(&mut self, slot: usize, pick: Option<usize>) -> Result<bool, Box<Report>> {
        let Some(mut block) = self.blocks[slot].take_if(|block| !block.done()) else { return Ok(false) };
        self.sys.global.set_reach(self.sys.reach[block.device]);
        let program = block.program.clone();
        let (device, sm) = (block.device, block.sm);
        let counted = self.sys.counters[device];
        let outcome = match pick {
            None => run_block(&mut self.sys, &mut block, &mut self.blocks, &program),
            Some(pick) => {
                let warp = pick % block.warps.len();
                let ran = !block.warps[warp].done();
                let budget = 1 + self.sys.rng.below(64) as u32;
                run_warp(&mut self.sys, &mut block, &mut self.blocks, &program, warp, budget)
                    .map(|stop| ran && (stop == Stop::Quantum || stop == Stop::Exited))
            }
        };
        if self.crowded[device] {
            let counters = &mut self.sys.counters[device];
            counters.beside_instructions += counters.instructions - counted.instructions;
        }
        let mut outcome = outcome;
        if outcome.is_ok() && self.sys.config.completion == Completion::Random && self.sys.rng.below(4) == 0 {
            let random = self.sys.rng.next() as usize;
            if let Err(report) = transfer::land_any(&mut self.sys, &mut block, |n| random % n) {
                outcome = Err(report);
            }
        }
        let ended = block.done();
        if ended
            && outcome.is_ok()
            && let Err(report) = transfer::finish(&mut self.sys, &mut block)
        {
            outcome = Err(report);
        }
        self.sys.global.set_reach(u64::MAX);
        self.blocks[slot] = Some(block);
        if ended && outcome.is_ok() {
            self.retire(slot);
        }
        self.attribute(device, &program, counted, Some(sm));
        outcome
    }

    /// Gives back what an ended block held; its memory stays until its whole cluster has ended.
    fn retire(&mut self, slot: usize) {
        let Some(block) = &self.blocks[slot] else { return };
        crate::check::end_block(&mut self.sys, block);
        let (id, device, sm) = (block.grid, block.device, block.sm as usize);
        let peers = block.peers.clone();
        self.sys.progress += 1;
        self.sys.counters[device].blocks += 1;
        if let Some(grid) = self.sys.grids.get_mut(&id) {
            self.sms[device][sm].release(&grid.needs);
            grid.finished += 1;
            if grid.complete() {
                let (stream, workspace) = (grid.stream, grid.workspace);
                self.sys.grids.remove(&id);
                self.streams[stream].queue.retain(|work| !matches!(work, Work::Grid(grid) if *grid == id));
                if workspace != 0 {
                    self.sys.global.free(workspace);
                }
            }
        }
        if peers.iter().all(|p| self.blocks[*p].as_ref().is_none_or(|b| b.done())) {
            for peer in peers {
                self.blocks[peer] = None;
            }
        }
    }

    /// Who a wait that never ends depends on, as far as anybody is known to.
    fn holds_up(&self, block: &Block, warp: usize, wait: Option<Wait>) -> Option<String> {
        let at = |pc| self.sys.describe(&block.program, pc);
        match wait? {
            Wait::Mbarrier { offset, .. } => match block.check.as_ref()?.owes(offset)? {
                Ok(o) => Some(format!("bytes were last expected by warp {} at {}", o.warp, at(o.pc))),
                Err(init) => Some(format!("initialised at {}", at(init.pc()))),
            },
            Wait::Barrier { id, .. } => {
                let first = block.barriers[id as usize & 15].first_pc;
                Some(format!("the open phase began at {}", at(first)))
            }
            Wait::Registers { .. } => {
                let most = block.warps.iter().filter(|w| w.index as usize / 4 != warp / 4);
                let most = most.max_by_key(|w| w.registers)?;
                Some(format!("warp {} holds {} registers per thread", most.index, most.registers))
            }
            _ => None,
        }
    }

    /// The report of a machine that cannot go on: where every warp stands, and what it waits for.
    #[cold]
    fn deadlock(&self, why: &str) -> Box<Report> {
        let mut notes = Vec::new();
        let mut chosen: Option<(u32, &Block, usize, usize)> = None;
        let mut more = 0;
        for block in self.blocks.iter().flatten().filter(|b| !b.done()) {
            for (w, warp) in block.warps.iter().enumerate() {
                for (p, path) in warp.paths.iter().enumerate() {
                    // The most telling path stands for all.
                    let halted = self.sys.may_run(block.device) == 0;
                    let rank = match path.wait {
                        _ if halted => 4,
                        Some(Wait::Lanes { .. } | Wait::WarpSync { .. }) => 0,
                        Some(Wait::Wgmma { .. }) => 1,
                        Some(_) => 2,
                        None => 3,
                    };
                    if chosen.is_none_or(|c| rank < c.0) {
                        chosen = Some((rank, block, w, p));
                    }
                    if notes.len() == POSITIONS {
                        more += 1;
                        continue;
                    }
                    let [x, y, z] = block.ctaid;
                    notes.push(format!(
                        "block ({x},{y},{z}) warp {w} lanes {}: {} · {}",
                        lane_list(path.mask),
                        if halted { "its device is halted".into() } else { waits_for(block, w, path.wait) },
                        self.sys.describe(&block.program, path.pc)
                    ));
                }
            }
        }
        if more > 0 {
            notes.push(format!("and {more} more"));
        }
        let Some((rank, block, w, p)) = chosen else {
            unreachable!("a deadlock needs a block that has not ended");
        };
        let path = block.warps[w].paths[p];
        let class = match rank {
            0 => Class::PartialWarp,
            1 => Class::PartialWarpgroup,
            _ => Class::Deadlock,
        };
        let origin = super::block::Origin { warp: w as u32, lanes: path.mask, pc: path.pc };
        let message = format!("{why}; this warp {}", waits_for(block, w, path.wait));
        let mut report = self.sys.report(block, class, origin, message);
        if let Some(Wait::Mbarrier { offset, .. }) = path.wait {
            report.address = Some((block.rank << RANK_SHIFT | offset) as u64);
        }
        report.other = self.holds_up(block, w, path.wait);
        report.notes = notes;
        report
    }
}

/// Runs one warp for a turn.
fn run_warp(
    sys: &mut System,
    block: &mut Block,
    others: &mut [Option<Box<Block>>],
    program: &Program,
    index: usize,
    budget: u32,
) -> Result<Stop, Box<Report>> {
    let budget = budget.min(u32::try_from(sys.may_run(block.device)).unwrap_or(u32::MAX));
    if budget == 0 {
        return Ok(Stop::Blocked);
    }
    let mut warp = std::mem::take(&mut block.warps[index]);
    let outcome = if warp.done() {
        Ok(Stop::Exited)
    } else {
        let mut core = Core { sys, block, others, warp: &mut warp, program, pc: 0 };
        match core.wake() {
            Ok(true) => core.run(budget),
            Ok(false) => Ok(Stop::Blocked),
            Err(report) => Err(report),
        }
    };
    block.warps[index] = warp;
    outcome
}

/// Runs a block's warps in turns until none gets on. True if any did more than poll.
fn run_block(
    sys: &mut System,
    block: &mut Block,
    others: &mut [Option<Box<Block>>],
    program: &Program,
) -> Result<bool, Box<Report>> {
    let mut worked = false;
    for _ in 0..ROUNDS {
        let (steps, progress) = (sys.steps, sys.progress);
        let mut busy = false;
        for index in 0..block.warps.len() {
            if block.warps[index].done() {
                continue;
            }
            let stop = run_warp(sys, block, others, program, index, TURN)?;
            busy |= stop == Stop::Quantum;
        }
        worked |= busy;
        if block.done() || (!busy && sys.progress == progress) || sys.steps == steps {
            break;
        }
    }
    Ok(worked)
}

/// A wait in words.
fn waits_for(block: &Block, warp: usize, wait: Option<Wait>) -> String {
    match wait {
        None => "runs (polling)".into(),
        Some(Wait::Lanes { need }) => {
            format!("waits for lanes {} of its warp at this instruction", lane_list(need))
        }
        Some(Wait::WarpSync { mask }) => format!("waits at bar.warp.sync for lanes {}", lane_list(mask)),
        Some(Wait::Barrier { id, .. }) => {
            let barrier = &block.barriers[id as usize & 15];
            let expected = match barrier.expected {
                Some(Some(count)) => format!("{} of {count} threads", barrier.padded),
                _ => format!("{} of {} threads", barrier.lanes, block.live_threads()),
            };
            format!("waits at barrier {id}, where {expected} have arrived")
        }
        Some(Wait::Mbarrier { offset, phase, parity }) => {
            let state = block.shared.word64(offset).map(Mbarrier);
            let phase = if parity { format!("parity {}", phase & 1) } else { "a state".into() };
            match state {
                Ok(m) if m.is_valid() => format!(
                    "waits for the mbarrier at {offset:#x} with {phase} (in phase {}, {} of {} arrivals and {} bytes pending)",
                    m.phase(),
                    m.pending(),
                    m.expected(),
                    m.tx()
                ),
                _ => format!("waits for the mbarrier at {offset:#x}, which is not live"),
            }
        }
        Some(Wait::Registers { count }) => format!(
            "waits in setmaxnreg.inc for {count} registers per thread: it holds {}, the block's pool has {} free ({} needed)",
            block.warps[warp].registers,
            block.free_registers,
            count.saturating_sub(block.warps[warp].registers) * 32
        ),
        Some(Wait::Wgmma { before }) => {
            let state = &block.warpgroups[warp / 4];
            let count = before.saturating_sub(state.done) as usize;
            let missing = state.ops.iter().take(count).fold(0u32, |m, op| m | !op.seen & 15);
            let names: Vec<String> =
                (0..4).filter(|w| missing >> w & 1 == 1).map(|w| (warp / 4 * 4 + w).to_string()).collect();
            format!("waits for a wgmma that warps {} have not issued", names.join(", "))
        }
        Some(Wait::Grid) => "waits for the grids before it".into(),
        Some(Wait::Cluster { .. }) => format!(
            "waits at the cluster barrier, where {} threads of this block have arrived",
            block.cluster_arrived
        ),
    }
}

/// The SMs of a device, empty.
pub(super) fn empty_sms(count: u32) -> Vec<Sm> {
    vec![Sm::default(); count as usize]
}
