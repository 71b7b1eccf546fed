//! Classes 11 and 12: blocks of a cluster, and the register pool of a block.

use super::*;

#[test]
fn class_11_memory_of_peers() {
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
    // An arrival that is relaxed tells nothing but what a fence before it released.
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;";
    twins(Class::Race, ("ld.shared", "block ("), decl, &both(meet, "@@"), (relaxed, meet), launch());
    let fenced = format!("fence.acq_rel.cluster; {relaxed}");
    twins(Class::Race, ("ld.shared", "block ("), decl, &both(meet, "@@"), (relaxed, &fenced), launch());
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
fn class_12_register_pool() {
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
    assert!(report.other.unwrap().contains("holds 40 registers per thread"));
    let report = registers(&body("136", "216")).unwrap();
    assert_eq!(report.class, Class::Registers, "{report}");
}

#[test]
fn class_12_registers_of_a_partial_warpgroup() {
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
    assert!(report.other.unwrap().contains("warp"));
}

/// Between two `setmaxnreg` the warps of a warpgroup have to meet.
#[test]
fn class_12_no_meeting_between_two() {
    let body = |meet: &str| {
        format!(
            "setp.ge.u32 %p, %tid, 128;
    @%p bra end;
    setmaxnreg.dec.sync.aligned.u32 40;
    {meet}
    setmaxnreg.inc.sync.aligned.u32 64;
end:
    ret;"
        )
    };
    assert_eq!(registers(&body("bar.sync 1, 128;")), None);
    let report = registers(&body("")).unwrap();
    assert_eq!(report.class, Class::Registers, "{report}");
    assert!(report.place.ptx_text.contains("setmaxnreg.inc"), "{report}");
    assert!(report.other.unwrap().contains("warp "));
    // 8 is below the least, 44 no multiple of 8, and nothing is given by a dec to more.
    for count in ["8", "44", "136"] {
        let text = body("bar.sync 1, 128;").replace("u32 40", &format!("u32 {count}"));
        let report = std::panic::catch_unwind(|| registers(&text));
        assert!(
            report.as_ref().map_or(true, |r| r.as_ref().is_some_and(|r| r.class == Class::Registers)),
            "{report:?}"
        );
    }
}

/// A block ends although a peer may still touch its memory: found whichever of the two is faster.
#[test]
fn class_11_blocks_that_end_before_their_peers_are_done() {
    let meet = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    let launch = || Launch { cluster: Some([2, 1, 1]), ..blocks(2, 32) };
    let decl = ".shared .align 16 .b32 box[32]; .shared .align 8 .b64 full;";
    let opening = format!(
        "
    mov.u32 %f, box;
    mov.u32 %bar, full;
    mov.u32 %b, %cluster_ctarank;
    xor.b32 %peer, %b, 1;
    mad.lo.u32 %a, %tid, 4, %f;
    st.shared.b32 [%a], %tid;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    @%first fence.mbarrier_init.release.cluster;
    {meet}
    mapa.shared::cluster.u32 %b, %a, %peer;
    mapa.shared::cluster.u32 %c, %bar, %peer;"
    );
    // A read, and an arrival.
    for touch in [
        "ld.shared::cluster.b32 %c, [%b];",
        "@%first mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%c];",
    ] {
        let name = touch.trim_start_matches("@%first ").split(' ').next().unwrap();
        let body = format!("{opening} {touch}\n @@\n ret;");
        for config in configs() {
            let (found, _) = run(config.clone(), decl, &body.replace("@@", meet), launch());
            assert_eq!(found.map(|r| r.to_string()), None, "{config:?}");
            let report = run(config, decl, &body.replace("@@", ""), launch()).0.expect("nothing found");
            assert_eq!(report.class, Class::Lifetime, "{report}");
            let (at, with) = (&report.place.ptx_text, report.other.clone().unwrap_or_default());
            assert!(at.contains(name) || at == "ret;" && with.contains(name), "{report}");
            assert!(with.contains("block ("), "{report}");
        }
    }
}

/// An arrival that is relaxed is enough for what was read, not for what was written.
#[test]
fn class_11_relaxed_arrivals_before_the_end() {
    let meet = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;";
    let body = |touch: &str| {
        format!(
            "
    mov.u32 %f, box;
    mov.u32 %b, %cluster_ctarank;
    xor.b32 %peer, %b, 1;
    mad.lo.u32 %a, %tid, 4, %f;
    st.shared.b32 [%a], %tid;
    {meet}
    mapa.shared::cluster.u32 %b, %a, %peer;
    {touch}
    @@
    ret;"
        )
    };
    let decl = ".shared .align 16 .b32 box[32];";
    let launch = || Launch { cluster: Some([2, 1, 1]), ..blocks(2, 32) };
    let read = body("ld.shared::cluster.b32 %c, [%b];").replace("@@", relaxed);
    for config in configs() {
        assert_eq!(run(config, decl, &read, launch()).0, None);
    }
    let write = body("st.shared::cluster.b32 [%b], %tid;");
    twins(Class::Lifetime, ("ret;", "st.shared::cluster.b32"), decl, &write, (relaxed, meet), launch());
}

/// The cluster barrier says nothing of copies on their way to a peer: their mbarrier has to be waited for.
#[test]
fn class_11_copies_on_their_way_to_a_peer() {
    let decl = ".shared .align 16 .b8 box[256]; .shared .align 8 .b64 full;";
    let body = "
    mov.u32 %box, box;
    mov.u32 %bar, full;
    mov.u32 %b, %cluster_ctarank;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    @%first fence.mbarrier_init.release.cluster;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 256;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    setp.eq.u32 %p, %b, 0;
    and.pred %p, %p, %first;
    mov.b16 %ranks, 3;
    @%p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%box], [%out], 256, [%bar], %ranks;
    @@
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    ret;";
    let wait = "again: mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0; @!%q bra again;";
    let body = format!(".reg .b16 %ranks; {body}");
    let launch = || Launch { cluster: Some([2, 1, 1]), ..blocks(2, 32) };
    for config in configs() {
        let (found, _) = run(config.clone(), decl, &body.replace("@@", wait), launch());
        assert_eq!(found.map(|r| r.to_string()), None, "{config:?}");
        let report = run(config, decl, &body.replace("@@", ""), launch()).0.expect("nothing found");
        assert_eq!(report.class, Class::Lifetime, "{report}");
        let text = report.to_string();
        assert!(
            text.contains("cp.async.bulk.shared::cluster") && text.contains("wait for the mbarrier"),
            "{report}"
        );
    }
}

#[test]
fn class_11_two_arrivals_in_one_phase() {
    twins(
        Class::Barrier,
        ("barrier.cluster.arrive.release.aligned", "warp 0 arrived first at test.ptx"),
        "",
        "
    barrier.cluster.arrive.aligned;
    @@
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.aligned;
    ret;",
        ("", "barrier.cluster.wait.aligned;"),
        Launch { cluster: Some([2, 1, 1]), ..blocks(2, 32) },
    );
}
