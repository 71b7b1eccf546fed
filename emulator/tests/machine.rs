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
