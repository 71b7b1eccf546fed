//! Opcode to family, and what every family works with.
//!
//! A family function takes the modifiers it knows out of the set, asks for its operands (which fails on any modifier left),
//! resolves them by type and emits typed instructions.

use crate::ir::{Op, Reg, Type};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::{Error, Result};

use super::body::Body;
use super::modifiers::Modifiers;
use super::{
    arith, async_copy, barrier, bulk, call, compare, control, convert, matrix, mbarrier, memory, multimem,
    rare, reduce, tensormap, warp, wgmma,
};

/// One instruction being lowered.
pub(super) struct Line<'b, 'a> {
    pub body: &'b mut Body<'a>,
    pub m: Modifiers<'a>,
    pub instruction: &'a Instruction<'a>,
}

/// Lowers one instruction into the body.
pub(super) fn lower<'a>(body: &mut Body<'a>, instruction: &'a Instruction<'a>) -> Result<()> {
    let mut line = Line { body, m: Modifiers::new(instruction)?, instruction };
    let l = &mut line;
    match instruction.opcode.text {
        "add" | "sub" | "addc" | "subc" | "mul" | "mul24" | "div" | "rem" | "min" | "max" | "and" | "or"
        | "xor" | "shl" | "shr" | "copysign" => arith::two(l),
        "szext" | "bmsk" | "mad24" | "dp2a" | "fns" => rare::integer(l),
        "vadd2" | "vsub2" | "vavrg2" | "vabsdiff2" | "vmin2" | "vmax2" | "vadd4" | "vsub4" | "vavrg4"
        | "vabsdiff4" | "vmin4" | "vmax4" => rare::video(l),
        "neg" | "abs" | "not" | "cnot" | "popc" | "clz" | "brev" | "bfind" | "rcp" | "sqrt" | "rsqrt"
        | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "testp" => arith::one(l),
        "fma" | "mad" | "madc" | "lop3" | "shf" | "prmt" | "bfe" | "sad" | "dp4a" => arith::three(l),
        "bfi" => arith::bfi(l),
        "setp" => compare::setp(l),
        "set" => compare::set(l),
        "selp" => compare::selp(l),
        "slct" => compare::slct(l),
        "mov" => convert::mov(l),
        "cvt" => convert::cvt(l),
        "cvta" => convert::cvta(l),
        "isspacep" => convert::isspacep(l),
        "mapa" => convert::mapa(l),
        "getctarank" => convert::getctarank(l),
        "ld" | "ldu" => memory::ld(l),
        "st" => memory::st(l),
        "prefetch" | "prefetchu" | "discard" | "applypriority" => memory::hint(l),
        "createpolicy" => memory::createpolicy(l),
        "atom" | "red" => reduce::atom(l),
        "bra" => control::bra(l),
        "brx" => control::brx(l),
        "ret" => control::ret(l),
        "exit" => control::plain(l, Op::Exit),
        "trap" => control::plain(l, Op::Trap),
        "call" => call::call(l),
        "brkpt" | "pmevent" => control::nop(l),
        "nanosleep" => control::nanosleep(l),
        "griddepcontrol" => control::griddepcontrol(l),
        "setmaxnreg" => control::setmaxnreg(l),
        "bar" | "barrier" => barrier::bar(l),
        "membar" | "fence" => barrier::fence(l),
        "shfl" => warp::shfl(l),
        "vote" => warp::vote(l),
        "match" => warp::matching(l),
        "activemask" => warp::activemask(l),
        "elect" => warp::elect(l),
        "redux" => warp::redux(l),
        "ldmatrix" => matrix::ldmatrix(l),
        "stmatrix" => matrix::stmatrix(l),
        "movmatrix" => matrix::movmatrix(l),
        "mma" => matrix::mma(l),
        "mbarrier" => mbarrier::mbarrier(l),
        "cp" => {
            if l.m.take("async") && !l.m.take("bulk") {
                async_copy::cp_async(l)
            } else {
                bulk::cp(l)
            }
        }
        "wgmma" => wgmma::wgmma(l),
        "multimem" => multimem::multimem(l),
        "tensormap" => tensormap::tensormap(l),
        _ => Error::err(instruction.opcode.span, format!("unsupported instruction `{}`", line.m.spelling())),
    }
}

impl<'a> Line<'_, 'a> {
    /// Exactly `N` operands, once every modifier is taken.
    pub(super) fn fixed<const N: usize>(&self) -> Result<&'a [Operand<'a>; N]> {
        let operands = self.between(N, N)?;
        // `between` has checked the length.
        operands
            .first_chunk()
            .ok_or_else(|| Error::new(self.instruction.opcode.span, "wrong number of operands"))
    }

    /// `least` to `most` operands, once every modifier is taken.
    pub(super) fn between(&self, least: usize, most: usize) -> Result<&'a [Operand<'a>]> {
        self.m.finish()?;
        let operands = &self.instruction.operands;
        if (least..=most).contains(&operands.len()) {
            return Ok(operands);
        }
        let count = if least == most { format!("{least}") } else { format!("{least} to {most}") };
        let message = format!("`{}` takes {count} operands, not {}", self.m.spelling(), operands.len());
        Error::err(self.instruction.opcode.span, message)
    }

    pub(super) fn emit(&mut self, op: Op) -> Result<()> {
        self.body.emit(op)
    }

    /// A register that the text does not name.
    pub(super) fn temporary(&mut self, ty: Type, name: &str) -> Result<Reg> {
        self.body.files.new_register(ty, format!("({name})"), self.instruction.opcode.span)
    }

    /// An error at the opcode.
    pub(super) fn refuse<T>(&self, message: impl std::fmt::Display) -> Result<T> {
        Error::err(self.instruction.opcode.span, format!("`{}`: {message}", self.m.spelling()))
    }
}
