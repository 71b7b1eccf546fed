//! What only the real `ptxas` and `nvdisasm` can show: they are named by HADAL_PTXAS and HADAL_NVDISASM (or found as the build
//! finds them), and missing ones fail. Not run by a plain `cargo test`, which needs nothing but Rust: `.ci/run ptxas` runs
//! these with each pinned version (`cargo test --test build_ptxas -- --ignored`).

#[allow(dead_code)]
#[path = "../src/kernel"]
mod kernel {
    pub mod check;
    pub mod line_map;
    pub mod ptxas;
    pub mod report;
    pub mod sass;
    pub mod scan;
    pub mod table;
}

use std::path::{Path, PathBuf};
use std::process::Command;

use kernel::line_map::LineMap;
use kernel::ptxas::{Assembled, Job, NVDISASM, PTXAS, Tool, Wanted, assemble, environment, find};
use kernel::report::{errors, limits, same_counts, strict};
use kernel::sass::{Function, disassemble, main_loop};
use kernel::table::{KernelRow, TABLE, row};

/// The library's map as this test's own type of it.
fn map_of(kernel: &hadal::kernel::Kernel) -> LineMap {
    LineMap::decode(&kernel.line_map().encode())
}

fn tool(wanted: Wanted) -> Tool {
    find(wanted, &environment)
        .and_then(|found| found.or_missing(wanted))
        .unwrap_or_else(|why| panic!("{why}"))
}

fn scratch(test: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("build_ptxas").join(test)
}

fn assembled(test: &str, name: &str, ptx: &str) -> Result<Assembled, String> {
    let job = Job { name: name.into(), ptx: ptx.into(), arch: "sm_90a".into() };
    assemble(&tool(PTXAS), &[job], &scratch(test), None).remove(0)
}

fn sass(test: &str, name: &str, ptx: &str) -> String {
    let done = assembled(test, name, ptx).unwrap_or_else(|log| panic!("{name}: {log}"));
    disassemble(&tool(NVDISASM), &done.cubin, name, &scratch(test)).expect("nvdisasm reads the cubin")
}

#[test]
#[ignore = "needs ptxas and nvdisasm: .ci/run ptxas"]
fn every_kernel_passes_strict() {
    for kernel in hadal::kernel::all() {
        let row = row(kernel.row.name).expect("the same table");
        let done =
            assembled("strict", row.name, kernel.ptx).unwrap_or_else(|log| panic!("{}: {log}", row.name));
        let problems = strict(row, kernel.ptx, &done, &tool(NVDISASM), &scratch("strict"));
        let shown: Vec<String> =
            problems.iter().map(|problem| problem.shown(row.name, &map_of(kernel))).collect();
        assert_eq!(shown, [""; 0]);
    }
}

/// A row for the bad kernels: nothing in the table fits them.
fn bad_row() -> KernelRow {
    KernelRow {
        name: "bad",
        family: "test",
        template: "",
        constants: &[],
        threads: 128,
        cluster: 1,
        dynamic_shared: 0,
        registers: 168,
        warpgroup_registers: &[],
        arch: "sm_90a",
        params: &[],
        reference: "",
        test: "",
    }
}

#[test]
#[ignore = "needs ptxas and nvdisasm: .ci/run ptxas"]
fn what_ptxas_only_mentions_is_refused() {
    let cases = [
        ("ignored_setmaxnreg", "(C7508)"),
        ("missing_wait", "(C7517)"),
        ("accumulator_in_flight", "(C7517)"),
        ("spill", "spills: 420 B stored"),
    ];
    for (name, expected) in cases {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/build/{name}.ptx"));
        let ptx = std::fs::read_to_string(file).expect("the bad kernel");
        let done = assembled("refused", name, &ptx).expect("ptxas is content");
        let problems = limits(&bad_row(), &kernel::report::Usage::parse(&done.log));
        assert!(problems.iter().any(|problem| problem.message.contains(expected)), "{name}: {problems:?}");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/build/ignored_setmaxnreg.ptx");
    let ptx = std::fs::read_to_string(file).expect("the bad kernel");
    let problems = same_counts(&ptx, &sass("refused", "ignored_setmaxnreg", &ptx));
    assert_eq!(problems[0].message, "1 setmaxnreg in the PTX, 0 USETMAXREG in the SASS");
}

#[test]
#[ignore = "needs ptxas and nvdisasm: .ci/run ptxas"]
fn a_ptxas_error_names_the_template_line() {
    let kernel = hadal::kernel::find("hadal_gemm_e4m3_bf16_dense_m64n64_sm90a").expect("in the table");
    let ptx = kernel.ptx.replacen("mov.u32 tid, %tid.x;", "mov.u32 nobody, %tid.x;", 1);
    assert_ne!(ptx, kernel.ptx, "the template reads %tid.x into `tid`");
    let log = assembled("error", kernel.row.name, &ptx).expect_err("`nobody` is unknown");
    let said = errors(kernel.row.name, &log, &map_of(kernel));
    let template = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/gemm_fp8.ptx"));
    let template = template.expect("the template");
    let line =
        template.lines().position(|line| line.contains("mov.u32 tid, %tid.x;")).expect("stands there") + 1;
    assert!(said.contains(&format!("ptx/gemm_fp8.ptx:{line}: error   : Unknown symbol 'nobody'")), "{said}");
}

#[test]
#[ignore = "needs ptxas and nvdisasm: .ci/run ptxas"]
fn the_line_table_names_the_templates_and_costs_no_instruction() {
    let (ptxas, nvdisasm) = (tool(PTXAS), tool(NVDISASM));
    let kernel = hadal::kernel::find("hadal_gemm_e4m3_bf16_dense_m128n128_sm90a").expect("in the table");
    let keep = |line: &&str| !line.trim().starts_with(".loc ") && !line.starts_with(".file ");
    let bare: String = kernel.ptx.lines().filter(keep).flat_map(|line| [line, "\n"]).collect();
    let text = |name: &str, ptx: &str| Function::parse(&sass("lines", name, ptx)).instructions;
    assert!(text("with", kernel.ptx) == text("without", &bare), "{}: .loc changes the code", ptxas.version);

    let done = assembled("lines", "with", kernel.ptx).expect("assembles");
    let file = scratch("lines").join("lines.cubin");
    std::fs::write(&file, done.cubin).expect("the cubin");
    let output = Command::new(&nvdisasm.path).args(["-g", "-c"]).arg(&file).output().expect("nvdisasm runs");
    let text = String::from_utf8_lossy(&output.stdout);
    for name in ["ptx/gemm_fp8.ptx", "ptx/lib/mbarrier.ptx"] {
        assert!(text.contains(&format!("File \"{name}\"")), "{}: no line of {name}", ptxas.version);
    }
}

/// Most instructions of a consumer warp per 128 of K. DeepGEMM needs 192 at 256×128 and 110 at 128×128 with 12.9.86, with which shipped
/// code is made. ptxas 13.5.37 moves two more descriptor words for each wgmma: the gate keeps it from getting worse.
fn budget(version: &str, block_m: i64) -> f64 {
    match (version, block_m) {
        ("12.9.86", 256) => 180.0,
        ("12.9.86", _) => 102.0,
        (_, 256) => 202.0,
        _ => 110.0,
    }
}

#[test]
#[ignore = "needs ptxas and nvdisasm: .ci/run ptxas"]
fn main_loops_stay_within_their_budget() {
    let version = tool(PTXAS).version;
    assert!(["12.9.86", "13.5.37"].contains(&version.as_str()), "no budget is known for ptxas {version}");
    let mut measured = 0;
    for row in TABLE.iter().filter(|row| row.family == "gemm") {
        let kernel = hadal::kernel::find(row.name).expect("in the library");
        let function = Function::parse(&sass("budget", row.name, kernel.ptx));
        let found = main_loop(row, &function).unwrap_or_else(|| panic!("{}: no main loop", row.name));
        let budget = budget(&version, row.int("BLOCK_M").expect("a GEMM has a tile"));
        println!(
            "{}: {:.1} instructions per 128 of K, {} B of code",
            row.name,
            found.per_block(),
            function.code_bytes()
        );
        assert!(found.per_block() <= budget, "{}: {:.1} > {budget}", row.name, found.per_block());
        assert!(function.code_bytes() <= 32 * 1024, "{}: {} B of code", row.name, function.code_bytes());
        measured += 1;
    }
    assert_eq!(measured, 12);
}

/// A turn of the MLA kernel's loops over pairs of 64-token blocks, by side, beside FlashMLA's 946 and 764 instructions, 249 and 252 of
/// them uniform for 44 products.
#[test]
#[ignore = "needs ptxas and nvdisasm: .ci/run ptxas"]
fn the_mla_loops_stay_within_their_budget() {
    let name = "hadal_mla_decode_bf16_paged_m64_sm90a";
    let row = row(name).expect("in the table");
    let kernel = hadal::kernel::find(name).expect("in the library");
    let function = Function::parse(&sass("mla", name, kernel.ptx));
    let mut loops = function.gmma_loops();
    // By address: left, right, and the right side's masked turns; those of the left side are in the loop around its first.
    loops.sort_unstable();
    assert_eq!(loops.len(), 3, "{name}: {} loops hold products", loops.len());
    for (side, turn, budget) in [("left", &loops[0], 740), ("right", &loops[1], 550)] {
        let count = |pick: fn(&str) -> bool| {
            turn.iter().filter(|&&at| pick(&function.instructions[at].opcode)).count()
        };
        let products = count(|opcode| opcode.starts_with("HGMMA"));
        let uniform = count(|opcode| opcode.starts_with('U') || opcode == "R2UR");
        println!("{name}: {side}: {} instructions, {uniform} uniform, {products} products", turn.len());
        assert_eq!(products, 44, "{side}");
        assert!(turn.len() <= budget, "{side}: {} instructions > {budget}", turn.len());
        assert!(
            2 * uniform <= 5 * products,
            "{side}: {uniform} uniform instructions for {products} products"
        );
    }
    let found = main_loop(row, &function).expect("a main loop");
    assert_eq!((found.total(), found.blocks), (loops[0].len(), 2.0), "the left side's is the larger");
    // What runs from block to block, of all roles, and the whole.
    assert!((loops[0].len() + loops[1].len()) * 16 <= 24 * 1024, "{name}: the loops do not fit 24 KiB");
    println!("{name}: {} B of code", function.code_bytes());
    assert!(function.code_bytes() <= 78 * 1024, "{name}: {} B of code", function.code_bytes());
}
