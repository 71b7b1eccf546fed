//! Finding and running `ptxas`, the cubin cache, what a strict build refuses, and reading SASS: all without NVIDIA's tools.
//!
//! Programs are shell scripts that behave as `ptxas` would, logs are what `ptxas` 12.9.86 and 13.5.37 really said.
//! `tests/build_ptxas.rs` repeats the convictions with the real tools.
#![cfg(unix)]

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

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use kernel::line_map::LineMap;
use kernel::ptxas::{Cache, Found, Job, NVDISASM, PTXAS, Tool, assemble, find};
use kernel::report::{Usage, errors, limits, same_counts};
use kernel::sass::{Class, Function, main_loop};
use kernel::table::{TABLE, row};

/// Scripts are written and run one test at a time: a program that another thread's child still holds open for writing
/// does not start.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A fresh folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("build_tools").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the test's folder");
    folder
}

fn script(path: &Path, body: &str) -> PathBuf {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("the script's folder");
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).expect("the script");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    path.to_owned()
}

const VERSION: &str = "Cuda compilation tools, release 12.9, V12.9.86";

/// A `ptxas` that writes an ELF header and its own count of runs, and says it used 40 registers.
fn working(path: &Path) -> PathBuf {
    let body = format!(
        r#"if [ "$1" = --version ]; then echo "{VERSION}"; exit 0; fi
while [ $# -gt 0 ]; do case "$1" in -o) out="$2"; shift;; esac; shift; done
echo run >> "$(dirname "$0")/runs"
printf '\177ELF' > "$out"
echo "ptxas info    : Used 40 registers, used 1 barriers" >&2"#
    );
    script(path, &body)
}

fn found(variables: &[(&str, &Path)]) -> Result<Found, String> {
    find(PTXAS, &|name| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string_lossy().into_owned())
    })
}

#[test]
fn without_ptxas_the_search_says_where_it_looked_and_how_to_get_it() {
    let _turn = turn();
    let nothing = found(&[]).expect("nothing set is no error");
    let said = nothing.or_missing(PTXAS).expect_err("nothing to find");
    assert!(
        said.contains("HADAL_PTXAS is not set") && said.contains("pip install nvidia-cuda-nvcc-cu12"),
        "{said}"
    );
    let none = found(&[("HADAL_PTXAS", Path::new("none"))]).expect("`none` is no error");
    assert_eq!(none, Found::Nothing(vec!["HADAL_PTXAS=none".into()]));
    let said =
        find(NVDISASM, &|_| None).and_then(|found| found.or_missing(NVDISASM)).expect_err("nothing to find");
    assert!(said.contains("HADAL_NVDISASM") && said.contains("pip install nvidia-cuda-nvdisasm"), "{said}");
}

#[test]
fn the_variable_wins_then_the_toolkit_then_path_then_wheels() {
    let _turn = turn();
    let here = folder("order");
    let named = working(&here.join("named/my-ptxas"));
    let toolkit = here.join("cuda");
    let on_path = here.join("path/bin");
    let venv = here.join("venv");
    working(&toolkit.join("bin/ptxas"));
    working(&on_path.join("ptxas"));
    let wheel = working(&venv.join("lib/python3.11/site-packages/nvidia/cuda_nvcc/bin/ptxas"));
    let tool = |variables: &[(&str, &Path)]| match found(variables).expect("no error") {
        Found::Tool(tool) => tool,
        Found::Nothing(tried) => panic!("not found: {tried:?}"),
    };
    let all: [(&str, &Path); 4] =
        [("VIRTUAL_ENV", &venv), ("PATH", &on_path), ("CUDA_HOME", &toolkit), ("HADAL_PTXAS", &named)];
    assert_eq!(
        tool(&all),
        Tool { path: named.clone(), version: "12.9.86".into(), how: "HADAL_PTXAS".into() }
    );
    assert_eq!(tool(&all[..3]).path, toolkit.join("bin/ptxas"));
    assert_eq!(tool(&all[..2]).path, on_path.join("ptxas"));
    assert_eq!(tool(&all[..1]).path, wheel);
    // A wheel beside a folder of PATH, without an active environment.
    assert_eq!(tool(&[("PATH", &venv.join("bin"))]).path, wheel);
}

#[test]
fn a_variable_that_names_something_unusable_is_an_error() {
    let _turn = turn();
    let here = folder("broken");
    let cases = [
        (here.join("nowhere"), "does not start"),
        (here.clone(), "does not start"),
        (
            script(&here.join("fails"), "echo no licence >&2; exit 1"),
            "`--version` failed (exit status: 1): no licence",
        ),
        (script(&here.join("babbles"), "echo hello"), "does not answer as NVIDIA's tools do: hello"),
    ];
    for (path, why) in cases {
        let said = found(&[("HADAL_PTXAS", &path)]).expect_err("unusable");
        let start = format!("HADAL_PTXAS={}: ", path.display());
        assert!(said.starts_with(&start) && said.contains(why) && said.contains("unset it"), "{said}");
    }
}

#[test]
fn a_broken_program_on_path_is_a_note() {
    let _turn = turn();
    let here = folder("note");
    script(&here.join("ptxas"), "exit 3");
    let Ok(Found::Nothing(tried)) = found(&[("PATH", &here)]) else { panic!("must not be used") };
    assert!(tried.iter().any(|line| line.contains("exit status: 3") && line.contains("PATH")), "{tried:?}");
}

fn jobs(count: usize) -> Vec<Job> {
    (0..count).map(|i| Job { name: format!("k{i}"), ptx: format!("// {i}"), arch: "sm_90a".into() }).collect()
}

fn tool(path: PathBuf) -> Tool {
    Tool { path, version: "12.9.86".into(), how: "test".into() }
}

fn runs(here: &Path) -> usize {
    std::fs::read_to_string(here.join("runs")).map_or(0, |text| text.lines().count())
}

#[test]
fn cubins_are_cached_by_text_and_version() {
    let _turn = turn();
    let here = folder("cache");
    let mut tool = tool(working(&here.join("ptxas")));
    let cache = Cache::open(&here.join("cubins")).expect("a writable cache");
    let jobs = jobs(5);
    let first = assemble(&tool, &jobs, &here.join("scratch"), Some(&cache));
    assert!(
        first.iter().all(|result| result.as_ref().is_ok_and(|done| done.cubin == b"\x7fELF")),
        "{first:?}"
    );
    assert_eq!(runs(&here), 5);
    assert_eq!(assemble(&tool, &jobs, &here.join("scratch"), Some(&cache)), first);
    assert_eq!(runs(&here), 5, "the second build reads the cache");
    tool.version = "13.5.37".into();
    assemble(&tool, &jobs[..1], &here.join("scratch"), Some(&cache));
    assert_eq!(runs(&here), 6, "another version assembles anew");
    let edited = [Job { ptx: "// edited".into(), ..jobs[0].clone() }];
    assemble(&tool, &edited, &here.join("scratch"), Some(&cache));
    assert_eq!(runs(&here), 7, "edited text assembles anew");
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let _turn = turn();
    let here = folder("read-only");
    // A file where the folder should be: refuses even root, whom permission bits do not stop.
    std::fs::write(here.join("file"), "").expect("the file");
    let warning = Cache::open(&here.join("file/cubins")).expect_err("not writable");
    assert!(warning.contains("file/cubins") && warning.contains("HADAL_CUBIN_CACHE"), "{warning}");
    let locked = here.join("locked");
    std::fs::create_dir_all(&locked).expect("the folder");
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).expect("its mode");
    if std::fs::write(locked.join("probe"), "").is_err() {
        assert!(Cache::open(&locked).is_err());
    }
    let tool = tool(working(&here.join("ptxas")));
    assert!(
        assemble(&tool, &jobs(1), &here.join("scratch"), None)[0].is_ok(),
        "the build goes on without a cache"
    );
}

#[test]
fn a_ptxas_that_fails_or_lies_is_an_error_for_its_kernel() {
    let _turn = turn();
    let here = folder("failing");
    let scratch = here.join("scratch");
    let run = |body: &str| {
        let program = script(&here.join("ptxas"), body);
        assemble(&tool(program), &jobs(1), &scratch, None).remove(0).expect_err("must fail")
    };
    assert_eq!(
        run("echo 'ptxas k0.ptx, line 3; error   : bad' >&2; exit 255"),
        "ptxas k0.ptx, line 3; error   : bad\n"
    );
    assert!(run("exit 7").contains("failed (exit status: 7)"));
    assert!(run("exit 0").contains("wrote no"));
    let garbage = r#"while [ $# -gt 0 ]; do case "$1" in -o) echo garbage > "$2"; shift;; esac; shift; done"#;
    assert!(run(garbage).contains("not a cubin"));
}

#[test]
fn errors_name_kernel_and_template_line() {
    let map = LineMap::decode("files ptx/k.ptx\nplace 0 40 0\nlines 0x17 1x1");
    let log = "ptxas /build/k.ptx, line 18; error   : Unknown symbol 'zz'\nptxas fatal   : Ptx assembly aborted due to errors\n";
    assert_eq!(errors("k", log, &map), "k: ptx/k.ptx:40: error   : Unknown symbol 'zz'");
    assert_eq!(errors("k", "ptxas k.ptx, line 2; error   : x", &map), "k: error   : x");
}

const CLEAN: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 32 bytes smem
ptxas info    : Compile time = 94.559 ms
";
const SPILL: &str = "\
ptxas warning : Local memory used for function 'spills', size of stack frame: 424 bytes
ptxas warning : Registers are spilled to local memory in function 'spills', 420 bytes spill stores, 420 bytes spill loads
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spills' for 'sm_90a'
ptxas info    : Function properties for spills
    424 bytes stack frame, 420 bytes spill stores, 420 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 424 bytes cumulative stack size
";

/// What a strict build says of the 128×128 GEMM when `ptxas` said `log`.
fn convicted(log: &str) -> Vec<String> {
    let row = row("hadal_gemm_e4m3_bf16_dense_m128n128_sm90a").expect("in the table");
    let map = LineMap::decode("files ptx/k.ptx\nplace 0 40 0\nlines 0x51 1x1");
    limits(row, &Usage::parse(log)).iter().map(|problem| problem.shown("k", &map)).collect()
}

#[test]
fn a_clean_log_passes() {
    let usage = Usage::parse(CLEAN);
    assert_eq!((usage.registers, usage.stack, usage.spills, usage.shared), (168, 0, (0, 0), 32));
    assert_eq!(convicted(CLEAN), [""; 0]);
}

#[test]
fn strict_refuses_spills_and_overruns() {
    assert_eq!(Usage::parse(SPILL).spills, (420, 420));
    let said = convicted(SPILL);
    assert!(said.contains(&"k: spills: 420 B stored, 420 B loaded, 424 B of stack".into()), "{said:?}");
    let said = convicted(&CLEAN.replace("168 registers", "176 registers"));
    assert_eq!(said, ["k: 176 registers; the table's budget is 168"]);
    let said = convicted(&CLEAN.replace("32 bytes smem", "40000 bytes smem"));
    assert!(said[0].contains("B of shared memory; a block may have 232448"), "{said:?}");
    let said = convicted(&CLEAN.replace("168 registers", "40 registers"));
    assert!(said[0].contains("the launch gives 15360: a deadlock"), "{said:?}");
    assert!(convicted("").iter().any(|line| line.contains("checks are blind")));
}

#[test]
fn strict_refuses_any_75nn_line_of_any_severity() {
    let ignored = "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.";
    let injected = "ptxas info    : (C7517) warpgroup.wait is injected in around line 52 by compiler to allow use of registers defined by GMMA in function 'multiply'";
    let louder = "ptxas warning : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources";
    let elsewhere = "something new (C7599) : in a shape nobody has seen";
    for line in [ignored, injected, louder, elsewhere] {
        let said = convicted(&format!("{line}\n{CLEAN}"));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("(C75"), "{said:?}");
    }
    assert!(convicted(&format!("{injected}\n{CLEAN}"))[0].starts_with("k: ptx/k.ptx:40: "));
    assert_eq!(convicted(&format!("ptxas info : (C7400) of no interest\n{CLEAN}")), [""; 0]);
}

/// A ring of two stages entered in the middle, a wait that retries out of line, an outer loop over tiles.
const SASS: &str = "\
k:
.text.k:
        /*0000*/                   USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xe8 ;
        /*0010*/                   MOV R1, R2 ;
.L_x_tile:
        /*0020*/               @P1 BRA `(.L_x_1) ;
.L_x_0:
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P2, [UR11+0x30a28], R4 ;
        /*0040*/              @!P2 BRA `(.L_x_9) ;
.L_x_29:
        /*0050*/                   LDS R4, [UR11] ;
        /*0060*/                   UIADD3 UR4, UR22, 0x2, URZ ;
        /*0070*/                   QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR4], RZ, !UPT ;
        /*0080*/                   QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24 ;
        /*0090*/                   QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24 ;
        /*00a0*/                   QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24, gsb0 ;
        /*00b0*/                   FFMA R7, R24, R5.reuse, R7 ;
        /*00c0*/               @P2 BRA `(.L_x_10) ;
.L_x_1:
        /*00d0*/                   QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR4], RZ, !UPT ;
        /*00e0*/                   QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24 ;
        /*00f0*/                   QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24 ;
        /*0100*/                   QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR4], R24, gsb0 ;
        /*0110*/                   STL [R1], R7 ;
        /*0120*/               @P2 BRA `(.L_x_0) ;
.L_x_10:
        /*0130*/                   STG.E desc[UR4][R2.64], R7 ;
        /*0140*/              @!P3 BRA `(.L_x_tile) ;
        /*0150*/                   EXIT ;
.L_x_9:
        /*0160*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P2, [UR11+0x30a28], R4 ;
        /*0170*/              @!P2 BRA `(.L_x_9) ;
        /*0180*/                   BRA `(.L_x_29) ;
.L_x_36:
        /*0190*/                   BRA `(.L_x_36);
        /*01a0*/                   NOP;
";

#[test]
fn the_main_loop_is_found_though_it_is_entered_in_the_middle() {
    let function = Function::parse(SASS);
    assert_eq!((function.code_bytes(), function.counts()), (0x1b0, (1, 8)));
    let loops = function.gmma_loops();
    assert_eq!(loops.len(), 1);
    let row = row("hadal_gemm_e4m3_bf16_dense_m64n64_sm90a").expect("in the table");
    let found = main_loop(row, &function).expect("a main loop");
    let count = |class| found.classes.get(&class).copied().unwrap_or(0);
    assert_eq!(found.total(), 19, "0x30 to 0x120 and the three of the retry");
    assert_eq!((found.retry, found.blocks), (2, 2.0));
    assert_eq!(
        (count(Class::Gmma), count(Class::Sync), count(Class::Lds), count(Class::Spill)),
        (8, 2, 1, 1)
    );
    assert_eq!(
        (count(Class::Fp32), count(Class::Uniform), count(Class::Branch), count(Class::Alu)),
        (1, 1, 5, 0)
    );
    assert_eq!(found.tensor_cycles, 128.0);
    // 4 × (64 + 64) × 32 B of operands, half a 512 B load, (64 + 64) × 128 + 64 × 4 B of copies, over 128 B × 128 cycles.
    assert_eq!(found.port, (16_384.0 + 256.0 + 16_640.0) / 16_384.0);
    assert_eq!(found.issue, 9.5 / 128.0);
}

/// Two consumer warpgroups, each with a loop of its own: the larger one counts, by 64-token blocks of half the products each.
#[test]
fn attention_is_counted_by_blocks_of_tokens() {
    let loop_of = |label: &str, more: &str| {
        let scores = "/*0*/ HGMMA.64x64x16.F32.BF16 R152, gdesc[UR12], R152 ;\n".repeat(36);
        let half = "/*0*/ HGMMA.64x256x16.F32.BF16 R24, R184, gdesc[UR8].tnspB, R24 ;\n".repeat(4);
        let other = "/*0*/ HGMMA.64x256x16.F32.BF16 R24, gdesc[UR20].tnspB, R24 ;\n".repeat(4);
        format!("{label}:\n{scores}{half}{other}{more}/*0*/ @P0 BRA `({label}) ;\n")
    };
    let moves = "/*0*/ UIADD3.64 UR12, UR6, 0x10000, URZ ;\n".repeat(66);
    let function = Function::parse(&format!("{}{}", loop_of(".L_x_0", ""), loop_of(".L_x_1", &moves)));
    let row = row("hadal_mla_decode_bf16_paged_m64_sm90a").expect("in the table");
    let found = main_loop(row, &function).expect("a main loop");
    assert_eq!((found.total(), found.blocks, found.per_block()), (44 + 66 + 1, 2.0, 55.5));
    assert_eq!(found.uniform_per_gmma(), 1.5);
    // 64 × 64 × (576 + 512) products, 2,048 a cycle.
    assert_eq!(found.tensor_cycles, 2176.0);
    assert_eq!(found.issue, 2.0 * 55.5 / 2176.0);
    // 36 × (64 + 64) × 32 + 4 × 256 × 32 + 4 × (64 + 256) × 32 B of operands for two blocks, from both sides, and 128 × 1,152 B of copies.
    assert_eq!(found.port, (442_368.0 + 147_456.0) / 2.0 / 128.0 / 2176.0);
}

#[test]
fn counts_of_sass_and_ptx_must_agree() {
    let mma = "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {a}, b, c, 1, 1, 1;\n".repeat(8);
    let ptx = format!(".visible .entry k()\n{{\nsetmaxnreg.inc.sync.aligned.u32 232;\n{mma}}}\n");
    assert_eq!(same_counts(&ptx, SASS), []);
    let without = SASS.replace("USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xe8", "NOP");
    assert_eq!(same_counts(&ptx, &without)[0].message, "1 setmaxnreg in the PTX, 0 USETMAXREG in the SASS");
    let merged = SASS.replacen("QGMMA.64x64x32.F32.E4M3.E4M3", "MOV", 1);
    assert_eq!(same_counts(&ptx, &merged)[0].message, "8 wgmma in the PTX, 7 GMMA in the SASS");
}

#[test]
fn kernels_without_gmma_have_no_main_loop() {
    let function = Function::parse("        /*0000*/                   EXIT ;\n");
    assert!(TABLE.iter().all(|row| main_loop(row, &function).is_none()));
    assert_eq!(Function::parse("").code_bytes(), 0);
}
