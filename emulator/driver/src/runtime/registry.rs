//! What a program says of its kernels before `main`: nvcc puts constructors into it that register each fat binary and each
//! function in it. A kernel is known to the program by the address of its host function, which is never called here.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::abi::{Handle, In, Out, Text};
use crate::error::{Code, Error, Result};
use crate::runtime::runtime;
use crate::state::{Kind, index};
use crate::{abi, fat, library, module};

/// `__fatBinC_Wrapper_t` of `fatbinary_section.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Wrapper {
    magic: u32,
    version: c_int,
    data: In<u8>,
    _file: In<c_void>,
}

const WRAPPER_MAGIC: u32 = 0x4662_43b1;

struct Binary {
    /// Its PTX, or why there is none: said when a kernel is first wanted.
    ptx: Result<String>,
    library: Option<Handle>,
}

struct Function {
    binary: usize,
    name: String,
    kernel: Option<Handle>,
}

#[derive(Default)]
struct Registry {
    binaries: Vec<Binary>,
    /// By the address of the host function.
    functions: HashMap<usize, Function>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

fn registry() -> MutexGuard<'static, Registry> {
    // Plain data: a panic elsewhere leaves it whole.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kernel that a program means: by the address of its host function, or by its handle.
pub fn kernel(symbol: usize) -> Result<Handle> {
    if [Kind::Kernel, Kind::Function].iter().any(|kind| index(*kind, symbol).is_ok()) {
        return Ok(symbol);
    }
    let mut registry = registry();
    let Registry { binaries, functions } = &mut *registry;
    let function = functions.get_mut(&symbol).ok_or_else(|| {
        Error::new(
            Code::InvalidFunction,
            format!("no kernel was registered for the host function at {symbol:#x}"),
        )
    })?;
    if let Some(kernel) = function.kernel {
        return Ok(kernel);
    }
    let binary = &mut binaries[function.binary];
    let library = match (binary.library, &binary.ptx) {
        (Some(library), _) => library,
        (None, Ok(ptx)) => library::load(module::parse("fatbin.ptx", ptx)?)?,
        (None, Err(error)) => return Err(Error::new(error.code, error.detail.clone())),
    };
    binary.library = Some(library);
    let kernel = library::kernel_named(library, &function.name)?;
    function.kernel = Some(kernel);
    Ok(kernel)
}

fn register(wrapper: In<Wrapper>) -> Result<usize> {
    let Wrapper { magic, version, data, .. } = wrapper.get()?;
    let ptx = if magic == WRAPPER_MAGIC {
        fat::ptx(data)
    } else {
        let detail = format!("a fat binary wrapped by {magic:#x}, version {version}");
        Err(Error::new(Code::NoBinary, detail))
    };
    let mut registry = registry();
    registry.binaries.push(Binary { ptx, library: None });
    Ok(registry.binaries.len())
}

/// Called before `main`, when nothing may fail: the handle is the binary's number, from 1.
// SAFETY: the name is the CUDA runtime's own.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinary(wrapper: In<Wrapper>) -> usize {
    let mut number = 0;
    abi::guard("__cudaRegisterFatBinary", || {
        number = register(wrapper)?;
        Ok(())
    });
    number
}

// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinaryEnd(_binary: usize) {}

/// At the program's end, which takes everything with it.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaUnregisterFatBinary(_binary: usize) {}

/// Managed variables would begin here; there are none.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaInitModule(_binary: usize) -> c_char {
    1
}

// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFunction(
    binary: usize,
    host: usize,
    _device: Text,
    name: Text,
    _thread_limit: c_int,
    _thread: In<c_uint>,
    _block: In<c_uint>,
    _block_dim: In<c_uint>,
    _grid_dim: In<c_uint>,
    _warp: In<c_int>,
) {
    abi::guard("__cudaRegisterFunction", || {
        let name = name.text()?.to_string_lossy().into_owned();
        let binary = binary.checked_sub(1).ok_or_else(|| Error::quiet(Code::InvalidHandle))?;
        registry().functions.insert(host, Function { binary, name, kernel: None });
        Ok(())
    });
}

/// Programs register every variable of theirs; what would reach for one by its symbol is not served.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterVar(
    _binary: usize,
    _host: usize,
    _device: Text,
    _name: Text,
    _external: c_int,
    _bytes: usize,
    _constant: c_int,
    _global: c_int,
) {
}

runtime! {
    /// Once per launch site, before the launch.
    fn __cudaGetKernel(handle: Out<Handle>, symbol: usize) {
        handle.put(kernel(symbol)?)
    }

    fn cudaGetFuncBySymbol(handle: Out<Handle>, symbol: usize) {
        handle.put(kernel(symbol)?)
    }

    fn cudaGetKernel(handle: Out<Handle>, symbol: usize) {
        handle.put(kernel(symbol)?)
    }
}

#[cfg(test)]
pub mod tests {
    use std::ffi::CStr;

    use super::*;

    /// Registers PTX and one kernel of it under this address, as a program's constructors do.
    pub fn registered(ptx: &str, name: &CStr, host: usize) {
        let image = fat::tests::holding(ptx);
        let wrapper =
            Wrapper { magic: WRAPPER_MAGIC, version: 1, data: In::of(&image[0]), _file: In::null() };
        let binary = __cudaRegisterFatBinary(In::of(&wrapper));
        let none = In::null();
        let name = In::of(&name.to_bytes_with_nul()[0]);
        __cudaRegisterFunction(binary, host, name, name, -1, none, none, none, none, In::null());
        __cudaRegisterFatBinaryEnd(binary);
    }
}
