//! Quantisation on the emulator, every scale and every element against the scalar reference, bit for bit; and the whole
//! way from BF16 through two quantisers and the GEMM to a product that is close to the unquantised one.

#![cfg(feature = "emulator")]

mod support;

use hadal::quant::{Args, Options, Plan, Shape, m_major_stride, reference};
use hadal::{DType, Device, E4M3, Element, Stream, bf16, f16, gemm};
use proptest::prelude::*;
use support::{
    MACHINES, Random, assert_clean, cases, device, device_at_random, device_of, device_on, machines,
    schedules,
};

/// A type a quantiser reads.
trait Input: Element {
    fn narrow(value: f32) -> Self;
    fn widen(self) -> f32;
}

impl Input for bf16 {
    fn narrow(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Input for f16 {
    fn narrow(value: f32) -> f16 {
        f16::from_f32(value)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Input for f32 {
    fn narrow(value: f32) -> f32 {
        value
    }
    fn widen(self) -> f32 {
        self
    }
}

/// Kinds of input, from tame to hostile.
#[derive(Debug, Clone, Copy)]
enum Values {
    Normal,
    /// Exponents over the whole range.
    Wide,
    /// Largest finite magnitudes.
    Largest,
    /// Zeros and subnormals: the floor decides the scale.
    Tiny,
    /// Some NaNs and infinities.
    Special,
}

const VALUES: [Values; 5] = [Values::Normal, Values::Wide, Values::Largest, Values::Tiny, Values::Special];

fn value(values: Values, random: &mut Random) -> f32 {
    let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
    match values {
        Values::Normal => random.normal(),
        Values::Wide => sign * 2f32.powi(random.below(60) as i32 - 30) * (1.0 + random.unit() as f32),
        Values::Largest => sign * 3.3e38,
        Values::Tiny => {
            [0.0, -0.0, sign * 1e-7, f32::from_bits(random.below(1 << 20) as u32)][random.below(4)]
        }
        Values::Special => match random.below(150) {
            0 => f32::from_bits(0xffc0_0001),
            1 => sign * f32::INFINITY,
            _ => random.normal() * 1000.0,
        },
    }
}

#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    cols: usize,
    input: DType,
    weights: bool,
    power_of_two: bool,
    transposed: bool,
    values: Values,
    sms: u32,
    /// Elements before x, q and scales, and from row to row beyond their width.
    offsets: [usize; 3],
    gaps: [usize; 3],
    seed: u64,
}

impl Case {
    fn new(rows: usize, cols: usize, input: DType, weights: bool) -> Case {
        Case {
            rows,
            cols,
            input,
            weights,
            power_of_two: false,
            transposed: false,
            values: Values::Normal,
            sms: 132,
            offsets: [0; 3],
            gaps: [0; 3],
            seed: 1,
        }
    }
}

fn check(device: &Device, stream: &Stream, case: &Case) -> &'static str {
    match case.input {
        DType::BF16 => check_as::<bf16>(device, stream, case),
        DType::F16 => check_as::<f16>(device, stream, case),
        _ => check_as::<f32>(device, stream, case),
    }
}

/// Runs a case twice and compares everything, paint included. Returns the kernel's name.
fn check_as<T: Input>(device: &Device, stream: &Stream, case: &Case) -> &'static str {
    let Case { rows, cols, .. } = *case;
    let random = &mut Random(case.seed);
    let group_rows = if case.weights { 128 } else { 1 };
    let (scale_rows, scale_cols) = (rows.div_ceil(group_rows), cols.div_ceil(128));
    let x_pitch = cols + case.gaps[0];
    // NaNs around the matrix: reading one would show in a whole group.
    let mut x = vec![T::narrow(f32::NAN); case.offsets[0] + rows * x_pitch + 8];
    let mut plain = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        for col in 0..cols {
            let element = T::narrow(value(case.values, random));
            x[case.offsets[0] + row * x_pitch + col] = element;
            plain.push(element.widen());
        }
    }
    let expected = reference::quantize(&plain, [rows, cols], group_rows, case.power_of_two).unwrap();

    let q_pitch = cols + case.gaps[1];
    let scale_strides =
        if case.transposed { [1, scale_rows + case.gaps[2]] } else { [scale_cols + case.gaps[2], 1] };
    let base = if case.weights { Options::weights() } else { Options::activations() };
    let options = base.input(T::DTYPE).power_of_two(case.power_of_two).sms(case.sms);
    let plan = Plan::new(device, Shape::new(rows, cols), options).unwrap();
    let x = device.upload(stream, &x).unwrap();
    for run in 0..2 {
        let mut q = device.alloc::<E4M3>(case.offsets[1] + rows * q_pitch + 16).unwrap();
        let extent = scale_rows.max(1) * scale_strides[0] + scale_cols.max(1) * scale_strides[1];
        let mut scales = device.alloc::<f32>(case.offsets[2] + extent + 8).unwrap();
        q.fill_bytes(stream, 0xff).unwrap();
        scales.fill_bytes(stream, 0xff).unwrap();
        let args = Args::new(
            x.view(case.offsets[0], [rows, cols], [x_pitch, 1]).unwrap(),
            q.view_mut(case.offsets[1], [rows, cols], [q_pitch, 1]).unwrap(),
            scales.view_mut(case.offsets[2], [scale_rows, scale_cols], scale_strides).unwrap(),
        );
        plan.run(stream, args).unwrap();
        let got = q.to_vec(stream).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        let got_scales = scales.to_vec(stream).unwrap();

        let mut want = vec![E4M3(0xff); got.len()];
        for (at, value) in expected.values.iter().enumerate() {
            want[case.offsets[1] + at / cols * q_pitch + at % cols] = *value;
        }
        let mut want_scales = vec![u32::MAX; got_scales.len()];
        for (at, scale) in expected.scales.iter().enumerate() {
            let (row, col) = (at / scale_cols, at % scale_cols);
            want_scales[case.offsets[2] + row * scale_strides[0] + col * scale_strides[1]] = scale.to_bits();
        }
        for (at, (got, want)) in got_scales.iter().zip(&want_scales).enumerate() {
            assert_eq!(got.to_bits(), *want, "run {run}, scales, element {at}: {got}; {case:?}");
        }
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.0, want.0, "run {run}, q, element {at}; {case:?}");
        }
    }
    assert_clean(device);
    plan.kernel()
}

/// On every kind of machine.
#[test]
fn every_row_forced() {
    for (input, name) in [(DType::BF16, "bf16"), (DType::F16, "f16"), (DType::F32, "f32")] {
        for weights in [false, true] {
            let group = if weights { "128x128" } else { "1x128" };
            for which in 0..MACHINES {
                let (device, stream) = device_of(which, 1);
                let kernel = check(&device, &stream, &Case::new(130, 264, input, weights));
                assert_eq!(kernel, format!("hadal_quantize_{name}_e4m3_{group}_sm90a"));
            }
        }
    }
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules a kernel, .ci/full 100"]
fn every_row_under_many_schedules() {
    for input in [DType::BF16, DType::F16, DType::F32] {
        for weights in [false, true] {
            for seed in 0..schedules() {
                let (device, stream) = device_at_random(seed);
                check(&device, &stream, &Case::new(130, 264, input, weights));
            }
        }
    }
}

#[test]
fn all_values_all_scalings() {
    for values in VALUES {
        for power_of_two in [false, true] {
            for weights in [false, true] {
                let (device, stream) = device(5);
                let case = Case { values, power_of_two, ..Case::new(3, 300, DType::F32, weights) };
                check(&device, &stream, &case);
            }
        }
    }
}

#[test]
fn nothing_to_do_launches_nothing() {
    let (device, stream) = device(0);
    check(&device, &stream, &Case::new(0, 128, DType::BF16, false));
    check(&device, &stream, &Case::new(5, 0, DType::BF16, true));
    if let Some(emulated) = device.emulated() {
        assert_eq!(emulated.counters().launches, 0);
    }
}

#[test]
fn the_budget_of_sms_is_kept() {
    let (device, stream) = device(0);
    for weights in [false, true] {
        check(&device, &stream, &Case { sms: 2, ..Case::new(300, 400, DType::BF16, weights) });
        // Two runs of a block on each SM.
        if let Some(emulated) = device.emulated() {
            assert_eq!((emulated.counters().blocks, emulated.counters().sms_used), (4, 2));
            emulated.reset();
        }
    }
}

fn a_case() -> impl Strategy<Value = Case> {
    let rows = (0usize..3, 0usize..3).prop_map(|(tiles, side)| (tiles * 128 + side).saturating_sub(1).max(1));
    let cols = (0usize..4, 0usize..7).prop_map(|(tiles, side)| (tiles * 128 + side).saturating_sub(3).max(1));
    let input = proptest::sample::select(vec![DType::BF16, DType::F16, DType::F32]);
    let small = || prop_oneof![Just(0usize), Just(4), 0usize..9];
    let layout = (any::<[bool; 3]>(), [small(), small(), small()], [small(), small(), small()]);
    let values = proptest::sample::select(VALUES.to_vec());
    let sms = prop_oneof![Just(1u32), Just(132)];
    (rows, cols, input, layout, values, sms, any::<u64>()).prop_map(
        |(rows, cols, input, ([weights, power_of_two, transposed], offsets, gaps), values, sms, seed)| Case {
            rows,
            cols,
            input,
            weights,
            power_of_two,
            transposed,
            values,
            sms,
            offsets,
            gaps,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn every_scale_and_element_is_the_reference_s(case in a_case(), machine in machines()) {
        let (device, stream) = device_on(machine);
        check(&device, &stream, &case);
    }
}

/// Quantise both operands on the device, multiply on the device, and come close to the unquantised product.
#[test]
fn a_linear_layer_end_to_end() {
    let (m, n, k) = (70, 200, 528);
    let (device, stream) = device(4);
    let random = &mut Random(21);
    // A few channels are a hundred times larger, as in real activations.
    let outlier = |at: usize| if at % k % 97 == 5 { 100.0 } else { 1.0 };
    let x: Vec<bf16> = (0..m * k).map(|at| bf16::from_f32(random.normal() * outlier(at))).collect();
    let w: Vec<bf16> = (0..n * k).map(|_| bf16::from_f32(random.normal() * 0.02)).collect();

    let (groups, ld) = (k.div_ceil(128), m_major_stride(m));
    let mut a = device.alloc::<E4M3>(m * k).unwrap();
    let mut a_scales = device.alloc::<f32>(ld * groups).unwrap();
    let mut weight = device.alloc::<E4M3>(n * k).unwrap();
    let mut scale_inv = device.alloc::<f32>(n.div_ceil(128) * groups).unwrap();
    let mut out = device.alloc::<f32>(m * n).unwrap();
    let x_memory = device.upload(&stream, &x).unwrap();
    let w_memory = device.upload(&stream, &w).unwrap();

    let quantize = |options: Options, x, q, scales, rows| {
        let plan = Plan::new(&device, Shape::new(rows, k), options.programmatic(true)).unwrap();
        plan.run(&stream, Args::new(x, q, scales)).unwrap();
    };
    quantize(
        Options::activations(),
        x_memory.matrix(m, k).unwrap(),
        a.matrix_mut(m, k).unwrap(),
        a_scales.view_mut(0, [m, groups], [1, ld]).unwrap(),
        m,
    );
    quantize(
        Options::weights(),
        w_memory.matrix(n, k).unwrap(),
        weight.matrix_mut(n, k).unwrap(),
        scale_inv.matrix_mut(n.div_ceil(128), groups).unwrap(),
        n,
    );
    let options = gemm::Options::new().output(DType::F32).programmatic(true);
    let plan = gemm::Plan::new(&device, gemm::Shape::new(m, n, k), options).unwrap();
    let args = gemm::Args::new(
        a.matrix(m, k).unwrap(),
        a_scales.view(0, [m, groups], [1, ld]).unwrap(),
        weight.matrix(n, k).unwrap(),
        scale_inv.matrix(n.div_ceil(128), groups).unwrap(),
        out.matrix_mut(m, n).unwrap(),
    );
    plan.run(&stream, args).unwrap();
    let result = out.to_vec(&stream).unwrap();
    assert_clean(&device);

    let floats = |x: &[bf16]| -> Vec<f32> { x.iter().map(|x| x.to_f32()).collect() };
    let qx = reference::quantize(&floats(&x), [m, k], 1, false).unwrap();
    let qw = reference::quantize(&floats(&w), [n, k], 128, false).unwrap();
    let problem =
        gemm::reference::Problem::new([m, n, k], &qx.values, &qx.scales, &qw.values, &qw.scales).unwrap();
    for (at, (got, want)) in result.iter().zip(problem.results()).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "out[{}, {}]", at / n, at % n);
    }
    let doubles = |x: &[bf16]| -> Vec<f64> { x.iter().map(|x| x.to_f64()).collect() };
    let plain = gemm::reference::product([m, n, k], &doubles(&x), &doubles(&w));
    let result = || result.iter().map(|&x| x as f64);
    let unquantized = gemm::reference::calc_diff(result(), plain);
    let quantized = gemm::reference::calc_diff(result(), problem.exact());
    assert!(unquantized < 1e-3 && quantized < 1e-5, "{unquantized:e} {quantized:e}");
}
