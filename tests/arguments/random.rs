//! Operands spoiled at random, at every entry point: what comes back is an error about an argument, or a launch that was right to make.

use hadal::{DType, Device};

use super::entries::{self, Entry};
use crate::support::Random;
use crate::support::operands::{Operand, parts, recorders};

/// A number that nobody means, or nearly the right one.
fn strange(right: usize, random: &mut Random) -> usize {
    match random.below(12) {
        0 => 0,
        1 => 1,
        2 => usize::MAX,
        3 => usize::MAX / 2 + 1,
        4 => 1 << 32,
        5 => 1 << (3 + random.below(60)),
        6 => right.wrapping_sub(1),
        7 => right.wrapping_add(1),
        8 => right.wrapping_mul(2),
        9 => right / 16 * 16,
        _ => right,
    }
}

/// Changes a thing or two about one operand.
fn spoil(operands: &mut [Operand], random: &mut Random) {
    let at = random.below(operands.len());
    let other = operands[random.below(operands.len())].address;
    let operand = &mut operands[at];
    match random.below(8) {
        0 => operand.device = random.below(3),
        1 => {
            let types = [DType::E4M3, DType::U8, DType::BF16, DType::F16, DType::F32, DType::I32];
            operand.dtype = types[random.below(6)];
        }
        2 => operand.address = operand.address.wrapping_add(1 << random.below(12)),
        3 => operand.address = other.wrapping_add_signed(16 * (random.below(80) as i64 - 40)),
        4 => operand.address = [0, 16, u64::MAX - 15, 1 << 63][random.below(4)],
        5 => operand.shape.swap(0, 1),
        6 => {
            let dimension = random.below(2);
            operand.shape[dimension] = strange(operand.shape[dimension], random);
        }
        _ => {
            let dimension = random.below(2);
            operand.strides[dimension] = strange(operand.strides[dimension], random);
        }
    }
}

/// The memory of an operand, in order of address: a stretch for each row, or for each element where those do not follow each other. Nothing if
/// that is too much to list.
fn stretches(operand: &Operand) -> Option<Vec<(u64, u64)>> {
    let [rows, cols] = operand.shape;
    let [down, along] = operand.strides.map(|stride| stride as u64);
    let size = operand.dtype.size() as u64;
    let joined = along == 1 || cols <= 1;
    let (count, width) = if joined { (1, cols as u64 * size) } else { (cols, size) };
    rows.checked_mul(count).filter(|all| *all < 1 << 12)?;
    let place = |row: u64, col: u64| {
        let offset = row.wrapping_mul(down).wrapping_add(col.wrapping_mul(along));
        let start = operand.address.wrapping_add(offset.wrapping_mul(size));
        (start, start.wrapping_add(width))
    };
    let mut all: Vec<_> =
        (0..rows as u64).flat_map(|row| (0..count as u64).map(move |col| place(row, col))).collect();
    all.retain(|(start, end)| start != end);
    all.sort_unstable();
    Some(all)
}

/// Whether no two stretches of a sorted list share a byte.
fn are_apart(sorted: &[(u64, u64)]) -> bool {
    sorted.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

/// What a call that enqueued something must have been: of the device and types it wants, and writing nothing that it reads.
fn was_right(entry: &Entry, operands: &[Operand]) {
    let context = || format!("{}: {operands:#x?}", entry.name);
    for (operand, good) in operands.iter().zip(&entry.operands) {
        assert!(operand.device == 0 && operand.dtype == good.dtype, "{}", context());
        assert!(
            operand.shape[1] == good.shape[1] || operand.dtype == DType::U8 || operand.dtype == DType::I32,
            "{}",
            context()
        );
    }
    for &output in &entry.outputs {
        let Some(written) = stretches(&operands[output]) else { continue };
        assert!(are_apart(&written), "operand {output} is written twice, {}", context());
        for (at, other) in operands.iter().enumerate().filter(|(at, _)| *at != output) {
            let Some(other) = stretches(other).filter(|other| are_apart(other)) else { continue };
            let mut both = [&written[..], &other].concat();
            both.sort_unstable();
            assert!(are_apart(&both), "operand {output} shares memory with {at}, {}", context());
        }
    }
}

#[test]
fn whatever_comes_is_refused_or_right() {
    let (devices, recorder) = recorders();
    let stream = devices[0].new_stream().unwrap();
    let foreign: Vec<_> = devices[1..].iter().map(|device: &Device| device.new_stream().unwrap()).collect();
    let random = &mut Random(20);
    for entry in entries::all(&devices) {
        (entry.run)(&entry.operands, &stream).unwrap_or_else(|error| panic!("{}: {error}", entry.name));
        for stream in &foreign {
            assert_eq!(parts(&(entry.run)(&entry.operands, stream).unwrap_err()).1, "stream");
        }
        recorder.take();
        let mut enqueued = 0;
        for _ in 0..2000 {
            let mut operands = entry.operands.clone();
            for _ in 0..1 + random.below(2) {
                spoil(&mut operands, random);
            }
            let result = (entry.run)(&operands, &stream);
            let calls = recorder.take();
            match result {
                Ok(()) => {
                    let only = |call: &String| call == "launch" || call.starts_with("map ");
                    assert!(calls.iter().all(only), "{}: {calls:?}", entry.name);
                    was_right(&entry, &operands);
                    enqueued += 1;
                }
                Err(error) => {
                    let (_, argument, expected, got) = parts(&error);
                    assert!(!argument.is_empty() && !expected.is_empty() && !got.is_empty(), "{error:?}");
                    assert!(!calls.contains(&"launch".to_string()), "{}: launched, then {error}", entry.name);
                }
            }
        }
        assert!(enqueued > 20, "{}: of what was spoiled hardly anything was right: {enqueued}", entry.name);
    }
}
