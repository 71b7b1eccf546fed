//! The products of `wgmma`: operands gathered from shared memory and registers, accumulators unpacked from the registers of
//! four warps and packed again.
//!
//! Operations that hand the same accumulators on are executed together, so the registers are unpacked once for a whole chain.

use super::Core;
use crate::ir::{Op, Type, Wgmma, WgmmaA};
use crate::machine::block::{Origin, WgmmaOp};
use crate::machine::warp::Warp;
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
        Type::B1 => Format::B1,
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
    /// Executes, in order, every operation before a sequence number.
    pub(super) fn execute_before(&mut self, before: u64) -> Result<(), Box<Report>> {
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
        counters.wgmma_flops += 2 * 64 * u64::from(n) * u64::from(wgmma.k);
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
        // Chunks come row by row, two a row: unwritten ones by groups of 16 rows.
        let mut chunk = 0;
        let mut unwritten = [0u32; 16];
        SharedDescriptor::decode(descriptor).gather(rows, mn_major, size, out, |address| {
            chunk += 1;
            match shared.read(address, 16, check) {
                Ok(bytes) => bytes.try_into().expect("sixteen bytes were asked for"),
                Err(t) => {
                    if matches!(t, Trouble::Uninitialised(_)) {
                        unwritten[(chunk - 1) / 32] += 1;
                    }
                    if trouble.is_none_or(|(_, old)| old != Trouble::OutOfBounds) && t == Trouble::OutOfBounds
                    {
                        trouble = Some((address, t));
                    }
                    trouble.get_or_insert((address, t));
                    [0xff; 16]
                }
            }
        });
        // Tiles of 16 or 32 rows are in use, and the instruction reads 64: rows behind the tile that nobody ever wrote count as NaN,
        // which shows if the kernel does not throw their results away.
        let tall = name == "A" && !mn_major && unwritten[0] == 0 && unwritten.iter().all(|n| n % 32 == 0);
        if tall && !matches!(trouble, Some((_, Trouble::OutOfBounds))) {
            trouble = None;
        }
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
