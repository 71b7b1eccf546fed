//! Quantisation to E4M3 with scales: activations by 1×128, weights by 128×128.
//!
//! `q · scale` gives the value back. A scale is the group's largest magnitude over 448 (at least 1e-4 over 448), on
//! request rounded up to a power of two; see [`mod@reference`] for every rounding. Groups at the right and lower edge are
//! smaller when the shape is not a multiple of 128.
//!
//! Scales may be written row-major or transposed. The GEMM wants those of its activations M-major, with a leading
//! dimension that is a multiple of 4:
//!
//! ```no_run
//! # use hadal::{Device, E4M3, Result, bf16, quant};
//! # fn main() -> Result<()> {
//! # let (rows, cols) = (5, 7168);
//! # let device = Device::open_default()?;
//! # let stream = device.new_stream()?;
//! # let x = device.alloc::<bf16>(rows * cols)?;
//! let mut q = device.alloc::<E4M3>(rows * cols)?;
//! let ld = quant::m_major_stride(rows);
//! let mut scales = device.alloc::<f32>(ld * cols / 128)?;
//! let plan = quant::Plan::new(&device, quant::Shape::new(rows, cols), quant::Options::activations())?;
//! plan.run(
//!     &stream,
//!     quant::Args::new(
//!         x.matrix(rows, cols)?,
//!         q.matrix_mut(rows, cols)?,
//!         scales.view_mut(0, [rows, cols / 128], [1, ld])?,
//!     ),
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! **Determinism.** Every group is computed by itself with a maximum that does not depend on order: the same inputs give
//! the same bits, always.

mod plan;
pub mod reference;

pub use plan::{Args, Options, Plan, Shape, supports};

/// The smallest leading dimension of M-major scales for `rows` rows: a multiple of 4, so that columns of scales begin at
/// multiples of 16 bytes. Of more rows than there can be, the largest multiple there is.
pub const fn m_major_stride(rows: usize) -> usize {
    rows.saturating_add(3) / 4 * 4
}
