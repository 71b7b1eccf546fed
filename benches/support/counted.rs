//! A criterion measurement that is a count: what an emulator counted is exact, and no time.

use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter};

/// So many of `unit`.
pub struct Counted {
    pub unit: &'static str,
}

impl Measurement for Counted {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {}

    fn end(&self, (): ()) -> f64 {
        0.0
    }

    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Counted {
    /// The whole number: this is the point of counting.
    fn format_value(&self, value: f64) -> String {
        format!("{value:.0} {}", self.unit)
    }

    fn scale_values(&self, _typical: f64, _values: &mut [f64]) -> &'static str {
        self.unit
    }

    fn scale_throughputs(
        &self,
        _typical: f64,
        _throughput: &Throughput,
        _values: &mut [f64],
    ) -> &'static str {
        self.unit
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        self.unit
    }
}
