//! Declarations: registers, variables and parameters.
//!
//! All share one shape: a state space, then alignment, vector width and type in any order, then names, each with a register
//! range `<n>` or array dimensions, and an initialiser.

use super::ast::{Init, Variable, Word};
use super::lex::Tok;
use super::parse::Parser;
use super::{Error, Result};

/// Deepest nesting of braces in an initialiser.
const MAX_DEPTH: u32 = 16;

/// Whether a dotted word names a state space of a declaration.
pub(super) fn is_space(text: &str) -> bool {
    matches!(text, "reg" | "global" | "const" | "shared" | "shared::cta" | "local" | "param")
}

impl<'a> Parser<'a> {
    /// One or several declarations after linkage words, through the closing `;` (not for parameters).
    pub(super) fn variables(&mut self, external: bool, out: &mut impl FnMut(Variable<'a>)) -> Result<()> {
        let mut first = self.variable(external)?;
        loop {
            let (space, ty) = (first.space, first.ty);
            let (align, vector) = (first.align, first.vector);
            if space.text != "reg" && self.eat("=") {
                first.init = Some(self.init(0)?);
            }
            out(first);
            if !self.eat(",") {
                break;
            }
            first = self.declarator(space, external, align, vector, ty)?;
        }
        self.expect(";")
    }

    /// A parenthesised parameter list.
    pub(super) fn parameters(&mut self) -> Result<Vec<Variable<'a>>> {
        let mut list = Vec::new();
        self.expect("(")?;
        while !self.at(")") {
            list.push(self.variable(false)?);
            if !self.eat(",") {
                break;
            }
        }
        self.expect(")")?;
        Ok(list)
    }

    fn variable(&mut self, external: bool) -> Result<Variable<'a>> {
        let space = self.dot("a state space such as `.reg`")?;
        if !is_space(space.text) {
            return Error::err(space.span, format!("`.{}` is not a state space", space.text));
        }
        let (mut align, mut vector, mut ty, mut managed) = (None, 1, None, false);
        while self.peek().tok == Tok::Dot {
            let word = self.dot("a type")?;
            match word.text {
                "align" => align = Some(self.int("an alignment")?),
                "v2" => vector = 2,
                "v4" => vector = 4,
                // `.ptr .global .align 16` describes what a pointer points to: no effect on the parameter itself.
                "ptr" => {
                    while self.peek().tok == Tok::Dot {
                        if self.dot("an attribute")?.text == "align" {
                            self.int("an alignment")?;
                        }
                    }
                }
                "attribute" => {
                    self.expect("(")?;
                    while !self.at(")") && self.peek().tok != Tok::End {
                        managed |= self.next().text == "managed";
                    }
                    self.expect(")")?;
                }
                _ if ty.is_none() => ty = Some(word),
                _ => return Error::err(word.span, format!("unexpected `.{}` in a declaration", word.text)),
            }
        }
        let Some(ty) = ty else {
            return Error::err(self.peek().span, "a declaration needs a type");
        };
        Ok(Variable { managed, ..self.declarator(space, external, align, vector, ty)? })
    }

    fn declarator(
        &mut self,
        space: Word<'a>,
        external: bool,
        align: Option<u64>,
        vector: u32,
        ty: Word<'a>,
    ) -> Result<Variable<'a>> {
        let name = self.word("a name")?;
        let mut variable = Variable {
            name,
            space,
            external,
            align,
            vector,
            ty,
            range: None,
            dims: Vec::new(),
            init: None,
            managed: false,
        };
        if self.eat("<") {
            variable.range = Some(self.int("a register count")?);
            self.expect(">")?;
        }
        while self.eat("[") {
            let size = if self.at("]") { None } else { Some(self.constant()?) };
            variable.dims.push(size);
            self.expect("]")?;
        }
        Ok(variable)
    }

    fn init(&mut self, depth: u32) -> Result<Init<'a>> {
        if !self.at("{") {
            return Ok(Init::Value(self.constant()?));
        }
        if depth > MAX_DEPTH {
            return Error::err(self.peek().span, format!("initialisers nested more than {MAX_DEPTH} deep"));
        }
        self.next();
        let mut list = Vec::new();
        while !self.at("}") {
            list.push(self.init(depth + 1)?);
            if !self.eat(",") {
                break;
            }
        }
        self.expect("}")?;
        Ok(Init::List(list))
    }
}
