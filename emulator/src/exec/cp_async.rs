//! `cp.async`: copies of a few bytes by threads, their groups, and arrivals on an mbarrier that follow them.

use super::transfer::{land_any, land_copies};
use super::{Core, Flow, Step, lanes};
use crate::ir::{Addr, PredSrc, Space, Src};
use crate::machine::Completion;
use crate::machine::block::CpOp;
use crate::report::Class;

impl Core<'_> {
    pub(super) fn cp_async(
        &mut self,
        dst: &Addr,
        src: &Addr,
        bytes: u32,
        src_bytes: Option<&Src>,
        ignore: Option<PredSrc>,
        mask: u32,
    ) -> Step {
        let to = self.shared_addresses(dst, Space::Shared, mask, "the destination of cp.async")?;
        let from = self.addresses(src, false);
        let mut size = src_bytes.map_or([bytes; 32], |s| self.get32(s));
        if let Some(pred) = ignore {
            let ignored = self.pred(pred);
            lanes::each(ignored, |l| size[l] = 0);
        }
        let mut offsets = [0u32; 32];
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            offsets[l] = self.own_offset(to[l], 1 << l, "the destination of cp.async")?;
            if size[l] > bytes {
                let message = format!("cp.async with a source size of {} for {bytes} bytes", size[l]);
                return Err(self.report(Class::AsyncCopy, 1 << l, message));
            }
            if to[l] % bytes != 0 || (size[l] != 0 && !from[l].is_multiple_of(bytes as u64)) {
                let (side, at) = if to[l] % bytes != 0 { ("to", to[l] as u64) } else { ("from", from[l]) };
                let mut report = self.report(
                    Class::Misaligned,
                    1 << l,
                    format!("cp.async of {bytes} bytes {side} {at:#x}, which is not a multiple of {bytes}"),
                );
                report.address = Some(at);
                return Err(report);
            }
            self.check_bulk_source(to[l], bytes, 1 << l)?;
            self.touch_cp(l as u32, (to[l], bytes), (from[l], size[l]))?;
        }
        if self.sys.config.completion != Completion::Eager {
            lanes::each(mask, |l| self.block.shared.forget(offsets[l], bytes));
        }
        self.sys.counters[self.block.device].global_load_bytes +=
            (0..32).filter(|l| mask >> l & 1 == 1).map(|l| size[l] as u64).sum::<u64>();
        let copy = CpOp::Copy {
            origin: self.origin(mask),
            lanes: mask,
            dst: Box::new(offsets),
            src: Box::new(from),
            size: Box::new(size),
            bytes,
            group: Box::new(self.warp.cp_group),
        };
        self.block.copies.push(copy);
        if self.sys.config.completion == Completion::Eager {
            land_copies(self.sys, self.block, usize::MAX, |_, _, _| true)?;
        }
        Ok(Flow::Next)
    }

    pub(super) fn cp_async_commit(&mut self, mask: u32) -> Flow {
        lanes::each(mask, |l| self.warp.cp_group[l] += 1);
        self.cp_commit(mask);
        Flow::Next
    }

    pub(super) fn cp_async_wait(&mut self, groups: Option<u32>, mask: u32) -> Step {
        self.cp_learn(groups, mask);
        let (warp, open) = (self.warp.index, self.warp.cp_group);
        land_copies(self.sys, self.block, usize::MAX, |w, l, group| {
            // `wait_all` also covers what was not committed.
            w == warp && mask >> l & 1 == 1 && groups.is_none_or(|n| group + n < open[l])
        })?;
        Ok(Flow::Next)
    }

    pub(super) fn cp_async_arrive(&mut self, addr: &Addr, space: Space, noinc: bool, mask: u32) -> Step {
        let at = self.shared_addresses(addr, space, mask, "an mbarrier")?;
        let mut offsets = [0u32; 32];
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            offsets[l] = self.own_offset(at[l], 1 << l, "the mbarrier of cp.async.mbarrier.arrive")?;
            self.mbar_known(at[l], 1 << l, false)?;
            self.mbar_arrives(at[l], 1 << l)?;
            self.cp_tell(at[l], 1 << l);
            if !noinc {
                let origin = self.origin(1 << l);
                self.mbar_update(at[l], origin, |m| m.inc_pending())?;
            }
        }
        let origin = self.origin(mask);
        self.cp_close();
        self.block.copies.push(CpOp::Arrive { origin, lanes: mask, mbarrier: Box::new(offsets) });
        if self.sys.config.completion == Completion::Eager {
            // Nothing else is pending: only these arrivals land.
            for _ in 0..mask.count_ones() {
                land_any(self.sys, self.block, |_| 0)?;
            }
        }
        Ok(Flow::Next)
    }
}
