//! Finds NVIDIA's `ptxas` (and `nvdisasm`), runs it on every kernel in parallel, and keeps what it wrote.
//!
//! The build works with neither. Where they are looked for, in order: the variable (`HADAL_PTXAS`, `HADAL_NVDISASM`; a path,
//! or `none` to do without), `CUDA_HOME` and `CUDA_PATH`, `PATH`, the PyPI wheels in the active virtual environment or
//! in the site-packages beside a folder of `PATH`. A variable that names something unusable is an error; anywhere else an
//! unusable program is a note and the search goes on.
//!
//! Cubins are cached under a hash of the PTX, the version and the flags, in `HADAL_CUBIN_CACHE` or the build's own
//! folder. Standard library only: `build.rs` includes this file by path.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A tool to look for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// File name of the program.
    pub program: &'static str,
    /// Environment variable that names it.
    pub variable: &'static str,
    /// How to get it.
    pub install: &'static str,
}

/// The assembler.
pub const PTXAS: Wanted = Wanted {
    program: "ptxas",
    variable: "HADAL_PTXAS",
    install: "pip install nvidia-cuda-nvcc-cu12==12.9.86",
};

/// The disassembler. There is no wheel of 12.9; the one of 13.5 reads its cubins.
pub const NVDISASM: Wanted = Wanted {
    program: "nvdisasm",
    variable: "HADAL_NVDISASM",
    install: "pip install nvidia-cuda-nvdisasm==13.5.37",
};

/// Folders under `nvidia/` of a site-packages folder that hold the tools.
const WHEEL_FOLDERS: [&str; 4] = ["cuda_nvcc", "cu13", "cuda_nvdisasm", "cu12"];

/// A program that was found and answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Where it is.
    pub path: PathBuf,
    /// Its version: `12.9.86`.
    pub version: String,
    /// What led to it: `HADAL_PTXAS`, `PATH`, …
    pub how: String,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (version {}, found through {})", self.path.display(), self.version, self.how)
    }
}

/// What a search brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The tool.
    Tool(Tool),
    /// Nothing; each place that was looked at, and why it would not do.
    Nothing(Vec<String>),
}

impl Found {
    /// The tool, or in words where it was looked for and how to get it.
    pub fn or_missing(self, wanted: Wanted) -> Result<Tool, String> {
        match self {
            Self::Tool(tool) => Ok(tool),
            Self::Nothing(tried) => {
                let tried = tried.join("; ");
                Err(format!("{} was not found ({tried}). To get it: {}", wanted.program, wanted.install))
            }
        }
    }
}

/// Reads an environment variable; a search takes it as an argument so that tests need not change the process.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process. A variable that is empty counts as unset.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Looks for `wanted`. The error names the variable that points at something unusable.
pub fn find(wanted: Wanted, env: Environment<'_>) -> Result<Found, String> {
    let file = format!("{}{}", wanted.program, std::env::consts::EXE_SUFFIX);
    if let Some(value) = env(wanted.variable) {
        if value == "none" {
            return Ok(Found::Nothing(vec![format!("{}=none", wanted.variable)]));
        }
        let path = PathBuf::from(&value);
        let path = if path.is_dir() { path.join(&file) } else { path };
        return match version(&path) {
            Ok(version) => Ok(Found::Tool(Tool { path, version, how: wanted.variable.into() })),
            Err(why) => Err(format!(
                "{}={value}: {why}. Point it at a working {}, set it to `none` to do without, or unset it",
                wanted.variable, wanted.program
            )),
        };
    }
    let mut tried = vec![format!("{} is not set", wanted.variable)];
    for (path, how) in candidates(&file, env) {
        if !path.is_file() {
            continue;
        }
        match version(&path) {
            Ok(version) => return Ok(Found::Tool(Tool { path, version, how })),
            Err(why) => tried.push(format!("{} (through {how}): {why}", path.display())),
        }
    }
    tried.push("nothing usable in CUDA_HOME, CUDA_PATH, PATH, or the Python wheels beside them".into());
    Ok(Found::Nothing(tried))
}

/// Where the program may be, with what leads there.
fn candidates(file: &str, env: Environment<'_>) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(home) = env(variable) {
            found.push((Path::new(&home).join("bin").join(file), variable.to_owned()));
        }
    }
    let path = env("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
    found.extend(folders.iter().map(|folder| (folder.join(file), "PATH".to_owned())));

    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env).map(PathBuf::from);
    let user = env("HOME").map(|home| Path::new(&home).join(".local"));
    let beside = folders.iter().filter_map(|folder| folder.parent()).map(Path::to_owned);
    for prefix in environments.chain(user).chain(beside) {
        for packages in site_packages(&prefix) {
            for folder in WHEEL_FOLDERS {
                let program = packages.join("nvidia").join(folder).join("bin").join(file);
                found.push((program, format!("the wheel in {}", packages.display())));
            }
        }
    }
    found
}

/// The site-packages folders of a Python prefix.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let mut found = vec![prefix.join("Lib").join("site-packages")];
    for lib in ["lib", "lib64"] {
        for entry in std::fs::read_dir(prefix.join(lib)).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("python3") {
                found.push(entry.path().join("site-packages"));
                found.push(entry.path().join("dist-packages"));
            }
        }
    }
    found.sort();
    found
}

/// Asks the program for its version, and so whether it runs at all.
fn version(path: &Path) -> Result<String, String> {
    let output = match Command::new(path).arg("--version").output() {
        Ok(output) => output,
        Err(error) => return Err(format!("it does not start ({error})")),
    };
    if !output.status.success() {
        return Err(format!("`--version` failed ({}){}", output.status, first_line(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split(|c: char| c.is_whitespace() || c == ',').find_map(|word| {
        let number = word.strip_prefix('V')?;
        number.starts_with(|c: char| c.is_ascii_digit()).then(|| number.to_owned())
    });
    number.ok_or_else(|| {
        format!("`--version` does not answer as NVIDIA's tools do{}", first_line(&output.stdout))
    })
}

fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .find(|line| !line.trim().is_empty())
        .map_or(String::new(), |line| format!(": {}", line.trim()))
}

/// A kernel to assemble.
#[derive(Clone, Debug)]
pub struct Job {
    /// Kernel name.
    pub name: String,
    /// Its PTX.
    pub ptx: String,
    /// `-arch`.
    pub arch: String,
}

/// What `ptxas` made of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The cubin.
    pub cubin: Vec<u8>,
    /// Everything `ptxas -v` said.
    pub log: String,
}

/// Flags besides the architecture and the files. `-v` reports registers, spills and shared memory.
const FLAGS: [&str; 3] = ["-v", "--warn-on-spills", "--warn-on-local-memory-usage"];

/// A folder of cubins. Writing to it may fail; then kernels are assembled each time, which [`Cache::open`] says.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in `folder`, created if need be. The error is a warning to print: the build goes on without a cache.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let probe = folder.join(format!("probe-{}", std::process::id()));
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&probe, b""));
        match written {
            Ok(()) => {
                // Nothing depends on the probe; a leftover is an empty file.
                let _ = std::fs::remove_file(&probe);
                Ok(Self { folder: folder.to_owned() })
            }
            Err(error) => Err(format!(
                "the cubin cache {} cannot be written ({error}): kernels are assembled on every build. \
                 Set HADAL_CUBIN_CACHE to a folder that can be written",
                folder.display()
            )),
        }
    }

    fn file(&self, tool: &Tool, job: &Job, kind: &str) -> PathBuf {
        let key = [job.ptx.as_str(), &tool.version, &job.arch, &FLAGS.join(" ")].join("\0");
        self.folder.join(format!("{:032x}.{kind}", fnv128(key.as_bytes())))
    }

    fn read(&self, tool: &Tool, job: &Job) -> Option<Assembled> {
        let log = std::fs::read_to_string(self.file(tool, job, "log")).ok()?;
        let cubin = std::fs::read(self.file(tool, job, "cubin")).ok()?;
        Some(Assembled { cubin, log })
    }

    /// Stores what was assembled. The log goes last: an entry without one is not read.
    fn write(&self, tool: &Tool, job: &Job, assembled: &Assembled) -> std::io::Result<()> {
        for (kind, bytes) in [("cubin", assembled.cubin.as_slice()), ("log", assembled.log.as_bytes())] {
            let file = self.file(tool, job, kind);
            let partial = file.with_extension(format!("{kind}-{}", std::process::id()));
            std::fs::write(&partial, bytes)?;
            std::fs::rename(&partial, &file)?;
        }
        Ok(())
    }
}

/// FNV-1a over 128 bits: stable over Rust versions, which `std`'s hashers are not.
fn fnv128(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, &byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// Assembles every job, as many at a time as the machine has processors; results in the order of the jobs. An `Err` holds
/// what `ptxas` said. `scratch` is a folder for temporary files.
pub fn assemble(
    tool: &Tool,
    jobs: &[Job],
    scratch: &Path,
    cache: Option<&Cache>,
) -> Vec<Result<Assembled, String>> {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len().max(1));
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let Some((index, job)) = take(&next, jobs) {
                done.push((index, assemble_one(tool, job, scratch, cache)));
            }
            done
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("assembling does not panic")).collect()
    });
    results.sort_by_key(|&(index, _)| index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn take<'a>(next: &AtomicUsize, jobs: &'a [Job]) -> Option<(usize, &'a Job)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, jobs.get(index)?))
}

fn assemble_one(tool: &Tool, job: &Job, scratch: &Path, cache: Option<&Cache>) -> Result<Assembled, String> {
    if let Some(hit) = cache.and_then(|cache| cache.read(tool, job)) {
        return Ok(hit);
    }
    let source = scratch.join(format!("{}.ptx", job.name));
    let target = scratch.join(format!("{}-{}.cubin", job.name, std::process::id()));
    let io = |what: &str, path: &Path, error: std::io::Error| format!("{what} {}: {error}", path.display());
    std::fs::create_dir_all(scratch).map_err(|error| io("cannot create", scratch, error))?;
    std::fs::write(&source, &job.ptx).map_err(|error| io("cannot write", &source, error))?;
    let mut command = Command::new(&tool.path);
    command.arg(format!("-arch={}", job.arch)).args(FLAGS).arg("-o").arg(&target).arg(&source);
    let output = command.output().map_err(|error| io("cannot run", &tool.path, error))?;
    let log = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    if !output.status.success() {
        return Err(if log.trim().is_empty() { format!("{} failed ({})", tool, output.status) } else { log });
    }
    let cubin = std::fs::read(&target).map_err(|error| io("ptxas succeeded but wrote no", &target, error))?;
    if !cubin.starts_with(b"\x7fELF") {
        return Err(format!("{} wrote something that is not a cubin (no ELF header)", tool));
    }
    // A leftover in the scratch folder harms nobody.
    let _ = std::fs::remove_file(&target);
    let assembled = Assembled { cubin, log };
    if let Some(Err(error)) = cache.map(|cache| cache.write(tool, job, &assembled)) {
        // The cache is a convenience: without it the next build assembles again.
        eprintln!("the cubin cache did not take {}: {error}", job.name);
    }
    Ok(assembled)
}
