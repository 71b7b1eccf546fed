//! The FP8 GEMM on the emulator, every output element against the scalar reference, bit for bit.
//!
//! Shapes lie around tile edges, matrices have random pitches and offsets and NaNs between their rows, magnitudes go to
//! both ends, the machine's schedule, completion policy and seed are drawn with the case, and every checker is on. Small
//! shapes: `PROPTEST_CASES` widens the net, large shapes live in benches and examples.

#![cfg(feature = "emulator")]

mod support;

use hadal::gemm::{Args, Options, Plan, Shape, reference};
use hadal::kernel::table::TABLE;
use hadal::{DType, Device, E4M3, Element, Stream, bf16};
use proptest::prelude::*;
use support::{
    Data, MACHINES, Random, assert_clean, cases, device, device_at_random, device_of, device_on, machines,
    schedules,
};

/// Where a matrix lies in its allocation: elements before it, and from row to row beyond its width.
#[derive(Debug, Clone, Copy, Default)]
struct Pitch {
    offset: usize,
    gap: usize,
}

#[derive(Debug, Clone)]
struct Case {
    shape: [usize; 3],
    output: DType,
    tile: Option<(usize, usize)>,
    sms: u32,
    data: Data,
    /// For a, a_scales, weight, weight_scale_inv, out; in units of 16 bytes, except for weight_scale_inv: elements.
    pitches: [Pitch; 5],
    seed: u64,
}

impl Case {
    fn new(shape: [usize; 3], output: DType) -> Case {
        let pitches = [Pitch::default(); 5];
        Case { shape, output, tile: None, sms: 132, data: Data::Normal, pitches, seed: 1 }
    }
}

/// A row-major matrix inside an allocation full of `paint`, and what a view of it is made with.
struct Placed<T> {
    memory: Vec<T>,
    offset: usize,
    pitch: usize,
}

fn place<T: Copy>(values: &[T], rows: usize, cols: usize, pitch: Pitch, unit: usize, paint: T) -> Placed<T> {
    let offset = pitch.offset * unit;
    let pitch = (cols.next_multiple_of(unit)) + pitch.gap * unit;
    let mut memory = vec![paint; offset + rows * pitch + 16];
    for row in 0..rows {
        memory[offset + row * pitch..][..cols].copy_from_slice(&values[row * cols..][..cols]);
    }
    Placed { memory, offset, pitch }
}

/// Bits of an output element, and how to get them.
trait Output: Element {
    fn bits(self) -> u32;
    fn of(result: f32) -> u32;
}

impl Output for f32 {
    fn bits(self) -> u32 {
        self.to_bits()
    }
    fn of(result: f32) -> u32 {
        result.to_bits()
    }
}

impl Output for bf16 {
    fn bits(self) -> u32 {
        self.to_bits() as u32
    }
    fn of(result: f32) -> u32 {
        reference::round_bf16(result).to_bits() as u32
    }
}

fn check(device: &Device, stream: &Stream, case: &Case) -> &'static str {
    match case.output {
        DType::F32 => check_as::<f32>(device, stream, case),
        _ => check_as::<bf16>(device, stream, case),
    }
}

/// Runs a case twice and compares everything. Returns the kernel's name.
fn check_as<T: Output>(device: &Device, stream: &Stream, case: &Case) -> &'static str {
    let [m, n, k] = case.shape;
    let (groups, blocks) = (k.div_ceil(128), n.div_ceil(128));
    let random = &mut Random(case.seed);
    let a: Vec<E4M3> = (0..m * k).map(|_| case.data.value(random)).collect();
    let weight: Vec<E4M3> = (0..n * k).map(|_| case.data.value(random)).collect();
    let a_scales: Vec<f32> = (0..m * groups).map(|_| case.data.scale(random)).collect();
    let scale_inv: Vec<f32> = (0..blocks * groups).map(|_| case.data.scale(random)).collect();
    let problem = reference::Problem::new(case.shape, &a, &a_scales, &weight, &scale_inv).unwrap();
    let expected = problem.results();

    // Scales of A go to the device M-major: transposed here, and told so by the view.
    let mut transposed = vec![0f32; groups * m];
    for row in 0..m {
        for group in 0..groups {
            transposed[group * m + row] = a_scales[row * groups + group];
        }
    }
    let unit = 16 / size_of::<T>();
    let [pa, ps, pw, pi, po] = case.pitches;
    let a = place(&a, m, k, pa, 16, E4M3::NAN);
    let scales = place(&transposed, groups, m, ps, 4, f32::NAN);
    let weight = place(&weight, n, k, pw, 16, E4M3::NAN);
    let inverse = place(&scale_inv, blocks, groups, pi, 1, f32::NAN);
    let (offset, pitch) = (po.offset * unit + 8 * unit, n.next_multiple_of(unit) + po.gap * unit);
    let length = offset + m * pitch + 8 * unit;

    let a_memory = device.upload(stream, &a.memory).unwrap();
    let scales_memory = device.upload(stream, &scales.memory).unwrap();
    let weight_memory = device.upload(stream, &weight.memory).unwrap();
    let inverse_memory = device.upload(stream, &inverse.memory).unwrap();
    let mut options = Options::new().output(T::DTYPE).sms(case.sms);
    if let Some((m, n)) = case.tile {
        options = options.tile(m, n);
    }
    let plan = Plan::new(device, Shape::new(m, n, k), options).unwrap();
    for run in 0..2 {
        let mut out = device.alloc::<T>(length).unwrap();
        out.fill_bytes(stream, 0xff).unwrap();
        let args = Args::new(
            a_memory.view(a.offset, [m, k], [a.pitch, 1]).unwrap(),
            scales_memory.view(scales.offset, [groups, m], [scales.pitch, 1]).unwrap().t(),
            weight_memory.view(weight.offset, [n, k], [weight.pitch, 1]).unwrap(),
            inverse_memory.view(inverse.offset, [blocks, groups], [inverse.pitch, 1]).unwrap(),
            out.view_mut(offset, [m, n], [pitch, 1]).unwrap(),
        );
        plan.run(stream, args).unwrap();
        let memory = match out.to_vec(stream) {
            Ok(memory) => memory,
            Err(error) => panic!("{case:?}: {error}"),
        };
        for (at, value) in memory.into_iter().enumerate() {
            let inside = at.checked_sub(offset).map(|at| (at / pitch, at % pitch));
            match inside.filter(|&(row, col)| row < m && col < n) {
                Some((row, col)) => {
                    let want = T::of(expected[row * n + col]);
                    let got = value.bits();
                    assert_eq!(
                        got, want,
                        "run {run}, out[{row}, {col}]: {got:#x} and not {want:#x}; {case:?}"
                    );
                }
                None => {
                    let paint = if size_of::<T>() == 2 { 0xffff } else { u32::MAX };
                    assert_eq!(value.bits(), paint, "run {run}: wrote outside `out`, element {at}; {case:?}");
                }
            }
        }
    }
    assert_clean(device);
    plan.kernel()
}

/// Every row of the family: output type and tile.
fn rows() -> impl Iterator<Item = (&'static str, DType, (usize, usize))> {
    TABLE.iter().filter(|row| row.text("GROUPING") == Some("dense")).map(|row| {
        let output = if row.text("OUT") == Some("f32") { DType::F32 } else { DType::BF16 };
        let tile = (row.int("BLOCK_M").unwrap() as usize, row.int("BLOCK_N").unwrap() as usize);
        (row.name, output, tile)
    })
}

/// On every kind of machine.
#[test]
fn every_row_forced() {
    for (seed, (name, output, tile)) in rows().enumerate() {
        // A tile each way and a bit, on so few SMs that blocks walk several tiles and the ring goes round.
        let shape = [tile.0 + 9, tile.1 + 8, 528];
        let case = Case {
            tile: Some(tile),
            sms: 2,
            data: Data::Wide,
            seed: seed as u64,
            ..Case::new(shape, output)
        };
        for which in 0..MACHINES {
            let (device, stream) = device_of(which, seed as u64);
            assert_eq!(check(&device, &stream, &case), name);
        }
    }
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules a kernel, .ci/full 100"]
fn every_row_under_many_schedules() {
    for (name, output, tile) in rows() {
        let shape = [tile.0 + 9, tile.1 + 8, 528];
        for seed in 0..schedules() {
            let case = Case { tile: Some(tile), sms: 2, data: Data::Wide, seed, ..Case::new(shape, output) };
            let (device, stream) = device_at_random(seed);
            assert_eq!(check(&device, &stream, &case), name);
        }
    }
}

#[test]
fn every_row_is_chosen_for_a_shape_of_deepseek_v3() {
    let device = Device::emulator().unwrap();
    let mut chosen = Vec::new();
    for (what, shape, output) in [
        ("q_a and kv_a, decode", Shape::new(64, 2112, 7168), DType::BF16),
        ("q_b, decode", Shape::new(64, 24576, 1536), DType::BF16),
        ("gate and up, small prefill", Shape::new(512, 4096, 7168), DType::BF16),
        ("gate and up, prefill", Shape::new(4096, 4096, 7168), DType::BF16),
        ("q_a and kv_a, decode", Shape::new(64, 2112, 7168), DType::F32),
        ("q_b, decode", Shape::new(64, 24576, 1536), DType::F32),
        ("gate and up, prefill", Shape::new(4096, 4096, 7168), DType::F32),
    ] {
        let plan = Plan::new(&device, shape, Options::new().output(output)).unwrap();
        let text = plan.explain().to_string();
        assert!(text.contains(plan.kernel()), "{what}:\n{text}");
        chosen.push(plan.kernel());
    }
    for (name, ..) in rows() {
        assert!(chosen.contains(&name), "{name} is chosen for none of the shapes");
    }
}

#[test]
fn one_row_one_column_block_one_step_of_k() {
    for (name, output, tile) in rows() {
        let (device, stream) = device(7);
        let case = Case { tile: Some(tile), ..Case::new([1, 8, 16], output) };
        assert_eq!(check(&device, &stream, &case), name);
    }
}

#[test]
fn special_values_are_data() {
    for data in [Data::Special, Data::Largest, Data::Tiny] {
        for output in [DType::BF16, DType::F32] {
            let (device, stream) = device(3);
            check(&device, &stream, &Case { data, seed: 11, ..Case::new([65, 136, 400], output) });
        }
    }
}

#[test]
fn no_rows_launch_nothing() {
    let (device, stream) = device(0);
    check(&device, &stream, &Case::new([0, 128, 128], DType::BF16));
    if let Some(emulated) = device.emulated() {
        assert_eq!(emulated.counters().launches, 0);
    }
}

#[test]
fn the_budget_of_sms_is_kept() {
    let (device, stream) = device(2);
    check(
        &device,
        &stream,
        &Case { sms: 3, tile: Some((64, 64)), ..Case::new([200, 264, 256], DType::BF16) },
    );
    if let Some(emulated) = device.emulated() {
        let counters = emulated.counters();
        assert!(counters.sms_used <= 3, "used {}", counters.sms_used);
        assert_eq!(counters.blocks, 6);
    }
}

/// A row's bits do not depend on its batch, its batchmates, the tile or the SMs.
#[test]
fn rows_are_batch_invariant() {
    let (k, n) = (384, 72);
    let random = &mut Random(5);
    let a: Vec<E4M3> = (0..130 * k).map(|_| Data::Wide.value(random)).collect();
    let scales: Vec<f32> = (0..3 * 132).map(|_| Data::Normal.scale(random)).collect();
    let weight: Vec<E4M3> = (0..n * k).map(|_| Data::Wide.value(random)).collect();
    let inverse: Vec<f32> = (0..3).map(|_| Data::Normal.scale(random)).collect();
    let (device, stream) = device(9);
    let a = device.upload(&stream, &a).unwrap();
    let scales = device.upload(&stream, &scales).unwrap();
    let weight = device.upload(&stream, &weight).unwrap();
    let inverse = device.upload(&stream, &inverse).unwrap();
    let mut first: Option<Vec<bf16>> = None;
    for (m, tile, sms) in
        [(130, (64, 64), 132), (130, (256, 128), 1), (130, (128, 128), 2), (7, (64, 128), 132)]
    {
        let options = Options::new().tile(tile.0, tile.1).sms(sms).batch_invariant(true);
        // Planned for 130 rows, run with m: a plan serves every batch up to its own.
        let plan = Plan::new(&device, Shape::new(130, n, k), options).unwrap();
        let mut out = device.alloc::<bf16>(m * n).unwrap();
        let args = Args::new(
            a.matrix(m, k).unwrap(),
            scales.view(0, [3, m], [132, 1]).unwrap().t(),
            weight.matrix(n, k).unwrap(),
            inverse.matrix(1, 3).unwrap(),
            out.matrix_mut(m, n).unwrap(),
        );
        plan.run(&stream, args).unwrap();
        let out = out.to_vec(&stream).unwrap();
        let first = first.get_or_insert_with(|| out.clone());
        assert_eq!(out, first[..m * n], "m {m}, tile {tile:?}, {sms} SMs");
    }
    assert_clean(&device);
}

/// Multiples of a tile, and the numbers `step` below and above them.
fn around(tile: usize, most: usize, step: usize) -> impl Strategy<Value = usize> {
    (0..=most, -1i64..=1).prop_map(move |(tiles, side)| {
        let number = (tiles * tile) as i64 + side * step as i64;
        number.max(step as i64) as usize
    })
}

fn a_case() -> impl Strategy<Value = Case> {
    let pitch = || (0usize..3, 0usize..3).prop_map(|(offset, gap)| Pitch { offset, gap });
    let rows: Vec<_> = rows().collect();
    let shape = (around(64, 4, 1), around(64, 4, 8), around(128, 4, 16)).prop_map(|(m, n, k)| [m, n, k]);
    let sms = prop_oneof![Just(1u32), Just(2), Just(3), Just(132)];
    let pitches = [pitch(), pitch(), pitch(), pitch(), pitch()];
    let data = proptest::sample::select(Data::ALL.to_vec());
    (shape, proptest::sample::select(rows), sms, data, pitches, any::<u64>()).prop_map(
        |(shape, (_, output, tile), sms, data, pitches, seed)| Case {
            shape,
            output,
            tile: Some(tile),
            sms,
            data,
            pitches,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn every_element_is_the_reference_s(case in a_case(), machine in machines()) {
        let (device, stream) = device_on(machine);
        check(&device, &stream, &case);
    }
}
