//! Instructions on mbarriers. The object is its eight bytes in shared memory; the state machine is
//! [`crate::mbarrier::Mbarrier`].
//!
//! A failed `try_wait` suspends the lanes until the phase ends, as the chip does for a while; when nothing else in the
//! machine can move it returns false, so that code which counts its tries sees time pass.

use super::{Core, Flow, Step, lanes};
use crate::ir::{Addr, MbarArrive, MbarWait, Reg, Space, Src};
use crate::machine::block::Origin;
use crate::machine::warp::Wait;
use crate::machine::{Completion, Schedule};
use crate::mbarrier::{MbarError, Mbarrier};
use crate::memory::{RANK_SHIFT, Trouble};
use crate::report::{Class, Report};

impl Core<'_> {
    /// The finding for a misused mbarrier.
    #[cold]
    fn mbar_report(&self, shared: u32, origin: Origin, error: MbarError) -> Box<Report> {
        let mut report = self.report_at(Class::Mbarrier, origin, format!("mbarrier at {shared:#x}: {error}"));
        report.address = Some(shared as u64);
        report.hint = Some(
            match error {
                MbarError::NotInitialised { .. } => {
                    "mbarrier.init it first, and let everyone see that before use"
                }
                MbarError::TooManyArrivals { .. } => {
                    "compare the count given to mbarrier.init with who arrives"
                }
                MbarError::TxRange { .. } => "expect exactly the bytes that the copies of this phase bring",
                _ => "see the rules of the mbarrier object in the PTX manual",
            }
            .into(),
        );
        report
    }

    /// Changes an mbarrier of this block or of a peer.
    pub(super) fn mbar_update<T>(
        &mut self,
        shared: u32,
        origin: Origin,
        change: impl FnOnce(&mut Mbarrier) -> Result<T, MbarError>,
    ) -> Result<T, Box<Report>> {
        let offset = shared & ((1 << RANK_SHIFT) - 1);
        self.mbar_aligned(shared, origin)?;
        let word = self.shared_of(shared).ok_or(Trouble::OutOfBounds).and_then(|m| m.word64(offset));
        let Ok(word) = word else { return Err(self.mbar_outside(shared, origin)) };
        let before = Mbarrier(word);
        let mut mbarrier = before;
        let result = change(&mut mbarrier).map_err(|e| self.mbar_report(shared, origin, e))?;
        if let Some(memory) = self.shared_of_mut(shared) {
            // Cannot fail: the same eight bytes were just read.
            let _ = memory.set_word64(offset, mbarrier.0);
        }
        self.sys.progress += 1;
        if self.checking() {
            let both = before.is_valid() && mbarrier.is_valid();
            self.mbar_changed(shared, origin, both && before.phase() != mbarrier.phase())?;
        }
        Ok(result)
    }

    fn mbar_aligned(&self, shared: u32, origin: Origin) -> Result<(), Box<Report>> {
        if shared.is_multiple_of(8) {
            return Ok(());
        }
        let mut report = self.report_at(
            Class::Misaligned,
            origin,
            format!("mbarrier at {shared:#x}, which is not a multiple of 8"),
        );
        report.address = Some(shared as u64);
        Err(report)
    }

    fn mbar_outside(&self, shared: u32, origin: Origin) -> Box<Report> {
        let mut report = self.report_at(
            Class::OutOfBounds,
            origin,
            format!("mbarrier at {shared:#x}, outside shared memory"),
        );
        report.address = Some(shared as u64);
        self.explain(&mut report, super::address::Place::Shared, shared as u64, Trouble::OutOfBounds);
        report
    }

    /// Changes one mbarrier per active lane, lowest lane first.
    fn each_mbar<T>(
        &mut self,
        addr: &Addr,
        space: Space,
        mask: u32,
        mut change: impl FnMut(usize, &mut Mbarrier) -> Result<T, MbarError>,
        mut result: impl FnMut(usize, T),
    ) -> Result<(), Box<Report>> {
        let at = self.shared_addresses(addr, space, mask, "an mbarrier")?;
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let origin = self.origin(1 << l);
            let value = self.mbar_update(at[l], origin, |m| change(l, m))?;
            result(l, value);
        }
        Ok(())
    }

    pub(super) fn mbar_init(&mut self, addr: &Addr, space: Space, count: &Src, mask: u32) -> Step {
        let counts = self.get32(count);
        if self.checking() {
            let at = self.shared_addresses(addr, space, mask, "an mbarrier")?;
            let mut rest = mask;
            while rest != 0 {
                let l = rest.trailing_zeros();
                rest &= rest - 1;
                self.mbar_created(at[l as usize], l)?;
            }
        }
        self.each_mbar(
            addr,
            space,
            mask,
            |l, m| {
                *m = Mbarrier::init(counts[l])?;
                Ok(())
            },
            |_, ()| {},
        )?;
        Ok(Flow::Next)
    }

    pub(super) fn mbar_inval(&mut self, addr: &Addr, space: Space, mask: u32) -> Step {
        if self.checking() {
            let at = self.shared_addresses(addr, space, mask, "an mbarrier")?;
            lanes::each(mask, |l| self.mbar_ended(at[l]));
        }
        self.each_mbar(
            addr,
            space,
            mask,
            |_, m| {
                if !m.is_valid() {
                    return Err(MbarError::NotInitialised { word: m.0 });
                }
                *m = Mbarrier::invalidated();
                Ok(())
            },
            |_, ()| {},
        )?;
        Ok(Flow::Next)
    }

    pub(super) fn mbar_tx(
        &mut self,
        addr: &Addr,
        space: Space,
        bytes: &Src,
        complete: bool,
        mask: u32,
    ) -> Step {
        let bytes = self.get32(bytes);
        self.mbar_used(addr, space, (false, false, !complete), mask)?;
        self.each_mbar(
            addr,
            space,
            mask,
            |l, m| if complete { m.complete_tx(bytes[l]) } else { m.expect_tx(bytes[l]) },
            |_, ()| {},
        )?;
        Ok(Flow::Next)
    }

    /// Tells the happens-before checker of an arrival or an expectation.
    fn mbar_used(
        &mut self,
        addr: &Addr,
        space: Space,
        (arrives, releases, expects): (bool, bool, bool),
        mask: u32,
    ) -> Result<(), Box<Report>> {
        if !self.checking() {
            return Ok(());
        }
        let at = self.shared_addresses(addr, space, mask, "an mbarrier")?;
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            let mut same = 0u32;
            lanes::each(rest, |k| same |= ((at[k] == at[l]) as u32) << k);
            rest &= !same;
            self.mbar_known(at[l], same, false)?;
            if arrives {
                self.mbar_arrives(at[l], same)?;
            }
            if expects {
                self.mbar_expects(at[l], same);
            }
            if releases {
                self.mbar_tell(at[l], same);
            }
        }
        Ok(())
    }

    pub(super) fn mbar_arrive(&mut self, arrive: &MbarArrive, mask: u32) -> Step {
        let counts = self.get32(&arrive.count);
        let bytes = arrive.expect_tx.as_ref().map(|b| self.get32(b));
        let mut states = [0u64; 32];
        let releases = arrive.sem != crate::ir::Semantics::Relaxed;
        self.mbar_used(&arrive.addr, arrive.space, (true, releases, bytes.is_some()), mask)?;
        self.each_mbar(
            &arrive.addr,
            arrive.space,
            mask,
            |l, m| {
                let before = m.0;
                if let Some(bytes) = &bytes {
                    m.expect_tx(bytes[l])?;
                }
                match (arrive.no_complete, arrive.drop) {
                    (true, drop) => m.arrive_no_complete(counts[l], drop)?,
                    (false, true) => m.arrive_drop(counts[l])?,
                    (false, false) => m.arrive(counts[l])?,
                };
                Ok(before)
            },
            |l, state| states[l] = state,
        )?;
        if let Some(dst) = arrive.state {
            match dst {
                Reg::B64(r) => self.set64(r, &states, mask),
                _ => return Err(self.unsupported(mask)),
            }
        }
        Ok(Flow::Next)
    }

    /// Has the phase of an mbarrier of this block ended? Lands copies that it waits for, as far as the policy lets them.
    pub(super) fn mbar_test(
        &mut self,
        offset: u32,
        phase: u64,
        parity: bool,
        origin: Origin,
    ) -> Result<bool, Box<Report>> {
        let test = |core: &Self| -> Result<bool, Box<Report>> {
            let shared = core.own_rank_bits() | offset;
            let Ok(word) = core.block.shared.word64(offset) else {
                return Err(core.mbar_outside(shared, origin));
            };
            let m = Mbarrier(word);
            if !m.is_valid() {
                return Err(core.mbar_report(shared, origin, MbarError::NotInitialised { word }));
            }
            Ok(if parity { m.test_parity(phase as u32) } else { m.test_state(phase) })
        };
        if test(self)? {
            return Ok(true);
        }
        if self.sys.config.completion == Completion::Random && self.sys.rng.below(4) != 0 {
            return Ok(false);
        }
        while self.land_one_for(offset)? {
            if test(self)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn mbar_wait(&mut self, wait: &MbarWait, mask: u32) -> Step {
        let at = self.shared_addresses(&wait.addr, wait.space, mask, "an mbarrier that is waited for")?;
        let phases = self.get64(&wait.phase);
        let first = mask.trailing_zeros() as usize & 31;
        let mut same = true;
        lanes::each(mask, |l| same &= at[l] == at[first] && phases[l] == phases[first]);
        let origin = self.origin(mask);
        if !same {
            let mut done = 0;
            let mut rest = mask;
            while rest != 0 {
                let l = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                self.mbar_aligned(at[l], origin)?;
                let offset = self.own_offset(at[l], 1 << l, "an mbarrier that is waited for")?;
                self.mbar_known(at[l], 1 << l, false)?;
                if self.mbar_test(offset, phases[l], wait.parity, origin)? {
                    done |= 1 << l;
                    self.mbar_learn(offset, 1 << l);
                }
            }
            self.set_pred(wait.dst, done, mask);
            if done != mask {
                self.mbar_tried(at[first] & ((1 << RANK_SHIFT) - 1));
            }
            return Ok(if done == mask { Flow::Next } else { self.poll(true) });
        }
        self.mbar_aligned(at[first], origin)?;
        let offset = self.own_offset(at[first], mask, "an mbarrier that is waited for")?;
        let phase = phases[first];
        self.mbar_known(at[first], mask, false)?;
        // A random schedule lets some tries fail for no reason, as the manual allows.
        let spurious = wait.try_wait
            && self.sys.config.schedule != Schedule::RoundRobin
            && !self.path().resumed
            && self.sys.rng.below(16) == 0;
        if !spurious && self.mbar_test(offset, phase, wait.parity, origin)? {
            self.mbar_learn(offset, mask);
            self.set_pred(wait.dst, u32::MAX, mask);
            return Ok(Flow::Next);
        }
        if wait.try_wait && !spurious && !self.sys.time_out && self.path().mask == mask {
            return Ok(Flow::Park(Wait::Mbarrier { offset, phase, parity: wait.parity }));
        }
        self.set_pred(wait.dst, 0, mask);
        self.mbar_tried(offset);
        Ok(if spurious { Flow::Next } else { self.poll(true) })
    }
}
