//! Im2col tensor maps: a copy takes pixels of an image tensor in the order a convolution visits them.
//!
//! The tensor is channels, then one to three spatial dimensions, then images. A copy starts at a pixel and takes `pixels` of them,
//! `channels` each, stepping through a box of the image: at the end of a row it goes on at the row's first pixel of the box in the
//! next row, after the last row in the next image. The box is given by two corners, the lower one counted from the image's first
//! pixel, the upper one from its last: a 3×3 filter with one pixel of padding has (−1, −1) for both. The offsets of an instruction (the
//! position inside the filter) are added to where each pixel is read; what then lies outside the tensor reads as fill.
//!
//! In shared memory a pixel is a row, so everything but the walk is as for a tiled map with a box of `channels` × `pixels`. Source: the
//! PTX manual's section on im2col mode and the driver's on `cuTensorMapEncodeIm2col`.

use super::{
    Chunk, DataType, L2Promotion, MAX_RANK, OobFill, Swizzle, TensorMap, TensorMapError, copied, refuse,
};

/// Most spatial dimensions.
pub(super) const SPATIAL: usize = MAX_RANK - 2;

/// What an im2col map knows besides what tiled ones do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Walk {
    pub(super) lower: [i16; SPATIAL],
    pub(super) upper: [i16; SPATIAL],
    /// The instruction's: where in the filter.
    pub(super) offsets: [u16; SPATIAL],
}

/// The arguments of `cuTensorMapEncodeIm2col`, innermost dimension (channels) first.
#[derive(Clone, Copy, Debug)]
pub struct Im2col<'a> {
    /// Element type.
    pub data_type: DataType,
    /// Address of element (0, …, 0) in global memory.
    pub address: u64,
    /// Extents in elements: channels, one to three spatial dimensions, images.
    pub dims: &'a [u64],
    /// Distance in bytes from one index to the next, for dimension 1 upward.
    pub strides: &'a [u64],
    /// First corner of the box, one number per spatial dimension, from the image's first pixel.
    pub lower_corner: &'a [i32],
    /// Last corner of the box, from the image's last pixel.
    pub upper_corner: &'a [i32],
    /// Channels of each pixel.
    pub channels: u32,
    /// Pixels of a copy.
    pub pixels: u32,
    /// Steps in each dimension; those of the spatial ones count.
    pub element_strides: &'a [u32],
    /// Order of chunks in shared memory.
    pub swizzle: Swizzle,
    /// No effect on results.
    pub l2_promotion: L2Promotion,
    /// What out-of-bounds elements read as.
    pub oob_fill: OobFill,
}

impl TensorMap {
    /// Checks the arguments of an im2col map as the driver does.
    pub fn im2col(args: &Im2col<'_>) -> Result<TensorMap, TensorMapError> {
        let rank = args.dims.len();
        if !(3..=MAX_RANK).contains(&rank) {
            return refuse("tensorRank", "3 to 5", rank);
        }
        let spatial = rank - 2;
        if args.pixels == 0 || args.pixels > 1024 {
            return refuse("pixelsPerColumn", "1 to 1024", args.pixels);
        }
        // The more dimensions, the fewer bits the chip has for a corner.
        let limit = [1 << 15, 1 << 7, 1 << 4][spatial - 1];
        let corner = |name: &str, from: &[i32]| -> Result<[i16; SPATIAL], TensorMapError> {
            let corner: [i32; SPATIAL] = copied(name, from, spatial)?;
            for (i, value) in corner.iter().enumerate() {
                if !(-limit..limit).contains(value) {
                    return refuse(format!("{name}[{i}]"), format!("{} to {}", -limit, limit - 1), value);
                }
            }
            Ok(corner.map(|v| v as i16))
        };
        let walk = Walk {
            lower: corner("pixelBoxLowerCorner", args.lower_corner)?,
            upper: corner("pixelBoxUpperCorner", args.upper_corner)?,
            offsets: [0; SPATIAL],
        };
        let steps: [u32; MAX_RANK] = copied("elementStrides", args.element_strides, rank)?;
        for (i, &step) in steps[..rank].iter().enumerate() {
            if step == 0 || step > 8 {
                return refuse(format!("elementStrides[{i}]"), "1 to 8", step);
            }
        }
        // Channels and images have no step; one pixel is one row in shared memory.
        let mut element_strides = [1; MAX_RANK];
        element_strides[1..=spatial].copy_from_slice(&steps[1..=spatial]);
        let mut box_dims = [0; MAX_RANK];
        box_dims[..rank].fill(1);
        (box_dims[0], box_dims[1]) = (args.channels, args.pixels);
        let map = TensorMap {
            data_type: args.data_type,
            rank: rank as u8,
            address: args.address,
            dims: copied("globalDim", args.dims, rank)?,
            strides: copied("globalStrides", args.strides, rank - 1)?,
            box_dims,
            element_strides,
            swizzle: args.swizzle,
            l2_promotion: args.l2_promotion,
            oob_fill: args.oob_fill,
            walk: Some(walk),
        };
        map.check()?;
        Ok(map)
    }

    /// Is it an im2col map?
    pub const fn is_im2col(&self) -> bool {
        self.walk.is_some()
    }

    /// The map with an instruction's offsets, one per spatial dimension.
    pub fn with_offsets(&self, offsets: &[u16]) -> Result<TensorMap, TensorMapError> {
        let Some(walk) = self.walk else {
            return refuse("im2col offsets", "an im2col tensor map", "a tiled one");
        };
        let offsets = if offsets.is_empty() {
            [0; SPATIAL]
        } else {
            copied("im2col offsets", offsets, self.rank() - 2)?
        };
        Ok(TensorMap { walk: Some(Walk { offsets, ..walk }), ..*self })
    }

    /// As [`Self::tile`], for an im2col map.
    pub(super) fn pixels(&self, walk: &Walk, coords: &[i32], shared_base: u32, mut f: impl FnMut(Chunk)) {
        let spatial = self.rank() - 2;
        let element = i64::from(self.data_type.bytes());
        let row_bytes = i64::from(self.box_dims[0]) * element;
        let start = i64::from(coords[0]) * element;
        let low = (-start).clamp(0, row_bytes);
        let high = (self.dims[0] as i64 * element - start).clamp(low, row_bytes);
        let mut at: [i64; SPATIAL + 1] = [0; SPATIAL + 1];
        for (to, from) in at.iter_mut().zip(&coords[1..]) {
            *to = i64::from(*from);
        }
        let mut shared = shared_base;
        for _ in 0..self.box_dims[1] {
            let mut row = Some(self.address);
            for (dim, first) in at[..=spatial].iter().enumerate() {
                let offset = if dim < spatial { i64::from(walk.offsets[dim]) } else { 0 };
                let index = first + offset;
                let inside = index >= 0 && index < self.dims[dim + 1] as i64;
                row = row
                    .filter(|_| inside)
                    .map(|r| r.wrapping_add((index as u64).wrapping_mul(self.strides[dim])));
            }
            if row.is_none() || high == low {
                self.pieces(shared, 0, row_bytes, None, &mut f);
            } else {
                self.pieces(shared, 0, low, None, &mut f);
                self.pieces(shared, low, high, row.map(|r| r.wrapping_add_signed(start)), &mut f);
                self.pieces(shared, high, row_bytes, None, &mut f);
            }
            shared = shared.wrapping_add(self.pitch());
            for (dim, next) in at[..=spatial].iter_mut().enumerate() {
                if dim == spatial {
                    *next += 1;
                    break;
                }
                *next += i64::from(self.element_strides[dim + 1]);
                if *next < self.dims[dim + 1] as i64 + i64::from(walk.upper[dim]) {
                    break;
                }
                *next = walk.lower[dim].into();
            }
        }
    }
}
