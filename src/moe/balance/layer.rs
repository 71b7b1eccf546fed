//! One layer's placement: groups onto nodes, copies within a node, copies onto its GPUs.
//!
//! The three steps are those of [`reference`](mod@super::reference), with the same roundings and the same answers to ties.
//! All memory is taken once, by [`Solver::new`], and serves every layer.
//!
//! Three numberings of experts meet here. *Logical* is the model's. *Local* counts the experts of one node, group by group
//! in the order the groups were packed, and matters because ties go to the smaller local number. A *copy* counts replicas
//! of one node before they have a slot: first every local expert once, then the additional ones as they are made.

use super::plan::Plan;
use super::tournament::{Tournament, ascending, descending, index};

/// The arrays of one layer that a solver fills.
pub(super) struct Output<'a> {
    /// `[replicas]`.
    pub physical_to_logical: &'a mut [u32],
    /// `[replicas]`.
    pub logical_to_physical: &'a mut [u32],
    /// `[experts + 1]`.
    pub offsets: &'a mut [u32],
    /// `[experts]`.
    pub counts: &'a mut [u32],
}

/// The sizes of a problem and the memory to solve it in.
pub(super) struct Solver {
    groups: usize,
    nodes: usize,
    /// Loads of the groups; `[groups]`.
    group_loads: Vec<f32>,
    /// Which group has which place on which node; `[nodes, groups / nodes]`.
    group_at: Vec<usize>,
    /// Logical numbers and loads of the node's experts; `[local experts]`.
    logical: Vec<u32>,
    loads: Vec<f32>,
    /// How many copies each has; `[local experts]`.
    counts: Vec<u32>,
    /// Of each copy: the local expert, which of its copies this is, its share of the load; `[local replicas]`.
    local: Vec<u32>,
    rank: Vec<u32>,
    shares: Vec<f32>,
    /// Which of its expert's copies lies in a slot; `[replicas]`.
    rank_at: Vec<u32>,
    busiest: Tournament,
    nodes_by_load: Packer,
    gpus_by_load: Packer,
}

impl Solver {
    pub(super) fn new(plan: &Plan) -> Solver {
        let (experts, replicas) = (plan.shape().experts(), plan.shape().replicas());
        let (groups, nodes) = (plan.groups(), plan.nodes());
        let (local_experts, local_replicas) = (experts / nodes, replicas / nodes);
        let gpus_per_node = plan.shape().gpus() / nodes;
        Solver {
            groups,
            nodes,
            group_loads: vec![0.0; groups],
            group_at: vec![0; groups],
            logical: vec![0; local_experts],
            loads: vec![0.0; local_experts],
            counts: vec![0; local_experts],
            local: vec![0; local_replicas],
            rank: vec![0; local_replicas],
            shares: vec![0.0; local_replicas],
            rank_at: vec![0; replicas],
            busiest: Tournament::with_room(local_experts),
            nodes_by_load: Packer::new(groups, nodes),
            gpus_by_load: Packer::new(local_replicas, gpus_per_node),
        }
    }

    /// Places the experts of one layer. `loads` is `[experts]`, checked.
    pub(super) fn solve(&mut self, loads: &[f32], out: Output<'_>) {
        let Output { physical_to_logical, logical_to_physical, offsets, counts } = out;
        self.pack_groups(loads);
        let local_replicas = self.local.len();
        for node in 0..self.nodes {
            self.gather(node, loads);
            self.replicate();
            let first = node * local_replicas;
            let (local, logical, rank, rank_at) = (&self.local, &self.logical, &self.rank, &mut self.rank_at);
            self.gpus_by_load.pack(&self.shares, |copy, slot| {
                physical_to_logical[first + slot] = logical[local[copy] as usize];
                rank_at[first + slot] = rank[copy];
            });
            for (&logical, &count) in self.logical.iter().zip(&self.counts) {
                counts[logical as usize] = count;
            }
        }
        let mut end = 0;
        offsets[0] = 0;
        for (offset, &count) in offsets[1..].iter_mut().zip(&*counts) {
            end += count;
            *offset = end;
        }
        for (slot, (&logical, &rank)) in physical_to_logical.iter().zip(&self.rank_at).enumerate() {
            logical_to_physical[(offsets[logical as usize] + rank) as usize] = slot as u32;
        }
    }

    /// Gives every group a place on a node.
    fn pack_groups(&mut self, loads: &[f32]) {
        let size = loads.len() / self.groups;
        for (sum, group) in self.group_loads.iter_mut().zip(loads.chunks_exact(size)) {
            *sum = group.iter().sum();
        }
        let group_at = &mut self.group_at;
        self.nodes_by_load.pack(&self.group_loads, |group, place| group_at[place] = group);
    }

    /// Collects the experts of a node.
    fn gather(&mut self, node: usize, loads: &[f32]) {
        let (size, per_node) = (loads.len() / self.groups, self.groups / self.nodes);
        let groups = &self.group_at[node * per_node..][..per_node];
        let places = self.logical.chunks_exact_mut(size).zip(self.loads.chunks_exact_mut(size));
        for (&group, (logical, local_loads)) in groups.iter().zip(places) {
            let first = group * size;
            for (offset, logical) in logical.iter_mut().enumerate() {
                *logical = (first + offset) as u32;
            }
            local_loads.copy_from_slice(&loads[first..][..size]);
        }
    }

    /// Makes copies, always of the expert whose copies are the busiest, until every slot of the node has one.
    fn replicate(&mut self) {
        let experts = self.loads.len();
        self.counts.fill(1);
        for (expert, local) in self.local[..experts].iter_mut().enumerate() {
            *local = expert as u32;
        }
        if self.local.len() > experts {
            self.busiest.fill(self.loads.iter().enumerate().map(|(expert, &load)| descending(load, expert)));
        }
        for copy in experts..self.local.len() {
            let expert = self.busiest.winner();
            let count = &mut self.counts[expert];
            self.local[copy] = expert as u32;
            self.rank[copy] = *count;
            *count += 1;
            self.busiest.replace(expert, descending(self.loads[expert] / *count as f32, expert));
        }
        for ((share, load), &count) in self.shares.iter_mut().zip(&self.loads).zip(&self.counts) {
            *share = load / count as f32;
        }
        for copy in experts..self.local.len() {
            self.shares[copy] = self.shares[self.local[copy] as usize];
        }
    }
}

/// Puts items into packs of equal size: heaviest item first, each into the lightest pack that has room.
struct Packer {
    capacity: usize,
    /// Keys of the items, sorted.
    order: Vec<u64>,
    /// Weight and number of items of each pack.
    packs: Vec<(f32, usize)>,
    lightest: Tournament,
}

impl Packer {
    /// For `items` items in `packs` packs, of which the first is a multiple of the second.
    fn new(items: usize, packs: usize) -> Packer {
        let (order, contents) = (Vec::with_capacity(items), vec![(0.0, 0); packs]);
        Packer { capacity: items / packs, order, packs: contents, lightest: Tournament::with_room(packs) }
    }

    /// Calls `put(item, place)` for every item; place `p` is in pack `p / capacity`.
    fn pack(&mut self, weights: &[f32], mut put: impl FnMut(usize, usize)) {
        // Where every pack takes one item the balance is what it is, and items stay where they are.
        if self.capacity == 1 {
            (0..weights.len()).for_each(|item| put(item, item));
            return;
        }
        self.order.clear();
        self.order.extend(weights.iter().enumerate().map(|(item, &weight)| descending(weight, item)));
        // Keys differ in their indices, so an unstable sort keeps equals in order.
        self.order.sort_unstable();
        self.packs.fill((0.0, 0));
        self.lightest.fill((0..self.packs.len()).map(|pack| ascending(0.0, pack)));
        for &key in &self.order {
            let (item, pack) = (index(key), self.lightest.winner());
            let (weight, filled) = &mut self.packs[pack];
            put(item, pack * self.capacity + *filled);
            *weight += weights[item];
            *filled += 1;
            if *filled == self.capacity {
                self.lightest.retire(pack);
            } else {
                self.lightest.replace(pack, ascending(*weight, pack));
            }
        }
    }
}
