//! Atomic operations of threads: lane after lane, so the lanes of a warp are ordered by their number.

use super::address::Place;
use super::{Core, Flow, Step};
use crate::convert::{self, Clamp, Rounding};
use crate::ir::{AtomOp, Op, Type};
use crate::memory::Trouble;
use crate::report::Class;

fn half(bits: u64, bf: bool) -> f64 {
    (if bf { convert::bf16_to_f32(bits as u16) } else { convert::f16_to_f32(bits as u16) }) as f64
}

/// One 16-bit floating-point operation.
fn half_op(op: AtomOp, bf: bool, old: u64, b: u64) -> Option<u64> {
    let (x, y) = (half(old, bf), half(b, bf));
    let value = match op {
        // Exact in F64 for F16; BF16 sums that F64 rounds lie 40 bits below the result's last one.
        AtomOp::Add => x + y,
        AtomOp::Min => {
            if x.is_nan() || y < x {
                y
            } else {
                x
            }
        }
        AtomOp::Max => {
            if x.is_nan() || y > x {
                y
            } else {
                x
            }
        }
        _ => return None,
    };
    Some(if bf {
        convert::f64_to_bf16(value, Rounding::Nearest, Clamp::NONE)
    } else {
        convert::f64_to_f16(value, Rounding::Nearest, Clamp::NONE)
    } as u64)
}

/// The new value; `None`: no such operation on the type.
pub(super) fn combine(op: AtomOp, ty: Type, old: u64, b: u64, c: u64) -> Option<u64> {
    match ty {
        Type::F32 if op == AtomOp::Add => {
            // Subnormals are kept, as in shared memory; global memory flushes: see `atom`. NaN is canonical.
            let sum = f32::from_bits(old as u32) + f32::from_bits(b as u32);
            return Some(if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() as u64 });
        }
        Type::F64 if op == AtomOp::Add => return Some((f64::from_bits(old) + f64::from_bits(b)).to_bits()),
        Type::F32 | Type::F64 if !matches!(op, AtomOp::Exch | AtomOp::Cas) => return None,
        Type::F16 | Type::BF16 if op != AtomOp::Exch && op != AtomOp::Cas => {
            return half_op(op, ty == Type::BF16, old, b);
        }
        Type::F16x2 | Type::BF16x2 if op != AtomOp::Exch && op != AtomOp::Cas => {
            let bf = ty == Type::BF16x2;
            return Some(
                half_op(op, bf, old >> 16, b >> 16)? << 16 | half_op(op, bf, old & 0xffff, b & 0xffff)?,
            );
        }
        _ => {}
    }
    let bits = ty.bytes() * 8;
    let full = u64::MAX >> (64 - bits.clamp(1, 64));
    let sign = |v: u64| (v << (64 - bits)) as i64 >> (64 - bits);
    Some(match op {
        AtomOp::Add => old.wrapping_add(b) & full,
        AtomOp::Min if ty.is_signed() => sign(old).min(sign(b)) as u64 & full,
        AtomOp::Max if ty.is_signed() => sign(old).max(sign(b)) as u64 & full,
        AtomOp::Min => old.min(b),
        AtomOp::Max => old.max(b),
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b & full,
        AtomOp::Cas => {
            if old == b {
                c & full
            } else {
                old
            }
        }
    })
}

impl Core<'_> {
    pub(super) fn atom(&mut self, op: &Op, mask: u32) -> Step {
        let Op::Atom { space, op: kind, ty, dsts, addr, b, c, sem, scope, red } = op else {
            return Err(self.unsupported(mask));
        };
        let size = ty.bytes() as u64;
        let count = b.len();
        if !matches!(size, 2 | 4 | 8) {
            return Err(self.unsupported(mask));
        }
        let operands: Vec<_> = b.iter().map(|b| self.get64(b)).collect();
        let third: Vec<_> = c.iter().map(|c| self.get64(c)).collect();
        let mut olds = vec![[0u64; 32]; count];
        let check = self.sys.config.checks.uninitialised;
        let full = u64::MAX >> (64 - size * 8);
        let mut changed = false;
        let mut rest = mask;
        while rest != 0 {
            let (place, col, group) = self.resolve(*space, addr, rest);
            rest &= !group;
            let mut lanes = group;
            while lanes != 0 {
                let l = lanes.trailing_zeros() as usize;
                lanes &= lanes - 1;
                let whole = size * count as u64;
                if col[l] % whole != 0 {
                    let mut report = self.report(
                        Class::Misaligned,
                        1 << l,
                        format!(
                            "atomic on {whole} bytes at {:#x}, which is not a multiple of {whole}",
                            col[l]
                        ),
                    );
                    report.address = Some(col[l]);
                    return Err(report);
                }
                if self.checking() {
                    let global = place == Place::Global;
                    let at = (global, self.told_at(global, col[l]));
                    if !red {
                        self.strong_load(at, *sem, *scope, 1 << l);
                    }
                    self.strong_store(at, *sem, *scope, true, 1 << l);
                    let strength = crate::check::strength(crate::ir::Semantics::Relaxed, *scope);
                    self.touch_lane(global, col[l], whole, l as u32, true, strength)?;
                }
                for (i, old) in olds.iter_mut().enumerate() {
                    let at = col[l] + i as u64 * size;
                    let bytes = match place {
                        Place::Global => self.sys.global.read(at, size, check),
                        Place::Shared => self
                            .shared_of(at as u32)
                            .ok_or(Trouble::OutOfBounds)
                            .and_then(|m| m.read(at as u32 & 0xff_ffff, size as u32, check)),
                        Place::Local | Place::Param => Err(Trouble::OutOfBounds),
                    };
                    old[l] = match bytes {
                        Ok(bytes) => bytes.iter().rev().fold(0u64, |v, byte| v << 8 | *byte as u64),
                        Err(trouble) => {
                            let mut report = self.access_report(place, at, size, false, trouble, 1 << l);
                            report.message = report.message.replacen("load of", "atomic on", 1);
                            return Err(report);
                        }
                    };
                }
                // All of a wide value is compared before any of it is exchanged.
                let same =
                    *kind != AtomOp::Cas || operands.iter().zip(&olds).all(|(b, old)| b[l] & full == old[l]);
                for (i, operand) in operands.iter().enumerate().filter(|_| same) {
                    let at = col[l] + i as u64 * size;
                    let old = olds[i][l];
                    // F32 sums in global memory flush subnormal operands and results.
                    let flushes = place == Place::Global && *ty == Type::F32 && *kind == AtomOp::Add;
                    let flushed = |v: u64| if flushes && v & 0x7f80_0000 == 0 { v & 0x8000_0000 } else { v };
                    let Some(new) = combine(
                        *kind,
                        *ty,
                        flushed(old),
                        flushed(operand[l] & full),
                        third.get(i).map_or(0, |c| c[l]),
                    ) else {
                        return Err(self.unsupported(mask));
                    };
                    let new = flushed(new);
                    if new != old {
                        changed = true;
                        let bytes = match place {
                            Place::Global => {
                                if let Some((range, _)) = self.sys.global.find(at, size)
                                    && self.sys.global.read_only(range)
                                {
                                    return Err(self.report(
                                        Class::ReadOnly,
                                        1 << l,
                                        "atomic on a .const variable",
                                    ));
                                }
                                self.sys.global.write(at, size)
                            }
                            _ => self
                                .shared_of_mut(at as u32)
                                .ok_or(Trouble::OutOfBounds)
                                .and_then(|m| m.write(at as u32 & 0xff_ffff, size as u32)),
                        };
                        if let Ok(bytes) = bytes {
                            bytes.copy_from_slice(&new.to_le_bytes()[..size as usize]);
                        }
                    }
                }
            }
        }
        if !red {
            for (dst, old) in dsts.iter().zip(&olds) {
                if let Some(dst) = dst {
                    self.set(*dst, old, mask);
                }
            }
        }
        if changed {
            self.sys.progress += 1;
            return Ok(Flow::Next);
        }
        // A compare-and-swap that keeps failing, or an atomic read, is a poll.
        Ok(if *red { Flow::Next } else { self.poll(false) })
    }
}
