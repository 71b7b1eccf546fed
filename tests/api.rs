//! What the API says to a caller who is wrong, and what it asks of a driver when the caller is right.
//!
//! Every refusal names the argument, what was expected and what came, and happens before anything is launched. Most of
//! this runs on a driver that only records; the rest on the emulator.

#![cfg(feature = "emulator")]

mod support;

use std::process::Command;
use std::sync::Arc;

use hadal::device::driver::RawStream;
use hadal::{DType, Device, E4M3, Error, Matrix, Stream, bf16, gemm, quant};
use support::Recorder;
use support::operands::{Operand, recorders, refused};

/// A device that records, and its recorder.
fn recorder() -> (Device, Arc<Recorder>) {
    let recorder = Recorder::new((9, 0));
    (Device::from_driver(recorder.clone(), 0).unwrap(), recorder)
}

const M: usize = 65;
const N: usize = 136;
const K: usize = 272;

/// The right operands of a GEMM: a, a_scales, weight, weight_scale_inv, out, workspace.
fn gemm_operands() -> [Operand; 6] {
    let operand = |dtype, address, shape, strides| Operand::new(dtype, address, shape).strides(strides);
    [
        operand(DType::E4M3, 0x100000, [M, K], [K, 1]),
        operand(DType::F32, 0x200000, [M, 3], [1, 68]),
        operand(DType::E4M3, 0x300000, [N, K], [K, 1]),
        operand(DType::F32, 0x400004, [2, 3], [3, 1]),
        operand(DType::BF16, 0x500000, [M, N], [N, 1]),
        operand(DType::U8, 0x600000, [1, 64], [64, 1]),
    ]
}

fn run_gemm(devices: &[Device], stream: &Stream, operands: &[Operand; 6]) -> hadal::Result<()> {
    let plan = gemm::Plan::new(&devices[0], gemm::Shape::new(M, N, K), gemm::Options::new())?;
    let [a, a_scales, weight, weight_scale_inv, out, workspace] = operands;
    let args = gemm::Args::new(
        a.view(devices),
        a_scales.view(devices),
        weight.view(devices),
        weight_scale_inv.view(devices),
        out.view_mut(devices),
    );
    plan.run(stream, args.workspace(workspace.view_mut(devices)))
}

#[test]
fn a_gemm_is_one_launch_and_nothing_else() {
    let (device, recorder) = recorder();
    let stream = device.new_stream().unwrap();
    recorder.take();
    let devices = [device];
    run_gemm(&devices, &stream, &gemm_operands()).unwrap();
    let calls = recorder.take();
    assert!(calls[0].starts_with("load hadal_gemm_e4m3_bf16_dense_"), "{calls:?}");
    run_gemm(&devices, &stream, &gemm_operands()).unwrap();
    // The second plan finds its kernel loaded; describing tiles is host work.
    assert_eq!(recorder.take(), ["map a", "map weight", "map a_scales", "map out", "launch"]);

    let maps = recorder.maps.lock().unwrap();
    assert_eq!(maps[0].dims(), [K as u64, M as u64]);
    assert_eq!(maps[2].dims(), [M as u64, 3]);
    assert_eq!(maps[2].strides(), [68 * 4]);
    assert_eq!((maps[3].strides(), maps[3].tile()), (&[2 * N as u64][..], &[64, 64][..]));
    let launches = recorder.launches.lock().unwrap();
    let (config, params) = &launches[1];
    assert_eq!(config.stream, RawStream(5));
    let word = |at: usize| u32::from_le_bytes(params[at..at + 4].try_into().unwrap());
    // Four maps of 128 bytes, the scales' address, then m, n, k and the stride of the scales.
    assert_eq!(
        (word(512), word(520), word(524), word(528), word(532)),
        (0x400004, M as u32, N as u32, K as u32, 3)
    );
    assert_eq!(params.len(), 540);
}

#[test]
fn a_gemm_without_rows_launches_nothing() {
    let (device, recorder) = recorder();
    let stream = device.new_stream().unwrap();
    let mut operands = gemm_operands();
    for at in [0, 1, 4] {
        operands[at].shape[0] = 0;
    }
    let devices = [device];
    run_gemm(&devices, &stream, &operands).unwrap();
    assert!(!recorder.take().contains(&"launch".to_string()));
}

#[test]
fn wrong_gemm_operands_are_refused_by_name() {
    let (devices, recorder) = recorders();
    let stream = devices[0].new_stream().unwrap();
    const NAMES: [&str; 6] = ["a", "a_scales", "weight", "weight_scale_inv", "out", "workspace"];
    let check = |at: usize, spoil: &dyn Fn(&mut Operand), variant: &str, expected: &str, got: &str| {
        let mut operands = gemm_operands();
        spoil(&mut operands[at]);
        refused(run_gemm(&devices, &stream, &operands), variant, NAMES[at], expected, got);
    };
    // Shapes.
    check(0, &|x| x.shape = [M + 1, K], "shape", "at most 65", "[66, 272]");
    check(0, &|x| x.shape = [M, K - 16], "shape", "272", "[65, 256]");
    check(1, &|x| x.shape = [M, 2], "shape", "[65, 3]", "[65, 2]");
    check(1, &|x| x.shape = [3, M], "shape", "[M, ⌈K/128⌉]", "[3, 65]");
    check(2, &|x| x.shape = [K, N], "shape", "[136, 272]", "[272, 136]");
    check(3, &|x| x.shape = [1, 3], "shape", "[2, 3]", "[1, 3]");
    check(4, &|x| x.shape = [M - 1, N], "shape", "[65, 136]", "[64, 136]");
    check(5, &|x| x.shape = [2, 8], "shape", "one row", "[2, 8]");
    // Element types.
    for (at, dtype, expected) in [
        (0, DType::BF16, "e4m3"),
        (1, DType::BF16, "f32"),
        (2, DType::U8, "e4m3"),
        (3, DType::E4M3, "f32"),
        (4, DType::F32, "bf16"),
        (5, DType::F32, "u8"),
    ] {
        check(at, &|x| x.dtype = dtype, "dtype", expected, dtype.name());
    }
    // Devices: another of the same driver, and one of the same name on another driver.
    for at in 0..6 {
        check(at, &|x| x.device = 1, "device", "recorder:0", "recorder:1");
        check(at, &|x| x.device = 2, "device", "recorder:0", "another machine");
    }
    // Strides.
    for at in [0, 2] {
        check(at, &|x| x.strides = [K + 8, 1], "stride", "multiple of 16 elements (16 bytes)", "[280, 1]");
        check(at, &|x| x.strides = [K - 16, 1], "stride", "at least the 272 columns", "[256, 1]");
        check(at, &|x| x.strides = [1, K], "stride", "row-major", "[1, 272]");
        check(at, &|x| x.strides = [1 << 41, 1], "stride", "below 2^40", "2199023255552");
    }
    check(4, &|x| x.strides = [N + 4, 1], "stride", "multiple of 8 elements (16 bytes)", "[140, 1]");
    check(4, &|x| x.strides = [0, 1], "stride", "at least the 136 columns", "[0, 1]");
    check(1, &|x| x.strides = [3, 1], "stride", "M-major", "[3, 1]");
    check(1, &|x| x.strides = [1, 66], "stride", "multiple of 4", "[1, 66]");
    check(1, &|x| x.strides = [1, 64], "stride", "at least 65", "[1, 64]");
    check(3, &|x| x.strides = [1, 2], "stride", "row-major", "[1, 2]");
    check(3, &|x| x.strides = [2, 1], "stride", "at least the 3 columns", "[2, 1]");
    check(3, &|x| x.strides = [1 << 33, 1], "stride", "below 2^32", "8589934592");
    // Alignment.
    for at in [0, 1, 2, 4] {
        check(at, &|x| x.address += 8, "alignment", "multiple of 16", "8");
    }
    check(3, &|x| x.address += 2, "alignment", "multiple of 4", "0x400006");
    // Overlap.
    check(4, &|x| x.address = 0x100000, "overlap", "`a`", "0x100000");
    check(4, &|x| x.address = 0x200000 - 16, "overlap", "`a_scales`", "0x1ffff0");
    check(4, &|x| x.address = 0x300000, "overlap", "`weight`", "0x300000");
    check(4, &|x| x.address = 0x400010, "overlap", "`weight_scale_inv`", "0x400010");
    check(5, &|x| x.address = 0x500000, "overlap", "`out`", "0x500000");
    check(5, &|x| x.address = 0x300100, "overlap", "`weight`", "0x300100");
    assert!(!recorder.take().contains(&"launch".to_string()), "something wrong was launched");
    // Numbers that nobody means must not overflow anything.
    for at in 0..6 {
        for wild in [usize::MAX, usize::MAX / 2 + 1] {
            let mut operands = gemm_operands();
            operands[at].shape = [wild, wild];
            operands[at].strides = [wild, wild];
            operands[at].address = u64::MAX - 15;
            run_gemm(&devices, &stream, &operands).unwrap_err();
        }
    }
    // A stream of another device.
    let foreign = devices[1].new_stream().unwrap();
    refused(run_gemm(&devices, &foreign, &gemm_operands()), "device", "stream", "recorder:0", "recorder:1");
}

#[test]
fn rows_of_one_matrix_may_interleave() {
    let (device, _) = recorder();
    let stream = device.new_stream().unwrap();
    // A and a narrow D as column slices of one allocation with rows of 1024 bytes.
    let mut operands = gemm_operands();
    operands[0].strides = [1024, 1];
    operands[4].address = operands[0].address + 512;
    operands[4].strides = [512, 1];
    run_gemm(&[device], &stream, &operands).unwrap();
}

#[test]
fn wrong_gemm_plans_are_refused_by_name() {
    let (device, _) = recorder();
    let plan = |m, n, k, options| gemm::Plan::new(&device, gemm::Shape::new(m, n, k), options);
    let options = gemm::Options::new;
    refused(plan(1, 12, 128, options()), "shape", "shape", "N a multiple of 8", "N = 12");
    refused(plan(1, 0, 128, options()), "shape", "shape", "N a multiple of 8 from 8", "N = 0");
    refused(plan(1, 8, 120, options()), "shape", "shape", "K a multiple of 16", "K = 120");
    refused(plan(1, 8, 0, options()), "shape", "shape", "from 16", "K = 0");
    refused(plan(usize::MAX, 8, 128, options()), "shape", "shape", "M", "M = 18446744073709551615");
    refused(plan(1 << 30, 1 << 30, 128, options()), "shape", "shape", "tiles", "M = 1073741824");
    refused(plan(1, 8, 128, options().sms(0)), "option", "sms", "1 to 132", "0");
    refused(plan(1, 8, 128, options().sms(133)), "option", "sms", "1 to 132", "133");
    refused(plan(1, 8, 128, options().tile(96, 64)), "option", "tile", "64x64", "96x64");
    let f32_large = options().output(DType::F32).tile(256, 128);
    refused(plan(1, 8, 128, f32_large), "option", "tile", "for f32 output", "256x128");
    refused(plan(1, 8, 128, options().output(DType::F16)), "dtype", "out", "bf16 or f32", "f16");
    let shape = gemm::Shape::new(1, 12, 128);
    refused(gemm::supports(&device, shape, options()), "shape", "shape", "multiple of 8", "12");
    gemm::supports(&device, gemm::Shape::new(0, 8, 16), options()).unwrap();
}

#[test]
fn a_gpu_without_kernels_is_unsupported_and_says_so() {
    let device = Device::from_driver(Recorder::new((8, 0)), 0).unwrap();
    let error = gemm::Plan::new(&device, gemm::Shape::new(1, 8, 16), gemm::Options::new()).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { why, .. } if why.contains("8.0")), "{error}");
    let error = quant::supports(&device, quant::Shape::new(1, 1), quant::Options::weights()).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { why, .. } if why.contains("8.0")), "{error}");
    let error = Device::from_driver(Recorder::new((9, 0)), 2).unwrap_err();
    assert_eq!(error, Error::NoDevice { ordinal: 2, count: 2 });
}

const ROWS: usize = 5;
const COLS: usize = 300;

/// The right operands of a quantisation: x, q, scales, workspace.
fn quant_operands() -> [Operand; 4] {
    let operand = |dtype, address, shape, strides| Operand::new(dtype, address, shape).strides(strides);
    [
        operand(DType::BF16, 0x100002, [ROWS, COLS], [COLS + 1, 1]),
        operand(DType::E4M3, 0x200001, [ROWS, COLS], [COLS + 3, 1]),
        operand(DType::F32, 0x300004, [ROWS, 3], [1, 8]),
        operand(DType::U8, 0x600000, [1, 0], [0, 1]),
    ]
}

fn run_quant(devices: &[Device], stream: &Stream, operands: &[Operand; 4]) -> hadal::Result<()> {
    let plan = quant::Plan::new(&devices[0], quant::Shape::new(ROWS, COLS), quant::Options::activations())?;
    let [x, q, scales, workspace] = operands;
    let args = quant::Args::new(x.view(devices), q.view_mut(devices), scales.view_mut(devices));
    plan.run(stream, args.workspace(workspace.view_mut(devices)))
}

#[test]
fn wrong_quantisations_are_refused_by_name() {
    let (devices, recorder) = recorders();
    let stream = devices[0].new_stream().unwrap();
    run_quant(&devices, &stream, &quant_operands()).unwrap();
    run_quant(&devices, &stream, &quant_operands()).unwrap();
    assert_eq!(recorder.take().split_off(4), ["launch"], "one load, two launches");
    const NAMES: [&str; 4] = ["x", "q", "scales", "workspace"];
    let check = |at: usize, spoil: &dyn Fn(&mut Operand), variant: &str, expected: &str, got: &str| {
        let mut operands = quant_operands();
        spoil(&mut operands[at]);
        refused(run_quant(&devices, &stream, &operands), variant, NAMES[at], expected, got);
    };
    check(0, &|x| x.shape = [6, COLS], "shape", "at most 5", "[6, 300]");
    check(0, &|x| x.shape = [ROWS, 301], "shape", "300", "[5, 301]");
    check(1, &|x| x.shape = [4, COLS], "shape", "[5, 300]", "[4, 300]");
    check(2, &|x| x.shape = [ROWS, 2], "shape", "[5, 3]", "[5, 2]");
    check(0, &|x| x.dtype = DType::F32, "dtype", "bf16", "f32");
    check(1, &|x| x.dtype = DType::U8, "dtype", "e4m3", "u8");
    check(2, &|x| x.dtype = DType::BF16, "dtype", "f32", "bf16");
    for at in 0..4 {
        check(at, &|x| x.device = 1, "device", "recorder:0", "recorder:1");
        check(at, &|x| x.device = 2, "device", "recorder:0", "another machine");
    }
    check(0, &|x| x.strides = [COLS - 1, 1], "stride", "at least the 300 columns", "[299, 1]");
    check(1, &|x| x.strides = [COLS, 2], "stride", "row-major", "[300, 2]");
    check(2, &|x| x.strides = [2, 1], "stride", "[at least 3, 1] or [1, at least 5]", "[2, 1]");
    check(2, &|x| x.strides = [1, 4], "stride", "[1, at least 5]", "[1, 4]");
    check(0, &|x| x.address += 1, "alignment", "multiple of 2", "0x100003");
    check(2, &|x| x.address += 2, "alignment", "multiple of 4", "0x300006");
    check(1, &|x| x.address = 0x100100, "overlap", "`x`", "0x100100");
    check(2, &|x| x.address = 0x100100, "overlap", "`x`", "0x100100");
    check(2, &|x| x.address = 0x200100, "overlap", "`q`", "0x200100");
    assert!(!recorder.take().contains(&"launch".to_string()), "something wrong was launched");

    let plan = |rows, cols, options| quant::Plan::new(&devices[0], quant::Shape::new(rows, cols), options);
    let options = quant::Options::activations();
    refused(plan(1, 1, options.input(DType::E4M3)), "dtype", "x", "bf16, f16 or f32", "e4m3");
    refused(plan(1, 1, options.sms(133)), "option", "sms", "1 to 132", "133");
    refused(plan(1 << 20, 1 << 20, options), "shape", "shape", "groups", "8589934592 groups");
    refused(plan(usize::MAX, usize::MAX, options), "shape", "shape", "rows", "18446744073709551615");
}

#[test]
fn buffers_and_views_check_their_bounds() {
    let device = Device::emulator().unwrap();
    let stream = device.new_stream().unwrap();
    let mut buffer = device.upload(&stream, &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    refused(buffer.matrix(2, 4), "bounds", "view", "6 elements", "[2, 4]");
    refused(buffer.view(1, [2, 3], [3, 1]), "bounds", "view", "6 elements", "from element 1");
    refused(
        buffer.view(0, [usize::MAX, 2], [usize::MAX, 1]),
        "bounds",
        "view",
        "6",
        "[18446744073709551615, 2]",
    );
    refused(buffer.copy_from_host(&stream, &[0.0; 5]), "bounds", "values", "6", "5");
    refused(buffer.copy_to_host(&stream, &mut [0.0; 7]), "bounds", "values", "6", "7");
    refused(buffer.split_mut([(0..3, 1, 3), (2..6, 2, 2)]), "bounds", "parts", "ascending", "2..6");
    refused(buffer.split_mut([(0..3, 2, 2)]), "bounds", "parts", "hold", "[2, 2]");
    // A range that ends before it begins would let the next one begin anew.
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = buffer.split_mut([(0..4, 2, 2), (5..2, 0, 0), (2..4, 1, 2)]);
    refused(backwards, "bounds", "parts", "ascending", "5..2");
    // 2^64 - 2 rows 2^64 - 1 apart and 7 columns 2^63 apart end at 2^128 + 2.
    let around = ([usize::MAX, 7], [usize::MAX, 1 << 63]);
    refused(buffer.view(0, around.0, around.1), "bounds", "view", "6 elements", "[18446744073709551615, 7]");
    for wild in [usize::MAX, 1 << 63] {
        refused(
            buffer.view_mut(wild, [wild; 2], [wild; 2]),
            "bounds",
            "view",
            "6 elements",
            &wild.to_string(),
        );
    }
    refused(buffer.matrix(2, 3).unwrap().slice(0..3, 0..1), "bounds", "slice", "[2, 3]", "0..3");
    refused(device.alloc::<f32>(usize::MAX), "bounds", "len", "bytes", "18446744073709551615");
    let other = Device::emulator().unwrap();
    let foreign = other.new_stream().unwrap();
    refused(buffer.to_vec(&foreign), "device", "stream", "emulator:0", "emulator:0");
    refused(buffer.fill_bytes(&foreign, 0), "device", "stream", "emulator:0", "emulator:0");

    assert_eq!(buffer.to_vec(&stream).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let transposed = buffer.matrix(2, 3).unwrap().t();
    assert_eq!((transposed.rows(), transposed.cols(), transposed.strides()), (3, 2, [1, 3]));
    let [low, high] = buffer.split_mut([(0..2, 1, 2), (2..6, 2, 2)]).unwrap();
    assert_eq!(high.address() - low.address(), 8);
    buffer.fill_bytes(&stream, 0xff).unwrap();
    assert!(buffer.to_vec(&stream).unwrap().iter().all(|x| x.to_bits() == u32::MAX));
    let empty = device.upload::<E4M3>(&stream, &[]).unwrap();
    assert!(empty.is_empty() && empty.to_vec(&stream).unwrap().is_empty());
    let event = stream.record().unwrap();
    device.default_stream().wait(&event).unwrap();
    assert!(matches!(event.elapsed_ms(&event), Err(Error::Unsupported { .. })));
    assert!(matches!(device.alloc::<u8>(1 << 60), Err(Error::Driver { call: "cuMemAlloc", code: 2, .. })));
}

/// A launch that goes wrong says nothing until somebody waits, and then says it until the device is reset.
/// Two streams quantise into the same matrix, with or without an event between them.
#[test]
fn a_missing_wait_between_streams_is_reported() {
    let run = |wait: bool| -> hadal::Result<()> {
        let device = Device::emulate(hadal::emulator::MachineConfig::default())?;
        let (first, second) = (device.new_stream()?, device.new_stream()?);
        let values = [bf16::ONE, bf16::NEG_ONE].map(|value| device.upload(&first, &vec![value; 4 * 128]));
        let [ones, others] = values;
        let values = [ones?, others?];
        let (mut codes, mut scales) = (device.alloc::<E4M3>(4 * 128)?, device.alloc::<f32>(4)?);
        let plan = quant::Plan::new(&device, quant::Shape::new(4, 128), quant::Options::activations())?;
        for (stream, values) in [&first, &second].into_iter().zip(&values) {
            let args = quant::Args::new(
                values.matrix(4, 128)?,
                codes.matrix_mut(4, 128)?,
                scales.view_mut(0, [4, 1], [1, 4])?,
            );
            plan.run(stream, args)?;
            if wait {
                second.wait(&first.record()?)?;
            }
        }
        second.synchronize()?;
        first.synchronize()
    };
    run(true).unwrap();
    let error = run(false).unwrap_err();
    assert!(matches!(&error, Error::Fault { report } if report.contains("an event")), "{error}");
}

#[test]
fn faults_surface_at_the_next_wait_and_stay() {
    let device = Device::emulator().unwrap();
    let stream = device.new_stream().unwrap();
    let mut q = device.alloc::<E4M3>(128).unwrap();
    let mut scales = device.alloc::<f32>(1).unwrap();
    let plan = quant::Plan::new(&device, quant::Shape::new(1, 128), quant::Options::activations()).unwrap();
    // SAFETY: deliberately none: nothing is allocated there, and the emulator has to say so.
    let nowhere = unsafe { Matrix::from_raw(&device, DType::BF16, 0x40, [1, 128], [128, 1]) };
    let args = quant::Args::new(nowhere, q.matrix_mut(1, 128).unwrap(), scales.matrix_mut(1, 1).unwrap());
    plan.run(&stream, args).unwrap();
    let fault = stream.synchronize().unwrap_err();
    let Error::Fault { report } = &fault else { panic!("{fault:?}") };
    assert!(report.contains("quantize_fp8.ptx"), "names the template: {report}");
    assert_eq!(stream.synchronize().unwrap_err(), fault);
    assert!(matches!(q.to_vec(&stream), Err(Error::Fault { .. })));
    device.emulated().unwrap().reset();
    stream.synchronize().unwrap();
    assert_eq!(device.emulated().unwrap().reports(), []);
}

/// What the child processes below print.
#[test]
fn child() {
    if std::env::var_os("HADAL_TEST_CHILD").is_none() {
        return;
    }
    match Device::open_default() {
        Ok(device) => println!("opened {device}: {}", device.reason()),
        Err(error) => println!("refused: {error}"),
    }
}

fn open_default_with(value: Option<&str>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env("HADAL_TEST_CHILD", "1").env_remove("HADAL_DEVICE");
    if let Some(value) = value {
        command.env("HADAL_DEVICE", value);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn hadal_device_is_obeyed_or_refused() {
    let text = open_default_with(Some("nonsense"));
    let forms = "`cuda`, `cuda:N`, `emulator` or `emulator:N`";
    assert!(text.contains(&format!("refused: value of `HADAL_DEVICE`: expected {forms}")), "{text}");
    assert!(text.contains("got `nonsense`"), "{text}");
    let text = open_default_with(Some("emulator:3"));
    assert!(text.contains("opened emulator:3 (") && text.contains("HADAL_DEVICE asks for it"), "{text}");
    // Unset, it is whatever there is, with the reason.
    let text = open_default_with(None);
    let gpu = text.contains("opened cuda:0 (") && text.contains("supported GPU");
    let emulator = text.contains("opened emulator:0 (") && text.contains("HADAL_DEVICE is not set, and");
    assert!(gpu || emulator, "{text}");
}

#[test]
#[cfg(feature = "cuda")]
fn asking_for_a_gpu_never_gives_anything_else() {
    match Device::cuda(0) {
        Ok(device) => assert_eq!(device.id().to_string(), "cuda:0"),
        Err(Error::NoDriver { tried }) => {
            assert!(tried.iter().any(|t| t.name.contains("cuda")), "{tried:?}");
            assert!(tried.iter().all(|t| !t.reason.is_empty()), "{tried:?}");
            let text = open_default_with(Some("cuda"));
            assert!(text.contains("refused: no CUDA driver could be loaded; tried"), "{text}");
        }
        Err(Error::NoDevice { .. } | Error::Driver { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
}

/// One plan and one device, a stream and its buffers for each thread: everybody gets the bits that one thread gets.
#[test]
fn threads_share_a_plan() {
    let device = Device::emulator().unwrap();
    let plan = quant::Plan::new(&device, quant::Shape::new(4, 256), quant::Options::activations()).unwrap();
    let quantize = |seed: usize| -> hadal::Result<Vec<E4M3>> {
        let stream = device.new_stream()?;
        let x: Vec<bf16> =
            (0..4 * 256).map(|i| bf16::from_f32((i * 31 % (97 + seed)) as f32 - 40.0)).collect();
        let mut all = Vec::new();
        for _ in 0..5 {
            let x = device.upload(&stream, &x)?;
            let (mut q, mut scales) = (device.alloc::<E4M3>(4 * 256)?, device.alloc::<f32>(8)?);
            plan.run(
                &stream,
                quant::Args::new(x.matrix(4, 256)?, q.matrix_mut(4, 256)?, scales.matrix_mut(4, 2)?),
            )?;
            all.extend(q.to_vec(&stream)?);
        }
        Ok(all)
    };
    let alone: Vec<_> = (0..4).map(|seed| quantize(seed).unwrap()).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || quantize(seed).unwrap())).collect();
        for (thread, want) in threads.into_iter().zip(alone) {
            assert_eq!(thread.join().unwrap(), want);
        }
    });
    assert_eq!(device.emulated().unwrap().reports(), []);
}

#[test]
fn plans_and_devices_may_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Device>();
    crosses::<Stream>();
    crosses::<hadal::Buffer<bf16>>();
    crosses::<gemm::Plan>();
    crosses::<quant::Plan>();
    crosses::<gemm::GroupedPlan>();
    crosses::<hadal::mla::Plan>();
    crosses::<hadal::mla::cache::Plan>();
    crosses::<hadal::moe::gate::Plan>();
    crosses::<hadal::moe::group_ends::Plan>();
    crosses::<hadal::moe::swiglu::Plan>();
    crosses::<hadal::moe::exchange::Plan>();
    crosses::<hadal::comm::SymmetricBuffer>();
    crosses::<hadal::device::Event>();
    crosses::<hadal::device::Graph>();
    crosses::<Error>();
}
