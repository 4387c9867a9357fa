//! Logs, traces and the metrics registry.
//!
//! `main` starts the logs ([`start_logs`]) and makes one [`Telemetry`]; engine and HTTP register their own meters in its registry.
//! Every metric exists, at zero, before the first request. Nothing here decides anything.

mod logs;
#[cfg(feature = "otlp")]
pub(crate) mod otlp;
mod trace_context;

use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

pub use logs::{LogFormat, Logs, LostLines, start_logs};
pub(crate) use trace_context::{Hex, Ids, Parent};

/// What a model is, for the labels of `featherlight_model_info`.
#[derive(Debug, Clone, Copy)]
pub struct ModelLabels<'a> {
    /// The name clients use.
    pub model: &'a str,
    /// `model_type` of its config.
    pub architecture: &'a str,
    /// Where it runs: `cpu`, `cuda:0`.
    pub device: &'a str,
    /// What it computes in: `f32`, `bf16` …
    pub dtype: &'a str,
}

/// The registry and the meters that belong to the process as a whole.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Where every metric is registered; `/metrics` gathers from it.
    pub registry: Registry,
    /// 1 while the service is ready.
    pub ready: IntGauge,
    model_info: IntGaugeVec,
}

impl Telemetry {
    /// A registry with `process_*`, `featherlight_ready` and `featherlight_model_info`.
    ///
    /// # Errors
    /// Never in practice: a fresh registry holds none of these names.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let ready = IntGauge::new("featherlight_ready", "1 while the service is ready for photos")?;
        registry.register(Box::new(ready.clone()))?;
        let labels = ["model", "architecture", "device", "dtype"];
        let model_info =
            IntGaugeVec::new(Opts::new("featherlight_model_info", "The models served; always 1"), &labels)?;
        registry.register(Box::new(model_info.clone()))?;
        Ok(Self { registry, ready, model_info })
    }

    /// Shows a served model in `featherlight_model_info`.
    pub fn show_model(&self, labels: ModelLabels<'_>) {
        let ModelLabels { model, architecture, device, dtype } = labels;
        self.model_info.with_label_values(&[model, architecture, device, dtype]).set(1);
    }

    /// Takes a model out of `featherlight_model_info`; one that was not there is none to take out.
    pub fn hide_model(&self, labels: ModelLabels<'_>) {
        let ModelLabels { model, architecture, device, dtype } = labels;
        let _ = self.model_info.remove_label_values(&[model, architecture, device, dtype]);
    }
}
