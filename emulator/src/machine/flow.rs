//! The ways through a kernel: where the ways of a branch meet again, and what lies between.
//!
//! A way ends at `ret` and `exit`. A way that ends at `trap`, or nowhere, is none: it does not keep others from meeting.

use crate::ir::{Instr, Op};

/// Where the ways that leave each instruction first meet (its immediate post-dominator); `None`: only at the kernel's end.
#[derive(Debug)]
pub(crate) struct Meetings(Vec<Option<usize>>);

/// Calls `to` with each instruction that may come after `code[at]`; its length stands for the kernel's end.
fn successors(code: &[Instr], at: usize, mut to: impl FnMut(usize)) {
    let end = code.len();
    let next = match &code[at].op {
        Op::Bra { target, .. } => {
            to(*target);
            code[at].guard.is_some()
        }
        Op::Brx { targets, .. } => {
            targets.iter().copied().for_each(&mut to);
            code[at].guard.is_some()
        }
        Op::Exit => {
            to(end);
            code[at].guard.is_some()
        }
        Op::Trap => code[at].guard.is_some(),
        _ => true,
    };
    if next {
        to(at + 1);
    }
}

impl Meetings {
    /// Dominators of the reversed graph (Cooper, Harvey, Kennedy: A Simple, Fast Dominance Algorithm).
    pub(crate) fn new(code: &[Instr]) -> Self {
        let end = code.len();
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); end + 1];
        for at in 0..end {
            successors(code, at, |next| before[next].push(at));
        }
        // Postorder of the reversed graph from the end; the end is the last.
        let mut rank = vec![None; end + 1];
        let mut order = Vec::with_capacity(end + 1);
        let mut seen = vec![false; end + 1];
        let mut stack = vec![(end, 0)];
        seen[end] = true;
        while let Some((node, child)) = stack.pop() {
            match before[node].get(child) {
                Some(&previous) => {
                    stack.push((node, child + 1));
                    if !std::mem::replace(&mut seen[previous], true) {
                        stack.push((previous, 0));
                    }
                }
                None => {
                    rank[node] = Some(order.len());
                    order.push(node);
                }
            }
        }
        let mut meet: Vec<Option<usize>> = vec![None; end + 1];
        meet[end] = Some(end);
        let common = |meet: &[Option<usize>], mut a: usize, mut b: usize| {
            while a != b {
                let (low, high) = if rank[a] < rank[b] { (a, b) } else { (b, a) };
                a = meet[low].unwrap_or(end);
                b = high;
            }
            a
        };
        let mut changed = true;
        while changed {
            changed = false;
            for &node in order.iter().rev().filter(|n| **n != end) {
                let mut at = None;
                successors(code, node, |next| {
                    if meet[next].is_some() {
                        at = Some(at.map_or(next, |at| common(&meet, at, next)));
                    }
                });
                changed |= meet[node] != at;
                meet[node] = at;
            }
        }
        meet.truncate(end);
        Meetings(meet.into_iter().map(|at| at.filter(|at| *at != end)).collect())
    }

    /// Do the ways that part at `branch` meet at an instruction that is more than the kernel's end, and is `at` passed by
    /// some of them before that? Then the others have left it out.
    pub(crate) fn leaves_out(&self, code: &[Instr], branch: usize, at: usize) -> bool {
        let Some(meeting) = self.0[branch] else { return false };
        if self.ends(code, meeting) {
            return false;
        }
        let mut seen = vec![false; code.len() + 1];
        let mut stack = Vec::new();
        successors(code, branch, |next| stack.push(next));
        while let Some(node) = stack.pop() {
            if node == meeting || std::mem::replace(&mut seen[node], true) {
                continue;
            }
            if node == at {
                return true;
            }
            successors(code, node, |next| stack.push(next));
        }
        false
    }

    /// Nothing is done from here on but to leave.
    fn ends(&self, code: &[Instr], mut at: usize) -> bool {
        for _ in 0..code.len() {
            match &code[at] {
                Instr { op: Op::Exit, guard: None, .. } => return true,
                Instr { op: Op::Bra { target, .. }, guard: None, .. } => at = *target,
                _ => return false,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Module;

    /// The code of a kernel with a predicate `%p` and registers `%a`, `%b`.
    fn code(body: &str) -> Vec<Instr> {
        let text = format!(
            ".version 8.0 .target sm_90a .address_size 64 .visible .entry k() {{ .reg .pred %p; .reg .b32 %a; {body} }}"
        );
        Module::parse("flow.ptx", &text).unwrap().kernels.swap_remove(0).code
    }

    #[test]
    fn ways_meet_behind_a_branch() {
        let code =
            code("@%p bra other; mov.u32 %a, 1; bra end; other: mov.u32 %a, 2; end: mov.u32 %a, 3; ret;");
        let meetings = Meetings::new(&code);
        assert_eq!(meetings.0[0], Some(4));
        assert!(meetings.leaves_out(&code, 0, 1) && meetings.leaves_out(&code, 0, 3));
        assert!(!meetings.leaves_out(&code, 0, 4));
    }

    #[test]
    fn leaving_early_leaves_nothing_out() {
        for body in
            ["@%p bra end; mov.u32 %a, 1; end: ret;", "@%p bra end; mov.u32 %a, 1; end: bra last; last: ret;"]
        {
            let code = code(body);
            assert!(!Meetings::new(&code).leaves_out(&code, 0, 1), "{body}");
        }
        // Two ends: the ways meet nowhere.
        let code = code("@%p bra other; mov.u32 %a, 1; ret; other: mov.u32 %a, 2; ret;");
        assert_eq!(Meetings::new(&code).0[0], None);
    }

    #[test]
    fn a_trap_is_no_way_and_a_loop_ends_where_it_is_left() {
        let code = code(
            "@%p bra bad; bra on; bad: trap; on: mov.u32 %a, 1; again: @%p bra again; mov.u32 %a, 2; ret;",
        );
        let meetings = Meetings::new(&code);
        assert_eq!(meetings.0[0], Some(1));
        assert_eq!(meetings.0[4], Some(5));
        assert!(meetings.leaves_out(&code, 4, 4));
    }

    #[test]
    fn a_kernel_that_never_ends_meets_nowhere() {
        let code = code("again: @%p bra again; bra again;");
        assert_eq!(Meetings::new(&code).0[0], None);
    }
}
