//! What nobody should bring, and what may not happen then: kernels that follow it out of their arguments and windows.

use hadal::comm::{SymmetricBuffer, Team};
use hadal::emulator::{Checks, MachineConfig};
use hadal::kernel::table::exchange::header;
use hadal::moe::exchange::{Combine, Dispatch, Expand, Options, Plan, Shape, reference};
use hadal::{Device, bf16};

use crate::setup::{Case, Choices, Setup, machine};
use crate::support::{Random, assert_clean};

/// A combine that is given fewer rows than the expansion had: choices placed past them add nothing, and are counted.
#[test]
fn a_combine_of_too_few_rows_reads_no_others() {
    for kept in [0, 1, 7, 17] {
        let case = Case { choices: Choices::Ragged, ..Case::new(&[19, 7]) };
        let mut setup = Setup::new(&machine(2, 1, 1), &case, case.options());
        for rank in &mut setup.ranks {
            rank.dispatch(&case, false).unwrap();
            rank.expand(&case).unwrap();
        }
        setup.synchronize();
        let (delivered, _) = setup.delivered();
        let (mut reduced, mut past, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for (rank, delivered) in setup.ranks.iter().zip(&delivered) {
            let local = case.experts / case.ranks();
            let places = reference::expand(&delivered.topk_idx, local, case.rows, case.alignment).unwrap();
            past.push(places.positions.iter().flatten().filter(|place| **place >= kept).count());
            let y = &rank.y[..kept * case.hidden];
            let weights = &delivered.topk_weight;
            reduced.push(reference::reduce(&places.positions, weights, case.topk, y, case.hidden).unwrap());
            answers.push(rank.device.upload(&rank.stream, y).unwrap());
        }
        for (rank, y) in setup.ranks.iter_mut().zip(&answers) {
            let len = rank.handle.len();
            let args = Combine::new(
                y.matrix(kept, case.hidden).unwrap(),
                rank.handle.matrix(1, len).unwrap(),
                rank.out.matrix_mut(rank.tokens, case.hidden).unwrap(),
            );
            rank.plan.combine(&rank.stream, args).unwrap();
        }
        setup.synchronize();
        for (r, rank) in setup.ranks.iter().enumerate() {
            let want = reference::combine(r, rank.tokens, &delivered, &reduced, case.hidden).unwrap();
            let got = rank.out.to_vec(&rank.stream).unwrap();
            assert!(got.iter().zip(&want).all(|(got, want)| got.to_bits() == want.to_bits()), "{kept}, {r}");
            let status = rank.status();
            assert!(past[r] > 0 && !status.is_clean(), "{kept}, {r}: {status:?}");
            assert_eq!(status.lost_expanded() as usize, past[r], "{kept}, {r}");
        }
        assert_clean(&setup.ranks[0].device);
    }
}

/// A window that other plans have written, or anybody: its header makes sense of a kind, and the rest is anything.
#[test]
fn whatever_lies_in_the_window_leads_nowhere_else() {
    let random = &mut Random(1);
    for round in 0..20 {
        // Races are nobody's concern here, what lies outside is.
        let mut checks = Checks::all();
        checks.races = false;
        let device =
            Device::emulate(MachineConfig { checks, seed: round, ..MachineConfig::default() }).unwrap();
        let stream = device.default_stream();
        let shape = Shape::new(4, 3, 16, 5, 9);
        let options = Options::new().alignment(1 + random.below(9)).sms(2).patience(5);
        let bytes = Plan::window_bytes(1, shape, options).unwrap();
        let memory = SymmetricBuffer::new(&Team::new(vec![device.clone()]).unwrap(), bytes).unwrap();
        let window = memory.window(0).unwrap();
        let mut found: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
        // Half of the words are numbers of experts or rows, or nearly.
        for word in found.chunks_exact_mut(4) {
            if random.below(2) == 0 {
                word.copy_from_slice(&(random.below(6) as i32 - 1).to_le_bytes());
            }
        }
        found[..header::BYTES as usize].fill(0);
        let rows = [1u32, 10, 1 << 20, u32::MAX][random.below(4)];
        found[header::ROWS as usize..][..4].copy_from_slice(&rows.to_le_bytes());
        found[header::WHOLE as usize] = 1;
        // SAFETY: the window is that long, and nothing has been launched.
        unsafe { device.driver().copy_to_device(0, window.base(), &found, stream.raw()) }.unwrap();

        let plan = Plan::new(window, shape, options).unwrap();
        let garbage =
            |len: usize, random: &mut Random| -> Vec<u8> { (0..len).map(|_| random.bits() as u8).collect() };
        let rows = 1 + random.below(12);
        let mut x = device.upload(&stream, &vec![bf16::NAN; rows * 16]).unwrap();
        let mut map = device.alloc::<i32>(rows).unwrap();
        let mut ends = device.alloc::<i32>(4).unwrap();
        let len = plan.handle().bytes;
        let mut handle = device.upload(&stream, &garbage(len, random)).unwrap();
        let mut out = device.upload(&stream, &[bf16::NAN; 80]).unwrap();
        let tokens = device.upload(&stream, &[bf16::ONE; 80]).unwrap();
        let ids: Vec<i32> = (0..15).map(|_| random.bits() as i32 % 6).collect();
        let ids = device.upload(&stream, &ids).unwrap();
        let weights = device.upload(&stream, &[1f32; 15]).unwrap();

        let expand =
            |x: &mut hadal::Buffer<bf16>, map: &mut hadal::Buffer<i32>, ends: &mut hadal::Buffer<i32>| {
                let args = Expand::new(
                    x.matrix_mut(rows, 16).unwrap(),
                    map.matrix_mut(1, rows).unwrap(),
                    ends.matrix_mut(1, 4).unwrap(),
                );
                plan.expand(&stream, args).unwrap();
            };
        let mut combine = |x: &hadal::Buffer<bf16>, handle: &hadal::Buffer<u8>| {
            let args = Combine::new(
                x.matrix(rows, 16).unwrap(),
                handle.matrix(1, len).unwrap(),
                out.matrix_mut(5, 16).unwrap(),
            );
            plan.combine(&stream, args).unwrap();
        };
        expand(&mut x, &mut map, &mut ends);
        combine(&x, &handle);
        // A handle that knows of other tokens.
        let again = Dispatch::new(
            tokens.matrix(5, 16).unwrap(),
            ids.matrix(5, 3).unwrap(),
            weights.matrix(5, 3).unwrap(),
            handle.matrix_mut(1, len).unwrap(),
        );
        plan.dispatch(&stream, again.cached(true)).unwrap();
        expand(&mut x, &mut map, &mut ends);
        combine(&x, &handle);
        stream.synchronize().unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_clean(&device);
    }
}
