//! Seeds and schedules: a seed replays a run to the bit, a result that depends on order shows it within 100 seeds, and a
//! report says which schedule and seed to replay. And what each adversary shows that taking turns does not.

mod machine_support;
use machine_support::*;

use std::collections::BTreeSet;

use hadal_emulator::{Checks, Class, Completion, DeviceConfig, Launch, MachineConfig, Schedule, strategy};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const REGS: &str = "
    .reg .b32 %tid, %r<10>;
    .reg .b64 %out, %at, %d<4>;
    .reg .pred %p;
    ld.param.u64 %out, [p0];
    mov.u32 %tid, %tid.x;";

/// Two warps, each F32-adding its term atomically. Ordered by nothing, yet no race: an atomic sum that rounds.
const ORDER_DEPENDENT: &str = "
    .reg .f32 %f<3>;
    and.b32 %r1, %tid, 31;
    setp.ne.u32 %p, %r1, 0;
    @%p ret;
    setp.eq.u32 %p, %tid, 0;
    selp.f32 %f1, 0f4B800000, 0f3F800000, %p;
    red.relaxed.gpu.global.add.f32 [%out], %f1;
    ret;";

/// Everybody takes a ticket, and writes who it was at that place.
const TICKETS: &str = "
    atom.relaxed.gpu.global.add.u32 %r1, [%out], 1;
    mov.u32 %r2, %ctaid.x;
    mad.lo.u32 %r2, %r2, 1000, %tid;
    mad.wide.u32 %at, %r1, 4, %out;
    st.global.u32 [%at+4], %r2;
    ret;";

const EVERY: [(Schedule, Completion); 9] = {
    use Completion::{Eager, Latest, Random as Sometime};
    use Schedule::{Random, RoundRobin, Starve};
    [
        (RoundRobin, Eager),
        (RoundRobin, Latest),
        (RoundRobin, Sometime),
        (Random, Eager),
        (Random, Latest),
        (Random, Sometime),
        (Starve, Eager),
        (Starve, Latest),
        (Starve, Sometime),
    ]
};

fn run(config: MachineConfig, body: &str, blocks: u32, threads: u32, init: &[u32]) -> Vec<u32> {
    let mut bench = Bench::with(config, &module(1, "", &format!("{REGS}\n{body}")));
    let out = bench.words(init);
    bench.run(blocks, threads, &[out]).unwrap_or_else(|f| panic!("{f}"));
    assert!(bench.machine.reports().is_empty());
    bench.read_words(out, init.len())
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    for (schedule, completion) in EVERY {
        for seed in [0, 1, 0xffff_ffff_ffff_ffff] {
            let once = || {
                let config = MachineConfig { schedule, completion, seed, ..config() };
                run(config, TICKETS, 4, 64, &[0; 257])
            };
            let (first, second) = (once(), once());
            assert_eq!(first, second, "{schedule:?} {completion:?} seed {seed}");
            assert_eq!(first[0], 256);
            let who: BTreeSet<u32> = first[1..].iter().copied().collect();
            assert_eq!(who.len(), 256, "every thread has its own ticket");
        }
    }
}

/// 0.75 + 2^24 + 1 is 2^24 + 2 if the one comes first, and 2^24 if it comes last: two results within 100 seeds, no race.
#[test]
fn a_result_that_depends_on_order_shows_it_within_100_seeds() {
    for schedule in [Schedule::Random, Schedule::Starve] {
        let results: BTreeSet<u32> = (0..100)
            .map(|seed| {
                let config = MachineConfig { schedule, seed, ..config() };
                run(config, ORDER_DEPENDENT, 1, 64, &[0.75f32.to_bits()])[0]
            })
            .collect();
        let expected = BTreeSet::from([16_777_216.0f32.to_bits(), 16_777_218.0f32.to_bits()]);
        assert_eq!(results, expected, "{schedule:?}");
    }
}

/// The order of tickets differs from seed to seed, and hardly ever repeats.
#[test]
fn seeds_explore() {
    let orders: BTreeSet<Vec<u32>> = (0..20)
        .map(|seed| {
            let config = MachineConfig { schedule: Schedule::Random, seed, ..config() };
            run(config, TICKETS, 4, 64, &[0; 257])
        })
        .collect();
    assert!(orders.len() >= 15, "{} of 20 orders differ", orders.len());
}

#[test]
fn every_report_names_schedule_completion_and_seed() {
    for (schedule, completion) in EVERY {
        let seed = 0x5eed_0123;
        let config = || MachineConfig { schedule, completion, seed, ..config() };
        let find = || {
            finding_with(
                config(),
                "",
                &format!("{REGS}\nmov.u64 %at, 8; st.global.u32 [%at], %tid;\nret;"),
                32,
                0,
            )
            .unwrap()
        };
        let report = find();
        assert_eq!(report.class, Class::OutOfBounds);
        let text = report.to_string();
        for part in [format!("{schedule:?}"), format!("{completion:?}"), format!("seed {seed:#x}")] {
            assert!(report.replay.contains(&part), "{part} is missing in: {}", report.replay);
        }
        assert!(text.ends_with(&format!("replay  {}", report.replay)), "{text}");
        assert_eq!(report, find(), "the same finding again");
    }
}

/// A machine that checks nothing: only the result tells.
fn blind() -> MachineConfig {
    MachineConfig { checks: Checks::none(), ..config() }
}

/// The results of a kernel under some seeds.
fn results(config: &MachineConfig, body: &str, blocks: u32, threads: u32) -> BTreeSet<u32> {
    let seeds = if config.schedule == Schedule::RoundRobin { 1 } else { 32 };
    (0..seeds)
        .map(|seed| run(MachineConfig { seed, ..config.clone() }, body, blocks, threads, &[0, 7, 0, 0])[0])
        .collect()
}

/// A `cp.async` that nobody waits for is seen if it lands as late as it may.
#[test]
fn latest_completion_shows_a_missing_wait() {
    let body = "
    .shared .align 16 .b32 box[4];
    mov.u32 %r1, box;
    st.shared.b32 [%r1+4], 1;
    cp.async.ca.shared.global [%r1], [%out], 16;
    cp.async.commit_group;
    @@
    ld.shared.b32 %r2, [%r1+4];
    st.global.b32 [%out], %r2;
    ret;";
    let with = |completion, wait: &str| {
        let config = MachineConfig { completion, ..blind() };
        results(&config, &body.replace("@@", wait), 1, 1)
    };
    assert_eq!(with(Completion::Eager, ""), BTreeSet::from([7]));
    assert_eq!(with(Completion::Latest, ""), BTreeSet::from([1]));
    assert_eq!(with(Completion::Latest, "cp.async.wait_all;"), BTreeSet::from([7]));
}

/// `try_wait` may return false at any time.
#[test]
fn spurious_failures_show_a_try_that_does_not_loop() {
    let body = "
    .shared .align 8 .b64 bar;
    mov.u32 %r1, bar;
    mbarrier.init.shared.b64 [%r1], 1;
    mbarrier.arrive.shared.b64 _, [%r1];
again:
    mbarrier.try_wait.parity.shared.b64 %p, [%r1], 0;
    @@
    selp.b32 %r2, 1, 2, %p;
    st.global.b32 [%out], %r2;
    ret;";
    let with = |schedule, turn: &str| {
        let config = MachineConfig { schedule, ..blind() };
        results(&config, &body.replace("@@", turn), 1, 1)
    };
    assert_eq!(with(Schedule::RoundRobin, ""), BTreeSet::from([1]));
    assert_eq!(with(Schedule::Random, ""), BTreeSet::from([1, 2]));
    assert_eq!(with(Schedule::Random, "@!%p bra again;"), BTreeSet::from([1]));
}

/// Gives the others time instead of waiting for them. `%r1` is 0 for who looks.
const HOPES: &str = "
    setp.ne.u32 %p, %r1, 0;
    @%p bra tell;
    mov.u32 %r2, 0;
again:
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p, %r2, 60000;
    @%p bra again;
    ld.relaxed.sys.global.b32 %r3, [%out+8];
    st.global.b32 [%out], %r3;
    ret;
tell:
    red.relaxed.sys.global.add.u32 [%out+8], 1;
    ret;";

#[test]
fn starving_a_warp_shows_a_wait_that_only_hopes() {
    let body =
        format!("shr.u32 %r1, %tid, 5; and.b32 %r2, %tid, 31; setp.ne.u32 %p, %r2, 0; @%p ret; {HOPES}");
    let with = |schedule| results(&MachineConfig { schedule, ..blind() }, &body, 1, 64);
    assert_eq!(with(Schedule::RoundRobin), BTreeSet::from([1]));
    assert_eq!(with(Schedule::Random), BTreeSet::from([1]));
    assert_eq!(with(Schedule::Starve), BTreeSet::from([0, 1]));
}

#[test]
fn starving_a_block_shows_a_wait_that_only_hopes() {
    let body = format!("mov.u32 %r1, %ctaid.x; {HOPES}");
    let with = |schedule| results(&MachineConfig { schedule, ..blind() }, &body, 2, 1);
    assert_eq!(with(Schedule::RoundRobin), BTreeSet::from([1]));
    assert_eq!(with(Schedule::Random), BTreeSet::from([1]));
    assert_eq!(with(Schedule::Starve), BTreeSet::from([0, 1]));
}

/// Two blocks on the second device: only who starves both leaves the first with nothing.
#[test]
fn starving_a_device_shows_a_wait_that_only_hopes() {
    let body = format!("{REGS}\nld.param.u32 %r1, [p1]; {HOPES}");
    let once = |schedule, seed| {
        let devices = vec![DeviceConfig { sms: 2, ..DeviceConfig::h100() }; 2];
        let config = MachineConfig { devices, schedule, seed, ..blind() };
        let mut bench = Bench::with(config, &module(2, "", &body));
        let other = bench.machine.load_module(1, bench.ir.clone()).unwrap();
        bench.machine.enable_peer_access(1, 0).unwrap();
        let out = bench.words(&[0, 0, 0, 0]);
        let stream = bench.machine.create_stream(1);
        for (stream, module, blocks, role) in [(bench.stream, bench.module, 1, 0), (stream, other, 2, 1)] {
            let params = [out, role].iter().flat_map(|p: &u64| p.to_le_bytes()).collect();
            let launch = Launch { grid: [blocks, 1, 1], block: [1, 1, 1], params, ..Launch::default() };
            bench.machine.launch(stream, module, "k", &launch).unwrap();
        }
        bench.machine.synchronize(bench.stream).unwrap();
        bench.machine.synchronize(stream).unwrap();
        bench.read_words(out, 1)[0]
    };
    assert_eq!(once(Schedule::RoundRobin, 0), 2);
    let seen: BTreeSet<u32> = (0..32).map(|seed| once(Schedule::Starve, seed)).collect();
    assert!(seen.contains(&0) && seen.contains(&1), "{seen:?}");
}

/// Blocks that wait for others need room for all.
#[test]
fn residency_of_one_block_shows_who_waits_for_another() {
    let body = "
    mov.u32 %r1, %ctaid.x;
    setp.ne.u32 %p, %r1, 0;
    @%p st.release.gpu.global.b32 [%out], 1;
    @%p ret;
again:
    ld.acquire.gpu.global.b32 %r2, [%out];
    setp.eq.u32 %p, %r2, 0;
    @%p bra again;
    ret;";
    let with = |resident_blocks| {
        let text = module(1, "", &format!("{REGS}\n{body}"));
        let mut bench = Bench::with(MachineConfig { resident_blocks, ..config() }, &text);
        let out = bench.words(&[0]);
        bench.run(2, 1, &[out]).err().map(|fault| fault.report.class)
    };
    assert_eq!(with(None), None);
    assert_eq!(with(Some(1)), Some(Class::Deadlock));
}

/// The public strategies: everything is drawn, what fails shrinks to the default, and its report names what was drawn.
#[test]
fn drawn_machines_differ_and_shrink_to_the_default() {
    let base = config();
    let mut runner = TestRunner::deterministic();
    let mut drawn = BTreeSet::new();
    for _ in 0..600 {
        let mut tree = strategy::machines(base.clone()).new_tree(&mut runner).unwrap();
        let MachineConfig { schedule, completion, shared_placement, resident_blocks, seed, .. } =
            tree.current();
        drawn.insert(format!("{schedule:?} {completion:?} {shared_placement:?} {resident_blocks:?}"));
        let replayed =
            MachineConfig { schedule, completion, shared_placement, resident_blocks, seed, ..base.clone() };
        let out_of_order = "
    st.global.u32 [%out+4], %tid;
    ret;";
        let mut bench = Bench::with(replayed, &module(1, "", &format!("{REGS}\n{out_of_order}")));
        let out = bench.words(&[0; 2]);
        let report = bench.run(1, 64, &[out]).unwrap_err().report;
        assert_eq!(report.class, Class::Race);
        let told = format!("schedule {schedule:?}, completion {completion:?}, seed {seed:#x}");
        assert!(report.to_string().contains(&told), "{report}");
        while tree.simplify() {}
        let least = tree.current();
        assert_eq!((least.schedule, least.completion), (Schedule::RoundRobin, Completion::Latest));
        assert_eq!((least.seed, least.resident_blocks), (0, None));
    }
    assert_eq!(drawn.len(), 4 * 3 * 2 * 2);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    /// Whoever takes which ticket, all are taken, once.
    #[test]
    fn tickets_are_all_taken(machine in strategy::machines(config())) {
        let mut taken = run(machine, TICKETS, 4, 64, &[0; 257]);
        prop_assert_eq!(taken.remove(0), 256);
        taken.sort_unstable();
        let all: Vec<u32> = (0..4).flat_map(|block| (0..64).map(move |tid| block * 1000 + tid)).collect();
        prop_assert_eq!(taken, all);
    }
}
