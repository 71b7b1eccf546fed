//! Loops over the 32 lanes of a warp, compiled twice: once for any x86-64 or other machine, once for AVX2 with FMA.
//!
//! Which copy runs is decided once, from the CPU found at run time. On the same source the second copy is about ten times
//! faster: a column is four vector registers, and `mul_add` is one instruction instead of a library call per lane.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::machine::warp::{Col32, Col64};

/// 0: not asked yet, 1: no, 2: yes.
static FAST: AtomicU8 = AtomicU8::new(0);

/// Has this CPU what the second copy needs?
#[inline(always)]
pub(crate) fn fast_cpu() -> bool {
    match FAST.load(Ordering::Relaxed) {
        0 => detect(),
        state => state == 2,
    }
}

#[cold]
fn detect() -> bool {
    #[cfg(target_arch = "x86_64")]
    let fast = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    #[cfg(not(target_arch = "x86_64"))]
    let fast = false;
    FAST.store(1 + fast as u8, Ordering::Relaxed);
    fast
}

/// Defines a function in two copies and chooses between them when called.
macro_rules! vectorised {
    ($(#[$doc:meta])* pub(crate) fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        #[inline]
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
                fn fast($($arg: $ty),*) $(-> $ret)? {
                    plain($($arg),*)
                }
                if $crate::exec::lanes::fast_cpu() {
                    // SAFETY: `fast_cpu` has found every feature that `fast` is compiled for.
                    return unsafe { fast($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// `d = f(a)`, lane by lane.
#[inline(always)]
pub(crate) fn map1<A: Copy, D>(a: &[A; 32], d: &mut [D; 32], f: impl Fn(A) -> D) -> bool {
    for i in 0..32 {
        d[i] = f(a[i]);
    }
    true
}

/// `d = f(a, b)`, lane by lane.
#[inline(always)]
pub(crate) fn map2<A: Copy, B: Copy, D>(
    a: &[A; 32],
    b: &[B; 32],
    d: &mut [D; 32],
    f: impl Fn(A, B) -> D,
) -> bool {
    for i in 0..32 {
        d[i] = f(a[i], b[i]);
    }
    true
}

/// `d = f(a, b, c)`, lane by lane.
#[inline(always)]
pub(crate) fn map3<A: Copy, B: Copy, C: Copy, D>(
    a: &[A; 32],
    b: &[B; 32],
    c: &[C; 32],
    d: &mut [D; 32],
    f: impl Fn(A, B, C) -> D,
) -> bool {
    for i in 0..32 {
        d[i] = f(a[i], b[i], c[i]);
    }
    true
}

/// The lanes where `f(a, b)` holds.
#[inline(always)]
pub(crate) fn mask2<A: Copy, B: Copy>(a: &[A; 32], b: &[B; 32], f: impl Fn(A, B) -> bool) -> u32 {
    let mut flags = [0u8; 32];
    for i in 0..32 {
        flags[i] = f(a[i], b[i]) as u8;
    }
    let mut mask = 0u32;
    for (i, flag) in flags.iter().enumerate() {
        mask |= (*flag as u32) << i;
    }
    mask
}

vectorised! {
    /// Overwrites the lanes of `mask`.
    pub(crate) fn blend32(dst: &mut Col32, value: &Col32, mask: u32) {
        for i in 0..32 {
            dst[i] = if mask >> i & 1 == 1 { value[i] } else { dst[i] };
        }
    }
}

vectorised! {
    /// Overwrites the lanes of `mask`.
    pub(crate) fn blend64(dst: &mut Col64, value: &Col64, mask: u32) {
        for i in 0..32 {
            dst[i] = if mask >> i & 1 == 1 { value[i] } else { dst[i] };
        }
    }
}

/// Calls `f` for every lane of a mask, lowest first.
#[inline(always)]
pub(crate) fn each(mask: u32, mut f: impl FnMut(usize)) {
    let mut rest = mask;
    while rest != 0 {
        f(rest.trailing_zeros() as usize);
        rest &= rest - 1;
    }
}
