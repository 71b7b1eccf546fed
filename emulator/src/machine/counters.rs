//! What a device did, counted, and by kernel.

use std::collections::{BTreeMap, BTreeSet};

/// Kinds of instruction, for [`Counters::by_class`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstructionClass {
    /// Integer arithmetic, logic, moves, selects.
    Integer,
    /// Floating-point arithmetic.
    Float,
    /// Conversions.
    Convert,
    /// Branches and exits.
    Control,
    /// Loads and stores of global memory (generic ones included).
    Global,
    /// Loads and stores of shared memory, `ldmatrix`, `stmatrix`.
    Shared,
    /// Parameters, constants, local memory.
    OtherMemory,
    /// Atomics and reductions.
    Atomic,
    /// Barriers, mbarriers, fences, waits.
    Synchronisation,
    /// Asynchronous copies.
    AsyncCopy,
    /// Tensor cores.
    Tensor,
    /// Shuffles, votes and their like.
    WarpWide,
    /// Hints and everything else.
    Other,
}

impl InstructionClass {
    /// Every class, in the order of [`Counters::by_class`].
    pub const ALL: [InstructionClass; 13] = [
        InstructionClass::Integer,
        InstructionClass::Float,
        InstructionClass::Convert,
        InstructionClass::Control,
        InstructionClass::Global,
        InstructionClass::Shared,
        InstructionClass::OtherMemory,
        InstructionClass::Atomic,
        InstructionClass::Synchronisation,
        InstructionClass::AsyncCopy,
        InstructionClass::Tensor,
        InstructionClass::WarpWide,
        InstructionClass::Other,
    ];
}

/// Totals of one device since its creation or [`crate::Machine::reset`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Warp instructions issued.
    pub instructions: u64,
    /// Thread instructions executed (active lanes).
    pub thread_instructions: u64,
    /// Warp instructions by [`InstructionClass`], in the order of [`InstructionClass::ALL`].
    pub by_class: [u64; InstructionClass::ALL.len()],
    /// Bytes loaded from global memory by threads.
    pub global_load_bytes: u64,
    /// Bytes stored to global memory by threads.
    pub global_store_bytes: u64,
    /// Bytes that threads loaded from the memory of other devices. Part of `global_load_bytes`.
    pub link_load_bytes: u64,
    /// Bytes that threads and bulk copies stored to the memory of other devices. Part of `global_store_bytes` and `tma_store_bytes`.
    pub link_store_bytes: u64,
    /// Bytes brought in by bulk and tensor copies, out-of-bounds fill included.
    pub tma_load_bytes: u64,
    /// Bytes taken out by bulk and tensor copies.
    pub tma_store_bytes: u64,
    /// Bytes loaded from shared memory by threads.
    pub shared_load_bytes: u64,
    /// Bytes stored to shared memory by threads.
    pub shared_store_bytes: u64,
    /// Bytes of operands read from shared memory by `wgmma`.
    pub wgmma_shared_bytes: u64,
    /// Extra shared-memory cycles caused by bank conflicts.
    pub bank_conflicts: u64,
    /// Warpgroup-wide `wgmma.mma_async` executed.
    pub wgmma: u64,
    /// Their floating-point (or integer) operations: 2·M·N·K each.
    pub wgmma_flops: u64,
    /// Grids started.
    pub launches: u64,
    /// Those of them that began before the grid ahead of them in their stream had ended.
    pub overlapping_launches: u64,
    /// Warp instructions issued while a block of another stream was resident on the device.
    pub beside_instructions: u64,
    /// Blocks run.
    pub blocks: u64,
    /// SMs that ever had a block.
    pub sms_used: u32,
    /// Largest number of blocks resident at once.
    pub max_resident_blocks: u32,
}

impl Counters {
    /// Warp instructions of one class.
    pub fn class(&self, class: InstructionClass) -> u64 {
        self.by_class[class as usize]
    }

    /// Every count that is a sum.
    fn sums(&mut self) -> impl Iterator<Item = &mut u64> {
        let Counters {
            instructions,
            thread_instructions,
            by_class,
            global_load_bytes,
            global_store_bytes,
            link_load_bytes,
            link_store_bytes,
            tma_load_bytes,
            tma_store_bytes,
            shared_load_bytes,
            shared_store_bytes,
            wgmma_shared_bytes,
            bank_conflicts,
            wgmma,
            wgmma_flops,
            launches,
            overlapping_launches,
            beside_instructions,
            blocks,
            sms_used: _,
            max_resident_blocks: _,
        } = self;
        let single = [
            instructions,
            thread_instructions,
            global_load_bytes,
            global_store_bytes,
            link_load_bytes,
            link_store_bytes,
            tma_load_bytes,
            tma_store_bytes,
            shared_load_bytes,
            shared_store_bytes,
            wgmma_shared_bytes,
            bank_conflicts,
            wgmma,
            wgmma_flops,
            launches,
            overlapping_launches,
            beside_instructions,
            blocks,
        ];
        single.into_iter().chain(by_class)
    }

    /// Adds what was counted from `before` to `now`.
    fn add_since(&mut self, mut now: Counters, mut before: Counters) {
        for ((sum, now), before) in self.sums().zip(now.sums()).zip(before.sums()) {
            *sum += *now - *before;
        }
    }
}

/// What one kernel did on a device, all its launches together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelCounters {
    /// The entry's name.
    pub kernel: String,
    /// Its part of the device's counters. `sms_used` are the SMs its blocks ran on; `max_resident_blocks` is the device's alone and 0 here.
    pub counters: Counters,
}

/// What one kernel did, and where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    counters: Counters,
    sms: BTreeSet<u32>,
}

impl Tally {
    /// Adds what was counted meanwhile, by a block on this SM if by a block.
    pub(crate) fn add(&mut self, now: Counters, before: Counters, sm: Option<u32>) {
        self.counters.add_since(now, before);
        self.sms.extend(sm);
    }
}

/// By name.
pub(crate) type Tallies = BTreeMap<String, Tally>;

/// As the public sees it.
pub(crate) fn by_kernel(tallies: &Tallies) -> Vec<KernelCounters> {
    let one = |(kernel, tally): (&String, &Tally)| KernelCounters {
        kernel: kernel.clone(),
        counters: Counters { sms_used: tally.sms.len() as u32, ..tally.counters },
    };
    tallies.iter().map(one).collect()
}
