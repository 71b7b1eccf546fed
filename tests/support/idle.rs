//! A driver that does nothing, and so costs nothing: what is left is the library's own.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use hadal::Result;
use hadal::device::Driver;
use hadal::device::driver::{Attribute, Image, RawEvent, RawFunction, RawModule, RawStream};
use hadal::device::launch::{LaunchConfig, ParamBuffer};
use hadal::device::map::{TensorMap, TensorMapSpec};

/// A Hopper that accepts everything and does nothing.
#[derive(Debug, Default)]
pub struct Idle {
    allocated: AtomicU64,
}

impl Driver for Idle {
    fn backend(&self) -> &'static str {
        "idle"
    }

    fn device_count(&self) -> Result<u32> {
        Ok(1)
    }

    fn device_name(&self, _device: u32) -> Result<String> {
        Ok("idle".into())
    }

    fn attribute(&self, _device: u32, attribute: Attribute) -> Result<i32> {
        Ok(match attribute {
            Attribute::Multiprocessors => 132,
            Attribute::CapabilityMajor => 9,
            Attribute::SharedPerBlock => 232_448,
            _ => 0,
        })
    }

    fn alloc(&self, _device: u32, bytes: u64) -> Result<u64> {
        Ok((1 << 40) + self.allocated.fetch_add(bytes.next_multiple_of(256), Ordering::Relaxed))
    }

    unsafe fn free(&self, _device: u32, _address: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn copy_to_device(&self, _device: u32, _to: u64, _from: &[u8], _stream: RawStream) -> Result<()> {
        Ok(())
    }

    unsafe fn copy_to_host(
        &self,
        _device: u32,
        _to: &mut [u8],
        _from: u64,
        _stream: RawStream,
    ) -> Result<()> {
        Ok(())
    }

    unsafe fn fill(&self, _device: u32, _to: u64, _value: u8, _bytes: u64, _stream: RawStream) -> Result<()> {
        Ok(())
    }

    fn load_module(&self, _device: u32, _image: &Image<'_>) -> Result<RawModule> {
        Ok(RawModule(1))
    }

    fn function(&self, _device: u32, _module: RawModule, _entry: &str) -> Result<RawFunction> {
        Ok(RawFunction(1))
    }

    fn allow_dynamic_shared(&self, _device: u32, _function: RawFunction, _bytes: u32) -> Result<()> {
        Ok(())
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        black_box(spec);
        Ok(TensorMap([0; 16]))
    }

    unsafe fn launch(
        &self,
        _device: u32,
        _function: RawFunction,
        config: &LaunchConfig,
        params: &ParamBuffer,
    ) -> Result<()> {
        black_box((config, params));
        Ok(())
    }

    fn enable_peer_access(&self, _device: u32, _peer: u32) -> Result<()> {
        Ok(())
    }

    fn create_stream(&self, _device: u32) -> Result<RawStream> {
        Ok(RawStream(1))
    }

    unsafe fn destroy_stream(&self, _device: u32, _stream: RawStream) -> Result<()> {
        Ok(())
    }

    unsafe fn synchronize(&self, _device: u32, _stream: RawStream) -> Result<()> {
        Ok(())
    }

    fn create_event(&self, _device: u32) -> Result<RawEvent> {
        Ok(RawEvent(1))
    }

    unsafe fn destroy_event(&self, _device: u32, _event: RawEvent) -> Result<()> {
        Ok(())
    }

    unsafe fn record_event(&self, _device: u32, _event: RawEvent, _stream: RawStream) -> Result<()> {
        Ok(())
    }

    unsafe fn wait_event(&self, _device: u32, _stream: RawStream, _event: RawEvent) -> Result<()> {
        Ok(())
    }

    unsafe fn elapsed_ms(&self, _device: u32, _start: RawEvent, _end: RawEvent) -> Result<f32> {
        Ok(0.0)
    }
}
