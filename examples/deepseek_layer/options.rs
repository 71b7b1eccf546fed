//! The command line of the example, how much of everything there is, and how much memory that takes.

use std::fmt;

use hadal::mla::{HEAD, LATENT};

pub const USAGE: &str = "\
One decoding step of a DeepSeek-V3-shaped layer over emulated GPUs, checked against F64.

usage: cargo run --release --example deepseek_layer -- [options]

  --ranks N     GPUs, 1 to 8 (default 8)
  --full        as many heads, experts and cached tokens as DeepSeek-V3 has; minutes to hours, and memory as it says before it begins
  --unchecked   without the checks that cost memory and time (races, unwritten memory and registers, fences, transactions): a third
                of the memory. Bounds, alignment, barriers and deadlock are always checked, and so is every result
  --json        one JSON object on stdout; everything else goes to stderr
  --help
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub ranks: usize,
    pub full: bool,
    pub unchecked: bool,
    pub json: bool,
}

impl Options {
    /// `None` when help was asked for; else what is wrong.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
        let mut options = Options { ranks: 8, full: false, unchecked: false, json: false };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            // Both `--ranks 5` and `--ranks=5`.
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            if attached.is_some() && matches!(name, "--full" | "--unchecked" | "--json" | "--help") {
                return Err(format!("{name} takes no value"));
            }
            match name {
                "--full" => options.full = true,
                "--unchecked" => options.unchecked = true,
                "--json" => options.json = true,
                "--help" | "-h" => return Ok(None),
                "--ranks" => {
                    let text = attached.or_else(|| arguments.next()).ok_or("--ranks takes a value")?;
                    let ranks = text.parse().ok().filter(|ranks| (1..=8).contains(ranks));
                    options.ranks = ranks
                        .ok_or_else(|| format!("--ranks: expected a number from 1 to 8, got `{text}`"))?;
                }
                _ => return Err(format!("there is no option `{argument}`")),
            }
        }
        Ok(Some(options))
    }

    pub fn sizes(&self) -> Sizes {
        if self.full { Sizes::full(self.ranks) } else { Sizes::reduced(self.ranks) }
    }
}

/// How much of everything there is. Nothing but `ranks` depends on the number of ranks: the model is the same on any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub ranks: usize,
    pub hidden: usize,
    pub q_latent: usize,
    pub heads: usize,
    pub inter: usize,
    pub experts: usize,
    /// Groups of neighbouring experts among which the gate chooses first, and how many of them it keeps.
    pub groups: usize,
    pub kept_groups: usize,
    pub topk: usize,
    /// Tokens of a rank in one half: one for each request.
    pub tokens: usize,
    /// Tokens in each request's cache, the new one included.
    pub cached: usize,
}

/// Tokens of a page.
pub const PAGE: usize = 64;
/// Micro-batches, each half of a rank's requests.
pub const MICRO_BATCHES: usize = 2;
/// Expanded rows of an expert begin at a multiple of this.
pub const ALIGNMENT: usize = 16;

impl Sizes {
    /// DeepSeek-V3.
    pub const fn full(ranks: usize) -> Sizes {
        Sizes {
            ranks,
            hidden: 7168,
            q_latent: 1536,
            heads: 128,
            inter: 2048,
            experts: 256,
            groups: 8,
            kept_groups: 4,
            topk: 8,
            tokens: 8,
            cached: 1000,
        }
    }

    /// The true head, latent and expert shapes, fewer of them.
    pub const fn reduced(ranks: usize) -> Sizes {
        Sizes {
            heads: 8,
            experts: 8,
            groups: 4,
            kept_groups: 3,
            topk: 4,
            tokens: 2,
            cached: 150,
            ..Sizes::full(ranks)
        }
    }

    /// Places for experts over all ranks, the same number on each: where the ranks do not divide the experts, the busiest have replicas.
    pub const fn slots(&self) -> usize {
        self.experts.next_multiple_of(self.ranks)
    }

    pub const fn local_experts(&self) -> usize {
        self.slots() / self.ranks
    }

    pub const fn pages(&self) -> usize {
        self.cached.div_ceil(PAGE)
    }

    /// Rows that a rank's expansion may need.
    pub fn rows(&self) -> usize {
        let received = self.ranks * self.tokens;
        let copies = received * self.topk.min(self.local_experts());
        copies.next_multiple_of(4) + self.local_experts() * ALIGNMENT
    }

    /// Bytes of memory a run takes at its peak, about.
    pub fn memory(&self, unchecked: bool) -> u64 {
        let bytes = |elements: [usize; 2], each: usize| (elements[0] * elements[1] * each) as u64;
        // Three matrices of FP8 and their scales, 4 bytes for 128x128.
        let expert = bytes([3 * self.hidden, self.inter], 1);
        let half = bytes([self.tokens * self.pages() * PAGE, HEAD], 2)
            + bytes([self.rows(), 3 * self.hidden + 6 * self.inter], 1)
            + bytes([self.ranks * self.tokens, 4 * self.hidden], 1);
        let device =
            self.slots() as u64 * expert + self.ranks as u64 * (expert + MICRO_BATCHES as u64 * half);
        // On the host: projections in F32, the weights of one rank on their way to it, and caches in F64 while the reference runs.
        let host = bytes([self.hidden + HEAD, self.q_latent], 4)
            + bytes([self.heads, HEAD * self.q_latent + LATENT * self.hidden], 4)
            + self.local_experts() as u64 * expert * 2 / 3;
        // The checks keep 32 bytes for every 16 that kernels touch. A sixth on top: a full run had 16.9 GiB where this sum is 14.6.
        (host + if unchecked { device } else { 3 * device }) * 7 / 6
    }
}

/// Bytes that this machine could give a program now, where it says so: what is free, or what its control group leaves.
pub fn available_memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let free = || {
        let text = read("/proc/meminfo")?;
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        Some(1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?)
    };
    let group = || {
        let number = |name| read(name)?.trim().parse::<u64>().ok();
        Some(number("/sys/fs/cgroup/memory.max")?.saturating_sub(number("/sys/fs/cgroup/memory.current")?))
    };
    [free(), group()].into_iter().flatten().min()
}

/// Refuses what does not fit into `available` bytes, before anything is allocated.
pub fn expect_memory(sizes: &Sizes, unchecked: bool, available: Option<u64>) -> Result<(), NoRoom> {
    let needed = sizes.memory(unchecked);
    match available {
        Some(available) if needed > available => {
            Err(NoRoom { needed, available, without_checks: (!unchecked).then(|| sizes.memory(true)) })
        }
        _ => Ok(()),
    }
}

/// How much was asked for, and how much there is.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoom {
    needed: u64,
    available: u64,
    without_checks: Option<u64>,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let (needed, available) = (gib(self.needed), gib(self.available));
        write!(f, "this run takes about {needed:.1} GiB of memory, and {available:.1} GiB are available")?;
        match self.without_checks {
            Some(less) => write!(f, "; with --unchecked it takes about {:.1} GiB", gib(less)),
            None => Ok(()),
        }
    }
}
