//! Class 17: bounds, alignment, and what was never written. And plain races.

use super::*;

#[test]
fn class_17_out_of_bounds() {
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
fn class_17_misaligned() {
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
fn class_17_registers_read_before_they_are_written() {
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
fn class_17_memory_read_before_it_is_written() {
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
fn class_17_and_19_reads_of_copies_on_their_way() {
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
