//! `/metrics`, and HTTP's own meters.
//!
//! `observe.rs` counts every request here; `classify.rs` the photos it refuses one by one. All label values exist from
//! the start, at zero.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::error::{ApiError, REJECTIONS, STATUSES};
use super::router::ROUTES;
use super::state::Service;

/// Handles of HTTP's metrics.
#[derive(Debug, Clone)]
pub(super) struct HttpMetrics {
    pub(super) received: IntCounterVec,
    pub(super) answered: IntCounterVec,
    pub(super) duration: HistogramVec,
    pub(super) in_flight: IntGauge,
    /// Panics of handlers; the engine counts its own.
    pub(super) panics: IntCounter,
    /// Open ones, by port.
    pub(super) connections: IntGaugeVec,
    /// Closed because the client took too long, by what it took too long for.
    pub(super) timeouts: IntCounterVec,
    rejected: IntCounterVec,
}

/// The values of the label `port`.
pub(super) const PORTS: [&str; 2] = ["public", "admin"];
/// The values of the label `waiting`: what a connection was closed for.
pub(super) const WAITING: [&str; 3] = ["header", "idle", "write"];

/// From one millisecond to the usual request timeout and beyond.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl HttpMetrics {
    /// # Errors
    /// When the registry already holds one of the names.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(counters.clone()))?;
                Ok(counters)
            };
        let received = counters(
            "featherlight_http_requests_received_total",
            "Requests whose head was read, by route",
            &["route"],
        )?;
        let answered = counters(
            "featherlight_http_requests_total",
            "Requests that ended, by route and status; 499: the client left",
            &["route", "status"],
        )?;
        let rejected = counters(
            "featherlight_rejected_total",
            "Requests, or photos of a request, refused before inference, by error code",
            &["reason"],
        )?;
        let options =
            HistogramOpts::new("featherlight_http_request_duration_seconds", "From head to answer, by route")
                .buckets(SECONDS.to_vec());
        let duration = HistogramVec::new(options, &["route"])?;
        registry.register(Box::new(duration.clone()))?;
        let in_flight = IntGauge::new("featherlight_http_requests_in_flight", "Requests being answered")?;
        registry.register(Box::new(in_flight.clone()))?;
        let panics = IntCounter::new(
            "featherlight_http_panics_total",
            "Panics of handlers, each answered with a 500",
        )?;
        registry.register(Box::new(panics.clone()))?;
        let connections = IntGaugeVec::new(
            Opts::new("featherlight_http_connections", "Open connections, by port"),
            &["port"],
        )?;
        registry.register(Box::new(connections.clone()))?;
        let timeouts = counters(
            "featherlight_http_connection_timeouts_total",
            "Connections closed because the client took too long, by what for",
            &["waiting"],
        )?;
        for port in PORTS {
            connections.with_label_values(&[port]);
        }
        for waiting in WAITING {
            timeouts.with_label_values(&[waiting]);
        }
        for route in ROUTES {
            received.with_label_values(&[route]);
            duration.with_label_values(&[route]);
            for status in STATUSES {
                answered.with_label_values(&[route, status.to_string().as_str()]);
            }
        }
        for reason in REJECTIONS {
            rejected.with_label_values(&[reason]);
        }
        Ok(Self { received, answered, duration, in_flight, panics, connections, timeouts, rejected })
    }

    /// Counts a refusal; codes that are none (`not_found`, `internal` …) are not counted here.
    pub(super) fn reject(&self, code: &str) {
        if REJECTIONS.contains(&code) {
            self.rejected.with_label_values(&[code]).inc();
        }
    }
}

pub(super) async fn metrics(State(service): State<Service>) -> Result<Response, ApiError> {
    let telemetry = service.telemetry();
    telemetry.ready.set(i64::from(service.ready()));
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    encoder
        .encode(&telemetry.registry.gather(), &mut text)
        .map_err(|error| ApiError::Internal(format!("the metrics cannot be written: {error}")))?;
    Ok(([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response())
}
