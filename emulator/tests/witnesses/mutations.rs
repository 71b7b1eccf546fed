//! Breaks kernels we did not write, one synchronising instruction at a time: deleted, a wait by mbarrier taken for granted, a group
//! waited for too few. The witness's own test has to fail: by a finding, a wrong element, or a deadlock; or there is advice that was
//! not there before.
//!
//! A barrier that is not missed is deleted once more, together with the next such barriers, as many as it takes: some compilers put one on
//! either side of every operation of a single thread, and any of them will do. If that is noticed, they are one synchronisation, written several
//! times: it counts as one and as noticed. Barriers that the kernel is right without are listed
//! in [`UNNEEDED`] with the reason.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is broken next, and what came of it.
#[derive(Default)]
struct State {
    /// Which instructions to break in the next kernel that is read.
    mutant: Vec<usize>,
    /// The mutated line, once made.
    line: Option<String>,
    advice: usize,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// The text a host should load: as it is, unless a mutant was asked for.
pub fn broken(text: &str) -> String {
    STATE.with_borrow_mut(|state| {
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        let all = mutable(text);
        for (line, new) in state.mutant.iter().filter_map(|n| all.get(*n)) {
            state.line = Some(format!("{}: {}", line + 1, lines[*line].trim()));
            lines[*line].clone_from(new);
        }
        lines.join("\n")
    })
}

/// A kernel has run, with so much advice.
pub fn advised(advice: usize) {
    STATE.with_borrow_mut(|state| state.advice += advice);
}

fn change(line: &str) -> Option<String> {
    let op = line.trim_start();
    let op = op
        .strip_prefix('@')
        .map_or(op, |rest| rest.split_once(char::is_whitespace).map_or(rest, |(_, op)| op))
        .trim_start();
    if op.starts_with("mbarrier.try_wait") {
        let ready = op.split_whitespace().nth(1)?.trim_end_matches(',');
        return Some(format!("setp.eq.u32 {ready}, 0, 0;"));
    }
    let prefixes = [
        "fence.",
        "membar.",
        "bar.",
        "barrier.",
        "wgmma.fence",
        "wgmma.commit_group",
        "wgmma.wait_group",
        "cp.async.bulk.commit_group",
        "cp.async.bulk.wait_group",
        "cp.async.commit_group",
        "cp.async.wait_",
        "mbarrier.init",
        "mbarrier.arrive",
        "mbarrier.expect_tx",
    ];
    prefixes.iter().any(|p| op.starts_with(p)).then(String::new)
}

/// Every line that can be broken, by index from 0, and what stands there then.
fn mutable(text: &str) -> Vec<(usize, String)> {
    text.lines().enumerate().filter_map(|(at, line)| Some((at, change(line)?))).collect()
}

/// One witness's test, as it stands or broken. The first: it failed.
fn run(test: fn(), mutant: &[usize]) -> (bool, Option<String>, usize) {
    STATE.set(State { mutant: mutant.to_vec(), ..State::default() });
    let outcome = catch_unwind(AssertUnwindSafe(test));
    let state = STATE.take();
    (outcome.is_err(), state.line, state.advice)
}

/// Barriers that a kernel is right without, so that nobody can miss them: witness, line of its PTX, why. They do not count.
const UNNEEDED: &[(&str, &str, &str)] = &[
    (TRITON_TMA, "315: ", "behind a wait for an mbarrier, which every thread does for itself"),
    (
        TRITON_TMA,
        "411: ",
        "since the barrier before expect_tx only the elected thread did anything, and it goes on",
    ),
    (
        TRITON_TMA,
        "430: ",
        "since the barrier before expect_tx only the elected threads of that warp did anything",
    ),
    (TRITON_TMA, "525: ", "nothing comes after it"),
];

const TRITON_TMA: &str = "triton FP8 matmul through tensor maps";

#[test]
#[ignore = "a minute of broken kernels: run by .ci/run"]
fn broken_kernels_of_others_are_noticed() {
    let witnesses: [(&str, fn()); 3] = [
        (TRITON_TMA, super::triton::matmul_e4m3_through_host_tensor_maps),
        ("triton FP8 matmul", super::triton::matmul_e4m3),
        ("nvcc cp.async GEMM", super::cuda::gemm_with_a_cp_async_pipeline),
    ];
    // Failing is what these are for: the panics would only drown the list.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (mut total, mut noticed, mut unneeded, mut surprises) = (0, 0, 0, Vec::new());
    for (name, test) in witnesses {
        let (failed, _, advice) = run(test, &[]);
        if failed {
            surprises.push(format!("{name} fails unbroken"));
            continue;
        }
        let notices = |mutant: &[usize]| {
            let (failed, line, now) = run(test, mutant);
            line.map(|line| (line, failed || now > advice))
        };
        let mut lines: Vec<(String, bool)> = Vec::new();
        while let Some(mutant) = notices(&[lines.len()]) {
            lines.push(mutant);
        }
        // Who survived alone, and is part of another's synchronisation already.
        let mut paired = vec![false; lines.len()];
        let unneeded_here =
            |line: &str| UNNEEDED.iter().any(|(who, at, _)| *who == name && line.starts_with(at));
        let barrier = |n: usize| {
            let (line, seen) = &lines[n];
            !seen && line.contains("bar.sync") && !unneeded_here(line)
        };
        for (n, (line, seen)) in lines.iter().enumerate() {
            if paired[n] {
                continue;
            }
            if !seen && unneeded_here(line) {
                unneeded += 1;
                continue;
            }
            total += 1;
            // Itself, and surviving barriers behind it until their absence shows.
            let others = (n + 1..lines.len()).filter(|other| barrier(*other) && !paired[*other]);
            let others: Vec<usize> = others.filter(|_| barrier(n)).collect();
            let with = (1..=others.len()).map(|count| &others[..count]).find(|with| {
                let together: Vec<usize> = [&[n], *with].concat();
                let sees = |mutant: &[usize]| notices(mutant).is_some_and(|(_, seen)| seen);
                sees(&together) && !sees(with)
            });
            let what = match (seen, with) {
                (true, _) => "noticed".to_string(),
                (_, Some(with)) => {
                    with.iter().for_each(|other| paired[*other] = true);
                    let with: Vec<&str> = with.iter().map(|other| lines[*other].0.as_str()).collect();
                    format!("noticed with {}", with.join(", "))
                }
                _ => "SURVIVED".to_string(),
            };
            println!("{name}: {line}: {what}");
            if *seen || with.is_some() {
                noticed += 1;
            } else {
                surprises.push(format!("{name}: {line}"));
            }
        }
    }
    std::panic::set_hook(hook);
    println!("{noticed} of {total} noticed, and {unneeded} barriers that are not needed");
    assert_eq!(unneeded, UNNEEDED.len(), "a barrier said not to be needed is missed, or gone");
    assert_eq!(surprises, Vec::<String>::new());
    assert!(total > 25, "{total} mutants");
    assert!(noticed * 100 >= total * 95, "{noticed} of {total} noticed");
}
