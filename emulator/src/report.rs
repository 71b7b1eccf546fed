//! What the machine says when a kernel is wrong.
//!
//! A [`Report`] is one finding: which rule was broken, where (kernel, PTX line, source line through `.loc`, block, warp,
//! lanes, address), who the other party was, and what to do about it. A [`Fault`] is the report that stopped the machine:
//! like a CUDA error it stays until [`crate::Machine::reset`]. [`MachineError`] is for calls that never reached a kernel.

use std::fmt;

/// The rule that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// An access outside every allocation, the block's shared memory, the thread's local memory or the parameters.
    OutOfBounds,
    /// An address that is not a multiple of what the access needs.
    Misaligned,
    /// A register, or a byte of memory, read before anything was written to it.
    Uninitialised,
    /// An `.aligned` or `.sync` instruction reached by part of a warp.
    PartialWarp,
    /// A warpgroup instruction (`wgmma`, `setmaxnreg`) not executed alike by all four warps.
    PartialWarpgroup,
    /// Nothing can run any more.
    Deadlock,
    /// An mbarrier used against its rules: count, phase, transaction bytes, life cycle.
    Mbarrier,
    /// A named barrier used against its rules.
    Barrier,
    /// A register that an unfinished `wgmma` owns was touched.
    WgmmaInFlight,
    /// `wgmma.fence` missing between a register access and `wgmma`.
    WgmmaFence,
    /// A `wgmma` operand that cannot be: descriptor or scale that differs between lanes or warps.
    WgmmaOperand,
    /// Source bytes of an unfinished bulk store were overwritten.
    BulkSourceOverwritten,
    /// A tensor map that is not one, or a tensor copy that breaks its rules.
    TensorMap,
    /// A bulk or asynchronous copy with an illegal size or state space.
    AsyncCopy,
    /// `setmaxnreg` against its rules.
    Registers,
    /// A store to constant memory or to parameters.
    ReadOnly,
    /// Two accesses to the same bytes, one of them a write, with nothing that orders them.
    Race,
    /// An ordinary write and an access by the asynchronous proxy with no proxy fence between.
    ProxyFence,
    /// A programmatic grid touched what the grid before it reads or writes, without `griddepcontrol.wait`.
    GridDependency,
    /// A signal whose scope does not reach the other party.
    Scope,
    /// A non-coherent load of bytes written while the kernel runs.
    NonCoherent,
    /// Shared memory of a block that has ended, or a block that ends under operations in flight.
    Lifetime,
    /// The kernel executed `trap`.
    Trap,
    /// The machine's instruction limit was reached.
    InstructionLimit,
    /// An instruction form the machine does not execute.
    Unsupported,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::OutOfBounds => "out of bounds",
            Class::Misaligned => "misaligned address",
            Class::Uninitialised => "use before write",
            Class::PartialWarp => "partial warp",
            Class::PartialWarpgroup => "partial warpgroup",
            Class::Deadlock => "deadlock",
            Class::Mbarrier => "mbarrier misuse",
            Class::Barrier => "barrier misuse",
            Class::WgmmaInFlight => "register of an unfinished wgmma touched",
            Class::WgmmaFence => "missing wgmma.fence",
            Class::WgmmaOperand => "illegal wgmma operand",
            Class::BulkSourceOverwritten => "source of an unfinished bulk copy overwritten",
            Class::TensorMap => "tensor copy misuse",
            Class::AsyncCopy => "asynchronous copy misuse",
            Class::Registers => "setmaxnreg misuse",
            Class::ReadOnly => "write to read-only memory",
            Class::Race => "data race",
            Class::ProxyFence => "missing proxy fence",
            Class::GridDependency => "missing griddepcontrol.wait",
            Class::Scope => "scope too narrow",
            Class::NonCoherent => "non-coherent load of changing bytes",
            Class::Lifetime => "shared memory outlived",
            Class::Trap => "trap",
            Class::InstructionLimit => "instruction limit",
            Class::Unsupported => "unsupported instruction",
        })
    }
}

/// A place in a kernel's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the module (usually the PTX file).
    pub module: String,
    /// 1-based line of the PTX text.
    pub ptx_line: u32,
    /// That line, trimmed.
    pub ptx_text: String,
    /// File and line of the `.loc` in force.
    pub source: Option<(String, u32)>,
    /// That line, trimmed, when the file can be read.
    pub source_text: Option<String>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The rule.
    pub class: Class,
    /// What happened, in one sentence.
    pub message: String,
    /// Entry name.
    pub kernel: String,
    /// The instruction.
    pub place: Place,
    /// Device ordinal.
    pub device: usize,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// Warp inside the block.
    pub warp: u32,
    /// The lanes concerned, as a mask.
    pub lanes: u32,
    /// The address concerned.
    pub address: Option<u64>,
    /// The other party: who wrote, holds, waits or is missing.
    pub other: Option<String>,
    /// What usually mends it.
    pub hint: Option<String>,
    /// More lines: for a deadlock, where every warp stands.
    pub notes: Vec<String>,
    /// How to see it again: schedule and seed.
    pub replay: String,
}

/// `0b1011` → `0-1,3`.
pub(crate) fn lane_list(mask: u32) -> String {
    if mask == u32::MAX {
        return "0-31".into();
    }
    let mut parts: Vec<String> = Vec::new();
    let mut lane = 0;
    while lane < 32 {
        if mask >> lane & 1 == 0 {
            lane += 1;
            continue;
        }
        let first = lane;
        while lane < 32 && mask >> lane & 1 == 1 {
            lane += 1;
        }
        parts.push(if lane - first == 1 { first.to_string() } else { format!("{first}-{}", lane - 1) });
    }
    if parts.is_empty() { "none".into() } else { parts.join(",") }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line)) = &self.source {
            write!(f, "{file}:{line}")?;
            if let Some(text) = &self.source_text {
                write!(f, ": {text}")?;
            }
            write!(f, "\n    as  ")?;
        }
        write!(f, "{}:{}: {}", self.module, self.ptx_line, self.ptx_text)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.class, self.message)?;
        writeln!(f, "    at  {}", self.place)?;
        let [x, y, z] = self.block;
        write!(
            f,
            "    in  {} · device {} · block ({x},{y},{z}) · warp {} · lanes {}",
            self.kernel,
            self.device,
            self.warp,
            lane_list(self.lanes)
        )?;
        if let Some(address) = self.address {
            write!(f, " · address {address:#x}")?;
        }
        if let Some(other) = &self.other {
            write!(f, "\n  with  {other}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint  {hint}")?;
        }
        for note in &self.notes {
            write!(f, "\n        {note}")?;
        }
        write!(f, "\nreplay  {}", self.replay)
    }
}

/// The report that stopped the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The finding.
    pub report: Box<Report>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report.fmt(f)
    }
}

impl std::error::Error for Fault {}

/// A call the machine refused before any kernel ran.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MachineError {
    /// No device, stream or module of that number.
    NoSuch {
        /// `device`, `stream`, `module` or `kernel`.
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// The device has not that much memory left.
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes left.
        available: u64,
    },
    /// A host access or `free` outside every allocation.
    BadAddress {
        /// First address.
        address: u64,
        /// Length.
        bytes: u64,
    },
    /// An argument out of range.
    InvalidArgument {
        /// Which argument.
        argument: &'static str,
        /// What would be right.
        expected: String,
        /// What came.
        got: String,
    },
    /// The launch can never become resident on this device.
    TooLarge {
        /// The resource that does not suffice.
        resource: &'static str,
        /// How much the launch needs.
        needed: u64,
        /// How much there is.
        available: u64,
    },
    /// A capture or a graph was used in a way the driver refuses.
    Graph(GraphError),
    /// An earlier fault has not been cleared by `reset`.
    Faulted(Fault),
}

/// Wrong uses of captures and graphs, each an error code of the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GraphError {
    /// A capture begins on a stream that captures.
    AlreadyCapturing,
    /// A capture ends on a stream that does not capture.
    NotCapturing,
    /// The stream captures, and the call cannot be captured.
    Unsupported,
    /// The capture was broken by an earlier error.
    Invalidated,
    /// A stream of one capture would wait for an event of another.
    Merge,
    /// The capture ends on another stream than it began on.
    Unmatched,
    /// The capture ends, and work of other streams in it has not been waited for.
    Unjoined,
    /// A capturing stream would wait for an event that is not in the capture.
    Isolation,
    /// The event was last recorded in a capture.
    CapturedEvent,
    /// The edges of a graph go round in circles.
    Circle,
    /// A node would become something else than a parameter of it can express.
    Update {
        /// The first such node.
        node: usize,
    },
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GraphError::AlreadyCapturing => "the stream captures already",
            GraphError::NotCapturing => "the stream does not capture",
            GraphError::Unsupported => "the stream captures: what waits for it or asks about it breaks the capture",
            GraphError::Invalidated => "the capture was broken by an earlier error",
            GraphError::Merge => "a stream of one capture cannot wait for an event of another",
            GraphError::Unmatched => "a capture ends on the stream where it began",
            GraphError::Unjoined => {
                "a stream that joined the capture has work that the first stream has not waited for: record an event behind it, and \
                 wait for that on the first stream"
            }
            GraphError::Isolation => {
                "a capturing stream cannot wait for an event that was not recorded in the capture, unless as an external one"
            }
            GraphError::CapturedEvent => "the event was recorded in a capture: it marks a place in a graph, not a moment",
            GraphError::Circle => "the edges of the graph go round in circles",
            GraphError::Update { node } => {
                return write!(f, "node {node}: its kind, device and edges stay as they were instantiated");
            }
        })
    }
}

impl From<GraphError> for MachineError {
    fn from(error: GraphError) -> MachineError {
        MachineError::Graph(error)
    }
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MachineError::NoSuch { what, name } => write!(f, "no such {what}: {name}"),
            MachineError::OutOfMemory { requested, available } => {
                write!(f, "out of device memory: {requested} bytes asked for, {available} left")
            }
            MachineError::BadAddress { address, bytes } => {
                write!(f, "{bytes} bytes at {address:#x} are not inside one allocation")
            }
            MachineError::InvalidArgument { argument, expected, got } => {
                write!(f, "{argument}: expected {expected}, got {got}")
            }
            MachineError::TooLarge { resource, needed, available } => {
                write!(f, "launch needs {needed} {resource}, the device has {available}")
            }
            MachineError::Graph(error) => error.fmt(f),
            MachineError::Faulted(fault) => {
                write!(f, "the machine stopped earlier and was not reset:\n{fault}")
            }
        }
    }
}

impl std::error::Error for MachineError {}
