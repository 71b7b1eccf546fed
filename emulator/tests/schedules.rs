//! Seeds and schedules: a seed replays a run to the bit, a result that depends on order shows it within 100 seeds, and a
//! report says which schedule and seed to replay.

mod machine_support;
use machine_support::*;

use std::collections::BTreeSet;

use hadal_emulator::{Class, Completion, MachineConfig, Schedule};

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
