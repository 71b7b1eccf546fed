//! Modules: loading, functions and variables by name.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use hadal_emulator::ir;

use crate::abi::{DevicePtr, Handle, In, Out, Text, exports};
use crate::error::{Code, Error, Result};
use crate::host;
use crate::image;
use crate::state::{self, Function, Kind, Module, State, handle, index};

/// `CU_JIT_ERROR_LOG_BUFFER` and its size.
const ERROR_LOG: [c_uint; 2] = [5, 6];

/// PTX as the machine takes it.
pub fn parse(name: &str, text: &str) -> Result<Arc<ir::Module>> {
    let parsed = ir::Module::parse(name, text).map_err(|e| Error::new(Code::InvalidPtx, e.to_string()))?;
    Ok(Arc::new(parsed))
}

fn parse_image(image: In<c_void>) -> Result<Arc<ir::Module>> {
    let (name, text) = image::ptx(image)?;
    parse(&name, &text)
}

fn load(ir: Arc<ir::Module>) -> Result<Handle> {
    let device = state::current()?;
    let managed = host::place_managed(&ir)?;
    let mut state = state::lock()?;
    Ok(handle(Kind::Module, state.load_module(device, ir, &managed)?))
}

/// The same, with the reason for a refusal in the log the caller may have asked for.
pub fn parse_with_log(
    image: In<c_void>,
    count: c_uint,
    options: In<c_uint>,
    values: In<Out<c_void>>,
) -> Result<Arc<ir::Module>> {
    parse_image(image).map_err(|error| {
        // A caller with a log wants the reason there, and only there.
        match log(&error, count, options, values) {
            Ok(true) => Error::quiet(error.code),
            _ => error,
        }
    })
}

fn log(error: &Error, count: c_uint, options: In<c_uint>, values: In<Out<c_void>>) -> Result<bool> {
    let ids = options.list(count as usize)?;
    let at = |id| ids.iter().position(|option| *option == id);
    let (Some(buffer), Some(size)) = (at(ERROR_LOG[0]), at(ERROR_LOG[1])) else { return Ok(false) };
    let buffer = values.at(buffer)?;
    // A size travels in the slot of a pointer.
    let room = values.at(size)?.address();
    if buffer.is_null() || room == 0 {
        return Ok(false);
    }
    let mut text: Vec<u8> = error.detail.bytes().filter(|byte| *byte != 0).take(room - 1).collect();
    text.push(0);
    buffer.fill_from(&text)?;
    Ok(true)
}

fn module(state: &State, module: Handle) -> Result<&Module> {
    let found = index(Kind::Module, module)?;
    state
        .modules
        .get(found)
        .filter(|m| !m.unloaded)
        .ok_or_else(|| Error::new(Code::InvalidHandle, "the module was unloaded"))
}

/// The place of a kernel among those of its module.
pub fn find(ir: &ir::Module, entry: &str) -> Result<usize> {
    ir.kernels.iter().position(|kernel| kernel.name == entry).ok_or_else(|| {
        let names: Vec<_> = ir.kernels.iter().map(|k| k.name.as_str()).collect();
        Error::new(Code::NotFound, format!("no kernel `{entry}` in the module; it has: {}", names.join(", ")))
    })
}

/// Address and size of a variable.
pub fn global(
    state: &State,
    module: usize,
    variable: &str,
    address: Out<DevicePtr>,
    bytes: Out<usize>,
) -> Result<()> {
    // Callers probe for variables that need not be there.
    let found = state.machine.global(state.modules[module].id, variable);
    let (at, size) = found.ok_or_else(|| Error::quiet(Code::NotFound))?;
    address.put_if_wanted(at);
    bytes.put_if_wanted(size as usize);
    Ok(())
}

fn name(text: Text) -> Result<String> {
    Ok(text.text()?.to_string_lossy().into_owned())
}

exports! {
    fn cuModuleLoadData(module: Out<Handle>, image: In<c_void>) {
        module.put(load(parse_image(image)?)?)
    }

    fn cuModuleLoadDataEx(module: Out<Handle>, image: In<c_void>, count: c_uint, options: In<c_uint>,
                          values: In<Out<c_void>>) {
        module.put(load(parse_with_log(image, count, options, values)?)?)
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, image: In<c_void>) {
        module.put(load(parse_image(image)?)?)
    }

    /// The machine keeps it; its handles are dead.
    fn cuModuleUnload(handle: Handle) {
        let mut state = state::lock()?;
        module(&state, handle)?;
        let found = index(Kind::Module, handle)?;
        state.modules[found].unloaded = true;
        Ok(())
    }

    fn cuModuleGetFunction(function: Out<Handle>, handle_of_module: Handle, entry: Text) {
        let entry = name(entry)?;
        let mut state = state::lock()?;
        let &Module { device, id, ref ir, .. } = module(&state, handle_of_module)?;
        let ir = ir.clone();
        let kernel = find(&ir, &entry)?;
        state.functions.push(Function { device, module: id, ir, kernel, max_dynamic_shared: 0, large_clusters: false });
        function.put(handle(Kind::Function, state.functions.len() - 1))
    }

    fn cuModuleGetFunctionCount(count: Out<c_uint>, handle: Handle) {
        let state = state::lock()?;
        count.put(module(&state, handle)?.ir.kernels.len() as c_uint)
    }

    fn cuModuleGetGlobal_v2(address: Out<DevicePtr>, bytes: Out<usize>, handle: Handle, variable: Text) {
        let variable = name(variable)?;
        let state = state::lock()?;
        module(&state, handle)?;
        global(&state, index(Kind::Module, handle)?, &variable, address, bytes)
    }

    fn cuModuleGetLoadingMode(mode: Out<c_int>) {
        // Eager.
        mode.put(1)
    }
}
