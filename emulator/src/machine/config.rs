//! What a machine is made of, and how adversarial it is: devices, checks, schedule, completion of asynchronous copies,
//! placement of shared memory.

use std::fmt;
use std::str::FromStr;

use crate::tensor;

/// Everything chosen at construction.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The devices, by ordinal.
    pub devices: Vec<DeviceConfig>,
    /// What is checked.
    pub checks: Checks,
    /// Tensor-core arithmetic.
    pub tensor_mode: tensor::Mode,
    /// Who runs next.
    pub schedule: Schedule,
    /// When asynchronous operations land.
    pub completion: Completion,
    /// Seed of the random schedule and of random completion.
    pub seed: u64,
    /// Where shared memory begins.
    pub shared_placement: SharedPlacement,
    /// Warp instructions after which a launch is stopped, counted from each `synchronize`. `None`: no limit.
    pub instruction_limit: Option<u64>,
    /// Blocks of a device resident at once (but always one cluster), however many would fit: finds blocks that wait for others that
    /// need not have begun. Cooperative grids are exempt. `None`: as many as fit.
    pub resident_blocks: Option<u32>,
}

impl Default for MachineConfig {
    /// One H100, every check, exact tensor cores, round robin, latest completion.
    fn default() -> Self {
        MachineConfig {
            devices: vec![DeviceConfig::h100()],
            checks: Checks::all(),
            tensor_mode: tensor::Mode::Exact,
            schedule: Schedule::RoundRobin,
            completion: Completion::Latest,
            seed: 0,
            shared_placement: SharedPlacement::Driver,
            instruction_limit: None,
            resident_blocks: None,
        }
    }
}

/// One device.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Name, as a driver would say it.
    pub name: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// SMs of each GPC: the blocks of a cluster run in one. SMs beyond the list form a last GPC; too long a list is cut off.
    pub gpcs: Vec<u32>,
    /// Shared memory of one SM in bytes, system reservation included.
    pub shared_per_sm: u32,
    /// Shared memory one block may ask for, in bytes.
    pub shared_per_block: u32,
    /// Shared memory the system takes per resident block, in bytes.
    pub shared_reserved_per_block: u32,
    /// 32-bit registers of one SM.
    pub registers_per_sm: u32,
    /// Resident threads of one SM.
    pub threads_per_sm: u32,
    /// Resident blocks of one SM.
    pub blocks_per_sm: u32,
    /// Threads of one block.
    pub threads_per_block: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
}

impl DeviceConfig {
    /// H100 SXM: 132 SMs in GPCs of 16 and 18, 80 GB.
    pub fn h100() -> Self {
        DeviceConfig {
            name: "NVIDIA H100 SXM (emulated)".into(),
            sms: 132,
            gpcs: vec![16, 16, 16, 16, 16, 16, 18, 18],
            shared_per_sm: 228 * 1024,
            shared_per_block: 232_448,
            shared_reserved_per_block: 1024,
            registers_per_sm: 65_536,
            threads_per_sm: 2048,
            blocks_per_sm: 32,
            threads_per_block: 1024,
            memory_bytes: 80_000_000_000,
        }
    }
}

impl DeviceConfig {
    /// The SMs of each GPC.
    pub fn gpc_ranges(&self) -> Vec<std::ops::Range<usize>> {
        let sms = self.sms as usize;
        let mut ranges = Vec::with_capacity(self.gpcs.len() + 1);
        let mut from = 0;
        for count in self.gpcs.iter().copied().chain([u32::MAX]) {
            let to = sms.min(from + count as usize);
            if to > from {
                ranges.push(from..to);
            }
            from = to;
        }
        ranges
    }
}

/// Who runs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Block after block, warp after warp, a bounded number of instructions each. The fastest.
    RoundRobin,
    /// A random warp of a random block, preempted at random after any memory, barrier or asynchronous instruction.
    Random,
    /// As [`Schedule::Random`], but one warp, one whole block, or all blocks of one device of several, chosen by the seed, run only when
    /// nobody else gets on.
    Starve,
    /// As [`Schedule::Random`], but each device has a speed of its own, up to 64 times apart, and another one from time to time.
    Uneven,
}

/// When an asynchronous operation (tensor copy, bulk copy, `cp.async`, `wgmma`) takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// When it is issued.
    Eager,
    /// When something waits for it: finds missing waits.
    Latest,
    /// At a random moment between the two.
    Random,
}

/// The names that commands, files and environments use.
const SCHEDULES: [(&str, Schedule); 4] = [
    ("round-robin", Schedule::RoundRobin),
    ("random", Schedule::Random),
    ("starve", Schedule::Starve),
    ("uneven", Schedule::Uneven),
];
const COMPLETIONS: [(&str, Completion); 3] =
    [("eager", Completion::Eager), ("latest", Completion::Latest), ("random", Completion::Random)];

/// A word that names no [`Schedule`] or [`Completion`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// The word.
    pub got: String,
    /// The words there are.
    pub expected: &'static str,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, got `{}`", self.expected, self.got)
    }
}

impl std::error::Error for UnknownName {}

fn named<T: Copy>(table: &[(&str, T)], text: &str, expected: &'static str) -> Result<T, UnknownName> {
    match table.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => Err(UnknownName { got: text.into(), expected }),
    }
}

fn name_of<T: Copy + PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, other)| *other == value).map_or("", |(name, _)| name)
}

impl FromStr for Schedule {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        named(&SCHEDULES, text, "round-robin, random, starve or uneven")
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&SCHEDULES, *self))
    }
}

impl FromStr for Completion {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        named(&COMPLETIONS, text, "eager, latest or random")
    }
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&COMPLETIONS, *self))
    }
}

/// Where a block's shared memory begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedPlacement {
    /// As the driver does: 1024-byte aligned, so the dynamic window is too when there are no static variables.
    Driver,
    /// No better aligned than the PTX declares: finds kernels that lean on luck.
    DeclaredAlignment,
}

/// What is checked besides what is always checked (bounds, alignment, barriers, deadlock, traps).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checks {
    /// Bytes of shared, global and local memory read before they were written, copies and tensor cores included.
    pub uninitialised: bool,
    /// Registers read before they were written.
    pub registers: bool,
    /// Registers of unfinished `wgmma`s, and `wgmma.fence`.
    pub wgmma: bool,
    /// Shared memory overwritten while a bulk copy still reads it.
    pub bulk_source: bool,
    /// Happens-before over threads, blocks, devices and asynchronous operations, and everything below.
    pub races: bool,
    /// Ordinary writes that the asynchronous proxy reads without a proxy fence between.
    pub proxies: bool,
    /// Phases of mbarriers that end before their copies, bytes expected that never come, copies in flight when a block ends.
    pub transactions: bool,
    /// Non-coherent loads of bytes written while the kernel runs.
    pub non_coherent: bool,
    /// What works on the chip, yet against the letter of the manual, goes to [`crate::Machine::advice`] and stops nothing: copies that
    /// complete on an mbarrier whose initialisation no fence has shown to the asynchronous proxy; threads that exit without waiting for
    /// their bulk stores or `cp.async`s; registers that `setmaxnreg` gives and nobody takes; lanes that come to an `.aligned` instruction
    /// with only the compiler to bring them together; flags by volatile accesses without fences; operands given back after one warp's wait for a
    /// `wgmma` of four; unordered writes of the value that is there already; tensor maps edited before the copies through them are done; a
    /// `shfl.sync` by a whole warp whose mask leaves lanes out.
    pub letter: bool,
    /// Lint, off in [`Checks::all`]: asynchronous writes over bytes that were accessed ordinarily, with a barrier between but no
    /// proxy fence. The memory model asks for one, shipping kernels do without.
    pub proxy_reuse: bool,
    /// Lint, off in [`Checks::all`]: a tensor store whose row ends inside sixteen bytes may write all sixteen again, so another
    /// write of the rest of them must be ordered with it.
    pub trailing_sector: bool,
}

impl Checks {
    /// Everything but lints.
    pub const fn all() -> Self {
        Checks {
            uninitialised: true,
            registers: true,
            wgmma: true,
            bulk_source: true,
            races: true,
            proxies: true,
            transactions: true,
            non_coherent: true,
            letter: true,
            proxy_reuse: false,
            trailing_sector: false,
        }
    }

    /// Only what is always checked.
    pub const fn none() -> Self {
        Checks {
            uninitialised: false,
            registers: false,
            wgmma: false,
            bulk_source: false,
            races: false,
            proxies: false,
            transactions: false,
            non_coherent: false,
            letter: false,
            proxy_reuse: false,
            trailing_sector: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for (name, schedule) in SCHEDULES {
            assert_eq!((schedule.to_string().as_str(), name.parse()), (name, Ok(schedule)));
        }
        for (name, completion) in COMPLETIONS {
            assert_eq!((completion.to_string().as_str(), name.parse()), (name, Ok(completion)));
        }
        let error = "fair".parse::<Schedule>().unwrap_err().to_string();
        assert_eq!(error, "expected round-robin, random, starve or uneven, got `fair`");
        let error = "".parse::<Completion>().unwrap_err().to_string();
        assert_eq!(error, "expected eager, latest or random, got ``");
    }
}
