//! The command, as a person uses it: `run` and `check` on PTX files, their exit codes and what they say.

use std::path::PathBuf;
use std::process::Command;

/// `out[i] = x * in[i]` for `i < count`.
const SCALE: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry scale(.param .u64 out, .param .u64 in, .param .f32 x, .param .u32 count)
{
    .reg .b32 %i, %n;
    .reg .b64 %to, %from, %offset;
    .reg .f32 %x, %v;
    .reg .pred %outside;
    mov.u32 %i, %tid.x;
    ld.param.u32 %n, [count];
    setp.ge.u32 %outside, %i, %n;
    @%outside ret;
    ld.param.u64 %to, [out];
    ld.param.u64 %from, [in];
    ld.param.f32 %x, [x];
    mul.wide.u32 %offset, %i, 4;
    add.u64 %to, %to, %offset;
    add.u64 %from, %from, %offset;
    ld.global.f32 %v, [%from];
    mul.f32 %v, %v, %x;
    st.global.f32 [%to], %v;
    ret;
}
";

/// Every warp stores to a box that warp 0 then reads; the barrier between is missing.
const RACY: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry racy(.param .u64 out)
.reqntid 64, 1, 1
{
    .shared .align 4 .b32 box;
    .reg .b32 %i, %v;
    .reg .b64 %to;
    .reg .pred %first;
    mov.u32 %i, %tid.x;
    setp.eq.u32 %first, %i, 32;
    @%first st.shared.u32 [box], %i;
    // bar.sync 0;
    setp.eq.u32 %first, %i, 0;
    @!%first ret;
    ld.shared.u32 %v, [box];
    ld.param.u64 %to, [out];
    st.global.u32 [%to], %v;
    ret;
}
";

/// Every block takes a ticket and leaves its number there: well ordered, and different every time.
const TICKETS: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry tickets(.param .u64 out, .param .u64 next)
{
    .reg .b32 %block, %ticket;
    .reg .b64 %to, %next, %offset;
    ld.param.u64 %to, [out];
    ld.param.u64 %next, [next];
    mov.u32 %block, %ctaid.x;
    atom.global.add.u32 %ticket, [%next], 1;
    mul.wide.u32 %offset, %ticket, 4;
    add.u64 %to, %to, %offset;
    st.global.u32 [%to], %block;
    ret;
}
";

/// A folder of this test's own, with the files given.
fn folder(test: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("hadal-emulator-cli-{}-{test}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
    folder
}

/// Exit code, standard output, standard error.
fn command(test: &str, files: &[(&str, &str)], arguments: &str) -> (i32, String, String) {
    let folder = folder(test, files);
    let output = Command::new(env!("CARGO_BIN_EXE_hadal-emulator"))
        .args(arguments.split_whitespace())
        .current_dir(&folder)
        .output()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn says(text: &str, expected: &[&str]) {
    for words in expected {
        assert!(text.contains(words), "expected `{words}` in:\n{text}");
    }
}

const SCALED: &str = "--block 32 --arg out:f32:12 --arg buf:f32:0..8,0.5*4 --arg f32:1.5 --arg u32:10";

#[test]
fn run_prints_the_outputs_and_what_was_done() {
    let files = [("scale.ptx", SCALE)];
    let (code, out, err) = command("run", &files, &format!("run scale.ptx {SCALED}"));
    assert_eq!((code, err.as_str()), (0, ""));
    says(&out, &["argument 0, out: f32[12]", "       8: 0.75 0.75    ?    ?", "2 of 12 were never written"]);
    says(&out, &["warp instructions", "40 bytes stored, global"]);

    let (code, out, _) = command("run-json", &files, &format!("run scale.ptx --json {SCALED}"));
    assert_eq!(code, 0);
    says(&out, &["\"values\": [0, 1.5, 3, 4.5, 6, 7.5, 9, 10.5, 0.75, 0.75, null, null]", "\"fault\": null"]);
    says(&out, &["\"thread_instructions\": ", "\"bytes_stored_global\": 40"]);
}

#[test]
fn a_file_gives_options_and_the_command_line_has_the_last_word() {
    let toml = "
        entry = 'scale'
        grid = [1, 1, 1]
        block = 64
        json = true
        args = ['out:f32:4', 'buf:f32:1,2,3,4', 'f32:2', 'u32:4']
    ";
    let files = [("scale.ptx", SCALE), ("scale.toml", toml)];
    let (code, out, _) = command("toml", &files, "run scale.ptx --args scale.toml --block 32");
    assert_eq!(code, 0);
    says(&out, &["\"values\": [2, 4, 6, 8]", "--args scale.toml --block 32"]);

    let (code, _, err) = command("toml-bad", &[("x.toml", "grid = [")], "run x.ptx --args x.toml");
    assert_eq!(code, 2);
    says(&err, &["x.toml: TOML parse error at line 1"]);
}

#[test]
fn check_finds_nothing_in_a_sound_kernel() {
    let (code, out, err) =
        command("sound", &[("scale.ptx", SCALE)], &format!("check scale.ptx {SCALED} --seeds 7"));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "no findings in 7 schedules\n", ""));
}

#[test]
fn a_race_is_shown_with_both_parties_and_the_command_that_shows_it_again() {
    let files = [("racy.ptx", RACY)];
    let (code, out, _) = command("race", &files, "check racy.ptx --arg out:u32:1 --seeds 4");
    assert_eq!(code, 1);
    says(
        &out,
        &["data race", "ld.shared.u32 %v, [box];", "st.shared.u32 [box], %i;", "  with  ", "  hint  "],
    );
    says(&out, &["replay  hadal-emulator run racy.ptx --arg out:u32:1 --schedule random --completion "]);
    assert!(out.trim_end().ends_with(" in 4 schedules"), "{out}");

    // The command does show it again.
    let replay = out.split("replay  hadal-emulator ").nth(1).unwrap().lines().next().unwrap();
    let (code, again, _) = command("again", &files, replay);
    assert_eq!(code, 1);
    says(&again, &["st.shared.u32 [box], %i;", replay]);

    let (code, out, _) = command("race-json", &files, "check racy.ptx --arg out:u32:1 --seeds 4 --json");
    assert_eq!(code, 1);
    says(
        &out,
        &["\"class\": \"", "\"text\": \"", "\"other\": \"", "\"replay\": \"hadal-emulator run racy.ptx"],
    );

    let mended = RACY.replace("// bar.sync", "bar.sync");
    let (code, out, _) = command("mended", &[("racy.ptx", &mended)], "check racy.ptx --arg out:u32:1");
    assert_eq!((code, out.as_str()), (0, "no findings in 20 schedules\n"));
}

#[test]
fn the_readme_shows_what_the_command_says() {
    let readme = include_str!("../README.md");
    let sum = include_str!("data/sum.ptx");
    let mended = sum.replace("    setp.ne.u32 p, i, 0;", "    bar.sync 0;\n    setp.ne.u32 p, i, 0;");
    for (code, ptx, how) in [(1, sum, "check"), (0, &mended, "check"), (0, &mended, "run")] {
        let arguments = format!("{how} sum.ptx --arg out:f32:1 --arg buf:f32:0..64");
        let (got, mut out, _) = command("readme", &[("sum.ptx", ptx)], &arguments);
        assert_eq!(got, code, "{out}");
        let mut pipe = "";
        if how == "run" {
            out = out.lines().take(3).map(|line| format!("{line}\n")).collect();
            pipe = " | head -n 3";
        }
        says(readme, &[&format!("$ hadal-emulator {arguments}{pipe}\n{out}")]);
    }
}

#[test]
fn a_result_that_depends_on_order_is_a_finding() {
    let files = [("tickets.ptx", TICKETS)];
    let arguments = "check tickets.ptx --grid 8 --block 1 --arg out:u32:8 --arg zero:4";
    let (code, out, _) = command("order", &files, arguments);
    assert_eq!(code, 1);
    says(
        &out,
        &[
            "result depends on order: argument 0, out: element ",
            "    or  hadal-emulator run",
            "1 finding in 20",
        ],
    );
    let (code, out, _) = command("order-json", &files, &format!("{arguments} --json"));
    assert_eq!(code, 1);
    says(&out, &["\"class\": \"result depends on order\""]);
}

/// Block 0 waits for a word of block 1.
const WAITS: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry waits(.param .u64 flag)
{
    .reg .b32 %block, %v;
    .reg .b64 %flag;
    .reg .pred %p;
    ld.param.u64 %flag, [flag];
    mov.u32 %block, %ctaid.x;
    setp.ne.u32 %p, %block, 0;
    @%p st.release.gpu.global.u32 [%flag], 1;
    @%p ret;
again:
    ld.acquire.gpu.global.u32 %v, [%flag];
    setp.eq.u32 %p, %v, 0;
    @%p bra again;
    ret;
}
";

#[test]
fn residency_can_be_cut() {
    let arguments = "check waits.ptx --grid 2 --block 1 --arg zero:u32:1 --seeds 2";
    let files = [("waits.ptx", WAITS)];
    let (code, out, _) = command("resident", &files, arguments);
    assert_eq!((code, out.as_str()), (0, "no findings in 2 schedules\n"));
    let (code, out, _) = command("resident-1", &files, &format!("{arguments} --resident 1"));
    assert_eq!(code, 1);
    says(&out, &["deadlock", "every warp only polls", "--resident 1 --schedule random"]);
}

#[test]
fn advice_is_shown_and_is_no_finding() {
    let volatile = WAITS
        .replace("release.gpu", "volatile")
        .replace("acquire.gpu", "volatile")
        .replace("    ret;\n}", "    ld.global.u32 %v, [%flag+4];\n    ret;\n}");
    let volatile = volatile.replace("    @%p st.", "    @%p st.global.u32 [%flag+4], 7;\n    @%p st.");
    let arguments = "check waits.ptx --grid 2 --block 1 --arg zero:u32:2 --seeds 3";
    let files = [("waits.ptx", volatile.as_str())];
    let (code, out, _) = command("advice", &files, arguments);
    assert_eq!(code, 0);
    let parties = ["ld.global.u32 %v, [%flag+4];", "block (1,0,0) warp 0 lanes 0 at waits.ptx:"];
    says(
        &out,
        &["advice: data race", "in  waits", "st.global.u32 [%flag+4], 7;", "no findings in 3 schedules"],
    );
    says(&out, &parties);
    let (code, out, _) = command("advice-json", &files, &format!("{arguments} --json"));
    assert_eq!(code, 0);
    says(&out, &["\"findings\": []", "\"advice\": [{", "\"other\": \"write by block (1,0,0)"]);
    says(&out, &parties);
}

#[test]
fn advice_comes_with_a_schedule_that_shows_it() {
    // Who looks once sees the flag only if the other block came first.
    let glance = WAITS
        .replace("release.gpu", "volatile")
        .replace("acquire.gpu", "volatile")
        .replace("@%p bra again;", "@%p ret;\n    ld.global.u32 %v, [%flag+4];")
        .replace("    @%p st.", "    @%p st.global.u32 [%flag+4], 7;\n    @%p st.");
    let files = [("waits.ptx", glance.as_str())];
    let arguments = "waits.ptx --grid 2 --block 1 --arg zero:u32:2";
    let silent = |seed: &u64| {
        let run = format!("run {arguments} --schedule random --seed {seed}");
        !command("glance-first", &files, &run).1.contains("advice:")
    };
    let seed = (0..50).find(silent).expect("a schedule in which the reader comes first");
    let check = format!("check {arguments} --schedule random --completion latest --seed {seed} --seeds 20");
    let (code, out, _) = command("glance", &files, &check);
    assert_eq!(code, 0);
    let replay = out.split("replay  hadal-emulator ").nth(1).expect("advice").lines().next().unwrap();
    says(&command("glance-again", &files, replay).1, &["advice: data race", replay]);
    let (_, json, _) = command("glance-json", &files, &format!("{check} --json"));
    says(&json, &[&format!("\"replay\": \"hadal-emulator {replay}\"")]);
}

#[test]
fn a_tensor_map_brings_its_buffer() {
    let ptx = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry copy(.param .align 64 .b8 map[128], .param .u64 out)
.reqntid 1, 1, 1
{
    .shared .align 128 .b8 tile[16];
    .shared .align 8 .b64 bar;
    .reg .b32 %v;
    .reg .b64 %map, %to;
    .reg .pred %done;
    mov.u64 %map, map;
    cvta.param.u64 %map, %map;
    mbarrier.init.shared.b64 [bar], 1;
    fence.mbarrier_init.release.cluster;
    fence.proxy.async;
    mbarrier.arrive.expect_tx.shared.b64 _, [bar], 16;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%map, {4, 1}], [bar];
wait:
    mbarrier.try_wait.parity.shared.b64 %done, [bar], 0;
    @!%done bra wait;
    ld.shared.u32 %v, [tile+12];
    ld.param.u64 %to, [out];
    st.global.u32 [%to], %v;
    ret;
}
";
    let arguments = "run copy.ptx --arg map:u32:8x4:4x1:none:buf:u32:0..32 --arg out:u32:1";
    let (code, out, err) = command("map", &[("copy.ptx", ptx)], arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    says(&out, &["       0: 15\n"]);
    let arguments = "run copy.ptx --arg map:u32:8x4:3x1:none:buf:u32:0..32 --arg out:u32:1";
    let (code, _, err) = command("map-bad", &[("copy.ptx", ptx)], arguments);
    assert_eq!(code, 2);
    says(&err, &["argument 0, `map`: tensor map: "]);
}

#[test]
fn what_cannot_be_read_or_run_is_said_with_its_place() {
    let broken = SCALE.replace("mul.f32 %v, %v, %x;", "mul.f32 %v, %v %x;");
    let (code, out, err) = command("broken", &[("k.ptx", &broken)], &format!("check k.ptx {SCALED}"));
    assert_eq!((code, out.as_str()), (2, ""));
    says(&err, &["k.ptx:22:", "| ", "mul.f32 %v, %v %x;"]);
    let unknown = SCALE.replace("mul.f32 %v, %v, %x;", "frobnicate.f32 %v, %v, %x;");
    let (code, _, err) = command("unknown", &[("k.ptx", &unknown)], &format!("run k.ptx {SCALED}"));
    assert_eq!(code, 2);
    says(&err, &["k.ptx:22:", "frobnicate"]);
    // A file that ends anywhere: an answer, never a panic.
    for cut in (0..SCALE.len()).step_by(97) {
        let (code, _, err) = command("cut", &[("k.ptx", &SCALE[..cut])], &format!("run k.ptx {SCALED}"));
        assert!(code == 2 && !err.contains("panicked"), "cut at {cut}: {code} {err}");
    }
    let (code, _, err) = command("missing", &[], "run nowhere.ptx");
    assert_eq!(code, 2);
    says(&err, &["nowhere.ptx: "]);
}

#[test]
fn a_wrong_command_line_is_said_and_nothing_runs() {
    let two = SCALE.to_string() + RACY.split_once("64\n").unwrap().1;
    let files = [("scale.ptx", SCALE), ("two.ptx", two.as_str())];
    for (arguments, expected) in [
        ("run", "which FILE.ptx?"),
        ("check scale.ptx --nonsense", "no option `--nonsense`"),
        ("run scale.ptx --grid", "--grid: a value is missing"),
        ("run scale.ptx --grid 1,2,3,4", "X,Y,Z at most"),
        ("run scale.ptx --block many", "--block: `many` is no number"),
        ("run scale.ptx --schedule fair", "expected round-robin, random, starve or uneven"),
        ("run scale.ptx --device h1000", "no `h1000`"),
        ("run scale.ptx --arg u32:-1", "--arg u32:-1: `-1` is no u32"),
        ("run scale.ptx --arg f33:1", "no kind of argument `f33`"),
        ("run scale.ptx --arg buf:@nowhere.bin", "nowhere.bin: "),
        ("run scale.ptx --arg buf:99999999999999", "a size is a number"),
        ("run scale.ptx --entry other --block 1", "no kernel `other`; there are: scale"),
        ("run scale.ptx", "how many threads?"),
        ("run scale.ptx --block 1 --arg u32:1", "1 arguments given, it takes out (8 bytes), in (8 bytes)"),
        (
            "run scale.ptx --block 1 --arg u32:1 --arg u64:0 --arg f32:0 --arg u32:0",
            "it takes 8 bytes, got 4",
        ),
        ("run scale.ptx --block 2000 --arg u64:1 --arg u64:0 --arg f32:0 --arg u32:0", "launch: "),
        ("run two.ptx", "which kernel? --entry one of: scale, racy"),
    ] {
        let (code, out, err) = command("usage", &files, arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments}: {err}");
        says(&err, &[expected]);
    }
}

#[test]
fn an_endless_kernel_is_stopped() {
    let endless = SCALE.replace("@%outside ret;", "again: bra again;");
    let (code, out, _) =
        command("endless", &[("k.ptx", &endless)], &format!("check k.ptx {SCALED} --limit 10000"));
    assert_eq!(code, 1);
    says(&out, &["instruction limit", "1 finding"]);
}

#[test]
fn memory_out_of_bounds_is_a_finding_with_any_checks() {
    let arguments = "run scale.ptx --block 32 --arg out:f32:4 --arg buf:f32:0*32 --arg f32:1 --arg u32:10";
    for more in ["", " --no-checks"] {
        let (code, out, _) = command("bounds", &[("scale.ptx", SCALE)], &format!("{arguments}{more}"));
        assert_eq!(code, 1);
        says(&out, &["out of bounds", "st.global.f32 [%to], %v;", "replay  hadal-emulator run scale.ptx"]);
    }
}
