//! The front end against NVIDIA's own assembler, form by form.
//!
//! `walk` spells out some ninety thousand instructions: tables of opcode, modifiers, types and operands, and every neighbour of the
//! forms the field uses (a modifier more, less, twice or elsewhere; another type; another kind of operand). `ptxas` says of each whether
//! it takes it, thousands in one file; so does the front end. Where the two differ is counted, for each direction, and the counts may
//! only fall: [`STRICTER`], [`LAXER`].
//!
//! One refusal can rub off on later lines of a file, as `ptxas` goes on with modifiers it has not cleared; what the front end takes is
//! therefore asked again alone. What only a later pass refuses carries no line, and is found by halves.
//!
//! Needs `HADAL_PTXAS`, of the version that the counts are from: 12.9.86.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use hadal_emulator::ir::Module;

mod walk;

const HEAD: &str = "\
.version 8.8
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 smem[];
.const .align 8 .b8 ctab[64];
.visible .entry forms(.param .align 64 .b8 p_in[128])
{
.reg .b16 h<32>; .reg .b32 r<64>, a<128>; .reg .b64 d<32>; .reg .pred p<8>; .reg .b128 q<8>;
.reg .f32 f<8>; .reg .f64 g<8>; .reg .u32 u<8>; .reg .s32 s<8>; .reg .u64 x<8>;
.local .align 16 .b8 loc[64]; .param .b32 av; .param .b32 rv;
";

const TAIL: &str = "ret;\n}\n";

/// Forms that `ptxas` takes and the front end refuses: most are constants too large for their type, which `ptxas` cuts off, modifiers
/// said twice, and 32-bit registers as generic addresses.
const STRICTER: usize = 701;
/// Forms that the front end takes and `ptxas` refuses: cache operators that do not go together, part of an opcode's name behind a
/// modifier, floating-point registers for bits.
const LAXER: usize = 2373;

/// Forms in one file: for the parser, and for the passes behind it.
const MANY: usize = 4000;
const FEW: usize = 1000;

struct Ptxas {
    program: PathBuf,
    folder: PathBuf,
}

impl Ptxas {
    /// What `ptxas` says about each line, by index; whether it stopped there; whether it took the file.
    fn ask(&self, forms: &[(usize, &str)]) -> (BTreeMap<usize, String>, Option<usize>, bool) {
        let source = self.folder.join("forms.ptx");
        let mut text = HEAD.to_string();
        for (_, form) in forms {
            text += &format!("{form};\n");
        }
        text += TAIL;
        std::fs::write(&source, text).unwrap();
        // Some nonsense makes it ask for all memory there is.
        let output = Command::new("sh")
            .args(["-c", "ulimit -v 3500000; exec \"$@\"", "sh"])
            .arg(&self.program)
            .args(["-arch", "sm_90a", "-O0", "-o"])
            .args([&self.folder.join("forms.cubin"), &source])
            .output()
            .unwrap();
        let first = HEAD.lines().count() + 1;
        let (mut said, mut stopped) = (BTreeMap::new(), None);
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        for line in complaints.lines() {
            if let Some((_, rest)) = line.split_once("32-bit address on line '")
                && let Some(number) = rest.split('\'').next().and_then(|n| n.parse::<usize>().ok())
                && complaints.contains("32-Bit ABI")
            {
                said.insert(number.saturating_sub(first).min(forms.len() - 1), line.to_string());
            }
            let Some((_, rest)) = line.split_once(", line ") else { continue };
            let Some((number, rest)) = rest.split_once("; ") else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            let at = number.saturating_sub(first).min(forms.len() - 1);
            if rest.starts_with("fatal") {
                stopped = Some(at);
            }
            if rest.starts_with("error") || rest.starts_with("fatal") {
                let message = rest.split_once(": ").map_or(rest, |(_, message)| message);
                said.entry(at).or_insert_with(|| message.to_string());
            }
        }
        (said, stopped, output.status.success())
    }

    /// The complaint about each form that is refused.
    fn refusals(&self, forms: &[String]) -> BTreeMap<usize, String> {
        let mut refused = BTreeMap::new();
        // What the parser says, line by line.
        for (nth, chunk) in forms.chunks(MANY).enumerate() {
            let all: Vec<(usize, &str)> =
                chunk.iter().enumerate().map(|(i, form)| (nth * MANY + i, form.as_str())).collect();
            let mut rest = all.as_slice();
            while !rest.is_empty() {
                let (said, stopped, _) = self.ask(rest);
                for (at, message) in said {
                    refused.insert(rest[at].0, message);
                }
                rest = stopped.map_or(&[], |at| &rest[at + 1..]);
            }
        }
        // What later passes say of the others.
        let rest: Vec<(usize, &str)> = forms
            .iter()
            .enumerate()
            .filter(|(i, _)| !refused.contains_key(i))
            .map(|(i, form)| (i, form.as_str()))
            .collect();
        let mut waiting: Vec<Vec<(usize, &str)>> = rest.chunks(FEW).map(<[_]>::to_vec).collect();
        while let Some(mut some) = waiting.pop() {
            let (said, _, taken) = self.ask(&some);
            if taken {
                continue;
            }
            if said.is_empty() {
                if let [(at, _)] = some.as_slice() {
                    refused.insert(*at, "not in a file of its own".into());
                } else {
                    let half = some.split_off(some.len() / 2);
                    waiting.extend([some, half]);
                }
                continue;
            }
            let mut at = 0;
            some.retain(|(index, _)| {
                let message = said.get(&at);
                at += 1;
                if let Some(message) = message {
                    refused.insert(*index, message.clone());
                }
                message.is_none()
            });
            if !some.is_empty() {
                waiting.push(some);
            }
        }
        refused
    }
}

#[test]
#[ignore = "needs ptxas: run by .ci/run ptxas"]
fn front_end_and_ptxas_differ_no_more_than_known() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptxas_forms");
    std::fs::create_dir_all(&folder).unwrap();
    let program = PathBuf::from(std::env::var_os("HADAL_PTXAS").expect("set HADAL_PTXAS"));
    let forms = walk::forms();
    let ptxas = Ptxas { program, folder };
    let theirs = ptxas.refusals(&forms);
    let (mut stricter, mut laxer) = (Vec::new(), Vec::new());
    for (at, form) in forms.iter().enumerate() {
        let ours = Module::parse("form.ptx", &format!("{HEAD}{form};\n{TAIL}")).err();
        match (ours, theirs.get(&at)) {
            (Some(ours), None) => stricter.push(format!("{form}\t{ours}").replace('\n', " / ")),
            (None, Some(_)) => {
                if let Some(theirs) = ptxas.refusals(std::slice::from_ref(form)).remove(&0) {
                    laxer.push(format!("{form}\t{theirs}"));
                }
            }
            _ => {}
        }
    }
    println!("{} forms, {} taken by ptxas", forms.len(), forms.len() - theirs.len());
    let mut report = String::new();
    for (what, list) in [("only ptxas takes", &stricter), ("only the front end takes", &laxer)] {
        println!("{what} {}", list.len());
        for line in list {
            report += &format!("{what}\t{line}\n");
        }
    }
    let file = ptxas.folder.join("differences");
    std::fs::write(&file, report).unwrap();
    let counts = (stricter.len(), laxer.len());
    assert!(
        counts.0 <= STRICTER && counts.1 <= LAXER,
        "{counts:?} forms differ, at most {:?} are known: see {}",
        (STRICTER, LAXER),
        file.display()
    );
}
