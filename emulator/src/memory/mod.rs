//! The memories of a machine: one flat global address space over all devices, shared memory per block, and the windows
//! through which generic addresses reach shared memory, local memory and kernel parameters.
//!
//! Every byte carries one bit that says whether anything was ever written to it. Addresses are never reused, and between
//! two allocations lies a gap that belongs to nobody, so a wild or stale pointer always hits the gap.

pub(crate) mod backing;
pub(crate) mod global;
pub(crate) mod init;
pub(crate) mod shared;

/// Generic addresses of shared memory: window plus 32-bit shared address (rank of the block in bits 24 and up).
pub(crate) const SHARED_WINDOW: u64 = 0x7f00_0000_0000;
/// Generic addresses of local memory: window plus byte offset.
pub(crate) const LOCAL_WINDOW: u64 = 0x7e00_0000_0000;
/// Generic addresses of kernel parameters: window plus byte offset.
pub(crate) const PARAM_WINDOW: u64 = 0x7d00_0000_0000;
/// Size of each window.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;
/// Where the rank of a block begins in a shared address.
pub(crate) const RANK_SHIFT: u32 = 24;
/// First byte of a block's shared memory that belongs to the program; below lies what the system reserves.
pub(crate) const SHARED_BASE: u32 = 1024;

/// Why a range of bytes cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Not inside one allocation.
    OutOfBounds,
    /// The byte at this address was never written.
    Uninitialised(u64),
}
