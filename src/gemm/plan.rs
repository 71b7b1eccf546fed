//! Planning a GEMM on the host, and enqueuing it.

use super::args::{Args, Options, Shape};
use super::cost::{self, Explanation, Problem};
use crate::device::launch::ParamBuffer;
use crate::device::map::{MapType, Swizzle, TensorMapSpec};
use crate::device::{Device, LoadedKernel, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Layout, Workspace};

/// Elements of K, and rows of the weight, under one scale.
pub(super) const GROUP: usize = 128;
/// What tensor copies want addresses and row pitches to be multiples of, in bytes.
pub(super) const PITCH: u64 = 16;

/// A chosen kernel for a shape on a device. Cheap to clone; runs any number of times on any stream of the device.
#[derive(Clone)]
#[must_use]
pub struct Plan {
    device: Device,
    shape: Shape,
    programmatic: bool,
    explanation: Explanation,
    kernel: LoadedKernel,
}

/// Whether a GEMM of this shape and these options can be planned on a device. Nothing is loaded or launched.
pub fn supports(device: &Device, shape: Shape, options: Options) -> Result<()> {
    choose_dense(device, shape, options).map(drop)
}

fn choose_dense(device: &Device, shape: Shape, options: Options) -> Result<Explanation> {
    let Shape { m, n, k } = shape;
    choose(device, options, m, |sms| Problem {
        m,
        n,
        k,
        groups: 1,
        grouping: "dense",
        output: options.output,
        sms,
    })
}

/// The kernels for a problem of at most `m` rows in all, the best first, and the one to run.
pub(super) fn choose(
    device: &Device,
    options: Options,
    m: usize,
    problem: impl FnOnce(u32) -> Problem,
) -> Result<Explanation> {
    if !device.supported() {
        let (major, minor) = device.properties().capability;
        return Err(Error::Unsupported {
            what: "an FP8 GEMM".into(),
            why: format!("the kernels are for compute capability 9.0 and {device} is {major}.{minor}"),
        });
    }
    if !matches!(options.output, DType::BF16 | DType::F32) {
        return Err(Error::dtype("out", "bf16 or f32", options.output));
    }
    // Coordinates of tensor copies are signed 32-bit numbers, and the last tile may reach past the end.
    let most = i32::MAX as usize - 256;
    let all = device.properties().sms;
    let sms = options.sms.unwrap_or(all);
    if sms == 0 || sms > all {
        return Err(Error::option("sms", format_args!("1 to {all}"), sms));
    }
    let problem = problem(sms);
    let (n, k) = (problem.n, problem.k);
    for (name, value, multiple, least) in [("M", m, 1, 0), ("N", n, 8, 8), ("K", k, 16, 16)] {
        if value % multiple != 0 || value < least || value > most {
            let expected = format!("{name} a multiple of {multiple} from {least} to {most}");
            return Err(Error::shape("shape", expected, format_args!("{name} = {value}")));
        }
    }
    // The kernels count tiles in 32 bits.
    let tiles = m.div_ceil(64).saturating_mul(n.div_ceil(64));
    if tiles > most {
        let got = format!("M = {m}, N = {n}: {tiles}");
        return Err(Error::shape("shape", format_args!("at most {most} tiles of 64x64"), got));
    }
    let candidates = cost::rank(&problem);
    let chosen = match options.tile {
        None => 0,
        Some(tile) => {
            let found = candidates.iter().position(|e| e.tile == tile);
            found.ok_or_else(|| {
                let tiles: Vec<String> =
                    candidates.iter().map(|e| format!("{}x{}", e.tile.0, e.tile.1)).collect();
                let expected = format!("one of {} for {} output", tiles.join(", "), options.output);
                Error::option("tile", expected, format_args!("{}x{}", tile.0, tile.1))
            })?
        }
    };
    if candidates.is_empty() {
        let why = "no kernel of that output type is in this build".into();
        return Err(Error::Unsupported { what: format!("an FP8 GEMM with {} output", options.output), why });
    }
    Ok(Explanation { problem, candidates, chosen, forced: options.tile.is_some() })
}

impl Plan {
    /// Chooses a kernel for `shape` and loads it if it is the first to need it. Host work only.
    pub fn new(device: &Device, shape: Shape, options: Options) -> Result<Plan> {
        let explanation = choose_dense(device, shape, options)?;
        let kernel = device.kernel(explanation.chosen().kernel.name)?;
        let programmatic = options.programmatic;
        Ok(Plan { device: device.clone(), shape, programmatic, explanation, kernel })
    }

    /// Why this kernel: every candidate with the cost model's numbers. Prints as a table.
    pub fn explain(&self) -> &Explanation {
        &self.explanation
    }

    /// The entry name of the kernel.
    pub fn kernel(&self) -> &'static str {
        self.kernel.kernel.row.name
    }

    /// The shape planned for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The scratch memory a run wants: none, for the dense kernels.
    pub fn workspace(&self) -> Workspace {
        Workspace::NONE
    }

    /// Enqueues the product. Checks every argument first, then makes one launch and nothing else: no allocation on the
    /// device, no copy, no event, no wait. With M = 0 it launches nothing.
    ///
    /// M is the rows of `a`, at most those of the plan's shape. The memory behind the arguments must stay as it is until
    /// the stream has passed the launch; buffers of this library see to that when they are dropped.
    pub fn run(&self, stream: &Stream, args: Args<'_>) -> Result<()> {
        let m = self.check(stream, &args)?;
        if m == 0 {
            return Ok(());
        }
        let (n, k) = (self.shape.n, self.shape.k);
        let chosen = self.explanation.chosen();
        let (block_m, block_n) = chosen.tile;
        let [a, weight, out] = [args.a.layout(), args.weight.layout(), args.out.layout()];
        let (scales, weight_scales) = (args.a_scales.layout(), args.weight_scale_inv.layout());
        let out_type = if out.dtype == DType::F32 { MapType::F32 } else { MapType::BF16 };
        // A's scales as the copies see them: a row for each group of K, M along it.
        let scales_pitch = match scales.cols {
            1 => (m * 4).next_multiple_of(PITCH as usize),
            _ => scales.col_stride * 4,
        };
        let tile_rows = [GROUP as u32, block_m as u32];
        let tile_weight = [GROUP as u32, block_n as u32];
        let tile_out = [GROUP as u32 / out_type.size(), 64];
        let specs = [
            spec("a", MapType::U8, a, [k, m], a.row_bytes() as u64, tile_rows, Swizzle::B128),
            spec(
                "weight",
                MapType::U8,
                weight,
                [k, n],
                weight.row_bytes() as u64,
                tile_weight,
                Swizzle::B128,
            ),
            spec(
                "a_scales",
                MapType::F32,
                scales,
                [m, k.div_ceil(GROUP)],
                scales_pitch as u64,
                [block_m as u32, 1],
                Swizzle::None,
            ),
            spec("out", out_type, out, [n, m], out.row_bytes() as u64, tile_out, Swizzle::B128),
        ];
        let mut params = ParamBuffer::new();
        for spec in &specs {
            params = params.map(&self.device.driver().encode_tensor_map(spec)?);
        }
        let tiles_m = m.div_ceil(block_m) as u64;
        let tiles = tiles_m * n.div_ceil(block_n) as u64;
        let blocks = tiles.min(self.explanation.problem.sms as u64);
        let params = params
            .u64(weight_scales.address)
            .u32(m as u32)
            .u32(n as u32)
            .u32(k as u32)
            .u32((weight_scales.row_bytes() / 4) as u32)
            .u32(cost::group(tiles_m, blocks, chosen.tile));
        // SAFETY: the kernel was loaded on the plan's device, which `check` found to be the stream's; the parameters are
        // the row's list in order; every address was checked to be on this device with the shapes and strides the maps
        // describe, and is valid by the contract of the views.
        unsafe { self.kernel.launch(stream, blocks as u32, self.programmatic, &params) }
    }

    /// Checks everything there is to check about the arguments, and returns M.
    fn check(&self, stream: &Stream, args: &Args<'_>) -> Result<usize> {
        let Shape { m: most, n, k } = self.shape;
        let device = self.device.id();
        if stream.device().id() != device {
            return Err(Error::device("stream", device, stream.device().id()));
        }
        let [a, weight, out] = [args.a.layout(), args.weight.layout(), args.out.layout()];
        let (scales, weight_scales) = (args.a_scales.layout(), args.weight_scale_inv.layout());
        let output = self.explanation.problem.output;
        let (m, groups) = (a.rows, k.div_ceil(GROUP));
        if m > most || a.cols != k {
            let expected = format!("[M, K] = [at most {most}, {k}]");
            return Err(Error::shape("a", expected, a.shape_text()));
        }
        for (argument, layout, dtype, names, rows, cols) in [
            ("a", a, DType::E4M3, "[M, K]", m, k),
            ("a_scales", scales, DType::F32, "[M, ⌈K/128⌉]", m, groups),
            ("weight", weight, DType::E4M3, "[N, K]", n, k),
            ("weight_scale_inv", weight_scales, DType::F32, "[⌈N/128⌉, ⌈K/128⌉]", n.div_ceil(GROUP), groups),
            ("out", out, output, "[M, N]", m, n),
        ] {
            layout.expect_device(argument, device)?;
            layout.expect_dtype(argument, dtype)?;
            layout.expect_shape(argument, names, rows, cols)?;
        }
        for (argument, layout) in [("a", a), ("weight", weight), ("out", out)] {
            layout.expect_row_major(argument, PITCH)?;
            layout.expect_aligned(argument, PITCH)?;
        }
        expect_m_major(scales)?;
        scales.expect_aligned("a_scales", PITCH)?;
        weight_scales.expect_row_major("weight_scale_inv", 4)?;
        weight_scales.expect_aligned("weight_scale_inv", 4)?;
        if weight_scales.row_bytes() / 4 > u32::MAX as u128 {
            let got = weight_scales.row_stride;
            return Err(Error::stride("weight_scale_inv", "a row stride below 2^32 elements", got));
        }
        let inputs =
            [("a", a), ("a_scales", scales), ("weight", weight), ("weight_scale_inv", weight_scales)];
        for (argument, input) in inputs {
            out.expect_apart("out", input, argument)?;
        }
        let workspace = args.workspace.as_ref().map(|w| w.layout());
        self.workspace().check(device, workspace)?;
        if let Some(workspace) = workspace {
            for (argument, other) in inputs.into_iter().chain([("out", out)]) {
                workspace.expect_apart("workspace", other, argument)?;
            }
        }
        Ok(m)
    }
}

/// The scales of A lie with M along a row, rows at multiples of 16 bytes, so that one copy brings a tile's.
pub(super) fn expect_m_major(scales: &Layout) -> Result<()> {
    let Layout { rows, cols, row_stride, col_stride, .. } = *scales;
    let contiguous = row_stride == 1 || rows <= 1;
    let pitched = cols <= 1 || (col_stride % 4 == 0 && col_stride >= rows && col_stride < 1 << 38);
    if contiguous && pitched {
        return Ok(());
    }
    let expected = format!("M-major: strides [1, ld] with ld a multiple of 4 and at least {rows}");
    Err(Error::stride("a_scales", expected, format_args!("[{row_stride}, {col_stride}]")))
}

fn spec(
    argument: &'static str,
    element: MapType,
    layout: &Layout,
    dims: [usize; 2],
    row_bytes: u64,
    tile: [u32; 2],
    swizzle: Swizzle,
) -> TensorMapSpec {
    let along = (dims[0] as u64, element.size() as u64, tile[0]);
    TensorMapSpec::new(
        argument,
        element,
        swizzle,
        layout.address,
        [along, (dims[1] as u64, row_bytes, tile[1])],
    )
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} for {:?} on {})", self.kernel(), self.shape, self.device.id())
    }
}
