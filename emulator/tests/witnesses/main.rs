//! Kernels we did not write the instructions of, run on the emulator with every check on.
//!
//! Their PTX comes from other people's compilers given sources of ours; both are in
//! `tests/data/witnesses/`, each file beginning with its compiler's version. They are launched as their own hosts launch
//! them, fed random inputs, and every element of every output is compared with a reference in plain Rust that shares no
//! code with the emulator. Where the arithmetic of the kernel is exact (small integers in any format) results must agree
//! to the bit; elsewhere each element has a bound that follows from the format's precision and that element's own terms.

mod arith;
mod cuda;
mod launch;
mod mutations;
mod triton;
