//! Blocks as they begin and end, and which grids they may take for ended: by streams, events, waits of the host, and
//! `griddepcontrol.wait`.

use std::collections::HashMap;
use std::sync::Arc;

use super::BlockCheck;
use super::clock::{Clock, Kind, Know, agent};
use super::judge::{BlockInfo, View};
use super::shadow::Shadow;
use crate::exec::Core;
use crate::machine::block::Block;
use crate::machine::stream::Order;
use crate::machine::system::System;

/// Numbers of blocks that fit in an agent.
const BLOCKS: usize = 1 << 18;

/// What the ended blocks of each stream knew of grids of other streams. By stream: its grids in order, each with what it and those
/// before it knew; a later grid, and who waits for an event recorded behind that grid, knows it too.
#[derive(Debug, Default)]
pub(super) struct Carried(pub(super) HashMap<usize, Vec<(u32, Know)>>);

impl Carried {
    /// A block of a grid has ended, knowing this.
    pub(super) fn add(&mut self, stream: usize, grid: u32, know: impl Fn(&mut Know)) {
        let line = self.0.entry(stream).or_default();
        let at = line.partition_point(|(g, _)| *g < grid);
        if line.get(at).is_none_or(|(g, _)| *g != grid) {
            let before = at.checked_sub(1).map(|i| line[i].1.clone());
            line.insert(at, (grid, before.unwrap_or_default()));
        }
        line[at..].iter_mut().for_each(|(_, known)| know(known));
    }

    /// What the grids of a stream below this number knew.
    pub(super) fn before(&self, stream: usize, grid: u32) -> Option<&Know> {
        let line = self.0.get(&stream)?;
        let at = line.partition_point(|(g, _)| *g < grid);
        Some(&line[at.checked_sub(1)?].1)
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
        check.carried.0.clear();
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
    // Grids of other streams that have ended, with nothing to say that they had to.
    for (stream, line) in &check.streams {
        let last = grid.after.get(stream).map_or(-1, |last| *last as i64);
        let unordered = line.partition_point(|g| i64::from(*g) <= last);
        for earlier in line[unordered..].iter().filter(|g| **g < own) {
            if *stream != grid.stream && !open.contains(earlier) {
                open.push(*earlier);
            }
        }
    }
    let line = check.streams.entry(grid.stream).or_default();
    if line.last() != Some(&own) {
        line.push(own);
    }
    if !open.contains(&own) {
        open.push(own);
    }
    if grid.programmatic {
        // What began early under a grid that began early itself, and has not waited, may run beside the one before that too.
        for before in line.iter().rev().filter(|g| **g < own) {
            if !open.contains(before) {
                open.push(*before);
            }
            if !check.early.contains(before) || check.waited.contains(before) {
                break;
            }
        }
        check.early.insert(own);
    }
    Some(Box::new(BlockCheck {
        id,
        view: Arc::new(View {
            next: own + 1,
            open,
            waited: Vec::new(),
            wait: agent(id, Kind::Mbarrier, 0x3ff),
        }),
        shadow: Shadow::new(grid.layout.end),
        mbarriers: HashMap::new(),
        unfenced: 0,
        gates: Default::default(),
        registers_given: None,
        registers_taken: false,
        registers_moved: Vec::new(),
        ended: Know::default(),
        end: None,
        read: Clock::default(),
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
    let grid = own.grid;
    sys.check.carried.add(stream, grid, |known| {
        for strand in block.warps.iter().flat_map(|warp| &warp.check.strands) {
            known.join_of(&strand.know, wanted);
        }
    });
}

/// A block begins after the grids before it (`early`: those of its own stream may still run): it knows that they have ended, and what
/// they knew.
pub(crate) fn inherit(sys: &System, after: &Order, early: Option<usize>, block: &mut Block) {
    if block.check.is_none() {
        return;
    }
    let mut know = Know::default();
    for (stream, last) in after.iter().filter(|(stream, _)| early != Some(**stream)) {
        know.grids.learn(*stream, *last);
        if let Some(carried) = sys.check.carried.before(*stream, *last as u32 + 1) {
            know.join(carried);
        }
    }
    for strand in block.warps.iter_mut().flat_map(|warp| &mut warp.check.strands) {
        strand.know.join(&know);
    }
}

impl Core<'_> {
    /// `griddepcontrol.wait` has returned, for some lanes: they know that the grids before have ended, and whom they tell.
    pub(crate) fn grids_before_ended(&mut self, mask: u32) {
        let Some(check) = &mut self.block.check else { return };
        let infos = &self.sys.check.blocks;
        let Some(own) = infos.get(check.id as usize) else { return };
        let line = self.sys.check.streams.get(&own.stream);
        // A grid that never waited may have ended before the grid before it: then this wait has not seen that one end either.
        let mut ended: Vec<u32> = Vec::new();
        let mut all = true;
        for before in line.into_iter().flatten().rev().filter(|g| **g < own.grid) {
            ended.push(*before);
            if self.sys.check.early.contains(before) && !self.sys.check.waited.contains(before) {
                all = false;
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
        if let Some(last) = ended.first().filter(|_| all) {
            know.grids.learn(own.stream, *last as usize);
        }
        if let Some(carried) = self.sys.check.carried.before(own.stream, own.grid) {
            know.join(carried);
        }
        self.warp.check.learn(mask, &know);
    }
}
