//! Module level: variables with initial contents, the file table, functions by name, then every kernel.

use std::collections::HashMap;

use crate::ir::{GlobalVar, Module, Space, SymbolAddr};
use crate::ptx::ast::{Ast, Function, Variable, Word};
use crate::ptx::{Error, Result, Span};

use super::constant::{Const, Names, Value};
use super::{body, layout};

/// Most bytes of initial contents in one module.
const MAX_CONTENTS: u64 = 1 << 31;

/// What the bodies of a module may refer to.
pub(super) struct Context<'a> {
    /// `.file` number → index in [`Module::files`].
    files: HashMap<u64, u32>,
    /// Global and constant variables.
    globals: HashMap<&'a str, SymbolAddr>,
    /// Shared and local variables: placed in each kernel that uses them.
    variables: HashMap<&'a str, &'a Variable<'a>>,
    functions: HashMap<&'a str, &'a Function<'a>>,
    /// Every function that is no kernel and has a body, in order: its place stands for its address.
    callable: Vec<&'a Function<'a>>,
}

/// Addresses of functions begin here, far from any memory.
const FUNCTIONS: u64 = 0x7000_0000_0000_0000;

impl<'a> Context<'a> {
    pub(super) fn file(&self, number: u64) -> Option<u32> {
        self.files.get(&number).copied()
    }

    pub(super) fn global(&self, name: &str) -> Option<SymbolAddr> {
        self.globals.get(name).copied()
    }

    pub(super) fn variable(&self, name: &str) -> Option<&'a Variable<'a>> {
        self.variables.get(name).copied()
    }

    pub(super) fn function(&self, name: &str) -> Option<&'a Function<'a>> {
        self.functions.get(name).copied()
    }

    /// The number that stands for the address of a function.
    pub(super) fn address(&self, name: &str) -> Option<u64> {
        let place = self.callable.iter().position(|function| function.name.text == name)?;
        Some(FUNCTIONS + 16 * place as u64)
    }

    /// Functions of so many results and parameters.
    pub(super) fn called_with(&self, results: usize, params: usize) -> Vec<&'a Function<'a>> {
        let fits = |f: &&&'a Function<'a>| f.returns.len() == results && f.params.len() == params;
        self.callable.iter().filter(fits).copied().collect()
    }
}

/// Initialisers may name variables that stand in global or constant memory.
struct GlobalNames<'c, 'a>(&'c Context<'a>);

impl<'a> Names<'a> for GlobalNames<'_, 'a> {
    fn name(&mut self, name: Word<'a>) -> Result<Value> {
        if let Some(bits) = self.0.address(name.text) {
            return Ok(Value::Const(Const::Int { bits, unsigned: true }));
        }
        match self.0.global(name.text) {
            Some(symbol) => Ok(Value::Symbol(symbol)),
            None => Error::err(name.span, format!("`{}` is not a global variable or function", name.text)),
        }
    }

    fn member(&mut self, name: Word<'a>, _: Word<'a>) -> Result<Value> {
        self.name(name)
    }
}

/// Lowers a whole module; what cannot be said of a kernel goes to `refuse`, which may let the others live.
pub(super) fn lower<'a>(
    name: &str,
    text: &str,
    ast: &'a Ast<'a>,
    mut refuse: impl FnMut(&str, Box<Error>) -> Result<()>,
) -> Result<Module> {
    if ast.version == (0, 0) || ast.target.is_empty() {
        return Error::err(Span { line: 1, col: 1 }, "a module starts with .version and .target");
    }
    let mut context = Context {
        files: HashMap::new(),
        globals: HashMap::new(),
        variables: HashMap::new(),
        functions: HashMap::new(),
        callable: ast.functions.iter().filter(|f| !f.entry && f.body.is_some()).collect(),
    };
    for (i, (number, _)) in ast.files.iter().enumerate() {
        context.files.insert(*number, i as u32);
    }
    let globals = variables(ast, &mut context)?;
    for function in &ast.functions {
        let slot = context.functions.entry(function.name.text).or_insert(function);
        if slot.body.is_some() && function.body.is_some() && !std::ptr::eq(*slot, function) {
            return twice(function.name);
        }
        if function.body.is_some() {
            *slot = function;
        }
    }
    let mut kernels = Vec::new();
    for function in ast.functions.iter().filter(|function| function.entry) {
        if let Some(block) = &function.body {
            match body::kernel(&context, function, block) {
                Ok(kernel) => kernels.push(kernel),
                Err(error) => refuse(function.name.text, error)?,
            }
        }
    }
    Ok(Module {
        name: name.to_owned(),
        target: ast.target.clone(),
        version: ast.version,
        kernels,
        globals,
        files: ast.files.iter().map(|(_, path)| path.clone()).collect(),
        text: text.lines().map(str::to_owned).collect(),
    })
}

fn twice<T>(name: Word<'_>) -> Result<T> {
    Error::err(name.span, format!("`{}` is declared twice", name.text))
}

fn variables<'a>(ast: &'a Ast<'a>, context: &mut Context<'a>) -> Result<Vec<GlobalVar>> {
    let mut list = Vec::new();
    for variable in &ast.variables {
        let key = variable.name.text;
        let space = match variable.space.text {
            "global" => Space::Global,
            "const" => Space::Const,
            _ => {
                if context.variables.insert(key, variable).is_some_and(|earlier| !earlier.external) {
                    return twice(variable.name);
                }
                continue;
            }
        };
        let symbol = SymbolAddr { space, index: list.len() as u32, offset: 0, dynamic: false };
        if context.globals.insert(key, symbol).is_some() {
            return twice(variable.name);
        }
        list.push((variable, space));
    }
    let mut total = 0;
    let mut globals = Vec::new();
    for (variable, space) in list {
        let shape = layout::shape(variable)?;
        total += shape.bytes;
        if total > MAX_CONTENTS {
            return Error::err(variable.name.span, format!("variables exceed {MAX_CONTENTS} bytes"));
        }
        let (init, relocations) = layout::initial(variable, &shape, &mut GlobalNames(context))?;
        let name = variable.name.text.to_owned();
        globals.push(GlobalVar {
            name,
            space,
            align: shape.align,
            init,
            managed: variable.managed,
            relocations,
        });
    }
    Ok(globals)
}
