//! A kernel: for what needs several threads, barriers or copies. Named buffers go in and come out.
//!
//! Each buffer is a parameter and, in the body, a 64-bit register of its name with its address; `tid` is `%tid.x`, and `launch`
//! counts launches. A tensor map over a buffer is a register with its generic address. Each kernel runs round robin with
//! the latest completion of asynchronous operations, and in random order with random completion. Inputs must come back as
//! they went, and every element of an output must be what its expression says.

use std::sync::Arc;

use super::expr::{Expr, Scope};
use super::parse;
use super::value::{Ty, Value};
use crate::ir::Module;
use crate::machine::{Completion, Launch, Machine, MachineConfig, Schedule};
use crate::report::Fault;
use crate::tma::{
    DataType, Im2col, Interleave, L2Promotion, OobFill, Swizzle, TensorMap, TensorMapError, Tiled,
};

/// Contents of a buffer.
#[derive(Clone, Debug)]
pub(super) enum Fill {
    Each(Expr),
    List(Vec<Expr>),
}

#[derive(Clone, Debug)]
pub(super) struct Buffer {
    pub line: usize,
    pub name: String,
    pub ty: Ty,
    pub count: usize,
    /// `None`: painted, nothing to read.
    pub before: Option<Fill>,
    /// `None`: unchanged.
    pub after: Option<Fill>,
}

/// A tiled tensor map over a buffer.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub line: usize,
    pub name: String,
    pub buffer: String,
    pub data_type: DataType,
    pub dims: Vec<u64>,
    pub strides: Vec<u64>,
    pub box_dims: Vec<u32>,
    pub steps: Vec<u32>,
    pub swizzle: Swizzle,
    pub fill: OobFill,
    /// Of an im2col map.
    pub lower: Vec<i32>,
    /// See `lower`.
    pub upper: Vec<i32>,
    /// See `lower`; 0 for a tiled map.
    pub pixels: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub line: usize,
    pub name: String,
    pub covers: Vec<String>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: Option<[u32; 3]>,
    pub shared: u32,
    /// `.maxnreg`.
    pub registers: Option<u32>,
    pub launches: u32,
    pub programmatic: bool,
    pub cooperative: bool,
    /// The class of the fault it must end in, as [`crate::Class`] spells it.
    pub faults: Option<String>,
    pub buffers: Vec<Buffer>,
    /// Multicast objects: name, and the buffers behind it, one on each device.
    pub multicasts: Vec<(String, Vec<String>)>,
    pub maps: Vec<Map>,
    /// Lines before the entry.
    pub module: String,
    pub body: String,
}

const PAINT: u8 = 0xee;

/// Name, type and bytes of a buffer.
type Contents = (String, Ty, Vec<u8>);

struct Elements<'a> {
    index: usize,
    buffers: &'a [Contents],
}

impl Scope for Elements<'_> {
    fn variable(&self, name: &str) -> Option<Value> {
        (name == "i").then_some(Value::Int(self.index as i128))
    }

    fn element(&self, name: &str, index: i128) -> Option<Result<Value, String>> {
        let (_, ty, bytes) = self.buffers.iter().find(|b| b.0 == name)?;
        let size = ty.bytes();
        let at = usize::try_from(index).ok().map(|index| index * size);
        let Some(from) = at.and_then(|at| bytes.get(at..at + size)) else {
            return Some(Err(format!("{name}[{index}] is outside the buffer")));
        };
        let mut bits = [0; 16];
        bits[..size].copy_from_slice(from);
        Some(Ok(ty.decode(u128::from_le_bytes(bits))))
    }
}

impl Fill {
    fn bytes(&self, ty: Ty, count: usize, buffers: &[Contents]) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(count * ty.bytes());
        if let Fill::List(list) = self
            && list.len() != count
        {
            return Err(format!("{} values for {count} elements", list.len()));
        }
        for index in 0..count {
            let expr = match self {
                Fill::Each(expr) => expr,
                Fill::List(list) => &list[index],
            };
            let value = expr.eval(&Elements { index, buffers })?;
            let bits = match value {
                Value::Bits(bits) if ty.lanes > 1 => bits,
                value => ty.element().encode(value)?,
            };
            bytes.extend(&bits.to_le_bytes()[..ty.bytes()]);
        }
        Ok(bytes)
    }
}

impl Map {
    fn build(&self, address: u64) -> Result<TensorMap, TensorMapError> {
        if self.pixels != 0 {
            return TensorMap::im2col(&Im2col {
                data_type: self.data_type,
                address,
                dims: &self.dims,
                strides: &self.strides,
                lower_corner: &self.lower,
                upper_corner: &self.upper,
                channels: self.box_dims.first().copied().unwrap_or(0),
                pixels: self.pixels,
                element_strides: &self.steps,
                swizzle: self.swizzle,
                l2_promotion: L2Promotion::None,
                oob_fill: self.fill,
            });
        }
        TensorMap::new(&Tiled {
            data_type: self.data_type,
            address,
            dims: &self.dims,
            strides: &self.strides,
            box_dims: &self.box_dims,
            element_strides: &self.steps,
            interleave: Interleave::None,
            swizzle: self.swizzle,
            l2_promotion: L2Promotion::None,
            oob_fill: self.fill,
        })
    }
}

/// The text with every statement of that form a `trap`.
fn trap(text: &str, form: Option<&str>) -> String {
    let Some(form) = form else { return text.to_string() };
    let mut out = String::new();
    for (statement, end) in parse::statements(text) {
        let (lead, guard, opcode) = parse::opcode(statement);
        if opcode == form {
            out += &format!("{lead}{guard} trap;");
        } else {
            out += statement;
            out += end;
        }
    }
    out
}

impl Kernel {
    /// The whole module; with `trapped`, that form becomes a `trap`.
    pub(super) fn text(&self, trapped: Option<&str>) -> String {
        let mut parameters: Vec<String> =
            self.buffers.iter().map(|b| format!(".param .u64 p_{}", b.name)).collect();
        parameters.extend(self.multicasts.iter().map(|m| format!(".param .u64 p_{}", m.0)));
        parameters.extend(self.maps.iter().map(|m| format!(".param .align 64 .b8 p_{}[128]", m.name)));
        parameters.push(".param .u32 p_launch".into());
        let [x, y, z] = self.block;
        let mut text = format!(
            ".version 8.8\n.target sm_90a\n.address_size 64\n{}.visible .entry k({})\n.reqntid {x}, {y}, {z}\n",
            trap(&self.module, trapped),
            parameters.join(", ")
        );
        if let Some(registers) = self.registers {
            text += &format!(".maxnreg {registers}\n");
        }
        if let Some([x, y, z]) = self.cluster {
            text += &format!(".reqnctapercluster {x}, {y}, {z}\n");
        }
        text +=
            "{\n    .reg .b32 tid, launch;\n    mov.u32 tid, %tid.x;\n    ld.param.u32 launch, [p_launch];\n";
        let multicasts = self.multicasts.iter().map(|m| &m.0);
        for name in self.buffers.iter().map(|b| &b.name).chain(multicasts) {
            text += &format!("    .reg .b64 {name};\n    ld.param.u64 {name}, [p_{name}];\n");
        }
        for Map { name, .. } in &self.maps {
            text += &format!(
                "    .reg .b64 {name};\n    mov.b64 {name}, p_{name};\n    cvta.param.u64 {name}, {name};\n"
            );
        }
        text += &trap(&self.body, trapped);
        text + "}\n"
    }

    fn devices(&self) -> usize {
        self.multicasts.iter().map(|m| m.1.len()).max().unwrap_or(1)
    }

    /// What went wrong.
    pub(super) fn run(&self) -> Vec<(usize, String)> {
        let orders = [
            (Schedule::RoundRobin, Completion::Latest),
            (Schedule::Random, Completion::Random),
            (Schedule::RoundRobin, Completion::Eager),
        ];
        let expected = match self.expected() {
            Ok(expected) => expected,
            Err(failure) => return vec![failure],
        };
        for (schedule, completion) in orders {
            let config = MachineConfig { schedule, completion, seed: 11, ..super::config(self.devices()) };
            if let Err((line, message)) = self.check(config, &expected) {
                return vec![(line, format!("{} ({schedule:?}, {completion:?}): {message}", self.name))];
            }
        }
        if self.faults.is_some() {
            return Vec::new();
        }
        // Whatever is said to be covered is executed: a trap in its place is hit.
        let mut failures = Vec::new();
        for form in &self.covers {
            let traps = match self.execute(super::config(self.devices()), &self.text(Some(form))) {
                Ok((_, Err(fault), _)) => fault.report.class == crate::Class::Trap,
                _ => false,
            };
            if !traps {
                failures.push((self.line, format!("{} does not execute {form}", self.name)));
            }
        }
        failures
    }

    /// Final bytes of every buffer.
    fn expected(&self) -> Result<Vec<Vec<u8>>, (usize, String)> {
        let before = self.contents()?;
        let of = |(buffer, (_, _, initial)): (&Buffer, &Contents)| match &buffer.after {
            Some(fill) => {
                fill.bytes(buffer.ty, buffer.count, &before).map_err(|message| (buffer.line, message))
            }
            None => Ok(initial.clone()),
        };
        self.buffers.iter().zip(&before).map(of).collect()
    }

    fn check(&self, config: MachineConfig, expected: &[Vec<u8>]) -> Result<(), (usize, String)> {
        let (machine, end, addresses) = self.execute(config, &self.text(None))?;
        match (&self.faults, end) {
            (None, Err(fault)) => return Err((self.line, fault.to_string())),
            (Some(class), Err(fault)) if fault.report.class.to_string() == *class => return Ok(()),
            (Some(class), Err(fault)) => {
                return Err((self.line, format!("must end in a fault `{class}`, got\n{fault}")));
            }
            (Some(class), Ok(())) => return Err((self.line, format!("must end in a fault `{class}`"))),
            (None, Ok(())) => {}
        }
        for ((buffer, address), expected) in self.buffers.iter().zip(addresses).zip(expected) {
            let mut got = vec![0; expected.len()];
            machine.read(address, &mut got).map_err(|e| (buffer.line, e.to_string()))?;
            let size = buffer.ty.bytes();
            let hex = |bytes: &[u8]| -> String { bytes.iter().rev().map(|b| format!("{b:02x}")).collect() };
            let wrong: Vec<usize> = (0..buffer.count)
                .filter(|k| got[k * size..(k + 1) * size] != expected[k * size..(k + 1) * size])
                .collect();
            if let Some(&k) = wrong.first() {
                let range = k * size..(k + 1) * size;
                return Err((
                    buffer.line,
                    format!(
                        "{}[{k}] is 0x{}, expected 0x{} ({} of {} elements differ)",
                        buffer.name,
                        hex(&got[range.clone()]),
                        hex(&expected[range]),
                        wrong.len(),
                        buffer.count
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Initial bytes of every buffer; an input may be computed from those before it.
    fn contents(&self) -> Result<Vec<Contents>, (usize, String)> {
        let mut all = Vec::new();
        for buffer in &self.buffers {
            let bytes = match &buffer.before {
                Some(fill) => {
                    fill.bytes(buffer.ty, buffer.count, &all).map_err(|message| (buffer.line, message))?
                }
                None => vec![PAINT; buffer.count * buffer.ty.bytes()],
            };
            all.push((buffer.name.clone(), buffer.ty, bytes));
        }
        Ok(all)
    }

    #[allow(clippy::type_complexity)]
    fn execute(
        &self,
        config: MachineConfig,
        text: &str,
    ) -> Result<(Machine, Result<(), Fault>, Vec<u64>), (usize, String)> {
        let wrong = |e: crate::MachineError| (self.line, e.to_string());
        let module = Module::parse("kernel.ptx", text).map_err(|e| (self.line, e.to_string()))?;
        let mut machine = Machine::new(config);
        let id = machine.load_module(0, Arc::new(module)).map_err(wrong)?;
        let stream = machine.create_stream(0);
        let mut addresses = Vec::new();
        for (name, _, bytes) in self.contents()? {
            // The buffers of a multicast object are on one device each.
            let device = self.multicasts.iter().find_map(|m| m.1.iter().position(|b| *b == name));
            let address = machine.alloc(device.unwrap_or(0), bytes.len() as u64, 256).map_err(wrong)?;
            machine.write(address, &bytes).map_err(wrong)?;
            addresses.push(address);
        }
        let mut pointers = addresses.clone();
        for (_, behind) in &self.multicasts {
            let of = |name: &String| self.buffers.iter().position(|b| b.name == *name);
            let bytes = behind
                .first()
                .and_then(of)
                .map_or(0, |k| self.buffers[k].count as u64 * self.buffers[k].ty.bytes() as u64);
            let multicast = machine.create_multicast(bytes);
            for buffer in behind {
                let k = of(buffer).ok_or_else(|| (self.line, format!("no buffer `{buffer}`")))?;
                machine.bind_multicast(multicast, 0, addresses[k], bytes).map_err(wrong)?;
            }
            pointers.push(multicast);
        }
        let mut params: Vec<u8> = pointers.iter().flat_map(|a| a.to_le_bytes()).collect();
        for map in &self.maps {
            let target = self.buffers.iter().position(|b| b.name == map.buffer);
            let target = target.ok_or_else(|| (map.line, format!("no buffer `{}`", map.buffer)))?;
            let encoded = map.build(addresses[target]).map_err(|e| (map.line, e.to_string()))?.encode();
            params.resize(params.len().next_multiple_of(64), 0);
            params.extend(encoded.iter().flat_map(|w| w.to_le_bytes()));
        }
        for number in 0..self.launches {
            let mut params = params.clone();
            params.extend(number.to_le_bytes());
            let launch = Launch {
                grid: self.grid,
                block: self.block,
                cluster: self.cluster,
                dynamic_shared: self.shared,
                params,
                programmatic: self.programmatic && number > 0,
                cooperative: self.cooperative,
                registers: None,
            };
            machine.launch(stream, id, "k", &launch).map_err(wrong)?;
        }
        let end = machine.synchronize(stream);
        Ok((machine, end, addresses))
    }
}
