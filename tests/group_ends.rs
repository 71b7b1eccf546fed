//! Group ends on the emulator against the plain search.

#![cfg(feature = "emulator")]

mod support;

use hadal::moe::group_ends::{Plan, reference};
use hadal::{Device, Error, Stream};
use proptest::prelude::*;
use support::{
    MACHINES, assert_clean, cases, device, device_at_random, device_of, device_on, machines, schedules,
};

/// Red zones hold this.
const PAINT: i32 = 0x7fc0_dead;

/// Runs a map and compares every end and the words around them.
fn check(device: &Device, stream: &Stream, map: &[i32], groups: usize) {
    let plan = Plan::new(device, groups).unwrap();
    let rows = device.upload(stream, if map.is_empty() { &[0] } else { map }).unwrap();
    let mut ends = device.upload(stream, &vec![PAINT; groups + 8]).unwrap();
    let map_view = rows.view(0, [1, map.len()], [map.len().max(1), 1]).unwrap();
    let ends_view = ends.view_mut(4, [1, groups], [groups, 1]).unwrap();
    plan.run(stream, map_view, ends_view).unwrap();
    let got = ends.to_vec(stream).unwrap();
    let paint = [PAINT; 4];
    assert_eq!((&got[..4], &got[groups + 4..]), (&paint[..], &paint[..]));
    assert_eq!(&got[4..groups + 4], reference(map, groups));
    assert_clean(device);
}

/// Sizes as an aligned map: padding between the groups is -1.
fn aligned(sizes: &[usize], alignment: usize) -> Vec<i32> {
    let mut map = Vec::new();
    for (group, size) in sizes.iter().enumerate() {
        map.resize(map.len().next_multiple_of(alignment), -1);
        map.resize(map.len() + size, group as i32);
    }
    map
}

/// One block, whatever there is to do: no budget is smaller.
#[test]
fn it_takes_one_sm() {
    let (device, stream) = device_of(0, 1);
    check(&device, &stream, &aligned(&[3000, 0, 1], 128), 3);
    if let Some(emulated) = device.emulated() {
        assert_eq!((emulated.counters().blocks, emulated.counters().sms_used), (1, 1));
    }
}

#[test]
fn the_reference_knows_a_map_by_hand() {
    let map = [0, 0, -1, -1, 2, -1, -1, -1, 3, 3, 3, 3, 3, -1, -1, -1];
    assert_eq!(reference(&map, 6), [2, 2, 5, 13, 13, 13]);
    assert_eq!(reference(&[], 2), [0, 0]);
    assert_eq!(reference(&[-1, 1], 2), [0, 2]);
}

#[test]
fn every_row_forced() {
    for which in 0..MACHINES {
        let (device, stream) = device_of(which, 1);
        for groups in [1, 31, 32, 33, 1024] {
            let sizes: Vec<usize> = (0..groups).map(|g| [1, 0, 5, 3][g % 4]).collect();
            check(&device, &stream, &aligned(&sizes, 4), groups);
        }
    }
}

#[test]
#[ignore = "long: .ci/run tries 20 schedules a kernel, .ci/full 100"]
fn every_row_under_many_schedules() {
    for seed in 0..schedules() {
        let (device, stream) = device_at_random(seed);
        check(&device, &stream, &aligned(&[5, 0, 1200, 7, 1], 16), 40);
    }
}

#[test]
fn rows_and_groups_around_the_block() {
    let (device, stream) = device(2);
    for rows in [0, 1, 1023, 1024, 1025, 2049] {
        check(&device, &stream, &vec![0; rows], 3);
        check(&device, &stream, &vec![2; rows], 3);
        check(&device, &stream, &vec![-1; rows], 3);
    }
    // Groups that do not exist, and groups that fall back.
    check(&device, &stream, &[i32::MIN, 3, 0, 7, i32::MAX], 3);
    check(&device, &stream, &[2, 2, 0, 1], 3);
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn any_map(
        sizes in prop::collection::vec(prop_oneof![Just(0usize), 1..4usize, 1..300usize], 1..70),
        alignment in prop_oneof![Just(1usize), Just(16), Just(128)],
        machine in machines(),
    ) {
        let (device, stream) = device_on(machine);
        check(&device, &stream, &aligned(&sizes, alignment), sizes.len());
    }
}

#[test]
fn wrong_inputs_are_refused() {
    let (device, stream) = device(3);
    for groups in [0, 1025] {
        assert!(matches!(Plan::new(&device, groups), Err(Error::Shape { argument: "groups", .. })));
    }
    let plan = Plan::new(&device, 4).unwrap();
    let map = device.upload(&stream, &[0i32; 8]).unwrap();
    let floats = device.upload(&stream, &[0f32; 8]).unwrap();
    let mut ends = device.upload(&stream, &[0i32; 8]).unwrap();
    let of = |result: hadal::Result<()>| result.unwrap_err().to_string();
    let error = of(plan.run(&stream, floats.matrix(1, 8).unwrap(), ends.matrix_mut(1, 8).unwrap()));
    assert!(error.contains("`map`") || error.contains("map"), "{error}");
    let error = plan.run(&stream, map.matrix(1, 8).unwrap(), ends.matrix_mut(1, 8).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Shape { argument: "ends", .. }), "{error}");
    let error = plan.run(&stream, map.matrix(2, 4).unwrap(), ends.matrix_mut(1, 8).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Shape { argument: "map", .. }), "{error}");
    let other = hadal::Device::emulate(hadal::emulator::MachineConfig::default()).unwrap();
    let elsewhere = other.new_stream().unwrap();
    let part = ends.view_mut(0, [1, 4], [4, 1]).unwrap();
    let error = plan.run(&elsewhere, map.matrix(1, 8).unwrap(), part).unwrap_err();
    assert!(matches!(error, Error::Device { argument: "stream", .. }), "{error}");
}
