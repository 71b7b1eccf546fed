//! Writes dot products of the exact tensor-core model to a file, for comparison with another model: `.ci/witnesses/mmaemu.sh`.
//!
//! `cargo run -p hadal-emulator --example dot_vectors -- FILE [COUNT]`. A record is K (u32), A's and B's format (u8 each: 0 is E4M3,
//! 1 is E5M2), two zero bytes, the starting accumulator (F32), the result (F32), K bytes of A, K bytes of B; all little-endian.
//! K is 32, 128 or 1024: several instructions, each adding to the last one's result, and nine records of ten start from an
//! accumulator that is not zero. Operands are random bytes of finite values: every exponent, subnormals and zeros included, in part
//! of the records from a narrow range of exponents, so that sums neither swamp nor vanish.

use std::io::Write;

use hadal_emulator::tensor::{Format, K_BYTES, Mma, Mode};

/// xorshift64*: the same vectors on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    /// A finite value: any, or (narrow) one whose exponent is near 0.
    fn value(&mut self, format: Format, narrow: bool) -> u8 {
        let (fraction_bits, bias, last) = if format == Format::E4M3 { (3, 7, 0x7e) } else { (2, 15, 0x7b) };
        let magnitude = if narrow {
            (bias - 2 + self.below(4)) << fraction_bits | self.below(1 << fraction_bits)
        } else {
            self.below(last + 1)
        };
        (magnitude | self.below(2) << 7) as u8
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("which file to write?")?;
    let count: u64 = arguments.next().map_or(Ok(20_000), |count| count.parse())?;
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    let mut random = Random(0x5eed_cafe);
    for record in 0..count {
        let k = [32, 128, 1024][(record % 3) as usize];
        let mut format = || if random.below(2) == 0 { Format::E4M3 } else { Format::E5M2 };
        let (a_format, b_format) = (format(), format());
        let narrow = random.below(2) == 0;
        let a: Vec<u8> = (0..k).map(|_| random.value(a_format, narrow)).collect();
        let b: Vec<u8> = (0..k).map(|_| random.value(b_format, narrow)).collect();
        // From far below to far above the products.
        let exponent = if narrow { 117 + random.below(24) } else { 87 + random.below(80) };
        let bits = (random.below(2) << 31 | exponent << 23 | random.below(1 << 23)) as u32;
        let start = if random.below(10) == 0 { 0.0 } else { f32::from_bits(bits) };
        let mut sum = [start];
        for (a, b) in a.chunks(K_BYTES).zip(b.chunks(K_BYTES)) {
            Mma { a_format, b_format, m: 1, n: 1, a, b, accumulate: true, negate_a: false, negate_b: false }
                .f32(Mode::Exact, &mut sum);
        }
        let code = |format| (format == Format::E5M2) as u8;
        out.write_all(&(k as u32).to_le_bytes())?;
        out.write_all(&[code(a_format), code(b_format), 0, 0])?;
        out.write_all(&start.to_le_bytes())?;
        out.write_all(&sum[0].to_le_bytes())?;
        out.write_all(&a)?;
        out.write_all(&b)?;
    }
    out.flush()?;
    Ok(())
}
