//! Reads SASS: what the machine code of a kernel costs where it matters.
//!
//! The main loop is the innermost loop that holds GMMA instructions. Its instructions, the retry loops of its barrier waits
//! included, are divided by the blocks it multiplies: 128 of K in a GEMM, the number `deepgemm`-class kernels are compared by;
//! 64 tokens of the cache in attention, of which a turn of FlashMLA's loop takes two. A kernel that unrolls its ring enters the loop in the middle, so loops are found as strongly connected parts of the flow
//! graph, nested by cutting the edges into their entries (Steensgaard), which does not mind several entries.
//!
//! Beside the count stand two ratios. *Issue*: instructions of all consumer warps of a quarter SM per cycle the tensor core
//! needs at full rate (4,096 E4M3 or 2,048 BF16 products a cycle and SM). *Port*: cycles of the 128 B/cycle shared-memory port per tensor
//! cycle: what every wgmma reads of A and B (each 64-row wgmma reads all of its B again), the copies in, and the loop's loads
//! and stores. Over 1.0 that resource, not the tensor core, is the limit. The epilogue's traffic is not in it: it depends on K.
//!
//! Standard library only: `build.rs` includes this file by path.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;

use super::ptxas::Tool;
use super::table::KernelRow;

/// Bytes a cycle through the shared-memory port of an SM.
const PORT_BYTES: f64 = 128.0;
/// E4M3 products a cycle of an SM's tensor cores; of BF16, half.
const PRODUCTS: f64 = 4096.0;

/// The SASS of a cubin as `nvdisasm` prints it.
pub fn disassemble(tool: &Tool, cubin: &[u8], name: &str, scratch: &Path) -> Result<String, String> {
    let file = scratch.join(format!("{name}-{}.sass.cubin", std::process::id()));
    let written = std::fs::create_dir_all(scratch).and_then(|()| std::fs::write(&file, cubin));
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let output = Command::new(&tool.path).arg("-c").arg(&file).output();
    // A leftover in the scratch folder harms nobody.
    let _ = std::fs::remove_file(&file);
    let output = output.map_err(|error| format!("cannot run {tool}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{tool} failed ({}): {}", output.status, said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One machine instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Byte address in the function.
    pub address: u64,
    /// Whether it is guarded by a predicate.
    pub guarded: bool,
    /// Opcode with its modifiers: `QGMMA.64x128x32.F32.E4M3.E4M3`.
    pub opcode: String,
    /// The rest of the line.
    pub operands: String,
}

impl Instruction {
    /// Rows, columns and depth of a GMMA.
    fn gmma_shape(&self) -> Option<(u64, u64, u64)> {
        let (name, rest) = self.opcode.split_once('.')?;
        if !name.ends_with("GMMA") {
            return None;
        }
        let mut sizes = rest.split('.').next()?.split('x').map(|size| size.parse().ok());
        Some((sizes.next()??, sizes.next()??, sizes.next()??))
    }

    fn class(&self) -> Class {
        let name = self.opcode.split('.').next().unwrap_or("");
        match name {
            _ if name.ends_with("GMMA") => Class::Gmma,
            "FFMA" | "FMUL" | "FADD" | "FSETP" | "FMNMX" | "FSEL" | "MUFU" => Class::Fp32,
            "LDS" | "STS" | "LDSM" | "STSM" => Class::Lds,
            "LDL" | "STL" => Class::Spill,
            "BRA" | "EXIT" | "BSSY" | "BSYNC" | "BREAK" | "JMP" | "BRX" | "CALL" | "RET" | "PREEXIT" => {
                Class::Branch
            }
            "SYNCS" | "BAR" | "WARPSYNC" | "WARPGROUP" | "DEPBAR" | "LDGDEPBAR" | "NANOSLEEP" | "YIELD"
            | "FENCE" | "MEMBAR" | "ERRBAR" | "ARRIVES" | "ACQBULK" | "USETMAXREG" | "CCTL" | "ELECT"
            | "VOTE" => Class::Sync,
            "R2UR" => Class::Uniform,
            _ if name.starts_with('U') => Class::Uniform,
            _ => Class::Alu,
        }
    }
}

/// What an instruction occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Tensor-core products.
    Gmma,
    /// Single-precision arithmetic.
    Fp32,
    /// Shared-memory loads and stores.
    Lds,
    /// Barriers, fences, waits.
    Sync,
    /// The uniform datapath, and moves to it.
    Uniform,
    /// Everything else.
    Alu,
    /// Control flow.
    Branch,
    /// Local memory: spills.
    Spill,
}

impl Class {
    /// Every class, in the order of the report.
    pub const ALL: [Self; 8] =
        [Self::Gmma, Self::Fp32, Self::Lds, Self::Sync, Self::Uniform, Self::Alu, Self::Branch, Self::Spill];

    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gmma => "gmma",
            Self::Fp32 => "fp32",
            Self::Lds => "lds",
            Self::Sync => "sync",
            Self::Uniform => "uniform",
            Self::Alu => "alu",
            Self::Branch => "branch",
            Self::Spill => "spill",
        }
    }
}

/// A function's instructions and its flow graph.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// The instructions in order of address.
    pub instructions: Vec<Instruction>,
    next: Vec<Vec<usize>>,
}

impl Function {
    /// Reads what `nvdisasm -c` printed of a cubin with one kernel.
    pub fn parse(text: &str) -> Self {
        let mut instructions = Vec::new();
        let mut labels = HashMap::new();
        for line in text.lines().map(str::trim) {
            if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(".L")) {
                labels.insert(label, instructions.len());
            } else if let Some(instruction) = parse_line(line) {
                instructions.push(instruction);
            }
        }
        let next = (0..instructions.len()).map(|at| successors(&instructions, at, &labels)).collect();
        Self { instructions, next }
    }

    /// Bytes of code.
    pub fn code_bytes(&self) -> u64 {
        self.instructions.last().map_or(0, |last| last.address + 16)
    }

    /// How many `USETMAXREG` and GMMA instructions there are.
    pub fn counts(&self) -> (usize, usize) {
        let moves = self.instructions.iter().filter(|i| i.opcode.starts_with("USETMAXREG")).count();
        let multiplies = self.instructions.iter().filter(|i| i.class() == Class::Gmma).count();
        (moves, multiplies)
    }

    /// The innermost loops that hold GMMA, each as the indices of its instructions.
    pub fn gmma_loops(&self) -> Vec<Vec<usize>> {
        let mut found = Vec::new();
        let all: Vec<usize> = (0..self.instructions.len()).collect();
        self.nested(&all, &mut vec![Vec::new(); all.len()], &mut found);
        found
    }

    /// Adds the innermost GMMA loops among `nodes`, with the edges in `cut` gone. Whether there were any.
    fn nested(&self, nodes: &[usize], cut: &mut [Vec<usize>], found: &mut Vec<Vec<usize>>) -> bool {
        let mut any = false;
        for part in self.components(nodes, cut) {
            let loops = part.len() > 1 || self.edges(part[0], cut).any(|next| next == part[0]);
            if !loops || !part.iter().any(|&at| self.instructions[at].class() == Class::Gmma) {
                continue;
            }
            any = true;
            let inside: std::collections::HashSet<usize> = part.iter().copied().collect();
            let mut entries: Vec<usize> = (0..self.next.len())
                .filter(|at| !inside.contains(at))
                .flat_map(|at| self.next[at].iter().copied().filter(|next| inside.contains(next)))
                .collect();
            // Code nothing outside jumps to cannot run; its first instruction stands in as the entry.
            if entries.is_empty() {
                entries.push(part[0]);
            }
            for &at in &part {
                let enters = self.next[at].iter().filter(|next| entries.contains(next));
                cut[at].extend(enters);
            }
            if !self.nested(&part, cut, found) {
                found.push(part);
            }
        }
        any
    }

    fn edges<'a>(&'a self, at: usize, cut: &'a [Vec<usize>]) -> impl Iterator<Item = usize> + 'a {
        self.next[at].iter().copied().filter(move |next| !cut[at].contains(next))
    }

    /// Strongly connected parts of the graph over `nodes` (Tarjan, without recursion), each in order of address.
    fn components(&self, nodes: &[usize], cut: &[Vec<usize>]) -> Vec<Vec<usize>> {
        const UNSEEN: usize = usize::MAX;
        let among: std::collections::HashSet<usize> = nodes.iter().copied().collect();
        let mut index = vec![UNSEEN; self.next.len()];
        let mut low = index.clone();
        let mut on_stack = vec![false; self.next.len()];
        let (mut stack, mut parts, mut counter) = (Vec::new(), Vec::new(), 0);
        for &root in nodes.iter().filter(|&&root| index[root] == UNSEEN).collect::<Vec<_>>() {
            if index[root] != UNSEEN {
                continue;
            }
            let mut walk = vec![(root, None::<std::vec::IntoIter<usize>>)];
            while let Some((at, edges)) = walk.last_mut() {
                let at = *at;
                let edges = edges.get_or_insert_with(|| {
                    (index[at], low[at]) = (counter, counter);
                    counter += 1;
                    stack.push(at);
                    on_stack[at] = true;
                    let next: Vec<_> = self.edges(at, cut).filter(|next| among.contains(next)).collect();
                    next.into_iter()
                });
                match edges.next() {
                    Some(next) if index[next] == UNSEEN => walk.push((next, None)),
                    Some(next) if on_stack[next] => low[at] = low[at].min(index[next]),
                    Some(_) => {}
                    None => {
                        walk.pop();
                        if let Some(&(parent, _)) = walk.last() {
                            low[parent] = low[parent].min(low[at]);
                        }
                        if low[at] == index[at] {
                            let start = stack.iter().rposition(|&node| node == at).unwrap_or(0);
                            let mut part = stack.split_off(start);
                            part.iter().for_each(|&node| on_stack[node] = false);
                            part.sort_unstable();
                            parts.push(part);
                        }
                    }
                }
            }
        }
        parts
    }
}

/// Reads `/*0b90*/  @!P2 BRA `(.L_x_9) ;`.
fn parse_line(line: &str) -> Option<Instruction> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let rest = rest.split(';').next()?.trim();
    let (guarded, rest) = match rest.strip_prefix('@') {
        Some(rest) => (true, rest.split_once(' ')?.1.trim_start()),
        None => (false, rest),
    };
    let (opcode, operands) = rest.split_once(' ').unwrap_or((rest, ""));
    (!opcode.is_empty()).then(|| Instruction {
        address,
        guarded,
        opcode: opcode.into(),
        operands: operands.trim().into(),
    })
}

fn successors(instructions: &[Instruction], at: usize, labels: &HashMap<&str, usize>) -> Vec<usize> {
    let instruction = &instructions[at];
    let name = instruction.opcode.split('.').next().unwrap_or("");
    let mut next = Vec::new();
    let mut falls = true;
    if matches!(name, "BRA" | "JMP") {
        let label = instruction.operands.split_once("`(").and_then(|(_, rest)| rest.split(')').next());
        next.extend(label.and_then(|label| labels.get(label)).filter(|&&target| target < instructions.len()));
        // `BRA.U !UP0, …` and `BRA.DIV …` carry their condition as an operand.
        falls = instruction.guarded || instruction.operands.contains(',');
    } else if matches!(name, "EXIT" | "RET" | "BRX" | "KILL") {
        falls = instruction.guarded;
    }
    if falls && at + 1 < instructions.len() && !next.contains(&(at + 1)) {
        next.push(at + 1);
    }
    next
}

/// The cost of a kernel's main loop.
#[derive(Clone, Debug)]
pub struct MainLoop {
    /// Instructions of one warp in the whole loop, by class.
    pub classes: BTreeMap<Class, usize>,
    /// Of these, the ones in retry loops of barrier waits, which run only when a wait fails.
    pub retry: usize,
    /// Blocks in one turn of the loop: 128 of K, or 64 tokens of a cache.
    pub blocks: f64,
    /// Tensor-core cycles one block needs at full rate, for the whole tile.
    pub tensor_cycles: f64,
    /// Issue slots of a quarter SM per tensor cycle.
    pub issue: f64,
    /// Shared-memory-port cycles per tensor cycle.
    pub port: f64,
}

impl MainLoop {
    /// Instructions of one warp in one turn of the loop.
    pub fn total(&self) -> usize {
        self.classes.values().sum()
    }

    /// Instructions of one warp per block: the SASS metric.
    pub fn per_block(&self) -> f64 {
        self.total() as f64 / self.blocks
    }

    /// Instructions of the uniform datapath, and moves to it, for each GMMA.
    pub fn uniform_per_gmma(&self) -> f64 {
        let count = |class| self.classes.get(&class).copied().unwrap_or(0) as f64;
        count(Class::Uniform) / count(Class::Gmma)
    }
}

/// What a main loop's instructions are divided by.
struct Block {
    /// Warpgroups that share it.
    consumers: f64,
    /// Multiply-adds, of all of them.
    products: f64,
    /// Cycles of the tensor cores at full rate.
    tensor_cycles: f64,
    /// Bytes copied into shared memory.
    copies: f64,
}

impl Block {
    fn of(row: &KernelRow) -> Option<Self> {
        // All warpgroups but the producer's multiply.
        let consumers = row.warpgroup_registers.len().saturating_sub(1).max(1) as f64;
        if row.template == "mla_decode.ptx" {
            // 64 rows by 64 tokens, 576 columns of scores and 512 of output; BF16.
            let products = 64.0 * 64.0 * (576.0 + 512.0);
            let tensor_cycles = products / (PRODUCTS / 2.0);
            return Some(Self { consumers, products, tensor_cycles, copies: 64.0 * 576.0 * 2.0 });
        }
        let (m, n) = (row.int("BLOCK_M")? as f64, row.int("BLOCK_N")? as f64);
        let products = m * n * 128.0;
        let copies = (m + n) * 128.0 + m * 4.0;
        Some(Self { consumers, products, tensor_cycles: products / PRODUCTS, copies })
    }
}

/// The main loop of `function`, a kernel of `row`; `None` if no loop holds GMMA or the row's blocks are not known. Of several loops (one
/// for each consumer warpgroup) the one with the most instructions per block.
pub fn main_loop(row: &KernelRow, function: &Function) -> Option<MainLoop> {
    let loops = function.gmma_loops();
    let measured = loops.iter().filter_map(|nodes| measure(row, function, nodes));
    measured.max_by(|a, b| a.per_block().total_cmp(&b.per_block()))
}

fn measure(row: &KernelRow, function: &Function, nodes: &[usize]) -> Option<MainLoop> {
    let block = Block::of(row)?;
    let mut classes = BTreeMap::new();
    let (mut products, mut operand_bytes, mut shared_bytes) = (0.0, 0.0, 0.0);
    for &at in nodes {
        let instruction = &function.instructions[at];
        *classes.entry(instruction.class()).or_insert(0) += 1;
        if let Some((m, n, k)) = instruction.gmma_shape() {
            let element = if instruction.opcode.starts_with("QGMMA") { 1 } else { 2 };
            let a_shared =
                instruction.operands.split(',').nth(1).is_some_and(|operand| operand.contains("gdesc"));
            products += (m * n * k) as f64;
            operand_bytes += ((n + if a_shared { m } else { 0 }) * k * element) as f64;
        }
        if instruction.class() == Class::Lds {
            // A warp-wide access to different words fills the port for a cycle, whatever it delivers; four warps a group.
            shared_bytes += PORT_BYTES * 4.0;
        }
    }
    let blocks = products * block.consumers / block.products;
    let traffic = (operand_bytes + shared_bytes) / blocks * block.consumers + block.copies;
    let total: usize = classes.values().sum();
    Some(MainLoop {
        retry: retries(function, nodes),
        blocks,
        tensor_cycles: block.tensor_cycles,
        issue: total as f64 / blocks * block.consumers / block.tensor_cycles,
        port: traffic / PORT_BYTES / block.tensor_cycles,
        classes,
    })
}

/// Instructions of the loop that belong to a smaller loop inside it (a wait that tries again).
fn retries(function: &Function, nodes: &[usize]) -> usize {
    let closes = |from: usize, to: usize| {
        to <= from
            && from - to < 16
            && !(to..=from).any(|at| function.instructions[at].class() == Class::Gmma)
    };
    let inside = |at: usize| {
        nodes
            .iter()
            .any(|&from| function.next[from].iter().any(|&to| closes(from, to) && (to..=from).contains(&at)))
    };
    nodes.iter().filter(|&&at| inside(at)).count()
}
