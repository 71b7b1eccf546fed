//! What a host does around a kernel: memory, parameters in their places, tensor maps, one launch, results.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hadal_emulator::tma::{DataType, Interleave, L2Promotion, OobFill, Swizzle, TensorMap, Tiled};
use hadal_emulator::{
    Completion, DeviceConfig, Launch, Machine, MachineConfig, ModuleId, Schedule, StreamId, ir,
};

/// A kernel's argument.
#[derive(Clone, Copy)]
pub enum Arg {
    U32(u32),
    U64(u64),
    F32(f32),
    Map([u64; 16]),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::U32(x) => x.to_le_bytes().to_vec(),
            Arg::U64(x) => x.to_le_bytes().to_vec(),
            Arg::F32(x) => x.to_le_bytes().to_vec(),
            Arg::Map(words) => words.iter().flat_map(|w| w.to_le_bytes()).collect(),
        }
    }
}

/// One module on one device.
pub struct Host {
    pub machine: Machine,
    pub text: String,
    ir: Arc<ir::Module>,
    module: ModuleId,
    stream: StreamId,
}

/// `tests/data/witnesses/…`
pub fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/witnesses").join(file)
}

/// The machines each witness runs on: every check on, copies that land as late as they may, and one random schedule.
pub fn machines() -> Vec<MachineConfig> {
    let device = DeviceConfig { sms: 4, ..DeviceConfig::h100() };
    let late = MachineConfig {
        devices: vec![device],
        instruction_limit: Some(200_000_000),
        completion: Completion::Latest,
        ..MachineConfig::default()
    };
    let random =
        MachineConfig { schedule: Schedule::Random, completion: Completion::Random, seed: 1, ..late.clone() };
    vec![late, random]
}

impl Host {
    pub fn new(config: MachineConfig, file: &str) -> Host {
        let path = data(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let text = crate::mutations::broken(&text);
        let ir = Arc::new(ir::Module::parse(file, &text).unwrap_or_else(|e| panic!("{e}")));
        let mut machine = Machine::new(config);
        let module = machine.load_module(0, ir.clone()).unwrap();
        let stream = machine.create_stream(0);
        Host { machine, text, ir, module, stream }
    }

    /// A buffer with these bytes.
    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        let address = self.blank(bytes.len());
        self.machine.write(address, bytes).unwrap();
        address
    }

    /// A buffer nobody has written to.
    pub fn blank(&mut self, bytes: usize) -> u64 {
        self.machine.alloc(0, bytes as u64, 256).unwrap()
    }

    /// What a kernel wrote: all of it must have been.
    pub fn get(&self, address: u64, bytes: usize) -> Vec<u8> {
        assert!(self.machine.is_written(address, bytes as u64).unwrap(), "the kernel left output unwritten");
        let mut to = vec![0; bytes];
        self.machine.read(address, &mut to).unwrap();
        to
    }

    /// Launches a kernel by the parameter list its PTX declares.
    pub fn run(&mut self, entry: &str, args: &[Arg], launch: Launch) {
        let kernel = self.ir.kernels.iter().find(|k| k.name == entry).expect("the kernel is in the file");
        assert_eq!(kernel.params.len(), args.len(), "{entry}: parameters");
        let mut params = vec![0; kernel.param_bytes as usize];
        for (param, arg) in kernel.params.iter().zip(args) {
            let bytes = arg.bytes();
            assert_eq!(param.size as usize, bytes.len(), "{entry}: size of {}", param.name);
            params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let launch = Launch { params, ..launch };
        self.machine
            .launch(self.stream, self.module, entry, &launch)
            .unwrap_or_else(|e| panic!("{entry}: {e}"));
        self.machine.synchronize(self.stream).unwrap_or_else(|fault| panic!("{entry}: {fault}"));
        crate::mutations::advised(self.machine.advice().len());
        assert!(self.machine.reports().is_empty(), "{entry}: {}", self.machine.reports()[0]);
    }
}

/// A map of a row-major matrix.
pub fn map(ty: DataType, address: u64, rows: usize, cols: usize, tile: [u32; 2], swizzle: Swizzle) -> Arg {
    let map = TensorMap::new(&Tiled {
        data_type: ty,
        address,
        dims: &[cols as u64, rows as u64],
        strides: &[cols as u64 * ty.bytes() as u64],
        box_dims: &tile,
        element_strides: &[1, 1],
        interleave: Interleave::None,
        swizzle,
        l2_promotion: L2Promotion::B128,
        oob_fill: OobFill::Zero,
    });
    Arg::Map(map.unwrap().encode())
}
