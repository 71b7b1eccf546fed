//! Global memory: a table of ranges over one 64-bit address space that all devices share.
//!
//! Device `d` allocates upwards from `(d + 1) << 40`. Addresses are handed out once; a freed range never comes back, so
//! use after free is out of bounds. The operating system gives the bytes lazily: a large allocation costs what is touched.

use std::cell::Cell;

use super::Trouble;
use super::init::InitMap;

/// Bytes that belong to nobody on either side of an allocation.
const GAP: u64 = 4096;

/// One allocation.
#[derive(Debug)]
pub(crate) struct Range {
    /// First address.
    pub(crate) base: u64,
    /// Bytes that belong to the caller.
    pub(crate) len: u64,
    /// Owner.
    pub(crate) device: usize,
    /// Constant variables: kernels may not store.
    pub(crate) read_only: bool,
    data: Vec<u8>,
    init: InitMap,
    /// Every byte is written: the map need not be asked.
    complete: bool,
}

/// All allocations of all devices, in address order.
#[derive(Debug, Default)]
pub(crate) struct GlobalMemory {
    ranges: Vec<Range>,
    next: Vec<u64>,
    used: Vec<u64>,
    recent: Cell<usize>,
}

impl GlobalMemory {
    /// Empty memories for so many devices.
    pub(crate) fn new(devices: usize) -> Self {
        GlobalMemory {
            ranges: Vec::new(),
            next: (0..devices as u64).map(|d| (d + 1) << 40).collect(),
            used: vec![0; devices],
            recent: Cell::new(0),
        }
    }

    /// Bytes allocated on a device.
    pub(crate) fn used(&self, device: usize) -> u64 {
        self.used[device]
    }

    /// A new range; `align` is a power of two. Room must have been checked.
    pub(crate) fn alloc(&mut self, device: usize, len: u64, align: u64) -> u64 {
        let base = (self.next[device] + GAP).next_multiple_of(align.max(256));
        self.next[device] = base + len;
        self.used[device] += len;
        let at = self.ranges.partition_point(|r| r.base < base);
        let range = Range {
            base,
            len,
            device,
            read_only: false,
            data: vec![0; len as usize],
            init: InitMap::new(len as usize),
            complete: len == 0,
        };
        self.ranges.insert(at, range);
        base
    }

    /// Drops the range that begins at `base`.
    pub(crate) fn free(&mut self, base: u64) -> bool {
        match self.ranges.binary_search_by_key(&base, |r| r.base) {
            Ok(at) => {
                let range = self.ranges.remove(at);
                self.used[range.device] -= range.len;
                true
            }
            Err(_) => false,
        }
    }

    /// Makes a range constant.
    pub(crate) fn protect(&mut self, base: u64) {
        if let Ok(at) = self.ranges.binary_search_by_key(&base, |r| r.base) {
            self.ranges[at].read_only = true;
        }
    }

    /// The range that holds `len` bytes at `address`, and the offset inside it.
    #[inline]
    pub(crate) fn find(&self, address: u64, len: u64) -> Option<(usize, usize)> {
        let inside = |r: &Range| {
            let offset = address.wrapping_sub(r.base);
            (offset <= r.len && len <= r.len - offset).then_some(offset as usize)
        };
        let recent = self.recent.get();
        if let Some(range) = self.ranges.get(recent)
            && let Some(offset) = inside(range)
        {
            return Some((recent, offset));
        }
        let at = self.ranges.partition_point(|r| r.base <= address).checked_sub(1)?;
        let offset = inside(&self.ranges[at])?;
        self.recent.set(at);
        Some((at, offset))
    }

    /// The range nearest to an address, for reports: base and length.
    pub(crate) fn nearest(&self, address: u64) -> Option<(u64, u64)> {
        let at = self.ranges.partition_point(|r| r.base <= address);
        let below = at.checked_sub(1).map(|i| &self.ranges[i]);
        let above = self.ranges.get(at);
        let range = match (below, above) {
            (Some(b), Some(a)) if a.base - address < address - b.base.saturating_add(b.len).min(address) => a,
            (Some(b), _) => b,
            (None, a) => a?,
        };
        Some((range.base, range.len))
    }

    /// Is the range at this index constant?
    #[inline]
    pub(crate) fn read_only(&self, range: usize) -> bool {
        self.ranges[range].read_only
    }

    /// The bytes of a range, if inside one allocation and (with `check`) all written.
    #[inline]
    pub(crate) fn read(&self, address: u64, len: u64, check: bool) -> Result<&[u8], Trouble> {
        let (at, offset) = self.find(address, len).ok_or(Trouble::OutOfBounds)?;
        let range = &self.ranges[at];
        if check
            && !range.complete
            && let Some(byte) = range.init.first_unwritten(offset, len as usize)
        {
            return Err(Trouble::Uninitialised(range.base + byte as u64));
        }
        Ok(&range.data[offset..offset + len as usize])
    }

    /// A range to be overwritten entirely: marked as written.
    #[inline]
    pub(crate) fn write(&mut self, address: u64, len: u64) -> Result<&mut [u8], Trouble> {
        let (at, offset) = self.find(address, len).ok_or(Trouble::OutOfBounds)?;
        let range = &mut self.ranges[at];
        if !range.complete {
            if len == range.len {
                range.complete = true;
            } else {
                range.init.mark(offset, len as usize);
            }
        }
        Ok(&mut range.data[offset..offset + len as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_freed_ranges_belong_to_nobody() {
        let mut memory = GlobalMemory::new(2);
        let a = memory.alloc(0, 1000, 256);
        let b = memory.alloc(0, 1000, 256);
        let c = memory.alloc(1, 10, 1);
        assert!(b >= a + 1000 + GAP && c > b);
        assert_eq!(memory.read(a + 999, 1, false).map(<[u8]>::len), Ok(1));
        assert_eq!(memory.read(a + 999, 2, false), Err(Trouble::OutOfBounds));
        assert_eq!(memory.read(a, 4, true), Err(Trouble::Uninitialised(a)));
        memory.write(a, 4).unwrap().copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(memory.read(a, 4, true), Ok(&[1u8, 2, 3, 4][..]));
        assert_eq!(memory.read(a, 5, true), Err(Trouble::Uninitialised(a + 4)));
        assert_eq!(memory.nearest(a + 1001), Some((a, 1000)));
        assert!(memory.free(a) && !memory.free(a + 1));
        assert_eq!(memory.read(a, 4, false), Err(Trouble::OutOfBounds));
        assert_eq!(memory.used(0), 1000);
    }
}
