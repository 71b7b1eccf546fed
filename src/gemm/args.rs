//! What a GEMM is asked for: shape, options, operands. Chained setters, nothing checked until a plan looks.

use crate::dtype::DType;
use crate::tensor::{Matrix, MatrixMut};

/// M, N and K of `out[M,N] = a[M,K] · weight[N,K]ᵀ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl Shape {
    /// `m` is the most rows a run may bring; N must be a multiple of 8 and K of 16.
    pub const fn new(m: usize, n: usize, k: usize) -> Shape {
        Shape { m, n, k }
    }

    /// The most rows of `a` and `out`.
    pub const fn m(&self) -> usize {
        self.m
    }

    /// Rows of `weight`, columns of `out`.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Columns of `a` and of `weight`.
    pub const fn k(&self) -> usize {
        self.k
    }
}

/// How a GEMM is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    pub(super) output: DType,
    pub(super) sms: Option<u32>,
    pub(super) tile: Option<(usize, usize)>,
    pub(super) batch_invariant: bool,
    pub(super) programmatic: bool,
}

impl Options {
    /// BF16 output, every SM, the cost model's tile.
    pub const fn new() -> Options {
        Options { output: DType::BF16, sms: None, tile: None, batch_invariant: false, programmatic: false }
    }

    /// The output's element type: BF16 or F32.
    #[must_use]
    pub const fn output(mut self, dtype: DType) -> Options {
        self.output = dtype;
        self
    }

    /// Uses at most `sms` SMs and leaves the others to whatever runs beside.
    #[must_use]
    pub const fn sms(mut self, sms: u32) -> Options {
        self.sms = Some(sms);
        self
    }

    /// Forces the tile, overruling the cost model.
    #[must_use]
    pub const fn tile(mut self, m: usize, n: usize) -> Options {
        self.tile = Some((m, n));
        self
    }

    /// Makes the order of every sum a function of a row's own K alone.
    ///
    /// The dense kernels have no other order: each output is summed over K from first to last whatever the tile, M or
    /// SM budget, so today this changes nothing and costs nothing. Set it where you rely on it.
    #[must_use]
    pub const fn batch_invariant(mut self, yes: bool) -> Options {
        self.batch_invariant = yes;
        self
    }

    /// Lets the kernel start before its predecessor in the stream has ended (programmatic dependent launch). It waits
    /// for the predecessor's results before it touches memory, so only its start-up is hidden.
    #[must_use]
    pub const fn programmatic(mut self, yes: bool) -> Options {
        self.programmatic = yes;
        self
    }
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

/// The operands of one run.
#[derive(Debug)]
pub struct Args<'a> {
    pub(super) a: Matrix<'a>,
    pub(super) a_scales: Matrix<'a>,
    pub(super) weight: Matrix<'a>,
    pub(super) weight_scale_inv: Matrix<'a>,
    pub(super) out: MatrixMut<'a>,
    pub(super) workspace: Option<MatrixMut<'a>>,
}

impl<'a> Args<'a> {
    /// The operands, with the names checkpoints give them:
    ///
    /// | argument | type | shape | layout |
    /// | --- | --- | --- | --- |
    /// | `a` | E4M3 | `[M, K]` | row-major, rows at multiples of 16 bytes |
    /// | `a_scales` | F32 | `[M, ⌈K/128⌉]` | M-major: strides `[1, ld]`, `ld` a multiple of 4 |
    /// | `weight` | E4M3 | `[N, K]` | row-major, rows at multiples of 16 bytes |
    /// | `weight_scale_inv` | F32 | `[⌈N/128⌉, ⌈K/128⌉]` | row-major |
    /// | `out` | BF16 or F32 | `[M, N]` | row-major, rows at multiples of 16 bytes |
    ///
    /// Addresses are multiples of 16 bytes, that of `weight_scale_inv` of 4. `out` shares memory with nothing else.
    /// Scales multiply (`weight ≈ q · weight_scale_inv`, in spite of the name); a NaN among them is data.
    pub fn new(
        a: Matrix<'a>,
        a_scales: Matrix<'a>,
        weight: Matrix<'a>,
        weight_scale_inv: Matrix<'a>,
        out: MatrixMut<'a>,
    ) -> Args<'a> {
        Args { a, a_scales, weight, weight_scale_inv, out, workspace: None }
    }

    /// Scratch memory, a `[1, bytes]` matrix of U8, for plans whose [`Plan::workspace`](super::Plan::workspace) is not
    /// empty. Its contents are nobody's business before and after.
    #[must_use]
    pub fn workspace(mut self, workspace: MatrixMut<'a>) -> Args<'a> {
        self.workspace = Some(workspace);
        self
    }
}
