//! PTX text to syntax tree: a lexer and one generic grammar.
//!
//! An instruction is an opcode, a list of dotted modifiers and a list of operand trees; nothing here knows what any opcode
//! means, so a new instruction needs no change in this folder. Meaning, types and names are the work of [`crate::lower`].
//! The grammar is what ptxas accepts rather than what the manual draws: modifiers in any order, braces nested freely,
//! registers and labels with word names, `_` sinks, constant expressions wherever a constant may stand.
//!
//! No input may panic or exhaust the stack: nesting and expression sizes are bounded, and sizes that a text can ask for
//! (register ranges, arrays) are bounded where they are laid out.
//!
//! Source: PTX ISA, chapters "Syntax" and "Directives".

pub(crate) mod ast;
mod declare;
mod error;
mod expression;
mod lex;
mod parse;

pub use error::ParseError;
pub(crate) use error::{Error, Result, Span};
pub(crate) use parse::parse;
