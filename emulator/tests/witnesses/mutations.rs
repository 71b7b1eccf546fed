//! Breaks kernels we did not write, one synchronising instruction at a time: deleted, a wait by mbarrier taken for granted, a group
//! waited for too few. The witness's own test has to fail: by a finding, a wrong element, or a deadlock; or there is advice that was
//! not there before. Survivors are listed in [`SURVIVORS`] with the reason.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is broken next, and what came of it.
#[derive(Default)]
struct State {
    /// Which mutant to make of the next kernel that is read.
    mutant: Option<usize>,
    /// The mutated line, once made.
    line: Option<String>,
    advice: usize,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// The text a host should load: as it is, unless a mutant was asked for.
pub fn broken(text: &str) -> String {
    STATE.with_borrow_mut(|state| match state.mutant {
        None => text.to_string(),
        Some(n) => match mutants(text).into_iter().nth(n) {
            Some((line, mutated)) => {
                state.line = Some(line);
                mutated
            }
            None => text.to_string(),
        },
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

/// Every mutant: the line, and the whole text without it.
fn mutants(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut all = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(new) = change(line) else { continue };
        let mut copy = lines.clone();
        copy[i] = &new;
        all.push((format!("{}: {}", i + 1, line.trim()), copy.join("\n")));
    }
    all
}

/// One witness's test, as it stands or broken. `Err`: it failed.
fn run(test: fn(), mutant: Option<usize>) -> (Result<(), ()>, Option<String>, usize) {
    STATE.set(State { mutant, ..State::default() });
    let outcome = catch_unwind(AssertUnwindSafe(test)).map_err(drop);
    let state = STATE.take();
    (outcome, state.line, state.advice)
}

/// Mutants that nothing notices: witness, a piece of the line, why.
const SURVIVORS: &[(&str, &str, &str)] = &[(
    "triton FP8 matmul through tensor maps",
    "bar.sync",
    "Triton 3.9 puts a barrier before and after each operation on an mbarrier: any one of them is covered by its neighbours",
)];

#[test]
#[ignore = "a minute of broken kernels: run by .ci/run"]
fn broken_kernels_of_others_are_noticed() {
    let witnesses: [(&str, fn()); 3] = [
        ("triton FP8 matmul through tensor maps", super::triton::matmul_e4m3_through_host_tensor_maps),
        ("triton FP8 matmul", super::triton::matmul_e4m3),
        ("nvcc cp.async GEMM", super::cuda::gemm_with_a_cp_async_pipeline),
    ];
    // Failing is what these are for: the panics would only drown the list.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (mut total, mut survived, mut surprises) = (0, 0, Vec::new());
    for (name, test) in witnesses {
        let (good, _, advice) = run(test, None);
        if good.is_err() {
            surprises.push(format!("{name} fails unbroken"));
            continue;
        }
        for n in 0.. {
            let (outcome, line, now) = run(test, Some(n));
            let Some(line) = line else { break };
            total += 1;
            let noticed = outcome.is_err() || now > advice;
            println!("{name}: {line}: {}", if noticed { "noticed" } else { "SURVIVED" });
            if !noticed {
                survived += 1;
                if !SURVIVORS.iter().any(|(who, what, _)| *who == name && line.contains(what)) {
                    surprises.push(format!("{name}: {line}"));
                }
            }
        }
    }
    std::panic::set_hook(hook);
    println!("{} of {total} noticed", total - survived);
    assert_eq!(surprises, Vec::<String>::new());
    assert!(total > 25, "{total} mutants");
}
