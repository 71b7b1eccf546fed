//! The instruction tests against NVIDIA's own assembler.
//!
//! * `ptxas` assembles every table and kernel of `isa/`: what they say is PTX.
//! * Where `ptxas` computes an instruction of constants itself, its result equals the emulator's, bit for bit: each operation of the
//!   list below is applied to immediates, the stored constant is read back from the SASS. What it leaves to the chip
//!   (`rcp.rn`, `div.rn`, `sqrt.rn`, `tanh`, directed roundings, `bmsk`, narrow `cvt` …) is not in the list; a listed form that a
//!   version no longer folds is an error.
//!
//! Needs `HADAL_PTXAS` and `HADAL_NVDISASM`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hadal_emulator::coverage::Suite;
use hadal_emulator::{Launch, Machine, MachineConfig, ir::Module};

fn tool(variable: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| panic!("set {variable}")))
}

fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Assembles; the complaint if it does not.
fn assemble(ptx: &str, cubin: &Path) -> Result<(), String> {
    let source = cubin.with_extension("ptx");
    std::fs::write(&source, ptx).unwrap();
    let output = Command::new(tool("HADAL_PTXAS"))
        .args(["-arch", "sm_90a", "-O3", "-o"])
        .args([cubin, &source])
        .output()
        .unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
#[ignore = "needs ptxas and nvdisasm: run by .ci/run ptxas"]
fn ptxas_accepts_every_table_and_kernel() {
    let folder = scratch("isa");
    let suite = Suite::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("isa")).unwrap();
    let version = Command::new(tool("HADAL_PTXAS")).arg("--version").output().unwrap();
    let local_volatile = !String::from_utf8_lossy(&version.stdout).contains("release 12.");
    let mut failures = Vec::new();
    for text in suite.texts() {
        // `ptxas` reads ASCII only, in comments too; and `volatile` on local memory only from PTX 9.1 on, which 12.9 is before.
        let mut ptx: String = text.ptx.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        if ptx.contains(".volatile") && ptx.contains(".local") {
            if !local_volatile {
                continue;
            }
            ptx = ptx.replacen(".version 8.8", ".version 9.1", 1);
        }
        if let Err(complaint) = assemble(&ptx, &folder.join("one.cubin")) {
            failures.push(format!("{}:{}: {complaint}", text.file, text.line));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Registers of a result and its operands: `h` 16 bits, `r` 32, `q` 64, `p` a predicate.
struct Fold {
    form: &'static str,
    registers: &'static str,
    operands: &'static [&'static [u64]],
}

const fn fold(form: &'static str, registers: &'static str, operands: &'static [&'static [u64]]) -> Fold {
    Fold { form, registers, operands }
}

const INTEGERS: &[u64] = &[0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1234_5678, 0x00f0_0000];
const WIDE: &[u64] = &[0, 1, 0x1234_5678_9abc_def0, 1 << 63, u64::MAX];
const AMOUNTS: &[u64] = &[0, 1, 8, 31, 32, 33, 63, 255];
/// 0.5, 3, −1.25, 10.7, 0.1, 2.5, −2.5, 1e10, 100, −0.0, infinity, NaN, a subnormal.
const FLOATS: &[u64] = &[
    0x3f00_0000,
    0x4040_0000,
    0xbfa0_0000,
    0x412b_3333,
    0x3dcc_cccd,
    0x4020_0000,
    0xc020_0000,
    0x5015_02f9,
    0x42c8_0000,
    0x8000_0000,
    0x7f80_0000,
    0x7fff_ffff,
    0x0000_0123,
];
/// The same without what approximations are not asked about: what is left is positive and normal.
const POSITIVE: &[u64] =
    &[0x3f00_0000, 0x4040_0000, 0x412b_3333, 0x3dcc_cccd, 0x4020_0000, 0x42c8_0000, 0x3f80_0000, 0x3eaa_aaab];
const SMALL: &[u64] = &[0x3f00_0000, 0xbfa0_0000, 0x412b_3333, 0x3dcc_cccd, 0xc020_0000, 0x4040_0000];
const DOUBLES: &[u64] =
    &[0x3fb9_9999_9999_999a, 0xc000_0000_1000_0000, 0x47ef_ffff_f000_0000, 0x4025_6666_6666_6666];
const BYTES: &[u64] = &[0x12ff, 0x0180, 0x7f];

const FOLDS: &[Fold] = &[
    fold("bfe.u32", "rrrr", &[INTEGERS, AMOUNTS, &[0, 1, 8, 32, 255]]),
    fold("bfe.s32", "rrrr", &[INTEGERS, AMOUNTS, &[0, 1, 8, 32, 255]]),
    fold("shf.l.wrap.b32", "rrrr", &[INTEGERS, &[0x89ab_cdef], AMOUNTS]),
    fold("shf.r.wrap.b32", "rrrr", &[INTEGERS, &[0x89ab_cdef], AMOUNTS]),
    fold("shf.l.clamp.b32", "rrrr", &[INTEGERS, &[0x89ab_cdef], AMOUNTS]),
    fold("shf.r.clamp.b32", "rrrr", &[INTEGERS, &[0x89ab_cdef], AMOUNTS]),
    fold("popc.b32", "rr", &[INTEGERS]),
    fold("brev.b32", "rr", &[INTEGERS]),
    fold("clz.b32", "rr", &[INTEGERS]),
    fold("bfind.u32", "rr", &[INTEGERS]),
    fold("shl.b32", "rrr", &[INTEGERS, AMOUNTS]),
    fold("shr.u32", "rrr", &[INTEGERS, AMOUNTS]),
    fold("shr.s32", "rrr", &[INTEGERS, AMOUNTS]),
    fold("shl.b64", "qqr", &[WIDE, AMOUNTS]),
    fold("shr.s64", "qqr", &[WIDE, AMOUNTS]),
    fold("mul.hi.u32", "rrr", &[INTEGERS, INTEGERS]),
    fold("mul.hi.s32", "rrr", &[INTEGERS, INTEGERS]),
    fold("mul.wide.s32", "qrr", &[INTEGERS, INTEGERS]),
    fold("mul24.lo.u32", "rrr", &[INTEGERS, INTEGERS]),
    fold("mul24.hi.s32", "rrr", &[INTEGERS, INTEGERS]),
    fold("mad24.hi.u32", "rrrr", &[INTEGERS, INTEGERS, &[7]]),
    fold("szext.clamp.s32", "rrr", &[INTEGERS, AMOUNTS]),
    fold("szext.wrap.u32", "rrr", &[INTEGERS, AMOUNTS]),
    fold("dp2a.lo.s32.u32", "rrrr", &[INTEGERS, INTEGERS, &[7]]),
    fold("dp2a.hi.u32.s32", "rrrr", &[INTEGERS, INTEGERS, &[7]]),
    fold("fns.b32", "rrrr", &[INTEGERS, &[0, 5, 31], &[0, 1, 2, 0xffff_ffff]]),
    fold("min.f32", "rrr", &[FLOATS, FLOATS]),
    fold("max.NaN.f32", "rrr", &[FLOATS, FLOATS]),
    fold("cvt.rna.tf32.f32", "rr", &[FLOATS]),
    fold("cvt.rzi.u64.f64", "qq", &[DOUBLES]),
    fold("cvt.sat.s8.s32", "rr", &[INTEGERS]),
    fold("min.s32", "rrr", &[INTEGERS, INTEGERS]),
    fold("max.u32", "rrr", &[INTEGERS, INTEGERS]),
    fold("add.f32", "rrr", &[FLOATS, SMALL]),
    fold("mul.f32", "rrr", &[FLOATS, SMALL]),
    fold("cvt.rni.s32.f32", "rr", &[FLOATS]),
    fold("cvt.rzi.s32.f32", "rr", &[FLOATS]),
    fold("cvt.rmi.u32.f32", "rr", &[FLOATS]),
    fold("cvt.rpi.s32.f32", "rr", &[FLOATS]),
    fold("cvt.rzi.s64.f32", "qr", &[FLOATS]),
    fold("cvt.rn.f32.s32", "rr", &[INTEGERS]),
    fold("cvt.rn.f32.u32", "rr", &[INTEGERS]),
    fold("cvt.rn.f32.f64", "rq", &[DOUBLES]),
    fold("cvt.f64.f32", "qr", &[SMALL]),
    fold("cvt.rn.f16.f32", "hr", &[SMALL]),
    fold("cvt.s32.s8", "rh", &[BYTES]),
    fold("ex2.approx.f32", "rr", &[SMALL]),
    fold("ex2.approx.ftz.f32", "rr", &[SMALL]),
    fold("lg2.approx.f32", "rr", &[POSITIVE]),
    fold("rcp.approx.ftz.f32", "rr", &[SMALL]),
    fold("rsqrt.approx.f32", "rr", &[POSITIVE]),
    fold("sqrt.approx.f32", "rr", &[POSITIVE]),
    fold("sin.approx.f32", "rr", &[SMALL]),
    fold("cos.approx.f32", "rr", &[SMALL]),
    fold("div.approx.f32", "rrr", &[POSITIVE, SMALL]),
    fold("div.full.f32", "rrr", &[POSITIVE, SMALL]),
];

/// Every combination of a form's operands as a kernel, and all of them as a module.
fn module() -> (String, Vec<(String, bool)>) {
    let mut text = String::from(".version 8.0\n.target sm_90a\n.address_size 64\n");
    let mut entries = Vec::new();
    for Fold { form, registers, operands } in FOLDS {
        let count: usize = operands.iter().map(|o| o.len()).product();
        for mut index in 0..count {
            let kinds: Vec<char> = registers.chars().collect();
            let (mut moves, mut names, mut values) = (String::new(), String::new(), String::new());
            for (k, choices) in operands.iter().enumerate() {
                let value = choices[index % choices.len()];
                index /= choices.len();
                let kind = kinds[k + 1];
                let width = match kind {
                    'h' => 16,
                    'r' => 32,
                    _ => 64,
                };
                moves += &format!("    mov.b{width} {kind}{}, {value:#x};\n", k + 1);
                names += &format!(", {kind}{}", k + 1);
                values += &format!(" {value:#x}");
            }
            let to = kinds[0];
            let wide = to == 'q';
            let store = match to {
                'h' => "    cvt.u32.u16 r0, h0;\n    st.global.b32 [out], r0;",
                'r' => "    st.global.b32 [out], r0;",
                _ => "    st.global.b64 [out], q0;",
            };
            text += &format!(
                ".visible .entry k{}(.param .u64 p)\n{{\n    .reg .b16 h<5>; .reg .b32 r<5>; .reg .b64 q<5>, out;\n    \
                 ld.param.u64 out, [p];\n{moves}    {form} {to}0{names};\n{store}\n    ret;\n}}\n",
                entries.len()
            );
            entries.push((format!("{form}{values}"), wide));
        }
    }
    (text, entries)
}

/// The constant a kernel stores, from its SASS: moves of immediates into registers, and the store.
fn constant(sass: &str) -> Option<u64> {
    let mut known: HashMap<String, u32> = HashMap::from([("RZ".to_string(), 0), ("URZ".to_string(), 0)]);
    let mut stored = None;
    for line in sass.lines() {
        let Some(code) = line.split("*/").nth(1).and_then(|c| c.split(';').next()).map(str::trim) else {
            continue;
        };
        let Some((opcode, operands)) = code.split_once(' ') else { continue };
        let operands: Vec<&str> = operands.split(',').map(str::trim).collect();
        if opcode.starts_with("STG") {
            let register = operands.last()?.to_string();
            let low = *known.get(&register)?;
            stored = Some(if opcode.contains(".64") && register != "RZ" {
                let next = format!("R{}", register.strip_prefix('R')?.parse::<u32>().ok()? + 1);
                u64::from(*known.get(&next)?) << 32 | u64::from(low)
            } else {
                u64::from(low)
            });
            continue;
        }
        let (to, from) = (operands.first()?.to_string(), operands.last()?);
        let half = |text: &str| -> Option<u32> {
            let text = text.trim_start_matches('+');
            let (sign, magnitude) = match text.strip_prefix('-') {
                Some(rest) => (0x8000, rest),
                None => (0, text),
            };
            let value: f64 = match magnitude {
                "RZ" => 0.0,
                "INF" => f64::INFINITY,
                other => other.parse().ok()?,
            };
            // Printed with enough digits to be exact after rounding.
            Some(
                sign | u32::from(hadal_emulator::convert::f64_to_f16(
                    value,
                    hadal_emulator::convert::Rounding::Nearest,
                    hadal_emulator::convert::Clamp::NONE,
                )),
            )
        };
        let value =
            if opcode.starts_with("MOV") || opcode.starts_with("IMAD.MOV") || opcode.starts_with("UMOV") {
                match from.strip_prefix("0x") {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => known.get(*from).copied(),
                }
            } else if opcode.starts_with("HFMA2") && operands.len() == 5 {
                // A move in disguise: 0 · 0 + {high, low}.
                match (operands[1], operands[2], half(operands[3]), half(operands[4])) {
                    ("-RZ", "RZ", Some(high), Some(low)) => Some(high << 16 | low),
                    _ => None,
                }
            } else if opcode.starts_with("CS2R") && *from == "SRZ" {
                let next = to.strip_prefix('R').and_then(|n| n.parse::<u32>().ok())? + 1;
                known.insert(format!("R{next}"), 0);
                Some(0)
            } else {
                None
            };
        match value {
            Some(value) => known.insert(to, value),
            None => known.remove(&to),
        };
    }
    stored
}

#[test]
#[ignore = "needs ptxas and nvdisasm: run by .ci/run ptxas"]
fn constants_fold_to_the_emulators_bits() {
    let (text, entries) = module();
    let cubin = scratch("folding").join("folds.cubin");
    assemble(&text, &cubin).unwrap_or_else(|e| panic!("{e}"));
    let output = Command::new(tool("HADAL_NVDISASM")).arg(&cubin).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sass = String::from_utf8(output.stdout).unwrap();
    let mut folded: HashMap<usize, u64> = HashMap::new();
    for part in sass.split(".section\t.text.k").skip(1) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        if let Some(value) = constant(part) {
            folded.insert(digits.parse().unwrap(), value);
        }
    }

    let mut machine = Machine::new(MachineConfig::default());
    let module = Arc::new(Module::parse("folds.ptx", &text).unwrap_or_else(|e| panic!("{e}")));
    let id = machine.load_module(0, module).unwrap();
    let stream = machine.create_stream(0);
    let out = machine.alloc(0, 8, 8).unwrap();
    let (mut compared, mut wrong): (HashMap<&str, usize>, Vec<String>) = (HashMap::new(), Vec::new());
    for (k, (what, wide)) in entries.iter().enumerate() {
        let form = what.split(' ').next().unwrap();
        let seen = compared.entry(form).or_default();
        let Some(&theirs) = folded.get(&k) else { continue };
        machine.fill(out, 0, 8).unwrap();
        let launch =
            Launch { grid: [1; 3], block: [1; 3], params: out.to_le_bytes().into(), ..Launch::default() };
        machine.launch(stream, id, &format!("k{k}"), &launch).unwrap();
        machine.synchronize(stream).unwrap_or_else(|f| panic!("{f}"));
        let mut bytes = [0; 8];
        machine.read(out, &mut bytes).unwrap();
        let mut ours = u64::from_le_bytes(bytes);
        if !wide {
            ours &= 0xffff_ffff;
        }
        *seen += 1;
        if ours != theirs {
            wrong.push(format!("{what}: ptxas {theirs:#x}, emulator {ours:#x}"));
        }
    }
    let mut forms: Vec<_> = compared.into_iter().collect();
    forms.sort();
    for (form, count) in &forms {
        println!("{form}: {count} constants");
        if *count == 0 {
            wrong.push(format!("{form} is not folded"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
