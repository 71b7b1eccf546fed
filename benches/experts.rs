//! What stands around the experts, on the shapes of DeepSeek-V3: the gate, quantisation, group ends, the grouped GEMMs, SwiGLU.
//!
//! On a GPU this is time, of 4096 tokens, or of 32 local experts with 64 rows each. On the emulator it is not time and does not pretend to
//! be: the values are warp instructions and bytes, for each token (gate, quantisation), row (group ends, SwiGLU) or tile with the main loop over
//! the whole of K (grouped GEMM, two groups on one SM). See `support/measure.rs`.
//!
//! ```text
//! cargo bench --bench experts               # HADAL_DEVICE chooses, as everywhere
//! cargo bench --bench experts -- swiglu
//! ```

#[path = "support/measure.rs"]
mod measure;

use criterion::Throughput;
use hadal::moe::{gate, group_ends, swiglu};
use hadal::{Buffer, Device, E4M3, Result, Stream, bf16, gemm, quant};
use measure::{Extent, Launch, Row};

const HIDDEN: usize = 7168;
const INTER: usize = 2048;
const EXPERTS: usize = 256;
const TOPK: usize = 8;
/// Rows of each of the groups.
const ROWS: usize = 64;

fn main() {
    let row = |name: &str, whole, units, prepare: fn(&Device, &Stream, Extent) -> Result<Launch>| Row {
        name: name.to_owned(),
        whole,
        units,
        prepare: Box::new(prepare),
    };
    let (tokens, groups) = (tokens(Extent::Whole) as u64, groups(Extent::Whole) as u64);
    let per_token = |bytes: usize| Throughput::Bytes(tokens * bytes as u64);
    let per_row = |bytes: usize| Throughput::Bytes(groups * (ROWS * bytes) as u64);
    // Multiply-adds count as two, on whichever side of SwiGLU.
    let product = |n: usize, k: usize| Throughput::Elements(2 * groups * (ROWS * n * k) as u64);
    let (part, two) = (self::tokens(Extent::Part), self::groups(Extent::Part));
    measure::run(
        "token, row or tile",
        &[
            row("gate/256", per_token(4 * EXPERTS + 8 * TOPK), part, run_gate),
            row("quantize/7168", per_token(3 * HIDDEN + HIDDEN / 32), part, run_quantize),
            row("group_ends", per_row(4), two * ROWS, run_group_ends),
            row("gate_up/masked/4096x7168", product(2 * INTER, HIDDEN), two, |device, stream, extent| {
                run_gemm(device, stream, extent, [2 * INTER, HIDDEN])
            }),
            row("swiglu/masked/2048", per_row(5 * INTER + INTER / 32), two * ROWS, run_swiglu),
            row("down/masked/7168x2048", product(HIDDEN, INTER), two, |device, stream, extent| {
                run_gemm(device, stream, extent, [HIDDEN, INTER])
            }),
        ],
    );
}

fn tokens(extent: Extent) -> usize {
    if extent == Extent::Whole { 4096 } else { 128 }
}

fn groups(extent: Extent) -> usize {
    if extent == Extent::Whole { 32 } else { 2 }
}

fn ones(device: &Device, stream: &Stream, count: usize) -> Result<Buffer<E4M3>> {
    let mut buffer = device.alloc(count)?;
    buffer.fill_bytes(stream, 0x38)?;
    Ok(buffer)
}

fn scales(device: &Device, stream: &Stream, count: usize) -> Result<Buffer<f32>> {
    let mut buffer = device.alloc(count)?;
    buffer.fill_bytes(stream, 0x3f)?;
    Ok(buffer)
}

fn run_gate(device: &Device, stream: &Stream, extent: Extent) -> Result<Launch> {
    let tokens = tokens(extent);
    let logits: Vec<f32> = (0..tokens * EXPERTS).map(|at| (at * 7919 % 1009) as f32 * 0.01 - 5.0).collect();
    let logits = device.upload(stream, &logits)?;
    let bias = device.upload(stream, &[0f32; EXPERTS])?;
    let mut idx = device.alloc::<i32>(tokens * TOPK)?;
    let mut weight = device.alloc::<f32>(tokens * TOPK)?;
    let mut counts = device.upload(stream, &[0i32; EXPERTS])?;
    let plan = gate::Plan::new(device, gate::Shape::new(tokens, EXPERTS), gate::Options::deepseek_v3())?;
    Ok(Box::new(move |stream| {
        let args = gate::Args::new(
            logits.matrix(tokens, EXPERTS)?,
            idx.matrix_mut(tokens, TOPK)?,
            weight.matrix_mut(tokens, TOPK)?,
        );
        plan.run(stream, args.bias(bias.matrix(1, EXPERTS)?).counts(counts.matrix_mut(1, EXPERTS)?))
    }))
}

fn run_quantize(device: &Device, stream: &Stream, extent: Extent) -> Result<Launch> {
    let tokens = tokens(extent);
    let mut x = device.alloc::<bf16>(tokens * HIDDEN)?;
    x.fill_bytes(stream, 0x3f)?;
    let mut q = device.alloc::<E4M3>(tokens * HIDDEN)?;
    let mut scales = device.alloc::<f32>(tokens * HIDDEN / 128)?;
    let plan = quant::Plan::new(device, quant::Shape::new(tokens, HIDDEN), quant::Options::activations())?;
    Ok(Box::new(move |stream| {
        let scales = scales.view_mut(0, [tokens, HIDDEN / 128], [1, tokens])?;
        let args = quant::Args::new(x.matrix(tokens, HIDDEN)?, q.matrix_mut(tokens, HIDDEN)?, scales);
        plan.run(stream, args)
    }))
}

fn run_group_ends(device: &Device, stream: &Stream, extent: Extent) -> Result<Launch> {
    let groups = groups(extent);
    let rows = groups * ROWS;
    let map: Vec<i32> = (0..rows).map(|row| (row / ROWS) as i32).collect();
    let map = device.upload(stream, &map)?;
    let mut ends = device.alloc::<i32>(groups)?;
    let plan = group_ends::Plan::new(device, groups)?;
    Ok(Box::new(move |stream| plan.run(stream, map.matrix(1, rows)?, ends.matrix_mut(1, groups)?)))
}

/// All of N and every group; or two tiles, one of each group.
fn run_gemm(device: &Device, stream: &Stream, extent: Extent, [n, k]: [usize; 2]) -> Result<Launch> {
    let (groups, blocks) = (groups(extent), k / 128);
    let (n, options) = match extent {
        Extent::Whole => (n, gemm::Options::new()),
        Extent::Part => (128, gemm::Options::new().tile(64, 128).sms(1)),
    };
    let m = groups * ROWS;
    let (a, weight) = (ones(device, stream, m * k)?, ones(device, stream, groups * n * k)?);
    let a_scales = scales(device, stream, m * blocks)?;
    let scale_inv = scales(device, stream, groups * n / 128 * blocks)?;
    let sizes = device.upload(stream, &vec![ROWS as i32; groups])?;
    let mut out = device.alloc::<bf16>(m * n)?;
    let plan = gemm::GroupedPlan::new(device, gemm::GroupedShape::masked(groups, ROWS, n, k), options)?;
    Ok(Box::new(move |stream| {
        let args = gemm::GroupedArgs::new(
            a.matrix(m, k)?,
            a_scales.view(0, [m, blocks], [1, m])?,
            weight.matrix(groups * n, k)?,
            scale_inv.matrix(groups * n / 128, blocks)?,
            sizes.matrix(1, groups)?,
            out.matrix_mut(m, n)?,
        );
        plan.run(stream, args)
    }))
}

fn run_swiglu(device: &Device, stream: &Stream, extent: Extent) -> Result<Launch> {
    let groups = groups(extent);
    let rows = groups * ROWS;
    let mut x = device.alloc::<bf16>(rows * 2 * INTER)?;
    x.fill_bytes(stream, 0x3f)?;
    let sizes = device.upload(stream, &vec![ROWS as i32; groups])?;
    let mut q = device.alloc::<E4M3>(rows * INTER)?;
    let mut scales = device.alloc::<f32>(rows * INTER / 128)?;
    let plan = swiglu::Plan::new(device, swiglu::Shape::masked(groups, ROWS, INTER), swiglu::Options::new())?;
    Ok(Box::new(move |stream| {
        let args = swiglu::Args::new(
            x.matrix(rows, 2 * INTER)?,
            sizes.matrix(1, groups)?,
            q.matrix_mut(rows, INTER)?,
            scales.view_mut(0, [rows, INTER / 128], [1, rows])?,
        );
        plan.run(stream, args)
    }))
}
