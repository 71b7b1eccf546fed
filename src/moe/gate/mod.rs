//! The gate: from router logits to each token's experts, their weights, and how many tokens each expert got.
//!
//! Two kinds: DeepSeek-V3's (sigmoid scores, a bias that takes part in the choice alone, choice limited to the best groups of
//! experts, weights normalised and scaled) and plain softmax top-k. [`mod@reference`] states every rounding and every tie; the
//! kernels are held to it bit for bit.
//!
//! ```no_run
//! # use hadal::{Device, Result, moe::gate};
//! # fn main() -> Result<()> {
//! # let (tokens, experts) = (128, 256);
//! # let device = Device::open_default()?;
//! # let stream = device.new_stream()?;
//! # let (logits, bias) = (device.alloc::<f32>(tokens * experts)?, device.alloc::<f32>(experts)?);
//! # let mut topk_idx = device.alloc::<i32>(tokens * 8)?;
//! # let mut topk_weight = device.alloc::<f32>(tokens * 8)?;
//! let plan = gate::Plan::new(&device, gate::Shape::new(tokens, experts), gate::Options::deepseek_v3())?;
//! plan.run(
//!     &stream,
//!     gate::Args::new(
//!         logits.matrix(tokens, experts)?,
//!         topk_idx.matrix_mut(tokens, 8)?,
//!         topk_weight.matrix_mut(tokens, 8)?,
//!     )
//!     .bias(bias.matrix(1, experts)?),
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! **Determinism.** A token's choice depends on its own logits alone: the same inputs give the same bits, always. Counts are sums of
//! integers.

mod plan;
pub mod reference;

pub use plan::{Args, Options, Plan, Score, Shape, supports};
