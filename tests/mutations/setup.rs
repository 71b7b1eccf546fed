//! What a family says of its kernels: operands, launches, outputs; and what the families share to say it.

use hadal::emulator::tma::{DataType, Interleave, L2Promotion, OobFill, Swizzle, TensorMap, Tiled};
use hadal::emulator::{Launch, Machine};
use hadal::kernel::table::KernelRow;

/// A mutant that nothing can notice: what the mutated line holds, what is done to it, and why.
pub type Survivor = (&'static str, &'static str, &'static str);

/// One launch.
pub struct Step {
    pub device: usize,
    /// A kernel of the table, as it is; `None`: the one under test, broken or not.
    pub entry: Option<&'static str>,
    pub launch: Launch,
}

/// Launches with their operands in place.
pub struct Setup {
    /// Those of one device go to one stream in this order, twice over.
    pub launches: Vec<Step>,
    /// Address and bytes of what is compared with the unbroken kernel's.
    pub outputs: Vec<(u64, usize)>,
}

impl Setup {
    /// One programmatic launch of `grid` blocks on device 0 with one output.
    pub fn one(row: &KernelRow, grid: u32, mut params: Vec<u8>, output: (u64, usize)) -> Setup {
        params.resize(row.param_layout().1, 0);
        let launch = Launch {
            grid: [grid, 1, 1],
            block: [row.threads, 1, 1],
            dynamic_shared: row.dynamic_shared,
            params,
            programmatic: true,
            ..Launch::default()
        };
        Setup { launches: vec![Step { device: 0, entry: None, launch }], outputs: vec![output] }
    }
}

/// Memory of device 0 that holds `bytes`.
pub fn put(machine: &mut Machine, bytes: Vec<u8>) -> u64 {
    let address = machine.alloc(0, bytes.len() as u64, 1024).unwrap();
    machine.write(address, &bytes).unwrap();
    address
}

/// Bytes that look like data: finite E4M3 codes, or finite BF16, F16 and F32.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Exponents around one in every type that reads this.
            0x38 + (state >> 60) as u8 % 8 + ((state >> 40) as u8 & 0x80)
        })
        .collect()
}

/// Ones, and a little more.
pub fn floats(len: usize) -> Vec<u8> {
    (0..len).flat_map(|i| (1.0 + (i % 7) as f32 * 0.25).to_le_bytes()).collect()
}

/// A tensor map of two dimensions.
pub fn map(
    data_type: DataType,
    address: u64,
    dims: [usize; 2],
    pitch: usize,
    boxed: [usize; 2],
    swizzle: Swizzle,
) -> Vec<u8> {
    tensor_map(data_type, address, &dims, &[pitch], &boxed, swizzle)
}

/// A swizzled tensor map of three dimensions.
pub fn volume(
    data_type: DataType,
    address: u64,
    dims: [usize; 3],
    pitches: [usize; 2],
    boxed: [usize; 3],
) -> Vec<u8> {
    tensor_map(data_type, address, &dims, &pitches, &boxed, Swizzle::B128)
}

fn tensor_map(
    data_type: DataType,
    address: u64,
    dims: &[usize],
    strides: &[usize],
    boxed: &[usize],
    swizzle: Swizzle,
) -> Vec<u8> {
    let wide = |values: &[usize]| values.iter().map(|&v| v as u64).collect::<Vec<_>>();
    let boxed: Vec<u32> = boxed.iter().map(|&v| v as u32).collect();
    let map = TensorMap::new(&Tiled {
        data_type,
        address,
        dims: &wide(dims),
        strides: &wide(strides),
        box_dims: &boxed,
        element_strides: &[1; 3][..dims.len()],
        interleave: Interleave::None,
        swizzle,
        l2_promotion: L2Promotion::B256,
        oob_fill: OobFill::Zero,
    })
    .unwrap();
    map.encode().iter().flat_map(|w| w.to_le_bytes()).collect()
}
