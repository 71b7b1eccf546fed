//! Teams, symmetric memory and windows: what they hand out, what they refuse, and the seam for other processes, with threads in
//! their place.

#![cfg(feature = "emulator")]

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Barrier, Mutex};

use hadal::comm::{PeerHandles, SymmetricBuffer, Team, Window};
use hadal::emulator::{DeviceConfig, MachineConfig};
use hadal::{Device, Error, Result};
use support::Recorder;

/// So many devices of one emulated machine.
fn devices(count: usize) -> Vec<Device> {
    let config = MachineConfig { devices: vec![DeviceConfig::h100(); count], ..MachineConfig::default() };
    let first = Device::emulate(config).unwrap();
    (0..count).map(|ordinal| first.sibling(ordinal as u32).unwrap()).collect()
}

#[test]
fn every_rank_is_given_access_to_every_other() {
    let recorder = Recorder::new((9, 0));
    let first = Device::from_driver(recorder.clone(), 0).unwrap();
    let team = Team::new(vec![first.sibling(1).unwrap(), first]).unwrap();
    assert_eq!(team.ranks(), 2);
    assert_eq!(team.devices().iter().map(Device::ordinal).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(recorder.take(), ["peer 1 0", "peer 0 1"]);
}

#[test]
fn a_team_is_different_devices_of_one_driver() {
    let refused = |devices: Vec<Device>, what: &str| {
        let error = Team::new(devices).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        error
    };
    assert!(matches!(refused(vec![], "at least one device"), Error::Shape { argument: "devices", .. }));
    let two = devices(2);
    let twice = refused(vec![two[0].clone(), two[1].clone(), two[0].clone()], "ranks 0 and 2");
    assert!(matches!(twice, Error::Device { argument: "devices", .. }));
    let strangers = refused(vec![two[0].clone(), devices(2).remove(1)], "same driver");
    assert!(matches!(strangers, Error::Device { argument: "devices", .. }));
    Team::new(two.clone()).unwrap();
    Team::new(two).unwrap();
}

#[test]
fn symmetric_memory_is_zero_and_every_rank_sees_the_same_bases() {
    for ranks in [1, 3, 8] {
        let team = Team::new(devices(ranks)).unwrap();
        let memory = SymmetricBuffer::new(&team, 1000).unwrap();
        assert_eq!((memory.bytes(), memory.windows().len()), (1000, ranks));
        assert!(memory.window(ranks).is_none());
        let bases = memory.windows()[0].bases().to_vec();
        for (rank, (window, device)) in memory.windows().iter().zip(team.devices()).enumerate() {
            assert_eq!((window.rank(), window.ranks(), window.bytes()), (rank, ranks, 1000));
            assert_eq!((window.bases(), window.base()), (bases.as_slice(), bases[rank]));
            assert_eq!(window.device().id(), device.id());
            let stream = device.default_stream();
            let read = |from: u64, len: usize| {
                let mut bytes = vec![0xffu8; len];
                // SAFETY: the window's own memory and table, of these lengths; the stream is the device's default one.
                unsafe { device.driver().copy_to_host(device.ordinal(), &mut bytes, from, stream.raw()) }
                    .unwrap();
                bytes
            };
            assert_eq!(read(window.base(), 1000), vec![0; 1000]);
            let table = read(window.table(), 8 * ranks);
            let table: Vec<u64> =
                table.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
            assert_eq!(table, bases);
        }
    }
    let team = Team::new(devices(1)).unwrap();
    assert!(matches!(SymmetricBuffer::new(&team, 0), Err(Error::Shape { argument: "bytes", .. })));
}

#[test]
fn windows_keep_the_memory() {
    let team = Team::new(devices(2)).unwrap();
    let window = SymmetricBuffer::new(&team, 64).unwrap().windows()[1].clone();
    let device = window.device();
    let stream = device.default_stream();
    let mut bytes = [1u8; 64];
    // SAFETY: the window keeps the 64 bytes at its base; the stream is the device's default one.
    unsafe { device.driver().copy_to_host(1, &mut bytes, window.base(), stream.raw()) }.unwrap();
    assert_eq!(bytes, [0; 64]);
}

/// Where a device cannot be waited for, its peers' memory is not freed under it: only each window's own table is.
#[test]
fn memory_that_cannot_be_waited_for_is_kept() {
    for (full, frees) in [(false, 2 + 2 + 2), (true, 2)] {
        let recorder = Recorder::new((9, 0));
        let first = Device::from_driver(recorder.clone(), 0).unwrap();
        let team = Team::new(vec![first.sibling(1).unwrap(), first]).unwrap();
        let memory = SymmetricBuffer::new(&team, 64).unwrap();
        recorder.take();
        recorder.full.store(full, Ordering::Relaxed);
        drop(memory);
        // Waiting allocates and frees on each device, then each rank's memory goes.
        assert_eq!(recorder.take().iter().filter(|call| *call == "free").count(), frees);
    }
}

/// Ranks that are threads: each leaves its address, all wait, each takes everybody's.
struct Threads {
    rank: usize,
    board: &'static (Barrier, Mutex<Vec<u64>>),
}

impl PeerHandles for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        3
    }

    fn exchange(&self, _device: &Device, base: u64, _bytes: u64) -> Result<Vec<u64>> {
        self.board.1.lock().unwrap()[self.rank] = base;
        self.board.0.wait();
        Ok(self.board.1.lock().unwrap().clone())
    }
}

#[test]
fn ranks_that_meet_elsewhere_make_windows_too() {
    let board: &'static _ = Box::leak(Box::new((Barrier::new(3), Mutex::new(vec![0; 3]))));
    let team = Team::new(devices(3)).unwrap();
    let ranks: Vec<_> = team
        .devices()
        .iter()
        .cloned()
        .enumerate()
        .map(|(rank, device)| {
            std::thread::spawn(move || {
                let memory = device.alloc::<u8>(512).unwrap();
                // SAFETY: no kernel is launched on the window.
                let window = unsafe {
                    Window::exchange(&device, memory.address(), 512, &Threads { rank, board }).unwrap()
                };
                assert_eq!((window.rank(), window.ranks(), window.base()), (rank, 3, memory.address()));
                window.bases().to_vec()
            })
        })
        .collect();
    let bases: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    assert!(bases.iter().all(|b| *b == bases[0]) && bases[0].len() == 3);
}

/// Handles that answer whatever they were told to.
struct Answer(usize, usize, Vec<u64>);

impl PeerHandles for Answer {
    fn rank(&self) -> usize {
        self.0
    }

    fn ranks(&self) -> usize {
        self.1
    }

    fn exchange(&self, _device: &Device, _base: u64, _bytes: u64) -> Result<Vec<u64>> {
        Ok(self.2.clone())
    }
}

#[test]
fn addresses_that_make_no_sense_are_refused() {
    let device = devices(1).remove(0);
    // SAFETY: no kernel is launched on any of these windows.
    let exchange = |answer: Answer| unsafe { Window::exchange(&device, 0x1000, 256, &answer) };
    assert!(matches!(exchange(Answer(0, 2, vec![0x1000])), Err(Error::Shape { argument: "handles", .. })));
    assert!(matches!(
        exchange(Answer(0, 2, vec![0x2000, 0x1000])),
        Err(Error::Bounds { argument: "handles", .. })
    ));
    assert!(matches!(
        exchange(Answer(2, 2, vec![0x2000, 0x1000])),
        Err(Error::Bounds { argument: "handles", .. })
    ));
    assert!(exchange(Answer(1, 2, vec![0x2000, 0x1000])).is_ok());
    // SAFETY: as above.
    let raw = |rank, bases: &[u64]| unsafe { Window::from_raw(&device, rank, bases.to_vec(), 512) };
    assert!(matches!(raw(0, &[]), Err(Error::Bounds { argument: "rank", .. })));
    assert!(matches!(raw(1, &[0x1000]), Err(Error::Bounds { argument: "rank", .. })));
    assert!(matches!(raw(0, &[0x1000, 0]), Err(Error::Alignment { argument: "bases", .. })));
    assert!(matches!(raw(0, &[0x1000, 0x2010]), Err(Error::Alignment { argument: "bases", .. })));
    assert!(matches!(raw(0, &[0x1000, 0x1100]), Err(Error::Overlap { argument: "bases", .. })));
    assert!(matches!(raw(0, &[0x1000, u64::MAX - 0xff]), Err(Error::Bounds { argument: "bases", .. })));
    assert!(raw(1, &[0x1000, 0x1200]).is_ok());
}
