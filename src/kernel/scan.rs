//! Cuts PTX into statements, just far enough to check a kernel against its table row and to place `.loc`.
//!
//! This is no parser: it knows comments, strings, the block structure and where a statement ends. Operands stay text. The
//! renderer needs to know on which lines an instruction begins (a `.loc` may stand there and nowhere else); the checks
//! need the entry's header, the shared-memory declarations and a few opcodes. Standard library only: `build.rs` includes
//! this file by path.

/// What a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directive at module level: `.version`, `.visible .global …`.
    Module,
    /// The header of a function, up to its opening brace.
    Header,
    /// A directive inside a function: `.reg`, `.shared`, `.pragma`.
    Directive,
    /// A label, with its colon.
    Label,
    /// An instruction, with its guard.
    Instruction,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it is.
    pub kind: Kind,
    /// The line it begins on, from 1.
    pub line: usize,
    /// Whether nothing but blanks stands before it on its line.
    pub first: bool,
    /// Its text without comments, blanks collapsed to one space, without the `;`.
    pub text: String,
}

impl Statement {
    /// The opcode of an instruction, without its guard: `wgmma.mma_async.sync…`.
    pub fn opcode(&self) -> &str {
        let text = match self.text.strip_prefix('@') {
            Some(guarded) => guarded.split_once(' ').map_or("", |(_, rest)| rest),
            None => &self.text,
        };
        text.split(' ').next().unwrap_or("")
    }
}

/// Directives that end with their line instead of a semicolon.
const LINE_DIRECTIVES: [&str; 5] = [".version", ".target", ".address_size", ".file", ".loc"];

/// The statements of `ptx` in order.
pub fn scan(ptx: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut scanner = Scanner { bytes: ptx.as_bytes(), at: 0, line: 1, fresh_line: true };
    let mut depth = 0usize;
    while scanner.skip_blank() {
        let (line, first) = (scanner.line, scanner.fresh_line);
        if depth > 0 && scanner.eat(b'{') {
            depth += 1;
            continue;
        }
        if scanner.eat(b'}') {
            depth = depth.saturating_sub(1);
            continue;
        }
        let (kind, text) = scanner.statement(depth);
        if kind == Kind::Header {
            depth = 1;
        }
        if !text.is_empty() {
            statements.push(Statement { kind, line, first, text });
        }
    }
    statements
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
    /// No token has been seen on this line yet.
    fresh_line: bool,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == b'\n' {
            self.line += 1;
            self.fresh_line = true;
        } else if !byte.is_ascii_whitespace() {
            self.fresh_line = false;
        }
        Some(byte)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let hit = self.peek() == Some(byte);
        if hit {
            self.bump();
        }
        hit
    }

    /// Skips a comment if one begins here.
    fn skip_comment(&mut self) -> bool {
        if self.bytes[self.at..].starts_with(b"//") {
            while self.peek().is_some_and(|byte| byte != b'\n') {
                self.bump();
            }
            return true;
        }
        if self.bytes[self.at..].starts_with(b"/*") {
            self.at += 2;
            while self.peek().is_some() && !self.bytes[self.at..].starts_with(b"*/") {
                self.bump();
            }
            self.at = (self.at + 2).min(self.bytes.len());
            return true;
        }
        false
    }

    /// Skips blanks and comments; false at the end.
    fn skip_blank(&mut self) -> bool {
        while let Some(byte) = self.peek() {
            if byte.is_ascii_whitespace() || byte == b';' {
                self.bump();
            } else if !self.skip_comment() {
                return true;
            }
        }
        false
    }

    /// Reads one statement at block depth `depth`.
    fn statement(&mut self, depth: usize) -> (Kind, String) {
        let mut text = Vec::new();
        let mut nested = 0usize;
        while let Some(byte) = self.peek() {
            if self.skip_comment() {
                push_blank(&mut text);
                continue;
            }
            if byte == b'\n' && LINE_DIRECTIVES.iter().any(|name| first_word_is(&text, name)) {
                break;
            }
            match byte {
                b';' if nested == 0 => {
                    self.bump();
                    break;
                }
                b'{' if depth == 0 && nested == 0 && is_header(&text) => {
                    self.bump();
                    return (Kind::Header, finish(text));
                }
                b':' if depth > 0
                    && nested == 0
                    && is_label(&text)
                    && self.bytes.get(self.at + 1) != Some(&b':') =>
                {
                    self.bump();
                    text.push(b':');
                    return (Kind::Label, finish(text));
                }
                b'{' => nested += 1,
                b'}' if nested == 0 => break,
                b'}' => nested -= 1,
                b'"' => {
                    text.push(byte);
                    self.bump();
                    while let Some(inner) = self.bump() {
                        text.push(inner);
                        if inner == b'"' {
                            break;
                        }
                    }
                    continue;
                }
                _ => {}
            }
            self.bump();
            if byte.is_ascii_whitespace() { push_blank(&mut text) } else { text.push(byte) }
        }
        let kind = match (depth, text.first()) {
            (0, _) => Kind::Module,
            (_, Some(b'.')) => Kind::Directive,
            _ => Kind::Instruction,
        };
        (kind, finish(text))
    }
}

fn push_blank(text: &mut Vec<u8>) {
    if text.last().is_some_and(|&last| last != b' ') {
        text.push(b' ');
    }
}

fn finish(text: Vec<u8>) -> String {
    String::from_utf8_lossy(&text).trim().to_owned()
}

fn first_word_is(text: &[u8], word: &str) -> bool {
    text.split(|&byte| byte == b' ').next() == Some(word.as_bytes())
}

fn is_header(text: &[u8]) -> bool {
    text.split(|byte| byte.is_ascii_whitespace()).any(|word| word == b".entry" || word == b".func")
}

fn is_label(text: &[u8]) -> bool {
    let name = text.trim_ascii();
    !name.is_empty()
        && name.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%'))
}
