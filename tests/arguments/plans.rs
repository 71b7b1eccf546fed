//! Plans for sizes that nobody has: an error about an argument, or a plan that can say what it wants.

use hadal::comm::{Partition, Window};
use hadal::moe::{balance, exchange, gate, group_ends, swiglu};
use hadal::{DType, Device, Error, Result, gemm, mla, quant};

use crate::support::Random;
use crate::support::operands::{parts, recorders, refused};

/// Sizes around every limit there is.
fn size(random: &mut Random) -> usize {
    let near =
        |bit: usize, random: &mut Random| (1usize << bit).wrapping_add(random.below(3)).wrapping_sub(1);
    match random.below(6) {
        0 => random.below(4),
        1 => 8 * random.below(40),
        2 => 128 * (1 + random.below(64)),
        3 => usize::MAX - random.below(3) * (usize::MAX / 4),
        4 => i32::MAX as usize / 16 * 16 - 16 * random.below(32),
        _ => {
            let bit = random.below(64);
            near(bit, random)
        }
    }
}

/// What `what` came to, if it was not refused.
fn planned<T>(what: Result<T>, context: &str) -> Option<T> {
    match what {
        Ok(plan) => Some(plan),
        Err(error) => {
            let (_, argument, expected, got) = parts(&error);
            assert!(!argument.is_empty() && !expected.is_empty() && !got.is_empty(), "{context}: {error:?}");
            None
        }
    }
}

/// Plans everything once, at random; counts what was planned, by family.
fn plan_all(device: &Device, window: &Window, random: &mut Random) -> [bool; 9] {
    let sms = [1, 132, 0, 133, u32::MAX][random.below(5)];
    let (a, b, c, d, e) = (size(random), size(random), size(random), size(random), size(random));
    let context = format!("{a} {b} {c} {d} {e}, {sms} SMs");
    let options = gemm::Options::new().sms(sms);
    let dense = planned(gemm::Plan::new(device, gemm::Shape::new(a, b, c), options), &context);
    if let Some(plan) = &dense {
        assert!(plan.explain().to_string().contains(plan.kernel()) && plan.workspace().bytes == 0);
    }
    let grouped = match random.below(2) {
        0 => gemm::GroupedShape::masked(d, a, b, c),
        _ => gemm::GroupedShape::contiguous(d, a, b, c).alignment(e),
    };
    let grouped = planned(gemm::GroupedPlan::new(device, grouped.expected_m(e), options), &context);
    if let Some(plan) = &grouped {
        assert!(plan.explain().to_string().contains(plan.kernel()));
    }
    let weights = quant::Options::weights().sms(sms);
    let quantize = planned(quant::Plan::new(device, quant::Shape::new(a, b), weights), &context);
    let shape = swiglu::Shape::contiguous(d, a, b).alignment(e);
    let swiglu = planned(swiglu::Plan::new(device, shape, swiglu::Options::new().sms(sms)), &context);
    let choice = gate::Options::sigmoid(c).groups(d, e).sms(sms);
    let gate = planned(gate::Plan::new(device, gate::Shape::new(a, b), choice), &context);
    planned(group_ends::Plan::new(device, a), &context);
    let attention = mla::Options::new(0.1)
        .sms(sms)
        .batch_invariant(random.below(2) == 0)
        .split_tokens(128 * (1 + random.below(40)));
    let shape = mla::Shape::new(a, b, c).query_tokens(d % 5).page(e);
    let mla = planned(mla::Plan::new(device, shape, attention), &context);
    if let Some(plan) = &mla {
        assert!(plan.workspace().bytes <= isize::MAX as usize);
    }
    let append = planned(
        mla::cache::Plan::new(device, mla::cache::Shape::new(a, b), mla::cache::Options::new()),
        &context,
    );
    let shape = exchange::Shape::new(a, b, c, d, e);
    let options = exchange::Options::new().alignment(1 + e % 1000).sms(sms);
    planned(exchange::Plan::window_bytes(2, shape, options), &context);
    let exchange = planned(exchange::Plan::new(window, shape, options), &context);
    let options = balance::Options::new().groups(c).nodes(d);
    let balance = planned(balance::Plan::new(balance::Shape::new([e % 3, a], b, c), options), &context);
    planned(Partition::new(device, sms), &context);
    [
        dense.is_some(),
        grouped.is_some(),
        quantize.is_some(),
        swiglu.is_some(),
        gate.is_some(),
        mla.is_some(),
        append.is_some(),
        exchange.is_some(),
        balance.is_some(),
    ]
}

#[test]
fn whatever_size_is_planned_or_refused() {
    let (devices, _) = recorders();
    // SAFETY: the driver behind these devices never follows an address.
    let window = unsafe { Window::from_raw(&devices[0], 0, vec![1 << 62, 2 << 62], 1 << 61) }.unwrap();
    let random = &mut Random(3);
    let mut planned = [0; 9];
    for _ in 0..20_000 {
        for (count, planned) in planned.iter_mut().zip(plan_all(&devices[0], &window, random)) {
            *count += planned as usize;
        }
    }
    assert!(planned.iter().all(|count| *count > 0), "hardly anything was planned: {planned:?}");
}

/// Products of sizes that each are small enough.
#[test]
fn sizes_that_are_too_large_together_are_refused() {
    let (devices, _) = recorders();
    let device = &devices[0];
    let options = gemm::Options::new();
    // As large as the kernels can count: the cost is more than a number holds, and the plan stands.
    let wide = gemm::GroupedShape::contiguous(512, 1 << 28, 8, 1 << 30).expected_m(1 << 28);
    gemm::supports_grouped(device, wide, options).unwrap();
    // Ends that fall back would let 512 groups have 2^30 rows each.
    let many = gemm::GroupedShape::contiguous(512, 1 << 30, 8, 16);
    refused(
        gemm::GroupedPlan::new(device, many, options),
        "shape",
        "shape",
        "groups times tiles",
        "512 groups",
    );
    let plan = |shape| swiglu::Plan::new(device, shape, swiglu::Options::new());
    refused(
        plan(swiglu::Shape::contiguous(1024, 1 << 23, 128)),
        "shape",
        "shape",
        "groups times rows",
        "1024 of 8388608",
    );
    // No rows, and more columns than twice can be counted.
    let columns = usize::MAX / 128 * 128;
    refused(plan(swiglu::Shape::contiguous(1, 0, columns)), "shape", "shape", "blocks of 1x128", "[0, ");
    let invariant = mla::Options::new(0.1).batch_invariant(true).split_tokens(128);
    let long = mla::Shape::new(32, 1 << 20, 1 << 22);
    refused(mla::Plan::new(device, long, invariant), "shape", "shape", "pieces of tiles", "16384 tiles");
    for scale in [f32::NAN, f32::INFINITY] {
        let options = gate::Options::sigmoid(1).scale(scale);
        refused(
            gate::Plan::new(device, gate::Shape::new(1, 8), options),
            "option",
            "scale",
            "finite",
            &scale.to_string(),
        );
    }
    let huge = hadal::device::DeviceSpec::Emulator(u32::MAX);
    assert_eq!(Device::open(huge, "").unwrap_err(), Error::NoDevice { ordinal: u32::MAX, count: 8 });
    assert_eq!([0, 1, 4, 5].map(quant::m_major_stride), [0, 4, 4, 8]);
    assert_eq!(quant::m_major_stride(usize::MAX) % 4, 0);
}

/// A weight's scales a gigabyte of elements apart: the kernel is told so.
#[test]
fn strides_are_told_as_they_are() {
    use crate::support::operands::Operand;
    let (devices, recorder) = recorders();
    let stream = devices[0].new_stream().unwrap();
    let plan = gemm::Plan::new(&devices[0], gemm::Shape::new(1, 136, 16), gemm::Options::new()).unwrap();
    let stride = (1 << 30) + 4;
    let args = gemm::Args::new(
        Operand::new(DType::E4M3, 0x10_0000, [1, 16]).view(&devices),
        Operand::new(DType::F32, 0x20_0000, [1, 1]).view(&devices),
        Operand::new(DType::E4M3, 0x30_0000, [136, 16]).view(&devices),
        Operand::new(DType::F32, 0x40_0000, [2, 1]).strides([stride, 1]).view(&devices),
        Operand::new(DType::BF16, 1 << 40, [1, 136]).view_mut(&devices),
    );
    plan.run(&stream, args).unwrap();
    let launches = recorder.launches.lock().unwrap();
    // Four maps of 128 bytes, the scales' address, m, n, k; then it.
    let word = &launches[0].1[532..536];
    assert_eq!(u32::from_le_bytes(word.try_into().unwrap()) as usize, stride);
}
