//! Planning on the host, and enqueuing.

use super::args::{Combine, Dispatch, Expand, Received};
use super::layout::{WindowLayout, handle_bytes};
use super::status::Status;
use super::{Options, Shape};
use crate::comm::Window;
use crate::device::launch::ParamBuffer;
use crate::device::{LoadedKernel, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::table::exchange::{MAX_STRETCHES, header};
use crate::tensor::{Layout, Matrix, Workspace};

/// The kernels, in the order they run.
const KERNELS: [&str; 7] = [
    "hadal_moe_layout_sm90a",
    "hadal_moe_dispatch_sm90a",
    "hadal_moe_expand_count_sm90a",
    "hadal_moe_expand_place_sm90a",
    "hadal_moe_expand_sm90a",
    "hadal_moe_reduce_sm90a",
    "hadal_moe_combine_sm90a",
];

/// One rank's side of an exchange. Cheap to clone; keeps its window.
#[derive(Clone)]
#[must_use]
pub struct Plan {
    pub(super) window: Window,
    pub(super) shape: Shape,
    pub(super) options: Options,
    pub(super) layout: WindowLayout,
    sms: u32,
    kernels: [LoadedKernel; 7],
}

/// Whether such an exchange can be planned on a window. Nothing is loaded or launched.
pub fn supports(window: &Window, shape: Shape, options: Options) -> Result<()> {
    choose(window, shape, options).map(drop)
}

/// The layout of the window and the SMs to use.
fn choose(window: &Window, shape: Shape, options: Options) -> Result<(WindowLayout, u32)> {
    let device = window.device();
    if !device.supported() {
        let (major, minor) = device.properties().capability;
        return Err(Error::Unsupported {
            what: "exchange between ranks".into(),
            why: format!("the kernels are for compute capability 9.0 and {device} is {major}.{minor}"),
        });
    }
    let layout = WindowLayout::new(window.ranks(), shape, options)?;
    if window.bytes() < layout.bytes {
        let expected = format!("at least {} bytes", layout.bytes);
        return Err(Error::bounds("window", expected, format_args!("{} bytes", window.bytes())));
    }
    let all = device.properties().sms;
    let sms = options.sms.unwrap_or(all);
    if sms == 0 || sms > all {
        return Err(Error::option("sms", format_args!("1 to {all}"), sms));
    }
    Ok((layout, sms))
}

impl Plan {
    /// Bytes of symmetric memory an exchange wants on each rank.
    pub fn window_bytes(ranks: usize, shape: Shape, options: Options) -> Result<usize> {
        WindowLayout::new(ranks, shape, options).map(|layout| layout.bytes as usize)
    }

    /// This rank's side of an exchange. The window is this exchange's alone, zero on all ranks before the first operation of any.
    /// All ranks plan the same shape and options. Host work only.
    pub fn new(window: &Window, shape: Shape, options: Options) -> Result<Plan> {
        let (layout, sms) = choose(window, shape, options)?;
        let mut kernels = Vec::with_capacity(KERNELS.len());
        for name in KERNELS {
            kernels.push(window.device().kernel(name)?);
        }
        let kernels =
            <[LoadedKernel; 7]>::try_from(kernels).unwrap_or_else(|_| unreachable!("one for each name"));
        Ok(Plan { window: window.clone(), shape, options, layout, sms, kernels })
    }

    /// The entry names of the kernels, in the order they run: layout, dispatch; three of the expansion; reduction, combine.
    pub fn kernels(&self) -> [&'static str; 7] {
        self.kernels.map(|kernel| kernel.kernel.row.name)
    }

    /// The shape planned for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The rank's window.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The memory a handle takes.
    pub fn handle(&self) -> Workspace {
        Workspace::of(handle_bytes(self.window.ranks(), self.shape), 16)
    }

    /// The scratch memory a run wants besides: none.
    pub fn workspace(&self) -> Workspace {
        Workspace::NONE
    }

    /// Enqueues a dispatch, two launches: [`Plan::announce`] and [`Plan::send`]. Checks every argument first. The tokens are the rows of `x`,
    /// at most those of the shape, none included: every rank takes part in every dispatch.
    pub fn dispatch(&self, stream: &Stream, args: Dispatch<'_>) -> Result<()> {
        self.check_dispatch(stream, &args)?;
        self.launch_layout(stream, &args)?;
        self.launch_dispatch(stream, &args)
    }

    /// The first half of a dispatch: counts, unless that was done before, and tells every rank. Waits for nobody.
    pub fn announce(&self, stream: &Stream, args: &Dispatch<'_>) -> Result<()> {
        self.check_dispatch(stream, args)?;
        self.launch_layout(stream, args)
    }

    /// The second half: waits for all ranks' counts, sends the rows, and ends when all rows for this rank have arrived.
    pub fn send(&self, stream: &Stream, args: &Dispatch<'_>) -> Result<()> {
        self.check_dispatch(stream, args)?;
        self.launch_dispatch(stream, args)
    }

    fn launch_layout(&self, stream: &Stream, args: &Dispatch<'_>) -> Result<()> {
        let params = ParamBuffer::new()
            .u64(args.topk_idx.address())
            .u64(args.handle.address())
            .u64(self.window.table())
            .u32(args.x.rows() as u32)
            .u32(self.shape.topk as u32)
            .u32(self.window.ranks() as u32)
            .u32(self.window.rank() as u32)
            .u32(self.shape.experts as u32)
            .u32(self.layout.local_experts as u32)
            .u32(args.cached as u32);
        // SAFETY: as `launch` asks: the arguments were checked, the rest is the window's.
        unsafe { self.launch(0, stream, 1, &params) }
    }

    fn launch_dispatch(&self, stream: &Stream, args: &Dispatch<'_>) -> Result<()> {
        let x = args.x.layout();
        let scales = args.scales.as_ref().map(|scales| *scales.layout());
        let params = ParamBuffer::new()
            .u64(x.address)
            .u64(scales.map_or(0, |scales| scales.address))
            .u64(args.topk_idx.address())
            .u64(args.topk_weight.address())
            .u64(args.handle.address())
            .u64(self.window.table())
            .u64(x.row_bytes() as u64)
            .u64(scales.map_or(0, |scales| scales.row_bytes() as u64))
            .u64(self.layout.rows)
            .u64(self.layout.scales)
            .u64(self.layout.ids)
            .u64(self.layout.weights)
            .u32(x.rows as u32)
            .u32(self.layout.row_bytes as u32)
            .u32(self.layout.scale_words as u32)
            .u32(self.shape.topk as u32)
            .u32(self.window.ranks() as u32)
            .u32(self.window.rank() as u32)
            .u32(self.layout.local_experts as u32)
            .u32(self.shape.capacity as u32)
            .u32(self.options.patience);
        // SAFETY: as above.
        unsafe { self.launch(1, stream, self.blocks_for(1, x.rows), &params) }
    }

    /// Enqueues the expansion of what the last dispatch brought, three launches. Checks every argument first.
    pub fn expand(&self, stream: &Stream, args: Expand<'_>) -> Result<()> {
        let rows = self.check_expand(stream, &args)?;
        let (base, layout) = (self.window.base(), &self.layout);
        let places = ParamBuffer::new()
            .u64(base)
            .u64(layout.ids)
            .u64(layout.counts)
            .u64(layout.positions)
            .u64(args.map.address())
            .u64(args.ends.address())
            .u32(self.shape.topk as u32)
            .u32(layout.local_experts as u32)
            .u32(rows as u32)
            .u32(self.options.alignment as u32)
            .u32(self.shape.capacity as u32);
        // A choice for each thread, if all rows came.
        let choices = self.shape.capacity * self.shape.topk;
        let stretches = choices.div_ceil(1024).min(self.sms.min(MAX_STRETCHES) as usize) as u32;
        let x = args.x.layout();
        let scales = args.scales.as_ref().map(|scales| *scales.layout());
        let copies = ParamBuffer::new()
            .u64(base)
            .u64(layout.rows)
            .u64(layout.scales)
            .u64(layout.ids)
            .u64(layout.positions)
            .u64(x.address)
            .u64(scales.map_or(0, |scales| scales.address))
            .u64(x.row_bytes() as u64)
            .u64(scales.map_or(0, |scales| scales.row_stride as u64))
            .u64(scales.map_or(0, |scales| scales.col_stride as u64))
            .u32(layout.row_bytes as u32)
            .u32(layout.scale_words as u32)
            .u32(self.shape.topk as u32)
            .u32(self.shape.capacity as u32)
            .u32(rows as u32);
        // SAFETY: as above, three times.
        unsafe {
            self.launch(2, stream, stretches, &places)?;
            self.launch(3, stream, stretches, &places)?;
            self.launch(4, stream, self.blocks_for(4, self.shape.capacity), &copies)
        }
    }

    /// Enqueues a combine, two launches: [`Plan::reduce`] and [`Plan::gather`]. Checks every argument first. The tokens are the rows of `out`, as
    /// many as the dispatch that wrote the handle had.
    pub fn combine(&self, stream: &Stream, args: Combine<'_>) -> Result<()> {
        self.check_combine(stream, &args)?;
        self.launch_reduce(stream, &args)?;
        self.launch_gather(stream, &args)
    }

    /// The first half of a combine: weighted sums over this rank's experts, and word to every rank. Waits only for readers of the combine
    /// before.
    pub fn reduce(&self, stream: &Stream, args: &Combine<'_>) -> Result<()> {
        self.check_combine(stream, args)?;
        self.launch_reduce(stream, args)
    }

    /// The second half: waits for all ranks' sums, reads those of this rank's tokens, and adds them up.
    pub fn gather(&self, stream: &Stream, args: &Combine<'_>) -> Result<()> {
        self.check_combine(stream, args)?;
        self.launch_gather(stream, args)
    }

    fn launch_reduce(&self, stream: &Stream, args: &Combine<'_>) -> Result<()> {
        let (y, layout) = (args.y.layout(), &self.layout);
        let params = ParamBuffer::new()
            .u64(y.address)
            .u64(self.window.table())
            .u64(y.row_bytes() as u64)
            .u64(layout.ids)
            .u64(layout.weights)
            .u64(layout.positions)
            .u64(layout.reduced)
            .u32(2 * self.shape.hidden as u32)
            .u32(y.rows as u32)
            .u32(self.shape.capacity as u32)
            .u32(self.shape.topk as u32)
            .u32(self.window.ranks() as u32)
            .u32(self.window.rank() as u32)
            .u32(self.options.patience);
        // SAFETY: as above.
        unsafe { self.launch(5, stream, self.blocks_for(5, self.shape.capacity), &params) }
    }

    fn launch_gather(&self, stream: &Stream, args: &Combine<'_>) -> Result<()> {
        let out = args.out.layout();
        let params = ParamBuffer::new()
            .u64(out.address)
            .u64(args.handle.address())
            .u64(self.window.table())
            .u64(out.row_bytes() as u64)
            .u64(self.layout.reduced)
            .u32(out.rows as u32)
            .u32(2 * self.shape.hidden as u32)
            .u32(self.window.ranks() as u32)
            .u32(self.window.rank() as u32)
            .u32(self.shape.capacity as u32)
            .u32(self.options.patience);
        // SAFETY: as above.
        unsafe { self.launch(6, stream, self.blocks_for(6, out.rows), &params) }
    }

    /// # Safety
    /// The parameters are kernel `which`'s list in order, and every address in them was checked to be on the window's device with the
    /// shapes given there, valid by the contract of the views and of the window.
    unsafe fn launch(&self, which: usize, stream: &Stream, blocks: u32, params: &ParamBuffer) -> Result<()> {
        // SAFETY: the kernel was loaded on the window's device, which the checks found to be the stream's; the rest is the caller's.
        unsafe { self.kernels[which].launch(stream, blocks, self.options.programmatic, params) }
    }

    /// Blocks for so many rows, a warp each, within the budget.
    fn blocks_for(&self, which: usize, rows: usize) -> u32 {
        let warps = self.kernels[which].kernel.row.threads as usize / 32;
        (rows.div_ceil(warps).max(1)).min(self.sms as usize) as u32
    }

    /// What the last dispatch brought.
    pub fn received(&self) -> Received<'_> {
        let Shape { topk, hidden, capacity, .. } = self.shape;
        let (id, base, layout) = (self.window.device().id(), self.window.base(), &self.layout);
        let view = |dtype, offset, shape: [usize; 2]| {
            let layout = Layout::new(id, dtype, base + offset, shape, [shape[1], 1]);
            // SAFETY: the layout lies inside the window's memory, which the borrowed plan keeps.
            unsafe { Matrix::from_layout(layout) }
        };
        Received {
            rows: view(DType::I32, u64::from(header::ROWS), [1, 1]),
            sources: view(DType::I32, u64::from(header::SOURCES), [1, self.window.ranks()]),
            x: view(self.options.payload, layout.rows, [capacity, hidden]),
            scales: (layout.scale_words > 0)
                .then(|| view(DType::F32, layout.scales, [capacity, layout.scale_words])),
            topk_idx: view(DType::I32, layout.ids, [capacity, topk]),
            topk_weight: view(DType::F32, layout.weights, [capacity, topk]),
        }
    }

    /// The status, after everything already in the stream. Waits.
    pub fn status(&self, stream: &Stream) -> Result<Status> {
        self.expect_stream(stream)?;
        let mut bytes = [0; 32];
        let device = self.window.device();
        let from = self.window.base() + u64::from(header::STATUS);
        // SAFETY: the window's header is at least that long; the stream is of its device.
        unsafe { device.driver().copy_to_host(device.ordinal(), &mut bytes, from, stream.raw())? };
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Ok(Status { words: std::array::from_fn(|i| word(4 * i)) })
    }

    /// Forgets the status, in stream order.
    pub fn clear_status(&self, stream: &Stream) -> Result<()> {
        self.expect_stream(stream)?;
        let device = self.window.device();
        let at = self.window.base() + u64::from(header::STATUS);
        // SAFETY: the window's header is at least that long; the stream is of its device.
        unsafe { device.driver().fill(device.ordinal(), at, 0, 32, stream.raw()) }
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({:?} on {:?})", self.shape, self.window)
    }
}
