//! The fast paths against the model, element by element and bit by bit, over random and adversarial operands.

use super::*;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }
}

/// Ways to fill operands, each to reach some corner.
#[derive(Clone, Copy, Debug)]
enum Fill {
    /// Any bits: specials, subnormals, the whole range of exponents.
    Bits,
    /// Any finite bits.
    Finite,
    /// Small integers: everything aligns without loss.
    Integers,
    /// Mostly zeros and the smallest subnormals.
    Tiny,
    /// One huge element among small ones.
    Spread,
    /// Every other element is the negative of its neighbour: sums cancel.
    Cancel,
    /// All of the largest magnitude.
    Largest,
}

const FILLS: [Fill; 7] =
    [Fill::Bits, Fill::Finite, Fill::Integers, Fill::Tiny, Fill::Spread, Fill::Cancel, Fill::Largest];

fn finite(format: Format, random: &mut Random) -> u32 {
    let mask = ((1_u64 << (8 * format.bytes())) - 1) as u32;
    loop {
        let bits = random.next() as u32 & mask;
        if format.decode(bits).class == model::Class::Finite {
            return bits;
        }
    }
}

/// 1.0, and the step from one exponent to the next.
fn one(format: Format) -> (u32, u32) {
    match format {
        Format::E4M3 => (0x38, 8),
        Format::E5M2 => (0x3c, 4),
        Format::F16 => (0x3c00, 0x400),
        Format::BF16 => (0x3f80, 0x80),
        Format::TF32 => (0x3f80_0000, 0x80_0000),
        Format::S8 | Format::U8 | Format::B1 => (1, 1),
    }
}

fn operand(format: Format, fill: Fill, rows: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows * K_BYTES);
    let sign = format.sign_bit();
    let (unit, step) = one(format);
    let mut last = 0;
    for i in 0..rows * K_BYTES / format.bytes() {
        let bits = match fill {
            Fill::Bits => random.next() as u32,
            Fill::Finite => finite(format, random),
            Fill::Integers => {
                let magnitude = if random.below(8) == 0 { 0 } else { unit + step * random.below(3) as u32 };
                magnitude | if random.below(2) == 0 { sign } else { 0 }
            }
            Fill::Tiny => match random.below(4) {
                0 => 0,
                1 => sign,
                _ => (1 + random.below(9) as u32) << if format == Format::TF32 { 13 } else { 0 },
            },
            Fill::Spread if random.below(16) == 0 => unit + 5 * step + random.below(u64::from(step)) as u32,
            Fill::Spread => unit - random.below(6 * u64::from(step)) as u32,
            Fill::Cancel if i % 2 == 1 => last ^ sign,
            Fill::Cancel => finite(format, random),
            Fill::Largest => {
                let largest = match format {
                    Format::E4M3 => 0x7e,
                    Format::E5M2 => 0x7b,
                    Format::F16 => 0x7bff,
                    Format::BF16 => 0x7f7f,
                    Format::TF32 => 0x7f7f_ffff,
                    Format::S8 | Format::U8 | Format::B1 => 0x80,
                };
                largest | if random.below(4) == 0 { sign } else { 0 }
            }
        };
        last = bits;
        bytes.extend_from_slice(&bits.to_le_bytes()[..format.bytes()]);
    }
    bytes
}

/// Addends from every corner of F32.
fn addend(random: &mut Random) -> f32 {
    let bits = random.next() as u32;
    match random.below(12) {
        0 => 0.0,
        1 => -0.0,
        2 => f32::from_bits(bits),
        3 => f32::from_bits(bits & 0x807f_ffff),
        4 => f32::from_bits(bits & 0x81ff_ffff | 0x0080_0000),
        5 => f32::from_bits(bits & 0x80ff_ffff | 0x7e00_0000),
        6 => [f32::INFINITY, f32::NEG_INFINITY, f32::NAN][random.below(3) as usize],
        _ => (random.below(1 << 20) as f32 - 524_288.0) * f32::powi(2.0, random.below(40) as i32 - 30),
    }
}

/// Every host path, every fill of both operands: returns how many products were compared.
fn against_model(a_format: Format, b_format: Format, f16: bool) -> usize {
    let mut random = Random(0x1357_9bdf_0246_8ace ^ (a_format as u64) << 8 ^ b_format as u64);
    let mut products = 0;
    for a_fill in FILLS {
        for b_fill in FILLS {
            let (m, n) = (1 + random.below(9) as usize, 1 + random.below(49) as usize);
            let a = operand(a_format, a_fill, m, &mut random);
            let b = operand(b_format, b_fill, n, &mut random);
            let mma = Mma {
                a_format,
                b_format,
                m,
                n,
                a: &a,
                b: &b,
                accumulate: random.below(4) != 0,
                negate_a: random.below(4) == 0,
                negate_b: random.below(4) == 0,
            };
            let c: Vec<f32> = (0..m * n).map(|_| addend(&mut random)).collect();
            let c16: Vec<u16> = (0..m * n)
                .map(|_| match random.below(3) {
                    0 => random.next() as u16,
                    1 => random.next() as u16 & 0x8fff,
                    _ => 0,
                })
                .collect();
            for host in [Host::Portable, Host::detect()] {
                if f16 {
                    compare(&mma, host, &c16);
                } else {
                    compare(&mma, host, &c);
                }
                products += m * n * mma.k();
            }
        }
    }
    products
}

fn compare<A: Accumulator>(mma: &Mma<'_>, host: Host, c: &[A]) {
    let mut acc = c.to_vec();
    mma.exact(host, &mut acc);
    for (at, got) in acc.iter().enumerate() {
        let (i, j) = (at / mma.n, at % mma.n);
        let start = if mma.accumulate { c[at] } else { A::default() };
        let expected = mma.by_model(A::block(mma.a_format), i, j, start);
        assert_eq!(
            got.bits(),
            expected.bits(),
            "{host:?} {:?} x {:?} at ({i}, {j}): got {:#x}, expected {:#x}, addend {:#x}",
            mma.a_format,
            mma.b_format,
            got.bits(),
            expected.bits(),
            start.bits(),
        );
    }
}

#[test]
fn fp8_agrees_with_the_model() {
    let mut products = 0;
    for a in [Format::E4M3, Format::E5M2] {
        for b in [Format::E4M3, Format::E5M2] {
            for _ in 0..3 {
                products += against_model(a, b, false);
            }
            products += against_model(a, b, true);
        }
    }
    assert!(products > 3_000_000, "{products}");
}

#[test]
fn wide_formats_agree_with_the_model() {
    let mut products = 0;
    for format in [Format::F16, Format::BF16, Format::TF32] {
        for _ in 0..3 {
            products += against_model(format, format, false);
        }
    }
    products += against_model(Format::F16, Format::F16, true);
    assert!(products > 1_000_000, "{products}");
}

#[test]
fn a_whole_instruction() {
    let mut random = Random(99);
    let a = operand(Format::E4M3, Fill::Finite, 64, &mut random);
    let b = operand(Format::E4M3, Fill::Finite, 256, &mut random);
    let mma = Mma {
        a_format: Format::E4M3,
        b_format: Format::E4M3,
        m: 64,
        n: 256,
        a: &a,
        b: &b,
        accumulate: true,
        negate_a: false,
        negate_b: false,
    };
    let mut c = vec![0.0_f32; 64 * 256];
    for _ in 0..4 {
        compare(&mma, Host::detect(), &c);
        mma.f32(Mode::Exact, &mut c);
        assert!(c.iter().all(|x| x.to_bits() & 0x3ff == 0));
    }
}

#[test]
fn fast_mode_is_close() {
    let mut random = Random(7);
    for format in [Format::E4M3, Format::E5M2, Format::F16, Format::BF16, Format::TF32] {
        let a = operand(format, Fill::Spread, 64, &mut random);
        let b = operand(format, Fill::Spread, 40, &mut random);
        let mma = Mma {
            a_format: format,
            b_format: format,
            m: 64,
            n: 40,
            a: &a,
            b: &b,
            accumulate: false,
            negate_a: true,
            negate_b: false,
        };
        let mut exact = vec![f32::NAN; 64 * 40];
        mma.f32(Mode::Exact, &mut exact);
        for host in [Host::Portable, Host::detect()] {
            let mut fast = vec![f32::NAN; 64 * 40];
            fast::f32(&mma, host, &mut fast);
            for (fast, exact) in fast.iter().zip(&exact) {
                assert!((fast - exact).abs() <= 1e-2 * exact.abs().max(1e-3), "{format:?}: {fast} {exact}");
            }
        }
    }
}

#[test]
fn integers_wrap_or_saturate() {
    let mut random = Random(21);
    for a_format in [Format::S8, Format::U8] {
        for b_format in [Format::S8, Format::U8] {
            let (m, n) = (5, 37);
            let a = operand(a_format, Fill::Bits, m, &mut random);
            let b = operand(b_format, Fill::Bits, n, &mut random);
            let mma = Mma {
                a_format,
                b_format,
                m,
                n,
                a: &a,
                b: &b,
                accumulate: true,
                negate_a: false,
                negate_b: false,
            };
            let c: Vec<i32> = (0..m * n)
                .map(|_| [i32::MAX - 1000, i32::MIN + 1000, random.next() as i32][random.below(3) as usize])
                .collect();
            let extend = |format: Format, byte: u8| match format {
                Format::S8 => i64::from(byte as i8),
                _ => i64::from(byte),
            };
            for host in [Host::Portable, Host::detect()] {
                for saturate in [false, true] {
                    let mut acc = c.clone();
                    fast::s32(&mma, host, &mut acc, saturate);
                    for (at, got) in acc.iter().enumerate() {
                        let (i, j) = (at / n, at % n);
                        let sum: i64 = (0..32)
                            .map(|k| extend(a_format, a[i * 32 + k]) * extend(b_format, b[j * 32 + k]))
                            .sum::<i64>()
                            + i64::from(c[at]);
                        let expected = if saturate {
                            sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
                        } else {
                            sum as i32
                        };
                        assert_eq!(*got, expected);
                    }
                }
            }
        }
    }
}
