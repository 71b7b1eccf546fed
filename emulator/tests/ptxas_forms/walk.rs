//! The forms: every pattern of `families.txt` spelled out, and the neighbours of every form the field uses.

use std::collections::BTreeSet;

const FAMILIES: &str = include_str!("families.txt");
const FIELD: &str = include_str!("../front_end_forms.ptx");

/// Forms of one pattern at most; more are thinned out evenly.
const MOST: usize = 300;

const TYPES: &[&str] = &[
    "pred", "b8", "b16", "b32", "b64", "b128", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f16",
    "f16x2", "bf16", "bf16x2", "tf32", "f32", "f64", "e4m3", "e5m2", "e4m3x2", "e5m2x2",
];

/// What stands in for an operand, one of each kind.
const OPERANDS: &[&str] = &[
    "h9",
    "r20",
    "d9",
    "q1",
    "f1",
    "g1",
    "u1",
    "s1",
    "x1",
    "p1",
    "!p1",
    "7",
    "-1",
    "0x123456789",
    "0f3F800000",
    "1.5",
    "%tid.x",
    "%clock64",
    "smem",
    "ctab",
    "_",
    "{r1, r2}",
    "[d9]",
    "[r9]",
    "[smem+4]",
    "r1|p1",
];

/// What is put beside the modifiers of a form.
const MODIFIERS: &[&str] = &[
    "rn",
    "rz",
    "approx",
    "ftz",
    "sat",
    "satfinite",
    "relu",
    "NaN",
    "cc",
    "lo",
    "wide",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "cta",
    "cluster",
    "gpu",
    "global",
    "shared",
    "shared::cluster",
    "local",
    "v2",
    "nc",
    "ca",
    "noftz",
    "sync",
    "aligned",
    "uni",
    "L2::cache_hint",
    "L1::no_allocate",
    "L2::128B",
    "and",
    "trans",
    "parity",
];

/// The prefix of the registers that hold a type.
fn letter(ty: &str) -> &'static str {
    match ty {
        "pred" => "p",
        "b8" | "u8" | "s8" | "b16" | "u16" | "s16" | "f16" | "bf16" | "e4m3" | "e5m2" | "e4m3x2"
        | "e5m2x2" => "h",
        "b64" | "u64" | "s64" | "f64" => "d",
        "b128" => "q",
        _ => "r",
    }
}

/// The prefix of registers of twice the size.
fn wide(ty: &str) -> &'static str {
    match letter(ty) {
        "h" => "r",
        "r" => "d",
        _ => "q",
    }
}

/// `<a/b>` and `<T>` spelled out.
fn expand(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('<') else { return vec![pattern.to_string()] };
    let (choices, after) = rest.split_once('>').expect("a `<` without `>` in families.txt");
    let choices: Vec<&str> = if choices == "T" { TYPES.to_vec() } else { choices.split('/').collect() };
    let tails = expand(after);
    let mut forms = Vec::with_capacity(choices.len() * tails.len());
    for choice in choices {
        forms.extend(tails.iter().map(|tail| format!("{before}{choice}{tail}")));
    }
    forms
}

/// `$` replaced by registers.
fn registers(form: &str) -> String {
    // The operands follow the first blank behind the opcode; a guard comes before it.
    let skip = if form.starts_with('@') { form.find(' ').map_or(0, |at| at + 1) } else { 0 };
    let name = form[skip..].split(' ').next().unwrap_or_default();
    let types: Vec<&str> = name.split('.').filter(|word| TYPES.contains(word)).collect();
    let (first, last) = (types.first().unwrap_or(&"b32"), types.last().unwrap_or(&"b32"));
    let mut text = String::new();
    let mut parts = form.split('$');
    text.push_str(parts.next().unwrap_or_default());
    for (nth, part) in parts.enumerate() {
        let (prefix, rest) = match part.as_bytes().first() {
            Some(b'1') => (letter(first), &part[1..]),
            Some(b'w') => (wide(last), &part[1..]),
            _ => (letter(last), part),
        };
        text.push_str(&format!("{prefix}{nth}{rest}"));
    }
    text
}

/// The instructions of the field, as guard and opcode, modifiers, operands.
struct Line<'a> {
    opcode: &'a str,
    modifiers: Vec<&'a str>,
    operands: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Line<'a> {
        let line = line.trim_end_matches(';');
        let (name, operands) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = name.split('.');
        let opcode = words.next().unwrap_or_default();
        let mut list = Vec::new();
        let (mut depth, mut from) = (0, 0);
        for (at, c) in operands.char_indices() {
            match c {
                '{' | '[' | '(' => depth += 1,
                '}' | ']' | ')' => depth -= 1,
                ',' if depth == 0 => {
                    list.push(operands[from..at].trim());
                    from = at + 1;
                }
                _ => {}
            }
        }
        if !operands.is_empty() {
            list.push(operands[from..].trim());
        }
        Line { opcode, modifiers: words.collect(), operands: list }
    }
}

fn spell(opcode: &str, modifiers: &[&str], operands: &[&str]) -> String {
    let mut text = opcode.to_string();
    for word in modifiers {
        text.push('.');
        text.push_str(word);
    }
    if !operands.is_empty() {
        text.push(' ');
        text.push_str(&operands.join(", "));
    }
    text
}

/// The form with a register prefix in place of another in its operands.
fn renamed(operands: &[&str], from: &str, to: &str) -> Vec<String> {
    let rename = |operand: &&str| match operand.strip_prefix(from) {
        Some(digits) if digits.chars().all(|c| c.is_ascii_digit()) => format!("{to}{digits}"),
        _ => operand.to_string(),
    };
    operands.iter().map(rename).collect()
}

/// Everything one step away from a form.
fn neighbours(line: &Line<'_>, family: &BTreeSet<&str>, forms: &mut Vec<String>) {
    let Line { opcode, modifiers, operands } = line;
    let mut with = |modifiers: &[&str]| forms.push(spell(opcode, modifiers, operands));
    with(modifiers);
    for at in 0..modifiers.len() {
        let mut less = modifiers.clone();
        let word = less.remove(at);
        with(&less);
        less.push(word);
        with(&less);
        let mut twice = modifiers.clone();
        twice.insert(at, word);
        with(&twice);
        if at > 0 {
            let mut swapped = modifiers.clone();
            swapped.swap(at - 1, at);
            with(&swapped);
        }
    }
    with(&modifiers.iter().rev().copied().collect::<Vec<_>>());
    for (nth, word) in MODIFIERS.iter().chain(family).enumerate() {
        let mut more = modifiers.clone();
        more.insert(nth % (modifiers.len() + 1), word);
        with(&more);
        // In place of another word.
        if !modifiers.is_empty() {
            let mut other = modifiers.clone();
            other[nth % modifiers.len()] = word;
            with(&other);
        }
    }
    for (at, word) in modifiers.iter().enumerate().filter(|(_, word)| TYPES.contains(word)) {
        for ty in TYPES {
            let mut other = modifiers.clone();
            other[at] = ty;
            forms.push(spell(opcode, &other, operands));
            let operands = renamed(operands, letter(word), letter(ty));
            let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
            forms.push(spell(opcode, &other, &operands));
        }
    }
    for at in 0..operands.len() {
        // `ptxas` takes all memory there is when a tensor copy has something else for an address.
        let address = operands[at].starts_with('[');
        for operand in OPERANDS.iter().filter(|operand| !address || operand.starts_with('[')) {
            let mut other = operands.clone();
            other[at] = operand;
            forms.push(spell(opcode, modifiers, &other));
        }
        let mut less = operands.clone();
        less.remove(at);
        forms.push(spell(opcode, modifiers, &less));
    }
    for extra in ["r1", "d1", "p1", "0"] {
        let mut more = operands.clone();
        more.push(extra);
        forms.push(spell(opcode, modifiers, &more));
    }
}

/// The instructions of the field without jumps, calls and the widest products; of those that differ in their type only, one.
fn field() -> Vec<Line<'static>> {
    let lines = FIELD.lines().skip_while(|line| !line.starts_with("abs.f32"));
    let lines = lines.take_while(|line| !line.starts_with("done:"));
    let plain = |line: &&str| {
        !line.is_empty() && line.len() < 200 && !line.starts_with('@') && !line.starts_with("call")
    };
    let mut seen = BTreeSet::new();
    let shape = |line: &Line<'static>| -> Vec<&str> {
        let untyped = line.modifiers.iter().copied().filter(|word| !TYPES.contains(word));
        std::iter::once(line.opcode).chain(untyped).collect()
    };
    lines.filter(plain).map(Line::read).filter(|line| seen.insert(shape(line))).collect()
}

/// All forms, each once.
pub fn forms() -> Vec<String> {
    let mut forms = Vec::new();
    for pattern in FAMILIES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let all = expand(pattern);
        // A stride without small factors meets every choice of every slot.
        let stride = 2 * (all.len() / MOST / 2) + 1;
        forms.extend(all.iter().step_by(stride).map(|form| registers(form)));
    }
    let field = field();
    for line in &field {
        let family: BTreeSet<&str> = field
            .iter()
            .filter(|other| other.opcode == line.opcode)
            .flat_map(|other| other.modifiers.iter().copied())
            .filter(|word| !TYPES.contains(word))
            .collect();
        neighbours(line, &family, &mut forms);
    }
    let mut seen = BTreeSet::new();
    forms.retain(|form| seen.insert(form.clone()));
    forms
}
