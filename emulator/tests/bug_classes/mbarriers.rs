//! Classes 6, 7, 8 and 19: mbarriers, their phases, their bytes, and what completes on them.

use super::*;

const BAR: &str = ".shared .align 8 .b64 full;";

#[test]
fn class_06_the_life_of_an_mbarrier() {
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
        ("ld.shared.b64", "mbarrier.init.shared::cta.b64 [%bar], 1"),
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
        ("[%bar], 2", "mbarrier.init.shared::cta.b64 [%bar], 1"),
        decl,
        body,
        ("", "@%first mbarrier.inval.shared::cta.b64 [%bar];"),
        blocks(1, 32),
    );
}

#[test]
fn class_06_before_init() {
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
fn class_07_more_arrivals_than_expected() {
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
fn class_07_a_wait_with_the_wrong_parity() {
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
fn class_07_arrivals_that_never_come() {
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
fn class_08_bytes_expected_and_bytes_brought() {
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
fn class_08_a_copy_belongs_to_itself_until_the_wait() {
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
fn class_19_cp_async_and_its_groups() {
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

#[test]
fn class_06_rules_of_the_object() {
    let decl = ".shared .align 8 .b64 full; .shared .align 8 .b64 free;";
    let init = "mov.u32 %bar, full; mov.u32 %c, @2; @%first mbarrier.init.shared::cta.b64 [%bar@1], %c; ret;";
    let init = |at: &str, count: &str| format!("{REGS}{}", init.replace("@1", at).replace("@2", count));
    acquitted(decl, &init("", "1"), 32, 0);
    acquitted(decl, &init("", "1048575"), 32, 0);
    convicted(Class::Misaligned, "mbarrier.init", decl, &init("+4", "1"), 32, 0);
    convicted(Class::Mbarrier, "mbarrier.init", decl, &init("", "0"), 32, 0);
    convicted(Class::Mbarrier, "mbarrier.init", decl, &init("", "1048576"), 32, 0);
    // Used after its end.
    let body = "
    mov.u32 %bar, full;
    @!%first bra end;
    mbarrier.init.shared::cta.b64 [%bar], 1;
    @@
    mbarrier.arrive.shared::cta.b64 _, [%bar];
end:
    ret;";
    let bug = format!("{REGS}{}", body.replace("@@", "mbarrier.inval.shared::cta.b64 [%bar];"));
    let report = convicted(Class::Mbarrier, "mbarrier.arrive", decl, &bug, 32, 0);
    assert!(report.message.contains("inval"), "{report}");
    acquitted(decl, &format!("{REGS}{}", body.replace("@@", "")), 32, 0);
}

/// A copy completes on an mbarrier that no fence has shown to the asynchronous proxy: advice, for Triton's kernels do the same.
#[test]
fn class_06_initialised_without_a_fence() {
    let decl = ".shared .align 16 .b8 box[256]; .shared .align 8 .b64 full;";
    let body = "
    mov.u32 %box, box;
    mov.u32 %bar, full;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    @@
    bar.sync 0;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 256;
    @%first cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%box], [%out], 256, [%bar];
again:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;
    @!%q bra again;
    ret;";
    let (found, advice) = run(config(), decl, &body.replace("@@", ""), blocks(1, 64));
    assert_eq!(found, None);
    let [advice] = &advice[..] else { panic!("{advice:?}") };
    assert!(
        advice.starts_with("@%first cp.async.bulk") && advice.contains("missing proxy fence"),
        "{advice}"
    );
    assert!(advice.contains("initialised by warp 0 lanes 0 at test.ptx"), "{advice}");
    let mended = body.replace("@@", "fence.proxy.async.shared::cta;");
    assert_eq!(run(config(), decl, &mended, blocks(1, 64)), (None, vec![]));
}

/// A block waits for a peer's mbarrier: only its own may be waited for. A signal to a peer, and a wait there, is the mended way.
#[test]
fn class_06_waits_for_a_peer() {
    twins(
        Class::OutOfBounds,
        ("mbarrier.try_wait", ""),
        ".shared .align 8 .b64 full;",
        "
    mov.u32 %bar, full;
    mov.u32 %b, %cluster_ctarank;
    xor.b32 %peer, %b, 1;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    @%first fence.mbarrier_init.release.cluster;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    mapa.shared::cluster.u32 %a, %bar, %peer;
    @%first mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%a];
again:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [@@], 0;
    @!%q bra again;
    ret;",
        ("%a", "%bar"),
        Launch { cluster: Some([2, 1, 1]), ..blocks(2, 32) },
    );
}

/// Two phases whose arrivals come in a row: nobody has waited for the first when the second begins.
#[test]
fn class_07_a_phase_that_nobody_waited_for() {
    let body = "
    mov.u32 %bar, full;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    bar.sync 0;
    setp.ge.u32 %p, %tid, 32;
    @%p bra reader;
    @!%first bra end;
    mbarrier.arrive.shared::cta.b64 _, [%bar];
    @@
    mbarrier.arrive.shared::cta.b64 %x, [%bar];
end:
    ret;
reader:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;
    @!%q bra reader;
second:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 1;
    @!%q bra second;
    ret;";
    // The producer waits too; then the reader may still be late and miss the phase, but that is a hang, not this.
    let wait = "first_phase: mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0; @!%q bra first_phase;";
    let decl = ".shared .align 8 .b64 full;";
    for config in configs() {
        let report = run(config, decl, &body.replace("@@", ""), blocks(1, 64)).0.expect("nothing found");
        assert_eq!(report.class, Class::Mbarrier, "{report}");
        assert!(report.place.ptx_text.contains("mbarrier.arrive.shared::cta.b64 %x"), "{report}");
        assert!(report.other.unwrap().contains("warp 0 lanes 0 at test.ptx"));
    }
    let mended = body.replace("@@", wait).replace("second:", "ret;\nsecond:");
    for config in configs() {
        let found = run(config, decl, &mended, blocks(1, 64)).0;
        assert!(found.as_ref().is_none_or(|r| r.class == Class::Deadlock), "{found:?}");
    }
}

/// `try_wait` may return false at any time: a kernel that asks once reads too early.
#[test]
fn class_07_a_wait_that_does_not_loop() {
    let decl = ".shared .align 16 .b8 box[8192]; .shared .align 8 .b64 full[32];";
    let round = |stage: usize, text: &str| {
        let (bar, at) = (stage * 8, stage * 256);
        format!(
            "@%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar+{bar}], 256;
    @%first cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%box+{at}], [%out], 256, [%bar+{bar}];
    bar.sync 0;
    retry{stage}: mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar+{bar}], 0;
    {}
    ld.shared.b32 %c, [%a+{at}];
",
            text.replace("again", &format!("retry{stage}"))
        )
    };
    let body = |text: &str| {
        let inits: String = (0..32)
            .map(|s| format!("@%first mbarrier.init.shared::cta.b64 [%bar+{}], 1;\n", s * 8))
            .collect();
        let rounds: String = (0..32).map(|s| round(s, text)).collect();
        let drain: String = (0..32)
            .map(|s| {
                format!(
                    "drain{s}: mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar+{}], 0; @!%q bra drain{s};\n",
                    s * 8
                )
            })
            .collect();
        format!(
            "mov.u32 %box, box; mov.u32 %bar, full; mad.lo.u32 %a, %tid, 4, %box;
    {inits} fence.proxy.async.shared::cta; bar.sync 0;
    {rounds} {drain} ret;"
        )
    };
    let mut found = 0;
    for config in configs() {
        assert_eq!(run(config.clone(), decl, &body("@!%q bra again;"), blocks(1, 64)).0, None);
        let Some(report) = run(config, decl, &body(""), blocks(1, 64)).0 else { continue };
        found += 1;
        assert!(report.place.ptx_text.contains("ld.shared.b32 %c"), "{report}");
        assert!(report.other.as_deref().unwrap_or("").contains("cp.async.bulk"), "{report}");
        if report.class == Class::Race {
            assert!(report.hint.clone().unwrap().contains("returned false and was not repeated"), "{report}");
        }
    }
    assert!(found >= 5, "found under {found} of the random schedules");
}

/// A peer sends words of registers: they are there once the mbarrier that counts them says so.
#[test]
fn class_19_st_async_and_red_async() {
    let decl = ".shared .align 16 .b32 box[32]; .shared .align 8 .b64 full;";
    let body = "
    mov.u32 %box, box;
    mov.u32 %bar, full;
    mov.u32 %b, %cluster_ctarank;
    xor.b32 %peer, %b, 1;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], 0;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    @%first fence.mbarrier_init.release.cluster;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 128;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    mapa.shared::cluster.u32 %b, %a, %peer;
    mapa.shared::cluster.u32 %f, %bar, %peer;
    @1
    @2
    ld.shared.b32 %c, [%a];
last:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;
    @!%q bra last;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    ret;";
    let wait = "again: mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0; @!%q bra again;";
    let send = [
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%b], %tid, [%f];",
        "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%b], %tid, [%f];",
    ];
    let launch = || Launch { cluster: Some([2, 1, 1]), ..blocks(2, 32) };
    for send in send {
        let body = body.replace("@1", send);
        let name = &send[..send.find('.').unwrap() + 6];
        either(
            &[Class::Race, Class::Uninitialised],
            [name, "ld.shared.b32 %c"],
            decl,
            &body.replace("@2", "@@"),
            ("", wait),
            launch(),
        );
        // What is sent counts in bytes, like any copy: four a lane.
        let bug = body.replace("@2", wait).replace("[%bar], 128", "[%bar], 64");
        for config in configs() {
            let report = run(config, decl, &bug, launch()).0.expect("nothing found");
            let known = [Class::Mbarrier, Class::Race, Class::Uninitialised, Class::Deadlock];
            assert!(known.contains(&report.class), "{report}");
        }
    }
}

/// They are performed in the generic proxy: a bulk store of what came needs the fence, as after any store.
#[test]
fn class_19_st_async_is_generic() {
    twins(
        Class::ProxyFence,
        ("cp.async.bulk.global", "st.async"),
        ".shared .align 16 .b32 box[32]; .shared .align 8 .b64 full;",
        "
    mov.u32 %box, box;
    mov.u32 %bar, full;
    mad.lo.u32 %a, %tid, 4, %box;
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 128;
    bar.sync 0;
    st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%a], %tid, [%bar];
again:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;
    @!%q bra again;
    bar.warp.sync 0xffffffff;
    @@
    @%first cp.async.bulk.global.shared::cta.bulk_group [%out], [%box], 128;
    @%first cp.async.bulk.commit_group;
    @%first cp.async.bulk.wait_group 0;
    ret;",
        ("", "fence.proxy.async.shared::cta;"),
        blocks(1, 32),
    );
}

/// `cp.async.mbarrier.arrive` hands copies to an mbarrier; `.noinc` needs its arrival counted by `mbarrier.init`.
#[test]
fn class_19_cp_async_mbarrier_arrive() {
    let decl = ".shared .align 16 .b8 box[1024]; .shared .align 8 .b64 full;";
    let body = "
    mov.u32 %box, box;
    mov.u32 %bar, full;
    @%first mbarrier.init.shared::cta.b64 [%bar], @1;
    bar.sync 0;
    mad.lo.u32 %a, %tid, 16, %box;
    mad.wide.u32 %at, %tid, 16, %out;
    cp.async.cg.shared.global [%a], [%at], 16;
    cp.async.mbarrier.arrive@2.shared::cta.b64 [%bar];
    @3
    @4
    xor.b32 %b, %tid, 1;
    mad.lo.u32 %b, %b, 16, %box;
    ld.shared.b32 %c, [%b];
last:
    mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0;
    @!%q bra last;
    ret;";
    let wait = "again: mbarrier.try_wait.parity.shared::cta.b64 %q, [%bar], 0; @!%q bra again;";
    let arrive = "mbarrier.arrive.shared::cta.b64 _, [%bar];";
    let with = |count: &str, noinc: &str, arrive: &str, wait: &str| {
        body.replace("@1", count).replace("@2", noinc).replace("@3", arrive).replace("@4", wait)
    };
    either(
        &[Class::Race, Class::Uninitialised],
        ["cp.async.cg", "ld.shared.b32 %c"],
        decl,
        &with("32", ".noinc", "", "@@"),
        ("", wait),
        blocks(1, 32),
    );
    assert_eq!(run(config(), decl, &with("32", "", arrive, wait), blocks(1, 32)).0, None);
    // Counted twice, or not at all.
    let report = run(config(), decl, &with("32", ".noinc", arrive, wait), blocks(1, 32)).0.unwrap();
    assert!(matches!(report.class, Class::Race | Class::Uninitialised | Class::Mbarrier), "{report}");
    assert!(report.other.clone().unwrap().contains("cp.async"), "{report}");
    let report = run(config(), decl, &with("32", "", "", wait), blocks(1, 32)).0.unwrap();
    assert_eq!(report.class, Class::Deadlock, "{report}");
    assert!(report.other.unwrap().contains("mbarrier.init"));
}
