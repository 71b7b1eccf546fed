//! The `hadal` command: its answers, its exit statuses, and what it says when a tool is missing.

use std::process::{Command, Output};

/// Runs `hadal` with the tools' variables set to `tools` (a path, or `none`).
fn hadal(arguments: &[&str], tools: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command
        .args(arguments)
        .env("HADAL_PTXAS", tools)
        .env("HADAL_NVDISASM", tools)
        .env("HADAL_DEVICE", "emulator");
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("its output is text");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn list_names_every_kernel() {
    let (status, out, _) = hadal(&["list"], "none");
    assert_eq!(status, Some(0));
    for kernel in hadal::kernel::all() {
        assert!(out.lines().any(|line| line.split(' ').next() == Some(kernel.row.name)), "{out}");
    }
}

#[test]
fn expand_prints_the_ptx_and_its_origins() {
    let kernel = hadal::kernel::find("hadal_gemm_e4m3_bf16_dense_m64n64_sm90a").expect("in the table");
    let (status, out, _) = hadal(&["expand", kernel.row.name], "none");
    assert_eq!((status, out.as_str()), (Some(0), kernel.ptx));
    let (status, out, _) = hadal(&["expand", kernel.row.name, "--origin"], "none");
    assert_eq!((status, out.lines().count()), (Some(0), kernel.ptx.lines().count()));
    assert!(out.contains("ptx/lib/mbarrier.ptx:") && out.contains("(from ptx/gemm_fp8.ptx:"));
    let (status, _, err) = hadal(&["expand", "hadal_nothing"], "none");
    assert!(status == Some(1) && err.contains("no kernel `hadal_nothing`"), "{err}");
}

#[test]
fn sass_without_tools_says_how_to_get_them() {
    let (status, out, err) = hadal(&["sass"], "none");
    assert_eq!((status, out.as_str()), (Some(1), ""));
    assert!(
        err.contains("ptxas was not found") && err.contains("pip install nvidia-cuda-nvcc-cu12"),
        "{err}"
    );
    let (status, _, err) = hadal(&["sass", "--ptxas", "/nonsense/ptxas"], "none");
    assert!(status == Some(1) && err.contains("--ptxas /nonsense/ptxas: it does not start"), "{err}");
}

#[test]
fn doctor_answers_on_any_machine() {
    let (status, out, _) = hadal(&["doctor"], "none");
    assert_eq!(status, Some(0));
    for part in ["cuda:0", "emulator:0", "default", "kernels", "ptxas", "nvdisasm", "pip install"] {
        assert!(out.contains(part), "no {part} in\n{out}");
    }
    let (status, out, _) = hadal(&["doctor"], "/nonsense/tool");
    assert!(status == Some(0) && out.contains("HADAL_PTXAS=/nonsense/tool: it does not start"), "{out}");
}

#[test]
fn wrong_usage_is_status_2() {
    for arguments in
        [&["frobnicate"][..], &["expand"], &["list", "more"], &["sass", "--jsn"], &["sass", "--ptxas"]]
    {
        let (status, out, err) = hadal(arguments, "none");
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        assert!(err.contains("hadal sass [--json]"), "{err}");
    }
    assert_eq!(hadal(&[], "none").0, Some(0));
    assert!(hadal(&["--version"], "none").1.starts_with("hadal "));
}
