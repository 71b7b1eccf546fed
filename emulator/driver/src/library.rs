//! Libraries: modules that belong to no device until one of their kernels is used there.
//!
//! A kernel of a library stands wherever a function may; which device's function it is, the current context decides.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use hadal_emulator::ir;

use crate::abi::{DevicePtr, Handle, In, Out, Text, exports};
use crate::error::{Code, Error, Result, answered};
use crate::function::{cuFuncGetAttribute, cuFuncSetAttribute};
use crate::host;
use crate::module;
use crate::state::{self, Function, Kind, Module, State, handle, index};

/// A loaded library.
pub struct Library {
    ir: Arc<ir::Module>,
    /// Where its managed variables are, for all devices.
    managed: HashMap<String, u64>,
    /// Its module on each device where it is in use.
    modules: Vec<Option<usize>>,
    unloaded: bool,
}

/// A kernel of a library.
pub struct Kernel {
    library: usize,
    kernel: usize,
    /// The function it is on each device where it is in use.
    functions: Vec<Option<usize>>,
}

impl State {
    fn library(&self, library: Handle) -> Result<usize> {
        let found = index(Kind::Library, library)?;
        match self.libraries.get(found) {
            Some(library) if !library.unloaded => Ok(found),
            _ => Err(Error::new(Code::InvalidHandle, "the library was unloaded")),
        }
    }

    /// The library's module on a device.
    fn module_of(&mut self, library: usize, device: usize) -> Result<usize> {
        if let Some(module) = self.libraries[library].modules[device] {
            return Ok(module);
        }
        let Library { ir, managed, .. } = &self.libraries[library];
        let module = self.load_module(device, ir.clone(), &managed.clone())?;
        self.libraries[library].modules[device] = Some(module);
        Ok(module)
    }

    /// The function that a kernel is on a device.
    pub fn function_of(&mut self, kernel: Handle, device: usize) -> Result<usize> {
        let found = index(Kind::Kernel, kernel)?;
        let known = self.kernels.get(found).ok_or_else(|| Error::quiet(Code::InvalidHandle))?;
        let (library, kernel) = (known.library, known.kernel);
        if let Some(function) = known.functions[device] {
            return Ok(function);
        }
        let module = self.module_of(library, device)?;
        let Module { id, ref ir, .. } = self.modules[module];
        self.functions.push(Function {
            device,
            module: id,
            ir: ir.clone(),
            kernel,
            max_dynamic_shared: 0,
            large_clusters: false,
        });
        let function = self.functions.len() - 1;
        self.kernels[found].functions[device] = Some(function);
        Ok(function)
    }
}

/// A library of this PTX.
pub fn load(ir: Arc<ir::Module>) -> Result<Handle> {
    let managed = host::place_managed(&ir)?;
    let mut state = state::lock()?;
    let modules = vec![None; state.config.devices.len()];
    state.libraries.push(Library { ir, managed, modules, unloaded: false });
    Ok(handle(Kind::Library, state.libraries.len() - 1))
}

/// The library's kernel of that name.
pub fn kernel_named(library: Handle, name: &str) -> Result<Handle> {
    let mut state = state::lock()?;
    let library = state.library(library)?;
    let kernel = module::find(&state.libraries[library].ir, name)?;
    Ok(new_kernel(&mut state, library, kernel))
}

fn new_kernel(state: &mut State, library: usize, kernel: usize) -> Handle {
    let functions = vec![None; state.config.devices.len()];
    state.kernels.push(Kernel { library, kernel, functions });
    handle(Kind::Kernel, state.kernels.len() - 1)
}

/// Address and size of a library's variable on the current device.
pub fn find_global(library: Handle, name: &str, address: Out<DevicePtr>, bytes: Out<usize>) -> Result<()> {
    let device = state::current()?;
    let mut state = state::lock()?;
    let library = state.library(library)?;
    let module = state.module_of(library, device)?;
    module::global(&state, module, name, address, bytes)
}

/// The kernel as a function of that device.
fn function_on(kernel: Handle, device: c_int) -> Result<Handle> {
    let mut state = state::lock()?;
    let device = state.device(device)?;
    Ok(handle(Kind::Function, state.function_of(kernel, device)?))
}

exports! {
    /// Options of the library are hints: binaries are never preserved, and there is nothing to optimise.
    fn cuLibraryLoadData(library: Out<Handle>, image: In<c_void>, options: In<c_uint>, values: In<Out<c_void>>,
                         count: c_uint, _library_options: In<c_uint>, _library_values: In<Out<c_void>>,
                         _library_count: c_uint) {
        library.put(load(module::parse_with_log(image, count, options, values)?)?)
    }

    /// The machine keeps it; its handle is dead.
    fn cuLibraryUnload(library: Handle) {
        let mut state = state::lock()?;
        let library = state.library(library)?;
        state.libraries[library].unloaded = true;
        Ok(())
    }

    fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) {
        kernel.put(kernel_named(library, &name.text()?.to_string_lossy())?)
    }

    fn cuLibraryGetKernelCount(count: Out<c_uint>, library: Handle) {
        let state = state::lock()?;
        let library = state.library(library)?;
        count.put(state.libraries[library].ir.kernels.len() as c_uint)
    }

    fn cuLibraryEnumerateKernels(kernels: Out<Handle>, most: c_uint, library: Handle) {
        let mut state = state::lock()?;
        let library = state.library(library)?;
        let count = state.libraries[library].ir.kernels.len().min(most as usize);
        let all: Vec<_> = (0..count).map(|kernel| new_kernel(&mut state, library, kernel)).collect();
        kernels.put_all(&all)
    }

    fn cuLibraryGetModule(module: Out<Handle>, library: Handle) {
        let device = state::current()?;
        let mut state = state::lock()?;
        let library = state.library(library)?;
        module.put(handle(Kind::Module, state.module_of(library, device)?))
    }

    /// Managed variables count as globals too.
    fn cuLibraryGetManaged(address: Out<DevicePtr>, bytes: Out<usize>, library: Handle, variable: Text) {
        answered(cuLibraryGetGlobal(address, bytes, library, variable))
    }

    fn cuLibraryGetGlobal(address: Out<DevicePtr>, bytes: Out<usize>, library: Handle, variable: Text) {
        find_global(library, &variable.text()?.to_string_lossy(), address, bytes)
    }

    fn cuKernelGetFunction(function: Out<Handle>, kernel: Handle) {
        function.put(function_on(kernel, state::current()? as c_int)?)
    }

    fn cuKernelGetAttribute(value: Out<c_int>, attribute: c_int, kernel: Handle, device: c_int) {
        answered(cuFuncGetAttribute(value, attribute, function_on(kernel, device)?))
    }

    fn cuKernelSetAttribute(attribute: c_int, value: c_int, kernel: Handle, device: c_int) {
        answered(cuFuncSetAttribute(function_on(kernel, device)?, attribute, value))
    }
}
