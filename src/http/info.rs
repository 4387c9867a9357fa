//! `/info` and `/models`: what is served, where, and within which limits; and a model read anew.
//!
//! For people and for clients that adapt to a service; holds nothing secret.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::auth::Admin;
use super::error::ApiError;
use super::models::Served;
use super::state::Service;
use crate::engine::BatchLimit;

/// Each device of a model; its batch limit is there once it is warm, its free memory as its thread last saw it.
fn devices(service: &Service, served: &Served) -> Vec<Value> {
    let (states, limits) = (service.engine().devices(), served.model.max_batch_sizes());
    let choices = served.info.devices.iter();
    let figures = choices.enumerate().map(|(index, choice)| {
        let mut figures = choice.device.to_json();
        figures["dtype"] = json!(choice.precision.name());
        if let Some(memory) = states.get(index).and_then(|state| state.memory) {
            figures["free_memory"] = json!(memory.free);
        }
        if let Some(limit) = limits.get(index).copied().flatten() {
            figures["max_batch_size"] = json!(limit);
        }
        figures
    });
    figures.collect()
}

/// `GET /info`: the default model, its devices, and the limits of the service.
pub(super) async fn info(State(service): State<Service>) -> Result<Json<Value>, ApiError> {
    let (served, settings) = (service.model(None)?, service.settings());
    let info = &served.info;
    let max_batch_size = match settings.engine.max_batch_size {
        BatchLimit::Fixed(size) => Some(size),
        BatchLimit::Auto => None,
    };
    Ok(Json(json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "model": {
            "name": &*served.name,
            "architecture": info.architecture,
            "labels": &*info.labels,
            "height": info.height,
            "width": info.width,
            "device": info.device(),
            "dtype": info.dtype(),
        },
        "devices": devices(&service, &served),
        "limits": {
            "max_batch_size": max_batch_size,
            "max_queue_size": settings.engine.max_queue_size,
            "max_body_bytes": settings.max_body_bytes,
            "max_pixels": settings.max_pixels,
            "max_photos_per_request": settings.photos_per_request(),
            "request_timeout_ms": u64::try_from(settings.request_timeout.as_millis()).unwrap_or(u64::MAX),
        },
    })))
}

/// `GET /models`: every model served.
pub(super) async fn models(State(service): State<Service>) -> Result<Json<Value>, ApiError> {
    let default = service.model(None)?.name.clone();
    let models = service.models();
    let models = models.iter().map(|served| one(served, served.name == default));
    Ok(Json(json!({ "models": models.collect::<Vec<_>>() })))
}

/// `GET /models/{name}`: one of them, with its labels.
pub(super) async fn model(
    State(service): State<Service>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let served = service.model(Some(&name))?;
    let mut figures = one(&served, service.model(None)?.name == served.name);
    figures["labels"] = json!(&*served.info.labels);
    figures["devices"] = json!(devices(&service, &served));
    Ok(Json(figures))
}

/// `POST /models/{name}/reload`: reads a model anew from its folder. Goes on to its end even if the client leaves.
pub(super) async fn reload(
    _: Admin,
    State(service): State<Service>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let reloading = tokio::spawn({
        let service = service.clone();
        async move { service.reload(&name).await }
    });
    let served = reloading.await.map_err(|_| ApiError::Internal("a reload panicked".to_owned()))??;
    Ok(Json(one(&served, service.model(None)?.name == served.name)))
}

fn one(served: &Served, default: bool) -> Value {
    let info = &served.info;
    json!({
        "name": &*served.name,
        "version": served.version,
        "default": default,
        "ready": true,
        "architecture": info.architecture,
        "labels": info.labels.len(),
        "height": info.height,
        "width": info.width,
        "device": info.device(),
        "dtype": info.dtype(),
    })
}
