//! Stream capture: its calls, its modes, and what threads may not do while one goes on.
//!
//! The machine captures; who began it, on which thread and how strictly is kept here. Some calls could disturb a capture of any
//! thread (they allocate, or wait): a thread may make them only as far as its own mode and the mode of the capture let it. A call that
//! is refused breaks the capture, as on a GPU. The default stream is the legacy one: it cannot be captured, nor used while a blocking
//! stream of its device is. Per-thread default streams are the legacy stream here.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::thread::{self, ThreadId};

use crate::abi::{Handle, Out, exports};
use crate::error::{Code, Error, Result};
use crate::state::{self, State};

/// `CUstreamCaptureMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    fn of(number: c_int) -> Result<Mode> {
        [Mode::Global, Mode::ThreadLocal, Mode::Relaxed]
            .into_iter()
            .find(|mode| *mode as c_int == number)
            .ok_or_else(|| Error::invalid(format!("{number} is no capture mode")))
    }
}

/// A capture going on.
pub struct Capture {
    thread: ThreadId,
    mode: Mode,
}

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set.
    static MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// `CU_STREAM_CAPTURE_STATUS_…`
const NONE: c_int = 0;
const ACTIVE: c_int = 1;
const INVALIDATED: c_int = 2;

impl State {
    pub fn is_capturing(&self, stream: usize) -> bool {
        self.machine.capture_info(self.streams[stream].id).is_some()
    }

    /// Breaks the captures of streams that these numbers name. False: none captures.
    fn break_streams(&mut self, which: impl Fn(&State, usize) -> bool) -> bool {
        let found: Vec<usize> =
            (0..self.streams.len()).filter(|s| self.is_capturing(*s) && which(self, *s)).collect();
        for stream in &found {
            self.machine.break_capture(self.streams[*stream].id);
        }
        !found.is_empty()
    }

    /// The default stream cannot be used while a blocking stream of its device captures.
    pub fn refuse_implicit(&mut self, stream: usize) -> Result<()> {
        let device = self.streams[stream].device;
        let blocking = |state: &State, s: usize| {
            let other = &state.streams[s];
            other.device == device && !other.non_blocking
        };
        if stream != device || !self.break_streams(blocking) {
            return Ok(());
        }
        Err(Error::new(
            Code::CaptureImplicit,
            "the default stream would wait for a blocking stream that captures",
        ))
    }

    /// The default stream cannot join a capture.
    pub fn may_join(&mut self, stream: usize) -> Result<()> {
        if stream == self.streams[stream].device {
            return Err(Error::new(
                Code::CaptureImplicit,
                "the default stream cannot take part in a capture",
            ));
        }
        Ok(())
    }

    /// A call on this stream has no form that could be captured.
    pub fn refuse_capture(&mut self, stream: usize, why: &str) -> Result<()> {
        if !self.is_capturing(stream) {
            return Ok(());
        }
        self.machine.break_capture(self.streams[stream].id);
        Err(Error::new(Code::CaptureUnsupported, why))
    }

    /// May the host wait for this stream?
    pub fn may_wait(&mut self, stream: usize) -> Result<()> {
        let id = self.streams[stream].id;
        self.machine.check_wait(id)?;
        self.potentially_unsafe()
    }

    /// May the host wait for this device?
    pub fn may_wait_device(&mut self, device: usize) -> Result<()> {
        if self.break_streams(|state, s| state.streams[s].device == device) {
            return Err(Error::new(Code::CaptureUnsupported, "a stream of the device captures"));
        }
        self.potentially_unsafe()
    }

    /// May this thread make a call that could disturb a capture?
    pub fn potentially_unsafe(&mut self) -> Result<()> {
        let (thread, mode) = (thread::current().id(), MODE.get());
        let forbids = |capture: &Capture| match mode {
            Mode::Relaxed => false,
            _ if capture.thread == thread => capture.mode != Mode::Relaxed,
            Mode::ThreadLocal => false,
            Mode::Global => capture.mode == Mode::Global,
        };
        let disturbed: Vec<u64> =
            self.captures.iter().filter(|(_, capture)| forbids(capture)).map(|(id, _)| *id).collect();
        let in_one = |state: &State, s: usize| {
            let info = state.machine.capture_info(state.streams[s].id);
            info.is_some_and(|info| disturbed.contains(&info.id))
        };
        if !self.break_streams(in_one) {
            return Ok(());
        }
        let why = "a capture goes on, and its mode forbids calls that allocate or wait";
        Err(Error::new(Code::CaptureUnsupported, why))
    }
}

fn begin(stream: Handle, mode: c_int) -> Result<()> {
    let mode = Mode::of(mode)?;
    let mut state = state::lock()?;
    let stream = state.stream(stream)?;
    if stream == state.streams[stream].device {
        return Err(Error::new(Code::CaptureUnsupported, "the default stream cannot be captured"));
    }
    let id = state.streams[stream].id;
    state.machine.begin_capture(id)?;
    if let Some(info) = state.machine.capture_info(id) {
        state.captures.insert(info.id, Capture { thread: thread::current().id(), mode });
    }
    Ok(())
}

fn end(stream: Handle) -> Result<Handle> {
    let mut state = state::lock()?;
    let stream = state.stream(stream)?;
    let id = state.streams[stream].id;
    let number = state.machine.capture_info(id).map(|info| info.id);
    if let Some(Capture { thread, mode }) = number.and_then(|number| state.captures.get(&number))
        && *mode != Mode::Relaxed
        && *thread != thread::current().id()
    {
        return Err(Error::new(Code::CaptureWrongThread, "the capture began on another thread"));
    }
    let outcome = state.machine.end_capture(id);
    if let Some(number) = number
        && state.machine.capture_info(id).is_none()
    {
        state.captures.remove(&number);
    }
    let graph = outcome?;
    Ok(state.graphs.keep(graph))
}

/// Status and number of the capture a stream is part of.
fn status(stream: Handle) -> Result<(c_int, u64)> {
    let mut state = state::lock()?;
    let stream = state.stream(stream)?;
    state.refuse_implicit(stream)?;
    Ok(match state.machine.capture_info(state.streams[stream].id) {
        None => (NONE, 0),
        Some(info) if info.broken => (INVALIDATED, info.id),
        Some(info) => (ACTIVE, info.id),
    })
}

fn info(
    stream: Handle,
    out: (Out<c_int>, Out<u64>),
    graph: Out<Handle>,
    dependencies: Out<*const c_void>,
    count: Out<usize>,
) -> Result<()> {
    let (status, id) = status(stream)?;
    if status == ACTIVE && (!graph.is_null() || !dependencies.is_null()) {
        return Err(Error::new(Code::NotSupported, "the graph of a capture is handed out when it has ended"));
    }
    graph.put_if_wanted(0);
    dependencies.put_if_wanted(std::ptr::null());
    count.put_if_wanted(0);
    if status == ACTIVE {
        out.1.put_if_wanted(id);
    }
    out.0.put(status)
}

exports! {
    fn cuStreamBeginCapture_v2(stream: Handle, mode: c_int) {
        begin(stream, mode)
    }

    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        let ended = end(stream);
        graph.put(*ended.as_ref().unwrap_or(&0))?;
        ended.map(|_| ())
    }

    fn cuStreamIsCapturing(stream: Handle, out: Out<c_int>) {
        out.put(status(stream)?.0)
    }

    fn cuStreamGetCaptureInfo_v2(stream: Handle, status: Out<c_int>, id: Out<u64>, graph: Out<Handle>,
                                 dependencies: Out<*const c_void>, count: Out<usize>) {
        info(stream, (status, id), graph, dependencies, count)
    }

    fn cuStreamGetCaptureInfo_v3(stream: Handle, status: Out<c_int>, id: Out<u64>, graph: Out<Handle>,
                                 dependencies: Out<*const c_void>, edges: Out<*const c_void>, count: Out<usize>) {
        edges.put_if_wanted(std::ptr::null());
        info(stream, (status, id), graph, dependencies, count)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<c_int>) {
        let new = Mode::of(mode.get()?)?;
        mode.put(MODE.replace(new) as c_int)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_the_driver_s_numbers() {
        for (number, mode) in [(0, Mode::Global), (1, Mode::ThreadLocal), (2, Mode::Relaxed)] {
            assert_eq!(Mode::of(number).unwrap(), mode);
        }
        assert_eq!(Mode::of(3).unwrap_err().code, Code::InvalidValue);
    }
}
