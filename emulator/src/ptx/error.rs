//! What is wrong with a PTX text, and where.
//!
//! Inside the front end an error is a place and a message ([`Error`]); [`ParseError`] adds the file name and the text of
//! the line once, at the end. A message says what was found and, where a list is short, what would have been accepted.

use std::fmt;

/// A place in the PTX text: 1-based line and column (in bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub line: u32,
    pub col: u32,
}

/// An error before the file name and line text are known.
#[derive(Debug)]
pub(crate) struct Error {
    pub span: Span,
    pub message: String,
}

/// Boxed: the error path is rare and `Result` travels through every function.
pub(crate) type Result<T> = std::result::Result<T, Box<Error>>;

impl Error {
    pub(crate) fn new(span: Span, message: impl Into<String>) -> Box<Error> {
        Box::new(Error { span, message: message.into() })
    }

    /// Shorthand for `Err(Error::new(…))`.
    pub(crate) fn err<T>(span: Span, message: impl Into<String>) -> Result<T> {
        Err(Error::new(span, message))
    }
}

/// Why a PTX module was refused: syntax, an unknown instruction or modifier, an operand that does not fit.
///
/// Displays as `file:line:column: message`, followed by the line itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    file: String,
    line: u32,
    column: u32,
    message: String,
    text: String,
}

impl ParseError {
    pub(crate) fn new(file: &str, source: &str, error: &Error) -> ParseError {
        let text = source.lines().nth(error.span.line.saturating_sub(1) as usize).unwrap_or("");
        ParseError {
            file: file.to_owned(),
            line: error.span.line,
            column: error.span.col,
            message: error.message.clone(),
            text: text.trim_end().chars().take(200).collect(),
        }
    }

    /// The name the module was parsed under.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// 1-based line in the PTX text.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// 1-based column, in bytes.
    pub fn column(&self) -> u32 {
        self.column
    }

    /// What is wrong, without place or text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The offending line (at most 200 characters of it).
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if !self.text.is_empty() {
            write!(f, "\n    | {}", self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ParseError {}
