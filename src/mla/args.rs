//! What a decoding step is asked for: shape, options, operands. Chained setters, nothing checked until a plan looks.

use crate::tensor::{Matrix, MatrixMut};

/// Sizes of a decoding step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub(super) requests: usize,
    pub(super) query_tokens: usize,
    pub(super) heads: usize,
    pub(super) most_tokens: usize,
    pub(super) page: usize,
}

impl Shape {
    /// At most `requests` requests of at most `most_tokens` cached tokens, `heads` query heads; one query token a request and
    /// pages of 64 tokens unless said otherwise.
    pub const fn new(requests: usize, heads: usize, most_tokens: usize) -> Shape {
        Shape { requests, query_tokens: 1, heads, most_tokens, page: 64 }
    }

    /// Query tokens of every request: more than one when several tokens are predicted or verified at once.
    #[must_use]
    pub const fn query_tokens(mut self, query_tokens: usize) -> Shape {
        self.query_tokens = query_tokens;
        self
    }

    /// Tokens of a page. Multiples of 64 are fast; a page is copied in boxes of as many tokens as the largest power of two up to
    /// 64 that divides it.
    #[must_use]
    pub const fn page(mut self, tokens: usize) -> Shape {
        self.page = tokens;
        self
    }
}

/// The base of the logarithms in `lse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LseBase {
    /// Natural logarithms, as FlashMLA has them.
    E,
    /// Base 2, as FlashInfer has them.
    Two,
}

/// How a decoding step is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    pub(super) softmax_scale: f32,
    pub(super) causal: bool,
    pub(super) lse_base: LseBase,
    pub(super) sms: Option<u32>,
    pub(super) batch_invariant: bool,
    pub(super) split_tokens: usize,
    pub(super) programmatic: bool,
}

impl Options {
    /// Scores are multiplied by `softmax_scale`: positive, and never guessed, since it belongs to the head before absorption
    /// (and to the RoPE scaling). No causal mask, natural logarithms, every SM.
    pub const fn new(softmax_scale: f32) -> Options {
        Options {
            softmax_scale,
            causal: false,
            lse_base: LseBase::E,
            sms: None,
            batch_invariant: false,
            split_tokens: 2048,
            programmatic: false,
        }
    }

    /// Lets query token t of `query_tokens` see all cached tokens but the last `query_tokens − 1 − t`: the cache already
    /// holds the query tokens themselves, at the end.
    #[must_use]
    pub const fn causal(mut self, yes: bool) -> Options {
        self.causal = yes;
        self
    }

    /// The base of the logarithms in `lse`.
    #[must_use]
    pub const fn lse_base(mut self, base: LseBase) -> Options {
        self.lse_base = base;
        self
    }

    /// Uses at most `sms` SMs and leaves the others to whatever runs beside.
    #[must_use]
    pub const fn sms(mut self, sms: u32) -> Options {
        self.sms = Some(sms);
        self
    }

    /// Makes the order of every sum a function of a request's own length and of [`Options::split_tokens`] alone: its bits
    /// do not depend on the batch, its batchmates or the SM budget. Costs workspace for every piece of every request.
    #[must_use]
    pub const fn batch_invariant(mut self, yes: bool) -> Options {
        self.batch_invariant = yes;
        self
    }

    /// With [`Options::batch_invariant`], tokens of a piece of a request: a positive multiple of 128. 2048 unless set.
    #[must_use]
    pub const fn split_tokens(mut self, tokens: usize) -> Options {
        self.split_tokens = tokens;
        self
    }

    /// Lets the kernel start before its predecessor in the stream has ended (programmatic dependent launch). It waits
    /// for the predecessor's results before it touches memory, so only its start-up is hidden.
    #[must_use]
    pub const fn programmatic(mut self, yes: bool) -> Options {
        self.programmatic = yes;
        self
    }
}

/// The operands of one run.
#[derive(Debug)]
pub struct Args<'a> {
    pub(super) q: Matrix<'a>,
    pub(super) cache: Matrix<'a>,
    pub(super) block_table: Matrix<'a>,
    pub(super) cache_seqlens: Matrix<'a>,
    pub(super) out: MatrixMut<'a>,
    pub(super) lse: MatrixMut<'a>,
    pub(super) workspace: Option<MatrixMut<'a>>,
}

impl<'a> Args<'a> {
    /// The operands:
    ///
    /// | argument | type | shape | layout |
    /// | --- | --- | --- | --- |
    /// | `q` | BF16 | `[requests · query_tokens · heads, 576]` | row-major, rows at multiples of 16 bytes |
    /// | `cache` | BF16 | `[pages · page, 576]` | row-major, rows at multiples of 16 bytes |
    /// | `block_table` | I32 | `[requests, pages of a request]` | row-major |
    /// | `cache_seqlens` | I32 | `[1, requests]` | |
    /// | `out` | BF16 | `[requests · query_tokens · heads, 512]` | row-major, rows at multiples of 16 bytes |
    /// | `lse` | F32 | `[requests · query_tokens, heads]` | row-major without gaps |
    ///
    /// Addresses are multiples of 16 bytes, those of the I32 and F32 arguments of 4. `out` and `lse` share memory with nothing else.
    /// Lengths count all cached tokens, the query tokens' own included; below 0 is 0, more than the shape or the table holds is
    /// as much as they hold. Table entries past a request's length are never read, and whatever else lies in its last page
    /// never reaches the output. An entry that is no page of `cache` (negative, or too large) stands for a page of zeros: nothing else is
    /// read, but its tokens take their part in the softmax.
    pub fn new(
        q: Matrix<'a>,
        cache: Matrix<'a>,
        block_table: Matrix<'a>,
        cache_seqlens: Matrix<'a>,
        out: MatrixMut<'a>,
        lse: MatrixMut<'a>,
    ) -> Args<'a> {
        Args { q, cache, block_table, cache_seqlens, out, lse, workspace: None }
    }

    /// Scratch memory, a `[1, bytes]` matrix of U8, for plans whose [`Plan::workspace`](super::Plan::workspace) is not
    /// empty. Its contents are nobody's business before and after.
    #[must_use]
    pub fn workspace(mut self, workspace: MatrixMut<'a>) -> Args<'a> {
        self.workspace = Some(workspace);
        self
    }
}
