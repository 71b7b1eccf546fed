//! Devices that stop answering, and devices that run at different speeds.
//!
//! A halted device is one whose power is gone, seen from outside: after so many more of its warp instructions none of its blocks gets on,
//! none of its grids begins and no copy of its blocks lands, while its memory stays and other devices go on reading and writing it. A wait
//! for one of its streams, which on the chip would never end, ends in an error as soon as nothing else moves. What it did not do, it does
//! when it is resumed; [`Machine::reset`] makes it forget.

use super::stream::Work;
use super::{Machine, Schedule, StreamId};
use crate::report::{Class, Fault, MachineError, Place, Report};

/// Passes after which an uneven schedule gives every device another speed.
const PACE: u32 = 64;
/// The slowest device is 2 to the power of this times slower than the fastest.
const SLOWEST: usize = 6;

impl Machine {
    /// Halts a device after `after` more of its warp instructions.
    pub fn halt(&mut self, device: usize, after: u64) -> Result<(), MachineError> {
        self.device(device)?;
        self.sys.halts[device] = self.sys.counters[device].instructions.saturating_add(after);
        Ok(())
    }

    /// Lets a device go on, and forgets any halt to come.
    pub fn resume(&mut self, device: usize) -> Result<(), MachineError> {
        self.device(device)?;
        self.sys.halts[device] = u64::MAX;
        Ok(())
    }

    /// Has a device been halted? False for one that does not exist.
    pub fn is_halted(&self, device: usize) -> bool {
        self.sys.halts.get(device).is_some() && self.sys.may_run(device) == 0
    }

    /// The error of waiting for a stream, or for an event, that nothing will ever move.
    #[cold]
    pub(super) fn never(&self, stream: Option<StreamId>) -> Fault {
        let halted: Vec<String> =
            (0..self.sys.halts.len()).filter(|d| self.is_halted(*d)).map(|d| d.to_string()).collect();
        let queue = stream.and_then(|stream| self.streams.get(stream.0 as usize));
        let grid = queue.and_then(|stream| {
            stream.queue.iter().find_map(|work| match work {
                Work::Grid(id) => self.sys.grids.get(id),
                _ => None,
            })
        });
        let report = Report {
            class: Class::Deadlock,
            message: format!("what is waited for never comes: halted devices: {}", halted.join(", ")),
            kernel: grid.map_or_else(String::new, |grid| grid.program.kernel().name.clone()),
            place: Place {
                module: String::new(),
                ptx_line: 0,
                ptx_text: String::new(),
                source: None,
                source_text: None,
            },
            device: queue.map_or(0, |stream| stream.device),
            block: [0; 3],
            warp: 0,
            lanes: 0,
            address: None,
            other: None,
            hint: None,
            notes: Vec::new(),
            replay: self.sys.replay(),
        };
        Fault { report: Box::new(report) }
    }

    /// From time to time, under an uneven schedule, other speeds for all devices.
    pub(super) fn change_pace(&mut self) {
        if self.sys.config.schedule != Schedule::Uneven {
            self.pace.clear();
            return;
        }
        if self.pace.is_empty() || self.paces == 0 {
            self.pace = (0..self.sms.len()).map(|_| self.sys.rng.below(SLOWEST + 1) as u32).collect();
            self.paces = PACE;
        }
        self.paces -= 1;
    }

    /// A block at random, those of slow devices less often.
    pub(super) fn pick(&mut self, live: &[usize]) -> usize {
        loop {
            let slot = live[self.sys.rng.below(live.len())];
            let device = self.blocks[slot].as_ref().map_or(0, |block| block.device);
            let slow = self.pace.get(device).copied().unwrap_or(0);
            if slow == 0 || self.sys.rng.below(1 << slow) == 0 {
                return slot;
            }
        }
    }
}
