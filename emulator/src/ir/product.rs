//! Operands of matrix products.

use super::{PredSrc, Reg, Src, Type};

/// `wgmma.mma_async`.
#[derive(Clone, Debug, PartialEq)]
pub struct Wgmma {
    /// N of m64nN.
    pub n: u32,
    /// K of the instruction (32 for 8-bit, 16 for 16-bit, 8 for tf32).
    pub k: u32,
    /// Accumulator type: `F32`, `F16` or `S32`.
    pub d_type: Type,
    /// Operand types.
    pub a_type: Type,
    /// See `a_type`.
    pub b_type: Type,
    /// Accumulator registers (B32 each).
    pub d: Vec<u32>,
    /// `A` from a shared-memory descriptor or from registers.
    pub a: WgmmaA,
    /// Descriptor of B (64-bit).
    pub b_desc: Src,
    /// scale-d: immediate 0/1 or a predicate.
    pub scale_d: ScaleD,
    /// Negation of A (imm-scale-a == -1), and of B.
    pub negate_a: bool,
    /// See `negate_a`.
    pub negate_b: bool,
    /// imm-trans-a: MN-major A (16-bit types only).
    pub transpose_a: bool,
    /// imm-trans-b.
    pub transpose_b: bool,
    /// `.satfinite` (integer forms).
    pub satfinite: bool,
}

/// First operand of [`Wgmma`].
#[derive(Clone, Debug, PartialEq)]
pub enum WgmmaA {
    /// 64-bit matrix descriptor.
    Desc(Src),
    /// Four B32 registers.
    Regs(Vec<u32>),
}

/// The scale-d operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScaleD {
    /// Constant.
    Imm(bool),
    /// Predicate register: true accumulates.
    Pred(PredSrc),
}

/// `mma.sync.aligned.mMnNkK.row.col.d.a.b.c`: one warp's matrix product with fragments in registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Mma {
    /// Rows of the result.
    pub m: u32,
    /// Columns of the result.
    pub n: u32,
    /// Depth of the product.
    pub k: u32,
    /// Type of the result and of `d`.
    pub d_type: Type,
    /// Type of the elements of `a`.
    pub a_type: Type,
    /// Type of the elements of `b`.
    pub b_type: Type,
    /// Type of the addend.
    pub c_type: Type,
    /// Result registers.
    pub d: Vec<Reg>,
    /// Fragments, as the ISA lays them out.
    pub a: Vec<Src>,
    /// See `a`.
    pub b: Vec<Src>,
    /// See `a`.
    pub c: Vec<Src>,
    /// `.satfinite` (integer forms).
    pub satfinite: bool,
    /// `.xor` (single bits, which are otherwise combined by and).
    pub xor: bool,
}
