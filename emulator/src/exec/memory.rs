//! Loads and stores of threads.
//!
//! An access is gathered into sixteen bytes per lane and then dealt out to registers, or the other way round. Two shapes
//! are so common that they have paths of their own: all lanes side by side, and all lanes on the same address. Everything
//! else goes lane by lane. Bounds, alignment and "was it ever written" are checked on every path.

use super::address::Place;
use super::{Core, Flow, Step};
use crate::ir::{Addr, Reg, Scope, Semantics, Space, Src, Type};
use crate::machine::block::Block;
use crate::machine::warp::Col64;
use crate::memory::shared::SharedMemory;
use crate::memory::{RANK_SHIFT, Trouble};
use crate::report::{Class, Report};

/// What one lane moves, at most.
pub(super) const LANE_BYTES: usize = 16;
/// One access of all lanes.
pub(super) type LaneData = [[u8; LANE_BYTES]; 32];

/// Are all lanes active, and side by side?
#[inline(always)]
fn contiguous(col: &Col64, size: u64, mask: u32) -> bool {
    if mask != u32::MAX {
        return false;
    }
    let mut differs = 0u64;
    for (i, a) in col.iter().enumerate() {
        differs |= a ^ col[0].wrapping_add(i as u64 * size);
    }
    differs == 0
}

/// Do all active lanes use one address?
#[inline(always)]
fn broadcast(col: &Col64, mask: u32) -> Option<u64> {
    let first = col[mask.trailing_zeros() as usize & 31];
    let mut differs = 0u64;
    for (i, a) in col.iter().enumerate() {
        let active = 0u64.wrapping_sub((mask >> i & 1) as u64);
        differs |= (a ^ first) & active;
    }
    (differs == 0).then_some(first)
}

/// Shared-memory cycles an access takes beyond the first, at 32 banks of 4 bytes. Wide accesses go by half or quarter warps.
pub(super) fn bank_conflicts(col: &[u32; 32], size: u32, mask: u32) -> u32 {
    let lanes_per_pass = match size {
        16 => 8,
        8 => 16,
        _ => 32,
    };
    let words = size.div_ceil(4);
    let mut extra = 0;
    let mut pass = 0;
    while pass < 32 {
        let mut rows = [[0u32; 32]; 32];
        let mut counts = [0u8; 32];
        let mut worst = 0;
        for lane in pass..pass + lanes_per_pass {
            if mask >> lane & 1 == 0 {
                continue;
            }
            for word in 0..words {
                let at = col[lane as usize] / 4 + word;
                let (bank, row) = ((at % 32) as usize, at / 32);
                let known = &rows[bank][..counts[bank] as usize];
                if !known.contains(&row) && counts[bank] < 32 {
                    rows[bank][counts[bank] as usize] = row;
                    counts[bank] += 1;
                    worst = worst.max(counts[bank] as u32);
                }
            }
        }
        extra += worst.saturating_sub(1);
        pass += lanes_per_pass;
    }
    extra
}

/// Deals bytes out to registers.
#[inline(always)]
fn element(bytes: &[u8; LANE_BYTES], at: usize, ty: Type) -> u64 {
    match ty {
        Type::S8 => bytes[at] as i8 as i64 as u64,
        Type::S16 => i16::from_le_bytes([bytes[at], bytes[at + 1]]) as i64 as u64,
        Type::S32 => i32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as i64 as u64,
        _ => match ty.bytes() {
            1 => bytes[at] as u64,
            2 => u16::from_le_bytes([bytes[at], bytes[at + 1]]) as u64,
            4 => u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as u64,
            _ => u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")),
        },
    }
}

impl Core<'_> {
    /// The memory of the block with the rank in a shared address.
    pub(super) fn shared_of(&self, shared: u32) -> Option<&SharedMemory> {
        let rank = shared >> RANK_SHIFT;
        if rank == self.block.rank {
            return Some(&self.block.shared);
        }
        let slot = *self.block.peers.get(rank as usize)?;
        self.others.get(slot)?.as_deref().map(|b: &Block| &b.shared)
    }

    /// As [`Self::shared_of`], for writing.
    pub(super) fn shared_of_mut(&mut self, shared: u32) -> Option<&mut SharedMemory> {
        let rank = shared >> RANK_SHIFT;
        if rank == self.block.rank {
            return Some(&mut self.block.shared);
        }
        let slot = *self.block.peers.get(rank as usize)?;
        self.others.get_mut(slot)?.as_deref_mut().map(|b: &mut Block| &mut b.shared)
    }

    /// The finding for an access that cannot be.
    #[cold]
    pub(super) fn access_report(
        &self,
        place: Place,
        address: u64,
        bytes: u64,
        store: bool,
        trouble: Trouble,
        lanes: u32,
    ) -> Box<Report> {
        let verb = if store { "store of" } else { "load of" };
        let space = match place {
            Place::Global => "global",
            Place::Shared => "shared",
            Place::Local => "local",
            Place::Param => "parameter",
        };
        let (class, message) = match trouble {
            Trouble::OutOfBounds => {
                (Class::OutOfBounds, format!("{verb} {bytes} bytes at {space} address {address:#x}"))
            }
            Trouble::Uninitialised(at) => (
                Class::Uninitialised,
                format!(
                    "{verb} {bytes} bytes at {space} address {address:#x}: byte {at:#x} was never written"
                ),
            ),
        };
        let mut report = self.report(class, lanes, message);
        report.address = Some(address);
        self.explain(&mut report, place, address, trouble);
        report
    }

    /// Adds what lies around an address.
    pub(super) fn explain(&self, report: &mut Report, place: Place, address: u64, trouble: Trouble) {
        match (place, trouble) {
            (Place::Global, Trouble::OutOfBounds) => {
                if let Some(owner) = self.sys.global.owner_out_of_reach(address) {
                    report.other = Some(format!(
                        "memory of device {owner}, to which device {} was not given access",
                        self.block.device
                    ));
                } else if let Some((base, len)) = self.sys.global.nearest(address) {
                    let end = base + len;
                    let side = if address < base {
                        format!("{} bytes before", base - address)
                    } else if address >= end {
                        format!("{} bytes past the end of", address - end)
                    } else {
                        "reaching beyond the end of".into()
                    };
                    report.other = Some(format!("{side} the allocation of {len} bytes at {base:#x}"));
                }
            }
            (Place::Shared, Trouble::OutOfBounds) => {
                let layout = &self.block.layout;
                report.other = Some(format!(
                    "the block's shared memory is {:#x}..{:#x} (dynamic from {:#x})",
                    crate::memory::SHARED_BASE,
                    layout.end,
                    layout.dynamic_base
                ));
            }
            (Place::Shared, Trouble::Uninitialised(at)) if self.block.load_over(at as u32).is_some() => {
                if let Some(origin) = self.block.load_over(at as u32) {
                    report.other = Some(format!(
                        "copy by warp {} lanes {} at {}",
                        origin.warp,
                        crate::report::lane_list(origin.lanes),
                        self.describe(origin.pc)
                    ));
                }
                report.message =
                    report.message.replace("was never written", "belongs to a copy that has not completed");
                report.hint = Some("wait for the mbarrier or group of the copy".into());
            }
            (_, Trouble::Uninitialised(_)) => {
                report.hint = Some("wait for the copy or store that fills it, or initialise it".into());
            }
            _ => {}
        }
    }

    /// Reads `N` bytes per lane.
    fn gather<const N: usize>(
        &mut self,
        place: Place,
        col: &Col64,
        mask: u32,
        out: &mut LaneData,
    ) -> Result<(), Box<Report>> {
        let check = self.sys.config.checks.uninitialised;
        let size = N as u64;
        let first = col[mask.trailing_zeros() as usize & 31];
        if matches!(place, Place::Global | Place::Shared) && first.is_multiple_of(size) {
            // The two common shapes: one range check for all lanes. A failure falls through to find the lane.
            let (from, len, step) = if contiguous(col, size, mask) {
                (first, 32 * N, N)
            } else if broadcast(col, mask).is_some() {
                (first, N, 0)
            } else {
                (0, 0, 0)
            };
            if len != 0 {
                let bytes = match place {
                    Place::Global => self.sys.global.read(from, len as u64, check).ok(),
                    _ if from as u32 >> RANK_SHIFT == self.block.rank => {
                        self.block.shared.read(from as u32 & 0xff_ffff, len as u32, check).ok()
                    }
                    _ => None,
                };
                if let Some(bytes) = bytes {
                    for (i, lane) in out.iter_mut().enumerate() {
                        lane[..N].copy_from_slice(&bytes[i * step..i * step + N]);
                    }
                    if place == Place::Shared {
                        let counters = &mut self.sys.counters[self.block.device];
                        counters.shared_load_bytes += if step == 0 { size } else { 32 * size };
                    }
                    return Ok(());
                }
            }
        }
        self.check_alignment(col, size, false, mask)?;
        let mut failed: Option<(usize, Trouble)> = None;
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let result = match place {
                Place::Global => self.sys.global.read(col[l], size, check),
                Place::Shared => match self.shared_of(col[l] as u32) {
                    Some(memory) => memory.read(col[l] as u32 & 0xff_ffff, N as u32, check),
                    None => Err(Trouble::OutOfBounds),
                },
                Place::Local => self.local(l, col[l], N, check),
                Place::Param => {
                    let at = col[l] as usize;
                    self.block.params.get(at..at + N).ok_or(Trouble::OutOfBounds)
                }
            };
            match result {
                Ok(bytes) => out[l][..N].copy_from_slice(bytes),
                Err(trouble) => {
                    failed = Some((l, trouble));
                    break;
                }
            }
        }
        if let Some((l, trouble)) = failed {
            return Err(self.access_report(place, col[l], size, false, trouble, 1 << l));
        }
        if place == Place::Shared {
            let counters = &mut self.sys.counters[self.block.device];
            counters.shared_load_bytes += mask.count_ones() as u64 * size;
            counters.bank_conflicts += bank_conflicts(&col.map(|a| a as u32), N as u32, mask) as u64;
        }
        Ok(())
    }

    /// Local bytes of a lane.
    fn local(&self, lane: usize, offset: u64, bytes: usize, check: bool) -> Result<&[u8], Trouble> {
        let size = self.warp.local.len() / 32;
        if offset + bytes as u64 > size as u64 {
            return Err(Trouble::OutOfBounds);
        }
        let at = lane * size + offset as usize;
        if check && let Some(missing) = self.warp.local_init.first_unwritten(at, bytes) {
            return Err(Trouble::Uninitialised((missing - lane * size) as u64));
        }
        Ok(&self.warp.local[at..at + bytes])
    }

    fn check_alignment(&self, col: &Col64, size: u64, store: bool, mask: u32) -> Result<(), Box<Report>> {
        let mut bad = 0u32;
        for (i, a) in col.iter().enumerate() {
            bad |= ((a & (size - 1) != 0) as u32) << i;
        }
        bad &= mask;
        if bad == 0 {
            return Ok(());
        }
        let address = col[bad.trailing_zeros() as usize];
        let verb = if store { "store" } else { "load" };
        let mut report = self.report(
            Class::Misaligned,
            bad,
            format!("{verb} of {size} bytes at {address:#x}, which is not a multiple of {size}"),
        );
        report.address = Some(address);
        Err(report)
    }

    /// The lanes whose address is memory of another device.
    fn peer_lanes(&self, col: &Col64, mask: u32) -> u32 {
        let (own, global) = (self.block.device, &self.sys.global);
        if self.sys.config.devices.len() == 1 {
            return 0;
        }
        (0..32).fold(0, |far, l| far | ((mask >> l & 1 == 1 && global.is_of_peer(own, col[l])) as u32) << l)
    }

    /// `ld`
    pub(super) fn load(
        &mut self,
        space: Space,
        ty: Type,
        dsts: &[Option<Reg>],
        addr: &Addr,
        (sem, scope, nc): (Semantics, Scope, bool),
        mask: u32,
    ) -> Step {
        if let ([Some(Reg::B32(r))], 4, Semantics::Weak) = (dsts, ty.bytes(), sem)
            && self.load_row(space, *r, addr, mask)
        {
            return Ok(Flow::Next);
        }
        let size = ty.bytes() as usize * dsts.len();
        let mut data: LaneData = [[0; LANE_BYTES]; 32];
        let mut rest = mask;
        while rest != 0 {
            let (place, col, lanes) = self.resolve(space, addr, rest);
            match size {
                1 => self.gather::<1>(place, &col, lanes, &mut data)?,
                2 => self.gather::<2>(place, &col, lanes, &mut data)?,
                4 => self.gather::<4>(place, &col, lanes, &mut data)?,
                8 => self.gather::<8>(place, &col, lanes, &mut data)?,
                16 => self.gather::<16>(place, &col, lanes, &mut data)?,
                _ => return Err(self.unsupported(mask)),
            }
            if place == Place::Global {
                let far = self.peer_lanes(&col, lanes).count_ones() as u64;
                let counters = &mut self.sys.counters[self.block.device];
                counters.global_load_bytes += lanes.count_ones() as u64 * size as u64;
                counters.link_load_bytes += far * size as u64;
            }
            if self.checking() && matches!(place, Place::Global | Place::Shared) {
                self.check_access(place, &col, size as u64, (sem, scope, nc), false, lanes)?;
            }
            rest &= !lanes;
        }
        let step = ty.bytes() as usize;
        for (i, dst) in dsts.iter().enumerate() {
            match dst {
                Some(Reg::B32(r)) => {
                    let mut value = [0u32; 32];
                    for lane in 0..32 {
                        value[lane] = element(&data[lane], i * step, ty) as u32;
                    }
                    self.set32(*r, &value, mask);
                }
                Some(dst) => {
                    let mut value = [0u64; 32];
                    for lane in 0..32 {
                        value[lane] = element(&data[lane], i * step, ty);
                    }
                    self.set(*dst, &value, mask);
                }
                None => {}
            }
        }
        Ok(if sem == Semantics::Weak { Flow::Next } else { self.poll(false) })
    }

    /// Tells the happens-before checker of a store that is about to be made. Storing what is there already races with nobody: compilers
    /// let several warps write the same values.
    fn check_store(
        &mut self,
        place: Place,
        col: &Col64,
        size: usize,
        (sem, scope): (Semantics, Scope),
        data: &LaneData,
        lanes: u32,
    ) -> Result<(), Box<Report>> {
        let found = match self.check_access(place, col, size as u64, (sem, scope, false), true, lanes) {
            Err(report) if report.class == Class::Race => report,
            other => return other,
        };
        let mut changes = false;
        super::lanes::each(lanes, |l| {
            let old = match place {
                Place::Global => self.sys.global.read(col[l], size as u64, true).ok(),
                _ => self
                    .shared_of(col[l] as u32)
                    .and_then(|m| m.read(col[l] as u32 & 0xff_ffff, size as u32, true).ok()),
            };
            changes |= old != Some(&data[l][..size]);
        });
        if changes {
            return Err(found);
        }
        let flags = crate::check::strength(sem, scope) | crate::check::SILENT;
        self.touch(place == Place::Global, col, size as u64, lanes, true, flags)
    }

    /// Tells the happens-before checker of a load or store.
    fn check_access(
        &mut self,
        place: Place,
        col: &Col64,
        size: u64,
        (sem, scope, nc): (Semantics, Scope, bool),
        store: bool,
        lanes: u32,
    ) -> Result<(), Box<Report>> {
        let global = place == Place::Global;
        if nc {
            self.touch_non_coherent(col, size, lanes)?;
        }
        if sem != Semantics::Weak {
            super::lanes::each(lanes, |l| {
                let at = (global, self.told_at(global, col[l]));
                if store {
                    self.strong_store(at, sem, scope, false, 1 << l);
                } else {
                    self.strong_load(at, sem, scope, 1 << l);
                }
            });
        }
        self.touch(global, col, size, lanes, store, crate::check::strength(sem, scope))
    }

    /// Writes `N` bytes per lane, lowest lane first.
    fn scatter<const N: usize>(
        &mut self,
        place: Place,
        col: &Col64,
        mask: u32,
        data: &LaneData,
    ) -> Result<(), Box<Report>> {
        let size = N as u64;
        self.check_alignment(col, size, true, mask)?;
        if place == Place::Shared && !self.block.stores.is_empty() && self.sys.config.checks.bulk_source {
            let mut rest = mask;
            while rest != 0 {
                let l = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                self.check_bulk_source(col[l] as u32, N as u32, 1 << l)?;
            }
        }
        if contiguous(col, size, mask) {
            let bytes = match place {
                Place::Global => match self.sys.global.find(col[0], 32 * size) {
                    Some((range, _)) if !self.sys.global.read_only(range) => {
                        self.sys.global.write(col[0], 32 * size).ok()
                    }
                    _ => None,
                },
                Place::Shared if col[0] as u32 >> RANK_SHIFT == self.block.rank => {
                    self.block.shared.write(col[0] as u32 & 0xff_ffff, 32 * N as u32).ok()
                }
                _ => None,
            };
            if let Some(bytes) = bytes {
                for (i, lane) in data.iter().enumerate() {
                    bytes[i * N..(i + 1) * N].copy_from_slice(&lane[..N]);
                }
                if place == Place::Shared {
                    self.sys.counters[self.block.device].shared_store_bytes += 32 * size;
                }
                return Ok(());
            }
        }
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let result = match place {
                Place::Global => {
                    if let Some((range, _)) = self.sys.global.find(col[l], size)
                        && self.sys.global.read_only(range)
                    {
                        return Err(self.report(
                            Class::ReadOnly,
                            1 << l,
                            format!("store of {N} bytes at {:#x}, a .const variable", col[l]),
                        ));
                    }
                    self.sys.global.write(col[l], size)
                }
                Place::Shared => match self.shared_of_mut(col[l] as u32) {
                    Some(memory) => memory.write(col[l] as u32 & 0xff_ffff, N as u32),
                    None => Err(Trouble::OutOfBounds),
                },
                Place::Local => {
                    let size = self.warp.local.len() / 32;
                    if col[l] + N as u64 > size as u64 {
                        Err(Trouble::OutOfBounds)
                    } else {
                        let at = l * size + col[l] as usize;
                        self.warp.local_init.mark(at, N);
                        Ok(&mut self.warp.local[at..at + N])
                    }
                }
                Place::Param => {
                    return Err(self.report(Class::ReadOnly, 1 << l, "store to the kernel's parameters"));
                }
            };
            match result {
                Ok(bytes) => bytes.copy_from_slice(&data[l][..N]),
                Err(trouble) => return Err(self.access_report(place, col[l], size, true, trouble, 1 << l)),
            }
        }
        if place == Place::Shared {
            let counters = &mut self.sys.counters[self.block.device];
            counters.shared_store_bytes += mask.count_ones() as u64 * size;
            counters.bank_conflicts += bank_conflicts(&col.map(|a| a as u32), N as u32, mask) as u64;
        }
        Ok(())
    }

    /// `st`
    pub(super) fn store(
        &mut self,
        space: Space,
        ty: Type,
        srcs: &[Src],
        addr: &Addr,
        (sem, scope): (Semantics, Scope),
        mask: u32,
    ) -> Step {
        if let ([Src::Reg(Reg::B32(r))], 4, Semantics::Weak) = (srcs, ty.bytes(), sem)
            && self.store_row(space, *r, addr, mask)
        {
            return Ok(Flow::Next);
        }
        let step = ty.bytes() as usize;
        let size = step * srcs.len();
        if size > LANE_BYTES {
            return Err(self.unsupported(mask));
        }
        let mut data: LaneData = [[0; LANE_BYTES]; 32];
        for (i, src) in srcs.iter().enumerate() {
            if step == 4 {
                let value = self.get32(src);
                for lane in 0..32 {
                    data[lane][i * 4..i * 4 + 4].copy_from_slice(&value[lane].to_le_bytes());
                }
            } else {
                let value = self.get64(src);
                for lane in 0..32 {
                    data[lane][i * step..(i + 1) * step].copy_from_slice(&value[lane].to_le_bytes()[..step]);
                }
            }
        }
        let mut rest = mask;
        while rest != 0 {
            let (place, col, lanes) = self.resolve(space, addr, rest);
            if self.checking() && matches!(place, Place::Global | Place::Shared) {
                self.check_store(place, &col, size, (sem, scope), &data, lanes)?;
            }
            match size {
                1 => self.scatter::<1>(place, &col, lanes, &data)?,
                2 => self.scatter::<2>(place, &col, lanes, &data)?,
                4 => self.scatter::<4>(place, &col, lanes, &data)?,
                8 => self.scatter::<8>(place, &col, lanes, &data)?,
                16 => self.scatter::<16>(place, &col, lanes, &data)?,
                _ => return Err(self.unsupported(mask)),
            }
            if place == Place::Global {
                let far = self.peer_lanes(&col, lanes).count_ones() as u64;
                let counters = &mut self.sys.counters[self.block.device];
                counters.global_store_bytes += lanes.count_ones() as u64 * size as u64;
                counters.link_store_bytes += far * size as u64;
            }
            rest &= !lanes;
        }
        self.sys.progress += 1;
        Ok(Flow::Next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_of_known_strides() {
        let stride = |s: u32| std::array::from_fn(|i| i as u32 * s);
        assert_eq!(bank_conflicts(&stride(4), 4, u32::MAX), 0);
        assert_eq!(bank_conflicts(&stride(8), 4, u32::MAX), 1);
        assert_eq!(bank_conflicts(&stride(128), 4, u32::MAX), 31);
        assert_eq!(bank_conflicts(&stride(132), 4, u32::MAX), 0);
        assert_eq!(bank_conflicts(&stride(0), 4, u32::MAX), 0);
        assert_eq!(bank_conflicts(&stride(16), 16, u32::MAX), 0);
        assert_eq!(bank_conflicts(&stride(128), 16, u32::MAX), 4 * 7);
    }
}
