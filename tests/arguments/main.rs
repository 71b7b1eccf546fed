//! Arguments: what is refused and in which words, whatever comes. Most of this runs on a driver that only records.

#![cfg(feature = "emulator")]

#[path = "../support/mod.rs"]
mod support;

mod mla;
