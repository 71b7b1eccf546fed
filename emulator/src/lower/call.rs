//! Calls.
//!
//! A direct call is expanded in place: the callee's parameters stand for the caller's argument variables (PTX passes by
//! value and a callee may not write its inputs, so they can share memory), and `ret` becomes a branch behind the body. A call
//! through a register becomes a choice among the functions it may reach; the address of a function is a number that stands for it.

use crate::ir::{Addr, Cmp, Op, PredSrc, Reg, Space, Src, SymbolAddr, Type};
use crate::ptx::ast::{Expr, Function, Operand, OperandKind, Variable, Word};
use crate::ptx::{Error, Result};

use super::control::label;
use super::family::Line;
use super::scope::{Mark, Register, Scopes};
use super::types;

use Type::*;

/// Deepest chain of calls; also what stops recursion.
const MAX_CALLS: usize = 24;

/// `call[.uni] [(results),] function [, (arguments)]`
pub(super) fn call(l: &mut Line<'_, '_>) -> Result<()> {
    l.m.take("uni");
    let operands = l.between(1, 4)?;
    let (results, rest): (&[Operand<'_>], _) = match &operands[0].kind {
        OperandKind::List(list) => (list, &operands[1..]),
        _ => (&[], operands),
    };
    let Some((callee, rest)) = rest.split_first() else {
        return l.refuse("no function is named");
    };
    let (arguments, table): (&[Operand<'_>], _) = match rest {
        [] => (&[], None),
        [Operand { kind: OperandKind::List(list), .. }] => (list, None),
        [Operand { kind: OperandKind::List(list), .. }, table] => (list, Some(label(table)?)),
        [table] => (&[], Some(label(table)?)),
        _ => return l.refuse("too many operands"),
    };
    let name = label(callee)?;
    let Some(function) = l.body.context.function(name.text) else {
        let Some(table) = table else {
            return Error::err(
                name.span,
                format!(
                    "`{}` is no function; a call through it names a .callprototype or .calltargets",
                    name.text
                ),
            );
        };
        return indirect(l, callee, table, results, arguments);
    };
    if function.body.is_none() {
        return external(l, name, results);
    }
    if l.body.returns.len() >= MAX_CALLS {
        return Error::err(
            name.span,
            format!("calls nested more than {MAX_CALLS} deep (recursion is not supported)"),
        );
    }
    expand(l, function, results, arguments)
}

/// A call through a register: each function it may reach is compared with the value and expanded behind a branch. What reaches
/// none of them traps, which includes functions that are being expanded: recursion is not supported.
fn indirect<'a>(
    l: &mut Line<'_, 'a>,
    callee: &'a Operand<'a>,
    table: Word<'a>,
    results: &'a [Operand<'a>],
    arguments: &'a [Operand<'a>],
) -> Result<()> {
    let Some(Mark::Calls(named)) = l.body.scopes.mark(table.text) else {
        return Error::err(
            table.span,
            format!("there is no .callprototype or .calltargets `{}`", table.text),
        );
    };
    let mut functions = Vec::new();
    if named.is_empty() {
        functions = l.body.context.called_with(results.len(), arguments.len());
    }
    for name in named {
        match l.body.context.function(name.text) {
            Some(function) if function.body.is_some() => functions.push(function),
            _ => return Error::err(name.span, format!("`{}` has no body here", name.text)),
        }
    }
    let value = l.src(callee, B64)?;
    let end = l.body.new_label("indirect call: end");
    let guard = l.body.take_guard();
    if let Some(guard) = guard {
        l.body.emit_if(guard, true, Op::Bra { target: end, uni: false })?;
    }
    for function in functions {
        if l.body.returns.len() >= MAX_CALLS || l.body.calling.contains(&function.name.text) {
            continue;
        }
        let Some(address) = l.body.context.address(function.name.text) else { continue };
        let Reg::Pred(other) = l.temporary(Pred, "another function")? else { continue };
        let (a, b) = (value, Src::Imm(address));
        l.emit(Op::Setp { cmp: Cmp::Ne, ty: B64, ftz: false, p: Some(other), q: None, a, b, combine: None })?;
        let next = l.body.new_label("indirect call: next");
        let other = PredSrc { reg: other, negated: false };
        l.body.emit_if(other, false, Op::Bra { target: next, uni: false })?;
        expand(l, function, results, arguments)?;
        l.emit(Op::Bra { target: end, uni: false })?;
        l.body.place_label(next);
    }
    l.emit(Op::Trap)?;
    l.body.place_label(end);
    Ok(())
}

/// The functions that the CUDA runtime provides.
fn external<'a>(l: &mut Line<'_, 'a>, name: Word<'a>, results: &'a [Operand<'a>]) -> Result<()> {
    match (name.text, results) {
        // A failed assertion ends the kernel; its message is in memory the report points to.
        ("__assertfail", _) => l.emit(Op::Trap),
        // The text is not printed; the result says that zero arguments were.
        ("vprintf", [result]) => match &result.kind {
            OperandKind::Expr(Expr::Name(word)) => match l.body.scopes.variable(word.text) {
                Some(symbol) => {
                    let addr = Addr { base: Src::Symbol(symbol), offset: 0 };
                    let (sem, scope) = Default::default();
                    l.emit(Op::St { space: Space::Local, ty: B32, srcs: vec![Src::Imm(0)], addr, sem, scope })
                }
                None => Error::err(word.span, format!("`{}` is not declared", word.text)),
            },
            _ => Error::err(result.span, "expected a .param variable"),
        },
        _ => Error::err(
            name.span,
            format!("unsupported instruction: a call to `{}`, which has no body here", name.text),
        ),
    }
}

/// What a formal parameter stands for while a function is expanded.
enum Binding {
    Memory(SymbolAddr),
    /// A `.reg` formal: the caller's register or constant.
    Value(Src),
}

fn expand<'a>(
    l: &mut Line<'_, 'a>,
    function: &'a Function<'a>,
    results: &'a [Operand<'a>],
    arguments: &'a [Operand<'a>],
) -> Result<()> {
    let Some(block) = &function.body else { return l.refuse("the function has no body") };
    let formals = [(&function.returns, results), (&function.params, arguments)];
    let mut bindings = Vec::new();
    for (formals, actuals) in formals {
        if formals.len() != actuals.len() {
            let message = format!(
                "`{}` takes {} values here, not {}",
                function.name.text,
                formals.len(),
                actuals.len()
            );
            return l.refuse(message);
        }
        for (formal, actual) in formals.iter().zip(actuals) {
            bindings.push((formal, bind(l, formal, actual)?, actual));
        }
    }
    let end = l.body.new_label(&format!("{}: end", function.name.text));
    // A guarded call jumps around the body, whose instructions have guards of their own.
    let skip = l.body.take_guard();
    if let Some(guard) = skip {
        l.body.emit_if(guard, true, Op::Bra { target: end, uni: false })?;
    }
    let mut inner = Scopes::default();
    inner.push();
    std::mem::swap(&mut l.body.scopes, &mut inner);
    for (formal, binding, _) in &bindings {
        match binding {
            Binding::Memory(symbol) => l.body.scopes.innermost().declare_variable(formal.name, *symbol)?,
            Binding::Value(_) => l.body.declare(formal)?,
        }
    }
    let inputs = function.returns.len();
    for (formal, binding, _) in bindings.iter().skip(inputs) {
        if let Binding::Value(src) = binding {
            let (dst, ty) = formal_register(l, formal)?;
            l.emit(Op::Mov { ty, dst, src: *src })?;
        }
    }
    l.body.returns.push(end);
    l.body.calling.push(function.name.text);
    l.body.block(block)?;
    l.body.returns.pop();
    l.body.calling.pop();
    l.body.take_guard();
    l.body.place_label(end);
    let mut copies = Vec::new();
    for (formal, binding, actual) in bindings.iter().take(inputs) {
        if matches!(binding, Binding::Value(_)) {
            copies.push((formal_register(l, formal)?, *actual));
        }
    }
    std::mem::swap(&mut l.body.scopes, &mut inner);
    for ((src, ty), actual) in copies {
        let dst = l.dst(actual, ty)?;
        let op = Op::Mov { ty, dst, src: Src::Reg(src) };
        match skip {
            Some(guard) => l.body.emit_if(guard, false, op)?,
            None => l.emit(op)?,
        }
    }
    Ok(())
}

fn formal_register<'a>(l: &mut Line<'_, 'a>, formal: &'a Variable<'a>) -> Result<(Reg, Type)> {
    match l.body.scopes.register(formal.name, &mut l.body.files)? {
        Some(Register::One(reg, ty)) => Ok((reg, ty)),
        _ => Error::err(formal.name.span, "this kind of register cannot be a parameter"),
    }
}

fn bind<'a>(l: &mut Line<'_, 'a>, formal: &'a Variable<'a>, actual: &'a Operand<'a>) -> Result<Binding> {
    if formal.space.text == "reg" {
        return match types::named(formal.ty.text) {
            Some(ty) => Ok(Binding::Value(l.src(actual, ty)?)),
            None => Error::err(formal.ty.span, format!("`.{}` is not a register type", formal.ty.text)),
        };
    }
    match &actual.kind {
        OperandKind::Expr(Expr::Name(name)) => match l.body.scopes.variable(name.text) {
            Some(symbol) => Ok(Binding::Memory(symbol)),
            None => Error::err(actual.span, "expected a .param variable"),
        },
        _ => Error::err(actual.span, "expected a .param variable"),
    }
}
