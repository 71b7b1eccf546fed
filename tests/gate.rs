//! The gate on the emulator, every index, weight and count against the scalar reference, bit for bit.

#![cfg(feature = "emulator")]

mod support;

use hadal::moe::gate::{Args, Options, Plan, Shape, reference, supports};
use hadal::{Device, Error, Stream};
use proptest::prelude::*;
use support::{
    MACHINES, Random, assert_clean, cases, device, device_at_random, device_of, device_on, machines,
    schedules,
};

#[derive(Debug, Clone)]
struct Case {
    tokens: usize,
    experts: usize,
    options: Options,
    bias: bool,
    /// Few different logits, so that there are ties.
    ties: bool,
    hostile: bool,
    gap: usize,
    seed: u64,
}

impl Case {
    fn new(tokens: usize, experts: usize, options: Options) -> Case {
        Case { tokens, experts, options, bias: true, ties: false, hostile: false, gap: 0, seed: 1 }
    }
}

fn logit(case: &Case, random: &mut Random) -> f32 {
    match (case.ties, case.hostile) {
        (true, _) => random.below(3) as f32,
        (_, true) => match random.below(40) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => f32::NEG_INFINITY,
            3 => 3e38,
            4 => -3e38,
            5 => -0.0,
            6 => f32::from_bits(random.below(1 << 20) as u32),
            _ => random.normal() * 30.0,
        },
        _ => random.normal() * 2.0,
    }
}

/// Runs a case twice and compares everything. Returns the kernel's name.
fn check(device: &Device, stream: &Stream, case: &Case, k: usize) -> &'static str {
    let Case { tokens, experts, .. } = *case;
    let random = &mut Random(case.seed);
    let pitch = experts + case.gap;
    let mut logits = vec![f32::NAN; tokens * pitch + 4];
    for token in 0..tokens {
        for expert in 0..experts {
            logits[token * pitch + expert] = logit(case, random);
        }
    }
    let bias: Vec<f32> =
        (0..experts).map(|_| if case.ties { 0.0 } else { random.normal() * 0.2 - 0.5 }).collect();
    let bias_list = case.bias.then_some(&bias[..]);
    let want: Vec<_> = (0..tokens)
        .flat_map(|token| {
            reference::choose(&logits[token * pitch..][..experts], bias_list, &case.options).unwrap()
        })
        .collect();

    let plan = Plan::new(device, Shape::new(tokens, experts), case.options).unwrap();
    let logits = device.upload(stream, &logits).unwrap();
    let bias = device.upload(stream, &bias).unwrap();
    let mut counts = device.upload(stream, &vec![0i32; experts]).unwrap();
    for run in 1..3 {
        let mut topk_idx = device.alloc::<i32>(tokens * k + 4).unwrap();
        let mut topk_weight = device.alloc::<f32>(tokens * k + 4).unwrap();
        topk_idx.fill_bytes(stream, 0xff).unwrap();
        topk_weight.fill_bytes(stream, 0xff).unwrap();
        let mut args = Args::new(
            logits.view(0, [tokens, experts], [pitch, 1]).unwrap(),
            topk_idx.view_mut(0, [tokens, k], [k, 1]).unwrap(),
            topk_weight.view_mut(0, [tokens, k], [k, 1]).unwrap(),
        )
        .counts(counts.matrix_mut(1, experts).unwrap());
        if case.bias {
            args = args.bias(bias.matrix(1, experts).unwrap());
        }
        plan.run(stream, args).unwrap();
        let got = topk_idx.to_vec(stream).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        let weights = topk_weight.to_vec(stream).unwrap();
        for (at, (expert, weight)) in want.iter().enumerate() {
            let (token, choice) = (at / k, at % k);
            assert_eq!(got[at], *expert as i32, "run {run}, token {token}, choice {choice}; {case:?}");
            let same = weights[at].to_bits() == weight.to_bits() || (weights[at].is_nan() && weight.is_nan());
            assert!(same, "run {run}, token {token}, choice {choice}: {} {weight}; {case:?}", weights[at]);
        }
        assert!(got[tokens * k..].iter().all(|&idx| idx == -1));
        assert!(weights[tokens * k..].iter().all(|weight| weight.to_bits() == u32::MAX));
        for (expert, count) in counts.to_vec(stream).unwrap().into_iter().enumerate() {
            let expected = want.iter().filter(|choice| choice.0 == expert).count() as i32;
            assert_eq!(count, run * expected, "run {run}, expert {expert}; {case:?}");
        }
    }
    assert_clean(device);
    plan.kernel()
}

/// On every kind of machine.
#[test]
fn every_row_forced() {
    for which in 0..MACHINES {
        let (device, stream) = device_of(which, 1);
        for (experts, most) in [(256, 256), (257, 512)] {
            let sigmoid = Options::sigmoid(8);
            let sigmoid = if experts == 256 { Options::deepseek_v3() } else { sigmoid };
            let kernel = check(&device, &stream, &Case::new(9, experts, sigmoid), 8);
            assert_eq!(kernel, format!("hadal_gate_f32_sigmoid_e{most}_sm90a"));
            let kernel = check(&device, &stream, &Case::new(9, experts, Options::softmax(8)), 8);
            assert_eq!(kernel, format!("hadal_gate_f32_softmax_e{most}_sm90a"));
        }
    }
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules a kernel, .ci/full 100"]
fn every_row_under_many_schedules() {
    for seed in 0..schedules() {
        let (device, stream) = device_at_random(seed);
        for experts in [256, 512] {
            let grouped = Options::deepseek_v3();
            check(&device, &stream, &Case { seed, ..Case::new(9, experts, grouped) }, 8);
            check(&device, &stream, &Case { seed, ..Case::new(9, experts, Options::softmax(8)) }, 8);
        }
    }
}

#[test]
fn ties_go_to_the_lower_index() {
    let (device, stream) = device(2);
    for options in [Options::deepseek_v3(), Options::softmax(8), Options::sigmoid(8).groups(32, 7)] {
        check(&device, &stream, &Case { ties: true, ..Case::new(20, 256, options) }, 8);
    }
}

#[test]
fn hostile_logits() {
    let (device, stream) = device(3);
    for options in [Options::deepseek_v3(), Options::softmax(8), Options::softmax(8).normalize(true)] {
        check(&device, &stream, &Case { hostile: true, ..Case::new(40, 256, options) }, 8);
    }
}

#[test]
fn the_edges_of_the_shape() {
    let (device, stream) = device(4);
    check(&device, &stream, &Case::new(3, 1, Options::sigmoid(1)), 1);
    check(&device, &stream, &Case::new(3, 32, Options::softmax(32)), 32);
    check(&device, &stream, &Case::new(3, 512, Options::sigmoid(32).groups(16, 1)), 32);
    check(&device, &stream, &Case::new(3, 64, Options::sigmoid(4).groups(32, 2)), 4);
    check(&device, &stream, &Case::new(0, 64, Options::sigmoid(4)), 4);
}

#[test]
fn the_budget_of_sms_is_kept() {
    let (device, stream) = device(0);
    check(&device, &stream, &Case::new(200, 64, Options::sigmoid(2).sms(2)), 2);
    // Two runs of a block on each SM.
    if let Some(emulated) = device.emulated() {
        assert_eq!((emulated.counters().blocks, emulated.counters().sms_used), (4, 2));
    }
}

#[test]
fn wrong_inputs_are_refused() {
    let (device, stream) = device(0);
    let refused = |experts, options| supports(&device, Shape::new(4, experts), options).unwrap_err();
    assert!(matches!(refused(0, Options::sigmoid(1)), Error::Shape { .. }));
    assert!(matches!(refused(513, Options::sigmoid(1)), Error::Shape { .. }));
    let wrong = |error| match error {
        Error::Option { argument, .. } => argument,
        other => panic!("{other}"),
    };
    assert_eq!(wrong(refused(64, Options::sigmoid(0))), "k");
    assert_eq!(wrong(refused(64, Options::sigmoid(33))), "k");
    assert_eq!(wrong(refused(64, Options::sigmoid(8).groups(16, 1))), "k");
    assert_eq!(wrong(refused(64, Options::sigmoid(1).groups(3, 1))), "groups");
    assert_eq!(wrong(refused(64, Options::sigmoid(1).groups(64, 1))), "groups");
    assert_eq!(wrong(refused(64, Options::sigmoid(1).groups(4, 5))), "groups");
    assert_eq!(wrong(refused(64, Options::sigmoid(1).groups(4, 0))), "groups");
    assert_eq!(wrong(refused(64, Options::sigmoid(1).groups(0, 0))), "groups");
    assert_eq!(wrong(refused(64, Options::sigmoid(1).sms(0))), "sms");

    let plan = Plan::new(&device, Shape::new(4, 64), Options::sigmoid(2)).unwrap();
    let logits = device.alloc::<f32>(5 * 64).unwrap();
    let bias = device.alloc::<f32>(64).unwrap();
    let mut idx = device.alloc::<i32>(32).unwrap();
    let mut weight = device.alloc::<f32>(32).unwrap();
    let mut counts = device.alloc::<i32>(64).unwrap();
    let mut run = |tokens: usize, k: usize, idx_pitch: usize, listed: usize| {
        let args = Args::new(
            logits.matrix(tokens, 64).unwrap(),
            idx.view_mut(0, [4, k], [idx_pitch, 1]).unwrap(),
            weight.matrix_mut(4, 2).unwrap(),
        );
        let args = args.bias(bias.matrix(1, listed).unwrap()).counts(counts.matrix_mut(1, listed).unwrap());
        match plan.run(&stream, args).unwrap_err() {
            Error::Shape { argument, .. } => ("shape", argument),
            Error::Stride { argument, .. } => ("stride", argument),
            other => panic!("{other}"),
        }
    };
    assert_eq!(run(5, 2, 2, 64), ("shape", "logits"));
    assert_eq!(run(4, 3, 3, 64), ("shape", "topk_idx"));
    assert_eq!(run(4, 2, 4, 64), ("stride", "topk_idx"));
    assert_eq!(run(4, 2, 2, 63), ("shape", "bias"));
    let twice = Args::new(
        logits.matrix(4, 64).unwrap(),
        idx.matrix_mut(4, 2).unwrap(),
        // SAFETY: never launched: the plan has to refuse it.
        unsafe { hadal::MatrixMut::from_raw(&device, hadal::DType::F32, logits.address(), [4, 2], [2, 1]) },
    );
    assert!(matches!(plan.run(&stream, twice), Err(Error::Overlap { argument: "topk_weight", .. })));
    if let Some(emulated) = device.emulated() {
        assert_eq!(emulated.counters().launches, 0);
    }
}

fn a_case() -> impl Strategy<Value = (Case, usize)> {
    let shape = prop_oneof![
        (1usize..513).prop_map(|experts| (experts, 1)),
        (2usize..17, 1usize..33).prop_map(|(size, groups)| (size * groups, groups)),
    ];
    let flags = any::<[bool; 5]>();
    (0usize..12, shape, 1usize..33, 1usize..33, flags, 0usize..3, any::<u64>()).prop_map(
        |(tokens, (experts, groups), kept, k, [softmax, bias, ties, hostile, normalize], gap, seed)| {
            let kept = kept.min(groups);
            let k = k.min(kept * (experts / groups));
            let options = if softmax { Options::softmax(k) } else { Options::sigmoid(k) };
            let options = options.groups(groups, kept).normalize(normalize).scale(1.5);
            (Case { tokens, experts, options, bias, ties, hostile, gap, seed }, k)
        },
    )
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_choice_is_the_reference_s((case, k) in a_case(), machine in machines()) {
        let (device, stream) = device_on(machine);
        check(&device, &stream, &case, k);
    }
}
