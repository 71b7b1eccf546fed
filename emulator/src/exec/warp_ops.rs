//! Instructions across the lanes of a warp: shuffles, votes, matches, elections, reductions.
//!
//! Each names its members; members that live must execute it together. A source lane outside the active ones keeps the
//! reader's own value for `shfl` out of range, and is an error when it is in range but absent.
//!
//! A lane that is not a member of its own instruction has no defined result. But a `shfl` that the whole warp executes gives every
//! lane its neighbour's value whatever the mask says, and FlashInfer's Hopper MLA leans on that: advice, not a fault.

use super::{Core, Flow, Step, lanes};
use crate::ir::{Op, PredSrc, Redux, Reg, Shfl, Src, Type, Vote};
use crate::report::{Class, Report};

const SHUFFLE: &str = "shfl.sync";

impl Core<'_> {
    /// The member mask of a `.sync` instruction: all lanes must be in their own, and all members here.
    fn members(&mut self, members: &Src, mask: u32, what: &str) -> Result<Option<Flow>, Box<Report>> {
        let col = self.get32(members);
        let mut need = 0;
        let mut absent = 0;
        lanes::each(mask, |l| {
            need |= col[l];
            absent |= (!col[l] >> l & 1) << l;
        });
        if absent != 0 {
            let message = format!("{what} by lanes that are not in its member mask {need:#010x}");
            if what != SHUFFLE || mask != self.warp.live {
                return Err(self.report(Class::PartialWarp, absent, message));
            }
            self.not_members(absent, message);
        }
        let flow = self.converge(need, mask, what)?;
        if flow.is_none() {
            self.lanes_tell(mask);
        }
        Ok(flow)
    }

    pub(super) fn shfl(&mut self, op: &Op, mask: u32) -> Step {
        let Op::Shfl { mode, dst, pred, a, b, c, mask: members } = op else {
            return Err(self.unsupported(mask));
        };
        if let Some(flow) = self.members(members, mask, SHUFFLE)? {
            return Ok(flow);
        }
        let (a, b, c) = (self.get32(a), self.get32(b), self.get32(c));
        let mut out = a;
        let mut valid = 0u32;
        let mut absent = 0u32;
        lanes::each(mask, |l| {
            let lane = l as u32;
            let (bval, cval, segment) = (b[l] & 31, c[l] & 31, c[l] >> 8 & 31);
            let max = lane & segment | cval & !segment;
            let min = lane & segment;
            let (source, ok) = match mode {
                Shfl::Up => (lane.wrapping_sub(bval), lane as i32 - bval as i32 >= max as i32),
                Shfl::Down => (lane + bval, lane + bval <= max),
                Shfl::Bfly => (lane ^ bval, (lane ^ bval) <= max),
                Shfl::Idx => (min | bval & !segment, (min | bval & !segment) <= max),
            };
            if ok {
                let source = source & 31;
                valid |= 1 << l;
                if mask >> source & 1 == 0 {
                    absent |= 1 << l;
                }
                out[l] = a[source as usize];
            }
        });
        if absent != 0 {
            return Err(self.report(
                Class::PartialWarp,
                absent,
                "shfl.sync reads from a lane that does not take part",
            ));
        }
        self.set(*dst, &out.map(u64::from), mask);
        if let Some(p) = pred {
            self.set_pred(*p, valid, mask);
        }
        Ok(Flow::Next)
    }

    pub(super) fn vote(&mut self, mode: Vote, dst: Reg, pred: PredSrc, members: &Src, mask: u32) -> Step {
        if let Some(flow) = self.members(members, mask, "vote.sync")? {
            return Ok(flow);
        }
        let col = self.get32(members);
        let value = self.pred(pred) & mask;
        let mut out = [0u64; 32];
        lanes::each(mask, |l| {
            let group = col[l] & mask;
            out[l] = match mode {
                Vote::All => (value & group == group) as u64,
                Vote::Any => (value & group != 0) as u64,
                Vote::Uni => (value & group == group || value & group == 0) as u64,
                Vote::Ballot => (value & group) as u64,
            };
        });
        self.set(dst, &out, mask);
        Ok(Flow::Next)
    }

    pub(super) fn match_any(&mut self, op: &Op, mask: u32) -> Step {
        let Op::Match { all, ty: _, dst, pred, a, mask: members } = op else {
            return Err(self.unsupported(mask));
        };
        if let Some(flow) = self.members(members, mask, "match.sync")? {
            return Ok(flow);
        }
        let (col, groups) = (self.get64(a), self.get32(members));
        let mut out = [0u64; 32];
        let mut uniform = 0u32;
        lanes::each(mask, |l| {
            let group = groups[l] & mask;
            let mut same = 0u32;
            lanes::each(group, |k| same |= ((col[k] == col[l]) as u32) << k);
            if *all {
                let agree = same == group;
                out[l] = if agree { group as u64 } else { 0 };
                uniform |= (agree as u32) << l;
            } else {
                out[l] = same as u64;
            }
        });
        self.set(*dst, &out, mask);
        if let Some(p) = pred {
            self.set_pred(*p, uniform, mask);
        }
        Ok(Flow::Next)
    }

    /// `elect.sync`: the lowest lane, as shipping code expects.
    pub(super) fn elect(&mut self, dst: Option<Reg>, pred: u32, members: &Src, mask: u32) -> Step {
        if let Some(flow) = self.members(members, mask, "elect.sync")? {
            return Ok(flow);
        }
        let leader = mask.trailing_zeros();
        if let Some(dst) = dst {
            self.set(dst, &[leader as u64; 32], mask);
        }
        self.set_pred(pred, 1 << leader, mask);
        Ok(Flow::Next)
    }

    pub(super) fn redux(&mut self, op: Redux, ty: Type, dst: Reg, a: &Src, members: &Src, mask: u32) -> Step {
        if let Some(flow) = self.members(members, mask, "redux.sync")? {
            return Ok(flow);
        }
        if ty.is_float() {
            return Err(self.unsupported(mask));
        }
        let (col, groups) = (self.get32(a), self.get32(members));
        let signed = ty.is_signed();
        let mut out = [0u64; 32];
        lanes::each(mask, |l| {
            let mut total: Option<u32> = None;
            lanes::each(groups[l] & mask, |k| {
                let value = col[k];
                total = Some(match total {
                    None => value,
                    Some(t) => match op {
                        Redux::Add => t.wrapping_add(value),
                        Redux::Min if signed => (t as i32).min(value as i32) as u32,
                        Redux::Max if signed => (t as i32).max(value as i32) as u32,
                        Redux::Min => t.min(value),
                        Redux::Max => t.max(value),
                        Redux::And => t & value,
                        Redux::Or => t | value,
                        Redux::Xor => t ^ value,
                    },
                });
            });
            out[l] = total.unwrap_or(0) as u64;
        });
        self.set(dst, &out, mask);
        Ok(Flow::Next)
    }
}
