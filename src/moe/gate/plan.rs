//! Planning on the host, and enqueuing.

use crate::device::launch::ParamBuffer;
use crate::device::{Device, LoadedKernel, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Matrix, MatrixMut, Workspace};

/// Experts a token may choose, one for each lane of its warp.
const MOST_CHOICES: usize = 32;
/// Experts there may be, 16 for each lane.
const MOST_EXPERTS: usize = 512;

/// Tokens and experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    tokens: usize,
    experts: usize,
}

impl Shape {
    /// `tokens` is the most a run may bring.
    pub const fn new(tokens: usize, experts: usize) -> Shape {
        Shape { tokens, experts }
    }

    /// The most tokens.
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Experts.
    pub const fn experts(&self) -> usize {
        self.experts
    }
}

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Score {
    /// `1 / (1 + exp(-logit))`.
    Sigmoid,
    /// `exp(logit)`, over the sum of all experts'.
    Softmax,
}

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    score: Score,
    k: usize,
    groups: usize,
    topk_group: usize,
    normalize: bool,
    scale: f32,
    sms: Option<u32>,
    programmatic: bool,
}

impl Options {
    /// The `k` experts with the largest sigmoid, weights as they are.
    pub const fn sigmoid(k: usize) -> Options {
        Options {
            score: Score::Sigmoid,
            k,
            groups: 1,
            topk_group: 1,
            normalize: false,
            scale: 1.0,
            sms: None,
            programmatic: false,
        }
    }

    /// The `k` experts with the largest softmax, weights as they are.
    pub const fn softmax(k: usize) -> Options {
        Options { score: Score::Softmax, ..Options::sigmoid(k) }
    }

    /// DeepSeek-V3: sigmoid, 8 experts out of the 4 best of 8 groups, weights normalised and times 2.5.
    pub const fn deepseek_v3() -> Options {
        Options::sigmoid(8).groups(8, 4).normalize(true).scale(2.5)
    }

    /// Splits the experts into `groups` of neighbours and chooses among the `kept` best.
    #[must_use]
    pub const fn groups(mut self, groups: usize, kept: usize) -> Options {
        self.groups = groups;
        self.topk_group = kept;
        self
    }

    /// Divides the weights by their sum.
    #[must_use]
    pub const fn normalize(mut self, yes: bool) -> Options {
        self.normalize = yes;
        self
    }

    /// Multiplies the weights, `routed_scaling_factor`: a finite number.
    #[must_use]
    pub const fn scale(mut self, factor: f32) -> Options {
        self.scale = factor;
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

    /// Whether one of so many experts can be chosen in this way.
    pub(super) fn check(&self, experts: usize) -> Result<()> {
        if experts == 0 || experts > MOST_EXPERTS {
            return Err(Error::shape("shape", format_args!("1 to {MOST_EXPERTS} experts"), experts));
        }
        let Options { k, groups, topk_group, .. } = *self;
        let size = experts.checked_div(groups).unwrap_or(0);
        if groups == 0 || groups > 32 || size * groups != experts || (groups > 1 && size < 2) {
            let expected =
                format!("1 to 32 groups of equal size that divide {experts} experts, at least two in each");
            return Err(Error::option("groups", expected, groups));
        }
        if topk_group == 0 || topk_group > groups {
            return Err(Error::option("groups", format_args!("1 to {groups} groups kept"), topk_group));
        }
        let most = MOST_CHOICES.min(topk_group * size);
        if k == 0 || k > most {
            let expected =
                format!("1 to {most} experts a token, of the {} in kept groups", topk_group * size);
            return Err(Error::option("k", expected, k));
        }
        if !self.scale.is_finite() {
            return Err(Error::option("scale", "a finite number", self.scale));
        }
        Ok(())
    }

    pub(super) fn score(&self) -> Score {
        self.score
    }

    pub(super) fn k(&self) -> usize {
        self.k
    }

    pub(super) fn n_groups(&self) -> usize {
        self.groups
    }

    pub(super) fn kept_groups(&self) -> usize {
        self.topk_group
    }

    pub(super) fn normalizes(&self) -> bool {
        self.normalize
    }

    pub(super) fn factor(&self) -> f32 {
        self.scale
    }
}

/// The operands of one run.
#[derive(Debug)]
pub struct Args<'a> {
    logits: Matrix<'a>,
    topk_idx: MatrixMut<'a>,
    topk_weight: MatrixMut<'a>,
    bias: Option<Matrix<'a>>,
    counts: Option<MatrixMut<'a>>,
}

impl<'a> Args<'a> {
    /// The operands, all contiguous but for `logits`, addresses multiples of 4:
    ///
    /// | argument | type | shape |
    /// | --- | --- | --- |
    /// | `logits` | F32 | `[tokens, experts]`, row-major, any stride |
    /// | `topk_idx` | I32 | `[tokens, k]`, best first |
    /// | `topk_weight` | F32 | `[tokens, k]`, in the same order |
    ///
    /// Outputs share memory with nothing else.
    pub fn new(logits: Matrix<'a>, topk_idx: MatrixMut<'a>, topk_weight: MatrixMut<'a>) -> Args<'a> {
        Args { logits, topk_idx, topk_weight, bias: None, counts: None }
    }

    /// What is added to the scores for the choice, and not to the weights: F32 `[1, experts]`, `e_score_correction_bias`.
    #[must_use]
    pub fn bias(mut self, bias: Matrix<'a>) -> Args<'a> {
        self.bias = Some(bias);
        self
    }

    /// Tokens of each expert, I32 `[1, experts]`. A run **adds** to what is there, so that several batches add up to the load that
    /// [`balance`](crate::moe::balance) wants: begin with zeros.
    #[must_use]
    pub fn counts(mut self, counts: MatrixMut<'a>) -> Args<'a> {
        self.counts = Some(counts);
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

/// Whether such a gate can be planned on a device. Nothing is loaded or launched.
pub fn supports(device: &Device, shape: Shape, options: Options) -> Result<()> {
    choose(device, shape, options).map(drop)
}

/// The kernel's name and the SMs to use.
fn choose(device: &Device, shape: Shape, options: Options) -> Result<(&'static str, u32)> {
    if !device.supported() {
        let (major, minor) = device.properties().capability;
        return Err(Error::Unsupported {
            what: "a gate".into(),
            why: format!("the kernels are for compute capability 9.0 and {device} is {major}.{minor}"),
        });
    }
    let Shape { tokens, experts } = shape;
    if tokens > i32::MAX as usize {
        return Err(Error::shape("shape", format_args!("at most {} tokens", i32::MAX), tokens));
    }
    let name = match (options.score, experts > 256) {
        (Score::Sigmoid, false) => "hadal_gate_f32_sigmoid_e256_sm90a",
        (Score::Sigmoid, true) => "hadal_gate_f32_sigmoid_e512_sm90a",
        (Score::Softmax, false) => "hadal_gate_f32_softmax_e256_sm90a",
        (Score::Softmax, true) => "hadal_gate_f32_softmax_e512_sm90a",
    };
    options.check(experts)?;
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

    /// Enqueues the gate. Checks every argument first, then makes one launch and nothing else. Without tokens it launches nothing.
    ///
    /// The tokens are the rows of `logits`, at most those of the plan's shape. The memory behind the arguments must stay as it is
    /// until the stream has passed the launch; buffers of this library see to that when they are dropped.
    pub fn run(&self, stream: &Stream, args: Args<'_>) -> Result<()> {
        let tokens = self.check(stream, &args)?;
        if tokens == 0 {
            return Ok(());
        }
        let logits = args.logits.layout();
        let warps = self.kernel.kernel.row.threads as usize / 32;
        let blocks = self.kernel.walkers(tokens.div_ceil(warps), self.sms, self.options.sms.is_some());
        let Options { k, groups, topk_group, normalize, scale, .. } = self.options;
        let params = ParamBuffer::new()
            .u64(logits.address)
            .u64(args.bias.as_ref().map_or(0, |bias| bias.layout().address))
            .u64(args.topk_idx.layout().address)
            .u64(args.topk_weight.layout().address)
            .u64(args.counts.as_ref().map_or(0, |counts| counts.layout().address))
            .u64(logits.row_stride as u64)
            .u32(tokens as u32)
            .u32(self.shape.experts as u32)
            .u32(k as u32)
            .u32(groups as u32)
            .u32(topk_group as u32)
            .u32(normalize as u32)
            .f32(scale);
        // SAFETY: the kernel was loaded on the plan's device, which `check` found to be the stream's; the parameters are
        // the row's list in order; every address was checked to be on this device with these shapes and strides, and is
        // valid by the contract of the views.
        unsafe { self.kernel.launch(stream, blocks, self.options.programmatic, &params) }
    }

    /// Checks everything there is to check about the arguments, and returns the tokens.
    fn check(&self, stream: &Stream, args: &Args<'_>) -> Result<usize> {
        let Shape { tokens: most, experts } = self.shape;
        let device = self.device.id();
        if stream.device().id() != device {
            return Err(Error::device("stream", device, stream.device().id()));
        }
        let logits = args.logits.layout();
        let (idx, weight) = (args.topk_idx.layout(), args.topk_weight.layout());
        let (tokens, k) = (logits.rows, self.options.k);
        if tokens > most || logits.cols != experts {
            let expected = format!("[tokens, experts] = [at most {most}, {experts}]");
            return Err(Error::shape("logits", expected, logits.shape_text()));
        }
        let bias = args.bias.as_ref().map(|bias| bias.layout());
        let counts = args.counts.as_ref().map(|counts| counts.layout());
        let lists = "[1, experts]";
        let required = [
            ("logits", logits, DType::F32, "[tokens, experts]", tokens, experts),
            ("topk_idx", idx, DType::I32, "[tokens, k]", tokens, k),
            ("topk_weight", weight, DType::F32, "[tokens, k]", tokens, k),
        ];
        let optional = [("bias", bias, DType::F32), ("counts", counts, DType::I32)];
        let optional = optional
            .into_iter()
            .filter_map(|(argument, layout, dtype)| Some((argument, layout?, dtype, lists, 1, experts)));
        for (argument, layout, dtype, names, rows, cols) in required.into_iter().chain(optional) {
            layout.expect_device(argument, device)?;
            layout.expect_dtype(argument, dtype)?;
            layout.expect_shape(argument, names, rows, cols)?;
            layout.expect_aligned(argument, 4)?;
            layout.expect_row_major(argument, 4)?;
        }
        for (argument, layout) in [("topk_idx", idx), ("topk_weight", weight)] {
            if tokens > 1 && layout.row_stride != k {
                return Err(Error::stride(argument, format_args!("a row stride of {k}"), layout.row_stride));
            }
        }
        let outputs = [("topk_idx", Some(idx)), ("topk_weight", Some(weight)), ("counts", counts)];
        for (at, (argument, output)) in outputs.iter().enumerate() {
            let Some(output) = output else { continue };
            output.expect_apart(argument, logits, "logits")?;
            if let Some(bias) = bias {
                output.expect_apart(argument, bias, "bias")?;
            }
            for (other, layout) in &outputs[..at] {
                if let Some(layout) = layout {
                    output.expect_apart(argument, layout, other)?;
                }
            }
        }
        Ok(tokens)
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} for {:?} on {})", self.kernel(), self.shape, self.device.id())
    }
}
