//! Operands to be spoiled one by one, and what an error says about them.

use hadal::{DType, Device, Error, Matrix, MatrixMut, Result};

use super::Recorder;

/// A matrix that need not exist.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    /// Index into the devices of the test.
    pub device: usize,
    pub dtype: DType,
    pub address: u64,
    pub shape: [usize; 2],
    pub strides: [usize; 2],
}

impl Operand {
    /// Row-major and without gaps.
    pub fn new(dtype: DType, address: u64, shape: [usize; 2]) -> Operand {
        Operand { device: 0, dtype, address, shape, strides: [shape[1], 1] }
    }

    pub fn strides(self, strides: [usize; 2]) -> Operand {
        Operand { strides, ..self }
    }

    pub fn view<'a>(&self, devices: &[Device]) -> Matrix<'a> {
        // SAFETY: the driver behind these devices never follows an address.
        unsafe { Matrix::from_raw(&devices[self.device], self.dtype, self.address, self.shape, self.strides) }
    }

    pub fn view_mut<'a>(&self, devices: &[Device]) -> MatrixMut<'a> {
        // SAFETY: as above.
        unsafe {
            MatrixMut::from_raw(&devices[self.device], self.dtype, self.address, self.shape, self.strides)
        }
    }
}

/// A recording device, another of its driver and one of another driver.
pub fn recorders() -> (Vec<Device>, std::sync::Arc<Recorder>) {
    let recorder = Recorder::new((9, 0));
    let device = Device::from_driver(recorder.clone(), 0).unwrap();
    let stranger = Device::from_driver(Recorder::new((9, 0)), 0).unwrap();
    (vec![device.clone(), device.sibling(1).unwrap(), stranger], recorder)
}

/// Variant, argument, expected and got of an error about an argument.
pub fn parts(error: &Error) -> (&'static str, &'static str, &str, &str) {
    match error {
        Error::Shape { argument, expected, got } => ("shape", argument, expected, got),
        Error::Stride { argument, expected, got } => ("stride", argument, expected, got),
        Error::Alignment { argument, expected, got } => ("alignment", argument, expected, got),
        Error::Dtype { argument, expected, got } => ("dtype", argument, expected, got),
        Error::Device { argument, expected, got } => ("device", argument, expected, got),
        Error::Overlap { argument, expected, got } => ("overlap", argument, expected, got),
        Error::Workspace { argument, expected, got } => ("workspace", argument, expected, got),
        Error::Bounds { argument, expected, got } => ("bounds", argument, expected, got),
        Error::Value { argument, expected, got } => ("value", argument, expected, got),
        Error::Option { argument, expected, got } => ("option", argument, expected, got),
        Error::DeviceName { argument, expected, got } => ("device name", argument, expected, got),
        other => panic!("not about an argument: {other:?}"),
    }
}

/// Variant and argument of an error about an argument, which says what was expected and what came.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T>) -> (&'static str, &'static str) {
    let error = result.unwrap_err();
    let (variant, argument, expected, got) = parts(&error);
    assert!(!argument.is_empty() && !expected.is_empty() && !got.is_empty(), "{error:?}");
    (variant, argument)
}

/// That a result is an error of this variant about this argument, which says these words.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(
    result: Result<T>,
    variant: &str,
    argument: &str,
    expected: &str,
    got: &str,
) {
    let error = result.unwrap_err();
    let parts = parts(&error);
    assert_eq!((parts.0, parts.1), (variant, argument), "{error}");
    assert!(parts.2.contains(expected), "expected should say {expected:?}: {error}");
    assert!(parts.3.contains(got), "got should say {got:?}: {error}");
    let text = error.to_string();
    assert!(text.contains(argument) && text.contains(parts.2) && text.contains(parts.3), "{text}");
}
