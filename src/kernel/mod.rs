//! The kernels: their table, and the PTX and cubins the build embedded.
//!
//! `build.rs` renders every row of [`table::TABLE`] and, where it finds `ptxas`, assembles it. What it wrote is here: for
//! each row the PTX (which any driver can assemble), the cubin if there is one, and a map from lines of the PTX to lines
//! of the templates under `ptx/`, so that reports name the file a person edits.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod check;
pub mod line_map;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod ptxas;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod report;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod sass;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod scan;
pub mod table;

use std::sync::OnceLock;

pub use line_map::LineMap;
pub use table::{KernelRow, ParamKind, Value};

/// A kernel as built.
#[derive(Debug)]
pub struct Kernel {
    /// Its row in the table.
    pub row: &'static KernelRow,
    /// Its PTX.
    pub ptx: &'static str,
    /// Its cubin, if `ptxas` was found when the library was built.
    pub cubin: Option<&'static [u8]>,
    map_text: &'static str,
    map: OnceLock<LineMap>,
}

impl Kernel {
    const fn new(
        row: &'static KernelRow,
        ptx: &'static str,
        cubin: Option<&'static [u8]>,
        map_text: &'static str,
    ) -> Self {
        Self { row, ptx, cubin, map_text, map: OnceLock::new() }
    }

    /// Where each line of [`Kernel::ptx`] came from.
    pub fn line_map(&self) -> &LineMap {
        self.map.get_or_init(|| LineMap::decode(self.map_text))
    }
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Every kernel, in the order of the table.
pub fn all() -> &'static [Kernel] {
    &KERNELS
}

/// The kernel named `name`.
pub fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.row.name == name)
}

/// The `ptxas` that made the embedded cubins, or `None` when only PTX is embedded.
pub fn assembler() -> Option<&'static str> {
    ASSEMBLER
}
