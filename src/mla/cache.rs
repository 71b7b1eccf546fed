//! Appending new tokens to a paged latent cache.
//!
//! A token's 512 numbers of latent and 64 of RoPE become one row of the cache. Which one is either given for each token
//! ([`Place::Slots`]) or follows from the block table ([`Place::Table`]): the new tokens are then the last ones of each
//! request's length. A token whose row is negative or that the cache does not have is not written; nor is one whose page the cache
//! does not have, or whose position is before the request's beginning or past what its row of the table holds.
//!
//! **Determinism.** A copy: the same inputs give the same bits. Two tokens with one row leave either of them there.

use super::plan::expect_pages;
use super::{HEAD, LATENT};
use crate::device::launch::ParamBuffer;
use crate::device::{Device, LoadedKernel, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Layout, Matrix, MatrixMut, Workspace};

/// Bytes a lane moves at once.
const VECTOR: u64 = 16;

/// Sizes of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    tokens: usize,
    page: usize,
}

impl Shape {
    /// At most `tokens` new tokens, pages of `page` tokens.
    pub const fn new(tokens: usize, page: usize) -> Shape {
        Shape { tokens, page }
    }
}

/// How to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    sms: Option<u32>,
    programmatic: bool,
}

impl Options {
    /// Every SM, after the predecessor.
    pub const fn new() -> Options {
        Options { sms: None, programmatic: false }
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

/// Where the new tokens go.
#[derive(Debug)]
pub enum Place<'a> {
    /// The cache row of each token, I32 `[1, tokens]`; negative: nowhere.
    Slots(Matrix<'a>),
    /// The last positions of each request: the tokens of request r are rows `r · n` to `r · n + n − 1` of `latent`, n being
    /// tokens over requests.
    Table {
        /// I32 `[requests, pages of a request]`.
        block_table: Matrix<'a>,
        /// I32 `[1, requests]`, lengths that count the new tokens.
        cache_seqlens: Matrix<'a>,
    },
}

/// The operands of one run.
#[derive(Debug)]
pub struct Args<'a> {
    latent: Matrix<'a>,
    rope: Matrix<'a>,
    place: Place<'a>,
    cache: MatrixMut<'a>,
}

impl<'a> Args<'a> {
    /// `latent` BF16 `[tokens, 512]` and `rope` BF16 `[tokens, 64]`, which may be columns of one matrix; `cache` BF16
    /// `[pages · page, 576]`. Row-major, rows and addresses at multiples of 16 bytes; indices at multiples of 4. The cache shares
    /// memory with nothing else.
    pub fn new(latent: Matrix<'a>, rope: Matrix<'a>, place: Place<'a>, cache: MatrixMut<'a>) -> Args<'a> {
        Args { latent, rope, place, cache }
    }
}

/// The loaded kernel for a shape on a device. Cheap to clone; runs any number of times on any stream of the device.
#[derive(Clone)]
#[must_use]
pub struct Plan {
    device: Device,
    shape: Shape,
    programmatic: bool,
    sms: u32,
    budget: bool,
    kernel: LoadedKernel,
}

impl Plan {
    /// Loads the kernel if it is the first to need it. Host work only.
    pub fn new(device: &Device, shape: Shape, options: Options) -> Result<Plan> {
        let most = i32::MAX as usize / 2;
        if shape.tokens > most || shape.page == 0 || shape.page > most {
            let got = format!("{} tokens, pages of {}", shape.tokens, shape.page);
            return Err(Error::shape(
                "shape",
                format_args!("up to {most} tokens, pages of 1 to {most}"),
                got,
            ));
        }
        let all = device.properties().sms;
        let sms = options.sms.unwrap_or(all);
        if sms == 0 || sms > all {
            return Err(Error::option("sms", format_args!("1 to {all}"), sms));
        }
        let kernel = device.kernel("hadal_mla_cache_append_bf16_sm90a")?;
        Ok(Plan {
            device: device.clone(),
            shape,
            programmatic: options.programmatic,
            sms,
            budget: options.sms.is_some(),
            kernel,
        })
    }

    /// The entry name of the kernel.
    pub fn kernel(&self) -> &'static str {
        self.kernel.kernel.row.name
    }

    /// The scratch memory a run wants: none.
    pub fn workspace(&self) -> Workspace {
        Workspace::NONE
    }

    /// Enqueues the append. Checks every argument first, then makes one launch and nothing else. Without tokens it launches
    /// nothing. The tokens are the rows of `latent`, at most those of the plan's shape.
    pub fn run(&self, stream: &Stream, args: Args<'_>) -> Result<()> {
        let (tokens, each) = self.check(stream, &args)?;
        if tokens == 0 {
            return Ok(());
        }
        let [latent, rope, cache] = [args.latent.layout(), args.rope.layout(), args.cache.layout()];
        let [slots, table, lengths] = match &args.place {
            Place::Slots(slots) => [Some(slots), None, None],
            Place::Table { block_table, cache_seqlens } => [None, Some(block_table), Some(cache_seqlens)],
        }
        .map(|view| view.map(|view| view.layout()));
        let address = |layout: Option<&Layout>| layout.map_or(0, |layout| layout.address);
        let page = self.shape.page;
        let most = table.map_or(0, |table| table.cols.saturating_mul(page).min(i32::MAX as usize));
        let params = ParamBuffer::new()
            .u64(latent.address)
            .u64(rope.address)
            .u64(cache.address)
            .u64(address(slots))
            .u64(address(table))
            .u64(address(lengths))
            .u64(latent.row_stride as u64)
            .u64(rope.row_stride as u64)
            .u64(cache.row_stride as u64)
            .u64(table.map_or(0, |table| table.row_stride as u64))
            .u32(tokens as u32)
            .u32(each as u32)
            .u32(page as u32)
            .u32(cache.rows as u32)
            .u32(most as u32);
        let warps = self.kernel.kernel.row.threads as usize / 32;
        let blocks = self.kernel.walkers(tokens.div_ceil(warps), self.sms, self.budget);
        // SAFETY: the kernel was loaded on the plan's device, which `check` found to be the stream's; the parameters are
        // the row's list in order; every address was checked to be on this device with these shapes and strides, and is
        // valid by the contract of the views.
        unsafe { self.kernel.launch(stream, blocks, self.programmatic, &params) }
    }

    /// Checks everything there is to check about the arguments; returns the tokens, and those of each request.
    fn check(&self, stream: &Stream, args: &Args<'_>) -> Result<(usize, usize)> {
        let device = self.device.id();
        if stream.device().id() != device {
            return Err(Error::device("stream", device, stream.device().id()));
        }
        let [latent, rope, cache] = [args.latent.layout(), args.rope.layout(), args.cache.layout()];
        let tokens = latent.rows;
        if tokens > self.shape.tokens {
            let expected = format!("[tokens, 512] = [at most {}, {LATENT}]", self.shape.tokens);
            return Err(Error::shape("latent", expected, latent.shape_text()));
        }
        for (argument, layout, names, rows, cols) in [
            ("latent", latent, "[tokens, 512]", tokens, LATENT),
            ("rope", rope, "[tokens, 64]", tokens, HEAD - LATENT),
            ("cache", cache, "[pages · page, 576]", cache.rows, HEAD),
        ] {
            layout.expect_device(argument, device)?;
            layout.expect_dtype(argument, DType::BF16)?;
            layout.expect_shape(argument, names, rows, cols)?;
            layout.expect_row_major(argument, VECTOR)?;
            layout.expect_aligned(argument, VECTOR)?;
        }
        expect_pages(cache, self.shape.page)?;
        let mut each = 1;
        let indices = match &args.place {
            Place::Slots(slots) => [Some(("slots", slots.layout(), "[1, tokens]", 1, tokens)), None],
            Place::Table { block_table: table, cache_seqlens: lengths } => {
                let requests = table.layout().rows;
                if table.layout().cols == 0 || requests == 0 || !tokens.is_multiple_of(requests) {
                    let expected = format!(
                        "[requests, pages of a request] with requests that divide {tokens} tokens, a page at least"
                    );
                    return Err(Error::shape("block_table", expected, table.layout().shape_text()));
                }
                each = tokens / requests;
                let width = table.layout().cols;
                [
                    Some(("block_table", table.layout(), "[requests, pages of a request]", requests, width)),
                    Some(("cache_seqlens", lengths.layout(), "[1, requests]", 1, requests)),
                ]
            }
        };
        for (argument, layout, names, rows, cols) in indices.into_iter().flatten() {
            layout.expect_device(argument, device)?;
            layout.expect_dtype(argument, DType::I32)?;
            layout.expect_shape(argument, names, rows, cols)?;
            layout.expect_row_major(argument, 4)?;
            layout.expect_aligned(argument, 4)?;
            cache.expect_apart("cache", layout, argument)?;
        }
        cache.expect_apart("cache", latent, "latent")?;
        cache.expect_apart("cache", rope, "rope")?;
        Ok((tokens, each))
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} for {:?} on {})", self.kernel(), self.shape, self.device.id())
    }
}
