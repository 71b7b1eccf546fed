//! `wgmma`: matrix products of a warpgroup, asynchronous.
//!
//! Each of the four warps issues the instruction for itself; the product runs once all four have, as one 64×N×K product.
//! The n-th `wgmma` of every warp of a warpgroup must be the same instruction with the same descriptors. Until a
//! `wait_group` covers it, an operation owns its registers: the results appear as late as the completion policy allows, and
//! any other access is reported. `wgmma.fence` must stand between other accesses and the first `wgmma` that uses a register;
//! accumulators handed from one `wgmma` to the next of the same shape need none.

use super::{Core, Flow, Step};
use crate::ir::{Op, ScaleD, Src, Type, Wgmma, WgmmaA};
use crate::machine::Completion;
use crate::machine::block::{Origin, WgmmaOp};
use crate::machine::warp::{InFlight, Wait, Warp};
use crate::memory::Trouble;
use crate::report::{Class, Report};
use crate::tensor::{Format, Mma, SharedDescriptor};

/// The tensor core's name of an operand type.
pub(super) fn format(ty: Type) -> Option<Format> {
    Some(match ty {
        Type::E4M3 => Format::E4M3,
        Type::E5M2 => Format::E5M2,
        Type::F16 => Format::F16,
        Type::BF16 => Format::BF16,
        Type::TF32 => Format::TF32,
        Type::S8 => Format::S8,
        Type::U8 => Format::U8,
        _ => return None,
    })
}

/// Buffers of the matrix products, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    a: Vec<u8>,
    b: Vec<u8>,
    f32: Vec<f32>,
    f16: Vec<u16>,
    s32: Vec<i32>,
}

impl Core<'_> {
    fn wgmma_at(&self, pc: usize) -> &Wgmma {
        match &self.program.kernel().code[pc].op {
            Op::Wgmma(wgmma) => wgmma,
            _ => unreachable!("operations are recorded with the instruction that issued them"),
        }
    }

    fn warpgroup(&self) -> usize {
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
        let first = seq == state.done + state.ops.len() as u64;
        self.join(seq, WgmmaOp { pc: self.pc, seen: 0, a_desc, b_desc, scale_d }, mask)?;
        if first && self.checking() {
            self.touch_wgmma(wgmma, a_desc, b_desc, wgmma.a_type.bytes(), seq)?;
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
        if let Some(r) = all().find(|r| warp.touched[**r as usize] > warp.fenced) {
            let name = self.program.register_name(*r);
            let message = if warp.fenced == 0 {
                format!(
                    "wgmma without any wgmma.fence before it; register {name} was accessed by other instructions"
                )
            } else {
                format!("register {name} was accessed after the last wgmma.fence and is now used by wgmma")
            };
            let mut report = self.report(Class::WgmmaFence, mask, message);
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

    /// Executes, in order, every operation before a sequence number.
    fn execute_before(&mut self, before: u64) -> Result<(), Box<Report>> {
        let group = self.warpgroup();
        while self.block.warpgroups[group].done < before {
            let Some(first) = self.block.warpgroups[group].ops.pop_front() else { break };
            self.block.warpgroups[group].done += 1;
            // Operations that hand the same accumulators on are executed together: the registers are unpacked once.
            let mut batch = vec![first];
            while self.block.warpgroups[group].done < before
                && let Some(next) = self.block.warpgroups[group].ops.front()
                && self.same_accumulators(batch[0].pc, next.pc)
            {
                batch.extend(self.block.warpgroups[group].ops.pop_front());
                self.block.warpgroups[group].done += 1;
            }
            self.execute(group, &batch)?;
        }
        Ok(())
    }

    fn same_accumulators(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.wgmma_at(a), self.wgmma_at(b));
        let apart = |w: &Wgmma| match &w.a {
            WgmmaA::Regs(regs) => !regs.iter().any(|r| w.d.contains(r)),
            WgmmaA::Desc(_) => true,
        };
        a.d == b.d && a.n == b.n && a.d_type == b.d_type && apart(a) && apart(b)
    }

    /// One of the four warps.
    fn group_warp(&mut self, group: usize, quarter: usize) -> &mut Warp {
        let index = 4 * group + quarter;
        if index == self.warp.index as usize { self.warp } else { &mut self.block.warps[index] }
    }

    /// Executes operations on the same accumulators.
    fn execute(&mut self, group: usize, batch: &[WgmmaOp]) -> Result<(), Box<Report>> {
        let program = self.program;
        let code = &program.kernel().code;
        let wgmma_of = |pc: usize| match &code[pc].op {
            Op::Wgmma(wgmma) => wgmma,
            _ => unreachable!("operations are recorded with the instruction that issued them"),
        };
        let mut scratch = std::mem::take(&mut self.sys.scratch);
        let first = wgmma_of(batch[0].pc);
        let n = first.n as usize;
        let kind = first.d_type;
        let reads = batch[0].scale_d;
        scratch.f32.resize(64 * n, 0.0);
        scratch.f16.resize(64 * n, 0);
        scratch.s32.resize(64 * n, 0);
        if reads {
            for quarter in 0..4 {
                let warp = self.group_warp(group, quarter);
                unpack(warp, first, quarter, &mut scratch);
            }
        }
        let mut outcome = Ok(());
        for op in batch {
            outcome = self.product(group, op, wgmma_of(op.pc), &mut scratch);
            if outcome.is_err() {
                break;
            }
        }
        if outcome.is_ok() {
            for quarter in 0..4 {
                let warp = self.group_warp(group, quarter);
                pack(warp, first, quarter, &scratch, kind);
            }
        }
        self.sys.scratch = scratch;
        outcome
    }

    /// One product on the unpacked accumulators.
    fn product(
        &mut self,
        group: usize,
        op: &WgmmaOp,
        wgmma: &Wgmma,
        scratch: &mut Scratch,
    ) -> Result<(), Box<Report>> {
        let origin = Origin { warp: 4 * group as u32, lanes: u32::MAX, pc: op.pc };
        let (Some(a_format), Some(b_format)) = (format(wgmma.a_type), format(wgmma.b_type)) else {
            return Err(self.report_at(Class::Unsupported, origin, "operand types of wgmma"));
        };
        let size = a_format.bytes() as u32;
        let n = wgmma.n;
        scratch.a.resize(64 * 32, 0);
        scratch.b.resize(n as usize * 32, 0);
        match &wgmma.a {
            WgmmaA::Desc(_) => {
                self.operand(op.a_desc, 64, wgmma.transpose_a, size, &mut scratch.a, "A", origin)?;
            }
            WgmmaA::Regs(regs) => {
                for quarter in 0..4 {
                    let warp = self.group_warp(group, quarter);
                    for (r, reg) in regs.iter().enumerate() {
                        let column = &warp.r32[*reg as usize];
                        for (lane, value) in column.iter().enumerate() {
                            let row = 16 * quarter + lane / 4 + 8 * (r & 1);
                            let at = row * 32 + 4 * (lane % 4) + 16 * (r >> 1);
                            scratch.a[at..at + 4].copy_from_slice(&value.to_le_bytes());
                        }
                    }
                }
            }
        }
        self.operand(op.b_desc, n, wgmma.transpose_b, size, &mut scratch.b, "B", origin)?;
        let mma = Mma {
            a_format,
            b_format,
            m: 64,
            n: n as usize,
            a: &scratch.a,
            b: &scratch.b,
            accumulate: op.scale_d,
            negate_a: wgmma.negate_a,
            negate_b: wgmma.negate_b,
        };
        let cells = 64 * n as usize;
        match wgmma.d_type {
            Type::F32 => mma.f32(self.sys.config.tensor_mode, &mut scratch.f32[..cells]),
            Type::F16 => mma.f16(self.sys.config.tensor_mode, &mut scratch.f16[..cells]),
            _ => mma.s32(&mut scratch.s32[..cells], wgmma.satfinite),
        }
        let counters = &mut self.sys.counters[self.block.device];
        counters.wgmma += 1;
        counters.wgmma_flops += 2 * 64 * n as u64 * (32 / size) as u64;
        Ok(())
    }

    /// Collects an operand from shared memory.
    #[allow(clippy::too_many_arguments)]
    fn operand(
        &mut self,
        descriptor: u64,
        rows: u32,
        mn_major: bool,
        size: u32,
        out: &mut [u8],
        name: &str,
        origin: Origin,
    ) -> Result<(), Box<Report>> {
        let check = self.sys.config.checks.uninitialised;
        let shared = &self.block.shared;
        let mut trouble: Option<(u32, Trouble)> = None;
        SharedDescriptor::decode(descriptor).gather(rows, mn_major, size, out, |address| {
            match shared.read(address, 16, check) {
                Ok(bytes) => bytes.try_into().expect("sixteen bytes were asked for"),
                Err(t) => {
                    trouble.get_or_insert((address, t));
                    [0; 16]
                }
            }
        });
        self.sys.counters[self.block.device].wgmma_shared_bytes += rows as u64 * 32;
        let Some((address, trouble)) = trouble else { return Ok(()) };
        let (class, what) = match trouble {
            Trouble::OutOfBounds => (Class::OutOfBounds, "outside the block's shared memory".to_string()),
            Trouble::Uninitialised(at) => (Class::Uninitialised, format!("byte {at:#x} was never written")),
        };
        let message = format!("operand {name} of wgmma at shared address {address:#x}: {what}");
        let mut report = self.report_at(class, origin, message);
        report.address = Some(address as u64);
        let d = SharedDescriptor::decode(descriptor);
        report.other = Some(format!(
            "descriptor {descriptor:#018x}: start {:#x}, leading {}, stride {}, swizzle {:?}",
            d.start, d.leading, d.stride, d.swizzle
        ));
        if matches!(trouble, Trouble::Uninitialised(_)) {
            self.explain(&mut report, super::address::Place::Shared, address as u64, trouble);
        }
        Err(report)
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

/// Row and column of an accumulator cell: pair `j`, half `h`, of a lane.
#[inline(always)]
fn cell(quarter: usize, lane: usize, j: usize, h: usize) -> (usize, usize) {
    (16 * quarter + lane / 4 + 8 * h, 8 * j + 2 * (lane % 4))
}

/// Accumulator registers of a warp to the matrix.
fn unpack(warp: &Warp, wgmma: &Wgmma, quarter: usize, scratch: &mut Scratch) {
    let n = wgmma.n as usize;
    for j in 0..n / 8 {
        for h in 0..2 {
            for lane in 0..32 {
                let (row, col) = cell(quarter, lane, j, h);
                let at = row * n + col;
                if wgmma.d_type == Type::F16 {
                    let word = warp.r32[wgmma.d[2 * j + h] as usize][lane];
                    scratch.f16[at] = word as u16;
                    scratch.f16[at + 1] = (word >> 16) as u16;
                    continue;
                }
                let pair = [0, 1].map(|c| warp.r32[wgmma.d[4 * j + 2 * h + c] as usize][lane]);
                if wgmma.d_type == Type::F32 {
                    scratch.f32[at] = f32::from_bits(pair[0]);
                    scratch.f32[at + 1] = f32::from_bits(pair[1]);
                } else {
                    scratch.s32[at] = pair[0] as i32;
                    scratch.s32[at + 1] = pair[1] as i32;
                }
            }
        }
    }
}

/// The matrix to the accumulator registers of a warp.
fn pack(warp: &mut Warp, wgmma: &Wgmma, quarter: usize, scratch: &Scratch, kind: Type) {
    let n = wgmma.n as usize;
    for j in 0..n / 8 {
        for h in 0..2 {
            for lane in 0..32 {
                let (row, col) = cell(quarter, lane, j, h);
                let at = row * n + col;
                if kind == Type::F16 {
                    let word = scratch.f16[at] as u32 | (scratch.f16[at + 1] as u32) << 16;
                    warp.r32[wgmma.d[2 * j + h] as usize][lane] = word;
                    continue;
                }
                for c in 0..2 {
                    let value = if kind == Type::F32 {
                        scratch.f32[at + c].to_bits()
                    } else {
                        scratch.s32[at + c] as u32
                    };
                    warp.r32[wgmma.d[4 * j + 2 * h + c] as usize][lane] = value;
                }
            }
        }
    }
}
