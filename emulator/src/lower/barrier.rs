//! Barriers of blocks, warps and clusters, and fences.

use crate::ir::{BarRedOp, Op, ProxyFence, Scope, Semantics, Space, Src, Type};
use crate::ptx::Result;
use crate::ptx::ast::Operand;

use super::family::Line;

use Type::*;

/// `bar`, `barrier` with all their forms.
pub(super) fn bar(l: &mut Line<'_, '_>) -> Result<()> {
    if l.m.take("cluster") {
        return cluster(l);
    }
    // `bar` is `barrier….aligned`.
    let bar = l.instruction.opcode.text == "bar";
    if bar && l.m.take("warp") {
        if !l.m.take("sync") {
            return l.m.missing(".sync");
        }
        let [mask] = l.fixed()?;
        let mask = l.src(mask, B32)?;
        return l.emit(Op::BarWarpSync { mask });
    }
    l.m.take("cta");
    let aligned = l.m.take("aligned");
    if bar && aligned {
        return l.refuse("`bar` is aligned without saying so");
    }
    let aligned = aligned || bar;
    if l.m.take("sync") {
        let operands = l.between(1, 2)?;
        let (id, count) = numbers(l, operands)?;
        return l.emit(Op::BarSync { id, count, aligned });
    }
    if l.m.take("arrive") {
        let operands = l.between(2, 2)?;
        let (id, count) = numbers(l, operands)?;
        let Some(count) = count else { return l.refuse("the number of threads is missing") };
        return l.emit(Op::BarArrive { id, count, aligned });
    }
    if !l.m.take("red") {
        return l.m.missing(".sync, .arrive or .red");
    }
    let op = l.m.need(".popc, .and or .or", |word| match word {
        "popc" => Some(BarRedOp::Popc),
        "and" => Some(BarRedOp::And),
        "or" => Some(BarRedOp::Or),
        _ => None,
    })?;
    let ty = l.m.ty_of(if op == BarRedOp::Popc { &[U32] } else { &[Pred] })?;
    let operands = l.between(3, 4)?;
    let dst = l.dst(&operands[0], ty)?;
    let last = operands.len() - 1;
    let (id, count) = numbers(l, &operands[1..last])?;
    let pred = l.pred_src(&operands[last])?;
    l.emit(Op::BarRed { op, dst, id, count, pred, aligned })
}

/// Barrier number and thread count, checked as far as they are constants.
fn numbers<'a>(l: &mut Line<'_, 'a>, operands: &'a [Operand<'a>]) -> Result<(Src, Option<Src>)> {
    let id = l.src(&operands[0], U32)?;
    if matches!(id, Src::Imm(16..)) {
        return l.refuse("a block has barriers 0 to 15");
    }
    let count = match operands.get(1) {
        Some(count) => Some(l.src(count, U32)?),
        None => None,
    };
    if let Some(Src::Imm(count)) = count
        && (count == 0 || count % 32 != 0)
    {
        return l.refuse(format!("the thread count {count} is not a positive multiple of 32"));
    }
    Ok((id, count))
}

fn cluster(l: &mut Line<'_, '_>) -> Result<()> {
    let aligned = l.m.take("aligned");
    if l.m.take("arrive") {
        let sem = match l.m.semantics() {
            None | Some(Semantics::Release) => Semantics::Release,
            Some(Semantics::Relaxed) => Semantics::Relaxed,
            Some(_) => return l.refuse("an arrival is .release or .relaxed"),
        };
        let [] = l.fixed()?;
        return l.emit(Op::ClusterArrive { sem, aligned });
    }
    if !l.m.take("wait") {
        return l.m.missing(".arrive or .wait");
    }
    // Waiting acquires whether it is written or not.
    l.m.take("acquire");
    let [] = l.fixed()?;
    l.emit(Op::ClusterWait { acquire: true, aligned })
}

/// `membar` and `fence`
pub(super) fn fence(l: &mut Line<'_, '_>) -> Result<()> {
    if l.m.take("proxy") {
        return proxy(l);
    }
    if l.instruction.opcode.text == "membar" {
        let scope = l.m.need("a level: .cta, .gl or .sys", |word| match word {
            "cta" => Some(Scope::Cta),
            "gl" => Some(Scope::Gpu),
            "sys" => Some(Scope::Sys),
            _ => None,
        })?;
        let [] = l.fixed()?;
        return l.emit(Op::Fence { sem: Semantics::Sc, scope, mbarrier_init: false });
    }
    let mbarrier_init = l.m.take("mbarrier_init");
    let sem = match l.m.semantics() {
        None => Semantics::AcqRel,
        Some(sem @ (Semantics::Sc | Semantics::AcqRel | Semantics::Acquire | Semantics::Release)) => sem,
        Some(_) => return l.refuse("a fence is .sc, .acq_rel, .acquire or .release"),
    };
    let Some(scope) = l.m.scope() else {
        return l.m.missing("a scope: .cta, .cluster, .gpu or .sys");
    };
    if mbarrier_init && (sem, scope) != (Semantics::Release, Scope::Cluster) {
        return l.m.missing(".release.cluster");
    }
    let [] = l.fixed()?;
    l.emit(Op::Fence { sem, scope, mbarrier_init })
}

#[derive(Clone, Copy)]
enum Proxy {
    Alias,
    Async,
    AsyncGeneric,
    TensorMap,
}

/// `fence.proxy.*`
fn proxy(l: &mut Line<'_, '_>) -> Result<()> {
    let proxy = l.m.need("a proxy: .alias, .async or .tensormap::generic", |word| match word {
        "alias" => Some(Proxy::Alias),
        "async" => Some(Proxy::Async),
        "async::generic" => Some(Proxy::AsyncGeneric),
        "tensormap::generic" => Some(Proxy::TensorMap),
        _ => None,
    })?;
    let (kind, addr) = match proxy {
        Proxy::Alias => (ProxyFence::Alias, None),
        Proxy::Async => {
            if l.instruction.opcode.text == "membar" || l.m.take("shared") {
                return l.refuse(
                    "it is `fence.proxy.async`, alone or with .global, .shared::cta or .shared::cluster",
                );
            }
            let space = match l.m.space() {
                Space::Generic => None,
                space @ (Space::Global | Space::Shared | Space::SharedCluster) => Some(space),
                _ => return l.refuse("the async proxy sees global and shared memory"),
            };
            (ProxyFence::Async(space), None)
        }
        Proxy::AsyncGeneric => {
            let acquire = acquires(l)?;
            if l.m.one_of(|word| word.starts_with("sync_restrict::").then_some(())).is_none() {
                return l.m.missing(".sync_restrict::…");
            }
            l.m.scope();
            (ProxyFence::AsyncGeneric { acquire }, None)
        }
        Proxy::TensorMap => {
            let acquire = acquires(l)?;
            let Some(scope) = l.m.scope() else {
                return l.m.missing("a scope: .cta, .cluster, .gpu or .sys");
            };
            if acquire {
                let [addr, size] = l.fixed()?;
                l.integer_in(size, 128..=128)?;
                (ProxyFence::TensorMapAcquire(scope), Some(l.addr(addr)?))
            } else {
                (ProxyFence::TensorMapRelease(scope), None)
            }
        }
    };
    if addr.is_none() {
        let [] = l.fixed()?;
    }
    l.emit(Op::FenceProxy { kind, addr })
}

fn acquires(l: &mut Line<'_, '_>) -> Result<bool> {
    match l.m.semantics() {
        Some(Semantics::Acquire) => Ok(true),
        Some(Semantics::Release) => Ok(false),
        _ => l.m.missing(".acquire or .release"),
    }
}
