//! The table of kernels: what is built, tested, documented, dispatched and benched.
//!
//! A row is one entry point: the template it is rendered from, the constants given to the template, and what a launch
//! needs. `build.rs` renders and checks every row, the families look rows up by name, the tests refuse a row that no test
//! forces or that has no reference. Adding a kernel means adding a row to its family's part; nothing else lists kernels.
//!
//! Names are `hadal_<op>_<types>_<variant>_<tile>_<arch>`, architecture last. Plain data, standard library only: `build.rs`
//! includes this module by path.
//!
//! Limits are those of an H100: 232,448 bytes of shared memory a block may have, 228 KiB an SM has (each resident block
//! costs 1 KiB more than it asks for), 65,536 registers an SM.

pub mod exchange;
mod gemm;
mod mla;
mod moe;
mod quant;

/// A template constant. Only integers and strings: anything else has no one obvious spelling in PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// An integer, written in decimal.
    Int(i64),
    /// A string, written as it is.
    Str(&'static str),
}

/// What a kernel parameter is, and so its size and alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamKind {
    /// A 128-byte tensor map, passed by value and aligned to 64.
    TensorMap,
    /// A 64-bit integer or an address.
    U64,
    /// A 32-bit unsigned integer.
    U32,
    /// An IEEE single.
    F32,
}

impl ParamKind {
    /// Bytes the parameter takes.
    pub const fn size(self) -> usize {
        match self {
            Self::TensorMap => 128,
            Self::U64 => 8,
            Self::U32 | Self::F32 => 4,
        }
    }

    /// Alignment of the parameter in the parameter space.
    pub const fn align(self) -> usize {
        match self {
            Self::TensorMap => 64,
            Self::U64 => 8,
            Self::U32 | Self::F32 => 4,
        }
    }
}

/// One kernel.
#[derive(Clone, Copy, Debug)]
pub struct KernelRow {
    /// Entry name, unique.
    pub name: &'static str,
    /// The family (module) that launches it.
    pub family: &'static str,
    /// Template file under `ptx/`.
    pub template: &'static str,
    /// Constants of the template, besides those every template gets (see [`KernelRow::all_constants`]).
    pub constants: &'static [(&'static str, Value)],
    /// Threads per block.
    pub threads: u32,
    /// Blocks per cluster; 1 means launched without clusters.
    pub cluster: u32,
    /// Bytes of dynamic shared memory the launch asks for.
    pub dynamic_shared: u32,
    /// Register budget per thread at launch.
    pub registers: u32,
    /// Registers per thread of each warpgroup after `setmaxnreg`, in launch order; empty: the kernel never moves registers.
    pub warpgroup_registers: &'static [u32],
    /// Architecture for `ptxas -arch`.
    pub arch: &'static str,
    /// Parameters in order.
    pub params: &'static [(&'static str, ParamKind)],
    /// File of the plain Rust reference.
    pub reference: &'static str,
    /// The test that forces this row: file and function.
    pub test: &'static str,
}

impl KernelRow {
    /// Every constant the template sees: the row's own, then `ENTRY`, `THREADS`, `REGISTERS`, `DYNAMIC_SHARED`, and, when the
    /// kernel moves registers, `PRODUCER_REGISTERS` (the smallest) and `CONSUMER_REGISTERS` (the largest warpgroup's).
    pub fn all_constants(&self) -> Vec<(&'static str, Value)> {
        let mut all = self.constants.to_vec();
        all.push(("ENTRY", Value::Str(self.name)));
        all.push(("THREADS", Value::Int(self.threads.into())));
        all.push(("REGISTERS", Value::Int(self.registers.into())));
        all.push(("DYNAMIC_SHARED", Value::Int(self.dynamic_shared.into())));
        if let (Some(&low), Some(&high)) =
            (self.warpgroup_registers.iter().min(), self.warpgroup_registers.iter().max())
        {
            all.push(("PRODUCER_REGISTERS", Value::Int(low.into())));
            all.push(("CONSUMER_REGISTERS", Value::Int(high.into())));
        }
        all
    }

    /// The integer constant `name`, if the row has it.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.constants.iter().find_map(|&(key, value)| match value {
            Value::Int(int) if key == name => Some(int),
            _ => None,
        })
    }

    /// The string constant `name`, if the row has it.
    pub fn text(&self, name: &str) -> Option<&'static str> {
        self.constants.iter().find_map(|&(key, value)| match value {
            Value::Str(text) if key == name => Some(text),
            _ => None,
        })
    }

    /// Byte offset of each parameter in the parameter block, then the block's size.
    pub fn param_layout(&self) -> (Vec<usize>, usize) {
        let mut end = 0usize;
        let offsets = self.params.iter().map(|(_, kind)| {
            let start = end.next_multiple_of(kind.align());
            end = start + kind.size();
            start
        });
        (offsets.collect(), end)
    }
}

/// The row named `name`.
pub fn row(name: &str) -> Option<&'static KernelRow> {
    TABLE.iter().find(|row| row.name == name)
}

/// The families' parts, in the order of [`TABLE`].
const PARTS: &[&[KernelRow]] = &[exchange::ROWS, gemm::ROWS, mla::ROWS, quant::ROWS, moe::ROWS];

const COUNT: usize = {
    let (mut count, mut part) = (0, 0);
    while part < PARTS.len() {
        count += PARTS[part].len();
        part += 1;
    }
    count
};

/// Every kernel of the library.
pub static TABLE: &[KernelRow] = &{
    let mut all = [PARTS[0][0]; COUNT];
    let (mut at, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut row = 0;
        while row < PARTS[part].len() {
            all[at] = PARTS[part][row];
            at += 1;
            row += 1;
        }
        part += 1;
    }
    all
};
