//! Ranks that never come, were left behind, or stop in the middle of a kernel: the others end, say who was missed, and have written nothing
//! but what was announced.

use hadal::moe::exchange::reference::{self, Delivered};
use hadal::moe::exchange::{Phase, Plan};
use hadal::{Device, bf16};

use crate::setup::{
    Case, Rank, Setup, TEAMS, check_expanded, check_received, integers, machine, read, read_matrix,
};
use crate::support::{Random, schedules};

/// How far the last rank comes before it is gone.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dies {
    AtOnce,
    AfterCounts,
    AfterDispatch,
    AfterReduce,
}

/// The others end within their patience, say who was missed where, and have written nothing but what was delivered.
#[test]
fn a_rank_that_is_gone_hangs_nobody() {
    for dies in [Dies::AtOnce, Dies::AfterCounts, Dies::AfterDispatch, Dies::AfterReduce] {
        for which in [0, 1, 2, 10, 18] {
            let case = Case::new(&[9, 12, 5]);
            let first = machine(3, which, 3);
            let mut setup = Setup::new(&first, &case, case.options().patience(2000));
            let (gone, case) = (2usize, &case);
            // Step by step, so that waits for ranks that are there stay far below the patience.
            for step in 0..4 {
                let last = [0, 1, 2, 3][dies as usize];
                for (r, rank) in setup.ranks.iter_mut().enumerate() {
                    if r == gone && step >= last {
                        continue;
                    }
                    let (plan, stream) = (rank.plan.clone(), rank.device.default_stream());
                    match step {
                        0 => plan.announce(&stream, &rank.dispatch_args(case, false)).unwrap(),
                        1 => {
                            plan.send(&stream, &rank.dispatch_args(case, false)).unwrap();
                            rank.expand(case).unwrap();
                        }
                        2 => plan.reduce(&stream, &rank.combine_args(case)).unwrap(),
                        _ => plan.gather(&stream, &rank.combine_args(case)).unwrap(),
                    }
                }
                setup.synchronize();
            }
            let (delivered, _) = setup.delivered();
            for (r, rank) in setup.ranks.iter().enumerate().take(gone) {
                let status = rank.status();
                let missing = |phase| status.missing(phase);
                let context = format!("rank {r}, {dies:?}, machine {which}: {status:?}");
                let out = rank.out.to_vec(&rank.stream).unwrap();
                let untouched = out.iter().all(|x| x.to_bits() == bf16::NAN.to_bits());
                let rows = integers(&read_matrix(rank, rank.plan.received().rows, 1))[0] as usize;
                match dies {
                    Dies::AtOnce => assert_eq!(missing(Phase::Counts), 4, "{context}"),
                    Dies::AfterCounts => {
                        assert_eq!(missing(Phase::Counts), 0, "{context}");
                        assert_eq!(missing(Phase::Rows) & 4, 4, "{context}");
                    }
                    Dies::AfterDispatch => assert_eq!(missing(Phase::Reduced), 4, "{context}"),
                    Dies::AfterReduce => {}
                }
                assert_eq!(status.is_clean(), dies == Dies::AfterReduce, "{context}");
                assert_eq!(untouched, dies != Dies::AfterReduce, "{context}");
                let lives = matches!(dies, Dies::AfterDispatch | Dies::AfterReduce);
                assert_eq!(rows, if lives { delivered[r].origins.len() } else { 0 }, "{context}");
                // Nothing beyond the rows that were promised, and the red zone behind the window.
                let received = rank.plan.received();
                let x = read_matrix(rank, received.x, case.capacity);
                let promised = delivered[r].origins.len() * case.row_bytes();
                assert!(x[promised..].iter().all(|b| *b == 0xff), "{context}");
                let end = Plan::window_bytes(3, case.shape(), case.options()).unwrap() as u64;
                let red = read(&rank.device, &rank.stream, rank.plan.window().base() + end, 256);
                assert!(red.iter().all(|b| *b == 0xff), "{context}");
            }
            if dies != Dies::AfterReduce {
                continue;
            }
            // Its rows were there to be read, but it never says that it has read the others': the next reduction waits in vain.
            for rank in setup.ranks.iter_mut().take(gone) {
                rank.combine(case).unwrap();
            }
            setup.synchronize();
            for rank in setup.ranks.iter().take(gone) {
                let status = rank.status();
                assert_eq!(status.missing(Phase::Gathered), 4, "machine {which}: {status:?}");
            }
        }
    }
}

/// Words of a later operation: this rank was left behind, gives up at once and writes nothing.
#[test]
fn a_rank_that_was_left_behind_gives_up() {
    let case = Case::new(&[6, 7]);
    let first = machine(2, 1, 5);
    let mut setup = Setup::new(&first, &case, case.options().patience(u32::MAX));
    let rank = &setup.ranks[0];
    // As if rank 1 were ten dispatches ahead: its counts of that dispatch, and word that its rows have arrived.
    let words: Vec<u8> = [3u32, 11, 4, 11].iter().flat_map(|w| w.to_le_bytes()).collect();
    let counts = rank.plan.window().base() + 128 + 8 * 8;
    let arrived = rank.plan.window().base() + 640 + 8;
    // SAFETY: the header of the window, before anything is launched.
    unsafe {
        rank.device.driver().copy_to_device(0, counts, &words, rank.stream.raw()).unwrap();
        rank.device.driver().copy_to_device(0, arrived, &words[8..], rank.stream.raw()).unwrap();
    }
    setup.ranks[0].dispatch(&case, false).unwrap();
    let rank = &setup.ranks[0];
    rank.stream.synchronize().unwrap();
    assert_eq!(rank.status().missing(Phase::Counts), 2);
}

/// What all ranks do one after the other, each step ended before the next begins, so that waits for ranks that are there stay far below
/// the patience.
const STEPS: usize = 5;

/// Looks before a wait is given up: the less evenly devices run, the more it takes until a rank that is there has come.
fn patience(which: usize) -> u32 {
    match which {
        0..18 => [500, 3000, 3000][which % 3],
        _ => 10_000,
    }
}

fn enqueue(rank: &mut Rank, case: &Case, step: usize) {
    let (plan, stream) = (rank.plan.clone(), rank.device.default_stream());
    match step {
        0 => plan.announce(&stream, &rank.dispatch_args(case, false)),
        1 => plan.send(&stream, &rank.dispatch_args(case, false)),
        2 => rank.expand(case),
        3 => plan.reduce(&stream, &rank.combine_args(case)),
        _ => plan.gather(&stream, &rank.combine_args(case)),
    }
    .unwrap();
}

/// A rank that stops after so many of its warp instructions of a step.
#[derive(Debug, Clone, Copy)]
struct Stop {
    victim: usize,
    step: usize,
    after: u64,
}

/// What the victim did by the end of each kernel, in order.
type Kernels = Vec<(usize, u64)>;

/// All steps on a new machine; without the victim once it has stopped. What the victim did in each kernel: step, and instructions of
/// the step by the end of it.
fn run(case: &Case, which: usize, stop: Stop) -> (Setup, Kernels) {
    let first = machine(case.ranks(), which, case.seed);
    let mut setup = Setup::new(&first, case, case.options().patience(patience(which)));
    let victim = first.sibling(stop.victim as u32).unwrap();
    let emulated = victim.emulated().unwrap();
    let mut kernels = Vec::new();
    for step in 0..STEPS {
        let before = emulated.counters().instructions;
        if step == stop.step {
            emulated.halt(stop.after);
        }
        let halted = emulated.is_halted() && step > stop.step;
        for (r, rank) in setup.ranks.iter_mut().enumerate() {
            if r != stop.victim || !halted {
                enqueue(rank, case, step);
            }
        }
        for (_, rank) in setup.ranks.iter().enumerate().filter(|(r, _)| *r != stop.victim) {
            rank.stream.synchronize().unwrap_or_else(|error| panic!("{stop:?}, {which}: {error}"));
        }
        let ended = setup.ranks[stop.victim].stream.synchronize();
        assert!(ended.is_ok() || emulated.is_halted(), "{stop:?}");
        if halted {
            continue;
        }
        // The three of an expansion run one after the other.
        let now = emulated.counters().instructions;
        if step == 2 {
            let done = |name: &str| {
                let all = emulated.kernel_counters();
                all.iter().find(|k| k.kernel == name).map_or(0, |k| k.counters.instructions)
            };
            let [_, _, count, place, ..] = setup.ranks[0].plan.kernels();
            kernels.push((step, done(count)));
            kernels.push((step, done(count) + done(place)));
        }
        kernels.push((step, now - before));
    }
    (setup, kernels)
}

/// Where in each kernel to stop: its beginning, its middle, its end where flags are set, and anywhere.
fn points(kernels: &Kernels, random: &mut Random, anywhere: usize) -> Vec<(usize, u64)> {
    let mut all = Vec::new();
    let mut from = (0, 0);
    for &(step, to) in kernels {
        let begin = if step == from.0 { from.1 } else { 0 };
        let length = to - begin;
        let spots = [0, length / 3, 2 * length / 3, length - 20, length - 1];
        let random = (0..anywhere).map(|_| random.below(length as usize) as u64);
        all.extend(spots.into_iter().chain(random).map(|at| (step, begin + at.min(length - 1))));
        from = (step, to);
    }
    all
}

/// Every byte is paint or what was announced: rows that came, or could have, and nothing behind them.
fn only_announced(rank: &Rank, case: &Case, want: &Delivered<u8>, context: &str) {
    let received = rank.plan.received();
    let ids: Vec<u8> = want.topk_idx.iter().flat_map(|id| id.to_le_bytes()).collect();
    let weights: Vec<u8> = want.topk_weight.iter().flat_map(|w| w.to_le_bytes()).collect();
    for (matrix, want) in
        [(received.x, &want.rows), (received.topk_idx, &ids), (received.topk_weight, &weights)]
    {
        for (at, got) in read_matrix(rank, matrix, case.capacity).into_iter().enumerate() {
            assert!(got == 0xff || want.get(at) == Some(&got), "{context}: byte {at}");
        }
    }
    let end = Plan::window_bytes(case.ranks(), case.shape(), case.options()).unwrap() as u64;
    let red = read(&rank.device, &rank.stream, rank.plan.window().base() + end, 256);
    assert!(red.iter().all(|b| *b == 0xff), "{context}: red zone");
}

fn missed_at_all(rank: &Rank) -> u32 {
    let status = rank.status();
    [Phase::Counts, Phase::Rows, Phase::Reduced, Phase::Gathered]
        .map(|p| status.missing(p))
        .iter()
        .fold(0, |a, b| a | b)
}

/// What a stop must leave: survivors that ended, know whom they missed, and hold either everything or nothing.
fn survivors_are_sound(setup: &mut Setup, case: &Case, which: usize, stop: Stop) {
    let (delivered, scales) = setup.delivered();
    let mut reduced = Vec::new();
    for (r, delivered) in delivered.iter().enumerate() {
        let places =
            reference::expand(&delivered.topk_idx, case.experts / case.ranks(), case.rows, case.alignment)
                .unwrap();
        let weights = &delivered.topk_weight;
        let sums = reference::reduce(&places.positions, weights, case.topk, &setup.ranks[r].y, case.hidden);
        reduced.push(sums.unwrap());
    }
    let nothing = Delivered { rows: vec![], topk_idx: vec![], topk_weight: vec![], ..delivered[0].clone() };
    let no_scales = Delivered { rows: vec![], topk_idx: vec![], topk_weight: vec![], ..scales[0].clone() };
    for (r, rank) in setup.ranks.iter().enumerate().filter(|(r, _)| *r != stop.victim) {
        let status = rank.status();
        let context = format!("{} ranks, machine {which}, {stop:?}, rank {r}: {status:?}", case.ranks());
        only_announced(rank, case, &delivered[r], &context);
        let missed = missed_at_all(rank);
        assert!(status.is_clean() || missed >> stop.victim & 1 == 1, "{context}");
        // Of the others only those that failed themselves.
        for (other, rank) in setup.ranks.iter().enumerate().filter(|(other, _)| *other != stop.victim) {
            assert!(missed >> other & 1 == 0 || !rank.status().is_clean(), "{context}");
        }
        let whole = status.missing(Phase::Counts) | status.missing(Phase::Rows) == 0;
        if whole {
            check_received(case, r, rank, &delivered[r], &scales[r]);
            check_expanded(case, r, rank, &delivered[r], &scales[r]);
        } else {
            assert_eq!(integers(&read_matrix(rank, rank.plan.received().rows, 1)), [0], "{context}");
            check_expanded(case, r, rank, &nothing, &no_scales);
        }
        assert!(whole || stop.step < 2, "{context}");
        let out = rank.out.to_vec(&rank.stream).unwrap();
        if status.missing(Phase::Reduced) == 0 {
            let want = reference::combine(r, rank.tokens, &delivered, &reduced, case.hidden).unwrap();
            assert!(out.iter().zip(&want).all(|(got, want)| got.to_bits() == want.to_bits()), "{context}");
        } else {
            assert!(out.iter().all(|x| x.to_bits() == bf16::NAN.to_bits()), "{context}");
        }
        assert!(status.missing(Phase::Reduced) == 0 || stop.step < 4, "{context}");
    }
    // Whatever they do next ends too, and says who was missed.
    for next in [3, 4, 0, 1, 2] {
        for (_, rank) in setup.ranks.iter_mut().enumerate().filter(|(r, _)| *r != stop.victim) {
            enqueue(rank, case, next);
        }
        for (_, rank) in setup.ranks.iter().enumerate().filter(|(r, _)| *r != stop.victim) {
            rank.stream.synchronize().unwrap_or_else(|error| panic!("{stop:?}, {which}: {error}"));
        }
    }
    for (r, rank) in setup.ranks.iter().enumerate().filter(|(r, _)| *r != stop.victim) {
        only_announced(rank, case, &delivered[r], &format!("{stop:?}, rank {r}, a round later"));
        assert!(missed_at_all(rank) >> stop.victim & 1 == 1, "{stop:?}");
        assert_eq!(integers(&read_matrix(rank, rank.plan.received().rows, 1)), [0], "{stop:?}");
    }
}

/// Survivors begin again among themselves while the victim is still down; it wakes up, gives up and has harmed nobody; then all begin again
/// with windows that were zeroed.
fn life_goes_on(mut setup: Setup, case: &Case, stop: Stop) {
    let tokens: Vec<usize> =
        (0..case.ranks()).filter(|r| *r != stop.victim).map(|r| case.tokens[r]).collect();
    let devices: Vec<Device> = setup
        .ranks
        .iter()
        .map(|r| r.device.clone())
        .enumerate()
        .filter(|(r, _)| *r != stop.victim)
        .map(|(_, d)| d)
        .collect();
    let smaller = Case { seed: case.seed + 1, ..Case::new(&tokens) };
    let mut survivors = Setup::on(devices, &smaller, smaller.options());
    survivors.round(false);
    let victim = setup.ranks[stop.victim].device.clone();
    victim.emulated().unwrap().resume();
    setup.ranks[stop.victim].stream.synchronize().unwrap_or_else(|error| panic!("{stop:?}: {error}"));
    let (delivered, _) = setup.delivered();
    for (r, rank) in setup.ranks.iter().enumerate() {
        only_announced(rank, case, &delivered[r], &format!("{stop:?}, rank {r}, awake again"));
    }
    survivors.round(true);
    victim.emulated().unwrap().reset();
    setup.renew();
    setup.round(false);
}

/// Tries every `nth` point of all kernels, others with another seed, and what comes afterwards at some of them.
fn stop_everywhere(tokens: &[usize], which: usize, seed: u64, victim: usize, anywhere: usize, nth: usize) {
    let case = Case { seed, ..Case::new(tokens) };
    let never = Stop { victim, step: 0, after: u64::MAX };
    let (setup, kernels) = run(&case, which, never);
    assert!(
        setup.ranks.iter().all(|rank| rank.status().is_clean()),
        "the patience is too short for a case without stops"
    );
    assert_eq!(kernels.len(), 7, "one for each kernel");
    let random = &mut Random(seed);
    let points = points(&kernels, random, anywhere).into_iter().skip(seed as usize % nth).step_by(nth);
    for (at, (step, after)) in points.enumerate() {
        let stop = Stop { victim, step, after };
        let (mut setup, _) = run(&case, which, stop);
        survivors_are_sound(&mut setup, &case, which, stop);
        if at % 4 == 1 {
            life_goes_on(setup, &case, stop);
        }
    }
}

#[test]
fn a_rank_that_stops_inside_any_kernel_hangs_nobody() {
    stop_everywhere(TEAMS[1], 0, 3, 1, 1, 1);
    stop_everywhere(TEAMS[2], 2, 3, 0, 1, 2);
    stop_everywhere(TEAMS[3], 18, 3, 2, 0, 8);
    stop_everywhere(TEAMS[4], 1, 3, 5, 0, 4);
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules, .ci/full 100"]
fn a_rank_that_stops_inside_any_kernel_under_many_schedules() {
    for seed in 0..schedules() {
        let tokens = TEAMS[1 + seed as usize % 4];
        // Taking turns, at random, starving, unevenly; all blocks resident, or one by one.
        let which = [0, 1, 2, 18, 9, 10, 11, 27][(seed / 4 + seed) as usize % 8];
        let nth = if tokens.len() > 3 { 8 } else { 3 };
        stop_everywhere(tokens, which, seed, seed as usize % tokens.len(), 2, nth);
    }
}

/// At the very instruction before a word to the peers: everything is written, and nobody knows.
#[test]
fn a_rank_that_stops_just_before_its_word_has_not_spoken() {
    let case = Case { seed: 9, ..Case::new(&[9, 12, 5]) };
    let victim = 2;
    let (_, kernels) = run(&case, 0, Stop { victim, step: 0, after: u64::MAX });
    for (step, word, phase) in [
        (0, 128 + 8 * 8 * victim as u64, Phase::Counts),
        (1, 640 + 8 * victim as u64, Phase::Rows),
        (3, 704 + 8 * victim as u64, Phase::Reduced),
        (4, 768 + 8 * victim as u64, Phase::Gathered),
    ] {
        let total = kernels.iter().filter(|k| k.0 == step).map(|k| k.1).max().unwrap();
        let spoken = |after: u64| {
            let (setup, _) = run(&case, 0, Stop { victim, step, after });
            let rank = &setup.ranks[0];
            let word = read(&rank.device, &rank.stream, rank.plan.window().base() + word, 8);
            (word != [0; 8], setup)
        };
        let (mut silent, mut heard) = (0, total);
        assert!(spoken(heard).0 && !spoken(silent).0, "step {step}");
        while heard - silent > 1 {
            let middle = silent + (heard - silent) / 2;
            if spoken(middle).0 { heard = middle } else { silent = middle }
        }
        let stop = Stop { victim, step, after: silent };
        let (_, mut setup) = spoken(silent);
        for rank in setup.ranks.iter().take(victim).filter(|_| phase != Phase::Gathered) {
            assert_eq!(rank.status().missing(phase), 1 << victim, "{stop:?}: {:?}", rank.status());
        }
        survivors_are_sound(&mut setup, &case, 0, stop);
        for rank in setup.ranks.iter().take(victim) {
            assert_ne!(rank.status().missing(phase) & 1 << victim, 0, "{stop:?}: {:?}", rank.status());
        }
        // And just after it, everybody goes on as if nothing had happened, to the next step.
        let (_, mut setup) = spoken(heard);
        for rank in setup.ranks.iter().take(victim).filter(|_| step > 0) {
            assert_eq!(rank.status().missing(phase), 0, "{stop:?}: {:?}", rank.status());
        }
        survivors_are_sound(&mut setup, &case, 0, Stop { after: heard, ..stop });
    }
}
