//! The operands of each operation.

use crate::tensor::{Matrix, MatrixMut};

/// The operands of a dispatch.
#[derive(Debug)]
pub struct Dispatch<'a> {
    pub(super) x: Matrix<'a>,
    pub(super) scales: Option<Matrix<'a>>,
    pub(super) topk_idx: Matrix<'a>,
    pub(super) topk_weight: Matrix<'a>,
    pub(super) handle: MatrixMut<'a>,
    pub(super) cached: bool,
}

impl<'a> Dispatch<'a> {
    /// The operands:
    ///
    /// | argument | type | shape | layout |
    /// | --- | --- | --- | --- |
    /// | `x` | the payload's | `[tokens, hidden]` | row-major, address and row stride multiples of 16 bytes |
    /// | `topk_idx` | I32 | `[tokens, topk]` | contiguous |
    /// | `topk_weight` | F32 | `[tokens, topk]` | contiguous |
    /// | `handle` | U8 | `[1, Plan::handle().bytes]` | contiguous, at a multiple of 16 bytes |
    ///
    /// `topk_idx` holds experts of all ranks together, -1 where a token chose fewer; any other number is taken for -1, and the status says
    /// so ([`Status::strange_choice`](super::Status::strange_choice)). `handle` is written, and read by the combine.
    pub fn new(
        x: Matrix<'a>,
        topk_idx: Matrix<'a>,
        topk_weight: Matrix<'a>,
        handle: MatrixMut<'a>,
    ) -> Dispatch<'a> {
        Dispatch { x, scales: None, topk_idx, topk_weight, handle, cached: false }
    }

    /// The scales of an E4M3 payload: F32 `[tokens, ⌈hidden/128⌉]`, row-major.
    #[must_use]
    pub fn scales(mut self, scales: Matrix<'a>) -> Dispatch<'a> {
        self.scales = Some(scales);
        self
    }

    /// Whether `handle` already knows where these tokens go: an earlier dispatch with the same number of tokens and the same
    /// `topk_idx` wrote it. All ranks say yes, or all say no. A handle that knows of other tokens sends rows to wrong places, or not at all;
    /// nothing is touched outside the windows and the arguments.
    #[must_use]
    pub fn cached(mut self, yes: bool) -> Dispatch<'a> {
        self.cached = yes;
        self
    }
}

/// The operands of an expansion.
#[derive(Debug)]
pub struct Expand<'a> {
    pub(super) x: MatrixMut<'a>,
    pub(super) scales: Option<MatrixMut<'a>>,
    pub(super) map: MatrixMut<'a>,
    pub(super) ends: MatrixMut<'a>,
}

impl<'a> Expand<'a> {
    /// The results:
    ///
    /// | argument | type | shape | layout |
    /// | --- | --- | --- | --- |
    /// | `x` | the payload's | `[rows, hidden]` | row-major, address and row stride multiples of 16 bytes |
    /// | `map` | I32 | `[1, rows]`: the row's local expert, -1 for padding | contiguous |
    /// | `ends` | I32 | `[1, experts/ranks]`: one past the expert's last row | contiguous |
    ///
    /// Expert `e` begins at `ends[e - 1]` rounded up to a multiple of the alignment. `rows` is whatever `x` has; what finds no room is
    /// left out and counted in the status. Padding rows of `x` and `scales` are not written.
    pub fn new(x: MatrixMut<'a>, map: MatrixMut<'a>, ends: MatrixMut<'a>) -> Expand<'a> {
        Expand { x, scales: None, map, ends }
    }

    /// The scales of an E4M3 payload: F32 `[rows, ⌈hidden/128⌉]`, row-major or transposed (M-major, as the GEMM reads them).
    #[must_use]
    pub fn scales(mut self, scales: MatrixMut<'a>) -> Expand<'a> {
        self.scales = Some(scales);
        self
    }
}

/// The operands of a combine.
#[derive(Debug)]
pub struct Combine<'a> {
    pub(super) y: Matrix<'a>,
    pub(super) handle: Matrix<'a>,
    pub(super) out: MatrixMut<'a>,
}

impl<'a> Combine<'a> {
    /// The operands:
    ///
    /// | argument | type | shape | layout |
    /// | --- | --- | --- | --- |
    /// | `y` | BF16 | `[rows, hidden]`, as many as the expansion had, placed as it placed them | row-major, address and row stride multiples of 16 bytes |
    /// | `handle` | U8 | the dispatch's | contiguous |
    /// | `out` | BF16 | `[tokens, hidden]` | row-major, address and row stride multiples of 16 bytes |
    ///
    /// A choice whose place lies past the rows of `y` adds nothing, and is counted with those that found no room
    /// ([`Status::lost_expanded`](super::Status::lost_expanded)).
    pub fn new(y: Matrix<'a>, handle: Matrix<'a>, out: MatrixMut<'a>) -> Combine<'a> {
        Combine { y, handle, out }
    }
}

/// What the last dispatch brought, in this rank's window. Valid from the end of that dispatch to the beginning of the next, in stream
/// order.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// How many rows there are: I32 `[1, 1]`, at most the capacity.
    pub rows: Matrix<'a>,
    /// The first row of each source rank: I32 `[1, ranks]`.
    pub sources: Matrix<'a>,
    /// The payload's type, `[capacity, hidden]`, by source rank and then token.
    pub x: Matrix<'a>,
    /// F32 `[capacity, ⌈hidden/128⌉]`, if the payload has scales.
    pub scales: Option<Matrix<'a>>,
    /// I32 `[capacity, topk]`: local experts, -1 where the choice lives elsewhere.
    pub topk_idx: Matrix<'a>,
    /// F32 `[capacity, topk]`, 0 where the choice lives elsewhere.
    pub topk_weight: Matrix<'a>,
}
