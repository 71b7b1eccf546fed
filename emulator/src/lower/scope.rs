//! Names: registers, variables and labels, block by block.
//!
//! Inner blocks hide outer ones; inline assembly repeats names such as `P1` and `LAB_WAIT` in hundreds of sibling blocks.
//! Registers get their index when they are first used: a range `%r<20000>` of which ten are named costs ten.

use std::collections::HashMap;

use crate::ir::{Reg, SymbolAddr, Type};
use crate::ptx::ast::Word;
use crate::ptx::{Error, Result, Span};

/// Most registers of one file in one kernel: 64 times what a chip can hold, room for code before register allocation.
const MAX_REGISTERS: usize = 1 << 20;

/// A declared register.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Register {
    /// Of one of the three files, with its declared type.
    One(Reg, Type),
    /// `.b128`: low and high half.
    Wide(Reg, Reg),
    /// `.v2`, `.v4`: consecutive indices from the first, this many.
    Vector(Reg, Type, u32),
}

/// What a label, a branch table or a list of functions is.
#[derive(Clone, Debug)]
pub(super) enum Mark<'a> {
    /// Index into the kernel's labels.
    Label(usize),
    Table(&'a [Word<'a>]),
    /// Functions that an indirect call may reach; none named: any of its shape.
    Calls(&'a [Word<'a>]),
}

#[derive(Default)]
pub(super) struct Scope<'a> {
    registers: HashMap<&'a str, Register>,
    /// `prefix<count>`: resolved lazily.
    ranges: HashMap<&'a str, (Type, u64)>,
    /// Declared, not yet used.
    pending: HashMap<&'a str, (Type, u32)>,
    variables: HashMap<&'a str, SymbolAddr>,
    marks: HashMap<&'a str, Mark<'a>>,
}

/// The three register files of a kernel, as names.
#[derive(Default)]
pub(super) struct Files {
    pub names32: Vec<String>,
    pub names64: Vec<String>,
    pub names_pred: Vec<String>,
}

impl Files {
    /// A new register in the file its type belongs to.
    pub(super) fn new_register(&mut self, ty: Type, name: String, at: Span) -> Result<Reg> {
        let (file, make): (_, fn(u32) -> Reg) = match ty.bytes() {
            0 => (&mut self.names_pred, Reg::Pred),
            8 => (&mut self.names64, Reg::B64),
            _ => (&mut self.names32, Reg::B32),
        };
        if file.len() >= MAX_REGISTERS {
            return Error::err(at, format!("more than {MAX_REGISTERS} registers in one kernel"));
        }
        file.push(name);
        Ok(make(file.len() as u32 - 1))
    }

    fn allocate(&mut self, ty: Type, vector: u32, name: Word<'_>) -> Result<Register> {
        if vector > 1 {
            let first = self.new_register(ty, format!("{}.x", name.text), name.span)?;
            for member in ["y", "z", "w"].iter().take(vector as usize - 1) {
                self.new_register(ty, format!("{}.{member}", name.text), name.span)?;
            }
            return Ok(Register::Vector(first, ty, vector));
        }
        if ty == Type::B128 {
            let low = self.new_register(Type::B64, format!("{}.lo", name.text), name.span)?;
            let high = self.new_register(Type::B64, format!("{}.hi", name.text), name.span)?;
            return Ok(Register::Wide(low, high));
        }
        Ok(Register::One(self.new_register(ty, name.text.to_owned(), name.span)?, ty))
    }
}

impl<'a> Scope<'a> {
    fn twice<T>(name: Word<'_>) -> Result<T> {
        Error::err(name.span, format!("`{}` is declared twice in this block", name.text))
    }

    pub(super) fn declare_register(&mut self, name: Word<'a>, ty: Type, vector: u32) -> Result<()> {
        if self.variables.contains_key(name.text) || self.pending.insert(name.text, (ty, vector)).is_some() {
            return Self::twice(name);
        }
        Ok(())
    }

    pub(super) fn declare_range(&mut self, prefix: Word<'a>, ty: Type, count: u64) -> Result<()> {
        if self.ranges.insert(prefix.text, (ty, count)).is_some() {
            return Self::twice(prefix);
        }
        Ok(())
    }

    pub(super) fn declare_variable(&mut self, name: Word<'a>, at: SymbolAddr) -> Result<()> {
        if self.pending.contains_key(name.text) || self.variables.insert(name.text, at).is_some() {
            return Self::twice(name);
        }
        Ok(())
    }

    pub(super) fn declare_mark(&mut self, name: Word<'a>, mark: Mark<'a>) -> Result<()> {
        if self.marks.insert(name.text, mark).is_some() {
            return Self::twice(name);
        }
        Ok(())
    }

    /// A register of this block, given its index now if this is its first use.
    fn register(&mut self, name: Word<'a>, files: &mut Files) -> Result<Option<Register>> {
        let key = name.text;
        if let Some(&register) = self.registers.get(key) {
            return Ok(Some(register));
        }
        let Some((ty, vector)) = self.pending.get(key).copied().or_else(|| self.in_range(key)) else {
            return Ok(None);
        };
        let register = files.allocate(ty, vector, name)?;
        self.registers.insert(key, register);
        Ok(Some(register))
    }

    /// `%r17` of `%r<20>`. A prefix may itself end in digits, so every split is tried.
    fn in_range(&self, name: &str) -> Option<(Type, u32)> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        (name.len() - digits..name.len()).find_map(|split| {
            let (prefix, number) = name.split_at(split);
            let (ty, count) = self.ranges.get(prefix)?;
            let canonical = number == "0" || !number.starts_with('0');
            let inside = number.parse::<u64>().is_ok_and(|n| n < *count);
            (canonical && inside).then_some((*ty, 1))
        })
    }
}

/// The blocks open at a point of the walk, innermost last.
#[derive(Default)]
pub(super) struct Scopes<'a> {
    stack: Vec<Scope<'a>>,
}

impl<'a> Scopes<'a> {
    pub(super) fn push(&mut self) {
        self.stack.push(Scope::default());
    }

    pub(super) fn pop(&mut self) {
        self.stack.pop();
    }

    pub(super) fn innermost(&mut self) -> &mut Scope<'a> {
        if self.stack.is_empty() {
            self.push();
        }
        let last = self.stack.len() - 1;
        &mut self.stack[last]
    }

    pub(super) fn register(&mut self, name: Word<'a>, files: &mut Files) -> Result<Option<Register>> {
        for scope in self.stack.iter_mut().rev() {
            if let Some(register) = scope.register(name, files)? {
                return Ok(Some(register));
            }
            if scope.variables.contains_key(name.text) {
                break;
            }
        }
        Ok(None)
    }

    pub(super) fn variable(&self, name: &str) -> Option<SymbolAddr> {
        self.stack.iter().rev().find_map(|scope| scope.variables.get(name)).copied()
    }

    pub(super) fn mark(&self, name: &str) -> Option<Mark<'a>> {
        self.stack.iter().rev().find_map(|scope| scope.marks.get(name)).cloned()
    }
}
