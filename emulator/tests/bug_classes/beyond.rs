//! What is found besides the twenty classes, what must not be, what is advice, and the switches.

use super::*;
use hadal_emulator::{Checks, MachineError};

#[test]
fn deadlock_of_polls() {
    let report = pair(
        Class::Deadlock,
        "",
        ".shared .align 4 .b32 flag;",
        "mov.u32 %f, flag;
         @%first st.shared.b32 [%f], 0;
         bar.sync 0;
         @%first st.volatile.shared.b32 [%f], @@;
      again:
         ld.volatile.shared.b32 %a, [%f];
         setp.ne.u32 %p, %a, 1;
         @%p bra again;
         ret;",
        "2",
        "1",
        64,
    );
    assert!(report.notes.iter().all(|n| n.contains("polling")), "{report}");
}

#[test]
fn constants_are_constant() {
    pair(
        Class::ReadOnly,
        "st.global.b32",
        ".const .align 4 .b32 table[4] = {1, 2, 3, 4}; .global .align 4 .b32 other[4];",
        "mov.u64 %x, @@;
         st.global.b32 [%x], %tid;
         ret;",
        "table",
        "other",
        1,
    );
}

#[test]
fn traps_limits_and_reset() {
    pair(
        Class::Trap,
        "trap",
        "",
        "setp.eq.u32 %p, %tid, @@;
         @%p trap;
         ret;",
        "5",
        "99",
        32,
    );
    let body = format!("{REGS} again: add.u32 %tid, %tid, 1; bra again;");
    let mut bench =
        Bench::with(MachineConfig { instruction_limit: Some(10_000), ..config() }, &module(1, "", &body));
    let fault = bench.run(1, 32, &[0]).unwrap_err();
    assert_eq!(fault.report.class, Class::InstructionLimit);
    // Sticky until reset, like an error of the driver.
    let launch = Launch { grid: [1; 3], block: [32, 1, 1], params: vec![0; 8], ..Launch::default() };
    let again = bench.machine.launch(bench.stream, bench.module, "k", &launch);
    assert!(matches!(again, Err(MachineError::Faulted(_))), "{again:?}");
    assert_eq!(bench.machine.synchronize(bench.stream).unwrap_err(), fault);
    bench.machine.reset();
    assert!(bench.machine.reports().is_empty());
    assert!(bench.machine.launch(bench.stream, bench.module, "k", &launch).is_ok());
}

#[test]
fn launches_that_cannot_be() {
    let mut bench = Bench::new(&module(1, "", &format!("{REGS} ret;")));
    let good = Launch { grid: [1; 3], block: [32, 1, 1], params: vec![0; 8], ..Launch::default() };
    let mut refused = |change: &dyn Fn(&mut Launch), what: &str| {
        let mut launch = good.clone();
        change(&mut launch);
        let error = bench.machine.launch(bench.stream, bench.module, "k", &launch).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    };
    refused(&|l| l.grid = [0, 1, 1], "grid");
    refused(&|l| l.block = [1025, 1, 1], "block");
    refused(&|l| l.params = vec![0; 4], "params");
    refused(&|l| l.dynamic_shared = 300_000, "shared memory");
    refused(&|l| l.cluster = Some([2, 1, 1]), "cluster");
    refused(
        &|l| {
            l.grid = [100_000, 1, 1];
            l.cooperative = true;
        },
        "resident blocks",
    );
    let missing = bench.machine.launch(bench.stream, bench.module, "nobody", &good).unwrap_err();
    assert_eq!(missing.to_string(), "no such kernel: nobody");
}

#[test]
fn the_same_value_by_several_is_advice() {
    let decl = ".shared .align 16 .b32 box[4];";
    let body = "mov.u32 %f, box;\n@@ st.shared.b32 [%f], 7;\nbar.sync 0; ld.shared.b32 %c, [%f]; ret;";
    for config in configs() {
        let (found, advice) = run(config.clone(), decl, &body.replace("@@", ""), blocks(1, 64));
        assert_eq!(found, None);
        assert!(advice.len() == 1 && advice[0].starts_with("st.shared.b32"), "{advice:?}");
        assert!(advice[0].contains("whatever the value"), "{advice:?}");
        assert!(advice[0].contains("write by warp"), "{advice:?}");
        // One instruction of one warp, or one thread, has nobody to race with.
        for (alone, threads) in [("", 32), ("@%first", 64)] {
            let body = body.replace("@@", alone);
            assert_eq!(run(config.clone(), decl, &body, blocks(1, threads)), (None, vec![]));
        }
    }
    let (found, advice) = run(config(), "", "st.global.b32 [%out], 7; ret;", blocks(2, 32));
    assert_eq!(found, None);
    assert!(advice.len() == 1 && advice[0].contains("block (0,0,0) warp 0"), "{advice:?}");
}

#[test]
fn bytes_of_one_word_are_apart() {
    let body = "mov.u32 %f, box; add.u32 %f, %f, %tid; st.shared.b8 [%f], %tid; ld.shared.b8 %c, [%f]; ret;";
    for config in configs() {
        assert_eq!(run(config, ".shared .align 16 .b8 box[64];", body, blocks(1, 64)).0, None);
    }
}

#[test]
fn non_coherent_loads() {
    let body = "
    mad.wide.u32 %at, %tid, 4, %out;
    st.global.b32 [%at], %tid;
    bar.sync 0;
    xor.b32 %b, %tid, 32;
    mad.wide.u32 %at, %b, 4, %out;
    ld.global@@.b32 %c, [%at];
    ret;";
    twins(
        Class::NonCoherent,
        ("ld.global.nc", "st.global.b32 [%at], %tid"),
        "",
        body,
        (".nc", ""),
        blocks(1, 64),
    );
}

/// What works on the chip, yet against the letter, is advice and stops nothing.
#[test]
fn advice() {
    let decl = ".shared .align 16 .b8 box[256];";
    let fence = "fence.proxy.async.shared::cta;";
    let store = crate::proxies::STORE
        .replace("@1", fence)
        .replace("@2", "@%first cp.async.bulk.wait_group.read 0;")
        .replace("@3", "bar.sync 0;");
    assert_eq!(run(config(), decl, &store, blocks(1, 64)), (None, vec![]));
    let unwaited = "
    mov.u32 %box, box;
    mad.lo.u32 %a, %tid, 4, %box;
    st.shared.b32 [%a], %tid;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%first cp.async.bulk.global.shared::cta.bulk_group [%out], [%box], 256;
    @%first cp.async.bulk.commit_group;
    ret;";
    let (found, advice) = run(config(), decl, unwaited, blocks(1, 64));
    assert_eq!(found, None);
    assert!(advice.len() == 1 && advice[0].contains("waited for their bulk stores"), "{advice:?}");
    let apart = "@%first bra meet; add.u32 %tid, %tid, 1; meet: @@ bar.sync 0; ret;";
    assert_eq!(
        run(config(), "", &apart.replace("@@", "bar.warp.sync 0xffffffff;"), blocks(1, 32)),
        (None, vec![])
    );
    let (found, advice) = run(config(), "", &apart.replace("@@", ""), blocks(1, 32));
    assert_eq!(found, None);
    assert!(advice.len() == 1 && advice[0].starts_with("@%first bra meet"), "{advice:?}");
}

/// A shuffle by a whole warp, half of which its mask does not name, is a shuffle by all; by half a warp it is a fault.
#[test]
fn lanes_outside_their_own_mask() {
    let body = "
    shfl.sync.bfly.b32 %a, %tid, 3, 31, @@;
    xor.b32 %a, %a, 3;
    setp.eq.u32 %p, %a, %tid;
    @!%p trap;
    ret;";
    let shuffle = |mask: &str| run(config(), "", &body.replace("@@", mask), blocks(1, 32));
    assert_eq!(shuffle("0xffffffff"), (None, vec![]));
    let (found, advice) = shuffle("0x11111111");
    assert_eq!(found, None);
    assert!(advice.len() == 1 && advice[0].contains("not in its member mask 0x11111111"), "{advice:?}");
    let half = "setp.lt.u32 %p, %tid, 16; @%p shfl.sync.bfly.b32 %a, %tid, 3, 31, 0x1111; ret;";
    let report = run(config(), "", half, blocks(1, 32)).0.expect("nothing found");
    assert_eq!(report.class, Class::PartialWarp, "{report}");
}

/// Checkers can be switched off.
#[test]
fn switches() {
    let body = "mov.u32 %f, box; st.shared.b32 [%f], %tid; ret;";
    let decl = ".shared .align 16 .b32 box[4];";
    let mut checks = Checks::all();
    assert!(run(MachineConfig { checks, ..config() }, decl, body, blocks(1, 64)).0.is_some());
    checks.races = false;
    assert_eq!(run(MachineConfig { checks, ..config() }, decl, body, blocks(1, 64)).0, None);
}

/// The line a report ends with is enough to see it again, bit for bit.
#[test]
fn reports_say_how_to_see_them_again() {
    use hadal_emulator::{Completion, Schedule, SharedPlacement};
    let decl = ".shared .align 16 .b32 box[64];";
    let body = "mov.u32 %f, box; st.shared.b32 [%f], %tid; bar.sync 0; ld.shared.b32 %c, [%f]; ret;";
    for schedule in [Schedule::RoundRobin, Schedule::Random, Schedule::Starve] {
        for completion in [Completion::Eager, Completion::Latest, Completion::Random] {
            for seed in [0, 0xdead_beef] {
                let shared_placement = SharedPlacement::DeclaredAlignment;
                let resident_blocks = Some(1);
                let config = MachineConfig {
                    schedule,
                    completion,
                    seed,
                    shared_placement,
                    resident_blocks,
                    ..config()
                };
                let report = run(config.clone(), decl, body, blocks(1, 128)).0.expect("nothing found");
                let replay = format!(
                    "schedule {schedule:?}, completion {completion:?}, seed {seed:#x}, shared placement DeclaredAlignment, resident blocks 1"
                );
                assert_eq!(report.replay, replay);
                assert!(report.to_string().ends_with(&format!("replay  {replay}")), "{report}");
                assert_eq!(run(config, decl, body, blocks(1, 128)).0.unwrap(), report);
            }
        }
    }
}
