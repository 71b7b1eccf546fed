//! What all blocks share: global memory, counters, the clock, the random numbers, the grids in flight; and the making of
//! reports, which need to know where an instruction stands.

use std::collections::{HashMap, HashSet};

use super::block::{Block, Origin};
use super::config::{MachineConfig, SharedPlacement};
use super::counters::Counters;
use super::launch::Grid;
use super::program::Program;
use super::rng::Rng;
use crate::exec::product::Scratch;
use crate::memory::global::GlobalMemory;
use crate::report::{Class, Place, Report};

/// What all blocks share.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) config: MachineConfig,
    pub(crate) global: GlobalMemory,
    pub(crate) counters: Vec<Counters>,
    pub(crate) rng: Rng,
    /// Counts every change that somebody could wait for.
    pub(crate) progress: u64,
    /// Warp instructions of the machine's life.
    pub(crate) clock: u64,
    /// By device: the count of its instructions at which it is halted.
    pub(crate) halts: Vec<u64>,
    /// Instructions tried, those that were begun before included: tells whether anything runs at all.
    pub(crate) steps: u64,
    /// Where the clock must stop, and how many instructions that allows.
    pub(crate) limit: u64,
    pub(crate) limit_size: u64,
    /// Nothing can move: waits that may time out do.
    pub(crate) time_out: bool,
    /// Everybody only polls: what changes from look to look is watched for, by the number of this watch. 0: it is not.
    pub(crate) watch: u64,
    /// A look that was watched found other registers than the one before it: somebody counts.
    pub(crate) counting: bool,
    /// Grids enqueued and not complete.
    pub(crate) grids: HashMap<usize, Grid>,
    /// Streams that are lanes of graphs.
    pub(crate) lanes: HashSet<usize>,
    pub(crate) scratch: Scratch,
    pub(crate) check: crate::check::SystemCheck,
    /// Findings that do not stop the machine.
    pub(crate) advice: Vec<Report>,
    /// By device: the devices whose memory its kernels reach, by bit.
    pub(crate) reach: Vec<u64>,
}

impl System {
    /// Are all grids before this one in its stream complete?
    pub(crate) fn prerequisites_done(&self, grid: usize) -> bool {
        let Some(own) = self.grids.get(&grid) else { return true };
        !self.grids.values().any(|g| g.stream == own.stream && g.id < grid)
    }

    /// Instructions that a device may still issue.
    pub(crate) fn may_run(&self, device: usize) -> u64 {
        self.halts[device].saturating_sub(self.counters[device].instructions)
    }

    /// "warp instruction at FILE:LINE" for the other party of a report.
    pub(crate) fn describe(&self, program: &Program, pc: usize) -> String {
        let place = place(program, pc);
        match &place.source {
            Some((file, line)) => {
                format!("{file}:{line} ({}:{}: {})", place.module, place.ptx_line, place.ptx_text)
            }
            None => format!("{}:{}: {}", place.module, place.ptx_line, place.ptx_text),
        }
    }

    /// A finding that does not stop the machine: works on the chip, yet against the letter of the manual. Once for each instruction.
    #[cold]
    pub(crate) fn advise(&mut self, report: Box<Report>) {
        let known = |r: &Report| {
            r.class == report.class && r.place.ptx_line == report.place.ptx_line && r.kernel == report.kernel
        };
        if self.advice.len() < 100 && !self.advice.iter().any(known) {
            self.advice.push(*report);
        }
    }

    /// How to see the same run again.
    pub(crate) fn replay(&self) -> String {
        let c = &self.config;
        let mut text =
            format!("schedule {:?}, completion {:?}, seed {:#x}", c.schedule, c.completion, c.seed);
        if c.shared_placement != SharedPlacement::Driver {
            text += &format!(", shared placement {:?}", c.shared_placement);
        }
        if let Some(blocks) = c.resident_blocks {
            text += &format!(", resident blocks {blocks}");
        }
        text
    }

    /// A finding.
    #[cold]
    pub(crate) fn report(&self, block: &Block, class: Class, origin: Origin, message: String) -> Box<Report> {
        Box::new(Report {
            class,
            message,
            kernel: block.program.kernel().name.clone(),
            place: place(&block.program, origin.pc),
            device: block.device,
            block: block.ctaid,
            warp: origin.warp,
            lanes: origin.lanes,
            address: None,
            other: None,
            hint: None,
            notes: Vec::new(),
            replay: self.replay(),
        })
    }
}

/// Where an instruction stands.
fn place(program: &Program, pc: usize) -> Place {
    let module = &program.module;
    let Some(instr) = program.kernel().code.get(pc) else {
        return Place {
            module: module.name.clone(),
            ptx_line: 0,
            ptx_text: String::new(),
            source: None,
            source_text: None,
        };
    };
    let text = |lines: &[String], line: u32| {
        lines.get((line as usize).wrapping_sub(1)).map(|t| t.trim().to_string())
    };
    let source = instr.loc.and_then(|(file, line)| Some((module.files.get(file as usize)?.clone(), line)));
    let source_text = source.as_ref().and_then(|(file, line)| {
        let lines: Vec<String> = std::fs::read_to_string(file).ok()?.lines().map(str::to_string).collect();
        text(&lines, *line)
    });
    Place {
        module: module.name.clone(),
        ptx_line: instr.ptx_line,
        ptx_text: text(&module.text, instr.ptx_line).unwrap_or_default(),
        source: source.filter(|(file, _)| !file.is_empty()),
        source_text,
    }
}
