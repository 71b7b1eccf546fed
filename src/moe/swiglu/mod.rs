//! SwiGLU with quantisation: `E4M3(silu(gate) · up)` with a scale for each row and 128 columns, in one pass.
//!
//! An expert's first matrix product leaves `[rows, 2·cols]`, gate in the left half and up in the right; its second wants E4M3 with
//! 1×128 scales. How many rows each expert has is known to the device alone, so the kernel reads it there, in either layout:
//!
//! | layout | rows of group `g` | `sizes[g]` |
//! | --- | --- | --- |
//! | contiguous | from the end of its predecessor, rounded up to a multiple of the alignment | one past its last row |
//! | masked | from `g · rows_per_group` | how many |
//!
//! Rows between and behind the groups are neither read nor written, and cost nothing. Sizes that make no sense (negative, past the
//! last row, ends that fall back) are cut to what lies inside `x`: nothing outside the arguments is ever touched. Where ends fall back groups
//! share rows.
//!
//! **Determinism.** Every group of 128 is computed by itself: the same inputs give the same bits, always. See [`mod@reference`] for
//! every rounding; y is not rounded to BF16 before it is quantised.

mod plan;
pub mod reference;

pub use plan::{Args, Options, Plan, Shape, supports};
