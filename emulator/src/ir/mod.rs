//! The typed form of a kernel: what the front end produces once per module and the machine executes.
//!
//! The front end ([`crate::ptx`], [`crate::lower`]) reads text; the machine ([`crate::machine`]) never sees it. Between
//! them stand these types: every register is an index into a dense per-warp file, every branch target an instruction
//! index, every modifier a field. A form that has no representation here is refused by `lower` with file, line and text:
//! unknown is an error, never a guess.
//!
//! Registers come in three files. Everything of 32 bits and below lives in a 32-bit column (narrow values zero-extended),
//! 64-bit values in a 64-bit column, predicates as one lane mask each.

mod asynchronous;
mod module;
mod op;
mod operand;
mod operation;
mod order;
mod product;

pub use asynchronous::{BulkCopy, Completion, MbarArrive, MbarWait, TensorAccess, TensorMapField};
pub use module::{GlobalVar, Instr, Kernel, Module, Param, Relocation};
pub use op::{Hint, Op};
pub use operand::{Addr, PredSrc, Reg, Space, Special, Src, SymbolAddr, Type};
pub use operation::{
    Arith, AtomOp, BarRedOp, BinOp, BoolOp, Cmp, Redux, Round, Shfl, TernOp, UnOp, Video, VideoOp, Vote,
};
pub use order::{ProxyFence, Scope, Semantics};
pub use product::{Mma, ScaleD, Wgmma, WgmmaA};
