//! What MLA decoding and the cache writer refuse, and in which words.

use hadal::mla::{Args, HEAD, LATENT, Options, Plan, Shape, cache};
use hadal::{DType, Device, Error, Stream};

use crate::support::Recorder;
use crate::support::operands::{Operand, parts, recorders};

/// Variant and argument of an error about an argument, and what it says.
fn about(error: Error) -> (&'static str, &'static str, String) {
    let (variant, argument, ..) = parts(&error);
    (variant, argument, error.to_string())
}

const NAMES: [&str; 7] = ["q", "cache", "block_table", "cache_seqlens", "out", "lse", "workspace"];

fn operands() -> [Operand; 7] {
    [
        Operand::new(DType::BF16, 0x10_0000, [2 * 3 * 4, HEAD]),
        Operand::new(DType::BF16, 0x20_0000, [10 * 64, HEAD]),
        Operand::new(DType::I32, 0x40_0000, [2, 5]),
        Operand::new(DType::I32, 0x41_0000, [1, 2]),
        Operand::new(DType::BF16, 0x42_0000, [2 * 3 * 4, LATENT]),
        Operand::new(DType::F32, 0x44_0000, [2 * 3, 4]),
        Operand::new(DType::U8, 0x50_0000, [1, 4 * 64 * 513 * 4 * 6]),
    ]
}

fn run(devices: &[Device], stream: &Stream, operands: &[Operand; 7]) -> hadal::Result<()> {
    let shape = Shape::new(2, 4, 320).query_tokens(3);
    let plan = Plan::new(&devices[0], shape, Options::new(0.1).sms(12)).unwrap();
    let [q, cache, table, lengths, out, lse, workspace] = operands;
    let args = Args::new(
        q.view(devices),
        cache.view(devices),
        table.view(devices),
        lengths.view(devices),
        out.view_mut(devices),
        lse.view_mut(devices),
    );
    plan.run(stream, args.workspace(workspace.view_mut(devices)))
}

#[test]
fn wrong_operands_are_refused_by_name() {
    let (devices, recorder) = recorders();
    let stream = devices[0].new_stream().unwrap();
    run(&devices, &stream, &operands()).unwrap();
    assert_eq!(recorder.take().iter().filter(|call| *call == "launch").count(), 2);
    let check = |at: usize, spoil: &dyn Fn(&mut Operand), variant: &str, says: &str| {
        let mut operands = operands();
        spoil(&mut operands[at]);
        let (got, argument, text) = about(run(&devices, &stream, &operands).unwrap_err());
        assert_eq!((got, argument), (variant, NAMES[at]), "{text}");
        assert!(text.contains(says), "{text}");
    };
    check(0, &|x| x.shape[0] = 23, "shape", "[24, 576]");
    check(1, &|x| x.shape[0] = 65, "shape", "pages of 64 tokens");
    check(1, &|x| x.shape[0] = 0, "shape", "pages of 64 tokens");
    check(1, &|x| x.shape[1] = LATENT, "shape", "576");
    check(2, &|x| x.shape[0] = 3, "shape", "at most 2");
    check(2, &|x| x.shape[1] = 0, "shape", "at least 1");
    check(3, &|x| x.shape[1] = 3, "shape", "[1, 2]");
    check(4, &|x| x.shape[1] = HEAD, "shape", "[24, 512]");
    check(5, &|x| x.shape = [4, 6], "shape", "[6, 4]");
    check(6, &|x| x.shape[1] = 1000, "workspace", "1000 bytes");
    check(6, &|x| x.shape[0] = 2, "shape", "one row");
    for at in 0..7 {
        check(at, &|x| x.dtype = DType::E4M3, "dtype", "e4m3");
        check(at, &|x| x.device = 1, "device", "recorder:1");
        check(at, &|x| x.device = 2, "device", "another machine");
    }
    for at in [0, 1, 4] {
        check(at, &|x| x.strides[0] += 4, "stride", "multiple of 8 elements");
        check(at, &|x| x.strides[0] = 8, "stride", "row stride of at least");
        check(at, &|x| x.strides[1] = 2, "stride", "row-major");
        check(at, &|x| x.address += 8, "alignment", "multiple of 16");
    }
    check(2, &|x| x.strides[0] = 4, "stride", "at least the 5 columns");
    check(3, &|x| x.strides[1] = 2, "stride", "row-major");
    check(5, &|x| x.strides[0] = 8, "stride", "without gaps");
    for at in [2, 3, 5] {
        check(at, &|x| x.address += 2, "alignment", "multiple of 4");
    }
    check(6, &|x| x.address += 8, "alignment", "multiple of 16");
    for (at, other) in [(4, 0), (4, 1), (5, 2), (5, 3), (5, 4), (6, 0), (6, 1), (6, 4), (6, 5)] {
        check(at, &|x| x.address = operands()[other].address, "overlap", NAMES[other]);
    }
    for at in 0..7 {
        for wild in [usize::MAX, usize::MAX / 2 + 1] {
            let mut operands = operands();
            operands[at] =
                Operand { address: u64::MAX - 15, shape: [wild; 2], strides: [wild; 2], ..operands[at] };
            run(&devices, &stream, &operands).unwrap_err();
        }
    }
    let foreign = devices[1].new_stream().unwrap();
    assert_eq!(about(run(&devices, &foreign, &operands()).unwrap_err()).1, "stream");
    assert!(!recorder.take().contains(&"launch".to_string()), "something wrong was launched");
}

#[test]
fn a_missing_workspace_is_refused() {
    let (devices, _) = recorders();
    let stream = devices[0].new_stream().unwrap();
    let plan = Plan::new(&devices[0], Shape::new(2, 12, 320), Options::new(0.1)).unwrap();
    let [q, cache, table, lengths, out, _, _] = operands();
    let lse = Operand::new(DType::F32, 0x44_0000, [2, 12]);
    let args = Args::new(
        q.view(&devices),
        cache.view(&devices),
        table.view(&devices),
        lengths.view(&devices),
        out.view_mut(&devices),
        lse.view_mut(&devices),
    );
    let (variant, _, text) = about(plan.run(&stream, args).unwrap_err());
    assert_eq!(variant, "workspace", "{text}");
}

#[test]
fn wrong_plans_are_refused_by_name() {
    let (devices, _) = recorders();
    let device = &devices[0];
    let shape = Shape::new(2, 16, 1024);
    let check = |shape, options, variant: &str, argument: &str| {
        let (got, named, text) = about(Plan::new(device, shape, options).unwrap_err());
        assert_eq!((got, named), (variant, argument), "{text}");
    };
    let options = Options::new(0.1);
    check(Shape::new(2, 0, 1024), options, "shape", "shape");
    check(Shape::new(2, 16, 0), options, "shape", "shape");
    check(shape.page(0), options, "shape", "shape");
    check(shape.query_tokens(0), options, "shape", "shape");
    check(Shape::new(usize::MAX, 16, 1024), options, "shape", "shape");
    check(Shape::new(2, usize::MAX / 2, 1024), options, "shape", "shape");
    check(Shape::new(1 << 20, 1 << 20, 1024), options, "shape", "shape");
    check(Shape::new(1 << 20, 1, 1 << 20), options, "shape", "shape");
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        check(shape, Options::new(scale), "option", "softmax_scale");
    }
    for sms in [0, 133] {
        check(shape, options.sms(sms), "option", "sms");
    }
    for split in [0, 64, 100, usize::MAX] {
        check(shape, options.batch_invariant(true).split_tokens(split), "option", "split_tokens");
    }
    let old = Device::from_driver(Recorder::new((8, 0)), 0).unwrap();
    assert!(matches!(Plan::new(&old, shape, options), Err(Error::Unsupported { .. })));
}

#[test]
fn wrong_appends_are_refused_by_name() {
    let (devices, recorder) = recorders();
    let stream = devices[0].new_stream().unwrap();
    const NAMES: [&str; 6] = ["latent", "rope", "cache", "slots", "block_table", "cache_seqlens"];
    let operands = || {
        [
            Operand::new(DType::BF16, 0x10_0000, [6, LATENT]),
            Operand::new(DType::BF16, 0x11_0000, [6, HEAD - LATENT]),
            Operand::new(DType::BF16, 0x20_0000, [10 * 64, HEAD]),
            Operand::new(DType::I32, 0x40_0000, [1, 6]),
            Operand::new(DType::I32, 0x41_0000, [2, 5]),
            Operand::new(DType::I32, 0x42_0000, [1, 2]),
        ]
    };
    let run = |operands: &[Operand; 6], by_table: bool| {
        let plan = cache::Plan::new(&devices[0], cache::Shape::new(6, 64), cache::Options::new()).unwrap();
        let [latent, rope, cached, slots, block_table, cache_seqlens] = operands;
        let place = if by_table {
            let cache_seqlens = cache_seqlens.view(&devices);
            cache::Place::Table { block_table: block_table.view(&devices), cache_seqlens }
        } else {
            cache::Place::Slots(slots.view(&devices))
        };
        let args =
            cache::Args::new(latent.view(&devices), rope.view(&devices), place, cached.view_mut(&devices));
        plan.run(&stream, args)
    };
    run(&operands(), true).unwrap();
    run(&operands(), false).unwrap();
    recorder.take();
    let check = |at: usize, spoil: &dyn Fn(&mut Operand), variant: &str| {
        let mut operands = operands();
        spoil(&mut operands[at]);
        let (got, argument, text) = about(run(&operands, at > 3).unwrap_err());
        assert_eq!((got, argument), (variant, NAMES[at]), "{text}");
    };
    check(0, &|x| x.shape[0] = 7, "shape");
    check(1, &|x| x.shape[0] = 5, "shape");
    check(2, &|x| x.shape[0] = 100, "shape");
    check(3, &|x| x.shape[1] = 5, "shape");
    check(4, &|x| x.shape[0] = 4, "shape");
    check(4, &|x| x.shape[0] = 0, "shape");
    check(5, &|x| x.shape[1] = 3, "shape");
    for at in 0..6 {
        check(at, &|x| x.dtype = DType::U8, "dtype");
        check(at, &|x| x.device = 1, "device");
        check(at, &|x| x.address += 2, "alignment");
    }
    for at in 0..3 {
        check(at, &|x| x.strides[0] += 4, "stride");
    }
    for other in [0, 1, 3] {
        let mut operands = operands();
        operands[2].address = operands[other].address;
        assert_eq!(about(run(&operands, false).unwrap_err()).1, "cache");
    }
    assert!(!recorder.take().contains(&"launch".to_string()), "something wrong was launched");
    let refused = |shape, options| about(cache::Plan::new(&devices[0], shape, options).unwrap_err()).1;
    assert_eq!(refused(cache::Shape::new(6, 0), cache::Options::new()), "shape");
    assert_eq!(refused(cache::Shape::new(usize::MAX, 64), cache::Options::new()), "shape");
    assert_eq!(refused(cache::Shape::new(6, 64), cache::Options::new().sms(0)), "sms");
}
