//! Dispatch and combine: tokens to the ranks their experts live on, and the experts' answers back, over plain peer pointers.
//!
//! For batches that fill the links (prefill, large decode batches). One exchange is a [`Plan`] for each rank, on one [`Window`] of
//! symmetric memory each; every rank runs the same operations in the same order, each on a stream of its own device:
//!
//! | operation | what it does | on the links |
//! | --- | --- | --- |
//! | [`Plan::dispatch`] | each token straight into its final row at every rank that holds one of its experts | one row (BF16, or E4M3 and scales) for each token and rank |
//! | [`Plan::expand`] | received rows to one row for each local expert, experts together and aligned, as the grouped GEMM reads them | nothing |
//! | [`Plan::combine`] | weighted sum over the experts of a rank, then over ranks | one BF16 row for each token and rank |
//!
//! Counts stay on the device: nothing here waits for the host, so all of it may stand in a CUDA graph. Received rows lie by source rank
//! and then by token, expanded rows by expert and then by received row; sums run over choices, then over ranks, in ascending order.
//! **The same inputs give the same bits, always**, whatever the schedule, the SMs or the other ranks' speed. [`mod@reference`] states it
//! in plain Rust.
//!
//! **Handles.** A dispatch writes where its tokens went into memory the caller brings, and the combine after it reads that. A handle may
//! be used again: [`Dispatch::cached`] sends tokens with the same `topk_idx` without counting anew. All ranks must do so together.
//!
//! **Capacity.** A rank has room for `capacity` received rows. Rows beyond are not written; the status of the receiver and of the sender
//! count them, and a combine leaves their share out. The same holds for expanded rows that find no room.
//!
//! **One exchange, one window.** All ranks plan the same shape and options, and nothing else uses the window. Ranks that do not keep to this, or
//! two exchanges on one window, get wrong numbers; but no kernel follows what it finds there out of the windows and its arguments.
//!
//! **A rank that does not answer** is found by waits that are bounded ([`Options::patience`]). Then the status says which rank was missed
//! while waiting for what, the dispatch delivers no rows, the combine leaves `out` as it was, and every kernel ends. Ranks that went on
//! without each other cannot be brought back together: the window must be zeroed on all ranks, with none of them running.
//!
//! **SMs and residency.** Every kernel has at most [`Options::sms`] blocks. No block waits for another block of its own grid, so a grid may run
//! in any number of pieces beside other work; waits are for other ranks' kernels only, which must be able to run at the same time.

mod args;
mod check;
mod layout;
mod plan;
pub mod reference;
mod shape;
mod status;

pub use args::{Combine, Dispatch, Expand, Received};
pub use plan::{Plan, supports};
pub use shape::{Options, Shape};
pub use status::{Phase, Status};

#[allow(unused_imports)] // For the links above.
use crate::comm::Window;
