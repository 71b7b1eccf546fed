//! The same memory on every rank.

use std::sync::Arc;

use super::{Team, Window};
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};

/// The same number of bytes on every rank of a team, zero to begin with.
///
/// Lives until it and every [`Window`] of it are gone; then all ranks are waited for before any memory is freed, since a kernel of
/// one rank may still be writing to another's.
#[derive(Debug, Clone)]
pub struct SymmetricBuffer {
    memory: Arc<Memory>,
    windows: Vec<Window>,
}

/// The allocations, in rank order.
#[derive(Debug)]
pub(super) struct Memory {
    buffers: Vec<Buffer<u8>>,
}

impl SymmetricBuffer {
    /// Allocates `bytes` bytes on every rank, at multiples of 256, and sets them to zero.
    pub fn new(team: &Team, bytes: usize) -> Result<SymmetricBuffer> {
        if bytes == 0 {
            return Err(Error::shape("bytes", "at least one byte", bytes));
        }
        let mut buffers = Vec::with_capacity(team.ranks());
        for device in team.devices() {
            let stream = device.default_stream();
            let mut buffer = device.alloc::<u8>(bytes)?;
            buffer.fill_bytes(&stream, 0)?;
            stream.synchronize()?;
            buffers.push(buffer);
        }
        let bases: Vec<u64> = buffers.iter().map(Buffer::address).collect();
        let memory = Arc::new(Memory { buffers });
        let window = |(rank, device): (usize, &Device)| {
            Window::new(device, rank, bases.clone(), bytes as u64, Some(memory.clone()))
        };
        let windows = team.devices().iter().enumerate().map(window).collect::<Result<_>>()?;
        Ok(SymmetricBuffer { memory, windows })
    }

    /// Bytes on each rank.
    pub fn bytes(&self) -> u64 {
        self.memory.buffers[0].len() as u64
    }

    /// What rank `rank` sees. `None` if there is no such rank.
    pub fn window(&self, rank: usize) -> Option<&Window> {
        self.windows.get(rank)
    }

    /// What each rank sees, in rank order.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Freeing waits for the device that owns the memory and not for its peers, so wait for all of them first: freeing anything
        // of a device does. A failure of their work is sticky and comes back at the next wait.
        let waited = self.buffers.iter().all(|buffer| buffer.device().alloc::<u8>(1).is_ok());
        if !waited {
            // A peer may still be writing: better lost than given to somebody else.
            self.buffers.drain(..).for_each(std::mem::forget);
        }
    }
}
