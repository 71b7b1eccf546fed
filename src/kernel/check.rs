//! Checks a rendered kernel against its table row: what `ptxas` never looks at and a launch would only fail on.
//!
//! The parameters of the `.entry` are the row's, in order, kind and alignment; `.reqntid` is the row's threads, a multiple
//! of 128; tensor maps are aligned to 64 and the dynamic window to 1024; shared memory fits a block and an SM; the
//! registers that warpgroups hold after `setmaxnreg` fit what the launch was given. The sum that matters is
//! `Σ registers × 128 ≤ launch registers × threads`: if it does not hold, `setmaxnreg.inc` waits for ever.
//!
//! Standard library only: `build.rs` includes this file by path.

use super::line_map::LineMap;
use super::scan::{Kind, Statement, scan};
use super::table::{KernelRow, ParamKind};

/// Shared memory a block may have on an H100, in bytes.
pub const SHARED_PER_BLOCK: u64 = 232_448;
/// Shared memory of an SM of an H100, in bytes.
pub const SHARED_PER_SM: u64 = 228 * 1024;
/// What the driver takes of it for each resident block, in bytes.
pub const SHARED_RESERVED: u64 = 1024;

/// Something wrong with a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line of the PTX, from 1, when one line is to blame.
    pub line: Option<usize>,
    /// What was expected and what is there.
    pub message: String,
}

impl Problem {
    /// A problem of the whole kernel.
    pub fn whole(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into() }
    }

    /// A problem of one line of the PTX.
    pub fn at(line: usize, message: impl Into<String>) -> Self {
        Self { line: Some(line), message: message.into() }
    }

    /// The problem with the kernel's name and the template line: what a build prints.
    pub fn shown(&self, kernel: &str, map: &LineMap) -> String {
        match self.line.map(|line| (line, map.origin(line))) {
            Some((_, Some(origin))) => format!("{kernel}: {origin}: {}", self.message),
            Some((line, None)) => format!("{kernel}: line {line} of the PTX: {}", self.message),
            None => format!("{kernel}: {}", self.message),
        }
    }
}

/// Everything wrong with `ptx` as the kernel of `row`.
pub fn check(row: &KernelRow, ptx: &str) -> Vec<Problem> {
    let statements = scan(ptx);
    let mut problems = Vec::new();
    let header = statements.iter().find(|statement| {
        statement.kind == Kind::Header && entry_name(&statement.text).is_some_and(|name| name == row.name)
    });
    match header {
        Some(header) => {
            check_params(row, header, &mut problems);
            check_threads(row, header, &mut problems);
        }
        None => problems.push(Problem::whole(format!("the PTX has no `.entry {}`", row.name))),
    }
    check_shared(row, &statements, &mut problems);
    check_setmaxnreg(row, &statements, &mut problems);
    problems
}

/// How many times the PTX names `setmaxnreg` and `wgmma.mma_async`: the SASS must have as many.
pub fn counts(ptx: &str) -> (usize, usize) {
    let statements = scan(ptx);
    let count = |prefix: &str| {
        statements.iter().filter(|s| s.kind == Kind::Instruction && s.opcode().starts_with(prefix)).count()
    };
    (count("setmaxnreg."), count("wgmma.mma_async."))
}

fn entry_name(header: &str) -> Option<&str> {
    let rest = header.split_once(".entry ")?.1;
    Some(rest.split(['(', ' ']).next().unwrap_or(rest))
}

/// A parameter as the `.entry` declares it.
#[derive(Debug, PartialEq, Eq)]
struct Declared<'a> {
    name: &'a str,
    kind: &'a str,
    align: Option<u64>,
    bytes: Option<u64>,
}

fn declared_params(header: &str) -> Vec<Declared<'_>> {
    let inside =
        header.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(inside, _)| inside);
    inside.split(',').map(str::trim).filter(|text| !text.is_empty()).map(declared).collect()
}

/// Reads `.param .align 64 .b8 map_a[128]` or `.shared .align 1024 .b8 smem[]`.
fn declared(text: &str) -> Declared<'_> {
    let mut found = Declared { name: "", kind: "", align: None, bytes: None };
    let mut words = text.split([' ', '[', ']']).filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        match word {
            ".align" => found.align = words.next().and_then(|word| word.parse().ok()),
            ".param" | ".shared" | ".extern" | ".visible" | ".weak" => {}
            _ if word.starts_with('.') => found.kind = word,
            _ if found.name.is_empty() => found.name = word,
            _ => found.bytes = word.parse().ok().map(|count: u64| count * width(found.kind)),
        }
    }
    found
}

/// Bytes of a PTX type, from the digits of its name.
fn width(kind: &str) -> u64 {
    let digits = kind.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse::<u64>().map_or(1, |bits| bits.div_ceil(8))
}

fn check_params(row: &KernelRow, header: &Statement, problems: &mut Vec<Problem>) {
    let declared = declared_params(&header.text);
    if declared.len() != row.params.len() {
        let names: Vec<&str> = declared.iter().map(|param| param.name).collect();
        let message = format!(
            "the table has {} parameters, the `.entry` {}: {}",
            row.params.len(),
            declared.len(),
            names.join(", ")
        );
        problems.push(Problem::at(header.line, message));
    }
    for (index, (found, &(name, kind))) in declared.iter().zip(row.params).enumerate() {
        let expected = match kind {
            ParamKind::TensorMap => format!(".param .align 64 .b8 {name}[128]"),
            ParamKind::U64 => format!(".param .u64 {name}"),
            ParamKind::U32 => format!(".param .u32 {name}"),
            ParamKind::F32 => format!(".param .f32 {name}"),
        };
        let right = found.name == name
            && match kind {
                ParamKind::TensorMap => {
                    found.kind == ".b8" && found.bytes == Some(128) && found.align == Some(64)
                }
                ParamKind::U64 => matches!(found.kind, ".u64" | ".b64") && found.bytes.is_none(),
                ParamKind::U32 => matches!(found.kind, ".u32" | ".b32") && found.bytes.is_none(),
                ParamKind::F32 => found.kind == ".f32" && found.bytes.is_none(),
            };
        if !right {
            let align = found.align.map_or(String::new(), |align| format!(".align {align} "));
            let bytes = found.bytes.map_or(String::new(), |bytes| format!(" of {bytes} bytes"));
            let got = format!("{align}{} {}{bytes}", found.kind, found.name);
            let message = format!("parameter {index}: expected `{expected}` as in the table, got `{got}`");
            problems.push(Problem::at(header.line, message));
        }
    }
}

fn check_threads(row: &KernelRow, header: &Statement, problems: &mut Vec<Problem>) {
    let threads: Option<u32> = directive(&header.text, ".reqntid").map(|sizes| sizes.iter().product());
    if threads != Some(row.threads) {
        let got = threads.map_or("none".to_owned(), |threads| format!("{threads} threads"));
        problems.push(Problem::at(
            header.line,
            format!("`.reqntid` must be the table's {} threads, got {got}", row.threads),
        ));
    }
    if !row.threads.is_multiple_of(128) || row.threads == 0 {
        problems.push(Problem::whole(format!("{} threads are not whole warpgroups of 128", row.threads)));
    }
    let maximum = directive(&header.text, ".maxnreg").and_then(|numbers| numbers.first().copied());
    if maximum.is_some_and(|maximum| maximum != row.registers) {
        let message = format!("`.maxnreg` must be the table's {} registers, got {maximum:?}", row.registers);
        problems.push(Problem::at(header.line, message));
    }
    if row.registers * row.threads > 65_536 {
        let message = format!("{} registers × {} threads exceed the SM's 65,536", row.registers, row.threads);
        problems.push(Problem::whole(message));
    }
    let cluster: Option<u32> =
        directive(&header.text, ".reqnctapercluster").map(|sizes| sizes.iter().product());
    if cluster.unwrap_or(1) != row.cluster {
        let message =
            format!("`.reqnctapercluster` must be the table's cluster of {}, got {cluster:?}", row.cluster);
        problems.push(Problem::at(header.line, message));
    }
}

/// The numbers behind a performance directive: `.reqntid 384, 1, 1`.
fn directive(header: &str, name: &str) -> Option<Vec<u32>> {
    let after = header.rsplit_once(')')?.1.split_once(name)?.1;
    let numbers = after.split('.').next().unwrap_or("");
    Some(numbers.split(',').filter_map(|number| number.trim().parse().ok()).collect())
}

fn check_shared(row: &KernelRow, statements: &[Statement], problems: &mut Vec<Problem>) {
    let mut fixed = 0u64;
    let mut window = false;
    for statement in statements {
        let text = statement.text.as_str();
        if statement.kind == Kind::Instruction || !text.split(' ').any(|word| word == ".shared") {
            continue;
        }
        let declared = declared(text);
        if text.split(' ').any(|word| word == ".extern") {
            window = true;
            if declared.align.is_none_or(|align| align % 1024 != 0) {
                let message = format!("the dynamic window `{}` must be `.align 1024`", declared.name);
                problems.push(Problem::at(statement.line, message));
            }
        } else {
            fixed = fixed.next_multiple_of(declared.align.unwrap_or(1).max(1));
            fixed += declared.bytes.unwrap_or_else(|| width(declared.kind));
        }
    }
    if window != (row.dynamic_shared > 0) {
        let has = if window { "declares" } else { "does not declare" };
        let bytes = row.dynamic_shared;
        problems.push(Problem::whole(format!(
            "the table asks for {bytes} B of dynamic shared memory, the PTX {has} a window"
        )));
    }
    let total = fixed + u64::from(row.dynamic_shared);
    if total > SHARED_PER_BLOCK {
        let message = format!("{total} B of shared memory; a block may have {SHARED_PER_BLOCK}");
        problems.push(Problem::whole(message));
    }
    if total + SHARED_RESERVED > SHARED_PER_SM {
        let message =
            format!("{total} B of shared memory and 1 KiB for the driver; an SM has {SHARED_PER_SM}");
        problems.push(Problem::whole(message));
    }
}

fn check_setmaxnreg(row: &KernelRow, statements: &[Statement], problems: &mut Vec<Problem>) {
    let groups = row.warpgroup_registers;
    let mut asked = Vec::new();
    for statement in statements.iter().filter(|s| s.kind == Kind::Instruction) {
        if !statement.opcode().starts_with("setmaxnreg.") {
            continue;
        }
        if statement.text.starts_with('@') {
            let message = "`setmaxnreg` under a guard: all four warps of a warpgroup must run it";
            problems.push(Problem::at(statement.line, message));
        }
        let count: u32 = statement.text.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let gives = statement.opcode().contains(".dec.");
        if gives != (count <= row.registers) {
            let way = if gives { "dec" } else { "inc" };
            let message =
                format!("`setmaxnreg.{way}` to {count} from a launch with {} registers", row.registers);
            problems.push(Problem::at(statement.line, message));
        }
        if !groups.contains(&count) {
            let message = format!("`setmaxnreg` to {count}; the table's warpgroups hold {groups:?}");
            problems.push(Problem::at(statement.line, message));
        }
        asked.push(count);
    }
    for &count in groups {
        if !asked.contains(&count) {
            problems.push(Problem::whole(format!(
                "the table gives a warpgroup {count} registers, no `setmaxnreg` does"
            )));
        }
        if !(24..=256).contains(&count) || count % 8 != 0 {
            problems.push(Problem::whole(format!(
                "`setmaxnreg` takes multiples of 8 from 24 to 256, not {count}"
            )));
        }
    }
    if groups.is_empty() {
        return;
    }
    if groups.len() as u32 * 128 != row.threads {
        let message = format!("the table lists {} warpgroups for {} threads", groups.len(), row.threads);
        problems.push(Problem::whole(message));
    }
    problems.extend(check_pool(row, row.registers));
}

/// Whether what the warpgroups hold after `setmaxnreg` fits `launch` registers for each thread.
pub fn check_pool(row: &KernelRow, launch: u32) -> Option<Problem> {
    let held: u32 = row.warpgroup_registers.iter().map(|count| count * 128).sum();
    let given = launch * row.threads;
    (held > given).then(|| {
        let text = format!(
            "warpgroups hold {held} registers after `setmaxnreg`, the launch gives {given}: a deadlock"
        );
        Problem::whole(text)
    })
}
