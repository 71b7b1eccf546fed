//! Graphs: what is captured once and launched often gives the bits that the same calls give when they are made each time, whatever
//! the row counts that the device reads; and what may not be done while a stream captures is an error.

#![cfg(feature = "emulator")]

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use hadal::quant::m_major_stride;
use hadal::{Buffer, DType, Device, E4M3, Element, Error, Result, Stream, bf16, gemm, moe::swiglu, quant};
use support::{Data, Random, assert_clean, device_of};

/// One test at a time: on a GPU all have the same device, and a buffer that one test drops waits for it, which breaks another's capture.
fn alone() -> MutexGuard<'static, ()> {
    static DEVICE: Mutex<()> = Mutex::new(());
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn values<T: Element>(
    device: &Device,
    stream: &Stream,
    len: usize,
    mut value: impl FnMut() -> T,
) -> Buffer<T> {
    device.upload(stream, &(0..len).map(|_| value()).collect::<Vec<T>>()).unwrap()
}

/// Two experts and a shared one: `x` through gate, up, SwiGLU and down, with as many rows for each expert as `counts` says; beside it,
/// on another stream, a dense layer; and behind both the dense layer's result, quantised.
struct Layer {
    up: gemm::GroupedPlan,
    act: swiglu::Plan,
    down: gemm::GroupedPlan,
    dense: gemm::Plan,
    quantize: quant::Plan,
    counts: Buffer<i32>,
    x: Buffer<E4M3>,
    x_scales: Buffer<f32>,
    weights: [Buffer<E4M3>; 3],
    scales_inv: [Buffer<f32>; 3],
    hidden: Buffer<bf16>,
    q: Buffer<E4M3>,
    q_scales: Buffer<f32>,
    out: Buffer<bf16>,
    shared: Buffer<bf16>,
    last: Buffer<E4M3>,
    last_scales: Buffer<f32>,
}

const EXPERTS: usize = 2;
const SLAB: usize = 12;
const ROWS: usize = EXPERTS * SLAB;
/// Columns in, between and out.
const K: usize = 128;
const N: usize = 64;

impl Layer {
    fn new(device: &Device, stream: &Stream) -> Layer {
        let random = &mut Random(7);
        let ld = m_major_stride(ROWS);
        let mut codes = |len| values(device, stream, len, || Data::Normal.value(random));
        let x = codes(ROWS * K);
        let weights = [codes(EXPERTS * 2 * K * K), codes(EXPERTS * N * K), codes(N * K)];
        let mut scales = |len| values(device, stream, len, || Data::Normal.scale(random));
        let x_scales = scales(ld);
        let scales_inv = [scales(EXPERTS * 2), scales(EXPERTS), scales(1)];
        let options = gemm::Options::new().programmatic(true);
        let grouped = |n| {
            let shape = gemm::GroupedShape::masked(EXPERTS, SLAB, n, K);
            gemm::GroupedPlan::new(device, shape, options).unwrap()
        };
        Layer {
            up: grouped(2 * K),
            act: swiglu::Plan::new(
                device,
                swiglu::Shape::masked(EXPERTS, SLAB, K),
                swiglu::Options::new().programmatic(true),
            )
            .unwrap(),
            down: grouped(N),
            dense: gemm::Plan::new(device, gemm::Shape::new(ROWS, N, K), options).unwrap(),
            quantize: quant::Plan::new(
                device,
                quant::Shape::new(ROWS, N),
                quant::Options::activations().programmatic(true),
            )
            .unwrap(),
            counts: device.alloc(EXPERTS).unwrap(),
            x,
            x_scales,
            weights,
            scales_inv,
            hidden: device.alloc(ROWS * 2 * K).unwrap(),
            q: device.alloc(ROWS * K).unwrap(),
            q_scales: device.alloc(ld).unwrap(),
            out: device.alloc(ROWS * N).unwrap(),
            shared: device.alloc(ROWS * N).unwrap(),
            last: device.alloc(ROWS * N).unwrap(),
            last_scales: device.alloc(ld).unwrap(),
        }
    }

    fn enqueue(&mut self, main: &Stream, side: &Stream) -> Result<()> {
        let ld = m_major_stride(ROWS);
        let counts = self.counts.matrix(1, EXPERTS)?;
        let [w_up, w_down, w_dense] = &self.weights;
        let [s_up, s_down, s_dense] = &self.scales_inv;
        side.wait(&main.record()?)?;
        self.up.run(
            main,
            gemm::GroupedArgs::new(
                self.x.matrix(ROWS, K)?,
                self.x_scales.view(0, [ROWS, 1], [1, ld])?,
                w_up.matrix(EXPERTS * 2 * K, K)?,
                s_up.matrix(EXPERTS * 2, 1)?,
                counts,
                self.hidden.matrix_mut(ROWS, 2 * K)?,
            ),
        )?;
        self.act.run(
            main,
            swiglu::Args::new(
                self.hidden.matrix(ROWS, 2 * K)?,
                counts,
                self.q.matrix_mut(ROWS, K)?,
                self.q_scales.view_mut(0, [ROWS, 1], [1, ld])?,
            ),
        )?;
        self.down.run(
            main,
            gemm::GroupedArgs::new(
                self.q.matrix(ROWS, K)?,
                self.q_scales.view(0, [ROWS, 1], [1, ld])?,
                w_down.matrix(EXPERTS * N, K)?,
                s_down.matrix(EXPERTS, 1)?,
                counts,
                self.out.matrix_mut(ROWS, N)?,
            ),
        )?;
        self.dense.run(
            side,
            gemm::Args::new(
                self.x.matrix(ROWS, K)?,
                self.x_scales.view(0, [ROWS, 1], [1, ld])?,
                w_dense.matrix(N, K)?,
                s_dense.matrix(1, 1)?,
                self.shared.matrix_mut(ROWS, N)?,
            ),
        )?;
        main.wait(&side.record()?)?;
        self.quantize.run(
            main,
            quant::Args::new(
                self.shared.matrix(ROWS, N)?,
                self.last.matrix_mut(ROWS, N)?,
                self.last_scales.view_mut(0, [ROWS, 1], [1, ld])?,
            ),
        )
    }

    /// Sets the counts and paints everything that is written.
    fn prepare(&mut self, stream: &Stream, counts: [i32; EXPERTS]) {
        self.counts.copy_from_host(stream, &counts).unwrap();
        self.hidden.fill_bytes(stream, 0xff).unwrap();
        self.q.fill_bytes(stream, 0xff).unwrap();
        self.q_scales.fill_bytes(stream, 0xff).unwrap();
        self.out.fill_bytes(stream, 0xff).unwrap();
        self.shared.fill_bytes(stream, 0xff).unwrap();
        self.last.fill_bytes(stream, 0xff).unwrap();
        self.last_scales.fill_bytes(stream, 0xff).unwrap();
    }

    /// Everything that was written, paint included.
    fn results(&self, stream: &Stream) -> Vec<u32> {
        let halves =
            |buffer: &Buffer<bf16>| buffer.to_vec(stream).unwrap().into_iter().map(|x| x.to_bits() as u32);
        let codes = |buffer: &Buffer<E4M3>| buffer.to_vec(stream).unwrap().into_iter().map(|x| x.0 as u32);
        let floats = |buffer: &Buffer<f32>| buffer.to_vec(stream).unwrap().into_iter().map(f32::to_bits);
        let all =
            halves(&self.hidden).chain(codes(&self.q)).chain(floats(&self.q_scales)).chain(halves(&self.out));
        all.chain(halves(&self.shared)).chain(codes(&self.last)).chain(floats(&self.last_scales)).collect()
    }
}

const COUNTS: [[i32; EXPERTS]; 4] = [[3, 12], [0, 1], [12, 0], [0, 0]];

#[test]
fn a_layer_on_two_streams_is_captured_once_and_follows_its_counts() {
    let _alone = alone();
    for (which, seed) in [(0, 1), (5, 2), (9, 3)] {
        let (device, main) = device_of(which, seed);
        let side = device.new_stream().unwrap();
        let mut layer = Layer::new(&device, &main);
        let mut eager = Vec::new();
        for counts in COUNTS {
            layer.prepare(&main, counts);
            layer.enqueue(&main, &side).unwrap();
            main.synchronize().unwrap();
            eager.push(layer.results(&main));
        }
        assert_ne!(eager[0], eager[1]);
        layer.prepare(&main, [5, 5]);
        let mut graph = main.capture(|main| layer.enqueue(main, &side)).unwrap();
        let untouched = layer.out.to_vec(&main).unwrap();
        assert!(untouched.iter().all(|x| x.to_bits() == 0xffff), "capturing ran something");
        for (counts, eager) in COUNTS.iter().zip(&eager) {
            layer.prepare(&main, *counts);
            // SAFETY: `layer` and the device live on.
            unsafe { graph.launch(&main) }.unwrap();
            main.synchronize().unwrap();
            assert!(layer.results(&main) == *eager, "{counts:?} on machine {which}");
        }
        assert_clean(&device);
    }
}

/// The row count of a dense product is the plan's: what changes from launch to launch is what the memory holds.
#[test]
fn a_gemm_plan_is_replayed_on_new_data() {
    let _alone = alone();
    let (m, n, k) = (9, 24, 144);
    let (device, stream) = device_of(0, 1);
    let (blocks, ld) = (2, m_major_stride(m));
    let random = &mut Random(3);
    let weight = values(&device, &stream, n * k, || Data::Normal.value(random));
    let scales_inv = values(&device, &stream, blocks, || Data::Normal.scale(random));
    let mut a = device.alloc::<E4M3>(m * k).unwrap();
    let mut a_scales = device.alloc::<f32>(ld * blocks).unwrap();
    let mut out = device.alloc::<f32>(m * n).unwrap();
    let options = gemm::Options::new().output(DType::F32).programmatic(true);
    let plan = gemm::Plan::new(&device, gemm::Shape::new(m, n, k), options).unwrap();
    let mut run = |stream: &Stream, a: &Buffer<E4M3>, a_scales: &Buffer<f32>| {
        plan.run(
            stream,
            gemm::Args::new(
                a.matrix(m, k)?,
                a_scales.view(0, [m, blocks], [1, ld])?,
                weight.matrix(n, k)?,
                scales_inv.matrix(1, blocks)?,
                out.matrix_mut(m, n)?,
            ),
        )?;
        // Twice, over the first result: the second launch may begin early and still has to wait before it overwrites.
        let again = plan.run(
            stream,
            gemm::Args::new(
                a.matrix(m, k)?,
                a_scales.view(0, [m, blocks], [1, ld])?,
                weight.matrix(n, k)?,
                scales_inv.matrix(1, blocks)?,
                out.matrix_mut(m, n)?,
            ),
        );
        again.map(|()| out.address())
    };
    let mut address = 0;
    let mut graph = stream.capture(|stream| run(stream, &a, &a_scales).map(|at| address = at)).unwrap();
    let read = |stream: &Stream| {
        let mut bytes = vec![0u8; m * n * 4];
        // SAFETY: the address is that of `out`, which lives and has as many bytes.
        unsafe { device.driver().copy_to_host(device.ordinal(), &mut bytes, address, stream.raw()) }.unwrap();
        bytes
    };
    let mut seen = Vec::new();
    for seed in 0..3 {
        let random = &mut Random(seed);
        let codes: Vec<E4M3> = (0..m * k).map(|_| Data::Normal.value(random)).collect();
        a.copy_from_host(&stream, &codes).unwrap();
        let scales: Vec<f32> = (0..ld * blocks).map(|_| Data::Normal.scale(random)).collect();
        a_scales.copy_from_host(&stream, &scales).unwrap();
        run(&stream, &a, &a_scales).unwrap();
        let eager = read(&stream);
        // SAFETY: the buffer is `out`, which lives and has as many bytes.
        unsafe { device.driver().fill(device.ordinal(), address, 0xff, (m * n * 4) as u64, stream.raw()) }
            .unwrap();
        // SAFETY: all buffers live on.
        unsafe { graph.launch(&stream) }.unwrap();
        assert_eq!(read(&stream), eager);
        assert!(!seen.contains(&eager));
        seen.push(eager);
    }
    assert_clean(&device);
}

fn code<T: std::fmt::Debug>(outcome: Result<T>) -> i32 {
    match outcome {
        Err(Error::Driver { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

/// Dropping a buffer waits for the device, which a thread that captures may not: what is enqueued elsewhere keeps its memory.
#[test]
fn a_buffer_dropped_under_a_capture_outlives_what_was_enqueued() {
    let _alone = alone();
    let (device, busy) = device_of(1, 1);
    let captured = device.new_stream().unwrap();
    let x = device.upload(&busy, &[bf16::ONE; 128]).unwrap();
    let (mut q, mut scales) = (device.alloc::<E4M3>(128).unwrap(), device.alloc::<f32>(1).unwrap());
    let plan = quant::Plan::new(&device, quant::Shape::new(1, 128), quant::Options::activations()).unwrap();
    let args = quant::Args::new(
        x.matrix(1, 128).unwrap(),
        q.matrix_mut(1, 128).unwrap(),
        scales.matrix_mut(1, 1).unwrap(),
    );
    plan.run(&busy, args).unwrap();
    let capture = captured.begin_capture().unwrap();
    drop(x);
    assert!(capture.end().is_err(), "the wait broke the capture");
    assert!(q.to_vec(&busy).unwrap().iter().all(|q| *q == E4M3::MAX));
    assert_clean(&device);
}

#[test]
fn what_may_not_be_done_while_a_stream_captures() {
    let _alone = alone();
    let (device, stream) = device_of(0, 1);
    let side = device.new_stream().unwrap();
    let mut memory = device.upload(&stream, &[1f32; 4]).unwrap();
    // The default stream cannot be captured, nor a stream twice; and a capture that is dropped is given up.
    assert_eq!(code(device.default_stream().begin_capture().map(drop)), 900);
    let first = stream.begin_capture().unwrap();
    assert_eq!(code(stream.begin_capture().map(drop)), 401);
    drop(first);
    // Work of the other stream that nobody waits for.
    let unjoined = stream.capture(|stream| {
        side.wait(&stream.record()?)?;
        memory.fill_bytes(&side, 0)
    });
    assert_eq!(code(unjoined), 904);
    // An event from outside.
    let outside = side.record().unwrap();
    let capture = stream.begin_capture().unwrap();
    assert_eq!(code(stream.wait(&outside)), 905);
    assert_eq!(code(capture.end()), 901);
    // Waiting, copying and allocating: each is refused, and breaks the capture.
    let wrong: [&dyn Fn(&Stream) -> i32; 3] =
        [&|stream| code(stream.synchronize()), &|stream| code(memory.to_vec(stream)), &|_| {
            code(device.alloc::<f32>(1))
        }];
    for wrong in wrong {
        let capture = stream.begin_capture().unwrap();
        assert_eq!(wrong(&stream), 900);
        assert_eq!(code(capture.end()), 901);
    }
    // Its error comes back as it is.
    let failed = stream.capture(|_| memory.matrix(2, 3).map(|_| ()));
    assert!(matches!(failed, Err(Error::Bounds { .. } | Error::Shape { .. })), "{failed:?}");
    // All streams are free again, and nothing has run.
    memory.fill_bytes(&side, 0).unwrap();
    assert_eq!(memory.to_vec(&side).unwrap(), [0.0; 4]);
    stream.synchronize().unwrap();
    assert_clean(&device);
    // Graphs stay on their device.
    let elsewhere = Device::emulator().unwrap().new_stream().unwrap();
    let mut empty = stream.capture(|_| Ok(())).unwrap();
    // SAFETY: there is nothing in it.
    let wrong = unsafe { empty.launch(&elsewhere) };
    assert!(matches!(wrong, Err(Error::Device { argument: "stream", .. })), "{wrong:?}");
    // SAFETY: as above.
    unsafe { empty.launch(&stream) }.unwrap();
    stream.synchronize().unwrap();
}
