//! Every spelling of the field is accepted, and nothing else that looks like it.

use hadal_emulator::ir::Module;

const FORMS: &str = include_str!("front_end_forms.ptx");

/// The text before the instructions, the instructions, the text behind them.
fn parts() -> (String, Vec<&'static str>, &'static str) {
    let mut lines = FORMS.lines();
    let head: Vec<_> = lines.by_ref().take_while(|line| !line.starts_with("mov.u32 r9")).collect();
    let body: Vec<_> =
        lines.take_while(|line| !line.starts_with("done:")).filter(|line| !line.is_empty()).collect();
    (head.join("\n"), body, "done: ret; }")
}

fn refuse(head: &str, line: &str, tail: &str) -> String {
    match Module::parse("forms.ptx", &format!("{head}\n{line}\n{tail}")) {
        Ok(_) => panic!("accepted: {line}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn all_forms_are_accepted() {
    let module = Module::parse("front_end_forms.ptx", FORMS).unwrap_or_else(|e| panic!("{e}"));
    let (_, body, _) = parts();
    assert!(body.len() > 650, "{}", body.len());
    assert!(module.kernels[0].code.len() >= body.len());
}

#[test]
fn an_unknown_modifier_is_named_wherever_it_stands() {
    let (head, body, tail) = parts();
    for line in body {
        let (name, operands) = line.split_once([' ', ';']).unwrap_or((line, ""));
        // A guard comes first on some lines.
        let (guard, name, operands) = match name.strip_prefix('@') {
            Some(_) => {
                let (inner, rest) = operands.split_once([' ', ';']).unwrap_or((operands, ""));
                (name, inner, rest)
            }
            None => ("", name, operands),
        };
        let end = if operands.is_empty() { ";" } else { "" };
        let wrong = format!("{guard} {name}.bogus {operands}{end}");
        assert!(refuse(&head, &wrong, tail).contains(".bogus"), "{wrong}");
    }
}

#[test]
fn an_operand_too_many_is_an_error() {
    let (head, body, tail) = parts();
    for line in body {
        let line = line.trim_end_matches(';');
        let comma = if line.contains(' ') && !line.ends_with(".uni") { "," } else { "" };
        for extra in ["r1, r2, r3", "p1, p2, p3"] {
            refuse(&head, &format!("{line}{comma} {extra};"), tail);
        }
    }
}
