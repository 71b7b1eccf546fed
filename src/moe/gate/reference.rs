//! What the gate computes, written plainly.
//!
//! Per token, in FP32 with every operation rounded to nearest:
//!
//! 1. scores. Sigmoid: `1 / (1 + exp2(logit · -log2(e)))`. Softmax: `exp2((logit - largest) · log2(e)) / sum`, where `sum` is taken over
//!    32 lanes, lane `l` adding experts `l, l + 32, …` in order, and then over the lanes as a butterfly: distance 16, 8, 4, 2, 1. The
//!    largest logit ignores NaNs; `exp2` is [`crate::moe::exp2`], which cuts its argument at -125;
//! 2. choices: score plus bias;
//! 3. a group counts the sum of its two best choices; the best groups are kept;
//! 4. the best choices among the experts of the kept groups, best first;
//! 5. weights: the chosen scores, on request divided by their sum (best first, then plus 1e-20), times the scale.
//!
//! At a tie the lower index wins. A NaN loses against every number; -0 is below +0.
//!
//! This is an oracle: it shares no code with the emulator or the kernels, but for `exp2`.

use super::plan::{Options, Score};
use crate::error::{Error, Result};
use crate::moe::exp2;

/// The experts of one token, best first, and their weights.
///
/// # Errors
///
/// As [`Plan::new`](super::Plan::new) for as many experts as there are logits; [`Error::Shape`] for a bias of another length.
pub fn choose(logits: &[f32], bias: Option<&[f32]>, options: &Options) -> Result<Vec<(usize, f32)>> {
    options.check(logits.len())?;
    if let Some(bias) = bias.filter(|bias| bias.len() != logits.len()) {
        let expected = format_args!("{} experts", logits.len());
        return Err(Error::shape("bias", expected, bias.len()));
    }
    let scores = scores(logits, options.score());
    let choice: Vec<f32> = scores.iter().enumerate().map(|(e, s)| bias.map_or(0.0, |b| b[e]) + s).collect();
    let size = logits.len() / options.n_groups();
    let best = |values: Vec<(usize, f32)>, count: usize| {
        let mut values = values;
        // Stable: equal values stay in the order of their indices.
        values.sort_by_key(|value| std::cmp::Reverse(order(value.1)));
        values.truncate(count);
        values
    };
    let groups = choice.chunks(size).map(|group| {
        let two = best(group.iter().copied().enumerate().collect(), 2);
        two.iter().skip(1).fold(two[0].1, |sum, other| sum + other.1)
    });
    let kept: Vec<usize> =
        best(groups.enumerate().collect(), options.kept_groups()).iter().map(|group| group.0).collect();
    let left = choice.iter().copied().enumerate().filter(|(e, _)| kept.contains(&(e / size)));
    let chosen = best(left.collect(), options.k());
    let sum = chosen.iter().fold(0.0, |sum, &(e, _)| sum + scores[e]) + 1e-20;
    let weight = |e: usize| if options.normalizes() { scores[e] / sum } else { scores[e] };
    Ok(chosen.iter().map(|&(e, _)| (e, weight(e) * options.factor())).collect())
}

/// Every expert's score.
fn scores(logits: &[f32], score: Score) -> Vec<f32> {
    match score {
        Score::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + exp2(x * -std::f32::consts::LOG2_E))).collect(),
        Score::Softmax => {
            let largest = logits.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
            let largest = if logits.iter().all(|x| x.is_nan()) { f32::NAN } else { largest };
            let powers: Vec<f32> =
                logits.iter().map(|x| exp2((x - largest) * std::f32::consts::LOG2_E)).collect();
            let mut lanes: Vec<f32> =
                (0..32).map(|lane| powers.iter().skip(lane).step_by(32).fold(0.0, |s, p| s + p)).collect();
            for distance in [16, 8, 4, 2, 1] {
                lanes = (0..32).map(|lane| lanes[lane] + lanes[lane ^ distance]).collect();
            }
            powers.iter().map(|p| p / lanes[0]).collect()
        }
    }
}

/// An integer that orders as choices do.
fn order(value: f32) -> i64 {
    let bits = value.to_bits() as i32;
    match value {
        v if v.is_nan() => i64::MIN,
        _ if bits < 0 => -1 - (bits & i32::MAX) as i64,
        _ => bits as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_top_k() {
        let options = Options::softmax(2);
        let got = choose(&[0.0, 2.0, 1.0, 2.0], None, &options).unwrap();
        let total: f64 = [0f64, 2.0, 1.0, 2.0].iter().map(|x| x.exp()).sum();
        assert_eq!((got[0].0, got[1].0), (1, 3));
        assert!((got[0].1 as f64 - 2f64.exp() / total).abs() < 1e-6);
        assert_eq!(got[0].1, got[1].1);
    }

    #[test]
    fn bias_chooses_but_does_not_weigh() {
        let options = Options::sigmoid(1).normalize(false);
        let got = choose(&[0.0, 3.0], Some(&[5.0, 0.0]), &options).unwrap();
        assert_eq!(got, [(0, 0.5)]);
    }

    #[test]
    fn groups_are_kept_by_their_two_best() {
        // The best expert is in a group whose second is poor.
        let options = Options::sigmoid(2).groups(2, 1).normalize(true).scale(2.0);
        let got = choose(&[4.0, -9.0, 3.0, 3.0], None, &options).unwrap();
        assert_eq!(got, [(2, 1.0), (3, 1.0)]);
    }

    #[test]
    fn nan_loses() {
        let got = choose(&[f32::NAN, -3.0, 1.0], None, &Options::sigmoid(3)).unwrap();
        assert_eq!(got.iter().map(|c| c.0).collect::<Vec<_>>(), [2, 1, 0]);
    }
}
