//! Every entry point that enqueues, with operands that it takes.

use hadal::comm::Window;
use hadal::mla::{HEAD, LATENT, cache};
use hadal::moe::{exchange, gate, group_ends, swiglu};
use hadal::{DType, Device, Result, Stream, gemm, mla, quant};

use crate::support::operands::Operand;

/// Enqueues with these operands.
type Run = Box<dyn Fn(&[Operand], &Stream) -> Result<()>>;

/// An entry point and operands that it takes.
pub struct Entry {
    pub name: &'static str,
    pub operands: Vec<Operand>,
    /// Which of them it writes.
    pub outputs: Vec<usize>,
    pub run: Run,
}

const E4M3: DType = DType::E4M3;
const BF16: DType = DType::BF16;
const F32: DType = DType::F32;
const I32: DType = DType::I32;
const U8: DType = DType::U8;

/// Operands one behind the other, a few kilobytes apart.
fn lay_out(operands: &[(DType, [usize; 2], [usize; 2])]) -> Vec<Operand> {
    let place = |(at, &(dtype, shape, strides)): (usize, &(DType, [usize; 2], [usize; 2]))| {
        Operand::new(dtype, 0x10_0000 * (at as u64 + 1), shape).strides(strides)
    };
    operands.iter().enumerate().map(place).collect()
}

/// Row-major, without gaps.
fn dense(dtype: DType, shape: [usize; 2]) -> (DType, [usize; 2], [usize; 2]) {
    (dtype, shape, [shape[1], 1])
}

fn products(devices: &[Device]) -> Vec<Entry> {
    let options = gemm::Options::new();
    let plan = gemm::Plan::new(&devices[0], gemm::Shape::new(20, 136, 272), options).unwrap();
    let on = devices.to_vec();
    let product = Entry {
        name: "gemm",
        operands: lay_out(&[
            dense(E4M3, [17, 272]),
            (F32, [17, 3], [1, 20]),
            dense(E4M3, [136, 272]),
            dense(F32, [2, 3]),
            dense(BF16, [17, 136]),
            dense(U8, [1, 64]),
        ]),
        outputs: vec![4, 5],
        run: Box::new(move |o, stream| {
            let [a, a_scales, weight, scales] = [0, 1, 2, 3].map(|at: usize| o[at].view(&on));
            let args = gemm::Args::new(a, a_scales, weight, scales, o[4].view_mut(&on));
            plan.run(stream, args.workspace(o[5].view_mut(&on)))
        }),
    };
    let grouped = |name, shape| {
        let plan = gemm::GroupedPlan::new(&devices[0], shape, options).unwrap();
        let on = devices.to_vec();
        Entry {
            name,
            operands: lay_out(&[
                dense(E4M3, [18, 144]),
                (F32, [18, 2], [1, 20]),
                dense(E4M3, [3 * 72, 144]),
                dense(F32, [3, 2]),
                dense(I32, [1, 3]),
                dense(BF16, [18, 72]),
            ]),
            outputs: vec![5],
            run: Box::new(move |o, stream| {
                let [a, a_scales, weight, scales, sizes] = [0, 1, 2, 3, 4].map(|at: usize| o[at].view(&on));
                let out = o[5].view_mut(&on);
                plan.run(stream, gemm::GroupedArgs::new(a, a_scales, weight, scales, sizes, out))
            }),
        }
    };
    vec![
        product,
        grouped("gemm, contiguous", gemm::GroupedShape::contiguous(3, 18, 72, 144)),
        grouped("gemm, masked", gemm::GroupedShape::masked(3, 6, 72, 144)),
    ]
}

fn passes(devices: &[Device]) -> Vec<Entry> {
    let quantize = |name, scales, options| {
        let plan = quant::Plan::new(&devices[0], quant::Shape::new(9, 140), options).unwrap();
        let on = devices.to_vec();
        Entry {
            name,
            operands: lay_out(&[
                (BF16, [9, 140], [143, 1]),
                (E4M3, [9, 140], [151, 1]),
                scales,
                dense(U8, [1, 0]),
            ]),
            outputs: vec![1, 2, 3],
            run: Box::new(move |o, stream| {
                let args = quant::Args::new(o[0].view(&on), o[1].view_mut(&on), o[2].view_mut(&on));
                plan.run(stream, args.workspace(o[3].view_mut(&on)))
            }),
        }
    };
    let swiglu = |name, shape| {
        let plan = swiglu::Plan::new(&devices[0], shape, swiglu::Options::new()).unwrap();
        let on = devices.to_vec();
        Entry {
            name,
            operands: lay_out(&[
                dense(BF16, [8, 512]),
                dense(I32, [1, 2]),
                dense(E4M3, [8, 256]),
                (F32, [8, 2], [1, 8]),
            ]),
            outputs: vec![2, 3],
            run: Box::new(move |o, stream| {
                let (x, sizes) = (o[0].view(&on), o[1].view(&on));
                plan.run(stream, swiglu::Args::new(x, sizes, o[2].view_mut(&on), o[3].view_mut(&on)))
            }),
        }
    };
    vec![
        quantize("quantize, rows", (F32, [9, 2], [1, 12]), quant::Options::activations()),
        quantize("quantize, blocks", dense(F32, [1, 2]), quant::Options::weights()),
        swiglu("swiglu, contiguous", swiglu::Shape::contiguous(2, 8, 256).alignment(4)),
        swiglu("swiglu, masked", swiglu::Shape::masked(2, 4, 256)),
    ]
}

fn choices(devices: &[Device]) -> Vec<Entry> {
    let plan = gate::Plan::new(&devices[0], gate::Shape::new(8, 16), gate::Options::sigmoid(3)).unwrap();
    let ends = group_ends::Plan::new(&devices[0], 5).unwrap();
    let (on, too) = (devices.to_vec(), devices.to_vec());
    let gate = Entry {
        name: "gate",
        operands: lay_out(&[
            (F32, [7, 16], [19, 1]),
            dense(I32, [7, 3]),
            dense(F32, [7, 3]),
            dense(F32, [1, 16]),
            dense(I32, [1, 16]),
        ]),
        outputs: vec![1, 2, 4],
        run: Box::new(move |o, stream| {
            let args = gate::Args::new(o[0].view(&on), o[1].view_mut(&on), o[2].view_mut(&on));
            plan.run(stream, args.bias(o[3].view(&on)).counts(o[4].view_mut(&on)))
        }),
    };
    let ends = Entry {
        name: "group_ends",
        operands: lay_out(&[dense(I32, [1, 40]), dense(I32, [1, 5])]),
        outputs: vec![1],
        run: Box::new(move |o, stream| ends.run(stream, o[0].view(&too), o[1].view_mut(&too))),
    };
    vec![gate, ends]
}

fn attention(devices: &[Device]) -> Vec<Entry> {
    let shape = mla::Shape::new(2, 4, 320).query_tokens(3);
    let plan = mla::Plan::new(&devices[0], shape, mla::Options::new(0.1).sms(12)).unwrap();
    let bytes = plan.workspace().bytes;
    let on = devices.to_vec();
    let decode = Entry {
        name: "mla",
        operands: lay_out(&[
            dense(BF16, [24, HEAD]),
            dense(BF16, [640, HEAD]),
            dense(I32, [2, 5]),
            dense(I32, [1, 2]),
            dense(BF16, [24, LATENT]),
            dense(F32, [6, 4]),
            dense(U8, [1, bytes]),
        ]),
        outputs: vec![4, 5, 6],
        run: Box::new(move |o, stream| {
            let [q, cache, table, lengths] = [0, 1, 2, 3].map(|at: usize| o[at].view(&on));
            let args = mla::Args::new(q, cache, table, lengths, o[4].view_mut(&on), o[5].view_mut(&on));
            plan.run(stream, args.workspace(o[6].view_mut(&on)))
        }),
    };
    let append = |name, by_table: bool| {
        let plan = cache::Plan::new(&devices[0], cache::Shape::new(6, 64), cache::Options::new()).unwrap();
        let on = devices.to_vec();
        let places = [dense(I32, [1, 6]), dense(I32, [2, 5]), dense(I32, [1, 2])];
        let places = if by_table { &places[1..] } else { &places[..1] };
        let mut operands =
            vec![dense(BF16, [6, LATENT]), dense(BF16, [6, HEAD - LATENT]), dense(BF16, [640, HEAD])];
        operands.extend(places);
        Entry {
            name,
            operands: lay_out(&operands),
            outputs: vec![2],
            run: Box::new(move |o, stream| {
                let place = if by_table {
                    let cache_seqlens = o[4].view(&on);
                    cache::Place::Table { block_table: o[3].view(&on), cache_seqlens }
                } else {
                    cache::Place::Slots(o[3].view(&on))
                };
                let (latent, rope) = (o[0].view(&on), o[1].view(&on));
                plan.run(stream, cache::Args::new(latent, rope, place, o[2].view_mut(&on)))
            }),
        }
    };
    vec![decode, append("append, slots", false), append("append, table", true)]
}

fn exchanges(devices: &[Device]) -> Vec<Entry> {
    // SAFETY: the driver behind these devices never follows an address.
    let window = unsafe { Window::from_raw(&devices[0], 0, vec![1 << 40, 2 << 40], 1 << 30) }.unwrap();
    let shape = exchange::Shape::new(8, 3, 144, 6, 20);
    let plan = exchange::Plan::new(&window, shape, exchange::Options::new().payload(E4M3)).unwrap();
    let handle = plan.handle().bytes;
    let entry = |name,
                 operands: &[_],
                 outputs: &[usize],
                 run: fn(&exchange::Plan, &[Device], &[Operand], &Stream) -> Result<()>| {
        let (on, plan) = (devices.to_vec(), plan.clone());
        let run: Run = Box::new(move |o, stream| run(&plan, &on, o, stream));
        Entry { name, operands: lay_out(operands), outputs: outputs.to_vec(), run }
    };
    vec![
        entry(
            "dispatch",
            &[
                dense(E4M3, [5, 144]),
                dense(I32, [5, 3]),
                dense(F32, [5, 3]),
                dense(U8, [1, handle]),
                dense(F32, [5, 2]),
            ],
            &[3],
            |plan, on, o, stream| {
                let (x, ids, weights) = (o[0].view(on), o[1].view(on), o[2].view(on));
                let args = exchange::Dispatch::new(x, ids, weights, o[3].view_mut(on));
                plan.dispatch(stream, args.scales(o[4].view(on)))
            },
        ),
        entry(
            "expand",
            &[dense(E4M3, [33, 144]), dense(I32, [1, 33]), dense(I32, [1, 4]), (F32, [33, 2], [1, 36])],
            &[0, 1, 2, 3],
            |plan, on, o, stream| {
                let (x, map, ends) = (o[0].view_mut(on), o[1].view_mut(on), o[2].view_mut(on));
                plan.expand(stream, exchange::Expand::new(x, map, ends).scales(o[3].view_mut(on)))
            },
        ),
        entry(
            "combine",
            &[dense(BF16, [33, 144]), dense(U8, [1, handle]), dense(BF16, [5, 144])],
            &[2],
            |plan, on, o, stream| {
                let args = exchange::Combine::new(o[0].view(on), o[1].view(on), o[2].view_mut(on));
                plan.combine(stream, args)
            },
        ),
    ]
}

/// Every one there is, planned on the first of these devices.
pub fn all(devices: &[Device]) -> Vec<Entry> {
    [products, passes, choices, attention, exchanges].iter().flat_map(|family| family(devices)).collect()
}
