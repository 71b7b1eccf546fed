//! Random inputs, formats and comparisons of the witnesses; nothing here is the emulator's.

/// A small generator (splitmix64): tests need no statistics, only variety.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Roughly normal, deviation 1.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0
    }
}

/// A number format: how it is stored and what it can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    E4M3,
    E5M2,
    Bf16,
    F16,
    F32,
    S8,
}

impl Format {
    pub fn bytes(self) -> usize {
        match self {
            Format::E4M3 | Format::E5M2 | Format::S8 => 1,
            Format::Bf16 | Format::F16 => 2,
            Format::F32 => 4,
        }
    }

    /// Stored fraction bits, exponent bits.
    fn bits(self) -> (i32, i32) {
        match self {
            Format::E4M3 => (3, 4),
            Format::E5M2 => (2, 5),
            Format::Bf16 => (7, 8),
            Format::F16 => (10, 5),
            Format::F32 => (23, 8),
            Format::S8 => (0, 0),
        }
    }

    /// To the nearest value, ties to even. Inputs are far from overflow.
    pub fn round(self, x: f64) -> f64 {
        if self == Format::S8 {
            return x.round();
        }
        if x == 0.0 {
            return 0.0;
        }
        let (fraction, exponent) = self.bits();
        let least = 2 - (1 << (exponent - 1));
        let e = (x.abs().log2().floor() as i32).max(least);
        let unit = 2f64.powi(e - fraction);
        (x / unit).round_ties_even() * unit
    }

    /// The stored bits of a value the format holds.
    pub fn encode(self, x: f64) -> Vec<u8> {
        match self {
            Format::S8 => return vec![x as i8 as u8],
            Format::F32 => return (x as f32).to_le_bytes().to_vec(),
            _ => {}
        }
        let (fraction, exponent) = self.bits();
        let bias = (1 << (exponent - 1)) - 1;
        let mut e = 1 - bias;
        while x.abs() >= 2f64.powi(e + 1) {
            e += 1;
        }
        let units = (x.abs() / 2f64.powi(e - fraction)) as u32;
        assert_eq!(units as f64 * 2f64.powi(e - fraction), x.abs(), "{x} is not a value of {self:?}");
        // The implicit one of a normal number carries into the exponent field, which is one less.
        let word = units + ((e + bias - 1) as u32).wrapping_shl(fraction as u32);
        let word = word | (x.is_sign_negative() as u32) << (fraction + exponent);
        word.to_le_bytes()[..self.bytes()].to_vec()
    }

    /// The value of stored bits; no NaN or infinity is expected.
    pub fn decode(self, bytes: &[u8]) -> f64 {
        let word = bytes.iter().rev().fold(0u32, |word, byte| word << 8 | *byte as u32);
        match self {
            Format::S8 => return word as u8 as i8 as f64,
            Format::F32 => return f32::from_bits(word) as f64,
            _ => {}
        }
        let (fraction, exponent) = self.bits();
        let bias = (1 << (exponent - 1)) - 1;
        let field = (word >> fraction & ((1 << exponent) - 1)) as i32;
        let low = (word & ((1 << fraction) - 1)) as f64;
        let special = field == (1 << exponent) - 1 && self != Format::E4M3;
        assert!(
            !(special || self == Format::E4M3 && word & 0x7f == 0x7f),
            "{word:#x} of {self:?} is no number"
        );
        let size = if field == 0 {
            low * 2f64.powi(1 - bias - fraction)
        } else {
            (low + (1u32 << fraction) as f64) * 2f64.powi(field - bias - fraction)
        };
        if word >> (fraction + exponent) & 1 == 1 { -size } else { size }
    }

    pub fn encode_all(self, values: &[f64]) -> Vec<u8> {
        values.iter().flat_map(|x| self.encode(*x)).collect()
    }

    pub fn decode_all(self, bytes: &[u8]) -> Vec<f64> {
        bytes.chunks(self.bytes()).map(|b| self.decode(b)).collect()
    }

    /// Half a unit in the last place, relative.
    pub fn epsilon(self) -> f64 {
        2f64.powi(-self.bits().0 - 1)
    }
}

/// Inputs of a matrix product.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// Small integers: every sum is exact in every accumulator.
    Integers,
    /// Rounded normals.
    Normal,
}

pub fn matrix(rng: &mut Rng, format: Format, count: usize, values: Values) -> Vec<f64> {
    let draw = |_| match (values, format) {
        (Values::Normal, Format::S8) => rng.below(256) as f64 - 128.0,
        (Values::Normal, _) => format.round(rng.normal()),
        (Values::Integers, _) => rng.below(5) as f64 - 2.0,
    };
    (0..count).map(draw).collect()
}

/// `A · Bᵀ` in F64, and for each element the sum of its terms' sizes.
pub fn product(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut c, mut size) = (vec![0.0; m * n], vec![0.0; m * n]);
    for i in 0..m {
        for j in 0..n {
            let terms = a[i * k..][..k].iter().zip(&b[j * k..][..k]).map(|(x, y)| x * y);
            let (sum, abs) = terms.fold((0.0, 0.0), |(s, t): (f64, f64), p| (s + p, t + p.abs()));
            c[i * n + j] = sum;
            size[i * n + j] = abs;
        }
    }
    (c, size)
}

/// Every element within its bound; the first that is not is named.
pub fn assert_close(what: &str, got: &[f64], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}: elements");
    let mut worst = 0f64;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let (error, allowed) = ((g - w).abs(), bound(i));
        assert!(error <= allowed, "{what}: element {i} is {g}, reference {w}, allowed error {allowed}");
        worst = worst.max(if allowed > 0.0 { error / allowed } else { 0.0 });
    }
    assert!(worst <= 1.0);
}

#[test]
fn formats_go_to_bits_and_back() {
    for format in [Format::E4M3, Format::E5M2, Format::Bf16, Format::F16] {
        let mut rng = Rng(7);
        for _ in 0..1000 {
            let x = format.round(rng.normal() * 4.0);
            assert_eq!(format.decode(&format.encode(x)), x, "{format:?}");
        }
    }
    assert_eq!(Format::E4M3.encode(1.0), [0x38]);
    assert_eq!(Format::E4M3.encode(-448.0), [0xfe]);
    assert_eq!(Format::E5M2.encode(1.5), [0x3e]);
    assert_eq!(Format::Bf16.encode(-2.0), [0x00, 0xc0]);
    assert_eq!(Format::F16.encode(2f64.powi(-24)), [1, 0]);
}
