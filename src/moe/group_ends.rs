//! Group ends from a row-to-group map: for engines whose rows come with the group of each instead of the groups' ends, which
//! [`GroupedShape::contiguous`](crate::gemm::GroupedShape::contiguous) and [`swiglu`](super::swiglu) read.

use crate::device::launch::ParamBuffer;
use crate::device::{Device, LoadedKernel, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Matrix, MatrixMut, Workspace};

/// The entry.
const KERNEL: &str = "hadal_group_ends_i32_sm90a";

/// A loaded kernel for so many groups. Cheap to clone; runs any number of times on any stream of the device.
#[derive(Clone)]
#[must_use]
pub struct Plan {
    device: Device,
    groups: usize,
    kernel: LoadedKernel,
}

impl Plan {
    /// For `groups` groups, 1 to 1024. Host work only.
    pub fn new(device: &Device, groups: usize) -> Result<Plan> {
        let kernel = device.kernel(KERNEL)?;
        let most = kernel.kernel.row.int("MAX_GROUPS").unwrap_or(0) as usize;
        if groups == 0 || groups > most {
            return Err(Error::shape("groups", format_args!("1 to {most}"), groups));
        }
        Ok(Plan { device: device.clone(), groups, kernel })
    }

    /// The entry name of the kernel.
    pub fn kernel(&self) -> &'static str {
        self.kernel.kernel.row.name
    }

    /// The scratch memory a run wants: none.
    pub fn workspace(&self) -> Workspace {
        Workspace::NONE
    }

    /// Enqueues the search for the ends: one launch of one block, and nothing else.
    ///
    /// | argument | type | shape | meaning |
    /// | --- | --- | --- | --- |
    /// | `map` | I32 | `[1, M]` | the group of each row; anything outside 0 to G - 1 (by custom -1) for rows of none |
    /// | `ends` | I32 | `[1, G]` | one past the last row of each group; for a group without rows, the end of the groups before it |
    ///
    /// Groups stand in ascending order, each without gaps, and begin where the reader of `ends` looks for them: at the end of their
    /// predecessor, rounded up to its alignment. Maps that do not keep to this give ends that never fall, within M. Addresses are
    /// multiples of 4 bytes; `ends` shares no memory with `map`. The memory behind the arguments must stay as it is until the stream has
    /// passed the launch; buffers of this library see to that when they are dropped.
    pub fn run(&self, stream: &Stream, map: Matrix<'_>, ends: MatrixMut<'_>) -> Result<()> {
        let device = self.device.id();
        if stream.device().id() != device {
            return Err(Error::device("stream", device, stream.device().id()));
        }
        let (rows, most) = (map.layout().cols, i32::MAX as usize);
        if rows > most {
            return Err(Error::shape(
                "map",
                format_args!("[1, M] = [1, at most {most}]"),
                map.layout().shape_text(),
            ));
        }
        for (argument, layout, names, cols) in
            [("map", map.layout(), "[1, M]", rows), ("ends", ends.layout(), "[1, G]", self.groups)]
        {
            layout.expect_device(argument, device)?;
            layout.expect_dtype(argument, DType::I32)?;
            layout.expect_shape(argument, names, 1, cols)?;
            layout.expect_aligned(argument, 4)?;
            layout.expect_row_major(argument, 4)?;
        }
        ends.layout().expect_apart("ends", map.layout(), "map")?;
        let params = ParamBuffer::new()
            .u64(map.layout().address)
            .u64(ends.layout().address)
            .u32(rows as u32)
            .u32(self.groups as u32);
        // SAFETY: the kernel was loaded on the plan's device, which is the stream's; the parameters are the row's list in order; both
        // addresses were checked to be on this device with these shapes, and are valid by the contract of the views; the kernel
        // cuts whatever the map holds to the groups there are.
        unsafe { self.kernel.launch(stream, 1, true, &params) }
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} for {} groups on {})", self.kernel(), self.groups, self.device.id())
    }
}

/// The same, plainly: the ends of `groups` groups.
pub fn reference(map: &[i32], groups: usize) -> Vec<i32> {
    let mut end = 0;
    let last = |g: usize| map.iter().rposition(|&of| of == g as i32).map_or(0, |row| row as i32 + 1);
    (0..groups)
        .map(|g| {
            end = end.max(last(g));
            end
        })
        .collect()
}
