//! Tensor maps: what a tensor copy (`cp.async.bulk.tensor`) knows about the tensor in global memory and the box it moves.
//!
//! [`TensorMap::new`] refuses what `cuTensorMapEncodeTiled` refuses, naming argument, expectation and value, because a map
//! that only an emulator accepts would hide a bug until the first run on a chip. [`TensorMap::encode`] packs a map into the
//! opaque 128 bytes that kernels receive as a parameter, [`TensorMap::decode`] detects bytes that never were a map, and
//! [`TensorMap::tile`] walks a box byte run by byte run.
//!
//! Source of the rules: the driver API's text on tensor map objects. Tiled and im2col maps without interleaving are complete; the
//! interleaved layouts (NC/8HWC8, NC/16HWC16) and the packed 4- and 6-bit types of later chips are refused.
//! The text also shows strides that grow with the dimension; as a formula for dense tensors, not as a rule the driver
//! enforces: overlapping and broadcast (stride 0) dimensions are in use and accepted here.

mod encode;
mod im2col;
mod tile;

pub use encode::{Edit, edit};
pub use im2col::Im2col;
pub use tile::Chunk;

use std::fmt;

/// Most dimensions a tensor map can have.
pub const MAX_RANK: usize = 5;

macro_rules! driver_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$vdoc])* $variant = $value),* }

        impl $name {
            /// From the driver's number; `None` if the driver has no such value, or only for other chips.
            pub const fn from_driver(value: u32) -> Option<$name> {
                match value { $($value => Some($name::$variant),)* _ => None }
            }
        }
    };
}

driver_enum! {
    /// Element type (`CUtensorMapDataType`, by the same numbers).
    DataType {
        /// 8-bit unsigned; also used for every 8-bit float.
        U8 = 0,
        /// 16-bit unsigned.
        U16 = 1,
        /// 32-bit unsigned.
        U32 = 2,
        /// 32-bit signed.
        S32 = 3,
        /// 64-bit unsigned.
        U64 = 4,
        /// 64-bit signed.
        S64 = 5,
        /// binary16.
        F16 = 6,
        /// binary32.
        F32 = 7,
        /// binary64.
        F64 = 8,
        /// bfloat16.
        BF16 = 9,
        /// binary32, subnormals flushed to zero in reductions.
        F32Ftz = 10,
        /// binary32, rounded to TF32 on load.
        TF32 = 11,
        /// TF32 with subnormals flushed.
        TF32Ftz = 12,
    }
}

driver_enum! {
    /// Interleaved layouts (`CUtensorMapInterleave`).
    Interleave {
        /// Plain tensors.
        None = 0,
        /// NC/8HWC8.
        B16 = 1,
        /// NC/16HWC16.
        B32 = 2,
    }
}

driver_enum! {
    /// Order of 16-byte chunks in shared memory (`CUtensorMapSwizzle`).
    Swizzle {
        /// As they come.
        None = 0,
        /// Address bit 4 ^= bit 7.
        B32 = 1,
        /// Address bits 4–5 ^= bits 7–8.
        B64 = 2,
        /// Address bits 4–6 ^= bits 7–9.
        B128 = 3,
    }
}

driver_enum! {
    /// L2 fetch granularity (`CUtensorMapL2promotion`).
    L2Promotion {
        /// None.
        None = 0,
        /// 64 bytes.
        B64 = 1,
        /// 128 bytes.
        B128 = 2,
        /// 256 bytes.
        B256 = 3,
    }
}

driver_enum! {
    /// What out-of-bounds elements read as (`CUtensorMapFloatOOBfill`).
    OobFill {
        /// Zero.
        Zero = 0,
        /// A NaN that `fma.oob` recognises; floating-point types only.
        Nan = 1,
    }
}

impl DataType {
    /// Size of an element in bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            DataType::U8 => 1,
            DataType::U16 | DataType::F16 | DataType::BF16 => 2,
            DataType::U32
            | DataType::S32
            | DataType::F32
            | DataType::F32Ftz
            | DataType::TF32
            | DataType::TF32Ftz => 4,
            DataType::U64 | DataType::S64 | DataType::F64 => 8,
        }
    }

    /// Floating-point types, the only ones that can be NaN-filled.
    pub const fn is_float(self) -> bool {
        !matches!(
            self,
            DataType::U8 | DataType::U16 | DataType::U32 | DataType::S32 | DataType::U64 | DataType::S64
        )
    }
}

impl Swizzle {
    /// Width of the swizzled row in bytes: the largest inner box extent. `None` without swizzling.
    pub const fn span(self) -> Option<u32> {
        match self {
            Swizzle::None => None,
            Swizzle::B32 => Some(32),
            Swizzle::B64 => Some(64),
            Swizzle::B128 => Some(128),
        }
    }

    /// Where the byte at this linear shared-memory address is found: an XOR on the absolute address, the same function for
    /// tensor copies and for `wgmma`.
    #[inline]
    pub const fn apply(self, address: u32) -> u32 {
        match self {
            Swizzle::None => address,
            Swizzle::B32 => address ^ (address >> 3 & 0x10),
            Swizzle::B64 => address ^ (address >> 3 & 0x30),
            Swizzle::B128 => address ^ (address >> 3 & 0x70),
        }
    }
}

/// The arguments of `cuTensorMapEncodeTiled`, innermost dimension first.
#[derive(Clone, Copy, Debug)]
pub struct Tiled<'a> {
    /// Element type.
    pub data_type: DataType,
    /// Address of element (0, …, 0) in global memory.
    pub address: u64,
    /// Extent of each dimension in elements; as many as the rank.
    pub dims: &'a [u64],
    /// Distance in bytes from one index to the next, for dimension 1 upward: one fewer than `dims`.
    pub strides: &'a [u64],
    /// Extent of the box in each dimension, in elements.
    pub box_dims: &'a [u32],
    /// Traversal step in each dimension. The first is ignored, as by the driver.
    pub element_strides: &'a [u32],
    /// Must be [`Interleave::None`].
    pub interleave: Interleave,
    /// Order of chunks in shared memory.
    pub swizzle: Swizzle,
    /// No effect on results.
    pub l2_promotion: L2Promotion,
    /// What out-of-bounds elements read as.
    pub oob_fill: OobFill,
}

/// A validated tensor map, tiled or im2col.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorMap {
    data_type: DataType,
    rank: u8,
    address: u64,
    dims: [u64; MAX_RANK],
    strides: [u64; MAX_RANK - 1],
    box_dims: [u32; MAX_RANK],
    element_strides: [u32; MAX_RANK],
    swizzle: Swizzle,
    l2_promotion: L2Promotion,
    oob_fill: OobFill,
    walk: Option<im2col::Walk>,
}

/// Why a tensor map, its bytes, or its use is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMapError {
    /// The offending argument, as the driver names it.
    pub argument: String,
    /// What was expected of it.
    pub expected: String,
    /// What came.
    pub got: String,
}

impl fmt::Display for TensorMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensor map: {}: expected {}, got {}", self.argument, self.expected, self.got)
    }
}

impl std::error::Error for TensorMapError {}

fn refuse<T>(
    argument: impl Into<String>,
    expected: impl Into<String>,
    got: impl ToString,
) -> Result<T, TensorMapError> {
    Err(TensorMapError { argument: argument.into(), expected: expected.into(), got: got.to_string() })
}

fn copied<T: Copy + Default, const N: usize>(
    name: &str,
    from: &[T],
    expected: usize,
) -> Result<[T; N], TensorMapError> {
    if from.len() != expected {
        return refuse(name, format!("{expected} entries for this rank"), from.len());
    }
    let mut to = [T::default(); N];
    to[..expected].copy_from_slice(from);
    Ok(to)
}

impl TensorMap {
    /// Checks the arguments as the driver does.
    pub fn new(args: &Tiled<'_>) -> Result<TensorMap, TensorMapError> {
        let rank = args.dims.len();
        if rank == 0 || rank > MAX_RANK {
            return refuse("tensorRank", "1 to 5", rank);
        }
        if args.interleave != Interleave::None {
            if rank < 3 {
                return refuse("tensorRank", "at least 3 with an interleaved layout", rank);
            }
            return refuse(
                "interleave",
                "none (interleaved layouts are not emulated)",
                format!("{:?}", args.interleave),
            );
        }
        let element_strides = {
            let mut steps: [u32; MAX_RANK] = copied("elementStrides", args.element_strides, rank)?;
            for (i, &step) in steps[..rank].iter().enumerate() {
                if step == 0 || step > 8 {
                    return refuse(format!("elementStrides[{i}]"), "1 to 8", step);
                }
            }
            // Without interleaving the copy engine has no step for dimension 0.
            steps[0] = 1;
            steps
        };
        let map = TensorMap {
            data_type: args.data_type,
            rank: rank as u8,
            address: args.address,
            dims: copied("globalDim", args.dims, rank)?,
            strides: copied("globalStrides", args.strides, rank - 1)?,
            box_dims: copied("boxDim", args.box_dims, rank)?,
            element_strides,
            swizzle: args.swizzle,
            l2_promotion: args.l2_promotion,
            oob_fill: args.oob_fill,
            walk: None,
        };
        map.check()?;
        Ok(map)
    }

    fn check(&self) -> Result<(), TensorMapError> {
        let rank = self.rank();
        if !self.address.is_multiple_of(16) {
            return refuse("globalAddress", "a multiple of 16", format!("{:#x}", self.address));
        }
        for (i, &extent) in self.dims[..rank].iter().enumerate() {
            if extent == 0 || extent > 1 << 32 {
                return refuse(format!("globalDim[{i}]"), "1 to 2^32", extent);
            }
        }
        for (i, &stride) in self.strides[..rank - 1].iter().enumerate() {
            if !stride.is_multiple_of(16) || stride >= 1 << 40 {
                return refuse(format!("globalStrides[{i}]"), "a multiple of 16 bytes below 2^40", stride);
            }
        }
        for (i, &extent) in self.box_dims[..rank].iter().enumerate() {
            // The pixels of an im2col map stand in dimension 1; their number was checked.
            let most = if i == 1 && self.walk.is_some() { 1024 } else { 256 };
            if extent == 0 || extent > most {
                return refuse(format!("boxDim[{i}]"), format!("1 to {most}"), extent);
            }
        }
        let inner = self.box_dims[0] * self.data_type.bytes();
        if !inner.is_multiple_of(16) {
            return refuse("boxDim[0]", "a multiple of 16 bytes", format!("{inner} bytes"));
        }
        if let Some(span) = self.swizzle.span()
            && inner > span
        {
            return refuse(
                "boxDim[0]",
                format!("at most {span} bytes with this swizzle"),
                format!("{inner} bytes"),
            );
        }
        if self.oob_fill == OobFill::Nan && !self.data_type.is_float() {
            return refuse("oobFill", "zero for a type that has no NaN", format!("{:?}", self.data_type));
        }
        Ok(())
    }

    /// Number of dimensions.
    pub const fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Element type.
    pub const fn data_type(&self) -> DataType {
        self.data_type
    }

    /// Address of element (0, …, 0).
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Extents in elements.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.rank()]
    }

    /// Strides in bytes of dimension 1 upward.
    pub fn strides(&self) -> &[u64] {
        &self.strides[..self.rank() - 1]
    }

    /// Box extents in elements.
    pub fn box_dims(&self) -> &[u32] {
        &self.box_dims[..self.rank()]
    }

    /// Traversal steps.
    pub fn element_strides(&self) -> &[u32] {
        &self.element_strides[..self.rank()]
    }

    /// Order of chunks in shared memory.
    pub const fn swizzle(&self) -> Swizzle {
        self.swizzle
    }

    /// L2 fetch granularity.
    pub const fn l2_promotion(&self) -> L2Promotion {
        self.l2_promotion
    }

    /// What out-of-bounds elements read as.
    pub const fn oob_fill(&self) -> OobFill {
        self.oob_fill
    }

    /// The arguments that make this map, to change some and build another (`tensormap.replace`).
    pub fn tiled(&self) -> Tiled<'_> {
        Tiled {
            data_type: self.data_type,
            address: self.address,
            dims: self.dims(),
            strides: self.strides(),
            box_dims: self.box_dims(),
            element_strides: self.element_strides(),
            interleave: Interleave::None,
            swizzle: self.swizzle,
            l2_promotion: self.l2_promotion,
            oob_fill: self.oob_fill,
        }
    }
}

#[cfg(test)]
mod tests;
