//! Events: places in streams.
//!
//! A timed event is reached before its record returns: the time between two is the host's own, spent emulating, and says
//! nothing about a GPU. One made without timing holds nobody up. In a stream that captures, an event marks a place in the graph, and
//! nobody can wait for it but streams; the external kind is a node of the graph.

use std::ffi::c_uint;
use std::time::Instant;

use hadal_emulator::EventId;

use crate::abi::{Handle, Out, exports};
use crate::error::{Code, Error, Result};
use crate::state::{self, Event, Kind, State, handle, index};

/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIMING: c_uint = 2;
/// `CU_EVENT_RECORD_EXTERNAL`, `CU_EVENT_WAIT_EXTERNAL`.
const EXTERNAL: c_uint = 1;

pub fn event(state: &mut State, event: Handle) -> Result<&mut Event> {
    let found = index(Kind::Event, event)?;
    state.events.get_mut(found).ok_or_else(|| Error::quiet(Code::InvalidHandle))
}

/// Runs until the event has been reached. One never recorded is no obstacle.
fn reach(handle: Handle) -> Result<()> {
    let mut state = state::lock()?;
    let id = may_wait(&mut state, handle)?;
    state.run(|machine| machine.synchronize_event(id))
}

/// The machine's event, if the host may wait for it now.
fn may_wait(state: &mut State, handle: Handle) -> Result<EventId> {
    let id = event(state, handle)?.id;
    state.machine.check_wait_event(id)?;
    state.potentially_unsafe()?;
    Ok(id)
}

/// What is enqueued on the stream from now on comes after the event.
pub fn hold(stream: Handle, handle: Handle, flags: c_uint) -> Result<()> {
    let mut state = state::lock()?;
    let stream = state.stream(stream)?;
    let id = event(&mut state, handle)?.id;
    state.refuse_implicit(stream)?;
    let inside = state.is_capturing(stream);
    if state.machine.is_captured_event(id) && !inside {
        state.may_join(stream)?;
    }
    let queue = state.streams[stream].id;
    if inside && flags & EXTERNAL != 0 {
        return Ok(state.machine.wait_event_external(queue, id)?);
    }
    Ok(state.machine.wait_event(queue, id)?)
}

fn record(handle: Handle, stream: Handle, flags: c_uint) -> Result<()> {
    let mut state = state::lock()?;
    let stream = state.stream(stream)?;
    let Event { id, timed, .. } = *event(&mut state, handle)?;
    state.order(stream)?;
    let queue = state.streams[stream].id;
    if state.is_capturing(stream) {
        match flags & EXTERNAL {
            0 => state.machine.record_event(queue, id)?,
            _ => state.machine.record_event_external(queue, id)?,
        }
        return Ok(());
    }
    state.machine.record_event(queue, id)?;
    if timed {
        state.run(|machine| machine.synchronize_event(id))?;
    }
    event(&mut state, handle)?.recorded = Some(Instant::now());
    Ok(())
}

fn elapsed(milliseconds: Out<f32>, start: Handle, end: Handle) -> Result<()> {
    let mut state = state::lock()?;
    let ends = [start, end].map(|handle| event(&mut state, handle).map(|event| *event));
    let [start, end] = ends;
    match (start?, end?) {
        (
            Event { timed: true, recorded: Some(start), .. },
            Event { timed: true, recorded: Some(end), .. },
        ) => {
            let seconds = end.saturating_duration_since(start).as_secs_f64()
                - start.saturating_duration_since(end).as_secs_f64();
            milliseconds.put((seconds * 1e3) as f32)
        }
        _ => {
            Err(Error::new(Code::InvalidHandle, "an event that was not recorded, or was made without timing"))
        }
    }
}

exports! {
    fn cuEventCreate(event: Out<Handle>, flags: c_uint) {
        let mut state = state::lock()?;
        let id = state.machine.create_event();
        state.events.push(Event { id, recorded: None, timed: flags & NO_TIMING == 0 });
        event.put(handle(Kind::Event, state.events.len() - 1))
    }

    fn cuEventDestroy_v2(handle: Handle) {
        let mut state = state::lock()?;
        event(&mut state, handle).map(|_| ())
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        record(event, stream, 0)
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) {
        record(event, stream, flags)
    }

    fn cuEventSynchronize(event: Handle) {
        reach(event)
    }

    /// Asking lets the machine run a little, or a program that polls would never see it end.
    fn cuEventQuery(handle: Handle) {
        let mut state = state::lock()?;
        let id = may_wait(&mut state, handle)?;
        if state.run(|machine| machine.query_event(id))? { Ok(()) } else { Err(Error::quiet(Code::NotReady)) }
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }
}
