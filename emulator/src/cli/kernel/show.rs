//! What `run` and `check` print: for people, and as JSON.

use std::fmt::Write;

use hadal_emulator::ir::Kernel;
use hadal_emulator::{Counters, InstructionClass, Report};

use super::check::{Order, Verdict};
use super::options::Options;
use super::{Left, Outcome, Way};
use crate::cli::json::{array, object, or_null, quoted};

/// Values of a line.
const COLUMNS: usize = 8;

/// A report whose last line is a command.
fn report_text(report: &Report, replay: String) -> String {
    Report { replay, ..report.clone() }.to_string()
}

fn report_json(report: &Report, replay: &str) -> Vec<(&'static str, String)> {
    let place = &report.place;
    let source = place.source.as_ref().map(|(file, line)| {
        let text = or_null(place.source_text.as_ref(), |text| quoted(text));
        object(&[("file", quoted(file)), ("line", line.to_string()), ("text", text)])
    });
    let ptx = [
        ("file", quoted(&place.module)),
        ("line", place.ptx_line.to_string()),
        ("text", quoted(&place.ptx_text)),
    ];
    let lanes = (0..32).filter(|lane| report.lanes >> lane & 1 == 1).map(|lane: u32| lane.to_string());
    vec![
        ("class", quoted(&report.class.to_string())),
        ("message", quoted(&report.message)),
        ("kernel", quoted(&report.kernel)),
        ("ptx", object(&ptx)),
        ("source", or_null(source, |source| source)),
        ("device", report.device.to_string()),
        ("block", array(report.block.iter().map(u32::to_string))),
        ("warp", report.warp.to_string()),
        ("lanes", array(lanes)),
        ("address", or_null(report.address, |address| quoted(&format!("{address:#x}")))),
        ("other", or_null(report.other.as_ref(), |other| quoted(other))),
        ("hint", or_null(report.hint.as_ref(), |hint| quoted(hint))),
        ("notes", array(report.notes.iter().map(|note| quoted(note)))),
        ("replay", quoted(replay)),
    ]
}

/// Every counter by name.
fn counters(counters: &Counters) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = [
        ("warp instructions", counters.instructions),
        ("thread instructions", counters.thread_instructions),
        ("blocks", counters.blocks),
        ("SMs used", counters.sms_used.into()),
        ("most blocks resident", counters.max_resident_blocks.into()),
        ("bytes loaded, global", counters.global_load_bytes),
        ("bytes stored, global", counters.global_store_bytes),
        ("bytes loaded, other devices", counters.link_load_bytes),
        ("bytes stored, other devices", counters.link_store_bytes),
        ("bytes loaded, shared", counters.shared_load_bytes),
        ("bytes stored, shared", counters.shared_store_bytes),
        ("bytes copied in", counters.tma_load_bytes),
        ("bytes copied out", counters.tma_store_bytes),
        ("bytes read by wgmma", counters.wgmma_shared_bytes),
        ("bank conflicts", counters.bank_conflicts),
        ("wgmma", counters.wgmma),
        ("wgmma operations", counters.wgmma_flops),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec();
    for class in InstructionClass::ALL {
        all.push((format!("warp instructions, {class:?}"), counters.class(class)));
    }
    all
}

fn name(kernel: &Kernel, index: usize) -> &str {
    kernel.params.get(index).map_or("", |param| &param.name)
}

fn left_text(kernel: &Kernel, left: &Left) -> String {
    let ty = left.buffer.ty;
    let count = left.written.len();
    let mut out = format!("argument {}, {}: {}[{count}]\n", left.index, name(kernel, left.index), ty.name());
    let values: Vec<String> = (left.bytes.chunks(ty.bytes()).zip(&left.written))
        .map(|(bytes, written)| if *written { ty.show(bytes) } else { "?".into() })
        .collect();
    let width = values.iter().map(String::len).max().unwrap_or(0);
    for (row, line) in values.chunks(COLUMNS).enumerate() {
        let _ = write!(out, "{:>8}:", row * COLUMNS);
        for value in line {
            let _ = write!(out, " {value:>width$}");
        }
        out.push('\n');
    }
    match left.written.iter().filter(|written| !**written).count() {
        0 => {}
        missing => out.push_str(&format!("          ? {missing} of {count} were never written\n")),
    }
    out
}

fn left_json(kernel: &Kernel, left: &Left) -> String {
    let ty = left.buffer.ty;
    let values = left.bytes.chunks(ty.bytes()).zip(&left.written).map(|(bytes, written)| {
        let text = ty.show(bytes);
        // JSON has no NaN, no infinity, no hexadecimal.
        let plain = !text.contains(|c: char| c.is_ascii_alphabetic());
        match (written, plain) {
            (false, _) => "null".into(),
            (true, true) => text,
            (true, false) => quoted(&text),
        }
    });
    object(&[
        ("argument", left.index.to_string()),
        ("name", quoted(name(kernel, left.index))),
        ("type", quoted(&ty.name())),
        ("values", array(values)),
    ])
}

/// After `run`.
pub fn run_text(options: &Options, kernel: &Kernel, outcome: &Outcome, way: Way) -> String {
    let mut out = String::new();
    for left in outcome.left.iter().filter(|left| left.buffer.output) {
        out.push_str(&left_text(kernel, left));
    }
    for advice in &outcome.advice {
        let _ = writeln!(out, "advice: {}\n", report_text(advice, options.replay(way)));
    }
    match &outcome.fault {
        Some(report) => {
            let _ = writeln!(out, "{}", report_text(report, options.replay(way)));
        }
        None => {
            for (name, value) in counters(&outcome.counters).iter().filter(|(_, value)| *value > 0) {
                let _ = writeln!(out, "{value:>14} {name}");
            }
        }
    }
    out
}

/// After `run --json`.
pub fn run_json(options: &Options, kernel: &Kernel, outcome: &Outcome, way: Way) -> String {
    let replay = options.replay(way);
    let object_of = |report: &Report| object(&report_json(report, &replay));
    let counters: Vec<String> = counters(&outcome.counters)
        .iter()
        .map(|(name, value)| {
            format!("{}: {value}", quoted(&name.replace(", ", "_").replace(' ', "_").to_lowercase()))
        })
        .collect();
    let outputs = outcome.left.iter().filter(|left| left.buffer.output).map(|left| left_json(kernel, left));
    let fields = [
        ("file", quoted(&options.file)),
        ("entry", quoted(&kernel.name)),
        ("outputs", array(outputs)),
        ("fault", or_null(outcome.fault.as_ref(), object_of)),
        ("advice", array(outcome.advice.iter().map(object_of))),
        ("counters", format!("{{{}}}", counters.join(", "))),
        ("replay", quoted(&replay)),
    ];
    format!("{}\n", object(&fields))
}

fn order_text(options: &Options, kernel: &Kernel, order: &Order) -> String {
    let Order { index, ty, element, elements, values: [(a, there), (b, here)] } = order;
    format!(
        "result depends on order: argument {index}, {}: element {element} ({}) is {a} or {b}; {elements} differ
    at  {}
  hint  something is added, claimed or overwritten in the order in which threads happen to run
replay  {}
    or  {}",
        name(kernel, *index),
        ty.name(),
        kernel.name,
        options.replay(*there),
        options.replay(*here),
    )
}

/// After `check`.
pub fn check_text(options: &Options, kernel: &Kernel, verdict: &Verdict) -> String {
    let mut out = String::new();
    for finding in &verdict.findings {
        let _ = writeln!(out, "{}", report_text(&finding.report, options.replay(finding.way)));
        let _ = writeln!(out, "  seen  in {} of {} schedules\n", finding.seen, verdict.schedules);
    }
    for order in &verdict.orders {
        let _ = writeln!(out, "{}\n", order_text(options, kernel, order));
    }
    for (advice, way) in &verdict.advice {
        let _ = writeln!(out, "advice: {}\n", report_text(advice, options.replay(*way)));
    }
    let ran = verdict.schedules;
    let _ = match verdict.count() {
        0 => writeln!(out, "no findings in {ran} schedules"),
        1 => writeln!(out, "1 finding in {ran} schedules"),
        n => writeln!(out, "{n} findings in {ran} schedules"),
    };
    out
}

/// After `check --json`.
pub fn check_json(options: &Options, kernel: &Kernel, verdict: &Verdict) -> String {
    let findings = verdict.findings.iter().map(|finding| {
        let mut fields = report_json(&finding.report, &options.replay(finding.way));
        fields.push(("seen", finding.seen.to_string()));
        object(&fields)
    });
    let orders = verdict.orders.iter().map(|order| {
        let values = order.values.iter().map(|(value, way)| {
            object(&[("value", quoted(value)), ("replay", quoted(&options.replay(*way)))])
        });
        object(&[
            ("class", quoted("result depends on order")),
            ("argument", order.index.to_string()),
            ("name", quoted(name(kernel, order.index))),
            ("type", quoted(&order.ty.name())),
            ("element", order.element.to_string()),
            ("elements", order.elements.to_string()),
            ("values", array(values)),
        ])
    });
    let advice =
        verdict.advice.iter().map(|(report, way)| object(&report_json(report, &options.replay(*way))));
    let fields = [
        ("file", quoted(&options.file)),
        ("entry", quoted(&kernel.name)),
        ("schedules", verdict.schedules.to_string()),
        ("compared", verdict.compared.to_string()),
        ("findings", array(findings.chain(orders))),
        ("advice", array(advice)),
    ];
    format!("{}\n", object(&fields))
}
