//! The command line of the example.

use std::path::PathBuf;

use hadal::device::DeviceSpec;

use super::Failure;

pub const USAGE: &str = "\
y = x · weightᵀ in FP8: quantises both on the device, multiplies them there, and checks the result.

usage: cargo run --release --example fp8_linear -- [options]

  --weights FILE.safetensors   take the weight from this file, with
  --tensor NAME                this tensor of it: [N, K] in F32, F16 or BF16
  --n N, --k K                 rows and columns of a generated weight (default 2112 and 7168, q_a and kv_a of DeepSeek-V3)
  --rows M                     rows of x, which is always generated (default 128)
  --seed S                     of everything generated (default 0)
  --device NAME                cuda[:N] or emulator[:N]; default: HADAL_DEVICE, else a supported GPU, else the emulator
  --json                       one JSON object on stdout; everything else goes to stderr
  --help
";

/// Elements a matrix of this example may have: it keeps several copies in memory.
const MOST_ELEMENTS: usize = 1 << 30;

#[derive(Debug)]
pub struct Options {
    pub source: Source,
    pub rows: usize,
    pub seed: u64,
    pub device: Option<DeviceSpec>,
    pub json: bool,
}

/// Where the weight comes from.
#[derive(Debug)]
pub enum Source {
    File { path: PathBuf, tensor: Option<String> },
    Generated { n: usize, k: usize },
}

impl Source {
    /// Says whose shape it was that the library refused.
    pub fn blame(&self, error: hadal::Error) -> Failure {
        match (self, error) {
            (Source::Generated { .. }, hadal::Error::Shape { expected, got, .. }) => {
                Failure::Usage(format!("--rows, --n, --k: expected {expected}, got {got}"))
            }
            (Source::File { tensor: Some(tensor), .. }, hadal::Error::Shape { expected, got, .. }) => {
                Failure::Failed(format!("tensor `{tensor}` is [N, K]: expected {expected}, got {got}"))
            }
            (_, other) => other.into(),
        }
    }
}

impl Options {
    /// `None` when help was asked for.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, Failure> {
        let (mut weights, mut tensor, mut n, mut k) = (None, None, None, None);
        let (mut rows, mut seed, mut device, mut json) = (128, 0, None, false);
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            // Both `--rows 5` and `--rows=5`.
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            if attached.is_some() && matches!(name, "--json" | "--help") {
                return Err(Failure::Usage(format!("{name} takes no value")));
            }
            let mut value = || {
                let value = attached.clone().or_else(|| arguments.next());
                value.ok_or_else(|| Failure::Usage(format!("{name} takes a value")))
            };
            match name {
                "--weights" => weights = Some(PathBuf::from(value()?)),
                "--tensor" => tensor = Some(value()?),
                "--n" => n = Some(number(name, &value()?)?),
                "--k" => k = Some(number(name, &value()?)?),
                "--rows" => rows = number(name, &value()?)?,
                "--seed" => seed = number(name, &value()?)? as u64,
                "--device" => device = Some(device_spec(&value()?)?),
                "--json" => json = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(Failure::Usage(format!("there is no option `{argument}`"))),
            }
        }
        let source = match (weights, tensor) {
            (Some(_), _) if n.is_some() || k.is_some() => {
                return Err(Failure::Usage(
                    "--n and --k shape a generated weight; --weights brings its own".into(),
                ));
            }
            (Some(path), tensor) => Source::File { path, tensor },
            (None, Some(_)) => {
                return Err(Failure::Usage("--tensor needs --weights FILE.safetensors".into()));
            }
            (None, None) => Source::Generated { n: n.unwrap_or(2112), k: k.unwrap_or(7168) },
        };
        if rows == 0 {
            return Err(Failure::Usage("--rows: expected at least 1, got 0".into()));
        }
        Ok(Some(Options { source, rows, seed, device, json }))
    }
}

/// Refuses a matrix that would not fit; `name` is what the user can change.
pub fn expect_room(name: &str, rows: usize, cols: usize) -> Result<(), Failure> {
    if rows.checked_mul(cols).is_none_or(|elements| elements > MOST_ELEMENTS) {
        let expected = format!("at most {MOST_ELEMENTS} elements, which this example keeps in memory");
        return Err(Failure::Usage(format!("{name}: expected {expected}, got [{rows}, {cols}]")));
    }
    Ok(())
}

fn number(name: &str, text: &str) -> Result<usize, Failure> {
    text.parse().map_err(|_| Failure::Usage(format!("{name}: expected a whole number, got `{text}`")))
}

fn device_spec(text: &str) -> Result<DeviceSpec, Failure> {
    text.parse().map_err(|error| match error {
        hadal::Error::DeviceName { expected, got, .. } => {
            Failure::Usage(format!("--device: expected {expected}, got {got}"))
        }
        other => Failure::Usage(format!("--device: {other}")),
    })
}
