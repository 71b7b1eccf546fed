//! SwiGLU with quantisation on the emulator, every scale and every element against the scalar reference, bit for bit, over
//! groups whose sizes only the device knows; absent rows of the input are never written memory, so reading one is a finding.

#![cfg(feature = "emulator")]

mod support;

use hadal::moe::swiglu::{Args, Options, Plan, Shape, reference, supports};
use hadal::quant::{self, m_major_stride};
use hadal::{Device, E4M3, Error, Stream, bf16};
use proptest::prelude::*;
use support::{
    MACHINES, Random, assert_clean, cases, device, device_at_random, device_of, device_on, machines,
    schedules,
};

#[derive(Debug, Clone)]
struct Case {
    /// Rows of each group.
    sizes: Vec<usize>,
    /// Rows of a group's slab, for the masked layout.
    slab: Option<usize>,
    alignment: usize,
    /// Blocks of 128 columns.
    blocks: usize,
    hostile: bool,
    power_of_two: bool,
    transposed: bool,
    sms: u32,
    /// Elements from row to row of x and q beyond their width, in fours.
    gaps: [usize; 2],
    seed: u64,
}

impl Case {
    fn new(sizes: &[usize], slab: Option<usize>) -> Case {
        Case {
            sizes: sizes.to_vec(),
            slab,
            alignment: 1,
            blocks: 2,
            hostile: false,
            power_of_two: false,
            transposed: true,
            sms: 132,
            gaps: [0; 2],
            seed: 1,
        }
    }
}

fn value(hostile: bool, random: &mut Random) -> bf16 {
    let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
    bf16::from_f32(match random.below(if hostile { 12 } else { 1 }) {
        0..4 => random.normal() * 3.0,
        4 => sign * 3e38,
        5 => sign * f32::from_bits(random.below(1 << 22) as u32),
        6 => sign * 0.0,
        7 if random.below(200) == 0 => f32::NAN,
        8 if random.below(200) == 0 => sign * f32::INFINITY,
        _ => sign * 2f32.powi(random.below(16) as i32 - 8),
    })
}

/// Runs a case twice and compares everything, paint included. Returns the kernel's name.
fn check(device: &Device, stream: &Stream, case: &Case) -> &'static str {
    let cols = case.blocks * 128;
    let random = &mut Random(case.seed);
    let groups = case.sizes.len();
    let (sizes, rows): (Vec<i32>, usize) = match case.slab {
        Some(slab) => (case.sizes.iter().map(|&n| n as i32).collect(), groups * slab),
        None => {
            let mut end = 0usize;
            let ends = case.sizes.iter().map(|n| {
                end = end.next_multiple_of(case.alignment) + n;
                end as i32
            });
            (ends.collect(), end + 3)
        }
    };
    let present = match case.slab {
        Some(slab) => reference::masked_rows(&sizes, slab),
        None => reference::contiguous_rows(&sizes, case.alignment, rows),
    };
    assert_eq!(present.len(), case.sizes.iter().sum::<usize>());

    let (x_pitch, q_pitch) = (2 * cols + 4 * case.gaps[0], cols + 4 * case.gaps[1]);
    let strides = if case.transposed { [1, m_major_stride(rows)] } else { [case.blocks, 1] };
    let x = device.alloc::<bf16>(rows * x_pitch + 8).unwrap();
    let mut want_q = vec![E4M3(0xff); rows * q_pitch + 16];
    let mut want_scales = vec![u32::MAX; m_major_stride(rows).max(1) * case.blocks + 8];
    for &row in &present {
        let values: Vec<bf16> = (0..2 * cols).map(|_| value(case.hostile, random)).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect();
        let address = x.address() + 2 * (row * x_pitch) as u64;
        // SAFETY: the row lies inside the live buffer, and nothing else uses it yet.
        unsafe { device.driver().copy_to_device(device.ordinal(), address, &bytes, stream.raw()) }.unwrap();
        let y: Vec<f32> = (0..cols)
            .map(|col| reference::swiglu(values[col].to_f32(), values[cols + col].to_f32()))
            .collect();
        let quantized = quant::reference::quantize(&y, [1, cols], 1, case.power_of_two).unwrap();
        want_q[row * q_pitch..][..cols].copy_from_slice(&quantized.values);
        for (block, scale) in quantized.scales.iter().enumerate() {
            want_scales[row * strides[0] + block * strides[1]] = scale.to_bits();
        }
    }
    let shape = match case.slab {
        Some(slab) => Shape::masked(groups, slab, cols),
        None => Shape::contiguous(groups, rows, cols).alignment(case.alignment),
    };
    let options = Options::new().power_of_two(case.power_of_two).sms(case.sms).programmatic(true);
    let plan = Plan::new(device, shape, options).unwrap();
    let sizes = device.upload(stream, &sizes).unwrap();
    for run in 0..2 {
        let mut q = device.alloc::<E4M3>(want_q.len()).unwrap();
        let mut scales = device.alloc::<f32>(want_scales.len()).unwrap();
        q.fill_bytes(stream, 0xff).unwrap();
        scales.fill_bytes(stream, 0xff).unwrap();
        let args = Args::new(
            x.view(0, [rows, 2 * cols], [x_pitch, 1]).unwrap(),
            sizes.matrix(1, groups).unwrap(),
            q.view_mut(0, [rows, cols], [q_pitch, 1]).unwrap(),
            scales.view_mut(0, [rows, case.blocks], strides).unwrap(),
        );
        plan.run(stream, args).unwrap();
        let got = q.to_vec(stream).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        for (at, (got, want)) in scales.to_vec(stream).unwrap().iter().zip(&want_scales).enumerate() {
            assert_eq!(got.to_bits(), *want, "run {run}, scales, element {at}: {got}; {case:?}");
        }
        for (at, (got, want)) in got.iter().zip(&want_q).enumerate() {
            assert_eq!(got.0, want.0, "run {run}, q, element {at}; {case:?}");
        }
    }
    assert_clean(device);
    plan.kernel()
}

const SIZES: &[usize] = &[0, 1, 7, 0, 30];

/// On every kind of machine.
#[test]
fn every_row_forced() {
    for which in 0..MACHINES {
        let (device, stream) = device_of(which, 1);
        let kernel = check(&device, &stream, &Case::new(SIZES, None));
        assert_eq!(kernel, "hadal_swiglu_bf16_e4m3_contiguous_1x128_sm90a");
        let kernel = check(&device, &stream, &Case::new(SIZES, Some(30)));
        assert_eq!(kernel, "hadal_swiglu_bf16_e4m3_masked_1x128_sm90a");
    }
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules a kernel, .ci/full 100"]
fn every_row_under_many_schedules() {
    for seed in 0..schedules() {
        let (device, stream) = device_at_random(seed);
        check(&device, &stream, &Case { seed, ..Case::new(SIZES, None) });
        check(&device, &stream, &Case { seed, ..Case::new(SIZES, Some(30)) });
    }
}

/// As many groups as there may be, most of them empty.
#[test]
fn many_groups() {
    let (device, stream) = device(3);
    let mut sizes = vec![0; 1024];
    for (group, size) in [(0, 1), (31, 2), (32, 1), (500, 3), (1023, 2)] {
        sizes[group] = size;
    }
    check(&device, &stream, &Case { blocks: 1, ..Case::new(&sizes, Some(4)) });
    check(&device, &stream, &Case { blocks: 1, alignment: 8, ..Case::new(&sizes[..300], None) });
}

#[test]
fn the_budget_of_sms_is_kept() {
    for slab in [None, Some(40)] {
        let (device, stream) = device(1);
        check(&device, &stream, &Case { sms: 3, ..Case::new(&[40, 40, 1, 30], slab) });
        // Two runs of a block on each SM.
        if let Some(emulated) = device.emulated() {
            assert_eq!((emulated.counters().blocks, emulated.counters().sms_used), (6, 3));
        }
    }
}

#[test]
fn absent_rows_cost_nothing() {
    let (device, stream) = device(0);
    check(&device, &stream, &Case::new(&[0, 0], Some(64)));
    let Some(emulated) = device.emulated() else { return };
    let idle = emulated.counters().instructions;
    check(&device, &stream, &Case::new(&[64, 64], Some(64)));
    let busy = emulated.counters().instructions - idle;
    assert!(idle * 2 < busy, "{idle} without rows, {busy} with all");
}

/// Sizes no one should have written stay inside the rows, and touch no other.
#[test]
fn senseless_sizes_are_cut() {
    let (device, stream) = device(2);
    let (rows, cols) = (12, 128);
    let x = device.upload(&stream, &vec![bf16::ONE; rows * 2 * cols]).unwrap();
    for (masked, sizes, present) in [
        (true, [-5, i32::MIN, 100], 8..12),
        (true, [i32::MAX, 0, -1], 0..4),
        (false, [-7, 3, i32::MAX], 0..12),
        (false, [i32::MIN, -1, 2], 0..2),
    ] {
        let sizes = device.upload(&stream, &sizes).unwrap();
        let shape = if masked { Shape::masked(3, 4, cols) } else { Shape::contiguous(3, rows, cols) };
        let plan = Plan::new(&device, shape, Options::new()).unwrap();
        let mut q = device.alloc::<E4M3>((rows + 4) * cols).unwrap();
        let mut scales = device.alloc::<f32>(rows).unwrap();
        q.fill_bytes(&stream, 0xff).unwrap();
        let args = Args::new(
            x.matrix(rows, 2 * cols).unwrap(),
            sizes.matrix(1, 3).unwrap(),
            q.view_mut(0, [rows, cols], [cols, 1]).unwrap(),
            scales.matrix_mut(rows, 1).unwrap(),
        );
        plan.run(&stream, args).unwrap();
        for (row, values) in q.to_vec(&stream).unwrap().chunks(cols).enumerate() {
            let written = values.iter().all(|q| q.0 != 0xff);
            let painted = values.iter().all(|q| q.0 == 0xff);
            assert!(if present.contains(&row) { written } else { painted }, "row {row}");
        }
    }
    assert_clean(&device);
}

#[test]
fn wrong_inputs_are_refused() {
    let (device, stream) = device(0);
    let refused = |shape: Shape, options: Options| supports(&device, shape, options).unwrap_err();
    assert!(matches!(refused(Shape::masked(0, 4, 128), Options::new()), Error::Shape { .. }));
    assert!(matches!(refused(Shape::masked(1025, 4, 128), Options::new()), Error::Shape { .. }));
    assert!(matches!(refused(Shape::masked(1, 4, 100), Options::new()), Error::Shape { .. }));
    assert!(matches!(refused(Shape::masked(1, usize::MAX, 128), Options::new()), Error::Shape { .. }));
    let misaligned = Shape::contiguous(1, 4, 128).alignment(0);
    assert!(matches!(refused(misaligned, Options::new()), Error::Option { argument: "alignment", .. }));
    assert!(matches!(refused(Shape::masked(1, 4, 128), Options::new().sms(0)), Error::Option { .. }));

    let plan = Plan::new(&device, Shape::masked(2, 4, 128), Options::new()).unwrap();
    let x = device.alloc::<bf16>(8 * 256 + 8).unwrap();
    let sizes = device.alloc::<i32>(4).unwrap();
    let mut q = device.alloc::<E4M3>(8 * 128 + 8).unwrap();
    let mut scales = device.alloc::<f32>(16).unwrap();
    let mut with = |x_at: usize, rows: usize, sizes_len: usize, q_at: usize, scale_strides: [usize; 2]| {
        let args = Args::new(
            x.view(x_at, [rows, 256], [256, 1]).unwrap(),
            sizes.matrix(1, sizes_len).unwrap(),
            q.view_mut(q_at, [8, 128], [128, 1]).unwrap(),
            scales.view_mut(0, [8, 1], scale_strides).unwrap(),
        );
        plan.run(&stream, args)
    };
    let argument = |result: hadal::Result<()>| match result.unwrap_err() {
        Error::Shape { argument, .. } => ("shape", argument),
        Error::Alignment { argument, .. } => ("alignment", argument),
        Error::Stride { argument, .. } => ("stride", argument),
        other => panic!("{other}"),
    };
    assert_eq!(argument(with(0, 7, 2, 0, [1, 8])), ("shape", "x"));
    assert_eq!(argument(with(1, 8, 2, 0, [1, 8])), ("alignment", "x"));
    assert_eq!(argument(with(0, 8, 3, 0, [1, 8])), ("shape", "sizes"));
    assert_eq!(argument(with(0, 8, 2, 2, [1, 8])), ("alignment", "q"));
    assert_eq!(argument(with(0, 8, 2, 0, [0, 1])), ("stride", "scales"));
    if let Some(emulated) = device.emulated() {
        assert_eq!(emulated.counters().launches, 0);
    }
}

fn a_case() -> impl Strategy<Value = Case> {
    let size = prop_oneof![3 => Just(0usize), 2 => Just(1), 4 => 0usize..20];
    let sizes = proptest::collection::vec(size, 1..40);
    let slab = proptest::option::of(20usize..24);
    let alignment = proptest::sample::select(vec![1usize, 2, 4, 7, 16]);
    let sms = prop_oneof![Just(1u32), Just(132)];
    (sizes, slab, alignment, 1usize..4, any::<[bool; 3]>(), sms, [0usize..3, 0usize..3], any::<u64>())
        .prop_map(|(sizes, slab, alignment, blocks, [hostile, power_of_two, transposed], sms, gaps, seed)| {
            Case { sizes, slab, alignment, blocks, hostile, power_of_two, transposed, sms, gaps, seed }
        })
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_scale_and_element_is_the_reference_s(case in a_case(), machine in machines()) {
        let (device, stream) = device_on(machine);
        check(&device, &stream, &case);
    }
}
