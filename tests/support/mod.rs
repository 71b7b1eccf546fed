//! What the tests share: a driver that only records, numbers that are hostile on purpose, and painted memory.
//!
//! Outputs are painted with 0xff, which is a NaN in every type here, and lie inside a larger allocation that must keep its
//! paint: an element that was not written and a byte that should not have been both show.
#![allow(dead_code)] // Each test file takes its own part of this.

pub mod operands;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hadal::device::driver::{Attribute, Driver, Image, RawEvent, RawFunction, RawModule, RawStream};
use hadal::device::launch::{LaunchConfig, ParamBuffer};
use hadal::device::map::{TensorMap, TensorMapSpec};
use hadal::emulator::{Completion, MachineConfig, Schedule, SharedPlacement, strategy};
use hadal::{Device, E4M3, Error, Result, Stream};
use proptest::strategy::Strategy;

/// A driver without a device: it hands out addresses, runs nothing and writes down what it was asked.
#[derive(Debug)]
pub struct Recorder {
    pub calls: Mutex<Vec<String>>,
    pub launches: Mutex<Vec<(LaunchConfig, Vec<u8>)>>,
    pub maps: Mutex<Vec<TensorMapSpec>>,
    /// Whether there is no memory left.
    pub full: AtomicBool,
    capability: (i32, i32),
    next: Mutex<u64>,
}

impl Recorder {
    pub fn new(capability: (i32, i32)) -> Arc<Recorder> {
        Arc::new(Recorder {
            calls: Mutex::default(),
            launches: Mutex::default(),
            maps: Mutex::default(),
            full: AtomicBool::new(false),
            capability,
            next: Mutex::new(0x7000_0000_0000),
        })
    }

    fn note(&self, call: &str) {
        self.calls.lock().unwrap().push(call.into());
    }

    /// The calls since the last time somebody asked.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Driver for Recorder {
    fn backend(&self) -> &'static str {
        "recorder"
    }

    fn device_count(&self) -> Result<u32> {
        Ok(2)
    }

    fn device_name(&self, _device: u32) -> Result<String> {
        Ok("nothing".into())
    }

    fn attribute(&self, _device: u32, attribute: Attribute) -> Result<i32> {
        Ok(match attribute {
            Attribute::Multiprocessors => 132,
            Attribute::CapabilityMajor => self.capability.0,
            Attribute::CapabilityMinor => self.capability.1,
            _ => 232_448,
        })
    }

    fn alloc(&self, _device: u32, bytes: u64) -> Result<u64> {
        self.note("alloc");
        if self.full.load(Ordering::Relaxed) {
            return Err(Error::Driver { call: "cuMemAlloc", code: 2, detail: "nothing left".into() });
        }
        let mut next = self.next.lock().unwrap();
        let address = *next;
        *next += bytes.next_multiple_of(256) + 4096;
        Ok(address)
    }

    unsafe fn free(&self, _device: u32, _address: u64) -> Result<()> {
        self.note("free");
        Ok(())
    }

    unsafe fn copy_to_device(&self, _device: u32, _to: u64, _from: &[u8], _stream: RawStream) -> Result<()> {
        self.note("copy_to_device");
        Ok(())
    }

    unsafe fn copy_to_host(
        &self,
        _device: u32,
        _to: &mut [u8],
        _from: u64,
        _stream: RawStream,
    ) -> Result<()> {
        self.note("copy_to_host");
        Ok(())
    }

    unsafe fn fill(&self, _device: u32, _to: u64, _value: u8, _bytes: u64, _stream: RawStream) -> Result<()> {
        self.note("fill");
        Ok(())
    }

    fn load_module(&self, _device: u32, image: &Image<'_>) -> Result<RawModule> {
        self.note(&format!("load {}", image.name));
        Ok(RawModule(1))
    }

    fn function(&self, _device: u32, _module: RawModule, entry: &str) -> Result<RawFunction> {
        self.note(&format!("function {entry}"));
        Ok(RawFunction(2))
    }

    fn allow_dynamic_shared(&self, _device: u32, _function: RawFunction, bytes: u32) -> Result<()> {
        self.note(&format!("shared {bytes}"));
        Ok(())
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        self.note(&format!("map {}", spec.argument));
        self.maps.lock().unwrap().push(*spec);
        Ok(TensorMap([0; 16]))
    }

    unsafe fn launch(
        &self,
        _device: u32,
        _function: RawFunction,
        config: &LaunchConfig,
        params: &ParamBuffer,
    ) -> Result<()> {
        self.note("launch");
        self.launches.lock().unwrap().push((*config, params.bytes().to_vec()));
        Ok(())
    }

    fn enable_peer_access(&self, device: u32, peer: u32) -> Result<()> {
        self.note(&format!("peer {device} {peer}"));
        Ok(())
    }

    fn create_stream(&self, _device: u32) -> Result<RawStream> {
        self.note("create_stream");
        Ok(RawStream(5))
    }

    unsafe fn destroy_stream(&self, _device: u32, _stream: RawStream) -> Result<()> {
        self.note("destroy_stream");
        Ok(())
    }

    unsafe fn synchronize(&self, _device: u32, _stream: RawStream) -> Result<()> {
        self.note("synchronize");
        Ok(())
    }

    fn create_event(&self, _device: u32) -> Result<RawEvent> {
        self.note("create_event");
        Ok(RawEvent(9))
    }

    unsafe fn destroy_event(&self, _device: u32, _event: RawEvent) -> Result<()> {
        self.note("destroy_event");
        Ok(())
    }

    unsafe fn record_event(&self, _device: u32, _event: RawEvent, _stream: RawStream) -> Result<()> {
        self.note("record_event");
        Ok(())
    }

    unsafe fn wait_event(&self, _device: u32, _stream: RawStream, _event: RawEvent) -> Result<()> {
        self.note("wait_event");
        Ok(())
    }

    unsafe fn elapsed_ms(&self, _device: u32, _start: RawEvent, _end: RawEvent) -> Result<f32> {
        self.note("elapsed_ms");
        Ok(1.0)
    }
}

/// SplitMix64: small, seedable, good enough to be hostile with.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f32 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

/// Kinds of input, from tame to hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Normal numbers and scales near one, as in use.
    Normal,
    /// Any finite code and scales over a wide range: exponents far apart, so that alignment truncates.
    Wide,
    /// The largest magnitudes, signs mixed.
    Largest,
    /// Subnormal codes and tiny scales: products of scales become subnormal.
    Tiny,
    /// Some NaNs in values and scales, some infinite, zero and negative scales.
    Special,
}

impl Data {
    pub const ALL: [Data; 5] = [Data::Normal, Data::Wide, Data::Largest, Data::Tiny, Data::Special];

    pub fn value(self, random: &mut Random) -> E4M3 {
        let sign = (random.bits() as u8) & 0x80;
        match self {
            Data::Normal => E4M3::from_f32(random.normal() * 100.0),
            Data::Wide => E4M3(sign | random.below(0x7f) as u8),
            Data::Largest => E4M3(sign | if random.below(8) == 0 { 0x77 } else { 0x7e }),
            Data::Tiny => E4M3(sign | random.below(9) as u8),
            Data::Special if random.below(600) == 0 => E4M3(sign | 0x7f),
            Data::Special => E4M3(sign | random.below(0x7f) as u8),
        }
    }

    pub fn scale(self, random: &mut Random) -> f32 {
        let wide = |random: &mut Random, low: i32, high: i32| {
            let exponent = low + random.below((high - low) as usize) as i32;
            2f32.powi(exponent) * (1.0 + random.unit() as f32)
        };
        match self {
            Data::Normal => wide(random, -8, -4),
            Data::Wide => wide(random, -30, 30),
            Data::Largest => wide(random, 40, 62),
            Data::Tiny => wide(random, -76, -56),
            Data::Special => match random.below(40) {
                0 => f32::from_bits(0xffc1_2345),
                1 => f32::INFINITY,
                2 => 0.0,
                3 => -wide(random, -4, 4),
                _ => wide(random, -4, 4),
            },
        }
    }
}

/// Every way a machine can schedule warps, complete copies and place shared memory.
pub const MACHINES: usize = 12;

/// An emulated device, all checks on, with the schedule, completion policy and placement number `which`; or the GPU that
/// `HADAL_DEVICE` names.
pub fn device_of(which: usize, seed: u64) -> (Device, Stream) {
    device_on(MachineConfig {
        schedule: [Schedule::RoundRobin, Schedule::Random][which % 2],
        completion: [Completion::Eager, Completion::Latest, Completion::Random][which / 2 % 3],
        shared_placement: [SharedPlacement::Driver, SharedPlacement::DeclaredAlignment][which / 6 % 2],
        seed,
        ..MachineConfig::default()
    })
}

/// How an emulated device may be run, for property tests to draw.
pub fn machines() -> impl Strategy<Value = MachineConfig> {
    strategy::machines(MachineConfig::default())
}

/// An emulated device of that kind, all checks on; or the GPU that `HADAL_DEVICE` names.
pub fn device_on(machine: MachineConfig) -> (Device, Stream) {
    let device = if std::env::var("HADAL_DEVICE").is_ok_and(|name| name.starts_with("cuda")) {
        Device::open_default()
    } else {
        Device::emulate(machine)
    };
    let device = device.unwrap();
    let stream = device.new_stream().unwrap();
    (device, stream)
}

/// Random schedules each kernel goes through in the long tests; `HADAL_SCHEDULES` overrides.
pub fn schedules() -> u64 {
    std::env::var("HADAL_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(20)
}

/// [`device_of`] a machine with random schedule and completion, on either placement.
pub fn device_at_random(seed: u64) -> (Device, Stream) {
    device_of(5 + 6 * (seed as usize % 2), seed)
}

/// [`device_of`] a machine that `choice` picks.
pub fn device(choice: u64) -> (Device, Stream) {
    let mut random = Random(choice);
    device_of(random.below(MACHINES), random.bits())
}

/// That nothing at all was found by the emulator's checkers. A GPU has none.
pub fn assert_clean(device: &Device) {
    let reports = device.emulated().map(|emulated| emulated.reports()).unwrap_or_default();
    assert!(reports.is_empty(), "{}", reports[0]);
}

/// Cases a property test runs: few, since each is a whole machine; `PROPTEST_CASES` overrides.
pub fn cases(usual: u32) -> proptest::test_runner::Config {
    let mut config = proptest::test_runner::Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = usual;
    }
    config
}
