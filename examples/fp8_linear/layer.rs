//! The layer: a weight from a safetensors file or generated, and activations to multiply it with.
//!
//! The generated ones look like what a trained model has where it matters to quantisation. Weights are near normal with a
//! spread that differs from row to row. Activations, as they come out of an RMS norm, are near normal too, but one channel
//! in 500 is an outlier: 20 to 60 times as large in every row, which is what takes the resolution of its whole group
//! of 128 in formats without exponent bits.

use std::fs::File;
use std::path::Path;

use hadal::{DType, bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::Failure;
use super::options::expect_room;

/// `y = x · weightᵀ`, the weight widened to F32 and the type it had.
#[derive(Debug)]
pub struct Layer {
    pub about: String,
    pub dtype: DType,
    pub n: usize,
    pub k: usize,
    pub weight: Vec<f32>,
}

/// One channel in this many is an outlier.
const OUTLIER_EVERY: u64 = 500;

impl Layer {
    /// A generated weight in BF16.
    pub fn generate(n: usize, k: usize, seed: u64) -> Result<Layer, Failure> {
        expect_room("--n and --k", n, k)?;
        let mut random = Random(seed ^ 0x77ee_1947);
        let mut weight = Vec::with_capacity(n * k);
        for _ in 0..n {
            let spread = 0.02 * (1.0 + 0.5 * random.normal().abs());
            weight.extend((0..k).map(|_| bf16::from_f32(random.normal() * spread).to_f32()));
        }
        Ok(Layer { about: format!("generated from seed {seed}"), dtype: DType::BF16, n, k, weight })
    }

    /// The tensor `name` of a safetensors file.
    pub fn load(path: &Path, name: Option<&str>) -> Result<Layer, Failure> {
        let shown = path.display();
        let fail = |why: String| Failure::Failed(format!("{shown}: {why}"));
        let file = File::open(path).map_err(|e| fail(e.to_string()))?;
        if !file.metadata().is_ok_and(|about| about.is_file()) {
            return Err(fail("expected a safetensors file, got a folder or a device".into()));
        }
        // SAFETY: mapped read-only; as with every mapped file, whoever cuts it short while we read ends the program.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| fail(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|e| fail(format!("not a safetensors file, or a damaged one: {e}")))?;
        let Some(name) = name else {
            return Err(fail(format!("--tensor NAME says which tensor to take\n{}", listing(&tensors))));
        };
        let tensor = tensors
            .tensor(name)
            .map_err(|_| fail(format!("there is no tensor `{name}`\n{}", listing(&tensors))))?;
        let &[n, k] = tensor.shape() else {
            return Err(fail(format!(
                "tensor `{name}`: expected two dimensions, [N, K], got {:?}",
                tensor.shape()
            )));
        };
        expect_room(&format!("tensor `{name}`"), n, k)?;
        let (dtype, weight) = widen(&tensor).ok_or_else(|| {
            fail(format!("tensor `{name}`: expected element type F32, F16 or BF16, got {:?}", tensor.dtype()))
        })?;
        if let Some(at) = weight.iter().position(|w| !w.is_finite()) {
            let (row, col) = (at / k, at % k);
            return Err(fail(format!(
                "tensor `{name}`: expected finite numbers, got {} at [{row}, {col}]",
                weight[at]
            )));
        }
        Ok(Layer { about: format!("`{name}` of {shown}"), dtype, n, k, weight })
    }
}

/// The elements in F32, if they are of a type the quantisers read.
fn widen(tensor: &TensorView) -> Option<(DType, Vec<f32>)> {
    let halves = || tensor.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    Some(match tensor.dtype() {
        Dtype::BF16 => (DType::BF16, halves().map(|bits| bf16::from_bits(bits).to_f32()).collect()),
        Dtype::F16 => (DType::F16, halves().map(|bits| f16::from_bits(bits).to_f32()).collect()),
        Dtype::F32 => {
            let words = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            (DType::F32, words.collect())
        }
        _ => return None,
    })
}

/// What the file has, the matrices of floats first.
fn listing(tensors: &SafeTensors) -> String {
    const MOST: usize = 40;
    let usable =
        |t: &TensorView| matches!(t.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) && t.shape().len() == 2;
    let mut all: Vec<_> = tensors.iter().map(|(name, t)| (!usable(&t), name, t)).collect();
    all.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    let mut text = format!("it has {} tensors{}", all.len(), if all.is_empty() { "" } else { ":" });
    for (_, name, tensor) in all.iter().take(MOST) {
        text += &format!("\n  {name}  {:?} {:?}", tensor.dtype(), tensor.shape());
    }
    if all.len() > MOST {
        text += &format!("\n  and {} more", all.len() - MOST);
    }
    text
}

/// Activations `[rows, k]` with outlier channels.
pub fn activations(rows: usize, k: usize, seed: u64) -> Result<Vec<bf16>, Failure> {
    expect_room("--rows times K", rows, k)?;
    let mut random = Random(seed ^ 0x00ac_71f5);
    let channel = |random: &mut Random| match random.next() % OUTLIER_EVERY {
        0 => 20.0 + (random.next() % 40) as f32,
        _ => 1.0,
    };
    let channels: Vec<f32> = (0..k).map(|_| channel(&mut random)).collect();
    let row = |_| channels.iter().map(|scale| bf16::from_f32(random.normal() * scale)).collect::<Vec<_>>();
    Ok((0..rows).flat_map(row).collect())
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Mean 0, variance 1: the sum of four uniform numbers.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u32 = (0..4).map(|i| (bits >> (16 * i) & 0xffff) as u32).sum();
        (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt()
    }
}
