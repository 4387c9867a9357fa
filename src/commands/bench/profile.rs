//! Where the time goes in a forward pass, op by op.

use super::figures::rounded;
use super::forward::noise;
use featherlight::model::{LoadedModel, Photo};
use featherlight::ops::{Profile, profiled};
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, Instant};

/// Passes watched; the shortest is reported, for an interruption only ever adds.
const PASSES: usize = 5;

/// What one watched pass took.
pub struct Figures {
    batch_size: usize,
    whole: Duration,
    profile: Profile,
}

/// Watches a few passes of `batch_size` photos, after one that is not watched.
///
/// # Errors
/// candle's.
pub fn measure(model: &LoadedModel, size: (usize, usize), batch_size: usize) -> candle_core::Result<Figures> {
    let noise = noise(size)?;
    let batch: Vec<Photo<'_>> = (0..batch_size).map(|_| Photo::Pixels(&noise)).collect();
    model.logits(&batch)?;
    let mut shortest = None::<Figures>;
    for _ in 0..PASSES {
        let start = Instant::now();
        let (logits, profile) = profiled(|| model.logits(&batch));
        logits?;
        let whole = start.elapsed();
        if shortest.as_ref().is_none_or(|shortest| whole < shortest.whole) {
            shortest = Some(Figures { batch_size, whole, profile });
        }
    }
    shortest.ok_or_else(|| candle_core::Error::Msg("no pass was watched".to_owned()))
}

impl Figures {
    /// Each op, and what is none: reshapes, concatenations, the way to the device and back.
    fn parts(&self) -> Vec<(&'static str, u64, Duration)> {
        let mut parts = self.profile.ops();
        parts.push(("other", 1, self.whole.saturating_sub(self.profile.total())));
        parts
    }

    pub fn to_json(&self) -> Value {
        self.parts()
            .into_iter()
            .map(|(op, calls, time)| json!({ "op": op, "calls": calls, "ms": rounded(time.as_secs_f64() * 1000.0) }))
            .collect()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.whole.as_secs_f64() * 1000.0;
        write!(f, "a pass of {}, watched op by op: {whole:.2} ms", self.batch_size)?;
        for (op, calls, time) in self.parts() {
            let time = time.as_secs_f64() * 1000.0;
            write!(f, "\n  {op:<14} {calls:>5} calls {time:>10.2} ms {:>5.1} %", 100.0 * time / whole)?;
        }
        Ok(())
    }
}
