//! The command line, behind feature `cli`.
//!
//! Four commands, few options: parsed by hand, which spares users of the library a dependency. Each command builds its whole
//! answer as text; it is written once, so that `| head` is not an error. Answers go to stdout, complaints to stderr with exit
//! status 1, wrong usage with status 2.

mod doctor;
mod list;
mod sass;

use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "\
hadal: FP8 kernels for Hopper in hand-written PTX

  hadal list                            the kernels: launch sizes, and whether a cubin is embedded
  hadal expand NAME [--origin]          a kernel's PTX; --origin says which template line wrote each line
  hadal sass [--json] [OPTION] [NAME…]  registers, spills, shared memory, and what the main loop costs (NAME: part of a name)
        --ptxas PATH --nvdisasm PATH    other tools than the ones found
  hadal doctor                          devices, driver and tools of this machine
";

/// Why a command did not do its work.
enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// Something it needs is missing or failed.
    Failed(String),
}

type Answer = Result<String, Failure>;

/// Runs the command line `arguments` (without the program's name).
pub fn run(arguments: Vec<String>) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match arguments.as_slice() {
        [] | ["help" | "--help" | "-h", ..] => Ok(USAGE.to_owned()),
        ["--version" | "-V"] => Ok(format!("hadal {}\n", env!("CARGO_PKG_VERSION"))),
        ["list"] => Ok(list::list()),
        ["expand", name] => list::expand(name, false),
        ["expand", name, "--origin"] | ["expand", "--origin", name] => list::expand(name, true),
        ["sass", options @ ..] => sass::sass(options),
        ["doctor"] => Ok(doctor::doctor()),
        [command, ..] => {
            Err(Failure::Usage(format!("`{command}` is not a command, or takes other arguments")))
        }
    };
    match answer {
        Ok(text) => {
            // A reader that closed the pipe has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Failure::Failed(message)) => {
            eprintln!("hadal: {message}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            eprint!("hadal: {message}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
