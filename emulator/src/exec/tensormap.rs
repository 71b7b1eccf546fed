//! Edits of a tensor map in memory: `tensormap.replace` and `tensormap.cp_fenceproxy`.
//!
//! A map is edited field by field, and between two edits it may be one that no tensor could have (a rank of 3 before the third
//! stride is set). So an edit rewrites the field in the encoded words and their checksum; what a map may be is checked when a copy
//! uses it.

use super::address::Place;
use super::{Core, Flow, Step};
use crate::ir::{Addr, Scope, Space, Src, TensorMapField};
use crate::memory::{RANK_SHIFT, Trouble};
use crate::report::{Class, Report};
use crate::tma::{Edit, edit};

const BYTES: u32 = 128;
const OFFSET_MASK: u32 = (1 << RANK_SHIFT) - 1;

fn words(bytes: &[u8]) -> [u64; 16] {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
    }
    words
}

impl Core<'_> {
    /// The 128 bytes at an address of one lane.
    fn map_bytes(&self, place: Place, address: u64, lane: usize) -> Result<Vec<u8>, Box<Report>> {
        let check = self.sys.config.checks.uninitialised;
        let bytes = match place {
            Place::Global => self.sys.global.read(address, BYTES.into(), check),
            Place::Shared => self
                .shared_of(address as u32)
                .ok_or(Trouble::OutOfBounds)
                .and_then(|m| m.read(address as u32 & OFFSET_MASK, BYTES, check)),
            Place::Local | Place::Param => Err(Trouble::OutOfBounds),
        };
        match bytes {
            Ok(bytes) => Ok(bytes.to_vec()),
            Err(trouble) => Err(self.access_report(place, address, BYTES.into(), false, trouble, 1 << lane)),
        }
    }

    fn set_map_bytes(
        &mut self,
        place: Place,
        address: u64,
        bytes: &[u8],
        lane: usize,
    ) -> Result<(), Box<Report>> {
        match place {
            Place::Global => self.touch_lane(true, address, BYTES.into(), lane as u32, true, 0)?,
            Place::Shared => self.touch_lane(false, address, BYTES.into(), lane as u32, true, 0)?,
            Place::Local | Place::Param => {}
        }
        let to = match place {
            Place::Global => match self.sys.global.find(address, BYTES.into()) {
                Some((range, _)) if self.sys.global.read_only(range) => {
                    return Err(self.report(Class::ReadOnly, 1 << lane, "edit of a tensor map in .const"));
                }
                _ => self.sys.global.write(address, BYTES.into()),
            },
            Place::Shared => self
                .shared_of_mut(address as u32)
                .ok_or(Trouble::OutOfBounds)
                .and_then(|m| m.write(address as u32 & OFFSET_MASK, BYTES)),
            Place::Local | Place::Param => Err(Trouble::OutOfBounds),
        };
        match to {
            Ok(to) => {
                to.copy_from_slice(bytes);
                self.sys.progress += 1;
                Ok(())
            }
            Err(trouble) => Err(self.access_report(place, address, BYTES.into(), true, trouble, 1 << lane)),
        }
    }

    fn map_aligned(&self, address: u64, lane: usize) -> Result<(), Box<Report>> {
        if address.is_multiple_of(u64::from(BYTES)) {
            return Ok(());
        }
        let message = format!("tensor map at {address:#x}, which is not a multiple of 128");
        let mut report = self.report(Class::Misaligned, 1 << lane, message);
        report.address = Some(address);
        Err(report)
    }

    /// `tensormap.replace`, lane by lane.
    pub(super) fn tensormap_replace(
        &mut self,
        field: TensorMapField,
        space: Space,
        addr: &Addr,
        index: u32,
        value: &Src,
        mask: u32,
    ) -> Step {
        use TensorMapField as F;
        let values = self.get64(value);
        let mut rest = mask;
        while rest != 0 {
            let (place, col, group) = self.resolve(space, addr, rest);
            rest &= !group;
            let mut lanes = group;
            while lanes != 0 {
                let l = lanes.trailing_zeros() as usize;
                lanes &= lanes - 1;
                self.map_aligned(col[l], l)?;
                let mut map = words(&self.map_bytes(place, col[l], l)?);
                let what = match field {
                    F::GlobalAddress => Edit::Address(values[l]),
                    // The instruction takes the rank minus one.
                    F::Rank => Edit::Rank((values[l] as u32).saturating_add(1)),
                    F::BoxDim => Edit::BoxDim(index, values[l] as u32),
                    F::GlobalDim => Edit::Dim(index, values[l] as u32),
                    F::GlobalStride => Edit::Stride(index, values[l]),
                    F::ElementStride => Edit::ElementStride(index, values[l] as u32),
                    F::ElementType => Edit::ElementType(values[l] as u32),
                    F::InterleaveLayout => Edit::Interleave(values[l] as u32),
                    F::SwizzleMode => Edit::Swizzle(values[l] as u32),
                    F::FillMode => Edit::Fill(values[l] as u32),
                };
                if let Err(error) = edit(&mut map, what) {
                    let mut report = self.report(Class::TensorMap, 1 << l, error.to_string());
                    report.address = Some(col[l]);
                    return Err(report);
                }
                let bytes: Vec<u8> = map.iter().flat_map(|w| w.to_le_bytes()).collect();
                self.set_map_bytes(place, col[l], &bytes, l)?;
            }
        }
        Ok(Flow::Next)
    }

    /// The maps that a `fence.proxy.tensormap::generic.acquire` names, for the checker.
    pub(super) fn acquire_maps(&mut self, addr: Option<&Addr>, mask: u32) {
        let Some(addr) = addr.filter(|_| self.checking()) else { return };
        let addresses = self.addresses(addr, false);
        let mut rest = mask;
        while rest != 0 {
            let map = addresses[rest.trailing_zeros() as usize];
            let mut same = 0;
            super::lanes::each(rest, |l| same |= ((addresses[l] == map) as u32) << l);
            self.map_acquire(map, same);
            rest &= !same;
        }
    }

    /// `tensormap.cp_fenceproxy`: one copy by the whole warp.
    pub(super) fn tensormap_copy(&mut self, dst: &Addr, src: &Addr, scope: Scope, mask: u32) -> Step {
        if let Some(flow) = self.whole_warp(mask, "tensormap.cp_fenceproxy")? {
            return Ok(flow);
        }
        let lane = mask.trailing_zeros() as usize & 31;
        let (place, from, _) = self.resolve(Space::Shared, src, mask);
        let to = self.addresses(dst, false);
        self.map_aligned(from[lane], lane)?;
        self.map_aligned(to[lane], lane)?;
        let bytes = self.map_bytes(place, from[lane], lane)?;
        self.touch_lane(false, from[lane], BYTES.into(), lane as u32, false, 0)?;
        self.set_map_bytes(Place::Global, to[lane], &bytes, lane)?;
        self.memory_fence(scope, mask);
        self.map_release(mask);
        Ok(Flow::Next)
    }
}
