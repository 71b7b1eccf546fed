//! Graphs: captured from streams that fork and join, or made node by node; run again and again; raced, broken and refused.

mod machine_support;
use std::sync::Arc;

use hadal_emulator::{
    Class, GraphError, GraphId, GraphNode, Launch, Machine, MachineConfig, MachineError, ModuleId, Report,
    Schedule, StreamId, ir,
};
use machine_support::*;

/// `*p0 = *p0 * 10 + p1`: the digits of the word say who was there, in order.
const APPEND: &str = "
    .reg .b64 %a, %v;
    .reg .b32 %w, %x;
    ld.param.u64 %a, [p0];
    ld.param.u64 %v, [p1];
    cvt.u32.u64 %x, %v;
    ld.global.u32 %w, [%a];
    mad.lo.u32 %w, %w, 10, %x;
    st.global.u32 [%a], %w;
    ret;";

/// A machine with a module of two parameters, two streams and eight words of zeros.
struct Rig {
    machine: Machine,
    module: ModuleId,
    a: StreamId,
    b: StreamId,
    x: u64,
}

fn launch(params: &[u64]) -> Launch {
    let params = params.iter().flat_map(|v| v.to_le_bytes()).collect();
    Launch { grid: [1, 1, 1], block: [1, 1, 1], params, ..Launch::default() }
}

impl Rig {
    fn with(config: MachineConfig, body: &str) -> Rig {
        let mut machine = Machine::new(config);
        let module =
            Arc::new(ir::Module::parse("test.ptx", &module(2, "", body)).unwrap_or_else(|e| panic!("{e}")));
        let module = machine.load_module(0, module).unwrap();
        let (a, b) = (machine.create_stream(0), machine.create_stream(0));
        let x = machine.alloc(0, 32, 256).unwrap();
        machine.fill(x, 0, 32).unwrap();
        Rig { machine, module, a, b, x }
    }

    fn new() -> Rig {
        Rig::with(config(), APPEND)
    }

    fn node(&self, word: u64, digit: u64) -> GraphNode {
        let launch = launch(&[self.x + 4 * word, digit]);
        GraphNode::Launch { module: self.module, entry: "k".into(), launch }
    }

    /// Appends a digit to a word.
    fn append(&mut self, stream: StreamId, word: u64, digit: u64) {
        let launch = launch(&[self.x + 4 * word, digit]);
        self.machine.launch(stream, self.module, "k", &launch).unwrap();
    }

    /// `to` goes on where `from` is.
    fn follow(&mut self, to: StreamId, from: StreamId) {
        let event = self.machine.create_event();
        self.machine.record_event(from, event).unwrap();
        self.machine.wait_event(to, event).unwrap();
    }

    fn word(&self, word: u64) -> u32 {
        let mut bytes = [0; 4];
        self.machine.read(self.x + 4 * word, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Runs a graph once.
    fn run(&mut self, graph: GraphId) -> Option<Report> {
        let exec = self.machine.instantiate(graph).unwrap();
        self.machine.launch_graph(self.a, exec).unwrap();
        self.machine.synchronize(self.a).err().map(|fault| *fault.report)
    }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, MachineError>) -> GraphError {
    match outcome {
        Err(MachineError::Graph(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_capture_runs_nothing_and_is_replayed() {
    for config in configs() {
        let mut rig = Rig::with(config, APPEND);
        let (a, x) = (rig.a, rig.x);
        rig.machine.begin_capture(a).unwrap();
        rig.append(a, 0, 1);
        rig.append(a, 0, 2);
        rig.machine.copy_async(a, x + 4, x, 4).unwrap();
        rig.machine.fill_words_async(a, x + 8, 0x01020304, 2, 2).unwrap();
        let graph = rig.machine.end_capture(a).unwrap();
        rig.machine.synchronize(a).unwrap();
        assert_eq!(rig.word(0), 0);
        let exec = rig.machine.instantiate(graph).unwrap();
        rig.machine.destroy_graph(graph).unwrap();
        rig.append(a, 0, 7);
        rig.machine.launch_graph(a, exec).unwrap();
        // Of the same graph on another stream: it waits for the first all the same.
        rig.machine.launch_graph(rig.b, exec).unwrap();
        rig.machine.destroy_exec(exec).unwrap();
        rig.machine.synchronize(rig.b).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!([rig.word(0), rig.word(1), rig.word(2)], [71212, 71212, 0x0304_0304]);
    }
}

/// One grid, two beside each other, one after both. Three graphs are made in turn, so that hidden streams come round.
#[test]
fn branches_fork_and_join() {
    for config in configs() {
        for resident_blocks in [None, Some(1)] {
            let mut rig = Rig::with(MachineConfig { resident_blocks, ..config.clone() }, APPEND);
            let (a, b) = (rig.a, rig.b);
            for turn in 1..=3u32 {
                let before = rig.machine.counters(0).beside_instructions;
                rig.machine.begin_capture(a).unwrap();
                rig.append(a, 0, 1);
                rig.follow(b, a);
                rig.append(b, 0, 2);
                rig.append(b, 0, 3);
                rig.append(a, 1, 4);
                rig.follow(a, b);
                rig.append(a, 0, 5);
                let x = rig.x;
                rig.machine.copy_async(a, x + 8, x + 4, 4).unwrap();
                let graph = rig.machine.end_capture(a).unwrap();
                assert_eq!(rig.machine.capture_info(b), None);
                rig.machine.fill(x, 0, 12).unwrap();
                let exec = rig.machine.instantiate(graph).unwrap();
                for _ in 0..2 {
                    rig.machine.launch_graph(b, exec).unwrap();
                }
                rig.append(b, 0, 6);
                rig.machine.synchronize(b).unwrap_or_else(|f| panic!("turn {turn}: {f}"));
                rig.machine.destroy_exec(exec).unwrap();
                assert_eq!([rig.word(0), rig.word(1), rig.word(2)], [123_512_356, 44, 44]);
                let beside = rig.machine.counters(0).beside_instructions - before;
                assert_eq!(beside > 0, resident_blocks.is_none());
            }
        }
    }
}

#[test]
fn branches_without_an_edge_race() {
    for config in configs() {
        for (joined, resident_blocks) in [(false, None), (false, Some(1)), (true, None)] {
            let mut rig = Rig::with(MachineConfig { resident_blocks, ..config.clone() }, APPEND);
            let (a, b) = (rig.a, rig.b);
            rig.machine.begin_capture(a).unwrap();
            rig.append(a, 0, 1);
            rig.follow(b, a);
            rig.append(b, 0, 2);
            if joined {
                rig.follow(a, b);
            }
            rig.append(a, 0, 3);
            rig.follow(a, b);
            let graph = rig.machine.end_capture(a).unwrap();
            match rig.run(graph) {
                None => assert!(joined && rig.word(0) == 123),
                Some(report) => {
                    assert!(!joined && report.class == Class::Race, "{report}");
                    assert!(
                        report.hint.clone().unwrap().contains("an edge between the two nodes"),
                        "{report}"
                    );
                }
            }
        }
    }
}

/// Graphs of random edges: whoever reads what an edge brings must find it, and nothing is a race.
#[test]
fn random_graphs_keep_their_edges() {
    // `*(p0 + 4i) = 1 + the sum of *(p0 + 4j)` for the bits j of p1's lower half; i is in the upper half.
    let body = "
    .reg .b64 %a, %at;
    .reg .b32 %i, %m, %j, %w, %sum;
    .reg .pred %p;
    ld.param.u64 %a, [p0];
    ld.param.u32 %m, [p1];
    ld.param.u32 %i, [p1+4];
    mov.u32 %sum, 1;
next:
    bfind.u32 %j, %m;
    setp.eq.u32 %p, %j, -1;
    @%p bra done;
    mad.wide.u32 %at, %j, 4, %a;
    ld.global.u32 %w, [%at];
    add.u32 %sum, %sum, %w;
    shl.b32 %w, 1, %j;
    xor.b32 %m, %m, %w;
    bra next;
done:
    mad.wide.u32 %at, %i, 4, %a;
    st.global.u32 [%at], %sum;
    ret;";
    let mut random = 1u64;
    let mut bits = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    for round in 0..20 {
        for config in configs() {
            let mut rig = Rig::with(MachineConfig { seed: round, ..config }, body);
            let graph = rig.machine.create_graph();
            let mut expected = Vec::<u32>::new();
            for i in 0..8u64 {
                let mask = bits() & bits() & ((1 << i) - 1);
                let after: Vec<usize> = (0..i as usize).filter(|j| mask >> j & 1 == 1).collect();
                expected.push(1 + after.iter().map(|j| expected[*j]).sum::<u32>());
                let launch = launch(&[rig.x, mask | i << 32]);
                let node = GraphNode::Launch { module: rig.module, entry: "k".into(), launch };
                assert_eq!(rig.machine.add_node(graph, 0, &after, node), Ok(i as usize));
            }
            if let Some(report) = rig.run(graph) {
                panic!("{report}");
            }
            assert_eq!((0..8).map(|i| rig.word(i)).collect::<Vec<_>>(), expected);
        }
    }
}

/// `p1` = 0: lets dependents begin, and writes much later; 1: waits for that, then reads; 2: reads without.
const EARLY: &str = "
    .reg .b64 %a;
    .reg .b32 %w, %mode;
    .reg .pred %p;
    ld.param.u64 %a, [p0];
    ld.param.u32 %mode, [p1];
    setp.eq.u32 %p, %mode, 0;
    @%p bra write;
    setp.eq.u32 %p, %mode, 2;
    @%p bra read;
    griddepcontrol.wait;
read:
    ld.global.u32 %w, [%a];
    st.global.u32 [%a+4], %w;
    ret;
write:
    griddepcontrol.launch_dependents;
    mov.u32 %w, 0;
linger:
    add.u32 %w, %w, 1;
    setp.lt.u32 %p, %w, 500;
    @%p bra linger;
    st.global.u32 [%a], 7;
    ret;";

#[test]
fn a_programmatic_launch_begins_early_in_a_graph_too() {
    for waits in [true, false] {
        for forked in [false, true] {
            // Turns are short in this schedule.
            let mut rig = Rig::with(MachineConfig { schedule: Schedule::Random, ..config() }, EARLY);
            let (a, b, x, module) = (rig.a, rig.b, rig.x, rig.module);
            let second = Launch { programmatic: true, ..launch(&[x, 2 - waits as u64]) };
            rig.machine.begin_capture(a).unwrap();
            rig.machine.launch(a, module, "k", &launch(&[x, 0])).unwrap();
            if forked {
                // Another stream waits for the first grid as a whole.
                rig.follow(b, a);
                rig.machine.copy_async(b, x + 8, x, 4).unwrap();
            }
            rig.machine.launch(a, module, "k", &second).unwrap();
            if forked {
                rig.follow(a, b);
            }
            let graph = rig.machine.end_capture(a).unwrap();
            let found = rig.run(graph);
            assert_eq!(rig.machine.counters(0).overlapping_launches, 1, "{forked}");
            match found {
                None => {
                    assert!(waits);
                    assert_eq!([rig.word(1), rig.word(2)], [7, 7 * forked as u32]);
                }
                Some(report) => {
                    assert!(!waits && report.class == Class::GridDependency, "{report}");
                }
            }
        }
    }
}

#[test]
fn the_first_grid_of_a_graph_begins_when_all_before_it_has_ended() {
    let mut rig = Rig::with(MachineConfig { schedule: Schedule::Random, ..config() }, EARLY);
    let (a, x, module) = (rig.a, rig.x, rig.module);
    rig.machine.begin_capture(a).unwrap();
    rig.machine.launch(a, module, "k", &Launch { programmatic: true, ..launch(&[x, 2]) }).unwrap();
    let graph = rig.machine.end_capture(a).unwrap();
    rig.machine.launch(a, module, "k", &launch(&[x, 0])).unwrap();
    assert_eq!(rig.run(graph), None);
    assert_eq!((rig.word(1), rig.machine.counters(0).overlapping_launches), (7, 0));
}

#[test]
fn a_capture_goes_over_devices() {
    let device = config().devices[0].clone();
    let mut machine = Machine::new(MachineConfig { devices: vec![device; 2], ..config() });
    let module = Arc::new(ir::Module::parse("test.ptx", &module(2, "", APPEND)).unwrap());
    let modules = [0, 1].map(|d| machine.load_module(d, module.clone()).unwrap());
    let streams = [0, 1].map(|d| machine.create_stream(d));
    let x = machine.alloc(0, 4, 256).unwrap();
    machine.fill(x, 0, 4).unwrap();
    machine.enable_peer_access(1, 0).unwrap();
    let event = machine.create_event();
    machine.begin_capture(streams[0]).unwrap();
    for (from, to) in [(0, 1), (1, 0)] {
        machine.launch(streams[from], modules[from], "k", &launch(&[x, from as u64 + 1])).unwrap();
        machine.record_event(streams[from], event).unwrap();
        machine.wait_event(streams[to], event).unwrap();
    }
    let graph = machine.end_capture(streams[0]).unwrap();
    let exec = machine.instantiate(graph).unwrap();
    machine.launch_graph(streams[1], exec).unwrap();
    machine.synchronize(streams[1]).unwrap_or_else(|f| panic!("{f}"));
    let mut word = [0; 4];
    machine.read(x, &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), 12);
    assert_eq!((machine.counters(0).launches, machine.counters(1).launches), (1, 1));
}

#[test]
fn nodes_change_and_graphs_update() {
    let mut rig = Rig::new();
    let graph = rig.machine.create_graph();
    let first = rig.machine.add_node(graph, 0, &[], rig.node(0, 1)).unwrap();
    let second = rig.machine.add_node(graph, 0, &[], rig.node(0, 2)).unwrap();
    // Both edges: round in circles.
    rig.machine.add_edge(graph, second, first).unwrap();
    let exec = rig.machine.instantiate(graph).unwrap();
    rig.machine.add_edge(graph, first, second).unwrap();
    assert_eq!(refused(rig.machine.instantiate(graph)), GraphError::Circle);
    assert_eq!(refused(rig.machine.update_exec(exec, graph)), GraphError::Update { node: second });

    let run = |rig: &mut Rig| {
        rig.machine.fill(rig.x, 0, 4).unwrap();
        rig.machine.launch_graph(rig.a, exec).unwrap();
        rig.machine.synchronize(rig.a).unwrap();
        rig.word(0)
    };
    assert_eq!(run(&mut rig), 21);
    // The graph itself no longer matters to what was made of it.
    rig.machine.set_node(graph, first, rig.node(0, 3)).unwrap();
    assert_eq!(run(&mut rig), 21);
    rig.machine.set_exec_node(exec, first, rig.node(0, 4)).unwrap();
    assert_eq!(run(&mut rig), 24);
    assert_eq!(
        refused(rig.machine.set_exec_node(exec, second, GraphNode::Empty)),
        GraphError::Update { node: second }
    );
    assert!(matches!(
        rig.machine.set_exec_node(exec, 2, GraphNode::Empty),
        Err(MachineError::InvalidArgument { argument: "number", .. })
    ));
    let wild = GraphNode::Fill { at: 8, value: 0, width: 1, count: 1 };
    assert!(matches!(
        rig.machine.add_node(graph, 0, &[], wild),
        Err(MachineError::BadAddress { address: 8, .. })
    ));
    let too_large = Launch { block: [2048, 1, 1], ..launch(&[rig.x, 0]) };
    let too_large = GraphNode::Launch { module: rig.module, entry: "k".into(), launch: too_large };
    assert!(matches!(
        rig.machine.add_node(graph, 0, &[], too_large),
        Err(MachineError::InvalidArgument { argument: "block", .. })
    ));

    let same_shape = rig.machine.create_graph();
    let nodes = [(rig.node(0, 6), vec![1]), (rig.node(0, 5), vec![])];
    for (node, _) in &nodes {
        rig.machine.add_node(same_shape, 0, &[], node.clone()).unwrap();
    }
    rig.machine.add_edge(same_shape, 1, 0).unwrap();
    let listed = rig.machine.graph_nodes(same_shape).unwrap();
    assert_eq!(listed, nodes.iter().map(|(node, after)| (node, &after[..])).collect::<Vec<_>>());
    rig.machine.update_exec(exec, same_shape).unwrap();
    assert_eq!(run(&mut rig), 56);
    rig.machine.destroy_exec(exec).unwrap();
    assert!(matches!(rig.machine.launch_graph(rig.a, exec), Err(MachineError::NoSuch { .. })));
    rig.machine.destroy_graph(graph).unwrap();
    assert!(matches!(rig.machine.instantiate(graph), Err(MachineError::NoSuch { .. })));
}

/// A graph launched while a stream captures is part of what is captured; external events are nodes.
#[test]
fn graphs_within_graphs_and_events_outside() {
    for config in configs() {
        let mut rig = Rig::with(config, APPEND);
        let (a, b) = (rig.a, rig.b);
        let inner = rig.machine.create_graph();
        let root = rig.machine.add_node(inner, 0, &[], rig.node(0, 2)).unwrap();
        let left = rig.machine.add_node(inner, 0, &[root], rig.node(0, 3)).unwrap();
        let right = rig.machine.add_node(inner, 0, &[root], rig.node(1, 3)).unwrap();
        rig.machine.add_node(inner, 0, &[left, right], GraphNode::Empty).unwrap();
        let inner = rig.machine.instantiate(inner).unwrap();
        let (go, gone) = (rig.machine.create_event(), rig.machine.create_event());
        rig.machine.begin_capture(a).unwrap();
        rig.machine.wait_event_external(a, go).unwrap();
        rig.append(a, 0, 1);
        rig.machine.launch_graph(a, inner).unwrap();
        rig.append(a, 1, 4);
        rig.machine.record_event_external(a, gone).unwrap();
        rig.append(a, 0, 4);
        let graph = rig.machine.end_capture(a).unwrap();
        let exec = rig.machine.instantiate(graph).unwrap();
        // What the graph waits for, and what waits for it.
        rig.append(b, 0, 9);
        rig.machine.record_event(b, go).unwrap();
        rig.machine.launch_graph(a, exec).unwrap();
        rig.machine.wait_event(b, gone).unwrap();
        rig.append(b, 1, 5);
        rig.machine.synchronize(b).unwrap_or_else(|f| panic!("{f}"));
        rig.machine.synchronize(a).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!([rig.word(0), rig.word(1)], [91_234, 345]);
    }
}

#[test]
fn what_breaks_a_capture() {
    type Wrong = fn(&mut Rig) -> GraphError;
    let wrong: [(Wrong, GraphError); 6] = [
        (|rig| refused(rig.machine.check_wait(rig.a)), GraphError::Unsupported),
        (|rig| refused(rig.machine.end_capture(rig.b)), GraphError::Unmatched),
        (
            |rig| {
                let event = rig.machine.create_event();
                refused(rig.machine.wait_event(rig.a, event))
            },
            GraphError::Isolation,
        ),
        (
            |rig| {
                let event = rig.machine.create_event();
                rig.machine.record_event(rig.a, event).unwrap();
                assert!(rig.machine.is_captured_event(event));
                refused(rig.machine.check_wait_event(event))
            },
            GraphError::CapturedEvent,
        ),
        (
            |rig| {
                let (c, event) = (rig.machine.create_stream(0), rig.machine.create_event());
                rig.machine.begin_capture(c).unwrap();
                rig.machine.record_event(c, event).unwrap();
                let error = refused(rig.machine.wait_event(rig.a, event));
                // Both are broken.
                assert_eq!(refused(rig.machine.end_capture(c)), GraphError::Invalidated);
                error
            },
            GraphError::Merge,
        ),
        (
            |rig| {
                rig.machine.break_capture(rig.b);
                refused(rig.machine.launch(rig.b, rig.module, "k", &launch(&[rig.x, 1])))
            },
            GraphError::Invalidated,
        ),
    ];
    for (wrong, expected) in wrong {
        let mut rig = Rig::new();
        let (a, b) = (rig.a, rig.b);
        rig.machine.begin_capture(a).unwrap();
        rig.follow(b, a);
        rig.append(b, 0, 1);
        rig.follow(a, b);
        assert!(!rig.machine.capture_info(b).unwrap().broken);
        assert_eq!(wrong(&mut rig), expected);
        assert!(rig.machine.capture_info(b).unwrap().broken, "{expected:?}");
        assert_eq!(refused(rig.machine.fill_async(a, rig.x, 0, 4)), GraphError::Invalidated);
        assert_eq!(refused(rig.machine.end_capture(a)), GraphError::Invalidated);
        // The streams are as they were, and nothing has run.
        assert_eq!((rig.machine.capture_info(a), rig.machine.capture_info(b)), (None, None));
        rig.append(a, 0, 5);
        rig.machine.synchronize(a).unwrap();
        assert_eq!(rig.word(0), 5);
    }
}

#[test]
fn a_capture_begins_and_ends_once_and_joined() {
    let mut rig = Rig::new();
    let (a, b) = (rig.a, rig.b);
    assert_eq!(refused(rig.machine.end_capture(a)), GraphError::NotCapturing);
    rig.machine.begin_capture(a).unwrap();
    assert_eq!(refused(rig.machine.begin_capture(a)), GraphError::AlreadyCapturing);
    let first = rig.machine.capture_info(a).unwrap();
    let stale = rig.machine.create_event();
    rig.machine.record_event(a, stale).unwrap();
    rig.follow(b, a);
    assert_eq!(rig.machine.capture_info(b).unwrap().id, first.id);
    rig.append(b, 0, 1);
    assert_eq!(rig.machine.capture_info(b).unwrap().after, [0]);
    assert_eq!(refused(rig.machine.end_capture(a)), GraphError::Unjoined);
    assert_eq!(rig.machine.capture_info(b), None);
    // A branch without work needs no join; what the event marked is gone.
    rig.machine.begin_capture(a).unwrap();
    assert_ne!(rig.machine.capture_info(a).unwrap().id, first.id);
    rig.follow(b, a);
    rig.machine.end_capture(a).unwrap();
    assert_eq!(refused(rig.machine.wait_event(b, stale)), GraphError::CapturedEvent);
    rig.machine.record_event(a, stale).unwrap();
    rig.machine.wait_event(b, stale).unwrap();
    rig.machine.begin_capture(a).unwrap();
    rig.machine.reset();
    assert_eq!(rig.machine.capture_info(a), None);
    // What is wrong with a launch is said when it is captured.
    rig.machine.begin_capture(a).unwrap();
    let none = Launch { grid: [0, 1, 1], ..launch(&[0, 0]) };
    let outcome = rig.machine.launch(a, rig.module, "k", &none);
    assert!(matches!(outcome, Err(MachineError::InvalidArgument { argument: "grid", .. })));
}
