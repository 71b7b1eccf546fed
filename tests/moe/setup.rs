//! Ranks on one emulated machine, their operands and the plain reference's answers.

use hadal::comm::{SymmetricBuffer, Team};
use hadal::emulator::{Completion, DeviceConfig, MachineConfig, Schedule};
use hadal::moe::exchange::reference::{self, Delivered, Places, Source};
use hadal::moe::exchange::{Combine, Dispatch, Expand, Options, Plan, Shape, Status};
use hadal::{Buffer, DType, Device, Matrix, MatrixMut, Result, Stream, bf16};

use crate::support::Random;

/// What tokens choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choices {
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
pub struct Case {
    pub experts: usize,
    pub topk: usize,
    pub hidden: usize,
    /// Of each rank.
    pub tokens: Vec<usize>,
    pub capacity: usize,
    pub rows: usize,
    pub alignment: usize,
    pub payload: DType,
    pub choices: Choices,
    pub sms: u32,
    pub programmatic: bool,
    pub seed: u64,
}

impl Case {
    pub fn new(tokens: &[usize]) -> Case {
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

    pub fn ranks(&self) -> usize {
        self.tokens.len()
    }

    pub fn shape(&self) -> Shape {
        let most = self.tokens.iter().copied().max().unwrap_or(0);
        Shape::new(self.experts, self.topk, self.hidden, most, self.capacity)
    }

    pub fn options(&self) -> Options {
        Options::new()
            .payload(self.payload)
            .alignment(self.alignment)
            .sms(self.sms)
            .programmatic(self.programmatic)
    }

    pub fn row_bytes(&self) -> usize {
        self.hidden * self.payload.size()
    }

    pub fn scale_words(&self) -> usize {
        if self.payload == DType::E4M3 { self.hidden.div_ceil(128) } else { 0 }
    }
}

/// A machine of so many devices, all checks on, as `which` and `seed` say; from 18 on the devices run at different speeds.
pub fn machine(ranks: usize, which: usize, seed: u64) -> Device {
    let config = MachineConfig {
        schedule: match which {
            0..18 => [Schedule::RoundRobin, Schedule::Random, Schedule::Starve][which % 3],
            _ => Schedule::Uneven,
        },
        completion: [Completion::Eager, Completion::Latest, Completion::Random][which / 3 % 3],
        resident_blocks: [None, Some(1)][which / 9 % 2],
        seed,
        ..MachineConfig::default()
    };
    emulated(ranks, config)
}

/// Tokens of each rank, of every number of ranks that the tests try.
pub const TEAMS: [&[usize]; 5] = [&[23], &[9, 14], &[9, 0, 14], &[5, 1, 9, 0, 8], &[3, 4, 0, 6, 2, 9, 1, 5]];

/// A [`machine`] that does its worst: at random, starving somebody, or its devices at different speeds, in turn with `seed` and `turn`;
/// copies land early, late or anyhow, blocks are resident one by one or all together.
pub fn adversary(ranks: usize, seed: u64, turn: usize) -> Device {
    let draw = seed as usize + turn;
    machine(ranks, [1, 2, 18][draw % 3] + 3 * (draw / 3 % 6), seed)
}

/// So many small devices, run in that way.
pub fn emulated(ranks: usize, config: MachineConfig) -> Device {
    let devices = vec![DeviceConfig { sms: 4, ..DeviceConfig::h100() }; ranks];
    Device::emulate(MachineConfig { devices, ..config }).unwrap()
}

/// One rank, with its operands.
pub struct Rank {
    pub device: Device,
    pub stream: Stream,
    pub plan: Plan,
    pub tokens: usize,
    pub handle: Buffer<u8>,
    /// On the host.
    pub x: Vec<u8>,
    pub scales: Vec<f32>,
    pub ids: Vec<i32>,
    pub weights: Vec<f32>,
    /// On the device.
    pub x_memory: Buffer<u8>,
    pub scales_memory: Buffer<f32>,
    pub ids_memory: Buffer<i32>,
    pub weights_memory: Buffer<f32>,
    pub expanded: Buffer<u8>,
    pub expanded_scales: Buffer<f32>,
    pub map: Buffer<i32>,
    pub ends: Buffer<i32>,
    pub y: Vec<bf16>,
    pub y_memory: Buffer<bf16>,
    pub out: Buffer<bf16>,
}

pub struct Setup {
    pub case: Case,
    pub _memory: SymmetricBuffer,
    pub ranks: Vec<Rank>,
}

pub fn choose(case: &Case, random: &mut Random) -> Vec<i32> {
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
pub fn number(random: &mut Random) -> bf16 {
    match random.below(20) {
        0 => bf16::from_f32(-0.0),
        1 => bf16::from_f32(0.0),
        _ => bf16::from_f32(random.normal() * 2f32.powi(random.below(40) as i32 - 20)),
    }
}

/// Bytes of memory, whatever they are.
pub fn read(device: &Device, stream: &Stream, from: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: callers name memory of the device that is at least so long; the stream is of the device.
    unsafe { device.driver().copy_to_host(device.ordinal(), &mut bytes, from, stream.raw()) }.unwrap();
    bytes
}

pub fn read_matrix(rank: &Rank, matrix: Matrix<'_>, rows: usize) -> Vec<u8> {
    read(&rank.device, &rank.stream, matrix.address(), rows * matrix.cols() * matrix.dtype().size())
}

pub fn integers(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

impl Rank {
    pub fn dispatch_args(&mut self, case: &Case, cached: bool) -> Dispatch<'_> {
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

    pub fn dispatch(&mut self, case: &Case, cached: bool) -> Result<()> {
        let (plan, stream) = (self.plan.clone(), self.device.default_stream());
        plan.dispatch(&stream, self.dispatch_args(case, cached))
    }

    pub fn expand(&mut self, case: &Case) -> Result<()> {
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

    pub fn combine_args(&mut self, case: &Case) -> Combine<'_> {
        let len = self.handle.len();
        Combine::new(
            self.y_memory.matrix(case.rows, case.hidden).unwrap(),
            self.handle.matrix(1, len).unwrap(),
            self.out.matrix_mut(self.tokens, case.hidden).unwrap(),
        )
    }

    pub fn combine(&mut self, case: &Case) -> Result<()> {
        let (plan, stream) = (self.plan.clone(), self.device.default_stream());
        plan.combine(&stream, self.combine_args(case))
    }

    pub fn status(&self) -> Status {
        self.plan.status(&self.stream).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Setup {
    pub fn new(first: &Device, case: &Case, options: Options) -> Setup {
        Setup::on((0..case.ranks()).map(|rank| first.sibling(rank as u32).unwrap()).collect(), case, options)
    }

    /// On these devices, in rank order.
    pub fn on(devices: Vec<Device>, case: &Case, options: Options) -> Setup {
        let random = &mut Random(case.seed);
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

    /// Zeroes and paints everything that operations write, as it was at first.
    pub fn renew(&mut self) {
        let case = &self.case;
        for rank in &mut self.ranks {
            let (device, stream) = (&rank.device, &rank.stream);
            let fill = |at: u64, value: u8, bytes: usize| {
                // SAFETY: the window and the buffers named below are at least that long; nothing runs.
                unsafe { device.driver().fill(device.ordinal(), at, value, bytes as u64, stream.raw()) }
                    .unwrap();
            };
            let window = rank.plan.window();
            fill(window.base(), 0, 1024);
            fill(window.base() + 1024, 0xff, window.bytes() as usize - 1024);
            fill(rank.expanded.address(), 0xff, rank.expanded.len());
            fill(rank.map.address(), 0x5a, 4 * case.rows);
            fill(rank.ends.address(), 0x5a, 4 * rank.ends.len());
            let out = vec![bf16::NAN; rank.tokens * case.hidden];
            rank.out = device.upload(stream, &out).unwrap();
        }
    }

    /// What every rank should receive: payload bytes, and scales.
    pub fn delivered(&self) -> (Vec<Delivered<u8>>, Vec<Delivered<f32>>) {
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
            reference::dispatch(&bytes, experts, topk, self.case.row_bytes(), capacity).unwrap(),
            reference::dispatch(&scales, experts, topk, self.case.scale_words(), capacity).unwrap(),
        )
    }

    pub fn synchronize(&self) {
        for rank in &self.ranks {
            rank.stream.synchronize().unwrap_or_else(|error| panic!("{:?}: {error}", self.case));
        }
    }

    /// One round of everything, checked.
    pub fn round(&mut self, cached: bool) {
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
            let weights = &delivered[r].topk_weight;
            reduced.push(reference::reduce(positions, weights, case.topk, &rank.y, case.hidden).unwrap());
        }
        for rank in &mut self.ranks {
            rank.combine(&case).unwrap();
        }
        self.synchronize();
        for (r, rank) in self.ranks.iter().enumerate() {
            let want = reference::combine(r, rank.tokens, &delivered, &reduced, case.hidden).unwrap();
            let got = rank.out.to_vec(&rank.stream).unwrap();
            for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                let (token, column) = (at / case.hidden, at % case.hidden);
                assert_eq!(got.to_bits(), want.to_bits(), "rank {r}, out[{token}, {column}]; {case:?}");
            }
        }
        if let Some(emulated) = self.ranks[0].device.emulated() {
            let found = [emulated.reports(), emulated.advice()].concat();
            assert!(found.is_empty(), "{}", found[0]);
        }
    }
}

pub fn check_received(case: &Case, r: usize, rank: &Rank, want: &Delivered<u8>, scales: &Delivered<f32>) {
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

pub fn check_expanded(
    case: &Case,
    r: usize,
    rank: &Rank,
    delivered: &Delivered<u8>,
    scales: &Delivered<f32>,
) -> Places {
    let local = case.experts / case.ranks();
    let places = reference::expand(&delivered.topk_idx, local, case.rows, case.alignment).unwrap();
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
pub fn check(which: usize, case: &Case, cached: bool) -> Setup {
    check_on(&machine(case.ranks(), which, case.seed), case, cached)
}

/// As [`check`], on that device and its siblings.
pub fn check_on(first: &Device, case: &Case, cached: bool) -> Setup {
    let mut setup = Setup::new(first, case, case.options());
    setup.round(false);
    setup.round(cached);
    setup
}

pub fn clean(setup: &Setup) {
    for (r, rank) in setup.ranks.iter().enumerate() {
        assert!(rank.status().is_clean(), "rank {r}: {:?}; {:?}", rank.status(), setup.case);
    }
}
