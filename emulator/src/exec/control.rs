//! Branches, exits, polling, and the convergence that `.aligned` and `.sync` instructions demand.

use super::{Core, Flow, Step, lanes};
use crate::ir::Src;
use crate::machine::warp::{Path, Wait};
use crate::report::{Class, Report};

/// Backward branches of a path before the others of its warp get a turn.
const SPINS: u32 = 1024;
/// Polls before others get a turn.
const POLLS: u32 = 4;

impl Core<'_> {
    /// Sends the lanes of `taken` to `target`, the rest of the path to the next instruction.
    #[inline]
    pub(super) fn branch(&mut self, target: usize, taken: u32) -> Flow {
        let current = self.warp.current;
        let path = &mut self.warp.paths[current];
        if target <= self.pc && taken != 0 {
            path.spins += 1;
            if path.spins >= SPINS && self.warp.paths.len() > 1 {
                self.warp.paths[current].yielded = true;
            }
        }
        let path = &mut self.warp.paths[current];
        if taken == path.mask {
            return Flow::Jump(target);
        }
        if taken == 0 {
            return Flow::Next;
        }
        let before = path.mask;
        path.mask &= !taken;
        path.pc = self.pc + 1;
        self.warp.part(self.pc, before);
        self.lanes_part();
        self.warp.paths.push(Path::new(target, taken));
        Flow::Rearranged
    }

    pub(super) fn branch_indexed(&mut self, index: &Src, targets: &[usize], mask: u32) -> Step {
        let col = self.get32(index);
        let mut bad = 0;
        let mut groups: Vec<(usize, u32)> = Vec::new();
        lanes::each(mask, |l| match targets.get(col[l] as usize) {
            None => bad |= 1 << l,
            Some(target) => match groups.iter_mut().find(|g| g.0 == *target) {
                Some(group) => group.1 |= 1 << l,
                None => groups.push((*target, 1 << l)),
            },
        });
        if bad != 0 {
            return Err(self.report(
                Class::OutOfBounds,
                bad,
                format!("brx.idx with an index beyond its table of {} targets", targets.len()),
            ));
        }
        let current = self.warp.current;
        let rest = self.warp.paths[current].mask & !mask;
        if rest == 0 && groups.len() == 1 {
            return Ok(Flow::Jump(groups[0].0));
        }
        self.warp.part(self.pc, rest | mask);
        self.lanes_part();
        self.warp.paths.remove(current);
        if rest != 0 {
            self.warp.paths.push(Path::new(self.pc + 1, rest));
        }
        self.warp.paths.extend(groups.into_iter().map(|(pc, mask)| Path::new(pc, mask)));
        Ok(Flow::Rearranged)
    }

    /// Ends the lanes of `mask`.
    pub(super) fn exit(&mut self, mask: u32) -> Step {
        if self.warp.live == mask {
            self.leaves_warpgroup(mask)?;
        }
        self.threads_end(mask);
        self.warp.live &= !mask;
        self.sys.progress += 1;
        let current = self.warp.current;
        self.warp.paths[current].mask &= !mask;
        self.warp.paths[current].pc = self.pc + 1;
        if self.warp.paths[current].mask == 0 {
            self.warp.paths.swap_remove(current);
        }
        // Those who waited for the lanes that left look again.
        for path in &mut self.warp.paths {
            if matches!(path.wait, Some(Wait::Lanes { .. } | Wait::WarpSync { .. })) {
                path.wait = None;
                path.resumed = true;
            }
        }
        // Barriers that expect every live thread expect fewer now.
        let live = self.live_threads();
        for id in 0..16 {
            self.block.settle_barrier(id, live);
        }
        self.settle_cluster();
        Ok(Flow::Rearranged)
    }

    /// Threads of the block that have not exited, this warp included.
    pub(super) fn live_threads(&self) -> u32 {
        self.block.live_threads() + self.warp.live.count_ones()
    }

    /// A poll: after a few without any change in the machine, others get a turn.
    pub(super) fn poll(&mut self, eager: bool) -> Flow {
        self.warp.polled_at = self.warp.clock;
        if self.sys.watch != 0 && self.warp.looks_differ(self.sys.watch, self.pc) {
            self.sys.counting = true;
        }
        if self.warp.poll_epoch == self.sys.progress {
            self.warp.polls = self.warp.polls.saturating_add(1);
        } else {
            self.warp.poll_epoch = self.sys.progress;
            self.warp.polls = 0;
        }
        if eager || self.warp.polls % POLLS == POLLS - 1 { Flow::Yield } else { Flow::Next }
    }

    /// Demands that the lanes of `need` that live stand here together. `Some`: wait for them.
    pub(super) fn converge(&mut self, need: u32, mask: u32, what: &str) -> Result<Option<Flow>, Box<Report>> {
        let need = need & self.warp.live;
        if need & !mask == 0 {
            return Ok(None);
        }
        let here = self.path().mask;
        if need & !here == 0 {
            return Err(self.partial(need, mask, what, "their guard predicate is false".into()));
        }
        // Lanes elsewhere that wait for us as we wait for them will never come.
        let current = self.warp.current;
        for (i, path) in self.warp.paths.iter().enumerate() {
            if i != current
                && path.mask & need != 0
                && let Some(Wait::Lanes { need: theirs } | Wait::WarpSync { mask: theirs }) = path.wait
                && theirs & here != 0
            {
                let other = format!("they wait at {}", self.describe(path.pc));
                return Err(self.partial(need, mask, what, other));
            }
        }
        Ok(Some(Flow::Park(Wait::Lanes { need })))
    }

    fn partial(&self, need: u32, mask: u32, what: &str, other: String) -> Box<Report> {
        let missing = crate::report::lane_list(need & !mask);
        let mut report = self.report(
            Class::PartialWarp,
            mask,
            format!("{what} is executed by part of the warp: lanes {missing} are missing"),
        );
        report.other = Some(format!("lanes {missing}: {other}"));
        report.hint = Some(
            "let the lanes reconverge before it (or give the member mask of those that execute it)".into(),
        );
        report
    }

    /// Lanes that have exited count as having been here, unless they went around it to where the ways meet again: whether they
    /// had exited by now is then a matter of luck. What all live lanes have come to, no parting lies before.
    fn left_out(&mut self, mask: u32, what: &str) -> Result<(), Box<Report>> {
        let gone = !self.warp.live;
        for (branch, parted) in std::mem::take(&mut self.warp.partings) {
            if parted & mask != 0 && parted & gone != 0 && self.program.leaves_out(branch, self.pc) {
                let other = format!("they parted at {}, and left without it", self.describe(branch));
                return Err(self.partial(mask | parted & gone, mask, what, other));
            }
        }
        Ok(())
    }

    /// An instruction that every live lane of the warp executes together.
    pub(super) fn whole_warp(&mut self, mask: u32, what: &str) -> Result<Option<Flow>, Box<Report>> {
        let flow = self.converge(u32::MAX, mask, what)?;
        if flow.is_none() {
            if !self.warp.partings.is_empty() {
                self.left_out(mask, what)?;
            }
            self.lanes_expected(mask);
            self.lanes_meet(mask);
        }
        Ok(flow)
    }
}
