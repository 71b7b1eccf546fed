//! Exact F16, BF16 and TF32 products on AVX2: eight products in nine instructions.

use std::arch::x86_64::*;

use super::super::Mma;
use super::super::sweep::{Accumulator, Path, Specials};
use super::{Portable, Row, Strip, WIDTH, ZERO, any_format};

/// Exists only inside [`run`], on a host with AVX2.
struct Avx2;

#[target_feature(enable = "avx2")]
pub(super) fn run<A: Accumulator>(mma: &Mma<'_>, acc: &mut [A]) {
    any_format(mma, &Avx2, acc);
}

impl Path<WIDTH> for Avx2 {
    const FRACTION: u32 = Portable::FRACTION;
    const LOWEST: i32 = Portable::LOWEST;
    const REACH: i32 = Portable::REACH;
    type Row = Row;
    type Strip = Strip;

    #[inline(always)]
    fn largest(&self, row: &Row, strip: &Strip) -> [i32; WIDTH] {
        // SAFETY: an `Avx2` exists only on hosts with AVX2.
        unsafe { largest(row, strip) }
    }

    #[inline(always)]
    fn sum(&self, row: &Row, strip: &Strip, to: &[i32; WIDTH]) -> [i32; WIDTH] {
        // SAFETY: as above.
        unsafe { sum(row, strip, to) }
    }

    #[inline(always)]
    fn row_specials(row: &Row) -> Specials {
        row.specials
    }

    #[inline(always)]
    fn strip_specials(strip: &Strip) -> Specials {
        strip.specials
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(from: &[i32; WIDTH]) -> __m256i {
    // SAFETY: eight 32-bit integers are one vector.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(vector: __m256i) -> [i32; WIDTH] {
    let mut out = [0; WIDTH];
    // SAFETY: eight 32-bit integers are one vector.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), vector) };
    out
}

#[target_feature(enable = "avx2")]
#[inline]
fn largest(row: &Row, strip: &Strip) -> [i32; WIDTH] {
    let mut largest = _mm256_set1_epi32(2 * ZERO);
    for (a, b) in row.exponents.iter().zip(&strip.exponents).take(row.k) {
        largest = _mm256_max_epi32(largest, _mm256_add_epi32(load(b), _mm256_set1_epi32(*a)));
    }
    store(largest)
}

#[target_feature(enable = "avx2")]
#[inline]
fn sum(row: &Row, strip: &Strip, to: &[i32; WIDTH]) -> [i32; WIDTH] {
    let to = load(to);
    let mut sum = _mm256_setzero_si256();
    for k in 0..row.k {
        let down = _mm256_sub_epi32(
            _mm256_sub_epi32(to, _mm256_set1_epi32(row.exponents[k])),
            load(&strip.exponents[k]),
        );
        // The upper half-words are zero: this is a signed 16 x 16-bit product.
        let product = _mm256_madd_epi16(load(&strip.significands[k]), _mm256_set1_epi32(row.significands[k]));
        // Counts above 31, negative ones of zero terms included, shift everything out.
        let term = _mm256_srlv_epi32(_mm256_abs_epi32(product), down);
        sum = _mm256_add_epi32(sum, _mm256_sign_epi32(term, product));
    }
    store(sum)
}
