//! Every form of `mma.sync` that the machine executes, against plain sums of small integers.
//!
//! Fragments are laid out here from the manual's tables (PTX ISA 9.7.14.5): with g = lane / 4 and t = lane % 4, register i of A holds
//! row g, or g + 8 for odd i where there are sixteen rows, and the 4 bytes at 4 t + 16 (i / 2); register i of B column g and the 4
//! bytes at 4 t + 16 i; element i of C and D row g + 8 (i / 2) and column 2 t + i % 2. An `.f64` element fills a register: t + 4 k
//! takes the place of the bytes.

mod machine_support;

use std::fmt::Write;

use hadal_emulator::{MachineConfig, tensor::Mode};
use machine_support::products::{Element, Matrix, Noise};
use machine_support::{Bench, config};

use Element::*;

#[derive(Clone, Copy, Debug)]
struct Form {
    shape: [usize; 3],
    /// Of D and C.
    result: &'static str,
    a: Element,
    b: Element,
    satfinite: bool,
    /// What single bits are combined by.
    operation: &'static str,
}

impl Form {
    fn spelled(self) -> String {
        let Form { shape: [m, n, k], result, a, b, satfinite, operation } = self;
        let satfinite = if satfinite { ".satfinite" } else { "" };
        let (a, b) = (a.name(), b.name());
        format!("mma.sync.aligned.m{m}n{n}k{k}.row.col{satfinite}.{result}.{a}.{b}.{result}{operation}")
    }

    /// Bytes of a register of A and B, and of C and D.
    fn width(self) -> (usize, usize) {
        if self.a == F64 { (8, 8) } else { (4, 4) }
    }

    /// Elements in a register of C and D.
    fn packed(self) -> usize {
        if self.result == "f16" { 2 } else { 1 }
    }

    /// Registers of A, B, and C.
    fn registers(self) -> [usize; 3] {
        let [m, n, k] = self.shape;
        let bytes = 32 * self.width().0;
        [m * k * self.a.bits() / 8 / bytes, n * k * self.a.bits() / 8 / bytes, m * n / 32 / self.packed()]
    }

    fn accumulator(self) -> Option<Element> {
        match self.result {
            "f16" => Some(F16),
            "f64" => Some(F64),
            _ => None,
        }
    }

    fn bits_of(self, value: i64) -> u64 {
        match (self.accumulator(), self.result) {
            (Some(element), _) => element.encode(value),
            (None, "f32") => u64::from((value as f32).to_bits()),
            _ if self.satfinite => u64::from(value.clamp(i32::MIN.into(), i32::MAX.into()) as u32),
            _ => u64::from(value as u32),
        }
    }

    /// C or D, `[register][lane]`.
    fn results(self, value: impl Fn(usize, usize) -> i64) -> Vec<u64> {
        let bits =
            |lane: usize, i: usize| self.bits_of(value(lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2));
        let mut words = Vec::new();
        for r in 0..self.registers()[2] {
            for lane in 0..32 {
                words.push(match self.packed() {
                    2 => bits(lane, 2 * r) | bits(lane, 2 * r + 1) << 16,
                    _ => bits(lane, r),
                });
            }
        }
        words
    }

    /// The registers of an operand with so many of them: `[register][lane]`.
    fn fragments(self, matrix: &Matrix, count: usize, is_a: bool) -> Vec<u64> {
        let halves = if is_a { self.shape[0] / 8 } else { 1 };
        let width = self.width().0;
        let mut words = Vec::new();
        for r in 0..count {
            for lane in 0..32 {
                let bytes = matrix.row_bytes(lane / 4 + 8 * (r % halves));
                let at = width * (lane % 4) + 4 * width * (r / halves);
                words.push(
                    bytes[at..at + width].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
                );
            }
        }
        words
    }
}

/// Loads A, B and C from `p0`, `p1`, `p2`, stores D to `p3`: a register of 32 lanes after the other.
fn kernel(form: Form) -> String {
    let [a, b, c] = form.registers();
    let (operand, result) = match form.result {
        "f64" => ("f64", "f64"),
        "f32" => ("b32", "f32"),
        _ => ("b32", "b32"),
    };
    let (width, _) = form.width();
    let mut body = format!(
        ".reg .b32 lane; .reg .b64 at; .reg .{operand} a<8>, b<8>; .reg .{result} c<8>, d<8>; mov.u32 lane, %tid.x;\n"
    );
    for (name, count, ty, parameter) in [("a", a, operand, 0), ("b", b, operand, 1), ("c", c, result, 2)] {
        writeln!(body, "ld.param.u64 at, [p{parameter}]; mad.wide.u32 at, lane, {width}, at;").unwrap();
        for r in 0..count {
            writeln!(body, "ld.global.{ty} {name}{r}, [at+{}];", 32 * width * r).unwrap();
        }
    }
    let list = |name: &str, count: usize| {
        let names: Vec<String> = (0..count).map(|r| format!("{name}{r}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let operands = [list("d", c), list("a", a), list("b", b), list("c", c)].join(", ");
    writeln!(
        body,
        "{} {operands};\nld.param.u64 at, [p3]; mad.wide.u32 at, lane, {width}, at;",
        form.spelled()
    )
    .unwrap();
    for r in 0..c {
        writeln!(body, "st.global.{result} [at+{}], d{r};", 32 * width * r).unwrap();
    }
    machine_support::module(4, "", &(body + "ret;"))
}

fn run(form: Form) {
    let text = kernel(form);
    let [m, n, k] = form.shape;
    let width = form.width().0;
    for (seed, mode) in [(1, Mode::Exact), (2, Mode::Fast), (3, Mode::Exact)] {
        let mut noise = Noise(seed);
        let (a, b) = (Matrix::draw(form.a, m, k, &mut noise), Matrix::draw(form.b, n, k, &mut noise));
        let mut edge = || {
            let word = i64::from(noise.next());
            match form.result {
                // Near both ends, where the sum wraps or saturates.
                "s32" if word % 2 == 0 => i64::from(i32::MAX) - word % 2000,
                "s32" => i64::from(i32::MIN) + word % 2000,
                _ => word % 201 - 100,
            }
        };
        let addend: Vec<i64> = (0..m * n).map(|_| edge()).collect();
        let expected = form.results(|row, column| {
            let pairs = a.row(row).iter().zip(b.row(column));
            let product: i64 =
                pairs.map(|(a, b)| if form.operation == ".xor.popc" { a ^ b } else { a * b }).sum();
            addend[row * n + column] + product
        });
        let mut bench = Bench::with(MachineConfig { tensor_mode: mode, ..config() }, &text);
        let mut put = |words: Vec<u64>| {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()[..width].to_vec()).collect();
            bench.bytes(&bytes)
        };
        let [na, nb, _] = form.registers();
        let inputs = [
            put(form.fragments(&a, na, true)),
            put(form.fragments(&b, nb, false)),
            put(form.results(|row, column| addend[row * n + column])),
        ];
        let out = bench.blank((width * expected.len()) as u64);
        let [a, b, c] = inputs;
        bench.run(1, 32, &[a, b, c, out]).unwrap_or_else(|fault| panic!("{}: {fault}", form.spelled()));
        let words = bench.read_words(out, width / 4 * expected.len());
        let got: Vec<u64> = words
            .chunks_exact(width / 4)
            .map(|word| word.iter().rev().fold(0, |bits, part| bits << 32 | u64::from(*part)))
            .collect();
        assert_eq!(got, expected, "{} {mode:?}", form.spelled());
    }
}

/// Every mix of the operand types in every shape.
fn all(shapes: &[[usize; 3]], result: &'static str, elements: &[Element], satfinite: &[bool]) {
    for &shape in shapes {
        for &a in elements {
            for &b in elements {
                for &satfinite in satfinite {
                    run(Form { shape, result, a, b, satfinite, operation: "" });
                }
            }
        }
    }
}

#[test]
fn floats() {
    let short = [[16, 8, 8], [16, 8, 16]];
    all(&short, "f32", &[F16], &[false]);
    all(&short, "f16", &[F16], &[false]);
    all(&short, "f32", &[Bf16], &[false]);
    all(&[[16, 8, 4], [16, 8, 8]], "f32", &[Tf32], &[false]);
    let bytes = [[16, 8, 16], [16, 8, 32]];
    all(&bytes, "f32", &[E4m3, E5m2], &[false]);
    all(&bytes, "f16", &[E4m3, E5m2], &[false]);
    all(&[[8, 8, 4], [16, 8, 4], [16, 8, 8], [16, 8, 16]], "f64", &[F64], &[false]);
}

#[test]
fn integers() {
    all(&[[8, 8, 16], [16, 8, 16], [16, 8, 32]], "s32", &[S8, U8], &[false, true]);
    all(&[[8, 8, 32], [16, 8, 32], [16, 8, 64]], "s32", &[S4, U4], &[false, true]);
}

#[test]
fn single_bits() {
    for shape in [[8, 8, 128], [16, 8, 128], [16, 8, 256]] {
        for operation in [".and.popc", ".xor.popc"] {
            run(Form { shape, result: "s32", a: B1, b: B1, satfinite: false, operation });
        }
    }
}
