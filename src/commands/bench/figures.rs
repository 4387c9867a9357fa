//! Times → the figures that are reported of them.

use std::time::Duration;

/// Durations of one kind of thing.
#[derive(Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Takes durations in any order.
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that `percent` of all do not exceed, in milliseconds (nearest rank); 0 where there are none.
    pub fn percentile(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        let time = self.0.get(rank.saturating_sub(1)).or(self.0.last());
        time.map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }
}

/// Rounded for a report: the noise of a measurement is larger.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times = Times::new((1..=10).rev().map(Duration::from_millis).collect());
        let figures = [0.0, 50.0, 90.0, 99.0, 100.0].map(|percent| times.percentile(percent));
        assert_eq!(figures, [1.0, 5.0, 9.0, 10.0, 10.0]);
        assert_eq!(Times::default().percentile(50.0), 0.0);
    }
}
