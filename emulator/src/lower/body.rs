//! One kernel: its statements in order, with scopes, labels and places.
//!
//! Labels of a block are declared before its statements are walked, so that a jump forward finds the innermost label of that
//! name. A branch carries the number of its label until the walk ends, then the instruction the label stands before.
//! A `.func` is lowered where it is called ([`super::control`]): its body is walked again with its own names.

use std::collections::HashMap;

use crate::ir::{Instr, Kernel, Op, Param, PredSrc, Reg, Space, SymbolAddr, Type};
use crate::ptx::ast::{Block, Function, Instruction, Statement, Variable, Word};
use crate::ptx::{Error, Result, Span};

use super::constant::{Names, Value};
use super::family;
use super::layout::{self, Region};
use super::module::Context;
use super::scope::{Files, Mark, Register, Scopes};
use super::{special, types};

/// Most instructions of one kernel once its functions are expanded.
const MAX_CODE: usize = 1 << 21;
/// Most statements walked for one kernel: calls of calls could otherwise multiply without an instruction to show for it.
const MAX_STATEMENTS: usize = 1 << 22;

/// The state of the walk through one kernel.
pub(super) struct Body<'a> {
    pub context: &'a Context<'a>,
    pub scopes: Scopes<'a>,
    pub files: Files,
    code: Vec<Instr>,
    labels: Vec<(String, usize)>,
    /// Where module-level shared and local variables of this kernel are.
    placed: HashMap<&'a str, SymbolAddr>,
    shared: Region,
    dynamic_align: u32,
    local: Region,
    line: u32,
    guard: Option<PredSrc>,
    loc: Option<(u32, u32)>,
    /// Functions being expanded: the label each returns to.
    pub returns: Vec<usize>,
    /// Their names.
    pub calling: Vec<&'a str>,
    /// Statements walked so far.
    walked: usize,
}

/// Lowers one `.entry`.
pub(super) fn kernel<'a>(
    context: &'a Context<'a>,
    function: &'a Function<'a>,
    block: &'a Block<'a>,
) -> Result<Kernel> {
    let mut body = Body {
        context,
        scopes: Scopes::default(),
        files: Files::default(),
        code: Vec::new(),
        labels: Vec::new(),
        placed: HashMap::new(),
        shared: Region::EMPTY,
        dynamic_align: 1,
        local: Region::EMPTY,
        line: function.name.span.line,
        guard: None,
        loc: None,
        returns: Vec::new(),
        calling: Vec::new(),
        walked: 0,
    };
    body.scopes.push();
    let mut region = Region::EMPTY;
    let mut params = Vec::new();
    for variable in &function.params {
        let shape = layout::shape(variable)?;
        let offset = region.place(shape.bytes, shape.align, variable.name.span)?;
        let symbol = SymbolAddr { space: Space::Param, index: offset, offset: 0, dynamic: false };
        body.scopes.innermost().declare_variable(variable.name, symbol)?;
        let name = variable.name.text.to_owned();
        params.push(Param { name, offset, size: shape.bytes as u32, align: shape.align });
    }
    body.block(block)?;
    (body.line, body.guard) = (block.end.line, None);
    body.emit(Op::Exit)?;
    let mut kernel = body.finish();
    kernel.name = function.name.text.to_owned();
    kernel.params = params;
    kernel.param_bytes = region.bytes;
    directives(function, &mut kernel)?;
    Ok(kernel)
}

/// `.maxntid` and its like.
fn directives(function: &Function<'_>, kernel: &mut Kernel) -> Result<()> {
    for (word, values) in &function.directives {
        let mut numbers = Vec::new();
        for value in values {
            match u32::try_from(*value) {
                Ok(value) => numbers.push(value),
                Err(_) => return Error::err(word.span, format!("`.{}`: {value} is too large", word.text)),
            }
        }
        let triple = || -> Result<Option<[u32; 3]>> {
            match numbers.as_slice() {
                [x] => Ok(Some([*x, 1, 1])),
                [x, y] => Ok(Some([*x, *y, 1])),
                [x, y, z] => Ok(Some([*x, *y, *z])),
                _ => Error::err(word.span, format!("`.{}` takes one to three numbers", word.text)),
            }
        };
        let one = || match numbers.as_slice() {
            [value] => Ok(Some(*value)),
            _ => Error::err(word.span, format!("`.{}` takes one number", word.text)),
        };
        match word.text {
            "reqntid" => kernel.reqntid = triple()?,
            "maxntid" => kernel.maxntid = triple()?,
            "reqnctapercluster" => kernel.cluster = triple()?,
            "maxnreg" => kernel.maxnreg = one()?,
            "minnctapersm" => kernel.minnctapersm = one()?,
            // Limits and promises that a launch on the emulator cannot break.
            "maxnctapersm" | "maxclusterrank" => {
                one()?;
            }
            "explicitcluster" | "blocksareclusters" | "noreturn" => {}
            _ => return Error::err(word.span, format!("unknown directive `.{}` of a kernel", word.text)),
        }
    }
    Ok(())
}

impl<'a> Body<'a> {
    fn finish(mut self) -> Kernel {
        let labels = &self.labels;
        let place = |target: &mut usize| *target = labels[*target].1;
        for instr in &mut self.code {
            match &mut instr.op {
                Op::Bra { target, .. } => place(target),
                Op::Brx { targets, .. } => targets.iter_mut().for_each(place),
                _ => {}
            }
        }
        Kernel {
            name: String::new(),
            params: Vec::new(),
            param_bytes: 0,
            code: self.code,
            regs32: self.files.names32.len() as u32,
            regs64: self.files.names64.len() as u32,
            preds: self.files.names_pred.len() as u32,
            names32: self.files.names32,
            names64: self.files.names64,
            names_pred: self.files.names_pred,
            static_shared: self.shared.bytes,
            shared_align: self.shared.align.max(self.dynamic_align),
            dynamic_shared_align: self.dynamic_align,
            local_bytes: self.local.bytes,
            reqntid: None,
            maxntid: None,
            maxnreg: None,
            minnctapersm: None,
            cluster: None,
            labels: self.labels,
        }
    }

    /// Appends an instruction under the guard and place of the current statement.
    pub(super) fn emit(&mut self, op: Op) -> Result<()> {
        if self.code.len() >= MAX_CODE {
            return Error::err(
                Span { line: self.line, col: 1 },
                format!("more than {MAX_CODE} instructions in one kernel"),
            );
        }
        self.code.push(Instr { op, guard: self.guard, ptx_line: self.line, loc: self.loc });
        Ok(())
    }

    /// Appends an instruction under a guard of its own, `invert`ed or not.
    pub(super) fn emit_if(&mut self, guard: PredSrc, invert: bool, op: Op) -> Result<()> {
        let outer = self.guard.replace(PredSrc { negated: guard.negated != invert, ..guard });
        let result = self.emit(op);
        self.guard = outer;
        result
    }

    /// Removes the guard of the current statement.
    pub(super) fn take_guard(&mut self) -> Option<PredSrc> {
        self.guard.take()
    }

    /// A new label, not yet placed.
    pub(super) fn new_label(&mut self, name: &str) -> usize {
        self.labels.push((name.to_owned(), usize::MAX));
        self.labels.len() - 1
    }

    /// Puts a label before the next instruction.
    pub(super) fn place_label(&mut self, label: usize) {
        self.labels[label].1 = self.code.len();
    }

    /// Walks a block in a scope of its own.
    pub(super) fn block(&mut self, block: &'a Block<'a>) -> Result<()> {
        self.walked += block.statements.len() + 1;
        if self.walked > MAX_STATEMENTS {
            let message =
                format!("more than {MAX_STATEMENTS} statements in one kernel and the functions it calls");
            return Error::err(block.end, message);
        }
        self.scopes.push();
        for statement in &block.statements {
            match statement {
                Statement::Label(name) => {
                    let label = self.new_label(name.text);
                    self.scopes.innermost().declare_mark(*name, Mark::Label(label))?;
                }
                Statement::BranchTargets { name, targets } => {
                    self.scopes.innermost().declare_mark(*name, Mark::Table(targets))?;
                }
                Statement::CallTargets { name, targets } => {
                    self.scopes.innermost().declare_mark(*name, Mark::Calls(targets))?;
                }
                _ => {}
            }
        }
        for statement in &block.statements {
            match statement {
                Statement::Block(inner) => self.block(inner)?,
                Statement::Label(name) => {
                    if let Some(Mark::Label(label)) = self.scopes.mark(name.text) {
                        self.place_label(label);
                    }
                }
                Statement::BranchTargets { .. } | Statement::CallTargets { .. } => {}
                Statement::Variable(variable) => self.declare(variable)?,
                Statement::Loc { file, line } => {
                    self.loc = self.context.file(*file).map(|file| (file, *line))
                }
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        self.scopes.pop();
        Ok(())
    }

    fn instruction(&mut self, instruction: &'a Instruction<'a>) -> Result<()> {
        self.line = instruction.opcode.span.line;
        self.guard = match &instruction.guard {
            Some(guard) => Some(PredSrc { reg: self.predicate(guard.name)?, negated: guard.negated }),
            None => None,
        };
        family::lower(self, instruction)
    }

    /// Index of a predicate register.
    pub(super) fn predicate(&mut self, name: Word<'a>) -> Result<u32> {
        match self.scopes.register(name, &mut self.files)? {
            Some(Register::One(Reg::Pred(reg), _)) => Ok(reg),
            Some(_) => Error::err(name.span, format!("`{}` is not a predicate register", name.text)),
            None => Error::err(name.span, format!("`{}` is not declared", name.text)),
        }
    }

    pub(super) fn declare(&mut self, variable: &'a Variable<'a>) -> Result<()> {
        let name = variable.name;
        if variable.space.text == "reg" {
            let Some(ty) = types::named(variable.ty.text) else {
                return Error::err(
                    variable.ty.span,
                    format!("`.{}` is not a register type", variable.ty.text),
                );
            };
            if ty == Type::B128 && variable.vector > 1 {
                return Error::err(variable.ty.span, "vectors of .b128 registers do not exist");
            }
            let scope = self.scopes.innermost();
            return match variable.range {
                Some(count) => scope.declare_range(name, ty, count),
                None => scope.declare_register(name, ty, variable.vector),
            };
        }
        let symbol = self.place(variable)?;
        self.scopes.innermost().declare_variable(name, symbol)
    }

    /// Gives a shared, local or call-parameter variable its address.
    fn place(&mut self, variable: &'a Variable<'a>) -> Result<SymbolAddr> {
        let shape = layout::shape(variable)?;
        let span = variable.name.span;
        let symbol = |space, index| SymbolAddr { space, index, offset: 0, dynamic: false };
        match variable.space.text {
            "shared" | "shared::cta" if variable.external || shape.bytes == 0 => {
                self.dynamic_align = self.dynamic_align.max(shape.align);
                Ok(SymbolAddr { dynamic: true, ..symbol(Space::Shared, 0) })
            }
            "shared" | "shared::cta" => {
                Ok(symbol(Space::Shared, self.shared.place(shape.bytes, shape.align, span)?))
            }
            // Arguments of a call are memory of the calling thread.
            "local" | "param" => Ok(symbol(Space::Local, self.local.place(shape.bytes, shape.align, span)?)),
            other => Error::err(
                variable.space.span,
                format!("a `.{other}` variable must stand outside the kernel"),
            ),
        }
    }
}

impl<'a> Names<'a> for Body<'a> {
    fn name(&mut self, name: Word<'a>) -> Result<Value> {
        if let Some(register) = self.scopes.register(name, &mut self.files)? {
            return Ok(Value::Register(register, 0));
        }
        if let Some(symbol) = self.scopes.variable(name.text).or_else(|| self.placed.get(name.text).copied())
        {
            return Ok(Value::Symbol(symbol));
        }
        if let Some(special) = special::named(name.text, None) {
            return Ok(Value::Special(special));
        }
        if name.text == "WARP_SZ" {
            return Ok(Value::Const(super::constant::Const::Int { bits: 32, unsigned: false }));
        }
        if let Some(symbol) = self.context.global(name.text) {
            return Ok(Value::Symbol(symbol));
        }
        if let Some(variable) = self.context.variable(name.text) {
            let symbol = self.place(variable)?;
            self.placed.insert(name.text, symbol);
            return Ok(Value::Symbol(symbol));
        }
        if let Some(bits) = self.context.address(name.text) {
            return Ok(Value::Const(super::constant::Const::Int { bits, unsigned: true }));
        }
        let what = if name.text.starts_with('%') {
            "neither declared nor a special register"
        } else {
            "not declared"
        };
        Error::err(name.span, format!("`{}` is {what}", name.text))
    }

    fn member(&mut self, name: Word<'a>, member: Word<'a>) -> Result<Value> {
        if let Some(Register::Vector(first, ty, count)) = self.scopes.register(name, &mut self.files)? {
            let at = match member.text {
                "x" | "r" => 0,
                "y" | "g" => 1,
                "z" | "b" => 2,
                "w" | "a" => 3,
                _ => u32::MAX,
            };
            if at < count {
                let reg = match first {
                    Reg::B32(i) => Reg::B32(i + at),
                    Reg::B64(i) => Reg::B64(i + at),
                    Reg::Pred(i) => Reg::Pred(i + at),
                };
                return Ok(Value::Register(Register::One(reg, ty), 0));
            }
        } else if let Some(special) = special::named(name.text, Some(member.text)) {
            return Ok(Value::Special(special));
        }
        Error::err(name.span, format!("`{}.{}` is not a register", name.text, member.text))
    }
}
