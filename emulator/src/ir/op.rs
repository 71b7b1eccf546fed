//! Every operation of the machine.

use super::{
    Addr, Arith, AtomOp, BarRedOp, BinOp, BoolOp, BulkCopy, Cmp, MbarArrive, MbarWait, Mma, PredSrc,
    ProxyFence, Redux, Reg, Scope, Semantics, Shfl, Space, Src, TensorMapField, TernOp, Type, UnOp, Vote,
    Wgmma,
};

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
