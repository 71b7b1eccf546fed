//! The products that need no bit-exact model: [`super::Mode::Fast`], in F32 with fused multiply-adds in K order, and 8-bit
//! integers and single bits, exact anyway.
//!
//! Hosts without a fused multiply-add unit multiply and add separately: a product of two significands of at most 11 bits is exact
//! in F32, so results differ only where a product over- or underflows.

use std::sync::LazyLock;

use super::{Format, Host, K_BYTES, Mma};
use crate::convert::{self, Clamp, Rounding};

/// Columns worked on at a time.
const WIDTH: usize = 32;

/// The values of all 256 elements of an FP8 format.
static FP8: LazyLock<[[f32; 256]; 2]> = LazyLock::new(|| {
    [
        std::array::from_fn(|bits| convert::e4m3_to_f32(bits as u8)),
        std::array::from_fn(|bits| convert::e5m2_to_f32(bits as u8)),
    ]
});

/// One row of an operand, widened.
#[inline(always)]
fn widen(format: Format, bytes: &[u8], negate: bool, out: &mut [f32; K_BYTES]) {
    let flip = if negate { 1_u32 << 31 } else { 0 };
    let signed = |value: f32| f32::from_bits(value.to_bits() ^ flip);
    match format {
        Format::E4M3 | Format::E5M2 => {
            let table = &FP8[usize::from(format == Format::E5M2)];
            out.iter_mut().zip(bytes).for_each(|(to, &bits)| *to = signed(table[usize::from(bits)]));
        }
        Format::F16 => {
            for (to, two) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                let bits = u32::from(u16::from_le_bytes([two[0], two[1]]));
                // Rebased by multiplication, which also normalises subnormals; the top exponent means infinity or NaN.
                let rebased = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
                let top = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
                *to = signed(f32::from_bits(rebased.to_bits() | top | (bits & 0x8000) << 16));
            }
        }
        Format::BF16 => {
            for (to, two) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *to = signed(convert::bf16_to_f32(u16::from_le_bytes([two[0], two[1]])));
            }
        }
        Format::TF32 => {
            for (to, word) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                let bits = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                *to = signed(f32::from_bits(bits & !0x1fff));
            }
        }
        Format::S8 | Format::U8 | Format::B1 => unreachable!("integer operands accumulate in S32"),
    }
}

/// Rows of A, and B transposed and padded to whole strips: `[strip][k][column]`.
struct Laid {
    k: usize,
    a: Vec<[f32; K_BYTES]>,
    b: Vec<[f32; WIDTH]>,
}

#[inline(always)]
fn lay(mma: &Mma<'_>) -> Laid {
    let k = mma.k();
    let mut a = vec![[0.0; K_BYTES]; mma.m];
    for (to, bytes) in a.iter_mut().zip(mma.a.chunks_exact(K_BYTES)) {
        widen(mma.a_format, bytes, mma.negate_a, to);
    }
    let mut b = vec![[0.0; WIDTH]; mma.n.div_ceil(WIDTH) * k];
    for (strip, columns) in b.chunks_exact_mut(k).zip(mma.b.chunks(WIDTH * K_BYTES)) {
        for (column, bytes) in columns.chunks_exact(K_BYTES).enumerate() {
            let mut row = [0.0; K_BYTES];
            widen(mma.b_format, bytes, mma.negate_b, &mut row);
            strip.iter_mut().zip(row).for_each(|(to, value)| to[column] = value);
        }
    }
    Laid { k, a, b }
}

/// Walks the result in pieces of `ROWS` × `WIDTH`; `piece` adds the products to the sums it is given.
#[inline(always)]
fn multiply<const ROWS: usize>(
    mma: &Mma<'_>,
    acc: &mut [f32],
    piece: impl Fn([&[f32]; ROWS], &[[f32; WIDTH]], &mut [[f32; WIDTH]; ROWS]),
) {
    let laid = lay(mma);
    for (s, strip) in laid.b.chunks_exact(laid.k).enumerate() {
        let first = s * WIDTH;
        let width = WIDTH.min(mma.n - first);
        for i in (0..mma.m).step_by(ROWS) {
            // Beyond the last row, it is computed again and dropped.
            let rows = std::array::from_fn(|r| &laid.a[(i + r).min(mma.m - 1)][..laid.k]);
            let mut sums = [[0.0; WIDTH]; ROWS];
            let outs = acc[i * mma.n..].chunks_mut(mma.n);
            if mma.accumulate {
                for (sum, out) in sums.iter_mut().zip(outs) {
                    sum[..width].copy_from_slice(&out[first..first + width]);
                }
            }
            piece(rows, strip, &mut sums);
            for (sum, out) in sums.iter().zip(acc[i * mma.n..].chunks_mut(mma.n)) {
                out[first..first + width].copy_from_slice(&sum[..width]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(mma: &Mma<'_>, acc: &mut [f32]) {
    use std::arch::x86_64::*;
    multiply::<2>(mma, acc, |rows, strip, sums| {
        let mut vectors = [[_mm256_setzero_ps(); WIDTH / 8]; 2];
        for (vectors, sums) in vectors.iter_mut().zip(sums.iter()) {
            for (vector, sum) in vectors.iter_mut().zip(sums.chunks_exact(8)) {
                // SAFETY: the chunk is eight floats.
                *vector = unsafe { _mm256_loadu_ps(sum.as_ptr()) };
            }
        }
        for ((b, a0), a1) in strip.iter().zip(rows[0]).zip(rows[1]) {
            let (a0, a1) = (_mm256_set1_ps(*a0), _mm256_set1_ps(*a1));
            for (v, b) in b.chunks_exact(8).enumerate() {
                // SAFETY: the chunk is eight floats.
                let b = unsafe { _mm256_loadu_ps(b.as_ptr()) };
                vectors[0][v] = _mm256_fmadd_ps(a0, b, vectors[0][v]);
                vectors[1][v] = _mm256_fmadd_ps(a1, b, vectors[1][v]);
            }
        }
        for (vectors, sums) in vectors.iter().zip(sums.iter_mut()) {
            for (vector, sum) in vectors.iter().zip(sums.chunks_exact_mut(8)) {
                // SAFETY: the chunk is eight floats.
                unsafe { _mm256_storeu_ps(sum.as_mut_ptr(), *vector) };
            }
        }
    });
}

pub(super) fn f32(mma: &Mma<'_>, host: Host, acc: &mut [f32]) {
    match host {
        Host::Portable => multiply::<1>(mma, acc, |[row], strip, [sums]| {
            for (a, b) in row.iter().zip(strip) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this host was chosen because it has AVX2 and FMA.
        Host::Avx2 => unsafe { multiply_avx2(mma, acc) },
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
    let extend = |format: Format, byte: u8| match format {
        Format::S8 => i32::from(byte as i8),
        _ => i32::from(byte),
    };
    let mut b = vec![[0_i32; WIDTH]; mma.n.div_ceil(WIDTH) * K_BYTES];
    for (j, bytes) in mma.b.chunks_exact(K_BYTES).enumerate() {
        for (k, &byte) in bytes.iter().enumerate() {
            b[j / WIDTH * K_BYTES + k][j % WIDTH] = extend(mma.b_format, byte);
        }
    }
    for (i, bytes) in mma.a.chunks_exact(K_BYTES).enumerate() {
        let mut row = [0; K_BYTES];
        row.iter_mut().zip(bytes).for_each(|(to, &byte)| *to = extend(mma.a_format, byte));
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

/// Counts the bits that rows have in common.
fn single_bits(mma: &Mma<'_>, acc: &mut [i32]) {
    for (i, a) in mma.a.chunks_exact(K_BYTES).enumerate() {
        for (j, b) in mma.b.chunks_exact(K_BYTES).enumerate() {
            let common: u32 = a.iter().zip(b).map(|(a, b)| (a & b).count_ones()).sum();
            let out = &mut acc[i * mma.n + j];
            *out = if mma.accumulate { out.wrapping_add(common as i32) } else { common as i32 };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn integers_avx2(mma: &Mma<'_>, acc: &mut [i32], saturate: bool) {
    integers(mma, acc, saturate);
}

pub(super) fn s32(mma: &Mma<'_>, host: Host, acc: &mut [i32], saturate: bool) {
    if mma.a_format == Format::B1 {
        return single_bits(mma, acc);
    }
    match host {
        Host::Portable => integers(mma, acc, saturate),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this host was chosen because it has AVX2.
        Host::Avx2 => unsafe { integers_avx2(mma, acc, saturate) },
    }
}
