//! The table of kernels: what is built, tested, documented, dispatched and benched.
//!
//! A row is one entry point: the template it is rendered from, the constants given to the template, and what a launch
//! needs. `build.rs` renders and checks every row, the families look rows up by name, the tests refuse a row that no test
//! forces or that has no reference. Adding a kernel means adding a row; nothing else lists kernels.
//!
//! Names are `hadal_<op>_<types>_<variant>_<tile>_<arch>`, architecture last. Plain data, standard library only: `build.rs`
//! includes this file by path.
//!
//! Limits are those of an H100: 232,448 bytes of shared memory a block may have, 228 KiB an SM has (each resident block
//! costs 1 KiB more than it asks for), 65,536 registers an SM.

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
}

impl ParamKind {
    /// Bytes the parameter takes.
    pub const fn size(self) -> usize {
        match self {
            Self::TensorMap => 128,
            Self::U64 => 8,
            Self::U32 => 4,
        }
    }

    /// Alignment of the parameter in the parameter space.
    pub const fn align(self) -> usize {
        match self {
            Self::TensorMap => 64,
            Self::U64 => 8,
            Self::U32 => 4,
        }
    }
}

/// One kernel.
#[derive(Debug)]
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

/// Dynamic shared memory of `gemm_fp8.ptx`: the ring (A, B, A's scales, B's scale, two barriers a stage) and one D tile.
const fn gemm_shared(block_m: u32, block_n: u32, stages: u32, out_bytes: u32) -> u32 {
    let stage = (block_m + block_n) * 128 + block_m * 4 + 8 + 2 * 8;
    let bytes = stages * stage + block_m * block_n * out_bytes;
    bytes.next_multiple_of(128)
}

const GEMM_PARAMS: &[(&str, ParamKind)] = &[
    ("map_a", ParamKind::TensorMap),
    ("map_b", ParamKind::TensorMap),
    ("map_a_scales", ParamKind::TensorMap),
    ("map_d", ParamKind::TensorMap),
    ("b_scales", ParamKind::U64),
    ("m", ParamKind::U32),
    ("n", ParamKind::U32),
    ("k", ParamKind::U32),
    ("b_scales_stride", ParamKind::U32),
    ("group", ParamKind::U32),
];

/// A dense FP8 GEMM: tile, stages, output type and its bytes, threads, launch registers, registers per warpgroup.
macro_rules! gemm {
    ($block_m:literal x $block_n:literal, $stages:literal stages, $out:literal: $out_bytes:literal,
     $threads:literal threads, $registers:literal registers, $warpgroups:expr) => {
        KernelRow {
            name: concat!("hadal_gemm_e4m3_", $out, "_dense_m", $block_m, "n", $block_n, "_sm90a"),
            family: "gemm",
            template: "gemm_fp8.ptx",
            constants: &[
                ("BLOCK_M", Value::Int($block_m)),
                ("BLOCK_N", Value::Int($block_n)),
                ("STAGES", Value::Int($stages)),
                ("OUT", Value::Str($out)),
                ("BOUNDED_WAITS", Value::Int(0)),
            ],
            threads: $threads,
            cluster: 1,
            dynamic_shared: gemm_shared($block_m, $block_n, $stages, $out_bytes),
            registers: $registers,
            warpgroup_registers: $warpgroups,
            arch: "sm_90a",
            params: GEMM_PARAMS,
            reference: "src/gemm/reference.rs",
            test: "tests/gemm.rs::every_row_forced",
        }
    };
}

const QUANTIZE_PARAMS: &[(&str, ParamKind)] = &[
    ("x", ParamKind::U64),
    ("q", ParamKind::U64),
    ("scales", ParamKind::U64),
    ("rows", ParamKind::U32),
    ("cols", ParamKind::U32),
    ("x_stride", ParamKind::U64),
    ("q_stride", ParamKind::U64),
    ("scale_row_stride", ParamKind::U64),
    ("scale_group_stride", ParamKind::U64),
    ("power_of_two", ParamKind::U32),
];

/// A quantiser to E4M3: input type, rows that share a scale.
macro_rules! quantize {
    ($in:literal, $group_rows:literal) => {
        KernelRow {
            name: concat!("hadal_quantize_", $in, "_e4m3_", $group_rows, "x128_sm90a"),
            family: "quant",
            template: "quantize_fp8.ptx",
            constants: &[("IN", Value::Str($in)), ("GROUP_ROWS", Value::Int($group_rows))],
            threads: 256,
            cluster: 1,
            dynamic_shared: 0,
            registers: 64,
            warpgroup_registers: &[],
            arch: "sm_90a",
            params: QUANTIZE_PARAMS,
            reference: "src/quant/reference.rs",
            test: "tests/quant.rs::every_row_forced",
        }
    };
}

/// Every kernel of the library.
pub static TABLE: &[KernelRow] = &[
    gemm!(64 x 64, 8 stages, "bf16": 2, 256 threads, 168 registers, &[232, 40]),
    gemm!(64 x 64, 8 stages, "f32": 4, 256 threads, 168 registers, &[232, 40]),
    gemm!(64 x 128, 6 stages, "bf16": 2, 256 threads, 168 registers, &[232, 40]),
    gemm!(64 x 128, 6 stages, "f32": 4, 256 threads, 168 registers, &[232, 40]),
    gemm!(128 x 128, 5 stages, "bf16": 2, 384 threads, 168 registers, &[232, 232, 40]),
    gemm!(128 x 128, 4 stages, "f32": 4, 384 threads, 168 registers, &[232, 232, 40]),
    gemm!(256 x 128, 3 stages, "bf16": 2, 384 threads, 168 registers, &[232, 232, 40]),
    quantize!("bf16", 1),
    quantize!("f16", 1),
    quantize!("f32", 1),
    quantize!("bf16", 128),
    quantize!("f16", 128),
    quantize!("f32", 128),
];
