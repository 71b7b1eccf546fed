//! What stands around the experts, on the shapes of DeepSeek-V3: the gate, the grouped GEMMs, SwiGLU with quantisation.
//!
//! On the emulator this is not time and does not pretend to be: the values are warp instructions and bytes, for each token (gate), row
//! (SwiGLU) or tile with the main loop over the whole of K (grouped GEMM, two groups on one SM). They are exact and the same on every
//! machine, so a change between two commits is a change of the kernels. Nobody has measured time on a GPU yet.
//!
//! ```text
//! cargo bench --bench experts
//! cargo bench --bench experts -- swiglu
//! ```

#[cfg(feature = "emulator")]
#[path = "support/counted.rs"]
mod counted;

#[cfg(not(feature = "emulator"))]
fn main() {
    eprintln!("this counts on the emulator: build with feature emulator");
}

#[cfg(feature = "emulator")]
fn main() {
    emulated::main();
}

#[cfg(feature = "emulator")]
mod emulated {
    use std::collections::HashMap;
    use std::time::Duration;

    use criterion::Criterion;
    use hadal::emulator::{Checks, Counters, MachineConfig};
    use hadal::gemm::{self, GroupedArgs, GroupedPlan, GroupedShape};
    use hadal::moe::{gate, swiglu};
    use hadal::{Device, E4M3, Result, bf16};

    use super::counted::Counted;

    const TOKENS: usize = 128;
    const EXPERTS: usize = 256;
    /// Rows of each of the groups.
    const ROWS: usize = 64;
    const GROUPS: usize = 2;

    /// Name, how many of its units a run does, and the run.
    type Bench = (&'static str, usize, fn(&Device) -> Result<()>);

    const BENCHES: [Bench; 4] = [
        ("gate/128x256", TOKENS, run_gate),
        ("gate_up/masked/4096x7168", GROUPS, |device| run_gemm(device, 7168)),
        ("swiglu/masked/2048", GROUPS * ROWS, run_swiglu),
        ("down/masked/7168x2048", GROUPS, |device| run_gemm(device, 2048)),
    ];

    pub fn main() {
        let mut seen = HashMap::new();
        let mut count = |title: &str, unit, pick: fn(&Counters) -> u64| group(title, unit, pick, &mut seen);
        count("instructions (emulated, not time)", "instructions", |c| c.instructions);
        count("bytes moved (emulated, not time)", "bytes", |c| {
            c.tma_load_bytes + c.tma_store_bytes + c.global_load_bytes + c.global_store_bytes
        });
    }

    fn group(
        title: &str,
        unit: &'static str,
        pick: fn(&Counters) -> u64,
        seen: &mut HashMap<&'static str, Counters>,
    ) {
        // Criterion plans by the clock, so each answer takes a millisecond.
        let answer = Duration::from_millis(1);
        let mut criterion = Criterion::default()
            .with_measurement(Counted { unit })
            .warm_up_time(answer)
            .measurement_time(400 * answer)
            .sample_size(10)
            .configure_from_args();
        let mut group = criterion.benchmark_group(title);
        for (name, units, run) in BENCHES {
            group.bench_function(name, |bencher| {
                // Only now: this benchmark was not filtered out.
                let counters = seen.entry(name).or_insert_with(|| {
                    // The tests check; this counts.
                    let config = MachineConfig { checks: Checks::none(), ..MachineConfig::default() };
                    let device = Device::emulate(config).unwrap_or_else(|error| panic!("{error}"));
                    run(&device).unwrap_or_else(|error| panic!("{name}: {error}"));
                    device.emulated().map(|machine| machine.counters()).unwrap_or_default()
                });
                let value = pick(counters) as f64 / units as f64;
                bencher.iter_custom(|times| {
                    std::thread::sleep(answer);
                    times as f64 * value
                });
            });
        }
        group.finish();
        criterion.final_summary();
    }

    fn run_gate(device: &Device) -> Result<()> {
        let stream = device.new_stream()?;
        let logits: Vec<f32> =
            (0..TOKENS * EXPERTS).map(|at| (at * 7919 % 1009) as f32 * 0.01 - 5.0).collect();
        let logits = device.upload(&stream, &logits)?;
        let bias = device.upload(&stream, &[0f32; EXPERTS])?;
        let (mut idx, mut weight) = (device.alloc(TOKENS * 8)?, device.alloc(TOKENS * 8)?);
        let mut counts = device.upload(&stream, &[0i32; EXPERTS])?;
        let plan = gate::Plan::new(device, gate::Shape::new(TOKENS, EXPERTS), gate::Options::deepseek_v3())?;
        let (idx, weight): (&mut hadal::Buffer<i32>, &mut hadal::Buffer<f32>) = (&mut idx, &mut weight);
        let args = gate::Args::new(
            logits.matrix(TOKENS, EXPERTS)?,
            idx.matrix_mut(TOKENS, 8)?,
            weight.matrix_mut(TOKENS, 8)?,
        );
        let args = args.bias(bias.matrix(1, EXPERTS)?).counts(counts.matrix_mut(1, EXPERTS)?);
        plan.run(&stream, args)?;
        stream.synchronize()
    }

    /// Two tiles, one of each group.
    fn run_gemm(device: &Device, k: usize) -> Result<()> {
        let stream = device.new_stream()?;
        let (m, n, blocks) = (GROUPS * ROWS, 128, k / 128);
        let a = device.upload(&stream, &vec![E4M3::from_f32(1.0); m * k])?;
        let weight = device.upload(&stream, &vec![E4M3::from_f32(1.0); GROUPS * n * k])?;
        let a_scales = device.upload(&stream, &vec![1f32; m * blocks])?;
        let scale_inv = device.upload(&stream, &vec![1f32; GROUPS * blocks])?;
        let sizes = device.upload(&stream, &[ROWS as i32; GROUPS])?;
        let mut out = device.alloc::<bf16>(m * n)?;
        let shape = GroupedShape::masked(GROUPS, ROWS, n, k);
        let plan = GroupedPlan::new(device, shape, gemm::Options::new().tile(64, 128).sms(1))?;
        let args = GroupedArgs::new(
            a.matrix(m, k)?,
            a_scales.view(0, [m, blocks], [1, m])?,
            weight.matrix(GROUPS * n, k)?,
            scale_inv.matrix(GROUPS, blocks)?,
            sizes.matrix(1, GROUPS)?,
            out.matrix_mut(m, n)?,
        );
        plan.run(&stream, args)?;
        stream.synchronize()
    }

    fn run_swiglu(device: &Device) -> Result<()> {
        let stream = device.new_stream()?;
        let (rows, cols) = (GROUPS * ROWS, 2048);
        let x = device.upload(&stream, &vec![bf16::ONE; rows * 2 * cols])?;
        let sizes = device.upload(&stream, &[ROWS as i32; GROUPS])?;
        let mut q = device.alloc::<E4M3>(rows * cols)?;
        let mut scales = device.alloc::<f32>(rows * cols / 128)?;
        let plan =
            swiglu::Plan::new(device, swiglu::Shape::masked(GROUPS, ROWS, cols), swiglu::Options::new())?;
        let args = swiglu::Args::new(
            x.matrix(rows, 2 * cols)?,
            sizes.matrix(1, GROUPS)?,
            q.matrix_mut(rows, cols)?,
            scales.view_mut(0, [rows, cols / 128], [1, rows])?,
        );
        plan.run(&stream, args)?;
        stream.synchronize()
    }
}
