//! Many schedules, every finding once.

use std::sync::Arc;

use hadal_emulator::ir::Module;
use hadal_emulator::{Class, Report};

use super::options::Options;
use super::values::Type;
use super::{Left, Way, execute};

/// A report, and how often it came.
pub struct Finding {
    pub report: Report,
    /// The first execution that showed it.
    pub way: Way,
    pub seen: u64,
}

/// A buffer that two schedules left in two states.
pub struct Order {
    /// Of the argument that brought the buffer.
    pub index: usize,
    pub ty: Type,
    /// The first element that differs, and how many do.
    pub element: usize,
    pub elements: usize,
    /// What it was, and where.
    pub values: [(String, Way); 2],
}

/// What all executions showed.
#[derive(Default)]
pub struct Verdict {
    pub schedules: u64,
    pub findings: Vec<Finding>,
    pub orders: Vec<Order>,
    /// Each with the first execution that gave it.
    pub advice: Vec<(Report, Way)>,
    /// Buffers whose comparison says "depends on order": outputs, or every buffer where there is no output.
    pub compared: usize,
}

impl Verdict {
    pub fn count(&self) -> usize {
        self.findings.len() + self.orders.len()
    }

    /// The kernel has an instruction that the machine does not know, and nothing else was found.
    pub fn unsupported(&self) -> bool {
        !self.findings.is_empty()
            && self.orders.is_empty()
            && self.findings.iter().all(|finding| finding.report.class == Class::Unsupported)
    }
}

/// The same instruction, wrong in the same way.
fn same(a: &Report, b: &Report) -> bool {
    a.class == b.class && a.place.ptx_line == b.place.ptx_line
}

/// The first difference of a buffer.
fn difference(first: &(Left, Way), left: &Left, way: Way) -> Option<Order> {
    let (before, there) = first;
    let ty = left.buffer.ty;
    let pairs = || before.bytes.chunks(ty.bytes()).zip(left.bytes.chunks(ty.bytes())).enumerate();
    let elements = pairs().filter(|(_, (a, b))| a != b).count();
    let (element, (a, b)) = pairs().find(|(_, (a, b))| a != b)?;
    // Two NaNs, or numbers that print alike, still differ in their bits.
    let show = |bytes: &[u8]| {
        let bits = Type::Bits(ty.bytes() as u8).show(bytes);
        let value = ty.show(bytes);
        if bits == value { value } else { format!("{value} ({bits})") }
    };
    let values = [(show(a), *there), (show(b), way)];
    Some(Order { index: left.index, ty, element, elements, values })
}

/// Executes the kernel `--seeds` times.
pub fn check(options: &Options, module: &Arc<Module>, index: usize) -> Result<Verdict, String> {
    let mut verdict = Verdict::default();
    let mut first: Vec<(Left, Way)> = Vec::new();
    for nth in 0..options.seeds {
        let way = options.way(nth, true);
        let outcome = execute(options, module, index, way)?;
        verdict.schedules += 1;
        for advice in outcome.advice {
            if !verdict.advice.iter().any(|(known, _)| same(known, &advice)) {
                verdict.advice.push((advice, way));
            }
        }
        if let Some(report) = outcome.fault {
            // What an instruction limit, or an unknown instruction, stops once, it stops always.
            let last = matches!(report.class, Class::InstructionLimit | Class::Unsupported);
            match verdict.findings.iter_mut().find(|known| same(&known.report, &report)) {
                Some(known) => known.seen += 1,
                None => verdict.findings.push(Finding { report, way, seen: 1 }),
            }
            if last {
                break;
            }
            continue;
        }
        let outputs = outcome.left.iter().any(|left| left.buffer.output);
        let left = outcome.left.into_iter().filter(|left| left.buffer.output || !outputs);
        if first.is_empty() {
            first = left.map(|left| (left, way)).collect();
            verdict.compared = first.len();
            continue;
        }
        for (before, left) in first.iter().zip(left) {
            if !verdict.orders.iter().any(|known| known.index == left.index) {
                verdict.orders.extend(difference(before, &left, way));
            }
        }
    }
    Ok(verdict)
}
