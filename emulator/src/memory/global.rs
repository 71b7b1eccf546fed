//! Global memory: a table of ranges over one 64-bit address space that all devices share.
//!
//! Device `d` allocates upwards from `(d + 1) << 40`. Addresses are handed out once; a freed range never comes back, so
//! use after free is out of bounds. The operating system gives the bytes lazily: a large allocation costs what is touched.
//!
//! A kernel reaches what its device owns, host memory, and the memory of peers its device was given access to: `reach` says which,
//! and everything else does not exist for it. Multicast addresses ([`Multicast`]) are no memory; only `multimem` knows them.

use std::cell::Cell;

use super::backing::{Backing, HostBytes};
use super::init::InitMap;
use super::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Trouble, WINDOW_BYTES};

/// Bytes that belong to nobody on either side of an allocation.
const GAP: u64 = 4096;

/// The owner of host memory, in the place of a device.
pub(crate) const HOST: usize = usize::MAX;
/// Where host memory that the machine allocates begins.
const HOST_BASE: u64 = 1 << 52;
/// Where multicast addresses begin.
const MULTICAST_BASE: u64 = 1 << 53;

/// Addresses that stand for several allocations.
#[derive(Debug)]
pub(crate) struct Multicast {
    base: u64,
    len: u64,
    /// Offset in the object, length, and address of the memory there.
    bound: Vec<(u64, u64, u64)>,
}

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
    /// Bit of the owner; all bits for host memory.
    owner: u64,
    data: Backing,
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
    /// Owners that can be reached now, by bit.
    reach: u64,
    multicasts: Vec<Multicast>,
    next_host: u64,
}

impl GlobalMemory {
    /// Empty memories for so many devices.
    pub(crate) fn new(devices: usize) -> Self {
        GlobalMemory {
            ranges: Vec::new(),
            next: (0..devices as u64).map(|d| (d + 1) << 40).collect(),
            used: vec![0; devices],
            recent: Cell::new(0),
            reach: u64::MAX,
            multicasts: Vec::new(),
            next_host: HOST_BASE,
        }
    }

    /// Limits what can be reached to the memory of these devices (and the host's); all bits: no limit.
    pub(crate) fn set_reach(&mut self, reach: u64) {
        self.reach = reach;
    }

    /// Is this memory of a device other than `device`?
    pub(crate) fn is_of_peer(&self, device: usize, address: u64) -> bool {
        // Device d hands out addresses from (d + 1) << 40 on; everything else is host memory.
        let owner = (address >> 40) as usize;
        owner != device + 1 && (1..=self.next.len()).contains(&owner)
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
        self.insert(Range {
            base,
            len,
            device,
            read_only: false,
            owner: 1 << (device & 63),
            data: Backing::Heap(vec![0; len as usize]),
            init: InitMap::new(len as usize),
            complete: len == 0,
        });
        base
    }

    fn insert(&mut self, range: Range) {
        let at = self.ranges.partition_point(|r| r.base < range.base);
        self.ranges.insert(at, range);
    }

    fn insert_host(&mut self, base: u64, data: Backing) {
        self.insert(Range {
            base,
            len: data.bytes().len() as u64,
            device: HOST,
            read_only: false,
            owner: u64::MAX,
            data,
            init: InitMap::default(),
            complete: true,
        });
    }

    /// Host memory that every device reaches; its bytes count as written.
    pub(crate) fn alloc_host(&mut self, len: u64, align: u64) -> u64 {
        let base = (self.next_host + GAP).next_multiple_of(align.max(256));
        self.next_host = base + len;
        self.insert_host(base, Backing::Heap(vec![0; len as usize]));
        base
    }

    /// Puts memory of the host program at its own address. False if something is there already.
    pub(crate) fn map_host(&mut self, base: u64, host: HostBytes) -> bool {
        let data = Backing::Host(host);
        let end = base.saturating_add(data.bytes().len() as u64);
        let windows = [SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW].map(|w| (w, w + WINDOW_BYTES));
        let taken = self.ranges.iter().map(|r| (r.base, r.base + r.len)).chain(windows);
        if base == 0 || taken.into_iter().any(|(from, to)| base < to && from < end) {
            return false;
        }
        self.insert_host(base, data);
        true
    }

    /// The memory behind a host address, for the host program.
    pub(crate) fn is_host(&self, address: u64, len: u64) -> bool {
        self.find(address, len).is_some_and(|(at, _)| self.ranges[at].device == HOST)
    }

    /// A new multicast object.
    pub(crate) fn create_multicast(&mut self, len: u64) -> u64 {
        let end = self.multicasts.last().map_or(MULTICAST_BASE, |m| m.base + m.len);
        let base = (end + GAP).next_multiple_of(1 << 21);
        self.multicasts.push(Multicast { base, len, bound: Vec::new() });
        base
    }

    /// Binds memory into a multicast object. False if either does not exist.
    pub(crate) fn bind_multicast(&mut self, base: u64, offset: u64, memory: u64, len: u64) -> bool {
        if self.find(memory, len).is_none() {
            return false;
        }
        let Some(object) = self.multicasts.iter_mut().find(|m| m.base == base) else { return false };
        if offset.checked_add(len).is_none_or(|end| end > object.len) {
            return false;
        }
        object.bound.push((offset, len, memory));
        true
    }

    /// Removes a multicast object.
    pub(crate) fn free_multicast(&mut self, base: u64) -> bool {
        let before = self.multicasts.len();
        self.multicasts.retain(|m| m.base != base);
        self.multicasts.len() < before
    }

    /// The addresses that a multicast address stands for; `None` if none is bound there.
    pub(crate) fn multicast(&self, address: u64, len: u64) -> Option<Vec<u64>> {
        let object = self.multicasts.iter().find(|m| address >= m.base && address - m.base < m.len)?;
        let at = address - object.base;
        let members: Vec<u64> = object
            .bound
            .iter()
            .filter(|(offset, bytes, _)| at >= *offset && at + len <= offset + bytes)
            .map(|(offset, _, memory)| memory + (at - offset))
            .collect();
        (!members.is_empty()).then_some(members)
    }

    /// As [`Self::read`], whatever the device reaches.
    pub(crate) fn read_any(&mut self, address: u64, len: u64, check: bool) -> Result<&[u8], Trouble> {
        let reach = std::mem::replace(&mut self.reach, u64::MAX);
        let at = self.find(address, len);
        self.reach = reach;
        let (at, offset) = at.ok_or(Trouble::OutOfBounds)?;
        self.ranges[at].read(offset, len as usize, check)
    }

    /// As [`Self::write`], whatever the device reaches.
    pub(crate) fn write_any(&mut self, address: u64, len: u64) -> Result<&mut [u8], Trouble> {
        let reach = std::mem::replace(&mut self.reach, u64::MAX);
        let at = self.find(address, len);
        self.reach = reach;
        let (at, offset) = at.ok_or(Trouble::OutOfBounds)?;
        Ok(self.ranges[at].overwrite(offset, len as usize))
    }

    /// The device that owns an address which the running kernel cannot reach.
    pub(crate) fn owner_out_of_reach(&self, address: u64) -> Option<usize> {
        let at = self.ranges.partition_point(|r| r.base <= address).checked_sub(1)?;
        let range = &self.ranges[at];
        (address - range.base < range.len && range.owner & self.reach == 0).then_some(range.device)
    }

    /// Drops the range that begins at `base`.
    pub(crate) fn free(&mut self, base: u64) -> bool {
        match self.ranges.binary_search_by_key(&base, |r| r.base) {
            Ok(at) => {
                let range = self.ranges.remove(at);
                if let Some(used) = self.used.get_mut(range.device) {
                    *used -= range.len;
                }
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
            (offset <= r.len && len <= r.len - offset && r.owner & self.reach != 0).then_some(offset as usize)
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
        self.ranges[at].read(offset, len as usize, check)
    }

    /// A range to be overwritten entirely: marked as written.
    #[inline]
    pub(crate) fn write(&mut self, address: u64, len: u64) -> Result<&mut [u8], Trouble> {
        let (at, offset) = self.find(address, len).ok_or(Trouble::OutOfBounds)?;
        Ok(self.ranges[at].overwrite(offset, len as usize))
    }
}

impl Range {
    #[inline]
    fn read(&self, offset: usize, len: usize, check: bool) -> Result<&[u8], Trouble> {
        if check
            && !self.complete
            && let Some(byte) = self.init.first_unwritten(offset, len)
        {
            return Err(Trouble::Uninitialised(self.base + byte as u64));
        }
        Ok(&self.data.bytes()[offset..offset + len])
    }

    /// Bytes about to be overwritten: marked as written.
    #[inline]
    fn overwrite(&mut self, offset: usize, len: usize) -> &mut [u8] {
        if !self.complete {
            if len as u64 == self.len {
                self.complete = true;
            } else {
                self.init.mark(offset, len);
            }
        }
        &mut self.data.bytes_mut()[offset..offset + len]
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
