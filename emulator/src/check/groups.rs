//! What is waited for in groups (`cp.async`, bulk stores, `wgmma`), registers that move, and what is left when threads and blocks end.

use super::BlockCheck;
use super::clock::{Kind, Know, agent, block_of};
use super::mbarriers::by;
use super::shadow::{Entry, threads};
use super::sync::OFFSET_MASK;
use super::sync::check_of;
use crate::exec::{Core, lanes};
use crate::machine::block::Block;
use crate::memory::RANK_SHIFT;
use crate::report::{Class, Report};

impl Core<'_> {
    /// The agent and moment of this instruction's `cp.async`s.
    pub(crate) fn cp_commit(&mut self, mask: u32) {
        if self.checking() {
            let warp = &mut self.warp.check;
            warp.cp_commits.push((mask, warp.cp_epoch));
            warp.cp_epoch += 1;
        }
    }

    /// `cp.async.wait_group n`, `wait_all`.
    pub(crate) fn cp_learn(&mut self, groups: Option<u32>, mask: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        let who = agent(id, Kind::CpAsync, self.warp.index * 32);
        let warp = &mut self.warp.check;
        let mut moments = [0u32; 32];
        let mut last = 0;
        match groups {
            None => {
                moments = [warp.cp_epoch; 32];
                warp.cp_epoch += 1;
                warp.cp_commits.clear();
            }
            Some(n) => lanes::each(mask, |l| {
                let mine = warp.cp_commits.iter().rev().filter(|(m, _)| m >> l & 1 == 1);
                moments[l] = mine.skip(n as usize).map(|(_, at)| *at).next().unwrap_or(0);
            }),
        }
        let mut know = Know::default();
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            let same =
                (l..32).fold(0, |m, k| m | ((rest >> k & 1 == 1 && moments[k] == moments[l]) as u32) << k);
            rest &= !same;
            last = last.max(moments[l]);
            know.seen.raise(who, same, warp.whole, moments[l]);
        }
        warp.learn(mask, &know);
        if groups.is_some() && warp.cp_commits.len() > 64 {
            warp.cp_commits.drain(..32);
        }
    }

    /// `cp.async.mbarrier.arrive`: the mbarrier will tell of the `cp.async`s before it.
    pub(crate) fn cp_tell(&mut self, shared: u32, lanes: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        let who = agent(id, Kind::CpAsync, self.warp.index * 32);
        let (moment, whole) = (self.warp.check.cp_epoch, self.warp.check.whole);
        if let Some(check) = check_of(self.block, self.others, shared)
            && let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK))
        {
            mbar.arriving.seen.raise(who, lanes, whole, moment);
        }
    }

    /// The `cp.async`s before this are told of; later ones are not.
    pub(crate) fn cp_close(&mut self) {
        self.warp.check.cp_epoch += 1;
    }

    /// `cp.async.bulk.commit_group`
    pub(crate) fn bulk_commits(&mut self, mask: u32) {
        self.warp.check.bulk_fresh &= !mask;
    }

    /// `cp.async.bulk.wait_group[.read]`: groups before `open - groups` are done.
    pub(crate) fn bulk_learn(&mut self, groups: u32, read: bool, mask: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        let open = self.warp.bulk_group;
        if groups == 0 {
            self.warp.check.bulk_open &= !mask | self.warp.check.bulk_fresh;
        }
        let mut know = Know::default();
        lanes::each(mask, |l| {
            let done = open[l].saturating_sub(groups);
            if done > 0 {
                know.seen.raise(agent(id, Kind::BulkRead, self.warp.index * 32), 1 << l, 0, done);
                if !read {
                    know.seen.raise(agent(id, Kind::BulkWrite, self.warp.index * 32), 1 << l, 0, done);
                }
            }
        });
        self.warp.check.learn(mask, &know);
    }

    /// Threads exit: nothing of theirs should be left unwaited for.
    pub(crate) fn threads_end(&mut self, mask: u32) {
        let origin = self.origin(mask);
        if let Some(check) = &mut self.block.check {
            check.end = Some(origin);
            for strand in self.warp.check.strands.iter().filter(|s| s.mask & mask != 0) {
                check.ended.join(&strand.know);
            }
        }
        let stores = self.warp.check.bulk_open & mask;
        let copies = self.cp_unknown(mask);
        if copies | stores == 0 {
            return;
        }
        let (lanes, what, pc, hint) = if stores != 0 {
            let hint = "cp.async.bulk.wait_group 0 before the end: the chip waits by itself, the manual does not promise it";
            (stores, "bulk stores", self.warp.check.bulk_pc, hint)
        } else {
            let hint =
                "cp.async.wait_all before the end: the chip waits by itself, the manual does not promise it";
            (copies, "cp.asyncs", self.warp.check.cp_pc, hint)
        };
        self.advise(Class::Lifetime, lanes, |core| {
            let last = format!("the last was issued by warp {} at {}", core.warp.index, core.describe(pc));
            (format!("threads exit without having waited for their {what}"), Some(last), hint)
        });
    }

    /// Lanes that do not know that their last `cp.async` is done.
    fn cp_unknown(&self, mask: u32) -> u32 {
        let warp = &self.warp.check;
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return 0 };
        let who = agent(id, Kind::CpAsync, self.warp.index * 32);
        let mut unknown = 0;
        lanes::each(warp.cp_open & mask, |l| {
            let strand = warp.strands.iter().find(|s| s.mask >> l & 1 == 1);
            let lane = 1 << l;
            let known = strand.is_some_and(|s| s.know.seen.missing(who, lane, warp.cp_last[l]) == 0);
            unknown |= if known { 0 } else { lane };
        });
        unknown
    }

    /// `setmaxnreg` was executed.
    pub(crate) fn registers_moved(&mut self, inc: bool, mask: u32) {
        let origin = self.origin(mask);
        let epoch = self.warp.check.epoch;
        let Some(check) = &mut self.block.check else { return };
        self.warp.check.dirty = true;
        check.registers_taken |= inc;
        if !inc {
            check.registers_given.get_or_insert(origin);
        }
        let entry = Entry { epoch, ..by(check.id, origin) };
        let number = self.warp.setmaxnreg.0;
        // Other warps may be one behind.
        check.registers_moved.retain(|(n, e)| e.agent != entry.agent || n + 1 >= number);
        check.registers_moved.push((number, entry));
    }

    /// Another `setmaxnreg`: the warps of the warpgroup must have met since the last.
    pub(crate) fn registers_met(&self, mask: u32) -> Result<(), Box<Report>> {
        let Some(check) = &self.block.check else { return Ok(()) };
        let Some(number) = self.warp.setmaxnreg.0.checked_sub(1) else { return Ok(()) };
        let group = self.warp.index / 4 * 4;
        let known = |e: &Entry| {
            self.warp.check.strands.iter().all(|s| s.know.seen.missing(e.agent, e.mask, e.epoch) == 0)
        };
        for peer in (group..group + 4).filter(|w| *w != self.warp.index) {
            let mut before = check.registers_moved.iter();
            let before = before.find(|(n, e)| *n == number && e.agent == threads(check.id, peer));
            let before = before.map(|(_, e)| e);
            if before.is_some_and(known) {
                continue;
            }
            let other = match before {
                Some(e) => format!("the setmaxnreg of {}", self.party(*e)),
                None => format!("warp {peer}, which has executed none"),
            };
            let message =
                "a second setmaxnreg although the warps of the warpgroup have not met since the first";
            let mut report = self.report(Class::Registers, mask, message);
            report.other = Some(other);
            report.hint = Some("a barrier of the warpgroup's four warps between two setmaxnreg".into());
            return Err(report);
        }
        Ok(())
    }

    /// `wgmma.wait_group`: this warp's share of operations before a sequence number is done. The manual promises no more; that the other
    /// warps' shares are done as well is taken on trust, as shipping kernels take it that let one thread of a warpgroup arrive for all.
    pub(crate) fn wgmma_learn(&mut self, before: u64, mask: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        let mut know = Know::default();
        let own = self.warp.index;
        for warp in own / 4 * 4..own / 4 * 4 + 4 {
            let clock = if warp == own { &mut know.seen } else { &mut know.trusted };
            clock.raise(agent(id, Kind::Wgmma, warp), 0, 1, before as u32);
        }
        self.warp.check.learn(mask, &know);
    }
}

/// A block ends: what others did to its shared memory, copies included, must be known to one of its threads, or it may still
/// happen. The finding for the first that is not.
pub(crate) fn left_behind(
    sys: &crate::machine::system::System,
    block: &Block,
    check: &BlockCheck,
) -> Option<Box<Report>> {
    let missing = |e: &Entry| check.ended.unordered(e.agent, e.mask.max(1), e.epoch) != 0;
    let copy = |e: &Entry| super::clock::inner_of(e.agent).0 == Kind::Mbarrier as u32;
    let arrival = check.mbarriers.iter().find_map(|(offset, mbar)| {
        let entry = mbar.remote.iter().find(|e| missing(e))?;
        Some((*offset as u64, "an arrival at its mbarrier", *entry))
    });
    let access = || {
        let read = |e: &Entry| check.read.missing(e.agent, e.mask.max(1), e.epoch) == 0;
        let foreign = |write: bool, e: &Entry| {
            (block_of(e.agent) != check.id || copy(e)) && missing(e) && (write || !read(e))
        };
        if block.peers.len() == 1 && check.mbarriers.is_empty() {
            return None;
        }
        let (at, write, entry) = check.shadow.find(foreign)?;
        let what = match (copy(&entry), write) {
            (true, true) => "a copy into its shared memory",
            (true, false) => "a copy out of its shared memory",
            (false, true) => "a write to its shared memory",
            (false, false) => "a read of its shared memory",
        };
        Some((at, what, entry))
    };
    let (at, what, entry) = arrival.or_else(access)?;
    let info = sys.check.blocks.get(block_of(entry.agent) as usize)?;
    let [x, y, z] = info.ctaid;
    let line = sys.describe(&info.program, entry.pc());
    let message = format!("the block may end before {what}: none of its threads has waited for that");
    let mut report = sys.report(block, Class::Lifetime, check.end?, message);
    report.address = Some((block.rank << RANK_SHIFT) as u64 | at);
    report.other = Some(format!("block ({x},{y},{z}) {} at {line}", super::shadow::describe(entry)));
    report.hint = Some(
        if copy(&entry) {
            "wait for the mbarrier of every copy before the last thread exits"
        } else {
            "a cluster barrier at the end, or a wait for the mbarrier that the peer arrives on"
        }
        .into(),
    );
    Some(report)
}
