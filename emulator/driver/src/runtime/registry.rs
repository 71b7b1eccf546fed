//! What a program says of its kernels before `main`: nvcc puts constructors into it that register each fat binary and each
//! function in it. A kernel is known to the program by the address of its host function, which is never called here.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use hadal_emulator::ir;

use crate::abi::{DevicePtr, Handle, In, Out, Text};
use crate::error::{Code, Error, Result};
use crate::runtime::runtime;
use crate::state::{Kind, index};
use crate::{abi, fat, library};

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
    /// Kernels that cannot run, and why: the others can.
    refused: HashMap<String, String>,
}

struct Function {
    binary: usize,
    name: String,
    kernel: Option<Handle>,
}

/// A variable of the device, known to the program by the address of its host twin.
#[derive(Clone)]
struct Variable {
    binary: usize,
    name: String,
}

/// A managed variable, whose address the program keeps in a place of its own.
struct Managed {
    binary: usize,
    name: String,
    place: Out<DevicePtr>,
}

// SAFETY: the place is a variable of the program, there for as long as it runs; it is written under the registry's lock.
unsafe impl Send for Managed {}

#[derive(Default)]
struct Registry {
    binaries: Vec<Binary>,
    /// By the address of the host function.
    functions: HashMap<usize, Function>,
    /// By the address of the host variable.
    variables: HashMap<usize, Variable>,
    managed: Vec<Managed>,
}

impl Registry {
    /// The library of a fat binary, loaded when first wanted.
    fn library(&mut self, binary: usize) -> Result<Handle> {
        let binary = &mut self.binaries[binary];
        let library = match (binary.library, &binary.ptx) {
            (Some(library), _) => library,
            (None, Ok(ptx)) => {
                let parsed = ir::Module::parse_each("fatbin.ptx", ptx);
                let (ir, refused) = parsed.map_err(|e| Error::new(Code::InvalidPtx, e.to_string()))?;
                binary.refused = refused.into_iter().map(|(name, why)| (name, why.to_string())).collect();
                library::load(Arc::new(ir))?
            }
            (None, Err(error)) => return Err(Error::new(error.code, error.detail.clone())),
        };
        binary.library = Some(library);
        Ok(library)
    }
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
    let function = registry.functions.get(&symbol).ok_or_else(|| {
        Error::new(
            Code::InvalidFunction,
            format!("no kernel was registered for the host function at {symbol:#x}"),
        )
    })?;
    if let Some(kernel) = function.kernel {
        return Ok(kernel);
    }
    let (binary, name) = (function.binary, function.name.clone());
    let library = registry.library(binary)?;
    if let Some(why) = registry.binaries[binary].refused.get(&name) {
        return Err(Error::new(Code::InvalidPtx, why.clone()));
    }
    let kernel = library::kernel_named(library, &name)?;
    if let Some(function) = registry.functions.get_mut(&symbol) {
        function.kernel = Some(kernel);
    }
    Ok(kernel)
}

/// Address and size, on the current device, of the variable that a program means.
pub fn variable(symbol: usize) -> Result<(DevicePtr, usize)> {
    let mut registry = registry();
    let Variable { binary, name } = registry.variables.get(&symbol).cloned().ok_or_else(|| {
        Error::new(
            Code::InvalidSymbol,
            format!("no variable was registered for the host address {symbol:#x}"),
        )
    })?;
    let library = registry.library(binary)?;
    let (mut address, mut bytes) = (0, 0);
    library::find_global(library, &name, Out::of(&mut address), Out::of(&mut bytes))?;
    Ok((address, bytes))
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
    registry.binaries.push(Binary { ptx, library: None, refused: HashMap::new() });
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

/// A program asks this before it first touches a managed variable.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaInitModule(binary: usize) -> c_char {
    let code = super::call("__cudaInitModule", || {
        let binary = number(binary)?;
        let mut registry = registry();
        let library = registry.library(binary)?;
        for managed in registry.managed.iter().filter(|managed| managed.binary == binary) {
            let (mut address, mut bytes) = (0, 0);
            library::find_global(library, &managed.name, Out::of(&mut address), Out::of(&mut bytes))?;
            managed.place.put(address)?;
        }
        Ok(())
    });
    (code == 0) as c_char
}

/// A fat binary's place, from its handle.
fn number(binary: usize) -> Result<usize> {
    binary.checked_sub(1).ok_or_else(|| Error::quiet(Code::InvalidHandle))
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
        let (name, binary) = (name.text()?.to_string_lossy().into_owned(), number(binary)?);
        registry().functions.insert(host, Function { binary, name, kernel: None });
        Ok(())
    });
}

// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterVar(
    binary: usize,
    host: usize,
    _device: Text,
    name: Text,
    _external: c_int,
    _bytes: usize,
    _constant: c_int,
    _global: c_int,
) {
    abi::guard("__cudaRegisterVar", || {
        let (name, binary) = (name.text()?.to_string_lossy().into_owned(), number(binary)?);
        registry().variables.insert(host, Variable { binary, name });
        Ok(())
    });
}

/// `place` is where the program keeps the variable's address.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterManagedVar(
    binary: usize,
    place: Out<DevicePtr>,
    _device: Text,
    name: Text,
    _external: c_int,
    _bytes: usize,
    _constant: c_int,
    _global: c_int,
) {
    abi::guard("__cudaRegisterManagedVar", || {
        let (name, binary) = (name.text()?.to_string_lossy().into_owned(), number(binary)?);
        registry().managed.push(Managed { binary, name, place });
        Ok(())
    });
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
    pub fn registered(ptx: &str, name: &CStr, host: usize) -> usize {
        let image = fat::tests::holding(ptx);
        let wrapper =
            Wrapper { magic: WRAPPER_MAGIC, version: 1, data: In::of(&image[0]), _file: In::null() };
        let binary = __cudaRegisterFatBinary(In::of(&wrapper));
        let none = In::null();
        let name = In::of(&name.to_bytes_with_nul()[0]);
        __cudaRegisterFunction(binary, host, name, name, -1, none, none, none, none, In::null());
        __cudaRegisterFatBinaryEnd(binary);
        binary
    }
}
