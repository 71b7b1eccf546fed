//! Tensor maps: how a kernel's bulk tensor copies see a matrix in global memory.
//!
//! A [`TensorMapSpec`] holds the arguments of `cuTensorMapEncodeTiled` that our kernels vary. The rest is fixed here:
//! no interleave, element strides of one, zeros outside the tensor. The driver turns it into 128 opaque bytes, which
//! travel to the kernel by value as a 64-byte-aligned parameter.

/// The encoded form: opaque, passed to kernels by value.
///
/// Aligned to 128 bytes because that is what the CUDA 13 headers ask for; 64 was enough before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(128))]
pub struct TensorMap(pub [u64; 16]);

impl TensorMap {
    /// The 128 bytes as they lie in memory.
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Element type of a tensor map. The values are the driver's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum MapType {
    /// Bytes; also what eight-bit floats are copied as.
    U8 = 0,
    /// IEEE sixteen-bit floats.
    F16 = 6,
    /// IEEE singles.
    F32 = 7,
    /// Sixteen-bit floats with eight exponent bits.
    BF16 = 9,
}

impl MapType {
    /// Bytes of one element.
    pub const fn size(self) -> u32 {
        match self {
            MapType::U8 => 1,
            MapType::F16 | MapType::BF16 => 2,
            MapType::F32 => 4,
        }
    }
}

/// How 16-byte pieces are permuted in shared memory. The values are the driver's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Swizzle {
    /// Rows as they come.
    None = 0,
    /// Within 128-byte rows, address bits 4–6 are XORed with bits 7–9.
    B128 = 3,
}

/// The most dimensions a map of ours has.
const MOST: usize = 4;

/// Arguments of `cuTensorMapEncodeTiled`: innermost dimension first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMapSpec {
    /// The argument this map describes, for messages.
    pub argument: &'static str,
    /// Element type.
    pub element: MapType,
    /// Address of the first element; a multiple of 16.
    pub address: u64,
    /// Shared-memory layout of one copy.
    pub swizzle: Swizzle,
    rank: usize,
    dims: [u64; MOST],
    strides: [u64; MOST],
    tile: [u32; MOST],
}

impl TensorMapSpec {
    /// `R` dimensions (two to four): elements in each, bytes from one index to the next in each (the innermost is the
    /// element's size and is not told to the driver; the others multiples of 16), and elements of one copy in each.
    pub const fn new<const R: usize>(
        argument: &'static str,
        element: MapType,
        swizzle: Swizzle,
        address: u64,
        dims: [(u64, u64, u32); R],
    ) -> TensorMapSpec {
        const { assert!(R >= 2 && R <= MOST) };
        let mut spec = TensorMapSpec {
            argument,
            element,
            address,
            swizzle,
            rank: R,
            dims: [1; MOST],
            strides: [0; MOST],
            tile: [1; MOST],
        };
        let mut at = 0;
        while at < R {
            (spec.dims[at], spec.strides[at], spec.tile[at]) = dims[at];
            at += 1;
        }
        spec
    }

    /// Elements in each dimension.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.rank]
    }

    /// Bytes from one index to the next in each dimension but the innermost.
    pub fn strides(&self) -> &[u64] {
        &self.strides[1..self.rank]
    }

    /// Elements of one copy in each dimension.
    pub fn tile(&self) -> &[u32] {
        &self.tile[..self.rank]
    }
}
