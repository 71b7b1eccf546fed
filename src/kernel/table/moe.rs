//! Kernels of the mixture of experts.

use super::{KernelRow, ParamKind, Value};

const SWIGLU_PARAMS: &[(&str, ParamKind)] = &[
    ("x", ParamKind::U64),
    ("sizes", ParamKind::U64),
    ("q", ParamKind::U64),
    ("scales", ParamKind::U64),
    ("groups", ParamKind::U32),
    ("span", ParamKind::U32),
    ("rows", ParamKind::U32),
    ("cols", ParamKind::U32),
    ("x_stride", ParamKind::U64),
    ("q_stride", ParamKind::U64),
    ("scale_row_stride", ParamKind::U64),
    ("scale_group_stride", ParamKind::U64),
    ("power_of_two", ParamKind::U32),
];

/// SwiGLU with quantisation: how rows lie.
macro_rules! swiglu {
    ($layout:literal) => {
        KernelRow {
            name: concat!("hadal_swiglu_bf16_e4m3_", $layout, "_1x128_sm90a"),
            family: "moe",
            template: "swiglu_fp8.ptx",
            constants: &[("LAYOUT", Value::Str($layout)), ("MAX_GROUPS", Value::Int(1024))],
            threads: 256,
            cluster: 1,
            dynamic_shared: 0,
            registers: 64,
            warpgroup_registers: &[],
            arch: "sm_90a",
            params: SWIGLU_PARAMS,
            reference: "src/moe/swiglu/reference.rs",
            test: "tests/swiglu.rs::every_row_forced",
        }
    };
}

/// Every kernel of the mixture of experts.
pub const ROWS: &[KernelRow] = &[swiglu!("contiguous"), swiglu!("masked")];
