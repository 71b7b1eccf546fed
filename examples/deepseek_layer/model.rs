//! The layer's numbers: weights, caches, and everything an engine does between the kernels: norms, projections, residuals. All of it in
//! F64.
//!
//! Experts are made from their number whenever they are wanted, and never kept: all of DeepSeek-V3's are 11 GB.

use hadal::{E4M3, Result, bf16, mla, moe::balance, moe::gate};

use super::options::{MICRO_BATCHES, Sizes};

/// Scores are divided by the root of a head's 128 + 64 columns before absorption.
pub const SOFTMAX_SCALE: f32 = 0.072_168_78;
/// `routed_scaling_factor`.
pub const ROUTED_SCALE: f32 = 2.5;
const BLOCK: usize = 128;

/// An expert: gate and up in one, then down, in E4M3 with 128×128 scales.
pub struct Expert {
    pub up: Vec<E4M3>,
    pub up_scales: Vec<f32>,
    pub down: Vec<E4M3>,
    pub down_scales: Vec<f32>,
}

pub struct Model {
    pub sizes: Sizes,
    q_down: Vec<f32>,
    /// Absorbed: from the query's latent straight to what meets the cache.
    q_up: Vec<f32>,
    kv_down: Vec<f32>,
    /// Absorbed: from the attention over latents straight to the hidden state.
    out: Vec<f32>,
    router: Vec<f32>,
    pub bias: Vec<f32>,
    /// The expert in each slot over all ranks.
    pub expert_in: Vec<usize>,
    /// The slots of each expert.
    slots_of: Vec<Vec<usize>>,
}

/// What a host does for one token before attention.
pub struct Query {
    pub q: Vec<f64>,
    pub latent: Vec<f64>,
    pub rope: Vec<f64>,
}

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 29)
    }

    /// About normal, of variance one: four uniform numbers.
    fn number(&mut self) -> f32 {
        let bits = self.bits();
        let sum: i64 = (0..4).map(|i| (bits >> (16 * i)) as u16 as i64 - 32768).sum();
        sum as f32 * (1.732_050_8 / 65536.0)
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Vec<f32> {
        let scale = (cols as f32).sqrt().recip();
        (0..rows * cols).map(|_| self.number() * scale).collect()
    }

    /// Codes from ±0.25 to ±3.75.
    fn codes(&mut self, count: usize) -> Vec<E4M3> {
        let mut codes = Vec::with_capacity(count + 8);
        while codes.len() < count {
            let bits = self.bits().to_le_bytes();
            codes.extend(bits.map(|b| E4M3((b & 0x80) | (0x28 + (b & 0x1f)))));
        }
        codes.truncate(count);
        codes
    }

    fn scales(&mut self, count: usize, columns: usize) -> Vec<f32> {
        let unit = 0.6 / (columns as f32).sqrt();
        (0..count).map(|_| unit * (1.0 + 0.1 * self.number())).collect()
    }
}

impl Model {
    pub fn new(sizes: Sizes) -> Result<Model> {
        let random = &mut Random(1);
        let Sizes { hidden, q_latent, heads, experts, ranks, .. } = sizes;
        // The load of yesterday, and the placement for it.
        let load: Vec<f32> = (0..experts).map(|_| random.number().exp()).collect();
        let shape = balance::Shape::new([1, experts], sizes.slots(), ranks);
        let placement = balance::Plan::new(shape, balance::Options::new())?.run(&load)?;
        let slots = |expert| placement.replicas_of(0, expert).unwrap_or_default();
        Ok(Model {
            sizes,
            q_down: random.matrix(q_latent, hidden),
            q_up: random.matrix(heads * mla::HEAD, q_latent),
            kv_down: random.matrix(mla::HEAD, hidden),
            out: random.matrix(hidden, heads * mla::LATENT),
            router: random.matrix(experts, hidden),
            bias: (0..experts).map(|_| 0.05 * random.number()).collect(),
            expert_in: placement.physical_to_logical().iter().map(|&expert| expert as usize).collect(),
            slots_of: (0..experts).map(|e| slots(e).iter().map(|&slot| slot as usize).collect()).collect(),
        })
    }

    /// One of the routed experts.
    pub fn expert(&self, number: usize) -> Expert {
        let Sizes { hidden, inter, .. } = self.sizes;
        let random = &mut Random(0x5eed_0000 + number as u64);
        Expert {
            up: random.codes(2 * inter * hidden),
            up_scales: random.scales(2 * inter / BLOCK * (hidden / BLOCK), hidden),
            down: random.codes(hidden * inter),
            down_scales: random.scales(hidden / BLOCK * (inter / BLOCK), inter),
        }
    }

    /// The expert that every token goes to, on its own rank.
    pub fn shared_expert(&self) -> Expert {
        self.expert(self.sizes.experts)
    }

    /// How the gate chooses.
    pub fn choice(&self) -> gate::Options {
        let Sizes { groups, kept_groups, topk, .. } = self.sizes;
        gate::Options::sigmoid(topk).groups(groups, kept_groups).normalize(true).scale(ROUTED_SCALE)
    }

    /// Where a token of a rank takes its choice of an expert: tokens take replicas in turn.
    pub fn slot_of(&self, expert: usize, rank: usize, token: usize) -> usize {
        let slots = &self.slots_of[expert];
        slots[(rank + token) % slots.len()]
    }

    /// The hidden states that enter the layer, a token of each request of a rank's half.
    pub fn inputs(&self, rank: usize, half: usize) -> Vec<Vec<bf16>> {
        let random = &mut Random(1000 + (rank * MICRO_BATCHES + half) as u64);
        (0..self.sizes.tokens)
            .map(|_| (0..self.sizes.hidden).map(|_| bf16::from_f32(random.number())).collect())
            .collect()
    }

    /// The cached tokens of a request, all but the new one.
    pub fn cached(&self, rank: usize, half: usize, request: usize) -> Vec<bf16> {
        let random = &mut Random(9000 + ((rank * MICRO_BATCHES + half) * 64 + request) as u64);
        (0..(self.sizes.cached - 1) * mla::HEAD).map(|_| bf16::from_f32(random.number())).collect()
    }

    pub fn query(&self, x: &[f64]) -> Query {
        let h = norm(x);
        let q = product(&self.q_up, &norm(&product(&self.q_down, &h)));
        let kv = product(&self.kv_down, &h);
        Query { q, latent: norm(&kv[..mla::LATENT]), rope: kv[mla::LATENT..].to_vec() }
    }

    /// The residual after attention, and its norm, which the experts read.
    pub fn after_attention(&self, x: &[f64], attention: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let o = product(&self.out, attention);
        let y: Vec<f64> = x.iter().zip(&o).map(|(x, o)| x + o).collect();
        let h = norm(&y);
        (y, h)
    }

    pub fn logits(&self, h: &[f64]) -> Vec<f64> {
        product(&self.router, h)
    }

    /// Bytes that have to cross links for a rank's tokens: a row of E4M3 with scales out and a row of BF16 back for each other rank
    /// that holds one of a token's experts.
    pub fn link_floor(&self, rank: usize, routed: &[Vec<usize>]) -> u64 {
        let Sizes { hidden, .. } = self.sizes;
        let rows = routed.iter().enumerate().map(|(token, experts)| {
            let slots = experts.iter().map(|&expert| self.slot_of(expert, rank, token));
            let mut ranks: Vec<usize> = slots.map(|slot| slot / self.sizes.local_experts()).collect();
            ranks.sort_unstable();
            ranks.dedup();
            ranks.iter().filter(|&&r| r != rank).count()
        });
        (rows.sum::<usize>() * (hidden + 4 * hidden / BLOCK + 2 * hidden)) as u64
    }
}

/// Products with a matrix of E4M3 with 128×128 scales, `[rows, hidden]` codes: of each vector, in F64.
pub fn scaled(codes: &[E4M3], scales: &[f32], vectors: &[&[f64]]) -> Vec<Vec<f64>> {
    let values: Vec<f64> = (0..=255).map(|code| E4M3(code).to_f32() as f64).collect();
    let cols = vectors.first().map_or(codes.len(), |x| x.len());
    let blocks = cols / BLOCK;
    let mut results = vec![Vec::with_capacity(codes.len() / cols); vectors.len()];
    let mut row = vec![0.0; cols];
    for (at, codes) in codes.chunks(cols).enumerate() {
        for (block, scale) in scales[at / BLOCK * blocks..][..blocks].iter().enumerate() {
            let range = block * BLOCK..(block + 1) * BLOCK;
            for (to, code) in row[range.clone()].iter_mut().zip(&codes[range]) {
                *to = values[code.0 as usize] * *scale as f64;
            }
        }
        for (result, x) in results.iter_mut().zip(vectors) {
            result.push(dot(&row, x));
        }
    }
    results
}

pub fn wide(x: &[bf16]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

pub fn narrow(x: &[f64]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f64(x)).collect()
}

/// Eight sums at a time: rounding in F64 is far below anything measured, and this keeps pace with memory.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

fn norm(x: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = (mean + 1e-6).sqrt().recip();
    x.iter().map(|x| x * factor).collect()
}

fn product(matrix: &[f32], x: &[f64]) -> Vec<f64> {
    let row = |row: &[f32]| {
        let mut sums = [0f64; 8];
        for (w, x) in row.chunks(8).zip(x.chunks(8)) {
            for (sum, (&w, x)) in sums.iter_mut().zip(w.iter().zip(x)) {
                *sum += w as f64 * x;
            }
        }
        sums.iter().sum()
    };
    matrix.chunks(x.len()).map(row).collect()
}
