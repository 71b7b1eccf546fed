//! Mbarriers: who knows that they are there, what an arrival tells, and phases that end too early.

use super::clock::{Kind, agent};
use super::shadow::{Entry, threads};
use super::sync::{OFFSET_MASK, check_of};
use crate::exec::Core;
use crate::machine::block::{Block, Origin};
use crate::memory::RANK_SHIFT;
use crate::report::{Class, Report};

impl Core<'_> {
    /// `mbarrier.init`: the object comes to life.
    pub(crate) fn mbar_created(&mut self, shared: u32, lane: u32) -> Result<(), Box<Report>> {
        let id = match &self.block.check {
            Some(check) => check.id,
            None => return Ok(()),
        };
        self.touch_lane(false, shared as u64, 8, lane, true, 0)?;
        let init = Entry {
            agent: threads(id, self.warp.index),
            epoch: self.warp.check.epoch,
            mask: 1 << lane,
            info: self.pc as u32,
        };
        self.warp.check.dirty = true;
        if let Some(check) = check_of(self.block, self.others, shared) {
            let number = check.mbarriers.len() as u32;
            let mbar = check.mbarriers.entry(shared & OFFSET_MASK).or_default();
            if mbar.init.is_none() {
                mbar.number = number;
            } else if !mbar.fenced {
                check.unfenced -= 1;
            }
            let (number, phase) = (mbar.number, mbar.phase);
            *mbar = super::Mbar { number, phase, born: phase, init: Some(init), ..super::Mbar::default() };
            check.unfenced += 1;
            check.shadow.mbarrier((shared & OFFSET_MASK) as u64, true);
        }
        Ok(())
    }

    /// `mbarrier.inval`: the bytes are ordinary again.
    pub(crate) fn mbar_ended(&mut self, shared: u32) {
        if let Some(check) = check_of(self.block, self.others, shared) {
            check.shadow.mbarrier((shared & OFFSET_MASK) as u64, false);
        }
    }

    /// Whoever uses an mbarrier must know that it was initialised.
    pub(crate) fn mbar_known(
        &mut self,
        shared: u32,
        lanes: u32,
        asynchronous: bool,
    ) -> Result<(), Box<Report>> {
        let Some(own) = self.block.check.as_ref().map(|c| threads(c.id, self.warp.index)) else {
            return Ok(());
        };
        let letter = self.sys.config.checks.letter;
        let Some(check) = check_of(self.block, self.others, shared) else { return Ok(()) };
        let Some(mbar) = check.mbarriers.get(&(shared & OFFSET_MASK)) else { return Ok(()) };
        let Some(init) = mbar.init else { return Ok(()) };
        let mine = init.agent == own && init.mask == lanes;
        let users = || self.warp.check.strands.iter().filter(|s| s.mask & lanes != 0);
        let known = mine || users().all(|s| s.know.seen.missing(init.agent, init.mask, init.epoch) == 0);
        let ordered = known || users().all(|s| s.know.unordered(init.agent, init.mask, init.epoch) == 0);
        let unfenced = asynchronous && letter && !mbar.fenced;
        let trusting = letter && !known;
        if ordered && !unfenced && !trusting {
            return Ok(());
        }
        let other = self.party(init);
        let (class, message, hint) = if ordered && trusting {
            (
                Class::Race,
                format!(
                    "that the mbarrier at {shared:#x} was initialised, this thread knows by a shuffle or a volatile access alone, which order no memory"
                ),
                "bar.warp.sync, or a barrier, between mbarrier.init and every use by other threads",
            )
        } else if ordered {
            (
                Class::ProxyFence,
                format!(
                    "an asynchronous copy completes on the mbarrier at {shared:#x}, whose initialisation no fence has shown to the asynchronous proxy"
                ),
                "fence.proxy.async (in a cluster fence.mbarrier_init.release.cluster) after mbarrier.init, then a barrier",
            )
        } else {
            (
                Class::Race,
                format!("the mbarrier at {shared:#x} is used without knowing that it was initialised"),
                "a barrier between mbarrier.init and every use by other threads",
            )
        };
        let mut report = self.report(class, lanes, message);
        report.address = Some(shared as u64);
        report.other = Some(format!("initialised by {other}"));
        report.hint = Some(hint.into());
        if ordered {
            // Triton's kernels do without the fence. Once is enough.
            if unfenced
                && let Some(check) = check_of(self.block, self.others, shared)
                && let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK))
                && !mbar.fenced
            {
                mbar.fenced = true;
                check.unfenced -= 1;
            }
            self.sys.advise(report);
            return Ok(());
        }
        Err(report)
    }

    /// An arrival: somebody must have waited for the phase before, and the arrival must come after that wait.
    pub(crate) fn mbar_arrives(&mut self, shared: u32, lanes: u32) -> Result<(), Box<Report>> {
        let Some(own) = self.block.check.as_ref().map(|c| threads(c.id, self.warp.index)) else {
            return Ok(());
        };
        // The arrival itself is something that a peer's end has to know of.
        let remote = shared >> RANK_SHIFT != self.block.rank;
        self.warp.check.dirty |= remote;
        let entry = Entry { agent: own, epoch: self.warp.check.epoch, mask: lanes, info: self.pc as u32 };
        let Some(check) = check_of(self.block, self.others, shared) else { return Ok(()) };
        let id = check.id;
        let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK)) else { return Ok(()) };
        if remote {
            mbar.remote.retain(|e| e.agent != entry.agent || e.mask & !lanes != 0);
            mbar.remote.push(entry);
        }
        let phase = mbar.phase - mbar.born;
        if phase == 0 {
            return Ok(());
        }
        // Multicast copies tell nothing of what their issuer knew: of a peer's mbarrier the wait must merely have been.
        let waited = if remote {
            mbar.observed
        } else {
            let end = agent(id, Kind::Mbarrier, mbar.number);
            let mut here = self.warp.check.strands.iter().filter(|s| s.mask & lanes != 0);
            here.all(|s| s.know.seen.missing(end, 1, mbar.phase) == 0)
        };
        if waited {
            return Ok(());
        }
        let ended_by = mbar.ended_by;
        let message = format!(
            "arrival in phase {phase} of the mbarrier at {shared:#x}, not ordered after any wait for phase {}: whoever waits by parity may miss that phase",
            phase - 1
        );
        let mut report = self.report(Class::Mbarrier, lanes, message);
        report.address = Some(shared as u64);
        report.other = Some(format!("phase {} was completed by {}", phase - 1, self.party(ended_by)));
        report.hint = Some("wait for each phase of an mbarrier before arriving in the next".into());
        Err(report)
    }

    /// A wait for an mbarrier has returned false.
    pub(crate) fn mbar_tried(&mut self, offset: u32) {
        self.warp.check.tried = Some((self.pc, offset));
    }

    /// An arrival with release semantics, about to be counted.
    pub(crate) fn mbar_tell(&mut self, shared: u32, lanes: u32) {
        let Some(id) = self.block.check.as_ref().map(|c| c.id) else { return };
        if let Some(check) = check_of(self.block, self.others, shared)
            && let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK))
        {
            self.warp.check.tell(id, self.warp.index, lanes, &mut mbar.arriving);
        }
    }

    /// Bytes are expected.
    pub(crate) fn mbar_expects(&mut self, shared: u32, lanes: u32) {
        let origin = self.origin(lanes);
        if let Some(check) = check_of(self.block, self.others, shared)
            && let Some(mbar) = check.mbarriers.get_mut(&(shared & OFFSET_MASK))
        {
            mbar.expected = Some(origin);
        }
    }

    /// Lanes have seen a phase of an mbarrier of this block complete.
    pub(crate) fn mbar_learn(&mut self, offset: u32, lanes: u32) {
        if let Some(check) = &mut self.block.check
            && let Some(mbar) = check.mbarriers.get_mut(&offset)
        {
            mbar.observed = true;
            self.warp.check.learn(lanes, &mbar.completed);
            self.warp.check.tried.take_if(|(_, at)| *at == offset);
        }
    }

    /// A phase of an mbarrier may have ended: tells it on, and convicts a phase that ended before its copies landed.
    pub(crate) fn mbar_changed(
        &mut self,
        shared: u32,
        origin: Origin,
        flipped: bool,
    ) -> Result<(), Box<Report>> {
        let Some(own) = self.block.check.as_ref().filter(|_| flipped).map(|c| c.id) else { return Ok(()) };
        let Some(check) = check_of(self.block, self.others, shared) else { return Ok(()) };
        match check.phase_complete(shared & OFFSET_MASK, by(own, origin)) {
            Some((copy, bytes)) if self.sys.config.checks.transactions => {
                let at = self.describe(copy.pc);
                let mut report = self.report(Class::Mbarrier, 0, ended_early(shared, bytes));
                report.address = Some(shared as u64);
                report.other = Some(format!("the copy of warp {} at {at}", copy.warp));
                report.hint = Some(EXPECT.into());
                Err(report)
            }
            _ => Ok(()),
        }
    }
}

/// Who did something in a block.
pub(super) fn by(block: u32, origin: Origin) -> Entry {
    Entry { agent: threads(block, origin.warp), epoch: 0, mask: origin.lanes, info: origin.pc as u32 }
}

const EXPECT: &str = "expect_tx must count every byte of the phase's copies (whole boxes, filled elements included) before the last arrival";

/// The finding for a phase that ended before its copies.
pub(crate) fn ended_early(shared: u32, bytes: u32) -> String {
    format!(
        "the phase of the mbarrier at {shared:#x} ends although a copy of {bytes} bytes issued in it has not landed: too few bytes were expected"
    )
}

/// The other half of [`Core::mbar_changed`], for completions that happen outside any instruction.
pub(crate) fn completed_outside(
    sys: &crate::machine::system::System,
    block: &mut Block,
    offset: u32,
    origin: Origin,
) -> Result<(), Box<Report>> {
    let Some(check) = block.check.as_deref_mut() else { return Ok(()) };
    match check.phase_complete(offset, by(check.id, origin)) {
        Some((copy, bytes)) if sys.config.checks.transactions => {
            let mut report = sys.report(block, Class::Mbarrier, copy, ended_early(offset, bytes));
            report.address = Some(offset as u64);
            report.other =
                Some(format!("the phase was completed by {}", sys.describe(&block.program, origin.pc)));
            report.hint = Some(EXPECT.into());
            Err(report)
        }
        _ => Ok(()),
    }
}
