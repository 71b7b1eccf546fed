//! What the environment chooses. `hadal-emulator exec` documents the same list.
//!
//! | variable | values | default |
//! | --- | --- | --- |
//! | `HADAL_EMULATOR_DEVICES` | 1 to 64 | 1 |
//! | `HADAL_EMULATOR_CHECKS` | `all` or `none`, then fields of `Checks`: `all,-proxies,proxy_reuse` | `all` |
//! | `HADAL_EMULATOR_TENSOR` | `exact`, `fast` | `exact` |
//! | `HADAL_EMULATOR_SCHEDULE` | `round-robin`, `random`, `starve`, `uneven` | `round-robin` |
//! | `HADAL_EMULATOR_COMPLETION` | `latest`, `eager`, `random` | `latest` |
//! | `HADAL_EMULATOR_SEED` | a number | 0 |
//! | `HADAL_EMULATOR_LIMIT` | warp instructions per wait | none |
//! | `HADAL_EMULATOR_PTX` | folders, separated by `:` | none |
//! | `HADAL_EMULATOR_KEEP` | a folder for the PTX that is launched | none |

use std::path::PathBuf;

use hadal_emulator::tensor::Mode;
use hadal_emulator::{Checks, DeviceConfig, MachineConfig, UnknownName};

use crate::error::{Code, Error, Result};

const PREFIX: &str = "HADAL_EMULATOR_";

/// Where PTX to machine code is looked for.
pub fn ptx_folders() -> Vec<PathBuf> {
    match std::env::var_os(format!("{PREFIX}PTX")) {
        Some(list) => std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect(),
        None => Vec::new(),
    }
}

/// Where what was launched is to be kept.
pub fn keep_folder() -> Option<PathBuf> {
    std::env::var_os(format!("{PREFIX}KEEP")).filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// The machine that the environment asks for.
pub fn machine() -> Result<MachineConfig> {
    configure(|name| std::env::var_os(format!("{PREFIX}{name}")).map(|v| v.to_string_lossy().into_owned()))
}

fn configure(get: impl Fn(&str) -> Option<String>) -> Result<MachineConfig> {
    let wrong = |name: &str, expected: &str, got: &str| {
        Error::new(Code::InvalidValue, format!("{PREFIX}{name}: expected {expected}, got `{got}`"))
    };
    let number = |name: &str, least: u64, most: u64| match get(name) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(value) if (least..=most).contains(&value) => Ok(Some(value)),
            _ => Err(wrong(name, &format!("a number from {least} to {most}"), &text)),
        },
    };
    let mut config = MachineConfig::default();
    let devices = number("DEVICES", 1, 64)?.unwrap_or(1);
    config.devices = vec![DeviceConfig::h100(); devices as usize];
    config.seed = number("SEED", 0, u64::MAX)?.unwrap_or(0);
    config.instruction_limit = number("LIMIT", 1, u64::MAX)?;
    if let Some(text) = get("CHECKS") {
        let expected = "`all` or `none`, then names of checks, each with `-` in front to switch it off";
        config.checks = checks(&text).ok_or_else(|| wrong("CHECKS", expected, &text))?;
    }
    config.tensor_mode = match get("TENSOR").as_deref() {
        None | Some("exact") => Mode::Exact,
        Some("fast") => Mode::Fast,
        Some(got) => return Err(wrong("TENSOR", "`exact` or `fast`", got)),
    };
    let unknown =
        |name: &str, error: UnknownName| Error::new(Code::InvalidValue, format!("{PREFIX}{name}: {error}"));
    if let Some(text) = get("SCHEDULE") {
        config.schedule = text.parse().map_err(|error| unknown("SCHEDULE", error))?;
    }
    if let Some(text) = get("COMPLETION") {
        config.completion = text.parse().map_err(|error| unknown("COMPLETION", error))?;
    }
    Ok(config)
}

fn checks(text: &str) -> Option<Checks> {
    let mut names = text.split(',');
    let mut checks = match names.next()? {
        "all" => Checks::all(),
        "none" => Checks::none(),
        _ => return None,
    };
    for name in names {
        let (name, on) = name.strip_prefix('-').map_or((name, true), |name| (name, false));
        *match name {
            "uninitialised" => &mut checks.uninitialised,
            "registers" => &mut checks.registers,
            "wgmma" => &mut checks.wgmma,
            "bulk_source" => &mut checks.bulk_source,
            "races" => &mut checks.races,
            "proxies" => &mut checks.proxies,
            "transactions" => &mut checks.transactions,
            "non_coherent" => &mut checks.non_coherent,
            "letter" => &mut checks.letter,
            "proxy_reuse" => &mut checks.proxy_reuse,
            "trailing_sector" => &mut checks.trailing_sector,
            _ => return None,
        } = on;
    }
    Some(checks)
}

#[cfg(test)]
mod tests {
    use hadal_emulator::{Completion, Schedule};

    use super::*;

    fn with(set: &[(&str, &str)]) -> Result<MachineConfig> {
        configure(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn every_choice_is_heard() {
        let config = with(&[
            ("DEVICES", "8"),
            ("CHECKS", "none"),
            ("TENSOR", "fast"),
            ("SCHEDULE", "random"),
            ("COMPLETION", "eager"),
            ("SEED", "7"),
            ("LIMIT", "1000"),
        ])
        .unwrap();
        assert_eq!((config.devices.len(), config.seed, config.instruction_limit), (8, 7, Some(1000)));
        assert_eq!((config.checks, config.tensor_mode), (Checks::none(), Mode::Fast));
        assert_eq!((config.schedule, config.completion), (Schedule::Random, Completion::Eager));
    }

    #[test]
    fn every_schedule_is_known() {
        for schedule in [Schedule::RoundRobin, Schedule::Random, Schedule::Starve, Schedule::Uneven] {
            assert_eq!(with(&[("SCHEDULE", &schedule.to_string())]).unwrap().schedule, schedule);
        }
    }

    #[test]
    fn checks_are_switched_one_by_one() {
        let checks = with(&[("CHECKS", "all,-proxies,proxy_reuse")]).unwrap().checks;
        assert!(!checks.proxies && checks.proxy_reuse && checks.races && !checks.trailing_sector);
        let checks = with(&[("CHECKS", "none,races")]).unwrap().checks;
        assert!(checks.races && !checks.proxies);
    }

    #[test]
    fn nonsense_names_its_variable() {
        for (name, value) in [
            ("DEVICES", "0"),
            ("CHECKS", "some"),
            ("CHECKS", "all,proxy"),
            ("TENSOR", ""),
            ("SCHEDULE", "x"),
            ("COMPLETION", "y"),
            ("SEED", "-1"),
        ] {
            let error = with(&[(name, value)]).unwrap_err();
            assert!(error.detail.contains(&format!("HADAL_EMULATOR_{name}")), "{}", error.detail);
        }
    }
}
