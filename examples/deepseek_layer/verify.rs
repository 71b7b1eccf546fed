//! Kernel by kernel: what a rank's kernels made of the inputs they had, against the reference of their family.
//!
//! Inputs and outputs are read back from the device, so an error is the kernel's own and not of those before it. An error is the largest
//! difference of any element over the largest element wanted. Where arithmetic is documented to the bit (or nothing is computed)
//! it has to be 0; elsewhere it has a bound. Kernels that only work together share a result, and so an error: attention and its
//! combine; the five that bring tokens to the experts' rows; the two that bring answers back.

use std::collections::HashMap;

use hadal::moe::{exchange, gate, swiglu};
use hadal::{Buffer, E4M3, Element, Result, Stream, bf16, gemm, mla, quant};

use super::half::{self, Half};
use super::model::{Expert, Model, SOFTMAX_SCALE, scaled};
use super::options::{ALIGNMENT, MICRO_BATCHES, PAGE, Sizes};
use super::rank::Rank;

/// What attention may be off by: BF16 softmax weights and BF16 outputs.
const MOST_ATTENTION: f64 = 1e-2;
/// What a GEMM may be off by from the F64 product of its quantised operands: 13 fraction bits within 128 of K, BF16 outputs.
const MOST_GEMM: f64 = 1e-2;
/// Columns of a group's first row that are compared bit for bit besides.
const SAMPLE: usize = 128;

/// The error of each kernel, and what exceeds its bound, in words.
#[derive(Debug, Default)]
pub struct Errors {
    pub of: HashMap<&'static str, f64>,
    pub failures: Vec<String>,
}

impl Errors {
    fn note(&mut self, kernels: &[&'static str], what: &str, error: f64, most: f64) {
        for kernel in kernels {
            let worst = self.of.entry(kernel).or_insert(0.0);
            *worst = worst.max(error);
        }
        // A NaN is no bound kept.
        if error.is_nan() || error > most {
            self.failures.push(format!("{what}: {error:.2e}, at most {most:.0e} ({})", kernels.join(", ")));
        }
    }

    /// Bits that have to be equal.
    fn equal<T: Value>(&mut self, kernels: &[&'static str], what: &str, got: &[T], want: &[T]) {
        let same =
            got.len() == want.len() && got.iter().zip(want).all(|(got, want)| got.bits() == want.bits());
        let error = if same { 0.0 } else { largest_difference(got, want).max(f64::MIN_POSITIVE) };
        self.note(kernels, what, error, 0.0);
    }
}

/// Numbers to be compared.
trait Value: Copy {
    fn wide(self) -> f64;
    fn bits(self) -> u64;
}

macro_rules! value {
    ($($number:ty: $wide:expr, $bits:expr;)*) => {$(
        impl Value for $number {
            fn wide(self) -> f64 {
                $wide(self)
            }

            fn bits(self) -> u64 {
                $bits(self)
            }
        }
    )*};
}

value! {
    f64: |x| x, f64::to_bits;
    f32: f64::from, |x: f32| x.to_bits().into();
    i32: f64::from, |x: i32| x as u64;
    bf16: bf16::to_f64, |x: bf16| x.to_bits().into();
    E4M3: |x: E4M3| x.to_f32().into(), |x: E4M3| x.0.into();
}

/// The largest difference over the largest element wanted; NaNs have to stand where NaNs are wanted.
fn largest_difference<A: Value, B: Value>(got: &[A], want: &[B]) -> f64 {
    let most =
        want.iter().map(|w| w.wide().abs()).filter(|w| w.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    let difference = |(got, want): (&A, &B)| {
        let (got, want) = (got.wide(), want.wide());
        match got == want || (got.is_nan() && want.is_nan()) {
            true => 0.0,
            false if got.is_nan() || want.is_nan() => f64::INFINITY,
            false => (got - want).abs() / most,
        }
    };
    got.iter().zip(want).map(difference).fold(0.0, f64::max)
}

/// Every kernel of `ranks[0]`; the others give what they sent it.
pub fn rank_0(ranks: &[Rank], model: &Model) -> Result<Errors> {
    let mut errors = Errors::default();
    for half in 0..MICRO_BATCHES {
        let check = Check { ranks, model, rank: &ranks[0], half: &ranks[0].halves[half] };
        check.attention(&mut errors)?;
        check.routing(&mut errors)?;
        let places = check.exchange(&mut errors)?;
        check.experts(&places, &mut errors)?;
        check.shared(&mut errors)?;
    }
    Ok(errors)
}

struct Check<'a> {
    ranks: &'a [Rank],
    model: &'a Model,
    rank: &'a Rank,
    half: &'a Half,
}

/// A buffer's contents, or nothing where nothing was uploaded.
fn read<T: Element>(buffer: &Option<Buffer<T>>, stream: &Stream) -> Result<Vec<T>> {
    buffer.as_ref().map_or(Ok(Vec::new()), |buffer| buffer.to_vec(stream))
}

fn floats(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

/// M-major scales as row-major ones.
fn row_major(scales: &[f32], rows: &[usize], ld: usize, blocks: usize) -> Vec<f32> {
    rows.iter().flat_map(|&row| (0..blocks).map(move |block| scales[block * ld + row])).collect()
}

fn rows_of<T: Copy>(values: &[T], rows: &[usize], cols: usize) -> Vec<T> {
    rows.iter().flat_map(|&row| &values[row * cols..][..cols]).copied().collect()
}

impl Check<'_> {
    fn attention(&self, errors: &mut Errors) -> Result<()> {
        let (half, kernels, stream) = (&self.half.attention, self.rank.kernels(), &self.rank.compute);
        let Sizes { heads, cached, tokens, .. } = self.rank.sizes;
        let (table, lengths) = (half::table(&self.rank.sizes), vec![cached as i32; tokens]);
        let mut want = half::cache(self.model, self.rank.rank, self.half.number);
        let pages = want.len() / mla::HEAD / PAGE;
        let slots = mla::reference::slots_of(&table, self.rank.sizes.pages(), &lengths, 1, [pages, PAGE])?;
        let (latent, rope) = (read(&half.latent, stream)?, read(&half.rope, stream)?);
        mla::reference::append(&mut want, &latent, &rope, &slots)?;
        let cache = half.cache.to_vec(stream)?;
        errors.equal(&[kernels.append], "the cache", &cache, &want);
        let problem = mla::reference::Problem {
            query_tokens: 1,
            heads,
            page: PAGE,
            causal: true,
            softmax_scale: f64::from(SOFTMAX_SCALE),
            q: &read(&half.q, stream)?,
            cache: &cache,
            block_table: &table,
            cache_seqlens: &lengths,
        };
        let want = problem.results()?;
        let (out, lse) = (half.out.to_vec(stream)?, half.lse.to_vec(stream)?);
        errors.note(&kernels.mla, "attention", largest_difference(&out, &want.out), MOST_ATTENTION);
        errors.note(&kernels.mla, "its LSE", largest_difference(&lse, &want.lse), MOST_ATTENTION);
        Ok(())
    }

    fn routing(&self, errors: &mut Errors) -> Result<()> {
        let (half, kernels, stream) = (&self.half.routing, self.rank.kernels(), &self.rank.compute);
        let Sizes { hidden, experts, tokens, .. } = self.rank.sizes;
        let logits = read(&half.logits, stream)?;
        let choice = self.model.choice();
        let (mut idx, mut weight) = (Vec::new(), Vec::new());
        for token in logits.chunks(experts) {
            for (expert, share) in gate::reference::choose(token, Some(&self.model.bias), &choice)? {
                idx.push(expert as i32);
                weight.push(share);
            }
        }
        let mut counts = vec![0i32; experts];
        idx.iter().for_each(|&expert| counts[expert as usize] += 1);
        errors.equal(&[kernels.gate], "the choice", &half.topk_idx.to_vec(stream)?, &idx);
        errors.equal(&[kernels.gate], "its weights", &half.topk_weight.to_vec(stream)?, &weight);
        errors.equal(&[kernels.gate], "the counts", &half.counts.to_vec(stream)?, &counts);
        let want =
            quant::reference::quantize(&floats(&read(&half.normed, stream)?), [tokens, hidden], 1, false)?;
        errors.equal(&[kernels.quantize], "quantised", &half.quantized.to_vec(stream)?, &want.values);
        errors.equal(&[kernels.quantize], "its scales", &half.scales.to_vec(stream)?, &want.scales);
        Ok(())
    }

    /// Tokens to the experts' rows, and answers back. Returns where this rank's rows are.
    fn exchange(&self, errors: &mut Errors) -> Result<exchange::reference::Places> {
        let Sizes { hidden, tokens, topk, .. } = self.rank.sizes;
        let (local, rows, blocks) = (self.rank.sizes.local_experts(), self.rank.sizes.rows(), hidden / 128);
        let capacity = self.ranks.len() * tokens;
        // What each rank sent: rows, scales, slots and their weights.
        type Sent = (Vec<E4M3>, Vec<f32>, Vec<i32>, Vec<f32>);
        let mut brought: Vec<Sent> = Vec::new();
        for rank in self.ranks {
            let (routing, stream) = (&rank.halves[self.half.number].routing, &rank.compute);
            brought.push((
                routing.quantized.to_vec(stream)?,
                routing.scales.to_vec(stream)?,
                routing.slots.to_vec(stream)?,
                routing.topk_weight.to_vec(stream)?,
            ));
        }
        let sources: Vec<_> = brought
            .iter()
            .map(|(rows, _, topk_idx, topk_weight)| exchange::reference::Source {
                rows,
                topk_idx,
                topk_weight,
            })
            .collect();
        let slots = self.rank.sizes.slots();
        let delivered = exchange::reference::dispatch(&sources, slots, topk, hidden, capacity)?;
        let places = delivered
            .iter()
            .map(|d| exchange::reference::expand(&d.topk_idx, local, rows, ALIGNMENT))
            .collect::<Result<Vec<_>>>()?;

        let (experts, kernels) = (&self.half.experts, self.rank.exchange_kernels());
        let (out, back) = kernels.split_at(5);
        let stream = &self.rank.comm;
        let own = &places[self.rank.rank];
        errors.equal(out, "the map", &experts.map.to_vec(stream)?, &own.map);
        errors.equal(out, "the ends", &experts.ends.to_vec(stream)?, &own.ends);
        let (got, got_scales) = (experts.expanded.to_vec(stream)?, experts.expanded_scales.to_vec(stream)?);
        let mine = &delivered[self.rank.rank];
        for (entry, place) in own.positions.iter().enumerate() {
            let Some(place) = *place else { continue };
            let row = entry / topk;
            let (from, token) = mine.origins[row];
            let scales = row_major(&got_scales, &[place], rows, blocks);
            errors.equal(
                out,
                "a row",
                &got[place * hidden..][..hidden],
                &mine.rows[row * hidden..][..hidden],
            );
            errors.equal(out, "its scales", &scales, &brought[from].1[token * blocks..][..blocks]);
        }

        let mut reduced = Vec::new();
        for (rank, (delivered, places)) in self.ranks.iter().zip(delivered.iter().zip(&places)) {
            let answers = rank.halves[self.half.number].experts.answers.to_vec(&rank.comm)?;
            reduced.push(exchange::reference::reduce(
                &places.positions,
                &delivered.topk_weight,
                topk,
                &answers,
                hidden,
            )?);
        }
        let want = exchange::reference::combine(self.rank.rank, tokens, &delivered, &reduced, hidden)?;
        errors.equal(back, "combined", &experts.out.to_vec(stream)?, &want);
        Ok(places.into_iter().nth(self.rank.rank).expect("a place for each rank"))
    }

    fn experts(&self, places: &exchange::reference::Places, errors: &mut Errors) -> Result<()> {
        let (half, kernels, stream) = (&self.half.experts, self.rank.kernels(), &self.rank.compute);
        let Sizes { hidden, inter, .. } = self.rank.sizes;
        let (local, ld) = (self.rank.sizes.local_experts(), self.rank.sizes.rows());
        let (a, a_scales) = (half.expanded.to_vec(stream)?, half.expanded_scales.to_vec(stream)?);
        let both = half.both.to_vec(stream)?;
        let (q, q_scales) = (half.activated.to_vec(stream)?, half.activated_scales.to_vec(stream)?);
        let answers = half.answers.to_vec(stream)?;
        for group in 0..local {
            let rows: Vec<usize> = (0..ld).filter(|&row| places.map[row] == group as i32).collect();
            if rows.is_empty() {
                continue;
            }
            let expert = self.model.expert(self.model.expert_in[self.rank.rank * local + group]);
            let [up, down] = products(&expert, [hidden, inter]);
            let both = rows_of(&both, &rows, 2 * inter);
            let (a, a_scales) = (rows_of(&a, &rows, hidden), row_major(&a_scales, &rows, ld, hidden / 128));
            up.check(&kernels.grouped[..1], &a, &a_scales, &both, errors)?;
            let (q, q_scales) = (rows_of(&q, &rows, inter), row_major(&q_scales, &rows, ld, inter / 128));
            between(kernels.swiglu, &both, &q, &q_scales, inter, errors)?;
            down.check(&kernels.grouped[1..], &q, &q_scales, &rows_of(&answers, &rows, hidden), errors)?;
        }
        Ok(())
    }

    fn shared(&self, errors: &mut Errors) -> Result<()> {
        let (half, kernels, stream) = (&self.half.shared, self.rank.kernels(), &self.rank.compute);
        let Sizes { hidden, inter, tokens, .. } = self.rank.sizes;
        let (ld, rows) = (quant::m_major_stride(tokens), (0..tokens).collect::<Vec<_>>());
        let a = half.quantized.to_vec(stream)?;
        let a_scales = row_major(&half.scales.to_vec(stream)?, &rows, ld, hidden / 128);
        let normed = floats(&read(&self.half.routing.normed, stream)?);
        let want = quant::reference::quantize(&normed, [tokens, hidden], 1, false)?;
        errors.equal(&[kernels.quantize], "quantised again", &a, &want.values);
        errors.equal(&[kernels.quantize], "its scales", &a_scales, &want.scales);
        let expert = self.model.shared_expert();
        let [up, down] = products(&expert, [hidden, inter]);
        let (both, q) = (half.both.to_vec(stream)?, half.activated.to_vec(stream)?);
        let q_scales = row_major(&half.activated_scales.to_vec(stream)?, &rows, ld, inter / 128);
        up.check(&kernels.dense[..1], &a, &a_scales, &both, errors)?;
        between(kernels.swiglu, &both, &q, &q_scales, inter, errors)?;
        down.check(&kernels.dense[1..], &q, &q_scales, &half.out.to_vec(stream)?, errors)
    }
}

/// SwiGLU and its quantisation, bit for bit.
fn between(
    kernel: &'static str,
    both: &[bf16],
    q: &[E4M3],
    scales: &[f32],
    inter: usize,
    errors: &mut Errors,
) -> Result<()> {
    let y: Vec<f32> = floats(both)
        .chunks(2 * inter)
        .flat_map(|row| (0..inter).map(|at| swiglu::reference::swiglu(row[at], row[inter + at])))
        .collect();
    let want = quant::reference::quantize(&y, [y.len() / inter, inter], 1, false)?;
    errors.equal(&[kernel], "SwiGLU", q, &want.values);
    errors.equal(&[kernel], "its scales", scales, &want.scales);
    Ok(())
}

/// A matrix that rows are multiplied with.
struct Product<'a> {
    weight: &'a [E4M3],
    scales: &'a [f32],
    k: usize,
}

fn products(expert: &Expert, [hidden, inter]: [usize; 2]) -> [Product<'_>; 2] {
    [
        Product { weight: &expert.up, scales: &expert.up_scales, k: hidden },
        Product { weight: &expert.down, scales: &expert.down_scales, k: inter },
    ]
}

impl Product<'_> {
    /// All of `out` against F64, and the beginning of its first row bit for bit.
    fn check(
        &self,
        kernels: &[&'static str],
        a: &[E4M3],
        a_scales: &[f32],
        out: &[bf16],
        errors: &mut Errors,
    ) -> Result<()> {
        let (k, blocks) = (self.k, self.k / 128);
        let values: Vec<Vec<f64>> = a
            .chunks(k)
            .zip(a_scales.chunks(blocks))
            .map(|(row, scales)| {
                let value =
                    |(at, code): (usize, &E4M3)| f64::from(code.to_f32()) * f64::from(scales[at / 128]);
                row.iter().enumerate().map(value).collect()
            })
            .collect();
        let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        let want = scaled(self.weight, self.scales, &values).concat();
        errors.note(kernels, "a GEMM", largest_difference(out, &want), MOST_GEMM);
        let (weight, scales) = (&self.weight[..SAMPLE * k], &self.scales[..blocks]);
        let sample =
            gemm::reference::Problem::new([1, SAMPLE, k], &a[..k], &a_scales[..blocks], weight, scales)?;
        if out[..SAMPLE] != sample.results_bf16()[..] {
            errors
                .failures
                .push(format!("a row that differs in bits from its reference ({})", kernels.join(", ")));
        }
        Ok(())
    }
}
