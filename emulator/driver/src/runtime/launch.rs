//! The runtime's launches. `kernel<<<…>>>(…)` becomes four calls: push the configuration, get the kernel, pop, launch.

use std::cell::RefCell;
use std::ffi::{c_int, c_uint};

use crate::abi::{Handle, In, Out};
use crate::error::{Code, Error, Result, answered};
use crate::function::{
    cuFuncGetAttribute, cuFuncSetAttribute, cuOccupancyMaxActiveBlocksPerMultiprocessor,
    cuOccupancyMaxActiveClusters,
};
use crate::launch::{Config, cuLaunchCooperativeKernel, cuLaunchKernel, cuLaunchKernelEx};
use crate::runtime::registry::kernel;
use crate::runtime::{LAST, runtime};

/// `dim3`, which travels by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Dim3 {
    pub x: c_uint,
    pub y: c_uint,
    pub z: c_uint,
}

type Pushed = (Dim3, Dim3, usize, Handle);

thread_local! {
    static CONFIGURATIONS: RefCell<Vec<Pushed>> = const { RefCell::new(Vec::new()) };
}

/// The driver's launches say it in 32 bits.
fn bytes(shared: usize) -> Result<c_uint> {
    shared.try_into().map_err(|_| Error::invalid(format!("{shared} bytes of dynamic shared memory")))
}

fn launch(
    symbol: usize,
    grid: Dim3,
    block: Dim3,
    params: In<In<u8>>,
    shared: usize,
    stream: Handle,
) -> Result<()> {
    if symbol == 0 && LAST.get() != 0 {
        // `__cudaGetKernel` said why there is no kernel.
        return answered(LAST.get());
    }
    let (function, shared) = (kernel(symbol)?, bytes(shared)?);
    check(grid, block)?;
    answered(cuLaunchKernel(
        function,
        grid.x,
        grid.y,
        grid.z,
        block.x,
        block.y,
        block.z,
        shared,
        stream,
        params,
        In::null(),
    ))
}

/// Extents that no device has are an error of their own for the runtime.
fn check(grid: Dim3, block: Dim3) -> Result<()> {
    let blocks =
        grid.x.min(grid.y).min(grid.z) > 0 && grid.x <= i32::MAX as u32 && grid.y.max(grid.z) <= 65_535;
    let threads = [block.x, block.y, block.z].iter().map(|d| *d as u64).product::<u64>();
    if blocks && (1..=1024).contains(&threads) && block.z <= 64 {
        return Ok(());
    }
    let [g, b] = [grid, block].map(|Dim3 { x, y, z }| format!("({x}, {y}, {z})"));
    Err(Error::new(Code::InvalidConfiguration, format!("a grid of {g} blocks of {b} threads")))
}

/// `cudaFuncAttributes` of CUDA 12 and 13.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FuncAttributes {
    sizes: [usize; 3],
    numbers: [c_int; 30],
}

runtime! {
    fn __cudaPushCallConfiguration(grid: Dim3, block: Dim3, shared: usize, stream: Handle) {
        CONFIGURATIONS.with_borrow_mut(|all| all.push((grid, block, shared, stream)));
        Ok(())
    }

    fn __cudaPopCallConfiguration(grid: Out<Dim3>, block: Out<Dim3>, shared: Out<usize>, stream: Out<Handle>) {
        let pushed = CONFIGURATIONS.with_borrow_mut(Vec::pop);
        let (a, b, c, d) = pushed.ok_or_else(|| Error::invalid("no launch configuration was pushed"))?;
        grid.put(a)?;
        block.put(b)?;
        shared.put(c)?;
        stream.put(d)
    }

    fn __cudaLaunchKernel(kernel: usize, grid: Dim3, block: Dim3, params: In<In<u8>>, shared: usize, stream: Handle) {
        launch(kernel, grid, block, params, shared, stream)
    }

    fn cudaLaunchKernel(symbol: usize, grid: Dim3, block: Dim3, params: In<In<u8>>, shared: usize, stream: Handle) {
        launch(symbol, grid, block, params, shared, stream)
    }

    fn cudaLaunchCooperativeKernel(symbol: usize, grid: Dim3, block: Dim3, params: In<In<u8>>, shared: usize,
                                   stream: Handle) {
        let (function, shared) = (kernel(symbol)?, bytes(shared)?);
        check(grid, block)?;
        answered(cuLaunchCooperativeKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, stream, params))
    }

    /// `cudaLaunchConfig_t` is the driver's structure, but for the shared memory's size, which has eight bytes: four of them
    /// are the driver's padding.
    fn cudaLaunchKernelExC(config: In<Config>, symbol: usize, params: In<In<u8>>) {
        answered(cuLaunchKernelEx(config, kernel(symbol)?, params, In::null()))
    }

    fn cudaFuncSetAttribute(symbol: usize, attribute: c_int, value: c_int) {
        answered(cuFuncSetAttribute(kernel(symbol)?, attribute, value))
    }

    fn cudaFuncGetAttributes(attributes: Out<FuncAttributes>, symbol: usize) {
        let function = kernel(symbol)?;
        let get = |attribute| {
            let mut value = 0;
            answered(cuFuncGetAttribute(Out::of(&mut value), attribute, function))?;
            Ok::<_, Error>(value)
        };
        // Shared, constant, local bytes; threads, registers, PTX and machine code versions, cache mode, dynamic shared bytes,
        // carve-out; what the kernel says of clusters. The rest is reserved.
        let mut numbers = [0; 30];
        for (number, attribute) in numbers.iter_mut().zip([0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 14]) {
            *number = get(attribute)?;
        }
        let sizes = [get(1)? as usize, get(2)? as usize, get(3)? as usize];
        attributes.put(FuncAttributes { sizes, numbers })
    }

    fn cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<c_int>, symbol: usize, threads: c_int, shared: usize) {
        answered(cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel(symbol)?, threads, shared))
    }

    fn cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: Out<c_int>, symbol: usize, threads: c_int,
                                                              shared: usize, _flags: c_uint) {
        answered(cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel(symbol)?, threads, shared))
    }

    fn cudaOccupancyMaxActiveClusters(clusters: Out<c_int>, symbol: usize, config: In<Config>) {
        answered(cuOccupancyMaxActiveClusters(clusters, kernel(symbol)?, config))
    }

    fn cudaLaunchHostFunc(stream: Handle, function: Option<extern "C" fn(*mut std::ffi::c_void)>,
                          data: *mut std::ffi::c_void) {
        if function.is_none() {
            return Err(Error::quiet(Code::InvalidValue));
        }
        answered(crate::launch::cuLaunchHostFunc(stream, function, data))
    }
}
