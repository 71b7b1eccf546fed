//! Dispatch, expansion and combine between emulated devices, every byte against the plain reference; ranks that never come; links
//! and memory counted.

#![cfg(feature = "emulator")]

mod support;

use hadal::comm::{SymmetricBuffer, Team, Window};
use hadal::emulator::{Completion, Counters, DeviceConfig, MachineConfig, Schedule};
use hadal::moe::exchange::reference::{self, Delivered, Places, Source};
use hadal::moe::exchange::{self, Combine, Dispatch, Expand, Options, Phase, Plan, Shape, Status};
use hadal::{Buffer, DType, Device, Error, Matrix, MatrixMut, Result, Stream, bf16};
use proptest::prelude::*;
use support::{Random, Recorder, cases, schedules};

/// What tokens choose.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Choices {
    /// Different experts at random.
    Uniform,
    /// Some are -1, some come twice.
    Ragged,
    /// All the same expert.
    One(i32),
    /// Nothing.
    Nowhere,
    /// Numbers that are no experts among them.
    Strange,
}

#[derive(Debug, Clone)]
struct Case {
    experts: usize,
    topk: usize,
    hidden: usize,
    /// Of each rank.
    tokens: Vec<usize>,
    capacity: usize,
    rows: usize,
    alignment: usize,
    payload: DType,
    choices: Choices,
    sms: u32,
    programmatic: bool,
    seed: u64,
}

impl Case {
    fn new(tokens: &[usize]) -> Case {
        let all: usize = tokens.iter().sum();
        Case {
            experts: 4 * tokens.len(),
            topk: 3,
            hidden: 144,
            tokens: tokens.to_vec(),
            capacity: all.max(1),
            rows: 3 * all + 4 * 8,
            alignment: 8,
            payload: DType::BF16,
            choices: Choices::Uniform,
            sms: 2,
            programmatic: false,
            seed: 1,
        }
    }

    fn ranks(&self) -> usize {
        self.tokens.len()
    }

    fn shape(&self) -> Shape {
        let most = self.tokens.iter().copied().max().unwrap_or(0);
        Shape::new(self.experts, self.topk, self.hidden, most, self.capacity)
    }

    fn options(&self) -> Options {
        Options::new()
            .payload(self.payload)
            .alignment(self.alignment)
            .sms(self.sms)
            .programmatic(self.programmatic)
    }

    fn row_bytes(&self) -> usize {
        self.hidden * self.payload.size()
    }

    fn scale_words(&self) -> usize {
        if self.payload == DType::E4M3 { self.hidden.div_ceil(128) } else { 0 }
    }
}

/// A machine of so many devices, all checks on, as `which` and `seed` say.
fn machine(ranks: usize, which: usize, seed: u64) -> Device {
    Device::emulate(MachineConfig {
        devices: vec![DeviceConfig { sms: 4, ..DeviceConfig::h100() }; ranks],
        schedule: [Schedule::RoundRobin, Schedule::Random, Schedule::Starve][which % 3],
        completion: [Completion::Eager, Completion::Latest, Completion::Random][which / 3 % 3],
        resident_blocks: [None, Some(1)][which / 9 % 2],
        seed,
        ..MachineConfig::default()
    })
    .unwrap()
}

/// One rank, with its operands.
struct Rank {
    device: Device,
    stream: Stream,
    plan: Plan,
    tokens: usize,
    handle: Buffer<u8>,
    /// On the host.
    x: Vec<u8>,
    scales: Vec<f32>,
    ids: Vec<i32>,
    weights: Vec<f32>,
    /// On the device.
    x_memory: Buffer<u8>,
    scales_memory: Buffer<f32>,
    ids_memory: Buffer<i32>,
    weights_memory: Buffer<f32>,
    expanded: Buffer<u8>,
    expanded_scales: Buffer<f32>,
    map: Buffer<i32>,
    ends: Buffer<i32>,
    y: Vec<bf16>,
    y_memory: Buffer<bf16>,
    out: Buffer<bf16>,
}

struct Setup {
    case: Case,
    _memory: SymmetricBuffer,
    ranks: Vec<Rank>,
}

fn choose(case: &Case, random: &mut Random) -> Vec<i32> {
    let mut taken: Vec<i32> = Vec::new();
    while taken.len() < case.topk {
        let id = random.below(case.experts) as i32;
        taken.push(match case.choices {
            Choices::Uniform if taken.contains(&id) && case.experts >= case.topk => continue,
            Choices::Uniform => id,
            Choices::Ragged if random.below(3) == 0 => -1,
            Choices::Ragged => id,
            Choices::One(id) => id,
            Choices::Nowhere => -1,
            Choices::Strange => [id, -1, -2, case.experts as i32, i32::MAX, i32::MIN][random.below(6)],
        });
    }
    taken
}

/// Finite BF16 over many binades, signs mixed, zeros of both signs.
fn number(random: &mut Random) -> bf16 {
    match random.below(20) {
        0 => bf16::from_f32(-0.0),
        1 => bf16::from_f32(0.0),
        _ => bf16::from_f32(random.normal() * 2f32.powi(random.below(40) as i32 - 20)),
    }
}

/// Bytes of memory, whatever they are.
fn read(device: &Device, stream: &Stream, from: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: callers name memory of the device that is at least so long; the stream is of the device.
    unsafe { device.driver().copy_to_host(device.ordinal(), &mut bytes, from, stream.raw()) }.unwrap();
    bytes
}

fn read_matrix(rank: &Rank, matrix: Matrix<'_>, rows: usize) -> Vec<u8> {
    read(&rank.device, &rank.stream, matrix.address(), rows * matrix.cols() * matrix.dtype().size())
}

fn integers(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

impl Rank {
    fn dispatch_args(&mut self, case: &Case, cached: bool) -> Dispatch<'_> {
        let (tokens, topk, hidden, words) = (self.tokens, case.topk, case.hidden, case.scale_words());
        let device = &self.device;
        // SAFETY: the buffer holds exactly these rows.
        let x = unsafe {
            Matrix::from_raw(device, case.payload, self.x_memory.address(), [tokens, hidden], [hidden, 1])
        };
        let len = self.handle.len();
        let args = Dispatch::new(
            x,
            self.ids_memory.matrix(tokens, topk).unwrap(),
            self.weights_memory.matrix(tokens, topk).unwrap(),
            self.handle.matrix_mut(1, len).unwrap(),
        )
        .cached(cached);
        if words > 0 { args.scales(self.scales_memory.matrix(tokens, words).unwrap()) } else { args }
    }

    fn dispatch(&mut self, case: &Case, cached: bool) -> Result<()> {
        let (plan, stream) = (self.plan.clone(), self.device.default_stream());
        plan.dispatch(&stream, self.dispatch_args(case, cached))
    }

    fn expand(&mut self, case: &Case) -> Result<()> {
        let (rows, hidden, words) = (case.rows, case.hidden, case.scale_words());
        // SAFETY: the buffer holds exactly these rows, and nothing else uses it.
        let x = unsafe {
            MatrixMut::from_raw(
                &self.device,
                case.payload,
                self.expanded.address(),
                [rows, hidden],
                [hidden, 1],
            )
        };
        let experts = self.ends.len();
        let mut args =
            Expand::new(x, self.map.matrix_mut(1, rows).unwrap(), self.ends.matrix_mut(1, experts).unwrap());
        if words > 0 {
            args = args.scales(self.expanded_scales.view_mut(0, [rows, words], [1, rows + 1]).unwrap());
        }
        self.plan.expand(&self.device.default_stream(), args)
    }

    fn combine_args(&mut self, case: &Case) -> Combine<'_> {
        let len = self.handle.len();
        Combine::new(
            self.y_memory.matrix(case.rows, case.hidden).unwrap(),
            self.handle.matrix(1, len).unwrap(),
            self.out.matrix_mut(self.tokens, case.hidden).unwrap(),
        )
    }

    fn combine(&mut self, case: &Case) -> Result<()> {
        let (plan, stream) = (self.plan.clone(), self.device.default_stream());
        plan.combine(&stream, self.combine_args(case))
    }

    fn status(&self) -> Status {
        self.plan.status(&self.stream).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Setup {
    fn new(first: &Device, case: &Case, options: Options) -> Setup {
        let random = &mut Random(case.seed);
        let devices = (0..case.ranks()).map(|rank| first.sibling(rank as u32).unwrap()).collect();
        let team = Team::new(devices).unwrap();
        let bytes = Plan::window_bytes(case.ranks(), case.shape(), options).unwrap();
        let memory = SymmetricBuffer::new(&team, bytes + 256).unwrap();
        let ranks = memory.windows().iter().zip(&case.tokens).map(|(window, &tokens)| {
            let device = window.device().clone();
            let stream = device.default_stream();
            // Everything behind the header and in front of the red zone is painted, to show what was written.
            // SAFETY: the window is that long, and nothing has been launched.
            unsafe {
                let at = window.base() + 1024;
                device
                    .driver()
                    .fill(device.ordinal(), at, 0xff, bytes as u64 + 256 - 1024, stream.raw())
                    .unwrap();
            }
            let plan = Plan::new(window, case.shape(), options).unwrap();
            let x: Vec<u8> = (0..tokens * case.row_bytes()).map(|_| random.bits() as u8).collect();
            let scales: Vec<f32> = (0..tokens * case.scale_words()).map(|_| random.normal()).collect();
            let ids: Vec<i32> = (0..tokens).flat_map(|_| choose(case, random)).collect();
            let weights: Vec<f32> = (0..tokens * case.topk).map(|_| random.normal()).collect();
            let y: Vec<bf16> = (0..case.rows * case.hidden).map(|_| number(random)).collect();
            let painted = |len: usize| device.upload(&stream, &vec![0xffu8; len]).unwrap();
            let integers = |len: usize| device.upload(&stream, &vec![0x5a5a_5a5ai32; len]).unwrap();
            let nans = |len: usize| device.upload(&stream, &vec![f32::from_bits(u32::MAX); len]).unwrap();
            Rank {
                handle: painted(plan.handle().bytes),
                x_memory: device.upload(&stream, &x).unwrap(),
                scales_memory: device.upload(&stream, &scales).unwrap(),
                ids_memory: device.upload(&stream, &ids).unwrap(),
                weights_memory: device.upload(&stream, &weights).unwrap(),
                expanded: painted(case.rows * case.row_bytes()),
                expanded_scales: nans((case.rows + 1) * case.scale_words()),
                map: integers(case.rows),
                ends: integers(case.experts / case.ranks()),
                y_memory: device.upload(&stream, &y).unwrap(),
                out: device.upload(&stream, &vec![bf16::NAN; tokens * case.hidden]).unwrap(),
                device,
                stream,
                plan,
                tokens,
                x,
                scales,
                ids,
                weights,
                y,
            }
        });
        Setup { case: case.clone(), ranks: ranks.collect(), _memory: memory }
    }

    /// What every rank should receive: payload bytes, and scales.
    fn delivered(&self) -> (Vec<Delivered<u8>>, Vec<Delivered<f32>>) {
        let Case { experts, topk, capacity, .. } = self.case;
        let bytes: Vec<_> = self
            .ranks
            .iter()
            .map(|r| Source { rows: &r.x, topk_idx: &r.ids, topk_weight: &r.weights })
            .collect();
        let scales: Vec<_> = self
            .ranks
            .iter()
            .map(|r| Source { rows: &r.scales, topk_idx: &r.ids, topk_weight: &r.weights })
            .collect();
        (
            reference::dispatch(&bytes, experts, topk, self.case.row_bytes(), capacity),
            reference::dispatch(&scales, experts, topk, self.case.scale_words(), capacity),
        )
    }

    fn synchronize(&self) {
        for rank in &self.ranks {
            rank.stream.synchronize().unwrap_or_else(|error| panic!("{:?}: {error}", self.case));
        }
    }

    /// One round of everything, checked.
    fn round(&mut self, cached: bool) {
        let case = self.case.clone();
        for rank in &mut self.ranks {
            rank.dispatch(&case, cached).unwrap();
            rank.expand(&case).unwrap();
        }
        self.synchronize();
        let (delivered, scales) = self.delivered();
        let mut reduced = Vec::new();
        for (r, rank) in self.ranks.iter().enumerate() {
            check_received(&case, r, rank, &delivered[r], &scales[r]);
            let places = check_expanded(&case, r, rank, &delivered[r], &scales[r]);
            let Places { positions, .. } = &places;
            reduced.push(reference::reduce(
                positions,
                &delivered[r].topk_weight,
                case.topk,
                &rank.y,
                case.hidden,
            ));
        }
        for rank in &mut self.ranks {
            rank.combine(&case).unwrap();
        }
        self.synchronize();
        for (r, rank) in self.ranks.iter().enumerate() {
            let want = reference::combine(r, rank.tokens, &delivered, &reduced, case.hidden);
            let got = rank.out.to_vec(&rank.stream).unwrap();
            for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                let (token, column) = (at / case.hidden, at % case.hidden);
                assert_eq!(got.to_bits(), want.to_bits(), "rank {r}, out[{token}, {column}]; {case:?}");
            }
        }
        if let Some(emulated) = self.ranks[0].device.emulated() {
            let reports = emulated.reports();
            assert!(reports.is_empty(), "{}", reports[0]);
        }
    }
}

fn check_received(case: &Case, r: usize, rank: &Rank, want: &Delivered<u8>, scales: &Delivered<f32>) {
    let received = rank.plan.received();
    let rows = want.origins.len();
    assert_eq!(integers(&read_matrix(rank, received.rows, 1)), [rows as i32], "rank {r}; {case:?}");
    let sources: Vec<i32> = want.sources.iter().map(|s| *s as i32).collect();
    assert_eq!(integers(&read_matrix(rank, received.sources, 1)), sources, "rank {r}; {case:?}");
    let (most, topk, words) = (case.capacity, case.topk, case.scale_words());
    // All of it: what lies behind the rows keeps its paint.
    let padded = |mut bytes: Vec<u8>, len: usize| {
        bytes.resize(len, 0xff);
        bytes
    };
    let x = read_matrix(rank, received.x, most);
    assert!(x == padded(want.rows.clone(), most * case.row_bytes()), "rank {r}, rows; {case:?}");
    let ids = want.topk_idx.iter().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(
        integers(&read_matrix(rank, received.topk_idx, most)),
        integers(&padded(ids, most * topk * 4)),
        "rank {r}; {case:?}"
    );
    let weights = want.topk_weight.iter().flat_map(|w| w.to_le_bytes()).collect();
    let got = read_matrix(rank, received.topk_weight, most);
    assert!(got == padded(weights, most * topk * 4), "rank {r}, weights; {case:?}");
    assert_eq!(received.scales.is_some(), words > 0);
    if let Some(matrix) = received.scales {
        let scales = scales.rows.iter().flat_map(|w| w.to_le_bytes()).collect();
        let got = read_matrix(rank, matrix, most);
        assert!(got == padded(scales, most * words * 4), "rank {r}, scales; {case:?}");
    }
}

fn check_expanded(
    case: &Case,
    r: usize,
    rank: &Rank,
    delivered: &Delivered<u8>,
    scales: &Delivered<f32>,
) -> Places {
    let local = case.experts / case.ranks();
    let places = reference::expand(&delivered.topk_idx, local, case.rows, case.alignment);
    assert_eq!(rank.ends.to_vec(&rank.stream).unwrap(), places.ends, "rank {r}; {case:?}");
    assert_eq!(rank.map.to_vec(&rank.stream).unwrap(), places.map, "rank {r}; {case:?}");
    let (bytes, words) = (case.row_bytes(), case.scale_words());
    let mut want = vec![0xffu8; case.rows * bytes];
    let mut want_scales = vec![u32::MAX; (case.rows + 1) * words];
    for (entry, place) in places.positions.iter().enumerate() {
        let (Some(place), row) = (place, entry / case.topk) else { continue };
        want[place * bytes..][..bytes].copy_from_slice(&delivered.rows[row * bytes..][..bytes]);
        for group in 0..words {
            want_scales[group * (case.rows + 1) + place] = scales.rows[row * words + group].to_bits();
        }
    }
    assert!(rank.expanded.to_vec(&rank.stream).unwrap() == want, "rank {r}, expanded rows; {case:?}");
    let got: Vec<u32> =
        rank.expanded_scales.to_vec(&rank.stream).unwrap().iter().map(|s| s.to_bits()).collect();
    assert!(got == want_scales, "rank {r}, expanded scales; {case:?}");
    places
}

/// Two rounds, the second with the first one's handles if `cached`; the status is clean.
fn check(which: usize, case: &Case, cached: bool) -> Setup {
    let first = machine(case.ranks(), which, case.seed);
    let mut setup = Setup::new(&first, case, case.options());
    setup.round(false);
    setup.round(cached);
    setup
}

fn clean(setup: &Setup) {
    for (r, rank) in setup.ranks.iter().enumerate() {
        assert!(rank.status().is_clean(), "rank {r}: {:?}; {:?}", rank.status(), setup.case);
    }
}

#[test]
fn every_row_forced() {
    for payload in [DType::BF16, DType::E4M3] {
        for which in 0..18 {
            let case = Case { payload, programmatic: which % 2 == 1, ..Case::new(&[19, 7]) };
            clean(&check(which, &case, which % 2 == 0));
        }
    }
}

#[test]
fn any_number_of_ranks() {
    for tokens in [&[40][..], &[9, 20], &[5, 1, 9], &[4, 0, 8, 3, 17], &[3, 4, 0, 6, 2, 9, 1, 5]] {
        for choices in [Choices::Uniform, Choices::Ragged] {
            clean(&check(1, &Case { choices, ..Case::new(tokens) }, true));
        }
    }
}

#[test]
fn nobody_has_anything() {
    clean(&check(0, &Case::new(&[0, 0, 0]), false));
    clean(&check(1, &Case { choices: Choices::Nowhere, ..Case::new(&[5, 9]) }, true));
    clean(&check(1, &Case::new(&[0]), true));
}

#[test]
fn everybody_wants_one_expert() {
    // Of the last rank; every token names it three times, and crosses once.
    for expert in [0, 11] {
        let case = Case { choices: Choices::One(expert), rows: 4 * 60, ..Case::new(&[20, 15, 17]) };
        clean(&check(1, &case, true));
    }
}

#[test]
fn more_than_a_block_of_tokens() {
    // The layout walks 1024 at a time.
    let case = Case { hidden: 16, topk: 2, rows: 4300, sms: 4, ..Case::new(&[1025, 3]) };
    clean(&check(0, &case, false));
}

#[test]
fn wide_rows_and_many_experts() {
    // Rows of several turns of the copy, experts beyond a warp's and beyond the SMs.
    let wide = Case { hidden: 2064, sms: 1, ..Case::new(&[3, 2]) };
    clean(&check(1, &wide, false));
    clean(&check(0, &Case { payload: DType::E4M3, ..wide }, false));
    let many = Case { experts: 512, topk: 32, hidden: 16, rows: 4096, sms: 3, ..Case::new(&[6, 9]) };
    clean(&check(0, &many, true));
}

#[test]
fn choices_that_are_no_experts_go_nowhere_and_are_told() {
    let setup = check(1, &Case { choices: Choices::Strange, ..Case::new(&[9, 8]) }, false);
    assert!(setup.ranks.iter().all(|rank| rank.status().strange_choice()));
}

#[test]
fn capacity_is_exactly_enough_or_not() {
    for payload in [DType::BF16, DType::E4M3] {
        let one = Case { choices: Choices::One(5), payload, rows: 200, ..Case::new(&[9, 12]) };
        // All 21 tokens go to rank 1.
        clean(&check(1, &Case { capacity: 21, ..one.clone() }, true));
        for (capacity, lost) in [(20, [0, 1]), (9, [0, 12]), (4, [5, 12]), (1, [8, 12])] {
            let setup = check(1, &Case { capacity, ..one.clone() }, true);
            for (rank, lost) in setup.ranks.iter().zip(lost) {
                // Two rounds.
                assert_eq!(rank.status().lost_sent(), 2 * lost, "capacity {capacity}");
                let over = if rank.plan.window().rank() == 1 { 2 * (21 - capacity as u32) } else { 0 };
                assert_eq!(rank.status().lost_received(), over, "capacity {capacity}");
                assert_eq!(rank.status().is_clean(), over + lost == 0);
                rank.plan.clear_status(&rank.stream).unwrap();
                assert!(rank.status().is_clean());
            }
        }
    }
}

#[test]
fn expanded_rows_without_room_are_counted() {
    for rows in [0, 1, 23, 24, 63] {
        let case = Case { rows, choices: Choices::One(2), ..Case::new(&[11, 10]) };
        let setup = check(1, &case, false);
        assert_eq!(setup.ranks[0].status().lost_expanded(), 2 * (63 - rows as u32));
        assert_eq!(setup.ranks[0].status().is_clean(), rows == 63);
        assert!(setup.ranks[1].status().is_clean());
    }
}

fn a_case() -> impl Strategy<Value = Case> {
    let tokens =
        prop_oneof![proptest::collection::vec(0usize..20, 1..4), proptest::collection::vec(0usize..8, 4..9),];
    let choices = proptest::sample::select(vec![
        Choices::Uniform,
        Choices::Ragged,
        Choices::Ragged,
        Choices::One(0),
        Choices::Nowhere,
        Choices::Strange,
    ]);
    let payload = proptest::sample::select(vec![DType::BF16, DType::E4M3]);
    let hidden = prop_oneof![Just(16usize), Just(128), Just(144), Just(272), Just(1040)];
    (
        tokens,
        choices,
        payload,
        hidden,
        1usize..5,
        1usize..10,
        0usize..40,
        0usize..60,
        1u32..5,
        any::<(bool, u64)>(),
    )
        .prop_map(
            |(tokens, choices, payload, hidden, local, topk, room, rows, sms, (programmatic, seed))| {
                let all: usize = tokens.iter().sum();
                Case {
                    experts: local * tokens.len(),
                    topk,
                    hidden,
                    // Often too small, often exactly enough, often more.
                    capacity: if room < 20 { all.max(1) } else { room - 19 },
                    rows: if rows < 30 { all * topk + 16 * local } else { rows - 30 },
                    alignment: [1, 4, 16][seed as usize % 3],
                    payload,
                    choices,
                    sms: sms.min(4),
                    programmatic,
                    seed,
                    tokens,
                }
            },
        )
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_byte_is_the_reference_s(case in a_case(), which in 0usize..18, cached in any::<bool>()) {
        check(which, &case, cached);
    }
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules, .ci/full 100"]
fn every_row_under_many_schedules() {
    for seed in 0..schedules() {
        let payload = [DType::BF16, DType::E4M3][seed as usize % 2];
        let case = Case { payload, choices: Choices::Ragged, programmatic: true, ..Case::new(&[9, 0, 14]) };
        let first = machine(3, 7, seed);
        let mut setup = Setup::new(&first, &case, case.options());
        setup.round(false);
        setup.round(true);
        clean(&setup);
    }
}

/// Everything each device did.
fn counters(setup: &Setup) -> Vec<Counters> {
    setup.ranks.iter().map(|rank| rank.device.emulated().unwrap().counters()).collect()
}

/// Link bytes are the least there can be: one row for each token and remote rank, and little beside; every delivered row is written to
/// memory once, by its sender, and every returned row crosses once.
#[test]
fn links_carry_each_row_once() {
    for payload in [DType::BF16, DType::E4M3] {
        let case = Case { hidden: 7168, topk: 8, experts: 32, payload, ..Case::new(&[24, 30, 9, 17]) };
        let case = Case { rows: 80 * 8 + 32 * 8, sms: 4, ..case };
        let first = machine(4, 0, 1);
        let mut setup = Setup::new(&first, &case, case.options());
        for rank in &mut setup.ranks {
            rank.dispatch(&case, false).unwrap();
        }
        setup.synchronize();
        let sent = counters(&setup);
        for rank in &mut setup.ranks {
            rank.expand(&case).unwrap();
        }
        setup.synchronize();
        let expanded = counters(&setup);
        for rank in &mut setup.ranks {
            rank.combine(&case).unwrap();
        }
        setup.synchronize();
        let combined = counters(&setup);
        let (delivered, _) = setup.delivered();
        let rows: usize = delivered.iter().map(|d| d.origins.len()).sum();
        let row_bytes = case.row_bytes() + 4 * case.scale_words();
        for (r, rank) in setup.ranks.iter().enumerate() {
            let remote = |to: usize| {
                if to == r { 0 } else { delivered[to].origins.iter().filter(|o| o.0 == r).count() }
            };
            let remote: usize = (0..4).map(remote).sum();
            let (floor, got) = (remote * row_bytes, sent[r].link_store_bytes as usize);
            assert!(got >= floor && got * 100 <= floor * 103, "rank {r}: {got} bytes sent, at least {floor}");
            assert_eq!(
                (sent[r].link_load_bytes, expanded[r].link_store_bytes),
                (0, sent[r].link_store_bytes)
            );
            // Pulled rows, exactly; flags beside them.
            let pulled = combined[r].link_load_bytes as usize;
            assert_eq!(pulled, remote * 2 * case.hidden, "rank {r}");
            let told = combined[r].link_store_bytes - sent[r].link_store_bytes;
            assert_eq!(told, 2 * 3 * 8, "rank {r}: two words to each peer");
            assert_eq!(rank.plan.kernels().len(), 7);
        }
        // All stores of all ranks: each delivered row once, ids and weights beside it, and less than 1 % for indices and counts.
        let stored: u64 = sent.iter().map(|c| c.global_store_bytes).sum();
        let once = rows * (row_bytes + 8 * case.topk);
        assert!(stored as usize >= once && stored as usize * 100 <= once * 101, "{stored} bytes for {once}");
        println!("{payload}: {stored} bytes stored by the dispatch, {once} of them rows, ids and weights");
    }
}

#[test]
fn the_budget_of_sms_is_kept() {
    for sms in 1..=4 {
        let case = Case { sms, ..Case::new(&[70, 80]) };
        let setup = check(0, &case, false);
        for counters in counters(&setup) {
            assert!(counters.sms_used <= sms, "{} of {sms} SMs", counters.sms_used);
            assert!(counters.max_resident_blocks <= sms);
            // Two rounds: a layout, and six kernels of as many blocks as the budget has.
            assert_eq!((counters.launches, counters.blocks), (14, u64::from(2 * (1 + 6 * sms))));
        }
    }
}

/// How far the last rank comes before it is gone.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dies {
    AtOnce,
    AfterCounts,
    AfterDispatch,
    AfterReduce,
}

/// The others end within their patience, say who was missed where, and have written nothing but what was delivered.
#[test]
fn a_rank_that_is_gone_hangs_nobody() {
    for dies in [Dies::AtOnce, Dies::AfterCounts, Dies::AfterDispatch, Dies::AfterReduce] {
        for which in [0, 1, 10] {
            let case = Case::new(&[9, 12, 5]);
            let first = machine(3, which, 3);
            let mut setup = Setup::new(&first, &case, case.options().patience(2000));
            let (gone, case) = (2usize, &case);
            // Step by step, so that waits for ranks that are there stay far below the patience.
            for step in 0..4 {
                let last = [0, 1, 2, 3][dies as usize];
                for (r, rank) in setup.ranks.iter_mut().enumerate() {
                    if r == gone && step >= last {
                        continue;
                    }
                    let (plan, stream) = (rank.plan.clone(), rank.device.default_stream());
                    match step {
                        0 => plan.announce(&stream, &rank.dispatch_args(case, false)).unwrap(),
                        1 => {
                            plan.send(&stream, &rank.dispatch_args(case, false)).unwrap();
                            rank.expand(case).unwrap();
                        }
                        2 => plan.reduce(&stream, &rank.combine_args(case)).unwrap(),
                        _ => plan.gather(&stream, &rank.combine_args(case)).unwrap(),
                    }
                }
                setup.synchronize();
            }
            let (delivered, _) = setup.delivered();
            for (r, rank) in setup.ranks.iter().enumerate().take(gone) {
                let status = rank.status();
                let missing = |phase| status.missing(phase);
                let context = format!("rank {r}, {dies:?}, machine {which}: {status:?}");
                let out = rank.out.to_vec(&rank.stream).unwrap();
                let untouched = out.iter().all(|x| x.to_bits() == bf16::NAN.to_bits());
                let rows = integers(&read_matrix(rank, rank.plan.received().rows, 1))[0] as usize;
                match dies {
                    Dies::AtOnce => assert_eq!(missing(Phase::Counts), 4, "{context}"),
                    Dies::AfterCounts => {
                        assert_eq!(missing(Phase::Counts), 0, "{context}");
                        assert_eq!(missing(Phase::Rows) & 4, 4, "{context}");
                    }
                    Dies::AfterDispatch => assert_eq!(missing(Phase::Reduced), 4, "{context}"),
                    Dies::AfterReduce => {}
                }
                assert_eq!(status.is_clean(), dies == Dies::AfterReduce, "{context}");
                assert_eq!(untouched, dies != Dies::AfterReduce, "{context}");
                let lives = matches!(dies, Dies::AfterDispatch | Dies::AfterReduce);
                assert_eq!(rows, if lives { delivered[r].origins.len() } else { 0 }, "{context}");
                // Nothing beyond the rows that were promised, and the red zone behind the window.
                let received = rank.plan.received();
                let x = read_matrix(rank, received.x, case.capacity);
                let promised = delivered[r].origins.len() * case.row_bytes();
                assert!(x[promised..].iter().all(|b| *b == 0xff), "{context}");
                let end = Plan::window_bytes(3, case.shape(), case.options()).unwrap() as u64;
                let red = read(&rank.device, &rank.stream, rank.plan.window().base() + end, 256);
                assert!(red.iter().all(|b| *b == 0xff), "{context}");
            }
            if dies != Dies::AfterReduce {
                continue;
            }
            // Its rows were there to be read, but it never says that it has read the others': the next reduction waits in vain.
            for rank in setup.ranks.iter_mut().take(gone) {
                rank.combine(case).unwrap();
            }
            setup.synchronize();
            for rank in setup.ranks.iter().take(gone) {
                let status = rank.status();
                assert_eq!(status.missing(Phase::Gathered), 4, "machine {which}: {status:?}");
            }
        }
    }
}

/// Words of a later operation: this rank was left behind, gives up at once and writes nothing.
#[test]
fn a_rank_that_was_left_behind_gives_up() {
    let case = Case::new(&[6, 7]);
    let first = machine(2, 1, 5);
    let mut setup = Setup::new(&first, &case, case.options().patience(u32::MAX));
    let rank = &setup.ranks[0];
    // As if rank 1 were ten dispatches ahead: its counts of that dispatch, and word that its rows have arrived.
    let words: Vec<u8> = [3u32, 11, 4, 11].iter().flat_map(|w| w.to_le_bytes()).collect();
    let counts = rank.plan.window().base() + 128 + 8 * 8;
    let arrived = rank.plan.window().base() + 640 + 8;
    // SAFETY: the header of the window, before anything is launched.
    unsafe {
        rank.device.driver().copy_to_device(0, counts, &words, rank.stream.raw()).unwrap();
        rank.device.driver().copy_to_device(0, arrived, &words[8..], rank.stream.raw()).unwrap();
    }
    setup.ranks[0].dispatch(&case, false).unwrap();
    let rank = &setup.ranks[0];
    rank.stream.synchronize().unwrap();
    assert_eq!(rank.status().missing(Phase::Counts), 2);
}

/// The variant of an error about an argument, and the argument.
fn refusal<T: std::fmt::Debug>(result: Result<T>) -> (&'static str, &'static str) {
    match result.unwrap_err() {
        Error::Shape { argument, .. } => ("shape", argument),
        Error::Stride { argument, .. } => ("stride", argument),
        Error::Alignment { argument, .. } => ("alignment", argument),
        Error::Dtype { argument, .. } => ("dtype", argument),
        Error::Device { argument, .. } => ("device", argument),
        Error::Overlap { argument, .. } => ("overlap", argument),
        Error::Bounds { argument, .. } => ("bounds", argument),
        Error::Option { argument, .. } => ("option", argument),
        other => panic!("not about an argument: {other:?}"),
    }
}

/// A device that records, its sibling, and a window of so many ranks on it.
fn recorded(ranks: u64, bytes: u64) -> (Device, Device, Window) {
    let device = Device::from_driver(Recorder::new((9, 0)), 0).unwrap();
    let bases = (1..=ranks).map(|rank| rank << 40).collect();
    // SAFETY: nothing runs on this driver.
    let window = unsafe { Window::from_raw(&device, 0, bases, bytes) }.unwrap();
    let other = device.sibling(1).unwrap();
    (device, other, window)
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let shape = Shape::new(16, 4, 256, 10, 20);
    let plan = |ranks: u64, shape: Shape, options: Options| {
        refusal(Plan::new(&recorded(ranks, 1 << 30).2, shape, options).map(drop))
    };
    let options = Options::new();
    assert_eq!(plan(9, Shape::new(18, 4, 256, 10, 20), options), ("shape", "window"));
    assert_eq!(plan(3, shape, options), ("shape", "shape"));
    for wrong in [
        Shape::new(0, 4, 256, 10, 20),
        Shape::new(514, 4, 256, 10, 20),
        Shape::new(16, 0, 256, 10, 20),
        Shape::new(16, 33, 256, 10, 20),
        Shape::new(16, 4, 0, 10, 20),
        Shape::new(16, 4, 264, 10, 20),
        Shape::new(16, 4, 1 << 21, 10, 20),
        Shape::new(16, 4, 256, usize::MAX, 20),
        Shape::new(16, 4, 256, 10, 0),
        Shape::new(16, 4, 256, 10, usize::MAX),
    ] {
        assert_eq!(plan(2, wrong, options), ("shape", "shape"), "{wrong:?}");
    }
    assert_eq!(plan(2, shape, options.payload(DType::F32)), ("dtype", "payload"));
    assert_eq!(plan(2, shape, options.alignment(0)), ("option", "alignment"));
    assert_eq!(plan(2, shape, options.sms(0)), ("option", "sms"));
    assert_eq!(plan(2, shape, options.sms(133)), ("option", "sms"));
    assert_eq!(plan(2, shape, options.patience(0)), ("option", "patience"));
    let bytes = Plan::window_bytes(2, shape, options).unwrap() as u64;
    assert_eq!(refusal(exchange::supports(&recorded(2, bytes - 1).2, shape, options)), ("bounds", "window"));
    exchange::supports(&recorded(2, bytes).2, shape, options).unwrap();
    let old = Device::from_driver(Recorder::new((8, 0)), 0).unwrap();
    // SAFETY: nothing runs on this driver.
    let window = unsafe { Window::from_raw(&old, 0, vec![1 << 40], 1 << 30) }.unwrap();
    assert!(matches!(Plan::new(&window, shape, options).map(drop), Err(Error::Unsupported { .. })));
}

/// An argument, to be spoiled: type, address, shape, strides, device.
type Spoiled = (DType, u64, [usize; 2], [usize; 2], u8);

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let shape = Shape::new(16, 4, 256, 10, 20);
    let (device, other, window) = recorded(2, 1 << 30);
    let stream = device.default_stream();
    let e4m3 = Plan::new(&window, shape, Options::new().payload(DType::E4M3)).unwrap();
    let bf16 = Plan::new(&window, shape, Options::new()).unwrap();
    let handle = e4m3.handle().bytes;
    // SAFETY: nothing runs on this driver.
    let view = |(dtype, at, shape, strides, on): Spoiled| unsafe {
        Matrix::from_raw(if on == 0 { &device } else { &other }, dtype, at, shape, strides)
    };
    // SAFETY: as above.
    let view_mut = |(dtype, at, shape, strides, on): Spoiled| unsafe {
        MatrixMut::from_raw(if on == 0 { &device } else { &other }, dtype, at, shape, strides)
    };
    let dispatch = |a: [Spoiled; 5]| {
        let args = Dispatch::new(view(a[0]), view(a[1]), view(a[2]), view_mut(a[3])).scales(view(a[4]));
        e4m3.dispatch(&stream, args)
    };
    let good: [Spoiled; 5] = [
        (DType::E4M3, 0x10000, [7, 256], [256, 1], 0),
        (DType::I32, 0x20000, [7, 4], [4, 1], 0),
        (DType::F32, 0x30000, [7, 4], [4, 1], 0),
        (DType::U8, 0x40000, [1, handle], [handle, 1], 0),
        (DType::F32, 0x50000, [7, 2], [2, 1], 0),
    ];
    dispatch(good).unwrap();
    let names = ["x", "topk_idx", "topk_weight", "handle", "scales"];
    let expand = |a: [Spoiled; 4]| {
        let args = Expand::new(view_mut(a[0]), view_mut(a[1]), view_mut(a[2])).scales(view_mut(a[3]));
        e4m3.expand(&stream, args)
    };
    let wide: [Spoiled; 4] = [
        (DType::E4M3, 0x10000, [64, 256], [256, 1], 0),
        (DType::I32, 0x20000, [1, 64], [64, 1], 0),
        (DType::I32, 0x30000, [1, 8], [8, 1], 0),
        (DType::F32, 0x40000, [64, 2], [1, 64], 0),
    ];
    expand(wide).unwrap();
    let combine =
        |a: [Spoiled; 3]| bf16.combine(&stream, Combine::new(view(a[0]), view(a[1]), view_mut(a[2])));
    let back: [Spoiled; 3] = [
        (DType::BF16, 0x10000, [64, 256], [256, 1], 0),
        (DType::U8, 0x40000, [1, handle], [handle, 1], 0),
        (DType::BF16, 0x50000, [7, 256], [256, 1], 0),
    ];
    combine(back).unwrap();

    /// What is wrong with one argument, and the variant that says so.
    type Wrong = (&'static str, fn(&mut Spoiled));
    let wrongs: [Wrong; 5] = [
        ("dtype", |a| a.0 = DType::F16),
        ("device", |a| a.4 = 1),
        ("alignment", |a| a.1 += a.0.size() as u64 / 2 + (a.0.size() == 1) as u64),
        ("shape", |a| a.2[1] += 1),
        ("overlap", |a| a.1 = 1 << 40),
    ];
    for (variant, spoil) in wrongs {
        for (at, name) in names.iter().enumerate() {
            let mut args = good;
            spoil(&mut args[at]);
            assert_eq!(refusal(dispatch(args)), (variant, *name));
        }
        for (at, name) in ["x", "map", "ends", "scales"].iter().enumerate() {
            let mut args = wide;
            spoil(&mut args[at]);
            assert_eq!(refusal(expand(args)), (variant, *name));
        }
        for (at, name) in ["y", "handle", "out"].iter().enumerate() {
            let mut args = back;
            spoil(&mut args[at]);
            assert_eq!(refusal(combine(args)), (variant, *name));
        }
    }
    let mut args = good;
    args[0].2[0] = 11;
    assert_eq!(refusal(dispatch(args)), ("shape", "x"));
    args = good;
    args[0].3 = [264, 1];
    assert_eq!(refusal(dispatch(args)), ("stride", "x"));
    args = good;
    args[1].3 = [8, 1];
    assert_eq!(refusal(dispatch(args)), ("stride", "topk_idx"));
    args = good;
    args[3].1 = args[2].1;
    assert_eq!(refusal(dispatch(args)), ("overlap", "handle"));
    let mut args = back;
    args[2].2[0] = 11;
    assert_eq!(refusal(combine(args)), ("shape", "out"));
    // Scales where there are none, none where there are some, and a stream of another device.
    let bare = |plan: &Plan, x: DType, scales: bool, stream: &Stream| {
        let args = Dispatch::new(
            view((x, good[0].1, good[0].2, good[0].3, 0)),
            view(good[1]),
            view(good[2]),
            view_mut(good[3]),
        );
        plan.dispatch(stream, if scales { args.scales(view(good[4])) } else { args })
    };
    assert_eq!(refusal(bare(&e4m3, DType::E4M3, false, &stream)), ("shape", "scales"));
    assert_eq!(refusal(bare(&bf16, DType::BF16, true, &stream)), ("shape", "scales"));
    assert_eq!(refusal(bare(&bf16, DType::BF16, false, &other.default_stream())), ("device", "stream"));
    bare(&bf16, DType::BF16, false, &stream).unwrap();
    assert_eq!(refusal(bf16.status(&other.default_stream())), ("device", "stream"));
    assert_eq!(refusal(bf16.clear_status(&other.default_stream())), ("device", "stream"));
}
