//! `multimem`: one address that stands for the same offset in the memory of several devices.
//!
//! A multicast object ([`crate::Machine::create_multicast`]) binds allocations; loads reduce over all of them, in the order they
//! were bound, stores and reductions reach each. The order in which a switch adds is not documented: sums of floats may differ from
//! a chip's in the last bit, unless `.acc::f32` is asked for and every partial sum is exact.

use super::{Core, Flow, Step, atomic};
use crate::convert::{self, Clamp, Rounding};
use crate::ir::{Addr, AtomOp, Reg, Semantics, Src, Type};
use crate::memory::Trouble;
use crate::report::{Class, Report};

/// Little-endian bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |v, byte| v << 8 | u64::from(*byte))
}

/// A sum of 16-bit floats kept in F32; the halves of a pair are added separately.
fn wide_sum(ty: Type, values: &[u64]) -> u64 {
    let bf = matches!(ty, Type::BF16 | Type::BF16x2);
    let half = |shift: u32| {
        let sum: f32 = values
            .iter()
            .map(|v| (v >> shift) as u16)
            .map(|v| if bf { convert::bf16_to_f32(v) } else { convert::f16_to_f32(v) })
            .sum();
        let narrow = if bf { convert::f32_to_bf16 } else { convert::f32_to_f16 };
        u64::from(narrow(sum, Rounding::Nearest, Clamp::NONE)) << shift
    };
    if ty.bytes() == 4 { half(0) | half(16) } else { half(0) }
}

impl Core<'_> {
    /// The addresses behind a multicast address: one per bound allocation.
    fn bound_at(&self, address: u64, bytes: u64, lane: usize) -> Result<Vec<u64>, Box<Report>> {
        let fail = |class, message: String| {
            let mut report = self.report(class, 1 << lane, message);
            report.address = Some(address);
            report
        };
        if !address.is_multiple_of(bytes) {
            let message =
                format!("multimem access to {bytes} bytes at {address:#x}, which is not a multiple");
            return Err(fail(Class::Misaligned, message));
        }
        self.sys.global.multicast(address, bytes).ok_or_else(|| {
            let message = format!(
                "multimem access to {bytes} bytes at {address:#x}, which no multicast object with bound memory holds"
            );
            fail(Class::OutOfBounds, message)
        })
    }

    fn member_trouble(&self, address: u64, bytes: u64, store: bool, lane: usize, t: Trouble) -> Box<Report> {
        self.access_report(super::address::Place::Global, address, bytes, store, t, 1 << lane)
    }

    /// `multimem.ld_reduce`
    #[allow(clippy::too_many_arguments)]
    pub(super) fn multimem_load(
        &mut self,
        op: AtomOp,
        ty: Type,
        wide: bool,
        dsts: &[Option<Reg>],
        addr: &Addr,
        sem: Semantics,
        mask: u32,
    ) -> Step {
        let size = u64::from(ty.bytes());
        let col = self.addresses(addr, false);
        let check = self.sys.config.checks.uninitialised;
        let mut out = vec![[0u64; 32]; dsts.len()];
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let members = self.bound_at(col[l], size * dsts.len() as u64, l)?;
            for (i, out) in out.iter_mut().enumerate() {
                let mut values = Vec::with_capacity(members.len());
                for member in &members {
                    let at = member + i as u64 * size;
                    match self.sys.global.read_any(at, size, check) {
                        Ok(bytes) => values.push(number(bytes)),
                        Err(t) => return Err(self.member_trouble(at, size, false, l, t)),
                    }
                }
                if wide && op == AtomOp::Add {
                    out[l] = wide_sum(ty, &values);
                    continue;
                }
                let mut sum = values[0];
                for value in &values[1..] {
                    match atomic::combine(op, ty, sum, *value, 0) {
                        Some(next) => sum = next,
                        None => return Err(self.unsupported(mask)),
                    }
                }
                out[l] = sum;
            }
        }
        for (dst, out) in dsts.iter().zip(&out) {
            if let Some(dst) = dst {
                self.set(*dst, out, mask);
            }
        }
        self.sys.counters[self.block.device].global_load_bytes +=
            u64::from(mask.count_ones()) * size * dsts.len() as u64;
        Ok(if sem == Semantics::Weak { Flow::Next } else { self.poll(false) })
    }

    /// `multimem.st` (`op` is an exchange) and `multimem.red`.
    pub(super) fn multimem_store(
        &mut self,
        op: AtomOp,
        ty: Type,
        srcs: &[Src],
        addr: &Addr,
        mask: u32,
    ) -> Step {
        let size = u64::from(ty.bytes());
        let (col, values) = (self.addresses(addr, false), srcs.iter().map(|s| self.get64(s)));
        let values: Vec<_> = values.collect();
        let check = self.sys.config.checks.uninitialised && op != AtomOp::Exch;
        let mut rest = mask;
        while rest != 0 {
            let l = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            for member in self.bound_at(col[l], size * srcs.len() as u64, l)? {
                for (i, value) in values.iter().enumerate() {
                    let at = member + i as u64 * size;
                    let old = match self.sys.global.read_any(at, size, check) {
                        Ok(bytes) => number(bytes),
                        Err(t) => return Err(self.member_trouble(at, size, true, l, t)),
                    };
                    let Some(new) = atomic::combine(op, ty, old, value[l], 0) else {
                        return Err(self.unsupported(mask));
                    };
                    match self.sys.global.write_any(at, size) {
                        Ok(to) => to.copy_from_slice(&new.to_le_bytes()[..size as usize]),
                        Err(t) => return Err(self.member_trouble(at, size, true, l, t)),
                    }
                }
            }
        }
        self.sys.counters[self.block.device].global_store_bytes +=
            u64::from(mask.count_ones()) * size * srcs.len() as u64;
        self.sys.progress += 1;
        Ok(Flow::Next)
    }
}
