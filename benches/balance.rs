//! Expert placement for DeepSeek-V3: 58 layers of 256 experts, beside the plain statement of the same method.
//!
//! Both give the same placement, so only time is compared. It is time of this CPU, on one thread; nothing here needs a GPU.
//!
//! ```text
//! cargo bench --bench balance --no-default-features
//! ```

use criterion::{BenchmarkId, Criterion, Throughput};
use hadal::moe::balance::{Options, Plan, Policy, Shape, reference};

const LAYERS: usize = 58;
const EXPERTS: usize = 256;
const GROUPS: usize = 8;

/// Token counts as skewed as gates make them: log-normal with σ = 1, around a thousand.
fn loads() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut normal = || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
    (0..LAYERS * EXPERTS).map(|_| (1000.0 * normal().exp()).floor()).collect()
}

fn main() {
    let loads = loads();
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("balance");
    group.throughput(Throughput::Elements(LAYERS as u64));
    for (replicas, nodes, gpus, policy) in [
        (288, 4, 32, Policy::Hierarchical),
        (320, 4, 32, Policy::Hierarchical),
        (288, 4, 32, Policy::Global),
        (320, 8, 64, Policy::Hierarchical),
        (320, 8, 64, Policy::Global),
        // 8 groups do not divide over 18 nodes.
        (288, 18, 144, Policy::Global),
    ] {
        let options = Options::new().groups(GROUPS).nodes(nodes).policy(policy);
        let plan = Plan::new(Shape::new([LAYERS, EXPERTS], replicas, gpus), options)
            .unwrap_or_else(|error| panic!("{replicas} replicas on {gpus} GPUs: {error}"));
        let shape = format!("{policy:?} {replicas} on {nodes}x{}", gpus / nodes).to_lowercase();
        group.bench_with_input(BenchmarkId::new("hadal", &shape), &loads, |b, loads| {
            b.iter(|| plan.run(loads))
        });
        group.bench_with_input(BenchmarkId::new("plain", &shape), &loads, |b, loads| {
            b.iter(|| reference::rebalance_experts(&plan, loads))
        });
    }
    group.finish();
    criterion.final_summary();
}
