//! Operands: registers, types, special registers, state spaces, addresses.

/// A register of one of the three files of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reg {
    /// 32-bit column: `.b8 .b16 .b32 .f16 .f16x2 .f32 …`.
    B32(u32),
    /// 64-bit column.
    B64(u32),
    /// Lane mask.
    Pred(u32),
}

/// The scalar type of an instruction or memory access.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Pred,
    /// Single bits, eight to a byte (operands of matrix products).
    B1,
    /// Integers of four bits, two to a byte (operands of matrix products).
    S4,
    U4,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
    E4M3,
    E5M2,
    E4M3x2,
    E5M2x2,
}

impl Type {
    /// Size in bytes of one element (predicates: 0; single bits: the byte that holds eight; integers of four: two).
    pub const fn bytes(self) -> u32 {
        use Type::*;
        match self {
            Pred => 0,
            B1 | S4 | U4 | B8 | U8 | S8 | E4M3 | E5M2 => 1,
            B16 | U16 | S16 | F16 | BF16 | E4M3x2 | E5M2x2 => 2,
            B32 | U32 | S32 | F16x2 | BF16x2 | TF32 | F32 => 4,
            B64 | U64 | S64 | F64 => 8,
            B128 => 16,
        }
    }

    /// Signed integer types.
    pub const fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Floating-point types, packed ones included.
    pub const fn is_float(self) -> bool {
        use Type::*;
        matches!(self, F16 | F16x2 | BF16 | BF16x2 | TF32 | F32 | F64 | E4M3 | E5M2 | E4M3x2 | E5M2x2)
    }
}

/// Special registers.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    TidX,
    TidY,
    TidZ,
    NtidX,
    NtidY,
    NtidZ,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    GridId,
    LanemaskEq,
    LanemaskLt,
    LanemaskLe,
    LanemaskGt,
    LanemaskGe,
    ClusterIdX,
    ClusterIdY,
    ClusterIdZ,
    NclusterIdX,
    NclusterIdY,
    NclusterIdZ,
    ClusterCtaidX,
    ClusterCtaidY,
    ClusterCtaidZ,
    ClusterNctaidX,
    ClusterNctaidY,
    ClusterNctaidZ,
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    Clock,
    ClockHi,
    Clock64,
    GlobaltimerLo,
    GlobaltimerHi,
    Globaltimer,
    DynamicSmemSize,
    TotalSmemSize,
    AggrSmemSize,
    ReservedSmem0,
    ReservedSmem1,
    ReservedSmemBegin,
    ReservedSmemEnd,
    ReservedSmemCap,
    EnvReg(u8),
}

/// A source operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Src {
    /// A register.
    Reg(Reg),
    /// A constant, as the bit pattern of the instruction's type (zero- or sign-extended to 64 bits by that type).
    Imm(u64),
    /// A special register.
    Special(Special),
    /// The address of a module symbol, in the window of its own state space (`mov.u64 %r, symbol`).
    Symbol(SymbolAddr),
}

/// The address of a variable: in the space it was declared in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolAddr {
    /// Where the symbol lives.
    pub space: Space,
    /// `Shared`/`Local`/`Param`: byte offset inside the block's static shared memory, the thread's local memory, or the kernel's
    /// parameters. `Global`/`Const`: index into [`Module::globals`](super::Module::globals) (the byte offset is added by `offset`).
    pub index: u32,
    /// Constant byte offset added to the symbol.
    pub offset: i64,
    /// The symbol is the dynamic (`.extern .shared`) array: the machine adds the size of static shared memory, aligned.
    pub dynamic: bool,
}

/// State spaces.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Generic,
    Global,
    Shared,
    SharedCluster,
    Local,
    Param,
    Const,
}

/// A memory address operand `[base + offset]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Addr {
    /// Register (32- or 64-bit), symbol or immediate.
    pub base: Src,
    /// Byte offset.
    pub offset: i64,
}

/// A predicate operand, possibly negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredSrc {
    /// Index in the predicate file.
    pub reg: u32,
    /// `!p`
    pub negated: bool,
}
