//! The happens-before checker: each kernel with exactly one bug is convicted at the right line, with the other party named, and
//! its mended twin passes.

mod machine_support;
use hadal_emulator::tma::{DataType, Swizzle};
use hadal_emulator::{Checks, Class, Launch, MachineConfig, Report};
use machine_support::*;

const REGS: &str = "
    .reg .b32 %tid, %a, %b, %c, %f, %bar, %box, %cta, %peer;
    .reg .b64 %out, %at, %x, %y;
    .reg .pred %p, %q, %first;
    mov.u32 %tid, %tid.x;
    mov.u32 %cta, %ctaid.x;
    ld.param.u64 %out, [p0];
    setp.eq.u32 %first, %tid, 0;
";

/// What a kernel of some blocks leaves: the finding, or the words of advice.
fn run(config: MachineConfig, decl: &str, body: &str, launch: Launch) -> (Option<Report>, Vec<String>) {
    let mut bench = Bench::with(config, &module(1, decl, &format!("{REGS}{body}")));
    let out = bench.words(&[0; 1024]);
    let found = bench.launch(Launch { params: out.to_le_bytes().to_vec(), ..launch }).err();
    let advice = bench.machine.advice().iter().map(|r| format!("{} {r}", r.place.ptx_text)).collect();
    (found.map(|f| *f.report), advice)
}

fn blocks(grid: u32, threads: u32) -> Launch {
    Launch { grid: [grid, 1, 1], block: [threads, 1, 1], ..Launch::default() }
}

/// Convicts the body with `bug` in place of `@@` at `line` with `other` as the other party, and acquits it with `mended`, under every
/// schedule and completion order.
fn twins(
    class: Class,
    (line, other): (&str, &str),
    decl: &str,
    body: &str,
    (bug, mended): (&str, &str),
    launch: Launch,
) -> Report {
    for config in configs() {
        let (found, _) = run(config.clone(), decl, &body.replace("@@", mended), launch.clone());
        assert_eq!(found.map(|r| r.to_string()), None, "{config:?}");
    }
    let (found, _) = run(config(), decl, &body.replace("@@", bug), launch);
    let report = found.unwrap_or_else(|| panic!("nothing found, expected {class}\n{body}"));
    assert_eq!(report.class, class, "{report}");
    assert!(report.place.ptx_text.contains(line), "found at the wrong line, expected {line}:\n{report}");
    let party = report.other.clone().unwrap_or_default();
    assert!(party.contains(other), "the other party is not {other}:\n{report}");
    report
}

/// As [`twins`], where the schedule decides which of the two is found to be late: both lines have to be named.
fn either(
    classes: &[Class],
    lines: [&str; 2],
    decl: &str,
    body: &str,
    (bug, mended): (&str, &str),
    launch: Launch,
) {
    for config in configs() {
        let (found, _) = run(config.clone(), decl, &body.replace("@@", mended), launch.clone());
        assert_eq!(found.map(|r| r.to_string()), None, "{config:?}");
        let (found, _) = run(config, decl, &body.replace("@@", bug), launch.clone());
        let report = found.unwrap_or_else(|| panic!("nothing found, expected {classes:?}\n{body}"));
        assert!(classes.contains(&report.class), "{report}");
        let (at, with) = (&report.place.ptx_text, report.other.clone().unwrap_or_default());
        let named = |a: &str, b: &str| at.contains(a) && with.contains(b);
        assert!(named(lines[0], lines[1]) || named(lines[1], lines[0]), "expected {lines:?}:\n{report}");
    }
}

#[test]
fn shared_memory_without_a_barrier() {
    let decl = ".shared .align 16 .b32 box[64];";
    // Written, then read by others.
    let body = "
    mov.u32 %f, box;
    mad.lo.u32 %a, %tid, 4, %f;
    xor.b32 %b, %tid, 32;
    mad.lo.u32 %b, %b, 4, %f;
    st.shared.b32 [%a], 0;
    bar.sync 0;
    st.shared.b32 [%a], %tid;
    @@
    ld.shared.b32 %c, [%b];
    ret;";
    let lines = ["st.shared.b32 [%a], %tid", "ld.shared.b32 %c, [%b]"];
    either(&[Class::Race], lines, decl, body, ("", "bar.sync 0;"), blocks(1, 64));
    // Read, then overwritten by others.
    let body = "
    mov.u32 %f, box;
    mad.lo.u32 %a, %tid, 4, %f;
    st.shared.b32 [%a], %tid;
    bar.sync 0;
    xor.b32 %b, %tid, 32;
    mad.lo.u32 %b, %b, 4, %f;
    ld.shared.b32 %c, [%b];
    @@
    st.shared.b32 [%a], %c;
    ret;";
    let lines = ["st.shared.b32 [%a], %c", "ld.shared.b32 %c, [%b]"];
    either(&[Class::Race], lines, decl, body, ("", "bar.sync 0;"), blocks(1, 64));
}

#[test]
fn lanes_of_a_warp() {
    let body = "
    mov.u32 %f, box;
    mad.lo.u32 %a, %tid, 4, %f;
    st.shared.b32 [%a], %tid;
    @@
    ld.shared.b32 %c, [%f];
    ret;";
    let decl = ".shared .align 16 .b32 box[32];";
    twins(
        Class::Race,
        ("ld.shared", "warp 0 lanes 0"),
        decl,
        body,
        ("", "bar.warp.sync 0xffffffff;"),
        blocks(1, 32),
    );
}

#[test]
fn the_same_value_by_several_is_no_race() {
    let body = "mov.u32 %f, box; st.shared.b32 [%f], 7; bar.sync 0; ld.shared.b32 %c, [%f]; ret;";
    for config in configs() {
        assert_eq!(run(config, ".shared .align 16 .b32 box[4];", body, blocks(1, 64)).0, None);
    }
}

#[test]
fn bytes_of_one_word_are_apart() {
    let body = "mov.u32 %f, box; add.u32 %f, %f, %tid; st.shared.b8 [%f], %tid; ld.shared.b8 %c, [%f]; ret;";
    for config in configs() {
        assert_eq!(run(config, ".shared .align 16 .b8 box[64];", body, blocks(1, 64)).0, None);
    }
}

#[test]
fn an_mbarrier_tells_what_was_done() {
    let body = "
    mov.u32 %f, box;
    mov.u32 %bar, full;
    @%first mbarrier.init.shared::cta.b64 [%bar], 32;
    mad.lo.u32 %a, %tid, 4, %f;
    st.shared.b32 [%a], 0;
    bar.sync 0;
    setp.ge.u32 %p, %tid, 32;
    @%p bra reader;
    st.shared.b32 [%a], %tid;
    mbarrier.arrive.shared::cta.b64 _, [%bar];
    ret;
reader:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], @@;
    @!%q bra reader;
    ld.shared.b32 %c, [%f];
    ret;";
    let decl = ".shared .align 16 .b32 box[64]; .shared .align 8 .b64 full;";
    // The wrong parity is satisfied before anything happened.
    let mut seen = false;
    for config in configs() {
        let (found, _) = run(config, decl, &body.replace("@@", "1"), blocks(1, 64));
        let report = found.expect("a read that waited for the phase before the first");
        seen |= report.class == Class::Race;
        assert!(matches!(report.class, Class::Race | Class::Deadlock), "{report}");
    }
    assert!(seen);
    for config in configs() {
        assert_eq!(run(config, decl, &body.replace("@@", "0"), blocks(1, 64)).0, None);
    }
}

#[test]
fn the_life_of_an_mbarrier() {
    let decl = ".shared .align 8 .b64 full;";
    let body = "
    mov.u32 %bar, full;
    @%first mbarrier.init.shared::cta.b64 [%bar], 64;
    @@
    mbarrier.arrive.shared::cta.b64 _, [%bar];
    ret;";
    twins(
        Class::Race,
        ("mbarrier.arrive", "initialised by warp 0 lanes 0"),
        decl,
        body,
        ("bar.warp.sync 0xffffffff;", "bar.sync 0;"),
        blocks(1, 64),
    );
    let body = "
    mov.u32 %bar, full;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    @@
    @%first ld.shared.b64 %x, [%bar];
    ret;";
    twins(
        Class::Mbarrier,
        ("ld.shared.b64", ""),
        decl,
        body,
        ("", "@%first mbarrier.inval.shared::cta.b64 [%bar];"),
        blocks(1, 32),
    );
    let body = "
    mov.u32 %bar, full;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    @@
    @%first mbarrier.init.shared::cta.b64 [%bar], 2;
    ret;";
    twins(
        Class::Mbarrier,
        ("[%bar], 2", ""),
        decl,
        body,
        ("", "@%first mbarrier.inval.shared::cta.b64 [%bar];"),
        blocks(1, 32),
    );
}

const STORE: &str = "
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], %tid;
    @1
    bar.sync 0;
    @%first cp.async.bulk.global.shared::cta.bulk_group [%out], [%box], 256;
    @%first cp.async.bulk.commit_group;
    @2
    @3
    st.shared.b32 [%a], 0;
    @%first cp.async.bulk.wait_group 0;
    ret;";

#[test]
fn bulk_stores() {
    let decl = ".shared .align 16 .b8 box[256];";
    let fence = "fence.proxy.async.shared::cta;";
    let wait = "@%first cp.async.bulk.wait_group.read 0;";
    let body = |a: &str, b: &str, c: &str| STORE.replace("@1", a).replace("@2", b).replace("@3", c);
    twins(
        Class::ProxyFence,
        ("cp.async.bulk.global", "st.shared.b32 [%a], %tid"),
        decl,
        &body("@@", wait, "bar.sync 0;"),
        ("", fence),
        blocks(1, 64),
    );
    twins(
        Class::ProxyFence,
        ("cp.async.bulk.global", "st.shared.b32 [%a], %tid"),
        decl,
        &body("@@", wait, "bar.sync 0;"),
        ("fence.proxy.async.global;", "fence.proxy.async;"),
        blocks(1, 64),
    );
    // The thread that stored has waited, but told nobody.
    either(
        &[Class::BulkSourceOverwritten, Class::Race],
        ["cp.async.bulk.global", "st.shared.b32 [%a], 0"],
        decl,
        &body(fence, wait, "@@"),
        ("", "bar.sync 0;"),
        blocks(1, 64),
    );
}

#[test]
fn a_copy_belongs_to_itself_until_the_wait() {
    let decl = ".shared .align 16 .b8 box[256]; .shared .align 8 .b64 full;";
    let body = "
    mov.u32 %box, box;
    mov.u32 %bar, full;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 256;
    @%first cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%box], [%out], 256, [%bar];
    bar.sync 0;
    mad.lo.u32 %a, %tid, 4, %box;
    @@
    ld.shared.b32 %c, [%a];
again:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;
    @!%q bra again;
    ret;";
    let wait = "first_wait: mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;\n @!%q bra first_wait;";
    // Even when the bytes came at once.
    for config in configs().into_iter().filter(|c| c.completion == hadal_emulator::Completion::Eager) {
        let report = run(config, decl, &body.replace("@@", ""), blocks(1, 64)).0.unwrap();
        assert_eq!(report.class, Class::Race, "{report}");
        assert!(report.place.ptx_text.contains("ld.shared"), "{report}");
        assert!(report.other.unwrap().contains("cp.async.bulk.shared"));
    }
    for config in configs() {
        assert_eq!(run(config, decl, &body.replace("@@", wait), blocks(1, 64)).0, None);
    }
}

#[test]
fn bytes_expected_and_bytes_brought() {
    let decl = ".shared .align 16 .b8 box[512]; .shared .align 8 .b64 full;";
    let body = "
    mov.u32 %box, box;
    mov.u32 %bar, full;
    @!%first bra end;
    mbarrier.init.shared::cta.b64 [%bar], 1;
    fence.proxy.async.shared::cta;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%box], [%out], 256, [%bar];
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%box+256], [%out], 256, [%bar];
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], @@;
again:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;
    @!%q bra again;
end:
    ret;";
    let report =
        twins(Class::Mbarrier, ("cp.async.bulk", "mbarrier"), decl, body, ("256", "512"), blocks(1, 32))
            .to_string();
    assert!(report.contains("too few bytes"), "{report}");
    // Nobody waits: the block ends under its copies.
    let body = body.replace("@!%q bra again;", "@@");
    twins(
        Class::Lifetime,
        ("cp.async.bulk", ""),
        decl,
        &body
            .replace("_, [%bar], @@", "_, [%bar], 512")
            .replace("mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;\n    @@", "@@"),
        ("", "mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0; @!%q bra again;"),
        blocks(1, 32),
    );
}

#[test]
fn cp_async_and_its_groups() {
    let decl = ".shared .align 16 .b8 box[1024];";
    let body = "
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 16, %box;
    mad.wide.u32 %at, %tid, 16, %out;
    cp.async.cg.shared.global [%a], [%at], 16;
    cp.async.commit_group;
    cp.async.wait_group @@;
    bar.sync 0;
    xor.b32 %b, %tid, 32;
    mad.lo.u32 %b, %b, 16, %box;
    ld.shared.b32 %c, [%b];
    cp.async.wait_all;
    ret;";
    for config in configs() {
        let report = run(config, decl, &body.replace("@@", "1"), blocks(1, 64)).0.unwrap();
        assert!(matches!(report.class, Class::Race | Class::Uninitialised), "{report}");
        assert!(report.place.ptx_text.contains("ld.shared"), "{report}");
    }
    for config in configs() {
        assert_eq!(run(config, decl, &body.replace("@@", "0"), blocks(1, 64)).0, None);
    }
    let body =
        body.replace("cp.async.wait_group @@;\n    bar.sync 0;", "cp.async.wait_group 0;\n    @@").replace(
            "    cp.async.cg",
            "    st.shared.v4.b32 [%a], {0, 0, 0, 0};\n    bar.sync 0;\n    cp.async.cg",
        );
    either(&[Class::Race], ["ld.shared", "cp.async.cg"], decl, &body, ("", "bar.sync 0;"), blocks(1, 64));
}

/// Block 0 writes data and raises a flag; block 1 sees the flag and reads.
const FLAG: &str = "
    setp.ne.u32 %p, %cta, 0;
    @%p bra reader;
    @!%first bra end;
    st.global.b32 [%out+4], 42;
    @1
    bra end;
reader:
    @!%first bra end;
again:
    @2
    setp.eq.u32 %p, %c, 0;
    @%p bra again;
    @3
    ld.global.b32 %a, [%out+4];
end:
    ret;";

fn flag(store: &str, load: &str, then: &str) -> String {
    FLAG.replace("@1", store).replace("@2", load).replace("@3", then)
}

#[test]
fn flags_between_blocks() {
    let pair = ("ld.global.b32 %a", "block (0,0,0) warp 0 lanes 0");
    let (release, acquire) =
        ("st.release.gpu.global.b32 [%out], 1;", "ld.acquire.gpu.global.b32 %c, [%out];");
    let launch = || blocks(2, 32);
    twins(
        Class::Race,
        pair,
        "",
        &flag("@@", acquire, ""),
        ("st.relaxed.gpu.global.b32 [%out], 1;", release),
        launch(),
    );
    twins(
        Class::Race,
        pair,
        "",
        &flag(release, "@@", ""),
        ("ld.relaxed.gpu.global.b32 %c, [%out];", acquire),
        launch(),
    );
    // Fences make relaxed accesses as good.
    let fenced = "fence.acq_rel.gpu; st.relaxed.gpu.global.b32 [%out], 1;";
    twins(
        Class::Race,
        pair,
        "",
        &flag(fenced, "ld.relaxed.gpu.global.b32 %c, [%out];", "@@"),
        ("", "fence.acq_rel.gpu;"),
        launch(),
    );
    // An atomic does as a release.
    let atomic = "atom.release.gpu.global.add.u32 %b, [%out], 1;";
    twins(
        Class::Race,
        pair,
        "",
        &flag("@@", acquire, ""),
        ("atom.relaxed.gpu.global.add.u32 %b, [%out], 1;", atomic),
        launch(),
    );
    // A scope that ends with the block.
    let report = twins(
        Class::Scope,
        ("ld.acquire", "atom.release.cta"),
        "",
        &flag("@@", acquire, ""),
        ("atom.release.cta.global.add.u32 %b, [%out], 1;", release),
        launch(),
    );
    assert!(report.hint.unwrap().contains("widen the scope"));
}

#[test]
fn atomics_do_not_race_with_each_other() {
    let body = "
    atom.global.add.u32 %a, [%out], 1;
    @@
    @%first ld.global.b32 %b, [%out];
    ret;";
    let report = run(config(), "", &body.replace("@@", ""), blocks(2, 64)).0.unwrap();
    assert_eq!(report.class, Class::Race, "{report}");
    let atomic = body.replace("@@", "").replace("ld.global", "ld.relaxed.gpu.global");
    for config in configs() {
        assert_eq!(run(config, "", &atomic, blocks(2, 64)).0, None);
    }
}

#[test]
fn non_coherent_loads() {
    let body = "
    mad.wide.u32 %at, %tid, 4, %out;
    st.global.b32 [%at], %tid;
    bar.sync 0;
    xor.b32 %b, %tid, 32;
    mad.wide.u32 %at, %b, 4, %out;
    ld.global@@.b32 %c, [%at];
    ret;";
    twins(
        Class::NonCoherent,
        ("ld.global.nc", "st.global.b32 [%at], %tid"),
        "",
        body,
        (".nc", ""),
        blocks(1, 64),
    );
}

#[test]
fn programmatic_grids_wait_before_they_touch() {
    let body = "
    mad.wide.u32 %at, %tid, 4, %out;
    griddepcontrol.launch_dependents;
    @@
    ld.global.b32 %c, [%at];
    add.u32 %c, %c, 1;
    st.global.b32 [%at], %c;
    ret;";
    let run = |text: &str, programmatic| {
        let mut bench = Bench::new(&module(1, "", &format!("{REGS}{}", body.replace("@@", text))));
        let out = bench.words(&[0; 64]);
        for _ in 0..2 {
            let launch = Launch { params: out.to_le_bytes().to_vec(), programmatic, ..blocks(1, 64) };
            bench.machine.launch(bench.stream, bench.module, "k", &launch).unwrap();
        }
        bench.machine.synchronize(bench.stream).err().map(|f| *f.report)
    };
    let report = run("", true).unwrap();
    assert_eq!(report.class, Class::GridDependency, "{report}");
    assert!(report.place.ptx_text.contains("%c"), "{report}");
    assert!(report.hint.unwrap().contains("griddepcontrol.wait"));
    assert_eq!(run("griddepcontrol.wait;", true), None);
    assert_eq!(run("", false), None);
}

#[test]
fn memory_of_peers() {
    let decl = ".shared .align 16 .b32 box[64];";
    let body = "
    .reg .b32 %rank;
    mov.u32 %f, box;
    mov.u32 %rank, %cluster_ctarank;
    xor.b32 %peer, %rank, 1;
    @1
    mapa.shared::cluster.u32 %a, %f, %peer;
    mad.lo.u32 %a, %tid, 4, %a;
    st.shared::cluster.b32 [%a], %rank;
    @2
    mad.lo.u32 %b, %tid, 4, %f;
    ld.shared.b32 %c, [%b];
    ret;";
    let meet = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    let launch = || Launch { cluster: Some([2, 1, 1]), ..blocks(2, 32) };
    let both = |a: &str, b: &str| body.replace("@1", a).replace("@2", b);
    twins(Class::Lifetime, ("st.shared::cluster", ""), decl, &both("@@", meet), ("", meet), launch());
    for config in configs() {
        let report = run(config, decl, &both(meet, ""), launch()).0.unwrap();
        assert!(matches!(report.class, Class::Race | Class::Uninitialised | Class::Lifetime), "{report}");
    }
    // An arrival that is relaxed tells nothing.
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;";
    twins(Class::Race, ("ld.shared", "block ("), decl, &both(meet, "@@"), (relaxed, meet), launch());
}

/// A `wgmma` on two tiles of zeros that the threads themselves have stored.
#[test]
fn operands_of_wgmma() {
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
        ("st.shared.b32 [%a], 1", "a wgmma of warpgroup 0"),
        decl,
        &both(fence, "@@"),
        ("", wait),
        blocks(1, 128),
    );
}

#[test]
fn reuse_across_proxies_is_a_lint() {
    let decl = ".shared .align 16 .b8 box[256]; .shared .align 8 .b64 full;";
    let body = "
    mov.u32 %box, box;
    mov.u32 %bar, full;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    fence.proxy.async.shared::cta;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], %tid;
    @@
    bar.sync 0;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 256;
    @%first cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%box], [%out], 256, [%bar];
again:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;
    @!%q bra again;
    ret;";
    let bug = body.replace("@@", "");
    assert_eq!(run(config(), decl, &bug, blocks(1, 64)).0, None);
    let mut checks = Checks::all();
    checks.proxy_reuse = true;
    let report = run(MachineConfig { checks, ..config() }, decl, &bug, blocks(1, 64)).0.unwrap();
    assert_eq!(report.class, Class::ProxyFence, "{report}");
    assert!(report.other.unwrap().contains("st.shared"));
    let mended = body.replace("@@", "fence.proxy.async.shared::cta;");
    assert_eq!(run(MachineConfig { checks, ..config() }, decl, &mended, blocks(1, 64)).0, None);
}

/// What works on the chip, yet against the letter, is advice and stops nothing.
#[test]
fn advice() {
    let decl = ".shared .align 16 .b8 box[256];";
    let fence = "fence.proxy.async.shared::cta;";
    let store = STORE
        .replace("@1", fence)
        .replace("@2", "@%first cp.async.bulk.wait_group.read 0;")
        .replace("@3", "bar.sync 0;");
    assert_eq!(run(config(), decl, &store, blocks(1, 64)), (None, vec![]));
    let unwaited = "
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], %tid;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%first cp.async.bulk.global.shared::cta.bulk_group [%out], [%box], 256;
    @%first cp.async.bulk.commit_group;
    ret;";
    let (found, advice) = run(config(), decl, unwaited, blocks(1, 64));
    assert_eq!(found, None);
    assert!(advice.len() == 1 && advice[0].contains("waited for their bulk stores"), "{advice:?}");
    let apart = "@%first bra meet; add.u32 %tid, %tid, 1; meet: @@ bar.sync 0; ret;";
    assert_eq!(
        run(config(), "", &apart.replace("@@", "bar.warp.sync 0xffffffff;"), blocks(1, 32)),
        (None, vec![])
    );
    let (found, advice) = run(config(), "", &apart.replace("@@", ""), blocks(1, 32));
    assert_eq!(found, None);
    assert!(advice.len() == 1 && advice[0].starts_with("@%first bra meet"), "{advice:?}");
}

/// Checkers can be switched off.
#[test]
fn switches() {
    let body = "mov.u32 %f, box; st.shared.b32 [%f], %tid; ret;";
    let decl = ".shared .align 16 .b32 box[4];";
    let mut checks = Checks::all();
    assert!(run(MachineConfig { checks, ..config() }, decl, body, blocks(1, 64)).0.is_some());
    checks.races = false;
    assert_eq!(run(MachineConfig { checks, ..config() }, decl, body, blocks(1, 64)).0, None);
}

/// A tensor store reads what the threads wrote: the fence is asked for there too.
#[test]
fn tensor_stores() {
    let body = "
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], %tid;
    @@
    bar.sync 0;
    mov.b64 %x, m0;
    cvta.param.u64 %x, %x;
    @%first cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%x, {0, 0}], [%box];
    @%first cp.async.bulk.commit_group;
    @%first cp.async.bulk.wait_group 0;
    ret;";
    let run = |text: &str| {
        let text = format!("{REGS}{}", body.replace("@@", text));
        let mut bench = Bench::new(&module_with_maps(1, 1, ".shared .align 128 .b8 box[256];", &text));
        let out = bench.words(&[0; 64]);
        let map = matrix_map(DataType::U32, out, [8, 8], [8, 8], Swizzle::None);
        let launch = Launch { params: params(&[map], &[out]), ..blocks(1, 64) };
        bench.launch(launch).err().map(|f| *f.report)
    };
    let report = run("").unwrap();
    assert_eq!(report.class, Class::ProxyFence, "{report}");
    assert!(report.place.ptx_text.contains("cp.async.bulk.tensor"), "{report}");
    assert_eq!(run("fence.proxy.async.shared::cta;"), None);
}

/// A flag from one device to another: its scope has to be the system.
#[test]
fn flags_between_devices() {
    let body = |store: &str, load: &str| {
        format!(
            "{REGS}
    .reg .b32 %role;
    ld.param.u64 %x, [p1];
    cvt.u32.u64 %role, %x;
    @!%first bra end;
    setp.ne.u32 %p, %role, 0;
    @%p bra reader;
    st.global.b32 [%out+4], 42;
    {store} [%out], 1;
    bra end;
reader:
    {load} %c, [%out];
    setp.eq.u32 %p, %c, 0;
    @%p bra reader;
    ld.global.b32 %a, [%out+4];
end:
    ret;"
        )
    };
    let run = |store: &str, load: &str| {
        let device = config().devices[0].clone();
        let text = module(2, "", &body(store, load));
        let config = MachineConfig { devices: vec![device.clone(), device], ..config() };
        let ir = std::sync::Arc::new(hadal_emulator::ir::Module::parse("test.ptx", &text).unwrap());
        let mut machine = hadal_emulator::Machine::new(config);
        let out = machine.alloc(0, 64, 256).unwrap();
        machine.write(out, &[0; 64]).unwrap();
        let streams = [0, 1].map(|device| machine.create_stream(device));
        for device in [0u64, 1] {
            machine.enable_peer_access(1, 0).unwrap();
            let id = machine.load_module(device as usize, ir.clone()).unwrap();
            let params = [out, device].iter().flat_map(|p| p.to_le_bytes()).collect();
            machine.launch(streams[device as usize], id, "k", &Launch { params, ..blocks(1, 32) }).unwrap();
        }
        streams.iter().find_map(|s| machine.synchronize(*s).err()).map(|f| *f.report)
    };
    let (release, acquire) = ("st.release.sys.global.b32", "ld.acquire.sys.global.b32");
    assert_eq!(run(release, acquire), None);
    let report = run("st.release.gpu.global.b32", acquire).unwrap();
    assert_eq!(report.class, Class::Scope, "{report}");
    assert!(report.other.unwrap().contains("device 0 block (0,0,0)"));
    let report = run(release, "ld.acquire.gpu.global.b32").unwrap();
    assert_eq!(report.class, Class::Scope, "{report}");
}

/// A schedule that starves one warp or block changes no result of a kernel that is right.
#[test]
fn starved_but_right() {
    let body = flag("st.release.gpu.global.b32 [%out], 1;", "ld.acquire.gpu.global.b32 %c, [%out];", "");
    for seed in 0..20 {
        let config = MachineConfig { schedule: hadal_emulator::Schedule::Starve, seed, ..config() };
        assert_eq!(run(config, "", &body, blocks(2, 64)).0, None);
    }
}
