//! Addresses: of variables, of operands, and from one window to another.

use super::{Core, Flow, Step, lanes};
use crate::ir::{Addr, Reg, Space, Src, SymbolAddr};
use crate::machine::warp::Col64;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, RANK_SHIFT, SHARED_WINDOW, WINDOW_BYTES};
use crate::report::Class;

/// Which memory an address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Global,
    /// Shared memory of some block of the cluster: 32-bit shared address.
    Shared,
    /// Byte offset in the thread's local memory.
    Local,
    /// Byte offset in the parameters.
    Param,
}

/// The memory behind a generic address, and the address inside it.
pub(super) fn split(generic: u64) -> (Place, u64) {
    let inside = generic & (WINDOW_BYTES - 1);
    match generic & !(WINDOW_BYTES - 1) {
        SHARED_WINDOW => (Place::Shared, inside),
        LOCAL_WINDOW => (Place::Local, inside),
        PARAM_WINDOW => (Place::Param, inside),
        _ => (Place::Global, generic),
    }
}

impl Core<'_> {
    /// The rank bits of this block's own shared addresses.
    #[inline(always)]
    pub(super) fn own_rank_bits(&self) -> u32 {
        self.block.rank << RANK_SHIFT
    }

    /// The address of a variable, in its own space.
    pub(super) fn symbol(&self, symbol: &SymbolAddr) -> u64 {
        let base = match symbol.space {
            Space::Shared | Space::SharedCluster => {
                let layout = &self.block.layout;
                let base = if symbol.dynamic { layout.dynamic_base } else { layout.static_base };
                (self.own_rank_bits() | base) as u64 + symbol.index as u64
            }
            Space::Global | Space::Const => {
                self.program.globals.get(symbol.index as usize).copied().unwrap_or(0)
            }
            Space::Local | Space::Param | Space::Generic => symbol.index as u64,
        };
        base.wrapping_add_signed(symbol.offset)
    }

    /// The addresses of an operand, all lanes.
    #[inline(always)]
    pub(super) fn addresses(&self, addr: &Addr, narrow: bool) -> Col64 {
        let mut col = self.get64(&addr.base);
        for a in &mut col {
            *a = a.wrapping_add_signed(addr.offset);
        }
        if narrow {
            for a in &mut col {
                *a &= 0xffff_ffff;
            }
        }
        col
    }

    /// The memory an access of `space` reaches, with the addresses inside it. Lanes of a generic access that reach another
    /// memory than the first active lane are left out: the returned mask says which are in.
    #[inline]
    pub(super) fn resolve(&self, space: Space, addr: &Addr, mask: u32) -> (Place, Col64, u32) {
        match space {
            Space::Global | Space::Const => (Place::Global, self.addresses(addr, false), mask),
            Space::Shared | Space::SharedCluster => (Place::Shared, self.addresses(addr, true), mask),
            Space::Local => (Place::Local, self.addresses(addr, true), mask),
            Space::Param => (Place::Param, self.addresses(addr, true), mask),
            Space::Generic => {
                let mut col = self.addresses(addr, false);
                let (place, _) = split(col[mask.trailing_zeros() as usize & 31]);
                let mut same = 0u32;
                lanes::each(mask, |l| {
                    let (other, inside) = split(col[l]);
                    if other == place {
                        same |= 1 << l;
                        col[l] = inside;
                    }
                });
                (place, col, same)
            }
        }
    }

    /// A shared address of this block as offset into its memory. Errors if it belongs to another block.
    pub(super) fn own_offset(
        &self,
        shared: u32,
        mask: u32,
        what: &str,
    ) -> Result<u32, Box<crate::report::Report>> {
        let rank = shared >> RANK_SHIFT;
        if rank != self.block.rank {
            let mut report = self.report(
                Class::OutOfBounds,
                mask,
                format!(
                    "{what} must lie in the block's own shared memory; this address belongs to rank {rank}"
                ),
            );
            report.address = Some(shared as u64);
            return Err(report);
        }
        Ok(shared & ((1 << RANK_SHIFT) - 1))
    }

    /// One shared address per active lane, from a shared or generic operand.
    pub(super) fn shared_addresses(
        &self,
        addr: &Addr,
        space: Space,
        mask: u32,
        what: &str,
    ) -> Result<[u32; 32], Box<crate::report::Report>> {
        let (place, col, same) = self.resolve(space, addr, mask);
        if place != Place::Shared || same != mask {
            let lane = if place == Place::Shared { mask & !same } else { mask };
            let mut report =
                self.report(Class::OutOfBounds, lane, format!("{what} must lie in shared memory"));
            report.address = Some(col[lane.trailing_zeros() as usize & 31]);
            return Err(report);
        }
        Ok(col.map(|a| a as u32))
    }

    pub(super) fn cvta(&mut self, space: Space, to: bool, dst: Reg, src: &Src, mask: u32) -> Step {
        let window = match space {
            Space::Shared | Space::SharedCluster => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            _ => 0,
        };
        let col = self.get64(src);
        let out = match (window, to) {
            (0, _) => col,
            (_, true) => col.map(|a| a & (WINDOW_BYTES - 1)),
            (_, false) => col.map(|a| window | a & (WINDOW_BYTES - 1)),
        };
        self.set(dst, &out, mask);
        Ok(Flow::Next)
    }

    pub(super) fn isspacep(&mut self, space: Space, dst: u32, src: &Src, mask: u32) -> Step {
        let col = self.get64(src);
        let mut inside = 0;
        lanes::each(mask, |l| {
            let (place, at) = split(col[l]);
            let own = (at as u32) >> RANK_SHIFT == self.block.rank;
            let holds = match space {
                Space::Global => place == Place::Global,
                Space::Shared => place == Place::Shared && own,
                Space::SharedCluster => place == Place::Shared,
                Space::Local => place == Place::Local,
                Space::Param => place == Place::Param,
                Space::Const | Space::Generic => false,
            };
            inside |= (holds as u32) << l;
        });
        self.set_pred(dst, inside, mask);
        Ok(Flow::Next)
    }
}
