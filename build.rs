//! Renders every kernel of the table, checks it, assembles it where `ptxas` is found, and writes the registry that
//! `src/kernel/mod.rs` includes. Needs nothing but Rust: without `ptxas` the PTX alone is embedded and the driver assembles it.
//!
//! Variables: `HADAL_PTXAS` (path, or `none`), `HADAL_CUBIN_CACHE` (folder), `HADAL_STRICT=1` (what `ptxas` only mentions
//! fails the build; see `src/kernel/report.rs`), `HADAL_NVDISASM` (for strict builds).

// The modules are the library's; a build script uses only a part of each.
#[allow(dead_code)]
#[path = "src/kernel"]
mod kernel {
    pub mod check;
    pub mod line_map;
    pub mod ptxas;
    pub mod render;
    pub mod report;
    pub mod sass;
    pub mod scan;
    pub mod table;
}

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kernel::ptxas::{self, Assembled, Cache, Found, Tool};
use kernel::render::{self, Rendered};
use kernel::{check, report, table};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=ptx");
    println!("cargo::rerun-if-changed=src/kernel");
    let searched = ["CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"];
    for name in ["HADAL_PTXAS", "HADAL_NVDISASM", "HADAL_STRICT", "HADAL_CUBIN_CACHE"].iter().chain(&searched)
    {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let Err(problems) = build() else { return ExitCode::SUCCESS };
    for line in problems.iter().flat_map(|problem| problem.lines()) {
        println!("cargo::error={line}");
    }
    ExitCode::FAILURE
}

fn build() -> Result<(), Vec<String>> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let one = |message: String| vec![message];
    let env = &ptxas::environment;
    let strict = env("HADAL_STRICT").is_some_and(|value| value != "0");
    let kernels = render_all()?;
    let tool = match ptxas::find(ptxas::PTXAS, env).map_err(one)? {
        Found::Tool(tool) => Some(tool),
        Found::Nothing(_) if !strict => None,
        nothing => return nothing.or_missing(ptxas::PTXAS).map(|_| ()).map_err(one),
    };
    let assembled = match &tool {
        Some(tool) => assemble_all(tool, &kernels, &out)?,
        None => Vec::new(),
    };
    if strict {
        let nvdisasm = ptxas::find(ptxas::NVDISASM, env).and_then(|found| found.or_missing(ptxas::NVDISASM));
        let nvdisasm = nvdisasm.map_err(one)?;
        let mut problems = Vec::new();
        for ((row, kernel), assembled) in table::TABLE.iter().zip(&kernels).zip(&assembled) {
            let found = report::strict(row, &kernel.ptx, assembled, &nvdisasm, &out);
            problems.extend(found.iter().map(|problem| problem.shown(row.name, &kernel.map)));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
    }
    let written = write_registry(&out, &kernels, &assembled, tool.as_ref());
    written.map_err(|error| one(format!("cannot write the registry: {error}")))
}

fn render_all() -> Result<Vec<Rendered>, Vec<String>> {
    let sources =
        render::load(Path::new("ptx")).map_err(|error| vec![format!("cannot read ptx/: {error}")])?;
    let mut problems = Vec::new();
    let mut kernels = Vec::new();
    for row in table::TABLE {
        match render::render(&sources, row.template, &row.all_constants()) {
            Ok(kernel) => {
                let found = check::check(row, &kernel.ptx);
                problems.extend(found.iter().map(|problem| problem.shown(row.name, &kernel.map)));
                kernels.push(kernel);
            }
            Err(error) => problems.push(format!("{}: {error}", row.name)),
        }
    }
    if problems.is_empty() { Ok(kernels) } else { Err(problems) }
}

fn assemble_all(tool: &Tool, kernels: &[Rendered], out: &Path) -> Result<Vec<Assembled>, Vec<String>> {
    let folder = ptxas::environment("HADAL_CUBIN_CACHE").map_or(out.join("cubins"), PathBuf::from);
    let cache = Cache::open(&folder).map_err(|warning| println!("cargo::warning={warning}")).ok();
    let job = |(row, kernel): (&table::KernelRow, &Rendered)| ptxas::Job {
        name: row.name.into(),
        ptx: kernel.ptx.clone(),
        arch: row.arch.into(),
    };
    let jobs: Vec<_> = table::TABLE.iter().zip(kernels).map(job).collect();
    let mut done = Vec::new();
    let mut problems = Vec::new();
    for (kernel, (job, result)) in
        kernels.iter().zip(jobs.iter().zip(ptxas::assemble(tool, &jobs, out, cache.as_ref())))
    {
        match result {
            Ok(assembled) => done.push(assembled),
            Err(log) => problems.push(report::errors(&job.name, &log, &kernel.map)),
        }
    }
    if problems.is_empty() { Ok(done) } else { Err(problems) }
}

/// Writes each kernel's files and the array that lists them.
fn write_registry(
    out: &Path,
    kernels: &[Rendered],
    assembled: &[Assembled],
    tool: Option<&Tool>,
) -> std::io::Result<()> {
    let assembler = tool.map(|tool| tool.version.as_str());
    let mut text = format!("static ASSEMBLER: Option<&str> = {assembler:?};\n");
    let _ = writeln!(text, "static KERNELS: [Kernel; {}] = [", kernels.len());
    for (index, (row, kernel)) in table::TABLE.iter().zip(kernels).enumerate() {
        let name = row.name;
        std::fs::write(out.join(format!("{name}.ptx")), &kernel.ptx)?;
        std::fs::write(out.join(format!("{name}.map")), kernel.map.encode())?;
        let path = |kind: &str| format!("concat!(env!(\"OUT_DIR\"), \"/{name}.{kind}\")");
        let cubin = match assembled.get(index) {
            Some(assembled) => {
                std::fs::write(out.join(format!("{name}.cubin")), &assembled.cubin)?;
                format!("Some(include_bytes!({}))", path("cubin"))
            }
            None => "None".to_owned(),
        };
        let (ptx, map) = (path("ptx"), path("map"));
        let _ = writeln!(
            text,
            "    Kernel::new(&table::TABLE[{index}], include_str!({ptx}), {cubin}, include_str!({map})),"
        );
    }
    text.push_str("];\n");
    std::fs::write(out.join("kernels.rs"), text)
}
