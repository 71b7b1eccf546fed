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

/// SwiGLU with quantisation: how rows lie. A block has 16 KiB of loads in flight, so that one an SM (a budget) is enough.
macro_rules! swiglu {
    ($layout:literal) => {
        KernelRow {
            name: concat!("hadal_swiglu_bf16_e4m3_", $layout, "_1x128_sm90a"),
            family: "moe",
            template: "swiglu_fp8.ptx",
            constants: &[("LAYOUT", Value::Str($layout)), ("MAX_GROUPS", Value::Int(1024))],
            threads: 512,
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

const GATE_PARAMS: &[(&str, ParamKind)] = &[
    ("logits", ParamKind::U64),
    ("bias", ParamKind::U64),
    ("topk_idx", ParamKind::U64),
    ("topk_weight", ParamKind::U64),
    ("counts", ParamKind::U64),
    ("logits_stride", ParamKind::U64),
    ("tokens", ParamKind::U32),
    ("experts", ParamKind::U32),
    ("topk", ParamKind::U32),
    ("groups", ParamKind::U32),
    ("topk_group", ParamKind::U32),
    ("normalize", ParamKind::U32),
    ("scale", ParamKind::F32),
];

/// A gate: how logits become scores, and the most experts, 32 for each slot.
macro_rules! gate {
    ($score:literal, $experts:literal experts, $slots:literal slots) => {
        KernelRow {
            name: concat!("hadal_gate_f32_", $score, "_e", $experts, "_sm90a"),
            family: "moe",
            template: "moe_gate.ptx",
            constants: &[("SCORE", Value::Str($score)), ("SLOTS", Value::Int($slots))],
            threads: 128,
            cluster: 1,
            dynamic_shared: 0,
            registers: 128,
            warpgroup_registers: &[],
            arch: "sm_90a",
            params: GATE_PARAMS,
            reference: "src/moe/gate/reference.rs",
            test: "tests/gate.rs::every_row_forced",
        }
    };
}

/// A map from rows to groups becomes the ends of the groups.
const GROUP_ENDS: KernelRow = KernelRow {
    name: "hadal_group_ends_i32_sm90a",
    family: "moe",
    template: "group_ends.ptx",
    constants: &[("MAX_GROUPS", Value::Int(1024))],
    threads: 1024,
    cluster: 1,
    dynamic_shared: 0,
    registers: 32,
    warpgroup_registers: &[],
    arch: "sm_90a",
    params: &[
        ("map", ParamKind::U64),
        ("ends", ParamKind::U64),
        ("rows", ParamKind::U32),
        ("groups", ParamKind::U32),
    ],
    reference: "src/moe/group_ends.rs",
    test: "tests/group_ends.rs::every_row_forced",
};

/// Every kernel of the mixture of experts.
pub const ROWS: &[KernelRow] = &[
    swiglu!("contiguous"),
    swiglu!("masked"),
    gate!("sigmoid", 256 experts, 8 slots),
    gate!("sigmoid", 512 experts, 16 slots),
    gate!("softmax", 256 experts, 8 slots),
    gate!("softmax", 512 experts, 16 slots),
    GROUP_ENDS,
];
