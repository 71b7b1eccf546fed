//! The layer in F64 from beginning to end, on one device so to speak, with a choice of experts of its own.
//!
//! A run's logits carry the rounding of its attention, so where two experts are nearly equal it may choose the other one, and be right.
//! [`Reference::deficit`] says by how much, in F64, a choice falls short of the best; up to [`NEAR_TIE`] the reference goes the
//! run's way and counts the token, beyond it the run is wrong.

use std::sync::atomic::{AtomicUsize, Ordering};

use hadal::mla;

use super::model::{Expert, Model, Query, ROUTED_SCALE, SOFTMAX_SCALE, scaled, wide};
use super::options::{MICRO_BATCHES, Sizes};

/// How far below the best, in scores between 0 and 1, a choice may be and count as a tie.
pub const NEAR_TIE: f64 = 2e-3;

/// One token on its way through the layer.
struct Token {
    x: Vec<f64>,
    y: Vec<f64>,
    h: Vec<f64>,
    scores: Vec<f64>,
    experts: Vec<usize>,
}

/// What the layer adds to each token, and what was made of the run's choices.
pub struct Reference {
    /// Rank after rank, half after half, token after token.
    pub added: Vec<f64>,
    /// Tokens for which the run chose otherwise within [`NEAR_TIE`].
    pub near_ties: usize,
    /// The choices of the run that nothing excuses, in words.
    pub wrong_choices: Vec<String>,
    /// The largest difference between a score of the run and the reference's.
    pub score_error: f64,
}

/// What the run chose for a token, and its logits.
pub struct Routed {
    pub experts: Vec<usize>,
    pub logits: Vec<f32>,
}

/// The layer for all tokens; `routed` as the run had it, in the order of [`Reference::added`].
pub fn layer(model: &Model, routed: &[Routed]) -> Reference {
    let Sizes { ranks, tokens, experts, hidden, .. } = model.sizes;
    let batches = ranks * MICRO_BATCHES;
    let mut all: Vec<Token> = spread(batches * tokens, |at| {
        let (batch, token) = (at / tokens, at % tokens);
        attended(model, batch / MICRO_BATCHES, batch % MICRO_BATCHES, token)
    });
    let mut result =
        Reference { added: Vec::new(), near_ties: 0, wrong_choices: Vec::new(), score_error: 0.0 };
    for (at, (token, routed)) in all.iter_mut().zip(routed).enumerate() {
        for (score, &logit) in token.scores.iter().zip(&routed.logits) {
            result.score_error = result.score_error.max((score - sigmoid(logit as f64)).abs());
        }
        let (mut own, mut theirs) = (token.experts.clone(), routed.experts.clone());
        own.sort_unstable();
        theirs.sort_unstable();
        if own == theirs {
            continue;
        }
        let deficit = deficit(&choices(&token.scores, &model.bias), &theirs, &model.sizes);
        if deficit <= NEAR_TIE {
            result.near_ties += 1;
            token.experts = theirs;
        } else {
            let place = format!("rank {}, half {}", at / tokens / MICRO_BATCHES, at / tokens % MICRO_BATCHES);
            let words = format!("{place}, token {}: {theirs:?} where F64 says {own:?}", at % tokens);
            result.wrong_choices.push(format!("{words}, short by {deficit:.1e}"));
        }
    }
    // Expert after expert, the shared one last: each is made once.
    let answers = spread(experts + 1, |number| {
        let wanted = |token: &&Token| number == experts || token.experts.contains(&number);
        let vectors: Vec<&[f64]> = all.iter().filter(wanted).map(|token| token.h.as_slice()).collect();
        if vectors.is_empty() { Vec::new() } else { model.expert(number).apply(&vectors) }
    });
    let mut answers: Vec<_> = answers.into_iter().map(Vec::into_iter).collect();
    result.added.reserve(all.len() * hidden);
    for token in &all {
        let mut added: Vec<f64> = token.y.iter().zip(&token.x).map(|(y, x)| y - x).collect();
        let sum: f64 = token.experts.iter().map(|&e| token.scores[e]).sum();
        // In the order of their numbers, as the answers lie.
        for (number, answers) in answers.iter_mut().enumerate() {
            let weight = match number == experts {
                true => 1.0,
                false if token.experts.contains(&number) => {
                    token.scores[number] / sum * f64::from(ROUTED_SCALE)
                }
                false => continue,
            };
            for (to, from) in added.iter_mut().zip(answers.next().into_iter().flatten()) {
                *to += weight * from;
            }
        }
        result.added.extend(added);
    }
    result
}

/// A token up to the choice of its experts.
fn attended(model: &Model, rank: usize, half: usize, token: usize) -> Token {
    let x = wide(&model.inputs(rank, half)[token]);
    let Query { q, latent, rope } = model.query(&x);
    let mut keys: Vec<Vec<f64>> = model.cached(rank, half, token).chunks(mla::HEAD).map(wide).collect();
    keys.push([latent, rope].concat());
    let attention: Vec<f64> = q.chunks(mla::HEAD).flat_map(|q| attend(q, &keys)).collect();
    let (y, h) = model.after_attention(&x, &attention);
    let scores: Vec<f64> = model.logits(&h).into_iter().map(sigmoid).collect();
    let experts = choose(&choices(&scores, &model.bias), &model.sizes);
    Token { x, y, h, scores, experts }
}

fn attend(q: &[f64], keys: &[Vec<f64>]) -> Vec<f64> {
    let scores: Vec<f64> = keys
        .iter()
        .map(|k| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * SOFTMAX_SCALE as f64)
        .collect();
    let most = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..mla::LATENT).map(|d| keys.iter().zip(&weights).map(|(k, w)| k[d] * w).sum::<f64>() / sum).collect()
}

impl Expert {
    fn apply(&self, h: &[&[f64]]) -> Vec<Vec<f64>> {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let between = |both: &Vec<f64>| -> Vec<f64> {
            let (gate, up) = both.split_at(both.len() / 2);
            gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect()
        };
        let y: Vec<Vec<f64>> = scaled(&self.up, &self.up_scales, h).iter().map(between).collect();
        let y: Vec<&[f64]> = y.iter().map(Vec::as_slice).collect();
        scaled(&self.down, &self.down_scales, &y)
    }
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// What the choice goes by.
fn choices(scores: &[f64], bias: &[f32]) -> Vec<f64> {
    scores.iter().zip(bias).map(|(score, &bias)| score + f64::from(bias)).collect()
}

/// What each group counts: the sum of its two best.
fn group_values(choice: &[f64], sizes: &Sizes) -> Vec<f64> {
    let value = |group: &[f64]| {
        let mut group = group.to_vec();
        group.sort_by(|a, b| b.total_cmp(a));
        group.iter().take(2).sum()
    };
    choice.chunks(sizes.experts / sizes.groups).map(value).collect()
}

/// The best experts of the best groups.
pub fn choose(choice: &[f64], sizes: &Sizes) -> Vec<usize> {
    let values = group_values(choice, sizes);
    let mut groups: Vec<usize> = (0..sizes.groups).collect();
    groups.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    groups.truncate(sizes.kept_groups);
    let size = sizes.experts / sizes.groups;
    let mut experts: Vec<usize> = (0..sizes.experts).filter(|e| groups.contains(&(e / size))).collect();
    experts.sort_by(|&a, &b| choice[b].total_cmp(&choice[a]));
    experts.truncate(sizes.topk);
    experts
}

/// By how much values would have to be off for `chosen` to be right: the most that a group or expert left out exceeds one taken in, for
/// the kept groups that excuse it best. 0 where it is right, infinite where no values would make it so.
pub fn deficit(choice: &[f64], chosen: &[usize], sizes: &Sizes) -> f64 {
    let size = sizes.experts / sizes.groups;
    let values = group_values(choice, sizes);
    let excess = |left_out: &mut dyn Iterator<Item = f64>, taken: &mut dyn Iterator<Item = f64>| {
        (left_out.fold(f64::NEG_INFINITY, f64::max) - taken.fold(f64::INFINITY, f64::min)).max(0.0)
    };
    let kept = |set: u32, group: usize| set >> group & 1 == 1;
    (0..1u32 << sizes.groups)
        .filter(|set| set.count_ones() as usize == sizes.kept_groups)
        .filter(|&set| chosen.iter().all(|e| kept(set, e / size)))
        .map(|set| {
            let (inside, outside): (Vec<usize>, Vec<usize>) =
                (0..sizes.groups).partition(|&group| kept(set, group));
            let groups = excess(
                &mut outside.iter().map(|&group| values[group]),
                &mut inside.iter().map(|&group| values[group]),
            );
            let left_out = (0..sizes.experts).filter(|e| kept(set, e / size) && !chosen.contains(e));
            let experts = excess(
                &mut left_out.map(|expert| choice[expert]),
                &mut chosen.iter().map(|&expert| choice[expert]),
            );
            groups.max(experts)
        })
        .fold(f64::INFINITY, f64::min)
}

/// Every piece of work, over as many threads as there are cores, in order.
pub fn spread<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(count.max(1));
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let run = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return done;
                }
                done.push((at, work(at)));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("plain arithmetic")).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, value)| value).collect()
}
