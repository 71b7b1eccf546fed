//! Arguments: what is refused and in which words, whatever comes, and that looking at them costs no memory. All of this runs on drivers that only
//! record, or do nothing.

#![cfg(feature = "emulator")]

mod allocations;
mod entries;
#[path = "../support/idle.rs"]
mod idle;
mod mla;
mod plans;
mod random;
#[path = "../support/mod.rs"]
mod support;
