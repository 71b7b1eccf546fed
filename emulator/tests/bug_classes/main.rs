//! The twenty classes of bugs of Hopper kernels: for each a kernel with exactly that bug, convicted at the right line with the other party
//! named, and its mended twin, which passes with every checker on. `emulator/src/check/mod.rs` says which test stands for which
//! class. What else is found, and what must not be, is in [`beyond`].

#[path = "../machine_support/mod.rs"]
mod machine_support;

mod beyond;
mod blocks;
mod grids;
mod mbarriers;
mod memory;
mod proxies;
mod warps;
mod wgmma;

use hadal_emulator::{Class, Launch, MachineConfig, Report};
use machine_support::*;

const REGS: &str = "
    .reg .b32 %tid, %a, %b, %c, %f, %bar, %box, %cta, %peer;
    .reg .b64 %out, %at, %x, %y;
    .reg .pred %p, %q, %first;
    mov.u32 %tid, %tid.x;
    mov.u32 %cta, %ctaid.x;
    ld.param.u64 %out, [p0];
    setp.eq.u32 %first, %tid, 0;
";

/// What a kernel of some blocks leaves: the finding, or the words of advice.
fn run(config: MachineConfig, decl: &str, body: &str, launch: Launch) -> (Option<Report>, Vec<String>) {
    let mut bench = Bench::with(config, &module(1, decl, &format!("{REGS}{body}")));
    let out = bench.words(&[0; 1024]);
    let found = bench.launch(Launch { params: out.to_le_bytes().to_vec(), ..launch }).err();
    let advice = bench.machine.advice().iter().map(|r| format!("{} {r}", r.place.ptx_text)).collect();
    (found.map(|f| *f.report), advice)
}

fn blocks(grid: u32, threads: u32) -> Launch {
    Launch { grid: [grid, 1, 1], block: [threads, 1, 1], ..Launch::default() }
}

/// Convicts the body with `bug` in place of `@@` at `line` with `other` as the other party, and acquits it with `mended`, under every
/// schedule and completion order.
fn twins(
    class: Class,
    (line, other): (&str, &str),
    decl: &str,
    body: &str,
    (bug, mended): (&str, &str),
    launch: Launch,
) -> Report {
    for config in configs() {
        let (found, _) = run(config.clone(), decl, &body.replace("@@", mended), launch.clone());
        assert_eq!(found.map(|r| r.to_string()), None, "{config:?}");
    }
    let (found, _) = run(config(), decl, &body.replace("@@", bug), launch);
    let report = found.unwrap_or_else(|| panic!("nothing found, expected {class}\n{body}"));
    assert_eq!(report.class, class, "{report}");
    assert!(report.place.ptx_text.contains(line), "found at the wrong line, expected {line}:\n{report}");
    let party = report.other.clone().unwrap_or_default();
    assert!(party.contains(other), "the other party is not {other}:\n{report}");
    report
}

/// As [`twins`], where the schedule decides which of the two is found to be late: both lines have to be named.
fn either(
    classes: &[Class],
    lines: [&str; 2],
    decl: &str,
    body: &str,
    (bug, mended): (&str, &str),
    launch: Launch,
) {
    for config in configs() {
        let (found, _) = run(config.clone(), decl, &body.replace("@@", mended), launch.clone());
        assert_eq!(found.map(|r| r.to_string()), None, "{config:?}");
        let (found, _) = run(config, decl, &body.replace("@@", bug), launch.clone());
        let report = found.unwrap_or_else(|| panic!("nothing found, expected {classes:?}\n{body}"));
        assert!(classes.contains(&report.class), "{report}");
        let (at, with) = (&report.place.ptx_text, report.other.clone().unwrap_or_default());
        let named = |a: &str, b: &str| at.contains(a) && with.contains(b);
        assert!(named(lines[0], lines[1]) || named(lines[1], lines[0]), "expected {lines:?}:\n{report}");
    }
}

/// Convicts the body with `bug` in place of `@@`, acquits it with `mended`.
fn pair(class: Class, line: &str, decl: &str, body: &str, bug: &str, mended: &str, threads: u32) -> Report {
    let body = format!("{REGS}{body}");
    let report = convicted(class, line, decl, &body.replace("@@", bug), threads, 0);
    acquitted(decl, &body.replace("@@", mended), threads, 0);
    assert!(!report.to_string().is_empty());
    report
}
