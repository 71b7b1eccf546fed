//! What `cuModuleLoadData` is given: PTX, or something the emulator has to find the PTX of.
//!
//! Images come without a length: PTX ends with a NUL, machine code says its own length in its ELF headers. Machine code
//! cannot be emulated, yet compilers that make it leave the PTX beside it: Triton in its cache, CuTe DSL in its dump folder.
//! `HADAL_EMULATOR_PTX` names such folders. A file there with exactly the image's bytes, and a file of the same name
//! ending in `.ptx` beside it, settle which PTX it was made from; names of kernels would not, since one source compiled
//! for several shapes gives the same name each time.

use std::ffi::c_void;
use std::path::{Path, PathBuf};

use crate::abi::In;
use crate::error::{Code, Error, Result};
use crate::{fat, settings};

const ELF: &[u8] = b"\x7fELF";
/// Files deeper in a folder than this are not looked at.
const DEPTH: u32 = 8;

/// The PTX of an image and what to call it in reports.
pub fn ptx(image: In<c_void>) -> Result<(String, String)> {
    let image = image.bytes();
    let mut first = Vec::new();
    for i in 0..4 {
        first.push(image.at(i)?);
        // Text may be shorter than a magic number.
        if first[i] == 0 {
            break;
        }
    }
    if first == ELF {
        let bytes = image.slice(elf_length(image)?)?;
        return known(bytes, &settings::ptx_folders());
    }
    if first == fat::MAGIC {
        return Ok(("fatbin.ptx".into(), fat::ptx(image)?));
    }
    let text = image.text()?.to_str().map_err(|error| {
        Error::new(Code::InvalidPtx, format!("the image is neither machine code nor text: {error}"))
    })?;
    Ok(("module.ptx".into(), text.into()))
}

/// A little-endian number of `bytes` bytes.
fn number(image: In<u8>, at: usize, bytes: usize) -> Result<u64> {
    (0..bytes).rev().try_fold(0, |value, i| Ok(value << 8 | image.at(at + i)? as u64))
}

/// Where a 64-bit ELF file ends: after its sections and both of its tables.
fn elf_length(image: In<u8>) -> Result<usize> {
    let table = |offset: usize, entry: usize, count: usize| -> Result<(u64, u64, u64)> {
        Ok((number(image, offset, 8)?, number(image, entry, 2)?, number(image, count, 2)?))
    };
    let (segments, segment_size, segment_count) = table(0x20, 0x36, 0x38)?;
    let (sections, section_size, section_count) = table(0x28, 0x3a, 0x3c)?;
    let mut end =
        64.max(segments + segment_size * segment_count).max(sections + section_size * section_count);
    for i in 0..section_count {
        let header = (sections + i * section_size) as usize;
        // SHT_NOBITS sections take no room in the file.
        if number(image, header + 4, 4)? != 8 {
            end = end.max(number(image, header + 0x18, 8)? + number(image, header + 0x20, 8)?);
        }
    }
    Ok(end as usize)
}

/// The PTX beside a file with these bytes.
fn known(bytes: &[u8], folders: &[PathBuf]) -> Result<(String, String)> {
    let hint = if folders.is_empty() {
        "name the folders that hold both in HADAL_EMULATOR_PTX".to_owned()
    } else {
        let list: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
        format!(
            "HADAL_EMULATOR_PTX has no file with these bytes that has a .ptx beside it: {}",
            list.join(":")
        )
    };
    for folder in folders {
        if let Some(path) = search(bytes, folder, DEPTH) {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Error::new(Code::InvalidPtx, format!("{}: {error}", path.display())))?;
            return Ok((path.display().to_string(), text));
        }
    }
    Err(Error::new(
        Code::NoBinary,
        format!("machine code of {} bytes: the emulator runs PTX; {hint}", bytes.len()),
    ))
}

fn search(bytes: &[u8], folder: &Path, depth: u32) -> Option<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if depth > 0
                && let Some(found) = search(bytes, &path, depth - 1)
            {
                return Some(found);
            }
            continue;
        }
        let ptx = path.with_extension("ptx");
        let same_length = path.metadata().is_ok_and(|meta| meta.len() == bytes.len() as u64);
        if same_length && path != ptx && ptx.is_file() && std::fs::read(&path).is_ok_and(|file| file == bytes)
        {
            return Some(ptx);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_is_known_by_its_bytes_and_not_by_its_name() {
        let folder = std::env::temp_dir().join(format!("hadal-emulator-driver-{}", std::process::id()));
        let inner = folder.join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        for (name, text) in [
            ("one.cubin", "11"),
            ("one.ptx", "first"),
            ("two.cubin", "22"),
            ("two.ptx", "second"),
            ("alone.cubin", "33"),
        ] {
            std::fs::write(inner.join(name), text).unwrap();
        }
        let folders = [folder.clone()];
        assert_eq!(known(b"22", &folders).unwrap().1, "second");
        assert_eq!(known(b"11", &folders).unwrap().1, "first");
        assert_eq!(known(b"33", &folders).unwrap_err().code, Code::NoBinary);
        assert!(known(b"22", &[]).unwrap_err().detail.contains("HADAL_EMULATOR_PTX"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
