//! Where the bytes of an allocation live: on our heap, or in memory of the host program.

/// The bytes of an allocation.
#[derive(Debug)]
pub(crate) enum Backing {
    /// Ours.
    Heap(Vec<u8>),
    /// The host program's, which reads and writes it without us.
    Host(HostBytes),
}

/// Memory that belongs to somebody else.
#[derive(Debug)]
pub(crate) struct HostBytes {
    start: *mut u8,
    len: usize,
}

// SAFETY: whoever maps host memory ([`HostBytes::new`]) promises that it may be used from wherever the machine runs.
unsafe impl Send for HostBytes {}

impl HostBytes {
    /// Takes the use of `len` bytes at `start`.
    ///
    /// # Safety
    ///
    /// They must stay valid for reads and writes from any thread, and nobody may touch them while the machine runs, until the
    /// allocation is freed.
    pub(crate) unsafe fn new(start: *mut u8, len: usize) -> HostBytes {
        HostBytes { start, len }
    }
}

impl Backing {
    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Backing::Heap(bytes) => bytes,
            // SAFETY: `HostBytes::new` was promised that the range is valid, and that nobody writes while we look.
            Backing::Host(host) => unsafe { std::slice::from_raw_parts(host.start, host.len) },
        }
    }

    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Backing::Heap(bytes) => bytes,
            // SAFETY: as above, and `&mut self` makes this the machine's only access.
            Backing::Host(host) => unsafe { std::slice::from_raw_parts_mut(host.start, host.len) },
        }
    }
}
