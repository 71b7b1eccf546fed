//! Triton's kernels (sources and PTX: `tests/data/witnesses/triton/`), launched as its own launcher does: a grid of
//! `programs × ctas` blocks, the declared arguments with constants left out, then two pointers to scratch memory.

use hadal_emulator::Launch;
use hadal_emulator::tma::{DataType, Swizzle};

use crate::arith::{Format, Rng, Values, assert_close, matrix, product};
use crate::launch::{Arg, Host, machines, map};

/// Runs a kernel over a grid of programs. The file says threads, cluster, shared memory and scratch.
fn launch(host: &mut Host, entry: &str, programs: [u32; 2], args: &[Arg]) {
    let line = host.text.lines().find(|l| l.starts_with("// launch:")).expect("a launch line").to_owned();
    let number = |key: &str| -> u32 {
        let mut words = line.split_whitespace().skip_while(|w| *w != key).skip(1);
        words.next().and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("no {key} in: {line}"))
    };
    let ctas = number("ctas");
    let scratch_bytes = number("global_scratch") * programs[0] * programs[1] * ctas;
    let scratch = if scratch_bytes > 0 { host.blank(scratch_bytes as usize) } else { 0 };
    let mut args = args.to_vec();
    args.extend([Arg::U64(scratch), Arg::U64(0)]);
    host.run(
        entry,
        &args,
        Launch {
            grid: [programs[0] * ctas, programs[1], 1],
            block: [number("threads"), 1, 1],
            cluster: (ctas > 1).then_some([ctas, 1, 1]),
            dynamic_shared: number("shared"),
            ..Launch::default()
        },
    );
}

/// How operands reach the kernel.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Pointers,
    /// Tensor maps of the host, whose boxes the file states.
    Maps,
    DeviceMaps,
}

/// The boxes of the file's tensor maps: columns, rows.
fn boxes(text: &str) -> Vec<[u32; 2]> {
    let lines = text.lines().filter_map(|l| l.strip_prefix("// tensordesc: box "));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words[2..], ["swizzle", "3"], "{line}");
            [words[1].parse().unwrap(), words[0].parse().unwrap()]
        })
        .collect()
}

struct Matmul {
    file: &'static str,
    by: By,
    input: Format,
    output: Format,
    tile: [usize; 3],
    shape: [usize; 3],
    /// Error of the accumulation, relative to the sum of the terms' sizes.
    accumulate: f64,
}

fn matmul(case: Matmul) {
    let [m, n, k] = case.shape;
    let [tile_m, tile_n, _] = case.tile;
    for (round, config) in machines().into_iter().enumerate() {
        for values in [Values::Integers, Values::Normal] {
            let mut rng = Rng(round as u64 + 10);
            let a = matrix(&mut rng, case.input, m * k, values);
            let b = matrix(&mut rng, case.input, n * k, values);
            let mut host = Host::new(config.clone(), &format!("triton/{}.ptx", case.file));
            let a_at = host.put(&case.input.encode_all(&a));
            let b_at = host.put(&case.input.encode_all(&b));
            let bytes = m * n * case.output.bytes();
            let c_at = host.blank(bytes);
            let ints = |v: &[usize]| v.iter().map(|x| Arg::U32(*x as u32)).collect::<Vec<_>>();
            let pointers = [Arg::U64(a_at), Arg::U64(b_at), Arg::U64(c_at)];
            let (entry, args) = match case.by {
                By::Pointers => ("matmul_pointers", [&pointers[..], &ints(&[m, n, k, k, k, n])].concat()),
                By::DeviceMaps => ("matmul_device_descriptors", [&pointers[..], &ints(&[m, n, k])].concat()),
                By::Maps => {
                    let operands =
                        [(case.input, a_at, [m, k]), (case.input, b_at, [n, k]), (case.output, c_at, [m, n])];
                    let boxes = boxes(&host.text);
                    assert_eq!(boxes.len(), operands.len());
                    let mut args = Vec::new();
                    for ((format, at, [rows, cols]), tile) in operands.into_iter().zip(boxes) {
                        args.push(map(data_type(format), at, rows, cols, tile, Swizzle::B128));
                        args.extend([Arg::U32(rows as u32), Arg::U32(cols as u32)]);
                        args.extend([Arg::U64(cols as u64), Arg::U64(1)]);
                    }
                    args.extend(ints(&[k]));
                    ("matmul_descriptors", args)
                }
            };
            launch(&mut host, entry, [m.div_ceil(tile_m) as u32, n.div_ceil(tile_n) as u32], &args);
            let raw = host.get(c_at, bytes);
            let got = if case.input == Format::S8 {
                raw.chunks(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]]) as f64).collect()
            } else {
                case.output.decode_all(&raw)
            };
            let (c, size) = product(&a, &b, m, n, k);
            let exact = matches!(values, Values::Integers) || case.input == Format::S8;
            let what = format!("{} {values:?}", case.file);
            if exact {
                let want: Vec<f64> = c.iter().map(|x| case.output.round(*x)).collect();
                let want = if case.input == Format::S8 { c } else { want };
                assert_close(&what, &got, &want, |_| 0.0);
            } else {
                let store = case.output.epsilon();
                assert_close(&what, &got, &c, |i| {
                    size[i] * case.accumulate + (c[i].abs() + size[i] * case.accumulate) * store
                });
            }
        }
    }
}

fn data_type(format: Format) -> DataType {
    match format {
        Format::Bf16 => DataType::BF16,
        Format::F16 => DataType::F16,
        Format::F32 => DataType::F32,
        _ => DataType::U8,
    }
}

/// FP8 tensor cores keep 13 fraction bits of each partial sum; a chain of sums loses that much at each step.
const FP8: f64 = 1.0 / 256.0;
/// The other formats add in F32 or a bit less, without rounding.
const WIDE: f64 = 1.0 / (1 << 16) as f64;

#[test]
pub fn matmul_e4m3() {
    let (tile, shape) = ([128, 128, 128], [256, 128, 384]);
    matmul(Matmul {
        file: "matmul_e4m3",
        by: By::Pointers,
        input: Format::E4M3,
        output: Format::F32,
        tile,
        shape,
        accumulate: FP8,
    });
}

#[test]
fn matmul_e5m2() {
    let (tile, shape) = ([64, 64, 64], [64, 128, 256]);
    matmul(Matmul {
        file: "matmul_e5m2",
        by: By::Pointers,
        input: Format::E5M2,
        output: Format::F32,
        tile,
        shape,
        accumulate: FP8,
    });
}

#[test]
pub fn matmul_e4m3_through_host_tensor_maps() {
    let (tile, shape, by) = ([128, 128, 128], [256, 128, 512], By::Maps);
    matmul(Matmul {
        file: "matmul_e4m3_tma",
        by,
        input: Format::E4M3,
        output: Format::Bf16,
        tile,
        shape,
        accumulate: FP8,
    });
}

#[test]
fn matmul_e4m3_through_tensor_maps_made_by_the_kernel() {
    let (tile, shape) = ([64, 64, 128], [128, 64, 256]);
    matmul(Matmul {
        file: "matmul_e4m3_device_tma",
        by: By::DeviceMaps,
        input: Format::E4M3,
        output: Format::F32,
        tile,
        shape,
        accumulate: FP8,
    });
}

#[test]
fn matmul_e4m3_without_wgmma() {
    let (tile, shape) = ([32, 32, 32], [32, 64, 96]);
    matmul(Matmul {
        file: "matmul_e4m3_mma_sync",
        by: By::Pointers,
        input: Format::E4M3,
        output: Format::F32,
        tile,
        shape,
        accumulate: WIDE,
    });
}

#[test]
fn matmul_bf16() {
    let (tile, shape) = ([128, 128, 64], [128, 256, 192]);
    matmul(Matmul {
        file: "matmul_bf16",
        by: By::Pointers,
        input: Format::Bf16,
        output: Format::Bf16,
        tile,
        shape,
        accumulate: WIDE,
    });
}

#[test]
fn matmul_bf16_without_wgmma() {
    let (tile, shape) = ([32, 32, 32], [64, 32, 128]);
    matmul(Matmul {
        file: "matmul_bf16_mma_sync",
        by: By::Pointers,
        input: Format::Bf16,
        output: Format::F32,
        tile,
        shape,
        accumulate: WIDE,
    });
}

#[test]
fn matmul_bf16_through_host_tensor_maps() {
    let (tile, shape, by) = ([128, 64, 64], [256, 128, 320], By::Maps);
    matmul(Matmul {
        file: "matmul_bf16_tma",
        by,
        input: Format::Bf16,
        output: Format::Bf16,
        tile,
        shape,
        accumulate: WIDE,
    });
}

#[test]
fn matmul_bf16_by_clusters() {
    let (tile, shape) = ([128, 128, 64], [256, 128, 192]);
    matmul(Matmul {
        file: "matmul_bf16_cluster",
        by: By::Pointers,
        input: Format::Bf16,
        output: Format::F32,
        tile,
        shape,
        accumulate: WIDE,
    });
}

#[test]
fn matmul_bf16_by_clusters_through_tensor_maps() {
    let (tile, shape, by) = ([128, 128, 64], [128, 256, 256], By::Maps);
    matmul(Matmul {
        file: "matmul_bf16_tma_cluster",
        by,
        input: Format::Bf16,
        output: Format::Bf16,
        tile,
        shape,
        accumulate: WIDE,
    });
}

#[test]
fn matmul_f16_with_masked_edges() {
    let (tile, shape) = ([64, 32, 32], [80, 48, 112]);
    matmul(Matmul {
        file: "matmul_f16_ragged",
        by: By::Pointers,
        input: Format::F16,
        output: Format::F32,
        tile,
        shape,
        accumulate: WIDE,
    });
}

#[test]
fn matmul_tf32() {
    let (tile, shape) = ([64, 64, 32], [64, 128, 96]);
    matmul(Matmul {
        file: "matmul_tf32",
        by: By::Pointers,
        input: Format::F32,
        output: Format::F32,
        tile,
        shape,
        accumulate: 1.0 / 512.0,
    });
}

#[test]
fn matmul_f32_without_tensor_cores() {
    let (tile, shape) = ([32, 32, 16], [32, 64, 80]);
    matmul(Matmul {
        file: "matmul_f32",
        by: By::Pointers,
        input: Format::F32,
        output: Format::F32,
        tile,
        shape,
        accumulate: 1e-5,
    });
}

#[test]
fn matmul_s8() {
    let (tile, shape) = ([64, 64, 64], [128, 64, 320]);
    matmul(Matmul {
        file: "matmul_s8",
        by: By::Pointers,
        input: Format::S8,
        output: Format::F32,
        tile,
        shape,
        accumulate: 0.0,
    });
}

#[test]
fn attention() {
    let (rows, tokens, dim) = (256, 192, 64);
    let format = Format::Bf16;
    for config in machines() {
        let mut rng = Rng(3);
        let mut draw = |count| matrix(&mut rng, format, count, Values::Normal);
        let (q, k, v) = (draw(rows * dim), draw(tokens * dim), draw(tokens * dim));
        let mut host = Host::new(config, "triton/attention_bf16.ptx");
        let at = [&q, &k, &v].map(|x| host.put(&format.encode_all(x)));
        let o_at = host.blank(rows * dim * 2);
        let scale = 0.18f32;
        let args = [
            Arg::U64(at[0]),
            Arg::U64(at[1]),
            Arg::U64(at[2]),
            Arg::U64(o_at),
            Arg::U32(tokens as u32),
            Arg::F32(scale),
        ];
        launch(&mut host, "attention", [rows as u32 / 128, 1], &args);
        let got = format.decode_all(&host.get(o_at, rows * dim * 2));
        let (score, _) = product(&q, &k, rows, tokens, dim);
        let mut want = vec![0.0; rows * dim];
        let mut size = vec![0.0; rows * dim];
        for i in 0..rows {
            let weight: Vec<f64> =
                score[i * tokens..][..tokens].iter().map(|s| (s * scale as f64).exp2()).collect();
            let total: f64 = weight.iter().sum();
            for d in 0..dim {
                want[i * dim + d] = (0..tokens).map(|t| weight[t] * v[t * dim + d]).sum::<f64>() / total;
                size[i * dim + d] =
                    (0..tokens).map(|t| weight[t] * v[t * dim + d].abs()).sum::<f64>() / total;
            }
        }
        // The probabilities are rounded to BF16 on their way into the second product.
        assert_close("attention", &got, &want, |i| size[i] / 256.0 + want[i].abs() / 256.0);
    }
}

#[test]
fn softmax() {
    let (rows, cols, stride) = (9, 777, 784);
    for config in machines() {
        let mut rng = Rng(4);
        let x: Vec<f64> = matrix(&mut rng, Format::F32, rows * stride, Values::Normal);
        let mut host = Host::new(config, "triton/softmax.ptx");
        let x_at = host.put(&Format::F32.encode_all(&x));
        let y_at = host.blank(rows * stride * 4);
        let args = [Arg::U64(x_at), Arg::U64(y_at), Arg::U32(cols as u32), Arg::U32(stride as u32)];
        launch(&mut host, "softmax", [rows as u32, 1], &args);
        for row in 0..rows {
            let got = Format::F32.decode_all(&host.get(y_at + (row * stride * 4) as u64, cols * 4));
            let e: Vec<f64> = x[row * stride..][..cols].iter().map(|x| x.exp()).collect();
            let total: f64 = e.iter().sum();
            let want: Vec<f64> = e.iter().map(|e| e / total).collect();
            assert_close("softmax", &got, &want, |i| want[i] * 2e-6);
            let tail = y_at + (row * stride + cols) as u64 * 4;
            assert!(!host.machine.is_written(tail, 4).unwrap(), "written past the row's end");
        }
    }
}

#[test]
fn layer_norm() {
    let (rows, cols) = (5, 464);
    for config in machines() {
        let mut rng = Rng(5);
        let mut draw = |count| matrix(&mut rng, Format::Bf16, count, Values::Normal);
        let (x, weight, bias) = (draw(rows * cols), draw(cols), draw(cols));
        let mut host = Host::new(config, "triton/layer_norm.ptx");
        let at = [&x, &weight, &bias].map(|x| host.put(&Format::Bf16.encode_all(x)));
        let y_at = host.blank(rows * cols * 2);
        let args = [
            Arg::U64(at[0]),
            Arg::U64(at[1]),
            Arg::U64(at[2]),
            Arg::U64(y_at),
            Arg::U32(cols as u32),
            Arg::F32(1e-5),
        ];
        launch(&mut host, "layer_norm", [rows as u32, 1], &args);
        let got = Format::Bf16.decode_all(&host.get(y_at, rows * cols * 2));
        let mut want = Vec::new();
        for row in x.chunks(cols) {
            let mean = row.iter().sum::<f64>() / cols as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
            let inverse = 1.0 / (variance + 1e-5).sqrt();
            want.extend((0..cols).map(|i| (row[i] - mean) * inverse * weight[i] + bias[i]));
        }
        assert_close("layer norm", &got, &want, |i| want[i].abs() / 256.0 + 1e-5);
    }
}

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

#[test]
fn argmax_and_prefix_sums() {
    let (rows, cols) = (6, 201);
    for config in machines() {
        let mut rng = Rng(6);
        let x: Vec<i32> = (0..rows * cols).map(|_| rng.below(1000) as i32 - 500).collect();
        let mut host = Host::new(config, "triton/argmax_cumsum.ptx");
        let x_at = host.put(&words(&x));
        let (argmax, cumsum) = (host.blank(rows * 4), host.blank(rows * cols * 4));
        let args = [Arg::U64(x_at), Arg::U64(argmax), Arg::U64(cumsum), Arg::U32(cols as u32)];
        launch(&mut host, "argmax_cumsum", [rows as u32, 1], &args);
        // The first of equals.
        let first = |row: &[i32]| row.iter().position(|v| v == row.iter().max().unwrap()).unwrap() as i32;
        let want: Vec<i32> = x.chunks(cols).map(first).collect();
        assert_eq!(ints(&host.get(argmax, rows * 4)), want);
        let sums = x.chunks(cols).flat_map(|row| {
            row.iter().scan(0, |sum, x| {
                *sum += x;
                Some(*sum)
            })
        });
        assert_eq!(ints(&host.get(cumsum, rows * cols * 4)), sums.collect::<Vec<_>>());
    }
}

#[test]
fn histogram() {
    let n = 2000;
    for config in machines() {
        let mut rng = Rng(8);
        let x: Vec<i32> = (0..n).map(|_| rng.below(64).min(rng.below(64)) as i32).collect();
        let mut host = Host::new(config, "triton/histogram.ptx");
        let (x_at, counts) = (host.put(&words(&x)), host.put(&words(&[0; 64])));
        launch(&mut host, "histogram", [4, 1], &[Arg::U64(x_at), Arg::U64(counts), Arg::U32(n as u32)]);
        let want: Vec<i32> = (0..64).map(|bin| x.iter().filter(|x| **x == bin).count() as i32).collect();
        assert_eq!(ints(&host.get(counts, 256)), want);
    }
}

#[test]
fn sort() {
    let rows = 4;
    for config in machines() {
        let mut rng = Rng(9);
        let x: Vec<i32> = (0..rows * 128).map(|_| rng.next() as i32).collect();
        let mut host = Host::new(config, "triton/sort_rows.ptx");
        let (x_at, y_at) = (host.put(&words(&x)), host.blank(rows * 512));
        launch(&mut host, "sort_rows", [rows as u32, 1], &[Arg::U64(x_at), Arg::U64(y_at)]);
        let mut want = x.clone();
        want.chunks_mut(128).for_each(<[i32]>::sort);
        assert_eq!(ints(&host.get(y_at, rows * 512)), want);
    }
}

#[test]
fn quantize_to_e4m3() {
    let groups = 24;
    for config in machines() {
        let mut rng = Rng(11);
        let x = matrix(&mut rng, Format::Bf16, groups * 128, Values::Normal);
        let mut host = Host::new(config, "triton/quantize_groups.ptx");
        let x_at = host.put(&Format::Bf16.encode_all(&x));
        let (q_at, scale_at) = (host.blank(groups * 128), host.blank(groups * 4));
        launch(
            &mut host,
            "quantize_groups",
            [groups as u32 / 8, 1],
            &[Arg::U64(x_at), Arg::U64(q_at), Arg::U64(scale_at)],
        );
        let q = Format::E4M3.decode_all(&host.get(q_at, groups * 128));
        let scales = Format::F32.decode_all(&host.get(scale_at, groups * 4));
        for (g, row) in x.chunks(128).enumerate() {
            let amax = row.iter().fold(0f64, |a, x| a.max(x.abs()));
            assert_close("scale", &[scales[g]], &[amax / 448.0], |_| amax * 1e-9);
            let back: Vec<f64> = q[g * 128..][..128].iter().map(|q| q * scales[g]).collect();
            // Half a unit of E4M3, or of its subnormals.
            assert_close("value", &back, row, |i| (row[i].abs() / 16.0).max(scales[g] / 1024.0) * 1.0001);
        }
    }
}
