//! The options of `run` and `check`, from the command line and from a TOML file of the same names.

use hadal_emulator::{Checks, Completion, DeviceConfig, MachineConfig, Schedule, tensor};

use super::Way;
use super::arguments::Argument;

/// Options that a replay sets anew.
const REPLAYED: [&str; 4] = ["--schedule", "--completion", "--seed", "--seeds"];

/// What was asked for.
#[derive(Debug)]
pub struct Options {
    pub file: String,
    pub entry: Option<String>,
    pub grid: Option<[u32; 3]>,
    pub block: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
    pub shared: u32,
    pub arguments: Vec<Argument>,
    /// All but schedule, completion and seed.
    pub config: MachineConfig,
    schedule: Option<Schedule>,
    completion: Option<Completion>,
    seed: u64,
    pub seeds: u64,
    pub json: bool,
    /// The words of the command line that say what runs, not how.
    words: Vec<String>,
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{name}: `{text}` is no number"))
}

fn small(name: &str, text: &str) -> Result<u32, String> {
    u32::try_from(number(name, text)?).map_err(|_| format!("{name}: {text} is too large"))
}

fn extents(name: &str, text: &str) -> Result<[u32; 3], String> {
    let mut extents = [1; 3];
    let given: Vec<&str> = text.split(',').map(str::trim).collect();
    if given.len() > 3 {
        return Err(format!("{name}: X,Y,Z at most, got `{text}`"));
    }
    for (extent, text) in extents.iter_mut().zip(given) {
        *extent = small(name, text)?;
    }
    Ok(extents)
}

/// The options of a TOML file as words of a command line.
fn file(path: &str) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let table: toml::Table = text.parse().map_err(|error| format!("{path}: {error}"))?;
    let scalar = |key: &str, value: &toml::Value| match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(n) => Ok(n.to_string()),
        _ => Err(format!("{path}: {key}: a string, a number, or a list of them")),
    };
    let mut words = Vec::new();
    for (key, value) in &table {
        let option = format!("--{key}");
        match (key.as_str(), value) {
            ("args" | "arg", toml::Value::Array(items)) => {
                for item in items {
                    words.extend(["--arg".into(), scalar(key, item)?]);
                }
            }
            ("args", _) => return Err(format!("{path}: args: a list of strings")),
            (_, toml::Value::Boolean(true)) => words.push(option),
            (_, toml::Value::Boolean(false)) => {}
            (_, toml::Value::Array(items)) => {
                let items: Result<Vec<String>, String> = items.iter().map(|item| scalar(key, item)).collect();
                words.extend([option, items?.join(",")]);
            }
            _ => words.extend([option, scalar(key, value)?]),
        }
    }
    Ok(words)
}

/// SMs of the devices that are made of the same chip.
fn device(name: &str) -> Result<DeviceConfig, String> {
    let sms = match name {
        "h100" | "h200" | "h800" => 132,
        "h100-pcie" => 114,
        "h20" => 78,
        _ => return Err(format!("--device: no `{name}`; there are: h100, h100-pcie, h200, h800, h20")),
    };
    Ok(DeviceConfig { name: format!("{name} (emulated)"), sms, ..DeviceConfig::h100() })
}

impl Options {
    /// Reads the words after `run` or `check`.
    pub fn parse(command: &str, arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            file: String::new(),
            entry: None,
            grid: None,
            block: None,
            cluster: None,
            shared: 0,
            arguments: Vec::new(),
            config: MachineConfig { instruction_limit: Some(200_000_000), ..MachineConfig::default() },
            schedule: None,
            completion: None,
            seed: 0,
            seeds: 20,
            json: false,
            words: Vec::new(),
        };
        let said = |error: String| format!("{command}: {error}");
        // A file's options come first: the command line has the last word.
        let mut rest = arguments.iter();
        let mut sms = None;
        while let Some(word) = rest.next() {
            if word == "--args" {
                let path = rest.next().ok_or_else(|| said("--args: which file?".into()))?;
                options.take(&file(path).map_err(said)?, &mut sms).map_err(said)?;
            }
        }
        options.take(arguments, &mut sms).map_err(said)?;
        if options.file.is_empty() {
            return Err(said("which FILE.ptx?".into()));
        }
        if let Some(sms) = sms {
            options.config.devices[0].sms = sms;
        }
        let mut rest = arguments.iter();
        while let Some(word) = rest.next() {
            if REPLAYED.contains(&word.as_str()) {
                rest.next();
            } else if word != "--json" {
                options.words.push(word.clone());
            }
        }
        Ok(options)
    }

    fn take(&mut self, words: &[String], sms: &mut Option<u32>) -> Result<(), String> {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let name = word.as_str();
            match name {
                "--json" => self.json = true,
                "--no-checks" => self.config.checks = Checks::none(),
                "--fast" => self.config.tensor_mode = tensor::Mode::Fast,
                _ if !name.starts_with('-') => {
                    if !self.file.is_empty() {
                        return Err(format!("one FILE.ptx, got also `{name}`"));
                    }
                    self.file = name.into();
                }
                "--args" => {
                    words.next();
                }
                "--entry" | "--grid" | "--block" | "--cluster" | "--shared" | "--arg" | "--device"
                | "--sms" | "--resident" | "--schedule" | "--completion" | "--seed" | "--seeds"
                | "--limit" => {
                    let value = words.next().ok_or_else(|| format!("{name}: a value is missing"))?;
                    self.set(name, value, sms)?;
                }
                _ => return Err(format!("no option `{name}`")),
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str, sms: &mut Option<u32>) -> Result<(), String> {
        let one_of = |names: &str| format!("{name}: `{value}`, expected {names}");
        match name {
            "--entry" => self.entry = Some(value.into()),
            "--grid" => self.grid = Some(extents(name, value)?),
            "--block" => self.block = Some(extents(name, value)?),
            "--cluster" => self.cluster = Some(extents(name, value)?),
            "--shared" => self.shared = small(name, value)?,
            "--arg" => self.arguments.push(Argument::parse(value)?),
            "--device" => self.config.devices = vec![device(value)?],
            "--sms" => match small(name, value)? {
                n @ 1..=1024 => *sms = Some(n),
                _ => return Err(one_of("1 to 1024")),
            },
            "--resident" => match small(name, value)? {
                0 => return Err(one_of("1 or more")),
                n => self.config.resident_blocks = Some(n),
            },
            "--schedule" => self.schedule = Some(value.parse().map_err(|e| format!("{name}: {e}"))?),
            "--completion" => self.completion = Some(value.parse().map_err(|e| format!("{name}: {e}"))?),
            "--seed" => self.seed = number(name, value)?,
            "--seeds" => {
                self.seeds = match number(name, value)? {
                    0 => return Err(one_of("1 or more")),
                    n => n,
                }
            }
            _ => self.config.instruction_limit = Some(number(name, value)?).filter(|n| *n > 0),
        }
        Ok(())
    }

    /// The way of the `nth` execution: for `run` the plain one, for `check` one of many.
    pub fn way(&self, nth: u64, many: bool) -> Way {
        let (schedule, completion) = match many {
            false => (Schedule::RoundRobin, Completion::Latest),
            true => (
                if nth % 4 == 3 { Schedule::Starve } else { Schedule::Random },
                [Completion::Latest, Completion::Random, Completion::Eager][(nth % 3) as usize],
            ),
        };
        Way {
            schedule: self.schedule.unwrap_or(schedule),
            completion: self.completion.unwrap_or(completion),
            seed: self.seed.wrapping_add(nth),
        }
    }

    /// The command that goes that way again.
    pub fn replay(&self, way: Way) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@=+".contains(c);
        let mut command = String::from("hadal-emulator run");
        for word in &self.words {
            if !word.is_empty() && word.chars().all(plain) {
                command.push_str(&format!(" {word}"));
            } else {
                command.push_str(&format!(" '{}'", word.replace('\'', r"'\''")));
            }
        }
        let Way { schedule, completion, seed } = way;
        format!("{command} --schedule {schedule} --completion {completion} --seed {seed}")
    }
}
