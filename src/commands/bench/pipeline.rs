//! Photos from memory through decode pool, queue and model, as a service runs them.

use super::figures::rounded;
use bytes::Bytes;
use featherlight::engine::{
    BatchLimit, DeviceChoice, Engine, EngineMetrics, EngineSettings, Input, LoadedParts, Ticket, device_names,
};
use featherlight::telemetry::Telemetry;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

/// What is measured.
pub struct Setup {
    /// Photos in one forward pass, at most.
    pub batch_size: usize,
    /// How long.
    pub time: Duration,
}

/// What was measured.
pub struct Figures {
    batch_size: usize,
    photos: u64,
    failed: u64,
    photos_per_second: f64,
    mean_batch: f64,
    decode_ms: f64,
}

/// Runs `photos` round and round, a few batches of them under way at any time.
///
/// # Errors
/// If the engine cannot start, or its device fails.
pub fn measure(
    setup: &Setup,
    parts: LoadedParts<'_>,
    choice: DeviceChoice,
    photos: &[Bytes],
) -> Result<Figures, Box<dyn Error>> {
    let choices = [choice];
    let defaults = EngineSettings::on(&choices);
    let window = 3 * setup.batch_size + defaults.decode_threads;
    let max_batch_size = BatchLimit::Fixed(setup.batch_size);
    let settings = EngineSettings { max_batch_size, max_queue_size: window, ..defaults };
    let metrics = EngineMetrics::register(&Telemetry::new()?.registry)?;
    let engine = Engine::start(settings, device_names(&choices), metrics.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let model = engine.load(parts.on(&choices)).await?;
        let (begin, mut waiting) = (Instant::now(), VecDeque::<Ticket>::with_capacity(window));
        let (mut done, mut failed, mut source) = (0, 0, photos.iter().cycle());
        // The last photos are waited for and counted with their time: the device is busy until then, and a batch that ends with the
        // time must not count as one photo.
        loop {
            while waiting.len() < window
                && begin.elapsed() < setup.time
                && let Some(photo) = source.next()
            {
                let deadline = Instant::now() + Duration::from_secs(24 * 60 * 60);
                waiting.extend(engine.admit(vec![Input::Photo(photo.clone())], &model, deadline)?);
            }
            let Some(first) = waiting.pop_front() else { break };
            failed += u64::from(first.wait().await.is_err());
            done += 1;
        }
        let photos_per_second = done as f64 / begin.elapsed().as_secs_f64();
        let mean = |sum: f64, count: u64| if count == 0 { 0.0 } else { sum / count as f64 };
        let (batches, decodes) = (&metrics.batch_size, &metrics.decode_duration);
        Ok(Figures {
            batch_size: setup.batch_size,
            photos: done,
            failed,
            photos_per_second,
            mean_batch: mean(batches.get_sample_sum(), batches.get_sample_count()),
            decode_ms: 1000.0 * mean(decodes.get_sample_sum(), decodes.get_sample_count()),
        })
    })
}

impl Figures {
    pub fn to_json(&self) -> Value {
        json!({
            "batch_size": self.batch_size,
            "photos": self.photos,
            "failed": self.failed,
            "photos_per_second": rounded(self.photos_per_second),
            "mean_batch": rounded(self.mean_batch),
            "decode_ms": rounded(self.decode_ms),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "decode and engine, batches up to {}: {:.2} photos/s, {:.1} photos a batch, {:.2} ms to decode one, {} of {} failed",
            self.batch_size,
            self.photos_per_second,
            self.mean_batch,
            self.decode_ms,
            self.failed,
            self.photos
        )
    }
}
