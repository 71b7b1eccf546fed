//! The layer's numbers: sizes, weights, caches, and everything an engine does between the kernels: norms, projections, residuals. All of
//! it in F64, and once more as a whole for the reference.

use hadal::moe::balance;
use hadal::{E4M3, Result, bf16, mla};

/// The shapes of DeepSeek-V3.
pub const HIDDEN: usize = 7168;
pub const Q_LATENT: usize = 1536;
pub const INTER: usize = 2048;
/// Scores are divided by the root of a head's 128 + 64 columns before absorption.
pub const SOFTMAX_SCALE: f32 = 0.072_168_78;
const BLOCK: usize = 128;

/// How much of everything there is.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub ranks: usize,
    pub heads: usize,
    pub experts: usize,
    pub topk: usize,
    /// Tokens of a rank in one half: one for each request.
    pub tokens: usize,
    /// Tokens in each request's cache, the new one included.
    pub cached: usize,
}

impl Sizes {
    /// True shapes with fewer heads, experts and tokens, or with as many as DeepSeek-V3 has.
    pub fn new(ranks: usize, full: bool) -> Sizes {
        match full {
            // Any number of ranks has to divide the experts.
            true => {
                Sizes { ranks, heads: 128, experts: 256 / ranks * ranks, topk: 8, tokens: 8, cached: 1000 }
            }
            false => {
                Sizes { ranks, heads: 8, experts: 2 * ranks, topk: 4.min(2 * ranks), tokens: 2, cached: 150 }
            }
        }
    }

    pub fn local_experts(&self) -> usize {
        self.experts / self.ranks
    }

    pub fn pages(&self) -> usize {
        self.cached.div_ceil(64)
    }
}

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
    /// By logical number.
    pub experts: Vec<Expert>,
    /// Where each logical expert is: its slot over all ranks.
    pub slot_of: Vec<usize>,
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
        let mut codes = Vec::with_capacity(count);
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
        let expert = |random: &mut Random| Expert {
            up: random.codes(2 * INTER * HIDDEN),
            up_scales: random.scales(2 * INTER / BLOCK * (HIDDEN / BLOCK), HIDDEN),
            down: random.codes(HIDDEN * INTER),
            down_scales: random.scales(HIDDEN / BLOCK * (INTER / BLOCK), INTER),
        };
        // The load of yesterday, and the placement for it: as many slots as experts.
        let load: Vec<f32> = (0..sizes.experts).map(|_| random.number().exp()).collect();
        let slot_of = place(&load, sizes)?;
        Ok(Model {
            sizes,
            q_down: random.matrix(Q_LATENT, HIDDEN),
            q_up: random.matrix(sizes.heads * mla::HEAD, Q_LATENT),
            kv_down: random.matrix(mla::HEAD, HIDDEN),
            out: random.matrix(HIDDEN, sizes.heads * mla::LATENT),
            router: random.matrix(sizes.experts, HIDDEN),
            bias: (0..sizes.experts).map(|_| 0.05 * random.number()).collect(),
            experts: (0..sizes.experts).map(|_| expert(random)).collect(),
            slot_of,
        })
    }

    /// The hidden states that enter the layer, a token of each request of a rank's half.
    pub fn inputs(&self, rank: usize, half: usize) -> Vec<Vec<bf16>> {
        let random = &mut Random(1000 + (rank * 2 + half) as u64);
        (0..self.sizes.tokens)
            .map(|_| (0..HIDDEN).map(|_| bf16::from_f32(random.number())).collect())
            .collect()
    }

    /// The cached tokens of a request, all but the new one.
    pub fn cached(&self, rank: usize, half: usize, request: usize) -> Vec<bf16> {
        let random = &mut Random(9000 + ((rank * 2 + half) * 64 + request) as u64);
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

    /// What the layer adds to each token of a rank's half, in F64 from beginning to end. `routed`: the experts each token went to.
    pub fn reference(&self, rank: usize, half: usize, routed: &[Vec<usize>]) -> Vec<f64> {
        let inputs = self.inputs(rank, half);
        let token = |at: usize| {
            let x = wide(&inputs[at]);
            let Query { q, latent, rope } = self.query(&x);
            let mut keys: Vec<Vec<f64>> = self.cached(rank, half, at).chunks(mla::HEAD).map(wide).collect();
            keys.push([latent, rope].concat());
            let attention: Vec<f64> = q.chunks(mla::HEAD).flat_map(|q| attend(q, &keys)).collect();
            let (y, h) = self.after_attention(&x, &attention);
            let logits = self.logits(&h);
            let score = |e: usize| 1.0 / (1.0 + (-logits[e]).exp());
            let sum: f64 = routed[at].iter().map(|&e| score(e)).sum();
            let mut added: Vec<f64> = y.iter().zip(&x).map(|(y, x)| y - x).collect();
            for &e in &routed[at] {
                let weight = score(e) / sum * 2.5;
                for (to, from) in added.iter_mut().zip(self.experts[e].apply(&h)) {
                    *to += weight * from;
                }
            }
            added
        };
        // Two tokens at a time, for the two cores that most machines have at least.
        let mut results = Vec::new();
        for pair in (0..inputs.len()).step_by(2) {
            std::thread::scope(|scope| {
                let other = (pair + 1 < inputs.len()).then(|| scope.spawn(|| token(pair + 1)));
                results.extend(token(pair));
                results.extend(other.into_iter().flat_map(|other| other.join().expect("plain arithmetic")));
            });
        }
        results
    }

    /// Bytes that have to cross links for a rank's tokens: a row of E4M3 with scales out and a row of BF16 back for each other rank
    /// that holds one of a token's experts.
    pub fn link_floor(&self, rank: usize, routed: &[Vec<usize>]) -> u64 {
        let out = HIDDEN + 4 * HIDDEN / BLOCK;
        let rows = routed.iter().map(|experts| {
            let mut ranks: Vec<usize> =
                experts.iter().map(|&e| self.slot_of[e] / self.sizes.local_experts()).collect();
            ranks.sort_unstable();
            ranks.dedup();
            ranks.iter().filter(|&&r| r != rank).count()
        });
        (rows.sum::<usize>() * (out + 2 * HIDDEN)) as u64
    }
}

impl Expert {
    fn apply(&self, h: &[f64]) -> Vec<f64> {
        let both = scaled(&self.up, &self.up_scales, h);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let y: Vec<f64> = both[..INTER].iter().zip(&both[INTER..]).map(|(g, u)| silu(*g) * u).collect();
        scaled(&self.down, &self.down_scales, &y)
    }
}

/// The slot of each expert, by the placement that balances this load over the ranks.
fn place(load: &[f32], sizes: Sizes) -> Result<Vec<usize>> {
    let shape = balance::Shape::new([1, sizes.experts], sizes.experts, sizes.ranks);
    let placement = balance::Plan::new(shape, balance::Options::new())?.run(load)?;
    let mut slot_of = vec![0; sizes.experts];
    for (slot, &expert) in placement.physical_to_logical().iter().enumerate() {
        slot_of[expert as usize] = slot;
    }
    Ok(slot_of)
}

pub fn wide(x: &[bf16]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

pub fn narrow(x: &[f64]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f64(x)).collect()
}

fn norm(x: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = (mean + 1e-6).sqrt().recip();
    x.iter().map(|x| x * factor).collect()
}

fn product(matrix: &[f32], x: &[f64]) -> Vec<f64> {
    matrix.chunks(x.len()).map(|row| row.iter().zip(x).map(|(&w, x)| w as f64 * x).sum()).collect()
}

/// A matrix of E4M3 with 128×128 scales times a vector.
fn scaled(codes: &[E4M3], scales: &[f32], x: &[f64]) -> Vec<f64> {
    let values: Vec<f64> = (0..=255).map(|code| E4M3(code).to_f32() as f64).collect();
    let blocks = x.len() / BLOCK;
    let row = |(at, row): (usize, &[E4M3])| {
        let scales = &scales[at / BLOCK * blocks..][..blocks];
        let parts = row.chunks(BLOCK).zip(x.chunks(BLOCK)).zip(scales);
        parts
            .map(|((codes, x), &scale)| {
                let dot: f64 = codes.iter().zip(x).map(|(c, x)| values[c.0 as usize] * x).sum();
                dot * scale as f64
            })
            .sum()
    };
    codes.chunks(x.len()).enumerate().map(row).collect()
}

fn attend(q: &[f64], keys: &[Vec<f64>]) -> Vec<f64> {
    let scores: Vec<f64> = keys
        .iter()
        .map(|k| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * SOFTMAX_SCALE as f64)
        .collect();
    let most = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..mla::LATENT).map(|d| keys.iter().zip(&weights).map(|(k, w)| k[d] * w).sum::<f64>() / sum).collect()
}
