//! Graphs: work that is enqueued once, into a graph instead of a stream, and then launched as often as one likes for the price of
//! one launch. A plan's run is made for this: it only enqueues, and what changes between replays (row counts, lengths) is read from
//! device memory.

use super::driver::RawGraphExec;
use super::{Device, Stream};
use crate::error::{Error, Result};

/// A capture under way. Dropped without [`Capture::end`], it is given up.
///
/// Meanwhile [`Stream::record`] and [`Stream::wait`] draw edges: another stream that waits for an event of the capture takes part in
/// it, and has to be waited for in turn before the capture ends. The capturing thread may not allocate, copy to or from the host or
/// wait, and no thread may drop a buffer of the device, which waits for all of it: that breaks the capture, and its end says so.
#[derive(Debug)]
#[must_use = "a capture that is not ended is given up"]
pub struct Capture<'a> {
    stream: &'a Stream,
    ended: bool,
    /// It ends on the thread it began on.
    not_send: std::marker::PhantomData<*const ()>,
}

/// Captured work, ready to be launched.
///
/// The driver's executable graphs are not for two threads at once, hence `&mut` in [`Graph::launch`]. A launch begins after the one
/// before it of the same graph has ended, whatever their streams.
#[derive(Debug)]
pub struct Graph {
    device: Device,
    raw: RawGraphExec,
}

impl Stream {
    /// From now on what is enqueued on this stream is captured and does not run. The default stream cannot be captured.
    pub fn begin_capture(&self) -> Result<Capture<'_>> {
        // SAFETY: the stream is live while it is borrowed.
        unsafe { self.device().driver().begin_capture(self.device().ordinal(), self.raw())? };
        Ok(Capture { stream: self, ended: false, not_send: std::marker::PhantomData })
    }

    /// Captures what a function enqueues on this stream, and on those that it forks to and joins. Its error ends the capture.
    ///
    /// ```no_run
    /// # fn main() -> hadal::Result<()> {
    /// # let device = hadal::Device::open_default()?;
    /// # let (attention, experts) = (|_: &hadal::Stream| Ok(()), |_: &hadal::Stream| Ok(()));
    /// let (stream, side) = (device.new_stream()?, device.new_stream()?);
    /// let mut graph = stream.capture(|stream| {
    ///     side.wait(&stream.record()?)?; // fork
    ///     attention(stream)?; // plan.run(stream, …)
    ///     experts(&side)?;
    ///     stream.wait(&side.record()?) // join
    /// })?;
    /// for _step in 0..100 {
    ///     // SAFETY: the buffers that the plans were given live on.
    ///     unsafe { graph.launch(&stream)? };
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn capture(&self, work: impl FnOnce(&Stream) -> Result<()>) -> Result<Graph> {
        let capture = self.begin_capture()?;
        work(self)?;
        capture.end()
    }
}

impl Capture<'_> {
    /// Ends the capture. Fails if a call broke it, or if a stream that takes part in it has work that was not waited for; the streams are
    /// ordinary ones again in any case.
    pub fn end(mut self) -> Result<Graph> {
        self.ended = true;
        let (device, stream) = (self.stream.device(), self.stream.raw());
        let (driver, ordinal) = (device.driver(), device.ordinal());
        // SAFETY: the stream is live while it is borrowed; the graph is destroyed once, when it has been instantiated or refused.
        unsafe {
            let graph = driver.end_capture(ordinal, stream)?;
            let exec = driver.instantiate_graph(ordinal, graph);
            let destroyed = driver.destroy_graph(ordinal, graph);
            let graph = Graph { device: device.clone(), raw: exec? };
            destroyed.map(|()| graph)
        }
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (device, stream) = (self.stream.device(), self.stream.raw());
        // SAFETY: as in `end`. Nobody wanted the graph, so nobody wants to know what was wrong with it.
        unsafe {
            if let Ok(graph) = device.driver().end_capture(device.ordinal(), stream) {
                let _ = device.driver().destroy_graph(device.ordinal(), graph);
            }
        }
    }
}

impl Graph {
    /// The device whose streams launch it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Enqueues all of the captured work behind what is in the stream. Into a stream that captures, it goes as a part of that graph.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] for a stream of another device; what the driver says otherwise. Failures of the kernels come back from a later
    /// wait, as for any launch.
    ///
    /// # Safety
    ///
    /// Everything the captured work was given lives until the launch has run: buffers (also those that were views or raw
    /// pointers), and the device's kernels, that is, the device. The graph keeps none of it alive but the device.
    pub unsafe fn launch(&mut self, stream: &Stream) -> Result<()> {
        if stream.device().id() != self.device.id() {
            return Err(Error::device("stream", self.device.id(), stream.device().id()));
        }
        // SAFETY: the graph is ours and borrowed mutably, the stream is live; the caller vouches for what was captured.
        unsafe { self.device.driver().launch_graph(self.device.ordinal(), self.raw, stream.raw()) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `instantiate_graph` on this device, and dropped once. A failure has nobody to go to here.
        let _ = unsafe { self.device.driver().destroy_graph_exec(self.device.ordinal(), self.raw) };
    }
}
