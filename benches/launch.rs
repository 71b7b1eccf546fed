//! What a launch costs the host: planning, and enqueuing a planned product.
//!
//! Host time, measured: everything the library does, against a driver that does nothing, so that no driver's own time is in
//! it. (On a GPU the driver's part comes on top: encoding four tensor maps and `cuLaunchKernelEx`.)

#[path = "../tests/support/idle.rs"]
mod idle;
mod support;

use std::hint::black_box;
use std::sync::Arc;

use criterion::Criterion;
use hadal::{Device, Result, gemm};

use idle::Idle;
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
