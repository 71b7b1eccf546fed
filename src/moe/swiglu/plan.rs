//! Planning on the host, and enqueuing.

use crate::device::launch::ParamBuffer;
use crate::device::{Device, LoadedKernel, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Matrix, MatrixMut, Workspace};

/// Columns under one scale.
const GROUP: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rows {
    Contiguous { alignment: usize },
    Masked,
}

/// Groups, the rows they may take, and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    groups: usize,
    rows: usize,
    cols: usize,
    layout: Rows,
}

impl Shape {
    /// Groups one after the other in at most `rows` rows, which times the groups stay below 2^32; `cols` is that of the result, half that of
    /// `x`.
    pub const fn contiguous(groups: usize, rows: usize, cols: usize) -> Shape {
        Shape { groups, rows, cols, layout: Rows::Contiguous { alignment: 1 } }
    }

    /// Groups of at most `rows_per_group` rows, each in a slab of its own.
    pub const fn masked(groups: usize, rows_per_group: usize, cols: usize) -> Shape {
        Shape { groups, rows: groups.saturating_mul(rows_per_group), cols, layout: Rows::Masked }
    }

    /// Contiguous groups begin at multiples of `rows` rows. The masked layout has no use for it.
    #[must_use]
    pub const fn alignment(mut self, rows: usize) -> Shape {
        if let Rows::Contiguous { .. } = self.layout {
            self.layout = Rows::Contiguous { alignment: rows };
        }
        self
    }

    /// Groups.
    pub const fn groups(&self) -> usize {
        self.groups
    }

    /// Rows of `x`: the most of all groups together.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the result.
    pub const fn cols(&self) -> usize {
        self.cols
    }
}

/// How to go about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    power_of_two: bool,
    sms: Option<u32>,
    programmatic: bool,
}

impl Options {
    /// Scales as they come, all SMs, no programmatic launch.
    pub const fn new() -> Options {
        Options { power_of_two: false, sms: None, programmatic: false }
    }

    /// Rounds scales up to powers of two, so that scaling is exact.
    #[must_use]
    pub const fn power_of_two(mut self, yes: bool) -> Options {
        self.power_of_two = yes;
        self
    }

    /// Uses at most `sms` SMs, a block on each, and leaves the others to whatever runs beside.
    #[must_use]
    pub const fn sms(mut self, sms: u32) -> Options {
        self.sms = Some(sms);
        self
    }

    /// Lets the kernel start before its predecessor in the stream has ended (programmatic dependent launch). It waits
    /// for the predecessor's results before it touches memory, so only its start-up is hidden.
    #[must_use]
    pub const fn programmatic(mut self, yes: bool) -> Options {
        self.programmatic = yes;
        self
    }
}

/// The operands of one run.
#[derive(Debug)]
pub struct Args<'a> {
    x: Matrix<'a>,
    sizes: Matrix<'a>,
    q: MatrixMut<'a>,
    scales: MatrixMut<'a>,
}

impl<'a> Args<'a> {
    /// The operands:
    ///
    /// | argument | type | shape | layout |
    /// | --- | --- | --- | --- |
    /// | `x` | BF16 | `[rows, 2·cols]`, gate then up | row-major, address and row stride multiples of 8 bytes |
    /// | `sizes` | I32 | `[1, groups]` | contiguous |
    /// | `q` | E4M3 | `[rows, cols]` | row-major, address and row stride multiples of 4 bytes |
    /// | `scales` | F32 | `[rows, cols/128]` | row-major or transposed (M-major, as the GEMM reads them) |
    ///
    /// No two share memory. `sizes` holds end offsets (contiguous) or counts (masked), see the [module](super).
    pub fn new(x: Matrix<'a>, sizes: Matrix<'a>, q: MatrixMut<'a>, scales: MatrixMut<'a>) -> Args<'a> {
        Args { x, sizes, q, scales }
    }
}

/// A chosen kernel for a shape on a device. Cheap to clone; runs any number of times on any stream of the device.
#[derive(Clone)]
#[must_use]
pub struct Plan {
    device: Device,
    shape: Shape,
    options: Options,
    sms: u32,
    kernel: LoadedKernel,
}

/// Whether such a pass can be planned on a device. Nothing is loaded or launched.
pub fn supports(device: &Device, shape: Shape, options: Options) -> Result<()> {
    choose(device, shape, options).map(drop)
}

/// The kernel's name and the SMs to use.
fn choose(device: &Device, shape: Shape, options: Options) -> Result<(&'static str, u32)> {
    if !device.supported() {
        let (major, minor) = device.properties().capability;
        return Err(Error::Unsupported {
            what: "SwiGLU with quantisation".into(),
            why: format!("the kernels are for compute capability 9.0 and {device} is {major}.{minor}"),
        });
    }
    let name = match shape.layout {
        Rows::Contiguous { .. } => "hadal_swiglu_bf16_e4m3_contiguous_1x128_sm90a",
        Rows::Masked => "hadal_swiglu_bf16_e4m3_masked_1x128_sm90a",
    };
    let row = crate::kernel::table::row(name);
    let most_groups = row.and_then(|row| row.int("MAX_GROUPS")).unwrap_or(0) as usize;
    if shape.groups == 0 || shape.groups > most_groups {
        return Err(Error::shape("shape", format_args!("1 to {most_groups} groups"), shape.groups));
    }
    if shape.cols == 0 || !shape.cols.is_multiple_of(GROUP) {
        let expected = format!("a number of columns that is a multiple of {GROUP}");
        return Err(Error::shape("shape", expected, shape.cols));
    }
    // The kernel counts rows and blocks of 128 in 32 bits, and steps past the end by at most a grid or an alignment.
    let most = i32::MAX as usize;
    let blocks = shape.rows.max(1).saturating_mul(shape.cols / GROUP);
    if blocks > most {
        let got = format!("[{}, {}] with {blocks}", shape.rows, shape.cols);
        return Err(Error::shape("shape", format_args!("at most {most} blocks of 1x128"), got));
    }
    // Ends that fall back let groups share rows, so each may hold nearly all; and the kernel adds them up in 32 bits.
    if shape.layout != Rows::Masked && shape.rows.saturating_mul(shape.groups) > u32::MAX as usize {
        let got = format!("{} of {}", shape.groups, shape.rows);
        return Err(Error::shape("shape", "groups times rows below 2^32", got));
    }
    if let Rows::Contiguous { alignment } = shape.layout
        && (alignment == 0 || alignment > most)
    {
        return Err(Error::option("alignment", format_args!("1 to {most}"), alignment));
    }
    let all = device.properties().sms;
    let sms = options.sms.unwrap_or(all);
    if sms == 0 || sms > all {
        return Err(Error::option("sms", format_args!("1 to {all}"), sms));
    }
    Ok((name, sms))
}

impl Plan {
    /// Chooses a kernel and loads it if it is the first to need it. Host work only.
    pub fn new(device: &Device, shape: Shape, options: Options) -> Result<Plan> {
        let (name, sms) = choose(device, shape, options)?;
        Ok(Plan { device: device.clone(), shape, options, sms, kernel: device.kernel(name)? })
    }

    /// The entry name of the kernel.
    pub fn kernel(&self) -> &'static str {
        self.kernel.kernel.row.name
    }

    /// The shape planned for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The scratch memory a run wants: none.
    pub fn workspace(&self) -> Workspace {
        Workspace::NONE
    }

    /// Enqueues the pass. Checks every argument first, then makes one launch and nothing else. Without rows it launches nothing.
    ///
    /// The rows are those of `x`: in the contiguous layout at most those of the plan's shape, in the masked layout exactly. The
    /// memory behind the arguments must stay as it is until the stream has passed the launch; buffers of this library see to
    /// that when they are dropped.
    pub fn run(&self, stream: &Stream, args: Args<'_>) -> Result<()> {
        let rows = self.check(stream, &args)?;
        if rows == 0 {
            return Ok(());
        }
        let [x, sizes, q, scales] =
            [args.x.layout(), args.sizes.layout(), args.q.layout(), args.scales.layout()];
        let warps = self.kernel.kernel.row.threads as usize / 32;
        // A warp takes two groups of a row at a time.
        let wanted = (rows * (self.shape.cols / GROUP).div_ceil(2)).div_ceil(warps);
        let blocks = self.kernel.walkers(wanted, self.sms, self.options.sms.is_some());
        let span = match self.shape.layout {
            Rows::Contiguous { alignment } => alignment,
            Rows::Masked => rows / self.shape.groups,
        };
        let params = ParamBuffer::new()
            .u64(x.address)
            .u64(sizes.address)
            .u64(q.address)
            .u64(scales.address)
            .u32(self.shape.groups as u32)
            .u32(span as u32)
            .u32(rows as u32)
            .u32(self.shape.cols as u32)
            .u64(x.row_stride as u64)
            .u64(q.row_stride as u64)
            .u64(scales.row_stride as u64)
            .u64(scales.col_stride as u64)
            .u32(self.options.power_of_two as u32);
        // SAFETY: the kernel was loaded on the plan's device, which `check` found to be the stream's; the parameters are
        // the row's list in order; every address was checked to be on this device with these shapes and strides, and is
        // valid by the contract of the views; the kernel cuts whatever `sizes` holds to the rows given here.
        unsafe { self.kernel.launch(stream, blocks, self.options.programmatic, &params) }
    }

    /// Checks everything there is to check about the arguments, and returns the rows.
    fn check(&self, stream: &Stream, args: &Args<'_>) -> Result<usize> {
        let Shape { groups, rows: most, cols, layout } = self.shape;
        let device = self.device.id();
        if stream.device().id() != device {
            return Err(Error::device("stream", device, stream.device().id()));
        }
        let [x, sizes, q, scales] =
            [args.x.layout(), args.sizes.layout(), args.q.layout(), args.scales.layout()];
        let rows = x.rows;
        let fits = if layout == Rows::Masked { rows == most } else { rows <= most };
        if !fits || x.cols != 2 * cols {
            let word = if layout == Rows::Masked { "" } else { "at most " };
            let expected = format!("[rows, 2*cols] = [{word}{most}, {}]", 2 * cols);
            return Err(Error::shape("x", expected, x.shape_text()));
        }
        for (argument, layout, dtype, names, rows, cols, align) in [
            ("x", x, DType::BF16, "[rows, 2*cols]", rows, 2 * cols, 8),
            ("sizes", sizes, DType::I32, "[1, groups]", 1, groups, 4),
            ("q", q, DType::E4M3, "[rows, cols]", rows, cols, 4),
            ("scales", scales, DType::F32, "[rows, cols/128]", rows, cols / GROUP, 4),
        ] {
            layout.expect_device(argument, device)?;
            layout.expect_dtype(argument, dtype)?;
            layout.expect_shape(argument, names, rows, cols)?;
            layout.expect_aligned(argument, align)?;
            if argument != "scales" {
                layout.expect_row_major(argument, align)?;
            }
        }
        scales.expect_either_major("scales")?;
        for (argument, layout) in [("q", q), ("scales", scales)] {
            layout.expect_apart(argument, x, "x")?;
            layout.expect_apart(argument, sizes, "sizes")?;
        }
        scales.expect_apart("scales", q, "q")?;
        Ok(rows)
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} for {:?} on {})", self.kernel(), self.shape, self.device.id())
    }
}
