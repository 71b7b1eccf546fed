//! Runs PTX for NVIDIA Hopper (`sm_90a`) on the CPU, with the checks a chip does not make.
//!
//! A [`Machine`] has devices; a device has memory, streams and SMs. Load an [`ir::Module`], launch a kernel on a stream,
//! and it runs when something waits for it, on the calling thread, from a seed: same seed, same bits. Whatever goes
//! wrong comes back as a [`Report`] that names the line, the warp, the lanes, the address and the other party.

mod check;
pub mod convert;
#[cfg(feature = "cli")]
pub mod coverage;
mod exec;
pub mod ir;
pub mod lower;
pub mod machine;
pub mod mbarrier;
mod memory;
pub mod ptx;
pub mod report;
#[cfg(feature = "proptest")]
pub mod strategy;
pub mod tensor;
pub mod tma;

pub use machine::{
    CaptureInfo, Checks, Completion, Counters, DeviceConfig, EventId, GraphExecId, GraphId, GraphNode,
    InstructionClass, KernelCounters, Launch, Machine, MachineConfig, ModuleId, Schedule, SharedPlacement,
    StreamId, UnknownName,
};
pub use report::{Class, Fault, GraphError, MachineError, Place, Report};

/// The README's code, which `cargo test` compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
