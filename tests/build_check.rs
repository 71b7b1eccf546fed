//! The checks of a kernel against its row, and the table itself: every row has a template, a reference and a test.

#[allow(dead_code)]
#[path = "../src/kernel"]
mod kernel {
    pub mod check;
    pub mod line_map;
    pub mod render;
    pub mod scan;
    pub mod table;
}

use std::collections::HashSet;
use std::path::Path;

use kernel::check::{Problem, check, counts};
use kernel::line_map::LineMap;
use kernel::render::{load, render};
use kernel::table::{KernelRow, ParamKind, TABLE};

const ROW: KernelRow = KernelRow {
    name: "k",
    family: "test",
    template: "k.ptx",
    constants: &[],
    threads: 256,
    cluster: 1,
    dynamic_shared: 4096,
    registers: 168,
    warpgroup_registers: &[240, 40],
    arch: "sm_90a",
    params: &[("map_a", ParamKind::TensorMap), ("x", ParamKind::U64), ("m", ParamKind::U32)],
    reference: "",
    test: "",
};

const PTX: &str = "\
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 smem[]; // the window
.shared .align 8 .b64 word;
.visible .entry k(
    .param .align 64 .b8 map_a[128],
    .param .u64 x, /* an address */
    .param .u32 m
)
.reqntid 256, 1, 1
.maxnreg 168
{
    .reg .pred p;
    setmaxnreg.inc.sync.aligned.u32 240;
    bra end;
    setmaxnreg.dec.sync.aligned.u32 40;
end:
    ret;
}
";

/// What is said of `PTX` with `from` replaced by `to`, under `row`.
fn said(row: &KernelRow, from: &str, to: &str) -> Vec<String> {
    assert!(PTX.contains(from));
    let problems = check(row, &PTX.replace(from, to));
    problems.iter().map(|problem| problem.shown("k", &LineMap::default())).collect()
}

#[track_caller]
fn refused(row: &KernelRow, from: &str, to: &str, needle: &str) {
    let said = said(row, from, to);
    assert!(said.iter().any(|problem| problem.contains(needle)), "{to}: {said:?}");
}

#[test]
fn the_sample_passes() {
    assert_eq!(check(&ROW, PTX), []);
}

#[test]
fn parameters_are_checked_in_order_kind_and_alignment() {
    refused(&ROW, ".param .u64 x", ".param .u32 x", "parameter 1: expected `.param .u64 x`");
    refused(&ROW, ".param .u64 x", ".param .u64 y", "parameter 1: expected `.param .u64 x`");
    refused(&ROW, ".align 64 .b8 map_a[128]", ".align 128 .b8 map_a[128]", "parameter 0");
    refused(&ROW, ".align 64 .b8 map_a[128]", ".b8 map_a[128]", "parameter 0");
    refused(&ROW, ".align 64 .b8 map_a[128]", ".align 64 .b8 map_a[64]", "parameter 0");
    refused(
        &ROW,
        ",\n    .param .u64 x",
        ",\n    .param .u32 m, .param .u64 x",
        "has 3 parameters, the `.entry` 4",
    );
    refused(&ROW, ".entry k(", ".entry other(", "no `.entry k`");
}

#[test]
fn launch_sizes_are_checked() {
    refused(&ROW, ".reqntid 256, 1, 1", ".reqntid 128", "`.reqntid` must be the table's 256 threads");
    refused(&ROW, ".reqntid 256, 1, 1\n", "", "got none");
    refused(&ROW, ".maxnreg 168", ".maxnreg 128", "`.maxnreg` must be the table's 168");
    refused(&KernelRow { threads: 200, ..ROW }, ".reqntid 256", ".reqntid 200", "not whole warpgroups");
    refused(&KernelRow { registers: 255, threads: 384, ..ROW }, "k", "k", "exceed the SM's 65,536");
    refused(&KernelRow { cluster: 2, ..ROW }, "k", "k", "`.reqnctapercluster` must be");
    assert_eq!(said(&KernelRow { cluster: 2, ..ROW }, ".maxnreg", ".reqnctapercluster 2\n.maxnreg"), [""; 0]);
}

#[test]
fn shared_memory_is_checked() {
    refused(&ROW, ".align 1024", ".align 128", "must be `.align 1024`");
    refused(&ROW, ".shared .align 1024 .b8 smem[]", ".shared .b8 smem[]", "must be `.align 1024`");
    refused(&ROW, ".extern .shared .align 1024 .b8 smem[];", "", "does not declare a window");
    refused(&KernelRow { dynamic_shared: 0, ..ROW }, "k", "k", "asks for 0 B");
    // One byte of static memory too many; a block's limit and an SM's meet in the same byte.
    let full = KernelRow { dynamic_shared: 232_448 - 8, ..ROW };
    assert_eq!(check(&full, PTX), []);
    refused(&full, ".b64 word", ".b64 word[2]", "232456 B of shared memory; a block may have 232448");
}

#[test]
fn register_moves_are_checked() {
    refused(&ROW, "u32 240", "u32 232", "the table's warpgroups hold [240, 40]");
    refused(
        &ROW,
        "setmaxnreg.dec.sync.aligned.u32 40;",
        "",
        "gives a warpgroup 40 registers, no `setmaxnreg` does",
    );
    refused(&ROW, "setmaxnreg.dec", "@p setmaxnreg.dec", "all four warps");
    refused(&ROW, "setmaxnreg.dec", "setmaxnreg.inc", "`setmaxnreg.inc` to 40 from a launch with 168");
    let greedy = KernelRow { warpgroup_registers: &[240, 104], ..ROW };
    refused(
        &greedy,
        "u32 40",
        "u32 104",
        "warpgroups hold 44032 registers after `setmaxnreg`, the launch gives 43008",
    );
    refused(&KernelRow { warpgroup_registers: &[240, 42], ..ROW }, "u32 40", "u32 42", "multiples of 8");
    refused(
        &KernelRow { warpgroup_registers: &[240, 40, 40], ..ROW },
        "k",
        "k",
        "lists 3 warpgroups for 256 threads",
    );
}

#[test]
fn counts_ignore_comments_and_guards() {
    let ptx = ".entry k()\n{\n@p setmaxnreg.inc.sync.aligned.u32 240; // setmaxnreg.\n/* wgmma.mma_async. */\n\
               l: wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {a, b},\n c, d, 1, 1, 1; }\n";
    assert_eq!(counts(ptx), (1, 1));
}

#[test]
fn a_problem_names_the_template_line() {
    let map = LineMap::decode("files ptx/k.ptx ptx/lib/f.ptx\nplace 0 9 0\nplace 1 3 1\nlines 0x1 2x1");
    let shown = |problem: Problem| problem.shown("k", &map);
    assert_eq!(shown(Problem::at(2, "bad")), "k: ptx/lib/f.ptx:3 (from ptx/k.ptx:9): bad");
    assert_eq!(shown(Problem::at(1, "bad")), "k: line 1 of the PTX: bad");
    assert_eq!(shown(Problem::whole("bad")), "k: bad");
}

#[test]
fn every_row_has_a_template_a_reference_and_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = HashSet::new();
    for row in TABLE {
        assert!(names.insert(row.name), "{} stands in the table twice", row.name);
        assert!(root.join("ptx").join(row.template).is_file(), "{}: no template {}", row.name, row.template);
        assert!(root.join(row.reference).is_file(), "{}: no reference {}", row.name, row.reference);
        let (file, function) = row.test.split_once("::").expect("a file and a function");
        let test = std::fs::read_to_string(root.join(file));
        let test = test.unwrap_or_else(|error| panic!("{}: no test {file}: {error}", row.name));
        assert!(test.contains(&format!("#[test]\nfn {function}()")), "{}: no test {}", row.name, row.test);
        assert!(row.name.starts_with("hadal_") && row.name.ends_with("_sm90a"), "{}", row.name);
    }
}

#[test]
fn every_row_renders_to_what_the_library_embeds() {
    let sources = load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/ptx"))).expect("ptx/ can be read");
    for (row, kernel) in TABLE.iter().zip(hadal::kernel::all()) {
        let rendered = render(&sources, row.template, &row.all_constants()).expect("renders");
        assert_eq!(check(row, &rendered.ptx), [], "{}", row.name);
        assert_eq!(kernel.row.name, row.name);
        assert!(rendered.ptx == kernel.ptx, "{}: the embedded PTX is not this template's", row.name);
        assert_eq!(kernel.line_map().encode(), rendered.map.encode(), "{}", row.name);
        assert_eq!(hadal::kernel::find(row.name).map(|found| found.row.name), Some(row.name));
    }
    assert!(hadal::kernel::find("hadal_nothing").is_none());
}

#[test]
fn parameter_blocks_are_laid_out_as_ptx_does() {
    let (offsets, size) = ROW.param_layout();
    assert_eq!((offsets, size), (vec![0, 128, 136], 140));
}
