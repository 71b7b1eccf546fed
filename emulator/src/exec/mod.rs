//! What each instruction does: one decoded instruction, executed for the active lanes of a warp.
//!
//! [`Core`] is what an instruction may touch: its warp, its block, the other resident blocks, and what all share. It
//! answers with a [`Flow`]: go on, jump, wait, give way. Everything that can go wrong is a [`Report`], made here so that it
//! carries the place and the lanes.

mod address;
mod alu;
mod arith;
mod async_copy;
mod atomic;
mod barrier;
mod cluster;
mod control;
mod convert;
mod cp_async;
mod directed;
mod float;
mod int;
pub(crate) mod lanes;
mod matrix;
mod mbarrier;
mod memory;
mod mma;
mod multimem;
pub(crate) mod operands;
pub(crate) mod product;
pub(crate) mod quick;
mod remote;
mod rows;
pub(crate) mod step;
mod tensormap;
pub(crate) mod transfer;
mod warp_ops;
mod wgmma;

use std::mem::MaybeUninit;

use crate::ir::{Instr, Op, PredSrc, Reg, Special, Src};
use crate::machine::block::{Block, Origin};
use crate::machine::program::Program;
use crate::machine::system::System;
use crate::machine::warp::{Col32, Col64, Path, Wait, Warp};
use crate::memory::SHARED_BASE;
use crate::report::{Class, Report};
use arith::Out;
use lanes::{blend32, blend64};

/// Shared memory is given out in pieces of so many bytes.
const SHARED_UNIT: u64 = 128;

/// What happens after an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Flow {
    /// The next one.
    Next,
    /// The next one, after others had a turn: this one polls.
    Yield,
    /// Somewhere else, all lanes of the path.
    Jump(usize),
    /// The paths were rearranged: choose again.
    Rearranged,
    /// The same one again when something has happened.
    Park(Wait),
}

/// An instruction's outcome.
pub(crate) type Step = Result<Flow, Box<Report>>;

/// What an instruction may touch.
pub(crate) struct Core<'a> {
    pub(crate) sys: &'a mut System,
    pub(crate) block: &'a mut Block,
    /// The other resident blocks, by slot; this block's slot is empty meanwhile.
    pub(crate) others: &'a mut [Option<Box<Block>>],
    pub(crate) warp: &'a mut Warp,
    pub(crate) program: &'a Program,
    /// The instruction.
    pub(crate) pc: usize,
}

impl<'a> Core<'a> {
    /// A finding at this instruction.
    pub(crate) fn report(&self, class: Class, lanes: u32, message: impl Into<String>) -> Box<Report> {
        let origin = Origin { warp: self.warp.index, lanes, pc: self.pc };
        self.report_at(class, origin, message)
    }

    /// A finding at another instruction of this block.
    pub(crate) fn report_at(&self, class: Class, origin: Origin, message: impl Into<String>) -> Box<Report> {
        self.sys.report(self.block, class, origin, message.into())
    }

    /// An instruction form that is not executed here.
    pub(crate) fn unsupported(&self, lanes: u32) -> Box<Report> {
        self.report(Class::Unsupported, lanes, "the machine does not execute this instruction form")
    }

    pub(crate) fn origin(&self, lanes: u32) -> Origin {
        Origin { warp: self.warp.index, lanes, pc: self.pc }
    }

    #[inline(always)]
    pub(crate) fn path(&self) -> &Path {
        &self.warp.paths[self.warp.current]
    }

    /// "Line N of the PTX" of an instruction, for the other party of a report.
    pub(crate) fn describe(&self, pc: usize) -> String {
        self.sys.describe(self.program, pc)
    }

    // Operands.

    /// A source of 32 bits or less, by value.
    #[inline(always)]
    pub(crate) fn get32(&self, src: &Src) -> Col32 {
        match src {
            Src::Reg(Reg::B32(r)) => self.warp.r32[*r as usize],
            Src::Imm(value) => [*value as u32; 32],
            _ => self.get32_slow(src),
        }
    }

    /// A source of 32 bits or less: the register itself, or a constant spread over `buffer`.
    #[inline(always)]
    pub(crate) fn ref32<'s>(&'s self, src: &Src, buffer: &'s mut MaybeUninit<Col32>) -> &'s Col32 {
        match src {
            Src::Reg(Reg::B32(r)) => &self.warp.r32[*r as usize],
            Src::Imm(value) => buffer.write([*value as u32; 32]),
            _ => buffer.write(self.get32_slow(src)),
        }
    }

    /// As [`Self::ref32`], for 64 bits.
    #[inline(always)]
    pub(crate) fn ref64<'s>(&'s self, src: &Src, buffer: &'s mut MaybeUninit<Col64>) -> &'s Col64 {
        match src {
            Src::Reg(Reg::B64(r)) => &self.warp.r64[*r as usize],
            Src::Imm(value) => buffer.write([*value; 32]),
            _ => buffer.write(self.get64(src)),
        }
    }

    #[cold]
    fn get32_slow(&self, src: &Src) -> Col32 {
        match src {
            Src::Reg(Reg::Pred(p)) => {
                let mask = self.warp.preds[*p as usize];
                std::array::from_fn(|i| mask >> i & 1)
            }
            _ => self.get64(src).map(|v| v as u32),
        }
    }

    /// A source of 64 bits; 32-bit registers are zero-extended.
    #[inline(always)]
    pub(crate) fn get64(&self, src: &Src) -> Col64 {
        match src {
            Src::Reg(Reg::B64(r)) => self.warp.r64[*r as usize],
            Src::Reg(Reg::B32(r)) => {
                let col = &self.warp.r32[*r as usize];
                std::array::from_fn(|i| col[i] as u64)
            }
            Src::Reg(Reg::Pred(p)) => {
                let mask = self.warp.preds[*p as usize];
                std::array::from_fn(|i| (mask >> i & 1) as u64)
            }
            Src::Imm(value) => [*value; 32],
            Src::Special(special) => self.special(*special),
            Src::Symbol(symbol) => [self.symbol(symbol); 32],
        }
    }

    /// A predicate operand, as lanes.
    #[inline(always)]
    pub(crate) fn pred(&self, pred: PredSrc) -> u32 {
        let mask = self.warp.preds[pred.reg as usize];
        if pred.negated { !mask } else { mask }
    }

    /// A predicate source that may be an immediate.
    pub(crate) fn pred_src(&self, src: &Src) -> u32 {
        match src {
            Src::Reg(Reg::Pred(p)) => self.warp.preds[*p as usize],
            Src::Imm(value) => {
                if *value != 0 {
                    u32::MAX
                } else {
                    0
                }
            }
            other => {
                let col = self.get32(other);
                (0..32).fold(0, |mask, i| mask | ((col[i] != 0) as u32) << i)
            }
        }
    }

    /// The value in the lowest active lane, and whether all active lanes agree.
    pub(crate) fn uniform(&self, src: &Src, mask: u32) -> (u64, bool) {
        let col = self.get64(src);
        let first = col[mask.trailing_zeros() as usize & 31];
        let mut same = true;
        lanes::each(mask, |l| same &= col[l] == first);
        (first, same)
    }

    #[inline(always)]
    pub(crate) fn set32(&mut self, dst: u32, value: &Col32, mask: u32) {
        let column = &mut self.warp.r32[dst as usize];
        if mask == u32::MAX {
            *column = *value;
        } else {
            blend32(column, value, mask);
        }
    }

    #[inline(always)]
    pub(crate) fn set64(&mut self, dst: u32, value: &Col64, mask: u32) {
        let column = &mut self.warp.r64[dst as usize];
        if mask == u32::MAX {
            *column = *value;
        } else {
            blend64(column, value, mask);
        }
    }

    #[inline(always)]
    pub(crate) fn set_pred(&mut self, dst: u32, value: u32, mask: u32) {
        let pred = &mut self.warp.preds[dst as usize];
        *pred = *pred & !mask | value & mask;
    }

    /// Writes a register of any file from 64-bit values.
    pub(crate) fn set(&mut self, dst: Reg, value: &Col64, mask: u32) {
        match dst {
            Reg::B32(r) => self.set32(r, &value.map(|v| v as u32), mask),
            Reg::B64(r) => self.set64(r, value, mask),
            Reg::Pred(p) => {
                let bits = (0..32).fold(0, |m, i| m | ((value[i] != 0) as u32) << i);
                self.set_pred(p, bits, mask);
            }
        }
    }

    fn special(&self, special: Special) -> Col64 {
        use Special::*;
        let block = &*self.block;
        let (id, grid, cluster) = (block.ctaid, block.grid_dim, block.cluster_dim);
        let in_cluster = |d: usize| if block.explicit_cluster { id[d] % cluster[d] } else { 0 };
        let cluster_of = |d: usize| if block.explicit_cluster { id[d] / cluster[d] } else { id[d] };
        let clusters = |d: usize| if block.explicit_cluster { grid[d] / cluster[d] } else { grid[d] };
        let size = |d: usize| if block.explicit_cluster { cluster[d] } else { 1 };
        let per_lane = |f: &dyn Fn(u32) -> u32| std::array::from_fn(|l| f(l as u32) as u64);
        let tid = |d: usize| self.warp.tid[d].map(u64::from);
        let value = match special {
            TidX => return tid(0),
            TidY => return tid(1),
            TidZ => return tid(2),
            LaneId => return per_lane(&|l| l),
            LanemaskEq => return per_lane(&|l| 1 << l),
            LanemaskLt => return per_lane(&|l| (1 << l) - 1),
            LanemaskLe => return per_lane(&|l| (2u64 << l).wrapping_sub(1) as u32),
            LanemaskGt => return per_lane(&|l| !((2u64 << l).wrapping_sub(1) as u32)),
            LanemaskGe => return per_lane(&|l| !((1 << l) - 1)),
            NtidX => block.block_dim[0] as u64,
            NtidY => block.block_dim[1] as u64,
            NtidZ => block.block_dim[2] as u64,
            CtaidX => id[0] as u64,
            CtaidY => id[1] as u64,
            CtaidZ => id[2] as u64,
            NctaidX => grid[0] as u64,
            NctaidY => grid[1] as u64,
            NctaidZ => grid[2] as u64,
            WarpId => self.warp.index as u64,
            NwarpId => block.warps.len() as u64,
            SmId => block.sm as u64,
            NsmId => self.sys.config.devices[block.device].sms as u64,
            GridId => block.grid as u64,
            ClusterIdX => cluster_of(0) as u64,
            ClusterIdY => cluster_of(1) as u64,
            ClusterIdZ => cluster_of(2) as u64,
            NclusterIdX => clusters(0) as u64,
            NclusterIdY => clusters(1) as u64,
            NclusterIdZ => clusters(2) as u64,
            ClusterCtaidX => in_cluster(0) as u64,
            ClusterCtaidY => in_cluster(1) as u64,
            ClusterCtaidZ => in_cluster(2) as u64,
            ClusterNctaidX => size(0) as u64,
            ClusterNctaidY => size(1) as u64,
            ClusterNctaidZ => size(2) as u64,
            ClusterCtarank => block.rank as u64,
            ClusterNctarank => block.peers.len() as u64,
            IsExplicitCluster => block.explicit_cluster as u64,
            // One tick per warp instruction of the machine: monotonic, and the same on every run.
            Clock => self.sys.clock & 0xffff_ffff,
            ClockHi | GlobaltimerHi => self.sys.clock >> 32,
            Clock64 | Globaltimer => self.sys.clock,
            GlobaltimerLo => self.sys.clock & 0xffff_ffff,
            DynamicSmemSize => block.dynamic_shared as u64,
            TotalSmemSize => u64::from(block.layout.end - SHARED_BASE).next_multiple_of(SHARED_UNIT),
            AggrSmemSize => u64::from(block.layout.end).next_multiple_of(SHARED_UNIT),
            ReservedSmemBegin | ReservedSmem0 => 0,
            ReservedSmem1 => block.shared.groups().into(),
            ReservedSmemEnd | ReservedSmemCap => u64::from(SHARED_BASE),
            // The two halves of the address of a cooperative grid's barrier workspace.
            EnvReg(1) => block.workspace >> 32,
            EnvReg(2) => block.workspace & 0xffff_ffff,
            EnvReg(_) => 0,
        };
        [value; 32]
    }

    /// Executes an instruction for the lanes of `mask` (the guard is already in it).
    #[inline]
    pub(crate) fn exec(&mut self, instr: &'a Instr, mask: u32, out: &mut Out) -> Step {
        match &instr.op {
            Op::Bra { target, .. } => Ok(self.branch(*target, mask)),
            Op::Ld { space, ty, dsts, addr, sem, nc, scope } => {
                self.load(*space, *ty, dsts, addr, (*sem, *scope, *nc), mask)
            }
            Op::St { space, ty, srcs, addr, sem, scope } => {
                self.store(*space, *ty, srcs, addr, (*sem, *scope), mask)
            }
            Op::Mov { .. }
            | Op::Pack { .. }
            | Op::Unpack { .. }
            | Op::Un { .. }
            | Op::Bin { .. }
            | Op::Tern { .. }
            | Op::Bfi { .. }
            | Op::Setp { .. }
            | Op::Set { .. }
            | Op::PredBin { .. }
            | Op::PredNot { .. }
            | Op::Selp { .. }
            | Op::Slct { .. }
            | Op::Cvt { .. } => self.alu(&instr.op, mask, out),
            Op::Cvta { space, to, dst, src } => self.cvta(*space, *to, *dst, src, mask),
            Op::Isspacep { space, dst, src } => self.isspacep(*space, *dst, src, mask),
            Op::Atom { .. } => self.atom(&instr.op, mask),
            Op::Brx { index, targets, .. } => self.branch_indexed(index, targets, mask),
            Op::Exit => self.exit(mask),
            Op::Trap => Err(self.report(Class::Trap, mask, "the kernel executed trap")),
            Op::Nop | Op::Hint(_) => Ok(Flow::Next),
            Op::Nanosleep { .. } => Ok(self.poll(true)),
            Op::BarSync { id, count, aligned } => self.bar_sync(id, count.as_ref(), *aligned, None, mask),
            Op::BarRed { op, dst, id, count, pred, aligned } => {
                self.bar_sync(id, count.as_ref(), *aligned, Some((*op, *dst, *pred)), mask)
            }
            Op::BarArrive { id, count, aligned } => self.bar_arrive(id, count, *aligned, mask),
            Op::BarWarpSync { mask: members } => self.bar_warp_sync(members, mask),
            Op::ClusterArrive { aligned, sem } => {
                self.cluster_arrive(*aligned, *sem != crate::ir::Semantics::Relaxed, mask)
            }
            Op::ClusterWait { aligned, .. } => self.cluster_wait(*aligned, mask),
            // One thread executes everything in order: fences order nothing more here, they only tell the checker.
            Op::Fence { scope, mbarrier_init, .. } => {
                if *mbarrier_init {
                    self.fence_releases(*scope, mask);
                }
                if *mbarrier_init {
                    // For its own block's copies the manual has fence.proxy.async instead.
                    if self.block.peers.len() > 1 {
                        self.show_mbarriers(mask);
                    }
                } else {
                    self.memory_fence(*scope, mask);
                }
                Ok(Flow::Next)
            }
            Op::FenceProxy { kind, addr } => {
                use crate::ir::{ProxyFence, Space};
                match kind {
                    ProxyFence::Async(None) => self.proxy_fence(true, true, mask),
                    ProxyFence::Async(Some(Space::Global)) => self.proxy_fence(false, true, mask),
                    ProxyFence::Async(Some(_)) => self.proxy_fence(true, false, mask),
                    // They order memory too, at their scope.
                    ProxyFence::TensorMapRelease(scope) => {
                        self.memory_fence(*scope, mask);
                        self.map_release(mask);
                    }
                    ProxyFence::TensorMapAcquire(scope) => {
                        self.memory_fence(*scope, mask);
                        self.acquire_maps(addr.as_ref(), mask);
                    }
                    _ => {}
                }
                Ok(Flow::Next)
            }
            Op::Shfl { .. } => self.shfl(&instr.op, mask),
            Op::Vote { mode, dst, pred, mask: members } => self.vote(*mode, *dst, *pred, members, mask),
            Op::Match { .. } => self.match_any(&instr.op, mask),
            Op::ActiveMask { dst } => {
                self.set(*dst, &[mask as u64; 32], mask);
                Ok(Flow::Next)
            }
            Op::Elect { dst, pred, mask: members } => self.elect(*dst, *pred, members, mask),
            Op::Redux { op, ty, dst, a, mask: members } => self.redux(*op, *ty, *dst, a, members, mask),
            Op::LdMatrix { dsts, addr, trans, space } => self.ldmatrix(dsts, addr, *trans, *space, mask),
            Op::StMatrix { srcs, addr, trans, space } => self.stmatrix(srcs, addr, *trans, *space, mask),
            Op::MovMatrix { dst, src } => self.movmatrix(*dst, src, mask),
            Op::MbarInit { addr, space, count } => self.mbar_init(addr, *space, count, mask),
            Op::MbarInval { addr, space } => self.mbar_inval(addr, *space, mask),
            Op::MbarTx { addr, space, bytes, complete } => self.mbar_tx(addr, *space, bytes, *complete, mask),
            Op::MbarArrive(arrive) => self.mbar_arrive(arrive, mask),
            Op::MbarWait(wait) => self.mbar_wait(wait, mask),
            Op::MbarPendingCount { dst, state } => {
                let counts = self.get64(state).map(|s| crate::mbarrier::Mbarrier::pending_count(s) as u64);
                self.set(*dst, &counts, mask);
                Ok(Flow::Next)
            }
            Op::CpAsync { dst, src, bytes, src_bytes, ignore } => {
                self.cp_async(dst, src, *bytes, src_bytes.as_ref(), *ignore, mask)
            }
            Op::CpAsyncCommit => Ok(self.cp_async_commit(mask)),
            Op::CpAsyncWait { groups } => self.cp_async_wait(*groups, mask),
            Op::CpAsyncMbarArrive { addr, space, noinc } => self.cp_async_arrive(addr, *space, *noinc, mask),
            Op::Bulk(bulk) => self.bulk(bulk, mask),
            Op::BulkCommit => Ok(self.bulk_commit(mask)),
            Op::BulkWait { groups, read } => self.bulk_wait(*groups, *read, mask),
            Op::WgmmaFence => self.wgmma_fence(mask),
            Op::WgmmaCommit => self.wgmma_commit(mask),
            Op::WgmmaWait { groups } => self.wgmma_wait(*groups, mask),
            Op::Wgmma(wgmma) => self.wgmma(wgmma, mask),
            Op::SetMaxNReg { count, inc } => self.setmaxnreg(*count, *inc, mask),
            Op::GridDepControl { launch } => Ok(self.griddepcontrol(*launch, mask)),
            Op::Mapa { dst, addr, rank, space } => self.mapa(*dst, addr, rank, *space, mask),
            Op::GetCtaRank { dst, addr, space } => self.getctarank(*dst, addr, *space, mask),
            Op::CreatePolicy { dst } => {
                self.set(*dst, &[0; 32], mask);
                Ok(Flow::Next)
            }
            Op::Mma(mma) => self.mma(mma, mask),
            Op::StAsync { ty, srcs, addr, mbar } => self.send(None, *ty, srcs, addr, mbar, mask),
            Op::RedAsync { op, ty, src, addr, mbar } => {
                self.send(Some(*op), *ty, std::slice::from_ref(src), addr, mbar, mask)
            }
            Op::MultimemLdReduce { op, ty, wide, dsts, addr, sem, scope: _ } => {
                self.multimem_load(*op, *ty, *wide, dsts, addr, *sem, mask)
            }
            Op::MultimemSt { ty, srcs, addr, .. } => {
                self.multimem_store(crate::ir::AtomOp::Exch, *ty, srcs, addr, mask)
            }
            Op::MultimemRed { op, ty, srcs, addr, .. } => self.multimem_store(*op, *ty, srcs, addr, mask),
            Op::TensorMapReplace { field, space, ty: _, addr, index, value } => {
                self.tensormap_replace(*field, *space, addr, *index, value, mask)
            }
            Op::TensorMapCpFenceProxy { dst, src, scope } => self.tensormap_copy(dst, src, *scope, mask),
        }
    }
}
