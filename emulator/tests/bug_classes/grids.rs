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

/// To the manual a volatile access is a relaxed one. The chip makes it work, so that a flag without fences is advice.
#[test]
fn class_15_volatile_flags() {
    let (store, load) = ("st.volatile.global.b32 [%out], 1;", "ld.volatile.global.b32 %c, [%out];");
    let fence = "fence.acq_rel.gpu;";
    let body = |before: &str, after: &str| flag(&format!("{before} {store}"), load, after);
    for config in configs() {
        for (before, after) in [("", ""), (fence, ""), ("", fence)] {
            let (found, advice) = run(config.clone(), "", &body(before, after), blocks(2, 32));
            assert_eq!(found, None);
            assert!(advice.len() == 1 && advice[0].starts_with("ld.global.b32 %a"), "{advice:?}");
            assert!(advice[0].contains("rests on a volatile access"), "{advice:?}");
            assert!(advice[0].contains("write by block (0,0,0) warp 0 lanes 0 at test.ptx"), "{advice:?}");
        }
        assert_eq!(run(config, "", &body(fence, fence), blocks(2, 32)), (None, vec![]));
    }
    // What is known on trust travels: a barrier passes it on, and it stays trust.
    let told = "
    @%p bra reader;
    @!%first bra end;
    st.global.b32 [%out+4], 42;
    st.volatile.global.b32 [%out], 1;
    bra end;
reader:
    @!%first bra met;
again:
    ld.volatile.global.b32 %c, [%out];
    setp.eq.u32 %p, %c, 0;
    @%p bra again;
    @@
met:
    bar.sync 0;
    ld.global.b32 %a, [%out+4];
end:
    ret;";
    let told = format!("setp.ne.u32 %p, %cta, 0; {told}").replace("st.volatile", "@1 st.volatile");
    let (found, advice) = run(config(), "", &told.replace("@@", "").replace("@1", ""), blocks(2, 64));
    assert_eq!(found, None);
    assert!(advice.iter().any(|a| a.starts_with("ld.global.b32 %a")), "{advice:?}");
    let (found, advice) = run(config(), "", &told.replace("@@", fence).replace("@1", fence), blocks(2, 64));
    assert_eq!(found, None);
    assert!(!advice.iter().any(|a| a.contains("volatile")), "{advice:?}");
}

/// The wait counts for the threads that execute it, and for those they tell.
#[test]
fn class_14_a_wait_by_one_thread() {
    let body = "
    mad.wide.u32 %at, %tid, 4, %out;
    griddepcontrol.launch_dependents;
    @%first griddepcontrol.wait;
    @@
    st.global.b32 [%at], %tid;
    ret;";
    let run = |text: &str| {
        let mut bench = Bench::new(&module(1, "", &format!("{REGS}{}", body.replace("@@", text))));
        let out = bench.words(&[0; 64]);
        for _ in 0..2 {
            let launch = Launch { params: out.to_le_bytes().to_vec(), programmatic: true, ..blocks(1, 64) };
            bench.machine.launch(bench.stream, bench.module, "k", &launch).unwrap();
        }
        bench.machine.synchronize(bench.stream).err().map(|f| *f.report)
    };
    let report = run("").unwrap();
    assert_eq!(report.class, Class::GridDependency, "{report}");
    assert!(report.place.ptx_text.contains("st.global.b32 [%at]"), "{report}");
    assert_eq!(run("bar.sync 0;"), None);
}

/// Two kernels in turns: one writes a word, the other reads it.
const TURNS: &str = "
    ld.param.u64 %x, [p1];
    setp.ne.u64 %p, %x, 0;
    @!%first bra end;
    @%p bra read;
    st.global.b32 [%out], 1;
    bra end;
read:
    ld.global.b32 %c, [%out+@@];
end:
    ret;";

/// That a grid has ended orders nothing: the host has to have waited for it.
#[test]
fn class_15_a_wait_of_the_host_that_is_missing() {
    let run = |waits: bool| {
        let mut bench = Bench::new(&module(2, "", &format!("{REGS}{}", TURNS.replace("@@", "0"))));
        let out = bench.words(&[0; 64]);
        let other = bench.machine.create_stream(0);
        let launch = |role: u64, at: u64| {
            let params = [at, role].iter().flat_map(|v| v.to_le_bytes()).collect();
            Launch { params, ..blocks(1, 32) }
        };
        // The writer on one stream, something unrelated on the other; both end before the host comes back.
        bench.machine.launch(bench.stream, bench.module, "k", &launch(0, out)).unwrap();
        bench.machine.launch(other, bench.module, "k", &launch(0, out + 128)).unwrap();
        bench.machine.synchronize(other).unwrap();
        if waits {
            bench.machine.synchronize(bench.stream).unwrap();
        }
        bench.machine.launch(other, bench.module, "k", &launch(1, out)).unwrap();
        bench.machine.synchronize(other).err().map(|f| *f.report)
    };
    let report = run(false).unwrap();
    assert_eq!(report.class, Class::Race, "{report}");
    assert!(report.place.ptx_text.contains("ld.global.b32 %c"), "{report}");
    assert!(report.other.unwrap().contains("st.global.b32 [%out], 1"));
    assert_eq!(run(true), None);
}

/// An event carries what the grids before it had learned, not what later ones of its stream have.
#[test]
fn class_15_an_event_recorded_too_early() {
    let body = "
    ld.param.u64 %x, [p1];
    @!%first bra end;
    setp.eq.u64 %p, %x, 0;
    @%p bra end;
    setp.eq.u64 %p, %x, 1;
    @%p bra write;
    setp.eq.u64 %p, %x, 3;
    @%p bra read;
again:
    ld.acquire.gpu.global.b32 %c, [%out];
    setp.eq.u32 %p, %c, 0;
    @%p bra again;
    bra end;
write:
    st.global.b32 [%out+4], 42;
    st.release.gpu.global.b32 [%out], 1;
    bra end;
read:
    ld.global.b32 %a, [%out+4];
end:
    ret;";
    let run = |early: bool| {
        let mut bench = Bench::new(&module(2, "", &format!("{REGS}{body}")));
        let out = bench.words(&[0; 64]);
        let (reads, writes) = (bench.machine.create_stream(0), bench.machine.create_stream(0));
        let event = bench.machine.create_event();
        let enqueue = |bench: &mut Bench, stream, role: u64| {
            let params = [out, role].iter().flat_map(|v| v.to_le_bytes()).collect();
            bench.machine.launch(stream, bench.module, "k", &Launch { params, ..blocks(1, 32) }).unwrap();
        };
        let (nothing, write, acquire, read) = (0, 1, 2, 3);
        let learns = bench.stream;
        enqueue(&mut bench, writes, write);
        enqueue(&mut bench, learns, nothing);
        if early {
            bench.machine.record_event(learns, event).unwrap();
        }
        enqueue(&mut bench, learns, acquire);
        if !early {
            bench.machine.record_event(learns, event).unwrap();
        }
        bench.machine.wait_event(reads, event).unwrap();
        for role in [nothing, nothing, nothing, read] {
            enqueue(&mut bench, reads, role);
        }
        bench.machine.synchronize(reads).err().map(|f| *f.report)
    };
    let report = run(true).unwrap();
    assert_eq!(report.class, Class::Race, "{report}");
    assert!(report.place.ptx_text.contains("ld.global.b32 %a"), "{report}");
    assert!(report.other.unwrap().contains("st.global.b32 [%out+4], 42"));
    assert_eq!(run(false), None);
}

/// A flag tells of all that came before the grid that raises it, the grids before it in its stream included.
#[test]
fn class_15_a_flag_after_a_grid_that_has_ended() {
    let body = "
    ld.param.u64 %x, [p1];
    @!%first bra end;
    setp.eq.u64 %p, %x, 0;
    @%p bra write;
    setp.eq.u64 %p, %x, 1;
    @%p bra raise;
again:
    ld.acquire.gpu.global.b32 %c, [%out];
    setp.eq.u32 %p, %c, 0;
    @%p bra again;
    ld.global.b32 %a, [%out+4];
    bra end;
raise:
    @@
    bra end;
write:
    st.global.b32 [%out+4], 42;
end:
    ret;";
    for late in [false, true] {
        for config in configs() {
            let run = |raise: &str| {
                let text = format!("{REGS}{}", body.replace("@@", raise));
                let mut bench = Bench::with(config.clone(), &module(2, "", &text));
                let out = bench.words(&[0; 64]);
                let reads = bench.machine.create_stream(0);
                let (write, raise, read) = (0u64, 1, 2);
                let writes = bench.stream;
                let mut order = [(writes, write), (writes, raise), (reads, read)];
                order.rotate_right(if late { 0 } else { 1 });
                for (stream, role) in order {
                    let params = [out, role].iter().flat_map(|v| v.to_le_bytes()).collect();
                    let launch = Launch { params, ..blocks(1, 32) };
                    bench.machine.launch(stream, bench.module, "k", &launch).unwrap();
                }
                bench.machine.synchronize(reads).err().map(|f| *f.report)
            };
            let report = run("st.relaxed.gpu.global.b32 [%out], 1;").unwrap();
            assert_eq!(report.class, Class::Race, "{report}");
            assert!(report.place.ptx_text.contains("ld.global.b32 %a"), "{report}");
            assert_eq!(run("st.release.gpu.global.b32 [%out], 1;"), None, "{late} {config:?}");
        }
    }
}
