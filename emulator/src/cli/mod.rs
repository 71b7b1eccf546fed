//! The `hadal-emulator` command: one file per subcommand, arguments parsed by hand.
//!
//! A subcommand takes its arguments and returns the exit code: 0 for "as it should be", 1 for "found something", 2 for "could not
//! do what was asked".

mod coverage;
mod exec;
mod json;
mod kernel;

use std::process::ExitCode;

const USAGE: &str = "\
usage: hadal-emulator COMMAND …

  run FILE.ptx [OPTION …]
        run a kernel once; print its outputs and what it did
  check FILE.ptx [OPTION …]
        run it under many schedules with every check; print what is wrong with it
        `hadal-emulator help run` lists the options of both
  coverage FILE [--isa DIR] [--json]
        run the instruction tests and list which forms of FILE (one a line) none of them covers
  exec -- PROGRAM [ARGUMENT …]
        run a CUDA program on the emulator; HADAL_EMULATOR_DEVICES, _CHECKS, _TENSOR, _SCHEDULE, _COMPLETION, _SEED,
        _LIMIT, _PTX and _KEEP choose the machine and what it leaves (crate hadal-emulator-driver)
";

/// Runs the command line; the program's name is already gone.
pub fn run(arguments: Vec<String>) -> ExitCode {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("", &[][..]),
    };
    let result = match command {
        "coverage" => coverage::run(rest),
        "exec" => exec::run(rest),
        "run" => kernel::run(rest),
        "check" => kernel::check(rest),
        "help" | "--help" | "-h" if rest.first().is_some_and(|about| about == "run" || about == "check") => {
            print!("{}", kernel::OPTIONS);
            return ExitCode::SUCCESS;
        }
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        "" => Err("no command given".to_string()),
        other => Err(format!("no command `{other}`")),
    };
    result.unwrap_or_else(|message| {
        eprintln!("hadal-emulator: {message}\n\n{USAGE}");
        ExitCode::from(2)
    })
}
