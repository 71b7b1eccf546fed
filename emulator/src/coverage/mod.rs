//! The instruction tests: what every form of every opcode must compute, as data, and which forms that covers.
//!
//! `emulator/isa/` has one file per opcode. A table names a form and lists cases, a kernel stands in full where an
//! instruction needs memory shared between threads, barriers or copies; `emulator/isa/README.md` has the format. Expected bits
//! come from the ISA's text, from hand calculation or from independent software, never from this emulator.
//!
//! [`Suite::run`] executes every case with all checks on and compares all bits of all results, of the memory next to them and
//! of the inputs. A *form* is an opcode with its modifiers as spelled (`ld.global.nc.v4.s32`), operands stripped; it counts
//! as covered when every case that executes it passes. For kernels, which name the forms they cover, execution is proved: with a
//! `trap` in its place the kernel must trap.

mod expr;
mod kernel;
mod parse;
mod table;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use crate::machine::{DeviceConfig, MachineConfig};

use kernel::Kernel;
use table::Table;

/// One table or kernel.
#[derive(Clone, Debug)]
enum Unit {
    Table(Table),
    Kernel(Kernel),
}

/// A place in the instruction tests, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// File name.
    pub file: String,
    /// 1-based line.
    pub line: usize,
    /// What was expected and what came.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

impl std::error::Error for Failure {}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Cases executed: lines of tables, kernels.
    pub cases: usize,
    /// What did not come out as the tests say.
    pub failures: Vec<Failure>,
    /// Forms all of whose cases passed.
    pub covered: BTreeSet<String>,
}

/// A table or a kernel as PTX, to show it to another assembler.
#[derive(Clone, Debug)]
pub struct Text {
    /// File name.
    pub file: String,
    /// 1-based line.
    pub line: usize,
    /// A whole module.
    pub ptx: String,
}

/// All instruction tests of a folder.
#[derive(Clone, Debug, Default)]
pub struct Suite {
    files: Vec<(String, Vec<Unit>)>,
}

/// A small machine with all checks on.
fn config(devices: usize) -> MachineConfig {
    let mut device = DeviceConfig::h100();
    device.sms = 8;
    MachineConfig {
        devices: vec![device; devices],
        instruction_limit: Some(1_000_000),
        ..MachineConfig::default()
    }
}

/// The forms of a list: the first word of each line; `#` begins a comment.
pub fn forms(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split('#').next()?.split_whitespace().next())
        .map(str::to_string)
        .collect()
}

impl Suite {
    /// Reads every `.ptx` file of a folder.
    pub fn load(folder: &Path) -> Result<Suite, Failure> {
        let trouble = |file: &Path, line, message: String| Failure {
            file: file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned(),
            line,
            message,
        };
        let entries = std::fs::read_dir(folder).map_err(|e| trouble(folder, 0, e.to_string()))?;
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "ptx"));
        paths.sort();
        let mut suite = Suite::default();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(|e| trouble(&path, 0, e.to_string()))?;
            let units = parse::file(&text).map_err(|(line, message)| trouble(&path, line, message))?;
            suite.files.push((trouble(&path, 0, String::new()).file, units));
        }
        Ok(suite)
    }

    /// The tests of one file alone.
    pub fn only(mut self, file: &str) -> Suite {
        self.files.retain(|(name, _)| name == file);
        self
    }

    /// Names of the files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }

    /// Executes everything.
    pub fn run(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut failed: BTreeSet<&str> = BTreeSet::new();
        for (file, units) in &self.files {
            for unit in units {
                let (cases, forms, failures) = match unit {
                    Unit::Table(table) => (table.cases.len(), &table.forms, table.run()),
                    Unit::Kernel(kernel) => (1, &kernel.covers, kernel.run()),
                };
                outcome.cases += cases;
                if failures.is_empty() {
                    outcome.covered.extend(forms.iter().cloned());
                } else {
                    failed.extend(forms.iter().map(String::as_str));
                }
                outcome.failures.extend(failures.into_iter().map(|(line, message)| Failure {
                    file: file.clone(),
                    line,
                    message,
                }));
            }
        }
        outcome.covered.retain(|form| !failed.contains(form.as_str()));
        outcome
    }

    /// Every table and kernel as PTX.
    pub fn texts(&self) -> Vec<Text> {
        let mut texts = Vec::new();
        for (file, units) in &self.files {
            for unit in units {
                let (line, ptx) = match unit {
                    Unit::Table(table) => (table.line, table.texts()),
                    Unit::Kernel(kernel) => (kernel.line, vec![kernel.text(None)]),
                };
                texts.extend(ptx.into_iter().map(|ptx| Text { file: file.clone(), line, ptx }));
            }
        }
        texts
    }
}
