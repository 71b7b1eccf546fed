//! Classes 3, 4, 5 and 16: `wgmma`, its registers, its warps and its descriptors.

use super::*;

const TILES: &str = ".shared .align 1024 .b8 tiles[10240];";

/// Fills the tiles, multiplies them, and does something to the accumulators. Marks: `FENCE`, `WHO`, `FILL`, `WAIT`.
fn multiply(fence: &str, fill: &str, before: &str, commit: &str, wait: &str) -> String {
    format!(
        "{REGS}
    .reg .b32 %d<9>, %lo, %hi, %i;
    .reg .b64 %da, %db;
    mov.u32 %box, tiles;
    mad.lo.u32 %a, %tid, 16, %box;
    mov.u32 %i, 0;
fill:
    st.shared.v4.b32 [%a], {{%i, %i, %i, %i}};
    add.u32 %a, %a, 2048;
    add.u32 %i, %i, 1;
    setp.lt.u32 %p, %i, {fill};
    @%p bra fill;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    shr.u32 %lo, %box, 4;
    and.b32 %lo, %lo, 0x3fff;
    mov.u32 %hi, 0x40000040;
    mov.b64 %da, {{%lo, %hi}};
    add.s64 %db, %da, 512;
    mov.b32 %d1, 0;
    mov.b32 %d8, 0;
    {fence}
    {before}
    wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3 {{%d1, %d2, %d3, %d4, %d5, %d6, %d7, %d8}}, %da, %db, 0, 1, 1;
skip:
    {commit}
    {wait}
    add.u32 %a, %d1, %d8;
    ret;"
    )
}

const FENCE: &str = "wgmma.fence.sync.aligned;";

const COMMIT: &str = "wgmma.commit_group.sync.aligned;";

const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";

/// Convicts a product, with the other party.
fn flagged(class: Class, line: &str, other: &str, body: String) -> Report {
    let report = convicted(class, line, TILES, &body, 128, 0);
    let party = report.other.clone().unwrap_or_default();
    assert!(party.contains(other), "the other party is not {other}:\n{report}");
    report
}

#[test]
fn the_mended_product() {
    acquitted(TILES, &multiply(FENCE, "5", "", COMMIT, WAIT), 128, 0);
}

#[test]
fn class_03_missing_fence() {
    let wgmma = "wgmma.mma_async";
    flagged(Class::WgmmaFence, wgmma, "mov.b32 %d1, 0", multiply("", "5", "", COMMIT, WAIT));
    let late = multiply(FENCE, "5", "mov.b32 %d3, 0;", COMMIT, WAIT);
    flagged(Class::WgmmaFence, wgmma, "mov.b32 %d3, 0", late);
    // A chain of the same shape needs none between.
    let chain = "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3 {%d1, %d2, %d3, %d4, %d5, %d6, %d7, %d8}, %da, %db, 0, 1, 1;";
    acquitted(TILES, &multiply(FENCE, "5", chain, COMMIT, WAIT), 128, 0);
    // A from registers.
    let a_regs = |fence: &str| {
        let body = multiply("", "5", &format!("{FENCE} mov.b32 %lo, 0; {fence}"), COMMIT, WAIT);
        body.replace("%da, %db, 0, 1, 1", "{%lo, %lo, %lo, %lo}, %db, 1, 1, 1").replace(
            "mov.b32 %d1, 0;",
            "mov.b32 %d1, 0; mov.b32 %d2, 0; mov.b32 %d3, 0; mov.b32 %d4, 0; mov.b32 %d5, 0; mov.b32 %d6, 0; mov.b32 %d7, 0;",
        )
    };
    flagged(Class::WgmmaFence, wgmma, "mov.b32 %lo, 0", a_regs(""));
    acquitted(TILES, &a_regs(FENCE), 128, 0);
}

#[test]
fn class_04_registers_before_the_wait() {
    let (line, wgmma) = ("add.u32 %a, %d1", "wgmma.mma_async");
    flagged(Class::WgmmaInFlight, line, wgmma, multiply(FENCE, "5", "", COMMIT, ""));
    // What was not committed is covered by no wait.
    flagged(Class::WgmmaInFlight, line, wgmma, multiply(FENCE, "5", "", "", WAIT));
    // One group may stay in flight: ours does.
    let one = "wgmma.wait_group.sync.aligned 1;";
    flagged(Class::WgmmaInFlight, line, wgmma, multiply(FENCE, "5", "", COMMIT, one));
}

#[test]
fn class_05_warps_that_differ() {
    let half = "setp.ge.u32 %p, %tid, 96; @%p bra skip;";
    let report =
        flagged(Class::PartialWarpgroup, "wgmma", "warp 3", multiply(FENCE, "5", half, COMMIT, WAIT));
    assert!(report.to_string().contains("wgmma"), "{report}");

    let apart = "setp.ge.u32 %p, %tid, 96; @%p add.s64 %da, %da, 2;";
    let body = multiply(FENCE, "5", apart, COMMIT, WAIT);
    let report = flagged(Class::PartialWarpgroup, "wgmma.mma_async", "wgmma.mma_async", body);
    assert!(report.message.contains("different descriptors"), "{report}");
    let lanes = "cvt.u64.u32 %x, %tid; add.s64 %da, %da, %x;";
    flagged(Class::WgmmaOperand, "wgmma.mma_async", "", multiply(FENCE, "5", lanes, COMMIT, WAIT));
    // Accumulators of one product in flight, used by one of another shape.
    let other =
        "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%d1, %d2, %d3, %d4}, %da, %db, 0, 1, 1;";
    let body = |wait: &str| multiply(FENCE, "5", &format!("{other} {wait}"), COMMIT, WAIT);
    flagged(Class::WgmmaInFlight, "m64n16k32", "m64n8k32", body(""));
    acquitted(TILES, &body(&format!("{COMMIT} {WAIT} {FENCE}")), 128, 0);
}

#[test]
fn class_17_operands_never_written() {
    let body = multiply(FENCE, "4", "", COMMIT, WAIT);
    let report = flagged(Class::Uninitialised, "wgmma.mma_async", "", body);
    assert!(report.message.contains("operand B"), "{report}");
}

/// A tile of 64 rows of 128 bytes comes by a tensor copy with the 128-byte swizzle; the descriptors name one by its code.
#[test]
fn class_16_swizzles_that_differ() {
    let body = "
    .reg .b32 %r0, %r1, %r2, %r3, %hi;
    .reg .b64 %da;
    mov.u32 %box, tile;
    mov.u32 %bar, full;
    mov.b64 %x, m0;
    cvta.param.u64 %x, %x;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @!%first bra again;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 8192;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%box], [%x, {0, 0}], [%bar];
again:
    mbarrier.try_wait.parity.shared::cta.b64 %p, [%bar], 0;
    @!%p bra again;
    bar.warp.sync 0xffffffff;
    shr.u32 %b, %box, 4;
    or.b32 %b, %b, 65536;
    mov.b64 %da, {%b, @@};
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%r0, %r1, %r2, %r3}, %da, %da, 0, 1, 1;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    ret;";
    // Rows of eight lie 1024 bytes apart; the two highest bits are the swizzle.
    let run = |mode: u32| {
        let high = (mode << 30 | 64) as i32;
        let text = format!("{REGS}{}", body.replace("@@", &high.to_string()));
        let decl = ".shared .align 1024 .b8 tile[8192]; .shared .align 8 .b64 full;";
        let mut bench = Bench::new(&module_with_maps(1, 1, decl, &text));
        let input = bench.bytes(&[0; 8192]);
        let map = matrix_map(
            hadal_emulator::tma::DataType::U8,
            input,
            [128, 64],
            [128, 64],
            hadal_emulator::tma::Swizzle::B128,
        );
        let launch = Launch { params: params(&[map], &[input]), ..blocks(1, 128) };
        bench.launch(launch).err().map(|f| *f.report)
    };
    assert_eq!(run(1), None);
    for (mode, name) in [(0, "no swizzle"), (2, "64-byte"), (3, "32-byte")] {
        let report = run(mode).unwrap_or_else(|| panic!("mode {mode} passes"));
        assert_eq!(report.class, Class::WgmmaOperand, "{report}");
        assert!(report.place.ptx_text.contains("wgmma.mma_async"), "{report}");
        assert!(report.message.contains(name), "{report}");
        assert!(report.other.unwrap().contains("cp.async.bulk.tensor"));
    }
}

/// A descriptor whose rows leave shared memory.
#[test]
fn class_16_descriptors_that_leave_shared_memory() {
    let far = |by: &str| multiply(FENCE, "5", &format!("add.s64 %db, %db, {by};"), COMMIT, WAIT);
    flagged(Class::OutOfBounds, "wgmma.mma_async", "", far("640"));
    acquitted(TILES, &far("0"), 128, 0);
}

/// A `wgmma` on two tiles of zeros that the threads themselves have stored.
#[test]
fn class_01_and_05_operands_of_wgmma() {
    let decl = ".shared .align 128 .b8 tiles[4096];";
    let body = "
    .reg .b32 %r0, %r1, %r2, %r3;
    .reg .b64 %da, %db;
    mov.u32 %box, tiles;
    mad.lo.u32 %a, %tid, 16, %box;
    st.shared.v4.b32 [%a], {0, 0, 0, 0};
    st.shared.v4.b32 [%a+2048], {0, 0, 0, 0};
    @1
    bar.sync 0;
    shr.u32 %b, %box, 4;
    or.b32 %b, %b, 524288;
    mov.b64 %da, {%b, 16};
    add.u32 %b, %b, 128;
    mov.b64 %db, {%b, 16};
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%r0, %r1, %r2, %r3}, %da, %db, 0, 1, 1;
    wgmma.commit_group.sync.aligned;
    @2
    st.shared.b32 [%a], 1;
    wgmma.wait_group.sync.aligned 0;
    ret;";
    let fence = "fence.proxy.async.shared::cta;";
    let wait = "wgmma.wait_group.sync.aligned 0; bar.sync 0;";
    let both = |a: &str, b: &str| body.replace("@1", a).replace("@2", b);
    twins(
        Class::ProxyFence,
        ("wgmma.mma_async", "st.shared.v4.b32"),
        decl,
        &both("@@", wait),
        ("", fence),
        blocks(1, 128),
    );
    twins(
        Class::Race,
        ("st.shared.b32 [%a], 1", "of warpgroup 0"),
        decl,
        &both(fence, "@@"),
        ("", wait),
        blocks(1, 128),
    );
}

/// What a plain `cp.async` brought is an ordinary write.
#[test]
fn class_01_operands_by_cp_async() {
    twins(
        Class::ProxyFence,
        ("wgmma.mma_async", "a cp.async of warp"),
        ".shared .align 128 .b8 tiles[4096];",
        "
    .reg .b32 %r0, %r1, %r2, %r3;
    .reg .b64 %da, %db;
    mov.u32 %box, tiles;
    mad.lo.u32 %a, %tid, 16, %box;
    mad.wide.u32 %at, %tid, 16, %out;
    cp.async.cg.shared.global [%a], [%at], 16;
    cp.async.cg.shared.global [%a+2048], [%at], 16;
    cp.async.commit_group;
    cp.async.wait_group 0;
    @@
    bar.sync 0;
    shr.u32 %b, %box, 4;
    or.b32 %b, %b, 524288;
    mov.b64 %da, {%b, 16};
    add.u32 %b, %b, 128;
    mov.b64 %db, {%b, 16};
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%r0, %r1, %r2, %r3}, %da, %db, 0, 1, 1;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    ret;",
        ("", "fence.proxy.async.shared::cta;"),
        blocks(1, 128),
    );
}

/// Stores at `%a`, which is chosen by `@1`; a rendezvous of the warps, or none (`@2`); a `wgmma` that reads 64 rows of A, sixteen for
/// each warp, and eight of B; then whatever `@3` is.
const SHARES: &str = "
    .reg .b32 %r0, %r1, %r2, %r3;
    .reg .b64 %da, %db;
    .reg .pred %rear;
    setp.ge.u32 %rear, %tid, 32;
    mov.u32 %box, tiles;
    mad.lo.u32 %a, %tid, 16, %box;
    st.shared.v4.b32 [%a+2048], {0, 0, 0, 0};
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @1
    st.shared.v4.b32 [%a], {0, 0, 0, 0};
    fence.proxy.async.shared::cta;
    @2
    shr.u32 %b, %box, 4;
    or.b32 %b, %b, 524288;
    mov.b64 %da, {%b, 16};
    add.u32 %b, %b, 128;
    mov.b64 %db, {%b, 16};
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%r0, %r1, %r2, %r3}, %da, %db, 0, 1, 1;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    @3
    ret;";

const SHARED_TILES: &str = ".shared .align 128 .b8 tiles[4096];";

/// Each warp reads its own rows of A, from the moment it issues the `wgmma` itself: nothing makes the four warps meet.
#[test]
fn class_05_each_warp_starts_by_itself() {
    let body = |at: &str, meet: &str| SHARES.replace("@1", at).replace("@2", meet).replace("@3", "");
    let lines = ["wgmma.mma_async", "st.shared.v4.b32 [%a], {0, 0, 0, 0}"];
    for config in configs() {
        assert_eq!(run(config, SHARED_TILES, &body("", ""), blocks(1, 128)), (None, vec![]));
    }
    // The rows of another warp; and a barrier that only one of the warps waits at.
    let other = "xor.b32 %a, %tid, 32; mad.lo.u32 %a, %a, 16, %box;";
    let half = "@%rear bar.arrive 1, 128; @!%rear bar.sync 1, 128;";
    for bug in ["", half] {
        let body = body(other, "@@");
        either(&[Class::Race], lines, SHARED_TILES, &body, (bug, "bar.sync 0;"), blocks(1, 128));
    }
}

/// A wait covers the share of the warp that waits; that the others are done is advice.
#[test]
fn class_05_each_warp_waits_for_itself() {
    let store = "@%first st.shared.b32 [%box+2048], 1;";
    let body =
        |meet: &str| SHARES.replace("@1", "").replace("@2", "").replace("@3", &format!("{meet} {store}"));
    for config in configs() {
        assert_eq!(run(config, SHARED_TILES, &body("bar.sync 0;"), blocks(1, 128)), (None, vec![]));
    }
    let (found, advice) = run(config(), SHARED_TILES, &body(""), blocks(1, 128));
    assert_eq!(found, None);
    assert!(advice.len() == 1 && advice[0].starts_with(store), "{advice:?}");
    assert!(advice[0].contains("read by a wgmma of warps 0-3 of warpgroup 0 at test.ptx"), "{advice:?}");
}
