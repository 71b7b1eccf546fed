//! What the kernel computes, written plainly.
//!
//! In FP32, every operation rounded to nearest:
//!
//! 1. `e = exp2(gate · -log2(e))` (`moe::exp2`);
//! 2. `d = 1 + e`, the lowest bit of its mantissa cleared, and `r = 1 / d`;
//! 3. `y = (gate · r) · up`;
//! 4. the 1×128 quantisation of [`crate::quant::reference`].
//!
//! `y` differs from `silu(gate) · up` by less than 1e-6 of its magnitude for gates above -10; further down the error grows with
//! `|gate|`, to 1e-5 where silu has fallen below 1e-30.
//!
//! This is an oracle: it shares no code with the emulator or the kernels.

use crate::moe::exp2;

/// `silu(gate) · up`.
pub fn swiglu(gate: f32, up: f32) -> f32 {
    let e = exp2(gate * -std::f32::consts::LOG2_E);
    let d = f32::from_bits((1.0 + e).to_bits() & !1);
    gate * (1.0 / d) * up
}

/// The rows that exist, in order: of groups `g` in the contiguous layout, `ends[g]` one past the last of each.
pub fn contiguous_rows(ends: &[i32], alignment: usize, rows: usize) -> Vec<usize> {
    let mut present = Vec::new();
    let mut before = 0;
    for &end in ends {
        let cut = |row: i32| (row.max(0) as usize).min(rows);
        let first = cut(before).checked_next_multiple_of(alignment.max(1)).map_or(rows, |row| row.min(rows));
        present.extend(first..cut(end).max(first));
        before = end;
    }
    present
}

/// The rows that exist, in order: of groups `g` in the masked layout, `counts[g]` of each.
pub fn masked_rows(counts: &[i32], rows_per_group: usize) -> Vec<usize> {
    let rows = |(group, &count): (usize, &i32)| {
        let first = group.saturating_mul(rows_per_group);
        first..first.saturating_add((count.max(0) as usize).min(rows_per_group))
    };
    counts.iter().enumerate().flat_map(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_function() {
        for i in -2000..2000 {
            let gate = i as f32 * 0.05;
            let exact = gate as f64 / (1.0 + (-gate as f64).exp()) * 1.5;
            let error = (swiglu(gate, 1.5) as f64 - exact).abs() / exact.abs().max(1e-38);
            let bound = if gate > -10.0 { 1e-6 } else { 1e-5 };
            // Below -87 the true value leaves FP32's normal range.
            assert!(error < bound || gate < -85.0, "{gate}: {error:e}");
        }
        assert!(swiglu(-1e30, 1.0).abs() < 1e-6);
        assert_eq!(swiglu(1e30, 1.0), 1e30);
        assert_eq!(swiglu(0.0, 3.0), 0.0);
        assert!(swiglu(f32::NAN, 1.0).is_nan() && swiglu(1.0, f32::NAN).is_nan());
    }

    /// The kernel's reciprocal ends at 1 / d rounded to nearest wherever the chip's approximation starts it, up to twice as far off as the
    /// manual allows, for every mantissa without its lowest bit.
    #[test]
    fn two_steps_make_every_reciprocal() {
        for mantissa in (0..1u32 << 23).step_by(2) {
            let d = f32::from_bits(0x3f80_0000 | mantissa);
            let want = 1.0 / d;
            for off in -6i32..=6 {
                let start = f32::from_bits(want.to_bits().wrapping_add_signed(off));
                if (start as f64 * d as f64 - 1.0).abs() > 2f64.powi(-22) {
                    continue;
                }
                let r = (0..2).fold(start, |r, _| r.mul_add((-d).mul_add(r, 1.0), r));
                assert_eq!(r.to_bits(), want.to_bits(), "1 / {d:?} from {start:?}");
            }
        }
    }

    #[test]
    fn rows_of_both_layouts() {
        // Ends past the rows and ends that fall back are cut.
        assert_eq!(contiguous_rows(&[2, 2, 5, 4, 99], 4, 8), [0, 1, 4, 4, 5, 6, 7]);
        assert_eq!(contiguous_rows(&[1, 3, 3], 1, 8), [0, 1, 2]);
        assert_eq!(masked_rows(&[1, -3, 9], 3), [0, 6, 7, 8]);
    }
}
