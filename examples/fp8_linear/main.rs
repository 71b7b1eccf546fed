//! A linear layer in FP8, end to end: `y = x · weightᵀ`.
//!
//! Quantises the activations (a scale for each row and 128 columns) and the weight (a scale for each 128×128 block) on the
//! device, multiplies them there, and compares the result with the product in F64. Runs on a Hopper GPU or, without one,
//! on the emulator, and says which. What to copy is in `device.rs`.
//!
//! ```text
//! cargo run --release --example fp8_linear
//! cargo run --release --example fp8_linear -- --weights model.safetensors --tensor NAME --rows 64
//! ```

mod check;
mod device;
mod layer;
mod options;
#[cfg(all(test, feature = "emulator"))]
mod tests;

use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use hadal::gemm::reference::calc_diff;
use hadal::{Device, bf16, gemm};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use device::Computed;
use layer::Layer;
use options::{Options, Source};

/// What `calc_diff` usually stays below against the F64 product of `x` and `weight` as they were given …
const MOST_UNQUANTIZED: f64 = 1e-3;
/// … and what it must stay below against that of their quantised values.
const MOST_QUANTIZED: f64 = 1e-5;

/// Why there is no result: the command line (exit code 2), or everything else (1).
#[derive(Debug)]
enum Failure {
    Usage(String),
    Failed(String),
}

impl From<hadal::Error> for Failure {
    fn from(error: hadal::Error) -> Failure {
        Failure::Failed(error.to_string())
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Summary {
    device: String,
    kernel: &'static str,
    m: usize,
    n: usize,
    k: usize,
    diff_unquantized: f64,
    diff_quantized: f64,
    /// What was checked, and held.
    checks: Vec<String>,
    /// Warp instructions the device issued; null on a GPU, which does not say.
    instructions: Option<u64>,
    seconds: f64,
}

fn main() -> ExitCode {
    let outcome = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => print(&options),
        Ok(None) => {
            let _ = std::io::stdout().write_all(options::USAGE.as_bytes());
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("fp8_linear: {message}\n(--help lists the options)");
            ExitCode::from(2)
        }
        Err(Failure::Failed(message)) => {
            eprintln!("fp8_linear: {message}");
            ExitCode::from(1)
        }
    }
}

/// Runs, and prints lines or an object.
fn print(options: &Options) -> Result<(), Failure> {
    // A reader that closed the pipe has seen enough, so failures to print are let go.
    let summary = run(options, &|label: &str, text: String| {
        let line = format!("{label:<9} {text}\n");
        let _ = if options.json {
            std::io::stderr().write_all(line.as_bytes())
        } else {
            std::io::stdout().write_all(line.as_bytes())
        };
    })?;
    if options.json {
        let text = serde_json::to_string(&summary).expect("numbers, strings and lists of strings are JSON");
        let _ = writeln!(std::io::stdout(), "{text}");
    }
    Ok(())
}

/// The whole job; `say` gets each line as soon as it is known.
fn run(options: &Options, say: &dyn Fn(&str, String)) -> Result<Summary, Failure> {
    let start = Instant::now();
    let device = match options.device {
        Some(spec) => Device::open(spec, "--device asks for it")?,
        None => Device::open_default()?,
    };
    say("device", format!("{device}, because {}", device.reason()));
    let layer = match &options.source {
        Source::File { path, tensor } => Layer::load(path, tensor.as_deref())?,
        Source::Generated { n, k } => Layer::generate(*n, *k, options.seed)?,
    };
    let [m, n, k] = [options.rows, layer.n, layer.k];
    let about = format!("in {}, {}", layer.dtype, layer.about);
    say("layer", format!("y[{m}, {n}] = x[{m}, {k}] · weight[{n}, {k}]ᵀ {about}"));
    let plan = gemm::Plan::new(&device, gemm::Shape::new(m, n, k), gemm::Options::new())
        .map_err(|error| options.source.blame(error))?;
    say("kernel", plan.kernel().into());
    say("", why(&plan));

    let x = layer::activations(m, k, options.seed)?;
    let bar = progress(2 * check::steps(n) + STEPS);
    let (computed, exact) = work(&device, &plan, &x, &layer, &bar)?;
    bar.set_message("checking");
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let out = || computed.out.iter().map(|y| y.to_f64());
    let diff_unquantized = calc_diff(out(), exact);
    let diff_quantized = calc_diff(out(), computed.product_f64([m, n, k], cores, &bar));
    let bits = computed.quantized_bits(&x, &layer.weight, [m, n, k]);
    let rows = bits.and_then(|()| computed.output_bits([m, n, k]));
    bar.finish_and_clear();

    let at_most = |most: f64| format!("calc_diff; at most {most:.0e}");
    let usual = at_most(MOST_UNQUANTIZED).replace("at most", "usually below");
    say("error", format!("{diff_unquantized:.2e} against the F64 product of x and weight ({usual})"));
    let against = format!("against the F64 product of their quantised values ({})", at_most(MOST_QUANTIZED));
    say("", format!("{diff_quantized:.2e} {against}"));
    let wrong = |why: String| Failure::Failed(format!("the result is wrong: {why}"));
    let rows = rows.map_err(wrong)?;
    if diff_quantized.is_nan() || diff_quantized >= MOST_QUANTIZED {
        return Err(wrong(format!("{diff_quantized:.2e} {against}")));
    }
    let (mut checks, instructions) = machine(&device)?;
    if !checks.is_empty() {
        say("checked", format!("as it ran: {}", checks.join(", ")));
    }
    let mut afterwards = vec![
        "quantised values and scales bit-equal".to_owned(),
        format!("{rows} of {m} output rows bit-equal"),
        format!("diff_quantized < {MOST_QUANTIZED:.0e}"),
    ];
    // Where it is not, no kernel is at fault, for every rounding was checked: these matrices are small, or peculiar.
    if diff_unquantized < MOST_UNQUANTIZED {
        afterwards.push(format!("diff_unquantized < {MOST_UNQUANTIZED:.0e}"));
    }
    say("checked", format!("afterwards: {}", afterwards.join(", ")));
    checks.append(&mut afterwards);
    say(
        "work",
        instructions.map_or("a GPU does not count".into(), |i| format!("{i} warp instructions issued")),
    );
    let seconds = start.elapsed().as_secs_f64();
    say("time", format!("{seconds:.1} s of wall time, checks of the result included"));
    let (device, kernel) = (device.to_string(), plan.kernel());
    Ok(Summary { device, kernel, m, n, k, diff_unquantized, diff_quantized, checks, instructions, seconds })
}

/// The device's part, and meanwhile on the other cores the F64 product of what was given.
fn work(
    device: &Device,
    plan: &gemm::Plan,
    x: &[bf16],
    layer: &Layer,
    bar: &ProgressBar,
) -> Result<(Computed, Vec<f64>), Failure> {
    let stream = device.new_stream()?;
    let others = thread::available_parallelism().map_or(1, |cores| cores.get().max(2) - 1);
    let shape = [plan.shape().m(), plan.shape().n(), plan.shape().k()];
    thread::scope(|scope| {
        let exact = scope.spawn(|| {
            let x: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
            let row = |row: usize| layer.weight[row * layer.k..][..layer.k].iter().map(|&w| w as f64);
            check::product_f64(shape, &x, &row, others, bar)
        });
        let computed = device::compute(plan, &stream, x, layer, |step| {
            bar.set_message(step);
            bar.inc(1);
        })?;
        Ok((computed, exact.join().expect("adding numbers does not panic")))
    })
}

/// Steps of [`device::compute`].
const STEPS: u64 = 3;

/// A bar on stderr that shows itself after a second, if that is a terminal.
fn progress(steps: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::hidden());
    let style = ProgressStyle::with_template("{elapsed:>4} [{bar:40}] {percent:>3} % {msg}");
    bar.set_style(style.expect("the template is well formed").progress_chars("=> "));
    let late = bar.clone();
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        if !late.is_finished() {
            late.set_draw_target(ProgressDrawTarget::stderr());
            late.enable_steady_tick(Duration::from_millis(200));
        }
    });
    bar
}

/// The cost model's reason in a line.
fn why(plan: &gemm::Plan) -> String {
    let (chosen, candidates) = (plan.explain().chosen(), plan.explain().candidates());
    let tile = |e: &gemm::Estimate| format!("{}x{}", e.tile.0, e.tile.1);
    let count = |number: u64, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let (tiles, waves) = (count(chosen.tiles, "tile"), count(chosen.waves, "wave"));
    let mut text =
        format!("{tiles} of {} in {waves}, {} cycles by the cost model", tile(chosen), chosen.cycles);
    if let Some(next) = candidates.get(1) {
        text += &format!("; the next best, {}, {}", tile(next), next.cycles);
    }
    text
}

/// What the emulator checked while it ran, and the instructions it issued. Nothing, on a GPU.
fn machine(device: &Device) -> Result<(Vec<String>, Option<u64>), Failure> {
    #[cfg(feature = "emulator")]
    if let Some(machine) = device.emulated() {
        if let Some(report) = machine.reports().first() {
            return Err(Failure::Failed(format!("the emulator has found something: {report}")));
        }
        let on = machine.config().checks;
        let mut checks = vec!["bounds", "alignment", "barriers", "deadlock"];
        checks.extend(on.uninitialised.then_some("unwritten memory"));
        checks.extend(on.registers.then_some("unwritten registers"));
        checks.extend(on.wgmma.then_some("wgmma registers"));
        checks.extend(on.bulk_source.then_some("bulk copy sources"));
        checks.extend(on.races.then_some("data races"));
        checks.extend(on.proxies.then_some("proxy fences"));
        checks.extend(on.transactions.then_some("transactions"));
        checks.extend(on.non_coherent.then_some("non-coherent loads"));
        return Ok((checks.into_iter().map(str::to_owned).collect(), Some(machine.counters().instructions)));
    }
    let _ = device;
    Ok((Vec::new(), None))
}
