//! Samples and their distribution.

use std::time::{Duration, Instant};

/// Measured values of one quantity, in its unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Nothing measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a duration in milliseconds.
    pub fn push_ms(&mut self, duration: Duration) {
        self.push(duration.as_secs_f64() * 1e3);
    }

    /// Adds nanoseconds as milliseconds.
    pub fn push_ns(&mut self, nanoseconds: u64) {
        self.push(nanoseconds as f64 / 1e6);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// In ascending order.
    pub fn sorted(&self) -> Vec<f64> {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The smallest value that `share` (0 to 1) of all values do not exceed; 0 without values.
    pub fn quantile(&self, share: f64) -> f64 {
        let values = self.sorted();
        let place = (values.len() as f64 * share).ceil() as usize;
        values.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// The median.
    pub fn p50(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Where the slowest hundredth begins.
    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }
}

/// The time that work takes, and its result.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut samples = Samples::new();
        assert_eq!((samples.p50(), samples.count()), (0.0, 0));
        (1..=100).rev().for_each(|value| samples.push(f64::from(value)));
        assert_eq!((samples.p50(), samples.p99(), samples.quantile(1.0)), (50.0, 99.0, 100.0));
        let mut one = Samples::new();
        one.push_ms(Duration::from_micros(1500));
        assert_eq!((one.p50(), one.p99()), (1.5, 1.5));
    }
}
