//! Named barriers, warp barriers, the register pool, and the dependency between grids.
//!
//! An arrival counts whole warps as 32 threads, as the chip does; without a count a barrier expects every thread of the
//! block that has not exited.

use super::{Core, Flow, Step};
use crate::ir::{BarRedOp, PredSrc, Reg, Src};
use crate::machine::warp::Wait;
use crate::report::{Class, Report};

impl Core<'_> {
    /// Barrier number and thread count, checked.
    fn barrier_operands(
        &self,
        id: &Src,
        count: Option<&Src>,
        mask: u32,
    ) -> Result<(usize, Option<u32>), Box<Report>> {
        let (id, same_id) = self.uniform(id, mask);
        let (count, same_count) = match count {
            Some(count) => {
                let (count, same) = self.uniform(count, mask);
                (Some(count as u32), same)
            }
            None => (None, true),
        };
        if !same_id || !same_count {
            return Err(self.report(Class::Barrier, mask, "barrier number or count differs between lanes"));
        }
        if id > 15 {
            return Err(self.report(Class::Barrier, mask, format!("barrier {id}: there are 16, 0 to 15")));
        }
        if let Some(count) = count
            && (count == 0 || count % 32 != 0)
        {
            return Err(self.report(
                Class::Barrier,
                mask,
                format!("thread count {count} of barrier {id} is not a positive multiple of 32"),
            ));
        }
        let threads = self.block.warps.len() as u32 * 32;
        if let Some(count) = count
            && count > threads
        {
            return Err(self.report(
                Class::Barrier,
                mask,
                format!("barrier {id} expects {count} threads, the block has {threads}"),
            ));
        }
        Ok((id as usize, count))
    }

    /// Counts an arrival.
    fn arrive_at(
        &mut self,
        id: usize,
        count: Option<u32>,
        reduce: Option<u32>,
        mask: u32,
    ) -> Result<(), Box<Report>> {
        self.gate_arrive(id, mask);
        let live = self.live_threads();
        let lanes = mask.count_ones();
        let padded = if mask == self.warp.live { 32 } else { lanes };
        let (warp, pc) = (self.warp.index, self.pc);
        let barrier = &mut self.block.barriers[id];
        let before = barrier.arrived.iter().find(|(w, l, _)| *w == warp && l & mask != 0).copied();
        if let Some((_, lanes, at)) = before {
            let message =
                format!("arrival at barrier {id} by lanes that have arrived in its open phase already");
            let mut report = self.report(Class::Barrier, lanes & mask, message);
            report.other = Some(format!("warp {warp} arrived first at {}", self.describe(at)));
            report.hint = Some(
                "a thread must not come to a barrier again before the phase it arrived in has ended".into(),
            );
            return Err(report);
        }
        let problem = match barrier.expected {
            None => {
                barrier.expected = Some(count);
                barrier.first_pc = pc;
                barrier.reduction = (true, false, 0);
                barrier.red = reduce.is_some();
                None
            }
            Some(_) if barrier.red != reduce.is_some() => {
                Some(format!("bar.red meets bar.sync or bar.arrive in one phase of barrier {id}"))
            }
            Some(expected) if expected != count => {
                let say = |c: Option<u32>| c.map_or("every thread".into(), |c| format!("{c} threads"));
                Some(format!(
                    "barrier {id} is open for {}, this arrival expects {}",
                    say(expected),
                    say(count)
                ))
            }
            Some(Some(expected)) if barrier.padded + padded > expected => Some(format!(
                "{} threads arrive at barrier {id}, which is open for {expected}",
                barrier.padded + padded
            )),
            Some(_) => None,
        };
        let first = barrier.first_pc;
        if let Some(message) = problem {
            let mut report = self.report(Class::Barrier, mask, message);
            report.other = Some(format!("the open phase began at {}", self.describe(first)));
            return Err(report);
        }
        barrier.lanes += lanes;
        barrier.padded += padded;
        barrier.arrived.push((warp, mask, pc));
        if let Some(lanes_true) = reduce {
            barrier.reduction.0 &= lanes_true & mask == mask;
            barrier.reduction.1 |= lanes_true & mask != 0;
            barrier.reduction.2 += (lanes_true & mask).count_ones();
        }
        self.block.settle_barrier(id, live);
        self.sys.progress += 1;
        Ok(())
    }

    /// `bar.sync` and `bar.red`.
    pub(super) fn bar_sync(
        &mut self,
        id: &Src,
        count: Option<&Src>,
        aligned: bool,
        reduce: Option<(BarRedOp, Reg, PredSrc)>,
        mask: u32,
    ) -> Step {
        if let Some(phase) = self.path().arrived {
            let (number, _) = self.uniform(id, mask);
            let barrier = &self.block.barriers[number as usize & 15];
            if barrier.phase == phase {
                return Ok(Flow::Park(Wait::Barrier { id: number as u32, phase }));
            }
            self.gate_pass(number as usize, mask);
            let barrier = &self.block.barriers[number as usize & 15];
            if let Some((op, dst, _)) = reduce {
                let value = barrier.reduced(op) as u64;
                self.set(dst, &[value; 32], mask);
            }
            return Ok(Flow::Next);
        }
        if aligned && let Some(flow) = self.whole_warp(mask, "an .aligned barrier")? {
            return Ok(flow);
        }
        let (id, count) = self.barrier_operands(id, count, mask)?;
        let phase = self.block.barriers[id].phase;
        let reduced = reduce.map(|(_, _, pred)| self.pred(pred));
        self.arrive_at(id, count, reduced, mask)?;
        if self.block.barriers[id].phase != phase {
            self.gate_pass(id, mask);
            let barrier = &self.block.barriers[id];
            if let Some((op, dst, _)) = reduce {
                let value = barrier.reduced(op) as u64;
                self.set(dst, &[value; 32], mask);
            }
            return Ok(Flow::Next);
        }
        let current = self.warp.current;
        let path = &mut self.warp.paths[current];
        if path.mask != mask {
            // Lanes whose guard is false go on alone.
            path.mask &= !mask;
            path.pc = self.pc + 1;
            let mut waiting = crate::machine::warp::Path::new(self.pc, mask);
            waiting.arrived = Some(phase);
            waiting.resumed = true;
            waiting.wait = Some(Wait::Barrier { id: id as u32, phase });
            self.warp.paths.push(waiting);
            return Ok(Flow::Rearranged);
        }
        path.arrived = Some(phase);
        Ok(Flow::Park(Wait::Barrier { id: id as u32, phase }))
    }

    /// `bar.arrive`
    pub(super) fn bar_arrive(&mut self, id: &Src, count: &Src, aligned: bool, mask: u32) -> Step {
        if aligned && let Some(flow) = self.whole_warp(mask, "an .aligned barrier")? {
            return Ok(flow);
        }
        let (id, count) = self.barrier_operands(id, Some(count), mask)?;
        self.arrive_at(id, count, None, mask)?;
        Ok(Flow::Next)
    }

    /// `bar.warp.sync`: lanes may stand at different instructions.
    pub(super) fn bar_warp_sync(&mut self, members: &Src, mask: u32) -> Step {
        let (members, same) = self.uniform(members, mask);
        let members = members as u32;
        if !same || mask & !members != 0 {
            return Err(self.report(
                Class::PartialWarp,
                mask,
                format!("bar.warp.sync with member mask {members:#010x}, which must be the same in, and hold, every executing lane"),
            ));
        }
        let current = self.warp.current;
        let matches = |p: &crate::machine::warp::Path| p.wait == Some(Wait::WarpSync { mask: members });
        let gathered = self.warp.paths.iter().filter(|p| matches(p)).fold(mask, |m, p| m | p.mask);
        if members & self.warp.live & !gathered != 0 {
            if self.path().mask != mask {
                let lanes = crate::report::lane_list(self.path().mask & !mask);
                return Err(self.report(
                    Class::PartialWarp,
                    mask,
                    format!("bar.warp.sync waits for lanes {lanes}, whose guard predicate is false here"),
                ));
            }
            return Ok(Flow::Park(Wait::WarpSync { mask: members }));
        }
        for (i, path) in self.warp.paths.iter_mut().enumerate() {
            if i != current && matches(path) {
                path.wait = None;
                path.pc += 1;
                path.resumed = false;
            }
        }
        self.lanes_meet(gathered);
        Ok(Flow::Next)
    }

    /// `setmaxnreg`
    pub(super) fn setmaxnreg(&mut self, count: u32, inc: bool, mask: u32) -> Step {
        if let Some(flow) = self.whole_warp(mask, "setmaxnreg")? {
            return Ok(flow);
        }
        let held = self.warp.registers;
        if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
            return Err(self.report(
                Class::Registers,
                mask,
                format!("setmaxnreg to {count}: it must be a multiple of 8 from 24 to 256"),
            ));
        }
        let number = self.warp.setmaxnreg.0;
        if !self.path().resumed {
            self.check_setmaxnreg(number, mask)?;
        }
        let wrong = if inc { count < held } else { count > held };
        if wrong {
            let (what, than) = if inc { ("inc", "fewer") } else { ("dec", "more") };
            return Err(self.report(
                Class::Registers,
                mask,
                format!("setmaxnreg.{what} to {count}, {than} than the {held} registers this warp holds"),
            ));
        }
        if inc {
            let needed = (count - held) * 32;
            if self.block.free_registers < needed {
                return Ok(Flow::Park(Wait::Registers { count }));
            }
            self.block.free_registers -= needed;
        } else {
            self.block.free_registers += (held - count) * 32;
        }
        self.warp.registers = count;
        self.registers_moved(inc, mask);
        self.warp.setmaxnreg = (number + 1, self.pc);
        self.sys.progress += 1;
        Ok(Flow::Next)
    }

    /// The n-th `setmaxnreg` of every warp of a warpgroup is the same instruction.
    fn check_setmaxnreg(&self, number: u64, mask: u32) -> Result<(), Box<Report>> {
        let group = self.warp.index / 4;
        for (index, other) in self.block.warps.iter().enumerate() {
            // This warp's own place is empty while it runs.
            if index as u32 / 4 != group || index as u32 == self.warp.index {
                continue;
            }
            let (done, pc) = other.setmaxnreg;
            let differs = done == number + 1 && pc != self.pc;
            let left = other.done() && done <= number;
            if differs || left {
                let what = if differs {
                    format!("warp {} executed {}", other.index, self.describe(pc))
                } else {
                    format!("warp {} has exited", other.index)
                };
                let mut report = self.report(
                    Class::PartialWarpgroup,
                    mask,
                    "setmaxnreg is not executed by all four warps of the warpgroup",
                );
                report.other = Some(what);
                return Err(report);
            }
        }
        self.registers_met(mask)
    }

    /// `griddepcontrol`
    pub(super) fn griddepcontrol(&mut self, launch: bool, mask: u32) -> Flow {
        if launch {
            self.block.released_dependents = true;
            self.sys.progress += 1;
            return Flow::Next;
        }
        if !self.sys.prerequisites_done(self.block.grid) {
            return Flow::Park(Wait::Grid);
        }
        self.grids_before_ended(mask);
        Flow::Next
    }
}
