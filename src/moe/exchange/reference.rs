//! The exchange in plain Rust: all ranks at once, rows in order, every rounding as the kernels'.

use crate::dtype::bf16;
use crate::error::{Error, Result, expect_rows};

/// What one rank brings to a dispatch. Rows are opaque: `row` elements a token, whatever they are.
#[derive(Debug, Clone)]
pub struct Source<'a, T> {
    /// `[tokens, row]`.
    pub rows: &'a [T],
    /// `[tokens, topk]`, experts of all ranks, anything else for none.
    pub topk_idx: &'a [i32],
    /// `[tokens, topk]`.
    pub topk_weight: &'a [f32],
}

/// What one rank receives.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivered<T> {
    /// `[rows, row]`, by source rank and then token.
    pub rows: Vec<T>,
    /// `[rows, topk]`: local experts, or -1.
    pub topk_idx: Vec<i32>,
    /// `[rows, topk]`, 0 where the expert lives elsewhere.
    pub topk_weight: Vec<f32>,
    /// The first row of each source rank.
    pub sources: Vec<usize>,
    /// Source rank and token of each row.
    pub origins: Vec<(usize, usize)>,
    /// Rows that found no room, by source rank.
    pub lost: Vec<usize>,
}

/// A dispatch among `sources.len()` ranks: each token once to every rank that holds one of its experts, up to `capacity` rows a rank.
///
/// # Errors
///
/// [`Error::Shape`] for slices of other lengths than the sizes say, no rank, no choice, and experts that the ranks do not divide.
pub fn dispatch<T: Copy>(
    sources: &[Source<'_, T>],
    experts: usize,
    topk: usize,
    row: usize,
    capacity: usize,
) -> Result<Vec<Delivered<T>>> {
    if sources.is_empty() || experts == 0 || !experts.is_multiple_of(sources.len()) {
        let expected = format_args!("experts that {} ranks divide", sources.len());
        return Err(Error::shape("experts", expected, experts));
    }
    if topk == 0 {
        return Err(Error::shape("topk", "at least 1", 0));
    }
    for source in sources {
        let tokens = source.topk_idx.len() / topk;
        expect_rows("topk_idx", source.topk_idx.len(), tokens, topk)?;
        expect_rows("topk_weight", source.topk_weight.len(), tokens, topk)?;
        expect_rows("rows", source.rows.len(), tokens, row)?;
    }
    let each = experts / sources.len();
    let deliver = |rank: usize| {
        let local = |id: i32| {
            let inside = (0..experts as i64).contains(&(id as i64)) && id as usize / each == rank;
            inside.then(|| id as usize - rank * each)
        };
        let mut all = Delivered {
            rows: Vec::new(),
            topk_idx: Vec::new(),
            topk_weight: Vec::new(),
            sources: Vec::new(),
            origins: Vec::new(),
            lost: vec![0; sources.len()],
        };
        for (from, source) in sources.iter().enumerate() {
            all.sources.push(all.origins.len());
            for (token, ids) in source.topk_idx.chunks(topk).enumerate() {
                if !ids.iter().any(|id| local(*id).is_some()) {
                    continue;
                }
                if all.origins.len() == capacity {
                    all.lost[from] += 1;
                    continue;
                }
                all.origins.push((from, token));
                all.rows.extend(&source.rows[token * row..][..row]);
                let weights = &source.topk_weight[token * topk..][..topk];
                for (id, weight) in ids.iter().zip(weights) {
                    all.topk_idx.push(local(*id).map_or(-1, |id| id as i32));
                    all.topk_weight.push(if local(*id).is_some() { *weight } else { 0.0 });
                }
            }
        }
        all
    };
    Ok((0..sources.len()).map(deliver).collect())
}

/// Where received rows go for the grouped GEMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `[rows, topk]`: the expanded row of each choice, if it has one.
    pub positions: Vec<Option<usize>>,
    /// One past each expert's last row.
    pub ends: Vec<i32>,
    /// The expert of each expanded row, or -1.
    pub map: Vec<i32>,
    /// Choices without room.
    pub lost: usize,
}

/// The expansion of rows with these local choices into at most `rows` rows, experts aligned.
///
/// # Errors
///
/// [`Error::Option`] for an alignment of 0.
pub fn expand(topk_idx: &[i32], local_experts: usize, rows: usize, alignment: usize) -> Result<Places> {
    if alignment == 0 {
        return Err(Error::option("alignment", "at least 1", 0));
    }
    let mut places =
        Places { positions: vec![None; topk_idx.len()], ends: Vec::new(), map: vec![-1; rows], lost: 0 };
    let mut next = 0usize;
    for expert in 0..local_experts {
        next = next.next_multiple_of(alignment);
        for (entry, _) in topk_idx.iter().enumerate().filter(|(_, id)| **id == expert as i32) {
            if next < rows {
                places.positions[entry] = Some(next);
                places.map[next] = expert as i32;
            } else {
                places.lost += 1;
            }
            next += 1;
        }
        places.ends.push(next.min(rows) as i32);
    }
    Ok(places)
}

/// One rank's half of a combine: `[rows, hidden]`, the weighted sum of each received row's answers in `y`; places past its rows add nothing.
///
/// # Errors
///
/// [`Error::Shape`] for slices of other lengths than the sizes say, and no choice.
pub fn reduce(
    positions: &[Option<usize>],
    topk_weight: &[f32],
    topk: usize,
    y: &[bf16],
    hidden: usize,
) -> Result<Vec<bf16>> {
    if topk == 0 {
        return Err(Error::shape("topk", "at least 1", 0));
    }
    expect_rows("positions", positions.len(), positions.len() / topk, topk)?;
    expect_rows("topk_weight", topk_weight.len(), positions.len() / topk, topk)?;
    let answers = y.len() / hidden.max(1);
    expect_rows("y", y.len(), answers, hidden)?;
    let rows = positions.chunks(topk).zip(topk_weight.chunks(topk));
    let sum = |(places, weights): (&[Option<usize>], &[f32])| {
        let mut sums = vec![0f32; hidden];
        for (place, weight) in places.iter().zip(weights).filter_map(|(p, w)| Some(((*p)?, *w))) {
            if place >= answers {
                continue;
            }
            for (sum, y) in sums.iter_mut().zip(&y[place * hidden..]) {
                *sum = weight.mul_add(y.to_f32(), *sum);
            }
        }
        sums.into_iter().map(round)
    };
    Ok(rows.flat_map(sum).collect())
}

/// The other half: `[tokens, hidden]`, the sum over ranks of what `reduced` says, each rank a row for each of `delivered.origins`.
///
/// # Errors
///
/// [`Error::Shape`] for `reduced` of other lengths than that, and for an origin past `tokens`.
pub fn combine<T>(
    rank: usize,
    tokens: usize,
    delivered: &[Delivered<T>],
    reduced: &[Vec<bf16>],
    hidden: usize,
) -> Result<Vec<bf16>> {
    if delivered.len() != reduced.len() {
        let got = format_args!("{} ranks", reduced.len());
        return Err(Error::shape("reduced", format_args!("{} ranks", delivered.len()), got));
    }
    for (delivered, reduced) in delivered.iter().zip(reduced) {
        expect_rows("reduced", reduced.len(), delivered.origins.len(), hidden)?;
        if let Some(&(_, token)) =
            delivered.origins.iter().find(|(from, token)| *from == rank && *token >= tokens)
        {
            return Err(Error::shape(
                "delivered",
                format_args!("{tokens} tokens"),
                format_args!("token {token}"),
            ));
        }
    }
    let mut sums = vec![0f32; tokens * hidden];
    for (delivered, reduced) in delivered.iter().zip(reduced) {
        for (row, (_, token)) in delivered.origins.iter().enumerate().filter(|(_, (from, _))| *from == rank) {
            let answers = &reduced[row * hidden..][..hidden];
            for (sum, answer) in sums[token * hidden..].iter_mut().zip(answers) {
                *sum += answer.to_f32();
            }
        }
    }
    Ok(sums.into_iter().map(round).collect())
}

/// To nearest, ties to even; every NaN becomes 0x7fff, as `cvt.rn.bf16x2.f32` has it.
fn round(value: f32) -> bf16 {
    if value.is_nan() { bf16::from_bits(0x7fff) } else { bf16::from_f32(value) }
}
