//! Clusters: distributed shared memory, remote arrivals, multicast, `st.async`, `red.async`, bulk copies and reductions between blocks.

mod machine_support;
use hadal_emulator::tma::{DataType, Swizzle};
use hadal_emulator::{Class, Launch};
use machine_support::*;

/// Waits for a phase of the mbarrier at `%bar`.
fn wait(label: &str, parity: u32) -> String {
    format!(
        "{label}: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p, [%bar], {parity};
    @!%p bra {label};"
    )
}

const CLUSTER_SYNC: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

/// Registers, the mbarrier made ready for the cluster, `%peer` the other block of two.
fn opening(count: u32) -> String {
    format!(
        "
    .reg .b32 %bar, %data, %tid, %rank, %peer, %at, %v, %w, %far, %farbar;
    .reg .b64 %in, %out, %x, %y;
    .reg .b16 %both;
    .reg .pred %p, %first;
    mov.u32 %bar, full;
    mov.u32 %data, data;
    mov.u32 %tid, %tid.x;
    mov.u32 %rank, %cluster_ctarank;
    xor.b32 %peer, %rank, 1;
    setp.eq.u32 %first, %tid, 0;
    @%first mbarrier.init.shared::cta.b64 [%bar], {count};
    @%first fence.mbarrier_init.release.cluster;
    {CLUSTER_SYNC}"
    )
}

const SHARED: &str = ".shared .align 1024 .b8 data[2048]; .shared .align 8 .b64 full;";

fn pair(threads: u32, params: Vec<u8>) -> Launch {
    Launch { grid: [2, 1, 1], block: [threads, 1, 1], cluster: Some([2, 1, 1]), params, ..Launch::default() }
}

/// Runs a pair of blocks under every policy; the parameters are an input and an output.
fn run_pair(text: &str, threads: u32, input: &[u32], expected: &[u32]) {
    for config in configs() {
        let mut bench = Bench::with(config, text);
        let input = bench.words(input);
        let out = bench.blank(4 * expected.len() as u64);
        bench.launch(pair(threads, params(&[], &[input, out]))).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(bench.read_words(out, expected.len()), expected);
    }
}

/// Stores thread `tid` of block `rank`: `out[rank * threads + tid] = %v`.
fn store(threads: u32) -> String {
    format!(
        "
    ld.param.u64 %out, [p1];
    mad.lo.u32 %at, %rank, {threads}, %tid;
    mad.wide.u32 %out, %at, 4, %out;
    st.global.u32 [%out], %v;"
    )
}

#[test]
fn a_word_in_the_peer_and_a_remote_arrival() {
    let text = module(
        2,
        SHARED,
        &format!(
            "{}
    // Own and far addresses differ in bit 24; mapa, getctarank and the generic window agree.
    mapa.shared::cluster.u32 %far, %data, %peer;
    xor.b32 %v, %far, %data;
    setp.ne.u32 %p, %v, 0x1000000;
    @%p trap;
    getctarank.shared::cluster.u32 %v, %far;
    setp.ne.u32 %p, %v, %peer;
    @%p trap;
    cvt.u64.u32 %x, %data;
    cvta.shared.u64 %x, %x;
    mapa.u64 %y, %x, %peer;
    mapa.shared::cluster.u32 %farbar, %bar, %peer;
    shl.b32 %at, %tid, 2;
    mad.lo.u32 %v, %rank, 100, %tid;
    add.u32 %far, %far, %at;
    st.shared::cluster.u32 [%far], %v;
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%farbar];
    {}
    add.u32 %at, %at, %data;
    ld.shared.u32 %v, [%at];
    // And back through a generic address, as an atomic: every thread adds 1000 to its word of the peer.
    {CLUSTER_SYNC}
    cvt.u64.u32 %x, %tid;
    shl.b64 %x, %x, 2;
    add.u64 %y, %y, %x;
    atom.relaxed.cluster.add.u32 %w, [%y], 1000;
    {CLUSTER_SYNC}
    ld.shared.u32 %w, [%at];
    sub.u32 %w, %w, 1000;
    setp.ne.u32 %p, %w, %v;
    @%p trap;
    {}
    ret;",
            opening(32),
            wait("loop", 0),
            store(32)
        ),
    );
    let expected: Vec<u32> = (0..32).map(|t| 100 + t).chain(0..32).collect();
    run_pair(&text, 32, &[0], &expected);
}

/// Rank 0 loads one tile of 8 rows of 128 bytes for both: each block's own mbarrier counts its bytes.
#[test]
fn multicast_signals_every_block() {
    let text = module_with_maps(
        1,
        2,
        SHARED,
        &format!(
            "{}
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 1024;
    {CLUSTER_SYNC}
    mov.b64 %x, m0;
    cvta.param.u64 %x, %x;
    setp.eq.and.u32 %p, %rank, 0, %first;
    mov.u16 %both, 3;
    @%p cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%data], [%x, {{0, 8}}], [%bar], %both;
    {}
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %data;
    ld.shared.u32 %v, [%at];
    {}
    {CLUSTER_SYNC}
    ret;",
            opening(1),
            wait("loop", 0),
            store(256)
        ),
    );
    for config in configs() {
        let mut bench = Bench::with(config, &text);
        let words: Vec<u32> = (0..512).collect();
        let input = bench.words(&words);
        let out = bench.blank(2048);
        let map = matrix_map(DataType::U32, input, [32, 16], [32, 8], Swizzle::None);
        bench.launch(pair(256, params(&[map], &[input, out]))).unwrap_or_else(|f| panic!("{f}"));
        let tile: Vec<u32> = (256..512).collect();
        assert_eq!(bench.read_words(out, 512), [tile.clone(), tile].concat());
    }
}

#[test]
fn st_async_and_red_async() {
    // 32 threads send 4 bytes each, then add 5 to the first word of each; 128 + 128 bytes in two phases.
    let text = module(
        2,
        SHARED,
        &format!(
            "{}
    mapa.shared::cluster.u32 %far, %data, %peer;
    mapa.shared::cluster.u32 %farbar, %bar, %peer;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 128;
    shl.b32 %at, %tid, 2;
    add.u32 %far, %far, %at;
    mad.lo.u32 %v, %rank, 100, %tid;
    st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%far], %v, [%farbar];
    {}
    {CLUSTER_SYNC}
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 128;
    red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%far], 5, [%farbar];
    {}
    add.u32 %at, %at, %data;
    ld.shared.u32 %v, [%at];
    {}
    {CLUSTER_SYNC}
    ret;",
            opening(1),
            wait("one", 0),
            wait("two", 1),
            store(32)
        ),
    );
    let expected: Vec<u32> = (0..32).map(|t| 105 + t).chain((0..32).map(|t| 5 + t)).collect();
    run_pair(&text, 32, &[0], &expected);
}

#[test]
fn bulk_copies_and_reductions_between_blocks() {
    // Each block fills 128 bytes, sends them to the peer's second kilobyte, and then adds them to what it sent.
    let send = |op: &str, ty: &str| {
        format!(
            "@%first {op}.shared::cluster.shared::cta.mbarrier::complete_tx::bytes{ty} [%far], [%data], 128, [%farbar];"
        )
    };
    let text = module(
        2,
        SHARED,
        &format!(
            "{}
    mapa.shared::cluster.u32 %far, %data, %peer;
    add.u32 %far, %far, 1024;
    mapa.shared::cluster.u32 %farbar, %bar, %peer;
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 128;
    shl.b32 %at, %tid, 2;
    add.u32 %at, %at, %data;
    mad.lo.u32 %v, %rank, 100, %tid;
    st.shared.u32 [%at], %v;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    {}
    {}
    {CLUSTER_SYNC}
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 128;
    {}
    {}
    ld.shared.u32 %v, [%at+1024];
    {}
    {CLUSTER_SYNC}
    ret;",
            opening(1),
            send("cp.async.bulk", ""),
            wait("one", 0),
            send("cp.reduce.async.bulk", ".add.u32"),
            wait("two", 1),
            store(32)
        ),
    );
    let expected: Vec<u32> = (0..32).map(|t| 2 * (100 + t)).chain((0..32).map(|t| 2 * t)).collect();
    run_pair(&text, 32, &[0], &expected);
}

#[test]
fn the_mbarrier_of_a_send_lies_beside_its_target() {
    let text = module(
        2,
        SHARED,
        &format!(
            "{}
    mapa.shared::cluster.u32 %far, %data, %peer;
    mov.u32 %v, 0;
    @%first st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%far], %v, [%bar];
    {CLUSTER_SYNC}
    ret;",
            opening(1)
        ),
    );
    let mut bench = Bench::new(&text);
    let fault = bench.launch(pair(32, params(&[], &[0, 0]))).unwrap_err();
    assert_eq!(fault.report.class, Class::AsyncCopy, "{fault}");
    assert!(fault.report.place.ptx_text.contains("st.async"));
}
