//! What goes into a launch: the grid, the attributes, and the parameters as bytes.
//!
//! A [`ParamBuffer`] lives on the stack, so that enqueuing a kernel allocates nothing. Each parameter sits at its natural
//! alignment (tensor maps at 64 bytes, as `.param .align 64` declares them), which is the layout PTX gives an entry's
//! parameters; the CUDA backend passes a pointer to each, the emulator takes the bytes as they are.

use super::driver::RawStream;
use super::map::TensorMap;

/// Grid, block, shared memory and attributes of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks in each dimension.
    pub grid: [u32; 3],
    /// Threads in each dimension.
    pub block: [u32; 3],
    /// Blocks of a cluster in each dimension; `None` launches without clusters.
    pub cluster: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Whether the kernel may start before its predecessor in the stream has ended (programmatic dependent launch).
    pub programmatic: bool,
    /// Whether every block must be resident at once.
    pub cooperative: bool,
    /// The stream.
    pub stream: RawStream,
}

impl LaunchConfig {
    /// A plain launch of `blocks` × `threads`.
    pub const fn new(blocks: u32, threads: u32, dynamic_shared: u32, stream: RawStream) -> LaunchConfig {
        LaunchConfig {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            cluster: None,
            dynamic_shared,
            programmatic: false,
            cooperative: false,
            stream,
        }
    }
}

/// Bytes of parameters one launch can carry. Our longest list, four tensor maps and a few numbers, takes 552.
const CAPACITY: usize = 1024;
/// Parameters one launch can carry.
const MOST: usize = 24;

/// An entry's parameters, laid out as PTX lays them out.
#[derive(Clone)]
#[repr(C, align(128))]
pub struct ParamBuffer {
    bytes: [u8; CAPACITY],
    starts: [u16; MOST],
    len: u16,
    count: u16,
}

impl ParamBuffer {
    /// No parameters yet.
    pub const fn new() -> ParamBuffer {
        ParamBuffer { bytes: [0; CAPACITY], starts: [0; MOST], len: 0, count: 0 }
    }

    /// Appends a `.u32` parameter.
    #[must_use]
    pub fn u32(self, value: u32) -> ParamBuffer {
        self.push(&value.to_le_bytes(), 4)
    }

    /// Appends a `.f32` parameter.
    #[must_use]
    pub fn f32(self, value: f32) -> ParamBuffer {
        self.push(&value.to_le_bytes(), 4)
    }

    /// Appends a `.u64` parameter: a number or an address.
    #[must_use]
    pub fn u64(self, value: u64) -> ParamBuffer {
        self.push(&value.to_le_bytes(), 8)
    }

    /// Appends a tensor map.
    #[must_use]
    pub fn map(self, map: &TensorMap) -> ParamBuffer {
        self.push(&map.to_bytes(), 64)
    }

    fn push(mut self, value: &[u8], align: usize) -> ParamBuffer {
        let start = (self.len as usize).next_multiple_of(align);
        let end = start + value.len();
        // The lists are fixed in this crate's source and each kernel's is exercised by its tests.
        assert!(
            end <= CAPACITY && (self.count as usize) < MOST,
            "a kernel's parameter list outgrew ParamBuffer"
        );
        self.bytes[start..end].copy_from_slice(value);
        self.starts[self.count as usize] = start as u16;
        self.len = end as u16;
        self.count += 1;
        self
    }

    /// The bytes, in the layout of the entry's parameter space.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    /// The offset of each parameter in [`ParamBuffer::bytes`].
    pub fn starts(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.starts[..self.count as usize].iter().map(|&start| start as usize)
    }
}

impl Default for ParamBuffer {
    fn default() -> ParamBuffer {
        ParamBuffer::new()
    }
}

impl std::fmt::Debug for ParamBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ParamBuffer({} parameters, {} bytes)", self.count, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_sit_at_their_natural_alignment() {
        let params = ParamBuffer::new().u32(7).u64(9).f32(1.0).map(&TensorMap([3; 16])).u32(5);
        assert_eq!(params.starts().collect::<Vec<_>>(), [0, 8, 16, 64, 192]);
        assert_eq!(params.bytes().len(), 196);
        assert_eq!(params.bytes()[8], 9);
        assert_eq!(params.bytes()[64], 3);
    }
}
