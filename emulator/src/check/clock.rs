//! What somebody knows to have happened: vector clocks over threads and asynchronous operations of many blocks.
//!
//! A clock maps agents to moments. An agent is a thread, or what completes together: the `cp.async`s of a thread, the reads
//! or the writes of its bulk groups, the copies that report to one mbarrier, the `wgmma`s of one warp. Threads of a warp
//! mostly move together, so a clock has one moment for all lanes of a warp, and more entries for lanes that went ahead
//! alone (an elected lane that arrives). Clocks are shared until written.

use std::sync::Arc;

/// Who accessed: `block << 13 | kind << 10 | index`. For kinds of threads the index is 32 × warp and a lane mask goes with it.
pub(crate) type Agent = u32;
/// Bits of an agent inside its block.
pub(crate) const INNER_BITS: u32 = 13;
const INNER: u32 = (1 << INNER_BITS) - 1;

/// What kind of agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Thread = 0,
    /// `cp.async` of a thread.
    CpAsync = 1,
    /// Reading the source of a thread's bulk stores.
    BulkRead = 2,
    /// Writing the destination of a thread's bulk stores.
    BulkWrite = 3,
    /// Copies that complete on an mbarrier, by number.
    Mbarrier = 4,
    /// `wgmma`s of a warp reading shared memory, by warp. The lane mask of an access names warps, from that one on.
    Wgmma = 5,
}

/// The kinds that are counted by warp and lane.
const BY_LANE: u32 = 4;

/// Makes an agent.
pub(crate) fn agent(block: u32, kind: Kind, index: u32) -> Agent {
    block << INNER_BITS | (kind as u32) << 10 | index & 0x3ff
}

/// The block of an agent.
#[inline]
pub(crate) fn block_of(agent: Agent) -> u32 {
    agent >> INNER_BITS
}

/// Kind number and index of an agent.
#[inline]
pub(crate) fn inner_of(agent: Agent) -> (u32, u32) {
    let inner = agent & INNER;
    (inner >> 10, inner & 0x3ff)
}

/// The moments of one block's agents.
#[derive(Clone, Debug, Default, PartialEq)]
struct Part {
    /// All lanes of a warp: `warp * 4 + kind`.
    warps: Vec<u32>,
    /// Single lanes and numbered agents, in the order of `kind << 10 | index`.
    single: Vec<(u16, u32)>,
}

impl Part {
    fn raise_single(&mut self, key: u16, at: u32) {
        match self.single.binary_search_by_key(&key, |(k, _)| *k) {
            Ok(i) => self.single[i].1 = self.single[i].1.max(at),
            Err(i) => self.single.insert(i, (key, at)),
        }
    }

    fn raise_warp(&mut self, slot: usize, at: u32) {
        if self.warps.len() <= slot {
            self.warps.resize(slot + 1, 0);
        }
        self.warps[slot] = self.warps[slot].max(at);
    }

    /// Knows all that `other` knows.
    fn covers(&self, other: &Part) -> bool {
        let long = other.warps.len() > self.warps.len();
        if long && other.warps[self.warps.len()..].iter().any(|m| *m != 0) {
            return false;
        }
        if self.warps.iter().zip(&other.warps).any(|(a, b)| a < b) {
            return false;
        }
        let mut at = 0;
        for (key, moment) in &other.single {
            while at < self.single.len() && self.single[at].0 < *key {
                at += 1;
            }
            if at == self.single.len() || self.single[at].0 != *key || self.single[at].1 < *moment {
                return false;
            }
        }
        true
    }

    fn join(&mut self, other: &Part) {
        if self.warps.len() < other.warps.len() {
            self.warps.resize(other.warps.len(), 0);
        }
        for (a, b) in self.warps.iter_mut().zip(&other.warps) {
            *a = (*a).max(*b);
        }
        if other.single.is_empty() {
            return;
        }
        let mine = std::mem::take(&mut self.single);
        let (mut i, mut j) = (0, 0);
        self.single.reserve(mine.len() + other.single.len());
        while i < mine.len() || j < other.single.len() {
            let a = mine.get(i).copied();
            let b = other.single.get(j).copied();
            match (a, b) {
                (Some(a), Some(b)) if a.0 == b.0 => {
                    self.single.push((a.0, a.1.max(b.1)));
                    (i, j) = (i + 1, j + 1);
                }
                (Some(a), Some(b)) if b.0 < a.0 => {
                    self.single.push(b);
                    j += 1;
                }
                (None, Some(b)) => {
                    self.single.push(b);
                    j += 1;
                }
                (Some(a), _) => {
                    self.single.push(a);
                    i += 1;
                }
                (None, None) => unreachable!("one of the lists has an element left"),
            }
        }
    }
}

/// Moments known, by block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    /// In block order.
    parts: Vec<(u32, Arc<Part>)>,
}

impl Clock {
    #[inline]
    fn part(&self, block: u32) -> Option<&Part> {
        if let [(only, part)] = self.parts.as_slice() {
            return (*only == block).then_some(part);
        }
        let at = self.parts.binary_search_by_key(&block, |p| p.0).ok()?;
        Some(&self.parts[at].1)
    }

    fn part_mut(&mut self, block: u32) -> &mut Part {
        let at = match self.parts.binary_search_by_key(&block, |p| p.0) {
            Ok(at) => at,
            Err(at) => {
                self.parts.insert(at, (block, Arc::default()));
                at
            }
        };
        Arc::make_mut(&mut self.parts[at].1)
    }

    /// Lanes of `mask` (for numbered agents: of the numbers from `agent` on) whose access at `moment` is *not* known.
    #[inline]
    pub(crate) fn missing(&self, agent: Agent, mask: u32, moment: u32) -> u32 {
        let Some(part) = self.part(block_of(agent)) else { return mask };
        let (kind, index) = inner_of(agent);
        let slot = (index / 32 * BY_LANE + kind) as usize;
        if kind < BY_LANE && part.warps.get(slot).is_some_and(|at| *at >= moment) {
            return 0;
        }
        let first = (kind << 10 | index) as u16;
        let mut missing = mask;
        for (key, at) in &part.single[part.single.partition_point(|(key, _)| *key < first)..] {
            let lane = key - first;
            if lane >= 32 || missing >> lane == 0 {
                break;
            }
            if *at >= moment {
                missing &= !(1 << lane);
            }
        }
        missing
    }

    /// Learns that the lanes of `mask` have come to `moment`; `whole`: every lane the warp has.
    pub(crate) fn raise(&mut self, agent: Agent, mask: u32, whole: u32, moment: u32) {
        let (kind, index) = inner_of(agent);
        let part = self.part_mut(block_of(agent));
        if kind >= BY_LANE {
            part.raise_single((kind << 10 | index) as u16, moment);
        } else if mask == whole {
            part.raise_warp((index / 32 * BY_LANE + kind) as usize, moment);
        } else {
            crate::exec::lanes::each(mask, |l| {
                part.raise_single((kind << 10 | index) as u16 + l as u16, moment)
            });
        }
    }

    /// Knows all that `other` knows.
    pub(crate) fn covers(&self, other: &Clock) -> bool {
        other.parts.iter().all(|(block, theirs)| match self.parts.binary_search_by_key(block, |p| p.0) {
            Ok(at) => Arc::ptr_eq(&self.parts[at].1, theirs) || self.parts[at].1.covers(theirs),
            Err(_) => false,
        })
    }

    /// Learns all that `other` knows.
    pub(crate) fn join(&mut self, other: &Clock) {
        self.join_of(other, |_| true);
    }

    /// Learns what `other` knows of some blocks.
    pub(crate) fn join_of(&mut self, other: &Clock, wanted: impl Fn(u32) -> bool) {
        for (block, theirs) in other.parts.iter().filter(|(block, _)| wanted(*block)) {
            match self.parts.binary_search_by_key(block, |p| p.0) {
                Err(at) => self.parts.insert(at, (*block, theirs.clone())),
                Ok(at) => {
                    let mine = &mut self.parts[at].1;
                    if Arc::ptr_eq(mine, theirs) || mine.covers(theirs) {
                        continue;
                    }
                    if theirs.covers(mine) {
                        *mine = theirs.clone();
                    } else {
                        Arc::make_mut(mine).join(theirs);
                    }
                }
            }
        }
    }

    /// Knows anything of a block.
    pub(crate) fn knows(&self, block: u32) -> bool {
        self.part(block).is_some()
    }

    /// How many blocks it speaks of.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }
}

/// Of each stream, the last grid known to have ended, and with it those before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grids(Option<Arc<Vec<(usize, usize)>>>);

impl Grids {
    /// Is a grid of a stream known to have ended?
    pub(crate) fn ended(&self, stream: usize, grid: usize) -> bool {
        self.0.iter().flat_map(|all| all.iter()).any(|(s, last)| *s == stream && *last >= grid)
    }

    /// A grid of a stream has ended.
    pub(crate) fn learn(&mut self, stream: usize, grid: usize) {
        if self.ended(stream, grid) {
            return;
        }
        let all = Arc::make_mut(self.0.get_or_insert_default());
        match all.iter_mut().find(|(s, _)| *s == stream) {
            Some((_, last)) => *last = grid,
            None => all.push((stream, grid)),
        }
    }

    fn join(&mut self, other: &Grids) {
        let Some(theirs) = &other.0 else { return };
        if self.0.is_none() {
            self.0 = Some(theirs.clone());
        } else if !self.0.as_ref().is_some_and(|mine| Arc::ptr_eq(mine, theirs)) {
            theirs.iter().for_each(|(stream, grid)| self.learn(*stream, *grid));
        }
    }

    fn covers(&self, other: &Grids) -> bool {
        let Some(theirs) = &other.0 else { return true };
        let same = self.0.as_ref().is_some_and(|mine| Arc::ptr_eq(mine, theirs));
        same || theirs.iter().all(|(stream, grid)| self.ended(*stream, *grid))
    }
}

/// What was acquired for the tensor map proxy, by the address of the map.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maps(Vec<(u64, Clock)>);

impl Maps {
    /// What is known of the map at an address.
    pub(crate) fn of(&self, address: u64) -> Option<&Clock> {
        self.0.iter().find(|(at, _)| *at == address).map(|(_, clock)| clock)
    }

    /// The map at an address is acquired: what was released until then shows.
    pub(crate) fn acquire(&mut self, address: u64, released: &Clock) {
        match self.0.iter_mut().find(|(at, _)| *at == address) {
            Some((_, clock)) => clock.join(released),
            None => self.0.push((address, released.clone())),
        }
    }

    fn join_of(&mut self, other: &Maps, wanted: impl Fn(u32) -> bool + Copy) {
        for (address, theirs) in &other.0 {
            if self.of(*address).is_none() {
                self.0.push((*address, Clock::default()));
            }
            if let Some((_, mine)) = self.0.iter_mut().find(|(at, _)| at == address) {
                mine.join_of(theirs, wanted);
            }
        }
    }

    fn covers(&self, other: &Maps) -> bool {
        other.0.iter().all(|(address, theirs)| self.of(*address).is_some_and(|mine| mine.covers(theirs)))
    }
}

/// What a thread knows: accesses that happened before, and those of them that a proxy fence has passed on to the
/// asynchronous proxy, for shared and for global memory, or that `fence.proxy.tensormap` has released, and for each map acquired.
#[derive(Clone, Debug, Default)]
pub(crate) struct Know {
    pub(crate) seen: Clock,
    /// What the chip orders and the manual does not: what volatile accesses tell without fences, and that the other three warps'
    /// share of a `wgmma` is done when one warp's is. To rest on this alone is advice, not a race.
    pub(crate) trusted: Clock,
    pub(crate) shared: Clock,
    pub(crate) global: Clock,
    pub(crate) map_released: Clock,
    pub(crate) map_acquired: Maps,
    /// Grids known to have ended, by who came after them and told: all that they did is known.
    pub(crate) grids: Grids,
}

impl Know {
    pub(crate) fn join(&mut self, other: &Know) {
        self.join_of(other, |_| true);
    }

    /// Learns what another knows of order and of proxies, the order on trust.
    pub(crate) fn join_trusting(&mut self, other: &Know) {
        self.trusted.join(&other.seen);
        self.trusted.join(&other.trusted);
        self.shared.join(&other.shared);
        self.global.join(&other.global);
        self.map_released.join(&other.map_released);
        self.map_acquired.join_of(&other.map_acquired, |_| true);
        self.grids.join(&other.grids);
    }

    /// Lanes of `mask` whose access at `moment` comes earlier neither by the manual nor by the chip.
    pub(crate) fn unordered(&self, agent: Agent, mask: u32, moment: u32) -> u32 {
        match self.seen.missing(agent, mask, moment) {
            0 => 0,
            missing => self.trusted.missing(agent, missing, moment),
        }
    }

    /// Learns what `other` knows of some blocks.
    pub(crate) fn join_of(&mut self, other: &Know, wanted: impl Fn(u32) -> bool + Copy) {
        self.seen.join_of(&other.seen, wanted);
        self.trusted.join_of(&other.trusted, wanted);
        self.shared.join_of(&other.shared, wanted);
        self.global.join_of(&other.global, wanted);
        self.map_released.join_of(&other.map_released, wanted);
        self.map_acquired.join_of(&other.map_acquired, wanted);
        self.grids.join(&other.grids);
    }

    pub(crate) fn covers(&self, other: &Know) -> bool {
        self.seen.covers(&other.seen)
            && self.trusted.covers(&other.trusted)
            && self.shared.covers(&other.shared)
            && self.global.covers(&other.global)
            && self.map_released.covers(&other.map_released)
            && self.map_acquired.covers(&other.map_acquired)
            && self.grids.covers(&other.grids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_went_ahead_is_not_its_warp() {
        let warp = agent(3, Kind::Thread, 64);
        let mut clock = Clock::default();
        assert_eq!(clock.missing(warp, 0b11, 1), 0b11);
        clock.raise(warp, 0b01, u32::MAX, 5);
        assert_eq!(clock.missing(warp, 0b11, 5), 0b10);
        assert_eq!(clock.missing(warp, 0b01, 6), 0b01);
        clock.raise(warp, u32::MAX, u32::MAX, 4);
        assert_eq!(clock.missing(warp, 0b11, 4), 0);
        assert_eq!(clock.missing(warp, 0b11, 5), 0b10);
        assert_eq!(clock.missing(agent(3, Kind::CpAsync, 64), 1, 1), 1);
    }

    #[test]
    fn joining_is_learning() {
        let (a, b) = (agent(1, Kind::Thread, 0), agent(2, Kind::Mbarrier, 7));
        let mut one = Clock::default();
        one.raise(a, u32::MAX, u32::MAX, 3);
        let mut two = Clock::default();
        two.raise(b, 0, 1, 9);
        assert!(!one.covers(&two));
        two.join(&one);
        assert!(two.covers(&one) && !one.covers(&two));
        assert_eq!((two.missing(a, 1, 3), two.missing(b, 1, 9), two.missing(b, 1, 10)), (0, 0, 1));
    }
}
