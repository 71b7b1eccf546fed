//! What the machine's tests share: a kernel from a body of PTX, buffers in and out, and the report of a run.
#![allow(dead_code, missing_docs)]

pub mod products;

use std::sync::Arc;

use hadal_emulator::{
    Checks, Class, Completion, DeviceConfig, Fault, Launch, Machine, MachineConfig, ModuleId, Report,
    Schedule, StreamId, ir,
};

/// A machine with one small device and a module on it.
pub struct Bench {
    pub machine: Machine,
    pub module: ModuleId,
    pub stream: StreamId,
    pub ir: Arc<ir::Module>,
}

/// A whole module around declarations and a body. The entry is `k`; its parameters are `p0`, `p1`, … of type `.u64`.
pub fn module(params: usize, declarations: &str, body: &str) -> String {
    let list: Vec<String> = (0..params).map(|i| format!(".param .u64 p{i}")).collect();
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n{declarations}\n.visible .entry k({})\n{{\n{body}\n}}\n",
        list.join(", ")
    )
}

pub fn config() -> MachineConfig {
    let mut device = DeviceConfig::h100();
    device.sms = 4;
    MachineConfig { devices: vec![device], instruction_limit: Some(20_000_000), ..MachineConfig::default() }
}

impl Bench {
    pub fn new(text: &str) -> Bench {
        Bench::with(config(), text)
    }

    pub fn with(config: MachineConfig, text: &str) -> Bench {
        let ir = Arc::new(ir::Module::parse("test.ptx", text).unwrap_or_else(|e| panic!("{e}")));
        let mut machine = Machine::new(config);
        let module = machine.load_module(0, ir.clone()).unwrap();
        let stream = machine.create_stream(0);
        Bench { machine, module, stream, ir }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let address = self.machine.alloc(0, bytes.len() as u64, 256).unwrap();
        self.machine.write(address, bytes).unwrap();
        address
    }

    pub fn words(&mut self, words: &[u32]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    /// A buffer nobody has written to.
    pub fn blank(&mut self, bytes: u64) -> u64 {
        self.machine.alloc(0, bytes, 256).unwrap()
    }

    pub fn launch(&mut self, launch: Launch) -> Result<(), Fault> {
        self.machine.launch(self.stream, self.module, "k", &launch).unwrap_or_else(|e| panic!("{e}"));
        self.machine.synchronize(self.stream)
    }

    /// Runs blocks of threads with 64-bit parameters.
    pub fn run(&mut self, grid: u32, threads: u32, params: &[u64]) -> Result<(), Fault> {
        self.run_shared(grid, threads, 0, params)
    }

    pub fn run_shared(&mut self, grid: u32, threads: u32, shared: u32, params: &[u64]) -> Result<(), Fault> {
        self.launch(Launch {
            grid: [grid, 1, 1],
            block: [threads, 1, 1],
            dynamic_shared: shared,
            params: params.iter().flat_map(|p| p.to_le_bytes()).collect(),
            ..Launch::default()
        })
    }

    pub fn read_words(&self, address: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; count * 4];
        self.machine.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// Runs a kernel of one block over one output buffer of so many words, every schedule and completion, and compares.
pub fn expect(declarations: &str, body: &str, threads: u32, shared: u32, expected: &[u32]) {
    let text = module(1, declarations, body);
    for schedule in [Schedule::RoundRobin, Schedule::Random] {
        for completion in [Completion::Eager, Completion::Latest, Completion::Random] {
            let mut bench = Bench::with(MachineConfig { schedule, completion, seed: 7, ..config() }, &text);
            let out = bench.blank(expected.len() as u64 * 4);
            bench
                .run_shared(1, threads, shared, &[out])
                .unwrap_or_else(|f| panic!("{schedule:?} {completion:?}: {f}"));
            let got = bench.read_words(out, expected.len());
            for (i, (g, e)) in got.iter().zip(expected).enumerate() {
                assert_eq!(g, e, "{schedule:?} {completion:?}: word {i}: {g:#x}, expected {e:#x}\n{body}");
            }
        }
    }
}

/// Runs a kernel of one block over one output buffer and returns the finding that stops it.
pub fn finding(declarations: &str, body: &str, threads: u32, shared: u32) -> Option<Report> {
    finding_with(config(), declarations, body, threads, shared)
}

pub fn finding_with(
    config: MachineConfig,
    declarations: &str,
    body: &str,
    threads: u32,
    shared: u32,
) -> Option<Report> {
    let mut bench = Bench::with(config, &module(1, declarations, body));
    let out = bench.blank(4096);
    match bench.run_shared(1, threads, shared, &[out]) {
        Ok(()) => None,
        Err(fault) => {
            assert_eq!(bench.machine.reports().len(), 1);
            Some(*fault.report)
        }
    }
}

/// The kernel is convicted: class, and a piece of the line it is convicted at.
pub fn convicted(
    class: Class,
    line: &str,
    declarations: &str,
    body: &str,
    threads: u32,
    shared: u32,
) -> Report {
    let report = finding(declarations, body, threads, shared)
        .unwrap_or_else(|| panic!("nothing found, expected {class}\n{body}"));
    assert_eq!(report.class, class, "{report}");
    assert!(report.place.ptx_text.contains(line), "found at the wrong line, expected {line}:\n{report}");
    report
}

/// The kernel passes.
pub fn acquitted(declarations: &str, body: &str, threads: u32, shared: u32) {
    if let Some(report) = finding(declarations, body, threads, shared) {
        panic!("{report}\n{body}");
    }
}

pub fn checks() -> Checks {
    Checks::all()
}

/// A module whose kernel takes tensor maps `m0`, `m1`, … and then 64-bit parameters `p0`, `p1`, ….
pub fn module_with_maps(maps: usize, params: usize, declarations: &str, body: &str) -> String {
    let maps = (0..maps).map(|i| format!(".param .align 64 .b8 m{i}[128]"));
    let list: Vec<String> = maps.chain((0..params).map(|i| format!(".param .u64 p{i}"))).collect();
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n{declarations}\n.visible .entry k({})\n{{\n{body}\n}}\n",
        list.join(", ")
    )
}

/// A row-major matrix of bytes or wider elements as a tensor map.
pub fn matrix_map(
    data_type: hadal_emulator::tma::DataType,
    address: u64,
    [cols, rows]: [u64; 2],
    box_dims: [u32; 2],
    swizzle: hadal_emulator::tma::Swizzle,
) -> Vec<u8> {
    use hadal_emulator::tma::{Interleave, L2Promotion, OobFill, TensorMap, Tiled};
    let map = TensorMap::new(&Tiled {
        data_type,
        address,
        dims: &[cols, rows],
        strides: &[cols * data_type.bytes() as u64],
        box_dims: &box_dims,
        element_strides: &[1, 1],
        interleave: Interleave::None,
        swizzle,
        l2_promotion: L2Promotion::None,
        oob_fill: OobFill::Zero,
    })
    .unwrap();
    map.encode().iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// The parameter block of maps and 64-bit values.
pub fn params(maps: &[Vec<u8>], values: &[u64]) -> Vec<u8> {
    maps.iter().flatten().copied().chain(values.iter().flat_map(|v| v.to_le_bytes())).collect()
}

/// Every schedule with every completion policy, three seeds of the random ones.
pub fn configs() -> Vec<MachineConfig> {
    let mut all = Vec::new();
    for schedule in [Schedule::RoundRobin, Schedule::Random] {
        for completion in [Completion::Eager, Completion::Latest, Completion::Random] {
            for seed in 0..3 {
                all.push(MachineConfig { schedule, completion, seed, ..config() });
            }
        }
    }
    all
}
