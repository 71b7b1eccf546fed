//! Mixture of experts: who computes what, and where.
//!
//! A token chooses a few of many experts, and the experts live on many GPUs. Between the gate's choice and the sum of the
//! experts' answers stand the questions of this family:
//!
//! | module | question |
//! | --- | --- |
//! | [`exchange`] | how tokens reach their experts on other GPUs, and the answers come back |
//! | [`balance`] | which GPU holds which expert, and which experts are held twice, given what was chosen lately |
//! | [`swiglu`] | what stands between an expert's two matrix products |

pub mod balance;
pub mod exchange;
pub mod swiglu;
