//! Modules: kernels, their instructions and parameters, variables.

use super::{Op, PredSrc, Space, SymbolAddr};

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instr {
    /// What it does.
    pub op: Op,
    /// `@p` / `@!p`.
    pub guard: Option<PredSrc>,
    /// 1-based line in the PTX text.
    pub ptx_line: u32,
    /// The `.loc` in force, if any: index into [`Module::files`] and 1-based line.
    pub loc: Option<(u32, u32)>,
}

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name as declared.
    pub name: String,
    /// Byte offset in the parameter block.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// An `.entry`.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Entry name.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Total bytes of the parameter block.
    pub param_bytes: u32,
    /// Body; branch targets are indices here. Ends with an `Exit`.
    pub code: Vec<Instr>,
    /// Registers of each file.
    pub regs32: u32,
    /// See `regs32`.
    pub regs64: u32,
    /// See `regs32`.
    pub preds: u32,
    /// Source names of registers, for reports: index by file.
    pub names32: Vec<String>,
    /// See `names32`.
    pub names64: Vec<String>,
    /// See `names32`.
    pub names_pred: Vec<String>,
    /// Bytes of static shared memory (module-level and function-level variables).
    pub static_shared: u32,
    /// Largest declared alignment of static shared memory, and of the dynamic array.
    pub shared_align: u32,
    /// Declared alignment of the `.extern .shared` array (1 when there is none).
    pub dynamic_shared_align: u32,
    /// Bytes of local memory per thread.
    pub local_bytes: u32,
    /// `.reqntid`
    pub reqntid: Option<[u32; 3]>,
    /// `.maxntid`
    pub maxntid: Option<[u32; 3]>,
    /// `.maxnreg`
    pub maxnreg: Option<u32>,
    /// `.minnctapersm`
    pub minnctapersm: Option<u32>,
    /// `.reqnctapercluster`
    pub cluster: Option<[u32; 3]>,
    /// Label names and the instruction they stand before, for reports.
    pub labels: Vec<(String, usize)>,
}

/// A `.global` or `.const` variable.
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalVar {
    /// Name.
    pub name: String,
    /// `Global` or `Const`.
    pub space: Space,
    /// Alignment in bytes.
    pub align: u32,
    /// Initial bytes (zero-filled where there is no initialiser).
    pub init: Vec<u8>,
    /// `.attribute(.managed)`: host and devices see it at one address.
    pub managed: bool,
    /// Addresses inside the initial bytes, filled in when the module is loaded.
    pub relocations: Vec<Relocation>,
}

/// Eight bytes of a variable's initial contents that hold the address of another variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Byte offset in the variable.
    pub at: u64,
    /// What it points to (`Global` or `Const`; the two windows are generic addresses on the machine).
    pub symbol: SymbolAddr,
}

/// A parsed and lowered PTX module.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// The name given by the caller, for reports (usually a file name).
    pub name: String,
    /// `.target`, e.g. `sm_90a`.
    pub target: String,
    /// `.version` as (major, minor).
    pub version: (u32, u32),
    /// Kernels in source order.
    pub kernels: Vec<Kernel>,
    /// Module-level `.global`/`.const` variables.
    pub globals: Vec<GlobalVar>,
    /// `.file` table: index → path.
    pub files: Vec<String>,
    /// The PTX text, line by line, so that reports can quote it.
    pub text: Vec<String>,
}
