//! What went wrong on the device, if anything did.

/// What was being waited for when a rank was missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its counts, at the beginning of a dispatch.
    Counts,
    /// Word that its rows have arrived, at the end of a dispatch.
    Rows,
    /// Word that its reduced rows are there, in a combine.
    Reduced,
    /// Word that it has read the reduced rows of the combine before.
    Gathered,
}

/// A rank's status: adds up over operations until it is cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status {
    pub(super) words: [u32; 8],
}

impl Status {
    /// Nothing to report.
    pub const fn is_clean(&self) -> bool {
        self.words[0] == 0
    }

    /// Rows of this rank's tokens that found no room at their destinations (a token may have several).
    pub const fn lost_sent(&self) -> u32 {
        self.words[1]
    }

    /// Rows sent to this rank that found no room: beyond `capacity`.
    pub const fn lost_received(&self) -> u32 {
        self.words[2]
    }

    /// Choices of received rows that found no room among the expanded rows, or whose place was past the rows that a combine was given.
    pub const fn lost_expanded(&self) -> u32 {
        self.words[3]
    }

    /// Whether an entry of `topk_idx` was neither an expert nor -1. It was taken for -1.
    pub const fn strange_choice(&self) -> bool {
        self.words[0] & 8 != 0
    }

    /// Bit `r`: rank `r` did not answer in time, was ahead of this rank, or said that it had failed itself.
    pub const fn missing(&self, phase: Phase) -> u32 {
        self.words[4 + phase as usize]
    }
}
