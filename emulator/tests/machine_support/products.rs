//! Operands of matrix products: small integers in every format, so that each sum is exact and a scalar reference knows all bits.

/// An operand's element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
    S4,
    U4,
    B1,
    F64,
}

use Element::*;

impl Element {
    pub fn name(self) -> &'static str {
        match self {
            F16 => "f16",
            Bf16 => "bf16",
            Tf32 => "tf32",
            E4m3 => "e4m3",
            E5m2 => "e5m2",
            S8 => "s8",
            U8 => "u8",
            S4 => "s4",
            U4 => "u4",
            F64 => "f64",
            B1 => "b1",
        }
    }

    /// Bits of an element.
    pub fn bits(self) -> usize {
        match self {
            F64 => 64,
            Tf32 => 32,
            F16 | Bf16 => 16,
            S4 | U4 => 4,
            B1 => 1,
            _ => 8,
        }
    }

    /// A value of the kind this test uses: anything for integers, -4 to 4 for floats.
    pub fn draw(self, noise: &mut Noise) -> i64 {
        let word = i64::from(noise.next());
        match self {
            S8 => word % 256 - 128,
            U8 => word % 256,
            S4 => word % 16 - 8,
            U4 => word % 16,
            B1 => word % 2,
            _ => word % 9 - 4,
        }
    }

    /// The bits of a value.
    pub fn encode(self, value: i64) -> u64 {
        // Sign, exponent and mantissa of a small integer in a format with so many exponent and mantissa bits.
        let float = |exponent: u64, mantissa: u64| {
            let sign = u64::from(value < 0) << (exponent + mantissa);
            let magnitude = value.unsigned_abs();
            let Some(top) = magnitude.checked_ilog2().map(u64::from) else { return sign };
            let bias = (1 << (exponent - 1)) - 1;
            sign | (top + bias) << mantissa | (magnitude << mantissa >> top) & ((1 << mantissa) - 1)
        };
        match self {
            F16 => float(5, 10),
            Bf16 => float(8, 7),
            Tf32 => float(8, 10) << 13,
            E4m3 => float(4, 3),
            E5m2 => float(5, 2),
            S8 | U8 => value as u8 as u64,
            S4 | U4 => value as u64 & 15,
            F64 => (value as f64).to_bits(),
            B1 => value as u64,
        }
    }
}

/// Numbers without a pattern, the same in every run.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
}

/// A matrix of `rows` (M of A, N of B) by K values.
pub struct Matrix {
    pub element: Element,
    pub k: usize,
    values: Vec<i64>,
}

impl Matrix {
    pub fn draw(element: Element, rows: usize, k: usize, noise: &mut Noise) -> Matrix {
        Matrix { element, k, values: (0..rows * k).map(|_| element.draw(noise)).collect() }
    }

    pub fn row(&self, row: usize) -> &[i64] {
        &self.values[row * self.k..][..self.k]
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.k
    }

    /// The bytes of a row, K ascending.
    pub fn row_bytes(&self, row: usize) -> Vec<u8> {
        let bits = self.element.bits();
        let mut bytes = vec![0; self.k * bits / 8];
        for (k, &value) in self.row(row).iter().enumerate() {
            let word = self.element.encode(value);
            for bit in (0..bits).filter(|b| word >> b & 1 == 1) {
                bytes[(k * bits + bit) / 8] |= 1 << ((k * bits + bit) % 8);
            }
        }
        bytes
    }
}
