//! Mixture of experts: who computes what, and where.
//!
//! A token chooses a few of many experts, and the experts live on many GPUs. Between the gate's choice and the sum of the
//! experts' answers stand the questions of this family:
//!
//! | module | question |
//! | --- | --- |
//! | [`exchange`] | how tokens reach their experts on other GPUs, and the answers come back |
//! | [`balance`] | which GPU holds which expert, and which experts are held twice, given what was chosen lately |
//! | [`gate`] | which experts a token chooses, and how much each counts |
//! | [`group_ends`] | where each expert's rows end, when an engine has a map from rows to experts |
//! | [`swiglu`] | what stands between an expert's two matrix products |

pub mod balance;
pub mod exchange;
pub mod gate;
pub mod group_ends;
pub mod swiglu;

/// `2^t` as the kernels of this family compute it, written plainly. In FP32, every operation rounded to nearest: `t` is cut to
/// -125 and 125 (a NaN stays one); `n` is `t` rounded to an integer, ties to even, and `f = t - n`; `p = 2^f` by Horner's rule with
/// fused multiply-adds over `ln(2)^k / k!`; the result is `p · 2^n`, exactly.
pub fn exp2(t: f32) -> f32 {
    const COEFFICIENTS: [u32; 7] =
        [0x3f80_0000, 0x3f31_7218, 0x3e75_fdf0, 0x3d63_5847, 0x3c1d_955b, 0x3aae_c3ff, 0x3921_8489];
    let t = t.clamp(-125.0, 125.0);
    let n = t.round_ties_even();
    let f = t - n;
    let last = f32::from_bits(COEFFICIENTS[6]);
    let p = COEFFICIENTS[..6].iter().rev().fold(last, |p, &c| p.mul_add(f, f32::from_bits(c)));
    f32::from_bits(p.to_bits().wrapping_add(((n as i32) << 23) as u32))
}
