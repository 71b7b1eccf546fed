//! Streams: what was enqueued and in what order it may begin; events between streams; copies in stream order.
//!
//! A stream is a queue. Only grids take time; everything else happens at once when it comes to the front. An event counts its records:
//! a wait is for the last record enqueued before it, so waiting cannot go round in circles, and waiting for an event that was never
//! recorded waits for nothing, as the driver has it. While a stream captures, the same calls make nodes of a graph (`capture`).

use std::collections::{HashMap, VecDeque};

use super::capture::Place;
use super::graph::GraphNode;
use super::{EventId, Launch, Machine, ModuleId, StreamId};
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
    /// Sets the same `width` bytes again and again.
    Fill { at: u64, value: u32, width: u8, count: u64 },
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) device: usize,
    pub(super) queue: VecDeque<Work>,
    /// What comes before whatever is enqueued next.
    order: Order,
    /// Where it is in a capture, if what comes is captured.
    pub(super) capture: Option<Place>,
    /// A lane of a graph: the records in it are of the graph, and no kernel begins later because of one.
    pub(super) lane: bool,
}

impl Stream {
    pub(super) fn new(device: usize) -> Stream {
        Stream { device, queue: VecDeque::new(), order: Order::new(), capture: None, lane: false }
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
    /// Where the last record is in a capture, if it was in one.
    pub(super) capture: Option<Place>,
}

impl Machine {
    pub(super) fn stream_mut(&mut self, stream: StreamId) -> Result<&mut Stream, MachineError> {
        if let Some(fault) = &self.fault {
            return Err(MachineError::Faulted(fault.clone()));
        }
        let missing = || MachineError::NoSuch { what: "stream", name: stream.0.to_string() };
        self.streams.get_mut(stream.0 as usize).ok_or_else(missing)
    }

    pub(super) fn event(&self, event: EventId) -> Result<&Event, MachineError> {
        let missing = || MachineError::NoSuch { what: "event", name: event.0.to_string() };
        self.events.get(event.0 as usize).ok_or_else(missing)
    }

    /// Enqueues a piece of work, or makes it a node if the stream captures.
    pub(super) fn enqueue(&mut self, stream: StreamId, node: GraphNode) -> Result<(), MachineError> {
        match self.captured(stream, node)? {
            Some(node) => self.enqueue_now(stream, node),
            None => Ok(()),
        }
    }

    pub(super) fn enqueue_now(&mut self, stream: StreamId, node: GraphNode) -> Result<(), MachineError> {
        let work = match node {
            GraphNode::Empty => return Ok(()),
            GraphNode::Launch { module, entry, launch } => {
                return self.launch_now(stream, module, &entry, &launch);
            }
            GraphNode::Record { event } => {
                self.event(event)?;
                let order = self.stream_mut(stream)?.order.clone();
                let state = &mut self.events[event.0 as usize];
                state.enqueued += 1;
                state.order = order;
                Work::Record { event: event.0 as usize, number: state.enqueued }
            }
            GraphNode::Wait { event } => {
                let Event { enqueued: number, order, .. } = self.event(event)?.clone();
                join(&mut self.stream_mut(stream)?.order, &order);
                Work::Wait { event: event.0 as usize, number }
            }
            GraphNode::Copy { to, from, len } => Work::Copy { to, from, len },
            GraphNode::Fill { at, value, width, count } => Work::Fill { at, value, width, count },
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
        self.enqueue(stream, GraphNode::Launch { module, entry: entry.into(), launch: launch.clone() })
    }

    /// Copies bytes in stream order, between any two ranges of device or host memory.
    pub fn copy_async(&mut self, stream: StreamId, to: u64, from: u64, len: u64) -> Result<(), MachineError> {
        self.enqueue_memory(stream, GraphNode::Copy { to, from, len })
    }

    /// Sets bytes in stream order.
    pub fn fill_async(&mut self, stream: StreamId, at: u64, byte: u8, len: u64) -> Result<(), MachineError> {
        self.fill_words_async(stream, at, byte as u32, 1, len)
    }

    /// Sets `count` times the lowest `width` bytes of a value, 1, 2 or 4, in stream order.
    pub fn fill_words_async(
        &mut self,
        stream: StreamId,
        at: u64,
        value: u32,
        width: u8,
        count: u64,
    ) -> Result<(), MachineError> {
        self.enqueue_memory(stream, GraphNode::Fill { at, value, width, count })
    }

    /// Enqueues what must be inside allocations.
    fn enqueue_memory(&mut self, stream: StreamId, node: GraphNode) -> Result<(), MachineError> {
        let device = self.stream_mut(stream)?.device;
        self.validate(device, &node)?;
        self.enqueue(stream, node)
    }

    /// A new event, never recorded.
    pub fn create_event(&mut self) -> EventId {
        self.events.push(Event::default());
        EventId(self.events.len() as u32 - 1)
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
        self.forget();
    }

    fn host_saw_event(&mut self, event: EventId) {
        if let Some(event) = self.events.get(event.0 as usize) {
            join(&mut self.host, &event.order);
        }
        self.forget();
    }

    fn reached(&self, event: EventId) -> bool {
        self.events.get(event.0 as usize).is_none_or(|e| e.reached >= e.enqueued)
    }

    /// Has the host seen all that was ever enqueued on a stream?
    pub(super) fn host_has_seen(&self, stream: StreamId) -> bool {
        let Stream { queue, order, .. } = &self.streams[stream.0 as usize];
        let seen = |(stream, grid): (&usize, &usize)| self.host.get(stream).is_some_and(|last| last >= grid);
        queue.is_empty() && order.iter().all(seen)
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
                Work::Fill { at, value, width, count } => {
                    if let Ok(to) = self.sys.global.write(at, count * width as u64) {
                        let bytes = &value.to_le_bytes()[..width as usize];
                        to.chunks_exact_mut(bytes.len()).for_each(|to| to.copy_from_slice(bytes));
                    }
                }
            }
            self.streams[stream].queue.pop_front();
            self.sys.progress += 1;
        }
    }

    /// Grid numbers at the front of a stream's queue, up to the first that is no grid.
    pub(super) fn front_grids(&self, stream: usize) -> Vec<usize> {
        let Stream { queue, lane, .. } = &self.streams[stream];
        let passed = queue.iter().filter(|work| !(*lane && matches!(work, Work::Record { .. })));
        let grids = passed.map_while(|work| match work {
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
            event.capture = None;
        }
        self.captures.clear();
    }
}
