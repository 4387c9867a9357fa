//! The learning rate of every optimiser step.
//!
//! The trainer asks once a step. The formulas are those of Hugging Face's `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` and
//! `get_constant_schedule_with_warmup`, computed in f64 in the same order of operations, so that a run has the very same
//! learning rates. There is no state: a resumed run asks for the step it is at.

use std::fmt;
use std::str::FromStr;

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// In a straight line to 0 at the last step.
    Linear,
    /// Along half a cosine wave to 0 at the last step.
    Cosine,
    /// Not at all.
    Constant,
}

impl FromStr for Decay {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        match text {
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            "constant" => Ok(Self::Constant),
            _ => Err(ScheduleError::UnknownDecay(text.to_owned())),
        }
    }
}

impl fmt::Display for Decay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::Constant => "constant",
        })
    }
}

/// A schedule that cannot be followed.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ScheduleError {
    /// The name of a scheduler that does not exist here.
    #[error("`{0}` is no scheduler: it is one of linear, cosine, constant")]
    UnknownDecay(String),
    /// A warm-up that is no part of the run.
    #[error("the warm-up ratio is {0}: it must lie between 0 and 1")]
    WarmupRatio(f64),
    /// A learning rate that is negative or not a number.
    #[error("the learning rate is {0}: it must be 0 or more")]
    LearningRate(f64),
}

/// Warm-up from 0 to the peak, then decay to 0, or none.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    decay: Decay,
    peak: f64,
    warmup_steps: u64,
    steps: u64,
}

impl Schedule {
    /// A run of `steps` optimiser steps, of which ⌈`warmup_ratio` · `steps`⌉ climb from 0 to `peak`.
    ///
    /// # Errors
    /// A warm-up ratio outside 0 … 1; a negative or non-finite peak.
    pub fn new(decay: Decay, peak: f64, warmup_ratio: f64, steps: u64) -> Result<Self, ScheduleError> {
        if !(0.0..=1.0).contains(&warmup_ratio) {
            return Err(ScheduleError::WarmupRatio(warmup_ratio));
        }
        if !peak.is_finite() || peak < 0.0 {
            return Err(ScheduleError::LearningRate(peak));
        }
        let warmup_steps = (steps as f64 * warmup_ratio).ceil() as u64;
        Ok(Self { decay, peak, warmup_steps, steps })
    }

    /// The number of steps that climb from 0.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup_steps
    }

    /// The learning rate of optimiser step `step`, counted from 0; past the end of the run 0 where there is a decay.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps.max(1) as f64;
        }
        let decay_steps = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => self.steps.saturating_sub(step) as f64 / decay_steps,
            // The reference's cosine would rise again past the end of the run.
            Decay::Cosine if step >= self.steps => 0.0,
            Decay::Cosine => {
                let progress = (step - self.warmup_steps) as f64 / decay_steps;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn rates(schedule: &Schedule, count: u64) -> Vec<f64> {
        (0..count).map(|step| schedule.learning_rate(step)).collect()
    }

    #[test]
    fn the_learning_rates_of_the_reference_runs_are_met_exactly() {
        let root = std::env::var_os("FEATHERLIGHT_GOLDENS").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens"),
            std::path::PathBuf::from,
        );
        let mut traces = 0;
        for entry in std::fs::read_dir(root).unwrap() {
            let Ok(text) = std::fs::read_to_string(entry.unwrap().path().join("trace.json")) else {
                continue;
            };
            let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
            let expected: Vec<f64> = serde_json::from_value(trace["lr"].clone()).unwrap();
            let peak = expected.iter().copied().fold(0.0, f64::max);
            let warmup_ratio = trace["warmup_ratio"].as_f64().unwrap();
            let steps = trace["steps"].as_u64().unwrap();
            let schedule = Schedule::new(Decay::Linear, peak, warmup_ratio, steps).unwrap();
            assert_eq!(rates(&schedule, steps), expected);
            traces += 1;
        }
        assert!(traces > 0);
    }

    #[test]
    fn cosine_follows_the_reference_formula() {
        // transformers' get_cosine_schedule_with_warmup, 2 of 8 steps of warm-up, learning rate 3e-4.
        let schedule = Schedule::new(Decay::Cosine, 3e-4, 0.25, 8).unwrap();
        let expected = [
            0.0,
            0.00015,
            0.0003,
            0.0002799038105676658,
            0.000225,
            0.00015,
            7.500000000000002e-05,
            2.009618943233419e-05,
        ];
        for (rate, expected) in rates(&schedule, 8).iter().zip(expected) {
            // A cosine may differ in its last bit from one system's library to another's.
            assert!((rate - expected).abs() <= 1e-18, "{rate} {expected}");
        }
    }

    #[test]
    fn the_warm_up_is_rounded_up_and_starts_at_zero() {
        let schedule = Schedule::new(Decay::Linear, 1.0, 0.05, 21).unwrap();
        assert_eq!(schedule.warmup_steps(), 2);
        assert_eq!(rates(&schedule, 3), [0.0, 0.5, 1.0]);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_full_rate() {
        for decay in [Decay::Linear, Decay::Cosine] {
            assert_eq!(Schedule::new(decay, 0.1, 0.0, 10).unwrap().learning_rate(0), 0.1);
        }
    }

    #[test]
    fn the_rate_is_zero_at_and_past_the_end() {
        for decay in [Decay::Linear, Decay::Cosine] {
            let schedule = Schedule::new(decay, 0.1, 0.3, 10).unwrap();
            assert_eq!([10, 11, 20].map(|step| schedule.learning_rate(step)), [0.0; 3]);
        }
    }

    #[test]
    fn a_run_of_no_steps_has_no_rate() {
        assert_eq!(Schedule::new(Decay::Linear, 0.1, 0.5, 0).unwrap().learning_rate(0), 0.0);
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert_eq!(Schedule::new(Decay::Linear, 0.1, 1.5, 8), Err(ScheduleError::WarmupRatio(1.5)));
        assert_eq!(Schedule::new(Decay::Linear, -0.1, 0.5, 8), Err(ScheduleError::LearningRate(-0.1)));
        assert!(Schedule::new(Decay::Linear, f64::NAN, 0.5, 8).is_err());
        assert!("polynomial".parse::<Decay>().unwrap_err().to_string().contains("linear, cosine"));
    }
}
