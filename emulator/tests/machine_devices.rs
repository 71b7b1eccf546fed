//! Several devices, streams, events, host memory, cooperative grids, residency and the layout of the SMs.

mod machine_support;
use std::sync::Arc;

use hadal_emulator::{Class, DeviceConfig, Launch, Machine, MachineConfig, MachineError, ModuleId, ir};
use machine_support::*;

fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn launch(grid: u32, threads: u32, params: &[u64]) -> Launch {
    Launch { grid: [grid, 1, 1], block: [threads, 1, 1], params: words(params), ..Launch::default() }
}

/// A machine of so many devices of four SMs, the module on each.
fn devices(count: usize, text: &str) -> (Machine, Vec<ModuleId>) {
    let device = config().devices[0].clone();
    let mut machine = Machine::new(MachineConfig { devices: vec![device; count], ..config() });
    let module = Arc::new(ir::Module::parse("test.ptx", text).unwrap_or_else(|e| panic!("{e}")));
    let modules = (0..count).map(|d| machine.load_module(d, module.clone()).unwrap()).collect();
    (machine, modules)
}

fn word(machine: &Machine, address: u64) -> u32 {
    let mut bytes = [0; 4];
    machine.read(address, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

/// `*p0 = p1`
const SET: &str = "
    .reg .b64 %a, %v;
    .reg .b32 %w;
    ld.param.u64 %a, [p0];
    ld.param.u64 %v, [p1];
    cvt.u32.u64 %w, %v;
    st.global.u32 [%a], %w;
    ret;";

#[test]
fn peer_memory_needs_access() {
    let (mut machine, modules) = devices(2, &module(2, "", SET));
    let far = machine.alloc(1, 4, 256).unwrap();
    machine.fill(far, 0, 4).unwrap();
    let stream = machine.create_stream(0);
    machine.launch(stream, modules[0], "k", &launch(1, 1, &[far, 7])).unwrap();
    let fault = machine.synchronize(stream).unwrap_err();
    assert_eq!(fault.report.class, Class::OutOfBounds);
    assert!(fault.report.to_string().contains("memory of device 1"), "{fault}");
    machine.reset();
    machine.enable_peer_access(0, 1).unwrap();
    assert!(machine.can_reach(0, 1) && !machine.can_reach(1, 0));
    machine.launch(stream, modules[0], "k", &launch(1, 1, &[far, 7])).unwrap();
    machine.synchronize(stream).unwrap();
    assert_eq!(word(&machine, far), 7);
    // A module belongs to its device.
    assert!(matches!(
        machine.launch(stream, modules[1], "k", &launch(1, 1, &[far, 7])),
        Err(MachineError::NoSuch { .. })
    ));
}

/// Every block of both devices adds to a counter of device 0 and goes on when all have: neither grid can end alone.
#[test]
fn grids_of_two_devices_meet() {
    let body = "
    .reg .b64 %a, %n;
    .reg .b32 %w, %all;
    .reg .pred %p;
    ld.param.u64 %a, [p0];
    ld.param.u64 %n, [p1];
    cvt.u32.u64 %all, %n;
    red.release.sys.global.add.u32 [%a], 1;
again:
    ld.acquire.sys.global.u32 %w, [%a];
    setp.lt.u32 %p, %w, %all;
    @%p bra again;
    ret;";
    for schedule in [hadal_emulator::Schedule::RoundRobin, hadal_emulator::Schedule::Random] {
        let (mut machine, modules) = devices(2, &module(2, "", body));
        machine.reconfigure(|c| c.schedule = schedule);
        machine.enable_peer_access(1, 0).unwrap();
        let counter = machine.alloc(0, 4, 256).unwrap();
        machine.fill(counter, 0, 4).unwrap();
        let streams = [machine.create_stream(0), machine.create_stream(1)];
        for d in 0..2 {
            machine.launch(streams[d], modules[d], "k", &launch(3, 1, &[counter, 6])).unwrap();
        }
        machine.synchronize(streams[1]).unwrap_or_else(|f| panic!("{f}"));
        machine.synchronize(streams[0]).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(word(&machine, counter), 6);
    }
}

#[test]
fn a_kernel_waits_for_the_host() {
    let body = "
    .reg .b64 %a, %b;
    .reg .b32 %w;
    .reg .pred %p;
    ld.param.u64 %a, [p0];
    ld.param.u64 %b, [p1];
again:
    ld.acquire.sys.u32 %w, [%a];
    setp.eq.u32 %p, %w, 0;
    @%p bra again;
    add.u32 %w, %w, 1;
    st.release.sys.u32 [%b], %w;
    ret;";
    let (mut machine, modules) = devices(1, &module(2, "", body));
    let stream = machine.create_stream(0);
    // The machine's own host memory, and memory of this program.
    let flag = machine.alloc_host(4, 4).unwrap();
    let mut answer = vec![0u32; 16];
    let start = answer.as_mut_ptr().cast::<u8>();
    // SAFETY: the vector outlives the machine's use of it and is not touched while the machine runs.
    let mapped = unsafe { machine.map_host(start, 64) }.unwrap();
    assert_eq!(mapped, start as u64);
    assert!(machine.is_host_memory(mapped, 64) && !machine.is_host_memory(mapped, 65));
    machine.launch(stream, modules[0], "k", &launch(1, 1, &[flag, mapped + 8])).unwrap();
    for _ in 0..10 {
        assert!(!machine.query(stream).unwrap());
    }
    machine.write(flag, &41u32.to_le_bytes()).unwrap();
    machine.synchronize(stream).unwrap_or_else(|f| panic!("{f}"));
    machine.free(mapped).unwrap();
    assert_eq!(answer[2], 42);
}

#[test]
fn events_order_streams_and_copies() {
    let (mut machine, modules) = devices(1, &module(2, "", SET));
    let (a, b) = (machine.create_stream(0), machine.create_stream(0));
    let (x, y) = (machine.alloc(0, 4, 256).unwrap(), machine.alloc(0, 4, 256).unwrap());
    let event = machine.create_event();
    // Never recorded: waits for nothing.
    machine.wait_event(b, event).unwrap();
    assert!(machine.query_event(event).unwrap());
    machine.fill_async(a, x, 0, 4).unwrap();
    machine.launch(a, modules[0], "k", &launch(1, 1, &[x, 5])).unwrap();
    machine.record_event(a, event).unwrap();
    machine.launch(a, modules[0], "k", &launch(1, 1, &[x, 6])).unwrap();
    // The copy waits for the first kernel; the second is behind the record and may run before or after.
    machine.wait_event(b, event).unwrap();
    machine.copy_async(b, y, x, 4).unwrap();
    machine.synchronize(b).unwrap();
    assert!(word(&machine, y) >= 5);
    machine.synchronize_event(event).unwrap();
    machine.synchronize(a).unwrap();
    assert_eq!(word(&machine, x), 6);
    assert!(matches!(machine.copy_async(a, x, x + 2, 4), Err(MachineError::BadAddress { .. })));
}

/// `*p0 = 1, 2, … p1`, four instructions each after four at the beginning.
const COUNT: &str = "
    .reg .b64 %a, %v;
    .reg .b32 %w, %n;
    .reg .pred %p;
    ld.param.u64 %a, [p0];
    ld.param.u64 %v, [p1];
    cvt.u32.u64 %n, %v;
    mov.u32 %w, 0;
again:
    add.u32 %w, %w, 1;
    st.global.u32 [%a], %w;
    setp.lt.u32 %p, %w, %n;
    @%p bra again;
    ret;";

#[test]
fn a_halted_device_stops_where_it_was_told_and_holds_up_nobody_else() {
    for config in configs() {
        let (mut machine, modules) = devices(2, &module(2, "", COUNT));
        machine.reconfigure(|c| *c = config);
        let streams = [machine.create_stream(0), machine.create_stream(1), machine.create_stream(1)];
        let places = [0, 1].map(|device| machine.alloc(device, 4, 256).unwrap());
        let start = |machine: &mut Machine, d: usize| {
            machine.fill(places[d], 0, 4).unwrap();
            machine.launch(streams[d], modules[d], "k", &launch(1, 1, &[places[d], 500])).unwrap();
        };
        for (after, seen) in [(0, 0), (5, 0), (6, 1), (4 + 4 * 70 + 1, 70), (4 + 4 * 70 + 2, 71)] {
            machine.reset();
            start(&mut machine, 0);
            start(&mut machine, 1);
            let event = machine.create_event();
            machine.record_event(streams[0], event).unwrap();
            machine.wait_event(streams[2], event).unwrap();
            machine.halt(0, after).unwrap();
            // Whoever waits for it is told, and nothing else is stopped.
            let fault = machine.synchronize(streams[0]).unwrap_err();
            assert_eq!(fault.report.class, Class::Deadlock);
            assert!(fault.to_string().contains("halted devices: 0"), "{fault}");
            assert!(machine.synchronize_event(event).is_err() && machine.synchronize(streams[2]).is_err());
            assert!(!machine.query(streams[0]).unwrap() && machine.query(streams[1]).unwrap());
            assert_eq!([word(&machine, places[0]), word(&machine, places[1])], [seen, 500]);
            assert_eq!(machine.counters(0).instructions, after);
            assert!(machine.is_halted(0) && !machine.is_halted(1));
            start(&mut machine, 1);
            machine.synchronize(streams[1]).unwrap();
            // It goes on where it was.
            machine.resume(0).unwrap();
            machine.synchronize(streams[2]).unwrap();
            assert_eq!(word(&machine, places[0]), 500);
        }
        machine.halt(1, 0).unwrap();
        machine.reset();
        assert!(!machine.is_halted(1) && machine.reports().is_empty());
    }
    let (mut machine, _) = devices(1, &module(2, "", COUNT));
    assert!(matches!(machine.halt(1, 0), Err(MachineError::NoSuch { .. })));
    assert!(matches!(machine.resume(1), Err(MachineError::NoSuch { .. })));
    assert!(!machine.is_halted(1));
}

#[test]
fn devices_run_at_different_speeds() {
    let far_apart = |schedule, seed| {
        let (mut machine, modules) = devices(2, &module(2, "", COUNT));
        machine.reconfigure(|c| (c.schedule, c.seed) = (schedule, seed));
        let streams = [machine.create_stream(0), machine.create_stream(1)];
        for d in 0..2 {
            let at = machine.alloc(d, 4, 256).unwrap();
            machine.launch(streams[d], modules[d], "k", &launch(1, 1, &[at, 100_000])).unwrap();
        }
        for _ in 0..60 {
            machine.query(streams[0]).unwrap();
        }
        let [a, b] = [0, 1].map(|d| machine.counters(d).instructions);
        (a > 3 * b, b > 3 * a)
    };
    let uneven: Vec<_> = (0..16).map(|seed| far_apart(hadal_emulator::Schedule::Uneven, seed)).collect();
    assert!(uneven.iter().any(|apart| apart.0) && uneven.iter().any(|apart| apart.1), "{uneven:?}");
    assert!((0..16).all(|seed| far_apart(hadal_emulator::Schedule::Random, seed) == (false, false)));
}

/// Two grids of two streams that write the same word: what is found, and the device's counters. `middle` stands between the launches.
fn two_streams(
    config: MachineConfig,
    middle: impl Fn(&mut Machine, [hadal_emulator::StreamId; 2]),
) -> (Option<hadal_emulator::Report>, Machine) {
    let mut machine = Machine::new(config);
    let module = Arc::new(ir::Module::parse("test.ptx", &module(2, "", SET)).unwrap());
    let module = machine.load_module(0, module).unwrap();
    let (a, b) = (machine.create_stream(0), machine.create_stream(0));
    let x = machine.alloc(0, 4, 256).unwrap();
    let other = machine.alloc(0, 4, 256).unwrap();
    machine.launch(a, module, "k", &launch(1, 1, &[x, 5])).unwrap();
    middle(&mut machine, [a, b]);
    // Something else is still to be done on the first stream.
    machine.launch(a, module, "k", &launch(1, 1, &[other, 7])).unwrap();
    machine.launch(b, module, "k", &launch(1, 1, &[x, 6])).unwrap();
    let found = machine.synchronize(b).and_then(|()| machine.synchronize(a)).err().map(|fault| *fault.report);
    if found.is_none() {
        assert_eq!([word(&machine, x), word(&machine, other)], [6, 7]);
    }
    (found, machine)
}

#[test]
fn a_missing_event_is_reported_even_if_the_grids_never_met() {
    for config in configs() {
        for resident_blocks in [None, Some(1)] {
            let config = MachineConfig { resident_blocks, ..config.clone() };
            let (found, _) = two_streams(config.clone(), |_, _| ());
            let report = found.unwrap_or_else(|| panic!("nothing found under {config:?}"));
            assert_eq!(report.class, Class::Race, "{report}");
            assert!(report.hint.clone().unwrap().contains("an event"), "{report}");
            // An event of another moment does not help.
            let (found, _) = two_streams(config.clone(), |machine, [_, b]| {
                let event = machine.create_event();
                machine.wait_event(b, event).unwrap();
            });
            assert!(found.is_some());
            let with_event = |machine: &mut Machine, [a, b]: [hadal_emulator::StreamId; 2]| {
                let event = machine.create_event();
                machine.record_event(a, event).unwrap();
                machine.wait_event(b, event).unwrap();
            };
            assert_eq!(two_streams(config.clone(), with_event).0, None);
            assert_eq!(two_streams(config, |machine, [a, _]| machine.synchronize(a).unwrap()).0, None);
        }
    }
}

#[test]
fn streams_overlap_across_an_event() {
    let (found, machine) = two_streams(config(), |machine, [a, b]| {
        let event = machine.create_event();
        machine.record_event(a, event).unwrap();
        machine.wait_event(b, event).unwrap();
    });
    assert_eq!(found, None);
    // The first grid was alone, the other two ran together.
    let all = machine.counters(0);
    assert_eq!(all.beside_instructions * 3, all.instructions * 2, "{all:?}");
    let kernels = machine.kernel_counters(0);
    assert_eq!(kernels.len(), 1);
    let (kernel, own) = (&kernels[0].kernel, kernels[0].counters);
    assert_eq!((kernel.as_str(), own.launches, own.blocks), ("k", 3, 3));
    assert_eq!((own.instructions, own.global_store_bytes), (all.instructions, all.global_store_bytes));
    assert_eq!(machine.kernel_counters(1), []);
}

/// A barrier of the whole grid in the workspace that `%envreg1` and `%envreg2` point to.
const GRID_BARRIER: &str = "
    .reg .b64 %w, %out;
    .reg .b32 %hi, %lo, %n, %all, %id;
    .reg .pred %p;
    mov.u32 %hi, %envreg1;
    mov.u32 %lo, %envreg2;
    mov.b64 %w, {%lo, %hi};
    mov.u32 %all, %nctaid.x;
    red.release.gpu.global.add.u32 [%w+4], 1;
again:
    ld.acquire.gpu.global.u32 %n, [%w+4];
    setp.lt.u32 %p, %n, %all;
    @%p bra again;
    ld.param.u64 %out, [p0];
    mov.u32 %id, %ctaid.x;
    mad.wide.u32 %out, %id, 4, %out;
    st.global.u32 [%out], %n;
    ret;";

#[test]
fn a_cooperative_grid_is_resident_as_a_whole() {
    let (mut machine, modules) = devices(1, &module(1, "", GRID_BARRIER));
    // Four SMs of at most 32 blocks: residency is cut to one, which does not concern cooperative grids.
    machine.reconfigure(|c| c.resident_blocks = Some(1));
    let stream = machine.create_stream(0);
    let out = machine.alloc(0, 1024, 256).unwrap();
    let cooperative = |blocks| Launch { cooperative: true, ..launch(blocks, 1, &[out]) };
    machine.launch(stream, modules[0], "k", &cooperative(128)).unwrap();
    machine.synchronize(stream).unwrap_or_else(|f| panic!("{f}"));
    assert!((0..128).all(|i| word(&machine, out + 4 * i) == 128));
    let error = machine.launch(stream, modules[0], "k", &cooperative(129)).unwrap_err();
    assert_eq!(error, MachineError::TooLarge { resource: "resident blocks", needed: 129, available: 128 });
}

/// Each block waits for the next one's flag: fine when both are resident, stuck when they come one by one.
#[test]
fn residency_can_be_cut() {
    let body = "
    .reg .b64 %a, %b;
    .reg .b32 %id, %n;
    .reg .pred %p;
    ld.param.u64 %a, [p0];
    mov.u32 %id, %ctaid.x;
    mad.wide.u32 %b, %id, 4, %a;
    st.release.gpu.global.u32 [%b], 1;
    setp.ne.u32 %p, %id, 0;
    @%p bra done;
again:
    ld.acquire.gpu.global.u32 %n, [%a+4];
    setp.eq.u32 %p, %n, 0;
    @%p bra again;
done:
    ret;";
    for (limit, deadlock) in [(None, false), (Some(2), false), (Some(1), true)] {
        let (mut machine, modules) = devices(1, &module(1, "", body));
        machine.reconfigure(|c| c.resident_blocks = limit);
        let stream = machine.create_stream(0);
        let flags = machine.alloc(0, 8, 256).unwrap();
        machine.fill(flags, 0, 8).unwrap();
        machine.launch(stream, modules[0], "k", &launch(2, 1, &[flags])).unwrap();
        match machine.synchronize(stream) {
            Ok(()) => assert!(!deadlock),
            Err(fault) => assert!(deadlock && fault.report.class == Class::Deadlock, "{fault}"),
        }
    }
}

#[test]
fn clusters_stay_inside_a_gpc() {
    let body = "
    .reg .b64 %out;
    .reg .b32 %id, %sm;
    ld.param.u64 %out, [p0];
    mov.u32 %id, %ctaid.x;
    mov.u32 %sm, %smid;
    mad.wide.u32 %out, %id, 4, %out;
    st.global.u32 [%out], %sm;
    ret;";
    let text = module(1, "", body);
    let mut bench = Bench::with(MachineConfig::default(), &text);
    let gpcs = DeviceConfig::h100().gpc_ranges();
    assert_eq!(gpcs.iter().map(|g| g.len()).collect::<Vec<_>>(), [16, 16, 16, 16, 16, 16, 18, 18]);
    // One block per SM, because of its shared memory.
    let shaped = |cluster: u32, blocks: u32, out: u64| Launch {
        cluster: Some([cluster, 1, 1]),
        dynamic_shared: 200 * 1024,
        ..launch(blocks, 32, &[out])
    };
    for (cluster, expected) in [(1, 132), (2, 66), (4, 32), (8, 16), (16, 8)] {
        let (module, launch) = (bench.module, shaped(cluster, cluster, 0));
        assert_eq!(bench.machine.max_active_clusters(module, "k", &launch), Ok(expected), "{cluster}");
    }
    let too_much = Launch { dynamic_shared: 300 * 1024, ..shaped(2, 2, 0) };
    let module = bench.module;
    assert_eq!(bench.machine.max_active_clusters(module, "k", &too_much), Ok(0));
    let out = bench.blank(4 * 160);
    bench.launch(shaped(8, 160, out)).unwrap_or_else(|f| panic!("{f}"));
    for cluster in bench.read_words(out, 160).chunks(8) {
        let home = gpcs.iter().position(|g| g.contains(&(cluster[0] as usize)));
        assert!(cluster.iter().all(|sm| gpcs.iter().position(|g| g.contains(&(*sm as usize))) == home));
    }
    assert_eq!(bench.machine.counters(0).max_resident_blocks, 128);
}

/// Bytes that cross to another device are counted apart, whole rows of words included.
#[test]
fn bytes_over_the_link_are_counted() {
    let body = "
    .reg .b64 %a, %b, %at;
    .reg .b32 %t, %w;
    .reg .b64 %wide;
    ld.param.u64 %a, [p0];
    ld.param.u64 %b, [p1];
    mov.u32 %t, %tid.x;
    mad.wide.u32 %at, %t, 4, %a;
    ld.global.u32 %w, [%at];
    mad.wide.u32 %at, %t, 4, %b;
    st.global.u32 [%at], %w;
    mad.wide.u32 %at, %t, 8, %a;
    ld.global.u64 %wide, [%at+256];
    mad.wide.u32 %at, %t, 8, %b;
    st.global.u64 [%at+256], %wide;
    ret;";
    for (from, to, loaded, stored) in [(0, 1, 0, 12), (1, 0, 12, 0), (1, 1, 12, 12), (0, 0, 0, 0)] {
        for threads in [32, 7] {
            let (mut machine, modules) = devices(2, &module(2, "", body));
            machine.enable_peer_access(0, 1).unwrap();
            let a = machine.alloc(from, 512, 256).unwrap();
            machine.fill(a, 1, 512).unwrap();
            let b = machine.alloc(to, 512, 256).unwrap();
            let stream = machine.create_stream(0);
            machine.launch(stream, modules[0], "k", &launch(1, threads, &[a, b])).unwrap();
            machine.synchronize(stream).unwrap_or_else(|f| panic!("{f}"));
            let counters = machine.counters(0);
            assert_eq!(
                (counters.global_load_bytes, counters.global_store_bytes),
                (12 * threads as u64, 12 * threads as u64)
            );
            assert_eq!(
                (counters.link_load_bytes, counters.link_store_bytes),
                (loaded * threads as u64, stored * threads as u64)
            );
        }
    }
}

/// Device 0 writes, tells a flag and goes on running until it is answered. A grid of device 1 sees the flag and ends; the next grid of
/// its stream reads what was written, and answers. What the first grid learned, the second knows; if the first did not acquire, there is
/// nothing to know, and the read is a race.
#[test]
fn a_grid_knows_what_the_grid_before_it_learned_of_one_that_still_runs() {
    let body = |look: &str| {
        format!(
            "
    .reg .b64 %a, %mode;
    .reg .b32 %w;
    .reg .pred %p;
    ld.param.u64 %a, [p0];
    ld.param.u64 %mode, [p1];
    griddepcontrol.wait;
    setp.eq.u64 %p, %mode, 1;
    @%p bra look;
    setp.eq.u64 %p, %mode, 2;
    @%p bra read;
    st.global.u32 [%a], 7;
    st.release.sys.global.u32 [%a+4], 1;
answered:
    ld.acquire.sys.global.u32 %w, [%a+8];
    setp.eq.u32 %p, %w, 0;
    @%p bra answered;
    ret;
look:
    {look}.sys.global.u32 %w, [%a+4];
    setp.eq.u32 %p, %w, 0;
    @%p bra look;
    griddepcontrol.launch_dependents;
    ret;
read:
    ld.global.u32 %w, [%a];
    st.release.sys.global.u32 [%a+8], %w;
    ret;"
        )
    };
    for (look, known) in [("ld.acquire", true), ("ld.relaxed", false)] {
        for programmatic in [false, true] {
            // Numbers of grids follow the order of the launches: the writer's is the first or the last.
            for writer_first in [false, true] {
                let (mut machine, modules) = devices(2, &module(2, "", &body(look)));
                machine.enable_peer_access(1, 0).unwrap();
                let a = machine.alloc(0, 12, 256).unwrap();
                machine.fill(a, 0, 12).unwrap();
                let streams = [machine.create_stream(0), machine.create_stream(1)];
                let mut order = vec![(0, 0), (1, 1), (1, 2)];
                order.rotate_left(!writer_first as usize);
                for (device, mode) in order {
                    let launch = Launch { programmatic, ..launch(1, 1, &[a, mode]) };
                    machine.launch(streams[device], modules[device], "k", &launch).unwrap();
                }
                match machine.synchronize(streams[1]) {
                    Ok(()) => assert!(known, "{look}, {programmatic}, {writer_first}"),
                    Err(fault) => {
                        assert!(!known, "{fault}");
                        assert_eq!(fault.report.class, Class::Race, "{fault}");
                    }
                }
            }
        }
    }
}
