//! The instruction tests of `isa/`: every case passes, and every form of the field is covered.

use std::path::Path;

use hadal_emulator::coverage::{self, Suite};

fn suite() -> Suite {
    Suite::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("isa")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_case_passes() {
    let outcome = suite().run();
    let text: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(text.is_empty(), "{}", text.join("\n"));
}
