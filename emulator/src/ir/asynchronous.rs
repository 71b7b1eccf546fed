//! Operands of what completes later: mbarriers, bulk and tensor copies, edits of tensor maps.

use super::{Addr, AtomOp, Reg, Scope, Semantics, Space, Src, Type};

/// `mbarrier.arrive`-family variants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MbarArrive {
    /// Address of the mbarrier.
    pub addr: Addr,
    /// `Shared` or `SharedCluster` or `Generic`.
    pub space: Space,
    /// Destination for the opaque state (`_` or absent: `None`).
    pub state: Option<Reg>,
    /// Arrival count (default 1); for `expect_tx` forms the arrival count is 1.
    pub count: Src,
    /// Bytes of `.expect_tx`.
    pub expect_tx: Option<Src>,
    /// `arrive_drop`
    pub drop: bool,
    /// `.noComplete`
    pub no_complete: bool,
    /// Ordering (default release).
    pub sem: Semantics,
    /// Scope (default cta).
    pub scope: Scope,
}

/// `mbarrier.test_wait` / `try_wait`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MbarWait {
    /// Result predicate.
    pub dst: u32,
    /// Address.
    pub addr: Addr,
    /// `Shared` or `Generic`.
    pub space: Space,
    /// Opaque state (B64) or, with `parity`, the phase parity (B32).
    pub phase: Src,
    /// `.parity`
    pub parity: bool,
    /// `try_wait` (may suspend) rather than `test_wait`.
    pub try_wait: bool,
    /// Ordering (default acquire).
    pub sem: Semantics,
    /// Scope (default cta).
    pub scope: Scope,
}

/// Completion mechanism of a bulk copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Completion {
    /// `.mbarrier::complete_tx::bytes` on this shared address.
    Mbarrier(Addr),
    /// `.bulk_group`
    BulkGroup,
}

/// `cp.async.bulk[.tensor]`, `cp.reduce.async.bulk[.tensor]`, and the bulk prefetches.
#[derive(Clone, Debug, PartialEq)]
pub struct BulkCopy {
    /// Where bytes go. For a prefetch: `Generic`, and `dst` is unused.
    pub dst_space: Space,
    /// Destination (for tensor stores and prefetches: unused immediate 0).
    pub dst: Addr,
    /// Where bytes come from.
    pub src_space: Space,
    /// Source (for tensor loads and prefetches: unused immediate 0).
    pub src: Addr,
    /// Size operand of the non-tensor form, in bytes.
    pub size: Option<Src>,
    /// The tensor form.
    pub tensor: Option<TensorAccess>,
    /// How completion is signalled; `None` for prefetches.
    pub completion: Option<Completion>,
    /// `.multicast::cluster` mask operand.
    pub multicast: Option<Src>,
    /// Reduction and its element type (non-tensor; tensor reductions take the map's type).
    pub reduce: Option<(AtomOp, Option<Type>)>,
    /// `.L2::cache_hint` operand (no effect on results).
    pub cache_hint: Option<Src>,
    /// `cp.async.bulk.prefetch…`
    pub prefetch: bool,
}

/// The tensor part of a bulk copy: `[map, {coords}]` and its mode.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorAccess {
    /// Generic address of the 128-byte map.
    pub map: Addr,
    /// Coordinates, innermost first (1 to 5).
    pub coords: Vec<Src>,
    /// `.im2col` offsets (empty for tiled).
    pub im2col: Option<Vec<Src>>,
}

/// Fields of a tensor map that `tensormap.replace` may change.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorMapField {
    GlobalAddress,
    Rank,
    BoxDim,
    GlobalDim,
    GlobalStride,
    ElementStride,
    ElementType,
    InterleaveLayout,
    SwizzleMode,
    FillMode,
}
