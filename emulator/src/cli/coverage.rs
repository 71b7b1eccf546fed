//! `hadal-emulator coverage FILE`: which instruction forms the instruction tests cover.

use std::path::Path;
use std::process::ExitCode;

use hadal_emulator::coverage::{self, Suite};

use super::json::{array, quoted};

/// Runs every case, lists what is missing.
pub fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let (mut file, mut isa, mut json) =
        (None, concat!(env!("CARGO_MANIFEST_DIR"), "/isa").to_string(), false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--isa" => isa = rest.next().ok_or("--isa: which folder?")?.clone(),
            other if other.starts_with('-') => return Err(format!("coverage: no option `{other}`")),
            other if file.is_none() => file = Some(other.to_string()),
            other => return Err(format!("coverage: one FILE, got also `{other}`")),
        }
    }
    let file = file.ok_or("coverage: which FILE?")?;
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    let forms = coverage::forms(&text);
    let suite = Suite::load(Path::new(&isa)).map_err(|e| e.to_string())?;
    let outcome = suite.run();
    let missing: Vec<&String> = forms.iter().filter(|form| !outcome.covered.contains(*form)).collect();
    let covered = forms.len() - missing.len();
    if json {
        println!(
            "{{\"cases\": {}, \"covered\": {covered}, \"of\": {}, \"missing\": {}, \"failures\": {}, \"also\": {}}}",
            outcome.cases,
            forms.len(),
            array(missing.iter().map(|form| quoted(form))),
            array(outcome.failures.iter().map(|f| quoted(&f.to_string()))),
            array(outcome.covered.iter().filter(|form| !forms.contains(form)).map(|form| quoted(form))),
        );
    } else {
        for failure in &outcome.failures {
            println!("failed: {failure}");
        }
        for form in &missing {
            println!("missing: {form}");
        }
        println!(
            "{} cases of {} forms, {} failed",
            outcome.cases,
            outcome.covered.len(),
            outcome.failures.len()
        );
        println!("covered {covered} of {}", forms.len());
    }
    let fine = missing.is_empty() && outcome.failures.is_empty();
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
