//! Integer arithmetic and logic, on columns.
//!
//! Sixteen-bit operations extend their operands by the instruction's type, run as 32-bit ones and are cut back. What the ISA
//! leaves open: division by zero gives all ones, the remainder by zero is the dividend (what the chip's code sequences give).

use super::lanes::{map1, map2, map3, mask2, vectorised};
use crate::ir::{BinOp, Cmp, TernOp, UnOp, Video, VideoOp};
use crate::machine::warp::{Col32, Col64};

vectorised! {
    /// Two operands of 32 bits. False: no such operation.
    pub(crate) fn bin32(op: BinOp, signed: bool, sat: bool, a: &Col32, b: &Col32, d: &mut Col32) -> bool {
        match op {
            BinOp::Add if sat => map2(a, b, d, |x, y| (x as i32).saturating_add(y as i32) as u32),
            BinOp::Sub if sat => map2(a, b, d, |x, y| (x as i32).saturating_sub(y as i32) as u32),
            BinOp::Add => map2(a, b, d, u32::wrapping_add),
            BinOp::Sub => map2(a, b, d, u32::wrapping_sub),
            BinOp::MulLo | BinOp::Mul => map2(a, b, d, u32::wrapping_mul),
            BinOp::MulHi if signed => map2(a, b, d, |x, y| ((x as i32 as i64 * y as i32 as i64) >> 32) as u32),
            BinOp::MulHi => map2(a, b, d, |x, y| ((x as u64 * y as u64) >> 32) as u32),
            BinOp::Mul24Lo if signed => {
                map2(a, b, d, |x, y| ((x << 8) as i32 >> 8).wrapping_mul((y << 8) as i32 >> 8) as u32)
            }
            BinOp::Mul24Hi if signed => map2(a, b, d, |x, y| {
                ((i64::from((x << 8) as i32 >> 8) * i64::from((y << 8) as i32 >> 8)) >> 16) as u32
            }),
            BinOp::Mul24Hi => map2(a, b, d, |x, y| {
                ((u64::from(x & 0xff_ffff) * u64::from(y & 0xff_ffff)) >> 16) as u32
            }),
            BinOp::SzextClamp => map2(a, b, d, |x, y| szext(x, y.min(32), signed)),
            BinOp::SzextWrap => map2(a, b, d, |x, y| szext(x, y & 31, signed)),
            BinOp::BmskClamp => map2(a, b, d, |x, y| bmsk(x.min(32), y.min(32))),
            BinOp::BmskWrap => map2(a, b, d, |x, y| bmsk(x & 31, y & 31)),
            BinOp::Mul24Lo => map2(a, b, d, |x, y| (x & 0xff_ffff).wrapping_mul(y & 0xff_ffff)),
            BinOp::Div if signed => map2(a, b, d, |x, y| {
                if y == 0 { u32::MAX } else { (x as i32).wrapping_div(y as i32) as u32 }
            }),
            BinOp::Div => map2(a, b, d, |x, y| x.checked_div(y).unwrap_or(u32::MAX)),
            BinOp::Rem if signed => map2(a, b, d, |x, y| {
                if y == 0 { x } else { (x as i32).wrapping_rem(y as i32) as u32 }
            }),
            BinOp::Rem => map2(a, b, d, |x, y| x.checked_rem(y).unwrap_or(x)),
            BinOp::Min if signed => map2(a, b, d, |x, y| (x as i32).min(y as i32) as u32),
            BinOp::Min => map2(a, b, d, u32::min),
            BinOp::Max if signed => map2(a, b, d, |x, y| (x as i32).max(y as i32) as u32),
            BinOp::Max => map2(a, b, d, u32::max),
            BinOp::And => map2(a, b, d, |x, y| x & y),
            BinOp::Or => map2(a, b, d, |x, y| x | y),
            BinOp::Xor => map2(a, b, d, |x, y| x ^ y),
            BinOp::Shl => map2(a, b, d, |x, y| if y > 31 { 0 } else { x << (y & 31) }),
            BinOp::Shr if signed => map2(a, b, d, |x, y| (x as i32 >> y.min(31)) as u32),
            BinOp::Shr => map2(a, b, d, |x, y| if y > 31 { 0 } else { x >> (y & 31) }),
            _ => false,
        }
    }
}

vectorised! {
    /// Two operands of 64 bits; shift amounts come in the low half of `b`.
    pub(crate) fn bin64(op: BinOp, signed: bool, a: &Col64, b: &Col64, d: &mut Col64) -> bool {
        match op {
            BinOp::Add => map2(a, b, d, u64::wrapping_add),
            BinOp::Sub => map2(a, b, d, u64::wrapping_sub),
            BinOp::MulLo | BinOp::Mul => map2(a, b, d, u64::wrapping_mul),
            BinOp::MulHi if signed => {
                map2(a, b, d, |x, y| ((x as i64 as i128 * y as i64 as i128) >> 64) as u64)
            }
            BinOp::MulHi => map2(a, b, d, |x, y| ((x as u128 * y as u128) >> 64) as u64),
            BinOp::Div if signed => map2(a, b, d, |x, y| {
                if y == 0 { u64::MAX } else { (x as i64).wrapping_div(y as i64) as u64 }
            }),
            BinOp::Div => map2(a, b, d, |x, y| x.checked_div(y).unwrap_or(u64::MAX)),
            BinOp::Rem if signed => map2(a, b, d, |x, y| {
                if y == 0 { x } else { (x as i64).wrapping_rem(y as i64) as u64 }
            }),
            BinOp::Rem => map2(a, b, d, |x, y| x.checked_rem(y).unwrap_or(x)),
            BinOp::Min if signed => map2(a, b, d, |x, y| (x as i64).min(y as i64) as u64),
            BinOp::Min => map2(a, b, d, u64::min),
            BinOp::Max if signed => map2(a, b, d, |x, y| (x as i64).max(y as i64) as u64),
            BinOp::Max => map2(a, b, d, u64::max),
            BinOp::And => map2(a, b, d, |x, y| x & y),
            BinOp::Or => map2(a, b, d, |x, y| x | y),
            BinOp::Xor => map2(a, b, d, |x, y| x ^ y),
            BinOp::Shl => map2(a, b, d, |x, y| if y as u32 > 63 { 0 } else { x << (y & 63) }),
            BinOp::Shr if signed => map2(a, b, d, |x, y| (x as i64 >> (y as u32).min(63)) as u64),
            BinOp::Shr => map2(a, b, d, |x, y| if y as u32 > 63 { 0 } else { x >> (y & 63) }),
            _ => false,
        }
    }
}

vectorised! {
    /// Extends the low `bits` of every lane.
    pub(crate) fn extend(bits: u32, signed: bool, a: &Col32, d: &mut Col32) -> bool {
        let by = 32 - bits;
        if signed {
            map1(a, d, |x| ((x << by) as i32 >> by) as u32)
        } else {
            map1(a, d, |x| x << by >> by)
        }
    }
}

vectorised! {
    /// `mul.wide` of 32-bit operands.
    pub(crate) fn wide32(signed: bool, a: &Col32, b: &Col32, d: &mut Col64) -> bool {
        if signed {
            map2(a, b, d, |x, y| (x as i32 as i64 * y as i32 as i64) as u64)
        } else {
            map2(a, b, d, |x, y| x as u64 * y as u64)
        }
    }
}

/// 31 minus the position of the most significant bit that differs from the sign, -1 if none.
#[inline(always)]
fn bfind(x: u64, width: u32, signed: bool, shift: bool) -> u32 {
    let value = if signed && x >> (width - 1) & 1 == 1 { !x << (64 - width) >> (64 - width) } else { x };
    if value == 0 {
        return u32::MAX;
    }
    let position = 63 - value.leading_zeros();
    if shift { width - 1 - position } else { position }
}

vectorised! {
    /// One operand of 32 bits.
    pub(crate) fn un32(op: UnOp, signed: bool, a: &Col32, d: &mut Col32) -> bool {
        match op {
            UnOp::Neg => map1(a, d, u32::wrapping_neg),
            UnOp::Abs => map1(a, d, |x| (x as i32).unsigned_abs()),
            UnOp::Not => map1(a, d, |x| !x),
            UnOp::Cnot => map1(a, d, |x| (x == 0) as u32),
            UnOp::Popc => map1(a, d, u32::count_ones),
            UnOp::Clz => map1(a, d, u32::leading_zeros),
            UnOp::Brev => map1(a, d, u32::reverse_bits),
            UnOp::Bfind => map1(a, d, |x| bfind(x as u64, 32, signed, false)),
            UnOp::BfindShiftamt => map1(a, d, |x| bfind(x as u64, 32, signed, true)),
            _ => false,
        }
    }
}

vectorised! {
    /// One operand of 64 bits, result of 64 bits (`popc`, `clz`, `bfind` give 32: their result fits the low half).
    pub(crate) fn un64(op: UnOp, signed: bool, a: &Col64, d: &mut Col64) -> bool {
        match op {
            UnOp::Neg => map1(a, d, u64::wrapping_neg),
            UnOp::Abs => map1(a, d, |x| (x as i64).unsigned_abs()),
            UnOp::Not => map1(a, d, |x| !x),
            UnOp::Cnot => map1(a, d, |x| (x == 0) as u64),
            UnOp::Popc => map1(a, d, |x| x.count_ones() as u64),
            UnOp::Clz => map1(a, d, |x| x.leading_zeros() as u64),
            UnOp::Brev => map1(a, d, u64::reverse_bits),
            UnOp::Bfind => map1(a, d, |x| bfind(x, 64, signed, false) as u64),
            UnOp::BfindShiftamt => map1(a, d, |x| bfind(x, 64, signed, true) as u64),
            _ => false,
        }
    }
}

/// `bfe`: `width` is 32 or 64.
#[inline(always)]
fn bfe(x: u64, pos: u32, len: u32, width: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let full = u64::MAX >> (64 - width);
    if len == 0 {
        return 0;
    }
    let sign = signed && x >> (pos + len - 1).min(width - 1) & 1 == 1;
    let field = if pos >= width { 0 } else { (x & full) >> pos };
    let kept = len.min(width.saturating_sub(pos));
    let mask = if kept == 0 { 0 } else { u64::MAX >> (64 - kept) };
    let upper = if sign { full & !mask } else { 0 };
    field & mask | upper
}

/// The low `bits` of a value, extended to 32.
#[inline(always)]
fn szext(x: u32, bits: u32, signed: bool) -> u32 {
    let by = 32 - bits;
    if bits == 0 {
        0
    } else if signed {
        ((x << by) as i32 >> by) as u32
    } else {
        x << by >> by
    }
}

/// `width` ones from bit `from` on; what lies beyond bit 31 is lost.
#[inline(always)]
fn bmsk(from: u32, width: u32) -> u32 {
    let ones = (1u64 << width) - 1;
    (ones << from) as u32
}

/// The position of the `offset`-th set bit, counted from bit `base` upwards or, when negative, downwards; all ones if none.
#[inline(always)]
fn fns(x: u32, base: u32, offset: i32) -> u32 {
    if offset == 0 {
        return if base < 32 && x >> base & 1 == 1 { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    let mut at = i64::from(base);
    while (0..32).contains(&at) {
        left -= x >> at & 1;
        if left == 0 {
            return at as u32;
        }
        at += i64::from(offset.signum());
    }
    u32::MAX
}

/// `bfi`: `width` is 32 or 64.
pub(crate) fn bfi(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= width || len == 0 {
        return b;
    }
    let kept = len.min(width - pos);
    let mask = (u64::MAX >> (64 - kept)) << pos;
    b & !mask | a << pos & mask
}

/// The byte selectors of `prmt`'s special modes: result byte 0 lowest, by the low two bits of the third operand.
fn prmt_selector(op: TernOp, n: u32) -> u32 {
    let n = (n & 3) as usize;
    match op {
        TernOp::PrmtF4e => [0x3210, 0x4321, 0x5432, 0x6543][n],
        TernOp::PrmtB4e => [0x5670, 0x6701, 0x7012, 0x0123][n],
        TernOp::PrmtRc8 => [0x0000, 0x1111, 0x2222, 0x3333][n],
        TernOp::PrmtEcl => [0x3210, 0x3211, 0x3222, 0x3333][n],
        TernOp::PrmtEcr => [0x0000, 0x1110, 0x2210, 0x3210][n],
        _ => [0x1010, 0x3232, 0x1010, 0x3232][n],
    }
}

#[inline(always)]
fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (b as u64) << 32 | a as u64;
    let mut out = 0;
    for i in 0..4 {
        let nibble = selector >> (4 * i) & 15;
        let byte = (bytes >> (8 * (nibble & 7))) as u8;
        let byte = if nibble & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        out |= (byte as u32) << (8 * i);
    }
    out
}

#[inline(always)]
fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    let mut out = 0;
    for i in 0..8u32 {
        let all = if table >> i & 1 == 1 { u32::MAX } else { 0 };
        let x = if i & 4 != 0 { a } else { !a };
        let y = if i & 2 != 0 { b } else { !b };
        let z = if i & 1 != 0 { c } else { !c };
        out |= all & x & y & z;
    }
    out
}

#[inline(always)]
fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let byte = |x: u32, i: u32, signed: bool| {
        let v = (x >> (8 * i)) as u8;
        if signed { v as i8 as i32 } else { v as i32 }
    };
    (0..4).fold(c, |sum, i| sum.wrapping_add((byte(a, i, a_signed) * byte(b, i, b_signed)) as u32))
}

#[inline(always)]
fn dp2a(a: u32, b: u32, c: u32, hi: bool, a_signed: bool, b_signed: bool) -> u32 {
    let half = |i: u32| {
        let v = (a >> (16 * i)) as u16;
        if a_signed { v as i16 as i32 } else { v as i32 }
    };
    let byte = |i: u32| {
        let v = (b >> (8 * i)) as u8;
        if b_signed { v as i8 as i32 } else { v as i32 }
    };
    let first = if hi { 2 } else { 0 };
    (0..2).fold(c, |sum, i| sum.wrapping_add((half(i) * byte(first + i)) as u32))
}

fn video(v: Video, a: u32, b: u32, c: u32) -> u32 {
    let element = |word: u32, i: u32, signed: bool| {
        let up = word << (32 - v.bits * (i + 1));
        if signed { up as i32 >> (32 - v.bits) } else { (up >> (32 - v.bits)) as i32 }
    };
    let range =
        if v.d_signed { -(1 << (v.bits - 1))..=(1 << (v.bits - 1)) - 1 } else { 0..=(1 << v.bits) - 1 };
    let mut out = if v.add { c } else { 0 };
    for i in 0..32 / v.bits {
        let (x, y) = (element(a, i, v.a_signed), element(b, i, v.b_signed));
        let mut t = match v.op {
            VideoOp::Add => x + y,
            VideoOp::Sub => x - y,
            VideoOp::Avrg => (x + y + (x + y >= 0) as i32) >> 1,
            VideoOp::AbsDiff => (x - y).abs(),
            VideoOp::Min => x.min(y),
            VideoOp::Max => x.max(y),
        };
        if v.sat {
            t = t.clamp(*range.start(), *range.end());
        }
        if v.add {
            out = out.wrapping_add(t as u32);
        } else {
            out |= (t as u32 & ((1 << v.bits) - 1)) << (i * v.bits);
        }
    }
    out
}

vectorised! {
    /// Three operands of 32 bits.
    pub(crate) fn tern32(
        op: TernOp, signed: bool, sat: bool, a: &Col32, b: &Col32, c: &Col32, d: &mut Col32,
    ) -> bool {
        match op {
            TernOp::MadLo => map3(a, b, c, d, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
            TernOp::MadHi if sat => map3(a, b, c, d, |x, y, z| {
                let high = ((x as i32 as i64 * y as i32 as i64) >> 32) as i32;
                high.saturating_add(z as i32) as u32
            }),
            TernOp::MadHi if signed => map3(a, b, c, d, |x, y, z| {
                (((x as i32 as i64 * y as i32 as i64) >> 32) as u32).wrapping_add(z)
            }),
            TernOp::MadHi => map3(a, b, c, d, |x, y, z| (((x as u64 * y as u64) >> 32) as u32).wrapping_add(z)),
            TernOp::Lop3(table) => map3(a, b, c, d, |x, y, z| lop3(table, x, y, z)),
            TernOp::ShfLClamp => map3(a, b, c, d, |x, y, z| {
                ((((y as u64) << 32 | x as u64) << z.min(32)) >> 32) as u32
            }),
            TernOp::ShfLWrap => map3(a, b, c, d, |x, y, z| {
                ((((y as u64) << 32 | x as u64) << (z & 31)) >> 32) as u32
            }),
            TernOp::ShfRClamp => map3(a, b, c, d, |x, y, z| (((y as u64) << 32 | x as u64) >> z.min(32)) as u32),
            TernOp::ShfRWrap => map3(a, b, c, d, |x, y, z| (((y as u64) << 32 | x as u64) >> (z & 31)) as u32),
            TernOp::PrmtDefault => map3(a, b, c, d, prmt),
            TernOp::PrmtF4e | TernOp::PrmtB4e | TernOp::PrmtRc8 | TernOp::PrmtEcl | TernOp::PrmtEcr
            | TernOp::PrmtRc16 => map3(a, b, c, d, |x, y, z| prmt(x, y, prmt_selector(op, z))),
            TernOp::Bfe => map3(a, b, c, d, |x, y, z| bfe(x as u64, y, z, 32, signed) as u32),
            TernOp::Sad if signed => map3(a, b, c, d, |x, y, z| z.wrapping_add((x as i32).abs_diff(y as i32))),
            TernOp::Sad => map3(a, b, c, d, |x, y, z| z.wrapping_add(x.abs_diff(y))),
            TernOp::Dp4aUU => map3(a, b, c, d, |x, y, z| dp4a(x, y, z, false, false)),
            TernOp::Dp4aUS => map3(a, b, c, d, |x, y, z| dp4a(x, y, z, false, true)),
            TernOp::Dp4aSU => map3(a, b, c, d, |x, y, z| dp4a(x, y, z, true, false)),
            TernOp::Dp4aSS => map3(a, b, c, d, |x, y, z| dp4a(x, y, z, true, true)),
            TernOp::Dp2a { hi, a_signed, b_signed } => {
                map3(a, b, c, d, |x, y, z| dp2a(x, y, z, hi, a_signed, b_signed))
            }
            TernOp::Fns => map3(a, b, c, d, |x, y, z| fns(x, y, z as i32)),
            TernOp::Video(v) => map3(a, b, c, d, |x, y, z| video(v, x, y, z)),
            _ => false,
        }
    }
}

vectorised! {
    /// Three operands of 64 bits (`bfe` takes position and length from the low halves).
    pub(crate) fn tern64(op: TernOp, signed: bool, a: &Col64, b: &Col64, c: &Col64, d: &mut Col64) -> bool {
        match op {
            TernOp::MadLo => map3(a, b, c, d, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
            TernOp::MadHi if signed => map3(a, b, c, d, |x, y, z| {
                (((x as i64 as i128 * y as i64 as i128) >> 64) as u64).wrapping_add(z)
            }),
            TernOp::MadHi => map3(a, b, c, d, |x, y, z| (((x as u128 * y as u128) >> 64) as u64).wrapping_add(z)),
            TernOp::Bfe => map3(a, b, c, d, |x, y, z| bfe(x, y as u32, z as u32, 64, signed)),
            TernOp::Sad if signed => map3(a, b, c, d, |x, y, z| z.wrapping_add((x as i64).abs_diff(y as i64))),
            TernOp::Sad => map3(a, b, c, d, |x, y, z| z.wrapping_add(x.abs_diff(y))),
            _ => false,
        }
    }
}

vectorised! {
    /// Comparison of 32-bit integers.
    pub(crate) fn cmp32(cmp: Cmp, signed: bool, a: &Col32, b: &Col32) -> u32 {
        match cmp {
            Cmp::Eq | Cmp::Equ => mask2(a, b, |x, y| x == y),
            Cmp::Ne | Cmp::Neu => mask2(a, b, |x, y| x != y),
            Cmp::Lt | Cmp::Ltu if signed => mask2(a, b, |x, y| (x as i32) < y as i32),
            Cmp::Le | Cmp::Leu if signed => mask2(a, b, |x, y| x as i32 <= y as i32),
            Cmp::Gt | Cmp::Gtu if signed => mask2(a, b, |x, y| x as i32 > y as i32),
            Cmp::Ge | Cmp::Geu if signed => mask2(a, b, |x, y| x as i32 >= y as i32),
            Cmp::Lt | Cmp::Ltu | Cmp::Lo => mask2(a, b, |x, y| x < y),
            Cmp::Le | Cmp::Leu | Cmp::Ls => mask2(a, b, |x, y| x <= y),
            Cmp::Gt | Cmp::Gtu | Cmp::Hi => mask2(a, b, |x, y| x > y),
            Cmp::Ge | Cmp::Geu | Cmp::Hs => mask2(a, b, |x, y| x >= y),
            Cmp::Num => u32::MAX,
            Cmp::Nan => 0,
        }
    }
}

vectorised! {
    /// Comparison of 64-bit integers.
    pub(crate) fn cmp64(cmp: Cmp, signed: bool, a: &Col64, b: &Col64) -> u32 {
        match cmp {
            Cmp::Eq | Cmp::Equ => mask2(a, b, |x, y| x == y),
            Cmp::Ne | Cmp::Neu => mask2(a, b, |x, y| x != y),
            Cmp::Lt | Cmp::Ltu if signed => mask2(a, b, |x, y| (x as i64) < y as i64),
            Cmp::Le | Cmp::Leu if signed => mask2(a, b, |x, y| x as i64 <= y as i64),
            Cmp::Gt | Cmp::Gtu if signed => mask2(a, b, |x, y| x as i64 > y as i64),
            Cmp::Ge | Cmp::Geu if signed => mask2(a, b, |x, y| x as i64 >= y as i64),
            Cmp::Lt | Cmp::Ltu | Cmp::Lo => mask2(a, b, |x, y| x < y),
            Cmp::Le | Cmp::Leu | Cmp::Ls => mask2(a, b, |x, y| x <= y),
            Cmp::Gt | Cmp::Gtu | Cmp::Hi => mask2(a, b, |x, y| x > y),
            Cmp::Ge | Cmp::Geu | Cmp::Hs => mask2(a, b, |x, y| x >= y),
            Cmp::Num => u32::MAX,
            Cmp::Nan => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_fields_follow_the_manual() {
        assert_eq!(bfe(0xabcd_1234, 8, 8, 32, false), 0x12);
        assert_eq!(bfe(0x0000_8000, 8, 8, 32, true), 0xffff_ff80);
        assert_eq!(bfe(0x8000_0000, 28, 16, 32, true), 0xffff_fff8);
        assert_eq!(bfe(0xffff_ffff, 40, 8, 32, false), 0);
        assert_eq!(bfe(0x8000_0000, 40, 8, 32, true), 0xffff_ffff);
        assert_eq!(bfe(5, 0, 0, 32, true), 0);
        assert_eq!(bfi(0xff, 0, 4, 4, 32), 0xf0);
        assert_eq!(bfi(0xff, 0x1111_1111, 28, 200, 32), 0xf111_1111);
        assert_eq!(bfi(0xff, 7, 32, 4, 32), 7);
    }

    #[test]
    fn prmt_and_bfind() {
        assert_eq!(prmt(0x8899_aabb, 0xccdd_eeff, 0x7654), 0xccdd_eeff);
        assert_eq!(prmt(0x8011_2233, 0, 0xb0b3), 0xff33_ff80);
        assert_eq!(bfind(0, 32, false, false), u32::MAX);
        assert_eq!(bfind(0xffff_ffff, 32, true, false), u32::MAX);
        assert_eq!(bfind(0x10, 32, false, true), 27);
        assert_eq!(lop3(0xe8, 0b1100, 0b1010, 0b0110) & 15, 0b1110);
    }
}
