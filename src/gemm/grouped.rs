//! Grouped GEMM: the rows of `a` lie in groups, and each group has a weight of its own, as the experts of a layer do.

use super::args::Options;
use super::cost::{self, Explanation, Problem};
use super::plan::{self, GROUP, PITCH};
use crate::device::launch::ParamBuffer;
use crate::device::map::{MapType, Swizzle, TensorMapSpec};
use crate::device::{Device, LoadedKernel, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Layout, Matrix, MatrixMut, Workspace};

/// Where the rows of a group lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rows {
    Contiguous { alignment: usize },
    Masked { most: usize },
}

/// Groups, their rows, N and K.
///
/// How many rows each group has is read from device memory (`sizes`), in one of two layouts:
///
/// | layout | rows of group `g` | `sizes[g]` |
/// | --- | --- | --- |
/// | contiguous | from the end of its predecessor, rounded up to a multiple of the alignment | one past its last row |
/// | masked | from `g · m_max` | how many |
///
/// A map that says of each row to which group it belongs becomes ends with [`moe::group_ends`](crate::moe::group_ends).
///
/// Groups may be empty or of any size; none needs to fill a tile. Rows between and behind the groups are neither read nor
/// written. Sizes that make no sense (negative, too large, ends that fall back) are cut to the rows there are: nothing outside the
/// arguments is touched. Where ends fall back groups share rows, and which of their products a shared row of `out` holds is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupedShape {
    groups: usize,
    m: usize,
    n: usize,
    k: usize,
    layout: Rows,
    expected_m: Option<usize>,
}

impl GroupedShape {
    /// Groups one after the other in at most `m` rows; N must be a multiple of 8 and K of 16.
    pub const fn contiguous(groups: usize, m: usize, n: usize, k: usize) -> GroupedShape {
        GroupedShape { groups, m, n, k, layout: Rows::Contiguous { alignment: 1 }, expected_m: None }
    }

    /// Groups of at most `m_max` rows, each in a slab of its own.
    pub const fn masked(groups: usize, m_max: usize, n: usize, k: usize) -> GroupedShape {
        let m = groups.saturating_mul(m_max);
        GroupedShape { groups, m, n, k, layout: Rows::Masked { most: m_max }, expected_m: None }
    }

    /// Contiguous groups begin at multiples of `rows` rows. The masked layout has no use for it.
    #[must_use]
    pub const fn alignment(mut self, rows: usize) -> GroupedShape {
        if let Rows::Contiguous { .. } = self.layout {
            self.layout = Rows::Contiguous { alignment: rows };
        }
        self
    }

    /// How many rows a group usually has: chooses the tile, and changes no result. Without it, as many as there is room for.
    #[must_use]
    pub const fn expected_m(mut self, rows: usize) -> GroupedShape {
        self.expected_m = Some(rows);
        self
    }

    /// Groups.
    pub const fn groups(&self) -> usize {
        self.groups
    }

    /// Rows of `a` and `out`: the most of all groups together.
    pub const fn m(&self) -> usize {
        self.m
    }

    /// Rows of each group's weight, columns of `out`.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Columns of `a` and of `weight`.
    pub const fn k(&self) -> usize {
        self.k
    }

    fn grouping(&self) -> &'static str {
        match self.layout {
            Rows::Contiguous { .. } => "contiguous",
            Rows::Masked { .. } => "masked",
        }
    }
}

/// The operands of one run.
#[derive(Debug)]
pub struct GroupedArgs<'a> {
    a: Matrix<'a>,
    a_scales: Matrix<'a>,
    weight: Matrix<'a>,
    weight_scale_inv: Matrix<'a>,
    sizes: Matrix<'a>,
    out: MatrixMut<'a>,
}

impl<'a> GroupedArgs<'a> {
    /// The operands, with `G` groups:
    ///
    /// | argument | type | shape | layout |
    /// | --- | --- | --- | --- |
    /// | `a` | E4M3 | `[M, K]` | row-major, rows at multiples of 16 bytes |
    /// | `a_scales` | F32 | `[M, ⌈K/128⌉]` | M-major: strides `[1, ld]`, `ld` a multiple of 4 |
    /// | `weight` | E4M3 | `[G·N, K]`, group after group | row-major, rows at multiples of 16 bytes |
    /// | `weight_scale_inv` | F32 | `[G·⌈N/128⌉, ⌈K/128⌉]`, group after group | row-major |
    /// | `sizes` | I32 | `[1, G]`: ends or counts, see [`GroupedShape`] | contiguous |
    /// | `out` | BF16 | `[M, N]` | row-major, rows at multiples of 16 bytes |
    ///
    /// M is that of the shape in the masked layout (`G · m_max`), at most that in the contiguous one. Addresses are multiples of
    /// 16 bytes, those of `weight_scale_inv` and `sizes` of 4. `out` shares memory with nothing else.
    pub fn new(
        a: Matrix<'a>,
        a_scales: Matrix<'a>,
        weight: Matrix<'a>,
        weight_scale_inv: Matrix<'a>,
        sizes: Matrix<'a>,
        out: MatrixMut<'a>,
    ) -> GroupedArgs<'a> {
        GroupedArgs { a, a_scales, weight, weight_scale_inv, sizes, out }
    }
}

/// A chosen kernel for a shape on a device. Cheap to clone; runs any number of times on any stream of the device.
///
/// Each row of `out` has the bits that [`Plan`](super::Plan) would give it with its group's weight: they depend on nothing but
/// the row itself.
#[derive(Clone)]
#[must_use]
pub struct GroupedPlan {
    device: Device,
    shape: GroupedShape,
    programmatic: bool,
    explanation: Explanation,
    kernel: LoadedKernel,
}

/// Whether a grouped GEMM of this shape and these options can be planned on a device. Nothing is loaded or launched.
pub fn supports_grouped(device: &Device, shape: GroupedShape, options: Options) -> Result<()> {
    choose(device, shape, options).map(drop)
}

fn choose(device: &Device, shape: GroupedShape, options: Options) -> Result<Explanation> {
    if options.output != DType::BF16 {
        return Err(Error::dtype("out", "bf16", options.output));
    }
    let all = cost::candidates(shape.grouping(), DType::BF16);
    let most = all.filter_map(|row| row.int("MAX_GROUPS")).min().unwrap_or(0) as usize;
    if shape.groups == 0 || shape.groups > most {
        return Err(Error::shape(
            "shape",
            format_args!("1 to {most} groups"),
            format_args!("{} groups", shape.groups),
        ));
    }
    // Every group may have a tile that is not full; the kernels count tiles in 32 bits.
    let tiles = (shape.m.div_ceil(64).saturating_add(shape.groups)).saturating_mul(shape.n.div_ceil(64));
    if tiles > i32::MAX as usize {
        let got = format!("{} groups in M = {}, N = {}: {tiles}", shape.groups, shape.m, shape.n);
        return Err(Error::shape("shape", format_args!("at most {} tiles of 64x64", i32::MAX), got));
    }
    // Ends that fall back let groups share rows, so each may hold nearly all.
    let together = (shape.m.div_ceil(64) + 1).saturating_mul(shape.groups);
    if shape.grouping() == "contiguous" && together > u32::MAX as usize {
        let got = format!("{} groups in M = {}", shape.groups, shape.m);
        return Err(Error::shape("shape", "groups times tiles of 64 rows below 2^32", got));
    }
    if let Rows::Contiguous { alignment } = shape.layout
        && (alignment == 0 || alignment > i32::MAX as usize)
    {
        return Err(Error::option("alignment", format_args!("1 to {}", i32::MAX), alignment));
    }
    let (room, rounding) = match shape.layout {
        Rows::Contiguous { .. } => (shape.m, shape.groups),
        Rows::Masked { most } => (most, 1),
    };
    let per_group = shape.expected_m.unwrap_or(room.div_ceil(rounding)).min(room);
    let (n, k) = (shape.n, shape.k);
    plan::choose(device, options, shape.m, |sms| Problem {
        m: per_group,
        n,
        k,
        groups: shape.groups,
        grouping: shape.grouping(),
        output: DType::BF16,
        sms,
    })
}

impl GroupedPlan {
    /// Chooses a kernel for `shape` and loads it if it is the first to need it. Host work only.
    pub fn new(device: &Device, shape: GroupedShape, options: Options) -> Result<GroupedPlan> {
        let explanation = choose(device, shape, options)?;
        let kernel = device.kernel(explanation.chosen().kernel.name)?;
        let programmatic = options.programmatic;
        Ok(GroupedPlan { device: device.clone(), shape, programmatic, explanation, kernel })
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
    pub fn shape(&self) -> GroupedShape {
        self.shape
    }

    /// The scratch memory a run wants: none.
    pub fn workspace(&self) -> Workspace {
        Workspace::NONE
    }

    /// Enqueues the products. Checks every argument first, then makes one launch and nothing else: no allocation on the
    /// device, no copy, no event, no wait. Without rows it launches nothing.
    ///
    /// The memory behind the arguments must stay as it is until the stream has passed the launch; buffers of this library see
    /// to that when they are dropped.
    pub fn run(&self, stream: &Stream, args: GroupedArgs<'_>) -> Result<()> {
        let m = self.check(stream, &args)?;
        if m == 0 {
            return Ok(());
        }
        let GroupedShape { groups, n, k, .. } = self.shape;
        let (block_m, block_n) = self.explanation.chosen().tile;
        let [a, weight, out] = [args.a.layout(), args.weight.layout(), args.out.layout()];
        let (scales, weight_scales) = (args.a_scales.layout(), args.weight_scale_inv.layout());
        // Rows twice, from a tile before the matrix: see the essay of the kernel.
        let ragged = |argument, element: MapType, matrix: &Layout, cols: usize, tile: u32| {
            let pitch = matrix.row_bytes() as u64;
            let before = matrix.address.wrapping_sub(tile as u64 * pitch);
            let along = (cols as u64, element.size() as u64, 128 / element.size());
            let dims = [along, (tile as u64, pitch, tile), (m as u64 + 1, pitch, 1)];
            TensorMapSpec::new(argument, element, Swizzle::B128, before, dims)
        };
        let pitch = weight.row_bytes() as u64;
        let weights = [
            (k as u64, 1, GROUP as u32),
            (n as u64, pitch, block_n as u32),
            (groups as u64, n as u64 * pitch, 1),
        ];
        let specs = [
            ragged("a", MapType::U8, a, k, block_m as u32),
            TensorMapSpec::new("weight", MapType::U8, Swizzle::B128, weight.address, weights),
            ragged("out", MapType::BF16, out, n, 64),
        ];
        let mut params = ParamBuffer::new();
        for spec in &specs {
            params = params.map(&self.device.driver().encode_tensor_map(spec)?);
        }
        let span = match self.shape.layout {
            Rows::Contiguous { alignment } => alignment,
            Rows::Masked { most } => most,
        };
        let scales_stride = weight_scales.row_bytes() as usize / 4;
        let params = params
            .u64(scales.address)
            .u64(args.sizes.layout().address)
            .u64(weight_scales.address)
            .u32(m as u32)
            .u32(n as u32)
            .u32(k as u32)
            .u32(scales_stride as u32)
            .u32(scales.col_stride as u32)
            .u32((n.div_ceil(GROUP) * scales_stride) as u32)
            .u32(span as u32)
            .u32(groups as u32);
        // No more blocks than tiles there can be.
        let tiles = (m.div_ceil(block_m) + groups) as u64 * n.div_ceil(block_n) as u64;
        let blocks = tiles.min(self.explanation.problem.sms as u64);
        // SAFETY: the kernel was loaded on the plan's device, which `check` found to be the stream's; the parameters are
        // the row's list in order; every address was checked to be on this device with the shapes and strides the maps
        // describe, and is valid by the contract of the views; the kernel cuts whatever `sizes` holds to the rows given here,
        // and forms no coordinate that names an element before the matrix.
        unsafe { self.kernel.launch(stream, blocks as u32, self.programmatic, &params) }
    }

    /// Checks everything there is to check about the arguments, and returns M.
    fn check(&self, stream: &Stream, args: &GroupedArgs<'_>) -> Result<usize> {
        let GroupedShape { groups, m: most, n, k, layout, .. } = self.shape;
        let device = self.device.id();
        if stream.device().id() != device {
            return Err(Error::device("stream", device, stream.device().id()));
        }
        let [a, weight, out] = [args.a.layout(), args.weight.layout(), args.out.layout()];
        let (scales, weight_scales) = (args.a_scales.layout(), args.weight_scale_inv.layout());
        let sizes = args.sizes.layout();
        let (m, blocks) = (a.rows, k.div_ceil(GROUP));
        let masked = matches!(layout, Rows::Masked { .. });
        if m > most || (masked && m != most) || a.cols != k {
            let word = if masked { "" } else { "at most " };
            return Err(Error::shape("a", format_args!("[M, K] = [{word}{most}, {k}]"), a.shape_text()));
        }
        for (argument, layout, dtype, names, rows, cols) in [
            ("a", a, DType::E4M3, "[M, K]", m, k),
            ("a_scales", scales, DType::F32, "[M, ⌈K/128⌉]", m, blocks),
            ("weight", weight, DType::E4M3, "[G·N, K]", groups * n, k),
            (
                "weight_scale_inv",
                weight_scales,
                DType::F32,
                "[G·⌈N/128⌉, ⌈K/128⌉]",
                groups * n.div_ceil(GROUP),
                blocks,
            ),
            ("sizes", sizes, DType::I32, "[1, G]", 1, groups),
            ("out", out, DType::BF16, "[M, N]", m, n),
        ] {
            layout.expect_device(argument, device)?;
            layout.expect_dtype(argument, dtype)?;
            layout.expect_shape(argument, names, rows, cols)?;
        }
        for (argument, layout) in [("a", a), ("weight", weight), ("out", out)] {
            layout.expect_row_major(argument, PITCH)?;
            layout.expect_aligned(argument, PITCH)?;
        }
        let block_m = self.explanation.chosen().tile.0;
        for (argument, layout, rows) in [("a", a, block_m), ("out", out, 64)] {
            if (layout.address as u128) < rows as u128 * layout.row_bytes() {
                let expected = format!("{rows} rows to fit below its address, {:#x}", layout.address);
                return Err(Error::stride(argument, expected, layout.row_stride));
            }
        }
        plan::expect_m_major(scales)?;
        scales.expect_aligned("a_scales", PITCH)?;
        if scales.col_stride > u32::MAX as usize {
            return Err(Error::stride("a_scales", "a leading dimension below 2^32", scales.col_stride));
        }
        for (argument, layout) in [("weight_scale_inv", weight_scales), ("sizes", sizes)] {
            layout.expect_row_major(argument, 4)?;
            layout.expect_aligned(argument, 4)?;
        }
        if weight_scales.row_bytes() / 4 * n.div_ceil(GROUP) as u128 > u32::MAX as u128 {
            let got = weight_scales.row_stride;
            return Err(Error::stride("weight_scale_inv", "a group within 2^32 elements", got));
        }
        if weight.row_bytes() * n as u128 >= 1 << 40 {
            return Err(Error::stride("weight", "a group within 2^40 bytes", weight.row_stride));
        }
        for (argument, input) in [
            ("a", a),
            ("a_scales", scales),
            ("weight", weight),
            ("weight_scale_inv", weight_scales),
            ("sizes", sizes),
        ] {
            out.expect_apart("out", input, argument)?;
        }
        Ok(m)
    }
}

impl std::fmt::Debug for GroupedPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GroupedPlan({} for {:?} on {})", self.kernel(), self.shape, self.device.id())
    }
}
