//! Where things lie in a rank's window, and in a handle: the same on every rank.

use super::{Options, Shape};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::table::exchange::{MAX_RANKS, MAX_STRETCHES, header};

/// Columns under one scale.
const GROUP: usize = 128;
/// The most experts and choices.
const MOST_EXPERTS: usize = 512;
const MOST_CHOICES: usize = 32;
/// Rows, tokens and choices are counted in 31 bits.
const MOST: usize = i32::MAX as usize;
/// Bytes of a handle before its index.
const HANDLE_HEADER: usize = 64;

/// Offsets from the base of the window, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WindowLayout {
    pub(super) local_experts: usize,
    /// Bytes of a row on the link, and F32 scales with it.
    pub(super) row_bytes: usize,
    pub(super) scale_words: usize,
    pub(super) rows: u64,
    pub(super) scales: u64,
    pub(super) ids: u64,
    pub(super) weights: u64,
    pub(super) positions: u64,
    pub(super) counts: u64,
    pub(super) reduced: u64,
    pub(super) bytes: u64,
}

impl WindowLayout {
    /// Checks what can be checked of ranks, shape and options, and lays the window out.
    pub(super) fn new(ranks: usize, shape: Shape, options: Options) -> Result<WindowLayout> {
        let Shape { experts, topk, hidden, tokens, capacity } = shape;
        if ranks == 0 || ranks > MAX_RANKS as usize {
            return Err(Error::shape("window", format_args!("1 to {MAX_RANKS} ranks"), ranks));
        }
        if experts == 0 || experts > MOST_EXPERTS || !experts.is_multiple_of(ranks) {
            let expected = format!("1 to {MOST_EXPERTS} experts, a multiple of {ranks} ranks");
            return Err(Error::shape("shape", expected, format_args!("{experts} experts")));
        }
        if topk == 0 || topk > MOST_CHOICES {
            return Err(Error::shape("shape", format_args!("topk from 1 to {MOST_CHOICES}"), topk));
        }
        if hidden == 0 || !hidden.is_multiple_of(16) || hidden > 1 << 20 {
            return Err(Error::shape("shape", "hidden a multiple of 16, at most 2^20", hidden));
        }
        let entries = tokens.saturating_mul(topk.max(ranks));
        if entries > MOST {
            let expected = format!("at most {MOST} choices and destinations of all tokens");
            return Err(Error::shape("shape", expected, format_args!("{tokens} tokens with {entries}")));
        }
        if options.alignment == 0 || options.alignment > 1 << 20 {
            return Err(Error::option("alignment", "1 to 2^20", options.alignment));
        }
        let local_experts = experts / ranks;
        let padding = local_experts * options.alignment;
        if capacity == 0 || capacity.saturating_mul(topk).saturating_add(padding) > MOST {
            let expected = format!("a capacity from 1 to {} rows", (MOST - padding.min(MOST)) / topk);
            return Err(Error::shape("shape", expected, capacity));
        }
        if options.patience == 0 {
            return Err(Error::option("patience", "at least one look", 0));
        }
        let (row_bytes, scale_words) = match options.payload {
            DType::BF16 => (2 * hidden, 0),
            DType::E4M3 => (hidden, hidden.div_ceil(GROUP)),
            other => return Err(Error::dtype("payload", "bf16 or e4m3", other)),
        };
        let mut end = u64::from(header::BYTES);
        let mut take = |bytes: usize| {
            let start = end;
            end += (bytes as u64).next_multiple_of(256);
            start
        };
        Ok(WindowLayout {
            local_experts,
            row_bytes,
            scale_words,
            rows: take(capacity * row_bytes),
            scales: take(capacity * scale_words * 4),
            ids: take(capacity * topk * 4),
            weights: take(capacity * topk * 4),
            positions: take(capacity * topk * 4),
            counts: take(MAX_STRETCHES as usize * local_experts * 4),
            reduced: take(capacity * hidden * 2),
            bytes: end,
        })
    }
}

/// Bytes of a handle.
pub(super) fn handle_bytes(ranks: usize, shape: Shape) -> usize {
    HANDLE_HEADER + shape.tokens * ranks * 4
}
