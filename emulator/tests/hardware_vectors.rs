//! The emulator's tensor-core arithmetic against results recorded on an H100 (`tests/data/h100/README.md`): every one of 5000
//! vectors per format, bit for bit, on every code path the host has. That the vectors can tell is shown by the models next door:
//! each wrong parameter fails some of them.

use hadal_emulator::convert::{self, Clamp, Rounding};
use hadal_emulator::tensor::model::{Block, Output};
use hadal_emulator::tensor::{Format, K_BYTES, Mma, Mode};

struct Vector {
    a: Vec<u32>,
    b: Vec<u32>,
    addend: u32,
    result: u32,
    result_f16: Option<u16>,
}

struct Recorded {
    format: Format,
    vectors: Vec<Vector>,
    /// Whether the addend took part.
    addend_applied: bool,
}

fn read(format: Format) -> Recorded {
    let (data, k): (&[u8], usize) = match format {
        Format::E4M3 => (include_bytes!("data/h100/e4m3.bin"), 32),
        Format::E5M2 => (include_bytes!("data/h100/e5m2.bin"), 32),
        Format::BF16 => (include_bytes!("data/h100/bf16.bin"), 16),
        Format::F16 => (include_bytes!("data/h100/fp16.bin"), 16),
        Format::TF32 => (include_bytes!("data/h100/tf32.bin"), 4),
        Format::S8 | Format::U8 | Format::B1 => unreachable!("no integer results were recorded"),
    };
    let size = format.bytes();
    let has_f16 = format == Format::F16;
    let record = 2 * k * size + 8 + if has_f16 { 2 } else { 0 };
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |w, &byte| w << 8 | u32::from(byte));
    let vectors: Vec<Vector> = data
        .chunks_exact(record)
        .map(|r| {
            let (a, r) = r.split_at(k * size);
            let (b, r) = r.split_at(k * size);
            Vector {
                a: a.chunks_exact(size).map(word).collect(),
                b: b.chunks_exact(size).map(word).collect(),
                addend: word(&r[..4]),
                result: word(&r[4..8]),
                result_f16: has_f16.then(|| word(&r[8..10]) as u16),
            }
        })
        .collect();
    assert_eq!(vectors.len(), 5000);
    Recorded { format, vectors, addend_applied: !matches!(format, Format::E4M3 | Format::E5M2) }
}

impl Recorded {
    /// Vectors on which a block with these parameters returns what the chip did.
    fn matches(&self, block: Block) -> usize {
        self.vectors
            .iter()
            .filter(|v| {
                let c = if self.addend_applied { v.addend } else { 0 };
                block.dot(self.format, self.format, &v.a, &v.b, c) == v.result
            })
            .count()
    }
}

const FORMATS: [Format; 5] = [Format::E4M3, Format::E5M2, Format::BF16, Format::F16, Format::TF32];

#[test]
fn the_model_is_the_chip() {
    for format in FORMATS {
        let recorded = read(format);
        assert_eq!(recorded.matches(Block::wgmma_f32(format)), 5000, "{format:?}");
    }
}

#[test]
fn an_f16_accumulator_rounds_to_nearest() {
    let recorded = read(Format::F16);
    let block = Block::wgmma_f16(Format::F16);
    for v in &recorded.vectors {
        let c = convert::f32_to_f16(f32::from_bits(v.addend), Rounding::Nearest, Clamp::NONE);
        let got = block.dot(Format::F16, Format::F16, &v.a, &v.b, u32::from(c));
        assert_eq!(got as u16, v.result_f16.unwrap());
    }
}

#[test]
fn neighbouring_models_are_not_the_chip() {
    for format in [Format::E4M3, Format::E5M2] {
        let recorded = read(format);
        let chip = Block::wgmma_f32(format);
        for block in [
            Block { fraction: 12, ..chip },
            Block { fraction: 14, ..chip },
            Block { length: 16, ..chip },
            Block { output: Output::F32 { fraction: 23 }, ..chip },
            Block { output: Output::F32 { fraction: 12 }, ..chip },
        ] {
            assert!(recorded.matches(block) < 4900, "{format:?} {block:?}");
        }
    }
    for format in [Format::BF16, Format::F16] {
        let recorded = read(format);
        let chip = Block::wgmma_f32(format);
        for block in [
            Block { fraction: 24, ..chip },
            Block { fraction: 26, ..chip },
            Block { length: 8, ..chip },
            Block { output: Output::F32 { fraction: 22 }, ..chip },
        ] {
            assert!(recorded.matches(block) < 5000, "{format:?} {block:?}");
        }
    }
}

/// The functions the machine calls, on whatever vector unit this host has: many vectors at a time as rows of A, each with its own
/// row of B, so that the diagonal of the product holds the recorded dot products.
#[test]
fn the_fast_paths_are_the_chip() {
    const TILE: usize = 40;
    for format in FORMATS {
        let recorded = read(format);
        for tile in recorded.vectors.chunks(TILE) {
            let pack = |rows: Vec<&Vec<u32>>| -> Vec<u8> {
                rows.iter()
                    .flat_map(|row| {
                        let mut bytes: Vec<u8> =
                            row.iter().flat_map(|e| e.to_le_bytes()[..format.bytes()].to_vec()).collect();
                        // The TF32 vectors have four products; wgmma has eight.
                        bytes.resize(K_BYTES, 0);
                        bytes
                    })
                    .collect()
            };
            let a = pack(tile.iter().map(|v| &v.a).collect());
            let b = pack(tile.iter().map(|v| &v.b).collect());
            let mma = Mma {
                a_format: format,
                b_format: format,
                m: tile.len(),
                n: tile.len(),
                a: &a,
                b: &b,
                accumulate: true,
                negate_a: false,
                negate_b: false,
            };
            let n = tile.len();
            let mut acc = vec![0.0_f32; n * n];
            let mut acc_f16 = vec![0_u16; n * n];
            for (i, v) in tile.iter().enumerate() {
                let c = f32::from_bits(if recorded.addend_applied { v.addend } else { 0 });
                acc[i * n + i] = c;
                acc_f16[i * n + i] = convert::f32_to_f16(c, Rounding::Nearest, Clamp::NONE);
            }
            mma.f32(Mode::Exact, &mut acc);
            for (i, v) in tile.iter().enumerate() {
                assert_eq!(acc[i * n + i].to_bits(), v.result, "{format:?}");
            }
            if format == Format::F16 {
                mma.f16(Mode::Exact, &mut acc_f16);
                for (i, v) in tile.iter().enumerate() {
                    assert_eq!(Some(acc_f16[i * n + i]), v.result_f16);
                }
            }
            // Negating one operand and the addend negates the result; negating both operands changes nothing.
            let mut negated: Vec<f32> = (0..n * n).map(|_| 0.0).collect();
            for (i, v) in tile.iter().enumerate() {
                negated[i * n + i] =
                    -f32::from_bits(if recorded.addend_applied { v.addend } else { 1 << 31 });
            }
            Mma { negate_b: true, ..mma }.f32(Mode::Exact, &mut negated);
            for (i, v) in tile.iter().enumerate() {
                assert_eq!((-negated[i * n + i]).to_bits(), v.result, "{format:?}");
            }
        }
    }
}
