//! A chart of curves over the steps of a run, as SVG: axes, ticks, a legend with the last values.
//!
//! The page takes the SVG as it is and colours it by its classes, light or dark; `picture` draws the same text as PNG, for
//! which the colours of the light page stand in it as well.

use super::axis::{Axis, precise};
use crate::markup::escaped;
use std::fmt::Write;

/// Size of a chart in its own units, about a CSS pixel each.
pub const WIDTH: f64 = 520.0;
/// See [`WIDTH`].
pub const HEIGHT: f64 = 340.0;
/// Room for the ticks' labels.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 66.0;
const BOTTOM: f64 = 42.0;
/// Corners of a drawn line, at most: as many as there are pixels across, and a file of thousands of steps stays small.
const CORNERS: usize = 500;
/// A curve of no more points than these has a dot for each: evaluations, or the steps of a very short run.
const DOTS: usize = 12;
const DOTS_OF_EVALUATIONS: usize = 40;

/// How a curve looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Single steps, behind the others.
    Faint,
    /// What training says.
    Training,
    /// What validation says.
    Validation,
    /// The second of validation's figures.
    Second,
}

impl Ink {
    fn class(self) -> &'static str {
        match self {
            Self::Faint => "faint",
            Self::Training => "training",
            Self::Validation => "validation",
            Self::Second => "second",
        }
    }

    /// That of the light page.
    fn colour(self) -> &'static str {
        match self {
            Self::Faint => "#a9c9c3",
            Self::Training => "#1f7a6d",
            Self::Validation => "#b4540a",
            Self::Second => "#4a5fc1",
        }
    }
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Its name in the legend; in ASCII, as the pictures' font is.
    pub name: &'static str,
    /// How it looks.
    pub ink: Ink,
    /// Step and value; `None` where the value is no number: the line is broken there.
    pub points: Vec<(f64, Option<f64>)>,
}

/// How the values are written, and which of them the axis shows at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// A number of any size.
    Number,
    /// A part of a whole, in per cent; 100 % is the end of the axis.
    Share,
}

/// One chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What is drawn, in ASCII.
    pub title: &'static str,
    /// The file of the picture.
    pub file: &'static str,
    /// How values are written.
    pub scale: Scale,
    /// The lines, those behind first; lines without a value are left out.
    pub curves: Vec<Curve>,
}

impl Chart {
    /// Whether there is anything to draw.
    pub fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    fn values(&self) -> impl Iterator<Item = (f64, f64)> {
        self.curves
            .iter()
            .flat_map(|curve| &curve.points)
            .filter_map(|(x, y)| y.filter(|y| y.is_finite()).map(|y| (*x, y)))
    }

    /// The chart as an SVG element.
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"curve\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             role=\"img\" aria-label=\"{}\" font-family=\"DejaVu Sans, sans-serif\" font-size=\"13\" fill=\"none\">\n",
            escaped(&self.summary())
        );
        // `write!` to a String cannot fail.
        let _ = writeln!(
            svg,
            "<text class=\"title\" fill=\"#1b2421\" x=\"6\" y=\"18\" font-size=\"15\">{}</text>",
            self.title
        );
        let x = Axis::of_steps(self.values().map(|(x, _)| x));
        let y = match self.scale {
            Scale::Number => Axis::of_values(self.values().map(|(_, y)| y)),
            Scale::Share => Axis::of_shares(self.values().map(|(_, y)| y)),
        };
        let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let down = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        self.axes(&mut svg, (&x, &y), across, down);
        for curve in &self.curves {
            line(&mut svg, curve, across, down);
        }
        self.legend(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    /// The chart in words: the last value of each curve.
    fn summary(&self) -> String {
        let lasts = self.named().filter_map(|curve| {
            let (x, value) = last(curve)?;
            Some(format!("{} {} at step {x}", curve.name, self.written(value)))
        });
        format!("{}: {}", self.title, lasts.collect::<Vec<_>>().join("; "))
    }

    fn named(&self) -> impl Iterator<Item = &Curve> {
        self.curves.iter().filter(|curve| !curve.name.is_empty() && last(curve).is_some())
    }

    fn written(&self, value: f64) -> String {
        match self.scale {
            Scale::Number => precise(value),
            Scale::Share => format!("{:.2} %", 100.0 * value),
        }
    }

    fn axes(
        &self,
        svg: &mut String,
        (x, y): (&Axis, &Axis),
        across: impl Fn(f64) -> f64,
        down: impl Fn(f64) -> f64,
    ) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for &tick in y.ticks() {
            let at = down(tick);
            let label = match self.scale {
                Scale::Number => y.label(tick),
                Scale::Share => format!("{} %", y.label_times(tick, 100.0)),
            };
            let _ = writeln!(
                svg,
                "<path class=\"grid\" stroke=\"#dfe5e2\" d=\"M{LEFT} {at:.1}H{right}\"/>\
                 <text class=\"tick\" fill=\"#5b6763\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 8.0,
                at + 4.5,
            );
        }
        for &tick in x.ticks() {
            let at = across(tick);
            let _ = writeln!(
                svg,
                "<path class=\"axis\" stroke=\"#5b6763\" d=\"M{at:.1} {bottom}v5\"/>\
                 <text class=\"tick\" fill=\"#5b6763\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 18.0,
                x.label(tick),
            );
        }
        let _ = writeln!(
            svg,
            "<path class=\"axis\" stroke=\"#5b6763\" d=\"M{LEFT} {bottom}H{right}\"/>\
             <text class=\"tick\" fill=\"#5b6763\" x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">step</text>",
            HEIGHT - 6.0,
        );
    }

    fn legend(&self, svg: &mut String) {
        let mut at = LEFT;
        for curve in self.named() {
            let Some((_, value)) = last(curve) else { continue };
            let text = format!("{} {}", curve.name, self.written(value));
            let _ = writeln!(
                svg,
                "<path class=\"{class}\" stroke=\"{colour}\" stroke-width=\"3\" d=\"M{at:.1} 42h16\"/>\
                 <text class=\"legend\" fill=\"#1b2421\" x=\"{:.1}\" y=\"46.5\">{text}</text>",
                at + 21.0,
                class = curve.ink.class(),
                colour = curve.ink.colour(),
            );
            // A letter of the widest font is about 0.6 of its size.
            at += 21.0 + 7.9 * text.len() as f64 + 14.0;
        }
    }
}

/// The last value that is a number, and its step.
fn last(curve: &Curve) -> Option<(f64, f64)> {
    curve.points.iter().rev().find_map(|(x, y)| y.filter(|y| y.is_finite()).map(|y| (*x, y)))
}

fn line(svg: &mut String, curve: &Curve, across: impl Fn(f64) -> f64, down: impl Fn(f64) -> f64) {
    let (class, colour) = (curve.ink.class(), curve.ink.colour());
    let width = if curve.ink == Ink::Faint { 1.2 } else { 2.0 };
    let mut path = String::new();
    let mut pen_down = false;
    let mut dots = String::new();
    let few = curve.points.len()
        <= match curve.ink {
            Ink::Faint => 0,
            Ink::Training => DOTS,
            Ink::Validation | Ink::Second => DOTS_OF_EVALUATIONS,
        };
    let points = thinned(&curve.points, CORNERS);
    for (at, (x, y)) in points.iter().enumerate() {
        let Some(y) = y.filter(|y| y.is_finite()) else {
            pen_down = false;
            continue;
        };
        let (x, y) = (across(*x), down(y));
        let _ = write!(path, "{}{x:.1} {y:.1}", if pen_down { 'L' } else { 'M' });
        // A point between two gaps would be seen nowhere.
        let goes_on = points.get(at + 1).is_some_and(|(_, next)| next.is_some_and(f64::is_finite));
        if few || (!pen_down && !goes_on) {
            let _ = write!(
                dots,
                "<circle class=\"{class}\" fill=\"{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"
            );
        }
        pen_down = true;
    }
    let _ = writeln!(
        svg,
        "<path class=\"{class}\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\" d=\"{path}\"/>{dots}"
    );
}

/// At most `most` points that show what all of them would: of each stretch of steps the least and the greatest value.
fn thinned(points: &[(f64, Option<f64>)], most: usize) -> Vec<(f64, Option<f64>)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil((most / 2).max(1));
    let mut kept = Vec::with_capacity(most);
    for points in points.chunks(stretch) {
        let numbers = || {
            points.iter().enumerate().filter_map(|(at, (_, y))| y.filter(|y| y.is_finite()).map(|y| (at, y)))
        };
        let least = numbers().min_by(|a, b| a.1.total_cmp(&b.1));
        let most = numbers().max_by(|a, b| a.1.total_cmp(&b.1));
        match (least, most) {
            (Some((least, _)), Some((most, _))) if least != most => {
                kept.extend([points[least.min(most)], points[least.max(most)]]);
            }
            (Some((only, _)), _) => kept.push(points[only]),
            _ => kept.extend(points.first()),
        }
    }
    kept
}

/// The exponential moving average of the values over about `window` of them, its start not pulled towards zero (as
/// Adam's moments are corrected; TensorBoard smooths so as well). Gaps stay gaps.
pub fn smoothed(points: &[(f64, Option<f64>)], window: f64) -> Vec<(f64, Option<f64>)> {
    let keep = 1.0 - 2.0 / (window + 1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let smooth = |(x, y): &(f64, Option<f64>)| {
        let value = y.filter(|y| y.is_finite()).map(|y| {
            (sum, weight) = (keep * sum + (1.0 - keep) * y, keep * weight + (1.0 - keep));
            sum / weight
        });
        (*x, value)
    };
    points.iter().map(smooth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, Option<f64>)>) -> Chart {
        let curves = vec![Curve { name: "loss", ink: Ink::Training, points }];
        Chart { title: "Loss", file: "loss", scale: Scale::Number, curves }
    }

    #[test]
    fn a_single_point_is_a_dot_within_the_chart() {
        let svg = chart(vec![(1.0, Some(2.5))]).svg();
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
        assert!(svg.contains("loss 2.5 at step 1") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for zero in [0.0, -3.0] {
            let svg = chart(vec![(7.0, Some(zero))]).svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn thousands_of_steps_are_thinned_and_their_peaks_stay() {
        let mut points: Vec<_> =
            (0..20_000).map(|step| (f64::from(step), Some(1.0 + f64::from(step % 7)))).collect();
        points[12_345].1 = Some(99.0);
        points[777].1 = Some(-5.0);
        let thin = thinned(&points, 500);
        assert!(thin.len() <= 500, "{}", thin.len());
        assert!(thin.contains(&(12_345.0, Some(99.0))) && thin.contains(&(777.0, Some(-5.0))));
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
        assert!(chart(points).svg().len() < 12_000);
    }

    #[test]
    fn a_value_that_is_no_number_breaks_the_line() {
        let svg = chart(vec![
            (1.0, Some(2.0)),
            (2.0, Some(f64::NAN)),
            (3.0, None),
            (4.0, Some(1.0)),
            (5.0, Some(1.0)),
        ])
        .svg();
        let path = svg.split("class=\"training\"").nth(1).unwrap();
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert!(!svg.contains("NaN"));
        assert!(chart(vec![(1.0, None), (2.0, Some(f64::INFINITY))]).is_empty());
    }

    #[test]
    fn smoothing_starts_at_the_first_value_and_follows_a_step_slowly() {
        let points: Vec<_> =
            (0..20).map(|step| (f64::from(step), Some(if step < 10 { 4.0 } else { 0.0 }))).collect();
        let smooth = smoothed(&points, 9.0);
        assert!((smooth[0].1.unwrap() - 4.0).abs() < 1e-12 && (smooth[9].1.unwrap() - 4.0).abs() < 1e-12);
        assert!(smooth[10].1.unwrap() > 2.5 && smooth[19].1.unwrap() < 1.0);
    }
}
