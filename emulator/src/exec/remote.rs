//! `st.async` and `red.async`: a few bytes of each thread, sent to shared memory of the cluster, counted by an mbarrier beside them.
//!
//! They are bulk copies of registers: they land when the completion policy says, and tell the mbarrier of the block they land in.

use super::{Core, Flow, Step};
use crate::ir::{Addr, AtomOp, Space, Src, Type};
use crate::machine::block::{LoadOp, Transfer};
use crate::memory::RANK_SHIFT;
use crate::report::Class;

const OFFSET_MASK: u32 = (1 << RANK_SHIFT) - 1;

impl Core<'_> {
    /// Sends the sources of every lane to its address.
    pub(super) fn send(
        &mut self,
        reduce: Option<AtomOp>,
        ty: Type,
        srcs: &[Src],
        addr: &Addr,
        mbar: &Addr,
        mask: u32,
    ) -> Step {
        let what = if reduce.is_some() { "red.async" } else { "st.async" };
        if let Some(op) = reduce
            && super::atomic::combine(op, ty, 0, 0, 0).is_none()
        {
            return Err(self.unsupported(mask));
        }
        let to = self.shared_addresses(addr, Space::SharedCluster, mask, &format!("the target of {what}"))?;
        let signal = self.shared_addresses(mbar, Space::SharedCluster, mask, "an mbarrier")?;
        let step = ty.bytes() as usize;
        let span = (step * srcs.len()) as u32;
        let values: Vec<_> = srcs.iter().map(|s| self.get64(s)).collect();
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let lanes = 1 << l;
            let rank = to[l] >> RANK_SHIFT;
            if signal[l] >> RANK_SHIFT != rank {
                let message = format!(
                    "{what} to the block of rank {rank}, with an mbarrier of rank {}: both must be of one block",
                    signal[l] >> RANK_SHIFT
                );
                return Err(self.report(Class::AsyncCopy, lanes, message));
            }
            if to[l] % span != 0 {
                let message = format!("{what} of {span} bytes at {:#x}, which is not a multiple", to[l]);
                let mut report = self.report(Class::Misaligned, lanes, message);
                report.address = Some(to[l].into());
                return Err(report);
            }
            let bytes: Vec<u8> =
                values.iter().flat_map(|v| v[l].to_le_bytes().into_iter().take(step)).collect();
            let op = LoadOp {
                origin: self.origin(lanes),
                transfer: Transfer::Bytes(bytes.into()),
                shared: to[l] & OFFSET_MASK,
                mbarrier: signal[l] & OFFSET_MASK,
                reduce: reduce.map(|op| (op, ty)),
            };
            self.deliver(rank, op, span, what)?;
        }
        Ok(Flow::Next)
    }
}
