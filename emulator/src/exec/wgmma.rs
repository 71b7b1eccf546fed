//! `wgmma`: matrix products of a warpgroup, asynchronous.
//!
//! Each of the four warps issues the instruction for itself; the product runs once all four have, as one 64×N×K product. (For the
//! checker each warp has its own share, which starts when that warp issues it: `.sync` holds the lanes of a warp together, nothing the warps.)
//! The n-th `wgmma` of every warp of a warpgroup must be the same instruction with the same descriptors. Until a
//! `wait_group` covers it, an operation owns its registers: the results appear as late as the completion policy allows, and
//! any other access is reported ([`super::product`] computes). `wgmma.fence` must stand between other accesses and the first `wgmma` that uses a register;
//! accumulators handed from one `wgmma` to the next of the same shape need none.

use super::{Core, Flow, Step};
use crate::ir::{Op, ScaleD, Src, Wgmma, WgmmaA};
use crate::machine::Completion;
use crate::machine::block::WgmmaOp;
use crate::machine::warp::{InFlight, Wait, touched};
use crate::report::{Class, Report};

impl Core<'_> {
    pub(super) fn wgmma_at(&self, pc: usize) -> &Wgmma {
        match &self.program.kernel().code[pc].op {
            Op::Wgmma(wgmma) => wgmma,
            _ => unreachable!("operations are recorded with the instruction that issued them"),
        }
    }

    pub(super) fn warpgroup(&self) -> usize {
        self.warp.index as usize / 4
    }

    /// `wgmma.mma_async`, one warp's part.
    pub(super) fn wgmma(&mut self, wgmma: &Wgmma, mask: u32) -> Step {
        if let Some(flow) = self.whole_warp(mask, "wgmma.mma_async")? {
            return Ok(flow);
        }
        let group = self.warpgroup();
        if self.block.warps.len() < 4 * group + 4 || mask != u32::MAX {
            return Err(self.report(
                Class::PartialWarpgroup,
                mask,
                "wgmma needs four whole warps, the first a multiple of four",
            ));
        }
        let (a_desc, b_desc, scale_d) = self.wgmma_operands(wgmma, mask)?;
        if self.sys.config.checks.wgmma {
            self.check_wgmma_registers(wgmma, mask)?;
        }
        let accumulates = scale_d && self.sys.config.checks.registers;
        let a_regs: &[u32] = if let WgmmaA::Regs(regs) = &wgmma.a { regs } else { &[] };
        for r in wgmma.d.iter().filter(|_| accumulates).chain(a_regs) {
            let unwritten = mask & !self.warp.written[*r as usize];
            if self.sys.config.checks.registers && unwritten != 0 {
                let name = self.program.register_name(*r);
                return Err(self.report(
                    Class::Uninitialised,
                    unwritten,
                    format!("wgmma reads register {name}, which was never written"),
                ));
            }
        }
        for r in &wgmma.d {
            self.warp.written[*r as usize] |= mask;
        }
        let seq = self.warp.wgmma_issued;
        let state = &self.block.warpgroups[group];
        let at = (seq - state.done) as usize;
        let first = at == state.ops.len();
        self.join(seq, WgmmaOp { pc: self.pc, seen: 0, a_desc, b_desc, scale_d, met: Vec::new() }, mask)?;
        if self.checking() {
            self.touch_wgmma(wgmma, (a_desc, b_desc), seq, (at, first))?;
        }
        self.warp.wgmma_issued += 1;
        if self.sys.config.checks.wgmma {
            self.warp.in_flight.push_back(InFlight { seq, pc: self.pc });
            for r in wgmma.d.iter().chain(a_regs) {
                self.warp.busy[*r as usize] += 1;
            }
        }
        self.sys.progress += 1;
        let now = match self.sys.config.completion {
            Completion::Eager => true,
            Completion::Latest => false,
            Completion::Random => self.sys.rng.below(2) == 0,
        };
        if now && self.all_issued(seq + 1) {
            self.execute_before(seq + 1)?;
        }
        Ok(Flow::Next)
    }

    /// Descriptors and scale, the same in all lanes.
    fn wgmma_operands(&self, wgmma: &Wgmma, mask: u32) -> Result<(u64, u64, bool), Box<Report>> {
        let descriptor = |src: &Src, name: &str| {
            let (value, same) = self.uniform(src, mask);
            if same {
                return Ok(value);
            }
            Err(self.report(
                Class::WgmmaOperand,
                mask,
                format!("the descriptor of {name} differs between lanes"),
            ))
        };
        let b = descriptor(&wgmma.b_desc, "B")?;
        let a = match &wgmma.a {
            WgmmaA::Desc(src) => descriptor(src, "A")?,
            WgmmaA::Regs(_) => 0,
        };
        let scale = match wgmma.scale_d {
            ScaleD::Imm(value) => value,
            ScaleD::Pred(pred) => match self.pred(pred) & mask {
                0 => false,
                lanes if lanes == mask => true,
                _ => {
                    return Err(self.report(Class::WgmmaOperand, mask, "scale-d differs between lanes"));
                }
            },
        };
        Ok((a, b, scale))
    }

    /// Fences, and registers that other operations in flight own.
    fn check_wgmma_registers(&self, wgmma: &Wgmma, mask: u32) -> Result<(), Box<Report>> {
        let warp = &*self.warp;
        let a_regs: &[u32] = if let WgmmaA::Regs(regs) = &wgmma.a { regs } else { &[] };
        let all = || wgmma.d.iter().chain(a_regs);
        if let Some(r) = all().find(|r| touched(warp.touched[**r as usize]).0 > warp.fenced) {
            let name = self.program.register_name(*r);
            let message = if warp.fenced == 0 {
                format!(
                    "wgmma without any wgmma.fence before it; register {name} was accessed by other instructions"
                )
            } else {
                format!("register {name} was accessed after the last wgmma.fence and is now used by wgmma")
            };
            let mut report = self.report(Class::WgmmaFence, mask, message);
            let (_, pc) = touched(warp.touched[*r as usize]);
            report.other = Some(format!("accessed by warp {} at {}", warp.index, self.describe(pc)));
            report.hint = Some("wgmma.fence.sync.aligned before the first wgmma of the batch".into());
            return Err(report);
        }
        if warp.fenced == 0 {
            let mut report = self.report(Class::WgmmaFence, mask, "wgmma without any wgmma.fence before it");
            report.hint = Some("wgmma.fence.sync.aligned before the first wgmma of the batch".into());
            return Err(report);
        }
        for r in all() {
            if warp.busy[*r as usize] == 0 {
                continue;
            }
            for flight in &warp.in_flight {
                let other = self.wgmma_at(flight.pc);
                let chained = other.d == wgmma.d && other.n == wgmma.n && other.d_type == wgmma.d_type;
                let owns_d = other.d.contains(r);
                let owns_a = matches!(&other.a, WgmmaA::Regs(regs) if regs.contains(r));
                let reads_only = a_regs.contains(r) && !wgmma.d.contains(r);
                if (owns_d && (reads_only || !chained)) || (owns_a && !reads_only) {
                    let name = self.program.register_name(*r);
                    let mut report = self.report(
                        Class::WgmmaInFlight,
                        mask,
                        format!(
                            "register {name} still belongs to an unfinished wgmma of another shape or role"
                        ),
                    );
                    report.other = Some(format!("wgmma at {}", self.describe(flight.pc)));
                    return Err(report);
                }
            }
        }
        Ok(())
    }

    /// Adds this warp to the operation with a sequence number.
    fn join(&mut self, seq: u64, op: WgmmaOp, mask: u32) -> Result<(), Box<Report>> {
        let group = self.warpgroup();
        let bit = 1 << (self.warp.index % 4);
        let at = (seq - self.block.warpgroups[group].done) as usize;
        for index in (4 * group..4 * group + 4).filter(|i| *i != self.warp.index as usize) {
            let other = &self.block.warps[index];
            let gone = other.done() && other.wgmma_issued <= seq;
            if gone {
                let message = "wgmma is not executed by all four warps of the warpgroup";
                let mut report = self.report(Class::PartialWarpgroup, mask, message);
                report.other = Some(format!("warp {} has exited without it", other.index));
                return Err(report);
            }
        }
        let ops = &mut self.block.warpgroups[group].ops;
        let Some(known) = ops.get_mut(at) else {
            ops.push_back(WgmmaOp { seen: bit, ..op });
            return Ok(());
        };
        if known.pc == op.pc
            && known.a_desc == op.a_desc
            && known.b_desc == op.b_desc
            && known.scale_d == op.scale_d
        {
            known.seen |= bit;
            return Ok(());
        }
        let (pc, seen) = (known.pc, known.seen);
        let who = (0..4).filter(|w| seen >> w & 1 == 1).map(|w| (4 * group + w).to_string());
        let who = who.collect::<Vec<_>>().join(", ");
        let message = if pc != op.pc {
            "the warps of a warpgroup execute different wgmma instructions"
        } else {
            "the warps of a warpgroup execute wgmma with different descriptors or scale-d"
        };
        let mut report = self.report(Class::PartialWarpgroup, mask, message);
        report.other = Some(format!("warp {who} executed {}", self.describe(pc)));
        Err(report)
    }

    /// Have all four warps issued every operation before this one?
    pub(super) fn all_issued(&self, before: u64) -> bool {
        let state = &self.block.warpgroups[self.warpgroup()];
        let count = before.saturating_sub(state.done) as usize;
        state.ops.iter().take(count).all(|op| op.seen == 15)
    }

    pub(super) fn wgmma_fence(&mut self, mask: u32) -> Step {
        if let Some(flow) = self.whole_warp(mask, "wgmma.fence")? {
            return Ok(flow);
        }
        self.warp.fenced = self.warp.clock;
        Ok(Flow::Next)
    }

    pub(super) fn wgmma_commit(&mut self, mask: u32) -> Step {
        if let Some(flow) = self.whole_warp(mask, "wgmma.commit_group")? {
            return Ok(flow);
        }
        let issued = self.warp.wgmma_issued;
        self.warp.wgmma_groups.push_back(issued);
        Ok(Flow::Next)
    }

    pub(super) fn wgmma_wait(&mut self, groups: u32, mask: u32) -> Step {
        if let Some(flow) = self.whole_warp(mask, "wgmma.wait_group")? {
            return Ok(flow);
        }
        let covered = self.warp.wgmma_groups.len().saturating_sub(groups as usize);
        if covered == 0 {
            return Ok(Flow::Next);
        }
        let before = self.warp.wgmma_groups[covered - 1];
        if !self.all_issued(before) {
            return Ok(Flow::Park(Wait::Wgmma { before }));
        }
        self.execute_before(before)?;
        self.wgmma_learn(before, mask);
        self.warp.wgmma_groups.drain(..covered);
        let program = self.program;
        while let Some(flight) = self.warp.in_flight.front().copied()
            && flight.seq < before
        {
            self.warp.in_flight.pop_front();
            if let Op::Wgmma(wgmma) = &program.kernel().code[flight.pc].op {
                let a_regs: &[u32] = if let WgmmaA::Regs(regs) = &wgmma.a { regs } else { &[] };
                for r in wgmma.d.iter().chain(a_regs) {
                    self.warp.busy[*r as usize] -= 1;
                }
            }
        }
        self.sys.progress += 1;
        Ok(Flow::Next)
    }

    /// The finding for a register that an unfinished `wgmma` owns.
    #[cold]
    pub(super) fn in_flight_report(&self, register: u32, mask: u32) -> Box<Report> {
        let name = self.program.register_name(register);
        let mut report = self.report(
            Class::WgmmaInFlight,
            mask,
            format!("register {name} belongs to a wgmma that no wgmma.wait_group has covered yet"),
        );
        let owner = self.warp.in_flight.iter().find(|f| {
            let wgmma = self.wgmma_at(f.pc);
            wgmma.d.contains(&register) || matches!(&wgmma.a, WgmmaA::Regs(regs) if regs.contains(&register))
        });
        report.other = owner.map(|f| format!("wgmma at {}", self.describe(f.pc)));
        report.hint = Some("commit the group and wait for it before touching its registers".into());
        report
    }

    /// A warp that leaves its warpgroup must not owe it anything.
    pub(super) fn leaves_warpgroup(&self, mask: u32) -> Result<(), Box<Report>> {
        let group = self.warpgroup();
        let Some(state) = self.block.warpgroups.get(group) else { return Ok(()) };
        let bit = 1 << (self.warp.index % 4);
        let owed = state.ops.iter().find(|op| op.seen & bit == 0).map(|op| (op.pc, "wgmma"));
        let number = self.warp.setmaxnreg.0;
        let peers = &self.block.warps[4 * group..(4 * group + 4).min(self.block.warps.len())];
        let owed = owed.or_else(|| {
            peers
                .iter()
                .find(|w| w.index != self.warp.index && w.setmaxnreg.0 > number)
                .map(|w| (w.setmaxnreg.1, "setmaxnreg"))
        });
        let Some((pc, what)) = owed else { return Ok(()) };
        let message =
            format!("warp {} exits without the {what} that its warpgroup executes", self.warp.index);
        let mut report = self.report(Class::PartialWarpgroup, mask, message);
        report.other = Some(format!("other warps of the warpgroup executed {}", self.describe(pc)));
        Err(report)
    }
}
