//! Kernels that mean harm, or were never thought through: each is stopped by a limit or refused with a typed error, in
//! little time and memory, and never with a panic. What a kernel can do wrong inside the rules is in `checkers*.rs`; text
//! that is no PTX at all is in `front_end_fuzz.rs`.

mod machine_support;
use machine_support::*;

use hadal_emulator::{Class, Launch, MachineConfig, MachineError, Schedule};

const REGS: &str = "
    .reg .b32 %tid, %r<10>;
    .reg .b64 %out, %at, %d<10>;
    .reg .pred %p;
    mov.u32 %tid, %tid.x;
    ld.param.u64 %out, [p0];";

/// A kernel of one block that must be stopped with one of these classes.
fn stopped(classes: &[Class], declarations: &str, body: &str, threads: u32) -> hadal_emulator::Report {
    let limited = MachineConfig { instruction_limit: Some(100_000), ..config() };
    let report = finding_with(limited, declarations, &format!("{REGS}\n{body}"), threads, 0)
        .unwrap_or_else(|| panic!("nothing stopped it\n{body}"));
    assert!(classes.contains(&report.class), "expected {classes:?}:\n{report}\n{body}");
    assert!(!report.message.is_empty() && !report.replay.is_empty());
    report
}

/// Refused by the front end, the loader or the launch, or stopped while it runs; anything but a panic or success.
fn refused(declarations: &str, body: &str, launch: Launch) -> String {
    let text = module(1, declarations, &format!("{REGS}\n{body}"));
    let ir = match hadal_emulator::ir::Module::parse("hostile.ptx", &text) {
        Ok(ir) => std::sync::Arc::new(ir),
        Err(error) => return error.to_string(),
    };
    let mut machine =
        hadal_emulator::Machine::new(MachineConfig { instruction_limit: Some(100_000), ..config() });
    let module = match machine.load_module(0, ir) {
        Ok(module) => module,
        Err(error) => return error.to_string(),
    };
    let stream = machine.create_stream(0);
    if let Err(error) = machine.launch(stream, module, "k", &launch) {
        return error.to_string();
    }
    match machine.synchronize(stream) {
        Ok(()) => panic!("it ran\n{body}"),
        Err(fault) => fault.to_string(),
    }
}

fn one_block(threads: u32) -> Launch {
    Launch { grid: [1, 1, 1], block: [threads, 1, 1], params: vec![0; 8], ..Launch::default() }
}

#[test]
fn endless_loops_end_at_the_instruction_limit() {
    let report = stopped(&[Class::InstructionLimit], "", "L: bra L;", 32);
    assert!(report.place.ptx_text.contains("bra"), "{report}");
    stopped(&[Class::InstructionLimit], "", "L: add.u32 %r1, %tid, 1; bra L;", 1024);
    // Half of a warp never leaves.
    stopped(&[Class::InstructionLimit], "", "setp.lt.u32 %p, %tid, 16;\nL: @%p bra L;\nret;", 64);
    // Waits for a flag that nobody sets: known at once.
    stopped(
        &[Class::Deadlock],
        ".global .u32 flag = 0;",
        "mov.u64 %at, flag;\nL: ld.acquire.gpu.global.u32 %r1, [%at];\nnanosleep.u32 100;\nsetp.eq.u32 %p, %r1, 0;\n@%p bra L;\nret;",
        32,
    );
    for schedule in [Schedule::Random, Schedule::Starve] {
        let limited = MachineConfig { instruction_limit: Some(10_000), schedule, ..config() };
        let report = finding_with(limited, "", &format!("{REGS}\nL: bra L;"), 96, 0).unwrap();
        assert_eq!(report.class, Class::InstructionLimit, "{report}");
    }
}

#[test]
fn wild_pointers_are_named_in_every_space() {
    let bounds = &[Class::OutOfBounds, Class::Misaligned, Class::Lifetime];
    for address in ["0", "8", "0x7fffffffffffff00", "0xfffffffffffffff0", "0xffffffffffffffff"] {
        for access in [
            "ld.global.u32 %r1, [%at];",
            "st.global.u32 [%at], %tid;",
            "ld.global.nc.v4.u32 {%r1, %r2, %r3, %r4}, [%at];",
            "st.global.v2.u64 [%at], {%d1, %d1};",
            "ld.u64 %d2, [%at];",
            "st.u8 [%at], %r1;",
            "atom.global.add.u32 %r1, [%at], 1;",
            "red.relaxed.sys.add.u32 [%at], 1;",
            "atom.global.cas.b64 %d2, [%at], 0, 1;",
            "ld.global.u32 %r1, [%at+-4];",
            "ld.global.u32 %r1, [%at+2147483644];",
        ] {
            stopped(
                bounds,
                "",
                &format!("mov.u64 %at, {address}; mov.u64 %d1, 1; mov.u32 %r1, 1;\n{access}\nret;"),
                32,
            );
        }
    }
    for address in ["0x100000", "0x7ffffff0", "0xfffffff0", "0xffffffff"] {
        for access in [
            "ld.shared.u32 %r2, [%r1];",
            "st.shared.u32 [%r1], %tid;",
            "st.shared.v4.u32 [%r1], {%tid, %tid, %tid, %tid};",
            "atom.shared.add.u32 %r2, [%r1], 1;",
            "st.shared::cluster.u32 [%r1], %tid;",
            "ld.local.u32 %r2, [%r1];",
            "st.local.u32 [%r1], %tid;",
            "ld.const.u32 %r2, [%r1];",
            "mbarrier.init.shared.b64 [%r1], 1;",
            "mbarrier.arrive.shared.b64 %d1, [%r1];",
            "mov.u64 %d1, g; cp.async.ca.shared.global [%r1], [%d1], 16;",
            "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];",
        ] {
            let body = format!("mov.u32 %r1, {address};\n{access}\ncp.async.wait_all;\nret;");
            stopped(bounds, ".const .u32 c = 1;\n.global .align 16 .u32 g[4] = {1, 2, 3, 4};", &body, 32);
        }
    }
}

#[test]
fn calls_without_end_and_jumps_to_nowhere() {
    let function = ".func (.reg .b32 %o) f (.reg .b32 %i)\n{\n call (%o), f, (%i);\n ret;\n}";
    let said = refused(function, "call (%r1), f, (%tid);\nret;", one_block(32));
    assert!(!said.is_empty());
    refused("", "bra NOWHERE;", one_block(32));
    refused("", "mov.u64 %at, 12; call (%r1), %at, (%tid);\nret;", one_block(32));
    stopped(&[Class::Trap], "", "trap;", 32);
}

#[test]
fn giant_memories_are_refused() {
    for (declarations, body) in [
        (".shared .align 16 .b8 s[4294967295];", "mov.u32 %r1, s; st.shared.u32 [%r1], %tid; ret;"),
        (".shared .align 16 .b8 s[18446744073709551615];", "mov.u32 %r1, s; st.shared.u32 [%r1], %tid; ret;"),
        (".shared .align 16 .b8 s[300000];", "mov.u32 %r1, s; st.shared.u32 [%r1], %tid; ret;"),
        (".global .align 16 .b8 g[1000000000000];", "mov.u64 %at, g; st.global.u32 [%at], %tid; ret;"),
        (".global .align 16 .b8 g[18446744073709551615];", "mov.u64 %at, g; st.global.u32 [%at], %tid; ret;"),
        (
            ".global .align 16 .b8 g[9223372036854775807][16];",
            "mov.u64 %at, g; st.global.u32 [%at], %tid; ret;",
        ),
        (".const .align 16 .b8 c[1000000000000];", "mov.u64 %at, c; ld.const.u32 %r1, [%at]; ret;"),
        ("", ".local .align 16 .b8 l[1000000000000];\nmov.u32 %r1, l; st.local.u32 [%r1], %tid; ret;"),
        ("", ".local .align 16 .b8 l[18446744073709551615];\nmov.u32 %r1, l; st.local.u32 [%r1], %tid; ret;"),
    ] {
        refused(declarations, body, one_block(1024));
    }
}

#[test]
fn launches_beyond_the_device_are_refused() {
    let text = module(1, "", &format!("{REGS}\nret;"));
    let base = one_block(32);
    let cluster = |cluster| Launch { cluster: Some(cluster), ..base.clone() };
    for launch in [
        Launch { grid: [0, 1, 1], ..base.clone() },
        Launch { grid: [u32::MAX, 1, 1], ..base.clone() },
        Launch { grid: [1, u32::MAX, u32::MAX], ..base.clone() },
        Launch { grid: [1, 65_536, 1], ..base.clone() },
        Launch { block: [0, 1, 1], ..base.clone() },
        Launch { block: [u32::MAX, u32::MAX, u32::MAX], ..base.clone() },
        Launch { block: [1025, 1, 1], ..base.clone() },
        Launch { block: [1, 1, 65], ..base.clone() },
        cluster([2, 1, 1]),
        cluster([u32::MAX, u32::MAX, 2]),
        Launch { dynamic_shared: u32::MAX, ..base.clone() },
        Launch { dynamic_shared: 232_449, ..base.clone() },
        Launch { params: vec![], ..base.clone() },
        Launch { params: vec![0; 7], ..base.clone() },
        Launch { params: vec![0; 5000], ..base.clone() },
        Launch { grid: [2_000_000_000, 1, 1], cooperative: true, ..base.clone() },
    ] {
        let mut bench = Bench::new(&text);
        let error =
            bench.machine.launch(bench.stream, bench.module, "k", &launch).expect_err(&format!("{launch:?}"));
        let typed = matches!(error, MachineError::InvalidArgument { .. } | MachineError::TooLarge { .. });
        assert!(typed, "{error:?}");
    }
    // A grid that is legal and would take years ends at the limit, without the memory of all its blocks.
    let limited = MachineConfig { instruction_limit: Some(100_000), ..config() };
    let mut bench = Bench::with(limited, &text);
    let fault = bench.launch(Launch { grid: [2_147_483_647, 65_535, 65_535], ..base }).unwrap_err();
    assert_eq!(fault.report.class, Class::InstructionLimit, "{fault}");
    // A fault is sticky, and reset clears it.
    let again = bench.machine.launch(bench.stream, bench.module, "k", &one_block(32));
    assert!(matches!(again, Err(MachineError::Faulted(_))), "{again:?}");
}

#[test]
fn absurd_barriers() {
    for body in [
        "bar.sync 0, 4096;",
        "bar.sync 0, 33;",
        "bar.sync 16;",
        "mov.u32 %r1, 99; bar.sync %r1;",
        "mov.u32 %r1, 0xffffffff; barrier.sync 1, %r1;",
        "mov.u32 %r1, 0; barrier.arrive 1, %r1;",
        "barrier.arrive 0, 0;",
        "bar.sync 1, 64;",
    ] {
        refused("", &format!("{body}\nret;"), one_block(32));
    }
    for count in ["0", "0xffffffff", "1048576"] {
        let body =
            format!("mov.u32 %r1, s; mov.u32 %r2, {count}; mbarrier.init.shared.b64 [%r1], %r2;\nret;");
        stopped(&[Class::Mbarrier], ".shared .align 8 .b64 s;", &body, 1);
    }
    let after = |operation: &str| {
        let body = format!("mov.u32 %r1, s; mbarrier.init.shared.b64 [%r1], 1;\n{operation}\nret;");
        stopped(&[Class::Mbarrier], ".shared .align 8 .b64 s;", &body, 1);
    };
    after("mov.u32 %r2, 0xffffffff; mbarrier.expect_tx.relaxed.cta.shared.b64 [%r1], %r2;");
    after("mov.u32 %r2, 0x7fffffff; mbarrier.arrive.expect_tx.shared.b64 _, [%r1], %r2;");
    after("mov.u32 %r2, 0xffffffff; mbarrier.arrive.shared.b64 _, [%r1], %r2;");
}

#[test]
fn malformed_descriptors_and_tensor_maps() {
    let accumulators: Vec<String> = (0..4).map(|i| format!("%f{i}")).collect();
    for descriptor in ["0xffffffffffffffff", "0x3fff", "0xc000000000003fff", "0x7fff7fff7fff3fff"] {
        let body = format!(
            ".reg .f32 %f<4>;\nmov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;\n\
             mov.u64 %d1, {descriptor};\nwgmma.fence.sync.aligned;\n\
             wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{{}}}, %d1, %d1, 1, 1, 1, 0, 0;\n\
             wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\nret;",
            accumulators.join(", ")
        );
        let classes = &[Class::OutOfBounds, Class::WgmmaOperand, Class::Uninitialised, Class::Misaligned];
        stopped(classes, ".shared .align 1024 .b8 s[2048];", &body, 128);
    }
    for filler in [0u8, 1, 0x55, 0xff] {
        let copy = "mov.b64 %d1, m0; cvta.param.u64 %d1, %d1; mov.u32 %r1, s; mov.u32 %r2, b; mov.u32 %r3, 0x7fffffff; mbarrier.init.shared.b64 [%r2], 1;
            fence.proxy.async.shared::cta;
            cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d1, {%r3, %r3}], [%r2];
            ret;";
        let declarations = ".shared .align 1024 .b8 s[2048];\n.shared .align 8 .b64 b;";
        let text = module_with_maps(1, 1, declarations, &format!("{REGS}\n{copy}"));
        let mut bench = Bench::new(&text);
        let fault = bench
            .launch(Launch { params: params(&[vec![filler; 128]], &[0]), ..one_block(1) })
            .expect_err("garbage is no tensor map");
        assert_eq!(fault.report.class, Class::TensorMap, "{fault}");
    }
    // A copy's size and address come from registers.
    for (size, to) in [
        ("0xfffffff0", "0"),
        ("15", "0"),
        ("0xffffffff", "0"),
        ("64", "8"),
        ("1048576", "0"),
        ("64", "0x7ffffff0"),
    ] {
        let body = format!(
            "mov.u32 %r1, s; add.u32 %r1, %r1, {to}; mov.u32 %r2, b; mov.u32 %r3, {size}; mbarrier.init.shared.b64 [%r2], 1;
            fence.proxy.async.shared::cta;
            cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%out], %r3, [%r2];
            ret;"
        );
        let classes = &[Class::OutOfBounds, Class::Misaligned, Class::AsyncCopy, Class::Mbarrier];
        stopped(classes, ".shared .align 128 .b8 s[2048];\n.shared .align 8 .b64 b;", &body, 1);
    }
}
