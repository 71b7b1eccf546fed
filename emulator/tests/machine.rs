//! The machine: PTX text in, results out. Expected values are worked out by hand.

mod machine_support;
use machine_support::*;

/// One output word per thread: `out[tid] = %result`.
const STORE: &str = "
    ld.param.u64 %out, [p0];
    mov.u32 %tid, %tid.x;
    mad.wide.u32 %at, %tid, 4, %out;
    st.global.b32 [%at], %result;
    ret;";
const REGS: &str = "
    .reg .b32 %tid, %result, %a, %b, %c, %d;
    .reg .b64 %out, %at, %x, %y;
    .reg .pred %p, %q;";

fn thread_words(body: &str, threads: u32, f: impl Fn(u32) -> u32) {
    let expected: Vec<u32> = (0..threads).map(f).collect();
    expect("", &format!("{REGS}\n{body}\n{STORE}"), threads, 0, &expected);
}

#[test]
fn identity() {
    thread_words("mov.u32 %result, %tid.x;", 40, |t| t);
}

#[test]
fn vector_addition_over_blocks() {
    let text = module(
        3,
        "",
        "
    .reg .b32 %r<5>;
    .reg .b64 %d<10>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    mul.wide.u32 %d1, %r4, 4;
    ld.param.u64 %d2, [p0];
    ld.param.u64 %d3, [p1];
    ld.param.u64 %d4, [p2];
    add.s64 %d5, %d2, %d1;
    add.s64 %d6, %d3, %d1;
    add.s64 %d7, %d4, %d1;
    .reg .f32 %f<4>;
    ld.global.f32 %f1, [%d5];
    ld.global.nc.f32 %f2, [%d6];
    add.rn.f32 %f3, %f1, %f2;
    st.global.f32 [%d7], %f3;
    ret;",
    );
    let mut bench = Bench::new(&text);
    let a: Vec<u32> = (0..1024).map(|i| (i as f32).to_bits()).collect();
    let b: Vec<u32> = (0..1024).map(|i| (0.5 * i as f32).to_bits()).collect();
    let (a, b) = (bench.words(&a), bench.words(&b));
    let out = bench.blank(4096);
    bench.run(8, 128, &[a, b, out]).unwrap();
    let got = bench.read_words(out, 1024);
    assert!(got.iter().enumerate().all(|(i, w)| f32::from_bits(*w) == 1.5 * i as f32));
    let counters = bench.machine.counters(0);
    assert_eq!((counters.blocks, counters.launches, counters.sms_used), (8, 1, 4));
    assert_eq!(counters.instructions, 8 * 4 * 16);
    assert_eq!(counters.thread_instructions, 8 * 128 * 16);
    assert_eq!((counters.global_load_bytes, counters.global_store_bytes), (8192, 4096));
}

#[test]
fn integer_arithmetic() {
    thread_words("mov.u32 %a, %tid.x; add.u32 %b, %a, 0xfffffff0; mul.hi.u32 %result, %b, %b;", 32, |t| {
        let b = t.wrapping_add(0xffff_fff0) as u64;
        ((b * b) >> 32) as u32
    });
    thread_words("mov.u32 %a, %tid.x; shl.b32 %result, 0x80000001, %a;", 40, |t| {
        if t > 31 { 0 } else { 0x8000_0001u32 << t }
    });
    thread_words("mov.u32 %a, %tid.x; shr.s32 %result, 0x80000000, %a;", 40, |t| {
        (i32::MIN >> t.min(31)) as u32
    });
    thread_words(
        "mov.u32 %a, %tid.x; sub.s32 %b, %a, 16; div.s32 %c, %b, 3; rem.s32 %d, %b, 3; mad.lo.s32 %result, %c, 100, %d;",
        32,
        |t| {
            let b = t as i32 - 16;
            (b / 3 * 100 + b % 3) as u32
        },
    );
    thread_words(
        "mov.u32 %a, 7; div.u32 %b, %a, 0; rem.u32 %c, %a, 0; and.b32 %b, %b, %c; mov.u32 %result, %b;",
        32,
        |_| 7,
    );
    thread_words("mov.u32 %a, 0x7fffffff; add.sat.s32 %result, %a, 5;", 32, |_| 0x7fff_ffff);
    thread_words("mov.u32 %a, %tid.x; add.cc.u32 %b, %a, 0xfffffffe; addc.u32 %result, 10, 0;", 32, |t| {
        10 + (t >= 2) as u32
    });
    thread_words(
        "mov.u32 %a, %tid.x; popc.b32 %b, %a; clz.b32 %c, %a; mad.lo.u32 %result, %b, 100, %c;",
        32,
        |t| t.count_ones() * 100 + t.leading_zeros(),
    );
    thread_words("mov.u32 %a, %tid.x; lop3.b32 %result, %a, 12, 10, 0xe8;", 32, |t| (t & 12) | (t & 10) | 8);
    thread_words("mov.u32 %a, %tid.x; prmt.b32 %result, 0x44332211, %a, 0x0142;", 32, |t| {
        0x1122_0033 | t << 8
    });
    thread_words("mov.u32 %a, %tid.x; bfi.b32 %result, %a, 0xffffffff, 8, 8;", 32, |t| 0xffff_00ff | t << 8);
    thread_words("mov.u32 %a, %tid.x; shf.l.wrap.b32 %result, 0x80000000, 1, %a;", 32, |t| {
        ((0x1_8000_0000u64 << t) >> 32) as u32
    });
}

#[test]
fn sixty_four_and_sixteen_bits() {
    thread_words(
        "mov.u32 %a, %tid.x; mul.wide.s32 %x, %a, -3; shr.s64 %x, %x, 1; cvt.u32.u64 %result, %x;",
        32,
        |t| ((t as i64 * -3) >> 1) as u32,
    );
    thread_words(
        ".reg .b16 %h, %i; mov.u32 %a, %tid.x; cvt.u16.u32 %h, %a; sub.s16 %h, %h, 5; mul.wide.s16 %result, %h, %h;",
        32,
        |t| ((t as i32 - 5) * (t as i32 - 5)) as u32,
    );
    thread_words(
        ".reg .b16 %h, %i; mov.u32 %a, 0x12345678; mov.b32 {%h, %i}, %a; mov.b32 %result, {%i, %h};",
        32,
        |_| 0x5678_1234,
    );
    thread_words(
        "mov.u64 %x, 0x123456789abcdef0; mov.b64 {%a, %b}, %x; xor.b32 %result, %a, %b;",
        32,
        |_| 0x9abc_def0 ^ 0x1234_5678,
    );
}

#[test]
fn floats_and_predicates() {
    thread_words(
        ".reg .f32 %f, %g; mov.u32 %a, %tid.x; cvt.rn.f32.u32 %f, %a; fma.rn.f32 %g, %f, 0f3FC00000, 0fBF800000; mov.b32 %result, %g;",
        32,
        |t| (t as f32 * 1.5 - 1.0).to_bits(),
    );
    thread_words(
        ".reg .f32 %f; mov.u32 %a, %tid.x; cvt.rn.f32.u32 %f, %a; sub.f32 %f, %f, 0f41800000; setp.lt.f32 %p, %f, 0f00000000; selp.b32 %result, 1, 2, %p;",
        32,
        |t| if t < 16 { 1 } else { 2 },
    );
    thread_words(
        ".reg .f32 %f; mov.f32 %f, 0f7FC00000; setp.ltu.f32 %p, %f, 0f00000000; setp.lt.f32 %q, %f, 0f00000000; selp.b32 %a, 1, 0, %p; selp.b32 %b, 2, 0, %q; add.u32 %result, %a, %b;",
        32,
        |_| 1,
    );
    thread_words(
        ".reg .f32 %f; mov.f32 %f, 0f3F800000; ex2.approx.ftz.f32 %f, %f; mov.b32 %result, %f;",
        32,
        |_| 2f32.to_bits(),
    );
    // 1 + 2^-8 is half way between two BF16 values: to even.
    thread_words(
        ".reg .f32 %f, %g; .reg .b32 %h; mov.f32 %f, 0f3F808000; mov.f32 %g, 0f3F818000; cvt.rn.bf16x2.f32 %h, %f, %g; mov.b32 %result, %h;",
        32,
        |_| 0x3f80_3f82,
    );
    thread_words(
        "mov.u32 %a, %tid.x; setp.gt.u32 %p|%q, %a, 10; selp.b32 %a, 1, 0, %p; selp.b32 %b, 2, 0, %q; add.u32 %result, %a, %b;",
        32,
        |t| {
            if t > 10 { 1 } else { 2 }
        },
    );
}

#[test]
fn divergence_reconverges() {
    // Odd and even lanes take different roads and meet again at the shuffle.
    thread_words(
        "
    mov.u32 %a, %tid.x;
    and.b32 %b, %a, 1;
    setp.eq.u32 %p, %b, 0;
    @%p bra even;
    mul.lo.u32 %c, %a, 10;
    bra together;
even:
    add.u32 %c, %a, 1000;
together:
    shfl.sync.bfly.b32 %result, %c, 1, 31, 0xffffffff;",
        32,
        |t| if t % 2 == 0 { (t + 1) * 10 } else { t - 1 + 1000 },
    );
    // A loop whose trip count differs per lane.
    thread_words(
        "
    mov.u32 %a, %tid.x;
    mov.u32 %c, 0;
again:
    add.u32 %c, %c, %a;
    sub.u32 %a, %a, 1;
    setp.gt.s32 %p, %a, 0;
    @%p bra again;
    bar.warp.sync 0xffffffff;
    mov.u32 %result, %c;",
        32,
        |t| t * (t + 1) / 2,
    );
}

#[test]
fn an_indexed_branch() {
    thread_words(
        "
    mov.u32 %a, %tid.x;
    and.b32 %a, %a, 3;
table: .branchtargets one, two, three, four;
    brx.idx %a, table;
one:
    mov.u32 %result, 10; bra done;
two:
    mov.u32 %result, 20; bra done;
three:
    mov.u32 %result, 30; bra done;
four:
    mov.u32 %result, 40;
done:",
        32,
        |t| 10 * (t % 4 + 1),
    );
}

/// A lane that waits for another lane of its own warp, and a warp that waits for another.
#[test]
fn spin_loops_starve_nobody() {
    let shared = ".shared .align 4 .b32 flag;";
    let body = |who: &str| {
        format!(
            "{REGS}
    .reg .b32 %f;
    mov.u32 %f, flag;
    mov.u32 %a, %tid.x;
    setp.eq.u32 %p, %a, 0;
    @%p st.shared.b32 [%f], 0;
    bar.sync 0;
    setp.eq.u32 %p, %a, {who};
    @%p bra setter;
wait:
    ld.volatile.shared.b32 %b, [%f];
    setp.ne.u32 %q, %b, 77;
    @%q bra wait;
    bra finish;
setter:
    st.volatile.shared.b32 [%f], 77;
    mov.u32 %b, 77;
finish:
    mov.u32 %result, %b;
{STORE}"
        )
    };
    expect(shared, &body("31"), 32, 0, &[77; 32]);
    expect(shared, &body("95"), 96, 0, &[77; 96]);
    // A lock taken in turn by every lane.
    let lock = format!(
        "{REGS}
    .reg .b32 %f;
    mov.u32 %f, flag;
    mov.u32 %a, %tid.x;
    setp.eq.u32 %p, %a, 0;
    @%p st.shared.v2.b32 [%f], {{0, 0}};
    bar.sync 0;
    mov.pred %q, 0;
try:
    atom.shared.acquire.cta.cas.b32 %b, [%f], 0, 1;
    setp.ne.u32 %p, %b, 0;
    @%p bra try;
    ld.shared.b32 %c, [%f+4];
    add.u32 %c, %c, 1;
    st.shared.b32 [%f+4], %c;
    atom.shared.release.cta.exch.b32 %d, [%f], 0;
    bar.sync 0;
    ld.shared.b32 %result, [%f+4];
{STORE}"
    );
    expect(".shared .align 8 .b32 flag[2];", &lock, 64, 0, &[64; 64]);
}

#[test]
fn barriers_with_counts_and_reductions() {
    // Warp 0 produces, arrives; warp 1 consumes after a barrier of 64 threads.
    let body = format!(
        "{REGS}
    .reg .b32 %f;
    mov.u32 %f, box;
    mov.u32 %a, %tid.x;
    shl.b32 %b, %a, 2;
    setp.ge.u32 %p, %a, 32;
    @%p bra consumer;
    add.u32 %c, %f, %b;
    st.shared.b32 [%c], %a;
    bar.arrive 3, 64;
    mov.u32 %result, 5;
    bra end;
consumer:
    bar.sync 3, 64;
    sub.u32 %c, 252, %b;
    add.u32 %c, %c, %f;
    ld.shared.b32 %result, [%c];
end:
{STORE}"
    );
    let expected: Vec<u32> = (0..64).map(|t| if t < 32 { 5 } else { 63 - t }).collect();
    expect(".shared .align 4 .b32 box[32];", &body, 64, 0, &expected);
    thread_words(
        "mov.u32 %a, %tid.x; setp.lt.u32 %p, %a, 50; barrier.cta.red.popc.aligned.u32 %result, 0, %p;",
        96,
        |_| 50,
    );
}

#[test]
fn shuffles_and_votes() {
    thread_words(
        "mov.u32 %a, %tid.x; shfl.sync.up.b32 %result|%p, %a, 3, 0, 0xffffffff; @!%p mov.u32 %result, 99;",
        32,
        |t| {
            if t < 3 { 99 } else { t - 3 }
        },
    );
    thread_words("mov.u32 %a, %tid.x; shfl.sync.down.b32 %result, %a, 4, 0x181f, 0xffffffff;", 32, |t| {
        if t % 8 + 4 < 8 { t + 4 } else { t }
    });
    thread_words("mov.u32 %a, %tid.x; shfl.sync.idx.b32 %result, %a, 5, 31, 0xffffffff;", 32, |_| 5);
    thread_words(
        "mov.u32 %a, %tid.x; setp.lt.u32 %p, %a, 7; vote.sync.ballot.b32 %result, %p, 0xffffffff;",
        32,
        |_| 0x7f,
    );
    thread_words(
        "mov.u32 %a, %tid.x; setp.lt.u32 %p, %a, 7; vote.sync.all.pred %q, %p, 0xffffffff; selp.b32 %result, 1, 0, %q;",
        32,
        |_| 0,
    );
    thread_words("elect.sync %a|%p, 0xffffffff; selp.b32 %result, 1, 0, %p;", 64, |t| (t % 32 == 0) as u32);
    thread_words("mov.u32 %a, %tid.x; redux.sync.max.u32 %result, %a, 0xffffffff;", 32, |_| 31);
    thread_words(
        "mov.u32 %a, %tid.x; shr.u32 %a, %a, 2; match.any.sync.b32 %result, %a, 0xffffffff;",
        32,
        |t| 15 << (t / 4 * 4),
    );
    thread_words("activemask.b32 %result;", 40, |t| if t < 32 { u32::MAX } else { 0xff });
}

#[test]
fn memories() {
    // Vectors, sign extension, local memory, generic addresses.
    thread_words(
        "
    .local .align 16 .b8 mine[64];
    .reg .b64 %l, %g;
    mov.u64 %l, mine;
    cvta.local.u64 %g, %l;
    mov.u32 %a, %tid.x;
    add.u32 %b, %a, 0xffffff80;
    st.local.v2.b32 [%l+8], {%a, %b};
    ld.s8 %c, [%g+12];
    ld.local.v2.u16 {%d, %a}, [%l+12];
    add.u32 %result, %c, %a;",
        32,
        |t| {
            let b = t.wrapping_add(0xffff_ff80);
            (b as u8 as i8 as i32 as u32).wrapping_add(b >> 16)
        },
    );
    // Atomics in shared memory.
    let body = format!(
        "{REGS}
    .reg .b32 %f;
    mov.u32 %f, sum;
    mov.u32 %a, %tid.x;
    setp.eq.u32 %p, %a, 0;
    @%p st.shared.b32 [%f], 0;
    bar.sync 0;
    red.shared.add.u32 [%f], %a;
    bar.sync 0;
    ld.shared.b32 %result, [%f];
{STORE}"
    );
    expect(".shared .align 4 .b32 sum;", &body, 128, 0, &[127 * 64; 128]);
}

#[test]
fn constants_and_globals() {
    let text = module(
        1,
        ".const .align 4 .b32 table[4] = {5, 6, 7, 8};\n.global .align 4 .b32 counter = 100;",
        &format!(
            "{REGS}
    .reg .b64 %t;
    mov.u32 %a, %tid.x;
    and.b32 %b, %a, 3;
    mul.wide.u32 %x, %b, 4;
    mov.u64 %t, table;
    add.u64 %t, %t, %x;
    ld.const.b32 %c, [%t];
    mov.u64 %t, counter;
    red.global.add.u32 [%t], 1;
    mov.u32 %result, %c;
{STORE}"
        ),
    );
    let mut bench = Bench::new(&text);
    let out = bench.blank(128);
    bench.run(1, 32, &[out]).unwrap();
    assert_eq!(bench.read_words(out, 5), [5, 6, 7, 8, 5]);
    let (address, bytes) = bench.machine.global(bench.module, "counter").unwrap();
    assert_eq!((bench.read_words(address, 1), bytes), (vec![132], 4));
}

#[test]
fn matrices_go_out_and_come_back() {
    // stmatrix lays four 8×8 matrices down; ldmatrix.trans brings each back transposed.
    let body = format!(
        "{REGS}
    .reg .b32 %f, %r<8>;
    mov.u32 %f, box;
    mov.u32 %a, %tid.x;
    shl.b32 %b, %a, 4;
    add.u32 %f, %f, %b;
    mul.lo.u32 %r1, %a, 0x20002;
    add.u32 %r1, %r1, 0x10000;
    add.u32 %r2, %r1, 0x01000100;
    stmatrix.sync.aligned.m8n8.x2.shared.b16 [%f], {{%r1, %r2}};
    bar.warp.sync 0xffffffff;
    ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {{%r3, %r4}}, [%f];
    xor.b32 %result, %r3, %r4;
{STORE}"
    );
    // Element (i, j) of the first matrix is 8 i + j, of the second 256 more.
    let expected: Vec<u32> = (0..32u32)
        .map(|l| {
            let (i, j) = (l / 4, 2 * (l % 4));
            let pair = |base: u32| (8 * j + i + base) | (8 * (j + 1) + i + base) << 16;
            pair(0) ^ pair(256)
        })
        .collect();
    expect(".shared .align 16 .b8 box[512];", &body, 32, 0, &expected);
}

#[test]
fn set_max_registers_moves_the_pool() {
    // Two warpgroups of a kernel with 128 registers: one gives 88 back, the other takes them.
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p0) .maxnreg 128 .reqntid 256\n{{{REGS}
    mov.u32 %a, %tid.x;
    setp.ge.u32 %p, %a, 128;
    @%p bra taker;
    setmaxnreg.dec.sync.aligned.u32 40;
    mov.u32 %result, 40;
    bra end;
taker:
    setmaxnreg.inc.sync.aligned.u32 216;
    mov.u32 %result, 216;
end:
{STORE}
}}"
    );
    let mut bench = Bench::new(&text);
    let out = bench.blank(1024);
    bench.run(1, 256, &[out]).unwrap();
    let got = bench.read_words(out, 256);
    assert!(got[..128].iter().all(|w| *w == 40) && got[128..].iter().all(|w| *w == 216));
}

#[test]
fn clusters_share_memory() {
    // Each block of a pair writes its rank into the other's shared memory.
    let text = module(
        1,
        ".shared .align 4 .b32 box;",
        &format!(
            "{REGS}
    .reg .b32 %f, %g, %rank, %other;
    mov.u32 %f, box;
    mov.u32 %rank, %cluster_ctarank;
    xor.b32 %other, %rank, 1;
    mapa.shared::cluster.u32 %g, %f, %other;
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
    add.u32 %a, %rank, 50;
    mov.u32 %tid, %tid.x;
    setp.eq.u32 %p, %tid, 0;
    @%p st.shared::cluster.b32 [%g], %a;
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
    ld.shared.b32 %result, [%f];
    ld.param.u64 %out, [p0];
    mov.u32 %a, %ctaid.x;
    mad.wide.u32 %at, %a, 4, %out;
    st.global.b32 [%at], %result;
    ret;"
        ),
    );
    let mut bench = Bench::new(&text);
    let out = bench.blank(32);
    let launch = hadal_emulator::Launch {
        grid: [8, 1, 1],
        block: [64, 1, 1],
        cluster: Some([2, 1, 1]),
        params: out.to_le_bytes().to_vec(),
        ..Default::default()
    };
    bench.launch(launch).unwrap();
    assert_eq!(bench.read_words(out, 8), [51, 50, 51, 50, 51, 50, 51, 50]);
}
