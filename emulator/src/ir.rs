//! The typed form of a kernel: what the front end produces once per module and the machine executes.
//!
//! The front end ([`crate::ptx`], [`crate::lower`]) reads text; the machine ([`crate::machine`]) never sees it. Between
//! them stand these types: every register is an index into a dense per-warp file, every branch target an instruction
//! index, every modifier a field. A form that has no representation here is refused by `lower` with file, line and text:
//! unknown is an error, never a guess.
//!
//! Registers come in three files. Everything of 32 bits and below lives in a 32-bit column (narrow values zero-extended),
//! 64-bit values in a 64-bit column, predicates as one lane mask each.

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
    /// parameters. `Global`/`Const`: index into [`Module::globals`] (the byte offset is added by `offset`).
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

/// A predicate operand, possibly negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredSrc {
    /// Index in the predicate file.
    pub reg: u32,
    /// `!p`
    pub negated: bool,
}

/// Memory ordering of an access. `None` on plain instructions is [`Semantics::Weak`].
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Semantics {
    #[default]
    Weak,
    Relaxed,
    Acquire,
    Release,
    AcqRel,
    Sc,
    Volatile,
    Mmio,
}

/// Memory scope.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    #[default]
    None,
    Cta,
    Cluster,
    Gpu,
    Sys,
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

/// Proxy fences.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFence {
    /// `fence.proxy.async[.global|.shared::cta|.shared::cluster]`
    Async(Option<Space>),
    Alias,
    /// `fence.proxy.async::generic.acquire|release.sync_restrict…`
    AsyncGeneric {
        acquire: bool,
    },
    /// `fence.proxy.tensormap::generic.acquire.SCOPE [addr], 128`
    TensorMapAcquire(Scope),
    /// `fence.proxy.tensormap::generic.release.SCOPE`
    TensorMapRelease(Scope),
}

/// `mbarrier.arrive`-family variants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MbarArrive {
    /// Address of the mbarrier.
    pub addr: Addr,
    /// `Shared` or `SharedCluster` or `Generic`.
    pub space: Space,
    /// Destination for the opaque state (`_` or absent: `None`).
    pub state: Option<Reg>,
    /// Arrival count (default 1); for `expect_tx` forms the arrival count is 1.
    pub count: Src,
    /// Bytes of `.expect_tx`.
    pub expect_tx: Option<Src>,
    /// `arrive_drop`
    pub drop: bool,
    /// `.noComplete`
    pub no_complete: bool,
    /// Ordering (default release).
    pub sem: Semantics,
    /// Scope (default cta).
    pub scope: Scope,
}

/// `mbarrier.test_wait` / `try_wait`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MbarWait {
    /// Result predicate.
    pub dst: u32,
    /// Address.
    pub addr: Addr,
    /// `Shared` or `Generic`.
    pub space: Space,
    /// Opaque state (B64) or, with `parity`, the phase parity (B32).
    pub phase: Src,
    /// `.parity`
    pub parity: bool,
    /// `try_wait` (may suspend) rather than `test_wait`.
    pub try_wait: bool,
    /// Ordering (default acquire).
    pub sem: Semantics,
    /// Scope (default cta).
    pub scope: Scope,
}

/// Completion mechanism of a bulk copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Completion {
    /// `.mbarrier::complete_tx::bytes` on this shared address.
    Mbarrier(Addr),
    /// `.bulk_group`
    BulkGroup,
}

/// `cp.async.bulk[.tensor]`, `cp.reduce.async.bulk[.tensor]`, and the bulk prefetches.
#[derive(Clone, Debug, PartialEq)]
pub struct BulkCopy {
    /// Where bytes go. For a prefetch: `Generic`, and `dst` is unused.
    pub dst_space: Space,
    /// Destination (for tensor stores and prefetches: unused immediate 0).
    pub dst: Addr,
    /// Where bytes come from.
    pub src_space: Space,
    /// Source (for tensor loads and prefetches: unused immediate 0).
    pub src: Addr,
    /// Size operand of the non-tensor form, in bytes.
    pub size: Option<Src>,
    /// The tensor form.
    pub tensor: Option<TensorAccess>,
    /// How completion is signalled; `None` for prefetches.
    pub completion: Option<Completion>,
    /// `.multicast::cluster` mask operand.
    pub multicast: Option<Src>,
    /// Reduction and its element type (non-tensor; tensor reductions take the map's type).
    pub reduce: Option<(AtomOp, Option<Type>)>,
    /// `.L2::cache_hint` operand (no effect on results).
    pub cache_hint: Option<Src>,
    /// `cp.async.bulk.prefetch…`
    pub prefetch: bool,
}

/// The tensor part of a bulk copy: `[map, {coords}]` and its mode.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorAccess {
    /// Generic address of the 128-byte map.
    pub map: Addr,
    /// Coordinates, innermost first (1 to 5).
    pub coords: Vec<Src>,
    /// `.im2col` offsets (empty for tiled).
    pub im2col: Option<Vec<Src>>,
}

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

/// Cache-control hints that have no effect on results. Kept so that a trace can name them.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    PrefetchL1,
    PrefetchL2,
    PrefetchTensorMap,
    Discard,
    ApplyPriority,
    Pragma,
}

/// What an instruction does. Vectors of registers are in operand order.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `mov` between registers of the same file (also of special registers, symbols, immediates).
    Mov { ty: Type, dst: Reg, src: Src },
    /// `mov.bN dst, {a, b, …}`: the first element is least significant. Elements have `ty.bytes()*8 / srcs.len()` bits.
    Pack { ty: Type, dst: Reg, srcs: Vec<Src> },
    /// `mov.bN {a, b, …}, src`; `None` is `_`.
    Unpack { ty: Type, dsts: Vec<Option<Reg>>, src: Src },
    /// One operand.
    Un { op: UnOp, ty: Type, mods: Arith, dst: Reg, a: Src },
    /// Two operands. `MulWide`: `ty` is the operand type, the destination twice as wide.
    Bin { op: BinOp, ty: Type, mods: Arith, dst: Reg, a: Src, b: Src },
    /// Three operands. `MadWide`: as `MulWide`.
    Tern { op: TernOp, ty: Type, mods: Arith, dst: Reg, a: Src, b: Src, c: Src },
    /// `bfi dst, a, b, pos, len`
    Bfi { ty: Type, dst: Reg, a: Src, b: Src, pos: Src, len: Src },
    /// `setp.cmp[.bool] p[|q], a, b[, c]`
    Setp {
        cmp: Cmp,
        ty: Type,
        ftz: bool,
        p: Option<u32>,
        q: Option<u32>,
        a: Src,
        b: Src,
        combine: Option<(BoolOp, PredSrc)>,
    },
    /// `set.cmp.dty.sty d, a, b[, c]`
    Set {
        cmp: Cmp,
        dst_ty: Type,
        ty: Type,
        ftz: bool,
        dst: Reg,
        a: Src,
        b: Src,
        combine: Option<(BoolOp, PredSrc)>,
    },
    /// `and.pred`, `or.pred`, `xor.pred`; sources may be registers or immediates 0/1.
    PredBin { op: BoolOp, dst: u32, a: Src, b: Src },
    /// `not.pred`
    PredNot { dst: u32, a: Src },
    /// `selp`: `a` where the predicate holds.
    Selp { ty: Type, dst: Reg, a: Src, b: Src, pred: PredSrc },
    /// `slct[.ftz].ty.cty d, a, b, c`: `a` where `c >= 0`.
    Slct { ty: Type, cond_ty: Type, ftz: bool, dst: Reg, a: Src, b: Src, c: Src },
    /// `cvt`. Packed forms (`cvt.rn.bf16x2.f32 d, a, b`, `e4m3x2`): `b` is the low half.
    Cvt { to: Type, from: Type, mods: Arith, dst: Reg, a: Src, b: Option<Src> },
    /// `cvta[.to].space`: `to` = generic → space.
    Cvta { space: Space, to: bool, dst: Reg, src: Src },
    /// `isspacep`
    Isspacep { space: Space, dst: u32, src: Src },
    /// `ld`; one entry per vector element, `None` is `_`. `nc`: `ld.global.nc`. A `.b128` access comes as two `B64` elements, low
    /// half first.
    Ld { space: Space, ty: Type, dsts: Vec<Option<Reg>>, addr: Addr, sem: Semantics, scope: Scope, nc: bool },
    /// `st`
    St { space: Space, ty: Type, srcs: Vec<Src>, addr: Addr, sem: Semantics, scope: Scope },
    /// `atom` (dst) and `red` (no dst); vector forms have several elements, `.b128` has two of `B64`, low half
    /// first. `b` and `c`: second and third operand (cas: compare, new), `c` empty where there is none.
    Atom {
        space: Space,
        op: AtomOp,
        ty: Type,
        dsts: Vec<Option<Reg>>,
        addr: Addr,
        b: Vec<Src>,
        c: Vec<Src>,
        sem: Semantics,
        scope: Scope,
        red: bool,
    },
    /// `bra`
    Bra { target: usize, uni: bool },
    /// `brx.idx index, table`
    Brx { index: Src, targets: Vec<usize>, uni: bool },
    /// `ret` from the kernel or `exit`.
    Exit,
    /// `trap`
    Trap,
    /// `brkpt`, `pmevent`: no effect.
    Nop,
    /// `nanosleep`
    Nanosleep { duration: Src },
    /// `bar.sync`/`barrier.sync` (`aligned` says which), `count` in threads (`None`: the whole block).
    BarSync { id: Src, count: Option<Src>, aligned: bool },
    /// `bar.arrive`/`barrier.arrive`
    BarArrive { id: Src, count: Src, aligned: bool },
    /// `bar.red`/`barrier.red`
    BarRed { op: BarRedOp, dst: Reg, id: Src, count: Option<Src>, pred: PredSrc, aligned: bool },
    /// `bar.warp.sync mask`
    BarWarpSync { mask: Src },
    /// `barrier.cluster.arrive`
    ClusterArrive { sem: Semantics, aligned: bool },
    /// `barrier.cluster.wait`
    ClusterWait { acquire: bool, aligned: bool },
    /// `membar`, `fence.sc|acq_rel|acquire|release.scope`, `fence.mbarrier_init.release.cluster` (`mbarrier_init`).
    Fence { sem: Semantics, scope: Scope, mbarrier_init: bool },
    /// `fence.proxy.*`; `addr` for tensormap acquire.
    FenceProxy { kind: ProxyFence, addr: Option<Addr> },
    /// `shfl.sync.mode.b32 d[|p], a, b, c, mask`
    Shfl { mode: Shfl, dst: Reg, pred: Option<u32>, a: Src, b: Src, c: Src, mask: Src },
    /// `vote.sync`: `dst` is a predicate, or a B32 register for ballot.
    Vote { mode: Vote, dst: Reg, pred: PredSrc, mask: Src },
    /// `match.sync`: `all` also writes a predicate.
    Match { all: bool, ty: Type, dst: Reg, pred: Option<u32>, a: Src, mask: Src },
    /// `activemask`
    ActiveMask { dst: Reg },
    /// `elect.sync d|p, mask`
    Elect { dst: Option<Reg>, pred: u32, mask: Src },
    /// `redux.sync`
    Redux { op: Redux, ty: Type, dst: Reg, a: Src, mask: Src },
    /// `ldmatrix.sync.aligned.m8n8.xN[.trans].shared.b16`
    LdMatrix { dsts: Vec<Reg>, addr: Addr, trans: bool, space: Space },
    /// `movmatrix.sync.aligned.m8n8.trans.b16`
    MovMatrix { dst: Reg, src: Src },
    /// `stmatrix.sync.aligned.m8n8.xN[.trans].shared.b16`
    StMatrix { srcs: Vec<Src>, addr: Addr, trans: bool, space: Space },
    /// `mbarrier.init addr, count`
    MbarInit { addr: Addr, space: Space, count: Src },
    /// `mbarrier.inval`
    MbarInval { addr: Addr, space: Space },
    /// `mbarrier.expect_tx` (`complete` false) and `mbarrier.complete_tx` (`complete` true).
    MbarTx { addr: Addr, space: Space, bytes: Src, complete: bool },
    /// Arrivals.
    MbarArrive(MbarArrive),
    /// Waits.
    MbarWait(MbarWait),
    /// `mbarrier.pending_count`
    MbarPendingCount { dst: Reg, state: Src },
    /// `cp.async.ca|cg.shared.global [dst], [src], bytes[, src_bytes]`; `ignore`: the ignore-src predicate.
    CpAsync { dst: Addr, src: Addr, bytes: u32, src_bytes: Option<Src>, ignore: Option<PredSrc> },
    /// `cp.async.commit_group`
    CpAsyncCommit,
    /// `cp.async.wait_group n` / `wait_all` (`None`)
    CpAsyncWait { groups: Option<u32> },
    /// `cp.async.mbarrier.arrive[.noinc]`
    CpAsyncMbarArrive { addr: Addr, space: Space, noinc: bool },
    /// Bulk and tensor copies.
    Bulk(Box<BulkCopy>),
    /// `cp.async.bulk.commit_group`
    BulkCommit,
    /// `cp.async.bulk.wait_group[.read] n`
    BulkWait { groups: u32, read: bool },
    /// `wgmma.fence`
    WgmmaFence,
    /// `wgmma.commit_group`
    WgmmaCommit,
    /// `wgmma.wait_group n`
    WgmmaWait { groups: u32 },
    /// `wgmma.mma_async`
    Wgmma(Box<Wgmma>),
    /// `setmaxnreg.inc|dec.sync.aligned.u32 n`
    SetMaxNReg { count: u32, inc: bool },
    /// `griddepcontrol.launch_dependents` (`launch`) / `.wait`
    GridDepControl { launch: bool },
    /// `mapa`
    Mapa { dst: Reg, addr: Src, rank: Src, space: Space },
    /// `getctarank`
    GetCtaRank { dst: Reg, addr: Src, space: Space },
    /// `createpolicy`: the value has no effect on results; the destination becomes a fixed number.
    CreatePolicy { dst: Reg },
    /// Hints.
    Hint(Hint),
    /// `st.async.shared::cluster.mbarrier::complete_tx::bytes [addr], srcs, [mbar]`
    StAsync { ty: Type, srcs: Vec<Src>, addr: Addr, mbar: Addr },
    /// `red.async.shared::cluster.mbarrier::complete_tx::bytes.op.type [addr], src, [mbar]`
    RedAsync { op: AtomOp, ty: Type, src: Src, addr: Addr, mbar: Addr },
    /// `mma.sync`
    Mma(Box<Mma>),
    /// `multimem.ld_reduce`: `wide` accumulates 16-bit floats in f32 (`.acc::f32`).
    MultimemLdReduce {
        op: AtomOp,
        ty: Type,
        wide: bool,
        dsts: Vec<Option<Reg>>,
        addr: Addr,
        sem: Semantics,
        scope: Scope,
    },
    /// `multimem.st`
    MultimemSt { ty: Type, srcs: Vec<Src>, addr: Addr, sem: Semantics, scope: Scope },
    /// `multimem.red`
    MultimemRed { op: AtomOp, ty: Type, srcs: Vec<Src>, addr: Addr, sem: Semantics, scope: Scope },
    /// `tensormap.replace.tile.field.space.b1024.ty [addr], [index,] value`
    TensorMapReplace { field: TensorMapField, space: Space, ty: Type, addr: Addr, index: u32, value: Src },
    /// `tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.scope.sync.aligned [dst], [src], 128`
    TensorMapCpFenceProxy { dst: Addr, src: Addr, scope: Scope },
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

/// Fields of a tensor map that `tensormap.replace` may change.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorMapField {
    GlobalAddress,
    Rank,
    BoxDim,
    GlobalDim,
    GlobalStride,
    ElementStride,
    ElementType,
    InterleaveLayout,
    SwizzleMode,
    FillMode,
}

/// Reductions of `bar.red`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarRedOp {
    And,
    Or,
    Popc,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instr {
    /// What it does.
    pub op: Op,
    /// `@p` / `@!p`.
    pub guard: Option<PredSrc>,
    /// 1-based line in the PTX text.
    pub ptx_line: u32,
    /// The `.loc` in force, if any: index into [`Module::files`] and 1-based line.
    pub loc: Option<(u32, u32)>,
}

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name as declared.
    pub name: String,
    /// Byte offset in the parameter block.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// An `.entry`.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Entry name.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Total bytes of the parameter block.
    pub param_bytes: u32,
    /// Body; branch targets are indices here. Ends with an `Exit`.
    pub code: Vec<Instr>,
    /// Registers of each file.
    pub regs32: u32,
    /// See `regs32`.
    pub regs64: u32,
    /// See `regs32`.
    pub preds: u32,
    /// Source names of registers, for reports: index by file.
    pub names32: Vec<String>,
    /// See `names32`.
    pub names64: Vec<String>,
    /// See `names32`.
    pub names_pred: Vec<String>,
    /// Bytes of static shared memory (module-level and function-level variables).
    pub static_shared: u32,
    /// Largest declared alignment of static shared memory, and of the dynamic array.
    pub shared_align: u32,
    /// Declared alignment of the `.extern .shared` array (1 when there is none).
    pub dynamic_shared_align: u32,
    /// Bytes of local memory per thread.
    pub local_bytes: u32,
    /// `.reqntid`
    pub reqntid: Option<[u32; 3]>,
    /// `.maxntid`
    pub maxntid: Option<[u32; 3]>,
    /// `.maxnreg`
    pub maxnreg: Option<u32>,
    /// `.minnctapersm`
    pub minnctapersm: Option<u32>,
    /// `.reqnctapercluster`
    pub cluster: Option<[u32; 3]>,
    /// Label names and the instruction they stand before, for reports.
    pub labels: Vec<(String, usize)>,
}

/// A `.global` or `.const` variable.
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalVar {
    /// Name.
    pub name: String,
    /// `Global` or `Const`.
    pub space: Space,
    /// Alignment in bytes.
    pub align: u32,
    /// Initial bytes (zero-filled where there is no initialiser).
    pub init: Vec<u8>,
    /// `.attribute(.managed)`: host and devices see it at one address.
    pub managed: bool,
    /// Addresses inside the initial bytes, filled in when the module is loaded.
    pub relocations: Vec<Relocation>,
}

/// Eight bytes of a variable's initial contents that hold the address of another variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Byte offset in the variable.
    pub at: u64,
    /// What it points to (`Global` or `Const`; the two windows are generic addresses on the machine).
    pub symbol: SymbolAddr,
}

/// A parsed and lowered PTX module.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// The name given by the caller, for reports (usually a file name).
    pub name: String,
    /// `.target`, e.g. `sm_90a`.
    pub target: String,
    /// `.version` as (major, minor).
    pub version: (u32, u32),
    /// Kernels in source order.
    pub kernels: Vec<Kernel>,
    /// Module-level `.global`/`.const` variables.
    pub globals: Vec<GlobalVar>,
    /// `.file` table: index → path.
    pub files: Vec<String>,
    /// The PTX text, line by line, so that reports can quote it.
    pub text: Vec<String>,
}
