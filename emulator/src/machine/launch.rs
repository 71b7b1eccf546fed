//! Launches: what a grid needs, whether a device can hold it, and which blocks become resident where.

use std::sync::Arc;

use super::Launch;
use super::block::{Block, NamedBarrier, WarpGroup, WarpTemplate};
use super::config::DeviceConfig;
use super::program::Program;
use super::stream::Order;
use super::system::System;
use crate::memory::shared::{SharedLayout, SharedMemory};
use crate::report::MachineError;

/// Bytes behind `%envreg1` and `%envreg2`: the state of a cooperative grid's barrier.
pub(crate) const WORKSPACE_BYTES: u64 = 256;

/// Local memory a thread can have, in bytes.
const LOCAL_BYTES: u32 = 512 * 1024;

/// A grid in flight.
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) id: usize,
    pub(crate) stream: usize,
    pub(crate) device: usize,
    pub(crate) program: Arc<Program>,
    pub(crate) dims: [u32; 3],
    pub(crate) block_dim: [u32; 3],
    pub(crate) cluster: [u32; 3],
    pub(crate) explicit_cluster: bool,
    pub(crate) dynamic_shared: u32,
    pub(crate) params: Arc<[u8]>,
    pub(crate) programmatic: bool,
    /// All blocks become resident at once or none.
    pub(crate) cooperative: bool,
    /// Memory of the grid barrier of a cooperative grid.
    pub(crate) workspace: u64,
    pub(crate) needs: Needs,
    pub(crate) layout: SharedLayout,
    /// The grids of every stream that come before: in stream order, by events, and by what the host waited for.
    pub(crate) after: Order,
    /// Next cluster to become resident.
    pub(crate) next: u64,
    /// Blocks that have ended.
    pub(crate) finished: u64,
}

/// What one block takes of an SM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) threads: u32,
    pub(crate) shared: u32,
    pub(crate) registers: u32,
    /// Of one thread.
    pub(crate) registers_per_thread: u32,
}

/// What is taken of an SM.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sm {
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    pub(crate) shared: u32,
    pub(crate) registers: u32,
    pub(crate) ever: bool,
}

impl Sm {
    fn fits(&self, needs: &Needs, device: &DeviceConfig) -> bool {
        self.blocks < device.blocks_per_sm
            && self.threads + needs.threads <= device.threads_per_sm
            && self.shared + needs.shared <= device.shared_per_sm
            && self.registers + needs.registers <= device.registers_per_sm
    }

    fn take(&mut self, needs: &Needs) {
        self.blocks += 1;
        self.threads += needs.threads;
        self.shared += needs.shared;
        self.registers += needs.registers;
        self.ever = true;
    }

    /// A block has ended.
    pub(crate) fn release(&mut self, needs: &Needs) {
        self.blocks -= 1;
        self.threads -= needs.threads;
        self.shared -= needs.shared;
        self.registers -= needs.registers;
    }
}

impl Grid {
    /// Blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.dims.iter().map(|d| *d as u64).product()
    }

    /// Blocks of a cluster.
    pub(crate) fn cluster_size(&self) -> u64 {
        self.cluster.iter().map(|d| *d as u64).product()
    }

    /// All blocks are resident or have ended.
    pub(crate) fn started(&self) -> bool {
        self.next * self.cluster_size() >= self.blocks()
    }

    /// All blocks have ended.
    pub(crate) fn complete(&self) -> bool {
        self.finished >= self.blocks()
    }
}

fn invalid(argument: &'static str, expected: impl Into<String>, got: impl std::fmt::Debug) -> MachineError {
    MachineError::InvalidArgument { argument, expected: expected.into(), got: format!("{got:?}") }
}

/// Registers per thread of the assembled kernel, as far as the PTX tells.
fn registers_per_thread(program: &Program, launch: &Launch, threads: u32, device: &DeviceConfig) -> u32 {
    let kernel = program.kernel();
    if let Some(n) = launch.registers.or(kernel.maxnreg) {
        return n.clamp(16, 256).next_multiple_of(8);
    }
    let share =
        device.registers_per_sm / (threads.next_multiple_of(32) * kernel.minnctapersm.unwrap_or(1).max(1));
    // The assembler spends what the declared block size leaves; without a declaration, a middling number.
    let declared = kernel.reqntid.is_some() || kernel.maxntid.is_some();
    let wanted = if declared && program.has_setmaxnreg { 256 } else { 64 };
    (share / 8 * 8).clamp(16, wanted)
}

/// Checks a launch and makes a grid of it.
pub(crate) fn prepare(
    sys: &System,
    id: usize,
    (stream, device): (usize, usize),
    program: Arc<Program>,
    launch: &Launch,
) -> Result<Grid, MachineError> {
    let kernel = program.kernel();
    let config = &sys.config.devices[device];
    let [gx, gy, gz] = launch.grid;
    if gx == 0 || gy == 0 || gz == 0 || gx > i32::MAX as u32 || gy > 65_535 || gz > 65_535 {
        return Err(invalid("grid", "1 to 2147483647 × 65535 × 65535 blocks", launch.grid));
    }
    let [bx, by, bz] = launch.block;
    let threads = bx as u128 * by as u128 * bz as u128;
    if threads == 0 || bz > 64 || threads > config.threads_per_block as u128 {
        let expected = format!("1 to {} threads, at most 64 in z", config.threads_per_block);
        return Err(invalid("block", expected, launch.block));
    }
    let threads = threads as u32;
    if let Some(required) = kernel.reqntid
        && required.map(|d| d.max(1)) != launch.block
    {
        return Err(invalid("block", format!("{required:?}, as .reqntid says"), launch.block));
    }
    if let Some(max) = kernel.maxntid
        && threads as u128 > max.iter().map(|d| (*d).max(1) as u128).product()
    {
        return Err(invalid("block", format!("at most {max:?}, as .maxntid says"), launch.block));
    }
    if launch.params.len() != kernel.param_bytes as usize {
        return Err(invalid("params", format!("{} bytes", kernel.param_bytes), launch.params.len()));
    }
    if let (Some(a), Some(b)) = (launch.cluster, kernel.cluster)
        && a != b
    {
        return Err(invalid("cluster", format!("{b:?}, as .reqnctapercluster says"), a));
    }
    let explicit = launch.cluster.or(kernel.cluster);
    let cluster = explicit.unwrap_or([1; 3]).map(|d| d.max(1));
    let cluster_size: u128 = cluster.iter().map(|d| *d as u128).product();
    if cluster_size > 16 {
        return Err(invalid("cluster", "at most 16 blocks", cluster));
    }
    let cluster_size = cluster_size as u64;
    if (0..3).any(|d| !launch.grid[d].is_multiple_of(cluster[d])) {
        return Err(invalid("grid", format!("a multiple of the cluster {cluster:?}"), launch.grid));
    }
    let shared = kernel.static_shared as u64 + launch.dynamic_shared as u64;
    if shared > config.shared_per_block as u64 {
        return Err(MachineError::TooLarge {
            resource: "bytes of shared memory per block",
            needed: shared,
            available: config.shared_per_block as u64,
        });
    }
    if kernel.local_bytes > LOCAL_BYTES {
        return Err(MachineError::TooLarge {
            resource: "bytes of local memory per thread",
            needed: kernel.local_bytes as u64,
            available: LOCAL_BYTES as u64,
        });
    }
    let per_thread = registers_per_thread(&program, launch, threads, config);
    let warps = threads.div_ceil(32);
    let needs = Needs {
        threads: warps * 32,
        shared: shared as u32 + config.shared_reserved_per_block,
        registers: warps * (per_thread * 32).next_multiple_of(256),
        registers_per_thread: per_thread,
    };
    if needs.registers > config.registers_per_sm {
        return Err(MachineError::TooLarge {
            resource: "registers per block",
            needed: needs.registers as u64,
            available: config.registers_per_sm as u64,
        });
    }
    let layout = SharedLayout::new(
        sys.config.shared_placement,
        kernel.static_shared,
        kernel.shared_align,
        launch.dynamic_shared,
        kernel.dynamic_shared_align,
    );
    let grid = Grid {
        id,
        stream,
        device,
        dims: launch.grid,
        block_dim: launch.block,
        cluster,
        explicit_cluster: explicit.is_some(),
        dynamic_shared: launch.dynamic_shared,
        params: launch.params.as_slice().into(),
        programmatic: launch.programmatic,
        cooperative: launch.cooperative,
        workspace: 0,
        needs,
        layout,
        after: Order::new(),
        next: 0,
        finished: 0,
        program: program.clone(),
    };
    let capacity = active_clusters(&needs, cluster_size as u32, config) as u64 * cluster_size;
    if capacity == 0 || (launch.cooperative && grid.blocks() > capacity) {
        return Err(MachineError::TooLarge {
            resource: "resident blocks",
            needed: if launch.cooperative { grid.blocks() } else { cluster_size },
            available: if capacity == 0 { largest_cluster(&needs, config) as u64 } else { capacity },
        });
    }
    Ok(grid)
}

/// Blocks of one SM.
fn per_sm(needs: &Needs, device: &DeviceConfig) -> u32 {
    let mut sm = Sm::default();
    while sm.fits(needs, device) {
        sm.take(needs);
    }
    sm.blocks
}

/// Blocks of one GPC.
fn per_gpc(needs: &Needs, device: &DeviceConfig) -> impl Iterator<Item = u32> {
    let each = per_sm(needs, device);
    device.gpc_ranges().into_iter().map(move |sms| sms.len() as u32 * each)
}

/// The clusters of so many blocks that an empty device holds at once: none spans two GPCs.
pub(crate) fn active_clusters(needs: &Needs, size: u32, device: &DeviceConfig) -> u32 {
    per_gpc(needs, device).map(|blocks| blocks / size).sum()
}

/// The largest cluster an empty device holds.
fn largest_cluster(needs: &Needs, device: &DeviceConfig) -> u32 {
    per_gpc(needs, device).max().unwrap_or(0)
}

/// The SMs for the next cluster of a grid, all in one GPC; they are taken. The emptiest SMs come first.
fn reserve(sms: &mut [Sm], needs: &Needs, size: usize, device: &DeviceConfig) -> Option<Vec<usize>> {
    let emptiest = |sms: &[Sm], range: std::ops::Range<usize>| {
        range.filter(|i| sms[*i].fits(needs, device)).min_by_key(|i| sms[*i].blocks)
    };
    if size == 1 {
        let best = emptiest(sms, 0..sms.len())?;
        sms[best].take(needs);
        return Some(vec![best]);
    }
    let mut gpcs = device.gpc_ranges();
    gpcs.sort_by_key(|range| range.clone().map(|i| sms[i].blocks).sum::<u32>());
    for range in gpcs {
        let before = sms[range.clone()].to_vec();
        let mut chosen = Vec::with_capacity(size);
        while chosen.len() < size
            && let Some(best) = emptiest(sms, range.clone())
        {
            sms[best].take(needs);
            chosen.push(best);
        }
        if chosen.len() == size {
            return Some(chosen);
        }
        sms[range].copy_from_slice(&before);
    }
    None
}

/// Would all blocks of a grid fit now?
fn fits_whole(sms: &[Sm], grid: &Grid, device: &DeviceConfig) -> bool {
    let mut sms = sms.to_vec();
    let size = grid.cluster_size() as usize;
    (0..grid.blocks() / size as u64).all(|_| reserve(&mut sms, &grid.needs, size, device).is_some())
}

/// Makes as many blocks of a grid resident as fit; clusters come as a whole, a cooperative grid as a whole too.
pub(crate) fn place(
    sys: &mut System,
    sms: &mut [Sm],
    blocks: &mut Vec<Option<Box<Block>>>,
    grid: usize,
) -> bool {
    let mut placed = false;
    loop {
        let Some(g) = sys.grids.get(&grid) else { return placed };
        if g.started() {
            return placed;
        }
        let config = &sys.config.devices[g.device];
        let size = g.cluster_size() as usize;
        if g.cooperative {
            if g.next == 0 && !fits_whole(sms, g, config) {
                return placed;
            }
        } else if let Some(limit) = sys.config.resident_blocks {
            let resident: u32 = sms.iter().map(|s| s.blocks).sum();
            if resident > 0 && resident + size as u32 > limit {
                return placed;
            }
        }
        let Some(chosen) = reserve(sms, &g.needs, size, config) else { return placed };
        let first = g.next;
        let mut peers: Vec<usize> = (0..blocks.len()).filter(|i| blocks[*i].is_none()).take(size).collect();
        while peers.len() < size {
            blocks.push(None);
            peers.push(blocks.len() - 1);
        }
        for (rank, sm) in chosen.iter().enumerate() {
            let block = make(sys, grid, first, rank as u32, *sm as u32, peers.clone());
            blocks[peers[rank]] = Some(Box::new(block));
        }
        if let Some(g) = sys.grids.get_mut(&grid) {
            g.next += 1;
        }
        placed = true;
    }
}

/// Block `rank` of cluster `cluster` of a grid.
fn make(sys: &mut System, id: usize, cluster: u64, rank: u32, sm: u32, peers: Vec<usize>) -> Block {
    // The checker's part needs the system to itself.
    let grids = std::mem::take(&mut sys.grids);
    let grid = &grids[&id];
    let ctaid = position(grid, cluster, rank);
    let open: Vec<u32> = grids.keys().map(|g| *g as u32).collect();
    let check = crate::check::start_block(sys, grid, open, rank, ctaid);
    let (early, after) = (grid.programmatic.then_some(grid.stream), grid.after.clone());
    let mut block = assemble(sys, grid, ctaid, rank, sm, peers, check);
    sys.grids = grids;
    crate::check::inherit(sys, &after, early, &mut block);
    block
}

/// `%ctaid` of block `rank` of a cluster.
fn position(grid: &Grid, cluster: u64, rank: u32) -> [u32; 3] {
    let clusters = std::array::from_fn::<u64, 3, _>(|d| (grid.dims[d] / grid.cluster[d]) as u64);
    let base =
        [cluster % clusters[0], cluster / clusters[0] % clusters[1], cluster / (clusters[0] * clusters[1])];
    let [cx, cy, _] = grid.cluster;
    let inside = [rank % cx, rank / cx % cy, rank / (cx * cy)];
    std::array::from_fn(|d| base[d] as u32 * grid.cluster[d] + inside[d])
}

fn assemble(
    sys: &System,
    grid: &Grid,
    ctaid: [u32; 3],
    rank: u32,
    sm: u32,
    peers: Vec<usize>,
    check: Option<Box<crate::check::BlockCheck>>,
) -> Block {
    let template = WarpTemplate {
        program: &grid.program,
        block_dim: grid.block_dim,
        registers: grid.needs.registers_per_thread,
        track_wgmma: sys.config.checks.wgmma,
        track_registers: sys.config.checks.registers,
    };
    let warps = grid.block_dim.iter().product::<u32>().div_ceil(32);
    Block {
        program: grid.program.clone(),
        grid: grid.id,
        device: grid.device,
        sm,
        ctaid,
        grid_dim: grid.dims,
        block_dim: grid.block_dim,
        cluster_dim: grid.cluster,
        rank,
        peers,
        explicit_cluster: grid.explicit_cluster,
        params: grid.params.clone(),
        layout: grid.layout,
        dynamic_shared: grid.dynamic_shared,
        shared: SharedMemory::new(grid.layout.end),
        warps: (0..warps).map(|i| template.warp(i)).collect(),
        barriers: std::array::from_fn(|_| NamedBarrier::default()),
        free_registers: 0,
        loads: Vec::new(),
        stores: Vec::new(),
        copies: Vec::new(),
        warpgroups: (0..warps.div_ceil(4)).map(|_| WarpGroup::default()).collect(),
        released_dependents: false,
        cluster_phase: 0,
        cluster_arrived: 0,
        workspace: grid.workspace,
        maps: Vec::new(),
        check,
    }
}
