//! The bounded form of every wait (`BOUNDED_WAITS`): where nothing goes wrong it changes nothing, and a wait that never ends traps and
//! leaves site, stage and parity in the word that `hadal_stuck_at` points to.

use std::sync::Arc;

use hadal::emulator::tensor::Mode;
use hadal::emulator::{Class, Machine, MachineConfig, ir};
use hadal::kernel::{self, Kernel};

use super::source::render::{load, render};
use super::source::table::{Value, row};
use super::{MACHINES, family, run};

/// Tries of a wait. The emulator ends a try that waits for nothing that can come; of these it grants four.
const TRIES: i64 = 3;

/// The kernel with bounded waits.
fn bounded(kernel: &Kernel) -> String {
    let row = row(kernel.row.name).expect("the same table");
    let constants: Vec<_> = row
        .all_constants()
        .into_iter()
        .map(|(name, value)| (name, if name == "BOUNDED_WAITS" { Value::Int(TRIES) } else { value }))
        .collect();
    let sources = load(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx")).expect("the templates");
    render(&sources, row.template, &constants).unwrap_or_else(|error| panic!("{error}")).ptx
}

/// Runs a broken kernel until it traps: site, stage and parity of the wait that gave up, or `None` where `hadal_stuck_at` names no
/// place to say so.
fn gives_up(kernel: &Kernel, text: &str, told: bool) -> Option<[u64; 3]> {
    let mut machine = Machine::new(MachineConfig {
        tensor_mode: Mode::Fast,
        instruction_limit: Some(20_000_000),
        ..MachineConfig::default()
    });
    let setup = (family(kernel).setup)(kernel, &mut machine);
    let mut module = ir::Module::parse(kernel.row.name, text).expect("still PTX");
    for entry in &mut module.kernels {
        entry.param_bytes = kernel.row.param_layout().1 as u32;
    }
    let module = machine.load_module(0, Arc::new(module)).expect("loads");
    let word = machine.alloc(0, 8, 8).unwrap();
    machine.write(word, &[0; 8]).unwrap();
    if told {
        let (pointer, _) = machine.global(module, "hadal_stuck_at").expect("declared");
        machine.write(pointer, &word.to_le_bytes()).unwrap();
    }
    let stream = machine.create_stream(0);
    machine.launch(stream, module, kernel.row.name, &setup.launches[0].launch).unwrap();
    let fault = machine.synchronize(stream).expect_err("something is missing");
    assert_eq!(fault.report.class, Class::Trap, "{fault}");
    let mut bytes = [0; 8];
    machine.read(word, &mut bytes).unwrap();
    let word = u64::from_le_bytes(bytes);
    (word != 0).then_some([word >> 32, word >> 8 & 0xff_ffff, word & 0xff])
}

/// What is taken away, once per case, and the waits one of which has to give up.
fn check(name: &str, cases: &[(&str, &str, &[[u64; 3]])]) {
    let kernel = kernel::find(name).unwrap();
    let text = bounded(kernel);
    for which in MACHINES {
        let shipped = run(kernel, kernel.ptx, which).unwrap();
        // A random schedule lets tries fail for nothing, more often than so few tries allow.
        let many = text.replace(&format!("patience, {TRIES};"), "patience, 100;");
        assert_eq!(run(kernel, &many, which).unwrap().outputs, shipped.outputs, "{name} under {which:?}");
    }
    for &(line, instead, waits) in cases {
        let broken = text.replace(line, instead);
        assert_ne!(broken, text, "{name} has no {line}");
        let word = gives_up(kernel, &broken, true).unwrap_or_else(|| panic!("{line}: nothing was left"));
        assert!(waits.contains(&word), "{line}: {word:?}");
        assert_eq!(gives_up(kernel, &broken, false), None);
    }
}

/// Sites: 1 and 2, a side waits for a tile of K; 3, for Q; 4 and 5, the copying warp for Q and for a group of tiles to be free.
#[test]
fn mla_decode() {
    const EXPECT: &str = "mbarrier.arrive.expect_tx.shared::cta.b64 _, ";
    let release = |at: u32| format!("@first_lane mbarrier.arrive.shared::cta.b64 _, [smem_base + {at}];");
    const BARRIERS: u32 = 3 * 9 * 8192 + 1024;
    let (q_full, free) = (BARRIERS + 22 * 8, BARRIERS + 18 * 8);
    let more = |line: &str, bytes: u32| line.replace(&format!("{bytes};"), &format!("{};", bytes + 16));
    let q = format!("{EXPECT}[smem_base + {q_full}], {};", 9 * 8192);
    let tile = format!("{EXPECT}[full + {BARRIERS}], 8192;");
    check(
        "hadal_mla_decode_bf16_paged_m64_sm90a",
        &[
            (&q, &more(&q, 9 * 8192), &[[3, 0, 0]]),
            (&tile, &more(&tile, 8192), &[[1, 0, 0], [2, 4, 0]]),
            // What is not let go is not filled again: the reader of the next turn may be the first to lose patience.
            (&release(free), "", &[[1, 0, 1], [2, 4, 1], [5, 0, 0]]),
            (&release(free + 8), "", &[[1, 4, 1], [2, 4, 1], [5, 1, 0]]),
            (&release(q_full + 8), "", &[[3, 0, 1], [4, 0, 0]]),
        ],
    );
}

/// Sites: 1, a consumer waits for a stage; 2 and 3, the copying warps for a stage to be free.
#[test]
fn gemm() {
    let name = "hadal_gemm_e4m3_bf16_dense_m64n64_sm90a";
    let kernel = kernel::find(name).unwrap();
    let line = |needle: &str| {
        let text = kernel.ptx.lines().find(|line| line.contains(needle)).expect("a line of the kernel");
        text.trim().to_owned()
    };
    let full = line("mbarrier.arrive.expect_tx");
    let empty = line("@first_lane mbarrier.arrive");
    check(name, &[(&full, "", &[[1, 0, 0]]), (&empty, "", &[[1, 0, 1], [2, 0, 0], [3, 0, 0]])]);
}
