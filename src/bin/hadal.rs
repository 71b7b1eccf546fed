//! The `hadal` command: what is in the library, what its kernels cost, and whether this machine can run them.

#[path = "../cli/mod.rs"]
mod cli;

fn main() -> std::process::ExitCode {
    cli::run(std::env::args().skip(1).collect())
}
