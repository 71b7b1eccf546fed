//! What is exchanged, and how.

use crate::dtype::DType;

/// Experts, choices, columns, and the most rows there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub(super) experts: usize,
    pub(super) topk: usize,
    pub(super) hidden: usize,
    pub(super) tokens: usize,
    pub(super) capacity: usize,
}

impl Shape {
    /// `experts` of all ranks together, a multiple of the ranks and at most 512, rank `r` holding the `r`-th part of them; `topk` choices
    /// of each token, at most 32; `hidden` columns, a multiple of 16; at most `tokens` tokens a rank brings; at most `capacity` rows a
    /// rank receives. `ranks · tokens` rows are always enough.
    pub const fn new(experts: usize, topk: usize, hidden: usize, tokens: usize, capacity: usize) -> Shape {
        Shape { experts, topk, hidden, tokens, capacity }
    }

    /// Experts of all ranks.
    pub const fn experts(&self) -> usize {
        self.experts
    }

    /// Choices of a token.
    pub const fn topk(&self) -> usize {
        self.topk
    }

    /// Columns.
    pub const fn hidden(&self) -> usize {
        self.hidden
    }

    /// The most tokens of a rank.
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// The most rows a rank receives.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }
}

/// How to go about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    pub(super) payload: DType,
    pub(super) alignment: usize,
    pub(super) sms: Option<u32>,
    pub(super) patience: u32,
    pub(super) programmatic: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

impl Options {
    /// BF16 rows, experts aligned to 128 rows, all SMs, half a minute or so of patience, no programmatic launch.
    pub const fn new() -> Options {
        Options { payload: DType::BF16, alignment: 128, sms: None, patience: 1 << 26, programmatic: false }
    }

    /// What a dispatch sends: BF16, or E4M3 with an F32 scale for each row and 128 columns.
    #[must_use]
    pub const fn payload(mut self, dtype: DType) -> Options {
        self.payload = dtype;
        self
    }

    /// Expanded rows of each expert begin at a multiple of `rows`.
    #[must_use]
    pub const fn alignment(mut self, rows: usize) -> Options {
        self.alignment = rows;
        self
    }

    /// At most so many blocks a kernel, so that at most so many SMs are taken.
    #[must_use]
    pub const fn sms(mut self, sms: u32) -> Options {
        self.sms = Some(sms);
        self
    }

    /// How often a wait looks for another rank's word before it gives the rank up. A look is a load from the device's own memory, half a
    /// microsecond or so on the chip (an estimate: not measured).
    #[must_use]
    pub const fn patience(mut self, looks: u32) -> Options {
        self.patience = looks;
        self
    }

    /// Lets the kernels start before their predecessors in the stream have ended (programmatic dependent launch). They wait for the
    /// predecessors' results before they touch memory.
    #[must_use]
    pub const fn programmatic(mut self, yes: bool) -> Options {
        self.programmatic = yes;
        self
    }
}
