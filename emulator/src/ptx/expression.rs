//! Operands and constant expressions.
//!
//! An operand is a sink, a negated predicate, a pair, a vector, an address, an argument list or an expression. Expressions
//! follow C's precedence, as the manual says of constant expressions; a register or symbol in one may only be added to
//! ([`crate::lower`] sees to that). Operators per expression and nesting are bounded, so that neither parsing nor dropping the
//! tree can exhaust the stack.

use super::ast::{Binary, Expr, Operand, OperandKind, Unary, Word};
use super::lex::Tok;
use super::parse::Parser;
use super::{Error, Result};

/// Deepest nesting of brackets inside one operand.
const MAX_DEPTH: u32 = 40;
/// Most operators in one expression.
const MAX_OPERATORS: u32 = 400;

/// Binding strength and meaning of a binary operator.
fn binary(text: &str) -> Option<(u8, Binary)> {
    Some(match text {
        "*" => (10, Binary::Mul),
        "/" => (10, Binary::Div),
        "%" => (10, Binary::Rem),
        "+" => (9, Binary::Add),
        "-" => (9, Binary::Sub),
        "<<" => (8, Binary::Shl),
        ">>" => (8, Binary::Shr),
        "<" => (7, Binary::Lt),
        "<=" => (7, Binary::Le),
        ">" => (7, Binary::Gt),
        ">=" => (7, Binary::Ge),
        "==" => (6, Binary::Eq),
        "!=" => (6, Binary::Ne),
        "&" => (5, Binary::And),
        "^" => (4, Binary::Xor),
        "|" => (3, Binary::Or),
        "&&" => (2, Binary::LogicalAnd),
        "||" => (1, Binary::LogicalOr),
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    /// Comma-separated operands up to (not including) `end`; none is fine.
    pub(super) fn operands(&mut self, end: &str, depth: u32) -> Result<Vec<Operand<'a>>> {
        let mut list = Vec::new();
        if self.at(end) {
            return Ok(list);
        }
        loop {
            list.push(self.operand(depth)?);
            if !self.eat(",") {
                return Ok(list);
            }
        }
    }

    fn operand(&mut self, depth: u32) -> Result<Operand<'a>> {
        let first = self.peek();
        let span = first.span;
        if depth > MAX_DEPTH {
            return Error::err(span, format!("operands nested more than {MAX_DEPTH} deep"));
        }
        let kind = match (first.tok, first.text) {
            (Tok::Punct, "{") => {
                self.next();
                let list = self.operands("}", depth + 1)?;
                self.expect("}")?;
                OperandKind::Vector(list)
            }
            (Tok::Punct, "[") => {
                self.next();
                let list = self.operands("]", depth + 1)?;
                self.expect("]")?;
                OperandKind::Address(list)
            }
            (Tok::Punct, "!") if self.peek_at(1).tok == Tok::Word => {
                self.next();
                OperandKind::Not(self.word("a predicate register")?)
            }
            (Tok::Word, "_") => {
                self.next();
                OperandKind::Sink
            }
            // `(param0)` of a call; a parenthesised constant starts with a number or an operator.
            (Tok::Punct, "(") if self.call_list() => {
                self.next();
                let list = self.operands(")", depth + 1)?;
                self.expect(")")?;
                OperandKind::List(list)
            }
            (Tok::Word, _) if self.peek_at(1).text == "|" => {
                OperandKind::Expr(Expr::Name(self.word("a register")?))
            }
            _ => {
                self.operators = 0;
                OperandKind::Expr(self.expression(0, depth)?)
            }
        };
        let left = Operand { span, kind };
        let pairs = matches!(left.kind, OperandKind::Expr(Expr::Name(_)) | OperandKind::Sink);
        if pairs && self.at("|") {
            self.next();
            let right = self.operand(depth + 1)?;
            return Ok(Operand { span, kind: OperandKind::Pair(Box::new((left, right))) });
        }
        Ok(left)
    }

    fn call_list(&self) -> bool {
        self.call && matches!(self.peek_at(1).tok, Tok::Word | Tok::Punct | Tok::Int { .. })
    }

    pub(super) fn constant(&mut self) -> Result<Expr<'a>> {
        self.operators = 0;
        self.expression(0, 0)
    }

    fn expression(&mut self, strength: u8, depth: u32) -> Result<Expr<'a>> {
        let mut left = self.primary(depth)?;
        loop {
            let op = self.peek();
            if op.tok != Tok::Punct {
                return Ok(left);
            }
            if op.text == "?" && strength == 0 {
                self.next();
                self.count()?;
                let yes = self.expression(0, depth + 1)?;
                self.expect(":")?;
                let no = self.expression(0, depth + 1)?;
                left = Expr::Select(Box::new((left, yes, no)));
                continue;
            }
            let Some((binds, kind)) = binary(op.text).filter(|(binds, _)| *binds > strength) else {
                return Ok(left);
            };
            self.next();
            self.count()?;
            let right = self.expression(binds, depth + 1)?;
            left = Expr::Binary(op.span, kind, Box::new((left, right)));
        }
    }

    fn count(&mut self) -> Result<()> {
        self.operators += 1;
        if self.operators > MAX_OPERATORS {
            return Error::err(
                self.peek().span,
                format!("more than {MAX_OPERATORS} operators in one expression"),
            );
        }
        Ok(())
    }

    fn primary(&mut self, depth: u32) -> Result<Expr<'a>> {
        let token = self.next();
        if depth > MAX_DEPTH {
            return Error::err(token.span, format!("an expression nested more than {MAX_DEPTH} deep"));
        }
        let word = Word { text: token.text, span: token.span };
        match (token.tok, token.text) {
            (Tok::Int { value, unsigned }, _) => Ok(Expr::Int { value, unsigned }),
            (Tok::F32(bits), _) => Ok(Expr::F32(bits)),
            (Tok::F64(bits), _) => Ok(Expr::F64(bits)),
            (Tok::Word, "generic") if self.at("(") => {
                self.next();
                let name = self.word("a variable")?;
                self.expect(")")?;
                Ok(Expr::Generic(name))
            }
            (Tok::Word, _) => {
                if self.peek().tok == Tok::Dot {
                    let member = self.next();
                    return Ok(Expr::Member(word, Word { text: member.text, span: member.span }));
                }
                Ok(Expr::Name(word))
            }
            (Tok::Punct, "(") => {
                let cast = match (self.peek().tok, self.peek().text) {
                    (Tok::Dot, "s64") => Some(Unary::CastSigned),
                    (Tok::Dot, "u64") => Some(Unary::CastUnsigned),
                    _ => None,
                };
                if let Some(cast) = cast {
                    self.next();
                    self.expect(")")?;
                    self.count()?;
                    return Ok(Expr::Unary(cast, Box::new(self.primary(depth + 1)?)));
                }
                let inner = self.expression(0, depth + 1)?;
                self.expect(")")?;
                Ok(inner)
            }
            (Tok::Punct, "-" | "+" | "~" | "!") => {
                let op = match token.text {
                    "-" => Unary::Minus,
                    "+" => Unary::Plus,
                    "~" => Unary::Complement,
                    _ => Unary::Not,
                };
                self.count()?;
                Ok(Expr::Unary(op, Box::new(self.primary(depth + 1)?)))
            }
            _ => {
                Error::err(token.span, format!("expected an operand, found {}", super::parse::shown(&token)))
            }
        }
    }
}
