//! Clusters: addresses of peers, and the cluster barrier.

use super::address::{Place, split};
use super::{Core, Flow, Step};
use crate::ir::{Reg, Space, Src};
use crate::machine::warp::Wait;
use crate::memory::{RANK_SHIFT, SHARED_WINDOW};
use crate::report::{Class, Report};

const OFFSET_MASK: u64 = (1 << RANK_SHIFT) - 1;

impl Core<'_> {
    pub(super) fn mapa(&mut self, dst: Reg, addr: &Src, rank: &Src, space: Space, mask: u32) -> Step {
        let (addresses, ranks) = (self.get64(addr), self.get32(rank));
        let size = self.block.peers.len() as u32;
        let mut out = [0u64; 32];
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            if ranks[l] >= size {
                return Err(self.report(
                    Class::OutOfBounds,
                    1 << l,
                    format!("mapa to rank {} of a cluster of {size}", ranks[l]),
                ));
            }
            let (place, inside) = match space {
                Space::Generic => split(addresses[l]),
                _ => (Place::Shared, addresses[l]),
            };
            if place != Place::Shared {
                return Err(self.report(
                    Class::OutOfBounds,
                    1 << l,
                    "mapa of an address outside shared memory",
                ));
            }
            let mapped = (ranks[l] as u64) << RANK_SHIFT | inside & OFFSET_MASK;
            out[l] = if space == Space::Generic { SHARED_WINDOW | mapped } else { mapped };
        }
        self.set(dst, &out, mask);
        Ok(Flow::Next)
    }

    pub(super) fn getctarank(&mut self, dst: Reg, addr: &Src, space: Space, mask: u32) -> Step {
        let ranks = self.get64(addr).map(|a| {
            let inside = if space == Space::Generic { split(a).1 } else { a };
            inside >> RANK_SHIFT & 0xff
        });
        self.set(dst, &ranks, mask);
        Ok(Flow::Next)
    }

    /// Ends the phase of the cluster barrier when every live thread of every block has arrived.
    pub(super) fn settle_cluster(&mut self) {
        let mut arrived = self.block.cluster_arrived;
        let mut live = self.live_threads();
        for slot in &self.block.peers {
            if let Some(Some(peer)) = self.others.get(*slot) {
                arrived += peer.cluster_arrived;
                live += peer.live_threads();
            }
        }
        if arrived == 0 || arrived < live {
            return;
        }
        self.cluster_complete();
        self.block.cluster_arrived = 0;
        self.block.cluster_phase += 1;
        for slot in &self.block.peers {
            if let Some(Some(peer)) = self.others.get_mut(*slot) {
                peer.cluster_arrived = 0;
                peer.cluster_phase += 1;
            }
        }
    }

    pub(super) fn cluster_arrive(&mut self, aligned: bool, releases: bool, mask: u32) -> Step {
        if aligned && let Some(flow) = self.whole_warp(mask, "an .aligned cluster barrier")? {
            return Ok(flow);
        }
        let phase = self.block.cluster_phase;
        let again = self
            .warp
            .cluster_phases
            .iter()
            .enumerate()
            .fold(0u32, |m, (l, p)| m | ((*p == phase + 1) as u32) << l)
            & mask;
        if again != 0 {
            return Err(self.twice(again));
        }
        super::lanes::each(mask, |l| self.warp.cluster_phases[l] = phase + 1);
        self.warp.cluster_pc = self.pc;
        if releases {
            self.cluster_tell(mask);
        } else {
            self.cluster_tell_released(mask);
        }
        self.block.cluster_arrived += mask.count_ones();
        self.settle_cluster();
        self.sys.progress += 1;
        Ok(Flow::Next)
    }

    fn twice(&self, lanes: u32) -> Box<Report> {
        let message = "barrier.cluster.arrive twice in one phase: a thread must wait between two arrivals";
        let mut report = self.report(Class::Barrier, lanes, message);
        let first = self.describe(self.warp.cluster_pc);
        report.other = Some(format!("warp {} arrived first at {first}", self.warp.index));
        report
    }

    pub(super) fn cluster_wait(&mut self, aligned: bool, mask: u32) -> Step {
        if aligned && let Some(flow) = self.whole_warp(mask, "an .aligned cluster barrier")? {
            return Ok(flow);
        }
        let phase = self.block.cluster_phase;
        let mut missing = 0;
        let mut open = false;
        super::lanes::each(mask, |l| match self.warp.cluster_phases[l] {
            0 => missing |= 1 << l,
            arrived => open |= arrived == phase + 1,
        });
        if missing != 0 {
            return Err(self.report(
                Class::Barrier,
                missing,
                "barrier.cluster.wait without an arrival before it",
            ));
        }
        if open {
            return Ok(Flow::Park(Wait::Cluster { phase }));
        }
        self.cluster_learn(mask);
        Ok(Flow::Next)
    }
}
