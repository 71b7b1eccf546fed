//! CUDA C++ of ours through NVIDIA's compiler (sources and PTX: `tests/data/witnesses/cuda/`): cp.async pipelines, `mma.sync`,
//! warp primitives, atomics, clusters with distributed shared memory, library functions, calls and jump tables.

use hadal_emulator::Launch;

use crate::arith::{Format, Rng, Values, assert_close, matrix, product};
use crate::launch::{Arg, Host, machines};

fn grid(blocks: u32, threads: u32, shared: u32) -> Launch {
    Launch { grid: [blocks, 1, 1], block: [threads, 1, 1], dynamic_shared: shared, ..Launch::default() }
}

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

fn longs(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|c| c.iter().rev().fold(0, |word, byte| word << 8 | *byte as u64)).collect()
}

#[test]
pub fn gemm_with_a_cp_async_pipeline() {
    let (m, n, k) = (128, 192, 160);
    for config in machines() {
        for values in [Values::Integers, Values::Normal] {
            let mut rng = Rng(20);
            let a = matrix(&mut rng, Format::Bf16, m * k, values);
            let b = matrix(&mut rng, Format::Bf16, n * k, values);
            let mut host = Host::new(config.clone(), "cuda/gemm_cp_async.ptx");
            let a_at = host.put(&Format::Bf16.encode_all(&a));
            let b_at = host.put(&Format::Bf16.encode_all(&b));
            let c_at = host.blank(m * n * 4);
            let args =
                [Arg::U64(a_at), Arg::U64(b_at), Arg::U64(c_at), Arg::U32(n as u32), Arg::U32(k as u32)];
            let shared = 3 * (64 + 64) * 32 * 2;
            let launch = Launch { grid: [m as u32 / 64, n as u32 / 64, 1], ..grid(1, 128, shared) };
            host.run("gemm_cp_async", &args, launch);
            let got = Format::F32.decode_all(&host.get(c_at, m * n * 4));
            let (want, size) = product(&a, &b, m, n, k);
            let exact = matches!(values, Values::Integers);
            assert_close("gemm_cp_async", &got, &want, |i| if exact { 0.0 } else { size[i] * 1e-5 });
        }
    }
}

#[test]
fn reductions_by_shuffles_and_atomics() {
    let n = 3000;
    for config in machines() {
        let mut rng = Rng(21);
        let x = matrix(&mut rng, Format::F32, n, Values::Normal);
        let mut host = Host::new(config, "cuda/warps.ptx");
        let x_at = host.put(&Format::F32.encode_all(&x));
        let (sum, largest) = (host.put(&[0; 8]), host.put(&i32::MIN.to_le_bytes()));
        let (arrived, mean) = (host.put(&[0; 4]), host.blank(8));
        let args = [x_at, sum, largest, arrived, mean].map(Arg::U64);
        let args = [&args[..1], &[Arg::U32(n as u32)], &args[1..]].concat();
        host.run("grid_reduce", &args, grid(5, 192, 0));
        let want: f64 = x.iter().sum();
        let total = f64::from_bits(longs(&host.get(sum, 8))[0]);
        assert!((total - want).abs() < 1e-3, "{total} {want}");
        assert_eq!(f64::from_bits(longs(&host.get(mean, 8))[0]), total / n as f64);
        let most = x.iter().map(|x| x.round_ties_even() as i32).max().unwrap();
        assert_eq!(ints(&host.get(largest, 4)), [most]);
        assert_eq!(ints(&host.get(arrived, 4)), [0], "atomicInc wraps at the last block");
    }
}

#[test]
fn counts_of_keys_by_match() {
    let (n, keys) = (1000, 7);
    for config in machines() {
        let mut rng = Rng(22);
        let x: Vec<i32> = (0..n).map(|_| rng.below(keys) as i32).collect();
        let mut host = Host::new(config, "cuda/warps.ptx");
        let (x_at, counts, ranks) =
            (host.put(&words(&x)), host.put(&vec![0; keys as usize * 4]), host.blank(n * 4));
        let args = [Arg::U64(x_at), Arg::U32(n as u32), Arg::U64(counts), Arg::U64(ranks)];
        host.run("count_keys", &args, grid(4, 256, 0));
        let counts = ints(&host.get(counts, keys as usize * 4));
        let ranks = ints(&host.get(ranks, n * 4));
        for key in 0..keys as i32 {
            // Warps come in any order; every rank below the count appears once.
            let mut seen: Vec<i32> = (0..n).filter(|i| x[*i] == key).map(|i| ranks[i]).collect();
            seen.sort();
            assert_eq!(seen, (0..counts[key as usize]).collect::<Vec<_>>(), "key {key}");
        }
    }
}

#[test]
fn compaction_by_ballots() {
    let n = 900;
    for config in machines() {
        let mut rng = Rng(23);
        let x: Vec<i32> = (0..n).map(|_| rng.below(10_000) as i32).collect();
        let mut host = Host::new(config, "cuda/warps.ptx");
        let (x_at, kept, count) = (host.put(&words(&x)), host.blank(n * 4), host.put(&[0; 4]));
        let args = [Arg::U64(x_at), Arg::U32(n as u32), Arg::U64(kept), Arg::U64(count)];
        host.run("compact", &args, grid(8, 128, 0));
        let mut want: Vec<i32> = x.iter().copied().filter(|x| x % 3 == 0).collect();
        assert_eq!(ints(&host.get(count, 4)), [want.len() as i32]);
        let mut got = ints(&host.get(kept, want.len() * 4));
        got.sort();
        want.sort();
        assert_eq!(got, want);
    }
}

#[test]
fn sums_of_tiles_and_a_compare_and_swap_loop() {
    let n = 512;
    for config in machines() {
        let mut rng = Rng(24);
        let x: Vec<i32> = (0..n).map(|_| rng.below(1000) as i32 - 500).collect();
        let mut host = Host::new(config, "cuda/warps.ptx");
        let (x_at, y, product) = (host.put(&words(&x)), host.blank(n / 2), host.put(&1u64.to_le_bytes()));
        host.run("tile_sums", &[x_at, y, product].map(Arg::U64), grid(2, 256, 0));
        let want: Vec<i32> = x.chunks(8).map(|c| c.iter().sum()).collect();
        assert_eq!(ints(&host.get(y, n / 2)), want);
        let factor = |sum: &i32| 2u32.wrapping_mul(*sum as u32).wrapping_add(1) as u64;
        let all = want.iter().map(factor).fold(1, u64::wrapping_mul);
        assert_eq!(longs(&host.get(product, 8)), [all]);
    }
}

#[test]
fn histogram_in_the_shared_memory_of_a_cluster() {
    let (n, per_block) = (4000, 100);
    for config in machines() {
        let mut rng = Rng(25);
        let x: Vec<i32> = (0..n).map(|_| rng.below(4 * per_block) as i32).collect();
        let mut host = Host::new(config, "cuda/cluster.ptx");
        let bytes = 4 * per_block as usize * 4;
        let (x_at, counts) = (host.put(&words(&x)), host.put(&vec![0; bytes]));
        let args = [Arg::U64(x_at), Arg::U32(n as u32), Arg::U32(per_block as u32), Arg::U64(counts)];
        let launch = Launch { cluster: Some([4, 1, 1]), ..grid(8, 128, per_block as u32 * 4) };
        host.run("cluster_histogram", &args, launch);
        let want: Vec<i32> =
            (0..4 * per_block as i32).map(|bin| x.iter().filter(|x| **x == bin).count() as i32).collect();
        assert_eq!(ints(&host.get(counts, bytes)), want);
    }
}

#[test]
fn rows_rotate_through_a_cluster() {
    let (cols, blocks) = (300, [4usize, 2]);
    for config in machines() {
        let mut rng = Rng(26);
        let count = cols * blocks[0] * blocks[1];
        let x = matrix(&mut rng, Format::F32, count, Values::Normal);
        let mut host = Host::new(config, "cuda/cluster.ptx");
        let (x_at, y_at) = (host.put(&Format::F32.encode_all(&x)), host.blank(count * 4));
        let args = [Arg::U64(x_at), Arg::U64(y_at), Arg::U32(cols as u32)];
        // The cluster's shape is in the kernel.
        let launch = Launch { grid: [4, 2, 1], ..grid(1, 64, cols as u32 * 4) };
        host.run("cluster_rotate", &args, launch);
        let got = Format::F32.decode_all(&host.get(y_at, count * 4));
        for (by, bx) in (0..blocks[1]).flat_map(|y| (0..blocks[0]).map(move |x| (y, x))) {
            let rank = bx % 2 + by % 2 * 2;
            let next = (rank + 1) % 4;
            let peer = (by / 2 * 2 + next / 2) * blocks[0] + bx / 2 * 2 + next % 2;
            let own = by * blocks[0] + bx;
            assert_eq!(got[own * cols..][..cols], x[peer * cols..][..cols], "block ({bx}, {by})");
        }
    }
}

#[test]
fn blocks_of_a_cluster_signal_each_other() {
    let (threads, blocks) = (128, 6);
    for config in machines() {
        let mut rng = Rng(31);
        let x: Vec<i32> = (0..threads * blocks).map(|_| rng.next() as i32).collect();
        let mut host = Host::new(config, "cuda/cluster.ptx");
        let (x_at, y_at) = (host.put(&words(&x)), host.blank(x.len() * 4));
        host.run("cluster_swap", &[x_at, y_at].map(Arg::U64), grid(blocks as u32, threads as u32, 0));
        let rows: Vec<&[i32]> = x.chunks(threads).collect();
        let want: Vec<i32> = (0..blocks).flat_map(|block| rows[block ^ 1].iter().rev().copied()).collect();
        assert_eq!(ints(&host.get(y_at, x.len() * 4)), want);
    }
}

#[test]
fn library_functions_in_single_precision() {
    let n = 400;
    for config in machines() {
        let mut rng = Rng(27);
        let x: Vec<f64> = (0..n).map(|_| Format::F32.round(rng.normal() * 4.0)).collect();
        let mut host = Host::new(config, "cuda/arithmetic.ptx");
        let (x_at, y_at) = (host.put(&Format::F32.encode_all(&x)), host.blank(n * 48));
        let args = [Arg::U64(x_at), Arg::U64(y_at), Arg::U32(n as u32)];
        host.run("functions", &args, grid(4, 128, 0));
        let got = Format::F32.decode_all(&host.get(y_at, n * 48));
        // The CUDA programming guide states each function's error in units in the last place: none above 8, and the
        // arguments computed in F32 are rounded here as there.
        let f = |x: f64| x as f32 as f64;
        type Function = (&'static str, fn(f64) -> f64);
        let functions: [Function; 12] = [
            ("expf", f64::exp),
            ("logf", |v| ((v.abs() + 1.0) as f32 as f64).ln()),
            ("sinf", |v| (v as f32 * 1e6f32).sin_of()),
            ("cosf", f64::cos),
            ("tanhf", f64::tanh),
            ("powf", |v| v.abs().powf(1.7f32 as f64)),
            ("sqrtf", |v| v.abs().sqrt()),
            ("1/(v+20)", |v| 1.0 / ((v + 20.0) as f32 as f64)),
            ("erff", erf),
            ("cbrtf", f64::cbrt),
            ("atan2f", |v| v.atan2(2.0)),
            ("fmodf", |v| (v as f32 * 100.0) as f64 % 7.0),
        ];
        for (j, (name, function)) in functions.iter().enumerate() {
            let want: Vec<f64> = x.iter().map(|v| function(f(*v))).collect();
            assert_close(name, &got[j * n..][..n], &want, |i| want[i].abs() * 8.0 * 2f64.powi(-23) + 1e-38);
        }
    }
}

/// The sine of a single-precision argument.
trait SineOf {
    fn sin_of(self) -> f64;
}

impl SineOf for f32 {
    fn sin_of(self) -> f64 {
        (self as f64).sin()
    }
}

/// The error function by its power series, which converges everywhere; far out it is 1.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut k) = (x, x, 0.0);
    while term.abs() > 1e-18 {
        k += 1.0;
        term *= -x * x / k;
        sum += term / (2.0 * k + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn library_functions_in_double_precision() {
    let n = 200;
    for config in machines() {
        let mut rng = Rng(28);
        let x: Vec<f64> = (0..n).map(|_| rng.normal() * 8.0).collect();
        let mut host = Host::new(config, "cuda/arithmetic.ptx");
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (x_at, y_at) = (host.put(&bytes), host.blank(n * 48));
        let args = [Arg::U64(x_at), Arg::U64(y_at), Arg::U32(n as u32)];
        host.run("functions_f64", &args, grid(2, 128, 0));
        let got: Vec<f64> = longs(&host.get(y_at, n * 48)).into_iter().map(f64::from_bits).collect();
        let functions: [fn(f64) -> f64; 6] = [
            f64::exp,
            |v| (v.abs() + 1.0).ln(),
            f64::sin,
            |v| v.abs().sqrt(),
            |v| v / (v.abs() + 3.0),
            f64::cbrt,
        ];
        for (j, function) in functions.iter().enumerate() {
            let want: Vec<f64> = x.iter().map(|v| function(*v)).collect();
            // Square root and division are exact; the rest is within two units in the last place, as is the host's.
            let units = if j == 3 || j == 4 { 0.0 } else { 3.0 };
            assert_close("f64", &got[j * n..][..n], &want, |i| want[i].abs() * units * 2f64.powi(-52));
        }
    }
}

#[test]
fn integers_calls_and_jump_tables() {
    let n = 13 * 40;
    for config in machines() {
        let mut rng = Rng(29);
        let x: Vec<u64> = (0..2 * n).map(|_| rng.next() >> (rng.below(4) * 12)).collect();
        let mut host = Host::new(config, "cuda/arithmetic.ptx");
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (x_at, y_at) = (host.put(&bytes), host.blank(n * 8));
        let args = [Arg::U64(x_at), Arg::U64(y_at), Arg::U32(n as u32)];
        host.run("integers", &args, grid(5, 128, 0));
        let got = longs(&host.get(y_at, n * 8));
        for (i, got) in got.into_iter().enumerate() {
            assert_eq!(got, integer(i, x[2 * i], x[2 * i + 1] | 1), "thread {i}, case {}", i % 13);
        }
    }
}

/// What thread `i` of `integers` computes.
fn integer(i: usize, a: u64, b: u64) -> u64 {
    let (lo, hi, c) = (a as u32, (a >> 32) as u32, b as u32);
    let each = |f: fn(u8, u8) -> i64| -> Vec<i64> {
        lo.to_le_bytes().iter().zip(hi.to_le_bytes()).map(|(x, y)| f(*x, y)).collect()
    };
    let r: u64 = match i % 13 {
        0 => ((a as u128 * b as u128) >> 64) as u64,
        1 => a / b,
        2 => a % (b >> 40 | 1),
        3 => (a as i64).wrapping_div(c as i32 as i64) as u64,
        4 => ((a.count_ones() << 8) | (a | 1).leading_zeros()) as u64,
        5 => a.reverse_bits() ^ (b.trailing_zeros() as u64 + 1),
        6 => (((a << (c % 32)) >> 32) as u32) as u64,
        7 => (0..4).fold(0, |r, j| r | (a >> (8 * ((c >> (4 * j)) & 7)) & 0xff) << (8 * j)),
        8 => each(|x, y| x as i8 as i64 * y as i8 as i64).iter().sum::<i64>().wrapping_add(c as i32 as i64)
            as u32 as u64,
        9 => {
            let product = (lo as i16 as u32).wrapping_mul(hi as u16 as u32);
            product.wrapping_add(c as i8 as u32) as u64
        }
        10 => (0..=5u64).rev().fold(a, |x, depth| {
            let mixed = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            if depth == 0 { mixed } else { mixed.wrapping_add(depth) }
        }),
        11 => {
            if b >> 7 & 1 == 0 {
                a.wrapping_add(b)
            } else {
                a.wrapping_mul(b)
            }
        }
        _ => {
            let sums = each(|x, y| x.wrapping_add(y) as i64);
            let packed = sums.iter().rev().fold(0u32, |r, x| r << 8 | *x as u32);
            packed.wrapping_add(lo.abs_diff(hi).wrapping_add(c)) as u64
        }
    };
    let mut bytes = r.to_le_bytes();
    bytes.swap(0, (b >> 9 & 7) as usize);
    u64::from_le_bytes(bytes)
}

#[test]
fn conversions_to_narrow_formats() {
    let n = 600;
    for config in machines() {
        let mut rng = Rng(30);
        let x: Vec<f64> =
            (0..n).map(|_| Format::F32.round(rng.normal() * 2f64.powi(rng.below(12) as i32 - 8))).collect();
        let mut host = Host::new(config, "cuda/arithmetic.ptx");
        let x_at = host.put(&Format::F32.encode_all(&x));
        let (e4m3, e5m2, back) = (host.blank(n), host.blank(n), host.blank(n * 12));
        let args = [Arg::U64(x_at), Arg::U64(e4m3), Arg::U64(e5m2), Arg::U64(back), Arg::U32(n as u32)];
        host.run("narrow", &args, grid(5, 128, 0));
        let small: Vec<f64> = x.iter().map(|x| Format::E4M3.round(*x)).collect();
        let wide: Vec<f64> = x.iter().map(|x| Format::E5M2.round(*x)).collect();
        assert_eq!(host.get(e4m3, n), Format::E4M3.encode_all(&small));
        assert_eq!(host.get(e5m2, n), Format::E5M2.encode_all(&wide));
        let back = Format::F32.decode_all(&host.get(back, n * 12));
        for i in 0..n {
            let fused = Format::F16.round(Format::F16.round(x[i]) * 0.5 + 1.0);
            assert_eq!(back[3 * i..][..3], [small[i], wide[i], fused], "{}", x[i]);
        }
    }
}
