//! What the operations ask of their arguments: devices, types, shapes, rows, and that nothing lies in the window or under an output.

use super::args::{Combine, Dispatch, Expand};
use super::{Plan, Shape};
use crate::device::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Layout;

impl Plan {
    pub(super) fn expect_stream(&self, stream: &Stream) -> Result<()> {
        let device = self.window.device().id();
        if stream.device().id() != device {
            return Err(Error::device("stream", device, stream.device().id()));
        }
        Ok(())
    }

    /// Device, type, shape, alignment and rows of an argument.
    fn expect(
        &self,
        argument: &'static str,
        layout: &Layout,
        dtype: DType,
        names: &str,
        [rows, cols]: [usize; 2],
        align: u64,
    ) -> Result<()> {
        layout.expect_device(argument, self.window.device().id())?;
        layout.expect_dtype(argument, dtype)?;
        layout.expect_shape(argument, names, rows, cols)?;
        layout.expect_aligned(argument, align)?;
        layout.expect_row_major(argument, align)
    }

    /// Rows without gaps: the kernels step through them by their width.
    fn expect_contiguous(argument: &'static str, layout: &Layout) -> Result<()> {
        if layout.rows > 1 && layout.row_stride != layout.cols {
            let expected = format!("contiguous rows, a row stride of {}", layout.cols);
            return Err(Error::stride(argument, expected, layout.row_stride));
        }
        Ok(())
    }

    fn expect_tokens(&self, argument: &'static str, layout: &Layout) -> Result<()> {
        if layout.rows > self.shape.tokens {
            let expected =
                format!("[tokens, hidden] = [at most {}, {}]", self.shape.tokens, self.shape.hidden);
            return Err(Error::shape(argument, expected, layout.shape_text()));
        }
        Ok(())
    }

    /// That an argument is no part of this rank's window.
    fn expect_outside(&self, argument: &'static str, layout: &Layout) -> Result<()> {
        let bytes = self.layout.bytes as usize;
        let id = self.window.device().id();
        let window = Layout::new(id, DType::U8, self.window.base(), [1, bytes], [bytes, 1]);
        layout.expect_apart(argument, &window, "window")
    }

    fn expect_scales(&self, given: Option<&Layout>) -> Result<()> {
        match (given, self.layout.scale_words) {
            (None, 0) | (Some(_), 1..) => Ok(()),
            (None, words) => {
                let expected = format!("[rows, {words}], since the payload is e4m3");
                Err(Error::shape("scales", expected, "none"))
            }
            (Some(given), 0) => Err(Error::shape("scales", "none: the payload is bf16", given.shape_text())),
        }
    }

    pub(super) fn check_dispatch(&self, stream: &Stream, args: &Dispatch<'_>) -> Result<()> {
        self.expect_stream(stream)?;
        let Shape { topk, hidden, .. } = self.shape;
        let (x, handle) = (args.x.layout(), args.handle.layout());
        let scales = args.scales.as_ref().map(|scales| scales.layout());
        let (ids, weights) = (args.topk_idx.layout(), args.topk_weight.layout());
        self.expect_tokens("x", x)?;
        let tokens = x.rows;
        self.expect("x", x, self.options.payload, "[tokens, hidden]", [tokens, hidden], 16)?;
        self.expect("topk_idx", ids, DType::I32, "[tokens, topk]", [tokens, topk], 4)?;
        self.expect("topk_weight", weights, DType::F32, "[tokens, topk]", [tokens, topk], 4)?;
        Plan::expect_contiguous("topk_idx", ids)?;
        Plan::expect_contiguous("topk_weight", weights)?;
        let bytes = self.handle().bytes;
        self.expect("handle", handle, DType::U8, "[1, Plan::handle().bytes]", [1, bytes], 16)?;
        self.expect_scales(scales)?;
        if let Some(scales) = scales {
            let shape = [tokens, self.layout.scale_words];
            self.expect("scales", scales, DType::F32, "[tokens, ⌈hidden/128⌉]", shape, 4)?;
            self.expect_outside("scales", scales)?;
            handle.expect_apart("handle", scales, "scales")?;
        }
        for (argument, layout) in [("x", x), ("topk_idx", ids), ("topk_weight", weights)] {
            self.expect_outside(argument, layout)?;
            handle.expect_apart("handle", layout, argument)?;
        }
        self.expect_outside("handle", handle)
    }

    pub(super) fn check_expand(&self, stream: &Stream, args: &Expand<'_>) -> Result<usize> {
        self.expect_stream(stream)?;
        let (x, map, ends) = (args.x.layout(), args.map.layout(), args.ends.layout());
        let scales = args.scales.as_ref().map(|scales| scales.layout());
        let rows = x.rows;
        if rows > i32::MAX as usize {
            return Err(Error::shape("x", format_args!("at most {} rows", i32::MAX), rows));
        }
        self.expect("x", x, self.options.payload, "[rows, hidden]", [rows, self.shape.hidden], 16)?;
        self.expect("map", map, DType::I32, "[1, rows]", [1, rows], 4)?;
        let experts = self.layout.local_experts;
        self.expect("ends", ends, DType::I32, "[1, experts/ranks]", [1, experts], 4)?;
        self.expect_scales(scales)?;
        if let Some(scales) = scales {
            scales.expect_device("scales", self.window.device().id())?;
            scales.expect_dtype("scales", DType::F32)?;
            let words = self.layout.scale_words;
            scales.expect_shape("scales", "[rows, ⌈hidden/128⌉]", rows, words)?;
            scales.expect_aligned("scales", 4)?;
            scales.expect_either_major("scales")?;
            self.expect_outside("scales", scales)?;
            for (argument, layout) in [("x", x), ("map", map), ("ends", ends)] {
                scales.expect_apart("scales", layout, argument)?;
            }
        }
        for (argument, layout) in [("x", x), ("map", map), ("ends", ends)] {
            self.expect_outside(argument, layout)?;
        }
        map.expect_apart("map", x, "x")?;
        ends.expect_apart("ends", x, "x")?;
        ends.expect_apart("ends", map, "map")?;
        Ok(rows)
    }

    pub(super) fn check_combine(&self, stream: &Stream, args: &Combine<'_>) -> Result<()> {
        self.expect_stream(stream)?;
        let hidden = self.shape.hidden;
        let (y, handle, out) = (args.y.layout(), args.handle.layout(), args.out.layout());
        self.expect_tokens("out", out)?;
        self.expect("y", y, DType::BF16, "[rows, hidden]", [y.rows, hidden], 16)?;
        self.expect("out", out, DType::BF16, "[tokens, hidden]", [out.rows, hidden], 16)?;
        let bytes = self.handle().bytes;
        self.expect("handle", handle, DType::U8, "[1, Plan::handle().bytes]", [1, bytes], 16)?;
        out.expect_apart("out", y, "y")?;
        out.expect_apart("out", handle, "handle")?;
        for (argument, layout) in [("y", y), ("handle", handle), ("out", out)] {
            self.expect_outside(argument, layout)?;
        }
        Ok(())
    }
}
