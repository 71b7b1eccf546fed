//! One rank: its buffers, its plans, and what it enqueues.

use hadal::comm::Partition;
use hadal::device::Event;
use hadal::moe::exchange::{self, Combine, Dispatch, Expand, Status};
use hadal::moe::{gate, swiglu};
use hadal::{Buffer, Device, E4M3, Result, Stream, bf16, gemm, mla, quant};

use crate::model::{HIDDEN, INTER, Model, SOFTMAX_SCALE, Sizes, narrow, wide};

/// Micro-batches, each half of a rank's requests.
pub const MICRO_BATCHES: usize = 2;
/// Expanded rows of an expert begin at a multiple of this.
pub const ALIGNMENT: usize = 16;
const BLOCKS: usize = HIDDEN / 128;

/// A micro-batch on its way through the layer.
struct Half {
    exchange: exchange::Plan,
    // Attention.
    cache: Buffer<bf16>,
    table: Buffer<i32>,
    lengths: Buffer<i32>,
    attention: Buffer<bf16>,
    lse: Buffer<f32>,
    mla_workspace: Buffer<u8>,
    // Routing.
    hidden: Vec<Vec<f64>>,
    residual: Vec<Vec<f64>>,
    topk_idx: Buffer<i32>,
    topk_weight: Buffer<f32>,
    slots: Buffer<i32>,
    counts: Buffer<i32>,
    // Exchange and experts.
    quantized: Buffer<E4M3>,
    scales: Buffer<f32>,
    handle: Buffer<u8>,
    expanded: Buffer<E4M3>,
    expanded_scales: Buffer<f32>,
    map: Buffer<i32>,
    ends: Buffer<i32>,
    both: Buffer<bf16>,
    activated: Buffer<E4M3>,
    activated_scales: Buffer<f32>,
    answers: Buffer<bf16>,
    out: Buffer<bf16>,
    /// Uploads that what is enqueued still reads.
    held: Vec<Buffer<bf16>>,
    logits: Vec<Buffer<f32>>,
    routed: Option<Event>,
    arrived: Option<Event>,
    answered: Option<Event>,
}

pub struct Rank {
    pub rank: usize,
    sizes: Sizes,
    device: Device,
    compute: Stream,
    comm: Stream,
    append: mla::cache::Plan,
    mla: mla::Plan,
    gate: gate::Plan,
    quantize: quant::Plan,
    up: gemm::GroupedPlan,
    swiglu: swiglu::Plan,
    down: gemm::GroupedPlan,
    bias: Buffer<f32>,
    weights: [Buffer<E4M3>; 2],
    weight_scales: [Buffer<f32>; 2],
    slot_of: Vec<usize>,
    halves: Vec<Half>,
}

/// Rows that the expansion may need.
fn rows(sizes: Sizes) -> usize {
    let received = sizes.ranks * sizes.tokens;
    let copies = received * sizes.topk.min(sizes.local_experts());
    copies.next_multiple_of(4) + sizes.local_experts() * ALIGNMENT
}

impl Rank {
    pub fn new(
        device: &Device,
        rank: usize,
        model: &Model,
        partition: Partition,
        exchanges: Vec<exchange::Plan>,
    ) -> Result<Rank> {
        let sizes = model.sizes;
        let (rows, local, sms) = (rows(sizes), sizes.local_experts(), partition.compute_sms());
        let (compute, comm) = (device.new_stream()?, device.new_stream()?);
        // This rank's slots, one expert after the other.
        let mut experts: Vec<usize> =
            (0..sizes.experts).filter(|&e| model.slot_of[e] / local == rank).collect();
        experts.sort_by_key(|&e| model.slot_of[e]);
        let gather = |pick: fn(&crate::model::Expert) -> &Vec<E4M3>| -> Vec<E4M3> {
            experts.iter().flat_map(|&e| pick(&model.experts[e]).iter().copied()).collect()
        };
        let gather_scales = |pick: fn(&crate::model::Expert) -> &Vec<f32>| -> Vec<f32> {
            experts.iter().flat_map(|&e| pick(&model.experts[e]).iter().copied()).collect()
        };
        let mla_shape = mla::Shape::new(sizes.tokens, sizes.heads, sizes.pages() * 64);
        let mla = mla::Plan::new(device, mla_shape, mla::Options::new(SOFTMAX_SCALE).sms(sms))?;
        let append = mla::cache::Shape::new(sizes.tokens, 64);
        let choice = match sizes.experts {
            256 => gate::Options::deepseek_v3(),
            _ => gate::Options::sigmoid(sizes.topk).normalize(true).scale(2.5),
        };
        let up = gemm::GroupedShape::contiguous(local, rows, 2 * INTER, HIDDEN).alignment(ALIGNMENT);
        let down = gemm::GroupedShape::contiguous(local, rows, HIDDEN, INTER).alignment(ALIGNMENT);
        let between = swiglu::Shape::contiguous(local, rows, INTER).alignment(ALIGNMENT);
        let options = gemm::Options::new().sms(sms);
        let mut halves = Vec::new();
        for (half, exchange) in exchanges.into_iter().enumerate() {
            halves.push(Half::new(device, &compute, model, (rank, half), exchange, &mla)?);
        }
        Ok(Rank {
            rank,
            sizes,
            device: device.clone(),
            append: mla::cache::Plan::new(device, append, mla::cache::Options::new().sms(sms))?,
            gate: gate::Plan::new(device, gate::Shape::new(sizes.tokens, sizes.experts), choice.sms(sms))?,
            quantize: quant::Plan::new(
                device,
                quant::Shape::new(sizes.tokens, HIDDEN),
                quant::Options::activations().sms(sms),
            )?,
            up: gemm::GroupedPlan::new(device, up.expected_m(rows / local), options)?,
            swiglu: swiglu::Plan::new(device, between, swiglu::Options::new().sms(sms))?,
            down: gemm::GroupedPlan::new(device, down.expected_m(rows / local), options)?,
            mla,
            bias: device.upload(&compute, &model.bias)?,
            weights: [
                device.upload(&compute, &gather(|e| &e.up))?,
                device.upload(&compute, &gather(|e| &e.down))?,
            ],
            weight_scales: [
                device.upload(&compute, &gather_scales(|e| &e.up_scales))?,
                device.upload(&compute, &gather_scales(|e| &e.down_scales))?,
            ],
            slot_of: model.slot_of.clone(),
            compute,
            comm,
            halves,
        })
    }

    /// Host: norm and projections. Device: the new token into the cache, then attention.
    pub fn attend(&mut self, model: &Model, half: usize) -> Result<()> {
        let Sizes { tokens, heads, .. } = self.sizes;
        let queries: Vec<_> = model.inputs(self.rank, half).iter().map(|x| model.query(&wide(x))).collect();
        let upload = |pick: fn(&crate::model::Query) -> &Vec<f64>| {
            let values: Vec<bf16> = queries.iter().flat_map(|q| narrow(pick(q))).collect();
            self.device.upload(&self.compute, &values)
        };
        let (q, latent, rope) = (upload(|q| &q.q)?, upload(|q| &q.latent)?, upload(|q| &q.rope)?);
        let half = &mut self.halves[half];
        let pages = self.sizes.pages();
        let place = mla::cache::Place::Table {
            block_table: half.table.matrix(tokens, pages)?,
            cache_seqlens: half.lengths.matrix(1, tokens)?,
        };
        let (latents, ropes) = (latent.matrix(tokens, mla::LATENT)?, rope.matrix(tokens, 64)?);
        let cache = half.cache.matrix_mut(tokens * pages * 64, mla::HEAD)?;
        self.append.run(&self.compute, mla::cache::Args::new(latents, ropes, place, cache))?;
        let bytes = half.mla_workspace.len();
        let args = mla::Args::new(
            q.matrix(tokens * heads, mla::HEAD)?,
            half.cache.matrix(tokens * pages * 64, mla::HEAD)?,
            half.table.matrix(tokens, pages)?,
            half.lengths.matrix(1, tokens)?,
            half.attention.matrix_mut(tokens * heads, mla::LATENT)?,
            half.lse.matrix_mut(tokens, heads)?,
        );
        self.mla.run(&self.compute, args.workspace(half.mla_workspace.matrix_mut(1, bytes)?))?;
        half.held.extend([q, latent, rope]);
        Ok(())
    }

    /// Host: projection, residual, norm, router. Device: the gate, then quantisation. Host again: experts become slots.
    pub fn route(&mut self, model: &Model, half: usize) -> Result<()> {
        let Sizes { tokens, heads, experts, topk, .. } = self.sizes;
        let inputs = model.inputs(self.rank, half);
        let half = &mut self.halves[half];
        let attention = wide(&half.attention.to_vec(&self.compute)?);
        for (x, attention) in inputs.iter().zip(attention.chunks(heads * mla::LATENT)) {
            let (y, h) = model.after_attention(&wide(x), attention);
            half.residual.push(y);
            half.hidden.push(h);
        }
        let logits: Vec<f32> =
            half.hidden.iter().flat_map(|h| model.logits(h)).map(|logit| logit as f32).collect();
        let logits = self.device.upload(&self.compute, &logits)?;
        let hidden: Vec<bf16> = half.hidden.iter().flat_map(|h| narrow(h)).collect();
        let hidden = self.device.upload(&self.compute, &hidden)?;
        let args = gate::Args::new(
            logits.matrix(tokens, experts)?,
            half.topk_idx.matrix_mut(tokens, topk)?,
            half.topk_weight.matrix_mut(tokens, topk)?,
        );
        let args = args.bias(self.bias.matrix(1, experts)?).counts(half.counts.matrix_mut(1, experts)?);
        self.gate.run(&self.compute, args)?;
        let args = quant::Args::new(
            hidden.matrix(tokens, HIDDEN)?,
            half.quantized.matrix_mut(tokens, HIDDEN)?,
            half.scales.matrix_mut(tokens, BLOCKS)?,
        );
        self.quantize.run(&self.compute, args)?;
        let chosen = half.topk_idx.to_vec(&self.compute)?;
        let slots: Vec<i32> = chosen.iter().map(|&e| self.slot_of[e as usize] as i32).collect();
        half.slots.copy_from_host(&self.compute, &slots)?;
        half.routed = Some(self.compute.record()?);
        half.held.push(hidden);
        half.logits.push(logits);
        Ok(())
    }

    /// To the ranks that hold the experts, and there to one row for each expert.
    pub fn dispatch(&mut self, half: usize) -> Result<()> {
        let Sizes { tokens, topk, .. } = self.sizes;
        let (rows, local) = (rows(self.sizes), self.sizes.local_experts());
        let half = &mut self.halves[half];
        if let Some(routed) = &half.routed {
            self.comm.wait(routed)?;
        }
        let bytes = half.handle.len();
        let args = Dispatch::new(
            half.quantized.matrix(tokens, HIDDEN)?,
            half.slots.matrix(tokens, topk)?,
            half.topk_weight.matrix(tokens, topk)?,
            half.handle.matrix_mut(1, bytes)?,
        );
        half.exchange.dispatch(&self.comm, args.scales(half.scales.matrix(tokens, BLOCKS)?))?;
        let args = Expand::new(
            half.expanded.matrix_mut(rows, HIDDEN)?,
            half.map.matrix_mut(1, rows)?,
            half.ends.matrix_mut(1, local)?,
        );
        half.exchange
            .expand(&self.comm, args.scales(half.expanded_scales.view_mut(0, [rows, BLOCKS], [1, rows])?))?;
        half.arrived = Some(self.comm.record()?);
        Ok(())
    }

    /// GEMM, SwiGLU, GEMM.
    pub fn experts(&mut self, half: usize) -> Result<()> {
        let (rows, local) = (rows(self.sizes), self.sizes.local_experts());
        let half = &mut self.halves[half];
        if let Some(arrived) = &half.arrived {
            self.compute.wait(arrived)?;
        }
        let args = gemm::GroupedArgs::new(
            half.expanded.matrix(rows, HIDDEN)?,
            half.expanded_scales.view(0, [rows, BLOCKS], [1, rows])?,
            self.weights[0].matrix(local * 2 * INTER, HIDDEN)?,
            self.weight_scales[0].matrix(local * 2 * INTER / 128, BLOCKS)?,
            half.ends.matrix(1, local)?,
            half.both.matrix_mut(rows, 2 * INTER)?,
        );
        self.up.run(&self.compute, args)?;
        let args = swiglu::Args::new(
            half.both.matrix(rows, 2 * INTER)?,
            half.ends.matrix(1, local)?,
            half.activated.matrix_mut(rows, INTER)?,
            half.activated_scales.view_mut(0, [rows, INTER / 128], [1, rows])?,
        );
        self.swiglu.run(&self.compute, args)?;
        let args = gemm::GroupedArgs::new(
            half.activated.matrix(rows, INTER)?,
            half.activated_scales.view(0, [rows, INTER / 128], [1, rows])?,
            self.weights[1].matrix(local * HIDDEN, INTER)?,
            self.weight_scales[1].matrix(local * BLOCKS, INTER / 128)?,
            half.ends.matrix(1, local)?,
            half.answers.matrix_mut(rows, HIDDEN)?,
        );
        self.down.run(&self.compute, args)?;
        half.answered = Some(self.compute.record()?);
        Ok(())
    }

    /// The experts' answers back to where their tokens came from.
    pub fn combine(&mut self, half: usize) -> Result<()> {
        let (rows, tokens) = (rows(self.sizes), self.sizes.tokens);
        let half = &mut self.halves[half];
        if let Some(answered) = &half.answered {
            self.comm.wait(answered)?;
        }
        let bytes = half.handle.len();
        let args = Combine::new(
            half.answers.matrix(rows, HIDDEN)?,
            half.handle.matrix(1, bytes)?,
            half.out.matrix_mut(tokens, HIDDEN)?,
        );
        half.exchange.combine(&self.comm, args)
    }

    /// Until both streams are through.
    pub fn wait(&self) -> Result<()> {
        self.compute.synchronize()?;
        self.comm.synchronize()
    }

    pub fn status(&self, half: usize) -> Result<Status> {
        self.halves[half].exchange.status(&self.comm)
    }

    /// The experts each token went to.
    pub fn routed(&self, half: usize) -> Result<Vec<Vec<usize>>> {
        let chosen = self.halves[half].topk_idx.to_vec(&self.compute)?;
        Ok(chosen.chunks(self.sizes.topk).map(|c| c.iter().map(|&e| e as usize).collect()).collect())
    }

    /// What the layer adds to each token.
    pub fn result(&self, model: &Model, half: usize) -> Result<Vec<f64>> {
        let inputs = model.inputs(self.rank, half);
        let half = &self.halves[half];
        let experts = wide(&half.out.to_vec(&self.comm)?);
        let residual = half.residual.concat();
        let x = inputs.iter().flat_map(|x| wide(x));
        Ok(experts.iter().zip(&residual).zip(x).map(|((e, y), x)| e + y - x).collect())
    }

    /// The entries of the exchange's kernels.
    pub fn exchange_kernels(&self) -> [&'static str; 7] {
        self.halves[0].exchange.kernels()
    }
}

impl Half {
    fn new(
        device: &Device,
        stream: &Stream,
        model: &Model,
        (rank, half): (usize, usize),
        exchange: exchange::Plan,
        mla: &mla::Plan,
    ) -> Result<Half> {
        let sizes = model.sizes;
        let Sizes { tokens, heads, experts, topk, cached, .. } = sizes;
        let (rows, pages) = (rows(sizes), sizes.pages());
        // Pages from the last to the first, so that the table is not the identity.
        let table: Vec<i32> = (0..tokens * pages).rev().map(|page| page as i32).collect();
        let mut cache = vec![bf16::NAN; tokens * pages * 64 * mla::HEAD];
        for request in 0..tokens {
            for (at, row) in model.cached(rank, half, request).chunks(mla::HEAD).enumerate() {
                let page = table[request * pages + at / 64] as usize;
                cache[(page * 64 + at % 64) * mla::HEAD..][..mla::HEAD].copy_from_slice(row);
            }
        }
        Ok(Half {
            cache: device.upload(stream, &cache)?,
            table: device.upload(stream, &table)?,
            lengths: device.upload(stream, &vec![cached as i32; tokens])?,
            attention: device.alloc(tokens * heads * mla::LATENT)?,
            lse: device.alloc(tokens * heads)?,
            mla_workspace: device.alloc(mla.workspace().bytes)?,
            hidden: Vec::new(),
            residual: Vec::new(),
            topk_idx: device.alloc(tokens * topk)?,
            topk_weight: device.alloc(tokens * topk)?,
            slots: device.alloc(tokens * topk)?,
            counts: device.upload(stream, &vec![0; experts])?,
            quantized: device.alloc(tokens * HIDDEN)?,
            scales: device.alloc(tokens * BLOCKS)?,
            handle: device.alloc(exchange.handle().bytes)?,
            expanded: device.alloc(rows * HIDDEN)?,
            expanded_scales: device.alloc(rows * BLOCKS)?,
            map: device.alloc(rows)?,
            ends: device.alloc(sizes.local_experts())?,
            both: device.alloc(rows * 2 * INTER)?,
            activated: device.alloc(rows * INTER)?,
            activated_scales: device.alloc(rows * INTER / 128)?,
            answers: device.alloc(rows * HIDDEN)?,
            out: device.alloc(tokens * HIDDEN)?,
            held: Vec::new(),
            logits: Vec::new(),
            routed: None,
            arrived: None,
            answered: None,
            exchange,
        })
    }
}
