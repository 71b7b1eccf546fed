//! Which registers an operation reads and writes.
//!
//! The checks of registers (written before read, not owned by an unfinished `wgmma`) are one loop over these lists before
//! each instruction, so that no operation has to think of them. The accumulators and register fragments of `wgmma` are left
//! out: their rules are its own.

use crate::ir::{Addr, Completion, Op, PredSrc, Reg, ScaleD, Src, WgmmaA};

/// How a register is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

struct Visitor<'a>(&'a mut dyn FnMut(Reg, Access));

impl Visitor<'_> {
    fn src(&mut self, src: &Src) {
        if let Src::Reg(reg) = src {
            (self.0)(*reg, Access::Read);
        }
    }

    fn srcs(&mut self, srcs: &[Src]) {
        srcs.iter().for_each(|s| self.src(s));
    }

    fn addr(&mut self, addr: &Addr) {
        self.src(&addr.base);
    }

    fn pred(&mut self, pred: &PredSrc) {
        (self.0)(Reg::Pred(pred.reg), Access::Read);
    }

    fn dst(&mut self, dst: Reg) {
        (self.0)(dst, Access::Write);
    }

    fn dst_pred(&mut self, dst: u32) {
        self.dst(Reg::Pred(dst));
    }

    fn dsts(&mut self, dsts: &[Option<Reg>]) {
        dsts.iter().flatten().for_each(|d| self.dst(*d));
    }
}

/// Calls `f` for every register of an operation.
pub(crate) fn visit(op: &Op, f: &mut dyn FnMut(Reg, Access)) {
    let mut v = Visitor(f);
    match op {
        Op::Mov { dst, src, .. } | Op::Cvta { dst, src, .. } => {
            v.src(src);
            v.dst(*dst);
        }
        Op::Pack { dst, srcs, .. } => {
            v.srcs(srcs);
            v.dst(*dst);
        }
        Op::Unpack { dsts, src, .. } => {
            v.src(src);
            v.dsts(dsts);
        }
        Op::Un { dst, a, .. } => {
            v.src(a);
            v.dst(*dst);
        }
        Op::Bin { dst, a, b, .. } => {
            v.src(a);
            v.src(b);
            v.dst(*dst);
        }
        Op::Tern { dst, a, b, c, .. } | Op::Slct { dst, a, b, c, .. } => {
            v.src(a);
            v.src(b);
            v.src(c);
            v.dst(*dst);
        }
        Op::Bfi { dst, a, b, pos, len, .. } => {
            v.srcs(&[*a, *b, *pos, *len]);
            v.dst(*dst);
        }
        Op::Setp { p, q, a, b, combine, .. } => {
            v.src(a);
            v.src(b);
            if let Some((_, pred)) = combine {
                v.pred(pred);
            }
            p.iter().chain(q).for_each(|d| v.dst_pred(*d));
        }
        Op::Set { dst, a, b, combine, .. } => {
            v.src(a);
            v.src(b);
            if let Some((_, pred)) = combine {
                v.pred(pred);
            }
            v.dst(*dst);
        }
        Op::PredBin { dst, a, b, .. } => {
            v.src(a);
            v.src(b);
            v.dst_pred(*dst);
        }
        Op::PredNot { dst, a } => {
            v.src(a);
            v.dst_pred(*dst);
        }
        Op::Selp { dst, a, b, pred, .. } => {
            v.src(a);
            v.src(b);
            v.pred(pred);
            v.dst(*dst);
        }
        Op::Cvt { dst, a, b, .. } => {
            v.src(a);
            b.iter().for_each(|b| v.src(b));
            v.dst(*dst);
        }
        Op::Isspacep { dst, src, .. } => {
            v.src(src);
            v.dst_pred(*dst);
        }
        Op::Ld { dsts, addr, .. } | Op::MultimemLdReduce { dsts, addr, .. } => {
            v.addr(addr);
            v.dsts(dsts);
        }
        Op::St { srcs, addr, .. }
        | Op::MultimemSt { srcs, addr, .. }
        | Op::MultimemRed { srcs, addr, .. } => {
            v.addr(addr);
            v.srcs(srcs);
        }
        Op::Atom { dsts, addr, b, c, .. } => {
            v.addr(addr);
            v.srcs(b);
            c.iter().for_each(|c| v.src(c));
            v.dsts(dsts);
        }
        Op::Brx { index, .. } => v.src(index),
        Op::Nanosleep { duration } => v.src(duration),
        Op::BarSync { id, count, .. } => {
            v.src(id);
            count.iter().for_each(|c| v.src(c));
        }
        Op::BarArrive { id, count, .. } => v.srcs(&[*id, *count]),
        Op::BarRed { dst, id, count, pred, .. } => {
            v.src(id);
            count.iter().for_each(|c| v.src(c));
            v.pred(pred);
            v.dst(*dst);
        }
        Op::BarWarpSync { mask } => v.src(mask),
        Op::FenceProxy { addr: Some(addr), .. } => v.addr(addr),
        Op::Shfl { dst, pred, a, b, c, mask, .. } => {
            v.srcs(&[*a, *b, *c, *mask]);
            v.dst(*dst);
            pred.iter().for_each(|p| v.dst_pred(*p));
        }
        Op::Vote { dst, pred, mask, .. } => {
            v.pred(pred);
            v.src(mask);
            v.dst(*dst);
        }
        Op::Match { dst, pred, a, mask, .. } => {
            v.srcs(&[*a, *mask]);
            v.dst(*dst);
            pred.iter().for_each(|p| v.dst_pred(*p));
        }
        Op::ActiveMask { dst } | Op::CreatePolicy { dst } => v.dst(*dst),
        Op::Elect { dst, pred, mask } => {
            v.src(mask);
            dst.iter().for_each(|d| v.dst(*d));
            v.dst_pred(*pred);
        }
        Op::Redux { dst, a, mask, .. } => {
            v.srcs(&[*a, *mask]);
            v.dst(*dst);
        }
        Op::LdMatrix { dsts, addr, .. } => {
            v.addr(addr);
            dsts.iter().for_each(|d| v.dst(*d));
        }
        Op::MovMatrix { dst, src } => {
            v.src(src);
            v.dst(*dst);
        }
        Op::StMatrix { srcs, addr, .. } => {
            v.addr(addr);
            v.srcs(srcs);
        }
        Op::MbarInit { addr, count, .. } => {
            v.addr(addr);
            v.src(count);
        }
        Op::MbarInval { addr, .. } | Op::CpAsyncMbarArrive { addr, .. } => v.addr(addr),
        Op::MbarTx { addr, bytes, .. } => {
            v.addr(addr);
            v.src(bytes);
        }
        Op::MbarArrive(a) => {
            v.addr(&a.addr);
            v.src(&a.count);
            a.expect_tx.iter().for_each(|b| v.src(b));
            a.state.iter().for_each(|d| v.dst(*d));
        }
        Op::MbarWait(w) => {
            v.addr(&w.addr);
            v.src(&w.phase);
            v.dst_pred(w.dst);
        }
        Op::MbarPendingCount { dst, state } => {
            v.src(state);
            v.dst(*dst);
        }
        Op::CpAsync { dst, src, src_bytes, ignore, .. } => {
            v.addr(dst);
            v.addr(src);
            src_bytes.iter().for_each(|s| v.src(s));
            ignore.iter().for_each(|p| v.pred(p));
        }
        Op::Bulk(bulk) => {
            v.addr(&bulk.dst);
            v.addr(&bulk.src);
            if let Some(tensor) = &bulk.tensor {
                v.addr(&tensor.map);
                v.srcs(&tensor.coords);
                tensor.im2col.iter().for_each(|o| v.srcs(o));
            }
            if let Some(Completion::Mbarrier(addr)) = &bulk.completion {
                v.addr(addr);
            }
            bulk.size.iter().chain(&bulk.multicast).chain(&bulk.cache_hint).for_each(|s| v.src(s));
        }
        Op::Wgmma(w) => {
            v.src(&w.b_desc);
            if let WgmmaA::Desc(desc) = &w.a {
                v.src(desc);
            }
            if let ScaleD::Pred(pred) = &w.scale_d {
                v.pred(pred);
            }
        }
        Op::Mapa { dst, addr, rank, .. } => {
            v.srcs(&[*addr, *rank]);
            v.dst(*dst);
        }
        Op::GetCtaRank { dst, addr, .. } => {
            v.src(addr);
            v.dst(*dst);
        }
        Op::StAsync { srcs, addr, mbar, .. } => {
            v.addr(addr);
            v.addr(mbar);
            v.srcs(srcs);
        }
        Op::RedAsync { src, addr, mbar, .. } => {
            v.addr(addr);
            v.addr(mbar);
            v.src(src);
        }
        Op::Mma(m) => {
            v.srcs(&m.a);
            v.srcs(&m.b);
            v.srcs(&m.c);
            m.d.iter().for_each(|d| v.dst(*d));
        }
        Op::TensorMapReplace { addr, value, .. } => {
            v.addr(addr);
            v.src(value);
        }
        Op::TensorMapCpFenceProxy { dst, src, .. } => {
            v.addr(dst);
            v.addr(src);
        }
        Op::Bra { .. }
        | Op::Exit
        | Op::Trap
        | Op::Nop
        | Op::ClusterArrive { .. }
        | Op::ClusterWait { .. }
        | Op::Fence { .. }
        | Op::FenceProxy { addr: None, .. }
        | Op::CpAsyncCommit
        | Op::CpAsyncWait { .. }
        | Op::BulkCommit
        | Op::BulkWait { .. }
        | Op::WgmmaFence
        | Op::WgmmaCommit
        | Op::WgmmaWait { .. }
        | Op::SetMaxNReg { .. }
        | Op::GridDepControl { .. }
        | Op::Hint(_) => {}
    }
}
