//! Walking a box: which bytes of global memory meet which bytes of shared memory.
//!
//! A box starts at an element coordinate, may begin before 0 and end beyond the tensor, and lies in shared memory as a dense
//! array, innermost dimension first. Elements outside the tensor are filled on loads and dropped on stores; they count as
//! transferred bytes all the same. An element step `s` in a dimension visits every `s`-th index: `ceil(box / s)` of them.
//!
//! With swizzling, the 16-byte chunks of each row of `span` bytes change places by an XOR on the absolute shared address. A box
//! narrower than the span still has rows `span` bytes apart: the programming guide asks to allocate the full swizzle width.

use super::{DataType, MAX_RANK, OobFill, TensorMap, TensorMapError, refuse};
use crate::convert;

/// A run of bytes of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First byte in shared memory, swizzled. A run never crosses a 16-byte boundary in swizzled maps.
    pub shared: u32,
    /// First byte in global memory; `None` outside the tensor.
    pub global: Option<u64>,
    /// Length in bytes.
    pub len: u32,
}

impl TensorMap {
    /// Elements visited along a dimension.
    fn count(&self, dim: usize) -> u32 {
        if self.is_im2col() {
            return self.box_dims[dim];
        }
        self.box_dims[dim].div_ceil(self.element_strides[dim])
    }

    /// Bytes a copy of the box transfers and signals, out-of-bounds elements included.
    pub fn box_bytes(&self) -> u32 {
        (0..self.rank()).map(|dim| self.count(dim)).product::<u32>() * self.data_type.bytes()
    }

    /// Bytes of shared memory from the first to the last byte of the box: more than [`Self::box_bytes`] when the box is narrower
    /// than the swizzle span.
    pub fn shared_bytes(&self) -> u32 {
        let rows = (1..self.rank()).map(|dim| self.count(dim)).product::<u32>();
        (rows - 1) * self.pitch() + self.box_dims[0] * self.data_type.bytes()
    }

    /// Distance of rows in shared memory.
    pub(super) fn pitch(&self) -> u32 {
        self.swizzle.span().unwrap_or(self.box_dims[0] * self.data_type.bytes())
    }

    /// Alignment the shared-memory address of a copy must have.
    pub const fn shared_alignment(&self) -> u32 {
        128
    }

    /// Calls `f` for each run of the box at `coords` (innermost first) that lies at `shared_base` in shared memory. Every
    /// byte of the box appears once. An error if the number of coordinates is not the rank.
    pub fn tile(
        &self,
        coords: &[i32],
        shared_base: u32,
        mut f: impl FnMut(Chunk),
    ) -> Result<(), TensorMapError> {
        let rank = self.rank();
        if coords.len() != rank {
            return refuse("coordinates", format!("{rank}, the rank of the map"), coords.len());
        }
        if let Some(walk) = &self.walk {
            self.pixels(walk, coords, shared_base, f);
            return Ok(());
        }
        let element = i64::from(self.data_type.bytes());
        let row_bytes = i64::from(self.box_dims[0]) * element;
        // In-bounds part of every row, in bytes from the row's start.
        let start = i64::from(coords[0]) * element;
        let low = (-start).clamp(0, row_bytes);
        let high = (self.dims[0] as i64 * element - start).clamp(low, row_bytes);
        let mut index = [0_u32; MAX_RANK];
        let mut shared = shared_base;
        loop {
            let mut row = Some(self.address);
            for dim in 1..rank {
                let at =
                    i64::from(coords[dim]) + i64::from(index[dim]) * i64::from(self.element_strides[dim]);
                let inside = at >= 0 && at < self.dims[dim] as i64;
                row = row
                    .filter(|_| inside)
                    .map(|address| address.wrapping_add((at as u64).wrapping_mul(self.strides[dim - 1])));
            }
            if row.is_none() || high == low {
                self.pieces(shared, 0, row_bytes, None, &mut f);
            } else {
                self.pieces(shared, 0, low, None, &mut f);
                self.pieces(shared, low, high, row.map(|r| r.wrapping_add_signed(start)), &mut f);
                self.pieces(shared, high, row_bytes, None, &mut f);
            }
            shared = shared.wrapping_add(self.pitch());
            let mut dim = 1;
            loop {
                if dim >= rank {
                    return Ok(());
                }
                index[dim] += 1;
                if index[dim] < self.count(dim) {
                    break;
                }
                index[dim] = 0;
                dim += 1;
            }
        }
    }

    /// The bytes `from..to` of a row at `shared`, split where swizzling separates neighbours. `row` is the global address of
    /// the row's byte 0.
    pub(super) fn pieces(
        &self,
        shared: u32,
        from: i64,
        to: i64,
        row: Option<u64>,
        f: &mut impl FnMut(Chunk),
    ) {
        let mut at = from;
        while at < to {
            let linear = shared.wrapping_add(at as u32);
            let len = match self.swizzle.span() {
                None => to - at,
                Some(_) => (16 - i64::from(linear & 15)).min(to - at),
            };
            f(Chunk {
                shared: self.swizzle.apply(linear),
                global: row.map(|r| r.wrapping_add_signed(at)),
                len: len as u32,
            });
            at += len;
        }
    }

    /// Writes the fill value for an out-of-bounds run that starts on an element boundary.
    pub fn fill(&self, bytes: &mut [u8]) {
        match self.oob_fill {
            OobFill::Zero => bytes.fill(0),
            // 0x7ff7 in every half-word: a NaN in each floating-point type.
            OobFill::Nan => {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = if i % 2 == 1 { 0x7f } else { 0xf7 };
                }
            }
        }
    }

    /// Whether a load changes values on the way ([`Self::convert_loaded`]).
    pub const fn converts(&self) -> bool {
        matches!(self.data_type, DataType::TF32 | DataType::TF32Ftz)
    }

    /// What a load does to in-bounds values: TF32 maps round to nearest even. (Flushing of the FTZ types concerns reductions
    /// only.) `bytes` holds whole elements.
    pub fn convert_loaded(&self, bytes: &mut [u8]) {
        if !self.converts() {
            return;
        }
        for word in bytes.chunks_exact_mut(4) {
            let value = f32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let rounded = convert::f32_to_tf32(value, convert::Rounding::Nearest, convert::Clamp::NONE);
            word.copy_from_slice(&rounded.to_le_bytes());
        }
    }
}
