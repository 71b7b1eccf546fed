//! The instruction tests of `isa/`: every case passes, and every form of the field is covered.

use std::path::Path;

use hadal_emulator::coverage::{self, Suite};

fn suite() -> Suite {
    Suite::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("isa")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_case_passes_and_every_form_of_the_field_is_covered() {
    let outcome = suite().run();
    let failures: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    let forms = coverage::forms(include_str!("data/ptx_forms_sm90.txt"));
    assert_eq!(forms.len(), 570);
    let missing: Vec<&String> = forms.iter().filter(|form| !outcome.covered.contains(*form)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A folder of its own, for tests that need wrong files.
fn folder(name: &str, file: &str) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("wrong.ptx"), file).unwrap();
    folder
}

#[test]
fn a_wrong_expectation_is_reported_and_covers_nothing() {
    let cases = [
        // A wrong result, an unexpected byte of memory, a lane that differs.
        "add.s32 d, a, b;\n    a=1 b=2 -> d=3\n    a=1 b=2 -> d=4\n",
        "st.global.u32 [addr], a;\n    a=1 -> mem=u16[1]\n    a=1 -> mem=u8[1, 0, 0]\n",
        "mov.u32 d, a;\n    a=lane -> d=0\n",
        // A kernel that does not reach what it says it covers, and one that ends well but must not.
        "kernel k\n    covers trap\n    out y: u32[1] = 5\n{\n    .reg .pred p;\n    setp.eq.u32 p, launch, 7;\n    \
         @p trap;\n    st.global.u32 [y], 5;\n}\n",
        "kernel k\n    covers ret\n    faults trap\n{\n    ret;\n}\n",
    ];
    for (k, text) in cases.iter().enumerate() {
        let suite = Suite::load(&folder(&format!("isa_wrong_{k}"), text)).unwrap();
        let outcome = suite.run();
        assert!(!outcome.failures.is_empty(), "{text}");
        assert!(outcome.covered.is_empty(), "{text}");
    }
}

#[test]
fn a_damaged_file_names_its_line() {
    for (k, (text, line)) in [
        ("// fine\nadd.s32 d, a, b\n", 2),
        ("add.s32 d, a, b;\n    a=1 b=2\n", 2),
        ("add.s32 d, a, b;\n    a=1 b=2 -> d=3\n    a=1 -> d=3\n", 1),
        ("    a=1 -> d=2\n", 1),
        ("kernel k\n    covers trap\n{\n    ret;\n}\n", 1),
        ("kernel k\n    colour red\n{\n}\n", 2),
        ("kernel k\n{\n    ret;\n", 2),
    ]
    .iter()
    .enumerate()
    {
        let failure = Suite::load(&folder(&format!("isa_damaged_{k}"), text)).unwrap_err();
        assert_eq!((failure.file.as_str(), failure.line), ("wrong.ptx", *line), "{failure}");
    }
}
