//! What PTX text becomes, and how wrong text is refused.
//!
//! Expected instructions are written by hand from the PTX ISA manual. `front_end_forms.rs` covers every spelling,
//! `front_end_fuzz.rs` every mistake.

use hadal_emulator::ir::*;
use hadal_emulator::ptx::ParseError;

const DECLARATIONS: &str = "
    .reg .b16 h<8>; .reg .b32 r<32>; .reg .f32 f<8>; .reg .b64 d<8>; .reg .pred p<4>; .reg .b128 q<2>;";

fn module(body: &str) -> Result<Module, ParseError> {
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry k(.param .u64 x, .param .align 64 .b8 map[128]) {{{DECLARATIONS}\n{body}\n}}\n"
    );
    Module::parse("test.ptx", &text)
}

/// The instructions of a body, without the closing exit.
fn lower(body: &str) -> Vec<Instr> {
    let mut module = module(body).unwrap_or_else(|e| panic!("{e}"));
    let mut code = module.kernels.remove(0).code;
    assert_eq!(code.pop().map(|i| i.op), Some(Op::Exit));
    code
}

fn one(body: &str) -> Op {
    let mut code = lower(body);
    assert_eq!(code.len(), 1, "{body}");
    code.remove(0).op
}

fn refused(body: &str) -> ParseError {
    match module(body) {
        Ok(_) => panic!("accepted: {body}"),
        Err(e) => e,
    }
}

/// A 32-bit register by its order of first use.
fn r(i: u32) -> Src {
    Src::Reg(Reg::B32(i))
}

fn d(i: u32) -> Src {
    Src::Reg(Reg::B64(i))
}

fn at(base: Src, offset: i64) -> Addr {
    Addr { base, offset }
}

fn dynamic() -> Src {
    Src::Symbol(SymbolAddr { space: Space::Shared, index: 0, offset: 0, dynamic: true })
}

#[test]
fn arithmetic() {
    let mods = Arith::default();
    let add = |ty, dst, a, b| Op::Bin { op: BinOp::Add, ty, mods, dst, a, b };
    assert_eq!(one("add.s32 r0, r1, -1;"), add(Type::S32, Reg::B32(0), r(1), Src::Imm(u64::MAX)));
    assert_eq!(one("add.u32 r0, r1, -1;"), add(Type::U32, Reg::B32(0), r(1), Src::Imm(0xffff_ffff)));
    assert_eq!(one("add.s64 d0, d1, 8;"), add(Type::S64, Reg::B64(0), d(1), Src::Imm(8)));
    let mods = Arith { round: Round::Rn, ftz: true, ..mods };
    let fma = Op::Tern {
        op: TernOp::Fma,
        ty: Type::F32,
        mods,
        dst: Reg::B32(0),
        a: r(1),
        b: r(2),
        c: Src::Imm(0x3f80_0000),
    };
    assert_eq!(one("fma.rn.ftz.f32 f0, f1, r2, 0f3F800000;"), fma);
    assert_eq!(one("fma.ftz.rn.f32 f0, f1, r2, 0d3FF0000000000000;"), fma);
    let mods = Arith::default();
    assert_eq!(
        one("mul.wide.u32 d0, r1, 0x10U;"),
        Op::Bin { op: BinOp::MulWide, ty: Type::U32, mods, dst: Reg::B64(0), a: r(0), b: Src::Imm(16) }
    );
    assert_eq!(
        one("lop3.b32 r0, r1, r2, r3, 0xEA;"),
        Op::Tern { op: TernOp::Lop3(0xea), ty: Type::B32, mods, dst: Reg::B32(0), a: r(1), b: r(2), c: r(3) }
    );
    assert_eq!(
        one("cvt.rn.satfinite.e4m3x2.f32 h0, f1, f2;"),
        Op::Cvt {
            to: Type::E4M3x2,
            from: Type::F32,
            mods: Arith { round: Round::Rn, satfinite: true, ..mods },
            dst: Reg::B32(0),
            a: r(1),
            b: Some(r(2)),
        }
    );
    assert_eq!(
        lower("mad.lo.cc.u32 r0, r1, r2, r3;").into_iter().map(|i| i.op).collect::<Vec<_>>(),
        [
            Op::Bin { op: BinOp::MulLo, ty: Type::U32, mods, dst: Reg::B32(4), a: r(1), b: r(2) },
            Op::Bin { op: BinOp::AddCc, ty: Type::U32, mods, dst: Reg::B32(0), a: r(4), b: r(3) },
        ]
    );
}

#[test]
fn constants() {
    let imm = |text: &str| match one(&format!("mov.b32 r0, {text};")) {
        Op::Mov { src: Src::Imm(value), .. } => value,
        other => panic!("{other:?}"),
    };
    for (text, value) in [
        ("2*3+1", 7),
        ("(1<<4)|3", 19),
        ("-8>>1 & 0xff", 0xfc),
        ("0b101", 5),
        ("017", 15),
        ("0x1FU", 31),
        ("5 > 3 ? 7 : 9", 7),
        ("!0 + ~0", 0),
        ("7 % 4", 3),
        ("WARP_SZ", 32),
        ("0f80000000", 0x8000_0000),
        ("-0f3F800000", 0xbf80_0000),
    ] {
        assert_eq!(imm(text), value, "{text}");
    }
    assert_eq!(
        one("mov.f32 f0, 1.5e0;"),
        Op::Mov { ty: Type::F32, dst: Reg::B32(0), src: Src::Imm(0x3fc0_0000) }
    );
    assert_eq!(one("mov.pred p0, -1;"), Op::Mov { ty: Type::Pred, dst: Reg::Pred(0), src: Src::Imm(1) });
}

#[test]
fn moves_and_addresses() {
    assert_eq!(
        one("mov.u32 r0, %cluster_ctarank;"),
        Op::Mov { ty: Type::U32, dst: Reg::B32(0), src: Src::Special(Special::ClusterCtarank) }
    );
    assert_eq!(
        one("mov.u32 r0, %envreg1;"),
        Op::Mov { ty: Type::U32, dst: Reg::B32(0), src: Src::Special(Special::EnvReg(1)) }
    );
    let symbol = |space, index, offset, dynamic| Src::Symbol(SymbolAddr { space, index, offset, dynamic });
    assert_eq!(
        one("mov.u32 r0, smem+16;"),
        Op::Mov { ty: Type::U32, dst: Reg::B32(0), src: symbol(Space::Shared, 0, 16, true) }
    );
    assert_eq!(
        one("mov.b64 d0, map;"),
        Op::Mov { ty: Type::B64, dst: Reg::B64(0), src: symbol(Space::Param, 64, 0, false) }
    );
    assert_eq!(
        one("mov.b64 {r0, _}, d1;"),
        Op::Unpack { ty: Type::B64, dsts: vec![Some(Reg::B32(0)), None], src: d(0) }
    );
    assert_eq!(
        one("mov.b32 r0, {h1, 0x3F80};"),
        Op::Pack { ty: Type::B32, dst: Reg::B32(1), srcs: vec![r(0), Src::Imm(0x3f80)] }
    );
    let ld = |space, ty, dsts, addr| {
        let (sem, scope) = Default::default();
        Op::Ld { space, ty, dsts, addr, sem, scope, nc: false }
    };
    let reg = |i| Some(Reg::B32(i));
    // The address is resolved first, so its register is the first of the kernel.
    let two = vec![reg(1), reg(2)];
    let expected = ld(Space::Shared, Type::U32, two, at(r(0), -8));
    assert_eq!(one("ld.shared.v2.u32 {r0, r1}, [r2+-8];"), expected);
    assert_eq!(one("ld.shared.v2.u32 {r0, r1}, [r2-8];"), expected);
    assert_eq!(one("ld.u8 r0, [smem+4*2];"), ld(Space::Shared, Type::U8, vec![reg(0)], at(dynamic(), 8)));
    let x = symbol(Space::Param, 0, 0, false);
    assert_eq!(one("ld.param.u64 d0, [x];"), ld(Space::Param, Type::U64, vec![Some(Reg::B64(0))], at(x, 0)));
    // A .b128 register is two halves of 64 bits.
    assert_eq!(
        one("ld.global.b128 q0, [d1];"),
        ld(Space::Global, Type::B64, vec![Some(Reg::B64(1)), Some(Reg::B64(2))], at(d(0), 0))
    );
    assert_eq!(
        one("st.release.gpu.global.L1::no_allocate.b32 [d1], 7;"),
        Op::St {
            space: Space::Global,
            ty: Type::B32,
            srcs: vec![Src::Imm(7)],
            addr: at(d(0), 0),
            sem: Semantics::Release,
            scope: Scope::Gpu,
        }
    );
    // The manual's order and DeepEP's.
    assert_eq!(
        one("atom.release.gpu.global.add.s32 r0, [d1], r2;"),
        one("atom.add.release.gpu.global.s32 r0, [d1], r2;")
    );
}

#[test]
fn predicates() {
    assert_eq!(
        one("setp.lt.and.s32 p0|_, r1, 5, !p2;"),
        Op::Setp {
            cmp: Cmp::Lt,
            ty: Type::S32,
            ftz: false,
            p: Some(0),
            q: None,
            a: r(0),
            b: Src::Imm(5),
            combine: Some((BoolOp::And, PredSrc { reg: 1, negated: true })),
        }
    );
    let code = lower("@!p1 trap; @p1 bra.uni out; out:");
    assert_eq!(code[0].guard, Some(PredSrc { reg: 0, negated: true }));
    assert_eq!(
        (code[1].guard, &code[1].op),
        (Some(PredSrc { reg: 0, negated: false }), &Op::Bra { target: 2, uni: true })
    );
    assert_eq!(
        one("elect.sync _|p3, 0xffffffff;"),
        Op::Elect { dst: None, pred: 0, mask: Src::Imm(0xffff_ffff) }
    );
}

#[test]
fn mbarriers() {
    let arrive = MbarArrive {
        addr: at(r(0), 0),
        space: Space::Shared,
        state: None,
        count: Src::Imm(1),
        expect_tx: None,
        drop: false,
        no_complete: false,
        sem: Semantics::Release,
        scope: Scope::Cta,
    };
    assert_eq!(one("mbarrier.arrive.shared::cta.b64 _, [r0];"), Op::MbarArrive(arrive));
    assert_eq!(
        one("mbarrier.arrive.expect_tx.shared::cta.b64 _, [r0], 4096;"),
        Op::MbarArrive(MbarArrive { expect_tx: Some(Src::Imm(4096)), ..arrive })
    );
    assert_eq!(
        one("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [r0], r1;"),
        Op::MbarArrive(MbarArrive {
            space: Space::SharedCluster,
            count: r(1),
            scope: Scope::Cluster,
            ..arrive
        })
    );
    assert_eq!(
        one("mbarrier.arrive.b64 d0, [d1];"),
        Op::MbarArrive(MbarArrive {
            space: Space::Generic,
            state: Some(Reg::B64(0)),
            addr: at(d(1), 0),
            ..arrive
        })
    );
    let wait = MbarWait {
        dst: 0,
        addr: at(r(0), 8),
        space: Space::Shared,
        phase: r(1),
        parity: true,
        try_wait: true,
        sem: Semantics::Acquire,
        scope: Scope::Cta,
    };
    assert_eq!(one("mbarrier.try_wait.parity.shared::cta.b64 p0, [r0+8], r1;"), Op::MbarWait(wait));
    assert_eq!(one("mbarrier.try_wait.parity.shared.b64 p0, [r0+8], r1, 0x989680;"), Op::MbarWait(wait));
}

#[test]
fn bulk_copies() {
    let coordinates = vec![r(1), Src::Imm(u64::MAX)];
    let load = BulkCopy {
        dst_space: Space::SharedCluster,
        dst: at(r(0), 0),
        src_space: Space::Global,
        src: at(Src::Imm(0), 0),
        size: None,
        tensor: Some(TensorAccess { map: at(d(0), 0), coords: coordinates, im2col: None }),
        completion: Some(Completion::Mbarrier(at(r(0), 16))),
        multicast: None,
        reduce: None,
        cache_hint: None,
        prefetch: false,
    };
    let parse = |text: &str| match one(text) {
        Op::Bulk(copy) => *copy,
        other => panic!("{other:?}"),
    };
    let got = parse(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [r0], [d0, {r1, -1}], [r0+16];",
    );
    assert_eq!(got, load);
    let got = parse(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint
         [r0], [d0, {r1, -1}], [r0+16], h3, d4;",
    );
    assert_eq!((got.multicast, got.cache_hint), (Some(r(2)), Some(d(1))));
    let store = parse("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [d0, {r1, r2}], [r0];");
    assert_eq!((store.dst_space, store.src_space), (Space::Global, Space::Shared));
    assert_eq!(store.completion, Some(Completion::BulkGroup));
    let add = parse("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [d0], [r0], 256;");
    assert_eq!((add.reduce, add.size), (Some((AtomOp::Add, Some(Type::F32))), Some(Src::Imm(256))));
    let ahead = parse("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [d0, {r1, r2}];");
    assert!(ahead.prefetch && ahead.completion.is_none());
}

#[test]
fn warpgroup_products() {
    let parse = |text: &str| match one(text) {
        Op::Wgmma(product) => *product,
        other => panic!("{other:?}"),
    };
    let got =
        parse("wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e5m2 {f0, f1, f2, f3}, d0, d1, p0, 1, -1;");
    assert_eq!(
        (got.n, got.k, got.d_type, got.a_type, got.b_type),
        (8, 32, Type::F32, Type::E4M3, Type::E5M2)
    );
    assert_eq!((got.d, got.a, got.b_desc), (vec![0, 1, 2, 3], WgmmaA::Desc(d(0)), d(1)));
    assert_eq!(got.scale_d, ScaleD::Pred(PredSrc { reg: 0, negated: false }));
    assert_eq!((got.negate_a, got.negate_b, got.transpose_a, got.transpose_b), (false, true, false, false));
    let got = parse(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {f0, f1, f2, f3}, {r4, r5, r6, r7}, d1, 0, 1, 1, 1;",
    );
    assert_eq!((got.a, got.scale_d), (WgmmaA::Regs(vec![4, 5, 6, 7]), ScaleD::Imm(false)));
    assert_eq!((got.transpose_a, got.transpose_b), (false, true));
}

#[test]
fn blocks_hide_names() {
    let code = lower(
        "mov.u32 r0, 1;
         { .reg .u32 r0; .reg .pred p0; mov.u32 r0, 2; LAB: @p0 bra LAB; bra DONE; DONE: }
         { .reg .u32 r0; .reg .pred p0; mov.u32 r0, 3; LAB: @p0 bra LAB; bra DONE; }
         DONE: mov.u32 r0, 4;",
    );
    let dst = |i: usize| match code[i].op {
        Op::Mov { dst, .. } => dst,
        ref other => panic!("{other:?}"),
    };
    let target = |i: usize| match code[i].op {
        Op::Bra { target, .. } => target,
        ref other => panic!("{other:?}"),
    };
    assert_eq!([dst(0), dst(1), dst(4), dst(7)], [Reg::B32(0), Reg::B32(1), Reg::B32(2), Reg::B32(0)]);
    assert_eq!([target(2), target(3), target(5), target(6)], [2, 4, 5, 7]);
    assert_ne!(code[2].guard, code[5].guard);
}

#[test]
fn tables_of_branches() {
    let code = lower("table: .branchtargets a, b, a; brx.idx r0, table; a: trap; b: trap;");
    assert_eq!(code[0].op, Op::Brx { index: r(0), targets: vec![1, 2, 1], uni: false });
}

#[test]
fn functions_are_expanded_at_calls() {
    let text = ".version 8.0 .target sm_90a .address_size 64
        .func (.param .b32 out) twice(.param .b32 in) {
            .reg .b32 r<2>; ld.param.b32 r0, [in]; add.u32 r1, r0, r0; st.param.b32 [out], r1; ret; }
        .entry k() { .reg .b32 r<2>; { .param .b32 a; .param .b32 b;
            st.param.b32 [a], 21; call.uni (b), twice, (a); ld.param.b32 r0, [b]; } ret; }";
    let module = Module::parse("call.ptx", text).unwrap_or_else(|e| panic!("{e}"));
    let kernel = &module.kernels[0];
    let local =
        |index| at(Src::Symbol(SymbolAddr { space: Space::Local, index, offset: 0, dynamic: false }), 0);
    assert_eq!(kernel.local_bytes, 8);
    assert!(matches!(&kernel.code[1].op, Op::Ld { space: Space::Local, addr, .. } if *addr == local(0)));
    assert!(matches!(&kernel.code[3].op, Op::St { space: Space::Local, addr, .. } if *addr == local(4)));
    assert_eq!(kernel.code[4].op, Op::Bra { target: 5, uni: false });
    let recursive = text.replace("add.u32 r1, r0, r0;", "{ .param .b32 a; call (out), twice, (a); }");
    let error = Module::parse("call.ptx", &recursive).map(|_| ()).map_err(|e| e.to_string());
    assert!(error.is_err_and(|e| e.contains("recursion")));
}

#[test]
fn a_module_and_its_tables() {
    let text = "//
.version 8.3
.target sm_90a, debug
.address_size 64
.file 7 \"gemm.ptx\"
.section .debug_str { .b8 1,2,3 label: .b32 label-label }
.global .align 16 .b32 table[2][3] = {{1, 2}, {-1}};
.const .align 8 .u64 pointers[2] = {generic(table)+4, 0};
.shared .align 8 .b8 unused[100];
.shared .align 128 .b8 tile[96];
.extern .shared .align 1024 .b8 dynamic[];
.visible .entry k(.param .u8 a, .param .u64 .ptr .global .align 16 b, .param .align 64 .b8 c[128])
.reqntid 384 .minnctapersm 1 .maxnreg 168 .reqnctapercluster 2, 1, 1 .explicitcluster
{
    .reg .b32 acc<64>, stage; .shared .align 8 .b64 bars[2]; .local .align 8 .b8 stack[12];
    .pragma \"nounroll\";
    .loc 7 33 2, function_name $L+4, inlined_at 7 20 1
    mov.u32 stage, tile;
    .loc 7 34 2
    mov.u32 acc63, dynamic; mov.u32 acc0, bars+8;
    ret;
}
";
    let module = Module::parse("m.ptx", text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((module.version, module.target.as_str()), ((8, 3), "sm_90a"));
    assert_eq!(module.files, ["gemm.ptx"]);
    let mut table: Vec<u8> = [1_i32, 2, 0, -1, 0, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(module.globals[0].init, table);
    table.truncate(0);
    let symbol = SymbolAddr { space: Space::Global, index: 0, offset: 4, dynamic: false };
    assert_eq!(module.globals[1].relocations, [Relocation { at: 0, symbol }]);
    let k = &module.kernels[0];
    assert_eq!(
        k.params.iter().map(|p| (p.offset, p.size, p.align)).collect::<Vec<_>>(),
        [(0, 1, 1), (8, 8, 8), (64, 128, 64)]
    );
    assert_eq!((k.param_bytes, k.reqntid, k.cluster), (192, Some([384, 1, 1]), Some([2, 1, 1])));
    assert_eq!((k.maxnreg, k.minnctapersm), (Some(168), Some(1)));
    // `bars` at 0, `tile` at 128 on first use, `unused` nowhere.
    assert_eq!(
        (k.static_shared, k.shared_align, k.dynamic_shared_align, k.local_bytes),
        (224, 1024, 1024, 12)
    );
    assert_eq!(k.names32, ["stage", "acc63", "acc0"]);
    assert_eq!(
        k.code.iter().map(|i| i.loc).collect::<Vec<_>>(),
        [Some((0, 33)), Some((0, 34)), Some((0, 34)), Some((0, 34)), Some((0, 34))]
    );
    assert_eq!(k.code[0].ptx_line, 18);
}

#[test]
fn errors_name_the_place() {
    let e = refused("add.u32 r0, r1, r2;\n  ld.global.banana.u32 r0, [d1];");
    assert_eq!((e.file(), e.line(), e.column()), ("test.ptx", 8, 12));
    assert_eq!(e.text(), "  ld.global.banana.u32 r0, [d1];");
    assert_eq!(
        e.to_string(),
        "test.ptx:8:12: unknown modifier `.banana` in `ld.global.banana.u32`\n    |   ld.global.banana.u32 r0, [d1];"
    );
}

#[test]
fn what_is_refused() {
    for (body, message) in [
        ("frobnicate.b32 r0;", "unsupported instruction `frobnicate.b32`"),
        ("add.u32 r0, r1;", "takes 3 operands, not 2"),
        ("add.u32 r0, r1, d2;", "a .b64 register does not fit a .u32 operand"),
        ("add.f32 f0, f1, 1;", "a .f32 operand cannot be an integer constant"),
        ("add.s32 f0, r1, r2;", "a .f32 register does not fit a .s32 operand"),
        ("add.u16 h0, h1, 65536;", "a constant that does not fit"),
        ("add.u32 r0, r99, r1;", "`r99` is not declared"),
        ("add.u32 r0, %nope, r1;", "`%nope` is neither declared nor a special register"),
        ("add.u32 r0, %tid.x, r1;", "a special register can only be read by mov"),
        ("add.u32 r0, smem, r1;", "must go through mov"),
        ("add.u32 r0, r1+4, r1;", "only in an address"),
        ("mov.u32 _, r0;", "expected a register"),
        ("mov.u32 r0, 1/0;", "division by zero"),
        ("mov.u64 d0, 18446744073709551616;", "does not fit in 64 bits"),
        ("mov.f32 f0, 0f123;", "exactly 8 hexadecimal digits"),
        ("bra nowhere;", "there is no label `nowhere`"),
        ("{ inner: } bra inner;", "there is no label `inner`"),
        ("twice: twice: ret;", "`twice` is declared twice"),
        (".reg .u32 r; .reg .u32 r;", "`r` is declared twice"),
        ("@r0 bra x; x:", "`r0` is not a predicate register"),
        ("ld.global.u32 r0, [smem];", "the variable is in Shared memory, the access is to Global memory"),
        ("ld.shared.u32 r0, [16];", "only local memory can be addressed by a constant"),
        ("ld.global.u32 r0, [r1];", "needs a 64-bit register"),
        ("ld.shared.v4.u64 {d0, d1, d2, d3}, [r0];", "at most 16 bytes"),
        ("st.relaxed.global.u32 [d0], r1;", "needs a scope"),
        ("bar.sync 1, 100;", "not a positive multiple of 32"),
        ("bar.sync 16;", "barriers 0 to 15"),
        ("setmaxnreg.inc.sync.aligned.u32 241;", "not a multiple of 8"),
        (
            "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {f0, f1, f2}, d0, d1, p0, 1, 1;",
            "expected 4 elements, found 3",
        ),
        ("wgmma.mma_async.sync.aligned.m64n12k32.f32.e4m3.e4m3 {f0}, d0, d1, p0, 1, 1;", "no such shape"),
        ("cp.async.cg.shared.global [r0], [d0], 8;", ".cg takes 16"),
        ("cp.async.bulk.shared::cluster.global.bulk_group [r0], [d0], 16;", "mbarrier::complete_tx::bytes"),
        ("call (r0), r1, (r2), fn;", "there is no .callprototype or .calltargets"),
        ("{", "found the end of the file"),
        ("ld.global.u32 r0, [d1;", "expected `]`"),
        (".texref t;", "expected a statement"),
        ("mov.u32 r0, \"x", "this string is not closed"),
        ("/* open", "this comment is not closed"),
        ("mov.u32 r0, é;", "unexpected character 'é'"),
    ] {
        let error = refused(body).to_string();
        assert!(error.contains(message), "{body}\n  said: {error}\n  not:  {message}");
    }
}

#[test]
fn what_could_exhaust_the_host_is_refused() {
    let deep = |open: &str, close: &str, n: usize| format!("{}{}", open.repeat(n), close.repeat(n));
    refused(&deep("{", "}", 100_000));
    refused(&format!("mov.u32 r0, {}1{};", "(".repeat(100_000), ")".repeat(100_000)));
    refused(&format!("mov.u32 r0, {}1;", "-".repeat(100_000)));
    refused(&format!("mov.u32 r0, 1{};", "+1".repeat(100_000)));
    refused(&format!("mov.u32 r0, {}1;", "1?1:".repeat(100_000)));
    refused(&format!("add.u32 {}r0{}, r0, r0;", "{".repeat(100_000), "}".repeat(100_000)));
    refused(&format!("add.u32 {}r0, r0, r0;", "r0|".repeat(100_000)));
    refused(&format!("add{} r0, r0, r0;", ".u32".repeat(100_000)));
    refused(".shared .b8 big[0xffffffffffffffff];");
    refused(".local .b64 big[0x7fffffff][0x7fffffff];");
    let mut text = String::from(".version 8.0 .target sm_90a .address_size 64 .func f0() {}");
    for i in 1..23 {
        text += &format!(".func f{i}() {{ call f{0}; call f{0}; }}", i - 1);
    }
    text += ".entry k() { call f22; }";
    assert!(Module::parse("calls.ptx", &text).is_err_and(|e| e.message().contains("statements")));
    // A range costs what is used of it.
    let module =
        module(".reg .b32 many<4000000000>; mov.u32 many3999999999, 0;").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(module.kernels[0].names32, ["many3999999999"]);
}

/// One kernel that cannot run does not take the others with it, where a caller wants that.
#[test]
fn kernels_are_refused_one_by_one() {
    let text = ".version 8.0\n.target sm_90a\n.address_size 64\n\
        .visible .entry good() { ret; }\n\
        .visible .entry bad() { .reg .b32 r; wmma.nothing.b32 r, r; ret; }\n";
    assert!(Module::parse("two.ptx", text).is_err());
    let (module, refused) = Module::parse_each("two.ptx", text).unwrap();
    assert_eq!(module.kernels.iter().map(|kernel| kernel.name.as_str()).collect::<Vec<_>>(), ["good"]);
    let [(name, why)] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!(name, "bad");
    assert!(why.to_string().contains("two.ptx:5:"), "{why}");
    assert!(Module::parse_each("none.ptx", "ret;").is_err());
}
