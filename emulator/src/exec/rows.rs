//! The short way of the commonest access: every lane of a warp, 4 bytes, beside its neighbour's. One check for all lanes, one copy.
//!
//! Whatever is not such a row, or not as it should be, goes the long way ([`super::memory`]), which also makes the report; so does
//! everything while the happens-before checker looks on.

use super::Core;
use super::address::{Place, split};
use super::lanes::vectorised;
use crate::ir::{Addr, Reg, Space, Src};
use crate::machine::warp::{Col32, Col64};
use crate::memory::RANK_SHIFT;

const BYTES: u32 = 128;
const OFFSET_MASK: u32 = (1 << RANK_SHIFT) - 1;

vectorised! {
    /// Are the lanes four bytes apart?
    pub(crate) fn apart32(col: &Col32) -> bool {
        let mut differs = 0;
        for i in 0..32 {
            differs |= col[i] ^ col[0].wrapping_add(4 * i as u32);
        }
        differs == 0
    }
}

vectorised! {
    /// As [`apart32`].
    pub(crate) fn apart64(col: &Col64) -> bool {
        let mut differs = 0;
        for i in 0..32 {
            differs |= col[i] ^ col[0].wrapping_add(4 * i as u64);
        }
        differs == 0
    }
}

impl Core<'_> {
    /// The memory and first address of a row.
    #[inline]
    fn row(&self, space: Space, addr: &Addr, mask: u32) -> Option<(Place, u64)> {
        if mask != u32::MAX || self.checking() {
            return None;
        }
        let shared = matches!(space, Space::Shared | Space::SharedCluster);
        let first = match addr.base {
            Src::Reg(Reg::B32(r)) if shared && apart32(&self.warp.r32[r as usize]) => {
                u64::from(self.warp.r32[r as usize][0])
            }
            Src::Reg(Reg::B64(r)) if apart64(&self.warp.r64[r as usize]) => self.warp.r64[r as usize][0],
            _ => return None,
        };
        let first = first.wrapping_add_signed(addr.offset);
        if !first.is_multiple_of(4) {
            return None;
        }
        match space {
            Space::Global => Some((Place::Global, first)),
            Space::Generic => Some(split(first)),
            _ if shared => Some((Place::Shared, first & 0xffff_ffff)),
            _ => None,
        }
    }

    /// Loads a row into a register, if it is one.
    #[inline]
    pub(super) fn load_row(&mut self, space: Space, dst: u32, addr: &Addr, mask: u32) -> bool {
        let Some((place, first)) = self.row(space, addr, mask) else { return false };
        let check = self.sys.config.checks.uninitialised;
        let bytes = match place {
            Place::Global => self.sys.global.read(first, BYTES.into(), check),
            Place::Shared if first as u32 >> RANK_SHIFT == self.block.rank => {
                self.block.shared.read(first as u32 & OFFSET_MASK, BYTES, check)
            }
            _ => return false,
        };
        let Ok(bytes) = bytes else { return false };
        for (lane, word) in self.warp.r32[dst as usize].iter_mut().zip(bytes.chunks_exact(4)) {
            *lane = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        }
        let far = place == Place::Global && self.sys.global.is_of_peer(self.block.device, first);
        let counters = &mut self.sys.counters[self.block.device];
        counters.link_load_bytes += u64::from(far) * u64::from(BYTES);
        match place {
            Place::Global => counters.global_load_bytes += u64::from(BYTES),
            _ => counters.shared_load_bytes += u64::from(BYTES),
        }
        true
    }

    /// Stores a register to a row, if it is one.
    #[inline]
    pub(super) fn store_row(&mut self, space: Space, src: u32, addr: &Addr, mask: u32) -> bool {
        let Some((place, first)) = self.row(space, addr, mask) else { return false };
        let bytes = match place {
            Place::Global => match self.sys.global.find(first, BYTES.into()) {
                Some((range, _)) if !self.sys.global.read_only(range) => {
                    self.sys.global.write(first, BYTES.into())
                }
                _ => return false,
            },
            // A bulk store may still be reading what would be overwritten.
            Place::Shared
                if first as u32 >> RANK_SHIFT == self.block.rank && self.block.stores.is_empty() =>
            {
                self.block.shared.write(first as u32 & OFFSET_MASK, BYTES)
            }
            _ => return false,
        };
        let Ok(bytes) = bytes else { return false };
        for (lane, word) in self.warp.r32[src as usize].iter().zip(bytes.chunks_exact_mut(4)) {
            word.copy_from_slice(&lane.to_le_bytes());
        }
        let far = place == Place::Global && self.sys.global.is_of_peer(self.block.device, first);
        let counters = &mut self.sys.counters[self.block.device];
        counters.link_store_bytes += u64::from(far) * u64::from(BYTES);
        match place {
            Place::Global => counters.global_store_bytes += u64::from(BYTES),
            _ => counters.shared_store_bytes += u64::from(BYTES),
        }
        self.sys.progress += 1;
        true
    }
}
