//! Speed of the emulated tensor core: products (multiply-adds) per second for one `wgmma` of 64 × 128, per format and mode.

use criterion::{Criterion, Throughput};
use hadal_emulator::tensor::{Format, K_BYTES, Mma, Mode};

const M: usize = 64;
const N: usize = 128;

/// Finite operands with a spread of exponents around 1.
fn operand(format: Format, rows: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(rows * K_BYTES);
    for _ in 0..rows * K_BYTES / format.bytes() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (state >> 33) as u32;
        let bits: u32 = match format {
            Format::E4M3 => (0x10 + random % 0x40) | (random >> 8 & 0x80),
            Format::E5M2 => (0x28 + random % 0x20) | (random >> 8 & 0x80),
            Format::F16 => (0x2c00 + random % 0x2000) | (random >> 8 & 0x8000),
            Format::BF16 => (0x3d00 + random % 0x0400) | (random >> 8 & 0x8000),
            Format::TF32 => 0x3d00_0000 + random % 0x0400_0000,
            Format::S8 | Format::U8 | Format::B1 => random,
        };
        bytes.extend_from_slice(&bits.to_le_bytes()[..format.bytes()]);
    }
    bytes
}

fn wgmma(c: &mut Criterion) {
    let mut group = c.benchmark_group("wgmma_m64n128");
    for format in [Format::E4M3, Format::E5M2, Format::BF16, Format::F16, Format::TF32] {
        let (a, b) = (operand(format, M, 1), operand(format, N, 2));
        let mma = Mma {
            a_format: format,
            b_format: format,
            m: M,
            n: N,
            a: &a,
            b: &b,
            accumulate: true,
            negate_a: false,
            negate_b: false,
        };
        group.throughput(Throughput::Elements((M * N * K_BYTES / format.bytes()) as u64));
        for mode in [Mode::Exact, Mode::Fast] {
            let mut acc = vec![0.0_f32; M * N];
            group.bench_function(format!("{format:?}/{mode:?}"), |bencher| {
                bencher.iter(|| {
                    // The first of a chain: the sums must not run away over millions of iterations.
                    Mma { accumulate: false, ..mma }.f32(mode, &mut acc);
                });
            });
        }
        let mut acc = vec![0.0_f32; M * N];
        mma.f32(Mode::Exact, &mut acc);
        let start = acc.clone();
        group.bench_function(format!("{format:?}/Exact, accumulating"), |bencher| {
            bencher.iter(|| {
                acc.copy_from_slice(&start);
                mma.f32(Mode::Exact, &mut acc);
            });
        });
    }
    let (a, b) = (operand(Format::S8, M, 1), operand(Format::S8, N, 2));
    let mma = Mma {
        a_format: Format::S8,
        b_format: Format::S8,
        m: M,
        n: N,
        a: &a,
        b: &b,
        accumulate: true,
        negate_a: false,
        negate_b: false,
    };
    let mut acc = vec![0; M * N];
    group.throughput(Throughput::Elements((M * N * K_BYTES) as u64));
    group.bench_function("S8", |bencher| bencher.iter(|| mma.s32(&mut acc, false)));
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    wgmma(&mut criterion);
    criterion.final_summary();
}
