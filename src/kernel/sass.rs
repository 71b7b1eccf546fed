//! Reads SASS.

use std::path::Path;
use std::process::Command;

use super::ptxas::Tool;

/// The SASS of a cubin as `nvdisasm` prints it.
pub fn disassemble(tool: &Tool, cubin: &[u8], name: &str, scratch: &Path) -> Result<String, String> {
    let file = scratch.join(format!("{name}-{}.sass.cubin", std::process::id()));
    let written = std::fs::create_dir_all(scratch).and_then(|()| std::fs::write(&file, cubin));
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let output = Command::new(&tool.path).arg("-c").arg(&file).output();
    // A leftover in the scratch folder harms nobody.
    let _ = std::fs::remove_file(&file);
    let output = output.map_err(|error| format!("cannot run {tool}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{tool} failed ({}): {}", output.status, said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How many `USETMAXREG` and GMMA instructions there are.
pub fn counts(sass: &str) -> (usize, usize) {
    let count = |name: &str| sass.lines().filter(|line| line.contains(name)).count();
    (count("USETMAXREG"), count("GMMA."))
}
