//! Control flow, and what steers a block or grid as a whole.

use crate::ir::{Op, Type};
use crate::ptx::ast::{Expr, Operand, OperandKind, Word};
use crate::ptx::{Error, Result};

use super::family::Line;
use super::scope::Mark;

use Type::*;

pub(super) fn label<'a>(operand: &'a Operand<'a>) -> Result<Word<'a>> {
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
