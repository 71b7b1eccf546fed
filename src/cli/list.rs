//! `hadal list` and `hadal expand`: what the build put into the library.

use std::fmt::Write;

use hadal::kernel;

use super::{Answer, Failure};

/// The kernels with what a launch of each takes.
pub fn list() -> String {
    let mut text =
        format!("{:<48} {:>7} {:>9} {:>9}  {}\n", "kernel", "threads", "registers", "shared B", "embedded");
    for kernel in kernel::all() {
        let row = kernel.row;
        let embedded = if kernel.cubin.is_some() { "cubin + PTX" } else { "PTX" };
        let sizes = format!("{:>7} {:>9} {:>9}", row.threads, row.registers, row.dynamic_shared);
        let _ = writeln!(text, "{:<48} {sizes}  {embedded}", row.name);
    }
    match kernel::assembler() {
        // From 13 on ptxas writes a kind of ELF that only drivers from 580 on load.
        Some(version) if !version.starts_with("12.") => {
            writeln!(
                text,
                "cubins assembled by ptxas {version}, for drivers from 580 on; older ones take the PTX"
            )
        }
        Some(version) => writeln!(text, "cubins assembled by ptxas {version}"),
        None => writeln!(text, "no ptxas at build time: the driver assembles the PTX"),
    }
    .expect("writing to a string");
    text
}

/// The PTX of the kernel `name`; with `origin`, each line behind the template line that wrote it.
pub fn expand(name: &str, origin: bool) -> Answer {
    let Some(kernel) = kernel::find(name) else {
        return Err(Failure::Failed(format!("there is no kernel `{name}`; `hadal list` names them")));
    };
    if !origin {
        return Ok(kernel.ptx.to_owned());
    }
    let mut text = String::new();
    for (index, line) in kernel.ptx.lines().enumerate() {
        let origin = kernel.line_map().origin(index + 1).map_or(String::new(), |origin| origin.to_string());
        let _ = writeln!(text, "{origin:<64} {line}");
    }
    Ok(text)
}
