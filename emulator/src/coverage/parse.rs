//! Reads the files of `emulator/isa/`; the format is described in the README there.

use super::Unit;
use super::expr::Expr;
use super::kernel::{Buffer, Fill, Kernel, Map};
use super::table::{Case, Spec, Table};
use super::value::Ty;
use crate::tma::{DataType, OobFill, Swizzle};

type Located<T> = Result<T, (usize, String)>;

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("").trim_end()
}

fn depth(text: &str) -> i32 {
    text.chars().fold(0, |depth, c| match c {
        '(' | '[' | '{' => depth + 1,
        ')' | ']' | '}' => depth - 1,
        _ => depth,
    })
}

/// Splits where `separator` stands outside all brackets.
fn split(text: &str, separator: impl Fn(char) -> bool) -> Vec<&str> {
    let (mut parts, mut start, mut level) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => level += 1,
            ')' | ']' | '}' => level -= 1,
            c if level == 0 && separator(c) => {
                parts.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// Statements with their `;`; what is left at the end has none. Comments inside are the caller's.
pub(super) fn statements(text: &str) -> Vec<(&str, &str)> {
    let mut out = Vec::new();
    for line in text.split_inclusive('\n') {
        let (body, comment) = line.split_at(line.find("//").unwrap_or(line.len()));
        let mut rest = body;
        while let Some(at) = rest.find(';') {
            out.push((&rest[..at], ";"));
            rest = &rest[at + 1..];
        }
        out.push((rest, ""));
        out.push((comment, ""));
    }
    out
}

/// Of a statement: what stands before the opcode (labels, braces), the guard, the opcode.
pub(super) fn opcode(statement: &str) -> (&str, &str, &str) {
    let mut at = 0;
    let mut guard = "";
    loop {
        let rest = &statement[at..];
        at += rest.len() - rest.trim_start().len();
        let rest = &statement[at..];
        let word = rest.split_whitespace().next().unwrap_or("");
        if rest.starts_with(['{', '}']) {
            at += 1;
        } else if word.ends_with(':') {
            at += word.len();
        } else if word.starts_with('@') {
            guard = word;
            let lead = &statement[..at];
            let opcode = rest[word.len()..].split_whitespace().next().unwrap_or("");
            return (lead, guard, opcode);
        } else {
            return (&statement[..at], guard, word);
        }
    }
}

/// Removes `name:type` annotations and returns them.
fn annotations(text: &str) -> (String, Vec<(String, Ty)>) {
    let (mut plain, mut found) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(colon) = rest.find(':') {
        let before = &rest[..colon];
        let after = &rest[colon + 1..];
        let name_start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |p| p + 1);
        let type_end = after.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(after.len());
        plain += before;
        match Ty::named(&after[..type_end]) {
            Some(ty) if name_start < colon => {
                found.push((before[name_start..].to_string(), ty));
                rest = &after[type_end..];
            }
            _ => {
                plain.push(':');
                // `::` at once, so that `x::b32` is no annotation.
                let double = after.starts_with(':');
                if double {
                    plain.push(':');
                }
                rest = &after[usize::from(double)..];
            }
        }
    }
    (plain + rest, found)
}

fn spec(text: &str) -> Result<Spec, String> {
    let list =
        |text: &str| split(text, |c| c == ',').into_iter().map(Expr::parse).collect::<Result<Vec<_>, _>>();
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return Ok(Spec::Lanes(list(inner)?));
    }
    if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        return Ok(Spec::Packed(list(inner)?));
    }
    if let Some((name, inner)) = text.strip_suffix(']').and_then(|t| t.split_once('['))
        && let Some(ty) = Ty::named(name)
    {
        return Ok(Spec::Memory(ty, list(inner)?));
    }
    Ok(Spec::Each(Expr::parse(text)?))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn case(line: usize, text: &str) -> Result<Case, String> {
    let (given, expected) = text.split_once("->").ok_or("a case reads `inputs -> outputs`")?;
    let side = |text: &str| -> Result<Vec<(String, Spec)>, String> {
        // A word that is not `name=…` belongs to the value before it.
        let mut parts: Vec<(String, String)> = Vec::new();
        for word in split(text, char::is_whitespace) {
            match word.split_once('=') {
                Some((name, value)) if is_name(name) && !value.starts_with('=') => {
                    parts.push((name.to_string(), value.to_string()));
                }
                _ => {
                    let (_, value) = parts.last_mut().ok_or_else(|| format!("`{word}`: name=value"))?;
                    *value += &format!(" {word}");
                }
            }
        }
        parts
            .into_iter()
            .map(|(name, value)| spec(&value).map_err(|e| format!("{name}: {e}")).map(|spec| (name, spec)))
            .collect()
    };
    Ok(Case { line, inputs: side(given)?, outputs: side(expected)? })
}

fn table(line: usize, text: &str) -> Table {
    let (plain, variables) = annotations(text);
    let forms = plain.split(';').map(|s| opcode(s).2.to_string()).filter(|form| !form.is_empty()).collect();
    Table { line, text: plain.trim().to_string(), forms, variables, cases: Vec::new() }
}

/// Types of what is not annotated: `p`, `q`, `r` are predicates, a result has the first type of the opcode, an operand the last.
fn complete(table: &mut Table) -> Result<(), String> {
    let types: Vec<Ty> =
        table.forms.first().map_or("", |f| f.as_str()).split('.').filter_map(Ty::named).collect();
    let Some(first) = table.cases.first() else { return Err("a form without cases".into()) };
    for (names, ty) in [(&first.outputs, types.first()), (&first.inputs, types.last())] {
        for (name, _) in names {
            if name == "mem" || table.variables.iter().any(|v| v.0 == *name) {
                continue;
            }
            let ty = match name.as_str() {
                "p" | "q" | "r" => Ty::named("pred"),
                _ => ty.copied(),
            };
            table.variables.push((name.clone(), ty.ok_or_else(|| format!("`{name}` has no type"))?));
        }
    }
    for case in &table.cases {
        for (one, other) in [(&case.inputs, &first.inputs), (&case.outputs, &first.outputs)] {
            let names = |side: &[(String, Spec)]| {
                let mut names: Vec<String> =
                    side.iter().map(|s| s.0.clone()).filter(|n| n != "mem").collect();
                names.sort();
                names
            };
            if names(one) != names(other) {
                return Err(format!("the case of line {} has other variables than the first", case.line));
            }
        }
    }
    Ok(())
}

fn numbers<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    text.split(',').map(|n| n.trim().parse().map_err(|_| format!("`{n}` is not a number here"))).collect()
}

fn triple(text: &str) -> Result<[u32; 3], String> {
    let mut out = [1; 3];
    for (k, n) in numbers(text)?.into_iter().enumerate() {
        *out.get_mut(k).ok_or("at most three numbers")? = n;
    }
    Ok(out)
}

fn fill(text: &str) -> Result<Fill, String> {
    match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        Some(inner) => {
            Ok(Fill::List(split(inner, |c| c == ',').into_iter().map(Expr::parse).collect::<Result<_, _>>()?))
        }
        None => Ok(Fill::Each(Expr::parse(text)?)),
    }
}

/// `name: type[count] = fill`, for `inout` `= before -> after`.
fn buffer(line: usize, word: &str, rest: &str) -> Result<Buffer, String> {
    let (head, contents) = rest.split_once('=').ok_or("name: type[count] = contents")?;
    let (name, ty) = head.split_once(':').ok_or("name: type[count] = contents")?;
    let (ty, count) = ty.trim().strip_suffix(']').and_then(|t| t.split_once('[')).ok_or("type[count]")?;
    let contents = contents.trim();
    let (before, after) = match word {
        "in" => (Some(fill(contents)?), None),
        "out" => (None, Some(fill(contents)?)),
        _ => {
            let (before, after) = contents.split_once("->").ok_or("inout: before -> after")?;
            (Some(fill(before.trim())?), Some(fill(after.trim())?))
        }
    };
    Ok(Buffer {
        line,
        name: name.trim().to_string(),
        ty: Ty::named(ty).ok_or_else(|| format!("no type `{ty}`"))?,
        count: count.parse().map_err(|_| format!("`{count}` elements"))?,
        before,
        after,
    })
}

/// `name: type of buffer dims a,b strides c box d,e [swizzle n] [steps f,g] [fill nan]`; all from the innermost out. An im2col map
/// has `box channels lower a,b upper c,d pixels n`.
fn map(line: usize, rest: &str) -> Result<Map, String> {
    let (name, rest) = rest.split_once(':').ok_or("name: type of buffer …")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [ty, "of", buffer, options @ ..] = &words[..] else { return Err("name: type of buffer …".into()) };
    let data_type = match *ty {
        "u8" => DataType::U8,
        "u16" => DataType::U16,
        "u32" => DataType::U32,
        "s32" => DataType::S32,
        "u64" => DataType::U64,
        "f16" => DataType::F16,
        "bf16" => DataType::BF16,
        "f32" => DataType::F32,
        "tf32" => DataType::TF32,
        other => return Err(format!("no tensor map type `{other}`")),
    };
    let mut map = Map {
        line,
        name: name.trim().to_string(),
        buffer: buffer.to_string(),
        data_type,
        dims: Vec::new(),
        strides: Vec::new(),
        box_dims: Vec::new(),
        steps: Vec::new(),
        swizzle: Swizzle::None,
        fill: OobFill::Zero,
        lower: Vec::new(),
        upper: Vec::new(),
        pixels: 0,
    };
    for pair in options.chunks(2) {
        match pair {
            ["dims", list] => map.dims = numbers(list)?,
            ["strides", list] => map.strides = numbers(list)?,
            ["box", list] => map.box_dims = numbers(list)?,
            ["lower", list] => map.lower = numbers(list)?,
            ["upper", list] => map.upper = numbers(list)?,
            ["pixels", count] => map.pixels = count.parse().map_err(|_| "pixels: how many")?,
            ["steps", list] => map.steps = numbers(list)?,
            ["swizzle", "32"] => map.swizzle = Swizzle::B32,
            ["swizzle", "64"] => map.swizzle = Swizzle::B64,
            ["swizzle", "128"] => map.swizzle = Swizzle::B128,
            ["fill", "nan"] => map.fill = OobFill::Nan,
            other => return Err(format!("no map option {other:?}")),
        }
    }
    if map.steps.is_empty() {
        map.steps = vec![1; map.dims.len()];
    }
    Ok(map)
}

fn attribute(kernel: &mut Kernel, line: usize, text: &str) -> Result<(), String> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    match word {
        "covers" => kernel.covers.extend(rest.split_whitespace().map(str::to_string)),
        "block" => kernel.block = triple(rest)?,
        "grid" => kernel.grid = triple(rest)?,
        "cluster" => kernel.cluster = Some(triple(rest)?),
        "shared" => kernel.shared = rest.parse().map_err(|_| "shared: bytes")?,
        "maxnreg" => kernel.registers = Some(rest.parse().map_err(|_| "maxnreg: how many")?),
        "launches" => kernel.launches = rest.parse().map_err(|_| "launches: how many")?,
        "programmatic" => kernel.programmatic = true,
        "cooperative" => kernel.cooperative = true,
        "faults" => kernel.faults = Some(rest.to_string()),
        "in" | "out" | "inout" => kernel.buffers.push(buffer(line, word, rest)?),
        "multicast" => {
            let mut words = rest.split_whitespace().map(str::to_string);
            let name = words.next().ok_or("multicast name buffer buffer …")?;
            kernel.multicasts.push((name, words.collect()));
        }
        "map" => kernel.maps.push(map(line, rest)?),
        "module" => {
            kernel.module += rest;
            kernel.module.push('\n');
        }
        _ => return Err(format!("no kernel attribute `{word}`")),
    }
    Ok(())
}

/// All tables and kernels of a file, or the line and what is wrong with it.
pub(super) fn file(text: &str) -> Located<Vec<Unit>> {
    let mut units: Vec<Unit> = Vec::new();
    let mut lines = text.lines().enumerate().map(|(k, line)| (k + 1, line));
    let mut kernel: Option<Kernel> = None;
    while let Some((number, line)) = lines.next() {
        let mut joined = code(line).to_string();
        if joined.trim().is_empty() {
            continue;
        }
        if joined == "{" {
            let mut kernel = kernel.take().ok_or((number, "a body without `kernel`".to_string()))?;
            loop {
                match lines.next() {
                    Some((_, "}")) => break,
                    Some((_, line)) => {
                        kernel.body += line;
                        kernel.body.push('\n');
                    }
                    None => return Err((number, "the body has no end".into())),
                }
            }
            let all = [kernel.module.as_str(), kernel.body.as_str()];
            let present: Vec<&str> =
                all.into_iter().flat_map(statements).map(|statement| opcode(statement.0).2).collect();
            if let Some(form) = kernel.covers.iter().find(|f| !present.contains(&f.as_str())) {
                return Err((kernel.line, format!("{form} is not in the kernel")));
            }
            units.push(Unit::Kernel(kernel));
            continue;
        }
        while depth(&joined) > 0 {
            let (_, more) = lines.next().ok_or((number, "a bracket is left open".to_string()))?;
            joined.push(' ');
            joined += code(more).trim();
        }
        let indented = joined.starts_with([' ', '\t']);
        let content = joined.trim();
        let at = |message: String| (number, message);
        match (&mut kernel, indented) {
            (Some(kernel), true) => attribute(kernel, number, content).map_err(at)?,
            (Some(_), false) => return Err((number, "the kernel before has no body".into())),
            (None, true) => match units.last_mut() {
                Some(Unit::Table(table)) => table.cases.push(case(number, content).map_err(at)?),
                _ => return Err((number, "a case without a form".into())),
            },
            (None, false) => match content.strip_prefix("kernel ") {
                Some(name) => {
                    kernel = Some(Kernel {
                        line: number,
                        name: name.trim().to_string(),
                        covers: Vec::new(),
                        grid: [1; 3],
                        block: [32, 1, 1],
                        cluster: None,
                        shared: 0,
                        registers: None,
                        launches: 1,
                        programmatic: false,
                        cooperative: false,
                        faults: None,
                        buffers: Vec::new(),
                        multicasts: Vec::new(),
                        maps: Vec::new(),
                        module: String::new(),
                        body: String::new(),
                    });
                }
                None if content.ends_with(';') => units.push(Unit::Table(table(number, content))),
                None => return Err((number, "a form ends with `;`".into())),
            },
        }
    }
    for unit in &mut units {
        if let Unit::Table(table) = unit {
            let line = table.line;
            complete(table).map_err(|message| (line, message))?;
        }
    }
    Ok(units)
}
