//! What instructions compute, where one instruction has many operations: arithmetic, comparisons, atomics, exchanges between
//! lanes, and the roundings and modifiers that go with them.

/// Rounding modes of floating-point results and of conversions to integers.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Round {
    #[default]
    None,
    Rn,
    Rz,
    Rm,
    Rp,
    Rna,
    Rni,
    Rzi,
    Rmi,
    Rpi,
    /// `.approx`
    Approx,
    /// `.full` (div.full.f32)
    Full,
}

/// Modifiers shared by arithmetic instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Arith {
    /// Rounding.
    pub round: Round,
    /// `.ftz`
    pub ftz: bool,
    /// `.sat` (float: clamp to \[0,1\]; integer: clamp to range).
    pub sat: bool,
    /// `.satfinite`: what overflows becomes the largest finite value.
    pub satfinite: bool,
    /// `.relu`
    pub relu: bool,
    /// `.NaN` of min/max
    pub nan: bool,
    /// `.xorsign.abs` of min/max
    pub xorsign_abs: bool,
}

/// Two-operand operations. Shifts take a `u32` amount in `b` and clamp as the ISA says.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinOp {
    Add,
    Sub,
    MulLo,
    MulHi,
    MulWide,
    Mul24Lo,
    Mul24Hi,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    /// `szext`: `a` extended from its low `b` bits; bits beyond 32 count as 32 or wrap.
    SzextClamp,
    SzextWrap,
    /// `bmsk`: `b` ones from bit `a` on.
    BmskClamp,
    BmskWrap,
    /// `copysign`: sign of `a`, magnitude of `b`.
    CopySign,
    /// Floating multiply.
    Mul,
    /// `add.cc`, `addc`, `addc.cc`, `sub.cc`, `subc`, `subc.cc`
    AddCc,
    AddC,
    AddCCc,
    SubCc,
    SubC,
    SubCCc,
}

/// One-operand operations.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnOp {
    Neg,
    Abs,
    Not,
    Cnot,
    Popc,
    Clz,
    Brev,
    Bfind,
    BfindShiftamt,
    Rcp,
    Sqrt,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
    TestpFinite,
    TestpInfinite,
    TestpNumber,
    TestpNotANumber,
    TestpNormal,
    TestpSubnormal,
}

/// Three-operand operations.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernOp {
    Fma,
    MadLo,
    MadHi,
    MadWide,
    Lop3(u8),
    ShfLClamp,
    ShfLWrap,
    ShfRClamp,
    ShfRWrap,
    PrmtDefault,
    PrmtF4e,
    PrmtB4e,
    PrmtRc8,
    PrmtEcl,
    PrmtEcr,
    PrmtRc16,
    Bfe,
    Sad,
    Dp4aUU,
    Dp4aUS,
    Dp4aSU,
    Dp4aSS,
    /// `dp2a`: two 16-bit halves of `a` by the lower or upper two bytes of `b`.
    Dp2a {
        hi: bool,
        a_signed: bool,
        b_signed: bool,
    },
    /// `fns`: the position of the n-th set bit.
    Fns,
    /// `vadd2` … `vmax4`: halves or bytes of `a` with those of `b`.
    Video(Video),
}

/// A SIMD video instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Video {
    /// What is done with each element.
    pub op: VideoOp,
    /// Bits of an element: 8 or 16.
    pub bits: u32,
    /// Whether elements of the first operand are signed.
    pub a_signed: bool,
    /// See `a_signed`.
    pub b_signed: bool,
    /// Whether results are, which matters to `.sat`.
    pub d_signed: bool,
    /// Results are clamped to an element's range.
    pub sat: bool,
    /// Results are summed, and added to the third operand.
    pub add: bool,
}

/// What a SIMD video instruction does.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoOp {
    Add,
    Sub,
    Avrg,
    AbsDiff,
    Min,
    Max,
}

/// Comparison operators of `setp`, `set`, `slct`. `…u` forms are true when an operand is NaN.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Lo,
    Ls,
    Hi,
    Hs,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// How `setp`/`set` combine the comparison with a predicate operand.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

/// Read-modify-write operations of `atom`, `red`, bulk reductions, `red.async`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

/// Warp shuffles.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shfl {
    Up,
    Down,
    Bfly,
    Idx,
}

/// Votes.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// Redux operations.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redux {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// Reductions of `bar.red`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarRedOp {
    And,
    Or,
    Popc,
}
