//! Dispatch, expansion and combine between emulated devices, every byte against the plain reference; links and memory counted. Ranks that
//! never come or stop in the middle are in `halted.rs`, what is refused in `refused.rs`.

#![cfg(feature = "emulator")]

mod halted;
mod refused;
mod setup;
mod stray;
#[path = "../support/mod.rs"]
mod support;

use hadal::DType;
use hadal::emulator::Counters;
use proptest::prelude::*;
use setup::{Case, Choices, Setup, TEAMS, adversary, check, check_on, clean, emulated, machine};
use support::{cases, machines, schedules};

#[test]
fn every_row_forced() {
    for payload in [DType::BF16, DType::E4M3] {
        for which in 0..18 {
            // With room for more choices than a block of the layout takes, or not.
            let capacity = [1000, 26][which % 3 / 2];
            let case = Case { payload, programmatic: which % 2 == 1, capacity, ..Case::new(&[19, 7]) };
            clean(&check(which, &case, which % 2 == 0));
        }
    }
}

#[test]
fn any_number_of_ranks() {
    for (at, tokens) in TEAMS.into_iter().enumerate() {
        for (seed, choices) in [Choices::Uniform, Choices::Ragged].into_iter().enumerate() {
            let case = Case { choices, ..Case::new(tokens) };
            clean(&check_on(&adversary(tokens.len(), seed as u64, at), &case, true));
        }
    }
}

#[test]
fn nobody_has_anything() {
    clean(&check(0, &Case::new(&[0, 0, 0]), false));
    clean(&check(1, &Case { choices: Choices::Nowhere, ..Case::new(&[5, 9]) }, true));
    clean(&check(1, &Case::new(&[0]), true));
}

#[test]
fn everybody_wants_one_expert() {
    // Of the last rank; every token names it three times, and crosses once.
    for expert in [0, 11] {
        let case = Case { choices: Choices::One(expert), rows: 4 * 60, ..Case::new(&[20, 15, 17]) };
        clean(&check(1, &case, true));
    }
}

#[test]
fn more_than_a_block_of_tokens() {
    // The layout walks 1024 at a time.
    let case = Case { hidden: 16, topk: 2, rows: 4300, sms: 4, ..Case::new(&[1025, 3]) };
    clean(&check(0, &case, false));
}

#[test]
fn wide_rows_and_many_experts() {
    // Rows of several turns of the copy, experts beyond a warp's and beyond the SMs.
    let wide = Case { hidden: 2064, sms: 1, ..Case::new(&[3, 2]) };
    clean(&check(1, &wide, false));
    clean(&check(0, &Case { payload: DType::E4M3, ..wide }, false));
    let many = Case { experts: 512, topk: 32, hidden: 16, rows: 4096, sms: 3, ..Case::new(&[6, 9]) };
    check(1, &Case { capacity: 200, rows: 700, choices: Choices::Ragged, ..many.clone() }, true);
    clean(&check(0, &many, true));
}

#[test]
fn choices_that_are_no_experts_go_nowhere_and_are_told() {
    let setup = check(1, &Case { choices: Choices::Strange, ..Case::new(&[9, 8]) }, false);
    assert!(setup.ranks.iter().all(|rank| rank.status().strange_choice()));
}

#[test]
fn capacity_is_exactly_enough_or_not() {
    for payload in [DType::BF16, DType::E4M3] {
        let one = Case { choices: Choices::One(5), payload, rows: 200, ..Case::new(&[9, 12]) };
        // All 21 tokens go to rank 1.
        clean(&check(1, &Case { capacity: 21, ..one.clone() }, true));
        for (capacity, lost) in [(20, [0, 1]), (9, [0, 12]), (4, [5, 12]), (1, [8, 12])] {
            let setup = check(1, &Case { capacity, ..one.clone() }, true);
            for (rank, lost) in setup.ranks.iter().zip(lost) {
                // Two rounds.
                assert_eq!(rank.status().lost_sent(), 2 * lost, "capacity {capacity}");
                let over = if rank.plan.window().rank() == 1 { 2 * (21 - capacity as u32) } else { 0 };
                assert_eq!(rank.status().lost_received(), over, "capacity {capacity}");
                assert_eq!(rank.status().is_clean(), over + lost == 0);
                rank.plan.clear_status(&rank.stream).unwrap();
                assert!(rank.status().is_clean());
            }
        }
    }
}

#[test]
fn expanded_rows_without_room_are_counted() {
    for rows in [0, 1, 23, 24, 63] {
        let case = Case { rows, choices: Choices::One(2), ..Case::new(&[11, 10]) };
        let setup = check(1, &case, false);
        assert_eq!(setup.ranks[0].status().lost_expanded(), 2 * (63 - rows as u32));
        assert_eq!(setup.ranks[0].status().is_clean(), rows == 63);
        assert!(setup.ranks[1].status().is_clean());
    }
}

fn a_case() -> impl Strategy<Value = Case> {
    let tokens =
        prop_oneof![proptest::collection::vec(0usize..20, 1..4), proptest::collection::vec(0usize..8, 4..9),];
    let choices = proptest::sample::select(vec![
        Choices::Uniform,
        Choices::Ragged,
        Choices::Ragged,
        Choices::One(0),
        Choices::Nowhere,
        Choices::Strange,
    ]);
    let payload = proptest::sample::select(vec![DType::BF16, DType::E4M3]);
    let hidden = prop_oneof![Just(16usize), Just(128), Just(144), Just(272), Just(1040)];
    (
        tokens,
        choices,
        payload,
        hidden,
        1usize..5,
        1usize..10,
        0usize..40,
        0usize..60,
        1u32..5,
        any::<(bool, u64)>(),
    )
        .prop_map(
            |(tokens, choices, payload, hidden, local, topk, room, rows, sms, (programmatic, seed))| {
                let all: usize = tokens.iter().sum();
                Case {
                    experts: local * tokens.len(),
                    topk,
                    hidden,
                    // Often too small, often exactly enough, often more.
                    capacity: match room {
                        0..10 => all + 700,
                        10..20 => all.max(1),
                        _ => room - 19,
                    },
                    rows: if rows < 30 { all * topk + 16 * local } else { rows - 30 },
                    alignment: [1, 4, 16][seed as usize % 3],
                    payload,
                    choices,
                    sms: sms.min(4),
                    programmatic,
                    seed,
                    tokens,
                }
            },
        )
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_byte_is_the_reference_s(case in a_case(), machine in machines(), cached in any::<bool>()) {
        check_on(&emulated(case.ranks(), machine), &case, cached);
    }
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules, .ci/full 100"]
fn every_row_under_many_schedules() {
    for seed in 0..schedules() {
        let payload = [DType::BF16, DType::E4M3][seed as usize % 2];
        for (at, tokens) in TEAMS.into_iter().enumerate() {
            let case = Case { payload, choices: Choices::Ragged, programmatic: true, ..Case::new(tokens) };
            clean(&check_on(&adversary(tokens.len(), seed, at), &case, true));
        }
    }
}

/// The layout of a prefill of DeepSeek-V3 is one block. By these counts it takes some 40,000 warp instructions and reads 140 KiB: 10,000
/// cycles of an SM's four schedulers, where the rows of that dispatch keep the links busy for 600,000 (FP8, 390 GB/s, 1.7 GHz).
#[test]
fn the_layout_of_a_prefill_costs_little() {
    let case = Case {
        experts: 256,
        topk: 8,
        hidden: 16,
        tokens: vec![4096, 0, 0, 0, 0, 0, 0, 0],
        ..Case::new(&[1; 8])
    };
    let case = Case { capacity: 1, ..case };
    let mut setup = Setup::new(&machine(8, 0, 1), &case, case.options());
    let rank = &mut setup.ranks[0];
    let (plan, stream) = (rank.plan.clone(), rank.device.default_stream());
    plan.announce(&stream, &rank.dispatch_args(&case, false)).unwrap();
    stream.synchronize().unwrap();
    let counters = rank.device.emulated().unwrap().counters();
    println!("{} instructions, {} bytes loaded", counters.instructions, counters.global_load_bytes);
    assert!(counters.instructions < 42_000, "{} instructions", counters.instructions);
    assert!(counters.global_load_bytes < 150_000, "{} bytes", counters.global_load_bytes);
}

/// Everything each device did.
fn counters(setup: &Setup) -> Vec<Counters> {
    setup.ranks.iter().map(|rank| rank.device.emulated().unwrap().counters()).collect()
}

/// Link bytes are the least there can be: one row for each token and remote rank, and little beside; every delivered row is written to
/// memory once, by its sender, and every returned row crosses once.
#[test]
fn links_carry_each_row_once() {
    for payload in [DType::BF16, DType::E4M3] {
        let case = Case { hidden: 7168, topk: 8, experts: 32, payload, ..Case::new(&[24, 30, 9, 17]) };
        let case = Case { rows: 80 * 8 + 32 * 8, sms: 4, ..case };
        let first = machine(4, 0, 1);
        let mut setup = Setup::new(&first, &case, case.options());
        for rank in &mut setup.ranks {
            rank.dispatch(&case, false).unwrap();
        }
        setup.synchronize();
        let sent = counters(&setup);
        for rank in &mut setup.ranks {
            rank.expand(&case).unwrap();
        }
        setup.synchronize();
        let expanded = counters(&setup);
        for rank in &mut setup.ranks {
            rank.combine(&case).unwrap();
        }
        setup.synchronize();
        let combined = counters(&setup);
        let (delivered, _) = setup.delivered();
        let rows: usize = delivered.iter().map(|d| d.origins.len()).sum();
        let row_bytes = case.row_bytes() + 4 * case.scale_words();
        for (r, rank) in setup.ranks.iter().enumerate() {
            let remote = |to: usize| {
                if to == r { 0 } else { delivered[to].origins.iter().filter(|o| o.0 == r).count() }
            };
            let remote: usize = (0..4).map(remote).sum();
            let (floor, got) = (remote * row_bytes, sent[r].link_store_bytes as usize);
            assert!(got >= floor && got * 100 <= floor * 103, "rank {r}: {got} bytes sent, at least {floor}");
            assert_eq!(
                (sent[r].link_load_bytes, expanded[r].link_store_bytes),
                (0, sent[r].link_store_bytes)
            );
            // Pulled rows, exactly; flags beside them.
            let pulled = combined[r].link_load_bytes as usize;
            assert_eq!(pulled, remote * 2 * case.hidden, "rank {r}");
            let told = combined[r].link_store_bytes - sent[r].link_store_bytes;
            assert_eq!(told, 2 * 3 * 8, "rank {r}: two words to each peer");
            assert_eq!(rank.plan.kernels().len(), 7);
        }
        // All stores of all ranks: each delivered row once, ids and weights beside it, and less than 1 % for indices and counts.
        let stored: u64 = sent.iter().map(|c| c.global_store_bytes).sum();
        let once = rows * (row_bytes + 8 * case.topk);
        assert!(stored as usize >= once && stored as usize * 100 <= once * 101, "{stored} bytes for {once}");
        println!("{payload}: {stored} bytes stored by the dispatch, {once} of them rows, ids and weights");
    }
}

#[test]
fn the_budget_of_sms_is_kept() {
    for sms in 1..=4 {
        let case = Case { sms, ..Case::new(&[70, 80]) };
        let setup = check(0, &case, false);
        for counters in counters(&setup) {
            assert!(counters.sms_used <= sms, "{} of {sms} SMs", counters.sms_used);
            assert!(counters.max_resident_blocks <= sms);
            // Two rounds: a layout, two kernels of a block for 1024 choices at most, and four of as many blocks as the budget has.
            let stretches = sms.min((case.capacity * case.topk).div_ceil(1024) as u32);
            assert_eq!(
                (counters.launches, counters.blocks),
                (14, u64::from(2 * (1 + 2 * stretches + 4 * sms)))
            );
        }
    }
}
