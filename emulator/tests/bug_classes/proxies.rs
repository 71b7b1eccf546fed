//! Classes 1, 2, 9, 10 and 20: what threads and tensor copies do to the same bytes.

use super::*;
use hadal_emulator::tma::{DataType, Swizzle};
use hadal_emulator::{Checks, Completion};

pub const STORE: &str = "
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
fn class_01_and_10_bulk_stores() {
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

/// A tensor store reads what the threads wrote: the fence is asked for there too.
#[test]
fn class_01_tensor_stores() {
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
    assert!(report.other.unwrap().contains("st.shared.b32 [%a], %tid"));
    assert_eq!(run("fence.proxy.async.shared::cta;"), None);
}

#[test]
fn class_02_reuse_across_proxies_is_a_lint() {
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
    assert!(report.place.ptx_text.contains("cp.async.bulk"), "{report}");
    assert!(report.other.unwrap().contains("st.shared"));
    let mended = body.replace("@@", "fence.proxy.async.shared::cta;");
    assert_eq!(run(MachineConfig { checks, ..config() }, decl, &mended, blocks(1, 64)).0, None);
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
fn class_08_and_09_tensor_copies() {
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
    assert!(report.other.unwrap().contains("expected by warp 0 at test.ptx"));
    let report = flagged(Class::Deadlock, tensor_case("0", "1008", keep, true));
    assert!(report.message.contains("-16 bytes pending"), "{report}");
}

#[test]
fn class_09_bulk_sizes() {
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
fn class_10_sources_of_bulk_stores() {
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

/// A map that the kernel edits, in global memory, and a copy through it.
#[test]
fn class_09_maps_edited_on_the_device() {
    let body = "
    .reg .b64 %map;
    mov.u32 %bar, full;
    mov.u32 %box, box;
    ld.param.u64 %map, [p1];
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @!%first bra again;
    tensormap.replace.tile.global_address.global.b1024.b64 [%map], %out;
    @1
    @2
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 1024;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%box], [%map, {0, 0}], [%bar];
again:
    mbarrier.try_wait.parity.shared::cta.b64 %p, [%bar], 0;
    @!%p bra again;
    ret;";
    let decl = ".shared .align 1024 .b8 box[1024]; .shared .align 8 .b64 full;";
    let run = |release: &str, acquire: &str| {
        let body = format!("{REGS}{}", body.replace("@1", release).replace("@2", acquire));
        let mut bench = Bench::new(&module(2, decl, &body));
        let out = bench.bytes(&[0; 4096]);
        let map = matrix_map(DataType::U32, out, [32, 32], [32, 8], Swizzle::B128);
        let map = bench.bytes(&map);
        bench.run(1, 32, &[out, map]).err().map(|f| *f.report)
    };
    let release = "fence.proxy.tensormap::generic.release.gpu;";
    let acquire = "fence.proxy.tensormap::generic.acquire.gpu [%map], 128;";
    assert_eq!(run(release, acquire), None);
    for (one, other) in [("", ""), (release, ""), ("", acquire)] {
        let report = run(one, other).unwrap_or_else(|| panic!("nothing found with '{one}' and '{other}'"));
        assert_eq!(report.class, Class::ProxyFence, "{report}");
        assert!(report.place.ptx_text.contains("cp.async.bulk.tensor"), "{report}");
        assert!(report.other.unwrap().contains("tensormap.replace"));
    }
    // The acquire names one map.
    let report = run(release, "fence.proxy.tensormap::generic.acquire.gpu [%out], 128;").unwrap();
    assert_eq!(report.class, Class::ProxyFence, "{report}");
}

/// A copy reads its map until it is done. Shipping kernels edit it earlier: advice.
#[test]
fn class_09_maps_edited_before_the_copy_is_done() {
    let body = "
    .reg .b64 %map;
    mov.u32 %bar, full;
    mov.u32 %box, box;
    ld.param.u64 %map, [p1];
    @%first mbarrier.init.shared::cta.b64 [%bar], 1;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @!%first bra end;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 1024;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%box], [%map, {0, 0}], [%bar];
    @1
again:
    mbarrier.try_wait.parity.shared::cta.b64 %p, [%bar], 0;
    @!%p bra again;
    @2
end:
    ret;";
    let edit = "tensormap.replace.tile.global_address.global.b1024.b64 [%map], %out;";
    let run = |early: &str, late: &str| {
        let body = format!("{REGS}{}", body.replace("@1", early).replace("@2", late));
        let decl = ".shared .align 1024 .b8 box[1024]; .shared .align 8 .b64 full;";
        let mut bench = Bench::new(&module(2, decl, &body));
        let out = bench.bytes(&[0; 4096]);
        let map = matrix_map(DataType::U32, out, [32, 32], [32, 8], Swizzle::B128);
        let map = bench.bytes(&map);
        bench.run(1, 32, &[out, map]).unwrap();
        bench.machine.advice().to_vec()
    };
    assert_eq!(run("", edit), []);
    let advice = run(edit, "");
    assert_eq!(advice.len(), 1);
    assert!(advice[0].place.ptx_text.contains("tensormap.replace"), "{}", advice[0]);
    assert!(advice[0].other.as_ref().unwrap().contains("cp.async.bulk.tensor"), "{}", advice[0]);
}

/// What a bulk store writes is there for others after `wait_group`, not after `wait_group.read`.
#[test]
fn class_10_results_of_bulk_stores() {
    twins(
        Class::Race,
        ("ld.global", "a bulk store of warp 0 lanes 0 at test.ptx"),
        ".shared .align 16 .b8 box[256];",
        "
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], %tid;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%first cp.async.bulk.global.shared::cta.bulk_group [%out], [%box], 256;
    @%first cp.async.bulk.commit_group;
    @%first cp.async.bulk.wait_group@@ 0;
    bar.sync 0;
    mad.wide.u32 %at, %tid, 4, %out;
    ld.global.b32 %c, [%at];
    ret;",
        (".read", ""),
        blocks(1, 64),
    );
}

/// Rows of 24 bytes: a store of one may write the eight bytes behind it again.
#[test]
fn class_20_trailing_sectors_are_a_lint() {
    let body = "
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], %tid;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    mov.b64 %x, m0;
    cvta.param.u64 %x, %x;
    @%first cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%x, {0, 0}], [%box];
    @%first cp.async.bulk.commit_group;
    @@
    setp.eq.u32 %p, %tid, 1;
    @%p st.global.b32 [%out+24], 7;
    @%first cp.async.bulk.wait_group 0;
    ret;";
    let run = |text: &str, trailing_sector| {
        let text = format!("{REGS}{}", body.replace("@@", text));
        let mut checks = Checks::all();
        checks.trailing_sector = trailing_sector;
        let config = MachineConfig { checks, ..config() };
        let mut bench =
            Bench::with(config, &module_with_maps(1, 1, ".shared .align 128 .b8 box[256];", &text));
        let out = bench.words(&[0; 64]);
        // Six of the eight words of a row are the tensor's.
        let map = hadal_emulator::tma::TensorMap::new(&hadal_emulator::tma::Tiled {
            data_type: DataType::U32,
            address: out,
            dims: &[6, 8],
            strides: &[32],
            box_dims: &[8, 8],
            element_strides: &[1, 1],
            interleave: hadal_emulator::tma::Interleave::None,
            swizzle: Swizzle::None,
            l2_promotion: hadal_emulator::tma::L2Promotion::None,
            oob_fill: hadal_emulator::tma::OobFill::Zero,
        });
        let map = map.unwrap().encode().iter().flat_map(|w| w.to_le_bytes()).collect();
        let launch = Launch { params: params(&[map], &[out]), ..blocks(1, 64) };
        bench.launch(launch).err().map(|f| *f.report)
    };
    assert_eq!(run("", false), None, "off unless somebody asks");
    let report = run("", true).unwrap();
    assert_eq!(report.class, Class::Race, "{report}");
    assert!(report.place.ptx_text.contains("st.global.b32 [%out+24], 7"), "{report}");
    assert!(report.message.contains("sixteen bytes"), "{report}");
    assert!(report.other.unwrap().contains("cp.async.bulk.tensor"));
    assert_eq!(run("@%first cp.async.bulk.wait_group 0; bar.sync 0;", true), None);
}
