//! The mbarrier object: a phase state machine in eight bytes of shared memory.
//!
//! An mbarrier counts arrivals of threads and bytes of asynchronous copies. A phase completes when no arrival and no
//! byte is pending; then the arrival count is reloaded and the next phase begins (PTX ISA, "mbarrier").
//!
//! All state lives in the 64-bit word itself, as on the chip, so that copying, remote access and accidental overwriting
//! of a barrier behave as they would there. The chip's layout is not documented; ours is
//!
//! | bits | field |
//! | --- | --- |
//! | 0–19 | pending arrivals of the current phase |
//! | 20–39 | arrivals expected in the next phases |
//! | 40–60 | pending transaction bytes, two's complement |
//! | 61 | parity of the current, incomplete phase |
//! | 62–63 | `01` in a live object; zeroed memory is no barrier |
//!
//! The transaction count is signed within a phase: a copy may complete before its bytes are expected, and shipping kernels
//! issue copies before `expect_tx`. Its range is ±(2^20 − 1), as the ISA says.

use std::fmt;

/// Largest arrival count and largest magnitude of the transaction count: 2^20 − 1.
pub const MAX_COUNT: u32 = (1 << 20) - 1;

const COUNT_MASK: u64 = MAX_COUNT as u64;
const TX_MASK: u64 = (1 << 21) - 1;
const LIVE: u64 = 0b01;

/// The opaque eight bytes of an mbarrier.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mbarrier(pub u64);

/// What an operation on an mbarrier did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbarError {
    /// The eight bytes are not a live mbarrier (never initialised, invalidated, or overwritten).
    NotInitialised {
        /// What was found.
        word: u64,
    },
    /// A count outside 1 to 2^20 − 1.
    CountRange {
        /// The offending count.
        count: u32,
    },
    /// More arrivals than the phase still expects.
    TooManyArrivals {
        /// Arrivals of this operation.
        count: u32,
        /// Arrivals still pending in the phase.
        pending: u32,
    },
    /// Pending arrivals would exceed 2^20 − 1.
    PendingOverflow,
    /// The transaction count would leave ±(2^20 − 1).
    TxRange {
        /// Count before the operation.
        tx: i32,
        /// Signed change the operation asked for.
        change: i64,
    },
    /// A `.noComplete` arrival that would have completed the phase.
    WouldComplete {
        /// Arrivals of this operation.
        count: u32,
    },
}

impl fmt::Display for MbarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            MbarError::NotInitialised { word } => {
                write!(
                    f,
                    "no live mbarrier here (the eight bytes are {word:#018x}): missing init, or used after inval"
                )
            }
            MbarError::CountRange { count } => {
                write!(f, "mbarrier count {count} is outside 1 to {MAX_COUNT}")
            }
            MbarError::TooManyArrivals { count, pending } => {
                write!(f, "{count} arrival(s) at an mbarrier whose phase expects only {pending} more")
            }
            MbarError::PendingOverflow => write!(f, "pending arrivals of the mbarrier exceed {MAX_COUNT}"),
            MbarError::TxRange { tx, change } => {
                write!(f, "transaction count {tx} changed by {change} leaves the range of ±{MAX_COUNT}")
            }
            MbarError::WouldComplete { count } => {
                write!(f, "{count} arrival(s) with .noComplete would complete the phase")
            }
        }
    }
}

impl std::error::Error for MbarError {}

impl fmt::Debug for Mbarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_valid() {
            return write!(f, "Mbarrier(not live: {:#018x})", self.0);
        }
        write!(
            f,
            "Mbarrier(phase {}, pending {} of {}, tx {})",
            self.phase(),
            self.pending(),
            self.expected(),
            self.tx()
        )
    }
}

impl Mbarrier {
    /// A barrier freshly initialised for `count` arrivals per phase.
    pub fn init(count: u32) -> Result<Mbarrier, MbarError> {
        if count == 0 || count > MAX_COUNT {
            return Err(MbarError::CountRange { count });
        }
        Ok(Mbarrier::pack(count, count, 0, 0))
    }

    /// What `mbarrier.inval` leaves behind: no live object.
    pub const fn invalidated() -> Mbarrier {
        Mbarrier(u64::MAX)
    }

    const fn pack(pending: u32, expected: u32, tx: i32, phase: u32) -> Mbarrier {
        Mbarrier(
            pending as u64
                | (expected as u64) << 20
                | (tx as i64 as u64 & TX_MASK) << 40
                | (phase as u64 & 1) << 61
                | LIVE << 62,
        )
    }

    /// Whether the eight bytes are a live mbarrier. Arbitrary data can look like one, zeroed memory cannot.
    pub const fn is_valid(self) -> bool {
        self.0 >> 62 == LIVE && self.pending() <= MAX_COUNT && self.tx().unsigned_abs() <= MAX_COUNT
    }

    /// Arrivals still missing in the current phase.
    pub const fn pending(self) -> u32 {
        (self.0 & COUNT_MASK) as u32
    }

    /// Arrivals each following phase will expect.
    pub const fn expected(self) -> u32 {
        ((self.0 >> 20) & COUNT_MASK) as u32
    }

    /// Bytes still to be delivered in the current phase; negative when copies completed ahead of their expectation.
    pub const fn tx(self) -> i32 {
        // Shift the 21-bit field to the top and back to extend its sign.
        ((self.0 << 3) as i64 >> 43) as i32
    }

    /// Parity (0 or 1) of the current, incomplete phase.
    pub const fn phase(self) -> u32 {
        (self.0 >> 61) as u32 & 1
    }

    fn live(self) -> Result<(), MbarError> {
        if self.is_valid() { Ok(()) } else { Err(MbarError::NotInitialised { word: self.0 }) }
    }

    /// Stores the new counts; starts the next phase when nothing is pending.
    fn settle(&mut self, pending: u32, expected: u32, tx: i32) {
        let phase = self.phase();
        *self = if pending == 0 && tx == 0 {
            Mbarrier::pack(expected, expected, 0, phase ^ 1)
        } else {
            Mbarrier::pack(pending, expected, tx, phase)
        };
    }

    /// `count` arrivals. Returns the state before them, the token `test_wait` takes.
    pub fn arrive(&mut self, count: u32) -> Result<u64, MbarError> {
        self.arrive_with(count, 0, false)
    }

    /// `count` arrivals that also leave the barrier: every following phase expects that many fewer.
    pub fn arrive_drop(&mut self, count: u32) -> Result<u64, MbarError> {
        self.arrive_with(count, count, false)
    }

    /// `count` arrivals with `.noComplete`: an error if they would complete the phase. `drop` as in [`Self::arrive_drop`].
    pub fn arrive_no_complete(&mut self, count: u32, drop: bool) -> Result<u64, MbarError> {
        self.arrive_with(count, if drop { count } else { 0 }, true)
    }

    fn arrive_with(&mut self, count: u32, dropped: u32, no_complete: bool) -> Result<u64, MbarError> {
        self.live()?;
        if count == 0 || count > MAX_COUNT {
            return Err(MbarError::CountRange { count });
        }
        let before = *self;
        let pending = self.pending();
        if count > pending || dropped > self.expected() {
            return Err(MbarError::TooManyArrivals { count, pending });
        }
        if no_complete && count == pending && self.tx() == 0 {
            return Err(MbarError::WouldComplete { count });
        }
        self.settle(pending - count, self.expected() - dropped, self.tx());
        Ok(before.0)
    }

    /// One more pending arrival, as `cp.async.mbarrier.arrive` without `.noinc` adds before it arrives.
    pub fn inc_pending(&mut self) -> Result<(), MbarError> {
        self.live()?;
        if self.pending() == MAX_COUNT {
            return Err(MbarError::PendingOverflow);
        }
        self.settle(self.pending() + 1, self.expected(), self.tx());
        Ok(())
    }

    /// Expects `bytes` more in the current phase.
    pub fn expect_tx(&mut self, bytes: u32) -> Result<(), MbarError> {
        self.change_tx(i64::from(bytes))
    }

    /// Delivers `bytes`.
    pub fn complete_tx(&mut self, bytes: u32) -> Result<(), MbarError> {
        self.change_tx(-i64::from(bytes))
    }

    fn change_tx(&mut self, change: i64) -> Result<(), MbarError> {
        self.live()?;
        let tx = i64::from(self.tx()) + change;
        if tx.unsigned_abs() > u64::from(MAX_COUNT) {
            return Err(MbarError::TxRange { tx: self.tx(), change });
        }
        self.settle(self.pending(), self.expected(), tx as i32);
        Ok(())
    }

    /// `test_wait.parity`: whether the phase of that parity has completed, that is, is not the current one. Only bit 0 of
    /// `parity` counts. A fresh barrier is in phase 0, so waiting for parity 1 returns at once.
    pub const fn test_parity(self, parity: u32) -> bool {
        self.phase() != parity & 1
    }

    /// `test_wait` with the token of an arrival: whether that arrival's phase has completed.
    pub const fn test_state(self, state: u64) -> bool {
        self.phase() != Mbarrier(state).phase()
    }

    /// `mbarrier.pending_count` of a token.
    pub const fn pending_count(state: u64) -> u32 {
        Mbarrier(state).pending()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_alternate() {
        let mut bar = Mbarrier::init(2).unwrap();
        assert!(bar.test_parity(1) && !bar.test_parity(0));
        let first = bar.arrive(1).unwrap();
        assert_eq!(Mbarrier::pending_count(first), 2);
        assert!(!bar.test_state(first));
        let second = bar.arrive(1).unwrap();
        assert_eq!(Mbarrier::pending_count(second), 1);
        assert!(bar.test_state(first) && bar.test_state(second) && bar.test_parity(0) && !bar.test_parity(1));
        assert_eq!((bar.pending(), bar.expected(), bar.phase()), (2, 2, 1));
        bar.arrive(2).unwrap();
        assert_eq!(bar.phase(), 0);
    }

    #[test]
    fn bytes_may_land_before_they_are_expected() {
        let mut bar = Mbarrier::init(1).unwrap();
        bar.complete_tx(1024).unwrap();
        assert_eq!(bar.tx(), -1024);
        bar.expect_tx(2048).unwrap();
        bar.arrive(1).unwrap();
        assert_eq!((bar.phase(), bar.pending(), bar.tx()), (0, 0, 1024));
        bar.complete_tx(1024).unwrap();
        assert_eq!((bar.phase(), bar.pending(), bar.tx()), (1, 1, 0));
    }

    #[test]
    fn early_bytes_hold_the_phase_open() {
        let mut bar = Mbarrier::init(1).unwrap();
        bar.complete_tx(16).unwrap();
        bar.arrive(1).unwrap();
        assert_eq!(bar.phase(), 0);
        bar.expect_tx(16).unwrap();
        assert_eq!(bar.phase(), 1);
    }

    #[test]
    fn dropping_lowers_later_phases() {
        let mut bar = Mbarrier::init(3).unwrap();
        bar.arrive_drop(1).unwrap();
        bar.arrive(2).unwrap();
        assert_eq!((bar.phase(), bar.pending(), bar.expected()), (1, 2, 2));
    }

    #[test]
    fn copies_without_noinc_add_their_own_arrival() {
        let mut bar = Mbarrier::init(1).unwrap();
        bar.inc_pending().unwrap();
        bar.arrive(1).unwrap();
        assert_eq!((bar.phase(), bar.pending()), (0, 1));
        bar.arrive(1).unwrap();
        assert_eq!((bar.phase(), bar.pending()), (1, 1));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(Mbarrier::init(0), Err(MbarError::CountRange { count: 0 }));
        assert_eq!(Mbarrier::init(1 << 20), Err(MbarError::CountRange { count: 1 << 20 }));
        for dead in [Mbarrier(0), Mbarrier::invalidated()] {
            let mut bar = dead;
            assert!(!bar.is_valid());
            assert_eq!(bar.arrive(1), Err(MbarError::NotInitialised { word: dead.0 }));
            assert_eq!(bar.expect_tx(1), Err(MbarError::NotInitialised { word: dead.0 }));
            assert_eq!(bar.inc_pending(), Err(MbarError::NotInitialised { word: dead.0 }));
        }
        let mut bar = Mbarrier::init(MAX_COUNT).unwrap();
        assert_eq!(bar.inc_pending(), Err(MbarError::PendingOverflow));
        bar.expect_tx(MAX_COUNT).unwrap();
        assert_eq!(bar.tx(), MAX_COUNT as i32);
        assert_eq!(bar.expect_tx(1), Err(MbarError::TxRange { tx: MAX_COUNT as i32, change: 1 }));
        bar.complete_tx(MAX_COUNT).unwrap();
        bar.complete_tx(MAX_COUNT).unwrap();
        assert_eq!(bar.tx(), -(MAX_COUNT as i32));
        assert!(bar.is_valid());
        assert_eq!(bar.complete_tx(1), Err(MbarError::TxRange { tx: -(MAX_COUNT as i32), change: -1 }));
        let mut bar = Mbarrier::init(1).unwrap();
        assert_eq!(bar.arrive(2), Err(MbarError::TooManyArrivals { count: 2, pending: 1 }));
        assert_eq!(bar.arrive_no_complete(1, false), Err(MbarError::WouldComplete { count: 1 }));
    }

    /// Against a model with plain integers, over a long random walk.
    #[test]
    fn random_walk_agrees_with_plain_counters() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut bar = Mbarrier::init(7).unwrap();
        let (mut pending, mut expected, mut tx, mut phase) = (7_i64, 7_i64, 0_i64, 0_u32);
        for _ in 0..200_000 {
            let r = next();
            match r % 5 {
                0 | 1 => {
                    let n = 1 + (r >> 8) % 3;
                    let ok = n as i64 <= pending;
                    assert_eq!(bar.arrive(n as u32).is_ok(), ok);
                    if ok {
                        pending -= n as i64;
                    }
                }
                2 => {
                    let bytes = (r >> 8) % (1 << 19);
                    let ok = tx + bytes as i64 <= MAX_COUNT as i64;
                    assert_eq!(bar.expect_tx(bytes as u32).is_ok(), ok);
                    if ok {
                        tx += bytes as i64;
                    }
                }
                3 => {
                    // Mostly deliver what is expected, so that phases end.
                    let bytes = if r & 256 == 0 { tx.max(0) as u64 } else { (r >> 16) % (1 << 19) };
                    let ok = tx - bytes as i64 >= -(MAX_COUNT as i64);
                    assert_eq!(bar.complete_tx(bytes as u32).is_ok(), ok);
                    if ok {
                        tx -= bytes as i64;
                    }
                }
                _ => {
                    bar.inc_pending().unwrap();
                    pending += 1;
                    if pending > 50 {
                        bar = Mbarrier::init(5).unwrap();
                        (pending, expected, tx, phase) = (5, 5, 0, 0);
                    }
                }
            }
            if pending == 0 && tx == 0 {
                (pending, phase) = (expected, phase ^ 1);
            }
            assert_eq!(
                (i64::from(bar.pending()), i64::from(bar.expected()), i64::from(bar.tx()), bar.phase()),
                (pending, expected, tx, phase)
            );
        }
    }
}
