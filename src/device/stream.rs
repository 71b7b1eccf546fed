//! Streams and events.
//!
//! A [`Stream`] is either ours (made by [`Device::new_stream`], destroyed on drop) or a handle an engine already has
//! ([`Stream::from_raw`]). The handle is passed on as it is and never stored in a plan: CUDA's per-thread default
//! stream, `0x2`, means another stream on each thread.

use super::Device;
use super::driver::{RawEvent, RawStream};
use crate::error::Result;

/// A queue of work on one device.
#[derive(Debug)]
pub struct Stream {
    device: Device,
    raw: RawStream,
    owned: bool,
}

impl Device {
    /// A new stream, independent of the default one.
    pub fn new_stream(&self) -> Result<Stream> {
        let raw = self.driver().create_stream(self.ordinal())?;
        Ok(Stream { device: self.clone(), raw, owned: true })
    }

    /// The device's default stream.
    pub fn default_stream(&self) -> Stream {
        Stream { device: self.clone(), raw: RawStream(0), owned: false }
    }
}

impl Stream {
    /// A stream somebody else owns: for CUDA, the `CUstream` or `cudaStream_t` as a number.
    ///
    /// # Safety
    ///
    /// `handle` is a stream of `device` and outlives the returned value.
    pub unsafe fn from_raw(device: &Device, handle: u64) -> Stream {
        Stream { device: device.clone(), raw: RawStream(handle), owned: false }
    }

    /// The device the stream belongs to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The driver's handle.
    pub fn raw(&self) -> RawStream {
        self.raw
    }

    /// Waits until everything in the stream has run. Failures of earlier launches come back here.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is live: ours until drop, or promised by the caller of `from_raw`.
        unsafe { self.device.driver().synchronize(self.device.ordinal(), self.raw) }
    }

    /// Marks the present end of the stream.
    pub fn record(&self) -> Result<Event> {
        let event = Event {
            raw: self.device.driver().create_event(self.device.ordinal())?,
            device: self.device.clone(),
        };
        // SAFETY: the event was just made on the stream's device, and the stream is live as above.
        unsafe { self.device.driver().record_event(self.device.ordinal(), event.raw, self.raw)? };
        Ok(event)
    }

    /// Makes later work in this stream wait for an event of the same device.
    pub fn wait(&self, event: &Event) -> Result<()> {
        if event.device.id() != self.device.id() {
            return Err(crate::Error::device("event", self.device.id(), event.device.id()));
        }
        // SAFETY: both belong to the device, checked above, and live while borrowed.
        unsafe { self.device.driver().wait_event(self.device.ordinal(), self.raw, event.raw) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: made by `create_stream` on this device, and dropped once. A failure has nobody to go to here; it
            // is sticky and comes back at the next wait.
            let _ = unsafe { self.device.driver().destroy_stream(self.device.ordinal(), self.raw) };
        }
    }
}

/// A point in a stream.
#[derive(Debug)]
pub struct Event {
    device: Device,
    raw: RawEvent,
}

impl Event {
    /// Milliseconds from this event to a later one, waiting for it. Only a GPU has a clock; the emulator refuses.
    pub fn elapsed_ms(&self, later: &Event) -> Result<f32> {
        if later.device.id() != self.device.id() {
            return Err(crate::Error::device("later", self.device.id(), later.device.id()));
        }
        // SAFETY: both events were recorded when they were made, on this device, and live while borrowed.
        unsafe { self.device.driver().elapsed_ms(self.device.ordinal(), self.raw, later.raw) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `create_event` on this device, and dropped once.
        let _ = unsafe { self.device.driver().destroy_event(self.device.ordinal(), self.raw) };
    }
}
