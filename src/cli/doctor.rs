//! `hadal doctor`: what this machine has, and what it would need.

use std::fmt::Write;

use hadal::kernel::{self, ptxas};

/// Devices, driver and tools, found or why not.
pub fn doctor() -> String {
    let mut text = format!("hadal {}\n", env!("CARGO_PKG_VERSION"));
    let kernels = kernel::all();
    let cubins = kernels.iter().filter(|kernel| kernel.cubin.is_some()).count();
    let by =
        kernel::assembler().map_or("no ptxas at build time".to_owned(), |version| format!("ptxas {version}"));
    let _ = writeln!(text, "kernels    {} built, {cubins} with a cubin ({by})", kernels.len());
    for wanted in [ptxas::PTXAS, ptxas::NVDISASM] {
        let _ = match ptxas::find(wanted, &ptxas::environment) {
            Ok(ptxas::Found::Tool(tool)) => writeln!(text, "{:<10} {tool}", wanted.program),
            Ok(ptxas::Found::Nothing(tried)) => {
                writeln!(text, "{:<10} not found: {}", wanted.program, tried.join("; "))
                    .and_then(|()| writeln!(text, "{:<10} optional; to get it: {}", "", wanted.install))
            }
            Err(why) => writeln!(text, "{:<10} {why}", wanted.program),
        };
    }
    text
}
