//! Classes 14 and 15: grids of one stream, blocks of a grid, devices.

use super::*;

#[test]
fn class_14_grids_that_do_not_wait() {
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
    assert!(report.other.unwrap().contains("at test.ptx"));
    assert_eq!(run("griddepcontrol.wait;", true), None);
    assert_eq!(run("", false), None);
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
fn class_15_flags_between_blocks() {
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

/// A flag from one device to another: its scope has to be the system.
#[test]
fn class_15_flags_between_devices() {
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

/// A schedule that starves one warp or block changes no result of a kernel that is right.
#[test]
fn starved_but_right() {
    let body = flag("st.release.gpu.global.b32 [%out], 1;", "ld.acquire.gpu.global.b32 %c, [%out];", "");
    for seed in 0..20 {
        let config = MachineConfig { schedule: hadal_emulator::Schedule::Starve, seed, ..config() };
        assert_eq!(run(config, "", &body, blocks(2, 64)).0, None);
    }
}

/// The grid before only reads what this one overwrites.
#[test]
fn class_14_overwriting_what_is_read() {
    let body = "
    ld.param.u64 %x, [p1];
    mad.wide.u32 %at, %tid, 4, %out;
    setp.eq.u64 %p, %x, 0;
    @!%p bra writer;
    griddepcontrol.launch_dependents;
    ld.global.b32 %c, [%at];
    ret;
writer:
    @@
    st.global.b32 [%at], %tid;
    ret;";
    let run = |text: &str| {
        let mut bench = Bench::new(&module(2, "", &format!("{REGS}{}", body.replace("@@", text))));
        let out = bench.words(&[0; 64]);
        for role in [0, 1] {
            let launch = Launch { params: params(&[], &[out, role]), programmatic: true, ..blocks(1, 64) };
            bench.machine.launch(bench.stream, bench.module, "k", &launch).unwrap();
        }
        bench.machine.synchronize(bench.stream).err().map(|f| *f.report)
    };
    assert_eq!(run("griddepcontrol.wait;"), None);
    let report = run("").expect("nothing found");
    assert_eq!(report.class, Class::GridDependency, "{report}");
    let lines = ["st.global.b32 [%at], %tid", "ld.global.b32 %c"];
    let (at, with) = (&report.place.ptx_text, report.other.clone().unwrap());
    let named = |a: &str, b: &str| at.contains(a) && with.contains(b);
    assert!(named(lines[0], lines[1]) || named(lines[1], lines[0]), "{report}");
}

/// Three grids: the second never waits, so the third's wait says nothing of the first.
#[test]
fn class_14_a_grid_between_that_does_not_wait() {
    let body = "
    ld.param.u64 %x, [p1];
    mad.wide.u32 %at, %tid, 4, %out;
    griddepcontrol.launch_dependents;
    setp.eq.u64 %p, %x, 1;
    @!%p bra outer;
    @@
    ret;
outer:
    griddepcontrol.wait;
    st.global.b32 [%at], %tid;
    ret;";
    let run = |text: &str| {
        let mut bench = Bench::new(&module(2, "", &format!("{REGS}{}", body.replace("@@", text))));
        let out = bench.words(&[0; 64]);
        for role in [0, 1, 2] {
            let launch = Launch { params: params(&[], &[out, role]), programmatic: true, ..blocks(1, 64) };
            bench.machine.launch(bench.stream, bench.module, "k", &launch).unwrap();
        }
        bench.machine.synchronize(bench.stream).err().map(|f| *f.report)
    };
    assert_eq!(run("griddepcontrol.wait;"), None);
    let report = run("").expect("nothing found");
    assert_eq!(report.class, Class::GridDependency, "{report}");
    assert!(report.place.ptx_text.contains("st.global.b32"), "{report}");
    assert!(report.other.unwrap().contains("st.global.b32"));
}

/// A bulk store is behind the flag only when it has been waited for, and not merely read.
#[test]
fn class_15_bulk_stores_before_a_flag() {
    let body = "
    setp.ne.u32 %p, %cta, 0;
    @%p bra reader;
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], %tid;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @!%first bra end;
    cp.async.bulk.global.shared::cta.bulk_group [%out+16], [%box], 128;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group@@ 0;
    fence.proxy.async.global;
    st.release.gpu.global.b32 [%out], 1;
    bra end;
reader:
    @!%first bra end;
again:
    ld.acquire.gpu.global.b32 %c, [%out];
    setp.eq.u32 %p, %c, 0;
    @%p bra again;
    ld.global.b32 %a, [%out+16];
end:
    ret;";
    twins(
        Class::Race,
        ("ld.global.b32 %a", "a bulk store of warp 0 lanes 0"),
        ".shared .align 16 .b8 box[128];",
        body,
        (".read", ""),
        blocks(2, 32),
    );
}
