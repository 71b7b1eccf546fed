//! Expert placement: which GPU holds which expert, and which experts are held more than once.
//!
//! Under expert parallelism a layer is as slow as its busiest GPU, and gates are not even: a few experts draw several times
//! the mean. The remedy is to keep spare slots and to fill them with copies of the busiest experts, so that their tokens
//! can be shared out, and then to arrange the copies so that every GPU carries about the same load. This module computes
//! that arrangement from measured loads, on the host, every few minutes or every few hundred steps.
//!
//! ```
//! # use hadal::{Result, moe::balance};
//! # fn main() -> Result<()> {
//! // Tokens each of 12 experts drew in each of 2 layers.
//! let loads = [
//!     90.0, 132.0, 40.0, 61.0, 104.0, 165.0, 39.0, 4.0, 73.0, 56.0, 183.0, 86.0, //
//!     20.0, 107.0, 104.0, 64.0, 19.0, 197.0, 187.0, 157.0, 172.0, 86.0, 16.0, 27.0,
//! ];
//! // 16 slots on 8 GPUs of 2 nodes; the gate chooses among 4 groups of experts.
//! let shape = balance::Shape::new([2, 12], 16, 8);
//! let plan = balance::Plan::new(shape, balance::Options::new().groups(4).nodes(2))?;
//! let placement = plan.run(&loads)?;
//! assert_eq!(placement.physical_to_logical()[..16], [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1]);
//! // Expert 5 of layer 0 can be reached in slots 0 and 2, which are on GPUs 0 and 1.
//! assert_eq!(placement.replicas_of(0, 5), Some(&[0, 2][..]));
//! // The busiest GPU of layer 0 carries a fifth more than the mean.
//! assert!(placement.imbalance(&loads)?[0] < 1.21);
//! # Ok(())
//! # }
//! ```
//!
//! # Words
//!
//! A *logical* expert is one of the model's. A *physical* expert, or slot, is a place for one expert's weights on some GPU;
//! a *replica* is what lies in it. `[layers, replicas]` slots are numbered GPU by GPU, node by node: slot `p` of a layer is
//! on GPU `p / (replicas / gpus)`. Every logical expert has at least one replica. Its tokens are taken to be shared evenly
//! among its replicas, so a replica's load is the expert's over its count; whoever routes the tokens has to see to that.
//!
//! # Method
//!
//! DeepSeek's EPLB, to the bit; [`mod@reference`] states it, ties and roundings included. *Hierarchical*: whole groups of
//! experts are packed onto nodes, the busiest experts of each node are replicated within it, and the replicas are packed
//! onto its GPUs. A group that lives on one node suits a gate limited to a few groups, because its tokens cross the
//! network once. *Global*: the same with one group and one node, better balanced because nothing is nailed down; the choice
//! for large decoding setups. [`Policy::Auto`] takes the first where groups divide evenly over nodes.
//!
//! What makes it fast is that both greedy steps ask for an extreme of a set in which one member has just changed: the
//! least loaded GPU with room, the busiest replica. A tournament over integer keys, each a load's bits above an index,
//! answers in log₂ n branchless steps and breaks ties as the original does, where the plain method looks at all n. Arrays
//! are flat and allocated once for all layers.
//!
//! # Limits
//!
//! Greedy, so not optimal; and hierarchical cannot repair loads that differ between groups. Two replicas of one expert may
//! share a GPU, as in the original. The present placement is not considered: how many weights must move is whatever comes
//! out, so compare [`Placement::imbalance`] of the old and the new before moving any. One thread. The arithmetic
//! is FP32, as the original's: token counts whose sums stay below 2²⁴ are exact, and beyond that the placement may differ
//! from the original's where its tensor library adds up a group in another order.
//!
//! **Determinism.** The same loads give the same placement, on every machine: ranks may compute it each for itself.
//!
//! Source: <https://github.com/deepseek-ai/EPLB>; the DeepSeek-V3 report (arXiv 2412.19437), section 3.4.

mod layer;
mod placement;
mod plan;
pub mod reference;
mod tournament;

pub use placement::{PaddedMap, Placement};
pub use plan::{Options, Plan, Policy, Shape, supports};
