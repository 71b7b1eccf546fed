//! What the benches share: the shapes of DeepSeek-V3 and operands to multiply.
#![allow(dead_code)] // Each bench takes its own part of this.

use hadal::{Buffer, Device, E4M3, Result, Stream, bf16, gemm, quant};

/// N and K of the dense products of DeepSeek-V3, by what they compute.
pub const LAYERS: &[(&str, usize, usize)] = &[
    ("q_a_kv_a", 2112, 7168),
    ("q_b", 24576, 1536),
    ("kv_b", 32768, 512),
    ("o", 7168, 16384),
    ("gate_up", 4096, 7168),
    ("down", 7168, 2048),
];

/// M of a decoding step and of a prefill.
pub const BATCHES: &[usize] = &[64, 4096];

/// Every operand of one GEMM, filled with ones and scales near one.
pub struct Operands {
    shape: gemm::Shape,
    a: Buffer<E4M3>,
    a_scales: Buffer<f32>,
    weight: Buffer<E4M3>,
    weight_scale_inv: Buffer<f32>,
    out: Buffer<bf16>,
}

impl Operands {
    pub fn new(device: &Device, stream: &Stream, shape: gemm::Shape) -> Result<Operands> {
        let (m, n, k) = (shape.m(), shape.n(), shape.k());
        let groups = k.div_ceil(128);
        let mut operands = Operands {
            shape,
            a: device.alloc(m * k)?,
            a_scales: device.alloc(quant::m_major_stride(m) * groups)?,
            weight: device.alloc(n * k)?,
            weight_scale_inv: device.alloc(n.div_ceil(128) * groups)?,
            out: device.alloc(m * n)?,
        };
        operands.a.fill_bytes(stream, 0x38)?;
        operands.weight.fill_bytes(stream, 0x38)?;
        operands.a_scales.fill_bytes(stream, 0x3f)?;
        operands.weight_scale_inv.fill_bytes(stream, 0x3f)?;
        Ok(operands)
    }

    /// Enqueues the product.
    pub fn run(&mut self, plan: &gemm::Plan, stream: &Stream) -> Result<()> {
        let (m, n, k) = (self.shape.m(), self.shape.n(), self.shape.k());
        let (groups, ld) = (k.div_ceil(128), quant::m_major_stride(m));
        let args = gemm::Args::new(
            self.a.matrix(m, k)?,
            self.a_scales.view(0, [m, groups], [1, ld])?,
            self.weight.matrix(n, k)?,
            self.weight_scale_inv.matrix(n.div_ceil(128), groups)?,
            self.out.matrix_mut(m, n)?,
        );
        plan.run(stream, args)
    }
}
