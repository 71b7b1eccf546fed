//! Multi-head latent attention of a decoding step over a paged BF16 cache, and the writer that appends to the cache.
//!
//! Every cached token is one row of 576 BF16 numbers: 512 of latent, which are key and value at once, and 64 of RoPE. All query
//! heads share it. Queries come absorbed: `[requests · query_tokens · heads, 576]`. See [`mod@reference`] for what is computed.
//!
//! ```no_run
//! # use hadal::{Device, Result, bf16, mla};
//! # fn main() -> Result<()> {
//! let (requests, heads, most_tokens, page) = (4, 128, 4096, 64);
//! # let pages = 256;
//! # let device = Device::open_default()?;
//! # let stream = device.new_stream()?;
//! # let q = device.alloc::<bf16>(requests * heads * mla::HEAD)?;
//! # let cache = device.alloc::<bf16>(pages * page * mla::HEAD)?;
//! # let (table, lengths) = (device.alloc::<i32>(requests * most_tokens / page)?, device.alloc::<i32>(requests)?);
//! let softmax_scale = 192f32.sqrt().recip();
//! let shape = mla::Shape::new(requests, heads, most_tokens).page(page);
//! let plan = mla::Plan::new(&device, shape, mla::Options::new(softmax_scale))?;
//! let bytes = plan.workspace().bytes;
//! let mut workspace = device.alloc::<u8>(bytes)?;
//! let mut out = device.alloc::<bf16>(requests * heads * mla::LATENT)?;
//! let mut lse = device.alloc::<f32>(requests * heads)?;
//! plan.run(
//!     &stream,
//!     mla::Args::new(
//!         q.matrix(requests * heads, mla::HEAD)?,
//!         cache.matrix(pages * page, mla::HEAD)?,
//!         table.matrix(requests, most_tokens / page)?,
//!         lengths.matrix(1, requests)?,
//!         out.matrix_mut(requests * heads, mla::LATENT)?,
//!         lse.matrix_mut(requests, heads)?,
//!     )
//!     .workspace(workspace.matrix_mut(1, bytes)?),
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! **Splitting.** Lengths are read on the device. Every thread block computes from them which pieces of which requests are
//! its own, so that one long request keeps every SM busy, and nothing has to be planned again when lengths change. A second
//! kernel puts split requests together; it is not launched when the plan can split nothing, and passes by what was not split.
//!
//! **Determinism.** The same inputs and plan give the same bits, always. Where a request is cut depends on the other requests
//! and on the SM budget, so its last bits may too; [`Options::batch_invariant`] makes them a function of its own length and
//! the split size alone.

mod args;
pub mod cache;
mod plan;
pub mod reference;

pub use args::{Args, LseBase, Options, Shape};
pub use plan::{Plan, supports};

/// Columns of a query and of a cached token: latent and RoPE.
pub const HEAD: usize = 576;
/// Columns of the latent, and of an output.
pub const LATENT: usize = 512;
