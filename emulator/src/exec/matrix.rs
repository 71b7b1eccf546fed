//! `ldmatrix`, `stmatrix` and `movmatrix`: 8×8 matrices of 16-bit elements, one row of 16 bytes per address lane.
//!
//! Matrix i takes its rows from the addresses of lanes 8i to 8i+7; the addresses of the other lanes are ignored (they hold
//! junk in shipping code). Lane l holds elements 2(l mod 4) and 2(l mod 4)+1 of row l/4, or of column l/4 with `.trans`.

use super::address::Place;
use super::{Core, Flow, Step};
use crate::ir::{Addr, Reg, Space, Src};
use crate::memory::RANK_SHIFT;
use crate::report::{Class, Report};

impl Core<'_> {
    /// The row addresses of so many matrices, as shared addresses.
    fn rows(
        &mut self,
        addr: &Addr,
        space: Space,
        matrices: usize,
        what: &str,
    ) -> Result<[u32; 32], Box<Report>> {
        let used = if matrices == 4 { u32::MAX } else { (1u32 << (8 * matrices)) - 1 };
        let at = self.shared_addresses(addr, space, used, what)?;
        let mut bad = 0;
        for (l, a) in at.iter().enumerate() {
            bad |= ((a % 16 != 0) as u32) << l;
        }
        if bad & used != 0 {
            let address = at[(bad & used).trailing_zeros() as usize];
            let mut report = self.report(
                Class::Misaligned,
                bad & used,
                format!("{what} row at {address:#x}, which is not a multiple of 16"),
            );
            report.address = Some(address as u64);
            return Err(report);
        }
        let conflicts = super::memory::bank_conflicts(&at, 16, used);
        self.sys.counters[self.block.device].bank_conflicts += conflicts as u64;
        Ok(at)
    }

    pub(super) fn ldmatrix(
        &mut self,
        dsts: &[Reg],
        addr: &Addr,
        trans: bool,
        space: Space,
        mask: u32,
    ) -> Step {
        if let Some(flow) = self.whole_warp(mask, "ldmatrix")? {
            return Ok(flow);
        }
        let at = self.rows(addr, space, dsts.len(), "ldmatrix")?;
        for (l, address) in at.iter().enumerate().take(8 * dsts.len()) {
            self.touch_lane(false, *address as u64, 16, l as u32, false, 0)?;
        }
        let check = self.sys.config.checks.uninitialised;
        for (m, dst) in dsts.iter().enumerate() {
            let mut rows = [[0u16; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let address = at[8 * m + r];
                let bytes = match self.shared_of(address) {
                    Some(memory) => memory.read(address & ((1 << RANK_SHIFT) - 1), 16, check),
                    None => Err(crate::memory::Trouble::OutOfBounds),
                };
                match bytes {
                    Ok(bytes) => {
                        for (e, pair) in row.iter_mut().zip(bytes.chunks_exact(2)) {
                            *e = u16::from_le_bytes([pair[0], pair[1]]);
                        }
                    }
                    Err(trouble) => {
                        let lane = 1 << (8 * m + r);
                        return Err(self.access_report(
                            Place::Shared,
                            address as u64,
                            16,
                            false,
                            trouble,
                            lane,
                        ));
                    }
                }
            }
            let value: [u32; 32] = std::array::from_fn(|l| {
                let (i, j) = (l / 4, 2 * (l % 4));
                let (low, high) =
                    if trans { (rows[j][i], rows[j + 1][i]) } else { (rows[i][j], rows[i][j + 1]) };
                low as u32 | (high as u32) << 16
            });
            self.set(*dst, &value.map(u64::from), mask);
        }
        self.sys.counters[self.block.device].shared_load_bytes += 128 * dsts.len() as u64;
        Ok(Flow::Next)
    }

    pub(super) fn stmatrix(
        &mut self,
        srcs: &[Src],
        addr: &Addr,
        trans: bool,
        space: Space,
        mask: u32,
    ) -> Step {
        if let Some(flow) = self.whole_warp(mask, "stmatrix")? {
            return Ok(flow);
        }
        let at = self.rows(addr, space, srcs.len(), "stmatrix")?;
        for (l, address) in at.iter().enumerate().take(8 * srcs.len()) {
            self.touch_lane(false, *address as u64, 16, l as u32, true, 0)?;
        }
        for (m, src) in srcs.iter().enumerate() {
            let value = self.get32(src);
            for r in 0..8 {
                let address = at[8 * m + r];
                let lane = 1 << (8 * m + r);
                self.check_bulk_source(address, 16, lane)?;
                let mut row = [0u8; 16];
                for (e, pair) in row.chunks_exact_mut(2).enumerate() {
                    let (i, j) = if trans { (e, r) } else { (r, e) };
                    let word = value[4 * i + j / 2];
                    let half = (word >> (16 * (j % 2))) as u16;
                    pair.copy_from_slice(&half.to_le_bytes());
                }
                let bytes = match self.shared_of_mut(address) {
                    Some(memory) => memory.write(address & ((1 << RANK_SHIFT) - 1), 16),
                    None => Err(crate::memory::Trouble::OutOfBounds),
                };
                match bytes {
                    Ok(bytes) => bytes.copy_from_slice(&row),
                    Err(trouble) => {
                        return Err(self.access_report(
                            Place::Shared,
                            address as u64,
                            16,
                            true,
                            trouble,
                            lane,
                        ));
                    }
                }
            }
        }
        self.sys.counters[self.block.device].shared_store_bytes += 128 * srcs.len() as u64;
        self.sys.progress += 1;
        Ok(Flow::Next)
    }

    /// Transposes a matrix that the lanes hold.
    pub(super) fn movmatrix(&mut self, dst: Reg, src: &Src, mask: u32) -> Step {
        if let Some(flow) = self.whole_warp(mask, "movmatrix")? {
            return Ok(flow);
        }
        let held = self.get32(src);
        let element = |i: usize, j: usize| u64::from(held[4 * i + j / 2] >> (16 * (j % 2)) & 0xffff);
        let value = std::array::from_fn(|l| {
            let (i, j) = (l / 4, 2 * (l % 4));
            element(j, i) | element(j + 1, i) << 16
        });
        self.set(dst, &value, mask);
        Ok(Flow::Next)
    }
}
