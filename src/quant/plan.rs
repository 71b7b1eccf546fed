//! Planning a quantisation on the host, and enqueuing it.

use crate::device::launch::ParamBuffer;
use crate::device::{Device, LoadedKernel, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Matrix, MatrixMut, Workspace};

/// Columns of a group.
const GROUP: usize = 128;

/// Rows and columns of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    rows: usize,
    cols: usize,
}

impl Shape {
    /// `rows` is the most rows a run may bring.
    pub const fn new(rows: usize, cols: usize) -> Shape {
        Shape { rows, cols }
    }

    /// The most rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub const fn cols(&self) -> usize {
        self.cols
    }
}

/// How to quantise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    group_rows: usize,
    input: DType,
    power_of_two: bool,
    sms: Option<u32>,
    programmatic: bool,
}

impl Options {
    /// A scale for each row and 128 columns, from BF16.
    pub const fn activations() -> Options {
        Options { group_rows: 1, input: DType::BF16, power_of_two: false, sms: None, programmatic: false }
    }

    /// A scale for each block of 128 × 128, from BF16.
    pub const fn weights() -> Options {
        Options { group_rows: 128, ..Options::activations() }
    }

    /// The element type of `x`: BF16, F16 or F32.
    #[must_use]
    pub const fn input(mut self, dtype: DType) -> Options {
        self.input = dtype;
        self
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
    q: MatrixMut<'a>,
    scales: MatrixMut<'a>,
    workspace: Option<MatrixMut<'a>>,
}

impl<'a> Args<'a> {
    /// The operands:
    ///
    /// | argument | type | shape | layout |
    /// | --- | --- | --- | --- |
    /// | `x` | BF16, F16 or F32 | `[rows, cols]` | row-major, any stride |
    /// | `q` | E4M3 | `[rows, cols]` | row-major, any stride |
    /// | `scales` | F32 | `[rows, ⌈cols/128⌉]` or `[⌈rows/128⌉, ⌈cols/128⌉]` | row-major or transposed |
    ///
    /// Addresses are multiples of the element's size. No two share memory. Rows of `x` and `q` that all begin at multiples
    /// of four elements are moved as vectors, others one by one.
    pub fn new(x: Matrix<'a>, q: MatrixMut<'a>, scales: MatrixMut<'a>) -> Args<'a> {
        Args { x, q, scales, workspace: None }
    }

    /// Scratch memory, a `[1, bytes]` matrix of U8, for plans whose [`Plan::workspace`] is not empty.
    #[must_use]
    pub fn workspace(mut self, workspace: MatrixMut<'a>) -> Args<'a> {
        self.workspace = Some(workspace);
        self
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

/// Whether such a quantisation can be planned on a device. Nothing is loaded or launched.
pub fn supports(device: &Device, shape: Shape, options: Options) -> Result<()> {
    choose(device, shape, options).map(drop)
}

/// The kernel's name and the SMs to use.
fn choose(device: &Device, shape: Shape, options: Options) -> Result<(String, u32)> {
    if !device.supported() {
        let (major, minor) = device.properties().capability;
        return Err(Error::Unsupported {
            what: "quantisation to E4M3".into(),
            why: format!("the kernels are for compute capability 9.0 and {device} is {major}.{minor}"),
        });
    }
    if !matches!(options.input, DType::BF16 | DType::F16 | DType::F32) {
        return Err(Error::dtype("x", "bf16, f16 or f32", options.input));
    }
    // The kernels count rows, columns and groups in 32 bits, and step past the end by at most a grid.
    let most = i32::MAX as usize;
    let groups = shape.rows.div_ceil(options.group_rows).saturating_mul(shape.cols.div_ceil(GROUP));
    if shape.rows > most || shape.cols > most || groups > most {
        let expected = format!("rows, columns and groups up to {most}");
        let got = format!("[{}, {}] with {groups} groups", shape.rows, shape.cols);
        return Err(Error::shape("shape", expected, got));
    }
    let all = device.properties().sms;
    let sms = options.sms.unwrap_or(all);
    if sms == 0 || sms > all {
        return Err(Error::option("sms", format_args!("1 to {all}"), sms));
    }
    Ok((format!("hadal_quantize_{}_e4m3_{}x128_sm90a", options.input, options.group_rows), sms))
}

impl Plan {
    /// Chooses a kernel and loads it if it is the first to need it. Host work only.
    pub fn new(device: &Device, shape: Shape, options: Options) -> Result<Plan> {
        let (name, sms) = choose(device, shape, options)?;
        Ok(Plan { device: device.clone(), shape, options, sms, kernel: device.kernel(&name)? })
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

    /// Enqueues the quantisation. Checks every argument first, then makes one launch and nothing else. Without rows or
    /// columns it launches nothing.
    ///
    /// The rows are those of `x`, at most those of the plan's shape. The memory behind the arguments must stay as it is
    /// until the stream has passed the launch; buffers of this library see to that when they are dropped.
    pub fn run(&self, stream: &Stream, args: Args<'_>) -> Result<()> {
        let (rows, cols) = self.check(stream, &args)?;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let [x, q, scales] = [args.x.layout(), args.q.layout(), args.scales.layout()];
        let groups = rows.div_ceil(self.options.group_rows) * cols.div_ceil(GROUP);
        // Activations: a warp for each group. Weights: a block for each.
        let warps = self.kernel.kernel.row.threads as usize / 32;
        let wanted = if self.options.group_rows == 1 { groups.div_ceil(warps) } else { groups };
        let blocks = self.kernel.walkers(wanted, self.sms, self.options.sms.is_some());
        let params = ParamBuffer::new()
            .u64(x.address)
            .u64(q.address)
            .u64(scales.address)
            .u32(rows as u32)
            .u32(cols as u32)
            .u64(x.row_stride as u64)
            .u64(q.row_stride as u64)
            .u64(scales.row_stride as u64)
            .u64(scales.col_stride as u64)
            .u32(self.options.power_of_two as u32);
        // SAFETY: the kernel was loaded on the plan's device, which `check` found to be the stream's; the parameters are
        // the row's list in order; every address was checked to be on this device with these shapes and strides, and is
        // valid by the contract of the views.
        unsafe { self.kernel.launch(stream, blocks, self.options.programmatic, &params) }
    }

    /// Checks everything there is to check about the arguments, and returns rows and columns.
    fn check(&self, stream: &Stream, args: &Args<'_>) -> Result<(usize, usize)> {
        let Shape { rows: most, cols } = self.shape;
        let device = self.device.id();
        if stream.device().id() != device {
            return Err(Error::device("stream", device, stream.device().id()));
        }
        let [x, q, scales] = [args.x.layout(), args.q.layout(), args.scales.layout()];
        let rows = x.rows;
        if rows > most || x.cols != cols {
            let expected = format!("[rows, cols] = [at most {most}, {cols}]");
            return Err(Error::shape("x", expected, x.shape_text()));
        }
        let (scale_rows, scale_cols) = (rows.div_ceil(self.options.group_rows), cols.div_ceil(GROUP));
        let scale_names = if self.options.group_rows == 1 {
            "[rows, ⌈cols/128⌉]"
        } else {
            "[⌈rows/128⌉, ⌈cols/128⌉]"
        };
        for (argument, layout, dtype, names, rows, cols) in [
            ("x", x, self.options.input, "[rows, cols]", rows, cols),
            ("q", q, DType::E4M3, "[rows, cols]", rows, cols),
            ("scales", scales, DType::F32, scale_names, scale_rows, scale_cols),
        ] {
            layout.expect_device(argument, device)?;
            layout.expect_dtype(argument, dtype)?;
            layout.expect_shape(argument, names, rows, cols)?;
        }
        for (argument, layout) in [("x", x), ("q", q)] {
            layout.expect_row_major(argument, 1)?;
        }
        scales.expect_either_major("scales")?;
        for (argument, layout) in [("x", x), ("q", q), ("scales", scales)] {
            layout.expect_aligned(argument, layout.dtype.size() as u64)?;
        }
        q.expect_apart("q", x, "x")?;
        scales.expect_apart("scales", x, "x")?;
        scales.expect_apart("scales", q, "q")?;
        let workspace = args.workspace.as_ref().map(|w| w.layout());
        self.workspace().check(device, workspace)?;
        if let Some(workspace) = workspace {
            for (argument, other) in [("x", x), ("q", q), ("scales", scales)] {
                workspace.expect_apart("workspace", other, argument)?;
            }
        }
        Ok((rows, cols))
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} for {:?} on {})", self.kernel(), self.shape, self.device.id())
    }
}
