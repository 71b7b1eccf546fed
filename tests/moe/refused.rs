//! What the exchange refuses, and in which words.

use hadal::comm::Window;
use hadal::moe::exchange::{self, Combine, Dispatch, Expand, Options, Plan, Shape};
use hadal::{DType, Device, Error, Matrix, MatrixMut, Result, Stream};

use crate::support::Recorder;

/// The variant of an error about an argument, and the argument.
fn refusal<T: std::fmt::Debug>(result: Result<T>) -> (&'static str, &'static str) {
    match result.unwrap_err() {
        Error::Shape { argument, .. } => ("shape", argument),
        Error::Stride { argument, .. } => ("stride", argument),
        Error::Alignment { argument, .. } => ("alignment", argument),
        Error::Dtype { argument, .. } => ("dtype", argument),
        Error::Device { argument, .. } => ("device", argument),
        Error::Overlap { argument, .. } => ("overlap", argument),
        Error::Bounds { argument, .. } => ("bounds", argument),
        Error::Option { argument, .. } => ("option", argument),
        other => panic!("not about an argument: {other:?}"),
    }
}

/// A device that records, its sibling, and a window of so many ranks on it.
fn recorded(ranks: u64, bytes: u64) -> (Device, Device, Window) {
    let device = Device::from_driver(Recorder::new((9, 0)), 0).unwrap();
    let bases = (1..=ranks).map(|rank| rank << 40).collect();
    // SAFETY: nothing runs on this driver.
    let window = unsafe { Window::from_raw(&device, 0, bases, bytes) }.unwrap();
    let other = device.sibling(1).unwrap();
    (device, other, window)
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let shape = Shape::new(16, 4, 256, 10, 20);
    let plan = |ranks: u64, shape: Shape, options: Options| {
        refusal(Plan::new(&recorded(ranks, 1 << 30).2, shape, options).map(drop))
    };
    let options = Options::new();
    assert_eq!(plan(9, Shape::new(18, 4, 256, 10, 20), options), ("shape", "window"));
    assert_eq!(plan(3, shape, options), ("shape", "shape"));
    for wrong in [
        Shape::new(0, 4, 256, 10, 20),
        Shape::new(514, 4, 256, 10, 20),
        Shape::new(16, 0, 256, 10, 20),
        Shape::new(16, 33, 256, 10, 20),
        Shape::new(16, 4, 0, 10, 20),
        Shape::new(16, 4, 264, 10, 20),
        Shape::new(16, 4, 1 << 21, 10, 20),
        Shape::new(16, 4, 256, usize::MAX, 20),
        Shape::new(16, 4, 256, 10, 0),
        Shape::new(16, 4, 256, 10, usize::MAX),
    ] {
        assert_eq!(plan(2, wrong, options), ("shape", "shape"), "{wrong:?}");
    }
    assert_eq!(plan(2, shape, options.payload(DType::F32)), ("dtype", "payload"));
    assert_eq!(plan(2, shape, options.alignment(0)), ("option", "alignment"));
    assert_eq!(plan(2, shape, options.sms(0)), ("option", "sms"));
    assert_eq!(plan(2, shape, options.sms(133)), ("option", "sms"));
    assert_eq!(plan(2, shape, options.patience(0)), ("option", "patience"));
    let bytes = Plan::window_bytes(2, shape, options).unwrap() as u64;
    assert_eq!(refusal(exchange::supports(&recorded(2, bytes - 1).2, shape, options)), ("bounds", "window"));
    exchange::supports(&recorded(2, bytes).2, shape, options).unwrap();
    let old = Device::from_driver(Recorder::new((8, 0)), 0).unwrap();
    // SAFETY: nothing runs on this driver.
    let window = unsafe { Window::from_raw(&old, 0, vec![1 << 40], 1 << 30) }.unwrap();
    assert!(matches!(Plan::new(&window, shape, options).map(drop), Err(Error::Unsupported { .. })));
}

/// An argument, to be spoiled: type, address, shape, strides, device.
type Spoiled = (DType, u64, [usize; 2], [usize; 2], u8);

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let shape = Shape::new(16, 4, 256, 10, 20);
    let (device, other, window) = recorded(2, 1 << 30);
    let stream = device.default_stream();
    let e4m3 = Plan::new(&window, shape, Options::new().payload(DType::E4M3)).unwrap();
    let bf16 = Plan::new(&window, shape, Options::new()).unwrap();
    let handle = e4m3.handle().bytes;
    // SAFETY: nothing runs on this driver.
    let view = |(dtype, at, shape, strides, on): Spoiled| unsafe {
        Matrix::from_raw(if on == 0 { &device } else { &other }, dtype, at, shape, strides)
    };
    // SAFETY: as above.
    let view_mut = |(dtype, at, shape, strides, on): Spoiled| unsafe {
        MatrixMut::from_raw(if on == 0 { &device } else { &other }, dtype, at, shape, strides)
    };
    let dispatch = |a: [Spoiled; 5]| {
        let args = Dispatch::new(view(a[0]), view(a[1]), view(a[2]), view_mut(a[3])).scales(view(a[4]));
        e4m3.dispatch(&stream, args)
    };
    let good: [Spoiled; 5] = [
        (DType::E4M3, 0x10000, [7, 256], [256, 1], 0),
        (DType::I32, 0x20000, [7, 4], [4, 1], 0),
        (DType::F32, 0x30000, [7, 4], [4, 1], 0),
        (DType::U8, 0x40000, [1, handle], [handle, 1], 0),
        (DType::F32, 0x50000, [7, 2], [2, 1], 0),
    ];
    dispatch(good).unwrap();
    let names = ["x", "topk_idx", "topk_weight", "handle", "scales"];
    let expand = |a: [Spoiled; 4]| {
        let args = Expand::new(view_mut(a[0]), view_mut(a[1]), view_mut(a[2])).scales(view_mut(a[3]));
        e4m3.expand(&stream, args)
    };
    let wide: [Spoiled; 4] = [
        (DType::E4M3, 0x10000, [64, 256], [256, 1], 0),
        (DType::I32, 0x20000, [1, 64], [64, 1], 0),
        (DType::I32, 0x30000, [1, 8], [8, 1], 0),
        (DType::F32, 0x40000, [64, 2], [1, 64], 0),
    ];
    expand(wide).unwrap();
    let combine =
        |a: [Spoiled; 3]| bf16.combine(&stream, Combine::new(view(a[0]), view(a[1]), view_mut(a[2])));
    let back: [Spoiled; 3] = [
        (DType::BF16, 0x10000, [64, 256], [256, 1], 0),
        (DType::U8, 0x40000, [1, handle], [handle, 1], 0),
        (DType::BF16, 0x50000, [7, 256], [256, 1], 0),
    ];
    combine(back).unwrap();

    /// What is wrong with one argument, and the variant that says so.
    type Wrong = (&'static str, fn(&mut Spoiled));
    let wrongs: [Wrong; 5] = [
        ("dtype", |a| a.0 = DType::F16),
        ("device", |a| a.4 = 1),
        ("alignment", |a| a.1 += a.0.size() as u64 / 2 + (a.0.size() == 1) as u64),
        ("shape", |a| a.2[1] += 1),
        ("overlap", |a| a.1 = 1 << 40),
    ];
    for (variant, spoil) in wrongs {
        for (at, name) in names.iter().enumerate() {
            let mut args = good;
            spoil(&mut args[at]);
            assert_eq!(refusal(dispatch(args)), (variant, *name));
        }
        for (at, name) in ["x", "map", "ends", "scales"].iter().enumerate() {
            let mut args = wide;
            spoil(&mut args[at]);
            assert_eq!(refusal(expand(args)), (variant, *name));
        }
        for (at, name) in ["y", "handle", "out"].iter().enumerate() {
            let mut args = back;
            spoil(&mut args[at]);
            assert_eq!(refusal(combine(args)), (variant, *name));
        }
    }
    let mut args = good;
    args[0].2[0] = 11;
    assert_eq!(refusal(dispatch(args)), ("shape", "x"));
    args = good;
    args[0].3 = [264, 1];
    assert_eq!(refusal(dispatch(args)), ("stride", "x"));
    args = good;
    args[1].3 = [8, 1];
    assert_eq!(refusal(dispatch(args)), ("stride", "topk_idx"));
    args = good;
    args[3].1 = args[2].1;
    assert_eq!(refusal(dispatch(args)), ("overlap", "handle"));
    let mut args = back;
    args[2].2[0] = 11;
    assert_eq!(refusal(combine(args)), ("shape", "out"));
    // Scales where there are none, none where there are some, and a stream of another device.
    let bare = |plan: &Plan, x: DType, scales: bool, stream: &Stream| {
        let args = Dispatch::new(
            view((x, good[0].1, good[0].2, good[0].3, 0)),
            view(good[1]),
            view(good[2]),
            view_mut(good[3]),
        );
        plan.dispatch(stream, if scales { args.scales(view(good[4])) } else { args })
    };
    assert_eq!(refusal(bare(&e4m3, DType::E4M3, false, &stream)), ("shape", "scales"));
    assert_eq!(refusal(bare(&bf16, DType::BF16, true, &stream)), ("shape", "scales"));
    assert_eq!(refusal(bare(&bf16, DType::BF16, false, &other.default_stream())), ("device", "stream"));
    bare(&bf16, DType::BF16, false, &stream).unwrap();
    // Each half by itself.
    let halves = |shape: [usize; 2], stream: &Stream| {
        let args = Dispatch::new(
            view((DType::BF16, good[0].1, shape, [shape[1], 1], 0)),
            view(good[1]),
            view(good[2]),
            view_mut(good[3]),
        );
        let back = Combine::new(
            view(back[0]),
            view(back[1]),
            view_mut((DType::BF16, 0x50000, shape, [shape[1], 1], 0)),
        );
        [
            bf16.announce(stream, &args),
            bf16.send(stream, &args),
            bf16.reduce(stream, &back),
            bf16.gather(stream, &back),
        ]
    };
    assert!(halves([7, 256], &stream).iter().all(Result::is_ok));
    let wide = halves([7, 272], &stream).map(refusal);
    assert_eq!(wide, [("shape", "x"), ("shape", "x"), ("shape", "out"), ("shape", "out")]);
    let elsewhere = halves([7, 256], &other.default_stream()).map(refusal);
    assert_eq!(elsewhere, [("device", "stream"); 4]);
    assert_eq!(refusal(bf16.status(&other.default_stream())), ("device", "stream"));
    assert_eq!(refusal(bf16.clear_status(&other.default_stream())), ("device", "stream"));
}
