//! What no GPU can tell: counters, reports and the configuration of the machine behind an emulated device; and reset, halt, resume.

use hadal_emulator::{Counters, KernelCounters, MachineConfig, Report};

use super::emulator::EmulatorDriver;

/// The machine behind an emulated device: what no GPU can tell.
#[derive(Debug)]
pub struct Emulated<'a> {
    driver: &'a EmulatorDriver,
    ordinal: u32,
}

impl<'a> Emulated<'a> {
    pub(super) fn new(driver: &'a EmulatorDriver, ordinal: u32) -> Emulated<'a> {
        Emulated { driver, ordinal }
    }

    /// The configuration: devices, checks, schedule, completion, seed.
    pub fn config(&self) -> &'a MachineConfig {
        &self.driver.config
    }

    /// What this device did since it was made or reset.
    pub fn counters(&self) -> Counters {
        self.driver.lock().machine.counters(self.ordinal as usize)
    }

    /// What each kernel did on this device since it was made or reset, in the order of their names.
    pub fn kernel_counters(&self) -> Vec<KernelCounters> {
        self.driver.lock().machine.kernel_counters(self.ordinal as usize)
    }

    /// Halts this device after `after` more of its warp instructions: it stops answering, as if its power were gone. A wait for one of its
    /// streams ends in an error as soon as nothing else moves.
    pub fn halt(&self, after: u64) {
        // The one error there is, a device that does not exist, cannot be: this one was opened.
        let _ = self.driver.lock().machine.halt(self.ordinal as usize, after);
    }

    /// Lets this device go on, and forgets any halt to come.
    pub fn resume(&self) {
        // As above.
        let _ = self.driver.lock().machine.resume(self.ordinal as usize);
    }

    /// Has this device been halted?
    pub fn is_halted(&self) -> bool {
        self.driver.lock().machine.is_halted(self.ordinal as usize)
    }

    /// Every finding of the machine since it was made or reset.
    pub fn reports(&self) -> Vec<Report> {
        self.driver.lock().machine.reports().to_vec()
    }

    /// What works on the chip, yet against the letter of the manual: one for each instruction, since the machine was made or reset.
    pub fn advice(&self) -> Vec<Report> {
        self.driver.lock().machine.advice().to_vec()
    }

    /// Clears a fault, the queues, the reports and the counters of the whole machine, and resumes halted devices. Memory and modules stay.
    pub fn reset(&self) {
        let mut state = self.driver.lock();
        state.captures.clear();
        state.machine.reset();
    }
}
