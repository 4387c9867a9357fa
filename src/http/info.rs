//! `/info`: what is served, where, and within which limits.
//!
//! For people and for clients that adapt to a service; holds nothing secret.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::state::Service;

/// Each device of the service; its batch limit is there once it is warm, its free memory as its thread last saw it.
fn devices(service: &Service) -> Vec<Value> {
    let states = service.engine().devices();
    let choices = service.model().devices.iter();
    let figures = choices.enumerate().map(|(index, choice)| {
        let mut figures = choice.device.to_json();
        figures["dtype"] = json!(choice.precision.name());
        let state = states.get(index);
        if let Some(memory) = state.and_then(|state| state.memory) {
            figures["free_memory"] = json!(memory.free);
        }
        if let Some(limit) = state.and_then(|state| state.max_batch_size) {
            figures["max_batch_size"] = json!(limit);
        }
        figures
    });
    figures.collect()
}

pub(super) async fn info(State(service): State<Service>) -> Json<Value> {
    let (model, settings) = (service.model(), service.settings());
    Json(json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "model": {
            "name": model.name,
            "architecture": model.architecture,
            "labels": &*model.labels,
            "height": model.height,
            "width": model.width,
            "device": model.device(),
            "dtype": model.dtype(),
        },
        "devices": devices(&service),
        "limits": {
            "max_batch_size": settings.engine.max_batch_size,
            "max_queue_size": settings.engine.max_queue_size,
            "max_body_bytes": settings.max_body_bytes,
            "max_pixels": settings.max_pixels,
            "request_timeout_ms": u64::try_from(settings.request_timeout.as_millis()).unwrap_or(u64::MAX),
        },
    }))
}
