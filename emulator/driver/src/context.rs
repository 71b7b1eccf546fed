//! Contexts: one per device, the primary one; each thread has a stack of them.

use std::ffi::{c_int, c_uint};

use crate::abi::{Handle, Out, exports};
use crate::device::VERSION;
use crate::error::{Code, Error, Result};
use crate::state::{self, CONTEXTS, Kind, handle, index};

/// The device of a context; null is none.
fn device_of(context: Handle) -> Result<Option<usize>> {
    if context == 0 {
        return Ok(None);
    }
    let device =
        index(Kind::Context, context).map_err(|error| Error::new(Code::InvalidContext, error.detail))?;
    state::lock()?.device(device as i32).map_err(|_| Error::quiet(Code::InvalidContext))?;
    Ok(Some(device))
}

fn context_of(device: Option<usize>) -> Handle {
    device.map_or(0, |device| handle(Kind::Context, device))
}

exports! {
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) {
        let mut state = state::lock()?;
        let device = state.device(device)?;
        state.retained[device] += 1;
        context.put(handle(Kind::Context, device))
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        let mut state = state::lock()?;
        let device = state.device(device)?;
        let count = &mut state.retained[device];
        *count = count.checked_sub(1).ok_or_else(|| Error::quiet(Code::InvalidContext))?;
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) {
        let state = state::lock()?;
        let device = state.device(device)?;
        flags.put_if_wanted(0);
        active.put_if_wanted((state.retained[device] > 0) as c_int);
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) {
        state::lock()?.device(device).map(|_| ())
    }

    /// Another context of a device is the same one again: there is one address space.
    fn cuCtxCreate_v2(context: Out<Handle>, _flags: c_uint, device: c_int) {
        let device = state::lock()?.device(device)?;
        CONTEXTS.with_borrow_mut(|stack| stack.push(Some(device)));
        context.put(handle(Kind::Context, device))
    }

    fn cuCtxDestroy_v2(context: Handle) {
        let device = device_of(context)?;
        CONTEXTS.with_borrow_mut(|stack| stack.pop_if(|top| *top == device));
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        context.put(context_of(CONTEXTS.with_borrow(|stack| stack.last().copied().flatten())))
    }

    fn cuCtxSetCurrent(context: Handle) {
        let device = device_of(context)?;
        CONTEXTS.with_borrow_mut(|stack| {
            stack.pop();
            stack.push(device);
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        let device = device_of(context)?;
        CONTEXTS.with_borrow_mut(|stack| stack.push(device));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        let popped = CONTEXTS.with_borrow_mut(Vec::pop).ok_or_else(|| Error::quiet(Code::InvalidContext))?;
        context.put_if_wanted(context_of(popped));
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<c_int>) {
        device.put(state::current()? as c_int)
    }

    fn cuCtxGetApiVersion(_context: Handle, version: Out<c_uint>) {
        version.put(VERSION as c_uint)
    }

    fn cuCtxGetFlags(flags: Out<c_uint>) {
        flags.put(0)
    }

    fn cuCtxSynchronize() {
        let device = state::current()?;
        let mut state = state::lock()?;
        state.may_wait_device(device)?;
        state.wait_device(device)
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) {
        // Stack, printf buffer, heap, and the rest.
        value.put(match limit {
            0 => 1024,
            1 => 1 << 20,
            2 => 8 << 20,
            _ => return Err(Error::quiet(Code::InvalidValue)),
        })
    }

    /// Nothing here has a limit that could be set.
    fn cuCtxSetLimit(_limit: c_uint, _value: usize) {
        Ok(())
    }

    fn cuCtxSetCacheConfig(_config: c_uint) {
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        least.put_if_wanted(0);
        greatest.put_if_wanted(-5);
        Ok(())
    }

    fn cuCtxEnablePeerAccess(peer: Handle, _flags: c_uint) {
        let peer = device_of(peer)?.ok_or_else(|| Error::quiet(Code::InvalidContext))?;
        let device = state::current()?;
        let mut state = state::lock()?;
        if state.machine.can_reach(device, peer) {
            return Err(Error::quiet(Code::PeerAlreadyEnabled));
        }
        Ok(state.machine.enable_peer_access(device, peer)?)
    }

    fn cuCtxDisablePeerAccess(peer: Handle) {
        let peer = device_of(peer)?.ok_or_else(|| Error::quiet(Code::InvalidContext))?;
        let device = state::current()?;
        let mut state = state::lock()?;
        if device == peer || !state.machine.can_reach(device, peer) {
            return Err(Error::quiet(Code::PeerNotEnabled));
        }
        Ok(state.machine.disable_peer_access(device, peer)?)
    }
}
