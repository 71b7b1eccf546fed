//! Views of device memory: what every kernel takes and gives.
//!
//! A [`Matrix`] is an address, an element type, rows, columns and two strides in elements, tied to the lifetime of the
//! memory behind it; [`MatrixMut`] is the same for outputs. The element type is a value and not a type parameter, since
//! engines learn it at run time. Row-major is strides `[ld, 1]`; M-major, as the GEMM wants the scales of its activations,
//! is the transpose of that, strides `[1, ld]`, and [`Matrix::t`] turns one into the other without touching memory.
//!
//! [`Buffer`](crate::Buffer)s give views safely. [`Matrix::from_raw`] and [`MatrixMut::from_raw`] are the one unsafe door,
//! for engines that own their memory; everything after that door is checked before it is launched.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use crate::device::{Device, DeviceId};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Where a matrix lies, without the promise that it may be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) device: DeviceId,
    pub(crate) dtype: DType,
    pub(crate) address: u64,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

/// A matrix in device memory, to be read.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    layout: Layout,
    memory: PhantomData<&'a [u8]>,
}

/// A matrix in device memory, to be written.
pub struct MatrixMut<'a> {
    layout: Layout,
    memory: PhantomData<&'a mut [u8]>,
}

/// What both kinds of view can tell about themselves.
macro_rules! describe {
    ($name:ident) => {
        impl $name<'_> {
            /// The address of element (0, 0).
            pub fn address(&self) -> u64 {
                self.layout.address
            }

            /// The element type.
            pub fn dtype(&self) -> DType {
                self.layout.dtype
            }

            /// Rows.
            pub fn rows(&self) -> usize {
                self.layout.rows
            }

            /// Columns.
            pub fn cols(&self) -> usize {
                self.layout.cols
            }

            /// Elements from one row to the next, and from one column to the next.
            pub fn strides(&self) -> [usize; 2] {
                [self.layout.row_stride, self.layout.col_stride]
            }

            /// The device the memory is on.
            pub fn device(&self) -> DeviceId {
                self.layout.device
            }

            pub(crate) fn layout(&self) -> &Layout {
                &self.layout
            }

            /// # Safety
            /// The layout's memory may be used for as long, and in the way, the view's type says.
            pub(crate) unsafe fn from_layout(layout: Layout) -> Self {
                Self { layout, memory: PhantomData }
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Layout { device, dtype, address, rows, cols, row_stride, col_stride } = self.layout;
                write!(f, "{dtype} [{rows}, {cols}] strides [{row_stride}, {col_stride}] at {address:#x} on {device}")
            }
        }
    };
}

describe!(Matrix);
describe!(MatrixMut);

impl<'a> Matrix<'a> {
    /// A view of memory the library does not own; strides in elements.
    ///
    /// # Safety
    ///
    /// Every element the shape and strides reach is `dtype` memory of `device`, and stays allocated, and unwritten by
    /// anything the stream does not order, from the launch until the kernel has run.
    pub unsafe fn from_raw(
        device: &Device,
        dtype: DType,
        address: u64,
        shape: [usize; 2],
        strides: [usize; 2],
    ) -> Matrix<'a> {
        Matrix { layout: Layout::new(device.id(), dtype, address, shape, strides), memory: PhantomData }
    }

    /// Rows become columns: the same memory with shape and strides swapped.
    #[must_use]
    pub fn t(self) -> Matrix<'a> {
        Matrix { layout: self.layout.transposed(), ..self }
    }

    /// A part of the matrix.
    pub fn slice(self, rows: Range<usize>, cols: Range<usize>) -> Result<Matrix<'a>> {
        Ok(Matrix { layout: self.layout.slice(rows, cols)?, ..self })
    }
}

impl<'a> MatrixMut<'a> {
    /// A view of memory the library does not own; strides in elements.
    ///
    /// # Safety
    ///
    /// Every element the shape and strides reach is `dtype` memory of `device`, stays allocated from the launch until the
    /// kernel has run, and nothing that the stream does not order reads or writes it meanwhile.
    pub unsafe fn from_raw(
        device: &Device,
        dtype: DType,
        address: u64,
        shape: [usize; 2],
        strides: [usize; 2],
    ) -> MatrixMut<'a> {
        MatrixMut { layout: Layout::new(device.id(), dtype, address, shape, strides), memory: PhantomData }
    }

    /// Rows become columns: the same memory with shape and strides swapped.
    #[must_use]
    pub fn t(self) -> MatrixMut<'a> {
        MatrixMut { layout: self.layout.transposed(), ..self }
    }

    /// A part of the matrix.
    pub fn slice(self, rows: Range<usize>, cols: Range<usize>) -> Result<MatrixMut<'a>> {
        Ok(MatrixMut { layout: self.layout.slice(rows, cols)?, ..self })
    }

    /// The same matrix, lent for a shorter time.
    pub fn reborrow(&mut self) -> MatrixMut<'_> {
        MatrixMut { layout: self.layout, memory: PhantomData }
    }

    /// The same matrix, to be read.
    pub fn as_matrix(&self) -> Matrix<'_> {
        Matrix { layout: self.layout, memory: PhantomData }
    }
}

/// Bytes and alignment of the scratch memory a plan wants from its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
#[non_exhaustive]
pub struct Workspace {
    /// Bytes.
    pub bytes: usize,
    /// What the address must be a multiple of.
    pub align: usize,
}

impl Workspace {
    /// No scratch memory.
    pub(crate) const NONE: Workspace = Workspace { bytes: 0, align: 1 };

    /// So much, at multiples of that.
    pub(crate) const fn of(bytes: usize, align: usize) -> Workspace {
        Workspace { bytes, align }
    }

    /// Checks the scratch memory a caller brought, as a row of bytes, if any.
    pub(crate) fn check(&self, device: DeviceId, given: Option<&Layout>) -> Result<()> {
        let Some(given) = given else {
            return match self.bytes {
                0 => Ok(()),
                bytes => Err(Error::workspace("workspace", format_args!("{bytes} bytes"), "none")),
            };
        };
        given.expect_device("workspace", device)?;
        given.expect_dtype("workspace", DType::U8)?;
        if given.rows != 1 || given.col_stride != 1 {
            return Err(Error::shape("workspace", "one row of bytes", given.shape_text()));
        }
        if given.cols < self.bytes {
            let got = format!("{} bytes", given.cols);
            return Err(Error::workspace("workspace", format_args!("at least {} bytes", self.bytes), got));
        }
        given.expect_end("workspace")?;
        given.expect_aligned("workspace", self.align as u64)
    }
}

impl Layout {
    pub(crate) fn new(
        device: DeviceId,
        dtype: DType,
        address: u64,
        [rows, cols]: [usize; 2],
        [row_stride, col_stride]: [usize; 2],
    ) -> Layout {
        Layout { device, dtype, address, rows, cols, row_stride, col_stride }
    }

    fn transposed(self) -> Layout {
        Layout {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    fn slice(self, rows: Range<usize>, cols: Range<usize>) -> Result<Layout> {
        let inside = |range: &Range<usize>, size| range.start <= range.end && range.end <= size;
        if !inside(&rows, self.rows) || !inside(&cols, self.cols) {
            let expected = format!("ranges within {}", self.shape_text());
            return Err(Error::bounds("slice", expected, format_args!("[{rows:?}, {cols:?}]")));
        }
        // Wrapping: an empty range at the end may point one past the matrix, and is never followed.
        let skipped =
            rows.start.wrapping_mul(self.row_stride).wrapping_add(cols.start.wrapping_mul(self.col_stride));
        let address = self.address.wrapping_add((skipped as u64).wrapping_mul(self.dtype.size() as u64));
        Ok(Layout { address, rows: rows.len(), cols: cols.len(), ..self })
    }

    /// `[rows, cols]`.
    pub(crate) fn shape_text(&self) -> String {
        format!("[{}, {}]", self.rows, self.cols)
    }

    /// Bytes from one row to the next, which for a matrix of one row is whatever a row takes.
    pub(crate) fn row_bytes(&self) -> u128 {
        let elements = if self.rows > 1 { self.row_stride } else { self.cols };
        elements as u128 * self.dtype.size() as u128
    }

    /// One past the last byte, counted from the first; the largest number where that is too small, for the numbers are the caller's and
    /// may be anything.
    pub(crate) fn extent(&self) -> u128 {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        let along = |count: usize, stride: usize| (count as u128 - 1).saturating_mul(stride as u128);
        let last = along(self.rows, self.row_stride).saturating_add(along(self.cols, self.col_stride));
        last.saturating_add(1).saturating_mul(self.dtype.size() as u128)
    }

    pub(crate) fn expect_device(&self, argument: &'static str, device: DeviceId) -> Result<()> {
        if self.device != device {
            let got = if self.device.to_string() == device.to_string() {
                format!("{} of another machine", self.device)
            } else {
                self.device.to_string()
            };
            return Err(Error::device(argument, device, got));
        }
        Ok(())
    }

    pub(crate) fn expect_dtype(&self, argument: &'static str, dtype: DType) -> Result<()> {
        if self.dtype != dtype {
            return Err(Error::dtype(argument, dtype, self.dtype));
        }
        Ok(())
    }

    /// That it has this shape, and ends where addresses do. `names` says what the two numbers are, as in `[M, K]`.
    pub(crate) fn expect_shape(
        &self,
        argument: &'static str,
        names: &str,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        if (self.rows, self.cols) != (rows, cols) {
            return Err(Error::shape(
                argument,
                format_args!("{names} = [{rows}, {cols}]"),
                self.shape_text(),
            ));
        }
        self.expect_end(argument)
    }

    fn expect_end(&self, argument: &'static str) -> Result<()> {
        if (self.address as u128).saturating_add(self.extent()) <= 1 << 64 {
            return Ok(());
        }
        let Layout { address, row_stride, col_stride, .. } = *self;
        let got = format!("strides [{row_stride}, {col_stride}] from {address:#x} on");
        Err(Error::bounds(argument, "memory that ends where addresses do, at 2^64", got))
    }

    pub(crate) fn expect_aligned(&self, argument: &'static str, bytes: u64) -> Result<()> {
        if !self.address.is_multiple_of(bytes.max(1)) {
            let expected = format!("an address that is a multiple of {bytes} bytes");
            return Err(Error::alignment(argument, expected, format_args!("{:#x}", self.address)));
        }
        Ok(())
    }

    /// Row-major, rows apart, and (where there is more than one) at a multiple of `bytes` from each other.
    pub(crate) fn expect_row_major(&self, argument: &'static str, bytes: u64) -> Result<()> {
        let wrong = |expected: String| {
            Err(Error::stride(argument, expected, format_args!("[{}, {}]", self.row_stride, self.col_stride)))
        };
        if self.col_stride != 1 && self.cols > 1 {
            return wrong("row-major, a column stride of 1".into());
        }
        if self.rows > 1 && self.row_stride < self.cols {
            return wrong(format!("a row stride of at least the {} columns", self.cols));
        }
        if self.rows > 1 && !self.row_bytes().is_multiple_of(bytes as u128) {
            let elements = bytes / self.dtype.size() as u64;
            return wrong(format!("a row stride that is a multiple of {elements} elements ({bytes} bytes)"));
        }
        // The widest pitch a tensor map can hold.
        if self.row_bytes() >= 1 << 40 {
            return wrong("a row stride below 2^40 bytes".into());
        }
        Ok(())
    }

    /// Row-major or transposed, each element in a place of its own.
    pub(crate) fn expect_either_major(&self, argument: &'static str) -> Result<()> {
        let Layout { rows, cols, row_stride, col_stride, .. } = *self;
        let row_major = (cols <= 1 || col_stride == 1) && (rows <= 1 || row_stride >= cols);
        let transposed = (rows <= 1 || row_stride == 1) && (cols <= 1 || col_stride >= rows);
        if row_major || transposed {
            return Ok(());
        }
        let expected = format!("strides [at least {cols}, 1] or [1, at least {rows}]");
        Err(Error::stride(argument, expected, format_args!("[{row_stride}, {col_stride}]")))
    }

    /// That writing this leaves `other` alone. Rows of one pitch may interleave, as slices of one matrix do.
    pub(crate) fn expect_apart(
        &self,
        argument: &'static str,
        other: &Layout,
        other_argument: &'static str,
    ) -> Result<()> {
        let (a, b) = (self.address as u128, other.address as u128);
        let (a_end, b_end) = (a.saturating_add(self.extent()), b.saturating_add(other.extent()));
        let empty = a == a_end || b == b_end;
        if self.device != other.device || empty || a >= b_end || b >= a_end || self.interleaves(other) {
            return Ok(());
        }
        Err(Error::overlap(
            argument,
            format_args!("memory apart from `{other_argument}` at {b:#x}..{b_end:#x}"),
            format_args!("{a:#x}..{a_end:#x}"),
        ))
    }

    /// Whether two row-major matrices of one pitch occupy different columns of it.
    fn interleaves(&self, other: &Layout) -> bool {
        let pitch = self.row_stride as u128 * self.dtype.size() as u128;
        let width = |l: &Layout| l.cols as u128 * l.dtype.size() as u128;
        if self.col_stride != 1 || other.col_stride != 1 || pitch == 0 {
            return false;
        }
        if other.row_stride as u128 * other.dtype.size() as u128 != pitch {
            return false;
        }
        // Where `other`'s rows begin within a row of ours.
        let offset = (other.address as i128 - self.address as i128).rem_euclid(pitch as i128) as u128;
        offset >= width(self) && offset + width(other) <= pitch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(address: u64, shape: [usize; 2], strides: [usize; 2]) -> Layout {
        Layout::new(DeviceId::for_tests(), DType::F32, address, shape, strides)
    }

    #[test]
    fn overlap_is_found_and_interleaved_columns_are_not_overlap() {
        let whole = layout(0x1000, [4, 16], [16, 1]);
        let left = layout(0x1000, [4, 8], [16, 1]);
        let right = layout(0x1020, [4, 8], [16, 1]);
        let crossing = layout(0x101c, [4, 8], [16, 1]);
        let other_pitch = layout(0x1020, [4, 8], [20, 1]);
        let after = layout(0x1100, [4, 16], [16, 1]);
        for (a, b, apart) in [
            (whole, left, false),
            (left, right, true),
            (right, left, true),
            (left, crossing, false),
            (left, other_pitch, false),
            (whole, after, true),
            (after, whole, true),
            (whole, layout(0x1010, [0, 16], [16, 1]), true),
        ] {
            assert_eq!(a.expect_apart("out", &b, "a").is_ok(), apart, "{a:?} {b:?}");
        }
    }

    #[test]
    fn row_major_is_judged_only_where_it_matters() {
        assert!(layout(0, [1, 7], [3, 9]).expect_row_major("x", 16).is_err());
        assert!(layout(0, [1, 7], [3, 1]).expect_row_major("x", 16).is_ok());
        assert!(layout(0, [2, 7], [7, 1]).expect_row_major("x", 16).is_err());
        assert!(layout(0, [2, 7], [8, 1]).expect_row_major("x", 16).is_ok());
        assert!(layout(0, [2, 9], [8, 1]).expect_row_major("x", 16).is_err());
        assert!(layout(0, [2, 8], [usize::MAX / 4 * 4, 1]).expect_row_major("x", 16).is_err());
    }

    #[test]
    fn what_ends_past_the_last_address_is_refused() {
        for (address, shape, strides) in [
            (u64::MAX - 14, [1, 4], [4, 1]),
            (0x1000, [2, 4], [usize::MAX, 1]),
            (0x1000, [usize::MAX, usize::MAX], [usize::MAX, usize::MAX]),
            (0x1000, [usize::MAX, 7], [usize::MAX, 1 << 63]),
        ] {
            let layout = layout(address, shape, strides);
            assert!(matches!(
                layout.expect_shape("x", "[M, K]", shape[0], shape[1]),
                Err(Error::Bounds { argument: "x", .. })
            ));
        }
        assert!(layout(u64::MAX - 15, [1, 4], [4, 1]).expect_shape("x", "[M, K]", 1, 4).is_ok());
    }

    #[test]
    fn slices_and_transposes_agree() {
        let l = layout(0x1000, [4, 16], [32, 1]);
        let a = l.slice(1..3, 4..8).unwrap();
        assert_eq!((a.address, a.rows, a.cols), (0x1000 + (32 + 4) * 4, 2, 4));
        assert_eq!(l.transposed().slice(4..8, 1..3).unwrap(), a.transposed());
        assert!(l.slice(0..5, 0..1).is_err() && l.slice(0..1, 9..17).is_err());
    }
}
