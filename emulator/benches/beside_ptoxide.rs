//! Speed beside `ptoxide` (crates.io), an interpreter of PTX for simple kernels: lane-instructions per second of both, in one run.
//!
//! Both run the same text: vector addition (once through every element), and a loop of integer and F32 arithmetic. Lane-instructions are
//! those this emulator counts. ptoxide checks nothing, so the fair comparison is with `no checks`; `all checks` is what tests use.

use std::sync::Arc;

use criterion::{Criterion, Throughput};
use hadal_emulator::ir::Module;
use hadal_emulator::{Checks, Launch, Machine, MachineConfig};
use ptoxide::{Argument, Context, LaunchParams};

const BLOCKS: u32 = 16;
const THREADS: u32 = 256;
const ELEMENTS: usize = (BLOCKS * THREADS) as usize;

/// `%r4` is the thread's index in the grid; `%f1` and `%f2` are its elements of `a` and `b`, `%f3` goes to `c`.
fn kernel(body: &str) -> String {
    format!(
        "
.version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c)
{{
    .reg .pred %p<2>;
    .reg .f32 %f<4>;
    .reg .b32 %r<10>;
    .reg .b64 %rd<12>;
    ld.param.u64 %rd2, [a];
    ld.param.u64 %rd3, [b];
    ld.param.u64 %rd4, [c];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    cvt.u64.u32 %rd1, %r4;
    shl.b64 %rd7, %rd1, 2;
    cvta.to.global.u64 %rd6, %rd2;
    add.s64 %rd8, %rd6, %rd7;
    cvta.to.global.u64 %rd9, %rd3;
    add.s64 %rd10, %rd9, %rd7;
    ld.global.f32 %f1, [%rd8];
    ld.global.f32 %f2, [%rd10];
    {body}
    cvta.to.global.u64 %rd11, %rd4;
    add.s64 %rd11, %rd11, %rd7;
    st.global.f32 [%rd11], %f3;
    ret;
}}
"
    )
}

const ADDITION: &str = "add.f32 %f3, %f1, %f2;";

const LOOP: &str = "mov.u32 %r5, 0;
    mov.u32 %r6, 3;
    add.f32 %f3, %f1, %f2;
$L__again:
    mul.lo.s32 %r6, %r6, %r4;
    add.s32 %r6, %r6, %r4;
    sub.f32 %f3, %f1, %f3;
    add.f32 %f3, %f3, %f2;
    add.f32 %f3, %f3, %f1;
    add.s32 %r5, %r5, 1;
    setp.lt.s32 %p1, %r5, 256;
    @%p1 bra $L__again;";

fn inputs() -> [Vec<f32>; 2] {
    [0.5f32, 2.0].map(|step| (0..ELEMENTS).map(|i| i as f32 / ELEMENTS as f32 * step).collect())
}

/// This emulator, ready to launch.
struct Ours {
    machine: Machine,
    launch: Box<dyn FnMut(&mut Machine)>,
    result: u64,
}

impl Ours {
    fn new(text: &str, checks: Checks) -> Ours {
        let mut machine = Machine::new(MachineConfig { checks, ..MachineConfig::default() });
        let module = Module::parse("k.ptx", text).expect("the kernel above is well-formed");
        let module = machine.load_module(0, Arc::new(module)).expect("a module without variables loads");
        let stream = machine.create_stream(0);
        let buffers = [(); 3].map(|()| machine.alloc(0, 4 * ELEMENTS as u64, 256).expect("a few kilobytes"));
        for (buffer, values) in buffers.iter().zip(inputs()) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            machine.write(*buffer, &bytes).expect("the allocation above");
        }
        let launch = Launch {
            grid: [BLOCKS, 1, 1],
            block: [THREADS, 1, 1],
            params: buffers.iter().flat_map(|b| b.to_le_bytes()).collect(),
            ..Launch::default()
        };
        let launch = move |machine: &mut Machine| {
            machine.launch(stream, module, "k", &launch).expect("the launch fits the device");
            machine.synchronize(stream).expect("the kernel has no fault");
        };
        Ours { machine, launch: Box::new(launch), result: buffers[2] }
    }

    fn run(&mut self) {
        (self.launch)(&mut self.machine);
    }

    fn result(&self) -> Vec<f32> {
        let mut bytes = vec![0; 4 * ELEMENTS];
        self.machine.read(self.result, &mut bytes).expect("the allocation above");
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("beside ptoxide");
    for (name, body) in [("addition", ADDITION), ("loop", LOOP)] {
        let text = kernel(body);
        let mut ours = Ours::new(&text, Checks::none());
        ours.run();
        group.throughput(Throughput::Elements(ours.machine.counters(0).thread_instructions));

        let mut context = Context::new_with_module(&text).expect("ptoxide knows these instructions");
        let buffers = [(); 3].map(|()| context.alloc::<f32>(ELEMENTS));
        for (buffer, values) in buffers.iter().zip(inputs()) {
            context.write(*buffer, &values);
        }
        let mut theirs = || {
            let launch = LaunchParams::func_id(0).grid1d(BLOCKS).block1d(THREADS);
            context.run(launch, &buffers.map(Argument::ptr)).expect("ptoxide runs them");
        };
        theirs();
        group.bench_function(format!("{name}/ptoxide"), |b| b.iter(&mut theirs));
        let mut result = vec![0.0; ELEMENTS];
        context.read(buffers[2], &mut result);
        assert_eq!(result, ours.result(), "{name}: both compute the same");

        group.bench_function(format!("{name}/hadal, no checks"), |b| b.iter(|| ours.run()));
        let mut ours = Ours::new(&text, Checks::all());
        group.bench_function(format!("{name}/hadal, all checks"), |b| b.iter(|| ours.run()));
    }
    group.finish();
    criterion.final_summary();
}
