//! Variables: sizes, offsets, initial bytes.
//!
//! Shared, local and parameter memory are each one region per kernel, filled in order of declaration (module-level shared
//! variables: in order of first use, as only the kernels that name one pay for it). Global and constant variables keep
//! their initial bytes; addresses in initialisers become relocations.

use crate::ir::{Relocation, SymbolAddr, Type};
use crate::ptx::ast::{Init, Variable};
use crate::ptx::{Error, Result, Span};

use super::constant::{Const, Names, Value, fold, literal};
use super::types;

/// Largest variable: far above any real one, small enough that a mistyped dimension is an error and not an exhausted host.
const MAX_VARIABLE: u64 = 1 << 30;
/// Largest region of shared, local or parameter memory.
const MAX_REGION: u64 = 1 << 26;

/// A region that variables are placed in one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub bytes: u32,
    pub align: u32,
}

impl Region {
    pub(super) const EMPTY: Region = Region { bytes: 0, align: 1 };

    /// Places `size` bytes and returns their offset.
    pub(super) fn place(&mut self, size: u64, align: u32, span: Span) -> Result<u32> {
        let start = u64::from(self.bytes).next_multiple_of(u64::from(align));
        let end = start + size;
        if end > MAX_REGION {
            return Error::err(span, format!("variables of this space exceed {MAX_REGION} bytes"));
        }
        self.bytes = end as u32;
        self.align = self.align.max(align);
        Ok(start as u32)
    }
}

/// Type, size and alignment of a variable.
pub(super) struct Shape {
    pub ty: Type,
    pub bytes: u64,
    pub align: u32,
}

/// Works a declaration's size out; `[]` counts as zero unless an initialiser fills it.
pub(super) fn shape(variable: &Variable<'_>) -> Result<Shape> {
    let at = variable.name.span;
    if variable.range.is_some() {
        return Error::err(at, "only registers can be declared as a range");
    }
    let ty = match types::named(variable.ty.text) {
        Some(ty) if ty != Type::Pred => ty,
        _ => {
            return Error::err(
                variable.ty.span,
                format!("`.{}` is not a type of variables", variable.ty.text),
            );
        }
    };
    let element = u64::from(ty.bytes()) * u64::from(variable.vector);
    let align = match variable.align {
        None => element as u32,
        Some(align) if align.is_power_of_two() && align <= 1 << 20 => align as u32,
        Some(align) => return Error::err(at, format!("alignment {align} is not a power of two up to 2^20")),
    };
    let mut bytes = element;
    for (i, dim) in variable.dims.iter().enumerate() {
        let count = match dim {
            Some(expr) => literal(expr, at)?,
            None if i > 0 => return Error::err(at, "only the first dimension can be left open"),
            None => match &variable.init {
                Some(Init::List(list)) => list.len() as u64,
                _ => 0,
            },
        };
        bytes = bytes.saturating_mul(count);
    }
    if bytes > MAX_VARIABLE {
        return Error::err(at, format!("`{}` is larger than {MAX_VARIABLE} bytes", variable.name.text));
    }
    Ok(Shape { ty, bytes, align })
}

/// The initial contents of a variable.
pub(super) fn initial<'a>(
    variable: &Variable<'a>,
    shape: &Shape,
    names: &mut dyn Names<'a>,
) -> Result<(Vec<u8>, Vec<Relocation>)> {
    let mut image =
        Image { bytes: vec![0; shape.bytes as usize], relocations: Vec::new(), ty: shape.ty, names };
    if let Some(init) = &variable.init {
        let at = variable.name.span;
        // One size per level of braces: the whole, then each dimension's slice.
        let mut sizes = vec![shape.bytes as usize];
        for (i, dim) in variable.dims.iter().enumerate() {
            let outer = sizes[i];
            let count = match dim {
                Some(expr) => literal(expr, at)? as usize,
                None => outer.checked_div(shape.ty.bytes() as usize * variable.vector as usize).unwrap_or(0),
            };
            sizes.push(outer.checked_div(count).unwrap_or(0));
        }
        if variable.vector > 1 {
            sizes.push(shape.ty.bytes() as usize);
        }
        image.fill(init, 0, &sizes, at)?;
    }
    Ok((image.bytes, image.relocations))
}

struct Image<'n, 'a> {
    bytes: Vec<u8>,
    relocations: Vec<Relocation>,
    ty: Type,
    names: &'n mut dyn Names<'a>,
}

impl<'a> Image<'_, 'a> {
    fn fill(&mut self, init: &Init<'a>, at: usize, sizes: &[usize], span: Span) -> Result<()> {
        match init {
            Init::Value(expr) => {
                let size = self.ty.bytes() as usize;
                if at + size > self.bytes.len() {
                    return Error::err(span, "more initial values than elements");
                }
                let value = fold(expr, span, self.names)?;
                self.store(&value, at, size, span)
            }
            Init::List(list) => {
                let Some((&step, inner)) = sizes.get(1).zip(sizes.get(1..)) else {
                    return Error::err(span, "more braces in the initialiser than dimensions");
                };
                if step.saturating_mul(list.len()) > sizes[0] {
                    return Error::err(span, "more initial values than elements");
                }
                for (i, item) in list.iter().enumerate() {
                    self.fill(item, at + i * step, inner, span)?;
                }
                Ok(())
            }
        }
    }

    fn store(&mut self, value: &Value, at: usize, size: usize, span: Span) -> Result<()> {
        let symbol: SymbolAddr = match value {
            Value::Const(value) => {
                let ty = match (self.ty, value) {
                    (Type::B128, _) => {
                        return Error::err(span, "a .b128 variable cannot have an initial value");
                    }
                    (ty, Const::Int { .. }) if ty.is_float() => types::bits(ty.bytes()).unwrap_or(ty),
                    (ty, _) => ty,
                };
                let pattern = value.pattern(ty, span)?.to_le_bytes();
                self.bytes[at..at + size].copy_from_slice(&pattern[..size]);
                return Ok(());
            }
            Value::Symbol(symbol) | Value::Generic(symbol) if size == 8 => *symbol,
            _ => return Error::err(span, "this cannot be an initial value here"),
        };
        self.relocations.push(Relocation { at: at as u64, symbol });
        Ok(())
    }
}
