//! A histogram as a service counts it, and what can be said of the values that fell into it.

/// Cumulative buckets by their upper bounds, with the sum and the number of all values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// (Upper bound, values up to it), bounds ascending.
    buckets: Vec<(f64, f64)>,
    sum: f64,
    count: f64,
}

impl Histogram {
    /// Buckets in any order; those of one bound are added up.
    pub fn new(buckets: impl IntoIterator<Item = (f64, f64)>, sum: f64, count: f64) -> Self {
        let mut all: Vec<(f64, f64)> = buckets.into_iter().collect();
        all.sort_by(|left, right| left.0.total_cmp(&right.0));
        all.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        Self { buckets: all, sum, count }
    }

    /// What fell into it since it was `before`; `None` where it has lost values: it is another service's, or a new process's.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let earlier = |bound: f64| {
            let found = before.buckets.iter().find(|(known, _)| *known == bound);
            found.map_or(0.0, |(_, count)| *count)
        };
        let buckets: Vec<_> =
            self.buckets.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect();
        let count = self.count - before.count;
        let grown = count >= 0.0 && buckets.iter().all(|(_, count)| *count >= 0.0);
        grown.then_some(Self { buckets, sum: self.sum - before.sum, count })
    }

    /// How many values.
    pub fn count(&self) -> f64 {
        self.count
    }

    /// Their mean, where there are any.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }

    /// The value that `percent` of all do not exceed, as Prometheus' `histogram_quantile` estimates it: values are taken to lie evenly
    /// within their bucket.
    ///
    /// `None` where that says nothing: fewer values than one in the part above it, or a last bucket without an end.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let part = percent / 100.0;
        if self.count * (1.0 - part) < 1.0 - 1e-9 {
            return None;
        }
        let rank = part * self.count;
        let place = self.buckets.iter().position(|(_, count)| *count >= rank)?;
        let (bound, count) = *self.buckets.get(place)?;
        let below = place.checked_sub(1).and_then(|place| self.buckets.get(place));
        let (start, before) = below.copied().unwrap_or((0.0, 0.0));
        let within = count - before;
        if !bound.is_finite() || within <= 0.0 {
            return None;
        }
        Some(start + (bound - start) * (rank - before) / within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 values up to 1, 20 from there to 2, 10 to 4; what is above in the last.
    fn histogram(above: f64) -> Histogram {
        let count = 40.0 + above;
        Histogram::new([(4.0, 40.0), (1.0, 10.0), (f64::INFINITY, count), (2.0, 30.0)], 90.0, count)
    }

    #[test]
    fn percentiles_are_interpolated_within_a_bucket() {
        let found = [10.0, 25.0, 50.0, 75.0, 90.0, 97.5].map(|percent| histogram(0.0).percentile(percent));
        assert_eq!(found, [0.4, 1.0, 1.5, 2.0, 3.2, 3.8].map(Some));
    }

    #[test]
    fn nothing_is_said_beyond_the_last_bound_or_of_too_few_values() {
        assert_eq!(histogram(0.0).percentile(99.0), None, "40 values have no hundredth part");
        assert_eq!(histogram(60.0).percentile(50.0), None, "above 4, and nobody knows how far");
        assert_eq!(histogram(60.0).percentile(40.0), Some(4.0));
        let ten_times = Histogram::new([(1.0, 100.0), (f64::INFINITY, 100.0)], 50.0, 100.0);
        assert_eq!(ten_times.percentile(99.0), Some(0.99));
        assert_eq!(Histogram::default().percentile(50.0), None);
        assert_eq!(Histogram::default().mean(), None);
        assert_eq!(histogram(0.0).mean(), Some(2.25));
    }

    #[test]
    fn a_difference_is_of_the_values_in_between() {
        let before = Histogram::new([(1.0, 10.0), (2.0, 10.0), (f64::INFINITY, 10.0)], 5.0, 10.0);
        let after = Histogram::new([(1.0, 10.0), (2.0, 14.0), (f64::INFINITY, 14.0)], 11.0, 14.0);
        let between = after.since(&before).expect("it grew");
        assert_eq!((between.count(), between.mean()), (4.0, Some(1.5)));
        assert_eq!(between.percentile(50.0), Some(1.5));
        assert_eq!(before.since(&after), None, "a service that was started anew");
        assert_eq!(after.since(&Histogram::default()), Some(after.clone()));
    }
}
