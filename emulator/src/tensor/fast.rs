//! The products that need no bit-exact model: [`super::Mode::Fast`], in F32 with fused multiply-adds in K order, and 8-bit
//! integers, exact anyway.
//!
//! Hosts without a fused multiply-add unit multiply and add separately: a product of two significands of at most 11 bits is exact
//! in F32, so results differ only where a product over- or underflows.

use super::{Host, K_BYTES, Mma, model};
use crate::convert::{self, Clamp, Rounding};
use model::{Class, Format};

/// Columns worked on at a time.
const WIDTH: usize = 32;

fn value(format: Format, bits: u32) -> f32 {
    match format {
        Format::S8 => f32::from(bits as u8 as i8),
        Format::U8 => f32::from(bits as u8),
        _ => {
            let operand = format.decode(bits);
            let magnitude = match operand.class {
                Class::Nan => f32::NAN,
                Class::Infinite => f32::INFINITY,
                Class::Finite => {
                    let scale = operand.exponent - format.fraction_bits() as i32;
                    (f64::from(operand.significand) * f64::powi(2.0, scale)) as f32
                }
            };
            if operand.negative { -magnitude } else { magnitude }
        }
    }
}

/// Rows of A, and B transposed and padded to whole strips: `[strip][k][column]`.
struct Laid {
    k: usize,
    a: Vec<f32>,
    b: Vec<[f32; WIDTH]>,
}

fn lay(mma: &Mma<'_>) -> Laid {
    let k = mma.k();
    // Few distinct values in 8-bit formats: decode each once.
    let table = |format: Format| -> Vec<f32> {
        let bytes = if format.bytes() == 1 { 256 } else { 0 };
        (0..bytes).map(|bits| value(format, bits)).collect()
    };
    let (a_table, b_table) = (table(mma.a_format), table(mma.b_format));
    let get = |table: &[f32], format: Format, bits: u32| {
        table.get(bits as usize).copied().unwrap_or_else(|| value(format, bits))
    };
    let a =
        (0..mma.m)
            .flat_map(|i| mma.a_row(i))
            .map(|bits| {
                if mma.a_format.bytes() == 1 { a_table[bits as usize] } else { get(&[], mma.a_format, bits) }
            })
            .collect();
    let mut b = vec![[0.0; WIDTH]; mma.n.div_ceil(WIDTH) * k];
    for j in 0..mma.n {
        for (at, bits) in mma.b_row(j).enumerate() {
            b[j / WIDTH * k + at][j % WIDTH] = get(&b_table, mma.b_format, bits);
        }
    }
    Laid { k, a, b }
}

#[inline(always)]
fn multiply(mma: &Mma<'_>, laid: &Laid, fma: impl Fn(f32, f32, f32) -> f32, acc: &mut [f32]) {
    for (s, strip) in laid.b.chunks_exact(laid.k).enumerate() {
        let first = s * WIDTH;
        let width = WIDTH.min(mma.n - first);
        for (i, row) in laid.a.chunks_exact(laid.k).enumerate() {
            let out = &mut acc[i * mma.n + first..][..width];
            let mut sum = [0.0; WIDTH];
            if mma.accumulate {
                sum[..width].copy_from_slice(out);
            }
            for (a, b) in row.iter().zip(strip) {
                for (sum, b) in sum.iter_mut().zip(b) {
                    *sum = fma(*a, *b, *sum);
                }
            }
            out.copy_from_slice(&sum[..width]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(mma: &Mma<'_>, laid: &Laid, acc: &mut [f32]) {
    multiply(mma, laid, f32::mul_add, acc);
}

pub(super) fn f32(mma: &Mma<'_>, host: Host, acc: &mut [f32]) {
    let laid = lay(mma);
    match host {
        Host::Portable => multiply(mma, &laid, |a, b, c| a * b + c, acc),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this host was chosen because it has AVX2 and FMA.
        Host::Avx2 => unsafe { multiply_avx2(mma, &laid, acc) },
    }
}

pub(super) fn f16(mma: &Mma<'_>, host: Host, acc: &mut [u16]) {
    let mut wide: Vec<f32> = acc.iter().map(|&bits| convert::f16_to_f32(bits)).collect();
    f32(mma, host, &mut wide);
    for (to, from) in acc.iter_mut().zip(wide) {
        *to = convert::f32_to_f16(from, Rounding::Nearest, Clamp::NONE);
    }
}

#[inline(always)]
fn integers(mma: &Mma<'_>, acc: &mut [i32], saturate: bool) {
    let extend = |format: Format, bits: u32| match format {
        Format::S8 => i32::from(bits as u8 as i8),
        _ => bits as i32,
    };
    let mut b = vec![[0_i32; WIDTH]; mma.n.div_ceil(WIDTH) * K_BYTES];
    for j in 0..mma.n {
        for (k, bits) in mma.b_row(j).enumerate() {
            b[j / WIDTH * K_BYTES + k][j % WIDTH] = extend(mma.b_format, bits);
        }
    }
    for i in 0..mma.m {
        let mut row = [0; K_BYTES];
        row.iter_mut().zip(mma.a_row(i)).for_each(|(to, bits)| *to = extend(mma.a_format, bits));
        for (s, strip) in b.chunks_exact(K_BYTES).enumerate() {
            let first = s * WIDTH;
            let width = WIDTH.min(mma.n - first);
            let mut sum = [0; WIDTH];
            for (a, b) in row.iter().zip(strip) {
                for (sum, b) in sum.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
            for (out, sum) in acc[i * mma.n + first..][..width].iter_mut().zip(sum) {
                let c = if mma.accumulate { *out } else { 0 };
                *out = if saturate { c.saturating_add(sum) } else { c.wrapping_add(sum) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn integers_avx2(mma: &Mma<'_>, acc: &mut [i32], saturate: bool) {
    integers(mma, acc, saturate);
}

pub(super) fn s32(mma: &Mma<'_>, host: Host, acc: &mut [i32], saturate: bool) {
    match host {
        Host::Portable => integers(mma, acc, saturate),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this host was chosen because it has AVX2.
        Host::Avx2 => unsafe { integers_avx2(mma, acc, saturate) },
    }
}
