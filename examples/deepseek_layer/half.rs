//! The buffers of a micro-batch on one rank, from the cache to the combined answers. All of them stay until the run is verified.

use hadal::device::Event;
use hadal::moe::exchange;
use hadal::{Buffer, Device, E4M3, Result, Stream, bf16, mla, quant};

use super::model::Model;
use super::options::{PAGE, Sizes};

/// A micro-batch on its way through the layer.
pub struct Half {
    pub number: usize,
    pub exchange: exchange::Plan,
    pub attention: Attention,
    pub routing: Routing,
    pub experts: Experts,
    pub shared: Shared,
    // On the host.
    pub hidden: Vec<Vec<f64>>,
    pub residual: Vec<Vec<f64>>,
    // What the other stream waits for.
    pub routed: Option<Event>,
    pub arrived: Option<Event>,
    pub answered: Option<Event>,
}

pub struct Attention {
    pub q: Option<Buffer<bf16>>,
    pub latent: Option<Buffer<bf16>>,
    pub rope: Option<Buffer<bf16>>,
    pub cache: Buffer<bf16>,
    pub table: Buffer<i32>,
    pub lengths: Buffer<i32>,
    pub out: Buffer<bf16>,
    pub lse: Buffer<f32>,
    pub workspace: Buffer<u8>,
}

pub struct Routing {
    pub logits: Option<Buffer<f32>>,
    pub topk_idx: Buffer<i32>,
    pub topk_weight: Buffer<f32>,
    pub counts: Buffer<i32>,
    /// `topk_idx` with slots for experts.
    pub slots: Buffer<i32>,
    pub normed: Option<Buffer<bf16>>,
    pub quantized: Buffer<E4M3>,
    pub scales: Buffer<f32>,
}

/// From the dispatch to the combine.
pub struct Experts {
    pub handle: Buffer<u8>,
    pub expanded: Buffer<E4M3>,
    pub expanded_scales: Buffer<f32>,
    pub map: Buffer<i32>,
    pub ends: Buffer<i32>,
    pub both: Buffer<bf16>,
    pub activated: Buffer<E4M3>,
    pub activated_scales: Buffer<f32>,
    pub answers: Buffer<bf16>,
    pub out: Buffer<bf16>,
}

/// The shared expert's part.
pub struct Shared {
    pub quantized: Buffer<E4M3>,
    pub scales: Buffer<f32>,
    pub ends: Buffer<i32>,
    pub both: Buffer<bf16>,
    pub activated: Buffer<E4M3>,
    pub activated_scales: Buffer<f32>,
    pub out: Buffer<bf16>,
}

impl Half {
    pub fn new(
        device: &Device,
        stream: &Stream,
        model: &Model,
        (rank, number): (usize, usize),
        exchange: exchange::Plan,
        mla: &mla::Plan,
    ) -> Result<Half> {
        let sizes = model.sizes;
        let Sizes { hidden, inter, tokens, heads, experts, topk, cached, .. } = sizes;
        let (rows, blocks, ld) = (sizes.rows(), hidden / 128, quant::m_major_stride(tokens));
        Ok(Half {
            number,
            attention: Attention {
                q: None,
                latent: None,
                rope: None,
                cache: device.upload(stream, &cache(model, rank, number))?,
                table: device.upload(stream, &table(&sizes))?,
                lengths: device.upload(stream, &vec![cached as i32; tokens])?,
                out: device.alloc(tokens * heads * mla::LATENT)?,
                lse: device.alloc(tokens * heads)?,
                workspace: device.alloc(mla.workspace().bytes)?,
            },
            routing: Routing {
                logits: None,
                topk_idx: device.alloc(tokens * topk)?,
                topk_weight: device.alloc(tokens * topk)?,
                counts: device.upload(stream, &vec![0; experts])?,
                slots: device.alloc(tokens * topk)?,
                normed: None,
                quantized: device.alloc(tokens * hidden)?,
                scales: device.alloc(tokens * blocks)?,
            },
            experts: Experts {
                handle: device.alloc(exchange.handle().bytes)?,
                expanded: device.alloc(rows * hidden)?,
                expanded_scales: device.alloc(rows * blocks)?,
                map: device.alloc(rows)?,
                ends: device.alloc(sizes.local_experts())?,
                both: device.alloc(rows * 2 * inter)?,
                activated: device.alloc(rows * inter)?,
                activated_scales: device.alloc(rows * inter / 128)?,
                answers: device.alloc(rows * hidden)?,
                out: device.alloc(tokens * hidden)?,
            },
            shared: Shared {
                quantized: device.alloc(tokens * hidden)?,
                scales: device.alloc(ld * blocks)?,
                ends: device.upload(stream, &[tokens as i32])?,
                both: device.alloc(tokens * 2 * inter)?,
                activated: device.alloc(tokens * inter)?,
                activated_scales: device.alloc(ld * inter / 128)?,
                out: device.alloc(tokens * hidden)?,
            },
            hidden: Vec::new(),
            residual: Vec::new(),
            routed: None,
            arrived: None,
            answered: None,
            exchange,
        })
    }
}

/// The block table: pages from the last to the first, so that it is not the identity.
pub fn table(sizes: &Sizes) -> Vec<i32> {
    (0..sizes.tokens * sizes.pages()).rev().map(|page| page as i32).collect()
}

/// A half's cache before the new tokens: NaN where no token is.
pub fn cache(model: &Model, rank: usize, half: usize) -> Vec<bf16> {
    let sizes = model.sizes;
    let (tokens, pages, table) = (sizes.tokens, sizes.pages(), table(&sizes));
    let mut cache = vec![bf16::NAN; tokens * pages * PAGE * mla::HEAD];
    for request in 0..tokens {
        for (at, row) in model.cached(rank, half, request).chunks(mla::HEAD).enumerate() {
            let page = table[request * pages + at / PAGE] as usize;
            cache[(page * PAGE + at % PAGE) * mla::HEAD..][..mla::HEAD].copy_from_slice(row);
        }
    }
    cache
}
