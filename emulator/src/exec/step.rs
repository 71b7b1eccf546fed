//! Running a warp: choosing its path, checking registers, executing, counting, until it has to wait or give way.

use super::quick::Quick;
use super::{Core, Flow, Out};
use crate::machine::warp::Wait;
use crate::machine::{InstructionClass, Schedule};
use crate::report::{Class, Report};

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its turn is over, in the middle of its work.
    Quantum,
    /// It polls.
    Yield,
    /// Every path waits.
    Blocked,
    /// Every lane has exited.
    Exited,
}

/// What one turn adds to the counters.
#[derive(Default)]
struct Tally {
    threads: u64,
    by_class: [u64; InstructionClass::ALL.len()],
}

impl Core<'_> {
    /// Runs the warp for at most `budget` instructions.
    pub(crate) fn run(&mut self, budget: u32) -> Result<Stop, Box<Report>> {
        let mut tally = Tally::default();
        let outcome = self.run_counted(budget, &mut tally);
        let counters = &mut self.sys.counters[self.block.device];
        counters.thread_instructions += tally.threads;
        for (total, new) in counters.by_class.iter_mut().zip(tally.by_class) {
            *total += new;
            counters.instructions += new;
        }
        outcome
    }

    fn run_counted(&mut self, budget: u32, tally: &mut Tally) -> Result<Stop, Box<Report>> {
        let program = self.program;
        let code = program.kernel().code.as_slice();
        let checks = self.sys.config.checks;
        let track = checks.wgmma && program.has_wgmma;
        let random = self.sys.config.schedule != Schedule::RoundRobin;
        let regs32 = program.kernel().regs32;
        if !self.warp.choose() {
            return Ok(Stop::Blocked);
        }
        let mut out = Out::new();
        let mut left = budget;
        while left > 0 {
            let path = &self.warp.paths[self.warp.current];
            let (pc, resumed, here) = (path.pc, path.resumed, path.mask);
            let (Some(instr), Some(side)) = (code.get(pc), program.sides.get(pc)) else {
                self.pc = code.len().saturating_sub(1);
                return Err(self.report(Class::Unsupported, here, "control runs past the end of the kernel"));
            };
            if !matches!(side.quick, Quick::No) && !resumed && self.warp.paths.len() == 1 {
                let done = self.straight(left, checks.registers, track, tally);
                left -= done;
                if done > 0 {
                    continue;
                }
            }
            left -= 1;
            self.pc = pc;
            self.sys.steps += 1;
            let mask = match instr.guard {
                Some(guard) => here & self.pred(guard),
                None => here,
            };
            if !resumed {
                self.warp.clock += 1;
                self.sys.clock += 1;
                tally.threads += mask.count_ones() as u64;
                tally.by_class[side.class as usize] += 1;
                if self.sys.clock > self.sys.limit {
                    return Err(self.report(
                        Class::InstructionLimit,
                        here,
                        format!("stopped after {} warp instructions", self.sys.limit_size),
                    ));
                }
            }
            let reads = &program.registers[side.reads.start as usize..side.reads.end as usize];
            let writes = &program.registers[side.writes.start as usize..side.writes.end as usize];
            if checks.registers {
                // The guard itself is read by every lane of the path.
                if let Some(guard) = instr.guard {
                    let flat = regs32 + program.kernel().regs64 + guard.reg;
                    if here & !self.warp.written[flat as usize] != 0 {
                        return Err(self.unwritten(flat, here));
                    }
                }
                for r in reads {
                    if mask & !self.warp.written[*r as usize] != 0 {
                        return Err(self.unwritten(*r, mask));
                    }
                }
            }
            if track && mask != 0 {
                let now = self.warp.clock;
                for r in reads.iter().chain(writes) {
                    if *r < regs32 {
                        if self.warp.busy[*r as usize] != 0 {
                            return Err(self.in_flight_report(*r, mask));
                        }
                        self.warp.touched[*r as usize] = crate::machine::warp::touch(now, self.pc);
                    }
                }
            }
            let flow = if mask == 0 { Flow::Next } else { self.exec(instr, mask, &mut out)? };
            let current = self.warp.current;
            let mut give_way = false;
            match flow {
                Flow::Next | Flow::Yield => {
                    if checks.registers {
                        for r in writes {
                            self.warp.written[*r as usize] |= mask;
                        }
                    }
                    let path = &mut self.warp.paths[current];
                    path.pc = pc + 1;
                    path.resumed = false;
                    path.arrived = None;
                    if flow == Flow::Yield {
                        path.yielded = true;
                        give_way = self.warp.paths.iter().all(|p| p.yielded || p.wait.is_some());
                    }
                }
                Flow::Jump(target) => {
                    let path = &mut self.warp.paths[current];
                    path.pc = target;
                    path.resumed = false;
                }
                Flow::Rearranged => {
                    if self.warp.paths.is_empty() {
                        return Ok(Stop::Exited);
                    }
                }
                Flow::Park(wait) => {
                    let path = &mut self.warp.paths[current];
                    path.wait = Some(wait);
                    path.resumed = true;
                }
            }
            if (self.warp.paths.len() > 1 || matches!(flow, Flow::Park(_) | Flow::Rearranged))
                && !self.warp.choose()
            {
                return Ok(Stop::Blocked);
            }
            if give_way {
                for path in &mut self.warp.paths {
                    path.yielded = false;
                }
                return Ok(Stop::Yield);
            }
            if random && side.preempt && self.sys.rng.below(4) == 0 {
                break;
            }
        }
        // A turn may end between two looks.
        Ok(if self.warp.polls_since(self.sys.progress) { Stop::Yield } else { Stop::Quantum })
    }

    /// Runs a warp that has one path along instructions that have a short way ([`super::quick`]): nothing but registers, the program
    /// counter and the counts change. Returns how many it ran; it stops before what needs the long way, and before what is wrong,
    /// which the long way reports.
    fn straight(&mut self, budget: u32, registers: bool, track: bool, tally: &mut Tally) -> u32 {
        let program = self.program;
        let kernel = program.kernel();
        let regs32 = kernel.regs32;
        let preds = regs32 + kernel.regs64;
        let room = self.sys.limit.saturating_sub(self.sys.clock).min(budget.into()) as u32;
        let warp = &mut *self.warp;
        let (mut pc, here) = (warp.paths[0].pc, warp.paths[0].mask);
        let mut done = 0;
        while done < room {
            let (Some(instr), Some(side)) = (kernel.code.get(pc), program.sides.get(pc)) else { break };
            let mask = match instr.guard {
                Some(guard) => {
                    let holds = warp.preds[guard.reg as usize];
                    here & if guard.negated { !holds } else { holds }
                }
                None => here,
            };
            if registers {
                let missing = |r: u32, mask: u32| mask & !warp.written[r as usize] != 0;
                let reads = &program.registers[side.reads.start as usize..side.reads.end as usize];
                // The guard itself is read by every lane of the path.
                if instr.guard.is_some_and(|guard| missing(preds + guard.reg, here))
                    || reads.iter().any(|r| missing(*r, mask))
                {
                    break;
                }
            }
            if track && mask != 0 {
                let now = warp.clock + u64::from(done) + 1;
                let all = &program.registers[side.reads.start as usize..side.writes.end as usize];
                if all.iter().any(|r| *r < regs32 && warp.busy[*r as usize] != 0) {
                    break;
                }
                for r in all.iter().filter(|r| **r < regs32) {
                    warp.touched[*r as usize] = crate::machine::warp::touch(now, pc);
                }
            }
            match &side.quick {
                Quick::Run(run, operands) => {
                    if mask != 0 {
                        Quick::run(*run, operands, warp, mask);
                    }
                    pc += 1;
                }
                Quick::Bra(target) if mask == here => pc = *target,
                Quick::Bra(_) if mask == 0 => pc += 1,
                // The path divides.
                Quick::Bra(_) | Quick::No => break,
            }
            if registers {
                for r in &program.registers[side.writes.start as usize..side.writes.end as usize] {
                    warp.written[*r as usize] |= mask;
                }
            }
            done += 1;
            tally.threads += if mask == u32::MAX { 32 } else { u64::from(mask.count_ones()) };
            tally.by_class[side.class as usize] += 1;
        }
        self.sys.clock += u64::from(done);
        self.sys.steps += u64::from(done);
        warp.clock += u64::from(done);
        warp.paths[0].pc = pc;
        done
    }

    #[cold]
    fn unwritten(&self, flat: u32, mask: u32) -> Box<Report> {
        let lanes = mask & !self.warp.written[flat as usize];
        let name = self.program.register_name(flat);
        self.report(Class::Uninitialised, lanes, format!("register {name} is read and was never written"))
    }

    /// Wakes the paths whose wait is over. True if any path can run.
    pub(crate) fn wake(&mut self) -> Result<bool, Box<Report>> {
        let mut any = false;
        for i in 0..self.warp.paths.len() {
            let path = self.warp.paths[i];
            let ready = match path.wait {
                None => true,
                Some(Wait::Lanes { .. } | Wait::WarpSync { .. }) => false,
                Some(Wait::Barrier { id, phase }) => self.block.barriers[id as usize & 15].phase != phase,
                Some(Wait::Mbarrier { offset, phase, parity }) => {
                    self.pc = path.pc;
                    let origin = self.origin(path.mask);
                    self.sys.time_out || self.mbar_test(offset, phase, parity, origin)?
                }
                Some(Wait::Registers { count }) => {
                    self.block.free_registers >= count.saturating_sub(self.warp.registers) * 32
                }
                Some(Wait::Wgmma { before }) => self.all_issued(before),
                Some(Wait::Grid) => self.sys.prerequisites_done(self.block.grid),
                Some(Wait::Cluster { phase }) => self.block.cluster_phase != phase,
            };
            if ready {
                self.warp.paths[i].wait = None;
                any = true;
            }
        }
        Ok(any)
    }
}
