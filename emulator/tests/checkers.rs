//! Each checker convicts a kernel with exactly its bug, at the right line, and acquits the mended twin.

mod machine_support;
use hadal_emulator::tma::{DataType, Swizzle};
use hadal_emulator::{Class, Completion, Launch, MachineConfig, MachineError, Report};
use machine_support::*;

const REGS: &str = "
    .reg .b32 %tid, %a, %b, %c, %f, %bar, %box;
    .reg .b64 %out, %at, %x;
    .reg .pred %p, %q, %first;
    mov.u32 %tid, %tid.x;
    ld.param.u64 %out, [p0];
    setp.eq.u32 %first, %tid, 0;
";

/// Convicts the body with `bug` in place of `@@`, acquits it with `mended`.
fn pair(class: Class, line: &str, decl: &str, body: &str, bug: &str, mended: &str, threads: u32) -> Report {
    let body = format!("{REGS}{body}");
    let report = convicted(class, line, decl, &body.replace("@@", bug), threads, 0);
    acquitted(decl, &body.replace("@@", mended), threads, 0);
    assert!(!report.to_string().is_empty());
    report
}

#[test]
fn out_of_bounds() {
    // The buffer has 4096 bytes: thread 32 of the bug writes one word past it.
    let report = pair(
        Class::OutOfBounds,
        "st.global.b32 [%at",
        "",
        "mad.wide.u32 %at, %tid, 4, %out;
         st.global.b32 [%at+@@], %tid;
         ret;",
        "3972",
        "3968",
        32,
    );
    assert_eq!((report.lanes, report.block, report.warp), (1 << 31, [0, 0, 0], 0));
    assert!(report.other.unwrap().contains("past the end of the allocation of 4096 bytes"));
    pair(
        Class::OutOfBounds,
        "ld.shared.b32 %b",
        ".shared .align 4 .b32 box[32];",
        "mov.u32 %f, box;
         shl.b32 %a, %tid, 2;
         add.u32 %f, %f, %a;
         st.shared.b32 [%f], %a;
         bar.sync 0;
         ld.shared.b32 %b, [%f+@@];
         ret;",
        "128",
        "0",
        32,
    );
    pair(
        Class::OutOfBounds,
        "st.local.b32",
        "",
        ".local .align 4 .b8 mine[16];
         mov.u64 %x, mine;
         st.local.b32 [%x+@@], %tid;
         ret;",
        "16",
        "12",
        32,
    );
    // Generic addresses are checked in the window they lead to.
    pair(
        Class::OutOfBounds,
        "st.b32 [%at",
        ".shared .align 4 .b32 box[32];",
        "mov.u32 %f, box;
         cvt.u64.u32 %x, %f;
         cvta.shared.u64 %x, %x;
         mad.wide.u32 %at, %tid, 4, %x;
         st.b32 [%at+@@], %tid;
         ret;",
        "4",
        "0",
        32,
    );
}

#[test]
fn misaligned() {
    let report = pair(
        Class::Misaligned,
        "st.global.v2.b32",
        "",
        "mad.wide.u32 %at, %tid, 8, %out;
         st.global.v2.b32 [%at+@@], {%tid, %tid};
         ret;",
        "4",
        "8",
        32,
    );
    assert_eq!(report.lanes, u32::MAX);
}

#[test]
fn registers_read_before_they_are_written() {
    let report = pair(
        Class::Uninitialised,
        "add.u32 %b, %a, 1",
        "",
        "setp.lt.u32 %p, %tid, @@;
         @%p mov.u32 %a, 7;
         add.u32 %b, %a, 1;
         ret;",
        "30",
        "32",
        32,
    );
    assert_eq!(report.lanes, 0xc000_0000);
    assert!(report.message.contains("%a"), "{}", report.message);
}

#[test]
fn memory_read_before_it_is_written() {
    pair(
        Class::Uninitialised,
        "ld.shared.b32 %b",
        ".shared .align 4 .b32 box[32];",
        "mov.u32 %f, box;
         shl.b32 %a, %tid, 2;
         add.u32 %f, %f, %a;
         setp.lt.u32 %p, %tid, @@;
         @%p st.shared.b32 [%f], %a;
         bar.sync 0;
         ld.shared.b32 %b, [%f];
         ret;",
        "31",
        "32",
        32,
    );
    let report = pair(
        Class::Uninitialised,
        "ld.global.b32 %b",
        "",
        "mad.wide.u32 %at, %tid, 4, %out;
         st.global.b32 [%at@@], %tid;
         ld.global.b32 %b, [%at];
         ret;",
        "+4",
        "",
        32,
    );
    assert_eq!(report.lanes, 1);
}

#[test]
fn partial_warps() {
    let report = pair(
        Class::PartialWarp,
        "bar.sync",
        "",
        "setp.lt.u32 %p, %tid, @@;
         @!%p bra other;
         bar.sync 0;
         bra end;
      other:
         bar.sync 1;
      end:
         ret;",
        "16",
        "32",
        32,
    );
    assert!(report.other.unwrap().contains("bar.sync"));
    pair(
        Class::PartialWarp,
        "shfl.sync",
        "",
        "setp.lt.u32 %p, %tid, 16;
         @!%p bra end;
         shfl.sync.idx.b32 %a, %tid, @@, 31, 0xffff;
      end:
         ret;",
        "20",
        "2",
        32,
    );
    pair(
        Class::PartialWarp,
        "vote.sync",
        "",
        ".reg .b32 %amask;
         setp.lt.u32 %p, %tid, 16;
         activemask.b32 %amask;
         @!%p bra other;
         activemask.b32 %amask;
         vote.sync.ballot.b32 %a, %p, @@;
         bra end;
      other:
         activemask.b32 %amask;
         vote.sync.ballot.b32 %a, %p, @@;
      end:
         ret;",
        "0xffffffff",
        "%amask",
        32,
    );
}

#[test]
fn barriers_misused() {
    let report = pair(
        Class::Barrier,
        "bar.sync 2, ",
        "",
        "setp.lt.u32 %p, %tid, 32;
         @%p bra other;
         bar.sync 2, @@;
         bra end;
      other:
         bar.sync 2, 64;
      end:
         ret;",
        "96",
        "64",
        128,
    );
    assert!(report.other.unwrap().contains("bar.sync 2, "));
}

const BAR: &str = ".shared .align 8 .b64 full;";

#[test]
fn mbarriers_misused() {
    let arrive = "mov.u32 %bar, full;
         @%first mbarrier.init.shared::cta.b64 [%bar], 48;
         bar.sync 0;
         mbarrier.arrive.shared::cta.b64 _, [%bar], @@;
         ret;";
    let report = pair(Class::Mbarrier, "mbarrier.arrive", BAR, arrive, "5", "3", 32);
    assert_eq!(report.lanes, 1 << 9, "after nine lanes three arrivals are missing: {report}");
    assert!(
        report.message.contains("5 arrival(s) at an mbarrier whose phase expects only 3 more"),
        "{report}"
    );
}

#[test]
fn mbarriers_before_init() {
    let report = pair(
        Class::Mbarrier,
        "mbarrier.arrive",
        BAR,
        "mov.u32 %bar, full;
         @%first mbarrier.init.shared::cta.b64 [%bar@@], 1;
         bar.sync 0;
         @%first mbarrier.arrive.shared::cta.b64 _, [%bar];
         ret;",
        "+8",
        "",
        32,
    );
    assert_eq!(report.lanes, 1);
}

#[test]
fn deadlock_at_an_mbarrier() {
    let report = pair(
        Class::Deadlock,
        "mbarrier.try_wait",
        BAR,
        "mov.u32 %bar, full;
         @%first mbarrier.init.shared::cta.b64 [%bar], 2;
         bar.sync 0;
         @%first mbarrier.arrive.shared::cta.b64 _, [%bar], @@;
      again:
         mbarrier.try_wait.parity.shared::cta.b64 %p, [%bar], 0;
         @!%p bra again;
         ret;",
        "1",
        "2",
        64,
    );
    assert_eq!(report.notes.len(), 2);
    assert!(report.notes[0].contains("1 of 2 arrivals and 0 bytes pending"), "{report}");
}

#[test]
fn deadlock_at_a_barrier() {
    let report = pair(
        Class::Deadlock,
        "bar.sync",
        "",
        "setp.lt.u32 %p, %tid, 32;
         @%p bra other;
         bar.sync 4, 64;
         bra end;
      other:
         bar.sync @@, 64;
      end:
         ret;",
        "5",
        "4",
        64,
    );
    assert_eq!(report.notes.len(), 2);
    assert!(report.notes[1].contains("barrier 4, where 32 of 64 threads have arrived"), "{report}");
}

#[test]
fn deadlock_of_polls() {
    let report = pair(
        Class::Deadlock,
        "",
        ".shared .align 4 .b32 flag;",
        "mov.u32 %f, flag;
         @%first st.shared.b32 [%f], 0;
         bar.sync 0;
         @%first st.volatile.shared.b32 [%f], @@;
      again:
         ld.volatile.shared.b32 %a, [%f];
         setp.ne.u32 %p, %a, 1;
         @%p bra again;
         ret;",
        "2",
        "1",
        64,
    );
    assert!(report.notes.iter().all(|n| n.contains("polling")), "{report}");
}

/// Runs a kernel with `.maxnreg 128` and two warpgroups.
fn registers(body: &str) -> Option<Report> {
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p0) .maxnreg 128 .reqntid 256\n{{{REGS}{body}}}"
    );
    let mut bench = Bench::new(&text);
    bench.run(1, 256, &[0]).err().map(|f| *f.report)
}

#[test]
fn register_pool() {
    let body = |dec: &str, inc: &str| {
        format!(
            "setp.ge.u32 %p, %tid, 128;
    @%p bra taker;
    setmaxnreg.dec.sync.aligned.u32 {dec};
    bra end;
taker:
    setmaxnreg.inc.sync.aligned.u32 {inc};
end:
    ret;"
        )
    };
    assert_eq!(registers(&body("40", "216")), None);
    let report = registers(&body("40", "224")).unwrap();
    assert_eq!(report.class, Class::Deadlock, "{report}");
    assert!(report.message.contains("the block's pool has"), "{report}");
    assert!(report.place.ptx_text.contains("setmaxnreg.inc"));
    let report = registers(&body("136", "216")).unwrap();
    assert_eq!(report.class, Class::Registers, "{report}");
}

#[test]
fn registers_of_a_partial_warpgroup() {
    let body = |from: &str| {
        format!(
            "setp.lt.u32 %p, %tid, {from};
    @%p bra end;
    setmaxnreg.dec.sync.aligned.u32 40;
end:
    ret;"
        )
    };
    assert_eq!(registers(&body("128")), None);
    let report = registers(&body("32")).unwrap();
    assert_eq!(report.class, Class::PartialWarpgroup, "{report}");
}

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

#[test]
fn wgmma_rules() {
    acquitted(TILES, &multiply(FENCE, "5", "", COMMIT, WAIT), 128, 0);
    let flagged = |class, line, body: String| convicted(class, line, TILES, &body, 128, 0);

    let report = flagged(Class::WgmmaInFlight, "add.u32 %a, %d1", multiply(FENCE, "5", "", COMMIT, ""));
    assert!(report.other.unwrap().contains("wgmma.mma_async"));
    // What was not committed is covered by no wait.
    flagged(Class::WgmmaInFlight, "add.u32 %a, %d1", multiply(FENCE, "5", "", "", WAIT));
    // One group may stay in flight: ours does.
    flagged(
        Class::WgmmaInFlight,
        "add.u32 %a, %d1",
        multiply(FENCE, "5", "", COMMIT, "wgmma.wait_group.sync.aligned 1;"),
    );

    flagged(Class::WgmmaFence, "wgmma.mma_async", multiply("", "5", "", COMMIT, WAIT));
    flagged(Class::WgmmaFence, "wgmma.mma_async", multiply(FENCE, "5", "mov.b32 %d1, 0;", COMMIT, WAIT));

    let report = flagged(Class::Uninitialised, "wgmma.mma_async", multiply(FENCE, "4", "", COMMIT, WAIT));
    assert!(report.message.contains("operand B"), "{report}");

    let half = "setp.ge.u32 %p, %tid, 96; @%p bra skip;";
    let report = flagged(Class::PartialWarpgroup, "", multiply(FENCE, "5", half, COMMIT, WAIT));
    assert!(report.to_string().contains("wgmma"), "{report}");

    let apart = "setp.ge.u32 %p, %tid, 96; @%p add.s64 %da, %da, 2;";
    let report =
        flagged(Class::PartialWarpgroup, "wgmma.mma_async", multiply(FENCE, "5", apart, COMMIT, WAIT));
    assert!(report.message.contains("different descriptors"), "{report}");
    let lanes = "add.s64 %da, %da, %x;".to_string();
    let lanes = format!("cvt.u64.u32 %x, %tid; {lanes}");
    flagged(Class::WgmmaOperand, "wgmma.mma_async", multiply(FENCE, "5", &lanes, COMMIT, WAIT));
}

#[test]
fn sources_of_bulk_stores() {
    for completion in [Completion::Eager, Completion::Latest, Completion::Random] {
        let body = |wait: &str| {
            format!(
                "{REGS}
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 16, %box;
    st.shared.v4.b32 [%a], {{%tid, %tid, %tid, %tid}};
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%first cp.async.bulk.global.shared::cta.bulk_group [%out], [%box], 512;
    @%first cp.async.bulk.commit_group;
    {wait}
    bar.sync 0;
    st.shared.b32 [%a], 0;
    ret;"
            )
        };
        let decl = ".shared .align 16 .b8 box[512];";
        let run = |text: &str| finding_with(MachineConfig { completion, ..config() }, decl, text, 32, 0);
        assert_eq!(run(&body("@%first cp.async.bulk.wait_group.read 0;")), None);
        let report = run(&body("")).unwrap();
        assert_eq!(report.class, Class::BulkSourceOverwritten, "{report}");
        assert!(report.place.ptx_text.contains("st.shared.b32 [%a], 0"));
        assert!(report.other.unwrap().contains("cp.async.bulk.global"));
        let report = run(&body("@%first cp.async.bulk.wait_group.read 1;")).unwrap();
        assert_eq!(report.class, Class::BulkSourceOverwritten, "{report}");
    }
}

/// A tensor load of a 32×8 box of words into shared memory and a wait for it.
fn tensor_load(at: &str, bytes: &str) -> String {
    let body = format!(
        "{REGS}
    mov.u32 %bar, full;
    mov.u32 %box, box;
    mov.b64 %x, m0;
    cvta.param.u64 %x, %x;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    bar.sync 0;
    @!%first bra again;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], {bytes};
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%box+{at}], [%x, {{0, 0}}], [%bar];
again:
    mbarrier.try_wait.parity.shared::cta.b64 %p, [%bar], 0;
    @!%p bra again;
    ld.shared.b32 %a, [%box+1020];
    ret;"
    );
    module_with_maps(1, 1, ".shared .align 1024 .b8 box[2048]; .shared .align 8 .b64 full;", &body)
}

fn tensor_case(at: &str, bytes: &str, spoil: impl Fn(&mut Vec<u8>), fill: bool) -> Option<Report> {
    let mut bench = Bench::new(&tensor_load(at, bytes));
    let input = if fill { bench.bytes(&[0; 4096]) } else { bench.blank(4096) };
    let mut map = matrix_map(DataType::U32, input, [32, 32], [32, 8], Swizzle::B128);
    spoil(&mut map);
    let launch =
        Launch { grid: [1, 1, 1], block: [32, 1, 1], params: params(&[map], &[0]), ..Launch::default() };
    bench.launch(launch).err().map(|f| *f.report)
}

#[test]
fn tensor_copies() {
    let keep = |_: &mut Vec<u8>| {};
    assert_eq!(tensor_case("0", "1024", keep, true), None);
    let flagged = |class, report: Option<Report>| {
        let report = report.unwrap_or_else(|| panic!("nothing found, expected {class}"));
        assert_eq!(report.class, class, "{report}");
        report
    };
    let report = flagged(Class::Misaligned, tensor_case("64", "1024", keep, true));
    assert!(report.place.ptx_text.contains("cp.async.bulk.tensor"));
    flagged(Class::OutOfBounds, tensor_case("1152", "1024", keep, true));
    flagged(Class::TensorMap, tensor_case("0", "1024", |m| m[40] ^= 1, true));
    let report = flagged(Class::Uninitialised, tensor_case("0", "1024", keep, false));
    assert!(
        report.place.ptx_text.contains("cp.async.bulk.tensor"),
        "the copy is to blame, not who waits: {report}"
    );
    // Expecting more than comes hangs; expecting less ends the phase early, and the read finds bytes that may be missing.
    let report = flagged(Class::Deadlock, tensor_case("0", "1040", keep, true));
    assert!(report.message.contains("16 bytes pending"), "{report}");
    let report = flagged(Class::Deadlock, tensor_case("0", "1008", keep, true));
    assert!(report.message.contains("-16 bytes pending"), "{report}");
}

#[test]
fn bulk_sizes() {
    pair(
        Class::AsyncCopy,
        "cp.async.bulk",
        ".shared .align 16 .b8 box[64]; .shared .align 8 .b64 full;",
        "mov.u32 %bar, full;
         mov.u32 %box, box;
         @!%first bra end;
         mbarrier.init.shared::cta.b64 [%bar], 1;
         mov.u32 %a, @@;
         st.global.v4.b32 [%out], {%tid, %tid, %tid, %tid};
         fence.proxy.async;
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%box], [%out], %a, [%bar];
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], %a;
      again:
         mbarrier.try_wait.parity.shared::cta.b64 %p, [%bar], 0;
         @!%p bra again;
      end:
         ret;",
        "20",
        "16",
        32,
    );
}

#[test]
fn reads_of_copies_on_their_way() {
    // Without the wait the copy has not landed, even where something older lies.
    let report = pair(
        Class::Uninitialised,
        "ld.shared.b32 %a",
        ".shared .align 16 .b8 box[512];",
        "mov.u32 %box, box;
         mad.wide.u32 %at, %tid, 16, %out;
         st.global.v4.b32 [%at], {%tid, %tid, %tid, %tid};
         mad.lo.u32 %b, %tid, 16, %box;
         st.shared.v4.b32 [%b], {%tid, %tid, %tid, %tid};
         cp.async.cg.shared.global [%b], [%at], 16;
         cp.async.commit_group;
         @@
         ld.shared.b32 %a, [%b];
         ret;",
        "",
        "cp.async.wait_group 0;",
        32,
    );
    assert!(report.message.contains("belongs to a copy that has not completed"), "{report}");
    assert!(report.other.unwrap().contains("cp.async.cg.shared.global"));
}

#[test]
fn constants_are_constant() {
    pair(
        Class::ReadOnly,
        "st.global.b32",
        ".const .align 4 .b32 table[4] = {1, 2, 3, 4}; .global .align 4 .b32 other[4];",
        "mov.u64 %x, @@;
         st.global.b32 [%x], %tid;
         ret;",
        "table",
        "other",
        1,
    );
}

#[test]
fn traps_limits_and_reset() {
    pair(
        Class::Trap,
        "trap",
        "",
        "setp.eq.u32 %p, %tid, @@;
         @%p trap;
         ret;",
        "5",
        "99",
        32,
    );
    let body = format!("{REGS} again: add.u32 %tid, %tid, 1; bra again;");
    let mut bench =
        Bench::with(MachineConfig { instruction_limit: Some(10_000), ..config() }, &module(1, "", &body));
    let fault = bench.run(1, 32, &[0]).unwrap_err();
    assert_eq!(fault.report.class, Class::InstructionLimit);
    // Sticky until reset, like an error of the driver.
    let launch = Launch { grid: [1; 3], block: [32, 1, 1], params: vec![0; 8], ..Launch::default() };
    let again = bench.machine.launch(bench.stream, bench.module, "k", &launch);
    assert!(matches!(again, Err(MachineError::Faulted(_))), "{again:?}");
    assert_eq!(bench.machine.synchronize(bench.stream).unwrap_err(), fault);
    bench.machine.reset();
    assert!(bench.machine.reports().is_empty());
    assert!(bench.machine.launch(bench.stream, bench.module, "k", &launch).is_ok());
}

#[test]
fn launches_that_cannot_be() {
    let mut bench = Bench::new(&module(1, "", &format!("{REGS} ret;")));
    let good = Launch { grid: [1; 3], block: [32, 1, 1], params: vec![0; 8], ..Launch::default() };
    let mut refused = |change: &dyn Fn(&mut Launch), what: &str| {
        let mut launch = good.clone();
        change(&mut launch);
        let error = bench.machine.launch(bench.stream, bench.module, "k", &launch).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    };
    refused(&|l| l.grid = [0, 1, 1], "grid");
    refused(&|l| l.block = [1025, 1, 1], "block");
    refused(&|l| l.params = vec![0; 4], "params");
    refused(&|l| l.dynamic_shared = 300_000, "shared memory");
    refused(&|l| l.cluster = Some([2, 1, 1]), "cluster");
    refused(
        &|l| {
            l.grid = [100_000, 1, 1];
            l.cooperative = true;
        },
        "resident blocks",
    );
    let missing = bench.machine.launch(bench.stream, bench.module, "nobody", &good).unwrap_err();
    assert_eq!(missing.to_string(), "no such kernel: nobody");
}
