//! Shared memory of one block.
//!
//! Addresses are offsets into the block's window: the first [`super::SHARED_BASE`] bytes belong to the system, then come
//! the static variables, then the dynamic array. Of the system's bytes, those at `%reserved_smem_offset_1` are for cooperative groups.

use std::cell::Cell;

use super::init::InitMap;
use super::{SHARED_BASE, Trouble};
use crate::machine::SharedPlacement;

/// Where the variables of a block lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedLayout {
    /// Offset of the static variables.
    pub(crate) static_base: u32,
    /// Offset of the dynamic array.
    pub(crate) dynamic_base: u32,
    /// One past the last byte.
    pub(crate) end: u32,
}

/// The lowest address at or above `from` that is a multiple of `align` and of nothing larger.
fn barely_aligned(from: u32, align: u32) -> u32 {
    let at = from.next_multiple_of(align);
    if at.is_multiple_of(2 * align) { at + align } else { at }
}

impl SharedLayout {
    /// Lays a kernel's variables out.
    pub(crate) fn new(
        placement: SharedPlacement,
        static_bytes: u32,
        static_align: u32,
        dynamic_bytes: u32,
        dynamic_align: u32,
    ) -> Self {
        let static_align = static_align.max(1);
        let dynamic_align = dynamic_align.max(16);
        let (static_base, dynamic_base);
        match placement {
            SharedPlacement::Driver => {
                static_base = SHARED_BASE.next_multiple_of(static_align);
                dynamic_base = (static_base + static_bytes).next_multiple_of(dynamic_align);
            }
            SharedPlacement::DeclaredAlignment => {
                static_base =
                    if static_bytes == 0 { SHARED_BASE } else { barely_aligned(SHARED_BASE, static_align) };
                dynamic_base = barely_aligned(static_base + static_bytes, dynamic_align);
            }
        }
        SharedLayout { static_base, dynamic_base, end: dynamic_base + dynamic_bytes }
    }
}

/// Zeros for the groups of several warps of `cooperative_groups`, which "can expect at least 288 bytes" here, 4-byte barriers first.
pub(crate) const GROUPS_BASE: u32 = 512;
const GROUPS_BYTES: u32 = 288;

/// The bytes, and which of them were written.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedMemory {
    data: Vec<u8>,
    init: InitMap,
    /// The block asked where the groups' bytes are; until then they are out of bounds.
    groups: Cell<bool>,
}

impl SharedMemory {
    /// Memory up to the layout's end.
    pub(crate) fn new(end: u32) -> Self {
        let mut init = InitMap::new(end as usize);
        init.mark(GROUPS_BASE as usize, GROUPS_BYTES as usize);
        SharedMemory { data: vec![0; end as usize], init, groups: Cell::new(false) }
    }

    /// Where the bytes of cooperative groups begin, which from now on are in bounds.
    pub(crate) fn groups(&self) -> u32 {
        self.groups.set(true);
        GROUPS_BASE
    }

    /// Is the range inside what belongs to the program?
    #[inline]
    pub(crate) fn contains(&self, offset: u32, len: u32) -> bool {
        let end = offset as u64 + len as u64;
        offset >= SHARED_BASE && end <= self.data.len() as u64
            || offset >= GROUPS_BASE && end <= (GROUPS_BASE + GROUPS_BYTES) as u64 && self.groups.get()
    }

    /// The bytes of a range, if inside and (with `check`) all written.
    #[inline]
    pub(crate) fn read(&self, offset: u32, len: u32, check: bool) -> Result<&[u8], Trouble> {
        if !self.contains(offset, len) {
            return Err(Trouble::OutOfBounds);
        }
        if check && let Some(at) = self.init.first_unwritten(offset as usize, len as usize) {
            return Err(Trouble::Uninitialised(at as u64));
        }
        Ok(&self.data[offset as usize..(offset + len) as usize])
    }

    /// A range to be overwritten entirely: marked as written.
    #[inline]
    pub(crate) fn write(&mut self, offset: u32, len: u32) -> Result<&mut [u8], Trouble> {
        if !self.contains(offset, len) {
            return Err(Trouble::OutOfBounds);
        }
        self.init.mark(offset as usize, len as usize);
        Ok(&mut self.data[offset as usize..(offset + len) as usize])
    }

    /// The bytes of a range belong to a copy that has not landed: until then they count as not written.
    pub(crate) fn forget(&mut self, offset: u32, len: u32) {
        if self.contains(offset, len) {
            self.init.clear(offset as usize, len as usize);
        }
    }

    /// The eight bytes of an mbarrier, whatever was written to them.
    #[inline]
    pub(crate) fn word64(&self, offset: u32) -> Result<u64, Trouble> {
        let bytes = self.read(offset, 8, false)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were asked for")))
    }

    /// Replaces eight bytes.
    #[inline]
    pub(crate) fn set_word64(&mut self, offset: u32, value: u64) -> Result<(), Trouble> {
        self.write(offset, 8)?.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_aligns_the_dynamic_window_when_alone() {
        let alone = SharedLayout::new(SharedPlacement::Driver, 0, 1, 100, 16);
        assert_eq!((alone.dynamic_base, alone.end), (1024, 1124));
        let after = SharedLayout::new(SharedPlacement::Driver, 24, 8, 100, 16);
        assert_eq!((after.static_base, after.dynamic_base), (1024, 1056));
    }

    #[test]
    fn declared_alignment_is_all_one_gets() {
        for align in [16, 128, 1024] {
            let layout = SharedLayout::new(SharedPlacement::DeclaredAlignment, 0, 1, 100, align);
            assert_eq!(layout.dynamic_base % align, 0);
            assert_ne!(layout.dynamic_base % (2 * align), 0);
        }
    }
}
