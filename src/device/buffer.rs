//! Device memory the library owns, for examples, tests and tools. Engines bring their own and use `Matrix::from_raw`.
//!
//! A buffer is typed and one-dimensional; matrices are views of it, checked against its length. Dropping a buffer waits
//! for the device before the memory goes, so a kernel that was enqueued with a view never outlives its memory.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Device, Stream};
use crate::dtype::{Element, bytes_of, bytes_of_mut};
use crate::error::{Error, Result};
use crate::tensor::{Layout, Matrix, MatrixMut};

/// `len` elements of device memory.
#[derive(Debug)]
pub struct Buffer<T: Element> {
    device: Device,
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl Device {
    /// Allocates `len` elements, with contents unspecified, at an address that is a multiple of 256.
    pub fn alloc<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let bytes = bytes.ok_or_else(|| {
            Error::bounds("len", format_args!("at most {} bytes", isize::MAX), format_args!("{len} elements"))
        })?;
        // A driver refuses to allocate nothing, and an empty buffer still wants an address of its own.
        let address = self.driver().alloc(self.ordinal(), bytes.max(1) as u64)?;
        Ok(Buffer { device: self.clone(), address, len, element: PhantomData })
    }

    /// Allocates a buffer and fills it from the host.
    pub fn upload<T: Element>(&self, stream: &Stream, values: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.alloc(values.len())?;
        buffer.copy_from_host(stream, values)?;
        Ok(buffer)
    }
}

impl<T: Element> Buffer<T> {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device address of element 0.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The device the memory is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Copies `values` over the whole buffer, in stream order.
    pub fn copy_from_host(&mut self, stream: &Stream, values: &[T]) -> Result<()> {
        self.expect_len("values", values.len())?;
        self.expect_stream(stream)?;
        // SAFETY: the buffer is live and holds exactly as many bytes as the slice; the stream is of its device.
        unsafe {
            self.device.driver().copy_to_device(
                self.device.ordinal(),
                self.address,
                bytes_of(values),
                stream.raw(),
            )
        }
    }

    /// Copies the whole buffer into `values`, after everything already in the stream.
    pub fn copy_to_host(&self, stream: &Stream, values: &mut [T]) -> Result<()> {
        self.expect_len("values", values.len())?;
        self.expect_stream(stream)?;
        // SAFETY: the buffer is live and holds exactly as many bytes as the slice; the stream is of its device.
        unsafe {
            self.device.driver().copy_to_host(
                self.device.ordinal(),
                bytes_of_mut(values),
                self.address,
                stream.raw(),
            )
        }
    }

    /// The contents, after everything already in the stream.
    pub fn to_vec(&self, stream: &Stream) -> Result<Vec<T>> {
        // SAFETY: Element promises that every bit pattern, all zeros included, is a value.
        let zero: T = unsafe { std::mem::zeroed() };
        let mut values = vec![zero; self.len];
        self.copy_to_host(stream, &mut values)?;
        Ok(values)
    }

    /// Sets every byte, in stream order.
    pub fn fill_bytes(&mut self, stream: &Stream, byte: u8) -> Result<()> {
        self.expect_stream(stream)?;
        let bytes = (self.len * size_of::<T>()) as u64;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the buffer is live and `bytes` long; the stream is of its device.
        unsafe { self.device.driver().fill(self.device.ordinal(), self.address, byte, bytes, stream.raw()) }
    }

    /// A row-major matrix without gaps over the start of the buffer.
    pub fn matrix(&self, rows: usize, cols: usize) -> Result<Matrix<'_>> {
        self.view(0, [rows, cols], [cols, 1])
    }

    /// [`Buffer::matrix`], to be written.
    pub fn matrix_mut(&mut self, rows: usize, cols: usize) -> Result<MatrixMut<'_>> {
        self.view_mut(0, [rows, cols], [cols, 1])
    }

    /// A matrix whose element (0, 0) is element `offset` of the buffer, with strides in elements.
    pub fn view(&self, offset: usize, shape: [usize; 2], strides: [usize; 2]) -> Result<Matrix<'_>> {
        let layout = self.layout(offset, shape, strides)?;
        // SAFETY: the layout lies inside this buffer, which the view borrows.
        Ok(unsafe { Matrix::from_layout(layout) })
    }

    /// [`Buffer::view`], to be written.
    pub fn view_mut(
        &mut self,
        offset: usize,
        shape: [usize; 2],
        strides: [usize; 2],
    ) -> Result<MatrixMut<'_>> {
        let layout = self.layout(offset, shape, strides)?;
        // SAFETY: the layout lies inside this buffer, which the view borrows for itself alone.
        Ok(unsafe { MatrixMut::from_layout(layout) })
    }

    /// Several row-major matrices over disjoint ranges of the buffer, each `(range, rows, cols)`, to be written.
    ///
    /// The ranges must ascend and not touch twice.
    pub fn split_mut<const P: usize>(
        &mut self,
        parts: [(Range<usize>, usize, usize); P],
    ) -> Result<[MatrixMut<'_>; P]> {
        let mut end = 0;
        for (range, rows, cols) in &parts {
            let fits = rows.checked_mul(*cols).is_some_and(|n| n <= range.len());
            if range.start < end || range.end < range.start || range.end > self.len || !fits {
                let expected = format!("ascending ranges below {} that hold their matrices", self.len);
                return Err(Error::bounds("parts", expected, format_args!("{range:?} for [{rows}, {cols}]")));
            }
            end = range.end;
        }
        Ok(parts.map(|(range, rows, cols)| {
            let address = self.address + (range.start * size_of::<T>()) as u64;
            let layout = Layout::new(self.device.id(), T::DTYPE, address, [rows, cols], [cols, 1]);
            // SAFETY: the ranges are disjoint and inside the buffer, which all the views together borrow mutably.
            unsafe { MatrixMut::from_layout(layout) }
        }))
    }

    fn layout(&self, offset: usize, shape: [usize; 2], strides: [usize; 2]) -> Result<Layout> {
        // Wrapping: an offset that is too large is refused below.
        let address = self.address.wrapping_add((offset as u64).wrapping_mul(size_of::<T>() as u64));
        let layout = Layout::new(self.device.id(), T::DTYPE, address, shape, strides);
        let end = (offset as u128 * size_of::<T>() as u128).saturating_add(layout.extent());
        if end > self.len as u128 * size_of::<T>() as u128 {
            return Err(Error::bounds(
                "view",
                format_args!("a matrix within {} elements", self.len),
                format_args!("{shape:?} with strides {strides:?} from element {offset}"),
            ));
        }
        Ok(layout)
    }

    fn expect_len(&self, argument: &'static str, len: usize) -> Result<()> {
        if len != self.len {
            return Err(Error::bounds(argument, format_args!("{} elements", self.len), len));
        }
        Ok(())
    }

    fn expect_stream(&self, stream: &Stream) -> Result<()> {
        if stream.device().id() != self.device.id() {
            return Err(Error::device("stream", self.device.id(), stream.device().id()));
        }
        Ok(())
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated on this device by `alloc`, dropped once; the driver waits for the device's work first. A
        // failure of that work is sticky and comes back at the next wait.
        let _ = unsafe { self.device.driver().free(self.device.ordinal(), self.address) };
    }
}
