//! Copies and fills of rows that lie a pitch apart, in two dimensions and in three. Row by row: in a capture, each row is a node.

use std::ffi::c_int;

use crate::abi::{DevicePtr, Handle, In, Out};
use crate::error::{Code, Error, Result, answered};
use crate::memory::{cuMemAlloc_v2, cuMemcpyPeerAsync, cuMemsetD8Async};
use crate::runtime::calls::copy;
use crate::runtime::runtime;

/// What `cudaMallocPitch` makes rows a multiple of.
const PITCH: usize = 512;

/// `cudaPitchedPtr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pitched {
    address: usize,
    pitch: usize,
    width: usize,
    height: usize,
}

/// `cudaExtent` and `cudaPos`: bytes, rows, planes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Extent {
    bytes: usize,
    rows: usize,
    planes: usize,
}

/// One side of a `cudaMemcpy3DParms`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Side {
    array: Handle,
    at: Extent,
    memory: Pitched,
}

/// `cudaMemcpy3DParms`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy3 {
    from: Side,
    to: Side,
    extent: Extent,
    kind: c_int,
}

impl Side {
    /// Address of the first byte, and bytes from row to row and from plane to plane.
    fn place(&self, extent: &Extent) -> Result<(usize, usize, usize)> {
        if self.array != 0 {
            return Err(Error::new(Code::NotSupported, "CUDA arrays"));
        }
        let Pitched { address, pitch, height, .. } = self.memory;
        check_pitch(pitch, self.at.bytes + extent.bytes, extent.rows * extent.planes)?;
        let plane = pitch * height;
        Ok((address + self.at.planes * plane + self.at.rows * pitch + self.at.bytes, pitch, plane))
    }
}

fn check_pitch(pitch: usize, bytes: usize, rows: usize) -> Result<()> {
    if rows > 1 && pitch < bytes {
        return Err(Error::new(Code::InvalidPitch, format!("rows of {bytes} bytes, {pitch} bytes apart")));
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn copy2(
    (to, to_pitch): (usize, usize),
    (from, from_pitch): (usize, usize),
    bytes: usize,
    rows: usize,
    kind: c_int,
    stream: Handle,
) -> Result<()> {
    check_pitch(to_pitch.min(from_pitch), bytes, rows)?;
    let whole = to_pitch == bytes && from_pitch == bytes;
    let (bytes, rows) = if whole { (bytes * rows, rows.min(1)) } else { (bytes, rows) };
    (0..rows).try_for_each(|row| {
        let (to, from) = (to + row * to_pitch, from + row * from_pitch);
        copy(Out::at_address(to), In::at_address(from), bytes, kind, stream)
    })
}

fn copy3(params: In<Copy3>, stream: Handle) -> Result<()> {
    let Copy3 { from, to, extent, kind } = params.get()?;
    let ((to, to_pitch, to_plane), (from, from_pitch, from_plane)) =
        (to.place(&extent)?, from.place(&extent)?);
    (0..extent.planes).try_for_each(|plane| {
        let (to, from) = (to + plane * to_plane, from + plane * from_plane);
        copy2((to, to_pitch), (from, from_pitch), extent.bytes, extent.rows, kind, stream)
    })
}

fn fill2(to: usize, pitch: usize, value: c_int, bytes: usize, rows: usize, stream: Handle) -> Result<()> {
    check_pitch(pitch, bytes, rows)?;
    (0..rows).try_for_each(|row| {
        answered(cuMemsetD8Async((to + row * pitch) as DevicePtr, value as u8, bytes, stream))
    })
}

fn fill3(to: Pitched, value: c_int, extent: Extent, stream: Handle) -> Result<()> {
    (0..extent.planes).try_for_each(|plane| {
        let start = to.address + plane * to.pitch * to.height;
        fill2(start, to.pitch, value, extent.bytes, extent.rows, stream)
    })
}

fn alloc(bytes: usize, rows: usize) -> Result<(usize, usize)> {
    let pitch = bytes.next_multiple_of(PITCH);
    let all = pitch.checked_mul(rows).ok_or_else(|| Error::quiet(Code::OutOfMemory))?;
    let mut address = 0;
    if all > 0 {
        answered(cuMemAlloc_v2(Out::of(&mut address), all))?;
    }
    Ok((address as usize, pitch))
}

runtime! {
    fn cudaMallocPitch(address: Out<usize>, pitch: Out<usize>, bytes: usize, rows: usize) {
        let (at, apart) = alloc(bytes, rows)?;
        address.put(at)?;
        pitch.put(apart)
    }

    fn cudaMalloc3D(memory: Out<Pitched>, extent: Extent) {
        let (address, pitch) = alloc(extent.bytes, extent.rows * extent.planes)?;
        memory.put(Pitched { address, pitch, width: extent.bytes, height: extent.rows })
    }

    fn cudaMemcpy2D(to: usize, to_pitch: usize, from: usize, from_pitch: usize, bytes: usize, rows: usize, kind: c_int) {
        copy2((to, to_pitch), (from, from_pitch), bytes, rows, kind, 0)
    }

    fn cudaMemcpy2DAsync(to: usize, to_pitch: usize, from: usize, from_pitch: usize, bytes: usize, rows: usize,
                         kind: c_int, stream: Handle) {
        copy2((to, to_pitch), (from, from_pitch), bytes, rows, kind, stream)
    }

    fn cudaMemcpy3D(params: In<Copy3>) {
        copy3(params, 0)
    }

    fn cudaMemcpy3DAsync(params: In<Copy3>, stream: Handle) {
        copy3(params, stream)
    }

    fn cudaMemcpyPeer(to: DevicePtr, _to_device: c_int, from: DevicePtr, _from_device: c_int, bytes: usize) {
        answered(cuMemcpyPeerAsync(to, 0, from, 0, bytes, 0))
    }

    fn cudaMemcpyPeerAsync(to: DevicePtr, _to_device: c_int, from: DevicePtr, _from_device: c_int, bytes: usize,
                           stream: Handle) {
        answered(cuMemcpyPeerAsync(to, 0, from, 0, bytes, stream))
    }

    fn cudaMemset2D(to: usize, pitch: usize, value: c_int, bytes: usize, rows: usize) {
        fill2(to, pitch, value, bytes, rows, 0)
    }

    fn cudaMemset2DAsync(to: usize, pitch: usize, value: c_int, bytes: usize, rows: usize, stream: Handle) {
        fill2(to, pitch, value, bytes, rows, stream)
    }

    fn cudaMemset3D(to: Pitched, value: c_int, extent: Extent) {
        fill3(to, value, extent, 0)
    }

    fn cudaMemset3DAsync(to: Pitched, value: c_int, extent: Extent, stream: Handle) {
        fill3(to, value, extent, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::{cudaFree, cudaMemcpy, cudaMemset};
    use super::*;

    #[test]
    fn rows_go_to_their_places_and_nothing_between_changes() {
        let (mut address, mut pitch) = (0, 0);
        assert_eq!(cudaMallocPitch(Out::of(&mut address), Out::of(&mut pitch), 3, 4), 0);
        assert_eq!(pitch, 512);
        assert_eq!(cudaMemset(address as DevicePtr, 9, 2048), 0);
        let rows: Vec<u8> = (0..20).collect();
        assert_eq!(cudaMemcpy2D(address, pitch, rows.as_ptr() as usize, 5, 3, 4, 1), 0);
        assert_eq!(cudaMemset2D(address + 1, pitch, 77, 1, 2), 0);
        let mut all = vec![0u8; 2048];
        let to = all.as_mut_ptr() as usize;
        assert_eq!(cudaMemcpy(Out::at_address(to), In::at_address(address), 2048, 2), 0);
        let expected = |i: usize| match (i / 512, i % 512) {
            (0 | 1, 1) => 77,
            (row, column @ 0..3) => (row * 5 + column) as u8,
            _ => 9,
        };
        assert_eq!(all, (0..2048).map(expected).collect::<Vec<u8>>());

        // Two planes of two rows, from the second row of the first plane.
        let mut out = [0u8; 8];
        let side = |address, pitch, height, rows| Side {
            array: 0,
            at: Extent { bytes: 0, rows, planes: 0 },
            memory: Pitched { address, pitch, width: 3, height },
        };
        let extent = Extent { bytes: 2, rows: 1, planes: 2 };
        let (from, to) = (side(address, pitch, 2, 1), side(out.as_mut_ptr() as usize, 2, 2, 0));
        assert_eq!(cudaMemcpy3D(In::of(&Copy3 { from, to, extent, kind: 2 })), 0);
        assert_eq!(out, [5, 77, 0, 0, 15, 16, 0, 0]);

        assert_eq!(cudaMemcpy2D(address, 2, rows.as_ptr() as usize, 5, 3, 4, 1), Code::InvalidPitch as c_int);
        assert_eq!(cudaFree(address as DevicePtr), 0);
    }

    #[test]
    fn structures_have_the_runtime_s_layout() {
        assert_eq!((size_of::<Pitched>(), size_of::<Extent>(), size_of::<Copy3>()), (32, 24, 160));
        assert_eq!(std::mem::offset_of!(Copy3, extent), 128);
    }
}
