//! A table: one form (or a short sequence that only makes sense together) and its cases, each run by one full warp.
//!
//! Registers are loaded from a buffer, the text is executed, the registers of the results are stored: 32 lanes, all bits. A text
//! that addresses `[addr]` gets 64 bytes of memory for each lane in the state space its modifiers name, and without one in each
//! state space a generic address can point to. Bytes the case does not mention are painted and must stay as they are.

use std::sync::Arc;

use super::expr::{Expr, Scope};
use super::value::{Ty, Value};
use crate::ir::Module;
use crate::machine::{Launch, Machine};

/// Bytes of memory of each lane.
const SLOT: usize = 64;
const PAINT: u8 = 0xee;
const LANES: usize = 32;

/// What a case says about a variable.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Spec {
    /// The same expression in each lane (it may use `lane`).
    Each(Expr),
    /// Elements of a packed value, lowest first.
    Packed(Vec<Expr>),
    /// One expression for each lane.
    Lanes(Vec<Expr>),
    /// Leading bytes of memory.
    Memory(Ty, Vec<Expr>),
}

/// One line of a table.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub line: usize,
    pub inputs: Vec<(String, Spec)>,
    pub outputs: Vec<(String, Spec)>,
}

/// Where `[addr]` points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Global,
    Shared,
    Local,
    Const,
    Param,
    GenericShared,
    GenericLocal,
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub line: usize,
    /// Annotations removed.
    pub text: String,
    pub forms: Vec<String>,
    pub variables: Vec<(String, Ty)>,
    pub cases: Vec<Case>,
}

struct Lane(usize);

impl Scope for Lane {
    fn variable(&self, name: &str) -> Option<Value> {
        (name == "lane").then_some(Value::Int(self.0 as i128))
    }

    fn element(&self, _: &str, _: i128) -> Option<Result<Value, String>> {
        None
    }
}

impl Spec {
    /// The bits of a register in a lane.
    fn register(&self, ty: Ty, lane: usize) -> Result<u128, String> {
        match self {
            Spec::Each(expr) => {
                let value = expr.eval(&Lane(lane))?;
                if let (2.., Value::Bits(bits)) = (ty.lanes, value) {
                    return Ok(bits);
                }
                ty.element().encode(value).map(|bits| ty.extend(bits))
            }
            Spec::Packed(elements) => {
                if elements.len() != ty.lanes as usize {
                    return Err(format!("{} elements for {}", elements.len(), ty.name));
                }
                elements.iter().enumerate().try_fold(0, |bits, (k, e)| {
                    Ok(bits | ty.element().encode(e.eval(&Lane(lane))?)? << (k as u32 * ty.bits))
                })
            }
            Spec::Lanes(values) => {
                let value = values.get(lane).ok_or_else(|| format!("{} lanes given", values.len()))?;
                ty.encode(value.eval(&Lane(lane))?).map(|bits| ty.extend(bits))
            }
            Spec::Memory(..) => Err("memory is called `mem`".into()),
        }
    }

    /// Writes a lane's memory.
    fn memory(&self, lane: usize, slot: &mut [u8]) -> Result<(), String> {
        let Spec::Memory(ty, elements) = self else { return Err("mem=type[…]".into()) };
        for (k, element) in elements.iter().enumerate() {
            let value = element.eval(&Lane(lane))?;
            let bits = match value {
                Value::Bits(bits) if ty.lanes > 1 => bits,
                value => ty.element().encode(value)?,
            };
            let bytes = ty.bytes();
            let to = slot.get_mut(k * bytes..(k + 1) * bytes).ok_or("more than 64 bytes of memory")?;
            to.copy_from_slice(&bits.to_le_bytes()[..bytes]);
        }
        Ok(())
    }
}

fn find<'a>(specs: &'a [(String, Spec)], name: &str) -> Option<&'a Spec> {
    specs.iter().find(|(n, _)| n == name).map(|(_, spec)| spec)
}

impl Table {
    fn places(&self) -> Vec<Option<Place>> {
        if !self.text.contains("[addr") {
            return vec![None];
        }
        // The instruction that addresses it says which state space.
        let accesses = |(_, text): &(&String, &str)| text.contains("[addr");
        let form = self.forms.iter().zip(self.text.split(';')).find(accesses).map_or("", |(form, _)| form);
        let has = |part: &str| form.split('.').any(|m| m == part || m.split("::").next() == Some(part));
        let places = if has("global") {
            &[Place::Global][..]
        } else if has("shared") {
            &[Place::Shared]
        } else if has("local") {
            &[Place::Local]
        } else if has("const") {
            &[Place::Const]
        } else if has("param") {
            &[Place::Param]
        } else if form.starts_with("ld") || form.starts_with("st") {
            let strong = ["relaxed", "acquire", "release", "mmio"].iter().any(|m| has(m));
            let all = &[Place::Global, Place::GenericShared, Place::GenericLocal];
            if strong { &all[..2] } else { &all[..] }
        } else {
            &[Place::Global, Place::GenericShared]
        };
        places.iter().copied().map(Some).collect()
    }

    /// PTX for every place; the case's constants matter only to `.const`.
    pub(super) fn texts(&self) -> Vec<String> {
        self.places().into_iter().map(|place| self.ptx(place, &[0; SLOT])).collect()
    }

    fn ptx(&self, place: Option<Place>, constants: &[u8]) -> String {
        let mut module = String::from(".version 8.8\n.target sm_90a\n.address_size 64\n");
        if place == Some(Place::Const) {
            let bytes: Vec<String> = constants.iter().map(u8::to_string).collect();
            module += &format!(".const .align 64 .b8 slot[{SLOT}] = {{{}}};\n", bytes.join(", "));
        }
        let parameter = if place == Some(Place::Param) { ", .param .align 16 .b8 slot[64]" } else { "" };
        module += &format!(
            ".visible .entry k(.param .u64 p_in, .param .u64 p_out, .param .u64 p_mem{parameter})\n{{\n"
        );
        for (name, ty) in &self.variables {
            module += &format!("    .reg {} {name};\n", ty.register());
        }
        module += "    .reg .b64 %in, %out, %mem, %step;\n    .reg .b32 %lane, %word;\n    \
                   mov.u32 %lane, %tid.x;\n    mul.wide.u32 %step, %lane, 8;\n    \
                   ld.param.u64 %in, [p_in];\n    add.s64 %in, %in, %step;\n    \
                   ld.param.u64 %out, [p_out];\n    add.s64 %out, %out, %step;\n    \
                   ld.param.u64 %mem, [p_mem];\n    mul.wide.u32 %step, %lane, 64;\n    \
                   add.s64 %mem, %mem, %step;\n";
        let mut text = self.text.clone();
        let space = match place {
            None => "",
            Some(Place::Global) => {
                module += "    .reg .b64 addr;\n    mov.b64 addr, %mem;\n";
                ""
            }
            Some(Place::Const | Place::Param) => {
                text = text.replace("[addr", "[slot");
                ""
            }
            Some(Place::Shared) => {
                module += "    .shared .align 64 .b8 slots[2048];\n    .reg .b32 addr, %here;\n    \
                           mov.u32 %here, slots;\n    mad.lo.u32 %here, %lane, 64, %here;\n    \
                           mov.b32 addr, %here;\n";
                "shared"
            }
            Some(Place::GenericShared) => {
                module += "    .shared .align 64 .b8 slots[2048];\n    .reg .b64 addr;\n    .reg .b32 %here;\n    \
                           mov.u32 %here, slots;\n    mad.lo.u32 %here, %lane, 64, %here;\n    \
                           cvt.u64.u32 addr, %here;\n    cvta.shared.u64 addr, addr;\n";
                "shared"
            }
            Some(at @ (Place::Local | Place::GenericLocal)) => {
                module += "    .local .align 64 .b8 slot[64];\n    .reg .b64 addr, %here;\n    \
                           mov.u64 %here, slot;\n    mov.b64 addr, %here;\n";
                if at == Place::GenericLocal {
                    module += "    cvta.local.u64 addr, addr;\n";
                }
                "local"
            }
        };
        if !space.is_empty() {
            for at in (0..SLOT).step_by(4) {
                module += &format!(
                    "    ld.global.b32 %word, [%mem+{at}];\n    st.{space}.b32 [%here+{at}], %word;\n"
                );
            }
        }
        for (k, (name, ty)) in self.inputs().enumerate() {
            let at = k * LANES * 8;
            module += &match ty.register() {
                ".pred" => {
                    format!("    ld.global.b32 %word, [%in+{at}];\n    setp.ne.b32 {name}, %word, 0;\n")
                }
                register => format!("    ld.global{register} {name}, [%in+{at}];\n"),
            };
        }
        module += &format!("    {text}\n");
        for (k, (name, ty)) in self.outputs().enumerate() {
            let at = k * LANES * 8;
            module += &match ty.register() {
                ".pred" => {
                    format!("    selp.b32 %word, 1, 0, {name};\n    st.global.b32 [%out+{at}], %word;\n")
                }
                register => format!("    st.global{register} [%out+{at}], {name};\n"),
            };
        }
        if !space.is_empty() {
            for at in (0..SLOT).step_by(4) {
                module += &format!(
                    "    ld.{space}.b32 %word, [%here+{at}];\n    st.global.b32 [%mem+{at}], %word;\n"
                );
            }
        }
        module + "    ret;\n}\n"
    }

    /// Variables that some case gives, resp. expects; all cases of a table speak of the same ones.
    fn inputs(&self) -> impl Iterator<Item = &(String, Ty)> {
        let first = self.cases.first();
        self.variables.iter().filter(move |v| first.is_some_and(|c| find(&c.inputs, &v.0).is_some()))
    }

    fn outputs(&self) -> impl Iterator<Item = &(String, Ty)> {
        let first = self.cases.first();
        self.variables.iter().filter(move |v| first.is_some_and(|c| find(&c.outputs, &v.0).is_some()))
    }

    /// Runs every case; what went wrong, with the case's line.
    pub(super) fn run(&self) -> Vec<(usize, String)> {
        let mut failures = Vec::new();
        for place in self.places() {
            let mut loaded = None;
            for case in &self.cases {
                if let Err(message) = self.run_case(case, place, &mut loaded) {
                    let place = place.map_or(String::new(), |p| format!(" ({p:?} memory)"));
                    failures.push((case.line, format!("{}{place}: {message}", self.text)));
                }
            }
        }
        failures
    }

    fn run_case(
        &self,
        case: &Case,
        place: Option<Place>,
        loaded: &mut Option<Arc<Module>>,
    ) -> Result<(), String> {
        let (mut before, mut after) = (vec![PAINT; LANES * SLOT], vec![PAINT; LANES * SLOT]);
        for lane in 0..LANES {
            let slot = lane * SLOT..(lane + 1) * SLOT;
            if let Some(spec) = find(&case.inputs, "mem") {
                spec.memory(lane, &mut before[slot.clone()])?;
                spec.memory(lane, &mut after[slot.clone()])?;
            }
            if let Some(spec) = find(&case.outputs, "mem") {
                spec.memory(lane, &mut after[slot])?;
            }
        }
        let constant = place == Some(Place::Const);
        let module = match loaded {
            Some(module) if !constant => module.clone(),
            _ => {
                let text = self.ptx(place, &before[..SLOT]);
                let module = Arc::new(Module::parse("table.ptx", &text).map_err(|e| e.to_string())?);
                *loaded = Some(module.clone());
                module
            }
        };
        let inputs: Vec<_> = self.inputs().collect();
        let outputs: Vec<_> = self.outputs().collect();
        let mut given = vec![0; (inputs.len() * LANES * 8).max(8)];
        for (k, (name, ty)) in inputs.iter().enumerate() {
            let spec = find(&case.inputs, name).ok_or_else(|| format!("`{name}` is not given"))?;
            for lane in 0..LANES {
                let bits = spec.register(*ty, lane).map_err(|e| format!("{name}: {e}"))?;
                let at = (k * LANES + lane) * 8;
                given[at..at + 8].copy_from_slice(&(bits as u64).to_le_bytes());
            }
        }
        let mut machine = Machine::new(super::config(1));
        let wrong = |e: crate::MachineError| e.to_string();
        let id = machine.load_module(0, module).map_err(wrong)?;
        let stream = machine.create_stream(0);
        let painted = vec![PAINT; (outputs.len() * LANES * 8).max(8)];
        let mut place_bytes = |bytes: &[u8]| -> Result<u64, String> {
            let at = machine.alloc(0, bytes.len() as u64, 256).map_err(wrong)?;
            machine.write(at, bytes).map_err(wrong)?;
            Ok(at)
        };
        let [p_in, p_out, p_mem] = [place_bytes(&given)?, place_bytes(&painted)?, place_bytes(&before)?];
        let mut params: Vec<u8> = [p_in, p_out, p_mem].iter().flat_map(|p| p.to_le_bytes()).collect();
        if place == Some(Place::Param) {
            params.resize(32, 0);
            params.extend(&before[..SLOT]);
        }
        let launch = Launch { grid: [1; 3], block: [LANES as u32, 1, 1], params, ..Launch::default() };
        machine.launch(stream, id, "k", &launch).map_err(wrong)?;
        machine.synchronize(stream).map_err(|fault| fault.to_string())?;

        let mut got = vec![0; painted.len()];
        machine.read(p_out, &mut got).map_err(wrong)?;
        for (k, (name, ty)) in outputs.iter().enumerate() {
            let spec = find(&case.outputs, name).ok_or_else(|| format!("`{name}` is not expected"))?;
            let bytes = match ty.register() {
                ".b16" => 2,
                ".b64" => 8,
                _ => 4,
            };
            for lane in 0..LANES {
                let expected = spec.register(*ty, lane).map_err(|e| format!("{name}: {e}"))? as u64;
                let at = (k * LANES + lane) * 8;
                let mut bits = [0; 8];
                bits[..bytes].copy_from_slice(&got[at..at + bytes]);
                let bits = u64::from_le_bytes(bits);
                if bits != expected {
                    let width = 2 + 2 * bytes;
                    return Err(format!(
                        "lane {lane}: {name} is {bits:#0width$x}, expected {expected:#0width$x}"
                    ));
                }
            }
        }
        let mut memory = vec![0; LANES * SLOT];
        machine.read(p_mem, &mut memory).map_err(wrong)?;
        let written_back = !constant && place != Some(Place::Param);
        if written_back && let Some(at) = (0..memory.len()).find(|&at| memory[at] != after[at]) {
            let (lane, start) = (at / SLOT, at / SLOT * SLOT);
            return Err(format!(
                "lane {lane}: memory is {:02x?}, expected {:02x?}",
                &memory[start..start + 32],
                &after[start..start + 32]
            ));
        }
        Ok(())
    }
}
