//! Exact FP8 products on AVX2: 32 products in some 18 instructions, no branch.

use std::arch::x86_64::*;

use super::super::Mma;
use super::super::sweep::{Accumulator, Path, Specials};
use super::{LOWEST, PAIRS, Row, Strip, WIDTH, lay_and_sweep};

/// Exists only inside [`run`], on a host with AVX2.
struct Avx2;

#[target_feature(enable = "avx2")]
pub(super) fn run<A: Accumulator>(mma: &Mma<'_>, acc: &mut [A]) {
    lay_and_sweep(mma, &Avx2, acc);
}

impl Path<WIDTH> for Avx2 {
    const FRACTION: u32 = 13;
    const LOWEST: i32 = LOWEST;
    const REACH: i32 = 16;
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
fn load<T, const N: usize>(from: &[T; N], vector: usize) -> __m256i {
    assert!((vector + 1) * 32 <= size_of::<[T; N]>());
    // SAFETY: the 32 bytes lie inside the array, as just checked.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast::<__m256i>().add(vector)) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(low: __m256i, high: __m256i) -> [i32; WIDTH] {
    let mut out = [0; WIDTH];
    // SAFETY: sixteen 32-bit integers are two vectors.
    unsafe {
        _mm256_storeu_si256(out.as_mut_ptr().cast(), low);
        _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>().add(1), high);
    }
    out
}

#[target_feature(enable = "avx2")]
#[inline]
fn largest(row: &Row, strip: &Strip) -> [i32; WIDTH] {
    let mut largest = _mm256_set1_epi8(i8::MIN);
    for p in 0..PAIRS {
        let a = _mm256_set1_epi32(row.exponents[p] as i32);
        let exponents = _mm256_add_epi8(load(&strip.exponents[p], 0), a);
        largest = _mm256_max_epi8(largest, exponents);
    }
    // The larger of even and odd k, in the upper byte of each half-word; then to 32 bits, in column order.
    let largest = _mm256_max_epi8(largest, _mm256_slli_epi16::<8>(largest));
    let zero = _mm256_setzero_si256();
    store(
        _mm256_srai_epi32::<24>(_mm256_unpacklo_epi16(zero, largest)),
        _mm256_srai_epi32::<24>(_mm256_unpackhi_epi16(zero, largest)),
    )
}

#[target_feature(enable = "avx2")]
#[inline]
fn sum(row: &Row, strip: &Strip, to: &[i32; WIDTH]) -> [i32; WIDTH] {
    // A shift by d = to − exponent is a multiplication by 2^(15 − d). Its two bytes come from two tables indexed by 15 − d;
    // a negative index, d above 15, gives zero in both.
    let low_byte =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0));
    let high_byte =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, -128));
    // 15 − to as bytes: packing 32 to 16 bits gives the column order of the exponents.
    let half_words = _mm256_packs_epi32(load(to, 0), load(to, 1));
    let base = _mm256_sub_epi16(_mm256_set1_epi16(15), half_words);
    let base = _mm256_or_si256(_mm256_and_si256(base, _mm256_set1_epi16(0xff)), _mm256_slli_epi16::<8>(base));
    let mut sum_low = _mm256_setzero_si256();
    let mut sum_high = _mm256_setzero_si256();
    for p in 0..PAIRS {
        let a = _mm256_set1_epi32(row.exponents[p] as i32);
        let index = _mm256_add_epi8(_mm256_add_epi8(load(&strip.exponents[p], 0), base), a);
        let low = _mm256_shuffle_epi8(low_byte, index);
        let high = _mm256_shuffle_epi8(high_byte, index);
        let magnitude = _mm256_set1_epi32(row.magnitudes[p] as i32);
        let sign = _mm256_set1_epi32(row.signs[p] as i32);
        let product = _mm256_mullo_epi16(load(&strip.magnitudes[p], 0), magnitude);
        let term = _mm256_mulhi_epu16(product, _mm256_unpacklo_epi8(low, high));
        let signs = _mm256_sign_epi16(load(&strip.signs[p], 0), sign);
        sum_low = _mm256_add_epi32(sum_low, _mm256_madd_epi16(term, signs));
        let product = _mm256_mullo_epi16(load(&strip.magnitudes[p], 1), magnitude);
        let term = _mm256_mulhi_epu16(product, _mm256_unpackhi_epi8(low, high));
        let signs = _mm256_sign_epi16(load(&strip.signs[p], 1), sign);
        sum_high = _mm256_add_epi32(sum_high, _mm256_madd_epi16(term, signs));
    }
    store(sum_low, sum_high)
}
