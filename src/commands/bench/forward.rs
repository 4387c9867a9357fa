//! Bare forward passes: no decoding, no queue, one batch after the other.

use super::figures::{Times, rounded};
use featherlight::image::Pixels;
use featherlight::model::{LoadedModel, Photo};
use featherlight::ops::Cores;
use featherlight::randomness::{Purpose, Randomness};
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Passes measured at least, however long one takes.
const LEAST: usize = 3;

/// What was measured at one batch size.
pub struct Figures {
    batch_size: usize,
    photos_per_second: f64,
    times: Times,
}

/// What is measured.
pub struct Setup<'a> {
    pub model: &'a LoadedModel,
    /// Height and width of its photos.
    pub size: (usize, usize),
    /// On the CPU: its cores, which share a pass as they do in an engine.
    pub cores: Option<Arc<Cores>>,
    /// How long.
    pub time: Duration,
}

impl Setup<'_> {
    /// One forward pass.
    pub(super) fn pass(&self, batch: &[Photo<'_>]) -> candle_core::Result<Vec<Vec<f32>>> {
        self.pass_of(batch, |part| self.model.logits(part))
    }

    /// The same, with `logits` for the whole batch or each core's part of it.
    pub(super) fn pass_of<'p>(
        &self,
        batch: &[Photo<'p>],
        logits: impl Fn(&[Photo<'p>]) -> candle_core::Result<Vec<Vec<f32>>> + Sync,
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        match &self.cores {
            Some(cores) => cores.run(batch, logits),
            None => logits(batch),
        }
    }
}

/// Runs batches of `batch_size`, after one that is not counted.
///
/// # Errors
/// candle's.
pub fn measure(setup: &Setup<'_>, batch_size: usize) -> candle_core::Result<Figures> {
    let noise = noise(setup.size)?;
    let batch: Vec<Photo<'_>> = (0..batch_size).map(|_| Photo::Pixels(&noise)).collect();
    setup.pass(&batch)?;
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < LEAST || begin.elapsed() < setup.time {
        let start = Instant::now();
        setup.pass(&batch)?;
        times.push(start.elapsed());
    }
    let photos_per_second = (times.len() * batch_size) as f64 / begin.elapsed().as_secs_f64();
    Ok(Figures { batch_size, photos_per_second, times: Times::new(times) })
}

/// A photo of noise, as the decode pool would hand it on: levels, which travel to the device and become numbers there.
pub(super) fn noise((height, width): (usize, usize)) -> candle_core::Result<Pixels> {
    let mut stream = Randomness::new(0).stream(Purpose::Initialize, 0, 0, 0);
    let levels = (0..3 * height * width).map(|_| stream.below(256) as u8).collect();
    Pixels::new(width, height, levels).map_err(candle_core::Error::wrap)
}

impl Figures {
    pub fn to_json(&self) -> Value {
        json!({
            "batch_size": self.batch_size,
            "photos_per_second": rounded(self.photos_per_second),
            "median_ms": rounded(self.times.percentile(50.0)),
            "p90_ms": rounded(self.times.percentile(90.0)),
            "passes": self.times.count(),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "forward, batch {:>3}: {:>9.2} photos/s, a batch in {:.2} ms (median) or {:.2} ms (p90), {} passes",
            self.batch_size,
            self.photos_per_second,
            self.times.percentile(50.0),
            self.times.percentile(90.0),
            self.times.count()
        )
    }
}
