//! Control flow, calls, and what steers a block or grid as a whole.
//!
//! A direct call is expanded in place: the callee's parameters stand for the caller's argument variables (PTX passes by
//! value and a callee may not write its inputs, so they can share memory), and `ret` becomes a branch behind the body.

use crate::ir::{Addr, Op, Reg, Space, Src, SymbolAddr, Type};
use crate::ptx::ast::{Expr, Function, Operand, OperandKind, Variable, Word};
use crate::ptx::{Error, Result};

use super::family::Line;
use super::scope::{Mark, Register, Scopes};
use super::types;

use Type::*;

/// Deepest chain of calls; also what stops recursion.
const MAX_CALLS: usize = 24;

fn label<'a>(operand: &'a Operand<'a>) -> Result<Word<'a>> {
    match &operand.kind {
        OperandKind::Expr(Expr::Name(name)) => Ok(*name),
        _ => Error::err(operand.span, "expected a label"),
    }
}

fn target(l: &Line<'_, '_>, name: Word<'_>) -> Result<usize> {
    match l.body.scopes.mark(name.text) {
        Some(Mark::Label(label)) => Ok(label),
        _ => Error::err(name.span, format!("there is no label `{}` in this block or around it", name.text)),
    }
}

/// `bra[.uni] label`
pub(super) fn bra(l: &mut Line<'_, '_>) -> Result<()> {
    let uni = l.m.take("uni");
    let [name] = l.fixed()?;
    let target = target(l, label(name)?)?;
    l.emit(Op::Bra { target, uni })
}

/// `brx.idx[.uni] index, table`
pub(super) fn brx(l: &mut Line<'_, '_>) -> Result<()> {
    let uni = l.m.take("uni");
    if !l.m.take("idx") {
        return l.m.missing(".idx");
    }
    let [index, name] = l.fixed()?;
    let name = label(name)?;
    let Some(Mark::Table(words)) = l.body.scopes.mark(name.text) else {
        return Error::err(name.span, format!("there is no .branchtargets `{}`", name.text));
    };
    let mut targets = Vec::with_capacity(words.len());
    for word in words {
        targets.push(target(l, *word)?);
    }
    let index = l.src(index, U32)?;
    l.emit(Op::Brx { index, targets, uni })
}

/// `ret[.uni]`: the end of the kernel, or of the function being expanded.
pub(super) fn ret(l: &mut Line<'_, '_>) -> Result<()> {
    let uni = l.m.take("uni");
    let [] = l.fixed()?;
    match l.body.returns.last() {
        Some(&target) => l.emit(Op::Bra { target, uni }),
        None => l.emit(Op::Exit),
    }
}

/// An instruction without operands.
pub(super) fn plain(l: &mut Line<'_, '_>, op: Op) -> Result<()> {
    let [] = l.fixed()?;
    l.emit(op)
}

/// `brkpt`, `pmevent`: for tools that watch a chip.
pub(super) fn nop(l: &mut Line<'_, '_>) -> Result<()> {
    l.m.take("mask");
    l.between(0, 1)?;
    l.emit(Op::Nop)
}

/// `nanosleep.u32 t`
pub(super) fn nanosleep(l: &mut Line<'_, '_>) -> Result<()> {
    l.m.ty_of(&[U32])?;
    let [duration] = l.fixed()?;
    let duration = l.src(duration, U32)?;
    l.emit(Op::Nanosleep { duration })
}

/// `griddepcontrol.launch_dependents`, `.wait`
pub(super) fn griddepcontrol(l: &mut Line<'_, '_>) -> Result<()> {
    let launch = l.m.need(".launch_dependents or .wait", |word| match word {
        "launch_dependents" => Some(true),
        "wait" => Some(false),
        _ => None,
    })?;
    plain(l, Op::GridDepControl { launch })
}

/// `setmaxnreg.inc|dec.sync.aligned.u32 n`
pub(super) fn setmaxnreg(l: &mut Line<'_, '_>) -> Result<()> {
    let inc = l.m.need(".inc or .dec", |word| match word {
        "inc" => Some(true),
        "dec" => Some(false),
        _ => None,
    })?;
    for word in ["sync", "aligned"] {
        if !l.m.take(word) {
            return l.m.missing(".sync.aligned");
        }
    }
    l.m.ty_of(&[U32])?;
    let [count] = l.fixed()?;
    let value = l.integer_in(count, 24..=256)?;
    if value % 8 != 0 {
        return Error::err(count.span, format!("the register count {value} is not a multiple of 8"));
    }
    l.emit(Op::SetMaxNReg { count: value as u32, inc })
}

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
    let arguments: &[Operand<'_>] = match rest {
        [] => &[],
        [Operand { kind: OperandKind::List(list), .. }] => list,
        _ => return l.refuse("unsupported instruction: an indirect call"),
    };
    let name = label(callee)?;
    let Some(function) = l.body.context.function(name.text) else {
        return Error::err(
            name.span,
            format!("unsupported instruction: a call through `{}`, which is no function", name.text),
        );
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
    l.body.block(block)?;
    l.body.returns.pop();
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
