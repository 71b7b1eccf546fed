//! The FP8 GEMMs.

use super::{KernelRow, ParamKind, Value};

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
                ("GROUPING", Value::Str("dense")),
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

/// Groups a grouped kernel's table has room for.
const MAX_GROUPS: u32 = 512;

const GROUPED_PARAMS: &[(&str, ParamKind)] = &[
    ("map_a", ParamKind::TensorMap),
    ("map_b", ParamKind::TensorMap),
    ("map_d", ParamKind::TensorMap),
    ("a_scales", ParamKind::U64),
    ("sizes", ParamKind::U64),
    ("b_scales", ParamKind::U64),
    ("m", ParamKind::U32),
    ("n", ParamKind::U32),
    ("k", ParamKind::U32),
    ("b_scales_stride", ParamKind::U32),
    ("a_scales_stride", ParamKind::U32),
    ("b_scales_group_stride", ParamKind::U32),
    ("span", ParamKind::U32),
    ("groups", ParamKind::U32),
];

/// A grouped FP8 GEMM with BF16 output: layout of the rows, tile, stages, threads, registers per warpgroup.
macro_rules! grouped {
    ($grouping:literal, $block_m:literal x $block_n:literal, $stages:literal stages, $threads:literal threads, $warpgroups:expr) => {
        KernelRow {
            name: concat!("hadal_gemm_e4m3_bf16_", $grouping, "_m", $block_m, "n", $block_n, "_sm90a"),
            family: "gemm",
            template: "gemm_fp8.ptx",
            constants: &[
                ("BLOCK_M", Value::Int($block_m)),
                ("BLOCK_N", Value::Int($block_n)),
                ("STAGES", Value::Int($stages)),
                ("OUT", Value::Str("bf16")),
                ("GROUPING", Value::Str($grouping)),
                ("MAX_GROUPS", Value::Int(MAX_GROUPS as i64)),
                ("BOUNDED_WAITS", Value::Int(0)),
            ],
            threads: $threads,
            cluster: 1,
            dynamic_shared: gemm_shared($block_m, $block_n, $stages, 2),
            registers: 168,
            warpgroup_registers: $warpgroups,
            arch: "sm_90a",
            params: GROUPED_PARAMS,
            reference: "src/gemm/reference.rs",
            test: "tests/gemm_grouped.rs::every_row_forced",
        }
    };
}

/// Every GEMM.
pub const ROWS: &[KernelRow] = &[
    gemm!(64 x 64, 8 stages, "bf16": 2, 256 threads, 168 registers, &[232, 40]),
    gemm!(64 x 64, 8 stages, "f32": 4, 256 threads, 168 registers, &[232, 40]),
    gemm!(64 x 128, 6 stages, "bf16": 2, 256 threads, 168 registers, &[232, 40]),
    gemm!(64 x 128, 6 stages, "f32": 4, 256 threads, 168 registers, &[232, 40]),
    gemm!(128 x 128, 5 stages, "bf16": 2, 384 threads, 168 registers, &[232, 232, 40]),
    gemm!(128 x 128, 4 stages, "f32": 4, 384 threads, 168 registers, &[232, 232, 40]),
    gemm!(256 x 128, 3 stages, "bf16": 2, 384 threads, 168 registers, &[232, 232, 40]),
    grouped!("contiguous", 64 x 128, 6 stages, 256 threads, &[232, 40]),
    grouped!("contiguous", 128 x 128, 5 stages, 384 threads, &[232, 232, 40]),
    grouped!("contiguous", 256 x 128, 3 stages, 384 threads, &[232, 232, 40]),
    grouped!("masked", 64 x 128, 6 stages, 256 threads, &[232, 40]),
    grouped!("masked", 128 x 128, 5 stages, 384 threads, &[232, 232, 40]),
];
