//! `tensormap.*`: edits of a tensor map in memory.

use crate::ir::{Op, Semantics, Space, TensorMapField, Type};
use crate::ptx::Result;

use super::family::Line;

use Type::*;

/// Every `tensormap` instruction.
pub(super) fn tensormap(l: &mut Line<'_, '_>) -> Result<()> {
    if l.m.take("cp_fenceproxy") {
        return cp_fenceproxy(l);
    }
    if !l.m.take("replace") || !l.m.take("tile") {
        return l.m.missing(".replace.tile or .cp_fenceproxy");
    }
    let field = l.m.need("a field such as .global_address", |word| {
        Some(match word {
            "global_address" => TensorMapField::GlobalAddress,
            "rank" => TensorMapField::Rank,
            "box_dim" => TensorMapField::BoxDim,
            "global_dim" => TensorMapField::GlobalDim,
            "global_stride" => TensorMapField::GlobalStride,
            "element_stride" => TensorMapField::ElementStride,
            "elemtype" => TensorMapField::ElementType,
            "interleave_layout" => TensorMapField::InterleaveLayout,
            "swizzle_mode" => TensorMapField::SwizzleMode,
            "fill_mode" => TensorMapField::FillMode,
            _ => return None,
        })
    })?;
    let space = l.m.space();
    if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
        return l.refuse("a tensor map is edited in global or shared memory");
    }
    if !l.m.take("b1024") {
        return l.m.missing(".b1024");
    }
    use TensorMapField::*;
    let ty = l.m.ty_of(if matches!(field, GlobalAddress | GlobalStride) { &[B64] } else { &[B32] })?;
    let indexed = matches!(field, BoxDim | GlobalDim | GlobalStride | ElementStride);
    let count = 2 + usize::from(indexed);
    let operands = l.between(count, count)?;
    let (addr, space) = l.addr_in(&operands[0], space)?;
    let index = if indexed { l.integer_in(&operands[1], 0..=4)? as u32 } else { 0 };
    let value = l.src(&operands[count - 1], ty)?;
    l.emit(Op::TensorMapReplace { field, space, ty, addr, index, value })
}

/// `tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.scope.sync.aligned [dst], [src], 128`
fn cp_fenceproxy(l: &mut Line<'_, '_>) -> Result<()> {
    for word in ["global", "shared::cta", "tensormap::generic", "sync", "aligned"] {
        if !l.m.take(word) {
            return l.m.missing(&format!(".{word}"));
        }
    }
    if l.m.semantics() != Some(Semantics::Release) {
        return l.m.missing(".release");
    }
    let Some(scope) = l.m.scope() else {
        return l.m.missing("a scope: .cta, .cluster, .gpu or .sys");
    };
    let [dst, src, size] = l.fixed()?;
    let ((dst, _), (src, _)) = (l.addr_in(dst, Space::Global)?, l.addr_in(src, Space::Shared)?);
    l.integer_in(size, 128..=128)?;
    l.emit(Op::TensorMapCpFenceProxy { dst, src, scope })
}
