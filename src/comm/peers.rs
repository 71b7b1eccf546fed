//! The seam to other processes.

use crate::device::Device;
use crate::error::Result;

/// Whoever can show this rank's memory to its peers, and theirs to it.
///
/// One process per device, several nodes behind one fabric, an engine that has its symmetric heap already: each knows how its handles
/// travel, and this library does not want to. An implementation exports the allocation, exchanges what it has to with the other
/// ranks, opens what came back, and answers with addresses that kernels of `device` may load from and store to.
///
/// Every rank calls [`Window::exchange`](super::Window::exchange) in the same order; the call may wait for all of them.
pub trait PeerHandles {
    /// This rank.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn ranks(&self) -> usize;

    /// Publishes `bytes` bytes at `base`, memory of `device`, and returns where every rank's memory lies for kernels of `device`, in
    /// rank order, this rank's own being `base`. All stay open as long as the implementation says, and at least as long as windows
    /// made of them are used.
    fn exchange(&self, device: &Device, base: u64, bytes: u64) -> Result<Vec<u64>>;
}
