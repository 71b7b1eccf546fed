//! Planning a decoding step on the host, and enqueuing it.

use super::args::{Args, LseBase, Options, Shape};
use super::{HEAD, LATENT};
use crate::device::launch::ParamBuffer;
use crate::device::map::{MapType, Swizzle, TensorMapSpec};
use crate::device::{Device, LoadedKernel, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Layout, Workspace};

/// Rows of a tile, and tokens of a block of the cache.
const TILE: usize = 64;
/// Blocks' worth of time that a request costs besides its blocks (loading Q, storing the output): what the cuts reckon with.
const OVERHEAD: usize = 4;
/// Thread blocks of the combining kernel an SM has room for.
const COMBINERS_PER_SM: usize = 8;
/// What tensor copies want addresses and row pitches to be multiples of, in bytes.
const PITCH: u64 = 16;

/// How requests are spread over thread blocks.
#[derive(Debug, Clone, Copy)]
struct Spread {
    /// Tiles of 64 rows of a request.
    tiles: usize,
    /// Parts that the line of all requests is cut into, for each tile.
    parts: usize,
    /// Blocks of a piece when cuts are fixed; 0 when they are free.
    split_blocks: usize,
    /// Units between requests.
    overhead: usize,
    /// Partial results of one tile that have to be kept; 0 when nothing can be split.
    slots: usize,
    sms: usize,
}

/// A chosen kernel for a shape on a device. Cheap to clone; runs any number of times on any stream of the device.
#[derive(Clone)]
#[must_use]
pub struct Plan {
    device: Device,
    shape: Shape,
    options: Options,
    spread: Spread,
    decode: LoadedKernel,
    combine: LoadedKernel,
}

/// Whether a decoding step of this shape and these options can be planned on a device. Nothing is loaded or launched.
pub fn supports(device: &Device, shape: Shape, options: Options) -> Result<()> {
    choose(device, shape, options).map(drop)
}

fn choose(device: &Device, shape: Shape, options: Options) -> Result<Spread> {
    if !device.supported() {
        let (major, minor) = device.properties().capability;
        return Err(Error::Unsupported {
            what: "MLA decoding".into(),
            why: format!("the kernels are for compute capability 9.0 and {device} is {major}.{minor}"),
        });
    }
    // The kernels count in 32 bits, and coordinates of tensor copies are signed.
    let most = i32::MAX as usize / 4;
    for (name, value) in [
        ("query_tokens", shape.query_tokens),
        ("heads", shape.heads),
        ("most_tokens", shape.most_tokens),
        ("page", shape.page),
    ] {
        if value == 0 || value > most {
            return Err(Error::shape(
                "shape",
                format_args!("{name} from 1 to {most}"),
                format_args!("{name} = {value}"),
            ));
        }
    }
    let rows = shape.query_tokens.saturating_mul(shape.heads);
    let line = shape.requests.saturating_mul(shape.most_tokens.div_ceil(TILE) + OVERHEAD);
    if rows.saturating_mul(shape.requests.max(1)) > most || line > most {
        let expected = format!("at most {most} rows and blocks of {TILE} tokens over all requests");
        let got = format!("{} rows for each of {} requests, {line} blocks", rows, shape.requests);
        return Err(Error::shape("shape", expected, got));
    }
    if !(options.softmax_scale.is_normal() && options.softmax_scale > 0.0) {
        let expected = "a positive normal number";
        return Err(Error::option("softmax_scale", expected, options.softmax_scale));
    }
    let split = options.split_tokens;
    if split == 0 || !split.is_multiple_of(2 * TILE) || split > most {
        let expected = format!("a multiple of {} up to {most}", 2 * TILE);
        return Err(Error::option("split_tokens", expected, split));
    }
    let all = device.properties().sms;
    let sms = options.sms.unwrap_or(all);
    if sms == 0 || sms > all {
        return Err(Error::option("sms", format_args!("1 to {all}"), sms));
    }

    let (sms, tiles) = (sms as usize, rows.div_ceil(TILE));
    let split_blocks = if options.batch_invariant { split / TILE } else { 0 };
    let units = shape.most_tokens.div_ceil(TILE).div_ceil(split_blocks.max(1));
    let overhead = if options.batch_invariant || shape.requests == 1 { 0 } else { OVERHEAD };
    let parts = (sms / tiles).max(1).min((shape.requests * units).max(1));
    let slots = match (options.batch_invariant, units, parts) {
        (_, 1, _) | (false, _, 1) => 0,
        (true, ..) => shape.requests * units,
        (false, ..) => 2 * parts,
    };
    // Partial results are numbered in 32 bits.
    if slots.saturating_mul(tiles) > i32::MAX as usize {
        let expected = format!("at most {} pieces of tiles of {TILE} rows", i32::MAX);
        return Err(Error::shape("shape", expected, format_args!("{slots} for each of {tiles} tiles")));
    }
    Ok(Spread { tiles, parts, split_blocks, overhead, slots, sms })
}

impl Plan {
    /// Chooses how to spread `shape` and loads the kernels if it is the first to need them. Host work only.
    pub fn new(device: &Device, shape: Shape, options: Options) -> Result<Plan> {
        let spread = choose(device, shape, options)?;
        let decode = device.kernel("hadal_mla_decode_bf16_paged_m64_sm90a")?;
        let combine = device.kernel("hadal_mla_combine_bf16_sm90a")?;
        Ok(Plan { device: device.clone(), shape, options, spread, decode, combine })
    }

    /// The entry names of the kernels a run launches, in order.
    pub fn kernels(&self) -> Vec<&'static str> {
        let combine = (self.spread.slots > 0).then_some(self.combine);
        std::iter::once(self.decode).chain(combine).map(|kernel| kernel.kernel.row.name).collect()
    }

    /// The shape planned for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The scratch memory a run wants: partial results in F32 where requests may be split.
    pub fn workspace(&self) -> Workspace {
        match self.partial_rows() {
            0 => Workspace::NONE,
            rows => Workspace { bytes: rows * (LATENT + 1) * 4, align: PITCH as usize },
        }
    }

    fn partial_rows(&self) -> usize {
        self.spread.slots * self.spread.tiles * TILE
    }

    /// Enqueues the step. Checks every argument first, then makes one launch, or two where requests may be split, and nothing
    /// else: no allocation on the device, no copy, no event, no wait. Without requests it launches nothing.
    ///
    /// The requests are the rows of `block_table`, at most those of the plan's shape. The memory behind the arguments must
    /// stay as it is until the stream has passed the launches; buffers of this library see to that when they are dropped.
    pub fn run(&self, stream: &Stream, args: Args<'_>) -> Result<()> {
        let requests = self.check(stream, &args)?;
        if requests == 0 {
            return Ok(());
        }
        let Shape { query_tokens, heads, page, .. } = self.shape;
        let Spread { tiles, parts, split_blocks, overhead, sms, slots } = self.spread;
        let [q, cache, table] = [args.q.layout(), args.cache.layout(), args.block_table.layout()];
        let (lengths, out, lse) = (args.cache_seqlens.layout(), args.out.layout(), args.lse.layout());
        let rows = query_tokens * heads;
        let most_tokens = self.shape.most_tokens.min(table.cols.saturating_mul(page));
        // Pages are whole multiples of the box, so a box never leaves its page.
        let piece = 1 << page.trailing_zeros().min(TILE.trailing_zeros());
        let partial = args.workspace.as_ref().map_or(0, |workspace| workspace.address());
        let partial_lse = partial + (self.partial_rows() * LATENT * 4) as u64;
        let lse_unit = match self.options.lse_base {
            LseBase::E => std::f32::consts::LN_2,
            LseBase::Two => 1.0,
        };
        let mut params = ParamBuffer::new();
        for (argument, layout, rows) in [("q", q, TILE as u32), ("cache", cache, piece)] {
            let dims = [
                (layout.cols as u64, layout.dtype.size() as u64, 64),
                (layout.rows as u64, layout.row_bytes() as u64, rows),
            ];
            let spec = TensorMapSpec::new(argument, MapType::BF16, Swizzle::B128, layout.address, dims);
            params = params.map(&self.device.driver().encode_tensor_map(&spec)?);
        }
        let params = params
            .u64(table.address)
            .u64(lengths.address)
            .u64(out.address)
            .u64(lse.address)
            .u64(partial)
            .u64(partial_lse)
            .u64(out.row_stride as u64)
            .u64(table.row_stride as u64)
            .u32(requests as u32)
            .u32(rows as u32)
            .u32(heads as u32)
            .u32(if self.options.causal { query_tokens as u32 } else { 0 })
            .u32(tiles as u32)
            .u32(parts as u32)
            .u32(page as u32)
            .u32(piece)
            .u32(cache.rows as u32)
            .u32(most_tokens as u32)
            .u32(split_blocks as u32)
            .u32(overhead as u32)
            .f32(self.options.softmax_scale * std::f32::consts::LOG2_E)
            .f32(lse_unit);
        let blocks = (parts * tiles).min(sms) as u32;
        // SAFETY: the kernel was loaded on the plan's device, which `check` found to be the stream's; the parameters are
        // the row's list in order; every address was checked to be on this device with these shapes and strides, and is
        // valid by the contract of the views; the workspace holds what `slots` says.
        unsafe { self.decode.launch(stream, blocks, self.options.programmatic, &params) }?;
        if slots == 0 {
            return Ok(());
        }
        let params = ParamBuffer::new()
            .u64(lengths.address)
            .u64(out.address)
            .u64(lse.address)
            .u64(partial)
            .u64(partial_lse)
            .u64(out.row_stride as u64)
            .u32(requests as u32)
            .u32(rows as u32)
            .u32(tiles as u32)
            .u32(parts as u32)
            .u32(most_tokens as u32)
            .u32(split_blocks as u32)
            .u32(overhead as u32)
            .f32(lse_unit);
        // A launch of its own, not the last block to arrive: one long request on 132 SMs leaves 66 pieces for each of two tiles of
        // 128 rows, 8.7 MB a tile. All SMs add these within microseconds; two of them, at the 64 bytes a cycle an SM gets from its
        // L2, would take some 80 (modelled), and decoding 16 thousand tokens takes 6. Its blocks are there early, and wait.
        // Several blocks an SM would spread over more SMs than a budget allows, and so would early ones beside blocks of the first kernel.
        let early = self.options.sms.is_none();
        let per_sm = if self.options.sms.is_some() { 1 } else { COMBINERS_PER_SM };
        let blocks = (requests * rows).min(per_sm * sms) as u32;
        // SAFETY: as above. It waits for the first kernel before it reads, so it may start early.
        unsafe { self.combine.launch(stream, blocks, early, &params) }
    }

    /// Checks everything there is to check about the arguments, and returns the number of requests.
    fn check(&self, stream: &Stream, args: &Args<'_>) -> Result<usize> {
        let Shape { requests: most, query_tokens, heads, page, .. } = self.shape;
        let device = self.device.id();
        if stream.device().id() != device {
            return Err(Error::device("stream", device, stream.device().id()));
        }
        let [q, cache, table] = [args.q.layout(), args.cache.layout(), args.block_table.layout()];
        let (lengths, out, lse) = (args.cache_seqlens.layout(), args.out.layout(), args.lse.layout());
        let requests = table.rows;
        if requests > most || table.cols == 0 {
            let expected = format!("[requests, pages of a request] = [at most {most}, at least 1]");
            return Err(Error::shape("block_table", expected, table.shape_text()));
        }
        let tokens = requests * query_tokens;
        for (argument, layout, dtype, names, rows, cols) in [
            ("q", q, DType::BF16, "[requests · query_tokens · heads, 576]", tokens * heads, HEAD),
            ("cache", cache, DType::BF16, "[pages · page, 576]", cache.rows, HEAD),
            ("block_table", table, DType::I32, "[requests, pages of a request]", requests, table.cols),
            ("cache_seqlens", lengths, DType::I32, "[1, requests]", 1, requests),
            ("out", out, DType::BF16, "[requests · query_tokens · heads, 512]", tokens * heads, LATENT),
            ("lse", lse, DType::F32, "[requests · query_tokens, heads]", tokens, heads),
        ] {
            layout.expect_device(argument, device)?;
            layout.expect_dtype(argument, dtype)?;
            layout.expect_shape(argument, names, rows, cols)?;
        }
        expect_pages(cache, page)?;
        for (argument, layout, bytes) in [
            ("q", q, PITCH),
            ("cache", cache, PITCH),
            ("block_table", table, 4),
            ("cache_seqlens", lengths, 4),
            ("out", out, PITCH),
            ("lse", lse, 4),
        ] {
            layout.expect_row_major(argument, bytes)?;
            layout.expect_aligned(argument, bytes)?;
        }
        if lse.rows > 1 && lse.row_stride != heads {
            let expected = format!("rows without gaps: a row stride of {heads}");
            return Err(Error::stride("lse", expected, lse.row_stride));
        }
        let inputs = [("q", q), ("cache", cache), ("block_table", table), ("cache_seqlens", lengths)];
        for (argument, input) in inputs {
            out.expect_apart("out", input, argument)?;
            lse.expect_apart("lse", input, argument)?;
        }
        lse.expect_apart("lse", out, "out")?;
        let workspace = args.workspace.as_ref().map(|w| w.layout());
        if requests > 0 || workspace.is_some() {
            self.workspace().check(device, workspace)?;
        }
        if let Some(workspace) = workspace {
            for (argument, other) in inputs.into_iter().chain([("out", out), ("lse", lse)]) {
                workspace.expect_apart("workspace", other, argument)?;
            }
        }
        Ok(requests)
    }
}

/// A cache is whole pages, and few enough rows for the coordinates of a tensor copy.
pub(super) fn expect_pages(cache: &Layout, page: usize) -> Result<()> {
    let most = i32::MAX as usize / 2;
    if cache.rows == 0 || !cache.rows.is_multiple_of(page) || cache.rows > most {
        let expected = format!("[pages · page, 576] with pages of {page} tokens and 1 to {most} rows");
        return Err(Error::shape("cache", expected, cache.shape_text()));
    }
    Ok(())
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} for {:?} on {})", self.kernels().join(", "), self.shape, self.device.id())
    }
}
