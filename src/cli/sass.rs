//! `hadal sass`: assembles every kernel again with the `ptxas` at hand and reports what came out.
//!
//! The columns of the loop are instructions of one warp per block (128 of K, or 64 tokens of the cache), of the larger consumer
//! warpgroup; see `src/kernel/sass.rs` for how the loop is found and what the two ratios mean.

use std::fmt::Write;

use hadal::kernel::ptxas::{self, Job, Tool, Wanted};
use hadal::kernel::report::{self, Usage};
use hadal::kernel::sass::{Class, Function, MainLoop, disassemble, main_loop};
use hadal::kernel::{self, Kernel};

use super::{Answer, Failure};

/// What is known of one kernel.
struct Entry {
    kernel: &'static Kernel,
    usage: Usage,
    code_bytes: u64,
    main_loop: Option<MainLoop>,
}

impl Entry {
    fn shared(&self) -> u32 {
        self.usage.shared + self.kernel.row.dynamic_shared
    }

    fn spilled(&self) -> u32 {
        self.usage.spills.0 + self.usage.spills.1
    }
}

/// Runs the command with its `options`.
pub fn sass(options: &[&str]) -> Answer {
    let (mut json, mut names, mut paths) = (false, Vec::new(), [None, None]);
    let mut options = options.iter().copied();
    while let Some(option) = options.next() {
        match option {
            "--json" => json = true,
            "--ptxas" | "--nvdisasm" => {
                let path = options.next().ok_or_else(|| Failure::Usage(format!("{option} takes a path")))?;
                paths[usize::from(option == "--nvdisasm")] = Some(path.to_owned());
            }
            _ if option.starts_with('-') => {
                return Err(Failure::Usage(format!("`sass` has no option {option}")));
            }
            name => names.push(name),
        }
    }
    let [ptxas_path, nvdisasm_path] = paths;
    let ptxas = tool(ptxas::PTXAS, "--ptxas", ptxas_path)?;
    let nvdisasm = tool(ptxas::NVDISASM, "--nvdisasm", nvdisasm_path)?;

    let chosen =
        |kernel: &&Kernel| names.is_empty() || names.iter().any(|name| kernel.row.name.contains(name));
    let kernels: Vec<&'static Kernel> = kernel::all().iter().filter(chosen).collect();
    if kernels.is_empty() {
        return Err(Failure::Failed(format!("no kernel's name contains {}", names.join(" or "))));
    }
    let entries = measure(&kernels, &ptxas, &nvdisasm)?;
    Ok(if json { as_json(&entries, &ptxas, &nvdisasm) } else { as_text(&entries, &ptxas, &nvdisasm) })
}

/// The tool at `path` if one was given, else the one that is found.
fn tool(wanted: Wanted, option: &str, path: Option<String>) -> Result<Tool, Failure> {
    let found = match &path {
        Some(path) => ptxas::find(wanted, &|name| (name == wanted.variable).then(|| path.clone()))
            .map_err(|why| why.replace(&format!("{}=", wanted.variable), &format!("{option} "))),
        None => ptxas::find(wanted, &ptxas::environment),
    };
    found.and_then(|found| found.or_missing(wanted)).map_err(Failure::Failed)
}

fn measure(kernels: &[&'static Kernel], ptxas: &Tool, nvdisasm: &Tool) -> Result<Vec<Entry>, Failure> {
    let scratch = std::env::temp_dir().join(format!("hadal-sass-{}", std::process::id()));
    let job = |kernel: &&Kernel| Job {
        name: kernel.row.name.into(),
        ptx: kernel.ptx.into(),
        arch: kernel.row.arch.into(),
    };
    let jobs: Vec<Job> = kernels.iter().map(job).collect();
    let entries =
        kernels.iter().zip(ptxas::assemble(ptxas, &jobs, &scratch, None)).map(|(&kernel, assembled)| {
            let name = kernel.row.name;
            let assembled =
                assembled.map_err(|log| Failure::Failed(report::errors(name, &log, kernel.line_map())))?;
            let text = disassemble(nvdisasm, &assembled.cubin, name, &scratch).map_err(Failure::Failed)?;
            let function = Function::parse(&text);
            Ok(Entry {
                kernel,
                usage: Usage::parse(&assembled.log),
                code_bytes: function.code_bytes(),
                main_loop: main_loop(kernel.row, &function),
            })
        });
    let entries = entries.collect();
    // What is left in the temporary folder harms nobody.
    let _ = std::fs::remove_dir_all(&scratch);
    entries
}

fn as_text(entries: &[Entry], ptxas: &Tool, nvdisasm: &Tool) -> String {
    let mut text = format!("ptxas {}, nvdisasm {}\n\n", ptxas.version, nvdisasm.version);
    let _ = write!(text, "{:<46} {:>4} {:>6} {:>7} {:>6} |", "kernel", "regs", "spills", "shared", "code");
    for class in Class::ALL {
        let _ = write!(text, " {:>7}", class.name());
    }
    let _ = writeln!(text, " {:>7} {:>5} {:>5}", "total", "issue", "port");
    for entry in entries {
        let (name, usage) = (entry.kernel.row.name, &entry.usage);
        let _ = write!(
            text,
            "{name:<46} {:>4} {:>6} {:>7} {:>6} |",
            usage.registers,
            entry.spilled(),
            entry.shared(),
            entry.code_bytes
        );
        let Some(found) = &entry.main_loop else {
            text.push_str(" no loop with GMMA\n");
            continue;
        };
        for class in Class::ALL {
            let count = found.classes.get(&class).copied().unwrap_or(0);
            let _ = write!(text, " {:>7.1}", count as f64 / found.blocks);
        }
        let _ = writeln!(text, " {:>7.1} {:>5.2} {:>5.2}", found.per_block(), found.issue, found.port);
    }
    for entry in entries {
        for remark in &entry.usage.remarks {
            let _ = writeln!(text, "\n{}: {remark}", entry.kernel.row.name);
        }
    }
    text.push_str(
        "\nright of the bar: instructions of one consumer warp per block of the main loop (128 of K; MLA: 64 tokens), retries of \
         waits included\n\
         issue: issue slots of a quarter SM per tensor-core cycle; port: shared-memory-port cycles per tensor-core cycle\n",
    );
    text
}

fn as_json(entries: &[Entry], ptxas: &Tool, nvdisasm: &Tool) -> String {
    let objects: Vec<String> = entries.iter().map(|entry| object(entry, ptxas, nvdisasm)).collect();
    format!("[\n{}\n]\n", objects.join(",\n"))
}

/// One kernel as a JSON object. Its strings are kernel names, versions and remarks; only the last could hold a quote.
fn object(entry: &Entry, ptxas: &Tool, nvdisasm: &Tool) -> String {
    let remarks: Vec<String> = entry.usage.remarks.iter().map(|remark| format!("{remark:?}")).collect();
    let main_loop = entry.main_loop.as_ref().map_or("null".to_owned(), |found| {
        let mut fields: Vec<String> = Class::ALL
            .iter()
            .map(|class| format!("\"{}\": {}", class.name(), found.classes.get(class).unwrap_or(&0)))
            .collect();
        fields.push(format!("\"total\": {}", found.total()));
        fields.push(format!("\"retry\": {}", found.retry));
        fields.push(format!("\"blocks\": {}", found.blocks));
        fields.push(format!("\"instructions_per_block\": {:.2}", found.per_block()));
        fields.push(format!("\"uniform_per_gmma\": {:.2}", found.uniform_per_gmma()));
        fields.push(format!("\"tensor_cycles_per_block\": {}", found.tensor_cycles));
        fields.push(format!("\"issue_per_tensor_cycle\": {:.4}", found.issue));
        fields.push(format!("\"port_per_tensor_cycle\": {:.4}", found.port));
        format!("{{{}}}", fields.join(", "))
    });
    format!(
        "  {{\"kernel\": \"{}\", \"registers\": {}, \"spill_bytes\": {}, \"stack_bytes\": {}, \"shared_bytes\": {}, \
         \"code_bytes\": {}, \"loop\": {main_loop}, \"remarks\": [{}], \"ptxas\": \"{}\", \"nvdisasm\": \"{}\"}}",
        entry.kernel.row.name,
        entry.usage.registers,
        entry.spilled(),
        entry.usage.stack,
        entry.shared(),
        entry.code_bytes,
        remarks.join(", "),
        ptxas.version,
        nvdisasm.version
    )
}
