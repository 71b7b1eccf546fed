//! The CUDA driver's C interface on the emulator, so that programs written for a GPU run on the CPU as they are.
//!
//! A program that opens `libcuda.so.1` finds this library instead when it is started by `hadal-emulator exec -- PROGRAM`.
//! One emulated machine serves the process; `settings` lists what the environment may choose. Kernels come as PTX, which
//! is what the machine runs; machine code (a cubin) is refused, unless its PTX lies beside it in a folder named by
//! `HADAL_EMULATOR_PTX` (see `image`).
//!
//! The machine runs on the calling thread and only inside calls that wait, so every launch is checked at once and runs
//! later. What a kernel does wrong is printed once, in full, on standard error, and comes back as the error code a GPU
//! would have given, from that call and from all later ones.
//!
//! Limits: what Triton's launcher and thin hosts like hadal's own `cuda` backend call, and graphs. No virtual memory
//! management, no textures, no export tables (so none of NVIDIA's runtimes: `runtime` stands in for the shared one); such a
//! call is missing or says `CUDA_ERROR_NOT_SUPPORTED`. Modules are never unloaded. Types and numbers are those of `cuda.h`, CUDA 12.

mod abi;
mod capture;
mod context;
mod device;
mod error;
mod event;
mod fat;
mod function;
mod graph;
mod host;
mod image;
mod keep;
mod launch;
mod library;
mod map;
mod memory;
mod module;
mod runtime;
mod settings;
mod state;
mod stream;
mod symbols;
