//! When a machine that runs and gets nowhere is dead: waits that look for ever, waits that count their looks, work that only reads.

mod machine_support;
use machine_support::*;

use hadal_emulator::{Class, MachineConfig, Report, Schedule};

const SCHEDULES: [Schedule; 4] = [Schedule::RoundRobin, Schedule::Random, Schedule::Starve, Schedule::Uneven];

const REGS: &str = "
    .reg .b32 %tid, %block, %seen, %left, %sum, %i;
    .reg .b64 %out;
    .reg .pred %p;
    ld.param.u64 %out, [p0];
    mov.u32 %tid, %tid.x;
    mov.u32 %block, %ctaid.x;";

/// The first word of eight, or what stopped the kernel.
fn run(config: MachineConfig, body: &str, blocks: u32, threads: u32) -> Result<u32, Box<Report>> {
    let mut bench = Bench::with(config, &module(1, "", &format!("{REGS}\n{body}")));
    let out = bench.words(&[0; 8]);
    bench.run(blocks, threads, &[out]).map_err(|fault| fault.report)?;
    Ok(bench.read_words(out, 1)[0])
}

fn each(mut check: impl FnMut(MachineConfig)) {
    for schedule in SCHEDULES {
        for seed in 0..4 {
            check(MachineConfig { schedule, seed, ..config() });
        }
    }
}

/// One thread looks for a word that never comes; the other warps of its block wait for it.
fn looks(each_time: &str) -> String {
    format!(
        "
    mov.u32 %left, 30000;
    setp.ne.u32 %p, %tid, 0;
    @%p bra met;
again:
    ld.relaxed.sys.global.u32 %seen, [%out+4];
    {each_time}
    @%p bra again;
met:
    barrier.sync 0;
    setp.ne.u32 %p, %tid, 96;
    @%p ret;
    st.global.u32 [%out], 5;
    ret;"
    )
}

#[test]
fn a_wait_that_counts_its_looks_comes_to_its_bound() {
    let body = looks("sub.u32 %left, %left, 1; setp.ne.u32 %p, %left, 0;");
    each(|config| assert_eq!(run(config, &body, 2, 128), Ok(5)));
}

#[test]
fn a_wait_without_a_bound_is_a_deadlock() {
    let body = looks("setp.eq.u32 %p, %seen, 0;");
    each(|config| {
        let report = run(config, &body, 2, 128).unwrap_err();
        assert_eq!(report.class, Class::Deadlock, "{report}");
        assert!(report.message.contains("nothing changes;"), "{report}");
    });
}

/// Counting alone is no bound: enough is enough, with no limit set.
#[test]
fn a_count_without_a_bound_is_a_deadlock_in_the_end() {
    let body = looks("add.u32 %left, %left, 1; setp.eq.u32 %p, %seen, 0;");
    let config = MachineConfig { instruction_limit: None, ..config() };
    let report = run(config, &body, 1, 128).unwrap_err();
    assert_eq!(report.class, Class::Deadlock, "{report}");
    assert!(report.message.contains("nothing changes but what they count;"), "{report}");
}

/// A warp that reads and adds for long, and stores once.
#[test]
fn reading_for_long_is_no_polling() {
    let body = "
    mov.u32 %sum, 5;
    mov.u32 %i, 0;
again:
    ld.global.u32 %seen, [%out+4];
    add.u32 %sum, %sum, %seen;
    add.u32 %i, %i, 1;
    setp.lt.u32 %p, %i, 20000;
    @%p bra again;
    st.global.u32 [%out], %sum;
    ret;";
    each(|config| assert_eq!(run(config, body, 1, 1), Ok(5)));
}

/// However many poll, and however long a look takes: who is starved runs before the others lose patience. Blocks meet ten times.
#[test]
fn the_starved_run_when_all_others_poll() {
    let long = "xor.b32 %block, %seen, %left;".repeat(30);
    let body = format!(
        "
    mov.u32 %sum, 0;
meet:
    add.u32 %sum, %sum, 24;
    red.relaxed.gpu.global.add.u32 [%out+4], 1;
    mov.u32 %left, 400;
again:
    ld.relaxed.gpu.global.u32 %seen, [%out+4];
    sub.u32 %left, %left, 1;
    setp.eq.u32 %p, %left, 0;
    @%p trap;
    {long}
    setp.lt.u32 %p, %seen, %sum;
    @%p bra again;
    setp.lt.u32 %p, %sum, 240;
    @%p bra meet;
    ret;"
    );
    for seed in 0..8 {
        let config = MachineConfig { schedule: Schedule::Starve, seed, ..config() };
        assert_eq!(run(config, &body, 24, 1), Ok(0), "seed {seed}");
    }
}
