//! Operands by what the instruction wants: a source or destination of a type, a predicate, an address, a vector.

use crate::ir::{Addr, Op, PredSrc, Reg, Space, Special, Src, SymbolAddr, Type};
use crate::ptx::ast::{Expr, Operand, OperandKind};
use crate::ptx::{Error, Result, Span};

use super::constant::{Const, Value, fold};
use super::family::Line;
use super::scope::Register;
use super::{special, types};

fn expected<T>(span: Span, what: &str) -> Result<T> {
    Error::err(span, format!("expected {what}"))
}

impl<'a> Line<'_, 'a> {
    fn value(&mut self, operand: &'a Operand<'a>, what: &str) -> Result<Value> {
        match &operand.kind {
            OperandKind::Expr(expr) => fold(expr, operand.span, self.body),
            _ => expected(operand.span, what),
        }
    }

    /// A source of exactly this type's size.
    pub(super) fn src(&mut self, operand: &'a Operand<'a>, ty: Type) -> Result<Src> {
        self.source(operand, ty, false)
    }

    /// The source of a `mov` and its like, which alone may be a special register or the address of a variable.
    pub(super) fn moved(&mut self, operand: &'a Operand<'a>, ty: Type) -> Result<Src> {
        match self.value(operand, "a register or constant")? {
            Value::Special(special) => {
                let fits = match special::is_wide(special) {
                    true => ty.bytes() == 8 || special == Special::GridId,
                    false => ty.bytes() <= 4,
                };
                if fits {
                    Ok(Src::Special(special))
                } else {
                    expected(operand.span, "a register of this type's size")
                }
            }
            Value::Symbol(symbol) | Value::Generic(symbol)
                if matches!(ty.bytes(), 4 | 8) && !ty.is_float() =>
            {
                Ok(Src::Symbol(symbol))
            }
            _ => self.src(operand, ty),
        }
    }

    /// A predicate as a value: a register, 0 or 1, or a negated register, which takes an instruction of its own.
    pub(super) fn pred_value(&mut self, operand: &'a Operand<'a>) -> Result<Src> {
        let OperandKind::Not(name) = &operand.kind else { return self.src(operand, Type::Pred) };
        let a = Src::Reg(Reg::Pred(self.body.predicate(*name)?));
        let Reg::Pred(dst) = self.temporary(Type::Pred, "negated")? else {
            return expected(operand.span, "a predicate register");
        };
        self.emit(Op::PredNot { dst, a })?;
        Ok(Src::Reg(Reg::Pred(dst)))
    }

    /// A source whose register may be wider than the type (`st`, `cvt`).
    pub(super) fn wide_src(&mut self, operand: &'a Operand<'a>, ty: Type) -> Result<Src> {
        self.source(operand, ty, true)
    }

    fn source(&mut self, operand: &'a Operand<'a>, ty: Type, wider: bool) -> Result<Src> {
        let span = operand.span;
        match self.value(operand, "a register or constant")? {
            Value::Const(value) => Ok(Src::Imm(value.pattern(ty, span)?)),
            Value::Register(Register::One(reg, declared), 0) => {
                Self::fits(declared, ty, wider, span)?;
                Ok(Src::Reg(reg))
            }
            Value::Register(_, 0) => Error::err(span, "a vector or .b128 register cannot stand here"),
            Value::Register(..) => {
                Error::err(span, "a constant can be added to a register only in an address")
            }
            Value::Special(_) => Error::err(span, "a special register can only be read by mov"),
            Value::Symbol(_) | Value::Generic(_) => {
                Error::err(span, "the address of a variable must go through mov to a register")
            }
        }
    }

    fn fits(declared: Type, ty: Type, wider: bool, span: Span) -> Result<()> {
        if types::fits(declared, ty, wider) {
            return Ok(());
        }
        let message =
            format!("a {} register does not fit a {} operand", types::name(declared), types::name(ty));
        Error::err(span, message)
    }

    fn register(&mut self, operand: &'a Operand<'a>, ty: Type, wider: bool) -> Result<Reg> {
        match self.value(operand, "a register")? {
            Value::Register(Register::One(reg, declared), 0) => {
                Self::fits(declared, ty, wider, operand.span)?;
                Ok(reg)
            }
            _ => expected(operand.span, "a register"),
        }
    }

    /// A destination of exactly this type's size.
    pub(super) fn dst(&mut self, operand: &'a Operand<'a>, ty: Type) -> Result<Reg> {
        self.register(operand, ty, false)
    }

    /// A destination that may be wider than the type (`ld`, `cvt`).
    pub(super) fn wide_dst(&mut self, operand: &'a Operand<'a>, ty: Type) -> Result<Reg> {
        self.register(operand, ty, true)
    }

    /// A destination or `_`.
    pub(super) fn dst_or_sink(&mut self, operand: &'a Operand<'a>, ty: Type) -> Result<Option<Reg>> {
        match operand.kind {
            OperandKind::Sink => Ok(None),
            _ => self.dst(operand, ty).map(Some),
        }
    }

    /// A register that must live in the 32-bit file, as its index.
    pub(super) fn reg32(&mut self, operand: &'a Operand<'a>, ty: Type) -> Result<u32> {
        match self.dst(operand, ty)? {
            Reg::B32(index) => Ok(index),
            _ => expected(operand.span, "a 32-bit register"),
        }
    }

    /// A `.b128` register or a pair of 64-bit ones, if the operand is the former.
    pub(super) fn wide_register(&mut self, operand: &'a Operand<'a>) -> Result<(Reg, Reg)> {
        match self.value(operand, "a .b128 register")? {
            Value::Register(Register::Wide(low, high), 0) => Ok((low, high)),
            _ => expected(operand.span, "a .b128 register"),
        }
    }

    /// A predicate destination.
    pub(super) fn pred(&mut self, operand: &'a Operand<'a>) -> Result<u32> {
        match &operand.kind {
            OperandKind::Expr(Expr::Name(name)) => self.body.predicate(*name),
            _ => expected(operand.span, "a predicate register"),
        }
    }

    /// A predicate destination or `_`.
    pub(super) fn pred_or_sink(&mut self, operand: &'a Operand<'a>) -> Result<Option<u32>> {
        match operand.kind {
            OperandKind::Sink => Ok(None),
            _ => self.pred(operand).map(Some),
        }
    }

    /// Whether an operand names a predicate register.
    pub(super) fn is_predicate(&mut self, operand: &'a Operand<'a>) -> bool {
        self.pred(operand).is_ok()
    }

    /// A predicate source, possibly negated.
    pub(super) fn pred_src(&mut self, operand: &'a Operand<'a>) -> Result<PredSrc> {
        match &operand.kind {
            OperandKind::Not(name) => Ok(PredSrc { reg: self.body.predicate(*name)?, negated: true }),
            _ => Ok(PredSrc { reg: self.pred(operand)?, negated: false }),
        }
    }

    /// `p|q`, or `p` alone.
    pub(super) fn pair(&self, operand: &'a Operand<'a>) -> (&'a Operand<'a>, Option<&'a Operand<'a>>) {
        match &operand.kind {
            OperandKind::Pair(pair) => (&pair.0, Some(&pair.1)),
            _ => (operand, None),
        }
    }

    /// The elements of `{…}`, or the operand itself when it is no vector.
    pub(super) fn elements(&self, operand: &'a Operand<'a>) -> &'a [Operand<'a>] {
        match &operand.kind {
            OperandKind::Vector(list) => list,
            _ => std::slice::from_ref(operand),
        }
    }

    /// The elements of `{…}`, which must be this many.
    pub(super) fn vector(&self, operand: &'a Operand<'a>, count: usize) -> Result<&'a [Operand<'a>]> {
        let list = self.elements(operand);
        if list.len() != count {
            return Error::err(operand.span, format!("expected {count} elements, found {}", list.len()));
        }
        Ok(list)
    }

    /// An integer constant.
    pub(super) fn integer(&mut self, operand: &'a Operand<'a>) -> Result<i64> {
        match self.value(operand, "an integer constant")? {
            Value::Const(Const::Int { bits, .. }) => Ok(bits as i64),
            _ => expected(operand.span, "an integer constant"),
        }
    }

    /// An integer constant inside a range.
    pub(super) fn integer_in(
        &mut self,
        operand: &'a Operand<'a>,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<i64> {
        let value = self.integer(operand)?;
        if range.contains(&value) {
            return Ok(value);
        }
        let (least, most) = (range.start(), range.end());
        Error::err(operand.span, format!("expected a constant from {least} to {most}, found {value}"))
    }

    /// `[base + offset]`.
    pub(super) fn addr(&mut self, operand: &'a Operand<'a>) -> Result<Addr> {
        match &operand.kind {
            OperandKind::Address(list) if list.len() == 1 => self.base(&list[0]),
            _ => expected(operand.span, "an address such as [base+16]"),
        }
    }

    /// `[base + offset]` in a state space. A symbol settles the space of an access written without one; a symbol of another
    /// space is an error.
    pub(super) fn addr_in(&mut self, operand: &'a Operand<'a>, space: Space) -> Result<(Addr, Space)> {
        let addr = self.addr(operand)?;
        let symbol = match addr.base {
            Src::Symbol(symbol) => symbol,
            // ptxas refuses both of these.
            Src::Imm(_) if space != Space::Local => {
                return Error::err(operand.span, "only local memory can be addressed by a constant");
            }
            Src::Reg(Reg::B32(_)) if matches!(space, Space::Generic | Space::Global) => {
                return Error::err(operand.span, "an address in this space needs a 64-bit register");
            }
            _ => return Ok((addr, space)),
        };
        let same = match space {
            Space::Generic if !matches!(symbol.space, Space::Const | Space::Param) => {
                return Ok((addr, symbol.space));
            }
            Space::SharedCluster => symbol.space == Space::Shared,
            // Arguments of a call live in local memory.
            Space::Param => matches!(symbol.space, Space::Param | Space::Local),
            _ => symbol.space == space,
        };
        if !same {
            let message =
                format!("the variable is in {:?} memory, the access is to {space:?} memory", symbol.space);
            return Error::err(operand.span, message);
        }
        Ok((addr, if space == Space::Param { symbol.space } else { space }))
    }

    /// The inside of an address.
    pub(super) fn base(&mut self, operand: &'a Operand<'a>) -> Result<Addr> {
        let span = operand.span;
        match self.value(operand, "a register, variable or constant")? {
            Value::Register(Register::One(reg, declared), offset) => {
                let ty = if declared.bytes() == 4 { Type::U32 } else { Type::U64 };
                Self::fits(declared, ty, false, span)?;
                Ok(Addr { base: Src::Reg(reg), offset })
            }
            Value::Symbol(symbol) => {
                let base = Src::Symbol(SymbolAddr { offset: 0, ..symbol });
                Ok(Addr { base, offset: symbol.offset })
            }
            Value::Const(value @ Const::Int { .. }) => Ok(Addr {
                base: Src::Imm(value.pattern(Type::U64, span).or_else(|_| value.pattern(Type::S64, span))?),
                offset: 0,
            }),
            _ => expected(span, "a register, variable or constant as an address"),
        }
    }

    /// A cache policy: checked, and without effect.
    pub(super) fn policy(&mut self, operand: &'a Operand<'a>) -> Result<Src> {
        self.src(operand, Type::B64)
    }
}
