//! Issuing bulk and tensor copies, and waiting for their groups.
//!
//! What can be checked is checked when the copy is issued, where the mistake is: sizes, alignments, the tensor map, the room
//! in shared memory. The bytes move when the completion policy says ([`super::transfer`]).

use std::sync::Arc;

use super::address::{Place, split};
use super::transfer::{land_load, read_store, write_store};
use super::{Core, Flow, Step};
use crate::ir::{Addr, AtomOp, BulkCopy, Completion as Signal, Space, Src, TensorAccess, Type};
use crate::machine::Completion;
use crate::machine::block::{LoadOp, StoreOp, StoreStage, Transfer};
use crate::memory::{RANK_SHIFT, Trouble};
use crate::report::{Class, Report};
use crate::tma::{DataType, TensorMap};

const OFFSET_MASK: u32 = (1 << RANK_SHIFT) - 1;

/// The element type of a reduction through a tensor map.
fn element_type(data_type: DataType) -> Option<Type> {
    Some(match data_type {
        DataType::U32 => Type::U32,
        DataType::S32 => Type::S32,
        DataType::U64 => Type::U64,
        DataType::S64 => Type::S64,
        DataType::F16 => Type::F16,
        DataType::BF16 => Type::BF16,
        DataType::F32 | DataType::F32Ftz | DataType::TF32 | DataType::TF32Ftz => Type::F32,
        DataType::F64 => Type::F64,
        _ => return None,
    })
}

impl Core<'_> {
    /// Issues a bulk copy, lane by lane.
    pub(super) fn bulk(&mut self, bulk: &BulkCopy, mask: u32) -> Step {
        if bulk.prefetch {
            return Ok(Flow::Next);
        }
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            match (&bulk.completion, bulk.dst_space) {
                (Some(Signal::Mbarrier(mbarrier)), _) => self.bulk_load(bulk, mbarrier, l)?,
                (Some(Signal::BulkGroup), _) => self.bulk_store(bulk, l)?,
                (None, _) => return Err(self.unsupported(mask)),
            }
        }
        Ok(Flow::Next)
    }

    fn lane32(&self, src: &Src, lane: usize) -> u32 {
        self.get32(src)[lane]
    }

    /// The tensor map behind a generic address.
    fn tensor_map(&mut self, addr: &Addr, lane: usize) -> Result<Arc<TensorMap>, Box<Report>> {
        let lanes = 1u32 << lane;
        let address = self.addresses(addr, false)[lane];
        let (place, inside) = split(address);
        let fail = |core: &Self, class, message: String| {
            let mut report = core.report(class, lanes, message);
            report.address = Some(address);
            Err(report)
        };
        if inside % 64 != 0 {
            let message = format!("tensor map at {address:#x}, which is not a multiple of 64");
            return fail(self, Class::Misaligned, message);
        }
        let check = self.sys.config.checks.uninitialised;
        self.touch_map(place == Place::Global, address, lanes)?;
        let bytes = match place {
            Place::Param => {
                self.block.params.get(inside as usize..inside as usize + 128).ok_or(Trouble::OutOfBounds)
            }
            Place::Global => self.sys.global.read(address, 128, check),
            Place::Shared | Place::Local => {
                return fail(
                    self,
                    Class::TensorMap,
                    "a tensor map must lie in parameters, constant or global memory".into(),
                );
            }
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(trouble) => {
                let mut report = self.access_report(place, address, 128, false, trouble, lanes);
                report.message = report.message.replacen("load of", "tensor map of", 1);
                if address < self.block.params.len() as u64 {
                    let hint = "the address is generic: that of a parameter needs cvta.param";
                    report.hint = Some(hint.into());
                }
                return Err(report);
            }
        };
        let mut words = [0u64; 16];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        }
        if let Some((_, map)) = self.block.maps.iter().find(|(known, _)| *known == words) {
            return Ok(map.clone());
        }
        match TensorMap::decode(&words) {
            Ok(map) => {
                let map = Arc::new(map);
                if self.block.maps.len() == 16 {
                    self.block.maps.remove(0);
                }
                self.block.maps.push((words, map.clone()));
                Ok(map)
            }
            Err(error) => fail(self, Class::TensorMap, format!("tensor map at {address:#x}: {error}")),
        }
    }

    /// Map and coordinates, checked against each other and against shared memory.
    fn tensor(
        &mut self,
        access: &TensorAccess,
        shared: u32,
        lane: usize,
    ) -> Result<(Arc<TensorMap>, [i32; 5]), Box<Report>> {
        let lanes = 1u32 << lane;
        let mut map = self.tensor_map(&access.map, lane)?;
        if access.im2col.is_some() != map.is_im2col() {
            let message = match &access.im2col {
                Some(_) => "an im2col copy through a tiled tensor map",
                None => "a tiled copy through an im2col tensor map",
            };
            return Err(self.report(Class::TensorMap, lanes, message));
        }
        if let Some(offsets) = &access.im2col {
            let offsets: Vec<u16> = offsets.iter().map(|o| self.lane32(o, lane) as u16).collect();
            match map.with_offsets(&offsets) {
                Ok(moved) => map = Arc::new(moved),
                Err(error) => return Err(self.report(Class::TensorMap, lanes, error.to_string())),
            }
        }
        if access.coords.len() != map.rank() {
            let message =
                format!("{} coordinates for a tensor map of rank {}", access.coords.len(), map.rank());
            return Err(self.report(Class::TensorMap, lanes, message));
        }
        let mut coords = [0i32; 5];
        for (to, from) in coords.iter_mut().zip(&access.coords) {
            *to = self.lane32(from, lane) as i32;
        }
        let align = map.shared_alignment();
        if !shared.is_multiple_of(align) {
            let mut report = self.report(
                Class::Misaligned,
                lanes,
                format!("tensor copy at shared address {shared:#x}, which is not a multiple of {align}"),
            );
            report.address = Some(shared as u64);
            return Err(report);
        }
        Ok((map, coords))
    }

    /// Size, shared and global address of a plain bulk copy, checked.
    fn linear(&self, size: u32, shared: u32, global: u64, lane: usize) -> Result<(), Box<Report>> {
        let lanes = 1u32 << lane;
        if !size.is_multiple_of(16) {
            return Err(self.report(
                Class::AsyncCopy,
                lanes,
                format!("bulk copy of {size} bytes: the size must be a multiple of 16"),
            ));
        }
        for (what, at) in [("shared", shared as u64), ("global", global)] {
            if at % 16 != 0 {
                let mut report = self.report(
                    Class::Misaligned,
                    lanes,
                    format!("bulk copy at {what} address {at:#x}, which is not a multiple of 16"),
                );
                report.address = Some(at);
                return Err(report);
            }
        }
        Ok(())
    }

    /// One shared address of one lane.
    fn lane_shared(&self, addr: &Addr, space: Space, lane: usize, what: &str) -> Result<u32, Box<Report>> {
        Ok(self.shared_addresses(addr, space, 1 << lane, what)?[lane])
    }

    fn bulk_load(&mut self, bulk: &BulkCopy, mbarrier: &Addr, lane: usize) -> Result<(), Box<Report>> {
        let lanes = 1u32 << lane;
        let dst = self.lane_shared(&bulk.dst, bulk.dst_space, lane, "the destination of a bulk copy")?;
        let signal = self.lane_shared(mbarrier, bulk.dst_space, lane, "the mbarrier of a bulk copy")?;
        let (transfer, span) = match (&bulk.tensor, &bulk.size) {
            (Some(access), _) => {
                let (map, coords) = self.tensor(access, dst, lane)?;
                let span = map.shared_bytes();
                (Transfer::Tensor { map, coords }, span)
            }
            (None, Some(size)) => {
                let size = self.lane32(size, lane);
                if matches!(bulk.src_space, Space::Shared | Space::SharedCluster) {
                    let src =
                        self.lane_shared(&bulk.src, bulk.src_space, lane, "the source of a bulk copy")?;
                    self.linear(size, dst, src as u64, lane)?;
                    self.touch_taken(src, size, signal, lanes)?;
                    let src = self.own_offset(src, lanes, "the source of a bulk copy")?;
                    let bytes = self.take_bytes(src, size).map_err(|t| {
                        self.access_report(Place::Shared, src as u64, size as u64, false, t, lanes)
                    })?;
                    (Transfer::Bytes(bytes), size)
                } else {
                    let global = self.addresses(&bulk.src, false)[lane];
                    self.linear(size, dst, global, lane)?;
                    (Transfer::Linear { global, bytes: size }, size)
                }
            }
            (None, None) => return Err(self.unsupported(lanes)),
        };
        let reduce = match bulk.reduce {
            None => None,
            Some((op, Some(ty))) if super::atomic::combine(op, ty, 0, 0, 0).is_some() => Some((op, ty)),
            Some(_) => return Err(self.unsupported(lanes)),
        };
        let targets: Vec<u32> = match &bulk.multicast {
            None if signal >> RANK_SHIFT != dst >> RANK_SHIFT => {
                let message = format!(
                    "bulk copy to the block of rank {}, with an mbarrier of rank {}: both must be of one block",
                    dst >> RANK_SHIFT,
                    signal >> RANK_SHIFT
                );
                return Err(self.report(Class::AsyncCopy, lanes, message));
            }
            None => vec![dst >> RANK_SHIFT],
            Some(mask) => {
                let ranks = self.lane32(mask, lane) & 0xffff;
                (0..16).filter(|rank| ranks >> rank & 1 == 1).collect()
            }
        };
        for rank in targets {
            let op = LoadOp {
                origin: self.origin(lanes),
                transfer: transfer.clone(),
                shared: dst & OFFSET_MASK,
                mbarrier: signal & OFFSET_MASK,
                reduce,
            };
            self.deliver(rank, op, span, "bulk copy")?;
        }
        Ok(())
    }

    /// Sends an operation to the block of a rank, where it lands now or later.
    pub(super) fn deliver(
        &mut self,
        rank: u32,
        op: LoadOp,
        span: u32,
        what: &str,
    ) -> Result<(), Box<Report>> {
        let lanes = op.origin.lanes;
        let at = rank << RANK_SHIFT | op.shared;
        let room = self.shared_of(at).is_some_and(|m| m.contains(op.shared, span));
        if !room {
            let mut report = self.report(
                Class::OutOfBounds,
                lanes,
                format!("{what} of {span} bytes to shared address {at:#x}"),
            );
            report.address = Some(at as u64);
            self.explain(&mut report, Place::Shared, at as u64, Trouble::OutOfBounds);
            return Err(report);
        }
        self.check_bulk_source(at, span, lanes)?;
        self.touch_load(rank, &op, span)?;
        let eager = self.sys.config.completion == Completion::Eager;
        if rank == self.block.rank {
            if eager {
                land_load(self.sys, self.block, op)?;
            } else {
                self.block.expect_load(op);
            }
        } else if let Some(Some(peer)) = self.others.get_mut(self.block.peers[rank as usize]) {
            if eager {
                land_load(self.sys, peer, op)?;
            } else {
                peer.expect_load(op);
            }
        }
        self.sys.progress += 1;
        Ok(())
    }

    fn bulk_store(&mut self, bulk: &BulkCopy, lane: usize) -> Result<(), Box<Report>> {
        let lanes = 1u32 << lane;
        let src = self.lane_shared(&bulk.src, bulk.src_space, lane, "the source of a bulk store")?;
        let (transfer, span, reduce) = match (&bulk.tensor, &bulk.size) {
            (Some(access), _) => {
                let (map, coords) = self.tensor(access, src, lane)?;
                let span = map.shared_bytes();
                let reduce = match bulk.reduce {
                    None => None,
                    Some((op, _)) => match element_type(map.data_type()) {
                        Some(ty) => Some((op, ty)),
                        None => return Err(self.unsupported(lanes)),
                    },
                };
                (Transfer::Tensor { map, coords }, span, reduce)
            }
            (None, Some(size)) => {
                let size = self.lane32(size, lane);
                let global = self.addresses(&bulk.dst, false)[lane];
                self.linear(size, src, global, lane)?;
                let reduce = match bulk.reduce {
                    None => None,
                    Some((op, Some(ty))) => Some((op, ty)),
                    Some((_, None)) => return Err(self.unsupported(lanes)),
                };
                (Transfer::Linear { global, bytes: size }, size, reduce)
            }
            (None, None) => return Err(self.unsupported(lanes)),
        };
        if let Some((op, ty)) = reduce
            && (super::atomic::combine(op, ty, 0, 0, 0).is_none() || matches!(op, AtomOp::Cas | AtomOp::Exch))
        {
            return Err(self.unsupported(lanes));
        }
        let shared = self.own_offset(src, lanes, "the source of a bulk store")?;
        if !self.block.shared.contains(shared, span) {
            return Err(self.access_report(
                Place::Shared,
                src as u64,
                span as u64,
                false,
                Trouble::OutOfBounds,
                lanes,
            ));
        }
        let mut op = StoreOp {
            origin: self.origin(lanes),
            transfer,
            shared,
            span,
            reduce,
            group: self.warp.bulk_group[lane],
            stage: StoreStage::Issued,
        };
        self.touch_store(&op)?;
        if self.sys.config.completion == Completion::Eager {
            write_store(self.sys, self.block, &mut op)?;
        }
        self.block.stores.push(op);
        self.sys.progress += 1;
        Ok(())
    }

    pub(super) fn bulk_commit(&mut self, mask: u32) -> Flow {
        super::lanes::each(mask, |l| self.warp.bulk_group[l] += 1);
        self.bulk_commits(mask);
        Flow::Next
    }

    /// `cp.async.bulk.wait_group[.read]`
    pub(super) fn bulk_wait(&mut self, groups: u32, read: bool, mask: u32) -> Step {
        self.bulk_learn(groups, read, mask);
        let (warp, open) = (self.warp.index, self.warp.bulk_group);
        let mut kept = Vec::new();
        for mut op in std::mem::take(&mut self.block.stores) {
            let lane = op.origin.lanes.trailing_zeros() as usize & 31;
            let covered = op.origin.warp == warp
                && mask & op.origin.lanes != 0
                && op.group as u64 + (groups as u64) < open[lane] as u64;
            if !covered {
                kept.push(op);
                continue;
            }
            if read {
                read_store(self.sys, self.block, &mut op)?;
                // The source is free from here on; what was not written yet still has to be.
                op.span = 0;
                if !matches!(op.stage, StoreStage::Written) {
                    kept.push(op);
                }
            } else {
                write_store(self.sys, self.block, &mut op)?;
            }
        }
        self.block.stores = kept;
        Ok(Flow::Next)
    }

    /// Nobody writes to shared memory that a bulk store may still read.
    #[inline]
    pub(super) fn check_bulk_source(&self, shared: u32, bytes: u32, lanes: u32) -> Result<(), Box<Report>> {
        if self.block.stores.is_empty() || !self.sys.config.checks.bulk_source {
            return Ok(());
        }
        if shared >> RANK_SHIFT != self.block.rank {
            return Ok(());
        }
        let offset = shared & OFFSET_MASK;
        let hit =
            self.block.stores.iter().find(|op| offset < op.shared + op.span && op.shared < offset + bytes);
        let Some(op) = hit else { return Ok(()) };
        let mut report = self.report(
            Class::BulkSourceOverwritten,
            lanes,
            format!("write of {bytes} bytes at shared address {shared:#x}, which a bulk store may still be reading"),
        );
        report.address = Some(shared as u64);
        report.other = Some(format!(
            "bulk store by warp {} lanes {} at {}",
            op.origin.warp,
            crate::report::lane_list(op.origin.lanes),
            self.describe(op.origin.pc)
        ));
        report.hint =
            Some("the thread that issued it must execute cp.async.bulk.wait_group.read, and then meet the writer at a barrier".into());
        Err(report)
    }
}
