//! Reads what `ptxas` says, and decides what a strict build refuses.
//!
//! `ptxas` exits with success after it ignored `setmaxnreg` (C7508), serialised the wgmmas (C7510) or put a wait where the
//! kernel forgot one (C7517): it mentions them, at a severity that changes between versions. A strict build
//! (`HADAL_STRICT=1`) refuses any such line of any severity, any spill, more registers than the row's budget, more shared
//! memory than a block may have, and SASS whose `USETMAXREG` and GMMA counts are not the PTX's.
//!
//! Standard library only: `build.rs` includes this file by path.

use std::path::Path;

use super::check::{self, Problem};
use super::line_map::LineMap;
use super::ptxas::{Assembled, Tool};
use super::sass;
use super::table::KernelRow;

/// What `ptxas -v` reports of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers per thread at launch.
    pub registers: u32,
    /// Bytes of stack frame per thread.
    pub stack: u32,
    /// Bytes of spill stores and spill loads.
    pub spills: (u32, u32),
    /// Bytes of static shared memory.
    pub shared: u32,
    /// The lines with a `(C75nn)` code, whatever their severity.
    pub remarks: Vec<String>,
}

impl Usage {
    /// Reads the log of `ptxas -v`.
    pub fn parse(log: &str) -> Self {
        let mut usage = Self::default();
        for line in log.lines() {
            if has_code(line) {
                usage.remarks.push(line.trim().to_owned());
            }
            // Warnings repeat the numbers of the properties.
            let numbers = if line.starts_with("ptxas info") || line.starts_with(' ') { line } else { "" };
            for part in numbers.split([',', ':']) {
                let part = part.trim();
                let part = part.strip_prefix("Used ").unwrap_or(part);
                let Some((number, what)) = part.split_once(' ') else { continue };
                let Ok(number) = number.parse::<u32>() else { continue };
                match what {
                    "registers" => usage.registers = usage.registers.max(number),
                    "bytes stack frame" => usage.stack += number,
                    "bytes spill stores" => usage.spills.0 += number,
                    "bytes spill loads" => usage.spills.1 += number,
                    "bytes smem" => usage.shared += number,
                    _ => {}
                }
            }
        }
        usage
    }
}

/// Whether the line carries a `(C75nn)` code.
fn has_code(line: &str) -> bool {
    line.match_indices("(C75").any(|(at, _)| {
        let digits = line[at + 4..].bytes().take_while(u8::is_ascii_digit).count();
        digits == 2 && line[at + 6..].starts_with(')')
    })
}

/// What `ptxas` said, each line that names a line of the PTX led back to its template.
pub fn errors(kernel: &str, log: &str, map: &LineMap) -> String {
    let mut shown = Vec::new();
    for line in log.lines().filter(|line| !line.trim().is_empty() && !line.ends_with("aborted due to errors"))
    {
        let origin = ptx_line(line).and_then(|number| map.origin(number));
        let message = line.split_once("; ").map_or(line, |(_, message)| message);
        match origin {
            Some(origin) => shown.push(format!("{kernel}: {origin}: {message}")),
            None => shown.push(format!("{kernel}: {message}")),
        }
    }
    shown.join("\n")
}

/// The line of the PTX that a line of the log speaks of: `ptxas x.ptx, line 12; error : …`, `… injected in around line 52 …`.
fn ptx_line(line: &str) -> Option<usize> {
    let rest = line.split_once(", line ").or_else(|| line.split_once(" around line "))?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Everything a strict build refuses in an assembled kernel.
pub fn strict(
    row: &KernelRow,
    ptx: &str,
    assembled: &Assembled,
    nvdisasm: &Tool,
    scratch: &Path,
) -> Vec<Problem> {
    let mut problems = limits(row, &Usage::parse(&assembled.log));
    match sass::disassemble(nvdisasm, &assembled.cubin, row.name, scratch) {
        Ok(text) => problems.extend(same_counts(ptx, &text)),
        Err(error) => problems.push(Problem::whole(error)),
    }
    problems
}

/// What the log alone convicts.
pub fn limits(row: &KernelRow, usage: &Usage) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut say = |message: String| problems.push(Problem::whole(message));
    if usage.registers == 0 {
        say("ptxas -v reported no registers: its log has changed, the checks are blind".into());
    }
    let (stores, loads) = usage.spills;
    if stores + loads + usage.stack > 0 {
        say(format!("spills: {stores} B stored, {loads} B loaded, {} B of stack", usage.stack));
    }
    if usage.registers > row.registers {
        say(format!("{} registers; the table's budget is {}", usage.registers, row.registers));
    }
    let shared = u64::from(usage.shared) + u64::from(row.dynamic_shared);
    if shared > check::SHARED_PER_BLOCK {
        say(format!("{shared} B of shared memory; a block may have {}", check::SHARED_PER_BLOCK));
    }
    for remark in &usage.remarks {
        problems.push(Problem { line: ptx_line(remark), message: remark.clone() });
    }
    if !row.warpgroup_registers.is_empty() {
        problems.extend(check::check_pool(row, usage.registers));
    }
    problems
}

/// `USETMAXREG` and GMMA instructions in the SASS against `setmaxnreg` and `wgmma` in the PTX.
pub fn same_counts(ptx: &str, sass_text: &str) -> Vec<Problem> {
    let (moves, multiplies) = check::counts(ptx);
    let (moves_sass, multiplies_sass) = sass::Function::parse(sass_text).counts();
    let mut problems = Vec::new();
    if moves != moves_sass {
        problems.push(Problem::whole(format!(
            "{moves} setmaxnreg in the PTX, {moves_sass} USETMAXREG in the SASS"
        )));
    }
    if multiplies != multiplies_sass {
        problems.push(Problem::whole(format!(
            "{multiplies} wgmma in the PTX, {multiplies_sass} GMMA in the SASS"
        )));
    }
    problems
}
