//! Functions by name, for programs that ask instead of linking.

use std::ffi::{c_int, c_void};

use crate::abi::{Export, Out, Text, exports};
use crate::error::{Code, Error, Result};

/// All files' functions.
const TABLES: [&[(&str, Export)]; 15] = [
    crate::error::EXPORTS,
    crate::device::EXPORTS,
    crate::context::EXPORTS,
    crate::module::EXPORTS,
    crate::library::EXPORTS,
    crate::function::EXPORTS,
    crate::memory::EXPORTS,
    crate::stream::EXPORTS,
    crate::event::EXPORTS,
    crate::launch::EXPORTS,
    crate::map::EXPORTS,
    crate::capture::EXPORTS,
    crate::graph::EXPORTS,
    crate::host::EXPORTS,
    EXPORTS,
];

/// Names that mean something else to a program written for this version of CUDA or a later one.
const RENAMED: [(&str, c_int, &str); 2] = [
    ("cuGraphInstantiate", 12000, "cuGraphInstantiateWithFlags"),
    ("cuStreamGetCaptureInfo", 12030, "cuStreamGetCaptureInfo_v3"),
];

/// Where a name leads. Names come without the suffix of their version; the newest is meant.
fn find(name: &str, version: c_int) -> Option<Export> {
    let renamed = RENAMED.iter().find(|(old, from, _)| *old == name && version >= *from);
    let name = renamed.map_or(name, |(_, _, new)| new);
    let exact = |wanted: &str| {
        TABLES.iter().copied().flatten().find(|(known, _)| *known == wanted).map(|(_, export)| *export)
    };
    ["_v2", ""].iter().find_map(|suffix| exact(&format!("{name}{suffix}")))
}

/// `CU_GET_PROC_ADDRESS_SUCCESS`, `…_SYMBOL_NOT_FOUND`.
const FOUND: c_int = 0;
const MISSING: c_int = 1;

fn look_up(name: Text, version: c_int, function: Out<*const c_void>) -> Result<bool> {
    let name = name.text()?.to_string_lossy();
    let found = find(&name, version);
    function.put(found.map_or(std::ptr::null(), |export| export.0.cast()))?;
    Ok(found.is_some())
}

exports! {
    fn cuGetProcAddress(name: Text, function: Out<*const c_void>, version: c_int, _flags: u64) {
        if look_up(name, version, function)? { Ok(()) } else { Err(Error::quiet(Code::NotFound)) }
    }

    fn cuGetProcAddress_v2(name: Text, function: Out<*const c_void>, version: c_int, _flags: u64, status: Out<c_int>) {
        let found = look_up(name, version, function)?;
        status.put_if_wanted(if found { FOUND } else { MISSING });
        if found { Ok(()) } else { Err(Error::quiet(Code::NotFound)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_a_name_is_found() {
        let named = |name: &str| find(name, 12000).map(|export| export.0);
        assert_eq!(named("cuMemAlloc"), Some(crate::memory::cuMemAlloc_v2 as *const ()));
        assert_eq!(named("cuMemAlloc_v2"), named("cuMemAlloc"));
        assert_eq!(named("cuInit"), Some(crate::device::cuInit as *const ()));
        assert_eq!(named("cuGetProcAddress"), Some(cuGetProcAddress_v2 as *const ()));
        assert_eq!(named("cuGraphInstantiate"), named("cuGraphInstantiateWithFlags"));
        assert_ne!(named("cuGraphInstantiate"), find("cuGraphInstantiate", 11040).map(|export| export.0));
        assert_eq!(named("cuTexObjectCreate"), None);
        let names: Vec<_> = TABLES.iter().copied().flatten().map(|(name, _)| *name).collect();
        assert!(names.len() > 100 && names.iter().all(|name| name.starts_with("cu")));
    }
}
