//! What a program launched, for a person or a script to look at afterwards: `HADAL_EMULATOR_KEEP` names a folder. It gets the PTX
//! of each module that a kernel was launched from, and a file `launches`, a line for each launch: the PTX's file, the entry, then
//! grid, block and cluster as the launch had them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use hadal_emulator::{Launch, ir};

use crate::error::{Code, Error, Result};
use crate::settings;

static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(settings::keep_folder);
/// Files written, by the address of the module: no module is ever dropped.
static WRITTEN: LazyLock<Mutex<HashMap<usize, String>>> = LazyLock::new(Mutex::default);

/// Notes a launch, if anybody asked.
pub fn launched(module: &ir::Module, entry: &str, launch: &Launch) -> Result<()> {
    let Some(folder) = &*FOLDER else { return Ok(()) };
    note(folder, module, entry, launch).map_err(|error| {
        Error::new(Code::Unknown, format!("HADAL_EMULATOR_KEEP={}: {error}", folder.display()))
    })
}

fn note(folder: &Path, module: &ir::Module, entry: &str, launch: &Launch) -> std::io::Result<()> {
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = match written.entry(std::ptr::from_ref(module) as usize) {
        Entry::Occupied(name) => name.into_mut(),
        Entry::Vacant(place) => {
            let text = module.text.join("\n");
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            let name = format!("{:016x}.ptx", hasher.finish());
            std::fs::create_dir_all(folder)?;
            std::fs::write(folder.join(&name), text)?;
            place.insert(name)
        }
    };
    let mut launches = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("launches"))?;
    let extent = |[x, y, z]: [u32; 3]| format!("{x}x{y}x{z}");
    let cluster = launch.cluster.map_or("1x1x1".into(), extent);
    // One write, so that lines of several processes do not mix.
    let line = format!("{name} {entry} {} {} {cluster}\n", extent(launch.grid), extent(launch.block));
    launches.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_kept_once_and_every_launch_is_noted() {
        let folder = std::env::temp_dir().join(format!("hadal-emulator-keep-{}", std::process::id()));
        let text = ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry none() { ret; }";
        let module = ir::Module::parse("none.ptx", text).unwrap();
        let plain = Launch { grid: [2, 1, 1], block: [32, 1, 1], ..Launch::default() };
        note(&folder, &module, "none", &plain).unwrap();
        note(&folder, &module, "none", &Launch { cluster: Some([2, 1, 1]), ..plain }).unwrap();
        let launches = std::fs::read_to_string(folder.join("launches")).unwrap();
        let lines: Vec<_> = launches.lines().map(|line| line.split_once(' ').unwrap()).collect();
        assert_eq!(lines[0].1, "none 2x1x1 32x1x1 1x1x1");
        assert_eq!(lines[1].1, "none 2x1x1 32x1x1 2x1x1");
        assert_eq!(std::fs::read_to_string(folder.join(lines[0].0)).unwrap(), text);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
