//! Tensor copies of every rank, reductions, tensor maps that kernels edit, and multicast memory.

mod machine_support;
use hadal_emulator::tma::{DataType, Im2col, Interleave, L2Promotion, OobFill, Swizzle, TensorMap, Tiled};
use hadal_emulator::{Class, Launch, Machine, MachineConfig, ir};
use machine_support::*;

const SHARED: &str = ".shared .align 1024 .b8 data[4096]; .shared .align 8 .b64 full;";

const OPENING: &str = "
    .reg .b32 %bar, %data, %tid, %at, %v, %c<5>;
    .reg .b64 %in, %out, %map, %map2, %x;
    .reg .pred %p, %first;
    mov.u32 %bar, full;
    mov.u32 %data, data;
    mov.u32 %tid, %tid.x;
    setp.eq.u32 %first, %tid, 0;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    fence.mbarrier_init.release.cluster;
    fence.proxy.async.shared::cta;
    bar.sync 0;";

const WAIT: &str = "
loop:
    mbarrier.try_wait.parity.shared::cta.b64 %p, [%bar], 0;
    @!%p bra loop;";

fn encoded(map: &Tiled<'_>) -> Vec<u8> {
    TensorMap::new(map).unwrap().encode().iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// A dense tensor of words.
fn tensor<'a>(address: u64, dims: &'a [u64], strides: &'a [u64], box_dims: &'a [u32]) -> Tiled<'a> {
    Tiled {
        data_type: DataType::U32,
        address,
        dims,
        strides,
        box_dims,
        element_strides: &[1; 5][..dims.len()],
        interleave: Interleave::None,
        swizzle: Swizzle::None,
        l2_promotion: L2Promotion::None,
        oob_fill: OobFill::Zero,
    }
}

fn one_block(threads: u32, params: Vec<u8>) -> Launch {
    Launch { grid: [1, 1, 1], block: [threads, 1, 1], params, ..Launch::default() }
}

/// A box of 4 × 2 × … words is loaded at (1, 1, …), hanging over the end of every dimension but the first, and stored at (0, 0, …) of
/// a cleared tensor of the same shape.
#[test]
fn one_to_five_dimensions() {
    let dims: [u64; 5] = [8, 2, 2, 2, 2];
    for rank in 1..=5usize {
        let coords = |at: &str| vec![at; rank - 1].join(", ");
        let list = |first: &str, rest: &str| {
            if rank == 1 { format!("{{{first}}}") } else { format!("{{{first}, {}}}", coords(rest)) }
        };
        let words = 4 << (rank - 1);
        let text = module_with_maps(
            2,
            0,
            SHARED,
            &format!(
                "{OPENING}
    mov.b64 %map, m0;
    cvta.param.u64 %map, %map;
    mov.b64 %map2, m1;
    cvta.param.u64 %map2, %map2;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], {bytes};
    @%first cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%data], [%map, {load}], [%bar];
{WAIT}
    @%first cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [%map2, {store}], [%data];
    @%first cp.async.bulk.commit_group;
    @%first cp.async.bulk.wait_group 0;
    ret;",
                bytes = 4 * words,
                load = list("1", "1"),
                store = list("0", "0"),
            ),
        );
        let strides: Vec<u64> = (1..rank).map(|d| 4 * dims[..d].iter().product::<u64>()).collect();
        let box_dims: Vec<u32> = [4, 2, 2, 2, 2][..rank].to_vec();
        let total: u64 = dims[..rank].iter().product();
        for config in configs() {
            let mut bench = Bench::with(config, &text);
            let input = bench.words(&(0..total as u32).map(|i| i + 1).collect::<Vec<_>>());
            let out = bench.words(&vec![0; total as usize]);
            let maps = [input, out].map(|a| encoded(&tensor(a, &dims[..rank], &strides, &box_dims)));
            bench.launch(one_block(32, params(&maps, &[]))).unwrap_or_else(|f| panic!("{rank}: {f}"));
            let got = bench.read_words(out, total as usize);
            for (i, value) in got.iter().enumerate() {
                // Index in each dimension of the output, and of the input element that belongs there.
                let x = i % 8;
                let rest = i / 8;
                let inside = rest == 0 && x < 4;
                let source: usize = 1 + x + (1..rank).map(|d| strides[d - 1] as usize / 4).sum::<usize>();
                let expected = if inside { source as u32 + 1 } else { 0 };
                assert_eq!(*value, expected, "rank {rank} word {i}");
            }
        }
    }
}

/// Reductions of a bulk copy and of a tensor copy: 100 + i, then the minimum with 110, in memory that two blocks share.
#[test]
fn reductions_to_global_memory() {
    let text = module_with_maps(
        1,
        1,
        SHARED,
        &format!(
            "{OPENING}
    mov.b64 %map, m0;
    cvta.param.u64 %map, %map;
    ld.param.u64 %out, [p0];
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %data;
    st.shared.u32 [%at], %tid;
    mov.u32 %v, 205;
    st.shared.u32 [%at+1024], %v;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @!%first bra done;
    cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%out], [%data], 128;
    cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.tile.bulk_group [%map, {{8}}], [%data];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
    add.u32 %data, %data, 1024;
    cp.reduce.async.bulk.global.shared::cta.bulk_group.min.u32 [%out], [%data], 128;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
done:
    ret;"
        ),
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let out = bench.words(&[100; 32]);
        // The box of eight words hangs over by nothing; it is added at words 8 to 15.
        let map = encoded(&tensor(out, &[32], &[], &[8]));
        bench
            .launch(Launch { grid: [2, 1, 1], ..one_block(32, params(&[map], &[out])) })
            .unwrap_or_else(|f| panic!("{f}"));
        let got = bench.read_words(out, 32);
        for (i, value) in got.iter().enumerate() {
            let tensor = if (8..16).contains(&i) { 2 * (i as u32 - 8) } else { 0 };
            // Additions of both blocks may come before or after a minimum of one; all stay below 205 here.
            assert_eq!(*value, 100 + 2 * i as u32 + tensor, "word {i}");
        }
    }
}

/// A kernel builds a map from cleared shared memory, field by field, publishes it, and loads through it.
#[test]
fn a_tensor_map_built_on_the_device() {
    let fields = "
    tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%x], %in;
    tensormap.replace.tile.rank.shared::cta.b1024.b32 [%x], 1;
    tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%x], 0, 8;
    tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%x], 1, 4;
    tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%x], 0, 6;
    tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%x], 1, 4;
    tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%x], 0, 32;
    tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%x], 0, 1;
    tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%x], 1, 1;
    tensormap.replace.tile.elemtype.shared::cta.b1024.b32 [%x], 0x7;
    tensormap.replace.tile.interleave_layout.shared::cta.b1024.b32 [%x], 0x0;
    tensormap.replace.tile.swizzle_mode.shared::cta.b1024.b32 [%x], 0x0;
    tensormap.replace.tile.fill_mode.shared::cta.b1024.b32 [%x], 0x0;";
    let body = |fields: &str| {
        format!(
            "{OPENING}
    ld.param.u64 %in, [p0];
    ld.param.u64 %map, [p1];
    ld.param.u64 %out, [p2];
    mov.u32 %v, 0;
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %data;
    st.shared.u32 [%at], %v;
    bar.warp.sync -1;
    cvt.u64.u32 %x, %data;
    @!%first bra ready;
{fields}
ready:
    bar.warp.sync -1;
    tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%map], [%x], 128;
    fence.proxy.tensormap::generic.acquire.gpu [%map], 128;
    add.u32 %data, %data, 1024;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 128;
    @%first cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%data], [%map, {{0, 0}}], [%bar];
{WAIT}
    ld.shared.u32 %v, [%at+1024];
    mad.wide.u32 %out, %tid, 4, %out;
    st.global.u32 [%out], %v;
    ret;"
        )
    };
    let text = module(3, SHARED, &body(fields));
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let input = bench.words(&(0..32).collect::<Vec<_>>());
        let (map, out) = (bench.blank(128), bench.blank(128));
        bench.run(1, 32, &[input, map, out]).unwrap_or_else(|f| panic!("{f}"));
        // Rows of eight words, of which the tensor has six.
        let expected: Vec<u32> = (0..32).map(|i| if i % 8 < 6 { i } else { 0 }).collect();
        assert_eq!(bench.read_words(out, 32), expected);
    }
    // A field that makes no map is refused where it is set, a map that is none where it is used.
    for (from, to, line) in [
        ("box_dim.shared::cta.b1024.b32 [%x], 1, 4", "box_dim.shared::cta.b1024.b32 [%x], 1, 300", "box_dim"),
        ("[%x], 0, 32;", "[%x], 0, 24;", "cp.async.bulk.tensor"),
    ] {
        let text = module(3, SHARED, &body(&fields.replace(from, to)));
        let mut bench = Bench::new(&text);
        let input = bench.words(&[0; 32]);
        let (map, out) = (bench.blank(128), bench.blank(128));
        let fault = bench.run(1, 32, &[input, map, out]).unwrap_err();
        assert_eq!(fault.report.class, Class::TensorMap, "{fault}");
        assert!(fault.report.place.ptx_text.contains(line), "{fault}");
    }
}

/// Pixels in the order of a 3×3 convolution with one pixel of padding, over 3×3 images of four channels: at the filter's position
/// (1, 2) (counted from 0), pixel (x, y) of the output reads the image at (x, y + 1). Stored through a map of the same kind, with the
/// box on the image itself, they come out one row higher.
#[test]
fn pixels_of_a_convolution() {
    let text = module_with_maps(
        2,
        0,
        SHARED,
        &format!(
            "{OPENING}
    mov.b64 %map, m0;
    cvta.param.u64 %map, %map;
    mov.b64 %map2, m1;
    cvta.param.u64 %map2, %map2;
    .reg .b16 %dx, %dy;
    mov.u16 %dx, 1;
    mov.u16 %dy, 2;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 192;
    @%first cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%data], [%map, {{0, -1, -1, 0}}], [%bar], {{%dx, %dy}};
{WAIT}
    @%first cp.async.bulk.tensor.4d.global.shared::cta.im2col_no_offs.bulk_group [%map2, {{0, 0, 0, 0}}], [%data];
    @%first cp.async.bulk.commit_group;
    @%first cp.async.bulk.wait_group 0;
    ret;"
        ),
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let input = bench.words(&(1..73).collect::<Vec<_>>());
        let out = bench.words(&[0; 72]);
        let map = |address: u64, corner: i32| {
            let map = TensorMap::im2col(&Im2col {
                data_type: DataType::U32,
                address,
                dims: &[4, 3, 3, 2],
                strides: &[16, 48, 144],
                lower_corner: &[corner, corner],
                upper_corner: &[corner, corner],
                channels: 4,
                pixels: 12,
                element_strides: &[1, 1, 1, 1],
                swizzle: Swizzle::None,
                l2_promotion: L2Promotion::None,
                oob_fill: OobFill::Zero,
            });
            map.unwrap().encode().iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>()
        };
        let launch = one_block(32, params(&[map(input, -1), map(out, 0)], &[]));
        bench.launch(launch).unwrap_or_else(|f| panic!("{f}"));
        for (i, value) in bench.read_words(out, 72).iter().enumerate() {
            // Twelve pixels: the first image whole, and the first row of the second. The row below the image is fill.
            let (pixel, row) = (i / 4, i / 12 % 3);
            let expected = if pixel < 12 && row < 2 { i as u32 + 1 + 12 } else { 0 };
            assert_eq!(*value, expected, "word {i}");
        }
    }
    // The two kinds do not mix.
    let mut bench = Bench::new(&text);
    let input = bench.words(&[0; 72]);
    let tiled = encoded(&tensor(input, &[4, 3, 3, 2], &[16, 48, 144], &[4, 3, 3, 1]));
    let fault = bench.launch(one_block(32, params(&[tiled.clone(), tiled], &[]))).unwrap_err();
    assert_eq!(fault.report.class, Class::TensorMap, "{fault}");
}

/// Three devices hold a word each per thread; a fourth address stands for all.
#[test]
fn multimem_reaches_every_device() {
    let text = module(
        2,
        "",
        "
    .reg .b64 %all, %out, %at;
    .reg .b32 %tid, %v, %h;
    .reg .f32 %f<4>;
    mov.u32 %tid, %tid.x;
    ld.param.u64 %all, [p0];
    ld.param.u64 %out, [p1];
    mad.wide.u32 %at, %tid, 4, %all;
    multimem.ld_reduce.relaxed.sys.global.add.u32 %v, [%at];
    mad.wide.u32 %out, %tid, 4, %out;
    st.global.u32 [%out], %v;
    multimem.red.relaxed.sys.global.add.u32 [%at], 1000;
    multimem.ld_reduce.relaxed.sys.global.max.u32 %v, [%at];
    st.global.u32 [%out+128], %v;
    // Vectors of floats at 256, pairs of halves at 768: thread t has its own 16 and 4 bytes.
    mad.wide.u32 %at, %tid, 16, %all;
    mov.f32 %f0, 0f3F800000;
    mov.f32 %f1, 0f40000000;
    multimem.st.relaxed.sys.global.v4.f32 [%at+256], {%f0, %f1, %f0, %f1};
    multimem.ld_reduce.relaxed.sys.global.add.v4.f32 {%f0, %f1, %f2, %f3}, [%at+256];
    add.f32 %f0, %f0, %f1;
    add.f32 %f0, %f0, %f2;
    add.f32 %f0, %f0, %f3;
    st.global.f32 [%out+256], %f0;
    mad.wide.u32 %at, %tid, 4, %all;
    mov.b32 %h, 0x3c004000;
    multimem.st.relaxed.sys.global.b32 [%at+768], %h;
    multimem.ld_reduce.relaxed.sys.global.add.acc::f32.f16x2 %h, [%at+768];
    st.global.u32 [%out+384], %h;
    ret;",
    );
    let device = config().devices[0].clone();
    let mut machine = Machine::new(MachineConfig { devices: vec![device; 3], ..config() });
    let module = std::sync::Arc::new(ir::Module::parse("test.ptx", &text).unwrap_or_else(|e| panic!("{e}")));
    let module = machine.load_module(0, module).unwrap();
    let stream = machine.create_stream(0);
    let all = machine.create_multicast(1024);
    let launch = |all: u64, out: u64| one_block(32, params(&[], &[all, out]));
    let out = machine.alloc(0, 512, 256).unwrap();
    let mut copies = Vec::new();
    for d in 0..3u32 {
        let memory = machine.alloc(d as usize, 1024, 256).unwrap();
        let words: Vec<u8> = (0..256u32).flat_map(|i| (i * 10 + d).to_le_bytes()).collect();
        machine.write(memory, &words).unwrap();
        machine.bind_multicast(all, 0, memory, 1024).unwrap();
        copies.push(memory);
    }
    machine.launch(stream, module, "k", &launch(all, out)).unwrap();
    machine.synchronize(stream).unwrap_or_else(|f| panic!("{f}"));
    let read = |machine: &Machine, at: u64| {
        let mut bytes = [0; 4];
        machine.read(at, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    };
    for t in 0..32u64 {
        let at = out + 4 * t;
        assert_eq!(read(&machine, at), 30 * t as u32 + 3);
        assert_eq!(read(&machine, at + 128), 10 * t as u32 + 2 + 1000);
        assert_eq!(f32::from_bits(read(&machine, at + 256)), 3.0 * 6.0);
        // Three times (1.0, 2.0): 3.0 is 0x4200, 6.0 is 0x4600.
        assert_eq!(read(&machine, at + 384), 0x4200_4600);
        for (d, copy) in copies.iter().enumerate() {
            assert_eq!(read(&machine, copy + 4 * t), 10 * t as u32 + d as u32 + 1000);
        }
    }
    // An ordinary address is no multicast address.
    machine.launch(stream, module, "k", &launch(copies[0], out)).unwrap();
    let fault = machine.synchronize(stream).unwrap_err();
    assert_eq!(fault.report.class, Class::OutOfBounds, "{fault}");
}

/// Variables whose initial contents are addresses of other variables.
#[test]
fn relocations_are_filled_in() {
    expect(
        ".global .align 4 .u32 table[4] = {10, 20, 30, 40};
.global .align 8 .u64 pointers[2] = {generic(table), generic(table) + 8};",
        "
    .reg .b64 %a, %b, %out;
    .reg .b32 %v, %w;
    ld.param.u64 %out, [p0];
    ld.global.u64 %a, [pointers];
    ld.global.u64 %b, [pointers+8];
    ld.u32 %v, [%a+4];
    ld.u32 %w, [%b];
    st.global.u32 [%out], %v;
    st.global.u32 [%out+4], %w;
    ret;",
        1,
        0,
        &[20, 30],
    );
}
