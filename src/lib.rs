//! Hand-tuned PTX kernels for DeepSeek-class mixture-of-experts models, behind a safe API, with an emulator that runs
//! them where there is no GPU.
//!
//! | module | what |
//! | --- | --- |
//! | [`gemm`] | FP8 matrix products with block scales |
//! | [`quant`] | quantisation to FP8 with block scales |
//! | [`mla`] | decoding attention over a paged latent cache, and its writer |
//! | [`moe`] | mixture of experts: gate, exchange between ranks, SwiGLU, placement of experts on GPUs |
//! | [`comm`] | several devices, and memory that all of them see |
//! | [`device`] | devices, streams, buffers, and the driver boundary beneath them |
//! | [`tensor`] | views of device memory |
//! | [`kernel`] | the table of kernels this build carries |
//!
//! Every operation is planned, then run. `Plan::new` is host work: it chooses a kernel and says what scratch memory it
//! wants. `plan.run` checks its arguments and enqueues; it allocates nothing, copies nothing and waits for nothing, so it
//! may stand inside a CUDA graph. The caller owns every buffer. Each family has a `reference` module that states its
//! arithmetic to the last rounding, in plain Rust.
//!
//! Features: `cuda` loads the CUDA driver at run time (nothing of CUDA is needed to build or link); `emulator` runs the
//! same PTX on the CPU. Both are on by default; engines turn the defaults off and `cuda` on. `cudarc` adds `interop`: cudarc's
//! streams and slices as ours.

#![deny(missing_docs, unsafe_op_in_unsafe_fn)]

pub mod comm;
pub mod device;
pub mod dtype;
pub mod error;
pub mod gemm;
#[cfg(feature = "cudarc")]
pub mod interop;
pub mod kernel;
pub mod mla;
pub mod moe;
pub mod quant;
pub mod tensor;

pub use device::{Buffer, Device, Stream};
pub use dtype::{DType, E4M3, Element, bf16, f16};
pub use error::{Error, Result};
pub use tensor::{Matrix, MatrixMut, Workspace};

/// The emulator's own crate: configurations, schedules, counters and reports for [`Device::emulate`].
#[cfg(feature = "emulator")]
pub use hadal_emulator as emulator;

/// The README's code, which `cargo test` compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
