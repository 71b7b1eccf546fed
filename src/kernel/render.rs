//! Renders a kernel template to PTX and remembers where every line came from.
//!
//! Templates are PTX with minijinja on top, in a dialect that cannot collide with PTX: a line whose first characters are
//! `//@` is a statement (and a comment to every PTX editor), `${ … }` is a value. `regs("acc", 4)` is `acc0, acc1, acc2,
//! acc3`, `regs("acc", 4, 8)` begins at `acc8`; `fail("why")` stops the build with the template's line.
//!
//! The line map: before rendering, each text line gets a mark with its file and line; an include and a value that calls
//! something are wrapped in push and pop marks, so a line that a macro wrote knows the macro's line and its caller's. After
//! rendering the marks are taken out, `.loc` is put before instructions and `.file` at the end of the module, so that
//! ptxas, the emulator and profilers point into the file a person edits.
//!
//! minijinja forgives; a kernel must not be forgiven. Undefined names are errors, a value is an integer or a string
//! (`${ a / b }` is a float, `${ x > 0 }` a truth value, `${ x if y }` may be nothing: all refused), and so are the
//! white-space controls `${-`, `${+`, `-}`, a `${` that does not close on its line, a `//@` behind other text, and statements
//! other than those in [`STATEMENTS`]. Shared with `build.rs` by path.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value as Dynamic, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

use super::line_map::{LineMap, Place};
use super::scan::{Kind, scan};
use super::table::Value;

/// The statements a template may use.
pub const STATEMENTS: [&str; 12] =
    ["for", "endfor", "if", "elif", "else", "endif", "set", "macro", "endmacro", "include", "import", "from"];

/// The template sources: name under `ptx/` (`lib/mbarrier.ptx`) to text.
pub type Sources = BTreeMap<String, String>;

/// A kernel's PTX and the map of its lines.
#[derive(Debug)]
pub struct Rendered {
    /// The PTX, with `.loc` and `.file`.
    pub ptx: String,
    /// Where each of its lines came from.
    pub map: LineMap,
}

/// Why a template does not render, with the file and line to look at.
#[derive(Debug, PartialEq, Eq)]
pub struct RenderError {
    /// Template file, `ptx/…`.
    pub file: String,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

impl std::error::Error for RenderError {}

/// Reads every `.ptx` file under `dir`, folders included.
pub fn load(dir: &Path) -> std::io::Result<Sources> {
    let mut sources = Sources::new();
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), format!("{name}/")));
            } else if name.ends_with(".ptx") {
                sources.insert(name, std::fs::read_to_string(entry.path())?);
            }
        }
    }
    Ok(sources)
}

/// Renders `template` with `constants`.
pub fn render(
    sources: &Sources,
    template: &str,
    constants: &[(&str, Value)],
) -> Result<Rendered, RenderError> {
    let files: Vec<String> = sources.keys().map(|name| shown(name)).collect();
    let mut marked = HashMap::new();
    let mut environment = environment();
    for (index, (name, text)) in sources.iter().enumerate() {
        let (text, lines) = mark(index, name, text)?;
        environment
            .add_template_owned(name.clone(), text)
            .map_err(|error| explain(&error, name, &marked, &lines))?;
        marked.insert(name.as_str(), lines);
    }
    let context: BTreeMap<&str, Dynamic> = constants
        .iter()
        .map(|&(name, value)| match value {
            Value::Int(int) => (name, Dynamic::from(int)),
            Value::Str(text) => (name, Dynamic::from(text)),
        })
        .collect();
    let text = environment
        .get_template(template)
        .and_then(|found| found.render(context))
        .map_err(|error| explain(&error, template, &marked, &[]))?;
    let (lines, places) = unmark(&text);
    if let Some(line) = lines.iter().find(|line| line.text.contains("//@")) {
        let place = line.place.map(|place| places.list[place as usize]);
        let (file, line) = place.map_or((template, 0), |place| (file_name(sources, place.file), place.line));
        return Err(refuse(file, line as usize, "`//@` is left in the output: a value wrote it"));
    }
    Ok(with_locations(lines, places, files))
}

/// How a template is named to people: relative to the repository.
fn shown(name: &str) -> String {
    format!("ptx/{name}")
}

fn file_name(sources: &Sources, index: u32) -> &str {
    sources.keys().nth(index as usize).map_or("", String::as_str)
}

fn refuse(name: &str, line: usize, message: impl Into<String>) -> RenderError {
    RenderError { file: shown(name), line, message: message.into() }
}

/// minijinja in the dialect of the templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Block and comment delimiters cannot be switched off; control characters, which `mark` refuses, never match.
    let syntax = SyntaxConfig::builder()
        .block_delimiters("\u{3}", "\u{4}")
        .comment_delimiters("\u{5}", "\u{6}")
        .variable_delimiters("${", "}")
        .line_statement_prefix("//@")
        .build()
        .expect("the delimiters are distinct");
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(|out, _, value| {
        let text = match value.kind() {
            ValueKind::String => value.to_string(),
            ValueKind::Number if value.is_integer() => value.to_string(),
            kind => {
                return Err(Error::new(
                    ErrorKind::BadSerialization,
                    format!("a value must be an integer or a string, this is {kind}: {value}"),
                ));
            }
        };
        out.write_str(&text).map_err(Error::from)
    });
    environment.add_function("regs", |name: String, count: u32, rest: Rest<u32>| match rest.as_slice() {
        [] => Ok(regs(&name, 0, count)),
        [start] => Ok(regs(&name, *start, count)),
        _ => Err(Error::new(ErrorKind::TooManyArguments, "regs(name, count) or regs(name, count, start)")),
    });
    environment.add_function("fail", |why: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, why))
    });
    environment
}

/// `name0, name1, …`: `count` registers from `start`.
fn regs(name: &str, start: u32, count: u32) -> String {
    let names: Vec<String> =
        (start..start.saturating_add(count)).map(|index| format!("{name}{index}")).collect();
    names.join(", ")
}

/// Puts minijinja's complaint where the person who edits the template can act on it.
fn explain(error: &Error, name: &str, marked: &HashMap<&str, Vec<usize>>, current: &[usize]) -> RenderError {
    // An error inside an include or a macro is wrapped once for each level; the innermost says what is wrong.
    let mut inner = error;
    while let Some(next) = std::error::Error::source(inner).and_then(|source| source.downcast_ref::<Error>())
    {
        inner = next;
    }
    let file = inner.name().unwrap_or(name);
    let lines = marked.get(file).map_or(current, Vec::as_slice);
    let line = inner.line().unwrap_or(0);
    let line = line.checked_sub(1).and_then(|index| lines.get(index).copied()).unwrap_or(line);
    let message = inner
        .detail()
        .map_or_else(|| inner.kind().to_string(), |detail| format!("{}: {detail}", inner.kind()));
    refuse(file, line, message)
}

const MARK_END: char = '\u{2}';

/// Marks each line of a template, refusing what the dialect forbids. Also the source line of each marked line.
fn mark(file: usize, name: &str, text: &str) -> Result<(String, Vec<usize>), RenderError> {
    let mut out = String::with_capacity(text.len() * 2);
    let mut source_lines = Vec::new();
    let mut push = |text: &str, line: usize| {
        out.push_str(text);
        out.push('\n');
        source_lines.push(line);
    };
    for (index, text) in text.lines().enumerate() {
        let line = index + 1;
        let refuse = |message: String| Err(refuse(name, line, message));
        if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\t') {
            return refuse(format!("the control character {control:?} has no place in a template"));
        }
        for control in ["${-", "${+", "-}"] {
            if text.contains(control) {
                return refuse(format!("`{control}` trims white space in silence: write a plain `${{ … }}`"));
            }
        }
        let Some(statement) = text.trim_start().strip_prefix("//@") else {
            if text.contains("//@") {
                return refuse("`//@` must be the first thing on its line".into());
            }
            let mut marked = format!("\u{1}L{file}:{line}{MARK_END}");
            wrap_calls(text, &format!("\u{1}P{file}:{line}{MARK_END}"), &mut marked)
                .map_err(|why| self::refuse(name, line, why))?;
            push(&marked, line);
            continue;
        };
        if statement.contains("//@") {
            return refuse("`//@` must be the first thing on its line".into());
        }
        let word = statement.split_whitespace().next().unwrap_or("");
        match word {
            "include" => {
                push(&format!("\u{1}P{file}:{line}{MARK_END}"), line);
                push(text, line);
                push(&format!("\u{1}Q{MARK_END}"), line);
            }
            _ if STATEMENTS.contains(&word) => push(text, line),
            _ => {
                return refuse(format!(
                    "`{word}` is not a statement of the templates ({})",
                    STATEMENTS.join(", ")
                ));
            }
        }
    }
    Ok((out, source_lines))
}

/// Copies `text`, wrapping each `${ … }` that calls something in a push and a pop mark.
fn wrap_calls(text: &str, push: &str, out: &mut String) -> Result<(), String> {
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = value_length(&rest[start..]) else {
            return Err("a `${` does not close on its line".into());
        };
        let (before, value) = (&rest[..start], &rest[start..start + length]);
        out.push_str(before);
        if value.contains('(') {
            out.push_str(push);
            out.push_str(value);
            out.push_str("\u{1}Q\u{2}");
        } else {
            out.push_str(value);
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    Ok(())
}

/// Bytes of the `${ … }` that `text` begins with, minding strings and brackets.
fn value_length(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0u32, None);
    for (at, c) in text.char_indices().skip(2) {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{' | '(' | '[') => depth += 1,
            (None, '}') if depth == 0 => return Some(at + 1),
            (None, '}' | ')' | ']') => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// A line of the output and the place it came from.
struct Line {
    text: String,
    place: Option<u32>,
}

/// The places met so far, each once.
#[derive(Default)]
struct Places {
    list: Vec<Place>,
    index: HashMap<Place, u32>,
}

impl Places {
    fn intern(&mut self, place: Place) -> u32 {
        *self.index.entry(place).or_insert_with(|| {
            self.list.push(place);
            self.list.len() as u32 - 1
        })
    }
}

/// Takes the marks out again. Lines that hold nothing but an include's marks, or a macro call's tail, vanish.
fn unmark(text: &str) -> (Vec<Line>, Places) {
    let mut places = Places::default();
    let mut lines = Vec::new();
    let mut callers: Vec<u32> = Vec::new();
    let mut here = None;
    for marked in text.lines() {
        let mut line = Line { text: String::new(), place: None };
        let (mut begins, mut calls) = (false, false);
        let mut chars = marked.chars();
        while let Some(c) = chars.next() {
            if c != '\u{1}' {
                line.text.push(c);
                if !c.is_whitespace() && line.place.is_none() {
                    line.place = here;
                }
                continue;
            }
            let mark: String = chars.by_ref().take_while(|&c| c != MARK_END).collect();
            let (kind, at) = mark.split_at(1);
            let place =
                at.split_once(':').and_then(|(file, line)| Some((file.parse().ok()?, line.parse().ok()?)));
            let place = place.map(|(file, line)| Place { file, line, parent: callers.last().copied() });
            match (kind, place) {
                ("L", Some(place)) => {
                    begins = true;
                    here = Some(places.intern(place));
                }
                ("P", Some(place)) => {
                    calls = true;
                    callers.push(places.intern(place));
                }
                _ => {
                    calls = true;
                    here = callers.pop();
                }
            }
        }
        if !line.text.trim().is_empty() || (begins && !calls) {
            line.text.truncate(line.text.trim_end().len());
            lines.push(line);
        }
    }
    (lines, places)
}

/// Adds `.loc` before instructions whose place changes and `.file` at the end, and builds the map.
fn with_locations(lines: Vec<Line>, places: Places, files: Vec<String>) -> Rendered {
    let plain = lines.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect::<String>();
    let mut instructions = vec![false; lines.len() + 1];
    let mut headers = vec![false; lines.len() + 1];
    for statement in scan(&plain) {
        instructions[statement.line] |= statement.kind == Kind::Instruction && statement.first;
        headers[statement.line] |= statement.kind == Kind::Header;
    }
    let mut ptx = String::with_capacity(plain.len() * 2);
    let mut map = Vec::new();
    let mut last = None;
    for (index, line) in lines.into_iter().enumerate() {
        if headers[index + 1] {
            last = None;
        }
        let place = line.place.map(|place| places.list[place as usize]);
        if let Some(Place { file, line, .. }) = place.filter(|_| instructions[index + 1])
            && last != Some((file, line))
        {
            last = Some((file, line));
            ptx.push_str(&format!("    .loc {} {line} 0\n", file + 1));
            map.push(None);
        }
        ptx.push_str(&line.text);
        ptx.push('\n');
        map.push(line.place);
    }
    if map.iter().any(Option::is_none) {
        for (index, file) in files.iter().enumerate() {
            ptx.push_str(&format!(".file {} \"{file}\"\n", index + 1));
            map.push(None);
        }
    }
    Rendered { ptx, map: LineMap::new(files, places.list, map) }
}
