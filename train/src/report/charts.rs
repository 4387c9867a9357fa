//! The charts of a run: which figures of its history are drawn together, and how.

use super::curve::{Chart, Curve, Ink, Scale, smoothed};
use super::history::{EvaluationLine, History, StepLine};

/// Runs with fewer steps are drawn as they are: there is nothing to smooth.
const SMOOTHED_STEPS: usize = 20;

/// The files of all charts that a run may have.
pub(super) const CHARTS: [&str; 4] = ["loss", "accuracy", "learning_rate", "gradient_norm"];

/// Loss, accuracy, learning rate and gradient norm; those of which nothing is known are left out.
pub(super) fn charts(history: &History) -> Vec<Chart> {
    let steps = |figure: fn(&StepLine) -> Option<f64>| {
        history.steps.iter().map(|line| (line.step as f64, figure(line))).collect::<Vec<_>>()
    };
    let evaluations = |figure: fn(&EvaluationLine) -> Option<f64>| {
        history.evaluations.iter().map(|line| (line.step as f64, figure(line))).collect::<Vec<_>>()
    };
    let curve = |name, ink, points| Curve { name, ink, points };
    let beside_its_mean = |name: &'static str, points: Vec<(f64, Option<f64>)>| {
        if points.len() < SMOOTHED_STEPS {
            return vec![curve(name, Ink::Training, points)];
        }
        // A fiftieth of the run: the noise of single steps goes, what an epoch does stays.
        let mean = smoothed(&points, (points.len() as f64 / 50.0).max(5.0));
        vec![curve("", Ink::Faint, points), curve(name, Ink::Training, mean)]
    };
    let mut loss = beside_its_mean("training", steps(|line| line.loss));
    loss.push(curve("validation", Ink::Validation, evaluations(|line| line.loss)));
    let accuracy = vec![
        curve("top-5", Ink::Second, evaluations(|line| line.top5)),
        curve("top-1", Ink::Validation, evaluations(|line| line.top1)),
    ];
    let learning_rate = vec![curve("learning rate", Ink::Training, steps(|line| line.learning_rate))];
    let chart = |title, file, scale, curves| Chart { title, file, scale, curves };
    let charts = [
        chart("Loss", CHARTS[0], Scale::Number, loss),
        chart("Validation accuracy", CHARTS[1], Scale::Share, accuracy),
        chart("Learning rate", CHARTS[2], Scale::Number, learning_rate),
        chart(
            "Gradient norm before clipping",
            CHARTS[3],
            Scale::Number,
            beside_its_mean("gradient norm", steps(|line| line.grad_norm)),
        ),
    ];
    charts.into_iter().filter(|chart| !chart.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::history::tests::{TWO_EPOCHS, history};

    #[test]
    fn a_run_without_evaluations_has_no_accuracy_and_an_empty_one_no_chart() {
        let titles = |lines: &str| charts(&history(lines)).iter().map(|chart| chart.file).collect::<Vec<_>>();
        assert_eq!(titles(TWO_EPOCHS), ["loss", "accuracy", "learning_rate", "gradient_norm"]);
        let steps: String = TWO_EPOCHS
            .lines()
            .filter(|line| !line.contains("top1"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(titles(&steps), ["loss", "learning_rate", "gradient_norm"]);
        assert!(titles("").is_empty());
    }

    #[test]
    fn many_steps_are_drawn_faint_behind_their_mean() {
        let line = |step| format!("{{\"step\":{step},\"epoch\":{step},\"loss\":1.0,\"lr\":0.1}}\n");
        let curves = |steps| charts(&history(&(1..=steps).map(line).collect::<String>()))[0].curves.len();
        assert_eq!((curves(19), curves(20)), (2, 3));
    }
}
