//! A resident block: shared memory, warps, named barriers, register pool, and the asynchronous operations in flight.

use std::sync::Arc;

use super::program::Program;
use super::warp::{Path, Warp};
use crate::ir::{AtomOp, BarRedOp, Type};
use crate::memory::init::InitMap;
use crate::memory::shared::{SharedLayout, SharedMemory};
use crate::tma::TensorMap;

/// One named barrier.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamedBarrier {
    /// Phases completed.
    pub(crate) phase: u64,
    /// Threads the open phase expects (`None`: all live ones); set by its first arrival.
    pub(crate) expected: Option<Option<u32>>,
    /// Lanes that arrived.
    pub(crate) lanes: u32,
    /// The same, whole warps counted as 32.
    pub(crate) padded: u32,
    /// Which lanes arrived, and where, by warp.
    pub(crate) arrived: Vec<(u32, u32, usize)>,
    /// The open phase is one of `bar.red`.
    pub(crate) red: bool,
    /// The instruction of the first arrival.
    pub(crate) first_pc: usize,
    /// Running reduction: all, any, count.
    pub(crate) reduction: (bool, bool, u32),
    /// Reduction of the last phase.
    pub(crate) result: (bool, bool, u32),
}

impl NamedBarrier {
    /// The value of `bar.red` for the last phase.
    pub(crate) fn reduced(&self, op: BarRedOp) -> u32 {
        match op {
            BarRedOp::And => self.result.0 as u32,
            BarRedOp::Or => self.result.1 as u32,
            BarRedOp::Popc => self.result.2,
        }
    }
}

/// Who issued something, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Origin {
    pub(crate) warp: u32,
    pub(crate) lanes: u32,
    pub(crate) pc: usize,
}

/// The bytes a bulk copy moves, in either direction.
#[derive(Clone, Debug)]
pub(crate) enum Transfer {
    /// A run of bytes.
    Linear { global: u64, bytes: u32 },
    /// Bytes that were taken from another block's shared memory when the copy was issued.
    Bytes(Arc<[u8]>),
    /// A box of a tensor.
    Tensor { map: Arc<TensorMap>, coords: [i32; 5] },
}

/// A copy into this block's shared memory, not landed yet.
#[derive(Clone, Debug)]
pub(crate) struct LoadOp {
    pub(crate) origin: Origin,
    pub(crate) transfer: Transfer,
    pub(crate) shared: u32,
    /// The mbarrier told when it lands.
    pub(crate) mbarrier: u32,
    /// Combine with what is there instead of replacing it ([`Transfer::Bytes`] only).
    pub(crate) reduce: Option<(AtomOp, Type)>,
}

impl LoadOp {
    /// Bytes it fills, from `shared` on; `None` if it leaves gaps, or adds to what is there.
    pub(crate) fn span(&self) -> Option<u32> {
        if self.reduce.is_some() {
            // What it adds to must be there and stays readable.
            return None;
        }
        match &self.transfer {
            Transfer::Linear { bytes, .. } => Some(*bytes),
            Transfer::Bytes(bytes) => Some(bytes.len() as u32),
            Transfer::Tensor { map, .. } => (map.shared_bytes() == map.box_bytes()).then(|| map.box_bytes()),
        }
    }
}

/// A copy out of this block's shared memory.
#[derive(Clone, Debug)]
pub(crate) struct StoreOp {
    pub(crate) origin: Origin,
    pub(crate) transfer: Transfer,
    /// Offset in this block's shared memory.
    pub(crate) shared: u32,
    /// Bytes of shared memory it reads, from `shared` on.
    pub(crate) span: u32,
    pub(crate) reduce: Option<(AtomOp, Type)>,
    /// Bulk group of the issuing thread.
    pub(crate) group: u32,
    pub(crate) stage: StoreStage,
}

/// How far a bulk store has come.
#[derive(Clone, Debug)]
pub(crate) enum StoreStage {
    /// Nothing was read.
    Issued,
    /// The source was read: these bytes remain to be written.
    Read(Vec<(u64, Vec<u8>)>),
    /// Written; kept until somebody waits, because the source is still the copy's by the rules.
    Written,
}

/// A `cp.async` of one warp, not landed yet, or the arrival that follows some.
#[derive(Clone, Debug)]
pub(crate) enum CpOp {
    /// Copies, lane by lane.
    Copy {
        origin: Origin,
        lanes: u32,
        dst: Box<[u32; 32]>,
        src: Box<[u64; 32]>,
        size: Box<[u32; 32]>,
        bytes: u32,
        group: Box<[u32; 32]>,
    },
    /// `cp.async.mbarrier.arrive`
    Arrive { origin: Origin, lanes: u32, mbarrier: Box<[u32; 32]> },
}

/// A `wgmma` issued by at least one warp of its warpgroup.
#[derive(Clone, Debug)]
pub(crate) struct WgmmaOp {
    pub(crate) pc: usize,
    /// Warps of the four that issued it.
    pub(crate) seen: u32,
    pub(crate) a_desc: u64,
    pub(crate) b_desc: u64,
    pub(crate) scale_d: bool,
    /// For the checker: the writes that B comes from.
    pub(crate) met: Vec<crate::check::Met>,
}

/// Four warps.
#[derive(Clone, Debug, Default)]
pub(crate) struct WarpGroup {
    /// Sequence number of the first of `ops`: all before it were executed.
    pub(crate) done: u64,
    pub(crate) ops: std::collections::VecDeque<WgmmaOp>,
}

/// One resident block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) program: Arc<Program>,
    /// Index of the grid in the machine's table.
    pub(crate) grid: usize,
    pub(crate) device: usize,
    pub(crate) sm: u32,
    pub(crate) ctaid: [u32; 3],
    pub(crate) grid_dim: [u32; 3],
    pub(crate) block_dim: [u32; 3],
    pub(crate) cluster_dim: [u32; 3],
    /// Rank in the cluster.
    pub(crate) rank: u32,
    /// Slots of the cluster's blocks, by rank (one entry without clusters).
    pub(crate) peers: Vec<usize>,
    pub(crate) explicit_cluster: bool,
    pub(crate) params: Arc<[u8]>,
    pub(crate) layout: SharedLayout,
    pub(crate) dynamic_shared: u32,
    pub(crate) shared: SharedMemory,
    pub(crate) warps: Vec<Warp>,
    pub(crate) barriers: [NamedBarrier; 16],
    /// Registers nobody holds.
    pub(crate) free_registers: u32,
    pub(crate) loads: Vec<LoadOp>,
    pub(crate) stores: Vec<StoreOp>,
    pub(crate) copies: Vec<CpOp>,
    pub(crate) warpgroups: Vec<WarpGroup>,
    /// Has executed `griddepcontrol.launch_dependents` (or exited).
    pub(crate) released_dependents: bool,
    /// Cluster barrier: phases completed, and arrived lanes of this block in the open one.
    pub(crate) cluster_phase: u64,
    pub(crate) cluster_arrived: u32,
    /// Where the barrier of a cooperative grid keeps its state (0: not cooperative).
    pub(crate) workspace: u64,
    /// Tensor maps decoded lately.
    pub(crate) maps: Vec<([u64; 16], Arc<TensorMap>)>,
    /// What the happens-before checker knows of it.
    pub(crate) check: Option<Box<crate::check::BlockCheck>>,
}

/// What every warp of a block starts with.
pub(crate) struct WarpTemplate<'a> {
    pub(crate) program: &'a Program,
    pub(crate) block_dim: [u32; 3],
    pub(crate) registers: u32,
    pub(crate) track_wgmma: bool,
    pub(crate) track_registers: bool,
}

/// Registers, then constants.
fn columns<T: Copy + Default>(registers: usize, constants: &[T]) -> Vec<[T; 32]> {
    let mut columns = vec![[T::default(); 32]; registers + constants.len()];
    for (column, constant) in columns[registers..].iter_mut().zip(constants) {
        *column = [*constant; 32];
    }
    columns
}

impl WarpTemplate<'_> {
    /// Warp `index` of the block.
    pub(crate) fn warp(&self, index: u32) -> Warp {
        let kernel = self.program.kernel();
        let [x, y, z] = self.block_dim;
        let threads = x * y * z;
        let mut live = 0u32;
        let mut tid = [[0u32; 32]; 3];
        for lane in 0..32 {
            let t = index * 32 + lane;
            if t < threads {
                live |= 1 << lane;
            }
            let l = lane as usize;
            (tid[0][l], tid[1][l], tid[2][l]) = (t % x, t / x % y, t / (x * y));
        }
        let registers = kernel.regs32 as usize;
        let tracked = if self.track_wgmma && self.program.has_wgmma { registers } else { 0 };
        let local = kernel.local_bytes as usize * 32;
        Warp {
            index,
            r32: columns(registers, &self.program.constants.0),
            r64: columns(kernel.regs64 as usize, &self.program.constants.1),
            preds: vec![0; kernel.preds as usize],
            // Unless somebody asks, every register counts as written.
            written: vec![
                if self.track_registers { 0 } else { u32::MAX };
                (kernel.regs32 + kernel.regs64 + kernel.preds) as usize
            ],
            live,
            paths: vec![Path::new(0, live)],
            tid,
            local: vec![0; local],
            local_init: InitMap::new(local),
            check: crate::check::WarpCheck::new(live),
            registers: self.registers,
            busy: vec![0; tracked],
            touched: vec![0; tracked],
            ..Warp::default()
        }
    }
}

impl Block {
    /// Threads that have not exited.
    pub(crate) fn live_threads(&self) -> u32 {
        self.warps.iter().map(|w| w.live.count_ones()).sum()
    }

    /// A copy is on its way into this block: what it will fill counts as not written until it has landed.
    pub(crate) fn expect_load(&mut self, op: LoadOp) {
        if let Some(span) = op.span() {
            self.shared.forget(op.shared, span);
        }
        self.loads.push(op);
    }

    /// The unfinished copy that will fill a byte of shared memory.
    pub(crate) fn load_over(&self, offset: u32) -> Option<Origin> {
        let bulk = self.loads.iter().find(|op| offset.wrapping_sub(op.shared) < op.span().unwrap_or(0));
        bulk.map(|op| op.origin).or_else(|| {
            self.copies.iter().find_map(|op| match op {
                CpOp::Copy { origin, lanes, dst, bytes, .. } => (0..32)
                    .any(|l| lanes >> l & 1 == 1 && offset.wrapping_sub(dst[l]) < *bytes)
                    .then_some(*origin),
                CpOp::Arrive { .. } => None,
            })
        })
    }

    /// All warps have exited.
    pub(crate) fn done(&self) -> bool {
        self.warps.iter().all(Warp::done)
    }

    /// Completes a named barrier if everyone it expects has arrived.
    pub(crate) fn settle_barrier(&mut self, id: usize, live: u32) -> bool {
        let barrier = &mut self.barriers[id];
        let complete = match barrier.expected {
            None => false,
            Some(None) => barrier.lanes >= live,
            Some(Some(count)) => barrier.padded >= count,
        };
        if complete {
            *barrier = NamedBarrier {
                phase: barrier.phase + 1,
                result: barrier.reduction,
                reduction: (true, false, 0),
                ..NamedBarrier::default()
            };
            if let Some(check) = &mut self.check {
                check.barrier_complete(id);
            }
        }
        complete
    }
}
