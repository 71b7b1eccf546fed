//! Syntax tree to typed module.
//!
//! One file per concern: `constant` folds expressions, `scope` knows names, `layout` places variables, `body` walks a
//! kernel's statements, `operand` and `modifiers` are what the instruction families share, and one file per family
//! says which modifiers and operands each opcode takes and what it becomes in [`crate::ir`]. Everything a family does not name
//! is an error at the place where it stands.
//!
//! The checks are those of ptxas where they protect the machine (operand counts, register widths, integer against
//! floating point, state spaces of symbols, ranges of immediates); the machine may rely on them.

mod arith;
mod async_copy;
mod barrier;
mod body;
mod bulk;
mod call;
mod compare;
mod constant;
mod control;
mod convert;
mod family;
mod layout;
mod matrix;
mod mbarrier;
mod memory;
mod modifiers;
mod module;
mod multimem;
mod operand;
mod packed;
mod rare;
mod reduce;
mod scope;
mod special;
mod tensormap;
mod types;
mod warp;
mod wgmma;

use crate::ir::Module;
use crate::ptx::{self, ParseError};

impl Module {
    /// Reads a PTX module for `sm_90a`. `name` stands for the text in errors and reports (usually a file name).
    ///
    /// # Errors
    ///
    /// Syntax that is not PTX, and any instruction, modifier or operand that the emulator does not know: nothing is skipped.
    pub fn parse(name: &str, text: &str) -> Result<Module, ParseError> {
        ptx::parse(text)
            .and_then(|ast| module::lower(name, text, &ast, |_, error| Err(error)))
            .map_err(|error| ParseError::new(name, text, &error))
    }

    /// The same, kernel by kernel: those that the emulator cannot run are left out, each with its reason, and the others stay.
    ///
    /// # Errors
    ///
    /// Syntax that is not PTX, and what is wrong outside of kernels.
    pub fn parse_each(name: &str, text: &str) -> Result<(Module, Vec<(String, ParseError)>), ParseError> {
        let mut refused = Vec::new();
        let refuse = |kernel: &str, error: Box<ptx::Error>| {
            refused.push((kernel.to_owned(), ParseError::new(name, text, &error)));
            Ok(())
        };
        let module = ptx::parse(text)
            .and_then(|ast| module::lower(name, text, &ast, refuse))
            .map_err(|error| ParseError::new(name, text, &error))?;
        Ok((module, refused))
    }
}
