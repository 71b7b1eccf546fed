//! Strategies for [proptest](https://docs.rs/proptest): who runs next, when copies land, where shared memory begins, how many blocks are
//! resident.
//!
//! A kernel that is right is right under all of it, so a property test draws the machine as it draws the input. What fails shrinks towards
//! [`MachineConfig::default`], and a report prints the schedule, completion and seed that replay it.
//!
//! ```
//! use hadal_emulator::{Machine, MachineConfig, strategy};
//! use proptest::prelude::*;
//!
//! proptest!(|(config in strategy::machines(MachineConfig::default()))| {
//!     let machine = Machine::new(config);
//!     // load, launch, synchronize, compare
//!     # prop_assert!(machine.reports().is_empty());
//! });
//! ```

use proptest::prelude::*;
use proptest::sample::{Select, select};

use crate::{Completion, MachineConfig, Schedule, SharedPlacement};

macro_rules! arbitrary {
    ($($kind:ty: $simplest:expr $(, $other:expr)*;)*) => {$(
        /// Shrinks towards what [`MachineConfig::default`] has.
        impl Arbitrary for $kind {
            type Parameters = ();
            type Strategy = Select<$kind>;

            fn arbitrary_with((): ()) -> Self::Strategy {
                select(&[$simplest $(, $other)*][..])
            }
        }
    )*};
}

arbitrary! {
    Schedule: Schedule::RoundRobin, Schedule::Random, Schedule::Starve, Schedule::Uneven;
    Completion: Completion::Latest, Completion::Eager, Completion::Random;
    SharedPlacement: SharedPlacement::Driver, SharedPlacement::DeclaredAlignment;
}

/// Machines with the devices, checks and limits of `base`, and any schedule, completion, placement of shared memory, seed, and either
/// all blocks resident that fit or one at a time.
///
/// Kernels whose blocks wait for each other and are not launched cooperatively deadlock one at a time; [`schedules`] leaves residency
/// as it is.
pub fn machines(base: MachineConfig) -> impl Strategy<Value = MachineConfig> {
    let residency = select(&[None, Some(1)][..]);
    (schedules(base), residency)
        .prop_map(|(config, resident_blocks)| MachineConfig { resident_blocks, ..config })
}

/// As [`machines`], with the residency of `base`.
pub fn schedules(base: MachineConfig) -> impl Strategy<Value = MachineConfig> {
    let drawn = (any::<Schedule>(), any::<Completion>(), any::<SharedPlacement>(), any::<u64>());
    drawn.prop_map(move |(schedule, completion, shared_placement, seed)| MachineConfig {
        schedule,
        completion,
        shared_placement,
        seed,
        ..base.clone()
    })
}
