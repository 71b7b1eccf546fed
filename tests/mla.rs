//! MLA decoding on the emulator against the F64 reference, within FlashMLA's tolerances; and the cache writer, bit for bit.
//!
//! Pages are shuffled, what lies in a request's last page behind its end is NaN, pages nobody owns are NaN, and table entries past
//! a request's length are poison. Outputs are painted with NaN inside red zones; each case runs twice and gives the same bits.

#![cfg(feature = "emulator")]

mod support;

use hadal::mla::{Args, HEAD, LATENT, LseBase, Options, Plan, Shape, cache, reference};
use hadal::{Device, Stream, bf16};
use proptest::prelude::*;
use support::{
    MACHINES, Random, assert_clean, cases, device_at_random, device_of, device_on, machines, schedules,
};

/// An index no block table may lead the kernel to.
const POISON: i32 = 2_147_480_000;

#[derive(Debug, Clone)]
struct Case {
    lengths: Vec<i32>,
    /// What the device finds in place of these lengths.
    told: Option<Vec<i32>>,
    query_tokens: usize,
    heads: usize,
    page: usize,
    causal: bool,
    base: LseBase,
    sms: u32,
    invariant: Option<usize>,
    /// Columns between rows of q, cache and out.
    gaps: [usize; 3],
    /// Factor of the inputs: large ones make one token win.
    spread: f32,
    /// Whether some table entries are no pages of the cache.
    strange: bool,
    seed: u64,
}

impl Case {
    fn new(lengths: &[i32], heads: usize) -> Case {
        Case {
            lengths: lengths.to_vec(),
            told: None,
            query_tokens: 1,
            heads,
            page: 64,
            causal: false,
            base: LseBase::E,
            sms: 132,
            invariant: None,
            gaps: [0; 3],
            spread: 1.0,
            strange: false,
            seed: 1,
        }
    }

    fn options(&self) -> Options {
        let options = Options::new(SCALE).causal(self.causal).lse_base(self.base).sms(self.sms);
        match self.invariant {
            Some(tokens) => options.batch_invariant(true).split_tokens(tokens),
            None => options,
        }
    }
}

const SCALE: f32 = 0.07216878; // 1 / sqrt(192)

/// What a run gave, as it lies in memory.
#[derive(Clone, PartialEq, Debug)]
struct Got {
    out: Vec<u16>,
    lse: Vec<u32>,
}

/// A cache with shuffled pages for these lengths, and the table that finds them.
fn paged(
    lengths: &[i32],
    page: usize,
    seed: u64,
    value: impl Fn(&mut Random) -> bf16,
) -> (Vec<bf16>, Vec<i32>, usize) {
    let random = &mut Random(seed);
    let pages_of = |length: i32| (length.max(0) as usize).div_ceil(page);
    let width = lengths.iter().map(|&n| pages_of(n)).max().unwrap_or(0) + 2;
    let used: usize = lengths.iter().map(|&n| pages_of(n)).sum();
    let pages = used + 3;
    let mut order: Vec<usize> = (0..pages).collect();
    for i in (1..pages).rev() {
        order.swap(i, random.below(i + 1));
    }
    let mut table = vec![POISON; lengths.len() * width];
    let mut cache = vec![bf16::NAN; pages * page * HEAD];
    let mut next = order.into_iter();
    for (request, &length) in lengths.iter().enumerate() {
        for at in 0..pages_of(length) {
            let at_page = next.next().unwrap();
            // A page's numbers are those of its request and place, whatever else is in the batch.
            let random = &mut Random(seed + (request << 32 | at) as u64);
            table[request * width + at] = at_page as i32;
            for token in at * page..((at + 1) * page).min(length as usize) {
                let row = at_page * page + token % page;
                for x in &mut cache[row * HEAD..][..HEAD] {
                    *x = value(random);
                }
            }
        }
    }
    (cache, table, width)
}

/// Puts entries that are no pages into a table, in every other place: negative ones, the first past the cache, ones whose rows would be those of
/// page 0 again in 32 bits, and the ends of the range.
fn estrange(table: &mut [i32], pages: usize, page: usize) {
    // Pages of more than one token: of those of one, none is around.
    let around = (1u64 << 32).div_ceil(page as u64) as u32 as i32;
    let strange = [-1, pages as i32, around, i32::MAX, i32::MIN, around.wrapping_neg()];
    for (entry, strange) in table.iter_mut().step_by(2).zip(strange.iter().cycle()) {
        *entry = *strange;
    }
}

/// Spreads rows apart; what lies between is NaN.
fn pitched(values: &[bf16], cols: usize, gap: usize) -> Vec<bf16> {
    let mut all = Vec::with_capacity(values.len() / cols * (cols + gap) + 8);
    for row in values.chunks(cols) {
        all.extend_from_slice(row);
        all.extend(std::iter::repeat_n(bf16::NAN, gap));
    }
    all
}

/// Runs a case twice, compares with the reference and the paint, and returns the bits.
fn check(device: &Device, stream: &Stream, case: &Case) -> Got {
    let spread = case.spread;
    let value = |random: &mut Random| bf16::from_f32((random.normal() / 10.0).clamp(-1.0, 1.0) * spread);
    let requests = case.lengths.len();
    let rows = requests * case.query_tokens * case.heads;
    let (cache, mut table, width) = paged(&case.lengths, case.page, case.seed, value);
    if case.strange {
        estrange(&mut table, cache.len() / HEAD / case.page, case.page);
    }
    let random = &mut Random(case.seed);
    let q: Vec<bf16> = (0..rows * HEAD).map(|_| value(random)).collect();
    let problem = reference::Problem {
        query_tokens: case.query_tokens,
        heads: case.heads,
        page: case.page,
        causal: case.causal,
        softmax_scale: SCALE as f64,
        q: &q,
        cache: &cache,
        block_table: &table,
        cache_seqlens: &case.lengths,
    };
    let expected = problem.results().unwrap();

    let most = case.lengths.iter().copied().max().unwrap_or(0).max(1) as usize;
    let shape = Shape::new(requests, case.heads, most).query_tokens(case.query_tokens).page(case.page);
    let plan = Plan::new(device, shape, case.options()).unwrap();
    let [q_pitch, cache_pitch] = [HEAD + case.gaps[0], HEAD + case.gaps[1]];
    let out_pitch = LATENT + case.gaps[2];
    let q = device.upload(stream, &pitched(&q, HEAD, case.gaps[0])).unwrap();
    let cache_rows = cache.len() / HEAD;
    let cache = device.upload(stream, &pitched(&cache, HEAD, case.gaps[1])).unwrap();
    let table = device.upload(stream, &table).unwrap();
    let lengths = device.upload(stream, case.told.as_ref().unwrap_or(&case.lengths)).unwrap();
    let mut got: Option<Got> = None;
    for _ in 0..2 {
        let mut out = device.alloc::<bf16>(8 + rows * out_pitch + 16).unwrap();
        let mut lse = device.alloc::<f32>(4 + rows + 4).unwrap();
        let bytes = plan.workspace().bytes;
        let mut workspace = device.alloc::<u8>(bytes.max(16)).unwrap();
        out.fill_bytes(stream, 0xff).unwrap();
        lse.fill_bytes(stream, 0xff).unwrap();
        workspace.fill_bytes(stream, 0xff).unwrap();
        let args = Args::new(
            q.view(0, [rows, HEAD], [q_pitch, 1]).unwrap(),
            cache.view(0, [cache_rows, HEAD], [cache_pitch, 1]).unwrap(),
            table.matrix(requests, width).unwrap(),
            lengths.matrix(1, requests).unwrap(),
            out.view_mut(8, [rows, LATENT], [out_pitch, 1]).unwrap(),
            lse.view_mut(4, [requests * case.query_tokens, case.heads], [case.heads, 1]).unwrap(),
        );
        plan.run(stream, args.workspace(workspace.matrix_mut(1, bytes.max(16)).unwrap())).unwrap();
        let all = out.to_vec(stream).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        let all_lse = lse.to_vec(stream).unwrap();
        for (at, x) in all.iter().enumerate() {
            let inside = at >= 8 && (at - 8) / out_pitch < rows && (at - 8) % out_pitch < LATENT;
            assert!(inside || x.to_bits() == 0xffff, "a store outside out, element {at}; {case:?}");
        }
        for (at, x) in all_lse.iter().enumerate() {
            let inside = (4..4 + rows).contains(&at);
            assert!(inside || x.to_bits() == u32::MAX, "a store outside lse, element {at}; {case:?}");
        }
        let out: Vec<bf16> =
            (0..rows).flat_map(|row| all[8 + row * out_pitch..][..LATENT].to_vec()).collect();
        let lse = &all_lse[4..4 + rows];
        compare(case, &out, lse, &expected);
        let bits = Got {
            out: out.iter().map(|x| x.to_bits()).collect(),
            lse: lse.iter().map(|x| x.to_bits()).collect(),
        };
        assert!(got.is_none_or(|got| got == bits), "two runs differ; {case:?}");
        got = Some(bits);
    }
    assert_clean(device);
    got.unwrap()
}

/// FlashMLA's tolerances: each element absolute or relative, all together by the cosine.
fn compare(case: &Case, out: &[bf16], lse: &[f32], expected: &reference::Attention) {
    let unit = if case.base == LseBase::Two { std::f64::consts::LN_2 } else { 1.0 };
    for (row, (&got, &want)) in lse.iter().zip(&expected.lse).enumerate() {
        let want = want / unit;
        if want == f64::NEG_INFINITY {
            assert_eq!(got, f32::NEG_INFINITY, "lse of row {row}; {case:?}");
            continue;
        }
        let error = (got as f64 - want).abs();
        assert!(
            error < 1e-6 / unit || error < want.abs() * 8.01 / 65536.0,
            "lse of row {row}: {got} {want}; {case:?}"
        );
    }
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (at, (got, &want)) in out.iter().zip(&expected.out).enumerate() {
        let got = got.to_f64();
        let error = (got - want).abs();
        let relative = error / want.abs().max(got.abs());
        assert!(
            error <= 8e-4 * case.spread.max(1.0) as f64 || relative < 2.01 / 128.0,
            "out[{}, {}]: {got} {want}; {case:?}",
            at / LATENT,
            at % LATENT
        );
        ab += got * want;
        aa += got * got;
        bb += want * want;
    }
    let difference = if aa + bb == 0.0 { 0.0 } else { 1.0 - 2.0 * ab / (aa + bb) };
    assert!(difference < 5e-6, "difference {difference:e}; {case:?}");
}

/// Split requests and whole ones, rows past a tile, on every kind of machine; then the writer.
#[test]
fn every_row_forced() {
    for which in 0..MACHINES {
        let (device, stream) = device_of(which, 1);
        let case = Case { query_tokens: 2, causal: true, sms: 5, ..Case::new(&[300, 0, 65, 129], 40) };
        check(&device, &stream, &case);
        check_append(&device, &stream, &Append::new(&[3, 64, 65], 2));
    }
    let (device, _) = device_of(0, 1);
    let plan = Plan::new(&device, Shape::new(4, 40, 300), Options::new(1.0)).unwrap();
    assert_eq!(plan.kernels(), ["hadal_mla_decode_bf16_paged_m64_sm90a", "hadal_mla_combine_bf16_sm90a"]);
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules a kernel, .ci/full 100"]
fn every_row_under_many_schedules() {
    let case = Case { query_tokens: 2, causal: true, sms: 3, ..Case::new(&[300, 0, 65], 40) };
    let mut first = None;
    for seed in 0..schedules() {
        let (device, stream) = device_at_random(seed);
        let got = check(&device, &stream, &case);
        check_append(&device, &stream, &Append::new(&[3, 64, 65], 2));
        assert!(first.is_none_or(|first| first == got), "seed {seed}");
        first = Some(got);
    }
}

/// Lengths around the edges of blocks and pairs of blocks, each alone.
#[test]
fn lengths_around_the_edges() {
    let (device, stream) = device_of(1, 3);
    for length in [0, 1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257] {
        for sms in [1, 2] {
            check(&device, &stream, &Case { sms, ..Case::new(&[length], 16) });
        }
    }
}

/// Lengths that cannot be, found on the device: below zero is nothing, and nobody has more tokens than were planned for.
#[test]
fn lengths_that_cannot_be() {
    let (device, stream) = device_of(2, 3);
    let told = Some(vec![i32::MAX, -1, 65, i32::MIN, 201]);
    for sms in [1, 3] {
        check(&device, &stream, &Case { told: told.clone(), sms, ..Case::new(&[200, 0, 65, 0, 200], 8) });
    }
}

/// Pages of any size: divisors and multiples of 64, and numbers that are neither.
#[test]
fn pages_of_any_size() {
    let (device, stream) = device_of(3, 3);
    for page in [1, 2, 16, 32, 48, 53, 61, 64, 96, 128, 576] {
        let case = Case { page, query_tokens: 2, causal: true, sms: 2, ..Case::new(&[70, 130], 3) };
        check(&device, &stream, &case);
    }
}

/// Scores far apart, so that the running maximum moves and most weights vanish.
#[test]
fn one_token_wins() {
    let (device, stream) = device_of(5, 3);
    for spread in [0.0, 30.0] {
        check(&device, &stream, &Case { spread, sms: 2, ..Case::new(&[400, 77], 8) });
    }
}

/// A causal request shorter than its query tokens: the first of them see nothing.
#[test]
fn queries_that_see_nothing() {
    let (device, stream) = device_of(4, 3);
    check(&device, &stream, &Case { query_tokens: 4, causal: true, ..Case::new(&[2, 0, 3], 5) });
    // Query tokens over several blocks: more than one masked turn.
    let case = Case { query_tokens: 200, causal: true, sms: 8, ..Case::new(&[330], 1) };
    check(&device, &stream, &case);
}

/// One long request keeps every SM busy, and the budget is obeyed.
#[test]
fn one_request_uses_every_sm() {
    let (device, stream) = device_of(0, 3);
    for (sms, heads) in [(7u32, 16), (8, 128)] {
        let case = Case { sms, ..Case::new(&[64 * 9], heads) };
        check(&device, &stream, &case);
        if let Some(emulated) = device.emulated() {
            // Two runs, each of a decoding kernel with a block on every SM and a combining one with no more.
            assert_eq!(emulated.counters().blocks, 2 * (sms as u64 + heads.min(sms as usize) as u64));
            assert!(emulated.kernel_counters().iter().all(|kernel| kernel.counters.sms_used <= sms));
            // Every block of the cache is copied once for each tile of rows, and Q once for each block of threads.
            let tiles = heads.div_ceil(64) as u64;
            let q = sms as u64 * 64 * 1152;
            assert!(emulated.counters().tma_load_bytes >= 2 * (tiles * 64 * 9 * 1152 + q));
            emulated.reset();
        }
    }
}

#[test]
fn nothing_split_launches_one_kernel() {
    let (device, stream) = device_of(0, 3);
    check(&device, &stream, &Case { sms: 1, ..Case::new(&[200, 100], 4) });
    check(&device, &stream, &Case { invariant: Some(256), ..Case::new(&[200, 100], 4) });
    check(&device, &stream, &Case::new(&[64, 3], 4));
    if let Some(emulated) = device.emulated() {
        assert_eq!(emulated.counters().launches, 6);
    }
    check(&device, &stream, &Case::new(&[], 4));
    if let Some(emulated) = device.emulated() {
        assert_eq!(emulated.counters().launches, 6);
    }
}

/// A request's bits do not depend on its batchmates or the SMs.
#[test]
fn batch_invariance() {
    let (device, stream) = device_of(0, 3);
    let run = |lengths: &[i32], sms| {
        let case = Case { invariant: Some(128), sms, ..Case::new(lengths, 4) };
        check(&device, &stream, &case)
    };
    let alone = run(&[500], 1);
    for sms in [2, 3, 132] {
        assert_eq!(run(&[500], sms), alone);
    }
    let mixed = run(&[500, 77, 300], 1);
    assert_eq!(mixed.out[..alone.out.len()], alone.out);
    assert_eq!(mixed.lse[..alone.lse.len()], alone.lse);
    for sms in [2, 5, 132] {
        assert_eq!(run(&[500, 77, 300], sms), mixed);
    }
}

fn a_case() -> impl Strategy<Value = Case> {
    let length = prop_oneof![proptest::sample::select(vec![0, 1, 63, 64, 65, 127, 128, 129]), 0i32..400,];
    let heads = proptest::sample::select(vec![1usize, 3, 9, 16, 63, 64, 126, 128]);
    let page = prop_oneof![Just(64usize), proptest::sample::select(vec![1usize, 16, 32, 53, 80, 128])];
    let gap = || proptest::sample::select(vec![0usize, 8, 64]);
    (
        proptest::collection::vec(length, 1..5),
        (1usize..5, heads, page, any::<bool>(), any::<bool>()),
        proptest::sample::select(vec![1u32, 2, 3, 7, 132]),
        proptest::option::weighted(0.3, proptest::sample::select(vec![128usize, 256])),
        [gap(), gap(), gap()],
        any::<u64>(),
    )
        .prop_map(|(lengths, (query_tokens, heads, page, causal, two), sms, invariant, gaps, seed)| {
            Case {
                query_tokens: if heads > 64 { query_tokens.min(2) } else { query_tokens },
                page,
                causal,
                base: if two { LseBase::Two } else { LseBase::E },
                sms,
                invariant,
                gaps,
                seed,
                ..Case::new(&lengths, heads)
            }
        })
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn every_output_is_the_reference_s(case in a_case(), machine in machines()) {
        let (device, stream) = device_on(machine);
        check(&device, &stream, &case);
    }
}

/// Lengths after an append of some tokens to each request.
#[derive(Debug, Clone)]
struct Append {
    lengths: Vec<i32>,
    tokens_each: usize,
    page: usize,
    by_table: bool,
    joined: bool,
    strange: bool,
    seed: u64,
}

impl Append {
    fn new(lengths: &[i32], tokens_each: usize) -> Append {
        let lengths = lengths.to_vec();
        Append { lengths, tokens_each, page: 64, by_table: true, joined: true, strange: false, seed: 1 }
    }
}

/// Appends, and compares every bit of the cache.
fn check_append(device: &Device, stream: &Stream, case: &Append) {
    let value = |random: &mut Random| bf16::from_f32(random.normal());
    let (before, mut table, width) = paged(&case.lengths, case.page, case.seed, value);
    let random = &mut Random(case.seed);
    let tokens = case.lengths.len() * case.tokens_each;
    let latent: Vec<bf16> = (0..tokens * LATENT).map(|_| value(random)).collect();
    let rope: Vec<bf16> = (0..tokens * (HEAD - LATENT)).map(|_| value(random)).collect();
    let pages = [before.len() / HEAD / case.page, case.page];
    if case.strange {
        estrange(&mut table, pages[0], case.page);
    }
    let slots = reference::slots_of(&table, width, &case.lengths, case.tokens_each, pages).unwrap();
    let mut want = before.clone();
    reference::append(&mut want, &latent, &rope, &slots).unwrap();

    let rows = before.len() / HEAD;
    let mut cache = device.upload(stream, &before).unwrap();
    let (latent_memory, rope_memory);
    let (latent_view, rope_view) = if case.joined {
        let both = latent.chunks(LATENT).zip(rope.chunks(HEAD - LATENT));
        let both: Vec<bf16> = both.flat_map(|(l, r)| [l, r].concat()).collect();
        latent_memory = device.upload(stream, &both).unwrap();
        let view = |at, cols| latent_memory.view(at, [tokens, cols], [HEAD, 1]).unwrap();
        (view(0, LATENT), view(LATENT, HEAD - LATENT))
    } else {
        latent_memory = device.upload(stream, &latent).unwrap();
        rope_memory = device.upload(stream, &rope).unwrap();
        (latent_memory.matrix(tokens, LATENT).unwrap(), rope_memory.matrix(tokens, HEAD - LATENT).unwrap())
    };
    let table = device.upload(stream, &table).unwrap();
    let lengths = device.upload(stream, &case.lengths).unwrap();
    let slots = device.upload(stream, &slots).unwrap();
    let place = if case.by_table {
        let block_table = table.matrix(case.lengths.len(), width).unwrap();
        cache::Place::Table { block_table, cache_seqlens: lengths.matrix(1, case.lengths.len()).unwrap() }
    } else {
        cache::Place::Slots(slots.matrix(1, tokens).unwrap())
    };
    let plan = cache::Plan::new(device, cache::Shape::new(tokens, case.page), cache::Options::new().sms(1));
    if let Some(emulated) = device.emulated() {
        emulated.reset();
    }
    let args = cache::Args::new(latent_view, rope_view, place, cache.matrix_mut(rows, HEAD).unwrap());
    plan.unwrap().run(stream, args).unwrap();
    let got = cache.to_vec(stream).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    for (at, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "cache[{}, {}]; {case:?}", at / HEAD, at % HEAD);
    }
    assert_clean(device);
    if let Some(emulated) = device.emulated() {
        assert_eq!((emulated.counters().blocks, emulated.counters().sms_used), (1, 1), "of a budget of one");
    }
}

/// Entries that are no pages: zeros for who reads there, nothing for who writes.
#[test]
fn strange_table_entries_lead_nowhere() {
    let (device, stream) = device_of(1, 1);
    for page in [64, 3, 2] {
        check(&device, &stream, &Case { page, strange: true, ..Case::new(&[300, 70], 3) });
        let append = Append { page, strange: true, ..Append::new(&[300, 70], 69) };
        check_append(&device, &stream, &append);
        check_append(&device, &stream, &Append { by_table: false, ..append });
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn every_appended_row_is_where_it_belongs(
        lengths in proptest::collection::vec(0i32..200, 1..5),
        tokens_each in 1usize..40,
        page in proptest::sample::select(vec![1usize, 16, 61, 64]),
        by_table: bool,
        joined: bool,
        seed: u64,
        machine in machines(),
    ) {
        let (device, stream) = device_on(machine);
        check_append(&device, &stream, &Append { lengths, tokens_each, page, by_table, joined, strange: false, seed });
    }
}
