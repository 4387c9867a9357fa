//! Where the time goes in a forward pass, op by op.

use super::figures::rounded;
use super::forward::{Setup, noise};
use featherlight::model::Photo;
use featherlight::ops::{Profile, profiled};
use serde_json::{Value, json};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Passes watched; the shortest is reported, for an interruption only ever adds.
const PASSES: usize = 5;

/// What one watched pass took; where the cores share its photos, that of the core that took longest.
pub struct Figures {
    batch_size: usize,
    /// Photos of the core that was watched.
    photos: usize,
    whole: Duration,
    profile: Profile,
}

/// Watches a few passes of `batch_size` photos, after one that is not watched.
///
/// # Errors
/// candle's.
pub fn measure(setup: &Setup<'_>, batch_size: usize) -> candle_core::Result<Figures> {
    let noise = noise(setup.size)?;
    let batch: Vec<Photo<'_>> = (0..batch_size).map(|_| Photo::Pixels(&noise)).collect();
    setup.pass(&batch)?;
    let mut shortest = None::<Figures>;
    for _ in 0..PASSES {
        let parts = Mutex::new(Vec::new());
        setup.pass_of(&batch, |photos| {
            let start = Instant::now();
            let (logits, profile) = profiled(|| setup.model.logits(photos));
            let part = Figures { batch_size, photos: photos.len(), whole: start.elapsed(), profile };
            parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
            logits
        })?;
        let parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(longest) = parts.into_iter().max_by_key(|part| part.whole) else { continue };
        if shortest.as_ref().is_none_or(|shortest| longest.whole < shortest.whole) {
            shortest = Some(longest);
        }
    }
    shortest.ok_or_else(|| candle_core::Error::Msg("no pass was watched".to_owned()))
}

impl Figures {
    pub fn to_json(&self) -> Value {
        self.profile
            .parts(self.whole)
            .into_iter()
            .map(|(op, calls, time)| json!({ "op": op, "photos": self.photos, "calls": calls, "ms": rounded(time.as_secs_f64() * 1000.0) }))
            .collect()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.whole.as_secs_f64() * 1000.0;
        write!(f, "a pass of {}, ", self.batch_size)?;
        if self.photos < self.batch_size {
            write!(f, "of which a core has {}, ", self.photos)?;
        }
        write!(f, "watched op by op: {whole:.2} ms")?;
        for (op, calls, time) in self.profile.parts(self.whole) {
            let time = time.as_secs_f64() * 1000.0;
            write!(f, "\n  {op:<14} {calls:>5} calls {time:>10.2} ms {:>5.1} %", 100.0 * time / whole)?;
        }
        Ok(())
    }
}
