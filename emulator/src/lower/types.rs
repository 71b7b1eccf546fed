//! Type names, and which registers may stand where a type is asked for.
//!
//! The rule is the manual's ("Operand type and size"): an untyped `.bN` register or instruction goes with anything of its
//! size; signed and unsigned go together; integers and floating point do not. Loads, stores and conversions may use
//! registers wider than the type.

use crate::ir::Type;

/// The type a dotted word names.
pub(super) fn named(text: &str) -> Option<Type> {
    Some(match text {
        "pred" => Type::Pred,
        "b8" => Type::B8,
        "b16" => Type::B16,
        "b32" => Type::B32,
        "b64" => Type::B64,
        "b128" => Type::B128,
        "u8" => Type::U8,
        "u16" => Type::U16,
        "u32" => Type::U32,
        "u64" => Type::U64,
        "s8" => Type::S8,
        "s16" => Type::S16,
        "s32" => Type::S32,
        "s64" => Type::S64,
        "f16" => Type::F16,
        "f16x2" => Type::F16x2,
        "bf16" => Type::BF16,
        "bf16x2" => Type::BF16x2,
        "tf32" => Type::TF32,
        "f32" => Type::F32,
        "f64" => Type::F64,
        "e4m3" => Type::E4M3,
        "e5m2" => Type::E5M2,
        "e4m3x2" => Type::E4M3x2,
        "e5m2x2" => Type::E5M2x2,
        _ => return None,
    })
}

/// The word of a type, for messages.
pub(super) fn name(ty: Type) -> String {
    format!(".{ty:?}").to_lowercase()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Pred,
    Bits,
    Int,
    Float,
}

fn class(ty: Type) -> Class {
    use Type::*;
    match ty {
        Pred => Class::Pred,
        // 16-bit floats and packed formats live in `.bN` or integer registers as often as in their own.
        B1 | S4 | U4 | B8 | B16 | B32 | B64 | B128 | F16x2 | BF16 | BF16x2 | TF32 | E4M3 | E5M2 | E4M3x2
        | E5M2x2 => Class::Bits,
        U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64 => Class::Int,
        F16 | F32 | F64 => Class::Float,
    }
}

/// Whether a register declared as `reg` may hold an operand of type `ty`; `wider` allows registers larger than the type.
pub(super) fn fits(reg: Type, ty: Type, wider: bool) -> bool {
    let (r, t) = (class(reg), class(ty));
    if r == Class::Pred || t == Class::Pred {
        return r == t;
    }
    let size = if wider { reg.bytes() >= ty.bytes() } else { reg.bytes() == ty.bytes() };
    size && (r == t || r == Class::Bits || t == Class::Bits)
}

/// The type of the same kind and twice the size (`mul.wide`).
pub(super) fn doubled(ty: Type) -> Option<Type> {
    Some(match ty {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        Type::S32 => Type::S64,
        _ => return None,
    })
}

/// The untyped type of a size in bytes.
pub(super) fn bits(bytes: u32) -> Option<Type> {
    Some(match bytes {
        1 => Type::B8,
        2 => Type::B16,
        4 => Type::B32,
        8 => Type::B64,
        16 => Type::B128,
        _ => return None,
    })
}
