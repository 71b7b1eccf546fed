//! The CUDA runtime's C interface (`libcudart`), for programs linked with `-cudart shared`.
//!
//! NVIDIA's own runtime does not run on a driver of others: it asks `cuGetExportTable` for tables that are in no manual, and
//! stops when it gets none (13.5 asks for 6bd5fb6c-5bf4-e74a-8987-d93912fd9df9 before its first allocation). So what a program
//! calls is served here instead, by the manual of the runtime and by what nvcc's headers (`crt/host_runtime.h`) make programs
//! call at their start. `hadal-emulator exec` puts this library in `libcudart`'s place too. A statically linked runtime never
//! comes here.
//!
//! Everything is the driver's doing: a call makes the primary context current, as the runtime does at first use, and goes on
//! to the driver's function. Numbers of errors, attributes and launch attributes are the same in both.
//!
//! Limits: no arrays, textures and surfaces, no sharing with other processes and graphics; `refused` lists what only says so.

mod calls;
mod device;
mod graph;
mod launch;
mod pitched;
mod pools;
mod refused;
mod registry;
mod symbols;

use std::cell::Cell;
use std::ffi::c_int;

use crate::context::cuDevicePrimaryCtxRetain;
use crate::error::{Code, Result, answered};
use crate::state::{self, CONTEXTS};
use crate::{abi, abi::Out};

thread_local! {
    /// What the last call that failed said.
    static LAST: Cell<c_int> = const { Cell::new(0) };
}

/// Makes a primary context current where none is.
fn enter() -> Result<()> {
    state::initialise()?;
    if CONTEXTS.with_borrow(|stack| stack.last().copied().flatten()).is_none() {
        use_device(0)?;
    }
    Ok(())
}

fn use_device(device: c_int) -> Result<()> {
    let found = state::lock()?.device(device)?;
    let mut context = 0;
    answered(cuDevicePrimaryCtxRetain(Out::of(&mut context), device))?;
    CONTEXTS.with_borrow_mut(|stack| {
        stack.pop();
        stack.push(Some(found));
    });
    Ok(())
}

/// One call: in a context, no panic into C, its error kept.
fn call(name: &'static str, body: impl FnOnce() -> Result<()>) -> c_int {
    let code = abi::guard(name, || enter().and_then(|()| body()));
    // A stream or event that is not ready is an answer, not an error.
    if code != 0 && code != Code::NotReady as c_int {
        LAST.set(code);
    }
    code
}

/// Exports functions of the runtime under their C names.
macro_rules! runtime {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        // SAFETY: the name is the CUDA runtime's own, which is what this library stands in for.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $type),*) -> std::ffi::c_int {
            $crate::runtime::call(stringify!($name), move || $body)
        }
    )*};
}
use runtime;

#[cfg(test)]
mod tests {
    use super::calls::*;
    use super::launch::{Dim3, cudaLaunchKernel};
    use super::registry::{__cudaGetKernel, tests::registered};
    use super::*;
    use crate::abi::In;

    const ADD: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry add(.param .u64 values, .param .u32 amount)
{
    .reg .b32 i, x, y;
    .reg .b64 at;
    mov.u32 i, %tid.x;
    ld.param.u64 at, [values];
    ld.param.u32 y, [amount];
    mad.wide.u32 at, i, 4, at;
    ld.global.u32 x, [at];
    add.u32 x, x, y;
    st.global.u32 [at], x;
    ret;
}";
    /// `cudaMemcpyDefault`.
    const DEFAULT: c_int = 4;

    #[test]
    fn a_program_s_kernel_is_found_by_its_host_function_and_by_its_handle() {
        let host = 0x5555_0000_1234;
        registered(ADD, c"add", host);
        let mut kernel = 0;
        assert_eq!(__cudaGetKernel(Out::of(&mut kernel), host), 0);
        let mut address = 0u64;
        assert_eq!(cudaMalloc(Out::of(&mut address), 128), 0);
        assert_eq!(cudaMemset(address, 1, 128), 0);
        let amount = 2u32;
        let params = [In::of(&address).cast(), In::of(&amount).cast()];
        for symbol in [host, kernel] {
            let [grid, block] = [1, 32].map(|x| Dim3 { x, y: 1, z: 1 });
            assert_eq!(cudaLaunchKernel(symbol, grid, block, In::of(&params[0]), 0, 0), 0);
        }
        let mut out = [0u32; 32];
        assert_eq!(cudaMemcpy(Out::of(&mut out).cast(), In::at_address(address as usize), 128, DEFAULT), 0);
        assert_eq!(out, [0x0101_0105; 32]);
        assert_eq!(cudaFree(address), 0);
    }

    #[test]
    fn an_error_is_remembered_until_it_is_asked_for() {
        let mut kernel = 0;
        assert_eq!(__cudaGetKernel(Out::of(&mut kernel), 0x5555_0000_9999), Code::InvalidFunction as c_int);
        assert_eq!([cudaPeekAtLastError(), cudaGetLastError(), cudaGetLastError()], [98, 98, 0]);
    }
}
