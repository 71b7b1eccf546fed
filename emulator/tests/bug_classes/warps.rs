//! Classes 13 and 18: named barriers, and the lanes of a warp.

use super::*;

#[test]
fn class_13_counts_that_differ() {
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

#[test]
fn class_13_warps_that_wait_at_different_barriers() {
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
fn class_18_partial_warps() {
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
fn class_18_lanes_that_have_not_met() {
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

/// A shuffle orders no memory, says the manual; that it does is trust, which NVIDIA's cooperative groups lean on.
#[test]
fn class_18_lanes_that_met_in_a_shuffle() {
    let run = |config, between: &str| {
        let body = format!(
            "
    mov.u32 %f, box;
    mad.lo.u32 %a, %tid, 4, %f;
    st.shared.b32 [%a], %tid;
    {between}
    ld.shared.b32 %c, [%f];
    ret;"
        );
        run(config, ".shared .align 16 .b32 box[32];", &body, blocks(1, 32))
    };
    for config in configs() {
        for between in
            ["shfl.sync.idx.b32 %b, %tid, 0, 31, 0xffffffff;", "vote.sync.any.pred %p, %first, 0xffffffff;"]
        {
            let (found, advice) = run(config.clone(), between);
            assert_eq!(found, None);
            assert!(advice.len() == 1 && advice[0].starts_with("ld.shared.b32 %c"), "{advice:?}");
            assert!(advice[0].contains("or on a shuffle, which orders no memory"), "{advice:?}");
        }
        assert_eq!(run(config, "bar.warp.sync 0xffffffff;"), (None, vec![]));
    }
}

/// The same of an mbarrier that one lane has initialised.
#[test]
fn class_18_an_mbarrier_known_by_a_vote() {
    let run = |config, between: &str| {
        let body = format!(
            "
    mov.u32 %a, box;
    @%first mbarrier.init.shared::cta.b64 [%a], 1;
    {between}
    @!%first mbarrier.try_wait.parity.shared::cta.b64 %p, [%a], 1;
    ret;"
        );
        run(config, ".shared .align 16 .b32 box[32];", &body, blocks(1, 32))
    };
    for config in configs() {
        let (found, advice) = run(config.clone(), "vote.sync.any.pred %p, %first, 0xffffffff;");
        assert_eq!(found, None);
        assert!(
            advice.len() == 1 && advice[0].contains("by a shuffle or a volatile access alone"),
            "{advice:?}"
        );
        let (found, _) = run(config.clone(), "");
        assert!(
            found
                .is_some_and(|report| report.to_string().contains("without knowing that it was initialised"))
        );
        assert_eq!(run(config, "bar.warp.sync 0xffffffff;"), (None, vec![]));
    }
}

#[test]
fn class_13_numbers_and_counts() {
    let body = |id: &str, count: &str| {
        format!("{REGS} mov.u32 %a, {id}; mov.u32 %b, {count}; bar.sync %a, %b; ret;")
    };
    acquitted("", &body("15", "64"), 64, 0);
    for (id, count) in [("16", "64"), ("1", "48"), ("1", "128")] {
        convicted(Class::Barrier, "bar.sync", "", &body(id, count), 64, 0);
    }
}

/// A warp that has arrived comes again before the phase has ended.
#[test]
fn class_13_two_arrivals_in_one_phase() {
    twins(
        Class::Barrier,
        ("bar.sync 3, 64", "warp 0 arrived first at test.ptx"),
        "",
        "
    setp.ge.u32 %p, %tid, 32;
    @%p bra other;
    bar.arrive 3, 64;
    bar.sync @@, 64;
    ret;
other:
    bar.sync 3, 64;
    bar.sync 4, 64;
    ret;",
        ("3", "4"),
        blocks(1, 64),
    );
}

#[test]
fn class_13_reductions_and_plain_barriers() {
    let body = "
    setp.ge.u32 %p, %tid, 32;
    @%p bra other;
    bar.red.popc.u32 %a, 2, 64, %p;
    ret;
other:
    @@
    ret;";
    either(
        &[Class::Barrier],
        ["bar.red", "bar.sync 2, 64;"],
        "",
        body,
        ("bar.sync 2, 64;", "bar.red.popc.u32 %a, 2, 64, %p;"),
        blocks(1, 64),
    );
}

/// Rows of matrices begin at multiples of 16 bytes.
#[test]
fn class_18_rows_of_matrices() {
    twins(
        Class::Misaligned,
        ("ldmatrix", ""),
        ".shared .align 16 .b8 box[1024];",
        "
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 16, %box;
    st.shared.v4.b32 [%a], {0, 0, 0, 0};
    st.shared.v4.b32 [%a+512], {0, 0, 0, 0};
    bar.warp.sync 0xffffffff;
    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%b}, [%a+@@];
    ret;",
        ("8", "16"),
        blocks(1, 32),
    );
}

/// Some lanes of a warp go around an aligned barrier and leave, before or after the others come to it.
#[test]
fn class_18_lanes_that_went_around_and_left() {
    let around = "
    setp.ge.u32 %p, %tid, @@;
    @%p bra end;
    bar.sync 1, 64;
end:
    mov.u32 %a, 1;
    ret;";
    // The others are further up: they have left when the barrier is reached.
    let before = "
    bra start;
end:
    mov.u32 %a, 1;
    ret;
start:
    setp.ge.u32 %p, %tid, @@;
    @%p bra end;
    bar.sync 1, 64;
    bra end;";
    for body in [around, before] {
        let sides = ("bar.sync 1, 64", "lanes 16-31: they parted at test.ptx");
        twins(Class::PartialWarp, sides, "", body, ("48", "64"), blocks(1, 64));
    }
    // Who has nothing more to do may leave before a barrier of the others: as compiled code does.
    acquitted(
        "",
        &format!("{REGS} setp.ge.u32 %p, %tid, 48; @%p bra end; bar.sync 0; mov.u32 %a, 1; end: ret;"),
        64,
        0,
    );
}

/// The leader is the lowest lane of those that take part, which need not be lane 0.
#[test]
fn class_18_the_leader_is_not_lane_zero() {
    let body = "
    setp.lt.u32 %p, %tid, 4;
    @%p bra meet;
    elect.sync %a|%q, 0xfffffff0;
    setp.eq.u32 %q, %tid, @@;
    @%q st.shared.b32 [box], 7;
    bar.warp.sync 0xfffffff0;
    ld.shared.b32 %c, [box];
meet:
    bar.warp.sync 0xffffffff;
    ret;";
    // Who takes lane 0 for the leader has none.
    twins(
        Class::Uninitialised,
        ("ld.shared.b32 %c", ""),
        ".shared .align 4 .b32 box[1];",
        body,
        ("0", "4"),
        blocks(1, 32),
    );
}

/// A block's threads leave while others wait for them.
#[test]
fn class_18_threads_that_left() {
    let report = twins(
        Class::Deadlock,
        ("bar.sync 1, 64", "the open phase began at test.ptx"),
        "",
        "
    setp.ge.u32 %p, %tid, 32;
    @%p bra end;
    bar.sync 1, 64;
    ret;
end:
    @@
    ret;",
        ("", "bar.sync 1, 64;"),
        blocks(1, 64),
    );
    assert!(report.message.contains("32 of 64 threads"), "{report}");
}

/// What a fence or an arrival stands between is met all the same: the lanes know of each other's accesses before it.
#[test]
fn class_18_a_fence_before_the_lanes_meet() {
    let body = "
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], %tid;
    fence.proxy.async.shared::cta;
    @@
    @%first ld.shared.b32 %c, [%box+124];
    ret;";
    twins(
        Class::Race,
        ("ld.shared.b32 %c", "warp 0 lanes 31"),
        ".shared .align 16 .b32 box[32];",
        body,
        ("", "bar.warp.sync 0xffffffff;"),
        blocks(1, 32),
    );
}
