//! A kernel prepared for execution: the front end's instructions, and beside each what the machine asks before it runs it:
//! the registers it reads and writes, its class, whether a schedule may preempt after it.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::counters::InstructionClass;
use super::flow::Meetings;
use crate::exec::operands::{Access, visit};
use crate::exec::quick::{Builder, Quick};
use crate::ir::{self, Op, Reg, Space};

/// What the machine knows of one instruction besides its operation.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// Registers read, as indices into [`super::warp::Warp::written`].
    pub(crate) reads: Range<u32>,
    /// Registers written.
    pub(crate) writes: Range<u32>,
    pub(crate) class: InstructionClass,
    /// A random schedule may switch after it.
    pub(crate) preempt: bool,
    /// The short way, if it has one.
    pub(crate) quick: Quick,
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) module: Arc<ir::Module>,
    pub(crate) index: usize,
    /// Addresses of the module's variables on this device.
    pub(crate) globals: Arc<[u64]>,
    pub(crate) sides: Vec<Side>,
    /// Register lists of all instructions.
    pub(crate) registers: Vec<u32>,
    /// Constants that stand behind the 32-bit registers of a warp, and behind the 64-bit ones.
    pub(crate) constants: (Vec<u32>, Vec<u64>),
    pub(crate) has_wgmma: bool,
    pub(crate) has_setmaxnreg: bool,
    /// Where its ways meet, once somebody has asked.
    meetings: OnceLock<Meetings>,
}

impl Program {
    pub(crate) fn new(module: Arc<ir::Module>, index: usize, globals: Arc<[u64]>) -> Self {
        let kernel = &module.kernels[index];
        let mut registers = Vec::new();
        let mut builder = Builder::new(kernel);
        let mut sides = Vec::with_capacity(kernel.code.len());
        for instr in &kernel.code {
            let mut reads = Vec::new();
            let mut writes = Vec::new();
            if let Some(guard) = instr.guard {
                reads.push(flat(kernel, Reg::Pred(guard.reg)));
            }
            visit(&instr.op, &mut |reg, access| match access {
                Access::Read => reads.push(flat(kernel, reg)),
                Access::Write => writes.push(flat(kernel, reg)),
            });
            reads.sort_unstable();
            reads.dedup();
            let start = registers.len() as u32;
            registers.extend(reads);
            let middle = registers.len() as u32;
            registers.extend(writes);
            let end = registers.len() as u32;
            let class = class_of(&instr.op);
            use InstructionClass::*;
            let preempt = matches!(class, Global | Shared | Atomic | Synchronisation | AsyncCopy | Tensor);
            let quick = builder.quick(instr);
            sides.push(Side { reads: start..middle, writes: middle..end, class, preempt, quick });
        }
        let has_wgmma = kernel.code.iter().any(|i| matches!(i.op, Op::Wgmma(_)));
        let has_setmaxnreg = kernel.code.iter().any(|i| matches!(i.op, Op::SetMaxNReg { .. }));
        let constants = (builder.constants32, builder.constants64);
        let meetings = OnceLock::new();
        Program { module, index, globals, sides, registers, constants, has_wgmma, has_setmaxnreg, meetings }
    }

    /// See [`Meetings::leaves_out`].
    pub(crate) fn leaves_out(&self, branch: usize, at: usize) -> bool {
        let code = &self.kernel().code;
        self.meetings.get_or_init(|| Meetings::new(code)).leaves_out(code, branch, at)
    }

    #[inline(always)]
    pub(crate) fn kernel(&self) -> &ir::Kernel {
        &self.module.kernels[self.index]
    }

    /// The source name of a register by its flat index.
    pub(crate) fn register_name(&self, flat: u32) -> String {
        let kernel = self.kernel();
        let (names, index) = if flat < kernel.regs32 {
            (&kernel.names32, flat)
        } else if flat < kernel.regs32 + kernel.regs64 {
            (&kernel.names64, flat - kernel.regs32)
        } else {
            (&kernel.names_pred, flat - kernel.regs32 - kernel.regs64)
        };
        names.get(index as usize).cloned().unwrap_or_else(|| format!("register {flat}"))
    }
}

/// Index of a register over all three files.
fn flat(kernel: &ir::Kernel, reg: Reg) -> u32 {
    match reg {
        Reg::B32(i) => i,
        Reg::B64(i) => kernel.regs32 + i,
        Reg::Pred(i) => kernel.regs32 + kernel.regs64 + i,
    }
}

fn class_of(op: &Op) -> InstructionClass {
    use InstructionClass as C;
    let by_space = |space: &Space| match space {
        Space::Generic | Space::Global => C::Global,
        Space::Shared | Space::SharedCluster => C::Shared,
        Space::Local | Space::Param | Space::Const => C::OtherMemory,
    };
    match op {
        Op::Un { ty, .. } | Op::Bin { ty, .. } | Op::Tern { ty, .. } if ty.is_float() => C::Float,
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
        | Op::Cvta { .. }
        | Op::Isspacep { .. }
        | Op::Mapa { .. }
        | Op::GetCtaRank { .. } => C::Integer,
        Op::Cvt { .. } => C::Convert,
        Op::Bra { .. } | Op::Brx { .. } | Op::Exit | Op::Trap => C::Control,
        Op::Ld { space, .. } | Op::St { space, .. } => by_space(space),
        Op::LdMatrix { .. } | Op::StMatrix { .. } => C::Shared,
        Op::Atom { .. } | Op::MultimemLdReduce { .. } | Op::MultimemSt { .. } | Op::MultimemRed { .. } => {
            C::Atomic
        }
        Op::BarSync { .. }
        | Op::BarArrive { .. }
        | Op::BarRed { .. }
        | Op::BarWarpSync { .. }
        | Op::ClusterArrive { .. }
        | Op::ClusterWait { .. }
        | Op::Fence { .. }
        | Op::FenceProxy { .. }
        | Op::MbarInit { .. }
        | Op::MbarInval { .. }
        | Op::MbarTx { .. }
        | Op::MbarArrive(_)
        | Op::MbarWait(_)
        | Op::MbarPendingCount { .. }
        | Op::CpAsyncWait { .. }
        | Op::CpAsyncMbarArrive { .. }
        | Op::BulkWait { .. }
        | Op::WgmmaFence
        | Op::WgmmaCommit
        | Op::WgmmaWait { .. }
        | Op::SetMaxNReg { .. }
        | Op::GridDepControl { .. } => C::Synchronisation,
        Op::CpAsync { .. } | Op::CpAsyncCommit | Op::Bulk(_) | Op::BulkCommit => C::AsyncCopy,
        Op::StAsync { .. } | Op::RedAsync { .. } => C::AsyncCopy,
        Op::Wgmma(_) | Op::Mma(_) => C::Tensor,
        Op::MovMatrix { .. }
        | Op::Shfl { .. }
        | Op::Vote { .. }
        | Op::Match { .. }
        | Op::ActiveMask { .. }
        | Op::Elect { .. }
        | Op::Redux { .. } => C::WarpWide,
        _ => C::Other,
    }
}
