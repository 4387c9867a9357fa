//! `/info`: what is served, and within which limits.
//!
//! For people and for clients that adapt to a service; holds nothing secret.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::state::Service;

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
            "device": model.device,
            "dtype": model.dtype,
        },
        "limits": {
            "max_batch_size": settings.engine.max_batch_size,
            "max_queue_size": settings.engine.max_queue_size,
            "max_body_bytes": settings.max_body_bytes,
            "max_pixels": settings.max_pixels,
            "request_timeout_ms": u64::try_from(settings.request_timeout.as_millis()).unwrap_or(u64::MAX),
        },
    }))
}
