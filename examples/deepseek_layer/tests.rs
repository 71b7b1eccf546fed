//! The layer on shapes that take a moment, and what the example says to wrong input.

use std::collections::HashSet;

use super::reference::{choose, deficit};
use super::*;

/// Every kernel, on matrices of a few blocks.
fn small(ranks: usize) -> Sizes {
    Sizes {
        hidden: 256,
        q_latent: 128,
        inter: 128,
        experts: 16,
        kept_groups: 2,
        cached: 130,
        ..Sizes::reduced(ranks)
    }
}

fn outcome(sizes: Sizes) -> Summary {
    let summary = layer(sizes, false, &|_| {}).unwrap_or_else(|error| panic!("{error}"));
    assert!(summary.failures.is_empty(), "{:#?}", summary.failures);
    assert!(summary.diff < MOST_DIFF && summary.max_score_error < reference::NEAR_TIE, "{summary:?}");
    summary
}

#[test]
fn two_ranks_go_through_every_kernel_within_their_budgets() {
    let summary = outcome(small(2));
    let families = "mla_cache_append mla_decode mla_combine gate_f32 quantize_bf16 moe_layout moe_dispatch \
                    moe_expand_count moe_expand_place moe_expand_sm moe_reduce moe_combine contiguous_m swiglu dense_m";
    for device in 0..2 {
        let of_device: Vec<_> = summary.kernels.iter().filter(|k| k.device == device).collect();
        for family in families.split_whitespace() {
            assert!(of_device.iter().any(|k| k.kernel.contains(family)), "{family} on device {device}");
        }
        for kernel in of_device {
            let budget = if kernel.exchange { summary.comm_sms } else { summary.compute_sms };
            assert!(kernel.sms <= budget, "{} on {} of {budget} SMs", kernel.kernel, kernel.sms);
            assert_eq!(kernel.error.is_some(), device == 0, "{}", kernel.kernel);
        }
    }
    let exact = summary.kernels.iter().filter(|k| k.error == Some(0.0));
    let exact: HashSet<_> = exact.map(|k| k.kernel.as_str()).collect();
    let computed = summary.kernels.iter().filter(|k| k.error.is_some_and(|error| error > 0.0));
    assert!(computed.clone().all(|k| k.kernel.contains("gemm") || k.kernel.contains("mla_")), "{exact:?}");
    assert!(computed.count() >= 3 && exact.len() >= 10, "{exact:?}");
    let over = summary.link_bytes as f64 / summary.link_floor_bytes as f64;
    assert!(
        (1.0..1.4).contains(&over),
        "{over} of the floor: a row is 790 bytes here, its ids and weights 32"
    );
}

#[test]
fn ranks_that_divide_the_experts_and_ranks_that_do_not() {
    for (ranks, slots) in [(1, 16), (3, 18), (5, 20), (8, 16)] {
        let summary = outcome(Sizes { cached: 65, ..small(ranks) });
        assert_eq!((summary.ranks, summary.slots, summary.experts), (ranks, slots, 16));
        assert_eq!(summary.link_bytes > 0, ranks > 1);
    }
}

#[test]
fn all_the_experts_and_groups_of_deepseek_v3_on_five_ranks() {
    let sizes = Sizes { heads: 2, tokens: 3, ..small(5) };
    let Sizes { experts, groups, kept_groups, topk, .. } = Sizes::full(5);
    let summary = outcome(Sizes { experts, groups, kept_groups, topk, ..sizes });
    assert_eq!((summary.experts, summary.slots, summary.topk), (256, 260, 8));
}

#[test]
fn the_object_has_its_keys() {
    let object = serde_json::to_value(outcome(small(1))).expect("plain numbers");
    let keys = "ranks heads experts slots topk tokens comm_sms compute_sms checked diff max_abs_error max_abs \
                max_score_error near_ties near_tie link_bytes link_floor_bytes instructions \
                exchange_beside_compute kernels failures seconds";
    assert!(keys.split_whitespace().all(|key| object.get(key).is_some_and(|value| !value.is_null())));
    assert_eq!(object.as_object().map(|object| object.len()), Some(keys.split_whitespace().count()));
    let keys = "device kernel exchange sms launches instructions beside_instructions shared_bytes global_bytes link_bytes error";
    assert!(keys.split(' ').all(|key| object["kernels"][0].get(key).is_some_and(|value| !value.is_null())));
}

#[test]
fn ties_are_told_from_wrong_choices() {
    let sizes = Sizes { experts: 8, groups: 4, kept_groups: 2, topk: 2, ..Sizes::reduced(1) };
    // Groups count 1.5, 1.3, 1.25 and 0.3.
    let choice = [0.75, 0.75, 0.9, 0.4, 0.65, 0.6, 0.2, 0.1];
    let mut best = choose(&choice, &sizes);
    best.sort_unstable();
    // 0 before 1: a tie that falls to the lower.
    assert_eq!(best, [0, 2]);
    let close = |got: f64, want: f64| (got - want).abs() < 1e-12;
    assert_eq!(deficit(&choice, &[0, 2], &sizes), 0.0);
    assert_eq!(deficit(&choice, &[1, 2], &sizes), 0.0);
    // Right if group 2 were 0.05 better than it is, or expert 2 0.15 worse.
    assert!(close(deficit(&choice, &[0, 1], &sizes), 0.05));
    // With group 0 kept beside it 0.75 exceeds 0.4, with group 2 0.65 does, and 1.5 exceeds 1.25.
    assert!(close(deficit(&choice, &[2, 3], &sizes), 0.25));
    // Group 2 instead of group 1 is 0.05 off, and then the 0.75 of group 0 exceeds 0.65 by more.
    assert!(close(deficit(&choice, &[0, 4], &sizes), 0.1));
    // Three groups cannot be kept, whatever the values.
    let three = Sizes { topk: 3, ..sizes };
    assert_eq!(deficit(&choice, &[0, 2, 4], &three), f64::INFINITY);
}

#[test]
fn a_wrong_command_line_is_named() {
    let parse = |arguments: &[&str]| Options::parse(arguments.iter().map(|&argument| argument.to_owned()));
    for (arguments, named) in [
        (&["--ranks"][..], "--ranks takes a value"),
        (&["--ranks", "0"], "--ranks: expected a number from 1 to 8, got `0`"),
        (&["--ranks=9"], "--ranks: expected a number from 1 to 8, got `9`"),
        (&["--ranks", "all"], "got `all`"),
        (&["--full=yes"], "--full takes no value"),
        (&["--frobnicate"], "there is no option `--frobnicate`"),
        (&["8"], "there is no option `8`"),
    ] {
        let wrong = parse(arguments).expect_err("it is wrong");
        assert!(wrong.contains(named), "{arguments:?}: {wrong}");
    }
    assert_eq!(parse(&["--help"]), Ok(None));
    let options = parse(&["--ranks=3", "--full", "--unchecked", "--json"]);
    assert_eq!(options, Ok(Some(Options { ranks: 3, full: true, unchecked: true, json: true })));
    assert_eq!(parse(&[]), Ok(Some(Options { ranks: 8, full: false, unchecked: false, json: false })));
}

#[test]
fn what_does_not_fit_is_refused_before_it_begins() {
    const GIB: u64 = 1 << 30;
    let (full, reduced) = (Sizes::full(8), Sizes::reduced(8));
    // 256 experts of 44 MB are 11.3 GB; a checked run keeps twice that again.
    let weights = 256 * 3 * 7168 * 2048;
    assert!((weights..weights + 7 * GIB).contains(&full.memory(true)), "{}", full.memory(true));
    assert!((3 * weights..4 * weights + 3 * GIB).contains(&full.memory(false)), "{}", full.memory(false));
    assert!(reduced.memory(false) < 6 * GIB, "{}", reduced.memory(false));
    assert_eq!(options::expect_memory(&full, false, None), Ok(()));
    assert_eq!(options::expect_memory(&full, true, Some(24 * GIB)), Ok(()));
    let refused = options::expect_memory(&full, false, Some(24 * GIB)).expect_err("it does not fit");
    let words = refused.to_string();
    assert!(words.contains("24.0 GiB are available; with --unchecked it takes about"), "{words}");
    assert!(options::expect_memory(&full, true, Some(GIB)).is_err());
}
