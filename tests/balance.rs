//! Expert placement: the original's known answer; agreement with the plain statement of the method, slot for slot, on loads
//! with zeros, ties and one hot expert; what must hold of any placement; and every way to ask wrongly.

use hadal::Error;
use hadal::moe::balance::{Options, Placement, Plan, Policy, Shape, reference, supports};
use proptest::prelude::*;

/// Kinds of load, from tame to hostile.
#[derive(Debug, Clone, Copy)]
enum Loads {
    /// Any finite magnitude.
    Any,
    /// Token counts that often coincide.
    Ties,
    /// Mostly nothing, some of it −0.
    Zeros,
    /// One expert draws nearly everything.
    Hot,
    /// As gates do: a few far above the mean.
    Skewed,
    /// Near the largest number: sums overflow to infinity.
    Huge,
}

const LOADS: [Loads; 6] = [Loads::Any, Loads::Ties, Loads::Zeros, Loads::Hot, Loads::Skewed, Loads::Huge];

impl Loads {
    fn draw(self, count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        let hot = random() as usize % count.max(1);
        (0..count)
            .map(|at| {
                let bits = random();
                let uniform = bits as f32 / 2f32.powi(31);
                match self {
                    // Exponents that stay clear of infinity and NaN.
                    Loads::Any => f32::from_bits(bits % (200 << 23)),
                    Loads::Ties => (bits % 4) as f32,
                    Loads::Zeros => [0.0, -0.0, 0.0, 1.0][bits as usize % 4],
                    Loads::Hot => {
                        if at == hot {
                            1e6
                        } else {
                            uniform
                        }
                    }
                    Loads::Skewed => (1000.0 * (3.0 * uniform).exp()).floor(),
                    Loads::Huge => f32::MAX * uniform,
                }
            })
            .collect()
    }
}

/// Shape and options under which everything divides.
fn problems() -> impl Strategy<Value = (Shape, Options)> {
    let sizes = (0..4usize, 1..5usize, 1..5usize, 1..6usize, 1..5usize, 0..4usize);
    let policies = prop::sample::select(vec![Policy::Auto, Policy::Hierarchical, Policy::Global]);
    (sizes, policies).prop_map(|((layers, nodes, groups, size, gpus, spare), policy)| {
        let (groups, gpus) = (nodes * groups, nodes * gpus);
        let experts = groups * size;
        let replicas = (experts.div_ceil(gpus) + spare) * gpus;
        let shape = Shape::new([layers, experts], replicas, gpus);
        (shape, Options::new().groups(groups).nodes(nodes).policy(policy))
    })
}

/// Both ways, which must agree to the slot.
fn place(plan: &Plan, loads: &[f32]) -> Placement {
    let (fast, plain) = (plan.run(loads).unwrap(), reference::rebalance_experts(plan, loads).unwrap());
    let flat = |rows: &[Vec<usize>]| -> Vec<u32> { rows.iter().flatten().map(|&x| x as u32).collect() };
    assert_eq!(fast.physical_to_logical(), flat(&plain.physical_to_logical));
    assert_eq!(fast.replica_counts(), flat(&plain.replica_counts));
    for (layer, experts) in plain.logical_to_physical.iter().enumerate() {
        for (expert, slots) in experts.iter().enumerate() {
            let slots: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
            assert_eq!(fast.replicas_of(layer, expert), Some(&slots[..]), "layer {layer}, expert {expert}");
        }
    }
    fast
}

/// What must hold of any placement, whatever the method.
fn assert_placed(placement: &Placement, groups: usize, nodes: usize) {
    let shape = placement.shape();
    let (experts, replicas) = (shape.experts(), shape.replicas());
    assert_eq!(placement.physical_to_logical().len(), shape.layers() * replicas);
    assert_eq!(placement.slots_per_gpu() * shape.gpus(), replicas);
    for (layer, row) in placement.physical_to_logical().chunks(replicas).enumerate() {
        let counts = &placement.replica_counts()[layer * experts..][..experts];
        assert!(counts.iter().all(|&count| count >= 1));
        assert_eq!(counts.iter().sum::<u32>() as usize, replicas);
        for (expert, &count) in counts.iter().enumerate() {
            let mut slots = placement.replicas_of(layer, expert).unwrap().to_vec();
            slots.sort_unstable();
            let holding: Vec<u32> =
                (0..replicas as u32).filter(|&slot| row[slot as usize] as usize == expert).collect();
            assert_eq!(slots, holding, "the maps are inverses of each other");
            assert_eq!(slots.len(), count as usize);
        }
        let group_of = |expert: u32| expert as usize / (experts / groups);
        let mut node_of = vec![None; groups];
        for (slot, &expert) in row.iter().enumerate() {
            let node = slot / (replicas / nodes);
            assert_eq!(*node_of[group_of(expert)].get_or_insert(node), node, "a group is on one node");
        }
        for node in 0..nodes {
            assert_eq!(node_of.iter().filter(|&&at| at == Some(node)).count(), groups / nodes);
        }
    }
    let padded = placement.logical_to_physical_padded();
    assert_eq!(padded.slots.len(), shape.layers() * experts * padded.width);
    for (at, row) in padded.slots.chunks(padded.width.max(1)).enumerate() {
        let slots = placement.replicas_of(at / experts, at % experts).unwrap();
        let (filled, rest) = row.split_at(slots.len());
        assert!(
            filled.iter().zip(slots).all(|(&a, &b)| a == b as i32) && rest.iter().all(|&slot| slot == -1)
        );
    }
}

/// Each expert's load over its count is at most that of any other expert before its last replica was made.
fn assert_replicated(placement: &Placement, loads: &[f32]) {
    let experts = placement.shape().experts();
    for (loads, counts) in loads.chunks(experts).zip(placement.replica_counts().chunks(experts)) {
        let busiest = loads.iter().zip(counts).map(|(load, &count)| load / count as f32).fold(0.0, f32::max);
        for (load, &count) in loads.iter().zip(counts) {
            assert!(count == 1 || load / (count - 1) as f32 >= busiest);
        }
    }
}

/// The example in the README of <https://github.com/deepseek-ai/EPLB>.
#[test]
fn the_known_answer() {
    let loads = [
        90.0, 132.0, 40.0, 61.0, 104.0, 165.0, 39.0, 4.0, 73.0, 56.0, 183.0, 86.0, //
        20.0, 107.0, 104.0, 64.0, 19.0, 197.0, 187.0, 157.0, 172.0, 86.0, 16.0, 27.0,
    ];
    let plan = Plan::new(Shape::new([2, 12], 16, 8), Options::new().groups(4).nodes(2)).unwrap();
    assert_eq!(plan.policy(), Policy::Hierarchical);
    let placement = place(&plan, &loads);
    assert_eq!(
        placement.physical_to_logical(),
        [
            5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1, //
            7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1
        ]
    );
    assert_eq!(
        placement.replica_counts(),
        [1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1, 1, 2, 1, 1, 1, 2, 2, 1, 2, 1, 1, 1]
    );
    let padded = placement.logical_to_physical_padded();
    assert_eq!(padded.width, 2);
    // Of two equal replicas the first made is the first placed, on the GPU that is lightest by then: the last.
    assert_eq!(padded.slots[..8], [12, -1, 15, 13, 11, -1, 6, -1]);
    assert_placed(&placement, 4, 2);
}

#[test]
fn the_shapes_of_deepseek_v3() {
    for (replicas, nodes, gpus) in [(288, 4, 32), (320, 4, 32), (288, 18, 144), (320, 8, 64), (320, 40, 320)]
    {
        let shape = Shape::new([3, 256], replicas, gpus);
        let options = Options::new().groups(8).nodes(nodes);
        let expected = if 8 % nodes == 0 { Policy::Hierarchical } else { Policy::Global };
        assert_eq!(Plan::new(shape, options).unwrap().policy(), expected);
        for (policy, groups, nodes) in [(Policy::Auto, 8, nodes), (Policy::Global, 1, 1)] {
            let plan = Plan::new(shape, options.policy(policy)).unwrap();
            for kind in LOADS {
                let loads = kind.draw(3 * 256, 7);
                let placement = place(&plan, &loads);
                match plan.policy() {
                    Policy::Hierarchical => assert_placed(&placement, groups, nodes),
                    _ => assert_placed(&placement, 1, 1),
                }
            }
        }
    }
}

#[test]
fn replicas_and_placement_even_out_a_skewed_layer() {
    let loads = Loads::Skewed.draw(8 * 256, 3);
    let imbalance = |replicas, policy| {
        let options = Options::new().groups(8).nodes(4).policy(policy);
        let plan = Plan::new(Shape::new([8, 256], replicas, 32), options).unwrap();
        plan.run(&loads).unwrap().imbalance(&loads).unwrap()
    };
    assert!(imbalance(288, Policy::Global).iter().all(|&x| x < 1.02));
    assert!(imbalance(288, Policy::Hierarchical).iter().all(|&x| x < 1.2));
}

#[test]
fn a_gpu_load_is_the_sum_of_its_shares() {
    let plan = Plan::new(Shape::new([1, 3], 4, 2), Options::new()).unwrap();
    let placement = place(&plan, &[1.0, 8.0, 2.0]);
    // Expert 1 twice, one half on each GPU; then the heavier of the others goes to the first.
    assert_eq!(placement.physical_to_logical(), [1, 2, 1, 0]);
    assert_eq!(placement.gpu_loads(&[1.0, 8.0, 2.0]).unwrap(), [6.0, 5.0]);
    assert_eq!(placement.imbalance(&[1.0, 8.0, 2.0]).unwrap(), [12.0 / 11.0]);
    assert_eq!(placement.imbalance(&[0.0; 3]).unwrap(), [1.0]);
    assert_eq!(placement.replicas_of(1, 0), None);
    assert_eq!(placement.replicas_of(0, 3), None);
}

#[test]
fn no_layers_is_a_placement() {
    let plan = Plan::new(Shape::new([0, 4], 4, 2), Options::new()).unwrap();
    let placement = place(&plan, &[]);
    assert!(placement.physical_to_logical().is_empty());
    assert_placed(&placement, 1, 1);
}

proptest! {
    #[test]
    fn fast_and_plain_agree(
        (shape, options) in problems(),
        kind in prop::sample::select(LOADS.to_vec()),
        seed: u64,
    ) {
        let plan = Plan::new(shape, options).unwrap();
        let loads = kind.draw(shape.layers() * shape.experts(), seed);
        let placement = place(&plan, &loads);
        assert_placed(&placement, 1, 1);
        prop_assert_eq!(&placement, &plan.run(&loads).unwrap());
        if plan.policy() == Policy::Global {
            assert_replicated(&placement, &loads);
        }
    }

    #[test]
    fn hierarchical_keeps_groups_within_nodes(
        (layers, nodes, groups, size, gpus) in (1..3usize, 1..5usize, 1..5usize, 1..5usize, 1..4usize),
        kind in prop::sample::select(LOADS.to_vec()),
        seed: u64,
    ) {
        let (groups, gpus) = (nodes * groups, nodes * gpus);
        let experts = groups * size;
        let shape = Shape::new([layers, experts], (experts.div_ceil(gpus) + 1) * gpus, gpus);
        let plan = Plan::new(shape, Options::new().groups(groups).nodes(nodes)).unwrap();
        let placement = place(&plan, &kind.draw(layers * experts, seed));
        assert_placed(&placement, groups, nodes);
    }
}

#[test]
fn wrong_sizes_are_refused_in_words() {
    let shape = Shape::new([2, 12], 16, 8);
    let options = Options::new().groups(4).nodes(2);
    let said = |shape, options| match supports(shape, options).unwrap_err() {
        error @ (Error::Shape { .. } | Error::Option { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for (shape, words) in [
        (Shape::new([2, 0], 16, 8), "shape of `shape`: expected at least 1 expert, got 0"),
        (Shape::new([2, 12], 16, 0), "shape of `shape`: expected at least 1 GPU, got 0"),
        (
            Shape::new([2, 12], 8, 8),
            "expected at least one replica of each expert, got 8 replicas of 12 experts",
        ),
        (Shape::new([2, 12], 17, 8), "expected replicas a multiple of the 8 GPUs, got 17 replicas"),
        (
            Shape::new([1 << 40, 12], 16, 8),
            "expected at most 2147483647 replicas in all, got 1099511627776 layers of 16",
        ),
        (Shape::new([usize::MAX, 12], 16, 8), "expected at most 2147483647 replicas in all"),
        (Shape::new([0, 12], 1 << 40, 8), "expected at most 2147483647 replicas in all"),
        (Shape::new([2, 10], 16, 8), "option `groups`: expected a divisor of the 10 experts, got 4"),
        (Shape::new([2, 12], 15, 5), "option `nodes`: expected a divisor of the 5 GPUs, got 2"),
    ] {
        let error = said(shape, options);
        assert!(error.contains(words), "{error}");
    }
    for (options, words) in [
        (options.groups(0), "option `groups`: expected at least 1, got 0"),
        (options.nodes(0), "option `nodes`: expected at least 1, got 0"),
        (
            options.groups(3).policy(Policy::Hierarchical),
            "option `groups`: expected a multiple of the 2 nodes, or the global policy, got 3",
        ),
    ] {
        assert_eq!(said(shape, options), words);
    }
    // What only the hierarchical policy needs, the global one does not ask for.
    for options in [options.groups(3), options.groups(5).nodes(7), options.groups(5).policy(Policy::Global)] {
        assert_eq!(Plan::new(shape, options).unwrap().policy(), Policy::Global);
    }
}

#[test]
fn wrong_loads_are_refused_in_words() {
    let plan = Plan::new(Shape::new([2, 3], 4, 2), Options::new()).unwrap();
    let placement = plan.run(&[1.0; 6]).unwrap();
    let everywhere = |loads: &[f32]| {
        let error = plan.run(loads).unwrap_err();
        assert_eq!(reference::rebalance_experts(&plan, loads).unwrap_err(), error);
        assert_eq!(placement.gpu_loads(loads).unwrap_err(), error);
        assert_eq!(placement.imbalance(loads).unwrap_err(), error);
        error
    };
    for count in [0, 3, 5, 7, 12] {
        let error = everywhere(&vec![1.0; count]);
        assert!(matches!(error, Error::Shape { .. }));
        assert_eq!(error.to_string(), format!("shape of `loads`: expected [2, 3], got {count} elements"));
    }
    for (wrong, name) in
        [(-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")]
    {
        let mut loads = [1.0; 6];
        loads[4] = wrong;
        let error = everywhere(&loads);
        assert!(matches!(error, Error::Value { .. }));
        let words = format!("value in `loads`: expected finite and not negative, got {name} at [1, 1]");
        assert_eq!(error.to_string(), words);
    }
}
