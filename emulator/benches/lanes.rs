//! Speed of the emulated threads: lane-instructions per second of small loops, with every check and with none.
//!
//! One lane-instruction is one instruction of one thread; a warp-instruction is 32. Each kernel runs 16 blocks of 256 threads; what is timed is `launch` and
//! `synchronize`, the module being loaded beforehand.

use std::sync::Arc;

use criterion::{Criterion, Throughput};
use hadal_emulator::ir::Module;
use hadal_emulator::{Checks, Launch, Machine, MachineConfig, ModuleId, StreamId};

const BLOCKS: u32 = 16;
const THREADS: u32 = 256;

/// A loop of 256 rounds around `body`. `%r0` is the thread's index in the grid, `%rd1` its own 4 bytes of global memory,
/// `%r5` its own 4 bytes of shared memory, `%r2` … `%r4` and `%f1` … `%f4` are free.
fn kernel(body: &str) -> String {
    format!(
        "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry loop(.param .u64 data)
{{
    .reg .b32 %r<12>;
    .reg .f32 %f<8>;
    .reg .b64 %rd<6>;
    .reg .pred %p<2>;
    .shared .align 16 .b8 tile[{shared}];
    mov.u32 %r0, %tid.x;
    mov.u32 %r6, %ctaid.x;
    mov.u32 %r8, tile;
    shl.b32 %r7, %r0, 2;
    add.s32 %r5, %r8, %r7;
    st.shared.u32 [%r5], %r0;
    mad.lo.s32 %r0, %r6, {THREADS}, %r0;
    ld.param.u64 %rd2, [data];
    cvta.to.global.u64 %rd2, %rd2;
    mul.wide.u32 %rd3, %r0, 4;
    add.s64 %rd1, %rd2, %rd3;
    mov.u32 %r2, %r0;
    mov.u32 %r3, 17;
    mov.u32 %r4, 3;
    mov.f32 %f1, 0f3F800000;
    mov.f32 %f2, 0f3F000000;
    mov.f32 %f3, 0f3E800000;
    mov.f32 %f4, 0f00000000;
    mov.u32 %r1, 0;
again:
{body}
    add.s32 %r1, %r1, 1;
    setp.lt.u32 %p1, %r1, 256;
    @%p1 bra again;
    cvt.rzi.u32.f32 %r9, %f1;
    add.s32 %r9, %r9, %r2;
    st.global.u32 [%rd1], %r9;
    ret;
}}
",
        shared = 4 * THREADS
    )
}

const INTEGER: &str = "
    add.s32 %r2, %r2, %r3;
    xor.b32 %r3, %r2, %r4;
    shl.b32 %r4, %r3, 1;
    mad.lo.s32 %r2, %r4, %r3, %r2;
    and.b32 %r3, %r2, 255;
    sub.s32 %r4, %r2, %r3;
    max.s32 %r2, %r4, %r3;
    or.b32 %r3, %r3, 1;";

const FLOAT: &str = "
    fma.rn.f32 %f1, %f1, %f2, %f3;
    fma.rn.f32 %f4, %f4, %f2, %f1;
    add.f32 %f1, %f4, %f3;
    mul.f32 %f4, %f1, %f2;
    fma.rn.f32 %f1, %f4, %f2, %f3;
    fma.rn.f32 %f4, %f1, %f2, %f3;
    max.f32 %f1, %f1, %f4;
    mul.f32 %f1, %f1, %f2;";

/// With the three instructions of the loop, one third of them access shared memory.
const SHARED: &str = "
    ld.shared.u32 %r3, [%r5];
    add.s32 %r3, %r3, %r2;
    st.shared.u32 [%r5], %r3;
    xor.b32 %r2, %r3, %r4;
    add.s32 %r4, %r4, 5;
    ld.shared.u32 %r3, [%r5];
    xor.b32 %r3, %r2, %r4;
    st.shared.u32 [%r5], %r3;
    xor.b32 %r2, %r3, %r4;";

const GLOBAL: &str = "
    ld.global.u32 %r3, [%rd1];
    add.s32 %r3, %r3, %r2;
    st.global.u32 [%rd1], %r3;
    xor.b32 %r2, %r3, %r4;
    add.s32 %r4, %r4, 5;
    xor.b32 %r3, %r2, %r4;";

const DIVERGENT: &str = "
    and.b32 %r3, %r2, 1;
    setp.eq.u32 %p1, %r3, 0;
    @%p1 bra even;
    mad.lo.s32 %r2, %r2, 3, 1;
    add.s32 %r4, %r4, 1;
    bra.uni joined;
even:
    shr.u32 %r2, %r2, 1;
    add.s32 %r4, %r4, %r3;
joined:
    add.s32 %r2, %r2, 2;";

struct Bench {
    machine: Machine,
    module: ModuleId,
    stream: StreamId,
    launch: Launch,
}

impl Bench {
    fn new(text: &str, checks: Checks) -> Bench {
        let mut machine = Machine::new(MachineConfig { checks, ..MachineConfig::default() });
        let module = Module::parse("lanes.ptx", text).expect("the kernel above is well-formed");
        let module = machine.load_module(0, Arc::new(module)).expect("a module without variables loads");
        let stream = machine.create_stream(0);
        let bytes = u64::from(4 * BLOCKS * THREADS);
        let data = machine.alloc(0, bytes, 256).expect("a few kilobytes");
        machine.fill(data, 1, bytes).expect("the allocation above");
        let launch = Launch {
            grid: [BLOCKS, 1, 1],
            block: [THREADS, 1, 1],
            cluster: None,
            dynamic_shared: 0,
            params: data.to_le_bytes().to_vec(),
            programmatic: false,
            cooperative: false,
            registers: None,
        };
        Bench { machine, module, stream, launch }
    }

    fn run(&mut self) {
        self.machine
            .launch(self.stream, self.module, "loop", &self.launch)
            .expect("the launch fits the device");
        self.machine.synchronize(self.stream).expect("the kernel has no fault");
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("lanes");
    for (name, body) in [
        ("integer", INTEGER),
        ("float", FLOAT),
        ("shared", SHARED),
        ("global", GLOBAL),
        ("divergent", DIVERGENT),
    ] {
        for (checks_name, checks) in [("all checks", Checks::all()), ("no checks", Checks::none())] {
            let mut bench = Bench::new(&kernel(body), checks);
            bench.run();
            group.throughput(Throughput::Elements(bench.machine.counters(0).thread_instructions));
            group.bench_function(format!("{name}/{checks_name}"), |b| b.iter(|| bench.run()));
        }
    }
    group.finish();
    criterion.final_summary();
}
