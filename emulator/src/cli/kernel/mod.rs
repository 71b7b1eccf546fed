//! `hadal-emulator run FILE.ptx` and `check FILE.ptx`: any kernel, its arguments from the command line or a TOML file.
//!
//! `run` executes a kernel once and prints what it left and what it did. `check` executes it under many schedules with every check
//! and prints each finding once, with the command that shows it again; an output that differs between two schedules is a finding too.

mod arguments;
mod check;
mod options;
mod show;
mod values;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use hadal_emulator::ir::Module;
use hadal_emulator::{Class, Counters, Launch, Machine, MachineConfig, Report};

use arguments::Buffer;
use options::Options;

/// What `help run` says.
pub const OPTIONS: &str = "\
usage: hadal-emulator run FILE.ptx [OPTION …]
       hadal-emulator check FILE.ptx [OPTION …]

  --entry NAME                the kernel; the only one, if there is but one
  --grid X[,Y[,Z]]            blocks; one, or one cluster
  --block X[,Y[,Z]]           threads of a block; may be left out where the PTX has .reqntid
  --cluster X[,Y[,Z]]         blocks of a cluster
  --shared BYTES              dynamic shared memory
  --arg KIND:VALUE            the next argument, in order:
      u32:7  s64:-1  f32:1.5  b32:0xff      a scalar: u8-u64, s8-s64, b8-b64, f16, bf16, f32, f64, e4m3, e5m2
      bytes:@FILE  bytes:0x01,0x02          a parameter of any size
      buf:1024  buf:f32:256                 memory nobody has written: bytes, or values of a type
      zero:1024  zero:f32:256               the same, all zero
      buf:f32:1,2,0*64  buf:u32:0..64       values, repeated values, a range
      buf:f32:random*256                    values in [-1, 1), the same at every run
      buf:@FILE  buf:f32:@FILE              a file's bytes
      out:f32:256                           memory nobody has written, printed after the run
      inout:f32:1,2,3  inout:f32:@FILE      memory with contents, printed after the run
      map:bf16:64x128:64x8:128:BUFFER       a tensor map: type, extents (innermost first), box, swizzle (none, 32, 64,
                                            128), and the buffer behind it, as above, or #N for that of argument N
  --args FILE.toml            options from a file, by the same names: grid = [4, 1, 1], json = true, args = [\"u32:7\", …]
  --device NAME               h100 (also h100-pcie, h200, h800, h20: they differ in SMs)
  --sms N                     SMs of the device
  --resident N                blocks resident at once (but always one cluster); as many as fit
  --schedule S                round-robin, random, starve (random, but one warp or block comes last), uneven (random, devices at
                              different speeds); `run`: round-robin, `check`: random, every fourth starve
  --completion C              when asynchronous copies land: eager, latest, random; `run`: latest, `check`: all in turn
  --seed N                    of random choices; `check`: of the first schedule
  --seeds N                   `check`: how many schedules, 20
  --limit N                   warp instructions after which a run is stopped, 200000000; 0: never
  --fast                      tensor cores in F32, not bit for bit
  --no-checks                 only what is always checked
  --json                      everything as one JSON object

exit code: 0 fine; 1 a finding; 2 the command line, or PTX that cannot be read or is not supported
";

/// Which way one execution goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    schedule: hadal_emulator::Schedule,
    completion: hadal_emulator::Completion,
    seed: u64,
}

/// What is left of a buffer.
struct Left {
    /// Of the argument that brought it.
    index: usize,
    buffer: Buffer,
    bytes: Vec<u8>,
    /// By element; for outputs only.
    written: Vec<bool>,
}

/// What one execution showed.
struct Outcome {
    fault: Option<Report>,
    advice: Vec<Report>,
    /// Every buffer, in the arguments' order; nothing after a fault.
    left: Vec<Left>,
    counters: Counters,
}

/// The PTX could not be used, or the launch: printed without the usage, exit code 2.
fn refused(options: &Options, error: &str) -> ExitCode {
    if options.json {
        print(&format!("{}\n", super::json::object(&[("error", super::json::quoted(error))])));
    }
    eprintln!("{error}");
    ExitCode::from(2)
}

/// All at once; a reader that has gone away is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Reads the PTX and finds the kernel's name.
fn load(options: &Options) -> Result<(Arc<Module>, usize), String> {
    let bytes = std::fs::read(&options.file).map_err(|error| format!("{}: {error}", options.file))?;
    let text = String::from_utf8_lossy(&bytes);
    let module = Module::parse(&options.file, &text).map_err(|error| error.to_string())?;
    let names = || module.kernels.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ");
    let index = match &options.entry {
        Some(name) => module
            .kernels
            .iter()
            .position(|kernel| kernel.name == *name)
            .ok_or_else(|| format!("{}: no kernel `{name}`; there are: {}", options.file, names()))?,
        None if module.kernels.len() == 1 => 0,
        None if module.kernels.is_empty() => {
            return Err(format!("{}: no kernel (.entry) in it", options.file));
        }
        None => return Err(format!("{}: which kernel? --entry one of: {}", options.file, names())),
    };
    Ok((Arc::new(module), index))
}

/// One execution, in a machine of its own.
fn execute(options: &Options, module: &Arc<Module>, index: usize, way: Way) -> Result<Outcome, String> {
    let kernel = &module.kernels[index];
    let Way { schedule, completion, seed } = way;
    let mut machine = Machine::new(MachineConfig { schedule, completion, seed, ..options.config.clone() });
    let block = options
        .block
        .or(kernel.reqntid)
        .ok_or_else(|| format!("{}: how many threads? --block X,Y,Z", kernel.name))?;
    let (params, addresses) = arguments::place(&mut machine, kernel, &options.arguments)?;
    let launch = Launch {
        grid: options.grid.or(options.cluster).or(kernel.cluster).unwrap_or([1; 3]),
        block,
        cluster: options.cluster,
        dynamic_shared: options.shared,
        params,
        ..Launch::default()
    };
    let loaded = machine.load_module(0, module.clone()).map_err(|e| e.to_string())?;
    let stream = machine.create_stream(0);
    machine
        .launch(stream, loaded, &kernel.name, &launch)
        .map_err(|error| format!("{}: launch: {error}", kernel.name))?;
    let fault = machine.synchronize(stream).err().map(|fault| *fault.report);
    let mut left = Vec::new();
    if fault.is_none() {
        for (index, (argument, address)) in options.arguments.iter().zip(addresses).enumerate() {
            let (Some(buffer), Some(address)) = (argument.buffer(), address) else { continue };
            let mut bytes = vec![0; buffer.bytes as usize];
            machine.read(address, &mut bytes).map_err(|e| e.to_string())?;
            let size = buffer.ty.bytes() as u64;
            let elements = if buffer.output { buffer.bytes / size } else { 0 };
            let written = (0..elements)
                .map(|i| machine.is_written(address + i * size, size).unwrap_or(false))
                .collect();
            left.push(Left { index, buffer: buffer.clone(), bytes, written });
        }
    }
    Ok(Outcome { fault, advice: machine.advice().to_vec(), left, counters: machine.counters(0) })
}

/// `hadal-emulator run`.
pub fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let options = Options::parse("run", arguments)?;
    let (module, index) = match load(&options) {
        Ok(loaded) => loaded,
        Err(error) => return Ok(refused(&options, &error)),
    };
    let way = options.way(0, false);
    let outcome = match execute(&options, &module, index, way) {
        Ok(outcome) => outcome,
        Err(error) => return Ok(refused(&options, &error)),
    };
    print(&if options.json {
        show::run_json(&options, &module.kernels[index], &outcome, way)
    } else {
        show::run_text(&options, &module.kernels[index], &outcome, way)
    });
    Ok(match outcome.fault {
        None => ExitCode::SUCCESS,
        Some(report) if report.class == Class::Unsupported => ExitCode::from(2),
        Some(_) => ExitCode::FAILURE,
    })
}

/// `hadal-emulator check`.
pub fn check(arguments: &[String]) -> Result<ExitCode, String> {
    let options = Options::parse("check", arguments)?;
    let (module, index) = match load(&options) {
        Ok(loaded) => loaded,
        Err(error) => return Ok(refused(&options, &error)),
    };
    let verdict = match check::check(&options, &module, index) {
        Ok(verdict) => verdict,
        Err(error) => return Ok(refused(&options, &error)),
    };
    print(&if options.json {
        show::check_json(&options, &module.kernels[index], &verdict)
    } else {
        show::check_text(&options, &module.kernels[index], &verdict)
    });
    Ok(if verdict.unsupported() {
        ExitCode::from(2)
    } else if verdict.count() > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
