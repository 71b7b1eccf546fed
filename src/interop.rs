//! cudarc's streams and slices as ours (feature `cudarc`), for engines that hold their memory through it: candle, mistral.rs.
//!
//! Nothing else of the public API names a cudarc type, so its next version is not a breaking change of ours, and two versions
//! of it in one program can each be converted. The feature names no CUDA version and no link mode: whatever else is in the
//! dependency graph decides both.
//!
//! cudarc orders uses of a slice across streams by events that it records when a guard is dropped. A view therefore comes with
//! its guard, and the guard has to live until the launch is enqueued: keep both in scope around `plan.run`.

use std::marker::PhantomData;
use std::ops::Deref;

use cudarc::driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::{Layout, Matrix, MatrixMut};
use crate::{Error, Result, Stream};

/// The version this feature speaks.
pub use cudarc;

/// The device of a cudarc context. The context has to be the primary one, as those of `CudaContext::new` are.
pub fn device(context: &CudaContext) -> Result<Device> {
    Device::cuda(context.ordinal() as u32)
}

/// A [`Stream`] that somebody's `CudaStream` keeps alive.
#[derive(Debug)]
pub struct BorrowedStream<'a> {
    stream: Stream,
    owner: PhantomData<&'a CudaStream>,
}

impl Deref for BorrowedStream<'_> {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

/// A cudarc stream as ours.
pub fn stream<'a>(device: &Device, stream: &'a CudaStream) -> Result<BorrowedStream<'a>> {
    expect_device("stream", device, stream)?;
    // SAFETY: the handle is a stream of the device, checked above, and lives as long as the borrow the result carries.
    let stream = unsafe { Stream::from_raw(device, stream.cu_stream() as u64) };
    Ok(BorrowedStream { stream, owner: PhantomData })
}

/// A matrix over a cudarc slice, for reading on `stream`; element (0, 0) is element `offset`, strides are in elements.
///
/// `dtype` says what the elements are, and must be of their size: FP8 usually travels as `u8`.
pub fn matrix<'a, T, S: DevicePtr<T>>(
    device: &Device,
    slice: &'a S,
    stream: &'a CudaStream,
    dtype: DType,
    offset: usize,
    shape: [usize; 2],
    strides: [usize; 2],
) -> Result<(Matrix<'a>, SyncOnDrop<'a>)> {
    expect_device("slice", device, slice.stream())?;
    expect_device("stream", device, stream)?;
    let place = place::<T>(slice.len(), dtype, offset)?;
    let (address, guard) = slice.device_ptr(stream);
    let layout = Layout::new(device.id(), dtype, address + place.skipped, shape, strides);
    place.expect_inside(&layout)?;
    // SAFETY: the layout lies inside the slice, which the view borrows, and on its device.
    Ok((unsafe { Matrix::from_layout(layout) }, guard))
}

/// [`matrix`], to be written.
pub fn matrix_mut<'a, T, S: DevicePtrMut<T>>(
    device: &Device,
    slice: &'a mut S,
    stream: &'a CudaStream,
    dtype: DType,
    offset: usize,
    shape: [usize; 2],
    strides: [usize; 2],
) -> Result<(MatrixMut<'a>, SyncOnDrop<'a>)> {
    expect_device("slice", device, slice.stream())?;
    expect_device("stream", device, stream)?;
    let place = place::<T>(slice.len(), dtype, offset)?;
    let (address, guard) = slice.device_ptr_mut(stream);
    let layout = Layout::new(device.id(), dtype, address + place.skipped, shape, strides);
    place.expect_inside(&layout)?;
    // SAFETY: the layout lies inside the slice, which the view borrows mutably, and on its device.
    Ok((unsafe { MatrixMut::from_layout(layout) }, guard))
}

fn expect_device(argument: &'static str, device: &Device, stream: &CudaStream) -> Result<()> {
    let theirs = format!("cuda:{}", stream.context().ordinal());
    if device.id().to_string() != theirs {
        return Err(Error::device(argument, device.id(), theirs));
    }
    Ok(())
}

/// Where in a slice a view begins, and how much of the slice follows.
struct Place {
    skipped: u64,
    left: u128,
    text: String,
}

fn place<T>(len: usize, dtype: DType, offset: usize) -> Result<Place> {
    if size_of::<T>() != dtype.size() {
        let got = format!("{dtype}, of {}", dtype.size());
        return Err(Error::dtype("dtype", format_args!("a type of {} bytes", size_of::<T>()), got));
    }
    let text = format!("{len} elements from element {offset} on");
    let Some(left) = len.checked_sub(offset) else {
        return Err(Error::bounds("offset", format_args!("at most {len}"), offset));
    };
    let size = size_of::<T>();
    Ok(Place { skipped: (offset * size) as u64, left: left as u128 * size as u128, text })
}

impl Place {
    fn expect_inside(&self, layout: &Layout) -> Result<()> {
        if layout.extent() <= self.left {
            return Ok(());
        }
        let got = format!("{} with strides that reach {} bytes", layout.shape_text(), layout.extent());
        Err(Error::bounds("shape", format_args!("a matrix inside {}", self.text), got))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(len: usize, offset: usize, shape: [usize; 2], strides: [usize; 2]) -> Result<()> {
        let place = place::<u8>(len, DType::E4M3, offset)?;
        let device = crate::device::DeviceId::for_tests();
        place.expect_inside(&Layout::new(device, DType::E4M3, 0x1000 + place.skipped, shape, strides))
    }

    #[test]
    fn views_stay_inside_their_slice() {
        assert!(inside(64, 0, [4, 16], [16, 1]).is_ok());
        assert!(inside(64, 16, [3, 16], [16, 1]).is_ok());
        let error = inside(64, 17, [3, 16], [16, 1]).unwrap_err().to_string();
        assert!(error.contains("64 elements from element 17 on"), "{error}");
        assert!(inside(64, 65, [0, 0], [0, 1]).is_err());
        assert!(inside(usize::MAX, 0, [usize::MAX, 2], [usize::MAX, 1]).is_err());
    }

    #[test]
    fn element_sizes_have_to_agree() {
        let error = place::<f32>(8, DType::BF16, 0).err().unwrap().to_string();
        assert!(error.contains("dtype") && error.contains("4 bytes"), "{error}");
    }
}
