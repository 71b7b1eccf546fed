//! What the exchange refuses, and in which words.

use hadal::comm::Window;
use hadal::moe::exchange::{self, Combine, Dispatch, Expand, Options, Plan, Shape};
use hadal::{DType, Device, Error, Result, Stream};

use crate::support::Recorder;
use crate::support::operands::{Operand, recorders, refusal};

/// Devices that record, and a window of so many ranks on the first.
fn recorded(ranks: u64, bytes: u64) -> (Vec<Device>, Window) {
    let devices = recorders().0;
    let bases = (1..=ranks).map(|rank| rank << 40).collect();
    // SAFETY: nothing runs on this driver.
    let window = unsafe { Window::from_raw(&devices[0], 0, bases, bytes) }.unwrap();
    (devices, window)
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let shape = Shape::new(16, 4, 256, 10, 20);
    let plan = |ranks: u64, shape: Shape, options: Options| {
        refusal(Plan::new(&recorded(ranks, 1 << 30).1, shape, options).map(drop))
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
    assert_eq!(refusal(exchange::supports(&recorded(2, bytes - 1).1, shape, options)), ("bounds", "window"));
    exchange::supports(&recorded(2, bytes).1, shape, options).unwrap();
    let old = Device::from_driver(Recorder::new((8, 0)), 0).unwrap();
    // SAFETY: nothing runs on this driver.
    let window = unsafe { Window::from_raw(&old, 0, vec![1 << 40], 1 << 30) }.unwrap();
    assert!(matches!(Plan::new(&window, shape, options).map(drop), Err(Error::Unsupported { .. })));
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let shape = Shape::new(16, 4, 256, 10, 20);
    let (devices, window) = recorded(2, 1 << 30);
    let stream = devices[0].default_stream();
    let e4m3 = Plan::new(&window, shape, Options::new().payload(DType::E4M3)).unwrap();
    let bf16 = Plan::new(&window, shape, Options::new()).unwrap();
    let handle = e4m3.handle().bytes;
    let view = |operand: Operand| operand.view(&devices);
    let view_mut = |operand: Operand| operand.view_mut(&devices);
    let dispatch = |a: [Operand; 5]| {
        let args = Dispatch::new(view(a[0]), view(a[1]), view(a[2]), view_mut(a[3])).scales(view(a[4]));
        e4m3.dispatch(&stream, args)
    };
    let good: [Operand; 5] = [
        Operand::new(DType::E4M3, 0x10000, [7, 256]),
        Operand::new(DType::I32, 0x20000, [7, 4]),
        Operand::new(DType::F32, 0x30000, [7, 4]),
        Operand::new(DType::U8, 0x40000, [1, handle]),
        Operand::new(DType::F32, 0x50000, [7, 2]),
    ];
    dispatch(good).unwrap();
    let names = ["x", "topk_idx", "topk_weight", "handle", "scales"];
    let expand = |a: [Operand; 4]| {
        let args = Expand::new(view_mut(a[0]), view_mut(a[1]), view_mut(a[2])).scales(view_mut(a[3]));
        e4m3.expand(&stream, args)
    };
    let wide: [Operand; 4] = [
        Operand::new(DType::E4M3, 0x10000, [64, 256]),
        Operand::new(DType::I32, 0x20000, [1, 64]),
        Operand::new(DType::I32, 0x30000, [1, 8]),
        Operand::new(DType::F32, 0x40000, [64, 2]).strides([1, 64]),
    ];
    expand(wide).unwrap();
    let combine =
        |a: [Operand; 3]| bf16.combine(&stream, Combine::new(view(a[0]), view(a[1]), view_mut(a[2])));
    let back: [Operand; 3] = [
        Operand::new(DType::BF16, 0x10000, [64, 256]),
        Operand::new(DType::U8, 0x40000, [1, handle]),
        Operand::new(DType::BF16, 0x50000, [7, 256]),
    ];
    combine(back).unwrap();

    /// What is wrong with one argument, and the variant that says so.
    type Wrong = (&'static str, fn(&mut Operand));
    let wrongs: [Wrong; 5] = [
        ("dtype", |a| a.dtype = DType::F16),
        ("device", |a| a.device = 1),
        ("alignment", |a| a.address += a.dtype.size() as u64 / 2 + (a.dtype.size() == 1) as u64),
        ("shape", |a| a.shape[1] += 1),
        ("overlap", |a| a.address = 1 << 40),
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
    args[0].shape[0] = 11;
    assert_eq!(refusal(dispatch(args)), ("shape", "x"));
    args = good;
    args[0].strides = [264, 1];
    assert_eq!(refusal(dispatch(args)), ("stride", "x"));
    args = good;
    args[1].strides = [8, 1];
    assert_eq!(refusal(dispatch(args)), ("stride", "topk_idx"));
    args = good;
    args[3].address = args[2].address;
    assert_eq!(refusal(dispatch(args)), ("overlap", "handle"));
    let mut args = back;
    args[2].shape[0] = 11;
    assert_eq!(refusal(combine(args)), ("shape", "out"));
    // Scales where there are none, none where there are some, and a stream of another device.
    let bare = |plan: &Plan, x: DType, scales: bool, stream: &Stream| {
        let args = Dispatch::new(
            view(Operand { dtype: x, ..good[0] }),
            view(good[1]),
            view(good[2]),
            view_mut(good[3]),
        );
        plan.dispatch(stream, if scales { args.scales(view(good[4])) } else { args })
    };
    assert_eq!(refusal(bare(&e4m3, DType::E4M3, false, &stream)), ("shape", "scales"));
    assert_eq!(refusal(bare(&bf16, DType::BF16, true, &stream)), ("shape", "scales"));
    assert_eq!(refusal(bare(&bf16, DType::BF16, false, &devices[1].default_stream())), ("device", "stream"));
    bare(&bf16, DType::BF16, false, &stream).unwrap();
    // Each half by itself.
    let halves = |shape: [usize; 2], stream: &Stream| {
        let args = Dispatch::new(
            view(Operand::new(DType::BF16, good[0].address, shape)),
            view(good[1]),
            view(good[2]),
            view_mut(good[3]),
        );
        let back =
            Combine::new(view(back[0]), view(back[1]), view_mut(Operand::new(DType::BF16, 0x50000, shape)));
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
    let elsewhere = halves([7, 256], &devices[1].default_stream()).map(refusal);
    assert_eq!(elsewhere, [("device", "stream"); 4]);
    assert_eq!(refusal(bf16.status(&devices[1].default_stream())), ("device", "stream"));
    assert_eq!(refusal(bf16.clear_status(&devices[1].default_stream())), ("device", "stream"));
}
