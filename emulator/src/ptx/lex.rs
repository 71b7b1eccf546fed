//! Text to tokens.
//!
//! A dotted word (`.shared::cta`, `.m64n8k32`, `.x`) is one token, because PTX uses it as one: nowhere in an operand does a
//! dot mean anything else. `%` starts a name when a letter follows and is the remainder operator otherwise. Numbers are
//! converted here; one that does not fit 64 bits is an error.

use super::{Error, Result, Span};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tok {
    /// Names: letters, digits, `_`, `$`, with an optional leading `%`.
    Word,
    /// A dotted word; the text is without the dot.
    Dot,
    Int {
        value: u64,
        unsigned: bool,
    },
    F32(u32),
    F64(u64),
    /// A quoted string; the text is without the quotes.
    Str,
    /// An operator or bracket, one or two characters.
    Punct,
    End,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub tok: Tok,
    pub text: &'a str,
    pub span: Span,
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    pos: usize,
    line: u32,
    line_start: usize,
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$'
}

/// Splits a text. The last token is always [`Tok::End`].
pub(crate) fn lex(text: &str) -> Result<Vec<Token<'_>>> {
    if text.len() > u32::MAX as usize {
        return Error::err(Span { line: 1, col: 1 }, "the text is larger than 4 GiB");
    }
    let mut lexer = Lexer { text, bytes: text.as_bytes(), pos: 0, line: 1, line_start: 0 };
    let mut tokens = Vec::with_capacity(text.len() / 4);
    loop {
        lexer.skip_blank()?;
        let token = lexer.token()?;
        tokens.push(token);
        if token.tok == Tok::End {
            return Ok(tokens);
        }
    }
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.pos + ahead).copied().unwrap_or(0)
    }

    fn span(&self) -> Span {
        Span { line: self.line, col: (self.pos - self.line_start) as u32 + 1 }
    }

    fn newline(&mut self) {
        self.line += 1;
        self.line_start = self.pos + 1;
    }

    fn skip_blank(&mut self) -> Result<()> {
        while self.pos < self.bytes.len() {
            match self.peek(0) {
                b'\n' => self.newline(),
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => {}
                b'/' if self.peek(1) == b'/' => {
                    while self.pos < self.bytes.len() && self.peek(0) != b'\n' {
                        self.pos += 1;
                    }
                    continue;
                }
                b'/' if self.peek(1) == b'*' => {
                    let start = self.span();
                    self.pos += 2;
                    while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
                        if self.pos >= self.bytes.len() {
                            return Error::err(start, "this comment is not closed");
                        }
                        if self.peek(0) == b'\n' {
                            self.newline();
                        }
                        self.pos += 1;
                    }
                    self.pos += 1;
                }
                // nvcc ends its files with a NUL.
                0 => {}
                _ => return Ok(()),
            }
            self.pos += 1;
        }
        Ok(())
    }

    fn token(&mut self) -> Result<Token<'a>> {
        let (start, span) = (self.pos, self.span());
        let first = self.peek(0);
        let (tok, text) = if start >= self.bytes.len() {
            (Tok::End, "")
        } else if first.is_ascii_digit() {
            self.number(span)?
        } else if is_word(first) || (first == b'%' && is_word(self.peek(1)) && !self.peek(1).is_ascii_digit())
        {
            self.pos += 1;
            self.words();
            (Tok::Word, &self.text[start..self.pos])
        } else if first == b'.' && is_word(self.peek(1)) {
            self.pos += 1;
            self.words();
            while self.peek(0) == b':' && self.peek(1) == b':' && is_word(self.peek(2)) {
                self.pos += 2;
                self.words();
            }
            (Tok::Dot, &self.text[start + 1..self.pos])
        } else if first == b'"' {
            self.string(span)?
        } else {
            let two = [first, self.peek(1)];
            let len = if matches!(&two, b"<<" | b">>" | b"<=" | b">=" | b"==" | b"!=" | b"&&" | b"||") {
                2
            } else {
                1
            };
            if !b"{}[]()<>,;:+-*/%!~|&^=?@".contains(&first) {
                let shown = self.text[start..].chars().next().unwrap_or('?');
                return Error::err(span, format!("unexpected character {shown:?}"));
            }
            self.pos += len;
            (Tok::Punct, &self.text[start..self.pos])
        };
        Ok(Token { tok, text, span })
    }

    fn words(&mut self) {
        while is_word(self.peek(0)) {
            self.pos += 1;
        }
    }

    fn string(&mut self, span: Span) -> Result<(Tok, &'a str)> {
        self.pos += 1;
        let start = self.pos;
        while self.peek(0) != b'"' {
            if self.pos >= self.bytes.len() || self.peek(0) == b'\n' {
                return Error::err(span, "this string is not closed");
            }
            self.pos += 1;
        }
        self.pos += 1;
        Ok((Tok::Str, &self.text[start..self.pos - 1]))
    }

    /// Decimal, `0x`, `0b`, octal `0…`, with an optional `U`; `0f` + 8 and `0d` + 16 hex digits; decimal fractions.
    fn number(&mut self, span: Span) -> Result<(Tok, &'a str)> {
        let start = self.pos;
        self.words();
        let word = &self.text[start..self.pos];
        let bad = |what: &str| Error::err(span, format!("`{what}` is not a number"));
        let lower = word.as_bytes().get(1).map_or(0, |b| b.to_ascii_lowercase());
        if word.starts_with('0') && matches!(lower, b'f' | b'd') {
            let digits = &word[2..];
            let bits = u64::from_str_radix(digits, 16);
            return match (lower, digits.len(), bits) {
                (b'f', 8, Ok(bits)) => Ok((Tok::F32(bits as u32), word)),
                (b'd', 16, Ok(bits)) => Ok((Tok::F64(bits), word)),
                (b'f', ..) => Error::err(span, format!("`{word}`: 0f takes exactly 8 hexadecimal digits")),
                _ => Error::err(span, format!("`{word}`: 0d takes exactly 16 hexadecimal digits")),
            };
        }
        let fraction = self.peek(0) == b'.' && self.peek(1).is_ascii_digit();
        let decimal = !word.starts_with("0x") && !word.starts_with("0X");
        let exponent = decimal && word.bytes().any(|b| matches!(b, b'e' | b'E'));
        if decimal && (fraction || exponent) {
            if fraction {
                self.pos += 1;
                self.words();
            }
            if matches!(self.bytes[self.pos - 1], b'e' | b'E') && matches!(self.peek(0), b'+' | b'-') {
                self.pos += 1;
                self.words();
            }
            let text = &self.text[start..self.pos];
            return match text.parse::<f64>() {
                Ok(value) => Ok((Tok::F64(value.to_bits()), text)),
                Err(_) => bad(text),
            };
        }
        let (digits, unsigned) = match word.strip_suffix(['u', 'U']) {
            Some(rest) => (rest, true),
            None => (word, false),
        };
        let (digits, radix) = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
            [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
            [b'0', _, ..] => (&digits[1..], 8),
            _ => (digits, 10),
        };
        match u64::from_str_radix(digits, radix) {
            Ok(value) => Ok((Tok::Int { value, unsigned: unsigned || value > i64::MAX as u64 }, word)),
            Err(e) if *e.kind() == std::num::IntErrorKind::PosOverflow => {
                Error::err(span, format!("`{word}` does not fit in 64 bits"))
            }
            Err(_) => bad(word),
        }
    }
}
