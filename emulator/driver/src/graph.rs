//! Graphs: made by capture or node by node, instantiated, launched, updated. The machine has them; this gives them handles and reads
//! the structures of `cuda.h`.
//!
//! Kernels, copies of one row, fills of one row, events and empty nodes can be added; host functions, memory allocations, child graphs
//! and conditional nodes cannot.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint};

use hadal_emulator::{GraphExecId, GraphId, GraphNode};

use crate::abi::{DevicePtr, Handle, In, Out, exports};
use crate::error::{Code, Error, Result};
use crate::launch::{plain, prepare};
use crate::state::{self, Kind, State, handle, index};

/// Graphs and what belongs to them, by handle.
#[derive(Default)]
pub struct Graphs {
    graphs: Vec<GraphId>,
    execs: Vec<GraphExecId>,
    /// Graph and number of the nodes that were handed out; and back.
    nodes: Vec<(usize, usize)>,
    handles: HashMap<(usize, usize), Handle>,
}

impl Graphs {
    /// A handle for a graph of the machine.
    pub fn keep(&mut self, graph: GraphId) -> Handle {
        self.graphs.push(graph);
        handle(Kind::Graph, self.graphs.len() - 1)
    }

    fn node(&mut self, graph: usize, number: usize) -> Handle {
        let nodes = &mut self.nodes;
        *self.handles.entry((graph, number)).or_insert_with(|| {
            nodes.push((graph, number));
            handle(Kind::GraphNode, nodes.len() - 1)
        })
    }

    /// The graph and number behind a node's handle.
    fn behind(&self, node: Handle) -> Result<(usize, usize)> {
        let found = self.nodes.get(index(Kind::GraphNode, node)?);
        found.copied().ok_or_else(|| Error::quiet(Code::InvalidHandle))
    }

    /// Ours and the machine's number.
    fn graph(&self, graph: Handle) -> Result<(usize, GraphId)> {
        let found = index(Kind::Graph, graph)?;
        let id = self.graphs.get(found).ok_or_else(|| Error::quiet(Code::InvalidHandle))?;
        Ok((found, *id))
    }

    fn exec(&self, exec: Handle) -> Result<GraphExecId> {
        let found = self.execs.get(index(Kind::GraphExec, exec)?);
        found.copied().ok_or_else(|| Error::quiet(Code::InvalidHandle))
    }
}

/// `CUDA_KERNEL_NODE_PARAMS_v1`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams {
    function: Handle,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    params: In<In<u8>>,
    extra: In<usize>,
}

impl KernelParams {
    /// The same, of the function that this one's stands for.
    pub fn of(self, function: impl FnOnce(Handle) -> Result<Handle>) -> Result<KernelParams> {
        Ok(KernelParams { function: function(self.function)?, ..self })
    }
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`: a kernel may stand in the function's place.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams2 {
    first: KernelParams,
    kernel: Handle,
    context: Handle,
}

impl KernelParams2 {
    fn merged(self) -> KernelParams {
        match self.first.function {
            0 => KernelParams { function: self.kernel, ..self.first },
            _ => self.first,
        }
    }
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FillParams {
    to: DevicePtr,
    pitch: usize,
    value: c_uint,
    width: c_uint,
    count: usize,
    rows: usize,
}

/// One side of a `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Side {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: c_uint,
    host: u64,
    device: DevicePtr,
    array: usize,
    reserved: usize,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CopyParams {
    from: Side,
    to: Side,
    bytes: usize,
    rows: usize,
    planes: usize,
}

impl Side {
    /// The first byte: host memory, device memory, or whichever it is.
    fn address(&self) -> Result<u64> {
        if self.y != 0 || self.z != 0 {
            return Err(Error::new(Code::NotSupported, "copies of graphs have one row here"));
        }
        match self.kind {
            1 => Ok(self.host + self.x as u64),
            2 | 4 => Ok(self.device + self.x as u64),
            kind => Err(Error::new(Code::NotSupported, format!("a copy of memory type {kind}"))),
        }
    }
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InstantiateParams {
    flags: u64,
    upload: Handle,
    error_node: Handle,
    result: c_int,
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UpdateResult {
    result: c_int,
    error_node: Handle,
    error_from: Handle,
}

/// `CU_GRAPH_EXEC_UPDATE_SUCCESS`, `…_ERROR`.
const UPDATED: c_int = 0;
const NOT_UPDATED: c_int = 1;

fn kernel_node(state: &mut State, params: KernelParams) -> Result<GraphNode> {
    let KernelParams { function, grid, block, dynamic_shared, params, extra } = params;
    let config = plain(grid, block, dynamic_shared, 0, In::null(), 0);
    let (function, launch) = prepare(state, &config, function, params, extra)?;
    Ok(GraphNode::Launch { module: function.module, entry: function.kernel().name.clone(), launch })
}

fn add(
    out: Out<Handle>,
    graph: Handle,
    (after, count): (In<Handle>, usize),
    node: impl FnOnce(&mut State) -> Result<GraphNode>,
) -> Result<()> {
    let device = state::current()?;
    let mut state = state::lock()?;
    let (own, id) = state.graphs.graph(graph)?;
    let before = |node| match state.graphs.behind(node)? {
        (graph, number) if graph == own => Ok(number),
        _ => Err(Error::invalid("a node of another graph")),
    };
    let after = after.list(count)?.into_iter().map(before).collect::<Result<Vec<_>>>()?;
    let node = node(&mut state)?;
    let number = state.machine.add_node(id, device, &after, node)?;
    let node = state.graphs.node(own, number);
    out.put(node)
}

/// A copy of one row, memory by its addresses, as a node.
pub fn add_copy(
    node: Out<Handle>,
    graph: Handle,
    after: (In<Handle>, usize),
    (to, from, bytes): (u64, u64, usize),
) -> Result<()> {
    add(node, graph, after, |_| Ok(GraphNode::Copy { to, from, len: bytes as u64 }))
}

fn set(node: Handle, params: KernelParams) -> Result<()> {
    let mut state = state::lock()?;
    let (graph, number) = state.graphs.behind(node)?;
    let id = state.graphs.graphs[graph];
    let node = kernel_node(&mut state, params)?;
    Ok(state.machine.set_node(id, number, node)?)
}

fn set_exec(exec: Handle, node: Handle, params: KernelParams) -> Result<()> {
    let mut state = state::lock()?;
    let exec = state.graphs.exec(exec)?;
    let (_, number) = state.graphs.behind(node)?;
    let node = kernel_node(&mut state, params)?;
    Ok(state.machine.set_exec_node(exec, number, node)?)
}

fn instantiate(exec: Out<Handle>, graph: Handle) -> Result<()> {
    let mut state = state::lock()?;
    let (_, id) = state.graphs.graph(graph)?;
    let new = state.machine.instantiate(id)?;
    state.graphs.execs.push(new);
    exec.put(handle(Kind::GraphExec, state.graphs.execs.len() - 1))
}

fn update(exec: Handle, graph: Handle) -> Result<c_int> {
    let mut state = state::lock()?;
    let exec = state.graphs.exec(exec)?;
    let (_, id) = state.graphs.graph(graph)?;
    Ok(state.machine.update_exec(exec, id).map(|()| UPDATED)?)
}

/// The nodes of a graph; those without predecessors only, if so wanted. Too short a list takes what fits.
fn list(graph: Handle, nodes: Out<Handle>, count: Out<usize>, roots: bool) -> Result<()> {
    let mut state = state::lock()?;
    let (own, id) = state.graphs.graph(graph)?;
    let all = state.machine.graph_nodes(id)?;
    let numbers: Vec<usize> = (0..all.len()).filter(|n| !roots || all[*n].1.is_empty()).collect();
    if nodes.is_null() {
        return count.put(numbers.len());
    }
    let wanted = count.get()?.min(numbers.len());
    let handles: Vec<Handle> = numbers[..wanted].iter().map(|n| state.graphs.node(own, *n)).collect();
    nodes.put_all(&handles)?;
    count.put(wanted)
}

fn kind_of(node: Handle) -> Result<c_int> {
    let state = state::lock()?;
    let (graph, number) = state.graphs.behind(node)?;
    Ok(match state.machine.graph_nodes(state.graphs.graphs[graph])?[number].0 {
        GraphNode::Launch { .. } => 0,
        GraphNode::Copy { .. } => 1,
        GraphNode::Fill { .. } => 2,
        GraphNode::Wait { .. } => 6,
        GraphNode::Record { .. } => 7,
        _ => 5,
    })
}

exports! {
    fn cuGraphCreate(graph: Out<Handle>, _flags: c_uint) {
        let mut state = state::lock()?;
        let id = state.machine.create_graph();
        graph.put(state.graphs.keep(id))
    }

    fn cuGraphDestroy(graph: Handle) {
        let mut state = state::lock()?;
        let (_, id) = state.graphs.graph(graph)?;
        Ok(state.machine.destroy_graph(id)?)
    }

    fn cuGraphAddKernelNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelParams>) {
        let params = params.get()?;
        add(node, graph, (after, count), |state| kernel_node(state, params))
    }

    fn cuGraphAddKernelNode_v2(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
                               params: In<KernelParams2>) {
        let params = params.get()?.merged();
        add(node, graph, (after, count), |state| kernel_node(state, params))
    }

    fn cuGraphKernelNodeSetParams(node: Handle, params: In<KernelParams>) {
        set(node, params.get()?)
    }

    fn cuGraphKernelNodeSetParams_v2(node: Handle, params: In<KernelParams2>) {
        set(node, params.get()?.merged())
    }

    fn cuGraphExecKernelNodeSetParams(exec: Handle, node: Handle, params: In<KernelParams>) {
        set_exec(exec, node, params.get()?)
    }

    fn cuGraphExecKernelNodeSetParams_v2(exec: Handle, node: Handle, params: In<KernelParams2>) {
        set_exec(exec, node, params.get()?.merged())
    }

    fn cuGraphAddMemsetNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<FillParams>,
                            _context: Handle) {
        let FillParams { to, value, width, count: cells, rows, .. } = params.get()?;
        if rows != 1 {
            return Err(Error::new(Code::NotSupported, "fills of graphs have one row here"));
        }
        let fill = GraphNode::Fill { at: to, value, width: width.min(255) as u8, count: cells as u64 };
        add(node, graph, (after, count), |_| Ok(fill))
    }

    fn cuGraphAddMemcpyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<CopyParams>,
                            _context: Handle) {
        let CopyParams { from, to, bytes, rows, planes } = params.get()?;
        if rows > 1 || planes > 1 {
            return Err(Error::new(Code::NotSupported, "copies of graphs have one row here"));
        }
        let copy = GraphNode::Copy { to: to.address()?, from: from.address()?, len: bytes as u64 };
        add(node, graph, (after, count), |_| Ok(copy))
    }

    fn cuGraphAddEmptyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) {
        add(node, graph, (after, count), |_| Ok(GraphNode::Empty))
    }

    fn cuGraphAddEventRecordNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle) {
        let record = |state: &mut State| Ok(GraphNode::Record { event: crate::event::event(state, event)?.id });
        add(node, graph, (after, count), record)
    }

    fn cuGraphAddEventWaitNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle) {
        let wait = |state: &mut State| Ok(GraphNode::Wait { event: crate::event::event(state, event)?.id });
        add(node, graph, (after, count), wait)
    }

    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        list(graph, nodes, count, false)
    }

    fn cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        list(graph, nodes, count, true)
    }

    fn cuGraphNodeGetType(node: Handle, kind: Out<c_int>) {
        kind.put(kind_of(node)?)
    }

    fn cuGraphInstantiate(exec: Out<Handle>, graph: Handle, error: Out<Handle>, _log: Out<c_char>, _bytes: usize) {
        error.put_if_wanted(0);
        instantiate(exec, graph)
    }

    fn cuGraphInstantiate_v2(exec: Out<Handle>, graph: Handle, error: Out<Handle>, _log: Out<c_char>, _bytes: usize) {
        error.put_if_wanted(0);
        instantiate(exec, graph)
    }

    fn cuGraphInstantiateWithFlags(exec: Out<Handle>, graph: Handle, _flags: u64) {
        instantiate(exec, graph)
    }

    fn cuGraphInstantiateWithParams(exec: Out<Handle>, graph: Handle, params: Out<InstantiateParams>) {
        let outcome = instantiate(exec, graph);
        // `CUDA_GRAPH_INSTANTIATE_SUCCESS`, `…_ERROR`.
        params.put(InstantiateParams { error_node: 0, result: outcome.is_err() as c_int, ..params.get()? })?;
        outcome
    }

    fn cuGraphExecUpdate(exec: Handle, graph: Handle, error_node: Out<Handle>, result: Out<c_int>) {
        error_node.put_if_wanted(0);
        let outcome = update(exec, graph);
        result.put(*outcome.as_ref().unwrap_or(&NOT_UPDATED))?;
        outcome.map(|_| ())
    }

    fn cuGraphExecUpdate_v2(exec: Handle, graph: Handle, result: Out<UpdateResult>) {
        let outcome = update(exec, graph);
        let said = *outcome.as_ref().unwrap_or(&NOT_UPDATED);
        result.put(UpdateResult { result: said, error_node: 0, error_from: 0 })?;
        outcome.map(|_| ())
    }

    /// There is nothing to prepare.
    fn cuGraphUpload(exec: Handle, stream: Handle) {
        let state = state::lock()?;
        state.graphs.exec(exec)?;
        state.stream(stream).map(|_| ())
    }

    fn cuGraphLaunch(exec: Handle, stream: Handle) {
        let mut state = state::lock()?;
        let exec = state.graphs.exec(exec)?;
        let stream = state.stream(stream)?;
        state.order(stream)?;
        let id = state.streams[stream].id;
        Ok(state.machine.launch_graph(id, exec)?)
    }

    /// Launches under way go on.
    fn cuGraphExecDestroy(exec: Handle) {
        let mut state = state::lock()?;
        let exec = state.graphs.exec(exec)?;
        Ok(state.machine.destroy_exec(exec)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_driver_s_layout() {
        assert_eq!((size_of::<KernelParams>(), std::mem::offset_of!(KernelParams, params)), (56, 40));
        assert_eq!((size_of::<KernelParams2>(), std::mem::offset_of!(KernelParams2, kernel)), (72, 56));
        assert_eq!(size_of::<FillParams>(), 40);
        assert_eq!((size_of::<CopyParams>(), std::mem::offset_of!(CopyParams, bytes)), (200, 176));
        assert_eq!(size_of::<InstantiateParams>(), 32);
        assert_eq!(size_of::<UpdateResult>(), 24);
    }
}
