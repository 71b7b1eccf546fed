//! What MLA decoding computes, written plainly in F64: the oracle the kernels are held to within a tolerance.
//!
//! A cached token is a row of 576 numbers: 512 of latent, 64 of RoPE. For a request of n cached tokens, query token t of
//! `query_tokens` and head h, the scores are `softmax_scale · q[t, h] · row` over the rows it sees: all n, or, with the causal
//! mask, the first `n − (query_tokens − 1 − t)`. The output is the mean of the rows' first 512 numbers under the softmax of the
//! scores; the LSE is the logarithm of the sum of their exponentials. A query that sees nothing has output 0 and LSE −∞.
//!
//! Token p of request b lies in row `block_table[b][p / page] · page + p % page` of the cache. Nothing beyond a request's
//! length is looked at: neither cache rows nor table entries. Lengths are cut to what the table holds, and a page that the cache does not have is
//! a page of zeros.

use crate::dtype::bf16;
use crate::error::{Error, Result, expect_rows};

use super::{HEAD, LATENT};

/// One decoding step on the host. Matrices are row-major without gaps.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// Query tokens of each request.
    pub query_tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Tokens of a page.
    pub page: usize,
    /// Whether a query token sees only the tokens up to its own.
    pub causal: bool,
    /// Factor of the scores.
    pub softmax_scale: f64,
    /// `[requests · query_tokens · heads, 576]`.
    pub q: &'a [bf16],
    /// `[pages · page, 576]`.
    pub cache: &'a [bf16],
    /// `[requests, pages of a request]`.
    pub block_table: &'a [i32],
    /// Tokens of each request.
    pub cache_seqlens: &'a [i32],
}

/// Outputs `[rows, 512]` and natural-logarithm LSEs `[rows]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// The outputs.
    pub out: Vec<f64>,
    /// The LSEs.
    pub lse: Vec<f64>,
}

impl Problem<'_> {
    /// Computes everything.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for a slice of another length than the sizes say, and for sizes of 0.
    pub fn results(&self) -> Result<Attention> {
        let requests = self.cache_seqlens.len();
        for (name, size) in [("query_tokens", self.query_tokens), ("heads", self.heads), ("page", self.page)]
        {
            if size == 0 {
                return Err(Error::shape(name, "at least 1", 0));
            }
        }
        let rows = self.query_tokens.saturating_mul(self.heads);
        expect_rows("q", self.q.len(), requests.saturating_mul(rows), HEAD)?;
        let pages = self.cache.len() / HEAD / self.page;
        expect_rows("cache", self.cache.len(), pages.saturating_mul(self.page), HEAD)?;
        let width = self.block_table.len() / requests.max(1);
        expect_rows("block_table", self.block_table.len(), requests, width)?;
        let mut all = Attention { out: Vec::new(), lse: Vec::new() };
        for (request, &length) in self.cache_seqlens.iter().enumerate() {
            let table = &self.block_table[request * width..][..width];
            let length = (length.max(0) as usize).min(width.saturating_mul(self.page));
            let tokens = (0..length).map(|position| {
                let page = usize::try_from(table[position / self.page]).ok().filter(|page| *page < pages);
                let Some(page) = page else { return vec![0.0; HEAD] };
                let row = page * self.page + position % self.page;
                self.cache[row * HEAD..][..HEAD].iter().map(|x| x.to_f64()).collect()
            });
            let tokens: Vec<Vec<f64>> = tokens.collect();
            for row in 0..rows {
                let q = &self.q[(request * rows + row) * HEAD..][..HEAD];
                let lacks = if self.causal { self.query_tokens - 1 - row / self.heads } else { 0 };
                self.attend(q, &tokens[..tokens.len().saturating_sub(lacks)], &mut all);
            }
        }
        Ok(all)
    }

    fn attend(&self, q: &[bf16], tokens: &[Vec<f64>], all: &mut Attention) {
        let q: Vec<f64> = q.iter().map(|x| x.to_f64()).collect();
        let score = |token: &Vec<f64>| -> f64 {
            self.softmax_scale * q.iter().zip(token).map(|(q, k)| q * k).sum::<f64>()
        };
        let scores: Vec<f64> = tokens.iter().map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut out = vec![0.0; LATENT];
        let mut sum = 0.0;
        for (score, token) in scores.iter().zip(tokens) {
            let weight = (score - top).exp();
            sum += weight;
            for (out, v) in out.iter_mut().zip(token) {
                *out += weight * v;
            }
        }
        let divisor = if tokens.is_empty() { 1.0 } else { sum };
        all.out.extend(out.iter().map(|x| x / divisor));
        all.lse.push(if tokens.is_empty() { f64::NEG_INFINITY } else { sum.ln() + top });
    }
}

/// The cache after appending: token i's 512 of `latent` and 64 of `rope` go to row `slots[i]`; a row the cache does not have
/// is not written.
///
/// # Errors
///
/// [`Error::Shape`] for a `latent` or `rope` of another number of tokens than `slots`.
pub fn append(cache: &mut [bf16], latent: &[bf16], rope: &[bf16], slots: &[i32]) -> Result<()> {
    let rope_width = HEAD - LATENT;
    expect_rows("latent", latent.len(), slots.len(), LATENT)?;
    expect_rows("rope", rope.len(), slots.len(), rope_width)?;
    for (token, &slot) in slots.iter().enumerate() {
        let row = usize::try_from(slot).ok().and_then(|slot| cache.get_mut(slot * HEAD..(slot + 1) * HEAD));
        if let Some(row) = row {
            row[..LATENT].copy_from_slice(&latent[token * LATENT..][..LATENT]);
            row[LATENT..].copy_from_slice(&rope[token * rope_width..][..rope_width]);
        }
    }
    Ok(())
}

/// The cache row of each new token when the last `tokens_each` positions of every request are new; −1 where there is none: no such
/// position, or none of the cache's `pages`.
///
/// # Errors
///
/// [`Error::Shape`] for a `block_table` that is not `[requests, table_width]`, and for pages of 0 tokens.
pub fn slots_of(
    block_table: &[i32],
    table_width: usize,
    cache_seqlens: &[i32],
    tokens_each: usize,
    [pages, page]: [usize; 2],
) -> Result<Vec<i32>> {
    expect_rows("block_table", block_table.len(), cache_seqlens.len(), table_width)?;
    if page == 0 {
        return Err(Error::shape("page", "at least 1", 0));
    }
    let slot = |request: usize, position: i64| -> Option<i32> {
        let position = usize::try_from(position).ok()?;
        if position / page >= table_width {
            return None;
        }
        let of = usize::try_from(block_table[request * table_width + position / page]).ok()?;
        let row = (of < pages).then(|| of * page + position % page)?;
        i32::try_from(row).ok()
    };
    let slots = cache_seqlens.iter().enumerate().flat_map(|(request, &length)| {
        let first = length as i64 - tokens_each as i64;
        (0..tokens_each).map(move |token| slot(request, first + token as i64).unwrap_or(-1))
    });
    Ok(slots.collect())
}
