//! What is said of an access that is wrong, or right only on trust.

use super::clock::{Kind, block_of};
use super::judge::Wrong;
use super::shadow::{ASYNC, CELL, Entry, SILENT, SPREAD, SWIZZLE_SHIFT, describe};
use super::sync::OFFSET_MASK;
use crate::exec::Core;
use crate::memory::RANK_SHIFT;
use crate::report::{Class, Report};

impl Core<'_> {
    /// An access comes after another only by what the chip does: advice.
    #[cold]
    pub(super) fn lean(
        &mut self,
        global: bool,
        address: u64,
        (entry, write): (Entry, bool),
        (before, wrote): (Entry, bool),
        lanes: u32,
    ) {
        let space = if global { "global" } else { "shared" };
        let verb = |write| if write { "write" } else { "read" };
        let access = format!("{} at {space} address {address:#x}", verb(write));
        let (why, hint) = if entry.is(SILENT) {
            (
                "puts there what is there already, and is not ordered after another access: a race to the letter, whatever the value",
                "let one thread write it, or a barrier between the two",
            )
        } else if before.reads_map() {
            (
                "edits a tensor map while a copy through it may still be on its way",
                "wait for the copy (its mbarrier, or its bulk group) before the map is edited again",
            )
        } else if before.of(Kind::Wgmma) {
            (
                "rests on one warp's wgmma.wait_group for another warp's share of the wgmma, which the manual does not promise",
                "an arrival by each of the four warps, or a barrier of the warpgroup, behind wgmma.wait_group",
            )
        } else {
            (
                "rests on a volatile access, which is relaxed, or on a shuffle, which orders no memory: this thread has acquired nothing",
                "fence.acq_rel of a scope that holds both before the store of the flag and after the loop that polls it, or st.release and ld.acquire; bar.warp.sync behind the lane that acquires for its warp",
            )
        };
        self.advise(Class::Race, lanes, |core| {
            (format!("{access} {why}"), Some(format!("{} by {}", verb(wrote), core.party(before))), hint)
        });
    }

    /// Who a remembered access was, in words.
    pub(super) fn party(&self, entry: Entry) -> String {
        let number = block_of(entry.agent);
        let Some(info) = self.sys.check.blocks.get(number as usize) else { return describe(entry) };
        let at = self.sys.describe(&info.program, entry.pc());
        let own = self.block.check.as_ref().is_some_and(|c| c.id == number);
        if own {
            return format!("{} at {at}", describe(entry));
        }
        let [x, y, z] = info.ctaid;
        let place =
            if info.device == self.block.device { String::new() } else { format!("device {} ", info.device) };
        format!("{place}block ({x},{y},{z}) {} at {at}", describe(entry))
    }

    #[cold]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn convict(
        &self,
        global: bool,
        at: u64,
        len: u64,
        entry: Entry,
        lanes: u32,
        write: bool,
        wrong: Wrong,
    ) -> Box<Report> {
        let space = if global { "global" } else { "shared" };
        let rank = self.block.rank;
        let at = if global { at } else { (rank << RANK_SHIFT) as u64 | at };
        let who = if entry.is(ASYNC) { "asynchronous " } else { "" };
        let what = if write { "write" } else { "read" };
        let len = if entry.is(SPREAD) { CELL / lanes.count_ones() as u64 } else { len };
        let access = format!("{who}{what} of {len} bytes at {space} address {at:#x}");
        let own = self.block.check.as_ref().map(|c| c.id);
        let grid_of =
            |e: Entry| self.sys.check.blocks.get(block_of(e.agent) as usize).map(|b| (b.stream, b.grid));
        let streams_of_one_device = |e: Entry, id: u32| {
            let blocks = &self.sys.check.blocks;
            let both = blocks.get(block_of(e.agent) as usize).zip(blocks.get(id as usize));
            both.is_some_and(|(a, b)| a.device == b.device && a.stream != b.stream)
        };
        let branches_of_a_graph = |e: Entry, id: u32| {
            let blocks = &self.sys.check.blocks;
            let both = blocks.get(block_of(e.agent) as usize).zip(blocks.get(id as usize));
            let lanes = &self.sys.lanes;
            both.is_some_and(|(a, b)| {
                a.stream != b.stream && lanes.contains(&a.stream) && lanes.contains(&b.stream)
            })
        };
        let mine = own.and_then(|id| self.sys.check.blocks.get(id as usize)).map(|b| (b.stream, b.grid));
        let finding = |class, message: String, other: Option<String>, hint: &str| {
            let mut report = self.report(class, lanes, message);
            report.address = Some(at);
            report.other = other;
            report.hint = Some(hint.into());
            report
        };
        let (before, verb) = match wrong {
            Wrong::AfterWrite(e) => (e, "write"),
            Wrong::AfterRead(e) => (e, "read"),
            Wrong::Unfenced(e) => {
                return finding(
                    Class::ProxyFence,
                    format!(
                        "{access}: an ordinary write to it need not be visible to the asynchronous proxy"
                    ),
                    Some(format!("written by {}", self.party(e))),
                    "fence.proxy.async by the writer (or by somebody ordered after it), then a barrier, then the asynchronous operation",
                );
            }
            Wrong::UnfencedReuse(e) => {
                return finding(
                    Class::ProxyFence,
                    format!("{access}: no proxy fence since an ordinary access to it (lint)"),
                    Some(format!("accessed by {}", self.party(e))),
                    "to the letter of the memory model a reuse across proxies needs fence.proxy.async; shipping kernels rely on the barrier alone",
                );
            }
            Wrong::Swizzle(e) => {
                let names =
                    ["no swizzle", "the 128-byte swizzle", "the 64-byte swizzle", "the 32-byte swizzle"];
                let name = |e: Entry| names[(e.info >> SWIZZLE_SHIFT) as usize];
                return finding(
                    Class::WgmmaOperand,
                    format!(
                        "{access} with {} in its descriptor: a tensor copy wrote it with {}",
                        name(entry),
                        name(e)
                    ),
                    Some(format!("written by {}", self.party(e))),
                    "bits 62-63 of the descriptor must name the swizzle of the tensor map",
                );
            }
            Wrong::Trailing(e) => {
                return finding(
                    Class::Race,
                    format!(
                        "{access} beside a tensor store that may write all of these sixteen bytes again, and nothing orders the two (lint)"
                    ),
                    Some(format!("write by {}", self.party(e))),
                    "wait for the store (cp.async.bulk.wait_group without .read, then a barrier), or end rows at multiples of 16 bytes",
                );
            }
            Wrong::Mbarrier => {
                let inside = at as u32 & OFFSET_MASK & !7;
                let init = self.block.check.as_ref().and_then(|c| c.mbarriers.get(&inside)?.init);
                return finding(
                    Class::Mbarrier,
                    format!("{access}, where a live mbarrier is"),
                    init.map(|e| format!("initialised by {}", self.party(e))),
                    "only mbarrier instructions may touch it until mbarrier.inval",
                );
            }
        };
        let other = Some(format!("{verb} by {}", self.party(before)));
        let message = format!("{access} is not ordered after a {verb} of it");
        if let (Some((stream, grid)), Some((theirs, earlier))) = (mine, grid_of(before))
            && stream == theirs
            && earlier != grid
        {
            return finding(
                Class::GridDependency,
                format!("{message} by a grid of the same stream"),
                other,
                "griddepcontrol.wait before the first access to what the grid before it reads or writes",
            );
        }
        if let Some((pc, block, told_at)) = self.warp.check.narrow
            && block == block_of(before.agent)
        {
            let there = self.sys.check.blocks.get(block as usize);
            let there = there.map(|b| self.sys.describe(&b.program, told_at)).unwrap_or_default();
            return finding(
                Class::Scope,
                format!("{message}: the signal between the two has too narrow a scope"),
                other,
                &format!("widen the scope of {there} and of {}", self.describe(pc)),
            );
        }
        let (kind, _) = super::clock::inner_of(before.agent);
        let tried = self.warp.check.tried.map(|(pc, _)| {
            format!(
                "{} returned false and was not repeated: it may do so at any time, and must loop",
                self.describe(pc)
            )
        });
        let hint = match (kind, verb) {
            (k, _) if k == Kind::Mbarrier as u32 => {
                tried.as_deref().unwrap_or("wait for the mbarrier of the copy before touching its bytes")
            }
            (k, _) if k == Kind::CpAsync as u32 => {
                "cp.async.wait_group by the thread that copied, then a barrier"
            }
            (k, "read") if k == Kind::BulkRead as u32 => {
                "cp.async.bulk.wait_group.read by the thread that stored, then a barrier"
            }
            (k, _) if k == Kind::BulkWrite as u32 => {
                "cp.async.bulk.wait_group (without .read) by the thread that stored, then a barrier"
            }
            (k, _) if k == Kind::Wgmma as u32 => "wgmma.wait_group before the operands are given back",
            _ if own.is_some_and(|id| branches_of_a_graph(before, id)) => {
                "an edge between the two nodes of the graph: when it is captured, an event recorded behind the one and waited for \
                 before the other"
            }
            _ if own.is_some_and(|id| streams_of_one_device(before, id)) => {
                "an event, recorded behind the one grid and waited for before the other"
            }
            _ => "a barrier, or a release and an acquire, between the two",
        };
        if kind == Kind::BulkRead as u32 {
            return finding(Class::BulkSourceOverwritten, message, other, hint);
        }
        finding(Class::Race, message, other, hint)
    }
}
