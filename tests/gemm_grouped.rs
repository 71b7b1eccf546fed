//! The grouped GEMM on the emulator: every row bit for bit what the scalar reference gives it with its group's weight, over
//! groups whose sizes only the device knows. Absent rows of `a` and of its scales are memory that nobody has written, so
//! loading one is a finding; absent rows of `out` have to keep their paint.

#![cfg(feature = "emulator")]

mod support;

use hadal::emulator::{Checks, MachineConfig};
use hadal::gemm::{GroupedArgs, GroupedPlan, GroupedShape, Options, reference, supports_grouped};
use hadal::kernel::table::TABLE;
use hadal::moe::swiglu::reference::{contiguous_rows, masked_rows};
use hadal::quant::m_major_stride;
use hadal::{DType, Device, E4M3, Error, Stream, bf16};
use proptest::prelude::*;
use support::{
    Data, MACHINES, Random, assert_clean, cases, device, device_at_random, device_of, device_on, machines,
    schedules,
};

#[derive(Debug, Clone)]
struct Case {
    /// Rows of each group.
    sizes: Vec<usize>,
    /// Rows of a group's slab, for the masked layout.
    slab: Option<usize>,
    alignment: usize,
    n: usize,
    k: usize,
    tile: Option<(usize, usize)>,
    data: Data,
    sms: u32,
    /// Bytes from row to row of a, weight and out beyond their width, in sixteens.
    gaps: [usize; 3],
    seed: u64,
}

impl Case {
    fn new(sizes: &[usize], slab: Option<usize>, n: usize, k: usize) -> Case {
        Case {
            sizes: sizes.to_vec(),
            slab,
            alignment: 1,
            n,
            k,
            tile: None,
            data: Data::Normal,
            sms: 132,
            gaps: [0; 3],
            seed: 1,
        }
    }
}

/// Writes part of a buffer, which has no call for that: what is left out stays unwritten.
fn write(device: &Device, stream: &Stream, address: u64, bytes: &[u8]) {
    // SAFETY: the callers name addresses inside live buffers that nothing else uses yet.
    unsafe { device.driver().copy_to_device(device.ordinal(), address, bytes, stream.raw()) }.unwrap();
}

/// Runs a case twice and compares everything, paint included. Returns the kernel's name.
fn check(device: &Device, stream: &Stream, case: &Case) -> &'static str {
    let Case { n, k, .. } = *case;
    let random = &mut Random(case.seed);
    let groups = case.sizes.len();
    let (sizes, m): (Vec<i32>, usize) = match case.slab {
        Some(slab) => (case.sizes.iter().map(|&n| n as i32).collect(), groups * slab),
        None => {
            let mut end = 0usize;
            let ends = case.sizes.iter().map(|n| {
                end = end.next_multiple_of(case.alignment) + n;
                end as i32
            });
            (ends.collect(), end + 3)
        }
    };
    let present = match case.slab {
        Some(slab) => masked_rows(&sizes, slab),
        None => contiguous_rows(&sizes, case.alignment, m),
    };
    let (blocks, n_blocks, ld) = (k.div_ceil(128), n.div_ceil(128), m_major_stride(m));
    let pitches = [k + 16 * case.gaps[0], k + 16 * case.gaps[1], n + 8 * case.gaps[2]];

    let a = device.alloc::<E4M3>(m * pitches[0] + 16).unwrap();
    let a_scales = device.alloc::<f32>(ld * blocks).unwrap();
    let weight: Vec<E4M3> = (0..groups * n * k).map(|_| case.data.value(random)).collect();
    let scale_inv: Vec<f32> = (0..groups * n_blocks * blocks).map(|_| case.data.scale(random)).collect();
    let mut padded = vec![E4M3::NAN; groups * n * pitches[1]];
    for (row, values) in weight.chunks(k).enumerate() {
        padded[row * pitches[1]..][..k].copy_from_slice(values);
    }
    let weight_memory = device.upload(stream, &padded).unwrap();
    let scale_inv_memory = device.upload(stream, &scale_inv).unwrap();
    let sizes_memory = device.upload(stream, &sizes).unwrap();

    let mut want = vec![bf16::from_bits(0xffff); m * pitches[2] + 8];
    let mut rows = present.iter();
    for (group, &size) in case.sizes.iter().enumerate() {
        let values: Vec<E4M3> = (0..size * k).map(|_| case.data.value(random)).collect();
        let scales: Vec<f32> = (0..size * blocks).map(|_| case.data.scale(random)).collect();
        let problem = reference::Problem::new(
            [size, n, k],
            &values,
            &scales,
            &weight[group * n * k..][..n * k],
            &scale_inv[group * n_blocks * blocks..][..n_blocks * blocks],
        )
        .unwrap();
        let results = problem.results();
        for at in 0..size {
            let row = *rows.next().unwrap();
            let bytes: Vec<u8> = values[at * k..][..k].iter().map(|v| v.0).collect();
            write(device, stream, a.address() + (row * pitches[0]) as u64, &bytes);
            for (block, scale) in scales[at * blocks..][..blocks].iter().enumerate() {
                let address = a_scales.address() + 4 * (block * ld + row) as u64;
                write(device, stream, address, &scale.to_le_bytes());
            }
            for (to, value) in want[row * pitches[2]..].iter_mut().zip(&results[at * n..][..n]) {
                *to = reference::round_bf16(*value);
            }
        }
    }
    assert_eq!(rows.next(), None);

    let shape = match case.slab {
        Some(slab) => GroupedShape::masked(groups, slab, n, k),
        None => GroupedShape::contiguous(groups, m, n, k).alignment(case.alignment),
    };
    let mut options = Options::new().sms(case.sms).programmatic(true);
    if let Some((m, n)) = case.tile {
        options = options.tile(m, n);
    }
    let plan = GroupedPlan::new(device, shape, options).unwrap();
    for run in 0..2 {
        let mut out = device.alloc::<bf16>(want.len()).unwrap();
        out.fill_bytes(stream, 0xff).unwrap();
        let args = GroupedArgs::new(
            a.view(0, [m, k], [pitches[0], 1]).unwrap(),
            a_scales.view(0, [m, blocks], [1, ld]).unwrap(),
            weight_memory.view(0, [groups * n, k], [pitches[1], 1]).unwrap(),
            scale_inv_memory.matrix(groups * n_blocks, blocks).unwrap(),
            sizes_memory.matrix(1, groups).unwrap(),
            out.view_mut(0, [m, n], [pitches[2], 1]).unwrap(),
        );
        plan.run(stream, args).unwrap();
        let got = out.to_vec(stream).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            let (row, col) = (at / pitches[2], at % pitches[2]);
            assert_eq!(got.to_bits(), want.to_bits(), "run {run}, out[{row}, {col}]; {case:?}");
        }
    }
    assert_clean(device);
    plan.kernel()
}

/// A case that exercises a row of the table: empty groups, one row, a full tile and one more, a cut tile.
fn forced(grouping: &str, tile: (usize, usize)) -> Case {
    let sizes = [0, 1, tile.0 + 1, 0, 9];
    let slab = (grouping == "masked").then_some(tile.0 + 3);
    Case { tile: Some(tile), sms: 3, ..Case::new(&sizes, slab, 136, 272) }
}

fn every_row() -> impl Iterator<Item = (&'static str, &'static str, (usize, usize))> {
    TABLE.iter().filter(|row| row.family == "gemm" && row.text("GROUPING") != Some("dense")).map(|row| {
        let tile = (row.int("BLOCK_M").unwrap() as usize, row.int("BLOCK_N").unwrap() as usize);
        (row.name, row.text("GROUPING").unwrap(), tile)
    })
}

/// On every kind of machine.
#[test]
fn every_row_forced() {
    assert_eq!(every_row().count(), 5);
    for (name, grouping, tile) in every_row() {
        for which in (0..MACHINES).step_by(if tile.0 > 64 { 5 } else { 1 }) {
            let (device, stream) = device_of(which, 1);
            assert_eq!(check(&device, &stream, &forced(grouping, tile)), name);
        }
    }
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules a kernel, .ci/full 100"]
fn every_row_under_many_schedules() {
    for (_, grouping, tile) in every_row() {
        for seed in 0..schedules() {
            let (device, stream) = device_at_random(seed);
            check(&device, &stream, &Case { seed, ..forced(grouping, tile) });
        }
    }
}

#[test]
fn all_values() {
    for data in Data::ALL {
        let (device, stream) = device(5);
        check(&device, &stream, &Case { data, ..Case::new(&[3, 0, 70], None, 72, 400) });
        check(&device, &stream, &Case { data, ..Case::new(&[3, 0, 70], Some(70), 72, 400) });
    }
}

/// Many experts with a row or none, on few SMs: a block walks over several groups.
#[test]
fn many_groups() {
    let (device, stream) = device(7);
    let sizes: Vec<usize> = (0..100).map(|group| [0, 1, 0, 2][group % 4]).collect();
    check(&device, &stream, &Case { sms: 2, ..Case::new(&sizes, Some(2), 8, 16) });
    check(&device, &stream, &Case { sms: 5, alignment: 4, ..Case::new(&sizes, None, 8, 16) });
}

#[test]
fn the_budget_of_sms_is_kept() {
    for (slab, tile) in
        [(None, (256, 128)), (None, (64, 128)), (Some(200), (128, 128)), (Some(200), (64, 128))]
    {
        let (device, stream) = device(2);
        let case = Case { sms: 3, tile: Some(tile), ..Case::new(&[200, 1, 0, 130], slab, 264, 128) };
        check(&device, &stream, &case);
        // Two runs of a block on each SM.
        if let Some(emulated) = device.emulated() {
            assert_eq!((emulated.counters().blocks, emulated.counters().sms_used), (6, 3), "{tile:?}");
        }
    }
}

#[test]
fn all_groups_empty() {
    let (device, stream) = device(1);
    check(&device, &stream, &Case::new(&[0, 0, 0], None, 64, 128));
    check(&device, &stream, &Case::new(&[0, 0, 0], Some(70), 64, 128));
}

/// A group without rows moves nothing, one with a single row moves that row and its weight.
/// Sizes no one should have written stay inside the rows, and touch no other. Where ends fall back groups share rows, which races; that they
/// stay inside is all there is to check.
#[test]
fn senseless_sizes_are_cut() {
    let (rows, n, k) = (12, 8, 16);
    for (masked, sizes, present) in [
        (true, [-5, i32::MIN, 100], 8..12),
        (true, [i32::MAX, 0, -1], 0..4),
        (false, [-7, 3, i32::MAX], 0..12),
        (false, [i32::MIN, -1, 2], 0..2),
        (false, [9, 0, 5], 0..9),
        (false, [i32::MAX, i32::MIN, i32::MAX], 0..12),
    ] {
        let mut checks = Checks::all();
        checks.races = masked || sizes.is_sorted();
        let device = Device::emulate(MachineConfig { checks, ..MachineConfig::default() }).unwrap();
        let stream = device.new_stream().unwrap();
        let a = device.upload(&stream, &vec![E4M3::from_f32(1.0); rows * k]).unwrap();
        let weight = device.upload(&stream, &vec![E4M3::from_f32(1.0); 3 * n * k]).unwrap();
        let (a_scales, scale_inv) = (vec![1f32; rows], [1f32; 3]);
        let a_scales = device.upload(&stream, &a_scales).unwrap();
        let scale_inv = device.upload(&stream, &scale_inv).unwrap();
        let sizes = device.upload(&stream, &sizes).unwrap();
        let shape = match masked {
            true => GroupedShape::masked(3, 4, n, k),
            false => GroupedShape::contiguous(3, rows, n, k),
        };
        let plan = GroupedPlan::new(&device, shape, Options::new()).unwrap();
        let mut out = device.alloc::<bf16>(rows * n).unwrap();
        out.fill_bytes(&stream, 0xff).unwrap();
        let args = GroupedArgs::new(
            a.matrix(rows, k).unwrap(),
            a_scales.view(0, [rows, 1], [1, rows]).unwrap(),
            weight.matrix(3 * n, k).unwrap(),
            scale_inv.matrix(3, 1).unwrap(),
            sizes.matrix(1, 3).unwrap(),
            out.matrix_mut(rows, n).unwrap(),
        );
        plan.run(&stream, args).unwrap();
        for (row, values) in out.to_vec(&stream).unwrap().chunks(n).enumerate() {
            let want = if present.contains(&row) { bf16::from_f32(16.0).to_bits() } else { 0xffff };
            assert!(values.iter().all(|x| x.to_bits() == want), "row {row} of {present:?}: {values:?}");
        }
        assert_clean(&device);
    }
}

#[test]
fn bytes_moved_follow_the_rows_that_are_there() {
    let moved = |sizes: &[usize]| {
        let (device, stream) = device_of(0, 1);
        check(&device, &stream, &Case { tile: Some((64, 128)), ..Case::new(sizes, Some(64), 128, 1024) });
        device.emulated().map(|emulated| emulated.counters())
    };
    let (Some(few), Some(none)) = (moved(&[1, 0]), moved(&[0, 0])) else { return };
    assert_eq!((none.tma_load_bytes, none.tma_store_bytes), (0, 0));
    // Two runs, one tile: the weight's panel whole, one row of A.
    println!("{few:?}");
    assert!(few.tma_load_bytes <= 2 * (129 * 1024 + 64 * 1024), "{}", few.tma_load_bytes);
}

#[test]
fn wrong_inputs_are_refused() {
    let (device, stream) = device(0);
    let refused = |shape, options| supports_grouped(&device, shape, options).unwrap_err();
    let masked = |groups, m, n, k| GroupedShape::masked(groups, m, n, k);
    assert!(matches!(refused(masked(0, 64, 128, 128), Options::new()), Error::Shape { .. }));
    assert!(matches!(refused(masked(513, 64, 128, 128), Options::new()), Error::Shape { .. }));
    assert!(matches!(refused(masked(2, 64, 100, 128), Options::new()), Error::Shape { .. }));
    assert!(matches!(refused(masked(2, 64, 128, 100), Options::new()), Error::Shape { .. }));
    assert!(matches!(refused(masked(2, usize::MAX, 128, 128), Options::new()), Error::Shape { .. }));
    let unaligned = GroupedShape::contiguous(2, 64, 128, 128).alignment(0);
    assert!(matches!(refused(unaligned, Options::new()), Error::Option { argument: "alignment", .. }));
    assert!(matches!(refused(masked(2, 64, 128, 128), Options::new().sms(133)), Error::Option { .. }));
    assert!(matches!(refused(masked(2, 64, 128, 128), Options::new().tile(256, 128)), Error::Option { .. }));
    let floats = Options::new().output(DType::F32);
    assert!(matches!(refused(masked(2, 64, 128, 128), floats), Error::Dtype { argument: "out", .. }));

    let plan = GroupedPlan::new(&device, masked(2, 8, 128, 128), Options::new()).unwrap();
    let a = device.alloc::<E4M3>(32 * 128).unwrap();
    let a_scales = device.alloc::<f32>(64).unwrap();
    let weight = device.alloc::<E4M3>(3 * 128 * 128).unwrap();
    let scale_inv = device.alloc::<f32>(4).unwrap();
    let sizes = device.alloc::<i32>(4).unwrap();
    let mut out = device.alloc::<bf16>(16 * 128 + 8).unwrap();
    let mut run = |m: usize, weight_rows: usize, groups: usize, ld: usize, out_at: usize| {
        let args = GroupedArgs::new(
            a.matrix(m, 128).unwrap(),
            a_scales.view(0, [16, 1], [ld, 1]).unwrap(),
            weight.view(0, [weight_rows, 128], [128, 1]).unwrap(),
            scale_inv.view(0, [2, 1], [1, 1]).unwrap(),
            sizes.view(0, [1, groups], [groups, 1]).unwrap(),
            out.view_mut(out_at, [16, 128], [128, 1]).unwrap(),
        );
        match plan.run(&stream, args).unwrap_err() {
            Error::Shape { argument, .. } => ("shape", argument),
            Error::Alignment { argument, .. } => ("alignment", argument),
            Error::Stride { argument, .. } => ("stride", argument),
            other => panic!("{other}"),
        }
    };
    assert_eq!(run(15, 256, 2, 1, 0), ("shape", "a"));
    assert_eq!(run(16, 128, 2, 1, 0), ("shape", "weight"));
    assert_eq!(run(16, 256, 3, 1, 0), ("shape", "sizes"));
    assert_eq!(run(16, 256, 2, 2, 0), ("stride", "a_scales"));
    assert_eq!(run(16, 256, 2, 1, 4), ("alignment", "out"));

    // Each operand in a type that is not its own.
    let bytes = device.alloc::<u8>(256 * 128).unwrap();
    let mut floats = device.alloc::<f32>(16 * 128).unwrap();
    for (at, argument) in
        ["a", "a_scales", "weight", "weight_scale_inv", "sizes", "out"].into_iter().enumerate()
    {
        let or_bytes = |operand: usize, right| {
            let [rows, cols] = [[16, 128], [16, 1], [256, 128], [2, 1], [1, 2]][operand];
            if operand == at { bytes.matrix(rows, cols).unwrap() } else { right }
        };
        let args = GroupedArgs::new(
            or_bytes(0, a.matrix(16, 128).unwrap()),
            or_bytes(1, a_scales.view(0, [16, 1], [1, 16]).unwrap()),
            or_bytes(2, weight.matrix(256, 128).unwrap()),
            or_bytes(3, scale_inv.matrix(2, 1).unwrap()),
            or_bytes(4, sizes.matrix(1, 2).unwrap()),
            if at == 5 { floats.matrix_mut(16, 128).unwrap() } else { out.matrix_mut(16, 128).unwrap() },
        );
        let refused = plan.run(&stream, args).unwrap_err();
        assert!(matches!(&refused, Error::Dtype { argument: named, .. } if *named == argument), "{refused}");
    }
    if let Some(emulated) = device.emulated() {
        assert_eq!(emulated.counters().launches, 0);
    }
}

fn a_case() -> impl Strategy<Value = Case> {
    let size =
        prop_oneof![3 => Just(0usize), 2 => Just(1), 3 => 0usize..20, 2 => 62usize..67, 1 => 126usize..131];
    let sizes = proptest::collection::vec(size, 1..7);
    let slab = proptest::option::of(131usize..134);
    let alignment = proptest::sample::select(vec![1usize, 2, 8, 64, 128]);
    let (n, k) = ((1usize..26).prop_map(|n| 8 * n), (1usize..34).prop_map(|k| 16 * k));
    let data = proptest::sample::select(Data::ALL.to_vec());
    let sms = prop_oneof![Just(1u32), 2u32..6, Just(132)];
    let tile = proptest::option::of(proptest::sample::select(vec![(64, 128), (128, 128)]));
    (sizes, slab, alignment, (n, k), tile, data, sms, [0usize..3, 0usize..3, 0usize..3], any::<u64>())
        .prop_map(|(sizes, slab, alignment, (n, k), tile, data, sms, gaps, seed)| Case {
            sizes,
            slab,
            alignment,
            n,
            k,
            tile,
            data,
            sms,
            gaps,
            seed,
        })
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn every_row_is_the_reference_s(case in a_case(), machine in machines()) {
        let (device, stream) = device_on(machine);
        check(&device, &stream, &case);
    }
}
