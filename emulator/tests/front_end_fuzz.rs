//! No text makes the front end panic, hang or exhaust the stack.
//!
//! Real text is damaged by a small deterministic generator: bytes changed, lines repeated, dropped and swapped, numbers made
//! huge, tokens taken from elsewhere. Whether a case is accepted does not matter; that it returns does.

use hadal_emulator::ir::Module;

const FORMS: &str = include_str!("front_end_forms.ptx");

/// Modules of other shapes than the forms.
const SEEDS: &[&str] = &[
    ".version 8.0\n.target sm_90a\n.address_size 64\n.file 1 \"a.ptx\"\n.global .align 4 .b32 t[2][2] = {{1,2},{3,4}};\n\
     .const .u64 c[] = {generic(t)+8, 5*3-1};\n.extern .shared .align 1024 .b8 smem[];\n\
     .func (.reg .b32 o) f(.reg .b32 i, .param .b32 m) { .reg .pred p; add.u32 o, i, 1; @p ret; add.u32 o, o, 2; ret; }\n\
     .visible .entry k(.param .u64 x, .param .align 64 .b8 map[128]) .reqntid 384, 1, 1 .maxnreg 168\n{\n\
     .reg .b32 %r<40>; .reg .pred %p<4>; .reg .v4 .f32 v; .param .b32 m;\n.loc 1 3 4, inlined_at 1 2 3\n\
     mov.u32 %r1, %tid.x;\n$L_1: setp.lt.and.u32 %p1|%p2, %r1, 2*3+1, !%p3;\n@!%p1 bra $L_1;\n\
     add.f32 v.x, v.y, 0f3F800000;\ncall (%r3), f, (%r2, m);\n@%p1 call (%r3), f, (7, m);\n\
     tab: .branchtargets $L_1, $L_2;\nbrx.idx %r1, tab;\n{ .reg .b32 %r1; mov.b32 %r1, -5 >> 1; }\n\
     $L_2: st.shared.v2.b32 [smem+16], {%r1, -1};\nret;\n}\n",
    ".version 7.8 .target sm_90a .address_size 64 .section .debug { .b8 1, 2 }\n.weak .func g;\n.entry a() { ret; }\n\
     .entry b(.param .u32 n) { .reg .b128 q; .reg .b64 d<4>; mov.b128 q, {d0, d1}; mov.b128 {d2, _}, q; }\n",
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "<",
    ">",
    ",",
    ";",
    ":",
    "+",
    "-",
    "*",
    "/",
    "%",
    "!",
    "~",
    "|",
    "||",
    "&",
    "^",
    "=",
    "?",
    "@",
    ".",
    "_",
    "\"",
    "0",
    "-1",
    "0x",
    "0f",
    "0f3F800000",
    "18446744073709551615",
    "99999999999999999999",
    "4294967295",
    "1e999",
    "1.5",
    "%r1",
    "%tid.x",
    "%tid",
    "v.x",
    "v",
    "smem",
    "q",
    "generic(",
    ".reg",
    ".b32",
    ".b128",
    ".pred",
    ".v4",
    ".shared",
    ".param",
    ".align 3",
    ".align 0",
    "<4294967295>",
    "[1099511627776]",
    "ret;",
    "call",
    "\0",
    "é",
    "/*",
    "//",
    "\n",
    ".loc 1 2 3",
    ".entry",
    ".func",
    "x: x:",
    "bra",
    "0/0",
    "1%0",
    "-9223372036854775808/-1",
    "1<<64",
    "1>>99",
];

fn damage(text: &str, random: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[at] = random.next() as u8,
            1 => {
                bytes.remove(at);
            }
            2 => {
                let token = random.pick(TOKENS);
                bytes.splice(at..at, token.bytes());
            }
            3 => {
                let end = (at + random.below(60)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + random.below(200)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            5 => {
                // A word becomes another token.
                let word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'%' | b'$');
                let start = bytes[..at].iter().rposition(|b| !word(b)).map_or(0, |i| i + 1);
                let end = bytes[at..].iter().position(|b| !word(b)).map_or(bytes.len(), |i| at + i);
                let token = random.pick(TOKENS);
                bytes.splice(start..end.max(start), token.bytes());
            }
            _ => bytes.truncate(at),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A module of a few of the forms, so that one case is small and most instructions are reached.
fn some_forms(random: &mut Random) -> String {
    let lines: Vec<_> = FORMS.lines().collect();
    let body = lines.iter().position(|line| line.starts_with("mov.u32 r9")).unwrap_or(0) + 1;
    let mut text = lines[..body].join("\n");
    for _ in 0..4 {
        text.push('\n');
        text.push_str(lines[body + random.below(lines.len() - body - 2)]);
    }
    text.push_str("\ndone: ret;\n}\n");
    text
}

#[test]
fn damaged_text_never_panics() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    for case in 0..20_000 {
        let text = match case % 4 {
            0 => SEEDS[0].to_owned(),
            1 => SEEDS[1].to_owned(),
            _ => some_forms(&mut random),
        };
        let text = damage(&text, &mut random);
        match Module::parse("fuzz.ptx", &text) {
            Ok(_) => accepted += 1,
            // Messages are built too.
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
    // Both outcomes are common, or the damage is too mild or too rough to mean anything.
    assert!((500..19_000).contains(&accepted), "{accepted} of 20000 accepted");
}

#[test]
fn the_seeds_are_sound() {
    for seed in SEEDS {
        Module::parse("seed.ptx", seed).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn random_tokens_never_panic() {
    let mut random = Random(42);
    for _ in 0..5_000 {
        let mut text =
            String::from(".version 8.0 .target sm_90a .address_size 64 .entry k() { .reg .b32 r<9>; ");
        for _ in 0..random.below(40) {
            text.push_str(random.pick(TOKENS));
            text.push(' ');
        }
        let _ = Module::parse("fuzz.ptx", &text);
    }
}
