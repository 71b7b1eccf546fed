//! Capture: what would be enqueued on a stream becomes nodes of a graph instead.
//!
//! Recording an event in a capturing stream marks a place in the graph; another stream that waits for it joins the capture there
//! (fork), and has to come back the same way (join) before the capture ends on the stream where it began. A wrong use breaks the
//! capture: everything about it fails from then on, until it is ended, which fails too and frees its streams. [`GraphError`] has what the
//! driver would answer.
//!
//! A machine knows no threads and no default streams: capture modes and the legacy stream are the business of whoever wraps it
//! ([`Machine::capture_info`], [`Machine::break_capture`]). Waiting for a capturing stream is wrong, too, and not every caller of
//! [`Machine::synchronize`] can capture: those that can ask [`Machine::check_wait`] first.

use super::graph::{Graph, GraphNode};
use super::{EventId, GraphId, Machine, StreamId};
use crate::report::{GraphError, MachineError};

/// A graph that grows.
#[derive(Debug)]
pub(super) struct Capture {
    origin: StreamId,
    graph: Graph,
    broken: bool,
}

/// A place in it: where a stream is, or where an event was recorded.
#[derive(Clone, Debug)]
pub(super) struct Place {
    capture: u64,
    /// The nodes that come before.
    after: Vec<usize>,
}

/// What a stream that captures is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaptureInfo {
    /// No other capture of the machine has this number.
    pub id: u64,
    /// Something was done that is not allowed.
    pub broken: bool,
    /// Numbers of the nodes that come before the next one of this stream.
    pub after: Vec<usize>,
}

impl Machine {
    /// From now on what would be enqueued on the stream becomes nodes of a graph instead.
    pub fn begin_capture(&mut self, stream: StreamId) -> Result<(), MachineError> {
        if self.stream_mut(stream)?.capture.is_some() {
            return Err(GraphError::AlreadyCapturing.into());
        }
        self.last_capture += 1;
        let capture = Capture { origin: stream, graph: Graph::default(), broken: false };
        self.captures.insert(self.last_capture, capture);
        let place = Place { capture: self.last_capture, after: Vec::new() };
        self.stream_mut(stream)?.capture = Some(place);
        Ok(())
    }

    /// Ends a capture on the stream where it began.
    pub fn end_capture(&mut self, stream: StreamId) -> Result<GraphId, MachineError> {
        let Some(place) = self.stream_mut(stream)?.capture.clone() else {
            return Err(GraphError::NotCapturing.into());
        };
        match self.captures.get_mut(&place.capture) {
            Some(capture) if capture.origin != stream => {
                capture.broken = true;
                return Err(GraphError::Unmatched.into());
            }
            _ => {}
        }
        let in_it =
            |s: &super::stream::Stream| s.capture.as_ref().is_some_and(|p| p.capture == place.capture);
        self.streams.iter_mut().filter(|s| in_it(s)).for_each(|s| s.capture = None);
        match self.captures.remove(&place.capture) {
            Some(Capture { broken: false, graph, .. }) if graph.all_before(&place.after) => {
                Ok(self.keep_graph(graph))
            }
            Some(Capture { broken: false, .. }) => Err(GraphError::Unjoined.into()),
            _ => Err(GraphError::Invalidated.into()),
        }
    }

    /// What the stream is captured into, if it is.
    pub fn capture_info(&self, stream: StreamId) -> Option<CaptureInfo> {
        let place = self.streams.get(stream.0 as usize)?.capture.as_ref()?;
        let broken = self.captures.get(&place.capture).is_none_or(|capture| capture.broken);
        Some(CaptureInfo { id: place.capture, broken, after: place.after.clone() })
    }

    /// Was the last record of the event in a capture?
    pub fn is_captured_event(&self, event: EventId) -> bool {
        self.events.get(event.0 as usize).is_some_and(|e| e.capture.is_some())
    }

    /// Breaks the capture that a stream is part of, as a call would that is not allowed.
    pub fn break_capture(&mut self, stream: StreamId) {
        let place = self.streams.get(stream.0 as usize).and_then(|s| s.capture.clone());
        self.break_at(place);
    }

    fn break_at(&mut self, place: Option<Place>) {
        if let Some(capture) = place.and_then(|place| self.captures.get_mut(&place.capture)) {
            capture.broken = true;
        }
    }

    /// Whoever synchronises with or queries a stream must not do so while it captures: that breaks the capture.
    pub fn check_wait(&mut self, stream: StreamId) -> Result<(), MachineError> {
        match self.capture_info(stream) {
            None => Ok(()),
            Some(_) => {
                self.break_capture(stream);
                Err(GraphError::Unsupported.into())
            }
        }
    }

    /// As [`Machine::check_wait`], for events: one recorded in a capture is a place in a graph, not a moment.
    pub fn check_wait_event(&mut self, event: EventId) -> Result<(), MachineError> {
        let place = self.event(event)?.capture.clone();
        if place.is_none() {
            return Ok(());
        }
        self.break_at(place);
        Err(GraphError::CapturedEvent.into())
    }

    /// Where a capturing stream is, unless its capture is broken. `None`: it does not capture.
    fn place(&mut self, stream: StreamId) -> Result<Option<Place>, MachineError> {
        let place = self.stream_mut(stream)?.capture.clone();
        match &place {
            Some(place) if self.captures.get(&place.capture).is_none_or(|capture| capture.broken) => {
                Err(GraphError::Invalidated.into())
            }
            _ => Ok(place),
        }
    }

    /// Takes a piece of work down if the stream captures; else gives it back.
    pub(super) fn captured(
        &mut self,
        stream: StreamId,
        node: GraphNode,
    ) -> Result<Option<GraphNode>, MachineError> {
        if self.place(stream)?.is_none() {
            return Ok(Some(node));
        }
        let device = self.stream_mut(stream)?.device;
        let owner = self.validate(device, &node)?;
        if let GraphNode::Launch { module, .. } = &node
            && owner != device
        {
            return Err(MachineError::NoSuch { what: "module on this device", name: module.0.to_string() });
        }
        self.capture_nodes(stream, [(0, device, &node, &[][..])].into_iter(), &[0])?;
        Ok(None)
    }

    /// Adds nodes behind those of a capturing stream: their numbers among themselves, and which of them come last.
    pub(super) fn capture_nodes<'a>(
        &mut self,
        stream: StreamId,
        nodes: impl Iterator<Item = (usize, usize, &'a GraphNode, &'a [usize])>,
        last: &[usize],
    ) -> Result<(), MachineError> {
        let Some(place) = self.place(stream)? else { return Err(GraphError::NotCapturing.into()) };
        let Some(capture) = self.captures.get_mut(&place.capture) else {
            return Err(GraphError::Invalidated.into());
        };
        let mut numbers = std::collections::HashMap::new();
        for (number, device, node, after) in nodes {
            let inner: Vec<usize> = after.iter().map(|before| numbers[before]).collect();
            let after = if inner.is_empty() { &place.after } else { &inner };
            numbers.insert(number, capture.graph.push(device, node.clone(), after));
        }
        let after = last.iter().map(|number| numbers[number]).collect::<Vec<_>>();
        if !after.is_empty() {
            self.stream_mut(stream)?.capture = Some(Place { after, ..place });
        }
        Ok(())
    }

    /// Enqueues a record of an event; in a capture, marks the place that a wait for it leads to.
    pub fn record_event(&mut self, stream: StreamId, event: EventId) -> Result<(), MachineError> {
        self.event(event)?;
        let place = self.place(stream)?;
        let inside = place.is_some();
        self.events[event.0 as usize].capture = place;
        if inside { Ok(()) } else { self.enqueue_now(stream, GraphNode::Record { event }) }
    }

    /// Holds what is enqueued on the stream from now on until the last record of the event was reached; if that was in a capture, the
    /// stream takes part in it from now on.
    pub fn wait_event(&mut self, stream: StreamId, event: EventId) -> Result<(), MachineError> {
        let there = self.event(event)?.capture.clone();
        let here = self.place(stream)?;
        let place = match (here, there) {
            (None, None) => return self.enqueue_now(stream, GraphNode::Wait { event }),
            (here @ Some(_), None) => {
                self.break_at(here);
                return Err(GraphError::Isolation.into());
            }
            (here, Some(there)) => {
                match self.captures.get(&there.capture) {
                    // A place in a graph that is finished: nothing can come after it any more.
                    None => {
                        self.break_at(here);
                        return Err(GraphError::CapturedEvent.into());
                    }
                    Some(capture) if capture.broken => return Err(GraphError::Invalidated.into()),
                    Some(_) => {}
                }
                match here {
                    None => there,
                    Some(here) if here.capture != there.capture => {
                        self.break_at(Some(here));
                        self.break_at(Some(there));
                        return Err(GraphError::Merge.into());
                    }
                    Some(mut here) => {
                        here.after.extend(
                            there
                                .after
                                .iter()
                                .filter(|n| !here.after.contains(n))
                                .copied()
                                .collect::<Vec<_>>(),
                        );
                        here
                    }
                }
            }
        };
        self.stream_mut(stream)?.capture = Some(place);
        Ok(())
    }

    /// A record of an event that streams outside may wait for: a node of its own while the stream captures.
    pub fn record_event_external(&mut self, stream: StreamId, event: EventId) -> Result<(), MachineError> {
        self.enqueue(stream, GraphNode::Record { event })
    }

    /// A wait for an event of a stream outside: a node of its own while the stream captures.
    pub fn wait_event_external(&mut self, stream: StreamId, event: EventId) -> Result<(), MachineError> {
        self.enqueue(stream, GraphNode::Wait { event })
    }
}
