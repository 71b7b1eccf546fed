//! One rank: its plans, its weights, and what it enqueues.

use hadal::comm::Partition;
use hadal::moe::exchange::{self, Combine, Dispatch, Expand, Status};
use hadal::moe::{gate, swiglu};
use hadal::{Buffer, Device, E4M3, Result, Stream, bf16, gemm, mla, quant};

use super::half::Half;
use super::model::{Expert, Model, SOFTMAX_SCALE, narrow, wide};
use super::options::{ALIGNMENT, PAGE, Sizes};
use super::reference::Routed;

/// Weights of one expert, or of several one after the other.
pub struct Weights {
    pub up: Buffer<E4M3>,
    pub up_scales: Buffer<f32>,
    pub down: Buffer<E4M3>,
    pub down_scales: Buffer<f32>,
}

pub struct Rank {
    pub rank: usize,
    pub sizes: Sizes,
    device: Device,
    pub compute: Stream,
    pub comm: Stream,
    append: mla::cache::Plan,
    mla: mla::Plan,
    gate: gate::Plan,
    quantize: quant::Plan,
    up: gemm::GroupedPlan,
    swiglu: swiglu::Plan,
    down: gemm::GroupedPlan,
    shared_up: gemm::Plan,
    shared_swiglu: swiglu::Plan,
    shared_down: gemm::Plan,
    bias: Buffer<f32>,
    weights: Weights,
    shared_weights: Weights,
    pub halves: Vec<Half>,
}

impl Weights {
    /// Experts by their numbers. Made twice, so that never more than the half of them is in two places.
    fn upload(device: &Device, stream: &Stream, model: &Model, numbers: &[usize]) -> Result<Weights> {
        fn gather<T>(model: &Model, numbers: &[usize], pick: fn(Expert) -> Vec<T>) -> Vec<T> {
            numbers.iter().flat_map(|&number| pick(model.expert(number))).collect()
        }
        Ok(Weights {
            up: device.upload(stream, &gather(model, numbers, |e| e.up))?,
            up_scales: device.upload(stream, &gather(model, numbers, |e| e.up_scales))?,
            down: device.upload(stream, &gather(model, numbers, |e| e.down))?,
            down_scales: device.upload(stream, &gather(model, numbers, |e| e.down_scales))?,
        })
    }
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
        let Sizes { hidden, inter, tokens, heads, experts, .. } = sizes;
        let (rows, local, sms) = (sizes.rows(), sizes.local_experts(), partition.compute_sms());
        let (compute, comm) = (device.new_stream()?, device.new_stream()?);
        let mla_shape = mla::Shape::new(tokens, heads, sizes.pages() * PAGE);
        let mla = mla::Plan::new(device, mla_shape, mla::Options::new(SOFTMAX_SCALE).sms(sms))?;
        let append = mla::cache::Shape::new(tokens, PAGE);
        let up = gemm::GroupedShape::contiguous(local, rows, 2 * inter, hidden).alignment(ALIGNMENT);
        let down = gemm::GroupedShape::contiguous(local, rows, hidden, inter).alignment(ALIGNMENT);
        let between = swiglu::Shape::contiguous(local, rows, inter).alignment(ALIGNMENT);
        let usual = (sizes.ranks * tokens * sizes.topk).div_ceil(sizes.slots());
        let (options, between_options) = (gemm::Options::new().sms(sms), swiglu::Options::new().sms(sms));
        let mut halves = Vec::new();
        for (half, exchange) in exchanges.into_iter().enumerate() {
            halves.push(Half::new(device, &compute, model, (rank, half), exchange, &mla)?);
        }
        Ok(Rank {
            rank,
            sizes,
            device: device.clone(),
            append: mla::cache::Plan::new(device, append, mla::cache::Options::new().sms(sms))?,
            gate: gate::Plan::new(device, gate::Shape::new(tokens, experts), model.choice().sms(sms))?,
            quantize: quant::Plan::new(
                device,
                quant::Shape::new(tokens, hidden),
                quant::Options::activations().sms(sms),
            )?,
            up: gemm::GroupedPlan::new(device, up.expected_m(usual), options)?,
            swiglu: swiglu::Plan::new(device, between, between_options)?,
            down: gemm::GroupedPlan::new(device, down.expected_m(usual), options)?,
            shared_up: gemm::Plan::new(device, gemm::Shape::new(tokens, 2 * inter, hidden), options)?,
            shared_swiglu: swiglu::Plan::new(
                device,
                swiglu::Shape::contiguous(1, tokens, inter),
                between_options,
            )?,
            shared_down: gemm::Plan::new(device, gemm::Shape::new(tokens, hidden, inter), options)?,
            mla,
            bias: device.upload(&compute, &model.bias)?,
            weights: Weights::upload(
                device,
                &compute,
                model,
                &model.expert_in[rank * local..(rank + 1) * local],
            )?,
            shared_weights: Weights::upload(device, &compute, model, &[experts])?,
            compute,
            comm,
            halves,
        })
    }

    /// Host: norm and projections. Device: the new token into the cache, then attention.
    pub fn attend(&mut self, model: &Model, half: usize) -> Result<()> {
        let Sizes { tokens, heads, .. } = self.sizes;
        let queries: Vec<_> = model.inputs(self.rank, half).iter().map(|x| model.query(&wide(x))).collect();
        let upload = |pick: fn(&super::model::Query) -> &Vec<f64>| {
            let values: Vec<bf16> = queries.iter().flat_map(|q| narrow(pick(q))).collect();
            self.device.upload(&self.compute, &values)
        };
        let (q, latent, rope) = (upload(|q| &q.q)?, upload(|q| &q.latent)?, upload(|q| &q.rope)?);
        let half = &mut self.halves[half].attention;
        let pages = self.sizes.pages();
        let place = mla::cache::Place::Table {
            block_table: half.table.matrix(tokens, pages)?,
            cache_seqlens: half.lengths.matrix(1, tokens)?,
        };
        let (latents, ropes) =
            (latent.matrix(tokens, mla::LATENT)?, rope.matrix(tokens, mla::HEAD - mla::LATENT)?);
        let cache = half.cache.matrix_mut(tokens * pages * PAGE, mla::HEAD)?;
        self.append.run(&self.compute, mla::cache::Args::new(latents, ropes, place, cache))?;
        let bytes = half.workspace.len();
        let args = mla::Args::new(
            q.matrix(tokens * heads, mla::HEAD)?,
            half.cache.matrix(tokens * pages * PAGE, mla::HEAD)?,
            half.table.matrix(tokens, pages)?,
            half.lengths.matrix(1, tokens)?,
            half.out.matrix_mut(tokens * heads, mla::LATENT)?,
            half.lse.matrix_mut(tokens, heads)?,
        );
        self.mla.run(&self.compute, args.workspace(half.workspace.matrix_mut(1, bytes)?))?;
        (half.q, half.latent, half.rope) = (Some(q), Some(latent), Some(rope));
        Ok(())
    }

    /// Host: projection, residual, norm, router. Device: the gate, then quantisation. Host again: experts become slots.
    pub fn route(&mut self, model: &Model, half: usize) -> Result<()> {
        let Sizes { hidden, tokens, heads, experts, topk, .. } = self.sizes;
        let blocks = hidden / 128;
        let inputs = model.inputs(self.rank, half);
        let half = &mut self.halves[half];
        let attention = wide(&half.attention.out.to_vec(&self.compute)?);
        for (x, attention) in inputs.iter().zip(attention.chunks(heads * mla::LATENT)) {
            let (y, h) = model.after_attention(&wide(x), attention);
            half.residual.push(y);
            half.hidden.push(h);
        }
        let logits: Vec<f32> =
            half.hidden.iter().flat_map(|h| model.logits(h)).map(|logit| logit as f32).collect();
        let logits = self.device.upload(&self.compute, &logits)?;
        let normed: Vec<bf16> = half.hidden.iter().flat_map(|h| narrow(h)).collect();
        let normed = self.device.upload(&self.compute, &normed)?;
        let routing = &mut half.routing;
        let args = gate::Args::new(
            logits.matrix(tokens, experts)?,
            routing.topk_idx.matrix_mut(tokens, topk)?,
            routing.topk_weight.matrix_mut(tokens, topk)?,
        );
        let args = args.bias(self.bias.matrix(1, experts)?).counts(routing.counts.matrix_mut(1, experts)?);
        self.gate.run(&self.compute, args)?;
        let args = quant::Args::new(
            normed.matrix(tokens, hidden)?,
            routing.quantized.matrix_mut(tokens, hidden)?,
            routing.scales.matrix_mut(tokens, blocks)?,
        );
        self.quantize.run(&self.compute, args)?;
        let chosen = routing.topk_idx.to_vec(&self.compute)?;
        let slot = |(at, &expert): (usize, &i32)| model.slot_of(expert as usize, self.rank, at / topk) as i32;
        let slots: Vec<i32> = chosen.iter().enumerate().map(slot).collect();
        routing.slots.copy_from_host(&self.compute, &slots)?;
        (routing.logits, routing.normed) = (Some(logits), Some(normed));
        half.routed = Some(self.compute.record()?);
        Ok(())
    }

    /// To the ranks that hold the experts, and there to one row for each expert.
    pub fn dispatch(&mut self, half: usize) -> Result<()> {
        let Sizes { hidden, tokens, topk, .. } = self.sizes;
        let (rows, local, blocks) = (self.sizes.rows(), self.sizes.local_experts(), hidden / 128);
        let half = &mut self.halves[half];
        if let Some(routed) = &half.routed {
            self.comm.wait(routed)?;
        }
        let (routing, experts) = (&half.routing, &mut half.experts);
        let bytes = experts.handle.len();
        let args = Dispatch::new(
            routing.quantized.matrix(tokens, hidden)?,
            routing.slots.matrix(tokens, topk)?,
            routing.topk_weight.matrix(tokens, topk)?,
            experts.handle.matrix_mut(1, bytes)?,
        );
        half.exchange.dispatch(&self.comm, args.scales(routing.scales.matrix(tokens, blocks)?))?;
        let args = Expand::new(
            experts.expanded.matrix_mut(rows, hidden)?,
            experts.map.matrix_mut(1, rows)?,
            experts.ends.matrix_mut(1, local)?,
        );
        half.exchange.expand(
            &self.comm,
            args.scales(experts.expanded_scales.view_mut(0, [rows, blocks], [1, rows])?),
        )?;
        half.arrived = Some(self.comm.record()?);
        Ok(())
    }

    /// GEMM, SwiGLU, GEMM.
    pub fn experts(&mut self, half: usize) -> Result<()> {
        let Sizes { hidden, inter, .. } = self.sizes;
        let (rows, local, blocks) = (self.sizes.rows(), self.sizes.local_experts(), hidden / 128);
        let half = &mut self.halves[half];
        if let Some(arrived) = &half.arrived {
            self.compute.wait(arrived)?;
        }
        let experts = &mut half.experts;
        let args = gemm::GroupedArgs::new(
            experts.expanded.matrix(rows, hidden)?,
            experts.expanded_scales.view(0, [rows, blocks], [1, rows])?,
            self.weights.up.matrix(local * 2 * inter, hidden)?,
            self.weights.up_scales.matrix(local * 2 * inter / 128, blocks)?,
            experts.ends.matrix(1, local)?,
            experts.both.matrix_mut(rows, 2 * inter)?,
        );
        self.up.run(&self.compute, args)?;
        let args = swiglu::Args::new(
            experts.both.matrix(rows, 2 * inter)?,
            experts.ends.matrix(1, local)?,
            experts.activated.matrix_mut(rows, inter)?,
            experts.activated_scales.view_mut(0, [rows, inter / 128], [1, rows])?,
        );
        self.swiglu.run(&self.compute, args)?;
        let args = gemm::GroupedArgs::new(
            experts.activated.matrix(rows, inter)?,
            experts.activated_scales.view(0, [rows, inter / 128], [1, rows])?,
            self.weights.down.matrix(local * hidden, inter)?,
            self.weights.down_scales.matrix(local * blocks, inter / 128)?,
            experts.ends.matrix(1, local)?,
            experts.answers.matrix_mut(rows, hidden)?,
        );
        self.down.run(&self.compute, args)?;
        half.answered = Some(self.compute.record()?);
        Ok(())
    }

    /// The shared expert on this rank's own tokens: quantisation again, with scales as the dense GEMM reads them, then GEMM, SwiGLU, GEMM.
    pub fn shared_expert(&mut self, half: usize) -> Result<()> {
        let Sizes { hidden, inter, tokens, .. } = self.sizes;
        let (blocks, ld) = (hidden / 128, quant::m_major_stride(tokens));
        let half = &mut self.halves[half];
        let shared = &mut half.shared;
        let Some(normed) = &half.routing.normed else { return Ok(()) };
        let args = quant::Args::new(
            normed.matrix(tokens, hidden)?,
            shared.quantized.matrix_mut(tokens, hidden)?,
            shared.scales.view_mut(0, [tokens, blocks], [1, ld])?,
        );
        self.quantize.run(&self.compute, args)?;
        let args = gemm::Args::new(
            shared.quantized.matrix(tokens, hidden)?,
            shared.scales.view(0, [tokens, blocks], [1, ld])?,
            self.shared_weights.up.matrix(2 * inter, hidden)?,
            self.shared_weights.up_scales.matrix(2 * inter / 128, blocks)?,
            shared.both.matrix_mut(tokens, 2 * inter)?,
        );
        self.shared_up.run(&self.compute, args)?;
        let args = swiglu::Args::new(
            shared.both.matrix(tokens, 2 * inter)?,
            shared.ends.matrix(1, 1)?,
            shared.activated.matrix_mut(tokens, inter)?,
            shared.activated_scales.view_mut(0, [tokens, inter / 128], [1, ld])?,
        );
        self.shared_swiglu.run(&self.compute, args)?;
        let args = gemm::Args::new(
            shared.activated.matrix(tokens, inter)?,
            shared.activated_scales.view(0, [tokens, inter / 128], [1, ld])?,
            self.shared_weights.down.matrix(hidden, inter)?,
            self.shared_weights.down_scales.matrix(blocks, inter / 128)?,
            shared.out.matrix_mut(tokens, hidden)?,
        );
        self.shared_down.run(&self.compute, args)
    }

    /// The experts' answers back to where their tokens came from.
    pub fn combine(&mut self, half: usize) -> Result<()> {
        let (rows, Sizes { hidden, tokens, .. }) = (self.sizes.rows(), self.sizes);
        let half = &mut self.halves[half];
        if let Some(answered) = &half.answered {
            self.comm.wait(answered)?;
        }
        let bytes = half.experts.handle.len();
        let args = Combine::new(
            half.experts.answers.matrix(rows, hidden)?,
            half.experts.handle.matrix(1, bytes)?,
            half.experts.out.matrix_mut(tokens, hidden)?,
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

    /// The experts each token went to, and what they were chosen by.
    pub fn routed(&self, half: usize) -> Result<Vec<Routed>> {
        let Sizes { experts, topk, .. } = self.sizes;
        let routing = &self.halves[half].routing;
        let chosen = routing.topk_idx.to_vec(&self.compute)?;
        let logits = match &routing.logits {
            Some(logits) => logits.to_vec(&self.compute)?,
            None => Vec::new(),
        };
        let token = |(chosen, logits): (&[i32], &[f32])| Routed {
            experts: chosen.iter().map(|&expert| expert as usize).collect(),
            logits: logits.to_vec(),
        };
        Ok(chosen.chunks(topk).zip(logits.chunks(experts)).map(token).collect())
    }

    /// What the layer adds to each token.
    pub fn result(&self, model: &Model, half: usize) -> Result<Vec<f64>> {
        let inputs = model.inputs(self.rank, half).concat();
        let half = &self.halves[half];
        let routed = half.experts.out.to_vec(&self.comm)?;
        let shared = half.shared.out.to_vec(&self.compute)?;
        let parts = inputs.iter().zip(half.residual.iter().flatten()).zip(routed.iter().zip(&shared));
        Ok(parts.map(|((x, y), (r, s))| y - x.to_f64() + r.to_f64() + s.to_f64()).collect())
    }

    /// The entries of the exchange's kernels.
    pub fn exchange_kernels(&self) -> [&'static str; 7] {
        self.halves[0].exchange.kernels()
    }

    /// The entries of the compute kernels that verification speaks of.
    pub fn kernels(&self) -> Kernels {
        Kernels {
            append: self.append.kernel(),
            mla: self.mla.kernels(),
            gate: self.gate.kernel(),
            quantize: self.quantize.kernel(),
            grouped: [self.up.kernel(), self.down.kernel()],
            swiglu: self.swiglu.kernel(),
            dense: [self.shared_up.kernel(), self.shared_down.kernel()],
        }
    }
}

/// Names of kernels, by what they are for.
pub struct Kernels {
    pub append: &'static str,
    pub mla: Vec<&'static str>,
    pub gate: &'static str,
    pub quantize: &'static str,
    /// Up and down.
    pub grouped: [&'static str; 2],
    pub swiglu: &'static str,
    /// Up and down.
    pub dense: [&'static str; 2],
}
