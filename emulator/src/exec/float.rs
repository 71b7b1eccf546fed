//! Floating-point arithmetic, on columns.
//!
//! Results are correctly rounded in the rounding the instruction names; a NaN result is the canonical one (0x7fffffff for
//! F32, 0x7fff for F16 and BF16). `min` and `max` drop a NaN operand unless `.NaN` keeps it, and order −0 below +0.
//!
//! Directed roundings and the 16-bit types go through F64 rounded to odd: 53 bits with a sticky last one survive a second
//! rounding to 24 bits or fewer unchanged. The approximations (`ex2`, `lg2`, `rcp`, `rsqrt`, `sin`, `cos`, `tanh`,
//! `sqrt.approx`) are computed in F64 and rounded to nearest: the chip's tables are not public, and this is
//! inside its stated error. `div.approx` and `div.full` multiply by
//! a reciprocal, as compiled code does; ptxas folds constants to the same bits (tests/ptxas_folding.rs).

use super::directed as soft;
use super::lanes::{map1, map2, map3, mask2, vectorised};
use crate::convert::{self, Clamp, Rounding};
use crate::ir::{Arith, BinOp, Cmp, Round, TernOp, UnOp};
use crate::machine::warp::{Col32, Col64};

const NAN32: u32 = 0x7fff_ffff;

/// An operand, flushed if the instruction flushes.
#[inline(always)]
fn load(bits: u32, ftz: bool) -> f32 {
    let tiny = bits & 0x7f80_0000 == 0;
    f32::from_bits(if ftz && tiny { bits & 0x8000_0000 } else { bits })
}

/// A result: flushed, saturated, NaN made canonical.
#[inline(always)]
fn store(value: f32, ftz: bool, sat: bool) -> u32 {
    let value = if sat { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
    let bits = value.to_bits();
    let bits = if ftz && bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits };
    if value.is_nan() { NAN32 } else { bits }
}

/// The F64 nearest to `value + error`, with the last bit odd unless exact.
#[inline(always)]
fn odd(value: f64, error: f64) -> f64 {
    if error == 0.0 || !error.is_finite() || !value.is_finite() || value.to_bits() & 1 == 1 {
        value
    } else if error > 0.0 {
        value.next_up()
    } else {
        value.next_down()
    }
}

/// `a + b`, rounded to odd.
#[inline(always)]
fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let back = sum - a;
    odd(sum, (a - (sum - back)) + (b - back))
}

fn div_odd(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    // The remainder has the sign of the error, seen through the sign of the divisor.
    let rest = (-quotient).mul_add(b, a);
    odd(quotient, if b < 0.0 { -rest } else { rest })
}

fn sqrt_odd(a: f64) -> f64 {
    let root = a.sqrt();
    odd(root, (-root).mul_add(root, a))
}

fn rounding(round: Round) -> Rounding {
    match round {
        Round::Rz => Rounding::Zero,
        Round::Rm => Rounding::Down,
        Round::Rp => Rounding::Up,
        _ => Rounding::Nearest,
    }
}

/// An exact or odd-rounded F64 to F32, zero signs as the rounding mode wants them for sums.
fn narrow(value: f64, mods: Arith, sum: bool) -> u32 {
    let value =
        if sum && value == 0.0 && mods.round == Round::Rm && value.is_sign_positive() { -0.0 } else { value };
    let bits = convert::f64_to_f32(value, rounding(mods.round), Clamp::NONE);
    store(f32::from_bits(bits), mods.ftz, mods.sat)
}

/// `div.approx` and `div.full` as they are compiled: the dividend times the divisor's reciprocal, whose subnormals (operand and
/// result) are flushed; both scaled first where the instruction promises more range.
fn quotient(mut x: f32, mut y: f32, mods: Arith) -> f32 {
    let flush = |v: f32| load(v.to_bits(), true);
    if mods.round == Round::Full && y.abs() > 2f32.powi(126) {
        (x, y) = (x * 0.25, y * 0.25);
        if mods.ftz {
            x = flush(x);
        }
    }
    if !mods.ftz && y.abs() < f32::MIN_POSITIVE {
        (x, y) = (x * 16_777_216.0, y * 16_777_216.0);
    }
    x * flush(1.0 / flush(y))
}

fn directed(round: Round) -> bool {
    matches!(round, Round::Rz | Round::Rm | Round::Rp)
}

#[inline(always)]
fn min32(x: f32, y: f32, nan: bool) -> f32 {
    if x.is_nan() || y.is_nan() {
        return if nan {
            f32::NAN
        } else if x.is_nan() {
            y
        } else {
            x
        };
    }
    if x < y || (x == y && x.is_sign_negative()) { x } else { y }
}

#[inline(always)]
fn max32(x: f32, y: f32, nan: bool) -> f32 {
    if x.is_nan() || y.is_nan() {
        return if nan {
            f32::NAN
        } else if x.is_nan() {
            y
        } else {
            x
        };
    }
    if x > y || (x == y && y.is_sign_negative()) { x } else { y }
}

#[inline(always)]
fn xorsign(x: f32, y: f32, result: f32) -> f32 {
    f32::from_bits(result.to_bits() | (x.to_bits() ^ y.to_bits()) & 0x8000_0000)
}

/// `add.f32` to nearest, without modifiers; so the others.
#[inline(always)]
pub(super) fn plain_add(a: u32, b: u32) -> u32 {
    store(load(a, false) + load(b, false), false, false)
}

#[inline(always)]
pub(super) fn plain_sub(a: u32, b: u32) -> u32 {
    store(load(a, false) - load(b, false), false, false)
}

#[inline(always)]
pub(super) fn plain_mul(a: u32, b: u32) -> u32 {
    store(load(a, false) * load(b, false), false, false)
}

#[inline(always)]
pub(super) fn plain_fma(a: u32, b: u32, c: u32) -> u32 {
    store(load(a, false).mul_add(load(b, false), load(c, false)), false, false)
}

#[inline(always)]
pub(super) fn plain_min(a: u32, b: u32) -> u32 {
    store(min32(load(a, false), load(b, false), false), false, false)
}

#[inline(always)]
pub(super) fn plain_max(a: u32, b: u32) -> u32 {
    store(max32(load(a, false), load(b, false), false), false, false)
}

vectorised! {
    /// F32, two operands.
    pub(crate) fn bin_f32(op: BinOp, mods: Arith, a: &Col32, b: &Col32, d: &mut Col32) -> bool {
        let (ftz, sat) = (mods.ftz, mods.sat);
        if directed(mods.round) {
            let wide = |x: u32| load(x, ftz) as f64;
            return match op {
                // A sum of equal magnitudes is +0 except when rounding down; x + x of zeros keeps its sign.
                BinOp::Add => map2(a, b, d, |x, y| {
                    let (x, y) = (wide(x), wide(y));
                    narrow(add_odd(x, y), mods, x != 0.0 || y != 0.0 || x.is_sign_positive() != y.is_sign_positive())
                }),
                BinOp::Sub => map2(a, b, d, |x, y| {
                    let (x, y) = (wide(x), -wide(y));
                    narrow(add_odd(x, y), mods, x != 0.0 || y != 0.0 || x.is_sign_positive() != y.is_sign_positive())
                }),
                BinOp::Mul | BinOp::MulLo => map2(a, b, d, |x, y| narrow(wide(x) * wide(y), mods, false)),
                BinOp::Div => map2(a, b, d, |x, y| narrow(div_odd(wide(x), wide(y)), mods, false)),
                _ => false,
            };
        }
        match (op, ftz) {
            (BinOp::Add, false) => map2(a, b, d, |x, y| store(load(x, false) + load(y, false), false, sat)),
            (BinOp::Add, true) => map2(a, b, d, |x, y| store(load(x, true) + load(y, true), true, sat)),
            (BinOp::Sub, _) => map2(a, b, d, |x, y| store(load(x, ftz) - load(y, ftz), ftz, sat)),
            (BinOp::Mul | BinOp::MulLo, false) => {
                map2(a, b, d, |x, y| store(load(x, false) * load(y, false), false, sat))
            }
            (BinOp::Mul | BinOp::MulLo, true) => {
                map2(a, b, d, |x, y| store(load(x, true) * load(y, true), true, sat))
            }
            (BinOp::Div, _) if matches!(mods.round, Round::Approx | Round::Full) => {
                map2(a, b, d, |x, y| store(quotient(load(x, ftz), load(y, ftz), mods), ftz, sat))
            }
            (BinOp::Div, _) => map2(a, b, d, |x, y| store(load(x, ftz) / load(y, ftz), ftz, sat)),
            (BinOp::Min, _) if mods.xorsign_abs => map2(a, b, d, |x, y| {
                let (x, y) = (load(x, ftz), load(y, ftz));
                store(xorsign(x, y, min32(x.abs(), y.abs(), mods.nan)), ftz, false)
            }),
            (BinOp::Max, _) if mods.xorsign_abs => map2(a, b, d, |x, y| {
                let (x, y) = (load(x, ftz), load(y, ftz));
                store(xorsign(x, y, max32(x.abs(), y.abs(), mods.nan)), ftz, false)
            }),
            (BinOp::Min, _) => map2(a, b, d, |x, y| store(min32(load(x, ftz), load(y, ftz), mods.nan), ftz, false)),
            (BinOp::Max, _) => map2(a, b, d, |x, y| store(max32(load(x, ftz), load(y, ftz), mods.nan), ftz, false)),
            (BinOp::CopySign, _) => map2(a, b, d, |x, y| x & 0x8000_0000 | y & 0x7fff_ffff),
            _ => false,
        }
    }
}

vectorised! {
    /// F32 fused multiply-add.
    pub(crate) fn fma_f32(mods: Arith, a: &Col32, b: &Col32, c: &Col32, d: &mut Col32) -> bool {
        let (ftz, sat) = (mods.ftz, mods.sat);
        if directed(mods.round) {
            return map3(a, b, c, d, |x, y, z| {
                let (x, y, z) = (load(x, ftz) as f64, load(y, ftz) as f64, load(z, ftz) as f64);
                // The product is exact.
                let product = x * y;
                let cancels = product != 0.0 || z != 0.0 || product.is_sign_positive() != z.is_sign_positive();
                narrow(add_odd(product, z), mods, cancels)
            });
        }
        if ftz {
            map3(a, b, c, d, |x, y, z| store(load(x, true).mul_add(load(y, true), load(z, true)), true, sat))
        } else {
            map3(a, b, c, d, |x, y, z| store(load(x, false).mul_add(load(y, false), load(z, false)), false, sat))
        }
    }
}

vectorised! {
    /// F32, one operand.
    pub(crate) fn un_f32(op: UnOp, mods: Arith, a: &Col32, d: &mut Col32) -> bool {
        let ftz = mods.ftz;
        let wide = |x: u32| load(x, ftz) as f64;
        match op {
            UnOp::Neg => map1(a, d, |x| load(x, ftz).to_bits() ^ 0x8000_0000),
            UnOp::Abs => map1(a, d, |x| load(x, ftz).to_bits() & 0x7fff_ffff),
            UnOp::Rcp if directed(mods.round) => map1(a, d, |x| narrow(div_odd(1.0, wide(x)), mods, false)),
            UnOp::Sqrt if directed(mods.round) => map1(a, d, |x| narrow(sqrt_odd(wide(x)), mods, false)),
            UnOp::Rcp => map1(a, d, |x| store(1.0 / load(x, ftz), ftz, false)),
            UnOp::Sqrt => map1(a, d, |x| store(load(x, ftz).sqrt(), ftz, false)),
            UnOp::Rsqrt => map1(a, d, |x| store((1.0 / wide(x).sqrt()) as f32, ftz, false)),
            UnOp::Ex2 => map1(a, d, |x| store(wide(x).exp2() as f32, ftz, false)),
            UnOp::Lg2 => map1(a, d, |x| store(wide(x).log2() as f32, ftz, false)),
            UnOp::Sin => map1(a, d, |x| store(wide(x).sin() as f32, ftz, false)),
            UnOp::Cos => map1(a, d, |x| store(wide(x).cos() as f32, ftz, false)),
            UnOp::Tanh => map1(a, d, |x| store(wide(x).tanh() as f32, ftz, false)),
            _ => false,
        }
    }
}

/// `testp` on F32.
pub(crate) fn testp_f32(op: UnOp, a: &Col32) -> Option<u32> {
    let test = |f: fn(f32) -> bool| mask2(a, a, |x, _| f(f32::from_bits(x)));
    Some(match op {
        UnOp::TestpFinite => test(f32::is_finite),
        UnOp::TestpInfinite => test(f32::is_infinite),
        UnOp::TestpNumber => test(|x| !x.is_nan()),
        UnOp::TestpNotANumber => test(f32::is_nan),
        UnOp::TestpNormal => test(f32::is_normal),
        UnOp::TestpSubnormal => test(f32::is_subnormal),
        _ => return None,
    })
}

/// `testp` on F64.
pub(crate) fn testp_f64(op: UnOp, a: &Col64) -> Option<u32> {
    let test = |f: fn(f64) -> bool| mask2(a, a, |x, _| f(f64::from_bits(x)));
    Some(match op {
        UnOp::TestpFinite => test(f64::is_finite),
        UnOp::TestpInfinite => test(f64::is_infinite),
        UnOp::TestpNumber => test(|x| !x.is_nan()),
        UnOp::TestpNotANumber => test(f64::is_nan),
        UnOp::TestpNormal => test(f64::is_normal),
        UnOp::TestpSubnormal => test(f64::is_subnormal),
        _ => return None,
    })
}

/// Does a comparison hold, given the order (`None`: a NaN is involved)?
#[inline(always)]
fn holds<T: PartialOrd>(cmp: Cmp, x: T, y: T) -> bool {
    match cmp {
        Cmp::Eq => x == y,
        Cmp::Ne => x.partial_cmp(&y).is_some_and(|o| o.is_ne()),
        Cmp::Lt | Cmp::Lo => x < y,
        Cmp::Le | Cmp::Ls => x <= y,
        Cmp::Gt | Cmp::Hi => x > y,
        Cmp::Ge | Cmp::Hs => x >= y,
        Cmp::Equ => x.partial_cmp(&y).is_none_or(|o| o.is_eq()),
        Cmp::Neu => x != y,
        Cmp::Ltu => x.partial_cmp(&y).is_none_or(|o| o.is_lt()),
        Cmp::Leu => x.partial_cmp(&y).is_none_or(|o| o.is_le()),
        Cmp::Gtu => x.partial_cmp(&y).is_none_or(|o| o.is_gt()),
        Cmp::Geu => x.partial_cmp(&y).is_none_or(|o| o.is_ge()),
        Cmp::Num => x.partial_cmp(&y).is_some(),
        Cmp::Nan => x.partial_cmp(&y).is_none(),
    }
}

vectorised! {
    /// Comparison of F32.
    pub(crate) fn cmp_f32(cmp: Cmp, ftz: bool, a: &Col32, b: &Col32) -> u32 {
        mask2(a, b, |x, y| holds(cmp, load(x, ftz), load(y, ftz)))
    }
}

/// Comparison of F64.
pub(crate) fn cmp_f64(cmp: Cmp, a: &Col64, b: &Col64) -> u32 {
    mask2(a, b, |x, y| holds(cmp, f64::from_bits(x), f64::from_bits(y)))
}

/// Comparison of F16 (`bf` false) or BF16.
pub(crate) fn cmp_half(cmp: Cmp, bf: bool, ftz: bool, a: &Col32, b: &Col32) -> u32 {
    let half = Half { bf, ftz };
    mask2(a, b, |x, y| holds(cmp, half.widen(x as u16), half.widen(y as u16)))
}

vectorised! {
    /// F64, two operands.
    pub(crate) fn bin_f64(op: BinOp, mods: Arith, a: &Col64, b: &Col64, d: &mut Col64) -> bool {
        let v = f64::from_bits;
        if directed(mods.round) {
            return bin_f64_directed(op, mods.round, a, b, d);
        }
        match op {
            BinOp::Add => map2(a, b, d, |x, y| (v(x) + v(y)).to_bits()),
            BinOp::Sub => map2(a, b, d, |x, y| (v(x) - v(y)).to_bits()),
            BinOp::Mul | BinOp::MulLo => map2(a, b, d, |x, y| (v(x) * v(y)).to_bits()),
            BinOp::Div => map2(a, b, d, |x, y| (v(x) / v(y)).to_bits()),
            BinOp::Min => map2(a, b, d, |x, y| pick(v(x), v(y), true).to_bits()),
            BinOp::Max => map2(a, b, d, |x, y| pick(v(x), v(y), false).to_bits()),
            BinOp::CopySign => map2(a, b, d, |x, y| x & 1 << 63 | y & !(1 << 63)),
            _ => false,
        }
    }
}

fn bin_f64_directed(op: BinOp, round: Round, a: &Col64, b: &Col64, d: &mut Col64) -> bool {
    let v = f64::from_bits;
    match op {
        BinOp::Add => map2(a, b, d, |x, y| soft::add(v(x), v(y), round).to_bits()),
        BinOp::Sub => map2(a, b, d, |x, y| soft::add(v(x), -v(y), round).to_bits()),
        BinOp::Mul | BinOp::MulLo => map2(a, b, d, |x, y| soft::mul(v(x), v(y), round).to_bits()),
        BinOp::Div => map2(a, b, d, |x, y| soft::div(v(x), v(y), round).to_bits()),
        _ => false,
    }
}

/// The lesser (or greater) of two F64, a NaN dropped.
fn pick(x: f64, y: f64, lesser: bool) -> f64 {
    if x.is_nan() {
        y
    } else if y.is_nan() {
        x
    } else if x == y {
        if x.is_sign_negative() == lesser { x } else { y }
    } else if (x < y) == lesser {
        x
    } else {
        y
    }
}

vectorised! {
    /// F64 fused multiply-add.
    pub(crate) fn fma_f64(mods: Arith, a: &Col64, b: &Col64, c: &Col64, d: &mut Col64) -> bool {
        let v = f64::from_bits;
        if directed(mods.round) {
            return map3(a, b, c, d, |x, y, z| soft::fma(v(x), v(y), v(z), mods.round).to_bits());
        }
        map3(a, b, c, d, |x, y, z| v(x).mul_add(v(y), v(z)).to_bits())
    }
}

/// F64, one operand.
pub(crate) fn un_f64(op: UnOp, mods: Arith, a: &Col64, d: &mut Col64) -> bool {
    let v = f64::from_bits;
    match op {
        UnOp::Neg => map1(a, d, |x| x ^ 1 << 63),
        UnOp::Abs => map1(a, d, |x| x & !(1 << 63)),
        UnOp::Rcp if directed(mods.round) => map1(a, d, |x| soft::div(1.0, v(x), mods.round).to_bits()),
        UnOp::Sqrt if directed(mods.round) => map1(a, d, |x| soft::sqrt(v(x), mods.round).to_bits()),
        UnOp::Rcp => map1(a, d, |x| (1.0 / v(x)).to_bits()),
        UnOp::Sqrt => map1(a, d, |x| v(x).sqrt().to_bits()),
        UnOp::Rsqrt => map1(a, d, |x| (1.0 / v(x).sqrt()).to_bits()),
        _ => false,
    }
}

/// A 16-bit format.
#[derive(Clone, Copy)]
struct Half {
    bf: bool,
    ftz: bool,
}

impl Half {
    fn widen(self, bits: u16) -> f64 {
        let exponent = if self.bf { 0x7f80 } else { 0x7c00 };
        let bits = if self.ftz && bits & exponent == 0 { bits & 0x8000 } else { bits };
        (if self.bf { convert::bf16_to_f32(bits) } else { convert::f16_to_f32(bits) }) as f64
    }

    fn narrow(self, value: f64, mods: Arith) -> u16 {
        let value = if mods.sat { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
        let clamp = Clamp { satfinite: false, relu: mods.relu };
        let round = rounding(mods.round);
        let bits = if self.bf {
            convert::f64_to_bf16(value, round, clamp)
        } else {
            convert::f64_to_f16(value, round, clamp)
        };
        let exponent = if self.bf { 0x7f80 } else { 0x7c00 };
        if self.ftz && bits & exponent == 0 { bits & 0x8000 } else { bits }
    }
}

impl Half {
    /// A new sign. The chip adds zero to say so, and so gives its one NaN for any.
    fn sign(self, bits: u16, new: impl Fn(u16) -> u16) -> u16 {
        let infinity = if self.bf { 0x7f80 } else { 0x7c00 };
        match bits & 0x7fff {
            size if size > infinity => 0x7fff,
            _ if self.ftz && bits & infinity == 0 => new(bits & 0x8000),
            _ => new(bits),
        }
    }
}

/// Applies `f` to one half, or to both of a packed pair: it gets the shift that brings the half down.
fn halves(packed: bool, f: impl Fn(u32) -> u16) -> u32 {
    let low = f(0) as u32;
    if packed { low | (f(16) as u32) << 16 } else { low }
}

/// F16 and BF16, one operand; `packed`: two values in each lane.
pub(crate) fn un_half(op: UnOp, bf: bool, packed: bool, mods: Arith, a: &Col32, d: &mut Col32) -> bool {
    let half = Half { bf, ftz: mods.ftz };
    let f: fn(f64) -> f64 = match op {
        UnOp::Neg => {
            return map1(a, d, |x| halves(packed, |s| half.sign((x >> s) as u16, |bits| bits ^ 0x8000)));
        }
        UnOp::Abs => {
            return map1(a, d, |x| halves(packed, |s| half.sign((x >> s) as u16, |bits| bits & 0x7fff)));
        }
        UnOp::Ex2 => f64::exp2,
        UnOp::Tanh => f64::tanh,
        UnOp::Rcp => |x| 1.0 / x,
        UnOp::Sqrt => f64::sqrt,
        UnOp::Rsqrt => |x| 1.0 / x.sqrt(),
        _ => return false,
    };
    map1(a, d, |x| halves(packed, |s| half.narrow(f(half.widen((x >> s) as u16)), mods)))
}

/// F16 and BF16, two operands.
pub(crate) fn bin_half(
    op: BinOp,
    bf: bool,
    packed: bool,
    mods: Arith,
    a: &Col32,
    b: &Col32,
    d: &mut Col32,
) -> bool {
    let half = Half { bf, ftz: mods.ftz };
    let f: &dyn Fn(f64, f64) -> f64 = match op {
        BinOp::Add => &add_odd,
        BinOp::Sub => &|x, y| add_odd(x, -y),
        BinOp::Mul | BinOp::MulLo => &|x, y| x * y,
        BinOp::Div => &div_odd,
        BinOp::Min | BinOp::Max => &|x, y| {
            if mods.nan && (x.is_nan() || y.is_nan()) {
                return f64::NAN;
            }
            let (u, v) = if mods.xorsign_abs { (x.abs(), y.abs()) } else { (x, y) };
            let picked = pick(u, v, op == BinOp::Min);
            if mods.xorsign_abs && x.is_sign_negative() != y.is_sign_negative() { -picked } else { picked }
        },
        _ => return false,
    };
    map2(a, b, d, |x, y| {
        halves(packed, |s| half.narrow(f(half.widen((x >> s) as u16), half.widen((y >> s) as u16)), mods))
    })
}

/// F16 and BF16 fused multiply-add.
pub(crate) fn fma_half(
    bf: bool,
    packed: bool,
    mods: Arith,
    a: &Col32,
    b: &Col32,
    c: &Col32,
    d: &mut Col32,
) -> bool {
    let half = Half { bf, ftz: mods.ftz };
    map3(a, b, c, d, |x, y, z| {
        halves(packed, |s| {
            let w = |v: u32| half.widen((v >> s) as u16);
            half.narrow(add_odd(w(x) * w(y), w(z)), mods)
        })
    })
}

/// Does `op` on the type exist as fused multiply-add?
pub(crate) fn is_fma(op: TernOp) -> bool {
    matches!(op, TernOp::Fma | TernOp::MadLo)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(op: BinOp, mods: Arith, x: f32, y: f32) -> u32 {
        let mut d = [0; 32];
        assert!(bin_f32(op, mods, &[x.to_bits(); 32], &[y.to_bits(); 32], &mut d));
        assert!(d.iter().all(|v| *v == d[0]));
        d[0]
    }

    #[test]
    fn roundings_bracket_the_exact_sum() {
        let with = |round| Arith { round, ..Arith::default() };
        let tiny = 2f32.powi(-30);
        let one_bits = 1f32.to_bits();
        assert_eq!(one(BinOp::Add, with(Round::Rn), 1.0, tiny), one_bits);
        assert_eq!(one(BinOp::Add, with(Round::Rp), 1.0, tiny), one_bits + 1);
        assert_eq!(one(BinOp::Add, with(Round::Rz), 1.0, -tiny), one_bits - 1);
        assert_eq!(one(BinOp::Add, with(Round::Rm), -1.0, -tiny), (-1f32).to_bits() + 1);
        assert_eq!(one(BinOp::Add, with(Round::Rz), f32::MAX, f32::MAX), f32::MAX.to_bits());
        assert_eq!(one(BinOp::Sub, with(Round::Rm), 1.0, 1.0), (-0f32).to_bits());
        assert_eq!(one(BinOp::Sub, with(Round::Rz), 1.0, 1.0), 0);
        assert_eq!(one(BinOp::Add, with(Round::Rm), 0.0, 0.0), 0);
        assert_eq!(one(BinOp::Div, with(Round::Rp), 1.0, 3.0), (1f32 / 3.0).to_bits());
        assert_eq!(one(BinOp::Div, with(Round::Rz), 1.0, 3.0), (1f32 / 3.0).to_bits() - 1);
    }

    #[test]
    fn nan_and_zero_rules() {
        let plain = Arith::default();
        assert_eq!(one(BinOp::Add, plain, f32::INFINITY, f32::NEG_INFINITY), NAN32);
        assert_eq!(one(BinOp::Min, plain, f32::NAN, 3.0), 3f32.to_bits());
        assert_eq!(one(BinOp::Max, plain, f32::NAN, f32::NAN), NAN32);
        assert_eq!(one(BinOp::Max, Arith { nan: true, ..plain }, f32::NAN, 3.0), NAN32);
        assert_eq!(one(BinOp::Min, plain, 0.0, -0.0), (-0f32).to_bits());
        assert_eq!(one(BinOp::Max, plain, -0.0, 0.0), 0);
        let ftz = Arith { ftz: true, ..plain };
        assert_eq!(one(BinOp::Add, ftz, f32::from_bits(5), 0.0), 0);
        assert_eq!(one(BinOp::Mul, ftz, f32::MIN_POSITIVE, 0.5), 0);
        assert_eq!(one(BinOp::Mul, Arith { sat: true, ..plain }, 3.0, 4.0), 1f32.to_bits());
        assert_eq!(one(BinOp::Mul, Arith { sat: true, ..plain }, f32::NAN, 4.0), 0);
    }
}
