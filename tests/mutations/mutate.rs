//! The ways to break a kernel.

use hadal::kernel::Kernel;

/// A broken kernel.
pub struct Mutant {
    /// Its PTX.
    pub text: String,
    /// The first line that is broken, as it was.
    pub line: String,
    /// What was done to it.
    pub change: String,
}

/// The number at the end of an instruction.
fn last_number(code: &str) -> Option<(usize, usize, i64)> {
    let end = code.rfind(';')?;
    let start = code[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |i| i + 1);
    Some((start, end, code[start..end].parse().ok()?))
}

/// What can be done to an instruction: its weaker forms, with a word for each.
fn changes(code: &str) -> Vec<(String, String)> {
    let op = code.trim_start();
    let op = op.strip_prefix('@').map_or(op, |rest| rest.split_once(' ').map_or(rest, |(_, op)| op));
    let number = |by: i64, what: &str| {
        let (start, end, value) = last_number(code)?;
        let value = value + by;
        (value >= 0).then(|| (format!("{}{value}{}", &code[..start], &code[end..]), what.to_string()))
    };
    let mut all: Vec<(String, String)> = Vec::new();
    let deleted = (String::new(), "deleted".to_string());
    if op.starts_with("mbarrier.try_wait") {
        // The predicate it would have set: true.
        let ready = op.split_whitespace().nth(1).unwrap_or_default().trim_end_matches(',');
        all.push((format!("setp.eq.u32 {ready}, 0, 0;"), "deleted".into()));
        if let Some((start, parity)) = code.rsplit_once(", ") {
            let parity = parity.trim_end().trim_end_matches(';');
            let other = format!("{{ .reg .b32 other; xor.b32 other, {parity}, 1; {start}, other; }}");
            all.push((other, "for the other parity".into()));
        }
        return all;
    }
    if op.starts_with("mbarrier.init") {
        all.push(deleted);
        all.extend(number(1, "one arrival more"));
        all.extend(number(-1, "one arrival less"));
    } else if op.starts_with("mbarrier.arrive") {
        all.push(deleted);
        if op.contains("expect_tx") {
            all.extend(number(16, "16 bytes more"));
            all.extend(number(-16, "16 bytes less"));
            let only = code.replace(".arrive.expect_tx", ".expect_tx.relaxed.cta").replace(" _,", "");
            all.push((only, "expecting without arriving".into()));
        } else {
            all.push((format!("{code}\n{code}"), "twice".into()));
        }
    } else if op.starts_with("wgmma.wait_group") || op.starts_with("cp.async.bulk.wait_group") {
        all.push(deleted);
        all.extend(number(1, "one group less"));
    } else if op.starts_with("fence.proxy.async") {
        all.push(deleted);
        if op.starts_with("fence.proxy.async;") {
            all.push((code.replace("async;", "async.shared::cta;"), "for shared memory only".into()));
        }
        let narrow = code.replace("async.shared::cta;", "async;").replace("async;", "async.global;");
        all.push((narrow, "for global memory only".into()));
    } else if op.starts_with("setmaxnreg") {
        all.push(deleted);
        if op.contains(".dec") {
            // More than the launch leaves over.
            all.extend(number(72, "72 registers less"));
        }
    } else if op.starts_with("cp.async.mbarrier.arrive.noinc") {
        all.push(deleted);
        all.push((code.replace(".noinc", ""), "with an arrival of its own".into()));
    } else if op.starts_with("griddepcontrol.wait") {
        all.push(deleted);
        all.push((code.replace(".wait", ".launch_dependents"), "releasing instead of waiting".into()));
    } else if op.starts_with("bar.sync") && op.contains(',') {
        all.push(deleted);
        all.extend(number(-64, "for half the warps"));
    } else if op.starts_with("fence.acq_rel.sys") {
        all.push(deleted);
        all.push((code.replace(".sys", ".gpu"), "for one device only".into()));
    } else if op.starts_with("atom.acq_rel") {
        all.push((code.replace(".acq_rel", ".relaxed"), "relaxed".into()));
    } else if op.starts_with("ld.relaxed.sys") || op.starts_with("st.relaxed.sys") {
        all.push((code.replace(".sys", ".gpu"), "for one device only".into()));
    } else if [
        "fence.",
        "membar.",
        "bar.",
        "barrier.",
        "griddepcontrol.",
        "wgmma.fence",
        "wgmma.commit_group",
        "cp.async.bulk.commit_group",
        "cp.async.commit_group",
        "cp.async.wait_",
        "cp.async.mbarrier.arrive",
    ]
    .iter()
    .any(|p| op.starts_with(p))
    {
        all.push(deleted);
    }
    all
}

/// Every mutant of a kernel.
pub fn mutants(kernel: &Kernel) -> Vec<Mutant> {
    let lines: Vec<&str> = kernel.ptx.lines().collect();
    // Copies of one template line, made by one chain of includes and macro calls, change together.
    /// Template lines, innermost first, and the PTX lines they made.
    type Group = (Vec<(String, u32)>, Vec<usize>);
    let mut groups: Vec<Group> = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if changes(code).is_empty() {
            continue;
        }
        let chain = kernel.line_map().origin(i + 1).map_or(vec![(String::new(), i as u32)], |o| o.chain);
        match groups.iter_mut().find(|g| g.0 == chain) {
            Some(group) => group.1.push(i),
            None => groups.push((chain, vec![i])),
        }
    }
    let mut all = Vec::new();
    for (_, members) in groups {
        let first = lines[members[0]].split("//").next().unwrap_or_default();
        for (n, (_, change)) in changes(first).into_iter().enumerate() {
            let mut text: Vec<String> = lines.iter().map(|l| l.to_string()).collect();
            for i in &members {
                let code = lines[*i].split("//").next().unwrap_or_default();
                text[*i] = changes(code).into_iter().nth(n).map(|(code, _)| code).unwrap_or_default();
            }
            all.push(Mutant { text: text.join("\n"), line: first.trim().into(), change });
        }
    }
    all
}
