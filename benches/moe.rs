//! Dispatch, expansion and combine on the shapes of DeepSeek-V3: 7168 columns, 256 experts, 8 of them a token.
//!
//! On the emulator this is not time and does not pretend to be: the values are warp instructions, bytes over the links and bytes stored to
//! memory, of rank 0, for each of its tokens, counted while all ranks exchange a few. They are exact and the same on every machine, so a
//! change between two commits is a change of the kernels. Nobody has measured time on GPUs yet; a single-process bench of several is not
//! written.
//!
//! ```text
//! cargo bench --bench moe
//! cargo bench --bench moe -- dispatch/8
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
    use hadal::comm::{SymmetricBuffer, Team};
    use hadal::emulator::{Checks, Counters, DeviceConfig, MachineConfig};
    use hadal::moe::exchange::{Combine, Dispatch, Expand, Options, Plan, Shape};
    use hadal::{DType, Device, Matrix, MatrixMut, Result, bf16};

    use super::counted::Counted;

    /// Tokens of each rank.
    const TOKENS: usize = 32;
    const HIDDEN: usize = 7168;
    const EXPERTS: usize = 256;
    const TOPK: usize = 8;
    /// The operations, in order.
    const STEPS: [&str; 3] = ["dispatch", "expand", "combine"];

    type Seen = HashMap<(usize, DType), [Counters; 4]>;

    pub fn main() {
        let mut seen = Seen::new();
        let mut count = |title: &str, unit, pick: fn(&Counters) -> u64| group(title, unit, pick, &mut seen);
        count("instructions per token (emulated, not time)", "instructions", |c| c.instructions);
        count("bytes over the links per token (emulated, not time)", "bytes", |c| {
            c.link_store_bytes + c.link_load_bytes
        });
        count("bytes stored per token (emulated, not time)", "bytes", |c| c.global_store_bytes);
    }

    /// Counts one thing for every operation, payload and number of ranks.
    fn group(title: &str, unit: &'static str, pick: fn(&Counters) -> u64, seen: &mut Seen) {
        // Criterion plans by the clock, so each answer takes a millisecond.
        let answer = Duration::from_millis(1);
        let mut criterion = Criterion::default()
            .with_measurement(Counted { unit })
            .warm_up_time(answer)
            .measurement_time(400 * answer)
            .sample_size(10)
            .configure_from_args();
        let mut group = criterion.benchmark_group(title);
        for ranks in [2, 8] {
            for payload in [DType::BF16, DType::E4M3] {
                for (step, name) in STEPS.iter().enumerate() {
                    if *name == "expand" && title.starts_with("bytes over the links") {
                        continue; // There are none, and criterion cannot show nothing.
                    }
                    group.bench_function(format!("{name}/{ranks}/{payload}"), |bencher| {
                        // Only now: this benchmark was not filtered out.
                        let counters = seen.entry((ranks, payload)).or_insert_with(|| {
                            exchange(ranks, payload).unwrap_or_else(|error| panic!("{error}"))
                        });
                        let value = pick(&counters[step + 1]) - pick(&counters[step]);
                        bencher.iter_custom(|times| {
                            std::thread::sleep(answer);
                            times as f64 * value as f64 / TOKENS as f64
                        });
                    });
                }
            }
        }
        group.finish();
        criterion.final_summary();
    }

    /// What rank 0 has done before and after each operation.
    fn exchange(ranks: usize, payload: DType) -> Result<[Counters; 4]> {
        let first = Device::emulate(MachineConfig {
            devices: vec![DeviceConfig::h100(); ranks],
            // The tests check; this counts.
            checks: Checks::none(),
            ..MachineConfig::default()
        })?;
        let devices = (0..ranks).map(|rank| first.sibling(rank as u32)).collect::<Result<Vec<_>>>()?;
        let team = Team::new(devices)?;
        let shape = Shape::new(EXPERTS, TOPK, HIDDEN, TOKENS, ranks * TOKENS);
        let options = Options::new().payload(payload).sms(16);
        let memory = SymmetricBuffer::new(&team, Plan::window_bytes(ranks, shape, options)?)?;
        let words = if payload == DType::E4M3 { HIDDEN / 128 } else { 0 };
        let rows = ranks * TOKENS * TOPK + EXPERTS / ranks * 128;
        let mut parts = Vec::new();
        for (rank, window) in memory.windows().iter().enumerate() {
            let device = window.device();
            let stream = device.default_stream();
            let plan = Plan::new(window, shape, options)?;
            // Eight different experts a token, spread evenly.
            let ids: Vec<i32> = (0..TOKENS * TOPK)
                .map(|at| ((at / TOPK * 37 + at % TOPK * 53 + rank * 101) * 7 % EXPERTS) as i32)
                .collect();
            let x = device.upload(&stream, &vec![1u8; TOKENS * HIDDEN * payload.size()])?;
            let scales = device.upload(&stream, &vec![1f32; TOKENS * words])?;
            let ids = device.upload(&stream, &ids)?;
            let weights = device.upload(&stream, &vec![0.125f32; TOKENS * TOPK])?;
            let handle = device.alloc::<u8>(plan.handle().bytes)?;
            let expanded = device.alloc::<u8>(rows * HIDDEN * payload.size())?;
            let expanded_scales = device.alloc::<f32>(rows * words)?;
            let map = device.alloc::<i32>(rows)?;
            let ends = device.alloc::<i32>(EXPERTS / ranks)?;
            let y = device.upload(&stream, &vec![bf16::ONE; rows * HIDDEN])?;
            let out = device.alloc::<bf16>(TOKENS * HIDDEN)?;
            let buffers = (x, scales, ids, weights, handle);
            parts.push((plan, stream, buffers, (expanded, expanded_scales, map, ends), y, out));
        }
        let counters = || first.emulated().map(|machine| machine.counters()).unwrap_or_default();
        let mut all = [counters(); 4];
        for step in 0..3 {
            for (plan, stream, (x, scales, ids, weights, handle), expansion, y, out) in &mut parts {
                let device = plan.window().device();
                let bytes = handle.len();
                // SAFETY: the buffers hold exactly these rows, and nothing but this exchange uses them.
                let (x, wide) = unsafe {
                    let shape = [TOKENS, HIDDEN];
                    (
                        Matrix::from_raw(device, payload, x.address(), shape, [HIDDEN, 1]),
                        MatrixMut::from_raw(
                            device,
                            payload,
                            expansion.0.address(),
                            [rows, HIDDEN],
                            [HIDDEN, 1],
                        ),
                    )
                };
                match step {
                    0 => {
                        let (ids, weights) = (ids.matrix(TOKENS, TOPK)?, weights.matrix(TOKENS, TOPK)?);
                        let mut args = Dispatch::new(x, ids, weights, handle.matrix_mut(1, bytes)?);
                        if words > 0 {
                            args = args.scales(scales.matrix(TOKENS, words)?);
                        }
                        plan.dispatch(stream, args)?;
                    }
                    1 => {
                        let (_, expanded_scales, map, ends) = expansion;
                        let experts = ends.len();
                        let mut args =
                            Expand::new(wide, map.matrix_mut(1, rows)?, ends.matrix_mut(1, experts)?);
                        if words > 0 {
                            args = args.scales(expanded_scales.view_mut(0, [rows, words], [1, rows])?);
                        }
                        plan.expand(stream, args)?;
                    }
                    _ => {
                        let (y, handle) = (y.matrix(rows, HIDDEN)?, handle.matrix(1, bytes)?);
                        plan.combine(stream, Combine::new(y, handle, out.matrix_mut(TOKENS, HIDDEN)?))?;
                    }
                }
            }
            for (_, stream, ..) in &parts {
                stream.synchronize()?;
            }
            all[step + 1] = counters();
        }
        Ok(all)
    }
}
