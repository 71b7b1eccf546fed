//! What the example says to wrong input, and that it takes what it promises to take.

use std::path::PathBuf;

use safetensors::tensor::{Dtype, TensorView};

use super::*;

/// A file of the test's own, gone when it ends.
struct Temporary(PathBuf);

impl Temporary {
    fn path(&self) -> &str {
        self.0.to_str().expect("a path of letters")
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn file(name: &str, bytes: &[u8]) -> Temporary {
    let path = std::env::temp_dir().join(format!("hadal-fp8-linear-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder can be written");
    Temporary(path)
}

/// A safetensors file of `[16, 32]` matrices in three types, and of what is refused.
fn model(name: &str) -> Temporary {
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 64.0;
    let floats: Vec<u8> = (0..512).flat_map(|i| value(i).to_le_bytes()).collect();
    let halves: Vec<u8> = (0..512).flat_map(|i| hadal::f16::from_f32(value(i)).to_le_bytes()).collect();
    let brains: Vec<u8> = (0..512).flat_map(|i| bf16::from_f32(value(i)).to_le_bytes()).collect();
    let nan: Vec<u8> = [f32::NAN; 512].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let tensors = [
        ("float", view(Dtype::F32, &[16, 32], &floats)),
        ("half", view(Dtype::F16, &[16, 32], &halves)),
        ("brain", view(Dtype::BF16, &[16, 32], &brains)),
        ("nan", view(Dtype::F32, &[16, 32], &nan)),
        ("bytes", view(Dtype::U8, &[32, 64], &floats)),
        ("vector", view(Dtype::F32, &[512], &floats)),
        ("odd_n", view(Dtype::F32, &[4, 128], &floats)),
        ("odd_k", view(Dtype::F32, &[64, 8], &floats)),
    ];
    file(name, &safetensors::serialize(tensors, None).unwrap())
}

fn outcome(arguments: &[&str]) -> Result<Summary, Failure> {
    let options = Options::parse(arguments.iter().map(|&a| a.to_owned()))?.expect("not a request for help");
    run(&options, &|_, _| {})
}

/// The message, and whether it is about the command line.
fn refusal(arguments: &[&str]) -> (String, bool) {
    match outcome(arguments) {
        Ok(_) => panic!("{arguments:?} was accepted"),
        Err(Failure::Usage(message)) => (message, true),
        Err(Failure::Failed(message)) => (message, false),
    }
}

#[test]
fn a_wrong_command_line_is_named() {
    for (arguments, named) in [
        (&["--rows", "0"][..], "--rows: expected at least 1, got 0"),
        (&["--rows", "many"], "--rows: expected a whole number, got `many`"),
        (&["--rows"], "--rows takes a value"),
        (&["--seed=-1"], "--seed: expected a whole number"),
        (&["--json=yes"], "--json takes no value"),
        (&["--frobnicate"], "there is no option `--frobnicate`"),
        (&["--tensor", "w"], "--tensor needs --weights"),
        (&["--weights", "w", "--n", "8"], "--n and --k"),
        (&["--device", "gpu"], "--device: expected `cuda`"),
        (&["--n", "12", "--k", "16"], "expected N a multiple of 8"),
        (&["--n", "8", "--k", "24"], "expected K a multiple of 16"),
        (&["--n", "0"], "got N = 0"),
        (&["--n", "99999999", "--k", "99999999"], "elements"),
    ] {
        let (message, usage) = refusal(arguments);
        assert!(message.contains(named) && usage, "{arguments:?}: {message}");
    }
}

#[test]
fn a_wrong_file_or_tensor_is_named() {
    let whole = model("refused");
    let bytes = std::fs::read(whole.path()).unwrap();
    let (cut, text) = (file("cut", &bytes[..bytes.len() - 1]), file("text", b"not a model, only words"));
    let [path, cut, text] = [&whole, &cut, &text].map(Temporary::path);
    let folder = std::env::temp_dir();
    for (weights, tensor, named) in [
        ("/no/such/file", "w", "/no/such/file: "),
        (folder.to_str().unwrap(), "w", "got a folder"),
        (text, "w", "not a safetensors file"),
        (cut, "float", "not a safetensors file, or a damaged one"),
        (path, "w", "there is no tensor `w`\nit has 8 tensors:\n  brain  BF16 [16, 32]\n"),
        (path, "vector", "tensor `vector`: expected two dimensions, [N, K], got [512]"),
        (path, "bytes", "tensor `bytes`: expected element type F32, F16 or BF16, got U8"),
        (path, "nan", "tensor `nan`: expected finite numbers, got NaN at [0, 0]"),
        (path, "odd_n", "tensor `odd_n` is [N, K]: expected N a multiple of 8"),
        (path, "odd_k", "tensor `odd_k` is [N, K]: expected K a multiple of 16"),
    ] {
        let (message, usage) = refusal(&["--device", "emulator", "--weights", weights, "--tensor", tensor]);
        assert!(message.contains(named) && !usage, "{tensor} of {weights}: {message}");
    }
    let (message, _) = refusal(&["--device", "emulator", "--weights", path]);
    assert!(message.contains("--tensor NAME") && message.contains("half  F16 [16, 32]"), "{message}");
}

#[test]
fn every_element_type_gives_a_right_result() {
    let model = model("taken");
    let path = model.path();
    for tensor in ["float", "half", "brain"] {
        for rows in ["1", "17"] {
            let arguments = ["--device", "emulator", "--weights", path, "--tensor", tensor, "--rows", rows];
            let summary = outcome(&arguments).unwrap_or_else(|failure| panic!("{tensor}: {failure:?}"));
            assert_eq!([summary.n, summary.k], [16, 32]);
            assert!(summary.diff_quantized < 1e-5 && summary.instructions > Some(0), "{tensor}");
        }
    }
}

#[test]
fn the_object_has_its_keys() {
    let summary = outcome(&["--device", "emulator", "--n", "72", "--k", "144", "--rows", "65"]).unwrap();
    let object = serde_json::to_value(&summary).unwrap();
    let keys = "device kernel m n k diff_unquantized diff_quantized checks instructions seconds";
    assert!(keys.split(' ').all(|key| object.get(key).is_some_and(|value| !value.is_null())), "{object}");
    assert_eq!(object.as_object().unwrap().len(), 10);
}
