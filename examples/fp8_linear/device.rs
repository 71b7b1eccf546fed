//! The part to copy: everything that happens on the device.
//!
//! Two quantisations and a product, each planned and then run on one stream. An engine plans once for each shape, quantises
//! the weight when the model is loaded and keeps the plans; it would also bring its own memory, through
//! `Matrix::from_raw`.

use hadal::dtype::Element;
use hadal::{Buffer, DType, E4M3, Result, Stream, bf16, f16, gemm, quant};

use super::layer::Layer;

/// Columns of K, and rows of the weight, under one scale.
pub const GROUP: usize = 128;

/// A quantised matrix on the host; scales row-major.
pub struct Quantized {
    pub values: Vec<E4M3>,
    pub scales: Vec<f32>,
}

/// What came back.
pub struct Computed {
    pub x: Quantized,
    pub weight: Quantized,
    pub out: Vec<bf16>,
}

/// Quantises both, multiplies, and brings everything back. `step` hears what is about to happen.
pub fn compute(
    plan: &gemm::Plan,
    stream: &Stream,
    x: &[bf16],
    layer: &Layer,
    step: impl Fn(&'static str),
) -> Result<Computed> {
    let [m, n, k] = [plan.shape().m(), plan.shape().n(), plan.shape().k()];
    let (groups, blocks) = (k.div_ceil(GROUP), n.div_ceil(GROUP));

    step("quantising the weight");
    let to_device =
        Quantize { options: quant::Options::weights(), scale_rows: blocks, scale_strides: [groups, 1] };
    let (weight, weight_scale_inv) = match layer.dtype {
        DType::BF16 => to_device.run(stream, &narrow(&layer.weight, bf16::from_f32), [n, k])?,
        DType::F16 => to_device.run(stream, &narrow(&layer.weight, f16::from_f32), [n, k])?,
        _ => to_device.run(stream, &layer.weight, [n, k])?,
    };

    step("quantising the activations");
    // The GEMM wants these scales M-major.
    let ld = quant::m_major_stride(m);
    let to_device =
        Quantize { options: quant::Options::activations(), scale_rows: m, scale_strides: [1, ld] };
    let (a, a_scales) = to_device.run(stream, x, [m, k])?;

    step("multiplying");
    let mut out = stream.device().alloc::<bf16>(m * n)?;
    plan.run(
        stream,
        gemm::Args::new(
            a.matrix(m, k)?,
            a_scales.view(0, [m, groups], [1, ld])?,
            weight.matrix(n, k)?,
            weight_scale_inv.matrix(blocks, groups)?,
            out.matrix_mut(m, n)?,
        ),
    )?;
    let out = out.to_vec(stream)?;

    let m_major = a_scales.to_vec(stream)?;
    let row_major = (0..m).flat_map(|row| (0..groups).map(move |group| group * ld + row));
    Ok(Computed {
        x: Quantized { values: a.to_vec(stream)?, scales: row_major.map(|at| m_major[at]).collect() },
        weight: Quantized { values: weight.to_vec(stream)?, scales: weight_scale_inv.to_vec(stream)? },
        out,
    })
}

/// One quantisation: how, and where its scales go.
struct Quantize {
    options: quant::Options,
    scale_rows: usize,
    scale_strides: [usize; 2],
}

impl Quantize {
    /// Uploads a row-major matrix and quantises it.
    fn run<T: Element>(
        &self,
        stream: &Stream,
        values: &[T],
        [rows, cols]: [usize; 2],
    ) -> Result<(Buffer<E4M3>, Buffer<f32>)> {
        let device = stream.device();
        let groups = cols.div_ceil(GROUP);
        let [down, across] = self.scale_strides;
        let x = device.upload(stream, values)?;
        let mut q = device.alloc(rows * cols)?;
        let mut scales = device.alloc((self.scale_rows - 1) * down + (groups - 1) * across + 1)?;
        let plan = quant::Plan::new(device, quant::Shape::new(rows, cols), self.options.input(T::DTYPE))?;
        let scales_view = scales.view_mut(0, [self.scale_rows, groups], self.scale_strides)?;
        plan.run(stream, quant::Args::new(x.matrix(rows, cols)?, q.matrix_mut(rows, cols)?, scales_view))?;
        stream.synchronize()?;
        Ok((q, scales))
    }
}

/// Back to the type the weight had; nothing is lost.
fn narrow<T>(values: &[f32], to: impl Fn(f32) -> T) -> Vec<T> {
    values.iter().map(|&value| to(value)).collect()
}
