//! What the quantisers compute, written plainly.
//!
//! A group is 128 columns of one row, or of 128 rows. Per group, in FP32 and with every operation rounded to nearest:
//!
//! 1. `amax` is the largest magnitude in the group, a NaN if there is one, and at least 1e-4;
//! 2. `scale = amax / 448`, on request rounded up to a power of two;
//! 3. `q = e4m3(x · (1 / scale))`, to nearest even, saturating.
//!
//! So `q · scale` gives the value back, and a group with a NaN is NaN throughout: scale 0x7fffffff, elements 0x7f. The
//! floor keeps an all-zero group from dividing by zero; DeepGEMM's tests use the same.
//!
//! This is an oracle: it shares no code with the emulator or the kernels.

use crate::dtype::E4M3;
use crate::error::{Error, Result};

/// Columns of a group.
const GROUP: usize = 128;
/// The NaN that FP32 instructions produce.
const NAN: u32 = 0x7fff_ffff;

/// A quantised matrix on the host.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Quantized {
    /// `[rows, cols]`, row-major.
    pub values: Vec<E4M3>,
    /// `[⌈rows / group rows⌉, ⌈cols / 128⌉]`, row-major.
    pub scales: Vec<f32>,
}

/// Quantises a row-major matrix, already widened to FP32, in groups of `group_rows` × 128.
pub fn quantize(
    x: &[f32],
    [rows, cols]: [usize; 2],
    group_rows: usize,
    power_of_two: bool,
) -> Result<Quantized> {
    if rows.checked_mul(cols) != Some(x.len()) {
        return Err(Error::shape(
            "x",
            format_args!("[{rows}, {cols}]"),
            format_args!("{} elements", x.len()),
        ));
    }
    if group_rows == 0 {
        return Err(Error::option("group_rows", "at least 1", 0));
    }
    let mut values = vec![E4M3::default(); x.len()];
    let mut scales = Vec::new();
    for top in (0..rows).step_by(group_rows) {
        for left in (0..cols).step_by(GROUP) {
            let inside = || {
                let rows = top..rows.min(top + group_rows);
                rows.flat_map(move |row| (left..cols.min(left + GROUP)).map(move |col| row * cols + col))
            };
            let scale = scale_of(inside().map(|at| x[at]), power_of_two);
            let inverse = 1.0 / scale;
            for at in inside() {
                values[at] = E4M3::from_f32(x[at] * inverse);
            }
            scales.push(scale);
        }
    }
    Ok(Quantized { values, scales })
}

fn scale_of(group: impl Iterator<Item = f32>, power_of_two: bool) -> f32 {
    let mut amax = 1e-4f32;
    for x in group {
        if x.is_nan() {
            return f32::from_bits(NAN);
        }
        amax = amax.max(x.abs());
    }
    let scale = amax / 448.0;
    if !power_of_two {
        return scale;
    }
    // Any mantissa at all sends it to the next exponent; the floor keeps it clear of subnormals.
    let bits = scale.to_bits();
    f32::from_bits(if bits & 0x7f_ffff == 0 { bits } else { ((bits >> 23) + 1) << 23 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_a_group_becomes_448() {
        let x: Vec<f32> = (0..260).map(|i| i as f32 - 130.0).collect();
        let q = quantize(&x, [2, 130], 1, false).unwrap();
        assert_eq!(q.scales.len(), 4);
        assert_eq!(q.scales[0], 130.0 / 448.0);
        assert_eq!(q.values[0].to_f32(), -448.0);
        assert_eq!((q.values[129].to_f32(), q.scales[1]), (-224.0, 2.0 / 448.0));
        let block = quantize(&x, [2, 130], 128, false).unwrap();
        assert_eq!(block.scales, [130.0 / 448.0, 129.0 / 448.0]);
    }

    #[test]
    fn powers_of_two_round_up() {
        for (amax, scale) in
            [(448.0, 1.0), (448.1, 2.0), (224.0, 0.5), (0.0, 2f32.powi(-22)), (3e38, 2f32.powi(120))]
        {
            let q = quantize(&[amax], [1, 1], 1, true).unwrap();
            assert_eq!(q.scales, [scale], "{amax}");
        }
    }

    #[test]
    fn nan_fills_its_group_and_no_other() {
        let mut x = vec![1.0; 256];
        x[5] = -f32::NAN;
        let q = quantize(&x, [1, 256], 1, true).unwrap();
        assert_eq!(q.scales[0].to_bits(), NAN);
        assert!(q.values[..128].iter().all(|q| *q == E4M3::NAN));
        assert!(q.values[128..].iter().all(|q| q.to_f32() == 256.0), "{:?}", q.values[128]);
    }
}
