//! FP8 matrix products with block scales: `out[M,N] = (a · a_scales) · (weight · weight_scale_inv)ᵀ`.
//!
//! `a` is E4M3 with a scale for every row and 128 of K, `weight` E4M3 with a scale for every 128×128 block, as DeepSeek's
//! checkpoints have them; `out` is BF16 or F32. The tensor core multiplies 128 of K at a time, the scales come in when its
//! sums are promoted to FP32 (see [`mod@reference`] for every rounding). Any M, N a multiple of 8, K a multiple of 16.
//!
//! ```no_run
//! # use hadal::{Device, E4M3, Result, bf16, gemm};
//! # fn main() -> Result<()> {
//! let (m, n, k) = (128, 2112, 7168);
//! let device = Device::open_default()?;
//! let stream = device.new_stream()?;
//! let plan = gemm::Plan::new(&device, gemm::Shape::new(m, n, k), gemm::Options::new())?;
//! println!("{}", plan.explain());
//!
//! # let (a, a_scales) = (device.alloc::<E4M3>(m * k)?, device.alloc::<f32>(m * k / 128)?);
//! # let (weight, scale_inv) = (device.alloc::<E4M3>(n * k)?, device.alloc::<f32>(17 * k / 128)?);
//! let mut out = device.alloc::<bf16>(m * n)?;
//! plan.run(
//!     &stream,
//!     gemm::Args::new(
//!         a.matrix(m, k)?,
//!         a_scales.matrix(k / 128, m)?.t(), // M-major
//!         weight.matrix(n, k)?,
//!         scale_inv.matrix(17, k / 128)?,
//!         out.matrix_mut(m, n)?,
//!     ),
//! )?;
//! let result = out.to_vec(&stream)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`GroupedPlan`] does the same for the experts of a layer: the rows of `a` lie in groups, each with a weight of its own, and how
//! many rows a group has is read from device memory.
//!
//! **Determinism.** Each output is summed over K from first to last, whatever the tile, M or SM budget: the same inputs
//! give the same bits, always.

mod args;
mod cost;
mod grouped;
mod plan;
pub mod reference;

pub use args::{Args, Options, Shape};
pub use cost::{Estimate, Explanation};
pub use grouped::{GroupedArgs, GroupedPlan, GroupedShape, supports_grouped};
pub use plan::{Plan, supports};
