//! What a run knows between two steps, beside its tensors: small enough to be read by a person.

use crate::evaluate::Evaluation;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// What tells which epoch was the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BestMetric {
    /// The highest share of photos whose first label is right.
    Top1,
    /// The lowest mean loss.
    Loss,
}

impl BestMetric {
    const NAMES: [(&'static str, Self); 2] = [("top1", Self::Top1), ("loss", Self::Loss)];

    fn of(self, evaluation: &Evaluation) -> f64 {
        match self {
            Self::Top1 => evaluation.top1_accuracy(),
            Self::Loss => evaluation.mean_loss(),
        }
    }

    fn is_better(self, value: f64, than: f64) -> bool {
        match self {
            Self::Top1 => value > than,
            Self::Loss => value < than,
        }
    }
}

impl fmt::Display for BestMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, metric)| metric == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for BestMetric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, metric)| *metric);
        known.ok_or_else(|| {
            format!("`{text}` is no metric that tells the best epoch: it is one of top1, loss")
        })
    }
}

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Counted from 1.
    pub epoch: u64,
    /// What the metric came to.
    #[serde(with = "crate::exact")]
    pub value: f64,
}

/// Where a run stands between two steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps behind us, those included that were left out. With the steps of an epoch this is the place in the data.
    pub step: u64,
    /// Steps that the optimiser made; its moments' bias correction counts these.
    pub optimizer_steps: u32,
    /// What the loss is multiplied by for the backward pass.
    #[serde(with = "crate::exact")]
    pub loss_scale: f64,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since then.
    pub evaluations_since_best: u64,
    /// The epoch, from 1, after which the run ended early.
    pub stopped_early: Option<u64>,
    /// Whether the epoch that the last step ended has not been evaluated, as that failed.
    pub evaluation_due: bool,
}

impl State {
    /// Before the first step.
    pub(super) fn start(loss_scale: f64) -> Self {
        Self {
            step: 0,
            optimizer_steps: 0,
            loss_scale,
            best: None,
            evaluations_since_best: 0,
            stopped_early: None,
            evaluation_due: false,
        }
    }

    /// Notes the evaluation after `epoch` (from 1) and says whether it is the best so far. With `patience`, so many in a row that
    /// are not end the run.
    pub(super) fn judge(
        &mut self,
        epoch: u64,
        evaluation: &Evaluation,
        metric: BestMetric,
        patience: Option<u64>,
    ) -> bool {
        let value = metric.of(evaluation);
        let is_best = self.best.is_none_or(|best| metric.is_better(value, best.value));
        if is_best {
            self.best = Some(Best { epoch, value });
            self.evaluations_since_best = 0;
        } else {
            self.evaluations_since_best += 1;
        }
        if patience.is_some_and(|patience| self.evaluations_since_best >= patience) {
            self.stopped_early = Some(epoch);
        }
        is_best
    }
}

/// Everything that a run goes on from: [`Run::snapshot`](super::Run::snapshot) makes it,
/// [`Run::restore`](super::Run::restore) takes it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The trained parameters as `parameter.NAME`, their moments as `first.NAME` and `second.NAME`, and with a moving average
    /// of the weights that as `average.NAME`.
    pub tensors: HashMap<String, Tensor>,
    /// Where the run stands.
    pub state: State,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(metric: BestMetric, patience: Option<u64>, values: &[(usize, f64)]) -> (Vec<bool>, State) {
        let mut state = State::start(1.0);
        let judge = |(epoch, (top1, loss)): (u64, &(usize, f64))| {
            let evaluation = Evaluation::counted(10, *top1, 10, 10.0 * loss);
            state.judge(epoch, &evaluation, metric, patience)
        };
        let verdicts = (1..).zip(values).map(judge).collect();
        (verdicts, state)
    }

    #[test]
    fn the_best_epoch_is_the_first_with_the_best_value_of_the_metric() {
        let values = [(5, 1.0), (7, 1.2), (7, 0.9), (6, 0.8)];
        let (verdicts, state) = judged(BestMetric::Top1, None, &values);
        assert_eq!(verdicts, [true, true, false, false]);
        assert_eq!(state.best, Some(Best { epoch: 2, value: 0.7 }));
        let (verdicts, state) = judged(BestMetric::Loss, None, &values);
        assert_eq!(verdicts, [true, false, true, true]);
        assert_eq!((state.best.unwrap().epoch, state.stopped_early), (4, None));
    }

    #[test]
    fn patience_counts_evaluations_in_a_row_without_a_new_best() {
        let (_, state) = judged(BestMetric::Top1, Some(2), &[(5, 1.0), (4, 1.0), (6, 1.0), (6, 1.0)]);
        assert_eq!(state.stopped_early, None);
        let (_, state) = judged(BestMetric::Top1, Some(2), &[(5, 1.0), (4, 1.0), (5, 1.0)]);
        assert_eq!(state.stopped_early, Some(3));
    }

    #[test]
    fn a_state_written_down_is_read_back_whole() {
        let (_, state) = judged(BestMetric::Loss, Some(1), &[(5, 0.1 + 0.2), (4, 1.0)]);
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}
