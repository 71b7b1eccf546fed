//! The placement, stated plainly: what [`Plan::run`] computes, slot for slot.
//!
//! Everything is FP32. Per layer, with `nodes` and `groups` both 1 under the global policy:
//!
//! 1. The load of a group is the sum of its experts', from first to last. Groups are *packed* onto nodes; the node's experts
//!    are then numbered group by group, in the order the groups came.
//! 2. Within a node every expert has one replica. As long as there are slots, the expert with the largest load per replica
//!    gets another; the first wins ties.
//! 3. Replicas, each with its expert's load per replica, are *packed* onto the node's GPUs.
//!
//! To pack: from the heaviest item to the lightest (equals in their order), each goes to the lightest pack that has room
//! (the first, among equals), behind what it holds. Packs take the same number of items; if that is one, item `i` goes to
//! pack `i` whatever its weight.
//!
//! This is an oracle, and the yardstick of `benches/balance.rs`: it shares nothing with [`Plan::run`] but the checks.

use super::plan::Plan;
use crate::error::Result;

/// The maps of all layers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Maps {
    /// The logical expert in each slot; `[layers][replicas]`.
    pub physical_to_logical: Vec<Vec<usize>>,
    /// The slots of each logical expert; `[layers][experts][its count]`.
    pub logical_to_physical: Vec<Vec<Vec<usize>>>,
    /// How many replicas each has; `[layers][experts]`.
    pub replica_counts: Vec<Vec<usize>>,
}

/// Places the experts of every layer. `loads` is `[layers, experts]`, as for [`Plan::run`], with the same errors.
pub fn rebalance_experts(plan: &Plan, loads: &[f32]) -> Result<Maps> {
    plan.check(loads)?;
    let mut maps =
        Maps { physical_to_logical: Vec::new(), logical_to_physical: Vec::new(), replica_counts: Vec::new() };
    for layer in loads.chunks_exact(plan.shape().experts()) {
        place(plan, layer, &mut maps);
    }
    Ok(maps)
}

fn place(plan: &Plan, loads: &[f32], maps: &mut Maps) {
    let (experts, replicas) = (plan.shape().experts(), plan.shape().replicas());
    let (groups, nodes, gpus) = (plan.groups(), plan.nodes(), plan.shape().gpus());
    let group_size = experts / groups;

    let group_loads: Vec<f32> = loads.chunks_exact(group_size).map(|group| group.iter().sum()).collect();
    let mut group_at = vec![0; groups];
    for (group, (node, rank)) in pack(&group_loads, nodes).into_iter().enumerate() {
        group_at[node * (groups / nodes) + rank] = group;
    }

    let mut physical_to_logical = vec![0; replicas];
    let mut logical_to_physical = vec![Vec::new(); experts];
    let mut replica_counts = vec![0; experts];
    for (node, its_groups) in group_at.chunks_exact(groups / nodes).enumerate() {
        let logical: Vec<usize> =
            its_groups.iter().flat_map(|group| group * group_size..(group + 1) * group_size).collect();
        let local_loads: Vec<f32> = logical.iter().map(|&expert| loads[expert]).collect();
        let (replica_of, counts) = replicate(&local_loads, replicas / nodes);
        let shares: Vec<f32> =
            replica_of.iter().map(|&expert| local_loads[expert] / counts[expert] as f32).collect();
        let packed = pack(&shares, gpus / nodes);
        for (&expert, (gpu, rank)) in replica_of.iter().zip(packed) {
            let slot = node * (replicas / nodes) + gpu * (replicas / gpus) + rank;
            physical_to_logical[slot] = logical[expert];
            logical_to_physical[logical[expert]].push(slot);
        }
        for (&expert, count) in logical.iter().zip(counts) {
            replica_counts[expert] = count;
        }
    }
    maps.physical_to_logical.push(physical_to_logical);
    maps.logical_to_physical.push(logical_to_physical);
    maps.replica_counts.push(replica_counts);
}

/// Each item's pack, and its place there.
fn pack(weights: &[f32], packs: usize) -> Vec<(usize, usize)> {
    let capacity = weights.len() / packs;
    if capacity == 1 {
        return (0..packs).map(|item| (item, 0)).collect();
    }
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].partial_cmp(&weights[a]).expect("loads were checked: no NaN"));
    let mut packed = vec![(0, 0); weights.len()];
    let mut pack_weights = vec![0f32; packs];
    let mut pack_items = vec![0; packs];
    for item in order {
        let mut lightest = None;
        for pack in 0..packs {
            if pack_items[pack] < capacity
                && lightest.is_none_or(|best: usize| pack_weights[pack] < pack_weights[best])
            {
                lightest = Some(pack);
            }
        }
        let pack = lightest.expect("there are as many places as items");
        packed[item] = (pack, pack_items[pack]);
        pack_weights[pack] += weights[item];
        pack_items[pack] += 1;
    }
    packed
}

/// The expert of each of `replicas` replicas, and how many each expert has.
fn replicate(loads: &[f32], replicas: usize) -> (Vec<usize>, Vec<usize>) {
    let mut replica_of: Vec<usize> = (0..loads.len()).collect();
    let mut counts = vec![1; loads.len()];
    while replica_of.len() < replicas {
        let mut busiest = 0;
        for expert in 1..loads.len() {
            if loads[expert] / counts[expert] as f32 > loads[busiest] / counts[busiest] as f32 {
                busiest = expert;
            }
        }
        replica_of.push(busiest);
        counts[busiest] += 1;
    }
    (replica_of, counts)
}
