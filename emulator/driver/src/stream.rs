//! Streams. What of them concerns capture is in `capture`.

use std::ffi::{c_int, c_uint};

use crate::abi::{Handle, Out, exports};
use crate::error::{Code, Error, Result};
use crate::state::{self, Kind, Stream, handle};

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;

fn create(flags: c_uint) -> Result<Handle> {
    let device = state::current()?;
    let mut state = state::lock()?;
    let id = state.machine.create_stream(device);
    state.streams.push(Stream { device, id, non_blocking: flags & NON_BLOCKING != 0, destroyed: false });
    Ok(handle(Kind::Stream, state.streams.len() - 1))
}

exports! {
    fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) {
        stream.put(create(flags)?)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: c_uint, _priority: c_int) {
        stream.put(create(flags)?)
    }

    /// What is in the stream still runs.
    fn cuStreamDestroy_v2(stream: Handle) {
        if stream <= 2 {
            return Err(Error::new(Code::InvalidHandle, "the default stream cannot be destroyed"));
        }
        let mut state = state::lock()?;
        let stream = state.stream(stream)?;
        let id = state.streams[stream].id;
        state.machine.break_capture(id);
        state.streams[stream].destroyed = true;
        Ok(())
    }

    fn cuStreamSynchronize(stream: Handle) {
        let mut state = state::lock()?;
        let stream = state.stream(stream)?;
        state.may_wait(stream)?;
        state.order(stream)?;
        state.wait(stream)
    }

    fn cuStreamQuery(stream: Handle) {
        let mut state = state::lock()?;
        let stream = state.stream(stream)?;
        state.may_wait(stream)?;
        state.refuse_implicit(stream)?;
        let id = state.streams[stream].id;
        if state.run(|machine| machine.query(id))? { Ok(()) } else { Err(Error::quiet(Code::NotReady)) }
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) {
        crate::event::hold(stream, event, flags)
    }

    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        let state = state::lock()?;
        let stream = state.stream(stream)?;
        context.put(handle(Kind::Context, state.streams[stream].device))
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<c_uint>) {
        let state = state::lock()?;
        let stream = state.stream(stream)?;
        flags.put(state.streams[stream].non_blocking as c_uint)
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<c_int>) {
        state::lock()?.stream(stream)?;
        priority.put(0)
    }
}
