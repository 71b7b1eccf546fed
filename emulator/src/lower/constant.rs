//! Constant expressions, and constants as bit patterns of a type.
//!
//! Integers are 64 bits, signed unless a `U` suffix, a cast or their size makes them unsigned, with C's promotion. Names are
//! resolved by the caller: the value of an expression is a constant, or a register or symbol plus a constant offset.

use crate::ir::{Special, SymbolAddr, Type};
use crate::ptx::ast::{Binary, Expr, Unary, Word};
use crate::ptx::{Error, Result, Span};

use super::scope::Register;
use super::types;

/// A folded constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Const {
    Int { bits: u64, unsigned: bool },
    F32(u32),
    F64(u64),
}

/// What an expression stands for.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Const(Const),
    Register(Register, i64),
    Symbol(SymbolAddr),
    /// `generic(symbol)`
    Generic(SymbolAddr),
    Special(Special),
}

impl Const {
    const fn signed(value: i64) -> Const {
        Const::Int { bits: value as u64, unsigned: false }
    }

    /// The constant as the bit pattern of `ty`, extended to 64 bits as `ty` is signed or not.
    pub(super) fn pattern(self, ty: Type, span: Span) -> Result<u64> {
        let wrong = |what: &str| Error::err(span, format!("a {} operand cannot be {what}", types::name(ty)));
        match self {
            Const::Int { bits, unsigned } => {
                if ty == Type::Pred {
                    // LLVM writes true as -1.
                    return Ok(u64::from(bits != 0));
                }
                if ty.is_float() {
                    let hint = if ty.bytes() == 2 || ty != Type::F32 && ty.bytes() == 4 {
                        "a constant (move its bits to a register first)"
                    } else {
                        "an integer constant (write 0f… or 0d…)"
                    };
                    return wrong(hint);
                }
                let width = (ty.bytes() * 8).min(64);
                let shift = 64 - width;
                let zero = bits << shift >> shift;
                let sign = ((bits << shift) as i64 >> shift) as u64;
                let fits = zero == bits || (!unsigned && sign == bits);
                if !fits {
                    return wrong("a constant that does not fit in it");
                }
                Ok(if ty.is_signed() { sign } else { zero })
            }
            Const::F32(bits) => match ty {
                Type::F32 | Type::B32 | Type::TF32 => Ok(u64::from(bits)),
                Type::F64 => Ok(f64::from(f32::from_bits(bits)).to_bits()),
                _ => wrong("a single-precision constant"),
            },
            Const::F64(bits) => match ty {
                Type::F64 | Type::B64 => Ok(bits),
                Type::F32 | Type::TF32 => Ok(u64::from((f64::from_bits(bits) as f32).to_bits())),
                _ => wrong("a double-precision constant"),
            },
        }
    }

    /// An integer as i64 (wrapping for large unsigned values).
    fn int(self, span: Span) -> Result<(u64, bool)> {
        match self {
            Const::Int { bits, unsigned } => Ok((bits, unsigned)),
            _ => Error::err(span, "expected an integer constant"),
        }
    }
}

/// Folds an expression; `resolve` looks names up.
pub(super) fn fold<'a>(expr: &Expr<'a>, span: Span, resolve: &mut dyn Names<'a>) -> Result<Value> {
    Ok(match expr {
        Expr::Int { value, unsigned } => Value::Const(Const::Int { bits: *value, unsigned: *unsigned }),
        Expr::F32(bits) => Value::Const(Const::F32(*bits)),
        Expr::F64(bits) => Value::Const(Const::F64(*bits)),
        Expr::Name(name) => resolve.name(*name)?,
        Expr::Member(name, member) => resolve.member(*name, *member)?,
        Expr::Generic(name) => match resolve.name(*name)? {
            Value::Symbol(symbol) => Value::Generic(symbol),
            _ => return Error::err(name.span, format!("`{}` is not a variable", name.text)),
        },
        Expr::Unary(op, inner) => {
            let value = constant(fold(inner, span, resolve)?, span)?;
            Value::Const(unary(*op, value, span)?)
        }
        Expr::Binary(at, op, pair) => {
            let left = fold(&pair.0, span, resolve)?;
            let right = fold(&pair.1, span, resolve)?;
            binary(*op, left, right, *at)?
        }
        Expr::Select(parts) => {
            let (test, _) = constant(fold(&parts.0, span, resolve)?, span)?.int(span)?;
            fold(if test != 0 { &parts.1 } else { &parts.2 }, span, resolve)?
        }
    })
}

/// How names inside expressions are resolved.
pub(super) trait Names<'a> {
    /// A register, variable or special register.
    fn name(&mut self, name: Word<'a>) -> Result<Value>;
    /// `name.member`
    fn member(&mut self, name: Word<'a>, member: Word<'a>) -> Result<Value>;
}

/// For places where only literals may stand.
pub(super) struct NoNames;

impl<'a> Names<'a> for NoNames {
    fn name(&mut self, name: Word<'a>) -> Result<Value> {
        Error::err(name.span, format!("expected a constant, found `{}`", name.text))
    }

    fn member(&mut self, name: Word<'a>, _: Word<'a>) -> Result<Value> {
        self.name(name)
    }
}

/// An expression of literals with a non-negative integer value.
pub(super) fn literal(expr: &Expr<'_>, span: Span) -> Result<u64> {
    let (bits, unsigned) = constant(fold(expr, span, &mut NoNames)?, span)?.int(span)?;
    if !unsigned && (bits as i64) < 0 {
        return Error::err(span, "expected a number that is not negative");
    }
    Ok(bits)
}

fn constant(value: Value, span: Span) -> Result<Const> {
    match value {
        Value::Const(value) => Ok(value),
        _ => Error::err(span, "only a constant can be added to a register or symbol"),
    }
}

fn unary(op: Unary, value: Const, span: Span) -> Result<Const> {
    if let (Unary::Minus | Unary::Plus, Const::F32(_) | Const::F64(_)) = (op, value) {
        return Ok(match (op, value) {
            (Unary::Minus, Const::F32(bits)) => Const::F32(bits ^ 1 << 31),
            (Unary::Minus, Const::F64(bits)) => Const::F64(bits ^ 1 << 63),
            _ => value,
        });
    }
    let (bits, unsigned) = value.int(span)?;
    Ok(match op {
        Unary::Plus => value,
        Unary::Minus => Const::Int { bits: bits.wrapping_neg(), unsigned: unsigned && bits > 1 << 63 },
        Unary::Complement => Const::Int { bits: !bits, unsigned },
        Unary::Not => Const::signed(i64::from(bits == 0)),
        Unary::CastSigned => Const::Int { bits, unsigned: false },
        Unary::CastUnsigned => Const::Int { bits, unsigned: true },
    })
}

fn binary(op: Binary, left: Value, right: Value, span: Span) -> Result<Value> {
    let offset = |delta: Value| -> Result<i64> {
        let (bits, _) = constant(delta, span)?.int(span)?;
        Ok(if op == Binary::Sub { (bits as i64).wrapping_neg() } else { bits as i64 })
    };
    match (left, right) {
        (Value::Const(a), Value::Const(b)) => Ok(Value::Const(arithmetic(op, a, b, span)?)),
        (Value::Register(reg, at), delta) if matches!(op, Binary::Add | Binary::Sub) => {
            Ok(Value::Register(reg, at.wrapping_add(offset(delta)?)))
        }
        (Value::Symbol(symbol), delta) if matches!(op, Binary::Add | Binary::Sub) => {
            Ok(Value::Symbol(SymbolAddr { offset: symbol.offset.wrapping_add(offset(delta)?), ..symbol }))
        }
        (Value::Generic(symbol), delta) if matches!(op, Binary::Add | Binary::Sub) => {
            Ok(Value::Generic(SymbolAddr { offset: symbol.offset.wrapping_add(offset(delta)?), ..symbol }))
        }
        (delta, base @ (Value::Register(..) | Value::Symbol(_))) if op == Binary::Add => {
            binary(op, base, delta, span)
        }
        _ => Error::err(span, "this is not a constant expression, nor a register or symbol plus a constant"),
    }
}

fn arithmetic(op: Binary, left: Const, right: Const, span: Span) -> Result<Const> {
    if let (Const::F64(a), Const::F64(b)) = (left, right) {
        let (a, b) = (f64::from_bits(a), f64::from_bits(b));
        return Ok(match op {
            Binary::Add => Const::F64((a + b).to_bits()),
            Binary::Sub => Const::F64((a - b).to_bits()),
            Binary::Mul => Const::F64((a * b).to_bits()),
            Binary::Div => Const::F64((a / b).to_bits()),
            Binary::Lt => Const::signed(i64::from(a < b)),
            Binary::Le => Const::signed(i64::from(a <= b)),
            Binary::Gt => Const::signed(i64::from(a > b)),
            Binary::Ge => Const::signed(i64::from(a >= b)),
            Binary::Eq => Const::signed(i64::from(a == b)),
            Binary::Ne => Const::signed(i64::from(a != b)),
            _ => return Error::err(span, "this operator needs integer constants"),
        });
    }
    let ((a, au), (b, bu)) = (left.int(span)?, right.int(span)?);
    let unsigned = au || bu;
    let (sa, sb) = (a as i64, b as i64);
    let flag = |value: bool| Ok(Const::signed(i64::from(value)));
    let order = if unsigned { a.cmp(&b) } else { sa.cmp(&sb) };
    let bits = match op {
        Binary::Mul => a.wrapping_mul(b),
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Div | Binary::Rem if b == 0 => return Error::err(span, "division by zero"),
        Binary::Div if unsigned => a / b,
        Binary::Rem if unsigned => a % b,
        Binary::Div => sa.wrapping_div(sb) as u64,
        Binary::Rem => sa.wrapping_rem(sb) as u64,
        // Amounts of 64 and more shift everything out.
        Binary::Shl => return Ok(Const::Int { bits: if b > 63 { 0 } else { a << b }, unsigned: au }),
        Binary::Shr => {
            let amount = b.min(63);
            let bits = match (au, b > 63) {
                (true, true) => 0,
                (true, false) => a >> amount,
                (false, _) => (sa >> amount) as u64,
            };
            return Ok(Const::Int { bits, unsigned: au });
        }
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Lt => return flag(order.is_lt()),
        Binary::Le => return flag(order.is_le()),
        Binary::Gt => return flag(order.is_gt()),
        Binary::Ge => return flag(order.is_ge()),
        Binary::Eq => return flag(a == b),
        Binary::Ne => return flag(a != b),
        Binary::LogicalAnd => return flag(a != 0 && b != 0),
        Binary::LogicalOr => return flag(a != 0 || b != 0),
    };
    Ok(Const::Int { bits, unsigned })
}
