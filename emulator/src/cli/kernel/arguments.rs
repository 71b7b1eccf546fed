//! Kernel arguments from the command line: scalars, buffers, tensor maps.
//!
//! An argument is described before there is a machine ([`Argument::parse`]), and made anew in each ([`place`]). A tensor map brings
//! the buffer behind it, or names one of an earlier argument.

use hadal_emulator::Machine;
use hadal_emulator::ir::Kernel;
use hadal_emulator::tma::{DataType, Interleave, L2Promotion, OobFill, Swizzle, TensorMap, Tiled};

use super::values::Type;

/// Bytes a buffer may have: above that, it is a slip of the finger.
const LARGEST: u64 = 8 << 30;

/// One `--arg`.
#[derive(Clone, Debug)]
pub enum Argument {
    /// These bytes.
    Scalar(Vec<u8>),
    /// The address of a buffer.
    Buffer(Buffer),
    /// A tensor map.
    Map { shape: Shape, memory: Memory },
}

/// Device memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub bytes: u64,
    /// What the host writes; `None`: nothing, every byte counts as never written.
    pub data: Option<Vec<u8>>,
    /// Printed after the run, and compared between schedules.
    pub output: bool,
    pub ty: Type,
}

/// What a map maps.
#[derive(Clone, Debug)]
pub enum Memory {
    Own(Buffer),
    /// The buffer of an earlier argument.
    Of(usize),
}

/// A tensor map but for its address.
#[derive(Clone, Debug)]
pub struct Shape {
    data_type: DataType,
    dims: Vec<u64>,
    box_dims: Vec<u32>,
    swizzle: Swizzle,
}

/// `4x2` → [4, 2].
fn product<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    text.split('x')
        .map(|n| {
            n.parse()
                .map_err(|_| format!("`{text}`: extents are numbers with `x` between, the innermost first"))
        })
        .collect()
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{path}: {error}"))
}

fn count(text: &str, of: u64) -> Result<u64, String> {
    let bytes = text.parse::<u64>().ok().and_then(|n| n.checked_mul(of));
    match bytes {
        Some(bytes @ 1..=LARGEST) => Ok(bytes),
        _ => Err(format!("`{text}`: a size is a number, and {LARGEST} bytes the most")),
    }
}

impl Buffer {
    /// `buf:…`, `zero:…`, `out:…` or `inout:…`.
    fn parse(kind: &str, rest: &str) -> Result<Buffer, String> {
        let typed = rest.split_once(':').and_then(|(name, rest)| Some((Type::named(name)?, rest)));
        let (ty, rest) = typed.unwrap_or((Type::Bits(1), rest));
        let data = match (kind, typed) {
            ("buf" | "inout", _) if rest.starts_with('@') => Some(read(&rest[1..])?),
            ("buf" | "inout", Some(_)) => Some(ty.parse_list(rest)?),
            ("inout", None) => return Err("inout:TYPE:VALUES or inout:@FILE".into()),
            _ => None,
        };
        let bytes = match &data {
            Some(data) => data.len() as u64,
            None => count(rest, ty.bytes() as u64)?,
        };
        if bytes == 0 || bytes % ty.bytes() as u64 != 0 {
            return Err(format!("{bytes} bytes are no whole number of {} values", ty.name()));
        }
        let data = if kind == "zero" { Some(vec![0; bytes as usize]) } else { data };
        Ok(Buffer { bytes, data, output: matches!(kind, "out" | "inout"), ty })
    }

    fn place(&self, machine: &mut Machine) -> Result<u64, String> {
        let address = machine.alloc(0, self.bytes, 256).map_err(|e| e.to_string())?;
        if let Some(data) = &self.data {
            machine.write(address, data).map_err(|e| e.to_string())?;
        }
        Ok(address)
    }
}

impl Argument {
    /// What stands after `--arg`.
    pub fn parse(text: &str) -> Result<Argument, String> {
        let argument = || {
            let (kind, rest) = text.split_once(':').ok_or("KIND:VALUE")?;
            match kind {
                "buf" | "zero" | "out" | "inout" => Ok(Argument::Buffer(Buffer::parse(kind, rest)?)),
                "map" => Argument::map(rest),
                "bytes" => match rest.strip_prefix('@') {
                    Some(path) => Ok(Argument::Scalar(read(path)?)),
                    None => Ok(Argument::Scalar(Type::Bits(1).parse_list(rest)?)),
                },
                _ => {
                    let ty = Type::named(kind).ok_or_else(|| format!("no kind of argument `{kind}`"))?;
                    Ok(Argument::Scalar(ty.parse(rest)?))
                }
            }
        };
        argument().map_err(|error: String| format!("--arg {text}: {error}"))
    }

    /// `TYPE:DIMS:BOX:SWIZZLE:BUFFER`.
    fn map(text: &str) -> Result<Argument, String> {
        let parts: Vec<&str> = text.splitn(5, ':').collect();
        let &[ty, dims, box_dims, swizzle, memory] = &parts[..] else {
            return Err("map:TYPE:DIMS:BOX:SWIZZLE:BUFFER".into());
        };
        let data_type = match ty {
            "u8" | "s8" | "b8" | "e4m3" | "e5m2" => DataType::U8,
            "u16" | "b16" => DataType::U16,
            "u32" | "b32" => DataType::U32,
            "s32" => DataType::S32,
            "u64" | "b64" => DataType::U64,
            "s64" => DataType::S64,
            "f16" => DataType::F16,
            "bf16" => DataType::BF16,
            "f32" => DataType::F32,
            "f64" => DataType::F64,
            "tf32" => DataType::TF32,
            _ => return Err(format!("no tensor map has elements of `{ty}`")),
        };
        let swizzle = match swizzle {
            "none" => Swizzle::None,
            "32" => Swizzle::B32,
            "64" => Swizzle::B64,
            "128" => Swizzle::B128,
            _ => return Err(format!("swizzle `{swizzle}`: none, 32, 64 or 128")),
        };
        let memory = match memory.split_once(':') {
            Some((kind @ ("buf" | "zero" | "out" | "inout"), rest)) => {
                Memory::Own(Buffer::parse(kind, rest)?)
            }
            None if memory.starts_with('#') => Memory::Of(
                memory[1..].parse().map_err(|_| format!("`{memory}`: #N is the buffer of argument N"))?,
            ),
            _ => return Err(format!("`{memory}` is no buffer: buf:…, zero:…, out:…, inout:… or #N")),
        };
        let shape = Shape { data_type, dims: product(dims)?, box_dims: product(box_dims)?, swizzle };
        Ok(Argument::Map { shape, memory })
    }

    /// The buffer that the argument brings.
    pub fn buffer(&self) -> Option<&Buffer> {
        match self {
            Argument::Buffer(buffer) | Argument::Map { memory: Memory::Own(buffer), .. } => Some(buffer),
            _ => None,
        }
    }
}

impl Shape {
    /// Rows packed, nothing in between.
    fn encode(&self, address: u64, room: u64) -> Result<Vec<u8>, String> {
        let mut strides = Vec::new();
        let mut bytes = u64::from(self.data_type.bytes());
        for extent in &self.dims {
            bytes = bytes.checked_mul(*extent).ok_or("the tensor has more than 2^64 bytes")?;
            strides.push(bytes);
        }
        if bytes > room {
            return Err(format!("the tensor has {bytes} bytes, its buffer {room}"));
        }
        strides.pop();
        let map = TensorMap::new(&Tiled {
            data_type: self.data_type,
            address,
            dims: &self.dims,
            strides: &strides,
            box_dims: &self.box_dims,
            element_strides: &vec![1; self.dims.len()],
            interleave: Interleave::None,
            swizzle: self.swizzle,
            l2_promotion: L2Promotion::None,
            oob_fill: OobFill::Zero,
        });
        Ok(map.map_err(|e| e.to_string())?.encode().iter().flat_map(|word| word.to_le_bytes()).collect())
    }
}

/// Makes the buffers and fills the parameter block; the buffers' addresses by argument.
pub fn place(
    machine: &mut Machine,
    kernel: &Kernel,
    arguments: &[Argument],
) -> Result<(Vec<u8>, Vec<Option<u64>>), String> {
    if kernel.params.len() != arguments.len() {
        let names: Vec<String> =
            kernel.params.iter().map(|p| format!("{} ({} bytes)", p.name, p.size)).collect();
        let names = if names.is_empty() { "none".into() } else { names.join(", ") };
        return Err(format!("{}: {} arguments given, it takes {names}", kernel.name, arguments.len()));
    }
    let mut params = vec![0; kernel.param_bytes as usize];
    let mut addresses: Vec<Option<u64>> = Vec::new();
    for (index, (argument, param)) in arguments.iter().zip(&kernel.params).enumerate() {
        let wrong = |error: String| format!("argument {index}, `{}`: {error}", param.name);
        let address = match argument.buffer() {
            Some(buffer) => Some(buffer.place(machine).map_err(wrong)?),
            None => None,
        };
        let bytes = match argument {
            Argument::Scalar(bytes) => bytes.clone(),
            Argument::Buffer(_) => address.unwrap_or_default().to_le_bytes().to_vec(),
            Argument::Map { shape, memory } => {
                let (address, room) = match memory {
                    Memory::Own(buffer) => (address, buffer.bytes),
                    Memory::Of(other) => (
                        addresses.get(*other).copied().flatten(),
                        arguments.get(*other).and_then(Argument::buffer).map_or(0, |b| b.bytes),
                    ),
                };
                let address =
                    address.ok_or_else(|| wrong("no earlier argument with a buffer there".into()))?;
                shape.encode(address, room).map_err(wrong)?
            }
        };
        if bytes.len() != param.size as usize {
            return Err(wrong(format!("it takes {} bytes, got {}", param.size, bytes.len())));
        }
        params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        addresses.push(address);
    }
    Ok((params, addresses))
}
