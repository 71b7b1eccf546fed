//! Every form of `wgmma.mma_async`: each N, each pair of types, A from shared memory and from registers, each major-ness, each
//! swizzle of each operand, negation, scale-d, saturation.
//!
//! One kernel for each form copies a picture of shared memory in, runs the product once and hands every accumulator register out.
//! The picture is drawn here, from the manual's definitions (PTX ISA 9.7.15.5.1: core matrices, swizzle atoms, leading and stride
//! offsets) in its own unit, the element of 128 bits; nothing is shared with the emulator. Strides are larger than they must be
//! and the gaps hold noise, so a wrong one reads something else. Values are small integers: every sum is exact, in whatever order
//! and width the tensor core adds, so the scalar reference knows all bits.

mod machine_support;

use std::fmt::Write;

use hadal_emulator::{Fault, MachineConfig, tensor::Mode};
use machine_support::products::{Element, Matrix, Noise};
use machine_support::{Bench, config};

use Element::*;

/// How an operand lies in shared memory.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Width of a swizzled row in units of 16 bytes: 1 (none), 2, 4, 8.
    width: usize,
    mn_major: bool,
    /// Where the pattern starts after its natural boundary, in rows of 128 bytes.
    base: usize,
    /// Steps of 32 bytes into the swizzled row (K-major only).
    step: usize,
}

/// Bytes of shared memory, a descriptor for each operand.
struct Picture {
    bytes: Vec<u8>,
    descriptors: Vec<u64>,
}

impl Picture {
    /// Lays a matrix out behind what is there.
    fn add(&mut self, matrix: &Matrix, layout: Layout, noise: &mut Noise) {
        let Layout { width, mn_major, base, step } = layout;
        let begin = self.bytes.len().next_multiple_of(1024) + 128 * base;
        let rows = matrix.rows();
        // A gap after everything that repeats; swizzled atoms repeat at whole atoms.
        let atom = 8 * 16 * width;
        let (leading, stride) = match (mn_major, width) {
            // Two columns of core matrices, the rows of core matrices 16 bytes too far apart.
            (false, 1) => (rows / 8 * 144 + 16, 144),
            // The leading offset means nothing.
            (false, _) => (0x1230, 2 * atom),
            // Rows of core matrices (stride) and columns of them (leading).
            (true, 1) => (rows / 8 * 160 + 48, 160),
            // Atoms along M or N (leading), two along K (stride).
            (true, _) => (3 * atom, (rows / 8).div_ceil(width) * 3 * atom + atom),
        };
        let mut end = begin;
        let mut put = |bytes: &mut Vec<u8>, unit: usize, within: usize, value: &[u8]| {
            // The swizzle exchanges units of 16 bytes in a row of the pattern by the number of that row, in rows of 128 bytes.
            let line = unit / 8;
            let unit = unit ^ ((line % 8) & (width - 1));
            let at = begin + 16 * unit + within;
            end = end.max(begin + (16 * unit).next_multiple_of(1024) + 1024);
            while bytes.len() < end {
                bytes.push(noise.next() as u8);
            }
            bytes[at..at + value.len()].copy_from_slice(value);
        };
        for row in 0..rows {
            let bytes = matrix.row_bytes(row);
            if !mn_major {
                for half in 0..2 {
                    let across = if width == 1 { half * leading / 16 } else { half + 2 * step };
                    let unit = row % 8 * width + row / 8 * stride / 16 + across;
                    put(&mut self.bytes, unit, 0, &bytes[16 * half..][..16]);
                }
                continue;
            }
            for (k, value) in bytes.chunks_exact(2).enumerate() {
                let (group, lane) = (row / 8, row % 8);
                let unit = match width {
                    1 => group * stride / 16 + k % 8 + k / 8 * leading / 16,
                    _ => group % width + group / width * leading / 16 + k % 8 * width + k / 8 * stride / 16,
                };
                put(&mut self.bytes, unit, 2 * lane, value);
            }
        }
        let mode = match width {
            1 => 0,
            2 => 3,
            4 => 2,
            _ => 1,
        };
        let start = SHARED + begin + 32 * step;
        let field = |value: usize| (value as u64 & 0x3ffff) >> 4;
        self.descriptors.push(
            field(start) | field(leading) << 16 | field(stride) << 32 | (base as u64) << 49 | mode << 62,
        );
    }
}

/// Where the kernel's shared memory begins: the driver keeps the first kilobyte.
const SHARED: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Form {
    result: &'static str,
    a: Element,
    b: Element,
    satfinite: bool,
    n: usize,
}

impl Form {
    fn float(self) -> bool {
        self.result != "s32"
    }

    /// Accumulator registers of a thread.
    fn registers(self) -> usize {
        if self.result == "f16" { self.n / 4 } else { self.n / 2 }
    }

    fn transposes(self) -> bool {
        self.a.bits() == 16
    }

    fn spelled(self) -> String {
        let Form { result, a, b, n, .. } = self;
        let k = 256 / a.bits();
        let operation = if a == B1 { ".and.popc" } else { "" };
        let satfinite = if self.satfinite { ".satfinite" } else { "" };
        format!(
            "wgmma.mma_async.sync.aligned.m64n{n}k{k}{satfinite}.{result}.{}.{}{operation}",
            a.name(),
            b.name()
        )
    }
}

/// What an instruction of a form is told beside its data.
#[derive(Clone, Copy, Debug)]
struct Variant {
    a_in_registers: bool,
    negate: [bool; 2],
    transpose: [bool; 2],
}

/// Copies `p1` bytes from `p0` to shared memory, loads accumulators from `p2` and A's registers from `p3`, runs the product with
/// the descriptors `p4` and `p5` and scale-d `p6`, stores the accumulators to `p7`.
fn kernel(form: Form, variant: Variant) -> String {
    let count = form.registers();
    let mut body = String::from(
        ".reg .b32 at, tid, size, v<4>, a<4>, d<128>; .reg .b64 from, to, word, da, db; .reg .pred p, more;
        mov.u32 tid, %tid.x; mov.u32 at, smem; ld.param.u64 from, [p0]; ld.param.u64 word, [p1]; cvt.u32.u64 size, word;
        add.u32 size, size, at; mad.wide.u32 from, tid, 16, from; mad.lo.u32 at, tid, 16, at;
        copy: setp.ge.u32 more, at, size; @more bra copied;
        ld.global.v4.b32 {v0, v1, v2, v3}, [from]; st.shared.v4.b32 [at], {v0, v1, v2, v3};
        add.u64 from, from, 2048; add.u32 at, at, 2048; bra copy;
        copied: fence.proxy.async.shared::cta; bar.sync 0;
        ld.param.u64 from, [p2]; mad.wide.u32 from, tid, 4, from;\n",
    );
    for r in 0..count {
        writeln!(body, "ld.global.b32 d{r}, [from+{}];", 512 * r).unwrap();
    }
    body.push_str("ld.param.u64 from, [p3]; mad.wide.u32 from, tid, 16, from; ld.global.v4.b32 {a0, a1, a2, a3}, [from];\n");
    body.push_str(
        "ld.param.u64 da, [p4]; ld.param.u64 db, [p5]; ld.param.u64 word, [p6]; setp.ne.u64 p, word, 0;\n",
    );
    let list: Vec<String> = (0..count).map(|r| format!("d{r}")).collect();
    let a = if variant.a_in_registers { "{a0, a1, a2, a3}" } else { "da" };
    let scales = variant.negate.map(|negated| if negated { ", -1" } else { ", 1" });
    let transposes = variant.transpose.map(|transposed| if transposed { ", 1" } else { ", 0" });
    let mut flags = String::new();
    if form.float() {
        flags.extend(scales);
    }
    if form.transposes() {
        flags.extend(transposes.into_iter().skip(usize::from(variant.a_in_registers)));
    }
    writeln!(
        body,
        "wgmma.fence.sync.aligned;\n{} {{{}}}, {a}, db, p{flags};",
        form.spelled(),
        list.join(", ")
    )
    .unwrap();
    body.push_str("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n");
    body.push_str("ld.param.u64 to, [p7]; mad.wide.u32 to, tid, 4, to;\n");
    for r in 0..count {
        writeln!(body, "st.global.b32 [to+{}], d{r};", 512 * r).unwrap();
    }
    machine_support::module(8, ".extern .shared .align 1024 .b8 smem[];", &(body + "ret;"))
}

/// Row and column of element `i` of a thread's accumulators (PTX ISA 9.7.15.5.1.1, "D fragment").
fn place(thread: usize, i: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (16 * warp + lane / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (lane % 4) + i % 2)
}

/// A's registers: `[thread][register]`. A register holds four bytes of a row; which ones is the manual's "A fragment" of any type.
fn fragments(a: &Matrix) -> Vec<u32> {
    let mut words = Vec::with_capacity(512);
    for thread in 0..128 {
        let (warp, lane) = (thread / 32, thread % 32);
        for r in 0..4 {
            let bytes = a.row_bytes(16 * warp + lane / 4 + 8 * (r % 2));
            let at = 4 * (lane % 4) + 16 * (r / 2);
            words.push(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
        }
    }
    words
}

/// Accumulator bits of a value.
fn result_bits(form: Form, value: i64) -> u32 {
    match form.result {
        "f32" => (value as f32).to_bits(),
        "f16" => F16.encode(value) as u32,
        _ if form.satfinite => value.clamp(i32::MIN.into(), i32::MAX.into()) as u32,
        _ => value as u32,
    }
}

/// `[register][thread]`
fn registers(form: Form, value: impl Fn(usize, usize) -> i64) -> Vec<u32> {
    let mut words = Vec::with_capacity(128 * form.registers());
    for r in 0..form.registers() {
        for thread in 0..128 {
            let bits = |i: usize| {
                let (row, column) = place(thread, i);
                result_bits(form, value(row, column))
            };
            words.push(if form.result == "f16" { bits(2 * r) | bits(2 * r + 1) << 16 } else { bits(r) });
        }
    }
    words
}

/// A form in one variant, with every swizzle of B and, in turn, of A.
fn run(form: Form, variant: Variant, seed: usize) {
    let text = kernel(form, variant);
    for (swizzle, mode) in [Mode::Exact, Mode::Fast, Mode::Exact, Mode::Fast].into_iter().enumerate() {
        let mut noise = Noise((seed * 4 + swizzle) as u64);
        let a = Matrix::draw(form.a, 64, 256 / form.a.bits(), &mut noise);
        let b = Matrix::draw(form.b, form.n, 256 / form.b.bits(), &mut noise);
        let mut layout = |swizzle: usize, mn_major: bool| {
            let width = 1 << swizzle;
            // A pattern repeats after `width` rows of 128 bytes; half of the cases start it elsewhere.
            let base = if noise.next().is_multiple_of(2) { noise.next() as usize % width } else { 0 };
            let step = if mn_major || width < 4 { 0 } else { noise.next() as usize % (width / 2) };
            Layout { width, mn_major, base, step }
        };
        let layouts =
            [layout((swizzle + seed) % 4, variant.transpose[0]), layout(swizzle, variant.transpose[1])];
        let mut picture = Picture { bytes: Vec::new(), descriptors: Vec::new() };
        if variant.a_in_registers {
            picture.descriptors.push(0);
        } else {
            picture.add(&a, layouts[0], &mut noise);
        }
        picture.add(&b, layouts[1], &mut noise);
        picture.bytes.resize(picture.bytes.len().next_multiple_of(16), 0);
        // Small numbers for floats; integers near both ends, where the sum wraps or saturates.
        let addend: Vec<i64> = (0..64 * form.n)
            .map(|_| match (form.float(), i64::from(noise.next())) {
                (true, word) => word % 201 - 100,
                (false, word) => {
                    (word % 2) * i64::from(u32::MAX)
                        + i64::from(i32::MIN)
                        + (word % 2 * -2 + 1) * (word >> 1) % 2_000_000
                }
            })
            .collect();
        let scale_d = !(seed + swizzle).is_multiple_of(3);
        let sign = if variant.negate[0] != variant.negate[1] { -1 } else { 1 };
        let expected = registers(form, |row, column| {
            let product: i64 = a.row(row).iter().zip(b.row(column)).map(|(a, b)| a * b).sum();
            sign * product + if scale_d { addend[row * form.n + column] } else { 0 }
        });
        let begin = registers(form, |row, column| addend[row * form.n + column]);

        let mut bench = Bench::with(MachineConfig { tensor_mode: mode, ..config() }, &text);
        let source = bench.bytes(&picture.bytes);
        let (begin, fragments) = (bench.words(&begin), bench.words(&fragments(&a)));
        let out = bench.blank(4 * expected.len() as u64);
        let size = picture.bytes.len();
        let [da, db] = picture.descriptors[..] else { unreachable!("one for each operand") };
        let params = [source, size as u64, begin, fragments, da, db, u64::from(scale_d), out];
        let outcome: Result<(), Fault> = bench.run_shared(1, 128, size as u32, &params);
        let what = || format!("{} {variant:?} {layouts:?} scale-d {scale_d} {mode:?}", form.spelled());
        outcome.unwrap_or_else(|fault| panic!("{}: {fault}", what()));
        let got = bench.read_words(out, expected.len());
        if let Some(at) = (0..got.len()).find(|&i| got[i] != expected[i]) {
            let (got, expected) = (got[at], expected[at]);
            panic!("{}: thread {}, d{}: {got:#x}, not {expected:#x}", what(), at % 128, at / 128);
        }
    }
}

/// All variants of a form.
fn all_variants(form: Form, seed: usize) {
    let flags = if form.transposes() { &[false, true][..] } else { &[false] };
    let mut count = seed;
    for a_in_registers in [false, true] {
        for &transpose_a in if a_in_registers { &[false] } else { flags } {
            for &transpose_b in flags {
                count += 1;
                let negate = [form.float() && count % 2 == 1, form.float() && count / 2 % 2 == 1];
                let transpose = [transpose_a, transpose_b];
                run(form, Variant { a_in_registers, negate, transpose }, count);
            }
        }
    }
}

fn all_widths(result: &'static str, pairs: &[(Element, Element)], satfinite: bool) {
    for (i, &(a, b)) in pairs.iter().enumerate() {
        for n in (8..=256).step_by(8) {
            // The manual's list for integers: 8, 16, 24, 32, then multiples of 16.
            if result == "s32" && n > 32 && n % 16 != 0 {
                continue;
            }
            all_variants(Form { result, a, b, satfinite, n }, n / 8 + i);
        }
    }
}

const FP8: &[(Element, Element)] = &[(E4m3, E4m3), (E4m3, E5m2), (E5m2, E4m3), (E5m2, E5m2)];
const INTEGERS: &[(Element, Element)] = &[(S8, S8), (S8, U8), (U8, S8), (U8, U8)];

#[test]
fn f16() {
    all_widths("f32", &[(F16, F16)], false);
    all_widths("f16", &[(F16, F16)], false);
}

#[test]
fn bf16() {
    all_widths("f32", &[(Bf16, Bf16)], false);
}

#[test]
fn tf32() {
    all_widths("f32", &[(Tf32, Tf32)], false);
}

#[test]
fn fp8() {
    all_widths("f32", FP8, false);
    all_widths("f16", FP8, false);
}

#[test]
fn integers() {
    all_widths("s32", INTEGERS, false);
    all_widths("s32", INTEGERS, true);
}

#[test]
fn bits() {
    all_widths("s32", &[(B1, B1)], false);
}
