//! The modifiers of one instruction, as a set.
//!
//! ptxas takes most modifiers in any order, so a family asks for the ones it knows and takes them out of the set; where order
//! carries meaning (types of `cvt`, spaces of a bulk copy) it asks for them in order. Whatever is left when the operands are
//! asked for is an error: a modifier is never skipped.

use crate::ir::{Arith, Round, Scope, Semantics, Space, Type};
use crate::ptx::ast::{Instruction, Word};
use crate::ptx::{Error, Result};

use super::types;

pub(super) struct Modifiers<'a> {
    opcode: Word<'a>,
    words: &'a [Word<'a>],
    /// Bit per word: taken.
    taken: u64,
}

impl<'a> Modifiers<'a> {
    pub(super) fn new(instruction: &'a Instruction<'a>) -> Result<Self> {
        let words = &instruction.modifiers;
        if words.len() > 64 {
            return Error::err(instruction.opcode.span, "more than 64 modifiers");
        }
        Ok(Modifiers { opcode: instruction.opcode, words, taken: 0 })
    }

    fn left(&self) -> impl Iterator<Item = (usize, Word<'a>)> {
        let taken = self.taken;
        self.words.iter().copied().enumerate().filter(move |(i, _)| taken >> i & 1 == 0)
    }

    /// Takes a modifier out; false when it is not there.
    pub(super) fn take(&mut self, text: &str) -> bool {
        let found = self.left().find(|(_, word)| word.text == text);
        if let Some((i, _)) = found {
            self.taken |= 1 << i;
        }
        found.is_some()
    }

    /// Takes the first modifier that the table has. A second one of the same table is left, and so becomes an error.
    pub(super) fn one_of<T>(&mut self, table: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (i, value) = self.left().find_map(|(i, word)| Some((i, table(word.text)?)))?;
        self.taken |= 1 << i;
        Some(value)
    }

    /// As [`Self::one_of`], but one must be there; `what` names the group.
    pub(super) fn need<T>(&mut self, what: &str, table: impl Fn(&str) -> Option<T>) -> Result<T> {
        match self.one_of(table) {
            Some(value) => Ok(value),
            None => self.missing(what),
        }
    }

    /// `opcode` needs a modifier it does not have.
    pub(super) fn missing<T>(&self, what: &str) -> Result<T> {
        let left: Vec<_> = self.left().map(|(_, word)| format!(".{}", word.text)).collect();
        let rest =
            if left.is_empty() { String::new() } else { format!(" (not understood: {})", left.join(", ")) };
        Error::err(self.opcode.span, format!("`{}` needs {what}{rest}", self.spelling()))
    }

    /// The whole dotted name, for messages.
    pub(super) fn spelling(&self) -> String {
        let mut text = self.opcode.text.to_owned();
        for word in self.words {
            text.push('.');
            text.push_str(word.text);
        }
        text
    }

    /// The one type.
    pub(super) fn ty(&mut self) -> Result<Type> {
        self.need("a type", types::named)
    }

    /// The one type, which must be among these.
    pub(super) fn ty_of(&mut self, allowed: &[Type]) -> Result<Type> {
        let ty = self.ty()?;
        self.check(ty, allowed)?;
        Ok(ty)
    }

    /// Refuses a type that is not in the list.
    pub(super) fn check(&self, ty: Type, allowed: &[Type]) -> Result<()> {
        if allowed.contains(&ty) {
            return Ok(());
        }
        let list: Vec<_> = allowed.iter().map(|ty| types::name(*ty)).collect();
        let message = format!(
            "`{}` does not take {} (it takes {})",
            self.opcode.text,
            types::name(ty),
            list.join(", ")
        );
        Error::err(self.opcode.span, message)
    }

    /// Every type left, in the order written.
    pub(super) fn types(&mut self) -> Vec<Type> {
        std::iter::from_fn(|| self.one_of(types::named)).collect()
    }

    /// Fails on the first modifier nobody took.
    pub(super) fn finish(&self) -> Result<()> {
        match self.left().next() {
            None => Ok(()),
            Some((_, word)) => {
                let message = format!("unknown modifier `.{}` in `{}`", word.text, self.spelling());
                Error::err(word.span, message)
            }
        }
    }

    /// `.ftz .sat .relu` and rounding of floating-point arithmetic.
    pub(super) fn arith(&mut self) -> Arith {
        Arith {
            round: self.one_of(float_round).unwrap_or_default(),
            ftz: self.take("ftz"),
            sat: self.take("sat"),
            relu: self.take("relu"),
            satfinite: false,
            nan: false,
            xorsign_abs: false,
        }
    }

    /// A state space; `Generic` when none is written.
    pub(super) fn space(&mut self) -> Space {
        self.one_of(space).unwrap_or(Space::Generic)
    }

    /// A shared space or generic: what mbarrier and matrix instructions take.
    pub(super) fn shared_space(&mut self) -> Space {
        self.one_of(|word| space(word).filter(|s| matches!(s, Space::Shared | Space::SharedCluster)))
            .unwrap_or(Space::Generic)
    }

    pub(super) fn semantics(&mut self) -> Option<Semantics> {
        self.one_of(|word| {
            Some(match word {
                "weak" => Semantics::Weak,
                "relaxed" => Semantics::Relaxed,
                "acquire" => Semantics::Acquire,
                "release" => Semantics::Release,
                "acq_rel" => Semantics::AcqRel,
                "sc" => Semantics::Sc,
                "volatile" => Semantics::Volatile,
                _ => return None,
            })
        })
    }

    pub(super) fn scope(&mut self) -> Option<Scope> {
        self.one_of(|word| {
            Some(match word {
                "cta" => Scope::Cta,
                "cluster" => Scope::Cluster,
                "gpu" => Scope::Gpu,
                "sys" => Scope::Sys,
                _ => return None,
            })
        })
    }

    /// Elements of `.v2 .v4 .v8`; 1 when none is written.
    pub(super) fn vector(&mut self) -> usize {
        let width = self.one_of(|word| match word {
            "v2" => Some(2),
            "v4" => Some(4),
            "v8" => Some(8),
            _ => None,
        });
        width.unwrap_or(1)
    }

    /// Takes cache operators, eviction priorities of L1 and prefetch sizes, none of which changes a result. True when
    /// `.L2::cache_hint` was among them, which adds an operand.
    pub(super) fn cache(&mut self) -> bool {
        let hint = self.take("L2::cache_hint");
        while self.one_of(|word| is_cache(word).then_some(())).is_some() {}
        hint
    }
}

fn is_cache(word: &str) -> bool {
    let policy = |word: &str| {
        matches!(word, "evict_normal" | "evict_unchanged" | "evict_first" | "evict_last" | "no_allocate")
    };
    match word.split_once("::") {
        None => matches!(word, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt"),
        Some(("L1", rest)) => policy(rest),
        Some(("L2", "64B" | "128B" | "256B")) => true,
        Some(_) => false,
    }
}

pub(super) fn space(word: &str) -> Option<Space> {
    Some(match word {
        "global" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "shared::cluster" => Space::SharedCluster,
        "local" => Space::Local,
        "param" | "param::entry" | "param::func" => Space::Param,
        "const" => Space::Const,
        _ => return None,
    })
}

pub(super) fn float_round(word: &str) -> Option<Round> {
    Some(match word {
        "rn" => Round::Rn,
        "rz" => Round::Rz,
        "rm" => Round::Rm,
        "rp" => Round::Rp,
        "rna" => Round::Rna,
        "approx" => Round::Approx,
        "full" => Round::Full,
        _ => return None,
    })
}
