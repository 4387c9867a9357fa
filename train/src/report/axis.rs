//! The axis of a chart: which values it spans, where its ticks are and how they are written.

/// Ticks of an axis, about.
const TICKS: f64 = 5.0;

/// A span of values and its ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    from: f64,
    to: f64,
    /// Distance of two ticks.
    step: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// Of step numbers: from 0 to the last, ticks at whole ones.
    pub fn of_steps(values: impl Iterator<Item = f64>) -> Self {
        let to = values.fold(1.0, f64::max);
        Self::new(0.0, to, nice(to / TICKS).max(1.0))
    }

    /// Between round numbers around the values; from zero, unless all are far from it.
    pub fn of_values(values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = bounds(values).unwrap_or((0.0, 1.0));
        let far = most > least && least > 0.5 * most;
        let (from, to) = if far { (least, most) } else { (least.min(0.0), most.max(0.0)) };
        let (from, to) = if to > from { (from, to) } else { (0.0, 1.0) };
        let step = nice((to - from) / TICKS);
        Self::new((from / step).floor() * step, (to / step).ceil() * step, step)
    }

    /// Of parts of a whole: from 0 to 1, or from where it begins to be of interest where all are greater than a half.
    pub fn of_shares(values: impl Iterator<Item = f64>) -> Self {
        let (least, _) = bounds(values).unwrap_or((0.0, 1.0));
        let from = if least > 0.5 { 1.0 - 1.25 * (1.0 - least).max(0.02) } else { 0.0 };
        let step = nice((1.0 - from) / TICKS);
        let places = ((1.0 - from) / step - 1e-9).ceil().max(1.0);
        Self::new(1.0 - places * step, 1.0, step)
    }

    fn new(from: f64, to: f64, step: f64) -> Self {
        let (first, last) = ((from / step - 1e-6).ceil() as i64, (to / step + 1e-6).floor() as i64);
        let ticks = (first..=last).map(|tick| tick as f64 * step).collect();
        Self { from, to, step, ticks }
    }

    /// Where `value` lies: 0 at the beginning of the axis, 1 at its end.
    pub fn place(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }

    /// The values that have a tick.
    pub fn ticks(&self) -> &[f64] {
        &self.ticks
    }

    /// A tick's value in words, with as many places as the distance of two ticks needs.
    pub fn label(&self, value: f64) -> String {
        self.label_times(value, 1.0)
    }

    /// The same of `factor` times the value.
    pub fn label_times(&self, value: f64, factor: f64) -> String {
        let (value, step) = (value * factor, self.step * factor);
        if value.abs() < step / 2.0 {
            return "0".to_owned();
        }
        // 5e-5 rather than 0.00005; 20,000 steps rather than 2e4.
        if step < 0.000_99 || value.abs() >= 1e7 {
            let exponent = value.abs().log10().floor() as i32;
            let digits = (exponent - (step.log10() + 1e-9).floor() as i32).max(0) as usize;
            return format!("{value:.digits$e}");
        }
        let places = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
        format!("{value:.places$}")
    }
}

/// A value as exact as a person wants it: four significant digits.
pub fn precise(value: f64) -> String {
    let magnitude = value.abs();
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if magnitude == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e6).contains(&magnitude) {
        let text = format!("{value:.3e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        format!("{}e{exponent}", trimmed(digits))
    } else {
        let places = (3 - magnitude.log10().floor() as i32).max(0) as usize;
        trimmed(&format!("{value:.places$}"))
    }
}

/// The least and the greatest.
fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (least, most) = bounds.unwrap_or((value, value));
        Some((least.min(value), most.max(value)))
    })
}

/// The next of 1, 2, 5, 10 … that is not below `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks().iter().map(|tick| axis.label(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_without_needless_places() {
        assert_eq!(
            labels(&Axis::of_values([0.3, 2.3].into_iter())),
            ["0", "0.5", "1.0", "1.5", "2.0", "2.5"]
        );
        assert_eq!(labels(&Axis::of_values([2.18, 2.3].into_iter())), ["2.15", "2.20", "2.25", "2.30"]);
        assert_eq!(
            labels(&Axis::of_values([1e-3].into_iter())),
            ["0", "2e-4", "4e-4", "6e-4", "8e-4", "1.0e-3"]
        );
        assert_eq!(labels(&Axis::of_values([700.0].into_iter())), ["0", "200", "400", "600", "800"]);
        assert_eq!(labels(&Axis::of_steps([1.0, 3.0].into_iter())), ["0", "1", "2", "3"]);
        assert_eq!(labels(&Axis::of_steps([1.0].into_iter())), ["0", "1"]);
        assert_eq!(
            labels(&Axis::of_steps([1.0, 20_000.0].into_iter())),
            ["0", "5000", "10000", "15000", "20000"]
        );
    }

    #[test]
    fn shares_near_one_get_the_whole_height_and_end_at_one() {
        let percent = |values: &[f64]| {
            let axis = Axis::of_shares(values.iter().copied());
            axis.ticks().iter().map(|tick| axis.label_times(*tick, 100.0)).collect::<Vec<_>>()
        };
        assert_eq!(percent(&[0.2, 0.9]), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(percent(&[0.96, 0.99]), ["95", "96", "97", "98", "99", "100"]);
        assert_eq!(percent(&[1.0]), ["97.5", "98.0", "98.5", "99.0", "99.5", "100.0"]);
    }

    #[test]
    fn a_value_has_four_digits_at_most() {
        for (value, want) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.123_456, "0.1235"),
            (5e-5, "5e-5"),
            (123_456.7, "123457"),
            (-2.5, "-2.5"),
            (0.000_123_456, "1.235e-4"),
        ] {
            assert_eq!(precise(value), want);
        }
    }
}
