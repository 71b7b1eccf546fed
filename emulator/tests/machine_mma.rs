//! `mma.sync`: fragments laid out as the manual's tables say, results worked out by plain sums.

mod machine_support;
use hadal_emulator::convert::{self, Clamp, Rounding};
use machine_support::*;

/// Runs one `mma` of a warp over per-lane words and returns the result words of each lane.
fn mma(form: &str, a: &[Vec<u32>], b: &[Vec<u32>], c: &[Vec<u32>], results: usize) -> Vec<Vec<u32>> {
    let (na, nb, nc) = (a[0].len(), b[0].len(), c[0].len());
    let float = form.contains(".f32.") && form.ends_with(".f32");
    let ty = if float { "f32" } else { "b32" };
    let list = |name: &str, n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("%{name}{i}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let mut body = format!(
        "
    .reg .b32 %lane, %a<8>, %b<4>;
    .reg .{ty} %c<8>, %d<8>;
    .reg .b64 %in, %out, %at;
    mov.u32 %lane, %tid.x;
    ld.param.u64 %in, [p0];
    ld.param.u64 %out, [p1];
    mad.wide.u32 %at, %lane, {}, %in;\n",
        4 * (na + nb + nc)
    );
    for (i, name) in (0..na).map(|i| format!("a{i}")).chain((0..nb).map(|i| format!("b{i}"))).enumerate() {
        body += &format!("    ld.global.b32 %{name}, [%at+{}];\n", 4 * i);
    }
    for i in 0..nc {
        body += &format!("    ld.global.{ty} %c{i}, [%at+{}];\n", 4 * (na + nb + i));
    }
    body += &format!(
        "    {form} {}, {}, {}, {};\n    mad.wide.u32 %at, %lane, {}, %out;\n",
        list("d", results),
        list("a", na),
        list("b", nb),
        list("c", nc),
        4 * results
    );
    for i in 0..results {
        body += &format!("    st.global.{ty} [%at+{}], %d{i};\n", 4 * i);
    }
    body += "    ret;";
    let mut bench = Bench::new(&module(2, "", &body));
    let words: Vec<u32> = (0..32)
        .flat_map(|l| [&a[l], &b[l], &c[l]].into_iter().flatten().copied().collect::<Vec<_>>())
        .collect();
    let input = bench.words(&words);
    let out = bench.blank(32 * 4 * results as u64);
    bench.run(1, 32, &[input, out]).unwrap_or_else(|f| panic!("{f}"));
    bench.read_words(out, 32 * results).chunks(results).map(<[u32]>::to_vec).collect()
}

/// Packs elements of so many bits into the words of each lane; `index` says which element stands where.
fn pack(bits: u32, words: usize, element: impl Fn(usize, usize) -> u32) -> Vec<Vec<u32>> {
    let per_word = (32 / bits) as usize;
    (0..32)
        .map(|lane| {
            (0..words)
                .map(|w| {
                    (0..per_word)
                        .fold(0, |word, j| word | element(lane, w * per_word + j) << (bits * j as u32))
                })
                .collect()
        })
        .collect()
}

/// Row of A of element i in a lane, and its column, for 16-bit types (manual: `.m16n8k16`, `.m16n8k8`).
fn a16(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 2 || (4..6).contains(&i) { lane / 4 } else { lane / 4 + 8 };
    (row, lane % 4 * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
}

fn b16(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, lane / 4)
}

/// The same for 8-bit types (`.m16n8k32`, `.m16n8k16`).
fn a8(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 4 || (8..12).contains(&i) { lane / 4 } else { lane / 4 + 8 };
    (row, lane % 4 * 4 + (i & 3) + if i < 8 { 0 } else { 16 })
}

fn b8(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, lane / 4)
}

/// And for TF32 (`.m16n8k8`, `.m16n8k4`).
fn a32(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i & 1), lane % 4 + if i < 2 { 0 } else { 4 })
}

fn b32(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 + if i < 1 { 0 } else { 4 }, lane / 4)
}

/// Element i of the result.
fn c(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1))
}

/// Small integers, exact in every format.
fn a_value(row: usize, k: usize) -> i32 {
    (row * 5 + k * 3) as i32 % 9 - 4
}

fn b_value(k: usize, col: usize) -> i32 {
    (k * 7 + col * 2) as i32 % 7 - 3
}

fn c_value(row: usize, col: usize) -> i32 {
    row as i32 * 8 - col as i32
}

fn dot(k: usize, row: usize, col: usize) -> i32 {
    (0..k).map(|k| a_value(row, k) * b_value(k, col)).sum::<i32>() + c_value(row, col)
}

fn f16(v: i32) -> u32 {
    convert::f32_to_f16(v as f32, Rounding::Nearest, Clamp::NONE).into()
}

fn bf16(v: i32) -> u32 {
    convert::f32_to_bf16(v as f32, Rounding::Nearest, Clamp::NONE).into()
}

fn e4m3(v: i32) -> u32 {
    convert::f32_to_e4m3(v as f32, Rounding::Nearest, Clamp::NONE).into()
}

fn e5m2(v: i32) -> u32 {
    convert::f32_to_e5m2(v as f32, Rounding::Nearest, Clamp::NONE).into()
}

fn f32_addend() -> Vec<Vec<u32>> {
    pack(32, 4, |l, i| (c_value(c(l, i).0, c(l, i).1) as f32).to_bits())
}

fn check_f32(form: &str, k: usize, got: &[Vec<u32>]) {
    for (lane, words) in got.iter().enumerate() {
        for (i, word) in words.iter().enumerate() {
            let (row, col) = c(lane, i);
            assert_eq!(f32::from_bits(*word), dot(k, row, col) as f32, "{form}: row {row} column {col}");
        }
    }
}

#[test]
fn sixteen_bit_floats() {
    for (ty, to) in [("f16", f16 as fn(i32) -> u32), ("bf16", bf16)] {
        for k in [16, 8] {
            let form = format!("mma.sync.aligned.m16n8k{k}.row.col.f32.{ty}.{ty}.f32");
            let a = pack(16, k / 4, |l, i| to(a_value(a16(l, i).0, a16(l, i).1)));
            let b = pack(16, k / 8, |l, i| to(b_value(b16(l, i).0, b16(l, i).1)));
            check_f32(&form, k, &mma(&form, &a, &b, &f32_addend(), 4));
        }
    }
}

#[test]
fn f16_results_come_in_pairs() {
    for k in [16, 8] {
        let form = format!("mma.sync.aligned.m16n8k{k}.row.col.f16.f16.f16.f16");
        let a = pack(16, k / 4, |l, i| f16(a_value(a16(l, i).0, a16(l, i).1)));
        let b = pack(16, k / 8, |l, i| f16(b_value(b16(l, i).0, b16(l, i).1)));
        let addend = pack(16, 2, |l, i| f16(c_value(c(l, i).0, c(l, i).1)));
        for (lane, words) in mma(&form, &a, &b, &addend, 2).iter().enumerate() {
            for i in 0..4 {
                let (row, col) = c(lane, i);
                assert_eq!(words[i / 2] >> (16 * (i % 2)) & 0xffff, f16(dot(k, row, col)), "{form}");
            }
        }
    }
}

#[test]
fn tf32() {
    for k in [8, 4] {
        let form = format!("mma.sync.aligned.m16n8k{k}.row.col.f32.tf32.tf32.f32");
        let a = pack(32, k / 2, |l, i| (a_value(a32(l, i).0, a32(l, i).1) as f32).to_bits());
        let b = pack(32, k / 4, |l, i| (b_value(b32(l, i).0, b32(l, i).1) as f32).to_bits());
        check_f32(&form, k, &mma(&form, &a, &b, &f32_addend(), 4));
    }
}

#[test]
fn integers_wrap_or_saturate() {
    for k in [32, 16] {
        let form = format!("mma.sync.aligned.m16n8k{k}.row.col.s32.s8.s8.s32");
        let a = pack(8, k / 8, |l, i| a_value(a8(l, i).0, a8(l, i).1) as u32 & 0xff);
        let b = pack(8, k / 16, |l, i| b_value(b8(l, i).0, b8(l, i).1) as u32 & 0xff);
        let addend = pack(32, 4, |l, i| c_value(c(l, i).0, c(l, i).1) as u32);
        for (lane, words) in mma(&form, &a, &b, &addend, 4).iter().enumerate() {
            for (i, word) in words.iter().enumerate() {
                assert_eq!(*word as i32, dot(k, c(lane, i).0, c(lane, i).1), "{form}");
            }
        }
    }
    // 32 products of 255 and 1 on top of the largest number; as signed bytes, 255 is -1.
    let ones = |byte: u32, words| vec![vec![byte * 0x0101_0101; words]; 32];
    let top = vec![vec![i32::MAX as u32; 4]; 32];
    let run = |form: &str| mma(form, &ones(255, 4), &ones(1, 2), &top, 4)[7][2] as i32;
    assert_eq!(run("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32"), i32::MAX.wrapping_add(32 * 255));
    assert_eq!(run("mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.s8.s32"), i32::MAX);
    assert_eq!(run("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32"), i32::MAX - 32);
}

#[test]
fn fp8_sums_small_integers() {
    let formats = [("e4m3", e4m3 as fn(i32) -> u32), ("e5m2", e5m2)];
    for (a_ty, a_to) in formats {
        for (b_ty, b_to) in formats {
            let form = format!("mma.sync.aligned.m16n8k32.row.col.f32.{a_ty}.{b_ty}.f32");
            let a = pack(8, 4, |l, i| a_to(a_value(a8(l, i).0, a8(l, i).1)));
            let b = pack(8, 2, |l, i| b_to(b_value(b8(l, i).0, b8(l, i).1)));
            check_f32(&form, 32, &mma(&form, &a, &b, &f32_addend(), 4));
        }
    }
}

/// What tells the two chained F16 products from a native FP8 instruction: products 2^15 apart survive (`wgmma` keeps 13 bits), and
/// the addend comes last, rounded to nearest.
#[test]
fn fp8_is_two_chained_f16_products() {
    let form = "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32";
    // Row 0, column 0: element 0 is 256 x 1, element 2 is 2^-7 x 1; the rest is zero.
    let a = pack(8, 4, |l, i| match a8(l, i) {
        (0, 0) => e4m3(256),
        (0, 2) => convert::f32_to_e4m3(0.007_812_5, Rounding::Nearest, Clamp::NONE).into(),
        _ => 0,
    });
    let b = pack(8, 2, |_, _| e4m3(1));
    let addend = |value: f32| vec![vec![value.to_bits(); 4]; 32];
    let run = |value: f32| f32::from_bits(mma(form, &a, &b, &addend(value), 4)[0][0]);
    assert_eq!(run(0.0), 256.0 + 1.0 / 128.0);
    // 2^24 + 256.0078125: the neighbours are 2 apart, 2^24 + 256 is nearest.
    assert_eq!(run(16_777_216.0), 16_777_472.0);
    // 2^32 + 256.0078 is just above halfway between neighbours 512 apart: to nearest goes up, truncation would not.
    assert_eq!(run(4_294_967_296.0), 4_294_967_808.0);
    // An F16 result: 256.0078 rounds to 256 in the sum.
    let form = "mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16";
    let words = mma(form, &a, &b, &vec![vec![f16(1); 2]; 32], 2);
    assert_eq!(words[0][0] & 0xffff, f16(257));
}
