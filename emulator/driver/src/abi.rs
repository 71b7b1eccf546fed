//! What crosses the boundary: places to write to, things to read, text; and the guard around every exported function.
//!
//! A C caller's pointers are trusted exactly as `cuda.h` says and no further: a null where a value is expected is an error
//! code, never a crash. The wrappers below have no constructor besides the C call itself, so the promise each `unsafe`
//! leans on is always the one the caller made by calling.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{self, Code, Error, Result};

/// An opaque handle; a number of ours, never a pointer to anything.
pub type Handle = usize;
/// `CUdeviceptr`.
pub type DevicePtr = u64;

/// A place the caller wants a value put into.
#[repr(transparent)]
pub struct Out<T>(*mut T);

// Whatever `T` is: only its address is copied.
impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Writes the value; null is an invalid argument.
    pub fn put(self, value: T) -> Result<()> {
        if self.0.is_null() {
            return Err(Error::invalid("a null pointer where a result goes"));
        }
        // SAFETY: the C caller passed a place for one `T`; unaligned places occur in packed structures.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes the value unless the caller did not want it.
    pub fn put_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as above.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn is_multiple_of(self, bytes: usize) -> bool {
        (self.0 as usize).is_multiple_of(bytes)
    }
}

impl<T: Copy> Out<T> {
    /// What is there before anything is written.
    pub fn get(self) -> Result<T> {
        In(self.0.cast_const()).get()
    }

    /// Writes consecutive values.
    pub fn put_all(self, values: &[T]) -> Result<()> {
        if self.0.is_null() && !values.is_empty() {
            return Err(Error::invalid("a null pointer where results go"));
        }
        for (index, value) in values.iter().enumerate() {
            // SAFETY: the C caller passed a place for as many as the call's length argument says, which bounds `values`.
            unsafe { self.0.add(index).write_unaligned(*value) };
        }
        Ok(())
    }
}

/// Something the caller lets us read.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn get(self) -> Result<T> {
        self.at(0)
    }

    /// Element `index` of an array whose length the caller knows to be greater.
    pub fn at(self, index: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(Error::invalid("a null pointer where a value is expected"));
        }
        // SAFETY: the C caller passed that many values.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// The first `len` values.
    pub fn list(self, len: usize) -> Result<Vec<T>> {
        (0..len).map(|index| self.at(index)).collect()
    }
}

impl<T> Out<T> {
    /// A place of ours, where a caller's could be.
    pub fn of(place: &mut T) -> Out<T> {
        Out(place)
    }
}

impl<T> In<T> {
    pub fn null() -> In<T> {
        In(std::ptr::null())
    }

    /// The pointer as a number.
    pub fn address(self) -> usize {
        self.0 as usize
    }

    /// A value of ours, handed on where a caller's could be.
    pub fn of(value: &T) -> In<T> {
        In(value)
    }
}

impl In<usize> {
    /// Element `index`, which is an address of bytes.
    pub fn pointer(self, index: usize) -> Result<In<u8>> {
        Ok(In(self.at(index)? as *const u8))
    }

    /// The size that element `index` points to.
    pub fn size_behind(self, index: usize) -> Result<usize> {
        In(self.at(index)? as *const usize).get()
    }
}

impl In<c_void> {
    /// The same address, to be read as bytes.
    pub fn bytes(self) -> In<u8> {
        In(self.0.cast())
    }
}

impl In<u8> {
    /// `len` bytes of the caller's.
    pub fn slice<'a>(self, len: usize) -> Result<&'a [u8]> {
        if len == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(Error::invalid("a null pointer where bytes are expected"));
        }
        // SAFETY: the C caller lets us read that many bytes during the call, and the slice does not outlive it.
        Ok(unsafe { std::slice::from_raw_parts(self.0, len) })
    }

    /// Bytes up to a NUL.
    pub fn text<'a>(self) -> Result<&'a CStr> {
        if self.0.is_null() {
            return Err(Error::invalid("a null pointer where text is expected"));
        }
        // SAFETY: the C caller passed NUL-terminated text that lives during the call.
        Ok(unsafe { CStr::from_ptr(self.0.cast::<c_char>()) })
    }
}

#[cfg(test)]
impl<T> In<T> {
    pub fn cast<U>(self) -> In<U> {
        In(self.0.cast())
    }
}

impl In<c_void> {
    /// Memory that the caller named by its address.
    pub fn at_address(address: usize) -> In<c_void> {
        In(address as *const c_void)
    }
}

impl Out<c_void> {
    /// See [`In::at_address`].
    pub fn at_address(address: usize) -> Out<c_void> {
        Out(address as *mut c_void)
    }
}

#[cfg(test)]
impl<T> Out<T> {
    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }
}

/// A name.
pub type Text = In<u8>;

impl Out<c_void> {
    /// Copies bytes to the caller's memory.
    pub fn fill_from(self, bytes: &[u8]) -> Result<()> {
        Out(self.0.cast::<u8>()).put_all(bytes)
    }

    /// The pointer as a number.
    pub fn address(self) -> usize {
        self.0 as usize
    }
}

/// Runs one call: no panic crosses into C.
pub fn guard(call: &'static str, body: impl FnOnce() -> Result<()>) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        // The panic's own message is on standard error already.
        Err(Error::new(Code::Unknown, "the emulator panicked; please report it"))
    });
    match outcome {
        Ok(()) => 0,
        Err(error) => error::report(call, error),
    }
}

/// Exports functions under their C names, and lists them for `cuGetProcAddress`.
macro_rules! exports {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            // SAFETY: the name is the CUDA driver's own, which is what this library stands in for.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($argument: $type),*) -> std::ffi::c_int {
                $crate::abi::guard(stringify!($name), move || $body)
            }
        )*

        /// Every function of this file by name.
        pub const EXPORTS: &[(&str, $crate::abi::Export)] =
            &[$((stringify!($name), $crate::abi::Export($name as *const ()))),*];
    };
}
pub(crate) use exports;

/// Address of an exported function.
#[derive(Clone, Copy)]
pub struct Export(pub *const ());

// SAFETY: the address of a function is the same for every thread and never changes.
unsafe impl Sync for Export {}
