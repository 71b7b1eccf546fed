//! Events: a place in a stream, reached when the stream has run that far.
//!
//! The machine has no such places, so reaching an event means running its stream until it is empty, which orders the same
//! things and a few more. A timed event does so when it is recorded: the time between two is the host's own, spent
//! emulating, and says nothing about a GPU.

use std::ffi::c_uint;
use std::time::Instant;

use crate::abi::{Handle, Out, exports};
use crate::error::{Code, Error, Result};
use crate::state::{self, Event, Kind, State, handle, index};

/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIMING: c_uint = 2;

fn event(state: &mut State, event: Handle) -> Result<&mut Event> {
    let found = index(Kind::Event, event)?;
    state.events.get_mut(found).ok_or_else(|| Error::quiet(Code::InvalidHandle))
}

/// Runs until the event has been reached. One never recorded is no obstacle.
pub fn reach(state: &mut State, handle: Handle) -> Result<()> {
    match event(state, handle)?.recorded {
        Some((stream, _)) => state.wait(stream),
        None => Ok(()),
    }
}

fn record(handle: Handle, stream: Handle) -> Result<()> {
    let mut state = state::lock()?;
    let stream = state.stream(stream)?;
    if event(&mut state, handle)?.timed {
        state.order(stream)?;
        state.wait(stream)?;
    }
    event(&mut state, handle)?.recorded = Some((stream, Instant::now()));
    Ok(())
}

fn elapsed(milliseconds: Out<f32>, start: Handle, end: Handle) -> Result<()> {
    let mut state = state::lock()?;
    let ends = [start, end].map(|handle| event(&mut state, handle).map(|event| *event));
    let [start, end] = ends;
    match (start?, end?) {
        (
            Event { timed: true, recorded: Some((_, start)) },
            Event { timed: true, recorded: Some((_, end)) },
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
        state.events.push(Event { recorded: None, timed: flags & NO_TIMING == 0 });
        event.put(handle(Kind::Event, state.events.len() - 1))
    }

    fn cuEventDestroy_v2(handle: Handle) {
        let mut state = state::lock()?;
        event(&mut state, handle).map(|_| ())
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        record(event, stream)
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, _flags: c_uint) {
        record(event, stream)
    }

    fn cuEventSynchronize(event: Handle) {
        reach(&mut *state::lock()?, event)
    }

    /// Asking runs the stream, or a program that polls would never see it end.
    fn cuEventQuery(event: Handle) {
        reach(&mut *state::lock()?, event)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }
}
