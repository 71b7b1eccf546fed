//! What shipping kernels lean on beyond the manual: each works here as it does on the chip.

mod machine_support;
use hadal_emulator::tma::{DataType, Interleave, L2Promotion, OobFill, Swizzle, TensorMap, Tiled};
use hadal_emulator::{Class, Launch, SharedPlacement};
use machine_support::*;

const SHARED: &str = ".extern .shared .align 16 .b8 data[]; .shared .align 8 .b64 full;";

/// `%data` is the dynamic array, `%bar` an mbarrier of one arrival.
const OPENING: &str = "
    .reg .b32 %bar, %data, %tid, %at, %v, %w, %u, %x0;
    .reg .b64 %in, %out, %map, %x;
    .reg .f32 %f;
    .reg .pred %p, %q, %first;
    mov.u32 %bar, full;
    mov.u32 %data, data;
    add.u32 %data, %data, 1023;
    and.b32 %data, %data, 0xfffffc00;
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

fn bytes_of(map: &Tiled<'_>) -> Vec<u8> {
    TensorMap::new(map).unwrap().encode().iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn one_block(threads: u32, shared: u32, params: Vec<u8>) -> Launch {
    Launch { grid: [1, 1, 1], block: [threads, 1, 1], dynamic_shared: shared, params, ..Launch::default() }
}

#[test]
fn bytes_may_arrive_before_they_are_expected() {
    let text = module(
        2,
        SHARED,
        &format!(
            "{OPENING}
    ld.param.u64 %in, [p0];
    @%first cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%data], [%in], 128, [%bar];
    @%first nanosleep.u32 1000;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 128;
{WAIT}
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %data;
    ld.shared.u32 %v, [%at];
    ld.param.u64 %out, [p1];
    mad.wide.u32 %out, %tid, 4, %out;
    st.global.u32 [%out], %v;
    ret;"
        ),
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let input = bench.words(&(7..39).collect::<Vec<_>>());
        let out = bench.blank(128);
        bench.run_shared(1, 32, 2048, &[input, out]).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(bench.read_words(out, 32), (7..39).collect::<Vec<_>>());
    }
}

/// A page number far outside: zeros, the full byte count, and a store there does nothing. A `cp.async` of no bytes leaves its wild
/// source alone. FP32 typed TF32 is rounded on the way. A dimension that is not walked has stride 0.
#[test]
fn copies_far_outside() {
    let text = module_with_maps(
        1,
        1,
        SHARED,
        &format!(
            "{OPENING}
    mov.b64 %map, m0;
    cvta.param.u64 %map, %map;
    ld.param.u64 %out, [p0];
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 256;
    mov.u32 %v, 2147480000;
    @%first cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%data], [%map, {{0, %v}}], [%bar];
    add.u32 %w, %data, 128;
    @%first cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%w], [%map, {{0, 0}}], [%bar];
{WAIT}
    @%first cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%map, {{0, %v}}], [%w];
    @%first cp.async.bulk.commit_group;
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %data;
    ld.shared.u32 %v, [%at];
    ld.shared.u32 %w, [%at+128];
    mad.wide.u32 %x, %tid, 4, %out;
    st.global.u32 [%x], %v;
    st.global.u32 [%x+128], %w;
    // 16 bytes of zeros per thread from nowhere.
    mad.lo.u32 %at, %tid, 16, %data;
    mov.u64 %in, 0xdeadbeef00000;
    cp.async.cg.shared.global [%at+512], [%in], 16, 0;
    cp.async.wait_all;
    ld.shared.u32 %v, [%at+524];
    st.global.u32 [%x+256], %v;
    @%first cp.async.bulk.wait_group 0;
    ret;"
        ),
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        // 1 + 2^-11 is halfway between two TF32 numbers and goes to the even one, 1; 1 + 2^-10 is one.
        let input: Vec<u32> = (0..32).map(|i| if i % 2 == 0 { 0x3f80_1000 } else { 0x3f80_2000 }).collect();
        let input = bench.words(&input);
        let out = bench.blank(384);
        let map = bytes_of(&Tiled {
            data_type: DataType::TF32,
            address: input,
            dims: &[32, 1],
            strides: &[0],
            box_dims: &[32, 1],
            element_strides: &[1, 1],
            interleave: Interleave::None,
            swizzle: Swizzle::None,
            l2_promotion: L2Promotion::None,
            oob_fill: OobFill::Zero,
        });
        bench.launch(one_block(32, 4096, params(&[map], &[out]))).unwrap_or_else(|f| panic!("{f}"));
        let got = bench.read_words(out, 96);
        assert!(got[..32].iter().chain(&got[64..]).all(|w| *w == 0));
        assert!(got[32..64].iter().enumerate().all(|(i, w)| *w == [0x3f80_0000, 0x3f80_2000][i % 2]));
    }
}

/// Alone, the dynamic array begins at a multiple of 1024 although it declares 16. A stage at an odd multiple of 256 in it is swizzled
/// by its address: chunk c of the row at address a lies at c ^ (a >> 7 & 7).
#[test]
fn the_dynamic_window_and_swizzled_stages() {
    let text = module_with_maps(
        1,
        1,
        ".extern .shared .align 16 .b8 data[];",
        "
    .reg .b32 %bar, %data, %tid, %at, %v;
    .reg .b64 %out, %map;
    .reg .pred %p, %first;
    mov.u32 %bar, data;
    and.b32 %v, %bar, 1023;
    setp.ne.u32 %p, %v, 0;
    @%p trap;
    add.u32 %data, %bar, 0x300;
    mov.u32 %tid, %tid.x;
    setp.eq.u32 %first, %tid, 0;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    fence.mbarrier_init.release.cluster;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    mov.b64 %map, m0;
    cvta.param.u64 %map, %map;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 256;
    @%first cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%data], [%map, {0, 0}], [%bar];
loop:
    mbarrier.try_wait.parity.shared::cta.b64 %p, [%bar], 0;
    @!%p bra loop;
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %data;
    ld.shared.u32 %v, [%at];
    ld.param.u64 %out, [p0];
    mad.wide.u32 %out, %tid, 4, %out;
    st.global.u32 [%out], %v;
    ret;",
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let input = bench.words(&(0..64).collect::<Vec<_>>());
        let out = bench.blank(256);
        let map = matrix_map(DataType::U32, input, [32, 2], [32, 2], Swizzle::B128);
        bench.launch(one_block(64, 2048, params(&[map], &[out]))).unwrap_or_else(|f| panic!("{f}"));
        // Rows 6 and 7 of a pattern of 1024 bytes.
        let expected: Vec<u32> = (0..64u32)
            .map(|i| {
                let (row, chunk) = (i / 32, i / 4 % 8);
                32 * row + 4 * (chunk ^ (6 + row)) + i % 4
            })
            .collect();
        assert_eq!(bench.read_words(out, 64), expected);
    }
    // No better aligned than declared: the same kernel notices.
    let mut strict = config();
    strict.shared_placement = SharedPlacement::DeclaredAlignment;
    let mut bench = Bench::with(strict, &text);
    let map = matrix_map(DataType::U32, 0x1_0000, [32, 2], [32, 2], Swizzle::B128);
    let fault = bench.launch(one_block(64, 2048, params(&[map], &[0]))).unwrap_err();
    assert_eq!(fault.report.class, Class::Trap);
}

#[test]
fn elect_takes_the_lowest_lane() {
    let expected: Vec<u32> = (0..32).map(|l| if l < 5 { 0 } else { 5 + 100 * u32::from(l == 5) }).collect();
    expect(
        "",
        "
    .reg .b32 %lane, %leader, %v;
    .reg .b64 %out;
    .reg .pred %p, %few;
    mov.u32 %lane, %laneid;
    mov.u32 %v, 0;
    setp.lt.u32 %few, %lane, 5;
    @%few bra join;
    elect.sync %leader|%p, 0xffffffe0;
    selp.b32 %v, 100, 0, %p;
    add.u32 %v, %v, %leader;
join:
    ld.param.u64 %out, [p0];
    mad.wide.u32 %out, %lane, 4, %out;
    st.global.u32 [%out], %v;
    ret;",
        32,
        0,
        &expected,
    );
}

/// Lanes 16 to 31 hold junk addresses in the `.x2` forms. The matrices go in by rows and come out transposed.
#[test]
fn matrices_of_two_ignore_the_upper_lanes() {
    let expected: Vec<u32> = (0..64u32)
        .map(|i| {
            // Register i / 32 of lane l: element (2 (l mod 4), l / 4) and the next row's of the matrix whose row r, column c is
            // 100 m + 10 r + c.
            let (m, l) = (i / 32, i % 32);
            let value = |r: u32, c: u32| 100 * m + 10 * r + c;
            let (r, c) = (2 * (l % 4), l / 4);
            value(r, c) | value(r + 1, c) << 16
        })
        .collect();
    expect(
        ".shared .align 16 .b8 tile[256];",
        "
    .reg .b32 %lane, %row, %col, %a, %b, %at, %tile, %d0, %d1;
    .reg .b64 %out;
    .reg .pred %upper;
    mov.u32 %lane, %laneid;
    mov.u32 %tile, tile;
    shr.u32 %row, %lane, 2;
    and.b32 %col, %lane, 3;
    shl.b32 %col, %col, 1;
    mad.lo.u32 %a, %row, 10, %col;
    mad.lo.u32 %a, %a, 0x10001, 0x10000;
    add.u32 %b, %a, 0x640064;
    setp.gt.u32 %upper, %lane, 15;
    mad.lo.u32 %at, %lane, 16, %tile;
    @%upper mov.u32 %at, 0xdeadbee1;
    stmatrix.sync.aligned.m8n8.x2.shared.b16 [%at], {%a, %b};
    bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%d0, %d1}, [%at];
    ld.param.u64 %out, [p0];
    mad.wide.u32 %out, %lane, 4, %out;
    st.global.u32 [%out], %d0;
    st.global.u32 [%out+128], %d1;
    ret;",
        32,
        0,
        &expected,
    );
}

/// A block may end with bulk stores that nobody waited for; they arrive.
#[test]
fn bulk_stores_outlive_their_thread() {
    let text = module(
        1,
        SHARED,
        &format!(
            "{OPENING}
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %data;
    st.shared.u32 [%at], %tid;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    ld.param.u64 %out, [p0];
    @%first cp.async.bulk.global.shared::cta.bulk_group [%out], [%data], 128;
    @%first cp.async.bulk.commit_group;
    ret;"
        ),
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let out = bench.blank(128);
        bench.run_shared(1, 32, 2048, &[out]).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(bench.read_words(out, 32), (0..32).collect::<Vec<_>>());
    }
}

/// Without a cluster the rank is 0 of 1. `setmaxnreg` stands in the branch of one role. Named barriers 8 and 15 pair two roles.
#[test]
fn roles_with_registers_and_high_barriers() {
    let text = module(
        1,
        ".shared .align 4 .u32 box[128];",
        "
    .reg .b32 %tid, %role, %at, %v, %rank, %size;
    .reg .b64 %out;
    .reg .pred %consumer;
    mov.u32 %rank, %cluster_ctarank;
    mov.u32 %size, %cluster_nctarank;
    mov.u32 %tid, %tid.x;
    and.b32 %v, %tid, 127;
    shl.b32 %at, %v, 2;
    mov.u32 %role, box;
    add.u32 %at, %at, %role;
    shr.u32 %role, %tid, 7;
    setp.eq.u32 %consumer, %role, 1;
    @%consumer bra consume;
    setmaxnreg.dec.sync.aligned.u32 40;
    add.u32 %v, %v, %rank;
    st.shared.u32 [%at], %v;
    barrier.sync 8, 256;
    barrier.sync 15, 256;
    bra done;
consume:
    barrier.sync 8, 256;
    ld.shared.u32 %v, [%at];
    add.u32 %v, %v, %size;
    ld.param.u64 %out, [p0];
    and.b32 %rank, %tid, 127;
    mad.wide.u32 %out, %rank, 4, %out;
    st.global.u32 [%out], %v;
    barrier.arrive 15, 256;
done:
    ret;",
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let out = bench.blank(512);
        bench.run(1, 256, &[out]).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(bench.read_words(out, 128), (1..129).collect::<Vec<_>>());
    }
}

/// A tile of 16 rows: the 64-row `wgmma` reads on into bytes of the allocation that nobody ever wrote. The kernel keeps what belongs
/// to its rows (warp 0); the rest is NaN, so that keeping it would show.
#[test]
fn a_tile_shorter_than_the_instruction() {
    let text = module(
        1,
        ".extern .shared .align 1024 .b8 tiles[];",
        "
    .reg .b32 %tid, %at, %v, %lo, %hi, %n;
    .reg .b64 %out, %da, %db;
    .reg .f32 %d0, %d1, %d2, %d3;
    .reg .pred %p;
    mov.u32 %tid, %tid.x;
    mov.u32 %n, tiles;
    // B, 8 rows of 32 bytes of 1.0 at 0; A, 16 rows of 2.0 at 256; no swizzle: cores of 8 rows of 16 bytes, 128 apart.
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %n;
    setp.lt.u32 %p, %tid, 64;
    selp.b32 %v, 0x38383838, 0x40404040, %p;
    st.shared.u32 [%at], %v;
    setp.lt.u32 %p, %tid, 64;
    @%p st.shared.u32 [%at+512], 0x40404040;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    shr.u32 %lo, %n, 4;
    or.b32 %lo, %lo, 0x00080000;
    mov.u32 %hi, 16;
    mov.b64 %db, {%lo, %hi};
    add.s64 %da, %db, 16;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%d0, %d1, %d2, %d3}, %da, %db, 0, 1, 1;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    ld.param.u64 %out, [p0];
    mad.wide.u32 %out, %tid, 4, %out;
    st.global.f32 [%out], %d3;
    ret;",
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let out = bench.blank(512);
        bench.run_shared(1, 128, 4096, &[out]).unwrap_or_else(|f| panic!("{f}"));
        let got = bench.read_words(out, 128);
        assert!(got[..32].iter().all(|w| f32::from_bits(*w) == 64.0), "{got:x?}");
        assert!(got[32..].iter().all(|w| f32::from_bits(*w).is_nan()), "{got:x?}");
    }
}
