//! Runs PTX for NVIDIA Hopper (`sm_90a`) on the CPU, with the checks a chip does not make.
#![allow(dead_code)]
pub mod ir;
