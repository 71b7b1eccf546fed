//! The quantisers to FP8.

use super::{KernelRow, ParamKind, Value};

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

/// A quantiser to E4M3: input type, rows that share a scale, threads. Of rows a warp takes a group, and a block fills half an SM, so that one block
/// an SM (a budget) keeps enough loads in flight; of 128 rows a block takes a group.
macro_rules! quantize {
    ($in:literal, $group_rows:literal, $threads:literal threads) => {
        KernelRow {
            name: concat!("hadal_quantize_", $in, "_e4m3_", $group_rows, "x128_sm90a"),
            family: "quant",
            template: "quantize_fp8.ptx",
            constants: &[("IN", Value::Str($in)), ("GROUP_ROWS", Value::Int($group_rows))],
            threads: $threads,
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

/// Every quantiser.
pub const ROWS: &[KernelRow] = &[
    quantize!("bf16", 1, 1024 threads),
    quantize!("f16", 1, 1024 threads),
    quantize!("f32", 1, 1024 threads),
    quantize!("bf16", 128, 256 threads),
    quantize!("f16", 128, 256 threads),
    quantize!("f32", 128, 256 threads),
];
