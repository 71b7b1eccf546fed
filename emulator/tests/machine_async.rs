//! Asynchronous operations: bulk and tensor copies with mbarriers, `cp.async`, `wgmma`, streams and dependent grids, under
//! every schedule and completion policy.

mod machine_support;
use hadal_emulator::tma::{DataType, Swizzle};
use hadal_emulator::{Launch, Schedule};
use machine_support::*;

/// Waits for a phase of the mbarrier at `%bar`.
fn wait(label: &str, parity: &str) -> String {
    format!(
        "{label}: mbarrier.try_wait.parity.shared::cta.b64 %p, [%bar], {parity};
    @%p bra {label}_done;
    bra {label};
{label}_done:"
    )
}

#[test]
fn a_bulk_copy_and_its_mbarrier() {
    let text = module(
        2,
        ".shared .align 128 .b8 box[512]; .shared .align 8 .b64 full;",
        &format!(
            "
    .reg .b32 %bar, %box, %tid, %at, %v;
    .reg .b64 %in, %out, %x;
    .reg .pred %p, %first;
    mov.u32 %bar, full;
    mov.u32 %box, box;
    mov.u32 %tid, %tid.x;
    ld.param.u64 %in, [p0];
    setp.eq.u32 %first, %tid, 0;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    fence.mbarrier_init.release.cluster;
    bar.sync 0;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 512;
    @%first cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%box], [%in], 512, [%bar];
    {}
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %box;
    ld.shared.b32 %v, [%at];
    add.u32 %v, %v, 1;
    st.shared.b32 [%at], %v;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    ld.param.u64 %out, [p1];
    @%first cp.async.bulk.global.shared::cta.bulk_group [%out], [%box], 512;
    @%first cp.async.bulk.commit_group;
    @%first cp.async.bulk.wait_group 0;
    ret;",
            wait("loop", "0")
        ),
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let input = bench.words(&(0..128).map(|i| i * i).collect::<Vec<_>>());
        let out = bench.blank(512);
        bench.run(1, 128, &[input, out]).unwrap();
        assert_eq!(bench.read_words(out, 128), (0..128).map(|i| i * i + 1).collect::<Vec<_>>());
        assert!(bench.machine.is_written(out, 512).unwrap());
        let counters = bench.machine.counters(0);
        assert_eq!((counters.tma_load_bytes, counters.tma_store_bytes), (512, 512));
    }
}

/// A ring of two stages: warp 0 loads tiles of a matrix with 128-byte swizzling, warps 1 and 2 write each tile, element
/// plus one, back through a second map. The last tile hangs out of the matrix on both sides.
#[test]
fn a_ring_of_tensor_copies() {
    const COLS: u64 = 100;
    const ROWS: u64 = 21;
    let body = "
    .reg .b32 %bars, %bar, %box, %tid, %warp, %lane, %i, %stage, %parity, %at, %v, %k, %tx, %ty, %row, %x;
    .reg .b64 %in, %out;
    .reg .pred %p, %q, %first;
    mov.u32 %bars, bars;
    mov.u32 %box, ring;
    mov.u32 %tid, %tid.x;
    shr.u32 %warp, %tid, 5;
    and.b32 %lane, %tid, 31;
    mov.b64 %in, m0;
    cvta.param.u64 %in, %in;
    mov.b64 %out, m1;
    cvta.param.u64 %out, %out;
    setp.ne.u32 %p, %tid, 0;
    @%p bra ready;
    mbarrier.init.shared::cta.b64 [%bars], 1;
    mbarrier.init.shared::cta.b64 [%bars+8], 1;
    mbarrier.init.shared::cta.b64 [%bars+16], 64;
    mbarrier.init.shared::cta.b64 [%bars+24], 64;
    fence.mbarrier_init.release.cluster;
ready:
    bar.sync 0;
    mov.u32 %i, 0;
    setp.ne.u32 %p, %warp, 0;
    @%p bra consumer;
    elect.sync _|%first, 0xffffffff;
    @!%first bra end;
produce:
    and.b32 %stage, %i, 1;
    shr.u32 %parity, %i, 1;
    not.b32 %parity, %parity;
    and.b32 %parity, %parity, 1;
    shl.b32 %bar, %stage, 3;
    add.u32 %bar, %bar, %bars;
p_wait:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar+16], %parity;
    @!%q bra p_wait;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 1024;
    shl.b32 %at, %stage, 10;
    add.u32 %at, %at, %box;
    and.b32 %tx, %i, 3;
    shl.b32 %tx, %tx, 5;
    shr.u32 %ty, %i, 2;
    shl.b32 %ty, %ty, 3;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%at], [%in, {%tx, %ty}], [%bar];
    add.u32 %i, %i, 1;
    setp.lt.u32 %p, %i, 12;
    @%p bra produce;
    bra end;
consumer:
    and.b32 %stage, %i, 1;
    shr.u32 %parity, %i, 1;
    and.b32 %parity, %parity, 1;
    shl.b32 %bar, %stage, 3;
    add.u32 %bar, %bar, %bars;
c_wait:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], %parity;
    @!%q bra c_wait;
    shl.b32 %at, %stage, 10;
    add.u32 %at, %at, %box;
    // Each thread takes one word of each of four rows: warp 1 the even rows, warp 2 the odd ones.
    mov.u32 %k, 0;
rows:
    shl.b32 %row, %k, 1;
    add.u32 %row, %row, %warp;
    sub.u32 %row, %row, 1;
    shl.b32 %x, %row, 7;
    shl.b32 %v, %lane, 2;
    add.u32 %x, %x, %v;
    shl.b32 %v, %row, 4;
    xor.b32 %x, %x, %v;
    add.u32 %x, %x, %at;
    ld.shared.b32 %v, [%x];
    add.u32 %v, %v, 1;
    st.shared.b32 [%x], %v;
    add.u32 %k, %k, 1;
    setp.lt.u32 %p, %k, 4;
    @%p bra rows;
    fence.proxy.async.shared::cta;
    bar.sync 1, 64;
    setp.ne.u32 %p, %tid, 32;
    @%p bra stored;
    and.b32 %tx, %i, 3;
    shl.b32 %tx, %tx, 5;
    shr.u32 %ty, %i, 2;
    shl.b32 %ty, %ty, 3;
    cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%out, {%tx, %ty}], [%at];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0;
stored:
    bar.sync 1, 64;
    mbarrier.arrive.shared::cta.b64 _, [%bar+16];
    add.u32 %i, %i, 1;
    setp.lt.u32 %p, %i, 12;
    @%p bra consumer;
end:
    ret;";
    let text = module_with_maps(
        2,
        0,
        ".extern .shared .align 1024 .b8 ring[]; .shared .align 8 .b64 bars[4];",
        body,
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let words: Vec<u32> = (0..COLS as u32 * ROWS as u32).map(|i| 3 * i).collect();
        let input = bench.words(&words);
        let out = bench.blank(COLS * ROWS * 4);
        let map = |address| matrix_map(DataType::U32, address, [COLS, ROWS], [32, 8], Swizzle::B128);
        let maps = [map(input), map(out)];
        bench
            .launch(Launch {
                grid: [1, 1, 1],
                block: [96, 1, 1],
                dynamic_shared: 2048,
                params: params(&maps, &[]),
                ..Launch::default()
            })
            .unwrap_or_else(|f| panic!("{f}"));
        let expected: Vec<u32> = words.iter().map(|w| w + 1).collect();
        assert_eq!(bench.read_words(out, expected.len()), expected);
    }
}

#[test]
fn cp_async_by_groups_and_by_mbarrier() {
    let decl = ".shared .align 16 .b8 box[1024]; .shared .align 8 .b64 full;";
    let text = module(
        2,
        decl,
        &format!(
            "
    .reg .b32 %bar, %box, %tid, %at, %v, %w;
    .reg .b64 %in, %out, %x;
    .reg .pred %p, %first;
    mov.u32 %bar, full;
    mov.u32 %box, box;
    mov.u32 %tid, %tid.x;
    ld.param.u64 %in, [p0];
    ld.param.u64 %out, [p1];
    setp.eq.u32 %first, %tid, 0;
    @%first mbarrier.init.shared::cta.b64 [%bar], 32;
    bar.sync 0;
    mad.wide.u32 %x, %tid, 16, %in;
    mad.lo.u32 %at, %tid, 16, %box;
    cp.async.cg.shared.global [%at], [%x], 16;
    cp.async.commit_group;
    cp.async.ca.shared.global [%at+512], [%x], 4, 0;
    cp.async.commit_group;
    cp.async.wait_group 1;
    ld.shared.b32 %v, [%at+4];
    cp.async.mbarrier.arrive.noinc.shared.b64 [%bar];
    {}
    ld.shared.b32 %w, [%at+512];
    add.u32 %v, %v, %w;
    mad.wide.u32 %x, %tid, 4, %out;
    st.global.b32 [%x], %v;
    ret;",
            wait("loop", "0")
        ),
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let input = bench.words(&(0..128).collect::<Vec<_>>());
        let out = bench.blank(128);
        bench.run(1, 32, &[input, out]).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(bench.read_words(out, 32), (0..32).map(|t| 4 * t + 1).collect::<Vec<_>>());
    }
}

/// The small integers of the products, and their exact results.
fn operand(rows: usize, k: usize, seed: usize) -> Vec<i32> {
    (0..rows * k).map(|i| ((i * 7 + i / k * 3 + seed) % 5) as i32 - 2).collect()
}

fn product(a: &[i32], b: &[i32], n: usize, k: usize) -> Vec<i32> {
    let mut d = vec![0; 64 * n];
    for i in 0..64 {
        for j in 0..n {
            d[i * n + j] = (0..k).map(|x| a[i * k + x] * b[j * k + x]).sum();
        }
    }
    d
}

/// Where element `r` of thread `t`'s accumulators lies.
fn fragment(t: usize, r: usize, n: usize) -> usize {
    let (warp, lane) = (t / 32, t % 32);
    let (row, col) = (16 * warp + lane / 4 + 8 * (r / 2 % 2), 8 * (r / 4) + 2 * (lane % 4) + r % 2);
    row * n + col
}

const WGMMA_HEAD: &str = "
    .reg .b32 %bar, %box, %tid, %d<9>, %q<5>, %lo, %hi;
    .reg .b64 %ma, %mb, %da, %db, %out, %x;
    .reg .pred %p, %first;
    mov.u32 %bar, full;
    mov.u32 %box, tiles;
    mov.u32 %tid, %tid.x;
    mov.b64 %ma, m0;
    cvta.param.u64 %ma, %ma;
    mov.b64 %mb, m1;
    cvta.param.u64 %mb, %mb;
    setp.eq.u32 %first, %tid, 0;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    bar.sync 0;
    @!%first bra loop;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 10240;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%box], [%ma, {0, 0}], [%bar];
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%box+8192], [%mb, {0, 0}], [%bar];
";
const WGMMA_TAIL: &str = "
    ld.param.u64 %out, [p0];
    mad.wide.u32 %x, %tid, 32, %out;
    st.global.v4.b32 [%x], {%d1, %d2, %d3, %d4};
    st.global.v4.b32 [%x+16], {%d5, %d6, %d7, %d8};
    ret;";
const DESCRIPTORS: &str = "
    // Start address, stride of 1024 bytes between groups of 8 rows, 128-byte swizzle.
    shr.u32 %lo, %box, 4;
    and.b32 %lo, %lo, 0x3fff;
    mov.u32 %hi, 0x40000040;
    mov.b64 %da, {%lo, %hi};
    add.s64 %db, %da, 512;
";

#[test]
fn products_of_fp8_tiles() {
    // 64×16×128: four instructions of 32 on tiles with 128-byte rows, stepping through the swizzle row.
    let mut steps = String::new();
    for step in 0..4 {
        steps += &format!(
            "setp.ne.u32 %p, {step}, 0;
    wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3 {{%d1, %d2, %d3, %d4, %d5, %d6, %d7, %d8}}, %da, %db, %p, 1, 1;
    add.s64 %da, %da, 2;
    add.s64 %db, %db, 2;\n"
        );
    }
    let body = format!(
        "{WGMMA_HEAD}{}{DESCRIPTORS}
    wgmma.fence.sync.aligned;
    {steps}
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
{WGMMA_TAIL}",
        wait("loop", "0")
    );
    let text =
        module_with_maps(2, 1, ".extern .shared .align 1024 .b8 tiles[]; .shared .align 8 .b64 full;", &body);
    let (a, b) = (operand(64, 128, 0), operand(16, 128, 2));
    let expected = product(&a, &b, 16, 128);
    let e4m3 =
        |v: &[i32]| -> Vec<u8> { v.iter().map(|v| [0xc0, 0xb8, 0, 0x38, 0x40][(v + 2) as usize]).collect() };
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let (pa, pb) = (bench.bytes(&e4m3(&a)), bench.bytes(&e4m3(&b)));
        let out = bench.blank(128 * 32);
        let maps = [
            matrix_map(DataType::U8, pa, [128, 64], [128, 64], Swizzle::B128),
            matrix_map(DataType::U8, pb, [128, 16], [128, 16], Swizzle::B128),
        ];
        bench
            .launch(Launch {
                grid: [1, 1, 1],
                block: [128, 1, 1],
                dynamic_shared: 10240,
                params: params(&maps, &[out]),
                ..Launch::default()
            })
            .unwrap_or_else(|f| panic!("{f}"));
        let got = bench.read_words(out, 128 * 8);
        for t in 0..128 {
            for r in 0..8 {
                let want = expected[fragment(t, r, 16)] as f32;
                assert_eq!(f32::from_bits(got[t * 8 + r]), want, "thread {t} register {r}");
            }
        }
        let counters = bench.machine.counters(0);
        assert_eq!((counters.wgmma, counters.wgmma_flops), (4, 2 * 64 * 16 * 128));
    }
}

#[test]
fn products_of_bf16_with_a_in_registers() {
    // A fragments are read from the swizzled tile by hand: K = 16 of a 64-wide row, once plain and once negated.
    let body = format!(
        "{WGMMA_HEAD}{}{DESCRIPTORS}
    .reg .b32 %lane, %row, %at, %sw, %col;
    and.b32 %lane, %tid, 31;
    shr.u32 %row, %tid, 5;
    shl.b32 %row, %row, 4;
    shr.u32 %at, %lane, 2;
    add.u32 %row, %row, %at;
    and.b32 %col, %lane, 3;
    shl.b32 %col, %col, 2;
    // Byte 32 + col of a row: chunk 2 is XORed with the row's low bits; rows 8 apart share them.
    and.b32 %sw, %row, 7;
    xor.b32 %at, %sw, 2;
    shl.b32 %at, %at, 4;
    add.u32 %at, %at, %col;
    shl.b32 %hi, %row, 7;
    add.u32 %at, %at, %hi;
    add.u32 %at, %at, %box;
    ld.shared.b32 %q1, [%at];
    ld.shared.b32 %q2, [%at+1024];
    xor.b32 %at, %sw, 3;
    shl.b32 %at, %at, 4;
    add.u32 %at, %at, %col;
    add.u32 %at, %at, %hi;
    add.u32 %at, %at, %box;
    ld.shared.b32 %q3, [%at];
    ld.shared.b32 %q4, [%at+1024];
    add.s64 %db, %db, 2;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {{%d1, %d2, %d3, %d4, %d5, %d6, %d7, %d8}}, {{%q1, %q2, %q3, %q4}}, %db, 0, 1, 1, 0;
    wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {{%d1, %d2, %d3, %d4, %d5, %d6, %d7, %d8}}, {{%q1, %q2, %q3, %q4}}, %db, 1, 1, 1, 0;
    wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {{%d1, %d2, %d3, %d4, %d5, %d6, %d7, %d8}}, {{%q1, %q2, %q3, %q4}}, %db, 1, -1, 1, 0;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
{WGMMA_TAIL}",
        wait("loop", "0")
    );
    let text =
        module_with_maps(2, 1, ".extern .shared .align 1024 .b8 tiles[]; .shared .align 8 .b64 full;", &body);
    let (a, b) = (operand(64, 64, 1), operand(16, 64, 3));
    // K 16 to 31 only.
    let part = |v: &[i32]| -> Vec<i32> { v.chunks(64).flat_map(|r| r[16..32].to_vec()).collect() };
    let expected = product(&part(&a), &part(&b), 16, 16);
    let bf16 = |v: &[i32]| -> Vec<u8> {
        v.iter().flat_map(|v| (((*v as f32).to_bits() >> 16) as u16).to_le_bytes()).collect()
    };
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let (pa, pb) = (bench.bytes(&bf16(&a)), bench.bytes(&bf16(&b)));
        let out = bench.blank(128 * 32);
        let maps = [
            matrix_map(DataType::BF16, pa, [64, 64], [64, 64], Swizzle::B128),
            matrix_map(DataType::BF16, pb, [64, 16], [64, 16], Swizzle::B128),
        ];
        bench
            .launch(Launch {
                grid: [1, 1, 1],
                block: [128, 1, 1],
                dynamic_shared: 10240,
                params: params(&maps, &[out]),
                ..Launch::default()
            })
            .unwrap_or_else(|f| panic!("{f}"));
        let got = bench.read_words(out, 128 * 8);
        for t in 0..128 {
            for r in 0..8 {
                let want = expected[fragment(t, r, 16)] as f32;
                assert_eq!(f32::from_bits(got[t * 8 + r]), want, "thread {t} register {r}");
            }
        }
    }
}

/// The kernel adds one to a word after its prerequisites; `wait` is left out or not.
fn chain(wait: bool) -> String {
    let wait = if wait { "griddepcontrol.wait;" } else { "" };
    module(
        1,
        "",
        &format!(
            "
    .reg .b32 %v, %tid, %i;
    .reg .b64 %out;
    .reg .pred %p;
    griddepcontrol.launch_dependents;
    mov.u32 %i, 0;
spin:
    add.u32 %i, %i, 1;
    setp.lt.u32 %p, %i, 3000;
    @%p bra spin;
    {wait}
    ld.param.u64 %out, [p0];
    mov.u32 %tid, %tid.x;
    mad.wide.u32 %out, %tid, 4, %out;
    ld.global.b32 %v, [%out];
    nanosleep.u32 100;
    add.u32 %v, %v, 1;
    st.global.b32 [%out], %v;
    ret;"
        ),
    )
}

#[test]
fn grids_of_a_stream_follow_each_other() {
    for (wait, programmatic, ordered) in [(false, false, true), (true, true, true), (false, true, false)] {
        let mut kept = true;
        for config in configs().into_iter().filter(|c| c.schedule == Schedule::Random) {
            let mut config = config;
            // The results have to show it, not the checker.
            config.checks.races = ordered;
            let mut bench = Bench::with(config, &chain(wait));
            let out = bench.words(&[0; 64]);
            for _ in 0..4 {
                let launch = Launch {
                    grid: [1, 1, 1],
                    block: [64, 1, 1],
                    params: out.to_le_bytes().to_vec(),
                    programmatic,
                    ..Launch::default()
                };
                bench.machine.launch(bench.stream, bench.module, "k", &launch).unwrap();
            }
            bench.machine.synchronize(bench.stream).unwrap();
            kept &= bench.read_words(out, 64) == [4; 64];
        }
        assert_eq!(kept, ordered, "wait {wait}, programmatic {programmatic}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let config = hadal_emulator::MachineConfig {
            schedule: Schedule::Random,
            completion: hadal_emulator::Completion::Random,
            seed,
            ..config()
        };
        // The order in which threads win the lock is the schedule's.
        let body = "
    .reg .b32 %v, %tid;
    .reg .b64 %out, %x;
    ld.param.u64 %out, [p0];
    mov.u32 %tid, %tid.x;
    ld.volatile.global.b32 %v, [%out];
    atom.global.add.u32 %v, [%out], 1;
    mad.wide.u32 %x, %tid, 4, %out;
    st.global.b32 [%x+4], %v;
    ret;";
        let mut bench = Bench::with(config, &module(1, "", body));
        let out = bench.words(&[0; 1025]);
        bench.run(1, 1024, &[out]).unwrap();
        bench.read_words(out, 1025)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Streams of one device overlap: a kernel of one waits for a flag that a kernel of the other sets.
#[test]
fn streams_make_progress_together() {
    let body = "
    .reg .b32 %v;
    .reg .b64 %out, %role;
    .reg .pred %p;
    ld.param.u64 %out, [p0];
    ld.param.u64 %role, [p1];
    setp.ne.u64 %p, %role, 0;
    @%p bra set;
again:
    ld.acquire.gpu.global.b32 %v, [%out];
    setp.eq.u32 %p, %v, 0;
    @%p bra again;
    ret;
set:
    st.release.gpu.global.b32 [%out], 1;
    ret;";
    let mut bench = Bench::new(&module(2, "", body));
    let out = bench.words(&[0]);
    let second = bench.machine.create_stream(0);
    for (stream, role) in [(bench.stream, 0u64), (second, 1)] {
        let launch = Launch {
            grid: [1, 1, 1],
            block: [32, 1, 1],
            params: params(&[], &[out, role]),
            ..Launch::default()
        };
        bench.machine.launch(stream, bench.module, "k", &launch).unwrap();
    }
    bench.machine.synchronize(bench.stream).unwrap();
    assert!(bench.machine.query(second).unwrap());
}
