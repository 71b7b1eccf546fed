//! Variables of the device by their host twins: addresses, sizes, copies.

use std::ffi::{c_int, c_void};

use crate::abi::{DevicePtr, Handle, In, Out};
use crate::error::{Error, Result};
use crate::runtime::calls::copy;
use crate::runtime::registry::variable;
use crate::runtime::runtime;

/// The address of `bytes` from an offset on, which the variable must hold.
fn inside(symbol: usize, bytes: usize, offset: usize) -> Result<usize> {
    let (address, size) = variable(symbol)?;
    match offset.checked_add(bytes) {
        Some(end) if end <= size => Ok(address as usize + offset),
        _ => Err(Error::invalid(format!("{bytes} bytes at offset {offset} of a variable of {size} bytes"))),
    }
}

runtime! {
    fn cudaGetSymbolAddress(address: Out<DevicePtr>, symbol: usize) {
        address.put(variable(symbol)?.0)
    }

    fn cudaGetSymbolSize(bytes: Out<usize>, symbol: usize) {
        bytes.put(variable(symbol)?.1)
    }

    fn cudaMemcpyToSymbol(symbol: usize, from: In<c_void>, bytes: usize, offset: usize, kind: c_int) {
        copy(Out::at_address(inside(symbol, bytes, offset)?), from, bytes, kind, 0)
    }

    fn cudaMemcpyToSymbolAsync(symbol: usize, from: In<c_void>, bytes: usize, offset: usize, kind: c_int,
                               stream: Handle) {
        copy(Out::at_address(inside(symbol, bytes, offset)?), from, bytes, kind, stream)
    }

    fn cudaMemcpyFromSymbol(to: Out<c_void>, symbol: usize, bytes: usize, offset: usize, kind: c_int) {
        copy(to, In::at_address(inside(symbol, bytes, offset)?), bytes, kind, 0)
    }

    fn cudaMemcpyFromSymbolAsync(to: Out<c_void>, symbol: usize, bytes: usize, offset: usize, kind: c_int,
                                 stream: Handle) {
        copy(to, In::at_address(inside(symbol, bytes, offset)?), bytes, kind, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::{cudaDeviceSynchronize, cudaMemcpy};
    use super::super::launch::{Dim3, cudaLaunchKernel};
    use super::super::registry::tests::registered;
    use super::super::registry::{__cudaInitModule, __cudaRegisterManagedVar, __cudaRegisterVar};
    use super::*;
    use crate::error::Code;

    const PTX: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .global .align 4 .b8 numbers[12] = {1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0};
.visible .global .attribute(.managed) .align 4 .u32 counter = 7;
.visible .entry count()
{
    .reg .u32 x;
    ld.global.u32 x, [counter];
    add.u32 x, x, 1;
    st.global.u32 [counter], x;
    ret;
}
.visible .entry refused()
{
    .reg .b32 r;
    wmma.nothing.b32 r, r;
    ret;
}";

    #[test]
    fn variables_are_found_by_their_host_twins() {
        let host = 0x5555_0000_2000;
        let binary = registered(PTX, c"count", host);
        let [numbers, counter] = [c"numbers", c"counter"].map(|name| In::of(&name.to_bytes_with_nul()[0]));
        __cudaRegisterVar(binary, host + 8, numbers, numbers, 0, 12, 0, 0);
        let mut place: DevicePtr = 0;
        __cudaRegisterManagedVar(binary, Out::of(&mut place), counter, counter, 0, 4, 0, 0);
        assert_eq!(__cudaInitModule(binary), 1);
        // SAFETY: managed memory of this process, in nobody's use before the launch and after the wait.
        let counted = || unsafe { (place as *const u32).read_volatile() };
        assert_eq!(counted(), 7);
        let one = Dim3 { x: 1, y: 1, z: 1 };
        let none = In::of(&In::of(&0u8));
        assert_eq!([cudaLaunchKernel(host, one, one, none, 0, 0), cudaDeviceSynchronize()], [0, 0]);
        assert_eq!(counted(), 8);

        let (mut address, mut bytes, mut word) = (0, 0, 9u32);
        let at = &raw mut word as usize;
        assert_eq!(cudaGetSymbolAddress(Out::of(&mut address), host + 8), 0);
        assert_eq!(cudaGetSymbolSize(Out::of(&mut bytes), host + 8), 0);
        assert_eq!(bytes, 12);
        assert_eq!(cudaMemcpyToSymbol(host + 8, In::at_address(at), 4, 4, 1), 0);
        // `cudaMemcpyDefault`: a variable is memory of the device.
        let mut all = [0u32; 3];
        let to = Out::at_address(all.as_mut_ptr() as usize);
        assert_eq!(cudaMemcpy(to, In::at_address(address as usize), 12, 4), 0);
        assert_eq!(all, [1, 9, 3]);
        assert_eq!(cudaMemcpyFromSymbol(to, host + 8, 4, 8, 4), 0);
        assert_eq!(all[0], 3);
        let beyond = cudaMemcpyFromSymbol(to, host + 8, 8, 8, 2);
        let unknown = cudaGetSymbolSize(Out::of(&mut bytes), host + 9);
        assert_eq!([beyond, unknown], [Code::InvalidValue as c_int, Code::InvalidSymbol as c_int]);
    }

    #[test]
    fn a_kernel_that_cannot_run_says_so_when_it_is_wanted() {
        let host = 0x5555_0000_3000;
        registered(PTX, c"refused", host);
        let one = Dim3 { x: 1, y: 1, z: 1 };
        let none = In::of(&In::of(&0u8));
        assert_eq!(cudaLaunchKernel(host, one, one, none, 0, 0), Code::InvalidPtx as c_int);
        let huge = Dim3 { x: 2000, ..one };
        registered(PTX, c"count", host + 1);
        assert_eq!(cudaLaunchKernel(host + 1, one, huge, none, 0, 0), Code::InvalidConfiguration as c_int);
    }
}
