//! Streams: what was enqueued and in what order it may begin; events between streams; copies in stream order; graphs.
//!
//! A stream is a queue. Only grids take time; everything else happens at once when it comes to the front. An event counts its records:
//! a wait is for the last record enqueued before it, so waiting cannot go round in circles, and waiting for an event that was never
//! recorded waits for nothing, as the driver has it. A graph is what was enqueued on a stream while it captured: launching it enqueues
//! that again.

use std::collections::{HashMap, VecDeque};

use super::{EventId, GraphId, Launch, Machine, ModuleId, StreamId};
use crate::report::{Fault, MachineError};

/// What comes before: for each stream, the last of its grids that does.
pub(crate) type Order = HashMap<usize, usize>;

/// What comes before both.
fn join(into: &mut Order, from: &Order) {
    for (stream, grid) in from {
        let last = into.entry(*stream).or_insert(*grid);
        *last = (*last).max(*grid);
    }
}

/// What stands in a stream's queue.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// A grid in flight, by number.
    Grid(usize),
    /// Marks a record of an event as reached.
    Record { event: usize, number: u64 },
    /// Holds the stream until a record of an event was reached.
    Wait { event: usize, number: u64 },
    /// Copies bytes between two ranges of device or host memory.
    Copy { to: u64, from: u64, len: u64 },
    /// Sets bytes.
    Fill { at: u64, byte: u8, len: u64 },
}

/// What a capture keeps.
#[derive(Clone, Debug)]
enum Node {
    Launch { module: ModuleId, entry: String, launch: Launch },
    Record { event: EventId },
    Wait { event: EventId },
    Copy { to: u64, from: u64, len: u64 },
    Fill { at: u64, byte: u8, len: u64 },
}

/// A captured sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) device: usize,
    pub(super) queue: VecDeque<Work>,
    /// What comes before whatever is enqueued next.
    order: Order,
    /// Being captured instead of enqueued.
    capture: Option<Graph>,
}

impl Stream {
    pub(super) fn new(device: usize) -> Stream {
        Stream { device, queue: VecDeque::new(), order: Order::new(), capture: None }
    }
}

/// How far an event has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    /// Records enqueued.
    enqueued: u64,
    /// The latest record reached.
    reached: u64,
    /// What comes before the last record enqueued.
    order: Order,
}

impl Machine {
    fn stream_mut(&mut self, stream: StreamId) -> Result<&mut Stream, MachineError> {
        if let Some(fault) = &self.fault {
            return Err(MachineError::Faulted(fault.clone()));
        }
        let missing = || MachineError::NoSuch { what: "stream", name: stream.0.to_string() };
        self.streams.get_mut(stream.0 as usize).ok_or_else(missing)
    }

    fn event(&self, event: EventId) -> Result<&Event, MachineError> {
        let missing = || MachineError::NoSuch { what: "event", name: event.0.to_string() };
        self.events.get(event.0 as usize).ok_or_else(missing)
    }

    /// Takes a node down if the stream captures; else gives it back.
    fn captured(&mut self, stream: StreamId, node: Node) -> Result<Option<Node>, MachineError> {
        match &mut self.stream_mut(stream)?.capture {
            Some(graph) => {
                graph.nodes.push(node);
                Ok(None)
            }
            None => Ok(Some(node)),
        }
    }

    fn enqueue(&mut self, stream: StreamId, node: Node) -> Result<(), MachineError> {
        let Some(node) = self.captured(stream, node)? else { return Ok(()) };
        let work = match node {
            Node::Launch { module, entry, launch } => {
                return self.launch_now(stream, module, &entry, &launch);
            }
            Node::Record { event } => {
                self.event(event)?;
                let order = self.stream_mut(stream)?.order.clone();
                let state = &mut self.events[event.0 as usize];
                state.enqueued += 1;
                state.order = order;
                Work::Record { event: event.0 as usize, number: state.enqueued }
            }
            Node::Wait { event } => {
                let Event { enqueued: number, order, .. } = self.event(event)?.clone();
                join(&mut self.stream_mut(stream)?.order, &order);
                Work::Wait { event: event.0 as usize, number }
            }
            Node::Copy { to, from, len } => {
                for address in [to, from] {
                    if self.sys.global.find(address, len).is_none() {
                        return Err(MachineError::BadAddress { address, bytes: len });
                    }
                }
                Work::Copy { to, from, len }
            }
            Node::Fill { at, byte, len } => {
                if self.sys.global.find(at, len).is_none() {
                    return Err(MachineError::BadAddress { address: at, bytes: len });
                }
                Work::Fill { at, byte, len }
            }
        };
        self.stream_mut(stream)?.queue.push_back(work);
        Ok(())
    }

    /// Validates a launch and enqueues it. Nothing runs until something waits.
    pub fn launch(
        &mut self,
        stream: StreamId,
        module: ModuleId,
        entry: &str,
        launch: &Launch,
    ) -> Result<(), MachineError> {
        if self.stream_mut(stream)?.capture.is_none() {
            return self.launch_now(stream, module, entry, launch);
        }
        self.enqueue(stream, Node::Launch { module, entry: entry.into(), launch: launch.clone() })
    }

    /// Copies bytes in stream order, between any two ranges of device or host memory.
    pub fn copy_async(&mut self, stream: StreamId, to: u64, from: u64, len: u64) -> Result<(), MachineError> {
        self.enqueue(stream, Node::Copy { to, from, len })
    }

    /// Sets bytes in stream order.
    pub fn fill_async(&mut self, stream: StreamId, at: u64, byte: u8, len: u64) -> Result<(), MachineError> {
        self.enqueue(stream, Node::Fill { at, byte, len })
    }

    /// A new event, never recorded.
    pub fn create_event(&mut self) -> EventId {
        self.events.push(Event::default());
        EventId(self.events.len() as u32 - 1)
    }

    /// Enqueues a record of an event.
    pub fn record_event(&mut self, stream: StreamId, event: EventId) -> Result<(), MachineError> {
        self.enqueue(stream, Node::Record { event })
    }

    /// Holds what is enqueued on the stream from now on until the last record of the event was reached.
    pub fn wait_event(&mut self, stream: StreamId, event: EventId) -> Result<(), MachineError> {
        self.enqueue(stream, Node::Wait { event })
    }

    /// Has the last record of an event been reached? Runs a little if not. An event that does not exist was reached.
    pub fn query_event(&mut self, event: EventId) -> Result<bool, Fault> {
        self.set_limit();
        if !self.reached(event) {
            self.turn()?;
        }
        self.outcome()?;
        let reached = self.reached(event);
        if reached {
            self.host_saw_event(event);
        }
        Ok(reached)
    }

    /// Runs until the last record of an event was reached. An error if that never happens, as for [`Machine::synchronize`].
    pub fn synchronize_event(&mut self, event: EventId) -> Result<(), Fault> {
        self.set_limit();
        while self.fault.is_none() && !self.reached(event) {
            if !self.turn()? {
                return Err(self.never(None));
            }
        }
        self.outcome()?;
        self.host_saw_event(event);
        Ok(())
    }

    /// The next grid of a stream: what comes before it.
    pub(super) fn next_in_order(&mut self, stream: StreamId, grid: usize) -> Order {
        let own = stream.0 as usize;
        let order = &mut self.streams[own].order;
        join(order, &self.host);
        let before = order.clone();
        order.insert(own, grid);
        before
    }

    /// The host has seen a stream empty: what it enqueues from now on, on any stream, comes after.
    pub(super) fn host_saw_stream(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.get(stream.0 as usize) {
            join(&mut self.host, &stream.order);
        }
    }

    fn host_saw_event(&mut self, event: EventId) {
        if let Some(event) = self.events.get(event.0 as usize) {
            join(&mut self.host, &event.order);
        }
    }

    fn reached(&self, event: EventId) -> bool {
        self.events.get(event.0 as usize).is_none_or(|e| e.reached >= e.enqueued)
    }

    /// From now on what would be enqueued on the stream is kept for a graph instead.
    pub fn begin_capture(&mut self, stream: StreamId) -> Result<(), MachineError> {
        let stream = self.stream_mut(stream)?;
        if stream.capture.is_some() {
            let expected = "a stream that is not being captured".into();
            let got = "one that is".into();
            return Err(MachineError::InvalidArgument { argument: "stream", expected, got });
        }
        stream.capture = Some(Graph::default());
        Ok(())
    }

    /// Ends a capture.
    pub fn end_capture(&mut self, stream: StreamId) -> Result<GraphId, MachineError> {
        let Some(graph) = self.stream_mut(stream)?.capture.take() else {
            let expected = "a stream that is being captured".into();
            let got = "one that is not".into();
            return Err(MachineError::InvalidArgument { argument: "stream", expected, got });
        };
        self.graphs.push(graph);
        Ok(GraphId(self.graphs.len() as u32 - 1))
    }

    /// Enqueues everything a graph holds.
    pub fn launch_graph(&mut self, stream: StreamId, graph: GraphId) -> Result<(), MachineError> {
        let missing = || MachineError::NoSuch { what: "graph", name: graph.0.to_string() };
        let graph = self.graphs.get(graph.0 as usize).cloned().ok_or_else(missing)?;
        for node in graph.nodes {
            self.enqueue(stream, node)?;
        }
        Ok(())
    }

    /// Does what stands at the front of a stream's queue and takes no time.
    pub(super) fn advance(&mut self, stream: usize) {
        while let Some(work) = self.streams[stream].queue.front() {
            match *work {
                Work::Grid(_) => return,
                Work::Wait { event, number } if self.events[event].reached < number => return,
                Work::Wait { .. } => {}
                Work::Record { event, number } => {
                    let event = &mut self.events[event];
                    event.reached = event.reached.max(number);
                }
                Work::Copy { to, from, len } => {
                    // Memory freed in the meantime: nothing is left to copy.
                    let bytes = self.sys.global.read(from, len, false).map(<[u8]>::to_vec);
                    if let Ok(bytes) = bytes
                        && let Ok(to) = self.sys.global.write(to, len)
                    {
                        to.copy_from_slice(&bytes);
                    }
                }
                Work::Fill { at, byte, len } => {
                    if let Ok(to) = self.sys.global.write(at, len) {
                        to.fill(byte);
                    }
                }
            }
            self.streams[stream].queue.pop_front();
            self.sys.progress += 1;
        }
    }

    /// Grid numbers at the front of a stream's queue, up to the first that is no grid.
    pub(super) fn front_grids(&self, stream: usize) -> Vec<usize> {
        let grids = self.streams[stream].queue.iter().map_while(|work| match work {
            Work::Grid(id) => Some(*id),
            _ => None,
        });
        grids.collect()
    }

    /// Forgets everything enqueued: every record counts as reached.
    pub(super) fn clear_streams(&mut self) {
        for stream in &mut self.streams {
            stream.queue.clear();
            stream.capture = None;
        }
        for event in &mut self.events {
            event.reached = event.enqueued;
        }
    }
}
