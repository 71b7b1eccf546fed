//! Dispatch and combine of tokens between the ranks of a team.

use super::{KernelRow, ParamKind, Value};

/// Where things lie at the beginning of every rank's window, in bytes. The kernels and the host read the same numbers.
pub mod header {
    /// Number of the last dispatch, and of the last combine, that this rank has ended. 32 bits each, as everything up to `COUNTS`.
    pub const DISPATCHES: u32 = 0;
    /// See [`DISPATCHES`].
    pub const COMBINES: u32 = 4;
    /// Blocks of the running dispatch that have done their part; likewise the two below.
    pub const DISPATCH_ARRIVED: u32 = 8;
    /// Blocks of the running reduction.
    pub const REDUCE_ARRIVED: u32 = 12;
    /// Blocks of the running gathering.
    pub const GATHER_ARRIVED: u32 = 16;
    /// A block of the running kernel has given up waiting.
    pub const FAILED: u32 = 20;
    /// Rows of the last dispatch that are here, and whether that dispatch went well.
    pub const ROWS: u32 = 24;
    /// See [`ROWS`].
    pub const WHOLE: u32 = 28;
    /// The status, eight words: bits, rows lost on sending, receiving and expanding, ranks missed while waiting for counts, rows,
    /// reduced rows, and readers.
    pub const STATUS: u32 = 32;
    /// The first row of each source rank.
    pub const SOURCES: u32 = 64;
    /// How many rows each rank sends to each: `[source][destination]`, 64-bit words `number of the dispatch << 32 | count`.
    pub const COUNTS: u32 = 128;
    /// That all rows of a rank have arrived: 64-bit words `number << 32 | 1`, or `| 2` if they have not and will not.
    pub const ARRIVED: u32 = 640;
    /// That a rank's reduced rows are there to be read.
    pub const REDUCED: u32 = 704;
    /// That a rank has read them.
    pub const GATHERED: u32 = 768;
    /// Bytes of the header.
    pub const BYTES: u32 = 1024;
}

/// The most ranks an exchange has.
pub const MAX_RANKS: u32 = 8;

const U64: ParamKind = ParamKind::U64;
const U32: ParamKind = ParamKind::U32;

/// The most blocks of the kernels that say where expanded rows go.
pub const MAX_STRETCHES: u32 = 32;

/// Bytes of a row that one bulk copy of the expansion carries, at most; a warp has two such pieces in shared memory.
const PIECE: u32 = 7168;
const EXPAND_WARPS: u32 = 8;

/// A kernel: name, template, threads, registers, dynamic shared memory, constants of its own, parameters.
macro_rules! exchange {
    ($name:literal, $template:literal, $threads:expr, $registers:literal registers, $shared:expr,
        [$($own:expr),*], [$($param:literal: $kind:ident),* $(,)?]) => {
        KernelRow {
            name: concat!("hadal_moe_", $name, "_sm90a"),
            family: "exchange",
            template: $template,
            constants: &[
                $($own,)*
                ("DISPATCHES", Value::Int(header::DISPATCHES as i64)),
                ("COMBINES", Value::Int(header::COMBINES as i64)),
                ("DISPATCH_ARRIVED", Value::Int(header::DISPATCH_ARRIVED as i64)),
                ("REDUCE_ARRIVED", Value::Int(header::REDUCE_ARRIVED as i64)),
                ("GATHER_ARRIVED", Value::Int(header::GATHER_ARRIVED as i64)),
                ("FAILED", Value::Int(header::FAILED as i64)),
                ("ROWS", Value::Int(header::ROWS as i64)),
                ("WHOLE", Value::Int(header::WHOLE as i64)),
                ("STATUS", Value::Int(header::STATUS as i64)),
                ("SOURCES", Value::Int(header::SOURCES as i64)),
                ("COUNTS", Value::Int(header::COUNTS as i64)),
                ("ARRIVED", Value::Int(header::ARRIVED as i64)),
                ("REDUCED", Value::Int(header::REDUCED as i64)),
                ("GATHERED", Value::Int(header::GATHERED as i64)),
            ],
            threads: $threads,
            cluster: 1,
            dynamic_shared: $shared,
            registers: $registers,
            warpgroup_registers: &[],
            arch: "sm_90a",
            params: &[$(($param, $kind)),*],
            reference: "src/moe/exchange/reference.rs",
            test: "tests/moe/main.rs::every_row_forced",
        }
    };
}

/// Every kernel of the exchange.
pub const ROWS: &[KernelRow] = &[
    exchange!("layout", "moe_layout.ptx", 1024, 64 registers, 0, [], [
        "topk_idx": U64, "handle": U64, "table": U64, "tokens": U32, "topk": U32, "ranks": U32, "rank": U32,
        "experts": U32, "local_experts": U32, "cached": U32,
    ]),
    exchange!("dispatch", "moe_dispatch.ptx", 512, 64 registers, 0, [], [
        "x": U64, "scales": U64, "topk_idx": U64, "topk_weight": U64, "handle": U64, "table": U64, "x_pitch": U64,
        "scale_pitch": U64, "rows_at": U64, "scales_at": U64, "ids_at": U64, "weights_at": U64, "tokens": U32,
        "row_bytes": U32, "scale_words": U32, "topk": U32, "ranks": U32, "rank": U32, "local_experts": U32,
        "capacity": U32, "patience": U32,
    ]),
    exchange!("expand_count", "moe_expand_layout.ptx", 1024, 64 registers, 0, [("PASS", Value::Str("count"))], [
        "window": U64, "ids_at": U64, "counts_at": U64, "positions_at": U64, "map": U64, "ends": U64,
        "topk": U32, "local_experts": U32, "rows": U32, "alignment": U32, "capacity": U32,
    ]),
    exchange!("expand_place", "moe_expand_layout.ptx", 1024, 64 registers, 32 * 512 * 4, [("PASS", Value::Str("place"))], [
        "window": U64, "ids_at": U64, "counts_at": U64, "positions_at": U64, "map": U64, "ends": U64,
        "topk": U32, "local_experts": U32, "rows": U32, "alignment": U32, "capacity": U32,
    ]),
    exchange!("expand", "moe_expand.ptx", 32 * EXPAND_WARPS, 64 registers, 2 * EXPAND_WARPS * PIECE, [("PIECE", Value::Int(PIECE as i64))], [
        "window": U64, "rows_at": U64, "scales_at": U64, "ids_at": U64, "positions_at": U64, "x": U64, "scales": U64,
        "x_pitch": U64, "scale_row_stride": U64, "scale_group_stride": U64, "row_bytes": U32, "scale_words": U32,
        "topk": U32, "capacity": U32, "rows": U32,
    ]),
    exchange!("reduce", "moe_reduce.ptx", 512, 128 registers, 0, [], [
        "y": U64, "table": U64, "y_pitch": U64, "ids_at": U64, "weights_at": U64, "positions_at": U64, "reduced_at": U64,
        "row_bytes": U32, "rows": U32, "capacity": U32, "topk": U32, "ranks": U32, "rank": U32, "patience": U32,
    ]),
    exchange!("combine", "moe_combine.ptx", 512, 128 registers, 0, [], [
        "out": U64, "handle": U64, "table": U64, "out_pitch": U64, "reduced_at": U64, "tokens": U32, "row_bytes": U32,
        "ranks": U32, "rank": U32, "capacity": U32, "patience": U32,
    ]),
];
