//! Graphs: work with edges instead of an order, made by capturing streams or node by node, then run as often as one likes.
//!
//! An executable graph is laid out on lanes: hidden streams, each a chain of nodes, with events where an edge goes from one lane to
//! another. Launching it enqueues that again, between an event that the launching stream records and events that it waits for. So a
//! graph runs, overlaps and races exactly as streams with those events would, and the checkers need not know of graphs. A launch
//! comes after whatever is in its stream, and after the launch before it of the same graph.
//!
//! A programmatic launch begins early under a kernel that is its only predecessor; two of them under one kernel is one too many (the
//! second waits for all of it). Everything a node says (parameters, addresses, lengths) is copied when it is added; what stands in the
//! memory it names is read when it runs.

use super::{EventId, GraphExecId, GraphId, Launch, Machine, ModuleId, StreamId, launch};
use crate::report::{GraphError, MachineError};

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GraphNode {
    /// Nothing: a place where edges meet.
    Empty,
    /// A kernel.
    Launch {
        /// The module, whose device runs it.
        module: ModuleId,
        /// The kernel's name.
        entry: String,
        /// How.
        launch: Launch,
    },
    /// A copy between two ranges of device or host memory.
    Copy {
        /// First address written.
        to: u64,
        /// First address read.
        from: u64,
        /// Bytes.
        len: u64,
    },
    /// The same one to four bytes again and again.
    Fill {
        /// First address.
        at: u64,
        /// The bytes, the first in the lowest bits.
        value: u32,
        /// How many of them: 1, 2 or 4.
        width: u8,
        /// How often.
        count: u64,
    },
    /// A record of an event, for streams outside the graph.
    Record {
        /// The event.
        event: EventId,
    },
    /// A wait for the last record of an event when the graph is launched.
    Wait {
        /// The event.
        event: EventId,
    },
}

/// A node, the device it runs on, and what comes before.
#[derive(Clone, Debug)]
struct Placed {
    device: usize,
    node: GraphNode,
    after: Vec<usize>,
}

/// Nodes by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Placed>,
}

impl Graph {
    pub(super) fn push(&mut self, device: usize, node: GraphNode, after: &[usize]) -> usize {
        let mut after = after.to_vec();
        after.sort_unstable();
        after.dedup();
        self.nodes.push(Placed { device, node, after });
        self.nodes.len() - 1
    }

    /// Does every node come before one of these, or is one of them?
    pub(super) fn all_before(&self, last: &[usize]) -> bool {
        let mut found = vec![false; self.nodes.len()];
        let mut open = last.to_vec();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut found[node], true) {
                open.extend(&self.nodes[node].after);
            }
        }
        found.iter().all(|f| *f)
    }

    /// Nodes that nothing comes after.
    fn leaves(&self) -> Vec<usize> {
        let before = |node: &usize| !self.nodes.iter().any(|other| other.after.contains(node));
        (0..self.nodes.len()).filter(before).collect()
    }

    /// Numbers so that every node comes after its predecessors. `None`: they go round in circles.
    fn in_order(&self) -> Option<Vec<usize>> {
        let mut left: Vec<usize> = self.nodes.iter().map(|n| n.after.len()).collect();
        let mut next: Vec<Vec<usize>> = vec![Vec::new(); left.len()];
        for (number, node) in self.nodes.iter().enumerate() {
            node.after.iter().for_each(|before| next[*before].push(number));
        }
        let mut ready: std::collections::BTreeSet<usize> =
            (0..left.len()).filter(|n| left[*n] == 0).collect();
        let mut order = Vec::with_capacity(left.len());
        while let Some(number) = ready.pop_first() {
            order.push(number);
            for after in &next[number] {
                left[*after] -= 1;
                if left[*after] == 0 {
                    ready.insert(*after);
                }
            }
        }
        (order.len() == left.len()).then_some(order)
    }

    fn is_kernel(&self, node: usize) -> bool {
        matches!(self.nodes[node].node, GraphNode::Launch { .. })
    }

    /// The kernel this programmatic launch begins early under, if it has no other predecessor.
    fn early_under(&self, node: usize) -> Option<usize> {
        let Placed { node: GraphNode::Launch { launch, .. }, after, device } = &self.nodes[node] else {
            return None;
        };
        let [before] = after[..] else { return None };
        (launch.programmatic && self.is_kernel(before) && self.nodes[before].device == *device)
            .then_some(before)
    }

    /// By node, the predecessor it follows on the same lane. Programmatic launches choose first.
    fn chains(&self, order: &[usize]) -> Vec<Option<usize>> {
        let mut followed = vec![false; self.nodes.len()];
        let mut follows = vec![None; self.nodes.len()];
        for node in order {
            if let Some(before) = self.early_under(*node).filter(|before| !followed[*before]) {
                (followed[before], follows[*node]) = (true, Some(before));
            }
        }
        for node in order.iter().filter(|node| self.early_under(**node).is_none()) {
            let Placed { after, device, .. } = &self.nodes[*node];
            let free = |before: &&usize| !followed[**before] && self.nodes[**before].device == *device;
            if let Some(before) = after.iter().find(free).copied() {
                (followed[before], follows[*node]) = (true, Some(before));
            }
        }
        follows
    }
}

/// A node of an executable graph.
#[derive(Debug)]
struct Step {
    /// Its number in the graph.
    number: usize,
    lane: StreamId,
    /// What must be waited for first, as its lane does not say so.
    waits: Vec<EventId>,
    /// Recorded behind it, for other lanes.
    event: Option<EventId>,
    /// May begin early under the step before it on its lane.
    early: bool,
}

/// A graph that can be launched.
#[derive(Debug)]
pub(super) struct Exec {
    graph: Graph,
    steps: Vec<Step>,
    lanes: Vec<StreamId>,
    /// Behind the last nodes.
    ends: Vec<EventId>,
    /// The present launch may begin; all of the last one is done.
    start: EventId,
    done: EventId,
}

impl Machine {
    fn graph(&self, graph: GraphId) -> Result<&Graph, MachineError> {
        let missing = || MachineError::NoSuch { what: "graph", name: graph.0.to_string() };
        self.graphs.get(graph.0 as usize).and_then(Option::as_ref).ok_or_else(missing)
    }

    fn graph_mut(&mut self, graph: GraphId) -> Result<&mut Graph, MachineError> {
        let missing = || MachineError::NoSuch { what: "graph", name: graph.0.to_string() };
        self.graphs.get_mut(graph.0 as usize).and_then(Option::as_mut).ok_or_else(missing)
    }

    fn exec_mut(&mut self, exec: GraphExecId) -> Result<&mut Exec, MachineError> {
        let missing = || MachineError::NoSuch { what: "executable graph", name: exec.0.to_string() };
        self.execs.get_mut(exec.0 as usize).and_then(Option::as_mut).ok_or_else(missing)
    }

    pub(super) fn keep_graph(&mut self, graph: Graph) -> GraphId {
        self.graphs.push(Some(graph));
        GraphId(self.graphs.len() as u32 - 1)
    }

    /// What is wrong with a piece of work before it is enqueued or added, on a stream of this device. Its device.
    pub(super) fn validate(&mut self, device: usize, node: &GraphNode) -> Result<usize, MachineError> {
        let inside = |machine: &Machine, address, bytes| match machine.sys.global.find(address, bytes) {
            Some(_) => Ok(device),
            None => Err(MachineError::BadAddress { address, bytes }),
        };
        match node {
            GraphNode::Empty => Ok(device),
            GraphNode::Launch { module, entry, launch } => {
                let (owner, program) = self.program(*module, entry)?;
                launch::prepare(&self.sys, usize::MAX, (usize::MAX, owner), program, launch)?;
                Ok(owner)
            }
            GraphNode::Copy { to, from, len } => inside(self, *to, *len).and(inside(self, *from, *len)),
            GraphNode::Fill { at, width, count, .. } => {
                if !matches!(width, 1 | 2 | 4) {
                    let (expected, got) = ("1, 2 or 4 bytes".into(), width.to_string());
                    return Err(MachineError::InvalidArgument { argument: "width", expected, got });
                }
                inside(self, *at, count.saturating_mul(*width as u64))
            }
            GraphNode::Record { event } | GraphNode::Wait { event } => self.event(*event).map(|_| device),
        }
    }

    /// A graph without nodes.
    pub fn create_graph(&mut self) -> GraphId {
        self.keep_graph(Graph::default())
    }

    /// Adds a node that comes after others, and returns its number. `device` runs what is no kernel.
    pub fn add_node(
        &mut self,
        graph: GraphId,
        device: usize,
        after: &[usize],
        node: GraphNode,
    ) -> Result<usize, MachineError> {
        self.device(device)?;
        let nodes = self.graph(graph)?.nodes.len();
        check_numbers("after", after, nodes)?;
        let device = self.validate(device, &node)?;
        Ok(self.graph_mut(graph)?.push(device, node, after))
    }

    /// Adds an edge.
    pub fn add_edge(&mut self, graph: GraphId, from: usize, to: usize) -> Result<(), MachineError> {
        let graph = self.graph_mut(graph)?;
        check_numbers("from", &[from], graph.nodes.len())?;
        check_numbers("to", &[to], graph.nodes.len())?;
        let after = &mut graph.nodes[to].after;
        if !after.contains(&from) {
            after.push(from);
        }
        Ok(())
    }

    /// The nodes of a graph, and what comes before each.
    pub fn graph_nodes(&self, graph: GraphId) -> Result<Vec<(&GraphNode, &[usize])>, MachineError> {
        Ok(self.graph(graph)?.nodes.iter().map(|placed| (&placed.node, &placed.after[..])).collect())
    }

    /// Replaces a node by one of the same kind.
    pub fn set_node(&mut self, graph: GraphId, number: usize, node: GraphNode) -> Result<(), MachineError> {
        check_numbers("number", &[number], self.graph(graph)?.nodes.len())?;
        let device = self.graph(graph)?.nodes[number].device;
        let owner = self.validate(device, &node)?;
        replace(&mut self.graph_mut(graph)?.nodes[number], number, owner, node)
    }

    /// As [`Machine::set_node`], in an executable graph; launches from now on see it.
    pub fn set_exec_node(
        &mut self,
        exec: GraphExecId,
        number: usize,
        node: GraphNode,
    ) -> Result<(), MachineError> {
        let nodes = &self.exec_mut(exec)?.graph.nodes;
        check_numbers("number", &[number], nodes.len())?;
        let device = nodes[number].device;
        let owner = self.validate(device, &node)?;
        replace(&mut self.exec_mut(exec)?.graph.nodes[number], number, owner, node)
    }

    /// Makes an executable graph do what another graph of the same shape says. On an error nothing has changed.
    pub fn update_exec(&mut self, exec: GraphExecId, graph: GraphId) -> Result<(), MachineError> {
        let new = self.graph(graph)?.clone();
        let exec = self.exec_mut(exec)?;
        let mut changed = exec.graph.clone();
        if changed.nodes.len() != new.nodes.len() {
            return Err(GraphError::Update { node: changed.nodes.len().min(new.nodes.len()) }.into());
        }
        for (number, (old, new)) in changed.nodes.iter_mut().zip(new.nodes).enumerate() {
            if old.after != new.after {
                return Err(GraphError::Update { node: number }.into());
            }
            replace(old, number, new.device, new.node)?;
        }
        exec.graph = changed;
        Ok(())
    }

    /// Forgets a graph. What was instantiated from it stays.
    pub fn destroy_graph(&mut self, graph: GraphId) -> Result<(), MachineError> {
        self.graph(graph)?;
        self.graphs[graph.0 as usize] = None;
        Ok(())
    }

    /// Makes a graph ready to be launched. Later changes of the graph do not show in it.
    pub fn instantiate(&mut self, graph: GraphId) -> Result<GraphExecId, MachineError> {
        let graph = self.graph(graph)?.clone();
        let order = graph.in_order().ok_or(GraphError::Circle)?;
        let follows = graph.chains(&order);
        let mut events: Vec<Option<EventId>> = vec![None; graph.nodes.len()];
        let mut lane_of: Vec<Option<StreamId>> = vec![None; graph.nodes.len()];
        let (mut lanes, mut steps) = (Vec::new(), Vec::new());
        let leaves = graph.leaves();
        for number in order {
            let Placed { after, device, .. } = &graph.nodes[number];
            let lane = follows[number].and_then(|before| lane_of[before]).unwrap_or_else(|| {
                let lane = self.take_lane(*device);
                lanes.push(lane);
                lane
            });
            lane_of[number] = Some(lane);
            let others = after.iter().filter(|before| follows[number] != Some(**before));
            let waits =
                others.map(|before| *events[*before].get_or_insert_with(|| self.create_event())).collect();
            let early = follows[number].is_some() && follows[number] == graph.early_under(number);
            steps.push(Step { number, lane, waits, event: None, early });
        }
        let ends =
            leaves.iter().map(|leaf| *events[*leaf].get_or_insert_with(|| self.create_event())).collect();
        for step in &mut steps {
            step.event = events[step.number];
        }
        let (start, done) = (self.create_event(), self.create_event());
        self.execs.push(Some(Exec { graph, steps, lanes, ends, start, done }));
        Ok(GraphExecId(self.execs.len() as u32 - 1))
    }

    /// A hidden stream: an idle one if the host has seen all of it end, so that its past orders nothing new.
    fn take_lane(&mut self, device: usize) -> StreamId {
        let known =
            |lane: &StreamId| self.streams[lane.0 as usize].device == device && self.host_has_seen(*lane);
        match self.idle_lanes.iter().position(known) {
            Some(at) => self.idle_lanes.swap_remove(at),
            None => {
                let lane = self.create_stream(device);
                self.streams[lane.0 as usize].lane = true;
                self.sys.lanes.insert(lane.0 as usize);
                lane
            }
        }
    }

    /// Forgets an executable graph. What was launched still runs.
    pub fn destroy_exec(&mut self, exec: GraphExecId) -> Result<(), MachineError> {
        self.exec_mut(exec)?;
        if let Some(gone) = self.execs[exec.0 as usize].take() {
            self.idle_lanes.extend(gone.lanes);
        }
        Ok(())
    }

    /// Enqueues all of a graph behind what is in the stream. While the stream captures, its nodes become part of what is captured.
    pub fn launch_graph(&mut self, stream: StreamId, exec: GraphExecId) -> Result<(), MachineError> {
        let capturing = self.stream_mut(stream)?.capture.is_some();
        self.exec_mut(exec)?;
        let Some(taken) = self.execs[exec.0 as usize].take() else { return Ok(()) };
        let outcome = if capturing {
            let order: Vec<usize> = taken.steps.iter().map(|step| step.number).collect();
            let nodes = order
                .iter()
                .map(|n| (*n, &taken.graph.nodes[*n]))
                .map(|(n, p)| (n, p.device, &p.node, &p.after[..]));
            self.capture_nodes(stream, nodes, &taken.graph.leaves())
        } else {
            self.launch_steps(stream, &taken)
        };
        self.execs[exec.0 as usize] = Some(taken);
        outcome
    }

    fn launch_steps(&mut self, stream: StreamId, exec: &Exec) -> Result<(), MachineError> {
        self.enqueue_now(stream, GraphNode::Wait { event: exec.done })?;
        self.enqueue_now(stream, GraphNode::Record { event: exec.start })?;
        for lane in &exec.lanes {
            self.enqueue_now(*lane, GraphNode::Wait { event: exec.start })?;
        }
        for step in &exec.steps {
            for event in &step.waits {
                self.enqueue_now(step.lane, GraphNode::Wait { event: *event })?;
            }
            let mut node = exec.graph.nodes[step.number].node.clone();
            if let GraphNode::Launch { launch, .. } = &mut node {
                launch.programmatic &= step.early;
            }
            self.enqueue_now(step.lane, node)?;
            if let Some(event) = step.event {
                self.enqueue_now(step.lane, GraphNode::Record { event })?;
            }
        }
        for event in &exec.ends {
            self.enqueue_now(stream, GraphNode::Wait { event: *event })?;
        }
        self.enqueue_now(stream, GraphNode::Record { event: exec.done })
    }
}

fn check_numbers(argument: &'static str, numbers: &[usize], nodes: usize) -> Result<(), MachineError> {
    match numbers.iter().find(|number| **number >= nodes) {
        None => Ok(()),
        Some(got) => {
            let expected = format!("one of {nodes} nodes");
            Err(MachineError::InvalidArgument { argument, expected, got: got.to_string() })
        }
    }
}

/// Puts a node where one of the same kind and device is.
fn replace(place: &mut Placed, number: usize, device: usize, node: GraphNode) -> Result<(), MachineError> {
    if device != place.device || std::mem::discriminant(&place.node) != std::mem::discriminant(&node) {
        return Err(GraphError::Update { node: number }.into());
    }
    place.node = node;
    Ok(())
}
