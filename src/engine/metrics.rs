//! The engine's meters: handles it updates as photos pass.
//!
//! Registered once by whoever owns the registry (`main`, tests); every label value exists from then on, at zero.
//! Nothing here reads a meter back: decisions are made from the engine's own state.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Handles of all metrics the engine emits; clones share them. Times are in seconds.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    /// Photos admitted and not yet taken by the device.
    pub queue_size: IntGauge,
    /// Time an inferred photo spent waiting, for a decode thread and for the device.
    pub queue_duration: Histogram,
    /// Time one photo's decoding and resizing took.
    pub decode_duration: Histogram,
    /// Time one forward pass took.
    pub inference_duration: Histogram,
    /// Photos in one forward pass.
    pub batch_size: Histogram,
    /// Photos that got scores.
    pub predictions: IntCounter,
    /// Entries given up because the client had gone.
    pub dropped_disconnected: IntCounter,
    /// Entries given up because their deadline had passed.
    pub dropped_deadline: IntCounter,
    /// Panics caught on decode threads.
    pub panics_decode: IntCounter,
    /// Panics caught on the device thread.
    pub panics_inference: IntCounter,
}

/// From a tenth of a millisecond to half a minute, close enough for percentiles between them to be worth something.
const SECONDS: [f64; 27] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0,
];
const BATCH_SIZES: [f64; 12] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0, 256.0];

impl EngineMetrics {
    /// Creates the metrics and registers them under `featherlight_`.
    ///
    /// # Errors
    /// When the registry already holds one of the names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let counters = |name: &str, help: &str, label: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let queue_size =
            IntGauge::new("featherlight_queue_size", "Photos admitted and not yet on the device")?;
        registry.register(Box::new(queue_size.clone()))?;
        let predictions = IntCounter::new("featherlight_predictions_total", "Photos that got scores")?;
        registry.register(Box::new(predictions.clone()))?;
        let options = HistogramOpts::new("featherlight_batch_size", "Photos in one forward pass")
            .buckets(BATCH_SIZES.to_vec());
        let batch_size = Histogram::with_opts(options)?;
        registry.register(Box::new(batch_size.clone()))?;
        let dropped =
            counters("featherlight_dropped_total", "Photos given up before inference, by reason", "reason")?;
        let panics = counters("featherlight_engine_panics_total", "Panics caught, by stage", "stage")?;
        Ok(Self {
            queue_size,
            queue_duration: seconds(
                "featherlight_queue_duration_seconds",
                "Time a photo waited before its forward pass, decoding not counted",
            )?,
            decode_duration: seconds(
                "featherlight_decode_duration_seconds",
                "Time decoding and resizing one photo took",
            )?,
            inference_duration: seconds(
                "featherlight_inference_duration_seconds",
                "Time one forward pass took",
            )?,
            batch_size,
            predictions,
            dropped_disconnected: dropped.with_label_values(&["disconnected"]),
            dropped_deadline: dropped.with_label_values(&["deadline"]),
            panics_decode: panics.with_label_values(&["decode"]),
            panics_inference: panics.with_label_values(&["inference"]),
        })
    }
}
