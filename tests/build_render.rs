//! The template renderer: each thing it refuses, and lines that know where they came from.

#[allow(dead_code)]
#[path = "../src/kernel"]
mod kernel {
    pub mod line_map;
    pub mod render;
    pub mod scan;
    pub mod table;
}

use kernel::line_map::LineMap;
use kernel::render::{Rendered, Sources, render};
use kernel::table::Value;

fn sources(files: &[(&str, &str)]) -> Sources {
    files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect()
}

fn rendered(files: &[(&str, &str)], constants: &[(&str, Value)]) -> Rendered {
    render(&sources(files), files[0].0, constants).unwrap_or_else(|error| panic!("{error}"))
}

/// Renders one template that must be refused; the error as text.
fn refused(text: &str) -> String {
    let constants = [("TILE", Value::Int(64)), ("OUT", Value::Str("bf16"))];
    match render(&sources(&[("k.ptx", text)]), "k.ptx", &constants) {
        Ok(rendered) => panic!("accepted:\n{}", rendered.ptx),
        Err(error) => error.to_string(),
    }
}

/// The line of the PTX that holds `needle`, from 1.
fn line_of(ptx: &str, needle: &str) -> usize {
    ptx.lines().position(|line| line.contains(needle)).unwrap_or_else(|| panic!("no {needle} in\n{ptx}")) + 1
}

#[test]
fn values_loops_and_registers() {
    let text = "\
// ${ OUT } ${ TILE // 2 }
//@ for i in range(2)
    mov.b32 r${ i }, ${ i * TILE };
//@ endfor
//@ if OUT == \"bf16\"
    {${ regs(\"acc\", 3) }}, {${ regs('acc', 2, 8) }};
//@ else
    never
//@ endif
";
    let constants = [("TILE", Value::Int(64)), ("OUT", Value::Str("bf16"))];
    let ptx = rendered(&[("k.ptx", text)], &constants).ptx;
    assert_eq!(
        ptx.lines().take(4).collect::<Vec<_>>(),
        ["// bf16 32", "    mov.b32 r0, 0;", "    mov.b32 r1, 64;", "    {acc0, acc1, acc2}, {acc8, acc9};"]
    );
}

#[test]
fn white_space_control_is_refused() {
    for control in ["${- TILE }", "${+ TILE }", "${ TILE -}"] {
        let said = refused(&format!("// first\n  mov {control};\n"));
        assert!(said.starts_with("ptx/k.ptx:2: ") && said.contains("white space"), "{said}");
    }
}

#[test]
fn a_statement_behind_text_is_refused() {
    let said = refused("  mov a, b; //@ if TILE\n");
    assert!(said.starts_with("ptx/k.ptx:1: ") && said.contains("first thing on its line"), "{said}");
    assert!(refused("//@ if TILE //@ endif\n").contains("first thing on its line"));
}

#[test]
fn a_statement_left_in_the_output_is_refused() {
    let said = refused("// one\n  mov a, ${ \"//\" ~ \"@ if\" };\n");
    assert!(said.starts_with("ptx/k.ptx:2: ") && said.contains("left in the output"), "{said}");
}

#[test]
fn a_value_open_at_the_end_of_its_line_is_refused() {
    let said = refused("  mov a, ${ TILE\n };\n");
    assert_eq!(said, "ptx/k.ptx:1: a `${` does not close on its line");
    assert!(refused("  mov a, ${ \"} ;\n").contains("does not close"));
}

#[test]
fn values_are_integers_or_strings() {
    let values = ["TILE / 2", "TILE > 2", "none", "[1, 2]", "OUT if TILE == 1", "{1: 2}", "1.0"];
    for value in values {
        let said = refused(&format!("// one\n\n  mov a, ${{ {value} }};\n"));
        assert!(said.starts_with("ptx/k.ptx:3: ") && said.contains("integer or a string"), "{value}: {said}");
    }
}

#[test]
fn undefined_names_are_errors() {
    for text in ["mov ${ TILES };\n", "//@ if TILES\n//@ endif\n", "//@ for i in TILES\n//@ endfor\n"] {
        let said = refused(&format!("// one\n{text}"));
        assert!(said.starts_with("ptx/k.ptx:2: ") && said.contains("undefined"), "{said}");
    }
}

#[test]
fn other_statements_control_characters_and_missing_includes_are_refused() {
    assert!(refused("//@ raw\n//@ endraw\n").contains("`raw` is not a statement"));
    assert!(refused("//@- if TILE\n//@ endif\n").contains("is not a statement"));
    assert!(refused("mov a\u{1}b;\n").contains("control character"));
    let said = refused("// one\n//@ include \"lib/none.ptx\"\n");
    assert!(said.starts_with("ptx/k.ptx:2: ") && said.contains("lib/none.ptx"), "{said}");
    assert!(refused("//@ if TILE\n mov a, b;\n").starts_with("ptx/k.ptx:"));
    assert!(refused("// one\n${ fail(\"TILE must be 128\") }\n").starts_with("ptx/k.ptx:2: "));
}

#[test]
fn an_error_in_a_fragment_names_the_fragment() {
    let files =
        [("k.ptx", "// one\n//@ include \"lib/f.ptx\"\n"), ("lib/f.ptx", "// a\n// b\n  mov ${ GONE };\n")];
    let said = render(&sources(&files), "k.ptx", &[]).expect_err("GONE is undefined").to_string();
    assert!(said.starts_with("ptx/lib/f.ptx:3: "), "{said}");
}

const KERNEL: &str = "\
.version 8.0
.target sm_90a
.address_size 64

//@ from \"lib/wait.ptx\" import wait
.visible .entry k(.param .u64 x)
.reqntid 128
{
    .reg .pred p;
    .reg .b32 a<3>;
//@ for i in range(2)
    mov.b32 a${ i }, ${ i };
//@ endfor
    ${ wait(\"full\") }
//@ include \"lib/tail.ptx\"
    add.u32 a0,
        a0, a1; // two lines
done:
    ret;
}
";
const WAIT: &str = "\
// A wait.
//@ macro wait(name)
{
    .reg .b32 ${ name };
retry:
    mov.b32 ${ name }, 7;
}
//@ endmacro
";
const TAIL: &str = "\
//@ from \"lib/wait.ptx\" import wait
    mov.b32 a2, 9;
${ wait(\"tail\") }
";

fn sample() -> Rendered {
    rendered(&[("k.ptx", KERNEL), ("lib/tail.ptx", TAIL), ("lib/wait.ptx", WAIT)], &[])
}

#[test]
fn lines_know_their_fragment_and_their_callers() {
    let Rendered { ptx, map } = sample();
    let origin = |needle: &str| map.origin(line_of(&ptx, needle)).expect("has an origin").to_string();
    assert_eq!(origin("mov.b32 a0, 0;"), "ptx/k.ptx:12");
    assert_eq!(origin("mov.b32 a1, 1;"), "ptx/k.ptx:12");
    assert_eq!(origin("mov.b32 full, 7;"), "ptx/lib/wait.ptx:6 (from ptx/k.ptx:14)");
    assert_eq!(origin("mov.b32 a2, 9;"), "ptx/lib/tail.ptx:2 (from ptx/k.ptx:15)");
    assert_eq!(origin("mov.b32 tail, 7;"), "ptx/lib/wait.ptx:6 (from ptx/lib/tail.ptx:3, from ptx/k.ptx:15)");
    assert_eq!(origin("add.u32 a0,"), "ptx/k.ptx:16");
    assert_eq!(origin("a0, a1;"), "ptx/k.ptx:17");
    assert_eq!(origin("ret;"), "ptx/k.ptx:19");
    assert_eq!(map.origin(0), None);
    assert_eq!(map.origin(line_of(&ptx, ".loc")), None);
    assert_eq!(map.len(), ptx.lines().count());
}

#[test]
fn loc_stands_only_before_instructions_and_names_their_place() {
    let Rendered { ptx, map } = sample();
    let lines: Vec<&str> = ptx.lines().collect();
    let mut located = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some(rest) = line.trim().strip_prefix(".loc ") else { continue };
        located += 1;
        let numbers: Vec<usize> = rest.split(' ').map(|number| number.parse().expect("a number")).collect();
        let place = map.place(index + 2).expect("an instruction follows");
        assert_eq!((numbers[0], numbers[1]), (place.file as usize + 1, place.line as usize));
        let next = lines[index + 1].trim();
        assert!(!next.starts_with('.') && !next.starts_with('{') && !next.ends_with(':'), "{next}");
    }
    assert_eq!(located, 6);
    let files: Vec<&&str> = lines.iter().filter(|line| line.starts_with(".file")).collect();
    assert_eq!(
        files,
        [&".file 1 \"ptx/k.ptx\"", &".file 2 \"ptx/lib/tail.ptx\"", &".file 3 \"ptx/lib/wait.ptx\""]
    );
    assert!(ptx.find(".file") > ptx.rfind('}'));
}

#[test]
fn marks_leave_no_trace_and_blank_lines_of_calls_vanish() {
    let ptx = sample().ptx;
    assert!(ptx.chars().all(|c| c == '\n' || !c.is_control()), "{ptx:?}");
    let body = &ptx[ptx.find('{').expect("a body")..];
    assert!(!body.contains("\n\n"), "{ptx}");
}

#[test]
fn the_map_survives_its_text() {
    let map = sample().map;
    assert_eq!(LineMap::decode(&map.encode()), map);
    assert_eq!(LineMap::decode("nonsense\nplace x\nlines ax1 1"), LineMap::decode("place 0 0 0\nlines 0x1"));
}
