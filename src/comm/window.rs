//! One rank's view.

use std::fmt;
use std::sync::Arc;

use super::PeerHandles;
use super::symmetric::Memory;
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};

/// What one rank sees of symmetric memory: its own device, and for every rank the address where kernels of that device find that rank's
/// memory. Cheap to clone; a window of a [`SymmetricBuffer`](super::SymmetricBuffer) keeps its memory alive.
#[derive(Clone)]
pub struct Window(Arc<Inner>);

struct Inner {
    device: Device,
    rank: usize,
    bases: Vec<u64>,
    bytes: u64,
    /// The bases, in the device's memory.
    table: Buffer<u8>,
    _memory: Option<Arc<Memory>>,
}

impl Window {
    pub(super) fn new(
        device: &Device,
        rank: usize,
        bases: Vec<u64>,
        bytes: u64,
        memory: Option<Arc<Memory>>,
    ) -> Result<Window> {
        if rank >= bases.len() {
            return Err(Error::bounds("rank", format_args!("below {} ranks", bases.len()), rank));
        }
        for (of, base) in bases.iter().enumerate() {
            if *base == 0 || !base.is_multiple_of(256) {
                let expected = "addresses that are multiples of 256 bytes, and not 0";
                return Err(Error::alignment("bases", expected, format_args!("{base:#x} for rank {of}")));
            }
            if base.checked_add(bytes).is_none() {
                let expected = format!("{bytes} bytes below the end of the address space");
                return Err(Error::bounds("bases", expected, format_args!("{base:#x} for rank {of}")));
            }
            let twin = bases[..of].iter().position(|other| other.abs_diff(*base) < bytes);
            if let Some(twin) = twin {
                return Err(Error::overlap(
                    "bases",
                    format_args!("{bytes} bytes for each rank, apart from each other"),
                    format_args!("{:#x} for rank {twin} and {base:#x} for rank {of}", bases[twin]),
                ));
            }
        }
        let stream = device.default_stream();
        let words: Vec<u8> = bases.iter().flat_map(|base| base.to_le_bytes()).collect();
        let table = device.upload(&stream, &words)?;
        stream.synchronize()?;
        Ok(Window(Arc::new(Inner { device: device.clone(), rank, bases, bytes, table, _memory: memory })))
    }

    /// A window of memory that somebody else manages: `bases[r]` is where kernels of `device` find the `bytes` bytes of rank `r`.
    ///
    /// # Safety
    ///
    /// Kernels of `device` may load and store all `bytes` bytes at every base, with system-scope atomicity of aligned 8-byte words,
    /// as long as the window or anything made of it is in use; nothing else uses the memory meanwhile. The memory of this rank is
    /// all zeros before any rank's first operation on it.
    pub unsafe fn from_raw(device: &Device, rank: usize, bases: Vec<u64>, bytes: u64) -> Result<Window> {
        Window::new(device, rank, bases, bytes, None)
    }

    /// A window of this rank's memory and that of the peers `handles` knows.
    ///
    /// # Safety
    ///
    /// As [`Window::from_raw`], for the addresses that `handles` gives.
    pub unsafe fn exchange(
        device: &Device,
        base: u64,
        bytes: u64,
        handles: &dyn PeerHandles,
    ) -> Result<Window> {
        let bases = handles.exchange(device, base, bytes)?;
        let (rank, ranks) = (handles.rank(), handles.ranks());
        if bases.len() != ranks {
            let expected = format!("an address for each of {ranks} ranks");
            return Err(Error::shape("handles", expected, format_args!("{} addresses", bases.len())));
        }
        if bases.get(rank) != Some(&base) {
            let expected = format!("this rank's own memory, {base:#x}, as address {rank}");
            return Err(Error::bounds("handles", expected, format_args!("{bases:x?}")));
        }
        Window::new(device, rank, bases, bytes, None)
    }

    /// The rank's device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Which rank this is.
    pub fn rank(&self) -> usize {
        self.0.rank
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.0.bases.len()
    }

    /// Bytes of each rank.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Where kernels of this rank's device find each rank's memory.
    pub fn bases(&self) -> &[u64] {
        &self.0.bases
    }

    /// Where this rank's own memory begins.
    pub fn base(&self) -> u64 {
        self.0.bases[self.0.rank]
    }

    /// The address, in the device's memory, of the bases as an array of 64-bit words: what kernels are given.
    pub fn table(&self) -> u64 {
        self.0.table.address()
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { device, rank, bases, bytes, .. } = &*self.0;
        write!(f, "Window(rank {rank} of {} on {}, {bytes} bytes at {bases:x?})", bases.len(), device.id())
    }
}
