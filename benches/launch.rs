//! What a launch costs the host: planning, and enqueuing a planned product.
//!
//! Host time, measured: everything the library does, against a driver that does nothing, so that no driver's own time is in
//! it. (On a GPU the driver's part comes on top: encoding four tensor maps and `cuLaunchKernelEx`.)

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::Criterion;
use hadal::device::Driver;
use hadal::device::driver::{Attribute, Image, RawEvent, RawFunction, RawModule, RawStream};
use hadal::device::launch::{LaunchConfig, ParamBuffer};
use hadal::device::map::{TensorMap, TensorMapSpec};
use hadal::{Device, Result, gemm};

use support::{BATCHES, LAYERS, Operands};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    launch(&mut criterion).unwrap_or_else(|error| panic!("{error}"));
    criterion.final_summary();
}

fn launch(criterion: &mut Criterion) -> Result<()> {
    let device = Device::from_driver(Arc::new(Idle::default()), 0)?;
    let stream = device.new_stream()?;
    let mut group = criterion.benchmark_group("host time");
    for (&m, &(layer, n, k)) in BATCHES.iter().zip(LAYERS) {
        let (shape, options) = (gemm::Shape::new(m, n, k), gemm::Options::new());
        let name = format!("{layer}/{m}x{n}x{k}");
        // The first plan loads the kernel; that is paid once per process.
        let plan = gemm::Plan::new(&device, shape, options)?;
        group.bench_function(format!("Plan::new/{name}"), |bencher| {
            bencher.iter(|| gemm::Plan::new(&device, black_box(shape), options));
        });
        let mut operands = Operands::new(&device, &stream, shape)?;
        group.bench_function(format!("Plan::run/{name}"), |bencher| {
            bencher.iter(|| operands.run(black_box(&plan), &stream));
        });
    }
    group.finish();
    Ok(())
}

/// A Hopper that accepts everything and does nothing.
#[derive(Debug, Default)]
struct Idle {
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
