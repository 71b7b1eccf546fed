//! `hadal-emulator exec -- PROGRAM …`: runs a program written for a GPU on the emulator.
//!
//! The program asks its loader for `libcuda.so.1`, and for `libcudart.so.12` or `.13` if it was linked with `-cudart shared`. A
//! folder made for this one run holds those names as links to `libhadal_cuda.so` (crate `hadal-emulator-driver`) and comes
//! first on the library path; nothing outside the folder changes, and it is removed at the end. Compilers that would hand machine code to the driver leave their PTX where it can
//! be found: Triton's cache is a private one unless `TRITON_CACHE_DIR` names another, and CuTe DSL keeps its PTX and
//! machine code in the folder. Linux only.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What cargo calls the library.
const LIBRARY: &str = "libhadal_cuda.so";
/// What programs call it: as the driver, and as the runtime that stands on it.
const NAMES: [&str; 4] = ["libcuda.so.1", "libcuda.so", "libcudart.so.12", "libcudart.so.13"];
/// Names the library by its path, where it does not lie beside this program.
const OVERRIDE: &str = "HADAL_CUDA_LIBRARY";

/// The subcommand. The exit code is the program's.
pub fn run(arguments: &[String]) -> Result<ExitCode, String> {
    let arguments = match arguments.split_first() {
        Some((dashes, rest)) if dashes == "--" => rest,
        _ => arguments,
    };
    let (program, rest) = arguments.split_first().ok_or("exec: no program given")?;
    let library = library()?;
    let folder = Folder::new()?;
    for name in NAMES {
        link(&library, &folder.0.join(name))?;
    }
    let status = Command::new(program)
        .args(rest)
        .envs(environment(&folder.0, |name| std::env::var_os(name)))
        .status()
        .map_err(|error| format!("exec: {program}: {error}"))?;
    // A program ended by a signal has no code.
    Ok(ExitCode::from(status.code().map_or(101, |code| code as u8)))
}

/// The driver library: where the environment says, else beside this program, where cargo puts both.
fn library() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(OVERRIDE) {
        let path = PathBuf::from(path);
        return path.canonicalize().map_err(|error| format!("exec: {OVERRIDE}={}: {error}", path.display()));
    }
    let program =
        std::env::current_exe().map_err(|error| format!("exec: where this program lies: {error}"))?;
    library_beside(&program)
}

fn library_beside(program: &Path) -> Result<PathBuf, String> {
    let beside = program.parent().unwrap_or(Path::new("/")).join(LIBRARY);
    if beside.is_file() {
        return Ok(beside);
    }
    Err(format!(
        "exec: no {}: build it with `cargo build -p hadal-emulator-driver` in the same profile, or name it in {OVERRIDE}",
        beside.display()
    ))
}

/// What the program gets to see beside what this one was given.
fn environment(folder: &Path, get: impl Fn(&str) -> Option<OsString>) -> Vec<(&'static str, OsString)> {
    let list = |first: Vec<PathBuf>, name: &str| {
        let old = get(name).unwrap_or_default();
        let paths =
            first.into_iter().chain(std::env::split_paths(&old).filter(|p| !p.as_os_str().is_empty()));
        // A path that holds the separator came out of a list once already, or is the private folder's.
        std::env::join_paths(paths.collect::<Vec<_>>()).unwrap_or(old.clone())
    };
    let triton = get("TRITON_CACHE_DIR").map_or(folder.join("triton"), PathBuf::from);
    let cute = get("CUTE_DSL_DUMP_DIR").map_or(folder.join("cute"), PathBuf::from);
    let flag = OsString::from("1");
    vec![
        ("LD_LIBRARY_PATH", list(vec![folder.into()], "LD_LIBRARY_PATH")),
        ("HADAL_EMULATOR_PTX", list(vec![triton.clone(), cute.clone()], "HADAL_EMULATOR_PTX")),
        ("TRITON_CACHE_DIR", triton.into()),
        ("TRITON_LIBCUDA_PATH", folder.into()),
        ("CUTE_DSL_DUMP_DIR", cute.into()),
        ("CUTE_DSL_KEEP_PTX", flag.clone()),
        ("CUTE_DSL_KEEP_CUBIN", flag),
    ]
}

/// A folder for one run.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, String> {
        let base = std::env::temp_dir();
        for attempt in 0..1000 {
            let path = base.join(format!("hadal-emulator-{}-{attempt}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    // The dump folder must be there; Triton makes its own.
                    let made = std::fs::create_dir(path.join("cute"));
                    let folder = Folder(path);
                    made.map_err(|error| format!("exec: {}: {error}", folder.0.display()))?;
                    return Ok(folder);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(format!("exec: {}: {error}", path.display())),
            }
        }
        Err(format!("exec: {} is full of folders of earlier runs", base.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on its being gone.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(unix)]
fn link(library: &Path, name: &Path) -> Result<(), String> {
    std::os::unix::fs::symlink(library, name).map_err(|error| format!("exec: {}: {error}", name.display()))
}

#[cfg(not(unix))]
fn link(_library: &Path, _name: &Path) -> Result<(), String> {
    Err("exec: only Unix loaders take a library from a folder on a path".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_folder_comes_first_and_what_was_there_stays() {
        let given = |name: &str| match name {
            "LD_LIBRARY_PATH" => Some("/a:/b".into()),
            "TRITON_CACHE_DIR" => Some("/cache".into()),
            _ => None,
        };
        let environment = environment(Path::new("/private"), given);
        let get =
            |name: &str| environment.iter().find(|(n, _)| *n == name).unwrap().1.to_str().unwrap().to_owned();
        assert_eq!(get("LD_LIBRARY_PATH"), "/private:/a:/b");
        assert_eq!(get("TRITON_CACHE_DIR"), "/cache");
        assert_eq!(get("HADAL_EMULATOR_PTX"), "/cache:/private/cute");
    }

    #[test]
    fn a_missing_library_or_program_is_said() {
        assert!(run(&[]).unwrap_err().contains("no program"));
        assert!(run(&["--".into()]).unwrap_err().contains("no program"));
        let error = library_beside(Path::new("/nowhere/hadal-emulator")).unwrap_err();
        assert!(error.contains("cargo build -p hadal-emulator-driver"), "{error}");
    }
}
