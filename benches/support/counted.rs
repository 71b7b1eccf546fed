//! A criterion measurement that is a count: what an emulator counted is exact, and no time.

use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{Bencher, Criterion, Throughput};

/// How long an answer takes: criterion plans by the clock.
const ANSWER: Duration = Duration::from_millis(1);

/// So many of `unit`.
pub struct Counted {
    unit: &'static str,
}

/// A criterion that counts.
pub fn criterion(unit: &'static str) -> Criterion<Counted> {
    Criterion::default()
        .with_measurement(Counted { unit })
        .warm_up_time(ANSWER)
        .measurement_time(400 * ANSWER)
        .sample_size(10)
        .configure_from_args()
}

/// What was counted is `value`, however often it is asked for.
pub fn answer(bencher: &mut Bencher<'_, Counted>, value: f64) {
    bencher.iter_custom(|times| {
        std::thread::sleep(ANSWER);
        times as f64 * value
    });
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
